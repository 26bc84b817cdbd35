"""Memory of the Numba backend: arrays that begin with a cache line, taken from memory that was used before.

Owns allocation and layout. Memory fresh from the system costs a fault for every page that is written first, in each
step of a training anew: a tenth of its time. So large arrays are made of memory that earlier ones have given back, of
which at most KEPT bytes lie idle.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LINE = 64  # bytes of a cache line
SMALL = 1 << 12  # bytes up to which it does not matter where an array begins
LARGE = 1 << 20  # bytes from which memory is kept
KEPT = 256 << 20  # bytes that lie idle at most
# by size; lists are changed by single operations only, which no other thread comes between
_idle: dict[int, list[np.ndarray]] = {}


class _Lent:
    """Memory that arrays lie in; given back when the last of them has gone."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        size = self.memory.nbytes
        if size > KEPT // 2:
            return
        for oldest in list(_idle):
            if size + sum(each * len(memories) for each, memories in list(_idle.items())) <= KEPT:
                break
            _idle.pop(oldest, None)
        _idle.setdefault(size, []).append(self.memory)


def _bytes(size: int) -> np.ndarray:
    """Memory of at least `size` bytes."""
    if size < LARGE:
        return np.empty(size, np.uint8)
    step = 1 << (size.bit_length() - 4)  # sizes of an eighth of a power of two: what nearly fits is used again
    size = -(-size // step) * step
    try:
        return np.asarray(_Lent(_idle[size].pop()))
    except LookupError:
        return np.asarray(_Lent(np.empty(size, np.uint8)))


def release() -> None:
    """Give back what lies idle."""
    _idle.clear()


def empty(shape: tuple[int, ...] | int, dtype: Any) -> np.ndarray:
    """A new array that begins with a cache line: vectors of a row then share no line with another thread's.

    numpy.empty aligns to 16 bytes, by which every vector of 64 bytes would lie across two lines.
    """
    dtype = np.dtype(dtype)
    size = (math.prod(shape) if isinstance(shape, tuple) else int(shape)) * dtype.itemsize
    if size < SMALL:
        return np.empty(shape, dtype)
    memory = _bytes(size + LINE)
    first = -memory.__array_interface__["data"][0] % LINE
    array: np.ndarray = memory[first : first + size].view(dtype).reshape(shape)
    return array


def aligned(array: np.ndarray) -> np.ndarray:
    """The array, C-contiguous and beginning with a cache line: for what is read again and again."""
    if array.flags.c_contiguous and array.ctypes.data % LINE == 0:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def as_rows(array: np.ndarray) -> np.ndarray:
    """A (B, T, N) array as (B * T, N)."""
    return array.reshape(-1, array.shape[2])


def plain(array: np.ndarray) -> np.ndarray:
    """The same memory without the read-only flag, for which Numba would compile every kernel again.

    Kernels do not write to their IN arrays, so the mark loses nothing.
    """
    array = np.ascontiguousarray(array)
    if array.flags.writeable:
        return array
    return np.asarray(_Writeable(array))


class _Writeable:
    """The array interface of a read-only array, with the mark taken off; keeps the array alive."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}
