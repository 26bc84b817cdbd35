"""The state of a training: everything that its continuation depends on, in memory and in a file.

Owns what a checkpoint holds. A checkpoint is a model file of the current network that also holds the state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._array_io import plain
from blocksim._network import Network
from blocksim._validation import number, whole_number
from blocksim.errors import FileError
from blocksim.models import Model, load_model, save_model
from blocksim.optimisers import Arrays, OptimiserState


@dataclass(frozen=True)
class Totals:
    """Sums over the batches of an epoch so far.

    Attributes
    ----------
    samples : int
    loss : float
        Sum over samples.
    correct : int
    spikes : tuple of float
        Of each layer.
    simulated : float
        Samples times their duration in s.
    norm : float
        Sum of the gradients' norms.
    batches : int
    seconds : float
        Time that was spent.
    """

    samples: int = 0
    loss: float = 0.0
    correct: int = 0
    spikes: tuple[float, ...] = ()
    simulated: float = 0.0
    norm: float = 0.0
    batches: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Best:
    """The best epoch so far: its number, its score (greater is better), and the parameters after it."""

    epoch: int
    score: tuple[float, ...]
    free: Arrays = field(repr=False)


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Where a training stands.

    Attributes
    ----------
    epoch, batch : int
        Epochs that are done, and batches of the one after them.
    free : dict of arrays
        Trained parameters, each as the free numbers of its transform.
    optimiser : OptimiserState
    totals : Totals
        Of the epoch that is not done.
    best : Best or None
    history : tuple of dict
        A record of each epoch.
    """

    epoch: int
    batch: int
    free: Arrays
    optimiser: OptimiserState
    totals: Totals
    best: Best | None
    history: tuple[dict[str, Any], ...]

    def check_follows(self, path: Path, first: TrainingState, batches: int) -> None:
        """Raise `FileError` unless this state, read from a file, can have come of a first one.

        Parameters
        ----------
        path : Path
            Of the file.
        first : TrainingState
            Before the first step of the same training.
        batches : int
            An epoch's.
        """
        problem = None
        parts = [("parameters", self.free, first.free)]
        parts += [("parameters of the best epoch", self.best.free, first.free)] if self.best else []
        if set(self.optimiser.moments) != set(first.optimiser.moments):
            problem = f"moments {', '.join(self.optimiser.moments) or 'none'}"
        else:
            parts += [(f"{name} moments", each, first.optimiser.moments[name])
                      for name, each in self.optimiser.moments.items()]  # fmt: skip
        for what, arrays, expected in parts:
            shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
            if shapes != {name: (array.shape, array.dtype) for name, array in expected.items()}:
                problem = f"{what} of other names, shapes or dtypes"
            elif not all(np.isfinite(array).all() for array in arrays.values()):
                problem = f"{what} that are not finite"
        layers = 0 if not self.totals.batches else len(self.totals.spikes)
        if len(self.history) != self.epoch or not 0 <= self.batch <= batches or self.totals.batches != self.batch:
            problem = f"epoch {self.epoch} and batch {self.batch} beside other records"
        elif self.optimiser.step != self.epoch * batches + self.batch:
            problem = f"step {self.optimiser.step} in epoch {self.epoch}, batch {self.batch}"
        elif self.history and layers not in (0, sum(name.startswith("rate_") for name in self.history[0])):
            problem = f"spikes of {layers} layers"
        if problem is not None:
            raise FileError(f"{path}: expected the checkpoint of this training; found one with {problem} (damaged)")


def save_state(
    path: Path, network: Network, state: TrainingState, info: Mapping[str, Any], description: Mapping[str, Any]
) -> None:
    """Write a checkpoint: the network as it is, and the state; whole or not at all."""
    best = state.best
    meta = {
        "epoch": state.epoch,
        "batch": state.batch,
        "totals": vars(state.totals),
        "history": plain(state.history),
        "best": None if best is None else {"epoch": best.epoch, "score": best.score},
        "description": description,
    }
    extra = {f"free/{name}": array for name, array in state.free.items()}
    extra |= {f"optimiser/{name}": array for name, array in state.optimiser.to_arrays().items()}
    extra |= {f"best/{name}": array for name, array in (best.free if best else {}).items()}
    save_model(path, network, {**info, "checkpoint": meta}, extra)


def load_state(path: Path) -> tuple[TrainingState, dict[str, Any], Model]:
    """Read a checkpoint: the state, the training's description, and the model it is of.

    Raises
    ------
    FileError
        As `load_model`, or the file holds a model alone, or no whole state beside it.
    """
    model = load_model(path)
    meta = model.info.get("checkpoint")
    if meta is None:
        raise FileError(f"{path}: expected the checkpoint of a training; found a model alone")

    def part(prefix: str) -> Arrays:
        return {name.removeprefix(prefix): array for name, array in model.extra.items() if name.startswith(prefix)}

    try:
        best = meta["best"]
        state = TrainingState(
            epoch=whole_number("epoch", meta["epoch"], 0),
            batch=whole_number("batch", meta["batch"], 0),
            free=part("free/"),
            optimiser=OptimiserState.from_arrays(part("optimiser/")),
            totals=_totals(meta["totals"]),
            best=None
            if best is None
            else Best(
                whole_number("best epoch", best["epoch"], 1),
                tuple(number("score", value) for value in best["score"]),
                part("best/"),
            ),
            history=tuple(
                {name: math.nan if value is None else _checked(name, value) for name, value in record.items()}
                for record in meta["history"]
            ),
        )
        for record in state.history:
            whole_number("epoch", record["epoch"] if record.keys() == state.history[0].keys() else None, 1)
        description = {**meta["description"], "training": dict(meta["description"]["training"])}
        return state, description, model
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            f"{path}: expected the checkpoint of a training; found one whose parts do not make a state "
            f"({type(error).__name__}: {error})"
        ) from error


def _checked(name: str, value: Any) -> Any:
    number(name, value)
    return value


def _totals(stored: Mapping[str, Any]) -> Totals:
    kinds = {item.name: item.type for item in fields(Totals)}
    values: dict[str, Any] = {
        name: whole_number(name, value, 0) if kinds[name] == "int" else number(name, value)
        for name, value in stored.items()
        if name != "spikes"
    }
    return Totals(**values, spikes=tuple(number("spikes", value) for value in stored["spikes"]))


def record_of(
    state: TrainingState, neurons: tuple[int, ...], rate: float, validation: tuple[float, float]
) -> dict[str, Any]:
    """The record of the epoch whose last batch is done: means of its totals; rates in Hz."""
    totals = state.totals
    rates = {
        f"rate_{layer}": spikes / (size * totals.simulated)
        for layer, (spikes, size) in enumerate(zip(totals.spikes, neurons, strict=True))
    }
    return {
        "epoch": state.epoch + 1,
        "loss": totals.loss / totals.samples,
        "accuracy": totals.correct / totals.samples,
        "validation_loss": validation[0],
        "validation_accuracy": validation[1],
        **rates,
        "learning_rate": rate,
        "gradient_norm": totals.norm / totals.batches,
        "samples_per_s": totals.samples / max(totals.seconds, 1e-9),
        "seconds": totals.seconds,
    }


def columns_of(history: tuple[dict[str, Any], ...]) -> dict[str, np.ndarray]:
    """The history as columns."""
    return {name: np.array([record[name] for record in history]) for name in (history[0] if history else ())}
