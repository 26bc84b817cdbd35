"""Escape noise held to code that shares nothing with it; faults planted in it; trainings that repeat."""

import math

import numpy as np
import pytest
from blocksim.backends.numpy_reference import linear as reference

from blocksim import CountReadout, Escape, Layer, LinearIF, Network, _linear, simulate
from blocksim.training import _objective, evaluate, fit

from .helpers import assert_same_bits, assert_same_run, relative
from .training_tasks import CLASSES, INPUTS, task, training

MASK = 0xFFFFFFFF


def drawn(seed, unit, number, place):
    """E of a neuron, in Python's whole numbers and its own logarithm."""
    counter, key = [unit & MASK, unit >> 32, number, place], [seed & MASK, seed >> 32]
    for _ in range(10):
        left, right = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [right >> 32 ^ counter[1] ^ key[0], right & MASK, left >> 32 ^ counter[3] ^ key[1], left & MASK]
        key = [key[0] + 0x9E3779B9 & MASK, key[1] + 0xBB67AE85 & MASK]
    return -math.log((((counter[0] << 32 | counter[1]) >> 11) + 0.5) * 2.0**-53)


def spikes_by_hand(neuron, x, seed):
    """(30), (33) and (39) neuron by neuron, without components: hazard is summed up until it exceeds E."""
    batch, steps, size = x.shape
    spikes = np.zeros(x.shape, bool)
    for sample in range(batch):
        for n in range(size):
            v, left, borne, number = 0.0, 0, 0.0, 1
            bears = drawn(seed, sample * size + n, 0, 0)
            for t in range(steps):
                if left:
                    left, v = left - 1, neuron.beta * v
                    continue
                v = neuron.beta * v + x[sample, t, n]
                borne += neuron.spike.rate * math.exp((v - neuron.theta) / neuron.spike.width)
                if borne > bears:
                    spikes[sample, t, n] = True
                    v, left, borne = neuron.v_reset, neuron.refractory_steps, 0.0
                    bears, number = drawn(seed, sample * size + n, number, 0), number + 1
    return spikes


def case():
    neuron = LinearIF(0.9, 1.0, 4, v_reset=0.1, spike=Escape(0.08, 0.2))
    return neuron, np.random.default_rng(0).normal(0.06, 0.06, (5, 300, 11))


@pytest.mark.parametrize("seed", [0, 5, 2**64 - 1])
def test_spikes_are_those_of_code_that_shares_nothing(backend, seed):
    neuron, x = case()
    expected = spikes_by_hand(neuron, x, seed)
    assert expected.sum() > 100
    assert_same_bits("spikes", simulate(Layer(neuron), x, backend, seed=seed).spikes, expected)


@pytest.mark.parametrize("size", [1, 3, 16, 37])
def test_every_block_length_has_the_same_bits(backend, size):
    """Sizes that are folded, fill a vector, and leave a rest; parameters that differ from neuron to neuron."""
    rng = np.random.default_rng(size)
    noise = Escape(rng.uniform(0.02, 0.2, size).astype(np.float32), rng.uniform(0.1, 0.4, size).astype(np.float32))
    layer = Layer(LinearIF(np.float32(0.9), 0.6, 6, spike=noise))
    x = rng.normal(0.06, 0.1, (9, 90, size)).astype(np.float32)
    recorded = {"record": ("voltage", "threshold"), "seed": 9}
    expected = simulate(layer, x, "numpy", "standard", **recorded)
    assert expected.spikes.any()
    for length in range(1, 8):
        assert_same_run(simulate(layer, x, backend, block_length=length, **recorded), expected)


DRAWN = _linear._drawn
FAULTS = {
    "none after a spike": lambda backend, carry, spikes, noise: carry,
    "those of the next sample": lambda *given: DRAWN(*given[:3], given[3].from_sample(1)),
    "those of the next layer": lambda *given: DRAWN(*given[:3], given[3]._replace(place=1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_draw_is_caught(monkeypatch, fault):
    monkeypatch.setattr(_linear, "_drawn", FAULTS[fault])
    with pytest.raises(AssertionError):
        test_spikes_are_those_of_code_that_shares_nothing("numpy", 5)


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_a_wrong_hazard_is_caught(monkeypatch, factor):
    right = reference._hazard
    monkeypatch.setattr(reference, "_hazard", lambda neuron, distance: factor * right(neuron, distance))
    with pytest.raises(AssertionError):
        test_spikes_are_those_of_code_that_shares_nothing("numpy", 5)


def stochastic_network():
    rng = np.random.default_rng(1)
    hidden = LinearIF(np.full(8, 0.9), 1.0, 3, spike=Escape(np.full(8, 0.1), 0.3))
    last = LinearIF(0.85, 1.0, 3, spike=Escape(0.1, 0.3))
    return Network(
        [Layer(hidden, rng.normal(0.2, 0.3, (INPUTS, 8))), Layer(last, rng.normal(0.3, 0.3, (8, CLASSES)))],
        CountReadout(),
    )


def test_what_is_held_out_has_noise_of_its_own(monkeypatch):
    """Else samples are scored with the very random numbers that the weights were fitted to."""
    seeds = []

    def noted(*arguments, **options):
        seeds.append((bool(options["tape"]), options["seed"].seed))
        return simulate(*arguments, **options)

    monkeypatch.setattr(_objective, "simulate", noted)
    network = stochastic_network()
    fit(network, task(), training(epochs=2), progress=False)
    trained_with = {seed for taped, seed in seeds if taped}
    held_out = {seed for taped, seed in seeds if not taped}
    seeds.clear()
    evaluate(network, task())
    evaluated = {seed for _, seed in seeds}
    assert (len(trained_with), len(held_out), len(evaluated)) == (2, 1, 1)
    assert len(trained_with | held_out | evaluated) == 4


def test_trainings_repeat_however_batches_are_shared_out():
    """Shares are what a batch is split into for processes: a sample has its noise wherever it is computed."""
    network = stochastic_network()

    def trained(**changes):
        choices = training(epochs=2, trained=("*.weights", "*.spike.*"), **changes)
        return fit(network, task(), choices, progress=False).last.parameters()

    once, again, shared, other = trained(), trained(), trained(shares=3), trained(seed=1)
    by_name, another = trained(surrogate="hazard"), trained(surrogate="fast_sigmoid")
    assert (another["layers.0.weights"] != once["layers.0.weights"]).any()
    for name, value in once.items():
        assert_same_bits(name, again[name], value)
        assert_same_bits(f"{name}, with the hazard's slope by name", by_name[name], value)
        assert relative(shared[name], value) < 1e-9, name
    assert (once["layers.0.spike.rate"] != network.parameters()["layers.0.spike.rate"]).all()
    assert (other["layers.0.weights"] != once["layers.0.weights"]).any()
