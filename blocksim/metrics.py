"""Agreement of model spike trains with recorded ones, and statistics of spike trains.

Owns the definitions; docs/metrics.md says when to use which. Trains are `SpikeTrains`, a sequence of arrays of times in
ms, or one such array. Where a metric compares, it compares each of M models with each of K trials in one call, from
spike times, without a grid: times are looked up in sorted trains, and sums over pairs of spikes are taken through
recursions, or over near neighbours only.

A trial lasts from 0 up to, but not including, its duration, and a window of it from its start up to, but not including,
its stop: a spike at the very end belongs to what follows, and does not count. The windows of coincidence include both
ends, ``|t - s| <= window``. Both with 1e-9 ms of tolerance, for times that are multiples of a step in floating point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from blocksim._validation import choice, flag, found, milliseconds
from blocksim.errors import ArgumentError
from blocksim.trains import TOLERANCE, SpikeTrains, before, given_times, steps_of

# of a rate for pictures
MAX_STEPS = 2**28
MODEL_PAIRS = ("all", "different")
# a Gaussian this many standard deviations out is below the rounding errors of float64
_REACH = 8.5
# pairs of spikes that are looked at together: bounds the memory
_PAIRS = 4_000_000


# ------------------------------------------------------------------------------------------------------ van Rossum


def van_rossum(models: Any, trials: Any, *, tau: float) -> np.ndarray:
    """Van Rossum distance of each model from each trial, squared, as equation (19) has it.

    Each spike becomes an exponential that decays with `tau`; the distance is the squared difference of the two sums,
    integrated over all time and divided by tau. An extra spike costs 1/2, and a spike far from its right time 1. It is
    `blocksim.losses.van_rossum` in the limit of small steps, but from spike times.

    Parameters
    ----------
    models, trials : trains
        M and K trains.
    tau : float
        Time constant in ms.

    Returns
    -------
    (M, K) float64 array
        0 for identical trains, and half the spikes for a train against an empty one.

    Raises
    ------
    ArgumentError
        Trains are not trains, or tau is not above 0.

    Notes
    -----
    Source: van Rossum, "A novel spike distance", Neural Computation 13 (2001), 751-763, equations (2.1)-(2.3), for
    which it is the square D². In sums over pairs of spikes (Houghton and Kreuz, Network 23 (2012), 48-58), D² =
    1/2 [sum_ij e(t_i - t_j) + sum_ij e(s_i - s_j) - 2 sum_ij e(t_i - s_j)], e(d) = exp(-abs(d) / tau). Their recursion
    makes it linear in the number of spikes.

    Examples
    --------
    >>> from blocksim.metrics import van_rossum
    >>> van_rossum([[10.0, 50.0], []], [10.0], tau=5).round(3)
    array([[0.5],
           [0.5]])
    """
    models, trials = SpikeTrains.of(models), SpikeTrains.of(trials)
    tau = milliseconds("tau", tau)
    own = [0.5 * _exponential_sums(trains, tau) for trains in (models, trials)]
    cross = np.empty((len(models), len(trials)))
    for index, trial in enumerate(trials):
        before, after = _markage(trial, tau)
        # for each spike of a model: the trial's spikes up to it, and those after it
        place = np.searchsorted(trial, models.times, side="right")
        padded = np.concatenate([[-np.inf], trial, [np.inf]])
        sums = np.concatenate([[0.0], before])[place] * np.exp(-(models.times - padded[place]) / tau)
        sums += np.concatenate([after, [0.0]])[place] * np.exp(-(padded[place + 1] - models.times) / tau)
        cross[:, index] = np.bincount(models.owners, sums, len(models))
    distance: np.ndarray = np.maximum(own[0][:, None] + own[1] - cross, 0.0)
    return distance


def _markage(train: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """For each spike the sum of exp(-|difference| / tau) over the spikes up to it, and over those from it on."""
    decay = np.exp(-np.diff(train) / tau)
    before, after = np.ones(len(train)), np.ones(len(train))
    for k in range(1, len(train)):
        before[k] += decay[k - 1] * before[k - 1]
        after[-1 - k] += decay[-k] * after[-k]
    return before, after


def _exponential_sums(trains: SpikeTrains, tau: float) -> np.ndarray:
    """Sum over all pairs of spikes within a train of exp(-|difference| / tau), (trains,)."""
    padded = trains.padded()
    total, running = np.zeros(len(trains)), np.zeros(len(trains))
    for k in range(padded.shape[1]):
        there = np.isfinite(padded[:, k])
        if k:
            gap = np.where(there, padded[:, k] - np.where(there, padded[:, k - 1], 0.0), np.inf)
            running = running * np.exp(-gap / tau)
        total += np.where(there, 1 + 2 * running, 0.0)
        running += there
    return total


# --------------------------------------------------------------------------------------------- explained variance


def explained_variance(models: Any, trials: Any, *, sigma: float, duration: float, windows: Any = None) -> np.ndarray:
    """Variance of each smoothed trial that each smoothed model explains.

    EV(x, y) = [var x + var y - var(x - y)] / (var x + var y), of trains smoothed with a Gaussian; var is over time,
    from 0 to `duration`.

    Parameters
    ----------
    models, trials : trains
        M and K trains.
    sigma : float
        Standard deviation of the Gaussian in ms.
    duration : float
        Length of the trials in ms. Spikes outside 0 to `duration` are refused; one at `duration` does not count.
    windows : sequence of (start, stop) or None
        Stretches of time in ms: each is smoothed by itself, and var is over all of them. None: the whole trial.

    Returns
    -------
    (M, K) float64 array
        1 for identical trains, two empty ones among them; 0 for an empty train against one that is not.

    Raises
    ------
    ArgumentError
        Trains are not trains, a spike lies outside the trial, a time is not above 0, or a window not within the trial.

    Notes
    -----
    Source: Teeter et al., "Generalized leaky integrate-and-fire models classify multiple neuron types", Nature
    Communications 9 (2018), 709, Methods. Here the integrals over time are exact: a product of two Gaussians is one.

    Examples
    --------
    >>> from blocksim.metrics import explained_variance
    >>> explained_variance([[100.0, 300.0], []], [100.0, 300.0], sigma=10, duration=500).round(2)
    array([[1.],
           [0.]])
    """
    models, trials, duration = _within(models, trials, duration)
    sigma, spans = milliseconds("sigma", sigma), _spans(windows, duration)
    variances = [_variances(trains, sigma, spans) for trains in (models, trials)]
    return _explained(variances[0][:, None], variances[1], _covariances(models, trials, sigma, spans))


def reliability(trials: Any, *, sigma: float, duration: float, windows: Any = None) -> float:
    """How much of the variance of a trial the mean of all trials explains, on average: what a model can hope to reach.

    Parameters
    ----------
    trials : trains
        K trains of repeats of one stimulus.
    sigma, duration, windows
        As for `explained_variance`.

    Returns
    -------
    float
        1 for a single trial, and for trials that are all alike.

    Raises
    ------
    ArgumentError
        Trains are not trains, or there are none; a spike lies outside the trial; a time is not above 0; or a window is
        not within the trial.

    Notes
    -----
    Source: Teeter et al. (2018), as `explained_variance`. The mean includes the trial that it is compared with, so this
    is above 1/K even where trials have nothing in common.

    Examples
    --------
    >>> from blocksim.metrics import reliability
    >>> reliability([[100.0], [100.0]], sigma=10, duration=500)
    1.0
    """
    trains, _, duration = _within(trials, trials, duration)
    covariance = _covariances(trains, trains, milliseconds("sigma", sigma), _spans(windows, duration))
    with_mean = covariance.mean(axis=1)
    return float(_explained(np.diagonal(covariance), np.array(covariance.mean()), with_mean).mean())


def explained_temporal_variance(
    models: Any,
    trials: Any,
    *,
    duration: float,
    sigma: float = 10.0,
    windows: Any = None,
    normalise: bool = True,
    pooled: bool = False,
) -> np.ndarray:
    """Explained temporal variance (ETV) of each model: the score of Taylor et al. (2023) and of Teeter et al. (2018).

    The mean over trials of `explained_variance`, divided by the trials' own `reliability`, unless `normalise` is False.

    Parameters
    ----------
    models, trials : trains
        M and K trains.
    duration : float
        Length of the trials in ms.
    sigma : float
        Standard deviation of the Gaussian in ms; 10 ms in the code of both papers.
    windows : sequence of (start, stop) or None
        As for `explained_variance`. Taylor et al. take three stretches of 1 s.
    normalise : bool
        Whether to divide by the reliability.
    pooled : bool
        Whether the models are repetitions of one stochastic model, scored once, by their mean rate.

    Returns
    -------
    (M,) float64 array, (1,) if pooled
        1: as good as the trials' mean; 0: nothing. Trials without any spike have a reliability of 1.

    Raises
    ------
    ArgumentError
        Trains are not trains, or there are none; a spike lies outside the trial; a time is not above 0; a window is not
        within the trial; or normalise or pooled is not a bool.

    Notes
    -----
    Sources: Taylor, King, Harper, NeurIPS 2023, and Teeter et al., Nature Communications 9 (2018), 709, with the code
    that both published.

    Examples
    --------
    >>> from blocksim.metrics import explained_temporal_variance
    >>> trials = [[100.0, 300.0], [102.0, 299.0]]
    >>> explained_temporal_variance([[101.0, 300.0], [200.0]], trials, duration=500).round(2)
    array([ 1.  , -0.11])
    """
    normalise = flag("normalise", normalise)
    options: dict[str, Any] = {"sigma": sigma, "duration": duration, "windows": windows}
    if flag("pooled", pooled):
        score = _of_mean(models, trials, **options).mean(axis=1)
    else:
        score = explained_variance(models, trials, **options).mean(axis=1)
    return np.asarray(score / reliability(trials, **options) if normalise else score)


def _of_mean(models: Any, trials: Any, *, sigma: float, duration: float, windows: Any) -> np.ndarray:
    """`explained_variance` (1, K) of the mean of the smoothed models: of one train with the spikes of all of them."""
    models, trials, duration = _within(models, trials, duration)
    sigma, spans = milliseconds("sigma", sigma), _spans(windows, duration)
    merged = SpikeTrains.of([np.sort(models.times)])
    own = _variances(merged, sigma, spans)[:, None] / len(models) ** 2
    covariances = _covariances(merged, trials, sigma, spans) / len(models)
    return _explained(own, _variances(trials, sigma, spans), covariances)


def smoothed_rate(trains: Any, *, sigma: float, duration: float, dt: float = 1.0) -> np.ndarray:
    """Mean rate of the trains over time, smoothed with a Gaussian, in Hz: for pictures.

    Parameters
    ----------
    trains : trains
        K trains.
    sigma, duration, dt : float
        Standard deviation of the Gaussian, length of the trials, and step of the result, in ms.

    Returns
    -------
    (ceil(duration / dt),) float64 array
        At the middle of each step.

    Raises
    ------
    ArgumentError
        Trains are not trains, or there are none; a spike lies outside the trial; a time is not above 0; or the trial
        has more than 2**28 steps.

    Examples
    --------
    >>> from blocksim.metrics import smoothed_rate
    >>> rate = smoothed_rate([[50.0, 150.0]], sigma=10, duration=200)
    >>> rate.shape, round(float(rate.mean()), 3)  # Hz: two spikes in 200 ms
    ((200,), 10.0)
    """
    trains, _, duration = _within(trains, trains, duration)
    sigma, dt = milliseconds("sigma", sigma), milliseconds("dt", dt)
    if duration / dt > MAX_STEPS:
        raise ArgumentError(f"dt: expected at most 2**28 steps in {duration:g} ms; found {duration / dt:.3g}")
    rate = np.zeros(max(1, math.ceil(duration / dt - 1e-9)))
    reach = min(math.ceil(min(_REACH * sigma / dt, MAX_STEPS)) + 1, len(rate))
    near = np.arange(-reach, reach + 1)
    step = steps_of(trains.times, dt)[:, None] + near
    kernel = np.exp(-0.5 * (((step + 0.5) * dt - trains.times[:, None]) / sigma) ** 2)
    inside = (step >= 0) & (step < len(rate))
    np.add.at(rate, step[inside], kernel[inside])
    return rate * (1000 / (math.sqrt(2 * math.pi) * sigma * len(trains)))


def _explained(first: np.ndarray, second: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """2 cov / (var + var), and 1 where neither varies: its difference then does not vary either."""
    total = first + second
    silent = total <= 0
    return np.asarray(np.where(silent, 1.0, 2 * covariance / np.where(silent, 1.0, total)))


def _spans(windows: Any, duration: float) -> list[tuple[float, float]] | float:
    """Windows, checked; or the duration where the whole trial is meant."""
    if windows is None:
        return duration
    spans = given_times("windows", windows)
    inside = (
        np.isfinite(spans).all()
        and spans.ndim == 2
        and spans.shape[1] == 2
        and len(spans)
        and (spans[:, 0] < spans[:, 1]).all()
    )
    if not inside or spans.min() < 0 or spans.max() > duration + TOLERANCE:
        raise ArgumentError(f"windows: expected pairs 0 <= start < stop <= {duration:g} ms; found {found(windows)}")
    return [(float(start), float(stop)) for start, stop in spans]


def _parts(trains: SpikeTrains, spans: list[tuple[float, float]] | float) -> list[tuple[SpikeTrains, float, float]]:
    """Trains within each window, its length, and its share of the time."""
    if isinstance(spans, float):
        return [(trains, spans, 1.0)]
    total = sum(stop - start for start, stop in spans)
    return [(trains.window(start, stop), stop - start, (stop - start) / total) for start, stop in spans]


def _covariances(models: SpikeTrains, trials: SpikeTrains, sigma: float, spans: Any) -> np.ndarray:
    """Covariance over time of each smoothed model with each smoothed trial, (M, K)."""
    product = np.zeros((len(models), len(trials)))
    first, second = np.zeros(len(models)), np.zeros(len(trials))
    for (one, length, share), (other, _, _) in zip(_parts(models, spans), _parts(trials, spans), strict=True):
        for index, trial in enumerate(other):
            product[:, index] += share * _products(one, one.times, trial, sigma, length)
        first += share * _smoothed_means(one, sigma, length)
        second += share * _smoothed_means(other, sigma, length)
    return product - first[:, None] * second


def _variances(trains: SpikeTrains, sigma: float, spans: Any) -> np.ndarray:
    """Variance over time of each smoothed train, (trains,): the diagonal of `_covariances`."""
    square, mean = np.zeros(len(trains)), np.zeros(len(trains))
    for part, length, share in _parts(trains, spans):
        # trains one after the other, too far apart for spikes of two to meet
        apart = part.times + part.owners * (length + 3 * _REACH * sigma)
        square += share * _products(part, apart, apart, sigma, length, own=True)
        mean += share * _smoothed_means(part, sigma, length)
    return square - mean**2


def _products(
    trains: SpikeTrains, places: np.ndarray, others: np.ndarray, sigma: float, duration: float, own: bool = False
) -> np.ndarray:
    """Mean over 0 to `duration` of the product of each smoothed train with the smoothed, sorted `others`, (trains,).

    `places` are the trains' times on the axis of `others`, which may be shifted train by train. With `own` both are the
    same, and each pair of spikes is computed once. The product of
    Gaussians at t and s is one at their middle, of width sigma / sqrt 2, times one in t - s, of width sqrt 2 sigma; of
    the first, the part within the trial counts.
    """
    reach = _REACH * math.sqrt(2) * sigma
    owners, sums = trains.owners, np.zeros(len(trains))
    # middles of pairs without a spike near an end lie inside
    near_end = reach / 2 + _REACH * sigma / math.sqrt(2)
    ending = (trains.times < near_end) | (trains.times > duration - near_end)
    first = np.arange(len(places)) if own else np.searchsorted(others, places - reach)
    counts = np.searchsorted(others, places + reach, side="right") - first
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _PAIRS)))
        number = counts[start:stop]
        mine = np.repeat(np.arange(start, stop), number)
        within = np.arange(len(mine)) - np.repeat(np.cumsum(number) - number, number)
        gap = others[first[mine] + within] - places[mine]
        weight = np.exp(-(gap**2) / (4 * sigma**2))
        if own:
            weight[within > 0] *= 2
        if (edge := np.flatnonzero(ending[mine])).size:
            middle = trains.times[mine[edge]] + gap[edge] / 2
            weight[edge] *= _part_inside(middle, sigma / math.sqrt(2), duration)
        sums += np.bincount(owners[mine], weight, len(trains))
        start = stop
    return np.asarray(sums / (2 * math.sqrt(math.pi) * sigma * duration))


def _smoothed_means(trains: SpikeTrains, sigma: float, duration: float) -> np.ndarray:
    """Mean over 0 to `duration` of each smoothed train."""
    inside = _part_inside(trains.times, sigma, duration)
    return np.asarray(np.bincount(trains.owners, inside, len(trains)) / duration)


def _part_inside(centre: np.ndarray, sigma: float, duration: float) -> np.ndarray:
    """How much of a Gaussian lies between 0 and `duration`."""
    part = np.ones(len(centre))
    # NumPy has no error function; it is needed near the edges only
    edge = np.flatnonzero((centre < _REACH * sigma) | (centre > duration - _REACH * sigma))
    scale = 1 / (math.sqrt(2) * sigma)
    part[edge] = [0.5 * (math.erf((duration - c) * scale) + math.erf(c * scale)) for c in centre[edge].tolist()]
    return part


def _within(models: Any, trials: Any, duration: float) -> tuple[SpikeTrains, SpikeTrains, float]:
    """Models and trials, without spikes at the very end, and the duration, checked."""
    duration = milliseconds("duration", duration)
    result = []
    for argument, trains in (("models", SpikeTrains.of(models)), ("trials", SpikeTrains.of(trials))):
        if not len(trains):
            raise ArgumentError(f"{argument}: expected at least one train; found none")
        times = trains.times
        if times.size and (before(times, 0.0).any() or times.max() > duration + TOLERANCE):
            worst = times.min() if times.min() < 0 else times.max()
            raise ArgumentError(f"{argument}: expected times from 0 to {duration:g} ms (duration); found {worst:g}")
        result.append(trains if before(times, duration).all() else trains.window(0.0, duration))
    return result[0], result[1], duration


# ------------------------------------------------------------------------------------------------- coincidences


def coincidences(models: Any, trials: Any, *, window: float, once: bool = False) -> np.ndarray:
    """How many spikes of each model and each trial lie within `window` ms of each other.

    Parameters
    ----------
    models, trials : trains
        M and K trains.
    window : float
        Largest distance in ms, itself included.
    once : bool
        Whether a spike takes part in one coincidence at most: the largest number of disjoint pairs. Otherwise all pairs
        count. The two agree where the intervals within a train are longer than twice the window.

    Returns
    -------
    (M, K) int64 array

    Raises
    ------
    ArgumentError
        Trains are not trains, the window is not a time of at least 0, or once is not a bool.

    Examples
    --------
    >>> from blocksim.metrics import coincidences
    >>> coincidences([10.0, 12.0, 40.0], [11.0, 44.0], window=4)
    array([[3]])
    >>> coincidences([10.0, 12.0, 40.0], [11.0, 44.0], window=4, once=True)
    array([[2]])
    """
    models, trials = SpikeTrains.of(models), SpikeTrains.of(trials)
    reach = milliseconds("window", window, zero=True) + TOLERANCE
    if flag("once", once):
        return _disjoint_coincidences(models, trials, reach)
    result = np.empty((len(models), len(trials)), np.int64)
    for index, trial in enumerate(trials):
        first = np.searchsorted(trial, models.times - reach)
        counts = np.searchsorted(trial, models.times + reach, side="right") - first
        result[:, index] = np.bincount(models.owners, counts, len(models)).astype(np.int64)
    return result


def _disjoint_coincidences(models: SpikeTrains, trials: SpikeTrains, reach: float) -> np.ndarray:
    """All M K pairs of trains, merged side by side, a spike a step: to take the first possible pair is best."""
    first, second = models.padded(), trials.padded()
    pairs = len(first) * len(second)
    i, j, number = (np.zeros(pairs, np.int64) for _ in range(3))
    model, trial = np.divmod(np.arange(pairs), len(second))
    model_counts, trial_counts = models.counts[model], trials.counts[trial]
    alive = np.flatnonzero((i < model_counts) & (j < trial_counts))
    while alive.size:
        gap = first[model[alive], i[alive]] - second[trial[alive], j[alive]]
        together = np.abs(gap) <= reach
        number[alive] += together
        i[alive] += together | (gap < 0)
        j[alive] += together | (gap >= 0)
        alive = alive[(i[alive] < model_counts[alive]) & (j[alive] < trial_counts[alive])]
    return number.reshape(len(first), len(second))


def gamma_factor(models: Any, trials: Any, *, window: float, duration: float) -> np.ndarray:
    """Coincidence factor Gamma of each model with each trial.

    Gamma = (N_coinc - <N_coinc>) / [N (N_trial + N_model) / 2]: coincidences, less those that a Poisson train of the
    model's rate nu would have by chance, <N_coinc> = 2 nu window N_trial, scaled by N = 1 - 2 nu window so that it is 1
    where trains agree. A spike takes part in one coincidence at most.

    Parameters
    ----------
    models, trials : trains
        M and K trains.
    window : float
        Half-width of the window of coincidence in ms; 2 ms and 4 ms are usual.
    duration : float
        Length of the trials in ms.

    Returns
    -------
    (M, K) float64 array
        1 for identical trains, two empty ones among them; 0 where one alone is empty; NaN where the model's rate is
        1 / (2 window) or more, for which chance alone fills every window.

    Raises
    ------
    ArgumentError
        Trains are not trains, or there are none; a spike lies outside the trial; the duration is not a time above 0; or
        the window is not one of at least 0.

    Notes
    -----
    Sources: Kistler, Gerstner, van Hemmen, Neural Computation 9 (1997), 1015-1045; Jolivet et al., "A benchmark test
    for a quantitative assessment of simple neuron models", Journal of Neuroscience Methods 169 (2008), 417-424,
    equation 1.

    Examples
    --------
    >>> from blocksim.metrics import gamma_factor
    >>> gamma_factor([10.0, 50.0], [[10.0, 50.0], [90.0]], window=2, duration=1000).round(4)
    array([[ 1.    , -0.0054]])
    """
    models, trials, duration = _within(models, trials, duration)
    number = coincidences(models, trials, window=window, once=True)
    model_counts, trial_counts = models.counts[:, None], trials.counts
    chance = 2 * model_counts / duration * milliseconds("window", window, zero=True)
    total = 0.5 * (model_counts + trial_counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        gamma = (number - chance * trial_counts) / (total * (1 - chance))
    gamma = np.where(chance >= 1, np.nan, gamma)
    gamma = np.where((model_counts == 0) | (trial_counts == 0), 0.0, gamma)
    return np.asarray(np.where((model_counts == 0) & (trial_counts == 0), 1.0, gamma))


def md_star(models: Any, trials: Any, *, window: float = 4.0, model_pairs: str = "different") -> float:
    """Md*: how alike two sets of trains are, free of the bias that few trials bring.

    Md* = 2 <D, M> / (<D, D> + <M, M>). <A, B> is the mean, over pairs of trains, of the pairs of spikes within `window`
    of each other. For <D, D> and <M, M> the pairs are of different trains: one agrees with itself too well.

    Parameters
    ----------
    models : trains
        Trains of one model: one where it is deterministic, else as many as one likes.
    trials : trains
        Recorded trials, two or more.
    window : float
        Half-width of the window in ms; 4 ms is usual.
    model_pairs : "different" or "all"
        The pairs of <M, M>: "different" corrects the model as the data are; "all" pairs each train with itself too, as
        the GIF toolbox does, which runs a model so often that it makes no difference. A single train, as of a
        deterministic model, is paired with itself in both.

    Returns
    -------
    float
        1: alike; 0: no spike in common. Where the denominator is 0: 1 if neither set has spikes, else 0.

    Raises
    ------
    ArgumentError
        There are fewer than two trials, or no model.

    Notes
    -----
    Sources: Naud, Gerhard, Mensi, Gerstner, "Improved similarity measures for small sets of spike trains", Neural
    Computation 23 (2011), 3016-3069; Pozzorini et al., PLoS Computational Biology 11 (2015), e1004275, whose toolbox
    takes the kernel of Kistler et al., K = rect(s / window) delta(s'), as here. The toolbox puts spikes on a grid,
    where its window reaches from -window to window - dt; here it is symmetric and closed.

    Examples
    --------
    >>> from blocksim.metrics import md_star
    >>> md_star([10.0, 50.0], [[11.0, 50.0], [9.0, 70.0]], window=4)
    1.0
    """
    models, trials = SpikeTrains.of(models), SpikeTrains.of(trials)
    choice("model_pairs", model_pairs, MODEL_PAIRS)
    if len(trials) < 2 or not len(models):
        raise ArgumentError(
            f"models, trials: expected at least one model and two trials; found {len(models)} and {len(trials)}"
        )
    merged = SpikeTrains.of([np.sort(models.times)])  # where all pairs count, whose spikes they are makes no difference
    both = coincidences(merged, trials, window=window).mean() / len(models)
    data = _pair_mean(coincidences(trials, trials, window=window))
    if model_pairs == "all" or len(models) == 1:
        own = float(coincidences(merged, merged, window=window).item()) / len(models) ** 2
    else:
        themselves = sum(int(coincidences([train], [train], window=window).item()) for train in models)
        pairs = int(coincidences(merged, merged, window=window).item()) - themselves
        own = pairs / (len(models) * (len(models) - 1))
    if data + own == 0:
        return 1.0 if not models.times.size and not trials.times.size else 0.0
    return float(2 * both / (data + own))


def intrinsic_reliability(trials: Any, *, window: float = 4.0) -> float:
    """How well trials agree with each other: mean coincidences over pairs of different trials, over their mean count.

    A spike takes part in one coincidence at most.

    Parameters
    ----------
    trials : trains
        Recorded trials, two or more.
    window : float
        Half-width of the window in ms.

    Returns
    -------
    float
        1 where each spike recurs in each trial, 0 where none does, or there is none.

    Raises
    ------
    ArgumentError
        There are fewer than two trials.

    Examples
    --------
    >>> from blocksim.metrics import intrinsic_reliability
    >>> intrinsic_reliability([[10.0, 50.0], [12.0, 80.0]], window=4)
    0.5

    Notes
    -----
    It is the <D, D> of `md_star` over the trials' mean count, but for the spikes that come in the window of two others,
    of which there are few unless the window is long.
    """
    trials = SpikeTrains.of(trials)
    if len(trials) < 2:
        raise ArgumentError(f"trials: expected two trials or more; found {len(trials)}")
    count = trials.counts.mean()
    number = coincidences(trials, trials, window=window, once=True)
    return float(_pair_mean(number) / count) if count else 0.0


def _pair_mean(number: np.ndarray) -> float:
    """The mean over pairs of different trains, of a matrix of all pairs."""
    pairs = len(number) * (len(number) - 1)
    return float((number.sum() - np.trace(number)) / pairs)


# -------------------------------------------------------------------------------------------- rates and intervals


@dataclass(frozen=True)
class TrainStatistics:
    """What trains are like, one value a train; NaN where a train has too few spikes for it.

    Attributes
    ----------
    count : (trains,) int64 array
        Spikes.
    rate : (trains,) float64 array
        Mean rate in Hz.
    mean_isi : (trains,) float64 array
        Mean interval between spikes in ms; of two spikes or more.
    cv : (trains,) float64 array
        Coefficient of variation of the intervals, with the population's standard deviation; of three spikes or more.
    cv2, lv : (trains,) float64 arrays
        Mean of 2 abs(I_k+1 - I_k) / (I_k+1 + I_k), and of 3 (I_k+1 - I_k)^2 / (I_k+1 + I_k)^2, over neighbouring
        intervals: variation, cleared of slow changes of the rate; of three spikes or more.
    """

    count: np.ndarray
    rate: np.ndarray
    mean_isi: np.ndarray
    cv: np.ndarray
    cv2: np.ndarray
    lv: np.ndarray


def train_statistics(trains: Any, *, duration: float) -> TrainStatistics:
    """Rates and intervals of trains.

    Parameters
    ----------
    trains : trains
        K trains.
    duration : float
        Length of the trials in ms.

    Returns
    -------
    TrainStatistics

    Raises
    ------
    ArgumentError
        Trains are not trains, or there are none; a spike lies outside the trial; or the duration is not a time above 0.

    Notes
    -----
    Sources: Holt et al., Journal of Neurophysiology 75 (1996), 1806-1814, for CV2; Shinomoto, Shima, Tanji, Neural
    Computation 15 (2003), 2823-2842, equation 2.2, for LV. Intervals of 0 ms, two spikes at one time, count as they
    are; two in a row leave out their pair.

    Examples
    --------
    >>> from blocksim.metrics import train_statistics
    >>> found = train_statistics([[0.0, 10.0, 30.0], [5.0]], duration=100)
    >>> found.rate, found.cv.round(3), found.cv2.round(3)
    (array([30., 10.]), array([0.333,   nan]), array([0.667,   nan]))
    """
    trains, _, duration = _within(trains, trains, duration)
    count, number = trains.counts, len(trains)
    owner = trains.owners
    inside = owner[1:] == owner[:-1]
    isi, isi_owner = np.diff(trains.times)[inside], owner[1:][inside]
    mean_isi = _mean(isi, isi_owner, number)
    deviation = _mean((isi - mean_isi[isi_owner]) ** 2, isi_owner, number)
    pair = isi_owner[1:] == isi_owner[:-1]
    total, change, pair_owner = (isi[1:] + isi[:-1])[pair], np.diff(isi)[pair], isi_owner[1:][pair]
    moving = total > 0
    ratio, pair_owner = change[moving] / total[moving], pair_owner[moving]
    with np.errstate(divide="ignore", invalid="ignore"):
        cv = np.where(count > 2, np.sqrt(deviation) / mean_isi, np.nan)
    cv2, lv = _mean(2 * np.abs(ratio), pair_owner, number), _mean(3 * ratio**2, pair_owner, number)
    return TrainStatistics(count, count * (1000.0 / duration), mean_isi, cv, cv2, lv)


def _mean(values: np.ndarray, owner: np.ndarray, number: int) -> np.ndarray:
    """Mean of the values of each train; NaN where there are none."""
    counts = np.bincount(owner, minlength=number)
    sums = np.bincount(owner, values, number)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
