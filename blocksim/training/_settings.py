"""The settings of a training: every choice that its result depends on, as one frozen `Training`, described in JSON.

Owns the defaults and the checks of these choices; how they are carried out is `blocksim.training._trainer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np

from blocksim._network import Network
from blocksim._options import check_choices
from blocksim._validation import choice, found, instance, items, number, whole_number
from blocksim.data import Augmentation
from blocksim.errors import ArgumentError
from blocksim.optimisers import AdamW, Optimiser, is_named
from blocksim.schedules import Cosine, Schedule
from blocksim.surrogates import Surrogate
from blocksim.transforms import Transform

LOSSES = ("cross_entropy", "mean_squared_count")
SCHEDULES = ("cosine", "constant")
DEFAULT_OPTIMISER = AdamW(1e-2, weight_decay=0.01)


@dataclass(frozen=True)
class RatePenalty:
    """A cost on firing rates outside a range, equation (22), added to the loss.

    Parameters
    ----------
    strength : float
        What one squared Hz costs, above 0.
    lower, upper : float
        The range in Hz.
    layers : tuple of int or None
        Which layers, from 0 on; None for all.
    over : {"batch", "sample"}
        Whether the mean rate over the batch must lie within the range, or that in every sample.

    Raises
    ------
    ArgumentError
        The strength is not above 0, the range is not 0 <= lower <= upper, `layers` is empty or not of whole numbers, or
        `over` is unknown.

    Examples
    --------
    >>> from blocksim.training import RatePenalty
    >>> RatePenalty(1e-3, lower=0.5, upper=50)
    RatePenalty(strength=0.001, lower=0.5, upper=50.0, layers=None, over='batch')
    """

    strength: float
    lower: float = 0.0
    upper: float = math.inf
    layers: tuple[int, ...] | None = None
    over: str = "batch"

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "strength", number("strength", self.strength, above=0))
        set_field(self, "lower", number("lower", self.lower, least=0))
        if not (isinstance(self.upper, float) and self.upper == math.inf):
            set_field(self, "upper", number("upper", self.upper, least=self.lower))
        if self.layers is not None:
            layers = items("layers", self.layers, "numbers of layers")
            set_field(self, "layers", tuple(whole_number("layers", layer, 0) for layer in layers))
        choice("over", self.over, ("batch", "sample"))


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Parameters
    ----------
    epochs : int
        Passes through the training samples, at most.
    batch_size : int
        Samples a step; the last of an epoch holds what is left.
    optimiser : SGD, Adam or AdamW
        Of `blocksim.optimisers`, with the (highest) learning rate, or a schedule of its own in steps.
    schedule : {"cosine", "constant"}
        How a learning rate that is a number changes over the whole training.
    warmup : float
        Share of all steps in which the learning rate rises from 0, with "cosine"; from 0 to below 1.
    clip_norm : float or None
        Largest norm of the gradient of all trained parameters together.
    loss : {"cross_entropy", "mean_squared_count"} or callable
        Of the network's output and the labels. A callable is given a `NetworkRun` and (B,) labels, and returns a
        `BatchLoss`: the mean over its samples.
    label_smoothing : float
        Of the cross-entropy.
    wanted_counts : (float, float)
        Spikes that "mean_squared_count" wants of the neuron of the right class, and of the others.
    penalties : tuple of RatePenalty
        Added to the loss.
    trained : tuple of str
        Names of trained parameters, as in `Network.parameters`; `*` stands for any text.
    transforms : dict of Transform
        Reparametrisation by name; the first pattern that fits counts, then those of beta and p (`Decay`, 0.5 to 1e4
        and 1e5 steps), of theta (`Positive`), and of parameters of components, synapses and noise that have a range.
        Others are free.
    surrogate, gradient, detach, method, tape
        As for `blocksim.simulate`.
    validation : float
        Share of the samples, from 0 to below 1, held out of training: they choose the best epoch.
    validation_by : {"sample", "group"}
        What is held out: samples of each class, or all samples of some groups, such as speakers.
    monitor : {"accuracy", "loss"}
        By which the best epoch is chosen, on the held-out samples; equal accuracies by the loss.
    patience : int or None
        Epochs without a better one after which training stops; None: never.
    augmentation : blocksim.data.Augmentation or None
        How training samples are varied.
    shares : int
        Parts into which each batch is split, differentiated one by one, and summed in order. More than one needs less
        memory, or runs on several machines; the result is the same to rounding.
    seed : int
        Of the order of samples, of augmentation, of the split and of stochastic spikes.

    Raises
    ------
    ArgumentError
        A choice is out of range, or unknown.

    Examples
    --------
    >>> from blocksim.optimisers import AdamW
    >>> from blocksim.training import Training
    >>> Training(epochs=10, optimiser=AdamW(1e-3)).batch_size
    32
    """

    epochs: int = 60
    batch_size: int = 32
    optimiser: Optimiser = DEFAULT_OPTIMISER
    schedule: str = "cosine"
    warmup: float = 0.05
    clip_norm: float | None = 1.0
    loss: str | Callable[..., Any] = "cross_entropy"
    label_smoothing: float = 0.0
    wanted_counts: tuple[float, float] = (20.0, 2.0)
    penalties: tuple[RatePenalty, ...] = ()
    trained: tuple[str, ...] = ("*.weights", "*.recurrent", "*.bias")
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    surrogate: str | Surrogate | None = None
    gradient: str = "standard"
    detach: tuple[str, ...] | str = ("reset",)
    method: str = "blocks"
    tape: bool | str = True
    validation: float = 0.1
    validation_by: str = "sample"
    monitor: str = "accuracy"
    patience: int | None = None
    augmentation: Augmentation | None = None
    shares: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        for name, least in (("epochs", 1), ("batch_size", 1), ("shares", 1), ("seed", 0)):
            set_field(self, name, whole_number(name, getattr(self, name), least))
        if self.patience is not None:
            set_field(self, "patience", whole_number("patience", self.patience, 1))
        if not isinstance(self.optimiser, Optimiser):
            raise ArgumentError(f"optimiser: expected one of blocksim.optimisers; found {found(self.optimiser)}")
        choice("schedule", self.schedule, SCHEDULES)
        for name in ("warmup", "label_smoothing", "validation"):
            set_field(self, name, number(name, getattr(self, name), least=0, below=1))
        if self.clip_norm is not None:
            set_field(self, "clip_norm", number("clip_norm", self.clip_norm, above=0))
        if not callable(self.loss):
            choice("loss", self.loss, LOSSES)
        counts = items("wanted_counts", self.wanted_counts, "two counts, of the right class and of the others", 2)
        set_field(self, "wanted_counts", tuple(number("wanted_counts", count, least=0) for count in counts))
        given: Any = (self.penalties,) if isinstance(self.penalties, RatePenalty) else self.penalties
        none = isinstance(given, (tuple, list)) and not given
        penalties = () if none else items("penalties", given, "RatePenalty objects")
        for penalty in penalties:
            if not isinstance(penalty, RatePenalty):
                raise ArgumentError(f"penalties: expected RatePenalty objects; found {found(penalty)}")
        set_field(self, "penalties", penalties)
        trained: Any = self.trained
        names = (trained,) if isinstance(trained, str) else trained
        set_field(self, "trained", items("trained", names, "names of parameters, * for any text"))
        instance("transforms", self.transforms, Mapping, "a dict of blocksim.transforms by name")
        for name, transform in self.transforms.items():
            if not isinstance(transform, Transform):
                raise ArgumentError(
                    f"transforms: expected one of blocksim.transforms for {name}; found {found(transform)}"
                )
        set_field(self, "transforms", dict(self.transforms))
        check_choices(self)
        choice("validation_by", self.validation_by, ("sample", "group"))
        choice("monitor", self.monitor, ("accuracy", "loss"))
        if self.augmentation is not None and not isinstance(self.augmentation, Augmentation):
            raise ArgumentError(
                f"augmentation: expected a blocksim.data.Augmentation or None; found {found(self.augmentation)}"
            )

    def scheduled(self, steps: int) -> Optimiser:
        """The optimiser with its learning rate over a training of so many steps.

        Raises
        ------
        ArgumentError
            `steps` is below 1, and the schedule is a cosine.
        """
        rate = self.optimiser.learning_rate
        if self.schedule == "constant" or isinstance(rate, Schedule):
            return self.optimiser
        return replace(self.optimiser, learning_rate=Cosine(rate, steps, int(self.warmup * steps)))

    def transforms_of(self, network: Network) -> dict[str, Transform | None]:
        """How each parameter of a network is reparametrised; None: it is free.

        Returns
        -------
        dict
            By the names of `Network.parameters`: the `Transform` that `transforms` gives, else the network's own; None
            where the parameter is free.
        """
        return {
            name: next((given for pattern, given in self.transforms.items() if is_named(name, [pattern])), own)
            for name, own in network.transforms().items()
        }


def described(value: Any) -> Any:
    """A value as JSON can say it: dataclasses as objects with their type's name, callables by their names."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | {
            item.name: described(getattr(value, item.name)) for item in fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return value
