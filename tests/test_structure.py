"""The structure of the code: what may import what, and the picture of it."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


@pytest.fixture(scope="module")
def drawing():
    spec = importlib.util.spec_from_file_location("modules", IMAGES / "modules.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_module_imports_from_its_own_row_and_those_below(drawing):
    edges = drawing.graph()
    row = {box: number for number, boxes in enumerate(drawing.ROWS.values()) for box in boxes}
    assert set(edges) == set(row), "every module has a row, and every row's modules exist"
    upward = [(box, target) for box, targets in edges.items() for target in targets if row[target] < row[box]]
    assert not upward


def test_no_import_goes_round(drawing):
    edges = {box: set(targets) for box, targets in drawing.graph().items()}
    while True:
        last = [box for box, targets in edges.items() if not targets]
        if not last:
            break
        edges = {box: targets - set(last) for box, targets in edges.items() if box not in last}
    assert not edges


def test_the_core_imports_no_backend_and_backends_none_other(drawing):
    for box, targets in drawing.graph().items():
        assert not targets & set(drawing.BACKENDS), box


def test_recordings_know_nothing_of_fits(drawing):
    known = drawing.modules()
    for name, path in known.items():
        if name.startswith("ephys._recordings"):
            assert not {each for each in drawing.imports(name, path, known) if "_fitting" in each or "_gif" in each}, (
                name
            )


def test_texts_of_the_library_name_no_options_of_commands(drawing):
    for name, path in drawing.modules().items():
        if name.split(".")[0] == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and "warn" in ast.dump(node.func)):
                for text in ast.walk(node):
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        option = re.search(r"(?<![\w-])--(?!upgrade)[a-z]", text.value)
                        assert not option, f"{name}, line {text.lineno}: {text.value}"


def test_the_picture_is_of_this_code(drawing):
    with Image.open(drawing.PICTURE) as picture:
        assert picture.text["Description"] == drawing.digest(), "python docs/images/modules.py draws it anew"


@pytest.mark.parametrize("folder", ["", "data", "training", "ephys"])
def test_what_is_not_documented_is_private(folder):
    root = IMAGES.parents[1]
    pages = [path for ending in ("rst", "md", "py") for path in (root / "docs").rglob(f"*.{ending}")]
    text = "".join(path.read_text(encoding="utf-8") for path in pages) + "blocksim.errors"  # whose names are blocksim's
    for path in (root / "blocksim" / folder).glob("*.py"):
        name = ".".join(part for part in ("blocksim", folder, path.stem) if part)
        assert path.stem.startswith("_") or name in text, f"{name}: expected a name that begins with an underscore"
