"""Recorded sweeps with their spikes imposed, each a loop over time: `blocksim._imposed` has what they compute.

Owns the kernels, and the calls that allocate what they write. Threads share the sweeps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import helper, kernel


@helper
def count_between(spikes, sweep, t, edges, counts, first):
    """counts[first + k] INOUT: spikes that lie edges[k] <= lag < edges[k + 1] steps before t."""
    for k in range(len(edges) - 1):
        come, gone = t - edges[k], t - edges[k + 1]
        if come >= 0 and spikes[sweep, come]:
            counts[first + k] += 1.0
        if gone >= 0 and spikes[sweep, gone]:
            counts[first + k] -= 1.0


@kernel
def add_products(
    first_item, stop_item, slot, current, voltage, spikes, counted, refractory, beta, factor, decay, edges, gain,
    series, every, stretch, state, products, spread,
):  # fmt: skip
    """state: scratch (B, 2, P + 1); products OUT (B, stretches, P + 1, P + 1); spread OUT (B, 2)."""
    steps = current.shape[1]
    number = len(gain)
    reset = 2 + number
    size = reset + (2 if series else 1)
    for sweep in range(first_item, stop_item):
        x, c = state[sweep, 0], state[sweep, 1]
        for j in range(size + 1):
            x[j] = 0.0
            c[j] = 0.0
        for each in range(products.shape[1]):
            for j in range(size + 1):
                for k in range(size + 1):
                    products[sweep, each, j, k] = 0.0
        spread[sweep, 0] = 0.0
        spread[sweep, 1] = 0.0
        x[0] = 1.0  # the sweep begins at rest
        left = 0
        since = 0
        for t in range(steps):
            count_between(spikes, sweep, t, edges, c, len(decay))
            if left > 0:
                left -= 1
            else:
                x[0] = beta * x[0] + (1.0 - beta)
                x[1] = beta * x[1] + (1.0 - beta) * current[sweep, t]
                for j in range(number):
                    x[2 + j] = beta * x[2 + j] + gain[j] * c[j]
                x[reset] = beta * x[reset]
            since += 1
            if counted[sweep, t] and since >= every:
                since = 0
                if series:
                    x[reset + 1] = current[sweep, t]
                x[size] = voltage[sweep, t]
                total = products[sweep, t // stretch]
                for j in range(size + 1):
                    for k in range(j + 1):
                        total[j, k] += x[j] * x[k]
                spread[sweep, 0] += 1.0
                spread[sweep, 1] += voltage[sweep, t]
            for j in range(len(decay)):
                c[j] *= decay[j]
            if spikes[sweep, t]:
                left = refractory
                for j in range(len(decay)):
                    c[j] += 1.0
                for j in range(reset + 1):
                    x[j] *= factor
                x[0] -= factor
                x[reset] += 1.0
        for each in range(products.shape[1]):
            for j in range(size + 1):
                for k in range(j):
                    products[sweep, each, k, j] = products[sweep, each, j, k]


@kernel
def impose_spikes(
    first_item, stop_item, slot, current, spikes, refractory, beta, rest, resistance, reset, factor, decay, edges,
    gain, state, out,
):  # fmt: skip
    """state: scratch (B, J + K); out OUT (B, T)."""
    steps = current.shape[1]
    number = len(gain)
    for sweep in range(first_item, stop_item):
        c = state[sweep]
        for j in range(number):
            c[j] = 0.0
        v = rest
        left = 0
        for t in range(steps):
            count_between(spikes, sweep, t, edges, c, len(decay))
            if left > 0:
                left -= 1
            else:
                drive = (1.0 - beta) * (rest + resistance * current[sweep, t])
                for j in range(number):
                    drive += gain[j] * c[j]
                v = beta * v + drive
            out[sweep, t] = v
            for j in range(len(decay)):
                c[j] *= decay[j]
            if spikes[sweep, t]:
                left = refractory
                v = reset + factor * (v - rest)
                for j in range(len(decay)):
                    c[j] += 1.0


@kernel
def fill_regressors(
    first_item, stop_item, slot, potential, spikes, refractory, decay, edges, follow, knots, state, out, live
):
    """state: scratch (B, K + M L); out OUT (B, T, 2 + K + M L); live OUT (B, T)."""
    steps = potential.shape[1]
    taus, places = len(follow), len(knots)
    rises = state.shape[1] - taus * places
    for sweep in range(first_item, stop_item):
        c = state[sweep]
        for j in range(rises + taus * places):
            c[j] = 0.0
        left = 0
        for t in range(steps):
            count_between(spikes, sweep, t, edges, c, len(decay))
            v = potential[sweep, t]
            row = out[sweep, t]
            row[0] = v
            row[1] = 1.0
            for j in range(rises + taus * places):
                row[2 + j] = c[j]
            live[sweep, t] = left == 0
            if left > 0:
                left -= 1
            if spikes[sweep, t]:
                left = refractory
                for j in range(len(decay)):
                    c[j] += 1.0
            for j in range(len(decay)):
                c[j] *= decay[j]
            for place in range(places):
                over = v - knots[place]
                if knots[place] < -1e300:
                    over = v
                elif over < 0.0:
                    over = 0.0
                for m in range(taus):
                    j = rises + m * places + place
                    c[j] = follow[m] * c[j] + (1.0 - follow[m]) * over


def impose(current: np.ndarray, spikes: np.ndarray, *parameters: Any) -> np.ndarray:
    """`blocksim._imposed.impose`."""
    out, number = np.empty(current.shape), len(parameters[-1])
    impose_spikes(len(current), current, spikes, *parameters, np.empty((len(current), number)), out)
    return out


def potential_products(
    current: np.ndarray, voltage: np.ndarray, spikes: np.ndarray, counted: np.ndarray, refractory: int, beta: float,
    factor: float, decay: np.ndarray, edges: np.ndarray, gain: np.ndarray, series: bool, every: int, stretch: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """`blocksim._imposed.potential_products`."""
    (sweeps, steps), size = current.shape, 4 + len(gain) + int(series)
    products, spread = np.empty((sweeps, -(-steps // stretch), size, size)), np.empty((sweeps, 2))
    add_products(
        sweeps, current, voltage, spikes, counted, refractory, beta, factor, decay, edges, gain, series, every, stretch,
        np.empty((sweeps, 2, size)), products, spread,
    )  # fmt: skip
    return products, spread


def threshold_regressors(
    potential: np.ndarray, spikes: np.ndarray, refractory: int, decay: np.ndarray, edges: np.ndarray,
    follow: np.ndarray, knots: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """`blocksim._imposed.threshold_regressors`."""
    number = len(decay) + max(len(edges) - 1, 0) + len(follow) * len(knots)
    out, live = np.empty((*potential.shape, 2 + number)), np.empty(potential.shape, np.bool_)
    state = np.empty((len(potential), number))
    fill_regressors(len(potential), potential, spikes, refractory, decay, edges, follow, knots, state, out, live)
    return out, live
