"""Opening a data set: the reader for a path is chosen by content."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from blocksim._array_io import DAMAGED, opened
from blocksim._atomic_io import named
from blocksim._validation import found, items, whole_number
from blocksim.data._dataset import EventDataset
from blocksim.data._hdf5 import HDF5Source
from blocksim.data._nmnist import TreeSource
from blocksim.data._npz import open_npz
from blocksim.data.sources import Source, listed
from blocksim.errors import ArgumentError, FileError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
GZIP_MAGIC = b"\x1f\x8b"
TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257
KINDS = (
    "an HDF5 file in the layout of the Spiking Heidelberg Digits, a .npz file of events, or a folder, zip or tar "
    "archive of N-MNIST .bin files"
)


def open_dataset(
    path: str | Path,
    dt: float = 1.0,
    steps: int | None = None,
    *,
    pool: int = 1,
    clip: bool = False,
    trim: float | None = None,
    span: float | None = None,
    delays: Sequence[float] = (0.0,),
    channels: int | None = None,
    sensor: tuple[int, int] | None = None,
    cache_bytes: int = 2**30,
) -> EventDataset:
    """Open a file of labelled events. Its format is recognised by content; samples are read when they are needed.

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
          optionally `sensor`, its (height, width), and names and groups as above;
        - N-MNIST's original files, CLASS/NAME.bin, in a folder (`Train` or `Test`), a zip or an uncompressed tar
          archive.
    dt, steps, pool, clip, trim, span, delays, cache_bytes
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
    ArgumentError
        A setting out of range.
    FileError
        The file cannot be read, is of another format, truncated, or inconsistent: names the file and what was found.
        What lies within a sample is checked when the sample is read.
    MissingLibraryError
        HDF5, and h5py is not installed.

    Warns
    -----
    BlocksimWarning
        Times of another unit would fit: see `EventDataset`.
    """
    if channels is not None:
        channels = whole_number("channels", channels, 1)
    if sensor is not None:
        height, width = items("sensor", sensor, "(height, width)", 2)
        sensor = (whole_number("sensor: height", height, 1), whole_number("sensor: width", width, 1))
    if not isinstance(path, (str, os.PathLike)) or "\0" in os.fspath(path):
        raise ArgumentError(f"path: expected the name of a file or folder; found {found(path)}")
    source = _source(named(path), channels, sensor)
    return EventDataset(
        source, dt, steps, pool=pool, clip=clip, trim=trim, span=span, delays=delays, cache_bytes=cache_bytes
    )


def _source(path: Path, channels: int | None, sensor: tuple[int, int] | None) -> Source:
    try:
        if path.is_dir():
            return TreeSource(path, sensor)
        with opened(path) as file:
            magic = file.read(8)
            file.seek(TAR_MAGIC_AT)
            tar = file.read(len(TAR_MAGIC)) == TAR_MAGIC
        if magic == HDF5_MAGIC:
            return HDF5Source(path, channels)
        if magic[:4] == ZIP_MAGIC:
            return _from_zip(path, channels, sensor)
        if tar:
            return TreeSource(path, sensor)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: expected a file that can be read; found: {error.strerror or error}") from error
    except (*DAMAGED, tarfile.TarError) as error:
        raise FileError(
            f"{path}: expected a whole archive; found one that is truncated or damaged ({error})"
        ) from error
    content = f"a file that begins with {magic!r}" if magic else "an empty file"
    advice = " (a compressed file: unpack it first)" if magic[:2] == GZIP_MAGIC else ""
    raise FileError(f"{path}: expected {KINDS}; found {content}{advice}")


def _from_zip(path: Path, channels: int | None, sensor: tuple[int, int] | None) -> Source:
    with zipfile.ZipFile(path) as archive:
        suffixes = {Path(name).suffix for name in archive.namelist()}
    if ".npy" in suffixes:
        return open_npz(path, channels, sensor)
    if ".bin" in suffixes:
        return TreeSource(path, sensor)
    advice = " (unpack it first)" if ".h5" in suffixes else ""
    raise FileError(f"{path}: expected {KINDS}; found a zip archive with files {listed(suffixes)}{advice}")
