"""The NumPy reference of the linear family: one block at a time, equations (27)-(38) as they stand.

Owns the readable form. Forward, a block is walked through twice: as if it did not spike, to find the first crossing,
and with the spike. A sum over components or receptors is taken in their order, so that every backend has its bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from blocksim.arrays import (
    ABOVE,
    AFTER,
    SOFTPLUS,
    AdjointRule,
    Drive,
    LinearAdjointCarry,
    LinearCarry,
    LinearLayer,
    LinearParameters,
    LinearTraces,
)
from blocksim.numerics import bend, bend_slope, exponential, logistic, rise, steepness
from blocksim.surrogates import Hazard

from .common import after_spike, first_crossing, flush, live_at_start, steps_left


def block_forward(drive: Drive, carry: LinearCarry, layer: LinearLayer, out: LinearTraces) -> LinearCarry:
    """Equations (28)-(34) for one block."""
    current, s, z = _synapses(drive, carry, layer, out)
    live = live_at_start(carry.refractory, current.shape[1])

    crossing = np.empty(live.shape, np.bool_)
    remaining = carry.remaining[:, 0] if layer.stochastic and not layer.imposed else None
    for t, u, threshold, _, _ in _walk(layer, current, carry, live, np.zeros_like(live)):
        if remaining is None:
            crossing[:, t] = live[:, t] & (out.spikes[:, t] if layer.imposed else u > threshold)  # (32)
        else:
            remaining = np.where(live[:, t], remaining - _hazard(layer.neuron, u - threshold), remaining)
            crossing[:, t] = live[:, t] & (remaining < 0)  # (39)
    spikes = first_crossing(crossing)

    out.spikes[...] = spikes
    v, c = carry.voltage, carry.components
    for t, u, threshold, after_v, after_c in _walk(layer, current, carry, live & ~after_spike(spikes), spikes):
        if out.voltage is not None:
            out.voltage[:, t] = u
        if out.threshold is not None:
            out.threshold[:, t] = threshold
        v, c = after_v, after_c
    left = steps_left(layer.refractory, carry.refractory, spikes)
    # what is left after a spike is drawn by the core, for the steps after this block
    after = carry.remaining if remaining is None else remaining[:, None]
    return LinearCarry(v, c, s, z, left, after, carry.draws)


def _hazard(neuron: LinearParameters, distance: np.ndarray) -> np.ndarray:
    """(39), of a step in which the neuron is live, from U - theta."""
    hazard: np.ndarray = neuron.rate * exponential(distance * steepness(neuron.width))
    return hazard


def _slope(neuron: LinearParameters, rule: AdjointRule, distance: np.ndarray) -> np.ndarray:
    """sigma' of (8) at U - theta."""
    if isinstance(rule.surrogate, Hazard):
        return rule.surrogate.slope(_hazard(neuron, distance), steepness(neuron.width))
    return rule.surrogate(distance)


def _synapses(
    drive: Drive, carry: LinearCarry, layer: LinearLayer, out: LinearTraces
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(28), and (29) without components: J (B, L, N); and s and z of the last step."""
    neuron = layer.neuron
    current = drive.direct.copy()
    last_s, last_z = carry.synapses.copy(), carry.rising.copy()
    for r, alpha in enumerate(layer.alpha):
        sigma, s, z = neuron.synapse_decay[r], carry.synapses[:, r], carry.rising[:, r]
        kappa = rise(sigma) if alpha else None
        for t in range(current.shape[1]):
            i = drive.filtered[:, r, t]
            if kappa is None:
                s = flush(sigma * s + i)
                current[:, t] += neuron.gain[r] * s
            else:
                s = flush(sigma * (s + kappa * z))
                z = flush(sigma * z + i)
                current[:, t] += neuron.gain[r] * s
                current[:, t] += neuron.gain_rising[r] * z
            if out.synapses is not None and out.rising is not None:
                out.synapses[:, r, t], out.rising[:, r, t] = s, z
        last_s[:, r], last_z[:, r] = s, z
    return current, last_s, last_z


def _walk(
    layer: LinearLayer, current: np.ndarray, start: LinearCarry, live: np.ndarray, spikes: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Step by step, with these spikes: the step, U of (30), theta of (31), V of (33), and c of the next step, (34)."""
    neuron = layer.neuron
    v, c = start.voltage, start.components
    for t in range(current.shape[1]):
        j = current[:, t]
        for g, each in zip(neuron.to_voltage, of_each(c), strict=True):
            j = j + g * each  # (29)
        u = _membrane(neuron, layer.mode, v, j, live[:, t])
        threshold = _threshold(neuron, c, u)
        v = _reset(neuron, u, spikes[:, t])
        c = _components(neuron, c, _heard(layer, u, v), spikes[:, t])
        yield t, u, threshold, v, c


def _membrane(neuron: LinearParameters, mode: str, v: np.ndarray, j: np.ndarray, live: np.ndarray) -> np.ndarray:
    """(30)."""
    if mode == "integrate":
        return flush(neuron.beta * v + j)
    if mode == "hold":
        return np.where(live, flush(neuron.beta * v + j), v)
    return flush(neuron.beta * v + np.where(live, j, 0))


def _threshold(neuron: LinearParameters, c: np.ndarray, like: np.ndarray) -> np.ndarray:
    """(31)."""
    threshold = np.broadcast_to(neuron.theta, like.shape)
    for h, each in zip(neuron.to_threshold, of_each(c), strict=True):
        threshold = threshold + h * each
    return threshold


def _components(neuron: LinearParameters, c: np.ndarray, heard: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """(34)."""
    jump = np.where(spikes[:, None], neuron.jump, 0)
    return flush(neuron.decay * c + jump + neuron.from_voltage * heard)


def _heard(layer: LinearLayer, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """What each component listens to, (B, C, N): U, V after the reset, or a static function of U."""
    neuron = layer.neuron
    after, above, soft = (_flags(layer.listening(each)) for each in (AFTER, ABOVE, SOFTPLUS))
    over = u[:, None] - neuron.knot
    function = np.maximum(over, 0)
    if soft.any():
        function = np.where(soft, function + neuron.softness * bend(_in_softness(neuron, over)), function)
    return np.where(above | soft, function, np.where(after, v[:, None], u[:, None]))


def _function_slopes(layer: LinearLayer, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slopes of what each component listens to, (B, C, N): in U, but for V after the reset, and in its softness."""
    neuron = layer.neuron
    above, soft = (_flags(layer.listening(each)) for each in (ABOVE, SOFTPLUS))
    over = u[:, None] - neuron.knot
    in_u = np.where(above, over > 0, 1).astype(u.dtype)
    if not soft.any():
        return in_u, np.zeros_like(in_u)
    x = _in_softness(neuron, over)
    return np.where(soft, logistic(x), in_u), np.where(soft, bend_slope(x), 0)


def _in_softness(neuron: LinearParameters, over: np.ndarray) -> np.ndarray:
    """U - knot, (B, C, N), as a multiple of the softness."""
    with np.errstate(over="ignore"):
        multiple: np.ndarray = over * steepness(neuron.softness)
        return multiple


def _flags(flags: tuple[bool, ...]) -> np.ndarray:
    """Of each component, (C, 1)."""
    return np.array(flags, bool)[:, None]


def of_each(c: np.ndarray) -> np.ndarray:
    """Components (B, C, N) one after the other."""
    return c.swapaxes(0, 1)


def _reset(neuron: LinearParameters, u: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """(33)."""
    reset: np.ndarray = np.where(spikes, neuron.reset_factor * u + neuron.v_reset, u)
    return reset


def block_adjoint(
    traces: LinearTraces,
    start: LinearCarry,
    layer: LinearLayer,
    rule: AdjointRule,
    grad_spikes: np.ndarray,
    grad_voltage: np.ndarray | None,
    grad_carry: LinearAdjointCarry,
    grad: Drive,
    sums: LinearParameters,
) -> LinearAdjointCarry:
    """Equations (35)-(38) for one block."""
    neuron = layer.neuron
    u, s = traces.voltage, traces.spikes
    assert u is not None
    length, dtype = u.shape[1], u.dtype
    live = live_at_start(start.refractory, length) & ~after_spike(s)
    # what J and V of the step before contribute to U, (30)
    e = np.ones_like(live) if layer.mode == "integrate" else live
    held = ~live if layer.mode == "hold" else np.zeros_like(live)

    c = np.empty((*start.components.shape[:2], *u.shape[1:]), dtype)
    heard, slope, distance = np.empty_like(c), np.empty_like(u), np.empty_like(u)
    now = start.components
    for t in range(length):
        c[:, :, t] = now
        distance[:, t] = u[:, t] - _threshold(neuron, now, u[:, t])
        slope[:, t] = np.where(live[:, t], _slope(neuron, rule, distance[:, t]), 0)
        heard[:, :, t] = _heard(layer, u[:, t], _reset(neuron, u[:, t], s[:, t]))
        now = _components(neuron, now, heard[:, :, t], s[:, t])

    after, static = _flags(layer.listening(AFTER)), _flags(layer.listening(ABOVE, SOFTPLUS))
    lambda_j = grad.direct
    into_v, into_c = (
        grad_carry.voltage,
        grad_carry.components,
    )  # lambda_V of the step that is done, lambda_c of the next
    for t in reversed(range(length)):
        for place in np.flatnonzero(after):
            into_v = into_v + neuron.from_voltage[place] * into_c[:, place]
        lambda_s = grad_spikes[:, t]  # (35)
        if rule.through_adaptation:
            for d, each in zip(neuron.jump, of_each(into_c), strict=True):
                lambda_s = lambda_s + d * each
        if rule.through_reset:
            lambda_s = lambda_s + ((neuron.reset_factor - 1) * u[:, t] + neuron.v_reset) * into_v
        delta = slope[:, t] * lambda_s
        # (36)
        lambda_u = (0 if grad_voltage is None else grad_voltage[:, t]) + delta
        lambda_u = lambda_u + np.where(s[:, t], neuron.reset_factor * into_v, into_v)
        in_u, in_softness = _function_slopes(layer, u[:, t])
        pull = in_u * (neuron.from_voltage * into_c)
        for place in np.flatnonzero(~after):
            lambda_u = lambda_u + pull[:, place]
        lambda_u = flush(lambda_u)
        lambda_j[:, t] = np.where(e[:, t], lambda_u, 0)
        before = _reset(neuron, u[:, t - 1], s[:, t - 1]) if t else start.voltage
        sums.beta[...] += np.where(held[:, t], 0, lambda_u * before)
        sums.theta[...] -= delta
        sums.bias[...] += lambda_j[:, t]
        sums.reset_factor[...] += np.where(s[:, t], into_v * u[:, t], 0)
        sums.v_reset[...] += np.where(s[:, t], into_v, 0)
        if layer.stochastic:  # through log rate + (U - theta) / width
            sums.rate[...] += delta * neuron.width / neuron.rate
            sums.width[...] -= delta * distance[:, t] / neuron.width
        sums.decay[...] += into_c * c[:, :, t]
        sums.jump[...] += np.where(s[:, None, t], into_c, 0)
        sums.from_voltage[...] += into_c * heard[:, :, t]
        sums.to_voltage[...] += lambda_j[:, None, t] * c[:, :, t]
        sums.to_threshold[...] -= delta[:, None] * c[:, :, t]
        sums.knot[...] -= np.where(static, pull, 0)
        sums.softness[...] += in_softness * (neuron.from_voltage * into_c)
        # (37)
        into_c = flush(
            neuron.decay * into_c - neuron.to_threshold * delta[:, None] + neuron.to_voltage * lambda_j[:, None, t]
        )
        into_v = np.where(held[:, t], lambda_u, flush(neuron.beta * lambda_u))
    into_s, into_z = _synapses_adjoint(traces, start, layer, grad_carry, grad, sums)
    return LinearAdjointCarry(into_v, into_c, into_s, into_z)


def _synapses_adjoint(
    traces: LinearTraces,
    start: LinearCarry,
    layer: LinearLayer,
    into: LinearAdjointCarry,
    grad: Drive,
    sums: LinearParameters,
) -> tuple[np.ndarray, np.ndarray]:
    """(38): from lambda_J to lambda of the currents, and of s and z before the block."""
    neuron, synapses, rising = layer.neuron, traces.synapses, traces.rising
    assert synapses is not None
    assert rising is not None
    before_s, before_z = into.synapses.copy(), into.rising.copy()
    for r, alpha in enumerate(layer.alpha):
        sigma = neuron.synapse_decay[r]
        kappa = rise(sigma) if alpha else None
        into_s, into_z = into.synapses[:, r], into.rising[:, r]  # dLoss/ds and dLoss/dz through the steps that follow
        for t in reversed(range(synapses.shape[2])):
            lambda_j = grad.direct[:, t]
            s_before = synapses[:, r, t - 1] if t else start.synapses[:, r]
            z_before = rising[:, r, t - 1] if t else start.rising[:, r]
            lambda_s = flush(into_s + neuron.gain[r] * lambda_j)
            sums.gain[:, r] += lambda_j * synapses[:, r, t]
            if kappa is None:
                sums.synapse_decay[:, r] += lambda_s * s_before
                grad.filtered[:, r, t] = lambda_s
            else:
                lambda_z = flush(into_z + neuron.gain_rising[r] * lambda_j)
                sums.gain_rising[:, r] += lambda_j * rising[:, r, t]
                # d(sigma (s + kappa z))/d(sigma), with kappa's own slope -e / sigma
                sums.synapse_decay[:, r] += lambda_s * (s_before + (kappa - np.e) * z_before) + lambda_z * z_before
                grad.filtered[:, r, t] = lambda_z
                into_z = flush(sigma * lambda_z + sigma * kappa * lambda_s)
            into_s = flush(sigma * lambda_s)
        before_s[:, r], before_z[:, r] = into_s, into_z
    return before_s, before_z
