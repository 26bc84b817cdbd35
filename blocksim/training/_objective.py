"""What training minimises: the loss of a batch with its penalties, and their gradients, share by share.

Owns how a batch's mean is made of its shares': each share is handed its part of the whole, and the parts add up. A
share knows nothing of the others but the batch's size and its mean firing rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from blocksim._escape import Noise
from blocksim._network import CountReadout, Network
from blocksim._network_run import NetworkRun
from blocksim._simulation import simulate
from blocksim._validation import finite
from blocksim._validation import found as found_value
from blocksim.backend import Backend
from blocksim.errors import ArgumentError, DivergenceError
from blocksim.losses import cross_entropy, mean_squared_count, rate_penalty
from blocksim.optimisers import is_named
from blocksim.training._settings import Training

NO_NOISE = Noise(0)
P = ParamSpec("P")
R = TypeVar("R")


# A network that diverges overflows on the way. What comes of it is looked at where it matters, by `check_finite`:
# NumPy's warnings, one for each of its operations, add nothing to that.
def quiet(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function compute without NumPy's warnings."""

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return computed


@dataclass(frozen=True, eq=False)
class BatchLoss:
    """A loss of a run, the mean over its samples, and its gradients, as `NetworkRun.backward` takes them.

    Attributes
    ----------
    value : float
    grad_output : (B, C) array or None
    grad_counts, grad_spikes : sequence of arrays or None, or None
        One for each layer.
    """

    value: float
    grad_output: Any = None
    grad_counts: Sequence[Any] | None = None
    grad_spikes: Sequence[Any] | None = None


@dataclass(frozen=True, eq=False)
class Share:
    """One part of a batch: what a worker is given.

    Attributes
    ----------
    network : Network
    x : Events or (B, T, K) array
    labels : (B,) int64 array
    dt : float
        Step in ms.
    batch : int
        Samples of the whole batch.
    training : Training
    backend : str or Backend
    noise : Noise
        What stochastic neurons draw.
    """

    network: Network
    x: Any
    labels: np.ndarray
    dt: float
    batch: int
    training: Training
    backend: str | Backend
    noise: Noise = NO_NOISE

    @property
    def seconds(self) -> float:
        """Duration of a sample in s."""
        return float(self.x.shape[1]) * self.dt / 1000


@dataclass(frozen=True, eq=False)
class ShareResult:
    """What comes back of a share.

    Attributes
    ----------
    loss : float
        Its part of the batch's loss: penalties over the batch are not in it.
    correct : int
        Samples whose highest output is that of their label.
    spikes : tuple of float
        Spikes of each layer.
    gradients : dict of arrays
        Its part of the gradients of the trained parameters.
    """

    loss: float
    correct: int
    spikes: tuple[float, ...]
    gradients: dict[str, np.ndarray]


def check_finite(what: str, value: Any) -> None:
    """Raise `DivergenceError`, naming what it is, where a number of a training is NaN or infinite."""
    try:
        finite(what, np.asarray(value))
    except ArgumentError as error:
        raise DivergenceError(str(error)) from None


@quiet
def forward(share: Share, tape: bool | str) -> NetworkRun:
    """Simulate a share; raises `DivergenceError` where an output is not finite."""
    training = share.training
    noise: Any = share.noise
    run = simulate(
        share.network, share.x, share.backend, training.method, tape=tape, surrogate=training.surrogate,
        gradient=training.gradient, detach=training.detach, seed=noise,
    )  # fmt: skip
    check_finite("output", run.output)
    return run


def count_sums(run: NetworkRun) -> list[np.ndarray]:
    """Spikes of each neuron over all samples of a share, (N,) float64, of each layer."""
    return [np.asarray(counts).sum(axis=0, dtype=np.float64) for counts in run.counts]


def needs_batch_rates(training: Training) -> bool:
    """Whether a share must be told the batch's mean firing rates before it is differentiated."""
    return any(penalty.over == "batch" for penalty in training.penalties)


@quiet
def batch_penalty(
    training: Training, sums: Sequence[Sequence[np.ndarray]], batch: int, seconds: float
) -> tuple[float, list[np.ndarray | None]]:
    """Penalties over the batch, equation (22), and what they add to dLoss/d(count) of every sample of the batch.

    Parameters
    ----------
    sums : for each share, in order, a (N,) array for each layer
        From `count_sums`.
    batch : int
        Samples of the batch.
    seconds : float
        Duration of a sample.

    Returns
    -------
    value : float
    gradients : (N,) float64 array or None for each layer
    """
    layers = len(sums[0])
    totals = [np.sum([share[layer] for share in sums], axis=0) for layer in range(layers)]
    value = 0.0
    gradients: list[np.ndarray | None] = [None] * layers
    for penalty in training.penalties:
        if penalty.over != "batch":
            continue
        for layer in _layers_of(penalty.layers, layers):
            loss = rate_penalty((totals[layer] / batch)[None], seconds, lower=penalty.lower, upper=penalty.upper)
            value += penalty.strength * loss.value
            part = penalty.strength / batch * loss.gradient[0]
            before = gradients[layer]
            gradients[layer] = part if before is None else before + part
    return value, gradients


@quiet
def backward(share: Share, run: NetworkRun, count_gradients: Sequence[np.ndarray | None] | None) -> ShareResult:
    """The loss of a simulated share, and its gradients with respect to the trained parameters.

    Parameters
    ----------
    count_gradients : (N,) array or None for each layer, or None
        From `batch_penalty`.

    Raises
    ------
    DivergenceError
        The loss is not finite.
    """
    training, weight = share.training, len(share.labels) / share.batch
    loss = batch_loss(run, share.labels, training)
    value = weight * loss.value
    counts: list[Any] = [None if each is None else weight * np.asarray(each) for each in _each(loss.grad_counts, run)]
    spikes = [None if each is None else weight * np.asarray(each) for each in _each(loss.grad_spikes, run)]
    for penalty in training.penalties:
        if penalty.over != "sample":
            continue
        for layer in _layers_of(penalty.layers, len(counts)):
            cost = rate_penalty(
                run.counts[layer], share.seconds, lower=penalty.lower, upper=penalty.upper, over="sample"
            )
            value += weight * penalty.strength * cost.value
            counts[layer] = _plus(counts[layer], weight * penalty.strength * cost.gradient)
    check_finite("loss", value)
    for layer, gradient in enumerate(count_gradients or ()):
        if gradient is not None:
            whole = np.broadcast_to(gradient.astype(run.counts[layer].dtype), run.counts[layer].shape)
            counts[layer] = _plus(counts[layer], whole)
    output = None if loss.grad_output is None else weight * np.asarray(loss.grad_output)
    for what, parts in (("output", [output]), ("counts", counts), ("spikes", spikes)):
        for each in parts:
            if each is not None:
                check_finite(f"gradient of the {what}", each)
    gradients = run.backward(
        output,
        counts if any(each is not None for each in counts) else None,
        spikes if any(each is not None for each in spikes) else None,
    ).parameters()
    names = trained_names(share.network, training)
    return ShareResult(value, _correct(run, share.labels), _spikes(run), {name: gradients[name] for name in names})


def batch_loss(run: NetworkRun, labels: np.ndarray, training: Training) -> BatchLoss:
    """The loss by itself, without penalties."""
    if callable(training.loss):
        loss = training.loss(run, labels)
        if not isinstance(loss, BatchLoss):
            raise ArgumentError(f"loss: expected a function that returns a BatchLoss; found {type(loss).__name__}")
        if np.ndim(loss.value) or np.asarray(loss.value).dtype.kind not in "biuf":
            raise ArgumentError(f"loss: expected a BatchLoss whose value is a number; found {found_value(loss.value)}")
        return loss
    if training.loss == "cross_entropy":
        found = cross_entropy(run.output, labels, label_smoothing=training.label_smoothing)
    else:
        right, wrong = training.wanted_counts
        target = np.full(run.output.shape, wrong)
        target[np.arange(len(labels)), labels] = right
        found = mean_squared_count(run.output, target)
    return BatchLoss(found.value, found.gradient)


def scored(share: Share) -> tuple[float, np.ndarray, tuple[float, ...]]:
    """Without gradients: the loss, summed over the share's samples, predicted classes, and spikes of each layer."""
    run = forward(share, tape=False)
    value = batch_loss(run, share.labels, share.training).value
    return value * len(share.labels), np.asarray(run.output).argmax(axis=1), _spikes(run)


def probabilities(share: Share) -> tuple[np.ndarray, tuple[float, ...]]:
    """Without gradients: the softmax of the output, float64 (samples, classes), and spikes of each layer."""
    run = forward(share, tape=False)
    output = np.asarray(run.output, np.float64)
    raised = np.exp(output - output.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True), _spikes(run)


def trained_names(network: Network, training: Training) -> list[str]:
    """Names of the parameters that are trained; raises where a pattern fits none."""
    names = list(network.parameters())
    for pattern in training.trained:
        if not any(is_named(name, [pattern]) for name in names) and "*" not in pattern:
            raise ArgumentError(f"trained: expected names out of {', '.join(names)}; found {pattern!r}")
    chosen = [name for name in names if is_named(name, training.trained)]
    if not chosen:
        raise ArgumentError(f"trained: expected patterns that fit some of {', '.join(names)}; found {training.trained}")
    return chosen


def check_fits(network: Network, training: Training) -> None:
    """Raise where a network and a training do not fit together."""
    trained_names(network, training)
    if training.loss == "mean_squared_count" and not isinstance(network.readout, CountReadout):
        raise ArgumentError(
            "loss: expected a network with a CountReadout for 'mean_squared_count'; found a LeakyReadout"
        )
    for penalty in training.penalties:
        _layers_of(penalty.layers, len(network.layers))


def _layers_of(chosen: tuple[int, ...] | None, layers: int) -> Sequence[int]:
    if chosen is None:
        return range(layers)
    if any(layer >= layers for layer in chosen):
        raise ArgumentError(f"penalties: expected layers from 0 to {layers - 1}; found {chosen}")
    return chosen


def _each(given: Sequence[Any] | None, run: NetworkRun) -> Sequence[Any]:
    return [None] * len(run.counts) if given is None else given


def _plus(one: Any, other: np.ndarray) -> np.ndarray:
    return other if one is None else one + other


def _correct(run: NetworkRun, labels: np.ndarray) -> int:
    return int((np.asarray(run.output).argmax(axis=1) == labels).sum())


def _spikes(run: NetworkRun) -> tuple[float, ...]:
    return tuple(float(np.asarray(counts).sum(dtype=np.float64)) for counts in run.counts)
