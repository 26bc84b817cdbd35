"""Initial weights of networks: drawn so that potentials fluctuate about the threshold, then scaled to a firing rate.

Owns how networks begin. A layer that is silent passes no spikes on and learns next to nothing; one that fires at every
chance tells nothing. `make_network` draws a whole network; `calibrate` scales the weights of any, layer by layer, until
each fires at the rate wanted on input of yours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from blocksim._connections import Exponential
from blocksim._layer import Layer
from blocksim._network import LeakyReadout, Network
from blocksim._network_run import NetworkRun
from blocksim._neurons import ALIF, LIF, Neuron
from blocksim._presets import AdLIF
from blocksim._simulation import simulate
from blocksim._validation import (
    MAX_SIZE,
    choice,
    flag,
    found,
    instance,
    items,
    milliseconds,
    number,
    precision,
    whole_number,
)
from blocksim.errors import ArgumentError

# Gains that `calibrate` tries lie within these factors of the weights it is given.
GAINS = (1e-3, 1e3)
NEURONS = ("alif", "lif", "adlif")


def log_uniform(low: float, high: float, size: int, rng: np.random.Generator, dtype: Any = np.float32) -> np.ndarray:
    """Time constants of a population, (size,), drawn evenly on a logarithmic scale from `low` to `high`.

    Parameters
    ----------
    low, high : float
        Bounds, 0 < low <= high, in any unit.
    size : int
        How many.
    rng : numpy Generator
        Draws them.
    dtype : float32 or float64
        Of the result.

    Raises
    ------
    ArgumentError
        low and high are not 0 < low <= high, size is no whole number of 0 or more, dtype is not float32 or float64, or
        rng is no `numpy.random.Generator`.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.initialisers import log_uniform
    >>> log_uniform(5, 50, 3, np.random.default_rng(0)).round(1)
    array([21.7,  9.3,  5.5], dtype=float32)
    """
    low, high = number("low", low), number("high", high)
    size, dtype = whole_number("size", size, 0, MAX_SIZE), precision("dtype", dtype)
    if not 0 < low <= high:
        raise ArgumentError(f"low, high: expected 0 < low <= high; found {low} and {high}")
    return np.exp(_generator(rng).uniform(math.log(low), math.log(high), size)).astype(dtype)


def _generator(rng: Any) -> np.random.Generator:
    made: np.random.Generator = instance("rng", rng, np.random.Generator, "a numpy.random.Generator (default_rng())")
    return made


def fluctuating_weights(
    inputs: int,
    neurons: int,
    *,
    density: float,
    beta: float,
    rng: np.random.Generator,
    deviation: float = 1.0,
    synapse: float = 0.0,
    dtype: Any = np.float32,
) -> np.ndarray:
    """Weights of mean zero by which Poisson input makes the potential fluctuate by `deviation` about zero.

    With K inputs that spike r times a step, V of equation (3) without spikes has the variance
    K r sigma^2 / (1 - beta^2); so sigma = deviation sqrt((1 - beta^2) / (K r)). An exponential synapse of decay s and
    gain 1 multiplies the variance by (1 + beta s) / ((1 - s^2) (1 - beta s)).

    Parameters
    ----------
    inputs, neurons : int
        K and N.
    density : float
        Spikes of an input in a step, r.
    beta : float
        Decay of the potential in a step.
    rng : numpy.random.Generator
    deviation : float
        Standard deviation of the potential; thresholds are 1 by default.
    synapse : float
        Decay of an exponential synapse in a step; 0 for input that acts at once.
    dtype : float32 or float64

    Returns
    -------
    (K, N) array

    Raises
    ------
    ArgumentError
        The density is not above 0, or beta or synapse no decay factor.

    Notes
    -----
    Source: Rossbroich, Gygax, Zenke, "Fluctuation-driven initialization for spiking neural network training",
    Neuromorphic Computing and Engineering 2 (2022), for current-based synapses.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.initialisers import fluctuating_weights
    >>> weights = fluctuating_weights(100, 50, density=0.05, beta=0.9, rng=np.random.default_rng(0))
    >>> weights.shape, round(float(weights.std()), 2)
    ((100, 50), 0.19)
    """
    inputs, neurons = whole_number("inputs", inputs, 1, MAX_SIZE), whole_number("neurons", neurons, 1, MAX_SIZE)
    density, beta = number("density", density, above=0), number("beta", beta)
    deviation, dtype = number("deviation", deviation, least=0), precision("dtype", dtype)
    synapse = number("synapse", synapse)
    for name, factor in (("beta", beta), ("synapse", synapse)):
        if not 0 <= factor < 1:
            raise ArgumentError(f"{name}: expected a decay factor in [0, 1); found {factor}")
    more = (1 + beta * synapse) / ((1 - synapse**2) * (1 - beta * synapse))
    sigma = deviation * math.sqrt((1 - beta**2) / (inputs * density * more))
    return _generator(rng).normal(0.0, sigma, (inputs, neurons)).astype(dtype)


def make_network(
    inputs: int,
    hidden: Sequence[int],
    classes: int,
    *,
    dt: float,
    refractory: float,
    tau_mem: float | tuple[float, float] = (10.0, 300.0),
    tau_adapt: float | tuple[float, float] = (50.0, 500.0),
    adaptation: float = 0.2,
    neuron: str = "alif",
    tau_syn: float | tuple[float, float] | None = None,
    recurrent: bool = True,
    recurrent_share: float = 0.05,
    tau_out: float = 80.0,
    decode: str = "mean",
    input_rate: float = 10.0,
    rate: float = 5.0,
    rounding: str | None = None,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Network:
    """Draw a network of spiking neurons with a leaky readout.

    Weights are those of `fluctuating_weights` for inputs that fire at `input_rate` and hidden neurons that fire at
    `rate`; they are a start, of the right order. `calibrate` then holds the layers to `rate` on real input.

    Parameters
    ----------
    inputs, classes : int
        Number of input channels and of classes.
    hidden : sequence of int
        Neurons of each layer.
    dt : float
        Step in ms.
    refractory : float
        Absolute refractory period in ms.
    tau_mem, tau_adapt : float or (low, high)
        Time constants in ms: one for all neurons, or drawn on a logarithmic scale, one a neuron.
    adaptation : float
        Rise of the threshold of an ALIF neuron at each spike; 0 makes LIF neurons.
    neuron : {"alif", "lif", "adlif"}
        The model. An adaptive LIF neuron with subthreshold adaptation, `AdLIF`, gets a drawn evenly from 0 to 1 and b
        from 0 to 2 (Baronig et al. 2024), and no `adaptation`.
    tau_syn : float, (low, high) or None
        Time constant of an exponential synapse in ms, through which all input and all recurrent spikes reach a neuron;
        None: they act at once.
    recurrent : bool
        Whether layers feed back on themselves.
    recurrent_share : float
        Standard deviation of the potential that recurrent spikes make at first, where input makes 1. Small: layers that
        begin with strong recurrence of their own learn more slowly, and carry less over to speakers never heard.
    tau_out : float
        Time constant of the readout in ms.
    decode : str
        As in `LeakyReadout`.
    input_rate, rate : float
        Firing rates in Hz, of the inputs and aimed at in the layers.
    rounding : str or None
        As in `ALIF.from_ms`.
    seed : int
        Of all weights and time constants.
    dtype : float32 or float64
        Of all parameters.

    Returns
    -------
    Network
        Layers of `hidden` neurons and a `LeakyReadout`; `dt` is noted in it.

    Raises
    ------
    ArgumentError
        A number is out of range, or the refractory period is no whole number of steps.

    Examples
    --------
    >>> from blocksim.initialisers import make_network
    >>> network = make_network(700, (64, 32), 10, dt=2, refractory=20)
    >>> print(network.summary(dt=2))  # doctest: +ELLIPSIS
    layer  neurons ...
    """
    dtype = precision("dtype", dtype)
    inputs, classes = whole_number("inputs", inputs, 1, MAX_SIZE), whole_number("classes", classes, 1, MAX_SIZE)
    recurrent = flag("recurrent", recurrent)
    hidden = items("hidden", hidden, "the number of neurons of each layer")
    sizes = [whole_number("hidden", size, 1, MAX_SIZE) for size in hidden]
    dt = milliseconds("dt", dt)
    per_step = dt / 1000  # spikes in a step, from Hz
    input_rate = number("input_rate", input_rate, above=0, what="a rate in Hz")
    rate = number("rate", rate, above=0, what="a rate in Hz")
    recurrent_share = number("recurrent_share", recurrent_share, least=0)
    adaptation = number("adaptation", adaptation)
    choice("neuron", neuron, NEURONS)
    rng = np.random.default_rng(whole_number("seed", seed, 0))

    def constants(name: str, value: Any, size: int) -> np.ndarray:
        pair = value if isinstance(value, (tuple, list)) else (value, value)
        low, high = items(name, pair, "a time in ms, or the lowest and the highest", 2)
        return log_uniform(milliseconds(name, low), milliseconds(name, high), size, rng, dtype)

    layers = []
    before, spikes = inputs, input_rate * per_step
    for size in sizes:
        common: dict[str, Any] = {
            "tau_mem": constants("tau_mem", tau_mem, size), "theta": np.ones(size, dtype), "refractory": refractory,
            "dt": dt, "rounding": rounding,
        }  # fmt: skip
        neurons: Neuron
        if neuron == "adlif":
            taus = constants("tau_adapt", tau_adapt, size)
            a, b = rng.uniform(0, 1, size).astype(dtype), rng.uniform(0, 2, size).astype(dtype)
            neurons = AdLIF.from_ms(tau_adapt=taus, a=a, b=b, **common)
        elif neuron == "alif" and adaptation:
            neurons = ALIF.from_ms(
                tau_adapt=constants("tau_adapt", tau_adapt, size), adaptation=np.full(size, adaptation, dtype), **common
            )
        else:
            neurons = LIF.from_ms(**common)
        synapses = []
        if tau_syn is not None:
            synapses.append(Exponential.from_ms(constants("tau_syn", tau_syn, size), dt, np.ones(size, dtype)))
        of_input: dict[str, Any] = {
            "beta": float(np.median(neurons.parameters()["beta"])),
            "synapse": float(np.median(synapses[0].decay)) if synapses else 0.0,
            "rng": rng,
            "dtype": dtype,
        }
        weights = fluctuating_weights(before, size, density=spikes, **of_input)
        own = None
        if recurrent:
            own = fluctuating_weights(size, size, density=rate * per_step, deviation=recurrent_share, **of_input)
        layers.append(Layer(neurons, weights, np.zeros(size, dtype), own, synapses=synapses))
        before, spikes = size, rate * per_step
    weights = rng.normal(0.0, 1 / math.sqrt(before), (before, classes)).astype(dtype)
    beta_out = math.exp(-dt / milliseconds("tau_out", tau_out))
    return Network(tuple(layers), LeakyReadout(weights, np.zeros(classes, dtype), beta=beta_out, decode=decode), dt)


@np.errstate(all="ignore")  # a gain may overflow what it scales: that is looked at, and told as an error
def calibrate(network: Network, x: Any, *, rate: float, dt: float, backend: Any = "numba") -> Network:
    """Scale a network's weights until every layer fires at `rate` on x, and the outputs spread by 1.

    Layer by layer, the first first, the gain of its input weights is found by bisection: each is simulated a dozen
    times. Recurrent weights stay as they are. A leaky readout's weights are scaled so that its outputs over samples and
    classes have the standard deviation 1, so that a softmax of them neither saturates nor is flat.

    Parameters
    ----------
    network : Network
    x : as `simulate` takes it
        A batch of typical input, some tens of samples.
    rate : float
        Mean firing rate of each layer aimed at, in Hz; below 1 / (refractory period + dt).
    dt : float
        Step in ms.
    backend : str or Backend

    Returns
    -------
    Network
        Each layer fires at `rate` on x to within a few per cent.

    Raises
    ------
    ArgumentError
        A layer has no weights to scale, or no gain makes it fire at that rate: the input is silent, or the rate above
        what the refractory period allows.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import simulate
    >>> from blocksim.initialisers import calibrate, make_network
    >>> x = np.random.default_rng(0).random((8, 500, 40)) < 0.02
    >>> network = calibrate(make_network(40, (32, 16), 5, dt=1, refractory=5), x, rate=10, dt=1)
    >>> [round(float(counts.mean()) / 0.5) for counts in simulate(network, x).counts]
    [10, 10]
    """
    instance("network", network, Network, "a blocksim.Network")
    rate, dt = number("rate", rate, above=0, what="a rate in Hz"), milliseconds("dt", dt)
    for place, layer in enumerate(network.layers):
        if layer.inputs is None:
            raise ArgumentError(f"layers[{place}]: expected a layer with weights to scale; found one without")
        own = {f"layers.{place}.{name}": value for name, value in layer.parameters().items() if _is_input(name)}
        first = Network(network.layers[: place + 1])

        def fires(gain: float, first: Network = first, own: dict[str, np.ndarray] = own) -> float:
            run = _run(first.with_parameters(_scaled(own, gain)), x, backend)
            return float(np.mean(run.output)) / (run.steps * dt / 1000)

        low, high = GAINS
        least, most = fires(low), fires(high)
        if not least <= rate <= most:
            raise ArgumentError(
                f"rate: expected one that layer {place} can be scaled to; found {rate:g} Hz, with {least:.3g} to "
                f"{most:.3g} Hz within reach (is the input silent, or the refractory period too long?)"
            )
        for _ in range(20):
            gain = math.sqrt(low * high)
            reached = fires(gain)
            low, high = (gain, high) if reached < rate else (low, gain)
            if abs(reached - rate) < 0.01 * rate:
                break
        network = network.with_parameters(_scaled(own, gain))
    readout = network.readout
    if isinstance(readout, LeakyReadout):
        spread = float(np.std(np.asarray(_run(network, x, backend).output, np.float64)))
        if not math.isfinite(spread):
            raise ArgumentError(
                "network: expected finite outputs; found some that are not (its readout's weights are too large)"
            )
        if spread > 0:
            scaled = (readout.weights / spread).astype(readout.weights.dtype)
            network = network.with_parameters({"readout.weights": scaled})
    return network


def _is_input(name: str) -> bool:
    """Whether a parameter of a layer is that of weights of its input."""
    return name == "weights" or (name.startswith("inputs.") and name.endswith(".weights"))


def _scaled(weights: dict[str, np.ndarray], gain: float) -> dict[str, np.ndarray]:
    return {name: (value * gain).astype(value.dtype) for name, value in weights.items()}


def _run(network: Network, x: Any, backend: Any) -> NetworkRun:
    run = simulate(network, x, backend)
    if not isinstance(run, NetworkRun):
        raise ArgumentError(f"network: expected a blocksim.Network; found {found(network)}")
    return run
