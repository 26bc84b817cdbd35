"""Sources of events: the interface of every reader, and the source for arrays in memory.

Owns the checks that are the same for every format, and files kept open over forks and threads. Times are ms, float64; a
sample is read when it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from blocksim._events import given_pairs
from blocksim._units import in_unit
from blocksim._validation import found, frozen, real_array
from blocksim.errors import ArgumentError, BlocksimError, FileError
from blocksim.trains import exact_times

# a network has an output for every class: more are no classes, but numbers of something else
MAX_CLASSES = 100_000
# of `Events`
MAX_CHANNELS = 2**31 - 1


class Numbered(Sequence[str]):
    """The digits of 0, 1, ... as names, made when they are asked for: a group may be numbered by its date.

    >>> from blocksim.data.sources import Numbered
    >>> Numbered(20_231_105)[20_231_104], Numbered(2) == ("0", "1")
    ('20231104', True)
    """

    def __init__(self, count: int) -> None:
        self._numbers = range(count)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        numbers = self._numbers[index]
        return tuple(map(str, numbers)) if isinstance(numbers, range) else str(numbers)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Numbered):
            return len(self) == len(other)
        return isinstance(other, tuple) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Numbered({len(self)})"


class OwnLock:
    """A lock of this process: a fork while another thread holds it does not leave the child locked out.

    It goes to another process as a new one.
    """

    def __init__(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            self.__init__()  # type: ignore[misc]
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


class KeptOpen:
    """A file that stays open between reads, for one thread at a time, and is reopened in every process.

    Processes that share an open file, as after a fork, share its position: each reads what the others sought.

    Parameters
    ----------
    opener : callable
        Opens it; of a kind that can be pickled.
    """

    def __init__(self, opener: Callable[[], Any]) -> None:
        self._opener, self._lock = opener, OwnLock()
        self._file: Any = None
        self._process = -1

    @contextlib.contextmanager
    def use(self) -> Iterator[Any]:
        """What `opener` returns, for this thread alone."""
        with self._lock:
            if self._process != os.getpid():
                self._file, self._process = self._opener(), os.getpid()
            yield self._file

    def close(self) -> None:
        """Close it; the next use opens it again."""
        with self._lock:
            if self._file is not None and self._process == os.getpid():
                self._file.close()
            self._file, self._process = None, -1

    def __getstate__(self) -> dict[str, Any]:
        return {"_opener": self._opener}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_opener"])  # type: ignore[misc]


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
    class_names : sequence of str or bytes, or None
        None: the labels' digits.
    groups : (n,) integer array or None
        Speaker, say, of each sample.
    group_names : sequence of str or bytes, or None
        None: the groups' digits.
    error : type
        What `wrong` raises: FileError, or ArgumentError for arrays.
    unit : str or None
        Unit in which the times are stored, one of `blocksim.trains.UNITS`; None: the format leaves no doubt.

    Raises
    ------
    FileError or ArgumentError
        `error`: there is no sample, labels or groups are not whole numbers of 0 or more, one a sample, there are too
        many channels or classes, or names are not texts or too few.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        labels: Any,
        channels: int,
        grid: tuple[int, int, int] | None = None,
        class_names: Any = None,
        groups: Any = None,
        group_names: Any = None,
        error: type[BlocksimError] = FileError,
        unit: str | None = "ms",
    ) -> None:
        self.name, self.kind, self.channels, self.grid, self.error = name, kind, channels, grid, error
        self.unit = unit
        if channels > MAX_CHANNELS:
            raise self.wrong(f"expected at most {MAX_CHANNELS} channels; found {channels}")
        self.labels = self._numbers("labels", labels, None)
        if not len(self.labels):
            raise self.wrong("expected at least one labelled sample; found none")
        if self.labels.max() >= MAX_CLASSES:
            raise self.wrong(
                f"expected labels, classes numbered 0, 1, ...; found {self.labels.max()} (number them with "
                "numpy.unique(labels, return_inverse=True), and give the class names)"
            )
        self.class_names = tuple(self._names("class", self.labels, class_names))
        self.groups = None if groups is None else self._numbers("groups", groups, len(self.labels))
        self.group_names = None if self.groups is None else self._names("group", self.groups, group_names)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Times in ms (events,) float64, and channels (events,) of any integer dtype, in any order.

        Subclasses must define it.

        Raises
        ------
        FileError
            The sample cannot be read; raised by `wrong`.
        """
        raise NotImplementedError

    def checked(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """What `read` gives, found to be in range.

        Raises
        ------
        FileError or ArgumentError
            What `wrong` makes: times and channels differ in shape, a time is negative or not finite, or a channel is
            not below `channels`.
        """
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
            values = in_unit(what, values, None)
            values = real_array(what, values if isinstance(values, np.ndarray) else np.asarray(values))
        except ArgumentError as error:
            raise self.wrong(str(error)) from error
        except (TypeError, ValueError) as error:  # lists of several lengths
            raise self.wrong(f"expected {what}, whole numbers, one a sample; found {found(values)}") from error
        if values.ndim != 1 or (values.size and (values.dtype.kind not in "iu" or values.min() < 0)):
            detail = f", from {values.min()} on" if values.size and values.dtype.kind in "iu" else ""
            raise self.wrong(
                f"expected {what}, whole numbers of 0 or more, one a sample; found {found(values)}{detail}"
            )
        if length is not None and len(values) != length:
            raise self.wrong(f"expected {length} {what}, one a label; found {len(values)}")
        if values.size and values.max() > np.iinfo(np.int64).max:
            raise self.wrong(f"expected {what} that 64 bits hold; found {values.max()}")
        return frozen(values.astype(np.int64))

    def _names(self, what: str, numbers: np.ndarray, names: Any) -> Sequence[str]:
        top = int(numbers.max())
        if names is None:
            return Numbered(top + 1)
        texts = self._texts(what, names)
        if len(texts) <= top:
            raise self.wrong(f"expected a name for each {what} up to {top}; found {len(texts)} names")
        return texts

    def _texts(self, what: str, names: Any) -> tuple[str, ...]:
        """Names, which other programs store as bytes, in UTF-8 or, on old Windows systems, in Latin-1."""
        try:
            values = list(np.ravel(names)) if isinstance(names, np.ndarray) else list(names)
        except TypeError:
            values = [None]
        texts = []
        for name in values:
            if isinstance(name, bytes):
                try:
                    name = name.decode()
                except UnicodeDecodeError:
                    name = name.decode("latin-1")
            elif not isinstance(name, (str, int, np.integer)):
                raise self.wrong(f"expected {what}_names to be texts; found {found(name)}")
            texts.append(str(name))
        return tuple(texts)


class ArraySource(Source):
    """Events of all samples in three arrays: sample k is times[offsets[k]:offsets[k + 1]].

    Parameters
    ----------
    times : (events,) array
        In `unit`, of any precision and byte order.
    units : (events,) integer array
    offsets : (n + 1,) integer array
        Ascending, from 0 to the number of events.
    more
        As for `Source`.

    Raises
    ------
    FileError or ArgumentError
        As `Source`; or an array is not one-dimensional or of another dtype, times and units differ in length, or the
        offsets do not ascend from 0 to the number of events, one more than labels.
    """

    def __init__(
        self,
        times: np.ndarray,
        units: np.ndarray,
        offsets: np.ndarray,
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
        self._times, self._units, self._offsets = times, units, offsets.astype(np.int64)

    def read(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Source.read`."""
        part = slice(self._offsets[sample], self._offsets[sample + 1])
        return exact_times(np.asarray(self._times[part]), self.unit or "ms"), np.asarray(self._units[part])


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
    x, y, p = (values.astype(np.int32) for values in (x, y, p))  # as many channels as there may be, they hold
    channels: np.ndarray = (p * np.int32(height) + y) * np.int32(width) + x
    return channels


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for a message, in order; cut short where there are many."""
    ordered = sorted(name if name.isprintable() else ascii(name) for name in names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return (", ".join(ordered[:most]) or "none") + more


def join_lists(times: Sequence[Any], units: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spike trains, one pair of arrays a sample, as times (float64), units (int64) and offsets of `ArraySource`."""
    pairs = given_pairs(times, units)
    offsets = np.concatenate([[0], np.cumsum([len(when) for when, _ in pairs], dtype=np.int64)])
    for sample, (_, which) in enumerate(pairs):
        if which.size and which.max() > np.iinfo(np.int64).max:
            raise ArgumentError(
                f"units: expected whole numbers that 64 bits hold in sample {sample}; found {which.max()}"
            )
    when = np.concatenate([np.zeros(0), *(when for when, _ in pairs)])
    which = np.concatenate([np.zeros(0, np.int64), *(which.astype(np.int64) for _, which in pairs)])
    return when, which, offsets
