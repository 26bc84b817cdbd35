"""The package as it is built and imported."""

from __future__ import annotations

import ast
import inspect
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import blocksim

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "blocksim").rglob("*.py"))
BACKENDS = sorted((ROOT / "backends").rglob("*.py"))


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
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist")
    shutil.copytree(ROOT, source, ignore=ignored)
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
