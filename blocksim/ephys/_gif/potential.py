"""The potential's part of a fit: least squares with the spikes imposed, over the membrane time constant.

Owns the search of the time constant, the coefficients and their covariance. Given tau_mem the imposed potential is
linear in rest, resistance, after-spike currents, reset and series resistance; a regression of dV/dt instead would be
biased by the amplifier's noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blocksim.ephys._gif.imposed import Basis, Products, potential_products
from blocksim.errors import ArgumentError

THINNED = 8  # the search of tau_mem counts one step in so many: neighbours say nearly the same
SEARCH = 16  # golden sections: the interval of log tau_mem shrinks to 1/2000
GOLDEN = (5**0.5 - 1) / 2
NUDGE = 1e-2  # of log tau_mem, for derivatives
STRETCH = 1000.0  # ms: residuals of stretches so long are taken as independent of each other


@dataclass(frozen=True, eq=False)
class Potential:
    """What was found.

    Attributes
    ----------
    tau_mem : float
        In ms.
    coefficients : (P,) array
        Rest (mV), resistance (mV/pA), amplitudes of the after-spike currents (mV), reset (mV), and the series
        resistance (mV/pA) where it was wanted.
    covariance : (1 + P, 1 + P) array
        Of log tau_mem and the coefficients; from the residuals of stretches of 1 s, which are correlated within.
    r2 : float
        1 - SSE / VAR over the steps that count.
    at_edge : bool
        Whether tau_mem lies at an end of its range.
    """

    tau_mem: float
    coefficients: np.ndarray
    covariance: np.ndarray
    r2: float
    at_edge: bool


def fit_potential(
    current: np.ndarray, voltage: np.ndarray, spikes: np.ndarray, counted: np.ndarray, basis: Basis,
    bounds: tuple[float, float], series: bool,
) -> Potential:  # fmt: skip
    """Fit the imposed potential to the recorded one; arrays (B, T), `counted` where potentials are compared."""
    if counted.sum() < 100:
        raise ArgumentError(
            f"recording: expected steps away from spikes, to fit the potential to; found {counted.sum()} of "
            f"{counted.size} (is before_spike or refractory too long?)"
        )

    def products(tau: float, every: int = 1) -> Products:
        return potential_products(
            current, voltage, spikes, counted, basis, tau, series=series, every=every, stretch=STRETCH
        )

    def error(log_tau: float) -> float:
        each = products(float(np.exp(log_tau)), THINNED)
        return each.squares - float(each.with_potential @ _solve(each))

    low, high = np.log(bounds)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = error(left), error(right)
    for _ in range(SEARCH):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = error(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = error(right)
    tau = float(np.exp((low + high) / 2))
    final = products(tau)
    coefficients = _solve(final)
    # of differences from the mean, whose squares lose no digits
    residual = final.squares - final.with_potential @ coefficients
    spread = final.squares - final.total**2 / final.number
    below, above = products(tau * np.exp(-NUDGE)), products(tau * np.exp(NUDGE))
    return Potential(
        tau, coefficients, _covariance(final, below, above, coefficients),
        float(1 - residual / spread) if spread > 0 else float("nan"),
        min(abs(np.log(tau / bounds[0])), abs(np.log(tau / bounds[1]))) < 0.01,
    )  # fmt: skip


def r2_of(potential: np.ndarray, voltage: np.ndarray, counted: np.ndarray) -> float:
    """1 - SSE / VAR of a potential, over the steps that count; NaN where there are none."""
    recorded = voltage[counted]
    if len(recorded) < 2 or not np.ptp(recorded) > 0:
        return float("nan")
    return float(1 - np.square(recorded - potential[counted]).sum() / np.square(recorded - recorded.mean()).sum())


def _solve(products: Products) -> np.ndarray:
    """The coefficients of least squares; those that the data do not determine are 0."""
    scale = np.sqrt(np.diagonal(products.regressors))
    known = scale > 0
    scale = np.where(known, scale, 1.0)
    scaled = products.regressors / np.outer(scale, scale)
    solved: np.ndarray = np.linalg.lstsq(scaled, products.with_potential / scale, rcond=1e-11)[0] / scale
    return np.where(known, solved, 0.0)


def _covariance(here: Products, below: Products, above: Products, coefficients: np.ndarray) -> np.ndarray:
    """Of log tau_mem and the coefficients, by the sandwich estimator, clustered by stretches.

    Derivatives in log tau_mem are differences, from `NUDGE` below and above it. Source: Liang, Zeger, "Longitudinal
    data analysis using generalized linear models", Biometrika 73 (1986).
    """
    size = len(coefficients)

    def errors(each: Products) -> np.ndarray:
        """Half of the squared error of each stretch, but for a part that no parameter changes."""
        cross, own = each.stretches[:, :size, size], each.stretches[:, :size, :size]
        return np.asarray(0.5 * np.einsum("i,sij,j->s", coefficients, own, coefficients) - cross @ coefficients)

    def slopes(each: Products) -> np.ndarray:
        return np.asarray(each.stretches[:, :size, :size] @ coefficients - each.stretches[:, :size, size])

    low, middle, high = (errors(each) for each in (below, here, above))
    of_tau = (high - low) / (2 * NUDGE)
    scores = np.column_stack([of_tau, slopes(here)])
    bread = np.empty((size + 1, size + 1))
    bread[1:, 1:] = here.regressors
    bread[0, 0] = (high - 2 * middle + low).sum() / NUDGE**2
    bread[0, 1:] = bread[1:, 0] = (slopes(above) - slopes(below)).sum(axis=0) / (2 * NUDGE)
    # the coefficients differ in size by orders of magnitude
    scale = np.sqrt(np.maximum(np.abs(np.diagonal(bread)), 1e-300))
    inverse = np.linalg.pinv(bread / np.outer(scale, scale), rcond=1e-12, hermitian=True) / np.outer(scale, scale)
    return np.asarray(inverse @ (scores.T @ scores) @ inverse)
