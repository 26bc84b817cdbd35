"""Fitting adaptive neurons to recordings: search, descent from several starts in one run, refinement.

Owns the settings of a fit, the order of its stages, and its result. The stages, all on the training part of the data:

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import numpy as np

from blocksim._array_io import plain
from blocksim._options import DETACH, METHODS
from blocksim._validation import choice, choices, found, instance, items, milliseconds, number, whole
from blocksim.backend import get_backend
from blocksim.ephys.model import Cell
from blocksim.ephys.objective import PARAMETERS, FitData, Objective
from blocksim.ephys.recording import Recording
from blocksim.ephys.search import Space, refine
from blocksim.errors import ArgumentError
from blocksim.optimisers import Adam
from blocksim.schedules import Cosine
from blocksim.surrogates import Surrogate, get_surrogate

VALIDATION_BY = ("time", "windows")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit.

    Parameters
    ----------
    dt : float, tuple of float, or None
        Time step of the model in ms; None: the recording's. Of several, `fit` makes a fit for each, for time axes
        that differ are different runs, and returns the one of the lowest validation loss (training loss where nothing
        is held out).
    tau : float
        Time constant of the van Rossum distance in ms.
    voltage_weight : float
        Weight of the potential away from spikes, against that of the spikes; 0 fits spikes alone.
    spike_window : (before, after)
        Times in ms around each recorded spike in which the potential does not count.
    refractory : tuple of float
        Absolute refractory periods in ms to choose from; each is rounded to whole steps of dt.
    bounds : mapping
        (low, high) for some of "tau_mem", "tau_adapt" (ms), "gain" (1/pA), "rheobase", "adaptation_pa" (pA); those of
        the others follow from the current: `Space.of`.
    candidates : int
        Parameter sets in the search.
    restarts : int
        How many of them descend.
    epochs : int
        Most steps of the descent; 0 leaves it out.
    learning_rate : float
        Adam's, for free numbers that run over the range of a parameter from about -5 to 5; falls as half a cosine.
    patience : int
        A restart stops after so many epochs without a lower validation loss.
    generations, population : int
        Of the refinement; 0 generations leave it out.
    validation : float
        Share of the training data held out from search and descent; 0 holds out nothing.
    validation_by : {"time", "windows"}
        Hold out the end of each window, or the last windows.
    warm_up : float
        Time in ms at the start of each window that is simulated and does not count.
    merge : bool
        Simulate sweeps that repeat one current once: `FitData.of`.
    surrogate : str or Surrogate
        As for `simulate`.
    detach : tuple of str
        Paths without gradient, as for `simulate`.
    seed : int
        Of everything random: the same seed gives the same fit, on one machine.
    backend, method : str
        As for `simulate`.

    Raises
    ------
    ArgumentError
        A setting is out of range, or unknown.

    Examples
    --------
    >>> from blocksim.ephys import FitConfig
    >>> FitConfig(dt=0.5, refractory=3).refractory
    (3.0,)
    """

    dt: float | tuple[float, ...] | None = None
    tau: float = 40.0
    voltage_weight: float = 0.0
    spike_window: tuple[float, float] = (2.0, 8.0)
    refractory: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    candidates: int = 1024
    restarts: int = 16
    epochs: int = 200
    learning_rate: float = 0.05
    patience: int = 60
    generations: int = 60
    population: int = 256
    validation: float = 0.2
    validation_by: str = "time"
    warm_up: float = 0.0
    merge: bool = True
    surrogate: str | Surrogate = "fast_sigmoid"
    detach: tuple[str, ...] = ("reset", "adaptation")
    seed: int = 0
    backend: str = "numba"
    method: str = "blocks"

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        if isinstance(self.dt, (tuple, list)) and len(self.dt) != 1:
            if not self.dt:
                raise ArgumentError("dt: expected at least one time step; found none")
            set_field(self, "dt", tuple(milliseconds("dt", step) for step in self.dt))
        elif self.dt is not None:
            alone: Any = self.dt[0] if isinstance(self.dt, (tuple, list)) else self.dt
            set_field(self, "dt", milliseconds("dt", alone))
        set_field(self, "tau", milliseconds("tau", self.tau))
        set_field(self, "learning_rate", number("learning_rate", self.learning_rate, above=0))
        set_field(self, "voltage_weight", number("voltage_weight", self.voltage_weight, least=0))
        set_field(self, "warm_up", milliseconds("warm_up", self.warm_up, zero=True))
        set_field(self, "validation", number("validation", self.validation, least=0, below=1))
        for name, least in (
            ("candidates", 1), ("restarts", 1), ("epochs", 0), ("patience", 1), ("generations", 0), ("population", 16),
            ("seed", 0),
        ):  # fmt: skip
            set_field(self, name, whole(name, getattr(self, name), least))
        if self.restarts > self.candidates:
            raise ArgumentError(
                f"restarts: expected at most as many as candidates, {self.candidates}; found {self.restarts}"
            )
        choice("method", self.method, METHODS)
        choice("validation_by", self.validation_by, VALIDATION_BY)
        set_field(self, "detach", choices("detach", self.detach, DETACH))
        periods: Any = (self.refractory,) if np.isscalar(self.refractory) else self.refractory
        periods = items("refractory", periods, "periods in ms")
        set_field(self, "refractory", tuple(milliseconds("refractory", period, zero=True) for period in periods))
        window = items("spike_window", self.spike_window, "two times in ms, before a spike and after it", 2)
        set_field(self, "spike_window", tuple(milliseconds("spike_window", value, zero=True) for value in window))
        instance("bounds", self.bounds, Mapping, "a dict of (low, high) by name")
        bounds = {name: items(f"bounds: {name}", pair, "(low, high)", 2) for name, pair in self.bounds.items()}
        set_field(self, "bounds", bounds)
        choices("bounds", tuple(self.bounds), PARAMETERS)
        get_surrogate(self.surrogate)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], source: str = "config") -> Self:
        """Settings by name, as a configuration file holds them; the others keep their defaults.

        Raises `ArgumentError`, naming `source`, where a name is unknown.
        """
        names = [item.name for item in fields(cls)]
        for name in settings:
            if name not in names:
                raise ArgumentError(f"{source}: expected settings out of {', '.join(names)}; found {name!r}")
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Settings by name, for JSON."""
        settings = asdict(replace(self, surrogate="fast_sigmoid"))
        surrogate = self.surrogate
        return {**settings, "surrogate": surrogate if isinstance(surrogate, str) else repr(surrogate)}


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
    """

    cell: Cell
    dt: float
    loss: dict[str, float]
    restarts: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    seconds: dict[str, float]
    config: FitConfig

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON: NaN as null."""
        everything: dict[str, Any] = plain({
            "cell": self.cell.to_dict(), "derived": {
                "rheobase": self.cell.rheobase, "adaptation_pa": self.cell.adaptation_pa,
                "millivolts": self.cell.millivolts,
            },
            "dt": self.dt, "loss": self.loss, "restarts": self.restarts, "history": self.history,
            "seconds": self.seconds, "config": self.config.to_dict(),
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
        "tau": config.tau, "voltage_weight": config.voltage_weight, "surrogate": get_surrogate(config.surrogate),
        "detach": config.detach, "backend": get_backend(config.backend), "method": config.method,
    }  # fmt: skip

    spaces = [Space.of(cell, config.refractory, config.bounds) for cell in cells]
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
    descent = _descend(Objective(cells, stops, **options), spaces, starts, config, tell)
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
        cell_found = _cell(spaces[index].values(final[None]), cell)
        results.append(
            Fit(
                cell=_scaled(cell_found, cell, config),
                dt=cell.dt,
                loss={
                    "search": float(searched[index][1][0]), "descent": float(fit_loss[best]),
                    "validation": float(held_loss[best]), "training": training_loss,
                },
                restarts={**_parameters(spaces[index].values(rows), cell.dt), "fit": fit_loss, "validation": held_loss},
                history={
                    "fit": descent.history[0][:, index], "validation": descent.history[1][:, index],
                    "training": refinement,
                },
                seconds=seconds[index],
                config=config,
            )
        )  # fmt: skip
    tell("refinement", len(cells), len(cells))
    return results


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


@dataclass(frozen=True, eq=False)
class _Descent:
    """Where restarts ended: (C, R, width) rows, (C, R) losses; two (epochs, C, R) histories."""

    rows: np.ndarray
    fit: np.ndarray
    validation: np.ndarray
    history: tuple[np.ndarray, np.ndarray]


def _descend(
    objective: Objective, spaces: Sequence[Space], starts: Sequence[np.ndarray], config: FitConfig, tell: Progress
) -> _Descent:
    """All restarts of all cells, along the gradient, in one run; those that stopped are left out."""
    cells, restarts = len(starts), len(starts[0])
    rows = np.concatenate(starts)
    columns = np.repeat(np.arange(cells), restarts)
    best_rows, best = rows.copy(), np.full((3, len(rows)), np.inf)  # what is compared, and both losses
    waited = np.zeros(len(rows), np.int64)
    history = np.full((2, config.epochs, len(rows)), np.nan)
    optimiser = Adam(Cosine(config.learning_rate, max(config.epochs, 1)), beta2=0.99)
    # optimisers know nothing of rows that stop: all rows step, those that stopped by a gradient of zero
    free = {name: rows[:, k].copy() for k, name in enumerate(PARAMETERS)}
    state = optimiser.start(free)
    active = np.arange(len(rows))
    done = 0
    for epoch in range(config.epochs):
        if epoch % 10 == 0:
            tell("descent", epoch, config.epochs)
        current = rows[active]
        values = _values(spaces, current, columns[active])
        losses = objective.evaluate(values, columns[active], gradient=True)
        assert losses.gradient is not None
        history[0, epoch, active], history[1, epoch, active] = losses.fit, losses.validation
        compared = losses.validation if objective.validated else losses.fit
        improved = compared < best[0, active]
        winners = active[improved]
        best[:, winners] = np.stack([compared, losses.fit, losses.validation])[:, improved]
        best_rows[winners] = current[improved]
        waited[active] += 1
        waited[winners] = 0
        done = epoch + 1
        slopes = {}
        for k, name in enumerate(PARAMETERS):
            slope = np.zeros(len(rows))
            slope[active] = _pullback(spaces, columns[active], name, current[:, k], losses.gradient[name])
            slopes[name] = slope
        free, state = optimiser.step(free, slopes, state)
        for k, name in enumerate(PARAMETERS):
            rows[:, k] = free[name]
        active = np.flatnonzero(waited < config.patience)
        if not len(active):
            break
    if not config.epochs:
        losses = objective.evaluate(_values(spaces, rows, columns), columns)
        best = np.stack([losses.fit, losses.fit, losses.validation])
    shape = cells, restarts
    return _Descent(
        best_rows.reshape(*shape, -1), best[1].reshape(shape), best[2].reshape(shape),
        (history[0, :done].reshape(done, *shape), history[1, :done].reshape(done, *shape)),
    )  # fmt: skip


def _values(spaces: Sequence[Space], rows: np.ndarray, columns: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters of rows that belong to several cells."""
    if len(spaces) == 1:
        return spaces[0].values(rows)
    parts = [spaces[cell].values(rows[columns == cell]) for cell in np.unique(columns)]
    # columns ascend, so that parts joined are in the order of the rows
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _pullback(
    spaces: Sequence[Space], columns: np.ndarray, name: str, free: np.ndarray, gradient: np.ndarray
) -> np.ndarray:
    if len(spaces) == 1:
        return spaces[0].transforms[name].pullback(free, gradient)
    return np.concatenate([
        spaces[cell].transforms[name].pullback(free[columns == cell], gradient[columns == cell])
        for cell in np.unique(columns)
    ])  # fmt: skip


def _parameters(values: Mapping[str, np.ndarray], dt: float) -> dict[str, np.ndarray]:
    """Parameters in the units of `Cell`, and those that were searched."""
    gain = values["gain"]
    return {
        "tau_mem": values["tau_mem"], "tau_adapt": values["tau_adapt"], "adaptation": values["adaptation_pa"] * gain,
        "gain": gain, "bias": 1 - gain * values["rheobase"], "refractory": values["refractory"] * dt,
        "rheobase": values["rheobase"], "adaptation_pa": values["adaptation_pa"],
    }  # fmt: skip


def _cell(values: Mapping[str, np.ndarray], data: FitData) -> Cell:
    parameters = _parameters(values, data.dt)
    names = [item.name for item in fields(Cell) if item.name in parameters]
    # a period of whole steps, free of the rounding of their product
    return Cell(**{name: round(float(parameters[name][0]), 12) for name in names})


def _scaled(cell: Cell, data: FitData, config: FitConfig) -> Cell:
    """The cell with its potentials in mV, by regression of the recorded on the predicted ones, away from spikes."""
    if data.voltage is None or data.near_spike is None:
        return cell
    predicted = cell.predict(data.current, data.dt, backend=config.backend, dtype=np.float32)
    counts = ~np.asarray(data.near_spike)
    counts[:, : data.warm_up] = False
    x, y = predicted.voltage[counts].astype(np.float64), np.asarray(data.voltage)[counts].astype(np.float64)
    if len(x) < 2 or not np.ptp(x) > 0:
        return cell
    x_mean, y_mean = x.mean(), y.mean()
    slope = float(((x - x_mean) * (y - y_mean)).sum() / np.square(x - x_mean).sum())
    if not slope > 0:
        return cell
    return replace(cell, reset_mv=float(y_mean - slope * x_mean), scale_mv=slope)
