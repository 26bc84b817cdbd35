"""What a reader of a fitted adaptive neuron must know: numbers that the data do not support.

Owns the rules, and their words; those of a potential that is poorly explained, and of several cells, are of every fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from blocksim.ephys._fitting.data import FitData
from blocksim.ephys._fitting.model import Prediction
from blocksim.ephys._fitting.search import Known, Space

POOR_R2 = 0.5
SILENT = 0.25  # of the recorded spikes
NEAR = 0.01  # of the range of a parameter, as it is searched
UNITS = {"tau_mem": "ms", "tau_adapt": "ms", "gain": "/pA", "rheobase": "pA", "adaptation_pa": "pA"}


def doubts_of(data: FitData, space: Space, values: Mapping[str, np.ndarray], predicted: Prediction) -> tuple[str, ...]:
    """In words, of a fit with these values, in the unit of the space; none where there is nothing to say."""
    told = []
    for name, transform in space.transforms.items():
        without_effect = name == "tau_adapt" and not values["adaptation_pa"][0]
        if isinstance(transform, Known) or without_effect:
            continue
        low, high = transform.low, transform.high
        ends = np.array([low, float(values[name][0]), high])
        low_end, at, high_end = ends if transform.scale == "linear" else np.log(ends)
        share = (at - low_end) / (high_end - low_end)
        if not NEAR < share < 1 - NEAR:
            told.append(
                f"{name} lies at the edge of its range, {low:.4g} to {high:.4g} {UNITS[name]} (widen bounds, or the "
                "data do not determine it)"
            )
    periods, chosen = space.refractory, int(values["refractory"][0])
    if len(periods) > 1 and chosen in (periods[0], periods[-1]):
        which = "shortest" if chosen == periods[0] else "longest"
        told.append(f"the refractory period is the {which} of those tried, {chosen * data.dt:g} ms (try others)")
    recorded = float(np.asarray(data.spikes)[:, data.warm_up :].sum())
    modelled = float(predicted.spikes[:, data.warm_up :].sum())
    if recorded and modelled < SILENT * recorded:
        told.append(f"the neuron is nearly silent: {modelled:g} spikes where {recorded:.4g} were recorded")
    x, y = potentials(data, predicted)
    share = squared_correlation(x, y)
    if np.isfinite(share):
        told += poorly_explained(share, "mV and MOhm")
    return tuple(told)


def several_cells(labels: Sequence[str]) -> list[str]:
    """A warning, of sweeps whose labels begin with several names, as "B6_IDRest_181" and "B8_IDRest_145" do."""
    named = [label.partition("_")[0] for label in labels if "_" in label]
    cells = list(dict.fromkeys(named))
    if len(named) < len(labels) or len(cells) < 2:
        return []
    shown = ", ".join(cells[:4]) + (", ..." if len(cells) > 4 else "")
    return [f"sweeps of {len(cells)} cells, by their labels ({shown}), are fitted as one neuron (choose sweeps of one)"]


def poorly_explained(r2: float, units: str) -> list[str]:
    """A warning, of a potential of which so little is explained; none where it is enough."""
    if r2 >= POOR_R2:
        return []
    return [f"the potential is poorly explained (R2 {r2:.2f}): {units} of this fit mean little"]


def squared_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Of two potentials, (n,) each: the share that one explains of the other; NaN where one of them does not vary."""
    if len(x) < 2 or not np.ptp(x) > 0 or not np.ptp(y) > 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def potentials(data: FitData, predicted: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """The predicted and the recorded potential away from spikes, (n,) each; empty where none was recorded."""
    if data.voltage is None or data.near_spike is None:
        return np.zeros(0), np.zeros(0)
    counts = ~np.asarray(data.near_spike)
    counts[:, : data.warm_up] = False
    return predicted.voltage[counts].astype(np.float64), np.asarray(data.voltage)[counts].astype(np.float64)
