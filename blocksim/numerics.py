"""What all backends must agree on to give the same bits: the flush-to-zero limit, and which input counts as spikes."""

from __future__ import annotations

from typing import Any

import numpy as np


def tiny(dtype: Any) -> float:
    """Magnitude below which potentials, adaptations and adjoint variables are set to zero, docs/model.md."""
    return 1e-30 if np.dtype(dtype) == np.float32 else 1e-290


def rise(sigma: np.ndarray) -> np.ndarray:
    """kappa of (28) from the decay of an alpha synapse: its answer to a unit peaks at 1. Of a decay of 0 it is 0."""
    kappa: np.ndarray = -np.e * np.log(np.where(sigma > 0, sigma, 1))
    return kappa.astype(sigma.dtype)


LARGEST_EXPONENT = 60.0  # of a hazard's: a neuron that bears more spikes at once anyway
# of the exponential: where it underflows, and the degree of its series
EXPONENTIAL = {np.dtype(np.float32): (-87.0, 7), np.dtype(np.float64): (-708.0, 13)}
LOG2_E = 1.4426950408889634
LN2 = (0.693145751953125, 1.4286068203094172e-06)  # the first part so short that whole numbers times it are exact


def exponential(x: np.ndarray) -> np.ndarray:
    """exp(x), of up to `LARGEST_EXPONENT`, to rounding: x = k ln 2 + r, Taylor series in r, times 2^k.

    By multiplications, then additions, never contracted, in this order: every backend has the same bits.
    """
    lowest, degree = EXPONENTIAL[x.dtype]
    one, number = x.dtype.type(1), x.dtype.type
    within = np.clip(x, number(lowest), number(LARGEST_EXPONENT))
    k = np.rint(within * number(LOG2_E))
    r = within - k * number(LN2[0])
    r = r - k * number(LN2[1])
    total = np.full_like(r, one)
    for n in range(degree, 0, -1):
        total = total * r * number(1.0 / n) + one
    powers = np.ldexp(total, k.astype(np.int32))
    return np.asarray(np.where(x < number(lowest), number(0), powers))


def steepness(width: np.ndarray) -> np.ndarray:
    """1 / width of (39), of the computing precision and finite; 0 where there is no neuron."""
    known = width > 0
    with np.errstate(over="ignore"):
        inverse = np.minimum(1 / np.where(known, width, 1), np.finfo(width.dtype).max)
    return np.where(known, inverse, 0).astype(width.dtype)


def atanh_series(square: np.ndarray, terms: int) -> np.ndarray:
    """atanh(s) / s from s squared, to so many terms beyond the first: what logarithms are made of."""
    number = square.dtype.type
    total = np.full_like(square, 1.0 / (2 * terms + 1))
    for term in range(terms - 1, -1, -1):
        total = total * square + number(1.0 / (2 * term + 1))
    return total


# of log(1 + y): terms beyond the exponential's degree, so that y up to 1 is exact to rounding
MORE_TERMS = 4


def bend(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(-|x|)), by how much a softplus is above max(x, 0): with y = exp(-|x|), twice atanh(y / (2 + y)).

    By additions, multiplications and divisions in this order, as `exponential`.
    """
    two = x.dtype.type(2)
    y = exponential(-np.abs(x))
    s = y / (two + y)
    return np.asarray(two * s * atanh_series(s * s, EXPONENTIAL[x.dtype][1] + MORE_TERMS))


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), the slope of a softplus."""
    y = exponential(-np.abs(x))
    return np.asarray(np.where(x > 0, x.dtype.type(1), y) / (x.dtype.type(1) + y))


def bend_slope(x: np.ndarray) -> np.ndarray:
    """The slope of a softplus in its softness, at a distance of x times that from the knot."""
    size = np.minimum(np.abs(x), x.dtype.type(-EXPONENTIAL[x.dtype][0]))  # farther away it is 0, and no number times 0
    return np.asarray(bend(size) + size * logistic(-size))


# A row of input with more spikes than this for each input is real-valued: spike counts rise that high by mistake only,
# as where a recording's integers are taken for counts, and their events would take more memory than the array.
MAX_SPIKES = 8


def spike_rows(rows: np.ndarray) -> np.ndarray:
    """Which rows (R, K) hold spike counts: whole numbers >= 0, at most `MAX_SPIKES` an input on average. (R,) bool.

    Spikes are added one at a time, other values are multiplied with their weights; by this rule, of one step of one
    sample, a sum has the same order whatever else is in the batch or in the call.
    """
    if rows.dtype == np.bool_:
        return np.ones(len(rows), np.bool_)
    counts = (rows >= 0) & (rows <= MAX_SPIKES * rows.shape[1])
    if rows.dtype.kind == "f":
        counts &= rows == np.floor(rows)
    spikes: np.ndarray = counts.all(axis=1)
    spikes &= rows.sum(axis=1, dtype=np.float64, where=counts) <= MAX_SPIKES * rows.shape[1]
    return spikes
