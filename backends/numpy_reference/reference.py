"""The NumPy reference: one block at a time, whole arrays, in the order of the paper.

Owns the readable form of the algorithm. Equations are numbered as in docs/model.md and docs/adjoint.md. Inside a
block the membrane is computed as if it never spiked, the first crossing of the threshold is the spike, and what follows
it in the block is reset and refractory: docs/block.md.
"""

from __future__ import annotations

import numpy as np

from blocksim._events import Events
from blocksim.arrays import AdjointCarry, AdjointRule, BlockOutputs, Carry, Input, LayerArrays, Parameters
from blocksim.backend import HostBackend
from blocksim.numerics import spike_rows

from . import linear
from .common import after_spike, first_crossing, flush, live_at_start, steps_left


class NumpyBackend(HostBackend):
    """NumPy arrays, composed from the methods below; nothing fused."""

    name = "numpy"

    def projection(self, x: Input, weights: np.ndarray, out: np.ndarray) -> None:
        """Equation (2): rows of weights added event by event, or multiplied by real values, inputs ascending."""
        if isinstance(x, Events):
            steps = x.shape[1]
            for sample in range(x.shape[0]):
                rows = x.indptr[sample * steps : (sample + 1) * steps + 1]
                step = np.repeat(np.arange(steps), np.diff(rows))
                _add_rows(out[sample], step, x.indices[rows[0] : rows[-1]], weights)
        else:
            for values, total in zip(x, out, strict=True):
                spikes = spike_rows(values)
                counts = np.where(spikes[:, None], values, 0).astype(np.int64)
                step, unit = np.nonzero(counts)
                times = counts[step, unit]
                _add_rows(total, np.repeat(step, times), np.repeat(unit, times), weights)
                real = np.flatnonzero(~spikes)
                for k in range(weights.shape[0] if len(real) else 0):
                    total[real] += values[real, k, None] * weights[k]

    def projection_adjoint(self, x: Input, grad_current: np.ndarray) -> np.ndarray:
        """Equation (11), sample by sample."""
        dtype = grad_current.dtype
        grad = np.zeros((x.shape[2], grad_current.shape[2]), dtype)
        for sample, of_sample in enumerate(grad_current):
            if isinstance(x, Events):
                steps = x.shape[1]
                rows = x.indptr[sample * steps : (sample + 1) * steps + 1]
                one = Events(rows - rows[0], x.indices[rows[0] : rows[-1]], (1, *x.shape[1:]))
                dense = one.to_dense(dtype)[0]
            else:
                dense = x[sample].astype(dtype, copy=False)
            grad += dense.T @ of_sample
        return grad

    def block_forward(self, current: np.ndarray, carry: Carry, layer: LayerArrays, out: BlockOutputs) -> Carry:
        """Equations (1), (3)-(6) for one block."""
        neuron, length = layer.neuron, current.shape[1]
        live = live_at_start(carry.refractory, length)
        current = np.where(live, current, 0)

        # (3) without reset, (4) and (6) without spike: linear recurrences
        free_voltage = np.empty_like(current)
        threshold = np.empty_like(current)
        v, a = carry.voltage, carry.adaptation
        for t in range(length):
            v = flush(neuron.beta * v + current[:, t])
            free_voltage[:, t] = v
            threshold[:, t] = neuron.theta + neuron.b * a
            a = flush(neuron.p * a)

        # (5) the first crossing is the spike; the neuron is refractory for the rest of the block
        spikes = first_crossing(live & (free_voltage > threshold))

        # (6) with the spike, and the threshold it raises within the block
        a = carry.adaptation
        for t in range(length):
            threshold[:, t] = neuron.theta + neuron.b * a
            a = flush(neuron.p * a + spikes[:, t])

        out.spikes[...] = spikes
        if out.voltage is not None:
            out.voltage[...] = np.where(after_spike(spikes), 0, free_voltage)
        if out.threshold is not None:
            out.threshold[...] = threshold
        if out.free_voltage is not None:
            out.free_voltage[...] = free_voltage

        return Carry(
            voltage=np.where(spikes.any(axis=1), 0, free_voltage[:, -1]),
            adaptation=a,
            refractory=steps_left(layer.refractory, carry.refractory, spikes),
        )

    def block_adjoint(
        self,
        voltage: np.ndarray,
        spikes: np.ndarray,
        start: Carry,
        layer: LayerArrays,
        rule: AdjointRule,
        grad_spikes: np.ndarray,
        grad_voltage: np.ndarray | None,
        grad_carry: AdjointCarry,
        grad_current: np.ndarray,
        sums: Parameters,
    ) -> AdjointCarry:
        """Equations (7)-(12) for one block, or those of the paper's own gradient, (14)-(17)."""
        adjoint = _paper_adjoint if rule.paper else _standard_adjoint
        if grad_voltage is None:
            grad_voltage = np.zeros_like(grad_spikes)
        return adjoint(voltage, spikes, start, layer, rule, grad_spikes, grad_voltage, grad_carry, grad_current, sums)

    # a block of the linear family, for the loop of blocksim._linear
    linear_block_forward = staticmethod(linear.block_forward)
    linear_block_adjoint = staticmethod(linear.block_adjoint)


def _standard_adjoint(
    v: np.ndarray,
    s: np.ndarray,
    start: Carry,
    layer: LayerArrays,
    rule: AdjointRule,
    grad_s: np.ndarray,
    grad_v: np.ndarray,
    grad_carry: AdjointCarry,
    grad_current: np.ndarray,
    sums: Parameters,
) -> AdjointCarry:
    """The surrogate gradient of the standard model, equations (7)-(12)."""
    neuron, length = layer.neuron, v.shape[1]
    # (1): known at the start of the block, and dead after the block's spike
    live = live_at_start(start.refractory, length) & ~after_spike(s)
    a = np.empty_like(v)
    a[:, 0] = start.adaptation
    for t in range(1, length):
        a[:, t] = flush(neuron.p * a[:, t - 1] + s[:, t - 1])
    m = v - (neuron.theta + neuron.b * a)
    slope = np.where(live, rule.surrogate(m), 0)

    # dLoss/d(V (1 - S)), and lambda_a, of the step that follows
    into_v, into_a = grad_carry.voltage, grad_carry.adaptation
    for t in reversed(range(length)):
        lambda_s = grad_s[:, t]  # (7)
        if rule.through_adaptation:
            lambda_s = lambda_s + into_a
        if rule.through_reset:
            lambda_s = lambda_s - v[:, t] * into_v
        delta = slope[:, t] * lambda_s  # (8)
        lambda_v = flush(grad_v[:, t] + delta + np.where(s[:, t], 0, into_v))  # (9)
        grad_current[:, t] = np.where(live[:, t], lambda_v, 0)  # (11)
        sums.bias[...] += grad_current[:, t]
        before = np.where(s[:, t - 1], 0, v[:, t - 1]) if t else start.voltage
        sums.beta[...] += lambda_v * before  # (12)
        sums.p[...] += into_a * a[:, t]
        sums.b[...] -= delta * a[:, t]
        sums.theta[...] -= delta
        into_a = flush(neuron.p * into_a - neuron.b * delta)  # (10)
        into_v = flush(neuron.beta * lambda_v)
    return AdjointCarry(into_v, into_a)


def _paper_adjoint(
    u: np.ndarray,
    s: np.ndarray,
    start: Carry,
    layer: LayerArrays,
    rule: AdjointRule,
    grad_s: np.ndarray,
    grad_v: np.ndarray,
    grad_carry: AdjointCarry,
    grad_current: np.ndarray,
    sums: Parameters,
) -> AdjointCarry:
    """The gradient of the paper's own formula for a block, S = g(phi * H(u - theta)), equations (14)-(17).

    u is the block's potential without reset, so every potential of the block, after the spike too, gets a gradient.
    Two adaptations appear: `free_a`, without the block's spike, sets the thresholds; `a`, with it, is handed on.
    """
    neuron, length = layer.neuron, u.shape[1]
    live = live_at_start(start.refractory, length)
    free_a, a = np.empty_like(u), np.empty_like(u)
    free_a[:, 0] = a[:, 0] = start.adaptation
    for t in range(1, length):
        free_a[:, t] = flush(neuron.p * free_a[:, t - 1])
        a[:, t] = flush(neuron.p * a[:, t - 1] + s[:, t - 1])
    slope = rule.surrogate(u - (neuron.theta + neuron.b * free_a))
    after = after_spike(s)
    spiked = s.any(axis=1)

    # lambda_u, lambda of free_a, and lambda of a, of the step that follows; the ramp of (14) as two running sums
    into_u = np.where(spiked, 0, grad_carry.voltage)
    into_free_a = np.zeros_like(into_u)
    into_a = grad_carry.adaptation
    plain = np.zeros_like(into_u)
    ramp = np.zeros_like(into_u)
    reset = -u[:, -1] * grad_carry.voltage
    for t in reversed(range(length)):
        lambda_s = grad_s[:, t]
        if rule.through_adaptation:
            lambda_s = lambda_s + into_a
        if rule.through_reset:
            lambda_s = lambda_s + reset
            reset = reset - u[:, t] * grad_v[:, t]
        plain = plain + lambda_s
        ramp = ramp + plain  # (14)
        delta = slope[:, t] * ramp  # (15)
        lambda_u = flush(np.where(after[:, t], 0, grad_v[:, t]) + delta + into_u)  # (16)
        grad_current[:, t] = np.where(live[:, t], lambda_u, 0)
        sums.bias[...] += grad_current[:, t]
        sums.beta[...] += lambda_u * (u[:, t - 1] if t else start.voltage)
        sums.p[...] += into_free_a * free_a[:, t] + into_a * a[:, t]  # (17)
        sums.b[...] -= delta * free_a[:, t]
        sums.theta[...] -= delta
        into_free_a = flush(neuron.p * into_free_a - neuron.b * delta)
        into_a = flush(neuron.p * into_a)
        into_u = flush(neuron.beta * lambda_u)
    return AdjointCarry(into_u, into_a + into_free_a)


def _add_rows(out: np.ndarray, step: np.ndarray, unit: np.ndarray, weights: np.ndarray) -> None:
    """out[step] += weights[unit] for each event, those of one step in the order given.

    `step` ascends. The first events of all steps are added at once, then the second ones, and so on: within a step
    the order of addition, and so every bit of the result, is that of a loop over events.
    """
    if not len(step):
        return
    first = np.searchsorted(step, step)
    rank = np.arange(len(step)) - first
    order = np.argsort(rank, kind="stable")
    for chosen in np.split(order, np.cumsum(np.bincount(rank))[:-1]):
        out[step[chosen]] += weights[unit[chosen]]
