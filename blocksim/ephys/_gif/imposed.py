"""Recorded sweeps with their spikes imposed: regressors of the potential, and of the log of the hazard, (39).

Owns `Basis`, the time constants that a fit takes as given, and what of it the loops of `blocksim._imposed` read. They
are the Numba backend's, in float64, whatever the backend of a simulation.

A hazard is handed on as its logarithm, which does not underflow. It is minus infinity while the neuron is refractory,
and then alone: so the logarithm also says where the neuron is live.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from blocksim import _imposed
from blocksim._milliseconds import propagators
from blocksim.backend import get_backend
from blocksim.numerics import LARGEST_EXPONENT

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Basis:
    """What a fit takes as given.

    Attributes
    ----------
    dt : float
        Time step in ms.
    refractory : int
        Absolute refractory period in steps.
    currents, thresholds, coupling : tuple of float
        Time constants in ms: of after-spike currents, of rises of the threshold, and of the threshold's coupling to the
        potential.
    knots : tuple of float or None
        Potentials in mV above rest above which the coupling acts, each with every time constant; None for the potential
        itself.
    bins : tuple of float
        Times in ms after the refractory period. Between two of them a rectangular kernel is constant: then there are no
        time constants of currents and of rises.
    """

    dt: float
    refractory: int
    currents: tuple[float, ...]
    thresholds: tuple[float, ...]
    coupling: tuple[float, ...] = ()
    knots: tuple[float | None, ...] = ()
    bins: tuple[float, ...] = ()

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins, in steps after a spike; none where kernels are exponential."""
        lags = self.refractory + 1 + np.rint(np.asarray(self.bins, np.float64) / self.dt)
        return np.unique(lags.astype(np.int64))

    @property
    def rectangles(self) -> int:
        """The number of bins."""
        return max(len(self.edges) - 1, 0)

    def decays(self, name: str) -> np.ndarray:
        """Factors of decay in one step, of the time constants of that name."""
        return np.exp(-self.dt / np.asarray(getattr(self, name), np.float64))

    def gains(self, tau_mem: float) -> np.ndarray:
        """What an after-spike current of the size of 1 mV adds to the potential in a step."""
        taus = np.asarray(self.currents, np.float64)
        exponential = np.asarray(propagators(taus, tau_mem, self.dt)[0]) if len(taus) else taus
        return np.append(exponential, np.full(self.rectangles, -np.expm1(-self.dt / tau_mem)))


class Products(NamedTuple):
    """Sums over the steps that count.

    Of products of regressors, (P, P), and of them and the potential y, (P,); of y², of y, and their number; and the
    first two together for each stretch of time, (S, P + 1, P + 1).
    """

    regressors: np.ndarray
    with_potential: np.ndarray
    squares: float
    total: float
    number: float
    stretches: np.ndarray


def potential_products(
    current: np.ndarray, voltage: np.ndarray, spikes: np.ndarray, counted: np.ndarray, basis: Basis, tau_mem: float,
    factor: float, *, series: bool, every: int, stretch: int,
) -> Products:  # fmt: skip
    """The normal equations of the recorded potential: rest, current, after-spike currents, reset, series resistance.

    current, voltage : (B, T); spikes, counted : (B, T) bool; `factor`: the reset factor; `every`: one step in so many
    is counted; `stretch`: length of a stretch in steps.
    """
    size = 3 + len(basis.currents) + basis.rectangles + series
    products, spread = _fast(_imposed.potential_products)(
        current, voltage, spikes, counted, basis.refractory, float(np.exp(-basis.dt / tau_mem)), float(factor),
        basis.decays("currents"), basis.edges, basis.gains(tau_mem), series, every, stretch,
    )  # fmt: skip
    stretches = products.reshape(-1, size + 1, size + 1)
    total, (count, sum_) = stretches.sum(axis=0), spread.sum(axis=0)
    return Products(
        total[:size, :size], total[:size, size], float(total[size, size]), float(sum_), float(count), stretches
    )


def impose(
    current: np.ndarray, spikes: np.ndarray, basis: Basis, tau_mem: float, factor: float, coefficients: Any
) -> np.ndarray:
    """The potential (B, T) in mV, from coefficients of `potential_products`: the series resistance is not in it."""
    rest, resistance, *amplitudes = coefficients
    number = len(basis.currents) + basis.rectangles
    return _fast(_imposed.impose)(
        np.ascontiguousarray(current, np.float64), np.ascontiguousarray(spikes, np.bool_), basis.refractory,
        float(np.exp(-basis.dt / tau_mem)), float(rest), float(resistance), float(amplitudes[number]),
        float(factor), basis.decays("currents"), basis.edges,
        basis.gains(tau_mem) * np.asarray(amplitudes[:number], np.float64),
    )  # fmt: skip


def threshold_regressors(potential: np.ndarray, spikes: np.ndarray, basis: Basis) -> tuple[np.ndarray, np.ndarray]:
    """What the log of the hazard is linear in, (B, T, P), and where the neuron is live, (B, T).

    The potential, in mV above rest, and 1; the rises of the threshold; for each time constant of the coupling, each
    knot's low-passed potential.
    """
    knots = np.array([-np.inf if knot is None else knot for knot in basis.knots], np.float64)
    return _fast(_imposed.threshold_regressors)(
        np.ascontiguousarray(potential), np.ascontiguousarray(spikes, np.bool_), basis.refractory,
        basis.decays("thresholds"), basis.edges, basis.decays("coupling"), knots,
    )  # fmt: skip


def weighted(
    potential: np.ndarray, spikes: np.ndarray, basis: Basis, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The weighted sum of `threshold_regressors` in each step, (B, T), and where the neuron is live.

    Sweep by sweep, to save memory.
    """
    total, live = np.empty(potential.shape), np.empty(potential.shape, np.bool_)
    for sweep in range(len(potential)):
        one = slice(sweep, sweep + 1)
        regressors, live[one] = threshold_regressors(potential[one], spikes[one], basis)
        total[one] = regressors @ weights
    return total, live


def where_live(log_hazard: np.ndarray, live: np.ndarray) -> np.ndarray:
    """The log of the hazard of each step; minus infinity while refractory."""
    return np.where(live, log_hazard, -np.inf)


def is_live(log_hazard: np.ndarray) -> np.ndarray:
    """In which steps a neuron is not refractory: its hazard may underflow there, its logarithm does not."""
    return log_hazard > -np.inf


def hazard_of(log_hazard: np.ndarray) -> np.ndarray:
    """The hazard of each step; 0 while refractory."""
    return np.asarray(np.exp(np.minimum(log_hazard, LARGEST_EXPONENT)))


def _fast(function: F) -> F:
    """The Numba backend's version of a loop."""
    return get_backend("numba").fast(function)
