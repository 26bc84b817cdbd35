"""Spikes, potentials and states are those of the equations, bit for bit, however time and work are divided."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import blocksim

from .helpers import assert_same_bits, assert_same_run, make_case, threads

# sizes on both sides of the kernels' vectors of 8, 16, 32 and 64 lanes
SIZES = st.sampled_from([1, 2, 7, 8, 9, 33, 65])


@st.composite
def cases(draw):
    refractory = draw(st.one_of(st.integers(0, 6), st.tuples(st.integers(0, 3), st.integers(3, 9))))
    recurrent = draw(st.booleans())
    weights = draw(st.booleans())
    neurons = draw(SIZES)
    return make_case(
        seed=draw(st.integers(0, 2**32 - 1)),
        batch=draw(st.integers(1, 3)),
        steps=draw(st.integers(1, 40)),
        neurons=neurons,
        inputs=draw(st.integers(1, 6)),
        density=draw(st.sampled_from([0.0, 0.1, 0.3, 1.0])),
        refractory=refractory,
        extra_latency=draw(st.integers(-8, 12)),
        recurrent=recurrent,
        weights=weights,
        adaptive=draw(st.booleans()),
        scalars=draw(st.booleans()) and (weights or recurrent),
        shared=draw(st.booleans()) and not weights,
        dtype=draw(st.sampled_from([np.float32, np.float64])),
    )


def assert_is_oracle(run, expected):
    for name in ("spikes", "voltage", "threshold"):
        assert_same_bits(name, getattr(run, name), getattr(expected, name))
    assert_same_bits("state.voltage", run.state.voltage, expected.kept)
    assert_same_bits("state.adaptation", run.state.adaptation, expected.adaptation)
    assert_same_bits("state.refractory", run.state.refractory, expected.refractory)
    assert_same_bits("state.spikes", run.state.spikes, expected.history)


@given(case=cases(), data=st.data())
def test_any_block_length_equals_the_oracle(backend, case, data):
    length = data.draw(st.integers(1, case.layer.block_length), label="block_length")
    assert_is_oracle(case.simulate(backend, block_length=length), case.oracle())


@given(case=cases(), data=st.data())
def test_any_chunking_equals_one_run(backend, case, data):
    steps = case.x.shape[1]
    cuts = sorted(data.draw(st.sets(st.integers(1, steps), max_size=4), label="cuts") - {steps})
    whole = case.simulate(backend)
    state, runs = None, []
    for start, stop in zip([0, *cuts], [*cuts, steps], strict=True):
        length = data.draw(st.integers(1, case.layer.block_length), label="block_length")
        runs.append(case.simulate(backend, case.events[:, start:stop] if isinstance(case.events, np.ndarray)
                                  else case.events[start:stop], state=state, block_length=length))  # fmt: skip
        state = runs[-1].state
    for name in ("spikes", "voltage", "threshold"):
        assert_same_bits(name, np.concatenate([getattr(run, name) for run in runs], axis=1), getattr(whole, name))
    for name in ("voltage", "adaptation", "refractory", "spikes"):
        assert_same_bits(f"state.{name}", getattr(state, name), getattr(whole.state, name))


@pytest.mark.parametrize("refractory", [64, 70, 130])
def test_blocks_longer_than_a_chunk_of_the_kernels(backend, refractory):
    case = make_case(1, steps=300, refractory=refractory, recurrent=True, neurons=9)
    expected = case.oracle()
    assert expected.spikes.sum() > 20
    for length in (refractory + 1, 65, 64, 1):
        assert_is_oracle(case.simulate(backend, block_length=length), expected)


@pytest.mark.parametrize("neurons", [31, 32, 63, 64, 130])
def test_sizes_around_the_vectors_of_the_kernels(backend, neurons):
    case = make_case(neurons, steps=50, neurons=neurons, inputs=40, recurrent=True)
    assert_is_oracle(case.simulate(backend), case.oracle())


def test_refractory_period_longer_than_the_run(backend):
    case = make_case(3, steps=12, refractory=40, recurrent=True)
    assert_is_oracle(case.simulate(backend), case.oracle())
    gradients = []
    for refractory in (11, 40, 2**30):  # one spike a sample: memory is that of the run, not of the period
        case = make_case(3, steps=12, refractory=refractory)
        run = case.simulate(backend, tape=True)
        gradients.append(run.backward(np.ones(run.spikes.shape)).arrays())
    for name, value in gradients[0].items():
        for other in gradients[1:]:
            assert_same_bits(name, other[name], value)


def test_counts_above_one_are_that_many_spikes(backend):
    case = make_case(4)
    counts = case.x * np.random.default_rng(0).integers(1, 4, case.x.shape).astype(np.uint8)
    events = blocksim.Events.from_dense(counts)
    assert len(events.indices) == counts.sum() > case.x.sum()
    assert_is_oracle(case.simulate(backend, events), case.oracle(counts))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_on_one_thread_and_on_two(backend, dtype):
    # few samples: neurons are shared among the threads; many: samples are
    for batch, recurrent in ((1, False), (9, False), (3, True)):
        case = make_case(5, batch=batch, steps=100, neurons=130, inputs=20, recurrent=recurrent, dtype=dtype)
        grad_spikes = np.random.default_rng(1).normal(size=(batch, 100, 130)).astype(dtype)
        for gradient in ("standard", "paper"):
            runs, gradients = [], []
            for count in (1, 2, 2):
                with threads(backend, count):
                    runs.append(case.simulate(backend, tape=True, gradient=gradient))
                    gradients.append(runs[-1].backward(grad_spikes).arrays())
            for run, gradient_ in zip(runs[1:], gradients[1:], strict=True):
                assert_same_run(run, runs[0])
                for name, value in gradient_.items():
                    assert_same_bits(name, value, gradients[0][name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("neurons", [3, 40])
def test_real_valued_input_is_multiplied_and_added_input_by_input(backend, dtype, neurons):
    """In the order of the inputs, each product rounded: a matrix product whose order is not a library's to choose."""
    if backend.name.startswith("cupy"):
        pytest.skip("on a GPU real-valued input goes through cuBLAS, which has an order of its own")
    case = make_case(6, batch=3, steps=200, neurons=neurons, inputs=30, dtype=dtype)
    layer = case.layer
    x = np.random.default_rng(0).normal(size=case.x.shape).astype(dtype)
    current = np.broadcast_to(layer.bias, (*x.shape[:2], neurons)).astype(dtype)
    for k, row in enumerate(layer.weights):
        current = current + x[:, :, k, None] * row
    expected = blocksim.simulate(
        blocksim.Layer(layer.neuron, bias=np.zeros(1, dtype)[0]), current, backend, record=("voltage", "threshold")
    )
    assert_same_run(case.simulate(backend, x), expected)


@st.composite
def inputs_of_any_kind(draw):
    """Steps of spikes, of counts, of numbers too large for counts, of real values; sparse here, dense there."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, steps, inputs = draw(st.integers(1, 4)), draw(st.integers(2, 60)), draw(st.sampled_from([1, 3, 17, 70]))
    x = np.zeros((batch, steps, inputs))
    for part in np.array_split(np.arange(steps), draw(st.integers(1, 4))):
        density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
        kind = draw(st.sampled_from(["spikes", "counts", "large", "real"]))
        values = {"spikes": 1, "counts": rng.integers(1, 6, x.shape), "large": rng.integers(500, 1500, x.shape),
                  "real": rng.normal(size=x.shape)}[kind]  # fmt: skip
        x[:, part] = ((rng.random(x.shape) < density) * values)[:, part]
    neurons = draw(st.sampled_from([1, 9, 70]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    layer = blocksim.Layer(
        blocksim.ALIF(0.95, 0.97, 0.1, refractory_steps=draw(st.integers(0, 3))),
        rng.normal(0.1, 0.3, (inputs, neurons)).astype(dtype),
        rng.normal(0, 0.1, neurons).astype(dtype),
    )
    return layer, x.astype(dtype)


@given(given_=inputs_of_any_kind(), data=st.data())
def test_a_sum_has_one_order_whatever_else_is_in_the_call(backend, given_, data):
    """Chunks, single samples, block lengths and checkpoints: the order of (2) follows from a step's values alone."""
    if backend.name.startswith("cupy"):
        pytest.skip("on a GPU real-valued input goes through cuBLAS, which has an order of its own")
    layer, x = given_
    options = {"backend": backend, "record": ("voltage", "threshold")}
    whole = blocksim.simulate(layer, x, **options)
    cut = data.draw(st.integers(1, x.shape[1] - 1), label="cut")
    first = blocksim.simulate(layer, x[:, :cut], **options)
    second = blocksim.simulate(layer, x[:, cut:], state=first.state, **options)
    sample = data.draw(st.integers(0, len(x) - 1), label="sample")
    alone = blocksim.simulate(layer, x[sample], **options)
    kept = blocksim.simulate(layer, x, tape="checkpoint", **options)
    steps = blocksim.simulate(layer, x, method="standard", tape="checkpoint", **options)
    reference = blocksim.simulate(layer, x, "numpy", record=("voltage", "threshold"))
    for name in ("spikes", "voltage", "threshold"):
        expected = getattr(whole, name)
        assert_same_bits(name, np.concatenate([getattr(first, name), getattr(second, name)], axis=1), expected)
        assert_same_bits(name, getattr(alone, name), expected[sample])
        for run in (kept, steps, reference):
            assert_same_bits(name, getattr(run, name), expected)


def test_silence_never_leaves_denormal_numbers(backend):
    """Potential, adaptation and adjoint variables decay to exact zero, by the flush that is part of the model."""
    x = np.zeros((1, 6000, 1))
    x[0, 0] = 2.0
    layer = blocksim.Layer(blocksim.ALIF(beta=0.8, p=0.85, b=0.1, refractory_steps=2), bias=np.zeros(1))
    run = blocksim.simulate(layer, x, backend, record=("voltage", "threshold"), tape=True)
    assert run.spikes.sum() == 1
    assert run.state.adaptation == 0
    x[0, 0] = 0.5
    quiet = blocksim.simulate(layer, x, backend, record=("voltage",), tape=True)
    assert quiet.state.voltage == 0
    late = np.zeros(x.shape)
    late[0, -1] = 1.0
    current = quiet.backward(grad_voltage=late).current
    for values in (quiet.voltage, current):
        size = np.abs(values[values != 0])
        assert size.min() >= 1e-290
        assert size.min() < 1e-280
        assert (values == 0).sum() > 1000


@pytest.mark.slow
def test_long_run_equals_the_oracle(backend):
    case = make_case(8, steps=20_000, batch=1, neurons=3, refractory=20, recurrent=True, dtype=np.float32)
    assert_is_oracle(case.simulate(backend), case.oracle())
