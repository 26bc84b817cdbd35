"""Forward kernels: a whole layer over a whole sequence in one parallel region, equations (1)-(6) of docs/model.md.

Owns the fused forward loop. Kernels check nothing and allocate nothing; `blocksim.backends.numba_cpu.backend` does.
Rows of time are flat: row = sample * steps + step. Work is split over samples and, without recurrence, over columns of
neurons; each item computes its neurons alone and in order, so results do not depend on the number of threads.

A block is computed in chunks of at most CHUNK steps whose currents stay in the first-level cache: fill them from the
input, add what recurrent spikes of D steps ago contribute, then run the dynamics with the state of `width` neurons in
registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compiling import helper, inlined, kernel
from .simd import (
    absolute,
    add,
    bits,
    both,
    equal,
    fill,
    greater,
    lanes_of,
    less,
    load,
    lowest_bit,
    mul,
    select,
    splat,
    store,
    sub,
)

CHUNK = 64
GIVEN, SHARED, EVENTS = 0, 1, 2


class Source(NamedTuple):
    """Where currents come from, the first and last term of (2)."""

    kind: int  # GIVEN, SHARED or EVENTS
    given: Any  # IN (B * T, N) currents without bias; (B * T, 1) if SHARED; empty if EVENTS
    indptr: Any  # IN (B * T + 1,) int64; empty unless EVENTS
    indices: Any  # IN (events,) int32
    weights: Any  # IN (K, N); empty unless EVENTS


class Neurons(NamedTuple):
    """IN: parameters, rows of (1, N) or stacked."""

    values: Any  # (5, N): beta, p, b, theta_0, bias
    refractory: Any  # (1, N) int32 steps
    recurrent: Any  # (N, N), row = from; empty without recurrence
    latency: int  # D steps; 0 without recurrence
    tiny: Any  # magnitude below which values are flushed


class CarryArrays(NamedTuple):
    """INOUT: what one block hands the next."""

    voltage: Any  # (B, N)
    adaptation: Any  # (B, N)
    refractory: Any  # (B, N) int32 steps
    free_voltage: Any  # (B, N), for gradient="paper", else empty
    free_refractory: Any  # (B, N) int32, likewise


class Recorded(NamedTuple):
    """OUT: results, each (B * T, N), empty where not kept."""

    spikes: Any  # bool
    voltage: Any
    threshold: Any
    free_voltage: Any
    keep_voltage: bool
    keep_threshold: bool


class Starts(NamedTuple):
    """OUT: the state at the start of each block, (blocks, B, N), empty without tape."""

    voltage: Any
    adaptation: Any
    refractory: Any  # int32
    keep: bool


@helper
def flush(x, tiny, zero):
    """Values too small to matter set to zero: silence never costs denormal arithmetic."""
    return select(less(absolute(x), tiny), zero, x)


# The formulas of a step stand here, for wide and narrow kernels, and for the adjoints, which walk forward too.


@inlined
def membrane_of(beta, v, live, current, zero):
    """(3), before what is too small is set to zero."""
    return add(mul(beta, v), select(live, current, zero))


@inlined
def threshold_of(theta, b, a):
    """(4)."""
    return add(theta, mul(b, a))


@inlined
def raised(a, spike, one, zero):
    """What a spike adds in (6)."""
    return add(a, select(spike, one, zero))


@inlined
def counted_down(left, live, none, step):
    """The refractory steps that are left, (1), after a step without a spike."""
    return select(live, none, sub(left, step))


@helper
def _fill(source, neurons, row, rows, begin, end, current, width):
    """current[: rows] OUT = bias + input, event by event in ascending order: (2) without recurrence."""
    lanes = lanes_of(width)
    for n in range(begin, end, lanes):
        valid = end - n
        bias = load(neurons.values, 4, n, valid, width)
        for t in range(rows):
            total = bias
            if source.kind == EVENTS:
                for event in range(source.indptr[row + t], source.indptr[row + t + 1]):
                    total = add(total, load(source.weights, source.indices[event], n, valid, width))
            elif source.kind == SHARED:
                total = add(total, splat(source.given[row + t, 0], width))
            else:
                total = add(total, load(source.given, row + t, n, valid, width))
            store(total, current, t, n, lanes)


@helper
def _add_recurrent(neurons, spikes, row, history, history_row, step, rows, current, width):
    """current[: rows] INOUT += S[t - D] R for t = step .., rows of R in ascending order: the middle term of (2)."""
    lanes = lanes_of(width)
    size = neurons.recurrent.shape[1]
    for t in range(rows):
        ago = step + t - neurons.latency
        for first in range(0, size, lanes):
            if ago < 0:
                fired = bits(load(history, history_row + ago, first, size - first, width))
            else:
                fired = bits(load(spikes, row + ago, first, size - first, width))
            while fired != np.uint64(0):
                source = first + lowest_bit(fired)
                fired &= fired - np.uint64(1)
                for n in range(0, size, lanes):
                    more = load(neurons.recurrent, source, n, size - n, width)
                    store(add(load(current, t, n, lanes, width), more), current, t, n, lanes)


@helper
def _dynamics(neurons, carry, sample, row, rows, begin, end, current, out, width):
    """One chunk of (1), (3)-(6): current IN (rows, N); carry INOUT; out OUT from `row` on."""
    lanes = lanes_of(width)
    for n in range(begin, end, lanes):
        valid = end - n
        beta = load(neurons.values, 0, n, valid, width)
        p = load(neurons.values, 1, n, valid, width)
        b = load(neurons.values, 2, n, valid, width)
        theta = load(neurons.values, 3, n, valid, width)
        period = load(neurons.refractory, 0, n, valid, width)
        v = load(carry.voltage, sample, n, valid, width)
        a = load(carry.adaptation, sample, n, valid, width)
        left = load(carry.refractory, sample, n, valid, width)
        tiny = fill(neurons.tiny, beta)
        zero = fill(0.0, beta)
        one = fill(1.0, beta)
        none = fill(0, left)
        step = fill(1, left)
        for t in range(rows):
            live = equal(left, none)  # (1)
            u = flush(membrane_of(beta, v, live, load(current, t, n, lanes, width), zero), tiny, zero)  # (3)
            threshold = threshold_of(theta, b, a)  # (4)
            spike = both(live, greater(u, threshold))  # (5)
            store(spike, out.spikes, row + t, n, valid)
            if out.keep_voltage:
                store(u, out.voltage, row + t, n, valid)
            if out.keep_threshold:
                store(threshold, out.threshold, row + t, n, valid)
            v = select(spike, zero, u)
            a = flush(raised(mul(p, a), spike, one, zero), tiny, zero)  # (6)
            left = select(spike, period, counted_down(left, live, none, step))
        store(v, carry.voltage, sample, n, valid)
        store(a, carry.adaptation, sample, n, valid)
        store(left, carry.refractory, sample, n, valid)


@helper
def _free_dynamics(neurons, carry, sample, row, rows, begin, end, current, out, width):
    """One chunk of (3) as if the block did not spike: the potential that gradient="paper" differentiates."""
    lanes = lanes_of(width)
    for n in range(begin, end, lanes):
        valid = end - n
        beta = load(neurons.values, 0, n, valid, width)
        u = load(carry.free_voltage, sample, n, valid, width)
        left = load(carry.free_refractory, sample, n, valid, width)
        tiny = fill(neurons.tiny, beta)
        zero = fill(0.0, beta)
        none = fill(0, left)
        step = fill(1, left)
        for t in range(rows):
            live = equal(left, none)
            u = flush(membrane_of(beta, u, live, load(current, t, n, lanes, width), zero), tiny, zero)
            store(u, out.free_voltage, row + t, n, valid)
            left = counted_down(left, live, none, step)
        store(u, carry.free_voltage, sample, n, valid)
        store(left, carry.free_refractory, sample, n, valid)


@helper
def _start_block(carry, starts, block, sample, begin, end):
    """Keep the state at the start of a block."""
    for n in range(begin, end):
        starts.voltage[block, sample, n] = carry.voltage[sample, n]
        starts.adaptation[block, sample, n] = carry.adaptation[sample, n]
        starts.refractory[block, sample, n] = carry.refractory[sample, n]


@helper
def _currents(source, neurons, history, out, sample, steps, step, rows, begin, end, current, width):
    """current[: rows] OUT: I of (2) for steps step .. of a sample."""
    _fill(source, neurons, sample * steps + step, rows, begin, end, current, width)
    if neurons.latency:
        _add_recurrent(
            neurons, out.spikes, sample * steps, history, (sample + 1) * neurons.latency, step, rows, current, width
        )


@kernel
def layer_forward(
    first_item, stop_item, slot, source, neurons, carry, history, out, starts, steps, block_length, columns, scratch,
    width,
):  # fmt: skip
    """Simulate a layer.

    history IN (B * D, N) bool, spikes of the D steps before the first; columns: neurons of one item of work, a multiple
    of the width unless it is all of them; scratch: (threads, CHUNK, N rounded up to the width).
    """
    size = carry.voltage.shape[1]
    parts = (size + columns - 1) // columns
    current = scratch[slot]
    for item in range(first_item, stop_item):
        sample = item // parts
        begin = item % parts * columns
        end = min(begin + columns, size)
        for block in range((steps + block_length - 1) // block_length):
            start = block * block_length
            stop = min(start + block_length, steps)
            if starts.keep:
                _start_block(carry, starts, block, sample, begin, end)
            for step in range(start, stop, CHUNK):
                rows = min(CHUNK, stop - step)
                _currents(source, neurons, history, out, sample, steps, step, rows, begin, end, current, width)
                _dynamics(neurons, carry, sample, sample * steps + step, rows, begin, end, current, out, width)


@kernel
def layer_forward_paper(
    first_item, stop_item, slot, source, neurons, carry, history, out, starts, steps, block_length, columns, scratch,
    width,
):  # fmt: skip
    """As `layer_forward`, and the potential of each block as if it did not spike: the tape of gradient="paper"."""
    size = carry.voltage.shape[1]
    parts = (size + columns - 1) // columns
    current = scratch[slot]
    for item in range(first_item, stop_item):
        sample = item // parts
        begin = item % parts * columns
        end = min(begin + columns, size)
        for block in range((steps + block_length - 1) // block_length):
            start = block * block_length
            stop = min(start + block_length, steps)
            _start_block(carry, starts, block, sample, begin, end)
            for n in range(begin, end):
                carry.free_voltage[sample, n] = carry.voltage[sample, n]
                carry.free_refractory[sample, n] = carry.refractory[sample, n]
            for step in range(start, stop, CHUNK):
                rows = min(CHUNK, stop - step)
                row = sample * steps + step
                _currents(source, neurons, history, out, sample, steps, step, rows, begin, end, current, width)
                _free_dynamics(neurons, carry, sample, row, rows, begin, end, current, out, width)
                _dynamics(neurons, carry, sample, row, rows, begin, end, current, out, width)


@kernel
def project(first_item, stop_item, slot, indptr, indices, weights, out, width):
    """out INOUT (rows, N) += weights[indices], event by event in ascending order: (2) for one kind of input."""
    lanes = lanes_of(width)
    size = out.shape[1]
    for row in range(first_item, stop_item):
        for n in range(0, size, lanes):
            total = load(out, row, n, size - n, width)
            for event in range(indptr[row], indptr[row + 1]):
                total = add(total, load(weights, indices[event], n, size - n, width))
            store(total, out, row, n, size - n)
