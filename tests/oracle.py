"""The slow, readable truth: one layer, step by step, written from equations (1)-(6) of docs/model.md alone.

Imports nothing of blocksim. Every operation happens in the computing dtype and in one fixed order - multiply, then
add; bias, then weight rows event by event, then recurrent rows, each ascending - so engines are held to its bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TINY = {np.dtype(np.float32): 1e-30, np.dtype(np.float64): 1e-290}


@dataclass
class Result:
    spikes: np.ndarray  # (B, T, N) bool
    voltage: np.ndarray  # (B, T, N), V of (3)
    threshold: np.ndarray  # (B, T, N), theta of (4)
    # the state after the last step
    kept: np.ndarray  # (B, N), V (1 - S) of the last step
    adaptation: np.ndarray  # (B, N), a of the next step
    refractory: np.ndarray  # (B, N), steps for which the neuron is still refractory
    history: np.ndarray  # (B, D, N) spikes of the last D steps, oldest first; D = 0 without recurrence


def simulate(
    x,
    dtype,
    *,
    beta,
    refractory,
    p=0.0,
    b=0.0,
    theta=1.0,
    bias=0.0,
    weights=None,
    recurrent=None,
    latency=1,
    state=None,
):
    """Run a layer step by step.

    x is (B, T, K): whole numbers of spikes where there are weights, the current where there are none (K = N or 1).
    `state` is anything with the four fields voltage, adaptation, refractory, spikes of a blocksim.State, or None.
    """
    dtype = np.dtype(dtype)
    batch, steps, columns = x.shape
    sized = [weights, recurrent, beta, p, b, theta, bias, refractory]
    neurons = next((np.shape(array)[-1] for array in sized if np.ndim(array)), columns)

    def each(value, kind=dtype):
        return np.broadcast_to(np.asarray(value, kind), (neurons,))

    beta, p, b, theta, bias = (each(value) for value in (beta, p, b, theta, bias))
    refractory = each(refractory, np.int64)
    weights = None if weights is None else np.asarray(weights, dtype)
    recurrent = None if recurrent is None else np.asarray(recurrent, dtype)
    delay = 0 if recurrent is None else latency

    spikes = np.zeros((batch, steps, neurons), bool)
    voltage = np.zeros((batch, steps, neurons), dtype)
    threshold = np.zeros((batch, steps, neurons), dtype)
    left = np.zeros((batch, neurons), np.int64)
    past = np.zeros((batch, delay, neurons), bool)
    v = np.zeros((batch, neurons), dtype)  # V of the step before
    s = np.zeros((batch, neurons), bool)  # S of the step before
    a = np.zeros((batch, neurons), dtype)
    if state is not None:
        v[:], a[:], left[:], past[:] = state.voltage, state.adaptation, state.refractory, state.spikes

    for sample in range(batch):
        for t in range(steps):
            # (1): no spike in the steps t - R_arp .. t - 1, those before the run included
            live = np.array(
                [
                    t >= left[sample, n] and not spikes[sample, max(0, t - refractory[n]) : t, n].any()
                    for n in range(neurons)
                ]
            )
            current = _current(x[sample, t], bias, weights)  # (2)
            if recurrent is not None:
                sent = spikes[sample, t - delay] if t >= delay else past[sample, t]
                for source in np.flatnonzero(sent):
                    current = current + recurrent[source]
            kept = np.where(s[sample], dtype.type(0), v[sample])
            v[sample] = _flush(beta * kept + np.where(live, current, dtype.type(0)))  # (3)
            threshold[sample, t] = theta + b * a[sample]  # (4)
            s[sample] = live & (v[sample] > threshold[sample, t])  # (5)
            a[sample] = _flush(p * a[sample] + s[sample].astype(dtype))  # (6)
            voltage[sample, t], spikes[sample, t] = v[sample], s[sample]

    still = np.maximum(left - steps, 0)
    for sample, t, n in np.argwhere(spikes):
        still[sample, n] = max(0, t + refractory[n] + 1 - steps)
    together = np.concatenate([past, spikes], axis=1)
    history = together[:, together.shape[1] - delay :]
    return Result(spikes, voltage, threshold, np.where(s, dtype.type(0), v), a, still.astype(np.int32), history)


def _current(x, bias, weights):
    """The first two terms of (2) for one step."""
    if weights is None:
        return bias + x.astype(bias.dtype)
    current = bias
    for unit in np.flatnonzero(x):
        for _ in range(int(x[unit])):
            current = current + weights[unit]
    return current


def _flush(values):
    """Magnitudes too small to matter set to zero, as the model says, after each step."""
    return np.where(np.abs(values) < TINY[values.dtype], values.dtype.type(0), values)
