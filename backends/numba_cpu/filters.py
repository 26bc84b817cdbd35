"""The leaky filter over time, y[t] = decay y[t -+ 1] + x[t]: equation (18) of docs/model.md, forward or backward.

Owns nothing but that recursion. Few neurons lie in lanes with those of other samples, as in `few`.
"""

from __future__ import annotations

from numba import prange

from .compiling import helper, kernel
from .few import TRACE
from .lanes import clear_seldom, gather, load, multiply_add, scatter, splat, store


@helper
def _filter_few(x, y, few, decay, tiny, reverse, first, width):
    trace = load(few.places, TRACE, first, len(width), width)
    factor = splat(decay, width)
    total = splat(y.dtype.type(0), width)
    for step in range(few.steps):
        t = few.steps - 1 - step if reverse else step
        total = clear_seldom(multiply_add(total, factor, gather(x, trace, t * few.size)), tiny)
        scatter(total, y, trace, t * few.size)


@kernel
def filter_few(x, y, few, decay, tiny, reverse, width):
    """y OUT, x IN (B * T * N,), flat; lanes are neurons of all samples."""
    for item in prange(few.places.shape[1] // len(width)):
        _filter_few(x, y, few, decay, tiny, reverse, item * len(width), width)


@kernel
def filter_rows(x, y, steps, decay, tiny, reverse, width):
    """y OUT, x IN (B * T, N); lanes are neighbouring neurons of a sample."""
    lanes = len(width)
    size = x.shape[1]
    tiles = (size + lanes - 1) // lanes
    for item in prange(x.shape[0] // steps * tiles):
        first = item // tiles * steps
        n = item % tiles * lanes
        total = splat(y.dtype.type(0), width)
        for step in range(steps):
            row = first + (steps - 1 - step if reverse else step)
            total = multiply_add(total, splat(decay, width), load(x, row, n, size - n, width))
            total = clear_seldom(total, tiny)
            store(total, y, row, n, size - n)
