"""Search, read and filter in a real browser."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = pytest.mark.slow

HIT = "#hits .hit"
# The list of hits, if the paths of all have a text.
ONLY = "#hits:has(.hit):not(:has(.hit:not(:has(.path:text('{}')))))"


def reddish_hit(page):
    """The hit in planets.md."""
    page.fill("#query", "reddish planet")
    hit = page.locator(HIT, has_text="reddish")
    hit.first.wait_for()
    return hit.first


def test_typing_shows_passages_with_their_place(page):
    hit = reddish_hit(page)
    assert "planets.md" in hit.locator(".path").inner_text()
    assert "passage" in page.locator("#status").inner_text()
    assert "q=reddish+planet" in page.url


def test_the_last_of_two_queries_is_shown_even_if_it_is_answered_first(page):
    held = []

    def slow(route):
        query = json.loads(route.request.post_data)["query"]
        if query == "mountain":
            held.append(route)
        else:
            route.continue_()

    page.route("**/search", slow)
    page.fill("#query", "mountain")
    page.wait_for_timeout(250)
    hit = reddish_hit(page)
    assert len(held) == 1
    held[0].abort()
    assert "reddish" in hit.inner_text()


def test_best_words_have_the_strongest_shade_and_their_letters_are_right_after_an_emoji(page):
    hit = reddish_hit(page)
    shaded = hit.locator(".w4, .w5").all_inner_texts()
    # Places are counted in code points; the emoji before the last "planet" has two units in JavaScript.
    assert shaded == ["planet", "Reddish", "reddish", "planet", "planet"]


def test_pointing_at_a_word_of_the_query_lights_up_what_it_found(page):
    reddish_hit(page)
    page.hover(".word >> nth=0")
    lit = set(page.locator(".w.lit").all_inner_texts())
    assert "reddish" in lit
    assert "planet" not in lit
    page.mouse.move(2, 2)
    assert page.locator(".w.lit").count() == 0


def test_a_word_of_the_query_is_lit_by_the_keyboard_too(page):
    reddish_hit(page)
    page.focus(".word >> nth=1")
    assert "planet" in page.locator(".w.lit").all_inner_texts()
    page.keyboard.press("Enter")
    assert page.locator(".word >> nth=1").get_attribute("aria-pressed") == "true"


def test_a_hit_opens_its_source_at_its_place_and_back_closes_it(page):
    reddish_hit(page).locator(".hit-title").click()
    own = page.locator("#reader .line.own")
    own.first.wait_for()
    assert own.evaluate_all("lines => lines.map(line => line.dataset.line)") == ["3", "4", "5", "6", "7"]
    assert page.locator("#reader .line").count() == 7
    assert page.locator("#reader .line[data-line='7'] .w5").all_inner_texts() == [
        "reddish",
        "planet",
        "planet",
    ]
    page.go_back()
    page.wait_for_selector("#reader", state="hidden")
    assert page.input_value("#query") == "reddish planet"


def test_an_open_passage_can_be_opened_by_its_address_alone(visits, served):
    page = visits(served).page
    reddish_hit(page).locator(".hit-title").click()
    page.wait_for_selector("#reader .line.own")
    fragment = page.url.partition("/#")[2]
    other = visits(served, f"#{fragment}").page
    other.wait_for_selector("#reader .line.own")
    other.wait_for_selector(".hit[data-open]")


def test_a_file_without_lines_shows_the_passages_around(page):
    page.fill("#query", "second candidate")
    page.locator(HIT, has_text="second").first.locator(".hit-title").click()
    page.wait_for_selector("#reader .near")
    assert "second" in page.locator("#reader .passage.own").inner_text()
    near = page.locator("#reader .near").all_inner_texts()
    assert ["first" in near[0], "third" in near[-1]] == [True, True]


def test_related_passages_open_in_the_reader(page):
    reddish_hit(page).locator("text=Related").click()
    link = page.locator("#related .related a").first
    link.wait_for()
    before = page.url
    link.click()
    page.wait_for_url(lambda url: url != before)
    page.wait_for_selector("#reader .line.own")


def test_filters_limit_what_is_found_and_are_in_the_address(page):
    page.fill("#query", "query planet")
    page.wait_for_selector(HIT)
    page.fill("#filter-in", "*.py")
    page.wait_for_selector(ONLY.format(".py"))
    assert page.evaluate("document.activeElement.id") == "filter-in"
    assert "in=*.py" in page.url
    page.click("#filter-clear")
    page.wait_for_selector(".hit:has-text('planets.md')")
    page.click("#filter-type > summary")
    page.check("#filter-type input[value=code]")
    page.wait_for_selector(ONLY.format(".py"))
    assert page.locator("#filter-type[open]").count() == 1
    page.go_back()
    page.wait_for_selector(".hit:has-text('planets.md')")


def test_collections_and_dates_are_filters(page):
    page.fill("#query", "planet")
    page.wait_for_selector(".hit:has-text('hostile')")
    page.click("#filter-c > summary")
    page.check("#filter-c input[value=notes]")
    page.wait_for_selector(ONLY.format("notes/"))
    page.keyboard.press("Escape")
    page.select_option("#filter-since", "own")
    page.fill("#filter-to", "2001-01-01")
    page.wait_for_selector(".nothing")
    assert "2 filters" in page.locator(".nothing").inner_text()
    page.click(".nothing >> text=Clear the filters")
    page.wait_for_selector(HIT)
    assert "before=" not in page.url


def test_nothing_found_says_what_was_searched_and_shows_what_is_less_sure(page):
    page.fill("#query", "zzz")
    page.wait_for_selector(".nothing h2")
    told = page.locator(".nothing").inner_text()
    assert re.search(r"Searched: [\d,]+ passages in .*notes", told)
    page.click(".nothing button:has-text('less sure')")
    page.wait_for_selector(HIT)
    assert "all=1" in page.url


def test_keyboard_alone_searches_reads_and_closes(page):
    page.keyboard.press("Escape")
    page.locator("body").press("/")
    page.keyboard.type("planet")
    page.wait_for_selector(HIT)
    page.keyboard.press("ArrowDown")
    titles = page.locator(".hit-title")
    assert titles.nth(0).evaluate("node => node === document.activeElement")
    page.keyboard.press("j")
    assert titles.nth(1).evaluate("node => node === document.activeElement")
    assert page.locator(".hit-title[tabindex='0']").count() == 1
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_selector("#reader:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "reader"
    page.keyboard.press("j")
    page.wait_for_selector(".hit:nth-child(2)[data-open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#reader", state="hidden")
    assert page.evaluate("document.activeElement.className") == "hit-title"
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#keys:not([open])", state="attached")


@pytest.mark.parametrize(("tab", "field"), [("search", "query"), ("ask", "question")])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_focus_stays_in_the_field_while_somebody_types(visits, served, width, tab, field):
    page = visits(served, f"#/{tab}", viewport={"width": width, "height": 800}).page
    page.focus(f"#{field}")
    for text in ("reddish", " planet"):
        page.keyboard.type(text, delay=20)
        if tab == "search":
            page.wait_for_selector(HIT)
            page.wait_for_timeout(400)
    assert page.evaluate("document.activeElement.id") == field
    assert page.input_value(f"#{field}").endswith("reddish planet")


def test_a_screen_reader_hears_the_number_of_passages_without_the_time(page):
    reddish_hit(page)
    page.wait_for_selector("#search-status:has-text('passages')", state="attached")
    assert re.fullmatch(r"\d+ passages", page.locator("#search-status").text_content())


def test_a_button_that_disappears_gives_the_focus_to_a_hit(page):
    page.fill("#query", "zzz")
    page.wait_for_selector(".nothing h2")
    page.focus(".nothing button:has-text('less sure')")
    page.keyboard.press("Enter")
    page.wait_for_selector(HIT)
    assert page.evaluate("document.activeElement.className") == "hit-title"


def test_copy_gives_markdown_with_a_citation(visits, served):
    visit = visits(served, permissions=["clipboard-read", "clipboard-write"])
    reddish_hit(visit.page).locator("text=Copy").click()
    visit.page.wait_for_selector("#toast:not(:empty)")
    text = visit.page.evaluate("navigator.clipboard.readText()")
    assert text.startswith("> ")
    assert re.search(r"— \[notes/planets\.md:3-7 › Planets\]\(<file:///.*/planets\.md>\)", text)


def test_the_theme_is_kept(page):
    page.click("#theme")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


@pytest.mark.parametrize("width", [390, 1024])
def test_text_of_twice_the_size_stays_in_its_place(visits, served, width):
    page = visits(served, viewport={"width": width, "height": 800}).page
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    reddish_hit(page).locator(".hit-title").click()
    page.wait_for_selector("#reader .line.own")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    one_line = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.tabs a')).lineHeight)")
    heights = page.locator(".tabs a").evaluate_all("links => links.map(link => link.offsetHeight)")
    assert max(heights, default=0) < 2 * one_line


@pytest.mark.parametrize("width", [320, 390, 1024, 1600])
def test_no_width_scrolls_sideways(visits, served, width):
    page = visits(served, viewport={"width": width, "height": 800}).page
    page.fill("#query", "planet")
    page.wait_for_selector(HIT)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".hit-title").first.click()
    page.wait_for_selector("#reader:not([hidden])")
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(
        "document.querySelector('#reader').scrollWidth <= document.querySelector('#reader').clientWidth"
    )
    for tab in ("ask", "collections"):
        page.goto(f"{page.url.partition('#')[0]}#/{tab}")
        page.wait_for_selector(f"#view-{tab}:not([hidden])")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
