"""Spike trains as times in ms: the form in which recordings hold spikes and metrics compare them.

Owns the `SpikeTrains` type, and the rules for times: what a stored time stands for, when it falls into a window or a
step, how many steps a length of time is, and which steps are near spikes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from blocksim._libraries import library
from blocksim._units import in_unit
from blocksim._validation import choice, finite, found, frozen, items, milliseconds, number, real_array, whole_number
from blocksim.errors import ArgumentError

# A time this far below an edge, as a fraction of the step, counts as on it: 0.3 ms at dt = 0.1 ms is step 3.
EDGE = 1e-6
# the same in ms, for the ends of windows and trials
TOLERANCE = 1e-9
COLLISIONS = ("count", "merge", "error")
# units in which times are stored: how many ms they are, and the decimals that make a microsecond
UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3}
DECIMALS = {"s": 6, "ms": 3, "us": 0}
# steps beyond are as good as for ever; int64 holds them, and some more
MAX_STEPS = 2**62
# rows, one a step of a sample, that few events may make: 128 MiB of offsets
FREE_ROWS = 2**24
ROWS_AN_EVENT = 1000
# rows that are never made: 16 GiB
MAX_ROWS = 2**31
# Spikes that an array of counts may become: 64 MiB of them, or as many an element, whichever is more. Beyond, they
# would take more memory than the array, and it holds no counts.
FREE_SPIKES = 2**24
SPIKES_A_STEP = 8


def exact_times(times: np.ndarray, unit: str = "ms") -> np.ndarray:
    """The times in ms, float64, that stored numbers stand for; `unit` is theirs, one of `UNITS`.

    Single precision cannot hold 0.3. It is read to the nearest microsecond; where its numbers lie further apart, to the
    decimal with the fewest places that it holds as the same number. Half precision is coarser than a step, and is taken
    as it stands, as are whole numbers and double precision. The byte order does not matter.
    """
    values: np.ndarray = times.astype(np.float64)
    if times.dtype.kind == "f" and times.dtype.itemsize == 4 and times.size:
        places = DECIMALS[unit]
        with np.errstate(invalid="ignore", over="ignore"):
            values = np.round(values, places)
            # from here on numbers lie further apart than a microsecond
            coarse = np.flatnonzero(np.abs(values) >= 2.0**23 / 10**places)
            if coarse.size:
                values[coarse] = _fewest_places(times[coarse].astype(np.float32), places)
    if unit != "ms":
        # 300 us divided by 1000 are 0.3 ms to the last bit
        values = values / 1000 if unit == "us" else values * UNITS[unit]
    return values


def given_times(argument: str, value: Any) -> np.ndarray:
    """Times that a caller hands over, in ms, float64, of any shape: numbers of any precision, byte order or unit.

    Raises `ArgumentError` where they are no numbers, or none of a time.
    """
    value = in_unit(argument, value, "ms")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of several lengths
        array = np.asarray(None)
    if array.size and array.dtype.kind not in "iuf":
        raise ArgumentError(f"{argument}: expected times in ms; found {found(value)}")
    return exact_times(array) if array.size else np.zeros(array.shape)


def _fewest_places(values: np.ndarray, most: int) -> np.ndarray:
    """For each float32 the decimal of the fewest places, `most` at most, that rounds to it."""
    exact = values.astype(np.float64)
    result, left = exact.copy(), np.arange(len(values))
    for places in range(most + 1):
        rounded = np.round(exact[left], places)
        same = rounded.astype(np.float32) == values[left]
        result[left[same]] = rounded[same]
        left = left[~same]
        if not left.size:
            break
    return result


def steps_of(times: np.ndarray, dt: float) -> np.ndarray:
    """The step, int64, into which each time in ms falls: floor(t / dt), with `EDGE` steps of tolerance.

    Times are finite; steps end at +-2**62.
    """
    if times.dtype != np.float64:
        times = exact_times(times)
    with np.errstate(over="ignore"):
        steps = np.floor(times / dt + EDGE)
    if steps.size and not -MAX_STEPS <= steps.min() <= steps.max() <= MAX_STEPS:
        steps = np.clip(steps, -MAX_STEPS, MAX_STEPS)
    return steps.astype(np.int64)


def nearest_steps(duration: float, dt: float) -> int:
    """The number of steps nearest to a length of time, both in ms; of two that are as near in floats, the even one.

    So windows, parts and periods are rounded, as `steps_of_ms(..., "nearest")` does for neurons.
    """
    return round(duration / dt)


def steps_that_hold(duration: float, dt: float) -> int:
    """The number of steps that hold a length of time, both in ms, the last one perhaps in part.

    Up to `EDGE` steps more than a whole number are that number: 2.1 ms at dt = 0.3 ms, 7.000000000000001 steps, are 7.
    """
    return int(np.ceil(duration / dt - EDGE))


def plausible_rows(rows: int, events: int) -> bool:
    """Whether that many steps, of all samples together, may be laid out for so many events.

    One stray time stamp would otherwise take all memory: a step takes 8 bytes, whether or not anything happens in it.
    """
    return rows <= min(max(FREE_ROWS, ROWS_AN_EVENT * events), MAX_ROWS)


def before(times: np.ndarray, edge: float) -> np.ndarray:
    """Which times, in ms, lie before an edge: by more than `TOLERANCE`, or than float64 resolves there."""
    return times < edge - max(TOLERANCE, 4 * float(np.spacing(abs(edge))))


@dataclass(frozen=True, eq=False)
class SpikeTrains:
    """Several spike trains, each the sorted times of its spikes.

    Parameters
    ----------
    times : (spikes,) float64 array
        Times in ms of all trains, one train after the other, ascending within a train.
    offsets : (trains + 1,) int64 array
        Train k is times[offsets[k]:offsets[k + 1]].

    Raises
    ------
    ArgumentError
        The two do not fit together, or times are not finite or not ascending.

    Examples
    --------
    >>> from blocksim.trains import SpikeTrains
    >>> trains = SpikeTrains.of([[12.5, 30.0], []])
    >>> len(trains), trains.counts, trains[0]
    (2, array([2, 0]), array([12.5, 30. ]))
    """

    times: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        times = given_times("times", self.times)
        offsets = np.array(real_array("offsets", self.offsets))
        if times.ndim != 1:
            raise ArgumentError(f"times: expected a one-dimensional array; found {found(times)}")
        ends = offsets.ndim == 1 and len(offsets) and offsets.dtype.kind in "iu"
        if not ends or offsets[0] != 0 or offsets[-1] != len(times) or (np.diff(offsets.astype(np.int64)) < 0).any():
            raise ArgumentError(
                f"offsets: expected ascending integers from 0 to {len(times)}, the number of times; "
                f"found {found(offsets)}"
            )
        finite("times", times)
        offsets = offsets.astype(np.int64)
        falls = np.flatnonzero(np.diff(times) < 0) + 1
        within = falls[~np.isin(falls, offsets)]
        if within.size:
            train = int(np.searchsorted(offsets, within[0], side="right")) - 1
            raise ArgumentError(
                f"times: expected ascending times within a train; found {times[within[0]]} after "
                f"{times[within[0] - 1]} in train {train}"
            )
        object.__setattr__(self, "times", frozen(times))
        object.__setattr__(self, "offsets", frozen(offsets))

    @classmethod
    def of(cls, trains: Any) -> Self | SpikeTrains:
        """Make trains of a sequence of arrays of times in ms, of one such array, or return trains as they are.

        Times with a unit (quantities, neo, pint, astropy) are converted; `exact_times` reads single precision.

        Raises
        ------
        ArgumentError
            Not times, not finite, or not ascending within a train. A bool array is refused: `from_steps` reads it.

        Examples
        --------
        >>> from blocksim.trains import SpikeTrains
        >>> SpikeTrains.of([[1.0, 2.0], [3.0]])
        SpikeTrains(2 trains, 3 spikes)
        """
        if isinstance(trains, SpikeTrains):
            return trains
        trains = in_unit("trains", trains, "ms")
        if isinstance(trains, np.ndarray) and (trains.ndim != 1 or trains.dtype == np.bool_):
            raise ArgumentError(
                f"trains: expected times in ms, a sequence of one array a train; found {found(trains)} "
                "(for spikes of a run, use SpikeTrains.from_steps(spikes, dt))"
            )
        try:
            single = all(np.isscalar(item) or getattr(item, "ndim", 1) == 0 for item in trains) and len(trains) > 0
            items = [trains] if single or isinstance(trains, np.ndarray) else list(trains)
        except TypeError:
            raise ArgumentError(
                f"trains: expected times in ms, a sequence of one array a train; found {found(trains)}"
            ) from None
        arrays = []
        for index, item in enumerate(items):
            array = given_times(f"trains: train {index}", item)
            if array.ndim != 1:
                raise ArgumentError(
                    f"trains: expected times in ms, one array a train; found {found(array)} as train {index}"
                )
            arrays.append(array)
        return cls._joined(arrays)

    @classmethod
    def _joined(cls, arrays: Sequence[np.ndarray]) -> Self:
        offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays], dtype=np.int64)])
        return cls(np.concatenate([*arrays, np.empty(0)]), offsets.astype(np.int64))

    @classmethod
    def from_steps(cls, spikes: Any, dt: float) -> Self:
        """Make trains of spikes on a grid of steps: a spike in step k is at the time k dt, where the step starts.

        Parameters
        ----------
        spikes : (T,) or (trains, T) array
            Bool, or spike counts; of a run of one neuron, ``run.spikes[:, :, 0]``.
        dt : float
            Step in ms.

        Raises
        ------
        ArgumentError
            Neither bool nor counts, or of another rank; more than 8 spikes a step, and 2**24 in all.

        Examples
        --------
        >>> from blocksim.trains import SpikeTrains
        >>> SpikeTrains.from_steps([[0, 1, 0, 2]], dt=0.5).times
        array([0.5, 1.5, 1.5])
        """
        dt = milliseconds("dt", dt)
        array = real_array("spikes", spikes)
        if array.ndim not in (1, 2):
            raise ArgumentError(f"spikes: expected an array (T,) or (trains, T); found {found(array)}")
        array = np.atleast_2d(array)
        if array.flags.c_contiguous:
            train, step = np.nonzero(array)
        else:  # as of a run's spikes, transposed: many times faster along the array's own order
            step, train = np.nonzero(array.T)
            order = np.argsort(train, kind="stable")
            train, step = train[order], step[order]
        counts = array[train, step].astype(np.float64)
        if not ((counts >= 0) & (counts == np.floor(counts)) & (counts < MAX_ROWS)).all():
            raise ArgumentError("spikes: expected bool or counts, whole numbers of 0 or more; found other numbers")
        if counts.sum() > max(FREE_SPIKES, SPIKES_A_STEP * array.size):
            raise ArgumentError(
                f"spikes: expected at most {SPIKES_A_STEP} spikes a step on average; found {counts.sum():g} in "
                f"{array.size} steps"
            )
        repeats = counts.astype(np.int64)
        train, step = np.repeat(train, repeats), np.repeat(step, repeats)
        offsets = np.searchsorted(train, np.arange(len(array) + 1))
        return cls(step * dt, offsets)

    @classmethod
    def from_neo(cls, trains: Any) -> Self:
        """Make trains of Neo's, in ms from the `t_start` of each.

        Parameters
        ----------
        trains : neo.SpikeTrain, or a sequence of them
            A segment's `spiketrains`, say.

        Raises
        ------
        ArgumentError
            They are no spike trains of Neo.
        """
        try:
            several = [trains] if hasattr(trains, "rescale") else list(trains)
        except TypeError:
            several = [trains]
        arrays = []
        for train in several:
            if not (hasattr(train, "t_start") and hasattr(train, "rescale")):
                raise ArgumentError(f"trains: expected neo.SpikeTrain objects; found {found(train)}")
            times = np.atleast_1d(in_unit("trains", train, "ms")) - in_unit("t_start", train.t_start, "ms")
            arrays.append(np.sort(times))
        return cls._joined(arrays)

    def to_neo(self, duration: float) -> list[Any]:
        """The trains as `neo.SpikeTrain` objects in ms, from 0 to `duration`.

        Parameters
        ----------
        duration : float
            Length of a trial in ms.

        Raises
        ------
        MissingLibraryError
            Neo is not installed.
        ArgumentError
            A spike lies outside.
        """
        duration = milliseconds("duration", duration)
        neo = library("neo", "neo", "SpikeTrains.to_neo")
        late = self.times.size and not 0 <= self.times.min() <= self.times.max() <= duration
        if late:
            worst = self.times.min() if self.times.min() < 0 else self.times.max()
            raise ArgumentError(f"duration: expected spikes from 0 to {duration:g} ms; found one at {worst:g} ms")
        return [neo.SpikeTrain(train, units="ms", t_start=0.0, t_stop=duration) for train in self]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, train: int) -> np.ndarray:
        """Times of one train, in ms."""
        if not isinstance(train, (int, np.integer)) or not -len(self) <= train < len(self):
            raise IndexError(f"trains[...]: expected a number below {len(self)}; found {found(train)}")
        index = int(train) % len(self)
        return self.times[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[train] for train in range(len(self)))

    def __repr__(self) -> str:
        return f"SpikeTrains({len(self)} trains, {len(self.times)} spikes)"

    @property
    def counts(self) -> np.ndarray:
        """Number of spikes of each train, (trains,) int64."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """The train that each of `times` belongs to, (spikes,) int64."""
        return np.repeat(np.arange(len(self)), self.counts)

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each spike: its train and its time. `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (spikes,) arrays
            "train", from 0; "time_ms".

        Examples
        --------
        >>> from blocksim.trains import SpikeTrains
        >>> SpikeTrains.of([[12.5, 30.0], [], [7.0]]).table()
        {'train': array([0, 0, 2]), 'time_ms': array([12.5, 30. , 7. ])}
        """
        return {"train": self.owners, "time_ms": self.times}

    def padded(self) -> np.ndarray:
        """Times as one array (trains, most spikes of a train), filled up with infinity."""
        array = np.full((len(self), int(self.counts.max(initial=0))), np.inf)
        owners = self.owners
        array[owners, np.arange(len(self.times)) - self.offsets[owners]] = self.times
        return array

    def take(self, trains: Sequence[int] | np.ndarray) -> SpikeTrains:
        """Some of the trains, in the order asked for.

        Raises
        ------
        ArgumentError
            `trains` is no sequence.
        IndexError
            A number is not that of a train.

        Examples
        --------
        >>> from blocksim.trains import SpikeTrains
        >>> SpikeTrains.of([[1.0, 2.0], [3.0]]).take([1, 0]).times
        array([3., 1., 2.])
        """
        try:
            chosen = list(trains)
        except TypeError:
            raise ArgumentError(f"trains: expected numbers of trains; found {found(trains)}") from None
        return SpikeTrains._joined([self[train] for train in chosen])

    def window(self, start: float, stop: float) -> SpikeTrains:
        """Spikes at start <= t < stop (in ms, with 1e-9 ms of tolerance), on a time axis that begins at `start`.

        A spike at `stop` is in the next window, if there is one.

        Parameters
        ----------
        start, stop : float
            In ms.

        Raises
        ------
        ArgumentError
            An end is not a finite number, or its unit is not one of time.

        Examples
        --------
        >>> from blocksim.trains import SpikeTrains
        >>> SpikeTrains.of([[1.0, 2.5, 4.0]]).window(2, 4).times
        array([0.5])
        """
        start, stop = (number(name, in_unit(name, end, "ms")) for name, end in (("start", start), ("stop", stop)))
        kept = ~before(self.times, start) & before(self.times, stop)
        counts = np.bincount(self.owners[kept], minlength=len(self))
        return SpikeTrains(np.maximum(self.times[kept] - start, 0), np.concatenate([[0], np.cumsum(counts)]))

    def on_grid(self, dt: float) -> SpikeTrains:
        """Times moved to the start of the step of `dt` ms that they fall into: as a model on that grid can spike.

        Raises
        ------
        ArgumentError
            dt is not a time above 0.

        Examples
        --------
        >>> from blocksim.trains import SpikeTrains
        >>> SpikeTrains.of([[1.0, 2.7]]).on_grid(0.5).times
        array([1. , 2.5])
        """
        dt = milliseconds("dt", dt)
        return SpikeTrains(steps_of(self.times, dt) * dt, self.offsets)

    def collisions(self, dt: float) -> int:
        """How many spikes share a step of `dt` ms with an earlier one of their train.

        Raises
        ------
        ArgumentError
            dt is not a time above 0.

        Examples
        --------
        >>> from blocksim.trains import SpikeTrains
        >>> SpikeTrains.of([[1.0, 1.2, 3.0]]).collisions(0.5)
        1
        """
        steps = steps_of(self.times, milliseconds("dt", dt))
        return int(((np.diff(steps) == 0) & (np.diff(self.owners) == 0)).sum())

    def to_steps(self, dt: float, steps: int, collisions: str = "count") -> np.ndarray:
        """Trains on a grid of steps.

        Parameters
        ----------
        dt : float
            Step in ms; a time t falls into step floor(t / dt), with 1e-6 steps of tolerance.
        steps : int
            Number of steps T.
        collisions : "count", "merge" or "error"
            What becomes of several spikes in one step: "count" returns the number of spikes of each step, "merge"
            makes them one, "error" raises.

        Returns
        -------
        (trains, T) array
            uint8 for "count", else bool.

        Raises
        ------
        ArgumentError
            A spike lies outside the steps, one at their very end among them, or shares one where `collisions` is
            "error"; or the array does not fit in memory.

        Examples
        --------
        >>> from blocksim.trains import SpikeTrains
        >>> SpikeTrains.of([0.2, 0.7, 2.0]).to_steps(dt=1.0, steps=3)
        array([[2, 0, 1]], dtype=uint8)
        """
        dt, steps = milliseconds("dt", dt), whole_number("steps", steps, 1)
        collisions = choice("collisions", collisions, COLLISIONS)
        where = steps_of(self.times, dt)
        if where.size and not 0 <= where.min() <= where.max() < steps:
            bad = int(np.argmax((where < 0) | (where >= steps)))
            raise ArgumentError(
                f"steps: expected spikes from 0 to below {steps * dt:g} ms ({steps} steps of {dt:g} ms); "
                f"found one at {self.times[bad]:g} ms"
            )
        try:
            dense: np.ndarray = np.zeros(len(self) * steps, np.uint8 if collisions == "count" else np.bool_)
        except (MemoryError, OverflowError, ValueError):
            raise ArgumentError(
                f"steps: expected an array of {len(self)} trains that fits in memory; found {steps} steps"
            ) from None
        # ascending, as times are within a train
        cells, counts = np.unique(self.owners * steps + where, return_counts=True)
        most = int(counts.max(initial=0))
        if collisions == "error" and most > 1:
            train, step = divmod(int(cells[counts.argmax()]), steps)
            raise ArgumentError(
                f"dt: expected steps of at most one spike; found {self.collisions(dt)} spike(s) that share a step of "
                f"{dt:g} ms with another, {most} of train {train} in step {step} "
                "(collisions='count' keeps them all, 'merge' makes them one)"
            )
        if collisions == "count" and most > 255:
            raise ArgumentError(f"dt: expected at most 255 spikes a step; found {most}")
        dense[cells] = counts if collisions == "count" else True
        return dense.reshape(len(self), steps)


def checked_window(argument: str, value: Any) -> tuple[float, float]:
    """How far from a spike a step is near it, (ms before, ms after): `value`, checked."""
    before, after = items(argument, value, "two times in ms, before a spike and after it", 2)
    return milliseconds(argument, before, zero=True), milliseconds(argument, after, zero=True)


def near_spikes(trains: SpikeTrains, window: tuple[float, float], dt: float, steps: int) -> np.ndarray:
    """Which steps are near a spike of their train, where a recorded potential is that of the spike.

    Parameters
    ----------
    trains : SpikeTrains
    window : (before, after)
        In ms, as `checked_window` returns it.
    dt : float
        Step in ms.
    steps : int
        Number of steps T.

    Returns
    -------
    (trains, T) bool array
        A spike lies in the step that `steps_of` says. Near are this step, as many before it as `nearest_steps` makes of
        `before`, and as many after it as it makes of `after`. A spike at the very end lies in the last step.

    Notes
    -----
    Spike and window become steps each by itself. Of their sum in ms, as of 1.27 ms and 1 ms, the number of near steps
    would depend on where in its step a spike lies, and on rounding errors: 10.1 - 5 is 5.1, and 5.1 / 0.1 below 51.

    Examples
    --------
    >>> from blocksim.trains import SpikeTrains, near_spikes
    >>> near_spikes(SpikeTrains.of([[0.37], []]), (0.1, 0.2), dt=0.1, steps=7).astype(int)
    array([[0, 0, 1, 1, 1, 1, 0],
           [0, 0, 0, 0, 0, 0, 0]])
    """
    # cut to what int64 adds: beyond is as good as for ever
    before, after = (min(nearest_steps(time, dt), MAX_STEPS // 2) for time in window)
    at = steps_of(trains.times, dt)
    at = np.where(at == steps, steps - 1, at)
    edges = np.zeros((len(trains), steps + 1), np.int64)
    np.add.at(edges, (trains.owners, np.clip(at - before, 0, steps)), 1)
    np.add.at(edges, (trains.owners, np.clip(at + after + 1, 0, steps)), -1)
    return np.cumsum(edges, axis=1)[:, :-1] > 0
