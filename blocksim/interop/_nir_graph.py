"""Graphs of the Neuromorphic Intermediate Representation, made flat.

Owns what an edge into or out of a nested graph joins, and the check that every loop has neurons in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from blocksim._validation import items
from blocksim.errors import ArgumentError

GRAPH, INPUT, OUTPUT = "NIRGraph", "Input", "Output"
SPIKING = ("LIF", "CubaLIF")


class Flat(NamedTuple):
    """A graph without nested graphs."""

    nodes: dict[str, Any]
    after: dict[str, list[str]]  # the nodes that each leads to


def kind_of(node: Any) -> str:
    """The name by which NIR knows a node."""
    return type(node).__name__


def flat(graph: Any) -> Flat:
    """A graph without nested graphs: "sub.node" is node "node" of nested graph "sub".

    Input and Output nodes of nested graphs go, and the edges that meet in them are joined.
    """
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    open_: list[tuple[str, Any, tuple[int, ...]]] = [("", graph, ())]
    ports: set[str] = set()
    while open_:
        prefix, here, above = open_.pop()
        if id(here) in above:
            raise ArgumentError(f"source: expected nested graphs that end; found {prefix[:-1]!r} inside itself")
        for name, node in here.nodes.items():
            full = f"{prefix}{name}"
            if full in nodes:
                raise ArgumentError(f"source: expected one node of each name; found {full!r} twice")
            if kind_of(node) == GRAPH:
                open_.append((f"{full}.", node, (*above, id(here))))
                continue
            nodes[full] = node
            if prefix and kind_of(node) in (INPUT, OUTPUT):
                ports.add(full)
        edges += [
            (_end(prefix, here, start, OUTPUT), _end(prefix, here, stop, INPUT))
            for start, stop in map(_pair, here.edges)
        ]
    after: dict[str, list[str]] = {name: [] for name in nodes}
    for start, stop in edges:
        if stop in after[start]:  # does it count once or twice? NIR's own check refuses it, too
            raise ArgumentError(f"source: expected one edge from {start!r} to {stop!r}; found two")
        after[start].append(stop)
    _loops_have_neurons(nodes, after)
    _lead_somewhere(ports, edges)
    return Flat(
        {name: node for name, node in nodes.items() if name not in ports},
        {name: _beyond(name, after, ports) for name in nodes if name not in ports},
    )


def _pair(edge: Any) -> tuple[Any, ...]:
    """The two names of an edge."""
    return items("source", edge, "edges of two names", 2)


def _end(prefix: str, graph: Any, name: Any, port: str) -> str:
    """The node at an end of an edge: where that is a nested graph, its one port of that kind."""
    full, node = f"{prefix}{name}", graph.nodes.get(name)
    if node is None:
        raise ArgumentError(f"source: expected edges between nodes; found one at {full!r}, which is none")
    if kind_of(node) != GRAPH:
        return full
    named = [each for each, inner in node.nodes.items() if kind_of(inner) == port]
    if len(named) != 1:
        raise ArgumentError(
            f"source: expected one {port} node in the nested graph {full!r}, for an edge names the graph alone; found "
            f"{len(named)}"
        )
    return f"{full}.{named[0]}"


def _loops_have_neurons(nodes: Mapping[str, Any], after: Mapping[str, list[str]]) -> None:
    """Raise unless every loop goes through spiking neurons, where it takes a step."""
    left = {
        name: {stop for stop in following if kind_of(nodes[stop]) not in SPIKING}
        for name, following in after.items()
        if kind_of(nodes[name]) not in SPIKING
    }
    while left:
        reached = {stop for following in left.values() for stop in following}
        in_loops = {name for name, following in left.items() if following and name in reached}
        if len(in_loops) == len(left):
            names = ", ".join(f"{name} ({kind_of(nodes[name])})" for name in sorted(left))
            raise ArgumentError(f"source: expected {' or '.join(SPIKING)} neurons in every loop; found one of {names}")
        left = {name: left[name] & in_loops for name in in_loops}


def _lead_somewhere(ports: set[str], edges: list[tuple[str, str]]) -> None:
    """Raise for a port of a nested graph with edges on one side alone: what goes there would be lost."""
    starts, stops = {start for start, _ in edges}, {stop for _, stop in edges}
    for port in sorted(ports & (starts ^ stops)):
        side = "to" if port in starts else "on from"
        raise ArgumentError(f"source: expected a way {side} {port!r}, a port of a nested graph; found none")


def _beyond(name: str, after: Mapping[str, list[str]], ports: set[str]) -> list[str]:
    """The nodes that a node leads to, through ports."""
    found, open_ = [], list(after[name])
    while open_:
        at = open_.pop(0)
        if at in ports:
            open_ = after[at] + open_
        elif at in found:  # it would count twice
            raise ArgumentError(f"source: expected one edge from {name!r} to {at!r}; found two, through nested graphs")
        else:
            found.append(at)
    return found
