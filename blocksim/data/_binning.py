"""Events of one sample, binned to steps and pooled channels: `Sample`, and the `Space` its numbers belong to.

Owns the clock, binning, pooling, order, and moving events about among the channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blocksim._validation import frozen
from blocksim.data.sources import Source
from blocksim.trains import steps_of


@dataclass(frozen=True, eq=False)
class Sample:
    """One binned sample; events in order of step, then channel.

    Attributes
    ----------
    steps : (events,) integer array
    channels : (events,) integer array
    length : int
        Steps until the last event and with it, at least 1.
    """

    steps: np.ndarray
    channels: np.ndarray
    length: int


@dataclass(frozen=True)
class Space:
    """What steps and channels mean.

    Attributes
    ----------
    dt : float
        Length of a step in ms.
    channels : int
        Number of channels.
    grid : (polarities, height, width) or None
        Where channels are pixels: channel = (polarity * height + y) * width + x.
    clip : bool
        Whether several events of a channel in one step count as one.
    """

    dt: float
    channels: int
    grid: tuple[int, int, int] | None
    clip: bool

    def ordered(self, steps: np.ndarray, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same events in order of step, then channel, clipped if that is asked for; steps are 0 or more."""
        # one integer holds both, so that one sort orders both; the narrower, the quicker
        narrow = not len(steps) or (int(steps.max()) + 1) * self.channels <= 2**32
        kind: type[np.unsignedinteger] = np.uint32 if narrow else np.uint64
        count = kind(self.channels)
        keys: np.ndarray = steps.astype(kind) * count + channels.astype(kind)
        keys.sort()
        if self.clip and len(keys):
            keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
        steps = np.asarray(keys // count)
        return steps.astype(np.int64), np.asarray(keys - steps * count).astype(np.int32)

    def axes(self, channels: np.ndarray) -> tuple[np.ndarray, ...]:
        """Coordinates of channels, int64: (channel,), or of pixels (y, x)."""
        channels = channels.astype(np.int64)
        if self.grid is None:
            return (channels,)
        _, height, width = self.grid
        rest = channels // width
        return rest % height, channels - rest * width

    @property
    def extent(self) -> tuple[int, ...]:
        """Length of each of the axes."""
        return (self.channels,) if self.grid is None else self.grid[1:]

    def moved(self, channels: np.ndarray, by: tuple[np.ndarray | int, ...]) -> np.ndarray:
        """Channels moved along each axis, int64; -1 where that leads off it."""
        inside: np.ndarray = np.ones(channels.shape, dtype=bool)
        offset: np.ndarray | int = 0
        for at, step, size in zip(self.axes(channels), by, self.extent, strict=True):
            inside &= (at + step >= 0) & (at + step < size)
            offset = offset * size + step
        return np.where(inside, channels.astype(np.int64) + offset, -1)


def pooled_space(source: Source, dt: float, pool: int, clip: bool) -> Space:
    """The space of a source's samples when `pool` neighbouring channels, or pixels in x and y, become one."""
    if source.grid is None:
        return Space(dt, -(-source.channels // pool), None, clip)
    polarities, height, width = source.grid
    grid = (polarities, -(-height // pool), -(-width // pool))
    return Space(dt, int(np.prod(grid)), grid, clip)


@dataclass(frozen=True)
class Clock:
    """What time a sample's events are said to have.

    Attributes
    ----------
    trim : float or None
        Time 0 is where this share of the events has passed, and what comes before is lost; None: as it stands.
    span : float or None
        Time is scaled so that the events but for the share `trim` at either end last so many ms; None: as it stands.
    """

    trim: float | None = None
    span: float | None = None

    def read(self, times: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The events by this clock."""
        if self.trim is None or not len(times):
            return times, units
        inner = np.sort(times)
        start, end = inner[int(self.trim * len(times))], inner[-1 - int(self.trim * len(times))]
        kept = times >= start
        times, units = times[kept] - start, units[kept]
        if self.span is not None and end > start:
            with np.errstate(over="ignore"):
                scaled = times * (self.span / (end - start))
            # events that all but coincide stay where they are
            times = scaled if np.isfinite(scaled).all() else times
        return times, units


def binned(source: Source, place: int, space: Space, pool: int, clock: Clock) -> Sample:
    """Sample `place` of a source, read, checked and binned."""
    times, units = clock.read(*source.checked(place))
    steps = steps_of(times, space.dt)
    length = int(steps.max()) + 1 if len(steps) else 1
    if length > np.iinfo(np.int32).max:
        raise source.wrong(
            f"expected at most 2**31 - 1 steps in {source.which(place)}; found {length} at dt = {space.dt:g} ms"
        )
    steps, channels = space.ordered(steps, _pooled(units.astype(np.int64), source.grid, space.grid, pool))
    return Sample(
        frozen(steps.astype(np.uint16 if length <= 2**16 else np.int32)),
        frozen(channels.astype(np.uint16 if space.channels <= 2**16 else np.int32)),
        length,
    )


def _pooled(
    units: np.ndarray, grid: tuple[int, int, int] | None, into: tuple[int, int, int] | None, pool: int
) -> np.ndarray:
    if pool == 1:
        return units
    if grid is None or into is None:
        return units // pool
    rest, x = np.divmod(units, grid[2])
    p, y = np.divmod(rest, grid[1])
    pooled: np.ndarray = (p * into[1] + y // pool) * into[2] + x // pool
    return pooled
