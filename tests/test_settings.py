"""Configuration files: names and types are checked in one place; what is wrong is one line that names the setting."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from blocksim._settings import checked, make, read_settings
from blocksim.cli import main
from blocksim.data import Augmentation, write_events
from blocksim.ephys._fitting.config import FitConfig
from blocksim.ephys._recordings.detection import Detection
from blocksim.errors import ArgumentError, BlocksimError, FileError
from blocksim.training._settings import RatePenalty, Training
from blocksim.training.experiment import DataChoices, NetworkChoices, experiment_of

KINDS = (DataChoices, NetworkChoices, Training, RatePenalty, Augmentation, FitConfig, Detection)
# what a file can hold in place of what was meant
ODD = (
    None, True, 0, -1, 7, 10**30, 1.5, -2.5, 1e308, float("nan"), float("inf"), "", "x", "7", [], [1], [1.0, 2.0],
    ["a"], [[1]], [1, "a"], {}, {"a": 1}, {"a": [1.0, 2.0]}, [{}], [{"a": 1}], [None], [1e308] * 9,
)  # fmt: skip


def one_line(error):
    message = str(error)
    assert "\n" not in message, message
    assert len(message) > 10
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_of_another_type_is_named(kind):
    messages = []
    for item in kind.__dataclass_fields__:
        others = {"strength": 1.0} if kind is RatePenalty and item != "strength" else {}
        for value in ODD:
            try:
                make(kind, "[part]", {item: value, **others})
            except ArgumentError as error:
                messages.append(one_line(error))
    assert len(messages) > 5 * len(kind.__dataclass_fields__)
    assert all(message.startswith("[part]") for message in messages)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"refractory": "x"}, r"\[network\] refractory: expected a number; found 'x'"),
        ({"hidden": 3}, r"\[network\] hidden: expected a list, of each a whole number; found 3"),
        ({"hidden": [3, 1.5]}, r"\[network\] hidden: expected a list, of each a whole number; found"),
        ({"tau_mem": [5.0]}, r"\[network\] tau_mem: expected a number or a list of 2, each a number; found"),
        ({"recurrent": 1}, r"\[network\] recurrent: expected true or false; found 1"),
        ({"refactory": 3.0}, r"\[network\]: expected names out of .*found 'refactory' \(did you mean 'refractory'\?\)"),
    ],
)
def test_messages(given, message):
    with pytest.raises(ArgumentError, match=message):
        make(NetworkChoices, "[network]", given)


def test_whole_numbers_are_numbers_and_lists_become_tuples():
    network = make(NetworkChoices, "[network]", {"refractory": 20, "hidden": [64], "tau_mem": [5, 10.5]})
    assert (network.refractory, network.hidden, network.tau_mem) == (20.0, (64,), (5.0, 10.5))
    assert isinstance(network.refractory, float)
    assert make(NetworkChoices, "[network]", {"tau_mem": 7}).tau_mem == 7.0
    bounds = {"tau_mem": [5, 50]}
    assert make(FitConfig, "[fit]", {"bounds": bounds, "dt": [0.5, 1]}).bounds == {"tau_mem": (5.0, 50.0)}
    assert bounds == {"tau_mem": [5, 50]}


def test_arguments_of_a_function():
    def read(path: str, rate: float | None = None, *, swap: bool = False) -> None: ...

    assert checked(read, "[recording]", {"rate": 3, "swap": True}, ["rate", "swap"]) == {"rate": 3.0, "swap": True}
    with pytest.raises(ArgumentError, match=r"\[recording\] rate: expected a number; found 'x'"):
        checked(read, "[recording]", {"rate": "x"})
    with pytest.raises(ArgumentError, match="expected names out of rate, swap; found 'path'"):
        checked(read, "[recording]", {"path": "x"}, ["rate", "swap"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"[data]\ndt = \xb5", r"expected text in UTF-8; found the byte 0xb5 at 12"),
        ("a.toml", b"x = " + b"[" * 5000, "nested too deeply"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b"[1]", "expected tables of settings; found"),
        ("a.json", b"{", "expected a JSON file; found"),
        ("a.toml", b"dt = ", "expected a TOML file; found"),
        ("a.toml", b"#" * 2_000_000, "more than 1048576 bytes"),
    ],
)
def test_files_that_are_no_settings(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises((FileError, ArgumentError), match=message) as error:
        read_settings(path)
    one_line(error.value)


def test_a_byte_order_mark_is_no_setting(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbf[data]\ndt = 2.0\n")
    assert read_settings(path) == {"data": {"dt": 2.0}}
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"fit": {"tau": 3}}')
    assert read_settings(path) == {"fit": {"tau": 3}}


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A small data set and a small recording, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    times = [np.sort(rng.uniform(0, 90, 30)) for _ in range(12)]
    write_events("e.npz", times, [rng.integers(0, 9, 30) for _ in range(12)], np.arange(12) % 3, channels=9)
    t = np.arange(2000) * 0.5
    np.savez(
        "r.npz", current=rng.normal(50, 50, (1, 2000)), voltage=-65 + 100 * ((t % 100) < 1)[None], sampling_rate=2000
    )
    return tmp_path


TRAIN = {
    "data": {"dt": 2.0, "duration": 90.0, "pool": 1, "clip": False, "trim": 0.1, "span": 50.0, "delays": [0.0, 4.0]},
    "network": {"hidden": [4], "refractory": 4.0, "recurrent": True, "recurrent_share": 0.1, "tau_mem": [5.0, 20.0],
                "tau_adapt": 50.0, "adaptation": 0.1, "tau_out": 20.0, "decode": "mean", "rate": 10.0},
    "training": {"epochs": 1, "batch_size": 6, "optimiser": "adamw", "learning_rate": 0.01, "schedule": "cosine",
                 "warmup": 0.1, "clip_norm": 1.0, "validation": 0.2, "detach": ["reset"],
                 "penalties": [{"strength": 1e-6}],
                 "augmentation": {"time_jitter": 1.0}, "seed": 1},
}  # fmt: skip
FIT = {
    "fit": {"tau": 20.0, "refractory": [2.0], "candidates": 8, "restarts": 1, "epochs": 1, "generations": 0, "seed": 1,
            "bounds": {"tau_mem": [5.0, 50.0]}},
    "recording": {"current_unit": "pA", "current_offset": 0.0, "sampling_rate": 2000.0},
    "detection": {"threshold": 0.0},
}  # fmt: skip


def mutant(settings, rng):
    """The settings with a name misspelt, or a value replaced, somewhere."""
    settings = json.loads(json.dumps(settings))
    part = settings
    while True:
        name = str(rng.choice(sorted(part)))
        if isinstance(part[name], dict) and rng.random() < 0.9:
            part = part[name]
            continue
        if rng.random() < 0.25:
            letters = list(name)
            letters[int(rng.integers(len(letters)))] = "q"
            part["".join(letters)] = part.pop(name)
        else:
            part[name] = ODD[int(rng.integers(len(ODD)))]
        return settings


@pytest.mark.slow
def test_settings_changed_at_random_are_read_or_refused_in_one_line(inputs):
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(1000):
        try:
            experiment_of(mutant(TRAIN, rng), "e.npz", "out")
        except BlocksimError as error:
            one_line(error)
            refused += 1
    assert 300 < refused < 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_commands_with_settings_changed_at_random_work_or_end_in_one_line(inputs):
    rng = np.random.default_rng(6)
    ended = {0: 0, 1: 0, 2: 0}
    for number in range(400):
        config = inputs / "c.json"
        if number % 4:
            config.write_text(json.dumps(mutant(FIT, rng)))
            arguments = [
                "fit",
                "r.npz",
                "-o",
                "fit",
                "--config",
                "c.json",
                "--no-report",
                "--overwrite",
                "--backend",
                "numpy",
            ]
        else:
            config.write_text(json.dumps(mutant(TRAIN, rng)))
            arguments = ["train", "--data", "e.npz", "-o", f"run{number}", "--config", "c.json", "--epochs", "1"]
            arguments += ["--quiet", "--backend", "numpy"]
        result = CliRunner().invoke(main, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            config.read_text(),
            result.exc_info,
        )
        ended[result.exit_code] += 1
        if result.exit_code:
            last = result.stderr.strip().splitlines()[-1]
            assert last.startswith("Error"), result.stderr
    assert ended[0] > 20
    assert ended[2] > 100
