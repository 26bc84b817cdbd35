"""Tests and timings of the CuPy backend on a GPU, as a report: python asv_bench/gpu_report.py [-o FOLDER].

Runs the test suite's GPU part, timings of its own, asv's benchmarks of the backend, and last the slow tests; writes
report.md and report.json anew after each part, so that a run that is cut short leaves what it had. --timings runs the
timings alone; --page FILE writes their tables into a page, between its marks, from a report.json that is there. Without
a GPU it says so and stops. --emulate tries the script itself in CPU emulation, at small sizes, and whatever it times
there is marked as no GPU's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "docs" / "experiments")]

import numpy as np  # noqa: E402
import pages  # noqa: E402
from benchmarks.workloads import PaperLayer  # noqa: E402
from blocksim.backends.cupy_cuda.backend import CupyBackend  # noqa: E402

import blocksim  # noqa: E402
from blocksim.cli.info import machine  # noqa: E402

ON_GPU = "(cupy or GPU) and not emulat"  # pytest's -k: the engine's name, and the fixture's
REPEATS = 7
Times = dict[str, Any]
Report = dict[str, Any]
Tests = dict[str, Callable[[], dict[str, Any]]]


class Stopwatch:
    """Times calls on one device, each until the device has finished."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.emulated = cupy.__name__ != "cupy"

    def __call__(self, call: Callable[[], object]) -> list[float]:
        """Median and quartiles in ms; the first call, which compiles, is not among them."""
        times = []
        for repeat in range(REPEATS + 1):
            self.cupy.cuda.Device().synchronize()
            began = time.perf_counter()
            call()
            self.cupy.cuda.Device().synchronize()
            if repeat:
                times.append((time.perf_counter() - began) * 1e3)
        return [float(each) for each in np.percentile(times, [50, 25, 75])]


def device(cupy: Any) -> dict[str, Any]:
    runtime = cupy.cuda.runtime
    here = cupy.cuda.Device()
    return {
        "name": runtime.getDeviceProperties(here.id)["name"].decode(),
        "compute capability": here.compute_capability,
        "multiprocessors": int(runtime.deviceGetAttribute(runtime.cudaDevAttrMultiProcessorCount, here.id)),
        "memory, GB": round(here.mem_info[1] / 1e9, 1),
        "driver": runtime.driverGetVersion(),
        "CUDA runtime": runtime.runtimeGetVersion(),
    }


def suite(expression: str, *arguments: str) -> dict[str, Any]:
    """Run the tests that pytest's -k selects; how many passed, and the reasons of those that did not."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-k", expression, f"--junitxml={results}", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        cases = list(ElementTree.parse(results).getroot().iter("testcase")) if results.exists() else []
    if not cases:
        return {"error": (done.stdout + done.stderr)[-2000:]}
    found: dict[str, Any] = {"selected by": expression, "passed": 0, "failed": {}, "skipped": {}}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        if outcome is None:
            found["passed"] += 1
        else:
            found["skipped" if outcome.tag == "skipped" else "failed"][name] = (outcome.get("message") or "")[:300]
    return found


def asv() -> dict[str, Any]:
    """asv's benchmarks of the backend, as it prints them."""
    if shutil.which("asv") is None:
        return {"not run": "asv is not installed (python -m pip install 'blocksim[bench]')"}
    output = ""
    for command in (["asv", "machine", "--yes"], ["asv", "run", "--python=same", "--show-stderr", "-b", "cupy"]):
        done = subprocess.run(command, cwd=ROOT / "asv_bench", capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        if done.returncode:
            return {"error": output[-2000:]}
    return {"output": output}


class Small(PaperLayer):
    """The paper's layer, small enough for CPU emulation."""

    inputs, neurons, steps = 30, 10, 45


def warm_up(cupy: Any) -> None:
    """Work for a while: a device at rest has lowered its clocks."""
    if cupy.__name__ != "cupy":
        return
    x = cupy.ones((4096, 4096), cupy.float32)
    end = time.perf_counter() + 2
    while time.perf_counter() < end:
        x @ x
        cupy.cuda.Device().synchronize()


def both_passes(layer: blocksim.Layer, x: Any, engine: CupyBackend, grad: Any, method: str = "blocks") -> object:
    return blocksim.simulate(layer, x, engine, method, tape=True).backward(grad)


class Timed:
    """Milliseconds that each of the backend's kernels takes on the device, however long the host takes to launch it."""

    def __init__(self, engine: CupyBackend) -> None:
        self.cuda, self.inner = engine.cupy.cuda, engine.launch
        self.seen: dict[str, list[Any]] = {}
        engine.launch = self.launch

    def launch(self, kernel: str, *how: Any, **more: Any) -> Callable[..., None]:
        inner = self.inner(kernel, *how, **more)

        def launch(*arguments: Any) -> None:
            before, after = self.cuda.Event(), self.cuda.Event()
            before.record()
            inner(*arguments)
            after.record()
            self.seen.setdefault(kernel, []).append((before, after))

        return launch

    def __call__(self, work: Callable[[], object]) -> dict[str, float]:
        """Medians over calls of the time of all launches of a kernel; the first call, which compiles, is left out."""
        times: dict[str, list[float]] = {}
        for repeat in range(REPEATS + 1):
            self.seen.clear()
            work()
            self.cuda.Device().synchronize()
            for kernel, launches in self.seen.items() if repeat else ():
                total = sum(self.cuda.get_elapsed_time(*each) for each in launches)
                times.setdefault(kernel, []).append(total)
        return {kernel: float(np.median(each)) for kernel, each in times.items()}


def paper_layer(cupy: Any) -> list[Times]:
    """The paper's layer by method: events given, or flags and gradients that lie on the device."""
    watch = Stopwatch(cupy)
    paper = Small(2) if watch.emulated else PaperLayer()
    engine = CupyBackend(cupy, scan=False)
    flags, grad = engine.asarray(paper.dense), engine.asarray(paper.grad_spikes)
    rows = []
    for method in ("blocks", "standard"):
        calls = {
            "forward": partial(blocksim.simulate, paper.layer, flags, engine, method, tape=True),
            "forward and backward": partial(both_passes, paper.layer, flags, engine, grad, method),
            "the same, from events and to NumPy arrays": partial(paper.step, engine, method),
        }
        rows += [{"work": name, "method": method, "ms": watch(call)} for name, call in calls.items()]
    return rows


def refractory_periods(cupy: Any) -> list[Times]:
    """The paper's layer, forward and backward, by refractory period: blocks against step by step."""
    watch = Stopwatch(cupy)
    rows = []
    for refractory in (3, 5) if watch.emulated else (0, 10, 20, 40, 60, 80, 100):
        paper = Small(2, refractory=refractory) if watch.emulated else PaperLayer(refractory=refractory)
        engine = CupyBackend(cupy, scan=False)
        flags, grad = engine.asarray(paper.dense), engine.asarray(paper.grad_spikes)
        row: Times = {"refractory period, steps": refractory}
        for method in ("blocks", "standard"):
            row[method] = watch(partial(both_passes, paper.layer, flags, engine, grad, method))
        row["standard / blocks"] = round(row["standard"][0] / row["blocks"][0], 1)
        rows.append(row)
    return rows


def neurons(cupy: Any) -> list[Times]:
    """Kernels alone, currents given: few and many samples of 128 neurons and 1024 steps."""
    emulated = Stopwatch(cupy).emulated
    forms = [2, 3] if emulated else [64, 2048]
    steps, size = (45, 10) if emulated else (1024, 128)
    period = 40
    models = {
        "ALIF": blocksim.Layer(blocksim.ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=period)),
        "LIF, an exponential synapse": blocksim.Layer(
            blocksim.LIF(0.95, refractory_steps=period), synapses=[blocksim.Exponential(0.9)]
        ),
        "GIF, two currents and two thresholds": blocksim.Layer(
            blocksim.LinearIF(0.95, 1.0, period, [
                blocksim.Component(0.99, -0.05, to_voltage=1), blocksim.Component(0.999, -0.02, to_voltage=1),
                blocksim.Component(0.98, 0.1, to_threshold=1), blocksim.Component(0.999, 0.1, to_threshold=1),
            ])
        ),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    rows = []
    for batch in forms:
        of_alif: dict[str, float] = {}
        x, grad = (
            rng.normal(mean, width, (batch, steps, size)).astype(np.float32) for mean, width in ((0.06, 0.05), (0, 1))
        )
        for name, layer in models.items():
            engine = CupyBackend(cupy, scan=False)
            on_device, gradient, timed = engine.asarray(x), engine.asarray(grad), Timed(engine)
            seen = timed(partial(both_passes, layer, on_device, engine, gradient))
            passes = {
                "forward": sum(ms for kernel, ms in seen.items() if "forward" in kernel),
                "backward": sum(ms for kernel, ms in seen.items() if "adjoint" in kernel),
            }
            of_alif = of_alif or passes
            rows.append(
                {"samples": batch, "neuron": name}
                | {f"{each}, ms": round(ms, 3) for each, ms in passes.items()}
                | {"both / ALIF": round(sum(passes.values()) / sum(of_alif.values()), 2)}
            )
    return rows


def bandwidth(cupy: Any) -> list[Times]:
    """A full device: bytes that ALIF's kernels must move over the time they take, beside a copy on the same device."""
    emulated = Stopwatch(cupy).emulated
    shape = (2, 40, 130) if emulated else (2048, 1024, 128)
    engine = CupyBackend(cupy, scan=False)
    timed = Timed(engine)
    x, y = engine.empty(shape, np.float32), engine.empty(shape, np.float32)
    x[...] = 0.05
    layer = blocksim.Layer(blocksim.ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=40))
    run = blocksim.simulate(layer, x, engine, tape=True)

    def copy() -> None:
        before, after = cupy.cuda.Event(), cupy.cuda.Event()
        before.record()
        y[...] = x
        after.record()
        timed.seen["copy"] = [(before, after)]

    # read and written: x and a copy; x, spikes, potentials; with gradients, and twice the adaptation kept of a block
    work: dict[str, tuple[int, str, Callable[[], object]]] = {
        "copy": (8, "copy", copy),
        "forward": (5, "forward", lambda: blocksim.simulate(layer, x, engine)),
        "forward, with a tape": (9, "forward", lambda: blocksim.simulate(layer, x, engine, tape=True)),
        "backward": (22, "adjoint", lambda: run.backward(x)),
    }
    rows = []
    for name, (each, kernel, call) in work.items():
        ms = round(timed(call)[kernel], 4)
        rows.append({"work": name, "bytes a neuron-step": each, "ms": ms,
                     "GB/s": round(each * x.size / ms / 1e6, 1)})  # fmt: skip
    for row in rows:
        row["of a copy's"] = round(row["GB/s"] / rows[0]["GB/s"], 2)
    return rows


def scans(cupy: Any) -> list[Times]:
    """Few neurons: kernels of the scan against the sequential ones."""
    emulated = Stopwatch(cupy).emulated
    shapes = [(1, 1, 100), (3, 2, 100)] if emulated else [
        (1, 1, 10_000), (64, 1, 10_000), (1024, 1, 10_000), (4096, 1, 10_000), (8192, 1, 10_000), (16384, 1, 4096),
        (65536, 1, 1024), (512, 8, 4096), (1024, 8, 4096), (4096, 8, 1024), (8, 128, 4096), (16, 128, 4096),
        (32, 128, 4096), (64, 128, 4096),
    ]  # fmt: skip
    layer = blocksim.Layer(blocksim.ALIF(beta=0.99, p=0.999, b=0.2, refractory_steps=20))
    rows = []
    for batch, size, steps in shapes:
        row: Times = {"samples": batch, "neurons": size, "steps": steps}
        currents = np.random.default_rng(3).normal(0.02, 0.05, (batch, steps, size)).astype(np.float32)
        for scan, name in ((False, "sequential"), (True, "scan")):
            engine = CupyBackend(cupy, scan=scan)
            x, timed = engine.asarray(currents), Timed(engine)
            seen = timed(partial(both_passes, layer, x, engine, x))
            for each, word in (("forward", "forward"), ("backward", "adjoint")):
                row[f"{name}, {each}, ms"] = round(sum(ms for kernel, ms in seen.items() if word in kernel), 3)
        sequential, scanned = (
            row[f"{name}, forward, ms"] + row[f"{name}, backward, ms"] for name in ("sequential", "scan")
        )
        row["sequential / scan"] = round(sequential / scanned, 2)
        rows.append(row)
    return rows


def recurrent_families(cupy: Any) -> list[Times]:
    """The paper's layer, by family: recurrent synapses with a time course. Forward, and forward and backward."""
    watch = Stopwatch(cupy)
    paper = Small(2) if watch.emulated else PaperLayer()
    engine = CupyBackend(cupy, scan=False)
    flags, grad = engine.asarray(paper.dense), engine.asarray(paper.grad_spikes)
    period = paper.layer.neuron.refractory_steps
    weights, recurrent = (np.asarray(each, np.float32) for each in (paper.layer.weights, paper.layer.recurrent))
    delay = int(np.max(period)) + 1

    def layer(neuron: Any, *synapses: Any) -> blocksim.Layer:
        return blocksim.Layer(
            neuron, synapses=synapses, inputs=[blocksim.Connection(weights)],
            recurrent=[blocksim.Connection(recurrent, delay)],
        )  # fmt: skip

    models = {
        "LIF, an exponential synapse": layer(blocksim.LIF(0.95, refractory_steps=period), blocksim.Exponential(0.9)),
        "LIF, an alpha synapse": layer(blocksim.LIF(0.95, refractory_steps=period), blocksim.Alpha(0.9)),
        "adaptation of two thresholds": layer(blocksim.LinearIF(0.95, 1.0, period, [
            blocksim.Component(0.98, 0.1, to_threshold=1), blocksim.Component(0.999, 0.1, to_threshold=1),
        ])),
    }  # fmt: skip
    return [
        {
            "neuron": name,
            "forward": watch(partial(blocksim.simulate, each, flags, engine, tape=True)),
            "forward and backward": watch(partial(both_passes, each, flags, engine, grad)),
        }
        for name, each in models.items()
    ]


PARTS = {
    "The paper's layer": paper_layer,
    "Recurrent layers of other families": recurrent_families,
    "Blocks against step by step": refractory_periods,
    "Neurons of other families": neurons,
    "Bandwidth": bandwidth,
    "The scan against the sequential kernels": scans,
}
MARK = "gpu"  # of all these tables, in a page


def page(report: Report, path: Path) -> None:
    """Put the tables of the timings into a page, between its marks."""
    here, cupy = report["device"], next(value for name, value in report["versions"].items() if name.startswith("cupy"))
    lines = [f"Measured on an {here['name']} ({here['multiprocessors']} multiprocessors), CuPy {cupy}."]
    for title, rows in report["timings"].items():
        lines += ["", f"**{title}.** {PARTS[title].__doc__}", "", _table(rows, list(rows[0]))]
    pages.write(path, {MARK: "\n".join(lines)})


def collect(
    cupy: Any, tests: Tests, benchmarks: Callable[[], dict[str, Any]], done: Callable[[Report], object]
) -> Report:
    """The whole report, the quick parts first; `done` is handed what there is after each part."""
    report: Report = {
        "emulated": Stopwatch(cupy).emulated, "device": device(cupy), "versions": machine(), "tests": {}, "timings": {},
        "asv": {"not run": "not reached"},
    }  # fmt: skip
    done(report)

    def timings() -> None:
        warm_up(cupy)
        for part, measure in PARTS.items():
            report["timings"][part] = measure(cupy)
            done(report)
        report["asv"] = benchmarks()
        done(report)

    for number, (title, run) in enumerate(tests.items()):
        if number == 1:  # what takes long comes last
            timings()
        report["tests"][title] = run()
        done(report)
    if not tests:
        timings()
    return report


def markdown(report: dict[str, Any]) -> str:
    """The report to read; timings of an emulation say so wherever they stand."""
    emulated = report["emulated"]
    unit = "ms in CPU emulation, no GPU's" if emulated else "ms"
    lines = ["# CPU emulation: nothing here was measured on a GPU" if emulated else "# The CuPy backend on a GPU", ""]
    for title in ("device", "versions"):
        lines += [f"- {name}: {value}" for name, value in report[title].items()]
    for title, tests in report["tests"].items():
        lines += ["", f"## {title}", ""]
        if "passed" in tests:
            lines += [f"{tests['passed']} passed, {len(tests['failed'])} failed, {len(tests['skipped'])} skipped "
                      f"(`{tests['selected by']}`)", ""]  # fmt: skip
            for outcome in ("failed", "skipped"):
                lines += [f"- {outcome}: {name}: {why}" for name, why in tests[outcome].items()]
        else:
            lines += ["```", *(str(value) for value in tests.values()), "```"]
    for title, rows in report["timings"].items():
        lines += ["", f"## {title}", "", f"Times in {unit}: median (quartiles).", ""]
        names = [name for name in rows[0] if not (emulated and ("GB/s" in name or "of a" in name or " / " in name))]
        lines += [_table(rows, names)]
    lines += ["", "## asv", "", "```", *(str(value) for value in report["asv"].values()), "```", ""]
    return "\n".join(lines)


def _table(rows: list[Times], names: list[str]) -> str:
    return pages.table(names, [[_cell(row[name]) for name in names] for row in rows])


def _cell(value: Any) -> str:
    return "{:.3g} ({:.3g} to {:.3g})".format(*value) if isinstance(value, list) else str(value)


def write(report: dict[str, Any], folder: Path) -> list[Path]:
    """report.md and report.json."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / "report.md": markdown(report), folder / "report.json": json.dumps(report, indent=2) + "\n"}
    for path, content in files.items():
        path.write_text(content)
    return list(files)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-report"), metavar="FOLDER")
    parser.add_argument("--timings", action="store_true", help="time, without tests and asv")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the tables of FOLDER's report.json into a page"
    )
    parser.add_argument("--emulate", action="store_true", help="try the script in CPU emulation; no GPU is timed")
    options = parser.parse_args(arguments)
    if options.page:
        page(json.loads((options.output / "report.json").read_text()), options.page)
        return 0
    if options.emulate:
        from tests.cuda_emulation import emulated_cupy as cupy

        tests: Tests = {
            "Tests": lambda: suite("emulation and wrong_arrays", "tests/test_cuda.py"),
            "Slow tests": lambda: suite("unknown_to_a_kernel", "tests/test_cuda.py"),
        }

        def benchmarks() -> dict[str, Any]:
            return {"not run": "CPU emulation is not benchmarked"}

    else:
        status = blocksim.available_backends()["cupy"]
        if status != "ready":
            print(f"gpu_report: there is nothing to report without a GPU. Backend cupy: {status}", file=sys.stderr)
            return 2
        import cupy

        tests, benchmarks = {"Tests": lambda: suite(ON_GPU), "Slow tests": lambda: suite(ON_GPU, "--slow")}, asv
    if options.timings:
        tests, benchmarks = {}, lambda: {"not run": "timings alone"}
    report = collect(cupy, tests, benchmarks, lambda so_far: write(so_far, options.output))
    for path in write(report, options.output):
        print(path)
    bad = any(found.get("failed") or "error" in found for found in (*report["tests"].values(), report["asv"]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
