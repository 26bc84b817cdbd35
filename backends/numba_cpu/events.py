"""Event kernels: dense spikes to events, and the weight gradient of event-driven input, equation (11).

Owns the orders in which events are read. The weight gradient sums rows of dLoss/dI over all events of an input; row by
row in time it would load and store a row of the gradient for each event. So the events of every SPAN steps are first
sorted by input; then a row is loaded once a span, and summed in registers from a stretch of dLoss/dI that stays in the
first-level cache. The order of summation depends on the shapes alone.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange

from .compiling import helper, kernel
from .lanes import add, load, splat, store

SPAN = 64  # steps; at most 256, for offsets are bytes


@kernel
def count_events(x, counts):
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
def list_events(x, indptr, indices):
    """indices OUT: the inputs that spike in each row of x IN (rows, K), ascending, from indptr[row] on."""
    for row in prange(x.shape[0]):
        place = indptr[row]
        end = indptr[row + 1]
        for k in range(x.shape[1]):
            # most values are 0 or 1: write always, advance by the count; nothing to mispredict
            if place < end:
                indices[place] = k
                count = np.int64(x[row, k])
                place += min(count, 1)
                while count > 1:
                    indices[place] = k
                    place += 1
                    count -= 1


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
def _add_span(offsets, starts, rows, stretch, first, last, grad, n, valid, zero, width):
    """grad[first : last] INOUT += sums over one span's events of rows of `stretch`; later than `rows` is none."""
    lanes = len(width)
    for k in range(first, last):
        begin, end = starts[k], starts[k + 1]
        if begin < end:
            total = splat(zero, width)
            for event in range(begin, end):
                offset = np.int64(offsets[event])
                if offset < rows:
                    total = add(total, load(stretch, offset, 0, lanes, width))
            store(add(load(grad, k, n, valid, width), total), grad, k, n, valid)


@kernel
def weight_gradient(offsets, starts, grad_current, steps, shift, groups, stretches, zero, grad, width):
    """grad INOUT (K, N) += sum over events of grad_current IN (B * T, N) `shift` steps later; later than T is none.

    Work is split over columns and `groups` of inputs; each element is summed by one item. stretches: scratch
    (threads, SPAN, width).
    """
    lanes = len(width)
    size = grad.shape[1]
    batch, spans = starts.shape[:2]
    inputs = starts.shape[2] - 1
    share = (inputs + groups - 1) // groups
    for item in prange((size + lanes - 1) // lanes * groups):
        n = item // groups * lanes
        first = item % groups * share
        last = min(first + share, inputs)
        stretch = stretches[numba.get_thread_id()]
        for sample in range(batch):
            for span in range(spans):
                step = span * SPAN + shift
                rows = min(SPAN, steps - step)
                if rows > 0:
                    _take_span(grad_current, sample * steps + step, rows, n, size - n, stretch, width)
                    _add_span(offsets, starts[sample, span], rows, stretch, first, last, grad, n, size - n, zero, width)
