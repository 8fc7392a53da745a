"""Linear probes against scikit-learn, and against what their objectives say."""

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.observe.linear import fit_linear


def samples(count: int = 60, width: int = 12, classes: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(3)
    states = drawn.normal(2.0, 3.0, (count, width)) * np.arange(1, width + 1)
    labels = np.concatenate((np.arange(classes), drawn.integers(0, classes, count - classes)))
    return states, labels, drawn.normal(2.0, 3.0, (40, width)) * np.arange(1, width + 1)


@pytest.mark.parametrize("penalty", [0.1, 1.0, 30.0])
def test_logistic_probes_are_those_of_scikit_learn(penalty: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    states, labels, others = samples()
    found = fit_linear("logistic", states, labels, 5, penalty)
    scaled = (states - states.mean(0)) / states.std(0)
    expected = linear_model.LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(scaled, labels)
    probabilities = np.exp(found.scores(others))
    probabilities /= probabilities.sum(1, keepdims=True)
    given = (others - states.mean(0)) / states.std(0)
    np.testing.assert_allclose(probabilities, expected.predict_proba(given), atol=2e-4)
    assert (found.read(others) == expected.predict(given)).all()


@pytest.mark.parametrize("penalty", [0.1, 1.0, 30.0])
def test_ridge_probes_are_those_of_scikit_learn(penalty: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    states, labels, others = samples()
    found = fit_linear("ridge", states, labels, 5, penalty)
    scaled = (states - states.mean(0)) / states.std(0)
    expected = linear_model.Ridge(alpha=penalty).fit(scaled, np.eye(5)[labels])
    given = (others - states.mean(0)) / states.std(0)
    np.testing.assert_allclose(found.scores(others), expected.predict(given), atol=1e-9)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_no_small_change_of_a_probe_lowers_what_it_minimises(kind: str) -> None:
    states, labels, _ = samples()
    probe = fit_linear(kind, states, labels, 5, 0.7)

    def objective(weight: np.ndarray, bias: np.ndarray) -> float:
        total = 0.0
        for state, label in zip(states, labels, strict=True):
            scores = [
                sum((state[d] - probe.shift[d]) / probe.scale[d] * weight[d, k] for d in range(12)) + bias[k]
                for k in range(5)
            ]
            if kind == "ridge":
                total += sum((score - (k == label)) ** 2 for k, score in enumerate(scores))
            else:
                total += np.log(sum(np.exp(scores))) - scores[label]
        return float(total + 0.7 * (weight**2).sum() * (0.5 if kind == "logistic" else 1.0))

    least, drawn = objective(probe.weight, probe.bias), np.random.default_rng(0)
    for _ in range(10):
        weight = probe.weight + 1e-2 * drawn.normal(size=probe.weight.shape)
        assert objective(weight, probe.bias + 1e-2 * drawn.normal(size=5)) > least


def test_a_number_that_never_varies_is_read_past_and_one_that_is_not_finite_refused() -> None:
    states, labels, others = samples()
    probe = fit_linear("logistic", np.column_stack((states, np.full(60, 7.0))), labels, 5, 1.0)
    plain = fit_linear("logistic", states, labels, 5, 1.0)
    given = np.column_stack((others, np.full(40, 7.0)))
    np.testing.assert_allclose(probe.scores(given), plain.scores(others), atol=1e-4)
    states[3, 4] = np.nan
    with pytest.raises(UserError, match="not finite"):
        fit_linear("ridge", states, labels, 5, 1.0)
