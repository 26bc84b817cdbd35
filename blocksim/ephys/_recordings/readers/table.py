"""Text tables, comma-, semicolon- or tab-separated, with a line of column names.

Columns: ``current_pA`` and ``voltage_mV`` (or another unit after the underscore, or none); ``time_ms`` or ``time_s``,
evenly spaced, unless the caller gives the sampling rate; and ``sweep``, a number or name, where there are several.
Other columns are ignored. Time may restart in each sweep.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Container
from pathlib import Path

import numpy as np

from blocksim._npy import opened
from blocksim.ephys._recordings.readers.base import (
    CURRENT_UNITS,
    MAIN,
    VOLTAGE_UNITS,
    Request,
    Traces,
    rate_of,
    reading,
    unit,
)
from blocksim.errors import FileError

_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def parts(path: Path) -> list[str]:
    """One recording."""
    return [MAIN]


def read(path: Path, request: Request) -> Traces:
    """Traces of a table."""
    with reading(path, "text table"):
        return _read(path, request)


def _read(path: Path, request: Request) -> Traces:
    with opened(path) as binary:
        raw = binary.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # as Windows programs write a micro sign
        text = raw.decode("latin-1")
    head, _, rest = text.partition("\n")
    separator = max(",;\t", key=head.count)
    names = [name.strip().strip('"') for name in next(csv.reader([head.strip("\r")], delimiter=separator), [])]
    rows = [row for row in csv.reader(io.StringIO(rest, newline=""), delimiter=separator) if row]
    columns = _columns(path, names)
    for channel in ("current", "voltage"):
        if channel not in columns:
            raise FileError(
                f"{path}: expected columns named current_pA and voltage_mV, or with other units, in its first line; "
                f"found {', '.join(names)[:200] or 'none'}"
            )
    for line, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise FileError(f"{path}: expected {len(names)} columns in each line; found {len(row)} in line {line}")
    if not rows:
        raise FileError(f"{path}: expected lines of numbers below the column names; found none")
    values = {
        name: _numbers(path, rows, columns[name][0]) for name in ("current", "voltage", "time") if name in columns
    }
    sweep = [row[columns["sweep"][0]].strip() for row in rows] if "sweep" in columns else ["0"] * len(rows)
    labels = list(dict.fromkeys(sweep))
    numbers = {label: index for index, label in enumerate(labels)}
    owner = np.array([numbers[label] for label in sweep])
    chosen = request.choose(labels)
    places = [np.flatnonzero(owner == k) for k in chosen]
    rates = []
    for k, place in zip(chosen, places, strict=True):
        if request.sampling_rate is not None:
            rates.append(request.sampling_rate)
        elif "time" in values:
            scale = columns["time"][1] or "ms"
            if scale not in _TIMES:
                raise FileError(f"{path}: expected the time in one of {', '.join(_TIMES)}; found {scale!r}")
            rates.append(_rate(path, labels[k], values["time"][place] * _TIMES[scale]))
        else:
            raise FileError(
                f"{path}: expected a column time_ms or time_s, or sampling_rate=HERTZ; found {', '.join(names)}"
            )
    return Traces(
        [values["current"][place] for place in places], [values["voltage"][place] for place in places],
        columns["current"][1], columns["voltage"][1], rates, [labels[k] for k in chosen],
    )  # fmt: skip


def _columns(path: Path, names: list[str]) -> dict[str, tuple[int, str | None]]:
    """Place and unit of each column that is understood.

    A column such as voltage_command, whose name ends in no unit, is another quantity where there is one with a unit.
    """
    known: dict[str, Container[str]] = {"current": CURRENT_UNITS, "voltage": VOLTAGE_UNITS, "time": _TIMES}
    columns: dict[str, tuple[int, str | None]] = {}
    others: dict[str, tuple[int, str | None]] = {}
    for index, name in enumerate(names):
        match = re.fullmatch(r"(current|voltage|time|sweep)(?:[_ ]\(?([^()]+)\)?)?", name)
        if not match:
            continue
        kind, own = match[1], unit(match[2])
        if own is not None and own not in known.get(kind, ()):
            others.setdefault(kind, (index, own))
        elif kind in columns:
            raise FileError(f"{path}: expected one column of the {kind}; found several: {', '.join(names)}")
        else:
            columns[kind] = (index, own)
    return others | columns


def _numbers(path: Path, rows: list[list[str]], column: int) -> np.ndarray:
    values = np.empty(len(rows))
    for index, row in enumerate(rows):
        try:
            values[index] = float(row[column])
        except ValueError:
            raise FileError(
                f"{path}: expected a number in column {column + 1} of line {index + 2}; found {row[column][:40]!r}"
            ) from None
    return values


def _rate(path: Path, label: str, seconds: np.ndarray) -> float:
    """Sampling rate of evenly spaced times; tolerates times that were rounded when they were written."""
    if len(seconds) < 2:
        raise FileError(f"{path}, sweep {label}: expected two times or more; found {len(seconds)}")
    rate = rate_of(seconds)
    if rate is None:
        gaps = np.diff(seconds)
        raise FileError(
            f"{path}, sweep {label}: expected evenly spaced times; found steps from {gaps.min():g} to {gaps.max():g} s"
        )
    return rate
