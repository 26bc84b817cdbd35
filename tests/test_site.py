"""The documentation site, a fit's report and asv's pages in headless Chromium: they load, can be read and searched.

`BLOCKSIM_SITE` names the site's folder, as `sphinx-build` made it, and `BLOCKSIM_ASV` that of `asv publish`. Where the
first is set nothing may be missing; else what is missing is said, and the tests are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import blocksim

from . import browser as browsing
from .browser import PHONE, WIDE, Visitor, served

ROOT = Path(__file__).resolve().parents[1]
SITE = os.environ.get("BLOCKSIM_SITE")


def missing(reason):
    """Skip, or fail where the site must be tested."""
    if SITE:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    if importlib.util.find_spec("playwright") is None:
        missing("playwright is not installed: python -m pip install -e '.[docs]'")
    if browsing.chromium() is None:
        missing("Chromium is not installed: apt-get install chromium")
    if not browsing.PACKAGES.is_dir():
        missing(f"what pages load from the network is not there: {browsing.INSTALL}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=browsing.chromium(), args=browsing.FLAGS.split())


@pytest.fixture(scope="module")
def folder(browser):
    if SITE:
        return Path(SITE)
    built = ROOT / "docs" / "_build" / "html"
    if not (built / "index.html").exists():
        missing("the site is not built: sphinx-build -W --keep-going docs docs/_build/html")
    return built


@pytest.fixture(scope="module")
def site(folder):
    with served(folder) as address:
        yield address


@pytest.fixture(scope="module")
def pages(folder):
    there = (str(path.relative_to(folder)) for path in folder.rglob("*.html") if "_static" not in path.parts)
    names = sorted(name for name in there if name != "search.html")  # which has a test of its own
    assert len(names) > 20, names
    return names


def test_pages_load_and_can_be_read(browser, site, pages):
    with Visitor(browser, site) as tab:
        for name in pages:
            page = tab.go(name)
            tab.check(page.locator("h1").count() == 1, "not one title")
            tab.check_images()
            tab.check_formulas()
            tab.check_contrast()
            tab.change(dark=True, width=PHONE)
            tab.check_contrast()
            # the theme gives what is too wide a scroll bar of its own, which is no better
            wide = page.evaluate(
                "Math.max(...[...document.querySelectorAll('html, .content')].map((e) => e.scrollWidth))"
            )
            tab.check(wide <= PHONE, f"{wide} pixels wide on a screen of {PHONE}")
            behind = "[...document.querySelectorAll('article img')].map((i) => getComputedStyle(i).backgroundColor)"
            for colour in page.evaluate(behind):
                tab.check(colour == "rgb(255, 255, 255)", f"a picture on {colour}")
            tab.change(dark=False, width=WIDE)
    assert not tab.problems, "\n".join(tab.problems)


def test_equations_have_numbers_and_places(browser, site):
    where = {}
    with Visitor(browser, site) as tab:
        for name in ("model", "adjoint"):
            numbers = re.findall(r"\\tag\{(\d+)\}", (ROOT / "docs" / f"{name}.md").read_text())
            page = tab.go(f"{name}.html")
            assert tab.check_formulas() > len(numbers)
            for number in numbers:
                shown = page.locator(f"#equation-{number} mjx-container").evaluate("e => e.textContent")
                assert f"({number})" in "".join(shown.split()), number
                where[number] = name
        # a citation in a docstring leads there
        page = tab.go("reference/simulation.html")
        page.locator("a", has_text="(7)").first.click()
        page.wait_for_url(f"**/{where['7']}.html#equation-7", timeout=20_000)
    assert sorted(map(int, where)) == list(range(1, len(where) + 1))
    assert not tab.problems, "\n".join(tab.problems)


def test_search_finds_refractory(browser, site):
    with Visitor(browser, site) as tab:
        page = tab.go("index.html")
        box = page.locator("input[name=q]").first
        box.fill("refractory")
        box.press("Enter")
        results = page.locator("#search-results li a")
        results.nth(4).wait_for()
        page.wait_for_load_state("networkidle")  # results come one by one, and fetch their pages for a summary
        results.first.click()
        page.wait_for_load_state()
        assert "refractory" in page.locator("article").inner_text().lower()
    assert not tab.problems, "\n".join(tab.problems)


def test_the_report_of_a_fit(browser, tmp_path):
    neuron = blocksim.ALIF.from_ms(tau_mem=20, tau_adapt=100, adaptation=0.3, refractory=4, dt=0.1)
    current = 300 + 200 * np.repeat(np.random.default_rng(0).standard_normal(800), 50)  # pA, new every 5 ms
    run = blocksim.simulate(blocksim.Layer(neuron), current[:, None] * 4e-5, record=("voltage",))
    potential = np.where(run.spikes[:, 0], 20.0, -70 + 20 * run.voltage[:, 0])
    np.savez(tmp_path / "cell.npz", current=current, voltage=potential, sampling_rate=10_000.0)
    (tmp_path / "few.toml").write_text("[fit]\ncandidates = 64\nrestarts = 2\nepochs = 5\ngenerations = 2\n")
    command = [sys.executable, "-m", "blocksim", "fit", "cell.npz", "-o", "fit", "--config", "few.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with served(tmp_path / "fit") as address, Visitor(browser, address) as tab:
        page = tab.go("report.html")
        assert page.locator("figure img").count() >= 4
        page.locator("details summary").click()
        tab.check_images()
        tab.check_contrast()
        tab.change(dark=True, width=PHONE)
        tab.check_contrast()
    assert not tab.problems, "\n".join(tab.problems)


def test_asv_pages(browser, tmp_path):
    published = os.environ.get("BLOCKSIM_ASV")
    if not published:
        missing("BLOCKSIM_ASV does not name a folder of asv publish")
    shutil.copytree(published, tmp_path / "asv")
    index = tmp_path / "asv" / "index.html"
    # libraries come from npm, some of them not minified: they are not the files that these checksums are of
    index.write_text(re.sub(r'\s(integrity|crossorigin|referrerpolicy)="[^"]*"', "", index.read_text()))
    with served(tmp_path / "asv") as address, Visitor(browser, address) as tab:
        page = tab.go("index.html")
        page.locator("#summarygrid-display a").first.wait_for()
        assert page.locator("#summarygrid-display a").count() > 10
    assert not tab.problems, "\n".join(tab.problems)
