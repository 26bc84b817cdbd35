"""Fitting adaptive neurons to recordings: search, descent from several starts in one run, refinement.

Owns the order of the stages, and the result. The stages, all on the training part of the data:

1. *Search*: candidates that fill the space of parameters, simulated side by side; refractory periods come from a grid.
2. *Descent*: the best of them, the restarts, follow the surrogate gradient by Adam, all in one run. Each keeps the
   parameters that were best on the part of the training data held out for validation, and stops when it has not
   improved there for a while.
3. *Refinement*: candidates drawn about the best ones, without gradients and on all of the training data, generation by
   generation. The surrogate gradient is not that of the loss, which is a step function of the parameters; its minima
   are near those of the loss, and refinement goes the rest of the way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from blocksim._array_io import plain
from blocksim._validation import found
from blocksim.backend import get_backend
from blocksim.ephys._fitting.config import FitConfig
from blocksim.ephys._fitting.data import FitData
from blocksim.ephys._fitting.descent import Progress, descend
from blocksim.ephys._fitting.doubts import doubts_of, potentials, several_cells
from blocksim.ephys._fitting.losses import spike_loss
from blocksim.ephys._fitting.model import Cell, Prediction
from blocksim.ephys._fitting.objective import Objective
from blocksim.ephys._fitting.search import Space, refine
from blocksim.ephys._fitting.translation import in_units_of_cells
from blocksim.ephys._recordings.recording import Recording
from blocksim.errors import ArgumentError
from blocksim.surrogates import get_surrogate

# of the potential, where none is given: compared with 0, 0.1 and 0.5 on the last quarter of three training parts
VOLTAGE_WEIGHT = 0.2


@dataclass(frozen=True, eq=False)
class Fit:
    """A finished fit.

    Attributes
    ----------
    cell : Cell
        The best parameters.
    dt : float
        Time step in ms that they were fitted with.
    loss : dict of float
        Equation (26), 1 for a cell that never spikes: "search", the best candidate; "descent", the best restart, both
        on the part that is fitted; "validation", the same restart's on the part held out, NaN where nothing was;
        "training", the final parameters' on all of the training data.
    restarts : dict of (R,) arrays
        Where each restart ended: parameters by name, in the unit of `Cell`, and "fit", "validation", the losses.
    history : dict of arrays
        "fit", "validation": (epochs, R) losses in the descent, NaN after a restart stopped; "training": (G,) the best
        loss of each generation of the refinement.
    seconds : dict of float
        Wall-clock time of each stage: "search", "descent", "refinement". For cells fitted in one run the descent's
        is shared out evenly.
    config : FitConfig
        Settings.
    warnings : tuple of str
        What a reader of the numbers must know.
    """

    cell: Cell
    dt: float
    loss: dict[str, float]
    restarts: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    seconds: dict[str, float]
    config: FitConfig
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        cell = self.cell
        lines = [f"alif fit, dt {self.dt:g} ms, {sum(self.seconds.values()):.2g} s"]
        shown = {
            "tau_mem": (cell.tau_mem, "ms"), "tau_adapt": (cell.tau_adapt, "ms"), "rheobase": (cell.rheobase, "pA"),
            "adaptation": (cell.adaptation_pa, "pA"), "gain": (cell.gain, "/pA"), "refractory": (cell.refractory, "ms"),
        }  # fmt: skip
        lines += [f"  {name:18}{value:10.4g} {unit}" for name, (value, unit) in shown.items()]
        for name, value in (cell.millivolts or {}).items():
            lines.append(f"  {name:18}{value:10.4g}" + ("" if "MOhm" in name else " mV"))
        lines.append(f"  loss {self.loss['training']:.3f} (1: a neuron that never spikes)")
        return "\n".join([*lines, *(f"  warning: {each}" for each in self.warnings)])

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each parameter: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (P,) arrays
            Those of `Cell.table`. A search has no standard errors; `restarts`, whose columns pandas takes too, shows
            where it ended from elsewhere.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim.ephys import Cell, Fit, FitConfig
        >>> cell = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)
        >>> fit = Fit(cell, dt=0.1, loss={"training": 0.2}, restarts={}, history={}, seconds={}, config=FitConfig())
        >>> table = fit.table()
        >>> dict(zip(table["parameter"].tolist(), table["value"].tolist()))["tau_adapt"]
        150.0
        """
        return self.cell.table()

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON: NaN as null."""
        everything: dict[str, Any] = plain({
            "cell": self.cell.to_dict(), "derived": {
                "rheobase": self.cell.rheobase, "adaptation_pa": self.cell.adaptation_pa,
                "millivolts": self.cell.millivolts,
            },
            "dt": self.dt, "loss": self.loss, "restarts": self.restarts, "history": self.history,
            "seconds": self.seconds, "config": self.config.to_dict(), "warnings": self.warnings,
        })  # fmt: skip
        return everything


def fit(data: Recording | FitData, config: FitConfig | None = None, progress: Progress | None = None) -> Fit:
    """Fit an adaptive neuron to the training part of a recording.

    Parameters
    ----------
    data : Recording or FitData
        What to fit: the training part; the test part is not among it.
    config : FitConfig or None
        Settings.
    progress : callable or None
        Called now and then with the name of the stage, the steps done and their number.

    Returns
    -------
    Fit

    Raises
    ------
    ArgumentError
        There is no spike in the training part, or the current does not vary.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import Cell, FitConfig, FitData, fit
    >>> rng = np.random.default_rng(0)
    >>> current = 200 + 150 * np.repeat(rng.normal(size=(1, 400)), 10, axis=1)
    >>> true = Cell(tau_mem=15, tau_adapt=100, adaptation=0.5, gain=0.01, bias=-0.5, refractory=3)
    >>> data = FitData(current, true.predict(current, dt=0.5, backend="numpy").spikes, dt=0.5)
    >>> config = FitConfig(candidates=32, restarts=4, epochs=5, generations=2, population=32, backend="numpy")
    >>> result = fit(data, config)
    >>> result.loss["training"] < 1, result.history["fit"].shape
    (True, (5, 4))
    """
    config = FitConfig() if config is None else config
    if not isinstance(config.dt, tuple):
        return fit_cells([data], config, progress)[0]
    fits = [fit_cells([data], replace(config, dt=step), progress)[0] for step in config.dt]
    held = config.validation and all(np.isfinite(each.loss["validation"]) for each in fits)
    return min(fits, key=lambda each: each.loss["validation" if held else "training"])


def fit_cells(
    data: Sequence[Recording | FitData], config: FitConfig | None = None, progress: Progress | None = None
) -> list[Fit]:
    """Fit several cells, whose data have one shape, in one run: the restarts of all of them descend side by side.

    Parameters
    ----------
    data : sequence of Recording or FitData
        Of one number of windows and one length, with one time step.
    config, progress
        As for `fit`; each cell's search begins with the same seed, so that a cell's fit does not depend on the others.

    Returns
    -------
    list of Fit
        One for each cell, in the order of `data`.

    Raises
    ------
    ArgumentError
        As for `fit`, or the shapes differ (fit such cells one by one).
    """
    config = FitConfig() if config is None else config
    if not data:
        raise ArgumentError("data: expected at least one cell; found none")
    cells = [_data(item, config) for item in data]
    tell = progress or (lambda stage, done, total: None)
    stops, whole_stops = _stops(cells[0], config), np.full(len(cells[0].current), cells[0].current.shape[1])
    options: dict[str, Any] = {
        "loss": spike_loss(config.loss, config.tau), "voltage_weight": _voltage_weight(cells, config),
        "surrogate": get_surrogate(config.surrogate),
        "detach": config.detach, "backend": get_backend(config.backend), "method": config.method,
    }  # fmt: skip

    spaces = [Space.of(cell, config.refractory, config.bounds, config.fixed) for cell in cells]
    searched: list[tuple[np.ndarray, np.ndarray]] = []
    seconds: list[dict[str, float]] = []
    for index, cell in enumerate(cells):
        tell("search", index, len(cells))
        began = time.perf_counter()
        alone = Objective([cell], stops, **options)
        rows = spaces[index].start(config.candidates, np.random.default_rng([config.seed, 0]))
        scores = alone.evaluate(spaces[index].values(rows), np.zeros(len(rows), np.int64)).fit
        order = np.argsort(scores, kind="stable")
        searched.append((rows[order], scores[order]))
        seconds.append({"search": time.perf_counter() - began})

    began = time.perf_counter()
    starts = [rows[: config.restarts] for rows, _ in searched]
    descent = descend(Objective(cells, stops, **options), spaces, starts, config, tell)
    took = (time.perf_counter() - began) / len(cells)

    results = []
    for index, cell in enumerate(cells):
        tell("refinement", index, len(cells))
        began = time.perf_counter()
        rows, fit_loss, held_loss = (part[index] for part in (descent.rows, descent.fit, descent.validation))
        best = int(np.argmin(np.where(np.isnan(held_loss), fit_loss, held_loss)))
        whole_objective = Objective([cell], whole_stops, **options)

        def score(rows: np.ndarray, objective: Objective = whole_objective, space: Space = spaces[index]) -> np.ndarray:
            return objective.evaluate(space.values(rows), np.zeros(len(rows), np.int64)).fit

        final, refinement = rows[best], np.zeros(0)
        if config.generations:
            pool = np.concatenate([rows, searched[index][0][config.restarts : config.population]])
            refined = refine(
                pool, score(pool), score, np.random.default_rng([config.seed, 1]),
                generations=config.generations, population=config.population,
            )  # fmt: skip
            final, refinement = refined.rows[0], refined.history
        training_loss = float(score(final[None])[0])
        seconds[index] |= {"descent": took, "refinement": time.perf_counter() - began}
        values = spaces[index].values(final[None])
        cell_found = _cell(values, cell)
        predicted = cell_found.predict(cell.current, cell.dt, backend=config.backend, dtype=np.float32)
        results.append(
            Fit(
                cell=_scaled(cell_found, cell, predicted),
                dt=cell.dt,
                loss={
                    "search": float(searched[index][1][0]), "descent": float(fit_loss[best]),
                    "validation": float(held_loss[best]), "training": training_loss,
                },
                restarts={
                    **in_units_of_cells(spaces[index].values(rows), cell.dt), "fit": fit_loss, "validation": held_loss,
                },
                history={
                    "fit": descent.history[0][:, index], "validation": descent.history[1][:, index],
                    "training": refinement,
                },
                seconds=seconds[index],
                config=config,
                warnings=(*several_cells(_labels(data[index])), *doubts_of(cell, spaces[index], values, predicted)),
            )
        )  # fmt: skip
    tell("refinement", len(cells), len(cells))
    return results


def _labels(data: Recording | FitData) -> Sequence[str]:
    return data.labels if isinstance(data, Recording) else ()


def _voltage_weight(cells: Sequence[FitData], config: FitConfig) -> float:
    """The weight of the potential: where none is given, that of cells with recorded potentials."""
    if config.voltage_weight is not None:
        return config.voltage_weight
    recorded = [cell.voltage is not None and cell.near_spike is not None for cell in cells]
    if any(recorded) and not all(recorded):
        raise ArgumentError(
            f"data: expected potentials of all cells or of none, for the default voltage_weight; found {sum(recorded)} "
            f"of {len(recorded)} (voltage_weight=0 leaves them out)"
        )
    return VOLTAGE_WEIGHT if all(recorded) else 0.0


def _data(data: Recording | FitData, config: FitConfig) -> FitData:
    if isinstance(data, FitData):
        return data
    if not isinstance(data, Recording):
        raise ArgumentError(f"data: expected a Recording or FitData; found {found(data)}")
    if isinstance(config.dt, tuple):
        raise ArgumentError("dt: expected one time step for cells that are fitted in one run; found several (use fit)")
    recording = data if config.dt is None else data.at_dt(config.dt)
    return FitData.of(
        recording, voltage=True, spike_window=config.spike_window, warm_up=config.warm_up, merge=config.merge
    )


def _stops(data: FitData, config: FitConfig) -> np.ndarray:
    """Where validation begins in each window, in steps."""
    windows, steps = data.current.shape
    if config.validation_by == "windows":
        held = round(config.validation * windows)
        if config.validation and not 0 < held < windows:
            raise ArgumentError(
                f"validation: expected a share of the windows that holds out at least one and leaves at least one of "
                f"{windows} (repeats of one current are one window); found {config.validation:g}"
            )
        return np.where(np.arange(windows) < windows - held, steps, data.warm_up)
    fitted = round((1 - config.validation) * (steps - data.warm_up))
    return np.full(windows, data.warm_up + fitted)


def _cell(values: Mapping[str, np.ndarray], data: FitData) -> Cell:
    parameters = in_units_of_cells(values, data.dt)
    names = [item.name for item in fields(Cell) if item.name in parameters]
    # a period of whole steps, free of the rounding of their product
    return Cell(**{name: round(float(parameters[name][0]), 12) for name in names})


def _scaled(cell: Cell, data: FitData, predicted: Prediction) -> Cell:
    """The cell with its potentials in mV, by regression of the recorded on the predicted ones, away from spikes."""
    x, y = potentials(data, predicted)
    if len(x) < 2 or not np.ptp(x) > 0:
        return cell
    x_mean, y_mean = x.mean(), y.mean()
    slope = float(((x - x_mean) * (y - y_mean)).sum() / np.square(x - x_mean).sum())
    if not slope > 0:
        return cell
    return replace(cell, reset_mv=float(y_mean - slope * x_mean), scale_mv=slope)
