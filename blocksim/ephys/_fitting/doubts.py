"""What a reader of a fitted adaptive neuron must know: numbers that the data do not bear out.

Owns the rules, and their words.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from blocksim.ephys._fitting.data import FitData
from blocksim.ephys._fitting.model import Prediction
from blocksim.ephys._fitting.search import Space

POOR_R2 = 0.5
SILENT = 0.25  # of the recorded spikes
NEAR = 0.01  # of the range of a parameter, as it is searched
UNITS = {"tau_mem": "ms", "tau_adapt": "ms", "gain": "/pA", "rheobase": "pA", "adaptation_pa": "pA"}


def doubts_of(data: FitData, space: Space, values: Mapping[str, np.ndarray], predicted: Prediction) -> tuple[str, ...]:
    """In words, of a fit with these values, in the unit of the space; none where there is nothing to say."""
    told = []
    for name, transform in space.transforms.items():
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
    r2 = explained(data, predicted)
    if r2 is not None and not r2 >= POOR_R2:
        told.append(f"the potential is poorly explained (R2 {r2:.2f}): mV and MOhm of this fit mean little")
    return tuple(told)


def explained(data: FitData, predicted: Prediction) -> float | None:
    """The squared correlation of potentials away from spikes; None where there are none."""
    if data.voltage is None or data.near_spike is None:
        return None
    counts = ~np.asarray(data.near_spike)
    counts[:, : data.warm_up] = False
    x, y = predicted.voltage[counts].astype(np.float64), np.asarray(data.voltage)[counts].astype(np.float64)
    if len(x) < 2 or not np.ptp(x) > 0 or not np.ptp(y) > 0:
        return None
    return float(np.corrcoef(x, y)[0, 1] ** 2)
