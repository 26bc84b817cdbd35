"""Kernels for layers of few neurons without recurrence: lanes are neurons of all samples, equations (1)-(12).

Owns the same recursions as `forward` and `adjoint`, arranged for a chain of many dependent steps of few values: a fit
of one neuron to a long recording waits, from step to step, for a multiplication and an addition, and for nothing else.
What seldom happens, a spike or a value to be flushed, is a branch. The formulas of a step are those of `forward`; the
adjoint arranges (8)-(10) so that each step waits for one multiplication and one addition. Arrays are flat; lane j of an
item of work finds its values at places[:, j]. Lanes beyond the last neuron repeat it: they write the same values to the
same places.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .adjoint import surrogate_slope
from .compiling import helper, kernel
from .forward import counted_down, membrane_of, raised, threshold_of
from .simd import (
    add,
    bits,
    both,
    clear_seldom,
    equal,
    fill,
    gather,
    greater,
    lanes_of,
    load,
    mul,
    multiply_add,
    scatter,
    select,
    store,
    sub,
    widen,
)

NEURON, UNIT, TRACE, SOURCE = range(4)


class Few(NamedTuple):
    """IN: where lanes find things, and the shape of time."""

    places: (
        Any  # (4, items * width) int64: neuron; sample * N + neuron; its step 0 in (B, T, N); its step 0 in the input
    )
    pitch: int  # from step to step in the input: N, or 1 where neurons share a current
    size: int  # N
    steps: int  # T
    block_length: int


class Flat(NamedTuple):
    """(B, N) or (B, T, N), flat; empty where not asked for."""

    voltage: Any
    adaptation: Any
    refractory: Any


@helper
def _forward(given, neurons, carry, out, starts, few, first, width):
    """OUT, INOUT as in `layer_forward`, for the lanes from `first` on."""
    lanes = lanes_of(width)
    neuron = load(few.places, NEURON, first, lanes, width)
    unit = load(few.places, UNIT, first, lanes, width)
    trace = load(few.places, TRACE, first, lanes, width)
    source = load(few.places, SOURCE, first, lanes, width)
    beta = gather(neurons.values[0], neuron, 0)
    p = gather(neurons.values[1], neuron, 0)
    b = gather(neurons.values[2], neuron, 0)
    theta = gather(neurons.values[3], neuron, 0)
    bias = gather(neurons.values[4], neuron, 0)
    period = gather(neurons.refractory[0], neuron, 0)
    v = gather(carry.voltage, unit, 0)
    a = gather(carry.adaptation, unit, 0)
    left = gather(carry.refractory, unit, 0)
    zero = fill(0.0, beta)
    one = fill(1.0, beta)
    none = fill(0, left)
    step = fill(1, left)
    for block in range((few.steps + few.block_length - 1) // few.block_length):
        if starts.keep:
            scatter(v, starts.voltage[block], unit, 0)
            scatter(a, starts.adaptation[block], unit, 0)
            scatter(left, starts.refractory[block], unit, 0)
        for t in range(block * few.block_length, min((block + 1) * few.block_length, few.steps)):
            live = equal(left, none)  # (1)
            current = add(bias, gather(given, source, t * few.pitch))  # (2)
            v = clear_seldom(membrane_of(beta, v, live, current, zero), neurons.tiny)  # (3)
            threshold = threshold_of(theta, b, a)  # (4)
            spike = both(live, greater(v, threshold))  # (5)
            if out.keep_voltage:
                scatter(v, out.voltage, trace, t * few.size)
            if out.keep_threshold:
                scatter(threshold, out.threshold, trace, t * few.size)
            a = mul(p, a)
            left = counted_down(left, live, none, step)
            if bits(spike) != np.uint64(0):
                scatter(spike, out.spikes, trace, t * few.size)
                v = select(spike, zero, v)
                a = raised(a, spike, one, zero)  # (6)
                left = select(spike, period, left)
            a = clear_seldom(a, neurons.tiny)
    scatter(v, carry.voltage, unit, 0)
    scatter(a, carry.adaptation, unit, 0)
    scatter(left, carry.refractory, unit, 0)


@kernel
def layer_forward(first_item, stop_item, slot, given, neurons, carry, out, starts, few, width):
    """Simulate a layer. given IN: currents without bias; carry INOUT; out OUT flat, its spikes INOUT of zeros."""
    for item in range(first_item, stop_item):
        _forward(given, neurons, carry, out, starts, few, item * lanes_of(width), width)


class Trace(NamedTuple):
    """IN: what the forward pass kept, (B, T, N) flat."""

    voltage: Any
    spikes: Any  # bool


class Walk(NamedTuple):
    """One block's values by step, side by side: what the pass back in time reads."""

    values: Any  # (L, 3 * width): V, a, sigma'(V - theta), zero where refractory
    marks: Any  # (L, 2 * width) bool: S, live


@helper
def _walk_forward(neurons, tape, starts, rule, few, block, neuron, unit, trace, walk, lowest, terms, width):
    """walk OUT: as `adjoint._walk_forward`."""
    lanes = lanes_of(width)
    begin = block * few.block_length
    p = gather(neurons.values[1], neuron, 0)
    b = gather(neurons.values[2], neuron, 0)
    theta = gather(neurons.values[3], neuron, 0)
    period = gather(neurons.refractory[0], neuron, 0)
    a = gather(starts.adaptation[block], unit, 0)
    left = gather(starts.refractory[block], unit, 0)
    zero = fill(0.0, b)
    one = fill(1.0, b)
    none = fill(0, left)
    step = fill(1, left)
    for t in range(min(few.block_length, few.steps - begin)):
        v = gather(tape.voltage, trace, (begin + t) * few.size)
        spike = gather(tape.spikes, trace, (begin + t) * few.size)
        live = equal(left, none)
        m = sub(v, threshold_of(theta, b, a))
        s = surrogate_slope(m, rule, lowest, terms)
        store(v, walk.values, t, 0, lanes)
        store(a, walk.values, t, lanes, lanes)
        store(select(live, s, zero), walk.values, t, 2 * lanes, lanes)
        store(spike, walk.marks, t, 0, lanes)
        store(live, walk.marks, t, lanes, lanes)
        a = mul(p, a)
        left = counted_down(left, live, none, step)
        if bits(spike) != np.uint64(0):
            a = raised(a, spike, one, zero)
            left = select(spike, period, left)
        a = clear_seldom(a, neurons.tiny)


@helper
def _adjoint(neurons, tape, starts, cotangents, rule, out, few, first, walk, lowest, terms, width):
    """OUT, INOUT as in `layer_adjoint`, for the lanes from `first` on.

    lambda_a and lambda_V are products of what is known beforehand with their next values, and one addition.
    """
    lanes = lanes_of(width)
    neuron = load(few.places, NEURON, first, lanes, width)
    unit = load(few.places, UNIT, first, lanes, width)
    trace = load(few.places, TRACE, first, lanes, width)
    beta = gather(neurons.values[0], neuron, 0)
    p = gather(neurons.values[1], neuron, 0)
    b = gather(neurons.values[2], neuron, 0)
    into_v = gather(out.voltage, unit, 0)
    into_a = gather(out.adaptation, unit, 0)
    zero = fill(0.0, beta)
    one = fill(1.0, beta)
    by_adaptation = one if rule.through_adaptation else zero
    by_reset = one if rule.through_reset else zero
    total_beta = widen(zero)
    total_p = widen(zero)
    total_b = widen(zero)
    total_theta = widen(zero)
    total_bias = widen(zero)
    blocks = (few.steps + few.block_length - 1) // few.block_length
    for back in range(blocks):
        block = blocks - 1 - back
        begin = block * few.block_length
        rows = min(few.block_length, few.steps - begin)
        _walk_forward(neurons, tape, starts, rule, few, block, neuron, unit, trace, walk, lowest, terms, width)
        sum_beta = zero
        sum_p = zero
        sum_b = zero
        sum_theta = zero
        sum_bias = zero
        for row_back in range(rows):
            t = rows - 1 - row_back
            place = (begin + t) * few.size
            v = load(walk.values, t, 0, lanes, width)
            a = load(walk.values, t, lanes, lanes, width)
            slope = load(walk.values, t, 2 * lanes, lanes, width)
            spike = load(walk.marks, t, 0, lanes, width)
            live = load(walk.marks, t, lanes, lanes, width)
            if t > 0:
                handed = select(
                    load(walk.marks, t - 1, 0, lanes, width), zero, load(walk.values, t - 1, 0, lanes, width)
                )
            else:
                handed = gather(starts.voltage[block], unit, 0)
            known = zero
            if cotangents.has_spikes:
                known = mul(slope, gather(cotangents.spikes, trace, place))
            of_a = mul(slope, by_adaptation)
            of_v = mul(mul(slope, v), by_reset)
            of_itself = sub(select(spike, zero, one), of_v)
            # (8) is delta = known + of_a lambda_a - of_v lambda_v, of which each line here takes its part
            partly = multiply_add(of_a, into_a, known)
            delta = sub(partly, mul(of_v, into_v))
            if cotangents.has_voltage:
                partly = add(partly, gather(cotangents.voltage, trace, place))
            lambda_v = clear_seldom(multiply_add(of_itself, into_v, partly), neurons.tiny)  # (9)
            current = select(live, lambda_v, zero)  # (11)
            scatter(current, out.current, trace, place)
            sum_bias = add(sum_bias, current)
            sum_beta = multiply_add(lambda_v, handed, sum_beta)  # (12)
            sum_p = multiply_add(into_a, a, sum_p)
            sum_b = multiply_add(delta, a, sum_b)
            sum_theta = add(sum_theta, delta)
            # (10), p lambda_a - b delta
            rest = multiply_add(mul(b, of_v), into_v, sub(zero, mul(b, known)))
            into_a = clear_seldom(multiply_add(sub(p, mul(b, of_a)), into_a, rest), neurons.tiny)
            into_v = clear_seldom(multiply_add(mul(beta, of_itself), into_v, mul(beta, partly)), neurons.tiny)
        total_beta = add(total_beta, widen(sum_beta))
        total_p = add(total_p, widen(sum_p))
        total_b = sub(total_b, widen(sum_b))
        total_theta = sub(total_theta, widen(sum_theta))
        total_bias = add(total_bias, widen(sum_bias))
    scatter(into_v, out.voltage, unit, 0)
    scatter(into_a, out.adaptation, unit, 0)
    scatter(total_beta, out.sums[0], unit, 0)
    scatter(total_p, out.sums[1], unit, 0)
    scatter(total_b, out.sums[2], unit, 0)
    scatter(total_theta, out.sums[3], unit, 0)
    scatter(total_bias, out.sums[4], unit, 0)


@kernel
def layer_adjoint(
    first_item, stop_item, slot, neurons, tape, starts, cotangents, rule, out, few, walk, lowest, terms, width
):
    """Differentiate a layer; arrays are flat. `walk`: scratch of (items, L, width)."""
    for item in range(first_item, stop_item):
        mine = Walk(walk.values[item], walk.marks[item])
        _adjoint(neurons, tape, starts, cotangents, rule, out, few, item * lanes_of(width), mine, lowest, terms, width)
