"""Host side of the kernels of the linear family: currents by receptor, and launches over blocks.

A run is one launch each way, backward one more for the receptors with a time course of a layer without recurrence. A
recurrent layer of more than FAMILY neurons has so many for each stretch of whole blocks that the shortest delay spans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blocksim._blocks import new_starts, recurrent_gradient, zeros
from blocksim._escape import Noise
from blocksim._linear import (
    history_gradient,
    history_of,
    input_weight_gradients,
    new_traces,
    receiving,
    result_of,
    shifted,
)
from blocksim._neurons import COMPONENT, MEMBRANE
from blocksim.arrays import (
    ABOVE,
    AFTER,
    SOFTPLUS,
    AdjointResult,
    AdjointRule,
    Array,
    Drive,
    ForwardResult,
    Input,
    LinearAdjointCarry,
    LinearCarry,
    LinearLayer,
    LinearParameters,
    LinearTape,
    Plan,
    SpikeGradient,
)
from blocksim.errors import ArgumentError
from blocksim.numerics import rise, steepness, tiny
from blocksim.surrogates import kernel_scales

from .dynamics import arrays_or_null, dynamics_of, lambda_of_spikes, launches, threads_of_sample
from .kernels import FAMILY, units

if TYPE_CHECKING:
    from .backend import CupyBackend

MODES = {"ignore": 0, "hold": 1, "integrate": 2}  # linear.cu's
CARRIED = 5  # arrays of a carry before those of (39)
# what a launch is told of recurrent connections that are not its own
NOT_TOGETHER = (None, None, np.int32(0), np.int32(0))
MAX_PARTS = 62  # components or receptors: flags of all are the bits of one number


def forward(
    engine: CupyBackend, layer: LinearLayer, x: Input, carry: LinearCarry, history: Array, plan: Plan
) -> ForwardResult:
    """Simulate a layer."""
    _check(layer)
    dtype, size = layer.dtype, layer.size
    batch, steps = x.shape[0], x.shape[1] - layer.lead
    targets, currents, pitches, add_bias = _currents(engine, layer, x, batch, steps)
    traces = new_traces(engine, layer, batch, steps, plan)
    starts = new_starts(engine, carry.without_noise(), steps, plan)
    after = carry.copy()
    threads = threads_of_sample(engine, size, batch, FAMILY, FAMILY) if layer.recurrent else 0
    apart = [(each, engine.asarray(history_of(history, each.delay))) for each in layer.recurrent if not threads]
    values, components, synapses = _values(engine, layer)
    launch = dynamics_of(
        engine, "linear_forward", dtype, batch, size, threads, len(components[0]), len(layer.alpha),
        _above(layer), 2 if layer.imposed else layer.stochastic,
    )  # fmt: skip
    neuron = (
        values, components, synapses, layer.refractory, *_listening(layer), _bits(layer.alpha),
        np.int32(MODES[layer.mode]),
    )  # fmt: skip
    given = (currents, _flags(targets), *pitches, np.int32(add_bias), *_draws(plan.noise, size))
    recorded = (traces.spikes, traces.voltage, traces.threshold, traces.synapses, traces.rising)
    noise = after.arrays()[CARRIED:] if layer.stochastic and not layer.imposed else (None, None)
    out = (*after.arrays()[:CARRIED], *noise, *recorded, *arrays_or_null(starts, after)[:CARRIED])
    span = _span(layer, plan.block_length)
    together = (*NOT_TOGETHER, None, np.int32(0))
    if threads:
        weights, _, where = _recurrent(engine, layer)
        together = (
            weights, where, np.int32(len(weights)), np.int32(span), engine.asarray(history), np.int32(history.shape[1])
        )  # fmt: skip
    of_run = (np.int64(batch * size), np.int32(size), np.int32(steps))
    block = (np.int32(plan.block_length), dtype.type(tiny(dtype)))
    for start, stop in launches(steps, span if apart else None):
        for each, before in apart:
            into = currents[targets.index(each.receptor + 1)]
            engine.add_spikes(traces.spikes, before, each.weights, into, start, stop - start, each.delay)
        launch(*neuron, *given, *out, *together, *of_run, np.int32(start), np.int32(stop), *block)
    return result_of(traces, after, starts, history, plan)


def adjoint(
    engine: CupyBackend,
    layer: LinearLayer,
    x: Input,
    tape: LinearTape,
    rule: AdjointRule,
    grad_spikes: SpikeGradient,
    grad_voltage: Array | None,
    grad_carry: LinearAdjointCarry,
    grad_history: Array,
) -> AdjointResult:
    """Differentiate a layer: launches as in the forward pass, the last first."""
    dtype, traces, starts, length = layer.dtype, tape.traces, tape.starts, tape.block_length
    batch, steps, size = traces.spikes.shape
    receptors = len(layer.alpha)
    lambda_s = lambda_of_spikes(engine, layer, grad_spikes, grad_history, batch, steps)
    grad = Drive(engine.empty((batch, steps, size), dtype), engine.empty((batch, receptors, steps, size), dtype))
    values, components, synapses = _values(engine, layer)
    number = len(components[0])
    sums = zeros(engine, (7, batch, size), np.float64)
    component_sums = zeros(engine, (len(COMPONENT), batch, number, size), np.float64)
    synapse_sums = zeros(engine, (3, batch, receptors, size), np.float64)
    kept = engine.empty((length, number, batch, size), dtype)
    into = grad_carry.copy()
    smallest = dtype.type(tiny(dtype))
    threads = threads_of_sample(engine, size, batch, FAMILY, FAMILY) if layer.recurrent else 0
    dynamics = dynamics_of(
        engine, "linear_adjoint", dtype, batch, size, threads, number, rule.surrogate.kind,
        _above(layer), layer.stochastic,
    )  # fmt: skip
    apart = bool(receptors) and not threads
    filters = engine.launch("synapses_adjoint", dtype, units(batch * receptors * size)) if apart else None
    of_dynamics = (
        values, components, layer.refractory, *_listening(layer), np.int32(MODES[layer.mode]), traces.voltage,
        traces.spikes, starts.voltage, starts.components, starts.refractory, lambda_s, grad_voltage, into.voltage,
        into.components, grad.direct, sums, component_sums, kept, *kernel_scales(rule.surrogate, dtype),
        np.int32(rule.through_reset), np.int32(rule.through_adaptation),
    )  # fmt: skip
    of_synapses = (synapses, _bits(layer.alpha), traces.synapses, traces.rising, starts.synapses, starts.rising)
    into_synapses = (into.synapses, into.rising, grad.filtered, synapse_sums)
    span, connections = _span(layer, length), layer.recurrent if rule.through_recurrent else ()
    together = NOT_TOGETHER
    if threads:
        _, transposed, where = _recurrent(engine, layer)
        together = (transposed, where, np.int32(len(connections)), np.int32(span))
    for start, stop in reversed(launches(steps, span if layer.recurrent and not threads else None)):
        stretch = (np.int32(size), np.int32(steps), np.int32(start), np.int32(stop))
        for each in () if threads else connections:  # the recurrent term of (35)
            last = min(stop + each.delay, steps)
            if start + each.delay < last:
                later = receiving(grad, each.receptor)[:, start + each.delay : last]
                engine.add_product(later, each.weights, lambda_s[:, start : last - each.delay])
        dynamics(
            *of_dynamics, *together, *of_synapses, *into_synapses, np.int32(receptors), np.int64(batch * size),
            *stretch, np.int32(length), smallest,
        )  # fmt: skip
        if filters is not None:
            filters(
                *of_synapses, grad.direct, *into_synapses, np.int64(batch * receptors * size), np.int32(receptors),
                *stretch, smallest,
            )  # fmt: skip
    if layer.stochastic:  # through log rate + (U - theta) / width
        sums[5] = -sums[1] * layer.neuron.width / layer.neuron.rate
        sums[6] /= layer.neuron.width
    recurrent = tuple(
        recurrent_gradient(engine, traces.spikes, history_of(tape.history, each.delay), receiving(grad, each.receptor))
        for each in layer.recurrent
    )
    return AdjointResult(
        current=grad.direct,
        weights=input_weight_gradients(engine, layer, x, grad),
        recurrent=recurrent,
        sums=LinearParameters(*sums, *component_sums, *synapse_sums),
        carry=into,
        history=history_gradient(engine, layer, rule, grad, grad_history),
        filtered=grad.filtered,
    )


def _check(layer: LinearLayer) -> None:
    """Raise for more parts than kernels have flags for."""
    for what, number in (("components", len(layer.listens)), ("receptors with a time course", len(layer.alpha))):
        if number > MAX_PARTS:
            raise ArgumentError(
                f"backend 'cupy': expected at most {MAX_PARTS} {what}; found {number}; use backend='numba'"
            )


def _recurrent(engine: CupyBackend, layer: LinearLayer) -> tuple[Array, Array, Array]:
    """Weights of recurrent connections (connections, N, N), their transposes; of each its delay, target and slot."""
    order = _targets(layer)
    where = [(each.delay, each.receptor + 1, order.index(each.receptor + 1)) for each in layer.recurrent]

    def make() -> tuple[Array, Array, Array]:
        weights = [each.weights for each in layer.recurrent]
        both = (engine.asarray(engine.cupy.stack(each)) for each in (weights, [each.T for each in weights]))
        return *both, engine.asarray(np.array(where, np.int32))

    return engine.once(layer, "recurrent", make)


def _targets(layer: LinearLayer) -> list[int]:
    """The targets of currents, in the order of their slots: 0 is the direct current, r + 1 that of receptor r."""
    targets = {each.receptor + 1 for each in (*layer.inputs, *layer.recurrent)}
    return sorted(targets | (set() if layer.given is None else {layer.given + 1}))


def _draws(noise: Noise | None, size: int) -> tuple[Any, ...]:
    """Which random numbers a run draws; without noise they are not looked at."""
    noise = noise or Noise(0)
    return *map(np.uint32, (*noise.key, noise.place)), np.int64(noise.first * size)


def _span(layer: LinearLayer, length: int) -> int:
    """Steps of whole blocks, so many that no spike of theirs acts within them; 0 without recurrence."""
    if not layer.recurrent:
        return 0
    return min(each.delay for each in layer.recurrent) // length * length


def _currents(
    engine: CupyBackend, layer: LinearLayer, x: Input, batch: int, steps: int
) -> tuple[list[int], Array, tuple[Any, ...], bool]:
    """The bias and the input currents of (27): their targets, they, their pitches; whether a bias is missing."""
    size = layer.size
    if layer.given is not None and not layer.recurrent:  # x as it is
        columns = x.shape[2]
        pitches = (0, steps * columns, columns, int(columns == size))
        return [layer.given + 1], x, tuple(map(np.int64, pitches)), True
    order = _targets(layer)
    currents = zeros(engine, (len(order), batch, steps, size), layer.dtype)
    if 0 in order:
        currents[0] = layer.neuron.bias
    if layer.given is not None:
        currents[order.index(layer.given + 1)] += x
    for each in layer.inputs:
        engine.projection(shifted(x, layer.lead, each.delay), each.weights, currents[order.index(each.receptor + 1)])
    pitches = (batch * steps * size, steps * size, size, 1)
    return order, currents, tuple(map(np.int64, pitches)), False


def _values(engine: CupyBackend, layer: LinearLayer) -> tuple[Array, Array, Array]:
    """A layer's parameters as kernels read them: (7, N), (8, C, N) and (4, R, N)."""
    neuron, stack = layer.neuron, engine.cupy.stack

    def make() -> tuple[Array, Array, Array]:
        sigma = neuron.synapse_decay
        # the logarithm is the host's, so that the CPU's backends have the same bits
        kappa = engine.asarray(rise(engine.to_numpy(sigma))) if any(layer.alpha) else sigma
        steep, sharp = (engine.asarray(steepness(engine.to_numpy(each))) for each in (neuron.width, neuron.softness))
        return (
            stack([*(getattr(neuron, name) for name in MEMBRANE), steep]),
            stack([*(getattr(neuron, name) for name in COMPONENT), sharp]),
            stack([sigma, kappa, neuron.gain, neuron.gain_rising]),
        )

    return engine.once(layer, "family", make)


def _above(layer: LinearLayer) -> int:
    """linear.cu's ABOVE: whether components listen to U above a knot, and whether by a softplus."""
    return 2 if any(layer.listening(SOFTPLUS)) else int(any(layer.listening(ABOVE)))


def _listening(layer: LinearLayer) -> tuple[Any, Any, Any]:
    """Which components listen to V after the reset, which to U above a knot, and which of these by a softplus."""
    return tuple(_bits(layer.listening(*each)) for each in ((AFTER,), (ABOVE, SOFTPLUS), (SOFTPLUS,)))


def _bits(flags: tuple[bool, ...]) -> Any:
    """Flags as the bits of a number."""
    return _flags([place for place, flag in enumerate(flags) if flag])


def _flags(places: list[int]) -> Any:
    return np.int64(sum(1 << place for place in places))
