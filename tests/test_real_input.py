"""Real input: injected current of a cortical recording, and events of N-MNIST."""

from __future__ import annotations

import numpy as np
import pytest

import blocksim

from . import oracle
from .conftest import IN_CI
from .helpers import assert_close, assert_same_bits

DT = 0.1  # ms


@pytest.fixture(scope="module")
def current(shared_data, request):
    """Nine sweeps of 20 s in nA, (9, 200000, 1); three of 3 s where slow tests are left out."""
    whole = IN_CI or request.config.getoption("--slow")
    sweeps, steps = (9, 200_000) if whole else (3, 30_000)
    with np.load(shared_data / "recordings" / "l5_cell3.npz") as data:
        return (data["i_q"][:sweeps, :steps] * (data["i_lsb_pA"] / 1000))[:, :, None]


def cell():
    return blocksim.Layer(blocksim.ALIF.from_ms(tau_mem=15, tau_adapt=100, adaptation=0.3, refractory=4, dt=DT))


GAIN = 0.03  # threshold units a step and nA


@pytest.fixture(scope="module")
def reference(current):
    return blocksim.simulate(cell(), GAIN * current, "numpy", method="standard", record="voltage")


def test_recorded_current(backend, current, reference):
    rate = reference.spikes.mean() / (DT / 1000)
    assert 2 < rate < 60
    x = GAIN * current
    blocks = blocksim.simulate(cell(), x, backend, record="voltage")
    assert blocks.block_length == 41
    assert_same_bits("spikes", blocks.spikes, reference.spikes)
    assert_same_bits("voltage", blocks.voltage, reference.voltage)
    state, parts = None, []
    for start in range(0, x.shape[1], 13_333):
        run = blocksim.simulate(cell(), x[:, start : start + 13_333], backend, state=state)
        state = run.state
        parts.append(run.spikes)
    assert_same_bits("spikes in pieces", np.concatenate(parts, axis=1), reference.spikes)


def test_recorded_current_is_the_oracles_for_a_second(current, reference):
    n = cell().neuron
    expected = oracle.simulate(
        GAIN * current[:1, :10_000], np.float64, beta=n.beta, p=n.p, b=n.b, refractory=n.refractory_steps
    )
    assert expected.spikes.sum() > 1
    assert_same_bits("spikes", reference.spikes[:1, :10_000], expected.spikes)
    assert_same_bits("voltage", reference.voltage[:1, :10_000], expected.voltage)


def test_nmnist(backend, shared_data):
    with np.load(shared_data / "nmnist" / "test100.npz") as data:
        offsets = data["offsets"]
        channel = (data["p"].astype(int) * 34 + data["y"]) * 34 + data["x"]
        time = data["t_us"] / 1000
    chosen = range(8)
    x = blocksim.Events.from_lists(
        [time[offsets[k] : offsets[k + 1]] for k in chosen], [channel[offsets[k] : offsets[k + 1]] for k in chosen],
        channels=2 * 34 * 34, dt=1.0,
    )  # fmt: skip
    assert len(x.indices) == offsets[8]
    rng = np.random.default_rng(0)
    layer = blocksim.Layer(
        blocksim.ALIF.from_ms(tau_mem=20, tau_adapt=100, adaptation=0.2, refractory=5, dt=1),
        rng.normal(0.01, 0.12, (x.shape[2], 70)), recurrent=rng.normal(0, 0.1, (70, 70)),
    )  # fmt: skip
    expected = blocksim.simulate(layer, x, "numpy", method="standard", tape=True)
    assert 0.005 < expected.spikes.mean() < 0.15
    g = rng.normal(size=expected.spikes.shape)
    run = blocksim.simulate(layer, x, backend, tape=True)
    assert_same_bits("spikes", run.spikes, expected.spikes)
    gradients = run.backward(g)
    assert np.linalg.norm(gradients.weights) > 0
    assert_close(gradients, expected.backward(g), 1e-10)
