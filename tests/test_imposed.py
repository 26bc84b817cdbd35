"""Spikes that stochastic neurons are given: the same run in every backend, the likelihood (40) and its gradient."""

import decimal
from dataclasses import replace

import numpy as np
import pytest

from blocksim import (
    LIF,
    CountReadout,
    Escape,
    Events,
    Layer,
    LeakyReadout,
    LinearIF,
    Network,
    simulate,
)
from blocksim._escape import spike_terms
from blocksim.ephys import GIFCell
from blocksim.ephys._gif.spikes import log_likelihood as of_hazard
from blocksim.losses import log_likelihood

from .helpers import assert_refused, assert_same_bits, relative
from .test_escape import noisy_layer, seeds, seeds_and_dtypes, spikes_of_input

TRACES = ("voltage", "threshold")


def imposed_on(layer, x, spikes, backend="numpy", **options):
    return simulate(layer, x, backend, **{"impose": spikes, "record": TRACES, "tape": True, "seed": 0} | options)


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize(("seed", "dtype"), seeds_and_dtypes(4))
def test_a_runs_own_spikes_give_the_same_run(backend, seed, dtype, recurrent):
    """In every bit, for every method, with checkpoints, in parts of time and of the batch."""
    layer, x = noisy_layer(seed, dtype, recurrent=recurrent), spikes_of_input(seed)
    free = simulate(layer, x, "numpy", record=TRACES, seed=seed)
    assert free.spikes.any()
    for options in ({}, {"method": "standard"}, {"tape": "checkpoint"}, {"block_length": 1}, {"tape": False}):
        run = imposed_on(layer, x, free.spikes, backend, **options)
        for name in ("spikes", *TRACES):
            assert_same_bits(name, getattr(run, name), getattr(free, name))
        for name in ("voltage", "components", "synapses", "rising", "refractory", "spikes", "inputs"):
            assert_same_bits(name, getattr(run.state, name), getattr(free.state, name))
    first = imposed_on(layer, x[:, :23], free.spikes[:, :23], backend)
    second = imposed_on(layer, x[:, 23:], free.spikes[:, 23:], backend, state=first.state)
    assert_same_bits("voltage", np.concatenate([first.voltage, second.voltage], axis=1), free.voltage)
    alone = imposed_on(layer, x[1], free.spikes[1], backend)
    assert_same_bits("voltage", alone.voltage, free.voltage[1])


def test_other_spikes_give_another_run(backend):
    """Those of another seed, as an array, as numbers, as events; each resets and adapts as its own would."""
    layer, x = noisy_layer(1, np.float64), spikes_of_input(1)
    one, other = (simulate(layer, x, "numpy", record=TRACES, seed=seed) for seed in (1, 2))
    assert (one.spikes != other.spikes).any()
    for given in (other.spikes, other.spikes.astype(np.float32), Events.from_dense(other.spikes)):
        assert_same_bits("voltage", imposed_on(layer, x, given, backend, seed=1).voltage, other.voltage)
    silent = imposed_on(layer, x, np.zeros_like(one.spikes), backend)
    assert not silent.spikes.any()
    assert (silent.voltage != one.voltage).any()


def test_the_future_after_recorded_spikes_is_drawn(backend):
    """A state after imposed spikes is one to go on from: what is left to bear is exponential, whatever was borne."""
    layer, x = noisy_layer(2, np.float64, recurrent=False), spikes_of_input(2)
    recorded = simulate(layer, x, "numpy", seed=1).spikes
    state = imposed_on(layer, x, recorded, backend, seed=4).state
    futures = [simulate(layer, x, backend, seed=4, state=state) for _ in range(2)]
    assert_same_bits("spikes", futures[0].spikes, futures[1].spikes)
    expected = simulate(layer, x, "numpy", seed=4, state=imposed_on(layer, x, recorded, seed=4).state)
    assert_same_bits("spikes", futures[0].spikes, expected.spikes)
    assert expected.spikes.any()


def test_the_likelihood_is_its_definition():
    layer, x = noisy_layer(1, np.float64), spikes_of_input(1)
    spikes = simulate(layer, x, "numpy", seed=1).spikes
    run = imposed_on(layer, x, spikes)
    loss = log_likelihood(run)
    escape, period = layer.neuron.spike, np.asarray(layer.neuron.refractory_steps)
    total = 0.0
    for sample in range(x.shape[0]):
        for n in range(layer.size):
            left = 0
            for t in range(x.shape[1]):
                if left:
                    left -= 1
                    assert loss.hazard[sample, t, n] == 0
                    assert loss.gradient[sample, t, n] == 0
                    continue
                m = run.voltage[sample, t, n] - run.threshold[sample, t, n]
                hazard = escape.rate[n] * np.exp(m / escape.width[n])
                assert loss.hazard[sample, t, n] == pytest.approx(hazard, rel=1e-12)
                total += np.log(1 - np.exp(-hazard)) if spikes[sample, t, n] else -hazard
                left = period[n] if spikes[sample, t, n] else 0
    assert loss.value == pytest.approx(total, rel=1e-12)


def exact_log_probability(log_hazard):
    """log(1 - exp(-hazard)) in as many digits as it takes, and its derivative in the log of the hazard."""
    digits = 60 + round(abs(log_hazard))
    with decimal.localcontext(decimal.Context(prec=digits, Emin=decimal.MIN_EMIN)):
        hazard = decimal.Decimal(float(log_hazard)).exp()
        silent = (-hazard).exp()
        return float((1 - silent).ln()), float(hazard * silent / (1 - silent))


def test_a_spike_counts_for_what_it_says_however_small_its_hazard():
    """No floor, and no infinity, where exp(-746) is 0; from one side of the border to the other it is one function."""
    logs = np.array([-2000, -800, -746, -745, -709, -700, -691, -690.8, -690.7, -600, -40, -20, -5, -1, 0, 1.0, 3.0])
    hazard = np.exp(logs)
    assert hazard[:3].tolist() == [0, 0, 0]
    found = spike_terms(hazard, logs)
    exact = np.array([exact_log_probability(log) for log in logs])
    np.testing.assert_allclose(found.value, exact[:, 0], rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(found.slope, exact[:, 1], rtol=1e-12)
    assert np.isfinite(found.curvature).all()
    assert (found.curvature >= 0).all(), "concave"


def test_the_likelihood_of_a_spike_far_below_threshold_has_its_slope(backend):
    """Its hazard underflows; the likelihood is that of the definition, and its gradient its differences."""
    layer = Layer(LinearIF(0.9, 1.0, spike=Escape(0.05, 0.001)))
    x, spikes = np.zeros((1, 20, 1)), np.zeros((1, 20, 1), bool)
    spikes[0, 7] = True

    def loss_of(x):
        run = imposed_on(layer, x, spikes, backend)
        return log_likelihood(run), run

    loss, run = loss_of(x)
    assert loss.hazard[spikes] == 0
    assert loss.value == pytest.approx(np.log(0.05) - 1000, rel=1e-12)
    along = run.backward(loss.gradient).x
    for step in (3, 7):
        ends = [loss_of(x + sign * 1e-4 * (np.arange(20) == step)[:, None])[0].value for sign in (1, -1)]
        assert along[0, step, 0] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-8)
        assert along[0, step, 0] > 100


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("seed", seeds(6))
def test_the_gradient_is_that_of_the_likelihood(backend, seed, recurrent):
    """Of every parameter, by finite differences: nothing is a surrogate, for the spikes are constants."""
    layer, x = noisy_layer(seed, np.float64, recurrent=recurrent), spikes_of_input(seed, batch=2, steps=40)
    start = simulate(layer, x, "numpy", seed=8)
    spikes = simulate(layer, x, "numpy", seed=9, state=start.state).spikes
    assert spikes.any()
    run = imposed_on(layer, x, spikes, backend, state=start.state)
    gradients = run.backward(log_likelihood(run).gradient)
    own = gradients.parameters()

    def value(changed, signal=x):
        return log_likelihood(imposed_on(changed, signal, spikes, state=start.state)).value

    assert {"spike.rate", "spike.width"} <= set(own)
    for name, given in layer.parameters().items():
        where = np.unravel_index(seed % given.size, given.shape) if given.ndim else ()
        step = 1e-5 * max(abs(float(given[where])), 0.05)
        ends = []
        for sign in (1, -1):
            moved = given.copy()
            moved[where] += sign * step
            ends.append(value(layer.with_parameters({name: moved})))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert np.isclose(own[name][where], slope, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("seed", seeds(3))
def test_backends_and_tapes_agree_on_the_gradient(backend, seed):
    layer, x = noisy_layer(seed, np.float64), spikes_of_input(seed)
    spikes = simulate(layer, x, "numpy", seed=1).spikes
    expected = imposed_on(layer, x, spikes)
    wanted = expected.backward(log_likelihood(expected).gradient)
    for tape in (True, "checkpoint"):
        for options in ({"surrogate": "triangle", "detach": ()}, {}):  # of which nothing here depends
            run = imposed_on(layer, x, spikes, backend, tape=tape, **options)
            loss = log_likelihood(run)
            assert loss.value == log_likelihood(expected).value
            found = run.backward(loss.gradient)
            for name, value in (wanted.parameters() | {"x": wanted.x}).items():
                assert relative((found.parameters() | {"x": found.x})[name], value) < 1e-10, name


def test_a_cells_likelihood_is_that_of_its_fit():
    """`GIFCell.impose` and the kernels say the same of one recording."""
    cell = GIFCell(
        capacitance=120, conductance=8, rest=-70, reset=-62, threshold=-52, width=1.2, refractory=4,
        currents=[(10, -60), (50, -25)], thresholds=[(10, 4)], coupling=[(12, None, 0.2), (12, -58, 0.4)],
    )  # fmt: skip
    current = np.random.default_rng(0).normal(350, 200, 20_000)
    spikes = cell.sample(current, 0.1, repeats=1, seed=1).to_steps(0.1, 20_000).T > 0
    assert spikes.sum() > 20
    loss = log_likelihood(imposed_on(cell.layer(0.1), current[:, None], spikes, "numba"))
    imposed = cell.impose(current, spikes.T, 0.1)
    np.testing.assert_allclose(loss.hazard[:, 0], imposed.hazard[0], rtol=1e-8, atol=1e-300)
    assert loss.value == pytest.approx(of_hazard(imposed.log_hazard, spikes.T), rel=1e-10)


def test_ascent_of_the_likelihood_finds_the_weights():
    """A layer that we know, from its spikes alone: 30 000 steps, the likelihood's own gradient."""
    rng = np.random.default_rng(0)
    true = Layer(LinearIF(0.9, 1.0, 3, spike=Escape(0.2, 0.3)), np.array([[0.5], [-0.3], [0.25], [0.0]]))
    x = rng.random((20, 1500, 4)) < 0.15
    spikes = simulate(true, x, seed=5).spikes
    layer = replace(true, weights=np.zeros((4, 1)))
    values = []
    for _ in range(100):
        run = imposed_on(layer, x, spikes, "numba")
        loss = log_likelihood(run)
        values.append(loss.value)
        layer = replace(layer, weights=layer.weights + 1e-5 * run.backward(loss.gradient).weights)
    best = log_likelihood(imposed_on(true, x, spikes, "numba")).value
    assert values[-1] > best - 1 > values[20]
    np.testing.assert_allclose(layer.weights, true.weights, atol=0.03)


def network():
    rng = np.random.default_rng(2)
    hidden = LinearIF(np.full(6, 0.9), 0.8, 3, spike=Escape(np.full(6, 0.1), 0.4))
    last = LinearIF(np.full(3, 0.85), 0.8, 2, spike=Escape(0.1, 0.4))
    return Network(
        [Layer(hidden, rng.normal(0.2, 0.4, (4, 6))), Layer(last, rng.normal(0.2, 0.4, (6, 3)))],
        LeakyReadout(rng.normal(0, 1, (3, 2)), np.zeros(2), 0.9),
    )  # fmt: skip


def test_one_layer_of_a_network_is_given_its_spikes(backend):
    """The layers below are differentiated through, those above hear constants."""
    net, x = network(), spikes_of_input(3)
    recorded = simulate(net, x, "numpy", seed=1).layers[1].spikes
    run = simulate(net, x, backend, impose=[None, recorded], record=TRACES, tape=True, seed=2)
    assert_same_bits("spikes", run.layers[1].spikes, recorded)
    assert (run.layers[0].spikes != simulate(net, x, "numpy", seed=1).layers[0].spikes).any()
    loss = log_likelihood(run.layers[1])
    gradients = run.backward(grad_spikes=[None, loss.gradient], grad_output=np.ones(run.output.shape))
    upper = imposed_on(net.layers[1], run.layers[0].spikes, recorded, "numpy")
    alone = upper.backward(log_likelihood(upper).gradient)
    own = gradients.parameters()
    assert relative(own["layers.1.weights"], alone.weights) < 1e-10
    assert relative(own["layers.1.spike.width"], alone.parameters()["spike.width"]) < 1e-10
    lower = simulate(net.layers[0], x, "numpy", seed=2, tape=True)
    below = lower.backward(np.asarray(alone.x))
    assert relative(own["layers.0.weights"], below.weights) < 1e-10
    assert np.any(own["readout.weights"])


def test_imposed_below_nothing_is_told_through_the_spikes(backend):
    net, x = network(), spikes_of_input(3)
    recorded = simulate(net, x, "numpy", seed=1).layers[0].spikes
    run = simulate(net, x, backend, impose=[recorded, None], tape=True, seed=1)
    own = run.backward(grad_output=np.ones(run.output.shape)).parameters()
    assert not own["layers.0.weights"].any()
    assert own["layers.1.weights"].any()
    assert_refused(
        lambda: run.backward(grad_counts=[np.ones(run.counts[0].shape), None]), ["grad_counts[0]", "imposed"]
    )


NOISY = Layer(LinearIF(np.full(2, 0.9), 1.0, 3, spike=Escape(0.1, 0.3)))
X = np.zeros((10, 1))


def at(*places, shape=(10, 2)):
    spikes = np.zeros(shape, bool)
    for place in places:
        spikes[place] = True
    return spikes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: simulate(Layer(LIF(0.9)), X, impose=at(shape=(10, 1))), ["impose", "escape noise", "LIF"]),
        (lambda: simulate(NOISY, X, impose=at(shape=(9, 2))), ["impose", "(1, 10, 2)", "(9, 2)"]),
        (lambda: simulate(NOISY, X[None].repeat(2, 0), impose=at()), ["impose", "(2, 10, 2)"]),
        (lambda: simulate(NOISY, X, impose=2 * at((1, 0))), ["impose", "at most once"]),
        (lambda: simulate(NOISY, X, impose=np.full((10, 2), np.nan)), ["impose"]),
        (lambda: simulate(NOISY, X, impose="spikes"), ["impose"]),
        (lambda: simulate(NOISY, X, impose=at((1, 1), (4, 1))), ["impose", "neuron 1", "step 4", "after one at 1"]),
        (lambda: simulate(NOISY, X, impose=at((2, 0)), state=simulate(NOISY, X, impose=at((9, 0))).state),
         ["impose", "step 2", "before the run"]),
        (lambda: simulate(network(), spikes_of_input(1), impose=at()), ["impose", "sequence of 2"]),
        (lambda: log_likelihood(simulate(NOISY, X, record=TRACES, tape=True)), ["run", "impose=spikes"]),
        (lambda: log_likelihood(simulate(NOISY, X, impose=at(), tape=True)), ["run", "impose=spikes"]),
        (lambda: log_likelihood(3), ["run", "impose=spikes"]),
    ],
)  # fmt: skip
def test_wrong_input_is_refused(call, words):
    assert_refused(call, words)


def test_spikes_as_early_as_they_may_be():
    run = simulate(NOISY, X, impose=at((0, 0), (4, 0), (8, 0), (5, 1)))
    assert run.spikes.sum() == 4
    assert simulate(NOISY, X, impose=at((2, 0)), state=simulate(NOISY, X, impose=at((8, 0))).state).spikes.sum() == 1


def test_the_callers_spikes_stay_as_they_are():
    given = at((0, 0), (4, 0))
    before = given.copy()
    run = simulate(NOISY, X, impose=given, tape=True)
    assert_same_bits("given", given, before)
    given[9, 1] = True
    assert not run.spikes[9, 1]
    network_ = Network([replace(NOISY, weights=np.ones((1, 2)))], CountReadout())
    assert simulate(network_, X, impose=[None]).seed is not None
