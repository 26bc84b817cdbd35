"""Few neurons without recurrence as one sample of many: neuron n of sample b becomes neuron b N + n.

Owns the fold and its inverse. Lanes that few neurons would leave empty are filled by other samples, and up to the width
by neurons that are zero throughout, so that no load or store is of a part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from blocksim.arrays import LinearLayer, Record

R = TypeVar("R", bound=Record)


def fold(array: np.ndarray | None, padded: int, axis: int = 0) -> Any:
    """(..., B, ..., N) as (..., 1, ..., padded), B being the axis named."""
    if array is None:
        return None
    between = range(axis + 1, array.ndim - 1)
    neurons = array.shape[axis] * array.shape[-1]
    wide = np.zeros((*array.shape[:axis], 1, *array.shape[axis + 1 : -1], padded), array.dtype)
    if not wide.size:
        return wide
    moved = array.transpose(*range(axis), *between, axis, array.ndim - 1)
    wide[..., :neurons] = moved.reshape(*array.shape[:axis], 1, *array.shape[axis + 1 : -1], neurons)
    return wide


def unfold(array: np.ndarray | None, batch: int, size: int, axis: int = 0) -> Any:
    """The inverse of `fold`."""
    if array is None:
        return None
    outer, inner = array.shape[:axis], array.shape[axis + 1 : -1]
    if not array.size:
        return np.empty((*outer, batch, *inner, size), array.dtype)
    split = array[..., : batch * size].reshape(*outer, *inner, batch, size)
    last = split.ndim - 1
    return np.ascontiguousarray(split.transpose(*range(axis), last - 1, *range(axis, last - 1), last))


def fold_record(record: R, padded: int) -> R:
    """Every array of a record."""
    return record.map(lambda array: fold(array, padded))


def unfold_record(record: R, batch: int, size: int) -> R:
    """Every array of a record."""
    return record.map(lambda array: unfold(array, batch, size))


def fold_layer(layer: LinearLayer, batch: int, padded: int) -> LinearLayer:
    """The layer with each neuron as often as there are samples; its inputs are given as currents."""

    def repeated(array: np.ndarray) -> np.ndarray:
        wide = np.zeros((*array.shape[:-1], padded), array.dtype)
        wide[..., : batch * layer.size] = np.tile(array, batch)
        return wide

    return replace(layer, neuron=layer.neuron.map(repeated), refractory=repeated(layer.refractory))
