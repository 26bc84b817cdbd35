"""Layers of the nodes of the Neuromorphic Intermediate Representation: blocksim's own, and those of other tools.

Owns what layer a node of neurons makes of all that arrives at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from blocksim._connections import Connection, Exponential
from blocksim._layer import Layer
from blocksim._linear_neurons import LinearIF
from blocksim._neurons import LIF
from blocksim._presets import CubaLIF
from blocksim.errors import ArgumentError
from blocksim.interop._nir_graph import kind_of
from blocksim.interop._nir_nodes import (
    Neurons,
    Weights,
    decay_of,
    factors,
    given,
    neuron_of,
    over,
    own_of,
    same_numbers,
    spread,
)

# of weights and biases that were taken from a node in single precision
ROUNDING = 1e-6


class Arrival(NamedTuple):
    """What neurons hear on one way."""

    weights: Weights
    delay: int | np.ndarray  # in steps: one, or (K, N); the step that a loop takes by itself is among them
    loop: bool  # of the neurons' own spikes
    synapse: str | None  # the node of leaky integrators that it goes through


class Heard(NamedTuple):
    """Neurons, and what arrives at them."""

    node: Any
    arrivals: Sequence[Arrival]
    integrators: Mapping[str, Any]  # the nodes of the graph by name, LI among them

    def is_same(self, other: Heard) -> bool:
        """Whether both make one layer: neurons and synapses equal to the bit, weights and biases but for rounding."""
        if not same_numbers(self.node, other.node) or len(self.arrivals) != len(other.arrivals):
            return False
        pairs = zip(sorted(self.arrivals, key=_place), sorted(other.arrivals, key=_place), strict=True)
        return all(
            one.loop == two.loop
            and np.array_equal(one.delay, two.delay)
            and same_numbers(self._synapse(one), other._synapse(two))
            and _close(one.weights.matrix, two.weights.matrix)
            and _close(one.weights.bias, two.weights.bias)
            for one, two in pairs
        )

    def _synapse(self, one: Arrival) -> Any:
        return None if one.synapse is None else self.integrators[one.synapse]


def _place(one: Arrival) -> tuple[bool, int, int]:
    """Where an arrival is among those of a layer that blocksim wrote."""
    own = own_of(one.weights)
    return one.loop, own.get("connection", -1), own.get("part", 0)


def _close(one: np.ndarray | None, two: np.ndarray | None) -> bool:
    if one is None or two is None:
        return one is two
    return one.shape == two.shape and bool((np.abs(one - two) <= ROUNDING * np.abs(one).max(initial=0.0)).all())


def written(node: Any, arrivals: Sequence[Arrival]) -> Layer | None:
    """A layer as `Writer.layer` wrote it, bit for bit; None where there are ways that it does not write.

    Weights and biases are the graph's where they were changed since.
    """
    own = own_of(node)
    neuron, synapses = neuron_of(own)
    factor = factors(neuron.beta, synapses, len(arrivals[0].weights.matrix), kind_of(node) == "CubaLIF")
    # by connection; None for weights that are the layer's own
    each: dict[bool, dict[int | None, list[Arrival]]] = {False: {}, True: {}}
    for one in arrivals:
        each[one.loop].setdefault(own_of(one.weights).get("connection"), []).append(one)
    plain, loops = (each[loop].pop(None, []) for loop in (False, True))
    if len(plain) > 1 or len(loops) > 1 or any(np.ndim(one.delay) for one in loops):
        return None
    weights, bias = None, given(own.get("bias"))
    for one in plain:
        weights = one.weights.as_written(factor[0])
        bias = bias if one.weights.bias is None else one.weights.bias_as_written(factor[0])
    recurrent, latency = None, own["latency_steps"]
    for one in loops:
        recurrent, latency = one.weights.as_written(factor[0]), one.delay
    inputs, back = ([_joined(parts, factor) for _, parts in sorted(each[loop].items())] for loop in (False, True))
    return Layer(
        neuron, weights, bias, back or recurrent, latency,
        inputs=inputs, synapses=() if isinstance(neuron, CubaLIF) else synapses,
    )  # fmt: skip


def _joined(parts: list[Arrival], factor: Sequence[np.ndarray]) -> Connection:
    """A connection of its parts, which have one delay each."""
    parts = sorted(parts, key=lambda part: own_of(part.weights)["part"])
    first = parts[0].weights
    synapse, delays = own_of(first)["synapse"], first.kept("delay_steps")
    scale = factor[min(synapse, len(factor) - 1)]
    weights = first.as_written(scale)
    for part in parts[1:]:
        weights = np.where(np.equal(delays, part.delay), part.weights.as_written(scale), weights)
    return Connection(weights, parts[0].delay if delays is None else delays, synapse, first.kept("present"))


def foreign(name: str, heard: Heard, dt: float, exact: bool) -> Layer:
    """A layer of another tool's neurons."""
    node, arrivals, integrators = heard
    size, dtype = len(arrivals[0].weights.matrix), arrivals[0].weights.dtype
    for one in arrivals:
        if len(one.weights.matrix) != size:
            raise ArgumentError(
                f"source: expected weights to {size} neurons; found {len(one.weights.matrix)}, node "
                f"{one.weights.name!r}"
            )
    neurons = Neurons.of(name, node, size, dt, exact)
    decays, receptors = _receptors(neurons, arrivals, integrators, dt, exact)
    made = [
        Connection(one.weights.over(factor), one.delay, number)
        for one in arrivals
        for number, factor in [receptors[one.synapse]]
    ]
    inputs = [each for one, each in zip(arrivals, made, strict=True) if not one.loop]
    loops = [each for one, each in zip(arrivals, made, strict=True) if one.loop]
    neuron, synapses = _neuron(neurons, [Exponential(decay.astype(dtype)) for decay in decays], dtype)
    bias = _bias(neurons, arrivals, dtype)
    plain = len(inputs) == 1 and len(loops) <= 1 and not any(each.synapse or np.ndim(each.delay_steps) for each in made)
    if plain and not inputs[0].delay_steps:
        back: Any = (loops[0].weights, loops[0].delay_steps) if loops else ()
        return Layer(neuron, inputs[0].weights, bias, *back, synapses=synapses)
    return Layer(neuron, bias=bias, recurrent=loops or None, inputs=inputs, synapses=synapses)


def _receptors(
    neurons: Neurons, arrivals: Sequence[Arrival], integrators: Mapping[str, Any], dt: float, exact: bool
) -> tuple[list[np.ndarray], dict[str | None, tuple[int, np.ndarray]]]:
    """The decays of the receptors; and the number of each, by its LI node, with what our weights are multiplied by."""
    size = len(neurons.beta)
    decays = [] if neurons.decay is None else [neurons.decay]
    receptors: dict[str | None, tuple[int, np.ndarray]] = {}
    for synapse in dict.fromkeys(one.synapse for one in arrivals if one.synapse is not None):
        if neurons.decay is not None:
            raise ArgumentError(f"source: expected no LI before CubaLIF, a synapse itself; found node {synapse!r}")
        node = integrators[synapse]
        if np.any(node.v_leak):
            raise ArgumentError(f"source: expected no leak of LI before neurons; found one, node {synapse!r}")
        decay = decay_of(synapse, spread(synapse, node.tau, size), dt, exact)
        receptors[synapse] = len(decays), neurons.factor * over(synapse, (1 - decay) * spread(synapse, node.r, size))
        decays.append(decay)
    receptors[None] = 0 if neurons.decay is not None else len(decays), neurons.factor
    return decays, receptors


def _neuron(neurons: Neurons, synapses: list[Exponential], dtype: np.dtype[Any]) -> tuple[Any, list[Exponential]]:
    """The neurons, and the receptors that they do not bring themselves."""
    common: Any = {"beta": neurons.beta.astype(dtype), "theta": neurons.theta.astype(dtype), "refractory_steps": 0}
    if neurons.reset.any():
        return LinearIF(**common, v_reset=neurons.reset.astype(dtype)), synapses
    if neurons.decay is not None:
        return CubaLIF(**common, synapses=synapses), []
    return LIF(**common), synapses


def _bias(neurons: Neurons, arrivals: Sequence[Arrival], dtype: np.dtype[Any]) -> np.ndarray | None:
    """The constant current: of all weights before the neurons, and of what leaks in."""
    parts = [(1 - neurons.beta) * neurons.leak] if neurons.leak.any() else []
    for weights, _, _, synapse in arrivals:
        if weights.bias is None:
            continue
        if synapse is None and neurons.decay is None:
            parts.append(weights.bias / neurons.factor)
        elif weights.bias.any():  # it would come up slowly, and no layer here has that
            raise ArgumentError(
                f"source: expected weights without a bias before a synapse; found one, node {weights.name!r}"
            )
    return np.asarray(sum(parts)).astype(dtype) if parts else None
