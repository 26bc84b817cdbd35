"""NumPy's `.npy` and `.npz` files, read: names, headers and sizes are looked at before anything is allocated.

Owns the one reader of them. Long arrays are read through the file, in stretches, and never memory-mapped: a file that
shrinks under a map ends the process without a word, here it is an error.
"""

from __future__ import annotations

import ast
import contextlib
import math
import os
import re
import stat
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from blocksim.errors import FileError

# what is raised on files that are damaged, encrypted, pickled or compressed in a way that NumPy does not use
DAMAGED = (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
NPY_MAGIC, ZIP_MAGIC = b"\x93NUMPY", b"PK\x03\x04"
# what a pass over a file holds at a time
PASS_BYTES = 16 * 2**20
# NumPy's own bounds
MAX_HEADER, MAX_AXES = 10_000, 32
# deflate makes at most 1032 bytes of one. Arrays that large in all, in a file so many times smaller, are no data
DEFLATE_RATIO = 1032
PLAUSIBLE_BYTES, PLAUSIBLE_RATIO = 2**30, 200


@dataclass(frozen=True)
class Header:
    """What the header of an array says: `offset` bytes of it, then `nbytes` of values."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.size * self.dtype.itemsize


def read_header(file: IO[bytes], total: int) -> Header:
    """The header at the file's position, of an array that takes `total` bytes from there on.

    Raises `ValueError` where it is no header of a plain array, or its shape and dtype do not make up those bytes.
    """
    begin = file.read(12)
    if begin[:6] != NPY_MAGIC or len(begin) < 12:
        raise ValueError(f"expected an array of NumPy; found {described(begin[:6])}")
    version = begin[6]
    if version not in (1, 2, 3):
        raise ValueError(f"expected a header of version 1 to 3; found {version}")
    width = 2 if version == 1 else 4
    length = int.from_bytes(begin[8 : 8 + width], "little")
    if not 2 <= length <= MAX_HEADER:
        raise ValueError(f"expected a header of at most {MAX_HEADER} bytes; found {length}")
    rest = begin[8 + width :]
    raw = rest + file.read(length - len(rest))
    if len(raw) != length:
        raise ValueError(f"expected a header of {length} bytes; found {len(raw)}")
    try:
        text = raw.decode("utf-8" if version == 3 else "latin-1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # whole numbers ended in L in Python 2
            fields = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", text).strip())
            shape, fortran = fields.pop("shape"), fields.pop("fortran_order")
            dtype = np.lib.format.descr_to_dtype(fields.pop("descr"))
    except Exception as error:  # Python's parser and NumPy raise what they like
        raise ValueError(f"expected a header of NumPy; found another text ({type(error).__name__})") from error
    if fields or not isinstance(fortran, bool) or not isinstance(dtype, np.dtype) or not isinstance(shape, tuple):
        raise ValueError(f"expected a header of descr, fortran_order and shape; found {text.strip()[:80]!r}")
    if len(shape) > MAX_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"expected a shape of whole numbers; found {str(shape)[:80]}")
    if dtype.hasobject:
        raise ValueError("expected numbers or texts; found pickled objects")
    if dtype.kind == "V" or not dtype.itemsize:
        raise ValueError(f"expected plain numbers or texts; found dtype {str(dtype)[:80]}")
    # axes of length 0 do not make the others possible
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 2**62:
        raise ValueError(f"expected an array that a file can hold; found shape {str(shape)[:80]}")
    header = Header(shape, fortran, dtype, 8 + width + length)
    if header.offset + header.nbytes != total:
        raise ValueError(
            f"expected {header.nbytes} bytes of values, for shape {shape} and dtype {dtype}; found "
            f"{total - header.offset}"
        )
    return header


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[IO[bytes]]:
    """A regular file, open for reading; `FileError` for anything else: one may wait for ever for a pipe."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise FileError(f"{path}: expected a regular file; found {kind_of(mode)}")
        file = open(path, "rb")  # noqa: SIM115
    except FileError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise FileError(f"{path}: expected a file that can be read; found: {why}") from error
    with file:
        try:
            yield file
        except OSError as error:
            raise FileError(f"{path}: expected a file that can be read; found: {error.strerror or error}") from error


def kind_of(mode: int) -> str:
    """What a file that is not a regular one is, from its mode."""
    for test, name in ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket")):
        if test(mode):
            return name
    return "a device"


def described(magic: bytes) -> str:
    """What a file with these first bytes is, for a message."""
    return f"a file that begins with {magic!r}" if magic else "an empty file"


def one_line(error: object) -> str:
    """The text of another library's error, on one line."""
    return " ".join(str(error).split())


class Stored:
    """An array as it lies in a file: sliced like a NumPy array, and read where it is sliced.

    Slices have a step of 1; `numpy.asarray` reads all of it. Reading raises `FileError` where the file has changed
    since it was opened.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy dtype
    ndim, size : int
        As those of a NumPy array.
    """

    def __init__(self, path: Path, file: IO[bytes], header: Header, start: int) -> None:
        self.shape, self.dtype, self.ndim, self.size = header.shape, header.dtype, len(header.shape), header.size
        self._path, self._fortran, self._start, self._mark = path, header.fortran, start, _mark(file)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Stored(shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, index: slice | tuple[slice, ...]) -> np.ndarray:
        slices = index if isinstance(index, tuple) else (index,)
        slices += (slice(None),) * (self.ndim - len(slices))
        bounds = [part.indices(n)[:2] for part, n in zip(slices, self.shape, strict=True)]
        shape = self.shape
        if self._fortran:  # the transposed array, in the usual order
            shape, bounds = shape[::-1], bounds[::-1]
        block = np.empty([max(stop - start, 0) for start, stop in bounds], self.dtype)
        if block.size:
            self._fill(block, shape, [start for start, _ in bounds])
        return block.T if self._fortran else block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[()]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def max(self) -> Any:
        """The greatest value, found in one pass; of an array with one axis that is not empty."""
        step = max(1, PASS_BYTES // self.dtype.itemsize)
        return max(self[start : start + step].max() for start in range(0, len(self), step))

    def _fill(self, block: np.ndarray, shape: tuple[int, ...], first: list[int]) -> None:
        """Read the block that begins at `first` of the array of that shape, run by run."""
        # axes from `run` on lie without a gap: all but the first of them are taken whole
        run = len(shape) - 1
        while run > 0 and block.shape[run] == shape[run]:
            run -= 1
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        origin = sum(start * stride for start, stride in zip(first, strides, strict=True))
        with opened(self._path) as file:
            if _mark(file) != self._mark:
                raise self._changed()
            for place in np.ndindex(*block.shape[:run]):
                element = origin + sum(at * stride for at, stride in zip(place, strides, strict=False))
                file.seek(self._start + element * self.dtype.itemsize)
                part = memoryview(block[(*place, ...)].reshape(-1).view(np.uint8))
                if file.readinto(part) != len(part):  # type: ignore[attr-defined]
                    raise self._changed()

    def _changed(self) -> FileError:
        return FileError(
            f"{self._path}: expected the file to stay as it was while it is read; found it changed (read a copy)"
        )


def _mark(file: IO[bytes]) -> tuple[int, int]:
    """What changes when a file is written to."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


class Archive:
    """The arrays of a `.npz` file: `archive[name]` reads one. Whatever is wrong raises one of `DAMAGED`.

    Attributes
    ----------
    files : list of str
        Names of its members, without the ending `.npy`.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._bytes = os.fstat(file.fileno()).st_size
        self._unpacked = 0
        with _damage("the directory of its members"):
            self._zip = zipfile.ZipFile(file)
            members = self._zip.infolist()
        self._members = {info.filename.removesuffix(".npy"): info for info in members}
        self.files = list(self._members)
        if len(self.files) != len(members):
            raise ValueError("expected members of different names; found two of the same")
        if unprintable := [name for name in self.files if not name.isprintable()]:
            raise ValueError(f"expected names that can be printed; found {unprintable[0][:80]!r}")

    def __getitem__(self, name: str) -> np.ndarray:
        with self._open(name) as (member, header):
            self._unpacked += self._members[name].file_size
            flat = np.empty(header.size, header.dtype)
            view = memoryview(flat.view(np.uint8))
            at = 0
            while at < len(view):
                read = member.readinto(view[at : at + PASS_BYTES])  # type: ignore[attr-defined]
                if not read:
                    raise ValueError(f"expected {len(view)} bytes of values; found {at}")
                at += read
            member.read(1)  # the end: here the checksum is verified
            return flat.reshape(header.shape, order="F" if header.fortran else "C")

    def header(self, name: str) -> Header:
        """The header of an array, found to agree with the member's size."""
        with self._open(name) as (_, header):
            return header

    def stored(self, name: str) -> Stored | np.ndarray:
        """An array, verified, as it lies in the file where it is uncompressed and has an axis; else read."""
        header, info = self.header(name), self._members[name]
        if info.compress_type != zipfile.ZIP_STORED or not header.shape:
            return self[name]
        with self._open(name) as (member, _):
            while member.read(PASS_BYTES):
                pass
        # the local header: 30 bytes, the lengths of name and extra field in its last four
        self._file.seek(info.header_offset)
        local = self._file.read(30)
        names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        return Stored(self._path, self._file, header, info.header_offset + 30 + names + header.offset)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[tuple[IO[bytes], Header]]:
        if name not in self._members:
            raise KeyError(f"expected an array {name!r}; found none")
        info = self._members[name]
        with _damage(repr(name)):
            self._check(info)
            with self._zip.open(info) as member:
                yield member, read_header(member, info.file_size)

    def _check(self, info: zipfile.ZipInfo) -> None:
        """Refuse what the directory cannot mean in earnest, before anything is unpacked."""
        if info.flag_bits & 1:
            raise ValueError("expected a member that is not encrypted; found an encrypted one")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"expected a member stored or deflated; found compression {info.compress_type}")
        most = info.compress_size
        if info.compress_type == zipfile.ZIP_DEFLATED:
            most = DEFLATE_RATIO * (info.compress_size + 64)
        if info.compress_size > self._bytes or info.file_size > most:
            raise ValueError(f"expected at most {most} bytes of {info.compress_size}; found {info.file_size}")
        total = self._unpacked + info.file_size
        if total > max(PLAUSIBLE_BYTES, PLAUSIBLE_RATIO * self._bytes):
            raise ValueError(
                f"expected at most {PLAUSIBLE_RATIO} times the file's {self._bytes} bytes; found {total} bytes of "
                "arrays (write it uncompressed, with numpy.savez, if it is meant so)"
            )


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    """Name the member in what is raised; zipfile raises more kinds of errors than it says."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what}: {one_line(error) or type(error).__name__}") from error


@contextlib.contextmanager
def npz_archive(path: Path) -> Iterator[Archive]:
    """The arrays of a `.npz` file; raises `FileError` where it cannot be read, and `DAMAGED` where it is damaged."""
    with opened(path) as file:
        yield Archive(path, file)


def open_npy(path: Path) -> Stored:
    """The array of a `.npy` file; raises `FileError` where it cannot be read, and `DAMAGED` where it is damaged."""
    with opened(path) as file:
        header = read_header(file, os.fstat(file.fileno()).st_size)
        return Stored(path, file, header, header.offset)


def read_npy(path: Path) -> np.ndarray:
    """As `open_npy`, read whole."""
    return np.asarray(open_npy(path))
