"""Losses: values and gradients against sums over pairs and finite differences, in every backend; and wrong input."""

from __future__ import annotations

import numpy as np
import pytest

import blocksim
from blocksim.losses import van_rossum


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
    np.testing.assert_allclose(found.grad_spikes, gradient, rtol=tolerance, atol=tolerance)
    assert found.grad_spikes.dtype == dtype


def test_van_rossum_gradient_is_the_difference_quotient(backend):
    rng = np.random.default_rng(2)
    spikes, target, along = rng.normal(size=(3, 2, 30, 4))
    above, below = (
        van_rossum(spikes + step * along, target, tau=3, dt=1, backend=backend).value for step in (1e-4, -1e-4)
    )
    gradient = van_rossum(spikes, target, tau=3, dt=1, backend=backend).grad_spikes
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
    np.testing.assert_array_equal(one.grad_spikes, all_of_them.grad_spikes)


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
