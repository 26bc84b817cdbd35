"""NumPy archives. Owns the field names that are understood: quantised, one pair of arrays a sweep, and plain.

Three layouts, told by their names:

- quantised: ``v_q``, ``i_q`` or ``v_PART_q``, ``i_PART_q``, integers (T,) or (sweeps, T) to be multiplied by
  ``v_lsb_mV`` and ``i_lsb_pA``; ``fs_Hz``; optionally ``spike_idx`` or ``spike_idx_PART``, sample numbers padded with
  -1, and ``sweep_ids``;
- a pair a sweep: ``NAME_i_pA`` and ``NAME_v_mV``;
- plain: ``current`` and ``voltage``, (T,) or (sweeps, T), with a unit at will: ``current_nA``; optionally
  ``spike_times_ms`` (padded with NaN) or ``spike_idx``, and ``labels``.

The last two have one of ``sampling_rate``, ``sampling_rate_Hz``, ``fs_Hz``, ``dt_s``, ``dt_ms``, unless the caller
gives the rate.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._array_io import npz_archive
from blocksim._validation import decimal
from blocksim.ephys._recordings.readers.base import (
    CURRENT_UNITS,
    MAIN,
    VOLTAGE_UNITS,
    Request,
    Traces,
    natural,
    reading,
)
from blocksim.errors import FileError

_RATES = {"sampling_rate": 1.0, "sampling_rate_Hz": 1.0, "fs_Hz": 1.0, "dt_s": -1.0, "dt_ms": -1000.0}


def parts(path: Path) -> list[str]:
    """Names of the recordings: PART of the quantised layout, training before test before others; else one."""
    with _opened(path) as archive:
        names = _quantised(archive)
    return sorted(names, key=lambda name: ({MAIN: 0, "training": 1, "test": 2}.get(name, 3), name)) or [MAIN]


def read(path: Path, request: Request) -> Traces:
    """Traces of one part of the archive."""
    with _opened(path) as archive:
        if _quantised(archive):
            return _read_quantised(path, archive, request)
        if any(re.fullmatch(r".+_(i_pA|v_mV)", key) for key in archive.files):
            return _read_pairs(path, archive, request)
        return _read_plain(path, archive, request)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with reading(path, "NumPy .npz"), npz_archive(path) as archive:
        yield archive


def _quantised(archive: Any) -> list[str]:
    found = (re.fullmatch(r"[vi]_(?:(.+)_)?q", key) for key in archive.files)
    return sorted({match[1] or MAIN for match in found if match})


def _get(path: Path, archive: Any, key: str) -> np.ndarray:
    if key not in archive.files:
        raise FileError(f"{path}: expected an array {key!r}; found {', '.join(archive.files) or 'none'}")
    array: np.ndarray = archive[key]
    return array


def _number(path: Path, archive: Any, key: str) -> float:
    array = _get(path, archive, key)
    if array.size != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all() or float(array.item()) <= 0:
        raise FileError(f"{path}: expected {key!r} to be a number above 0; found {array.ravel()[:5]}")
    # a step that was stored in single precision is the decimal it stands for
    return float(decimal(array.ravel()[0]))


def _rate(path: Path, archive: Any, request: Request) -> float:
    if request.sampling_rate is not None:
        return request.sampling_rate
    present = [key for key in _RATES if key in archive.files]
    if not present:
        raise FileError(
            f"{path}: expected a sampling rate, one of {', '.join(_RATES)}; found only {', '.join(archive.files)} "
            "(sampling_rate=HERTZ gives it)"
        )
    value, how = _number(path, archive, present[0]), _RATES[present[0]]
    return value if how > 0 else -how / value


def _sweeps(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    if array.ndim not in (1, 2) or array.dtype.kind not in "iuf":
        raise FileError(
            f"{path}: expected {key!r} to be numbers of shape (T,) or (sweeps, T); found shape {array.shape} and dtype "
            f"{array.dtype}"
        )
    return np.atleast_2d(array)


def _traces(path: Path, keys: tuple[str, str], arrays: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    current, voltage = (_sweeps(path, key, array) for key, array in zip(keys, arrays, strict=True))
    if len(current) != len(voltage):
        raise FileError(
            f"{path}: expected as many sweeps of current as of voltage; found {keys[0]} {current.shape} and "
            f"{keys[1]} {voltage.shape}"
        )
    return [current, voltage]


def _spike_times(archive: Any, key: str, rate: float, sweeps: int) -> list[np.ndarray] | None:
    if key not in archive.files:
        return None
    steps = np.atleast_2d(archive[key])
    return [row[row >= 0] * (1000.0 / rate) for row in steps] if len(steps) == sweeps else None


def _read_quantised(path: Path, archive: Any, request: Request) -> Traces:
    suffix = "" if request.part == MAIN else f"_{request.part}"
    keys = (f"i{suffix}_q", f"v{suffix}_q")
    current, voltage = _traces(path, keys, (_get(path, archive, keys[0]), _get(path, archive, keys[1])))
    rate = request.sampling_rate or _number(path, archive, "fs_Hz")
    ids = archive["sweep_ids"] if not suffix and "sweep_ids" in archive.files else np.arange(len(current))
    labels = [str(label) for label in (ids if len(ids) == len(current) else np.arange(len(current)))]
    spikes = _spike_times(archive, f"spike_idx{suffix}", rate, len(current))
    chosen = request.choose(labels)
    scales = _number(path, archive, "i_lsb_pA"), _number(path, archive, "v_lsb_mV")
    return Traces(
        [current[k] * scales[0] for k in chosen], [voltage[k] * scales[1] for k in chosen], "pA", "mV",
        [rate] * len(chosen), [labels[k] for k in chosen], None if spikes is None else [spikes[k] for k in chosen],
    )  # fmt: skip


def _read_pairs(path: Path, archive: Any, request: Request) -> Traces:
    names = {re.sub(r"_(i_pA|v_mV)$", "", key) for key in archive.files if re.search(r"._(i_pA|v_mV)$", key)}
    labels = sorted(names, key=natural)
    rate = _rate(path, archive, request)
    chosen = [labels[k] for k in request.choose(labels)]
    arrays = {
        ending: [_sweeps(path, name, _get(path, archive, name + ending))[0] for name in chosen]
        for ending in ("_i_pA", "_v_mV")
    }
    return Traces(arrays["_i_pA"], arrays["_v_mV"], "pA", "mV", [rate] * len(chosen), chosen)


def _read_plain(path: Path, archive: Any, request: Request) -> Traces:
    keys, units = [], []
    for channel, known in (("current", CURRENT_UNITS), ("voltage", VOLTAGE_UNITS)):
        names = {channel: None, **{f"{channel}_{name}": name for name in known}}
        present = [key for key in names if key in archive.files]
        if len(present) != 1:
            raise FileError(
                f"{path}: expected one array named {channel}, or {channel}_UNIT with a unit out of {', '.join(known)}; "
                f"found {', '.join(archive.files) or 'no arrays'}"
            )
        keys.append(present[0])
        units.append(names[present[0]])
    current, voltage = _traces(path, (keys[0], keys[1]), (archive[keys[0]], archive[keys[1]]))
    rate = _rate(path, archive, request)
    labels = [str(label) for label in archive["labels"]] if "labels" in archive.files else []
    labels = labels if len(labels) == len(current) else [str(k) for k in range(len(current))]
    spikes = _spike_times(archive, "spike_idx", rate, len(current))
    if "spike_times_ms" in archive.files:
        spikes = [row[np.isfinite(row)] for row in np.atleast_2d(archive["spike_times_ms"])]
        if len(spikes) != len(current):
            raise FileError(
                f"{path}: expected spike_times_ms with a row for each of {len(current)} sweeps; found {len(spikes)}"
            )
    chosen = request.choose(labels)
    return Traces(
        [current[k] for k in chosen], [voltage[k] for k in chosen], units[0], units[1], [rate] * len(chosen),
        [labels[k] for k in chosen], None if spikes is None else [spikes[k] for k in chosen],
    )  # fmt: skip
