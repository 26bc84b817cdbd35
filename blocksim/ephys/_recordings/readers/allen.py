"""The Allen Cell Types Database's files, NWB 1 (HDF5), by h5py.

``epochs/Sweep_N/{stimulus,response}/timeseries/data``, with the rate at ``starting_time``. Files of pipeline version
1.0 hold amperes and volts, and a conversion factor that is wrong; later ones are to be multiplied by it. Sweeps are
labelled ``Sweep_N`` and the stimulus' name, such as ``Sweep_48 Noise 1``; only current-clamp sweeps are listed. Of a
sweep that has an experiment, ``epochs/Experiment_N``, that part is read: the test pulse before it is left out. Spike
times that the file holds are counted from the sweep's start.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._libraries import library
from blocksim.ephys._recordings.readers.base import MAIN, Request, Traces, natural, reading
from blocksim.errors import FileError


def is_allen(path: Path) -> bool:
    """Whether an HDF5 file has this layout."""
    h5py = library("h5py", "hdf5", str(path))
    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        return any(name.startswith("Sweep_") for name in file.get("epochs", ()))


def parts(path: Path) -> list[str]:
    """One recording."""
    return [MAIN]


def read(path: Path, request: Request) -> Traces:
    """Traces of the sweeps asked for; all of a file are rarely of one length and rate."""
    h5py = library("h5py", "hdf5", str(path))
    with reading(path, "Allen Cell Types NWB 1"), h5py.File(path, "r") as file:
        sweeps = sorted((name for name in file["epochs"] if name.startswith("Sweep_")), key=natural)
        sweeps = [name for name in sweeps if not _voltage_clamp(file["epochs"][name])]
        labels = [" ".join([name, _stimulus(file, name)]).strip() for name in sweeps]
        scaled = _version(file) > (1, 0)
        chosen = request.choose(labels)
        current: list[np.ndarray] = []
        voltage: list[np.ndarray] = []
        rates, spikes = [], []
        for k in chosen:
            first, last = _experiment(path, file, sweeps[k])
            for channel, samples in (("stimulus", current), ("response", voltage)):
                data = _series(path, file, sweeps[k], channel)["data"]
                factor = float(data.attrs.get("conversion", 1.0)) if scaled else 1.0
                samples.append(np.asarray(data[first:last], np.float64) * factor)
            start = _series(path, file, sweeps[k], "stimulus")["starting_time"]
            rate = request.sampling_rate or float(start.attrs["rate"])
            rates.append(rate)
            spikes.append(_spikes(file, sweeps[k], first, len(current[-1]), rate))
    known = None if any(train is None for train in spikes) else [train for train in spikes if train is not None]
    return Traces(current, voltage, "A", "V", rates, [labels[k] for k in chosen], known)


def _series(path: Path, file: Any, sweep: str, channel: str) -> Any:
    try:
        series = file["epochs"][sweep][channel]["timeseries"]
        series["data"], series["starting_time"]
    except KeyError as error:
        raise FileError(
            f"{path}: expected data and starting_time in epochs/{sweep}/{channel}/timeseries; found none"
        ) from error
    return series


def _string(value: Any) -> str:
    # a data set, an array of one, or a string of any kind
    value = value if isinstance(value, (bytes, str)) else value[()]
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode() if isinstance(value, bytes) else str(value)


def _voltage_clamp(epoch: Any) -> bool:
    series = epoch.get("response/timeseries")
    ancestry = series.attrs.get("ancestry", ()) if series is not None else ()
    return any("VoltageClamp" in _string(name) for name in ancestry)


def _stimulus(file: Any, sweep: str) -> str:
    name = file.get(f"stimulus/presentation/{sweep}/aibs_stimulus_name")
    return "" if name is None else _string(name)


def _version(file: Any) -> tuple[int, ...]:
    """Version of the pipeline that wrote the file: keys and values alternate in general/generated_by."""
    info = file.get("general/generated_by")
    words = [] if info is None else [_string(word) for word in np.ravel(info[()])]
    for key, value in pairwise(words):
        if key == "version":
            numbers = [part for part in value.split(".")[:2] if part.isdigit()]
            return tuple(int(number) for number in numbers)
    return (1, 0)


def _experiment(path: Path, file: Any, sweep: str) -> tuple[int, int]:
    """First sample and end of what is to be read of a sweep."""
    length = len(_series(path, file, sweep, "response")["data"])
    part = file.get(f"epochs/{sweep.replace('Sweep', 'Experiment')}/stimulus")
    if part is None or "idx_start" not in part or "count" not in part:
        return 0, length
    first, count = int(part["idx_start"][()]), int(part["count"][()])
    return first, min(first + count, length)


def _spikes(file: Any, sweep: str, first: int, steps: int, rate: float) -> np.ndarray | None:
    for group in ("spike_times", "aibs_spike_times"):
        times = file.get(f"analysis/{group}/{sweep}")
        if times is not None:
            milliseconds = np.sort(np.asarray(times[()], np.float64)) * 1000 - first * 1000 / rate
            kept: np.ndarray = milliseconds[(milliseconds >= 0) & (milliseconds < steps * 1000 / rate)]
            return kept
    return None
