"""Named models against their published equations, step by step or solved in fine steps."""

import numpy as np
import pytest

from blocksim import GIF, GLIF, MAT, AdLIF, Connection, CubaLIF, Exponential, Layer, LinearIF, Network, simulate
from blocksim.models import load_network, save_model

from .helpers import assert_refused

CURRENT = 0.3 + 0.5 * np.sin(np.arange(600) / 40)


def spikes_and_potential(neuron, current, backend, gain=1.0):
    run = simulate(Layer(neuron), gain * current[:, None], backend, record=("voltage", "threshold"))
    assert run.spikes.any()
    return np.flatnonzero(run.spikes[:, 0]), run.voltage[:, 0], run.threshold[:, 0]


def test_symplectic_adlif_is_the_published_update(backend):
    alpha, beta, a, b = np.exp(-1 / 10.0), np.exp(-1 / 60.0), 0.7, 1.5
    u = w = 0.0
    spikes, potential = [], []
    for t, current in enumerate(10 * CURRENT):
        u = alpha * u + (1 - alpha) * (current - w)
        potential.append(u)
        z = u > 1
        if z:
            spikes.append(t)
            u = 0.0
        w = beta * w + (1 - beta) * (a * u + b * z)
    neuron = AdLIF.from_ms(tau_mem=10.0, tau_adapt=60.0, a=a, b=b, dt=1.0)
    gain = AdLIF.current_gain(tau_mem=10.0, dt=1.0)
    got, voltage, _ = spikes_and_potential(neuron, 10 * CURRENT, backend, gain)
    np.testing.assert_array_equal(got, spikes)
    np.testing.assert_allclose(voltage, potential, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("a", "size"), [(0.7, 4), (6.0, 16)])
def test_exact_adlif_solves_the_differential_equations(backend, a, size):
    tau, tau_w, b, dt, fine = 10.0, 60.0, 1.5, 1.0, 2000
    given = size * CURRENT[:100]
    jump = (1 - np.exp(-dt / tau_w)) * b
    u = w = 0.0
    spikes, potential = [], []
    for t, current in enumerate(given):
        h = dt / fine
        for _ in range(fine):  # midpoint rule
            du, dw = (-u + current - w) / tau, (-w + a * u) / tau_w
            um, wm = u + h / 2 * du, w + h / 2 * dw
            u, w = u + h * (-um + current - wm) / tau, w + h * (-wm + a * um) / tau_w
        potential.append(u)
        if u > 1:
            spikes.append(t)
            u, w = 0.0, w + jump
    neuron = AdLIF.from_ms(tau_mem=tau, tau_adapt=tau_w, a=a, b=b, dt=dt, discretisation="exact")
    gain = AdLIF.current_gain(tau_mem=tau, dt=dt, tau_adapt=tau_w, a=a)
    got, voltage, _ = spikes_and_potential(neuron, given, backend, gain)
    np.testing.assert_array_equal(got, spikes)
    np.testing.assert_allclose(voltage, potential, rtol=1e-6, atol=1e-7)


def test_gif_has_the_currents_and_thresholds_of_its_spikes(backend):
    dt, tau, refractory = 0.5, 20.0, 8
    currents, thresholds = [(100.0, -4.0), (30.0, -2.0)], [(50.0, 3.0)]
    neuron = GIF.from_ms(
        tau_mem=tau,
        dt=dt,
        theta=10.0,
        refractory=refractory * dt,
        v_reset=2.0,
        currents=currents,
        thresholds=thresholds,
    )
    beta = np.exp(-dt / tau)
    given = 40 * CURRENT
    v, left, times, potential, threshold = 0.0, 0, [], [], []
    for t, current in enumerate(given):
        since = np.array([t - last for last in times]) * dt  # from the spikes' steps to the end of this one
        if left:
            left -= 1
        else:
            v = beta * v + (1 - beta) * current
            for constant, amplitude in currents:  # solved in the step, which began dt ago
                start = amplitude * np.exp(-(since - dt) / constant).sum()
                rate = 1 / constant - 1 / tau
                v += start * beta * (1 - np.exp(-rate * dt)) / rate / tau
        theta = 10.0 + sum(rise * np.exp(-since / constant).sum() for constant, rise in thresholds)
        potential.append(v)
        threshold.append(theta)
        if not left and v > theta and (not times or t - times[-1] > refractory):
            times.append(t)
            v, left = 2.0, refractory
    got, voltage, moving = spikes_and_potential(neuron, given, backend, 1 - beta)
    np.testing.assert_array_equal(got, times)
    np.testing.assert_allclose(voltage, potential, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(moving, threshold, rtol=1e-10)


def test_mat_is_never_reset(backend):
    neuron = MAT.from_ms(tau_mem=5.0, dt=0.5, theta=1.0, refractory=2.0, thresholds=[(10.0, 3.0), (200.0, 0.2)])
    got, voltage, threshold = spikes_and_potential(neuron, CURRENT, backend)
    potential = np.zeros(len(CURRENT) + 1)
    for t, current in enumerate(CURRENT):
        potential[t] = np.exp(-0.5 / 5.0) * potential[t - 1] + current
    np.testing.assert_allclose(voltage, potential[:-1], rtol=1e-12, atol=1e-12)
    since = np.subtract.outer(np.arange(len(CURRENT)), got) * 0.5
    rises = sum(np.where(since > 0, rise * np.exp(-since / tau), 0).sum(axis=1) for tau, rise in ((10, 3), (200, 0.2)))
    np.testing.assert_allclose(threshold, 1 + rises, rtol=1e-10)
    assert np.diff(got).min() > 4


def test_glif_amplitudes_are_those_after_the_refractory_period(backend):
    neuron = GLIF.from_ms(
        tau_mem=20.0, dt=1.0, theta=1.0, refractory=5.0, v_reset=0.1, reset_factor=0.3, currents=[(50.0, -0.5)],
        thresholds=[(30.0, 0.4)],
    )  # fmt: skip
    got, voltage, threshold = spikes_and_potential(neuron, CURRENT, backend)
    first = got[0]
    np.testing.assert_allclose(voltage[first + 1 : first + 6], 0.3 * voltage[first] + 0.1, rtol=1e-12)
    np.testing.assert_allclose(threshold[first + 6], 1 + 0.4 * np.exp(-1 / 30.0), rtol=1e-12)


def test_cuba_lif_filters_its_input(backend, tmp_path):
    neuron = CubaLIF.from_ms(tau_mem=20.0, tau_syn=(5.0, 50.0), dt=1.0, refractory=2.0)
    weights = np.random.default_rng(0).normal(0.1, 0.1, (2, 6, 3))
    layer = Layer(neuron, inputs=[Connection(weights[place], 0, place) for place in range(2)])
    x = np.random.default_rng(1).random((3, 80, 6)) < 0.3
    other = Layer(
        LinearIF(neuron.beta, neuron.theta, 2),
        inputs=layer.input_connections,
        synapses=[Exponential.from_ms(5.0, 1.0), Exponential.from_ms(50.0, 1.0)],
    )
    run, expected = (simulate(each, x, backend, tape=True, record="voltage") for each in (layer, other))
    assert run.spikes.any()
    np.testing.assert_array_equal(run.voltage, expected.voltage)
    got, wanted = (each.backward(np.ones(run.spikes.shape)).parameters() for each in (run, expected))
    assert set(got) < set(wanted)
    for name, gradient in got.items():
        np.testing.assert_array_equal(gradient, wanted[name], err_msg=name)
    network = Network([layer, Layer(neuron, np.full((3, 2), 0.4))])
    save_model(tmp_path / "cuba.npz", network)
    back = load_network(tmp_path / "cuba.npz")
    assert list(back.parameters()) == list(network.parameters())
    np.testing.assert_array_equal(simulate(back, x, backend).output, simulate(network, x, backend).output)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CubaLIF(0.9), ["synapses", "Exponential"]),
        (lambda: Layer(CubaLIF.from_ms(tau_mem=20, tau_syn=5, dt=1), synapses=[Exponential(0.9)]), ["CubaLIF"]),
        (lambda: GIF.from_ms(tau_mem=20, dt=0.1, currents=[5.0]), ["tau in ms, amplitude", "5.0"]),
        (lambda: GIF.from_ms(tau_mem=20, dt=0.1, thresholds=[(-5.0, 1.0)]), ["tau", "-5.0"]),
        (lambda: AdLIF.from_ms(tau_mem=9, tau_adapt=9, a=1, b=1, dt=1, discretisation="euler"), ["'exact'", "euler"]),
        (lambda: AdLIF.from_ms(tau_mem=9, tau_adapt=9, a=np.inf, b=1, dt=1, discretisation="exact"), ["a:", "inf"]),
        (lambda: AdLIF.current_gain(tau_mem=0, dt=1), ["tau_mem:", "above 0"]),
        (lambda: AdLIF.current_gain(tau_mem=0, dt=1, tau_adapt=9), ["tau_mem:", "above 0"]),
        (lambda: AdLIF.current_gain(tau_mem=9, dt=1, tau_adapt=-1), ["tau_adapt:", "above 0", "-1"]),
        (lambda: AdLIF.current_gain(tau_mem=9, dt=1, tau_adapt=9, a=np.nan), ["a:", "finite", "nan"]),
        (lambda: AdLIF.current_gain(tau_mem=[9, 9], dt=1, tau_adapt=9, a=[1, 2, 3]), ["one length", "(2,), (), (3,)"]),
    ],
)
def test_what_is_wrong_is_said(make, words):
    assert_refused(make, words)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_of_one_precision_make_neurons_of_it(dtype):
    def each(value):
        return np.full(3, value, dtype)

    common = {"tau_mem": each(9.0), "dt": 1.0, "theta": each(1.0)}
    pairs = {"currents": [(each(9.0), -1.0), (5.0, each(-1.0))], "thresholds": [(each(30.0), each(0.1))]}
    adapt = {"tau_adapt": each(60.0), "a": each(0.5), "b": each(1.0)}
    for neuron in (
        GIF.from_ms(**common, **pairs),
        GLIF.from_ms(**common, **pairs, refractory=2.0),
        MAT.from_ms(**common, thresholds=pairs["thresholds"]),
        AdLIF.from_ms(**common, **adapt),
        AdLIF.from_ms(**common, **adapt, discretisation="exact"),
        CubaLIF.from_ms(**common, tau_syn=each(5.0)),
    ):
        run = simulate(Layer(neuron), np.ones((4, 3), dtype), "numpy", record="voltage")
        assert run.voltage.dtype == dtype, type(neuron).__name__
