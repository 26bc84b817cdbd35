"""`blocksim train` and `blocksim evaluate`: what they write, what they refuse, grids, and resumption."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import click.testing
import numpy as np
import pytest

from blocksim.cli import main
from blocksim.data import Augmentation, open_dataset, write_events
from blocksim.models import load_model
from blocksim.training import Variations, evaluate

from .training_tasks import STEPS, task

SMALL = ["--hidden", "8", "--epochs", "2", "--batch-size", "16", "--refractory", "4", "--backend", "numpy", "--dt", "1"]


def events(path, samples, seed):
    x, labels = task(samples, seed)
    sample, step, channel = np.nonzero(x.to_dense())
    rows = [sample == number for number in range(samples)]
    write_events(
        path, [step[row] * 1.0 for row in rows], [channel[row] for row in rows], labels, channels=12,
        class_names=["low", "middle", "high"], groups=np.arange(samples) % 2, group_names=["anne", "bert"],
    )  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Call the command line in a folder where train.npz and test.npz lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLOCKSIM_BACKEND", raising=False)
    events("train.npz", 48, 0)
    events("test.npz", 30, 1)

    def call(*arguments):
        return click.testing.CliRunner().invoke(main, list(arguments))

    return call


def test_train_and_evaluate(run, tmp_path):
    done = run("train", "--data", "train.npz", "-o", "out", *SMALL)
    assert done.exit_code == 0, done.output
    assert sorted(os.listdir("out")) == ["best.npz", "history.csv", "last.npz", "learning-curve.png", "result.json"]
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    with open("out/history.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result["epochs"] == 2
    best = rows[result["best_epoch"] - 1]
    for name in ("loss", "accuracy", "validation_accuracy", "rate_0"):
        assert result[name] == float(best[name])
    assert result["experiment"]["training"]["epochs"] == 2
    assert result["experiment"]["network"]["refractory"] == 4.0
    assert f"{100 * result['validation_accuracy']:.1f} %" in done.output
    model = load_model("out/best.npz")
    assert model.info["data"] == {
        "dt": 1.0,
        "duration": float(STEPS),
        "pool": 1,
        "clip": False,
        "trim": None,
        "span": None,
        "delays": [0.0],
    }
    assert model.info["class_names"] == ["low", "middle", "high"]
    assert model.network.layers[0].neuron.refractory_steps == 4

    arguments = ["-o", "e.json", "--plot", "c.png", "--json", "--backend", "numpy"]
    done = run("evaluate", "out/best.npz", "--data", "test.npz", *arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found == json.loads((tmp_path / "e.json").read_text())
    expected = evaluate(model.network, open_dataset("test.npz", 1.0, STEPS), backend="numpy")
    assert found["accuracy"] == expected.accuracy
    assert found["confusion"] == expected.confusion.tolist()
    assert found["by_group"] == expected.by_group
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    done = run("evaluate", "out/best.npz", "--data", "test.npz", "--backend", "numpy")
    assert f"accuracy  {100 * expected.accuracy:.1f} %" in done.output
    assert "anne" in done.output


CONFIG = """
[data]
dt = 2.0
duration = 30.0
[network]
hidden = [8, 6]
tau_mem = 10.0
[training]
optimiser = "sgd"
momentum = 0.9
learning_rate = 0.05
epochs = 1
batch_size = 20
trained = ["*.weights", "*.beta"]
[[training.penalties]]
strength = 1e-3
lower = 1.0
[training.augmentation]
time_shift = 4.0
[variations]
rounds = 3
[variations.augmentation]
stretch = 0.2
"""


def test_a_configuration_and_flags_that_win_over_it(run, tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG)
    done = run("train", "--data", "train.npz", "-o", "out", "--config", "c.toml", "--backend", "numpy", "--seed", "3",
               "--batch-size", "48", "--refractory", "6")  # fmt: skip
    assert done.exit_code == 0, done.output
    experiment = json.loads((tmp_path / "out" / "result.json").read_text())["experiment"]
    training = experiment["training"]
    assert training["optimiser"]["type"] == "SGD"
    assert (training["optimiser"]["momentum"], training["optimiser"]["learning_rate"]) == (0.9, 0.05)
    assert (training["batch_size"], training["seed"], training["trained"]) == (48, 3, ["*.weights", "*.beta"])
    assert training["penalties"][0]["lower"] == 1.0
    assert training["augmentation"]["time_shift"] == 4.0
    assert experiment["network"]["hidden"] == [8, 6]
    model = load_model("out/last.npz")
    # what is asked for at the test goes with the model, unless a flag says otherwise
    data = open_dataset("test.npz", 2.0, 15)
    for flag, rounds in ((), 3), (("--variations", "1"), 1), (("--variations", "0"), 0):
        done = run("evaluate", "out/last.npz", "--data", "test.npz", "--json", "--backend", "numpy", *flag)
        found = json.loads(done.output)
        varied = Variations(rounds, Augmentation(stretch=0.2))
        assert found["variations"] == rounds
        expected = evaluate(model.network, data, variations=varied, backend="numpy")
        # plain figures, averaging or not; averages beside them
        plain = evaluate(model.network, data, backend="numpy")
        assert (found["passes"], found["accuracy"]) == (1, plain.accuracy)
        assert found["loss"] == expected.loss == pytest.approx(plain.loss, rel=1e-6)
        if rounds:
            assert found["averaged"]["passes"] == 1 + rounds
            assert found["averaged"]["loss"] == expected.averaged.loss != expected.loss
        else:
            assert found["averaged"] is None
        said = " ".join(
            run("evaluate", "out/last.npz", "--data", "test.npz", "--backend", "numpy", *flag).output.split()
        )
        assert f"accuracy {100 * plain.accuracy:.1f} %" in said.partition("mean of")[0]
        assert (f"mean of {1 + rounds} passes averaged over random variations" in said) is (rounds > 0)
    assert [layer.size for layer in model.network.layers] == [8, 6]
    assert model.info["data"]["duration"] == 30.0
    assert model.network.layers[0].neuron.refractory_steps == 3


@pytest.mark.parametrize("jobs", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_a_grid(run, tmp_path, jobs):
    arguments = ["train", "--data", "train.npz", "-o", "grid", *SMALL, "--refractory", "2,4", "--seeds", "2", "--jobs",
                 jobs, "--epochs", "1"]  # fmt: skip
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    names = [f"refractory{arp}-seed{seed}" for arp in (2, 4) for seed in (0, 1)]
    assert sorted(os.listdir("grid")) == sorted([*names, "results.csv", "results.json"])
    results = json.loads((tmp_path / "grid" / "results.json").read_text())
    assert [os.path.basename(each["experiment"]["folder"]) for each in results] == names
    with open("grid/results.csv") as file:
        rows = list(csv.DictReader(file))
    runs = [(float(row["refractory_ms"]), int(row["seed"])) for row in rows]
    assert runs == [(2, 0), (2, 1), (4, 0), (4, 1)]
    assert [float(row["loss"]) for row in rows] == [each["loss"] for each in results]
    # a second start does nothing again
    before = {name: os.stat(f"grid/{name}/last.npz").st_mtime_ns for name in names}
    assert run(*arguments, "--resume").exit_code == 0
    assert {name: os.stat(f"grid/{name}/last.npz").st_mtime_ns for name in names} == before
    alone = run("train", "--data", "train.npz", "-o", "alone", *SMALL, "--epochs", "1", "--seed", "1")
    assert alone.exit_code == 0, alone.output
    one = json.loads((tmp_path / "alone" / "result.json").read_text())
    assert one["loss"] == results[3]["loss"]


def test_a_training_that_fails_does_not_stop_the_others(run, tmp_path):
    (tmp_path / "grid" / "refractory2").mkdir(parents=True)
    (tmp_path / "grid" / "refractory2" / "last.npz").write_text("damaged")
    done = run("train", "--data", "train.npz", "-o", "grid", *SMALL, "--arp", "2,4", "--epochs", "1", "--resume")
    assert done.exit_code == 2
    assert "refractory2: " in done.output
    assert "begins with" in done.output
    assert "1 of 2 trainings failed" in done.output
    assert len(json.loads((tmp_path / "grid" / "results.json").read_text())) == 1


def test_ctrl_c_and_resume(run, tmp_path):
    arguments = [sys.executable, "-m", "blocksim", "train", "--data", "train.npz", *SMALL, "--epochs", "3000"]
    process = subprocess.Popen([*arguments, "-o", "out"], stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        assert process.stderr.readline().startswith("epoch ")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--resume goes on" in err
    assert "Traceback" not in err
    reached = load_model("out/last.npz").info["checkpoint"]["epoch"]
    assert reached >= 3
    process = subprocess.Popen([*arguments, "-o", "out", "--resume"], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline().startswith(f"epoch {reached + 1}/3000")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


@pytest.mark.parametrize(("arguments", "words"), [
    (["train", "--data", "none.npz", "-o", "out"], ["none.npz", "can be read"]),
    (["train", "--data", "train.npz", "-o", "no/out"], ["no", "create it first"]),
    (["train", "--data", "train.npz", "-o", "out", "--config", "none.toml"], ["none.toml", "can be read"]),
    (["train", "--data", "train.npz", "-o", "out", "--config", "bad.toml"], ["bad.toml", "TOML"]),
    (["train", "--data", "train.npz", "-o", "out", "--config", "unknown.toml"], ["[network]", "hiden", "hidden"]),
    (["train", "--data", "train.npz", "-o", "out", "--config", "wrong.toml"], ["[training]", "loss", "cross_entropy"]),
    (["train", "--data", "train.npz", "-o", "out", "--hidden", "a,b"], ["--hidden", "numbers of neurons", "a,b"]),
    (["train", "--data", "train.npz", "-o", "out", "--method", "fast"], ["--method", "blocks", "fast"]),
    (["train", "--data", "train.npz", "-o", "out", "--backend", "abacus"], ["backend", "abacus", "numba"]),
    (["train", "--data", "train.npz", "-o", "out", "--rate", "-1", *SMALL], ["rate:", "above 0"]),
    (["evaluate", "train.npz", "--data", "test.npz"], ["train.npz", "blocksim network"]),
    (["evaluate", "plain.npz", "--data", "test.npz"], ["plain.npz", "how its samples were binned"]),
    (["evaluate", "plain.npz", "--data", "test.npz", "-o", "e.txt"], ["e.txt", ".json"]),
])  # fmt: skip
def test_what_is_refused(run, tmp_path, arguments, words):
    (tmp_path / "bad.toml").write_text("[data\n")
    (tmp_path / "unknown.toml").write_text("[network]\nhiden = [3]\n")
    (tmp_path / "wrong.toml").write_text('[training]\nloss = "mse"\n')
    from blocksim.models import save_model

    from .training_tasks import network

    save_model("plain.npz", network())
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    for word in words:
        assert word in done.output, done.output
    assert not (tmp_path / "out").exists()
