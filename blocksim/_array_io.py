"""Files: arrays read in stretches of time, and what results are written as.

Owns what an input of a layer is as a file, and the formats of results; nothing of the model. How arrays lie in files is
`blocksim._npy`; that outputs are whole or absent is `blocksim._atomic_io`.
"""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from blocksim._atomic_io import check_folder, check_output, make_folder, named, written
from blocksim._events import Events
from blocksim._npy import (
    DAMAGED,
    NPY_MAGIC,
    PASS_BYTES,
    ZIP_MAGIC,
    Stored,
    described,
    npz_archive,
    one_line,
    open_npy,
    opened,
)
from blocksim._validation import finite
from blocksim.errors import ArgumentError, FileError
from blocksim.numerics import spike_rows

__all__ = [
    "DAMAGED", "InputFile", "check_folder", "check_output", "make_folder", "npz_archive", "open_input", "opened",
    "plain", "read_array", "write_csv", "write_json", "write_npz", "written",
]  # fmt: skip

EVENT_KEYS = {"indptr", "indices", "shape"}


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
        Whether every step is spikes, by `blocksim.numerics.spike_rows`, to be read as events.
    """

    path: Path
    shape: tuple[int, int, int]
    dimensions: int
    dtype: np.dtype[Any]
    counts: bool
    _data: np.ndarray | Stored | Events
    _sweeps: bool = False

    def read(self, start: int, stop: int) -> np.ndarray:
        """The values of steps `start` to `stop`, (B, steps, K), in the file's dtype.

        Raises `FileError` where the file has changed since it was opened.
        """
        if isinstance(self._data, Events):
            return self._data[start:stop].to_dense()
        part = slice(start, stop)
        return _three(self._data[(slice(None), part) if self._batched else (part,)], self._sweeps)

    def read_events(self, start: int, stop: int) -> Events:
        """The same as events; for counts only."""
        return self._data[start:stop] if isinstance(self._data, Events) else Events.from_dense(self.read(start, stop))

    @property
    def _batched(self) -> bool:
        return self._sweeps or self.dimensions == 3


def _three(array: np.ndarray, sweeps: bool) -> np.ndarray:
    """An array of one to three axes as (B, T, K)."""
    if array.ndim == 3:
        return array
    return array[:, :, None] if sweeps else array.reshape(1, *array.shape, *([1] * (2 - array.ndim)))


def open_input(path: str | Path, key: str | None = None, sweeps: bool = False) -> InputFile:
    """Open an array of currents or spikes, checked from end to end.

    Parameters
    ----------
    path : str or Path
        A `.npy` file, or a `.npz` file: an array of shape (T,), (T, K) or (B, T, K); or events, the arrays `indptr`,
        `indices` and `shape` of a `blocksim.Events`. A `.npy` file and the arrays of an uncompressed `.npz` file are
        read in stretches of time, as they are needed; a compressed array is read as a whole.
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
    path = named(path)
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz"):
        raise FileError(f"{path}: expected a .npy or .npz file; found the suffix {path.suffix or 'none'!r}")
    with opened(path) as file:
        magic = file.read(6)
    if not magic.startswith(NPY_MAGIC if suffix == ".npy" else ZIP_MAGIC):
        raise FileError(f"{path}: expected a NumPy {suffix} file; found {described(magic)}")
    data: np.ndarray | Stored | Events
    try:
        data = _checked(path, open_npy(path), sweeps) if suffix == ".npy" else _from_npz(path, key, sweeps)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: expected a file that can be read; found: {error.strerror or error}") from error
    except DAMAGED as error:
        raise FileError(
            f"{path}: expected a whole {suffix} file of numbers; found one that is truncated, damaged or pickled "
            f"({one_line(error)})"
        ) from error
    if isinstance(data, Events):
        return InputFile(path, data.shape, 3, np.dtype(np.uint8), True, data)
    shape: tuple[int, int, int] = _three(np.broadcast_to(0, data.shape), sweeps).shape
    unread = InputFile(path, shape, data.ndim, data.dtype, False, data, sweeps)
    return replace(unread, counts=_survey(unread))


def _checked(path: Path, array: Any, sweeps: bool) -> Any:
    """The array, or the header of one, if its dtype and shape are those of an input."""
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise FileError(f"{path}: expected real numbers of at most 8 bytes; found dtype {array.dtype}")
    if not 1 <= len(array.shape) <= 3 or 0 in array.shape:
        raise FileError(
            f"{path}: expected a non-empty array of shape (time,), (time, K) or (batch, time, K); found {array.shape}"
        )
    if sweeps and len(array.shape) != 2:
        raise FileError(f"{path}: expected an array of shape (sweeps, time), for sweeps=True; found {array.shape}")
    return array


def _from_npz(path: Path, key: str | None, sweeps: bool) -> np.ndarray | Stored | Events:
    with npz_archive(path) as archive:
        keys = archive.files
        names = ", ".join(keys[:12]) or "none"
        if key is None and set(keys) >= EVENT_KEYS:
            for name in EVENT_KEYS:
                header = archive.header(name)
                if header.dtype.kind not in "iu" or len(header.shape) != 1:
                    raise FileError(
                        f"{path}: expected {name} of events, whole numbers (n,); found {header.dtype} {header.shape}"
                    )
            try:
                shape = tuple(int(n) for n in archive["shape"])
                return Events(archive["indptr"], archive["indices"], shape)  # type: ignore[arg-type]
            except ArgumentError as error:
                raise FileError(f"{path}: {error}") from error
        if key is None and len(keys) == 1:
            key = keys[0]
        if key is None:
            raise FileError(f"{path}: expected one array, or key=NAME to choose one; found {names}")
        if key not in keys:
            raise FileError(f"{path}: expected an array named {key!r}; found {names}")
        _checked(path, archive.header(key), sweeps)
        return archive.stored(key)


def _survey(file: InputFile) -> bool:
    """One pass over all values, before anything is computed: raises unless finite; whether they are spike counts."""
    batch, steps, inputs = file.shape
    counts = True
    at_once = max(1, PASS_BYTES // (batch * inputs * file.dtype.itemsize))
    for start in range(0, steps if file.dtype.kind != "b" else 0, at_once):
        part = file.read(start, start + at_once)
        try:
            finite(f"{file.path}, from step {start} on", part)
        except ArgumentError as error:
            raise FileError(str(error)) from error
        counts = counts and bool(spike_rows(part.reshape(-1, inputs)).all())
        if not counts and file.dtype.kind != "f":
            return False
    return counts


def read_array(path: str | Path, dtype: np.dtype[Any], name: str) -> np.ndarray:
    """A whole `.npy` array of weights, `name` in messages, as `dtype`."""
    file = open_input(path)
    if file.dimensions != 2:
        raise FileError(f"{path}: expected a two-dimensional array of {name}; found {file.dimensions} dimension(s)")
    values: np.ndarray = file.read(0, file.shape[1])[0].astype(dtype)
    return values


def write_npz(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as an uncompressed `.npz` file, whole or not at all; they are as for `fill_npz`."""
    with written(path) as part:
        fill_npz(part, arrays)


def fill_npz(part: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to a file that exists, within `written`.

    An array is a NumPy array, or one on disk with `shape`, `dtype` and `pieces()`, which passes through in pieces.
    """
    archive = None
    with part.open("wb") as file:
        try:
            archive = zipfile.ZipFile(file, "w", allowZip64=True)
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _fill_member(member, array)
            archive.close()
        except BaseException:
            if archive is not None:
                archive.fp = None  # it has no end to be written: trying to would raise in place of this
            raise


def _fill_member(member: IO[bytes], array: Any) -> None:
    if isinstance(array, np.ndarray):
        values = np.ascontiguousarray(array) if array.ndim else array
        np.lib.format.write_array(member, values, version=(1, 0), allow_pickle=False)
        return
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(member, header)
    for piece in array.pieces():
        member.write(piece)


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
    """Write rows as a CSV file with a line of column names, whole or not at all; an empty field for None.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, by which it shows it as text.
    """
    with written(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows({name: _shown(value) for name, value in row.items()} for row in rows)


def _shown(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
