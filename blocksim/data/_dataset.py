"""Labelled event data, binned to steps and served in batches: `EventDataset` and `Batch`.

Owns the cache of binned samples, and the making of a batch. Sorting is done once a sample; a batch is
put together by concatenating and counting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from blocksim._events import Events
from blocksim._validation import flag, found, frozen, milliseconds, number, real_array, whole_number
from blocksim.data._augmentation import MAX_CHANGE, Augmentation
from blocksim.data._binning import Clock, Sample, Space, binned, pooled_space
from blocksim.data._plausibility import warn_of_unit
from blocksim.data._randomness import AUGMENT, SHUFFLE, Streams
from blocksim.data.sources import MAX_CHANNELS, ArraySource, OwnLock, Source, join_lists
from blocksim.errors import ArgumentError
from blocksim.trains import MAX_ROWS, given_times, plausible_rows, steps_of


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples as a network takes them.

    Attributes
    ----------
    x : Events
        (B, T, K) spikes.
    labels : (B,) int64 array
        Their classes.
    indices : (B,) int64 array
        Their places in the data set that made the batch.
    """

    x: Events
    labels: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


class EventDataset:
    """Labelled samples of events, binned to steps of `dt`: what `open_dataset` and `from_lists` return.

    A time t falls into step floor(t / dt); a time within 1e-6 steps below an edge counts as on it, as in
    `Events.from_lists`. Samples are read and binned when they are first asked for, and kept in memory in 4 bytes an
    event (8 where there are more than 65,536 steps or channels).

    Parameters
    ----------
    source : blocksim.data.sources.Source
        Where the events come from.
    dt : float
        Length of a step in ms.
    steps : int or None
        Every sample lasts this many steps: what comes later is cut, what is shorter ends in silence; `summary` counts
        both. None: a batch lasts as long as the longest of its samples, at least one step.
    pool : int
        Neighbouring channels that become one, channel // pool: 700 by 5 gives 140. For a camera: pixels in x and y, a
        34 x 34 x 2 sensor by 2 gives 17 x 17 x 2. Where it does not divide, the last is made of fewer.
    clip : bool
        Whether several spikes of a channel in one step count as one; otherwise each is an event.
    trim : float or None
        A sample begins where this share of its events has passed, 0 to below 1/2: 0 is the first event, a little more
        leaves out noise before the sound. What comes before is lost. None: it begins at time 0.
    span : float or None
        Time is scaled, sample by sample, so that the events, except for the share `trim` at either end, last this many
        ms. This removes differences in tempo between speakers. Needs `trim`. None: time is what it is.
    delays : sequence of float
        Delays in ms, whole steps rounded down, ascending: every channel enters once for each of them, as
        `Events.delayed` has it. What arrives after a fixed duration is cut.
    cache_bytes : int
        Memory for binned samples; those beyond it are read and binned again each time. Subsets share it.

    Raises
    ------
    ArgumentError
        A setting out of range.

    Warns
    -----
    BlocksimWarning
        The samples looked at, 16 at most, end within one step, or are so short or so long, for their number of spikes,
        that another unit of time would fit.

    Attributes
    ----------
    labels : (n,) int64 array
        Class of each sample.
    class_names : tuple of str
        Name of each class.
    groups : (n,) int64 array or None
        Speaker, say, of each sample.
    group_names : sequence of str or None
        Name of each group.
    channels : int
        Number of inputs K of a batch: channels after pooling, times the number of delays.
    grid : (polarities, height, width) or None
        For a camera, after pooling: channel = (polarity * height + y) * width + x, of each delay.
    delays : tuple of int
        Steps.
    dt : float
        Length of a step in ms.
    steps : int or None
        As given.
    name : str
        Path of the file.
    kind : str
        Its format.

    Examples
    --------
    >>> from blocksim.data import from_lists
    >>> data = from_lists([[0.5, 2.0], [1.0], []], [[0, 1], [2], []], labels=[0, 1, 0], channels=3, steps=4)
    >>> batch = data.batch([2, 0])
    >>> batch.x, batch.labels
    (Events(2 events, shape=(2, 4, 3), density=0.0833), array([0, 0]))
    """

    def __init__(
        self,
        source: Source,
        dt: float = 1.0,
        steps: int | None = None,
        *,
        pool: int = 1,
        clip: bool = False,
        trim: float | None = None,
        span: float | None = None,
        delays: Sequence[float] = (0.0,),
        cache_bytes: int = 2**30,
    ) -> None:
        dt = milliseconds("dt", dt)
        clip = flag("clip", clip)
        self.steps = None if steps is None else whole_number("steps", steps, 1)
        pool = min(whole_number("pool", pool, 1), MAX_CHANNELS)
        space = pooled_space(source, dt, pool, clip)
        self.delays = _delays(delays, dt)
        if trim is not None:
            trim = number("trim", trim, least=0, below=0.5)
        if span is not None:
            span = milliseconds("span", span)
            if trim is None:
                raise ArgumentError("span: expected trim beside it, the share of events at either end; found None")
        self._store = _Store(source, space, pool, Clock(trim, span), whole_number("cache_bytes", cache_bytes, 0))
        self._select(np.arange(len(source)))
        if self.channels > MAX_CHANNELS:
            raise ArgumentError(f"delays: expected at most 2**31 - 1 inputs in all; found {self.channels}")
        warn_of_unit(source, self._store.clock, dt)

    def _select(self, places: np.ndarray) -> None:
        source = self._store.source
        self._places = frozen(places)  # of the source, one a sample
        self._members: dict[int, np.ndarray] = {}  # places of each class, where `blend` asked for them
        self.labels = frozen(source.labels[places])
        self.groups = None if source.groups is None else frozen(source.groups[places])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return self._store.source.class_names

    @property
    def group_names(self) -> Sequence[str] | None:
        """Name of each group; their digits, made when they are asked for, where the source names none."""
        return self._store.source.group_names

    @property
    def channels(self) -> int:
        """Number of inputs K of a batch: channels after pooling, times the number of delays."""
        return self._store.space.channels * len(self.delays)

    @property
    def grid(self) -> tuple[int, int, int] | None:
        """(polarities, height, width) of a camera, after pooling."""
        return self._store.space.grid

    @property
    def dt(self) -> float:
        """Length of a step in ms."""
        return self._store.space.dt

    @property
    def clip(self) -> bool:
        """Whether several spikes of a channel in one step count as one."""
        return self._store.space.clip

    @property
    def binning(self) -> dict[str, Any]:
        """How the events became steps, as `open_dataset` takes it: dt, pool, clip, trim, span, and delays in ms."""
        store = self._store
        delays = tuple(steps * self.dt for steps in self.delays)
        return {"dt": self.dt, "pool": store.pool, "clip": self.clip, **vars(store.clock), "delays": delays}

    @property
    def name(self) -> str:
        """Path of the file."""
        return self._store.source.name

    @property
    def kind(self) -> str:
        """Format of the file."""
        return self._store.source.kind

    @property
    def cached_bytes(self) -> int:
        """Memory that binned samples take now."""
        return self._store.bytes

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        length = "steps of each sample" if self.steps is None else f"{self.steps} steps"
        return (
            f"EventDataset({self.name!r}, {len(self)} samples, {len(self.class_names)} classes, {self.channels} "
            f"channels, dt={self.dt:g} ms, {length})"
        )

    def subset(self, indices: Any) -> Self:
        """The samples of those indices, in that order; shares the file and the cache.

        Raises
        ------
        ArgumentError
            There are no indices, or one is not from 0 to len - 1.

        Examples
        --------
        >>> from blocksim.data import from_lists
        >>> data = from_lists([[0.5, 2.0], [1.0]], [[0, 1], [2]], labels=[0, 1], channels=3)
        >>> data.subset([1]).labels
        array([1])
        """
        part = object.__new__(type(self))
        part.steps, part.delays, part._store = self.steps, self.delays, self._store
        part._select(self._places[self._indices(indices)])
        return part

    def batch(self, indices: Any, *, augmentation: Augmentation | None = None, seed: int = 0, epoch: int = 0) -> Batch:
        """The samples of those indices, in that order.

        Parameters
        ----------
        indices : (B,) array of integers, 0 .. len - 1
            An index may be named more than once.
        augmentation : Augmentation or None
            How to vary them. What is drawn depends on `seed`, `epoch` and the sample's place in the file alone, and
            for `blend` on which samples are in this data set.
        seed, epoch : int
            0 or more.

        Returns
        -------
        Batch

        Raises
        ------
        ArgumentError
            An index out of range, or none; for data in memory what is a FileError for a file.
        FileError
            A sample's events are damaged or out of range, or, without `steps`, one is so late that the steps before it
            would take all memory: over 2**24 in all, and 1000 an event.

        Examples
        --------
        >>> from blocksim.data import from_lists
        >>> data = from_lists([[0.5, 2.0], [1.0]], [[0, 1], [2]], labels=[0, 1], channels=3)
        >>> data.batch([1, 0]).labels
        array([1, 0])
        """
        places = self._indices(indices)
        if augmentation is not None and not isinstance(augmentation, Augmentation):
            raise _no_augmentation(augmentation)
        samples = [self._store.sample(place) for place in self._places[places].tolist()]
        if augmentation:
            streams = Streams(AUGMENT, seed, epoch)
            samples = [
                augmentation.apply(
                    sample, self._store.space, streams.generator(int(self._places[at])), self._partner(int(at))
                )
                for at, sample in zip(places, samples, strict=True)
            ]
        x = _assemble(samples, self._length(samples, places), self._store.space.channels, self.delays)
        return Batch(x, frozen(self.labels[places]), frozen(places))

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        augmentation: Augmentation | None = None,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """All samples once, in batches.

        Parameters
        ----------
        batch_size : int
            Samples a batch; the last one holds what is left.
        shuffle : bool
            In an order that depends on `seed` and `epoch` alone; otherwise in the data set's.
        seed, epoch : int
            0 or more.
        augmentation : Augmentation or None
            As for `batch`.
        drop_last : bool
            Leave out a last batch that is smaller.

        Yields
        ------
        Batch
            Samples as `batch` returns them; every sample is in one batch, but for those that `drop_last` leaves out.

        Raises
        ------
        ArgumentError
            An argument out of range; at once, not when the first batch is asked for.
        """
        batch_size = whole_number("batch_size", batch_size, 1)
        shuffle, drop_last = flag("shuffle", shuffle), flag("drop_last", drop_last)
        if augmentation is not None and not isinstance(augmentation, Augmentation):
            raise _no_augmentation(augmentation)
        Streams(AUGMENT, seed, epoch)  # raises where these are wrong
        order = Streams(SHUFFLE, seed, epoch).generator().permutation(len(self)) if shuffle else np.arange(len(self))
        stop = len(self) // batch_size * batch_size if drop_last else len(self)
        settings: Any = {"augmentation": augmentation, "seed": seed, "epoch": epoch}
        return (self.batch(order[start : start + batch_size], **settings) for start in range(0, stop, batch_size))

    def statistics(self) -> dict[str, Any]:
        """What the data set holds; every sample is read once.

        Returns
        -------
        dict
            `name`, `kind`, `samples`, `channels`, `grid`, `dt_ms`, `steps`; `classes` and `groups`, samples by name
            (groups None where there are none); `events`, min, median, mean and max a sample, and `duration_ms`, to the
            end of the step of the last event; `silent`, samples without events; `density`, events a channel and step;
            and for a fixed duration `cut`, `cut_events` and `padded`: samples that are longer, the events they lose,
            and samples that are shorter.
        """
        counts, lengths, lost = np.zeros((3, len(self)), dtype=np.int64)
        for at, place in enumerate(self._places.tolist()):
            sample = self._store.sample(place)
            counts[at], lengths[at] = len(sample.steps), sample.length
            if self.steps is not None:
                lost[at] = len(sample.steps) - np.searchsorted(sample.steps, self.steps)
        groups = None
        if self.groups is not None and self.group_names is not None:
            groups = _tally(self.groups, self.group_names)
        result: dict[str, Any] = {
            "name": self.name, "kind": self.kind, "samples": len(self), "channels": self._store.space.channels,
            "grid": self.grid, "dt_ms": self.dt, "steps": self.steps,
            "classes": _tally(self.labels, self.class_names), "groups": groups,
            "events": _spread(counts), "duration_ms": _spread(lengths * self.dt),
            "silent": int((counts == 0).sum()),
            "density": float(counts.sum() / (float(lengths.sum()) * self._store.space.channels)),
        }  # fmt: skip
        if self.steps is not None:
            result["cut"] = int((lengths > self.steps).sum())
            result["cut_events"] = int(lost.sum())
            result["padded"] = int((lengths < self.steps).sum())
        return result

    def summary(self) -> str:
        """What the data set holds, for people; every sample is read once.

        Examples
        --------
        >>> from blocksim.data import from_lists
        >>> data = from_lists([[0.5, 2.0], [1.0]], [[0, 1], [2]], labels=[0, 1], channels=3, steps=2)
        >>> print(data.summary())
        from_lists (arrays in memory)
        2 samples, 3 channels, dt = 1 ms
        classes: 0 (1), 1 (1)
        events a sample: 1 to 2, median 1.5, mean 1.5
        duration: 2 to 3 ms, median 2.5
        fixed at 2 steps (2 ms): 1 sample cut by 1 event in all, 0 padded with silence
        """
        facts = self.statistics()
        pixels = "" if self.grid is None else f" ({self.grid[1]} x {self.grid[2]} pixels, {self.grid[0]} polarities)"
        events, duration = facts["events"], facts["duration_ms"]
        lines = [
            f"{self.name} ({self.kind})",
            f"{_some(len(self), 'sample')}, {self.channels} channels{pixels}, dt = {self.dt:g} ms",
            "classes: " + _listed(facts["classes"]),
        ]
        if facts["groups"] is not None:
            lines.append("groups: " + _listed(facts["groups"]))
        lines.append(
            f"events a sample: {events['min']:g} to {events['max']:g}, median {events['median']:g}, mean "
            f"{events['mean']:g}" + (f"; {facts['silent']} silent" if facts["silent"] else "")
        )
        lines.append(f"duration: {duration['min']:g} to {duration['max']:g} ms, median {duration['median']:g}")
        if self.steps is not None:
            lines.append(
                f"fixed at {self.steps} steps ({self.steps * self.dt:g} ms): {_some(facts['cut'], 'sample')} cut by "
                f"{_some(facts['cut_events'], 'event')} in all, {facts['padded']} padded with silence"
            )
        return "\n".join(lines)

    def _length(self, samples: list[Sample], places: np.ndarray) -> int:
        """Steps of a batch of those samples, found to be so few that a batch can be made of them."""
        if self.steps is not None:
            if len(samples) * self.steps > MAX_ROWS:
                raise ArgumentError(
                    f"steps: expected at most 2**31 steps of all samples of a batch together; found "
                    f"{len(samples) * self.steps}"
                )
            return self.steps
        last = max(range(len(samples)), key=lambda k: samples[k].length)
        time, source = samples[last].length + self.delays[-1], self._store.source
        events = sum(len(sample.steps) for sample in samples)
        if not plausible_rows(len(samples) * time, events):
            raise source.wrong(
                f"expected a plausible number of steps of {self.dt:g} ms for {events} events; found {len(samples)} x "
                f"{time}, with the last event of {source.which(int(self._places[places[last]]))} at "
                f"{(samples[last].length - 1) * self.dt:g} ms (is the unit of time right? steps= fixes the duration)"
            )
        return time

    def _partner(self, at: int) -> Callable[[float], Sample] | None:
        """How to choose another sample of the class; None where there is none."""
        members = self._members.get(label := int(self.labels[at]))
        if members is None:
            members = self._members[label] = np.flatnonzero(self.labels == label)
        if len(members) < 2:
            return None

        def choose(u: float) -> Sample:
            nth = int(u * (len(members) - 1))
            nth += int(nth >= np.searchsorted(members, at))
            return self._store.sample(int(self._places[members[nth]]))

        return choose

    def _indices(self, indices: Any) -> np.ndarray:
        values = real_array("indices", indices)
        if values.ndim != 1 or not values.size or values.dtype.kind not in "iu":
            raise ArgumentError(f"indices: expected whole numbers, at least one; found {found(values)}")
        if not 0 <= values.min() <= values.max() < len(self):
            worst = values.min() if values.min() < 0 else values.max()
            raise ArgumentError(f"indices: expected samples from 0 to {len(self) - 1}; found {worst}")
        return values.astype(np.int64)


def _no_augmentation(value: Any) -> ArgumentError:
    return ArgumentError(f"augmentation: expected a blocksim.data.Augmentation or None; found {found(value)}")


def _tally(numbers: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Samples of each that there are any of, by name."""
    there, counts = np.unique(numbers, return_counts=True)
    tally: dict[str, int] = {}
    for which, count in zip(there.tolist(), counts.tolist(), strict=True):
        tally[names[which]] = tally.get(names[which], 0) + count  # two may have the same name
    return tally


def _spread(values: np.ndarray) -> dict[str, float]:
    return {name: float(getattr(np, name)(values)) for name in ("min", "median", "mean", "max")}


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _some(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def from_lists(
    times: Sequence[Any],
    units: Sequence[Any],
    labels: Any,
    *,
    channels: int,
    dt: float = 1.0,
    steps: int | None = None,
    class_names: Sequence[str] | None = None,
    groups: Any = None,
    group_names: Sequence[str] | None = None,
    **settings: Any,
) -> EventDataset:
    """A data set of spike trains in memory.

    Parameters
    ----------
    times, units : sequences of (events,) arrays
        Spike times in ms and channels, one pair of arrays a sample, in any order.
    labels : (n,) array of integers
        Class of each sample, 0 or more.
    channels : int
        Number of channels.
    dt, steps, **settings
        As for `EventDataset`.
    class_names, groups, group_names
        As `EventDataset` has them; None: digits, no groups.

    Raises
    ------
    ArgumentError
        The arrays do not fit together; times or channels out of range are found when a sample is asked for.

    Examples
    --------
    >>> from blocksim.data import from_lists
    >>> from_lists([[0.5, 2.0], [1.0]], [[0, 1], [2]], labels=[0, 1], channels=3)
    EventDataset('from_lists', 2 samples, 2 classes, 3 channels, dt=1 ms, steps of each sample)
    """
    when, which, offsets = join_lists(times, units)
    source = ArraySource(
        when, which, offsets, name="from_lists", kind="arrays in memory", labels=labels,
        channels=whole_number("channels", channels, 1), class_names=class_names, groups=groups, group_names=group_names,
        error=ArgumentError,
    )  # fmt: skip
    return EventDataset(source, dt, steps, **settings)


class _Store:
    """Binned samples of a source, kept while there is room."""

    def __init__(self, source: Source, space: Space, pool: int, clock: Clock, cache_bytes: int) -> None:
        self.source, self.space, self.pool, self.clock, self.cache_bytes = source, space, pool, clock, cache_bytes
        self.bytes = 0
        self._kept: dict[int, Sample] = {}
        self._lock = OwnLock()

    def sample(self, place: int) -> Sample:
        """Sample `place` of the source."""
        sample = self._kept.get(place)
        if sample is None:
            sample = binned(self.source, place, self.space, self.pool, self.clock)
            size = sample.steps.nbytes + sample.channels.nbytes
            with self._lock:
                if place not in self._kept and self.bytes + size <= self.cache_bytes:
                    self._kept[place] = sample
                    self.bytes += size
        return sample

    def __getstate__(self) -> dict[str, Any]:
        # another process fills a cache of its own
        return {**self.__dict__, "_kept": {}, "bytes": 0}


def _delays(delays: Sequence[float], dt: float) -> tuple[int, ...]:
    """Delays in ms as steps."""
    values = given_times("delays", delays)
    steps = np.zeros(0, np.int64)
    if values.ndim == 1 and np.isfinite(values).all() and (np.abs(values) <= MAX_CHANGE).all():
        steps = steps_of(values, dt)
    if not len(steps) or steps[0] < 0 or (np.diff(steps) < 1).any():
        raise ArgumentError(
            f"delays: expected times in ms, 0 or more, ascending by steps of {dt:g} ms at least; found {found(delays)}"
        )
    return tuple(steps.tolist())


def _assemble(samples: list[Sample], time: int, channels: int, delays: tuple[int, ...]) -> Events:
    """Events, in `time` steps, of samples whose events are in order: concatenated and counted, not sorted."""
    parts = [(sample.steps, sample.channels) for sample in samples]
    for place, sample in enumerate(samples):
        if sample.length > time:
            stop = int(np.searchsorted(sample.steps, time))
            parts[place] = (sample.steps[:stop], sample.channels[:stop])
    rows = np.concatenate([part[0] for part in parts], dtype=np.int64)
    rows += np.repeat(np.arange(len(parts)) * time, [len(part[0]) for part in parts])
    indptr = np.zeros(len(parts) * time + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=len(parts) * time), out=indptr[1:])
    indices = np.concatenate([part[1] for part in parts], dtype=np.int32)
    events = Events.trusted(indptr, indices, (len(parts), time, channels))
    return events if delays == (0,) else events.delayed(delays)
