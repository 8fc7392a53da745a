"""Linear probes: a class as a linear function of a state, fitted in float64 to the end."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from lab.base.errors import UserError

States = Float64[np.ndarray, "samples width"]
Labels = Int64[np.ndarray, "samples"]


class Linear(NamedTuple):
    """A linear probe of states that are first shifted and scaled: scores are (x - shift) / scale @ weight + bias."""

    shift: Float64[np.ndarray, "width"]
    scale: Float64[np.ndarray, "width"]
    weight: Float64[np.ndarray, "width classes"]
    bias: Float64[np.ndarray, "classes"]

    def scores(self, states: States) -> Float64[np.ndarray, "samples classes"]:
        """Of every class."""
        return (states - self.shift) / self.scale @ self.weight + self.bias

    def read(self, states: States) -> Labels:
        """The class with the highest score."""
        found: Labels = self.scores(states).argmax(axis=1)
        return found


def fit_linear(kind: str, states: States, labels: Labels, classes: int, penalty: float) -> Linear:
    """Fit a probe on states that are first brought to mean 0 and variance 1 (what never varies stays).

    ``logistic`` minimises the sum over samples of -log softmax(scores)[label], plus penalty / 2 times the sum of
    squared weights; ``ridge`` that of squared differences between scores and 1 for the label, 0 for the others. The
    bias is not penalised.

    Raises:
        UserError: a state is not finite.
    """
    if not np.isfinite(states).all():
        raise UserError("a state is not finite: nothing can be read from it; was the run's training stable?")
    shift, deviation = states.mean(axis=0), states.std(axis=0)
    scale = np.where(deviation > 1e-12 * np.abs(shift) + 1e-300, deviation, 1.0)
    x = (states - shift) / scale
    wanted = np.zeros((len(x), classes))
    wanted[np.arange(len(x)), labels] = 1
    if kind == "ridge":
        bias = wanted.mean(axis=0)
        weight = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (wanted - bias))
        return Linear(shift, scale, weight, bias)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = flat[:-classes].reshape(-1, classes), flat[-classes:]
        scores = x @ weight + bias
        of_label = scores[np.arange(len(x)), labels]
        wrong = softmax(scores, axis=1) - wanted
        value = (logsumexp(scores, axis=1) - of_label).sum() + penalty / 2 * np.square(weight).sum()
        return float(value), np.concatenate(((x.T @ wrong + penalty * weight).ravel(), wrong.sum(axis=0)))

    begin = np.zeros((x.shape[1] + 1) * classes)
    options = {"maxiter": 2000, "maxfun": 4000, "gtol": 1e-4, "ftol": 1e-11, "maxcor": 20}
    flat = minimize(loss, begin, jac=True, method="L-BFGS-B", options=options).x
    return Linear(shift, scale, flat[:-classes].reshape(-1, classes), flat[-classes:])
