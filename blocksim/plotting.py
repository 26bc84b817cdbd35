"""Pictures of runs. Owns how spikes are drawn; matplotlib (the extra `plot`) is imported when the first is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from blocksim.errors import MissingLibraryError
from blocksim.files import written

SUFFIXES = (".png", ".pdf", ".svg")
SPIKE, RATE, GRID = "#1b3a5c", "#c8553d", "#d9d9d9"


def require_matplotlib() -> None:
    """Raise `MissingLibraryError` unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError(
            "plot: expected the library matplotlib, which is not installed; "
            "install it with: python -m pip install 'blocksim[plot]'"
        ) from error


def raster(times: np.ndarray, rows: np.ndarray, count: int, duration: float, *, label: str = "neuron") -> Any:
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
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5.2), dpi=130, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    # a bar as high as its row, so that dense and sparse rasters fill the same area
    height = 72 * 5.2 * 0.66 / max(count, 1)
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
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels()
    return figure


def plain_raster(times: np.ndarray, rows: np.ndarray, count: int, duration: float) -> str:
    """The raster alone as the text of an SVG file, without matplotlib; arguments as for `raster`.

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


def save(figure: Any, path: Path) -> None:
    """Write a figure; its format is the suffix: .png, .pdf or .svg."""
    with written(path) as part:
        figure.savefig(part)
