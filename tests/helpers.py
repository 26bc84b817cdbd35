"""Comparisons and random layers that several test modules use."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import blocksim

from . import oracle


def assert_same_bits(name, got, expected):
    """Equal in dtype, shape and every bit: stricter than ==, which takes -0.0 for 0.0."""
    assert got.dtype == expected.dtype, f"{name}: dtype {got.dtype}, expected {expected.dtype}"
    assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
    if got.tobytes() != expected.tobytes():
        as_bits = np.dtype(f"u{got.dtype.itemsize}")
        off = np.ascontiguousarray(got).view(as_bits) != np.ascontiguousarray(expected).view(as_bits)
        where = tuple(int(i) for i in np.argwhere(off)[0])
        raise AssertionError(
            f"{name}: {int(off.sum())} of {off.size} differ, the first at {where}: {got[where]!r}, "
            f"expected {expected[where]!r}"
        )


def assert_same_run(got, expected):
    """Two runs equal in every bit: spikes, voltages, thresholds, final states."""
    for name in ("spikes", "voltage", "threshold"):
        assert_same_bits(name, getattr(got, name), getattr(expected, name))
    assert_same_state(got.state, expected.state)


def assert_same_state(got, expected):
    for name in vars(expected):
        assert_same_bits(f"state.{name}", getattr(got, name), getattr(expected, name))


def steps_of(x, start, stop):
    return x[start:stop] if isinstance(x, blocksim.Events) else x[:, start:stop]


def assert_same_in_blocks_and_chunks(backend, layer, x, cut, whole):
    """The bits of `whole`, a batch's run step by step, in blocks of two lengths and in chunks cut at a step."""
    record = ("voltage", "threshold")

    def run(x, **options):
        return blocksim.simulate(layer, x, backend, record=record, **options)

    blocks = run(x)
    assert blocks.block_length == min(layer.block_length, x.shape[1])
    assert_same_run(blocks, whole)
    assert_same_run(run(x, block_length=max(layer.block_length - 1, 1)), whole)
    one = run(steps_of(x, 0, cut))
    two = run(steps_of(x, cut, x.shape[1]), state=one.state)
    for name in ("spikes", *record):
        joined = np.concatenate([getattr(one, name), getattr(two, name)], axis=1)
        assert_same_bits(f"{name} of chunks", joined, getattr(whole, name))
    assert_same_state(two.state, whole.state)


def assert_threshold_follows(backend, components, slopes, level_after):
    """A neuron that holds while refractory, step by step; its components become level_after(level, v, spike)."""
    current = np.random.default_rng(0).normal(0.12, 0.2, 300)
    neuron = blocksim.LinearIF(0.9, 0.5, 3, components, refractory="hold")
    run = blocksim.simulate(blocksim.Layer(neuron), current[:, None], backend, record=("voltage", "threshold"))
    v, level, left = 0.0, np.zeros(len(components)), 0
    for t, each in enumerate(current):
        v = 0.9 * v + each if not left else v
        threshold = 0.5 + slopes @ level
        assert run.voltage[t, 0] == pytest.approx(v, abs=1e-12)
        assert run.threshold[t, 0] == pytest.approx(threshold, abs=1e-12)
        spike = not left and v > threshold
        assert run.spikes[t, 0] == spike
        level = level_after(level, v, spike)
        v, left = (0.0, 3) if spike else (v, max(left - 1, 0))
    assert run.spikes.sum() > 5


def relative(got, expected):
    """Norm of the difference over the norm of what is expected; the plain norm where that is zero."""
    got, expected = np.asarray(got, float), np.asarray(expected, float)
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    difference = float(np.linalg.norm(got - expected))
    scale = float(np.linalg.norm(expected))
    return difference / scale if scale else difference


def assert_close(got, expected, tolerance):
    """Every gradient within a relative norm, and the same ones there."""
    got = got.arrays() if isinstance(got, blocksim.Gradients) else got
    expected = expected.arrays() if isinstance(expected, blocksim.Gradients) else expected
    assert set(got) == set(expected)
    errors = {name: relative(got[name], expected[name]) for name in expected}
    worst = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not worst, f"relative errors above {tolerance}: {worst}"


def assert_refused(call, words):
    """`call` raises `ArgumentError`: one line with these words, which says what was found too."""
    with pytest.raises(blocksim.ArgumentError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in (*words, "found"):
        assert word in message, f"{word!r} not in {message!r}"


@contextlib.contextmanager
def threads(engine, count):
    """Run with `count` threads where the engine has threads; skip where the machine has too few."""
    if not engine.name.startswith("numba"):
        yield
        return
    import numba

    if count > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"numba was started with {numba.config.NUMBA_NUM_THREADS} threads, this needs {count}")
    before = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)


@dataclass
class Case:
    """A layer that spikes, its input, and the same parameters for the oracle."""

    layer: blocksim.Layer
    x: np.ndarray  # (B, T, K): spike counts (uint8) where there are weights, else the current
    dtype: np.dtype
    parameters: dict[str, Any] = field(repr=False)

    @property
    def events(self):
        """x as a backend is to see it without rounding of its own: events where there are weights."""
        return blocksim.Events.from_dense(self.x) if "weights" in self.parameters else self.x

    def oracle(self, x=None, state=None):
        return oracle.simulate(self.x if x is None else x, self.dtype, **self.parameters, state=state)

    def simulate(self, engine, x=None, record=("voltage", "threshold"), **options):
        return blocksim.simulate(self.layer, self.events if x is None else x, engine, record=record, **options)


def make_case(
    seed,
    batch=2,
    steps=30,
    neurons=5,
    inputs=4,
    density=0.2,
    refractory=3,
    extra_latency=0,
    recurrent=False,
    weights=True,
    adaptive=True,
    scalars=False,
    shared=False,
    dtype=np.float64,
):
    """A random case, driven hard enough to spike. `refractory` is a number or (low, high) for one a neuron."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)

    def each(low, high):
        # plain numbers carry no precision; arrays do
        return float(rng.uniform(low, high)) if scalars else rng.uniform(low, high, neurons).astype(dtype)

    if isinstance(refractory, tuple):
        refractory = rng.integers(refractory[0], refractory[1] + 1, neurons)
    parameters = {"beta": each(0.5, 0.98), "theta": each(0.4, 1.2), "refractory": refractory}
    if adaptive:
        parameters |= {"p": each(0.5, 0.99), "b": each(0.0, 0.4)}
    parameters["bias"] = rng.uniform(0.0, 0.2, neurons).astype(dtype)
    least = int(np.min(refractory)) + 1
    if weights:
        scale = 1 / np.sqrt(max(1.0, inputs * density))
        parameters["weights"] = (rng.normal(0.4, 0.6, (inputs, neurons)) * scale).astype(dtype)
        x = (rng.random((batch, steps, inputs)) < density).astype(np.uint8)
    else:
        x = rng.normal(0.25, 0.4, (batch, steps, 1 if shared else neurons)).astype(dtype)
    if recurrent:
        parameters["recurrent"] = rng.normal(0.05, 0.5 / np.sqrt(neurons), (neurons, neurons)).astype(dtype)
        parameters["latency"] = max(1, least + extra_latency)
    kinds = {name: parameters[name] for name in ("beta", "p", "b", "theta") if name in parameters}
    neuron = (blocksim.ALIF if adaptive else blocksim.LIF)(**kinds, refractory_steps=refractory)
    layer = blocksim.Layer(
        neuron,
        parameters.get("weights"),
        parameters["bias"],
        parameters.get("recurrent"),
        parameters.get("latency"),
    )
    return Case(layer, x, dtype, parameters)
