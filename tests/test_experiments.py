"""The script of docs/experiments/networks.py, as a smoke run on made-up data."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

import blocksim.training.experiment

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "experiments"
STAGES = ["choose", "figure4", "times"]


@pytest.fixture
def script(monkeypatch):
    """The script as a module; what lies beside it is importable, as when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("networks")


def write_digits(path, samples, speakers, seed):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % 3
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, kind, draw in (
            ("times", np.float32, lambda label: np.sort(rng.uniform(0, 0.99, 400))),
            ("units", np.uint16, lambda label: np.clip(rng.normal(100 + 200 * label, 60, 400), 0, 699)),
        ):
            lists = file.create_dataset(f"spikes/{name}", (samples,), h5py.vlen_dtype(kind))
            for k, label in enumerate(labels):
                lists[k] = draw(label).astype(kind)
        file["labels"] = labels
        file["extra/speaker"] = np.array(speakers)[np.arange(samples) // 3 % len(speakers)]
        file["extra/keys"] = [b"a", b"b", b"c"]
        file["extra/meta_info/speaker_names"] = [b"Ann", b"Bob", b"Cy"]


def write_camera(path, samples, seed):
    rng = np.random.default_rng(seed)
    labels, events = np.arange(samples) % 2, 300
    path.parent.mkdir(exist_ok=True)
    x = np.clip(rng.normal(10 + 14 * labels[:, None], 4, (samples, events)), 0, 33)
    t = np.sort(rng.integers(0, 200_000, (samples, events)))
    np.savez(
        path, x=x.astype(np.uint8).ravel(), y=rng.integers(0, 34, samples * events).astype(np.uint8),
        p=rng.integers(0, 2, samples * events).astype(np.uint8), t_us=t.ravel(),
        offsets=np.arange(samples + 1) * events, labels=labels,
    )  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """Training files alone: the test files are not there."""
    write_digits(tmp_path / "spoken_digits" / "train.h5", 24, [0, 1], seed=0)
    write_camera(tmp_path / "nmnist" / "train800.npz", 20, seed=1)
    return tmp_path


@pytest.mark.slow
def test_a_smoke_run_of_all_stages(script, data, tmp_path, monkeypatch, capsys):
    output, page = tmp_path / "results", tmp_path / "page" / "networks.md"
    common = ["--data", str(data), "-o", str(output), "--quick"]
    script.main([*STAGES, *common])

    found = {stage: json.loads((output / f"{stage}.json").read_text()) for stage in STAGES}
    assert {row["data"] for row in found["choose"]["rows"]} == {"spoken_digits", "nmnist"}
    ways = {(row["arp_ms"], row["method"], row["gradient"]) for row in found["figure4"]["rows"]}
    assert ways == {(arp, *way) for arp in script.QUICK_ARPS for way in script.WAYS}
    for row in found["times"]["rows"]:
        assert row["samples"] == {"spoken_digits": 24, "nmnist": 20}[row["data"]]
        if row["method"] == "blocks":
            # one model: the same spikes, gradients to rounding
            assert row["agreement"]["counts"] == 0
            assert row["agreement"]["gradients"] < 1e-4
    paper = [row["history"]["loss"] for row in found["figure4"]["rows"] if row["gradient"] == "paper"]
    assert all(np.isfinite(paper))

    # again: nothing is trained twice
    monkeypatch.setattr(blocksim.training.experiment, "fit", lambda *_, **__: pytest.fail("trained again"))
    script.main(["choose", "figure4", *common])
    again = json.loads((output / "figure4.json").read_text())
    assert again["rows"] == found["figure4"]["rows"]
    monkeypatch.undo()

    monkeypatch.syspath_prepend(str(FOLDER))
    write_digits(data / "spoken_digits" / "test.h5", 12, [0, 2], seed=2)
    write_camera(data / "nmnist" / "test100.npz", 10, seed=3)
    script.main(["final", *common])
    final = json.loads((output / "final.json").read_text())
    digits, camera = (row["test"] for row in final["rows"])
    assert (digits["samples"], camera["samples"]) == (12, 10)
    assert np.sum(digits["confusion"]) == 12
    assert digits["accuracy"] == pytest.approx(np.trace(digits["confusion"]) / 12)
    assert (set(digits["by_group"]), digits["seen_groups"]) == ({"Ann", "Cy"}, ["Ann"])
    # plain figures first; averages, where the configuration asks for them, beside
    assert (digits["passes"], digits["averaged"]["passes"], camera["averaged"]) == (1, 25, None)
    assert digits["averaged"]["accuracy"] == pytest.approx(np.trace(digits["averaged"]["confusion"]) / 12)

    capsys.readouterr()
    script.main(["report", "-o", str(output), "--page", str(page), "--images", str(tmp_path / "images")])
    text = page.read_text()
    for words in ("## Spoken digits", "## N-MNIST", "A smoke run", "**Test file: ", "no augmentation",
                  "standard / blocks", "4 pairs" if len(script.QUICK_ARPS) == 4 else "2 pairs"):  # fmt: skip
        assert words in text, words
    assert "nan" not in text.replace("adaptation", "")
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", text)
    assert len(pictures) == 4
    for alt, target in pictures:
        assert len(alt) > 40
        assert (page.parent / target).read_bytes().startswith(b"\x89PNG")

    # the test file has been used: no other configuration may be tried on it
    monkeypatch.setitem(script.QUICK["network"], "hidden", [16])
    with pytest.raises(SystemExit, match="was used already, for another configuration"):
        script.main(["final", *common])
    # unless one owns to it: then the page says so, and what came of it before
    plain, averaged = (f"{100 * each['accuracy']:.1f} %" for each in (digits, digits["averaged"]))
    assert (
        f"**Test file: {plain}**, one pass of each sample, mean of 1 seed of 1 epochs, 12 samples, used once. " in text
    )
    variations = f"Averaged over 25 passes, of each sample as it is and of random variations of it: {averaged}."
    assert text.count(variations) == 1
    first = (
        f"Used before, on {final['date']}: {plain}, one pass of each sample, mean of 1 seed of 1 epochs. {variations}"
    )
    script.main(["final", *common, "--only", "spoken_digits", "--again", "larger now"])
    script.main(["report", "-o", str(output), "--page", str(page), "--images", str(tmp_path / "images")])
    text = page.read_text()
    assert f"{first} Used again: larger now." in text
    assert text.count("**used 2 times**") == text.count("samples, used once.") == 1
    again = json.loads((output / "final.json").read_text())
    assert [row for row in again["rows"] if row["data"] == "nmnist"] == final["rows"][1:]
    assert again["earlier"]["spoken_digits"][0]["rows"] == final["rows"][:1]
    # the same configuration once more is a use too; and the test file is read anew
    script.main(["final", *common, "--only", "spoken_digits", "--again", "once more"])
    third = json.loads((output / "final.json").read_text())
    assert [use["used again"] for use in third["earlier"]["spoken_digits"]] == ["larger now", "once more"]
    assert set(third["dates"]) == {"spoken_digits", "nmnist"}
    # going on where a run was stopped is none
    script.main(["final", *common, "--only", "spoken_digits"])
    assert json.loads((output / "final.json").read_text())["earlier"] == third["earlier"]
    # and a real run does not mix with a smoke run
    with pytest.raises(SystemExit):
        script.main(["figure4", *common[:-1]])
    assert "expected another folder" in capsys.readouterr().err


def test_the_configurations_are_those_of_the_command(script):
    from blocksim.training.experiment import experiment_of, read_config

    for name in script.FILES:
        config = read_config(FOLDER / f"{name}.toml")
        experiment_of(config, "train.h5", "out")
        for changes in read_config(FOLDER / "variations.toml")[name].values():
            changed = {table: config.get(table, {}) | values for table, values in changes.items()}
            assert changed != {table: config.get(table, {}) for table in changed}
            experiment_of(config | changed, "train.h5", "out")


def test_without_results_the_page_says_so(script, tmp_path):
    script.main(["report", "-o", str(tmp_path), "--page", str(tmp_path / "p.md"), "--images", str(tmp_path)])
    assert "Not run yet" in (tmp_path / "p.md").read_text()
