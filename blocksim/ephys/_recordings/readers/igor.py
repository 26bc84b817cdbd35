"""Igor binary waves, by igor2: one channel a file, (T,) or (T, sweeps); the waves' units say which is which.

The time step is the wave's x scaling, in seconds unless the wave says otherwise. A wave whose scaling was never set has
a step of 1 and no unit: its rate must be given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._libraries import library
from blocksim.ephys._recordings.readers.base import CURRENT_UNITS, MAIN, VOLTAGE_UNITS, Request, Traces, reading, unit
from blocksim.errors import FileError

_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, None: 1.0}


@dataclass(frozen=True)
class _Wave:
    samples: np.ndarray  # (sweeps, T)
    unit: str | None
    rate: float | None  # Hz


def parts(path: Path) -> list[str]:
    """One recording."""
    return [MAIN]


def read(path: Path, request: Request) -> Traces:
    """Traces of the pair of files, in whichever order they are given."""
    first = _wave(path)
    if request.other is None:
        raise FileError(
            f"{path}: expected a second Igor file, of the other channel (voltage=PATH): a wave holds one; found one "
            f"in {first.unit or 'no unit'}"
        )
    pair = {path: first, request.other: _wave(request.other)}
    roles = {file: _role(wave.unit) for file, wave in pair.items()}
    (one, other) = (path, request.other)
    if roles[one] == "voltage" and roles[other] in ("current", None):
        one, other = other, one
    elif (roles[one] and roles[one] == roles[other]) or one == other:
        raise FileError(
            f"{path}, {request.other}: expected a wave of current and one of voltage; found units "
            f"{pair[path].unit!r} and {pair[request.other].unit!r}"
        )
    elif roles[other] == "current":
        one, other = other, one
    current, voltage = pair[one], pair[other]
    rates = {request.sampling_rate} if request.sampling_rate else {current.rate, voltage.rate} - {None}
    if not rates:
        raise FileError(
            f"{path}: expected a time step in the wave's x scaling; found that it was never set (sampling_rate=HERTZ)"
        )
    if len(rates) > 1:
        raise FileError(
            f"{one}, {other}: expected current and voltage of one sampling rate; found {current.rate:g} and "
            f"{voltage.rate:g} Hz"
        )
    (rate,) = rates
    if len(current.samples) != len(voltage.samples):
        raise FileError(
            f"{one}, {other}: expected as many sweeps of current as of voltage; found {len(current.samples)} and "
            f"{len(voltage.samples)}"
        )
    labels = [str(index) for index in range(len(current.samples))]
    chosen = request.choose(labels)
    return Traces(
        [current.samples[k] for k in chosen], [voltage.samples[k] for k in chosen], current.unit, voltage.unit,
        [float(rate)] * len(chosen), [labels[k] for k in chosen],  # type: ignore[arg-type]
    )  # fmt: skip


def _role(unit: str | None) -> str | None:
    return "current" if unit in CURRENT_UNITS else "voltage" if unit in VOLTAGE_UNITS else None


def _text(value: Any) -> str | None:
    """A unit out of a header: characters one by one, perhaps by dimension."""
    array = np.asarray(value)
    array = array[0] if array.ndim > 1 else array
    return unit(b"".join(np.atleast_1d(array).astype("S").tolist()))


def _wave(path: Path) -> _Wave:
    binarywave = library("igor2.binarywave", "igor", str(path))
    with reading(path, "Igor binary wave"):
        loaded = binarywave.load(str(path))["wave"]
        header, samples = loaded["wave_header"], np.asarray(loaded["wData"])
        if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
            raise FileError(
                f"{path}: expected a wave of real numbers (T,) or (T, sweeps); found shape {samples.shape}, dtype "
                f"{samples.dtype}"
            )
        if "sfA" in header:
            step, time_unit = float(header["sfA"][0]), _text(header["dimUnits"])
        else:
            step, time_unit = float(header["hsA"]), _text(header["xUnits"])
        own = _text(header["dataUnits"]) or unit(loaded.get("data_units"))
        unset = step == 1.0 and time_unit is None
        if not unset and (time_unit not in _SECONDS or not step > 0):
            raise FileError(f"{path}: expected an x scaling in seconds; found {step:g} {time_unit}")
        rate = None if unset else float(np.round(1 / (step * _SECONDS[time_unit]), 6))
        return _Wave(np.atleast_2d(samples.T), own, rate)
