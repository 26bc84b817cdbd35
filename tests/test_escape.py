"""Escape noise, equation (39): the generator, bits that no choice of computing changes, the law, gradients."""

from dataclasses import replace

import numpy as np
import pytest

import blocksim
from blocksim import (
    GIF,
    LIF,
    Alpha,
    Component,
    Connection,
    CountReadout,
    Escape,
    Exponential,
    Layer,
    LinearIF,
    Network,
    Rectified,
    simulate,
)
from blocksim._escape import Noise, exponential_of, philox
from blocksim.models import load_network, save_model
from blocksim.numerics import exponential, tiny

from .conftest import IN_CI
from .helpers import assert_refused, assert_same_bits, assert_same_run, relative


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_the_generator_gives_its_published_numbers(counter, key, expected):
    """Those of the Random123 library."""
    words = philox([np.array([word], np.uint64) for word in counter], key)
    assert [int(word[0]) for word in words] == expected


def test_draws_are_exponential():
    draws = Noise(7).first_draws(200, 500).ravel()
    uniform = np.sort(-np.expm1(-draws))
    assert np.abs(uniform - (np.arange(len(uniform)) + 0.5) / len(uniform)).max() < 1.6 / np.sqrt(len(uniform))
    ends = np.array([0, 2**32 - 1], np.uint64)
    assert np.allclose(exponential_of(ends, ends), -np.log([2.0**-54, 1 - 2.0**-54]), rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_exponential_is_right_to_rounding(dtype):
    x = np.linspace(-85, 60, 100_001).astype(dtype)
    assert np.abs(exponential(x) / np.exp(x.astype(np.float64)) - 1).max() < 3 * np.finfo(dtype).eps
    assert (exponential(np.array([-1e4, 1e4], dtype)) == [0, exponential(np.array([60], dtype))[0]]).all()


def seeds(number):
    """Each a layer of other counts, which kernels are compiled for: one, the others where slow tests run."""
    return [seed if seed == 1 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(number)]


def seeds_and_dtypes(number):
    """The same in both precisions, of which the first two have one each unless slow tests run."""
    return [
        pytest.param(seed, dtype, marks=() if (seed, dtype) in ((0, np.float32), (1, np.float64)) else pytest.mark.slow)
        for seed in range(number)
        for dtype in (np.float32, np.float64)
    ]


def noisy_layer(seed, dtype, size=7, recurrent=True):
    """Random neurons of the family with noise: components, synapses, delays, every refractory mode."""
    rng = np.random.default_rng(seed)

    def each(low, high):
        return rng.uniform(low, high, size).astype(dtype)

    components = [
        Component(each(0.5, 0.95), each(-1, 1), each(-0.1, 0.1), each(-0.2, 0.2), each(0, 0.3)),
        Rectified(each(0.5, 0.9), each(-0.1, 0.3), each(0, 0.2), each(0, 0.2), each(-0.3, 0.3)),
    ]
    neuron = LinearIF(
        each(0.8, 0.95), each(0.6, 1.2), rng.integers(0, 6, size), components[: seed % 3], each(-0.2, 0.2),
        each(0, 0.5), ("ignore", "hold", "integrate")[seed % 3], Escape(each(0.02, 0.2), each(0.05, 0.4)),
    )  # fmt: skip
    own = [Connection(rng.normal(0, 0.3, (size, size)).astype(dtype), int(rng.integers(1, 5)), 0)]
    return Layer(
        neuron,
        inputs=[Connection(rng.normal(0, 0.6, (4, size)).astype(dtype), 0, 1)],
        recurrent=own if recurrent else None,
        synapses=[None, Exponential(each(0.5, 0.9), each(0.5, 1.5)), Alpha(each(0.5, 0.9))][: 2 + seed % 2],
    )


def spikes_of_input(seed, batch=3, steps=60):
    return np.random.default_rng(seed + 100).random((batch, steps, 4)) < 0.3


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize(("seed", "dtype"), seeds_and_dtypes(6))
def test_bits_depend_on_the_seed_alone(backend, seed, dtype, recurrent):
    """Not on method, backend, block length, checkpoints, chunks of time, or what else is in the batch."""
    layer, x = noisy_layer(seed, dtype, recurrent=recurrent), spikes_of_input(seed)
    recorded = {"record": ("voltage", "threshold"), "seed": seed + 5}
    expected = simulate(layer, x, "numpy", **recorded)
    assert expected.seed == seed + 5
    assert expected.spikes.any()
    for options in ({}, {"method": "standard"}, {"tape": "checkpoint"}):
        assert_same_run(simulate(layer, x, backend, **options, **recorded), expected)
    first = simulate(layer, x[:, :23], backend, seed=seed + 5)
    second = simulate(layer, x[:, 23:], backend, seed=seed + 5, state=first.state)
    assert_same_bits("spikes", np.concatenate([first.spikes, second.spikes], axis=1), expected.spikes)
    fewer = simulate(layer, x[:2], backend, seed=seed + 5)
    assert_same_bits("spikes", fewer.spikes, expected.spikes[:2])
    assert (simulate(layer, x, "numpy", seed=seed + 6).spikes != expected.spikes).any()


def test_a_wide_layer_has_the_bits_of_the_reference(backend):
    layer = noisy_layer(4, np.float32, size=131, recurrent=False)
    assert_same_bits(
        "spikes", simulate(layer, spikes_of_input(4), backend, seed=1).spikes,
        simulate(layer, spikes_of_input(4), "numpy", "standard", seed=1).spikes,
    )  # fmt: skip


def oracle(layer, x, seed):
    """(27)-(34), (39) step by step, for a layer without connections, with one exponential of adaptation."""
    neuron, (batch, steps, size) = layer.neuron, x.shape
    component, noise = neuron.components[0], Noise(seed)
    v, c = np.zeros((batch, size)), np.zeros((batch, size))
    left, number = np.zeros((batch, size), int), np.ones((batch, size), int)
    bears, borne = noise.first_draws(batch, size), np.zeros((batch, size))
    samples, neurons = np.indices((batch, size))
    spikes = np.zeros(x.shape, bool)
    for t in range(steps):
        live = left == 0
        u = np.where(live, neuron.beta * v + x[:, t] + component.to_voltage * c, v)
        theta = neuron.theta + component.to_threshold * c
        borne += np.where(live, neuron.spike.rate * np.exp((u - theta) / neuron.spike.width), 0)
        fired = live & (borne > bears)
        spikes[:, t] = fired
        v = np.where(fired, neuron.v_reset, u)
        c = component.decay * c + component.jump * fired + component.from_voltage * u
        left = np.where(fired, neuron.refractory_steps, np.maximum(left - 1, 0))
        bears = np.where(fired, noise.draws(samples, neurons, size, number), bears)
        number, borne = number + fired, np.where(fired, 0, borne)
    return spikes


def test_an_oracle_gives_the_same_spikes(backend):
    component = Component(0.9, 0.7, 0.02, -0.1, 0.3)
    neuron = LinearIF(0.95, 0.8, 4, [component], v_reset=0.1, refractory="hold", spike=Escape(0.05, 0.2))
    x = np.random.default_rng(0).normal(0.05, 0.05, (4, 500, 9))
    spikes = simulate(Layer(neuron), x, backend, seed=2).spikes
    assert spikes.sum() > 200
    assert_same_bits("spikes", spikes, oracle(Layer(neuron), x, 2))


def test_intervals_at_a_constant_hazard_are_exponential(backend, request):
    hazard, refractory, size = 0.01, 7, 400
    # fewer steps in slow engines, whose bits are those of the others
    steps = 20_000 if backend.name == "numba" or IN_CI or request.config.getoption("--slow") else 4000
    neuron = LinearIF(0.0, np.zeros(size), refractory, spike=Escape(hazard, 1.0), refractory="hold")
    spikes = simulate(Layer(neuron), np.zeros((1, steps, 1)), backend, seed=3).spikes[0]
    neurons, times = np.nonzero(spikes.T)
    intervals = np.diff(times)[np.diff(neurons) == 0]
    mean = refractory + 1 / -np.expm1(-hazard)
    assert abs(intervals.mean() / mean - 1) < 5 / np.sqrt(len(intervals))
    # after the refractory period a step's probability is 1 - exp(-hazard)
    waits = intervals - refractory
    assert waits.min() == 1
    expected = -np.expm1(-hazard * np.arange(1, 400))
    found = np.searchsorted(np.sort(waits), np.arange(1, 400), side="right") / len(waits)
    assert np.abs(found - expected).max() < 1.6 / np.sqrt(len(waits))


def test_hazards_of_layers_are_those_that_a_person_computes():
    noise = Escape.from_ms(rate=50.0, width=0.2, dt=0.1)
    assert np.isclose(noise.rate, 0.005)
    assert np.allclose(noise.hazard(np.array([0.0, 0.2])), [0.005, 0.005 * np.e])


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("seed", seeds(4))
@pytest.mark.parametrize("surrogate", [None, "hazard", "sigmoid"])
def test_gradients_agree_between_backends(backend, seed, recurrent, surrogate):
    layer, x = noisy_layer(seed, np.float64, recurrent=recurrent), spikes_of_input(seed)
    rng = np.random.default_rng(seed)
    shape = (*x.shape[:2], layer.size)
    given = rng.normal(size=shape), rng.normal(size=shape)
    expected = simulate(layer, x, "numpy", seed=1, tape=True, surrogate=surrogate).backward(*given)
    assert {"spike.rate", "spike.width"} <= set(expected.parameters())
    for tape in (True, "checkpoint"):
        found = simulate(layer, x, backend, seed=1, tape=tape, surrogate=surrogate).backward(*given)
        for name, value in (expected.parameters() | {"x": expected.x}).items():
            got = (found.parameters() | {"x": found.x})[name]
            assert relative(got, value) < 1e-10, name


def probabilities(layer, run):
    """The probability of a spike in each step of a run that has none."""
    return -np.expm1(-layer.neuron.spike.hazard(run.voltage - run.threshold))


@pytest.mark.parametrize("seed", seeds(6))
def test_gradients_are_those_of_the_probabilities(backend, seed):
    """Of their weighted sum, by finite differences: without spikes in the way, all paths detached."""
    layer, x = noisy_layer(seed, np.float64, recurrent=False), spikes_of_input(seed, batch=2, steps=12)
    # so rare that the run has no spike
    noise = Escape(layer.neuron.spike.rate * 1e-4, layer.neuron.spike.width + 4)
    layer = replace(layer, neuron=replace(layer.neuron, spike=noise))
    weights = np.random.default_rng(seed).normal(size=(2, 12, layer.size))
    run = simulate(layer, x, backend, seed=3, tape=True, detach=("reset", "recurrent", "adaptation"))
    assert not run.spikes.any()
    gradients = run.backward(weights).parameters()

    def loss(parameters):
        changed = layer.with_parameters(parameters)
        one = simulate(changed, x, "numpy", seed=3, record=("voltage", "threshold"))
        assert not one.spikes.any()
        return float((weights * probabilities(changed, one)).sum())

    for name, value in layer.parameters().items():
        where = np.unravel_index(0, value.shape) if value.ndim else ()
        step = 1e-4 * abs(float(value[where])) or 1e-4
        ends = []
        for sign in (1, -1):
            moved = value.copy()
            moved[where] += sign * step
            ends.append(loss({name: moved}))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert np.isclose(gradients[name][where], slope, rtol=1e-4, atol=1e-10), name


def test_layers_of_a_network_have_noise_of_their_own(backend):
    neuron = LinearIF(0.0, np.zeros(50), 2, refractory="hold", spike=Escape(0.1, 1.0))
    first = Layer(neuron, np.zeros((3, 50)))
    network = Network([first, replace(first, weights=np.zeros((50, 50)))], CountReadout())
    run = simulate(network, np.zeros((2, 100, 3), bool), backend, seed=11)
    assert run.seed == 11
    assert_same_bits("spikes", run.layers[0].spikes, simulate(first, np.zeros((2, 100, 3), bool), seed=11).spikes)
    assert (run.layers[0].spikes != run.layers[1].spikes).any()


def test_a_run_without_a_seed_tells_the_one_it_took():
    layer = Layer(LinearIF(0.0, np.zeros(50), spike=Escape(0.1, 1.0)))
    x = np.zeros((1, 200, 1))
    one, other = (simulate(layer, x, "numpy") for _ in range(2))
    assert one.seed != other.seed
    assert (one.spikes != other.spikes).any()
    assert_same_bits("spikes", simulate(layer, x, "numpy", seed=one.seed).spikes, one.spikes)
    assert simulate(Layer(LIF(0.9)), x, "numpy").seed is None


def test_parameters_and_files(tmp_path):
    neuron = GIF.from_ms(
        tau_mem=10, dt=1, refractory=2, thresholds=[(20, 0.5)], coupling=[(5, None, 0.2), (5, 0.3, 0.1)],
        spike=Escape(np.array([0.01, 0.02]), 0.3),
    )  # fmt: skip
    assert {"spike.rate", "spike.width"} <= set(neuron.parameters())
    assert [each.listens for each in neuron.components] == ["before", "before", "above"]
    layer = Layer(neuron, np.ones((3, 2)))
    changed = layer.with_parameters({"spike.width": np.array(0.5)})
    assert changed.neuron.spike.width == 0.5
    save_model(tmp_path / "model.npz", Network([layer], CountReadout()))
    kept = load_network(tmp_path / "model.npz").layers[0].neuron
    assert np.array_equal(kept.spike.rate, neuron.spike.rate)
    assert kept.spike.width == 0.3
    save_model(tmp_path / "plain.npz", Network([Layer(LinearIF(0.9), np.ones((3, 2)))], CountReadout()))
    assert load_network(tmp_path / "plain.npz").layers[0].neuron.spike is None


def test_a_class_of_a_users_own_may_have_noise(backend):
    class Noisy(blocksim.LIF):
        @classmethod
        def linear(cls, beta, theta):
            return {"beta": beta, "theta": theta, "spike.rate": 0.05 * beta, "spike.width": 0.3 * theta}

    layer = Layer(Noisy(beta=0.9, refractory_steps=3), np.full((2, 5), 0.3))
    x = np.random.default_rng(0).random((2, 80, 2)) < 0.3
    runs = [simulate(layer, x, each, seed=4, tape=True) for each in ("numpy", backend)]
    assert runs[0].spikes.any()
    assert_same_bits("spikes", runs[1].spikes, runs[0].spikes)
    grads = [run.backward(np.ones(run.spikes.shape)).parameters() for run in runs]
    assert relative(grads[1]["beta"], grads[0]["beta"]) < 1e-10


def test_silent_neurons_stay_silent(backend):
    """A potential so low that the hazard is zero, for as long as one likes."""
    layer = Layer(LinearIF(0.9, 1e6, spike=Escape(1.0, 1e-3)))
    run = simulate(layer, np.zeros((2, 3000, 3), np.float32), backend, seed=1)
    assert not run.spikes.any()
    assert (run.state.remaining > tiny(np.float32)).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Escape(0.0, 1.0), ["rate", "above 0"]),
        (lambda: Escape(0.1, -1.0), ["width", "above 0"]),
        (lambda: LinearIF(0.9, spike=0.1), ["spike", "Escape"]),
        (lambda: simulate(Layer(LIF(0.9)), np.ones((3, 1)), surrogate="hazard"), ["surrogate", "hazard", "Escape"]),
        (lambda: simulate(Layer(LIF(0.9)), np.ones((3, 1)), seed=-1), ["seed", "2**64", "-1"]),
        (lambda: simulate(Layer(LIF(0.9)), np.ones((3, 1)), seed=1.5), ["seed", "1.5"]),
        (lambda: simulate(Layer(LIF(0.9)), np.ones((3, 1)), seed=True), ["seed"]),
    ],
)
def test_wrong_arguments_are_refused(call, words):
    assert_refused(call, words)
