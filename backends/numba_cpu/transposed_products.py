"""Products of rows and weights: real-valued input (2), the recurrent term of (7), and dLoss/dx of (11).

Owns how they are computed: whole, or, where that is less work, only where the result matters. By (8) nothing becomes
of lambda_S but its product with the surrogate's slope; where that is zero, as it is for a surrogate of bounded width at
most neurons and steps, lambda_S need not be known (an observation of Perez-Nieves and Goodman 2021).

The order of the sum (2) is part of the model, so its products are rounded before they are added. Rounding is no part of
any promise in the adjoint, where multiply and add may be one operation.

A BLAS library computes whole products as fast, but its threads spin for a while after each, and hold the processors
that the next kernel needs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compiling import helper, inlined, kernel
from .simd import (
    add,
    bits,
    count_bits,
    equal,
    fill,
    lanes_of,
    load,
    lowest_bit,
    mul,
    multiply_add,
    opposite,
    splat,
    store,
    total,
)

ROWS = 4  # rows of time that share a load of weights, and neurons that share a load of a row
SPAN = 96  # rows of an item of work: a tile of the weights is read from the first-level cache by all of them
# How many times as long a number of the result takes where only some are computed: measured, 2.5 where 14 % were, and
# 3.5 where 6 % were (two layers of 256, float32).
COST = 3


class Connection(NamedTuple):
    """IN: gradients of currents, and the weights by which spikes of N neurons drive them; empty if there are none."""

    gradient: Any  # (rows, M), dLoss/dI
    weights: Any  # (N, M), row = from
    transposed: Any  # (M, N), row = to


@helper
def _needed(slope, t, n, end, width):
    """Bits of the lanes n .. end - 1 whose slope is not zero."""
    values = load(slope, t, n, lanes_of(width), width)
    word = bits(opposite(equal(values, fill(0.0, values))))
    if end - n < lanes_of(width):
        word &= (np.uint64(1) << np.uint64(end - n)) - np.uint64(1)
    return word


@helper
def _is_seldom_needed(slope, offset, rows, begin, end, width):
    count = 0
    for t in range(offset, offset + rows):
        for n in range(begin, end, lanes_of(width)):
            count += count_bits(_needed(slope, t, n, end, width))
    return COST * count < rows * (end - begin)


@helper
def _add_needed(connection, row, rows, slope, offset, begin, end, places, grad_spikes, width):
    """As `add_product`, at places whose slope is not zero; what stands at others is not used."""
    lanes = lanes_of(width)
    weights, gradient = connection.weights, connection.gradient
    size = weights.shape[1]
    for t in range(rows):
        count = 0
        for n in range(begin, end, lanes):
            word = _needed(slope, offset + t, n, end, width)
            while word != 0:
                places[count] = n + lowest_bit(word)
                word &= word - np.uint64(1)
                count += 1
        for first in range(0, count, ROWS):
            last = count - 1 - first
            n0 = places[first]
            n1, n2, n3 = places[first + min(1, last)], places[first + min(2, last)], places[first + min(3, last)]
            a = splat(gradient.dtype.type(0), width)
            b, c, d = a, a, a
            for m in range(0, size, lanes):
                g = load(gradient, row + t, m, size - m, width)
                a = multiply_add(load(weights, n0, m, size - m, width), g, a)
                b = multiply_add(load(weights, n1, m, size - m, width), g, b)
                c = multiply_add(load(weights, n2, m, size - m, width), g, c)
                d = multiply_add(load(weights, n3, m, size - m, width), g, d)
            grad_spikes[t, n0] += total(a)
            if last >= 1:
                grad_spikes[t, n1] += total(b)
            if last >= 2:
                grad_spikes[t, n2] += total(c)
            if last >= 3:
                grad_spikes[t, n3] += total(d)


@helper
def _list_sources(gradient, r0, r1, r2, r3, sources):
    """sources OUT: the neurons with a dLoss/dI in any of ROWS rows; returns their number.

    Half of all neurons may be refractory: written always and counted without a branch, there is nothing to mispredict.
    """
    count = 0
    for j in range(gradient.shape[1]):
        sources[count] = j
        some = (gradient[r0, j] != 0) | (gradient[r1, j] != 0)
        more = (gradient[r2, j] != 0) | (gradient[r3, j] != 0)
        count += np.int64(some | more)
    return count


@helper
def _add_whole(connection, row, rows, begin, end, sources, grad_spikes, width):
    """As `add_product`, everywhere.

    ROWS rows of time share each load of the weights, and a neuron that is refractory in all of them (its dLoss/dI is
    zero) is passed over. Rows beyond the last are that one again, and are not stored.
    """
    lanes = lanes_of(width)
    gradient, transposed = connection.gradient, connection.transposed
    last = rows - 1
    whole = last if rows % ROWS == 1 else rows
    for t in range(0, whole, ROWS):
        t1, t2, t3 = min(t + 1, last), min(t + 2, last), min(t + 3, last)
        r0, r1, r2, r3 = row + t, row + t1, row + t2, row + t3
        count = _list_sources(gradient, r0, r1, r2, r3, sources)
        for n in range(begin, end, lanes):
            s0 = load(grad_spikes, t, n, lanes, width)
            s1 = load(grad_spikes, t1, n, lanes, width)
            s2 = load(grad_spikes, t2, n, lanes, width)
            s3 = load(grad_spikes, t3, n, lanes, width)
            for source in range(count):
                j = sources[source]
                r = load(transposed, j, n, end - n, width)
                s0 = multiply_add(splat(gradient[r0, j], width), r, s0)
                s1 = multiply_add(splat(gradient[r1, j], width), r, s1)
                s2 = multiply_add(splat(gradient[r2, j], width), r, s2)
                s3 = multiply_add(splat(gradient[r3, j], width), r, s3)
            store(s0, grad_spikes, t, n, lanes)
            store(s1, grad_spikes, t1, n, lanes)
            if t + 2 < rows:
                store(s2, grad_spikes, t2, n, lanes)
            if t + 3 < rows:
                store(s3, grad_spikes, t3, n, lanes)
    for t in range(whole, rows):
        for n in range(begin, end, lanes):
            s0 = load(grad_spikes, t, n, lanes, width)
            for j in range(gradient.shape[1]):
                g0 = gradient[row + t, j]
                if g0 != 0:
                    s0 = multiply_add(splat(g0, width), load(transposed, j, n, end - n, width), s0)
            store(s0, grad_spikes, t, n, lanes)


@helper
def add_product(connection, row, rows, slope, offset, masked, begin, end, places, grad_spikes, width):
    """grad_spikes[: rows, begin : end] INOUT += gradient[row : row + rows] times the transposed weights.

    With `masked`, only where slope[offset : offset + rows] is not zero, if those places are few. places: scratch for as
    many integers as there are neurons on either side.
    """
    if masked and _is_seldom_needed(slope, offset, rows, begin, end, width):
        _add_needed(connection, row, rows, slope, offset, begin, end, places, grad_spikes, width)
    else:
        _add_whole(connection, row, rows, begin, end, places, grad_spikes, width)


@inlined
def _multiply_add(x, y, z, rounded):
    return add(mul(x, y), z) if rounded else multiply_add(x, y, z)


@helper
def _six_rows(rows, weights, out, first, n, rounded, width):
    """Six rows of `out` INOUT share each load of the weights, and keep a processor's multiply-adds busy."""
    valid = out.shape[1] - n
    a = load(out, first, n, valid, width)
    b = load(out, first + 1, n, valid, width)
    c = load(out, first + 2, n, valid, width)
    d = load(out, first + 3, n, valid, width)
    e = load(out, first + 4, n, valid, width)
    f = load(out, first + 5, n, valid, width)
    for m in range(rows.shape[1]):
        weight = load(weights, m, n, valid, width)
        a = _multiply_add(splat(rows[first, m], width), weight, a, rounded)
        b = _multiply_add(splat(rows[first + 1, m], width), weight, b, rounded)
        c = _multiply_add(splat(rows[first + 2, m], width), weight, c, rounded)
        d = _multiply_add(splat(rows[first + 3, m], width), weight, d, rounded)
        e = _multiply_add(splat(rows[first + 4, m], width), weight, e, rounded)
        f = _multiply_add(splat(rows[first + 5, m], width), weight, f, rounded)
    store(a, out, first, n, valid)
    store(b, out, first + 1, n, valid)
    store(c, out, first + 2, n, valid)
    store(d, out, first + 3, n, valid)
    store(e, out, first + 4, n, valid)
    store(f, out, first + 5, n, valid)


@helper
def _one_row(rows, weights, out, row, n, rounded, width):
    valid = out.shape[1] - n
    sums = load(out, row, n, valid, width)
    for m in range(rows.shape[1]):
        sums = _multiply_add(splat(rows[row, m], width), load(weights, m, n, valid, width), sums, rounded)
    store(sums, out, row, n, valid)


@helper
def _row_of_counts(counts, weights, out, row, n, width):
    """Spike by spike, as events are added."""
    valid = out.shape[1] - n
    sums = load(out, row, n, valid, width)
    for m in range(counts.shape[1]):
        for _ in range(np.int64(counts[row, m])):
            sums = add(sums, load(weights, m, n, valid, width))
    store(sums, out, row, n, valid)


@helper
def _has_repeats(rows, row, most):
    """Whether a row is at most `most` spikes, and not only of 0 and 1, for which a product is the sum."""
    spikes = 0.0
    repeats = False
    for m in range(rows.shape[1]):
        value = rows[row, m]
        spikes += value
        if not (value >= 0 and value == np.floor(value) and spikes <= most):
            return False
        repeats |= value > 1
    return repeats


@kernel
def project_values(first_item, stop_item, slot, x, weights, most, out, width):
    """out INOUT (B * T, N) += x IN (B * T, K) times weights IN (K, N), inputs ascending: (2) for real-valued input.

    A row of at most `most` spikes is added spike by spike, as if it were events. An item is SPAN rows.
    """
    for item in range(first_item, stop_item):
        first = item * SPAN
        stop = min(first + SPAN, out.shape[0])
        repeats = False
        for row in range(first, stop):
            repeats |= _has_repeats(x, row, most)
        for n in range(0, out.shape[1], lanes_of(width)):
            row = first
            while row < stop:
                if repeats and _has_repeats(x, row, most):
                    _row_of_counts(x, weights, out, row, n, width)
                    row += 1
                elif repeats or row + 6 > stop:
                    _one_row(x, weights, out, row, n, True, width)
                    row += 1
                else:
                    _six_rows(x, weights, out, row, n, True, width)
                    row += 6


@kernel
def input_adjoint(first_item, stop_item, slot, rows, weights, out, width):
    """out OUT (B * T, K) = rows IN (B * T, N), dLoss/dI, times weights IN (N, K), transposed beforehand.

    An item is SPAN rows.
    """
    total_rows = rows.shape[0]
    for item in range(first_item, stop_item):
        stop = min((item + 1) * SPAN, total_rows)
        for tile in range((out.shape[1] + lanes_of(width) - 1) // lanes_of(width)):
            n = tile * lanes_of(width)
            row = item * SPAN
            for cleared in range(row, stop):
                store(splat(out.dtype.type(0), width), out, cleared, n, out.shape[1] - n)
            while row + 6 <= stop:
                _six_rows(rows, weights, out, row, n, False, width)
                row += 6
            while row < stop:
                _one_row(rows, weights, out, row, n, False, width)
                row += 1
