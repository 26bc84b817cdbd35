"""Poisson input: events that fall at random into the steps of each neuron, at a rate that may change.

Owns what a caller may ask for, and the law: a counted random number of each sample, step and neuron, and how many
values of the distribution function it reaches. A backend may have a faster version of `counts` (`Backend.fast`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from blocksim._escape import Noise, checked_seed, philox
from blocksim._validation import MAX_SIZE, decimal, finite, found, milliseconds, precision, real_array, whole_number
from blocksim.backend import get_backend
from blocksim.errors import ArgumentError, MissingLibraryError
from blocksim.numerics import exponential

WORDS = 4  # of a counter: as many steps of a neuron
MAX_SAMPLES, MAX_STEPS = 2**32, 2**32 * WORDS
MAX_ENTRIES = 2**40  # at a time
# The last word of the counters. Escape noise has the place of a layer there: with one seed the two never meet.
UPPER, LOWER = 2**32 - 1, 2**32 - 2
UNIT = 2.0**-32
KEPT = 2**32 - 2**11  # the bits of the second word that are used: 53 make a number
NEGLIGIBLE = 2.0**-54
MAX_COUNT = 1000  # beyond any that is drawn of the largest mean
LARGEST_MEAN = 500.0  # the distribution function begins at exp(-mean), which must not underflow
STRETCH = 1024  # steps that NumPy draws at a time


class Entries(NamedTuple):
    """What is drawn.

    Attributes
    ----------
    key : tuple of int
        The lower and upper 32 bits of the seed.
    shape : tuple of int
        Samples, steps and neurons.
    first : int
        Number of the first step.
    """

    key: tuple[int, int]
    shape: tuple[int, int, int]
    first: int


def poisson_input(
    rate: Any,
    steps: int | None = None,
    *,
    dt: float,
    neurons: int | None = None,
    batch: int | None = None,
    weight: Any = 1.0,
    seed: int | None = None,
    first_step: int = 0,
    dtype: Any = np.float32,
) -> np.ndarray:
    """Poisson trains, one for each neuron: the number of events in each step, times a weight.

    What a layer without weights takes as its current. `Events.from_dense` makes events of counts, for a layer with
    weights.

    Parameters
    ----------
    rate : float, or array (N,), (T, N) or (B, T, N)
        Events a second (Hz), at least 0. An axis of length 1 stands for all: (T, 1) is a rate that changes in time, the
        same for all neurons; (B, 1, N) are rates of each sample and neuron that do not change.
    steps : int or None
        Time steps T. None takes those of the rate.
    dt : float
        Time step in ms, > 0.
    neurons : int or None
        Neurons N. None takes those of the rate or the weight; 1 where both are numbers.
    batch : int or None
        Samples B, each with trains of its own. None takes those of the rate; without one the array has no such axis.
    weight : float or (N,) array
        What an event adds to the input of its step.
    seed : int or None
        0 to 2**64 - 1; None: other trains each time. Two calls with one seed have the same trains: give each population
        its own. It may be the seed of a run.
    first_step : int
        Number of the first step. A long input is drawn in parts: steps first_step .. first_step + T - 1 of it.
    dtype : float32 or float64
        Of the result; None is float32.

    Returns
    -------
    numpy.ndarray
        (T, N) or (B, T, N), C-contiguous.

    Raises
    ------
    ArgumentError
        An argument is wrong, or a rate gives more than 500 events in a step: add their mean as a constant current then,
        and normal noise. The message names it, what was expected and what was found.

    Notes
    -----
    The law is Poisson's to rounding, by inversion of its distribution function (Devroye, "Non-uniform random variate
    generation", Springer 1986, chapter X.3): a count is the number of values of the distribution function that a
    uniform number reaches. That number has 53 bits, and the distribution function is summed in float64: probabilities
    are right to about 1e-16, 1e-13 for hundreds of events in a step, and what is less likely does not occur.

    The number is drawn by Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) as a
    function of the seed and of the entry's sample, step and neuron: an entry is the same whatever else is drawn with
    it, for any number of threads, with and without Numba.

    Examples
    --------
    >>> import blocksim
    >>> x = blocksim.poisson_input(2000, steps=10_000, dt=0.1, neurons=3, weight=0.05, seed=1)
    >>> x.shape
    (10000, 3)
    >>> run = blocksim.simulate(blocksim.Layer(blocksim.LIF(beta=0.99, refractory_steps=20)), x, backend="numpy")
    >>> run.spikes.sum(axis=0)
    array([33, 32, 35])
    """
    means = _means(rate, milliseconds("dt", dt))
    weights = _weights(weight, precision("dtype", np.float32 if dtype is None else dtype))
    if steps is None and means.ndim < 2:
        raise ArgumentError("steps: expected a number of steps, for the rate has none of its own; found None")
    samples, moments, units = own = (1,) * (3 - means.ndim) + means.shape
    shape = (
        samples if batch is None else whole_number("batch", batch, 1, MAX_SAMPLES),
        moments if steps is None else whole_number("steps", steps, 1, MAX_STEPS),
        max(units, weights.size) if neurons is None else whole_number("neurons", neurons, 1, MAX_SIZE),
    )
    for each, wanted in zip(own, shape, strict=True):
        if each not in (1, wanted):
            raise ArgumentError(
                f"rate: expected an array that goes with (batch, time, neurons) = {shape}; found {found(means)}"
            )
    if weights.size not in (1, shape[2]):
        raise ArgumentError(f"weight: expected a number, or one for each of {shape[2]} neurons; found {found(weights)}")
    if math.prod(shape) > MAX_ENTRIES:
        raise ArgumentError(
            f"steps: expected at most 2**40 numbers at a time; found (batch, time, neurons) = {shape} (draw a long "
            "input in parts, with first_step)"
        )
    first = whole_number("first_step", first_step, 0, MAX_STEPS - shape[1])
    drawn = _fastest()(means.reshape(own), weights, Entries(Noise(checked_seed(seed)).key, shape, first))
    return drawn if batch is not None or means.ndim == 3 else drawn[0]


def _means(rate: Any, dt: float) -> np.ndarray:
    """Events a step, float64, in the rate's shape."""
    hertz = real_array("rate", rate, "Hz")
    if hertz.ndim > 3 or 0 in hertz.shape:
        raise ArgumentError(
            "rate: expected a number or a non-empty array of shape (neurons,), (time, neurons) or (batch, time, "
            f"neurons); found {found(hertz)}"
        )
    finite("rate", hertz)
    means = np.ascontiguousarray(hertz if hertz.ndim else decimal(hertz[()]), np.float64).reshape(hertz.shape)
    means = means * (dt / 1000)
    if means.min() < 0:
        raise ArgumentError(f"rate: expected a rate in Hz of at least 0; found {hertz.min()}")
    if means.max() > LARGEST_MEAN:
        raise ArgumentError(
            f"rate: expected at most {LARGEST_MEAN:g} events in a step, {1000 * LARGEST_MEAN / dt:g} Hz where "
            f"dt = {dt:g} ms; found {hertz.max():g} Hz (add a constant current and normal noise instead)"
        )
    return means


def _weights(weight: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Weights of events, (1,) or (N,), of the result's dtype."""
    each = real_array("weight", weight)
    if each.ndim > 1 or not each.size:
        raise ArgumentError(f"weight: expected a number or an array of shape (neurons,); found {found(each)}")
    with np.errstate(over="ignore"):
        converted = each.astype(dtype)
    finite("weight", each)
    finite(f"weight (as {dtype})", converted)
    if np.abs(converted).max() > np.finfo(dtype).max / MAX_COUNT:
        raise ArgumentError(
            f"weight: expected a number that {dtype} holds times {MAX_COUNT} events; found {np.abs(each).max():g}"
        )
    return np.atleast_1d(converted)


def _fastest() -> Callable[..., np.ndarray]:
    """`counts`, by Numba where that is there: it returns the same."""
    try:
        return get_backend("numba").fast(counts)
    except MissingLibraryError:
        return counts


def counts(means: np.ndarray, weights: np.ndarray, entries: Entries) -> np.ndarray:
    """Weighted counts, of the shape (B, T, N) of the entries.

    means : (B or 1, T or 1, N or 1) float64; weights : (N or 1,), of the dtype of the result.
    """
    batch, steps, _ = entries.shape
    out = np.empty(entries.shape, weights.dtype)
    for sample in range(batch):
        mean = means[sample % len(means)]
        for start in range(0, steps, STRETCH):
            part = slice(start, min(start + STRETCH, steps))
            u = uniform(entries, sample, part)
            count = np.zeros(u.shape, weights.dtype)
            for total in distribution(mean if len(mean) == 1 else mean[part]):
                reached = total <= u
                if not reached.any():
                    break
                count += reached
            out[sample, part] = weights * count
    return out


def distribution(mean: np.ndarray) -> Iterator[np.ndarray]:
    """The values of the distribution function at 0, 1, 2, ..., until all are 1.

    They are 1 where only negligible terms are left: rounding may hold their sum below.
    """
    part = total = exponential(-mean)
    count = 0
    while (total < 1).any():
        yield total
        count += 1
        part = part * (mean * (1.0 / count))
        total = np.where((part < NEGLIGIBLE) & (mean < count), 1.0, total + part)


def uniform(entries: Entries, sample: int, part: slice) -> np.ndarray:
    """Numbers of [0, 1), float64, for some steps of a sample, (steps, N): 53 bits of two words."""
    first, last, size = entries.first + part.start, entries.first + part.stop - 1, entries.shape[2]
    numbers, groups = np.arange(size, dtype=np.uint64), np.arange(first // WORDS, last // WORDS + 1, dtype=np.uint64)

    def words(which: int) -> np.ndarray:
        counter = np.broadcast_arrays(numbers, groups[:, None], np.uint64(sample), np.uint64(which))
        drawn = np.stack(philox(list(counter), entries.key), axis=1)
        return drawn.reshape(-1, size)[first % WORDS :][: part.stop - part.start]

    return words(UPPER) * UNIT + (words(LOWER) & np.uint64(KEPT)) * UNIT**2
