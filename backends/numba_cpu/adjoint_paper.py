"""Adjoint kernel of gradient="paper": a whole layer differentiated in one parallel region, equations (14)-(17).

Owns what that gradient has apart from the standard one of `adjoint`, so that nobody waits for its compilation who does
not ask for it.
"""

from __future__ import annotations

import numpy as np

from .adjoint import add_sums, gather_grad_spikes, into_history, prefetch_streams, surrogate_slope
from .compiling import helper, kernel
from .forward import counted_down, flush, raised, threshold_of
from .simd import add, both, either, equal, fill, lanes_of, load, mul, opposite, select, store, sub


@helper
def _walk_forward_paper(
    neurons, tape, cotangents, rule, out, block, sample, row, rows, begin, end, adaptation, free_adaptation, slope,
    live_steps, lowest, terms, width,
):  # fmt: skip
    """OUT (rows, N) each, of one block: a of (6); a, liveness and slope (15) as if the block did not spike."""
    lanes = lanes_of(width)
    for n in range(begin, end, lanes):
        valid = end - n
        p = load(neurons.values, 1, n, valid, width)
        b = load(neurons.values, 2, n, valid, width)
        theta = load(neurons.values, 3, n, valid, width)
        a = load(tape.start_adaptation[block], sample, n, valid, width)
        left = load(tape.start_refractory[block], sample, n, valid, width)
        free_a = a
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
            store(free_a, free_adaptation, t, n, lanes)
            m = sub(v, threshold_of(theta, b, free_a))
            store(surrogate_slope(m, rule, lowest, terms), slope, t, n, lanes)
            left = counted_down(left, live, none, step)
            free_a = flush(mul(p, free_a), tiny, zero)
            a = flush(raised(mul(p, a), spike, one, zero), tiny, zero)


@helper
def _walk_backward_paper(
    neurons, tape, cotangents, rule, out, block, sample, row, rows, begin, end, adaptation, free_adaptation, slope,
    live_steps, grad_spikes, width,
):  # fmt: skip
    """One whole block of (14)-(17), last step first; grad_spikes IN holds the block."""
    lanes = lanes_of(width)
    for n in range(begin, end, lanes):
        valid = end - n
        beta = load(neurons.values, 0, n, valid, width)
        p = load(neurons.values, 1, n, valid, width)
        b = load(neurons.values, 2, n, valid, width)
        after_block = load(out.voltage, sample, n, valid, width)
        into_a = load(out.adaptation, sample, n, valid, width)
        tiny = fill(neurons.tiny, b)
        zero = fill(0.0, b)
        sum_beta = zero
        sum_p = zero
        sum_b = zero
        sum_theta = zero
        sum_bias = zero
        # whether the block spiked, and from which step on it had: spikes are at most one a neuron
        spiked = load(tape.spikes, row, n, valid, width)
        for t in range(1, rows):
            spiked = either(spiked, load(tape.spikes, row + t, n, valid, width))
        u = load(tape.voltage, row + rows - 1, n, valid, width)
        reset = sub(zero, mul(u, after_block))
        into_u = select(spiked, zero, after_block)
        into_free_a = zero
        plain = zero
        ramp = zero
        after = spiked  # the block's spike lies before the step in hand
        for back in range(rows):
            t = rows - 1 - back
            spike = load(tape.spikes, row + t, n, valid, width)
            after = both(after, opposite(spike))
            a = load(adaptation, t, n, lanes, width)
            free_a = load(free_adaptation, t, n, lanes, width)
            live = load(live_steps, t, n, lanes, width)
            lambda_s = load(grad_spikes, t, n, lanes, width)
            if rule.through_adaptation:
                lambda_s = add(lambda_s, into_a)
            if rule.through_reset:
                lambda_s = add(lambda_s, reset)
            plain = add(plain, lambda_s)
            ramp = add(ramp, plain)  # (14)
            delta = mul(load(slope, t, n, lanes, width), ramp)  # (15)
            lambda_u = add(delta, into_u)  # (16)
            if cotangents.has_voltage:
                grad_v = load(cotangents.voltage, row + t, n, valid, width)
                lambda_u = add(lambda_u, select(after, zero, grad_v))
                reset = sub(reset, mul(u, grad_v))
            lambda_u = flush(lambda_u, tiny, zero)
            current = select(live, lambda_u, zero)
            store(current, out.current, row + t, n, valid)
            if t > 0:
                u = load(tape.voltage, row + t - 1, n, valid, width)
            else:
                u = load(tape.start_voltage[block], sample, n, valid, width)
            sum_bias = add(sum_bias, current)
            sum_beta = add(sum_beta, mul(lambda_u, u))
            sum_p = add(sum_p, add(mul(into_free_a, free_a), mul(into_a, a)))  # (17)
            sum_b = sub(sum_b, mul(delta, free_a))
            sum_theta = sub(sum_theta, delta)
            into_free_a = flush(sub(mul(p, into_free_a), mul(b, delta)), tiny, zero)
            into_a = flush(mul(p, into_a), tiny, zero)
            into_u = flush(mul(beta, lambda_u), tiny, zero)
        store(into_u, out.voltage, sample, n, valid)
        store(add(into_a, into_free_a), out.adaptation, sample, n, valid)
        add_sums(sum_beta, sum_p, sum_b, sum_theta, sum_bias, out.sums, sample, n, valid, width)


@kernel
def layer_adjoint_paper(
    first_item, stop_item, slot, neurons, tape, cotangents, rule, out, steps, block_length, columns, scratch, lowest,
    terms, width,
):  # fmt: skip
    """Differentiate a layer; arguments as of `adjoint.layer_adjoint`."""
    size = out.voltage.shape[1]
    parts = (size + columns - 1) // columns
    blocks = (steps + block_length - 1) // block_length
    adaptation = scratch.adaptation[slot]
    free_adaptation = scratch.free_adaptation[slot]
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
            _walk_forward_paper(
                neurons, tape, cotangents, rule, out, block, sample, row, length, begin, end, adaptation,
                free_adaptation, slope, live, lowest, terms, width,
            )  # fmt: skip
            gather_grad_spikes(
                neurons, cotangents, rule, out, sample, steps, start, length, slope, np.int64(0), False, begin, end,
                places, grad_spikes, width,
            )  # fmt: skip
            _walk_backward_paper(
                neurons, tape, cotangents, rule, out, block, sample, row, length, begin, end, adaptation,
                free_adaptation, slope, live, grad_spikes, width,
            )  # fmt: skip
        into_history(neurons, cotangents, rule, out, sample, steps, slope, begin, end, places, grad_spikes, width)
