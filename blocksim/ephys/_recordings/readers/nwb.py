"""NWB 2 files, by pynwb: current-clamp series and the stimulus series that belong to them.

A response and a stimulus belong together if the file's table of intracellular recordings says so, of which each row may
refer to a stretch of a longer series; else if they have the same sweep number and electrode; else by their times; else,
where the times say nothing and there is one stimulus a response, in their order. A stimulus is read where the response
lies in time. Values are ``data * conversion + offset``, in the series' unit. Where the table has the three columns that
`blocksim.ephys.write_nwb` adds to it, they say what part each row is of, its label and its spikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._libraries import library
from blocksim.ephys._recordings.readers.base import MAIN, Request, Traces, natural, rate_of, reading, unit
from blocksim.errors import FileError

# columns that `blocksim.ephys.write_nwb` adds to the table of recordings
PART, LABEL, SPIKES = "part", "label", "spike_times_ms"
TABLE = "general/intracellular_ephys/intracellular_recordings"


@dataclass(frozen=True)
class _Stretch:
    """Part of a series: all of it where `count` is None."""

    series: Any
    first: int = 0
    count: int | None = None

    @property
    def samples(self) -> int:
        return len(self.series.data) - self.first if self.count is None else self.count

    @property
    def offset(self) -> float:
        """What is added to all samples, in the series' unit."""
        return float(getattr(self.series, "offset", 0.0) or 0.0)

    @property
    def gain(self) -> float:
        """What is left to multiply the samples of `read` by; nothing where there is an offset."""
        return 1.0 if self.offset else float(self.series.conversion)

    def read(self, path: Path, first: int = 0, count: int | None = None) -> np.ndarray:
        """Samples from the stretch's sample `first` on; times `gain` they are in the series' unit."""
        begin, count = self.first + first, self.samples if count is None else count
        length = len(self.series.data)
        if not 0 <= begin <= begin + count <= length or not count:
            raise FileError(
                f"{path}, {self.series.name}: expected a stretch of its {length} samples; found one from {begin} to "
                f"{begin + count}"
            )
        data = np.asarray(self.series.data[begin : begin + count], np.float64)
        return data * float(self.series.conversion) + self.offset if self.offset else data


@dataclass(frozen=True)
class _Sweep:
    """A response, and the stimulus that belongs to it; None where the file has none for it."""

    label: str
    response: _Stretch
    stimulus: _Stretch | None
    timed: bool  # whether the two lie on a common clock
    part: str = MAIN
    spikes: np.ndarray | None = None  # ms, where the file has them


def parts(path: Path) -> list[str]:
    """Those of a file that `blocksim.ephys.write_nwb` wrote, in its order; else one recording."""
    h5py = library("h5py", "hdf5", str(path))  # many times faster than pynwb, which reads the whole table
    with reading(path, "NWB 2"), h5py.File(path, "r") as file:
        if not all(f"{TABLE}/{name}" in file for name in (PART, LABEL, SPIKES)):
            return [MAIN]
        return list(dict.fromkeys(file[f"{TABLE}/{PART}"].asstr()[:].tolist())) or [MAIN]


def read(path: Path, request: Request) -> Traces:
    """Traces of the current-clamp sweeps."""
    pynwb = library("pynwb", "nwb", str(path))
    with reading(path, "NWB 2"), pynwb.NWBHDF5IO(str(path), mode="r", load_namespaces=True) as io:
        sweeps = [sweep for sweep in _sweeps(path, io.read(), pynwb.icephys) if sweep.part == request.part]
        labels = [sweep.label for sweep in sweeps]
        chosen = [sweeps[k] for k in request.choose(labels)]
        pairs = [(_given(path, sweep), sweep.response) for sweep in chosen]
        current, voltage, rates = [], [], []
        for sweep, (stimulus, response) in zip(chosen, pairs, strict=True):
            own = [request.sampling_rate or _rate(path, part.series) for part in (stimulus, response)]
            if abs(own[0] - own[1]) > 1e-6 * own[1]:
                raise FileError(
                    f"{path}, {sweep.label}: expected current and voltage of one sampling rate; found {own[0]:g} and "
                    f"{own[1]:g} Hz"
                )
            rates.append(own[1])
            voltage.append(response.read(path))
            first, count = _where(path, sweep, own[1])
            current.append(stimulus.read(path, first, count))
        units = [_unit(path, "current", [stimulus.series for stimulus, _ in pairs]),
                 _unit(path, "voltage", [response.series for _, response in pairs])]  # fmt: skip
        spikes = [sweep.spikes for sweep in chosen if sweep.spikes is not None]
        return Traces(
            current, voltage, units[0], units[1], rates, [sweep.label for sweep in chosen],
            spikes if len(spikes) == len(chosen) else None,
            [stimulus.gain for stimulus, _ in pairs], [response.gain for _, response in pairs],
        )  # fmt: skip


def _given(path: Path, sweep: _Sweep) -> _Stretch:
    if sweep.stimulus is None:
        raise FileError(
            f"{path}, {sweep.label}: expected a stimulus that belongs to it; found none (sweeps=... chooses others)"
        )
    return sweep.stimulus


def _where(path: Path, sweep: _Sweep, rate: float) -> tuple[int, int]:
    """Which samples of the stimulus were given while the response was recorded: the first, and how many."""
    stimulus, response = _given(path, sweep), sweep.response
    if not sweep.timed:
        return 0, stimulus.samples  # sample by sample; their lengths are compared with all others'
    begins = [_start(part) + part.first / rate for part in (stimulus, response)]
    first = round((begins[1] - begins[0]) * rate)
    if first < 0 or first + response.samples > stimulus.samples:
        ends = [begin + part.samples / rate for begin, part in zip(begins, (stimulus, response), strict=True)]
        raise FileError(
            f"{path}, {sweep.label}: expected a stimulus for the whole response, which lasts from {begins[1]:g} to "
            f"{ends[1]:g} s; found {stimulus.series.name!r} from {begins[0]:g} to {ends[0]:g} s"
        )
    return first, response.samples


def _sweeps(path: Path, file: Any, icephys: Any) -> list[_Sweep]:
    """All current-clamp sweeps, with the stimulus of each that has one."""
    table = file.intracellular_recordings
    if table is not None and len(table):
        rows = _rows(table, icephys)
        if rows:
            return rows
    # a sweep at I = 0 has no stimulus, by definition
    responses = [one for one in _of(file.acquisition, icephys.CurrentClampSeries)
                 if not isinstance(one, icephys.IZeroClampSeries)]  # fmt: skip
    stimuli = _of(file.stimulus, icephys.CurrentClampStimulusSeries)
    if not responses or not stimuli:
        missing = "CurrentClampSeries in acquisition" if not responses else "CurrentClampStimulusSeries in stimulus"
        there = ", ".join(
            f"{type(series).__name__} {series.name!r}"
            for series in [*file.acquisition.values(), *file.stimulus.values()][:20]
        )
        raise FileError(f"{path}: expected a {missing}; found {there or 'no series'}")
    timed = _tell_time(stimuli, responses)
    by_sweep = {_key(series): series for series in stimuli}
    keys = [_key(series) for series in responses]
    if len(by_sweep) == len(stimuli) and any(key[0] is not None and key in by_sweep for key in keys):
        found = [by_sweep.get(key) if key[0] is not None else None for key in keys]
    elif timed:
        found = [_during(path, stimuli, series) for series in responses]
    elif len(stimuli) == len(responses):
        found = list(stimuli)
    else:
        raise FileError(
            f"{path}: expected a stimulus for each of {len(responses)} responses, by sweep number, time or order; "
            f"found {len(stimuli)}"
        )
    return [
        _Sweep(response.name, _Stretch(response), None if stimulus is None else _Stretch(stimulus), timed)
        for response, stimulus in zip(responses, found, strict=True)
    ]


def _rows(table: Any, icephys: Any) -> list[_Sweep]:
    """Sweeps of the table of intracellular recordings: a row each."""
    rows = []
    # once each: pynwb reads a whole category whenever it is asked for one
    columns = [list(table[category][name]) for category, name in (("stimuli", "stimulus"), ("responses", "response"))]
    for row, references in enumerate(zip(*columns, strict=True)):
        stimulus, response = map(_referred, references)
        own = response is not None and isinstance(response.series, icephys.CurrentClampSeries)
        if response is not None and own and not isinstance(response.series, icephys.IZeroClampSeries):
            rows.append((row, response, stimulus))
    names = [response.series.name for _, response, _ in rows]
    series = [(stimulus.series, response.series) for _, response, stimulus in rows if stimulus is not None]
    told = _tell_time([one for one, _ in series], [other for _, other in series])
    described = all(name in table.colnames for name in (PART, LABEL, SPIKES))
    sweeps = []
    for number, (row, response, stimulus) in enumerate(rows):
        name = names[number]
        label = name if names.count(name) == 1 else f"{name} {names[:number].count(name)}"
        # a stimulus that ends before its response begins, or the reverse, has a clock of its own
        timed = told and stimulus is not None and _overlap(stimulus, response)
        sweep = _Sweep(label, response, stimulus, timed)
        if described:
            spikes = np.asarray(table[SPIKES][row], np.float64)
            sweep = replace(sweep, label=str(table[LABEL][row]), part=str(table[PART][row]), spikes=spikes)
        sweeps.append(sweep)
    return sweeps


def _referred(reference: Any) -> _Stretch | None:
    """What a reference of the table means: a series and a stretch of it; -1 for none."""
    series = getattr(reference, "timeseries", None)
    given = (getattr(reference, name, None) for name in ("idx_start", "count"))
    first, count = (-1 if value is None else int(value) for value in given)
    if series is None or (first < 0 and count < 0):
        return None
    return _Stretch(series, max(first, 0), count if count >= 0 else None)


def _of(group: Any, kind: type) -> list[Any]:
    return sorted((series for series in group.values() if isinstance(series, kind)), key=lambda one: natural(one.name))


def _key(series: Any) -> tuple[Any, Any]:
    number = series.sweep_number
    return (None if number is None else int(number), getattr(series.electrode, "name", None))


def _start(part: _Stretch) -> float:
    """When a series begins on the file's clock, in s."""
    series = part.series
    start = series.starting_time if series.rate is not None else series.timestamps[0]
    return 0.0 if start is None else float(start)


def _tell_time(stimuli: Sequence[Any], responses: Sequence[Any]) -> bool:
    """Whether the series' times say when they were: not where all stimuli begin at 0, as if no time was set."""
    try:
        begins = [[_start(_Stretch(series)) for series in group] for group in (stimuli, responses)]
    except (TypeError, IndexError):
        return False
    if not np.isfinite(begins[0] + begins[1]).all():
        return False
    alike = len(responses) > 1 and len(set(begins[1])) == 1  # all at once: sweeps of one cell are not
    return not alike and (any(begins[0]) or not any(begins[1]))


def _span(part: _Stretch) -> tuple[float, float]:
    rate = part.series.rate or rate_of(np.asarray(part.series.timestamps[:], np.float64)) or np.inf
    begin = _start(part) + part.first / rate
    return begin, begin + part.samples / rate


def _overlap(one: _Stretch, other: _Stretch) -> bool:
    (first, end), (start, stop) = _span(one), _span(other)
    return first < stop and start < end


def _during(path: Path, stimuli: Sequence[Any], response: Any) -> Any:
    """The stimulus that was given while a response was recorded; None where none was."""
    electrode = getattr(response.electrode, "name", None)
    during = [
        series
        for series in stimuli
        if getattr(series.electrode, "name", None) == electrode and _overlap(_Stretch(series), _Stretch(response))
    ]
    if len(during) > 1:
        begin, end = _span(_Stretch(response))
        listed = "; ".join("{!r} from {:g} to {:g} s".format(one.name, *_span(_Stretch(one))) for one in during[:5])
        raise FileError(
            f"{path}, {response.name}: expected one stimulus while it lasts ({begin:g} to {end:g} s); found {listed}"
        )
    return during[0] if during else None


def _unit(path: Path, kind: str, series: list[Any]) -> str | None:
    units = {unit(one.unit) for one in series}
    if len(units) > 1:
        raise FileError(f"{path}: expected {kind}s of one unit; found {', '.join(map(str, sorted(map(str, units))))}")
    return units.pop() if units else None


def _rate(path: Path, series: Any) -> float:
    if series.rate is not None:
        return float(series.rate)
    times = np.asarray(series.timestamps[:], np.float64) if series.timestamps is not None else np.empty(0)
    rate = rate_of(times, jitter=0.01)
    if rate is None:
        raise FileError(
            f"{path}, {series.name}: expected a rate, or evenly spaced timestamps; found neither (sampling_rate=HERTZ)"
        )
    return rate
