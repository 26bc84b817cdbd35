"""The adjoint against automatic differentiation of the forward equations, finite differences, and itself in pieces."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest

import blocksim
from blocksim._options import DETACH
from blocksim.surrogates import SURROGATES, BoxCar, FastSigmoid, Surrogate, get_surrogate

from . import autograd
from .helpers import assert_close, assert_same_bits, assert_same_run, make_case, relative

CUTS = [cut for n in range(4) for cut in itertools.combinations(DETACH, n)]


def random_state(rng, case):
    """A state in mid-flight: some neurons refractory, some spikes on their way."""
    batch, _, _ = case.x.shape
    size = len(case.parameters["bias"])
    latency = case.layer.latency_steps if "recurrent" in case.parameters else 0
    return blocksim.State(
        rng.normal(0.2, 0.3, (batch, size)),
        rng.uniform(0, 1, (batch, size)),
        (rng.integers(0, 3, (batch, size)) * rng.integers(0, 2, (batch, size))).clip(
            0, np.broadcast_to(case.parameters["refractory"], size)).astype(np.int32),
        rng.random((batch, latency, size)) < 0.2,
    )  # fmt: skip


def differentiated(case, state, cut, slope, cotangents, length=None):
    """Gradients of tests/autograd.py under the names of `gradient_arrays`."""
    q = case.parameters
    size = len(q["bias"])
    latency = q.get("latency", 0)
    values = {name: np.broadcast_to(q.get(name, 0.0), size) for name in ("beta", "p", "b", "theta", "bias")}
    values |= {"x": case.x, "voltage": state.voltage, "adaptation": state.adaptation}
    values |= {name: q[name] for name in ("weights", "recurrent") if name in q}
    if "recurrent" in q:
        values["history"] = state.spikes
    refractory = np.broadcast_to(q["refractory"], size)
    arguments = (values, refractory, state.refractory, latency, slope, cut, cotangents)
    grads, spikes = autograd.block_model(*arguments, length) if length else autograd.step_model(*arguments)
    expected = {name: grads[name] for name in ("x", "weights", "recurrent", "bias", "beta", "p", "b", "theta")
                if name in grads}  # fmt: skip
    if "p" not in q:
        del expected["p"], expected["b"]
    expected |= {"state.voltage": grads["voltage"], "state.adaptation": grads["adaptation"]}
    expected["state.spikes"] = grads.get("history", np.zeros(state.spikes.shape))
    return expected, spikes


@pytest.mark.parametrize("gradient", ["standard", "paper"])
@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: "+".join(cut) or "nothing")
def test_every_path_against_automatic_differentiation(backend, gradient, cut):
    for seed, (recurrent, adaptive, refractory, extra) in enumerate(
        [
            (True, True, 3, 2),
            (True, True, (2, 5), 0),
            (True, False, 0, 3),
            (False, True, 4, 0),
            (True, True, 40, 0),
            (True, True, 5, -3),
            (True, True, (4, 9), -9),
        ]
    ):
        rng = np.random.default_rng(seed)
        case = make_case(seed, steps=23, recurrent=recurrent, adaptive=adaptive, refractory=refractory,
                         extra_latency=extra, weights=seed != 3)  # fmt: skip
        state = random_state(rng, case)
        shape = (*case.x.shape[:2], len(case.parameters["bias"]))
        grads = [rng.normal(size=size) for size in (shape, shape, shape[::2], shape[::2], state.spikes.shape)]
        length = case.layer.block_length if gradient == "paper" else None
        slope = get_surrogate("fast_sigmoid")
        expected, spikes = differentiated(case, state, cut, slope, grads, length)

        run = case.simulate(backend, state=state, tape=True, detach=cut, gradient=gradient)
        np.testing.assert_array_equal(run.spikes, spikes)
        assert spikes.sum() > 5
        got = run.backward(grads[0], grads[1], blocksim.StateGradient(grads[2], grads[3], grads[4]))
        values = got.arrays()
        del values["current"]
        assert_close(values, expected, 1e-10)


def test_float32_is_float64_to_rounding(backend):
    """One spike less or more would change everything: parameters are float32 numbers in both runs."""
    single = make_case(11, steps=60, recurrent=True, neurons=33, dtype=np.float32)
    layer = single.layer
    n = layer.neuron
    double = blocksim.Layer(
        blocksim.ALIF(*(np.float64(v) for v in (n.beta, n.p, n.b, n.theta)), refractory_steps=n.refractory_steps),
        np.float64(layer.weights), np.float64(layer.bias), np.float64(layer.recurrent), layer.latency_steps,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    runs = [blocksim.simulate(each, single.events, backend, tape=True, detach=()) for each in (layer, double)]
    np.testing.assert_array_equal(runs[0].spikes, runs[1].spikes)
    g = rng.normal(size=runs[0].spikes.shape)
    short, long = (run.backward(g, g).arrays() for run in runs)
    assert all(value.dtype == np.float32 for value in short.values())
    # rounding of 2^-24 an operation, amplified by the recurrence of 60 steps
    assert_close(short, long, 1e-4)


def test_a_sequence_in_pieces_has_the_gradient_of_the_whole(backend):
    case = make_case(12, steps=50, recurrent=True, extra_latency=3)
    rng = np.random.default_rng(1)
    g_s, g_v = rng.normal(size=(2, 2, 50, 5))
    whole = case.simulate(backend, tape=True, detach=()).backward(g_s, g_v).arrays()
    state, runs = None, []
    for start, stop in ((0, 3), (3, 20), (20, 21), (21, 50)):
        runs.append((slice(start, stop), case.simulate(backend, case.events[start:stop], state=state, tape=True,
                                                       detach=())))  # fmt: skip
        state = runs[-1][1].state
    into, pieces = None, []
    for steps, run in reversed(runs):
        gradients = run.backward(g_s[:, steps], g_v[:, steps], into)
        into = gradients.state
        pieces.insert(0, gradients.arrays())
    joined = {
        name: sum(piece[name] for piece in pieces)
        for name in whole
        if name not in ("x", "current") and not name.startswith("state")
    }
    joined |= {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in ("x", "current")}
    joined |= {name: pieces[0][name] for name in whole if name.startswith("state")}
    assert_close(joined, whole, 1e-10)


@pytest.mark.parametrize("gradient", ["standard", "paper"])
@pytest.mark.parametrize(("steps", "refractory"), [(100, 5), (50, 0), (7, 10), (97, 3)])
def test_checkpoints_give_the_gradients_of_the_tape(backend, gradient, steps, refractory):
    case = make_case(18, steps=steps, refractory=refractory, recurrent=True, extra_latency=2)
    rng = np.random.default_rng(7)
    g_s, g_v = rng.normal(size=(2, 2, steps, 5))
    state = random_state(rng, case)
    options = {"state": state, "gradient": gradient, "detach": ()}
    run, taped = (case.simulate(backend, tape=tape, **options) for tape in ("checkpoint", True))
    assert_same_run(run, taped)
    after = blocksim.StateGradient(np.ones((2, 5)), np.ones((2, 5)), rng.normal(size=state.spikes.shape))
    assert_close(run.backward(g_s, g_v, after), taped.backward(g_s, g_v, after), 1e-12)


@pytest.mark.parametrize("batch", [16, 19])
def test_checkpoints_of_groups_of_samples(backend, batch):
    case = make_case(21, batch=batch, steps=40, refractory=3, recurrent=True)
    rng = np.random.default_rng(9)
    g_s, g_v = rng.normal(size=(2, batch, 40, 5))
    state = random_state(rng, case)
    run, taped = (case.simulate(backend, tape=tape, state=state, detach=()) for tape in ("checkpoint", True))
    assert_same_run(run, taped)
    size = (batch, 5)
    after = blocksim.StateGradient(np.ones(size), np.ones(size), rng.normal(size=state.spikes.shape))
    for _ in range(2):  # a run can be differentiated again
        assert_close(run.backward(g_s, g_v, after), taped.backward(g_s, g_v, after), 1e-12)


@pytest.mark.parametrize("weights", [True, False])
def test_checkpoints_of_real_valued_input(backend, weights):
    case = make_case(19, steps=60, weights=weights)
    x = case.x * 0.7
    g = np.random.default_rng(8).normal(size=(2, 60, 5))
    gradients = [case.simulate(backend, x, tape=tape).backward(g) for tape in ("checkpoint", True)]
    assert_close(*gradients, 1e-10)


def test_what_a_tape_keeps(backend):
    """Bytes of each neuron and step, besides the spikes that every run returns: under 5, with checkpoints under 1."""
    if backend.name.startswith("cupy"):
        pytest.skip("the tape lies in a device's memory, which is not what is traced here")
    case = make_case(20, batch=2, steps=820, neurons=64, refractory=40, recurrent=True, dtype=np.float32)
    kept = {}
    for tape in (False, True, "checkpoint"):
        case.simulate(backend, record=(), tape=tape)
        tracemalloc.start()
        run = case.simulate(backend, record=(), tape=tape)
        kept[tape] = tracemalloc.get_traced_memory()[0] / run.spikes.size
        tracemalloc.stop()
    assert 4 < kept[True] - kept[False] < 5
    assert kept["checkpoint"] - kept[False] < 1


def test_copies_that_share_a_current_do_not_multiply_it():
    """Many parameter sets on one current: each costs its spikes, a byte a step, and not a current of its own."""
    case = make_case(22, batch=1, steps=2000, neurons=200, weights=False, shared=True, dtype=np.float32)
    case.simulate("numba", record=())
    tracemalloc.start()
    run = case.simulate("numba", record=())
    peak = tracemalloc.get_traced_memory()[1] / run.spikes.size
    tracemalloc.stop()
    assert 1 <= peak < 1.5


def test_block_length_does_not_matter_to_the_standard_gradient_but_to_the_papers(backend):
    case = make_case(13, steps=40, recurrent=True, refractory=5)
    g = np.random.default_rng(2).normal(size=(2, 40, 5))
    by = {
        (kind, length): case.simulate(backend, tape=True, gradient=kind, block_length=length).backward(g).arrays()
        for kind in ("standard", "paper")
        for length in (1, 4, 6)
    }
    for length in (4, 6):
        assert_close(by["standard", length], by["standard", 1], 1e-10)
    assert relative(by["paper", 4]["weights"], by["paper", 6]["weights"]) > 0.01


def test_numbers_have_numbers_as_gradients_and_lif_has_no_adaptation(backend):
    rng = np.random.default_rng(3)
    x, g = rng.normal(0.4, 0.3, (30, 3)), rng.normal(size=(30, 3))
    one = blocksim.simulate(blocksim.Layer(blocksim.LIF(0.9, refractory_steps=2)), x, backend, tape=True).backward(g)
    many = blocksim.LIF(np.full(3, 0.9), np.ones(3), refractory_steps=2)
    each = blocksim.simulate(blocksim.Layer(many, bias=np.zeros(3)), x, backend, tape=True).backward(g)
    assert one.p is None
    assert one.b is None
    assert one.weights is None
    assert one.recurrent is None
    for name in ("beta", "theta"):
        assert isinstance(getattr(one, name), float)
        np.testing.assert_allclose(getattr(one, name), getattr(each, name).sum(), rtol=1e-12)
    assert one.bias.shape == (3,)
    np.testing.assert_allclose(one.bias, each.bias, rtol=1e-12)


def test_a_shared_current_gathers_the_gradients_of_all_neurons(backend):
    case = make_case(14, weights=False, shared=True)
    g = np.random.default_rng(4).normal(size=(2, 30, 5))
    gradients = case.simulate(backend, tape=True).backward(g)
    assert gradients.x.shape == (2, 30, 1)
    np.testing.assert_allclose(gradients.x[..., 0], gradients.current.sum(axis=2), rtol=1e-12)


@pytest.mark.parametrize("recurrent", [False, True])
def test_finite_differences_where_spikes_stay(backend, recurrent):
    """A box of no width passes nothing through spikes: what is left is the true derivative of the potentials."""
    case = make_case(15, steps=30, recurrent=recurrent)
    g_v = np.random.default_rng(5).normal(size=(2, 30, 5))
    surrogate = BoxCar(width=1e-12)

    def run(layer, x):
        return blocksim.simulate(layer, x, backend, record=("voltage",), tape=True, surrogate=surrogate, detach=())

    layer, x = case.layer, case.x * 0.9
    base = run(layer, x)
    assert base.spikes.sum() > 10
    gradients = base.backward(grad_voltage=g_v)
    rng = np.random.default_rng(6)
    step = 1e-6

    def changed(name, direction, sign):
        if name == "x":
            return layer, x + sign * step * direction
        if name in ("beta", "p", "b", "theta"):
            neuron = type(layer.neuron)(
                **{**layer.neuron.parameters(), name: getattr(layer.neuron, name) + sign * step * direction}
            )
            return blocksim.Layer(neuron, layer.weights, layer.bias, layer.recurrent, layer.latency_steps), x
        parts = {part: getattr(layer, part) for part in ("weights", "bias", "recurrent")}
        parts[name] = parts[name] + sign * step * direction
        return blocksim.Layer(layer.neuron, **parts, latency_steps=layer.latency_steps), x

    for name in ["x", "weights", "bias", "beta", "p", "b", "theta", *(["recurrent"] if recurrent else [])]:
        value = np.asarray(getattr(gradients, name))
        direction = rng.normal(size=value.shape)
        losses = []
        for sign in (1, -1):
            moved = run(*changed(name, direction, sign))
            np.testing.assert_array_equal(moved.spikes, base.spikes)
            losses.append(float((moved.voltage * g_v).sum()))
        slope = (losses[0] - losses[1]) / (2 * step)
        assert math.isclose(slope, float((value * direction).sum()), rel_tol=1e-6, abs_tol=1e-6), name


INTEGRALS = {"fast_sigmoid": 2 / 10, "superspike": 2 / 25, "box_car": 1, "multi_gaussian": 0.5 * (1.15 - 0.3),
             "arctan": 1, "sigmoid": 1, "triangle": 0.3}  # fmt: skip
VALUES = {  # at m = 0 and m = 0.25, by hand
    "fast_sigmoid": (1, 1 / 3.5**2),
    "superspike": (1, 1 / 7.25**2),
    "box_car": (1, 1),
    "multi_gaussian": (
        0.5 * (1.15 * 0.7978845608028654 - 0.3 * 0.1329807601338109 * math.exp(-1 / 72)),
        0.5 * (1.15 * 0.7978845608028654 * math.exp(-1 / 8)
               - 0.15 * 0.1329807601338109 * (math.exp(-0.0625 / 18) + math.exp(-0.5625 / 18))),
    ),
    "arctan": (1, 1 / (1 + (math.pi / 4) ** 2)),
    "sigmoid": (1, 4 * math.exp(-1) / (1 + math.exp(-1)) ** 2),
    "triangle": (0.3, 0.3 * 0.75),
}  # fmt: skip


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogate_formulas(name):
    surrogate = get_surrogate(name)
    np.testing.assert_allclose(surrogate(np.array([0.0, 0.25])), VALUES[name], rtol=1e-12)
    m = np.linspace(-3000, 3000, 2_400_001)
    values = surrogate(m)
    assert math.isclose(values.sum() * (m[1] - m[0]), INTEGRALS[name], rel_tol=2e-3)
    if name != "box_car":  # half open
        np.testing.assert_allclose(values, values[::-1], rtol=1e-9)
    else:
        np.testing.assert_array_equal(surrogate(np.array([-0.5, 0.5])), [0, 1])
    assert surrogate(m.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SURROGATES)
def test_every_engine_computes_the_formulas(backend, name, dtype):
    """One step of one block: the gradient of a spike with respect to its threshold is -sigma'(m)."""
    m = np.concatenate([np.linspace(-6, 6, 1201), np.geomspace(1e-8, 1e4, 100), -np.geomspace(1e-8, 1e4, 100)])
    theta = np.zeros(len(m), dtype)
    layer = blocksim.Layer(blocksim.LIF(np.zeros(len(m), dtype), theta))
    run = blocksim.simulate(layer, m.astype(dtype)[None], backend, tape=True, surrogate=name)
    got = -run.backward(np.ones((1, len(m)), dtype)).theta
    expected = get_surrogate(name)(m.astype(dtype).astype(np.float64))
    # the difference of Gaussians crosses zero, where only its terms are known to rounding
    atol = 4 * np.finfo(dtype).eps * expected.max() if name == "multi_gaussian" else 1e-30
    np.testing.assert_allclose(got, expected, rtol=1e-13 if dtype == np.float64 else 2e-6, atol=atol)


def test_a_scale_is_carried_by_the_object(backend):
    case = make_case(16)
    g = np.ones((2, 30, 5))
    by = [case.simulate(backend, tape=True, surrogate=s).backward(g).weights
          for s in ("superspike", FastSigmoid(k=25), FastSigmoid(k=10))]  # fmt: skip
    assert_same_bits("weights", by[1], by[0])
    assert relative(by[2], by[0]) > 0.1


def test_a_surrogate_of_ones_own(backend):
    class Flat(Surrogate):
        def __call__(self, m):
            return np.full_like(m, 0.5)

    case = make_case(17)
    if not backend.name.startswith("numpy"):
        with pytest.raises(blocksim.ArgumentError, match=r"surrogate: expected one of .* found .*Flat "):
            case.simulate(backend, tape=True, surrogate=Flat())
        return
    run = case.simulate(backend, tape=True, surrogate=Flat())
    live = run.backward(np.ones((2, 30, 5))).theta
    assert (live < 0).all()
