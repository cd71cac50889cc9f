"""The page in WebKit, the engine of Safari: what could be otherwise than in Chromium."""

from __future__ import annotations

import pytest
from strangers import STRANGERS
from webkit import DOWN, ENTER, ESCAPE, WebKit, mini_browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def window():
    """A window of WebKit."""
    path = mini_browser()
    if path is None:
        pytest.skip("WebKit is not installed: apt-get install webkit2gtk-driver xvfb")
    window = WebKit(path)
    yield window
    window.close()


@pytest.fixture
def goto(window, served):
    """Loads a state of the page. At the end, nothing may have failed or been refused."""

    def load(fragment):
        window.goto(f"{served.url}/{fragment}")
        return window

    yield load
    assert window.js("return problems") == []


def shown(selector):
    return f"[...document.querySelectorAll({selector!r})].some(node => node.getClientRects().length)"


def test_words_of_the_query_are_shown_and_light_up(goto):
    window = goto("")
    window.wait(shown(".nothing.start"))
    window.type("#query", "reddish planet")
    window.wait(shown("#words .word"))
    assert "passages" in window.js("return document.querySelector('#status').innerText")
    window.point(".word[data-word='0']")
    window.wait(shown(".w.lit"))
    lit = window.js("return [...document.querySelectorAll('.w.lit')].map(node => node.innerText)")
    assert set(lit) == {"Reddish", "reddish"}


def test_a_passage_opens_is_copied_and_closes_by_keys_and_by_back(goto):
    window = goto("#/search?q=reddish+planet")
    window.wait(shown(".hit-title"))
    window.press(DOWN)
    window.press(ENTER)
    window.wait(shown("#reader .line.own"))
    assert window.js("return document.activeElement.id") == "reader"
    window.press(ESCAPE)
    window.wait("document.activeElement.className === 'hit-title'")
    window.press("c")
    window.wait("document.querySelector('#toast').textContent.startsWith('Copied')")
    window.click(".hit-title")
    window.wait(shown("#related li"))
    window.back()
    window.wait("document.querySelector('#reader').hidden")
    assert window.js("return document.querySelector('#query').value") == "reddish planet"


def test_a_filter_is_chosen_and_closed_by_escape(goto):
    window = goto("#/search?q=planet")
    window.wait(shown(".hit"))
    window.click("#filter-type > summary")
    window.click("#filter-type input[value=code]")
    window.wait("location.hash.includes('type=code')")
    assert window.js("return document.querySelector('#filter-type').open")
    window.press(ESCAPE)
    window.wait("!document.querySelector('#filter-type').open")


def test_an_answer_streams_in_and_outlives_a_reload(goto):
    window = goto("#/ask")
    window.wait(shown("#question"))
    window.type("#question", "reddish planet")
    window.press(ENTER)
    window.wait(shown(".sources li[data-cited]"))
    goto("#/ask").wait(shown(".answer .citation"))
    window.click(".answer .citation")
    window.wait(shown("#reader .line.own"))
    goto("#/ask").wait(shown("#ask-clear"))
    window.click("#ask-clear")
    assert window.js("return document.querySelectorAll('.turn').length") == 0


def test_the_colours_can_be_chosen(goto):
    window = goto("")
    # Until then, a click on the button does nothing.
    window.wait("document.readyState === 'complete'")
    for colour in ("rgb(251, 250, 248)", "rgb(21, 24, 26)"):
        window.js("document.querySelector('#theme').click()")
        window.wait(f"getComputedStyle(document.body).backgroundColor === '{colour}'")


def test_a_dialog_opens_and_closes_by_its_button(goto):
    window = goto("#/collections")
    window.wait(shown(".card"))
    window.click("#help")
    window.wait("document.querySelector('#keys').open")
    window.click("#keys button")
    window.wait("!document.querySelector('#keys').open")


def test_documents_of_strangers_run_nothing(goto):
    window = goto("#/search?q=comet&c=strangers&all=1")
    window.wait(shown("#after-hits button"))
    window.click("#after-hits button")
    window.wait(f"document.querySelectorAll('.hit').length > {len(STRANGERS) // 2}")
    n_hits = window.js("return document.querySelectorAll('.hit').length")
    for at in range(0, n_hits, 4):
        window.js(f"document.querySelectorAll('.hit-title')[{at}].click()")
        window.wait(shown("#related :is(li, .muted)"))
    assert window.js("return document.documentElement.scrollWidth <= innerWidth")
