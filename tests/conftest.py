"""What all tests share: every engine as the `backend` fixture, the data folder, slow tests, Hypothesis profiles."""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import shutil
from collections import defaultdict
from importlib.metadata import entry_points
from pathlib import Path

import hypothesis
import pytest
from blocksim.backends.cupy_cuda.backend import CupyBackend

import blocksim

from .cuda_emulation import emulated_cupy

# Unless slow tests are wanted, the emulation, which is slow and compiles kernels, runs of each test the cases that show
# a pair of values of two parameters for the first time, and of random cases the first few; in modules of many layers,
# for each of which g++ compiles kernels, the first case
EMULATED_SEEDS = 6
EMULATED_ONCE = ("test_escape", "test_escape_independent", "test_imposed")
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# A fixed set of examples in CI, so that a red build stays red; new ones on every run elsewhere. No deadlines: the
# first call of a kernel compiles it; and no check of how long examples take to draw: a busy machine is no fault.
SETTINGS = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("default", max_examples=30, **SETTINGS)
hypothesis.settings.register_profile("ci", max_examples=60, derandomize=True, print_blob=True, **SETTINGS)
hypothesis.settings.register_profile("slow", max_examples=400, **SETTINGS)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run slow tests too, and more Hypothesis examples")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Processes of -n auto: each compiles kernels of its own in the first run, so more than these gain nothing."""
    return min(os.cpu_count() or 1, 8)


def pytest_configure(config):
    profile = "ci" if IN_CI else "slow" if config.getoption("--slow") else "default"
    hypothesis.settings.load_profile(profile)


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow") or IN_CI:
        return
    seen = defaultdict(set)
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if {"cupy-emulated", "CPU emulation"} & {parameters.get("backend"), parameters.get("cupy")}:
            pairs = set(itertools.combinations([(name, repr(value)) for name, value in parameters.items()], 2)) or {()}
            shown = seen[item.path, item.originalname]
            once = item.path.stem in EMULATED_ONCE and shown
            if once or pairs <= shown or parameters.get("seed", 0) >= EMULATED_SEEDS:
                item.add_marker("slow")
            elif "slow" not in item.keywords:
                shown |= pairs
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow, and where CI=true"))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """With xdist, all tests of a file run in one process: what they share is made, and compiled, once.

    Not where slow tests run: one file has minutes of them, for which every other process would wait.
    """
    every = IN_CI or config.getoption("--slow")
    if not every and getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "loadfile"


def pytest_collection_finish():
    """Compiling kernels makes much that lives long; looking through all of it for garbage takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def engine_names() -> list[str]:
    """Every registered backend, and the CPU emulation of the GPU's."""
    return [*sorted({point.name for point in entry_points(group="blocksim.backends")}), "cupy-emulated"]


def make_engine(name: str) -> blocksim.Backend:
    """The engine of that name; skips, saying why, where its library is not there.

    The GPU's does not scan here, where every bit counts; tests/test_cuda.py holds the scan to its tolerance.
    """
    if name == "cupy-emulated":
        if shutil.which("g++") is None:
            pytest.skip("CPU emulation of CUDA kernels: needs g++, which is not here")
        engine = CupyBackend(emulated_cupy, scan=False)
        engine.name = name
        return engine
    status = blocksim.available_backends()[name]
    if status != "ready":
        pytest.skip(f"backend {name}: {status}")
    return CupyBackend(scan=False) if name == "cupy" else blocksim.get_backend(name)


@pytest.fixture(scope="session", params=engine_names())
def backend(request) -> blocksim.Backend:
    """Each engine in turn."""
    return make_engine(request.param)


@pytest.fixture(scope="session", params=["CPU emulation", "GPU"])
def cupy(request):
    """What the CuPy backend computes with: the emulation, and CuPy itself where it finds a GPU."""
    if request.param == "CPU emulation":
        make_engine("cupy-emulated")  # skips where it cannot be built
        return emulated_cupy
    make_engine("cupy")
    return importlib.import_module("cupy")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recordings and reference data that lies beside the repository; not part of the package."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the data folder ../shared/data is not beside this checkout")
    return SHARED_DATA
