"""The command line: what it computes is what `simulate` computes, what it refuses it refuses in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import click.testing
import numpy as np
import pytest

import blocksim
from blocksim.cli import main

from .test_numba_kernels import KERNELS

SIMULATE = ["simulate", "x.npy", "-o", "out.npz", "--dt", "1", "--refractory", "3", "--backend", "numpy"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Call the command line in an empty folder, where x.npy lies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLOCKSIM_BACKEND", raising=False)
    np.save("x.npy", np.random.default_rng(0).uniform(0, 0.3, (500, 3)))

    def call(*arguments, **environment):
        return click.testing.CliRunner().invoke(main, list(arguments), env=environment)

    return call


def load(name="out.npz"):
    with np.load(name, allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def assert_equals(out, result):
    """A file's content is a run's."""
    spikes = result.spikes if result.spikes.ndim == 3 else result.spikes[None]
    sample, step, neuron = np.nonzero(spikes)
    np.testing.assert_array_equal(out["spike_sample"], sample)
    np.testing.assert_array_equal(out["spike_step"], step)
    np.testing.assert_array_equal(out["spike_neuron"], neuron)
    np.testing.assert_array_equal(out["shape"], spikes.shape)
    for name in ("voltage", "threshold"):
        np.testing.assert_array_equal(out[name], getattr(result, name).reshape(spikes.shape))
    for name in ("voltage", "adaptation", "refractory", "spikes"):
        np.testing.assert_array_equal(out[f"state_{name}"], getattr(result.state, name))


@pytest.mark.parametrize("chunk", [None, "1", "7", "64", "10000"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_current(run, chunk, backend):
    options = ["--tau-mem", "12", "--adaptation", "0.2", "--tau-adapt", "50", "--gain", "0.8", "--bias", "0.01"]
    options += ["--record", "voltage,threshold"]
    arguments = [*SIMULATE[:-1], backend, *options, *(["--chunk", chunk] if chunk else [])]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    neuron = blocksim.ALIF.from_ms(tau_mem=12, tau_adapt=50, adaptation=0.2, refractory=3, dt=1)
    layer = blocksim.Layer(neuron, bias=0.01)
    expected = blocksim.simulate(layer, 0.8 * np.load("x.npy"), backend, record=("voltage", "threshold"))
    assert expected.spikes.sum() > 50
    out = load()
    assert_equals(out, expected)
    np.testing.assert_allclose(out["spike_time_ms"], out["spike_step"] * 1.0)
    meta = json.loads(str(out["meta"]))
    assert meta["adaptation"] == 0.2
    assert meta["backend"] == backend
    assert str(len(out["spike_step"])) in result.output
    assert sorted(os.listdir()) == ["out.npz", "x.npy"]


@pytest.mark.parametrize("chunk", ["3", "40", "1000"])
def test_spikes_through_weights(run, chunk):
    rng = np.random.default_rng(1)
    x = (rng.random((2, 200, 6)) < 0.4).astype(np.float32)  # dense and sparse stretches alike
    x[:, 100:] *= rng.random((2, 100, 6)) < 0.1
    weights, recurrent = rng.normal(0.2, 0.3, (6, 5)), rng.normal(0, 0.2, (5, 5))
    np.savez("spikes.npz", spikes=x)
    np.save("w.npy", weights)
    np.save("r.npy", recurrent)
    result = run(*["simulate", "spikes.npz", *SIMULATE[2:]], "--weights", "w.npy", "--recurrent", "r.npy", "--latency",
                 "6", "--record", "voltage,threshold", "--dtype", "float64", "--chunk", chunk)  # fmt: skip
    assert result.exit_code == 0, result.output
    layer = blocksim.Layer(blocksim.LIF.from_ms(tau_mem=20, refractory=3, dt=1), weights, 0.0, recurrent, 6)
    events = blocksim.Events.from_dense(x)
    assert_equals(load(), blocksim.simulate(layer, events, "numpy", record=("voltage", "threshold")))


def test_sweeps(run):
    np.save("x.npy", np.random.default_rng(2).uniform(0, 0.3, (4, 300)))
    result = run(*SIMULATE, "--sweeps", "--plot", "raster.png")
    assert result.exit_code == 0, result.output
    assert load()["shape"].tolist() == [4, 300, 1]
    assert Path("raster.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("name", ["raster.png", "raster.pdf", "raster.svg"])
def test_plot(run, name):
    assert run(*SIMULATE, "--plot", name).exit_code == 0
    assert os.path.getsize(name) > 2000


def test_backend_from_the_environment_and_the_flag(run):
    arguments = [a for a in SIMULATE if a not in ("--backend", "numpy")]
    assert run(*arguments, BLOCKSIM_BACKEND="numpy").exit_code == 0
    assert json.loads(str(load()["meta"]))["backend"] == "numpy"
    result = run(*arguments, "--overwrite", BLOCKSIM_BACKEND="abacus")
    assert result.exit_code == 2
    assert "'abacus'" in result.output
    assert run(*SIMULATE, "--overwrite", BLOCKSIM_BACKEND="abacus").exit_code == 0


WRONG = {
    "no such file": (["simulate", "none.npy", *SIMULATE[2:]], "No such file"),
    "unknown backend": ([*SIMULATE, "--backend", "abacus"], "'numpy'"),
    "unknown method": ([*SIMULATE, "--method", "euler"], "'blocks'"),
    "unknown trace": ([*SIMULATE, "--record", "current"], "'threshold'"),
    "refractory period": ([*SIMULATE, "--refractory", "2.5"], "2.5 ms"),
    "block length": ([*SIMULATE, "--block-length", "5"], "block_length"),
    "latency": ([*SIMULATE, "--latency", "0"], "at least 1"),
    "latency no whole number of steps": ([*SIMULATE, "--latency", "4.5"], "whole number"),
    "time constant": ([*SIMULATE, "--tau-mem", "0"], "tau_mem"),
    "output folder": (["simulate", "x.npy", "-o", "none/out.npz"], "create it first"),
    "output name": (["simulate", "x.npy", "-o", "out.txt"], ".npz"),
    "plot name": ([*SIMULATE, "--plot", "raster.doc"], ".png"),
    "weights": ([*SIMULATE, "--weights", "x.npy"], "500 inputs"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_end_in_one_line(run, name):
    arguments, part = WRONG[name]
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert part in result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert os.listdir() == ["x.npy"]


def test_existing_files_are_kept(run):
    assert run(*SIMULATE).exit_code == 0
    before = Path("out.npz").read_bytes()
    result = run(*SIMULATE, "--gain", "0")
    assert result.exit_code == 2
    assert "--overwrite" in result.output
    assert Path("out.npz").read_bytes() == before


def test_values_that_are_not_finite_are_found_before_the_run(run):
    x = np.zeros((1000, 2))
    x[900, 1] = np.nan
    np.save("x.npy", x)
    result = run(*SIMULATE, "--chunk", "10")
    assert result.exit_code == 2
    assert "nan" in result.output
    assert os.listdir() == ["x.npy"]


def test_info(run):
    assert blocksim.__version__ in run("info").output
    report = json.loads(run("info", "--json").output)
    assert report["backends"]["numpy"]["status"] == "ready"
    assert {"threads", "kernel cache"} <= set(report["backends"]["numba"])


def test_demo(run):
    small = ["--batch", "3", "--steps", "120", "--inputs", "30", "--neurons", "10", "--repeats", "1"]
    result = run("demo", *small, "-o", "here")
    assert result.exit_code == 0, result.output
    table = json.loads(Path("here/table.json").read_text())
    rows = {(row["backend"], row["method"]): row for row in table["rows"]}
    assert {("numpy", "standard"), ("numpy", "blocks"), ("numba", "standard"), ("numba", "blocks")} <= set(rows)
    assert all(row["identical"] for row in rows.values())
    assert len({row["spikes"] for row in rows.values()}) == 1
    assert rows["numpy", "blocks"]["block_length"] == 41
    assert sorted(os.listdir("here")) == ["raster.png", "table.csv", "table.json"]
    assert run("demo", *small, "-o", "x.npy").exit_code == 2
    assert run("demo", *small, "--backend", "abacus").exit_code == 2


def test_demo_draws_without_matplotlib_too(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    small = ["--batch", "3", "--steps", "120", "--inputs", "30", "--neurons", "10", "--repeats", "1"]
    assert run("demo", *small, "-o", "here", "--backend", "numpy").exit_code == 0
    assert sorted(os.listdir("here")) == ["raster.svg", "table.csv", "table.json"]
    spikes = json.loads(Path("here/table.json").read_text())["rows"][0]["spikes"]
    root = xml.etree.ElementTree.parse("here/raster.svg").getroot()
    bars = root.find("{http://www.w3.org/2000/svg}path").get("d")
    assert 0 < bars.count("M") < spikes  # those of one sample
    result = run(*SIMULATE, "--plot", "raster.png")
    assert result.exit_code == 2
    assert "blocksim[plot]" in result.output


def test_demo_says_when_spikes_differ(run, monkeypatch):
    true = blocksim.simulate

    def wrong(layer, x, backend, method, **options):
        return true(layer, x[1:120] if method == "blocks" else x, backend, method, **options)

    monkeypatch.setattr(blocksim, "simulate", wrong)
    monkeypatch.setattr(blocksim.Run, "backward", lambda self, g: None)
    result = run("demo", "--batch", "3", "--steps", "120", "--inputs", "30", "--neurons", "10", "--backend", "numpy")
    assert result.exit_code == 1
    assert "differ" in result.output


def test_the_module_runs(tmp_path):
    done = subprocess.run([sys.executable, "-m", "blocksim", "--version"], capture_output=True, text=True, check=True)
    assert blocksim.__version__ in done.stdout


def test_interrupted_it_leaves_nothing(tmp_path):
    np.save(tmp_path / "x.npy", np.full(3_000_000, 0.1, np.float32))
    arguments = ["simulate", "x.npy", "-o", "out.npz", "--backend", "numpy", "--record", "voltage", "--chunk", "200"]
    process = subprocess.Popen(
        [sys.executable, "-m", "blocksim", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(os.listdir(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)  # until its temporary folder is there
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.slow
def test_an_hour_at_a_tenth_of_a_millisecond_takes_bounded_memory(tmp_path):
    """36 million steps: the file alone would take 144 MB, its potentials as float64 288 MB."""
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (36_000_000,))
    x[::1000] = 2.0
    x.flush()
    del x
    code = (
        "import resource, sys\nfrom blocksim.cli import main\n"
        "main(['simulate', 'x.npy', '-o', 'out.npz', '--record', 'voltage'], standalone_mode=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "print(int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    anonymous = int(done.stdout.split()[-1])
    assert load(tmp_path / "out.npz")["spike_step"].size == 36_000
    # pages of mapped files are the kernel's to take back; what the process itself holds is bounded
    assert anonymous < 450_000, f"{anonymous} kB"


def test_text_is_printed_as_it_is(run, tmp_path):
    """Brackets in a path are no markup, and a table that is piped is not cut."""
    np.save("cell[old].npy", np.full((50, 1), 0.5))
    name = "an output with a long name, for which eighty columns are too few [bold] [-b] and more.npz"
    result = run("simulate", "cell[old].npy", "-o", name, "--backend", "numpy")
    assert result.exit_code == 0, result.output
    assert "cell[old].npy" in result.stdout
    assert name in result.stdout
    assert Path(name).exists()


def test_a_diagnosis_survives_what_it_reports(run, monkeypatch):
    def describe(self):
        raise RuntimeError("no\ndriver")

    monkeypatch.setattr(type(blocksim.get_backend("numpy")), "describe", describe)
    result = run("info")
    assert result.exit_code == 0, result.output
    assert "fault: RuntimeError: no driver" in result.stdout


class Noted:
    """A compiled function that notes its calls."""

    def __init__(self, dispatcher, name, used):
        self.dispatcher, self.name, self.used = dispatcher, name, used
        self._cache = dispatcher._cache

    def __call__(self, *arguments):
        self.used.add(self.name)
        return self.dispatcher(*arguments)


@pytest.mark.slow
def test_all_kernels_are_compiled_ahead(run, monkeypatch):
    used = set()
    for name, kernel in KERNELS.items():
        monkeypatch.setattr(kernel, "dispatcher", Noted(kernel.dispatcher, name, used))
    result = run("compile", "--dtype", "float64", "--paper", "--components", "1")
    assert result.exit_code == 0, result.output
    assert "compiled for float64" in result.stdout
    assert used == set(KERNELS)
    assert run("compile", "--dtype", "float16").exit_code == 2


def test_a_model_of_the_family_from_a_file(run, tmp_path):
    (tmp_path / "gif.toml").write_text(
        "[neuron]\ntheta = 2.0\ncurrents = [[20.0, -3.0]]\nthresholds = [[30.0, 0.5], [300.0, 0.1]]\n"
        "[[synapses]]\nkind = 'alpha'\ntau = 4.0\n[[synapses]]\ntau = 9.0\n"
    )
    result = run(*SIMULATE, "--neuron", "gif", "--config", "gif.toml", "--record", "voltage,threshold", "--chunk", "37")
    assert result.exit_code == 0, result.output
    neuron = blocksim.GIF.from_ms(
        tau_mem=20.0, dt=1.0, theta=2.0, refractory=3.0, currents=[(20.0, -3.0)], thresholds=[(30.0, 0.5), (300.0, 0.1)]
    )
    synapses = [blocksim.Alpha.from_ms(4.0, 1.0), blocksim.Exponential.from_ms(9.0, 1.0)]
    expected = blocksim.simulate(
        blocksim.Layer(neuron, bias=0.0, synapses=synapses), np.load("x.npy"), "numpy", record=("voltage", "threshold")
    )
    assert expected.spikes.any()
    got = load()
    np.testing.assert_array_equal(got["voltage"].reshape(expected.voltage.shape), expected.voltage)
    np.testing.assert_array_equal(got["state_components"], expected.state.components)
    assert json.loads(str(got["meta"]))["neuron"] == "gif"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[neuron]\ntau = 3.0\n", "tau_mem"),
        ("[neurons]\ntheta = 3.0\n", "neuron"),
        ("[[synapses]]\nkind = 'beta'\n", "alpha"),
        ("[[synapses]]\ngain = 2.0\n", "tau"),
        ("[neuron]\ncurrents = [5.0]\n", "tau in ms, amplitude"),
    ],
)
def test_a_wrong_file_of_a_model_is_one_line(run, tmp_path, text, words):
    (tmp_path / "gif.toml").write_text(text)
    result = run(*SIMULATE, "--neuron", "gif", "--config", "gif.toml")
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
