"""`evaluate`: how a network does on labelled samples.

Owns what is said of it: loss, accuracy, by group too, confusion matrix, firing rates, time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blocksim.backend import Backend
from blocksim.classification import confusion_matrix
from blocksim.errors import ArgumentError
from blocksim.network import Network
from blocksim.training.objective import Share, scored
from blocksim.training.samples import as_samples
from blocksim.training.settings import Training
from blocksim.validation import found, whole


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How a network did.

    Attributes
    ----------
    loss : float
        Mean cross-entropy of the output.
    accuracy : float
        Share of samples whose highest output is that of their label.
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
    network: Network, data: Any, *, backend: str | Backend = "numba", method: str = "blocks", batch_size: int = 64
) -> Evaluation:
    """Run a network over labelled samples.

    Parameters
    ----------
    network : Network
    data : EventDataset, or (x, labels) or (x, labels, dt)
        As for `fit`.
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
    training = Training(method=method)
    began = time.perf_counter()
    loss, simulated, predicted = 0.0, 0.0, []
    spikes = np.zeros(len(network.layers))
    for start in range(0, len(samples), size):
        batch = samples.batch(np.arange(start, min(start + size, len(samples))))
        share = Share(network, batch.x, batch.labels, samples.dt, len(batch.labels), training, backend)
        value, chosen, fired = scored(share)
        loss += value
        simulated += len(batch.labels) * share.seconds
        spikes += fired
        predicted.append(chosen)
    chosen = np.concatenate(predicted).astype(np.int64)
    right = chosen == samples.labels
    groups = samples.groups
    names = getattr(samples, "group_names", None)
    return Evaluation(
        loss=loss / len(samples),
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
