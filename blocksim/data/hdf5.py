"""HDF5 files in the layout of the Spiking Heidelberg Digits and the Spiking Speech Commands.

Owns the names of their data sets (Cramer et al. 2022, doi 10.1109/TNNLS.2020.3044364). Reads through h5py, extra
`hdf5`, one sample at a time.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from blocksim.data.sources import Source, in_ms, listed
from blocksim.errors import FileError
from blocksim.libraries import library

# the cochlea model of both data sets
CHANNELS = 700
NEEDED = ("spikes/times", "spikes/units", "labels")


class HDF5Source(Source):
    """`spikes/times` (s) and `spikes/units`, one pair of arrays a sample; `labels`; speakers where there are any."""

    def __init__(self, path: Path, channels: int | None) -> None:
        self._path, self._lock = path, threading.Lock()
        file = self._open()
        try:
            self._read_labels(file, channels)
            self._times, self._units = (self._lists(file, name) for name in NEEDED[:2])
        except BaseException:
            file.close()
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
        groups = file.get("extra/speaker")
        super().__init__(
            str(self._path),
            "HDF5, layout of the Spiking Heidelberg Digits",
            file["labels"][()],
            CHANNELS if channels is None else channels,
            class_names=_texts(file.get("extra/keys")),
            groups=None if groups is None else groups[()],
            group_names=_texts(file.get("extra/meta_info/speaker_names")),
        )

    def _open(self) -> Any:
        h5py = library("h5py", "hdf5", str(self._path))
        try:
            return h5py.File(self._path, "r")
        except OSError as error:
            raise FileError(
                f"{self._path}: expected a whole HDF5 file; found one that is truncated or damaged ({error})"
            ) from error

    def _lists(self, file: Any, name: str) -> Any:
        data = file[name]
        kind = library("h5py", "hdf5", str(self._path)).check_vlen_dtype(data.dtype)
        wanted = "f" if name.endswith("times") else "iu"
        if data.ndim != 1 or kind is None or kind.kind not in wanted:
            raise self.wrong(
                f"expected {name} to hold one array of {'seconds' if wanted == 'f' else 'channels'} a sample; found "
                f"shape {data.shape} and dtype {data.dtype if kind is None else kind}"
            )
        if len(data) != len(self):
            raise self.wrong(f"expected {len(self)} arrays in {name}, one a label; found {len(data)}")
        return data

    def read(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Source.read`."""
        with self._lock:
            if self._times is None:
                file = self._open()
                self._times, self._units = (self._lists(file, name) for name in NEEDED[:2])
            try:
                times, units = self._times[sample], self._units[sample]
            except OSError as error:
                raise self.wrong(f"expected a whole file; found sample {sample} damaged ({error})") from error
        return in_ms(times, 1e3), units

    def __getstate__(self) -> dict[str, Any]:
        # an open file goes to no other process; it is opened again there
        return {**self.__dict__, "_times": None, "_units": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def _texts(names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names[()])
