"""`evaluate`: how a network does on labelled samples.

Owns what is said of it: loss, accuracy, by group too, confusion matrix, firing rates, time; and predictions averaged
over random variations of each sample.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blocksim.backend import Backend
from blocksim.classification import confusion_matrix
from blocksim.data import Augmentation
from blocksim.errors import ArgumentError
from blocksim.network import Network
from blocksim.training.objective import Share, probabilities
from blocksim.training.samples import as_samples
from blocksim.training.settings import Training
from blocksim.validation import found, whole


@dataclass(frozen=True)
class Variations:
    """Test-time augmentation: class probabilities are the mean over a sample as it is and random variations of it.

    Parameters
    ----------
    rounds : int
        Variations of each sample, at least 0; each takes as long as a plain evaluation.
    augmentation : blocksim.data.Augmentation or None
        How samples are varied: within what no label is needed for, so without `blend`.
    seed : int
        Of what is drawn.

    Raises
    ------
    ArgumentError
        A choice is out of range; rounds without an augmentation; `blend`, which draws its partner by the label.

    Examples
    --------
    >>> from blocksim.data import Augmentation
    >>> from blocksim.training import Variations
    >>> Variations(8, Augmentation(stretch=0.1, time_shift=20)).rounds
    8
    """

    rounds: int = 0
    augmentation: Augmentation | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "seed"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 0))
        if self.augmentation is not None and not isinstance(self.augmentation, Augmentation):
            raise ArgumentError(
                f"augmentation: expected a blocksim.data.Augmentation or None; found {found(self.augmentation)}"
            )
        if self.rounds and not self.augmentation:
            raise ArgumentError(
                f"augmentation: expected one that changes something, for {self.rounds} rounds; found none"
            )
        if self.augmentation is not None and self.augmentation.blend:
            raise ArgumentError(
                "augmentation: expected blend = 0, for partners are drawn by the label; found "
                f"{self.augmentation.blend:g}"
            )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How a network did.

    Attributes
    ----------
    loss : float
        Mean of -log of the probability that the output (its softmax) gives to the label.
    accuracy : float
        Share of samples whose most probable class is their label.
    by_group : dict
        The accuracy in each group, speaker say, by its name; empty without groups.
    confusion : (C, C) int64 array
        Row: true class, column: predicted class.
    predicted : (n,) int64 array
        Predicted class of each sample.
    rates : tuple of float
        Mean firing rate of each layer in Hz.
    seconds : float
        What it took, with reading the samples.
    """

    loss: float
    accuracy: float
    by_group: dict[str, float]
    confusion: np.ndarray = field(repr=False)
    predicted: np.ndarray = field(repr=False)
    rates: tuple[float, ...]
    seconds: float


def evaluate(
    network: Network,
    data: Any,
    *,
    variations: Variations | None = None,
    backend: str | Backend = "numba",
    method: str = "blocks",
    batch_size: int = 64,
) -> Evaluation:
    """Run a network over labelled samples.

    Parameters
    ----------
    network : Network
    data : EventDataset, or (x, labels) or (x, labels, dt)
        As for `fit`.
    variations : Variations or None
        Random variations of each sample that its class probabilities are averaged over; None: none.
    backend, method
        As for `blocksim.simulate`.
    batch_size : int
        Samples at a time.

    Raises
    ------
    ArgumentError
        Network and data do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import LIF, Layer, Network
    >>> from blocksim.training import evaluate
    >>> network = Network([Layer(LIF(beta=0.5, theta=0.5), np.eye(2))])
    >>> x = np.zeros((2, 10, 2), bool)
    >>> x[0, 3, 0] = x[1, 7, 1] = True
    >>> evaluate(network, (x, np.array([0, 1])), backend="numpy").accuracy
    1.0
    """
    if not isinstance(network, Network):
        raise ArgumentError(f"network: expected a blocksim.Network; found {found(network)}")
    size = whole("batch_size", batch_size, 1)
    samples = as_samples("data", data)
    if network.inputs is not None and network.inputs != samples.channels:
        raise ArgumentError(f"data: expected {network.inputs} channels, the network's inputs; found {samples.channels}")
    if samples.labels.max() >= network.classes:
        raise ArgumentError(
            f"data: expected labels from 0 to {network.classes - 1}, the network's classes; found "
            f"{samples.labels.max()}"
        )
    training, variations = Training(method=method), variations or Variations()
    began = time.perf_counter()
    likely = np.zeros((len(samples), network.classes))
    spikes, simulated = np.zeros(len(network.layers)), 0.0
    for epoch in range(1 + variations.rounds):
        varied = (
            {} if epoch == 0 else {"augmentation": variations.augmentation, "seed": variations.seed, "epoch": epoch}
        )
        for start in range(0, len(samples), size):
            batch = samples.batch(np.arange(start, min(start + size, len(samples))), **varied)
            share = Share(network, batch.x, batch.labels, samples.dt, len(batch.labels), training, backend)
            found_in_batch, fired = probabilities(share)
            likely[start : start + size] += found_in_batch / (1 + variations.rounds)
            simulated += len(batch.labels) * share.seconds
            spikes += fired
    chosen = likely.argmax(axis=1)
    of_label = likely[np.arange(len(samples)), samples.labels]
    right = chosen == samples.labels
    groups = samples.groups
    names = getattr(samples, "group_names", None)
    return Evaluation(
        loss=float(-np.log(np.maximum(of_label, np.finfo(np.float64).tiny)).mean()),
        accuracy=float(right.mean()),
        by_group={}
        if groups is None or names is None
        else {names[group]: float(right[groups == group].mean()) for group in np.unique(groups)},
        confusion=confusion_matrix(samples.labels, chosen, network.classes),
        predicted=chosen,
        rates=tuple(
            float(fired / ((layer.size or 1) * simulated)) for fired, layer in zip(spikes, network.layers, strict=True)
        ),
        seconds=time.perf_counter() - began,
    )
