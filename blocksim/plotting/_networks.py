"""Pictures of networks: weights, the learning curve of a training, the confusion of a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blocksim._validation import MAX_SIZE, choice, finite, found, items, real_array, whole_number
from blocksim.errors import ArgumentError
from blocksim.plotting._sheet import legend, one_panel, sheet_of


def weights(weights: Any, *, name: str | None = None, ax: Any = None) -> Any:
    """A matrix of weights: rows are presynaptic, columns postsynaptic neurons; blank where there is no connection.

    The colour scale is symmetric: 0 is its middle, and its ends are the largest size of a weight.

    Parameters
    ----------
    weights : (K, N) array, sparse matrix of SciPy, Connection or Layer
        Blank is where a sparse matrix stores nothing, a Connection has nothing `present`, or an array has NaN.
    name : str or None
        Which matrix of a Layer that has several: "weights" or "inputs.0", "inputs.1", ..., "recurrent" or
        "recurrent.0", ...; as in `Layer.parameters`, without ".weights".
    ax : matplotlib Axes or None
        To draw in; None for new ones. The colour bar takes some of their place.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    ArgumentError
        There is no matrix, several and no name, or none of this name; or a weight is infinite.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import LIF, Layer
    >>> layer = Layer(LIF(beta=0.9), weights=np.ones((3, 2)), recurrent=[[0.0, -2.0], [1.0, 0.0]])
    >>> ax = weights(layer, name="recurrent")
    >>> ax.get_ylabel(), ax.get_xlabel(), ax.images[0].get_clim()
    ('from neuron', 'to neuron', (-2.0, 2.0))
    """
    matrix, source = _matrix(weights, name)
    sheet = one_panel(ax, None, _around(matrix.shape))
    from matplotlib.ticker import MaxNLocator

    ax = sheet.axes[0]
    ax.grid(False)  # which would lie over the picture
    largest = float(np.abs(matrix).max()) if matrix.count() else 0.0
    limit = largest or 1.0
    image = ax.imshow(matrix, cmap="coolwarm", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.set_ylabel(f"from {source}")
    ax.set_xlabel("to neuron")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    ax.figure.colorbar(image, ax=ax, label="weight")
    return ax


def _matrix(weights: Any, name: str | None) -> tuple[np.ma.MaskedArray[Any, Any], str]:
    """The matrix to draw, masked where there is no connection, and what its rows are."""
    source = "neuron"
    if hasattr(weights, "input_connections"):  # a layer: what is imported here knows nothing of them
        of_layer = {
            **({} if weights.weights is None else {"weights": weights.weights}),
            **{f"inputs.{place}": each for place, each in enumerate(weights.input_connections)},
            **{f"recurrent.{place}": each for place, each in enumerate(weights.recurrent_connections)},
        }
        if weights.recurrent is not None and not weights.recurrent_connections:
            of_layer["recurrent"] = weights.recurrent
        if not of_layer:
            raise ArgumentError("weights: expected a Layer with weights; found one without")
        chosen = next(iter(of_layer)) if name is None and len(of_layer) == 1 else choice("name", name, of_layer)
        weights, source = of_layer[chosen], "neuron" if chosen.startswith("recurrent") else "input"
    elif name is not None:
        raise ArgumentError(f"name: expected None unless weights are a Layer; found {found(name)}")
    present = getattr(weights, "present", None)
    if hasattr(weights, "delay_steps"):  # a connection
        weights = weights.weights
    elif hasattr(weights, "tocoo"):
        stored = weights.tocoo()
        present = np.zeros(stored.shape, np.bool_)
        present[stored.row, stored.col] = True
        weights = weights.toarray()
    array = real_array("weights", weights)
    if array.ndim != 2 or 0 in array.shape:
        raise ArgumentError(f"weights: expected a matrix (from, to), a Connection or a Layer; found {found(array)}")
    blank = np.isnan(array) if present is None else ~present
    finite("weights", np.where(blank, 0, array))
    return np.ma.masked_array(array, blank), source


def _around(shape: tuple[int, ...]) -> tuple[float, float]:
    """Width and height in inches of a picture of a matrix, in its proportions as far as these are legible."""
    width = float(np.clip(4.5 * np.sqrt(shape[1] / shape[0]), 2.5, 8))
    height = float(np.clip(4.5 * np.sqrt(shape[0] / shape[1]), 2.5, 8))
    return width + 1.6, height + 0.6


def learning_curve(
    history: Mapping[str, np.ndarray], best_epoch: int | None = None, *, axes: Any = None, figure: Any = None
) -> tuple[Any, ...]:
    """Loss, accuracy and firing rates over the epochs of a training.

    Parameters
    ----------
    history : dict of arrays
        As `blocksim.training.fit` returns it.
    best_epoch : int or None
        An epoch to mark.
    axes : matplotlib Axes, sequence of them, or None
        To draw in: loss, accuracy, rates, as many of these as there are axes. None: new ones.
    figure : matplotlib Figure or None
        As for `raster`.

    Returns
    -------
    tuple of matplotlib Axes
        Those that were drawn in.

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    ArgumentError
        The history lacks a column, or the axes are none, or more than three.

    Examples
    --------
    >>> import numpy as np
    >>> history = {"epoch": np.array([1, 2]), "loss": np.array([2.0, 1.0]), "accuracy": np.array([0.2, 0.6]),
    ...     "validation_loss": np.array([2.1, 1.2]), "validation_accuracy": np.array([0.2, 0.5]),
    ...     "rate_0": np.array([9.0, 11.0])}
    >>> [ax.get_ylabel() for ax in learning_curve(history, best_epoch=2)]
    ['loss', 'accuracy (%)', 'rate (Hz)']
    """
    needed = ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy")
    if not isinstance(history, Mapping) or not set(needed) <= set(history):
        missing = [name for name in needed if name not in history] if isinstance(history, Mapping) else []
        wrong = f"one without {', '.join(missing)}" if missing else found(history)
        raise ArgumentError(f"history: expected the history of a training; found {wrong}")
    if best_epoch is not None:
        best_epoch = whole_number("best_epoch", best_epoch, 0, MAX_SIZE)
    sheet = sheet_of(axes, figure, (9, 3.2), 3, nrows=1, ncols=3)
    from matplotlib.ticker import MaxNLocator

    epochs = history["epoch"]
    # a line of one point shows nothing
    marker = "." if len(epochs) < 20 else None
    for ax, name, scale in zip(sheet.axes, ("loss", "accuracy"), (1, 100), strict=False):
        ax.plot(epochs, scale * history[name], color=sheet.colour(0), marker=marker, label="training")
        if not np.isnan(history[f"validation_{name}"]).all():
            ax.plot(
                epochs, scale * history[f"validation_{name}"], color=sheet.colour(1), marker=marker, label="validation"
            )
    for ax in sheet.axes[1:2]:
        ax.set_ylim(top=min(100.0, ax.get_ylim()[1]))
    for ax in sheet.axes[2:]:
        for number, name in enumerate(name for name in history if name.startswith("rate_")):
            style = ("-", "--", ":", "-.")[number % 4]
            ax.plot(
                epochs, history[name], color=sheet.colour(0), marker=marker, linestyle=style, label=f"layer {number}"
            )
        ax.set_ylim(bottom=0)
    for ax, label in zip(sheet.axes, ("loss", "accuracy (%)", "rate (Hz)"), strict=False):
        ax.set_ylabel(label)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if best_epoch is not None:
            ax.axvline(best_epoch, color="0.6", linewidth=0.8, linestyle=":", label="best epoch")
        legend(ax, sheet)
    sheet.tidy("both")
    return sheet.axes


def confusion(matrix: np.ndarray, names: Sequence[str], *, ax: Any = None, figure: Any = None) -> Any:
    """A confusion matrix: rows are true classes, columns predicted ones; shades are shares of the row.

    Parameters
    ----------
    matrix : (C, C) integer array
        As `blocksim.classification.confusion_matrix` returns it.
    names : sequence of C str
        Names of the classes.
    ax : matplotlib Axes or None
        To draw in; None for new ones.
    figure : matplotlib Figure or None
        As for `raster`.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    ArgumentError
        The matrix is not square, holds other numbers than counts, or has not as many rows as there are names.

    Examples
    --------
    >>> import numpy as np
    >>> ax = confusion(np.array([[8, 2], [0, 10]]), ["zero", "one"])
    >>> ax.get_xlabel(), [text.get_text() for text in ax.texts]
    ('predicted', ['8', '2', '10'])
    """
    matrix = real_array("matrix", matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size or matrix.dtype.kind not in "iu":
        raise ArgumentError(f"matrix: expected counts, an integer array (classes, classes); found {found(matrix)}")
    classes = len(matrix)
    words = [str(name) for name in items("names", names, f"{classes} names of classes", classes)]
    sheet = one_panel(ax, figure, (2.2 + 0.36 * classes, 1.6 + 0.36 * classes))
    ax = sheet.axes[0]
    ax.grid(False)  # which would lie over the picture
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    # numbers as long as they are legible
    for row, column in np.argwhere(matrix) if classes <= 35 else ():
        dark = shares[row, column] > 0.5
        ax.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize="small",
                color="white" if dark else "black")  # fmt: skip
    ax.set_xticks(range(classes), words, rotation=90 if max(map(len, words)) > 2 else 0)
    ax.set_yticks(range(classes), words)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    return ax
