"""Rotary position embedding (Su et al. 2021) by complex numbers; numpy in float64, no lab code."""

import numpy as np


def rotation(vector: np.ndarray, position: int, base: float = 10_000.0) -> np.ndarray:
    """Turn the pairs (i, i + d/2) of one vector by position * base ** (-2i / d)."""
    half = len(vector) // 2
    pairs = vector[:half] + 1j * vector[half:]
    angles = np.array([position * base ** (-2 * i / len(vector)) for i in range(half)])
    turned = pairs * np.exp(1j * angles)
    return np.concatenate((turned.real, turned.imag))
