"""Losses: values and gradients against sums over pairs and finite differences, in every backend; and wrong input.

The numbers of `test_cross_entropy_is_that_of_the_reference` are those of torch.nn.functional.cross_entropy, PyTorch
2.13.0 (CPU, float64).
"""

from __future__ import annotations

import numpy as np
import pytest

import blocksim
from blocksim.classification import accuracy, confusion_matrix
from blocksim.losses import cross_entropy, mean_squared_count, rate_penalty, van_rossum

from .helpers import assert_refused


def by_pairs(spikes, target, tau, dt):
    """Equation (19), every sum written out."""
    difference = np.asarray(spikes, float) - target
    steps = difference.shape[1]
    kernel = np.array([[np.exp(-(t - s) * dt / tau) if s <= t else 0.0 for s in range(steps)] for t in range(steps)])
    filtered = np.einsum("ts,bsn->btn", kernel, difference)
    return dt / tau * (filtered**2).sum(), 2 * dt / tau * np.einsum("ts,btn->bsn", kernel, filtered)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 1), (2, 33, 3), (9, 20, 1), (2, 25, 70)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_van_rossum_is_the_sum_over_pairs(backend, shape, dtype):
    rng = np.random.default_rng(1)
    spikes, target = rng.random((2, *shape)) < 0.2
    found = van_rossum(spikes, target, tau=5.0, dt=0.5, backend=backend, dtype=dtype)
    value, gradient = by_pairs(spikes, target, 5.0, 0.5)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert found.value == pytest.approx(value, rel=tolerance, abs=tolerance)
    np.testing.assert_allclose(found.gradient, gradient, rtol=tolerance, atol=tolerance)
    assert found.gradient.dtype == dtype


def test_van_rossum_gradient_is_the_difference_quotient(backend):
    rng = np.random.default_rng(2)
    spikes, target, along = rng.normal(size=(3, 2, 30, 4))
    above, below = (
        van_rossum(spikes + step * along, target, tau=3, dt=1, backend=backend).value for step in (1e-4, -1e-4)
    )
    gradient = van_rossum(spikes, target, tau=3, dt=1, backend=backend).gradient
    assert (gradient * along).sum() == pytest.approx((above - below) / 2e-4, rel=1e-7)


def test_van_rossum_of_known_trains(backend):
    none = np.zeros((20_000, 1), bool)
    one, two, twice = none.copy(), none.copy(), none.copy()
    one[100], two[10_000], twice[[100, 10_000]] = True, True, True

    def distance(a, b):
        return van_rossum(a, b, tau=10, dt=0.01, backend=backend).value

    assert distance(one, one) == 0
    # the integral of exp(-2 t / tau) / tau is 1/2; its sum over steps of this length:
    half = 0.001 / (1 - np.exp(-0.002))
    assert half == pytest.approx(0.5, rel=2e-3)
    assert distance(one, none) == pytest.approx(half, rel=1e-9)
    assert distance(one, two) == pytest.approx(2 * half, rel=1e-4)
    assert distance(twice, none) == pytest.approx(2 * half, rel=1e-4)
    assert distance(none, one) == distance(one, none)


def test_one_target_for_all(backend):
    spikes = np.random.default_rng(3).random((4, 30, 2)) < 0.2
    target = spikes[:1, :, :1]
    one = van_rossum(spikes, target, tau=4, dt=1, backend=backend)
    all_of_them = van_rossum(spikes, np.broadcast_to(target, spikes.shape), tau=4, dt=1, backend=backend)
    assert one.value == all_of_them.value
    np.testing.assert_array_equal(one.gradient, all_of_them.gradient)


def test_silence_is_not_denormal(backend):
    spikes = np.zeros((4000, 1), bool)
    spikes[0] = True
    filtered = backend.to_numpy(backend.leaky_filter(backend.asarray(spikes[None], np.float32), 0.9))
    assert filtered[0, 0, 0] == 1
    assert not ((filtered != 0) & (np.abs(filtered) < 1e-30)).any()
    assert (filtered[0, 700:] == 0).all()


@pytest.mark.parametrize(("change", "words"), [
    ({"target": np.zeros((5, 3))}, ["target:", "(10, 2)", "(5, 3)"]),
    ({"spikes": np.zeros(10)}, ["spikes:", "(T, N)", "(10,)"]),
    ({"spikes": np.full((10, 2), np.nan)}, ["spikes:", "nan", "(0, 0)"]),
    ({"tau": 0}, ["tau:", "above 0", "0"]),
    ({"dt": np.inf}, ["dt:", "above 0", "inf"]),
    ({"dtype": np.int64}, ["dtype:", "float32 or float64", "int64"]),
])  # fmt: skip
def test_wrong_input_is_named(change, words):
    arguments = {"spikes": np.zeros((10, 2)), "target": np.zeros((10, 2)), "tau": 5, "dt": 1.0} | change
    with pytest.raises(blocksim.ArgumentError) as error:
        van_rossum(arguments.pop("spikes"), arguments.pop("target"), **arguments)
    for word in words:
        assert word in str(error.value)


SCORES = np.array([[1.0, -2.0, 0.5, 3.0], [0.0, 0.0, -1.0, 2.0], [-700.0, 10.0, 900.0, 4.0]])


@pytest.mark.parametrize(("smoothing", "value", "gradient"), [
    (0.0, 534.4934106057516, [
        [0.03685125012057974, 0.001834715709194557, 0.022351413046870494, -0.06103737887664477],
        [0.03416373224597991, 0.03416373224597991, -0.32076519860635144, 0.25243773411439163],
        [-0.3333333333333333, 0.0, 0.3333333333333333, 0.0]]),
    (0.1, 509.41424393908494, [
        [0.028517916787246415, -0.006498617624138776, 0.014018079713537163, -0.03603737887664475],
        [0.025830398912646584, 0.025830398912646584, -0.2957651986063515, 0.24410440078105833],
        [-0.30833333333333335, -0.008333333333333333, 0.32500000000000007, -0.008333333333333333]]),
])  # fmt: skip
def test_cross_entropy_is_that_of_the_reference(smoothing, value, gradient):
    loss = cross_entropy(SCORES, np.array([3, 2, 0]), label_smoothing=smoothing)
    assert loss.value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(loss.gradient, gradient, rtol=1e-12, atol=1e-16)


RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 4, 6)
COUNTS = RNG.integers(0, 30, (6, 4)).astype(float)
QUOTIENTS = {
    "cross-entropy": (lambda a: cross_entropy(a, LABELS), RNG.normal(size=(6, 4))),
    "smoothed": (lambda a: cross_entropy(a, LABELS, label_smoothing=0.2), RNG.normal(size=(6, 4))),
    "squared count": (lambda a: mean_squared_count(a, np.eye(4)[LABELS] * 20 + 5), COUNTS),
    "rates of the batch": (lambda a: rate_penalty(a, 0.7, lower=17, upper=20), COUNTS),
    "rates of samples": (lambda a: rate_penalty(a, 0.7, lower=10.5, upper=20, over="sample"), COUNTS),
    "lower rate alone": (lambda a: rate_penalty(a, 500, lower=0.04), COUNTS),
}


@pytest.mark.parametrize("name", QUOTIENTS)
def test_gradients_are_difference_quotients(name):
    loss, at = QUOTIENTS[name]
    gradient = loss(at).gradient
    assert gradient.any()
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-4
        quotient = (loss(at + step).value - loss(at - step).value) / 2e-4
        assert gradient[index] == pytest.approx(quotient, rel=1e-5, abs=1e-9)


def test_losses_on_counts_by_hand():
    counts = np.array([[0, 4], [2, 8]])
    loss = mean_squared_count(counts, [1, 6])
    assert loss.value == (1 + 4 + 1 + 4) / 4
    np.testing.assert_array_equal(loss.gradient, [[-0.5, -1.0], [0.5, 1.0]])
    # mean rates 1 / 0.5 = 2 Hz and 12 Hz
    loss = rate_penalty(counts, 0.5, lower=5, upper=9)
    assert loss.value == (3**2 + 3**2) / 2
    np.testing.assert_array_equal(loss.gradient, [[-3.0, 3.0], [-3.0, 3.0]])
    # rates (0, 8), (4, 16)
    loss = rate_penalty(counts, 0.5, lower=1, upper=10, over="sample")
    assert loss.value == (1 + 36) / 4
    np.testing.assert_array_equal(loss.gradient, [[-1.0, 0.0], [0.0, 6.0]])
    assert rate_penalty(counts, 0.5).value == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_gradients_keep_the_floating_dtype(dtype):
    counts = COUNTS.astype(dtype)
    expected = dtype if dtype != np.int64 else np.float64
    for loss in (cross_entropy(counts, LABELS), mean_squared_count(counts, 3), rate_penalty(counts, 1, upper=3)):
        assert loss.gradient.dtype == expected
        assert loss.gradient.shape == counts.shape


def test_metrics_by_hand():
    scores = np.array([[1.0, 2.0, 0.0], [3.0, 3.0, 0.0], [0.0, 1.0, 5.0], [1.0, 0.0, 0.0]])
    labels = np.array([1, 1, 2, 2])
    assert accuracy(scores, labels) == 0.5
    expected = [[0, 0, 0], [1, 1, 0], [1, 0, 1]]
    np.testing.assert_array_equal(confusion_matrix(labels, scores.argmax(axis=1)), expected)
    assert confusion_matrix(labels, labels, 7).shape == (7, 7)
    assert confusion_matrix(labels, labels, 7).trace() == 4


@pytest.mark.parametrize(("call", "words"), [
    (lambda: cross_entropy(np.ones(3), [0]), ["scores:", "(samples, classes)", "(3,)"]),
    (lambda: cross_entropy(np.full((1, 2), np.inf), [0]), ["scores:", "finite", "inf"]),
    (lambda: cross_entropy(np.ones((2, 3)), [0]), ["labels:", "length 2", "(1,)"]),
    (lambda: cross_entropy(np.ones((2, 3)), [0, 3]), ["labels:", "from 0 to 2", "found 3"]),
    (lambda: cross_entropy(np.ones((2, 3)), [0, -1]), ["labels:", "from 0 to 2", "found -1"]),
    (lambda: cross_entropy(np.ones((2, 3)), [0.0, 1.0]), ["labels:", "class numbers", "float64"]),
    (lambda: cross_entropy(np.ones((1, 3)), [0], label_smoothing=1), ["label_smoothing:", "below 1"]),
    (lambda: mean_squared_count(np.ones((2, 3)), np.ones((3, 2))), ["target:", "(2, 3)", "(3, 2)"]),
    (lambda: rate_penalty(np.ones((2, 3)), 0), ["duration:", "above 0"]),
    (lambda: rate_penalty(np.ones((2, 3)), 1, lower=5, upper=4), ["upper:", "at least", "5", "4"]),
    (lambda: rate_penalty(np.ones((2, 3)), 1, over="time"), ["over:", "'sample'", "'time'"]),
    (lambda: confusion_matrix([0, 1], [0]), ["predicted:", "length 2"]),
])  # fmt: skip
def test_wrong_scores_and_counts_are_named(call, words):
    assert_refused(call, words)
