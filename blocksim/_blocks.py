"""The block algorithm: the loop over blocks of time and its adjoint, over any `Backend`.

Owns what is sequential: which blocks there are, what is carried between them, and where recurrent spikes and their
gradients come from; and what a run allocates, for backends that fuse the loop too. What happens inside one block is the
backend's. Equations are numbered as in
docs/model.md and docs/adjoint.md; docs/block.md shows the algorithm.

Within L <= refractory + 1 steps a neuron spikes at most once. Recurrent input comes from D steps ago; with L <= D that
is in earlier blocks. So a block's currents are known when it starts. L = 1 is the standard step-by-step method.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

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
    NeuronArrays,
    Plan,
    Record,
    SpikeGradient,
    Tape,
)

if TYPE_CHECKING:
    from blocksim.backend import Backend

R = TypeVar("R", bound=Record)


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


def last_spikes(backend: Backend, spikes: Array, history: Array, stop: int) -> Array:
    """The spikes of the D steps before `stop`, in an array of their own: what the steps from `stop` on are handed."""
    last = backend.empty(history.shape, np.bool_)
    if history.shape[1]:
        for piece, where in delayed(spikes, history, stop, stop + history.shape[1]):
            last[:, where] = piece
    return last


def zeros(backend: Backend, shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of zeros, made where it is needed and not copied there."""
    array = backend.empty(shape, dtype)
    array[...] = 0
    return array


def zero_sums(backend: Backend, layer: NeuronArrays, batch: int) -> Any:
    """The sums of (11) and (12) before the first step: of each parameter, for each sample."""
    return layer.neuron.map(lambda array: zeros(backend, (batch, *array.shape), np.float64))


def new_outputs(backend: Backend, layer: LayerArrays, batch: int, steps: int, plan: Plan) -> BlockOutputs:
    """Arrays for everything that a run is to record or keep."""

    def trace(wanted: bool, dtype: Any = layer.dtype) -> Array | None:
        return backend.empty((batch, steps, layer.size), dtype) if wanted else None

    return BlockOutputs(
        spikes=trace(True, np.bool_),
        voltage=trace(plan.record_voltage or (plan.tape and not plan.paper)),
        threshold=trace(plan.record_threshold),
        free_voltage=trace(plan.tape and plan.paper),
    )


def new_starts(backend: Backend, carry: R, steps: int, plan: Plan) -> R | None:
    """Arrays for what each block is handed; None without a tape."""
    blocks = -(-steps // plan.block_length)
    return carry.map(lambda array: backend.empty((blocks, *array.shape), array.dtype)) if plan.tape else None


def result_of(outputs: BlockOutputs, carry: Carry, starts: Carry | None, history: Array, plan: Plan) -> ForwardResult:
    """What a forward pass returns, of the arrays it wrote."""
    tape = None
    if starts is not None:
        kept = outputs.free_voltage if plan.paper else outputs.voltage
        tape = Tape(plan.block_length, kept, outputs.spikes, starts, history)
    voltage = outputs.voltage if plan.record_voltage else None
    return ForwardResult(outputs.spikes, voltage, outputs.threshold, carry, tape)


def current_of(backend: Backend, layer: LayerArrays, x: Input) -> Array:
    """The bias and the first term of (2), in a new array (B, T, N)."""
    current = backend.empty((*x.shape[:2], layer.size), layer.dtype)
    current[...] = layer.neuron.bias
    if layer.weights is None:
        current += x
    else:
        backend.projection(x, layer.weights, current)
    return current


def added(backend: Backend, gradient: SpikeGradient, batch: int, steps: int, layer: NeuronArrays) -> Array | None:
    """dLoss/dS (B, T, N), its parts added up; None where there are none. It may be the caller's own array."""
    if gradient.above_current is not None:
        total = backend.input_adjoint(gradient.above_current, gradient.above_weights)
    elif gradient.counts is None:
        return gradient.spikes
    else:
        total = zeros(backend, (batch, steps, layer.size), layer.dtype)
    if gradient.spikes is not None:
        total += gradient.spikes
    if gradient.counts is not None:
        total += gradient.counts[:, None]
    return total


def recurrent_gradient(backend: Backend, spikes: Array, history: Array, grad_current: Array) -> Array:
    """dLoss/dR (N, N), equation (11); `history` as in `delayed`."""
    gradient = None
    for piece, where in delayed(spikes, history, 0, spikes.shape[1]):
        part = backend.projection_adjoint(piece, grad_current[:, where])
        gradient = part if gradient is None else gradient + part
    return gradient


def forward(backend: Backend, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan) -> ForwardResult:
    """Simulate a layer block by block, equations (1)-(6)."""
    batch, steps = x.shape[:2]
    current = current_of(backend, layer, x)
    outputs = new_outputs(backend, layer, batch, steps, plan)
    starts = new_starts(backend, carry, steps, plan)
    for number, start, stop in spans(steps, plan.block_length):
        now = np.s_[:, start:stop]
        block = current[now]
        if layer.recurrent is not None:  # (2)
            for piece, where in delayed(outputs.spikes, history, start, stop):
                backend.projection(piece, layer.recurrent, block[:, where])
        if starts is not None:
            starts.put(number, carry)
        carry = backend.block_forward(block, carry, layer, outputs.at(now))
    return result_of(outputs, carry, starts, history, plan)


def adjoint(
    backend: Backend,
    layer: LayerArrays,
    x: Input,
    tape: Tape,
    rule: AdjointRule,
    grad_spikes: SpikeGradient,
    grad_voltage: Array | None,
    grad_carry: AdjointCarry,
    grad_history: Array,
) -> AdjointResult:
    """Differentiate a layer block by block, last block first, equations (7)-(13).

    `grad_carry` and `grad_history` are the gradients with respect to the state after the last step.
    """
    batch, steps, neurons = tape.spikes.shape
    latency = tape.history.shape[1]
    grad_current = backend.empty((batch, steps, neurons), layer.dtype)
    sums = zero_sums(backend, layer, batch)
    of_spikes = added(backend, grad_spikes, batch, steps, layer)

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
        lambda_s = backend.empty((batch, stop - start, neurons), layer.dtype)
        lambda_s[...] = 0 if of_spikes is None else of_spikes[:, now]
        add_recurrent(lambda_s, start, stop)
        grad_carry = backend.block_adjoint(
            tape.voltage[:, now],
            tape.spikes[:, now],
            tape.starts.at(number),
            layer,
            rule,
            lambda_s,
            None if grad_voltage is None else grad_voltage[:, now],
            grad_carry,
            grad_current[:, now],
            sums,
        )

    before = zeros(backend, (batch, latency, neurons), layer.dtype)
    if latency:
        add_recurrent(before, -latency, 0)
    return AdjointResult(
        current=grad_current,
        weights=None if layer.weights is None else backend.projection_adjoint(x, grad_current),
        recurrent=(
            None if layer.recurrent is None else recurrent_gradient(backend, tape.spikes, tape.history, grad_current)
        ),
        sums=sums,
        carry=grad_carry,
        history=before,
    )
