"""The report of a device, as far as it can be had without one."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest

import blocksim

from .cuda_emulation import emulated_cupy

ROOT = Path(__file__).resolve().parents[1]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="CPU emulation needs g++, which is not here")


@pytest.fixture
def script(monkeypatch):
    """Imports a script of asv_bench, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "asv_bench"))
    return importlib.import_module


def test_without_a_device_there_is_no_report(script, tmp_path, capsys):
    status = blocksim.available_backends()["cupy"]
    if status == "ready":
        pytest.skip("there is a GPU here")
    assert script("gpu_report").main(["-o", str(tmp_path / "report")]) == 2
    assert f"nothing to report without a GPU. Backend cupy: {status}" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


@needs_compiler
def test_a_report_of_the_emulation_says_that_it_is_one(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script("gpu_report"), "REPEATS", 1)
    assert script("gpu_report").main(["--emulate", "-o", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["emulated"]
    assert report["device"]["name"] == "CPU emulation"
    assert [found["passed"] for found in report["tests"].values()] == [1, 2]
    assert not any(found["failed"] for found in report["tests"].values())
    assert set(report["timings"]) == set(script("gpu_report").PARTS)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# CPU emulation: nothing here was measured on a GPU\n")
    assert text.count("Times in ms in CPU emulation, no GPU's") == len(report["timings"])
    for rate in ("GB/s", "of a copy's", "sequential / scan", "both / ALIF"):
        assert rate not in text, rate


@needs_compiler
def test_a_report_of_a_device_shows_times_and_rates(script, monkeypatch):
    """The same figures, as if they were a device's: what the reader sees then."""
    gpu_report = script("gpu_report")
    monkeypatch.setattr(gpu_report, "REPEATS", 1)
    found = {"selected by": "x", "passed": 3, "failed": {"a::b": "assert 1 == 2"}, "skipped": {}}
    stages = []
    report = gpu_report.collect(
        emulated_cupy, {"Tests": lambda: found, "Slow tests": lambda: found}, lambda: {"output": "asv's table"},
        lambda so_far: stages.append(gpu_report.markdown(so_far)),
    )  # fmt: skip
    text = gpu_report.markdown(report | {"emulated": False})
    # what is cut short leaves what it had: the device, then quick tests, timings, benchmarks, slow tests
    firsts = [next(number for number, stage in enumerate(stages) if words in stage)
              for words in ("CPU emulation", "## Tests", *(f"## {part}" for part in gpu_report.PARTS), "asv's table",
                            "## Slow tests")]  # fmt: skip
    assert firsts == list(range(4 + len(gpu_report.PARTS)))
    for words in ("# The CuPy backend on a GPU", "Times in ms: median", "GB/s", "sequential / scan",
                  "3 passed, 1 failed, 0 skipped", "failed: a::b: assert 1 == 2", "asv's table"):  # fmt: skip
        assert words in text, words
    for row in report["timings"]["Bandwidth"]:
        assert row["GB/s"] == pytest.approx(row["bytes a neuron-step"] * 2 * 40 * 130 / row["ms"] / 1e6, abs=0.06)


@needs_compiler
def test_tables_of_a_report_go_into_a_page(script, monkeypatch, tmp_path):
    gpu_report = script("gpu_report")
    monkeypatch.setattr(gpu_report, "REPEATS", 1)
    assert gpu_report.main(["--emulate", "--timings", "-o", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    report["versions"]["cupy"] = "14.2"
    (tmp_path / "report.json").write_text(json.dumps(report))
    page = tmp_path / "page.md"
    page.write_text(f"before\n<!-- table: {gpu_report.MARK} -->\nstale\n<!-- end -->\nafter\n")
    assert gpu_report.main(["-o", str(tmp_path), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    for title in gpu_report.PARTS:
        assert f"**{title}.**" in text


def test_the_docs_have_the_tables_of_a_device(script):
    text = (ROOT / "docs" / "performance.md").read_text()
    tables = text.split(f"<!-- table: {script('gpu_report').MARK} -->")[1].split("<!-- end -->")[0]
    for title, measure in script("gpu_report").PARTS.items():
        assert f"**{title}.** {measure.__doc__}" in tables


def test_tests_are_counted_by_outcome(script, tmp_path):
    module = tmp_path / "test_three.py"
    module.write_text(
        "import pytest\n"
        "def test_good_one(): pass\n"
        "def test_good_two(): assert 1 == 2\n"
        "def test_good_three(): pytest.skip('no reason')\n"
        "def test_other(): pass\n"
    )
    found = script("gpu_report").suite("good", str(module))
    assert found["passed"] == 1
    assert ["assert 1 == 2" in why for why in found["failed"].values()] == [True]
    assert list(found["skipped"].values()) == ["no reason"]
    assert "error" in script("gpu_report").suite("good", str(tmp_path / "nowhere.py"))


def test_a_device_runs_the_suite_of_its_engines_and_not_the_emulations(script, request):
    """pytest's -k as the report gives it, on names as they are collected here."""
    from _pytest.mark.expression import Expression

    chosen = Expression.compile(script("gpu_report").ON_GPU)

    def runs(name):
        return chosen.evaluate(lambda word: word.lower() in name.lower())

    assert runs("test_golden_case[cupy-standard-3]")
    assert runs("test_golden_case[cupy-standard-3]")
    assert runs("test_copies_are_few_and_counted[GPU-bytes-True]")
    assert not runs("test_golden_case[cupy-emulated-standard-3]")
    assert not runs("test_golden_case[numba-standard-3]")
    assert not runs("test_copies_are_few_and_counted[CPU emulation-bytes-True]")
