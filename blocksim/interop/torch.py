"""Layers and networks as modules of PyTorch, with blocksim's own gradients.

Owns the passage between tensors and arrays: a run is one operation to PyTorch, with a backward pass of its own.
Imports PyTorch, so it is imported by itself: ``import blocksim.interop.torch``.

>>> import numpy as np
>>> import torch
>>> from blocksim import ALIF, Layer
>>> from blocksim.interop.torch import Module
>>> layer = Module(Layer(ALIF(beta=0.9, p=0.95, b=0.1, refractory_steps=3), np.full((2, 4), 0.2, np.float32)))
>>> spikes = layer(torch.ones(8, 50, 2))
>>> spikes.shape, spikes.requires_grad
(torch.Size([8, 50, 4]), True)
>>> spikes.sum().backward()
>>> layer.weights.grad.shape
torch.Size([2, 4])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from blocksim import Layer, Network, NetworkState, NetworkStateGradient, simulate
from blocksim._libraries import library
from blocksim._parameters import held
from blocksim._state import LinearState, LinearStateGradient, State, StateGradient
from blocksim._validation import found
from blocksim.backend import Backend, HostBackend, get_backend
from blocksim.errors import ArgumentError
from blocksim.surrogates import Surrogate
from blocksim.transforms import Transform

library("torch", "torch", "blocksim.interop.torch")  # says what installs it
import torch  # noqa: E402

GRADIENTS: dict[type, type] = {
    State: StateGradient,
    LinearState: LinearStateGradient,
    NetworkState: NetworkStateGradient,
}


class Outputs(NamedTuple):
    """What a run returns.

    Attributes
    ----------
    output : tensor
        Spikes (B, T, N) of a layer, 0 and 1 in the computing dtype; the readout (B, C) of a network.
    voltage : (B, T, N) tensor or None
        Potential U of a layer; None for a network.
    counts : tuple of (B, N) tensors
        Spikes of each neuron of each layer of a network; none for a layer.
    state : tuple of tensors
        State after the last step, for the next run: the arrays of a `State`, `LinearState` or `NetworkState`.
    """

    output: Any
    voltage: Any
    counts: tuple[Any, ...]
    state: tuple[Any, ...]


class Module(torch.nn.Module):  # type: ignore[misc]
    """A blocksim layer or network as a module of PyTorch.

    Its parameters are tensors under the names of `Layer.parameters`, with underscores for dots: ``weights``,
    ``components_0_decay``, ``layers_1_beta``. A parameter that has bounds is held as a free number, by its transform
    (`blocksim.transforms`), so that any optimiser may move it; `model` gives the values. Tensors and arrays share their
    memory where they can. Tensors on a GPU are computed there, by the backend "cupy". PyTorch draws the seed of
    stochastic neurons (``torch.manual_seed``). To PyTorch a run is a single operation, which `torch.compile` leaves as
    it is.

    Parameters
    ----------
    model : Layer or Network
        What it computes; its parameters are the initial ones.
    backend, method, surrogate, detach
        As for `blocksim.simulate`.
    checkpoint : bool
        Keep a few states for the backward pass and compute the rest again: less memory, more time.
    transforms : bool
        Whether parameters with bounds are held as free numbers. Without, an optimiser may move them out of their range,
        which is an error in the next run.

    Raises
    ------
    ArgumentError
        The model is neither, or an option is wrong.
    MissingLibraryError
        PyTorch is not installed (extra ``torch``).

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from blocksim import LIF, Layer
    >>> layer = Module(Layer(LIF(beta=0.9, refractory_steps=2), np.eye(3, dtype=np.float32)))
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 3), layer)
    >>> model(torch.rand(4, 20, 5)).shape
    torch.Size([4, 20, 3])
    >>> round(float(layer.model().neuron.beta), 6)
    0.9
    """

    def __init__(
        self,
        model: Layer | Network,
        *,
        backend: str | Backend = "numba",
        method: str = "blocks",
        surrogate: str | Surrogate | None = None,
        detach: tuple[str, ...] | str = ("reset",),
        checkpoint: bool = False,
        transforms: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(model, (Layer, Network)):
            raise ArgumentError(f"model: expected a blocksim.Layer or Network; found {found(model)}")
        self._model = model
        self._options = {"method": method, "surrogate": surrogate, "detach": detach}
        self._backend, self._tape = backend, "checkpoint" if checkpoint else True
        values = model.parameters()
        known = model.transforms() if isinstance(model, Network) else _transforms(model)
        self._transforms: dict[str, Transform | None] = {name: known[name] if transforms else None for name in values}
        dtypes = [value.dtype for value in values.values() if value.ndim]
        dtype = np.result_type(*dtypes) if dtypes else torch.zeros(()).numpy().dtype
        self._names = {name.replace(".", "_"): name for name in values}
        for own, name in self._names.items():
            transform = self._transforms[name]
            try:
                value = values[name] if transform is None else transform.to_free(values[name])
            except ArgumentError as error:
                raise ArgumentError(f"{name}: {error}; or pass transforms=False") from None
            self.register_parameter(own, torch.nn.Parameter(torch.from_numpy(np.array(value, dtype))))

    def model(self) -> Layer | Network:
        """The blocksim layer or network with the present values of the parameters."""
        return self._model.with_parameters(self._values([each.detach() for each in self._tensors()]))

    def forward(self, x: Any) -> Any:
        """Spikes of a layer, or the output of a network.

        Parameters
        ----------
        x : tensor (B, T, K) or (T, K)
            Input, as for `blocksim.simulate`.

        Returns
        -------
        tensor
            (B, T, N) or (B, C), without B where x has none.
        """
        return self.run(x, voltage=False).output

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def run(self, x: Any, state: Sequence[Any] | None = None, voltage: bool = True) -> Outputs:
        """Simulate, with all outputs; gradients go through each of them, and through the state from run to run.

        Parameters
        ----------
        x : tensor (B, T, K) or (T, K)
        state : tuple of tensors or None
            `state` of the run that this one continues; None starts at rest.
        voltage : bool
            Whether to return a layer's potential, which is copied.

        Raises
        ------
        ArgumentError
            The input, the state or a parameter is wrong.
        """
        if not isinstance(x, torch.Tensor):
            raise ArgumentError(f"x: expected a tensor of PyTorch; found {found(x)} (use blocksim.simulate for arrays)")
        if x.layout != torch.strided:
            raise ArgumentError(f"x: expected a dense tensor; found one of layout {x.layout} (use x.to_dense())")
        x = _known(x)
        found_tensors = _Simulate.apply(self, voltage, x, *self._tensors(), *(() if state is None else state))
        number = len(self._model.layers) if isinstance(self._model, Network) else 0
        output, *rest = found_tensors
        if number:
            return Outputs(output, None, tuple(rest[:number]), tuple(rest[number:]))
        return Outputs(output, rest.pop(0) if voltage else None, (), tuple(rest))

    def extra_repr(self) -> str:
        """What it computes."""
        return repr(self._model)

    def _tensors(self) -> list[Any]:
        """The parameters in the order of their names, whatever else has been made of them or added."""
        return [_known(getattr(self, own)) for own in self._names]

    def _values(self, tensors: Sequence[Any]) -> dict[str, np.ndarray]:
        """Values by blocksim's names, from the parameters' tensors."""
        values = {}
        for name, tensor in zip(self._names.values(), tensors, strict=True):
            transform, array = self._transforms[name], tensor.cpu().numpy()
            values[name] = array if transform is None else transform.from_free(array)
        return values

    def _pullback(self, tensors: Sequence[Any], gradients: dict[str, Any]) -> list[Any]:
        """The gradient of each tensor of a parameter, from those of the values."""
        found_gradients = []
        for name, tensor in zip(self._names.values(), tensors, strict=True):
            transform, gradient = self._transforms[name], gradients[name]
            if transform is not None:
                gradient = transform.pullback(tensor.detach().cpu().numpy(), gradient)
            found_gradients.append(_tensor(gradient).to(tensor).reshape(tensor.shape))
        return found_gradients


class _Simulate(torch.autograd.Function):  # type: ignore[misc]
    """A run as an operation. Inputs: x, parameters, state; outputs: those of `Outputs`, one after the other."""

    @staticmethod
    def forward(ctx: Any, module: Module, voltage: bool, x: Any, *tensors: Any) -> tuple[Any, ...]:
        number = len(module._names)
        model = module._model.with_parameters(module._values([each.detach() for each in tensors[:number]]))
        wanted = any(ctx.needs_input_grad)
        options: dict[str, Any] = module._options | {"state": _state(model, tensors[number:])}
        if _is_stochastic(model):
            options["seed"] = int(torch.randint(2**62, ()))
        recorded = ("voltage",) if voltage and isinstance(model, Layer) else ()
        backend = get_backend("cupy" if x.is_cuda else module._backend)
        run: Any = simulate(
            model, _array(x), backend, record=recorded, tape=module._tape if wanted else False, **options
        )
        network = isinstance(run.state, NetworkState)
        outputs = [run.output, *run.counts] if network else [run.spikes, *([run.voltage] if voltage else [])]
        dtype = run.output.dtype if network else run.state.voltage.dtype
        ctx.set_materialize_grads(False)
        ctx.module, ctx.run, ctx.outputs = module, run, len(outputs)
        ctx.save_for_backward(x, *tensors)  # PyTorch refuses the backward pass if one of them has been changed
        arrays = [_given(each, dtype, backend) for each in (*outputs, *_flat(run.state))]
        found_tensors = [_tensor(each).to(x.device) for each in arrays]
        ctx.mark_non_differentiable(*(each for each in found_tensors if not each.is_floating_point()))
        return tuple(found_tensors)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        run, module, number = ctx.run, ctx.module, len(ctx.module._names)
        x, *tensors = ctx.saved_tensors
        arrays = [None if each is None else _array(each) for each in grads]
        if all(each is None for each in arrays):
            return (None,) * (3 + len(tensors))
        outputs, of_state = arrays[: ctx.outputs], arrays[ctx.outputs :]
        state = _gradient_of(run.state, iter(of_state)) if any(each is not None for each in of_state) else None
        if isinstance(run.state, NetworkState):
            counts = outputs[1:] if any(each is not None for each in outputs[1:]) else None
            gradients = run.backward(outputs[0], counts, grad_state=state)
            of_input = gradients.layers[0]
        else:
            gradients = of_input = run.backward(*outputs, grad_state=state)
        of_x = None
        if ctx.needs_input_grad[2]:  # a product of its own
            of_x = _tensor(of_input.x).to(x)
        of_parameters = module._pullback(tensors[:number], gradients.parameters())
        of_start: list[Any] = []
        if len(tensors) > number:
            for tensor, array in zip(tensors[number:], _flat_gradient(run.state, gradients.state), strict=True):
                of_start.append(None if array is None else _tensor(array).to(tensor))
        return (None, None, of_x, *of_parameters, *of_start)


def _is_stochastic(model: Layer | Network) -> bool:
    """Whether it draws random numbers."""
    return any(each.neuron.is_stochastic for each in ([model] if isinstance(model, Layer) else model.layers))


def _transforms(layer: Layer) -> dict[str, Transform | None]:
    """What keeps each parameter of a layer within its range."""
    return {name: each.known.transform for name, each in held(layer).items()}


def _known(tensor: Any) -> Any:
    """A tensor of a dtype that NumPy has, differentiably."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _array(tensor: Any) -> Any:
    """The array of a tensor: NumPy's, in the same memory, or CuPy's."""
    tensor = tensor.detach()
    if tensor.is_cuda:
        return library("cupy", "gpu-cuda12", "a tensor on a GPU").from_dlpack(tensor)
    return tensor.numpy()


def _tensor(array: Any) -> Any:
    """The tensor of an array, in the same memory where it can be written to."""
    if hasattr(array, "get"):  # CuPy's
        return torch.from_dlpack(array)
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _given(array: Any, dtype: Any, backend: Backend) -> Any:
    """An array of a run as a tensor may hold it: flags as numbers, which have gradients; what is a tape's copied.

    The copy lies in memory of the backend's, which uses that of earlier runs again: fresh memory costs a fault for
    every page. By NumPy: PyTorch's threads would hold the processors for a while.
    """
    is_flags = array.dtype == np.bool_
    if not isinstance(array, np.ndarray):  # CuPy's, which has such memory
        return array.astype(dtype) if is_flags else array
    if array.flags.writeable and not is_flags:
        return array
    empty = backend.empty if isinstance(backend, HostBackend) else np.empty
    copy = empty(array.shape, dtype if is_flags else array.dtype)
    copy[...] = array
    return copy


def _flat(state: Any) -> list[Any]:
    """The arrays of a state in their order; a network's are those of its layers, and then the readout's."""
    if isinstance(state, NetworkState):
        each = [array for layer in state.layers for array in _flat(layer)]
        return each if state.readout is None else [*each, state.readout]
    return [getattr(state, item.name) for item in fields(state)]


def _state(model: Any, tensors: Sequence[Any]) -> Any:
    """A state of a model from its tensors; None from none."""
    if not tensors:
        return None
    if any(not isinstance(each, torch.Tensor) for each in tensors):
        raise ArgumentError(f"state: expected the `state` of another run, a tuple of tensors; found {found(tensors)}")
    rest = iter([_array(each) for each in tensors])

    def of_layer(layer: Layer) -> Any:
        kind = State if layer.is_simple else LinearState
        arrays = {item.name: next(rest) for item in fields(kind)}
        return kind(**arrays | {"spikes": arrays["spikes"] != 0})

    try:
        if isinstance(model, Layer):
            state = of_layer(model)
        else:
            layers = tuple(of_layer(layer) for layer in model.layers)
            state = NetworkState(layers, next(rest, None))
    except StopIteration:
        raise ArgumentError(f"state: expected the `state` of another run; found {len(tensors)} tensors") from None
    if next(rest, None) is not None:
        raise ArgumentError(f"state: expected the `state` of another run; found {len(tensors)} tensors")
    return state


def _gradient_of(state: Any, arrays: Any) -> Any:
    """dLoss/d(state) from the gradients of its tensors, zero where there is none."""
    if isinstance(state, NetworkState):
        layers = tuple(_gradient_of(each, arrays) for each in state.layers)
        readout = None if state.readout is None else _or_zero(next(arrays), state.readout, state.readout.dtype)
        return NetworkStateGradient(layers, readout)
    kind = GRADIENTS[type(state)]
    known = {item.name for item in fields(kind)}
    gradients = {item.name: next(arrays) for item in fields(state)}
    return kind(**{name: _or_zero(gradients[name], getattr(state, name), state.voltage.dtype) for name in known})


def _or_zero(gradient: Any, like: Any, dtype: Any) -> Any:
    return np.zeros_like(like, dtype) if gradient is None else gradient


def _flat_gradient(state: Any, gradient: Any) -> list[Any]:
    """The gradient of each tensor of a state; None of steps, which have none."""
    if isinstance(state, NetworkState):
        pairs = zip(state.layers, gradient.layers, strict=True)
        each = [array for layer, of_layer in pairs for array in _flat_gradient(layer, of_layer)]
        return each if state.readout is None else [*each, gradient.readout]
    return [getattr(gradient, item.name, None) for item in fields(state)]
