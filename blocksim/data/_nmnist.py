"""Trees of N-MNIST `.bin` files, in a folder, a zip or a tar archive.

Owns the binary format (Orchard et al. 2015, doi 10.3389/fnins.2015.00437): 5 bytes an event, x, y, and big-endian one
bit of polarity and 23 bits of time in microseconds. An event at y = 240 is no event: it says that the clock has
overflowed, and 2**13 us are added to the times from there on.
"""

from __future__ import annotations

import functools
import math
import os
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from blocksim._array_io import DAMAGED
from blocksim.data.sources import KeptOpen, Source, grid_channels, listed
from blocksim.errors import FileError
from blocksim.trains import exact_times

SENSOR = (34, 34)
POLARITIES = 2
OVERFLOW_Y = 240
OVERFLOW_US = 2**13
EVENT_BYTES = 5
# of a sample, in an archive that could unpack to anything: 27 million events
MAX_BYTES = 2**27
# what macOS adds to archives
LITTER = "__MACOSX/"
MEMBER = re.compile(r"(?:(.*)/)?(\d+)/[^/.][^/]*\.bin")


def decode(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Events of one file's content.

    Returns
    -------
    x, y, p : (events,) uint8 arrays
        Pixels; p is 1 for ON.
    t_us : (events,) int64 array
        Microseconds.

    Raises
    ------
    ValueError
        No events, or not a whole number of them.
    """
    if not data or len(data) % EVENT_BYTES:
        raise ValueError(f"expected {EVENT_BYTES} bytes an event, at least one event; found {len(data)} bytes")
    raw = np.frombuffer(data, dtype=np.uint8).reshape(-1, EVENT_BYTES)
    x, y = raw[:, 0], raw[:, 1]
    p = raw[:, 2] >> 7
    t_us = (raw[:, 2].astype(np.int64) & 0x7F) << 16 | raw[:, 3].astype(np.int64) << 8 | raw[:, 4]
    overflow = y == OVERFLOW_Y
    if overflow.any():
        t_us = t_us + OVERFLOW_US * np.cumsum(overflow)
        x, y, p, t_us = (values[~overflow] for values in (x, y, p, t_us))
    return x, y, p, t_us


class TreeSource(Source):
    """CLASS/NAME.bin in a folder or an archive, perhaps below one more folder; samples by class, then name.

    Parameters
    ----------
    path : Path
        A folder, a .zip or an uncompressed .tar file.
    sensor : (height, width) or None
        None: N-MNIST's.
    """

    def __init__(self, path: Path, sensor: tuple[int, int] | None) -> None:
        self._path = path
        self._zip = KeptOpen(functools.partial(zipfile.ZipFile, path))
        self._stretches: dict[str, tuple[int, int]] = {}  # where each file of a tar archive lies
        found = sorted(
            (
                (match[1] or "", int(match[2]), name)
                for name in self._found()
                if (match := MEMBER.fullmatch(name)) and not name.startswith(LITTER)
            ),
            key=lambda item: item[1:],
        )
        if not found:
            raise FileError(f"{path}: expected files CLASS/NAME.bin, the class a number (N-MNIST); found none")
        parents = sorted({parent for parent, _, _ in found})
        if len(parents) > 1:
            what = "open one of them" if path.is_dir() else "unpack it, and open one of them"
            folders = listed(parent or "." for parent in parents)
            raise FileError(f"{path}: expected one set of folders, one a class; found them in {folders} ({what})")
        self._members = [name for _, _, name in found]
        grid = (POLARITIES, *(sensor or SENSOR))
        super().__init__(
            str(path),
            "N-MNIST .bin files",
            np.array([label for _, label, _ in found]),
            math.prod(grid),
            grid,
            unit=None,
        )

    def which(self, sample: int) -> str:
        """As `Source.which`."""
        return f"sample {sample} ({self._members[sample]})"

    def read(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Source.read`."""
        try:
            content = self._content(self._members[sample])
        except (OSError, *DAMAGED) as error:
            raise self.wrong(f"{self.which(sample)}: expected a file that can be read; found: {error}") from error
        try:
            x, y, p, t_us = decode(content)
        except ValueError as error:
            raise self.wrong(f"{self.which(sample)}: {error}") from error
        return exact_times(t_us, "us"), grid_channels(self, sample, x, y, p)

    def _found(self) -> list[str]:
        if self._path.is_dir():
            return [
                Path(folder, file).relative_to(self._path).as_posix()
                for folder, _, files in os.walk(self._path)
                for file in files
            ]
        if zipfile.is_zipfile(self._path):
            with self._zip.use() as archive:
                return list(archive.namelist())
        with tarfile.open(self._path, "r:") as archive:
            items = [item for item in archive.getmembers() if item.isreg()]
        self._stretches = {item.name.removeprefix("./"): (item.offset_data, item.size) for item in items}
        return list(self._stretches)

    def _content(self, name: str) -> bytes:
        if name in self._stretches:
            start, size = self._stretches[name]
            _small(name, size)
            with self._path.open("rb") as file:
                file.seek(start)
                return file.read(size)
        if self._path.is_dir():
            path = self._path / name
            if path.exists() and not path.is_file():  # one would wait for ever for a pipe
                raise ValueError("no regular file")
            _small(name, path.stat().st_size)
            return path.read_bytes()
        with self._zip.use() as archive:
            _small(name, archive.getinfo(name).file_size)
            content: bytes = archive.read(name)
            return content


def _small(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes in {name}, more than a sample has ({MAX_BYTES})")
