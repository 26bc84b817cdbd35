"""The documentation: numbers that are cited exist, links lead somewhere, code blocks run, versions agree."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import pytest

import blocksim

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [path for folder in ("blocksim", "backends", "tests", "asv_bench") for path in (ROOT / folder).rglob("*.py")]


def tags():
    """Numbers of the equations of the three pages, as they stand there."""
    pages = ((ROOT / "docs" / name).read_text() for name in ("model.md", "block.md", "adjoint.md"))
    return [[int(number) for number in re.findall(r"\\tag\{(\d+)\}", page)] for page in pages]


def cited(text):
    """Numbers of equations that a text cites: (7), (7)-(12), (4) and (6)."""
    found = set()
    for first, last in re.findall(r"(?<![\w)\]\d])\((\d{1,2})\)(?:-\((\d{1,2})\))?(?![\w(])", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_equations_are_numbered_once_and_in_order():
    assert all(page == sorted(page) for page in tags())
    assert sorted(itertools.chain(*tags())) == list(range(1, 27))


def test_cited_equations_exist():
    there = set(itertools.chain(*tags()))
    everywhere = set()
    for path in [*SOURCES, *PAGES]:
        if path.name == "test_docs.py":
            continue
        # only comments and docstrings speak of equations; code has calls such as f(3)
        text = path.read_text()
        if path.suffix == ".py":
            text = "\n".join(re.findall(r'#.*|"""(?:.|\n)*?"""', text))
            text = re.sub(r">>>.*", "", text)
        numbers = cited(text)
        assert numbers <= there, f"{path.relative_to(ROOT)} cites {sorted(numbers - there)}"
        if path.suffix == ".py":
            everywhere |= numbers
    assert everywhere == there


def anchors(page):
    """GitHub's anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name) if name else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


PYTHON = {page: re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S) for page in PAGES}


@pytest.mark.parametrize("page", [page for page in PAGES if PYTHON[page]], ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in PYTHON[page]:
        exec(compile(block, page.name, "exec"), namespace)


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == blocksim.__version__
    assert f"\nversion: {blocksim.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{blocksim.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readmes_commands_are_marked_for_ci():
    text = (ROOT / "README.md").read_text()
    assert "<!-- ci: test -->\n```bash\npython -m pip install -e '.[test]' && pytest\n```" in text
    assert "<!-- ci: demo -->\n```bash\npython -m pip install . && blocksim demo\n```" in text


def test_surrogates_in_the_docstring_of_simulate():
    from blocksim.surrogates import SURROGATES

    for name in SURROGATES:
        assert f'"{name}"' in blocksim.simulate.__doc__
