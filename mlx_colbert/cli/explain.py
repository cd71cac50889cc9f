"""`mlx-colbert explain`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mlx_colbert.cli.arguments import add_model
from mlx_colbert.cli.excerpt import wrapped
from mlx_colbert.cli.hit_text import found_text
from mlx_colbert.cli.render import Result, printable, typed_name
from mlx_colbert.cli.searched import add_where, check_where, opened_collections, refresh_notes
from mlx_colbert.cli.terminal import Terminal, width_of

if TYPE_CHECKING:
    from mlx_colbert.collection.related import Explanation

EXAMPLE = "mlx-colbert explain \"how do bees tell where flowers are\" '#1a2b3c4d'"
JSON_KEYS = """{"query", "hit", "words": [{"query_word", "passage_word", "in_heading", "similarity",
"above"}], "notes": [texts]}; the keys of "hit" are those of search. "above" is small for a word that is near
to everything"""
_LEGEND = "Number: how similar the two words are. Bar: how much more than most words of the passage."
# The widest bar, in columns.
_BAR = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the query and the passage."""
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument(
        "reference",
        metavar="ID|PATH:LINE",
        help="the id of a passage, in quotes, a line of its file, or a file with one passage",
    )
    add_where(parser)
    add_model(parser, required=False)


def run(args: argparse.Namespace) -> Result:
    """Show which word of a query met which word of a passage."""
    check_where(args)
    from mlx_colbert.collection.confidence import calibration_of
    from mlx_colbert.collection.lookup import find_passage, passage_of
    from mlx_colbert.collection.related import explain

    reference = typed_name(args.reference)
    if args.index is not None:
        from mlx_colbert.retriever.retriever import Retriever

        with Retriever.open(args.index, args.model, backend=args.backend) as retriever:
            passage = passage_of(retriever.store, reference)
            return _result(args.query, passage.to_dict(), explain(retriever, args.query, passage), [])
    with opened_collections(args.collections, backend=args.backend) as collections:
        notes = refresh_notes(args, collections)
        collection, hit = find_passage(collections, reference)
        calibration = calibration_of(collection, collection.retriever.model)
        found = explain(collection.retriever, args.query, hit, calibration=calibration)
        return _result(args.query, hit.to_dict(), found, notes)


def _result(query: str, passage: dict[str, Any], found: Explanation, notes: list[str]) -> Result:
    judged = {"score": found.similarity, "similarity": found.similarity, "confidence": found.confidence}
    return {
        "query": query,
        "hit": passage | judged | {"matches": found.matches},
        "words": [dict(vars(word)) for word in found.words],
        "notes": notes,
    }


def render(result: Result, args: argparse.Namespace) -> str:
    """A line for each word of the query with a bar; then the passage."""
    terminal = Terminal.of_stdout()
    left = min(
        max((width_of(word["query_word"]) for word in result["words"]), default=0), terminal.width // 3
    )
    right = max((width_of(_answer(word)) for word in result["words"]), default=0)
    room = max(min(_BAR, terminal.width - left - right - 9), 4)
    largest = max((word["above"] for word in result["words"]), default=0) or 1
    lines = []
    for word in result["words"]:
        name, answer = printable(word["query_word"]), printable(_answer(word))
        bar = "━" * max(1, round(word["above"] / largest * room))
        style = "bold" if word["above"] >= largest / 2 else "dim"
        shown = terminal.styled(f"{bar}▶ {answer}", style)
        gap = " " * max(room - len(bar) + right - width_of(answer), 0)
        lines.append(f"{name}{' ' * max(left - width_of(name), 0)} {shown}{gap} {word['similarity']:.2f}")
    lines += ["", *wrapped(_LEGEND, terminal, "", "")]
    passage = {"hits": [result["hit"]], "notes": result["notes"]}
    return "\n".join([*lines, "", found_text(passage, terminal, full=True)])


def _answer(word: dict[str, str]) -> str:
    answer = word["passage_word"] or "(none)"
    return f"{answer} (heading)" if word["in_heading"] else answer
