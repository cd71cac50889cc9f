"""The hits of a search in collections, as text for people."""

from __future__ import annotations

from typing import Any

from mlx_colbert.cli.excerpt import excerpt, first_line, whole, wrapped
from mlx_colbert.cli.render import Result, printable, printable_name
from mlx_colbert.cli.terminal import Terminal, fitting, width_of

__all__ = ["found_text", "heading_path", "place"]

_INDENT = "    "


def found_text(result: Result, terminal: Terminal, *, full: bool = False) -> str:
    """For each hit its place, its headings and the best part of the passage; then what was left out."""
    blocks = []
    told_before: set[str] = set()
    several = len({hit["collection"] for hit in result["hits"]}) > 1
    for hit in result["hits"]:
        new = [sentence for sentence in hit["context"] if sentence not in told_before]
        blocks.append(_block(hit, new, terminal, full=full, several=several))
        told_before.update(new)
    lines = ["\n\n".join(blocks)] if blocks else []
    told = [*filter(None, [_left_out(result)]), *map(printable, result["notes"])]
    if blocks and told:
        lines.append("")
    return "\n".join([*lines, *(line for sentence in told for line in _wrapped(sentence, terminal, ""))])


def _left_out(result: Result) -> str:
    n, best = result["below"], result["best_below"]
    if not result["hits"]:
        if not n:
            return "Nothing was found."
        return f"Nothing relevant was found. The best confidence is {best:.2f} (--all shows {_hits(n)})."
    return f"{_hits(n)} with less confidence left out (--all shows them)." if n else ""


def _hits(n: int) -> str:
    return f"{n:,} hit" + ("" if n == 1 else "s")


def place(hit: dict[str, Any]) -> str:
    """Where a passage is: `notes/bees.md:12-31`, `report.pdf, page 3`."""
    position = hit["position"] or {}
    text = printable_name(hit["source"] or hit["doc_id"])
    if lines := position.get("lines"):
        text += f":{lines[0]}" if lines[0] == lines[1] else f":{lines[0]}-{lines[1]}"
    others = [f"{key} {position[key]}" for key in ("page", "slide", "cell", "row") if key in position]
    return ", ".join([text, *others])


def heading_path(hit: dict[str, Any]) -> str:
    """The headings above a passage: `Dance › Meaning`."""
    return printable(" › ".join((hit["position"] or {}).get("headings", [])))


def _block(hit: dict[str, Any], context: list[str], terminal: Terminal, *, full: bool, several: bool) -> str:
    text, matches = hit["text"] or "", hit["matches"]
    kind = (hit["metadata"] or {}).get("kind")
    rank, where = f"{hit['rank']:>2}  ", place(hit)
    score = f"{hit['confidence']:.2f}" if hit["confidence"] is not None else f"{hit['score']:.3f}"
    told = f"{score} {hit['short_id']}" + (f" in {printable(hit['collection'])}" if several else "")
    url = hit["link"]
    if url is not None and (line := first_line(text, matches, (hit["position"] or {}).get("lines"))):
        url += f"#{line}"
    shown = terminal.linked(terminal.styled(where, "bold"), url)
    if width_of(where) + len(rank) + 2 + len(told) <= terminal.width:
        lines = [f"{rank}{shown}  {terminal.styled(told, 'dim')}"]
    else:
        lines = [f"{rank}{shown}", terminal.styled(_INDENT + told, "dim")]
    if headings := heading_path(hit):
        lines += _wrapped(f"› {headings}", terminal)
    for sentence in context:
        lines += _wrapped(printable(sentence), terminal)
    around = hit.get("surroundings")
    if around:
        lines += _numbered(around["before"], around["first"], terminal)
    show = whole if full or around else excerpt
    # As wide as the numbers of lines.
    lines += show(text, matches, kind, terminal, f"{_INDENT} " if around else _INDENT)
    if around:
        end = hit["position"]["lines"][1]
        lines += _numbered(around["after"], end + 1, terminal)
    return "\n".join(lines)


def _wrapped(text: str, terminal: Terminal, indent: str = _INDENT) -> list[str]:
    return [terminal.styled(line, "dim") for line in wrapped(text, terminal, indent, f"{indent}  ")]


def _numbered(lines: list[str], first: int, terminal: Terminal) -> list[str]:
    """Lines of a file with their numbers."""
    shown = []
    for number, line in enumerate(lines, start=first):
        # No more characters than columns are seen, and a line may be as long as a file.
        text = fitting(f"{number:>4} {printable(line[: terminal.width].expandtabs(4))}", terminal.width)
        shown.append(terminal.styled(text.rstrip(), "dim"))
    return shown
