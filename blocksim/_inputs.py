"""Input of a layer: what a caller may pass as x, checked, and the form in which kernels read it.

Owns the choice of the computing precision, and of the form in which a backend reads x.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from blocksim._events import Events
from blocksim._layer import Layer
from blocksim._validation import finite, found, real_array
from blocksim.backend import Backend
from blocksim.errors import ArgumentError


def read_input(x: Any, layer: Layer, batch_size: int | None, backend: Backend) -> tuple[Any, bool]:
    """Check x against a layer; return it as an array (B, T, K) or events, and whether it had a batch axis."""
    if _is_csr(x):
        if batch_size is None:
            raise ArgumentError(
                f"batch_size: expected the number of samples in the CSR array of shape {x.shape}, which holds "
                "(batch * time, K); found None"
            )
        x = Events.from_csr(x, batch_size)
    elif batch_size is not None:
        raise ArgumentError("batch_size: expected None unless x is a SciPy CSR array; found " + repr(batch_size))
    if isinstance(x, Events):
        batched = True
    else:
        x = numbers("x", x, backend)
        if x.ndim not in (2, 3) or 0 in x.shape:
            raise ArgumentError(
                f"x: expected a non-empty array of shape (time, {layer.inputs or 'K'}) or "
                f"(batch, time, {layer.inputs or 'K'}); found {found(x)}"
            )
        batched = x.ndim == 3
        x = x if batched else x[None]
    columns = x.shape[2]
    if layer.inputs is not None and columns != layer.inputs:
        raise ArgumentError(
            f"x: expected {layer.inputs} inputs in its last axis, one a row of the weights; found {columns}"
        )
    if layer.inputs is None and layer.size is not None and columns not in (1, layer.size):
        raise ArgumentError(
            f"x: expected a current for each of {layer.size} neurons, or one for all, in its last axis (the layer has "
            f"no weights); found {columns}"
        )
    return x, batched


def numbers(name: str, array: Any, backend: Backend) -> Any:
    """The array if the backend owns it and it holds real numbers, else as a NumPy array of real numbers, or raise."""
    return array if backend.owns(array) and array.dtype.kind in "biuf" else real_array(name, array)


def finite_numbers(name: str, array: Any, backend: Backend) -> None:
    """Raise if an array, NumPy's or the backend's, holds NaN or infinity."""
    finite(name, array, backend.to_numpy if backend.owns(array) else np.asarray)


def computing_dtype(x: Any, dtypes: frozenset[np.dtype[Any]]) -> np.dtype[Any]:
    """float32 or float64: NumPy's promotion of x, if it is floating, and `dtypes`, those of a layer; float64 if none.

    Bool and integer arrays, events and plain numbers carry no precision and do not take part.
    """
    if not isinstance(x, Events) and x.dtype.kind == "f":
        dtypes |= {x.dtype}
    if not dtypes:
        return np.dtype(np.float64)
    return np.result_type(np.float32, *dtypes)


def prepare(x: Any, layer: Layer, backend: Backend, dtype: np.dtype[Any]) -> Any:
    """The form a backend computes with: events where x is spikes, else real numbers of the computing dtype.

    Floating numbers on a device are not searched for spikes. Raises `ArgumentError` if x holds NaN or infinity.
    """
    if backend.owns(x):
        finite_numbers("x", x, backend)
        spikes = backend.events(x) if layer.inputs is not None and x.dtype.kind != "f" else None
        return backend.asarray(x, dtype) if spikes is None else spikes
    if isinstance(x, np.ndarray) and ((x.dtype.itemsize == 2 and x.dtype.kind == "f") or not x.dtype.isnative):
        # kernels read neither float16 nor foreign byte orders
        x = x.astype(np.float32 if x.dtype.itemsize == 2 and x.dtype.kind == "f" else x.dtype.newbyteorder("="))
    if isinstance(x, np.ndarray) and layer.inputs is not None:
        sparse = backend.events(x)
        if sparse is not None:
            return sparse
    if isinstance(x, Events):
        return x if layer.inputs is not None else backend.asarray(x.to_dense(dtype))
    finite("x", x)
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(x, dtype=dtype)
    if converted.dtype != x.dtype and x.dtype.kind == "f":
        finite("x (as float32)", converted)
    return backend.asarray(converted)


def imposed_spikes(given: Any, shape: tuple[int, int, int], layer: Layer, left: np.ndarray) -> np.ndarray:
    """Spikes that a layer is given, checked: a bool array (B, T, N) of its own.

    shape : (B, T, N); left : (B, N), steps for which each neuron is refractory at the start.
    """
    array = given.to_dense(np.float32) if isinstance(given, Events) else real_array("impose", given)
    if array.shape not in (shape, shape[1:]) or (array.ndim == 2 and shape[0] != 1):
        raise ArgumentError(f"impose: expected spikes of shape {shape}, of the run's; found {array.shape}")
    finite("impose", array)
    if ((array != 0) & (array != 1)).any():
        raise ArgumentError("impose: expected True where a neuron spikes, at most once in a step; found other numbers")
    spikes: np.ndarray = (array != 0).reshape(shape)
    samples, neurons, steps = np.nonzero(spikes.transpose(0, 2, 1))
    period = np.broadcast_to(np.asarray(layer.neuron.refractory_steps), shape[2:])[neurons]
    before = np.concatenate([[-1], steps[:-1]])
    same = np.concatenate([[False], (np.diff(samples) == 0) & (np.diff(neurons) == 0)]) if len(steps) else period > 0
    early = np.where(same, steps - before <= period, steps < left[samples, neurons])
    if early.any():
        first = int(np.flatnonzero(early)[0])
        raise ArgumentError(
            f"impose: expected no spike in a neuron's refractory period ({period[first]} steps after a spike); found "
            f"one of neuron {neurons[first]} of sample {samples[first]} at step {steps[first]}"
            + (f", after one at {before[first]}" if same[first] else ", in that of a spike before the run")
        )
    return spikes


def _is_csr(x: Any) -> bool:
    """Whether x is a SciPy CSR array or matrix, told without importing SciPy."""
    return getattr(x, "format", None) == "csr" and hasattr(x, "indptr") and hasattr(x, "indices")
