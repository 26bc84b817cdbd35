"""Event kernels: dense spikes to events, and the weight gradient of event-driven input, equation (11).

Owns the orders in which events are read. The weight gradient sums rows of dLoss/dI over all events of an input; row by
row in time it would load and store a row of the gradient for each event. So the events of every SPAN steps are first
marked as bits of one word for each input; then a row is loaded once a span, and summed in registers from a stretch of
dLoss/dI that stays in the first-level cache. The order of summation depends on the shapes alone.
"""

from __future__ import annotations

import numpy as np

from .compiling import helper, kernel
from .simd import add, bits, count_bits, either, equal, fill, lanes_of, load, lowest_bit, select, splat, store

SPAN = 64  # steps: one bit each of a word


@kernel
def pack(first_item, stop_item, slot, x, words, counts, width):
    """words OUT (rows, ceil(K / 64)) uint64: bit k % 64 of word k // 64 is set where x IN (rows, K) is not 0.

    counts OUT (rows,) int64: spikes of each row; -1 where a row holds anything but 0 and 1. 64 lanes.
    """
    inputs = x.shape[1]
    for row in range(first_item, stop_item):
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
def unpack(first_item, stop_item, slot, words, indptr, indices):
    """indices OUT: the bits that are set in each row of words, ascending, from indptr[row] on.

    Eight at a time, whether there are as many or not, where they stay within the row: nothing to mispredict.
    """
    for row in range(first_item, stop_item):
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
def count(first_item, stop_item, slot, x, most, counts):
    """counts OUT (rows,) int64: spikes of each row of x IN (rows, K); -1 where x is no spike count, or above `most`."""
    for row in range(first_item, stop_item):
        total = 0
        for k in range(x.shape[1]):
            value = x[row, k]
            if not (value >= 0 and value <= most and value == np.int64(value)):
                total = most + 1
                break
            total += np.int64(value)
        counts[row] = total if total <= most else -1


@kernel
def repeat(first_item, stop_item, slot, x, indptr, indices):
    """indices OUT: each input of a row of spike counts x IN (rows, K), as often as it spikes, from indptr[row] on."""
    for row in range(first_item, stop_item):
        place = indptr[row]
        for k in range(x.shape[1]):
            for _ in range(np.int64(x[row, k])):
                indices[place] = k
                place += 1


@kernel
def mark_events(first_item, stop_item, slot, indptr, indices, steps, marks, repeats):
    """marks OUT (B, spans, K) uint64: bit t is set where input k has an event in step t of the span.

    indptr, indices IN as in `Events`. repeats OUT (B * spans,) uint64: bit t is set where some input has more than one
    event in step t, of which `marks` tells one.
    """
    spans, inputs = marks.shape[1:]
    for item in range(first_item, stop_item):
        sample = item // spans
        first = item % spans * SPAN
        marks_of_span = marks[sample, item % spans]
        for k in range(inputs):
            marks_of_span[k] = 0
        repeated = np.uint64(0)
        for t in range(first, min(first + SPAN, steps)):
            row = sample * steps + t
            bit = np.uint64(1) << np.uint64(t - first)
            for event in range(indptr[row], indptr[row + 1]):
                k = np.uint64(indices[np.uint64(event)])
                mark = marks_of_span[k]
                repeated |= mark & bit
                marks_of_span[k] = mark | bit
        repeats[item] = repeated


@kernel
def mark_spikes(first_item, stop_item, slot, spikes, marks, width):
    """marks OUT (B, spans, N) uint64, as `mark_events` makes them, of spikes IN (B, T, N) bool."""
    spans, size = marks.shape[1:]
    steps = spikes.shape[1]
    for item in range(first_item, stop_item):
        sample = item // spans
        span = item % spans
        first = span * SPAN
        for n in range(0, size, lanes_of(width)):
            none = splat(np.uint64(0), width)
            found = none
            for t in range(first, min(first + SPAN, steps)):
                bit = splat(np.uint64(1) << np.uint64(t - first), width)
                found = either(found, select(load(spikes[sample], t, n, size - n, width), bit, none))
            store(found, marks[sample], span, n, size - n)


@helper
def _take_span(grad_current, row, rows, n, valid, stretch, width):
    """stretch[: rows] OUT: `width` columns of grad_current, next to each other.

    Where they are, rows often lie a power of two apart, and drive each other out of the first-level cache.
    """
    for t in range(rows):
        store(load(grad_current, row + t, n, valid, width), stretch, t, 0, lanes_of(width))


@helper
def _add_span(marks, rows, stretch, totals, width):
    """totals INOUT += sums over one span's events of rows of `stretch`.

    Events in rows from `rows` on come too late to count.
    """
    lanes = lanes_of(width)
    kept = ~np.uint64(0) >> np.uint64(SPAN - rows)
    for k in range(len(marks)):
        left = marks[k] & kept
        if left != np.uint64(0):
            total = load(totals, k, 0, lanes, width)
            while left != np.uint64(0):
                total = add(total, load(stretch, lowest_bit(left), 0, lanes, width))
                left &= left - np.uint64(1)
            store(total, totals, k, 0, lanes)


@helper
def _gradient_of_columns(marks, grad_current, steps, shift, first, last, n, stretch, totals, width):
    """totals OUT (K, width): sums over spans `first` to `last` of all samples, for `width` columns from n on."""
    lanes = lanes_of(width)
    valid = grad_current.shape[1] - n
    spans = marks.shape[1]
    for k in range(totals.shape[0]):
        store(splat(grad_current.dtype.type(0), width), totals, k, 0, lanes)
    for number in range(first, last):
        sample = number // spans
        step = number % spans * SPAN + shift
        rows = min(SPAN, steps - step)
        if rows > 0:
            _take_span(grad_current, sample * steps + step, rows, n, valid, stretch, width)
            _add_span(marks[sample, number % spans], rows, stretch, totals, width)


@kernel
def weight_gradient(first_item, stop_item, slot, marks, grad_current, steps, shift, shares, stretches, totals, width):
    """totals OUT (tiles, shares, K, width): sums of rows of grad_current IN (B * T, N) `shift` steps after the marks.

    Work is split over tiles of `width` columns, and over `shares` of the spans; what comes later than
    T counts nothing. Each item sums in memory of its own, for threads that write to one cache line wait for each other.
    stretches: scratch (tiles * shares, SPAN, width).
    """
    number = marks.shape[0] * marks.shape[1]
    for item in range(first_item, stop_item):
        tile = item // shares
        share = item % shares
        first = number * share // shares
        last = number * (share + 1) // shares
        _gradient_of_columns(
            marks,
            grad_current,
            steps,
            shift,
            first,
            last,
            tile * lanes_of(width),
            stretches[item],
            totals[tile, share],
            width,
        )


@kernel
def hand_out(first_item, stop_item, slot, totals, grad, width):
    """grad OUT (K, N): totals IN (tiles, shares, K, width) summed over the shares, in order."""
    tiles, shares = totals.shape[:2]
    lanes = lanes_of(width)
    size = grad.shape[1]
    for k in range(first_item, stop_item):
        for tile in range(tiles):
            total = load(totals[tile, 0], k, 0, lanes, width)
            for share in range(1, shares):
                total = add(total, load(totals[tile, share], k, 0, lanes, width))
            store(total, grad, k, tile * lanes, size - tile * lanes)


@kernel
def add_repeats(first_item, stop_item, slot, indptr, indices, grad_current, grad, width):
    """grad INOUT (K, N): add the rows of grad_current for the events that are not the first of an input in a step."""
    lanes = lanes_of(width)
    size = grad.shape[1]
    for tile in range(first_item, stop_item):
        n = tile * lanes
        for row in range(len(indptr) - 1):
            for event in range(indptr[row] + 1, indptr[row + 1]):
                k = indices[event]
                if k == indices[event - 1]:
                    more = load(grad_current, row, n, size - n, width)
                    store(add(load(grad, k, n, size - n, width), more), grad, k, n, size - n)
