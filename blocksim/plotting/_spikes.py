"""Pictures of spikes: a raster with its rate, rates alone, and a raster without matplotlib."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from blocksim._validation import MAX_SIZE, finite, found, milliseconds, real_array, whole_number
from blocksim.errors import ArgumentError
from blocksim.plotting._sheet import SPIKE, align, one_panel, sheet_of, text

MAX_PANELS = 100


def raster(
    times: np.ndarray, rows: np.ndarray, count: int, duration: float, *, label: str = "neuron", title: str = "",
    axes: Any = None, figure: Any = None,
) -> tuple[Any, ...]:  # fmt: skip
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
    title : str
        Title above the picture; by default none.
    axes : matplotlib Axes, sequence of them, or None
        To draw in: one for the spikes alone, two for the rate also. None: new ones.
    figure : matplotlib Figure or None
        An empty figure for the new axes, such as `plt.figure()`, which `plt.show()` then shows. None: a new figure that
        pyplot does not know; the axes have it as their `figure`.

    Returns
    -------
    tuple of matplotlib Axes
        Spikes, rate: those that were drawn in.

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    ArgumentError
        Times and rows differ in length, a row is not among `count`, or the axes are none, or more than two.

    Examples
    --------
    >>> import numpy as np
    >>> axes = raster(np.array([1.0, 4.0]), np.array([0, 1]), 2, 10.0)
    >>> [ax.get_ylabel() for ax in axes]
    ['neuron', 'rate (Hz)']
    """
    times, rows, count, duration = _raster_of(times, rows, count, duration)
    label, title = text("label", label), text("title", title)
    sheet = sheet_of(axes, figure, (9, 5.2), 2, nrows=2, sharex=True, height_ratios=[3.2, 1])
    from matplotlib.ticker import MaxNLocator

    top = sheet.axes[0]
    # a bar as high as its row, so that dense and sparse rasters fill the same area
    height = 72 * top.bbox.height / top.figure.dpi / count
    height *= 1.2 if axes is None else 1.0  # by the layout, when it is drawn
    many = len(times) > 20_000
    top.plot(
        times,
        rows,
        linestyle="none",
        marker="|" if height > 1 else ".",
        markersize=min(max(0.9 * height, 2.5 if height > 1 else 0.8), 16),
        markeredgewidth=0.6 if many else 1.0,
        color=sheet.colour(0),
        rasterized=many,
    )
    top.set_xlim(0, duration)
    top.set_ylim(-0.6, count - 0.4)
    top.set_ylabel(label)
    top.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    if title:
        top.set_title(title)
    if len(sheet.axes) > 1:
        _draw_rates(sheet.axes[1], sheet.colour(1), times, count, duration)
    sheet.axes[-1].set_xlabel("time (ms)")
    sheet.tidy("x")
    align(sheet)
    return sheet.axes


def rates(times: np.ndarray, count: int, duration: float, *, width: float | None = None, ax: Any = None) -> Any:
    """Firing rate over time: the mean over trains, in bins.

    Parameters
    ----------
    times : (spikes,) array
        Spike times in ms, of all trains together.
    count : int
        Number of trains: neurons, or repetitions.
    duration : float
        Length of the time axis in ms.
    width : float or None
        Width of a bin in ms. None: 5 ms, or a width that gives 20 to 200 bins.
    ax : matplotlib Axes or None
        To draw in; None for new ones.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    ArgumentError
        Times are not finite, a length is no time above 0, or there would be more than a million bins.

    Examples
    --------
    >>> from blocksim.trains import SpikeTrains
    >>> trains = SpikeTrains.of([[1.0, 4.0], [3.0]])
    >>> ax = rates(trains.times, len(trains), 10.0, width=5)
    >>> ax.patches[0].get_data().values
    array([300.,   0.])
    """
    times, duration = _spikes(times, duration)
    count = whole_number("count", count, 1, MAX_SIZE)
    if width is not None:
        width = milliseconds("width", width)
        if duration / width > 1e6:
            raise ArgumentError(f"width: expected at most a million bins in {duration:g} ms; found {width:g} ms")
    sheet = one_panel(ax, None, (9, 2.4))
    _draw_rates(sheet.axes[0], sheet.colour(1), times, count, duration, width)
    sheet.axes[0].set_xlabel("time (ms)")
    sheet.tidy("x")
    return sheet.axes[0]


def plain_raster(times: np.ndarray, rows: np.ndarray, count: int, duration: float, *, title: str = "") -> str:
    """The raster alone as the text of an SVG file, without matplotlib.

    Parameters
    ----------
    times, rows, count, duration, title
        As for `raster`.

    Returns
    -------
    str

    Raises
    ------
    ArgumentError
        As by `raster`.

    Examples
    --------
    >>> "ms" in plain_raster(np.array([1.0, 4.0]), np.array([0, 1]), 2, 10.0)
    True
    """
    times, rows, count, duration = _raster_of(times, rows, count, duration)
    title = text("title", title)
    left, top, width, height = 60, 40, 900, 420
    row = height / count
    bars = "".join(
        f"M{left + width * time / duration:.1f} {top + height - row * (number + 0.9):.1f}v{0.8 * row:.1f}"
        for time, number in zip(times, rows, strict=True)
    )
    ticks, words = "", ""
    for time in _ticks(duration):
        x = left + width * time / duration
        ticks += f"M{x:.1f} {top + height}v5"
        words += f'<text x="{x:.1f}" y="{top + height + 20}" text-anchor="middle">{time:g}</text>'
    for number in _ticks(count - 1, whole=True):
        y = top + height - row * (number + 0.5)
        ticks += f"M{left} {y:.1f}h-5"
        words += f'<text x="{left - 8}" y="{y + 5:.1f}" text-anchor="end">{number:g}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 100} {height + 100}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<path d="{bars}" stroke="{SPIKE}" stroke-width="1.2"/>'
        f'<path d="M{left} {top}v{height}h{width}{ticks}" stroke="black" fill="none"/>{words}'
        f'<text x="{left + width / 2}" y="{top - 15}" text-anchor="middle">{html.escape(title)}</text>'
        f'<text x="{left + width / 2}" y="{top + height + 42}" text-anchor="middle">time (ms)</text>'
        f'<text transform="translate({left - 42} {top + height / 2}) rotate(-90)" text-anchor="middle">neuron</text>'
        "</svg>\n"
    )


def _spikes(times: Any, duration: Any) -> tuple[np.ndarray, float]:
    """Times of spikes and the length of their axis, checked."""
    array = real_array("times", times, "ms")
    if array.ndim != 1:
        raise ArgumentError(f"times: expected a one-dimensional array of times in ms; found {found(array)}")
    finite("times", array)
    return array, milliseconds("duration", duration)


def _raster_of(times: Any, rows: Any, count: Any, duration: Any) -> tuple[np.ndarray, np.ndarray, int, float]:
    """What a raster is of, checked."""
    times, duration = _spikes(times, duration)
    count = whole_number("count", count, 1, MAX_SIZE)
    rows = real_array("rows", rows)
    if rows.shape != times.shape or (rows.size and rows.dtype.kind not in "iu"):
        raise ArgumentError(f"rows: expected an integer for each of {len(times)} times; found {found(rows)}")
    if rows.size and not 0 <= rows.min() <= rows.max() < count:
        worst = rows.min() if rows.min() < 0 else rows.max()
        raise ArgumentError(f"rows: expected numbers from 0 to {count - 1}; found {worst}")
    return times, rows, count, duration


def _draw_rates(
    ax: Any, colour: str, times: np.ndarray, count: int, duration: float, width: float | None = None
) -> None:
    if width is None:
        edges = np.linspace(0, duration, int(np.clip(duration / 5, 20, 200)) + 1)
    else:  # the last bin may be shorter, and its rate is over what there is of it
        edges = np.append(np.arange(0, duration - 1e-9 * width, width), duration)
    counts, _ = np.histogram(times, edges)
    ax.stairs(counts / count / (np.diff(edges) / 1000), edges, color=colour, fill=True, alpha=0.85)
    ax.set_ylabel("rate (Hz)")
    ax.set_xlim(0, duration)
    ax.set_ylim(bottom=0)


def _ticks(end: float, *, whole: bool = False) -> np.ndarray:
    """Round numbers from 0 to the end, four to ten of them where there are so many whole ones."""
    if end <= 0:
        return np.zeros(1)
    power = 10.0 ** np.floor(np.log10(end / 4))
    step = max(each * power for each in (1, 2, 2.5, 5) if each == 1 or end / (each * power) >= 4)
    step = max(1.0, np.ceil(step)) if whole else step
    return np.asarray(np.arange(int(end / step + 1e-9) + 1) * step)
