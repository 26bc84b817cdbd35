"""Launches the kernels of whole layers: allocates what they write, chooses widths and how work is split.

Owns the choice between the kernels of `narrow`, for few neurons without recurrence, and those of `forward` and
`adjoint`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from blocksim._blocks import added, new_outputs, new_starts, result_of
from blocksim._events import Events
from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Carry,
    ForwardResult,
    Input,
    LayerArrays,
    Parameters,
    Plan,
    SpikeGradient,
    Tape,
)
from blocksim.backend import Backend
from blocksim.numerics import EXPONENTIAL, MAX_SPIKES, tiny
from blocksim.surrogates import kernel_scales

from . import adjoint, adjoint_paper, filters, forward, narrow, transposed_products
from .buffers import aligned, as_rows, empty, plain
from .simd import number_of_lanes, width_for
from .threads import number_of_threads

# Bytes of one vector of lanes: forward keeps eight of them in registers, the adjoint more; narrow ones for few neurons.
FORWARD_BYTES, ADJOINT_BYTES, NARROW_BYTES = 256, 128, 32
# Bytes of a vector in a product, of which six are in registers: two of the narrowest processors' registers each.
PRODUCT_BYTES = 64
# Neurons of up to so many bytes are few: lanes then are neurons of all samples.
FEW_BYTES = 64


class Prepared(NamedTuple):
    """A layer as kernels read it."""

    forward: forward.Neurons
    adjoint: adjoint.AdjointNeurons
    weights: np.ndarray


_PREPARED: WeakKeyDictionary[LayerArrays, Prepared] = WeakKeyDictionary()


@lru_cache
def nothing(dtype: Any, axes: int = 2) -> np.ndarray:
    """What stands for an array that a kernel does not read or write."""
    return np.zeros((1,) * axes, dtype)


def prepared(layer: LayerArrays) -> Prepared:
    """The layer's parameters, stacked and aligned: made once."""
    if layer not in _PREPARED:
        dtype = layer.dtype
        values = np.stack(layer.neuron.arrays())
        refractory = plain(layer.refractory[None])
        smallest = dtype.type(tiny(dtype))
        recurrent = transposed = weights = nothing(dtype)
        latency = 0
        if layer.recurrent is not None:
            recurrent, transposed = plain(aligned(layer.recurrent)), aligned(layer.recurrent.T)
            latency = layer.latency
        if layer.weights is not None:
            weights = plain(aligned(layer.weights))
        _PREPARED[layer] = Prepared(
            forward.Neurons(values, refractory, recurrent, latency, smallest),
            adjoint.AdjointNeurons(values, refractory, recurrent, plain(transposed), latency, smallest),
            weights,
        )
    return _PREPARED[layer]


def layer_forward(
    engine: Backend, layer: LayerArrays, x: Input, carry: Carry, history: np.ndarray, plan: Plan
) -> ForwardResult:
    """Simulate a layer."""
    batch, steps = x.shape[:2]
    paper = plan.tape and plan.paper
    outputs = new_outputs(engine, layer, batch, steps, plan)
    starts = new_starts(engine, carry, steps, plan)
    after = carry.copy()

    def rows(array: np.ndarray | None) -> np.ndarray:
        return as_rows(nothing(layer.dtype, 3) if array is None else array)

    out = forward.Recorded(
        as_rows(outputs.spikes),
        rows(outputs.voltage),
        rows(outputs.threshold),
        rows(outputs.free_voltage),
        outputs.voltage is not None,
        outputs.threshold is not None,
    )
    no_starts = carry.map(lambda array: nothing(array.dtype, 3))
    if are_few(layer) and not paper:
        _few_forward(layer, x, plan, after, out, starts or no_starts, history)
    else:
        _forward(layer, x, plan, after, out, starts or no_starts, history, paper)
    return result_of(outputs, after, starts, history, plan)


def are_few(layer: LayerArrays) -> bool:
    """Whether the kernels of `narrow` compute this layer."""
    return layer.recurrent is None and layer.neuron.beta.nbytes <= FEW_BYTES


def _forward(
    layer: LayerArrays, x: Input, plan: Plan, carry: Carry, out: forward.Recorded, starts: Carry, history: np.ndarray,
    paper: bool,
) -> None:  # fmt: skip
    batch, steps = x.shape[:2]
    size, dtype = layer.size, layer.dtype
    width = width_of(FORWARD_BYTES, layer.neuron.beta)
    shape = (batch, size) if paper else (1, 1)
    moved = forward.CarryArrays(
        **dict(carry.items()), free_voltage=empty(shape, dtype), free_refractory=empty(shape, np.int32)
    )
    rows = min(forward.CHUNK, plan.block_length)
    columns = columns_of_item(batch, size, width, history.shape[1])
    source, neurons = _source(x, layer)
    kernel = forward.layer_forward_paper if paper else forward.layer_forward
    kernel(
        batch * -(-size // columns), source, neurons, moved, plain(as_rows(history)), out,
        forward.Starts(**dict(starts.items()), keep=plan.tape),
        steps, plan.block_length, columns,
        empty((number_of_threads(), rows, round_up(size, number_of_lanes(width))), dtype), width,
    )  # fmt: skip


def _few_forward(
    layer: LayerArrays, x: Input, plan: Plan, carry: Carry, out: forward.Recorded, starts: Carry, history: np.ndarray
) -> None:
    batch, steps = x.shape[:2]
    size = layer.size
    width = _few_width(batch * size)
    neurons = prepared(layer).forward
    given: Any = x  # the currents, but for a layer with weights
    if layer.weights is not None:
        given, neurons = _projected(x, layer), _without_bias(neurons)
    out.spikes[...] = False
    where = _few(batch, steps, size, given.shape[2], plan.block_length, number_of_lanes(width))
    flat = narrow.Flat(*(array.reshape(-1) for array in carry.arrays()))
    narrow.layer_forward(
        where.places.shape[1] // number_of_lanes(width), plain(given).reshape(-1), neurons, flat,
        out._replace(**{name: getattr(out, name).reshape(-1) for name in forward.Recorded._fields[:4]}),
        _flat_starts(starts, plan.tape), where, width,
    )  # fmt: skip


def layer_adjoint(
    engine: Backend,
    layer: LayerArrays,
    tape: Tape,
    rule: AdjointRule,
    gradient: SpikeGradient,
    grad_voltage: np.ndarray | None,
    grad_carry: AdjointCarry,
    grad_history: np.ndarray,
) -> AdjointResult:
    """Differentiate a layer: everything but the weights."""
    dtype = layer.dtype
    batch, steps, size = tape.spikes.shape
    above = above_weights = above_transposed = nothing(dtype)
    current, weights = gradient.above_current, gradient.above_weights
    # where most of dLoss/dS is multiplied by a slope of zero, the kernel computes only what of the product it needs
    cut_short = rule.surrogate.bounded and not rule.paper and not are_few(layer)
    has_above = False
    if current is not None and weights is not None and cut_short:
        has_above = True
        above = plain(as_rows(current))
        above_weights, above_transposed = plain(aligned(weights)), plain(aligned(weights.T))
        gradient = replace(gradient, above_current=None, above_weights=None)
    grad_spikes = added(engine, gradient, batch, steps, layer)
    latency = tape.history.shape[1]
    few_of_them = are_few(layer) and not rule.paper
    out = adjoint.AdjointOutputs(
        voltage=grad_carry.voltage.copy(),
        adaptation=grad_carry.adaptation.copy(),
        current=empty((batch * steps, size), dtype),
        history=empty((batch * latency, size), dtype),
        sums=np.zeros((len(fields(Parameters)), batch, size), np.float64),
    )
    arrays = adjoint.TapeArrays(
        plain(as_rows(tape.voltage)),
        plain(as_rows(tape.spikes)),
        *map(plain, tape.starts.arrays()),
    )
    cotangents = adjoint.Cotangents(
        spikes=nothing(dtype) if grad_spikes is None else plain(as_rows(grad_spikes)),
        voltage=nothing(dtype) if grad_voltage is None else plain(as_rows(grad_voltage)),
        history=plain(as_rows(grad_history)),
        above=above,
        above_weights=above_weights,
        above_transposed=above_transposed,
        has_spikes=grad_spikes is not None,
        has_voltage=grad_voltage is not None,
        has_above=has_above,
    )
    kernel_rule = adjoint.Rule(
        rule.surrogate.kind,
        *kernel_scales(rule.surrogate, dtype),
        rule.through_reset,
        rule.through_recurrent and layer.recurrent is not None,
        rule.through_adaptation,
    )
    if few_of_them:
        _few_adjoint(layer, tape, arrays, cotangents, kernel_rule, out)
    else:
        _adjoint(layer, tape, arrays, cotangents, kernel_rule, out, rule.paper)
    return AdjointResult(
        current=out.current.reshape(batch, steps, size),
        weights=None,
        recurrent=None,
        sums=Parameters(*out.sums),
        carry=AdjointCarry(out.voltage, out.adaptation),
        history=out.history.reshape(batch, latency, size),
    )


def _adjoint(
    layer: LayerArrays,
    tape: Tape,
    arrays: adjoint.TapeArrays,
    cotangents: adjoint.Cotangents,
    rule: adjoint.Rule,
    out: adjoint.AdjointOutputs,
    paper: bool,
) -> None:
    dtype = layer.dtype
    batch, steps, size = tape.spikes.shape
    latency, length = tape.history.shape[1], tape.block_length
    width = width_of(ADJOINT_BYTES, layer.neuron.beta)
    padded = round_up(size, number_of_lanes(width))
    threads = number_of_threads()
    columns = columns_of_item(batch, size, width, latency or cotangents.has_above)
    at_once = max(length if paper else min(length, forward.CHUNK), min(latency, forward.CHUNK))
    scratch = adjoint.Scratch(
        adaptation=empty((threads, length, padded), dtype),
        free_adaptation=empty((threads, length, padded) if paper else (threads, 1, 1), dtype),
        slope=empty((threads, length, padded), dtype),
        live=empty((threads, length, padded), np.bool_),
        grad_spikes=empty((threads, at_once, padded), dtype),
        places=empty((threads, max(size, cotangents.above.shape[1]) + 1), np.int64),
    )
    kernel = adjoint_paper.layer_adjoint_paper if paper else adjoint.layer_adjoint
    kernel(
        batch * -(-size // columns), prepared(layer).adjoint, arrays, cotangents, rule, out, steps, length, columns,
        scratch, *series(dtype), width,
    )  # fmt: skip


def _few_adjoint(
    layer: LayerArrays,
    tape: Tape,
    arrays: adjoint.TapeArrays,
    cotangents: adjoint.Cotangents,
    rule: adjoint.Rule,
    out: adjoint.AdjointOutputs,
) -> None:
    dtype = layer.dtype
    batch, steps, size = tape.spikes.shape
    width = _few_width(batch * size)
    where = _few(batch, steps, size, size, tape.block_length, number_of_lanes(width))
    items, rows = where.places.shape[1] // number_of_lanes(width), min(tape.block_length, steps)
    lanes = number_of_lanes(width)
    walk = narrow.Walk(empty((items, rows, 3 * lanes), dtype), empty((items, rows, 2 * lanes), np.bool_))
    narrow.layer_adjoint(
        items, prepared(layer).adjoint, narrow.Trace(arrays.voltage.reshape(-1), arrays.spikes.reshape(-1)),
        _flat_starts(tape.starts, True),
        cotangents._replace(spikes=cotangents.spikes.reshape(-1), voltage=cotangents.voltage.reshape(-1)), rule,
        out._replace(
            voltage=out.voltage.reshape(-1), adaptation=out.adaptation.reshape(-1), current=out.current.reshape(-1),
            sums=out.sums.reshape(len(out.sums), -1),
        ),
        where, walk, *series(dtype), width,
    )  # fmt: skip


def series(dtype: np.dtype[Any]) -> tuple[Any, tuple[int, ...]]:
    """Where exp underflows, and the degree of its series, as the length of a tuple."""
    lowest, degree = EXPONENTIAL[dtype]
    return dtype.type(lowest), (0,) * degree


def _flat_starts(starts: Carry, keep: bool) -> forward.Starts:
    flat = starts.map(lambda array: plain(array).reshape(len(array), -1))
    return forward.Starts(**dict(flat.items()), keep=keep)


@lru_cache(8)
def _few(batch: int, steps: int, size: int, columns: int, block_length: int, lanes: int) -> narrow.Few:
    """Where lanes find things: lanes beyond the last neuron repeat it."""
    unit = np.minimum(np.arange(round_up(batch * size, lanes)), batch * size - 1)
    sample, neuron = np.divmod(unit, size)
    trace = sample * steps * size + neuron
    source = trace if columns == size else sample * steps
    return narrow.Few(np.stack([neuron, unit, trace, source]), columns, size, steps, block_length)


def _few_width(units: int) -> tuple[int, ...]:
    return width_for(4 if units <= 4 else 8)


def leaky_filter(x: np.ndarray, decay: float, reverse: bool) -> np.ndarray:
    """Filter x (B, T, N) over time, (18)."""
    batch, steps, size = x.shape
    dtype = x.dtype
    y = empty(x.shape, dtype)
    numbers = dtype.type(decay), dtype.type(tiny(dtype)), reverse
    if size * dtype.itemsize <= FEW_BYTES:
        width = _few_width(batch * size)
        where = _few(batch, steps, size, size, steps, number_of_lanes(width))
        filters.filter_few(
            where.places.shape[1] // number_of_lanes(width), plain(x).reshape(-1), y.reshape(-1), where, *numbers, width
        )
    else:
        width = width_of(ADJOINT_BYTES, x)
        tiles = -(-size // number_of_lanes(width))
        filters.filter_rows(batch * tiles, plain(as_rows(x)), as_rows(y), steps, *numbers, width)
    return y


def input_adjoint(grad_current: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """dLoss/dI (B, T, N) times the transpose of weights (K, N), (11): (B, T, K)."""
    batch, steps, _ = grad_current.shape
    out = empty((batch, steps, weights.shape[0]), grad_current.dtype)
    rows, transposed = plain(as_rows(grad_current)), aligned(weights.T)
    transposed_products.input_adjoint(
        -(-len(rows) // transposed_products.SPAN), rows, plain(transposed), as_rows(out), width_of(PRODUCT_BYTES, out)
    )
    return out


def train_distance(
    spikes: np.ndarray, target: np.ndarray, columns: np.ndarray, decay: float, first: int, stops: np.ndarray, keep: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Distance of spikes (B, T, N) from targets (B, T, C), the sums of (19), and z of (19) where it is kept."""
    batch, steps, size = spikes.shape
    dtype = target.dtype
    z = empty(spikes.shape, dtype) if keep else nothing(dtype, 3)
    before, after = empty((batch, size), np.float64), empty((batch, size), np.float64)
    width = width_of(ADJOINT_BYTES, np.broadcast_to(target[:1, :1, :1], (1, 1, size)))
    padded = np.zeros(round_up(size, number_of_lanes(width)), np.int64)
    padded[:size] = columns
    target = plain(np.ascontiguousarray(target))
    trains = filters.Trains(
        plain(as_rows(spikes)), as_rows(target), target.reshape(-1), padded, steps, first, plain(stops)
    )
    filters.train_distance(
        batch * (len(padded) // number_of_lanes(width)), trains, as_rows(z), keep, before, after, dtype.type(decay),
        dtype.type(tiny(dtype)), width,
    )  # fmt: skip
    return before, after, z if keep else None


def project(x: Input, weights: np.ndarray, out: np.ndarray) -> None:
    """out INOUT (B, T, N) += the rows of weights for each event, or their product with real-valued x: (2)."""
    weights = plain(aligned(weights))
    if isinstance(x, Events):
        width = width_of(FORWARD_BYTES, out)
        forward.project(x.shape[0] * x.shape[1], plain(x.indptr), plain(x.indices), weights, as_rows(out), width)
    else:
        values, width = plain(as_rows(x)), width_of(PRODUCT_BYTES, out)
        most = MAX_SPIKES * x.shape[2]
        transposed_products.project_values(
            -(-len(values) // transposed_products.SPAN), values, weights, most, as_rows(out), width
        )


def _projected(x: Input, layer: LayerArrays) -> np.ndarray:
    """Currents (B, T, N) of input through weights. The sum of (2) begins with the bias, so that is among them."""
    given = empty((*x.shape[:2], layer.size), layer.dtype)
    given[...] = layer.neuron.bias
    project(x, prepared(layer).weights, given)
    return given


def _without_bias(neurons: forward.Neurons) -> forward.Neurons:
    values = neurons.values.copy()
    values[4] = 0
    return neurons._replace(values=values)


def _source(x: Input, layer: LayerArrays) -> tuple[forward.Source, forward.Neurons]:
    """Events as they are, anything else as currents; and the neurons, without the bias where that is among these."""
    dtype, neurons = layer.dtype, prepared(layer).forward
    no_events = nothing(np.int64, 1), nothing(np.int32, 1)
    if isinstance(x, Events):
        source = forward.Source(
            forward.EVENTS, nothing(dtype), plain(x.indptr), plain(x.indices), prepared(layer).weights
        )
        return source, neurons
    if layer.weights is not None:
        x, neurons = _projected(x, layer), _without_bias(neurons)
    shared = x.shape[2] == 1 and layer.size > 1
    kind = forward.SHARED if shared else forward.GIVEN
    return forward.Source(kind, plain(as_rows(x)), *no_events, nothing(dtype)), neurons


def width_of(bytes_: int, array: np.ndarray) -> tuple[int, ...]:
    """The width for an array (..., N)."""
    few = NARROW_BYTES // array.dtype.itemsize
    return width_for(few if array.shape[-1] <= few else bytes_ // array.dtype.itemsize)


def columns_of_item(batch: int, size: int, width: tuple[int, ...], together: int) -> int:
    """Neurons in one item of work: all of a sample where they are computed together; otherwise, if there are too few
    samples to share among the threads, so many as fill the lanes."""
    if together or batch >= 4 * number_of_threads():
        return size
    return min(size, number_of_lanes(width))


def round_up(value: int, step: int) -> int:
    """The next multiple of a step."""
    return -(-value // step) * step
