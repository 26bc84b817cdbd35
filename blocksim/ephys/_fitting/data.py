"""What is fitted: the windows of one cell's recording as arrays, with repeats of one current merged.

Owns `FitData`, and which sweeps repeat one current.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blocksim._validation import finite, found, frozen, milliseconds, real_array, whole_number
from blocksim.ephys._recordings.recording import Recording
from blocksim.errors import ArgumentError
from blocksim.trains import checked_window, near_spikes, nearest_steps

# sweeps are repeats of one current if they differ by no more than so much of its standard deviation
SAME_CURRENT = 0.02


@dataclass(frozen=True, eq=False)
class FitData:
    """What is fitted of one cell: windows of time, each simulated from reset at its start.

    Parameters
    ----------
    current : (B, T) array
        Injected current in pA.
    spikes : (B, T) array
        Spikes in each step: counts, or their mean over repeats of the same current.
    dt : float
        Step in ms.
    repeats : (B,) integer array or None
        How many sweeps a window stands for; None for 1.
    voltage : (B, T) array or None
        Recorded potential in mV, if it is to be fitted too.
    near_spike : (B, T) bool array or None
        Where the potential is that of a spike and does not count.
    warm_up : int
        Steps at the start of each window that are simulated and do not count. A window that begins in the middle of a
        recording begins with a wrong state: potential and adaptation are those of a neuron at rest.
    name : str
        For messages.

    Raises
    ------
    ArgumentError
        Shapes do not fit, values are not finite, or there is no spike to fit.

    Notes
    -----
    The distance of one train from each of K repeats, summed, is K times the distance from their mean train, plus a
    number that no parameter changes. So repeats of one current ("frozen noise") are simulated once.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import FitData
    >>> FitData(np.zeros((1, 4)), np.array([[0, 0, 1, 0]]), dt=0.5).repeats
    array([1])
    """

    current: np.ndarray
    spikes: np.ndarray
    dt: float
    repeats: np.ndarray | None = None
    voltage: np.ndarray | None = None
    near_spike: np.ndarray | None = None
    warm_up: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        label = f"{self.name}: " if self.name else ""
        current = real_array("current", self.current)
        if current.ndim != 2 or 0 in current.shape:
            raise ArgumentError(f"{label}current: expected a non-empty array (windows, time); found {found(current)}")
        arrays = {"current": current, "spikes": real_array("spikes", self.spikes)}
        for name in ("voltage", "near_spike"):
            if getattr(self, name) is not None:
                arrays[name] = real_array(name, getattr(self, name))
        for name, array in arrays.items():
            if array.shape != current.shape:
                raise ArgumentError(
                    f"{label}{name}: expected an array of the current's shape {current.shape}; found {array.shape}"
                )
            finite(f"{label}{name}", array)
            kind = np.bool_ if name == "near_spike" else np.float32
            object.__setattr__(self, name, frozen(np.array(array, kind, order="C")))
        object.__setattr__(self, "dt", milliseconds("dt", self.dt))
        warm_up = whole_number("warm_up", self.warm_up, 0)
        if warm_up >= current.shape[1]:
            raise ArgumentError(
                f"{label}warm_up: expected fewer steps than a window's {current.shape[1]}; found {warm_up}"
            )
        repeats = np.ones(len(current), np.int64) if self.repeats is None else np.asarray(self.repeats)
        if repeats.shape != (len(current),) or repeats.dtype.kind not in "iu" or (repeats < 1).any():
            raise ArgumentError(
                f"{label}repeats: expected a whole number above 0 for each of {len(current)} windows; found "
                f"{found(self.repeats)}"
            )
        object.__setattr__(self, "repeats", frozen(repeats.astype(np.int64)))
        if not self.spikes[:, warm_up:].any():
            raise ArgumentError(
                f"{label}expected at least one spike in the training part; found none in {len(current)} windows of "
                f"{(current.shape[1] - warm_up) * self.dt:g} ms (is the detection threshold too high for this cell?)"
            )

    @classmethod
    def of(
        cls, recording: Recording, *, voltage: bool = False, spike_window: tuple[float, float] = (2.0, 8.0),
        warm_up: float = 0.0, merge: bool = True,
    ) -> FitData:  # fmt: skip
        """The data of a recording, every sweep a window.

        Parameters
        ----------
        recording : Recording
            At the time step of the fit: `Recording.at_dt`.
        voltage : bool
            Keep the potential.
        spike_window : (before, after)
            Times in ms around a spike in which the potential does not count.
        warm_up : float
            In ms, as above.
        merge : bool
            Simulate sweeps that repeat one current once, on their mean current: those that differ from the first of
            them by at most 2 % of its standard deviation (root mean square), as measurement noise does.

        Raises
        ------
        ArgumentError
            There is no spike to fit; `warm_up`, or with `voltage` a time of `spike_window`, is below 0.
        """
        counts = recording.spike_counts()
        groups = repeats_of(recording.current) if merge else [[index] for index in range(recording.sweeps)]
        near = None
        if voltage:
            window = checked_window("spike_window", spike_window)
            near = near_spikes(recording.spikes, window, recording.dt, recording.steps)
        return cls(
            current=means_of(recording.current, groups),
            spikes=means_of(counts, groups),
            dt=recording.dt,
            repeats=np.array([len(group) for group in groups]),
            voltage=means_of(recording.voltage, groups) if voltage else None,
            near_spike=None if near is None else np.stack([near[group].any(axis=0) for group in groups]),
            warm_up=nearest_steps(warm_up, recording.dt),
            name=recording.name or recording.source,
        )


def repeats_of(current: np.ndarray) -> list[list[int]]:
    """Groups of sweeps that repeat a current."""
    groups: list[list[int]] = []
    for index, sweep in enumerate(current):
        for group in groups:
            first = current[group[0]]
            if np.sqrt(np.square(sweep - first).mean()) <= SAME_CURRENT * first.std():
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def means_of(traces: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """The mean trace of each group of sweeps, (groups, T)."""
    return np.stack([traces[group].mean(axis=0) for group in groups])
