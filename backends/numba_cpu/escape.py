"""Escape noise, equation (39): the hazard of a step, and the random numbers that neurons draw after a spike.

Owns the kernels' copies of the functions of `blocksim.numerics` and of the generator of `blocksim._escape`, to the bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from blocksim._escape import ATANH_TERMS, MULTIPLIERS, ROUNDS, WEYL, WORD, Noise
from blocksim.numerics import LARGEST_EXPONENT, LN2, LOG2_E, MORE_TERMS

from .compiling import helper, inlined
from .simd import absolute, add, div, fill, less, lowest_bit, mul, power_of_two, round_even, select, sub

LEFT, RIGHT = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
FIRST_STEP, SECOND_STEP = np.uint64(WEYL[0]), np.uint64(WEYL[1])
SHIFT, LOW = np.uint64(32), np.uint64(WORD)
LN2_HIGH, LN2_LOW = LN2
LOG_OF_2, ROOT = float(np.log(2.0)), float(np.sqrt(0.5))


class Draws(NamedTuple):
    """IN: which random numbers a run draws."""

    first_key: Any  # uint64, the lower half of the seed
    second_key: Any  # the upper half
    place: Any  # uint64, of the layer in its network
    first_unit: Any  # uint64, of the first neuron of the first sample
    size: Any  # uint64, neurons of a sample

    @classmethod
    def of(cls, noise: Noise | None, size: int) -> Draws:
        """Of a run; without noise they are not looked at."""
        noise = noise or Noise(0)
        return cls(*(np.uint64(each) for each in (*noise.key, noise.place, noise.first * size, size)))


@inlined
def exponential(x, lowest, terms):
    """exp(x), x at most `LARGEST_EXPONENT`, as `blocksim.numerics.exponential` has it; 0 below `lowest`.

    The degree of the series is the length of the tuple `terms`, so that the compiler knows it.
    """
    one = fill(1.0, x)
    k = round_even(mul(x, fill(LOG2_E, x)))
    r = sub(x, mul(k, fill(LN2_HIGH, x)))
    r = sub(r, mul(k, fill(LN2_LOW, x)))
    total = one
    for n in range(len(terms), 0, -1):
        total = add(mul(mul(total, r), fill(1.0 / n, x)), one)
    return select(less(x, fill(lowest, x)), fill(0.0, x), mul(total, power_of_two(k)))


@inlined
def decayed(x, lowest, terms):
    """exp(-|x|)."""
    return exponential(sub(fill(0.0, x), absolute(x)), lowest, terms)


@inlined
def log_one_plus(y, terms):
    """log(1 + y) of y = exp(-|x|): what `blocksim.numerics.bend` makes of x."""
    s = div(y, add(fill(2.0, y), y))
    square = mul(s, s)
    last = len(terms) + MORE_TERMS
    total = fill(1.0 / (2 * last + 1), y)
    for back in range(last):
        total = add(mul(total, square), fill(1.0 / (2 * (last - 1 - back) + 1), y))
    return mul(mul(fill(2.0, y), s), total)


@inlined
def hazard_of(distance, rate, steepness, lowest, terms):
    """(39), of a step in which the neuron is live, from U - theta."""
    x = mul(distance, steepness)
    largest = fill(LARGEST_EXPONENT, x)
    return mul(rate, exponential(select(less(x, largest), x, largest), lowest, terms))


@helper
def draw(draws, sample, n, number):
    """How much hazard a neuron bears: its draw of that number, of an exponential distribution, in float64."""
    unit = np.uint64(draws.first_unit + np.uint64(sample) * draws.size + np.uint64(n))
    a = np.uint64(unit & LOW)
    b = np.uint64(unit >> SHIFT)
    c = np.uint64(number)
    d = np.uint64(draws.place)
    first = np.uint64(draws.first_key)
    second = np.uint64(draws.second_key)
    for _ in range(ROUNDS):
        left = np.uint64(LEFT * a)
        right = np.uint64(RIGHT * c)
        a = np.uint64((right >> SHIFT) ^ b ^ first)
        b = np.uint64(right & LOW)
        c = np.uint64((left >> SHIFT) ^ d ^ second)
        d = np.uint64(left & LOW)
        first = np.uint64((first + FIRST_STEP) & LOW)
        second = np.uint64((second + SECOND_STEP) & LOW)
    part = (np.float64(((a << SHIFT) | b) >> np.uint64(11)) + 0.5) * 2.0**-53
    exponent = 0.0
    while part < 0.5:  # exact
        part *= 2.0
        exponent -= 1.0
    if part < ROOT:
        part *= 2.0
        exponent -= 1.0
    s = (part - 1.0) / (part + 1.0)
    square = s * s
    total = 1.0 / (2 * ATANH_TERMS + 1)
    for back in range(ATANH_TERMS):
        total = total * square + 1.0 / (2 * (ATANH_TERMS - 1 - back) + 1)
    return -(exponent * LOG_OF_2 + 2.0 * s * total)


@helper
def renew(fired, draws, remaining, number, sample, n, valid):
    """remaining, number INOUT (B, N): new draws for the neurons of `n` on whose bit of the mask `fired` is set."""
    while fired != np.uint64(0):
        lane = lowest_bit(fired)
        fired &= fired - np.uint64(1)
        if lane < valid:
            remaining[sample, n + lane] = draw(draws, sample, n + lane, number[sample, n + lane])
            number[sample, n + lane] += 1
