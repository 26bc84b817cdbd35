"""Where pictures are drawn: the caller's axes or new ones, in which colours, and the files they are written to.

Owns the style of new axes, and `save`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blocksim._atomic_io import written
from blocksim._libraries import library
from blocksim._validation import found, instance, items
from blocksim.errors import ArgumentError

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


class Sheet(NamedTuple):
    """Where a picture is drawn, and in which colours."""

    axes: tuple[Any, ...]
    colours: tuple[str, ...]
    ours: bool  # new axes, and no style that the caller has chosen

    def colour(self, number: int) -> str:
        return self.colours[number % len(self.colours)]

    def tidy(self, grid: str) -> None:
        """Our look, where it is ours to choose."""
        for ax in self.axes if self.ours else ():
            tidy(ax, grid)


def sheet_of(
    axes: Any, figure: Any, size: tuple[float, float], panels: int = 1, least: int = 1, **layout: Any
) -> Sheet:  # fmt: skip
    """The caller's axes, or so many new ones: in the caller's figure, or in one of this size in inches.

    pyplot knows nothing of a figure made here. `layout` goes to `Figure.subplots`.
    """
    require_matplotlib()
    from matplotlib import rcParams, rcParamsDefault
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    cycle, default = (each["axes.prop_cycle"].by_key().get("color") for each in (rcParams, rcParamsDefault))
    colours = tuple(cycle or [rcParams["lines.color"]])
    if axes is not None:
        if figure is not None:
            raise ArgumentError("axes, figure: expected one of them; found both")
        number = f"{least} to {panels}" if least < panels else f"{panels}"
        what = f"matplotlib axes, {number} of them"
        given = (
            (axes,)
            if isinstance(axes, Axes)
            else items("axes", axes.flat if isinstance(axes, np.ndarray) else axes, what)
        )
        if not least <= len(given) <= panels or not all(isinstance(ax, Axes) for ax in given):
            raise ArgumentError(f"axes: expected {what}; found {found(axes)}")
        return Sheet(given, colours, ours=False)
    ours = cycle in (default, list(COLOURS))
    if figure is None:
        figure = Figure(figsize=size, layout="constrained", dpi=STYLE["figure.dpi"] if ours else None)
    elif not isinstance(figure, FigureBase):
        raise ArgumentError(f"figure: expected a matplotlib figure; found {found(figure)}")
    return Sheet(tuple(figure.subplots(squeeze=False, **layout).flat), COLOURS if ours else colours, ours)


def one_panel(ax: Any, figure: Any, size: tuple[float, float]) -> Sheet:
    """A sheet of a single panel."""
    if ax is not None and not hasattr(ax, "plot"):
        raise ArgumentError(f"ax: expected matplotlib axes; found {found(ax)}")
    return sheet_of(ax, figure, size)


def text(name: str, value: Any) -> str:
    return str(instance(name, value, str, "a string"))


def legend(ax: Any, sheet: Sheet, **options: Any) -> None:
    """The legend of a small panel, if anything in it has a name."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small", **({"frameon": False} if sheet.ours else {}), **options)


def align(sheet: Sheet) -> None:
    """Labels of panels of our own in a line."""
    if len({ax.figure for ax in sheet.axes}) == 1:
        sheet.axes[0].figure.align_ylabels(sheet.axes)


def tidy(axes: Any, grid: str) -> None:
    """Draw thin lines behind the data along "x", "y" or "both" of the axes, and no frame above and to the right."""
    axes.grid(axis=grid, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def figure_of(drawn: Any) -> Any:
    """The figure that axes are in, or the figure itself.

    Parameters
    ----------
    drawn : matplotlib Axes, tuple of them, or Figure
        What the functions here return.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ArgumentError
        It is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.plotting import figure_of, rates
    >>> len(figure_of(rates(np.array([1.0]), 1, 10.0)).axes)
    1
    """
    figure: Any = drawn[0] if isinstance(drawn, tuple) and drawn else drawn
    while not hasattr(figure, "savefig") and getattr(figure, "figure", None) is not None:  # axes, parts of a figure
        figure = figure.figure
    if not hasattr(figure, "savefig"):
        raise ArgumentError(f"drawn: expected matplotlib axes or a figure; found {found(drawn)}")
    return figure


def save(drawn: Any, path: str | Path) -> None:
    """Write a picture; its format is the suffix: .png, .pdf or .svg.

    Parameters
    ----------
    drawn : matplotlib Axes, tuple of them, or Figure
        What the functions here return: the whole figure is written.
    path : str or Path
        A name that ends in .png, .pdf or .svg. Written whole or not at all.

    Raises
    ------
    ArgumentError
        Nothing was drawn, or the name has another suffix.
    FileError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from blocksim.plotting import raster, save
    >>> axes = raster(np.array([1.0, 4.0]), np.array([0, 1]), count=2, duration=10.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(axes, Path(folder) / "raster.png")
    """
    figure = figure_of(drawn)
    if not isinstance(path, (str, Path)) or Path(path).suffix.lower() not in SUFFIXES:
        raise ArgumentError(f"path: expected a file name that ends in {', '.join(SUFFIXES)}; found {found(path)}")
    with written(path) as part:
        figure.savefig(part)
