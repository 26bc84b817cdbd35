"""Models as files: a network, and what is to be known of its input, in one `.npz` file that any backend can run.

Owns how a network is laid out in arrays and JSON; the file itself is `blocksim._containers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._atomic_io import named
from blocksim._connections import MAX_SYNAPSES, Alpha, Connection, Exponential, Synapse
from blocksim._containers import Container, open_container, write_container
from blocksim._escape import Escape
from blocksim._layer import Layer
from blocksim._linear_neurons import Component, Rectified, Softplus
from blocksim._milliseconds import MAX_STEPS
from blocksim._network import CountReadout, LeakyReadout, Network
from blocksim._neurons import Neuron
from blocksim._parameters import Parameter, declared, held, made, settings
from blocksim._validation import finite, found
from blocksim.errors import ArgumentError, FileError

KIND = "blocksim network"
VERSION = 1
MAX_LATENCY = MAX_STEPS + 1
# by what they listen to
COMPONENTS: dict[str, type[Component | Rectified]] = {
    "before": Component, "after": Component, "above": Rectified, "softplus": Softplus
}  # fmt: skip
SYNAPSES: dict[str, type[Synapse]] = {kind.__name__: kind for kind in (Exponential, Alpha)}
SPIKES: dict[str, type[Escape]] = {Escape.__name__: Escape}
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
    layers = [_described(layer) for layer in network.layers]
    readout: dict[str, Any] = {"kind": "count"}
    if isinstance(network.readout, LeakyReadout):
        readout = {"kind": "leaky", "decode": network.readout.decode}
    arrays = network.parameters()
    for number, layer in enumerate(network.layers):  # those without a gradient too
        arrays |= {f"layers.{number}.{name}": np.asarray(each.value) for name, each in held(layer).items()}
    arrays |= {EXTRA + name: array for name, array in (extra or {}).items()}
    write_container(
        path, KIND, VERSION, {"layers": layers, "readout": readout, "dt": network.dt, "info": dict(info or {})}, arrays
    )


def load_model(path: str | Path) -> Model:
    """Read a file that `save_model` wrote.

    Returns
    -------
    Model
        The network, and what was stored beside it.

    Raises
    ------
    FileError
        The file cannot be read, is truncated or damaged, holds something else, or is of a newer version; or an array
        is missing, unknown, of another dtype or shape, or not finite: the message names it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from blocksim import LIF, CountReadout, Layer, Network
    >>> from blocksim.models import load_model, save_model
    >>> network = Network([Layer(LIF(beta=0.5), np.ones((2, 3)))], CountReadout())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(Path(folder) / "model.npz", network)
    ...     load_model(Path(folder) / "model.npz").network.layers[0].weights.shape
    (2, 3)
    """
    path = named(path)
    with open_container(path, KIND, VERSION) as container:
        # names, dtypes and shapes first: errors in them are reported before the arrays are read
        number = _layers(container)
        arrays = {name: _read(container, name) for name in container.headers}
        try:
            extra = {name.removeprefix(EXTRA): arrays.pop(name) for name in list(arrays) if name.startswith(EXTRA)}
            layers = [_layer(container.meta["layers"][layer], f"layers.{layer}.", arrays) for layer in range(number)]
            network = Network(tuple(layers), _readout(container.meta["readout"], arrays), _step(container.meta))
        except ArgumentError as error:
            raise FileError(f"{path}: expected the parts of a network; found {error}") from error
        return Model(network, container.meta["info"], extra)


def _layers(container: Container) -> int:
    """The number of layers; raises `FileError` unless description and headers are those of a network."""
    path, meta, headers = container.path, container.meta, container.headers
    layers, readout = meta.get("layers"), meta.get("readout")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers) or not layers:
        raise FileError(f"{path}: expected a description of layers; found {found(layers)}")
    if not isinstance(readout, dict) or readout.get("kind") not in ("leaky", "count"):
        raise FileError(f"{path}: expected a leaky or a count readout; found {found(readout)}")
    if not isinstance(meta.get("info"), dict):
        raise FileError(f"{path}: expected info to be a JSON object; found {found(meta.get('info'))}")
    left = {name for name in headers if not name.startswith(EXTRA)}
    inputs: int | None = None
    for number, described in enumerate(layers):
        kind = Neuron.of_kind(described.get("neuron"))
        if kind is None or not _is_layer(described):
            raise FileError(
                f"{path}: layers.{number}: expected a neuron, {', '.join(Neuron.kinds())}, and latency_steps; found "
                f"{found(described)} (a class of your own must be imported before its models are loaded)"
            )
        prefix = f"layers.{number}."
        groups = {prefix: (declared(Layer) | declared(kind), declared(kind))}
        groups |= {
            prefix + part: (known, {name: each for name, each in known.items() if not each.flags})
            for part, one in _parts(described)
            for known in [declared(one)]
        }
        wanted = [group + name for group, (known, _) in groups.items() for name in known]
        present = [headers[name].shape for name in wanted if name in headers]
        size = next((shape[-1] for shape in present if shape), None)
        for group, (known, required) in groups.items():
            recurrent = group.startswith(f"{prefix}recurrent.")
            _check(container, group, known, {"input": size if recurrent else inputs, "neuron": size}, required)
        left -= set(wanted)
        inputs = size
    if readout["kind"] == "leaky":
        weights = headers.get("readout.weights")
        classes = weights.shape[-1] if weights is not None and weights.shape else None
        _check(container, "readout.", declared(LeakyReadout), {"neuron": inputs, "class": classes}, ("weights", "beta"))
        left -= {f"readout.{name}" for name in declared(LeakyReadout)}
    if left:
        names = ", ".join(map(repr, sorted(left)[:6]))
        raise FileError(
            f"{path}: expected the arrays of {len(layers)} layer(s) and a readout; found others too: {names}"
        )
    return len(layers)


def _check(
    container: Container,
    prefix: str,
    parameters: Mapping[str, Parameter],
    lengths: Mapping[str, int | None],
    required: Iterable[str],
) -> None:
    """Raise unless the arrays that are there have the shapes (None: any length) and dtypes of their parameters."""
    for name in required:
        if prefix + name not in container.headers:
            raise FileError(f"{container.path}: expected an array {prefix + name}; found none")
    for name, parameter in parameters.items():
        header = container.headers.get(prefix + name)
        if header is None:
            continue
        full = tuple(lengths[axis] for axis in parameter.axes)
        # one number for all, of what each neuron may have, and of delays
        allowed = ((), full) if len(full) == 1 or not parameter.trained else (full,)
        kinds, what = ("f", "real numbers") if parameter.trained else ("iu", "whole numbers")
        if parameter.flags:
            kinds, what = "b", "flags"
        if header.dtype.kind not in kinds or header.dtype.itemsize > 8:
            raise FileError(
                f"{container.path}: {prefix + name}: expected {what} of at most 8 bytes; found dtype {header.dtype}"
            )
        if not any(_fits(header.shape, shape) for shape in allowed):
            wanted = " or ".join(str(shape).replace("None", "any") for shape in allowed)
            raise FileError(f"{container.path}: {prefix + name}: expected shape {wanted}; found {header.shape}")


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all((n and n == m) or m is None for n, m in zip(shape, wanted, strict=True))


def _read(container: Container, name: str) -> np.ndarray:
    """An array as this machine's processor has it; those of the network hold finite numbers."""
    array = container[name]
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not name.startswith(EXTRA):
        try:
            finite(name, array)
        except ArgumentError as error:
            raise FileError(f"{container.path}: {error}") from error
    return array


def _values(prefix: str, names: Iterable[str], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arrays that are there; numbers for all neurons were stored as arrays without axes."""
    present = {name: arrays[prefix + name] for name in names if prefix + name in arrays}
    return {name: array if array.ndim else array.item() for name, array in present.items()}


def _described(layer: Layer) -> dict[str, Any]:
    """What there is to say of a layer beside its arrays; of LIF and ALIF with plain weights, as ever, two things."""
    neuron = layer.neuron
    noise = getattr(neuron, "spike", None)
    more = {
        "settings": settings(neuron),
        "components": [each.listens for each in getattr(neuron, "components", ())],
        "synapses": [None if each is None else type(each).__name__ for each in layer.receptors],
        "inputs": [each.synapse for each in layer.input_connections],
        "recurrent": [each.synapse for each in layer.recurrent_connections],
        "spike": type(noise).__name__ if noise is not None else None,
    }
    return {"neuron": neuron.kind(), "latency_steps": layer.latency_steps} | {
        name: value for name, value in more.items() if value
    }


def _is_layer(described: Mapping[str, Any]) -> bool:
    """Whether a description is as `_described` writes it."""

    def numbers(name: str) -> bool:
        given = described.get(name, [])
        return isinstance(given, list) and all(type(each) is int and 0 <= each <= MAX_SYNAPSES for each in given)

    components, synapses = described.get("components", []), described.get("synapses", [])
    latency, connected = described.get("latency_steps"), numbers("inputs") and numbers("recurrent")
    return (
        connected
        and (type(latency) is int and 0 < latency <= MAX_LATENCY) != bool(described.get("recurrent"))
        and isinstance(components, list)
        and all(isinstance(each, str) and each in COMPONENTS for each in components)
        and isinstance(synapses, list)
        and all(each is None or (isinstance(each, str) and each in SYNAPSES) for each in synapses)
        and isinstance(described.get("settings", {}), dict)
        and described.get("spike") in (None, *SPIKES)
    )


def _parts(described: Mapping[str, Any]) -> Iterator[tuple[str, type]]:
    """The beginning of the names of each part's arrays, and its class."""
    for number, listens in enumerate(described.get("components", [])):
        yield f"components.{number}.", COMPONENTS[listens]
    for number, name in enumerate(described.get("synapses", [])):
        if name is not None:
            yield f"synapses.{number}.", SYNAPSES[name]
    for group in ("inputs", "recurrent"):
        for number in range(len(described.get(group, []))):
            yield f"{group}.{number}.", Connection
    if described.get("spike") is not None:
        yield "spike.", SPIKES[described["spike"]]


def _layer(described: Mapping[str, Any], prefix: str, arrays: Mapping[str, np.ndarray]) -> Layer:
    try:
        kind = Neuron.of_kind(described["neuron"])
        assert kind is not None
        each = {part: _values(prefix + part, declared(one), arrays) for part, one in _parts(described)}

        def connections(group: str) -> tuple[Connection, ...]:
            receptors = described.get(group, [])
            return tuple(
                Connection(**each[f"{group}.{number}."], synapse=synapse) for number, synapse in enumerate(receptors)
            )

        of_neuron = _values(prefix, declared(kind), arrays) | described.get("settings", {})
        if "components" in described:
            of_neuron["components"] = tuple(
                made(COMPONENTS[listens], each[f"components.{number}."] | {"listens": listens})
                for number, listens in enumerate(described["components"])
            )
        if described.get("spike") is not None:
            of_neuron["spike"] = SPIKES[described["spike"]](**each["spike."])
        of_layer = _values(prefix, declared(Layer), arrays)
        synapses = tuple(
            None if name is None else SYNAPSES[name](**each[f"synapses.{number}."])
            for number, name in enumerate(described.get("synapses", []))
        )
        (of_neuron if "synapses" in kind.__dataclass_fields__ else of_layer)["synapses"] = synapses  # type: ignore[attr-defined]
        if described.get("recurrent"):
            of_layer["recurrent"] = connections("recurrent")
        return Layer(
            made(kind, of_neuron),
            **of_layer,
            latency_steps=described["latency_steps"],
            inputs=connections("inputs"),
        )
    except ArgumentError as error:
        raise ArgumentError(f"{prefix}{error}") from error


def _readout(described: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> LeakyReadout | CountReadout:
    if described["kind"] == "count":
        return CountReadout()
    return LeakyReadout(**_values("readout.", declared(LeakyReadout), arrays), decode=described.get("decode"))  # type: ignore[arg-type]


def _step(meta: Mapping[str, Any]) -> float | None:
    """The network's step in ms; files of older versions say it where training did, or nowhere."""
    data = meta["info"].get("data")
    step: float | None = meta.get("dt", data.get("dt") if isinstance(data, dict) else None)
    return step


def load_network(path: str | Path) -> Network:
    """The network of a model file.

    Raises
    ------
    FileError
        As `load_model`.
    """
    return load_model(path).network
