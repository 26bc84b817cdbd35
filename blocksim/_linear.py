"""The linear family: the loop over blocks and its adjoint, over any `Backend`, equations (27)-(38).

Owns what is sequential in a layer whose neurons are linear between spikes, with any number of components, synapses and
connections: `blocksim._blocks` is the same for LIF and ALIF. What happens inside one block is the backend's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from blocksim._blocks import added, delayed, new_starts, recurrent_gradient, spans, zero_sums, zeros
from blocksim._escape import Noise
from blocksim._events import Events
from blocksim.arrays import (
    DIRECT,
    AdjointResult,
    AdjointRule,
    Array,
    Drive,
    ForwardResult,
    Input,
    LinearAdjointCarry,
    LinearCarry,
    LinearLayer,
    LinearTape,
    LinearTraces,
    Plan,
    SpikeGradient,
)

if TYPE_CHECKING:
    from blocksim.backend import Backend


def steps_of(start: int, stop: int) -> Any:
    """Steps start .. stop of an array (..., T, N)."""
    return np.s_[..., start:stop, :]


def receiving(drive: Drive, receptor: int) -> Array:
    """The currents of a receptor."""
    return drive.direct if receptor == DIRECT else drive.filtered[:, receptor]


def shifted(x: Input, lead: int, delay: int) -> Input:
    """x `delay` steps ago, for the steps of the run."""
    begin, stop = lead - delay, x.shape[1] - delay
    return x[begin:stop] if isinstance(x, Events) else x[:, begin:stop]


def history_of(history: Array, delay: int) -> Array:
    """The spikes of the last `delay` steps before the run."""
    return history[:, history.shape[1] - delay :]


def drive_of(backend: Backend, layer: LinearLayer, x: Input) -> Drive:
    """The bias, and the input currents of (27)."""
    batch, steps = x.shape[0], x.shape[1] - layer.lead
    direct = backend.empty((batch, steps, layer.size), layer.dtype)
    direct[...] = layer.neuron.bias
    drive = Drive(direct, zeros(backend, (batch, len(layer.alpha), steps, layer.size), layer.dtype))
    if layer.given is not None:
        into = receiving(drive, layer.given)
        into += x
    for each in layer.inputs:
        backend.projection(shifted(x, layer.lead, each.delay), each.weights, receiving(drive, each.receptor))
    return drive


def new_traces(backend: Backend, layer: LinearLayer, batch: int, steps: int, plan: Plan) -> LinearTraces:
    """Arrays for everything that a run is to record or keep."""

    def trace(wanted: bool, *receptors: int, dtype: Any = layer.dtype) -> Array | None:
        return backend.empty((batch, *receptors, steps, layer.size), dtype) if wanted else None

    receptors = len(layer.alpha)
    return LinearTraces(
        spikes=trace(True, dtype=np.bool_) if plan.imposed is None else plan.imposed.copy(),
        voltage=trace(plan.record_voltage or plan.tape),
        threshold=trace(plan.record_threshold),
        synapses=trace(plan.tape, receptors),
        rising=trace(plan.tape, receptors),
    )


def result_of(
    traces: LinearTraces, carry: LinearCarry, starts: LinearCarry | None, history: Array, plan: Plan
) -> ForwardResult:
    """A finished run."""
    tape = None if starts is None else LinearTape(plan.block_length, traces, starts, history)
    voltage = traces.voltage if plan.record_voltage else None
    return ForwardResult(traces.spikes, voltage, traces.threshold, carry, tape)


def forward(
    backend: Backend, layer: LinearLayer, x: Input, carry: LinearCarry, history: Array, plan: Plan
) -> ForwardResult:
    """Simulate a layer block by block, equations (27)-(34). x begins `layer.lead` steps before the run."""
    drive = drive_of(backend, layer, x)
    batch, steps, _ = drive.direct.shape
    traces = new_traces(backend, layer, batch, steps, plan)
    starts = new_starts(backend, carry.without_noise(), steps, plan)
    for number, start, stop in spans(steps, plan.block_length):
        now = steps_of(start, stop)
        block = drive.at(now)
        for each in layer.recurrent:
            into = receiving(block, each.receptor)
            for piece, where in delayed(traces.spikes, history_of(history, each.delay), start, stop):
                backend.projection(piece, each.weights, into[:, where])
        if starts is not None:
            starts.put(number, carry.without_noise())
        carry = backend.linear_block_forward(block, carry, layer, traces.at(now))
        if plan.noise is not None and not layer.imposed:
            carry = _drawn(backend, carry, traces.spikes[:, start:stop], plan.noise)
    return result_of(traces, carry, starts, history, plan)


def _drawn(backend: Backend, carry: LinearCarry, spikes: Array, noise: Noise) -> LinearCarry:
    """What neurons that spiked in a block bear before their next spike: they are refractory until the block ends."""
    fired = backend.to_numpy(spikes).any(axis=1)
    samples, neurons = np.nonzero(fired)
    if not len(samples):
        return carry
    remaining, draws = (backend.to_numpy(array).copy() for array in (carry.remaining, carry.draws))
    number = draws[samples, 0, neurons]
    remaining[samples, 0, neurons] = noise.draws(samples, neurons, fired.shape[1], number)
    draws[samples, 0, neurons] += 1
    return replace(carry, remaining=backend.asarray(remaining), draws=backend.asarray(draws))


def adjoint(
    backend: Backend,
    layer: LinearLayer,
    x: Input,
    tape: LinearTape,
    rule: AdjointRule,
    grad_spikes: SpikeGradient,
    grad_voltage: Array | None,
    grad_carry: LinearAdjointCarry,
    grad_history: Array,
) -> AdjointResult:
    """Differentiate a layer block by block, last block first, equations (35)-(38).

    `grad_carry` and `grad_history` are the gradients with respect to the state after the last step.
    """
    traces = tape.traces
    batch, steps, size = traces.spikes.shape
    grad = Drive(
        backend.empty((batch, steps, size), layer.dtype),
        backend.empty((batch, len(layer.alpha), steps, size), layer.dtype),
    )
    sums = zero_sums(backend, layer, batch)
    of_spikes = added(backend, grad_spikes, batch, steps, layer)

    for number, start, stop in reversed(list(spans(steps, tape.block_length))):
        now = steps_of(start, stop)
        lambda_s = backend.empty((batch, stop - start, size), layer.dtype)
        lambda_s[...] = 0 if of_spikes is None else of_spikes[now]
        add_recurrent(layer, rule, grad, grad_history, lambda_s, start, stop)
        grad_carry = backend.linear_block_adjoint(
            traces.at(now),
            tape.starts.at(number),
            layer,
            rule,
            lambda_s,
            None if grad_voltage is None else grad_voltage[now],
            grad_carry,
            grad.at(now),
            sums,
        )
    before = history_gradient(backend, layer, rule, grad, grad_history)
    recurrent = tuple(
        recurrent_gradient(backend, traces.spikes, history_of(tape.history, each.delay), receiving(grad, each.receptor))
        for each in layer.recurrent
    )
    weights = input_weight_gradients(backend, layer, x, grad)
    return AdjointResult(grad.direct, weights, recurrent, sums, grad_carry, before, grad.filtered)


def add_recurrent(
    layer: LinearLayer, rule: AdjointRule, grad: Drive, grad_history: Array, lambda_s: Array, start: int, stop: int
) -> None:
    """Add the recurrent term of (35) for steps start .. stop, which may lie before the run (negative)."""
    steps, latency = grad.direct.shape[1], layer.latency
    for each in layer.recurrent:
        first, last = max(start + each.delay, 0), min(stop + each.delay, steps)
        if rule.through_recurrent and first < last:
            part = receiving(grad, each.receptor)[:, first:last] @ each.weights.T
            lambda_s[:, first - each.delay - start : last - each.delay - start] += part
    first = max(start, steps - latency)
    if first < stop:  # spikes that the state after the run still holds
        offset = first - (steps - latency)
        lambda_s[:, first - start :] += grad_history[:, offset : offset + stop - first]


def history_gradient(
    backend: Backend, layer: LinearLayer, rule: AdjointRule, grad: Drive, grad_history: Array
) -> Array:
    """dLoss/dS (B, D, N) for the D steps before the run."""
    batch, _, size = grad.direct.shape
    before = zeros(backend, (batch, layer.latency, size), layer.dtype)
    if layer.latency:
        add_recurrent(layer, rule, grad, grad_history, before, -layer.latency, 0)
    return before


def input_weight_gradients(backend: Backend, layer: LinearLayer, x: Input, grad: Drive) -> tuple[Array, ...]:
    """The gradient (K, N) of the weights of each input connection."""
    return tuple(
        backend.projection_adjoint(shifted(x, layer.lead, each.delay), receiving(grad, each.receptor))
        for each in layer.inputs
    )


def input_gradient(backend: Backend, layer: LinearLayer, result: AdjointResult) -> Array:
    """dLoss/dx (B, E + T, K); of the currents (B, T, N) where x is the current itself."""
    grad = Drive(result.current, result.filtered)
    if layer.given is not None:
        return receiving(grad, layer.given)
    batch, steps, _ = result.current.shape
    total = zeros(backend, (batch, layer.lead + steps, layer.inputs[0].weights.shape[0]), layer.dtype)
    for each in layer.inputs:
        begin = layer.lead - each.delay
        total[:, begin : begin + steps] += backend.input_adjoint(receiving(grad, each.receptor), each.weights)
    return total
