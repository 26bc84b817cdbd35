"""The linear family against NEST 3.10: every spike time of 40 single neurons at 0.1 ms.

NEST's models as instances of (27)-(34), with exact propagators. Times are read from ../shared/data/golden and skipped
where it is not there.
"""

import json
import math

import numpy as np
import pytest

from blocksim._linear import DIRECT, LinearConnection, LinearLayer, LinearParameters

from .test_linear import at_rest, longest_block, run


@pytest.fixture(scope="module")
def nest(shared_data):
    with np.load(shared_data / "golden" / "nest.npz") as archive:
        return {name: archive[name] for name in archive.files}


def layer_of(model, given, weights, dt):
    """One neuron; potentials are relative to E_L."""
    tau_m, capacity, rest = given["tau_m"], given["C_m"], given["E_L"]
    beta = math.exp(-dt / tau_m)

    def rows(*values):
        return np.array(values, np.float64).reshape(-1, 1)

    components, mode, factor = [rows()] * 5, "hold", 0.0
    if model == "mat2_psc_exp":
        decays = [math.exp(-dt / given[name]) for name in ("tau_1", "tau_2")]
        # NEST lets thresholds decay before it adds to them
        jumps = [decay * given[name] for decay, name in zip(decays, ("alpha_1", "alpha_2"), strict=True)]
        components = [rows(*decays), rows(*jumps), rows(0, 0), rows(0, 0), rows(1, 1)]
        mode, factor, reset, theta = "integrate", 1.0, 0.0, given["omega"] - rest
    else:
        reset, theta = given["V_reset"] - rest, given["V_th"] - rest
    synapses, alpha, receptors, delay = [rows()] * 3, (), (DIRECT, DIRECT), 0
    if model != "iaf_psc_delta":
        alpha, receptors = (model == "iaf_psc_alpha",) * 2, (0, 1)
        delay = 1  # the potential sees a current from the step after its arrival on
        taus = [given["tau_syn_ex"], given["tau_syn_in"]]
        gains = [tau * tau_m / (tau - tau_m) * (math.exp(-dt / tau) - math.exp(-dt / tau_m)) / capacity for tau in taus]
        rising = [0.0, 0.0]
        if alpha[0]:
            rates = [1 / tau - 1 / tau_m for tau in taus]
            rising = [
                math.e / tau / capacity * beta * (1 - math.exp(-rate * dt) * (1 + rate * dt)) / rate**2
                for tau, rate in zip(taus, rates, strict=True)
            ]
        synapses = [rows(*(math.exp(-dt / tau) for tau in taus)), rows(*gains), rows(*rising)]
    return LinearLayer(
        neuron=LinearParameters(
            np.array([beta]),
            np.nextafter([theta], -np.inf),  # NEST's neurons spike at their threshold, ours above it
            np.array([given["I_e"] * tau_m / capacity * (1 - beta)]),
            np.array([factor]), np.array([reset]), *components, *synapses,
        ),
        refractory=np.array([round(given["t_ref"] / dt)], np.int32),
        mode=mode,
        alpha=alpha,
        inputs=tuple(
            LinearConnection(np.where(np.arange(2)[:, None] == number, weight, 0.0), delay, receptor)
            for number, (weight, receptor) in enumerate(zip(weights, receptors, strict=True))
        ),
        recurrent=(),
    )  # fmt: skip


# step by step in Python a case takes seconds: one of each model, and the others with --slow
EVERY = [number if number % 10 == 0 else pytest.param(number, marks=pytest.mark.slow) for number in range(40)]


@pytest.mark.parametrize("number", EVERY)
def test_every_spike_of_nest(nest, number):
    case = {name: nest[f"case{number}/{name}"] for name in ("excitatory", "inhibitory", "spikes", "json")}
    how = json.loads(str(case["json"]))
    dt, steps = how["dt"], round(how["duration"] / how["dt"])
    layer = layer_of(how["model"], how["params"], how["weights"], dt)
    x = np.zeros((1, layer.lead + steps, 2))
    for column, source in enumerate(("excitatory", "inhibitory")):
        arrivals = np.rint((case[source] + how["delay"]) / dt).astype(int) - 1
        np.add.at(x[0, :, column], layer.lead + arrivals[arrivals < steps], 1)
    out, _, _ = run(layer, x, longest_block(layer), at_rest(layer, 1))
    assert len(case["spikes"]) > 0
    np.testing.assert_array_equal(np.flatnonzero(out.spikes[0, :, 0]) + 1, np.rint(case["spikes"] / dt).astype(int))
