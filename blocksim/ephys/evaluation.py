"""How well a cell predicts recorded trials: predictions for each sweep, and a table of scores.

Owns which trials are compared with which prediction: repeats of one current with one prediction, for their mean
current.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from blocksim import metrics
from blocksim.backend import Backend
from blocksim.ephys._fitting.data import near_spikes, repeats_of
from blocksim.ephys._fitting.model import Cell, Prediction
from blocksim.ephys._recordings.recording import Recording
from blocksim.trains import SpikeTrains


@dataclass(frozen=True, eq=False)
class Predicted:
    """A cell's prediction of a recording.

    Attributes
    ----------
    recording : Recording
        What was recorded, at the time step of the prediction.
    groups : list of list of int
        Sweeps that repeat one current.
    traces : Prediction
        Spikes, potential and threshold, (groups, T).
    trains : SpikeTrains
        Predicted spikes in ms, one train a group.
    """

    recording: Recording
    groups: list[list[int]]
    traces: Prediction
    trains: SpikeTrains


def predict(
    cell: Cell, recording: Recording, dt: float, *, before: Recording | None = None, backend: str | Backend = "numba"
) -> Predicted:
    """Predict a recording; with `before`, the same sweeps' earlier part, from the state that it leaves behind.

    Single precision, as in the fit.
    """
    at = recording.at_dt(dt)
    current, lead = at.current, 0
    if before is not None:
        earlier = before.at_dt(dt).current
        current, lead = np.concatenate([earlier, current], axis=1), earlier.shape[1]
    groups = repeats_of(current)
    means = np.stack([current[group].mean(axis=0) for group in groups])
    traces = Prediction(*(trace[:, lead:] for trace in cell.predict(means, dt, backend=backend, dtype=np.float32)))
    return Predicted(at, groups, traces, SpikeTrains.from_steps(traces.spikes, dt))


def scores(
    predicted: Predicted, *, sigma: float = 10.0, window: float = 4.0, spike_window: tuple[float, float] = (2.0, 8.0)
) -> dict[str, float]:
    """Scores of a prediction, NaN where there is nothing to compare.

    Parameters
    ----------
    predicted : Predicted
    sigma : float
        Standard deviation in ms of the Gaussian of ETV.
    window : float
        Half-width in ms of the window of coincidences.
    spike_window : (before, after)
        Times in ms around recorded spikes in which potentials are not compared.

    Returns
    -------
    dict
        "rate_hz", "rate_recorded_hz"; "etv", normalised by the trials' reliability, "etv_raw", "etv_reliability";
        "gamma"; "md_star", "intrinsic_reliability"; "potential_r2", the share of the potential's variance explained
        away from spikes. Of several groups of repeats the mean, each weighted by its number of trials; what needs
        repeats comes from the groups that have some.
    """
    duration = predicted.recording.duration
    rows: list[tuple[int, dict[str, float]]] = []
    for index, group in enumerate(predicted.groups):
        model, trials = predicted.trains.take([index]), predicted.recording.spikes.take(group)
        raw = float(
            metrics.explained_temporal_variance(model, trials, sigma=sigma, duration=duration, normalise=False)[0]
        )
        row = {
            "rate_hz": 1000 * float(model.counts[0]) / duration,
            "rate_recorded_hz": 1000 * float(trials.counts.mean()) / duration,
            "etv_raw": raw,
            "gamma": float(metrics.gamma_factor(model, trials, window=window, duration=duration).mean()),
            "potential_r2": _potential(predicted, index, group, spike_window),
        }
        if len(group) > 1:
            reliability = metrics.reliability(trials, sigma=sigma, duration=duration)
            row |= {
                "etv": raw / reliability if reliability else float("nan"),
                "etv_reliability": reliability,
                "md_star": metrics.md_star(model, trials, window=window),
                "intrinsic_reliability": metrics.intrinsic_reliability(trials, window=window),
            }
        rows.append((len(group), row))
    names = ("rate_hz", "rate_recorded_hz", "etv", "etv_raw", "etv_reliability", "gamma", "md_star",
             "intrinsic_reliability", "potential_r2")  # fmt: skip
    result = {}
    for name in names:
        found = [(weight, row[name]) for weight, row in rows if name in row and np.isfinite(row[name])]
        total = sum(weight for weight, _ in found)
        result[name] = sum(weight * value for weight, value in found) / total if found else float("nan")
    return result


def _potential(predicted: Predicted, index: int, group: list[int], spike_window: tuple[float, float]) -> float:
    recording = predicted.recording
    counts = recording.spike_counts()[group]
    away = ~near_spikes(counts, spike_window, recording.dt).any(axis=0)
    recorded, modelled = recording.voltage[group].mean(axis=0)[away], predicted.traces.voltage[index][away]
    if len(recorded) < 2 or not np.ptp(modelled) > 0 or not np.ptp(recorded) > 0:
        return float("nan")
    return float(np.corrcoef(recorded, modelled)[0, 1] ** 2)


def arrays(predicted: Predicted, prefix: str) -> dict[str, Any]:
    """A prediction as arrays, for `.npz`: spike times and their groups, traces, and which group each sweep is in."""
    member = np.empty(predicted.recording.sweeps, np.int64)
    for index, group in enumerate(predicted.groups):
        member[group] = index
    return {
        f"{prefix}_spike_time_ms": predicted.trains.times,
        f"{prefix}_spike_group": predicted.trains.owners,
        f"{prefix}_voltage": predicted.traces.voltage,
        f"{prefix}_threshold": predicted.traces.threshold,
        f"{prefix}_group_of_sweep": member,
    }
