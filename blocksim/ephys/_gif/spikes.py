"""The spikes' part of a fit: the log-likelihood (40) of imposed spikes, and Newton's ascent.

Owns the likelihood of a hazard that is exponential in a sum of regressors, its gradient and Hessian, bits per spike,
and time rescaling. Given the potential it is concave in the weights: there is one maximum. Hazards come as their
logarithms, which are minus infinity while the neuron is refractory (`blocksim.ephys._gif.imposed`); a spike there,
which the neuron cannot have, counts for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from blocksim._escape import spike_terms
from blocksim.ephys._gif.imposed import hazard_of, is_live

CHUNK = 8192  # steps at a time: their regressors stay in a core's cache
THINNED = 8  # the first iterations count one silent step in so many
STEPS = 60
MIN_SLOPE = 1e-3  # of the log of the hazard, per mV: a neuron must spike more readily where its potential is higher
CRITICAL = 1.36  # over the root of their number: what the Kolmogorov-Smirnov distance of many exceeds in 5 % of samples


@dataclass(frozen=True, eq=False)
class Spikes:
    """What was found.

    Attributes
    ----------
    weights : (P,) array
        Of the regressors.
    covariance : (P, P) array
        Of the weights: the inverse of the Fisher information.
    converged, at_bound : bool
        Whether the ascent ended, and whether the slope in the potential lies at its bound.
    """

    weights: np.ndarray
    covariance: np.ndarray
    converged: bool
    at_bound: bool


def log_likelihood(log_hazard: np.ndarray, spikes: np.ndarray) -> float:
    """(40), in nats, from the log of the hazard of each step."""
    return float(log_likelihoods(log_hazard, spikes).sum())


def log_likelihoods(log_hazard: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """What each step adds to (40)."""
    fired, hazard = spikes & is_live(log_hazard), hazard_of(log_hazard)
    steps = 0.0 - hazard
    steps[fired] = spike_terms(hazard[fired], log_hazard[fired]).value
    return steps


def poisson_log_likelihood(spikes: np.ndarray, live: np.ndarray) -> float:
    """(40) of a neuron that spikes at the recorded mean rate wherever it is live."""
    steps, number = int(live.sum()), int((spikes & live).sum())
    if not 0 < number < steps:
        return 0.0
    share = number / steps
    return float(number * np.log(share) + (steps - number) * np.log1p(-share))


def bits_per_spike(log_hazard: np.ndarray, spikes: np.ndarray) -> float:
    """By how much the model is more likely than a Poisson neuron, in bits for each spike; NaN without spikes."""
    live = is_live(log_hazard)
    number = int((spikes & live).sum())
    if not number:
        return float("nan")
    gained = log_likelihood(log_hazard, spikes) - poisson_log_likelihood(spikes, live)
    return gained / number / float(np.log(2))


def rescaled_times(log_hazard: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """1 - exp(-integral of the hazard between spikes): uniform on [0, 1] if the model is right.

    log_hazard, spikes : (B, T). Of each sweep the intervals between its spikes. Source: Brown et al., "The
    time-rescaling theorem and its application to neural spike train data analysis", Neural Computation 14 (2002).
    Within a spike's own step the integral ends where half of the step's spikes would have come.
    """
    rescaled = [np.zeros(0)]
    for of_sweep, fired in zip(hazard_of(log_hazard), spikes & is_live(log_hazard), strict=True):
        until = np.concatenate([[0.0], np.cumsum(of_sweep)])
        steps = np.flatnonzero(fired)
        within = -np.log1p(0.5 * np.expm1(-of_sweep[steps]))
        rescaled.append(-np.expm1(-(until[steps[1:]] - until[steps[:-1] + 1] + within[1:])))
    return np.concatenate(rescaled)


def ks_distance(uniform: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance from the uniform distribution; NaN of nothing."""
    ordered, number = np.sort(uniform), len(uniform)
    if not number:
        return float("nan")
    above = np.arange(1, number + 1) / number - ordered
    return float(max(above.max(), (ordered - np.arange(number) / number).max()))


def ks_critical(number: int) -> float:
    """What the Kolmogorov-Smirnov distance of so many intervals exceeds by chance in 5 % of fits; NaN of none."""
    return CRITICAL / float(np.sqrt(number)) if number else float("nan")


def fit_spikes(
    regressors: np.ndarray, spikes: np.ndarray, live: np.ndarray, ridge: float, known: Mapping[int, float] | None = None
) -> Spikes:
    """Maximise (40) over the weights; regressors (n, P), of which the second is 1; spikes, live (n,).

    known : weights by place, which stay as they are.
    """
    known = known or {}
    wanted = spikes & live
    mean, scale = _moments(regressors, live)
    if 1 in known:  # a constant that is known is that of the regressors as they are
        mean = np.zeros_like(mean)
    penalty = np.where(np.arange(len(mean)) == 1, 0.0, ridge)
    weights, free = np.zeros(len(mean)), np.ones(len(mean), bool)
    weights[1] = np.log(wanted.sum() / max(int(live.sum()), 1))
    for place, value in known.items():
        weights[place], free[place] = value * scale[place], False

    # spikes are all there from the first; of the silent steps one stands for several
    fired, silent = np.flatnonzero(wanted), np.flatnonzero(live & ~spikes)[::THINNED]
    few = np.concatenate([fired, silent])
    counts = np.repeat([1.0, THINNED], [len(fired), len(silent)])
    first = _Likelihood(regressors[few], wanted[few], counts, mean, scale, penalty)
    every = _Likelihood(regressors, wanted, live.astype(np.float64), mean, scale, penalty)
    weights, _ = _ascend(first, weights, free, 1e-4)
    weights, converged = _ascend(every, weights, free, 1e-10)
    least = MIN_SLOPE * scale[0]
    if at_bound := bool(free[0] and weights[0] < least):
        weights[0], free[0] = least, False
        weights, converged = _ascend(every, weights, free, 1e-10)
    _, _, information = every(weights)
    covariance = np.zeros_like(information)
    covariance[np.ix_(free, free)] = np.linalg.pinv(information[np.ix_(free, free)], rcond=1e-14, hermitian=True)
    back = _unstandardised(mean, scale)
    return Spikes(back @ weights, back @ covariance @ back.T, converged, at_bound)


def _moments(regressors: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each regressor where the neuron is live; 0 and 1 of the constant."""
    some = regressors[np.flatnonzero(live)[::THINNED]]
    mean, scale = some.mean(axis=0), some.std(axis=0)
    mean[1] = 0.0
    return mean, np.where(scale > 1e-9 * (1 + np.abs(mean)), scale, 1.0)


def _unstandardised(mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The matrix from weights of standardised regressors to those of the regressors; the second of them is 1."""
    matrix = np.diag(1 / scale)
    matrix[1] = -mean / scale
    matrix[1, 1] = 1.0
    return matrix


class _Likelihood:
    """(40) of standardised regressors: its value, and gradient and negative Hessian with the penalty."""

    def __init__(
        self, regressors: np.ndarray, spikes: np.ndarray, counts: np.ndarray, mean: np.ndarray, scale: np.ndarray,
        penalty: np.ndarray,
    ) -> None:  # fmt: skip
        self.regressors, self.spikes, self.counts = regressors, spikes, counts  # a step counts so often; 0: refractory
        self.back, self.penalty = _unstandardised(mean, scale), penalty

    def __call__(self, weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, size = 0.0, len(weights)
        gradient, information = np.zeros(size), np.zeros((size, size))
        own = self.back @ weights
        for start in range(0, len(self.spikes), CHUNK):
            now = slice(start, start + CHUNK)
            x, fired = self.regressors[now], self.spikes[now]
            log_hazard = x @ own
            hazard = hazard_of(log_hazard) * self.counts[now]
            value -= hazard.sum()
            first, second = -hazard, hazard  # derivatives in the log of the hazard
            if fired.any():
                terms = spike_terms(hazard[fired], log_hazard[fired])
                value += hazard[fired].sum() + terms.value.sum()
                second = hazard.copy()
                first[fired], second[fired] = terms.slope, terms.curvature
            gradient += first @ x
            information += (x * second[:, None]).T @ x
        back = self.back
        return value, back.T @ gradient - self.penalty * weights, back.T @ information @ back + np.diag(self.penalty)


def _ascend(
    likelihood: _Likelihood, weights: np.ndarray, free: np.ndarray, tolerance: float
) -> tuple[np.ndarray, bool]:
    """Newton's ascent over the free weights, with steps halved until they help: the weights, and whether it ended."""

    def objective(at: np.ndarray, value: float) -> float:
        return value - 0.5 * float((likelihood.penalty * at * at).sum())

    value, gradient, information = likelihood(weights)
    now = objective(weights, value)
    for _ in range(STEPS):
        step = np.zeros_like(weights)
        inner = information[np.ix_(free, free)]
        step[free] = np.linalg.solve(inner + 1e-12 * np.diag(np.diagonal(inner) + 1e-300), gradient[free])
        gain = float(gradient @ step)
        if gain < tolerance * (1 + abs(now)):
            return weights, True
        size = 1.0
        while size > 1e-6:
            trial = weights + size * step
            value, gradient, information = likelihood(trial)
            if objective(trial, value) >= now:
                break
            size /= 2
        else:
            return weights, False
        weights, now = trial, objective(trial, value)
    return weights, False
