"""Layers and networks as functions of JAX, with blocksim's own gradients.

Owns the passage between JAX's arrays and NumPy's: a run is a callback to the host, under `jax.jit` and `jax.grad` too,
with a backward pass of its own. Imports JAX, so it is imported by itself: ``import blocksim.interop.jax``.

>>> import jax
>>> import numpy as np
>>> from blocksim import ALIF, Layer
>>> from blocksim.interop.jax import function
>>> layer = Layer(ALIF(beta=0.9, p=0.95, b=0.1, refractory_steps=3), np.full((2, 4), 0.2, np.float32))
>>> parameters, simulate = function(layer)
>>> x = np.ones((8, 50, 2), np.float32)
>>> simulate(parameters, x).spikes.shape
(8, 50, 4)
>>> gradients = jax.jit(jax.grad(lambda parameters: simulate(parameters, x).spikes.sum()))(parameters)
>>> gradients["weights"].shape
(2, 4)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from blocksim import Layer, Network
from blocksim import simulate as _simulate
from blocksim._libraries import library
from blocksim._validation import found
from blocksim.backend import Backend
from blocksim.errors import ArgumentError
from blocksim.surrogates import Surrogate

library("jax", "jax", "blocksim.interop.jax")  # says what installs it
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

# Tapes that wait for their backward pass: JAX may never ask for one, or ask twice. Where a tape is gone, it runs again.
MAX_TAPES = 8


class Outputs(NamedTuple):
    """What a run of a layer returns.

    Attributes
    ----------
    spikes : (B, T, N) array
        0 and 1, in the computing dtype.
    voltage : (B, T, N) array or None
        Potential U; None unless asked for.
    """

    spikes: Any
    voltage: Any


def function(
    model: Layer | Network,
    *,
    backend: str | Backend = "numba",
    method: str = "blocks",
    surrogate: str | Surrogate | None = None,
    detach: tuple[str, ...] | str = ("reset",),
    voltage: bool = True,
    seed: int = 0,
) -> tuple[dict[str, Any], Callable[[dict[str, Any], Any], Any]]:
    """The parameters of a layer or a network, and the function that simulates it.

    Parameters
    ----------
    model : Layer or Network
        Its parameters are the initial ones.
    backend, method, surrogate, detach
        As for `blocksim.simulate`. The backend computes on the host; arrays on a GPU are copied there and back.
    voltage : bool
        Whether a layer's potentials are returned. JAX copies what goes to the host and what comes from it.
    seed : int
        Of stochastic neurons, in every call: a function of JAX has no state.

    Returns
    -------
    parameters : dict of arrays
        By the names of `Layer.parameters` or `Network.parameters`: a pytree.
    simulate : function (parameters, x) -> `Outputs` of a layer, or the output (B, C) of a network
        x is an array (B, T, K) or (T, K). It may be compiled, and differentiated once in reverse, with respect to both.

    Raises
    ------
    ArgumentError
        The model is neither. What is wrong with parameters or input is said when the function runs.
    MissingLibraryError
        JAX is not installed (extra ``jax``).

    Notes
    -----
    With JAX's default of 32 bits, float64 arrays become float32: ``jax.config.update("jax_enable_x64", True)``.
    """
    if not isinstance(model, (Layer, Network)):
        raise ArgumentError(f"model: expected a blocksim.Layer or Network; found {found(model)}")
    options: dict[str, Any] = {
        "backend": backend,
        "method": method,
        "surrogate": surrogate,
        "detach": detach,
        "seed": seed,
    }
    values = model.parameters()
    dtypes = [value.dtype for value in values.values() if value.ndim]
    dtype = np.result_type(*dtypes) if dtypes else np.dtype(np.float32)
    parameters = {name: jnp.asarray(np.asarray(value, dtype)) for name, value in values.items()}
    tapes = _Tapes()

    def run_of(parameters: dict[str, Any], x: Any, tape: bool) -> Any:
        now = model.with_parameters({name: np.asarray(value) for name, value in parameters.items()})
        record = ("voltage",) if voltage and isinstance(model, Layer) else ()
        return _simulate(now, _host(x), record=record, tape=tape, **options)

    def arrays_of(run: Any, shapes: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
        outputs = (run.output,) if isinstance(model, Network) else (run.spikes, run.voltage)[: len(shapes)]
        return tuple(np.asarray(each, shape.dtype) for each, shape in zip(outputs, shapes, strict=True))

    def kind_of(parameters: dict[str, Any], x: Any) -> Any:
        return jnp.result_type(*(each.dtype for each in parameters.values()), *_real(x))

    def shapes_of(parameters: dict[str, Any], x: Any) -> tuple[Any, ...]:
        kind = kind_of(parameters, x)
        if isinstance(model, Network):
            return (jax.ShapeDtypeStruct((*x.shape[:-2], model.classes), kind),)
        size = x.shape[-1] if model.inputs is None and model.size is None else model.size
        # JAX copies what the host returns: spikes as flags, a quarter of the bytes of numbers
        return tuple(jax.ShapeDtypeStruct((*x.shape[:-1], size), each) for each in (np.bool_, kind)[: 1 + voltage])

    def numbers(outputs: tuple[Any, ...], parameters: dict[str, Any], x: Any) -> tuple[Any, ...]:
        kind = kind_of(parameters, x)
        return tuple(each.astype(kind) for each in outputs)

    def plain(parameters: dict[str, Any], x: Any) -> tuple[Any, ...]:
        shapes = shapes_of(parameters, x)

        def host(parameters: dict[str, Any], x: Any) -> tuple[np.ndarray, ...]:
            return arrays_of(run_of(parameters, x, False), shapes)

        return numbers(jax.pure_callback(host, shapes, parameters, x, vmap_method="sequential"), parameters, x)

    def forward(primal_parameters: dict[str, Any], primal_x: Any) -> tuple[tuple[Any, ...], Any]:
        parameters = {name: each.value for name, each in primal_parameters.items()}
        x = primal_x.value
        shapes = shapes_of(parameters, x)

        def host(parameters: dict[str, Any], x: Any) -> tuple[Any, ...]:
            run = run_of(parameters, x, True)
            return arrays_of(run, shapes), tapes.keep(run)

        ticket = jax.ShapeDtypeStruct((), np.uint32)
        outputs, ticket = jax.pure_callback(host, (shapes, ticket), parameters, x, vmap_method="sequential")
        # whether the input's gradient is wanted is known now; as the structure of a residual it stays known
        wanted = () if primal_x.perturbed and _real(x) else None
        return numbers(outputs, parameters, x), (parameters, x, ticket, wanted)

    def backward(residuals: Any, all_grads: tuple[Any, ...]) -> tuple[Any, Any]:
        parameters, x, ticket, wanted = residuals
        like = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in parameters.items()}
        real = wanted is not None
        is_zero = [isinstance(each, jax.custom_derivatives.SymbolicZero) for each in all_grads]
        if all(is_zero):
            return None, None
        # what is zero is not handed over
        grads = tuple(each for each, zero in zip(all_grads, is_zero, strict=True) if not zero)

        def gradients_of(run: Any, grads: tuple[Any, ...]) -> tuple[Any, ...]:
            given = iter(grads)
            gradients = run.backward(*(None if zero else _host(next(given)) for zero in is_zero))
            of_input = gradients.layers[0] if isinstance(model, Network) else gradients
            of_parameters = {
                name: np.asarray(value, like[name].dtype) for name, value in gradients.parameters().items()
            }
            return of_parameters, np.asarray(of_input.x, x.dtype) if real else np.zeros((), np.float32)

        def kept(ticket: Any, *grads: Any) -> tuple[Any, ...]:
            run = tapes.take(int(ticket))
            if run is not None:
                return gradients_of(run, grads)
            # asked under `vmap`, which asks both ways and then takes the other's answer
            zeros: tuple[Any, ...] = jax.tree.map(lambda each: np.zeros(each.shape, each.dtype), (like, of_x))
            return zeros

        def gone(parameters: dict[str, Any], x: Any, *grads: Any) -> tuple[Any, ...]:
            return gradients_of(run_of(parameters, x, True), grads)

        of_x = jax.ShapeDtypeStruct(x.shape if real else (), x.dtype if real else np.float32)

        def callback(host: Any, *arguments: Any) -> Any:
            return jax.pure_callback(host, (like, of_x), *arguments, *grads, vmap_method="sequential")

        is_kept = jax.pure_callback(
            lambda ticket: np.bool_(tapes.reserve(int(ticket))), jax.ShapeDtypeStruct((), np.bool_), ticket,
            vmap_method="sequential",
        )  # fmt: skip
        # the input is handed to the host again, which copies it, only where its tape is gone
        of_parameters, of_input = jax.lax.cond(
            is_kept, lambda: callback(kept, ticket), lambda: callback(gone, parameters, x)
        )
        return of_parameters, of_input if real else None

    differentiable = jax.custom_vjp(plain)
    differentiable.defvjp(forward, backward, symbolic_zeros=True)

    def simulate(parameters: dict[str, Any], x: Any) -> Any:
        if not isinstance(parameters, dict) or set(parameters) != set(values):
            raise ArgumentError(f"parameters: expected a dict of {', '.join(values)}; found {found(parameters)}")
        x = jnp.asarray(x)
        # what can be said before the host is called, whose errors reach the caller wrapped in JAX's
        if x.ndim not in (2, 3) or 0 in x.shape or model.inputs not in (None, x.shape[-1]):
            inputs = "inputs" if model.inputs is None else model.inputs
            raise ArgumentError(
                f"x: expected a non-empty array of shape (time, {inputs}) or (batch, time, {inputs}); found one of "
                f"shape {x.shape}"
            )
        outputs = differentiable(parameters, x)
        return outputs[0] if isinstance(model, Network) else Outputs(outputs[0], outputs[1] if voltage else None)

    return parameters, simulate


class _Tapes:
    """Runs that wait for their backward pass, by number; the oldest go first, but for those that are reserved."""

    def __init__(self) -> None:
        self.kept: OrderedDict[int, Any] = OrderedDict()
        self.reserved: dict[int, Any] = {}
        self.numbers = count(1)
        self.lock = threading.Lock()  # JAX calls from threads of its own

    def keep(self, run: Any) -> np.ndarray:
        """The number of a run."""
        with self.lock:
            number = next(self.numbers) % 2**32
            self.kept[number] = run
            while len(self.kept) > MAX_TAPES:
                self.kept.popitem(last=False)
        return np.asarray(number, np.uint32)

    def reserve(self, number: int) -> bool:
        """Whether a run is there; it then stays until it is taken."""
        with self.lock:
            run = self.kept.pop(number, None)
            if run is not None:
                self.reserved[number] = run
            return run is not None

    def take(self, number: int) -> Any:
        """A run that is reserved; None where there is none."""
        with self.lock:
            return self.reserved.pop(number, None)


def _host(array: Any) -> np.ndarray:
    """A NumPy array of an array of JAX, in the same memory where it lies on the host."""
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError):  # on a device, or of flags
        return np.asarray(array)


def _real(x: Any) -> tuple[Any, ...]:
    """The dtype of an input that has a gradient; spikes and counts have none."""
    return (x.dtype,) if jnp.issubdtype(x.dtype, jnp.floating) else ()
