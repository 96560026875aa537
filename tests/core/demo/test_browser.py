"""The page in a real browser: it draws, shows pictures, texts and errors, and runs nothing that it shows."""

import html
import re
import shutil
import subprocess

import pytest

from dimo_core.errors import UsageError

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="no Chromium is installed"),
]


@pytest.fixture
def seen(server, tmp_path):
    """What the page looks like after it has drawn, as HTML."""

    def look(query: str = "") -> str:
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        wait = ["--virtual-time-budget=30000", "--dump-dom"]
        done = subprocess.run(
            [BROWSER, *options, *wait, f"{server.url}{query}"], capture_output=True, text=True, timeout=300
        )
        return done.stdout

    return look


def test_generator_and_teacher_draw_what_the_link_asks_for(seen, drawer):
    page = seen("?teacher=1&count=3&condition=even&seed=5&temperature=0.5")
    assert ["generator", "teacher"] == [wish.who for wish in drawer.wishes]
    assert {(3, "even", 5)} == {(wish.count, wish.condition, wish.seed) for wish in drawer.wishes}
    assert [0.5, None] == [wish.temperature for wish in drawer.wishes]
    assert 6 == page.count('<img alt="sample ')
    assert 6 == page.count('src="data:image/png;base64,iVBOR')
    assert 2 == page.count("0.500 s for 3 · 166.7 ms and 1 forward pass each")
    assert 6 == page.count('class="small"')  # pictures of two pixels are loaded, and grow


def test_what_is_shown_is_text_and_never_code(seen, drawer):
    drawer.lines = ("<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>",)
    page = seen()
    (title,) = re.findall(r"<title>(.*?)</title>", page)
    assert '"><script>alert(1)</script>&' == html.unescape(title)
    results = page[page.index('id="results"') :]
    assert "&lt;img src=x onerror=" in results
    assert "<img" not in results.partition("<script")[0]
    assert 1 == page.count("<script")


def test_an_error_is_shown_and_nothing_else(seen, drawer):
    drawer.error = UsageError("unknown class <b>x</b>")
    page = seen("?condition=even")
    assert '<div id="wrong" role="alert">unknown class &lt;b&gt;x&lt;/b&gt;</div>' in page
    assert '<div id="results" aria-live="polite"></div>' in page
    assert not re.search(r"<button[^>]* disabled", page)
