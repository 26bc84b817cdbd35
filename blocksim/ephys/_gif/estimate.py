"""One fit of one model to given data: regression of the potential, then Newton's ascent for the threshold.

Owns what the coefficients of the two parts are in physical units, and the covariance of these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from blocksim.ephys._gif.cell import GIFCell
from blocksim.ephys._gif.config import MODELS, GIFConfig
from blocksim.ephys._gif.imposed import Basis, impose, is_live, threshold_regressors, where_live
from blocksim.ephys._gif.potential import Potential, fit_potential, r2_of, stretch_of
from blocksim.ephys._gif.recorded import Recorded
from blocksim.ephys._gif.spikes import Spikes, bits_per_spike, fit_spikes, log_likelihoods
from blocksim.errors import ArgumentError

LESS_R2 = 0.01


class Rectangles(NamedTuple):
    """A kernel that is constant between times after a spike.

    Attributes
    ----------
    edges : (K + 1,) array
        In ms after a spike.
    value, error : (K,) arrays
        And standard errors: after-spike currents in pA, rises of the threshold in mV.
    """

    edges: np.ndarray
    value: np.ndarray
    error: np.ndarray

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each stretch of time: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (K,) arrays
            "start_ms", "stop_ms" after a spike; "value", "standard_error".

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim.ephys import Rectangles
        >>> Rectangles(np.array([4.0, 7.0, 12.0]), np.array([-40.0, -20.0]), np.array([2.0, 1.0])).table()["stop_ms"]
        array([ 7., 12.])
        """
        return {
            "start_ms": self.edges[:-1].copy(), "stop_ms": self.edges[1:].copy(), "value": self.value.copy(),
            "standard_error": self.error.copy(),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Estimate:
    """What was found.

    Attributes
    ----------
    cell : GIFCell
    series_resistance : float
        In MOhm; 0 where it was not fitted.
    names : tuple of str
        Of the numbers that were fitted.
    covariance : (P, P) array
        Of these, in their units.
    log_hazard : (B, T) array
        The log of the hazard with the recorded spikes imposed; minus infinity while refractory.
    r2 : float
        Of the potential.
    at_edge, at_bound, converged : bool
        Whether tau_mem lies at an end of its range, and the width of the noise at its bound; whether the ascent ended.
    """

    cell: GIFCell
    series_resistance: float
    names: tuple[str, ...]
    covariance: np.ndarray
    log_hazard: np.ndarray
    r2: float
    at_edge: bool
    at_bound: bool
    converged: bool

    def recorded(self, potential: np.ndarray, current: np.ndarray) -> np.ndarray:
        """What is recorded of a potential, through the series resistance."""
        return potential + self.series_resistance / 1000 * current


def estimate(known: Recorded, config: GIFConfig) -> Estimate:
    """Fit to all of the data; where it cannot be done, say why."""
    basis = Basis(known.dt, known.refractory, config.currents or (), config.thresholds or ())
    parts = _fit(known, config, basis)
    names, covariance = _uncertainty(parts.potential, parts.spikes, parts.basis, config)
    series = 1000 * float(parts.potential.coefficients[-1]) if config.electrode == "series" else 0.0
    return Estimate(
        _cell(parts.potential, parts.spikes, parts.basis), series, names, covariance, parts.log_hazard,
        parts.potential.r2, parts.potential.at_edge, parts.spikes.at_bound, parts.spikes.converged,
    )  # fmt: skip


def rectangles(known: Recorded, config: GIFConfig) -> dict[str, Rectangles]:
    """The kernels of the same model as they are without time constants, by part: constant between the bins."""
    potential, spikes, basis, *_ = _fit(known, config, Basis(known.dt, known.refractory, (), (), bins=config.bins))
    bins, edges = slice(2, 2 + basis.rectangles), basis.edges * basis.dt
    resistance, slope = potential.coefficients[1], spikes.weights[0]
    errors = [np.sqrt(np.maximum(np.diagonal(each), 0)) for each in (potential.covariance[2:, 2:], spikes.covariance)]
    return {
        "currents": Rectangles(edges, potential.coefficients[bins] / resistance, errors[0][bins] / resistance),
        "thresholds": Rectangles(edges, -spikes.weights[bins] / slope, errors[1][bins] / slope),
    }


class _Parts(NamedTuple):
    potential: Potential
    spikes: Spikes
    basis: Basis
    log_hazard: np.ndarray


def _fit(known: Recorded, config: GIFConfig, basis: Basis) -> _Parts:
    """The potential, and then the threshold with its coupling, which is added to the basis."""
    potential = fit_potential(
        known.current, known.voltage, known.spikes, known.counted, basis, config.tau_mem,
        series=config.electrode == "series", reset_factor=MODELS[config.model].reset_factor, fixed=config.fixed,
    )  # fmt: skip
    rest, resistance = potential.coefficients[:2]
    if not resistance > 0:
        why = "are current and potential swapped, or of different sweeps?"
        if config.electrode == "series":
            why = "it cannot be told from the series resistance: use electrode='none'"
        elif config.fixed:
            why = f"are the fixed numbers right, {', '.join(config.fixed)}?"
        raise ArgumentError(
            f"recording: expected a potential that rises with the current; found an input resistance of "
            f"{1000 * resistance:.3g} MOhm ({why})"
        )
    modelled = impose(
        known.current, known.spikes, basis, potential.tau_mem, potential.reset_factor, potential.coefficients
    )
    modelled -= rest
    if config.coupling:
        knots = np.unique(np.quantile(modelled[known.counted][::10], config.knots)) if config.knots else np.zeros(0)
        basis = replace(basis, coupling=config.coupling, knots=(None, *knots.tolist()))
    regressors, live = threshold_regressors(modelled, known.spikes, basis)
    spikes = _threshold(regressors, known, live, config, rest)
    return _Parts(potential, spikes, basis, where_live(regressors @ spikes.weights, live))


def as_imposed(found: Estimate, known: Recorded) -> Estimate:
    """The estimate with the hazard and R2 of its cell, the recorded spikes imposed."""
    imposed = found.cell.impose(known.current, known.spikes, known.dt)
    assert imposed.log_hazard is not None
    modelled = found.recorded(imposed.potential, known.current)
    r2 = r2_of(modelled, known.voltage, known.counted)
    return replace(found, log_hazard=imposed.log_hazard, r2=r2)


class Score(NamedTuple):
    """Bits for each spike, R2 of the potential, and the bits for each spike that every stretch adds."""

    bits: float
    r2: float
    stretches: np.ndarray

    def surely_worse(self, other: Score) -> bool:
        """Whether bits are lower by more than the standard error of the difference, or R2 by more than `LESS_R2`."""
        off = other.stretches - self.stretches
        return float(off.sum()) > float(off.std() * np.sqrt(len(off))) or self.r2 < other.r2 - LESS_R2


def score(known: Recorded, fitted: Estimate, start: int) -> Score:
    """The score from step `start` on."""
    imposed = fitted.cell.impose(known.current, known.spikes, known.dt)
    scored = np.arange(known.current.shape[1]) >= start
    assert imposed.log_hazard is not None
    log_hazard = where_live(imposed.log_hazard, scored)  # what is not scored counts as little as a refractory step
    steps = log_likelihoods(log_hazard, known.spikes)[:, start:]
    length = stretch_of(steps.size, known.dt)
    bits = np.add.reduceat(steps, np.arange(0, steps.shape[1], length), axis=1).ravel() / np.log(2)
    return Score(
        bits_per_spike(log_hazard, known.spikes),
        r2_of(fitted.recorded(imposed.potential, known.current), known.voltage, known.counted & scored),
        bits / max(int((known.spikes & is_live(log_hazard)).sum()), 1),
    )


def _threshold(regressors: np.ndarray, known: Recorded, live: np.ndarray, config: GIFConfig, rest: float) -> Spikes:
    """The weights of the regressors.

    Above a threshold that is known the constant is known: it is that of a rate of 1 Hz.
    """
    fixed, size = config.fixed, regressors.shape[2]
    above = fixed["threshold"] - rest if "threshold" in fixed else 0.0
    weights = {0: 1 / fixed["width"]} if "width" in fixed else {}
    if "threshold" in fixed:
        weights[1] = float(np.log(known.dt / 1000))
    regressors[..., 0] -= above
    found = fit_spikes(regressors.reshape(-1, size), known.spikes.ravel(), live.ravel(), config.ridge, weights)
    regressors[..., 0] += above
    back = np.eye(size)
    back[1, 0] = -above
    return replace(found, weights=back @ found.weights, covariance=back @ found.covariance @ back.T)


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
        reset_factor=potential.reset_factor,
    )  # fmt: skip


def _uncertainty(
    potential: Potential, spikes: Spikes, basis: Basis, config: GIFConfig
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and covariance of the fitted numbers in their units, by their derivatives in the coefficients."""
    currents, thresholds = len(basis.currents), len(basis.thresholds)
    coefficients, weights = potential.coefficients, spikes.weights
    resistance, slope = coefficients[1], weights[0]
    pairs = len(basis.coupling) * len(basis.knots)
    of_potential = ["tau_mem", "reset_factor", "rest", "resistance", *(f"currents.{k}" for k in range(currents))]
    series = len(coefficients) - (3 + currents)
    of_potential += ["reset", *["series_resistance"] * series]
    first = np.diag([potential.tau_mem, 1.0, 1.0, 1000.0, *[1 / resistance] * currents, 1.0, *[1000.0] * series])
    for place in range(currents):
        first[4 + place, 3] = -coefficients[2 + place] / resistance**2
    of_threshold = ["width", "threshold", *(f"thresholds.{k}" for k in range(thresholds))]
    of_threshold += [f"coupling.{k}" for k in range(pairs)]
    second = np.diag([-1 / slope**2, *[-1 / slope] * (len(weights) - 1)])
    second[1:, 0] = weights[1:] / slope**2
    second[1, 0] = (weights[1] - np.log(basis.dt / 1000)) / slope**2
    covariance = np.zeros((len(of_potential) + len(of_threshold),) * 2)
    border = len(of_potential)
    covariance[:border, :border] = first @ potential.covariance @ first.T
    covariance[border:, border:] = second @ spikes.covariance @ second.T
    at, rest = border + 1, 2
    covariance[rest, at] = covariance[at, rest] = covariance[rest, rest]  # the threshold is found above rest
    covariance[at, at] += covariance[rest, rest]
    names = [*of_potential, *of_threshold]
    fitted = [
        place for place, name in enumerate(names)
        if name not in config.fixed and (name != "reset_factor" or MODELS[config.model].reset_factor)
    ]  # fmt: skip
    return tuple(names[place] for place in fitted), covariance[np.ix_(fitted, fitted)]
