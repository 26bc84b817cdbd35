"""The potential's part of a fit: least squares with the spikes imposed, over what it is not linear in.

Owns the search of the membrane time constant and the reset factor, the coefficients and their covariance. Given these
two the imposed potential is linear in rest, resistance, after-spike currents, reset and series resistance; a regression
of dV/dt instead would be biased by the amplifier's noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from blocksim.ephys._gif.imposed import Basis, Products, potential_products
from blocksim.errors import ArgumentError
from blocksim.trains import nearest_steps

THINNED = 8  # the search counts one step in so many: neighbours say nearly the same
SEARCH = 13  # golden sections: the interval shrinks to 1/500
FURTHEST = 5.0  # nudges of a Newton step from there
ROUNDS = 2  # of the search, over one number and the other
GOLDEN = (5**0.5 - 1) / 2
FACTORS = (-0.5, 1.0)  # reset factors to search between
NUDGE = 1e-2  # of log tau_mem and of the reset factor, for derivatives
STRETCH = (100.0, 1000.0)  # ms: residuals of stretches so long are taken as independent of each other
STRETCHES = 50  # that there should be; more, of 1 s, of long recordings


@dataclass(frozen=True, eq=False)
class Potential:
    """What was found.

    Attributes
    ----------
    tau_mem : float
        In ms.
    reset_factor : float
        What is kept of the potential above rest after a spike.
    coefficients : (P,) array
        Rest (mV), resistance (mV/pA), amplitudes of the after-spike currents (mV), reset (mV), and the series
        resistance (mV/pA) where it was wanted.
    covariance : (2 + P, 2 + P) array
        Of log tau_mem, the reset factor and the coefficients, 0 of those that were fixed; from the residuals of
        stretches of 1 s at most, which are correlated within.
    r2 : float
        1 - SSE / VAR over the steps that count.
    at_edge : bool
        Whether tau_mem lies at an end of its range.
    """

    tau_mem: float
    reset_factor: float
    coefficients: np.ndarray
    covariance: np.ndarray
    r2: float
    at_edge: bool


def fit_potential(
    current: np.ndarray, voltage: np.ndarray, spikes: np.ndarray, counted: np.ndarray, basis: Basis,
    bounds: tuple[float, float], *, series: bool, reset_factor: bool, fixed: Mapping[str, float],
) -> Potential:  # fmt: skip
    """Fit the imposed potential to the recorded one; arrays (B, T), `counted` where potentials are compared.

    `series`: with a series resistance; `reset_factor`: with one, else 0; `fixed`: numbers that are known, by name,
    in the units of `GIFCell`.
    """
    if counted.sum() < 100:
        raise ArgumentError(
            f"recording: expected steps away from spikes, to fit the potential to; found {counted.sum()} of "
            f"{counted.size} (is before_spike or refractory too long?)"
        )
    places = {"rest": 0, "resistance": 1, "reset": 2 + len(basis.currents) + basis.rectangles}
    known = {place: fixed[name] for name, place in places.items() if name in fixed}
    if 1 in known:
        known[1] /= 1000

    stretch = stretch_of(current.size, basis.dt)

    def products(tau: float, factor: float, every: int = 1) -> Products:
        return potential_products(
            current, voltage, spikes, counted, basis, tau, factor, series=series, every=every, stretch=stretch
        )

    def error(tau: float, factor: float) -> float:
        return _profile(products(tau, factor, THINNED), known)

    def of_tau(log_tau: float, factor: float) -> float:
        return error(float(np.exp(log_tau)), factor)

    tau, kept = fixed.get("tau_mem", float("nan")), fixed.get("reset_factor", 0.0)
    with_tau, with_factor = "tau_mem" not in fixed, reset_factor and "reset_factor" not in fixed
    for _ in range(ROUNDS if with_tau and with_factor else 1):
        if with_tau:
            tau = float(np.exp(_lowest(partial(of_tau, factor=kept), *np.log(bounds))))
        if with_factor:
            kept = _lowest(partial(error, tau), *FACTORS)
    searched = [place for place, wanted in enumerate((with_tau, with_factor)) if wanted]
    tau, kept = _sharpened(lambda *at: _profile(products(*at), known), (tau, kept), searched)
    if with_tau:
        tau = float(np.clip(tau, *bounds))
    final = products(tau, kept)
    coefficients = _solve(final, known)
    # of differences from the mean, whose squares lose no digits
    residual = _error(final, coefficients)
    spread = final.squares - final.total**2 / final.number
    free = np.array([with_tau, with_factor, *(place not in known for place in range(len(coefficients)))])
    return Potential(
        tau, kept, coefficients, _covariance(products, (tau, kept), final, coefficients, free),
        float(1 - residual / spread) if spread > 0 else float("nan"),
        with_tau and min(abs(np.log(tau / bounds[0])), abs(np.log(tau / bounds[1]))) < 0.01,
    )  # fmt: skip


def stretch_of(steps: int, dt: float) -> int:
    """The length of stretches whose residuals are taken as independent, of so many steps of dt ms: in steps."""
    return max(1, nearest_steps(min(max(steps * dt / STRETCHES, STRETCH[0]), STRETCH[1]), dt))


def r2_of(potential: np.ndarray, voltage: np.ndarray, counted: np.ndarray) -> float:
    """1 - SSE / VAR of a potential, over the steps that count; NaN where there are none."""
    recorded = voltage[counted]
    if len(recorded) < 2 or not np.ptp(recorded) > 0:
        return float("nan")
    return float(1 - np.square(recorded - potential[counted]).sum() / np.square(recorded - recorded.mean()).sum())


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum between two numbers is lowest, by golden sections."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(SEARCH):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2


def _sharpened(
    error: Callable[[float, float], float], at: tuple[float, float], searched: Sequence[int]
) -> tuple[float, float]:
    """tau_mem and reset factor after a Newton step on the error of all steps, from where a thinned search ended.

    A thinned search finds the lowest error of the steps that it counts, as if the rest had not been recorded.
    """
    if not searched:
        return at

    def moved(*steps: float) -> float:
        whole = np.zeros(2)
        whole[list(searched)] = steps
        return error(at[0] * float(np.exp(NUDGE * whole[0])), at[1] + NUDGE * whole[1])

    size = len(searched)
    middle, unit = moved(*[0.0] * size), np.eye(size)
    above, below = ([moved(*sign * row) for row in unit] for sign in (1.0, -1.0))
    slope = (np.array(above) - below) / 2
    bent = np.diag(np.array(above) - 2 * middle + below)
    if size == 2:
        bent[0, 1] = bent[1, 0] = moved(1.0, 1.0) - middle - slope.sum() - np.trace(bent) / 2
    if np.any(np.linalg.eigvalsh(bent) <= 0):
        return at
    step = np.zeros(2)
    step[list(searched)] = np.clip(-np.linalg.solve(bent, slope), -FURTHEST, FURTHEST)
    return at[0] * float(np.exp(NUDGE * step[0])), at[1] + NUDGE * float(step[1])


def _profile(products: Products, known: Mapping[int, float]) -> float:
    """The lowest error over the coefficients."""
    return _error(products, _solve(products, known))


def _error(products: Products, coefficients: np.ndarray) -> float:
    """The sum of squared residuals."""
    cross = float(coefficients @ products.regressors @ coefficients)
    return products.squares - 2 * float(products.with_potential @ coefficients) + cross


def _solve(products: Products, known: Mapping[int, float]) -> np.ndarray:
    """The coefficients of least squares; of those that are not known, the ones that the data do not determine are 0."""
    coefficients = np.zeros(len(products.with_potential))
    coefficients[list(known)] = list(known.values())
    scale = np.sqrt(np.diagonal(products.regressors))
    free = np.flatnonzero((scale > 0) & ~np.isin(np.arange(len(scale)), list(known)))
    scaled = products.regressors[np.ix_(free, free)] / np.outer(scale[free], scale[free])
    wanted = (products.with_potential - products.regressors @ coefficients)[free] / scale[free]
    coefficients[free] = np.linalg.lstsq(scaled, wanted, rcond=1e-11)[0] / scale[free]
    return coefficients


def _covariance(
    products: Callable[[float, float], Products], at: tuple[float, float], here: Products, coefficients: np.ndarray,
    free: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Of log tau_mem, the reset factor and the coefficients, by the sandwich estimator, clustered by stretches.

    `here` are the products `at` the first two; derivatives in these are differences over `NUDGE`. Source: Liang, Zeger,
    "Longitudinal data analysis using generalized linear models", Biometrika 73 (1986).
    """
    size = len(coefficients)

    def moved(tau: int, factor: int) -> Products:
        return products(at[0] * float(np.exp(NUDGE * tau)), at[1] + NUDGE * factor)

    def errors(each: Products) -> np.ndarray:
        """Half of the squared error of each stretch, but for a part that no parameter changes."""
        cross, own = each.stretches[:, :size, size], each.stretches[:, :size, :size]
        return np.asarray(0.5 * np.einsum("i,sij,j->s", coefficients, own, coefficients) - cross @ coefficients)

    def slopes(each: Products) -> np.ndarray:
        return np.asarray(each.stretches[:, :size, :size] @ coefficients - each.stretches[:, :size, size])

    searched = [place for place in (0, 1) if free[place]]
    bread = np.zeros((2 + size, 2 + size))
    bread[2:, 2:] = here.regressors
    scores = np.zeros((len(here.stretches), 2 + size))
    scores[:, 2:] = slopes(here)
    for place in searched:
        step = (1, 0) if place == 0 else (0, 1)
        below, above = moved(-step[0], -step[1]), moved(*step)
        low, middle, high = (errors(each) for each in (below, here, above))
        scores[:, place] = (high - low) / (2 * NUDGE)
        bread[place, place] = (high - 2 * middle + low).sum() / NUDGE**2
        bread[place, 2:] = bread[2:, place] = (slopes(above) - slopes(below)).sum(axis=0) / (2 * NUDGE)
    if len(searched) == 2:
        corners = sum(a * b * errors(moved(a, b)).sum() for a, b in product((-1, 1), repeat=2))
        bread[0, 1] = bread[1, 0] = corners / (4 * NUDGE**2)
    bread, scores = bread[np.ix_(free, free)], scores[:, free]
    # the coefficients differ in size by orders of magnitude
    scale = np.sqrt(np.maximum(np.abs(np.diagonal(bread)), 1e-300))
    inverse = np.linalg.pinv(bread / np.outer(scale, scale), rcond=1e-12, hermitian=True) / np.outer(scale, scale)
    covariance = np.zeros((2 + size, 2 + size))
    number, fitted = scores.shape
    # residuals that fitted numbers have made smaller: of few stretches by much
    spread = scores.T @ scores * (number / max(number - fitted, 1))
    covariance[np.ix_(free, free)] = inverse @ spread @ inverse
    return covariance
