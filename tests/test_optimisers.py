"""Optimisers, schedules and clipping, against reference values; independence of stacked fits; exact resumption.

The numbers in TORCH, COSINE, MILESTONES and CLIPPED are those of PyTorch 2.13.0 (CPU, float64): torch.optim's SGD,
Adam and AdamW over twenty steps from START with the gradient `slope(n) + x`, after the first step and the last;
CosineAnnealingLR(T_max=10, eta_min=0.03) and MultiStepLR([3, 5], 0.2) on a rate of 0.3; clip_grad_norm_(.., 2).
"""

from __future__ import annotations

import io
import math
import pickle

import numpy as np
import pytest

from blocksim.optimisers import SGD, Adam, AdamW, OptimiserState, clip_by_norm
from blocksim.schedules import Constant, Cosine, Milestones

from .helpers import assert_refused

START = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -0.25]])
TORCH = {
    "sgd": (SGD(0.1), [
        [[0.95, -1.781, 0.438], [-0.1, 2.65, -0.25833333333333336]],
        [[0.13597303700149416, -0.26031588924714794, 0.065323852578343],
         [-0.09441740393104626, 0.2871500609309183, -0.09868269802027892]]]),
    "momentum": (SGD(0.1, momentum=0.9), [
        [[0.95, -1.781, 0.438], [-0.1, 2.65, -0.25833333333333336]],
        [[0.3210816324977749, -0.7684324749176739, 0.17354776663890167],
         [0.050945727626209705, 1.071430257122104, -0.05987014334957767]]]),
    "nesterov, decay": (SGD(0.05, momentum=0.8, nesterov=True, weight_decay=0.1), [
        [[0.946, -1.7849, 0.4397], [-0.09000000000000001, 2.658, -0.25525]],
        [[-0.05196059904491468, 0.0667830425594254, -0.016983265095605122],
         [-0.03409957198733858, -0.17809474140999704, -0.032200908393602186]]]),
    "adam": (Adam(0.02), [
        [[0.9800000004, -1.9800000000913243, 0.4800000003225806],
         [-0.019999999800000005, 2.9800000000571427, -0.26999999760000026]],
        [[0.6296773419395795, -1.609587797650472, 0.18819839117886572],
         [-0.15788159326661583, 2.60732481931792, -0.014919542457198775]]]),
    "adam, other betas": (Adam(0.02, 0.8, 0.95, 1e-3), [
        [[0.9800399201596807, -1.9800091282519396, 0.48003220611916264],
         [-0.019980019980019983, 2.9800057126535275, -0.26976284584980237]],
        [[0.63328731761133, -1.6118097083808247, 0.1992147637145251],
         [-0.11617896395718086, 2.609510228830387, -0.026706052383197922]]]),
    "adamw": (AdamW(0.03, weight_decay=0.2), [
        [[0.9640000006, -1.9580000001369864, 0.46700000048387097],
         [-0.029999999700000005, 2.9520000000857145, -0.27849999640000045]],
        [[0.3830674820228992, -1.2306810493290328, 0.04725639144159748],
         [-0.16812933483906548, 2.11159695032552, 0.004985438573438153]]]),
}  # fmt: skip
COSINE = [
    0.3, 0.2933926296998458, 0.2742172942406179, 0.2443510090594839, 0.2067172942406179, 0.165, 0.12328270575938212,
    0.08564899094051615, 0.055782705759382115, 0.03660737030015428, 0.03,
]  # fmt: skip
MILESTONES = [0.3, 0.3, 0.3, 0.06, 0.06, 0.012, 0.012]
CLIPPED = {
    "a": [[1.0733124371999332, -0.35777081239997777], [0.7155416247999555, 0.17888540619998888]],
    "b": [0.35777081239997777, -1.431083249599911],
}


def slope(n):
    return np.array(
        [[0.1 * ((7 * n + 3 * i) % 11) - 0.5 + 0.01 * i for i in range(3)], [1.0 / (1 + n + i) for i in range(3)]]
    )


def optimise(optimiser, steps, parameters=None, state=None, first=0):
    """Steps with the gradient of the reference; every array handed in is read-only."""
    parameters = {"weights": START.copy()} if parameters is None else parameters
    state = optimiser.start(parameters) if state is None else state
    for n in range(first, first + steps):
        gradients = {name: (slope(n) + value).astype(value.dtype) for name, value in parameters.items()}
        for arrays in (parameters, gradients, *state.moments.values()):
            for array in arrays.values():
                array.flags.writeable = False
        parameters, state = optimiser.step(parameters, gradients, state)
    return parameters, state


@pytest.mark.parametrize("name", TORCH)
def test_steps_are_those_of_the_reference(name):
    optimiser, (first, last) = TORCH[name]
    np.testing.assert_allclose(optimise(optimiser, 1)[0]["weights"], first, rtol=1e-13)
    parameters, state = optimise(optimiser, 20)
    np.testing.assert_allclose(parameters["weights"], last, rtol=1e-12)
    assert state.step == 20


def test_schedules_are_those_of_the_reference():
    np.testing.assert_allclose([Cosine(0.3, 10, final=0.03)(n) for n in range(11)], COSINE, rtol=1e-12)
    assert Cosine(0.3, 10, final=0.03)(1000) == 0.03
    np.testing.assert_allclose([Milestones(0.3, (3, 5), 0.2)(n) for n in range(7)], MILESTONES, rtol=1e-12)
    assert Constant(0.3)(99) == 0.3
    warm = Cosine(0.4, 14, warmup=4)
    assert [warm(n) for n in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert warm(4) == 0.4
    assert warm(9) == pytest.approx(0.2)
    assert warm(14) == 0


def test_an_optimiser_follows_its_schedule():
    optimiser = SGD(Milestones(1.0, (1,), 0.5))
    parameters, state = {"w": np.zeros(1)}, optimiser.start({"w": np.zeros(1)})
    path = []
    for _ in range(3):
        parameters, state = optimiser.step(parameters, {"w": np.ones(1)}, state)
        path.append(float(parameters["w"][0]))
    assert path == [-1.0, -1.5, -2.0]


@pytest.mark.parametrize("optimiser", [SGD(0.1, momentum=0.9), Adam(0.1), AdamW(0.1)], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stored_and_resumed_is_the_same_bit_for_bit(optimiser, dtype):
    start = {"weights": START.astype(dtype), "beta": np.full((2, 3), 0.9, dtype)}
    whole, state = optimise(optimiser, 9, start)
    half, between = optimise(optimiser, 4, start)
    buffer = io.BytesIO()
    np.savez(buffer, **between.to_arrays())
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as arrays:
        restored = OptimiserState.from_arrays(arrays)
    resumed, after = optimise(pickle.loads(pickle.dumps(optimiser)), 5, half, restored, first=4)
    assert after.step == state.step == 9
    for name in start:
        assert resumed[name].dtype == dtype
        assert resumed[name].tobytes() == whole[name].tobytes()
        assert [after.moments[m][name].tobytes() for m in after.moments] == [
            state.moments[m][name].tobytes() for m in state.moments
        ]


def test_only_named_parameters_decay():
    names = ["layers.0.weights", "layers.1.recurrent", "readout.weights", "weights", "layers.0.beta", "layers.0.bias"]
    ones = {name: np.ones(2) for name in names}
    none = {name: np.zeros(2) for name in names}
    for optimiser in (AdamW(0.1, weight_decay=0.5), SGD(0.1, weight_decay=0.5)):
        after, _ = optimiser.step(ones, none, optimiser.start(ones))
        assert [float(after[name][0]) for name in names] == pytest.approx([0.95] * 4 + [1.0] * 2)
    some = AdamW(0.1, weight_decay=0.5, decayed=("*.bias",))
    after, _ = some.step(ones, none, some.start(ones))
    assert [float(after[name][0]) for name in names] == pytest.approx([1.0] * 5 + [0.95])


def test_plain_numbers_and_arrays_without_axes_are_optimised():
    parameters = {"beta": 0.9, "p": np.array(0.5, np.float32)}
    optimiser = Adam(0.1)
    after, state = optimiser.step(parameters, {"beta": 1.0, "p": -1.0}, optimiser.start(parameters))
    assert after["beta"] == pytest.approx(0.8)
    assert after["p"] == pytest.approx(0.6)
    assert after["p"].dtype == np.float32
    assert state.moments["first"]["beta"].shape == ()


def test_stacked_fits_do_not_know_of_each_other():
    optimiser = AdamW(0.1)
    rng = np.random.default_rng(0)
    start = {"weights": rng.normal(size=(4, 3, 5)), "bias": rng.normal(size=5)}
    slopes = [{name: rng.normal(size=array.shape) for name, array in start.items()} for _ in range(6)]
    slopes[2]["weights"][0, 0, 1] = np.nan
    slopes[3]["bias"][4] = 1e200

    def run(columns):
        parameters = {name: array[..., columns] for name, array in start.items()}
        state = optimiser.start(parameters)
        for gradients in slopes:
            clipped = clip_by_norm({name: g[..., columns] for name, g in gradients.items()}, 0.7, columns=True)
            parameters, state = optimiser.step(parameters, clipped.gradients, state)
        return parameters

    together = run(slice(None))
    for column in range(5):
        alone = run(slice(column, column + 1))
        for name in start:
            np.testing.assert_array_equal(together[name][..., column], alone[name][..., 0])
    assert np.isnan(together["weights"][0, 0, 1])
    assert np.isnan(together["weights"]).sum() == 1


def test_clipping_is_that_of_the_reference():
    gradients = {"a": np.array([[3.0, -1.0], [2.0, 0.5]]), "b": np.array([1.0, -4.0])}
    clipped = clip_by_norm(gradients, 2.0)
    assert clipped.norm == pytest.approx(math.sqrt(31.25))
    for name, expected in CLIPPED.items():
        # the reference divides by the norm + 1e-6
        np.testing.assert_allclose(clipped.gradients[name], expected, rtol=3e-7)
    below = clip_by_norm(gradients, 6.0)
    for name, array in gradients.items():
        np.testing.assert_array_equal(below.gradients[name], array)


def test_clipping_by_columns():
    gradients = {"a": np.array([[3.0, 0.3, 1.0], [0.0, 0.0, np.inf]], np.float32), "b": np.array([4.0, 0.4, 2.0])}
    clipped = clip_by_norm(gradients, 1.0, columns=True)
    np.testing.assert_allclose(clipped.gradients["a"], [[0.6, 0.3, 1.0], [0.0, 0.0, np.inf]], rtol=1e-6)
    np.testing.assert_allclose(clipped.gradients["b"], [0.8, 0.4, 2.0])
    np.testing.assert_allclose(clipped.norm, [5.0, 0.5, np.nan], rtol=1e-6)
    assert clipped.gradients["a"].dtype == np.float32


W = {"w": np.ones(2)}


@pytest.mark.parametrize(("call", "words"), [
    (lambda: SGD(0), ["learning_rate:", "above 0", "found 0"]),
    (lambda: SGD(0.1, momentum=1), ["momentum:", "below 1", "found 1"]),
    (lambda: SGD(0.1, nesterov=True), ["nesterov:", "momentum"]),
    (lambda: Adam(0.1, beta2=1.5), ["beta2:", "below 1", "1.5"]),
    (lambda: Adam(0.1, epsilon=0), ["epsilon:", "above 0"]),
    (lambda: AdamW(0.1, weight_decay=-1), ["weight_decay:", "at least 0", "-1"]),
    (lambda: Adam("fast"), ["learning_rate:", "'fast'"]),
    (lambda: Adam().start([1.0]), ["parameters:", "dictionary", "[1.0]"]),
    (lambda: Adam().start({"w": np.arange(3)}), ["parameters:", "floating", "w", "int64"]),
    (lambda: Adam().step(W, {"v": np.ones(2)}, Adam().start(W)), ["gradients:", "each of w", "found v"]),
    (lambda: Adam().step(W, {"w": np.ones(3)}, Adam().start(W)), ["gradients:", "(2,)", "(3,)"]),
    (lambda: Adam().step(W, W, SGD().start(W)), ["state:", "Adam", "momentum"]),
    (lambda: Adam().step(W, W, Adam().start({"v": np.ones(2)})), ["state:", "v (2,)"]),
    (lambda: OptimiserState.from_arrays({"w": np.ones(1)}), ["arrays:", "optimiser", "w"]),
    (lambda: clip_by_norm(W, 0), ["limit:", "above 0"]),
    (lambda: clip_by_norm({"w": np.array([1.0, np.nan])}, 1), ["gradients['w']:", "finite", "nan"]),
    (lambda: clip_by_norm({"a": np.ones(2), "b": np.ones(3)}, 1, columns=True), ["last axes", "a (2,)", "b (3,)"]),
    (lambda: clip_by_norm({"a": np.ones(2), "b": 1.0}, 1, columns=True), ["last axes", "b ()"]),
    (lambda: Cosine(0.1, 5, warmup=5), ["warmup:", "fewer", "5"]),
    (lambda: Cosine(0.1, 0), ["steps:", "at least 1"]),
    (lambda: Milestones(0.1, (5, 5)), ["steps:", "ascending"]),
    (lambda: Milestones(0.1, 5), ["steps:", "sequence"]),
    (lambda: Constant(float("nan")), ["rate:", "finite", "nan"]),
])  # fmt: skip
def test_wrong_input_is_named(call, words):
    assert_refused(call, words)


def test_clipping_survives_squares_that_overflow():
    gradients = {"a": np.array([3e200, 0.0]), "b": np.array([0.0, 4e200])}
    clipped = clip_by_norm(gradients, 1.0)
    assert clipped.norm == pytest.approx(5e200)
    np.testing.assert_allclose(clipped.gradients["a"], [0.6, 0.0])
    assert clip_by_norm({"a": np.zeros(3)}, 1.0).norm == 0
