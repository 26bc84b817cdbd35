"""What a simulation of a network returns: `NetworkRun`, and the gradients of a loss.

Owns the readout's place at the end of the layers, and the step from a backend's arrays to a caller's;
`blocksim._layers` runs the layers, `blocksim._readout` has the readout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from blocksim._inputs import finite_numbers, numbers
from blocksim._layer_pass import Pass
from blocksim._layers import adjoints
from blocksim._network import LeakyReadout, Network
from blocksim._options import Options
from blocksim._readout import ReadoutGradients, ReadoutPass, readout_pass, spike_counts
from blocksim._run import Gradients, Run, View, cotangent, gradients_of, of_dtype, run_of, state_of
from blocksim._state import LinearState, LinearStateGradient, State, StateGradient
from blocksim._validation import found
from blocksim.arrays import SpikeGradient
from blocksim.backend import Backend
from blocksim.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class NetworkState:
    """Everything the future of a network depends on, after the last step that was simulated.

    Attributes
    ----------
    layers : tuple of State or LinearState
    readout : (batch, C) float array or None
        The readout's potential; None for a `CountReadout`.
    """

    layers: tuple[State | LinearState, ...]
    readout: np.ndarray | None


@dataclass(frozen=True, eq=False)
class NetworkStateGradient:
    """dLoss/d(state): the gradient into, or out of, a carried `NetworkState`.

    Attributes
    ----------
    layers : tuple of StateGradient or LinearStateGradient
    readout : (batch, C) float array or None
    """

    layers: tuple[StateGradient | LinearStateGradient, ...]
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
        of_layers = [part.parameters() for part in self.layers]
        of_readout = {} if self.readout is None else vars(self.readout)
        own = self._network.parameters()
        named = self._network.named(of_layers, of_readout)
        return {name: of_dtype(named[name], value.dtype) for name, value in own.items()}


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
    seed : int or None
        That of its stochastic spikes; None where there are none.
    """

    output: Any
    readout: Any
    state: NetworkState
    backend: str
    method: str
    seed: int | None
    _network: Network = field(repr=False)
    _passes: tuple[Pass, ...] = field(repr=False)
    _readout: ReadoutPass | None = field(repr=False)
    _view: View = field(repr=False)

    @property
    def steps(self) -> int:
        """Number of steps T that were simulated."""
        return self._passes[0].steps

    @cached_property
    def layers(self) -> tuple[Run, ...]:
        """The run of each layer: spikes, and what was recorded; copied from a device when first asked for."""
        return tuple(run_of(each, self._view, self.method) for each in self._passes)

    def _repr_html_(self) -> str:
        """In a notebook: what ran, and a raster of the last layer."""
        from blocksim import _notebook  # plots, which few runs need

        return _notebook.run(self.layers[-1].spikes, f"the last of {len(self._passes)} layers; {self.backend}")

    @cached_property
    def counts(self) -> tuple[Any, ...]:
        """Number of spikes of each neuron over the run, (B, N) float, of each layer."""
        return tuple(
            self._view.of(each.backend, spike_counts(each.backend, each.spikes, each.arrays.dtype))
            for each in self._passes
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
        if self._passes[0].tape is None:
            raise ArgumentError("backward: expected a run with a tape; found one without (pass tape=True to simulate)")
        handed_in = (grad_output, grad_counts, grad_spikes, grad_readout, grad_state)
        if all(value is None for value in handed_in):
            raise ArgumentError(
                "backward: expected at least one of grad_output, grad_counts, grad_spikes, grad_readout, grad_state; "
                "found none of them"
            )
        return _backward(self, *handed_in)


def network_run_of(
    network: Network, layer_passes: Sequence[Pass], state: Any, view: View, options: Options
) -> NetworkRun:
    """The layers' passes, and the readout of the last one's spikes, as the caller's."""
    engine, last = options.backend, layer_passes[-1]
    dtype = last.arrays.dtype
    readout = None
    if isinstance(network.readout, LeakyReadout):
        start = None if state is None else engine.asarray(state.readout, dtype)
        readout = readout_pass(engine, network.readout, last.spikes, start, dtype)
    output = spike_counts(engine, last.spikes, dtype) if readout is None else readout.output
    recorded = readout.potential if readout is not None and "readout" in options.record else None
    return NetworkRun(
        output=view.of(engine, output),
        readout=view.of(engine, recorded),
        state=NetworkState(
            tuple(state_of(each, view) for each in layer_passes),
            None if readout is None else view.whole.of(engine, readout.potential[:, -1].copy()),
        ),
        backend=engine.name,
        method=options.method,
        seed=next((each.plan.noise.seed for each in layer_passes if each.plan.noise is not None), None),
        _network=network,
        _passes=tuple(layer_passes),
        _readout=readout,
        _view=view,
    )


def layer_states(
    state: Any, network: Network, batch: int, dtype: np.dtype[Any], engine: Backend
) -> Sequence[State | LinearState | None]:
    """The state of each layer, of a state that fits the network."""
    if state is None:
        return [None] * len(network.layers)
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
    return state.layers


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
    grads = []
    for number, each in enumerate(passes):
        batch, steps, size = each.result.spikes.shape
        lead = (batch,) if view.batched else ()
        counts = cotangent(f"grad_counts[{number}]", of_counts[number], (*lead, size), each, view)
        spikes = cotangent(f"grad_spikes[{number}]", of_spikes[number], (*lead, steps, size), each, view)
        if each.plan.imposed is not None and counts is not None:
            raise ArgumentError(f"grad_counts[{number}]: expected None for a layer of imposed spikes; found an array")
        grads.append(SpikeGradient(spikes, counts))
    last = passes[-1]
    batch, steps, _ = last.result.spikes.shape
    lead = (batch,) if view.batched else ()
    output = cotangent("grad_output", grad_output, (*lead, network.classes), last, view)
    potential = cotangent("grad_readout", grad_readout, (*lead, steps, network.classes), last, view)
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
            after = last.backend.asarray(after, last.arrays.dtype)
        through_readout, of_readout, start = run._readout.adjoint(output, potential, after)
        weights = view.whole.of(last.backend, of_readout.weights)
        of_readout = ReadoutGradients(weights, of_readout.bias, of_readout.beta)
        before_readout = view.whole.of(last.backend, start)
        if last.plan.imposed is None:
            own = grads[-1]
            grads[-1] = replace(own, spikes=through_readout if own.spikes is None else through_readout + own.spikes)
    else:
        if potential is not None:
            raise ArgumentError(
                "grad_readout: expected None for a CountReadout, which has no potential; found an array"
            )
        if output is not None and last.plan.imposed is None:
            own = grads[-1]
            grads[-1] = replace(own, counts=output if own.counts is None else output + own.counts)
    states = [None] * len(passes) if grad_state is None else grad_state.layers
    results = adjoints(passes, grads, [None] * len(passes), states)
    gradients = tuple(gradients_of(each, view) for each in results)
    before = NetworkStateGradient(tuple(each.state for each in gradients), before_readout)
    return NetworkGradients(gradients, of_readout, before, network)


def _each(name: str, given: Any, layers: int) -> Sequence[Any]:
    if given is None:
        return [None] * layers
    if not isinstance(given, Sequence) or len(given) != layers:
        raise ArgumentError(
            f"{name}: expected a sequence of {layers}, an array or None for each layer; found {found(given)}"
        )
    return given
