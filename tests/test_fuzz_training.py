"""Random wrong arguments to training and evaluation: an error of ours, of one line, or success; nothing foreign."""

from __future__ import annotations

import contextlib
import math
import warnings

import numpy as np
import pytest

import blocksim
from blocksim.data import Augmentation, from_lists
from blocksim.optimisers import SGD, Adam, AdamW, clip_by_norm
from blocksim.schedules import Cosine
from blocksim.training import RatePenalty, Training, Variations, evaluate, fit
from blocksim.transforms import Bounded, Positive

from .training_tasks import network, task

CASES, SEED = 1200, 16
ODD = [
    None, True, False, 0, 1, -1, 2, 3, 2**31, 2**70, 0.0, -0.0, 0.5, 1.0, 1e-300, 1e300, -3.5, math.nan, math.inf,
    -math.inf, "", "cosine", "all", "*.weights", "\n", "a\nb", b"x", 1j, (), (1,), (1, 2), (0.1, "x"), [], [3], [[1]],
    {}, {"a": 1}, {1, 2}, object(), int, len, lambda *_: 1.0, slice(3), range(3), np.float32(0.5), np.float64("nan"),
    np.int8(3), np.bool_(True), np.zeros(0), np.zeros(3), np.zeros((2, 3)), np.array(2), np.array(0.5),
    np.array(["a"]), np.array([None]), np.array([1 + 2j]), np.ma.masked_array([1.0, 2.0], [True, False]),
    np.datetime64(3, "s"), np.zeros((2, 3, 4)), np.full((4, 5, 12), np.nan), np.ones((4, 5, 12), bool), SGD(0.1),
    Adam(0.1), AdamW(1e30), Positive(), Bounded(0, 1), Augmentation(), Augmentation(drop=0.5), RatePenalty(1.0),
    Cosine(0.1, 5), ValueError("x"), blocksim.LIF(beta=0.5), np.dtype("f4"), "numpy", "nowhere", Ellipsis,
]  # fmt: skip
TRAINING = tuple(Training.__dataclass_fields__)
SMALL = {"epochs": 1, "batch_size": 6, "validation": 0.25}


def small_set():
    rng = np.random.default_rng(0)
    return from_lists(
        [np.sort(rng.uniform(0, 20, 30)) for _ in range(12)], [rng.integers(0, 12, 30) for _ in range(12)],
        np.arange(12) % 3, channels=12, dt=1.0, steps=20,
    )  # fmt: skip


def calls(rng, folder):
    """One call with one to three odd arguments."""
    odd = lambda: ODD[rng.integers(len(ODD))]  # noqa: E731
    some = lambda names: {names[at]: odd() for at in rng.choice(len(names), rng.integers(1, 4), replace=False)}  # noqa: E731
    x, labels = task(12)
    good = (x, labels, 1.0)
    kind = rng.integers(9)
    if kind == 0:
        return lambda: Training(**some(TRAINING))
    if kind == 1:
        return lambda: fit(network(), good, Training(**SMALL | some(TRAINING)), backend="numpy", progress=False)
    if kind == 2:
        arguments = {"network": network(), "data": good, "training": Training(**SMALL), "backend": "numpy"}
        names = [*arguments, "validation", "resume", "info", "callbacks", "dask"]
        return lambda: fit(**arguments | {"progress": False} | some(names))
    if kind == 3:
        data = [x, labels, 1.0]
        data[rng.integers(3)] = odd()
        part = tuple(data) if rng.random() < 0.7 else data[: rng.integers(0, 3)]
        return lambda: fit(network(), part, Training(**SMALL), backend="numpy", progress=False)
    if kind == 4:
        arguments = {"network": network(), "data": good if rng.random() < 0.5 else small_set(), "backend": "numpy"}
        return lambda: evaluate(**arguments | some([*arguments, "variations", "method", "batch_size"]))
    if kind == 5:
        return lambda: Variations(**some(["rounds", "augmentation", "seed"]))
    if kind == 6:
        return lambda: RatePenalty(**{"strength": 1.0} | some(["strength", "lower", "upper", "layers", "over"]))
    if kind == 7:
        types = {SGD: ["learning_rate", "momentum", "nesterov", "weight_decay", "decayed"],
                 Adam: ["learning_rate", "beta1", "beta2", "epsilon"],
                 AdamW: ["learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "decayed"]}  # fmt: skip
        made = list(types)[rng.integers(3)]

        def steps():
            optimiser = made(**some(types[made]))
            parameters, gradients = {"w": np.ones(3)}, {"w": np.ones(3)}
            state = optimiser.start(odd() if rng.random() < 0.2 else parameters)
            optimiser.step(parameters, odd() if rng.random() < 0.3 else gradients, state)
            clip_by_norm(gradients, odd())

        return steps
    place = folder / "run" if rng.random() < 0.5 else odd()
    return lambda: fit(
        network(), good, Training(**SMALL), backend="numpy", progress=False, folder=place, resume=odd(), info=odd()
    )


@pytest.mark.slow
def test_wrong_arguments_are_one_line_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused, foreign = 0, {}
    for case in range(CASES):
        rng = np.random.default_rng([SEED, case])
        folder = tmp_path / str(case)
        folder.mkdir()
        call = calls(rng, folder)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(None):
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", blocksim.BlocksimWarning)
                call()
        except blocksim.BlocksimError as error:
            refused += 1
            if "\n" in str(error):
                foreign.setdefault(f"several lines: {error}", case)
        except Exception as error:
            place = error.__traceback__
            while place.tb_next is not None:
                place = place.tb_next
            where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
            foreign.setdefault(f"{type(error).__name__}: {error} ({where})", case)
    assert not foreign, "\n".join(f"case {case}: {what}" for what, case in foreign.items())
    assert CASES // 2 < refused < CASES
