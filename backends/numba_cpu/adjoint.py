"""Adjoint kernels: a whole layer differentiated in one parallel region, equations (7)-(13) of docs/adjoint.md.

Owns the fused adjoint loop and the kernels' copies of the surrogates. Kernels check nothing and allocate nothing. Rows
of time are flat, row = sample * steps + step; work is split over samples and, without recurrence, over columns of
neurons, so results do not depend on the number of threads.

Last block first: walk the block forward once for what the tape does not hold (liveness, adaptation, the surrogate's
slope), add the recurrent term of (7), and dLoss/dx of the layer above, for the whole block as one product each
(`transposed_products`), then walk it backward with the adjoint state of `width` neurons in registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compiling import helper, inlined, kernel
from .escape import exponential
from .forward import CHUNK, counted_down, flush, raised, threshold_of
from .simd import (
    absolute,
    add,
    at_most,
    both,
    div,
    equal,
    fill,
    greater,
    lanes_of,
    less,
    load,
    mul,
    prefetch,
    select,
    store,
    sub,
    widen,
)
from .transposed_products import Connection, add_product


class AdjointNeurons(NamedTuple):
    """IN: parameters."""

    values: Any  # (4, N): beta, p, b, theta_0
    refractory: Any  # (1, N) int32 steps
    recurrent: Any  # (N, N), row = from; empty without recurrence
    transposed: Any  # (N, N), row = to; likewise
    latency: int  # D steps; 0 without recurrence
    tiny: Any


class TapeArrays(NamedTuple):
    """IN: what the forward pass kept."""

    voltage: Any  # (B * T, N): V, or the block's potential without reset for gradient="paper"
    spikes: Any  # (B * T, N) bool
    start_voltage: Any  # (blocks, B, N)
    start_adaptation: Any  # (blocks, B, N)
    start_refractory: Any  # (blocks, B, N) int32


class Cotangents(NamedTuple):
    """IN: gradients of the loss with respect to what the run returned; empty where zero."""

    spikes: Any  # (B * T, N)
    voltage: Any  # (B * T, N)
    history: Any  # (B * D, N), with respect to the spikes that the state after the run holds
    above: Any  # (B * T, M), dLoss/dI of the layer above, whose dLoss/dx is part of the first
    above_weights: Any  # (N, M), its input weights, row = from
    above_transposed: Any  # (M, N)
    has_spikes: bool
    has_voltage: bool
    has_above: bool


class Rule(NamedTuple):
    """Which gradient."""

    surrogate: int
    scale_0: Any  # numbers of the computing dtype, by kind: `blocksim.surrogates.kernel_scales`
    scale_1: Any
    scale_2: Any
    scale_3: Any
    scale_4: Any
    through_reset: bool
    through_recurrent: bool
    through_adaptation: bool


class AdjointOutputs(NamedTuple):
    """INOUT and OUT."""

    voltage: Any  # INOUT (B, N), dLoss/d(carry.voltage)
    adaptation: Any  # INOUT (B, N), dLoss/d(carry.adaptation)
    current: Any  # OUT (B * T, N), dLoss/dI
    history: Any  # OUT (B * D, N), dLoss/d(spikes before the run)
    sums: Any  # INOUT (5, B, N) float64: sums of (11), (12) for beta, p, b, theta_0, bias


class Scratch(NamedTuple):
    """Per thread; N rounded up to the width."""

    adaptation: Any  # (threads, L, N)
    free_adaptation: Any  # (threads, L, N), for gradient="paper", else empty
    slope: Any  # (threads, L, N)
    live: Any  # (threads, L, N) bool
    grad_spikes: Any  # (threads, CHUNK, N); for gradient="paper" a whole block
    places: Any  # (threads, most neurons of this layer and the one above + 1) int64


@inlined
def surrogate_slope(m, rule, lowest, terms):
    """sigma'(m): the formulas of blocksim.surrogates, by `Surrogate.kind`."""
    zero = fill(0.0, m)
    one = fill(1.0, m)
    first = fill(rule.scale_0, m)
    size = absolute(m)
    if rule.surrogate == 0:  # fast_sigmoid, superspike
        root = add(one, mul(first, size))
        return div(one, mul(root, root))
    if rule.surrogate == 1:  # box_car
        return select(both(greater(m, sub(zero, first)), at_most(m, first)), one, zero)
    if rule.surrogate == 2:  # multi_gaussian
        near, far = fill(rule.scale_1, m), fill(rule.scale_3, m)
        right, left = sub(m, fill(rule.scale_4, m)), add(m, fill(rule.scale_4, m))
        centre = mul(first, exponential(mul(near, mul(m, m)), lowest, terms))
        sides = add(
            exponential(mul(far, mul(right, right)), lowest, terms),
            exponential(mul(far, mul(left, left)), lowest, terms),
        )
        return sub(centre, mul(fill(rule.scale_2, m), sides))
    if rule.surrogate == 3:  # arctan
        root = mul(fill(rule.scale_1, m), m)
        return div(first, add(one, mul(root, root)))
    if rule.surrogate == 4:  # sigmoid
        e = exponential(sub(zero, mul(first, size)), lowest, terms)
        return div(mul(first, e), mul(add(one, e), add(one, e)))
    if rule.surrogate == 5:  # triangle
        return mul(first, select(less(size, one), sub(one, size), zero))
    return fill(np.nan, m)  # no kind of ours: no gradient, rather than another surrogate's


@helper
def prefetch_streams(tape, cotangents, out, row, n, width):
    """Ask for a row of all that a block reads or writes in the order of time."""
    prefetch(tape.voltage, row, n, width)
    prefetch(tape.spikes, row, n, width)
    prefetch(out.current, row, n, width)
    if cotangents.has_spikes:
        prefetch(cotangents.spikes, row, n, width)


@helper
def _walk_forward(
    neurons, tape, cotangents, rule, out, block, sample, row, rows, begin, end, adaptation, slope, live_steps, lowest,
    terms, width,
):  # fmt: skip
    """OUT (rows, N) each: a of (6), liveness (1), and sigma'(V - theta), zero where refractory, of one block.

    Backward access defeats the hardware prefetcher, so the preceding block, which is next, is prefetched here.
    """
    lanes = lanes_of(width)
    for n in range(begin, end, lanes):
        valid = end - n
        p = load(neurons.values, 1, n, valid, width)
        b = load(neurons.values, 2, n, valid, width)
        theta = load(neurons.values, 3, n, valid, width)
        period = load(neurons.refractory, 0, n, valid, width)
        a = load(tape.start_adaptation[block], sample, n, valid, width)
        left = load(tape.start_refractory[block], sample, n, valid, width)
        tiny = fill(neurons.tiny, b)
        zero = fill(0.0, b)
        one = fill(1.0, b)
        none = fill(0, left)
        step = fill(1, left)
        for t in range(rows):
            prefetch_streams(tape, cotangents, out, row + t - rows, n, width)
            spike = load(tape.spikes, row + t, n, valid, width)
            v = load(tape.voltage, row + t, n, valid, width)
            live = equal(left, none)
            store(live, live_steps, t, n, lanes)
            store(a, adaptation, t, n, lanes)
            m = sub(v, threshold_of(theta, b, a))
            s = surrogate_slope(m, rule, lowest, terms)
            store(select(live, s, zero), slope, t, n, lanes)
            left = select(spike, period, counted_down(left, live, none, step))
            a = flush(raised(mul(p, a), spike, one, zero), tiny, zero)


@helper
def gather_grad_spikes(
    neurons, cotangents, rule, out, sample, steps, step, rows, slope, offset, may_mask, begin, end, places, grad_spikes,
    width,
):  # fmt: skip
    """grad_spikes[: rows] OUT: lambda_S of (7) for steps step .. but for its last two terms.

    With `may_mask` only its product with slope[offset : offset + rows] matters, by (8). `step` may lie before the run
    (negative): then it is the gradient of the spikes that the run started from, and all of it matters.
    """
    lanes = lanes_of(width)
    latency = neurons.latency
    for t in range(rows):
        now = step + t
        held = now - (steps - latency)  # its place in the state after the run
        for n in range(begin, end, lanes):
            total = fill(0.0, load(neurons.values, 0, n, end - n, width))
            if cotangents.has_spikes and now >= 0:
                total = load(cotangents.spikes, sample * steps + now, n, end - n, width)
            if latency and held >= 0:
                total = add(total, load(cotangents.history, sample * latency + held, n, end - n, width))
            store(total, grad_spikes, t, n, lanes)
    masked = may_mask and step >= 0
    if cotangents.has_above and step >= 0:
        above = Connection(cotangents.above, cotangents.above_weights, cotangents.above_transposed)
        add_product(above, sample * steps + step, rows, slope, offset, masked, begin, end, places, grad_spikes, width)
    if latency and rule.through_recurrent and step + latency < steps:
        ahead = min(rows, steps - (step + latency))
        feedback = Connection(out.current, neurons.recurrent, neurons.transposed)
        row = sample * steps + step + latency
        add_product(feedback, row, ahead, slope, offset, masked, begin, end, places, grad_spikes, width)


@helper
def add_sums(beta, p, b, theta, bias, sums, sample, n, valid, width):
    """sums INOUT float64 += a chunk's sums, so that long runs in float32 lose nothing."""
    store(add(load(sums[0], sample, n, valid, width), widen(beta)), sums[0], sample, n, valid)
    store(add(load(sums[1], sample, n, valid, width), widen(p)), sums[1], sample, n, valid)
    store(add(load(sums[2], sample, n, valid, width), widen(b)), sums[2], sample, n, valid)
    store(add(load(sums[3], sample, n, valid, width), widen(theta)), sums[3], sample, n, valid)
    store(add(load(sums[4], sample, n, valid, width), widen(bias)), sums[4], sample, n, valid)


@helper
def _walk_backward(
    neurons, tape, cotangents, rule, out, block, sample, row, offset, rows, begin, end, adaptation, slope,
    live_steps, grad_spikes, width,
):  # fmt: skip
    """One chunk of (7)-(12), last step first; `offset` is its first step within the block."""
    lanes = lanes_of(width)
    for n in range(begin, end, lanes):
        valid = end - n
        beta = load(neurons.values, 0, n, valid, width)
        p = load(neurons.values, 1, n, valid, width)
        b = load(neurons.values, 2, n, valid, width)
        into_v = load(out.voltage, sample, n, valid, width)
        into_a = load(out.adaptation, sample, n, valid, width)
        tiny = fill(neurons.tiny, b)
        zero = fill(0.0, b)
        sum_beta = zero
        sum_p = zero
        sum_b = zero
        sum_theta = zero
        sum_bias = zero
        spike = load(tape.spikes, row + rows - 1, n, valid, width)
        v = load(tape.voltage, row + rows - 1, n, valid, width)
        for back in range(rows):
            t = rows - 1 - back
            if offset + t > 0:
                spike_before = load(tape.spikes, row + t - 1, n, valid, width)
                v_before = load(tape.voltage, row + t - 1, n, valid, width)
                handed = select(spike_before, zero, v_before)
            else:
                spike_before = spike
                v_before = v
                handed = load(tape.start_voltage[block], sample, n, valid, width)
            a = load(adaptation, offset + t, n, lanes, width)
            live = load(live_steps, offset + t, n, lanes, width)
            lambda_s = load(grad_spikes, t, n, lanes, width)  # (7)
            if rule.through_adaptation:
                lambda_s = add(lambda_s, into_a)
            if rule.through_reset:
                lambda_s = sub(lambda_s, mul(v, into_v))
            delta = mul(load(slope, offset + t, n, lanes, width), lambda_s)  # (8)
            lambda_v = add(delta, select(spike, zero, into_v))  # (9)
            if cotangents.has_voltage:
                lambda_v = add(lambda_v, load(cotangents.voltage, row + t, n, valid, width))
            lambda_v = flush(lambda_v, tiny, zero)
            current = select(live, lambda_v, zero)  # (11)
            store(current, out.current, row + t, n, valid)
            sum_bias = add(sum_bias, current)
            sum_beta = add(sum_beta, mul(lambda_v, handed))  # (12)
            sum_p = add(sum_p, mul(into_a, a))
            sum_b = sub(sum_b, mul(delta, a))
            sum_theta = sub(sum_theta, delta)
            into_a = flush(sub(mul(p, into_a), mul(b, delta)), tiny, zero)  # (10)
            into_v = flush(mul(beta, lambda_v), tiny, zero)
            spike = spike_before
            v = v_before
        store(into_v, out.voltage, sample, n, valid)
        store(into_a, out.adaptation, sample, n, valid)
        add_sums(sum_beta, sum_p, sum_b, sum_theta, sum_bias, out.sums, sample, n, valid, width)


@helper
def into_history(neurons, cotangents, rule, out, sample, steps, slope, begin, end, places, grad_spikes, width):
    """out.history OUT: the recurrent term of (7) for the D steps before the run, (13)."""
    for first in range(0, neurons.latency, CHUNK):
        rows = min(CHUNK, neurons.latency - first)
        # a literal would be a type of its own, for which Numba compiles all of it again
        gather_grad_spikes(
            neurons, cotangents, rule, out, sample, steps, first - neurons.latency, rows, slope, np.int64(0), True,
            begin, end, places, grad_spikes, width,
        )  # fmt: skip
        for t in range(rows):
            for n in range(begin, end):
                out.history[sample * neurons.latency + first + t, n] = grad_spikes[t, n]


@kernel
def layer_adjoint(
    first_item,
    stop_item,
    slot,
    neurons,
    tape,
    cotangents,
    rule,
    out,
    steps,
    block_length,
    columns,
    scratch,
    lowest,
    terms,
    width,
):
    """Differentiate a layer. `lowest`, `terms`: of `exponential`, for the dtype."""
    size = out.voltage.shape[1]
    parts = (size + columns - 1) // columns
    blocks = (steps + block_length - 1) // block_length
    adaptation = scratch.adaptation[slot]
    slope = scratch.slope[slot]
    live = scratch.live[slot]
    grad_spikes = scratch.grad_spikes[slot]
    places = scratch.places[slot]
    for item in range(first_item, stop_item):
        sample = item // parts
        begin = item % parts * columns
        end = min(begin + columns, size)
        for back in range(blocks):
            block = blocks - 1 - back
            start = block * block_length
            length = min(block_length, steps - start)
            row = sample * steps + start
            _walk_forward(
                neurons, tape, cotangents, rule, out, block, sample, row, length, begin, end, adaptation, slope, live,
                lowest, terms, width,
            )  # fmt: skip
            chunks = (length + CHUNK - 1) // CHUNK
            for chunk_back in range(chunks):
                offset = (chunks - 1 - chunk_back) * CHUNK
                rows = min(CHUNK, length - offset)
                gather_grad_spikes(
                    neurons, cotangents, rule, out, sample, steps, start + offset, rows, slope, offset, True, begin,
                    end, places, grad_spikes, width,
                )  # fmt: skip
                _walk_backward(
                    neurons, tape, cotangents, rule, out, block, sample, row + offset, offset, rows, begin, end,
                    adaptation, slope, live, grad_spikes, width,
                )  # fmt: skip
        into_history(neurons, cotangents, rule, out, sample, steps, slope, begin, end, places, grad_spikes, width)
