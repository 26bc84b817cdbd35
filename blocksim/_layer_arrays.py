"""A layer as a backend's arrays, and the way back: from an adjoint's sums to the gradient of each parameter.

Owns which arrays a layer's parameters become: those of equations (1)-(6) for LIF and ALIF, those of the linear family,
(27)-(34), for everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from blocksim._connections import Alpha, Connection
from blocksim._layer import Layer
from blocksim._neurons import COMPONENT, FAMILY, NOISE, SIMPLE
from blocksim._validation import finite
from blocksim.arrays import (
    DIRECT,
    AdjointResult,
    Array,
    LayerArrays,
    LinearConnection,
    LinearLayer,
    LinearParameters,
    Parameters,
)
from blocksim.backend import Backend

# decays that must not round to 1 in float32
DECAYS = {"beta", "p", "decay", "synapse_decay"}
# ALIF as an instance of the family
AS_COMPONENT = {"p": "components.0.decay", "b": "components.0.to_threshold"}


def arrays_of(layer: Layer, neurons: int, dtype: np.dtype[Any], engine: Backend) -> LayerArrays | LinearLayer:
    """The layer as the backend's arrays."""
    return _simple(layer, neurons, dtype, engine) if layer.is_simple else _linear(layer, neurons, dtype, engine)


def _per_neuron(name: str, value: Any, neurons: int, dtype: np.dtype[Any], engine: Backend) -> Array:
    return engine.asarray(_on_host(name, value, neurons, dtype), dtype)


def _on_host(name: str, value: Any, neurons: int, dtype: np.dtype[Any]) -> np.ndarray:
    """A parameter's value for each neuron, (N,)."""
    with np.errstate(over="ignore"):
        array = np.asarray(value, dtype)
    if name in DECAYS:
        array = np.minimum(array, np.nextafter(dtype.type(1), dtype.type(0)))
    finite(f"{name} (as {dtype})", array)
    return np.broadcast_to(array, (neurons,))


def _matrix(name: str, array: np.ndarray | None, dtype: np.dtype[Any], engine: Backend) -> Any:
    if array is None:
        return None
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, copy=False)
    finite(f"{name} (as {dtype})", converted)
    return engine.asarray(converted, dtype)


def _simple(layer: Layer, neurons: int, dtype: np.dtype[Any], engine: Backend) -> LayerArrays:
    values = layer.neuron.linear_parameters() | {"bias": 0.0 if layer.bias is None else layer.bias}
    assert layer.latency_steps is not None
    return LayerArrays(
        neuron=Parameters(
            **{
                item.name: _per_neuron(item.name, values[item.name], neurons, dtype, engine)
                for item in fields(Parameters)
            }
        ),
        refractory=_per_neuron("refractory_steps", layer.neuron.refractory_steps, neurons, np.dtype(np.int32), engine),
        weights=_matrix("weights", layer.weights, dtype, engine),
        recurrent=_matrix("recurrent", layer.recurrent, dtype, engine),  # type: ignore[arg-type]
        latency=layer.latency_steps,
    )


def _linear(layer: Layer, neurons: int, dtype: np.dtype[Any], engine: Backend) -> LinearLayer:
    values = _as_family(layer.neuron.linear_parameters())
    values |= {name: values.get(f"spike.{name}", value) for name, value in NOISE.items()}
    receptors = _receptors(layer)
    synapses = [layer.receptors[number] for number in receptors]

    def one(name: str) -> Array:
        return _per_neuron(name, values[name], neurons, dtype, engine)

    def stack(name: str, rows: list[Any]) -> Array:
        """The values of each component or receptor: (C, N) or (R, N)."""
        stacked = np.empty((len(rows), neurons), dtype)
        for place, row in enumerate(rows):
            stacked[place] = _on_host(name, row, neurons, dtype)
        return engine.asarray(stacked)

    def components(name: str) -> Array:
        return stack(name, [values[f"components.{place}.{name}"] for place in range(_components(values))])

    def connections(name: str, each: list[Connection]) -> tuple[LinearConnection, ...]:
        return tuple(
            LinearConnection(
                _matrix(
                    f"{name}.{place}.weights",
                    connection.weights if where is None else np.where(where, connection.weights, 0),
                    dtype,
                    engine,
                ),
                delay,
                receptors.get(connection.synapse, DIRECT),
            )
            for place, connection in enumerate(each)
            for delay, where in connection.by_delay()
        )

    inputs = connections("inputs", _inputs(layer))
    return LinearLayer(
        neuron=LinearParameters(
            bias=_per_neuron("bias", 0.0 if layer.bias is None else layer.bias, neurons, dtype, engine),
            **{name: one(name) for name in (*FAMILY, *NOISE)},
            **{name: components(name) for name in COMPONENT},
            synapse_decay=stack("synapse_decay", [each.decay for each in synapses]),  # type: ignore[union-attr]
            gain=stack("gain", [each.gain for each in synapses]),  # type: ignore[union-attr]
            gain_rising=stack("gain_rising", [getattr(each, "gain_rising", 0.0) for each in synapses]),
        ),
        refractory=_per_neuron("refractory_steps", layer.neuron.refractory_steps, neurons, np.dtype(np.int32), engine),
        mode=layer.neuron.refractory,
        alpha=tuple(isinstance(each, Alpha) for each in synapses),
        inputs=inputs,
        recurrent=connections("recurrent", _recurrent(layer)),
        listens=layer.neuron.listens(_components(values)),
        given=None if inputs else receptors.get(0, DIRECT),
        stochastic=layer.neuron.is_stochastic,
    )


def _receptors(layer: Layer) -> dict[int, int]:
    """The row, among those with a time course, of each receptor that has one."""
    filtered = [number for number, synapse in enumerate(layer.receptors) if synapse is not None]
    return {number: row for row, number in enumerate(filtered)}


def _inputs(layer: Layer) -> list[Connection]:
    return list(layer.input_connections) if layer.weights is None else [Connection(layer.weights)]


def _recurrent(layer: Layer) -> list[Connection]:
    if layer.recurrent is None or layer.recurrent_connections:
        return list(layer.recurrent_connections)
    assert layer.latency_steps is not None
    return [Connection(layer.recurrent, layer.latency_steps)]  # type: ignore[arg-type]


def _components(values: Mapping[str, Any]) -> int:
    return len({name.split(".")[1] for name in values if name.startswith("components.")})


def _as_family(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the family, from those of (1)-(6) too."""
    if set(values) != set(SIMPLE):
        return dict(values)
    one = {f"components.0.{name}": value for name, value in COMPONENT.items()}
    return FAMILY | one | {AS_COMPONENT.get(name, name): value for name, value in values.items()}


def parameter_gradients(
    layer: Layer, result: AdjointResult, sums: Mapping[str, np.ndarray], engine: Backend
) -> dict[str, Any]:
    """The gradient of every parameter, by name: (N,) float64, or what the backend returned for weights.

    `sums` are those of the result, over samples too.
    """
    if layer.is_simple:
        of_neuron = layer.neuron.pullback(sums)
        return {"weights": result.weights, "bias": sums["bias"], "recurrent": result.recurrent} | of_neuron
    known = {name: sums[name] for name in FAMILY} | {f"spike.{name}": sums[name] for name in NOISE}
    for place in range(len(sums["decay"])):
        known |= {f"components.{place}.{name}": sums[name][place] for name in COMPONENT}
    known |= {name: known[own] for name, own in AS_COMPONENT.items() if own in known}
    of_synapses: dict[str, np.ndarray] = {}
    for number, row in _receptors(layer).items():
        names = {"decay": "synapse_decay", "gain": "gain"}
        if isinstance(layer.receptors[number], Alpha):
            names["gain_rising"] = "gain_rising"
        of_synapses |= {f"synapses.{number}.{name}": sums[own][row] for name, own in names.items()}
    gradients = {"bias": sums["bias"]} | of_synapses | layer.neuron.pullback(known | of_synapses)
    of_inputs = _joined(_inputs(layer), result.weights, engine)
    of_recurrent = _joined(_recurrent(layer), result.recurrent, engine)
    gradients |= _named("weights", "inputs", layer.input_connections, of_inputs)
    return gradients | _named("recurrent", "recurrent", layer.recurrent_connections, of_recurrent)


def _joined(connections: list[Connection], each: tuple[Array, ...], engine: Backend) -> list[Array]:
    """The gradient of each connection's weights, from those of its parts of one delay each."""
    parts = iter(each)
    joined = []
    for connection in connections:
        total = None
        for _, where in connection.by_delay():
            part = next(parts)
            part = part if where is None else part * engine.asarray(where)
            total = part if total is None else total + part
        joined.append(total)
    return joined


def _named(plain: str, prefix: str, connections: tuple[Connection, ...], each: list[Array]) -> dict[str, Any]:
    """Under the names of the connections, or of the one array that the layer has instead."""
    if connections:
        return {f"{prefix}.{place}.weights": gradient for place, gradient in enumerate(each)}
    return {plain: each[0] if each else None}
