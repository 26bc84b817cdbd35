"""The leaky filter over time, y[t] = decay y[t -+ 1] + x[t]: equation (18) of docs/model.md, forward or backward.

Owns that recursion, and the van Rossum distance (19) that is made of it. Few neurons lie in lanes with those of other
samples, as in `narrow`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compiling import helper, kernel
from .narrow import TRACE
from .simd import (
    add,
    clear_seldom,
    fill,
    gather,
    lanes_of,
    load,
    multiply_add,
    scatter,
    select,
    splat,
    store,
    sub,
    widen,
)

TILE = 64  # neurons whose sums stay in the first-level cache
SPAN = 256  # steps whose squares are added up in the computing precision, before they join a sum in float64


@helper
def _filter_few(x, y, few, decay, tiny, reverse, first, width):
    trace = load(few.places, TRACE, first, lanes_of(width), width)
    factor = splat(decay, width)
    total = splat(y.dtype.type(0), width)
    for step in range(few.steps):
        t = few.steps - 1 - step if reverse else step
        total = clear_seldom(multiply_add(total, factor, gather(x, trace, t * few.size)), tiny)
        scatter(total, y, trace, t * few.size)


@kernel
def filter_few(first_item, stop_item, slot, x, y, few, decay, tiny, reverse, width):
    """y OUT, x IN (B * T * N,), flat; lanes are neurons of all samples."""
    for item in range(first_item, stop_item):
        _filter_few(x, y, few, decay, tiny, reverse, item * lanes_of(width), width)


@kernel
def filter_rows(first_item, stop_item, slot, x, y, steps, decay, tiny, reverse, width):
    """y OUT, x IN (B * T, N); lanes are neighbouring neurons of a sample."""
    lanes = lanes_of(width)
    size = x.shape[1]
    tiles = (size + lanes - 1) // lanes
    for item in range(first_item, stop_item):
        first = item // tiles * steps
        n = item % tiles * lanes
        total = splat(y.dtype.type(0), width)
        for step in range(steps):
            row = first + (steps - 1 - step if reverse else step)
            total = multiply_add(total, splat(decay, width), load(x, row, n, size - n, width))
            total = clear_seldom(total, tiny)
            store(total, y, row, n, size - n)


class Trains(NamedTuple):
    """IN: what is compared, over the steps from `first` on."""

    spikes: Any  # (B * T, N) bool
    target: Any  # (B * T, C)
    places: Any  # (B * T * C,), the same flat
    columns: Any  # (tiles * width,) int64: the target of each neuron
    steps: int  # T
    first: int
    stops: Any  # (B,) int64


@helper
def _filter_difference(trains, y, keep, total, decay, tiny, row, begin, end, n, width):
    """y OUT, rows `begin` to `end` of a sample; returns the filter's last value and the sum of squares."""
    size = trains.spikes.shape[1]
    kinds = trains.target.shape[1]
    factor = splat(decay, width)
    zero = fill(0.0, total)
    one = fill(1.0, total)
    columns = load(trains.columns.reshape(1, -1), 0, n, lanes_of(width), width)
    squares = widen(zero)
    for span in range(begin, end, SPAN):
        part = zero
        for t in range(span, min(span + SPAN, end)):
            if kinds == 1:
                wanted = splat(trains.target[row + t, 0], width)
            else:
                wanted = gather(trains.places, columns, (row + t) * kinds)
            spike = select(load(trains.spikes, row + t, n, size - n, width), one, zero)
            total = clear_seldom(multiply_add(total, factor, sub(spike, wanted)), tiny)
            part = multiply_add(total, total, part)
            if keep:
                store(total, y, row + t, n, size - n)
        squares = add(squares, widen(part))
    return total, squares


@kernel
def train_distance(first_item, stop_item, slot, trains, y, keep, before, after, decay, tiny, width):
    """before, after OUT (B, N) float64: sums of squares; y OUT (B * T, N) where kept: z of (19). Lanes are neurons."""
    lanes = lanes_of(width)
    size = trains.spikes.shape[1]
    tiles = (size + lanes - 1) // lanes
    for item in range(first_item, stop_item):
        sample = item // tiles
        row = sample * trains.steps
        n = item % tiles * lanes
        stop = trains.stops[sample]
        zero = splat(y.dtype.type(0), width)
        total, squares = _filter_difference(trains, y, keep, zero, decay, tiny, row, trains.first, stop, n, width)
        store(squares, before, sample, n, size - n)
        total, squares = _filter_difference(trains, y, False, total, decay, tiny, row, stop, trains.steps, n, width)
        store(squares, after, sample, n, size - n)
        if keep:
            for t in range(stop, trains.steps):
                store(zero, y, row + t, n, size - n)
            total = zero
            for back in range(stop - trains.first):
                t = row + stop - 1 - back
                total = multiply_add(total, splat(decay, width), load(y, t, n, size - n, width))
                total = clear_seldom(total, tiny)
                store(total, y, t, n, size - n)
            for t in range(trains.first):
                store(zero, y, row + t, n, size - n)


@kernel
def add_potentials(first_item, stop_item, slot, x, y, counted, columns, tiles, sums):
    """sums OUT (B, 3, N): `blocksim._distances.potential_sums` of each sample; an item is a tile of its neurons."""
    _, steps, size = x.shape
    kinds = y.shape[2]
    for item in range(first_item, stop_item):
        sample = item // tiles
        begin = item % tiles * TILE
        end = min(begin + TILE, size)
        one, two, both = sums[sample, 0], sums[sample, 1], sums[sample, 2]
        for n in range(begin, end):
            one[n] = 0.0
            two[n] = 0.0
            both[n] = 0.0
        for t in range(steps):
            row = x[sample, t]
            if kinds == 1:
                if counted[sample, t, 0] == 0.0:
                    continue
                wanted = np.float64(y[sample, t, 0])
                for n in range(begin, end):
                    value = np.float64(row[n])
                    one[n] += value
                    two[n] += value * value
                    both[n] += value * wanted
            else:
                for n in range(begin, end):
                    value = np.float64(row[n])
                    counts = np.float64(counted[sample, t, columns[n]])
                    one[n] += counts * value
                    two[n] += counts * value * value
                    both[n] += counts * value * np.float64(y[sample, t, columns[n]])


def potential_sums(x: np.ndarray, y: np.ndarray, counted: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`blocksim._distances.potential_sums`."""
    samples, _, size = x.shape
    tiles = (size + TILE - 1) // TILE
    sums = np.empty((samples, 3, size))
    add_potentials(samples * tiles, x, y, counted, columns, tiles, sums)
    total: np.ndarray = sums.sum(axis=0)
    return total
