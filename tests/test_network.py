"""Networks: the same as their layers one after another, their readout step by step, and themselves in pieces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import blocksim
from blocksim.surrogates import BoxCar, FastSigmoid, Triangle

from .conftest import make_engine
from .cuda_emulation import emulated_cupy
from .helpers import assert_same_bits, assert_same_state, relative

SIZES = (6, 7, 5)
CLASSES = 3
STEPS = 41


def make_network(
    seed=0, decode="sum", bias=True, readout="leaky", recurrent=(True, False), dtype=np.float64, scalar=False
):
    rng = np.random.default_rng(seed)
    layers = []
    for (inputs, size), own in zip(itertools.pairwise(SIZES), recurrent, strict=True):
        each = (lambda low, high: float(rng.uniform(low, high))) if scalar else (
            lambda low, high, size=size: rng.uniform(low, high, size).astype(dtype))  # fmt: skip
        neuron = blocksim.ALIF(
            beta=each(0.6, 0.95), p=each(0.8, 0.98), b=each(0, 0.3), theta=each(0.5, 1.1), refractory_steps=3
        )
        layers.append(blocksim.Layer(
            neuron, rng.normal(0.5, 0.4, (inputs, size)).astype(dtype), bias=each(0, 0.2),
            recurrent=rng.normal(0, 0.4, (size, size)).astype(dtype) if own else None, latency_steps=6 if own else None,
        ))  # fmt: skip
    if readout == "count":
        return blocksim.Network(layers)
    return blocksim.Network(
        layers,
        blocksim.LeakyReadout(
            rng.normal(0.4, 1, (SIZES[-1], CLASSES)).astype(dtype),
            rng.normal(0, 0.3, CLASSES).astype(dtype) if bias else None,
            beta=0.8, decode=decode,
        ),
    )  # fmt: skip


def make_input(seed=0, batch=4, steps=STEPS):
    return np.random.default_rng(100 + seed).random((batch, steps, SIZES[0])) < 0.2


def read_out(readout, spikes, start=None):
    """Equations (23) and (24), step by step."""
    batch, steps, _ = spikes.shape
    potential = np.zeros((batch, steps, readout.classes))
    now = np.zeros((batch, readout.classes)) if start is None else start
    for t in range(steps):
        now = readout.beta * now + spikes[:, t] @ readout.weights + (0 if readout.bias is None else readout.bias)
        potential[:, t] = now
    decoded = {"sum": potential.sum(1), "mean": potential.mean(1), "last": potential[:, -1], "max": potential.max(1)}
    return decoded[readout.decode], potential


@pytest.mark.parametrize("decode", ["sum", "mean", "last", "max"])
def test_a_network_is_its_layers_one_after_another(backend, decode):
    network, x = make_network(decode=decode), make_input()
    run = blocksim.simulate(network, x, backend, record=("voltage", "threshold", "readout"))
    handed = x
    for layer, of_layer, counts in zip(network.layers, run.layers, run.counts, strict=True):
        alone = blocksim.simulate(layer, blocksim.Events.from_dense(handed), "numpy", record=("voltage", "threshold"))
        for name in ("spikes", "voltage", "threshold"):
            assert_same_bits(name, np.asarray(getattr(of_layer, name)), getattr(alone, name))
        assert_same_state(of_layer.state, alone.state)
        np.testing.assert_array_equal(counts, alone.spikes.sum(axis=1))
        handed = alone.spikes
    assert handed.sum() > 50
    output, potential = read_out(network.readout, handed)
    np.testing.assert_allclose(run.output, output, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(run.readout, potential, rtol=1e-12, atol=1e-12)


def loss_of_readout(readout, spikes, grads):
    output, potential = read_out(readout, spikes)
    return (output * grads[0]).sum() + (potential * grads[1]).sum() + (potential[:, -1] * grads[2]).sum()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("decode", ["sum", "mean", "last", "max"])
def test_gradients_are_those_of_the_layers_and_of_the_readout_by_finite_differences(backend, decode, bias):
    rng = np.random.default_rng(7)
    network, x = make_network(1, decode, bias), make_input(1)
    run = blocksim.simulate(network, x, backend, tape=True, record="readout", detach=())
    of_output, of_potential, of_after = rng.normal(size=(4, 3)), rng.normal(size=(4, STEPS, 3)), rng.normal(size=(4, 3))
    of_counts = [rng.normal(size=(4, 7)), None]
    of_spikes = [None, rng.normal(size=(4, STEPS, 5))]
    of_states = tuple(
        blocksim.StateGradient(*(rng.normal(size=part.shape) for part in (s.voltage, s.voltage, s.spikes)))
        for s in run.state.layers
    )  # fmt: skip
    got = run.backward(
        of_output, of_counts, of_spikes, of_potential, blocksim.NetworkStateGradient(of_states, of_after)
    )

    # the readout: linear in spikes, weights and bias, smooth in beta; the largest value keeps its place
    spikes, readout, step = run.layers[1].spikes.astype(float), network.readout, 1e-6
    grads = (of_output, of_potential, of_after)

    def slope(change):
        return (change(step) - change(-step)) / (2 * step)

    def with_readout(**changes):
        values = {"weights": readout.weights, "bias": readout.bias, "beta": readout.beta, "decode": decode}
        return loss_of_readout(blocksim.LeakyReadout(**values | changes), spikes, grads)

    expected = np.array([
        [slope(lambda h, n=n, c=c: with_readout(weights=readout.weights + h * one((5, 3), n, c))) for c in range(3)]
        for n in range(5)
    ])  # fmt: skip
    assert relative(got.readout.weights, expected) < 1e-7
    base = np.zeros(3) if readout.bias is None else readout.bias
    expected = [slope(lambda h, c=c: with_readout(bias=base + h * one((3,), c))) for c in range(3)]
    assert relative(got.readout.bias, expected) < 1e-7
    assert relative(got.readout.beta, slope(lambda h: with_readout(beta=readout.beta + h))) < 1e-7

    grad_spikes = np.zeros(spikes.shape)
    for place in np.ndindex(*spikes.shape):
        if place[0] == 2:  # one sample is enough, and three hundred differences cheap
            grad_spikes[place] = slope(
                lambda h, place=place: loss_of_readout(readout, spikes + h * one(spikes.shape, *place), grads)
            )
    # layer by layer, each by its own adjoint, which other tests hold to automatic differentiation
    alone = [blocksim.simulate(network.layers[0], blocksim.Events.from_dense(x), "numpy", tape=True, detach=())]
    alone.append(
        blocksim.simulate(network.layers[1], blocksim.Events.from_dense(alone[0].spikes), "numpy", tape=True, detach=())
    )
    whole = run._readout.adjoint(*(run._passes[1].backend.asarray(each) for each in grads))[0]
    whole = run._passes[1].backend.to_numpy(whole)
    assert relative(whole[2], grad_spikes[2]) < 1e-7
    second = alone[1].backward(whole + of_spikes[1], grad_state=of_states[1])
    first = alone[0].backward(second.x + of_counts[0][:, None], grad_state=of_states[0])
    for mine, other in zip(got.layers, (first, second), strict=True):
        expected = other.arrays()
        for name, value in mine.arrays().items():
            assert relative(value, expected[name]) < 1e-11, name


def one(shape, *place):
    array = np.zeros(shape)
    array[place] = 1
    return array


def test_spike_counts_as_output_and_their_gradient(backend):
    network, x = make_network(2, readout="count"), make_input(2)
    run = blocksim.simulate(network, x, backend, tape=True)
    np.testing.assert_array_equal(run.output, run.layers[-1].spikes.sum(axis=1))
    assert run.output.dtype == np.float64
    grad = np.random.default_rng(0).normal(size=run.output.shape)
    got = run.backward(grad)
    same = run.backward(grad_spikes=[None, np.repeat(grad[:, None], STEPS, axis=1)])
    counted = run.backward(grad_counts=[None, grad])
    assert got.readout is None
    for name, value in got.parameters().items():
        np.testing.assert_array_equal(value, same.parameters()[name])
        np.testing.assert_array_equal(value, counted.parameters()[name])
        assert np.any(value), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_spikes_do_not_depend_on_backend_or_block_length(backend, dtype):
    network, x = make_network(3, dtype=dtype), make_input(3, batch=70)
    expected = blocksim.simulate(network, x, "numpy", method="standard", record="voltage")
    for options in ({}, {"block_length": 2}, {"method": "standard"}):
        run = blocksim.simulate(network, x, backend, record="voltage", **options)
        for mine, other in zip(run.layers, expected.layers, strict=True):
            assert_same_bits("spikes", mine.spikes, other.spikes)
            assert_same_bits("voltage", mine.voltage, other.voltage)
        assert run.output.dtype == dtype
        np.testing.assert_allclose(run.output, expected.output, rtol=2e-5 if dtype == np.float32 else 1e-12, atol=1e-4)


def test_a_run_in_pieces_is_the_whole_forward_and_backward(backend):
    network, x = make_network(4), make_input(4)
    grad = np.random.default_rng(1).normal(size=(4, CLASSES))
    whole = blocksim.simulate(network, x, backend, tape=True, record="readout", detach=())
    expected = whole.backward(grad)
    runs, state = [], None
    for start, stop in ((0, 11), (11, 12), (12, STEPS)):
        runs.append(
            blocksim.simulate(network, x[:, start:stop], backend, state=state, tape=True, record="readout", detach=())
        )
        state = runs[-1].state
    np.testing.assert_allclose(sum(run.output for run in runs), whole.output, rtol=1e-12)
    np.testing.assert_allclose(np.concatenate([r.readout for r in runs], axis=1), whole.readout, rtol=1e-12)
    for mine, other in zip(state.layers, whole.state.layers, strict=True):
        assert_same_state(mine, other)
    np.testing.assert_allclose(state.readout, whole.state.readout, rtol=1e-12)
    total, handed = {}, None
    for run in reversed(runs):
        part = run.backward(grad, grad_state=handed)
        handed = part.state
        for name, value in part.parameters().items():
            total[name] = total.get(name, 0) + value
    for name, value in expected.parameters().items():
        assert relative(total[name], value) < 1e-11, name
    assert relative(handed.readout, expected.state.readout) < 1e-11
    for mine, other in zip(handed.layers, expected.state.layers, strict=True):
        assert relative(mine.voltage, other.voltage) < 1e-11


@pytest.mark.parametrize("gradient", ["standard", "paper"])
def test_checkpoints_give_the_gradients_of_a_tape(backend, gradient):
    network, x = make_network(5), make_input(5, batch=19)
    grad = np.random.default_rng(2).normal(size=(19, CLASSES))
    one, other = (
        blocksim.simulate(network, x, backend, tape=tape, gradient=gradient).backward(grad).parameters()
        for tape in (True, "checkpoint")
    )
    for name, value in one.items():
        assert relative(other[name], value) < 1e-11, name


def test_parameters_by_name_and_of_the_same_shapes(backend):
    for scalar in (True, False):
        network, x = make_network(6, scalar=scalar, bias=not scalar), make_input(6)
        parameters = network.parameters()
        assert "layers.0.recurrent" in parameters
        assert "layers.1.recurrent" not in parameters
        assert ("readout.bias" in parameters) != scalar
        gradients = blocksim.simulate(network, x, backend, tape=True).backward(np.ones((4, CLASSES))).parameters()
        assert {name: value.shape for name, value in gradients.items()} == {
            name: value.shape for name, value in parameters.items()
        }
        changed = network.with_parameters({name: 0.9 * value for name, value in parameters.items()})
        for name, value in changed.parameters().items():
            np.testing.assert_array_equal(value, 0.9 * parameters[name])
            assert value.dtype == parameters[name].dtype
        assert changed.layers[0].latency_steps == network.layers[0].latency_steps
        assert type(changed.readout.beta) is float


def test_one_sample_without_a_batch_axis(backend):
    network, x = make_network(7), make_input(7)
    one, all_of_them = (blocksim.simulate(network, each, backend, tape=True, record="readout") for each in (x[1], x))
    assert one.output.shape == (CLASSES,)
    assert one.readout.shape == (STEPS, CLASSES)
    assert one.counts[0].shape == (7,)
    np.testing.assert_allclose(one.output, all_of_them.output[1], rtol=1e-13)
    grad = np.arange(3.0)
    expected = all_of_them.backward(one_row(grad)).layers[0].x[1]
    np.testing.assert_allclose(one.backward(grad).layers[0].x, expected, rtol=1e-10, atol=1e-12)
    assert one.backward(grad_counts=[np.ones(7), None]).layers[0].current.shape == (STEPS, 7)


def one_row(grad):
    rows = np.zeros((4, CLASSES))
    rows[1] = grad
    return rows


def test_device_arrays_in_stay_on_the_device():
    engine = make_engine("cupy-emulated")
    network, x = make_network(8), make_input(8)
    run = blocksim.simulate(network, engine.asarray(x), engine, tape=True)
    for array in (run.output, run.layers[1].spikes, run.counts[0]):
        assert isinstance(array, emulated_cupy.ndarray)
    gradients = run.backward(engine.asarray(np.ones((4, CLASSES))))
    assert isinstance(gradients.readout.weights, emulated_cupy.ndarray)
    host = blocksim.simulate(network, x, engine, tape=True)
    np.testing.assert_array_equal(engine.to_numpy(run.output), host.output)


def test_no_bits_change_between_runs_and_numbers_of_threads():
    numba = pytest.importorskip("numba")
    network, x = make_network(9, dtype=np.float32), make_input(9, batch=33)
    grad = np.random.default_rng(3).normal(size=(33, CLASSES)).astype(np.float32)
    before, found = numba.get_num_threads(), []
    try:
        for threads in (1, numba.config.NUMBA_NUM_THREADS, 1):
            numba.set_num_threads(threads)
            run = blocksim.simulate(network, x, "numba", tape=True)
            found.append({"output": run.output, **run.backward(grad).parameters()})
    finally:
        numba.set_num_threads(before)
    for other in found[1:]:
        for name, value in found[0].items():
            assert_same_bits(name, other[name], value)


def bad(**changes):
    layer = make_network().layers
    return {
        "no layers": lambda: blocksim.Network([]),
        "no sequence": lambda: blocksim.Network(layer[0]),
        "not a layer": lambda: blocksim.Network([layer[0], "layer"]),
        "sizes": lambda: blocksim.Network([layer[0], layer[0]]),
        "no weights": lambda: blocksim.Network([layer[0], blocksim.Layer(layer[1].neuron)]),
        "no size": lambda: blocksim.Network([blocksim.Layer(blocksim.LIF(0.9))]),
        "readout size": lambda: blocksim.Network(layer, blocksim.LeakyReadout(np.ones((4, 3)))),
        "readout kind": lambda: blocksim.Network(layer, "sum"),
        "decode": lambda: blocksim.LeakyReadout(np.ones((5, 3)), decode="median"),
        "beta": lambda: blocksim.LeakyReadout(np.ones((5, 3)), beta=1.0),
        "betas": lambda: blocksim.LeakyReadout(np.ones((5, 3)), beta=np.full(3, 0.5)),
        "bias": lambda: blocksim.LeakyReadout(np.ones((5, 3)), bias=np.ones(4)),
        "name": lambda: make_network().with_parameters({"layers.2.weights": np.ones(3)}),
        "shape": lambda: make_network().with_parameters({"layers.0.weights": np.ones((7, 6))}),
        "state": lambda: blocksim.simulate(
            make_network(), make_input(), state=blocksim.simulate(layer[0], make_input()).state),
        "block length": lambda: blocksim.simulate(make_network(), make_input(), block_length=5),
        "record": lambda: blocksim.simulate(make_network(), make_input(), record="potential"),
        "no tape": lambda: blocksim.simulate(make_network(), make_input()).backward(np.ones((4, 3))),
        "nothing": lambda: taped().backward(),
        "output shape": lambda: taped().backward(np.ones((4, 5))),
        "counts": lambda: taped().backward(grad_counts=np.ones((4, 7))),
        "counts shape": lambda: taped().backward(grad_counts=[np.ones((4, 5)), None]),
        "nan": lambda: taped().backward(np.full((4, 3), np.nan)),
        "potential of counts": lambda: blocksim.simulate(
            make_network(readout="count"), make_input(), tape=True).backward(grad_readout=np.ones((4, STEPS, 5))),
    }  # fmt: skip


def taped():
    return blocksim.simulate(make_network(), make_input(), tape=True)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("no layers", "layers: expected at least one layer; found none"),
        ("no sequence", "layers: expected a sequence of blocksim.Layer; found"),
        ("not a layer", r"layers\[1\]: expected a blocksim.Layer; found 'layer'"),
        ("sizes", r"layers\[1\]: expected weights from 7 inputs, .* found 6"),
        ("no weights", r"layers\[1\]: expected a layer with weights, from 7 neurons; found one without"),
        ("no size", r"layers\[0\]: expected a layer of a known number of neurons"),
        ("readout size", "readout: expected weights from 5 neurons, .* found 4"),
        ("readout kind", "readout: expected a LeakyReadout or a CountReadout; found 'sum'"),
        ("decode", "readout: decode: expected one of 'sum', 'mean', 'last', 'max'; found 'median'"),
        ("beta", r"readout: beta: expected a decay factor in \[0, 1\)"),
        ("betas", "readout: beta: expected one decay factor for all classes; found an array"),
        ("bias", "readout: bias: expected one number, or one for each of 3 classes; found 4"),
        ("name", "parameters: expected names out of layers.0.weights, .* found 'layers.2.weights'"),
        ("shape", r"layers.0.weights: expected shape \(6, 7\); found \(7, 6\)"),
        ("state", "state: expected a NetworkState of 2 layers"),
        ("block length", "block_length: expected at most 4"),
        ("record", "record: expected names out of 'voltage', 'threshold', 'readout'; found 'potential'"),
        ("no tape", "backward: expected a run with a tape"),
        ("nothing", "backward: expected at least one of grad_output"),
        ("output shape", r"grad_output: expected shape \(4, 3\)"),
        ("counts", "grad_counts: expected a sequence of 2"),
        ("counts shape", r"grad_counts\[0\]: expected shape \(4, 7\)"),
        ("nan", "grad_output: expected finite numbers"),
        ("potential of counts", "grad_readout: expected None for a CountReadout"),
    ],
)
def test_wrong_input_says_what_was_expected(case, says):
    with pytest.raises(blocksim.ArgumentError, match=says):
        bad()[case]()


def test_summary_shows_sizes_and_time_constants():
    text = make_network().summary(dt=0.5)
    lines = text.splitlines()
    assert "tau_mem (ms)" in lines[0]
    assert "6 -> 7 ALIF, recurrent" in lines[1]
    assert "5 -> 3 classes, sum" in lines[3]
    total = sum(value.size for value in make_network().parameters().values())
    assert lines[4] == f"{total} parameters"


@pytest.mark.parametrize("tape", [True, "checkpoint"])
@pytest.mark.parametrize("detach", [(), ("reset", "recurrent", "adaptation")])
@pytest.mark.parametrize("surrogate", [BoxCar(width=0.05), BoxCar(width=1.0), Triangle(), FastSigmoid(k=100)])
def test_gradients_are_the_same_wherever_products_are_cut_short(backend, surrogate, detach, tape):
    """Against the reference, which computes them whole; from wholly silent slopes to slopes that are never zero."""
    rng = np.random.default_rng(3)
    sizes, steps, batch = (12, 40, 70, 35), 60, 3
    layers = []
    for number, (inputs, size) in enumerate(itertools.pairwise(sizes)):
        neuron = blocksim.ALIF(beta=rng.uniform(0.7, 0.95, size), p=0.9, b=0.2, refractory_steps=5)
        recurrent = rng.normal(0, 0.4, (size, size)) if number < 2 else None
        layers.append(blocksim.Layer(neuron, rng.normal(0.1, 0.4, (inputs, size)), 0.1, recurrent))
    network = blocksim.Network(layers, blocksim.LeakyReadout(rng.normal(0, 1, (35, 4)), beta=0.8))
    x = rng.random((batch, steps, 12)) < 0.2
    of_output = rng.normal(size=(batch, 4))
    of_counts = [rng.normal(size=(batch, size)) if size == 70 else None for size in sizes[1:]]
    of_spikes = [rng.normal(size=(batch, steps, size)) if size == 40 else None for size in sizes[1:]]
    states = []
    found = []
    for engine in (backend, "numpy"):
        first = blocksim.simulate(network, x[:, :23], engine, tape=tape, surrogate=surrogate, detach=detach)
        run = blocksim.simulate(
            network, x[:, 23:], engine, state=first.state, tape=tape, surrogate=surrogate, detach=detach
        )
        later = run.backward(of_output, of_counts, [None if g is None else g[:, 23:] for g in of_spikes])
        sooner = first.backward(grad_state=later.state)
        states.append(run.counts)
        found.append({**{f"later {k}": v for k, v in later.parameters().items()},
                      **{f"sooner {k}": v for k, v in sooner.parameters().items()},
                      "x": later.layers[0].x, "history": sooner.state.layers[0].spikes})  # fmt: skip
    for counts, expected in zip(*states, strict=True):
        np.testing.assert_array_equal(counts, expected)
        assert expected.sum() > 100
    for name, expected in found[1].items():
        assert relative(found[0][name], expected) < 1e-10, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_of_the_input_is_a_product(backend, dtype):
    """Sizes cross the tiles of the kernels: rows by six and by ninety-six, columns by lanes."""
    rng = np.random.default_rng(0)
    for batch, steps, neurons, inputs in ((1, 1, 1, 7), (2, 5, 3, 1), (3, 37, 10, 70), (2, 97, 33, 65)):
        grad, weights = rng.normal(size=(batch, steps, neurons)), rng.normal(size=(inputs, neurons))
        grad, weights = grad.astype(dtype), weights.astype(dtype)
        before = grad.copy(), weights.copy()
        got = backend.to_numpy(backend.input_adjoint(backend.asarray(grad), backend.asarray(weights)))
        assert got.dtype == dtype
        assert relative(got, grad.astype(float) @ weights.astype(float).T) < (1e-6 if dtype == np.float32 else 1e-14)
        for array, copy in zip((grad, weights), before, strict=True):
            np.testing.assert_array_equal(array, copy)
