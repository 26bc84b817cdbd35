"""Graphs of the Neuromorphic Intermediate Representation, read as networks.

Owns the way through a graph, from its input to its output, and the metadata that blocksim leaves in graphs of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from blocksim._connections import Exponential
from blocksim._layer import Layer
from blocksim._linear_neurons import LinearIF
from blocksim._network import CountReadout, LeakyReadout, Network
from blocksim._neurons import ALIF, LIF
from blocksim._presets import CubaLIF
from blocksim._validation import found
from blocksim.errors import ArgumentError

KEY = "blocksim"  # of our metadata
WEIGHTED = ("Linear", "Affine")
SPIKING = ("LIF", "CubaLIF")


def own_of(node: Any) -> dict[str, Any]:
    """Our metadata of a node; empty where there is none."""
    given = (getattr(node, "metadata", None) or {}).get(KEY)
    if given is None:
        return {}
    try:
        read = json.loads(given.decode() if isinstance(given, bytes) else str(given))
    except ValueError as error:
        raise ArgumentError("source: expected blocksim's metadata as it wrote it; found other text") from error
    return read if isinstance(read, dict) else {}


class Weights(NamedTuple):
    """A node of weights."""

    matrix: np.ndarray  # (N, K), of NIR
    bias: Any  # (N,), or None
    kept: Mapping[str, Any]  # our metadata
    dtype: np.dtype[Any]

    def ours(self, factor: np.ndarray) -> tuple[np.ndarray, Any]:
        """Weights (K, N) and bias in our units, (N,) factors of theirs; those that were kept as they were."""
        matrix = self.kept.get(f"{KEY}_weights", (self.matrix / factor[:, None]).T.astype(self.dtype))
        if self.bias is None:
            return matrix, None
        given = self.kept.get(f"{KEY}_bias")
        if given is not None:
            return matrix, float(given) if np.ndim(given) == 0 else np.asarray(given)
        return matrix, (np.broadcast_to(self.bias, len(factor)) / factor).astype(self.dtype)


class Neurons(NamedTuple):
    """A node of another tool's neurons, (N,) each."""

    beta: np.ndarray
    decay: np.ndarray | None  # of the synapse; None of LIF
    leak: np.ndarray
    theta: np.ndarray
    reset: np.ndarray
    factor: np.ndarray  # of NIR's weights, in terms of ours

    def neuron(self, name: str, current: Any, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        """As ours, and the layer's bias with what leaks in."""
        values: Any = {"beta": self.beta.astype(dtype), "theta": self.theta.astype(dtype), "refractory_steps": 0}
        if self.decay is not None:
            if self.leak.any() or self.reset.any():
                raise ArgumentError(
                    f"source: expected leak and reset at 0 beside a synapse; found others, node {name!r}"
                )
            if current is not None and np.any(current):
                raise ArgumentError(f"source: expected weights without a bias before CubaLIF; found one, {name!r}")
            return CubaLIF(**values, synapses=(Exponential(self.decay.astype(dtype)),)), None
        if self.leak.any():
            current = ((1 - self.beta) * self.leak + (0 if current is None else current)).astype(dtype)
        if self.reset.any():
            return LinearIF(**values, v_reset=self.reset.astype(dtype)), current
        return LIF(**values), current


class Reader:
    """Goes through a graph from its input to its output."""

    def __init__(self, graph: Any, dt: float, discretisation: str, own: Mapping[str, Any]) -> None:
        self.nodes, self.dt, self.exact = dict(graph.nodes), dt, discretisation == "exact"
        # numbers that we kept belong to the time step that they were written with
        self.own = own if own.get("dt") == dt and not self.exact else {}
        self.after: dict[str, list[str]] = {name: [] for name in self.nodes}
        for start, stop in dict.fromkeys((str(start), str(stop)) for start, stop in graph.edges):
            self.after[start].append(stop)
        self.unread = {name for name, node in self.nodes.items() if type(node).__name__ not in ("Input", "Output")}

    def network(self) -> Network:
        """All of it."""
        start = self._only("Input")
        self._only("Output")
        layers: list[Layer] = []
        readout: CountReadout | LeakyReadout = CountReadout()
        at = self._next(start)
        while type(self.nodes[at]).__name__ != "Output":
            if not isinstance(readout, CountReadout):
                raise ArgumentError(f"source: expected an output after the leaky integrators; found {at!r}")
            weights = self._weights(at)
            neurons = self._next(at)
            kind = type(self.nodes[neurons]).__name__
            if kind in SPIKING:
                layers.append(self._layer(neurons, weights))
                at = self._next(neurons, but=self._loop(neurons)[0])
            elif kind == "LI":
                readout = self._readout(neurons, weights)
                at = self._next(neurons)
            else:
                raise ArgumentError(
                    f"source: expected {', '.join(SPIKING)} or LI after weights; found {kind}, node {neurons!r}"
                )
        if self.unread:
            raise ArgumentError(
                f"source: expected one chain of layers; found {', '.join(sorted(self.unread))} beside it"
            )
        if not layers:
            raise ArgumentError("source: expected at least one layer of spiking neurons; found none")
        return Network(tuple(layers), readout, dt=self.dt)

    def _only(self, kind: str) -> str:
        """The one node of that type."""
        named = [name for name, node in self.nodes.items() if type(node).__name__ == kind]
        if len(named) != 1:
            raise ArgumentError(f"source: expected one {kind} node; found {len(named)}")
        return str(named[0])

    def _next(self, name: str, but: str | None = None) -> str:
        """The one node that follows."""
        following = [each for each in self.after[name] if each != but]
        if len(following) != 1:
            raise ArgumentError(f"source: expected one node after {name!r}; found {', '.join(following) or 'none'}")
        return following[0]

    def _weights(self, name: str) -> Weights:
        node = self.nodes[name]
        if type(node).__name__ not in WEIGHTED:
            raise ArgumentError(
                f"source: expected {' or '.join(WEIGHTED)} before neurons; found {type(node).__name__}, node {name!r}"
            )
        self.unread.discard(name)
        weights = np.asarray(node.weight, np.float64)
        if weights.ndim != 2:
            raise ArgumentError(f"source: expected weights with two axes; found {weights.ndim}, node {name!r}")
        kept = (getattr(node, "metadata", None) or {}) if self.own else {}
        dtype = np.dtype(own_of(node).get("dtype", np.asarray(node.weight).dtype))
        known = dtype if dtype in (np.float32, np.float64) else np.dtype(np.float64)
        return Weights(weights, getattr(node, "bias", None), kept, known)

    def _decay(self, name: str, tau: Any) -> np.ndarray:
        """The decay factor in a step, of time constants in seconds."""
        ratio = self.dt / 1000 / np.atleast_1d(np.asarray(tau, np.float64))
        if self.exact:
            return np.asarray(np.exp(-ratio))
        if (ratio > 1 + 1e-9).any():
            raise ArgumentError(
                f"source: expected time constants of at least the time step, {self.dt:g} ms; found "
                f"{self.dt / float(ratio.max()):.3g} ms, node {name!r} (a smaller dt, or discretisation='exact')"
            )
        return np.asarray(np.maximum(1 - ratio, 0.0))

    def _loop(self, name: str) -> tuple[str | None, str | None]:
        """The recurrent weights of neurons, and the delay node behind them."""
        for each in self.after[name]:
            if type(self.nodes[each]).__name__ in WEIGHTED:
                following = self.after[each]
                if following == [name]:
                    return each, None
                behind = following[0] if len(following) == 1 else ""
                if type(self.nodes.get(behind)).__name__ == "Delay" and self.after[behind] == [name]:
                    return each, behind
        return None, None

    def _layer(self, name: str, weights: Weights) -> Layer:
        node, own = self.nodes[name], own_of(self.nodes[name])
        self.unread.discard(name)
        size = len(weights.matrix)
        known = bool(own and self.own)
        found_here = None if known else self._neurons(name, node, size)
        factor = factor_of(own, size) if found_here is None else found_here.factor
        matrix, current = weights.ours(factor)
        recurrent, latency = self._recurrence(name, factor)
        if found_here is None:
            return Layer(_neuron_of(own, matrix.dtype), matrix, current, recurrent, latency)
        neuron, current = found_here.neuron(name, current, matrix.dtype)
        return Layer(neuron, matrix, current, recurrent, latency)

    def _neurons(self, name: str, node: Any, size: int) -> Neurons:
        """Of another tool."""

        def each(value: Any) -> np.ndarray:
            return np.broadcast_to(np.asarray(value, np.float64), size)

        cuba = type(node).__name__ == "CubaLIF"
        beta = each(self._decay(name, node.tau_mem if cuba else node.tau))
        factor, decay = (1 - beta) * each(node.r), None
        if cuba:
            decay = each(self._decay(name, node.tau_syn))
            factor = factor * (1 - decay) * each(node.w_in)
        if (factor == 0).any():
            raise ArgumentError(f"source: expected resistances and weights that are not 0; found 0, node {name!r}")
        return Neurons(beta, decay, each(node.v_leak), each(node.v_threshold), each(node.v_reset), 1 / factor)

    def _recurrence(self, name: str, factor: np.ndarray) -> tuple[np.ndarray | None, int | None]:
        """The recurrent weights of neurons, and their latency in steps."""
        loop, delay = self._loop(name)
        if loop is None:
            return None, None
        weights = self._weights(loop)
        if weights.bias is not None and np.any(weights.bias):
            raise ArgumentError(f"source: expected recurrent weights without a bias; found one, node {loop!r}")
        recurrent, _ = weights.ours(factor)
        if delay is None:
            return recurrent, 1
        self.unread.discard(delay)
        steps = np.unique(np.asarray(self.nodes[delay].delay, np.float64) * 1000 / self.dt)
        if len(steps) != 1 or abs(steps[0] - round(float(steps[0]))) > 1e-6:
            raise ArgumentError(
                f"source: expected one delay of a whole number of steps of {self.dt:g} ms; found another, node "
                f"{delay!r}"
            )
        return recurrent, 1 + round(float(steps[0]))

    def _readout(self, name: str, weights: Weights) -> LeakyReadout:
        node = self.nodes[name]
        self.unread.discard(name)
        beta = np.unique(self._decay(name, node.tau))
        if len(beta) != 1 or np.any(node.v_leak):
            raise ArgumentError(
                f"source: expected one time constant, and no leak, of the readout; found others, {name!r}"
            )
        own = self.own.get("readout") == "leaky"
        keep = float(self.own["beta"]) if own else float(beta[0])
        size = len(weights.matrix)
        r = np.ones(size) if own else np.broadcast_to(np.asarray(node.r, np.float64), size)
        matrix, current = weights.ours(1 / ((1 - keep) * r))
        return LeakyReadout(matrix, current, keep, self.own.get("decode", "sum") if own else "sum")


def factor_of(own: Mapping[str, Any], size: int) -> np.ndarray:
    """The factors by which our weights of a layer are multiplied to be NIR's, (N,), from the layer's metadata."""
    factor = 1 / (1 - np.broadcast_to(np.asarray(own["beta"], np.float64), size))
    if own["kind"] == "CubaLIF":
        factor = factor * np.asarray(own["gain"]) / (1 - np.asarray(own["decay"], np.float64))
    return factor


def _neuron_of(own: Mapping[str, Any], dtype: np.dtype[Any]) -> Any:
    """A neuron as `_neurons` described it."""

    def of(name: str) -> Any:
        value = own[name]
        return (
            np.asarray(value, np.int32 if name == "refractory_steps" else dtype) if isinstance(value, list) else value
        )

    common = {name: of(name) for name in ("beta", "theta", "refractory_steps")}
    if own["kind"] == "ALIF":
        return ALIF(**common, p=of("p"), b=of("b"))
    if own["kind"] == "CubaLIF":
        return CubaLIF(**common, synapses=(Exponential(of("decay"), of("gain")),))
    if own["kind"] != "LIF":
        raise ArgumentError(f"source: expected LIF, ALIF or CubaLIF in blocksim's metadata; found {found(own['kind'])}")
    return LIF(**common)
