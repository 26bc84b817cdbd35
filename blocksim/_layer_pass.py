"""One layer's forward pass and its adjoint, in the arrays of a backend: what runs and networks are made of.

Owns the step from a layer and a state to a backend's arrays, and the choice between a whole tape and checkpoints. What
a caller gets of it is `blocksim._run`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from blocksim import _checkpoints
from blocksim._blocks import last_spikes, zeros
from blocksim._inputs import finite_numbers, numbers
from blocksim._layer import Layer
from blocksim._options import Options
from blocksim._state import State, StateGradient
from blocksim._validation import finite, found
from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Array,
    Carry,
    ForwardResult,
    Input,
    LayerArrays,
    Parameters,
    Plan,
    SpikeGradient,
    Tape,
)
from blocksim.backend import Backend
from blocksim.errors import ArgumentError

# bytes of a state's spikes: one a neuron and step of latency
MOST_HISTORY = 1 << 34


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass through one layer, in the backend's arrays, and what its adjoint needs."""

    backend: Backend
    layer: Layer
    arrays: LayerArrays
    x: Any  # as the backend's
    rule: AdjointRule
    plan: Plan
    history: Array  # (B, D, N) bool, spikes of the D steps before the first
    result: ForwardResult
    tape: Tape | _checkpoints.Checkpoints | None

    @property
    def shared_current(self) -> bool:
        """Whether one current goes to all neurons."""
        return self.arrays.weights is None and bool(self.x.shape[2] < self.arrays.size)

    @cached_property
    def spikes(self) -> Input:
        """The spikes as a next layer reads them: all as events, however many, so that sums keep their order."""
        engine, spikes = self.backend, self.result.spikes
        if engine.owns(spikes):
            return spikes
        events = engine.events(engine.to_numpy(spikes))
        assert events is not None
        return events

    def last_spikes(self) -> Array:
        """The spikes that the next run is handed, (B, D, N)."""
        return last_spikes(self.backend, self.result.spikes, self.history, self.result.spikes.shape[1])

    def adjoint(
        self, grad_spikes: SpikeGradient, grad_voltage: Array | None, grad_state: StateGradient | None
    ) -> AdjointResult:
        """Differentiate; the first two in the backend's arrays, the last as the caller's, checked here."""
        backend, dtype, tape = self.backend, self.arrays.dtype, self.tape
        assert tape is not None
        shape = (self.result.spikes.shape[0], self.arrays.size)
        shapes = dict.fromkeys(_names(AdjointCarry), shape) | {"spikes": self.history.shape}
        given = {name: zeros(backend, shape, dtype) for name, shape in shapes.items()}
        if grad_state is not None:
            if not isinstance(grad_state, StateGradient):
                raise ArgumentError(
                    f"grad_state: expected a StateGradient, the `state` of other gradients; found {found(grad_state)}"
                )
            for name, shape in shapes.items():
                array = numbers(f"grad_state.{name}", getattr(grad_state, name), backend)
                if array.shape != shape:
                    raise ArgumentError(
                        f"grad_state.{name}: expected shape {shape}, that of this run's state; found {array.shape}"
                    )
                finite_numbers(f"grad_state.{name}", array, backend)
                given[name] = array
        given = {name: backend.asarray(array, dtype) for name, array in given.items()}
        history = given.pop("spikes")
        handed_in = (self.rule, grad_spikes, grad_voltage, AdjointCarry(**given), history)
        if isinstance(tape, Tape):
            return backend.layer_adjoint(self.arrays, self.x, tape, *handed_in)
        return _checkpoints.adjoint(backend, self.arrays, self.x, tape, *handed_in)

    def input_gradient(self, grad_current: Array) -> Array:
        """dLoss/dx of a layer with weights, equation (11): (B, T, K)."""
        return self.backend.input_adjoint(grad_current, self.arrays.weights)


def forward_pass(layer: Layer, x: Input, neurons: int, dtype: np.dtype[Any], state: Any, options: Options) -> Pass:
    """Simulate one layer; x in the backend's form, (B, T, K)."""
    engine = options.backend
    latency = layer.latency_steps if layer.recurrent is not None else 0
    assert latency is not None
    arrays = engine.once(layer, (neurons, dtype), lambda: _layer_arrays(layer, neurons, dtype, engine))
    carry, history = _start(state, x.shape[0], neurons, latency, layer, dtype, engine)
    plan = options.plan(layer, *x.shape[:2])
    tape: Tape | _checkpoints.Checkpoints | None
    if options.tape == "checkpoint":
        result, tape = _checkpoints.forward(engine, arrays, x, carry, history, plan)
    else:
        result = engine.layer_forward(arrays, x, carry, history, plan)
        tape = result.tape
    return Pass(engine, layer, arrays, x, options.rule, plan, history, result, tape)


def _layer_arrays(layer: Layer, neurons: int, dtype: np.dtype[Any], engine: Backend) -> LayerArrays:
    """The layer as the backend's arrays."""

    def each(name: str, value: Any, kind: np.dtype[Any], decays: bool = False) -> Any:
        with np.errstate(over="ignore"):
            array = np.asarray(value, kind)
        if decays:  # a decay just below 1 must not round to 1 in float32
            array = np.minimum(array, np.nextafter(kind.type(1), kind.type(0)))
        finite(f"{name} (as {kind})", array)
        return engine.asarray(np.broadcast_to(array, (neurons,)), kind)

    def matrix(name: str, array: np.ndarray | None) -> Any:
        if array is None:
            return None
        with np.errstate(over="ignore"):
            converted = array.astype(dtype, copy=False)
        finite(f"{name} (as {dtype})", converted)
        return engine.asarray(converted, dtype)

    values = layer.neuron.linear_parameters() | {"bias": 0.0 if layer.bias is None else layer.bias}
    assert layer.latency_steps is not None
    return LayerArrays(
        neuron=Parameters(
            **{
                item.name: each(item.name, values[item.name], dtype, "decays" in item.metadata)
                for item in fields(Parameters)
            }
        ),
        refractory=each("refractory_steps", layer.neuron.refractory_steps, np.dtype(np.int32)),
        weights=matrix("weights", layer.weights),
        recurrent=matrix("recurrent", layer.recurrent),
        latency=layer.latency_steps,
    )


def _start(
    state: Any, batch: int, neurons: int, latency: int, layer: Layer, dtype: np.dtype[Any], engine: Backend
) -> tuple[Carry, Any]:
    """The state a run starts from, as the backend's arrays; checked if the caller gave one."""
    real = _names(AdjointCarry)
    kinds: dict[str, Any] = {name: dtype if name in real else np.int32 for name in _names(Carry)} | {"spikes": np.bool_}
    if batch * latency * neurons > MOST_HISTORY:
        raise ArgumentError(
            f"latency_steps: expected the spikes of {latency} steps to fit into {MOST_HISTORY} bytes; found "
            f"{batch} samples of {neurons} neurons (a shorter latency needs less)"
        )
    shapes = dict.fromkeys(kinds, (batch, neurons)) | {"spikes": (batch, latency, neurons)}
    if state is None:
        ready = {name: zeros(engine, shape, kinds[name]) for name, shape in shapes.items()}
    else:
        if not isinstance(state, State):
            raise ArgumentError(f"state: expected a blocksim.State, the `state` of a run; found {found(state)}")
        # a state on the device is checked on the host, in one copy, and used where it is
        given = {name: numbers(f"state.{name}", getattr(state, name), engine) for name in shapes}
        held = {name: array for name, array in given.items() if engine.owns(array)}
        arrays = given | dict(zip(held, engine.fetch(list(held.values())) if held else (), strict=True))
        for name, shape in shapes.items():
            array = arrays[name]
            if array.shape != shape:
                raise ArgumentError(
                    f"state.{name}: expected shape {shape} for this layer and input; found {array.shape} "
                    "(is it the state of another layer, or of another batch?)"
                )
            finite(f"state.{name}", array)
        left, longest = arrays["refractory"], np.asarray(layer.neuron.refractory_steps)
        if left.dtype.kind not in "iu" or ((left < 0) | (left > longest)).any():
            raise ArgumentError(
                f"state.refractory: expected steps from 0 to this layer's refractory period ({longest.max()}); found "
                f"{found(left)} with values up to {left.max()} (is it the state of another layer?)"
            )
        if arrays["spikes"].dtype != np.bool_:
            raise ArgumentError(f"state.spikes: expected a bool array; found {found(arrays['spikes'])}")
        if any(arrays[name].dtype != dtype for name in real):
            raise ArgumentError(
                f"{', '.join(f'state.{name}' for name in real)}: expected the run's computing dtype, {dtype}; found "
                f"{' and '.join(str(arrays[name].dtype) for name in real)}"
            )
        # kernels may not change a state that its owner uses again
        ready = {name: engine.asarray(array.copy(), kinds[name]) for name, array in given.items()}
    history = ready.pop("spikes")
    return Carry(**ready), history


def _names(record: type) -> list[str]:
    return [item.name for item in fields(record)]
