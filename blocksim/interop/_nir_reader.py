"""Graphs of the Neuromorphic Intermediate Representation, read as networks.

Owns the ways through a graph, from its input to its output. What layer they make of a node of neurons is
`blocksim.interop._nir_layers`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from blocksim._layer import Layer
from blocksim._network import CountReadout, LeakyReadout, Network
from blocksim.errors import ArgumentError, BlocksimWarning
from blocksim.interop._nir_graph import INPUT, OUTPUT, SPIKING, flat, kind_of
from blocksim.interop._nir_layers import Arrival, Heard, foreign, written
from blocksim.interop._nir_nodes import (
    WEIGHTED,
    Weights,
    decay_of,
    factors,
    floating,
    given,
    over,
    own_of,
    same_numbers,
    spread,
    steps_of,
    unseen,
)
from blocksim.interop._nir_writer import Writer


class Way(NamedTuple):
    """How a signal goes from the input, or from neurons, to the next neurons, or to the output."""

    nodes: tuple[str, ...]  # on the way
    stop: str
    weights: str | None  # None: one to one
    synapse: str | None  # a leaky integrator
    early: tuple[str, ...]  # delays before the weights
    late: tuple[str, ...]  # and after them, or without weights

    def on(self, name: str, kind: str, stop: str) -> Way | None:
        """The way that goes on through its stop to another; None where that is no node to go through."""
        nodes = (*self.nodes, name)
        if kind == "Delay":
            return self._replace(nodes=nodes, stop=stop, late=(*self.late, name))
        if kind in WEIGHTED and self.weights is None and self.synapse is None:
            return Way(nodes, stop, name, None, self.late, ())
        if kind == "LI" and self.synapse is None:
            return self._replace(nodes=nodes, stop=stop, synapse=name)
        return None

    def may_follow(self) -> tuple[str, ...]:
        """The kinds of nodes that may follow what it has gone through."""
        if self.synapse is not None:
            return (*SPIKING, OUTPUT)
        return ("LI", *SPIKING) if self.weights is not None else (*WEIGHTED, "LI", *SPIKING)


class Reader:
    """Goes through a graph from its input to its output; `own` is our metadata of it."""

    def __init__(self, nir: Any, graph: Any, dt: float, discretisation: str, own: Mapping[str, Any]) -> None:
        self.nir, self.own = nir, own
        self.nodes, self.after = flat(graph)
        self.dt, self.exact = dt, discretisation == "exact"
        # numbers that we kept belong to the time step that they were written with
        self.same_step = own.get("dt") == dt and not self.exact

    def network(self) -> Network:
        """All of it."""
        at, end = self._only(INPUT), self._only(OUTPUT)
        layers: dict[str, Layer] = {}
        read = {at, end}
        ways = self._ways(at)
        while True:
            stop = self._one_stop(at, ways)
            read.update(name for way in ways for name in way.nodes)
            if stop == end:
                break
            if stop in layers:
                raise ArgumentError(f"source: expected one chain of layers; found a way from {at!r} back to {stop!r}")
            onward = self._ways(stop)
            loops = [way for way in onward if way.stop == stop]
            layers[stop] = self._layer(stop, ways, loops)
            read.update([stop], (name for way in loops for name in way.nodes))
            at, ways = stop, [way for way in onward if way.stop != stop]
        unread = self.nodes.keys() - read
        if unread:
            raise ArgumentError(f"source: expected one chain of layers; found {', '.join(sorted(unread))} beside it")
        if not layers:
            raise ArgumentError("source: expected at least one layer of spiking neurons; found none")
        return Network(tuple(layers.values()), self._readout(ways[0]), dt=self.dt)

    def _only(self, kind: str) -> str:
        """The one node of that kind."""
        named = [name for name, node in self.nodes.items() if kind_of(node) == kind]
        if len(named) != 1:
            raise ArgumentError(f"source: expected one {kind} node; found {len(named)}")
        return named[0]

    def _ways(self, start: str) -> list[Way]:
        """All ways from a node, as far as they can be followed."""
        done = []
        open_ = [Way((), stop, None, None, (), ()) for stop in self.after[start]]
        while open_:
            way = open_.pop(0)
            further = [way.on(way.stop, kind_of(self.nodes[way.stop]), stop) for stop in self.after[way.stop]]
            followed = [each for each in further if each is not None]
            open_ = followed + open_  # in the order of the graph's edges
            if not followed:
                done.append(way)
        return done

    def _one_stop(self, at: str, ways: Sequence[Way]) -> str:
        """Where ways end, all at the same neurons or at the output."""
        for way in ways:
            kind = kind_of(self.nodes[way.stop])
            if kind not in (*SPIKING, OUTPUT):
                if not self.after[way.stop] and way.on(way.stop, kind, ""):
                    raise ArgumentError(f"source: expected a node after {way.stop!r}; found none")
                raise ArgumentError(
                    f"source: expected {' or '.join(way.may_follow())} after {(at, *way.nodes)[-1]!r}; found {kind}, "
                    f"node {way.stop!r}"
                )
        stops = list(dict.fromkeys(way.stop for way in ways))
        if not ways or (len(ways) > 1 and any(kind_of(self.nodes[stop]) == OUTPUT for stop in stops)):
            firsts = dict.fromkeys((*way.nodes, way.stop)[0] for way in ways)
            raise ArgumentError(f"source: expected one node after {at!r}; found {', '.join(firsts) or 'none'}")
        if len(stops) > 1:
            raise ArgumentError(
                f"source: expected one chain of layers; found ways from {at!r} to {' and '.join(stops)}"
            )
        return stops[0]

    def _layer(self, name: str, ways: Sequence[Way], loops: Sequence[Way]) -> Layer:
        heard = self._heard(name, ways, loops)
        own = own_of(heard.node)
        with _as_written(name):
            if own and self.same_step:
                layer = written(heard.node, heard.arrivals)
                if layer is not None and heard.is_same(self._written_again(layer)):
                    return layer
            lost = unseen(given(own.get("refractory_steps", 0)), own.get("kind") == "ALIF")
        if lost:
            why = "the graph was changed since" if self.same_step else "it is read for another time step or rule"
            warnings.warn(
                f"node {name!r}: blocksim's metadata has {lost}, which the layer is read without: {why}",
                BlocksimWarning, stacklevel=4,
            )  # fmt: skip
        return foreign(name, heard, self.dt, self.exact)

    def _heard(self, name: str, ways: Sequence[Way], loops: Sequence[Way]) -> Heard:
        """A node of neurons, with what ways bring to it."""
        arrivals = [self._arrival(way, loop) for loop, each in ((False, ways), (True, loops)) for way in each]
        return Heard(self.nodes[name], arrivals, self.nodes)

    def _written_again(self, layer: Layer) -> Heard:
        """The neurons of a layer, as they are in a graph that it is written to."""
        writer = Writer(self.nir, self.dt)
        writer.nodes["input"] = self.nir.Input(np.array([layer.inputs]))
        last = writer.layer(0, layer, "input")
        writer.nodes["output"] = self.nir.Output(np.array([layer.size]))
        writer.edges.append((last, "output"))
        graph = self.nir.NIRGraph(writer.nodes, writer.edges, type_check=False)
        again = Reader(self.nir, graph, self.dt, "euler", self.own)
        (name,) = (each for each, node in again.nodes.items() if kind_of(node) in SPIKING)
        return again._heard(name, again._ways("input"), [way for way in again._ways(name) if way.stop == name])

    def _readout(self, way: Way) -> CountReadout | LeakyReadout:
        if not way.nodes:
            return CountReadout()
        if way.synapse is None:
            raise ArgumentError(
                f"source: expected {', '.join(SPIKING)} or LI before the output; found node {way.nodes[-1]!r}"
            )
        weights, delay, _, _ = self._arrival(way, False)
        if np.any(delay):
            raise ArgumentError(
                f"source: expected no delay before the readout; found node {(*way.early, *way.late)[0]!r}"
            )
        node, size = self.nodes[way.synapse], len(weights.matrix)
        ours = self.own.get("readout") == "leaky"
        if ours and self.same_step and own_of(weights):
            with _as_written(way.synapse):
                factor = factors(self.own["beta"], (), size)[-1]
                matrix, bias = weights.as_written(factor), weights.bias_as_written(factor)
                readout = LeakyReadout(matrix, bias, self.own["beta"], self.own["decode"])
                again = Writer(self.nir, self.dt)
                if same_numbers(node, again.nodes[again.readout(readout, "")]):
                    return readout
        betas = decay_of(way.synapse, spread(way.synapse, node.tau, size), self.dt, self.exact)
        if len(np.unique(betas)) != 1 or np.any(node.v_leak):
            raise ArgumentError(
                f"source: expected one time constant, and no leak, of the readout; found others, node {way.synapse!r}"
            )
        factor = over(way.synapse, (1 - betas) * spread(way.synapse, node.r, size))
        bias = None if weights.bias is None else (weights.bias / factor).astype(weights.dtype)
        decode = self.own.get("decode", "sum") if ours else "sum"
        return LeakyReadout(weights.over(factor), bias, float(betas[0]), decode)

    def _arrival(self, way: Way, loop: bool) -> Arrival:
        """What a way brings to where it ends."""
        weights = self._weights(way)
        if way.late and weights.bias is not None and weights.bias.any():
            raise ArgumentError(
                f"source: expected no delay behind a bias; found node {way.late[0]!r} behind {weights.name!r}"
            )
        rows, columns = weights.matrix.shape
        delay = np.array(int(loop))  # a loop takes a step by itself
        for name in way.early:
            delay = delay + spread(name, steps_of(name, self.nodes[name], self.dt), columns).astype(int)[:, None]
        for name in way.late:
            delay = delay + spread(name, steps_of(name, self.nodes[name], self.dt), rows).astype(int)
        alike = (delay == delay.flat[0]).all()
        each = int(delay.flat[0]) if alike else np.broadcast_to(delay, (columns, rows))
        return Arrival(weights, each, loop, way.synapse)

    def _weights(self, way: Way) -> Weights:
        if way.weights is not None:
            return Weights.of(way.weights, self.nodes[way.weights])
        # an output has none to count, but its leaky integrators have
        name = str(way.synapse) if kind_of(self.nodes[way.stop]) == OUTPUT else way.stop
        node = self.nodes[name]
        values = np.asarray(node.r)
        if values.ndim != 1:
            raise ArgumentError(
                f"source: expected weights, or parameters with one axis, to count neurons by; found {values.ndim} "
                f"axes, node {name!r}"
            )
        return Weights.one_to_one(name, values.size, floating(values.dtype))


@contextlib.contextmanager
def _as_written(name: str) -> Iterator[None]:
    """Metadata that blocksim did not write so is an error in the graph."""
    try:
        yield
    except ArgumentError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArgumentError(
            f"source: expected metadata as blocksim writes it; found others ({type(error).__name__}: {error}), node "
            f"{name!r}"
        ) from error
