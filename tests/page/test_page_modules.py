"""The modules of the page, called one by one in the browser."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def call(page):
    """Calls a function of a module with JSON, and gives its JSON."""

    def called(module, name, *arguments):
        return page.evaluate(
            "async ([module, name, given]) => (await import(`/web/${module}.js`))[name](...given)",
            [module, name, arguments],
        )

    return called


def test_places_in_code_points_become_places_in_utf_16(call):
    words = [{"start": 2, "end": 4}, {"start": 0, "end": 1}]
    assert call("passage", "inUtf16", "😀 ab", words) == [{"start": 0, "end": 2}, {"start": 3, "end": 5}]


def test_the_best_part_of_a_long_text_has_the_best_words(call):
    text = "x" * 10 + " and more. " * 300
    at = text.index("more", 2000)
    start, end = call("passage", "bestPart", text, [{"start": at, "end": at + 4, "similarity": 1}])
    assert start <= at < at + 4 <= end
    assert end - start < 1000


def test_the_best_part_of_a_short_text_is_all_of_it(call):
    assert call("passage", "bestPart", "short", []) == [0, 5]


def test_lines_of_an_editor_become_one_and_others_stay(call):
    long = "A line that an editor has wrapped because it was too long for it"
    text = f"{long}\ngoes on here.\n\n- {long}\n- one\nshort\nlines\n```\n{long}\nof code\n```\nend"
    shown = call("passage", "unwrapped", text)
    assert len(shown) == len(text)
    assert shown == text.replace(f"{long}\ngoes on", f"{long} goes on")


def test_a_name_with_signs_that_cannot_be_seen_shows_their_numbers(call):
    assert call("text", "visible", "a\u202eb\nc\u200dd") == "a⟨U+202E⟩b⟨U+000A⟩c⟨U+200D⟩d"


def test_a_copied_passage_cannot_be_read_as_other_markdown(call):
    hit = {
        "text": "one\ntwo\u202e",
        "doc_id": "d",
        "source": "a](x)[b.md",
        "link": "javascript:alert(1)",
        "position": {"lines": [1, 2], "headings": ["<H>"]},
    }
    assert call("text", "asMarkdown", hit) == "> one\n> two\n\n— a\\](x)\\[b.md:1-2 › \\<H\\>\n"


def test_the_state_survives_its_address(call):
    state = {
        "tab": "search", "q": "a&b=c #?", "in": "x/*.md", "since": "", "before": "", "mode": "", "all": "1",
        "at": "my notes", "open": "n/a b.md#12", "c": ["one", "t&wo"], "type": [],
    }  # fmt: skip
    assert call("state", "parsed", call("state", "formatted", state)) == state


def test_an_address_of_a_stranger_gives_no_unknown_state(call):
    state = call("state", "parsed", "#/nowhere?__proto__=1&constructor=2&q=x")
    assert state["tab"] == "search"
    assert state["q"] == "x"
    assert "constructor" not in state


def test_a_long_conversation_is_kept_in_part(page):
    kept = page.evaluate("""async () => {
        const { addTurn, turnsNow } = await import("/web/conversation.js");
        const turn = { question: "why", note: "", cited: [], sources: [{ number: 1, text: "x".repeat(9000) }] };
        for (let at = 0; at < 40; at += 1) addTurn({ ...turn, answer: String(at) });
        const many = turnsNow().map((one) => one.answer);
        for (let at = 0; at < 20; at += 1) addTurn({ ...turn, answer: "y".repeat(90_000) });
        return [many, sessionStorage.getItem("mlx-colbert-conversation").length];
    }""")
    assert kept[0] == [str(at) for at in range(10, 40)]
    assert kept[1] <= 1_000_000


@pytest.mark.parametrize("kept", ["", "{", "null", "3", "[null, 3, {}]", '[{"question": 1, "answer": []}]'])
def test_a_damaged_conversation_is_no_conversation(page, kept):
    page.evaluate("kept => sessionStorage.setItem('mlx-colbert-conversation', kept)", kept)
    page.reload()
    page.click("[data-tab=ask]")
    page.wait_for_selector("#question")
    assert page.locator(".turn").count() == 0
