"""What a laboratory asks of a cell, of a model as of a recording: step currents, f-I curves, spike-triggered averages.

Owns the stimuli and what is read from the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from blocksim import _notebook, plotting
from blocksim._escape import checked_seed
from blocksim._layer import Layer
from blocksim._simulation import simulate
from blocksim._validation import (
    finite,
    flag,
    found,
    instance,
    milliseconds,
    number,
    real_array,
    sweep_array,
    whole_number,
)
from blocksim.backend import Backend
from blocksim.ephys._fitted import neurons_of
from blocksim.ephys._fitting.model import Cell
from blocksim.ephys._gif.cell import GIFCell
from blocksim.ephys._recordings.recording import Recording
from blocksim.errors import ArgumentError
from blocksim.trains import SpikeTrains, nearest_steps, steps_of
from blocksim.trains import before as is_before

EDGE = 5.0  # ms: means of currents so long on either side of an edge are compared, for recorded currents are noisy
CLEAR = 0.2  # of the squared jumps at the larger edge of the step are those at the smaller, at least
MAX_SHOWN = 6  # potentials in a notebook
MAX_WANDER = 0.25  # of the largest step, by which such means may leave the steps; an edge may take some samples


@dataclass(frozen=True, eq=False)
class FICurve:
    """Firing over the size of a step current.

    Attributes
    ----------
    amplitudes : (S,) array
        In pA, ascending.
    rates : (S, R) array
        Spikes in the window over its length, in Hz, of each repetition, or neuron.
    latencies : (S, R) array
        Time from the step's start to the first spike in ms; NaN where there is none.
    first_intervals, last_intervals : (S, R) array
        Intervals in ms between the first two spikes of the step, and the last two; NaN where there are fewer.
    """

    amplitudes: np.ndarray
    rates: np.ndarray
    latencies: np.ndarray
    first_intervals: np.ndarray
    last_intervals: np.ndarray

    def _repr_html_(self) -> str:
        """In a notebook: the rheobase, and the curve."""
        words = f"f-I curve of {len(self.amplitudes)} steps, rheobase {self.rheobase:g} pA"
        return _notebook.shown(words, lambda: plotting.f_i_curve({"rate": self}))

    @property
    def rate(self) -> np.ndarray:
        """(S,): the mean over repetitions, in Hz."""
        return np.asarray(self.rates.mean(axis=1))

    @property
    def rheobase(self) -> float:
        """The smallest step in pA at which every repetition spikes; NaN where there is none."""
        spiking = np.flatnonzero((self.rates > 0).all(axis=1))
        return float(self.amplitudes[spiking[0]]) if len(spiking) else float("nan")

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each amplitude: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (S,) arrays
            "amplitude_pa"; "rate_hz", "latency_ms", means over repetitions; "first_rate_hz", "last_rate_hz", one over
            the mean first and last interval. NaN where there are none.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim.ephys import Cell, step_responses
        >>> cell = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)
        >>> step_responses(cell, [100, 300]).f_i_curve().table()["rate_hz"]
        array([ 0., 25.])
        """
        return {
            "amplitude_pa": self.amplitudes.copy(), "rate_hz": self.rate, "latency_ms": _mean(self.latencies),
            "first_rate_hz": 1000 / _mean(self.first_intervals), "last_rate_hz": 1000 / _mean(self.last_intervals),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class StepResponses:
    """Answers to step currents, of a model or recorded.

    Attributes
    ----------
    amplitudes : (S,) array
        Size of each step in pA, above the current before it.
    start, stop : float
        When the current steps up and down, in ms.
    dt : float
        Time step in ms.
    current : (S, T) array
        In pA.
    voltage : (S, T) array
        Potential of the first repetition; in mV, but for a `Cell` without a scale and for a `Layer`.
    trains : SpikeTrains
        The repetitions of the first step, then of the second, and so on.
    repeats : int
        Repetitions R of each step; the neurons of a `Layer`.
    """

    amplitudes: np.ndarray
    start: float
    stop: float
    dt: float
    current: np.ndarray
    voltage: np.ndarray
    trains: SpikeTrains
    repeats: int = 1

    def __repr__(self) -> str:
        return (
            f"StepResponses({len(self.amplitudes)} steps of {self.amplitudes.min():g} to {self.amplitudes.max():g} pA, "
            f"{self.start:g} to {self.stop:g} ms, {self.repeats} of each: {len(self.trains.times)} spikes)"
        )

    def _repr_html_(self) -> str:
        """In a notebook: what it is, and the first six potentials with their spikes."""
        some = slice(0, MAX_SHOWN)
        first = self.trains.take(range(0, len(self.trains), self.repeats)[some])
        return _notebook.shown(
            repr(self), lambda: plotting.traces(
                self.voltage[some], dt=self.dt, spikes=first, current=self.current[some], unit="potential",
            ),
        )  # fmt: skip

    @classmethod
    def of(cls, recording: Recording) -> Self:
        """Those of a recording: each sweep is one step, all at the same time.

        Raises
        ------
        ArgumentError
            The currents are no such steps.
        """
        instance("recording", recording, Recording, "a Recording")
        dt, current = recording.dt, np.asarray(recording.current)
        width = max(1, nearest_steps(EDGE, dt))
        begin, end = _edges(current, width)
        levels = np.stack([np.median(part, axis=1) for part in (current[:, :begin], current[:, begin:end])])
        amplitudes = levels[1] - levels[0]
        fitted = np.repeat(levels[:1].T, current.shape[1], axis=1)
        fitted[:, begin:end] = levels[1][:, None]
        wander = float(np.abs(_smoothed(current - fitted, width)).max())
        largest = float(np.abs(amplitudes).max())
        if not wander <= MAX_WANDER * largest:
            raise ArgumentError(
                "recording: expected one step of the current in each sweep, all at the same time; found a current that "
                f"leaves such steps, the largest of {largest:.3g} pA, by {wander:.3g} pA"
            )
        return cls(amplitudes, begin * dt, end * dt, dt, current, np.asarray(recording.voltage), recording.spikes)

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each train: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (S R,) arrays
            "amplitude_pa" of the step; "repetition", from 0; "spikes" during the step; "latency_ms" to the first of
            them, "first_interval_ms", "last_interval_ms", NaN where there are too few.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim.ephys import Cell, step_responses
        >>> cell = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)
        >>> table = step_responses(cell, [100, 300]).table()
        >>> table["amplitude_pa"], table["spikes"]
        (array([100., 300.]), array([ 0, 25]))
        """
        counts, latencies, first, last = self._measured(0.0)
        step, repetition = np.divmod(np.arange(len(self.trains)), self.repeats)
        return {
            "amplitude_pa": self.amplitudes[step], "repetition": repetition, "spikes": counts.ravel(),
            "latency_ms": latencies.ravel(), "first_interval_ms": first.ravel(), "last_interval_ms": last.ravel(),
        }  # fmt: skip

    def f_i_curve(self, settle: float = 0.0) -> FICurve:
        """Firing over the size of the step.

        Parameters
        ----------
        settle : float
            Time in ms after the step's start in which spikes are not counted for the rate: adaptation settles.

        Returns
        -------
        FICurve

        Raises
        ------
        ArgumentError
            `settle` is as long as the step.
        """
        settle = number("settle", settle, least=0, what="a time in ms")
        if settle >= self.stop - self.start:
            raise ArgumentError(
                f"settle: expected less than the step's {self.stop - self.start:g} ms; found {settle:g} ms"
            )
        counts, *others = self._measured(settle)
        rates = 1000 * counts / (self.stop - self.start - settle)
        order = np.argsort(self.amplitudes, kind="stable")
        return FICurve(*(each[order] for each in (self.amplitudes, rates, *others)))

    def _measured(self, settle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Each (S, R): spikes in the step from `settle` on; latency, and first and last interval, of all of it."""
        shape = (len(self.amplitudes), self.repeats)
        counts = np.zeros(shape, np.int64)
        latencies, first, last = (np.full(shape, np.nan) for _ in range(3))
        for place in range(len(self.trains)):
            train = self.trains[place]
            inside = train[~is_before(train, self.start) & is_before(train, self.stop)]
            at = divmod(place, self.repeats)
            counts[at] = (~is_before(inside, self.start + settle)).sum()
            if len(inside):
                latencies[at] = inside[0] - self.start
            if len(inside) > 1:
                intervals = np.diff(inside)
                first[at], last[at] = intervals[0], intervals[-1]
        return counts, latencies, first, last


def step_responses(
    cell: Cell | GIFCell | Layer, amplitudes: Any, *, dt: float = 0.1, duration: float = 1000.0, before: float = 100.0,
    after: float = 100.0, holding: float = 0.0, repeats: int = 1, seed: int | None = None,
    backend: str | Backend = "numba",
) -> StepResponses:  # fmt: skip
    """Answers of a model to step currents, all simulated at once.

    Parameters
    ----------
    cell : Cell, GIFCell or Layer
        A layer takes a current without input weights, or has one input; its neurons stand in place of repetitions.
    amplitudes : (S,) array
        Sizes of the steps: pA, or the unit of the layer's input.
    dt : float
        Time step in ms.
    duration, before, after : float
        Length of the step, and of what is before and after it, in ms.
    holding : float
        Current before, during and after the step, to which it is added.
    repeats : int
        Repetitions of each step by a cell with noise; without noise there is one.
    seed : int or None
        Of the noise; None: another each time.
    backend
        As for `simulate`.

    Raises
    ------
    ArgumentError
        An argument is out of range, or the layer has several inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import Cell, step_responses
    >>> cell = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)
    >>> curve = step_responses(cell, np.arange(100, 500, 100)).f_i_curve()
    >>> curve.rate.tolist(), curve.rheobase
    ([0.0, 12.0, 25.0, 34.0], 200.0)
    """
    sizes = np.atleast_1d(real_array("amplitudes", amplitudes, "pA")).astype(np.float64)
    if sizes.ndim != 1 or not len(sizes):
        raise ArgumentError(f"amplitudes: expected numbers in pA, (S,); found {found(amplitudes)}")
    finite("amplitudes", sizes)
    dt = milliseconds("dt", dt)
    lengths = [
        nearest_steps(milliseconds(name, value, zero=name != "duration"), dt)
        for name, value in (("before", before), ("duration", duration), ("after", after))
    ]
    if not lengths[1]:
        raise ArgumentError(f"duration: expected at least one step of {dt:g} ms; found {duration:g} ms")
    begin, end = lengths[0], lengths[0] + lengths[1]
    current = np.full((len(sizes), sum(lengths)), number("holding", holding))
    current[:, begin:end] += sizes[:, None]
    repeats = whole_number("repeats", repeats, 1)
    offset, scale = 0.0, 1.0
    if isinstance(cell, Layer):
        if cell.inputs not in (None, 1):
            raise ArgumentError(f"cell: expected a layer with one input, the current; found {cell.inputs} inputs")
        layer, x = cell, current[..., None]
    else:
        noisy = isinstance(cell, GIFCell) and cell.is_stochastic
        layer, gain, offset, scale, _ = neurons_of(cell, dt, repeats if noisy else 1)
        x = current[..., None] * gain
    run = simulate(layer, x, backend, record=("voltage",), seed=checked_seed(seed))
    assert run.voltage is not None
    trains = SpikeTrains.from_steps(run.spikes.transpose(0, 2, 1).reshape(-1, current.shape[1]), dt)
    return StepResponses(
        sizes, begin * dt, end * dt, dt, current, offset + scale * run.voltage[..., 0], trains, run.spikes.shape[2]
    )


class TriggeredAverage(NamedTuple):
    """What a signal is around spikes.

    Attributes
    ----------
    times : (L,) array
        In ms from the spike; negative before it.
    average : (L,) array
        Mean of the signal over spikes.
    error : (L,) array
        Its standard error; NaN of a single spike.
    spikes : int
        Number of spikes whose window lies within the signal.
    """

    times: np.ndarray
    average: np.ndarray
    error: np.ndarray
    spikes: int

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each time: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (L,) arrays
            "time_ms" from the spike; "average", "standard_error", in the signal's unit.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim.ephys import spike_triggered_average
        >>> found = spike_triggered_average(np.arange(50.0), [[1.0, 3.0]], dt=0.1, before=0.1, after=0.1)
        >>> found.table()["average"]
        array([19., 20., 21.])
        """
        return {"time_ms": self.times.copy(), "average": self.average.copy(), "standard_error": self.error.copy()}


def spike_triggered_average(
    signal: Any, spikes: Any, *, dt: float, before: float = 50.0, after: float = 10.0, centred: bool = False
) -> TriggeredAverage:
    """The mean of a current or a potential around spikes.

    Parameters
    ----------
    signal : (T,) or (sweeps, T) array
        One signal for all trains, or one for each.
    spikes : SpikeTrains, sequence of arrays, or array
        Spike times in ms.
    dt : float
        Time step of the signal in ms.
    before, after : float
        How far the window reaches on either side of a spike, in ms. Spikes whose window leaves the signal do not count.
    centred : bool
        Take each sweep's mean off the signal first.

    Returns
    -------
    TriggeredAverage
        The mean of the signal around spikes, its standard error, and the number of spikes that count.

    Raises
    ------
    ArgumentError
        The signal is empty or not finite, there are neither one sweep nor as many as trains, or no spike's window lies
        within the signal.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import spike_triggered_average
    >>> signal = np.zeros(100)
    >>> signal[[29, 59]] = 2.0
    >>> found = spike_triggered_average(signal, [np.array([3.0, 6.0])], dt=0.1, before=0.3, after=0.1)
    >>> found.times.round(1).tolist(), found.average.tolist(), found.spikes
    ([-0.3, -0.2, -0.1, 0.0, 0.1], [0.0, 0.0, 2.0, 0.0, 0.0], 2)
    """
    array = np.atleast_2d(sweep_array("signal", signal)).astype(np.float64)
    trains, dt = SpikeTrains.of(spikes), milliseconds("dt", dt)
    if len(array) not in (1, len(trains)):
        raise ArgumentError(
            f"signal: expected one sweep, or one for each of {len(trains)} trains; found {len(array)} sweeps"
        )
    ends = {"before": before, "after": after}
    reach = [nearest_steps(milliseconds(name, value, zero=True), dt) for name, value in ends.items()]
    if flag("centred", centred):
        array = array - array.mean(axis=1, keepdims=True)
    steps = steps_of(trains.times, dt)
    inside = (steps >= reach[0]) & (steps + reach[1] < array.shape[1])
    steps, owners = steps[inside], (trains.owners if len(array) > 1 else 0 * trains.owners)[inside]
    if not len(steps):
        raise ArgumentError(
            f"spikes: expected some at least {before:g} ms after the start and {after:g} ms before the end of the "
            f"signal; found none of {len(trains.times)}"
        )
    offsets = np.arange(-reach[0], reach[1] + 1)
    total, squares = np.zeros(len(offsets)), np.zeros(len(offsets))
    for place, offset in enumerate(offsets):  # a spike's whole window at once would take memory times its length
        values = array[owners, steps + offset]
        total[place], squares[place] = values.mean(), values.var(ddof=1) if len(values) > 1 else np.nan
    return TriggeredAverage(offsets * dt, total, np.sqrt(squares / len(steps)), len(steps))


def _edges(current: np.ndarray, width: int) -> tuple[int, int]:
    """Where the currents (S, T) step up and down: where means of `width` steps before and after differ most."""
    steps = current.shape[1]
    if steps < 3 * width:
        raise ArgumentError(f"recording: expected sweeps of at least {3 * EDGE:g} ms; found shorter ones")
    means = _smoothed(current, width)
    jumps = ((means[:, width:] - means[:, :-width]) ** 2).sum(axis=0)  # of step width, width + 1, ...
    if not jumps.max() > 0:
        raise ArgumentError("recording: expected step currents; found a current that never changes")
    first = int(np.argmax(jumps))
    apart = np.abs(np.arange(len(jumps)) - first) >= width
    second = int(np.argmax(np.where(apart, jumps, -1.0)))
    edges = sorted((first, second)) if jumps[second] >= CLEAR * jumps[first] else [first, steps - width]
    return edges[0] + width, edges[1] + width


def _smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Means of `width` values that follow each other, of each row."""
    ends = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    return np.asarray(ends[:, width:] - ends[:, :-width]) / width


def _mean(values: np.ndarray) -> np.ndarray:
    """Over repetitions that have a value; NaN where none has."""
    counted = np.isfinite(values).sum(axis=1)
    return np.where(counted > 0, np.nansum(values, axis=1) / np.maximum(counted, 1), np.nan)
