"""Event files in NumPy's `.npz` format: spikes with the channel they arrive on, or a camera's pixels.

Owns the names of their arrays. Uncompressed arrays are read once, to verify them, and again where a sample is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._array_io import DAMAGED, check_output, npz_archive, write_npz
from blocksim._npy import one_line
from blocksim._validation import whole_number
from blocksim.data._nmnist import POLARITIES, SENSOR
from blocksim.data.sources import ArraySource, Source, grid_channels, join_lists, listed
from blocksim.errors import ArgumentError, FileError
from blocksim.trains import exact_times

SPIKES = ("times", "units", "offsets", "labels")
PIXELS = ("x", "y", "p", "t_us", "offsets", "labels")
# one value an event: these are left in the file
LONG = ("times", "units", "x", "y", "p", "t_us")


def open_npz(path: Path, channels: int | None, sensor: tuple[int, int] | None) -> Source:
    """The events of a `.npz` file; `blocksim.data.open_dataset` describes both kinds."""
    try:
        with npz_archive(path) as archive:
            names = set(archive.files)
            if not names >= set(SPIKES) and not names >= set(PIXELS):
                raise FileError(
                    f"{path}: expected a .npz file with the arrays {', '.join(SPIKES)} or {', '.join(PIXELS)}; found "
                    f"{listed(names)}"
                )
            arrays: dict[str, Any] = {}  # those of one value an event as they lie in the file
            for name in names & {*SPIKES, *PIXELS, "channels", "sensor", "class_names", "groups", "group_names"}:
                arrays[name] = archive.stored(name) if name in LONG else archive[name]
    except DAMAGED as error:
        raise FileError(
            f"{path}: expected a whole .npz file of numbers; found one that is truncated, damaged or pickled "
            f"({one_line(error)})"
        ) from error
    common: dict[str, Any] = {
        "name": str(path),
        "labels": arrays["labels"],
        "class_names": arrays.get("class_names"),
        "groups": arrays.get("groups"),
        "group_names": arrays.get("group_names"),
    }
    if names >= set(PIXELS):
        size = sensor or _numbers(path, "sensor", arrays.get("sensor", np.array(SENSOR)))
        return PixelSource({name: arrays[name] for name in PIXELS}, size, common)
    if channels is None and "channels" in arrays:
        numbers = _numbers(path, "channels", arrays["channels"])
        if len(numbers) != 1 or numbers[0] < 1:
            raise FileError(f"{path}: expected channels to be one number of 1 or more; found {numbers[:5]}")
        channels = numbers[0]
    units = arrays["units"]
    if channels is None:
        # as many as are used
        channels = max(int(units.max()), 0) + 1 if units.size and units.dtype.kind in "iu" else 1
    return ArraySource(arrays["times"], units, arrays["offsets"], kind=".npz spikes", channels=channels, **common)


class PixelSource(ArraySource):
    """A camera's events: x, y, p and times in microseconds."""

    def __init__(self, arrays: dict[str, np.ndarray], sensor: tuple[int, ...], common: dict[str, Any]) -> None:
        path = common["name"]
        if len(sensor) != 2 or min(sensor) < 1:
            raise FileError(f"{path}: expected a sensor of (height, width) pixels; found {sensor}")
        coordinates = tuple(arrays[name] for name in ("x", "y", "p"))
        lengths = {values.shape for values in (*coordinates, arrays["t_us"])}
        if len(lengths) > 1 or any(values.dtype.kind not in "iub" for values in coordinates):
            raise FileError(
                f"{path}: expected integer arrays x, y, p as long as t_us, {arrays['t_us'].shape}; found "
                + ", ".join(f"{values.dtype} {values.shape}" for values in coordinates)
            )
        grid = (POLARITIES, *sensor)
        super().__init__(
            arrays["t_us"], arrays["x"], arrays["offsets"],
            kind=".npz camera events", channels=math.prod(grid), grid=grid, unit="us", **common,
        )  # fmt: skip
        self._coordinates = coordinates

    def read(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Source.read`."""
        part = slice(self._offsets[sample], self._offsets[sample + 1])
        x, y, p = (np.asarray(values[part]) for values in self._coordinates)
        return exact_times(np.asarray(self._times[part]), self.unit or "ms"), grid_channels(self, sample, x, y, p)


def write_events(
    path: str | Path,
    times: Sequence[Any],
    units: Sequence[Any],
    labels: Any,
    *,
    channels: int,
    class_names: Sequence[str] | None = None,
    groups: Any = None,
    group_names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write labelled spike trains as a `.npz` file that `open_dataset` reads.

    Parameters
    ----------
    path : str or Path
        A name that ends in .npz. Written whole or not at all.
    times, units : sequences of (events,) arrays
        Spike times in ms and channels, one pair of arrays a sample.
    labels : (n,) array of integers
        Class of each sample.
    channels : int
        Number of channels.
    class_names, groups, group_names
        As `EventDataset` has them; None: none.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    ArgumentError
        The arrays do not fit together.
    FileError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from blocksim.data import open_dataset, write_events
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_events(Path(folder) / "two.npz", [[0.5, 2.0], [1.0]], [[0, 1], [2]], [0, 1], channels=3)
    ...     len(open_dataset(Path(folder) / "two.npz", dt=1.0))
    2
    """
    path = check_output(path, (".npz",), overwrite)
    when, which, offsets = join_lists(times, units)
    source = ArraySource(
        when, which, offsets, name="write_events", kind="arrays", labels=labels,
        channels=whole_number("channels", channels, 1), class_names=class_names, groups=groups, group_names=group_names,
        error=ArgumentError,
    )  # fmt: skip
    for sample in range(len(source)):
        source.checked(sample)
    arrays = {
        "times": when, "units": which, "offsets": offsets, "labels": source.labels, "channels": np.int64(channels),
        "class_names": np.array(source.class_names),
    }  # fmt: skip
    if source.groups is not None:
        arrays["groups"] = source.groups
    if group_names is not None and source.group_names is not None:
        arrays["group_names"] = np.array(tuple(source.group_names))
    write_npz(path, {name: np.asarray(array) for name, array in arrays.items()})


def _numbers(path: Path, name: str, values: np.ndarray) -> tuple[int, ...]:
    """The values, found to be whole numbers."""
    if values.dtype.kind not in "iu":
        raise FileError(f"{path}: expected {name} to be whole numbers; found {np.ravel(values)[:3]} ({values.dtype})")
    return tuple(int(value) for value in np.ravel(values))
