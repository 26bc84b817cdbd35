"""Samples to train on: an `EventDataset`, or arrays in memory with the same interface; and what is held out of them.

Owns that face, whether a network and samples fit together, and the split of the training samples. Nothing here draws
a random number that does not follow from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from blocksim._events import Events
from blocksim._network import Network
from blocksim._validation import finite, found, milliseconds, real_array
from blocksim.classification import class_labels
from blocksim.data import Batch, EventDataset, split
from blocksim.errors import ArgumentError
from blocksim.trains import steps_of


class ArraySamples:
    """Samples in memory: any input that `simulate` takes, with labels.

    Parameters
    ----------
    x : Events, or array (n, T, K)
        Spikes, or real values.
    labels : (n,) integer array
    dt : float
        Step in ms.
    """

    groups: np.ndarray | None = None
    name = "the arrays"

    def __init__(self, x: Any, labels: Any, dt: float = 1.0) -> None:
        if not isinstance(x, Events):
            x = real_array("x", x)
            if x.ndim != 3 or 0 in x.shape:
                raise ArgumentError(f"x: expected a non-empty array (samples, time, inputs); found {found(x)}")
            finite("x", x)
        self.x = x
        self.labels = class_labels("labels", labels, x.shape[0], None)
        self.dt = milliseconds("dt", dt)
        self.channels = int(x.shape[2])
        self.class_names = tuple(str(label) for label in range(int(self.labels.max()) + 1))

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Any) -> ArraySamples:
        """The samples of those indices, in that order."""
        part = object.__new__(ArraySamples)
        part.__dict__ = {**self.__dict__, "x": _taken(self.x, np.asarray(indices)), "labels": self.labels[indices]}
        return part

    def batch(self, indices: Any, *, augmentation: Any = None, seed: int = 0, epoch: int = 0) -> Batch:
        """The samples of those indices, in that order."""
        check_varied(self, augmentation)
        indices = np.asarray(indices)
        return Batch(_taken(self.x, indices), self.labels[indices], indices)


def as_samples(name: str, data: Any, network: Network) -> Any:
    """An `EventDataset` as it is; (x, labels, dt) or (x, labels), at the network's step or 1 ms, as `ArraySamples`."""
    if isinstance(data, (EventDataset, ArraySamples)):
        return data
    if isinstance(data, (list, tuple)) and len(data) in (2, 3):
        x, labels, dt = (*data, network.dt or 1.0)[:3]
        return ArraySamples(x, labels, dt)
    raise ArgumentError(
        f"{name}: expected a blocksim.data.EventDataset, or (x, labels), or (x, labels, dt); found "
        f"{type(data).__name__}"
    )


def check_samples(name: str, network: Network, samples: Any) -> None:
    """Raise `ArgumentError` where samples have other channels, classes or another step than the network."""
    if network.inputs is not None and network.inputs != samples.channels:
        raise ArgumentError(
            f"{name}: expected {network.inputs} channels, the network's inputs; found {samples.channels}"
        )
    if samples.labels.max() >= network.classes:
        raise ArgumentError(
            f"{name}: expected labels from 0 to {network.classes - 1}, the network's classes; found "
            f"{samples.labels.max()}"
        )
    if network.dt is not None and not math.isclose(network.dt, samples.dt, rel_tol=1e-9):
        raise ArgumentError(
            f"{name}: expected dt = {network.dt:g} ms, which the network was made or trained for; found "
            f"{samples.dt:g} ms (its time constants are in steps; dataclasses.replace(network, dt={samples.dt:g}) says "
            "that they fit)"
        )


def check_varied(samples: Any, augmentation: Any) -> None:
    """Raise `ArgumentError` where samples cannot be varied: arrays hold no times of events."""
    if augmentation and isinstance(samples, ArraySamples):
        raise ArgumentError("augmentation: expected a blocksim.data.EventDataset for it; found arrays")


def binning_of(samples: Any) -> dict[str, Any]:
    """How samples were binned: `EventDataset.binning`, or the step alone of arrays."""
    return samples.binning if isinstance(samples, EventDataset) else {"dt": samples.dt}


def other_binning(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where two binnings differ: name, wanted value and found value; what one of them does not say is not compared."""

    def plain(binning: Mapping[str, Any], name: str) -> Any:
        value = binning[name]
        return tuple(steps_of(np.asarray(value, np.float64), float(found["dt"]))) if name == "delays" else value

    names = [name for name in found if name in wanted]
    if wanted.get("dt", found["dt"]) != found["dt"]:
        names = ["dt"]  # what else differs may follow from it
    return [(name, wanted[name], found[name]) for name in names if plain(wanted, name) != plain(found, name)]


def held_out(samples: Any, share: float, by: str, seed: int) -> tuple[Any, Any]:
    """Samples that train, and those held out: None for a share of 0. As `blocksim.data.split` does it."""
    if share == 0:
        return samples, None
    try:
        return split(samples, share, by=by, seed=seed)
    except ArgumentError as error:
        raise ArgumentError(f"validation: {error}") from error


def _taken(x: Any, indices: np.ndarray) -> Any:
    """Samples of x, in any order."""
    if not isinstance(x, Events):
        return x[indices]
    _, time, inputs = x.shape
    parts = [slice(x.indptr[sample * time], x.indptr[(sample + 1) * time]) for sample in indices]
    counts = np.diff(x.indptr).reshape(-1, time)[indices].ravel()
    taken = np.concatenate([x.indices[part] for part in parts])
    return Events.trusted(np.concatenate([[0], np.cumsum(counts)]), taken, (len(indices), time, inputs))


def part_of(x: Any, start: int, stop: int) -> Any:
    """Samples start .. stop of a batch."""
    return x.samples(start, stop) if isinstance(x, Events) else x[start:stop]
