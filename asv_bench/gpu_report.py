"""Tests and timings of the CuPy backend on a GPU, as a report: python asv_bench/gpu_report.py [-o FOLDER].

Runs the test suite's GPU part, timings of its own against the estimate on paper (gpu_model.py), asv's benchmarks of the
backend, and last the slow tests; writes report.md and report.json anew after each part, so that a run that is cut short
leaves what it had. Without a GPU it says so and stops; --emulate tries the script itself in CPU emulation, at small
sizes, and whatever it times there is marked as no GPU's.
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
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import gpu_model as model  # noqa: E402
import numpy as np  # noqa: E402
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


def paper_layer(cupy: Any) -> list[Times]:
    """The paper's layer by method, events given, or flags and gradients that lie on the device."""
    watch = Stopwatch(cupy)
    paper = Small(2) if watch.emulated else PaperLayer()
    engine = CupyBackend(cupy, scan=False)
    flags, grad = engine.asarray(paper.dense), engine.asarray(paper.grad_spikes)
    rows = []
    for method in ("blocks", "standard"):

        def on_device(method: str = method) -> object:
            return blocksim.simulate(paper.layer, flags, engine, method, tape=True).backward(grad)

        calls = {
            "forward": lambda method=method: paper.forward(engine, method),
            "forward and backward": lambda method=method: paper.step(engine, method),
            "forward and backward, all on the device": on_device,
        }
        for name, call in calls.items():
            before = engine.copies.to_device, engine.copies.to_host
            times = watch(call)
            copies = (engine.copies.to_device - before[0] + engine.copies.to_host - before[1]) / (REPEATS + 1)
            rows.append({"work": f"{name}, {method}", "ms": times, "copies a call": round(copies, 1)})
    return rows


def bandwidth(cupy: Any) -> list[Times]:
    """Bytes that the dynamics of a layer must move, over the time they take; beside a copy on the same device."""
    watch = Stopwatch(cupy)
    batch, steps, neurons = (2, 40, 130) if watch.emulated else (2048, 1024, 128)
    engine = CupyBackend(cupy, scan=False)
    x = engine.empty((batch, steps, neurons), np.float32)
    x[...] = 0.05
    layer = blocksim.Layer(blocksim.ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=40))
    run = blocksim.simulate(layer, x, engine, tape=True)
    grad = engine.empty(x.shape, np.float32)
    grad[...] = 1
    work = {
        "copy": (8, lambda: x.copy()),
        "forward": (model.KERNELS["forward"].bytes, lambda: blocksim.simulate(layer, x, engine)),
        "forward, with a tape": (
            model.KERNELS["forward, with a tape"].bytes,
            lambda: blocksim.simulate(layer, x, engine, tape=True),
        ),
        "adjoint": (model.KERNELS["adjoint"].bytes, lambda: run.backward(grad)),
    }
    rows = []
    for name, (each, call) in work.items():
        times = watch(call)
        rows.append({"work": name, "bytes a neuron-step": each, "ms": times,
                     "GB/s": round(each * batch * steps * neurons / times[0] / 1e6, 1)})  # fmt: skip
    for row in rows:
        row["of a copy's"] = round(row["GB/s"] / rows[0]["GB/s"], 3)
        row["of the H100's, on paper"] = round(row["GB/s"] * 1e9 / model.H100.bandwidth, 3)
    return rows


def scans(cupy: Any) -> list[Times]:
    """Few neurons: the scan against the sequential kernels."""
    watch = Stopwatch(cupy)
    steps, sizes = (100, (1, 3)) if watch.emulated else (10_000, (1, 64, 1024, 8448, 65536))
    layer = blocksim.Layer(blocksim.ALIF(beta=0.99, p=0.999, b=0.2, refractory_steps=20))
    rows = []
    for units in sizes:
        row: Times = {"neurons x samples": units, "steps": steps}
        for scan in (False, True):
            engine = CupyBackend(cupy, scan=scan)
            currents = np.random.default_rng(3).normal(0.02, 0.05, (units, steps, 1)).astype(np.float32)
            x, grad = engine.asarray(currents), engine.asarray(currents)
            run = blocksim.simulate(layer, x, engine, tape=True)
            name = "scan" if scan else "sequential"
            row[f"{name}, forward"] = watch(lambda x=x, engine=engine: blocksim.simulate(layer, x, engine, tape=True))
            row[f"{name}, adjoint"] = watch(lambda run=run, grad=grad: run.backward(grad))
        for part in ("forward", "adjoint"):
            row[f"sequential / scan, {part}"] = round(row[f"sequential, {part}"][0] / row[f"scan, {part}"][0], 2)
        rows.append(row)
    return rows


PARTS = {
    "The paper's layer": paper_layer,
    "Bandwidth": bandwidth,
    "The scan against the sequential kernels": scans,
}


def collect(
    cupy: Any, tests: Tests, benchmarks: Callable[[], dict[str, Any]], done: Callable[[Report], object]
) -> Report:
    """The whole report, the quick parts first; `done` is handed what there is after each part."""
    report: Report = {
        "emulated": Stopwatch(cupy).emulated, "device": device(cupy), "versions": machine(), "tests": {}, "timings": {},
        "asv": {"not run": "not reached"},
    }  # fmt: skip
    done(report)
    for number, (title, run) in enumerate(tests.items()):
        if number == 1:  # what takes long comes last
            for part, measure in PARTS.items():
                report["timings"][part] = measure(cupy)
                done(report)
            report["asv"] = benchmarks()
            done(report)
        report["tests"][title] = run()
        done(report)
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
        rates = ("GB/s", "of ", "sequential / ")  # what only a GPU's times are good for
        names = [name for name in rows[0] if not (emulated and name.startswith(rates))]
        lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    lines += ["", "## asv", "", "```", *(str(value) for value in report["asv"].values()), "```", ""]
    return "\n".join(lines)


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
    parser.add_argument("--emulate", action="store_true", help="try the script in CPU emulation; no GPU is timed")
    options = parser.parse_args(arguments)
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
    report = collect(cupy, tests, benchmarks, lambda so_far: write(so_far, options.output))
    for path in write(report, options.output):
        print(path)
    bad = any(found.get("failed") or "error" in found for found in (*report["tests"].values(), report["asv"]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
