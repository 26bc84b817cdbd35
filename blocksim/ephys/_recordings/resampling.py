"""Traces brought to another time step: the mean over each new step, so that charge is conserved.

Owns how samples of one step become samples of another, whole ratio or not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from blocksim._validation import choice, finite, found, milliseconds, real_array
from blocksim.errors import ArgumentError
from blocksim.trains import EDGE, steps_that_hold

ENDS = ("zero", "mean")

MAX_STEPS = 2**31 - 1


def resampled_steps(steps: int, dt: float, new_dt: float) -> int:
    """Number of steps of `new_dt` that hold `steps` steps of `dt`, the last one perhaps in part."""
    return max(1, steps_that_hold(steps * dt, new_dt))


def resample(trace: Any, dt: float, new_dt: float, end: str = "zero") -> np.ndarray:
    """Bring traces to another time step.

    A sample holds for its whole step. Each new sample is the mean of the old ones over its own step: the integral of
    the trace, interpolated at the new edges, and its differences. Steps may be shorter or longer, by any ratio.

    Parameters
    ----------
    trace : (..., T) array
        Traces over time.
    dt, new_dt : float
        Steps in ms, before and after.
    end : "zero" or "mean"
        What the last new step holds where the trace ends within it: "zero" continues with zero, so that the integral
        is conserved (a current's charge); "mean" is the mean over the part that is there (a potential).

    Returns
    -------
    (..., ceil(T dt / new_dt)) float64 array

    Raises
    ------
    ArgumentError
        Not finite, empty, or a step that is not above 0.

    Examples
    --------
    >>> from blocksim.ephys import resample
    >>> resample([1.0, 2.0, 3.0, 4.0, 5.0], dt=0.2, new_dt=0.3)
    array([1.333..., 2.666..., 4.333..., 1.666...])
    >>> resample([1.0, 2.0], dt=0.2, new_dt=0.1)
    array([1., 1., 2., 2.])
    """
    dt, new_dt = milliseconds("dt", dt), milliseconds("new_dt", new_dt)
    choice("end", end, ENDS)
    trace = real_array("trace", trace)
    if not trace.ndim or 0 in trace.shape:
        raise ArgumentError(f"trace: expected a non-empty array (..., T); found {found(trace)}")
    finite("trace", trace)
    steps = trace.shape[-1]
    total = resampled_steps(steps, dt, new_dt)
    if total > MAX_STEPS:
        raise ArgumentError(f"new_dt: expected at most {MAX_STEPS} new steps; found {total} of {new_dt:g} ms")
    # edges of the new steps in units of the old; a whole ratio is met without rounding errors
    edges = np.arange(total + 1) * (new_dt / dt)
    near = np.rint(edges)
    edges = np.minimum(np.where(np.abs(edges - near) < EDGE * max(1.0, new_dt / dt), near, edges), steps)
    whole, part = np.floor(edges).astype(np.int64), edges - np.floor(edges)
    inside = np.minimum(whole, steps - 1)
    # subtracting the mean first keeps the digits of a small signal on a large offset
    level = trace.mean(axis=-1, keepdims=True, dtype=np.float64)
    centred = trace - level
    integral = np.concatenate([np.zeros((*trace.shape[:-1], 1)), np.cumsum(centred, axis=-1)], axis=-1)
    at_edges = integral[..., whole] + part * centred[..., inside]
    lengths = np.diff(edges)
    mean = np.diff(at_edges, axis=-1) / lengths + level
    if end == "zero":
        mean[..., -1] *= min(1.0, lengths[-1] / (new_dt / dt))
    result: np.ndarray = mean
    return result
