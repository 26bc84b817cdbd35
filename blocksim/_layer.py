"""A layer: neurons with their input weights, bias and recurrent weights, equation (2), checked once and frozen.

Owns the shapes that belong together; `blocksim._simulation` turns a layer into the arrays a backend computes with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from blocksim._neurons import MAX_REFRACTORY_STEPS, Neuron
from blocksim._parameters import parameter, replacements, values
from blocksim._validation import finite, found, frozen, real_array, whole
from blocksim._validation import parameter as checked
from blocksim.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of neurons and its connections.

    Parameters
    ----------
    neuron : LIF or ALIF
        The neurons; parameters given as arrays must have one value a neuron.
    weights : (K, N) array or None
        Input weights: x[t] @ weights is the current. None: the input is the current itself, of shape (..., N), or
        (..., 1) for one current shared by all neurons.
    bias : float, (N,) array or None
        Constant current, None for zero.
    recurrent : (N, N) array or None
        Weights from spikes of this layer, row = from, column = to. None: no recurrence.
    latency_steps : int or None
        Steps D from a spike to its recurrent current, at least 1. None gives the (shortest) refractory period + 1, the
        longest block; a shorter latency makes blocks as short as itself.

    Raises
    ------
    ArgumentError
        Shapes do not fit together, values are not finite, or the latency is no whole number of steps, 1 or more.

    Notes
    -----
    Arrays are copied: a layer does not change when the arrays it was made from do. Make a changed layer with
    `dataclasses.replace(layer, weights=...)`.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import LIF, Layer
    >>> layer = Layer(LIF(beta=0.9, refractory_steps=4), weights=np.ones((3, 2)), recurrent=np.zeros((2, 2)))
    >>> layer.inputs, layer.size, layer.latency_steps
    (3, 2, 5)
    >>> Layer(LIF(beta=0.9, refractory_steps=4), recurrent=np.zeros((2, 2)), latency_steps=2).block_length
    2
    """

    neuron: Neuron
    weights: np.ndarray | None = parameter("input weights", axes=("input", "neuron"), unit="potential", default=None)
    bias: float | np.ndarray | None = parameter("constant current", unit="potential", default=None)
    recurrent: np.ndarray | None = parameter(
        "recurrent weights", axes=("neuron", "neuron"), unit="potential", default=None
    )
    latency_steps: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.neuron, Neuron):
            raise ArgumentError(f"neuron: expected a blocksim.LIF or blocksim.ALIF; found {found(self.neuron)}")
        set_field = object.__setattr__
        sizes = {"neuron": self.neuron.size}
        if self.weights is not None:
            set_field(self, "weights", matrix("weights", self.weights, "(inputs, neurons)"))
            sizes["weights"] = self.weights.shape[1]
        if self.recurrent is not None:
            set_field(self, "recurrent", matrix("recurrent", self.recurrent, "(neurons, neurons)"))
            rows, columns = self.recurrent.shape
            if rows != columns:
                raise ArgumentError(f"recurrent: expected a square (neurons, neurons) array; found {rows} x {columns}")
            sizes["recurrent"] = columns
        if self.bias is not None:
            set_field(self, "bias", checked("bias", self.bias, "finite numbers", np.isfinite))
            sizes["bias"] = np.size(self.bias) if np.ndim(self.bias) else None
        known = {name: size for name, size in sizes.items() if size is not None}
        if len(set(known.values())) > 1:
            raise ArgumentError(
                "layer: expected one number of neurons throughout; found "
                + ", ".join(f"{size} from {name}" for name, size in known.items())
            )
        default = self.neuron.block_length
        latency = default if self.latency_steps is None else whole("latency_steps", self.latency_steps, 1)
        if latency > MAX_REFRACTORY_STEPS + 1:
            raise ArgumentError(f"latency_steps: expected at most {MAX_REFRACTORY_STEPS + 1}; found {latency}")
        set_field(self, "latency_steps", latency)

    @cached_property
    def size(self) -> int | None:
        """Number of neurons N; None where nothing in the layer fixes it (then the input does)."""
        for array in (self.weights, self.recurrent):
            if array is not None:
                return int(array.shape[1])
        if self.neuron.size is not None:
            return self.neuron.size
        return np.size(self.bias) if self.bias is not None and np.ndim(self.bias) else None

    @cached_property
    def block_length(self) -> int:
        """Longest exact block in steps: the shortest refractory period plus one, or the recurrent latency."""
        longest = self.neuron.block_length
        if self.recurrent is None:
            return longest
        assert self.latency_steps is not None
        return min(longest, self.latency_steps)

    @property
    def inputs(self) -> int | None:
        """Number of inputs K; None without weights."""
        return None if self.weights is None else int(self.weights.shape[0])

    @cached_property
    def floating_dtypes(self) -> frozenset[np.dtype[Any]]:
        """The dtypes of the layer's floating arrays: what the computing precision is chosen from."""
        arrays = [self.weights, self.recurrent, self.bias, *self.neuron.parameters().values()]
        return frozenset(a.dtype for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f")

    def parameters(self) -> dict[str, np.ndarray]:
        """The layer's parameters and its neurons', by name: those that a gradient belongs to.

        Parameters that are one number for all neurons are arrays without axes.
        """
        return values(self) | values(self.neuron)

    def with_parameters(self, parameters: Mapping[str, Any]) -> Layer:
        """A layer with these parameters in place of its own, all or some, named as `parameters` names them.

        Raises
        ------
        ArgumentError
            A name is unknown, or a value has another shape than the parameter, or is out of its range.
        """
        given = replacements("", self.parameters(), dict(parameters))
        of_neuron = {name: value for name, value in given.items() if name in values(self.neuron)}
        own = {name: value for name, value in given.items() if name not in of_neuron}
        neuron: Any = replace(self.neuron, **of_neuron) if of_neuron else self.neuron  # type: ignore[type-var]
        return replace(self, neuron=neuron, **own)


def matrix(name: str, value: Any, shape: str) -> np.ndarray:
    """Check a matrix of weights; returns a copy of its own, of at least float32. `shape` says in words what it is."""
    array = real_array(name, value)
    if array.ndim != 2 or 0 in array.shape:
        raise ArgumentError(f"{name}: expected a non-empty array of shape {shape}; found {found(array)}")
    finite(name, array)
    dtype = np.promote_types(array.dtype, np.float32) if array.dtype.kind == "f" else np.dtype(np.float64)
    return frozen(np.array(array, dtype=dtype, order="C"))
