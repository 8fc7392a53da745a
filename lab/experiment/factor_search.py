"""Factors of RoPE that are searched on validation documents: LongRoPE's algorithm over a run's decoder.

Every loss is written down as it comes, in a hidden folder beside the run. A search that is begun again asks for the
same candidates in the same order, finds those losses, and goes on behind them.
"""

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.files import discard, make_folder, read_text, refuse_link
from lab.base.interruption import Interruption
from lab.base.progress import progress
from lab.base.tables import Row
from lab.experiment.candidate_losses import Asked, mean, scoring
from lab.experiment.extend_settings import ExtendSettings, SearchSettings
from lab.experiment.needles import with_needle
from lab.extension.evolution import Candidate, Scored, best_of, evolve, on_grid
from lab.extension.longrope import LongRoPE
from lab.extension.rope_rules import NTK, PositionInterpolation, RopeRule, YaRN, rope_rule
from lab.observe.measure import Item
from lab.observe.scoring import ROOMS, digest_of_ids
from lab.runs.environment import digest_of_code, hardware
from lab.runs.identity import digest
from lab.runs.model import Model

COLUMNS = ("generation", "origin", "kept", "loss_nats", "losses", "factors")
RESCORED = 8  # of the best that were screened


def searched(
    parent: Model,
    step: int,
    settings: ExtendSettings,
    rule: LongRoPE,
    documents: Sequence[Item],
    device: str,
    interruption: Interruption,
) -> tuple[LongRoPE, dict[str, Any], list[Row]]:
    """The best factors, how they were found, and all that was tried.

    Args:
        rule: has its context, and says the variant.
        documents: each of one token more than the length, or of more.

    Raises:
        UserError: the log of an earlier, stopped search is damaged.
        Interrupted: on a signal; the same command goes on.
    """
    assert rule.search in ("paper", "code")
    search, evolution, length = settings.search, settings.search.evolution, length_of(settings.search, rule)
    asked = Asked(parent.path, step, device, [each.ids[: length + 1] for each in documents], "float32")
    if search.objective == "needle":
        tokenizer = parent.tokenizer()
        hidden = [with_needle(each, tokenizer, search.needle, number) for number, each in enumerate(asked.documents)]
        asked = asked._replace(documents=[ids for ids, _ in hidden], scored=[scored for _, scored in hidden])
    stretched = length / rule.length
    most = evolution.most(stretched, rule.search)
    seeds = seeds_of(rule, stretched, most, rope_rule(parent.extensions), parent)
    log = Log(_folder(parent, settings, rule, asked, step))
    processes = search.processes or (len(os.sched_getaffinity(0)) if device == "cpu" else 1)
    screened = asked._replace(dtype="float32" if search.screening == "none" else search.screening)
    with (
        scoring(screened, processes) as losses,
        progress("search for factors", "candidates", total=evolution.evaluations) as bar,
    ):

        def losses_of(generation: int, fresh: Sequence[tuple[str, Candidate]], scored: Sequence[Scored]) -> list[float]:
            bounds = None
            if search.early_stopping and len(scored) >= evolution.parents:
                worst = best_of(scored, evolution.parents)[-1]
                bounds = log.losses(*worst.candidate) if math.isfinite(worst.loss) else None
            unknown = [each for each in fresh if log.losses(*each[1]) is None]
            bar.update(len(fresh) - len(unknown))
            found = losses.of([_rule_of(rule, each, search) for _, each in unknown], bounds)
            for (origin, candidate), each in zip(unknown, found, strict=True):
                log.write(generation, origin, candidate, each)
                bar.update()
                interruption.check("came: the same command goes on with the search")
            return [mean(log.losses(*each) or [], len(documents)) for _, each in fresh]

        every = evolve(evolution, rule.search, seeds, most, evolution.starts(rule.length, rule.search), losses_of)
    best = best_of(every, 1)[0]
    if search.screening != "none":
        best = _rescored(best_of(every, RESCORED), asked, processes, rule, search)
    found = _rule_of(rule, best.candidate, search)
    record = {
        "documents": [each.name for each in documents],
        "documents_sha256": [digest_of_ids(each.ids) for each in documents],
        "length_tokens": length,
        "objective": search.objective,
        "evaluations": len(every),
        "loss_nats": best.loss,
    }
    rows: list[Row] = [
        {
            "generation": each.generation,
            "origin": each.origin,
            "kept": each.candidate.kept,
            "loss_nats": each.loss if math.isfinite(each.loss) else None,
            "factors": " ".join(f"{value:g}" for value in each.candidate.factors),
        }
        for each in every
    ]
    log.folder_is_done()
    return found, record, rows


def length_of(search: SearchSettings, rule: RopeRule) -> int:
    """Tokens of each document that are read."""
    return search.length or rule.reached


def temperature_of(search: SearchSettings, rule: LongRoPE) -> float:
    """The attention factor: LongRoPE's code has sqrt(1 + ln s / ln L), called su; YaRN 0.1 ln s + 1."""
    if search.temperature == "none":
        return rule.attention_factors[0] if rule.attention_factors else 1.0
    if search.temperature == "su":
        return math.sqrt(1 + math.log(rule.factor) / math.log(rule.length))
    return 0.1 * math.log(rule.factor) + 1


def _rule_of(rule: LongRoPE, candidate: Candidate, search: SearchSettings) -> LongRoPE:
    factor = temperature_of(search, rule)
    found = {"factors": [candidate.factors], "kept": [candidate.kept] if candidate.kept else []}
    return rule.with_values(search=None, attention_factors=[factor] if factor != 1 else [], **found)


def seeds_of(rule: LongRoPE, stretched: float, most: int, before: RopeRule | None, parent: Model) -> list[Candidate]:
    """What a search begins with: the formulas' factors; of a decoder that was trained with others, also these, in
    proportion.

    Args:
        stretched: the length that is searched for over L.
        before: by which the decoder's RoPE turned in training.
    """
    base, head_dim = float(parent.config.model.position.base), int(parent.config.scale.head_dim)
    kinds: list[RopeRule] = []
    if stretched > 1:
        shape: dict[str, Any] = {
            "ramp": "code" if rule.search == "code" else "paper",
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        }
        kinds = [YaRN(factor=stretched, context=rule.context, **shape)]
        if rule.search == "paper":
            given: dict[str, Any] = {"factor": stretched, "context": rule.context}
            kinds = [PositionInterpolation(**given), NTK(**given), *kinds]
    found = [on_grid(list(each.frequencies(base, head_dim, rule.length).divisors), most) for each in kinds]
    if before is not None and before.by_length == "no":
        divisors = before.frequencies(base, head_dim, rule.length).divisors
        trained = before.reached / before.length
        share = (stretched - 1) / (trained - 1) if trained > 1 else 1.0
        found.append(on_grid(list(1 + (divisors - 1) * share), most))
        found.append(on_grid(list(divisors), most))
    return found or [Candidate((0,) * (head_dim // 2))]


def _rescored(best: Sequence[Scored], asked: Asked, processes: int, rule: LongRoPE, search: SearchSettings) -> Scored:
    """The best of some, scored in float32."""
    with scoring(asked, min(processes, len(best))) as losses:
        found = list(losses.of([_rule_of(rule, each.candidate, search) for each in best]))
    again = [each._replace(loss=mean(loss, len(asked.documents))) for each, loss in zip(best, found, strict=True)]
    return best_of(again, 1)[0]


def _folder(parent: Model, settings: ExtendSettings, rule: LongRoPE, asked: Asked, step: int) -> Path:
    """Of the log; its name stands for all that decides a loss."""
    told = {
        "parent": parent.digest,
        "weights": parent.checkpoint(step).weights_digest(),
        "rule": rule.identity(),
        "search": settings.search.identity(),
        "documents": [digest_of_ids(each) for each in asked.documents],
        "code": digest_of_code(ROOMS),
        "hardware": {name: value for name, value in hardware().items() if name != "threads"},  # always one
        "device": asked.device,
    }
    return parent.path.parent / f".{parent.path.name}.search-{digest(told)[:12]}"


class Log:
    """Candidates and their losses as a file that grows by lines."""

    def __init__(self, folder: Path) -> None:
        refuse_link(folder)
        make_folder(folder)
        self.path = folder / "candidates.csv"
        self._known: dict[tuple[tuple[int, ...], int], list[float]] = {}
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        try:
            text = read_text(self.path)
        except (OSError, ValueError):
            raise UserError(f"{self.path} cannot be read; delete {self.path.parent} and search again") from None
        whole = text[: text.rfind("\n") + 1]  # of a killed process the last line may be half
        for number, row in enumerate(csv.reader(io.StringIO(whole)), 1):
            try:
                _, _, kept, _, losses, steps = row
                place = (tuple(int(each) for each in steps.split()), int(kept))
                self._known[place] = [float(each) for each in losses.split()]
            except ValueError:
                if tuple(row) != COLUMNS:
                    raise UserError(
                        f"{self.path}: line {number} is no candidate; delete {self.path.parent} and search again"
                    ) from None
        if whole != text:
            os.truncate(self.path, len(whole.encode()))

    def losses(self, steps: tuple[int, ...], kept: int) -> list[float] | None:
        """By document; None if it was not scored."""
        return self._known.get((steps, kept))

    def write(self, generation: int, origin: str, candidate: Candidate, losses: list[float]) -> None:
        new = not self.path.exists()
        told = [" ".join(map(repr, losses)), " ".join(map(str, candidate.steps))]
        line = io.StringIO()
        writer = csv.writer(line, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow([generation, origin, candidate.kept, repr(sum(losses) / len(losses)), *told])
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.getvalue())
            file.flush()
            os.fsync(file.fileno())
        self._known[candidate.steps, candidate.kept] = losses

    def folder_is_done(self) -> None:
        """Delete it; what was tried is written with what was found."""
        discard(self.path.parent)
