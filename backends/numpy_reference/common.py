"""What both references share: flushing to zero, and which steps of a block are refractory."""

from __future__ import annotations

import numpy as np

from blocksim.numerics import tiny


def flush(values: np.ndarray) -> np.ndarray:
    """Values too small to matter set to zero, so that silence never costs denormal arithmetic. In place."""
    values[np.abs(values) < tiny(values.dtype)] = 0
    return values


def live_at_start(left: np.ndarray, length: int) -> np.ndarray:
    """Equation (1) as far as it is known at the start of a block, from the steps left (B, N): (B, L, N) bool."""
    live: np.ndarray = np.arange(length)[None, :, None] >= left[:, None, :]
    return live


def first_crossing(crossing: np.ndarray) -> np.ndarray:
    """Of the steps of a block at which the threshold is crossed, the first: the spikes (B, L, N)."""
    first: np.ndarray = crossing & (np.cumsum(crossing, axis=1) == 1)
    return first


def after_spike(spikes: np.ndarray) -> np.ndarray:
    """The steps of a block that follow its spike: (B, L, N) bool."""
    after: np.ndarray = np.cumsum(spikes, axis=1) - spikes > 0
    return after


def steps_left(refractory: np.ndarray, left: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """Steps still refractory after a block: from the period (N,), the steps left at its start, and its spikes."""
    length = spikes.shape[1]
    since_spike = length - 1 - spikes.argmax(axis=1)
    steps: np.ndarray = np.where(spikes.any(axis=1), refractory - since_spike, np.maximum(left - length, 0))
    return steps.astype(np.int32)
