"""Results as a notebook shows them."""

import base64
import re
import sys

import numpy as np
import pytest

from blocksim import ALIF, LIF, CountReadout, Layer, Network, simulate
from blocksim.ephys import Cell, GIFCell, GIFConfig, Recording, fit_gif, step_responses
from blocksim.training import evaluate, fit

from .training_tasks import network, task, training

CELL = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)


def a_run():
    return simulate(Layer(ALIF(0.9, 0.95, 0.1)), np.random.default_rng(0).random((2, 60, 7)) * 0.4, "numpy")


def a_run_of_one_neuron():
    return simulate(Layer(LIF(0.9)), np.full((5, 60, 1), 0.3), "numpy")


def a_run_without_batch():
    return simulate(Layer(LIF(0.9)), np.full((60, 3), 0.0), "numpy")


def a_network_run():
    made = Network([Layer(LIF(0.9), np.full((3, 4), 0.4)), Layer(LIF(0.9), np.full((4, 2), 0.4))], CountReadout())
    return simulate(made, np.random.default_rng(0).random((2, 40, 3)) < 0.3, "numpy")


def a_gif_fit():
    cell = GIFCell(
        capacitance=100, conductance=8, rest=-70, reset=-60, threshold=-48, width=1.5, refractory=4,
        currents=[(30, -20)],
    )  # fmt: skip
    current = 150 + 120 * np.repeat(np.random.default_rng(0).normal(size=(1, 2000)), 10, axis=1)
    spikes = cell.sample(current[0], 0.5, repeats=1, seed=1)
    voltage = cell.impose(current, spikes.to_steps(0.5, 20_000) > 0, 0.5).potential
    return fit_gif(Recording(current, voltage, 2000, spikes), GIFConfig(model="gif"))


SHOWN = {
    "run": (a_run, ["7 neurons, 2 samples, 60 steps", "numpy, blocks, blocks of 1"]),
    "one neuron": (a_run_of_one_neuron, ["1 neurons, 5 samples"]),
    "no batch": (a_run_without_batch, ["3 neurons, 60 steps: 0 spikes"]),
    "network": (a_network_run, ["2 neurons, 2 samples, 40 steps", "the last of 2 layers"]),
    "training": (lambda: fit(network(), task(), training(epochs=2), progress=False), ["2 epochs", "ended by epochs"]),
    "evaluation": (lambda: evaluate(network(), task()), ["accuracy", "of 48 samples"]),
    "responses": (lambda: step_responses(CELL, np.arange(8) * 50.0, duration=100), ["8 steps of 0 to 350 pA"]),
    "curve": (lambda: step_responses(CELL, [100.0, 300.0]).f_i_curve(), ["f-I curve of 2 steps", "rheobase 300 pA"]),
    "gif fit": (a_gif_fit, ["tau_mem", "bits per spike"]),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_result_shows_itself(name, monkeypatch):
    make, words = SHOWN[name]
    result = make()
    page = result._repr_html_()
    for each in words:
        assert each in page
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert len(picture) < 500_000
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    alone = result._repr_html_()
    assert "<img" not in alone
    assert words[0] in alone
