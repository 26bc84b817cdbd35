"""Runs of networks: forward through all layers and the readout, and the adjoint all the way back.

Owns the order in which layers are computed and what each is handed; a layer itself is computed by
`blocksim._layer_pass`, the readout by `blocksim._readout`. Spikes go from layer to layer as events
on the CPU, as flags on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from blocksim._inputs import computing_dtype, finite_numbers, numbers, prepare, read_input
from blocksim._layer_pass import Options, Pass, block_length_of, forward_pass
from blocksim._network import LeakyReadout, Network
from blocksim._readout import ReadoutGradients, ReadoutPass, readout_pass, spike_counts
from blocksim._run import Gradients, Run, View, cotangent, gradients_of, run_of, state_of
from blocksim._state import State, StateGradient
from blocksim._validation import found
from blocksim.arrays import Array, FromAbove, Input, SpikeGradient
from blocksim.backend import Backend
from blocksim.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class NetworkState:
    """Everything the future of a network depends on, after the last step that was simulated.

    Attributes
    ----------
    layers : tuple of State
    readout : (batch, C) float array or None
        The readout's potential; None for a `CountReadout`.
    """

    layers: tuple[State, ...]
    readout: np.ndarray | None


@dataclass(frozen=True, eq=False)
class NetworkStateGradient:
    """dLoss/d(state): the gradient into, or out of, a carried `NetworkState`.

    Attributes
    ----------
    layers : tuple of StateGradient
    readout : (batch, C) float array or None
    """

    layers: tuple[StateGradient, ...]
    readout: np.ndarray | None


@dataclass(frozen=True, eq=False)
class NetworkGradients:
    """Gradients of a loss with respect to everything that went into a network's run.

    Attributes
    ----------
    layers : tuple of Gradients
        Those of each layer; `layers[0].x` is dLoss/dx.
    readout : ReadoutGradients or None
        None for a `CountReadout`.
    state : NetworkStateGradient
        Gradient with respect to the state the run started from.
    """

    layers: tuple[Gradients, ...]
    readout: ReadoutGradients | None
    state: NetworkStateGradient
    _network: Network = field(repr=False)

    def parameters(self) -> dict[str, np.ndarray]:
        """The gradients by the names, and of the shapes, of `Network.parameters`."""
        gradients = {}
        for name, value in self._network.parameters().items():
            owner, _, own_name = name.rpartition(".")
            part: Any = self.readout if owner == "readout" else self.layers[int(owner.partition(".")[2])]
            gradients[name] = np.asarray(getattr(part, own_name), value.dtype)
        return gradients


@dataclass(frozen=True, eq=False)
class NetworkRun:
    """A finished simulation of a network: what `simulate` returns for a `Network`.

    Attributes
    ----------
    output : (B, C) float array
        The readout, decoded: one number a class, equation (24); spike counts for a `CountReadout`. (C,) for an input
        without a batch axis.
    readout : (B, T, C) float array or None
        The readout's potential U, equation (23); None unless recorded.
    state : NetworkState
        State after the last step; pass it to the next `simulate`.
    layers : tuple of Run
        The run of each layer: spikes, and what was recorded.
    counts : tuple of (B, N) arrays
        Spikes of each neuron over the run, of each layer.
    backend, method : str
        What ran.
    """

    output: Any
    readout: Any
    state: NetworkState
    backend: str
    method: str
    _network: Network = field(repr=False)
    _passes: tuple[Pass, ...] = field(repr=False)
    _spikes: tuple[Input, ...] = field(repr=False)  # of each layer, as the next reads them
    _readout: ReadoutPass | None = field(repr=False)
    _view: View = field(repr=False)

    @property
    def steps(self) -> int:
        """Number of steps T that were simulated."""
        return int(self._passes[0].x.shape[1])

    @cached_property
    def layers(self) -> tuple[Run, ...]:
        """The run of each layer: spikes, and what was recorded; copied from a device when first asked for."""
        return tuple(run_of(done, self._view, self.method) for done in self._passes)

    @cached_property
    def counts(self) -> tuple[Any, ...]:
        """Number of spikes of each neuron over the run, (B, N) float, of each layer."""
        engine = self._passes[0].backend
        return tuple(
            self._view.of(engine, spike_counts(engine, spikes, done.arrays.beta.dtype))
            for spikes, done in zip(self._spikes, self._passes, strict=True)
        )

    def backward(
        self,
        grad_output: Any = None,
        grad_counts: Sequence[Any] | None = None,
        grad_spikes: Sequence[Any] | None = None,
        grad_readout: Any = None,
        grad_state: NetworkStateGradient | None = None,
    ) -> NetworkGradients:
        """Gradients of a loss, from its gradients with respect to output, spike counts, spikes and readout.

        Parameters
        ----------
        grad_output : array of the shape of `output`, or None
            dLoss/d(output).
        grad_counts : sequence with a (B, N) array or None for each layer, or None
            dLoss/d(counts), for losses on firing rates.
        grad_spikes : sequence with a (B, T, N) array or None for each layer, or None
            dLoss/dS, for losses on spike times.
        grad_readout : (B, T, C) array or None
            dLoss/dU, for losses on the readout's potential at every step.
        grad_state : NetworkStateGradient or None
            dLoss/d(state), from the `backward` of the run that continued this one.

        Raises
        ------
        ArgumentError
            The run kept no tape, nothing was passed, or an array has the wrong shape or holds NaN or infinity.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim import LIF, CountReadout, Layer, Network, simulate
        >>> network = Network([Layer(LIF(beta=0.5), np.ones((2, 3)))], CountReadout())
        >>> run = simulate(network, np.ones((4, 2), bool), backend="numpy", tape=True)
        >>> run.output
        array([4., 4., 4.])
        >>> sorted(run.backward(grad_output=np.ones(3)).parameters())
        ['layers.0.beta', 'layers.0.theta', 'layers.0.weights']
        """
        if self._passes[0].kept is None:
            raise ArgumentError("backward: expected a run with a tape; found one without (pass tape=True to simulate)")
        handed_in = (grad_output, grad_counts, grad_spikes, grad_readout, grad_state)
        if all(value is None for value in handed_in):
            raise ArgumentError(
                "backward: expected at least one of grad_output, grad_counts, grad_spikes, grad_readout, grad_state; "
                "found none of them"
            )
        return _backward(self, *handed_in)


def network_run(network: Network, x: Any, state: Any, batch_size: int | None, options: Options) -> NetworkRun:
    """Simulate a network; the arguments are those of `simulate`."""
    engine = options.backend
    for layer in network.layers:
        block_length_of(layer, options.method, options.block_length)
    on_device = engine.owns(x)
    first = network.layers[0]
    x, batched = read_input(x, first, batch_size, engine)
    dtype = computing_dtype(x, network.floating_dtypes)
    of_layers, of_readout = _states(state, network, x.shape[0], dtype, engine)
    passes, spikes = [], []
    handed: Input = prepare(x, first, engine, dtype)
    for layer, before in zip(network.layers, of_layers, strict=True):
        assert layer.size is not None
        done = forward_pass(layer, handed, layer.size, dtype, before, options)
        passes.append(done)
        handed = _handed(engine, done.result.spikes)
        spikes.append(handed)
    view = View(batched, on_device)
    closing = None
    if isinstance(network.readout, LeakyReadout):
        start = None if of_readout is None else engine.asarray(of_readout, dtype)
        closing = readout_pass(engine, network.readout, handed, start, dtype)
    output = spike_counts(engine, handed, dtype) if closing is None else closing.output
    recorded = closing.potential if closing is not None and "readout" in options.record else None
    return NetworkRun(
        output=view.of(engine, output),
        readout=view.of(engine, recorded),
        state=NetworkState(
            tuple(state_of(done, view) for done in passes),
            None if closing is None else view.whole.of(engine, closing.potential[:, -1].copy()),
        ),
        backend=engine.name,
        method=options.method,
        _network=network,
        _passes=tuple(passes),
        _spikes=tuple(spikes),
        _readout=closing,
        _view=view,
    )


def _handed(engine: Backend, spikes: Array) -> Input:
    """A layer's spikes as the next layer reads them: all as events, however many, so that sums keep their order."""
    if engine.owns(spikes):
        return spikes
    events = engine.events(engine.to_numpy(spikes))
    assert events is not None
    return events


def _states(
    state: Any, network: Network, batch: int, dtype: np.dtype[Any], engine: Backend
) -> tuple[Sequence[State | None], Any]:
    if state is None:
        return [None] * len(network.layers), None
    if not isinstance(state, NetworkState) or len(state.layers) != len(network.layers):
        raise ArgumentError(
            f"state: expected a NetworkState of {len(network.layers)} layers, the `state` of a network's run; found "
            f"{found(state)}"
        )
    if (state.readout is not None) != isinstance(network.readout, LeakyReadout):
        raise ArgumentError("state.readout: expected that of this network's readout; found that of another kind")
    if state.readout is not None:
        if state.readout.shape != (batch, network.classes) or state.readout.dtype != dtype:
            raise ArgumentError(
                f"state.readout: expected an array of shape {(batch, network.classes)} and dtype {dtype}; found "
                f"{found(state.readout)}"
            )
        finite_numbers("state.readout", state.readout, engine)
    return state.layers, state.readout


def _backward(
    run: NetworkRun, grad_output: Any, grad_counts: Any, grad_spikes: Any, grad_readout: Any, grad_state: Any
) -> NetworkGradients:
    network, passes, view = run._network, run._passes, run._view
    of_counts = _each("grad_counts", grad_counts, len(passes))
    of_spikes = _each("grad_spikes", grad_spikes, len(passes))
    if grad_state is not None and not (
        isinstance(grad_state, NetworkStateGradient) and len(grad_state.layers) == len(passes)
    ):
        raise ArgumentError(
            f"grad_state: expected a NetworkStateGradient of {len(passes)} layers, the `state` of other gradients; "
            f"found {found(grad_state)}"
        )
    counts, spikes = [], []
    for number, done in enumerate(passes):
        batch, steps, size = done.result.spikes.shape
        lead = (batch,) if view.batched else ()
        counts.append(cotangent(f"grad_counts[{number}]", of_counts[number], (*lead, size), done, view))
        spikes.append(cotangent(f"grad_spikes[{number}]", of_spikes[number], (*lead, steps, size), done, view))
    last = passes[-1]
    batch, steps, _ = last.result.spikes.shape
    lead = (batch,) if view.batched else ()
    output = cotangent("grad_output", grad_output, (*lead, network.classes), last, view)
    potential = cotangent("grad_readout", grad_readout, (*lead, steps, network.classes), last, view)
    of_output: Array | None = None
    of_readout, before_readout = None, None
    if run._readout is not None:
        after = None
        if grad_state is not None and grad_state.readout is not None:
            after = numbers("grad_state.readout", grad_state.readout, last.backend)
            if after.shape != (batch, network.classes):
                raise ArgumentError(
                    f"grad_state.readout: expected shape {(batch, network.classes)}; found {after.shape}"
                )
            finite_numbers("grad_state.readout", after, last.backend)
            after = last.backend.asarray(after, last.arrays.beta.dtype)
        of_output, of_readout, start = run._readout.adjoint(output, potential, after)
        weights = view.whole.of(last.backend, of_readout.weights)
        of_readout = ReadoutGradients(weights, of_readout.bias, of_readout.beta)
        before_readout = view.whole.of(last.backend, start)
    else:
        if potential is not None:
            raise ArgumentError(
                "grad_readout: expected None for a CountReadout, which has no potential; found an array"
            )
        if output is not None:
            counts[-1] = output if counts[-1] is None else counts[-1] + output
    gradients: list[Gradients] = []
    current: Array | None = None
    for number in reversed(range(len(passes))):
        done = passes[number]
        own = spikes[number], counts[number]
        grad: SpikeGradient | None
        if current is None:
            grad = _added(done, of_output, *own)
        elif done.takes_products:
            grad = FromAbove(current, passes[number + 1].arrays.weights, _added(done, None, *own))
        else:
            grad = _added(done, passes[number + 1].to_input(current), *own)
        result = done.adjoint(grad, None, None if grad_state is None else grad_state.layers[number])
        gradients.insert(0, gradients_of(done, result, view))
        current = result.current
    before = NetworkStateGradient(tuple(each.state for each in gradients), before_readout)
    return NetworkGradients(tuple(gradients), of_readout, before, network)


def _each(name: str, given: Any, layers: int) -> Sequence[Any]:
    if given is None:
        return [None] * layers
    if not isinstance(given, Sequence) or len(given) != layers:
        raise ArgumentError(
            f"{name}: expected a sequence of {layers}, an array or None for each layer; found {found(given)}"
        )
    return given


def _added(done: Pass, own: Array | None, spikes: Array | None, counts: Array | None) -> Array | None:
    """dLoss/dS: from above (an array of our own), from the caller, and from counts, the same at each step."""
    if spikes is None and counts is None:
        return own
    if own is None:
        own = done.backend.empty(done.result.spikes.shape, done.arrays.beta.dtype)
        own[...] = 0
    if spikes is not None:
        own += spikes
    if counts is not None:
        own += counts[:, None]
    return own
