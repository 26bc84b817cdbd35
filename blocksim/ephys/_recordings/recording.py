"""Recordings: injected current, membrane potential and spikes of a cell, and the parts of them that are used.

Owns the `Recording` type: selection of sweeps and stretches of time, splits into training and test, time steps.
"""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blocksim._units import in_unit
from blocksim._validation import frozen, milliseconds, number, sweep_array
from blocksim.ephys._recordings.detection import Detection, detect_spikes
from blocksim.ephys._recordings.plausibility import doubt_in_memory
from blocksim.ephys._recordings.resampling import resample, resampled_steps
from blocksim.errors import ArgumentError, BlocksimWarning
from blocksim.trains import SpikeTrains, nearest_steps

Sweeps = str | int | Sequence[int | str]


@dataclass(frozen=True, eq=False)
class Recording:
    """Sweeps of one cell, all of one length: they are simulated as one batch.

    Parameters
    ----------
    current : (sweeps, T) array
        Injected current in pA; (T,) is one sweep. Kept as float64.
    voltage : (sweeps, T) array
        Membrane potential in mV, likewise.
    sampling_rate : float
        In Hz.
    spikes : SpikeTrains, sequence of arrays of times in ms, Detection or None
        Spikes of each sweep, in ms from its start; a `Detection`, or None for its default, finds them.
    labels : sequence of str
        A name for each sweep; by default its number.
    name : str
        A name for the cell.
    source : str
        Where it comes from: the file's name.

    Raises
    ------
    ArgumentError
        Shapes, rate, spikes or labels do not fit together, or values are not finite. Sweeps of unequal length are
        refused: to cut them or to leave some out changes the result, so the caller decides.

    Warns
    -----
    BlocksimWarning
        The arrays are not like a current in pA and a potential in mV: in volts, in nA, exchanged, or transposed.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import Recording
    >>> voltage = np.full((2, 5000), -65.0)
    >>> voltage[0, 100:105] = 20
    >>> recording = Recording(np.zeros((2, 5000)), voltage, 10_000)
    >>> recording
    Recording(2 sweeps of 500 ms at 10000 Hz, 1 spikes)
    >>> recording.spikes[0], recording.dt
    (array([10.]), 0.1)
    >>> train, test = recording.split(at=400)
    >>> test
    Recording(2 sweeps of 100 ms at 10000 Hz, 0 spikes)
    """

    current: np.ndarray
    voltage: np.ndarray
    sampling_rate: float
    spikes: SpikeTrains = None  # type: ignore[assignment]
    labels: tuple[str, ...] = ()
    name: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        traces = {}
        for argument, unit in (("current", "pA"), ("voltage", "mV")):
            array = sweep_array(argument, getattr(self, argument), unit)
            # an array of our own may be shared between recordings: it is read-only
            own = array.dtype == np.float64 and array.ndim == 2 and not array.flags.writeable
            traces[argument] = array if own else frozen(np.atleast_2d(np.array(array, np.float64)))
        if traces["current"].shape != traces["voltage"].shape:
            raise ArgumentError(
                "current, voltage: expected arrays of the same shape (sweeps, T); found "
                f"{traces['current'].shape} and {traces['voltage'].shape}"
            )
        made_here = any(getattr(self, argument) is not array for argument, array in traces.items())
        if made_here and not self.source and (wrong := doubt_in_memory(traces["current"], traces["voltage"])):
            warnings.warn(f"Recording: {wrong}", BlocksimWarning, stacklevel=4)
        given_rate = in_unit("sampling_rate", self.sampling_rate, "Hz")
        rate = number("sampling_rate", given_rate, above=0, what="a rate in Hz")
        if not 1e-6 <= rate <= 1e12:
            raise ArgumentError(f"sampling_rate: expected a rate from 1e-06 to 1e+12 Hz; found {rate:g}")
        sweeps = len(traces["current"])
        for argument, array in traces.items():
            object.__setattr__(self, argument, array)
        object.__setattr__(self, "sampling_rate", rate)
        given: Any = self.spikes
        if given is None or isinstance(given, Detection):
            spikes = detect_spikes(self.voltage, self.dt, given)
        else:
            spikes = SpikeTrains.of(given)
        if len(spikes) != sweeps:
            raise ArgumentError(f"spikes: expected a train for each of {sweeps} sweeps; found {len(spikes)}")
        # a spike at the very end is allowed: a time can lie anywhere in the last sample
        end = self.duration + 1e-6 * self.dt
        if spikes.times.size and not 0 <= spikes.times.min() <= spikes.times.max() <= end:
            worst = spikes.times.min() if spikes.times.min() < 0 else spikes.times.max()
            raise ArgumentError(f"spikes: expected times from 0 to {self.duration:g} ms; found {worst:g}")
        object.__setattr__(self, "spikes", spikes)
        labels = tuple(str(label) for label in self.labels) or tuple(str(index) for index in range(sweeps))
        if len(labels) != sweeps:
            raise ArgumentError(f"labels: expected a name for each of {sweeps} sweeps; found {len(labels)}")
        object.__setattr__(self, "labels", labels)

    @classmethod
    def from_neo(
        cls,
        source: Any,
        *,
        current: str | int | None = None,
        voltage: str | int | None = None,
        detection: Detection | None = None,
        name: str | None = None,
    ) -> Recording:
        """Make a recording of what Neo holds: each segment is a sweep.

        Parameters
        ----------
        source : neo.Block, neo.Segment, or a sequence of neo.Segment
        current, voltage : str, int or None
            Which signal, by its name, or its number among those in a unit of its kind; None: the only one.
        detection : Detection or None
            How to find spikes; None: those of the segments' spike trains where each has one, else the default.
        name : str or None
            A name for the cell; None: the block's.

        Raises
        ------
        ArgumentError
            There is no such signal, or several; or signals differ in sampling rate, start or length.

        Notes
        -----
        Units are converted. Times are from the start of each segment's signals.
        """
        from blocksim.ephys._recordings.neo import recording_of

        return recording_of(source, current, voltage, detection, name)

    def __repr__(self) -> str:
        named = f"{self.name!r}, " if self.name else ""
        return (
            f"Recording({named}{self.sweeps} sweeps of {self.duration:g} ms at {self.sampling_rate:g} Hz, "
            f"{len(self.spikes.times)} spikes)"
        )

    @property
    def dt(self) -> float:
        """Sampling interval in ms."""
        return 1000.0 / self.sampling_rate

    @property
    def sweeps(self) -> int:
        """Number of sweeps."""
        return int(self.current.shape[0])

    @property
    def steps(self) -> int:
        """Number of samples T of a sweep."""
        return int(self.current.shape[1])

    @property
    def duration(self) -> float:
        """Length of a sweep in ms."""
        return self.steps * self.dt

    def spike_counts(self, collisions: str = "count") -> np.ndarray:
        """Spikes as an array (sweeps, T), for losses: see `SpikeTrains.to_steps` for several spikes in one step.

        Raises
        ------
        ArgumentError
            `collisions` is unknown, or is "error" and two spikes share a step.
        """
        # a time at the very end belongs to the last step
        last = np.nextafter(self.duration - 2e-6 * self.dt, 0)
        trains = SpikeTrains(np.minimum(self.spikes.times, last), self.spikes.offsets)
        return trains.to_steps(self.dt, self.steps, collisions)

    def select(self, sweeps: Sweeps) -> Recording:
        """Some of the sweeps.

        Parameters
        ----------
        sweeps : int, str, or sequence of them
            Numbers of sweeps, from 0; or labels, in which ``*`` and ``?`` are wildcards.

        Raises
        ------
        ArgumentError
            No such sweep; the message lists the labels.
        """
        chosen = choose_sweeps(self.labels, sweeps)
        return replace(
            self,
            current=frozen(self.current[chosen]),
            voltage=frozen(self.voltage[chosen]),
            spikes=self.spikes.take(chosen),
            labels=tuple(self.labels[index] for index in chosen),
        )

    def window(self, start: float, stop: float) -> Recording:
        """The stretch of time from `start` to `stop` in ms, of all sweeps; its time begins at 0.

        Parameters
        ----------
        start, stop : float
            In ms; each is rounded to the nearest sample.

        Raises
        ------
        ArgumentError
            Not within the recording, or empty.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim.ephys import Recording
        >>> recording = Recording(np.zeros(1000), np.full(1000, -70.0), sampling_rate=10_000)
        >>> recording.window(20, 50).duration
        30.0
        """
        start, stop = milliseconds("start", start, zero=True), milliseconds("stop", stop)
        first, last = samples_of(self, "start, stop", start, stop)
        return replace(
            self,
            current=frozen(self.current[:, first:last].copy()),
            voltage=frozen(self.voltage[:, first:last].copy()),
            spikes=self.spikes.window(first * self.dt, last * self.dt + (self.dt if last == self.steps else 0)),
        )

    def split(self, *, at: float | None = None, test_sweeps: Sweeps | None = None) -> tuple[Recording, Recording]:
        """Training and test part.

        Parameters
        ----------
        at : float
            A time in ms: before it is for training, from it on for the test.
        test_sweeps : int, str, or sequence of them
            Sweeps for the test, as for `select`; the others are for training.

        Returns
        -------
        training, test : Recording

        Raises
        ------
        ArgumentError
            Not exactly one of the two is given, or a part would be empty.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim.ephys import Recording
        >>> recording = Recording(np.zeros(1000), np.full(1000, -70.0), sampling_rate=10_000)
        >>> [part.duration for part in recording.split(at=60)]
        [60.0, 40.0]
        """
        if (at is None) == (test_sweeps is None):
            raise ArgumentError("split: expected one of at=MILLISECONDS and test_sweeps=SWEEPS; found both or neither")
        if at is not None:
            return self.window(0, at), self.window(at, self.duration)
        test = choose_sweeps(self.labels, test_sweeps)  # type: ignore[arg-type]
        train = [index for index in range(self.sweeps) if index not in set(test)]
        if not train:
            raise ArgumentError(f"test_sweeps: expected to leave sweeps for training; found all {self.sweeps}")
        return self.select(train), self.select(test)

    def at_dt(self, dt: float) -> Recording:
        """The recording at another time step, in ms: see `resample`.

        Current is averaged over each new step, its charge conserved; where the last step is longer than what is left
        of the sweep, the current continues with 0 pA. The potential is averaged too. Spikes keep their times, all of
        them: `spike_counts` bins them by the new step.

        Raises
        ------
        ArgumentError
            The step is not above 0, or makes too many steps.
        """
        dt = milliseconds("dt", dt)
        if abs(dt - self.dt) <= 1e-12 * self.dt:
            return self
        if resampled_steps(self.steps, self.dt, dt) > 2**31:
            raise ArgumentError(f"dt: expected a step that leaves below 2**31 of them; found {dt:g} ms")
        return replace(
            self,
            current=frozen(resample(self.current, self.dt, dt)),
            voltage=frozen(resample(self.voltage, self.dt, dt, end="mean")),
            sampling_rate=1000.0 / dt,
        )


def samples_of(recording: Recording, argument: str, start: float, stop: float) -> tuple[int, int]:
    """The first sample of a stretch of time, in ms, and the one after its last: each end at the nearest sample.

    Raises
    ------
    ArgumentError
        Not within the recording, or empty; the message begins with `argument`.
    """
    first, last = nearest_steps(start, recording.dt), nearest_steps(stop, recording.dt)
    if not first < last <= recording.steps:
        raise ArgumentError(
            f"{argument}: expected 0 <= start < stop <= {recording.duration:g} ms, a sample ({recording.dt:g} ms) "
            f"apart or more; found {start:g} and {stop:g}"
        )
    return first, last


def choose_sweeps(labels: Sequence[str], sweeps: Sweeps) -> list[int]:
    """Numbers of the sweeps asked for, in the order asked for, each once; see `Recording.select`."""
    items = [sweeps] if isinstance(sweeps, (str, int, np.integer)) else list(sweeps)
    chosen: list[int] = []
    for item in items:
        if isinstance(item, str):
            matching = [index for index, label in enumerate(labels) if label == item]
            matching = matching or [i for i, label in enumerate(labels) if fnmatch.fnmatchcase(label, item)]
        elif isinstance(item, (int, np.integer)) and not isinstance(item, bool) and -len(labels) <= item < len(labels):
            matching = [int(item) % len(labels)]
        else:
            matching = []
        if not matching:
            known = ", ".join(labels[:20]) + (f", ... ({len(labels)})" if len(labels) > 20 else "")
            raise ArgumentError(
                f"sweeps: expected numbers from 0 to {len(labels) - 1}, or labels out of {known}; found {item!r}"
            )
        chosen += [index for index in matching if index not in chosen]
    if not chosen:
        raise ArgumentError("sweeps: expected at least one; found none")
    return chosen
