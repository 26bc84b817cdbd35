"""The interface: seven methods are enough, names are found, nothing falls back silently."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from blocksim.backends.numpy_reference.reference import NumpyBackend

import blocksim
import blocksim.surrogates
from blocksim.backend import FusedBackend, HostBackend
from blocksim.testing import check_backend

from .conftest import IN_CI
from .helpers import assert_refused, assert_same_run, make_case


class Counting(NumpyBackend):
    """Counts the blocks; marks its arrays, as a backend with arrays of its own would."""

    name = "counting"

    def __init__(self):
        self.forward = self.adjoint = 0

    def block_forward(self, *arguments):
        self.forward += 1
        return super().block_forward(*arguments)

    def block_adjoint(self, *arguments):
        self.adjoint += 1
        return super().block_adjoint(*arguments)


def test_the_core_composes_blocks():
    backend, case = Counting(), make_case(1, steps=23, refractory=4, recurrent=True)
    run = case.simulate(backend, tape=True)
    assert backend.forward == 5
    assert run.backend == "counting"
    gradients = run.backward(np.ones((2, 23, 5))).arrays()
    assert backend.adjoint == 5
    expected = case.simulate("numpy", tape=True)
    assert_same_run(run, expected)
    for name, value in expected.backward(np.ones((2, 23, 5))).arrays().items():
        np.testing.assert_array_equal(gradients[name], value)


def test_every_backend_passes_the_public_check(backend, request):
    whole = IN_CI or request.config.getoption("--slow")
    if backend.name == "cupy-emulated" and not whole:
        pytest.skip("slow: compiles kernels for every surrogate; runs with --slow, and where CI=true")
    # the first six are not recurrent, which test_golden and test_linear are
    check_backend(backend, layers=12 if whole else 6, own_products=backend.name.startswith("cupy"))


def test_a_backend_without_the_family_says_so():
    class Simple(FusedBackend, HostBackend):
        """One that computes whole layers of LIF and ALIF."""

        name = "simple"
        layer_forward, layer_adjoint = NumpyBackend.layer_forward, NumpyBackend.layer_adjoint
        projection, projection_adjoint = NumpyBackend.projection, NumpyBackend.projection_adjoint

    layer = blocksim.Layer(blocksim.LIF(0.9), np.ones((3, 2)), synapses=[blocksim.Exponential(0.9)])
    words = ["backend", "synapses", "numba"]
    assert_refused(lambda: blocksim.simulate(layer, np.ones((5, 3), bool), Simple()), words)


def wrong(change):
    """A backend of which one thing is wrong."""

    class Wrong(NumpyBackend):
        name = "wrong"

        def projection(self, x, weights, out):
            if change == "order of events" and isinstance(x, blocksim.Events):
                out += x.to_dense(weights.dtype) @ weights
            elif change == "order of values" and not isinstance(x, blocksim.Events) and x.dtype != np.bool_:
                out += x @ weights
            else:
                super().projection(x, weights, out)

        def block_forward(self, current, carry, layer, out):
            if change == "refractory":
                carry = replace(carry, refractory=0 * carry.refractory)
            if change == "carry":
                carry = replace(carry, adaptation=np.float32(1 + 1e-6) * carry.adaptation)
            if change == "input written to":
                current[...] += layer.neuron.theta * 0
                carry.voltage[...] += 1e-9
            return super().block_forward(current, carry, layer, out)

        def block_adjoint(self, voltage, spikes, start, layer, rule, *others):
            if change == "detach":
                rule = replace(rule, through_reset=True)
            if change == "surrogate":
                rule = replace(rule, surrogate=blocksim.surrogates.FastSigmoid(k=9.9))
            into = super().block_adjoint(voltage, spikes, start, layer, rule, *others)
            return replace(into, adaptation=0 * into.adaptation) if change == "gradient of the state" else into

        def projection_adjoint(self, x, grad_current):
            grad = super().projection_adjoint(x, grad_current)
            return grad * (1 + 1e-3) if change == "weights" else grad

        def fetch(self, arrays):
            return [array[:0] for array in arrays] if change == "fetch" else super().fetch(arrays)

    return Wrong()


@pytest.mark.parametrize("change", [
    "order of events", "order of values", "refractory", "carry", "input written to", "detach", "surrogate",
    "gradient of the state", "weights", "fetch",
])  # fmt: skip
def test_the_public_check_finds_what_is_wrong(change):
    with pytest.raises(AssertionError, match=r"expected .*found"):
        check_backend(wrong(change), layers=24)


def test_an_incomplete_backend_cannot_be_made():
    class Half(blocksim.Backend):
        name = "half"

    with pytest.raises(TypeError, match="block_adjoint"):
        Half()


def test_auto_takes_the_fastest_that_is_ready_and_says_so():
    run = blocksim.simulate(blocksim.Layer(blocksim.LIF(0.9)), np.ones((3, 1)), "auto")
    assert blocksim.available_backends()[run.backend] == "ready"
    assert run.backend in ("cupy", "numba")


def test_a_backend_of_whole_layers_computes_no_single_blocks(backend):
    if type(backend).layer_forward is blocksim.Backend.layer_forward:
        pytest.skip(f"backend {backend.name} is composed of blocks")
    with pytest.raises(NotImplementedError, match="whole layers"):
        backend.block_forward(None, None, None, None)
    with pytest.raises(NotImplementedError, match="whole layers"):
        backend.block_adjoint(*[None] * 10)
