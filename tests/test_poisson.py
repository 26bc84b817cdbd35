"""Poisson input: the law, bits that no choice of computing changes, the shapes that rates may have, what is refused."""

import math
import platform
import re
from itertools import pairwise

import numba
import numpy as np
import pytest
from blocksim.backends.numba_cpu import compiling
from blocksim.backends.numba_cpu import poisson as kernels
from scipy.stats import chi2_contingency, chisquare, poisson

import blocksim
from blocksim import Events, poisson_input
from blocksim._escape import philox
from blocksim._poisson import LARGEST_MEAN, Entries, counts, distribution
from blocksim.numerics import exponential

from .helpers import assert_refused, assert_same_bits, threads

NUMBA = blocksim.get_backend("numba")
FAST = NUMBA.fast(counts)
FOURTH = (2**32 - 1, 2**32 - 2)  # of the counters of first and second words


def word_of(seed, sample, step, neuron, which):
    counter = [np.array([each], np.uint64) for each in (neuron, step // 4, sample, FOURTH[which])]
    return int(philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[step % 4][0])


def count_of(mean, seed, sample, step, neuron):
    """One entry from the definition: whole numbers for the uniform number, and a sum for the distribution function."""
    u = (word_of(seed, sample, step, neuron, 0) << 21) + (word_of(seed, sample, step, neuron, 1) >> 11)
    part = total = float(exponential(np.array([-mean]))[0])
    count = 0
    while u >= total * 2.0**53:
        count += 1
        part *= mean * (1 / count)
        total = 1.0 if part < 2.0**-54 and count > mean else total + part
    return count


RATES = {
    "one": np.float64(1700.0),
    "of neurons": np.array([0.0, 30.0, 900.0, 20_000.0, 400_000.0]),
    "in time": np.linspace(0, 30_000, 9)[:, None],
    "in time, of neurons": np.random.default_rng(0).uniform(0, 30_000, (9, 5)),
    "of samples": np.random.default_rng(1).uniform(0, 30_000, (2, 1, 5)),
    "of samples, in time": np.random.default_rng(2).uniform(0, 30_000, (2, 9, 1)),
    "of all": np.random.default_rng(3).uniform(0, 30_000, (2, 9, 5)),
}


@pytest.mark.parametrize("first_step", [0, 3, 2**33 + 5])
@pytest.mark.parametrize("name", RATES)
def test_each_entry_is_what_the_definition_says(name, first_step):
    rate, seed, dt = RATES[name], 2**40 + 12345, 0.1
    x = poisson_input(rate, 9, dt=dt, neurons=5, batch=2, seed=seed, first_step=first_step)
    means = np.broadcast_to(rate * (dt / 1000), (2, 9, 5))
    expected = [
        count_of(means[place], seed, place[0], first_step + place[1], place[2]) for place in np.ndindex(2, 9, 5)
    ]
    assert_same_bits(name, x, np.array(expected, np.float32).reshape(2, 9, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("name", RATES)
def test_numba_and_numpy_draw_the_same(name, size, dtype):
    means = np.array(RATES[name]) * 1e-4
    means = means.reshape((1,) * (3 - means.ndim) + means.shape)
    means = np.resize(means, (*means.shape[:2], size if means.shape[2] > 1 else 1))
    entries = Entries((7, 2**31), (2, 9, size), 6)
    for weights in (np.array([0.3], dtype), np.linspace(-1, 1, size).astype(dtype)):
        assert_same_bits("counts", FAST(means, weights, entries), counts(means, weights, entries))


@pytest.mark.parametrize("above", [-1, 0, 1])
def test_the_second_word_decides_where_the_first_cannot(above):
    """The rate is such that the first value of the distribution function lies beside the number of an entry."""
    seed, step, neuron, dt = 5, 6, 18, 1.0
    u = word_of(seed, 0, step, neuron, 0) * 2.0**-32 + (word_of(seed, 0, step, neuron, 1) >> 11) * 2.0**-53
    mean = -math.log(u)
    for _ in range(100):  # the largest mean whose exponential is still above the number
        if exponential(np.array([-mean]))[0] > u:
            break
        mean = np.nextafter(mean, 0)
    for _ in range(abs(above)):
        mean = np.nextafter(mean, mean + above)
    for rate in (1000 * mean, np.full((8, 1), 1000 * mean), np.full((8, 20), 1000 * mean)):
        x = poisson_input(rate, 8, dt=dt, neurons=20, seed=seed)
        kept = np.asarray(rate).flat[0] * (dt / 1000)  # what is left of the mean
        assert x[step, neuron] == count_of(kept, seed, 0, step, neuron)
        assert (x[step, neuron] == 0) == (exponential(np.array([-kept]))[0] > u)
    entries = Entries((seed, 0), (1, 8, 20), 0)
    means = np.full((1, 1, 1), mean)
    assert_same_bits("x", FAST(means, np.ones(1), entries), counts(means, np.ones(1), entries))


@pytest.mark.parametrize("mean", [1e-12, 1e-3, 0.2, 1.0, 7.3, 40.0, LARGEST_MEAN])
def test_the_distribution_function_is_scipys(mean):
    values = np.array([float(total[0]) for total in distribution(np.array([mean]))])
    expected = poisson.cdf(np.arange(len(values)), mean)
    assert np.abs(values - expected).max() < 1e-12  # rounding, of some hundred terms at most
    assert poisson.sf(len(values), mean) < 1e-14


@pytest.mark.parametrize("mean", [0.01, 0.2, 1.0, 5.0, 60.0, 450.0])
@pytest.mark.parametrize("changes", [False, True])
def test_counts_have_the_law(mean, changes):
    rate = np.full((5000, 1), 1000 * mean) if changes else 1000 * mean
    x = poisson_input(rate, 5000, dt=1, neurons=60, seed=17)
    low, high = (int(poisson.ppf(end, mean)) for end in (1e-4, 1 - 1e-4))
    bins = np.arange(low, high + 1)
    expected = np.concatenate([[poisson.cdf(low - 1, mean)], poisson.pmf(bins, mean), [poisson.sf(high, mean)]])
    seen = np.array([(x < low).sum(), *((x == each).sum() for each in bins), (x > high).sum()])
    often = expected * x.size > 5
    seen, expected = [np.append(each[often], each[~often].sum()) for each in (seen, expected)]
    if not expected[-1] * x.size > 5:  # what is seldom goes with the last
        seen, expected = [np.append(each[:-2], each[-2:].sum()) for each in (seen, expected)]
    assert chisquare(seen, expected * x.size).pvalue > 1e-3
    assert abs(x.mean() - mean) < 4 * np.sqrt(mean / x.size)


@pytest.mark.parametrize(("step", "neuron", "sample"), [(1, 0, 0), (4, 0, 0), (0, 1, 0), (0, 16, 0), (0, 0, 1)])
def test_neighbours_are_independent(step, neuron, sample):
    x = poisson_input(1000, 4000, dt=1, neurons=40, batch=2, seed=3).astype(int)
    one = x[: 2 - sample, : 4000 - step, : 40 - neuron].ravel()
    other = x[sample:, step:, neuron:].ravel()
    together = np.histogram2d(np.minimum(one, 4), np.minimum(other, 4), bins=np.arange(6))[0]
    assert chi2_contingency(together).pvalue > 1e-3


def test_seeds_and_runs_of_stochastic_neurons_share_nothing():
    """Other seeds, or a seed whose upper half differs: other trains. A run with the same seed draws other words."""
    trains = [
        poisson_input(1000, 400, dt=1, neurons=40, seed=seed).ravel() for seed in (0, 1, 2**32, 2**64 - 1, None, None)
    ]
    for k, one in enumerate(trains):
        for other in trains[:k]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(len(one))
    assert min(FOURTH) > blocksim._validation.MAX_SIZE  # no layer of a network has such a place


def test_the_same_bits_in_parts_of_time_and_batch_and_for_any_number_of_threads():
    rate = np.random.default_rng(0).uniform(0, 3000, 70)
    x = poisson_input(rate, 230, dt=1, batch=3, seed=9, first_step=11)
    ends = (0, 1, 3, 4, 50, 57, 230)
    parts = [
        poisson_input(rate, stop - start, dt=1, batch=3, seed=9, first_step=11 + start)
        for start, stop in pairwise(ends)
    ]
    assert_same_bits("x", np.concatenate(parts, axis=1), x)
    assert_same_bits("x", poisson_input(rate, 230, dt=1, seed=9, first_step=11), x[0])
    assert_same_bits("x", poisson_input(rate[:5], 230, dt=1, batch=2, seed=9, first_step=11), x[:2, :, :5])
    for number in (1, 2):
        with threads(NUMBA, number):
            assert_same_bits("x", poisson_input(rate, 230, dt=1, batch=3, seed=9, first_step=11), x)


def test_shapes_precision_and_weights():
    assert poisson_input(10, 4, dt=1).shape == (4, 1)
    assert poisson_input([10, 20], 4, dt=1).shape == (4, 2)
    assert poisson_input(np.ones((4, 3)), dt=1).shape == (4, 3)
    assert poisson_input(np.ones((2, 4, 3)), dt=1).shape == (2, 4, 3)
    assert poisson_input(np.ones((2, 1, 3)), 4, dt=1).shape == (2, 4, 3)
    assert poisson_input(10, 4, dt=1, neurons=3, batch=1).shape == (1, 4, 3)
    assert poisson_input(10, 4, dt=1, weight=np.ones(3)).shape == (4, 3)
    x = poisson_input(1000, 50, dt=1, neurons=3, seed=1)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert x.flags.writeable
    weight = np.array([0.1, -2.0, 0.0])
    weighted = poisson_input(1000, 50, dt=1, seed=1, weight=weight, dtype="float64")
    assert_same_bits("weighted", weighted, x * weight)
    assert (poisson_input(np.float32(1000), 50, dt=np.float32(1), neurons=3, seed=1) == x).all()
    in_fortran = np.asfortranarray(np.random.default_rng(0).uniform(0, 3000, (50, 20)))
    assert (poisson_input(in_fortran, dt=1, seed=1) == poisson_input(in_fortran.copy("C"), dt=1, seed=1)).all()


@pytest.mark.parametrize("rate", [0, np.zeros(20), np.zeros((6, 20)), np.zeros((6, 1))])
def test_a_rate_of_zero_gives_no_events(rate):
    assert not poisson_input(rate, 6, dt=0.1, neurons=20, seed=0).any()


def test_arrays_of_the_caller_are_left_alone():
    rate, weight = np.full((6, 4), 900.0), np.full(4, 0.5, np.float32)
    for array in (rate, weight):
        array.flags.writeable = False
    poisson_input(rate, dt=1, weight=weight)
    assert (rate == 900).all()
    assert (weight == 0.5).all()


def test_layers_take_it():
    """As a current, and as events of inputs."""
    x = poisson_input(300, 500, dt=1, neurons=6, batch=2, seed=4)
    neuron = blocksim.LIF(0.9, refractory_steps=3)
    weights = np.full((6, 5), 0.1, np.float32)
    run = blocksim.simulate(blocksim.Layer(neuron, weights), x)
    assert run.spikes.any()
    assert (blocksim.simulate(blocksim.Layer(neuron, weights), Events.from_dense(x)).spikes == run.spikes).all()
    assert blocksim.simulate(blocksim.Layer(neuron), x).spikes.any()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rate": -1}, ["rate: expected a rate in Hz of at least 0; found -1"]),
        ({"rate": np.nan}, ["rate: expected finite numbers; found nan"]),
        ({"rate": [1, np.inf, 2, 3]}, ["rate: expected finite numbers; found inf at index (1,)"]),
        (
            {"rate": 5.1e6},
            ["rate: expected at most 500 events in a step, 5e+06 Hz where dt = 0.1 ms; found 5.1e+06 Hz"],
        ),
        ({"rate": "fast"}, ["rate: expected real numbers"]),
        ({"rate": np.ones((1, 1, 1, 1))}, ["rate: expected a number or a non-empty array of shape (neurons,)"]),
        ({"rate": []}, ["rate: expected a number or a non-empty array"]),
        ({"rate": np.ones(3)}, ["rate: expected an array that goes with (batch, time, neurons) = (1, 8, 4)", "(3,)"]),
        ({"rate": np.ones((7, 4))}, ["rate: expected an array that goes with (batch", "(1, 8, 4)", "(7, 4)"]),
        ({"rate": np.ones((3, 8, 4)), "batch": 2}, ["rate: expected an array", "(2, 8, 4)", "(3, 8, 4)"]),
        ({"steps": None}, ["steps: expected a number of steps, for the rate has none of its own; found None"]),
        ({"steps": 0}, ["steps: expected a whole number from 1"]),
        (
            {"steps": 2**33, "neurons": 2**20},
            ["steps: expected at most 2**40 numbers at a time", "(1, 8589934592, 1048576)"],
        ),
        ({"neurons": 1.5}, ["neurons: expected a whole number"]),
        ({"batch": 0}, ["batch: expected a whole number"]),
        ({"dt": 0}, ["dt: expected a time in ms above 0; found 0"]),
        ({"weight": np.ones(3)}, ["weight: expected a number, or one for each of 4 neurons", "(3,)"]),
        ({"weight": np.ones((4, 4))}, ["weight: expected a number or an array of shape (neurons,)", "(4, 4)"]),
        ({"weight": np.nan}, ["weight: expected finite numbers; found nan"]),
        ({"weight": 1e300}, ["weight (as float32): expected finite numbers; found inf"]),
        ({"seed": -1}, ["seed: expected a whole number from 0"]),
        ({"first_step": -1}, ["first_step: expected a whole number from 0"]),
        ({"first_step": 2**34 - 7}, ["first_step: expected a whole number from 0 to 17179869176; found 17179869177"]),
        ({"dtype": int}, ["dtype: expected float32 or float64"]),
    ],
)
def test_what_is_refused(given, words):
    assert_refused(lambda: poisson_input(**{"rate": 10, "steps": 8, "dt": 0.1, "neurons": 4, **given}), words)


def test_words_are_drawn_in_vectors(monkeypatch, tmp_path):
    """Four multiplications of 32 bits, or more, at a time: what the speed rests on."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"reads x86-64 assembly, and this is {platform.machine()}")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))  # a kept kernel has no assembly to look at
    fresh = compiling.kernel(kernels.draw_counts.dispatcher.py_func)
    monkeypatch.setattr(kernels, "draw_counts", fresh)
    poisson_input(1000, 8, dt=1, neurons=20)
    (text,) = fresh.dispatcher.inspect_asm().values()
    packed = len(re.findall(r"\bv?pmuludq\b", text))
    single = len(re.findall(r"\bi?mulq\b", text))  # of places in arrays
    assert packed >= 36  # two a round, in one register or more
    assert packed > 2 * single


def test_without_numba_the_same_is_drawn(monkeypatch):
    expected = poisson_input(1000, 50, dt=1, neurons=3, seed=1)

    def missing(name):
        raise blocksim.MissingLibraryError(name)

    monkeypatch.setattr("blocksim._poisson.get_backend", missing)
    assert_same_bits("x", poisson_input(1000, 50, dt=1, neurons=3, seed=1), expected)
