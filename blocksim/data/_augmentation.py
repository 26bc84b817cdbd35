"""Random changes to training samples that preserve their class: `Augmentation`.

Owns what each change does to the events of one binned sample. Works on steps and channels as they are batched, so a
sample is read and binned once however often it is varied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from blocksim._units import in_unit
from blocksim._validation import decimal, found, whole_number
from blocksim.data._binning import Sample, Space
from blocksim.errors import ArgumentError
from blocksim.trains import EDGE

# more than any sample lasts, or has of channels
MAX_CHANGE = 1e6
LAST_STEP = 2**31 - 1
# e to the power of more is no gain that a float holds
WIDEST = 10.0
# of the random spectrum of `equalise`
COSINES = np.arange(1, 5)
# the numbers in [0, 1) drawn for a whole sample, in this order
DRAWS = (
    "blend", "partner", "stretch", "time_shift", "channel_shift 0", "channel_shift 1", "mask_time", "mask_time at",
    "mask_channels", "mask_channels at 0", "mask_channels at 1",
)  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """How training samples are varied. Every default is no change; changes apply in the order of the parameters.

    Times are ms and become whole steps, rounded down. Channels and pixels are those of the data set after pooling.
    What is moved before the start, or off the channels, is lost; what is moved beyond a fixed duration is cut.

    Parameters
    ----------
    blend : float
        Probability, for each sample, that it is mixed with another of its class: the other is moved until the means
        of both in time and channel coincide, to the nearest whole step and channel, and each event of either is kept
        with probability 1/2 (after Nowotny, Turner and Knight, arXiv 2212.01232).
    stretch : float
        Times are multiplied by a factor drawn uniformly from 1 - stretch to 1 + stretch; the middle of a step is what
        is moved. Below 1.
    time_shift : float
        The whole sample is moved by a time drawn uniformly from -time_shift to time_shift ms.
    time_jitter : float
        Each event is moved in time by a normal number of this standard deviation, ms.
    channel_shift : int
        The whole sample is moved by a number of channels drawn uniformly from -channel_shift to channel_shift; for a
        camera, by pixels in x and in y.
    channel_jitter : float
        Each event is moved by a normal number of channels of this standard deviation; for a camera, in x and in y.
    mask_time : float
        The events in a stretch of time are dropped, whose length is drawn uniformly from 0 to mask_time ms.
    mask_channels : int
        The events in a band of channels are dropped, whose width is drawn uniformly from 0 to mask_channels; for a
        camera, in a square of that side, of both polarities.
    drop : float
        Probability, for each event, that it is dropped.
    channel_stretch : float
        Channels are multiplied by a factor drawn uniformly from 1 - channel_stretch to 1 + channel_stretch, as a
        longer or shorter vocal tract does to a voice (Jaitly and Hinton 2013); for a camera, pixels by one about the
        middle. An event's place within its channel is drawn too. Below 1.
    equalise : float
        Each event is kept with a probability that is a smooth random function of its channel, as another voice or
        microphone has another spectrum: g / q or 1, whichever is less, with ln g = equalise times a sum of four
        cosines over the channels, of normal amplitudes, and q the upper quartile of g; for a camera, of two such
        sums, over x and over y.

    Raises
    ------
    ArgumentError
        A parameter out of range.

    Examples
    --------
    >>> from blocksim.data import Augmentation, from_lists
    >>> data = from_lists([[5.0, 6.0]], [[10, 20]], labels=[0], channels=30, steps=10)
    >>> varied = data.batch([0], augmentation=Augmentation(time_shift=3, channel_shift=5), seed=1, epoch=4)
    >>> varied.x.indices
    array([ 8, 18], dtype=int32)
    """

    blend: float = 0.0
    stretch: float = 0.0
    time_shift: float = 0.0
    time_jitter: float = 0.0
    channel_shift: int = 0
    channel_jitter: float = 0.0
    mask_time: float = 0.0
    mask_channels: int = 0
    drop: float = 0.0
    channel_stretch: float = 0.0
    equalise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("channel_shift", "mask_channels"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 0))
        for name, top, wanted in (
            ("blend", 1.0, "a probability, 0 to 1"),
            ("stretch", np.nextafter(1.0, 0.0), "a fraction from 0 to below 1"),
            ("time_shift", MAX_CHANGE, f"a time of 0 to {MAX_CHANGE:g} ms"),
            ("time_jitter", MAX_CHANGE, f"a time of 0 to {MAX_CHANGE:g} ms"),
            ("channel_shift", MAX_CHANGE, f"0 to {MAX_CHANGE:g} channels"),
            ("channel_jitter", MAX_CHANGE, f"0 to {MAX_CHANGE:g} channels"),
            ("mask_time", MAX_CHANGE, f"a time of 0 to {MAX_CHANGE:g} ms"),
            ("mask_channels", MAX_CHANGE, f"0 to {MAX_CHANGE:g} channels"),
            ("drop", 1.0, "a probability, 0 to 1"),
            ("channel_stretch", np.nextafter(1.0, 0.0), "a fraction from 0 to below 1"),
            ("equalise", WIDEST, f"a standard deviation of 0 to {WIDEST:g}"),
        ):
            value = decimal(in_unit(name, getattr(self, name), "ms" if "time" in name else None))
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if not number or not 0 <= value <= top:
                raise ArgumentError(f"{name}: expected {wanted}; found {found(value)}")
            object.__setattr__(self, name, type(getattr(type(self), name))(value))

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return any(getattr(self, item.name) for item in fields(self))

    def apply(
        self, sample: Sample, space: Space, rng: np.random.Generator, partner: Callable[[float], Sample] | None = None
    ) -> Sample:
        """A varied copy of a sample.

        Parameters
        ----------
        sample : Sample
            Not changed.
        space : Space
            What its steps and channels mean.
        rng : numpy Generator
            At the start of the sample's stream. The numbers that concern the whole sample are drawn first, and always
            all, so that one parameter does not change what another draws for it.
        partner : callable or None
            Given a number in [0, 1), returns another sample of the class, for `blend`; None: there is none.
        """
        u = dict(zip(DRAWS, rng.random(len(DRAWS)).tolist(), strict=True))
        ordered = True
        if u["blend"] < self.blend and partner is not None:
            sample, ordered = _blended(sample, partner(u["partner"]), space, rng), False
        steps, channels = sample.steps, sample.channels
        if not len(steps):
            return sample

        shift = _within(u["time_shift"], int(_in_steps(self.time_shift, space) + EDGE))
        if self.stretch:
            factor = 1 + self.stretch * (2 * u["stretch"] - 1)
            # a table of all steps, unless the events are fewer
            few = len(steps) < sample.length
            moved = np.floor(((steps if few else np.arange(sample.length)) + 0.5) * factor).astype(np.int64) + shift
            steps = moved if few else moved[steps]
            # a shorter sample's steps may fall together, each with channels of its own
            ordered = ordered and factor >= 1
        elif shift:
            steps = steps.astype(np.int64) + shift
        if self.time_jitter:
            noise = rng.normal(scale=_in_steps(self.time_jitter, space), size=len(steps))
            steps, ordered = np.floor(steps + 0.5 + noise).astype(np.int64), False

        if self.channel_shift:
            by = tuple(_within(u[f"channel_shift {axis}"], self.channel_shift) for axis in range(len(space.extent)))
            few = len(channels) < space.channels
            to = space.moved(channels if few else np.arange(space.channels, dtype=np.int32), by).astype(np.int32)
            channels = to if few else to[channels]
        if self.channel_jitter:
            jitter = rng.normal(scale=self.channel_jitter, size=(len(space.extent), len(steps)))
            channels = np.where(channels < 0, -1, space.moved(channels, tuple(np.rint(jitter).astype(np.int64))))
            ordered = False

        keep = np.ones(len(steps), dtype=bool)
        if steps.dtype.kind == "i":
            keep &= (steps >= 0) & (steps < LAST_STEP)
        if channels.dtype.kind == "i":
            keep &= channels >= 0
        if self.mask_time:
            widest = _in_steps(self.mask_time, space)
            start, stop = _band(u["mask_time"], u["mask_time at"], widest, int(steps.max()) + 1)
            keep &= (steps < start) | (steps >= stop)
        if self.mask_channels:
            masked = np.ones(space.channels, dtype=bool)
            for axis, (at, size) in enumerate(zip(space.axes(np.arange(space.channels)), space.extent, strict=True)):
                start, stop = _band(u["mask_channels"], u[f"mask_channels at {axis}"], self.mask_channels, size)
                masked &= (at >= start) & (at < stop)
            keep &= ~masked[channels]
        if self.drop:
            keep &= rng.random(len(steps), dtype=np.float32) >= self.drop
        # the numbers of what came last to this class are drawn last: those above stay what they were
        if self.channel_stretch and keep.any():
            factor = 1 + self.channel_stretch * (2 * rng.random() - 1)
            channels = _stretched(channels, factor, space, rng)
            keep &= channels >= 0
            ordered = False
        if self.equalise and keep.any():
            kept = _spectrum(self.equalise, space, rng)
            keep &= rng.random(len(steps)) < kept[channels]
        places = np.flatnonzero(keep)
        if len(places) < len(steps):
            steps, channels = steps[places], channels[places]
        if not ordered:
            steps, channels = space.ordered(steps, channels)
        return Sample(steps, channels, int(steps[-1]) + 1 if len(steps) else 1)


def _in_steps(time: float, space: Space) -> float:
    """A time in ms as steps, no more than any sample has."""
    return min(time / space.dt, LAST_STEP)


def _within(u: float, most: int) -> int:
    """A whole number from -most to most."""
    return int(u * (2 * most + 1)) - most


def _band(width: float, place: float, widest: float, size: int) -> tuple[int, int]:
    """Start and stop of a stretch of 0 to `widest` places somewhere in 0 .. size."""
    taken = min(int(width * (int(widest + EDGE) + 1)), max(size, 0))
    start = int(place * (size - taken + 1))
    return start, start + taken


def _stretched(channels: np.ndarray, factor: float, space: Space, rng: np.random.Generator) -> np.ndarray:
    """Channels times a factor, those of a camera about the middle of each axis; -1 where that leads off them."""
    by = []
    for at, size in zip(space.axes(channels), space.extent, strict=True):
        middle = 0.0 if space.grid is None else size / 2
        to = np.floor((at + rng.random(len(at)) - middle) * factor + middle)
        by.append(to.astype(np.int64) - at)
    return np.where(channels < 0, -1, space.moved(channels, tuple(by)))


def _spectrum(deviation: float, space: Space, rng: np.random.Generator) -> np.ndarray:
    """The probability by which each channel keeps an event: smooth over the channels, 1 in a quarter of them."""
    log_gain = np.zeros(space.channels)
    for at, size in zip(space.axes(np.arange(space.channels)), space.extent, strict=True):
        amplitudes = rng.normal(size=len(COSINES)) / np.sqrt(COSINES)
        waves = np.cos(np.pi * COSINES[:, None] * (np.arange(size) / size + rng.random()))
        log_gain += (deviation * amplitudes @ waves)[at]
    kept: np.ndarray = np.minimum(np.exp(log_gain - np.quantile(log_gain, 0.75)), 1)
    return kept


def _blended(sample: Sample, other: Sample, space: Space, rng: np.random.Generator) -> Sample:
    """Half the events of two samples, the other moved onto the first; not in order."""
    if not len(sample.steps) or not len(other.steps):
        return sample
    later = round(float(sample.steps.mean() - other.steps.mean()))
    by = tuple(
        round(float(own.mean() - its.mean()))
        for own, its in zip(space.axes(sample.channels), space.axes(other.channels), strict=True)
    )
    steps = np.concatenate([sample.steps, other.steps + np.int64(later)])
    channels = np.concatenate([sample.channels, space.moved(other.channels, by)])
    places = np.flatnonzero((rng.random(len(steps), dtype=np.float32) < 0.5) & (steps >= 0) & (channels >= 0))
    steps = steps[places]
    return Sample(steps, channels[places], int(steps.max()) + 1 if len(steps) else 1)
