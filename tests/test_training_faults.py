"""What breaks a training, and what is said of it: divergence, another step, silence, damaged states, folders in use."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import pytest

import blocksim
from blocksim import ArgumentError, BlocksimWarning, DivergenceError, ExecutorError, FileError
from blocksim.data import Augmentation, from_lists, write_events
from blocksim.initialisers import make_network
from blocksim.losses import cross_entropy
from blocksim.models import load_model, load_network, save_model
from blocksim.optimisers import SGD, Adam, AdamW
from blocksim.training import BatchLoss, RatePenalty, _trainer, evaluate, fit
from blocksim.training._state import load_state
from blocksim.training.experiment import experiment_of, run_experiment
from blocksim.transforms import Bounded

from .training_tasks import STEPS, network, task, training


def train(net=None, data=None, choices=None, **options):
    options = {"backend": "numpy", "progress": False} | options
    return fit(net or network(), data or task(), choices or training(), **options)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# divergence

EVERYTHING = ("*.weights", "*.recurrent", "*.bias", "*.beta", "*.p", "*.b", "*.theta")


@pytest.mark.parametrize("rate", [1e6, 1e20, 1e38])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (AdamW, {}),
        (AdamW, {"validation": 0, "shares": 3}),
        (Adam, {"trained": EVERYTHING}),
        (Adam, {"trained": EVERYTHING, "transforms": {"*": Bounded(-1e300, 1e300)}}),
        (SGD, {"clip_norm": None}),
        (AdamW, {"penalties": (RatePenalty(1e30, lower=80, upper=100), RatePenalty(1e30, upper=1, over="sample"))}),
        (AdamW, {"tape": "checkpoint", "gradient": "paper"}),
    ],
    ids=["plain", "shares", "all parameters", "bounded", "SGD", "penalties", "checkpoint"],
)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_divergence_is_told_where_it_is_met(rate, kind, changes, backend):
    """Under warnings that are errors: none of NumPy's escapes."""
    net = network()
    if "transforms" in changes:
        changes = {**changes, "trained": ("*.weights", "*.recurrent", "*.bias")}
    choices = training(epochs=8, optimiser=kind(rate), schedule="constant", **changes)
    told, trained = "", None
    try:
        trained = train(net, choices=choices, backend=backend)
    except DivergenceError as error:
        told = str(error)
    if trained is not None:  # Adam's steps are of the learning rate's size, and a float32 takes some
        assert all(np.isfinite(value).all() for value in trained.last.parameters().values())
        assert rate == 1e6 or kind is not AdamW
        return
    assert re.match(r"epoch \d, batch \d, learning rate 1e\+\d+: ", told)
    assert "lower the learning rate" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("value", "loss: expected finite numbers; found nan"),
        ("gradient", "gradient of the output: expected finite numbers; found nan"),
    ],
)
def test_a_loss_of_one_s_own_that_diverges(tmp_path, what, words):
    def loss(run, labels):
        found = cross_entropy(run.output, labels)
        bad = {what: np.log(np.float64(-1.0))} if labels.size < 10 else {}  # a warning of NumPy's, too
        return BatchLoss(found.value + bad.get("value", 0), found.gradient + np.float32(bad.get("gradient", 0)))

    before = network().parameters()
    with pytest.raises(DivergenceError) as error:
        train(choices=training(loss=loss, epochs=2), folder=tmp_path / "run")
    line = one_line(error)
    assert line.startswith("epoch 1, batch 4, learning rate 0.")
    assert words in line
    assert line.endswith(f"no checkpoint yet in {tmp_path / 'run' / 'last.npz'})")
    for name, value in before.items():
        np.testing.assert_array_equal(network().parameters()[name], value)


def test_the_last_good_state_is_kept(tmp_path):
    count = 0

    def loss(run, labels):
        nonlocal count
        count += labels.size > 9
        found = cross_entropy(run.output, labels)
        return BatchLoss(math.inf if count > 9 else found.value, found.gradient)

    folder = tmp_path / "run"
    # 36 samples train in four batches an epoch, 12 are scored in two: three and one of them are of ten samples
    with pytest.raises(DivergenceError, match="epoch 3, batch 2") as error:
        train(choices=training(loss=loss, epochs=4, schedule="constant"), folder=folder)
    assert one_line(error).endswith(f"the last checkpoint is {folder / 'last.npz'})")
    whole = train(choices=training(epochs=2, schedule="constant"))
    for name, value in load_network(folder / "last.npz").parameters().items():
        np.testing.assert_array_equal(value, whole.last.parameters()[name])
    assert sorted(path.name for path in folder.iterdir()) == ["best.npz", "history.csv", "last.npz"]


def test_validation_that_diverges_is_told():
    def loss(run, labels):
        found = cross_entropy(run.output, labels)
        return BatchLoss(math.nan if labels.size == 2 else found.value, found.gradient)

    with pytest.raises(DivergenceError, match=r"epoch 1, batch 4.*validation loss: expected finite numbers; found nan"):
        train(choices=training(loss=loss))


def test_an_evaluation_of_a_diverged_network_names_it():
    net = network()
    huge = {name: np.full_like(net.parameters()[name], 3e38) for name in ("layers.0.weights", "readout.weights")}
    with pytest.raises(ArgumentError, match="network: expected one whose outputs are finite; found, from") as error:
        evaluate(net.with_parameters(huge), task(), backend="numpy")
    one_line(error)


# another step, other binning


def samples(dt=1.0, **binning):
    x, labels = task()
    sample, step, channel = np.nonzero(x.to_dense())
    rows = [sample == number for number in range(len(labels))]
    return from_lists(
        [step[row] * dt for row in rows], [channel[row] for row in rows], labels, channels=12, dt=dt, steps=STEPS,
        **binning,
    )  # fmt: skip


def test_another_step_is_refused(tmp_path):
    data, other = samples(2.0), samples(1.0)
    net = train(data=data, folder=tmp_path / "run").network
    assert net.dt == 2.0
    for name in ("best.npz", "last.npz"):
        stored = load_network(tmp_path / "run" / name)
        assert stored.dt == 2.0
        for refused in (other, (*task(), 1.0)):
            with pytest.raises(ArgumentError) as error:
                evaluate(stored, refused, backend="numpy")
            assert one_line(error).startswith("data: expected dt = 2 ms, which the network was made or trained for; ")
            assert "found 1 ms" in str(error.value)
    with pytest.raises(ArgumentError, match="data: expected dt = 2 ms"):
        train(net, other)
    # where no step is said, it is the network's; and whoever says that it fits is believed
    assert evaluate(net, task(), backend="numpy").rates == evaluate(net, (*task(), 2.0), backend="numpy").rates
    assert (
        evaluate(replace(net, dt=1.0), other, backend="numpy").accuracy == evaluate(net, data, backend="numpy").accuracy
    )
    with pytest.raises(ArgumentError, match=r"dt: expected a time in ms above 0; found -1"):
        replace(net, dt=-1.0)
    # one made for a step knows it from the first
    made = make_network(12, [4], 3, dt=2, refractory=4)
    with pytest.raises(ArgumentError, match=r"data: expected dt = 2 ms.*found 1 ms"):
        train(made, other)


def test_a_network_without_a_step_takes_any():
    for dt in (1.0, 2.0):
        evaluate(network(), samples(dt), backend="numpy")


def test_old_model_files_still_load(tmp_path, monkeypatch):
    """Written without the step: it is that of the samples, where training said it, or not known."""
    real = blocksim.models.write_container

    def as_before(path, kind, version, meta, arrays):
        real(path, kind, version, {name: value for name, value in meta.items() if name != "dt"}, arrays)

    monkeypatch.setattr(blocksim.models, "write_container", as_before)
    for info, dt in ((None, None), ({"data": None}, None), ({"data": {"dt": 2.5}}, 2.5), ({"dt": 3.0}, None)):
        save_model(tmp_path / "old.npz", replace(network(), dt=7.0), info)
        assert load_network(tmp_path / "old.npz").dt == dt


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip": True}, "clip = False, as the model was trained on; found True"),
        ({"trim": 0.1}, "trim = None, as the model was trained on; found 0.1"),
        ({"trim": 0.0, "span": 30.0}, "trim = None, as the model was trained on; found 0.0"),
    ],
)
def test_a_model_refuses_samples_binned_in_another_way(tmp_path, change, words):
    train(data=samples(), folder=tmp_path / "run")
    model = load_model(tmp_path / "run" / "best.npz")
    assert model.info["data"] == {
        "dt": 1.0, "pool": 1, "clip": False, "trim": None, "span": None, "delays": [0.0], "duration": 40.0,
    }  # fmt: skip
    same = evaluate(model, samples(), backend="numpy")
    assert same.accuracy == evaluate(model.network, samples(), backend="numpy").accuracy
    with pytest.raises(ArgumentError) as error:
        evaluate(model, samples(**change), backend="numpy")
    assert words in one_line(error)
    evaluate(model.network, samples(**change), backend="numpy")
    with pytest.raises(ArgumentError, match=r"resume: expected the training .* found another trim|clip") as error:
        train(data=samples(**change), folder=tmp_path / "run", resume=True)
    one_line(error)


def test_delays_count_by_their_steps():
    wide = make_network(24, [4], 3, dt=2, refractory=4)
    stored = blocksim.models.Model(wide, {"data": {"dt": 2.0, "delays": [0.0, 5.0]}}, {})
    evaluate(stored, samples(2.0, delays=[0.0, 4.0]), backend="numpy")
    with pytest.raises(ArgumentError, match=r"delays = \[0.0, 5.0\], as .* found \(0.0, 8.0\)"):
        evaluate(stored, samples(2.0, delays=[0.0, 8.0]), backend="numpy")


# what is refused before anything is made


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {
                "data": (
                    np.where(np.arange(480)[:, None] == 479, np.nan, 0.0).reshape(12, 40, 1) * np.ones(12),
                    np.arange(12) % 3,
                )
            },
            "x: expected finite numbers; found nan at index (11, 39, 0)",
        ),
        (
            {"choices": training(augmentation=Augmentation(drop=0.5))},
            "augmentation: expected a blocksim.data.EventDataset",
        ),
        (
            {"info": {"a": math.nan}},
            "info: expected a dictionary of what JSON can say, numbers finite; found {'a': nan}",
        ),
        ({"info": {"a": object()}}, "info: expected a dictionary of what JSON can say"),
        ({"info": [3]}, "info: expected a dictionary of what JSON can say"),
        ({"callbacks": print}, "callbacks: expected a sequence of functions"),
        ({"resume": "yes"}, "resume: expected True or False; found 'yes'"),
        ({"dask": 3}, "dask: expected the address of a scheduler"),
    ],
)
def test_wrong_arguments_make_no_folder(tmp_path, options, words):
    if "dask" in options:
        pytest.importorskip("distributed", reason="needs the extra dask")
    with pytest.raises(ArgumentError) as error:
        train(folder=tmp_path / "run", **options)
    assert words in one_line(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folder", [3, "", "a\0b", b"run"])
def test_a_folder_is_a_path(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match="folder: expected the path of a folder, or None; found"):
        train(folder=folder)
    with pytest.raises(FileError, match="expected the path of a folder; found"):
        train(folder="x" * 300)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["{", "[" * 100_000, '{"experiment": {}}', "[1]", None])
def test_a_damaged_result_is_made_again(tmp_path, damage):
    x, labels = task(24)
    sample, step, channel = np.nonzero(x.to_dense())
    rows = [sample == number for number in range(24)]
    times, units = [step[row] * 1.0 for row in rows], [channel[row] for row in rows]
    write_events(tmp_path / "train.npz", times, units, labels, channels=12)
    config = {
        "data": {"dt": 1.0}, "network": {"hidden": [8], "refractory": 4.0, "rate": 20.0},
        "training": {"epochs": 1, "batch_size": 8},
    }  # fmt: skip
    experiment = experiment_of(config, str(tmp_path / "train.npz"), str(tmp_path / "run"), "numpy")
    first = run_experiment(experiment, progress=False)
    path = tmp_path / "run" / "result.json"
    if damage is None:  # a value of the right experiment lost
        damage = json.dumps({name: value for name, value in first.items() if name != "seconds"})
    path.write_text(damage)
    again = run_experiment(experiment, resume=True, progress=False)
    assert again == first
    assert json.loads(path.read_text()) == first


# a cluster that is lost: of a real one, in test_training_dask.py


class KilledWorker(Exception):
    """Of the name of Dask's, for a task whose workers died one after the other."""


class Cluster:
    """A client whose results end in an error."""

    def __init__(self, error, status="running"):
        self.error, self.status = error, status

    def submit(self, function, task, pure):
        return task

    def gather(self, futures):
        raise self.error

    def cancel(self, futures):
        if self.status != "running":
            raise RuntimeError("closed")


@pytest.mark.parametrize(
    ("client", "kind", "words"),
    [
        (
            Cluster(CancelledError("lost\n\nCheck it.")),
            ExecutorError,
            "connection to its scheduler lost (lost Check it.)",
        ),
        (Cluster(KilledWorker("a\nb")), ExecutorError, "each of several that were given it died"),
        (Cluster(RuntimeError("no loop"), "closed"), ExecutorError, "lost (no loop)"),
        (Cluster(RuntimeError("of a loss of one's own")), RuntimeError, "of a loss of one's own"),
        (Cluster(DivergenceError("output: found nan")), DivergenceError, "epoch 1, batch 1, learning rate"),
    ],
)
def test_a_lost_cluster_is_told_from_a_task_that_fails(tmp_path, monkeypatch, client, kind, words):
    monkeypatch.setattr(_trainer, "dask_client", lambda dask: contextlib.nullcontext(client))
    with pytest.raises(kind) as error:
        train(folder=tmp_path / "run", dask="tcp://nowhere:1")
    assert words in one_line(error)
    if kind is ExecutorError:
        assert str(error.value).endswith(f"{tmp_path / 'run'} holds the state: resume goes on")
        assert load_state(tmp_path / "run" / "last.npz")[0].batch == 0


# silence


def test_silent_layers_are_told_once():
    net = network()
    quiet = net.with_parameters({"layers.1.weights": np.zeros((8, 8), np.float32)})
    with pytest.warns(BlocksimWarning) as told:
        train(quiet, choices=training(epochs=3, trained=("readout.*",)))
    assert len(told) == 1
    line = str(told[0].message)
    assert line.startswith("epoch 1: expected spikes of every layer; found none of layer 1 in 36 samples (")
    assert "\n" not in line
    nothing = (np.zeros((12, STEPS, 12), bool), np.arange(12) % 3)
    with pytest.warns(BlocksimWarning, match="none of layer 0, 1 in 12 samples"):
        train(data=nothing, choices=training(epochs=1, validation=0))


# states


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a training after two epochs of four batches."""
    folder = tmp_path_factory.mktemp("trained")
    train(choices=training(epochs=2, schedule="constant"), folder=folder / "run")
    return folder / "run"


def state_file(trained, tmp_path, change):
    """A checkpoint, changed by a function of its info and its extra arrays."""
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "last.npz"
    model = load_model(path)
    info, extra = model.info, model.extra
    change(info["checkpoint"], extra)
    save_model(path, model.network, info, extra)
    return path


def put(name, value):
    def change(meta, extra):
        target = meta
        *path, last = name.split("/")
        for part in path:
            target = target[int(part) if part.isdigit() else part]
        target[last] = value

    change.__name__ = f"{name}={value!r}"
    return change


def array(name, function):
    def change(meta, extra):
        extra[name] = function(extra[name])

    change.__name__ = name
    return change


def lost(name):
    def change(meta, extra):
        (meta if name in meta else extra).pop(name)

    change.__name__ = f"without {name}"
    return change


def spoilt(values):
    values = values.copy()
    values.flat[0] = math.nan
    return values


WEIGHTS = "layers.0.weights"
CHANGES = [
    *[lost(name) for name in ("epoch", "batch", "totals", "history", "best", "description")],
    *[lost(f"{part}/{WEIGHTS}") for part in ("free", "best", "optimiser/first")], lost("optimiser/step"),
    *[array(f"{part}/{WEIGHTS}", spoilt) for part in ("free", "best", "optimiser/second")],
    *[array(f"{part}/{WEIGHTS}", lambda values: values[:3]) for part in ("free", "best", "optimiser/second")],
    array(f"free/{WEIGHTS}", lambda values: values.astype(np.float64)),
    array("optimiser/step", lambda step: step + 1), array("optimiser/step", lambda step: np.array("eight")),
    put("epoch", 1), put("epoch", -1), put("epoch", "two"), put("epoch", None), put("batch", 99), put("batch", 2.5),
    put("totals", None), put("totals", []), put("totals/loss", "nan"), put("totals/more", 1), put("totals/spikes", 3),
    put("totals/samples", 1.5), put("totals/spikes", [None]), put("best", 5), put("best/epoch", 0),
    put("best/score", ["good"]), put("history", 3), put("history", [1, 2]), put("history/0/loss", "low"),
    put("history/1/more", 1.0), put("description", 7), put("description", {}), put("description/training", 7),
    put("description/binning", {"dt": "fast"}),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])
def test_a_damaged_state_is_one_line(trained, tmp_path, change):
    path = state_file(trained, tmp_path, change)
    before = path.read_bytes()
    with pytest.raises((FileError, ArgumentError)) as error:
        train(choices=training(epochs=4, schedule="constant"), folder=tmp_path / "run", resume=True)
    assert str(path) in one_line(error)
    assert path.read_bytes() == before


def test_a_state_of_before_the_step_was_kept_goes_on(trained, tmp_path):
    state_file(trained, tmp_path, lambda meta, extra: meta["description"].pop("binning"))
    resumed = train(choices=training(epochs=3, schedule="constant"), folder=tmp_path / "run", resume=True)
    whole = train(choices=training(epochs=3, schedule="constant"))
    np.testing.assert_array_equal(resumed.history["loss"], whole.history["loss"])
    assert resumed.history["epoch"].dtype == whole.history["epoch"].dtype
    assert load_state(tmp_path / "run" / "last.npz")[0].epoch == 3


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_the_best_model_is_written_anew(tmp_path, damage):
    choices = training(epochs=2, schedule="constant")
    trained = train(choices=choices, folder=tmp_path / "run")
    path = tmp_path / "run" / "best.npz"
    path.unlink() if damage == "lost" else path.write_bytes(path.read_bytes()[:900])
    train(choices=choices, folder=tmp_path / "run", resume=True)
    model = load_model(path)
    assert model.info["epoch"] == trained.best_epoch
    for name, value in trained.network.parameters().items():
        np.testing.assert_array_equal(model.network.parameters()[name], value)


def test_a_folder_is_one_training_s(tmp_path):
    pytest.importorskip("fcntl", reason="folders are held by locks of POSIX")
    folder = tmp_path / "run"
    refused = []

    def another(record):
        part = folder / ".last.123.part.npz"  # which the other one would have taken for a dead one's
        part.touch()
        for resume in (False, True):
            with pytest.raises(
                FileError, match=r"no other training is writing to; found process \d+ on .+ at work"
            ) as error:
                train(folder=folder, resume=resume)
            refused.append(one_line(error))
        part.unlink()  # raises where it is gone

    train(choices=training(epochs=1), folder=folder, callbacks=[another])
    assert len(refused) == 2
    train(choices=training(epochs=1), folder=folder, resume=True)  # which is free again
