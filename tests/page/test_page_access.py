"""Every state of the page, in light and dark: axe-core finds nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core."""
    package = pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    return (Path(package.__file__).parent / "axe.min.js").read_text()


def start(page, base):
    page.wait_for_selector(".nothing.start")


def hits(page, base):
    page.fill("#query", "reddish planet")
    page.wait_for_selector("#hits .hit")


def lit_with_filters(page, base):
    hits(page, base)
    page.click("#filter-type > summary")
    page.focus(".word >> nth=0")
    page.click("#filter-c > summary")


def hostile_reader(page, base):
    page.goto(f"{base}/#/search?q=planet&c=hostile&all=1")
    page.wait_for_selector("#hits .hit:nth-child(10)")
    page.locator(".hit-title").first.click()
    page.wait_for_selector("#reader .line.own")
    page.wait_for_selector("#related li")


def nothing(page, base):
    page.fill("#query", "zzz")
    page.wait_for_selector(".nothing h2")


def answer(page, base):
    page.goto(f"{base}/#/ask")
    page.fill("#question", "reddish planet")
    page.keyboard.press("Enter")
    page.wait_for_selector(".sources li[data-cited]")


def collections(page, base):
    page.goto(f"{base}/#/collections")
    page.wait_for_selector(".card")
    page.click(".failed summary")
    page.wait_for_selector(".failures li")


def keys(page, base):
    page.click("#help")


def lost(page, base):
    page.route("**/search", lambda route: route.abort())
    page.route("**/health", lambda route: route.abort())
    page.fill("#query", "mountain")
    page.wait_for_selector("#banner:not([hidden])")


STATES = (start, hits, lit_with_filters, hostile_reader, nothing, answer, collections, keys, lost)


def check(visit, axe, state):
    """Run axe-core in a state, in light and dark."""
    state(visit.page, visit.url)
    visit.page.evaluate(axe)
    for scheme in ("light", "dark"):
        visit.page.emulate_media(color_scheme=scheme)
        found = visit.page.evaluate("async () => (await axe.run()).violations")
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_axe_finds_nothing(visits, served, axe, state):
    visit = visits(served, reduced_motion="reduce")
    visit.allowed = ["Failed to load resource"]
    check(visit, axe, state)


@pytest.mark.parametrize("state", [hits, hostile_reader], ids=lambda state: state.__name__)
def test_axe_finds_nothing_on_a_phone(visits, served, axe, state):
    visit = visits(served, viewport={"width": 390, "height": 800}, reduced_motion="reduce")
    visit.page.click("#filter-toggle")
    check(visit, axe, state)
