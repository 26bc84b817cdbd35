"""Accuracy and confusion matrix of a classifier, from scores or predicted classes.

Owns these counts; losses that are differentiated are `blocksim.losses`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from blocksim._validation import finite, found, real_array, whole_number
from blocksim.errors import ArgumentError

MAX_CLASSES = 30_000  # of a confusion matrix, which has their square


def class_labels(argument: str, labels: Any, number: int | None, classes: int | None) -> np.ndarray:
    """Check labels: (B,) whole numbers from 0 to classes - 1, as int64."""
    array = real_array(argument, labels)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (number is not None and len(array) != number):
        length = "" if number is None else f" of length {number}, one a sample"
        raise ArgumentError(
            f"{argument}: expected a one-dimensional array of class numbers{length}; found {found(array)}"
        )
    if array.size and (array.min() < 0 or (classes is not None and array.max() >= classes)):
        worst = array.min() if array.min() < 0 else array.max()
        upper = "" if classes is None else f" to {classes - 1}"
        raise ArgumentError(f"{argument}: expected class numbers from 0{upper}; found {worst}")
    return array.astype(np.int64)


def class_scores(argument: str, scores: Any) -> np.ndarray:
    """Check scores: a non-empty, finite (B, C) array of real numbers."""
    array = real_array(argument, scores)
    if array.ndim != 2 or 0 in array.shape:
        raise ArgumentError(f"{argument}: expected a non-empty array (samples, classes); found {found(array)}")
    finite(argument, array)
    return array


def accuracy(scores: Any, labels: Any) -> float:
    """Share of samples whose highest score is that of their label; among equal scores the first counts.

    Parameters
    ----------
    scores : (B, C) array
        One score for each sample and class.
    labels : (B,) integer array
        True classes, 0 to C - 1.

    Raises
    ------
    ArgumentError
        The scores are no finite, non-empty (B, C) array; or the labels are not B integers from 0 to C - 1.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.classification import accuracy
    >>> accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    0.5
    """
    array = class_scores("scores", scores)
    return float((array.argmax(axis=1) == class_labels("labels", labels, *array.shape)).mean())


def confusion_matrix(labels: Any, predicted: Any, classes: int | None = None) -> np.ndarray:
    """How often each true class was predicted as each class.

    Parameters
    ----------
    labels, predicted : (B,) integer arrays
        True and predicted classes.
    classes : int or None
        Number of classes; None for one more than the highest there is.

    Returns
    -------
    (C, C) int64 array
        Row: true class, column: predicted class.

    Raises
    ------
    ArgumentError
        The arrays are not one-dimensional, not of integers, or differ in length; a class is below 0, or not below
        `classes`; or `classes` is no whole number in its range.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.classification import confusion_matrix
    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]))
    array([[1, 1],
           [0, 1]])
    """
    count = None if classes is None else whole_number("classes", classes, 1, MAX_CLASSES)
    true = class_labels("labels", labels, None, count)
    guess = class_labels("predicted", predicted, len(true), count)
    if count is None:
        highest = int(max(true.max(initial=-1), guess.max(initial=-1)))
        count = whole_number("labels: number of classes", highest + 1, 0, MAX_CLASSES)
    return np.bincount(true * count + guess, minlength=count * count).reshape(count, count)
