"""What all backends must agree on to give the same bits: the flush-to-zero limit, and which input counts as spikes."""

from __future__ import annotations

from typing import Any

import numpy as np


def tiny(dtype: Any) -> float:
    """Magnitude below which potentials, adaptations and adjoint variables are set to zero, docs/model.md."""
    return 1e-30 if np.dtype(dtype) == np.float32 else 1e-290


def rise(sigma: np.ndarray) -> np.ndarray:
    """kappa of (28) from the decay of an alpha synapse: its answer to a unit peaks at 1. Of a decay of 0 it is 0."""
    kappa: np.ndarray = -np.e * np.log(np.where(sigma > 0, sigma, 1))
    return kappa.astype(sigma.dtype)


# A row of input with more spikes than this for each input is real-valued: spike counts rise that high by mistake only,
# as where a recording's integers are taken for counts, and their events would take more memory than the array.
MOST_SPIKES = 8


def spike_rows(rows: np.ndarray) -> np.ndarray:
    """Which rows (R, K) hold spike counts: whole numbers >= 0, at most `MOST_SPIKES` an input on average. (R,) bool.

    Spikes are added one at a time, other values are multiplied with their weights; by this rule, of one step of one
    sample, a sum has the same order whatever else is in the batch or in the call.
    """
    if rows.dtype == np.bool_:
        return np.ones(len(rows), np.bool_)
    counts = (rows >= 0) & (rows <= MOST_SPIKES * rows.shape[1])
    if rows.dtype.kind == "f":
        counts &= rows == np.floor(rows)
    spikes: np.ndarray = counts.all(axis=1)
    spikes &= rows.sum(axis=1, dtype=np.float64, where=counts) <= MOST_SPIKES * rows.shape[1]
    return spikes
