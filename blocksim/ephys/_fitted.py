"""Fitted cells as neurons of the simulator: one cell many times, many cells side by side, cells from files of fits.

Owns the way from a cell in pA and mV to a layer and back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blocksim._atomic_io import named
from blocksim._layer import Layer
from blocksim._parameters import held, settings, with_values
from blocksim._validation import flag, found, milliseconds
from blocksim._validation import precision as checked_precision
from blocksim.ephys._fitting.model import Cell
from blocksim.ephys._gif.cell import GIFCell
from blocksim.ephys._gif.result import GIFFit, read_fit
from blocksim.errors import ArgumentError


class Neurons(NamedTuple):
    """Equal neurons of a cell, which share one current.

    Attributes
    ----------
    layer : Layer
        Without input weights: its input is the current in pA, times `gain`.
    gain : float
    offset, scale : float
        A potential or threshold of the layer is `offset` + `scale` times it, in mV.
    unit : str
        "mV", or "1" where the cell's potential has no scale.
    """

    layer: Layer
    gain: float
    offset: float
    scale: float
    unit: str


class FittedCell(NamedTuple):
    """What `load_cell` returns.

    Attributes
    ----------
    cell : Cell or GIFCell
    dt : float
        Time step in ms that it was fitted with.
    """

    cell: Cell | GIFCell
    dt: float


def load_cell(path: str | Path) -> FittedCell:
    """The cell of a fit that `blocksim fit` wrote as `fit.json`, or `GIFFit.save`.

    Parameters
    ----------
    path : str or Path
        The file, or the folder that `blocksim fit` wrote.

    Returns
    -------
    FittedCell
        (cell, dt): the cell, and the time step in ms that it was fitted with.

    Raises
    ------
    ArgumentError
        `path` is no name of a file or folder.
    FileError
        It cannot be read, or is no file of a fit.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from blocksim.ephys import GIFCell, GIFConfig, Recording, fit_gif, load_cell
    >>> rng = np.random.default_rng(0)
    >>> current = 150 + 120 * np.repeat(rng.normal(size=(1, 2000)), 10, axis=1)
    >>> true = GIFCell(capacitance=100, conductance=8, rest=-70, reset=-60, threshold=-48, width=1.5, refractory=4)
    >>> spikes = true.sample(current[0], dt=0.5, repeats=1, seed=1)
    >>> voltage = true.impose(current, spikes.to_steps(0.5, 20_000) > 0, dt=0.5).potential
    >>> fit = fit_gif(Recording(current, voltage, 2000, spikes), GIFConfig(model="lif"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fit.save(Path(folder) / "fit.json")
    ...     cell, dt = load_cell(folder)
    >>> cell == fit.cell, dt
    (True, 0.5)
    """
    path = named(path)
    return read_fit(path / "fit.json" if os.path.isdir(path) else path, "the result of a fit, fit.json", _cell_of)


def _cell_of(saved: Mapping[str, Any]) -> FittedCell:
    if saved.get("kind") == "gif":
        gif = GIFFit.from_dict(saved)
        return FittedCell(gif.cell, gif.dt)
    return FittedCell(Cell(**saved["cell"]), milliseconds("dt", saved["dt"]))


def neurons_of(cell: Cell | GIFCell, dt: float, repeats: int = 1, dtype: Any = np.float64) -> Neurons:
    """A cell as that many neurons; without noise they are equal, and one is enough."""
    check_cell(cell)
    kind = checked_precision("dtype", dtype)
    if isinstance(cell, GIFCell):
        return Neurons(Layer(cell.neuron(dt, repeats, kind)), cell.gain(dt), cell.rest, 1.0, "mV")
    one = cell.layer(dt, kind, "nearest")
    assert one.weights is not None
    layer = Layer(_stacked([one.neuron] * repeats), bias=np.repeat(np.ravel(one.bias), repeats))  # type: ignore[arg-type]
    gain = float(one.weights[0, 0])
    if cell.reset_mv is None or cell.scale_mv is None:
        return Neurons(layer, gain, 0.0, 1.0, "1")
    return Neurons(layer, gain, cell.reset_mv, cell.scale_mv, "mV")


def population(cells: Sequence[Cell | GIFCell], dt: float, *, shared: bool = False, dtype: Any = np.float64) -> Layer:
    """Fitted cells as one layer, a neuron each.

    Parameters
    ----------
    cells : sequence of Cell, or of GIFCell
        GIF cells of one structure: the same number of currents, thresholds and knots, all with noise or all without, as
        those that were fitted with the same settings.
    dt : float
        Time step in ms.
    shared : bool
        Whether all neurons have one current.
    dtype : numpy dtype
        Computing precision.

    Returns
    -------
    Layer
        Of N neurons. Its N inputs are their currents in pA; with `shared` its one input is the current of all. The
        potentials of GIF cells are in mV above each neuron's rest, those of others in the unit of `Cell`.

    Raises
    ------
    ArgumentError
        There are no cells, or they are of several kinds or structures.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import simulate
    >>> from blocksim.ephys import Cell, population
    >>> cells = [Cell(tau_mem=tau, tau_adapt=100, adaptation=0.3, gain=0.01, bias=0, refractory=3) for tau in (10, 20)]
    >>> layer = population(cells, dt=0.1, shared=True)
    >>> run = simulate(layer, np.full((5000, 1), 200.0), backend="numpy")
    >>> run.spikes.sum(axis=0).tolist()
    [19, 14]
    """
    given: list[Any] = list(cells) if isinstance(cells, (list, tuple)) else [cells]
    if not given:
        raise ArgumentError("cells: expected at least one; found none")
    kinds = {type(check_cell(cell)) for cell in given}
    if len(kinds) > 1:
        raise ArgumentError("cells: expected all of one kind, Cell or GIFCell; found both")
    made = [neurons_of(cell, dt, 1, dtype) for cell in given]
    kind = checked_precision("dtype", dtype)
    gains = np.array([each.gain for each in made], kind)
    biases = [0.0 if each.layer.bias is None else float(np.ravel(each.layer.bias)[0]) for each in made]
    bias = np.array(biases, kind) if any(biases) else None
    weights = gains[None] if flag("shared", shared) else np.diag(gains)
    return Layer(_stacked([each.layer.neuron for each in made]), weights, bias)


def check_cell(cell: Any) -> Cell | GIFCell:
    """The cell, or raise."""
    if not isinstance(cell, (Cell, GIFCell)):
        raise ArgumentError(f"cell: expected a Cell or a GIFCell of blocksim.ephys; found {found(cell)}")
    return cell


def _stacked(neurons: Sequence[Any]) -> Any:
    """Single neurons as one set of neurons, where all have the same parts."""
    structures = [_structure(each) for each in neurons]
    for number, structure in enumerate(structures):
        if structure != structures[0]:
            raise ArgumentError(
                f"cells: expected all of one structure, as fits with the same settings have it; found that of cell "
                f"{number} to differ from that of cell 0"
            )
    values = [held(each) for each in neurons]
    return with_values(
        neurons[0],
        {name: np.array([np.ravel(each[name].value)[0] for each in values]) for name in values[0]},
    )


def _structure(neuron: Any) -> Any:
    components = getattr(neuron, "components", ())
    return list(held(neuron)), settings(neuron), [(type(each).__name__, settings(each)) for each in components]
