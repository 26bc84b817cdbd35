"""Event kernels: dense spikes to events, and the weight gradient of event-driven input, equation (11).

Owns the orders in which events are read. The weight gradient sums rows of dLoss/dI over all events of an input; row by
row in time it would load and store a row of the gradient for each event. So the events of every SPAN steps are first
sorted by input; then a row is loaded once a span, and summed in registers from a stretch of dLoss/dI that stays in the
first-level cache. The order of summation depends on the shapes alone.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .compiling import helper, kernel
from .lanes import add, bits, count_bits, equal, fill, load, lowest_bit, splat, store

SPAN = 96  # steps: their rows fill most of the first-level cache; at most 256, for offsets are bytes


@kernel
def pack(x, words, counts, width):
    """words OUT (rows, ceil(K / 64)) uint64: bit k % 64 of word k // 64 is set where x IN (rows, K) is not 0.

    counts OUT (rows,) int64: spikes of each row; -1 where a row holds anything but 0 and 1. 64 lanes.
    """
    inputs = x.shape[1]
    for row in prange(x.shape[0]):
        count = 0
        odd = np.uint64(0)
        for word in range(words.shape[1]):
            part = load(x, row, 64 * word, inputs - 64 * word, width)
            other = ~bits(equal(part, fill(0, part)))
            if inputs - 64 * word < 64:
                other &= (np.uint64(1) << np.uint64(inputs - 64 * word)) - np.uint64(1)
            odd |= other ^ bits(equal(part, fill(1, part)))
            words[row, word] = other
            count += count_bits(other)
        counts[row] = count if odd == np.uint64(0) else -1


@helper
def _write_eight(first, left, indices, place):
    """indices[place : place + 8] OUT: the numbers of the lowest bits of `left`, counted from `first`.

    An unsigned index is not asked whether it counts from the end.
    """
    for n in range(8):
        indices[np.uint64(place + n)] = first + lowest_bit(left)
        left &= left - np.uint64(1)
    return left


@kernel
def unpack(words, indptr, indices):
    """indices OUT: the bits that are set in each row of words, ascending, from indptr[row] on.

    Eight at a time, whether there are as many or not, where they stay within the row: nothing to mispredict.
    """
    for row in prange(words.shape[0]):
        place = indptr[row]
        end = indptr[row + 1]
        for word in range(words.shape[1]):
            left = words[row, word]
            after = place + count_bits(left)
            while place < after:
                if place + 8 <= end:
                    left = _write_eight(64 * word, left, indices, place)
                    place += 8
                else:
                    indices[place] = 64 * word + lowest_bit(left)
                    left &= left - np.uint64(1)
                    place += 1
            place = after


@kernel
def count(x, counts):
    """counts OUT (rows,) int64: spikes of each row of x IN (rows, K), -1 where x is no spike count."""
    for row in prange(x.shape[0]):
        total = 0
        valid = True
        for k in range(x.shape[1]):
            value = np.int64(x[row, k])
            valid &= (value >= 0) & (value == x[row, k])
            total += value
        counts[row] = total if valid else -1


@kernel
def repeat(x, indptr, indices):
    """indices OUT: each input of a row of spike counts x IN (rows, K), as often as it spikes, from indptr[row] on."""
    for row in prange(x.shape[0]):
        place = indptr[row]
        for k in range(x.shape[1]):
            for _ in range(np.int64(x[row, k])):
                indices[place] = k
                place += 1


@kernel
def sort_events(indptr, indices, steps, offsets, starts):
    """Sort the events of every span by input.

    indptr, indices IN as in `Events`; offsets OUT (events,) uint8: step within the span; starts OUT
    (B, spans, K + 1) int64: where in `offsets` each input's events begin.
    """
    batch, spans = starts.shape[:2]
    inputs = starts.shape[2] - 1
    for item in prange(batch * spans):
        sample = item // spans
        first = item % spans * SPAN
        last = min(first + SPAN, steps)
        row = sample * steps
        place = starts[sample, item % spans]
        for k in range(inputs + 1):
            place[k] = 0
        for event in range(indptr[row + first], indptr[row + last]):
            place[indices[event]] += 1
        total = indptr[row + first]
        for k in range(inputs):
            count = place[k]
            place[k] = total
            total += count
        place[inputs] = total
        # place each event, which moves place[k] to the end of k, the beginning of k + 1; then move them back
        for t in range(first, last):
            for event in range(indptr[row + t], indptr[row + t + 1]):
                k = indices[event]
                offsets[place[k]] = t - first
                place[k] += 1
        for k in range(inputs - 1, 0, -1):
            place[k] = place[k - 1]
        place[0] = indptr[row + first]


@helper
def _take_span(grad_current, row, rows, n, valid, stretch, width):
    """stretch[: rows] OUT: `width` columns of grad_current, next to each other.

    Where they are, rows often lie a power of two apart, and drive each other out of the first-level cache.
    """
    for t in range(rows):
        store(load(grad_current, row + t, n, valid, width), stretch, t, 0, len(width))


@helper
def _clear(totals, zero, width):
    for k in range(totals.shape[0]):
        store(splat(zero, width), totals, k, 0, len(width))


@helper
def _add_span(offsets, starts, rows, stretch, first, last, totals, width):
    """totals INOUT += sums over one span's events of rows of `stretch`, for inputs `first` to `last`.

    Events in rows from `rows` on come too late to count.
    """
    lanes = len(width)
    for k in range(first, last):
        begin, end = starts[k], starts[k + 1]
        if begin < end:
            total = load(totals, k - first, 0, lanes, width)
            for event in range(begin, end):
                offset = np.int64(offsets[event])
                if offset < rows:
                    total = add(total, load(stretch, offset, 0, lanes, width))
            store(total, totals, k - first, 0, lanes)


@helper
def _hand_out(totals, first, last, n, valid, grad, width):
    """grad[first : last] OUT = totals, for the columns from n on."""
    for k in range(first, last):
        store(load(totals, k - first, 0, len(width), width), grad, k, n, valid)


@kernel
def weight_gradient(offsets, starts, grad_current, steps, shift, groups, stretches, totals, zero, grad, width):
    """grad OUT (K, N): sum over events of grad_current IN (B * T, N) `shift` steps later; later than T is none.

    Work is split over columns and `groups` of inputs; each element is summed by one item, in memory of its own, for
    threads that write to one cache line wait for each other. stretches: scratch (items, SPAN, width); totals: scratch
    (items, inputs of a group, width).
    """
    lanes = len(width)
    size = grad.shape[1]
    batch, spans = starts.shape[:2]
    inputs = starts.shape[2] - 1
    share = totals.shape[1]
    for item in prange(totals.shape[0]):
        n = item // groups * lanes
        first = item % groups * share
        last = min(first + share, inputs)
        _clear(totals[item], zero, width)
        for sample in range(batch):
            for span in range(spans):
                step = span * SPAN + shift
                rows = min(SPAN, steps - step)
                if rows > 0:
                    _take_span(grad_current, sample * steps + step, rows, n, size - n, stretches[item], width)
                    _add_span(offsets, starts[sample, span], rows, stretches[item], first, last, totals[item], width)
        _hand_out(totals[item], first, last, n, size - n, grad, width)
