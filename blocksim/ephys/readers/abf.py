"""Axon Binary Format, versions 1 and 2, by pyabf.

The channels' units say which is which; their names do not: they are typed by hand, and are found swapped. Where no
current was recorded, ``current_channel="command"`` takes the waveform that was commanded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from blocksim.ephys.readers.base import (
    CURRENT_UNITS,
    MAIN,
    VOLTAGE_UNITS,
    Request,
    Traces,
    one_channel,
    reading,
    unit,
)
from blocksim.errors import FileError
from blocksim.libraries import library

COMMAND = "command"


def parts(path: Path) -> list[str]:
    """One recording."""
    return [MAIN]


def read(path: Path, request: Request) -> Traces:
    """Traces of all sweeps of the two channels."""
    pyabf = library("pyabf", "abf", str(path))
    with reading(path, "Axon ABF"):
        abf = pyabf.ABF(str(path))
        names = [str(name) for name in abf.adcNames]
        units = [unit(text) for text in abf.adcUnits]
        known = [f"{k} {name!r} in {own or 'no unit'}" for k, (name, own) in enumerate(zip(names, units, strict=True))]
        voltage = _channel(path, "voltage", request.voltage_channel, names, units, known)
        commanded = request.current_channel == COMMAND
        current = -1 if commanded else _channel(path, "current", request.current_channel, names, units, known)
        labels = [str(index) for index in range(abf.sweepCount)]
        chosen = request.choose(labels)
        traces: dict[str, list[np.ndarray]] = {"current": [], "voltage": []}
        for sweep in chosen:
            abf.setSweep(sweep, channel=voltage)
            traces["voltage"].append(np.array(abf.sweepY))
            if commanded:
                waveform = np.array(abf.sweepC, np.float64)
                if not np.isfinite(waveform).all():
                    raise FileError(
                        f"{path}: expected the commanded waveform; found that it lies in a stimulus file of its own, "
                        "which is not there"
                    )
                traces["current"].append(waveform)
            else:
                abf.setSweep(sweep, channel=current)
                traces["current"].append(np.array(abf.sweepY))
        current_unit = unit(abf.dacUnits[voltage]) if commanded else units[current]
        rate = request.sampling_rate or float(abf.dataRate)
        return Traces(traces["current"], traces["voltage"], current_unit, units[voltage], [rate] * len(chosen),
                      [labels[k] for k in chosen])  # fmt: skip


def _channel(path: Path, kind: str, given: Any, names: list[str], units: list[str | None], known: list[str]) -> int:
    argument = f"{kind}_channel"
    if given is not None:
        if isinstance(given, int) and 0 <= given < len(names):
            return given
        if given in names:
            return names.index(given)
        raise FileError(
            f"{path}: expected {argument} to be a name or number out of {'; '.join(known)}; found {given!r}"
        )
    wanted = CURRENT_UNITS if kind == "current" else VOLTAGE_UNITS
    candidates = {f"{k} {names[k]!r}": k for k, own in enumerate(units) if own in wanted}
    return int(one_channel(path, kind, argument, candidates, known))
