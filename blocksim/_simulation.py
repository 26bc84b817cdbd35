"""`simulate`: the public face of the block algorithm.

Owns the order of a run: arguments are checked, input is read, a layer or a network is computed, the result handed out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from blocksim._inputs import computing_dtype, read_input
from blocksim._layer import Layer
from blocksim._layers import passes
from blocksim._network import Network
from blocksim._network_run import NetworkRun, NetworkState, layer_states, network_run_of
from blocksim._options import Options
from blocksim._run import Run, View, run_of
from blocksim._state import LinearState, State
from blocksim._validation import found
from blocksim.backend import Backend
from blocksim.errors import ArgumentError
from blocksim.surrogates import Surrogate

RECORD = ("voltage", "threshold")
NETWORK_RECORD = (*RECORD, "readout")


@overload
def simulate(
    layer: Layer,
    x: Any,
    backend: str | Backend = ...,
    method: str = ...,
    block_length: int | None = ...,
    state: State | LinearState | None = ...,
    record: tuple[str, ...] | str = ...,
    tape: bool | str = ...,
    surrogate: str | Surrogate | None = ...,
    gradient: str = ...,
    detach: tuple[str, ...] | str = ...,
    batch_size: int | None = ...,
    seed: int | None = ...,
    impose: Any = ...,
) -> Run: ...
@overload
def simulate(
    layer: Network,
    x: Any,
    backend: str | Backend = ...,
    method: str = ...,
    block_length: int | None = ...,
    state: NetworkState | None = ...,
    record: tuple[str, ...] | str = ...,
    tape: bool | str = ...,
    surrogate: str | Surrogate | None = ...,
    gradient: str = ...,
    detach: tuple[str, ...] | str = ...,
    batch_size: int | None = ...,
    seed: int | None = ...,
    impose: Any = ...,
) -> NetworkRun: ...
def simulate(
    layer: Layer | Network,
    x: Any,
    backend: str | Backend = "numba",
    method: str = "blocks",
    block_length: int | None = None,
    state: State | LinearState | NetworkState | None = None,
    record: tuple[str, ...] | str = (),
    tape: bool | str = False,
    surrogate: str | Surrogate | None = None,
    gradient: str = "standard",
    detach: tuple[str, ...] | str = ("reset",),
    batch_size: int | None = None,
    seed: int | None = None,
    impose: Any = None,
) -> Run | NetworkRun:
    """Simulate a layer of neurons, or a network, exactly, in blocks of time: equations (1)-(6) and (27)-(34).

    Parameters
    ----------
    layer : Layer or Network
        Neurons and connections; or layers of them, each fed by the spikes of the one before, and a readout.
    x : array (T, K) or (B, T, K), Events, or SciPy CSR array (B * T, K)
        Input. Real values of any floating dtype, or spikes (bool, or whole numbers >= 0 in any integer or floating
        dtype); spikes are added one by one, real values multiplied and added in the order of the inputs (on a GPU by a
        matrix product). For a layer without weights, the current itself: K = N, or K = 1 for one current shared by all
        neurons.
    backend : {"numba", "numpy", "cupy", "auto"} or Backend
        What computes. "auto" takes the fastest that is ready and says which in `Run.backend`.
    method : {"blocks", "standard"}
        Blocks of time, or step by step; the results are the same.
    block_length : int or None
        Steps in a block, at most the (shortest) refractory period + 1 and the recurrent latency. None gives the
        longest.
    state : State, LinearState, NetworkState or None
        `state` of the run that this one continues; None starts at rest.
    record : tuple out of "voltage", "threshold", "readout"
        What to return besides spikes; "readout" is a network's.
    tape : bool or "checkpoint"
        Keep what `Run.backward` needs. x is kept, not copied: leave it as it is until then. "checkpoint" keeps a few
        states instead, and computes the rest again, an eighth of the run at a time: less memory for more time
        (docs/performance.md); gradients are the same to rounding.
    surrogate : str, Surrogate or None
        Surrogate derivative of the spike: "fast_sigmoid", "box_car", "multi_gaussian", "arctan", "sigmoid",
        "triangle", "superspike", or an object that carries its scale, `blocksim.surrogates.FastSigmoid(k=25)`. "hazard"
        is the slope of the probability of a stochastic spike (`Escape`). None: "hazard" of neurons with such spikes,
        else "fast_sigmoid".
    gradient : {"standard", "paper"}
        The surrogate gradient of the step-by-step model, equations (7)-(13), or that of Taylor et al. 2023,
        equations (14)-(17), which depends on the block length.
    detach : tuple out of "reset", "recurrent", "adaptation"
        Paths that carry no gradient.
    batch_size : int or None
        Number of samples B, for a CSR array only.
    seed : int or None
        Of stochastic spikes (`Escape`), 0 to 2**64 - 1; None: a new seed each time, stored in `Run.seed`. The same seed
        gives the same spikes for every method, block length and number of threads, and with `state` those of one long
        run.
    impose : array (T, N) or (B, T, N), Events, or None; a sequence of them, one for each layer, for a Network
        Spikes that stochastic neurons are given in place of their own, as recorded; None: their own. At most one of a
        neuron in a step, and none in its refractory period. What `backward` takes for the spikes' gradient is then that
        of a loss of U - theta, as `losses.log_likelihood` returns it: nothing changes the spikes.

    Returns
    -------
    Run, or NetworkRun for a Network
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
    if not isinstance(layer, (Layer, Network)):
        raise ArgumentError(f"layer: expected a blocksim.Layer or a blocksim.Network; found {found(layer)}")
    network = layer if isinstance(layer, Network) else None
    layers = (layer,) if isinstance(layer, Layer) else layer.layers
    recordable = RECORD if network is None else NETWORK_RECORD
    options = Options.checked(
        backend, method, block_length, record, recordable, tape, surrogate, gradient, detach, seed,
        _imposed(impose, layers, network is not None),
    )  # fmt: skip
    for each in layers:
        options.check_layer(each)
        options.block_length_of(each)
    engine = options.backend
    on_device = engine.owns(x)
    x, batched = read_input(x, layers[0], batch_size, engine)
    dtype = computing_dtype(x, layer.floating_dtypes)
    view = View(batched, on_device)
    states: Any = [state] if network is None else layer_states(state, network, x.shape[0], dtype, engine)
    layer_passes = passes(layers, x, dtype, states, options)
    return (
        run_of(layer_passes[0], view, method)
        if network is None
        else network_run_of(network, layer_passes, state, view, options)
    )


def _imposed(impose: Any, layers: Sequence[Layer], network: bool) -> tuple[Any, ...]:
    """Spikes that each layer is given, or None; empty where none is."""
    if impose is None:
        return ()
    if network and not (isinstance(impose, (tuple, list)) and len(impose) == len(layers)):
        raise ArgumentError(
            f"impose: expected a sequence of {len(layers)}, spikes or None for each layer; found {found(impose)}"
        )
    each = tuple(impose) if network else (impose,)
    for layer, given in zip(layers, each, strict=True):
        if given is not None and not layer.neuron.is_stochastic:
            raise ArgumentError(
                f"impose: expected neurons with escape noise, LinearIF(spike=Escape(...)); found "
                f"{type(layer.neuron).__name__} neurons without"
            )
    return each
