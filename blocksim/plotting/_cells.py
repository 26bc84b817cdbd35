"""Pictures of cells, recorded and modelled: traces, f-I curves, residuals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from blocksim._validation import finite, found, milliseconds, real_array
from blocksim.errors import ArgumentError
from blocksim.plotting._sheet import align, legend, sheet_of, text
from blocksim.plotting._spikes import MAX_PANELS
from blocksim.trains import SpikeTrains, checked_window, near_spikes

STRETCHES, LEVELS, BARS = 1000, 30, 60  # of residuals: over time, over the potential, in the histogram
BAND = (5.0, 50.0, 95.0)  # per cent of them


def traces(
    voltage: np.ndarray, *, dt: float, spikes: Any = None, threshold: np.ndarray | None = None,
    components: Mapping[str, np.ndarray] | None = None, current: np.ndarray | None = None, unit: str = "mV",
    axes: Any = None, figure: Any = None,
) -> tuple[Any, ...]:  # fmt: skip
    """Potentials over time, with spikes as bars on top of each, thresholds dotted, components and the current below.

    Parameters
    ----------
    voltage : (S, T) or (T,) array
        Potentials, one below the other.
    dt : float
        Time step in ms.
    spikes : SpikeTrains, sequence of S arrays of times in ms, or None
    threshold : array of the potential's shape, or None
    components : dict of arrays of the potential's shape, or None
        What else the neurons hold, by name: after-spike currents, adaptation. All in one panel. A run does not record
        its components; simulate in pieces, and take them from the `state` of each piece.
    current : (S, T) or (T,) array, or None
        In pA.
    unit : str
        Of the potential.
    axes : matplotlib Axes, sequence of them, or None
        To draw in, one for each potential, then one for components, then one for the current. None: new ones.
    figure : matplotlib Figure or None
        As for `raster`.

    Returns
    -------
    tuple of matplotlib Axes
        Those that were drawn in, in this order.

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    ArgumentError
        There are not as many trains or axes as potentials, or arrays differ in shape.

    Examples
    --------
    >>> import numpy as np
    >>> adaptation = np.exp(-np.arange(50) / 20)
    >>> axes = traces(np.zeros(50), dt=0.1, spikes=[[1.0]], components={"adaptation": adaptation}, current=np.ones(50))
    >>> [ax.get_ylabel() for ax in axes]
    ['mV', 'components', 'pA']
    """
    rows = _rows("voltage", voltage)
    dt, unit = milliseconds("dt", dt), text("unit", unit)
    if len(rows) > MAX_PANELS:
        raise ArgumentError(f"voltage: expected at most {MAX_PANELS} potentials; found {len(rows)}")
    trains = None if spikes is None else SpikeTrains.of(spikes)
    if trains is not None and len(trains) != len(rows):
        raise ArgumentError(f"spikes: expected a train for each of {len(rows)} potentials; found {len(trains)}")
    thresholds = None if threshold is None else _rows("threshold", threshold, rows.shape)
    if components is not None and not isinstance(components, Mapping):
        raise ArgumentError(f"components: expected a dict of arrays by name; found {found(components)}")
    others = {str(name): _rows(f"components[{name!r}]", each, rows.shape) for name, each in (components or {}).items()}
    given = None if current is None else _rows("current", current, (None, rows.shape[1]))
    below = [1.0] * (bool(others) + (given is not None))
    panels = len(rows) + len(below)
    sheet = sheet_of(
        axes, figure, (9, 1.2 + 1.5 * len(rows) + 1.2 * len(below)), panels, panels,
        nrows=panels, sharex=True, height_ratios=[2.0] * len(rows) + below,
    )  # fmt: skip
    time = np.arange(rows.shape[1]) * dt
    for place, (ax, trace) in enumerate(zip(sheet.axes, rows, strict=False)):
        ax.plot(time, trace, color=sheet.colour(0), linewidth=0.8)
        if thresholds is not None:
            ax.plot(time, thresholds[place], color=sheet.colour(1), linewidth=0.8, linestyle=":")
        if trains is not None:
            ax.eventplot(trains[place], lineoffsets=0.97, linelengths=0.06, colors=sheet.colour(1), linewidths=1,
                         transform=ax.get_xaxis_transform())  # fmt: skip
        ax.set_ylabel(unit)
    if others:
        ax = sheet.axes[len(rows)]
        for number, (name, array) in enumerate(others.items()):
            for place, row in enumerate(array):
                ax.plot(time, row, color=sheet.colour(number), linewidth=0.8, label=None if place else name)
        ax.set_ylabel("components")
        legend(ax, sheet, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=len(others))
    if given is not None:
        for row in given:
            sheet.axes[-1].plot(time, row, color=sheet.colour(0), linewidth=0.8)
        sheet.axes[-1].set_ylabel("pA")
    for ax in sheet.axes:
        ax.set_xlim(0, rows.shape[1] * dt)
    sheet.axes[-1].set_xlabel("time (ms)")
    sheet.tidy("x")
    align(sheet)
    return sheet.axes


def f_i_curve(curves: Mapping[str, Any], *, axes: Any = None, figure: Any = None) -> tuple[Any, ...]:
    """Firing rate over the size of a step current, with the rates of first and last intervals.

    Parameters
    ----------
    curves : dict of FICurve
        Curves by name, such as "recorded" and "model", from `StepResponses.f_i_curve`.
    axes : matplotlib Axes, sequence of them, or None
        To draw in: one for the rate alone, two for the intervals also. None: new ones.
    figure : matplotlib Figure or None
        As for `raster`.

    Returns
    -------
    tuple of matplotlib Axes
        Rate, intervals: those that were drawn in.

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    ArgumentError
        The curves are no dict of FICurve, or the axes are none, or more than two.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import Cell, step_responses
    >>> cell = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)
    >>> axes = f_i_curve({"model": step_responses(cell, np.arange(100, 500, 100)).f_i_curve()})
    >>> [ax.get_ylabel() for ax in axes]
    ['rate (Hz)', '1 / interval (Hz)']
    """
    if not isinstance(curves, Mapping) or not all(hasattr(curve, "amplitudes") for curve in curves.values()):
        raise ArgumentError(f"curves: expected f-I curves by name, a dict of FICurve; found {found(curves)}")
    sheet = sheet_of(axes, figure, (9, 3.8), 2, nrows=1, ncols=2)
    for place, (name, curve) in enumerate(curves.items()):
        colour = sheet.colour(place)
        columns = curve.table()
        left = sheet.axes[0]
        left.plot(curve.amplitudes, curve.rate, color=colour, marker="o", markersize=4, label=name)
        if curve.rates.shape[1] > 1:
            spread = curve.rates.std(axis=1)
            left.fill_between(curve.amplitudes, curve.rate - spread, curve.rate + spread, color=colour, alpha=0.2, lw=0)
        for right in sheet.axes[1:]:
            for column, style, word in (("first_rate_hz", "-", "first"), ("last_rate_hz", "--", "last")):
                label = f"{name}, {word}"
                right.plot(curve.amplitudes, columns[column], color=colour, linestyle=style, marker="o", markersize=3,
                           label=label)  # fmt: skip
    for ax, label in zip(sheet.axes, ("rate (Hz)", "1 / interval (Hz)"), strict=False):
        ax.set_ylabel(label)
        ax.set_xlabel("step current (pA)")
        ax.set_ylim(bottom=0)
        legend(ax, sheet)
    sheet.tidy("both")
    return sheet.axes


def residuals(
    recording: Any, potential: np.ndarray, *, spikes: Any = None, window: tuple[float, float] = (2.0, 8.0),
    axes: Any = None, figure: Any = None,
) -> tuple[Any, ...]:  # fmt: skip
    """What a model leaves of a recorded potential away from spikes: recorded less modelled, in mV.

    Over time, drift shows, and what the model lacks after spikes or at steps. Over the modelled potential, a bend shows
    where the membrane is not linear, and a slope where the resistance is wrong. The histogram shows how large they are.
    Lines are medians, and bands hold 90 %, over all sweeps together.

    Parameters
    ----------
    recording : Recording
    potential : (sweeps, T) array
        Modelled, in mV, with the recording's current; (T,) for one sweep. With recorded spikes imposed, as by
        `GIFCell.impose`, it is what a fit compares; for a simulation, pass its spikes too.
    spikes : SpikeTrains, sequence of arrays of times in ms, or None
        Spikes of the model, near which potentials do not count either.
    window : (float, float)
        How far from a spike potentials do not count: ms before, ms after.
    axes : matplotlib Axes, sequence of them, or None
        To draw in: over time, over the potential, histogram, as many of these as there are axes. None: new ones.
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
        Recording, potential and spikes do not fit together, or no potential is away from spikes.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import Recording
    >>> recording = Recording(np.zeros(500), np.full(500, -65.0), 1000, [[100.0]])
    >>> axes = residuals(recording, np.full(500, -66.0))
    >>> axes[0].get_title()
    'residual: mean 1 mV, rms 1 mV'
    """
    if not all(hasattr(recording, name) for name in ("voltage", "spikes", "dt", "sweeps", "steps")):
        raise ArgumentError(f"recording: expected a Recording; found {found(recording)}")
    modelled = _rows("potential", real_array("potential", potential, "mV"), recording.voltage.shape)
    finite("potential", modelled)
    window = checked_window("window", window)
    trains = [recording.spikes] if spikes is None else [recording.spikes, SpikeTrains.of(spikes)]
    counted = np.ones(modelled.shape, np.bool_)
    for some in trains:
        if len(some) != len(modelled):
            raise ArgumentError(f"spikes: expected a train for each of {len(modelled)} sweeps; found {len(some)}")
        counted &= ~near_spikes(some, window, recording.dt, recording.steps)
    if not counted.any():
        raise ArgumentError(
            f"window: expected potentials further from spikes than {window[0]:g} ms before, {window[1]:g} ms after; "
            "found none"
        )
    left = np.where(counted, recording.voltage - modelled, np.nan)
    every = left[counted]
    low, high = np.percentile(every, (0.1, 99.9))
    sheet = sheet_of(axes, figure, (11, 3.6), 3, nrows=1, ncols=3, sharey=True, width_ratios=[3, 1.6, 0.8])
    line, band = sheet.colour(0), {"color": sheet.colour(0), "alpha": 0.25, "linewidth": 0}

    each = -(-left.shape[1] // STRETCHES)  # steps of a stretch
    stretches = -(-left.shape[1] // each)
    padded = np.full((len(left), stretches * each), np.nan)
    padded[:, : left.shape[1]] = left
    number = np.broadcast_to(np.arange(stretches * each) // each, padded.shape)
    bands = [_percentiles(padded.ravel(), number.ravel(), stretches)]
    places = [(np.arange(stretches) + 0.5) * each * recording.dt]
    if len(sheet.axes) > 1:
        levels = modelled[counted]
        lowest, highest = _apart(*np.percentile(levels, (0.1, 99.9)))
        edges = np.linspace(lowest, highest, LEVELS + 1)
        number = np.digitize(levels, edges) - 1
        inside = (number >= 0) & (number < LEVELS)
        bands.append(_percentiles(every[inside], number[inside], LEVELS))
        places.append((edges[1:] + edges[:-1]) / 2)
    for ax, place, (lower, median, upper) in zip(sheet.axes, places, bands, strict=False):
        ax.fill_between(place, lower, upper, **band)
        ax.plot(place, median, color=line, linewidth=0.9)
    for ax in sheet.axes[2:]:
        ends = _apart(min(low, 0), max(high, 0))
        ax.hist(every, BARS, range=ends, orientation="horizontal", density=True, color=line)
    for ax, label in zip(sheet.axes, ("time (ms)", "modelled potential (mV)", "density (1/mV)"), strict=False):
        ax.axhline(0, color="0.4", linewidth=0.8)
        ax.set_xlabel(label)
    first = sheet.axes[0]
    first.set_ylabel("recorded less modelled (mV)")
    first.set_title(f"residual: mean {every.mean():.3g} mV, rms {np.sqrt(np.mean(every**2)):.3g} mV")
    first.set_xlim(0, left.shape[1] * recording.dt)
    sheet.tidy("y")
    return sheet.axes


def _rows(name: str, value: Any, shape: tuple[int | None, ...] | None = None) -> np.ndarray:
    """Traces as an array (S, T), checked; of this shape, where None stands for any length."""
    array = np.atleast_2d(real_array(name, value))
    if array.ndim != 2 or 0 in array.shape:
        raise ArgumentError(f"{name}: expected a non-empty array (T,) or (S, T); found {found(array)}")
    if shape is not None and any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
        words = ", ".join("any" if want is None else str(want) for want in shape)
        raise ArgumentError(f"{name}: expected an array of shape ({words}), to fit the potential; found {found(array)}")
    return array


def _apart(low: float, high: float) -> tuple[float, float]:
    """Ends of an axis that has a length, also where all values are one."""
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _percentiles(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """(3, count): the `BAND` of the values in each group; NaN where there are none. NaN among values is left out."""
    there = ~np.isnan(values)
    values, groups = values[there], groups[there]
    order = np.argsort(groups, kind="stable")
    ends = np.searchsorted(groups[order], np.arange(count + 1))
    result = np.full((len(BAND), count), np.nan)
    for group, (start, stop) in enumerate(pairwise(ends)):
        if stop > start:
            result[:, group] = np.percentile(values[order[start:stop]], BAND)
    return result
