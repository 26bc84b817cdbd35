"""NWB 2 files, by pynwb: current-clamp series and the stimulus series that belong to them.

A response and a stimulus belong together if the file's table of intracellular recordings says so; else if they have the
same sweep number and electrode; else, where there is one stimulus a response, in their order. Values are
``data * conversion + offset``, in the series' unit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from blocksim.ephys.readers.base import MAIN, Request, Traces, natural, reading, unit
from blocksim.errors import FileError
from blocksim.libraries import library


def parts(path: Path) -> list[str]:
    """One recording."""
    return [MAIN]


def read(path: Path, request: Request) -> Traces:
    """Traces of the current-clamp sweeps."""
    pynwb = library("pynwb", "nwb", str(path))
    with reading(path, "NWB 2"), pynwb.NWBHDF5IO(str(path), mode="r", load_namespaces=True) as io:
        file = io.read()
        pairs = _pairs(path, file, pynwb.icephys)
        labels = [response.name for _, response in pairs]
        chosen = [pairs[k] for k in request.choose(labels)]
        current = [_samples(stimulus) for stimulus, _ in chosen]
        voltage = [_samples(response) for _, response in chosen]
        units = [_unit(path, kind, [pair[side] for pair in chosen]) for side, kind in enumerate(("current", "voltage"))]
        rates = []
        for stimulus, response in chosen:
            own = [request.sampling_rate or _rate(path, series) for series in (stimulus, response)]
            if abs(own[0] - own[1]) > 1e-6 * own[1]:
                raise FileError(
                    f"{path}, {response.name}: expected current and voltage of one sampling rate; found {own[0]:g} and "
                    f"{own[1]:g} Hz"
                )
            rates.append(own[1])
        return Traces(current, voltage, units[0], units[1], rates, [response.name for _, response in chosen])


def _pairs(path: Path, file: Any, icephys: Any) -> list[tuple[Any, Any]]:
    """Stimulus and response of each current-clamp sweep."""
    table = file.intracellular_recordings
    if table is not None and len(table):
        found = []
        for row in range(len(table)):
            stimulus = table["stimuli"]["stimulus"][row]
            response = table["responses"]["response"][row]
            stimulus, response = (getattr(reference, "timeseries", None) for reference in (stimulus, response))
            if isinstance(response, icephys.CurrentClampSeries) and stimulus is not None:
                found.append((stimulus, response))
        if found:
            return found
    responses = _of(file.acquisition, icephys.CurrentClampSeries)
    stimuli = _of(file.stimulus, icephys.CurrentClampStimulusSeries)
    if not responses or not stimuli:
        missing = "CurrentClampSeries in acquisition" if not responses else "CurrentClampStimulusSeries in stimulus"
        there = ", ".join(
            f"{type(series).__name__} {series.name!r}"
            for series in [*file.acquisition.values(), *file.stimulus.values()][:20]
        )
        raise FileError(f"{path}: expected a {missing}; found {there or 'no series'}")
    by_sweep = {_key(series): series for series in stimuli}
    keys = [_key(series) for series in responses]
    numbered = all(key[0] is not None for key in keys) and len(by_sweep) == len(stimuli)
    if numbered and all(key in by_sweep for key in keys):
        return [(by_sweep[key], response) for key, response in zip(keys, responses, strict=True)]
    if len(stimuli) != len(responses):
        raise FileError(
            f"{path}: expected a stimulus for each of {len(responses)} responses, by sweep number or in order; found "
            f"{len(stimuli)}"
        )
    return list(zip(stimuli, responses, strict=True))


def _of(group: Any, kind: type) -> list[Any]:
    return sorted((series for series in group.values() if isinstance(series, kind)), key=lambda one: natural(one.name))


def _key(series: Any) -> tuple[Any, Any]:
    number = series.sweep_number
    return (None if number is None else int(number), getattr(series.electrode, "name", None))


def _samples(series: Any) -> np.ndarray:
    data = np.asarray(series.data[:], np.float64)
    return data * float(series.conversion) + float(getattr(series, "offset", 0.0) or 0.0)


def _unit(path: Path, kind: str, series: list[Any]) -> str | None:
    units = {unit(one.unit) for one in series}
    if len(units) > 1:
        raise FileError(f"{path}: expected {kind}s of one unit; found {', '.join(map(str, sorted(map(str, units))))}")
    return units.pop() if units else None


def _rate(path: Path, series: Any) -> float:
    if series.rate is not None:
        return float(series.rate)
    times = np.asarray(series.timestamps[:], np.float64) if series.timestamps is not None else np.empty(0)
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    if not step > 0 or np.abs(np.diff(times) - step).max() > 0.01 * step:
        raise FileError(
            f"{path}, {series.name}: expected a rate, or evenly spaced timestamps; found neither (sampling_rate=HERTZ)"
        )
    return float(np.round(1 / step, 3))
