"""Corners that once gave wrong numbers, other bits in another backend, or a raw error: the smallest case of each."""

from __future__ import annotations

import json

import numpy as np
import pytest

import blocksim
from blocksim import LIF, Component, Escape, Layer, LinearIF, Network, Softplus, simulate
from blocksim.data import download
from blocksim.ephys import load_cell, open_recording
from blocksim.errors import BlocksimError
from blocksim.models import load_network, save_model

from .helpers import assert_same_bits, assert_same_run

TRACES = ("voltage", "threshold")


def test_a_softness_whose_reciprocal_overflows():
    """1 / 1e-40 is inf in float32, and inf times a distance of 0 is NaN; numpy and numba then differ in potentials."""
    neuron = LinearIF(np.array([0.5], np.float32), 1.0, 2, [Softplus(0.5, 0.0, 0.0, 0.1, 0.1, 1e-40)])
    x = np.array([0, 0, 1, 5, 5, 0], np.float32)[:, None]
    own, other = (simulate(Layer(neuron), x, name, record=TRACES) for name in ("numba", "numpy"))
    assert np.isfinite(own.threshold).all()
    assert_same_run(own, other)


def test_an_escape_width_whose_reciprocal_overflows():
    neuron = LinearIF(np.array([0.5], np.float32), 0.0, 2, [], spike=Escape(0.1, 1e-40))
    own, other = (
        simulate(Layer(neuron), np.zeros((5, 1), np.float32), name, record=TRACES, seed=1)
        for name in ("numba", "numpy")
    )
    assert np.isfinite(other.state.remaining).all()
    assert_same_run(own, other)


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_the_gradient_of_a_softness_far_from_the_knot(name):
    """|x| times the logistic of -|x|: inf times 0."""
    neuron = LinearIF(np.array([0.5], np.float32), 1.0, 2, [Softplus(0.5, 0.0, 0.0, 0.1, 0.1, 1e-30)])
    x = np.array([0, 1e10, 1, 0], np.float32)[:, None]
    run = simulate(Layer(neuron), x, name, tape=True)
    assert np.isfinite(run.backward(np.ones((4, 1), np.float32)).parameters()["components.0.softness"]).all()


def test_few_lanes_keep_a_negative_zero():
    neuron = LinearIF(0.5, 1.0, 1, [Component(0.0, -0.5, to_threshold=1.0)])
    x = np.full((10, 1), 2.0)
    assert_same_run(*(simulate(Layer(neuron), x, name, record=TRACES) for name in ("numba", "numpy")))


def test_few_lanes_of_lif_keep_a_negative_zero():
    layer = Layer(LIF(beta=0.0, refractory_steps=0), bias=np.array([-0.0]))
    x = np.array([-1.0, -0.0, -0.0])[:, None]
    own, other = (simulate(layer, x, name, record="voltage") for name in ("numba", "numpy"))
    assert_same_bits("voltage", own.voltage, other.voltage)


@pytest.mark.parametrize("part", ["components", "synapses"])
def test_a_model_file_with_a_list_for_the_name_of_a_part(tmp_path, part):
    path = tmp_path / "m.npz"
    layer = Layer(LinearIF(0.9, components=[Component(0.9)]), np.ones((2, 2)), synapses=[blocksim.Exponential(0.9)])
    save_model(path, Network([layer]))
    with np.load(path) as archive:
        arrays = dict(archive)
    meta = json.loads(str(arrays["meta"]))
    meta["layers"][0][part] = [["x"]]
    np.savez(path, **arrays | {"meta": np.array(json.dumps(meta))})
    with pytest.raises(BlocksimError):
        load_network(path)


@pytest.mark.parametrize(
    "call",
    [
        lambda: open_recording("a\0b"),
        lambda: open_recording("\ud800"),
        lambda: load_cell("x" * 5000),
        lambda: download("shd-test", "a\0b", base_url="http://127.0.0.1:9"),
    ],
)
def test_names_that_no_file_can_have(call):
    with pytest.raises(BlocksimError):
        call()


class NamedInBytes:
    def __fspath__(self):
        return b"abc"


def test_a_path_in_bytes():
    with pytest.raises(BlocksimError):
        load_network(NamedInBytes())


def test_poisson_rates_of_samples_take_memory_of_the_order_of_the_result():
    """One neuron at 400 a step makes the tables of 1000 samples 560 deep: 950 MB for a result of 8 MB."""
    resource = pytest.importorskip("resource", reason="this system does not say how much memory a process took")
    rate = np.full((1000, 1, 200), 10.0)
    rate[-1] = 400_000.0
    blocksim.poisson_input(1, 4, dt=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    blocksim.poisson_input(rate, 10, dt=1, seed=1)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 200


def test_poisson_weights_that_overflow_with_their_counts():
    """1 x 3e38 is finite, 490 x 3e38 is not."""
    try:
        x = blocksim.poisson_input(490_000, 2, dt=1, weight=3e38, seed=1)
    except BlocksimError:
        return
    assert np.isfinite(x).all()
