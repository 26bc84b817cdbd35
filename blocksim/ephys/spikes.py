"""Spikes found in membrane potentials: by threshold crossing or by rate of rise, with a dead time.

Owns what counts as a spike, and its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from blocksim.errors import ArgumentError
from blocksim.trains import SpikeTrains, milliseconds
from blocksim.validation import choice, finite, found, real_array

METHODS = ("threshold", "dvdt")


@dataclass(frozen=True)
class Detection:
    """How spikes are found.

    Parameters
    ----------
    method : "threshold" or "dvdt"
        "threshold": the first sample at or above `threshold` after one below it. "dvdt": the first sample from which
        the potential rises by at least `dvdt`, taken over 0.1 ms or one sample, if it then reaches `threshold` within
        `rise` ms: the onset of the spike, a few tenths of a millisecond before its crossing of 0 mV.
    threshold : float or None
        In mV. None: 0 mV for "threshold", and -20 mV for "dvdt", as in the Allen Institute's feature extraction.
    dvdt : float
        Rate of rise in mV/ms, for "dvdt".
    dead_time : float
        In ms: what crosses less than this after the last spike is part of it, such as noise on the threshold.
    rise : float
        Time in ms from the onset to the threshold, for "dvdt".

    Raises
    ------
    ArgumentError
        An unknown method, or a number out of range.

    Notes
    -----
    Small spikes, as of dendrites, bad seals or uncompensated electrodes, do not reach 0 mV: nothing is lowered
    behind the caller's back, `missed` says how many there may be.
    """

    method: str = "threshold"
    threshold: float | None = None
    dvdt: float = 20.0
    dead_time: float = 1.0
    rise: float = 2.0

    def __post_init__(self) -> None:
        choice("method", self.method, METHODS)
        level = (0.0 if self.method == "threshold" else -20.0) if self.threshold is None else self.threshold
        if not isinstance(level, (int, float, np.number)) or not np.isfinite(level):
            raise ArgumentError(f"threshold: expected a finite potential in mV; found {found(self.threshold)}")
        if not isinstance(self.dvdt, (int, float, np.number)) or not 0 < self.dvdt < np.inf:
            raise ArgumentError(f"dvdt: expected a rate in mV/ms above 0; found {found(self.dvdt)}")
        milliseconds("dead_time", self.dead_time, zero=True)
        milliseconds("rise", self.rise)
        object.__setattr__(self, "threshold", float(level))


def detect_spikes(voltage: Any, dt: float, detection: Detection | None = None) -> SpikeTrains:
    """Find spikes.

    Parameters
    ----------
    voltage : (T,) or (sweeps, T) array
        Membrane potential in mV.
    dt : float
        Sampling interval in ms.
    detection : Detection or None
        How; None: upward crossings of 0 mV, 1 ms of dead time.

    Returns
    -------
    SpikeTrains
        One train a sweep: times in ms of the first sample of each spike, from the start of the sweep.

    Raises
    ------
    ArgumentError
        Not a potential of that shape, or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import Detection, detect_spikes
    >>> voltage = np.array([-70, -60, -20, 10, 30, 5, -5, 1, -60])
    >>> detect_spikes(voltage, dt=0.1)[0]
    array([0.3])
    >>> detect_spikes(voltage, 0.1, Detection(dead_time=0))[0]
    array([0.3, 0.7])
    """
    detection = Detection() if detection is None else detection
    dt = milliseconds("dt", dt)
    voltage = real_array("voltage", voltage)
    if voltage.ndim not in (1, 2) or 0 in voltage.shape:
        raise ArgumentError(f"voltage: expected a non-empty array (T,) or (sweeps, T); found {found(voltage)}")
    finite("voltage", voltage)
    dead = int(np.ceil(detection.dead_time / dt - 1e-6))
    steps = [_alone(_candidates(trace, dt, detection), dead) for trace in np.atleast_2d(voltage)]
    return SpikeTrains.of([found_ * dt for found_ in steps])


def missed(voltage: Any, dt: float, spikes: SpikeTrains, *, dvdt: float = 20.0, peak: float = -20.0) -> int:
    """How many fast rises (of at least `dvdt` mV/ms that come to above `peak` mV) are no spikes of `spikes`.

    Not 0 where the threshold is too high for some spikes: see `Detection`.
    """
    onsets = detect_spikes(voltage, dt, Detection("dvdt", threshold=peak, dvdt=dvdt, rise=2.0, dead_time=2.0))
    count = 0
    for onset, known in zip(onsets, spikes, strict=True):
        after = np.append(known, np.inf)[np.searchsorted(known, onset - dt / 2)]
        count += int((after - onset > 3.0).sum())
    return count


def _candidates(trace: np.ndarray, dt: float, detection: Detection) -> np.ndarray:
    """Steps of upward crossings, or onsets, ascending."""
    above = trace >= detection.threshold
    crossings = np.flatnonzero(above[1:] & ~above[:-1]) + 1
    if detection.method == "threshold" or not crossings.size:
        return crossings
    # onsets: where a stretch of fast rise begins, kept if the next crossing follows soon; at high sampling rates the
    # difference of neighbours is mostly noise
    span = max(1, round(0.1 / dt))
    values = trace.astype(np.float64)
    fast = values[span:] - values[:-span] >= detection.dvdt * span * dt
    begins = np.flatnonzero(fast & ~np.concatenate([[False], fast[:-1]]))
    longest = int(np.ceil(detection.rise / dt))
    last_before = np.concatenate([[-1], crossings[:-1]])
    onsets = []
    for crossing, before in zip(crossings, last_before, strict=True):
        first = np.searchsorted(begins, max(crossing - longest, before))
        if first < len(begins) and begins[first] < crossing:
            onsets.append(begins[first])
    return np.array(onsets, np.int64)


def _alone(steps: np.ndarray, dead: int) -> np.ndarray:
    """Steps without those that come less than `dead` after the last one kept."""
    if dead <= 1 or len(steps) < 2 or np.diff(steps).min() >= dead:
        return steps
    kept = [int(steps[0])]
    for step in steps[1:]:
        if step - kept[-1] >= dead:
            kept.append(int(step))
    return np.array(kept)
