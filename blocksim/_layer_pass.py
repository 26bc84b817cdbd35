"""One layer's forward pass and its adjoint, in the arrays of a backend: what runs and networks are made of.

Owns the options of a run, checked once, the step from a layer and a state to a backend's arrays, and the choice between
a whole tape and checkpoints. What a caller gets of it is `blocksim._run`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from blocksim import _checkpoints
from blocksim._inputs import finite_numbers, numbers
from blocksim._layer import Layer
from blocksim._state import State, StateGradient
from blocksim._validation import choice, choices, finite, found, whole
from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Array,
    Carry,
    ForwardResult,
    Input,
    LayerArrays,
    Plan,
    SpikeGradient,
    Tape,
)
from blocksim.backend import Backend, get_backend
from blocksim.errors import ArgumentError
from blocksim.surrogates import Surrogate, get_surrogate

METHODS = ("blocks", "standard")
# Bytes of a state's spikes: one a neuron and step of latency.
MOST_HISTORY = 1 << 34
GRADIENTS = ("standard", "paper")
DETACH = ("reset", "recurrent", "adaptation")


@dataclass(frozen=True)
class Options:
    """How to run, the same for every layer of a network."""

    backend: Backend
    method: str
    block_length: int | None  # None: as long as each layer allows
    record: tuple[str, ...]
    tape: bool | str
    rule: AdjointRule

    @classmethod
    def checked(
        cls,
        backend: Any,
        method: str,
        block_length: int | None,
        record: Any,
        recordable: tuple[str, ...],
        tape: Any,
        surrogate: str | Surrogate,
        gradient: str,
        detach: Any,
    ) -> Options:
        """From what a caller passes; raises `ArgumentError` naming the argument."""
        choice("method", method, METHODS)
        record = choices("record", record, recordable)
        if not (isinstance(tape, (bool, np.bool_)) or (isinstance(tape, str) and tape == "checkpoint")):
            raise ArgumentError(f"tape: expected True, False or 'checkpoint'; found {tape!r}")
        cut = choices("detach", detach, DETACH)
        rule = AdjointRule(
            surrogate=get_surrogate(surrogate),
            paper=choice("gradient", gradient, GRADIENTS) == "paper",
            through_reset="reset" not in cut,
            through_recurrent="recurrent" not in cut,
            through_adaptation="adaptation" not in cut,
        )
        engine = get_backend(backend)
        if tape:
            engine.check_surrogate(rule.surrogate)
        return cls(engine, method, block_length, record, tape if isinstance(tape, str) else bool(tape), rule)


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass through one layer, in the backend's arrays, and what its adjoint needs."""

    backend: Backend
    layer: Layer
    arrays: LayerArrays
    x: Any  # as the backend's
    shared_current: bool  # one current for all neurons
    rule: AdjointRule
    plan: Plan
    history: Array  # (B, D, N) bool, spikes of the D steps before the first
    result: ForwardResult
    kept: Tape | _checkpoints.Checkpoints | None

    def adjoint(
        self, grad_spikes: SpikeGradient | None, grad_voltage: Array | None, grad_state: StateGradient | None
    ) -> AdjointResult:
        """Differentiate; the first two in the backend's arrays, the last as the caller's, checked here."""
        backend, dtype, tape = self.backend, self.arrays.beta.dtype, self.kept
        assert tape is not None
        batch, _, neurons = self.result.spikes.shape
        shapes = {
            "voltage": (batch, neurons),
            "adaptation": (batch, neurons),
            "spikes": (batch, self.history.shape[1], neurons),
        }
        given = {name: zeros(shape, dtype, backend) for name, shape in shapes.items()}
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
        handed_in = (
            self.rule,
            grad_spikes,
            grad_voltage,
            AdjointCarry(backend.asarray(given["voltage"], dtype), backend.asarray(given["adaptation"], dtype)),
            backend.asarray(given["spikes"], dtype),
        )
        if isinstance(tape, Tape):
            return backend.layer_adjoint(self.arrays, self.x, tape, *handed_in)
        return _checkpoints.adjoint(backend, self.arrays, self.x, tape, *handed_in)

    def to_input(self, grad_current: Array) -> Array:
        """dLoss/dx of a layer with weights, equation (11): (B, T, K)."""
        return self.backend.input_adjoint(grad_current, self.arrays.weights)

    @property
    def takes_products(self) -> bool:
        """Whether `adjoint` takes dLoss/dS as a `FromAbove`."""
        return self.backend.takes_products(self.arrays, self.rule)


def forward_pass(layer: Layer, x: Input, neurons: int, dtype: np.dtype[Any], state: Any, options: Options) -> Pass:
    """Simulate one layer; x in the backend's form, (B, T, K)."""
    engine = options.backend
    latency = layer.latency_steps if layer.recurrent is not None else 0
    assert latency is not None
    arrays = _layer_arrays(layer, neurons, dtype, engine)
    carry, history = _start(state, x.shape[0], neurons, latency, layer, dtype, engine)
    plan = Plan(
        batch=x.shape[0],
        # no longer than the run, for which the adjoint's memory is taken
        block_length=min(block_length_of(layer, options.method, options.block_length), x.shape[1]),
        record_voltage="voltage" in options.record,
        record_threshold="threshold" in options.record,
        tape=bool(options.tape),
        paper=options.rule.paper,
    )
    kept: Tape | _checkpoints.Checkpoints | None
    if options.tape == "checkpoint":
        result, kept = _checkpoints.forward(engine, arrays, x, carry, history, plan)
    else:
        result = engine.layer_forward(arrays, x, carry, history, plan)
        kept = result.tape
    shared = layer.weights is None and x.shape[2] < neurons
    return Pass(engine, layer, arrays, x, shared, options.rule, plan, history, result, kept)


def block_length_of(layer: Layer, method: str, block_length: int | None) -> int:
    """The block length to run with, checked."""
    longest = layer.neuron.block_length
    if block_length is None:
        return longest if method == "blocks" else 1
    length = whole("block_length", block_length, 1)
    if method == "standard" and length != 1:
        raise ArgumentError(f"block_length: expected 1 or None for method='standard'; found {length}")
    if length > longest:
        raise ArgumentError(
            f"block_length: expected at most {longest}, the shortest refractory period of {longest - 1} steps plus one "
            f"(in a longer block a neuron could spike twice); found {length}"
        )
    return length


def _layer_arrays(layer: Layer, neurons: int, dtype: np.dtype[Any], engine: Backend) -> LayerArrays:
    """The layer as the backend's arrays."""
    return engine.once(layer, (neurons, dtype), lambda: _make_layer_arrays(layer, neurons, dtype, engine))


def _make_layer_arrays(layer: Layer, neurons: int, dtype: np.dtype[Any], engine: Backend) -> LayerArrays:
    values = {"p": 0.0, "b": 0.0, **layer.neuron.parameters(), "bias": 0.0 if layer.bias is None else layer.bias}
    limit = np.nextafter(dtype.type(1), dtype.type(0))  # a decay just below 1 must not round to 1 in float32
    for name in ("beta", "p"):
        values[name] = np.minimum(np.asarray(values[name], dtype), limit)

    def each(name: str, kind: Any) -> Any:
        with np.errstate(over="ignore"):
            array = np.broadcast_to(np.asarray(values[name], kind), (neurons,))
        finite(f"{name} (as {kind})", array)
        return engine.asarray(array, kind)

    def matrix(name: str, array: np.ndarray | None) -> Any:
        if array is None:
            return None
        with np.errstate(over="ignore"):
            converted = array.astype(dtype, copy=False)
        finite(f"{name} (as {dtype})", converted)
        return engine.asarray(converted, dtype)

    assert layer.latency_steps is not None
    return LayerArrays(
        beta=each("beta", dtype),
        p=each("p", dtype),
        b=each("b", dtype),
        theta=each("theta", dtype),
        bias=each("bias", dtype),
        refractory=each("refractory_steps", np.dtype(np.int32)),
        weights=matrix("weights", layer.weights),
        recurrent=matrix("recurrent", layer.recurrent),
        latency=layer.latency_steps,
    )


def _start(
    state: Any, batch: int, neurons: int, latency: int, layer: Layer, dtype: np.dtype[Any], engine: Backend
) -> tuple[Carry, Any]:
    """The state a run starts from, as the backend's arrays; checked if the caller gave one."""
    kinds: dict[str, Any] = {"voltage": dtype, "adaptation": dtype, "refractory": np.int32, "spikes": np.bool_}
    if batch * latency * neurons > MOST_HISTORY:
        raise ArgumentError(
            f"latency_steps: expected the spikes of {latency} steps to fit into {MOST_HISTORY} bytes; found "
            f"{batch} samples of {neurons} neurons (the refractory period is the least latency of recurrent spikes)"
        )
    shapes = dict.fromkeys(kinds, (batch, neurons)) | {"spikes": (batch, latency, neurons)}
    if state is None:
        ready = {name: zeros(shape, kinds[name], engine) for name, shape in shapes.items()}
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
        if any(arrays[name].dtype != dtype for name in ("voltage", "adaptation")):
            raise ArgumentError(
                f"state.voltage, state.adaptation: expected the run's computing dtype, {dtype}; found "
                f"{arrays['voltage'].dtype} and {arrays['adaptation'].dtype}"
            )
        # kernels may not change a state that its owner uses again
        ready = {name: engine.asarray(array.copy(), kinds[name]) for name, array in given.items()}
    return Carry(ready["voltage"], ready["adaptation"], ready["refractory"]), ready["spikes"]


def zeros(shape: tuple[int, ...], dtype: Any, engine: Backend) -> Array:
    """Made where it is needed, not copied there."""
    array = engine.empty(shape, dtype)
    array[...] = 0
    return array
