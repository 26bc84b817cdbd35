"""`simulate` and what it returns: the public face of the block algorithm.

Owns the checks of a run's arguments and the translation between a caller's NumPy arrays and a backend's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from blocksim import checkpoints
from blocksim.arrays import AdjointCarry, AdjointRule, Carry, ForwardResult, LayerArrays, Plan, Tape
from blocksim.backend import Backend, get_backend
from blocksim.blocks import handed_on
from blocksim.errors import ArgumentError
from blocksim.inputs import computing_dtype, numbers, prepare, read_input
from blocksim.layer import Layer
from blocksim.neurons import ALIF
from blocksim.state import State, StateGradient
from blocksim.surrogates import Surrogate, get_surrogate
from blocksim.validation import choice, choices, finite, found, frozen, whole

METHODS = ("blocks", "standard")
GRADIENTS = ("standard", "paper")
DETACH = ("reset", "recurrent", "adaptation")
RECORD = ("voltage", "threshold")
NUMBERS = ("beta", "p", "b", "theta", "bias")  # what has one gradient a neuron


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a loss with respect to everything that went into a run: `Run.backward` returns one.

    Attributes
    ----------
    current : array of the run's shape, (T, N) or (B, T, N)
        dLoss/dI, equation (11).
    weights : (K, N) array or None
        dLoss/dW; None for a layer without weights.
    bias, beta, p, b, theta : float or (N,) array
        Gradients of the neuron's parameters, equation (12), each of its parameter's shape: where the parameter is one
        number for all neurons, the sum over them. bias is (N,) for a layer without bias; p and b are None for LIF.
    recurrent : (N, N) array or None
        dLoss/dR; None for a layer without recurrence.
    state : StateGradient
        Gradient with respect to the state the run started from, equation (13): pass it to the `backward` of the run
        before as `grad_state`.

    Notes
    -----
    Arrays have the run's computing dtype.
    """

    current: np.ndarray
    weights: np.ndarray | None
    bias: float | np.ndarray
    recurrent: np.ndarray | None
    beta: float | np.ndarray
    p: float | np.ndarray | None
    b: float | np.ndarray | None
    theta: float | np.ndarray
    state: StateGradient
    _weights: np.ndarray | None = field(repr=False)
    _shared_current: bool = field(repr=False)

    @cached_property
    def x(self) -> np.ndarray:
        """dLoss/dx, shape of x, equation (11).

        Computed when first asked for: training the first layer does not need it, and it is a dense product.
        """
        if self._weights is not None:
            product: np.ndarray = self.current @ self._weights.T
            return product
        return self.current.sum(axis=-1, keepdims=True) if self._shared_current else self.current


@dataclass(frozen=True, eq=False)
class Run:
    """A finished simulation: what `simulate` returns.

    Attributes
    ----------
    spikes : bool array of shape (T, N) or (B, T, N)
        True where a neuron spikes. One byte a step, and `spikes @ weights`, `spikes.mean()` or `spikes * gradient` do
        as expected; NumPy refuses `spikes - target`, which for unsigned integers would wrap around.
    voltage : float array of the same shape, or None
        Membrane potential V before reset, equation (3), in the computing dtype; None unless recorded.
    threshold : float array of the same shape, or None
        Threshold theta, equation (4), in the computing dtype; None unless recorded.
    state : State
        State after the last step, with a batch axis always; pass it to the next `simulate`.
    backend, method : str
        What ran.
    block_length : int
        Steps in a block; 1 for the standard method.

    Notes
    -----
    With a tape, `spikes` and `voltage` are part of it and are read-only; copy them to change them.
    """

    spikes: np.ndarray
    voltage: np.ndarray | None
    threshold: np.ndarray | None
    state: State
    backend: str
    method: str
    block_length: int
    _context: _Context | None = field(repr=False, default=None)

    def backward(
        self,
        grad_spikes: np.ndarray | None = None,
        grad_voltage: np.ndarray | None = None,
        grad_state: StateGradient | None = None,
    ) -> Gradients:
        """Gradients of a loss, from its gradients with respect to this run's spikes, voltage and final state.

        Parameters
        ----------
        grad_spikes, grad_voltage : arrays of the shape of `spikes`, or None
            dLoss/dS and dLoss/dV; None for zero. The voltage need not be recorded.
        grad_state : StateGradient or None
            dLoss/d(state), from the `backward` of the run that continued this one.

        Raises
        ------
        ArgumentError
            The run kept no tape, nothing was passed, or an array has the wrong shape or holds NaN or infinity.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim import LIF, Layer, simulate
        >>> run = simulate(Layer(LIF(beta=0.5)), np.ones((3, 1)), backend="numpy", record=("voltage",), tape=True)
        >>> run.voltage[:, 0]
        array([1. , 1.5, 1. ])
        >>> run.backward(grad_voltage=np.ones((3, 1))).current[:, 0]
        array([1.5, 1. , 1. ])
        """
        context = self._context
        if context is None:
            raise ArgumentError("backward: expected a run with a tape; found one without (pass tape=True to simulate)")
        if grad_spikes is None and grad_voltage is None and grad_state is None:
            raise ArgumentError(
                "backward: expected at least one of grad_spikes, grad_voltage, grad_state; found none of them"
            )
        return context.backward(
            _cotangent("grad_spikes", grad_spikes, self.spikes.shape, context),
            _cotangent("grad_voltage", grad_voltage, self.spikes.shape, context),
            grad_state,
        )


@dataclass(frozen=True, eq=False)
class _Context:
    """What `backward` needs of the call to `simulate`."""

    backend: Backend
    layer: Layer
    arrays: LayerArrays
    x: Any  # as the backend's
    shared_current: bool
    rule: AdjointRule
    tape: Tape | checkpoints.Checkpoints
    dtype: np.dtype[Any]
    batched: bool
    on_device: bool  # x lies there, and so does what is returned

    def backward(
        self, grad_spikes: np.ndarray | None, grad_voltage: np.ndarray | None, grad_state: StateGradient | None
    ) -> Gradients:
        backend, arrays, dtype = self.backend, self.arrays, self.dtype
        tape = self.tape
        batch, _, neurons = tape.spikes.shape
        shapes = {
            "voltage": (batch, neurons),
            "adaptation": (batch, neurons),
            "spikes": (batch, tape.history.shape[1], neurons),
        }
        given = {name: _zeros(shape, dtype, backend) for name, shape in shapes.items()}
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
                finite(f"grad_state.{name}", array, backend.to_numpy if backend.owns(array) else np.asarray)
                given[name] = array
        handed_in = (
            self.rule,
            None if grad_spikes is None else backend.asarray(grad_spikes, dtype),
            None if grad_voltage is None else backend.asarray(grad_voltage, dtype),
            AdjointCarry(backend.asarray(given["voltage"], dtype), backend.asarray(given["adaptation"], dtype)),
            backend.asarray(given["spikes"], dtype),
        )
        if isinstance(tape, Tape):
            result = backend.layer_adjoint(arrays, self.x, tape, *handed_in)
        else:
            result = checkpoints.adjoint(backend, arrays, self.x, tape, *handed_in)

        def out(array: Any) -> Any:
            return array if array is None or self.on_device else backend.to_numpy(array)

        current = out(result.current)
        totals = [getattr(result.sums, name).sum(axis=0) for name in NUMBERS]
        into = [result.carry.voltage, result.carry.adaptation, result.history]
        fetched = backend.fetch(totals if self.on_device else totals + into)
        sums = dict(zip(NUMBERS, fetched, strict=False))
        like = {**self.layer.neuron.parameters(), "bias": self.layer.bias}

        def shaped(name: str) -> Any:
            value = like[name]
            if value is not None and np.ndim(value) == 0:
                return float(sums[name].sum())
            return sums[name].astype(dtype)

        adaptive = isinstance(self.layer.neuron, ALIF)
        return Gradients(
            current=current if self.batched else current[0],
            weights=out(result.weights),
            bias=shaped("bias"),
            recurrent=out(result.recurrent),
            beta=shaped("beta"),
            p=shaped("p") if adaptive else None,
            b=shaped("b") if adaptive else None,
            theta=shaped("theta"),
            state=StateGradient(*(into if self.on_device else fetched[len(NUMBERS) :])),
            _weights=arrays.weights if self.on_device else self.layer.weights,
            _shared_current=self.shared_current,
        )


def simulate(
    layer: Layer,
    x: Any,
    backend: str | Backend = "numba",
    method: str = "blocks",
    block_length: int | None = None,
    state: State | None = None,
    record: tuple[str, ...] | str = (),
    tape: bool | str = False,
    surrogate: str | Surrogate = "fast_sigmoid",
    gradient: str = "standard",
    detach: tuple[str, ...] | str = ("reset",),
    batch_size: int | None = None,
) -> Run:
    """Simulate a layer of LIF or ALIF neurons, exactly, in blocks of time: equations (1)-(6).

    Parameters
    ----------
    layer : Layer
        Neurons and connections.
    x : array (T, K) or (B, T, K), Events, or SciPy CSR array (B * T, K)
        Input. Real values of any floating dtype, or spikes (bool, or whole numbers >= 0 in any integer or floating
        dtype); sparse spikes are projected event by event, real values and dense spikes by a matrix product. For a
        layer without weights, the current itself: K = N, or K = 1 for one current shared by all neurons.
    backend : {"numba", "numpy", "cupy", "auto"} or Backend
        What computes. "auto" takes the fastest that is ready and says which in `Run.backend`.
    method : {"blocks", "standard"}
        Blocks of time, or step by step; the results are the same.
    block_length : int or None
        Steps in a block, at most the (shortest) refractory period + 1, which is what None gives.
    state : State or None
        `Run.state` of the run that this one continues; None starts at rest.
    record : tuple out of "voltage", "threshold"
        What to return besides spikes.
    tape : bool or "checkpoint"
        Keep what `Run.backward` needs. x is kept, not copied: leave it as it is until then. "checkpoint" keeps a few
        states instead, and computes the rest again, an eighth of the run at a time: less memory for more time
        (docs/performance.md); gradients are the same to rounding.
    surrogate : str or Surrogate
        Surrogate derivative of the spike: "fast_sigmoid", "box_car", "multi_gaussian", "arctan", "sigmoid",
        "triangle", "superspike", or an object that carries its scale, `blocksim.surrogates.FastSigmoid(k=25)`.
    gradient : {"standard", "paper"}
        The surrogate gradient of the step-by-step model, equations (7)-(13), or that of Taylor et al. 2023,
        equations (14)-(17), which depends on the block length.
    detach : tuple out of "reset", "recurrent", "adaptation"
        Paths that carry no gradient.
    batch_size : int or None
        Number of samples B, for a CSR array only.

    Returns
    -------
    Run
        Of NumPy arrays. Where x is a CuPy array and the backend "cupy", spikes, recorded traces, the state and the
        gradients of input, weights and state stay on the device, as CuPy arrays; the gradients of the neurons'
        parameters do not.

    Raises
    ------
    ArgumentError
        An argument is wrong; the message names it, what was expected and what was found.
    MissingLibraryError
        The backend's library is not installed; the message names the command that installs it.

    Notes
    -----
    The computing precision is NumPy's promotion of the floating arrays among x and the layer's arrays: float32 if all
    are float32 (or float16), float64 if any is float64 or there is none. Integer and bool arrays, events and plain
    numbers carry no precision.

    Source: Taylor, King, Harper, "Addressing the speed-accuracy simulation trade-off for adaptive spiking neurons",
    NeurIPS 2023, arXiv 2311.11390.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import LIF, Layer, simulate
    >>> layer = Layer(LIF.from_ms(tau_mem=10, refractory=2, dt=1))
    >>> run = simulate(layer, np.full((8, 1), 0.6), backend="numpy", record=("voltage",))
    >>> run.spikes[:, 0].astype(int)
    array([0, 1, 0, 0, 0, 1, 0, 0])
    >>> run.block_length
    3
    """
    if not isinstance(layer, Layer):
        raise ArgumentError(f"layer: expected a blocksim.Layer; found {found(layer)}")
    choice("method", method, METHODS)
    record = choices("record", record, RECORD)
    length = _block_length(layer, method, block_length)
    rule = _adjoint_rule(surrogate, gradient, detach)
    if not (isinstance(tape, (bool, np.bool_)) or (isinstance(tape, str) and tape == "checkpoint")):
        raise ArgumentError(f"tape: expected True, False or 'checkpoint'; found {tape!r}")
    engine = get_backend(backend)
    on_device = engine.owns(x)
    x, batched = read_input(x, layer, batch_size, engine)
    if tape:
        engine.check_surrogate(rule.surrogate)
    dtype = computing_dtype(x, layer)
    batch, _, columns = x.shape
    neurons = layer.size or columns
    latency = layer.latency_steps if layer.recurrent is not None else 0
    assert latency is not None
    arrays = _layer_arrays(layer, neurons, dtype, engine)
    carry, history = _start(state, batch, neurons, latency, layer, dtype, engine)
    x = prepare(x, layer, engine, dtype)
    if isinstance(x, np.ndarray):
        x = engine.asarray(x, dtype)
    plan = Plan(
        batch=batch,
        block_length=length,
        record_voltage="voltage" in record,
        record_threshold="threshold" in record,
        tape=bool(tape),
        paper=rule.paper,
    )
    kept: Tape | checkpoints.Checkpoints | None
    if tape == "checkpoint":
        result, kept = checkpoints.forward(engine, arrays, x, carry, history, plan)
    else:
        result = engine.layer_forward(arrays, x, carry, history, plan)
        kept = result.tape

    def out(array: Any) -> Any:
        if array is None:
            return None
        if not on_device:
            array = engine.to_numpy(array)
            if tape:
                array = frozen(array.view())
        return array if batched else array[0]

    return Run(
        spikes=out(result.spikes),
        voltage=out(result.voltage),
        threshold=out(result.threshold),
        state=_finish(result, history, engine, on_device),
        backend=engine.name,
        method=method,
        block_length=length,
        _context=None
        if kept is None
        else _Context(
            engine,
            layer,
            arrays,
            x,
            layer.weights is None and columns < neurons,
            rule,
            kept,
            dtype,
            batched,
            on_device,
        ),
    )


def _block_length(layer: Layer, method: str, block_length: int | None) -> int:
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


def _adjoint_rule(surrogate: Any, gradient: str, detach: Any) -> AdjointRule:
    cut = choices("detach", detach, DETACH)
    return AdjointRule(
        surrogate=get_surrogate(surrogate),
        paper=choice("gradient", gradient, GRADIENTS) == "paper",
        through_reset="reset" not in cut,
        through_recurrent="recurrent" not in cut,
        through_adaptation="adaptation" not in cut,
    )


# A layer does not change, so its arrays are made once for each backend and precision; they go when the layer goes.
_PREPARED: WeakKeyDictionary[Layer, dict[Any, LayerArrays]] = WeakKeyDictionary()


def _layer_arrays(layer: Layer, neurons: int, dtype: np.dtype[Any], engine: Backend) -> LayerArrays:
    """The layer as the backend's arrays."""
    of_layer = _PREPARED.setdefault(layer, {})
    key = (engine, neurons, dtype)
    if key not in of_layer:
        of_layer[key] = _make_layer_arrays(layer, neurons, dtype, engine)
    return of_layer[key]


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
    state: State | None, batch: int, neurons: int, latency: int, layer: Layer, dtype: np.dtype[Any], engine: Backend
) -> tuple[Carry, Any]:
    """The state a run starts from, as the backend's arrays; checked if the caller gave one."""
    kinds: dict[str, Any] = {"voltage": dtype, "adaptation": dtype, "refractory": np.int32, "spikes": np.bool_}
    shapes = dict.fromkeys(kinds, (batch, neurons)) | {"spikes": (batch, latency, neurons)}
    if state is None:
        ready = {name: _zeros(shape, kinds[name], engine) for name, shape in shapes.items()}
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


def _zeros(shape: tuple[int, ...], dtype: Any, engine: Backend) -> Any:
    """Made where it is needed, not copied there."""
    array = engine.empty(shape, dtype)
    array[...] = 0
    return array


def _finish(result: ForwardResult, history: Any, engine: Backend, on_device: bool) -> State:
    """The state after the last step, in arrays of its own."""
    carry = [array.copy() for array in (result.carry.voltage, result.carry.adaptation, result.carry.refractory)]
    arrays = [*carry, handed_on(engine, result.spikes, history, result.spikes.shape[1])]
    return State(*(arrays if on_device else engine.fetch(arrays)))


def _cotangent(name: str, array: Any, shape: tuple[int, ...], context: _Context) -> Any:
    """Check a gradient handed to `backward`; returns it with a batch axis, in the computing dtype."""
    if array is None:
        return None
    backend = context.backend
    owned = backend.owns(array)
    array = numbers(name, array, backend)
    if array.shape != shape:
        raise ArgumentError(f"{name}: expected shape {shape}, that of the run's spikes; found {array.shape}")
    finite(name, array, backend.to_numpy if owned else np.asarray)
    converted: Any = array if owned else np.asarray(array, dtype=context.dtype)
    return converted if context.batched else converted[None]
