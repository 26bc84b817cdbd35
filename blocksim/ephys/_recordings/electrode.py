"""The electrode's share of a recorded potential: its kernel measured, and taken away (active electrode compensation).

Owns the regression of the potential on the current, the split of the kernel that it gives, and the compensated
recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from blocksim._validation import finite, found, frozen, instance, items, milliseconds, number, real_array
from blocksim.ephys._recordings.recording import Recording, samples_of
from blocksim.errors import ArgumentError
from blocksim.trains import near_spikes, nearest_steps

STRETCH = 100.0  # ms at most, of steps that share an offset: slower changes of rest do not count
MAX_LAGS = 5000  # steps of the full kernel: 200 MB of products
ROWS_A_LAG = 10  # steps that must be left, for each step of the full kernel
FEWEST_TAIL = 10  # steps that an exponential is fitted to
LEFT = 1e-9  # of a step's variance, not told by the steps around; below, rounding errors decide what the kernel is
EXTENSIONS = 40  # rounds at most of what the current before the full kernel does, by the last round's exponential
SETTLED = 1e-3  # relative change of the time constant at which rounds end
SHORTEST_TAU = 1.0  # ms: a membrane is slower
LONGEST_TAU = 10.0  # in lengths of the full kernel
SECTIONS, NARROWED = 33, 5  # of the time constant's range, and how often the best is divided again
CERTAIN = 3.0  # standard errors of the exponential's amplitude that a membrane shows by
SPLITS = 5  # rounds of the split; it settles in two or three
CHUNK = 2**20  # numbers of a batch of stretches
SCAN = 128  # steps of a block of the leaky sum


@dataclass(frozen=True, eq=False)
class ElectrodeKernel:
    """What an electrode adds to the recorded potential, as found by `electrode_kernel`.

    Parameters
    ----------
    dt : float
        Step in ms.
    kernel : (n,) array
        In MOhm for each step: the electrode adds sum over k of kernel[k] current[t - k] / 1000 mV, of currents in pA.
    tau_mem : float or None
        The membrane's time constant in ms; None: not known.
    membrane_resistance : float or None
        The membrane's resistance in MOhm; None: not known.
    full : (m,) array or None
        Electrode and membrane together, as measured, in MOhm for each step; None: not known.

    Raises
    ------
    ArgumentError
        A number is out of range, or an array is not of one dimension, is empty or is not finite.

    Examples
    --------
    >>> from blocksim.ephys import ElectrodeKernel
    >>> ElectrodeKernel(dt=0.1, kernel=[10.0, 4.0, 1.0]).resistance
    15.0
    """

    dt: float
    kernel: np.ndarray
    tau_mem: float | None = None
    membrane_resistance: float | None = None
    full: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dt", milliseconds("dt", self.dt))
        for name in ("kernel", "full"):
            if name == "kernel" or self.full is not None:
                array = real_array(name, getattr(self, name))
                if array.ndim != 1 or not array.size:
                    raise ArgumentError(f"{name}: expected a non-empty array (n,) in MOhm a step; found {found(array)}")
                finite(name, array)
                object.__setattr__(self, name, frozen(np.array(array, np.float64)))
        if self.tau_mem is not None:
            object.__setattr__(self, "tau_mem", milliseconds("tau_mem", self.tau_mem))
        if self.membrane_resistance is not None:
            known = number("membrane_resistance", self.membrane_resistance, above=0, what="a resistance in MOhm")
            object.__setattr__(self, "membrane_resistance", known)

    def __repr__(self) -> str:
        return f"ElectrodeKernel({self.resistance:.3g} MOhm over {self.duration:g} ms, dt={self.dt:g} ms)"

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each step of the kernel: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (n,) arrays
            "time_ms" after the current's step; "kernel_mohm".

        Examples
        --------
        >>> from blocksim.ephys import ElectrodeKernel
        >>> ElectrodeKernel(dt=0.5, kernel=[10.0, 4.0, 1.0]).table()
        {'time_ms': array([0. , 0.5, 1. ]), 'kernel_mohm': array([10.,  4.,  1.])}
        """
        return {"time_ms": np.arange(len(self.kernel)) * self.dt, "kernel_mohm": self.kernel.copy()}

    @property
    def resistance(self) -> float:
        """The electrode's resistance in MOhm: the sum of its kernel."""
        return float(self.kernel.sum())

    @property
    def duration(self) -> float:
        """Length of the electrode's kernel in ms."""
        return len(self.kernel) * self.dt


def electrode_kernel(
    data: Recording,
    *,
    duration: float = 3.0,
    membrane_from: float | None = None,
    length: float = 50.0,
    before_spike: float = 5.0,
    after_spike: float = 50.0,
    part: tuple[float, float] | None = None,
) -> ElectrodeKernel:
    """Measure what the electrode adds to the potential, from current and potential away from spikes.

    Parameters
    ----------
    data : Recording
        Current clamp through one electrode, not compensated, with a current that varies from step to step: noise.
    duration : float
        In ms: the electrode's kernel is 0 from then on. Choose it as short as the electrode allows: a longer kernel is
        harder to separate from the membrane's.
    membrane_from : float or None
        In ms: the membrane's exponential is fitted to the full kernel from then on. None: from `duration` on.
    length : float
        In ms, of the full kernel. What the current does later is taken from the membrane's exponential.
    before_spike, after_spike : float
        In ms: steps so soon before and after a spike do not count, nor do those of the first `length` of a sweep.
    part : (start, stop) or None
        In ms: only steps of this window of each sweep count. None: all.

    Returns
    -------
    ElectrodeKernel

    Raises
    ------
    ArgumentError
        No recording, or times that do not fit it; too few steps away from spikes; a current that does not vary, or is
        too smooth; a membrane's exponential, or an electrode, that does not show.

    Notes
    -----
    Source: Brette et al., Neuron 59, 2008. The full kernel K is found by least squares, with offsets of stretches of
    100 ms at most. It is the sum of the electrode's kernel K_e and of the membrane's answer to the current that the
    electrode lets through, K = K_e + K_m * (K_e / R_e), where R_e is the sum of K_e and K_m an exponential. The time
    constant and the amplitude of the tail come from a fit to K. K_e is then found by iteration, and the membrane's
    resistance so that nothing is left of the tail. (Brette's program minimises the square of what is left, within
    bounds; without bounds that is small also where the electrode's resistance is nearly 0.)

    A current acts within its step. Where the potential is sampled before the current of the same step acts on the
    membrane, the membrane's answer is one step late, and the resistance is too small by about one step's worth of the
    membrane's kernel. A cell whose tail is not one exponential, as where dendrites charge, has part of it counted as
    the electrode's. Products of lagged currents are taken by FFT, in batches.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import Recording, compensate, electrode_kernel
    >>> time = np.arange(1000) * 0.1
    >>> current = np.random.default_rng(1).normal(0, 200, 20_000)
    >>> electrode = 20 * 0.3 * 0.7 ** np.arange(30)  # 20 MOhm, and a membrane of 100 MOhm and 10 ms
    >>> entering = np.convolve(current, electrode / electrode.sum())[:20_000]
    >>> membrane = -70 + np.convolve(entering, 0.1 * (1 - np.exp(-0.01)) * np.exp(-time / 10))[:20_000]
    >>> data = Recording(current, membrane + np.convolve(current, electrode)[:20_000] / 1000, 10_000)
    >>> kernel = electrode_kernel(data)
    >>> kernel
    ElectrodeKernel(20 MOhm over 3 ms, dt=0.1 ms)
    >>> round(kernel.tau_mem, 1), round(kernel.membrane_resistance)
    (10.0, 100)
    >>> bool(np.std(compensate(data, kernel).voltage - membrane) < 0.05)
    True
    """
    instance("data", data, Recording, "a blocksim.ephys.Recording")
    own, tail, lags = _lengths(data.dt, duration, membrane_from, length)
    counted = _counted(data, lags, before_spike, after_spike, part)
    rows = int(counted.sum())
    if rows < ROWS_A_LAG * lags:
        raise ArgumentError(
            f"data: expected at least {ROWS_A_LAG * lags} steps away from spikes, {ROWS_A_LAG} for each of the {lags} "
            f"of the full kernel; found {rows} of {counted.size} (use a shorter after_spike or length, or another part)"
        )
    starts, stops = _stretches(counted, max(2, nearest_steps(STRETCH, data.dt)))
    current = data.current - data.current.mean(axis=1, keepdims=True)
    inverse = _inverse(_products(current, starts, stops, lags), current)
    answers = _answers(current, data.voltage, starts, stops, lags)
    full = 1000 * (inverse @ answers)
    factor, amplitude = _exponential(full, tail, data.dt)
    for _ in range(EXTENSIONS):
        last = factor
        beyond = _beyond(current, factor, amplitude / 1000, lags)
        full = 1000 * (inverse @ (answers - _answers(current, beyond, starts, stops, lags)))
        factor, amplitude = _exponential(full, tail, data.dt)
        if abs(np.log(last) / np.log(factor) - 1) < SETTLED:
            break
    electrode, gain = _split(full[:own], factor, amplitude)
    return ElectrodeKernel(data.dt, electrode, -data.dt / float(np.log(factor)), gain / (1 - factor), full)


def compensate(data: Recording, kernel: ElectrodeKernel) -> Recording:
    """Take what the electrode adds away from the recorded potential.

    Parameters
    ----------
    data : Recording
        Of any current, through the electrode that the kernel is of. It is not changed.
    kernel : ElectrodeKernel
        As `electrode_kernel` finds it, for the recording's time step.

    Returns
    -------
    Recording
        With the membrane's potential. Spikes keep their times; ``dataclasses.replace(recording, spikes=None)`` finds
        them anew.

    Raises
    ------
    ArgumentError
        No recording, no kernel, or time steps that differ.

    Notes
    -----
    Source: Brette et al., Neuron 59, 2008. The current before a sweep is taken to have been the sweep's first value.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import ElectrodeKernel, Recording, compensate
    >>> data = Recording([0, 0, 100, 100, 100], [-70, -70, -69, -68.5, -68.5], 10_000)
    >>> compensate(data, ElectrodeKernel(dt=0.1, kernel=[10.0, 5.0])).voltage
    array([[-70., -70., -70., -70., -70.]])
    """
    instance("data", data, Recording, "a blocksim.ephys.Recording")
    instance("kernel", kernel, ElectrodeKernel, "a blocksim.ephys.ElectrodeKernel")
    if abs(kernel.dt - data.dt) > 1e-9 * data.dt:
        raise ArgumentError(
            f"kernel: expected one for the recording's step of {data.dt:g} ms; found one for {kernel.dt:g} ms (bring "
            "the recording to that step with at_dt, or measure the kernel at this one)"
        )
    voltage = np.empty_like(data.voltage)
    for own, current, recorded in zip(voltage, data.current, data.voltage, strict=True):
        before = np.full(len(kernel.kernel) - 1, current[0])
        own[:] = recorded - np.convolve(np.concatenate([before, current]), kernel.kernel, "valid") / 1000
    return replace(data, voltage=frozen(voltage))


def _lengths(dt: float, duration: float, membrane_from: float | None, length: float) -> tuple[int, int, int]:
    """Steps of the electrode's kernel, to the start of the tail, and of the full kernel."""
    duration, length = milliseconds("duration", duration), milliseconds("length", length)
    begin = duration if membrane_from is None else milliseconds("membrane_from", membrane_from)
    lags, own, tail = nearest_steps(length, dt), max(1, nearest_steps(duration, dt)), max(1, nearest_steps(begin, dt))
    if lags > MAX_LAGS:
        raise ArgumentError(
            f"length: expected at most {MAX_LAGS} steps of {dt:g} ms; found {length:g} ms, {lags} steps (use a longer "
            "step, by Recording.at_dt)"
        )
    for name, given, steps in (("duration", duration, own), ("membrane_from", begin, tail)):
        if steps > lags - FEWEST_TAIL:
            raise ArgumentError(
                f"{name}: expected a time that leaves {FEWEST_TAIL} steps or more of the {length:g} ms of the full "
                f"kernel; found {given:g} ms (use a longer length)"
            )
    return own, tail, lags


def _counted(
    data: Recording, lags: int, before_spike: float, after_spike: float, part: tuple[float, float] | None
) -> np.ndarray:
    """Which steps (sweeps, T) count: within the part, away from spikes, and late enough to know the current before."""
    before = milliseconds("before_spike", before_spike, zero=True)
    after = milliseconds("after_spike", after_spike, zero=True)
    first, last = 0, data.steps
    if part is not None:
        given = items("part", part, "a window (start, stop) in ms, or None", 2)
        start, stop = milliseconds("part[0]", given[0], zero=True), milliseconds("part[1]", given[1])
        first, last = samples_of(data, "part", start, stop)
    counted = ~near_spikes(data.spikes, (before, after), data.dt, data.steps)
    counted[:, : max(first, lags - 1)] = counted[:, last:] = False
    return counted


def _stretches(counted: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Where stretches of counted steps begin and end, in the flattened array; long ones in equal pieces."""
    edges = np.diff(np.pad(counted.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    steps = counted.shape[1]
    sweep, begin = np.nonzero(edges == 1)
    _, end = np.nonzero(edges == -1)
    pieces = -(-(end - begin) // most)
    run = np.repeat(np.arange(len(begin)), pieces)
    piece = np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin, size, offset = begin[run], (end - begin)[run], sweep[run] * steps
    starts, stops = (offset + begin + size * (piece + more) // pieces[run] for more in (0, 1))
    return starts, stops


def _batches(
    trace: np.ndarray, starts: np.ndarray, stops: np.ndarray, before: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of stretches: which, the trace with `before` steps more (S, before + L), and which of L count (S, L)."""
    flat, longest = trace.ravel(), int((stops - starts).max())
    size = max(1, CHUNK // (longest + before))
    for first in range(0, len(starts), size):
        which = np.arange(first, min(first + size, len(starts)))
        places = starts[which, None] + np.arange(-before, longest)
        inside = places[:, before:] < stops[which, None]
        yield which, flat[np.minimum(places, flat.size - 1)], inside


def _correlation(values: np.ndarray, traces: np.ndarray, lags: int) -> np.ndarray:
    """Sum over stretches and steps t of values[t] trace[t - k], for lags k; traces begin lags - 1 steps earlier."""
    size = 1 << int(traces.shape[1]).bit_length()
    spectrum = np.fft.rfft(np.pad(values, ((0, 0), (lags - 1, 0))), size, axis=1)
    spectrum *= np.fft.rfft(traces, size, axis=1).conj()
    return np.asarray(np.fft.irfft(spectrum.sum(axis=0), size)[:lags])


def _products(current: np.ndarray, starts: np.ndarray, stops: np.ndarray, lags: int) -> np.ndarray:
    """Products (lags, lags) of the current with itself at each two lags, summed over stretches less their means.

    Two lags later by a step see the same steps less the last and with one more before the first: the first row is a
    correlation, and each other follows from the one above.
    """
    first = np.zeros(lags)
    change, means = np.zeros((lags, lags)), np.zeros((lags, lags))
    back = np.arange(lags)
    for which, traces, inside in _batches(current, starts, stops, lags - 1):
        lengths = stops[which] - starts[which]
        rows = np.arange(len(which))[:, None]
        first += _correlation(np.where(inside, traces[:, lags - 1 :], 0), traces, lags)
        # lag 0 of the step before the first lies at lags - 2; the lag that would lie before the trace is not used
        entering = traces[rows, np.maximum(lags - 2 - back, 0)]
        leaving = traces[rows, lags - 2 + lengths[:, None] - back]
        change += entering.T @ entering - leaving.T @ leaving
        total = np.pad(np.cumsum(traces, axis=1), ((0, 0), (1, 0)))
        sums = total[rows, lags - 1 + lengths[:, None] - back] - total[rows, lags - 1 - back]
        means += sums.T @ (sums / lengths[:, None])
    products = np.empty((lags, lags))
    products[0] = products[:, 0] = first
    for lag in range(1, lags):
        products[lag, 1:] = products[lag - 1, :-1] + change[lag - 1, :-1]
    return products - means


def _answers(current: np.ndarray, voltage: np.ndarray, starts: np.ndarray, stops: np.ndarray, lags: int) -> np.ndarray:
    """Products (lags,) of the potential, less its mean in each stretch, with the current at each lag."""
    result = np.zeros(lags)
    # looking back as far makes batches of the same stretches
    potentials = _batches(voltage, starts, stops, lags - 1)
    for (which, traces, inside), (_, recorded, _) in zip(
        _batches(current, starts, stops, lags - 1), potentials, strict=True
    ):
        values = np.where(inside, recorded[:, lags - 1 :], 0)
        mean = values.sum(axis=1) / (stops[which] - starts[which])
        result += _correlation(np.where(inside, values - mean[:, None], 0), traces, lags)
    return result


def _inverse(products: np.ndarray, current: np.ndarray) -> np.ndarray:
    """The inverse of the products, or an error that says what the current lacks."""
    if not products[0, 0] > 1e-20 * current.size * max(float(np.square(current).max()), 1e-300):
        raise ArgumentError(
            "data: expected a current that varies where the cell does not spike; found a constant one (inject noise)"
        )
    try:
        inverse = np.asarray(np.linalg.inv(products))
        # 1 over the diagonal: what is left of each lag's variance once all others are known
        left = float((1 / (np.diagonal(inverse) * np.diagonal(products))).min())
    except np.linalg.LinAlgError:
        left = 0.0
    if not left > LEFT:
        raise ArgumentError(
            "data: expected a current that varies from step to step; found one so smooth that the steps around tell "
            f"all but {max(left, 0.0):.1g} of a step's variance (inject noise, or bring the recording to a longer step "
            "with at_dt)"
        )
    return inverse


def _exponential(full: np.ndarray, tail: int, dt: float) -> tuple[float, float]:
    """Factor of a step and amplitude at lag 0 of the exponential that the full kernel ends in."""
    steps, values = np.arange(tail, len(full)), full[tail:]
    low, high = ends = np.log(SHORTEST_TAU / dt), np.log(LONGEST_TAU * len(full))
    for _ in range(NARROWED):
        taus = np.linspace(low, high, SECTIONS)
        shapes = np.exp(-np.exp(-taus)[:, None] * steps)
        strengths = np.square(shapes).sum(axis=1)
        amplitudes = shapes @ values / strengths
        best = int(np.argmax(amplitudes**2 * strengths))  # of the squares that it explains
        low, high = taus[max(best - 1, 0)], taus[min(best + 1, SECTIONS - 1)]
    explained = float(amplitudes[best] ** 2 * strengths[best])
    rest = max(float(values @ values) - explained, 0.0) / max(len(values) - 2, 1)
    if amplitudes[best] <= 0 or explained < CERTAIN**2 * rest:
        raise ArgumentError(
            f"data: expected a membrane, an exponential in the answer to currents from {tail * dt:g} ms on; found none "
            "(is it a cell, recorded for long enough? try a longer length)"
        )
    tau = float(np.exp(taus[best])) * dt
    if min(abs(taus[best] - end) for end in ends) < 0.01:
        raise ArgumentError(
            f"data: expected a membrane time constant from {SHORTEST_TAU:g} to {LONGEST_TAU * len(full) * dt:g} ms; "
            f"found {tau:.3g} ms, an end of that range (does the membrane, or something slower, outlast the full "
            "kernel? try a longer length, or another part)"
        )
    return float(np.exp(-dt / tau)), float(amplitudes[best])


def _beyond(current: np.ndarray, factor: float, amplitude: float, lags: int) -> np.ndarray:
    """What the current of `lags` steps ago and more does by an exponential.

    Before a sweep the current is taken to have been the mean of its first `lags` steps: of noise one value says little.
    """
    result = np.empty_like(current)
    before = current[:, :lags].mean(axis=1, keepdims=True) / (1 - factor)
    result[:, :lags] = amplitude * factor**lags * before
    result[:, lags:] = amplitude * factor**lags * _leaky(current[:, :-lags], before, factor)
    return result


def _leaky(values: np.ndarray, before: np.ndarray, factor: float) -> np.ndarray:
    """Sums y[t] = factor y[t - 1] + values[t] along the last axis, from `before`, (sweeps, 1), on."""
    sweeps, steps = values.shape
    blocks = -(-steps // SCAN)
    padded = np.pad(values, ((0, 0), (0, blocks * SCAN - steps))).reshape(sweeps, blocks, SCAN)
    after = np.arange(SCAN) - np.arange(SCAN)[:, None]
    sums = padded @ np.where(after >= 0, factor ** np.maximum(after, 0.0), 0)
    fading = factor ** np.arange(1.0, SCAN + 1)
    state = before
    for block in range(blocks):
        sums[:, block] += state * fading
        state = sums[:, block, -1:]
    return np.asarray(sums.reshape(sweeps, -1)[:, :steps])


def _split(full: np.ndarray, factor: float, amplitude: float) -> tuple[np.ndarray, float]:
    """The electrode's kernel, and the first value of the membrane's, of the first steps of the full kernel.

    Every round the membrane's is scaled so that its answer to the filtered current ends in the exponential that was
    found.
    """
    decay = factor ** np.arange(len(full))
    electrode, gain = full - amplitude * decay, amplitude
    for _ in range(SPLITS):
        resistance = float(electrode.sum())
        if not resistance > 0:
            raise ArgumentError(
                f"data: expected an electrode of a resistance above 0; found {resistance:.3g} MOhm beside the membrane "
                "(was the recording compensated already, by bridge balance?)"
            )
        passed = electrode / resistance
        gain = amplitude / float((passed / decay).sum())
        electrode = full - gain * np.convolve(decay, passed)[: len(full)]
    return electrode, gain
