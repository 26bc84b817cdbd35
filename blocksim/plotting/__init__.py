"""Pictures of runs, layers, trainings and fits, one function for each. Owns how they are drawn; files are `save`'s.

Every function draws in the axes that it is given, or in new ones, and returns them. It sets only what it draws, the
labels and the limits; colours come from the caller's style. Only if no style was chosen, that is if the colour cycle is
matplotlib's default, do new axes look as our pictures do. matplotlib, the extra `plot`, is imported when needed.
"""

from blocksim.plotting._cells import f_i_curve, residuals, traces
from blocksim.plotting._networks import confusion, learning_curve, weights
from blocksim.plotting._sheet import (
    COLOURS,
    GRID,
    RATE,
    SPIKE,
    STYLE,
    SUFFIXES,
    figure_of,
    require_matplotlib,
    save,
    tidy,
)
from blocksim.plotting._spikes import plain_raster, raster, rates

__all__ = [
    "COLOURS",
    "GRID",
    "RATE",
    "SPIKE",
    "STYLE",
    "SUFFIXES",
    "confusion",
    "f_i_curve",
    "figure_of",
    "learning_curve",
    "plain_raster",
    "raster",
    "rates",
    "require_matplotlib",
    "residuals",
    "save",
    "tidy",
    "traces",
    "weights",
]
