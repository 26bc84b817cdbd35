"""Files: arrays read in stretches of time, results written whole or not at all.

Owns file formats and nothing of the model. Inputs are looked at before they are read, and memory-mapped where the
format allows, so that a recording need not fit in memory. Outputs are written under a temporary name in the folder
they belong to, and renamed when they are complete.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blocksim.errors import ArgumentError, FileError
from blocksim.events import Events, is_count
from blocksim.validation import finite

# what NumPy and zipfile raise on archives that are damaged, encrypted or compressed in a way they do not know
DAMAGED = (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
EVENT_KEYS = {"indptr", "indices", "shape"}
# what a pass over a file holds at a time
PASS_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class InputFile:
    """An input of a layer in a file, read in stretches of time.

    Attributes
    ----------
    path : Path
        Where it is.
    shape : (B, T, K)
        Its shape, with axes of length 1 where the file has none.
    dimensions : int
        Dimensions in the file: 1 for (T,), 2 for (T, K), 3 for (B, T, K).
    dtype : numpy dtype
        Of the values in the file.
    counts : bool
        Whether it holds spike counts (bool, or whole numbers >= 0) rather than real values.
    """

    path: Path
    shape: tuple[int, int, int]
    dimensions: int
    dtype: np.dtype[Any]
    counts: bool
    _data: np.ndarray | Events

    def read(self, start: int, stop: int) -> np.ndarray:
        """The values of steps `start` to `stop`, (B, steps, K), in the file's dtype."""
        if isinstance(self._data, Events):
            return self._data[start:stop].to_dense()
        return np.asarray(self._data[:, start:stop])

    def read_events(self, start: int, stop: int) -> Events:
        """The same as events; for counts only."""
        return self._data[start:stop] if isinstance(self._data, Events) else Events.from_dense(self.read(start, stop))


def open_input(path: str | Path, key: str | None = None, sweeps: bool = False) -> InputFile:
    """Open an array of currents or spikes, checked from end to end.

    Parameters
    ----------
    path : str or Path
        A `.npy` file, or a `.npz` file: an array of shape (T,), (T, K) or (B, T, K); or events, the arrays `indptr`,
        `indices` and `shape` of a `blocksim.Events`. A `.npy` file and the arrays of an uncompressed `.npz` file are
        memory-mapped; a compressed array is read as a whole.
    key : str or None
        Which array of a `.npz` file; None where it holds one array, or events.
    sweeps : bool
        A two-dimensional array is (sweeps, T), one current a sweep, instead of (T, K).

    Raises
    ------
    FileError
        The file cannot be read, is truncated or of another format, has no such array, or one of the wrong rank or
        dtype, or holds NaN or infinity.
    """
    path = Path(path)
    data: np.ndarray | Events
    if path.suffix.lower() not in (".npy", ".npz"):
        raise FileError(f"{path}: expected a .npy or .npz file; found the suffix {path.suffix or 'none'!r}")
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if path.suffix.lower() == ".npy":
            if magic != b"\x93NUMPY":
                raise FileError(f"{path}: expected a NumPy .npy file; found {_describe(magic)}")
            data = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            if magic[:4] != b"PK\x03\x04":
                raise FileError(f"{path}: expected a NumPy .npz file; found {_describe(magic)}")
            data = _from_npz(path, key)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: expected a file that can be read; found: {error.strerror or error}") from error
    except DAMAGED as error:
        raise FileError(
            f"{path}: expected a whole {path.suffix} file of numbers; found one that is truncated, damaged or pickled "
            f"({error})"
        ) from error
    if isinstance(data, Events):
        return InputFile(path, data.shape, 3, np.dtype(np.uint8), True, data)
    if data.dtype.kind not in "biuf" or data.dtype.itemsize > 8:
        raise FileError(f"{path}: expected real numbers of at most 8 bytes; found dtype {data.dtype}")
    if not 1 <= data.ndim <= 3 or 0 in data.shape:
        raise FileError(
            f"{path}: expected a non-empty array of shape (time,), (time, K) or (batch, time, K); found {data.shape}"
        )
    dimensions = data.ndim
    if sweeps and dimensions != 2:
        raise FileError(f"{path}: expected an array of shape (sweeps, time), for --sweeps; found {data.shape}")
    whole = data
    if dimensions == 1:
        whole = data[None, :, None]
    elif dimensions == 2:
        whole = data[:, :, None] if sweeps else data[None]
    batch, steps, inputs = whole.shape
    return InputFile(path, (batch, steps, inputs), dimensions, data.dtype, _survey(path, whole), whole)


@contextlib.contextmanager
def npz_archive(path: Path) -> Iterator[Any]:
    """The arrays of a `.npz` file as `numpy.load` gives them; raises `DAMAGED` or `OSError` where it is none."""
    # opened here, so that it is closed when NumPy finds it damaged
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
        yield archive


def _from_npz(path: Path, key: str | None) -> np.ndarray | Events:
    with npz_archive(path) as archive:
        keys = list(archive.files)
        if key is None and set(keys) >= EVENT_KEYS:
            shape = tuple(int(n) for n in archive["shape"])
            return Events(archive["indptr"], archive["indices"], shape)  # type: ignore[arg-type]
        if key is None and len(keys) == 1:
            key = keys[0]
        if key is None:
            raise FileError(f"{path}: expected one array, or --key NAME to choose one; found {', '.join(keys)}")
        if key not in keys:
            raise FileError(f"{path}: expected an array named {key!r}; found {', '.join(keys) or 'none'}")
        mapped = mapped_member(path, key)
        return archive[key] if mapped is None else mapped


def mapped_member(path: Path, key: str) -> np.ndarray | None:
    """An array of a .npz file, memory-mapped where it lies; None if it is compressed.

    Its checksum is verified, in one pass over the array; raises `zipfile.BadZipFile` where it is wrong.
    """
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{key}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        with archive.open(info) as member:
            while member.read(PASS_BYTES):
                pass
    with path.open("rb") as file:
        # the local header: 30 bytes, the lengths of name and extra field in its last four
        file.seek(info.header_offset)
        header = file.read(30)
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        file.seek(info.header_offset + 30 + names)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject or not shape:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _survey(path: Path, data: np.ndarray) -> bool:
    """One pass over all values, before anything is computed: raises unless finite; whether they are spike counts."""
    batch, steps, inputs = data.shape
    if data.dtype.kind in "bu":
        return True
    counts = True
    at_once = max(1, PASS_BYTES // (inputs * data.dtype.itemsize))
    for sample in range(batch):
        for start in range(0, steps, at_once):
            part = np.asarray(data[sample, start : start + at_once])
            try:
                finite(f"{path}, sample {sample}, from step {start} on", part)
            except ArgumentError as error:
                raise FileError(str(error)) from error
            counts = counts and bool(is_count(part).all())
            if not counts and data.dtype.kind == "i":
                return False
    return counts


def read_array(path: str | Path, dtype: np.dtype[Any], name: str) -> np.ndarray:
    """A whole `.npy` array of weights, `name` in messages, as `dtype`."""
    file = open_input(path)
    if file.dimensions != 2:
        raise FileError(f"{path}: expected a two-dimensional array of {name}; found {file.dimensions} dimension(s)")
    values: np.ndarray = file.read(0, file.shape[1])[0].astype(dtype)
    return values


def check_output(path: str | Path, suffixes: tuple[str, ...], overwrite: bool) -> Path:
    """Raise `FileError` unless a file can be written there: to be called before the work whose result it is to hold."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise FileError(f"{path}: expected a name that ends in {' or '.join(suffixes)}; found {path.name!r}")
    if path.is_dir():
        raise FileError(f"{path}: expected the name of a file to write; found a folder")
    if path.exists() and not overwrite:
        raise FileError(f"{path}: expected a new file; found one that exists (to be replaced with --overwrite)")
    check_folder(path.parent)
    return path


def check_folder(folder: str | Path) -> Path:
    """Raise `FileError` unless `folder` is a folder that files can be written to."""
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "none"
        raise FileError(f"{folder}: expected a folder to write to; found {found} (create it first)")
    try:
        # whether a file can be made is asked of the file system: permissions alone do not tell
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileError(f"{folder}: expected a folder that can be written to; found: {error.strerror}") from error
    return folder


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` when the block ends well, and is removed when it does not.

    Raises `FileError` where it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written(Path(folder) / "note.txt") as part:
    ...         _ = part.write_text("whole")
    ...     [file.name for file in Path(folder).iterdir()]
    ['note.txt']
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise FileError(f"{path}: expected to be able to write it; found: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as an uncompressed `.npz` file; memory-mapped ones pass through in pieces."""
    with written(path) as part, zipfile.ZipFile(part, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array) if array.ndim else array, version=(1, 0))


def plain(value: Any) -> Any:
    """What JSON can hold: lists for arrays and tuples, null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a value as a JSON file, whole or not at all; `plain` says what becomes of arrays and NaN."""
    with written(path) as part:
        part.write_text(json.dumps(plain(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """Write rows as a CSV file with a line of column names, whole or not at all; an empty field for None."""
    with written(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)


def _describe(magic: bytes) -> str:
    if not magic:
        return "an empty file"
    return f"a file that begins with {magic!r}"
