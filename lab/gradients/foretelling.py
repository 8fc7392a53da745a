"""Who of some people is right, foretold by regressions that never saw them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lab.observe.linear import fit_linear

if TYPE_CHECKING:
    from lab.observe.fold import Fold

READ, BESIDE = "held_out", "choosing"
LOSS, LENS, OTHER = "the biography's own loss", "the lens at the name", "the lens at another's name"
WITHOUT, ALL = "all but the lens at the name", "all"
# What each is foretold by; of one number alone nothing is fitted.
WITH = {LENS: (LENS,), OTHER: (OTHER,), WITHOUT: (LOSS, OTHER), ALL: (LOSS, OTHER, LENS)}
DIFFERENCES = ((LENS, OTHER), (ALL, WITHOUT))
FOLDS = 5


class Told:
    """What was observed of those read, and what foretells it.

    Attributes:
        lens: [people, attributes, layers, features].
        right, known: [people, attributes]: whether a question is answered; whether there is a loss.
        scores: [people, attributes] by predictor: the greater, the likelier right.
    """

    def __init__(self, read: "Group", beside: "Group", penalty: float) -> None:
        self.lens, self.right, self.known = read.lens, read.right, read.known
        self.scores = {LOSS: -read.loss} | {
            predictor: _weighed(read, beside, penalty, features) for predictor, features in WITH.items()
        }

    @classmethod
    def of(cls, fold: "Fold", penalty: float) -> "Told":
        return cls(Group(fold, READ), Group(fold, BESIDE), penalty)


class Group:
    """What was observed of a group, in the order of its people; see :class:`Told`."""

    def __init__(self, fold: "Fold", group: str) -> None:
        pages = sorted(name for name in fold.done if name.startswith(f"{group}/"))

        def whole(what: str) -> np.ndarray | None:
            each = [fold.mean(f"{page}/{what}").numpy() for page in pages]
            return np.concatenate(each) if each else None

        lens, other, right, loss = (whole(what) for what in ("lens", "other", "right", "loss"))
        self.empty = lens is None
        if lens is None or other is None or right is None or loss is None:
            return
        self.lens, self.other, self.right = lens, other, right > 0
        self.known = np.isfinite(loss)
        self.loss = np.where(self.known, loss, 0.0)

    def features(self, chosen: Sequence[str]) -> np.ndarray:
        """[people, attributes, features], a copy. Of what is known by heart losses differ by powers of ten."""
        logarithm = np.log(np.maximum(self.loss, 1e-12))[..., None]
        each = {LOSS: logarithm, LENS: self.lens, OTHER: self.other}
        return np.concatenate([each[name].reshape(*self.loss.shape, -1) for name in chosen], axis=2)


def _weighed(read: Group, beside: Group, penalty: float, chosen: Sequence[str]) -> np.ndarray:
    """Scores of each person by a logistic regression that never saw them. Features are brought to mean 0 and variance 1
    within each attribute, by those that it is fitted on, so that attributes differ in nothing else."""
    groups = [read] if beside.empty else [read, beside]
    features = np.concatenate([group.features(chosen) for group in groups])
    right, known = (np.concatenate([getattr(group, what) for group in groups]) for what in ("right", "known"))
    found = np.zeros(read.right.shape)
    for part_number in range(FOLDS):
        left_out = np.zeros(len(features), dtype=bool)
        left_out[part_number : len(read.right) : FOLDS] = True
        scaled = features.copy()
        for attribute in range(scaled.shape[1]):
            here = features[~left_out & known[:, attribute], attribute]
            if len(here):
                deviation = here.std(axis=0)
                scale = np.where(deviation > 0, deviation, 1.0)
                scaled[:, attribute] = (features[:, attribute] - here.mean(axis=0)) / scale
        fitted = known & ~left_out[:, None]
        labels = right[fitted].astype(np.int64)
        if len(np.unique(labels)) < 2:
            continue  # all or none of them answered: nothing to learn from
        linear = fit_linear("logistic", scaled[fitted], labels, 2, penalty)
        scores = linear.scores(scaled[left_out].reshape(-1, scaled.shape[2]))
        found[left_out[: len(found)]] = (scores[:, 1] - scores[:, 0]).reshape(-1, scaled.shape[1])
    return found
