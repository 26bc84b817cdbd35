"""What a simulation of one layer returns: `Run`, and `Gradients` of a loss.

Owns the step from a backend's arrays to a caller's, forward and backward: `blocksim._layers` computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from blocksim._inputs import finite_numbers, numbers
from blocksim._layer_arrays import parameter_gradients
from blocksim._layer_pass import Pass, form_of
from blocksim._layers import Differentiated, adjoints
from blocksim._neurons import Neuron
from blocksim._state import LinearState, LinearStateGradient, State, StateGradient
from blocksim._validation import frozen
from blocksim.arrays import Array, SpikeGradient
from blocksim.backend import Backend
from blocksim.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a loss with respect to everything that went into a run: `Run.backward` returns one.

    Attributes
    ----------
    current : array of the run's shape, (T, N) or (B, T, N)
        dLoss/dI, equation (11).
    x : array of the shape of x
        dLoss/dx, equation (11).
    weights : (K, N) array or None
        dLoss/dW; None for a layer without weights.
    bias : float or (N,) array
        dLoss/d(bias), of the bias's shape; (N,) for a layer without bias.
    beta, p, b, theta : float or (N,) array
        Gradients of the neuron's parameters, equation (12), each of its parameter's shape: where the parameter is one
        number for all neurons, the sum over them. p and b are None for LIF. A neuron of other parameters has theirs, by
        their names.
    recurrent : (N, N) array or None
        dLoss/dR; None for a layer without recurrence.
    state : StateGradient
        Gradient with respect to the state the run started from, equation (13): pass it to the `backward` of the run
        before as `grad_state`.

    Notes
    -----
    Arrays have the run's computing dtype.
    """

    weights: np.ndarray | None
    bias: float | np.ndarray
    recurrent: np.ndarray | None
    state: StateGradient | LinearStateGradient
    _others: dict[str, Any] = field(repr=False)  # by parameter
    _differentiated: Differentiated = field(repr=False)
    _view: View = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        """The gradient of one of the neuron's parameters; None for a parameter that only other neurons have."""
        others = self.__dict__.get("_others", {})
        if name in others:
            return others[name]
        if name in Neuron.all_parameters():
            return None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def arrays(self) -> dict[str, np.ndarray]:
        """Every gradient there is by name; those of the state by "state." and its part's name."""
        own = {"x": self.x, "current": self.current, "weights": self.weights, "bias": self.bias}
        of_state = {f"state.{name}": value for name, value in vars(self.state).items()}
        every = own | {"recurrent": self.recurrent} | self._others | of_state
        return {
            name: np.asarray(value) if isinstance(value, float) else value
            for name, value in every.items()
            if value is not None
        }

    def parameters(self) -> dict[str, np.ndarray]:
        """The gradients by the names, and of the shapes, of `Layer.parameters`; those of weights may be on a device."""
        gradients = self.__dict__ | self._others
        layer = self._differentiated.layer_pass.layer
        return {name: of_dtype(gradients[name], value.dtype) for name, value in layer.parameters().items()}

    @cached_property
    def current(self) -> Any:
        """dLoss/dI, of the run's shape, equation (11); copied from a device when first asked for."""
        return self._view.of(self._differentiated.layer_pass.backend, self._differentiated.result.current)

    @cached_property
    def x(self) -> Any:
        """dLoss/dx, shape of x, equation (11).

        Computed when first asked for: training the first layer does not need it, and it is a dense product.
        """
        layer_pass = self._differentiated.layer_pass
        if layer_pass.layer.is_simple and layer_pass.layer.inputs is None:
            of_x = self.current
        else:
            of_x = self._view.of(layer_pass.backend, self._differentiated.input_gradient)
        return of_x.sum(axis=-1, keepdims=True) if layer_pass.shared_current else of_x


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
    state : State, or LinearState for neurons of the linear family
        State after the last step, with a batch axis always; pass it to the next `simulate`.
    backend, method : str
        What ran.
    block_length : int
        Steps in a block; 1 for the standard method.
    seed : int or None
        That of its stochastic spikes; None where no spikes are stochastic.

    Notes
    -----
    With a tape, `spikes` and `voltage` are part of it and are read-only; copy them to change them.
    """

    spikes: np.ndarray
    voltage: np.ndarray | None
    threshold: np.ndarray | None
    state: State | LinearState
    backend: str
    method: str
    block_length: int
    seed: int | None
    _pass: Pass | None = field(repr=False)  # None without a tape, whose run holds on to nothing
    _view: View = field(repr=False)

    def _repr_html_(self) -> str:
        """In a notebook: what ran, and a raster."""
        from blocksim import _notebook  # plots, which few runs need

        return _notebook.run(self.spikes, f"{self.backend}, {self.method}, blocks of {self.block_length}")

    def backward(
        self,
        grad_spikes: np.ndarray | None = None,
        grad_voltage: np.ndarray | None = None,
        grad_state: StateGradient | LinearStateGradient | None = None,
    ) -> Gradients:
        """Gradients of a loss, from its gradients with respect to this run's spikes, voltage and final state.

        Parameters
        ----------
        grad_spikes, grad_voltage : arrays of the shape of `spikes`, or None
            dLoss/dS and dLoss/dV; None for zero. The voltage need not be recorded.
        grad_state : StateGradient, LinearStateGradient or None
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
        layer_pass = self._pass
        if layer_pass is None:
            raise ArgumentError("backward: expected a run with a tape; found one without (pass tape=True to simulate)")
        if grad_spikes is None and grad_voltage is None and grad_state is None:
            raise ArgumentError(
                "backward: expected at least one of grad_spikes, grad_voltage, grad_state; found none of them"
            )
        shape = self.spikes.shape
        of_spikes = SpikeGradient(cotangent("grad_spikes", grad_spikes, shape, layer_pass, self._view))
        of_voltage = cotangent("grad_voltage", grad_voltage, shape, layer_pass, self._view)
        (differentiated,) = adjoints([layer_pass], [of_spikes], [of_voltage], [grad_state])
        return gradients_of(differentiated, self._view)


@dataclass(frozen=True)
class View:
    """How a caller sees a backend's arrays."""

    batched: bool  # x had a batch axis, and so has what is returned
    on_device: bool  # x lies on the device, and so does what is returned

    @property
    def whole(self) -> View:
        """The same for arrays without a sample to single out: weights, and states, whose batch axis always stays."""
        return View(True, self.on_device)

    def of(self, backend: Backend, array: Array | None) -> Any:
        """An array (B, ...) for the caller."""
        if array is None:
            return None
        array = array if self.on_device else backend.to_numpy(array)
        return array if self.batched else array[0]


def run_of(layer_pass: Pass, view: View, method: str) -> Run:
    """A pass as the caller's."""

    def trace(array: Array | None) -> Any:
        seen = view.of(layer_pass.backend, array)
        return frozen(seen.view()) if layer_pass.tape is not None and isinstance(seen, np.ndarray) else seen

    return Run(
        spikes=trace(layer_pass.result.spikes),
        voltage=trace(layer_pass.result.voltage),
        threshold=trace(layer_pass.result.threshold),
        state=state_of(layer_pass, view),
        backend=layer_pass.backend.name,
        method=method,
        block_length=layer_pass.plan.block_length,
        seed=None if layer_pass.plan.noise is None else layer_pass.plan.noise.seed,
        _pass=None if layer_pass.tape is None else layer_pass,
        _view=view,
    )


def state_of(layer_pass: Pass, view: View) -> Any:
    """The state after the last step, in arrays of its own."""
    arrays = layer_pass.state()
    return form_of(layer_pass.arrays).state(*(arrays if view.on_device else layer_pass.backend.fetch(arrays)))


def gradients_of(differentiated: Differentiated, view: View) -> Gradients:
    """An adjoint's result as the caller's, each gradient of its parameter's shape."""
    layer_pass, result = differentiated.layer_pass, differentiated.result
    backend, layer, dtype = layer_pass.backend, layer_pass.layer, layer_pass.arrays.dtype
    totals = result.sums.map(lambda total: total.sum(axis=0))
    into = differentiated.state()
    fetched = backend.fetch(totals.arrays() if view.on_device else totals.arrays() + into)
    sums = dict(zip((name for name, _ in totals.items()), fetched, strict=False))
    values = layer.parameters()

    def shaped(name: str, gradient: Any) -> Any:
        if name.rpartition(".")[2] in ("weights", "recurrent"):
            return view.whole.of(backend, gradient)
        if name in values and not values[name].ndim:
            return gradient.item() if gradient.size == 1 else float(gradient.sum())  # of one neuron without NumPy's sum
        return gradient.astype(dtype)

    every = {name: shaped(name, value) for name, value in parameter_gradients(layer, result, sums, backend).items()}
    return Gradients(
        weights=every.pop("weights", None),
        bias=every.pop("bias"),
        recurrent=every.pop("recurrent", None),
        state=form_of(layer_pass.arrays).state_gradient(*(into if view.on_device else fetched[len(sums) :])),
        _others=every,
        _differentiated=differentiated,
        _view=view,
    )


def of_dtype(gradient: Any, dtype: Any) -> Any:
    """An array, or a number as one, of a parameter's dtype; on the device that it is on."""
    return gradient.astype(dtype, copy=False) if hasattr(gradient, "astype") else np.asarray(gradient, dtype)


def cotangent(name: str, array: Any, shape: tuple[int, ...], layer_pass: Pass, view: View) -> Any:
    """Check a gradient handed to `backward`; returns the backend's array, (B, ...), in the computing dtype."""
    if array is None:
        return None
    backend, dtype = layer_pass.backend, layer_pass.arrays.dtype
    owned = backend.owns(array)
    array = numbers(name, array, backend)
    if array.shape != shape:
        raise ArgumentError(f"{name}: expected shape {shape}, that of what it is the gradient for; found {array.shape}")
    finite_numbers(name, array, backend)
    converted: Any = array if owned else np.asarray(array, dtype=dtype)
    return backend.asarray(converted if view.batched else converted[None], dtype)
