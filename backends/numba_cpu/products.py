"""dLoss/dx, equation (11): dLoss/dI times the transposed weights, in a parallel region like those of the other kernels.

Owns nothing but that product. A BLAS library computes it as fast, but its threads spin for a while after each product,
and hold the processors that the next kernel needs.
"""

from __future__ import annotations

from numba import prange

from .compiling import helper, kernel
from .lanes import load, multiply_add, splat, store

SPAN = 96  # rows of an item of work: a tile of the weights is read from the first-level cache by all of them


@helper
def _six_rows(rows, weights, out, first, n, width):
    """Six rows share each load of the weights, and keep a processor's multiply-adds busy."""
    valid = out.shape[1] - n
    a = splat(out.dtype.type(0), width)
    b, c, d, e, f = a, a, a, a, a
    for m in range(rows.shape[1]):
        weight = load(weights, m, n, valid, width)
        a = multiply_add(splat(rows[first, m], width), weight, a)
        b = multiply_add(splat(rows[first + 1, m], width), weight, b)
        c = multiply_add(splat(rows[first + 2, m], width), weight, c)
        d = multiply_add(splat(rows[first + 3, m], width), weight, d)
        e = multiply_add(splat(rows[first + 4, m], width), weight, e)
        f = multiply_add(splat(rows[first + 5, m], width), weight, f)
    store(a, out, first, n, valid)
    store(b, out, first + 1, n, valid)
    store(c, out, first + 2, n, valid)
    store(d, out, first + 3, n, valid)
    store(e, out, first + 4, n, valid)
    store(f, out, first + 5, n, valid)


@helper
def _one_row(rows, weights, out, row, n, width):
    valid = out.shape[1] - n
    total = splat(out.dtype.type(0), width)
    for m in range(rows.shape[1]):
        total = multiply_add(splat(rows[row, m], width), load(weights, m, n, valid, width), total)
    store(total, out, row, n, valid)


@kernel
def input_adjoint(rows, weights, out, width):
    """out OUT (B * T, K) = rows IN (B * T, N), dLoss/dI, times weights IN (N, K), transposed beforehand."""
    total = rows.shape[0]
    for item in prange((total + SPAN - 1) // SPAN):
        stop = min((item + 1) * SPAN, total)
        for tile in range((out.shape[1] + len(width) - 1) // len(width)):
            n = tile * len(width)
            row = item * SPAN
            while row + 6 <= stop:
                _six_rows(rows, weights, out, row, n, width)
                row += 6
            while row < stop:
                _one_row(rows, weights, out, row, n, width)
                row += 1
