"""Components that hear a softplus of the potential, (34): in every backend, held to their definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import blocksim
from blocksim import GIF, Component, Escape, Layer, LinearIF, Network, Rectified, Softplus, simulate
from blocksim._parameters import declared
from blocksim.losses import log_likelihood
from blocksim.models import load_network, save_model
from blocksim.numerics import bend, logistic

from .helpers import assert_close, assert_same_bits, assert_same_in_blocks_and_chunks, assert_threshold_follows

TRACES = ("voltage", "threshold")


def random_layer(rng, dtype, size=5):
    """One of each kind of component, so that every layer needs the same kernels."""

    def each(low, high):
        return rng.uniform(low, high, size).astype(dtype)

    shared = [(each(0.5, 0.99), each(-0.2, 0.6), each(-0.2, 0.2), each(-0.3, 0.3), each(-0.1, 0.4)) for _ in range(2)]
    return Layer(
        LinearIF(
            each(0.6, 0.98), each(0.4, 1.0), rng.integers(0, 7, size) + int(rng.integers(0, 4)),
            [Component(each(0.5, 0.99), each(-0.5, 1), each(-0.1, 0.1), each(-0.2, 0.1), each(-0.1, 0.4), "after"),
             Softplus(*shared[0], each(0.01, 1.0)), Rectified(*shared[1])],
            each(-0.4, 0.2), each(-0.3, 0.6), str(rng.choice(["ignore", "hold", "integrate"])),
        ),
        bias=each(0.0, 0.2),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_functions_are_exact_to_rounding(dtype):
    x = np.concatenate([np.linspace(-40, 40, 4001), [0.0, -1e30, 1e30], np.array([-1, 1]) * 1e-30]).astype(dtype)
    exact = x.astype(np.longdouble)
    epsilon = np.finfo(dtype).eps
    np.testing.assert_allclose(bend(x), np.log1p(np.exp(-np.abs(exact))), rtol=4 * epsilon, atol=np.finfo(dtype).tiny)
    y = np.exp(-np.abs(exact))
    slope = np.where(x > 0, 1, y) / (1 + y)
    np.testing.assert_allclose(logistic(x), slope, rtol=4 * epsilon, atol=np.finfo(dtype).tiny)


def test_step_by_step_from_its_definition(backend):
    decay, knots, slopes, softness = 0.9, np.array([0.1, 0.4]), np.array([0.3, 0.5]), np.array([0.2, 0.05])
    components = [Softplus(decay, knot, 0.1, 0.1, slope, soft)
                  for knot, slope, soft in zip(knots, slopes, softness, strict=True)]  # fmt: skip

    def level_after(level, v, spike):
        return decay * level + 0.1 * spike + 0.1 * softness * np.log1p(np.exp((v - knots) / softness))

    assert_threshold_follows(backend, components, slopes, level_after)


@pytest.mark.parametrize("seed", range(12))
def test_block_lengths_and_chunks_give_the_same_bits(backend, seed):
    rng = np.random.default_rng(seed)
    dtype = (np.float32, np.float64)[seed % 2]
    layer = random_layer(rng, dtype, size=(5, 33)[seed % 3 == 0])
    steps, cut = 31, int(rng.integers(1, 31))
    x = rng.normal(0.2, 0.5, (2, steps, layer.size)).astype(dtype)
    whole = simulate(layer, x, "numpy", "standard", record=TRACES)
    assert whole.spikes.any()
    assert_same_in_blocks_and_chunks(backend, layer, x, cut, whole)


@pytest.mark.parametrize("seed", range(6))
def test_gradients_are_those_of_the_reference(backend, seed):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, np.float64)
    x = rng.normal(0.2, 0.5, (2, 24, layer.size))
    cotangents = rng.normal(size=(2, 2, 24, layer.size))
    run, expected = (simulate(layer, x, each, tape=True, detach=()) for each in (backend, "numpy"))
    gradients = run.backward(*cotangents)
    assert np.abs(gradients.parameters()["components.1.softness"]).min() > 0
    assert_close(gradients, expected.backward(*cotangents), 1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_of_the_likelihood_are_those_of_finite_differences(backend, seed):
    """The log-likelihood of imposed spikes is smooth, and the threshold acts in it at every step."""
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, np.float64)
    layer = replace(layer, neuron=replace(layer.neuron, spike=Escape(0.1, 0.5)))
    x, given = rng.normal(0.2, 0.5, (2, 40, layer.size)), None

    def run(layer, engine):
        return simulate(layer, x, engine, impose=given, seed=1, record=TRACES, tape=True)

    given = simulate(layer, x, "numpy", seed=1).spikes
    own = run(layer, backend)
    gradients = own.backward(log_likelihood(own).gradient).parameters()
    for name, value in layer.parameters().items():
        direction = rng.normal(size=value.shape)
        up, down = (
            log_likelihood(run(layer.with_parameters({name: value + small * direction}), "numpy")).value
            for small in (1e-6, -1e-6)
        )
        got = float((gradients[name] * direction).sum())
        assert got == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-5), name


def test_a_small_softness_is_a_rectified_component(backend):
    rng = np.random.default_rng(1)
    x = rng.normal(0.15, 0.3, (2, 80, 3))
    runs = [simulate(Layer(LinearIF(0.9, 0.6, 4, [part])), x, backend, record=TRACES)
            for part in (Rectified(0.9, 0.1, 0.0, 0.1, 0.5), Softplus(0.9, 0.1, 0.0, 0.1, 0.5, 1e-9))]  # fmt: skip
    np.testing.assert_array_equal(runs[0].spikes, runs[1].spikes)
    np.testing.assert_allclose(runs[0].threshold, runs[1].threshold, rtol=0, atol=1e-9)


def test_extreme_potentials_and_softness_give_finite_numbers_without_a_warning(backend):
    x = np.array([-1e6, 1e6, -1.0, 1.0, 0.0] * 6)[None, :, None] * np.ones(4)
    neuron = LinearIF(0.5, 1.0, 2, [Softplus(0.9, 0.0, 0.0, 0.1, 0.1, np.array([1e-12, 1e-3, 1.0, 1e9]))])
    for dtype in (np.float32, np.float64):
        run = simulate(Layer(neuron), x.astype(dtype), backend, record=TRACES, tape=True)
        assert np.isfinite(run.threshold).all()
        for name, gradient in run.backward(np.ones_like(x, dtype)).parameters().items():
            assert np.isfinite(gradient).all(), name


def test_it_is_saved_and_loaded_and_trained_within_its_range(tmp_path):
    layer = random_layer(np.random.default_rng(0), np.float32)
    save_model(tmp_path / "model.npz", Network([replace(layer, weights=np.ones((3, 5), np.float32))]))
    (again,) = load_network(tmp_path / "model.npz").layers
    assert isinstance(again.neuron.components[1], Softplus)
    for name, value in layer.neuron.parameters().items():
        assert_same_bits(name, again.neuron.parameters()[name], value)
    transform = declared(Softplus)["softness"].transform
    assert (transform.from_free(np.array([-30.0, 3.0])) > 0).all()


def test_a_coupling_with_a_softness():
    shared = {"tau_mem": 10, "dt": 0.1, "theta": 15, "refractory": 2}
    plain, soft = GIF.from_ms(coupling=[(5, 8, 0.4), (5, 8, 0.4, 2)], **shared).components
    assert type(plain) is Rectified
    assert (type(soft), soft.softness, soft.knot) == (Softplus, 2.0, 8.0)
    assert (soft.from_voltage, soft.to_threshold) == (plain.from_voltage, plain.to_threshold)
    for wrong in ((5, 8), (5, 8, 0.4, 2, 1)):
        with pytest.raises(
            blocksim.ArgumentError, match=r"coupling: expected a sequence of \(tau in ms, knot, slope\["
        ):
            GIF.from_ms(coupling=[wrong], **shared)
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(blocksim.ArgumentError, match=r"softness: expected (numbers above 0|finite numbers)"):
            Softplus(0.9, 0.1, softness=wrong)
