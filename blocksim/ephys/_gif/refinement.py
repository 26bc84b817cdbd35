"""Refinement of a fitted stochastic neuron: all its numbers follow the gradient of the likelihood together.

Owns the numbers that are free, and what is maximised: the log-likelihood (40) of the recorded spikes, and that of the
potential. Gradients are those of the simulator's adjoint, with the recorded spikes imposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blocksim._libraries import library
from blocksim._parameters import values
from blocksim._simulation import simulate
from blocksim.ephys._gif.cell import GIFCell, shared_taus, side_by_side
from blocksim.ephys._gif.config import GIFConfig
from blocksim.ephys._gif.estimate import Estimate, as_imposed, estimate
from blocksim.ephys._gif.potential import stretch_of
from blocksim.ephys._gif.recorded import Recorded
from blocksim.losses import log_likelihood

POSITIVE = ("tau_mem", "resistance", "width")  # and time constants: their logarithms are free
# Numbers stay near those of the first fit: in so many of their standard errors, by what is refined. Without such a
# prior kernels that are nearly alike trade places for hundreds of steps, and predict held-out spikes worse
LOOSE = {"joint": 3.0, "spikes": 100.0}
TAU = 0.1  # standard error of the logarithm of a time constant, which the first fit takes as given
STEPS = 200
TOLERANCE = 1e-6  # of the log-likelihood, by which a step has to raise it
# the logarithm of a number so much further than it was, a factor of 150, leads nowhere: a value to turn back from
FURTHEST, NOWHERE = 5.0, 1e100
NUDGE = 1e-5  # of a free number, in its unit, for the derivatives of the layer's numbers
FAR = 1e-3  # of a standard error, for those of the gradient
MIN_VARIANCE = 1e-6  # mV^2, of residuals: made-up recordings may have none
MIN_ERROR, MIN_SIZE = 1e-3, 1e-4  # of a number that the data do not determine, or only with others
MIN_CURVATURE = 0.01  # in units of the first fit's: an error grows tenfold at most


def optimiser() -> Any:
    """SciPy's, or an error that says how to install it."""
    return library("scipy.optimize", "ephys", "refine")


def refined(known: Recorded, config: GIFConfig) -> Estimate:
    """`estimate`, refined."""
    return refine(known, config, estimate(known, config))


def refine(
    known: Recorded, config: GIFConfig, first: Estimate, tell: Callable[[str, int, int], None] = lambda *_: None
) -> Estimate:
    """The numbers at which the likelihood is highest, near those of a first fit: it is no search.

    Errors come from the curvature there.
    """
    optimize = optimiser()
    numbers = _Numbers.of(first, config)
    if not numbers.names:  # all are known
        return first
    objective = _Objective(known, numbers, _weight(known, first) if config.refine == "joint" else 0.0)
    scale, size = _scale(numbers, first), len(numbers.names)
    seen: list[float] = []

    def below(z: np.ndarray) -> tuple[float, np.ndarray]:
        tell(f"{config.model}, refined", min(len(seen), size + STEPS), size + STEPS)
        loose, free = LOOSE[config.refine] ** 2, numbers.start + scale @ z
        if np.abs(free - numbers.start)[numbers.positive].max(initial=0.0) > FURTHEST:
            seen.append(NOWHERE)
            return NOWHERE, z
        value, gradient = objective(free)
        seen.append(0.5 * float(z @ z) / loose - value)
        return seen[-1], z / loose - scale.T @ gradient

    ends = {"maxiter": STEPS, "maxfun": 2 * STEPS, "ftol": TOLERANCE, "maxcor": size}
    result = optimize.minimize(below, np.zeros(size), jac=True, method="L-BFGS-B", options=ends)
    best = np.asarray(result.x, np.float64)
    if not (np.isfinite(result.fun) and result.fun <= seen[0]):
        return replace(first, converged=False)
    level, free = np.asarray(result.jac, np.float64), numbers.start + scale @ best
    bent = np.array([below(best + FAR * each)[1] - level for each in np.eye(size)]) / FAR
    curvature, vectors = np.linalg.eigh((bent + bent.T) / 2)
    spread = numbers.units(free)[:, None] * (scale @ vectors / np.sqrt(np.maximum(curvature, MIN_CURVATURE)))
    cell, series = numbers.cell(free), numbers.value(free, "series_resistance")
    found = replace(
        first, cell=cell, series_resistance=series, names=numbers.names, covariance=spread @ spread.T,
        converged=bool(result.success),
    )  # fmt: skip
    return as_imposed(found, known)


@dataclass(frozen=True, eq=False)
class _Numbers:
    """The free numbers of a cell; its knots stay where they are above rest.

    Attributes
    ----------
    names : tuple of str
        Those of a fit, and time constants: "currents.0.tau", "thresholds.0.tau", "coupling.tau.0".
    known : dict of float
        All numbers of the cell by name, as they were.
    """

    names: tuple[str, ...]
    known: dict[str, float]
    first: GIFCell

    @classmethod
    def of(cls, first: Estimate, config: GIFConfig) -> _Numbers:
        """Those that are not fixed; of a refinement by spikes alone neither those that only a potential determines."""
        cell = first.cell
        known = {name: getattr(cell, name) for name in
                 ("tau_mem", "resistance", "width", "rest", "reset", "threshold", "reset_factor")}  # fmt: skip
        known["series_resistance"] = first.series_resistance
        for part in ("currents", "thresholds"):
            for k, (tau, amplitude) in enumerate(getattr(cell, part)):
                known |= {f"{part}.{k}": amplitude, f"{part}.{k}.tau": tau}
        known |= {f"coupling.{k}": slope for k, (_, _, slope) in enumerate(cell.coupling)}
        known |= {name: tau for name, (tau, _, _) in zip(shared_taus(cell), cell.coupling, strict=True)}
        unseen = ("rest", "resistance", "series_resistance") if config.refine == "spikes" else ()
        names = [name for name in first.names if name not in unseen] + [name for name in known if ".tau" in name]
        return cls(tuple(names), known, cell)

    @property
    def positive(self) -> np.ndarray:
        """Which are logarithms."""
        return np.array([name in POSITIVE or ".tau" in name for name in self.names])

    @property
    def start(self) -> np.ndarray:
        """The free numbers of the first fit."""
        known = np.array([self.known[name] for name in self.names])
        return np.where(self.positive, np.log(np.where(self.positive, known, 1.0)), known)

    def units(self, free: np.ndarray) -> np.ndarray:
        """The derivative of each number in its free one."""
        return np.where(self.positive, np.exp(np.where(self.positive, free, 0.0)), 1.0)

    def value(self, free: np.ndarray, name: str) -> float:
        """A number of the cell by name."""
        return self._values(free)[name]

    def cell(self, free: np.ndarray) -> GIFCell:
        """The cell with these numbers."""
        now, first = self._values(free), self.first
        conductance = 1000 / now["resistance"]
        changed: dict[str, Any] = {name: now[name] for name in ("rest", "reset", "threshold", "width", "reset_factor")}
        for part in ("currents", "thresholds"):
            number = len(getattr(first, part))
            changed[part] = tuple((now[f"{part}.{k}.tau"], now[f"{part}.{k}"]) for k in range(number))
        changed["coupling"] = tuple(
            (now[name], None if knot is None else knot - first.rest + now["rest"], now[f"coupling.{k}"])
            for k, (name, (_, knot, _)) in enumerate(zip(shared_taus(first), first.coupling, strict=True))
        )
        return replace(first, capacitance=now["tau_mem"] * conductance, conductance=conductance, **changed)

    def _values(self, free: np.ndarray) -> dict[str, float]:
        now = np.where(self.positive, np.exp(np.where(self.positive, free, 0.0)), free)
        return self.known | dict(zip(self.names, now.tolist(), strict=True))


class _Objective:
    """The log-likelihood of a cell, and its gradient in the free numbers."""

    def __init__(self, known: Recorded, numbers: _Numbers, weight: float) -> None:
        self.known, self.numbers, self.weight = known, numbers, weight

    def __call__(self, free: np.ndarray) -> tuple[float, np.ndarray]:
        known, numbers = self.known, self.numbers
        cell = numbers.cell(free)
        run = simulate(
            cell.layer(known.dt), known.current[..., None], impose=known.spikes[..., None],
            record=("voltage", "threshold"), tape=True,
        )  # fmt: skip
        assert run.voltage is not None
        likelihood = log_likelihood(run)
        value, gradient, of_voltage = likelihood.value, np.zeros(len(free)), None
        if self.weight:
            series = numbers.value(free, "series_resistance") / 1000
            off = known.voltage - (cell.rest + series * known.current + run.voltage[..., 0])
            off = np.where(known.counted, off, 0.0)
            value -= 0.5 * self.weight * float(np.square(off).sum())
            of_voltage = self.weight * off[..., None]
            for name, direct in (("rest", 1.0), ("series_resistance", known.current / 1000)):
                if name in numbers.names:
                    gradient[numbers.names.index(name)] = self.weight * float((off * direct).sum())
        found = run.backward(likelihood.gradient, of_voltage).parameters()
        nudges = NUDGE * np.eye(len(free))
        of_layer = _layer_numbers([numbers.cell(free + nudge) for nudge in (*nudges, *-nudges)], known.dt)
        for name, each in of_layer.items():
            above, below = np.broadcast_to(each, 2 * len(free)).reshape(2, -1)
            gradient += np.sum(found[name]) * (above - below) / (2 * NUDGE)
        return value, gradient


def _layer_numbers(cells: Sequence[GIFCell], dt: float) -> dict[str, np.ndarray]:
    """The numbers of the cells' layers by the names of their gradients: one of each cell, or one of all."""
    gains = np.array([cell.gain(dt) for cell in cells])
    return {**values(side_by_side(cells, dt)), "weights": gains}


def _scale(numbers: _Numbers, first: Estimate) -> np.ndarray:
    """A matrix whose columns are the free numbers' standard errors, in directions that are independent."""
    own = [place for place, name in enumerate(numbers.names) if name in first.names]
    theirs = [first.names.index(numbers.names[place]) for place in own]
    units = numbers.units(numbers.start)[own]
    covariance = first.covariance[np.ix_(theirs, theirs)] / np.outer(units, units)
    errors = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    errors = np.where(errors > 0, errors, MIN_ERROR)
    sizes, vectors = np.linalg.eigh(covariance / np.outer(errors, errors))
    scale = TAU * np.eye(len(numbers.names))
    scale[np.ix_(own, own)] = errors[:, None] * vectors * np.sqrt(np.maximum(sizes, MIN_SIZE))
    return scale


def _weight(known: Recorded, first: Estimate) -> float:
    """By how much a squared residual of the potential in mV counts: neighbouring ones are not independent.

    The residuals' part in the slope of the error in the potential's own size, summed over stretches of 1 s at most,
    varies as much as independent residuals of the variance 1 / weight would make it.
    """
    modelled = first.cell.impose(known.current, known.spikes, known.dt).potential
    off = known.voltage - first.recorded(modelled, known.current)
    slope = np.where(known.counted, off * (modelled - modelled[known.counted].mean()), 0.0)
    sums = np.add.reduceat(slope.ravel(), np.arange(0, slope.size, stretch_of(slope.size, known.dt)))
    squares = float(np.square(slope).sum())
    inflation = max(1.0, float(np.square(sums).sum()) / squares) if squares else 1.0
    return 1 / (max(float(np.square(off[known.counted]).mean()), MIN_VARIANCE) * inflation)
