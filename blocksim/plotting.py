"""Plots of runs and responses. Owns how spikes are drawn; matplotlib, the extra `plot`, is imported when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._atomic_io import written
from blocksim._libraries import library
from blocksim.errors import ArgumentError
from blocksim.trains import SpikeTrains

SUFFIXES = (".png", ".pdf", ".svg")
SPIKE, RATE, GRID = "#1b3a5c", "#c8553d", "#d9d9d9"
COLOURS = (SPIKE, RATE, "#3d8c7a", "#c9a227")
# the style of our pictures, for pictures of one's own: plt.rcParams.update(STYLE)
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 130,
    "figure.figsize": (7.5, 3.6),
    "figure.facecolor": "white",
    "font.size": 11,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
}


def require_matplotlib() -> None:
    """Raise `MissingLibraryError` unless matplotlib is installed."""
    library("matplotlib", "plot", "plot")


def _drawn_in(figure: Any, width: float, height: float) -> Any:
    """The caller's figure, or a new one of this size in inches, which pyplot knows nothing of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout="constrained") if figure is None else figure


def raster(
    times: np.ndarray, rows: np.ndarray, count: int, duration: float, *, label: str = "neuron", figure: Any = None
) -> Any:
    """Raster of spikes, with the mean rate of all rows below.

    Parameters
    ----------
    times : (spikes,) array
        Spike times in ms.
    rows : (spikes,) integer array
        The row each spike belongs to, 0 .. count - 1.
    count : int
        Number of rows.
    duration : float
        Length of the time axis in ms.
    label : str
        What a row is.
    figure : matplotlib.figure.Figure or None
        An empty one to draw in, `plt.figure()` say, which `plt.show()` shows; None for a new one, to be saved.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> figure = raster(np.array([1.0, 4.0]), np.array([0, 1]), 2, 10.0)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['neuron', 'rate (Hz)']
    """
    require_matplotlib()
    from matplotlib.ticker import MaxNLocator

    figure = _drawn_in(figure, 9, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    # a bar as high as its row, so that dense and sparse rasters fill the same area
    height = 72 * figure.get_figheight() * 0.66 / max(count, 1)
    many = len(times) > 20_000
    top.plot(
        times,
        rows,
        linestyle="none",
        marker="|" if height > 1 else ".",
        markersize=min(max(0.9 * height, 2.5 if height > 1 else 0.8), 16),
        markeredgewidth=0.6 if many else 1.0,
        color=SPIKE,
        rasterized=many,
    )
    top.set_ylim(-0.6, count - 0.4)
    top.set_ylabel(label)
    top.yaxis.set_major_locator(MaxNLocator(6, integer=True))

    bins = int(np.clip(duration / 5, 20, 200))
    counts, edges = np.histogram(times, bins=bins, range=(0, duration))
    bottom.stairs(counts / count / ((edges[1] - edges[0]) / 1000), edges, color=RATE, fill=True, alpha=0.85)
    bottom.set_ylabel("rate (Hz)")
    bottom.set_xlabel("time (ms)")
    bottom.set_xlim(0, duration)
    bottom.set_ylim(bottom=0)
    for axes in (top, bottom):
        tidy(axes, "x")
    figure.align_ylabels()
    return figure


def learning_curve(history: Mapping[str, np.ndarray], best_epoch: int | None = None, *, figure: Any = None) -> Any:
    """Loss, accuracy and firing rates over the epochs of a training.

    Parameters
    ----------
    history : dict of arrays
        As `blocksim.training.fit` returns it.
    best_epoch : int or None
        An epoch to mark.
    figure : matplotlib.figure.Figure or None
        As for `raster`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> history = {"epoch": np.array([1, 2]), "loss": np.array([2.0, 1.0]), "accuracy": np.array([0.2, 0.6]),
    ...     "validation_loss": np.array([2.1, 1.2]), "validation_accuracy": np.array([0.2, 0.5]),
    ...     "rate_0": np.array([9.0, 11.0])}
    >>> [axes.get_ylabel() for axes in learning_curve(history, best_epoch=2).axes]
    ['loss', 'accuracy (%)', 'rate (Hz)']
    """
    require_matplotlib()
    from matplotlib.ticker import MaxNLocator

    figure = _drawn_in(figure, 9, 3.2)
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = history["epoch"]
    # a line of one point shows nothing
    marker = "." if len(epochs) < 20 else None
    for axes, name, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        axes.plot(epochs, scale * history[name], color=SPIKE, marker=marker, label="training")
        if not np.isnan(history[f"validation_{name}"]).all():
            axes.plot(epochs, scale * history[f"validation_{name}"], color=RATE, marker=marker, label="validation")
    accuracy.set_ylim(top=min(100.0, accuracy.get_ylim()[1]))
    layers = [name for name in history if name.startswith("rate_")]
    for number, name in enumerate(layers):
        style = ("-", "--", ":", "-.")[number % 4]
        rate.plot(epochs, history[name], color=SPIKE, marker=marker, linestyle=style, label=f"layer {number}")
    rate.set_ylim(bottom=0)
    for axes, label in ((loss, "loss"), (accuracy, "accuracy (%)"), (rate, "rate (Hz)")):
        axes.set_ylabel(label)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        tidy(axes, "both")
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.6", linewidth=0.8, linestyle=":", label="best epoch")
        axes.legend(frameon=False, fontsize="small")
    return figure


def confusion(matrix: np.ndarray, names: Sequence[str], *, figure: Any = None) -> Any:
    """A confusion matrix: rows are true classes, columns predicted ones; shades are shares of the row.

    Parameters
    ----------
    matrix : (C, C) integer array
        As `blocksim.classification.confusion_matrix` returns it.
    names : sequence of C str
        Names of the classes.
    figure : matplotlib.figure.Figure or None
        As for `raster`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> figure = confusion(np.array([[8, 2], [0, 10]]), ["zero", "one"])
    >>> figure.axes[0].get_xlabel(), [text.get_text() for text in figure.axes[0].texts]
    ('predicted', ['8', '2', '10'])
    """
    require_matplotlib()
    classes = len(matrix)
    figure = _drawn_in(figure, 2.2 + 0.36 * classes, 1.6 + 0.36 * classes)
    axes = figure.subplots()
    axes.grid(False)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    # numbers as long as they are legible
    for row, column in np.argwhere(matrix) if classes <= 35 else ():
        dark = shares[row, column] > 0.5
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize="small",
                  color="white" if dark else "black")  # fmt: skip
    axes.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(range(classes), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def f_i_curve(curves: Mapping[str, Any], *, figure: Any = None) -> Any:
    """Firing rate over the size of a step current, with the rates of first and last intervals.

    Parameters
    ----------
    curves : dict of FICurve
        By what each is called, "recorded" and "model" say; from `StepResponses.f_i_curve`.
    figure : matplotlib.figure.Figure or None
        As for `raster`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import Cell, step_responses
    >>> cell = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)
    >>> figure = f_i_curve({"model": step_responses(cell, np.arange(100, 500, 100)).f_i_curve()})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['rate (Hz)', '1 / interval (Hz)']
    """
    require_matplotlib()
    figure = _drawn_in(figure, 9, 3.8)
    left, right = figure.subplots(1, 2)
    for place, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[place % len(COLOURS)]
        columns = curve.table()
        left.plot(curve.amplitudes, curve.rate, color=colour, marker="o", markersize=4, label=name)
        if curve.rates.shape[1] > 1:
            spread = curve.rates.std(axis=1)
            left.fill_between(curve.amplitudes, curve.rate - spread, curve.rate + spread, color=colour, alpha=0.2, lw=0)
        for column, style, word in (("first_rate_hz", "-", "first"), ("last_rate_hz", "--", "last")):
            label = f"{name}, {word}"
            right.plot(curve.amplitudes, columns[column], color=colour, linestyle=style, marker="o", markersize=3,
                       label=label)  # fmt: skip
    left.set_ylabel("rate (Hz)")
    right.set_ylabel("1 / interval (Hz)")
    for axes in (left, right):
        axes.set_xlabel("step current (pA)")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize="small")
        tidy(axes, "both")
    return figure


def traces(
    voltage: np.ndarray, *, dt: float, spikes: Any = None, threshold: np.ndarray | None = None,
    current: np.ndarray | None = None, unit: str = "mV", figure: Any = None,
) -> Any:  # fmt: skip
    """Potentials over time, with spikes as bars on top of each, thresholds dotted, and the current below.

    Parameters
    ----------
    voltage : (S, T) or (T,) array
        Potentials, one below the other.
    dt : float
        Time step in ms.
    spikes : SpikeTrains, sequence of S arrays of times in ms, or None
    threshold : array of the potential's shape, or None
    current : (S, T) or (T,) array, or None
        In pA.
    unit : str
        Of the potential.
    figure : matplotlib.figure.Figure or None
        As for `raster`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    ArgumentError
        There are not as many trains as potentials.

    Examples
    --------
    >>> import numpy as np
    >>> figure = traces(np.zeros((2, 50)), dt=0.1, spikes=[np.array([1.0]), np.array([])], current=np.ones(50))
    >>> len(figure.axes)
    3
    """
    require_matplotlib()
    rows = np.atleast_2d(voltage)
    trains = None if spikes is None else SpikeTrains.of(spikes)
    if trains is not None and len(trains) != len(rows):
        raise ArgumentError(f"spikes: expected a train for each of {len(rows)} potentials; found {len(trains)}")
    given = None if current is None else np.atleast_2d(current)
    time = np.arange(rows.shape[1]) * dt
    figure = _drawn_in(figure, 9, 1.2 + 1.5 * len(rows) + (1.2 if given is not None else 0))
    heights = [2.0] * len(rows) + [1.0] * (given is not None)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for place, (ax, trace) in enumerate(zip(axes, rows, strict=False)):
        ax.plot(time, trace, color=SPIKE, linewidth=0.8)
        if threshold is not None:
            ax.plot(time, np.atleast_2d(threshold)[place], color=RATE, linewidth=0.8, linestyle=":")
        if trains is not None:
            ax.eventplot(trains[place], lineoffsets=0.97, linelengths=0.06, colors=RATE, linewidths=1,
                         transform=ax.get_xaxis_transform())  # fmt: skip
        ax.set_ylabel(unit)
    if given is not None:
        for row in given:
            axes[-1].plot(time, row, color=SPIKE, linewidth=0.8)
        axes[-1].set_ylabel("pA")
    axes[-1].set_xlabel("time (ms)")
    axes[-1].set_xlim(0, rows.shape[1] * dt)
    for ax in axes:
        tidy(ax, "x")
    figure.align_ylabels()
    return figure


def plain_raster(times: np.ndarray, rows: np.ndarray, count: int, duration: float) -> str:
    """The raster alone as the text of an SVG file, without matplotlib.

    Parameters
    ----------
    times, rows, count, duration
        As for `raster`.

    Examples
    --------
    >>> "ms" in plain_raster(np.array([1.0, 4.0]), np.array([0, 1]), 2, 10.0)
    True
    """
    left, top, width, height = 60, 20, 900, 420
    row = height / count
    bars = "".join(
        f"M{left + width * time / duration:.1f} {top + height - row * (number + 0.9):.1f}v{0.8 * row:.1f}"
        for time, number in zip(times, rows, strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 100} {height + 80}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<path d="{bars}" stroke="{SPIKE}" stroke-width="1.2"/>'
        f'<path d="M{left} {top}v{height}h{width}" stroke="black" fill="none"/>'
        f'<text x="{left}" y="{top + height + 20}">0</text>'
        f'<text x="{left + width}" y="{top + height + 20}" text-anchor="middle">{duration:g}</text>'
        f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">time (ms)</text>'
        f'<text x="{left - 8}" y="{top + height}" text-anchor="end">0</text>'
        f'<text x="{left - 8}" y="{top + 12}" text-anchor="end">{count - 1}</text>'
        f'<text transform="translate({left - 30} {top + height / 2}) rotate(-90)" text-anchor="middle">neuron</text>'
        "</svg>\n"
    )


def tidy(axes: Any, grid: str) -> None:
    """Draw thin lines behind the data along "x", "y" or "both" of the axes, and no frame above and to the right."""
    axes.grid(axis=grid, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Any, path: Path) -> None:
    """Write a figure; its format is the suffix: .png, .pdf or .svg.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : str or Path
        A name that ends in .png, .pdf or .svg. Written whole or not at all.

    Raises
    ------
    FileError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from blocksim.plotting import raster, save
    >>> figure = raster(np.array([1.0, 4.0]), np.array([0, 1]), count=2, duration=10.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(figure, Path(folder) / "raster.png")
    """
    with written(path) as part:
        figure.savefig(part)
