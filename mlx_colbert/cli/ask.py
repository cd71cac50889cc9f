"""`mlx-colbert ask`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlx_colbert.ask.language_models.choice import DEFAULTS, KEY_VARIABLE
from mlx_colbert.cli.arguments import add_model, configurable, location, positive
from mlx_colbert.cli.output import as_json, note, write
from mlx_colbert.cli.render import Result, printable, printable_lines, printable_name
from mlx_colbert.cli.searched import add_where, check_where, opened_collections
from mlx_colbert.cli.terminal import Terminal
from mlx_colbert.cli.word_wrap import WordWrap
from mlx_colbert.errors import ColBERTError
from mlx_colbert.stages import took

if TYPE_CHECKING:
    from mlx_colbert.ask.conversation import Conversation
    from mlx_colbert.ask.language_models.language_model import LanguageModel

EXAMPLE = """mlx-colbert ask "how long do I steep tea?"
  mlx-colbert ask "what did we decide about the boiler?" -c minutes --llm auto"""
JSON_KEYS = """{"question", "searched", "answer", "found", "finish": "stop" | "length" | null,
"citations": [{"number", "doc_id", "doc_ids", "source", "lines", "place", "text", "invented"}],
"sources": the same without "invented", "model", "prompt_tokens", "timings_ms"}; of collections
they also have {"collection", "path", "link"}"""


# The times of an answer, for -v.
_STAGES = {
    "search": "find passages",
    "first_token": "from then to the first word",
    "answer": "from then to the end",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the question, where to search, the language model, and the options of the answer."""
    parser.add_argument("query", metavar="QUESTION", nargs="?", help="may be left out with --chat")
    add_where(parser)
    *larger, (_, smallest) = DEFAULTS
    defaults = ", ".join(f"{name} from {memory} GB of memory" for memory, name in larger)
    llm = parser.add_argument(
        "--llm",
        metavar="LLM",
        type=location,
        help="a language model for mlx-lm, as a folder or hub id; or auto, a server on a usual port of this "
        "machine (LM Studio 1234, Ollama 11434, mlx_lm.server or llama.cpp 8080); with --endpoint, the name "
        f"of its model (default: {defaults}, else {smallest}; with --endpoint, the first one)",
    )
    endpoint = parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="a server with the interface of OpenAI, such as localhost:1234. A server that is not on this "
        f"machine gets your passages: name it in full, https://host/v1. Its key is read from {KEY_VARIABLE}",
    )
    configurable(llm, "llm")
    configurable(endpoint, "endpoint")
    parser.add_argument("-k", type=positive, default=8, help="passages to answer from (default: 8)")
    parser.add_argument(
        "--min-score",
        type=_number,
        metavar="S",
        help="leave out passages with a lower confidence, 0 to 1; with --index, with a lower score",
    )
    parser.add_argument(
        "--max-tokens", type=positive, default=512, metavar="N", help="tokens of the answer (default: 512)"
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        metavar="T",
        help="0 gives the same answer each time, up to 2 gives more varied ones (default: 0)",
    )
    parser.add_argument(
        "--window",
        type=positive,
        metavar="N",
        help="tokens that the language model can read and write in all (default: what the model or the "
        "server says, else 4096)",
    )
    parser.add_argument("--chat", action="store_true", help="go on with questions from the standard input")
    add_model(parser, required=False)
    # A conversation reads the standard input.
    parser.set_defaults(in_daemon=lambda args: args.query is not None and not args.chat)


def run(args: argparse.Namespace) -> Result:
    """Answer one question, or with --chat one after another. Without --json, print while the model writes."""
    if args.chat and args.json:
        args.parser.error("--chat prints text only. Leave out --json.")
    if args.query is None and not args.chat:
        args.parser.error("the following arguments are required: QUESTION")
    from mlx_colbert.checks import check_text

    if args.query is not None:
        # Before a language model is loaded.
        check_text(args.query, "question")
    with _opened_conversation(args) as conversation:
        if not args.chat:
            return _answered(conversation, args.query, args)
        passed = True
        for question in _questions(args.query):
            try:
                write(_sources(_answered(conversation, question, args)) + "\n")
            except ColBERTError as error:
                # The conversation goes on.
                passed = False
                print(printable(f"mlx-colbert: error: {error}"), file=sys.stderr, flush=True)
    return {"passed": passed}


def render(result: Result, args: argparse.Namespace) -> str:
    """What follows the answer, which has been printed while it came: the sources."""
    return "" if args.chat else _sources(result)


@contextmanager
def _opened_conversation(args: argparse.Namespace) -> Iterator[Conversation]:
    """A conversation about collections, or about an index."""
    check_where(args)
    settings = {"k": args.k, "max_tokens": args.max_tokens, "temperature": args.temperature}
    if args.index is not None:
        from mlx_colbert.ask.conversation import Conversation
        from mlx_colbert.retriever.retriever import Retriever

        least = args.min_score
        with Retriever.open(args.index, args.model, backend=args.backend) as retriever:
            yield Conversation(
                lambda question, k: retriever.search(question, k),
                _language_model(args),
                is_relevant=None if least is None else lambda hit: hit.score >= least,
                **settings,
            )
        return
    from mlx_colbert.ask.collection_search import conversation_about
    from mlx_colbert.configuration import refresh_limit

    with opened_collections(args.collections, backend=args.backend) as collections:
        yield conversation_about(
            collections,
            _language_model(args),
            min_score=args.min_score,
            refresh_s=None if args.no_refresh else refresh_limit(),
            on_note=note,
            **settings,
        )


def _language_model(args: argparse.Namespace) -> LanguageModel:
    from mlx_colbert.ask.language_models.choice import open_language_model

    model = open_language_model(args.llm, endpoint=args.endpoint, window=args.window)
    if sys.stderr.isatty():
        note(f"Answering with {model.name}.")
    return model


def _questions(first: str | None) -> Iterator[str]:
    """The first question, and those of the standard input."""
    if first is not None:
        yield first
    while True:
        try:
            if sys.stdin.isatty():
                # Arrow keys work in input() once this is imported.
                import readline  # noqa: F401

                question = input("> ")
            else:
                question = next(sys.stdin)
        except (EOFError, StopIteration):
            return
        if question.strip():
            yield question


def _answered(conversation: Conversation, question: str, args: argparse.Namespace) -> Result:
    """The answer. It is printed while it comes, and whole if something ends it early."""
    from mlx_colbert.ask.citations import marked

    reply = conversation.ask(question)
    if reply.answer.searched != reply.answer.question:
        if sys.stderr.isatty():
            note(f"Searched for: {reply.answer.searched}")
    wrap = WordWrap(Terminal.of_stdout().width) if sys.stdout.isatty() else None
    try:
        for piece in marked(reply, len(reply.answer.excerpts)):
            if not args.json:
                shown = printable_lines(piece)
                write(wrap.add(shown) if wrap else shown, end="")
        if wrap:
            write(wrap.end(), end="")
    except BaseException:
        if args.json:
            write(as_json(reply.answer.to_dict()))
        elif reply.answer.text:
            if wrap:
                write(wrap.end(), end="")
            write(_sources(reply.answer.to_dict()))
        raise
    finally:
        reply.close()
        for name, ms in reply.answer.timings.items():
            took(_STAGES.get(name, name), ms)
    return reply.answer.to_dict()


def _sources(result: Result) -> str:
    """The end of the answer's line, the sources that the answer cites, and what is wrong with it."""
    given, cited = result["sources"], {citation["number"] for citation in result["citations"]}
    places = {source["number"]: f"[{source['number']}] {printable_name(source['place'])}" for source in given}
    lines = [place for number, place in places.items() if number in cited]
    if given and not lines:
        lines = ["The answer cites no source. It was made from these:", *places.values()]
    if invented := [citation["number"] for citation in result["citations"] if citation["invented"]]:
        marks = ", ".join(f"[{number}?]" for number in invented)
        lines.append(f"{marks}: invented by the model. Number of its sources: {len(given)}.")
    if result["finish"] == "length":
        lines.append("The answer is cut: it reached --max-tokens.")
    return "\n".join(["", *([""] if lines else []), *lines])


def _number(text: str) -> float:
    """A finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r:.50}")
    return number


def _temperature(text: str) -> float:
    """A number of 0 to 2."""
    number = _number(text)
    if not 0 <= number <= 2:
        raise argparse.ArgumentTypeError(f"must be a number of 0 to 2, got {text!r:.50}")
    return number
