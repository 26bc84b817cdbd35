"""The package as it is built and imported."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numba
import pytest

import blocksim

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "blocksim").rglob("*.py"))
BACKENDS = sorted((ROOT / "backends").rglob("*.py"))
NOT_SOURCES = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist")


def imported(path):
    """Names of the modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_core_imports_no_backend():
    for path in CORE:
        assert not [name for name in imported(path) if name.startswith(("blocksim.backends", "backends"))], path


def test_backends_do_not_import_each_other():
    folders = {path.parent.name for path in BACKENDS} - {"backends"}
    for path in BACKENDS:
        for name in imported(path):
            parts = name.split(".")
            assert not (folders - {path.parent.name}) & set(parts), path


def test_import_is_light():
    heavy = ("numba", "matplotlib", "click", "rich", "scipy", "cupy")
    code = f"import sys, blocksim; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_documented():
    for name in blocksim.__all__:
        thing = getattr(blocksim, name)
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if not method.startswith("_") and callable(getattr(function, "__func__", function)):
                    assert inspect.getdoc(getattr(thing, method)), f"{name}.{method}"


@pytest.mark.parametrize("name", ["LIF", "ALIF", "Layer", "simulate", "Events", "Surrogate", "get_backend"])
def test_main_names_have_an_example_that_runs_as_a_doctest(name):
    assert ">>>" in inspect.getdoc(getattr(blocksim, name))


@pytest.mark.slow
def test_the_wheel_holds_every_subpackage(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCES)
    subprocess.run([sys.executable, "-m", "build", "--wheel", "-o", str(tmp_path / "dist"), str(source)],
                   check=True, capture_output=True)  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    expected = {path.relative_to(ROOT).as_posix() for path in CORE}
    backends = [*BACKENDS, *(ROOT / "backends").rglob("*.cu*")]
    expected |= {"blocksim/" + path.relative_to(ROOT).as_posix() for path in backends} | {
        "blocksim/py.typed",
        "blocksim/ephys/report.html",
    }
    found = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {name for name in found if ".dist-info" not in name} == expected
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in sorted(expected)
               if name.endswith(".py") and not name.endswith("__main__.py")]  # fmt: skip
    code = f"""
import importlib, sys
sys.path.insert(0, {str(site)!r})
import blocksim
assert blocksim.__file__.startswith({str(site)!r}), blocksim.__file__
for name in {modules!r}:
    try:
        module = importlib.import_module(name)
    except blocksim.errors.MissingLibraryError:
        assert name in ("blocksim.interop.torch", "blocksim.interop.jax"), name
        continue
    assert module.__file__.startswith({str(site)!r}), module.__file__
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True, cwd=tmp_path)


@pytest.fixture
def installed(tmp_path):
    """The package as an installer leaves it, without the build."""
    site = tmp_path / "site-packages"
    shutil.copytree(ROOT / "blocksim", site / "blocksim", ignore=NOT_SOURCES)
    shutil.copytree(ROOT / "backends", site / "blocksim" / "backends", ignore=NOT_SOURCES)
    return site


COMPILES = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, blocksim
from blocksim.backends.numba_cpu import compiling, filters
assert compiling.__file__.startswith(sys.argv[1]), compiling.__file__
engine = blocksim.get_backend("numba")
engine.leaky_filter(np.ones((1, 4, 1)), 0.9)
print(sum(filters.filter_few.dispatcher.stats.cache_hits.values()), engine.describe()["kernel cache"])
"""


def compile_in(site, **variables):
    """Whether a kernel was found among the kept ones by a new process, where they are kept, and what it warned of."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_CACHE", "XDG_CACHE"))}
    done = subprocess.run([sys.executable, "-P", "-c", COMPILES, str(site)], env={**kept, **variables}, cwd=site.parent,
                          capture_output=True, text=True, check=True)  # fmt: skip
    hits, place = done.stdout.rstrip("\n").split(" ", 1)
    assert not [path for path in site.rglob("*") if path.suffix in (".nbi", ".nbc")]
    return int(hits), place, done.stderr


def test_an_installed_package_keeps_no_kernels_beside_its_sources(installed, tmp_path):
    """Its installer would not remove them, and what is left of the folder hides an editable installation."""
    user = {"XDG_CACHE_HOME": str(tmp_path / "user")}
    (first, place, said), (second, again, _) = [compile_in(installed, **user) for _ in range(2)]
    assert (first, second, place) == (0, 1, again)
    assert "BlocksimWarning" not in said
    assert list(Path(place).glob("filters.filter_few-*.nbc"))
    if sys.platform == "linux":
        assert Path(place).is_relative_to(tmp_path / "user" / "numba")
    # as another version that is installed in its place
    with open(installed / "blocksim" / "backends" / "numba_cpu" / "simd.py", "a") as file:
        file.write("# another\n")
    assert [compile_in(installed, **user)[:2] for _ in range(2)] == [(0, place), (1, place)]
    # as another installation of the same user
    (tmp_path / "other").mkdir()
    other = Path(shutil.copytree(installed, tmp_path / "other" / "site-packages"))
    found = compile_in(other, **user)
    assert found[0] == 0
    assert found[1] != place

    chosen = tmp_path / "chosen"
    hits, place, _ = compile_in(installed, **user, NUMBA_CACHE_DIR=str(chosen))
    assert hits == 0
    assert Path(place).parent == chosen


@pytest.mark.skipif(sys.platform != "linux", reason="the user's cache folder cannot be redirected on this system")
def test_an_installed_package_without_a_folder_for_kernels_says_so(installed, tmp_path):
    (tmp_path / "file").touch()
    for _ in range(2):
        hits, place, said = compile_in(installed, XDG_CACHE_HOME=str(tmp_path / "file"))
        assert hits == 0
        assert place == "none: no folder can be written to (set NUMBA_CACHE_DIR)"
        assert "BlocksimWarning: compiled kernels are not kept" in said
    if hasattr(numba.config, "CACHE_LOCATOR_CLASSES"):  # newer than 0.61
        hits, place, said = compile_in(installed, NUMBA_CACHE_LOCATOR_CLASSES="Misspelt")
        assert hits == 0
        assert place.startswith("none: Unknown cache locator class: 'Misspelt'")
        assert "NUMBA_CACHE_DIR" not in said


def test_python_started_in_a_checkout_finds_the_backends():
    """After `pip install .`, which leaves nothing that leads back here."""
    code = (
        "import sys; sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in str(finder).lower()]; "
        "import blocksim; print(blocksim.__file__, type(blocksim.get_backend('numpy')).__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == [
        str(ROOT / "blocksim" / "__init__.py"),
        "blocksim.backends.numpy_reference.reference",
    ]
