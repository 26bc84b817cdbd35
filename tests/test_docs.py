"""The documentation: numbers that are cited exist, links lead somewhere, code blocks run, versions agree.

`tests/test_site.py` opens what Sphinx makes of it.
"""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest

import blocksim
from blocksim.cli import main

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "node_modules" not in page.parts]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *WRITTEN]
SOURCES = [path for folder in ("blocksim", "backends", "tests", "asv_bench") for path in (ROOT / folder).rglob("*.py")]


def tags(page):
    """Numbers of the equations that a page states."""
    return [int(number) for number in re.findall(r"\\tag\{(\d+)\}", page.read_text())]


def cited(text):
    """Numbers of equations that a text cites: (7), (7)-(12), (4) and (6)."""
    found = set()
    for first, last in re.findall(r"(?<![\w)\]\d])\((\d{1,2})\)(?:-\((\d{1,2})\))?(?![\w(])", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_equations_are_numbered_once_and_in_order():
    stated = [tags(page) for page in PAGES]
    assert all(numbers == sorted(numbers) for numbers in stated)
    assert sorted(number for numbers in stated for number in numbers) == list(range(1, 41))


def test_cited_equations_exist():
    there = {number for page in PAGES for number in tags(page)}
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
        if "://" in target:
            # whether they answer, a person with a network asks: sphinx-build -b linkcheck docs docs/_build/linkcheck
            parts = urlsplit(target)
            assert parts.scheme == "https", target
            assert re.fullmatch(r"[a-z0-9.-]+\.[a-z]{2,}", parts.netloc), target
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name) if name else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def blocks(language):
    """The pages that have code blocks in a language, and these."""
    pattern = rf"^```{language}\n(.*?)^```"
    found = {page: re.findall(pattern, page.read_text(), flags=re.M | re.S) for page in PAGES}
    return {page: texts for page, texts in found.items() if texts}


PYTHON, BASH, TOML = blocks("python"), blocks("bash"), blocks("toml")


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in PYTHON[page]:
        exec(compile(block, page.name, "exec", dont_inherit=True), namespace)  # as a reader would run it


def commands(text):
    """Arguments of every `blocksim` command in a shell script."""
    text = text.replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while words:
            ends = [index for index, word in enumerate(words) if word in ("&&", "||", "|", ";")]
            command, words = words[: (ends or [len(words)])[0]], words[ends[0] + 1 :] if ends else []
            if command[:1] == ["blocksim"]:
                yield command[1:]


def parse(arguments):
    """Parse a command line as `blocksim` would, without running it: an unknown option or a missing one raises."""
    command, context = main, None
    while True:
        name, *rest = arguments
        command = command.commands[name]
        if not isinstance(command, click.Group):
            command.make_context(name, rest, parent=context)
            return
        context, arguments = click.Context(command, info_name=name, parent=context), rest


@pytest.mark.parametrize("page", BASH, ids=lambda page: page.name)
def test_shell_blocks_are_well_formed(page):
    for block in BASH[page]:
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        for arguments in commands(block):
            parse(arguments)


def test_a_command_that_does_not_exist_is_found():
    assert list(commands("x=1 && blocksim info # all\nblocksim fit a.npz \\\n  -o b | tee log")) == [
        ["info"],
        ["fit", "a.npz", "-o", "b"],
    ]
    with pytest.raises(click.UsageError):
        parse(["fit", "a.npz", "-o", "b", "--no-such-option"])
    with pytest.raises(click.UsageError):
        parse(["fit", "a.npz"])  # -o is required
    with pytest.raises(KeyError):
        parse(["fitt", "a.npz", "-o", "b"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_text_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for code in re.findall(r"`blocksim ([^`]+)`", text):
        command, words = main, [word for word in code.split() if word != "COMMAND"]
        while words and words[0] != "--help" and isinstance(command, click.Group):
            command = command.commands[words.pop(0).rstrip(",")]
        options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        assert {word.split("=")[0] for word in words if word.startswith("-")} <= options, code


@pytest.mark.parametrize("page", TOML, ids=lambda page: page.name)
def test_toml_blocks_are_well_formed(page):
    for block in TOML[page]:
        tomllib.loads(block)


@pytest.mark.parametrize("module", ["blocksim", "blocksim.data", "blocksim.ephys", "blocksim.training"])
def test_the_reference_has_every_public_name(module):
    directive = re.compile(
        r"^\.\. (?:(?:current)?module:: ([\w.]+)|auto(?:class|function|exception):: (\w+))$", flags=re.M
    )
    there, current = set(), ""
    for page in sorted((ROOT / "docs" / "reference").glob("*.rst")):
        for owner, name in directive.findall(page.read_text()):
            current = owner or current
            there.add(f"{current}.{name}")
    package = importlib.import_module(module)
    for name in package.__all__:
        assert {f"{module}.{name}", f"{getattr(package, name).__module__}.{name}"} & there, name


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == blocksim.__version__
    assert f"\nversion: {blocksim.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{blocksim.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readmes_commands_are_marked_for_ci():
    text = (ROOT / "README.md").read_text()
    assert "<!-- ci: test -->\n```bash\npython -m pip install -e '.[test]' && pytest -n auto\n```" in text
    assert "<!-- ci: demo -->\n```bash\npython -m pip install . && blocksim demo\n```" in text


def test_surrogates_in_the_docstring_of_simulate():
    from blocksim.surrogates import SURROGATES

    for name in SURROGATES:
        assert f'"{name}"' in blocksim.simulate.__doc__
