"""NumPy `.npy` files, one of the current and one of the potential: (T,) or (sweeps, T), without units or rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blocksim._npy import read_npy
from blocksim.ephys._recordings.readers.base import MAIN, Request, Traces, reading
from blocksim.errors import FileError


def parts(path: Path) -> list[str]:
    """One recording."""
    return [MAIN]


def read(path: Path, request: Request) -> Traces:
    """Traces of the pair of files."""
    if request.other is None:
        raise FileError(f"{path}: expected a second .npy file, of the voltage (voltage=PATH); found none")
    if request.sampling_rate is None:
        raise FileError(f"{path}: expected a sampling rate, which a .npy file does not hold (sampling_rate=HERTZ)")
    arrays = []
    for file in (path, request.other):
        with reading(file, "NumPy .npy"):
            array = read_npy(file)
            if array.ndim not in (1, 2) or array.dtype.kind not in "iuf":
                what = f"shape {array.shape}, dtype {array.dtype}"
                raise FileError(f"{file}: expected numbers of shape (T,) or (sweeps, T); found {what}")
        arrays.append(np.atleast_2d(array))
    current, voltage = arrays
    if len(current) != len(voltage):
        raise FileError(
            f"{path}, {request.other}: expected as many sweeps of current as of voltage; found shapes {current.shape} "
            f"and {voltage.shape}"
        )
    labels = [str(index) for index in range(len(current))]
    chosen = request.choose(labels)
    return Traces(
        [current[k] for k in chosen], [voltage[k] for k in chosen], None, None, [request.sampling_rate] * len(chosen),
        [labels[k] for k in chosen],
    )  # fmt: skip
