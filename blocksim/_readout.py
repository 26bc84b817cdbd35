"""The readout of a network and its adjoint, equations (23)-(25), in the arrays of a backend.

Owns what becomes of the last layer's spikes; a network's layers are `blocksim._layer_pass`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from blocksim._events import Events
from blocksim._network import LeakyReadout
from blocksim._validation import finite
from blocksim.arrays import Array, Input
from blocksim.backend import Backend


@dataclass(frozen=True, eq=False)
class ReadoutGradients:
    """Gradients of a loss with respect to a `LeakyReadout`, equation (25).

    Attributes
    ----------
    weights : (N, C) array
    bias : float or (C,) array
        Of the bias's shape; (C,) for a readout without bias.
    beta : float
    """

    weights: Any
    bias: float | np.ndarray
    beta: float


@dataclass(frozen=True, eq=False)
class ReadoutPass:
    """A leaky readout's forward pass, and what its adjoint needs."""

    backend: Backend
    readout: LeakyReadout
    weights: Array  # (N, C)
    x: Input  # spikes of the last layer
    start: Array  # (B, C), U before the first step
    potential: Array  # (B, T, C), U of (23)
    output: Array  # (B, C), decoded, (24)

    def adjoint(
        self, grad_output: Array | None, grad_potential: Array | None, grad_after: Array | None
    ) -> tuple[Array, ReadoutGradients, Array]:
        """From gradients of output, of U, and of U after the last step: those of spikes, parameters, U before."""
        backend, readout, potential = self.backend, self.readout, self.potential
        steps = potential.shape[1]
        grad = backend.empty(potential.shape, potential.dtype)
        grad[...] = 0 if grad_potential is None else grad_potential
        if grad_output is not None:
            if readout.decode == "last":
                grad[:, -1] += grad_output
            elif readout.decode == "max":
                at = backend.asarray(np.arange(steps))[None, :, None] == potential.argmax(axis=1)[:, None]
                grad += at * grad_output[:, None]
            else:
                grad += grad_output[:, None] / (steps if readout.decode == "mean" else 1)
        if grad_after is not None:
            grad[:, -1] += grad_after
        current = backend.leaky_filter(grad, readout.beta, reverse=True)  # (25)
        by_class = backend.to_numpy(current.sum(axis=(0, 1)))
        earlier = (current[:, 1:] * potential[:, :-1]).sum() + (current[:, 0] * self.start).sum()
        one = readout.bias is not None and np.ndim(readout.bias) == 0
        found = ReadoutGradients(
            weights=backend.projection_adjoint(self.x, current),
            bias=float(by_class.sum()) if one else by_class,
            beta=float(earlier),
        )
        return backend.input_adjoint(current, self.weights), found, readout.beta * current[:, 0]


def readout_pass(
    backend: Backend, readout: LeakyReadout, x: Input, start: Array | None, dtype: np.dtype[Any]
) -> ReadoutPass:
    """Integrate the last layer's spikes, equations (23) and (24)."""
    batch, steps = x.shape[:2]
    shape = (batch, steps, readout.classes)
    with np.errstate(over="ignore"):
        converted = readout.weights.astype(dtype, copy=False)
    finite(f"readout: weights (as {dtype})", converted)
    weights = backend.asarray(converted, dtype)
    current = backend.empty(shape, dtype)
    bias = 0.0 if readout.bias is None else readout.bias
    current[...] = backend.asarray(np.broadcast_to(np.asarray(bias, dtype), (readout.classes,)), dtype)
    backend.projection(x, weights, current)
    if start is None:
        start = backend.asarray(np.zeros((batch, readout.classes), dtype))
    else:
        current[:, 0] += dtype.type(readout.beta) * start
    potential = backend.leaky_filter(current, readout.beta)
    decoded = {
        "sum": lambda: potential.sum(axis=1),
        "mean": lambda: potential.sum(axis=1) / dtype.type(steps),
        "last": lambda: potential[:, -1].copy(),
        "max": lambda: potential.max(axis=1),
    }[readout.decode]()
    return ReadoutPass(backend, readout, weights, x, start, potential, decoded)


def spike_counts(backend: Backend, x: Input, dtype: Any) -> Array:
    """Spikes of each neuron over time: (B, N), from events or from flags on a device."""
    batch, steps, size = x.shape
    if not isinstance(x, Events):
        return x.sum(axis=1).astype(dtype)
    edges = x.indptr[::steps]
    counts = np.empty((batch, size), dtype)
    for sample in range(batch):
        counts[sample] = np.bincount(x.indices[edges[sample] : edges[sample + 1]], minlength=size)
    return backend.asarray(counts)
