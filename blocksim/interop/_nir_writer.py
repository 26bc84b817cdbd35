"""Networks, written as graphs of the Neuromorphic Intermediate Representation.

Owns the nodes and edges that a layer and a readout become. A synapse is a leaky integrator before the neurons, or a
part of them where all that they hear goes through it; what several connections bring adds up where their edges meet.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from blocksim._connections import Connection, Exponential
from blocksim._layer import Layer
from blocksim._network import LeakyReadout
from blocksim._neurons import ALIF
from blocksim.errors import ArgumentError, BlocksimWarning
from blocksim.interop._nir_nodes import KEY, NEURONS, described, factors, kept, neuron_kept, unseen, weights_node


class Writer:
    """Collects the nodes and edges of a graph; dt in ms."""

    def __init__(self, nir: Any, dt: float) -> None:
        self.nir, self.dt = nir, dt
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []

    def layer(self, place: int, layer: Layer, last: str) -> str:
        """Write a layer that hears the node `last`; returns the node that is its neurons, or holds them."""
        _expressible(place, layer)
        # a synapse filters all that goes through it, so that a bias belongs to weights without one, or to the leak
        bias_in_weights = layer.weights is not None and (not layer.receptors or layer.receptors[0] is None)
        name, into = self._neurons(place, layer, bias_in_weights)
        if layer.weights is not None:
            target, scale = into(0)
            weights = weights_node(self.nir, layer.weights, scale, layer.bias if bias_in_weights else None)
            self._way(last, f"{place}.weights", weights, "", 0, target)
        for number, each in enumerate(layer.input_connections):
            self._connection(f"{place}.inputs.{number}", number, each, last, *into(each.synapse), 0)
        ahead = len(self.nodes)
        # a loop takes a step by itself
        if isinstance(layer.recurrent, np.ndarray):
            target, scale = into(0)
            weights = weights_node(self.nir, layer.recurrent, scale)
            self._way(name, f"{place}.recurrent", weights, f"{place}.delay", int(layer.latency_steps or 1) - 1, target)
        for number, each in enumerate(layer.recurrent_connections):
            self._connection(f"{place}.recurrent.{number}", number, each, name, *into(each.synapse), 1)
        synapses = self._synapses(place)
        loops = [each for each in list(self.nodes)[ahead:] if each not in synapses]
        for node in (*synapses, name, *loops):
            self.nodes[node] = self.nodes.pop(node)  # NIRTorch goes by the order of nodes
        # an edge into a graph says no more than the graph's name: neurons are its one way in, or there is none
        if not loops or synapses:
            return name
        self._nest(str(place), [name, *loops], int(layer.size or 0))
        return str(place)

    def _synapses(self, place: int) -> list[str]:
        """The synapses of a layer that are nodes of their own."""
        return [name for name in self.nodes if name.startswith(f"{place}.synapses.")]

    def _nest(self, graph: str, names: list[str], size: int) -> None:
        """Put neurons and their loops into a graph of their own, the one form in which snnTorch reads them rightly."""

        def short(name: str) -> str:
            return name.removeprefix(f"{graph}.")

        neurons = names[0]
        first, last = self.nir.Input(np.array([size])), self.nir.Output(np.array([size]))
        loops = [(short(start), short(stop)) for start, stop in self.edges if start in names]
        # the way out last: the last node that Norse comes to is what it gives out
        edges = [("input", short(neurons)), *loops, (short(neurons), "output")]
        self.edges = [(start, graph if stop == neurons else stop) for start, stop in self.edges if start not in names]
        inner = {short(name): self.nodes.pop(name) for name in names}
        self.nodes[graph] = self.nir.NIRGraph({"input": first, **inner, "output": last}, edges)

    def _neurons(
        self, place: int, layer: Layer, bias_in_weights: bool
    ) -> tuple[str, Callable[[int], tuple[str, np.ndarray]]]:
        """Write a layer's neurons; returns their name, and what gives the node of each receptor and its factor."""
        neuron: Any = layer.neuron
        nir, size, synapses, name = self.nir, int(layer.size or 0), layer.receptors, f"{place}.neurons"
        factor = factors(neuron.beta, synapses, size)
        own, leak = neuron_kept(neuron, synapses) | {"latency_steps": layer.latency_steps}, np.zeros(size)
        if not bias_in_weights:
            own["bias"] = kept(layer.bias)
            leak = leak + (0 if layer.bias is None else layer.bias * factor[-1])
        common = {
            "r": np.ones(size), "v_leak": leak, "v_reset": np.zeros(size),
            "v_threshold": np.broadcast_to(np.asarray(neuron.theta, np.float64), size).copy(),
            "metadata": described(own),
        }  # fmt: skip
        inside: Any = synapses[0] if len(synapses) == 1 else None
        connections = (*layer.input_connections, *layer.recurrent_connections)
        # Norse lets the synapse of a CubaLIF leak to v_leak too
        if inside is not None and not leak.any() and not any(each.synapse for each in connections):
            tau_mem, tau_syn = self._tau(neuron.beta, size), self._tau(inside.decay, size)
            common |= {"r": tau_mem * 1000 / self.dt, "w_in": tau_syn * 1000 / self.dt}
            self.nodes[name] = nir.CubaLIF(tau_mem=tau_mem, tau_syn=tau_syn, **common)
            inner = factors(neuron.beta, synapses, size, inside=True)[0]
            return name, lambda _: (name, inner)
        self.nodes[name] = nir.LIF(tau=self._tau(neuron.beta, size), **common)

        def into(number: int) -> tuple[str, np.ndarray]:
            synapse: Any = synapses[number] if number < len(synapses) else None
            if synapse is None:
                return name, factor[-1]
            node = f"{place}.synapses.{number}"
            if node not in self.nodes:
                self.nodes[node] = nir.LI(self._tau(synapse.decay, size), np.ones(size), np.zeros(size))
                self.edges.append((node, name))
            return node, factor[number]

        return name, into

    def readout(self, readout: LeakyReadout, last: str) -> str:
        """Write a readout that hears the node `last`; returns the name of its leaky integrators."""
        name, classes = "readout.neurons", readout.classes
        weights = weights_node(self.nir, readout.weights, factors(readout.beta, (), classes)[-1], readout.bias)
        self._way(last, "readout.weights", weights, "", 0, name)
        self.nodes[name] = self.nir.LI(self._tau(readout.beta, classes), np.ones(classes), np.zeros(classes))
        return name

    def _connection(
        self, name: str, number: int, one: Connection, start: str, stop: str, factor: np.ndarray, own_steps: int
    ) -> None:
        """Write a connection: weights, and a Delay, for each of its delays; the way itself takes `own_steps`."""
        parts = list(one.by_delay())
        for part, (delay, where) in enumerate(parts):
            this = f"{name}.{part}" if len(parts) > 1 else name
            weights = one.weights if where is None else np.where(where, one.weights, 0).astype(one.weights.dtype)
            node = weights_node(self.nir, weights, factor, connection=number, part=part, synapse=one.synapse)
            if part == 0:
                arrays = {"delay_steps": one.delay_steps, "present": one.present}
                node.metadata |= {
                    f"{KEY}_{what}": array for what, array in arrays.items() if isinstance(array, np.ndarray)
                }
            self._way(start, f"{this}.weights", node, f"{this}.delay", delay - own_steps, stop)

    def _way(self, start: str, name: str, weights: Any, delay_name: str, steps: int, stop: str) -> None:
        """Weights, and a delay behind them where there is one, from a node to another."""
        self.nodes[name] = weights
        self.edges.append((start, name))
        if steps:
            self.nodes[delay_name] = self.nir.Delay(np.full(len(weights.weight), steps * self.dt / 1000))
            self.edges.append((name, delay_name))
            name = delay_name
        self.edges.append((name, stop))

    def _tau(self, decay: Any, size: int) -> np.ndarray:
        """The time constant in seconds that Euler's rule makes a decay factor of, (size,)."""
        return self.dt / 1000 / (1 - np.broadcast_to(np.asarray(decay, np.float64), size))


def _expressible(place: int, layer: Layer) -> None:
    """Raise unless NIR has nodes for a layer."""
    where, kind = f"network: layer {place}", type(layer.neuron)
    if kind not in NEURONS.values():
        raise ArgumentError(f"{where}: expected {', '.join(NEURONS)} neurons, as NIR has them; found {kind.__name__}")
    if layer.weights is None and not layer.input_connections:
        raise ArgumentError(f"{where}: expected weights or inputs; found neither")
    for synapse in layer.receptors:
        if synapse is not None and type(synapse) is not Exponential:
            raise ArgumentError(
                f"{where}: expected exponential synapses, as NIR's leaky integrators are; found "
                f"{type(synapse).__name__}"
            )


def tell_what_is_unseen(place: int, layer: Layer) -> None:
    """Warn of what a layer has that NIR has no node for."""
    what = unseen(layer.neuron.refractory_steps, isinstance(layer.neuron, ALIF))
    if what:
        warnings.warn(
            f"layer {place}: NIR has no node for {what}; blocksim finds it in the metadata, other tools do not",
            BlocksimWarning, stacklevel=3,
        )  # fmt: skip
