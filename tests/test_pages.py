"""Pages with tables that scripts of docs/experiments fill: up to date with the results they are made of."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
# script: the page it fills; results lie in results/SCRIPT
PAGES = {
    "speed": DOCS / "experiments" / "speed.md",
    "recordings": DOCS / "experiments" / "recordings.md",
    "performance": DOCS / "performance.md",
}
OF_OTHER_SCRIPTS = {"performance": {"gpu"}}  # that of asv_bench/gpu_report.py needs a device


@pytest.fixture
def load(monkeypatch):
    """A script as a module; what lies beside it is importable, as when it is run."""
    monkeypatch.syspath_prepend(str(DOCS / "experiments"))
    return importlib.import_module


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_those_of_the_results(load, name):
    folder = DOCS / "experiments" / "results" / name
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    script, pages = load(name), load("pages")
    # in the script's order, which that of some tables follows
    order = getattr(script, "PARTS", None) or script.COMMANDS
    assert set(found) == set(order)
    made = script.tables({part: found[part] for part in order})
    text = PAGES[name].read_text()
    marks = {mark for _, mark, _, _ in pages.MARKED.findall(text)}
    assert marks == set(made) | OF_OTHER_SCRIPTS.get(name, set())
    assert pages.fill(PAGES[name], made) == text, f"python docs/experiments/{name}.py writes other tables"


def test_only_what_is_between_the_marks_is_written(load, tmp_path):
    pages = load("pages")
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- table: one -->\nold\n<!-- end -->\n\n<!-- table: two -->\n<!-- end -->\nAfter.\n")
    pages.write(page, {"one": pages.table(["a", "b"], [["1", r"\1"]])})
    assert page.read_text() == (
        "Before.\n\n<!-- table: one -->\n\n| a | b |\n| --- | --- |\n| 1 | \\1 |\n\n<!-- end -->\n\n"
        "<!-- table: two -->\n<!-- end -->\nAfter.\n"
    )
    with pytest.raises(SystemExit, match="expected <!-- table: three -->"):
        pages.write(page, {"three": "x"})
    page.write_text(2 * page.read_text())
    with pytest.raises(SystemExit, match="found one, two more often"):
        pages.write(page, {"one": "x"})


def test_a_median_is_shown_to_three_digits(load):
    pages = load("pages")
    assert pages.spread(0.0904, 0.088, 0.1012) == "0.090 (0.088 to 0.101)"
    assert pages.spread(7.233, 6.85, 8.014) == "7.23 (6.85 to 8.01)"
    assert pages.spread(15.04, 14.7, 15.52) == "15.0 (14.7 to 15.5)"
    assert pages.spread(2815.2, 2790.0, 2980.4) == "2815 (2790 to 2980)"


@pytest.mark.slow
def test_a_small_run_of_the_speed_experiment(load, tmp_path, capsys):
    speed = load("speed")
    page = tmp_path / "speed.md"
    page.write_text(PAGES["speed"].read_text())
    speed.main(["--quick", "--rounds", "2", "-o", str(tmp_path / "r"), "--page", str(page), "--images", str(tmp_path)])
    found = {part: json.loads((tmp_path / "r" / f"{part}.json").read_text()) for part in speed.PARTS}
    assert all(row["identical"] for part in ("grid", "layers") for row in found[part]["rows"])
    assert all(0 < row["rate"] < 0.1 for part in found.values() for row in part["rows"])
    text = page.read_text()
    assert "| T 64, batch 2 | T 64, batch 4 | T 128, batch 2 | T 128, batch 4 |" in text
    # of the fastest rounds, by hand
    row = found["layers"]["rows"][0]
    blocks, standard = (
        min(sum(pair) for pair in zip(row[method]["forward"], row[method]["backward"], strict=True))
        for method in ("blocks", "standard")
    )
    line = re.search(r"^\| 2 \| 16 \|.*\| (\S+) \|$", text, flags=re.M)
    assert float(line[1]) == pytest.approx(standard / blocks, abs=0.006)
    for picture in ("speed-grid.png", "speed-layers.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert "layers" in capsys.readouterr().out
