"""Folders of results: what an older run left does not stay beside the new result. Paths that are none are refused."""

from __future__ import annotations

import os
import sys

import click.testing
import numpy as np
import pytest

from blocksim import LIF, ArgumentError, Layer, Network, get_backend
from blocksim.cli import main
from blocksim.data import download, open_dataset
from blocksim.ephys import GIFCell, GIFFit, load_cell
from blocksim.models import load_model, save_model

CELL = GIFCell(capacitance=100, conductance=8, rest=-70, reset=-62, threshold=-52, width=1, refractory=4)
DEMO = ("--batch", "2", "--steps", "60", "--inputs", "20", "--neurons", "5", "--repeats", "1", "--backend", "numpy")


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Call the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLOCKSIM_BACKEND", raising=False)

    def call(*arguments):
        result = click.testing.CliRunner().invoke(main, list(arguments))
        assert result.exit_code == 0, result.output
        return result

    return call


@pytest.fixture
def fit(shell):
    """Call `blocksim fit` in a folder where a recording lies."""
    current = 150 + 120 * np.repeat(np.random.default_rng(1).normal(size=(1, 1000)), 20, axis=1)
    spikes = CELL.sample(current[0], dt=0.2, repeats=1, seed=1)
    voltage = CELL.impose(current, spikes.to_steps(0.2, 20_000) > 0, dt=0.2).potential
    voltage[0, np.rint(spikes[0] / 0.2).astype(int)] = 30
    np.savez("cell.npz", current_pA=current, voltage_mV=voltage, sampling_rate=5000)
    return lambda *options: shell("fit", "cell.npz", "-o", "out", "--model", "lif", *options)


def test_an_old_report_does_not_stay_beside_a_new_fit(fit):
    fit()
    assert "report.html" in os.listdir("out")
    fit("--no-report")  # the same fit: nothing is done, and its report stays
    assert "report.html" in os.listdir("out")
    fit("--no-report", "--refractory", "3", "--overwrite")
    assert sorted(os.listdir("out")) == ["fit.json", "predictions.npz"]


def test_a_report_that_is_wanted_later_is_written_then(fit):
    fit("--no-report")
    result = fit()
    assert "finished before" not in result.output
    assert "report.html" in os.listdir("out")
    assert "finished before" in fit().output


def test_an_old_table_of_cells_does_not_stay(fit, shell, monkeypatch):
    os.mkdir("cells")
    with open("cells/cells.parquet", "wb") as file:
        file.write(b"older cells")
    os.link("cell.npz", "other.npz")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    shell("fit", "cell.npz", "other.npz", "-o", "cells", "--model", "lif", "--no-report")
    assert sorted(os.listdir("cells")) == ["cell", "cells.csv", "other"]


def test_an_old_picture_of_the_demo_does_not_stay(shell, monkeypatch):
    shell("demo", *DEMO, "-o", "demo")
    assert sorted(os.listdir("demo")) == ["raster.png", "table.csv", "table.json"]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib", None)
        shell("demo", *DEMO, "-o", "demo")
    assert sorted(os.listdir("demo")) == ["raster.svg", "table.csv", "table.json"]
    shell("demo", *DEMO, "-o", "demo")
    assert sorted(os.listdir("demo")) == ["raster.png", "table.csv", "table.json"]


def test_kernels_that_are_not_kept_are_said_to_be_so(shell, monkeypatch):
    for name in ("_use", "_use_recordings"):
        monkeypatch.setattr(f"blocksim.cli.compile.{name}", lambda *arguments: None)
    why = "no folder can be written to (set NUMBA_CACHE_DIR)"
    monkeypatch.setattr(type(get_backend("numba")), "describe", lambda engine: {"kernel cache": f"none: {why}"})
    assert f"; not kept: {why}" in " ".join(shell("compile", "--dtype", "float64").output.split())


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: load_cell(3), "path: expected the name of a file, a text or a Path; found 3"),
        (lambda: load_model(3), "path: expected the name of a file, a text or a Path; found 3"),
        (lambda: save_model(3, Network([Layer(LIF(0.9), np.ones((2, 2)))])), "path: expected the name of a file"),
        (lambda: open_dataset(3), "path: expected the name of a file"),
        (lambda: load_cell(None), "path: expected the name of a file"),
        (lambda: load_cell(b"fit.json"), "path: expected the name of a file"),
        (lambda: GIFFit.load(3), "path: expected the name of a file"),
        (lambda: GIFFit.from_dict(3), "values: expected a dict"),
        (lambda: download("shd-train", 3), "path: expected the name of a file"),
        (lambda: download("shd-train", unpack="yes"), "unpack: expected True or False"),
        (lambda: download("shd-train", base_url=3), "base_url: expected an address, a text; found 3"),
    ],
)
def test_what_is_no_path_is_refused_in_one_line(call, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError) as caught:
        call()
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    assert not os.listdir()


def test_missing_predictions_are_not_said_to_be_written(fit):
    fit("--no-report")
    os.remove("out/predictions.npz")
    result = fit("--no-report")
    assert "predictions.npz" not in result.output or os.path.exists("out/predictions.npz")
