"""Reparametrisations: round trips, known values, gradients by difference quotients, and what happens at the bounds."""

from __future__ import annotations

import numpy as np
import pytest

from blocksim.transforms import Bounded, Decay, Positive

from .helpers import assert_refused

TRANSFORMS = [
    Bounded(-2.0, 3.0), Bounded(0.0, 1.0), Bounded(1e-3, 1e3, "log"), Positive(), Positive(1e-3), Decay(1.0, 1e4),
]  # fmt: skip
each = pytest.mark.parametrize("transform", TRANSFORMS, ids=str)


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trips(transform, dtype):
    free = np.linspace(-6, 6, 25).astype(dtype).reshape(5, 5)
    # float32 has few digits left near a bound
    tolerance = 3e-2 if dtype == np.float32 else 1e-9
    values = transform.from_free(free)
    assert values.dtype == dtype
    assert values.shape == free.shape
    back = transform.to_free(values)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, free, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(transform.from_free(back), values, rtol=1e-6 if dtype == np.float32 else 1e-13)
    assert (np.diff(values.ravel()) > 0).all()


@each
def test_the_pullback_is_the_difference_quotient(transform):
    free = np.linspace(-8, 8, 33)
    gradient = np.random.default_rng(0).normal(size=33)
    quotient = (transform.from_free(free + 1e-5) - transform.from_free(free - 1e-5)) / 2e-5
    # cancellation in the quotient: 1e-16 of the value over 1e-5
    allowed = 1e-10 * np.abs(transform.from_free(free))
    assert (np.abs(transform.pullback(free, np.ones(33)) - quotient) <= 1e-8 * np.abs(quotient) + allowed).all()
    np.testing.assert_allclose(transform.pullback(free, gradient), gradient * transform.pullback(free, np.ones(33)))


@each
@pytest.mark.parametrize(("dtype", "far"), [(np.float32, 80), (np.float64, 700)])
def test_far_out_the_gradient_is_not_zero_and_the_value_within_bounds(transform, dtype, far):
    # both signs: the value may round to the bound, it must not pass it
    if isinstance(transform, Decay) and dtype == np.float32:
        assert np.exp(np.float32(-1 / transform.high)) < 1
    free = np.array([-far, far], dtype)
    values, slopes = transform.from_free(free), transform.pullback(free, np.ones(2))
    assert np.isfinite(values).all()
    assert (slopes != 0).all()
    if isinstance(transform, Bounded):
        assert (values.astype(dtype) >= dtype(transform.low)).all()
        assert (values.astype(dtype) <= dtype(transform.high)).all()
    if isinstance(transform, Decay):
        assert (values < 1).all()
    # well within, strictly so: the limits that the module states
    inside = transform.from_free(np.array([-12.0, 12.0], dtype))
    transform.to_free(inside)


def test_known_values():
    assert Bounded(-2.0, 3.0).from_free(0.0) == 0.5
    assert Bounded(0.0, 1.0).from_free(np.log(3.0)) == pytest.approx(0.75)
    assert Bounded(1.0, 100.0, "log").from_free(0.0) == pytest.approx(10.0)
    assert Positive().from_free(0.0) == pytest.approx(np.log(2))
    assert Positive(5.0).from_free(0.0) == pytest.approx(5 * np.log(2))
    assert Decay(1.0, 100.0).from_free(0.0) == pytest.approx(np.exp(-0.1))


@pytest.mark.parametrize(("call", "words"), [
    (lambda: Bounded(0, 1).to_free(1.0), ["value:", "above 0 and below 1", "found 1"]),
    (lambda: Bounded(0, 1).to_free(np.array([0.5, 0.0])), ["value:", "found 0"]),
    (lambda: Bounded(0, 1).to_free(np.array([0.5, np.nan])), ["value:", "finite"]),
    (lambda: Positive().to_free(0.0), ["value:", "above 0", "found 0"]),
    (lambda: Decay(2, 50).to_free(np.exp(-1 / 60)), ["decay factor", "below 50 steps", "0.98347145", "60 steps"]),
    (lambda: Decay(2, 50).to_free(0.0), ["decay factor", "found 0"]),
    (lambda: Decay(2, 50).to_free(1.0), ["decay factor", "found 1"]),
    (lambda: Decay(2, 1e9).from_free(np.full(1, 30, np.float32)), ["free:", "float32"]),
    (lambda: Bounded(1, 1), ["high:", "above 1"]),
    (lambda: Bounded(0, 1, "log"), ["low:", "above 0"]),
    (lambda: Bounded(0, 1, "cubic"), ["scale:", "'log'"]),
    (lambda: Positive(0), ["scale:", "above 0"]),
    (lambda: Decay(0, 1), ["low:", "above 0"]),
    (lambda: Decay(1, 1e18), ["low, high:", "below 1"]),
])  # fmt: skip
def test_wrong_input_is_named(call, words):
    assert_refused(call, words)
