"""`evaluate`: how a network does on labelled samples.

Owns what is said of it: loss, accuracy, by group too, confusion matrix, firing rates, time; and the same of predictions
averaged over random variations of each sample, in addition to the plain figures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from blocksim import _notebook, plotting
from blocksim._escape import Noise
from blocksim._network import Network
from blocksim._validation import found, whole_number
from blocksim.backend import Backend
from blocksim.classification import confusion_matrix
from blocksim.data import Augmentation
from blocksim.data._randomness import EVALUATION_NOISE, Streams
from blocksim.errors import ArgumentError, DivergenceError
from blocksim.models import Model
from blocksim.training._objective import Share, probabilities
from blocksim.training._samples import as_samples, binning_of, check_samples, check_varied, other_binning
from blocksim.training._settings import Training


@dataclass(frozen=True)
class Variations:
    """Test-time augmentation: class probabilities as the mean over a sample as it is and random variations of it.

    Parameters
    ----------
    rounds : int
        Variations of each sample, at least 0; each takes as long as a plain evaluation.
    augmentation : blocksim.data.Augmentation or None
        How samples are varied; without `blend`, which needs the labels.
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
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 0))
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
    """How a network did on each sample as it is, in one pass; scores after averaging are in `averaged`.

    Attributes
    ----------
    loss : float
        Mean of -log of the probability that the output (its softmax) gives to the label.
    accuracy : float
        Share of samples whose most probable class is their label.
    by_group : dict
        The accuracy in each group, such as a speaker, by its name; empty without groups.
    confusion : (C, C) int64 array
        Row: true class, column: predicted class.
    predicted : (n,) int64 array
        Predicted class of each sample.
    rates : tuple of float
        Mean firing rate of each layer in Hz.
    seconds : float
        Time that it took, including reading the samples.
    passes : int
        Passes of each sample over which its class probabilities are averaged: 1, and more in `averaged`.
    averaged : Evaluation or None
        The same with class probabilities averaged over the sample and its variations, and rates and seconds of all
        passes; None without variations.
    """

    loss: float
    accuracy: float
    by_group: dict[str, float]
    confusion: np.ndarray = field(repr=False)
    predicted: np.ndarray = field(repr=False)
    rates: tuple[float, ...]
    seconds: float
    passes: int = 1
    averaged: Evaluation | None = field(default=None, repr=False)

    def _repr_html_(self) -> str:
        """In a notebook: the scores, and the confusion matrix."""
        names = [str(number) for number in range(len(self.confusion))]
        words = f"accuracy {self.accuracy:.4f}, loss {self.loss:.4f}, of {len(self.predicted)} samples"
        return _notebook.shown(words, lambda: plotting.confusion(self.confusion, names))

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each class: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (C,) arrays
            "class", its number; "samples" of it, how many were "predicted" as it, "correct" among these; "recall",
            correct of samples; "precision", correct of predicted. NaN where there are none.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim.training import Evaluation
        >>> found = Evaluation(0.3, 0.9, {}, np.array([[8, 2], [0, 10]]), np.repeat([0, 1], [8, 12]), (9.0,), 1.0)
        >>> found.table()["recall"]
        array([0.8, 1. ])
        """
        samples, predicted, correct = self.confusion.sum(axis=1), self.confusion.sum(axis=0), self.confusion.diagonal()
        with np.errstate(invalid="ignore"):
            return {
                "class": np.arange(len(self.confusion)), "samples": samples, "predicted": predicted,
                "correct": correct, "recall": correct / samples, "precision": correct / predicted,
            }  # fmt: skip


def evaluate(
    network: Network | Model,
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
    network : Network or blocksim.models.Model
        A model of `load_model` knows how its samples were binned, and `data` must be binned in the same way.
    data : EventDataset, or (x, labels) or (x, labels, dt)
        As for `fit`.
    variations : Variations or None
        Random variations of each sample, for `Evaluation.averaged`; None: none.
    backend, method
        As for `blocksim.simulate`.
    batch_size : int
        Samples at a time.

    Raises
    ------
    ArgumentError
        Network and data do not fit together: channels, classes, the step, or the binning of a model's samples; or the
        network's outputs are not finite.
    FileError
        A sample cannot be read.

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
    binning: Any = {}
    if isinstance(network, Model):
        binning = network.info.get("data") or {}
        network = network.network
    if not isinstance(network, Network):
        raise ArgumentError(f"network: expected a blocksim.Network, or a Model of load_model; found {found(network)}")
    size = whole_number("batch_size", batch_size, 1)
    if variations is not None and not isinstance(variations, Variations):
        raise ArgumentError(f"variations: expected a blocksim.training.Variations or None; found {found(variations)}")
    samples = as_samples("data", data, network)
    check_samples("data", network, samples)
    for name, wanted, given in other_binning(binning, binning_of(samples)):
        raise ArgumentError(
            f"data: expected {name} = {wanted}, as the model was trained on; found {given} (open the data so, or "
            "evaluate the model's .network, which does not know)"
        )
    training, variations = Training(method=method), variations or Variations()
    check_varied(samples, variations.rounds and variations.augmentation)
    began = time.perf_counter()
    likely = np.zeros((len(samples), network.classes))
    spikes, simulated = np.zeros(len(network.layers)), 0.0
    plain: Evaluation | None = None
    for epoch in range(1 + variations.rounds):
        varied = (
            {} if epoch == 0 else {"augmentation": variations.augmentation, "seed": variations.seed, "epoch": epoch}
        )
        for start in range(0, len(samples), size):
            batch = samples.batch(np.arange(start, min(start + size, len(samples))), **varied)
            noise = Noise(Streams(EVALUATION_NOISE, training.seed, epoch).seed, first=start)
            share = Share(network, batch.x, batch.labels, samples.dt, len(batch.labels), training, backend, noise)
            try:
                found_in_batch, fired = probabilities(share)
            except DivergenceError as error:
                raise ArgumentError(
                    f"network: expected one whose outputs are finite; found, from sample {start} on, {error} (weights "
                    "too large: of a training that diverged?)"
                ) from error
            likely[start : start + size] += found_in_batch
            simulated += len(batch.labels) * share.seconds
            spikes += fired
        if epoch in (0, variations.rounds):
            rates = tuple(
                float(fired / ((layer.size or 1) * simulated))
                for fired, layer in zip(spikes, network.layers, strict=True)
            )
            said = _said(likely / (1 + epoch), samples, rates, time.perf_counter() - began, 1 + epoch)
            plain = said if plain is None else replace(plain, averaged=said)
    assert plain is not None
    return plain


def _said(likely: np.ndarray, samples: Any, rates: tuple[float, ...], seconds: float, passes: int) -> Evaluation:
    """What class probabilities, (samples, classes), come to."""
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
        confusion=confusion_matrix(samples.labels, chosen, likely.shape[1]),
        predicted=chosen,
        rates=rates,
        seconds=seconds,
        passes=passes,
    )
