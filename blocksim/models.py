"""Models as files: a network, and what is to be known of its input, in one `.npz` file that any backend can run.

Owns how a network is laid out in arrays and JSON; the file itself is `blocksim.containers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blocksim.containers import read_container, write_container
from blocksim.errors import ArgumentError, FileError
from blocksim.layer import Layer
from blocksim.network import CountReadout, LeakyReadout, Network
from blocksim.neurons import ALIF, LIF

KIND = "blocksim network"
VERSION = 1
NEURONS = {"LIF": LIF, "ALIF": ALIF}
# arrays that a file holds besides those of the network: a training's state, say
EXTRA = "extra/"


@dataclass(frozen=True, eq=False)
class Model:
    """What a model file holds.

    Attributes
    ----------
    network : Network
        The same bit for bit as the one that was saved.
    info : dict
        What was said of it: how its input is binned, names of classes, how it was trained.
    extra : dict of arrays
        Further arrays.
    """

    network: Network
    info: dict[str, Any]
    extra: dict[str, np.ndarray] = field(repr=False)


def save_model(
    path: str | Path,
    network: Network,
    info: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a network to one file, whole or not at all.

    Parameters
    ----------
    path : str or Path
        Ends in `.npz`. Replaced if it exists.
    network : Network
    info : dict or None
        Anything JSON can say, to be kept with it.
    extra : dict of arrays or None
        Further arrays to be kept with it.

    Raises
    ------
    FileError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from blocksim import LIF, Layer, Network
    >>> from blocksim.models import load_model, save_model
    >>> network = Network([Layer(LIF(beta=0.9, refractory_steps=4), np.ones((3, 2)))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(f"{folder}/model.npz", network, info={"dt": 2.0})
    ...     model = load_model(f"{folder}/model.npz")
    >>> model.network.layers[0].neuron, model.info
    (LIF(beta=0.9, theta=1.0, refractory_steps=4), {'dt': 2.0})
    """
    if not isinstance(network, Network):
        raise ArgumentError(f"network: expected a blocksim.Network; found {type(network).__name__}")
    layers = [{"neuron": type(layer.neuron).__name__, "latency_steps": layer.latency_steps} for layer in network.layers]
    readout: dict[str, Any] = {"kind": "count"}
    if isinstance(network.readout, LeakyReadout):
        readout = {"kind": "leaky", "decode": network.readout.decode}
    arrays = network.parameters()
    for number, layer in enumerate(network.layers):
        arrays[f"layers.{number}.refractory_steps"] = np.asarray(layer.neuron.refractory_steps)
    arrays |= {EXTRA + name: array for name, array in (extra or {}).items()}
    write_container(
        path, KIND, VERSION, {"layers": layers, "readout": readout, "dt": network.dt, "info": dict(info or {})}, arrays
    )


def load_model(path: str | Path) -> Model:
    """Read a file that `save_model` wrote.

    Raises
    ------
    FileError
        The file cannot be read, is truncated or damaged, holds something else, or is of a newer version; the message
        says which.
    """
    path = Path(path)
    meta, arrays = read_container(path, KIND, VERSION)
    extra = {name.removeprefix(EXTRA): arrays.pop(name) for name in list(arrays) if name.startswith(EXTRA)}

    def take(prefix: str) -> dict[str, Any]:
        names = [name for name in arrays if name.startswith(prefix)]
        found = {name.removeprefix(prefix): arrays.pop(name) for name in names}
        # numbers for all neurons were stored as arrays without axes
        return {name: value if value.ndim else value.item() for name, value in found.items()}

    try:
        layers = []
        for number, described in enumerate(meta["layers"]):
            values = take(f"layers.{number}.")
            own = {name: values.pop(name) for name in ("weights", "bias", "recurrent") if name in values}
            neuron = NEURONS[described["neuron"]](**values)
            layers.append(Layer(neuron, **own, latency_steps=described["latency_steps"]))
        leaky = meta["readout"]["kind"] == "leaky"
        readout = LeakyReadout(**take("readout."), decode=meta["readout"]["decode"]) if leaky else CountReadout()
        info = dict(meta["info"])
        network = Network(tuple(layers), readout, _step(meta))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            f"{path}: expected a {KIND} file; found one whose parts do not make a network "
            f"({type(error).__name__}: {error})"
        ) from error
    if arrays:
        raise FileError(
            f"{path}: expected the arrays of {len(layers)} layers and a readout; found others too: {', '.join(arrays)}"
        )
    return Model(network, info, extra)


def _step(meta: Mapping[str, Any]) -> float | None:
    """The network's step in ms; files of older versions say it where training did, or nowhere."""
    data = meta["info"].get("data")
    step: float | None = meta.get("dt", data.get("dt") if isinstance(data, dict) else None)
    return step


def load_network(path: str | Path) -> Network:
    """The network of a model file; raises as `load_model` does."""
    return load_model(path).network
