"""Networks in the Neuromorphic Intermediate Representation (NIR), which other tools read and write.

Owns the mapping. NIR's neurons are differential equations; the tools that read it step them by Euler's rule, so that a
decay factor beta becomes tau = dt / (1 - beta). What NIR has no node for (refractory periods, adaptation) is kept as
metadata, which blocksim alone reads. Source: Pedersen et al., Nature Communications 15, 2024.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._atomic_io import written
from blocksim._connections import Exponential
from blocksim._layer import Layer
from blocksim._libraries import library
from blocksim._network import LeakyReadout, Network
from blocksim._neurons import ALIF, LIF
from blocksim._presets import CubaLIF
from blocksim._validation import choice, instance, milliseconds
from blocksim.errors import ArgumentError, BlocksimWarning, FileError
from blocksim.interop._nir_reader import KEY, Reader, factor_of, own_of

DISCRETISATIONS = ("euler", "exact")


def to_nir(network: Network, dt: float | None = None) -> Any:
    """A network as a graph of NIR.

    Parameters
    ----------
    network : Network
        Of LIF, ALIF or CubaLIF layers with plain weights, and any readout.
    dt : float or None
        Time step in ms; None: the network's.

    Returns
    -------
    nir.NIRGraph
        Nodes "input", "0.weights", "0.neurons", ("0.recurrent", "0.delay",) "1.weights", ..., "output". Resistances are
        1, and weights have the factor of the time step in them, as every tool reads it.

    Raises
    ------
    ArgumentError
        A layer has neurons, synapses or connections that NIR has no node for; or no time step is known.
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
    nodes: dict[str, Any] = {"input": nir.Input(np.array([network.layers[0].inputs]))}
    edges, last = [], "input"
    layers: Any = network.layers
    for place, layer in enumerate(layers):
        scale, neurons = _neurons(nir, place, layer, step)
        name, weights = f"{place}.neurons", f"{place}.weights"
        nodes[weights] = _weighted(nir, layer.weights, layer.bias, scale, layer.weights.dtype)
        nodes[name] = neurons
        edges += [(last, weights), (weights, name)]
        if layer.recurrent is not None:
            nodes[f"{place}.recurrent"] = _weighted(nir, layer.recurrent, None, scale, layer.recurrent.dtype)
            edges.append((name, f"{place}.recurrent"))
            back = f"{place}.recurrent"
            if layer.latency_steps > 1:  # a loop takes a step by itself
                nodes[f"{place}.delay"] = nir.Delay(np.full(layer.size, (layer.latency_steps - 1) * step / 1000))
                edges.append((back, f"{place}.delay"))
                back = f"{place}.delay"
            edges.append((back, name))
        last = name
    readout, own = network.readout, {"dt": step, "readout": "count"}
    if isinstance(readout, LeakyReadout):
        classes, keep = readout.classes, 1 - readout.beta
        nodes["readout.weights"] = _weighted(nir, readout.weights, readout.bias, 1 / keep, readout.weights.dtype)
        tau = np.full(classes, step / 1000 / keep)
        nodes["readout.neurons"] = nir.LI(tau, np.ones(classes), np.zeros(classes))
        edges += [(last, "readout.weights"), ("readout.weights", "readout.neurons")]
        last, own = "readout.neurons", own | {"readout": "leaky", "decode": readout.decode, "beta": readout.beta}
    nodes["output"] = nir.Output(np.array([network.classes]))
    edges.append((last, "output"))
    return nir.NIRGraph(nodes, edges, metadata={KEY: json.dumps(own)})


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
    graph = to_nir(network, dt)
    with written(Path(path)) as part:
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
        A chain of layers with LIF, LinearIF (where the reset is not 0) or CubaLIF neurons and their recurrent weights.
        Its readout is that of an LI node at the end, summed over time, else spike counts. What `to_nir` made comes back
        as it was.

    Raises
    ------
    ArgumentError
        The graph holds a node that has no equal here, or is no chain of layers; a time constant is shorter than dt; no
        time step is known.
    FileError
        The file cannot be read, or is none of NIR.
    """
    choice("discretisation", discretisation, DISCRETISATIONS)
    nir = library("nir", "nir", "from_nir")
    if isinstance(source, (str, Path)):
        try:
            graph = nir.read(source)
        except OSError as error:
            raise FileError(f"{source}: expected a file of NIR that can be read; found: {error}") from error
        except Exception as error:  # of a file that is something else, the library raises what comes
            raise FileError(f"{source}: expected a file of NIR; found another ({type(error).__name__})") from error
    else:
        graph = instance("source", source, nir.NIRGraph, "a nir.NIRGraph, or a file")
    own = own_of(graph)
    step = own.get("dt") if dt is None else dt
    if step is None:
        raise ArgumentError("dt: expected the time step in ms, for the graph has none; found None")
    reader = Reader(graph, milliseconds("dt", step), discretisation, own)
    try:
        return reader.network()
    except (KeyError, TypeError) as error:
        raise ArgumentError(
            f"source: expected metadata as blocksim writes it; found others ({type(error).__name__}: {error})"
        ) from error


def _neurons(nir: Any, place: int, layer: Layer, dt: float) -> tuple[np.ndarray, Any]:
    """The factor of a layer's weights, (N,), and its node."""
    neuron: Any = layer.neuron
    size = int(layer.size or 0)
    where = f"network: layer {place}"
    kind = type(neuron)
    if kind not in (LIF, ALIF, CubaLIF):
        raise ArgumentError(f"{where}: expected LIF, ALIF or CubaLIF neurons, as NIR has them; found {kind.__name__}")
    if layer.weights is None or layer.input_connections or isinstance(layer.recurrent, tuple):
        raise ArgumentError(f"{where}: expected plain weights; found none, or connections with delays")

    def each(value: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, np.float64), size).copy()

    keep = 1 - each(neuron.beta)
    common = {
        "r": np.ones(size),
        "v_leak": np.zeros(size),
        "v_threshold": each(neuron.theta),
        "v_reset": np.zeros(size),
    }
    own: dict[str, Any] = {"kind": kind.__name__, "beta": _listed(neuron.beta), "theta": _listed(neuron.theta),
                           "refractory_steps": _listed(neuron.refractory_steps)}  # fmt: skip
    unseen = ["a refractory period"] if np.any(neuron.refractory_steps) else []
    if isinstance(neuron, CubaLIF):
        (synapse, *more) = neuron.synapses
        if more or not isinstance(synapse, Exponential):
            raise ArgumentError(f"{where}: expected one exponential synapse, as NIR's CubaLIF has; found others")
        if layer.bias is not None and np.any(layer.bias):
            raise ArgumentError(f"{where}: expected no bias beside a synapse, through which NIR's would go; found one")
        rest = 1 - each(synapse.decay)
        own |= {"decay": _listed(synapse.decay), "gain": _listed(synapse.gain)}
        node = nir.CubaLIF(
            tau_syn=dt / 1000 / rest, tau_mem=dt / 1000 / keep, w_in=np.ones(size), metadata={KEY: json.dumps(own)},
            **common,
        )  # fmt: skip
    else:
        if layer.synapses:
            raise ArgumentError(f"{where}: expected no synapses of the layer's own; found some (use CubaLIF)")
        if isinstance(neuron, ALIF):
            own |= {"p": _listed(neuron.p), "b": _listed(neuron.b)}
            unseen.append("adaptation")
        node = nir.LIF(tau=dt / 1000 / keep, metadata={KEY: json.dumps(own)}, **common)
    if unseen:
        warnings.warn(
            f"layer {place}: NIR has no node for {' and '.join(unseen)}; blocksim finds it in the metadata, other "
            "tools do not",
            BlocksimWarning, stacklevel=4,
        )  # fmt: skip
    return factor_of(own, size), node


def _listed(value: Any) -> Any:
    return np.asarray(value).tolist()


def _weighted(nir: Any, weights: Any, bias: Any, scale: Any, dtype: Any) -> Any:
    """A node of weights (K, N) and a bias; ours are kept beside it where the factor does not come off exactly."""
    matrix = np.asarray(weights, np.float64).T * np.reshape(scale, (-1, 1))
    own: dict[str, Any] = {"dtype": str(dtype)}
    metadata: dict[str, Any] = {}
    if not np.array_equal((matrix / np.reshape(scale, (-1, 1))).T.astype(dtype), weights):
        metadata[f"{KEY}_weights"] = np.asarray(weights)
    metadata[KEY] = json.dumps(own)
    if bias is None:
        return nir.Linear(matrix, metadata=metadata)
    metadata[f"{KEY}_bias"] = np.asarray(bias)
    return nir.Affine(matrix, np.broadcast_to(bias * np.asarray(scale), len(matrix)).copy(), metadata=metadata)
