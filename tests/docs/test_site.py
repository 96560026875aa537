"""The site in a real browser, without a network: equations, pictures, links, code and colours of every page.

Chromium is driven through its own protocol over a pipe, so nothing but the browser is needed.
``DIMO_SITE=FOLDER`` looks at a site that is built already.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDE, NARROW = 1440, 400

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium"),
]

LAUNCH = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from file descriptor 3 and writes to 4."""

LOOK = r"""
(() => {
  const article = document.querySelector('article') || document.body;
  const text = article.cloneNode(true);
  text.querySelectorAll('pre, code, script, style, math').forEach(node => node.remove());
  return {
    title: document.title,
    raw: (text.textContent.match(/\\\(|\\\[|\$\$|\\(frac|mathrm|theta|phi|psi)\b/g) || []),
    missing: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    ids: [...document.querySelectorAll('[id], a[name]')].flatMap(node => [node.id, node.name]),
    equations: document.querySelectorAll('math').length,
  };
})()
"""

SCROLLING = """
[...document.querySelectorAll('pre')].filter(pre => pre.scrollWidth > pre.clientWidth + 1)
  .map(pre => pre.textContent.split('\\n').reduce((a, b) => a.length > b.length ? a : b))
"""

CONTRAST = r"""
(() => {
  const light = color => {
    const [r, g, b] = color.match(/[\d.]+/g).slice(0, 3).map(x => x / 255)
      .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = node => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (!/, 0\)$/.test(color) && color !== 'transparent') return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const of = node => {
    const pair = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => a - b);
    return (pair[1] + 0.05) / (pair[0] + 0.05);
  };
  return [...document.querySelectorAll('article p, article math, article pre, article td')]
    .map(node => [of(node), node.textContent.slice(0, 60)]).filter(([ratio]) => ratio < 4.5);
})()
"""


class Browser:
    """Chromium without a window, a network, or any profile but its own."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        theirs_in, self._out = os.pipe()
        into, theirs_out = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        flags += [f"--user-data-dir={profile}", "--allow-file-access-from-files"]
        flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "about:blank"]
        command = [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), CHROMIUM, *flags]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in), os.close(theirs_out)
        fcntl.fcntl(into, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        self._in, self._rest, self._last, self.session = into, b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._in), os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._in, 1 << 16)
            assert read, "chromium has ended"
            self._rest += read
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        if "method" in message:
            self.events.append(message)
        return message

    def evaluate(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def width(self, pixels: int) -> None:
        settings = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **settings)

    def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(self, page: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()
        self.evaluate("document.fonts.ready.then(() => true)")

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, uncaught exceptions, and requests to anywhere else."""
        found = []
        for event in self.events:
            method, about = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(f"exception: {about['exceptionDetails']['text']}")
            if method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                found.append(f"console: {about['args']}")
            if method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                found.append(f"log: {about['entry']['text']} {about['entry'].get('url', '')}")
            if method == "Network.requestWillBeSent" and not about["request"]["url"].startswith(
                ("file:", "data:", "blob:")
            ):
                found.append(f"fetched from elsewhere: {about['request']['url']}")
        return found


def faults(browser: Browser, pages: list[Path]) -> dict[str, list[str]]:
    """What is wrong, by page."""
    seen = {page: look(browser, page) for page in pages}
    ids = {page.as_uri(): {*found["ids"], ""} for page, found in seen.items()}
    wrong: dict[str, list[str]] = {}
    for page, found in seen.items():
        mistakes = [*found["complaints"]]
        mistakes += [f"raw {text!r}" for text in found["raw"]]
        mistakes += [f"missing picture {source}" for source in found["missing"]]
        mistakes += [f"scrolls at {width}: {line}" for width, line in found["scrolling"]]
        mistakes += [f"hard to read in {mode}: {text}" for mode, text in found["faint"]]
        for link in {*found["links"]}:
            address, anchor = urldefrag(link)
            if not link.startswith("file:"):
                continue
            if address not in ids and not Path(unquote(address.removeprefix("file://"))).is_file():
                mistakes.append(f"dead link {link}")
            elif address in ids and unquote(anchor) not in ids[address]:
                mistakes.append(f"dead anchor {link}")
        if mistakes:
            wrong["/".join(page.parts[-2:])] = mistakes
    return wrong


def look(browser: Browser, page: Path) -> dict[str, Any]:
    """All that is to be known of a page."""
    browser.width(WIDE)
    browser.open(page)
    found: dict[str, Any] = browser.evaluate(LOOK)
    found["scrolling"] = [(WIDE, line) for line in browser.evaluate(SCROLLING)]
    browser.width(NARROW)
    found["scrolling"] += [(NARROW, line) for line in browser.evaluate(SCROLLING)]
    found["faint"] = []
    for mode in ("light", "dark"):
        browser.scheme(mode)
        found["faint"] += [(mode, text) for _, text in browser.evaluate(CONTRAST)]
    return {**found, "complaints": browser.complaints()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if built := os.environ.get("DIMO_SITE"):
        return Path(built).resolve()
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_reads_well_offline(browser: Browser, site: Path) -> None:
    pages = sorted(page for page in site.rglob("*.html") if "_static" not in page.parts)
    assert len(pages) > 50
    assert faults(browser, pages) == {}


def test_equations_are_drawn_with_the_font_that_goes_along(browser: Browser, site: Path) -> None:
    browser.open(site / "algorithm.html")
    assert browser.evaluate("document.querySelectorAll('math').length") > 20
    assert browser.evaluate("document.querySelector('math').getBoundingClientRect().height") > 10
    fonts = "[...document.fonts].map(font => [font.family, font.status])"
    states = {name.strip('"'): state for name, state in browser.evaluate(fonts)}
    assert states["STIX Two Math"] == "loaded"


BAD = r"""<!doctype html><html><body><article>
<p>An equation \(x\) and $$y$$.</p> <p style="color: #ddd; background: #fff">Too faint.</p>
<img src="nowhere.png"> <a href="nothing.html">x</a> <a href="#nobody">y</a>
<pre style="width: 10em; overflow: auto">a very long line that no column of ten letters can hold at once</pre>
<script src="http://elsewhere.example/mathjax.js"></script>
<script>console.error("a complaint"); undefined.property;</script>
</article></body></html>"""


def test_what_is_wrong_with_a_page_is_found(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(BAD)
    (found,) = faults(browser, [page]).values()
    for fault in (
        r"raw '\\('", "raw '$$'", "missing picture", "dead link", "dead anchor", "scrolls at 1440",
        "console: ", "exception: ", "fetched from elsewhere", "hard to read in light",
    ):  # fmt: skip
        assert any(text.startswith(fault) for text in found), (fault, found)
