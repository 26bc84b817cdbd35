"""Every case of the golden data, computed by an independent float64 autograd implementation, in every engine."""

from __future__ import annotations

import json

import numpy as np
import pytest

import blocksim

from .helpers import relative

GRADIENTS = {"x": "x", "weights": "W", "bias": "bias", "recurrent": "R", "beta": "beta", "p": "p", "b": "b"}
FILES = {"standard": ("alif_layer.npz", 48), "paper": ("paper_gradient.npz", 24)}


@pytest.fixture(scope="module")
def golden(shared_data):
    loaded = {}
    for gradient, (file, count) in FILES.items():
        with np.load(shared_data / "golden" / file) as data:
            cases = [{} for _ in range(count)]
            for key in data.files:
                number, name = key.removeprefix("case").split("/")
                cases[int(number)][name] = data[key]
        loaded[gradient] = cases
    return loaded


@pytest.mark.parametrize(
    ("gradient", "number"), [(gradient, number) for gradient, (_, count) in FILES.items() for number in range(count)]
)
def test_golden_case(backend, golden, gradient, number):
    case = golden[gradient][number]
    how = json.loads(str(case["json"]))
    neuron = blocksim.ALIF(case["beta"], case["p"], case["b"], refractory_steps=how["refractory_steps"])
    layer = blocksim.Layer(neuron, case["W"], case["bias"], case.get("R"), how["latency_steps"])
    assert how["recurrent"] == ("R" in case)
    run = blocksim.simulate(
        layer,
        case["x"],
        backend,
        record=("voltage", "threshold"),
        tape=True,
        surrogate=how["surrogate"],
        gradient=gradient,
        detach=how["detach"],
    )

    assert np.array_equal(run.spikes, case["spikes"])
    got = run.backward(case["grad_spikes"], case.get("grad_voltage"))
    errors = {name: relative(getattr(got, name), case[f"grad_{old}"]) for name, old in GRADIENTS.items() if old in case}
    for name in ("voltage", "threshold"):
        if name in case:
            errors[name] = relative(getattr(run, name), case[name])
    expected = set(GRADIENTS) - (set() if "R" in case else {"recurrent"})
    if gradient == "standard":
        expected |= {"voltage", "threshold"}
    assert expected <= set(errors)
    assert max(errors.values()) < 1e-10, errors


def test_blocks_longer_than_one_are_among_them(golden):
    """The golden cases exercise the block method, not only blocks of one step."""
    periods = [json.loads(str(case["json"]))["refractory_steps"] for cases in golden.values() for case in cases]
    assert sum(period > 0 for period in periods) > 40
    assert max(periods) == 40
