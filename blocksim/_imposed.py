"""Recorded sweeps with their spikes imposed: the potential of (30), and what a fit's unknowns are multiplied by.

Owns what fits of stochastic neurons to recordings are composed of, step by step over all sweeps at once. A backend may
have a faster version (`Backend.fast`). Arrays are float64, of B sweeps and T steps; spikes (B, T) bool; decays are the
factors of one step; edges are steps after a spike, and rectangular kernels are constant between two of them. While
refractory the potential stays; after that it follows (30) again.
"""

from __future__ import annotations

import numpy as np


def impose(
    current: np.ndarray, spikes: np.ndarray, refractory: int, beta: float, rest: float, resistance: float, reset: float,
    factor: float, decay: np.ndarray, edges: np.ndarray, gain: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """The potential (B, T), from rest; after a spike `reset`, and `factor` times what it was above rest.

    decay (J,) and edges, of J exponential and K rectangular after-spike currents; gain (J + K,): in potential, a step.
    """
    out = np.empty(current.shape)
    v, c = np.full(len(current), rest), np.zeros((len(current), len(gain)))
    left = np.zeros(len(current), np.int64)
    for t, fired in enumerate(spikes.T):
        c[:, len(decay) :] += _entered(spikes, edges, t)
        drive = (1.0 - beta) * (rest + resistance * current[:, t]) + c @ gain
        v = np.where(left > 0, v, beta * v + drive)
        out[:, t] = v
        v = np.where(fired, reset + factor * (v - rest), v)
        c[:, : len(decay)] = decay * c[:, : len(decay)] + fired[:, None]
        left = np.where(fired, refractory, np.maximum(left - 1, 0))
    return out


def potential_products(
    current: np.ndarray, voltage: np.ndarray, spikes: np.ndarray, counted: np.ndarray, refractory: int, beta: float,
    factor: float, decay: np.ndarray, edges: np.ndarray, gain: np.ndarray, series: bool, every: int, stretch: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Normal equations of the recorded potential, of each stretch of `stretch` steps of each sweep.

    The regressors: what a unit of rest, of resistance, of each after-spike current and of reset makes of the imposed
    potential, and with `series` the current of the same step. Of the steps that are `counted`, one in `every` is.
    Returns the sums of products (B, stretches, P + 1, P + 1), in which the recorded potential comes last; and (B, 2),
    the number of steps and the sum of their potentials.
    """
    sweeps, steps = current.shape
    number = len(gain)
    reset, size = 2 + number, 3 + number + int(series)
    products = np.zeros((sweeps, -(-steps // stretch), size + 1, size + 1))
    spread = np.zeros((sweeps, 2))
    x, c = np.zeros((sweeps, size + 1)), np.zeros((sweeps, number))
    x[:, 0] = 1.0  # sweeps begin at rest
    left, since = np.zeros(sweeps, np.int64), np.zeros(sweeps, np.int64)
    for t, fired in enumerate(spikes.T):
        c[:, len(decay) :] += _entered(spikes, edges, t)
        live = left == 0
        x[live, 0] = beta * x[live, 0] + (1.0 - beta)
        x[live, 1] = beta * x[live, 1] + (1.0 - beta) * current[live, t]
        x[live, 2:reset] = beta * x[live, 2:reset] + gain * c[live]
        x[live, reset] *= beta
        since += 1
        now = counted[:, t] & (since >= every)
        since[now] = 0
        if series:
            x[:, reset + 1] = current[:, t]
        x[:, size] = voltage[:, t]
        products[now, t // stretch] += x[now, :, None] * x[now, None, :]
        spread[now] += np.stack([np.ones(int(now.sum())), voltage[now, t]], axis=1)
        c[:, : len(decay)] = decay * c[:, : len(decay)] + fired[:, None]
        x[fired, : reset + 1] *= factor
        x[fired, 0] -= factor
        x[fired, reset] += 1.0
        left = np.where(fired, refractory, np.maximum(left - 1, 0))
    return products, spread


def threshold_regressors(
    potential: np.ndarray, spikes: np.ndarray, refractory: int, decay: np.ndarray, edges: np.ndarray,
    follow: np.ndarray, knots: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """What the log of the hazard (39) is linear in, (B, T, 2 + K + M L), and where neurons are live, (B, T) bool.

    The potential and 1; K rises of the threshold, 1 at a spike, with factors `decay`, then those between `edges`; and
    the potential above each of L `knots` (-inf: the potential itself), low-passed with each of M factors `follow`,
    knots within factors.
    """
    sweeps, steps = potential.shape
    number, numbers = len(decay), len(decay) + max(len(edges) - 1, 0)
    out, live = (
        np.empty((sweeps, steps, 2 + numbers + len(follow) * len(knots))),
        np.empty((sweeps, steps), np.bool_),
    )
    rises, low = np.zeros((sweeps, numbers)), np.zeros((sweeps, len(follow), len(knots)))
    left = np.zeros(sweeps, np.int64)
    linear = np.isneginf(knots)
    for t, fired in enumerate(spikes.T):
        v = potential[:, t]
        rises[:, number:] += _entered(spikes, edges, t)
        out[:, t, 0], out[:, t, 1] = v, 1.0
        out[:, t, 2 : 2 + numbers] = rises
        out[:, t, 2 + numbers :] = low.reshape(sweeps, -1)
        live[:, t] = left == 0
        over = np.where(linear, v[:, None], np.maximum(v[:, None] - np.where(linear, 0.0, knots), 0.0))
        rises[:, :number] = decay * (rises[:, :number] + fired[:, None])
        low = follow[:, None] * low + (1.0 - follow)[:, None] * over[:, None, :]
        left = np.where(fired, refractory, np.maximum(left - 1, 0))
    return out, live


def _entered(spikes: np.ndarray, edges: np.ndarray, t: int) -> np.ndarray:
    """How many more spikes lie edges[k] <= lag < edges[k + 1] steps before step t than before the last, (B, K)."""
    come = np.array([spikes[:, t - edge] if t >= edge else np.zeros(len(spikes), np.bool_) for edge in edges])
    return np.diff(-come.astype(np.float64).reshape(len(edges), len(spikes)).T, axis=1)
