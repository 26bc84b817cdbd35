"""One layer's forward pass and its adjoint, in the arrays of a backend: what runs and networks are made of.

Owns the step from a state to a backend's arrays, and the choice between a whole tape and checkpoints. The arrays of the
layer itself are `blocksim._layer_arrays`'s, what a caller gets is `blocksim._run`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from blocksim import _checkpoints, _linear
from blocksim._blocks import last_spikes, zeros
from blocksim._escape import Noise
from blocksim._events import Events
from blocksim._inputs import finite_numbers, imposed_spikes, numbers
from blocksim._layer import Layer
from blocksim._layer_arrays import arrays_of
from blocksim._options import Options
from blocksim._state import LinearState, LinearStateGradient, State, StateGradient
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
    LinearAdjointCarry,
    LinearCarry,
    LinearLayer,
    Plan,
    SpikeGradient,
)
from blocksim.backend import Backend
from blocksim.errors import ArgumentError
from blocksim.numerics import spike_rows

# bytes of a state's spikes, one a neuron and step of delay; and of its input
MAX_HISTORY = 1 << 34


@dataclass(frozen=True)
class Form:
    """The classes of a layer's state: as the caller's, and what blocks hand on."""

    state: Any
    state_gradient: Any
    carry: Any
    adjoint_carry: Any

    def real(self) -> list[str]:
        """The names of what blocks hand on that a gradient belongs to."""
        return [item.name for item in fields(self.adjoint_carry)]


SIMPLE = Form(State, StateGradient, Carry, AdjointCarry)
FAMILY = Form(LinearState, LinearStateGradient, LinearCarry, LinearAdjointCarry)


def form_of(arrays: LayerArrays | LinearLayer) -> Form:
    """That of (1)-(6), or of the linear family."""
    return FAMILY if isinstance(arrays, LinearLayer) else SIMPLE


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass through one layer, in the backend's arrays, and what its adjoint needs."""

    backend: Backend
    layer: Layer
    arrays: LayerArrays | LinearLayer
    x: Any  # as the backend's; it begins `lead` steps before the run
    lead: int
    rule: AdjointRule
    plan: Plan
    history: Array  # (B, D, N) bool, spikes of the D steps before the first
    result: ForwardResult
    tape: Any  # Tape, LinearTape or Checkpoints; None without a tape
    left: np.ndarray | None = None  # (B, N), where spikes are imposed: steps still refractory at the start

    @property
    def steps(self) -> int:
        """Number of steps T that were simulated."""
        return int(self.result.spikes.shape[1])

    @property
    def shared_current(self) -> bool:
        """Whether x is one current that goes to all neurons."""
        return self.layer.inputs is None and bool(self.x.shape[2] < self.arrays.size)

    @cached_property
    def spikes(self) -> Input:
        """The spikes as a next layer reads them: all as events, however many, so that sums keep their order."""
        engine, spikes = self.backend, self.result.spikes
        if engine.owns(spikes):
            return spikes
        events = engine.events(engine.to_numpy(spikes))
        assert events is not None
        return events

    def state(self) -> list[Array]:
        """What the next run is handed: the arrays of a state, in their order."""
        engine = self.backend
        arrays = [
            *self.result.carry.copy().arrays(),
            last_spikes(engine, self.result.spikes, self.history, self.steps),
        ]
        if form_of(self.arrays) is FAMILY:
            arrays.append(_last_rows(engine, self.x, self.lead, self.arrays.dtype))
        return arrays

    def adjoint(
        self, grad_spikes: SpikeGradient, grad_voltage: Array | None, grad_state: Any
    ) -> tuple[AdjointResult, Array | None]:
        """Differentiate; the first two in the backend's arrays, the last as the caller's, checked here.

        Returns the result, and what `grad_state` says of the last input, (B, E, K).
        """
        backend, tape, form = self.backend, self.tape, form_of(self.arrays)
        assert tape is not None
        batch = self.result.spikes.shape[0]
        carried = self.arrays.carry_shapes(batch)
        shapes = {name: carried[name] for name in form.real()} | {"spikes": self.history.shape}
        if form is FAMILY:
            shapes["inputs"] = (batch, self.lead, self.x.shape[2])
        given = _checked_gradients(grad_state, form.state_gradient, shapes, backend, self.arrays.dtype)
        history, last = given.pop("spikes"), given.pop("inputs", None)
        if self.plan.imposed is not None:  # spikes that nothing changes
            history = zeros(backend, shapes["spikes"], self.arrays.dtype)
        handed_in = (self.rule, grad_spikes, grad_voltage, form.adjoint_carry(**given), history)
        if isinstance(tape, _checkpoints.Checkpoints):
            return _checkpoints.adjoint(backend, self.arrays, self.x, tape, *handed_in), last
        _, layer_adjoint = backend.of(self.arrays)
        return layer_adjoint(self.arrays, self.x, tape, *handed_in), last

    def input_gradient(self, result: AdjointResult) -> Array:
        """dLoss/dx (B, E + T, K), equation (11); of the current (B, T, N) where x is the current itself."""
        if isinstance(self.arrays, LinearLayer):
            return _linear.input_gradient(self.backend, self.arrays, result)
        if self.arrays.weights is None:
            return result.current
        return self.backend.input_adjoint(result.current, self.arrays.weights)


def forward_pass(
    layer: Layer, x: Input, neurons: int, dtype: np.dtype[Any], state: Any, options: Options, place: int
) -> Pass:
    """Simulate one layer, of that place in a network; x in the backend's form, (B, T, K)."""
    engine = options.backend
    arrays: Any = engine.once(layer, (neurons, dtype), lambda: arrays_of(layer, neurons, dtype, engine))
    lead = arrays.lead if isinstance(arrays, LinearLayer) else 0
    batch, steps, _ = x.shape
    plan, rule = options.plan(layer, batch, steps, place), options.rule_of(layer, place)
    carry, history, earlier = _start(state, x, lead, layer, arrays, engine, plan.noise)
    left = None
    if options.imposed(place) is not None:
        left = engine.to_numpy(carry.refractory).copy()
        given = imposed_spikes(options.imposed(place), (batch, steps, neurons), layer, left)
        whole = arrays
        arrays = engine.once(layer, (neurons, dtype, "imposed"), lambda: replace(whole, imposed=True))
        plan = replace(plan, imposed=engine.asarray(given))
    x = _after(engine, earlier, x) if lead else x
    if options.tape == "checkpoint":
        result, tape = _checkpoints.forward(engine, arrays, x, carry, history, plan)
        return Pass(engine, layer, arrays, x, lead, rule, plan, history, result, tape, left)
    layer_forward, _ = engine.of(arrays)
    result = layer_forward(arrays, x, carry, history, plan)
    return Pass(engine, layer, arrays, x, lead, rule, plan, history, result, result.tape, left)


def _start(
    state: Any, x: Input, lead: int, layer: Layer, arrays: LayerArrays | LinearLayer, engine: Backend,
    noise: Noise | None,
) -> tuple[Any, Array, np.ndarray]:  # fmt: skip
    """What a run starts from: the carry and earlier spikes, as the backend's arrays; earlier input, on the host."""
    form, dtype, batch = form_of(arrays), arrays.dtype, x.shape[0]
    delays = layer.recurrent_delays
    latency = 0 if delays is None else delays[1]
    if batch * latency * arrays.size > MAX_HISTORY:
        raise ArgumentError(
            f"latency_steps: expected the spikes of {latency} steps to fit into {MAX_HISTORY} bytes; found "
            f"{batch} samples of {arrays.size} neurons (a shorter latency needs less)"
        )
    if batch * lead * x.shape[2] * dtype.itemsize > MAX_HISTORY:
        raise ArgumentError(
            f"delay_steps: expected the input of {lead} steps to fit into {MAX_HISTORY} bytes; found {batch} samples "
            f"of {x.shape[2]} inputs (a shorter delay needs less)"
        )
    shapes = arrays.carry_shapes(batch) | {"spikes": (batch, latency, arrays.size)}
    kinds = dict.fromkeys(shapes, dtype) | {"spikes": np.dtype(np.bool_)}
    kinds |= dict.fromkeys(shapes.keys() & {"refractory", "draws"}, np.dtype(np.int32))
    earlier = np.zeros((batch, lead, x.shape[2]), dtype)
    if state is None:
        ready = {name: zeros(engine, shape, kinds[name]) for name, shape in shapes.items()}
        if noise is not None:
            first = noise.first_draws(batch, arrays.size).astype(dtype)[:, None]
            ready |= {"remaining": engine.asarray(first), "draws": engine.asarray(np.ones(first.shape, np.int32))}
    else:
        if form is FAMILY:
            shapes, kinds = shapes | {"inputs": earlier.shape}, kinds | {"inputs": dtype}
        ready = _checked_state(state, form, shapes, kinds, layer, engine)
        earlier = ready.pop("inputs", earlier)
    history = ready.pop("spikes")
    return form.carry(**ready), history, earlier


def _checked_state(
    state: Any, form: Form, shapes: Mapping[str, tuple[int, ...]], kinds: Mapping[str, Any], layer: Layer,
    engine: Backend,
) -> dict[str, Array]:  # fmt: skip
    """The arrays of a state that a caller gave, copied; its inputs stay on the host."""
    if not isinstance(state, form.state):
        raise ArgumentError(
            f"state: expected a blocksim.{form.state.__name__}, the `state` of a run of this layer; found "
            f"{found(state)}"
        )
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
    real = [name for name, kind in kinds.items() if kind.kind == "f"]
    if any(arrays[name].dtype != kinds[name] for name in real):
        raise ArgumentError(
            f"{', '.join(f'state.{name}' for name in real)}: expected the run's computing dtype, {kinds[real[0]]}; "
            f"found {' and '.join(str(arrays[name].dtype) for name in real)}"
        )
    # kernels may not change a state that its owner uses again
    return {
        name: arrays[name] if name == "inputs" else engine.asarray(array.copy(), kinds[name])
        for name, array in given.items()
    }


def _checked_gradients(
    given: Any, kind: Any, shapes: Mapping[str, tuple[int, ...]], backend: Backend, dtype: np.dtype[Any]
) -> dict[str, Array]:
    """The arrays of a state's gradient that a caller gave; zeros where there is none."""
    if given is None:
        return {name: zeros(backend, shape, dtype) for name, shape in shapes.items()}
    if not isinstance(given, kind):
        raise ArgumentError(
            f"grad_state: expected a {kind.__name__}, the `state` of other gradients; found {found(given)}"
        )
    arrays = {}
    for name, shape in shapes.items():
        array = numbers(f"grad_state.{name}", getattr(given, name), backend)
        if array.shape != shape:
            raise ArgumentError(
                f"grad_state.{name}: expected shape {shape}, that of this run's state; found {array.shape}"
            )
        finite_numbers(f"grad_state.{name}", array, backend)
        arrays[name] = backend.asarray(array, dtype)
    return arrays


def _after(engine: Backend, earlier: np.ndarray, x: Input) -> Input:
    """x with the rows of `earlier` (B, E, K), which are on the host, before it; as spikes where both are."""
    batch, lead, inputs = earlier.shape
    kind = earlier.dtype
    if isinstance(x, Events) or x.dtype.itemsize == 1:
        counts = bool(spike_rows(earlier.reshape(-1, inputs)).all())
        if counts and isinstance(x, Events):
            return Events.from_dense(earlier).followed_by(x)
        if isinstance(x, Events):
            x = engine.asarray(x.to_dense(kind))
        elif counts and earlier.max() <= np.iinfo(np.uint8).max:  # spikes in a backend's own form
            kind = x.dtype if earlier.max() <= 1 else np.dtype(np.uint8)
    joined = engine.empty((batch, lead + x.shape[1], inputs), kind)
    joined[:, :lead] = engine.asarray(earlier, kind)
    joined[:, lead:] = x
    return joined


def _last_rows(engine: Backend, x: Input, number: int, dtype: np.dtype[Any]) -> Array:
    """The last rows of x, (B, number, K), in an array of their own."""
    if not number:
        return engine.empty((x.shape[0], 0, x.shape[2]), dtype)
    steps = x.shape[1]
    rows = x[steps - number : steps].to_dense(dtype) if isinstance(x, Events) else x[:, steps - number :].copy()
    return engine.asarray(rows, dtype)
