"""Held-out parts of a data set, for choices made without the test file: `split` and `folds`."""

from __future__ import annotations

import numpy as np

from blocksim._validation import choice, found, number, whole_number
from blocksim.data._dataset import EventDataset
from blocksim.data._randomness import SPLIT, Streams
from blocksim.errors import ArgumentError

BY = ("sample", "group")


def split(
    dataset: EventDataset, fraction: float, *, by: str = "sample", seed: int = 0
) -> tuple[EventDataset, EventDataset]:
    """Part a data set into what is kept for training and what is held out, at random.

    Parameters
    ----------
    dataset : EventDataset
    fraction : float
        How much is held out, above 0 and below 1: of the samples, or of the groups, to the nearest whole number but at
        least one, and never all.
    by : "sample" or "group"
        "sample": stratified, the same share of every class as nearly as whole numbers allow. "group": whole groups, so
        that no speaker is in both parts.
    seed : int
        0 or more. Together with the number of samples and the labels, it decides which samples are taken.

    Returns
    -------
    kept, held_out : EventDataset
        Subsets, in the data set's order.

    Raises
    ------
    ArgumentError
        A fraction out of range, fewer than two samples or groups, or no groups.

    Examples
    --------
    >>> from blocksim.data import from_lists, split
    >>> data = from_lists([[]] * 8, [[]] * 8, labels=[0, 0, 0, 0, 1, 1, 1, 1], channels=1)
    >>> kept, held_out = split(data, 0.25)
    >>> held_out.labels
    array([0, 1])
    """
    _check(dataset)
    fraction = number("fraction", fraction, above=0, below=1)
    rng = Streams(SPLIT, seed).generator()
    if choice("by", by, BY) == "group":
        groups, numbers = _groups(dataset)
        taken = rng.permutation(groups)[: _count(fraction, len(groups), "groups")]
        held_out = np.isin(numbers, taken)
    else:
        total = _count(fraction, len(dataset), "samples")
        _, classes, sizes = np.unique(dataset.labels, return_inverse=True, return_counts=True)
        shares = fraction * sizes
        takes = np.floor(shares).astype(int)
        # what is left of the whole goes to the classes that lost most by rounding down
        for label in np.argsort(takes - shares, kind="stable")[: max(total - takes.sum(), 0)]:
            takes[label] += 1
        held_out = _rank_in_class(classes, rng) < takes[classes]
    return dataset.subset(np.flatnonzero(~held_out)), dataset.subset(np.flatnonzero(held_out))


def folds(
    dataset: EventDataset, k: int | None = None, *, by: str = "group", seed: int = 0
) -> list[tuple[EventDataset, EventDataset]]:
    """Part a data set k times such that every sample is held out once: cross-validation.

    Parameters
    ----------
    dataset : EventDataset
    k : int or None
        Number of folds, 2 or more; None: as many as there are groups, each held out in turn (leave one speaker out).
    by : "group" or "sample"
        "group": whole groups, dealt to the folds at random. "sample": stratified; k must be given.
    seed : int
        0 or more.

    Returns
    -------
    list of (kept, held_out)
        As `split` returns them.

    Raises
    ------
    ArgumentError
        More folds than there are groups or samples, or no groups.

    Examples
    --------
    >>> from blocksim.data import folds, from_lists
    >>> data = from_lists([[]] * 4, [[]] * 4, labels=[0, 1, 0, 1], channels=1, groups=[3, 3, 5, 5])
    >>> [held_out.groups.tolist() for kept, held_out in folds(data)]
    [[3, 3], [5, 5]]
    """
    _check(dataset)
    if k is not None:
        k = whole_number("k", k, 2)
    if choice("by", by, BY) == "group":
        groups, numbers = _groups(dataset)
        _enough("groups", len(groups), k or 2)
        order = groups if k is None else Streams(SPLIT, seed).generator().permutation(groups)
        fold_of_group = {int(group): place % (k or len(groups)) for place, group in enumerate(order)}
        fold = np.array([fold_of_group[int(group)] for group in numbers])
    else:
        if k is None:
            raise ArgumentError("k: expected a number of folds for by='sample'; found None")
        _enough("samples", len(dataset), k)
        _, classes, sizes = np.unique(dataset.labels, return_inverse=True, return_counts=True)
        # class after class is dealt round, so that folds differ by one sample at most
        starts = np.cumsum(sizes) - sizes
        fold = (starts[classes] + _rank_in_class(classes, Streams(SPLIT, seed).generator())) % k
    return [
        (dataset.subset(np.flatnonzero(fold != one)), dataset.subset(np.flatnonzero(fold == one)))
        for one in range(int(fold.max()) + 1)
    ]


def _rank_in_class(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order within each class: (n,) of 0, 1, ..."""
    ranks = np.empty(len(classes), dtype=np.int64)
    for label in range(int(classes.max()) + 1):
        members = np.flatnonzero(classes == label)
        ranks[rng.permutation(members)] = np.arange(len(members))
    return ranks


def _check(dataset: EventDataset) -> None:
    # training has a kind of its own, of arrays
    if not all(hasattr(dataset, name) for name in ("labels", "groups", "subset")):
        raise ArgumentError(f"dataset: expected an EventDataset; found {found(dataset)}")


def _groups(dataset: EventDataset) -> tuple[np.ndarray, np.ndarray]:
    if dataset.groups is None:
        raise ArgumentError(f"by: expected 'sample', as {dataset.name} names no groups; found 'group'")
    return np.unique(dataset.groups), dataset.groups


def _count(fraction: float, total: int, what: str) -> int:
    _enough(what, total, 2)
    return min(max(round(fraction * total), 1), total - 1)


def _enough(what: str, there: int, needed: int) -> None:
    if there < needed:
        raise ArgumentError(f"dataset: expected at least {needed} {what} to part it by; found {there}")
