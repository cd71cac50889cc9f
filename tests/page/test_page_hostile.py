"""Documents of strangers: nothing in them runs, and all of it is shown. `Visit.ended` checks that nothing ran."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def hits(page, served):
    """All hits in the hostile documents."""
    page.goto(f"{served.url}/#/search?q=planet&c=hostile&all=1")
    page.wait_for_selector("#hits .hit:nth-child(10)")
    return page.locator("#hits .hit")


def test_markup_is_shown_as_text(page, hits):
    text = page.locator("#hits").inner_text()
    assert "<script>alert('p')</script>" in text
    assert "<img src=x onerror=alert(1)>" in text
    assert page.locator("#hits :is(script, img, svg, iframe, object, style)").count() == 0


def test_links_of_documents_cannot_be_followed(page, hits):
    hrefs = page.locator("main a, #reader a").evaluate_all(
        "links => links.map(link => link.getAttribute('href'))"
    )
    assert [href for href in hrefs if not href.startswith("#/")] == []


def test_signs_that_cannot_be_seen_are_named(page, hits):
    bidi = hits.filter(has_text="five").first
    signs = bidi.locator(".passage .sign").all_inner_texts()
    assert {"U+202E", "U+202C", "U+200B", "U+2066"} <= set(signs)
    control = hits.filter(has_text="six").first
    assert "U+001B" in control.locator(".passage .sign").all_inner_texts()
    turned = hits.filter(has_text="eight").first
    assert "\u27e8U+202E\u27e9" in turned.locator(".path").inner_text()
    assert "\u202e" not in page.locator("#hits").inner_text()


def test_text_of_other_scripts_stays_whole(page, hits):
    text = hits.filter(has_text="seven").first.inner_text()
    assert "كوكب الماء 惑星 👩‍👩‍👧" in text


def test_every_hostile_document_opens_and_closes(page, hits):
    for at in range(hits.count()):
        hits.nth(at).locator(".hit-title").click()
        page.wait_for_selector("#reader .line.own")
        page.keyboard.press("Escape")
        page.wait_for_selector("#reader", state="hidden")


def test_a_line_of_a_megabyte_is_cut_and_can_be_shown(page, hits):
    hits.filter(has_text="ten").first.locator(".hit-title").click()
    line = page.locator("#reader .line.own .line-text")
    line.wait_for()
    assert len(line.inner_text()) < 10_000
    line.locator("button").click()
    assert 20_000 < len(line.inner_text()) < 50_000
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200


def test_the_page_may_not_run_what_is_written_into_it(visit):
    visit.allowed = [
        "Executing inline script",
        "Executing inline event handler",
        "Refused to",
        "Loading the image",
    ]
    ran = visit.page.evaluate("""async () => {
        const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
        const box = document.createElement("div");
        document.body.append(box);
        box.setAttribute("onclick", "window.ran = true");
        box.click();
        return window.ran ?? false;
    }""")
    assert ran is False
