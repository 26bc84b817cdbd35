"""Spikes found in membrane potentials: by threshold crossing or by rate of rise, with a dead time.

Owns what counts as a spike, and its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from blocksim._validation import choice, instance, milliseconds, number, sweep_array
from blocksim.errors import ArgumentError
from blocksim.trains import SpikeTrains, nearest_steps, steps_that_hold

METHODS = ("threshold", "dvdt")
# between two onsets the potential comes down by this much, in mV
FALL = 5.0


@dataclass(frozen=True)
class Detection:
    """How spikes are found.

    Parameters
    ----------
    method : "threshold" or "dvdt"
        "threshold": a spike is at the first sample at or above `threshold` after one below it. "dvdt": it is where the
        potential begins to rise by at least `dvdt`, taken over 0.1 ms or one sample, if it comes to `threshold` within
        `rise` ms: the onset, a few tenths of a millisecond before it crosses 0 mV.
    threshold : float or None
        In mV. None: 0 mV for "threshold", and for "dvdt", where it is the height that a peak must have, -20 mV.
    dvdt : float
        Rate of rise in mV/ms, for "dvdt".
    dead_time : float
        In ms: what comes less than this after the last spike is part of it, such as noise on the threshold.
    rise : float
        Longest time from onset to `threshold` in ms, for "dvdt".

    Raises
    ------
    ArgumentError
        An unknown method, or a number out of range.

    Notes
    -----
    Small spikes, as of dendrites or bad seals, do not reach 0 mV. The threshold is not lowered behind the caller's
    back: `missed` counts what may have been left out. Source of 20 mV/ms and of the height: the Allen Institute's
    feature extraction, whose height is -30 mV.

    Examples
    --------
    >>> from blocksim.ephys import Detection
    >>> Detection().threshold, Detection("dvdt").threshold
    (0.0, -20.0)
    """

    method: str = "threshold"
    threshold: float | None = None
    dvdt: float = 20.0
    dead_time: float = 1.0
    rise: float = 1.0

    def __post_init__(self) -> None:
        choice("method", self.method, METHODS)
        level = (0.0 if self.method == "threshold" else -20.0) if self.threshold is None else self.threshold
        object.__setattr__(self, "threshold", number("threshold", level, what="a finite potential in mV"))
        number("dvdt", self.dvdt, above=0, what="a rate in mV/ms")
        milliseconds("dead_time", self.dead_time, zero=True)
        milliseconds("rise", self.rise)


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
    instance("detection", detection, Detection, "a blocksim.ephys.Detection or None")
    dt = milliseconds("dt", dt)
    voltage = sweep_array("voltage", voltage, "mV")
    dead = steps_that_hold(detection.dead_time, dt)
    steps = [_alone(_candidates(trace, dt, detection), dead) for trace in np.atleast_2d(voltage)]
    return SpikeTrains.of([found_ * dt for found_ in steps])


def missed(voltage: Any, dt: float, spikes: SpikeTrains, *, dvdt: float = 20.0, height: float = -20.0) -> int:
    """How many fast rises, of at least `dvdt` mV/ms and to above `height` mV, are not among `spikes`.

    If it is not 0, the threshold may be too high for some spikes: see `Detection`.

    Parameters
    ----------
    voltage, dt
        As for `detect_spikes`.
    spikes : SpikeTrains
        One train a sweep.
    dvdt, height : float
        In mV/ms and mV.

    Raises
    ------
    ArgumentError
        The voltage is no finite potential of that shape; dt is not above 0; spikes are not `SpikeTrains` with one train
        for each sweep; or dvdt or height is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import detect_spikes, missed
    >>> voltage = np.full(1000, -70.0)
    >>> voltage[500:510] = -5  # a small spike
    >>> missed(voltage, 0.1, detect_spikes(voltage, 0.1))
    1
    """
    onsets = detect_spikes(voltage, dt, Detection("dvdt", height, dvdt, dead_time=2.0))
    count = 0
    instance("spikes", spikes, SpikeTrains, "SpikeTrains, one train a sweep")
    if len(spikes) != len(onsets):
        raise ArgumentError(f"spikes: expected a train for each of {len(onsets)} sweeps; found {len(spikes)}")
    for onset, known in zip(onsets, spikes, strict=True):
        # a spike's time may lie on either side of where its rise was fast first
        padded = np.concatenate([[-np.inf], known, [np.inf]])
        place = np.searchsorted(known, onset)
        count += int((np.minimum(onset - padded[place], padded[place + 1] - onset) > 3.0).sum())
    return count


def _candidates(trace: np.ndarray, dt: float, detection: Detection) -> np.ndarray:
    """Steps of upward crossings, or onsets, ascending."""
    above = trace >= detection.threshold
    if detection.method == "threshold":
        return np.flatnonzero(above[1:] & ~above[:-1]) + 1
    # where a stretch of fast rise begins; at high sampling rates the difference of neighbours is mostly noise
    span = max(1, nearest_steps(0.1, dt))
    values = trace.astype(np.float64)
    fast = values[span:] - values[:-span] >= detection.dvdt * span * dt
    begins = np.flatnonzero(fast & ~np.concatenate([[False], fast[:-1]]))
    reached = np.append(np.flatnonzero(above), np.iinfo(np.int64).max)
    begins = begins[reached[np.searchsorted(reached, begins)] <= begins + steps_that_hold(detection.rise, dt)]
    # one rise may be fast in several stretches: a new spike comes after the potential has come down from the last
    fresh = begins[:1].tolist()
    for begin in begins[1:]:
        if values[begin] < values[fresh[-1] : begin].max() - FALL:
            fresh.append(int(begin))
    return np.array(fresh, np.int64)


def _alone(steps: np.ndarray, dead: int) -> np.ndarray:
    """Steps without those that come less than `dead` after the last one kept."""
    if dead <= 1 or len(steps) < 2 or np.diff(steps).min() >= dead:
        return steps
    kept = [int(steps[0])]
    for step in steps[1:]:
        if step - kept[-1] >= dead:
            kept.append(int(step))
    return np.array(kept)
