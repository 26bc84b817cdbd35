"""Pages in a real browser: headless Chromium, a server for a folder, and what a page did wrong.

There is no network: what asv's pages load from elsewhere comes from npm packages (`package.json`), installed beside
this file. A request for anything else counts as failed; the site's own pages load nothing.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import shutil
import threading
from pathlib import Path

WIDE, PHONE = 1280, 390  # pixels
HERE = Path(__file__).parent
PACKAGES = HERE / "node_modules"
INSTALL = "npm install --prefix tests/browser --no-package-lock"
# the last three: Chromium would ask for hosts of its own at every start
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
# files that asv's pages load from elsewhere than npm's mirrors, and the packages that have them
ELSEWHERE = {
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
}

# text whose colour is too near to that of what lies behind it: [contrast, text], WCAG 2.1
CONTRAST = """(least) => {
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches, known = new Map();
  const behind = (element) => {
    if (!element) return dark ? [18, 18, 18, 1] : [255, 255, 255, 1];
    if (!known.has(element))
      known.set(element, over(parse(getComputedStyle(element).backgroundColor), behind(element.parentElement)));
    return known.get(element);
  };
  const found = new Set(), seen = new Set(), texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = texts.nextNode());) {
    const element = node.parentElement;
    if (!node.textContent.trim() || seen.has(element) || element.closest("mjx-container, script, style, svg, button"))
      continue;
    seen.add(element);
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const back = behind(element), front = over(parse(getComputedStyle(element).color), back);
    const [low, high] = [light(front), light(back)].sort((a, b) => a - b), ratio = (high + 0.05) / (low + 0.05);
    if (ratio < least) found.add(`${ratio.toFixed(1)}: ${node.textContent.trim().slice(0, 40)}`);
  }
  return [...found];
}"""


def chromium() -> str | None:
    """Path of the system's Chromium."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """Serve a folder on this machine; yields its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def _packaged(url):
    """The file of an installed package that stands for an address, or None."""
    named = re.search(r"/npm/((?:@[\w-]+/)?[\w.-]+?)@[^/]+/([^?#]+)", url)
    path = f"{named[1]}/{named[2]}" if named else ELSEWHERE.get(url.rpartition("/")[2])
    return PACKAGES / path if path and (PACKAGES / path).is_file() else None


class Visitor:
    """One tab: goes to pages and keeps, in `problems`, what went wrong on each."""

    def __init__(self, browser, base):
        self.base, self.problems = base, []
        self.context = browser.new_context(color_scheme="light", viewport={"width": WIDE, "height": 900})
        self.context.set_default_timeout(120_000)  # a busy machine is no failure
        self.page = self.context.new_page()
        self.page.route(lambda url: not url.startswith(base), self._route)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._problem(f"error: {error}"))
        self.page.on("requestfailed", lambda request: self._problem(f"failed: {request.url}"))
        self.page.on("response", self._response)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.context.close()

    def _problem(self, what):
        self.problems.append(f"{self.page.url.removeprefix(self.base)}: {what}")

    def _route(self, route):
        path = _packaged(route.request.url)
        if path is None:
            route.abort()
        else:
            route.fulfill(path=path, headers={"Access-Control-Allow-Origin": "*"})

    def _console(self, message):
        if message.type in ("error", "warning"):
            self._problem(f"console: {message.text}")

    def _response(self, response):
        if response.status >= 400:
            self._problem(f"{response.status}: {response.url}")

    def go(self, path):
        """Open a page, and wait until its formulas are set."""
        self.page.goto(self.base + path, wait_until="load")
        self.page.evaluate("() => window.MathJax && MathJax.startup && MathJax.startup.promise.then(() => null)")
        return self.page

    def change(self, *, dark, width):
        """Look at the page at hand in other colours and on another screen."""
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.set_viewport_size({"width": width, "height": 900})

    def check(self, condition, what):
        """Note what is wrong unless a condition holds."""
        if not condition:
            self._problem(what)

    def check_contrast(self, least=4.5):
        """Note text that is hard to read against what lies behind it."""
        for what in self.page.evaluate(CONTRAST, least):
            self._problem(f"contrast {what}")

    def check_images(self):
        """Note pictures that did not load, or that say nothing to a person who does not see them."""
        # a thumbnail's text is the title beside it
        alone = "(i) => [i.src, i.naturalWidth, i.alt || (i.closest('.sphx-glr-thumbcontainer')?.textContent ?? '')]"
        for source, width, text in self.page.evaluate(f"() => [...document.images].map({alone})"):
            self.check(width, f"no picture: {source[:100]}")
            self.check(text.strip(), f"no alternative text: {source[:100]}")

    def check_formulas(self):
        """Note formulas that were not set, and those that MathJax complains of."""
        wanted, done, wrong = self.page.evaluate(
            """() => [document.querySelectorAll(".math").length,
              [...document.querySelectorAll(".math")].filter((e) => e.querySelector("mjx-container")).length,
              [...document.querySelectorAll("mjx-merror, [data-mjx-error], mjx-mtext[style*='red']")]
                .map((e) => e.getAttribute("data-mjx-error") || e.closest(".math").textContent.slice(0, 80))]"""
        )
        self.check(done == wanted, f"{wanted} formulas, of which {done} are set")
        for what in wrong:
            self._problem(f"formula: {what}")
        return done
