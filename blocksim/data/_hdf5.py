"""HDF5 files in the layout of the Spiking Heidelberg Digits and the Spiking Speech Commands.

Owns the names of their data sets (Cramer et al. 2022, doi 10.1109/TNNLS.2020.3044364). Reads through h5py, extra
`hdf5`, one sample at a time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._libraries import library
from blocksim.data.sources import KeptOpen, Source, listed
from blocksim.errors import FileError
from blocksim.trains import exact_times

# the cochlea model of both data sets
CHANNELS = 700
LISTS = ("spikes/times", "spikes/units")
NEEDED = (*LISTS, "labels")
# of the arrays of one value a sample, and of the texts: more than files of this layout have, and memory holds
MAX_BYTES = 2**30
# what h5py raises on a damaged file, but for what our own reading would raise
DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, NotImplementedError,
           MemoryError)  # fmt: skip


class HDF5Source(Source):
    """`spikes/times` (s) and `spikes/units`, one pair of arrays a sample; `labels`; speakers where there are any."""

    def __init__(self, path: Path, channels: int | None) -> None:
        self._path = path
        self._kept = KeptOpen(functools.partial(_open, path))
        try:
            with self._kept.use() as file, self._reading("the file"):
                self._read_labels(file, channels)
                for name in LISTS:
                    self._check_lists(file, name)
        except BaseException:
            self._kept.close()
            raise

    def _read_labels(self, file: Any, channels: int | None) -> None:
        for name in NEEDED:
            if name not in file:
                there: list[str] = []
                file.visit(there.append)
                raise FileError(
                    f"{self._path}: expected the data sets {', '.join(NEEDED)} of the layout of the Spiking "
                    f"Heidelberg Digits; found {listed(there)}"
                )
        super().__init__(
            str(self._path),
            "HDF5, layout of the Spiking Heidelberg Digits",
            self._array(file, "labels"),
            CHANNELS if channels is None else channels,
            class_names=self._array(file, "extra/keys"),
            groups=self._array(file, "extra/speaker"),
            group_names=self._array(file, "extra/meta_info/speaker_names"),
            unit="s",
        )

    def _array(self, file: Any, name: str) -> np.ndarray | None:
        """An array of one value or text a sample, class or speaker; None where there is none."""
        data = file.get(name)
        if data is None:
            return None
        if not isinstance(data, library("h5py", "hdf5", str(self._path)).Dataset) or data.shape is None:
            raise FileError(f"{self._path}: expected {name} to be an array; found {_kind(data)}")
        if data.ndim != 1 or data.size * data.dtype.itemsize > MAX_BYTES:
            raise FileError(f"{self._path}: expected {name} to have one axis; found shape {data.shape}, {data.dtype}")
        values: np.ndarray = data[()]
        return values

    def _check_lists(self, file: Any, name: str) -> None:
        h5py = library("h5py", "hdf5", str(self._path))
        data = file[name]
        if not isinstance(data, h5py.Dataset):
            raise self.wrong(f"expected {name} to hold one array a sample; found {_kind(data)}")
        kind = h5py.check_vlen_dtype(data.dtype)
        wanted = "f" if name.endswith("times") else "iu"
        if data.ndim != 1 or getattr(kind, "kind", None) is None or kind.kind not in wanted:
            raise self.wrong(
                f"expected {name} to hold one array of {'seconds' if wanted == 'f' else 'channels'} a sample; found "
                f"shape {data.shape} and dtype {data.dtype if kind is None else kind}"
            )
        if len(data) != len(self):
            raise self.wrong(f"expected {len(self)} arrays in {name}, one a label; found {len(data)}")

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Name the file, in one line, in what h5py raises; its own messages name none."""
        try:
            yield
        except FileError:
            raise
        except DAMAGED as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise FileError(f"{self._path}: expected a whole HDF5 file; found {what} damaged ({why})") from error

    def read(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Source.read`."""
        with self._kept.use() as file, self._reading(f"sample {sample}"):
            times, units = (_list(file[name], sample) for name in LISTS)
            return exact_times(times, "s"), units


def _open(path: Path) -> Any:
    h5py = library("h5py", "hdf5", str(path))
    try:
        return h5py.File(path, "r")
    except OSError as error:
        why = " ".join(str(error).split())
        raise FileError(
            f"{path}: expected a whole HDF5 file; found one that is truncated or damaged ({why})"
        ) from error


def _list(data: Any, sample: int) -> np.ndarray:
    """The array of one sample, in the machine's byte order."""
    values = np.asarray(data[sample])
    stored = library("h5py", "hdf5", "HDF5").check_vlen_dtype(data.dtype)
    return values.byteswap() if not stored.isnative and values.dtype.isnative and _unswapped() else values


@functools.cache
def _unswapped() -> bool:
    """Whether h5py hands out lists of the other byte order as they are stored, under the machine's: 3.16 does."""
    h5py = library("h5py", "hdf5", "HDF5")
    other = np.dtype(np.uint16).newbyteorder()
    with h5py.File("byte order", "w", driver="core", backing_store=False) as file:
        made = file.create_dataset("lists", (1,), dtype=h5py.vlen_dtype(other))
        made[0] = np.array([1], other)
        return int(made[0][0]) != 1


def _kind(item: Any) -> str:
    return "an empty data set" if hasattr(item, "shape") else f"a {type(item).__name__.lower()}"
