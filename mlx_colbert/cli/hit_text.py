"""The hits of a search, as text for people."""

from __future__ import annotations

from typing import Any

from mlx_colbert.cli.excerpt import excerpt, first_line, whole, wrapped
from mlx_colbert.cli.render import Result, printable, printable_name
from mlx_colbert.cli.terminal import Terminal, fitting, width_of
from mlx_colbert.counts import counted
from mlx_colbert.position import headings_text, place_text

__all__ = ["found_text", "heading_path", "place"]

_INDENT = "    "


def found_text(result: Result, terminal: Terminal, *, full: bool = False, has_scores: bool = True) -> str:
    """For each hit its place, its headings and the best part of the passage; then what was left out.

    Args:
        result: the JSON object of a search. The hits of an index have less to tell than those of collections.
        terminal: where it is shown.
        full: show whole passages.
        has_scores: whether the score of a hit without a confidence tells people something.
    """
    blocks = []
    told_before: set[str] = set()
    several = len({hit.get("collection") for hit in result["hits"]}) > 1
    for hit in result["hits"]:
        new = [sentence for sentence in hit.get("context", ()) if sentence not in told_before]
        title = _told(hit, several=several, has_scores=has_scores)
        blocks.append(_block(hit, new, title, terminal, full=full))
        told_before.update(new)
    lines = ["\n\n".join(blocks)] if blocks else []
    told = [*filter(None, [_left_out(result)]), *map(printable, result.get("notes", ()))]
    if blocks and told:
        lines.append("")
    return "\n".join([*lines, *(line for sentence in told for line in _wrapped(sentence, terminal, ""))])


def _left_out(result: Result) -> str:
    n = result.get("below", 0)
    if not result["hits"]:
        if not n:
            return "Nothing was found."
        best = f"{result['best_below']:.2f}"
        return f"Nothing relevant was found. The best confidence is {best} (--all shows {counted(n, 'hit')})."
    them = "it" if n == 1 else "them"
    return f"{counted(n, 'hit')} with less confidence left out (--all shows {them})." if n else ""


def place(hit: dict[str, Any]) -> str:
    """Where a passage is: `notes/bees.md:12-31`, `report.pdf, page 3`. Without a source, its id."""
    return printable(place_text(printable_name(hit["source"] or hit["doc_id"]), hit["position"]))


def heading_path(hit: dict[str, Any]) -> str:
    """The headings above a passage: `Dance › Meaning`."""
    return printable(headings_text(hit["position"]))


def _told(hit: dict[str, Any], *, several: bool, has_scores: bool) -> str:
    """What follows the place: how good the hit is, its id if that is not the place, and its collection."""
    parts = []
    if (confidence := hit.get("confidence")) is not None:
        parts.append(f"{confidence:.2f}")
    elif has_scores:
        parts.append(_score(hit["score"]))
    if hit["source"]:
        parts.append(printable_name(hit.get("short_id") or hit["doc_id"]))
    if several:
        parts.append(f"in {printable(hit['collection'])}")
    return " ".join(parts)


def _score(score: float) -> str:
    """Two digits after the point; two digits in all if it is smaller."""
    return f"{score:.2f}" if abs(score) >= 0.1 else f"{score:.2g}"


def _block(hit: dict[str, Any], context: list[str], told: str, terminal: Terminal, *, full: bool) -> str:
    text, matches = hit["text"] or "", hit.get("matches", ())
    kind = (hit["metadata"] or {}).get("kind")
    rank, where = f"{hit['rank']:>2}  ", place(hit)
    url = hit.get("link")
    if url is not None and (line := first_line(text, matches, (hit["position"] or {}).get("lines"))):
        url += f"#{line}"
    shown = terminal.linked(terminal.styled(where, "bold"), url)
    if width_of(where) + len(rank) + 2 + len(told) <= terminal.width:
        lines = [f"{rank}{shown}  {terminal.styled(told, 'dim')}".rstrip()]
    else:
        lines = [f"{rank}{shown}", terminal.styled(_INDENT + told, "dim")]
    around = hit.get("surroundings")
    has_heading = around and _names_heading(hit, around["before"])
    if not has_heading and (headings := heading_path(hit)):
        lines += _wrapped(f"› {headings}", terminal)
    for sentence in context:
        lines += _wrapped(printable(sentence), terminal)
    if around:
        lines += _with_lines_around(hit, around, terminal)
    else:
        lines += (whole if full else excerpt)(text, matches, kind, terminal, _INDENT)
    return "\n".join(lines)


def _names_heading(hit: dict[str, Any], before: list[str]) -> bool:
    """Whether the heading of a passage is in the lines before it."""
    headings = (hit["position"] or {}).get("headings")
    return bool(headings and any(line.strip("# \t") == headings[-1] for line in before))


def _with_lines_around(hit: dict[str, Any], around: dict[str, Any], terminal: Terminal) -> list[str]:
    """A passage and the lines around it, with their numbers."""
    text, (first, last) = hit["text"] or "", hit["position"]["lines"]
    width = max(len(str(last + len(around["after"]))), 4)
    # The text of a passage may have other lines than the file. Then they have no numbers.
    numbers = [f"{number:>{width}}" for number in range(first, last + 1)]
    has_numbers = text.count("\n") == last - first
    kind = (hit["metadata"] or {}).get("kind")
    return [
        *_numbered(around["before"], around["first"], width, terminal),
        *whole(text, hit["matches"], kind, terminal, " " * (width + 1), numbers if has_numbers else ()),
        *_numbered(around["after"], last + 1, width, terminal),
    ]


def _wrapped(text: str, terminal: Terminal, indent: str = _INDENT) -> list[str]:
    return [terminal.styled(line, "dim") for line in wrapped(text, terminal, indent, f"{indent}  ")]


def _numbered(lines: list[str], first: int, width: int, terminal: Terminal) -> list[str]:
    """Lines of a file with their numbers."""
    shown = []
    for number, line in enumerate(lines, start=first):
        # No more characters than columns are seen, and a line may be as long as a file.
        text = fitting(f"{number:>{width}} {printable(line[: terminal.width].expandtabs(4))}", terminal.width)
        shown.append(terminal.styled(text.rstrip(), "dim"))
    return shown
