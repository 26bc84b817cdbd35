"""Bad input: the package's own error, naming argument, expected and found, before anything runs."""

from __future__ import annotations

import numpy as np
import pytest
from blocksim.backends.numpy_reference.reference import NumpyBackend

import blocksim
from blocksim import ALIF, LIF, Events, Layer, Network, State, simulate
from blocksim.backend import BackendEntry
from blocksim.ephys import FitConfig
from blocksim.initialisers import make_network
from blocksim.surrogates import FastSigmoid
from blocksim.training import RatePenalty, Training

from .helpers import assert_refused


class Never(NumpyBackend):
    """A backend that must not be reached."""

    name = "never"

    def layer_forward(self, *arguments):
        raise AssertionError("the run began")

    def layer_adjoint(self, *arguments):
        raise AssertionError("the run began")


NEVER = Never()
X = np.ones((2, 10, 3))
PLAIN = Layer(LIF(0.9, refractory_steps=2))
WEIGHTED = Layer(ALIF(0.9, 0.9, 0.1, refractory_steps=2), np.ones((3, 4)), recurrent=np.zeros((4, 4)))


def with_(array, index, value):
    array = np.array(array, float)
    array[index] = value
    return array


def run(layer=PLAIN, x=X, backend=NEVER, **options):
    return simulate(layer, x, backend, **options)


def state(**changes):
    arrays = {"voltage": np.zeros((2, 3)), "adaptation": np.zeros((2, 3)), "refractory": np.zeros((2, 3), np.int32),
              "spikes": np.zeros((2, 0, 3), bool)}  # fmt: skip
    return State(**{**arrays, **changes})


# call, and what its message must hold
CASES = {
    "x of rank 1": (lambda: run(x=np.ones(5)), ["x:", "(time, K)", "(5,)"]),
    "x of rank 4": (lambda: run(x=np.ones((1, 1, 1, 1))), ["x:", "(batch, time, K)", "(1, 1, 1, 1)"]),
    "x empty": (lambda: run(x=np.ones((0, 3))), ["x:", "non-empty", "(0, 3)"]),
    "x of text": (lambda: run(x=np.array([["a"]])), ["x:", "real numbers"]),
    "x complex": (lambda: run(x=X + 1j), ["x:", "real numbers", "complex128"]),
    "x of longdouble": (lambda: run(x=X.astype(np.longdouble)), ["x:", "float64 at most"]),
    "x of objects": (lambda: run(x=X.astype(object)), ["x:", "real numbers", "object"]),
    "x no array": (lambda: run(x={}), ["x:", "NumPy array", "dict"]),
    "x with NaN": (lambda: run(x=with_(X, (1, 2, 0), np.nan)), ["x:", "finite", "nan", "(1, 2, 0)"]),
    "x with infinity": (lambda: run(x=with_(X, (0, 0, 1), -np.inf)), ["x:", "finite", "-inf"]),
    "x of other inputs": (lambda: run(WEIGHTED, np.ones((2, 10, 5))), ["x:", "3 inputs", "5"]),
    "x of other neurons": (lambda: run(Layer(LIF(np.full(4, 0.9))), X), ["x:", "4 neurons", "3"]),
    "csr without batch": (lambda: run(WEIGHTED, csr()), ["batch_size:", "None"]),
    "csr of other rows": (lambda: run(WEIGHTED, csr(), batch_size=3), ["batch_size:", "divisor", "20", "3"]),
    "batch_size for arrays": (lambda: run(batch_size=2), ["batch_size:", "None unless", "2"]),
    "no layer": (lambda: run(LIF(0.9)), ["layer:", "blocksim.Layer", "LIF"]),
    "backend": (lambda: run(backend="cuda"), ["backend:", "'numba'", "'numpy'", "'auto'", "'cuda'"]),
    "backend no name": (lambda: run(backend=3), ["backend:", "3"]),
    "method": (lambda: run(method="block"), ["method:", "'blocks'", "'standard'", "'block'"]),
    "gradient": (lambda: run(gradient="exact"), ["gradient:", "'standard'", "'paper'", "'exact'"]),
    "surrogate": (lambda: run(surrogate="relu"), ["surrogate:", "'fast_sigmoid'", "'superspike'", "FastSigmoid(k=25)", "'relu'"]),
    "surrogate class": (lambda: run(surrogate=FastSigmoid), ["surrogate:", "FastSigmoid"]),
    "surrogate scale": (lambda: FastSigmoid(k=0), ["FastSigmoid.k:", "above 0", "0"]),
    "detach": (lambda: run(detach=("resets",)), ["detach:", "'reset'", "'recurrent'", "'adaptation'", "'resets'"]),
    "record": (lambda: run(record="current"), ["record:", "'voltage'", "'threshold'", "'current'"]),
    "tape": (lambda: run(tape="yes"), ["tape:", "'checkpoint'", "'yes'"]),
    "block too long": (lambda: run(block_length=4), ["block_length:", "3", "4"]),
    "block of no steps": (lambda: run(block_length=0), ["block_length:", "0"]),
    "block of a fraction": (lambda: run(block_length=1.5), ["block_length:", "1.5"]),
    "standard in blocks": (lambda: run(method="standard", block_length=2), ["block_length:", "2"]),
    "latency of no step": (lambda: Layer(LIF(0.9, refractory_steps=4), recurrent=np.zeros((2, 2)), latency_steps=0), ["latency_steps:", "at least 1", "0"]),
    "block longer than the latency": (lambda: run(Layer(LIF(0.9, refractory_steps=4), recurrent=np.zeros((2, 2)), latency_steps=2), block_length=3), ["block_length:", "at most 2", "latency", "3"]),
    "weights of rank 1": (lambda: Layer(LIF(0.9), np.ones(3)), ["weights:", "(inputs, neurons)", "(3,)"]),
    "weights with NaN": (lambda: Layer(LIF(0.9), with_(np.ones((3, 2)), (2, 1), np.nan)), ["weights:", "finite", "(2, 1)"]),
    "recurrent not square": (lambda: Layer(LIF(0.9), recurrent=np.ones((3, 2))), ["recurrent:", "square", "3 x 2"]),
    "recurrent with infinity": (lambda: Layer(LIF(0.9), recurrent=np.full((1, 1), np.inf)), ["recurrent:", "finite", "inf"]),
    "bias with NaN": (lambda: Layer(LIF(0.9), bias=np.nan), ["bias:", "finite", "nan"]),
    "sizes": (lambda: Layer(LIF(np.full(3, 0.9)), np.ones((5, 2))), ["layer:", "3 from neuron", "2 from weights"]),
    "neuron": (lambda: Layer("LIF"), ["neuron:", "blocksim.LIF", "LIF"]),
    "beta of 1": (lambda: LIF(1.0), ["beta:", "[0, 1)", "1.0"]),
    "beta negative": (lambda: LIF(np.array([0.5, -0.1])), ["beta:", "[0, 1)", "-0.1"]),
    "beta NaN": (lambda: LIF(np.nan), ["beta:", "finite", "nan"]),
    "p of 1.5": (lambda: ALIF(0.9, 1.5, 0.1), ["p:", "[0, 1)", "1.5"]),
    "b infinite": (lambda: ALIF(0.9, 0.9, np.inf), ["b:", "finite", "inf"]),
    "theta NaN": (lambda: LIF(0.9, np.nan), ["theta:", "finite", "nan"]),
    "lengths": (lambda: ALIF(np.full(2, 0.9), np.full(3, 0.9), 0.1), ["beta of length 2", "p of length 3"]),
    "refractory negative": (lambda: LIF(0.9, refractory_steps=-1), ["refractory_steps:", "-1"]),
    "refractory fraction": (lambda: LIF(0.9, refractory_steps=1.5), ["refractory_steps:", "whole", "from_ms"]),
    "refractory in ms": (lambda: LIF.from_ms(tau_mem=10, refractory=0.25, dt=0.1), ["refractory:", "0.25 ms", "0.2 ms (2 steps)", "0.3 ms (3 steps)", "rounding="]),
    "refractory in ms, negative": (lambda: LIF.from_ms(tau_mem=10, refractory=-1, dt=0.1), ["refractory:", "-1"]),
    "rounding": (lambda: LIF.from_ms(tau_mem=10, refractory=1, dt=0.1, rounding="half"), ["rounding:", "'nearest'", "'half'"]),
    "tau of 0": (lambda: LIF.from_ms(tau_mem=0, dt=0.1), ["tau_mem:", "above 0", "0"]),
    "tau beyond the dtype": (lambda: LIF.from_ms(tau_mem=np.array([1e9], np.float32), dt=0.1), ["tau_mem:", "float32"]),
    "dt": (lambda: LIF.from_ms(tau_mem=10, dt=-0.1), ["dt:", "above 0", "-0.1"]),
    "state no state": (lambda: run(state=3), ["state:", "blocksim.State", "3"]),
    "state of another layer": (lambda: run(state=state(voltage=np.zeros((2, 4)))), ["state.voltage:", "(2, 3)", "(2, 4)", "another layer"]),
    "state of another batch": (lambda: run(x=X[:1], state=state()), ["state.voltage:", "(1, 3)", "(2, 3)"]),
    "state of recurrence": (lambda: run(state=state(spikes=np.zeros((2, 4, 3), bool))), ["state.spikes:", "(2, 0, 3)", "(2, 4, 3)"]),
    "state of a longer refractory period": (lambda: run(state=state(refractory=np.full((2, 3), 9, np.int32))), ["state.refractory:", "2", "9"]),
    "state of another precision": (lambda: run(state=state(voltage=np.zeros((2, 3), np.float32))), ["state.voltage", "float64", "float32"]),
    "state with NaN": (lambda: run(state=state(adaptation=np.full((2, 3), np.nan))), ["state.adaptation:", "finite"]),
    "events past the inputs": (lambda: Events(np.array([0, 1]), np.array([3]), (1, 1, 3)), ["indices:", "0 to 2", "3"]),
    "events of other rows": (lambda: Events(np.array([0, 1]), np.array([0]), (1, 2, 3)), ["indptr:", "3 entries", "2"]),
    "events descending": (lambda: Events(np.array([0, 2, 1, 1]), np.array([0]), (1, 3, 3)), ["indptr:", "ascending"]),
    "events of floats": (lambda: Events(np.array([0.0, 1.0]), np.array([0]), (1, 1, 3)), ["indptr:", "integer"]),
    "events of fractions": (lambda: Events.from_dense(np.full((2, 2), 0.5)), ["x:", "whole numbers", "0.5"]),
    "events before 0": (lambda: Events.from_lists([[-1.0]], [[0]], channels=1), ["times:", "sample 0", "-1"]),
    "events after the end": (lambda: Events.from_lists([[9.0]], [[0]], channels=1, steps=5), ["times:", "5 ms", "9"]),
    "events of other channels": (lambda: Events.from_lists([[1.0]], [[4]], channels=3), ["units:", "0 to 2", "4"]),
    "no delay": (lambda: Events.from_dense(np.ones((2, 2))).delayed([]), ["delays:", "at least one"]),
    "delays descending": (lambda: Events.from_dense(np.ones((2, 2))).delayed([1, 1]), ["delays:", "ascending", "[1, 1]"]),
    "delay below 0": (lambda: Events.from_dense(np.ones((2, 2))).delayed([-1, 1]), ["delays:", "at least 0", "-1"]),
    "events of other lengths": (lambda: Events.from_lists([[1.0]], [[1, 2]], channels=3), ["times, units:", "same length"]),
    "one thing where several are needed": (lambda: Training(wanted_counts=3), ["wanted_counts:", "two counts", "3"]),
    "penalties": (lambda: Training(penalties=3), ["penalties:", "RatePenalty", "3"]),
    "trained": (lambda: Training(trained=()), ["trained:", "names", "()"]),
    "layers of a penalty": (lambda: RatePenalty(1, layers=0), ["layers:", "numbers of layers", "0"]),
    "hidden": (lambda: make_network(3, 8, 2, dt=1, refractory=2), ["hidden:", "each layer", "8"]),
    "no refractory period": (lambda: FitConfig(refractory=()), ["refractory:", "periods in ms", "()"]),
    "spike window": (lambda: FitConfig(spike_window=3), ["spike_window:", "before", "3"]),
    "bounds": (lambda: FitConfig(bounds={"tau_mem": (3,)}), ["bounds: tau_mem:", "(low, high)", "(3,)"]),
    "gradient of another shape": (lambda: counted().backward(np.ones((2, 3))), ["grad_output:", "(2, 4)", "(2, 3)"]),
    "an object of several lines": (lambda: Network(WEIGHTED), ["layers:", "found Layer(neuron=ALIF(beta=0.9"]),
    "lists that are none": (lambda: Events.from_lists(None, [[0]], channels=1), ["times, units:", "NoneType"]),
    "lists of text": (lambda: Events.from_lists("x", [[0]], channels=1), ["times, units:", "str"]),
    "times of text": (lambda: Events.from_lists([["x"]], [[0]], channels=1), ["times: sample 0:", "in ms", "['x']"]),
    "times of two axes": (lambda: Events.from_lists([[[1.0]]], [[[0]]], channels=1), ["sample 0", "(1, 1)"]),
    "no samples": (lambda: Events.from_lists([], [], channels=1), ["times, units:", "none"]),
    "units of text": (lambda: Events.from_lists([[1.0]], [["a"]], channels=1), ["units of sample 0", "<U1"]),
    "masked units": (lambda: Events.from_lists([[1.0]], [np.ma.array([0], mask=[1])], channels=1), ["units: sample 0", "masked"]),
    "inputs beyond int32": (lambda: Events.from_lists([[1.0]], [[0]], channels=2**31), ["channels:", "2**31 - 1"]),
    "steps of fractions": (lambda: Events.from_dense(np.ones((2, 2)))[0.5:2], ["events[...]:", "slice", "0.5"]),
    "steps of bool": (lambda: Events.from_dense(np.ones((2, 2)))[True:2], ["events[...]:", "slice", "True"]),
    "every other step": (lambda: Events.from_dense(np.ones((2, 2)))[::2], ["events[...]:", "slice", "2"]),
    "samples of fractions": (lambda: Events.from_dense(np.ones((2, 2))).samples(0.0, 1), ["events.samples", "0.0"]),
    "one delay": (lambda: Events.from_dense(np.ones((2, 2))).delayed(3), ["delays:", "ascending", "3"]),
    "counts no dtype holds": (lambda: Events.from_dense(np.full((1, 1), 300)).to_dense(np.uint8), ["dtype:", "uint8", "255"]),
    "counts as text": (lambda: Events.from_dense(np.ones((1, 1))).to_dense("text"), ["dtype:", "real numbers"]),
    "counts beyond memory": (lambda: Events.from_dense(np.full((2, 2), 2**62)), ["x:", "spike counts", "1.84"]),
    "counts beyond int64": (lambda: Events.from_dense(np.full((2, 2), 1e300)), ["x:", "spike counts", "4e+300"]),
    "events at NaN": (lambda: Events.from_lists([[np.nan]], [[1]], channels=3), ["times:", "finite"]),
}  # fmt: skip


def counted():
    return simulate(Network([WEIGHTED]), X, "numpy", tape=True)


def csr():
    return pytest.importorskip("scipy.sparse").csr_array(np.ones((20, 3), np.uint8))


@pytest.mark.parametrize("name", CASES)
def test_message(name):
    assert_refused(*CASES[name])


def test_backward(backend):
    finished = simulate(WEIGHTED, X, backend, tape=True)
    g = np.ones((2, 10, 4))
    for name, call, parts in (
        ("nothing", lambda: finished.backward(), ["grad_spikes, grad_voltage, grad_state"]),
        ("shape", lambda: finished.backward(g[0]), ["grad_spikes:", "(2, 10, 4)", "(10, 4)"]),
        ("NaN", lambda: finished.backward(None, with_(g, 0, np.nan)), ["grad_voltage:", "finite"]),
        ("state", lambda: finished.backward(g, grad_state=finished.state), ["grad_state:", "StateGradient"]),
        ("no tape", lambda: simulate(WEIGHTED, X, backend).backward(g), ["tape=True"]),
    ):
        with pytest.raises(blocksim.ArgumentError) as caught:
            call()
        for part in parts:
            assert part in str(caught.value), name


@pytest.mark.parametrize(("rounding", "steps"), [("nearest", 3), ("down", 2), ("up", 3)])
def test_rounding_of_refractory_periods(rounding, steps):
    assert LIF.from_ms(tau_mem=10, refractory=0.26, dt=0.1, rounding=rounding).refractory_steps == steps
    # 0.3 / 0.1 is 2.9999999999999996 and means 3, whatever the rounding
    assert LIF.from_ms(tau_mem=10, refractory=0.3, dt=0.1, rounding=rounding).refractory_steps == 3


def test_a_missing_library_is_named(monkeypatch):
    class Point:
        name = "far"

        def load(self):
            return BackendEntry("far", "Far", ("no_such_library",), "python -m pip install far")

    monkeypatch.setattr(blocksim.backend, "_registered", lambda: {"far": Point()})
    blocksim.backend._load.cache_clear()
    with pytest.raises(blocksim.MissingLibraryError, match=r"no_such_library.*python -m pip install far"):
        simulate(PLAIN, X, "far")
    assert "python -m pip install far" in blocksim.available_backends()["far"]
    blocksim.backend._load.cache_clear()


def test_finite_numbers_whose_sum_is_not_are_accepted(backend):
    x = np.array([[1e308], [1e308], [-1e308]])
    layer = Layer(LIF(0.0, theta=1e308))
    assert simulate(layer, x, backend).spikes.sum() == 0
