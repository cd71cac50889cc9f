"""Ask, collections, uploads, and a server that goes away, is busy or wants a key."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef"


def test_an_answer_streams_in_with_citations_that_open_their_passage(page, served):
    page.goto(f"{served.url}/#/ask")
    page.fill("#question", "reddish planet")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer .citation")
    page.wait_for_selector(".sources li[data-cited]")
    assert page.locator(".invented").inner_text() == "[77?]"
    assert "complete" in page.locator("#ask-status").text_content()
    page.click(".answer .citation")
    page.wait_for_selector("#reader .line.own")
    page.keyboard.press("Escape")
    page.wait_for_selector("#reader", state="hidden")
    assert page.locator(".answer").count() == 1


def ask(page, question):
    page.fill("#question", question)
    page.keyboard.press("Enter")
    page.wait_for_selector(f".turn:first-child:has-text('{question}') .sources li[data-cited]")


def test_a_conversation_outlives_a_reload_and_goes_on(page, served, llm):
    page.goto(f"{served.url}/#/ask")
    ask(page, "reddish planet")
    before = page.locator(".turn").inner_text()
    page.reload()
    page.wait_for_selector(".turn")
    assert page.locator(".turn").inner_text() == before
    assert page.input_value("#question") == "reddish planet"
    page.fill("#question", "sleeping engine")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn:nth-child(2)")
    page.wait_for_selector("#ask-status:has-text('complete')", state="attached")
    said = [message["content"] for path, _, body in llm.asked if body for message in body["messages"]]
    assert any("reddish planet" in text and "sleeping engine" in text for text in said)
    page.fill("#question", "a draft")
    page.locator(".turn").last.locator(".answer .citation").first.click()
    page.wait_for_selector("#reader .line.own")
    assert page.input_value("#question") == "a draft"


def test_a_new_conversation_forgets_the_one_before(page, served):
    page.goto(f"{served.url}/#/ask")
    assert page.locator("#ask-clear").is_hidden()
    ask(page, "reddish planet")
    page.click("#ask-clear")
    assert page.evaluate("document.activeElement.id") == "question"
    page.reload()
    page.wait_for_selector("#question")
    assert page.locator(".turn").count() == 0
    assert page.evaluate("sessionStorage.length") == 0


def test_without_a_language_model_the_page_says_what_to_do(visit):
    visit.allowed = ["Failed to load resource"]
    page = visit.page
    page.route("**/ask", lambda route: route.fulfill(status=502, json={"detail": "No model is there."}))
    page.click("[data-tab=ask]")
    page.fill("#question", "why")
    page.click("#ask-send")
    page.wait_for_selector(".turn [role=alert]:has-text('No model is there.')")
    assert "config set endpoint" in page.locator(".turn").inner_text()


def test_collections_tell_size_freshness_and_failures(page, served):
    page.goto(f"{served.url}/#/collections")
    card = page.locator(".card", has_text="notes").first
    card.wait_for()
    assert re.search(r"files\s+4\b", card.locator(".facts").inner_text())
    assert re.search("just now|seconds? ago|minutes? ago", card.locator("time").inner_text())
    card.locator("summary").click()
    card.locator(".failures li").wait_for()
    assert "broken.pdf" in card.locator(".failures").inner_text()


def test_an_empty_page_helps_and_an_added_folder_can_be_searched(visits, empty_served):
    folder = empty_served.home / "fresh"
    folder.mkdir()
    (folder / "news.md").write_text("The river is reddish today.\n")
    page = visits(empty_served).page
    page.wait_for_selector(".nothing h2:text('nothing to search yet')")
    page.click(".nothing a:text('Add a folder')")
    page.fill("#add-folder", str(folder))
    page.click("#add-form button")
    page.wait_for_selector(".card:has-text('fresh')")
    page.wait_for_selector("#jobs:empty", state="attached")
    page.keyboard.press("1")
    page.keyboard.press("/")
    page.keyboard.type("reddish river")
    page.wait_for_selector(".hit:has-text('today')")


def test_a_folder_that_is_not_there_is_an_error_beside_the_field(page, served, visit):
    visit.allowed = ["Failed to load resource"]
    page.goto(f"{served.url}/#/collections")
    page.fill("#add-folder", "/no/such/folder")
    page.click("#add-form button")
    page.wait_for_selector("#add-error:not(:empty)")
    assert "/no/such/folder" in page.locator("#add-error").inner_text()


def test_dropped_files_can_be_searched(visits, empty_served):
    page = visits(empty_served).page
    page.wait_for_selector(".nothing h2")
    transfer = page.evaluate_handle("""() => {
        const transfer = new DataTransfer();
        transfer.items.add(new File(["A sleeping engine in the mountain."], "dropped.txt", { type: "text/plain" }));
        return transfer;
    }""")
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    page.wait_for_selector("#drop-veil:not([hidden])")
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_selector(".card:has-text('uploads')")
    page.wait_for_selector("#jobs:empty", state="attached")
    page.fill("#add-name", "")
    page.locator("h1:visible").click()
    page.keyboard.press("/")
    page.keyboard.type("sleeping engine")
    page.wait_for_selector(".hit:has-text('dropped.txt')")


def test_a_lost_server_is_told_and_the_page_comes_back_by_itself(visits, empty_served):
    (empty_served.home / "more").mkdir()
    (empty_served.home / "more/file.md").write_text("A hundred degrees.\n")
    empty_served.command("sync", str(empty_served.home / "more"))
    visit = visits(empty_served)
    visit.allowed = ["Failed to load resource"]
    page = visit.page
    page.fill("#query", "degrees")
    page.wait_for_selector("#hits .hit")
    empty_served.kill()
    page.fill("#query", "hundred")
    page.wait_for_selector("#banner:not([hidden])")
    assert "does not answer" in page.locator("#banner").inner_text()
    assert page.locator("#hits .hit").count() == 1
    empty_served.start()
    page.wait_for_selector("#banner", state="hidden")
    page.wait_for_selector(".w5:text('hundred')")


def test_a_busy_server_is_asked_again_when_it_says(visit):
    visit.allowed = ["Failed to load resource"]
    page = visit.page
    tries = []

    def busy_once(route):
        tries.append(route.request.url)
        if len(tries) == 1:
            route.fulfill(
                status=429, headers={"retry-after": "1"}, body="{}", content_type="application/json"
            )
        else:
            route.continue_()

    page.route("**/search", busy_once)
    page.fill("#query", "planet")
    page.wait_for_selector("#status:text('busy')")
    page.wait_for_selector("#hits .hit")
    assert len(tries) >= 2


def test_an_error_of_the_server_is_told_and_can_be_tried_again(visit):
    visit.allowed = ["Failed to load resource"]
    page = visit.page
    page.route(
        "**/search",
        lambda route: route.fulfill(status=500, json={"detail": "The index is damaged."}),
        times=1,
    )
    page.fill("#query", "planet")
    page.wait_for_selector(".nothing:has-text('The index is damaged.')")
    page.click("text=Try again")
    page.wait_for_selector("#hits .hit")


def test_a_key_is_asked_for_once_and_kept_in_the_tab(visits, empty_served):
    empty_served.kill()
    empty_served.start(MLX_COLBERT_SERVER_KEY=KEY)
    visit = visits(empty_served)
    visit.allowed = ["Failed to load resource"]
    page = visit.page
    page.wait_for_selector("#unlock[open]")
    page.fill("#api-key", "wrong-wrong-wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#unlock[open]:has-text('did not accept')")
    page.fill("#api-key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector(".nothing h2:text('nothing to search yet')")
    page.reload()
    page.wait_for_selector(".nothing h2:text('nothing to search yet')")
    assert page.locator("#unlock[open]").count() == 0
    assert page.evaluate("localStorage.length") == 0
