"""The linear family: records of its arrays, and the loop over blocks, equations (27)-(38).

Owns what is sequential in a layer whose neurons are linear between spikes, with any number of components, synapses and
connections. What happens inside one block is the backend's. R is the number of receptors with a time course, C of
components, D the longest recurrent delay, E the longest delay of an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blocksim._blocks import delayed, recurrent_gradient, spans, zeros
from blocksim._events import Events
from blocksim.arrays import AdjointRule, Array, Input, NeuronArrays, Record

if TYPE_CHECKING:
    from blocksim.backend import Backend

DIRECT = -1  # the receptor of currents without a time course


@dataclass(frozen=True, eq=False)
class LinearParameters(Record):
    """The parameters of (28)-(34): values, or sums of gradients with an axis of samples before that of neurons."""

    beta: Array  # (N,)
    theta: Array  # (N,), theta_0
    bias: Array  # (N,)
    reset_factor: Array  # (N,), f
    v_reset: Array  # (N,)
    decay: Array  # (C, N), q
    jump: Array  # (C, N), d
    from_voltage: Array  # (C, N), k
    to_voltage: Array  # (C, N), g
    to_threshold: Array  # (C, N), h
    synapse_decay: Array  # (R, N), sigma
    gain: Array  # (R, N)
    gain_rising: Array  # (R, N); of no meaning but for alpha synapses


@dataclass(frozen=True, eq=False)
class LinearCarry(Record):
    """What one block hands the next; with a leading axis of blocks, what every block was handed."""

    voltage: Array  # (B, N), V of (33)
    components: Array  # (C, B, N), c of the next step
    synapses: Array  # (R, B, N), s of (28)
    rising: Array  # (R, B, N), z of (28); zero but for alpha synapses
    refractory: Array  # (B, N) int32, steps still refractory


@dataclass(frozen=True, eq=False)
class LinearAdjointCarry(Record):
    """Gradient with respect to each real-valued array of `LinearCarry`."""

    voltage: Array
    components: Array
    synapses: Array
    rising: Array


@dataclass(frozen=True, eq=False)
class Drive(Record):
    """Currents of (27): (B, T, N), and (R, B, T, N); or the gradients with respect to them."""

    direct: Array  # with the bias
    filtered: Array


@dataclass(frozen=True, eq=False)
class LinearTraces(Record):
    """OUT: results of a block or a run, time on the last axis but one."""

    spikes: Array  # (B, T, N) bool
    voltage: Array  # (B, T, N), U of (30)
    threshold: Array  # (B, T, N), theta of (31)
    synapses: Array  # (R, B, T, N), s of (28)
    rising: Array  # (R, B, T, N), z of (28)


@dataclass(frozen=True, eq=False)
class LinearConnection:
    """Weights of one connection, its delay in steps, and the receptor: its row, or DIRECT."""

    weights: Array  # (K, N)
    delay: int
    receptor: int


@dataclass(frozen=True, eq=False)
class LinearLayer(NeuronArrays):
    """A layer as the backend's arrays."""

    neuron: LinearParameters
    refractory: Array  # (N,) int32, steps
    mode: str  # while refractory: "ignore", "hold" or "integrate"
    alpha: tuple[bool, ...]  # of each receptor with a time course
    inputs: tuple[LinearConnection, ...]
    recurrent: tuple[LinearConnection, ...]

    @property
    def latency(self) -> int:
        """The longest recurrent delay D."""
        return max((each.delay for each in self.recurrent), default=0)

    @property
    def lead(self) -> int:
        """The longest delay E of an input: x begins so many steps before the run."""
        return max((each.delay for each in self.inputs), default=0)


@dataclass(frozen=True, eq=False)
class LinearTape:
    """What the adjoint needs of the forward pass."""

    block_length: int
    traces: LinearTraces
    starts: LinearCarry
    history: Array  # (B, D, N) bool, spikes of the D steps before the first


@dataclass(frozen=True, eq=False)
class LinearAdjointResult:
    """What the adjoint returns."""

    drive: Drive
    inputs: tuple[Array, ...]  # (K, N) each
    recurrent: tuple[Array, ...]  # (N, N) each
    sums: LinearParameters  # (..., B, N) float64
    carry: LinearAdjointCarry
    history: Array  # (B, D, N)


def steps_of(start: int, stop: int) -> Any:
    """Steps start .. stop of an array (..., T, N)."""
    return np.s_[..., start:stop, :]


def receiving(drive: Drive, receptor: int) -> Array:
    """The currents of a receptor."""
    return drive.direct if receptor == DIRECT else drive.filtered[receptor]


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
    drive = Drive(direct, zeros(backend, (len(layer.alpha), batch, steps, layer.size), layer.dtype))
    for each in layer.inputs:
        backend.projection(shifted(x, layer.lead, each.delay), each.weights, receiving(drive, each.receptor))
    return drive


def forward(
    backend: Any, layer: LinearLayer, drive: Drive, carry: LinearCarry, history: Array, length: int
) -> tuple[LinearTraces, LinearCarry, LinearTape]:
    """Simulate a layer block by block; adds the recurrent currents to `drive`."""
    batch, steps, size = drive.direct.shape
    receptors = len(layer.alpha)

    def trace(lead: Sequence[int] = (), dtype: Any = layer.dtype) -> Array:
        return backend.empty((*lead, batch, steps, size), dtype)

    out = LinearTraces(trace(dtype=np.bool_), trace(), trace(), trace([receptors]), trace([receptors]))
    blocks = -(-steps // length)
    starts = carry.map(lambda array: backend.empty((blocks, *array.shape), array.dtype))
    for number, start, stop in spans(steps, length):
        now = steps_of(start, stop)
        block = drive.at(now)
        for each in layer.recurrent:
            into = receiving(block, each.receptor)
            for piece, where in delayed(out.spikes, history_of(history, each.delay), start, stop):
                backend.projection(piece, each.weights, into[:, where])
        starts.put(number, carry)
        carry = backend.linear_forward(block, carry, layer, out.at(now))
    return out, carry, LinearTape(length, out, starts, history)


def adjoint(
    backend: Any,
    layer: LinearLayer,
    x: Input,
    tape: LinearTape,
    rule: AdjointRule,
    grad_spikes: Array,
    grad_voltage: Array,
    into: LinearAdjointCarry,
    grad_history: Array,
) -> LinearAdjointResult:
    """Differentiate a layer block by block, last block first, equations (35)-(38)."""
    traces = tape.traces
    batch, steps, size = traces.spikes.shape
    receptors, latency = len(layer.alpha), layer.latency
    grad = Drive(
        backend.empty((batch, steps, size), layer.dtype),
        backend.empty((receptors, batch, steps, size), layer.dtype),
    )
    sums = layer.neuron.map(lambda array: zeros(backend, (*array.shape[:-1], batch, size), np.float64))

    def add_recurrent(lambda_s: Array, start: int, stop: int) -> None:
        """Add the recurrent term of (35) for steps start .. stop, which may lie before the run (negative)."""
        for each in layer.recurrent:
            first, last = max(start + each.delay, 0), min(stop + each.delay, steps)
            if rule.through_recurrent and first < last:
                part = receiving(grad, each.receptor)[:, first:last] @ each.weights.T
                lambda_s[:, first - each.delay - start : last - each.delay - start] += part
        first = max(start, steps - latency)
        if first < stop:  # spikes that the state after the run still holds
            offset = first - (steps - latency)
            lambda_s[:, first - start :] += grad_history[:, offset : offset + stop - first]

    for number, start, stop in reversed(list(spans(steps, tape.block_length))):
        now = steps_of(start, stop)
        lambda_s = grad_spikes[now].copy()
        add_recurrent(lambda_s, start, stop)
        into = backend.linear_adjoint(
            traces.at(now), tape.starts.at(number), layer, rule, lambda_s, grad_voltage[now], into, grad.at(now), sums
        )
    before = zeros(backend, (batch, latency, size), layer.dtype)
    if latency:
        add_recurrent(before, -latency, 0)

    return LinearAdjointResult(
        drive=grad,
        inputs=tuple(
            backend.projection_adjoint(shifted(x, layer.lead, each.delay), receiving(grad, each.receptor))
            for each in layer.inputs
        ),
        recurrent=tuple(
            recurrent_gradient(
                backend, traces.spikes, history_of(tape.history, each.delay), receiving(grad, each.receptor)
            )
            for each in layer.recurrent
        ),
        sums=sums,
        carry=into,
        history=before,
    )


def input_gradient(backend: Backend, layer: LinearLayer, grad: Drive) -> Array:
    """dLoss/dx (B, E + T, K) of a layer with input connections."""
    batch, steps, _ = grad.direct.shape
    total = zeros(backend, (batch, layer.lead + steps, layer.inputs[0].weights.shape[0]), layer.dtype)
    for each in layer.inputs:
        begin = layer.lead - each.delay
        total[:, begin : begin + steps] += backend.input_adjoint(receiving(grad, each.receptor), each.weights)
    return total
