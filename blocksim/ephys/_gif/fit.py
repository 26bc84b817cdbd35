"""Fitting generalised integrate-and-fire neurons with escape noise: `fit_gif`, and what it returns.

Owns the order of a fit: the potential by least squares with the spikes imposed, the threshold by Newton's ascent of the
likelihood (40), first on a part of the data for the scores on the rest, then on all of it. Sources: Mensi et al.,
Journal of Neurophysiology 107, 2012; Pozzorini et al., PLoS Computational Biology 11, 2015.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from blocksim import _notebook
from blocksim._array_io import plain, write_json
from blocksim._validation import choice, found, real_array
from blocksim.ephys._fitting.data import near_spikes
from blocksim.ephys._fitting.descent import Progress
from blocksim.ephys._fitting.doubts import poorly_explained
from blocksim.ephys._gif.cell import GIFCell
from blocksim.ephys._gif.config import MODELS, GIFConfig
from blocksim.ephys._gif.imposed import Basis, hazard_of, impose, threshold_regressors
from blocksim.ephys._gif.noiseless import without_noise
from blocksim.ephys._gif.potential import Potential, fit_potential, r2_of
from blocksim.ephys._gif.spikes import Spikes, bits_per_spike, fit_spikes, ks_distance, rescaled_times
from blocksim.ephys._recordings.recording import Recording
from blocksim.errors import ArgumentError, FileError

FEW_SPIKES = 50  # below, a fit of many numbers is not to be trusted
WIDEST = 50.0  # mV: noise so wide hides the threshold
KERNELS = ("currents", "thresholds")
BAND = 1.96  # standard deviations of a band of 95 %


T = TypeVar("T")


class Kernel(NamedTuple):
    """A sum of exponentials over time, and its 95 % band."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class GIFFit:
    """A finished fit of a stochastic neuron.

    Attributes
    ----------
    cell : GIFCell
        The parameters.
    dt : float
        Time step in ms that they were fitted with.
    names : tuple of str
        Names of the fitted numbers: "tau_mem", "rest", "resistance", "currents.0" and so on.
    covariance : (P, P) array
        Of the fitted numbers, in their units; those of potential and threshold are taken as independent.
    scores : dict of float
        "bits" and "r2" of all of the data, and "held_out_bits" and "held_out_r2" of a fit to the rest (NaN where
        nothing was held out). Bits: by how much the model is more likely than a Poisson neuron, for each spike; R2: the
        share of the potential's variance explained, 1 - SSE / VAR, with recorded spikes imposed. "ks" is the
        Kolmogorov-Smirnov distance of the rescaled intervals, "ks_critical" what it exceeds by chance in 5 % of fits.
        All are of the neuron with its noise, also where `config.noise` takes it away afterwards.
    compared : dict of float
        The held-out bits of each model that was tried.
    warnings : tuple of str
        What a reader of the numbers must know.
    series_resistance : float
        In MOhm; 0 where it was not fitted.
    seconds : float
        Wall-clock time.
    config : GIFConfig
        Settings.
    """

    cell: GIFCell
    dt: float
    names: tuple[str, ...]
    covariance: np.ndarray
    scores: dict[str, float]
    compared: dict[str, float]
    warnings: tuple[str, ...]
    series_resistance: float
    seconds: float
    config: GIFConfig

    def __str__(self) -> str:
        cell, errors = self.cell, self.errors

        def shown(name: str, value: float, unit: str) -> str:
            error = errors.get(name)
            return f"  {name:18}{value:10.4g}" + (f" +- {error:.2g}" if error is not None else "") + f" {unit}"

        lines = [f"{self.config.model} fit, dt {self.dt:g} ms, {self.seconds:.2g} s"]
        lines += [
            shown("tau_mem", cell.tau_mem, "ms"), shown("resistance", cell.resistance, "MOhm"),
            shown("rest", cell.rest, "mV"), shown("reset", cell.reset, "mV"),
            shown("threshold", cell.threshold, "mV"),
            shown("width", cell.width, "mV") if cell.is_stochastic else "  without noise",
        ]  # fmt: skip
        for name, unit in (("currents", "pA"), ("thresholds", "mV")):
            for place, (tau, amplitude) in enumerate(getattr(cell, name)):
                lines.append(shown(f"{name}.{place}", amplitude, f"{unit}, {tau:g} ms"))
        held = self.scores["held_out_bits"]
        lines.append(
            f"  bits per spike {self.scores['bits']:.2f}" + (f" (held out {held:.2f})" if np.isfinite(held) else "")
            + f", R2 of the potential {self.scores['r2']:.3f}"
        )  # fmt: skip
        return "\n".join([*lines, *(f"  warning: {each}" for each in self.warnings)])

    def _repr_html_(self) -> str:
        """In a notebook: the numbers, and the kernels with their bands."""
        from blocksim.ephys.report import kernels  # which shows these fits, and so knows them

        return _notebook.shown(str(self), lambda: kernels(self))

    @property
    def errors(self) -> dict[str, float]:
        """The standard error of each fitted number."""
        return dict(zip(self.names, np.sqrt(np.maximum(np.diagonal(self.covariance), 0)).tolist(), strict=True))

    @property
    def correlation(self) -> np.ndarray:
        """(P, P): correlations of the fitted numbers, in the order of `names`."""
        spread = np.sqrt(np.maximum(np.diagonal(self.covariance), 1e-300))
        return np.asarray(self.covariance / np.outer(spread, spread))

    def kernel(self, name: str, times: Any) -> Kernel:
        """What a spike leaves behind at times after it, with a 95 % band.

        Parameters
        ----------
        name : {"currents", "thresholds"}
            The after-spike current in pA, or the rise of the threshold in mV.
        times : (n,) array
            In ms.
        """
        choice("name", name, KERNELS)
        after = real_array("times", times, "ms").astype(np.float64)
        entries = getattr(self.cell, name)
        shapes = np.exp(-after[:, None] / np.array([tau for tau, _ in entries], np.float64))
        value = shapes @ np.array([amplitude for _, amplitude in entries])
        places = [self.names.index(f"{name}.{place}") for place in range(len(entries))]
        variance = np.einsum("ti,ij,tj->t", shapes, self.covariance[np.ix_(places, places)], shapes)
        width = BAND * np.sqrt(np.maximum(variance, 0))
        return Kernel(value, value - width, value + width)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON: NaN as null."""
        everything: dict[str, Any] = plain({
            "kind": "gif", "cell": self.cell.to_dict(), "dt": self.dt, "names": self.names, "errors": self.errors,
            "covariance": self.covariance, "scores": self.scores, "compared": self.compared,
            "warnings": self.warnings, "series_resistance": self.series_resistance, "seconds": self.seconds,
            "config": self.config.to_dict(),
        })  # fmt: skip
        return everything

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The fit of `to_dict`."""
        names = ("cell", "config", "covariance", "names", "scores", "compared", "warnings", "dt", "series_resistance",
                 "seconds")  # fmt: skip
        missing = [name for name in names if name not in values]
        if missing:
            raise ArgumentError(f"fit: expected what GIFFit.to_dict returns; found no {', '.join(missing)}")

        def numbers(given: Mapping[str, Any]) -> dict[str, float]:
            return {name: float("nan") if value is None else float(value) for name, value in given.items()}

        covariance = np.array(values["covariance"], np.float64)  # None becomes NaN
        return cls(
            GIFCell.from_dict(values["cell"]), float(values["dt"]), tuple(values["names"]), covariance,
            numbers(values["scores"]), numbers(values["compared"]), tuple(values["warnings"]),
            float(values["series_resistance"]), float(values["seconds"]), GIFConfig.from_dict(values["config"]),
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write the fit as JSON; a file that is there is replaced as a whole."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The fit that `save` or `blocksim fit` wrote.

        Raises
        ------
        FileError
            It is no file of a fit of a stochastic neuron.
        """
        return read_fit(Path(path), "a fit of a stochastic neuron, as GIFFit.save writes it", cls.from_dict)


def read_fit(path: Path, expected: str, make: Callable[[dict[str, Any]], T]) -> T:
    """What `make` makes of the fit in a file, which `blocksim fit` wrote, or `GIFFit.save`."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return make(saved.get("fit", saved))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ArgumentError) as error:
        raise FileError(f"{path}: expected {expected}; found another file ({error})") from error


def fit_gif(data: Recording, config: GIFConfig | None = None, progress: Progress | None = None) -> GIFFit:
    """Fit a generalised integrate-and-fire neuron with escape noise to the training part of a recording.

    Parameters
    ----------
    data : Recording
        What to fit: the training part; the test part is not among it.
    config : GIFConfig or None
        Settings.
    progress : callable or None
        Called now and then with the name of the stage, the steps done and their number.

    Returns
    -------
    GIFFit

    Raises
    ------
    ArgumentError
        There is no spike, the current does not vary, or the potential does not rise with the current.

    Notes
    -----
    The potential is the recorded one, away from spikes. Each sweep begins at rest.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import GIFCell, GIFConfig, Recording, fit_gif
    >>> rng = np.random.default_rng(0)
    >>> current = 150 + 120 * np.repeat(rng.normal(size=(1, 4000)), 10, axis=1)  # 20 s at 0.5 ms
    >>> true = GIFCell(capacitance=100, conductance=8, rest=-70, reset=-60, threshold=-48, width=1.5, refractory=4)
    >>> spikes = true.sample(current[0], dt=0.5, repeats=1, seed=1)
    >>> imposed = true.impose(current, spikes.to_steps(0.5, 40_000) > 0, dt=0.5)
    >>> fit = fit_gif(Recording(current, imposed.potential, 2000, spikes), GIFConfig(model="lif"))
    >>> round(fit.cell.tau_mem, 1), abs(fit.cell.width - 1.5) < 0.5
    (12.5, True)
    """
    config = GIFConfig() if config is None else config
    if not isinstance(data, Recording):
        raise ArgumentError(f"data: expected a Recording; found {found(data)}")
    began = time.perf_counter()
    tell = progress or (lambda stage, done, total: None)
    known = _Data.of(data, config)
    models = list(MODELS) if config.model == "auto" else [config.model]
    stop = round((1 - config.validation) * known.current.shape[1])
    held = _held_out(known, stop)
    compared: dict[str, float] = {}
    r2: dict[str, float] = {}
    for number, model in enumerate(models if held else ()):
        tell(f"{model}, a part held out", number, len(models) + 1)
        trial = _fit(known.until(stop), replace(config, model=model))
        compared[model], r2[model] = _score(known, trial, stop)
    model = max(compared, key=lambda name: compared[name]) if compared else models[-1]
    own = replace(config, model=model)
    tell(model, len(models), len(models) + 1)
    result = _fit(known, own)
    uniform = rescaled_times(result.hazard, known.spikes & result.live)
    scores = {
        "bits": bits_per_spike(result.hazard, known.spikes, result.live), "r2": result.potential.r2,
        "held_out_bits": compared.get(model, float("nan")), "held_out_r2": r2.get(model, float("nan")),
        "ks": ks_distance(uniform),
        "ks_critical": 1.36 / float(np.sqrt(len(uniform))) if len(uniform) else float("nan"),
    }  # fmt: skip
    names, covariance = _uncertainty(result)
    cell = result.cell if own.noise else without_noise(result.cell, known.current, known.spikes, known.dt)
    tell(model, len(models) + 1, len(models) + 1)
    series = 1000 * float(result.potential.coefficients[-1]) if own.electrode == "series" else 0.0
    return GIFFit(
        cell, known.dt, names, covariance, scores, compared, tuple(_warnings(known, result, own)), series,
        time.perf_counter() - began, own,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Data:
    """A recording as arrays (B, T), and where its potential counts."""

    dt: float
    current: np.ndarray
    voltage: np.ndarray
    spikes: np.ndarray
    counted: np.ndarray
    refractory: int
    shortest: int  # interval between spikes, in steps

    @classmethod
    def of(cls, recording: Recording, config: GIFConfig) -> _Data:
        """Checked."""
        at = recording if config.dt is None else recording.at_dt(config.dt)
        named = f"{recording.name or recording.source}: " if recording.name or recording.source else ""
        spikes = at.spike_counts() > 0
        if not spikes.any():
            raise ArgumentError(
                f"{named}expected spikes in the training part; found none in {at.sweeps} sweep(s) of "
                f"{at.duration:g} ms (is the detection threshold too high for this cell?)"
            )
        if not np.ptp(at.current) > 0:
            raise ArgumentError(
                f"{named}expected a current that varies; found {at.current.flat[0]:g} pA throughout (is it the command "
                "of another channel?)"
            )
        shortest = min((int(np.diff(np.flatnonzero(row)).min()) for row in spikes if row.sum() > 1), default=at.steps)
        refractory = min(round(config.refractory / at.dt), shortest - 1)
        near = near_spikes(spikes, (config.before_spike, 0.0), at.dt)
        after = near_spikes(spikes, (0.0, refractory * at.dt), at.dt)
        current, voltage = (np.ascontiguousarray(array) for array in (at.current, at.voltage))
        return cls(at.dt, current, voltage, spikes, ~(near | after), refractory, shortest)

    def until(self, stop: int) -> _Data:
        """The steps before `stop`."""
        names = ("current", "voltage", "spikes", "counted")
        parts: Any = {name: np.ascontiguousarray(getattr(self, name)[:, :stop]) for name in names}
        return replace(self, **parts)


class _Result(NamedTuple):
    cell: GIFCell
    basis: Basis
    potential: Potential
    spikes: Spikes
    hazard: np.ndarray  # (B, T)
    live: np.ndarray


def _held_out(known: _Data, stop: int) -> bool:
    """Whether there is something to fit before `stop`, and something to score from there on."""
    return 0 < stop < known.current.shape[1] and all(
        part.sum() >= 5 for part in (known.spikes[:, :stop], known.spikes[:, stop:])
    )


def _fit(known: _Data, config: GIFConfig) -> _Result:
    """Fit to all of the data; where it cannot be done, say why."""
    currents, thresholds, coupling = (getattr(config, name) for name in MODELS[config.model])
    basis = Basis(known.dt, known.refractory, currents, thresholds)
    potential = fit_potential(
        known.current, known.voltage, known.spikes, known.counted, basis, config.tau_mem, config.electrode == "series"
    )
    rest, resistance = potential.coefficients[:2]
    if not resistance > 0:
        raise ArgumentError(
            f"recording: expected a potential that rises with the current; found an input resistance of "
            f"{1000 * resistance:.3g} MOhm (are current and potential swapped, or of different sweeps?)"
        )
    modelled = impose(known.current, known.spikes, basis, potential.tau_mem, potential.coefficients) - rest
    if coupling:
        knots = np.unique(np.quantile(modelled[known.counted][::10], config.knots)) if config.knots else np.zeros(0)
        basis = replace(basis, coupling=coupling, knots=(None, *knots.tolist()))
    regressors, live = threshold_regressors(modelled, known.spikes, basis)
    size = regressors.shape[2]
    spikes = fit_spikes(regressors.reshape(-1, size), known.spikes.ravel(), live.ravel(), config.ridge)
    hazard = hazard_of(regressors @ spikes.weights, live)
    return _Result(_cell(potential, spikes, basis), basis, potential, spikes, hazard, live)


def _cell(potential: Potential, spikes: Spikes, basis: Basis) -> GIFCell:
    """The numbers that were found, in physical units."""
    rest, resistance, *others = potential.coefficients.tolist()
    amplitudes, reset = others[: len(basis.currents)], others[len(basis.currents)]
    slope, constant, *more = spikes.weights.tolist()
    rises = [-each / slope for each in more]
    pairs = [(tau, knot) for tau in basis.coupling for knot in basis.knots]
    number = len(basis.thresholds)
    return GIFCell(
        capacitance=potential.tau_mem / resistance, conductance=1 / resistance, rest=rest, reset=reset,
        threshold=rest + (float(np.log(basis.dt / 1000)) - constant) / slope, width=1 / slope,
        refractory=round(basis.refractory * basis.dt, 12),
        currents=tuple((tau, each / resistance) for tau, each in zip(basis.currents, amplitudes, strict=True)),
        thresholds=tuple(zip(basis.thresholds, rises[:number], strict=True)),
        coupling=tuple(
            (tau, None if knot is None else rest + knot, rise)
            for (tau, knot), rise in zip(pairs, rises[number:], strict=True)
        ),
    )  # fmt: skip


def _score(known: _Data, trial: _Result, start: int) -> tuple[float, float]:
    """Bits for each spike, and R2 of the potential, from `start` on, of a fit to what was before."""
    imposed = trial.cell.impose(known.current, known.spikes, known.dt)
    scored = np.arange(known.current.shape[1]) >= start
    assert imposed.hazard is not None
    return (
        bits_per_spike(imposed.hazard, known.spikes, (imposed.hazard > 0) & scored),
        r2_of(imposed.potential, known.voltage, known.counted & scored),
    )


def _uncertainty(result: _Result) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and covariance of the fitted numbers in their units, by their derivatives in the coefficients."""
    potential, spikes, basis = result.potential, result.spikes, result.basis
    currents, thresholds = len(basis.currents), len(basis.thresholds)
    coefficients, weights = potential.coefficients, spikes.weights
    resistance, slope = coefficients[1], weights[0]
    pairs = len(basis.coupling) * len(basis.knots)
    of_potential = ["tau_mem", "rest", "resistance", *(f"currents.{k}" for k in range(currents)), "reset"]
    series = len(coefficients) - (3 + currents)
    of_potential += ["series_resistance"] * series
    first = np.diag([potential.tau_mem, 1.0, 1000.0, *[1 / resistance] * currents, 1.0, *[1000.0] * series])
    for place in range(currents):
        first[3 + place, 2] = -coefficients[2 + place] / resistance**2
    of_threshold = ["width", "threshold", *(f"thresholds.{k}" for k in range(thresholds))]
    of_threshold += [f"coupling.{k}" for k in range(pairs)]
    second = np.diag([-1 / slope**2, *[-1 / slope] * (len(weights) - 1)])
    second[1:, 0] = weights[1:] / slope**2
    second[1, 0] = (weights[1] - np.log(basis.dt / 1000)) / slope**2
    covariance = np.zeros((len(of_potential) + len(of_threshold),) * 2)
    border = len(of_potential)
    covariance[:border, :border] = first @ potential.covariance @ first.T
    covariance[border:, border:] = second @ spikes.covariance @ second.T
    covariance[1, border + 1] = covariance[border + 1, 1] = covariance[1, 1]  # the threshold is found above rest
    covariance[border + 1, border + 1] += covariance[1, 1]
    return (*of_potential, *of_threshold), covariance


def _warnings(known: _Data, result: _Result, config: GIFConfig) -> list[str]:
    """What a reader of the numbers must know, in words."""
    told = poorly_explained(result.potential.r2, "mV, MOhm and pF")
    number, numbers = int(known.spikes.sum()), len(result.spikes.weights)
    if result.potential.at_edge:
        low, high = config.tau_mem
        told.append(f"tau_mem lies at the edge of its range, {low:g} to {high:g} ms (widen tau_mem)")
    if number < max(FEW_SPIKES, 5 * numbers):
        told.append(f"{number} spikes determine {numbers} numbers of the threshold poorly")
    if result.spikes.at_bound or result.cell.width > WIDEST:
        told.append(f"the noise is as wide as {result.cell.width:.3g} mV: spikes hardly depend on the potential itself")
    if not result.spikes.converged:
        told.append("the ascent of the likelihood did not end: the threshold's numbers are not its maximum")
    if known.refractory < round(config.refractory / known.dt):
        told.append(
            f"the refractory period is {known.refractory * known.dt:g} ms, for spikes come "
            f"{known.shortest * known.dt:g} ms apart (were some detected twice?)"
        )
    return told
