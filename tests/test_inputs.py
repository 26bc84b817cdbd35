"""Every form of input gives what its canonical form gives; types are as documented; the caller's arrays stay."""

from __future__ import annotations

import numpy as np
import pytest

import blocksim

from .helpers import assert_refused, assert_same_bits, assert_same_run, make_case


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


FORMS = {
    "bool": lambda x: x.astype(bool),
    "uint8": lambda x: x,
    "int64": lambda x: x.astype(np.int64),
    "float16": lambda x: x.astype(np.float16),
    "float32": lambda x: x.astype(np.float32),
    "float64": lambda x: x.astype(np.float64),
    "big-endian": lambda x: x.astype(">f8"),
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "read-only": read_only,
}


@pytest.mark.parametrize("form", FORMS)
def test_spikes_in_any_array(backend, form):
    case = make_case(1, recurrent=True)
    x = FORMS[form](case.x)
    before = x.copy()
    run = case.simulate(backend, x, tape=True)
    run.backward(np.ones((2, 30, 5)))
    assert_same_run(run, case.simulate(backend))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("form", ["Fortran", "strided", "read-only", "big-endian"])
def test_currents_in_any_array(backend, form):
    case = make_case(2, weights=False)
    assert_same_run(case.simulate(backend, FORMS[form](case.x)), case.simulate(backend))


def test_csr(backend):
    sparse = pytest.importorskip("scipy.sparse")
    case = make_case(3)
    counts = case.x * np.array([1, 2, 3, 1], np.uint8)
    flat = counts.reshape(-1, 4)
    expected = case.simulate(backend, blocksim.Events.from_dense(counts))
    for matrix in (sparse.csr_array(flat), sparse.csr_matrix(flat.astype(float))):
        assert_same_run(case.simulate(backend, matrix, batch_size=2), expected)
    halves = sparse.csr_array(flat * 0.5)
    with pytest.raises(blocksim.ArgumentError, match="spike counts"):
        case.simulate(backend, halves, batch_size=2)


def test_what_makes_no_events_is_named():
    sparse = pytest.importorskip("scipy.sparse")
    assert_refused(lambda: blocksim.Events.from_csr(3, 1), ["matrix:", "CSR", "3"])
    assert_refused(lambda: blocksim.Events.from_csr(sparse.csc_array(np.eye(4)), 2), ["matrix:", "CSR", ".tocsr()"])
    events = blocksim.Events.from_dense(np.eye(4))
    assert_refused(lambda: events.followed_by(3), ["later:", "1 samples and 4 inputs", "3"])
    assert_refused(lambda: events.followed_by(blocksim.Events.from_dense(np.eye(5))), ["later:", "(1, 5, 5)"])


def test_one_sample_without_a_batch_axis(backend):
    case = make_case(4, batch=1, recurrent=True)
    flat = case.simulate(backend, case.x[0], tape=True)
    batched = case.simulate(backend, tape=True)
    assert flat.spikes.shape == (30, 5)
    for name in ("spikes", "voltage", "threshold"):
        assert_same_bits(name, getattr(flat, name), getattr(batched, name)[0])
    g = np.random.default_rng(0).normal(size=(30, 5))
    one, many = flat.backward(g), batched.backward(g[None])
    assert_same_bits("weights", one.weights, many.weights)
    assert_same_bits("x", one.x, many.x[0])


@pytest.mark.parametrize(
    ("x", "weights", "beta", "expected"),
    [
        (np.uint8, np.float32, 0.9, np.float32),
        (np.uint8, np.float64, 0.9, np.float64),
        (np.int64, np.float32, 0.9, np.float32),
        (np.float32, np.float32, 0.9, np.float32),
        (np.float64, np.float32, 0.9, np.float64),
        (np.float32, np.float64, 0.9, np.float64),
        (bool, np.float32, np.full(2, 0.9), np.float64),
        (np.float16, np.float32, 0.9, np.float32),
        (np.uint8, np.int64, 0.9, np.float64),
    ],
)
def test_precision_is_that_of_the_floating_arrays(backend, x, weights, beta, expected):
    layer = blocksim.Layer(blocksim.ALIF(beta, 0.9, 0.1), np.ones((3, 2), weights), recurrent=None)
    run = blocksim.simulate(layer, np.ones((5, 3), x), backend, record=("voltage", "threshold"), tape=True)
    gradients = run.backward(np.ones((5, 2)))
    assert run.spikes.dtype == bool
    for array in (run.voltage, run.threshold, run.state.voltage, run.state.adaptation, gradients.weights,
                  gradients.x, gradients.current, gradients.state.voltage):  # fmt: skip
        assert array.dtype == expected
    assert run.state.refractory.dtype == np.int32
    assert run.state.spikes.dtype == bool


def test_integers_and_numbers_alone_compute_in_float64(backend):
    run = blocksim.simulate(blocksim.Layer(blocksim.LIF(0.5)), np.ones((4, 2), int), backend, record="voltage")
    assert run.voltage.dtype == np.float64


def test_nothing_of_the_callers_is_written_to(backend):
    case = make_case(5, recurrent=True, refractory=(2, 4))
    first = case.simulate(backend, tape=True)
    state = blocksim.State(*(np.array(getattr(first.state, name))
                             for name in ("voltage", "adaptation", "refractory", "spikes")))  # fmt: skip
    g = np.random.default_rng(0).normal(size=(2, 30, 5))
    into = blocksim.StateGradient(np.ones((2, 5)), np.ones((2, 5)), np.ones(state.spikes.shape))
    kept = [np.copy(a) for a in (case.x, g, *vars(state).values(), *vars(into).values(), *case_arrays(case))]
    run = case.simulate(backend, case.x, state=state, tape=True)
    once = run.backward(g, g, into).arrays()
    twice = run.backward(g, g, into).arrays()
    for before, now in zip(kept, (case.x, g, *vars(state).values(), *vars(into).values(), *case_arrays(case)),
                           strict=True):  # fmt: skip
        np.testing.assert_array_equal(now, before)
    for name, value in once.items():
        assert_same_bits(name, twice[name], value)
    assert not run.spikes.flags.writeable
    assert not run.voltage.flags.writeable


def case_arrays(case):
    return [value for value in case.parameters.values() if isinstance(value, np.ndarray)]


def test_a_layer_keeps_its_own_arrays(backend):
    weights = np.full((3, 2), 0.4)
    layer = blocksim.Layer(blocksim.LIF(0.9), weights)
    x = np.ones((6, 3))
    before = blocksim.simulate(layer, x, backend, record="voltage").voltage
    weights[:] = 7
    assert_same_bits("voltage", blocksim.simulate(layer, x, backend, record="voltage").voltage, before)
    with pytest.raises(ValueError, match="read-only"):
        layer.weights[0, 0] = 1


def test_dense_and_sparse_spikes_are_the_same(backend):
    rng = np.random.default_rng(0)
    layer = blocksim.Layer(blocksim.LIF(0.9, refractory_steps=3), rng.normal(0.1, 0.2, (20, 9)), rng.normal(0, 0.1, 9))
    for density in (0.1, 0.5, 1.0):
        x = (rng.random((2, 40, 20)) < density) * rng.integers(1, 5, (2, 40, 20)).astype(np.uint8)
        by_density = blocksim.simulate(layer, x, backend, record="voltage", tape=True)
        as_events = blocksim.simulate(layer, blocksim.Events.from_dense(x), backend, record="voltage", tape=True)
        assert_same_bits("spikes", by_density.spikes, as_events.spikes)
        assert_same_bits("voltage", by_density.voltage, as_events.voltage)
        g = rng.normal(size=by_density.spikes.shape)
        np.testing.assert_allclose(by_density.backward(g).weights, as_events.backward(g).weights, rtol=1e-9, atol=1e-9)


def test_events_from_lists():
    events = blocksim.Events.from_lists([[0.3, 0.1, 0.3], []], [[1, 0, 0], []], channels=2, dt=0.1, steps=5)
    expected = np.zeros((2, 5, 2), np.uint8)
    expected[0, 3] = 1  # 0.3 / 0.1 is 2.9999999999999996
    expected[0, 1, 0] = 1
    np.testing.assert_array_equal(events.to_dense(), expected)
    same_bin = blocksim.Events.from_lists([[0.0, 0.05]], [[1, 1]], channels=2, dt=0.1)
    assert same_bin.to_dense()[0, 0, 1] == 2


@pytest.mark.parametrize(("start", "stop"), [(0, 30), (3, 7), (29, 30), (0, 1), (-5, None)])
def test_events_slice_like_arrays(start, stop):
    x = make_case(6, batch=3).x * np.array([2, 1, 1, 3], np.uint8)
    events = blocksim.Events.from_dense(x)
    np.testing.assert_array_equal(events.to_dense(), x)
    np.testing.assert_array_equal(events[start:stop].to_dense(), x[:, start:stop])


@pytest.mark.parametrize("delays", [(0,), (2,), (0, 1), (0, 7, 29), (3, 30, 99)])
def test_delayed_events_are_the_dense_array_shifted(delays):
    x = make_case(6, batch=3).x * np.array([2, 1, 1, 3], np.uint8)
    events = blocksim.Events.from_dense(x).delayed(delays)
    expected = [np.pad(x, ((0, 0), (delay, 0), (0, 0)))[:, : x.shape[1]] for delay in delays]
    np.testing.assert_array_equal(events.to_dense(), np.concatenate(expected, axis=2))
    blocksim.Events(events.indptr, events.indices, events.shape)  # as the class describes
    assert (np.diff(events.indices)[np.diff(np.repeat(np.arange(90), np.diff(events.indptr))) == 0] >= 0).all()


@pytest.mark.parametrize("kind", ["<u8", ">u8", ">i8", ">i4", "u1", "<i2"])
def test_events_of_any_integers(kind):
    """Indices of any width, sign and byte order are those of the class, and the callers' arrays stay as they are."""
    indptr, indices = np.array([0, 2, 2, 3], kind), np.array([2, 0, 1], kind)
    events = blocksim.Events(indptr, indices, (1, 3, 3))
    assert (events.indptr.dtype, events.indices.dtype) == (np.int64, np.int32)
    assert (events.indptr.tolist(), events.indices.tolist()) == ([0, 2, 2, 3], [0, 2, 1])
    assert indices.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(blocksim.Events.from_dense(events.to_dense().astype(kind)).indices, events.indices)
    lists = blocksim.Events.from_lists([[0.0, 0.0, 2.0]], [indices], channels=3)
    np.testing.assert_array_equal(lists.indices, events.indices)
    assert (indptr.flags.writeable, indices.flags.writeable) == (True, True)


def test_dense_counts_are_as_wide_as_they_need_to_be():
    for most, kind in ((255, np.uint8), (256, np.uint16), (70_000, np.uint32)):
        x = np.array([[0, most], [1, 3]])
        dense = blocksim.Events.from_dense(x).to_dense()
        assert dense.dtype == kind
        np.testing.assert_array_equal(dense[0], x)
    assert blocksim.Events.from_dense(x).to_dense(bool).tolist() == [[[False, True], [True, True]]]


def test_events_are_sorted_within_a_step():
    events = blocksim.Events(np.array([0, 3, 4]), np.array([2, 0, 1, 0]), (1, 2, 3))
    np.testing.assert_array_equal(events.indices, [0, 1, 2, 0])
