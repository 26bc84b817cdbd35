"""Forward kernel of the linear family, equations (27)-(34): a whole layer in one parallel region.

Owns the fused forward loop over components, synapses and connections; `forward` is that of LIF and ALIF. Rows of time,
the split of work and the chunks are as there. A chunk's currents are gathered receptor by receptor, filtered by the
synapses into the one current of each neuron, and then the dynamics run with the state of `width` neurons in registers:
the components of a neuron are a stack, whose number of rows is known to the compiler.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compiling import inlined, kernel
from .escape import decayed, hazard_of, log_one_plus, renew
from .forward import CHUNK, counted_down, flush
from .simd import (
    add,
    add_rows,
    bits,
    both,
    clear_seldom,
    either,
    equal,
    fill,
    greater,
    lanes_of,
    less,
    load,
    load_rows,
    lowest_bit,
    mul,
    number_of_rows,
    opposite,
    repeat,
    select,
    splat,
    store,
    store_rows,
    sub,
)

BETA, THETA, BIAS, RESET_FACTOR, V_RESET, RATE, STEEPNESS = 0, 1, 2, 3, 4, 5, 6
DECAY, JUMP, FROM_VOLTAGE, TO_VOLTAGE, TO_THRESHOLD, KNOT, SOFTNESS, SHARPNESS = 0, 1, 2, 3, 4, 5, 6, 7
SIGMA, KAPPA, GAIN, GAIN_RISING = 0, 1, 2, 3
# Few lanes wait, from step to step, for one operation after the other. For so many a branch that is seldom taken is
# better than a selection: what follows does not wait for it.
FEW = 8
# where spikes come from, as the length of the tuple `noise`: (32), (39), or they are given
CROSSING, DRAWN, IMPOSED = 0, 1, 2


class LinearNeurons(NamedTuple):
    """IN: parameters; N rounded up to the width."""

    values: Any  # (7, N): beta, theta_0, bias, f, v_reset, and of (39) the rate and 1 / width
    components: Any  # (8 * C, N): the C rows of q, then those of d, k, g, h, the knots, softness and 1 / softness
    synapses: Any  # (4 * R, N): the R rows of sigma, then those of kappa, gain, rising gain
    after: Any  # (C, N) bool: components that listen to V after the reset
    above: Any  # (C, N) bool: those that listen to U above a knot
    soft: Any  # (C, N) bool: those of them that do so by a softplus
    alpha: Any  # (R,) bool
    refractory: Any  # (1, N) int32 steps
    hold: bool
    integrate: bool
    pulls: bool  # some k is not zero
    listens_after: bool  # some of those components listen to V after the reset
    rectifies: bool  # some to U above a knot
    softens: Any  # of a softplus among them the terms of `exponential`; else empty, and known to the compiler
    lowest: Any  # of `exponential`
    drives: bool  # some g
    raises: bool  # some h
    tiny: Any  # magnitude below which values are flushed


class Given(NamedTuple):
    """IN: currents of the inputs, (27)."""

    currents: Any  # (S * B * T, N), or (B * T, 1) for one current of all neurons
    place: Any  # (R + 1,) int64, which S: of the direct current, and of each receptor; -1 for none
    has_bias: bool  # the bias is in the direct one


class Recurrent(NamedTuple):
    """IN: recurrent connections in their order."""

    weights: Any  # (M, N, N), row = from
    transposed: Any  # (M, N, N), row = to
    delay: Any  # (M,) int64 steps
    target: Any  # (M,) int64: 0 for the direct current, receptor + 1
    latency: int  # the longest delay D; 0 without recurrence


class LinearCarryArrays(NamedTuple):
    """INOUT: what one block hands the next; with an axis of blocks before, OUT: what each was handed."""

    voltage: Any  # (B, N)
    components: Any  # (B * C, N)
    synapses: Any  # (B * R, N)
    rising: Any  # (B * R, N)
    refractory: Any  # (B, N) int32
    remaining: Any  # (B, N); without rows if spikes are not stochastic
    draws: Any  # (B, N) int32; likewise


class LinearRecorded(NamedTuple):
    """OUT: results; empty where not kept."""

    spikes: Any  # (B * T, N) bool
    voltage: Any  # (B * T, N)
    threshold: Any  # (B * T, N)
    synapses: Any  # (B * R * T, N)
    rising: Any  # (B * R * T, N)
    keep_voltage: bool
    keep_threshold: bool
    keep_tape: bool


@inlined
def _fill(neurons, given, row, total_rows, rows, begin, end, incoming, width):
    """incoming OUT: bias and inputs, (27), of the direct current and of each receptor."""
    lanes = lanes_of(width)
    shared = given.currents.shape[1] < end
    for target in range(len(given.place)):
        place = given.place[target]
        for n in range(begin, end, lanes):
            valid = end - n
            first = load(neurons.values, BIAS, n, lanes, width)
            if target > 0:
                first = fill(0.0, first)
            for t in range(rows):
                total = first
                if place >= 0:
                    if shared:
                        more = splat(given.currents[row + t, 0], width)
                    else:
                        more = load(given.currents, place * total_rows + row + t, n, valid, width)
                    total = more if target == 0 and given.has_bias else add(total, more)
                store(total, incoming, target * CHUNK + t, n, lanes)


@inlined
def _add_recurrent(recurrent, spikes, row, history, history_row, step, rows, size, incoming, width):
    """incoming INOUT += S[t - d] R for t = step .., connection by connection, rows of R in ascending order: (27)."""
    lanes = lanes_of(width)
    for each in range(len(recurrent.delay)):
        weights = recurrent.weights[each]
        to = recurrent.target[each] * CHUNK
        for t in range(rows):
            ago = step + t - recurrent.delay[each]
            for first in range(0, size, lanes):
                if ago < 0:
                    fired = bits(load(history, history_row + ago, first, size - first, width))
                else:
                    fired = bits(load(spikes, row + ago, first, size - first, width))
                while fired != np.uint64(0):
                    source = first + lowest_bit(fired)
                    fired &= fired - np.uint64(1)
                    for n in range(0, size, lanes):
                        more = load(weights, source, n, size - n, width)
                        total = add(load(incoming, to + t, n, lanes, width), more)
                        store(total, incoming, to + t, n, lanes)


class Constants(NamedTuple):
    """A vector of neurons' parameters in registers: lanes, and stacks of their components."""

    beta: Any
    theta: Any
    factor: Any
    reset: Any
    rate: Any
    steepness: Any
    period: Any
    decay: Any
    jump: Any
    pull: Any
    drive: Any
    rise: Any
    knot: Any
    softness: Any
    sharpness: Any
    after: Any
    above: Any
    soft: Any
    tiny: Any
    zero: Any


@inlined
def constants_of(neurons, n, first, number, rows, width):
    """Those of the neurons from n on; of their `number` components so many as `rows` stands for, from `first` on.

    What a caller does not use, the compiler does not load.
    """
    lanes = lanes_of(width)
    beta = load(neurons.values, BETA, n, lanes, width)
    return Constants(
        beta,
        load(neurons.values, THETA, n, lanes, width),
        load(neurons.values, RESET_FACTOR, n, lanes, width),
        load(neurons.values, V_RESET, n, lanes, width),
        load(neurons.values, RATE, n, lanes, width),
        load(neurons.values, STEEPNESS, n, lanes, width),
        load(neurons.refractory, 0, n, lanes, width),
        load_rows(neurons.components, DECAY * number + first, n, lanes, rows, width),
        load_rows(neurons.components, JUMP * number + first, n, lanes, rows, width),
        load_rows(neurons.components, FROM_VOLTAGE * number + first, n, lanes, rows, width),
        load_rows(neurons.components, TO_VOLTAGE * number + first, n, lanes, rows, width),
        load_rows(neurons.components, TO_THRESHOLD * number + first, n, lanes, rows, width),
        load_rows(neurons.components, KNOT * number + first, n, lanes, rows, width),
        load_rows(neurons.components, SOFTNESS * number + first, n, lanes, rows, width),
        load_rows(neurons.components, SHARPNESS * number + first, n, lanes, rows, width),
        load_rows(neurons.after, first, n, lanes, rows, width),
        load_rows(neurons.above, first, n, lanes, rows, width),
        load_rows(neurons.soft, first, n, lanes, rows, width),
        fill(neurons.tiny, beta),
        fill(0.0, beta),
    )


class SynapseConstants(NamedTuple):
    """A receptor's parameters in registers."""

    sigma: Any
    kappa: Any
    gain: Any
    rising: Any
    tiny: Any
    zero: Any


@inlined
def synapse_of(neurons, r, n, width):
    """Those of receptor r, of the neurons from n on."""
    lanes = lanes_of(width)
    receptors = len(neurons.alpha)
    sigma = load(neurons.synapses, SIGMA * receptors + r, n, lanes, width)
    return SynapseConstants(
        sigma,
        load(neurons.synapses, KAPPA * receptors + r, n, lanes, width),
        load(neurons.synapses, GAIN * receptors + r, n, lanes, width),
        load(neurons.synapses, GAIN_RISING * receptors + r, n, lanes, width),
        fill(neurons.tiny, sigma),
        fill(0.0, sigma),
    )


@inlined
def _filter(neurons, carry, out, sample, steps, step, rows, begin, end, incoming, width):
    """The synapses, (28), and their currents added to the direct one, (29)."""
    lanes = lanes_of(width)
    receptors = len(neurons.alpha)
    for r in range(receptors):
        of_state = sample * receptors + r
        of_trace = of_state * steps + step
        for n in range(begin, end, lanes):
            valid = end - n
            p = synapse_of(neurons, r, n, width)
            s = load(carry.synapses, of_state, n, valid, width)
            z = load(carry.rising, of_state, n, valid, width)
            for t in range(rows):
                i = load(incoming, (r + 1) * CHUNK + t, n, lanes, width)
                current = load(incoming, t, n, lanes, width)
                if neurons.alpha[r]:
                    s = flush(mul(p.sigma, add(s, mul(p.kappa, z))), p.tiny, p.zero)
                    z = flush(add(mul(p.sigma, z), i), p.tiny, p.zero)
                    current = add(add(current, mul(p.gain, s)), mul(p.rising, z))
                else:
                    s = flush(add(mul(p.sigma, s), i), p.tiny, p.zero)
                    current = add(current, mul(p.gain, s))
                store(current, incoming, t, n, lanes)
                if out.keep_tape:
                    store(s, out.synapses, of_trace + t, n, valid)
                    if neurons.alpha[r]:
                        store(z, out.rising, of_trace + t, n, valid)
            store(s, carry.synapses, of_state, n, valid)
            store(z, carry.rising, of_state, n, valid)


@inlined
def threshold_of(neurons, p, c):
    """(31)."""
    if neurons.raises:
        return add_rows(p.theta, mul(p.rise, c))
    return p.theta


@inlined
def heard_of(neurons, p, like, u, v):
    """What each component listens to: U, V after the reset, or a static function of U."""
    heard = repeat(u, like)
    if neurons.rectifies:
        over = sub(heard, p.knot)
        none = fill(0.0, p.knot)
        function = select(greater(over, none), over, none)
        if number_of_rows(neurons.softens):
            y = decayed(mul(over, p.sharpness), neurons.lowest, neurons.softens)
            more = mul(p.softness, log_one_plus(y, neurons.softens))
            function = select(p.soft, add(function, more), function)
        heard = select(p.above, function, heard)
    if neurons.listens_after:
        heard = select(p.after, repeat(v, like), heard)
    return heard


@inlined
def flushed(neurons, x, width):
    """`flush`, of lanes or a stack; of few lanes by a branch."""
    if lanes_of(width) <= FEW:
        return clear_seldom(x, neurons.tiny)
    return flush(x, fill(neurons.tiny, x), fill(0.0, x))


@inlined
def may_spike(spike, width):
    """Whether some lanes spike; of many lanes true, for selections cost them less than a branch."""
    return lanes_of(width) > FEW or bits(spike) != np.uint64(0)


@inlined
def after_spikes(p, u, left, live, spike, width):
    """V of (33), and the refractory steps that are left of (1)."""
    v = u
    left = counted_down(left, live, fill(0, left), fill(1, left))
    if may_spike(spike, width):
        v = select(spike, add(mul(p.factor, u), p.reset), u)
        left = select(spike, p.period, left)
    return v, left


@inlined
def next_components(neurons, p, c, u, v, spike, width):
    """(34)."""
    c = mul(p.decay, c)
    if may_spike(spike, width):
        c = select(spike, add(c, p.jump), c)
    if neurons.pulls:
        c = add(c, mul(p.pull, heard_of(neurons, p, c, u, v)))
    return flushed(neurons, c, width)


@inlined
def _dynamics(
    neurons, carry, out, draws, sample, row, rows, begin, end, current, lowest, terms, noise, components, width
):
    """One chunk of (29)-(34): current IN (rows, N); carry INOUT; out OUT from `row` on."""
    lanes = lanes_of(width)
    number = number_of_rows(components)
    for n in range(begin, end, lanes):
        valid = end - n
        p = constants_of(neurons, n, 0, number, components, width)
        v = load(carry.voltage, sample, n, valid, width)
        c = load_rows(carry.components, sample * number, n, valid, components, width)
        left = load(carry.refractory, sample, n, valid, width)
        remaining = p.zero
        if number_of_rows(noise) == DRAWN:
            remaining = load(carry.remaining, sample, n, valid, width)
        none = fill(0, left)
        integrate = equal(none, fill(0 if neurons.integrate else 1, left))
        hold = equal(none, fill(0 if neurons.hold else 1, left))
        for t in range(rows):
            live = equal(left, none)  # (1)
            j = load(current, t, n, lanes, width)
            if neurons.drives:
                j = add_rows(j, mul(p.drive, c))  # (29)
            u = add(mul(p.beta, v), select(either(live, integrate), j, p.zero))  # (30)
            u = select(both(hold, opposite(live)), v, flushed(neurons, u, width))
            threshold = threshold_of(neurons, p, c)  # (31)
            if number_of_rows(noise) == IMPOSED:
                spike = both(live, load(out.spikes, row + t, n, valid, width))
            elif number_of_rows(noise) == DRAWN:  # (39)
                hazard = hazard_of(sub(u, threshold), p.rate, p.steepness, lowest, terms)
                remaining = select(live, sub(remaining, hazard), remaining)
                spike = both(live, less(remaining, p.zero))
                fired = bits(spike)
                if fired != np.uint64(0):
                    store(remaining, carry.remaining, sample, n, valid)
                    renew(fired, draws, carry.remaining, carry.draws, sample, n, valid)
                    remaining = load(carry.remaining, sample, n, valid, width)
            else:
                spike = both(live, greater(u, threshold))  # (32)
            store(spike, out.spikes, row + t, n, valid)
            if out.keep_voltage:
                store(u, out.voltage, row + t, n, valid)
            if out.keep_threshold:
                store(threshold, out.threshold, row + t, n, valid)
            v, left = after_spikes(p, u, left, live, spike, width)
            c = next_components(neurons, p, c, u, v, spike, width)
        store(v, carry.voltage, sample, n, valid)
        store_rows(c, carry.components, sample * number, n, valid)
        store(left, carry.refractory, sample, n, valid)
        if number_of_rows(noise) == DRAWN:
            store(remaining, carry.remaining, sample, n, valid)


@inlined
def _copy(of, to, from_row, to_row, rows, begin, end):
    for each in range(rows):
        for n in range(begin, end):
            to[to_row + each, n] = of[from_row + each, n]


@kernel
def linear_forward(
    first_item, stop_item, slot, neurons, given, recurrent, carry, history, out, starts, draws, steps, block_length,
    columns, scratch, lowest, terms, noise, components, width,
):  # fmt: skip
    """Simulate a layer of the linear family; `noise` is a tuple as long as the kind of its spikes says.

    history IN (B * D, N) bool, spikes of the D steps before the first; columns: neurons of one item of work, a multiple
    of the width unless it is all of them; scratch: (threads, (R + 1) * CHUNK, N rounded up to the width).
    """
    batch, size = carry.voltage.shape
    number = number_of_rows(components)
    receptors = len(neurons.alpha)
    parts = (size + columns - 1) // columns
    incoming = scratch[slot]
    for item in range(first_item, stop_item):
        sample = item // parts
        begin = item % parts * columns
        end = min(begin + columns, size)
        for block in range((steps + block_length - 1) // block_length):
            start = block * block_length
            stop = min(start + block_length, steps)
            if out.keep_tape:
                now = block * batch + sample
                _copy(carry.voltage, starts.voltage, sample, now, 1, begin, end)
                _copy(carry.refractory, starts.refractory, sample, now, 1, begin, end)
                _copy(carry.components, starts.components, sample * number, now * number, number, begin, end)
                _copy(carry.synapses, starts.synapses, sample * receptors, now * receptors, receptors, begin, end)
                _copy(carry.rising, starts.rising, sample * receptors, now * receptors, receptors, begin, end)
            for step in range(start, stop, CHUNK):
                rows = min(CHUNK, stop - step)
                row = sample * steps + step
                _fill(neurons, given, row, batch * steps, rows, begin, end, incoming, width)
                if recurrent.latency:
                    _add_recurrent(
                        recurrent, out.spikes, sample * steps, history, (sample + 1) * recurrent.latency, step, rows,
                        size, incoming, width,
                    )  # fmt: skip
                _filter(neurons, carry, out, sample, steps, step, rows, begin, end, incoming, width)
                _dynamics(
                    neurons, carry, out, draws, sample, row, rows, begin, end, incoming, lowest, terms, noise,
                    components, width,
                )  # fmt: skip
