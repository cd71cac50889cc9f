"""Questions and answers: what is searched for, what is said, and what is remembered."""

import pytest
from word_count_model import WordCountModel

from mlx_colbert.ask.conversation import NOTHING_FOUND, Conversation
from mlx_colbert.errors import InputError, LanguageModelError
from mlx_colbert.types import Hit

HITS = [
    Hit(1, 9.0, "bees.md#1", "Bees dance.", None, "bees.md", {"lines": [1, 2], "headings": ["Dance"]}),
    Hit(2, 3.0, "ants.md#1", "Ants march.", None, "ants.md", {"lines": [5, 5]}),
]


def conversation(model, hits=HITS, **options):
    """A conversation, and the list of what it searches for."""
    searched = []

    def search(question, k):
        searched.append((question, k))
        return hits[:k]

    return Conversation(search, model, **options), searched


def test_citations_resolve_to_the_source_and_invented_ones_are_marked():
    talk, searched = conversation(WordCountModel("They dance [1]. They sing [7]."), k=2)

    reply = talk.ask(" What do bees do? ")
    pieces = list(reply)

    assert "".join(pieces) == reply.answer.text == "They dance [1]. They sing [7]." and len(pieces) > 5
    told = reply.answer.to_dict()
    assert searched == [("What do bees do?", 2)]
    assert told["citations"] == [
        {
            "number": 1,
            "doc_id": "bees.md#1",
            "doc_ids": ["bees.md#1"],
            "source": "bees.md",
            "lines": [1, 2],
            "place": "bees.md:1-2 › Dance",
            "text": "Bees dance.",
            "invented": False,
        },
        {
            **dict.fromkeys(["doc_id", "doc_ids", "source", "lines", "place", "text"]),
            "number": 7,
            "invented": True,
        },
    ]
    assert [source["number"] for source in told["sources"]] == [1, 2]
    assert (told["found"], told["finish"], told["model"]) == (True, "stop", "words")
    assert set(told["timings_ms"]) == {"search", "first_token", "answer"}


def test_without_a_relevant_hit_no_model_is_asked():
    model = WordCountModel()
    talk, _ = conversation(model, is_relevant=lambda hit: hit.score > 10)

    reply = talk.ask("What do bees do?")

    assert "".join(reply) == NOTHING_FOUND and not reply.answer.found
    assert reply.answer.citations == [] and reply.answer.excerpts == () and model.asked == []


def test_irrelevant_hits_are_left_out():
    talk, _ = conversation(WordCountModel("Yes."), is_relevant=lambda hit: hit.score > 5)

    reply = talk.ask("What do bees do?")

    assert [part.best.doc_id for part in reply.answer.excerpts] == ["bees.md#1"]


@pytest.mark.parametrize("hits", [[], [Hit(1, 1.0, "x")]])
def test_no_hit_or_none_with_a_text_is_nothing(hits):
    talk, _ = conversation(WordCountModel(), hits)

    assert "".join(talk.ask("Why?")) == NOTHING_FOUND


def test_follow_up_is_written_as_a_whole_question_for_search_and_model():
    model = WordCountModel("They dance [1].", '"Do bees sing? [1]"\nextra', "No [1].")
    talk, searched = conversation(model)
    list(talk.ask("What do bees do?"))

    reply = talk.ask("Do they sing?")
    list(reply)

    assert [question for question, _ in searched] == ["What do bees do?", "Do bees sing?"]
    assert (
        "User: What do bees do?\nAssistant: They dance [1].\nUser: Do they sing?"
        in model.asked[1][1]["content"]
    )
    assert [message["content"] for message in model.asked[2][1:3]] == ["What do bees do?", "They dance."]
    assert model.asked[2][-1]["content"].endswith("Question: Do bees sing?")
    assert (reply.answer.question, reply.answer.searched) == ("Do they sing?", "Do bees sing?")


@pytest.mark.parametrize("written", [" \n", "x" * 500])
def test_follow_up_that_the_model_cannot_rewrite_stays(written):
    talk, searched = conversation(WordCountModel("They dance.", written, "No."))
    list(talk.ask("What do bees do?"))
    list(talk.ask("Do they sing?"))

    assert searched[-1][0] == "Do they sing?"


def test_long_conversation_stays_in_the_window():
    model = WordCountModel(*["word " * 100, "Whole question?"] * 12, window=700)
    talk, _ = conversation(model, max_tokens=120)

    for n in range(12):
        list(talk.ask(f"Question {n}?"))

    assert all(
        model.count(messages) + limit <= 700
        for messages, (limit, _) in zip(model.asked, model.limits, strict=True)
    )


def test_what_was_said_before_an_error_or_an_interruption_is_kept():
    for error in (LanguageModelError("words", "it ended."), KeyboardInterrupt()):
        talk, _ = conversation(WordCountModel(error))
        reply = talk.ask("What do bees do?")

        with pytest.raises(type(error)):
            list(reply)

        assert reply.answer.text == "So far [1]" and reply.answer.finish is None
        assert [citation.number for citation in reply.answer.citations] == [1]
        assert talk.turns[-1].answer == "So far [1]"


def test_reply_that_is_left_ends_the_model():
    model = WordCountModel("A long answer.")
    talk, _ = conversation(model)
    reply = talk.ask("Why?")
    next(reply)

    reply.close()

    assert list(reply) == [] and reply.answer.text == "A l"


def test_answer_without_a_word_is_an_error():
    talk, _ = conversation(WordCountModel("\n \n"))

    with pytest.raises(LanguageModelError, match="gave an empty answer"):
        list(talk.ask("Why?"))
    assert talk.turns == []


def test_space_before_an_answer_is_left_out():
    talk, _ = conversation(WordCountModel("\n\n  Yes [1]."))

    assert "".join(talk.ask("Why?")) == "Yes [1]."


@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"max_tokens": 0}, {"temperature": -1}, {"temperature": 3.0}, {"temperature": float("nan")}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError):
        conversation(WordCountModel(), **options)


def test_blank_question_is_refused():
    talk, _ = conversation(WordCountModel())

    with pytest.raises(InputError, match="question is blank"):
        talk.ask(" \n")
