"""The page that a host shows beside the hits, in a real browser, with a host around it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from mlx_colbert.collection.hits import CollectionHit, Match
from mlx_colbert.mcp.page import PAGE_KEY, html, page_of

EVIL = '<img src=x onerror="parent.hacked=1"><script>parent.hacked=1</script> 😀 tea & "leaves"'
HOST = """<!doctype html><body><iframe sandbox="allow-scripts" style="width:600px;height:400px"></iframe><script>
const frame = document.querySelector("iframe"), seen = [];
window.addEventListener("message", (event) => {
  const message = event.data;
  if (message.jsonrpc) seen.push(message.method);
  if (message.method === "ui/initialize") frame.contentWindow.postMessage(
    { jsonrpc: "2.0", id: message.id, result: { hostContext: { theme: "dark" } } }, "*");
  if (message.method === "ui/notifications/initialized") frame.contentWindow.postMessage(
    { jsonrpc: "2.0", method: "ui/notifications/tool-result", params: RESULT }, "*");
  if (message === "hacked" || window.hacked) document.title = "hacked";
});
frame.srcdoc = PAGE;
</script>"""


def test_page_asks_for_nothing_and_sets_no_html():
    page = html()
    assert not re.search(
        r"https?:|//\w|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|src=|href=", page
    )


def test_page_shows_the_words_with_their_shades():
    hit = CollectionHit(
        1,
        0.9,
        "tea.md#1a2b3c4d",
        "Steep tea.",
        None,
        "notes/tea.md",
        {"lines": [3, 3], "headings": ["Tea"]},
        path="/n/tea.md",
        confidence=0.93,
        words=(Match(0, 5, 0.2, 0), Match(6, 9, 0.9, 1)),
    )
    shown = page_of("how tea", [hit])
    assert shown["query_words"] == ["how", "tea"]
    assert shown["hits"][0]["cite"] == "/n/tea.md:3" and shown["hits"][0]["words"][1]["similarity"] == 0.9


@pytest.mark.slow
def test_browser_shows_hostile_text_as_text_and_lights_up_the_words_of_the_query(monkeypatch):
    # What MLX needs in this process crashes the browser.
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    api = pytest.importorskip("playwright.sync_api")
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("needs Chromium")
    tea = EVIL.replace("😀", "x").index("tea")
    hit = CollectionHit(
        1, 0.9, "a", EVIL, None, EVIL, {"headings": [EVIL]}, words=(Match(tea, tea + 3, 0.9, 1),)
    )
    result = {"content": [], "_meta": {PAGE_KEY: page_of("green tea", [hit])}}
    texts = (json.dumps(value).replace("</", "<\\/") for value in (result, html()))
    page_of_host = HOST.replace("RESULT", next(texts)).replace("PAGE", next(texts))
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            page = opened.new_page()
            errors = []
            page.on("pageerror", lambda error: errors.append(error))
            page.set_content(page_of_host)
            frame = page.frame_locator("iframe")
            frame.locator("mark").wait_for()
            assert frame.locator("mark").all_text_contents() == ["tea"]
            assert frame.locator("pre").text_content() == EVIL
            assert frame.locator("img, script:not(body > script)").count() == 0
            frame.get_by_role("button", name="tea").hover()
            assert frame.locator("mark.lit").count() == 1
            assert page.evaluate("window.hacked") is None and errors == []
            assert "ui/notifications/size-changed" in page.evaluate("seen")
        finally:
            opened.close()
