"""Pictures of runs, layers, trainings and fits, one function for each. Owns how they are drawn; files are `save`'s.

Every function draws in the axes that it is given, or in new ones, and returns them. Nothing is set but what is drawn,
its labels and limits: colours are those of the caller's style. Only where no style was chosen, that is where the colour
cycle is matplotlib's default, new axes look as our pictures do. matplotlib, the extra `plot`, is imported when needed.
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
