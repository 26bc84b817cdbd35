"""Training: steps as by hand, shares that add up, resumption bit for bit, Ctrl-C, early stopping, flat memory."""

from __future__ import annotations

import csv
import math
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import blocksim
from blocksim import ArgumentError
from blocksim.data import Augmentation, from_lists
from blocksim.losses import cross_entropy, mean_squared_count, rate_penalty, van_rossum
from blocksim.models import load_model, load_network
from blocksim.optimisers import SGD, AdamW
from blocksim.training import BatchLoss, RatePenalty, Training, Variations, _trainer, evaluate, fit
from blocksim.training._objective import Share
from blocksim.training._runners import LocalRunner
from blocksim.training._samples import ArraySamples, held_out
from blocksim.training.experiment import Experiment, grid_of
from blocksim.transforms import Bounded, Decay

from .helpers import assert_refused, threads
from .training_tasks import CLASSES, STEPS, network, task, training

# of spikes, but not of wall clocks
NUMBERS = ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "rate_0", "rate_1", "learning_rate",
           "gradient_norm")  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Samples as small as these are no work for several threads, which would wait for each other."""
    with threads(blocksim.get_backend("numba"), 1):
        yield


def train(net=None, data=None, choices=None, **options):
    options = {"backend": "numpy", "progress": False} | options
    return fit(net or network(), data or task(), choices or training(), **options)


def assert_same_network(got, expected):
    got, expected = got.parameters(), expected.parameters()
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].tobytes() == value.tobytes(), name


def assert_same_training(got, expected):
    assert_same_network(got.network, expected.network)
    assert_same_network(got.last, expected.last)
    assert got.best_epoch == expected.best_epoch
    for name in NUMBERS:
        np.testing.assert_array_equal(got.history[name], expected.history[name])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("leaky", [True, False])
def test_it_learns(backend, leaky):
    choices = training(epochs=12, validation=0, optimiser=AdamW(0.03), loss="cross_entropy")
    trained = train(network(leaky=leaky), choices=choices, backend=backend)
    assert trained.history["accuracy"][0] < 0.8
    assert trained.history["accuracy"][-1] > 0.95
    assert trained.history["loss"][-1] < 0.6 * trained.history["loss"][0]
    unseen = task(60, seed=9)
    result = evaluate(trained.network, unseen, backend=backend)
    assert result.accuracy > 0.9
    assert result.confusion.sum() == 60
    assert result.confusion.trace() == round(60 * result.accuracy)
    assert evaluate(network(leaky=leaky), unseen, backend=backend).accuracy < 0.8


def test_a_step_is_that_made_by_hand():
    x, labels = task(7)
    net = network(np.float64)
    choices = training(
        epochs=1, batch_size=7, validation=0, optimiser=SGD(0.5), schedule="constant", clip_norm=None,
        trained=("*.weights", "*.recurrent", "*.bias", "layers.0.beta", "layers.1.beta"),
        transforms={"layers.0.beta": Bounded(0.5, 0.99), "*.weights": Bounded(-3, 3)}, label_smoothing=0.1,
    )  # fmt: skip
    trained = train(net, (x, labels), choices, backend="numba")
    run = blocksim.simulate(net, x, "numba", tape=True)
    loss = cross_entropy(run.output, labels, label_smoothing=0.1)
    gradients = run.backward(loss.gradient).parameters()
    assert trained.history["loss"][0] == pytest.approx(loss.value, rel=1e-12)
    after, before = trained.last.parameters(), net.parameters()
    for name in before:
        transform = {"layers.0.beta": Bounded(0.5, 0.99), "layers.1.beta": Decay(0.5, 1e4)}.get(name)
        if name.endswith("weights"):
            transform = Bounded(-3, 3)
        if name.rpartition(".")[2] in ("p", "b", "theta") or name == "readout.beta":
            expected = before[name]
        elif transform is None:
            expected = before[name] - 0.5 * gradients[name]
        else:
            free = transform.to_free(before[name])
            expected = transform.from_free(free - 0.5 * transform.pullback(free, gradients[name]))
            assert np.abs(after[name] - before[name]).max() > 0, name
        np.testing.assert_allclose(after[name], expected, rtol=1e-10, err_msg=name)


def of_batch(net, x, labels, choices):
    return LocalRunner().gradients(Share(net, x, labels, 2.0, len(labels), choices, "numba"))


PENALTIES = (
    RatePenalty(1e-3, lower=80, upper=100),
    RatePenalty(2e-3, lower=10, upper=90, over="sample", layers=(1,)),
)


def test_penalties_and_counts_are_as_by_hand():
    x, labels = task(11)
    net = network(np.float64, leaky=False)
    choices = training(loss="mean_squared_count", wanted_counts=(9, 1), penalties=PENALTIES)
    found = of_batch(net, x, labels, choices)
    run = blocksim.simulate(net, x, "numba", tape=True)
    seconds = STEPS * 2.0 / 1000
    target = np.where(np.eye(CLASSES)[labels] > 0, 9.0, 1.0)
    loss = mean_squared_count(run.output, target)
    first = [rate_penalty(counts, seconds, lower=80, upper=100) for counts in run.counts]
    second = rate_penalty(run.counts[1], seconds, lower=10, upper=90, over="sample")
    value = loss.value + 1e-3 * sum(each.value for each in first) + 2e-3 * second.value
    counts = [1e-3 * first[0].gradient, 1e-3 * first[1].gradient + 2e-3 * second.gradient]
    assert min(np.abs(each).max() for each in counts) > 0
    gradients = run.backward(loss.gradient, counts).parameters()
    assert found.loss == pytest.approx(value, rel=1e-12)
    assert found.spikes == tuple(each.sum() for each in run.counts)
    assert set(found.gradients) == {n for n in gradients if n.rpartition(".")[2] in ("weights", "recurrent", "bias")}
    for name, gradient in found.gradients.items():
        np.testing.assert_allclose(gradient, gradients[name], rtol=1e-10, atol=1e-15, err_msg=name)


def van_rossum_loss(run, labels):
    """Mean distance to a train that fires at half time in the neuron of the class."""
    spikes = run.layers[-1].spikes
    target = np.zeros(spikes.shape, bool)
    target[np.arange(len(labels)), STEPS // 2, labels] = True
    loss = van_rossum(spikes, target, tau=10, dt=2, dtype=spikes.dtype if spikes.dtype.kind == "f" else np.float64)
    return BatchLoss(loss.value / len(labels), grad_spikes=[None, loss.gradient / len(labels)])


@pytest.mark.parametrize("changes", [
    {}, {"penalties": PENALTIES}, {"penalties": PENALTIES[1:]}, {"tape": "checkpoint"}, {"gradient": "paper"},
    {"loss": van_rossum_loss},
], ids=["plain", "penalties", "over samples", "checkpoint", "paper", "callable"])  # fmt: skip
def test_shares_add_up_to_the_batch(changes):
    x, labels = task(13)
    net = network(np.float64, leaky="loss" not in changes)
    whole = of_batch(net, x, labels, training(**changes))
    for shares in (2, 20):
        parts = of_batch(net, x, labels, training(shares=shares, **changes))
        assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
        assert (parts.correct, parts.spikes) == (whole.correct, whole.spikes)
        for name, gradient in whole.gradients.items():
            assert np.abs(gradient).max() > 0
            np.testing.assert_allclose(parts.gradients[name], gradient, rtol=1e-8, atol=1e-13, err_msg=name)


def test_real_values_are_trained_on_too():
    x, labels = task(20)
    trained = train(data=(x.to_dense().astype(np.float32) * 0.9, labels, 2.0), choices=training(epochs=1))
    assert np.isfinite(trained.history["loss"]).all()


# resumption


class Killed(BaseException):
    """Stands for the end of the process."""


# four an epoch; those in later epochs with --slow, and where CI=true
@pytest.mark.parametrize("batches", [1, 4, 5, *(pytest.param(late, marks=pytest.mark.slow) for late in (8, 11))])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_resumed_training_is_the_same_bit_for_bit(tmp_path, monkeypatch, batches, where):
    backend = "numba" if batches == 5 else "numpy"
    choices = training(trained=("*.weights", "*.recurrent", "*.beta", "*.bias"), penalties=PENALTIES, shares=2)
    whole = train(choices=choices, folder=tmp_path / "whole", backend=backend)
    monkeypatch.setattr(_trainer, "CHECKPOINT_SECONDS", -1.0)  # a checkpoint after every batch
    step, count = _trainer._Loop._step, 0

    def dying(self, *arguments):
        nonlocal count
        count += 1
        if where == "before" and count == batches:
            raise Killed
        step(self, *arguments)
        if where == "after" and count == batches:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(_trainer._Loop, "_step", dying)
        with pytest.raises(Killed):
            train(choices=choices, folder=tmp_path / "cut", backend=backend)
    resumed = train(choices=choices, folder=tmp_path / "cut", resume=True, backend=backend)
    assert_same_training(resumed, whole)
    for name in ("last.npz", "best.npz"):
        assert_same_network(load_network(tmp_path / "cut" / name), load_network(tmp_path / "whole" / name))
    assert_same_network(load_network(tmp_path / "cut" / "last.npz"), whole.last)
    # once more, when there is nothing left to do
    assert_same_training(train(choices=choices, folder=tmp_path / "cut", resume=True), whole)


def test_a_kill_while_an_epoch_ends_loses_nothing(tmp_path, monkeypatch):
    whole = train()
    for name in ("save_model", "save_state"):
        real, count = getattr(_trainer, name), 0

        def dying(*arguments, real=real):
            nonlocal count
            count += 1
            if count == 2:
                raise Killed
            real(*arguments)

        folder = tmp_path / name
        with monkeypatch.context() as patched:
            patched.setattr(_trainer, name, dying)
            with pytest.raises(Killed):
                train(folder=folder)
        assert_same_training(train(folder=folder, resume=True), whole)


def test_more_epochs_and_patience_may_be_asked_for(tmp_path):
    constant = {"schedule": "constant", "patience": 50}
    whole = train(choices=training(epochs=4, **constant))
    train(choices=training(epochs=2, **constant), folder=tmp_path / "run")
    longer = training(epochs=4, schedule="constant")
    assert_same_training(train(choices=longer, folder=tmp_path / "run", resume=True), whole)


@pytest.mark.parametrize(("changed", "words"), [
    ({"choices": training(seed=1)}, ["resume:", "last.npz", "seed"]),
    ({"choices": training(epochs=9)}, ["resume:", "epochs", "schedule"]),
    ({"data": task(42)}, ["resume:", "samples", "labels"]),
    ({"net": network().with_parameters({"layers.1.beta": 0.8500001})}, ["resume:", "untrained parameters"]),
    ({"choices": training(optimiser=AdamW(0.02))}, ["resume:", "optimiser"]),
])  # fmt: skip
def test_another_training_is_not_resumed(tmp_path, changed, words):
    train(folder=tmp_path / "run")
    with pytest.raises(blocksim.ArgumentError) as error:
        train(folder=tmp_path / "run", resume=True, **changed)
    for word in words:
        assert word in str(error.value)
    with pytest.raises(blocksim.FileError, match="resume it, or choose another folder"):
        train(folder=tmp_path / "run")


SCRIPT = """
import sys
from blocksim.training import fit, _trainer
from tests.training_tasks import network, task, training
_trainer.CHECKPOINT_SECONDS = {seconds}
def tell(record):
    print("epoch", flush=True)
fit(network(), task(), training(epochs={epochs}), backend="numpy", folder={folder!r}, progress=False, callbacks=[tell],
    resume=True)
"""


def begin(folder, seconds=1e9, epochs=2000):
    script = SCRIPT.format(folder=str(folder), seconds=seconds, epochs=epochs)
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    )
    assert process.stdout.readline() == "epoch\n", process.stderr.read()
    return process


def position(folder):
    checkpoint = load_model(folder / "last.npz").info["checkpoint"]
    return checkpoint["epoch"], checkpoint["batch"]


def test_ctrl_c_keeps_the_last_state(tmp_path):
    folder = tmp_path / "run"
    process = begin(folder)
    for _ in range(3):
        before = position(folder)
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert position(folder) >= before
    assert sorted(path.name for path in folder.iterdir()) == ["best.npz", "history.csv", "last.npz"]
    compare_with_uninterrupted(folder)


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path):
    folder = tmp_path / "run"
    process = begin(folder, seconds=-1.0)
    time.sleep(0.3)
    process.kill()
    process.communicate(timeout=60)
    compare_with_uninterrupted(folder)


def compare_with_uninterrupted(folder):
    """The state left in the folder is one that an uninterrupted training passes through."""
    epoch, batch = position(folder)
    assert (epoch, batch) != (0, 0)

    class Reached(BaseException):
        pass

    choices = training(epochs=2000)
    loop = _trainer._Loop(network(), *_split(choices), choices, "numpy", None, None, False)
    loop.begin(False)
    step = loop._step

    def counted(*arguments):
        step(*arguments)
        if (loop.state.epoch, loop.state.batch) == (epoch, batch):
            raise Reached

    loop._step = counted
    try:
        while loop.state.epoch < epoch or batch:
            loop.run([lambda record: record["epoch"] == epoch])
            if not batch:
                break
    except Reached:
        pass
    state, _, _ = _trainer.load_state(folder / "last.npz")
    assert (loop.state.epoch, loop.state.batch) == (epoch, batch)
    for name, value in loop.state.free.items():
        assert state.free[name].tobytes() == value.tobytes()
    moments = state.optimiser.moments
    for moment, arrays in loop.state.optimiser.moments.items():
        for name, value in arrays.items():
            assert moments[moment][name].tobytes() == value.tobytes()
    assert state.totals.loss == loop.state.totals.loss


def _split(choices):
    samples = ArraySamples(*task())
    return held_out(samples, choices.validation, choices.validation_by, choices.seed)


# validation, stopping, callbacks


def test_the_best_epoch_is_that_of_the_held_out_samples(tmp_path):
    seen = []

    def watch(record):
        seen.append(record)

    trained = train(
        choices=training(epochs=8, optimiser=AdamW(0.2), schedule="constant"),
        folder=tmp_path / "run",
        callbacks=[watch],
    )
    accuracy, loss = trained.history["validation_accuracy"], trained.history["validation_loss"]
    best = max(range(8), key=lambda epoch: (accuracy[epoch], -loss[epoch]))
    assert trained.best_epoch == best + 1
    assert best < 7, "choose a task whose best epoch is not the last"
    model = load_model(tmp_path / "run" / "best.npz")
    assert model.info["epoch"] == best + 1
    assert_same_network(model.network, trained.network)
    _, held = held_out(ArraySamples(*task()), 0.25, "sample", 0)
    again = evaluate(trained.network, (held.x, held.labels), backend="numpy")
    assert again.accuracy == accuracy[best]
    assert again.loss == pytest.approx(loss[best], rel=1e-5)
    assert [record["epoch"] for record in seen] == list(range(1, 9))
    with (tmp_path / "run" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, column in trained.history.items():
        assert [float(row[name]) for row in rows] == column.tolist()


def test_patience_and_callbacks_stop():
    choices = training(epochs=50, optimiser=AdamW(0.2), schedule="constant", patience=3)
    trained = train(choices=choices)
    assert trained.stopped == "patience"
    assert len(trained.history["epoch"]) == trained.best_epoch + 3
    trained = train(callbacks=[lambda record: record["epoch"] == 2])
    assert trained.stopped == "callback"
    assert len(trained.history["epoch"]) == 2
    # what is not True does not stop
    assert train(callbacks=[lambda record: 1, lambda record: None]).stopped == "epochs"


def test_without_validation_the_last_network_is_returned(tmp_path):
    trained = train(choices=training(validation=0), folder=tmp_path / "run")
    assert_same_network(trained.network, trained.last)
    assert np.isnan(trained.history["validation_loss"]).all()
    assert not (tmp_path / "run" / "best.npz").exists()


def test_samples_are_held_out_by_class_or_by_group():
    labels, groups = np.repeat([0, 1, 2], [40, 20, 4]), np.arange(64) // 5 % 4
    data = from_lists([[1.0]] * 64, [[0]] * 64, labels, channels=1, groups=groups)
    for samples in (data, ArraySamples(np.ones((64, 1, 1)), labels)):
        trains, holds = held_out(samples, 0.25, "sample", 3)
        assert np.bincount(holds.labels).tolist() == [10, 5, 1]
        assert np.bincount(trains.labels).tolist() == [30, 15, 3]
    trains, holds = held_out(data, 0.25, "group", 0)
    assert len(set(holds.groups)) == 1
    assert not set(holds.groups) & set(trains.groups)
    assert held_out(data, 0.0, "sample", 0) == (data, None)


def test_variations_are_averaged():
    x, labels = task(24, 3)
    sample, step, channel = np.nonzero(x.to_dense())
    rows = [sample == number for number in range(24)]
    data = from_lists([step[row] for row in rows], [channel[row] for row in rows], labels, channels=12, steps=STEPS)
    net = network()
    plain = evaluate(net, data, backend="numpy")
    change = Augmentation(time_shift=3, channel_shift=2, drop=0.3)
    both = evaluate(net, data, variations=Variations(5, change, seed=7), backend="numpy", batch_size=5)
    # the plain figures are the plain ones, averaging or not
    assert (both.accuracy, both.passes, plain.averaged) == (plain.accuracy, 1, None)
    assert both.loss == pytest.approx(plain.loss, rel=1e-6)
    np.testing.assert_array_equal(both.confusion, plain.confusion)
    found = both.averaged
    assert found.passes == 6
    likely = np.zeros((24, 3))
    for epoch in range(6):
        varied = {"augmentation": change, "seed": 7, "epoch": epoch} if epoch else {}
        output = blocksim.simulate(net, data.batch(np.arange(24), **varied).x, "numpy").output.astype(float)
        likely += np.exp(output) / np.exp(output).sum(axis=1, keepdims=True) / 6
    np.testing.assert_array_equal(found.predicted, likely.argmax(axis=1))
    assert found.loss == pytest.approx(-np.log(likely[np.arange(24), labels]).mean(), rel=1e-6)
    assert found.loss != plain.loss
    # none, whatever the augmentation, is the plain evaluation
    none = evaluate(net, data, variations=Variations(0, change), backend="numpy")
    assert none.averaged is None
    assert (none.loss, none.rates) == (plain.loss, plain.rates)
    np.testing.assert_array_equal(none.predicted, plain.predicted)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((1,), "augmentation: expected one that changes something, for 1 rounds; found none"),
        ((1, Augmentation()), "augmentation: expected one that changes something"),
        ((1, Augmentation(blend=0.5, drop=0.1)), "augmentation: expected blend = 0, for partners are drawn by"),
        ((-1,), "rounds: expected a whole number of at least 0; found -1"),
        ((1, "drop"), "augmentation: expected a blocksim.data.Augmentation or None; found"),
    ],
)  # fmt: skip
def test_variations_that_cannot_be(settings, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        Variations(*settings)


def test_a_data_set_trains_and_is_evaluated_by_group():
    x, labels = task(24)
    sample, step, channel = np.nonzero(x.to_dense())
    rows = [sample == number for number in range(24)]
    data = from_lists(
        [step[row] * 2.0 for row in rows], [channel[row] for row in rows], labels, channels=12, dt=2.0, steps=STEPS,
        groups=np.arange(24) % 2, group_names=["anne", "bert"],
    )  # fmt: skip
    trained = train(data=data, choices=training(validation=0))
    assert_same_training(trained, train(data=(x, labels, 2.0), choices=training(validation=0)))
    result = evaluate(trained.network, data, backend="numpy")
    assert list(result.by_group) == ["anne", "bert"]
    assert np.mean(list(result.by_group.values())) == pytest.approx(result.accuracy)
    # Hz: spikes of the two layers over their neurons and 24 samples of 80 ms
    run = blocksim.simulate(trained.network, x, "numpy")
    expected = [counts.sum() / (8 * 24 * 0.08) for counts in run.counts]
    assert result.rates == pytest.approx(expected, rel=1e-6)


# what a person sees, memory, errors


def test_one_plain_line_an_epoch_without_a_terminal(capsys):
    train(progress=True)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  loss ")
    for word in ("accuracy", "validation", "rates", "Hz", "samples/s", "left"):
        assert word in lines[0]
    assert lines[2].endswith("0:00 left")
    train(progress=False)
    assert capsys.readouterr() == ("", "")


def test_memory_is_flat_over_epochs():
    sizes = []

    def measure(record):
        sizes.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        train(data=task(12), choices=training(epochs=20, penalties=PENALTIES), callbacks=[measure])
    finally:
        tracemalloc.stop()
    # the history grows by a record an epoch, and Python keeps some small objects; one potential of one batch of one
    # layer is 9 * 40 * 8 * 4 bytes
    assert (sizes[-1] - sizes[9]) / 10 < 5_000


def test_a_batch_s_tape_is_gone_before_the_next():
    peaks = []

    def measure(record):
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()

    x = np.zeros((40, 160, 12), bool)
    x[:, ::3] = True
    big = (x, np.arange(40) % 3)
    tracemalloc.start()
    try:
        for size in (40, 20):
            train(data=big, choices=training(batch_size=size, epochs=2, validation=0), callbacks=[measure])
    finally:
        tracemalloc.stop()
    one, half = peaks[1], peaks[3]
    # two tapes of half a batch would be as much as one of a whole
    assert half < 0.75 * one


def test_a_diverging_training_ends_with_the_reason(tmp_path):
    def loss(run, labels):
        found = cross_entropy(run.output, labels)
        return BatchLoss(math.nan if labels.size < 10 else found.value, found.gradient)

    with pytest.raises(blocksim.DivergenceError) as error:
        train(choices=training(loss=loss), folder=tmp_path / "run")
    for word in ("epoch 1, batch 4", "nan", "learning rate", "last.npz"):
        assert word in str(error.value)


X, LABELS = task(12)
COMMON = Experiment("a.h5", "out")


@pytest.mark.parametrize(("call", "words"), [
    (lambda: fit(network().layers[0], (X, LABELS)), ["network:", "Network", "Layer"]),
    (lambda: fit(network(), (X, LABELS), {"epochs": 3}), ["training:", "epochs"]),
    (lambda: fit(network(), X), ["data:", "(x, labels)", "Events"]),
    (lambda: fit(network(), (X, LABELS[:5])), ["labels:", "length 12", "(5,)"]),
    (lambda: fit(network(), (X, LABELS + 1)), ["data:", "0 to 2", "found 3"]),
    (lambda: fit(network(), (X.to_dense()[:, :, :5], LABELS)), ["data:", "12 channels", "found 5"]),
    (lambda: fit(network(), (X, LABELS), validation=(X, LABELS, 5.0)), ["validation:", "dt = 1 ms", "5 ms"]),
    (lambda: fit(network(), (X, LABELS), Training(validation_by="group")), ["validation:", "groups", "arrays"]),
    (lambda: fit(network(), (X, LABELS), Training(loss="mean_squared_count")), ["loss:", "CountReadout"]),
    (lambda: fit(network(), (X, LABELS), Training(trained="layers.7.weights")), ["trained:", "layers.7.weights"]),
    (lambda: fit(network(), (X, LABELS), Training(trained="*.q")), ["trained:", "*.q"]),
    (lambda: fit(network(), (X, LABELS), Training(penalties=RatePenalty(1, layers=(2,)))), ["layers from 0 to 1"]),
    (lambda: fit(network(), (X, LABELS), Training(trained="*.beta", transforms={"*.beta": Decay(1, 2)})),
     ["layers.0.beta:", "bounds", "9.49"]),
    (lambda: fit(network(), (X, LABELS), backend="abacus"), ["backend:", "abacus"]),
    (lambda: fit(network(), (X, LABELS), resume=True), ["resume:", "folder"]),
    (lambda: fit(network(), (X, LABELS), Training(loss=lambda run, labels: 1.0)), ["loss:", "BatchLoss", "float"]),
    (lambda: Training(epochs=0), ["epochs:", "at least 1"]),
    (lambda: Training(loss="mse"), ["loss:", "'cross_entropy'", "'mse'"]),
    (lambda: Training(validation=1.0), ["validation:", "below 1"]),
    (lambda: Training(optimiser="adam"), ["optimiser:", "blocksim.optimisers", "adam"]),
    (lambda: Training(schedule="linear"), ["schedule:", "'cosine'"]),
    (lambda: Training(penalties=[3]), ["penalties:", "RatePenalty", "3"]),
    (lambda: Training(transforms={"*.beta": 3}), ["transforms:", "*.beta", "3"]),
    (lambda: RatePenalty(1, lower=5, upper=2), ["upper:", "at least 5"]),
    (lambda: evaluate(network(), (X, LABELS + 1)), ["data:", "0 to 2"]),
    (lambda: grid_of({"path": "a.h5"}), ["experiment:", "Experiment", "a.h5"]),
    (lambda: grid_of(COMMON, seeds=1.5), ["seeds:", "whole number", "1.5"]),
    (lambda: grid_of(COMMON, seeds=0), ["seeds:", "at least 1", "0"]),
    (lambda: grid_of(COMMON, methods=["blocks"]), ["axes:", "refractory, method, gradient", "did you mean 'method'"]),
    (lambda: grid_of(COMMON, method="blocks"), ["method:", "a sequence of values", "'blocks'"]),
    (lambda: grid_of(COMMON, method=["abacus"]), ["method:", "'blocks'", "abacus"]),
    (lambda: grid_of(COMMON, refractory=["x"]), ["refractory:", "ms", "'x'"]),
    (lambda: grid_of(COMMON, refractory=[20, -1]), ["refractory:", "at least 0", "-1"]),
])  # fmt: skip
def test_wrong_input_is_named(call, words):
    assert_refused(call, words)


def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path):
    with pytest.raises(blocksim.FileError, match="expected a folder to write to"):
        train(folder=tmp_path / "no" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(blocksim.FileError, match="found a file"):
        train(folder=tmp_path / "file")


def test_no_files_are_left_half_written(tmp_path):
    train(folder=tmp_path / "run")
    assert not [path for path in (tmp_path / "run").iterdir() if ".part" in path.name]
    assert os.listdir(tmp_path) == ["run"]
