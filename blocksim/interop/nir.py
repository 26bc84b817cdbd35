"""Networks in the Neuromorphic Intermediate Representation (NIR), which other tools read and write.

Owns the functions for it. NIR's neurons are differential equations; the tools that read it step them by Euler's rule,
so that a decay factor beta becomes tau = dt / (1 - beta). What NIR has no node for (refractory periods, adaptation) is
kept as metadata, which blocksim alone reads. Source: Pedersen et al., Nature Communications 15, 2024.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from blocksim._atomic_io import named, written
from blocksim._libraries import library
from blocksim._network import LeakyReadout, Network
from blocksim._npy import one_line, opened
from blocksim._validation import choice, instance, milliseconds
from blocksim.errors import ArgumentError, FileError
from blocksim.interop._nir_nodes import described, own_of
from blocksim.interop._nir_reader import Reader
from blocksim.interop._nir_writer import Writer, tell_what_is_unseen

DISCRETISATIONS = ("euler", "exact")


def to_nir(network: Network, dt: float | None = None) -> Any:
    """A network as a graph of NIR.

    Parameters
    ----------
    network : Network
        Of LIF, ALIF or CubaLIF layers with any connections and exponential synapses, and any readout.
    dt : float or None
        Time step in ms; None: the network's.

    Returns
    -------
    nir.NIRGraph
        Nodes "input", "0.weights", "0.neurons", "1.weights", ..., "output". Instead of weights, connection i of a layer
        has "0.inputs.i.weights" and "0.inputs.i.delay"; with one delay for each weight it has such a pair for each
        delay. Synapse i is LI "0.synapses.i"; a single synapse that all currents go through makes the neurons CubaLIF.
        A recurrent layer is a nested graph "0" with "neurons", "recurrent" and "delay"; where its synapses are LI, its
        nodes are "0.neurons", "0.recurrent" and so on. Resistances are 1, and weights have the factor of the time step
        in them; those of CubaLIF, and their weights, are the other way round. That is how most tools read them.

    Raises
    ------
    ArgumentError
        A layer has neurons or synapses that NIR has no node for, or no weights; or no time step is known.
    MissingLibraryError
        The library nir is not installed.

    Warns
    -----
    BlocksimWarning
        A refractory period or adaptation is kept as metadata, which other tools do not see.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import LIF, CountReadout, Layer, Network
    >>> from blocksim.interop.nir import from_nir, to_nir
    >>> network = Network([Layer(LIF(0.9), np.full((3, 2), 0.5))], CountReadout())
    >>> graph = to_nir(network, dt=0.1)
    >>> sorted(graph.nodes)
    ['0.neurons', '0.weights', 'input', 'output']
    >>> from_nir(graph).layers[0].neuron.beta
    0.9
    """
    instance("network", network, Network, "a blocksim.Network")
    step = network.dt if dt is None else dt
    if step is None:
        raise ArgumentError("dt: expected the time step in ms, for this network has none of its own; found None")
    step = milliseconds("dt", step)
    nir = library("nir", "nir", "to_nir")
    writer, last = Writer(nir, step), "input"
    writer.nodes[last] = nir.Input(np.array([network.layers[0].inputs]))
    for place, layer in enumerate(network.layers):
        last = writer.layer(place, layer, last)
        tell_what_is_unseen(place, layer)
    readout, own = network.readout, {"dt": step, "readout": "count"}
    if isinstance(readout, LeakyReadout):
        last = writer.readout(readout, last)
        own |= {"readout": "leaky", "decode": readout.decode, "beta": readout.beta}
    writer.nodes["output"] = nir.Output(np.array([network.classes]))
    writer.edges.append((last, "output"))
    return nir.NIRGraph(writer.nodes, writer.edges, metadata=described(own))


def write_nir(path: str | Path, network: Network, dt: float | None = None) -> None:
    """Write a network as a file of NIR (HDF5); as `to_nir` otherwise.

    Parameters
    ----------
    path : str or Path
        Replaced as a whole if it is there.
    network, dt
        As for `to_nir`.

    Raises
    ------
    ArgumentError, MissingLibraryError
        As `to_nir`.
    FileError
        The file cannot be written.
    """
    path = named(path)
    graph = to_nir(network, dt)
    with written(path) as part:
        library("nir", "nir", "write_nir").write(part, graph)


def from_nir(source: Any, dt: float | None = None, *, discretisation: str = "euler") -> Network:
    """A network of a graph of NIR.

    Parameters
    ----------
    source : nir.NIRGraph, str or Path
        A graph, or a file.
    dt : float or None
        Time step in ms; None: that of a network that blocksim wrote.
    discretisation : {"euler", "exact"}
        How a time constant becomes a decay factor: 1 - dt / tau, as in the tools that exchange NIR, or exp(-dt / tau).

    Returns
    -------
    Network
        A chain of layers with LIF, LinearIF (where the reset is not 0) or CubaLIF neurons. All that arrives at a node
        of neurons adds up: each way there through Linear or Affine, and any Delay, is a connection, and LI on it are an
        exponential synapse. Nested graphs are made flat. The readout is that of LI at the end, summed over time, else
        spike counts. What `to_nir` made comes back as it was; where its graph was changed since, the graph counts.

    Raises
    ------
    ArgumentError
        The graph holds a node that has no equivalent here, or is no chain of layers; a nested graph has several inputs
        or outputs; a loop has no neurons in it; a time constant is shorter than dt, or a delay no whole number of
        steps; no time step is known.
    FileError
        The file cannot be read, or is none of NIR.

    Warns
    -----
    BlocksimWarning
        A refractory period or adaptation that blocksim kept is lost: the layer was changed since, or is read for
        another time step or by another rule.

    Examples
    --------
    Two synapses, fast and slow, before two neurons:

    >>> import nir
    >>> import numpy as np
    >>> from blocksim.interop.nir import from_nir
    >>> def integrators(tau):
    ...     return nir.LI(tau=np.full(2, tau), r=np.ones(2), v_leak=np.zeros(2))
    >>> nodes = {
    ...     "in": nir.Input(np.array([3])), "fast weights": nir.Linear(np.ones((2, 3))), "fast": integrators(0.002),
    ...     "slow weights": nir.Linear(-np.ones((2, 3))), "slow": integrators(0.02),
    ...     "neurons": nir.LIF(np.full(2, 0.01), np.ones(2), np.zeros(2), np.ones(2)), "out": nir.Output(np.array([2])),
    ... }
    >>> ways = [("in", f"{each} weights", each, "neurons") for each in ("fast", "slow")]
    >>> edges = [edge for way in ways for edge in zip(way, way[1:])] + [("neurons", "out")]
    >>> layer = from_nir(nir.NIRGraph(nodes, edges), dt=0.1).layers[0]
    >>> [float(each.decay[0]) for each in layer.synapses], len(layer.input_connections)
    ([0.95, 0.995], 2)
    """
    choice("discretisation", discretisation, DISCRETISATIONS)
    nir = library("nir", "nir", "from_nir")
    if isinstance(source, (str, Path)):
        with opened(source):
            pass
        try:
            graph = nir.read(source)
        except Exception as error:  # of a file that is something else, the library raises what comes
            raise FileError(
                f"{source}: expected a file of NIR; found another ({type(error).__name__}: {one_line(error)})"
            ) from error
    else:
        graph = instance("source", source, nir.NIRGraph, "a nir.NIRGraph, or a file")
    own = own_of(graph)
    step = own.get("dt") if dt is None else dt
    if step is None:
        raise ArgumentError("dt: expected the time step in ms, for the graph has none; found None")
    return Reader(nir, graph, milliseconds("dt", step), discretisation, own).network()
