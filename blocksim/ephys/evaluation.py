"""How well a cell predicts recorded trials: predictions for each sweep, and a table of scores.

Owns which trials are compared with which prediction: repeats of one current with one prediction, for their mean
current; of a stochastic cell, with many repetitions of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from blocksim import metrics
from blocksim._validation import whole_number
from blocksim.backend import Backend
from blocksim.ephys._fitting.data import means_of, repeats_of
from blocksim.ephys._fitting.doubts import squared_correlation
from blocksim.ephys._fitting.model import Cell, Prediction
from blocksim.ephys._gif.cell import GIFCell, Imposed
from blocksim.ephys._gif.potential import r2_of
from blocksim.ephys._gif.spikes import bits_per_spike, ks_distance, rescaled_times
from blocksim.ephys._recordings.recording import Recording
from blocksim.errors import ArgumentError
from blocksim.trains import SpikeTrains, checked_window, near_spikes

# of scores, in ms: standard deviation of the Gaussian of ETV, half-width of the window of coincidences, and the time
# before and after a spike in which potentials are not compared
SIGMA, WINDOW, NEAR = 10.0, 4.0, (2.0, 8.0)
# by name: of every model, and of stochastic ones
SCORES = ("rate_hz", "rate_recorded_hz", "etv", "etv_raw", "etv_reliability", "gamma", "md_star",
          "md_star_2ms", "md_star_8ms", "intrinsic_reliability", "potential_r2")  # fmt: skip
STOCHASTIC = ("bits", "ks")


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
        Predicted spikes in ms: `repeats` trains of the first group, then of the second, and so on.
    repeats : int
        Repetitions of a stochastic cell; 1 of another.
    imposed : Imposed or None
        A GIF cell's potential, threshold and hazard with the recorded spikes imposed, of each sweep; its traces are
        those of each group's first sweep.
    unit : str
        Of potential and threshold: "mV", or "1" where the cell does not know them in mV.
    """

    recording: Recording
    groups: list[list[int]]
    traces: Prediction
    trains: SpikeTrains
    repeats: int = 1
    imposed: Imposed | None = None
    unit: str = "mV"

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each repetition of each group: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (groups * repeats,) arrays
            "group" and "repetition", from 0; "spikes"; "rate_hz"; "gamma", the mean over the group's trials, within 4
            ms, and "etv_raw", with a Gaussian of 10 ms, of this repetition alone.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim.ephys import Cell, Recording
        >>> from blocksim.ephys.evaluation import predict
        >>> cell = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)
        >>> current = np.full((2, 2000), 300.0)
        >>> recording = Recording(current, np.full((2, 2000), -65.0), 2000, [[10.0, 50.0], [12.0]])
        >>> predict(cell, recording, dt=0.5).table()["rate_hz"]
        array([25.])
        """
        group, repetition = np.divmod(np.arange(len(self.trains)), self.repeats)
        duration = self.recording.duration
        gamma, etv = np.empty(len(self.trains)), np.empty(len(self.trains))
        for index, sweeps in enumerate(self.groups):
            model, trials = self.of_group(index), self.recording.spikes.take(sweeps)
            gamma[group == index] = metrics.gamma_factor(model, trials, window=WINDOW, duration=duration).mean(axis=1)
            etv[group == index] = metrics.explained_temporal_variance(
                model, trials, sigma=SIGMA, duration=duration, normalise=False
            )
        return {
            "group": group, "repetition": repetition, "spikes": self.trains.counts,
            "rate_hz": 1000 * self.trains.counts / duration, "gamma": gamma, "etv_raw": etv,
        }  # fmt: skip

    def of_group(self, index: int) -> SpikeTrains:
        """The predicted trains of a group."""
        return self.trains.take(range(index * self.repeats, (index + 1) * self.repeats))


def evaluate(
    cell: Cell | GIFCell, recording: Recording, *, dt: float | None = None, before: Recording | None = None,
    repeats: int = 500, seed: int = 0, backend: str | Backend = "numba",
) -> dict[str, float]:  # fmt: skip
    """The scores of a cell on a recording that it was not fitted to.

    Parameters
    ----------
    cell : Cell or GIFCell
    recording : Recording
        The test part.
    dt : float or None
        Time step of the model in ms; None: the recording's.
    before : Recording or None
        The same sweeps' earlier part, which leaves a state behind; None: the recording begins at rest.
    repeats, seed : int
        Repetitions of a stochastic cell, and the seed of their noise.
    backend
        As for `simulate`.

    Returns
    -------
    dict
        As ``blocksim.ephys.evaluation.scores`` has it.
    """
    step = recording.dt if dt is None else dt
    return scores(predict(cell, recording, step, before=before, backend=backend, repeats=repeats, seed=seed))


def predict(
    cell: Cell | GIFCell, recording: Recording, dt: float, *, before: Recording | None = None,
    backend: str | Backend = "numba", repeats: int = 500, seed: int = 0,
) -> Predicted:  # fmt: skip
    """Predict a recording; with `before`, the same sweeps' earlier part, from the state that it leaves behind.

    Single precision, as in the fit. `repeats`, `seed`: of a stochastic cell.
    """
    at = recording.at_dt(dt)
    current, earlier = at.current, None if before is None else before.at_dt(dt)
    if earlier is not None:
        if earlier.sweeps != at.sweeps:
            raise ArgumentError(
                f"before: expected the earlier part of the same {at.sweeps} sweeps; found {earlier.sweeps} sweeps"
            )
        current = np.concatenate([earlier.current, current], axis=1)
    lead = 0 if earlier is None else earlier.steps
    groups = repeats_of(current)
    means = means_of(current, groups)
    if isinstance(cell, GIFCell):
        repeats = whole_number("repeats", repeats, 1) if cell.is_stochastic else 1
        return _predict_gif(cell, at, groups, means, earlier, backend, repeats, seed)
    traces = Prediction(*(trace[:, lead:] for trace in cell.predict(means, dt, backend=backend, dtype=np.float32)))
    unit = "1" if cell.millivolts is None else "mV"
    return Predicted(at, groups, traces, SpikeTrains.from_steps(traces.spikes, dt), unit=unit)


def _predict_gif(
    cell: GIFCell, at: Recording, groups: list[list[int]], means: np.ndarray, before: Recording | None,
    backend: str | Backend, repeats: int, seed: int,
) -> Predicted:  # fmt: skip
    """`means`: the current of each group, with what came before."""
    dt, lead = at.dt, 0 if before is None else before.steps
    every = cell.sample(means, dt, repeats=repeats, seed=seed, backend=backend)
    trains = every.window(lead * dt, means.shape[1] * dt) if lead else every
    counts = at.spike_counts() > 0
    fired = counts if before is None else np.concatenate([before.spike_counts() > 0, counts], axis=1)
    current = np.empty(fired.shape)
    for index, group in enumerate(groups):
        current[group] = means[index]
    everything = cell.impose(current, fired, dt)
    imposed = Imposed(*(None if each is None else each[:, lead:] for each in everything))  # type: ignore[arg-type]
    first = [group[0] for group in groups]
    spikes = trains.take(range(0, len(trains), repeats)).to_steps(dt, at.steps) > 0
    traces = Prediction(spikes, imposed.potential[first], imposed.threshold[first])
    return Predicted(at, groups, traces, trains, repeats, imposed)


def scores(
    predicted: Predicted,
    *,
    sigma: float = SIGMA,
    window: float = WINDOW,
    spike_window: tuple[float, float] = NEAR,
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
        "gamma"; "md_star", "intrinsic_reliability", and with windows of 2 and 8 ms "md_star_2ms", "md_star_8ms";
        "potential_r2", the share of the potential's variance explained away from spikes. Of several groups of repeats
        the mean, each weighted by its number of trials; what needs repeats comes from the groups that have some.

    Notes
    -----
    Of a stochastic cell "etv" is that of its mean rate; "potential_r2" is 1 - SSE / VAR with the recorded spikes
    imposed, where that of a cell whose potential has no unit of its own is the squared correlation; and there are
    "bits", the log-likelihood of each spike above that by a Poisson neuron, and "ks", the Kolmogorov-Smirnov distance
    of the rescaled intervals. Every spike counts for these, however unlikely, but those within the refractory period of
    another, which the cell cannot have.
    """
    duration = predicted.recording.duration
    rows: list[tuple[int, dict[str, float]]] = []
    for index, group in enumerate(predicted.groups):
        model, trials = predicted.of_group(index), predicted.recording.spikes.take(group)
        raw = float(
            metrics.explained_temporal_variance(
                model, trials, sigma=sigma, duration=duration, normalise=False, pooled=predicted.repeats > 1
            )[0]
        )
        row = {
            "rate_hz": 1000 * float(model.counts.mean()) / duration,
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
                "md_star_2ms": metrics.md_star(model, trials, window=2.0),
                "md_star_8ms": metrics.md_star(model, trials, window=8.0),
                "intrinsic_reliability": metrics.intrinsic_reliability(trials, window=window),
            }
        rows.append((len(group), row))
    result: dict[str, float] = {}
    for name in SCORES:
        found = [(weight, row[name]) for weight, row in rows if name in row and np.isfinite(row[name])]
        total = sum(weight for weight, _ in found)
        result[name] = sum(weight * value for weight, value in found) / total if found else float("nan")
    if predicted.imposed is not None and predicted.imposed.log_hazard is not None:
        fired, log_hazard = predicted.recording.spike_counts() > 0, predicted.imposed.log_hazard
        result["bits"] = bits_per_spike(log_hazard, fired)
        result["ks"] = ks_distance(rescaled_times(log_hazard, fired))
    return result


def _potential(predicted: Predicted, index: int, group: list[int], spike_window: tuple[float, float]) -> float:
    recording = predicted.recording
    window = checked_window("spike_window", spike_window)
    near = near_spikes(recording.spikes.take(group), window, recording.dt, recording.steps)
    if predicted.imposed is not None:
        return r2_of(predicted.imposed.potential[group], recording.voltage[group], ~near)
    away = ~near.any(axis=0)
    return squared_correlation(recording.voltage[group].mean(axis=0)[away], predicted.traces.voltage[index][away])


def arrays(predicted: Predicted, prefix: str) -> dict[str, Any]:
    """A prediction as arrays, for `.npz`: spikes with their group and repetition, traces, each sweep's group."""
    member = np.empty(predicted.recording.sweeps, np.int64)
    for index, group in enumerate(predicted.groups):
        member[group] = index
    return {
        f"{prefix}_spike_time_ms": predicted.trains.times,
        f"{prefix}_spike_group": predicted.trains.owners // predicted.repeats,
        f"{prefix}_spike_repeat": predicted.trains.owners % predicted.repeats,
        f"{prefix}_voltage": predicted.traces.voltage,
        f"{prefix}_threshold": predicted.traces.threshold,
        f"{prefix}_group_of_sweep": member,
    }
