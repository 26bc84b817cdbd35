"""Launches the kernels of the linear family: lays out what they read, and allocates what they write.

Owns the layout of parameters, the split of work and the widths; `launch` does the same for LIF and ALIF.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from blocksim._blocks import added, new_starts
from blocksim._linear import history_gradient, new_traces, result_of, shifted
from blocksim._neurons import COMPONENT, MEMBRANE
from blocksim.arrays import (
    ABOVE,
    AFTER,
    DIRECT,
    SOFTPLUS,
    AdjointResult,
    AdjointRule,
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
from blocksim.backend import Backend
from blocksim.numerics import rise, steepness, tiny
from blocksim.surrogates import kernel_scales

from . import adjoint, forward, linear_adjoint, linear_forward
from .buffers import aligned, as_rows, empty, plain
from .escape import Draws
from .folding import fold, fold_layer, fold_record, unfold, unfold_record
from .launch import FEW_BYTES, NARROW_BYTES, columns_of_item, nothing, round_up, series, width_of
from .simd import number_of_lanes
from .threads import number_of_threads

# Bytes of one vector of lanes: the more components, the fewer neurons at a time have their state in registers.
FORWARD_BYTES, ADJOINT_BYTES = (256, 128, 128, 128), (128, 64, 64, 64)


class Prepared(NamedTuple):
    """A layer as kernels read it."""

    neurons: dict[int, linear_forward.LinearNeurons]  # by the number of lanes
    recurrent: linear_forward.Recurrent


_PREPARED: WeakKeyDictionary[LinearLayer, Prepared] = WeakKeyDictionary()


def layer_forward(
    engine: Backend, layer: LinearLayer, x: Input, carry: LinearCarry, history: np.ndarray, plan: Plan
) -> ForwardResult:
    """Simulate a layer."""
    batch, steps = x.shape[0], x.shape[1] - layer.lead
    given = _given(engine, layer, x)
    if not _are_few(layer, batch):
        return _forward(engine, layer, given, (batch, steps), carry, history, plan, layer.size)
    folded, padded = _folded(engine, layer, batch)
    currents = given.currents.reshape(-1, batch, steps, given.currents.shape[1])
    currents = fold(np.broadcast_to(currents, (*currents.shape[:3], layer.size)), padded, 1).reshape(-1, padded)
    result = _forward(
        engine,
        folded,
        given._replace(currents=currents),
        (1, steps),
        fold_record(carry, padded),
        fold(history, padded),
        replace(plan, imposed=fold(plan.imposed, padded)),
        layer.size,
    )
    return ForwardResult(
        unfold(result.spikes, batch, layer.size),
        unfold(result.voltage, batch, layer.size),
        unfold(result.threshold, batch, layer.size),
        unfold_record(result.carry, batch, layer.size),
        result.tape,  # it stays folded
    )


def _are_few(layer: LinearLayer, batch: int) -> bool:
    """Whether neurons of several samples share lanes."""
    return batch > 1 and not layer.recurrent and layer.neuron.beta.nbytes <= FEW_BYTES


def _folded(engine: Backend, layer: LinearLayer, batch: int) -> tuple[LinearLayer, int]:
    """The layer of all samples' neurons, and their number rounded up to the lanes of few."""

    def make() -> tuple[LinearLayer, int]:
        neurons = batch * layer.size
        lanes = number_of_lanes(width_of(NARROW_BYTES, np.broadcast_to(layer.neuron.beta[:1], neurons)))
        padded = round_up(neurons, lanes)
        return fold_layer(layer, batch, padded), padded

    return engine.once(layer, ("folded", batch), make)


def _forward(
    engine: Backend,
    layer: LinearLayer,
    given: linear_forward.Given,
    shape: tuple[int, int],
    carry: LinearCarry,
    history: np.ndarray,
    plan: Plan,
    neurons: int,
) -> ForwardResult:
    """`neurons`: those of a sample, before samples were folded together."""
    (batch, steps), size = shape, layer.size
    traces = new_traces(engine, layer, batch, steps, plan)
    starts = new_starts(engine, carry.without_noise(), steps, plan)
    after = carry.copy()
    width = _width(layer, FORWARD_BYTES)
    lanes = number_of_lanes(width)
    recurrent = _prepared(layer).recurrent
    columns = columns_of_item(batch, size, width, recurrent.latency)
    out = linear_forward.LinearRecorded(
        **{name: _rows(array, layer.dtype) for name, array in traces.items()},
        keep_voltage=traces.voltage is not None,
        keep_threshold=traces.threshold is not None,
        keep_tape=plan.tape,
    )
    linear_forward.linear_forward(
        batch * -(-size // columns),
        _neurons(layer, lanes),
        given,
        recurrent,
        _carried(after),
        plain(as_rows(history)),
        out,
        _carried(after if starts is None else starts),
        Draws.of(plan.noise, neurons),
        steps,
        plan.block_length,
        columns,
        empty((number_of_threads(), (len(layer.alpha) + 1) * forward.CHUNK, round_up(size, lanes)), layer.dtype),
        *series(layer.dtype),
        (0,) * linear_forward.IMPOSED if layer.imposed else _noise(layer),
        _components(layer),
        width,
    )
    return result_of(traces, after, starts, history, plan)


def layer_adjoint(
    engine: Backend,
    layer: LinearLayer,
    tape: LinearTape,
    rule: AdjointRule,
    gradient: SpikeGradient,
    grad_voltage: np.ndarray | None,
    grad_carry: LinearAdjointCarry,
    grad_history: np.ndarray,
) -> AdjointResult:
    """Differentiate a layer: everything but the weights."""
    batch, steps = len(grad_carry.voltage), tape.traces.spikes.shape[1]
    of_spikes = added(engine, gradient, batch, steps, layer)
    if not _are_few(layer, batch):
        result = _adjoint(engine, layer, tape, rule, of_spikes, grad_voltage, grad_carry, grad_history)
        return replace(result, sums=_by_parameter(layer, *result.sums))
    folded, padded = _folded(engine, layer, batch)
    into = fold_record(grad_carry, padded)
    result = _adjoint(
        engine,
        folded,
        tape,
        rule,
        fold(of_spikes, padded),
        fold(grad_voltage, padded),
        into,
        fold(grad_history, padded),
    )
    return AdjointResult(
        unfold(result.current, batch, layer.size),
        None,
        None,
        _by_parameter(layer, *(unfold(each, batch, layer.size, 1) for each in result.sums)),
        unfold_record(result.carry, batch, layer.size),
        grad_history,
        unfold(result.filtered, batch, layer.size),
    )


def _by_parameter(
    layer: LinearLayer, of_neurons: np.ndarray, of_components: np.ndarray, of_synapses: np.ndarray
) -> LinearParameters:
    """The stacked sums of the kernel by the names of their parameters."""
    *own, with_u = of_neurons
    rate = width = np.zeros_like(with_u)
    if layer.stochastic:  # through log rate + (U - theta) / width, of which theta's own sums hold the most
        neuron, of_theta, of_rise = layer.neuron, of_neurons[1], of_components[4]
        rate = -of_theta * neuron.width / neuron.rate
        with_theta = -neuron.theta * of_theta - (neuron.to_threshold * of_rise).sum(axis=1)
        width = -(with_u - with_theta) / neuron.width
    return LinearParameters(*[*own, rate, width, *of_components, *of_synapses])


def _adjoint(
    engine: Backend,
    layer: LinearLayer,
    tape: LinearTape,
    rule: AdjointRule,
    of_spikes: np.ndarray | None,
    grad_voltage: np.ndarray | None,
    grad_carry: LinearAdjointCarry,
    grad_history: np.ndarray,
) -> AdjointResult:
    dtype, size = layer.dtype, layer.size
    batch, steps, _ = tape.traces.spikes.shape
    components, receptors = layer.neuron.decay.shape[0], len(layer.alpha)
    width = _width(layer, ADJOINT_BYTES)
    lanes, threads, length = number_of_lanes(width), number_of_threads(), tape.block_length
    recurrent = _prepared(layer).recurrent
    columns = columns_of_item(batch, size, width, recurrent.latency)
    into = grad_carry.copy()
    padded = round_up(size, lanes)
    grad = Drive(empty((batch, steps, size), dtype), empty((batch, receptors, steps, size), dtype))
    out = linear_adjoint.LinearAdjointArrays(
        **{name: _rows(array, dtype) for name, array in into.items()},
        current=_rows(grad.direct, dtype),
        filtered=_rows(grad.filtered, dtype),
        sums=np.zeros((6 * batch, size)),
        component_sums=np.zeros((len(COMPONENT) * batch * components, size)),
        synapse_sums=np.zeros((3 * batch * receptors, size)),
    )
    cotangents = linear_adjoint.LinearCotangents(
        _rows(of_spikes, dtype), _rows(grad_voltage, dtype), plain(as_rows(grad_history)), of_spikes is not None,
        grad_voltage is not None,
    )  # fmt: skip
    scratch = linear_adjoint.LinearScratch(
        components=empty((threads, length * components, padded), dtype),
        slope=empty((threads, length, padded), dtype),
        live=empty((threads, length, padded), np.bool_),
        grad_spikes=empty((threads, min(length, forward.CHUNK), padded), dtype),
        into=empty((threads, min(length, forward.CHUNK) * components, lanes), dtype),
        places=empty((threads, size + 1), np.int64),
    )
    traces = tape.traces
    linear_adjoint.linear_adjoint(
        batch * -(-size // columns),
        _neurons(layer, lanes),
        recurrent,
        linear_adjoint.LinearTapeArrays(
            **{name: _rows(getattr(traces, name), dtype) for name in ("voltage", "spikes", "synapses", "rising")},
            **{f"start_{name}": array for name, array in _carried(tape.starts)._asdict().items()},
        ),
        cotangents,
        adjoint.Rule(
            rule.surrogate.kind,
            *kernel_scales(rule.surrogate, dtype),
            rule.through_reset,
            rule.through_recurrent and bool(layer.recurrent),
            rule.through_adaptation,
        ),
        out,
        steps,
        length,
        columns,
        scratch,
        *series(dtype),
        _noise(layer),
        _components(layer),
        width,
    )
    before = history_gradient(engine, layer, rule, grad, grad_history)
    sums = (
        out.sums.reshape(6, batch, size),
        out.component_sums.reshape(len(COMPONENT), batch, components, size),
        out.synapse_sums.reshape(3, batch, receptors, size),
    )
    return AdjointResult(grad.direct, None, None, sums, into, before, grad.filtered)


def _prepared(layer: LinearLayer) -> Prepared:
    if layer not in _PREPARED:
        dtype = layer.dtype
        weights = transposed = np.zeros((1, 1, 1), dtype)
        if layer.recurrent:
            weights = aligned(np.stack([each.weights for each in layer.recurrent]))
            transposed = aligned(np.stack([each.weights.T for each in layer.recurrent]))
        _PREPARED[layer] = Prepared(
            {},
            linear_forward.Recurrent(
                weights,
                transposed,
                np.array([each.delay for each in layer.recurrent], np.int64),
                np.array([_target(each.receptor) for each in layer.recurrent], np.int64),
                layer.latency,
            ),
        )
    return _PREPARED[layer]


def _target(receptor: int) -> int:
    """The place of a receptor's currents: the direct one's is the first."""
    return 0 if receptor == DIRECT else receptor + 1


def _neurons(layer: LinearLayer, lanes: int) -> linear_forward.LinearNeurons:
    """The layer's parameters, made once for each number of lanes."""
    made = _prepared(layer).neurons
    if lanes not in made:
        neuron, dtype = layer.neuron, layer.dtype
        padded = round_up(layer.size, lanes)

        def rows(*arrays: np.ndarray) -> np.ndarray:
            stacked = np.concatenate([np.atleast_2d(array) for array in arrays])
            wide = empty((len(stacked), padded), stacked.dtype)
            wide[:, : layer.size] = stacked
            wide[:, layer.size :] = 0
            return wide

        def flags(*to: str) -> np.ndarray:
            return np.broadcast_to(np.array(layer.listening(*to), bool)[:, None], neuron.decay.shape)

        lowest, terms = series(dtype)

        made[lanes] = linear_forward.LinearNeurons(
            values=rows(*(getattr(neuron, name) for name in MEMBRANE), steepness(neuron.width)),
            components=rows(*(getattr(neuron, name) for name in COMPONENT), steepness(neuron.softness)),
            synapses=rows(neuron.synapse_decay, rise(neuron.synapse_decay), neuron.gain, neuron.gain_rising),
            after=rows(flags(AFTER)),
            above=rows(flags(ABOVE, SOFTPLUS)),
            soft=rows(flags(SOFTPLUS)),
            alpha=np.array(layer.alpha, bool),
            refractory=rows(layer.refractory),
            hold=layer.mode == "hold",
            integrate=layer.mode == "integrate",
            pulls=bool(neuron.from_voltage.any()),
            listens_after=any(layer.listening(AFTER)),
            rectifies=any(layer.listening(ABOVE, SOFTPLUS)),
            softens=terms if any(layer.listening(SOFTPLUS)) else (),
            lowest=lowest,
            drives=bool(neuron.to_voltage.any()),
            raises=bool(neuron.to_threshold.any()),
            tiny=dtype.type(tiny(dtype)),
        )
    return made[lanes]


def _given(engine: Backend, layer: LinearLayer, x: Input) -> linear_forward.Given:
    """The currents of the inputs, receptor by receptor; projected where they come through weights."""
    place = np.full(len(layer.alpha) + 1, -1, np.int64)
    if layer.given is not None:
        place[_target(layer.given)] = 0
        return linear_forward.Given(plain(as_rows(np.asarray(x))), place, False)
    targets = sorted({_target(each.receptor) for each in layer.inputs})
    currents = empty((len(targets), x.shape[0], x.shape[1] - layer.lead, layer.size), layer.dtype)
    for number, target in enumerate(targets):
        place[target] = number
        currents[number] = layer.neuron.bias if target == 0 else 0
        for each in layer.inputs:
            if _target(each.receptor) == target:
                engine.projection(shifted(x, layer.lead, each.delay), each.weights, currents[number])
    return linear_forward.Given(currents.reshape(-1, layer.size), place, place[0] >= 0)


def _carried(carry: LinearCarry) -> linear_forward.LinearCarryArrays:
    """The arrays of a carry, or of the starts of blocks, as rows of neurons."""
    return linear_forward.LinearCarryArrays(*(plain(array).reshape(-1, array.shape[-1]) for array in carry.arrays()))


def _rows(array: np.ndarray | None, dtype: Any) -> np.ndarray:
    """An array (..., N) as rows of neurons; what stands for one that is not there."""
    return nothing(dtype) if array is None else plain(array).reshape(-1, array.shape[-1])


def _components(layer: LinearLayer) -> tuple[int, ...]:
    """The number of components, as the length of a tuple."""
    return (0,) * int(layer.neuron.decay.shape[0])


def _noise(layer: LinearLayer) -> tuple[int, ...]:
    """Whether spikes are stochastic, as the length of a tuple."""
    return (0,) * int(layer.stochastic)


def _width(layer: LinearLayer, bytes_: tuple[int, ...]) -> tuple[int, ...]:
    number = len(_components(layer))
    return width_of(bytes_[min(number, len(bytes_) - 1)], layer.neuron.beta)
