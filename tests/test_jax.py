"""Layers and networks as functions of JAX: the values and gradients of blocksim's own calls."""

import doctest

import numpy as np
import pytest

import blocksim
from blocksim import ALIF, LIF, CountReadout, Layer, LeakyReadout, Network, simulate
from blocksim.surrogates import BoxCar

from .helpers import assert_refused
from .test_linear import random_layer

jax = pytest.importorskip("jax", reason="needs the extra jax (python -m pip install 'blocksim[jax]')")
import blocksim.interop.jax as interop  # noqa: E402
from blocksim.interop.jax import function  # noqa: E402

NARROW = BoxCar(width=1e-9)  # no potential lies in it: gradients are those of potentials with spikes frozen


@pytest.fixture(autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def double():
    rng = np.random.default_rng(0)
    neuron = ALIF(rng.uniform(0.7, 0.9, 3), rng.uniform(0.7, 0.9, 3), rng.uniform(0.1, 0.3, 3), refractory_steps=2)
    return Layer(neuron, rng.normal(0.3, 0.3, (4, 3)), rng.normal(0.1, 0.1, 3), rng.normal(0, 0.2, (3, 3)))


def network(readout=None):
    rng = np.random.default_rng(0)
    hidden = Layer(ALIF(0.9, 0.95, 0.1, refractory_steps=2), rng.normal(0.2, 0.4, (4, 6)))
    readout = readout or LeakyReadout(rng.normal(0.2, 0.4, (5, 3)), 0.9)
    return Network(
        [hidden, Layer(LIF(0.9), rng.normal(0.2, 0.4, (6, 5)), synapses=[blocksim.Exponential(0.8)])], readout
    )


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_a_layer_has_the_values_and_gradients_of_a_call(compiled, batched):
    layer = double()
    parameters, run = function(layer)
    rng = np.random.default_rng(1)
    x = rng.normal(0.5, 1, (2, 20, 4))[(slice(None) if batched else 0)]
    grad_s, grad_v = rng.normal(size=(2, *x.shape[:-1], 3))
    own = simulate(layer, x, tape=True, record=("voltage",))

    def loss(parameters, x):
        found = run(parameters, x)
        return (found.spikes * grad_s).sum() + (found.voltage * grad_v).sum(), found

    both = jax.value_and_grad(loss, (0, 1), has_aux=True)
    for _ in range(2):  # the second time as it was compiled
        (_, found), (of_parameters, of_x) = (jax.jit(both) if compiled else both)(parameters, x)
        np.testing.assert_array_equal(found.spikes, own.spikes)
        np.testing.assert_array_equal(found.voltage, own.voltage)
        expected = own.backward(grad_s, grad_v)
        np.testing.assert_array_equal(of_x, expected.x)
        for name, value in expected.parameters().items():
            np.testing.assert_array_equal(of_parameters[name], value, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_check_grads(seed):
    from jax.test_util import check_grads

    rng = np.random.default_rng(seed)
    layer = random_layer(rng, np.float64)
    parameters, run = function(layer, surrogate=NARROW, detach=())
    x = rng.normal(0.4, 0.5, (2, 12, 4))
    check_grads(lambda parameters, x: run(parameters, x).voltage, (parameters, x), 1, ["rev"], 1e-4, 1e-4, 1e-6)


@pytest.mark.parametrize("readout", [None, CountReadout()])
def test_networks(readout):
    model = network(readout)
    parameters, run = function(model)
    x = (np.random.default_rng(0).random((4, 30, 4)) < 0.4).astype(np.int32)
    own = simulate(model, x, tape=True)
    np.testing.assert_array_equal(run(parameters, x), own.output)
    gradients = jax.grad(lambda parameters: (run(parameters, x) ** 2).sum())(parameters)
    expected = own.backward(2 * own.output).parameters()
    assert set(gradients) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(gradients[name], value, rtol=1e-12, err_msg=name)


def test_a_tape_that_is_gone_is_made_again():
    """More forward passes than are kept before the first backward one; and a backward pass that is asked for twice."""
    parameters, run = function(double())
    x = np.random.default_rng(0).normal(0.5, 1, (interop.MAX_TAPES + 3, 2, 20, 4))
    pulls = [jax.vjp(lambda parameters, part=part: run(parameters, part).spikes, parameters)[1] for part in x]
    ones = np.ones((2, 20, 3))
    for part, pull in zip(x, pulls, strict=True):
        expected = simulate(double(), part, tape=True).backward(ones).weights
        for _ in range(2):
            np.testing.assert_array_equal(pull(ones)[0]["weights"], expected)


def test_samples_one_by_one():
    parameters, run = function(double())
    x = np.random.default_rng(0).normal(0.5, 1, (3, 20, 4))
    one_by_one = jax.vmap(lambda part: run(parameters, part).spikes)(x)
    np.testing.assert_array_equal(one_by_one, run(parameters, x).spikes)
    each = jax.vmap(jax.grad(lambda part: (run(parameters, part).voltage ** 2).sum()))(x)
    whole = jax.grad(lambda x: (run(parameters, x).voltage ** 2).sum())(x)
    np.testing.assert_allclose(each, whole, rtol=1e-12)


def test_without_potentials():
    parameters, run = function(double(), voltage=False)
    x = np.random.default_rng(0).normal(0.5, 1, (3, 20, 4))
    assert run(parameters, x).voltage is None
    expected = simulate(double(), x, tape=True).backward(np.ones((3, 20, 3))).weights
    found = jax.grad(lambda parameters: run(parameters, x).spikes.sum())(parameters)
    np.testing.assert_array_equal(found["weights"], expected)


@pytest.mark.parametrize("compiled", [True, False])
def test_only_what_is_wanted_crosses(compiled, monkeypatch):
    """Gradients of outputs that the loss leaves out do not go to the host, nor does the input's come back unasked."""
    parameters, run = function(double())
    x = np.random.default_rng(0).normal(0.5, 1, (3, 20, 4))
    given, backward = [], blocksim.Run.backward

    def seen(self, *grads):
        given.append([each is not None for each in grads])
        gradients = backward(self, *grads)
        if not wants_x:
            gradients.__dict__["x"] = None  # what is None cannot be handed back
        return gradients

    monkeypatch.setattr(blocksim.Run, "backward", seen)
    for wants_x, output in ((False, "spikes"), (True, "voltage")):
        gradient = jax.grad(
            lambda parameters, x, output=output: getattr(run(parameters, x), output).sum(), int(wants_x)
        )
        found = (jax.jit(gradient) if compiled else gradient)(parameters, x)
        own = simulate(double(), x, tape=True)
        ones = np.ones((3, 20, 3))
        expected = backward(own, *((ones, None) if output == "spikes" else (None, ones)))
        np.testing.assert_array_equal(
            found if wants_x else found["weights"], expected.x if wants_x else expected.weights
        )
    assert given == [[True, False], [False, True]]
    assert (jax.grad(lambda parameters: run(parameters, x).spikes.shape[0] * 1.0)(parameters)["weights"] == 0).all()


def test_spikes_as_input_have_no_gradient():
    parameters, run = function(double())
    x = np.random.default_rng(0).random((3, 20, 4)) < 0.4
    found = jax.grad(lambda x: run(parameters, x).voltage.sum(), allow_int=True)(x)
    assert found.dtype == jax.dtypes.float0
    assert found.shape == x.shape


def test_examples():
    found = doctest.testmod(interop)
    assert found.attempted > 5
    assert not found.failed


def test_what_is_wrong_is_said():
    assert_refused(lambda: function(3), ["model", "Layer or Network"])
    parameters, run = function(double())
    assert_refused(lambda: run(parameters, np.ones(4)), ["x", "(batch, time, 4)"])
    assert_refused(lambda: run(parameters, np.ones((2, 5, 3))), ["x", "(batch, time, 4)"])
    assert_refused(lambda: run({"beta": 1}, np.ones((2, 5, 4))), ["parameters", "weights"])
