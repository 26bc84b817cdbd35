"""The interface: seven methods are enough, names are found, nothing falls back silently."""

from __future__ import annotations

import numpy as np
import pytest
from blocksim.backends.numpy_reference.reference import NumpyBackend

import blocksim

from .conftest import make_engine
from .helpers import assert_same_run, gradient_arrays, make_case


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
    gradients = gradient_arrays(run.backward(np.ones((2, 23, 5))))
    assert backend.adjoint == 5
    expected = case.simulate("numpy", tape=True)
    assert_same_run(run, expected)
    for name, value in gradient_arrays(expected.backward(np.ones((2, 23, 5)))).items():
        np.testing.assert_array_equal(gradients[name], value)


def test_an_incomplete_backend_cannot_be_made():
    class Half(blocksim.Backend):
        name = "half"

    with pytest.raises(TypeError, match="block_adjoint"):
        Half()


def test_auto_takes_the_fastest_that_is_ready_and_says_so():
    run = blocksim.simulate(blocksim.Layer(blocksim.LIF(0.9)), np.ones((3, 1)), "auto")
    assert blocksim.available_backends()[run.backend] == "ready"
    assert run.backend in ("cupy", "numba")


def test_fused_and_composed_are_the_same(backend):
    """The composed engine runs block_forward and block_adjoint; held to the fused one of the same backend."""
    fused = make_engine(backend.name.removesuffix("-composed"))
    for gradient in ("standard", "paper"):
        case = make_case(2, steps=47, neurons=9, recurrent=True, refractory=(3, 6), extra_latency=2)
        rng = np.random.default_rng(0)
        g = rng.normal(size=(2, 47, 9))
        runs = [case.simulate(each, tape=True, gradient=gradient, detach=()) for each in (backend, fused)]
        assert_same_run(*runs)
        one, other = (gradient_arrays(run.backward(g, g)) for run in runs)
        for name in other:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-11, atol=1e-11, err_msg=name)
