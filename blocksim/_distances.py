"""What a fit minimises: the distance of spike trains, and the sums that potentials are compared by.

Owns the sums of (19), composed of a backend's methods, and those of (26). A backend may have faster versions
(`Backend.fast`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from blocksim.arrays import Array
from blocksim.backend import Backend


def composed(
    backend: Backend,
    spikes: Array,
    target: Array,
    columns: Array,
    decay: float,
    first: int,
    stops: np.ndarray,
    gradient: bool,
) -> tuple[Array, Array, Array | None]:
    """Squared difference of filtered trains, the sum of (19), in two parts of time, and the filter back of (19).

    With y of (18) for x = S - S* from step `first` on, and no differences before it: `before` is the sum of y^2 over
    the steps first .. stop - 1, `after` that over the steps from stop on, and the third, if wanted, is z of (19) for
    `before` alone, z[t] = decay z[t + 1] + y[t] for t < stop.

    Parameters: spikes IN (B, T, N) bool; target IN (B, T, C) dtype; columns IN (N,) int64, which target each neuron
    has; stops IN (B,) int64 on the host, first <= stop <= T. Returns before (B, N) float64, after (B, N) float64,
    z (B, T, N) dtype or None.
    """
    x = spikes - target[:, :, columns]
    x[:, :first] = 0
    y = backend.leaky_filter(x, decay)
    squares = (y * y).astype(np.float64)
    before, after = (backend.empty((x.shape[0], x.shape[2]), np.float64) for _ in range(2))
    for sample, stop in enumerate(stops):
        before[sample] = squares[sample, :stop].sum(axis=0)
        after[sample] = squares[sample, stop:].sum(axis=0)
        y[sample, stop:] = 0
    if not gradient:
        return before, after, None
    z = backend.leaky_filter(y, decay, reverse=True)
    z[:, :first] = 0
    return before, after, z


def train_distance(backend: Backend, *arguments: Any) -> tuple[Array, Array, Array | None]:
    """`composed`, by the backend's own version where it has one."""
    return backend.fast(composed)(backend, *arguments)


def potential_sums(x: np.ndarray, y: np.ndarray, counted: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sums over the samples and steps that count of x, x^2 and x y, of each neuron: (3, N) float64.

    x : (B, T, N) float32; y, counted : (B, T, C) float32, of which `columns` (N,) are the neurons'; counted is 0 or 1.
    """
    sums = np.zeros((3, x.shape[2]))
    for of_x, of_y, counts in zip(x, y, counted, strict=True):
        inside = of_x.astype(np.float64) * counts[:, columns]
        sums += inside.sum(axis=0), (inside * of_x).sum(axis=0), (inside * of_y[:, columns]).sum(axis=0)
    return sums
