"""Poisson input: a count of events for each step and neuron, drawn by inversion from counted random words.

Owns the kernel's copy of `blocksim._poisson.counts`, to the bit. Lanes are neighbouring neurons, and the four words of
a counter are four steps, so that each is stored as a row. Where the rate is constant, thresholds of 32 bits decide all
entries but one in thousands of millions; the second word is drawn for those alone.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from blocksim._escape import ROUNDS
from blocksim._poisson import KEPT, LOWER, NEGLIGIBLE, UNIT, UPPER, WORDS, Entries, distribution
from blocksim.numerics import EXPONENTIAL

from .buffers import as_rows, empty
from .compiling import helper, inlined, kernel
from .escape import FIRST_STEP, LEFT, LOW, RIGHT, SECOND_STEP, SHIFT, exponential
from .simd import (
    add,
    at_most,
    bits,
    both,
    converted,
    either,
    equal,
    exclusive,
    fill,
    lanes_of,
    less,
    load,
    mul,
    number_of_lanes,
    opposite,
    select,
    shifted_down,
    splat,
    store,
    sub,
    width_for,
)

WIDTH = width_for(16)
LOWEST, DEGREE = EXPONENTIAL[np.dtype(np.float64)]
TERMS = (0,) * DEGREE
LAST_WORD = 2**32 - 1
OF_SECOND = np.uint64(KEPT)
RESOLUTION = 2.0**-53


class Law(NamedTuple):
    """IN: the law of the entries, and which random numbers they are."""

    thresholds: Any  # (tables * K, N + padding) uint32: the k-th is what words of counts above k reach
    depth: Any  # K; 0: there are none, and the means are looked at
    tables: Any  # 1 where each sample has its own, 0 where all share one
    means: Any  # (rows, N or 1) float64
    rows: Any  # of `means`, of a sample; 0 where all share them
    moves: Any  # 1 where `means` has a row for each step, else 0
    weights: Any  # (1, N + padding), of the result's dtype
    numbers: Any  # (1, N + padding) uint64: of the neurons
    first_key: Any  # uint64
    second_key: Any
    first: Any  # number of the first step
    steps: Any
    groups: Any  # counters of a neuron


@inlined
def product(a, factor):
    """Of 32 bits with 32 bits, in lanes of uint64, of whose upper halves nothing is read."""
    return mul(both(a, fill(LOW, a)), fill(factor, a))


@inlined
def words(number, group, sample, which, law):
    """Philox4x32-10, as `blocksim._escape.philox`: four lanes of uint64, whose lower halves are the words."""
    a = number
    b = fill(np.uint64(group), a)
    c = fill(np.uint64(sample), a)
    d = fill(np.uint64(which), a)
    first, second = law.first_key, law.second_key
    for _ in range(ROUNDS):
        left, right = product(a, LEFT), product(c, RIGHT)
        a = exclusive(exclusive(shifted_down(right, fill(SHIFT, a)), b), fill(first, a))
        c = exclusive(exclusive(shifted_down(left, fill(SHIFT, a)), d), fill(second, a))
        b, d = right, left
        first = np.uint64((first + FIRST_STEP) & LOW)
        second = np.uint64((second + SECOND_STEP) & LOW)
    return a, b, c, d


@inlined
def to_unit(word):
    """A word as a number of [0, 1), in float64."""
    return mul(converted(both(word, fill(LOW, word)), 0.0), splat(UNIT, WIDTH))


@helper
def values_reached(mean, low, high):
    """How many values of the distribution function a number of [low, high) reaches; a mask of where that is open."""
    one, none = fill(1.0, mean), fill(0.0, mean)
    part = exponential(sub(none, mean), LOWEST, TERMS)
    total = part
    count = none
    is_open = less(one, none)
    k = 0.0
    near = less(total, high)
    while bits(near) != np.uint64(0):
        over = at_most(total, low)
        is_open = either(is_open, both(near, opposite(over)))
        count = add(count, select(over, one, none))
        k += 1.0
        part = mul(part, mul(mean, fill(1.0 / k, mean)))
        rest = both(less(part, fill(NEGLIGIBLE, mean)), less(mean, fill(k, mean)))
        total = select(rest, one, add(total, part))
        near = less(total, high)
    return count, is_open


@helper
def by_mean(word, w, number, group, sample, row, n, law):
    """Counts of step w of a counter, in float64, from its first words, and from the second where they leave it open."""
    if law.means.shape[1] == 1:
        mean = splat(law.means[row, 0], WIDTH)
    else:
        mean = load(law.means, row, n, law.means.shape[1] - n, WIDTH)
    u = to_unit(word)
    count, is_open = values_reached(mean, u, add(u, fill(UNIT, u)))
    if bits(is_open) != np.uint64(0):
        second = words(number, group, sample, LOWER, law)[w]
        u = add(u, mul(to_unit(both(second, fill(OF_SECOND, second))), fill(UNIT, u)))
        count, is_open = values_reached(mean, u, add(u, fill(RESOLUTION, u)))
    return count


@inlined
def by_thresholds(word, law, row, n, none):
    """Counts of the four steps of a counter, and whether they are sure: no word equals a threshold.

    All four at a time, for a branch that is mispredicted costs as much as the numbers of a step.
    """
    one = fill(1, none)
    kind = np.uint32(0)
    a, b = converted(word[0], kind), converted(word[1], kind)
    c, d = converted(word[2], kind), converted(word[3], kind)
    of_a, of_b, of_c, of_d = none, none, none, none
    is_open = less(one, none)
    for k in range(law.depth):
        threshold = load(law.thresholds, row + k, n, lanes_of(WIDTH), WIDTH)
        over_a, over_b = at_most(threshold, a), at_most(threshold, b)
        over_c, over_d = at_most(threshold, c), at_most(threshold, d)
        if bits(either(either(over_a, over_b), either(over_c, over_d))) == np.uint64(0):
            break
        of_a, of_b = add(of_a, select(over_a, one, none)), add(of_b, select(over_b, one, none))
        of_c, of_d = add(of_c, select(over_c, one, none)), add(of_d, select(over_d, one, none))
        is_open = either(is_open, either(equal(threshold, a), equal(threshold, b)))
        is_open = either(is_open, either(equal(threshold, c), equal(threshold, d)))
    return (of_a, of_b, of_c, of_d), bits(is_open) == np.uint64(0)


@kernel
def draw_counts(first_item, stop_item, slot, law, out):
    """out OUT (B * T, N): weighted counts. An item is the four steps of a counter, in a sample."""
    size = out.shape[1]
    none = splat(out.dtype.type(0), WIDTH)
    for item in range(first_item, stop_item):
        sample = item // law.groups
        group = law.first // WORDS + item % law.groups
        first = group * WORDS - law.first  # its steps, of those that are asked for
        row = sample * law.steps + first
        inside = first >= 0 and first + WORDS <= law.steps
        for n in range(0, size, lanes_of(WIDTH)):
            valid = size - n
            number = load(law.numbers, 0, n, lanes_of(WIDTH), WIDTH)
            weight = load(law.weights, 0, n, lanes_of(WIDTH), WIDTH)
            word = words(number, group, sample, UPPER, law)
            count = (none, none, none, none)
            sure = False
            if law.depth:
                count, sure = by_thresholds(word, law, sample * law.tables * law.depth, n, none)
            if sure and inside:
                store(mul(weight, count[0]), out, row, n, valid)
                store(mul(weight, count[1]), out, row + 1, n, valid)
                store(mul(weight, count[2]), out, row + 2, n, valid)
                store(mul(weight, count[3]), out, row + 3, n, valid)
                continue
            for w in range(max(0, -first), min(WORDS, law.steps - first)):
                each = count[w]
                if not sure:
                    of_mean = sample * law.rows + (first + w) * law.moves
                    each = converted(by_mean(word[w], w, number, group, sample, of_mean, n, law), out.dtype.type(0))
                store(mul(weight, each), out, row + w, n, valid)


def counts(means: np.ndarray, weights: np.ndarray, entries: Entries) -> np.ndarray:
    """`blocksim._poisson.counts`."""
    (batch, steps, size), (tables, moments, _) = entries.shape, means.shape
    padded = -(-size // number_of_lanes(WIDTH)) * number_of_lanes(WIDTH)
    few = tables == 1 or tables * _deepest(means.max()) * padded <= batch * steps * size  # tables beside the result
    tabled = moments == 1 and few
    thresholds = _thresholds(means[:, 0], padded) if tabled else np.empty((tables, 0, padded), np.uint32)
    out = empty(entries.shape, weights.dtype)
    law = Law(
        thresholds.reshape(-1, padded),
        thresholds.shape[1],
        int(tables > 1),
        means.reshape(-1, means.shape[2]),
        moments if tables > 1 else 0,
        int(moments > 1),
        _padded(weights[None], padded, 0),
        np.arange(padded, dtype=np.uint64)[None],
        np.uint64(entries.key[0]),
        np.uint64(entries.key[1]),
        entries.first,
        steps,
        (entries.first + steps - 1) // WORDS - entries.first // WORDS + 1,
    )
    draw_counts(batch * law.groups, law, as_rows(out))
    return out


def _deepest(mean: float) -> float:
    """About as many values of the distribution function as there are below 1."""
    return mean + 12 * math.sqrt(mean) + 24


def _padded(array: np.ndarray, size: int, value: int) -> np.ndarray:
    """Rows (R, N or 1) as (R, size): one number for all, or filled up with a value."""
    out = np.full((len(array), size), value, array.dtype)
    out[:, : size if array.shape[1] == 1 else array.shape[1]] = array
    return out


def _thresholds(means: np.ndarray, size: int) -> np.ndarray:
    """The thresholds of each table's means (tables, N or 1): (tables, K, size) uint32."""
    return _of_one(float(means[0, 0]), size) if means.size == 1 else _of_means(means, size)


@lru_cache(maxsize=16)
def _of_one(mean: float, size: int) -> np.ndarray:
    """Those of one mean for all: a long input is drawn in many parts."""
    return _of_means(np.array([[mean]]), size)


def _of_means(means: np.ndarray, size: int) -> np.ndarray:
    """As `_thresholds`. The last are the last word: whoever draws it has a count of at least that many."""
    rows = []
    for total in distribution(means):
        words_reached = np.minimum(np.floor(total * 2.0**32), LAST_WORD).astype(np.uint32)
        if (words_reached == LAST_WORD).all():
            break
        rows.append(_padded(words_reached, size, LAST_WORD))
    rows.append(np.full((len(means), size), LAST_WORD, np.uint32))
    return np.stack(rows, axis=1)
