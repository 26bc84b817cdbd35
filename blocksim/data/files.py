"""Opening a data set: which reader a path needs, told from its content."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from blocksim.data.dataset import EventDataset
from blocksim.data.hdf5 import HDF5Source
from blocksim.data.npz import open_npz
from blocksim.data.sources import Source
from blocksim.errors import FileError
from blocksim.validation import whole

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def open_dataset(
    path: str | Path,
    dt: float = 1.0,
    steps: int | None = None,
    *,
    pool: int = 1,
    clip: bool = False,
    channels: int | None = None,
    sensor: tuple[int, int] | None = None,
    cache_bytes: int = 2**30,
) -> EventDataset:
    """Open a file of labelled events; its kind is told from its content, and samples are read when they are needed.

    Parameters
    ----------
    path : str or Path
        - an HDF5 file in the layout of the Spiking Heidelberg Digits and the Spiking Speech Commands: `spikes/times`
          (s), `spikes/units`, `labels`, and where there are any `extra/keys` (class names), `extra/speaker`,
          `extra/meta_info/speaker_names`. Needs the extra `hdf5`;
        - a `.npz` file of spikes: `times` (events,) in ms, `units` (events,), `offsets` (n + 1,), `labels` (n,); sample
          k is offsets[k]:offsets[k + 1]. Optional: `channels` (without it: as many as are used), `class_names`,
          `groups` (n,), `group_names`. `write_events` makes one;
        - a `.npz` file of a camera's events: `x`, `y`, `p` (0 or 1), `t_us` (microseconds), `offsets`, `labels`, and
          optionally `sensor`, its (height, width), and names and groups as above.
    dt, steps, pool, clip, cache_bytes
        As for `EventDataset`.
    channels : int or None
        Number of channels; None: what the file says, or 700 for HDF5.
    sensor : (height, width) or None
        Pixels of the camera; None: what the file says, or 34 x 34, N-MNIST's. Channel = (p * height + y) * width + x.

    Returns
    -------
    EventDataset

    Raises
    ------
    FileError
        The file cannot be read, is of another format, truncated, or inconsistent: names the file and what was found.
        What lies within a sample is checked when the sample is read.
    MissingLibraryError
        HDF5, and h5py is not installed.
    """
    if channels is not None:
        channels = whole("channels", channels, 1)
    if sensor is not None:
        sensor = (whole("sensor: height", sensor[0], 1), whole("sensor: width", sensor[1], 1))
    source = _source(Path(path), channels, sensor)
    return EventDataset(source, dt, steps, pool=pool, clip=clip, cache_bytes=cache_bytes)


def _source(path: Path, channels: int | None, sensor: tuple[int, int] | None) -> Source:
    try:
        with path.open("rb") as file:
            magic = file.read(8)
        if magic == HDF5_MAGIC:
            return HDF5Source(path, channels)
        if magic[:4] == b"PK\x03\x04" and _members(path, ".npy"):
            return open_npz(path, channels, sensor)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: expected a file that can be read; found: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise FileError(f"{path}: expected a whole .npz or .zip file; found one that is truncated ({error})") from error
    raise FileError(
        f"{path}: expected an HDF5 file in the layout of the Spiking Heidelberg Digits or a .npz file of events; found "
        + (f"a file that begins with {magic!r}" if magic else "an empty file")
        + _advice(path, magic)
    )


def _members(path: Path, suffix: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if name.endswith(suffix)]


def _advice(path: Path, magic: bytes) -> Any:
    if magic[:2] == b"\x1f\x8b" or magic[:4] == b"PK\x03\x04":
        return " (a compressed file: unpack it first)"
    return ""
