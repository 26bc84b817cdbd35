"""The block algorithm: the loop over blocks of time and its adjoint, over any `Backend`.

Owns what is sequential: which blocks there are, what is carried between them, and where recurrent spikes and their
gradients come from. What happens inside one block is the backend's. Equations are numbered as in
docs/model.md and docs/adjoint.md; docs/block.md shows the algorithm.

Within L <= refractory + 1 steps a neuron spikes at most once, and recurrent input comes from D >= L steps ago, hence
from earlier blocks; so a block's currents are known when it starts. L = 1 is the standard step-by-step method.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Array,
    BlockOutputs,
    Carry,
    ForwardResult,
    Input,
    LayerArrays,
    ParameterSums,
    Plan,
    Tape,
)

if TYPE_CHECKING:
    from blocksim.backend import Backend


def spans(steps: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, stop) of each block; the last may be shorter."""
    for number, start in enumerate(range(0, steps, length)):
        yield number, start, min(start + length, steps)


def delayed(spikes: Array, history: Array, start: int, stop: int) -> Iterator[tuple[Array, slice]]:
    """The spikes D steps before `start` .. `stop`, as pieces and the steps (from `start`) they act on.

    At most two pieces: from before the run (`history`, its last D steps) and from the run itself.
    """
    latency = history.shape[1]
    if start < latency:
        yield history[:, start : min(stop, latency)], slice(0, min(stop, latency) - start)
    if stop > latency:
        begin = max(start, latency)
        yield spikes[:, begin - latency : stop - latency], slice(begin - start, stop - start)


def handed_on(backend: Backend, spikes: Array, history: Array, stop: int) -> Array:
    """The spikes of the D steps before `stop`, in an array of their own: what the steps from `stop` on are handed."""
    last = backend.empty(history.shape, np.bool_)
    if history.shape[1]:
        for piece, where in delayed(spikes, history, stop, stop + history.shape[1]):
            last[:, where] = piece
    return last


def forward(backend: Backend, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan) -> ForwardResult:
    """Simulate a layer block by block, equations (1)-(6)."""
    dtype = layer.beta.dtype
    batch, steps = x.shape[:2]
    shape = (batch, steps, layer.beta.shape[0])
    current = backend.empty(shape, dtype)
    current[...] = layer.bias
    if layer.weights is None:
        current += x
    else:
        backend.projection(x, layer.weights, current)

    def trace(wanted: bool) -> Array | None:
        return backend.empty(shape, dtype) if wanted else None

    spikes = backend.empty(shape, np.bool_)
    free_voltage = trace(plan.tape and plan.paper)
    voltage = trace(plan.record_voltage or (plan.tape and not plan.paper))
    threshold = trace(plan.record_threshold)
    blocks = -(-steps // plan.block_length)
    starts = None
    if plan.tape:
        shape_of_starts = (blocks, batch, shape[2])
        starts = Carry(*(backend.empty(shape_of_starts, kind) for kind in (dtype, dtype, np.int32)))

    for number, start, stop in spans(steps, plan.block_length):
        now = slice(start, stop)
        block = current[:, now]
        if layer.recurrent is not None:  # (2)
            for piece, where in delayed(spikes, history, start, stop):
                backend.projection(piece, layer.recurrent, block[:, where])
        if starts is not None:
            starts.voltage[number] = carry.voltage
            starts.adaptation[number] = carry.adaptation
            starts.refractory[number] = carry.refractory
        outputs = BlockOutputs(
            spikes=spikes[:, now],
            voltage=None if voltage is None else voltage[:, now],
            threshold=None if threshold is None else threshold[:, now],
            free_voltage=None if free_voltage is None else free_voltage[:, now],
        )
        carry = backend.block_forward(block, carry, layer, outputs)

    tape = None
    if starts is not None:
        kept = free_voltage if plan.paper else voltage
        tape = Tape(plan.block_length, kept, spikes, starts, history)
    return ForwardResult(spikes, voltage if plan.record_voltage else None, threshold, carry, tape)


def adjoint(
    backend: Backend,
    layer: LayerArrays,
    x: Input,
    tape: Tape,
    rule: AdjointRule,
    grad_spikes: Array | None,
    grad_voltage: Array | None,
    grad_carry: AdjointCarry,
    grad_history: Array,
) -> AdjointResult:
    """Differentiate a layer block by block, last block first, equations (7)-(13).

    `grad_carry` and `grad_history` are the gradients with respect to the state after the last step.
    """
    dtype = layer.beta.dtype
    batch, steps, neurons = tape.spikes.shape
    latency = tape.history.shape[1]
    grad_current = backend.empty((batch, steps, neurons), dtype)
    sums = ParameterSums(*(backend.empty((batch, neurons), np.float64) for _ in range(5)))
    for total in (sums.beta, sums.p, sums.b, sums.theta, sums.bias):
        total[...] = 0

    def add_recurrent(grad: Array, start: int, stop: int) -> None:
        """Add the recurrent term of (7) for steps start .. stop, which may lie before the run (negative)."""
        if rule.through_recurrent and layer.recurrent is not None and start + latency < steps:
            last = min(stop + latency, steps)
            grad[:, : last - start - latency] += grad_current[:, start + latency : last] @ layer.recurrent.T
        first = max(start, steps - latency)
        if first < stop:  # spikes that the state after the run still holds
            offset = first - (steps - latency)
            grad[:, first - start :] += grad_history[:, offset : offset + stop - first]

    for number, start, stop in reversed(list(spans(steps, tape.block_length))):
        now = slice(start, stop)
        lambda_s = backend.empty((batch, stop - start, neurons), dtype)
        lambda_s[...] = 0 if grad_spikes is None else grad_spikes[:, now]
        add_recurrent(lambda_s, start, stop)
        begin = Carry(tape.starts.voltage[number], tape.starts.adaptation[number], tape.starts.refractory[number])
        grad_carry = backend.block_adjoint(
            tape.voltage[:, now],
            tape.spikes[:, now],
            begin,
            layer,
            rule,
            lambda_s,
            None if grad_voltage is None else grad_voltage[:, now],
            grad_carry,
            grad_current[:, now],
            sums,
        )

    before = backend.empty((batch, latency, neurons), dtype)
    before[...] = 0
    if latency:
        add_recurrent(before, -latency, 0)
    weights = None if layer.weights is None else backend.projection_adjoint(x, grad_current)
    recurrent = None
    if layer.recurrent is not None:
        for piece, where in delayed(tape.spikes, tape.history, 0, steps):
            part = backend.projection_adjoint(piece, grad_current[:, where])
            recurrent = part if recurrent is None else recurrent + part
    return AdjointResult(grad_current, weights, recurrent, sums, grad_carry, before)
