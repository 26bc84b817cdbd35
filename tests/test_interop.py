"""Neurons of other tools: every spike time of NEST's, at 0.1 ms, and AllenSDK's GLIF neurons step by step.

NEST's times are read from ../shared/data/golden and skipped where it is not there.
"""

import json

import numpy as np
import pytest

from blocksim import simulate
from blocksim.interop import from_allen, from_nest

from .helpers import assert_refused


@pytest.fixture(scope="module")
def nest(shared_data):
    with np.load(shared_data / "golden" / "nest.npz") as archive:
        return {name: archive[name] for name in archive.files}


# step by step in Python a case takes seconds: one of each model, and the others with --slow
EVERY = [number if number % 10 == 0 else pytest.param(number, marks=pytest.mark.slow) for number in range(40)]


@pytest.mark.parametrize("number", EVERY)
def test_every_spike_of_nest(nest, number, backend):
    case = {name: nest[f"case{number}/{name}"] for name in ("excitatory", "inhibitory", "spikes", "json")}
    how = json.loads(str(case["json"]))
    dt, steps = how["dt"], round(how["duration"] / how["dt"])
    x = np.zeros((steps, 2))
    for column, source in enumerate(("excitatory", "inhibitory")):
        arrivals = np.rint((case[source] + how["delay"]) / dt).astype(int) - 1
        np.add.at(x[:, column], arrivals[arrivals < steps], 1)
    run = simulate(from_nest(how["model"], how["params"], dt, how["weights"]), x, backend)
    assert len(case["spikes"]) > 0
    np.testing.assert_array_equal(np.flatnonzero(run.spikes[:, 0]) + 1, np.rint(case["spikes"] / dt).astype(int))


@pytest.mark.parametrize("model", ["iaf_psc_exp", "iaf_psc_alpha"])
def test_gains_have_their_limit_where_the_synapse_is_as_slow_as_the_membrane(model):
    def gains(tau):
        synapse = from_nest(model, {"tau_m": 10.0, "tau_syn_ex": tau}, 0.1).synapses[0]
        return [synapse.gain, getattr(synapse, "gain_rising", 0.0)]

    # on both sides of where the series takes over from the quotients
    expected = gains(10.0)
    for tau in (10.0 * (1 + 1e-9), 9.9999, 10.0001):
        np.testing.assert_allclose(gains(tau), expected, rtol=1e-4)
    edge = 10.0 / (1 - 1e-2 / 0.1 * 10.0 * 1e-1)
    np.testing.assert_allclose(gains(edge * (1 + 1e-9)), gains(edge * (1 - 1e-9)), rtol=1e-8)


def test_a_glif_of_nest_holds_its_currents_while_refractory():
    """NEST's glif_psc at level 3, step by step."""
    rate, amplitude, refractory, dt = 0.05, -30.0, 20, 0.1
    given = {"g": 10.0, "C_m": 100.0, "E_L": -70.0, "V_th": -55.0, "V_reset": -72.0, "t_ref": refractory * dt}
    currents = {"after_spike_currents": True, "asc_decay": [rate], "asc_amps": [amplitude], "asc_r": [1.0]}
    layer = from_nest("glif_psc", given | currents | {"tau_syn": [2.0]}, dt, (900.0, -10.0))
    x = np.random.default_rng(0).random((2000, 2)) < 0.05
    decay, tau_m = np.exp(-rate * dt), 10.0
    beta = np.exp(-dt / tau_m)
    v, current, left, s, z, spikes = 0.0, 0.0, 0, np.zeros(2), np.zeros(2), []
    gain, rising = layer.synapses[0].gain, layer.synapses[0].gain_rising
    for t in range(len(x)):
        if left == 0:
            mean = current * (1 - decay) / (rate * dt)
            current *= decay
            v = beta * v + (1 - beta) / 10.0 * mean + (gain * s + rising * z).sum()
            if v > 15.0:
                spikes.append(t)
                v, left = -2.0, refractory
                current = amplitude + current * np.exp(-rate * refractory * dt)
        else:
            left -= 1
        sigma = np.exp(-dt / 2.0)
        s, z = sigma * (s + np.e * dt / 2.0 * z), sigma * z + x[t] * np.array([900.0, -10.0])
    assert len(spikes) > 5
    np.testing.assert_array_equal(np.flatnonzero(simulate(layer, x, "numpy").spikes[:, 0]), spikes)


def glif(level, rng, **changed):
    """A neuron_config of the Cell Types Database."""
    currents, reset = level in (3, 4), level in (2, 4)
    of_threshold = {"a_spike": float(rng.uniform(0.001, 0.01)), "b_spike": float(rng.uniform(20, 200))}
    return {
        "El": 0.0, "El_reference": -0.07, "dt": 5e-5, "R_input": 2e8, "C": 1e-10, "th_inf": 0.02,
        "spike_cut_length": int(rng.integers(0, 40)), "asc_tau_array": [0.01, 0.1], "asc_amp_array": [-3e-11, 1e-11],
        "coeffs": {"G": 0.9, "C": 1.1, "th_inf": 1.05, "asc_amp_array": [1.2, 0.8], "a": 1, "b": 1},
        "AScurrent_dynamics_method": {"name": "exp" if currents else "none", "params": {}},
        "AScurrent_reset_method": {"name": "sum", "params": {"r": [1.0, 1.0]}} if currents else {"name": "none"},
        "voltage_dynamics_method": {"name": "linear_forward_euler", "params": {}},
        "voltage_reset_method": {"name": "v_before", "params": {"a": 0.3, "b": 0.001}} if reset else {"name": "zero"},
        "threshold_dynamics_method": {"name": "spike_component" if reset else "inf", "params": of_threshold},
        "threshold_reset_method": {"name": "three_components" if reset else "inf", "params": of_threshold},
    } | changed  # fmt: skip


def steps_of_glif(config, current):
    """The spikes of AllenSDK's rules (2.16), in SI units."""
    scale, dt, cut = config["coeffs"], config["dt"], config["spike_cut_length"]
    conductance, capacity = scale["G"] / config["R_input"], config["C"] * scale["C"]
    decay = np.exp(-dt / np.array(config["asc_tau_array"]))
    amplitude = np.array(config["asc_amp_array"]) * scale["asc_amp_array"]
    exp = config["AScurrent_dynamics_method"]["name"] == "exp"
    moving = config["threshold_dynamics_method"]["name"] == "spike_component"
    of_threshold = config["threshold_dynamics_method"]["params"]
    v, component, currents, spikes, t = 0.0, 0.0, np.zeros(2), [], 0
    fall = np.exp(-of_threshold["b_spike"] * dt)
    while t < len(current):
        v += (current[t] + currents.sum() - conductance * v) * dt / capacity
        currents, component = currents * decay, component * fall
        if v > config["th_inf"] * scale["th_inf"] + component:
            spikes.append(t)
            currents = amplitude + currents * decay**cut if exp else currents
            v = 0.3 * v + 0.001 if moving else 0.0
            component = component * fall**cut + of_threshold["a_spike"] if moving else 0.0
            t += cut
        t += 1
    return spikes


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_every_spike_of_allens_rules(level):
    rng = np.random.default_rng(level)
    current = 2e-10 + rng.normal(0, 1e-10, 8_000)
    for _ in range(3):
        config = glif(level, rng)
        expected = steps_of_glif(config, current)
        run = simulate(from_allen(config), current[:, None] * 1e12)
        assert len(expected) > 3
        np.testing.assert_array_equal(np.flatnonzero(run.spikes[:, 0]), expected)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: from_nest("iaf_psc_gamma", {}, 0.1), ["model", "iaf_psc_exp", "iaf_psc_gamma"]),
        (lambda: from_nest("aeif_psc_exp", {}, 0.1), ["model", "exponential"]),
        (lambda: from_nest("gif_psc_exp", {}, 0.1), ["model", "stochastic"]),
        (lambda: from_nest("iaf_psc_exp", {"tau_syn": 2.0}, 0.1), ["params", "tau_syn_ex", "'tau_syn'"]),
        (lambda: from_nest("iaf_psc_exp", {"tau_m": -2.0}, 0.1), ["tau_m", "-2.0"]),
        (lambda: from_nest("iaf_psc_exp", {"delta": 2.0}, 0.1), ["delta", "stochastic"]),
        (lambda: from_nest("iaf_psc_delta", {"V_min": -80.0}, 0.1), ["V_min", "-80"]),
        (lambda: from_nest("iaf_psc_delta", {"V_m": -60.0}, 0.1), ["V_m", "-60"]),
        (lambda: from_nest("iaf_psc_delta", {"t_ref": 2.03}, 0.1), ["t_ref", "2.03"]),
        (lambda: from_nest("iaf_psc_delta", {"V_reset": -50.0}, 0.1), ["V_reset", "-50"]),
        (lambda: from_nest("glif_psc", {"t_ref": 3.0, "adapting_threshold": True}, 0.1), ["adapting_threshold"]),
        (lambda: from_nest("iaf_psc_exp", {}, 0.1, (1.0,)), ["weights"]),
        (lambda: from_nest("iaf_psc_exp", [], 0.1), ["params", "dict"]),
        (lambda: from_allen({}), ["config", "voltage_dynamics_method"]),
        (lambda: from_allen(glif(1, RNG, R_input=0.0)), ["R_input"]),
        (lambda: from_allen(glif(4, RNG, threshold_dynamics_method={"name": "three_components_exact"})), ["exact"]),
        (lambda: from_allen(glif(3, RNG, AScurrent_reset_method={"name": "sum", "params": {"r": [0, 1]}})), ["r = 1"]),
    ],
)  # fmt: skip
def test_what_is_beyond_the_family_is_said(call, words):
    assert_refused(call, words)
