"""Checks for people who write a backend.

Owns `check_backend`: random layers computed by a backend and by the NumPy reference, and compared. Every backend of
blocksim passes it, in the project's own tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from blocksim._connections import Alpha, Connection, Exponential
from blocksim._escape import Escape
from blocksim._events import Events
from blocksim._layer import Layer
from blocksim._linear_neurons import Component, LinearIF, Rectified, Softplus
from blocksim._neurons import ALIF, LIF
from blocksim._run import Run
from blocksim._simulation import simulate
from blocksim._validation import whole_number
from blocksim.backend import Backend, get_backend
from blocksim.errors import ArgumentError
from blocksim.surrogates import HAZARD, SURROGATES, get_surrogate

TRACES = ("voltage", "threshold")
SEED = 2**33 + 1  # of escape noise: both halves of 64 bits count
# Norm of a gradient's difference over its norm.
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


@dataclass(frozen=True)
class _Case:
    """A random layer, its input in one form, and how to run it."""

    layer: Layer
    x: Any
    kind: str  # of input: "spikes", "counts", "events", "real", "current", "shared current"
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        layer = self.layer
        return (
            f"{type(layer.neuron).__name__} layer of {layer.size or self.x.shape[2]} neurons, input: {self.kind} "
            f"{tuple(self.x.shape)}, {'recurrent, ' if layer.recurrent is not None else ''}{self.dtype}"
        )


def check_backend(backend: Any, *, layers: int = 60, seed: int = 0, own_products: bool = False) -> None:
    """Hold a backend to the NumPy reference on random layers.

    Spikes, potentials, thresholds and states must be those of the reference in every bit: for every block length, step
    by step, in chunks, one sample alone, with a tape and with checkpoints, with imposed spikes. Gradients must agree to
    1e-10 of their norm in float64 and 1e-4 in float32, for every surrogate the backend takes, with each path cut, with
    cotangents of spikes and potentials and of the state. The caller's arrays must stay as they are, and a second call
    must repeat every bit.

    Parameters
    ----------
    backend : str or Backend
        A backend, or its name.
    layers : int
        Number of random layers, at least 1. Sizes cross the widths of vectors and blocks; 60 see every kind of input
        with every kind of layer.
    seed : int
        Seed of the layers, 0 or more.
    own_products : bool
        The backend multiplies real-valued input with weights in an order of its own, as a BLAS library does. Such input
        is then compared to rounding.

    Raises
    ------
    AssertionError
        Something differs: the message says for which layer, which result, and by how much.
    ArgumentError
        There is no such backend, or an argument is out of range.

    Notes
    -----
    `gradient="paper"` is checked unless the backend refuses it with an `ArgumentError`. Where the backend computes the
    linear family, every third layer has several components, synapses and delays, and half of those have escape noise.

    Examples
    --------
    >>> from blocksim.testing import check_backend
    >>> check_backend("numpy", layers=5)
    """
    engine = get_backend(backend)
    layers, seed = whole_number("layers", layers, 1), whole_number("seed", seed, 0)
    _check_arrays(engine)
    # every third layer, where the backend can, has several components, synapses and delays
    for number in range(layers):
        rng = np.random.default_rng([seed, number])
        case = _random_case(rng, number, engine.computes_family and number % 3 == 1)
        exact = not (own_products and case.kind == "real")
        try:
            _check_runs(engine, case, rng, exact)
            _check_gradients(engine, case, rng, number)
        except AssertionError as error:
            raise AssertionError(f"backend {engine.name!r}, layer {number} (seed {seed}): {case}: {error}") from None


def _check_arrays(engine: Backend) -> None:
    """What the core does with arrays apart from a backend's kernels."""
    for dtype in (np.float32, np.float64, np.int32, np.bool_):
        values = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)
        array = engine.asarray(values)
        for name, got, expected in (
            ("asarray", array, values),
            ("a slice", array[:, 1:], values[:, 1:]),
            ("a copy", array.copy(), values),
            ("a reshaped array", array.reshape(6, 4), values.reshape(6, 4)),
        ):
            _same_bits(f"{name} of {np.dtype(dtype)}", engine.to_numpy(got), expected)
        made = engine.empty((2, 3), dtype)
        made[...] = 1
        _same_bits(f"empty, filled with 1, of {np.dtype(dtype)}", engine.to_numpy(made), np.ones((2, 3), dtype))
        for got in engine.fetch([array, array[0]])[:1]:
            _same_bits("fetch", got, values)
    numbers = engine.asarray(np.arange(6.0).reshape(2, 3))
    _same_bits("a sum", engine.to_numpy((numbers + numbers).sum(axis=0)), np.array([6.0, 10.0, 14.0]))
    assert not engine.owns(np.zeros(1)), "owns: expected False for a NumPy array; found True"


def _random_case(rng: np.random.Generator, number: int, family: bool) -> _Case:
    kind = ("spikes", "counts", "events", "real", "current", "shared current")[number % 6]
    recurrent, adaptive = bool(number // 6 % 2), bool(number // 12 % 2) or number % 5 > 0
    dtype = np.dtype((np.float32, np.float64)[number // 3 % 2])
    size, inputs = int(rng.choice([1, 2, 7, 9, 33, 70])), int(rng.choice([1, 5, 70]))
    batch, steps = int(rng.integers(1, 4)), int(rng.integers(1, 80))

    def each(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, size).astype(dtype)

    refractory = int(rng.integers(0, 6)) if number % 4 else rng.integers(0, 9, size)
    common = {"beta": each(0.5, 0.98), "theta": each(0.4, 1.2), "refractory_steps": refractory}
    neuron = ALIF(p=each(0.5, 0.99), b=each(0.0, 0.4), **common) if adaptive else LIF(**common)
    density = float(rng.choice([0.1, 0.5, 1.0]))
    weights: np.ndarray | None = None
    x: Any = None
    if kind.endswith("current"):
        x = rng.normal(0.25, 0.4, (batch, steps, 1 if kind.startswith("shared") else size)).astype(dtype)
    else:
        scale = 1 / np.sqrt(max(1.0, inputs * density))
        weights = (rng.normal(0.4, 0.6, (inputs, size)) * scale).astype(dtype)
        spikes = rng.random((batch, steps, inputs)) < density
        counts = spikes * rng.integers(1, 5, spikes.shape)
        x = {"spikes": spikes, "counts": counts, "real": rng.normal(0.3, 0.5, spikes.shape).astype(dtype)}.get(kind)
        x = Events.from_dense(counts) if x is None else x
    latency = max(1, int(np.min(refractory)) + 1 + int(rng.integers(-4, 10)))
    if family:
        return _Case(_family_layer(rng, neuron, weights, recurrent), x, kind, dtype)
    connections = rng.normal(0.05, 0.5 / np.sqrt(size), (size, size)).astype(dtype) if recurrent else None
    layer = Layer(neuron, weights, each(0.0, 0.2), connections, latency if recurrent else None)
    return _Case(layer, x, kind, dtype)


def _family_layer(rng: np.random.Generator, neuron: LIF | ALIF, weights: np.ndarray | None, recurrent: bool) -> Layer:
    """A layer of the linear family, beside an ALIF layer's parameters and weights."""
    size, dtype = np.size(neuron.beta), np.asarray(neuron.beta).dtype

    def each(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, size).astype(dtype)

    components: list[Component | Rectified] = [
        Component(
            each(0.5, 0.99), each(-0.5, 1.0), each(-0.1, 0.1), each(-0.2, 0.1), each(-0.1, 0.4),
            str(rng.choice(["before", "after"])),
        ),
        Rectified(each(0.5, 0.99), each(-0.2, 0.6), each(-0.2, 0.2), each(-0.3, 0.3), each(-0.1, 0.4)),
        Softplus(each(0.5, 0.99), each(-0.2, 0.6), each(-0.2, 0.2), each(-0.3, 0.3), each(-0.1, 0.4), each(0.02, 1.0)),
    ]  # fmt: skip
    delays = rng.integers(1, 9, (size, size)) if rng.random() < 0.5 else int(rng.integers(1, 9))
    own = rng.normal(0.05, 0.4 / np.sqrt(size), (size, size)).astype(dtype)
    noise = Escape(each(0.01, 0.2), each(0.1, 0.5)) if rng.random() < 0.5 else None
    return Layer(
        LinearIF(
            neuron.beta, neuron.theta, neuron.refractory_steps, components, each(-0.4, 0.2), each(-0.3, 0.6),
            str(rng.choice(["ignore", "hold", "integrate"])), noise,
        ),
        bias=each(0.0, 0.2),
        recurrent=[Connection(own, delays, int(rng.integers(0, 3)))] if recurrent else None,
        inputs=[] if weights is None else [Connection(weights, 2, 0), Connection(weights, 0, int(rng.integers(0, 3)))],
        synapses=[Alpha(each(0.5, 0.9), each(0.2, 0.6), each(-0.2, 0.2)), Exponential(each(0.5, 0.9), each(0.2, 0.6))],
    )  # fmt: skip


def _check_runs(engine: Backend, case: _Case, rng: np.random.Generator, exact: bool) -> None:
    layer, x = case.layer, case.x
    given = x.indices.copy() if isinstance(x, Events) else x.copy()

    def run(**options: Any) -> Run:
        found: Run = simulate(
            layer, options.pop("x", x), options.pop("backend", engine), record=TRACES, seed=SEED, **options
        )
        return found

    expected = run(backend="numpy")
    whole_run = run()
    _same_run("a run", whole_run, expected, exact)
    length = int(rng.integers(1, layer.block_length + 1))
    for name, options in (
        ("a second call", {}),
        (f"blocks of {length} steps", {"block_length": length}),
        ("step by step", {"method": "standard"}),
        ("a run with a tape", {"tape": True}),
        ("a run with checkpoints", {"tape": "checkpoint"}),
    ):
        _same_run(name, run(**options), whole_run, exact)
    if layer.neuron.is_stochastic:
        given_spikes = run(impose=whole_run.spikes)
        for name in ("spikes", *TRACES):
            _same(f"{name} of a run with imposed spikes", getattr(given_spikes, name), getattr(whole_run, name), exact)
    if x.shape[1] > 1:
        cut = int(rng.integers(1, x.shape[1]))
        pieces = (x[:cut], x[cut:]) if isinstance(x, Events) else (x[:, :cut], x[:, cut:])
        first = run(x=pieces[0])
        second = run(x=pieces[1], state=first.state)
        for name in ("spikes", *TRACES):
            joined = np.concatenate([getattr(first, name), getattr(second, name)], axis=1)
            _same(f"{name} of two chunks", joined, getattr(whole_run, name), exact)
        _same_state("two chunks", second, whole_run, exact)
    one = x.samples(0, 1) if isinstance(x, Events) else x[:1]
    for name in ("spikes", *TRACES):
        _same(f"{name} of a sample alone", getattr(run(x=one), name), getattr(whole_run, name)[:1], exact)
    _same_bits("the input after the runs", x.indices if isinstance(x, Events) else x, given)


def _check_gradients(engine: Backend, case: _Case, rng: np.random.Generator, number: int) -> None:
    layer, x = case.layer, case.x
    shape = simulate(layer, x, "numpy").spikes.shape
    of_spikes, of_voltage = rng.normal(size=(2, *shape)).astype(case.dtype)
    state = simulate(layer, x, "numpy", tape=True, seed=SEED).backward(of_spikes).state
    of_state = type(state)(*(rng.normal(size=value.shape).astype(case.dtype) for value in vars(state).values()))
    surrogates = [name for name in SURROGATES if _takes(engine, name)]
    assert surrogates, "check_surrogate: expected one built-in surrogate at least to be taken; found none"
    surrogate = surrogates[number % len(surrogates)]
    for options in _gradient_options(number):
        own = layer.neuron.is_stochastic and options["tape"] is True
        options |= {"surrogate": HAZARD if own else surrogate, "seed": SEED}
        # a paper gradient depends on the block length, so that is the same for both
        try:
            found = simulate(layer, x, engine, **options)
        except ArgumentError:
            assert options["gradient"] == "paper", f"expected a run with {options}; found it refused"
            continue
        expected = simulate(layer, x, "numpy", **options)
        # potentials that agree to rounding only may lie on either side of a threshold
        if not np.array_equal(found.spikes, expected.spikes):
            continue
        words = ", ".join(f"{name}={value!r}" for name, value in options.items())
        for cotangents in ((of_spikes, of_voltage, of_state), (of_spikes, None, None), (None, of_voltage, None)):
            got, wanted = found.backward(*cotangents), expected.backward(*cotangents)
            for name, value in wanted.arrays().items():
                _close(f"dLoss/d({name}) with {words}", got.arrays().get(name), value, TOLERANCE[str(case.dtype)])
            again = found.backward(*cotangents)
            for name, value in got.arrays().items():
                if options["tape"] is True:
                    _same_bits(f"dLoss/d({name}) a second time, with {words}", again.arrays()[name], value)


def _gradient_options(number: int) -> Iterator[dict[str, Any]]:
    cut = ((), ("reset",), ("adaptation",), ("recurrent",), ("reset", "recurrent", "adaptation"))[number % 5]
    yield {"tape": True, "gradient": "standard", "detach": cut}
    yield {"tape": "checkpoint", "gradient": "standard", "detach": ("reset",)}
    yield {"tape": True, "gradient": "paper", "detach": cut}


def _takes(engine: Backend, name: str) -> bool:
    try:
        engine.check_surrogate(get_surrogate(name))
    except ArgumentError:
        return False
    return True


def _same_run(name: str, got: Run, expected: Run, exact: bool) -> None:
    for trace in ("spikes", *TRACES):
        _same(f"{trace} of {name}", getattr(got, trace), getattr(expected, trace), exact)
    _same_state(name, got, expected, exact)


def _same_state(name: str, got: Run, expected: Run, exact: bool) -> None:
    for part in vars(expected.state):
        _same(f"state.{part} after {name}", getattr(got.state, part), getattr(expected.state, part), exact)


def _same(name: str, got: np.ndarray, expected: np.ndarray, exact: bool) -> None:
    if exact:
        _same_bits(name, got, expected)
    elif got.dtype.kind == "f":
        _close(name, got, expected, TOLERANCE[str(got.dtype)])


def _same_bits(name: str, got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype, f"{name}: expected dtype {expected.dtype}; found {got.dtype}"
    assert got.shape == expected.shape, f"{name}: expected shape {expected.shape}; found {got.shape}"
    if np.ascontiguousarray(got).tobytes() != np.ascontiguousarray(expected).tobytes():
        bits = np.dtype(f"u{got.dtype.itemsize}")
        off = np.ascontiguousarray(got).view(bits) != np.ascontiguousarray(expected).view(bits)
        where = tuple(int(i) for i in np.argwhere(off)[0])
        raise AssertionError(
            f"{name}: expected {expected[where]!r} at {where}; found {got[where]!r} "
            f"({int(off.sum())} of {off.size} values differ in a bit)"
        )


def _close(name: str, got: np.ndarray | None, expected: np.ndarray, tolerance: float) -> None:
    assert got is not None, f"{name}: expected an array; found None"
    assert got.shape == expected.shape, f"{name}: expected shape {expected.shape}; found {got.shape}"
    difference = float(np.linalg.norm(got.astype(np.float64) - expected))
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    assert difference <= tolerance * (scale or 1), (
        f"{name}: expected a difference of at most {tolerance:g} of its norm, {scale:.3g}; found {difference:.3g}"
    )
