"""First weights: potentials fluctuate as the formula says, and layers fire at the rate that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

import blocksim
from blocksim import LIF, Connection, Exponential, Layer, Network, simulate
from blocksim.initialisers import calibrate, fluctuating_weights, log_uniform, make_network

RNG = np.random.default_rng(0)
X = RNG.random((12, 400, 60)) < 0.02


def rates(network, x=X, dt=1.0):
    run = blocksim.simulate(network, x)
    return [float(counts.mean()) / (run.steps * dt / 1000) for counts in run.counts]


def test_potentials_fluctuate_by_the_deviation_asked_for():
    weights = fluctuating_weights(200, 300, density=0.05, beta=0.9, deviation=0.7, rng=np.random.default_rng(1))
    assert weights.dtype == np.float32
    layer = blocksim.Layer(blocksim.LIF(beta=0.9, theta=1e6), weights)
    x = np.random.default_rng(2).random((4, 1000, 200)) < 0.05
    voltage = blocksim.simulate(layer, x, record="voltage").voltage[:, 100:]
    # the mean is zero over neurons, not for each: a Poisson input's own mean drives every neuron by its sum of weights
    assert voltage.std(axis=1).mean() == pytest.approx(0.7, rel=0.05)


def test_time_constants_are_even_on_a_logarithmic_scale():
    values = np.log(log_uniform(5, 50, 4000, np.random.default_rng(3)).astype(float))
    assert np.log(5) <= values.min() < values.max() <= np.log(50) + 1e-6
    quarters = np.histogram(values, 4, (np.log(5), np.log(50)))[0]
    assert quarters.min() > 850


@pytest.mark.parametrize("rate", [4.0, 25.0])
def test_every_layer_fires_at_the_rate_asked_for(rate):
    network = make_network(60, (40, 30, 20), 5, dt=1, refractory=10, seed=1)
    calibrated = calibrate(network, X, rate=rate, dt=1)
    assert rates(calibrated) == pytest.approx([rate] * 3, rel=0.05)
    assert blocksim.simulate(calibrated, X).output.std() == pytest.approx(1, rel=1e-3)
    # only input weights and the readout changed, and the network that was given did not
    before, after = network.parameters(), calibrated.parameters()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {f"layers.{n}.weights" for n in range(3)} | {"readout.weights"}
    assert all(after[name].dtype == before[name].dtype for name in before)


def test_a_drawn_network_is_alive_before_it_is_calibrated():
    common = {"dt": 1, "refractory": 10, "tau_mem": (5, 50), "input_rate": 20, "rate": 15}
    network = make_network(60, (64, 64), 5, **common, seed=2)
    assert all(3 < rate < 60 for rate in rates(network)), rates(network)


def test_the_seed_decides_and_plain_neurons_can_be_had():
    one, same, other = (make_network(9, (8,), 3, dt=1, refractory=2, seed=seed).parameters() for seed in (4, 4, 5))
    for name, value in one.items():
        np.testing.assert_array_equal(value, same[name])
    assert not np.array_equal(one["layers.0.weights"], other["layers.0.weights"])
    plain = make_network(9, (8,), 3, dt=1, refractory=2, adaptation=0, recurrent=False, tau_mem=20, dtype=np.float64)
    assert set(plain.parameters()) == {"layers.0.weights", "layers.0.bias", "layers.0.beta", "layers.0.theta",
                                       "readout.weights", "readout.bias", "readout.beta"}  # fmt: skip
    np.testing.assert_allclose(plain.layers[0].neuron.beta, np.exp(-1 / 20))
    assert plain.floating_dtypes == {np.dtype(np.float64)}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: make_network(9, (), 3, dt=1, refractory=2), "hidden: expected the number of neurons of each layer"),
        (lambda: make_network(9, (8,), 3, dt=1, refractory=2.5), "refractory: expected a whole number of steps"),
        (lambda: make_network(9, (8,), 3, dt=1, refractory=2, dtype="float16"), "dtype: expected float32 or float64"),
        (lambda: make_network(9, (8,), 3, dt=1, refractory=2, tau_mem=(9, 5)), "low, high: expected 0 < low <= high"),
        (lambda: calibrate(make_network(60, (8,), 3, dt=1, refractory=99), X, rate=20, dt=1), "layer 0 can be scaled"),
        (lambda: calibrate(make_network(60, (8,), 3, dt=1, refractory=2), 0 * X, rate=20, dt=1), "is the input silent"),
        (lambda: calibrate(blocksim.Network([blocksim.Layer(blocksim.LIF(np.full(60, 0.9)))]), X, rate=20, dt=1),
         r"layers\[0\]: expected a layer with weights"),
    ],
)  # fmt: skip
def test_wrong_input_says_what_was_expected(call, says):
    with pytest.raises(blocksim.ArgumentError, match=says):
        call()


@pytest.mark.parametrize("name", ["layers.0.weights", "layers.0.recurrent", "readout.weights"])
def test_weights_that_overflow_are_an_error_or_none(name):
    """Under warnings that are errors: none of NumPy's escapes."""
    x = np.random.default_rng(0).random((8, 50, 30)) < 0.1
    network = make_network(30, [16], 3, dt=2, refractory=10)
    weights = np.sign(network.parameters()[name]) * np.float32(1e38)
    huge = network.with_parameters({name: weights})
    if name == "layers.0.recurrent":  # which stay as they are: a potential beyond all bounds fires, or not
        made = calibrate(huge, x, rate=10, dt=2, backend="numpy")
        np.testing.assert_array_equal(made.layers[0].recurrent, weights)
        return
    with pytest.raises(blocksim.ArgumentError, match="finite"):
        calibrate(huge, x, rate=10, dt=2, backend="numpy")


@pytest.mark.parametrize(("neuron", "tau_syn"), [("lif", 5.0), ("adlif", (5.0, 10.0)), ("adlif", None)])
def test_networks_of_the_family_begin_at_their_rate(neuron, tau_syn):
    x = np.random.default_rng(0).random((6, 300, 40)) < 0.02
    network = make_network(40, (32, 16), 5, dt=1, refractory=5, neuron=neuron, tau_syn=tau_syn, input_rate=20, rate=10)
    assert not network.layers[0].is_simple
    assert all(value.dtype == np.float32 for value in network.parameters().values() if value.ndim)
    calibrated = calibrate(network, x, rate=10, dt=1)
    for counts in simulate(calibrated, x).counts:
        assert float(counts.mean()) / 0.3 == pytest.approx(10, rel=0.05)


def test_a_synapse_multiplies_the_variance_of_the_potential():
    """Against a long run without a threshold."""
    beta, decay = 0.9, 0.7
    rng = np.random.default_rng(0)
    weights = fluctuating_weights(50, 200, density=0.1, beta=beta, synapse=decay, rng=rng, dtype=np.float64)
    layer = Layer(LIF(beta, theta=1e6), weights, synapses=[Exponential(decay)])
    voltage = simulate(layer, rng.random((3000, 50)) < 0.1, "numpy", record="voltage").voltage[100:]
    # the mean over neurons of the variance in time, of input that spikes or does not
    assert voltage.var(axis=0).mean() == pytest.approx(1 - 0.1, rel=0.1)


def test_connections_are_calibrated_too():
    rng = np.random.default_rng(0)
    each = [Connection(rng.normal(0.1, 0.1, (20, 8)), delay) for delay in (0, 3)]
    network = Network([Layer(LIF(0.9, refractory_steps=3), inputs=each)])
    x = rng.random((4, 400, 20)) < 0.05
    calibrated = calibrate(network, x, rate=20, dt=1)
    assert float(simulate(calibrated, x).output.mean()) / 0.4 == pytest.approx(20, rel=0.05)
    ratio = calibrated.parameters()["layers.0.inputs.1.weights"] / each[1].weights
    np.testing.assert_allclose(ratio, ratio[0, 0])
