"""Adjoint kernel of the linear family, equations (35)-(38): a whole layer in one parallel region.

Owns the fused adjoint loop over components and synapses; `adjoint` is that of LIF and ALIF, and has the surrogates.
Last block first: walk the block forward for what the tape does not hold, add the recurrent terms of (35), walk it
backward with the adjoint state of `width` neurons in registers, and then through the synapses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from blocksim.numerics import LARGEST_EXPONENT
from blocksim.surrogates import Hazard

from .adjoint import surrogate_slope
from .compiling import inlined, kernel
from .escape import decayed, exponential, hazard_of, log_one_plus
from .forward import CHUNK, flush
from .linear_forward import (
    BETA,
    after_spikes,
    constants_of,
    flushed,
    heard_of,
    next_components,
    synapse_of,
    threshold_of,
)
from .simd import (
    absolute,
    add,
    add_products,
    add_rows,
    both,
    div,
    either,
    equal,
    fill,
    greater,
    lanes_of,
    less,
    load,
    load_rows,
    mul,
    multiply_add,
    number_of_rows,
    opposite,
    repeat,
    select,
    store,
    store_rows,
    sub,
    widen,
)
from .transposed_products import Connection, add_product

HAZARD = Hazard.kind


class LinearTapeArrays(NamedTuple):
    """IN: what the forward pass kept, and the state at the start of each block."""

    voltage: Any  # (B * T, N)
    spikes: Any  # (B * T, N) bool
    synapses: Any  # (B * R * T, N)
    rising: Any  # (B * R * T, N)
    start_voltage: Any  # (blocks * B, N)
    start_components: Any  # (blocks * B * C, N)
    start_synapses: Any  # (blocks * B * R, N)
    start_rising: Any  # (blocks * B * R, N)
    start_refractory: Any  # (blocks * B, N) int32
    start_remaining: Any  # not read
    start_draws: Any  # not read


class LinearCotangents(NamedTuple):
    """IN: gradients of the loss with respect to what the run returned; empty where zero."""

    spikes: Any  # (B * T, N)
    voltage: Any  # (B * T, N)
    history: Any  # (B * D, N), with respect to the spikes that the state after the run holds
    has_spikes: bool
    has_voltage: bool


class LinearAdjointArrays(NamedTuple):
    """INOUT and OUT."""

    voltage: Any  # INOUT (B, N), dLoss/d(carry.voltage)
    components: Any  # INOUT (B * C, N)
    synapses: Any  # INOUT (B * R, N)
    rising: Any  # INOUT (B * R, N)
    current: Any  # OUT (B * T, N), dLoss/dJ
    filtered: Any  # OUT (B * R * T, N), dLoss/di of each receptor
    sums: Any  # INOUT (6 * B, N) float64: of beta, theta_0, bias, f, v_reset, and delta U if spikes are stochastic
    component_sums: Any  # INOUT (7 * B * C, N) float64: of q, d, k, g, h, the knots and the softness
    synapse_sums: Any  # INOUT (3 * B * R, N) float64: of sigma, gain, rising gain


class LinearScratch(NamedTuple):
    """Per thread; N rounded up to the width."""

    components: Any  # (threads, L * C, N)
    slope: Any  # (threads, L, N)
    live: Any  # (threads, L, N) bool
    grad_spikes: Any  # (threads, CHUNK, N)
    into: Any  # (threads, CHUNK * C, lanes)
    places: Any  # (threads, N + 1) int64


@inlined
def _slope(m, p, rule, lowest, terms, noise):
    """sigma' of (8) at m = U - theta."""
    if number_of_rows(noise) and rule.surrogate == HAZARD:
        hazard = hazard_of(m, p.rate, p.steepness, lowest, terms)
        largest = fill(LARGEST_EXPONENT, hazard)  # beyond, its slope is zero to any precision
        size = select(less(hazard, largest), hazard, largest)
        return mul(mul(size, exponential(sub(p.zero, size), lowest, terms)), p.steepness)
    return surrogate_slope(m, rule, lowest, terms)


@inlined
def _walk_forward(
    neurons, tape, rule, now, row, rows, begin, end, kept, slope, live_steps, lowest, terms, noise, components, width
):
    """OUT: c of (34), liveness (1), and sigma'(U - theta), zero where refractory, of one block."""
    lanes = lanes_of(width)
    number = number_of_rows(components)
    for n in range(begin, end, lanes):
        valid = end - n
        p = constants_of(neurons, n, 0, number, components, width)
        c = load_rows(tape.start_components, now * number, n, valid, components, width)
        left = load(tape.start_refractory, now, n, valid, width)
        none = fill(0, left)
        for t in range(rows):
            spike = load(tape.spikes, row + t, n, valid, width)
            u = load(tape.voltage, row + t, n, valid, width)
            live = equal(left, none)
            store(live, live_steps, t, n, lanes)
            store_rows(c, kept, t * number, n, lanes)
            m = sub(u, threshold_of(neurons, p, c))
            store(select(live, _slope(m, p, rule, lowest, terms, noise), p.zero), slope, t, n, lanes)
            v, left = after_spikes(p, u, left, live, spike, width)
            c = next_components(neurons, p, c, u, v, spike, width)


@inlined
def _gather(
    neurons, recurrent, cotangents, rule, out, sample, steps, step, rows, slope, offset, begin, end, places,
    grad_spikes, width,
):  # fmt: skip
    """grad_spikes[: rows] OUT: the first two terms of (35) for steps step .., where the slope is not zero."""
    lanes = lanes_of(width)
    latency = recurrent.latency
    receptors = len(neurons.alpha)
    for t in range(rows):
        now = step + t
        held = now - (steps - latency)  # its place in the state after the run
        for n in range(begin, end, lanes):
            total = fill(0.0, load(neurons.values, BETA, n, lanes, width))
            if cotangents.has_spikes:
                total = load(cotangents.spikes, sample * steps + now, n, end - n, width)
            if latency and held >= 0:
                total = add(total, load(cotangents.history, sample * latency + held, n, end - n, width))
            store(total, grad_spikes, t, n, lanes)
    if rule.through_recurrent:
        for each in range(len(recurrent.delay)):
            later = step + recurrent.delay[each]
            if later < steps:
                target = recurrent.target[each]
                gradient, row = out.current, sample * steps + later
                if target > 0:
                    gradient, row = out.filtered, (sample * receptors + target - 1) * steps + later
                feedback = Connection(gradient, recurrent.weights[each], recurrent.transposed[each])
                ahead = min(rows, steps - later)
                add_product(feedback, row, ahead, slope, offset, True, begin, end, places, grad_spikes, width)


@inlined
def _slopes_of_softplus(neurons, p, over):
    """Of each component's softplus, the slopes in U and in its softness, at U - knot."""
    x = mul(over, p.sharpness)
    y = decayed(x, neurons.lowest, neurons.softens)
    one = fill(1.0, y)
    less_likely = div(y, add(one, y))
    in_u = select(greater(x, fill(0.0, x)), sub(one, less_likely), less_likely)
    size, farthest = absolute(x), fill(-neurons.lowest, x)  # farther away it is 0, and no number times 0
    size = select(less(size, farthest), size, farthest)
    return in_u, multiply_add(size, less_likely, log_one_plus(y, neurons.softens))


@inlined
def _add_sum(more, sums, row, n, valid, width):
    """sums INOUT float64 += a chunk's sum, so that long runs in float32 lose nothing."""
    store(add(load(sums, row, n, valid, width), widen(more)), sums, row, n, valid)


@inlined
def _add_sums(more, sums, row, n, valid, components, width):
    """The same for a stack."""
    store_rows(add(load_rows(sums, row, n, valid, components, width), widen(more)), sums, row, n, valid)


@inlined
def _through_function(neurons, p, u, pulled):
    """What a component pulls on U: `pulled`, times the slope of the static function that it hears."""
    none = fill(0.0, pulled)
    through = select(greater(repeat(u, pulled), p.knot), pulled, none)
    if number_of_rows(neurons.softens):
        in_u, _ = _slopes_of_softplus(neurons, p, sub(repeat(u, pulled), p.knot))
        through = select(p.soft, mul(pulled, in_u), through)
    return select(p.above, through, pulled)


@inlined
def _add_component_sums(
    neurons, tape, out, sample, batch, row, offset, rows, n, valid, kept, delta, into, each, number, width
):
    """out.component_sums INOUT: one chunk of a component's sums over time, last step first."""
    lanes = lanes_of(width)
    one = (0,)
    p = constants_of(neurons, n, each, number, one, width)
    none = fill(0.0, p.decay)
    sum_decay, sum_jump, sum_pull, sum_drive, sum_rise = none, none, none, none, none
    sum_knot, sum_softness = none, none
    for back in range(rows):
        t = rows - 1 - back
        c = load_rows(kept, (offset + t) * number + each, n, lanes, one, width)
        into_c = load_rows(into, t * number + each, 0, lanes, one, width)
        less_delta = repeat(sub(p.zero, load(delta, offset + t, n, lanes, width)), c)
        current = repeat(load(out.current, row + t, n, valid, width), c)
        spike = load(tape.spikes, row + t, n, valid, width)
        u = load(tape.voltage, row + t, n, valid, width)
        v = select(spike, multiply_add(p.factor, u, p.reset), u)
        sum_decay = multiply_add(into_c, c, sum_decay)
        # an addition that is then selected is one instruction; so is not one to which a selected zero is added
        sum_jump = select(spike, add(sum_jump, into_c), sum_jump)
        sum_pull = multiply_add(into_c, heard_of(neurons, p, c, u, v), sum_pull)
        sum_drive = multiply_add(c, current, sum_drive)
        sum_rise = multiply_add(c, less_delta, sum_rise)
        if neurons.pulls and neurons.rectifies:
            pulled = mul(p.pull, into_c)
            sum_knot = sub(sum_knot, select(p.above, _through_function(neurons, p, u, pulled), none))
            if number_of_rows(neurons.softens):
                _, in_softness = _slopes_of_softplus(neurons, p, sub(repeat(u, c), p.knot))
                sum_softness = add(sum_softness, select(p.soft, mul(pulled, in_softness), none))
    place = sample * number + each
    _add_sums(sum_decay, out.component_sums, 0 * batch * number + place, n, valid, one, width)
    _add_sums(sum_jump, out.component_sums, 1 * batch * number + place, n, valid, one, width)
    _add_sums(sum_pull, out.component_sums, 2 * batch * number + place, n, valid, one, width)
    _add_sums(sum_drive, out.component_sums, 3 * batch * number + place, n, valid, one, width)
    _add_sums(sum_rise, out.component_sums, 4 * batch * number + place, n, valid, one, width)
    if neurons.rectifies:
        _add_sums(sum_knot, out.component_sums, 5 * batch * number + place, n, valid, one, width)
    if number_of_rows(neurons.softens):
        _add_sums(sum_softness, out.component_sums, 6 * batch * number + place, n, valid, one, width)


@inlined
def _walk_backward(
    neurons, tape, cotangents, rule, out, now, sample, batch, row, offset, rows, begin, end, kept, slope, live_steps,
    grad_spikes, into, noise, components, width,
):  # fmt: skip
    """One chunk of (35)-(37), last step first; `offset` is its first step within the block.

    slope INOUT: sigma', then delta; into OUT: lambda_c of the step after, (rows * C, lanes). Sums over time of the
    components are for `_add_component_sums`: beside the state of this walk they would not find place in registers.
    """
    lanes = lanes_of(width)
    number = number_of_rows(components)
    for n in range(begin, end, lanes):
        valid = end - n
        p = constants_of(neurons, n, 0, number, components, width)
        into_v = load(out.voltage, sample, n, valid, width)
        into_c = load_rows(out.components, sample * number, n, valid, components, width)
        none = fill(0.0, p.decay)
        smallest = repeat(p.tiny, p.decay)
        lost = sub(p.factor, fill(1.0, p.beta))
        mask = load(live_steps, offset, n, lanes, width)
        never = both(mask, opposite(mask))
        integrate = opposite(never) if neurons.integrate else never
        hold = opposite(never) if neurons.hold else never
        sum_beta, sum_theta, sum_bias, sum_factor, sum_reset = p.zero, p.zero, p.zero, p.zero, p.zero
        sum_width = p.zero
        spike = load(tape.spikes, row + rows - 1, n, valid, width)
        u = load(tape.voltage, row + rows - 1, n, valid, width)
        for back in range(rows):
            t = rows - 1 - back
            if offset + t > 0:
                spike_before = load(tape.spikes, row + t - 1, n, valid, width)
                u_before = load(tape.voltage, row + t - 1, n, valid, width)
                handed = select(spike_before, add(mul(p.factor, u_before), p.reset), u_before)
            else:
                spike_before = spike
                u_before = u
                handed = load(tape.start_voltage, now, n, valid, width)
            store_rows(into_c, into, t * number, 0, lanes)
            live = load(live_steps, offset + t, n, lanes, width)
            open_ = either(live, integrate)
            held = both(hold, opposite(live))
            if neurons.listens_after:
                into_v = add_rows(into_v, select(p.after, mul(p.pull, into_c), none))
            lambda_s = load(grad_spikes, t, n, lanes, width)  # (35)
            if rule.through_adaptation:
                lambda_s = add_products(lambda_s, p.jump, into_c)
            if rule.through_reset:
                lambda_s = multiply_add(multiply_add(lost, u, p.reset), into_v, lambda_s)
            delta = mul(load(slope, offset + t, n, lanes, width), lambda_s)
            store(delta, slope, offset + t, n, lanes)
            lambda_u = delta  # (36)
            if cotangents.has_voltage:
                lambda_u = add(lambda_u, load(cotangents.voltage, row + t, n, valid, width))
            lambda_u = add(lambda_u, select(spike, mul(p.factor, into_v), into_v))
            if neurons.pulls:
                pulled = mul(p.pull, into_c)
                if neurons.rectifies:
                    pulled = _through_function(neurons, p, u, pulled)
                lambda_u = add_rows(lambda_u, select(p.after, none, pulled))
            lambda_u = flushed(neurons, lambda_u, width)
            current = select(open_, lambda_u, p.zero)
            store(current, out.current, row + t, n, valid)
            sum_bias = add(sum_bias, current)
            sum_beta = select(held, sum_beta, multiply_add(lambda_u, handed, sum_beta))
            sum_theta = sub(sum_theta, delta)
            if number_of_rows(noise):
                sum_width = multiply_add(delta, u, sum_width)
            # an addition that is then selected is one instruction; so is not one to which a selected zero is added
            sum_factor = select(spike, multiply_add(into_v, u, sum_factor), sum_factor)
            sum_reset = select(spike, add(sum_reset, into_v), sum_reset)
            into_c = mul(p.decay, into_c)  # (37)
            if neurons.raises:
                into_c = multiply_add(p.rise, repeat(sub(p.zero, delta), into_c), into_c)
            if neurons.drives:
                into_c = multiply_add(p.drive, repeat(current, into_c), into_c)
            into_v = select(held, lambda_u, flushed(neurons, mul(p.beta, lambda_u), width))
            spike = spike_before
            u = u_before
        store(into_v, out.voltage, sample, n, valid)
        # once a chunk is often enough: of a gradient only the speed of tiny numbers matters
        store_rows(flush(into_c, smallest, none), out.components, sample * number, n, valid)
        _add_sum(sum_beta, out.sums, 0 * batch + sample, n, valid, width)
        _add_sum(sum_theta, out.sums, 1 * batch + sample, n, valid, width)
        _add_sum(sum_bias, out.sums, 2 * batch + sample, n, valid, width)
        _add_sum(sum_factor, out.sums, 3 * batch + sample, n, valid, width)
        _add_sum(sum_reset, out.sums, 4 * batch + sample, n, valid, width)
        if number_of_rows(noise):
            _add_sum(sum_width, out.sums, 5 * batch + sample, n, valid, width)
        for each in range(number):
            _add_component_sums(
                neurons, tape, out, sample, batch, row, offset, rows, n, valid, kept, slope, into, each, number, width
            )


@inlined
def _through_synapses(neurons, tape, out, now, sample, batch, steps, start, rows, begin, end, width):
    """(38) for one block, last step first."""
    lanes = lanes_of(width)
    receptors = len(neurons.alpha)
    for r in range(receptors):
        of_state = sample * receptors + r
        of_trace = of_state * steps + start
        for n in range(begin, end, lanes):
            valid = end - n
            p = synapse_of(neurons, r, n, width)
            into_s = load(out.synapses, of_state, n, valid, width)
            into_z = load(out.rising, of_state, n, valid, width)
            euler = fill(np.e, p.sigma)
            sum_decay, sum_gain, sum_rising = p.zero, p.zero, p.zero
            for back in range(rows):
                t = rows - 1 - back
                current = load(out.current, sample * steps + start + t, n, valid, width)
                if t > 0:
                    s_before = load(tape.synapses, of_trace + t - 1, n, valid, width)
                else:
                    s_before = load(tape.start_synapses, now * receptors + r, n, valid, width)
                lambda_s = flush(add(into_s, mul(p.gain, current)), p.tiny, p.zero)
                sum_gain = add(sum_gain, mul(current, load(tape.synapses, of_trace + t, n, valid, width)))
                if neurons.alpha[r]:
                    if t > 0:
                        z_before = load(tape.rising, of_trace + t - 1, n, valid, width)
                    else:
                        z_before = load(tape.start_rising, now * receptors + r, n, valid, width)
                    lambda_z = flush(add(into_z, mul(p.rising, current)), p.tiny, p.zero)
                    sum_rising = add(sum_rising, mul(current, load(tape.rising, of_trace + t, n, valid, width)))
                    # d(sigma (s + kappa z))/d(sigma), with kappa's own slope -e / sigma
                    slope = add(s_before, mul(sub(p.kappa, euler), z_before))
                    sum_decay = add(sum_decay, add(mul(lambda_s, slope), mul(lambda_z, z_before)))
                    store(lambda_z, out.filtered, of_trace + t, n, valid)
                    into_z = flush(add(mul(p.sigma, lambda_z), mul(mul(p.sigma, p.kappa), lambda_s)), p.tiny, p.zero)
                else:
                    sum_decay = add(sum_decay, mul(lambda_s, s_before))
                    store(lambda_s, out.filtered, of_trace + t, n, valid)
                into_s = flush(mul(p.sigma, lambda_s), p.tiny, p.zero)
            store(into_s, out.synapses, of_state, n, valid)
            store(into_z, out.rising, of_state, n, valid)
            _add_sum(sum_decay, out.synapse_sums, (0 * batch + sample) * receptors + r, n, valid, width)
            _add_sum(sum_gain, out.synapse_sums, (1 * batch + sample) * receptors + r, n, valid, width)
            _add_sum(sum_rising, out.synapse_sums, (2 * batch + sample) * receptors + r, n, valid, width)


@kernel
def linear_adjoint(
    first_item, stop_item, slot, neurons, recurrent, tape, cotangents, rule, out, steps, block_length, columns, scratch,
    lowest, terms, noise, components, width,
):  # fmt: skip
    """Differentiate a layer of the linear family. `lowest`, `terms`: of `exponential`, for the dtype; `noise` as in the
    forward kernel."""
    batch, size = out.voltage.shape
    parts = (size + columns - 1) // columns
    blocks = (steps + block_length - 1) // block_length
    kept = scratch.components[slot]
    slope = scratch.slope[slot]
    live = scratch.live[slot]
    grad_spikes = scratch.grad_spikes[slot]
    into = scratch.into[slot]
    places = scratch.places[slot]
    for item in range(first_item, stop_item):
        sample = item // parts
        begin = item % parts * columns
        end = min(begin + columns, size)
        for back in range(blocks):
            block = blocks - 1 - back
            start = block * block_length
            length = min(block_length, steps - start)
            now = block * batch + sample
            row = sample * steps + start
            _walk_forward(
                neurons, tape, rule, now, row, length, begin, end, kept, slope, live, lowest, terms, noise, components,
                width,
            )  # fmt: skip
            chunks = (length + CHUNK - 1) // CHUNK
            for chunk in range(chunks):
                offset = (chunks - 1 - chunk) * CHUNK
                rows = min(CHUNK, length - offset)
                _gather(
                    neurons, recurrent, cotangents, rule, out, sample, steps, start + offset, rows, slope, offset,
                    begin, end, places, grad_spikes, width,
                )  # fmt: skip
                _walk_backward(
                    neurons, tape, cotangents, rule, out, now, sample, batch, row + offset, offset, rows, begin, end,
                    kept, slope, live, grad_spikes, into, noise, components, width,
                )  # fmt: skip
            _through_synapses(neurons, tape, out, now, sample, batch, steps, start, length, begin, end, width)
