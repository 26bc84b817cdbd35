"""Where the events of a data set come from: what every reader offers, and the one for arrays in memory.

Owns the checks that are the same for every format. Times are ms, float64; a sample is read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from blocksim.errors import ArgumentError, BlocksimError, FileError
from blocksim.validation import found, frozen, real_array


class Source:
    """Labelled samples of events; a format is a subclass with `read`.

    Parameters
    ----------
    name : str
        What messages call it: the path of a file.
    kind : str
        The format, in words.
    labels : (n,) integer array
        Class of each sample, 0 or more.
    channels : int
        Number of input channels.
    grid : (polarities, height, width) or None
        Where channels are pixels: channel = (polarity * height + y) * width + x.
    class_names : sequence of str or None
        None: the labels' digits.
    groups : (n,) integer array or None
        Speaker, say, of each sample.
    group_names : sequence of str or None
        None: the groups' digits.
    error : type
        What `wrong` raises: FileError, or ArgumentError for arrays.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        labels: Any,
        channels: int,
        grid: tuple[int, int, int] | None = None,
        class_names: Sequence[str] | None = None,
        groups: Any = None,
        group_names: Sequence[str] | None = None,
        error: type[BlocksimError] = FileError,
    ) -> None:
        self.name, self.kind, self.channels, self.grid, self.error = name, kind, channels, grid, error
        self.labels = self._numbers("labels", labels, None)
        if not len(self.labels):
            raise self.wrong("expected at least one labelled sample; found none")
        self.class_names = self._names("class", self.labels, class_names)
        self.groups = None if groups is None else self._numbers("groups", groups, len(self.labels))
        self.group_names = None if self.groups is None else self._names("group", self.groups, group_names)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Times in ms (events,) float64, and channels (events,) of any integer dtype, in any order."""
        raise NotImplementedError

    def checked(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """What `read` gives, found to be in range."""
        times, units = self.read(sample)
        if times.ndim != 1 or times.shape != units.shape:
            raise self.wrong(
                f"expected as many times as units in {self.which(sample)}; found shapes {times.shape} and {units.shape}"
            )
        if times.size:
            low, high = times.min(), times.max()
            if not (low >= 0 and high < np.inf):
                worst = low if low < 0 else "NaN or infinity"
                raise self.wrong(f"expected finite times of 0 ms or later in {self.which(sample)}; found {worst}")
            if not 0 <= units.min() <= units.max() < self.channels:
                worst = units.min() if units.min() < 0 else units.max()
                raise self.wrong(
                    f"expected channels from 0 to {self.channels - 1} in {self.which(sample)}; found {worst} "
                    "(is the number of channels right?)"
                )
        return times, units

    def which(self, sample: int) -> str:
        """What messages call a sample."""
        return f"sample {sample}"

    def wrong(self, message: str) -> BlocksimError:
        """The error to raise, naming the file."""
        return self.error(f"{self.name}: {message}")

    def _numbers(self, what: str, values: Any, length: int | None) -> np.ndarray:
        try:
            values = real_array(what, values)
        except ArgumentError as error:
            raise self.wrong(str(error)) from error
        if values.ndim != 1 or (values.size and (values.dtype.kind not in "iu" or values.min() < 0)):
            detail = f", from {values.min()} on" if values.size and values.dtype.kind in "iu" else ""
            raise self.wrong(
                f"expected {what}, whole numbers of 0 or more, one a sample; found {found(values)}{detail}"
            )
        if length is not None and len(values) != length:
            raise self.wrong(f"expected {length} {what}, one a label; found {len(values)}")
        return frozen(values.astype(np.int64))

    def _names(self, what: str, numbers: np.ndarray, names: Sequence[str] | None) -> tuple[str, ...]:
        top = int(numbers.max())
        if names is None:
            return tuple(str(number) for number in range(top + 1))
        if len(names) <= top:
            raise self.wrong(f"expected a name for each {what} up to {top}; found {len(names)} names")
        return tuple(str(name) for name in names)


class ArraySource(Source):
    """Events of all samples in three arrays: sample k is times[offsets[k]:offsets[k + 1]].

    Parameters
    ----------
    times : (events,) array
        In units of `scale` ms.
    units : (events,) integer array
    offsets : (n + 1,) integer array
        Ascending, from 0 to the number of events.
    scale : float
        Length of the unit of `times` in ms.
    more
        As for `Source`.
    """

    def __init__(
        self,
        times: np.ndarray,
        units: np.ndarray,
        offsets: np.ndarray,
        scale: float = 1.0,
        *,
        name: str,
        kind: str,
        labels: Any,
        channels: int,
        **settings: Any,
    ) -> None:
        super().__init__(name, kind, labels, channels, **settings)
        for what, array in (("times", times), ("units", units), ("offsets", offsets)):
            if array.ndim != 1 or array.dtype.kind not in ("iuf" if what == "times" else "iu"):
                wanted = "one-dimensional array of " + ("numbers" if what == "times" else "integers")
                raise self.wrong(f"expected {what} to be a {wanted}; found {found(array)}")
        if len(times) != len(units):
            raise self.wrong(f"expected as many times as units; found {len(times)} and {len(units)}")
        check_offsets(self, offsets, len(times))
        self._times, self._units, self._offsets, self._scale = times, units, offsets.astype(np.int64), scale

    def read(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Source.read`."""
        part = slice(self._offsets[sample], self._offsets[sample + 1])
        times = in_ms(self._times[part], self._scale)
        return times, np.asarray(self._units[part])


def check_offsets(source: Source, offsets: np.ndarray, events: int) -> None:
    """Raise unless offsets cut `events` events into as many samples as there are labels."""
    if len(offsets) != len(source) + 1:
        raise source.wrong(
            f"expected one offset more than labels, {len(source) + 1} for {len(source)} samples; found {len(offsets)}"
        )
    if offsets[0] != 0 or offsets[-1] != events or (offsets[1:] < offsets[:-1]).any():
        order = ", not ascending" if (offsets[1:] < offsets[:-1]).any() else ""
        raise source.wrong(
            f"expected offsets ascending from 0 to the number of events, {events}; found them from {offsets[0]} to "
            f"{offsets[-1]}{order}"
        )


def in_ms(times: np.ndarray, scale: float) -> np.ndarray:
    """Stored times as ms, float64.

    Single precision, which cannot hold 0.3, is read to the nearest microsecond, so that 0.3 s is 300 ms and not just
    below; half precision is coarser than that and is taken as it stands.
    """
    exact: np.ndarray = times.astype(np.float64) * scale
    return np.round(exact, 3) if times.dtype == np.float32 else exact


def grid_channels(source: Source, sample: int, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Channel of each event of a camera, int32: (polarity * height + y) * width + x, found to be in range."""
    assert source.grid is not None
    polarities, height, width = source.grid
    for what, values, stop in (("x", x, width), ("y", y, height), ("p", p, polarities)):
        if values.size and not 0 <= values.min() <= values.max() < stop:
            worst = values.min() if values.min() < 0 else values.max()
            raise source.wrong(
                f"expected {what} from 0 to {stop - 1} in {source.which(sample)}, a sensor of {width} x {height} "
                f"pixels; found {worst} (give the sensor's (height, width) if it is another)"
            )
    channels: np.ndarray = (p.astype(np.int32) * height + y) * width + x
    return channels


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for a message, in order; cut short where there are many."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return (", ".join(ordered[:most]) or "none") + more


def join_lists(times: Sequence[Any], units: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spike trains, one pair of arrays a sample, as times (float64), units (int64) and offsets of `ArraySource`."""
    if len(times) != len(units):
        raise ArgumentError(f"times, units: expected one array of each a sample; found {len(times)} and {len(units)}")
    when = [np.asarray(one, dtype=np.float64) for one in times]
    # an empty list is an array of floats to NumPy
    which = [np.asarray(one) if np.size(one) else np.zeros(0, np.int64) for one in units]
    for sample, (a, b) in enumerate(zip(when, which, strict=True)):
        if a.ndim != 1 or a.shape != b.shape or b.dtype.kind not in "iu":
            raise ArgumentError(
                f"times, units: expected one time and one whole number for each event of sample {sample}; found shapes "
                f"{a.shape} and {b.shape}, units of dtype {b.dtype}"
            )
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in when], dtype=np.int64)])
    joined = np.concatenate([np.zeros(0), *when]), np.concatenate([np.zeros(0, np.int64), *which], dtype=np.int64)
    return *joined, offsets
