"""The scan over time, for few neurons: within a stated tolerance of the step-by-step model, and when it is chosen.

Tests of the whole suite that allow for rounding run here again, with an engine that always scans.
"""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from blocksim.backends.cupy_cuda.backend import CupyBackend
from hypothesis import given

import blocksim

from .conftest import make_engine
from .cuda_emulation import emulated_cupy
from .helpers import assert_close, assert_same_run, make_case
from .test_cuda import SHAPES
from .test_golden import golden, test_golden_case  # noqa: F401
from .test_gradients import (  # noqa: F401
    test_a_sequence_in_pieces_has_the_gradient_of_the_whole,
    test_a_shared_current_gathers_the_gradients_of_all_neurons,
    test_checkpoints_give_the_gradients_of_the_tape,
    test_checkpoints_of_groups_of_samples,
    test_checkpoints_of_real_valued_input,
    test_every_path_against_automatic_differentiation,
    test_finite_differences_where_spikes_stay,
)

# Stated in docs/backends.md: of potentials and thresholds, where currents are of the order of the threshold.
TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 1e-5}
GRADIENTS = 1e-10  # float64, of their norm


@pytest.fixture(scope="module")
def backend(cupy):
    """Stands in this module for the engines of the suite."""
    engine = CupyBackend(cupy, scan=True)
    engine.name = "cupy-scan"
    return engine


@pytest.mark.parametrize("shape", [*SHAPES, {"batch": 1, "neurons": 1, "steps": 1000, "inputs": 3},
                                   {"batch": 2, "neurons": 3, "steps": 97, "weights": False},
                                   {"batch": 2, "neurons": 3, "steps": 97, "weights": False, "shared": True},
                                   {"batch": 2, "neurons": 3, "steps": 64, "adaptive": False}])  # fmt: skip
@pytest.mark.parametrize("refractory", [0, (1, 7), 50])
@pytest.mark.parametrize("detach", [(), ("reset",), ("adaptation",)])
def test_a_scan_is_the_same_to_rounding(backend, shape, refractory, detach):
    """In float64: the same spikes, potentials within 1e-12, gradients within 1e-10 of their norm."""
    case = make_case(41, refractory=refractory, **shape)
    state = case.simulate("numpy").state
    runs = [case.simulate(engine, tape=True, detach=detach, state=state) for engine in (backend, "numpy")]
    np.testing.assert_array_equal(runs[0].spikes, runs[1].spikes)
    for name in ("voltage", "threshold"):
        np.testing.assert_allclose(getattr(runs[0], name), getattr(runs[1], name), rtol=0, atol=1e-12)
    for name in ("voltage", "adaptation", "refractory"):
        np.testing.assert_allclose(getattr(runs[0].state, name), getattr(runs[1].state, name), rtol=0, atol=1e-12)
    g_s, g_v = np.random.default_rng(0).normal(size=(2, *runs[0].spikes.shape))
    after = blocksim.StateGradient(state.voltage + 1, state.adaptation + 1, np.zeros(state.spikes.shape))
    assert_close(*(run.backward(g_s, g_v, after) for run in runs), GRADIENTS)
    assert_close(*(run.backward(grad_spikes=g_s) for run in runs), GRADIENTS)


def followed(case, spikes):
    """Potentials, thresholds and liveness of equations (1)-(6) in float64, given the spikes of a run."""
    neuron = case.parameters
    batch, steps, size = spikes.shape
    x = case.x.astype(np.float64)
    current = x @ neuron["weights"].astype(np.float64) if "weights" in neuron else np.broadcast_to(x, spikes.shape)
    current = current + neuron["bias"]
    v, a, left = np.zeros((batch, size)), np.zeros((batch, size)), np.zeros((batch, size), int)
    traces = np.empty((3, *spikes.shape))
    for t in range(steps):
        v = neuron["beta"].astype(np.float64) * v + np.where(left == 0, current[:, t], 0)
        traces[:, :, t] = v, neuron["theta"].astype(np.float64) + neuron.get("b", 0) * a, left == 0
        fired = spikes[:, t]
        v = np.where(fired, 0, v)
        a = neuron.get("p", np.zeros(1)).astype(np.float64) * a + fired
        left = np.where(fired, neuron["refractory"], np.maximum(left - 1, 0))
    return traces


@given(data=st.data())
def test_any_scan_follows_the_equations(backend, data):
    """Whatever its spikes, its potentials are theirs within the tolerance, and a spike is missed or made within it."""
    case = make_case(
        seed=data.draw(st.integers(0, 2**32 - 1)),
        batch=data.draw(st.integers(1, 3)),
        steps=data.draw(st.integers(1, 130)),
        neurons=data.draw(st.sampled_from([1, 3, 40])),
        refractory=data.draw(st.one_of(st.integers(0, 40), st.tuples(st.integers(0, 3), st.integers(3, 9)))),
        weights=data.draw(st.booleans()),
        adaptive=data.draw(st.booleans()),
        dtype=data.draw(st.sampled_from([np.float32, np.float64])),
    )
    run = case.simulate(backend)
    voltage, threshold, live = followed(case, run.spikes)
    tolerance = TOLERANCE[case.dtype]
    np.testing.assert_allclose(run.voltage, voltage, rtol=0, atol=tolerance)
    np.testing.assert_allclose(run.threshold, threshold, rtol=0, atol=tolerance)
    assert not (run.spikes & (live == 0)).any()
    wrong = (run.spikes != (voltage > threshold)) & (live == 1)
    assert (np.abs(voltage - threshold)[wrong] <= tolerance).all()


def test_the_papers_gradient_and_recurrence_are_not_scanned(backend):
    for options in ({"gradient": "paper"}, {"gradient": "paper", "tape": False}, {}):
        case = make_case(42, recurrent=not options)
        runs = [case.simulate(each, **{"tape": True, **options}) for each in (backend, "numpy")]
        assert_same_run(*runs)
        if options.get("tape", True):
            assert_close(*(run.backward(np.ones(run.spikes.shape)) for run in runs), 1e-12)


@pytest.fixture
def small_device(monkeypatch):
    """An emulated device with room for 16 warps; kernels launched there are counted."""
    make_engine("cupy-emulated")
    monkeypatch.setattr(emulated_cupy, "MULTIPROCESSORS", 4)
    monkeypatch.setattr(emulated_cupy, "RESIDENT_THREADS", 128)
    monkeypatch.setattr(emulated_cupy, "LAUNCHED", Counter())
    return emulated_cupy.LAUNCHED


def kernels(launched):
    """Names without types of what was launched of the dynamics."""
    names = {name.partition("<")[0] for name in launched}
    return {name.removesuffix("_of_paper") for name in names} & {"forward", "forward_scan", "adjoint", "adjoint_scan"}


@pytest.mark.parametrize(("batch", "neurons", "few"), [
    (96, 1, True), (97, 1, False), (6, 4, True), (7, 4, False), (1, 12, True), (1, 13, False)
])  # fmt: skip
@pytest.mark.parametrize("scan", [None, True, False])
def test_few_neurons_are_scanned_and_many_are_not(small_device, scan, batch, neurons, few):
    """Three quarters of 16 warps; with 4 neurons twice, with one eight times as many."""
    run = make_case(1, batch=batch, neurons=neurons).simulate(CupyBackend(emulated_cupy, scan=scan), tape=True)
    run.backward(np.ones(run.spikes.shape))
    scanned = few if scan is None else scan
    assert kernels(small_device) == ({"forward_scan", "adjoint_scan"} if scanned else {"forward", "adjoint"})


@pytest.mark.parametrize(("neurons", "scanned"), [(2, True), (3, False)])
@pytest.mark.parametrize("gradient", ["standard", "paper"])
def test_what_checkpoints_compute_again_is_computed_the_same_way(small_device, neurons, scanned, gradient):
    """16 samples go in two groups of 8: each alone would be few enough for a scan."""
    case = make_case(2, batch=16, neurons=neurons, steps=40)
    engine = CupyBackend(emulated_cupy)
    run = case.simulate(engine, tape="checkpoint", gradient=gradient)
    gradients = run.backward(np.ones(run.spikes.shape))
    scanned = scanned and gradient == "standard"
    expected = {"forward_scan", "adjoint_scan"} if scanned else {"forward", "adjoint"}
    assert kernels(small_device) == expected
    again = case.simulate(engine, tape=True, gradient=gradient).backward(np.ones(run.spikes.shape))
    assert_close(gradients, again, GRADIENTS)


def test_a_device_says_what_it_scans(small_device):
    said = {scan: CupyBackend(emulated_cupy, scan=scan).describe()["scanned over time"] for scan in (None, True, False)}
    assert said[None].startswith("up to 12 neurons x samples")
    assert said[True].startswith("all")
    assert said[False].startswith("none")
