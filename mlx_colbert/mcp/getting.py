"""What the tool `get` does, and what a resource is: a passage, or lines of a file in a collection."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_colbert.ask.prompt import after_marks
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.hits import CollectionHit
from mlx_colbert.collection.lookup import find_passage
from mlx_colbert.collection.quotes import QuotedLines, QuotedPassages, quote
from mlx_colbert.collection.source_files import surroundings
from mlx_colbert.counts import counted
from mlx_colbert.mcp.facts import about, cite, headings
from mlx_colbert.mcp.finding import Shown
from mlx_colbert.mcp.results import Got
from mlx_colbert.mcp.served import Served
from mlx_colbert.mcp.untrusted_text import MARKS, clean, n_tokens, one_line

__all__ = ["RESOURCE", "got", "resource"]

# The URI template of a passage.
RESOURCE = "mlx-colbert://{collection}/{id}"
# Tokens of the frame around a text.
_FRAME = 120
# Tokens of the mark and the number before a line.
_LINE_FRAME = 3
_MOST_RESOURCE_TOKENS = 20_000


def resource(served: Served, collection: str, doc_id: str) -> str:
    """The text of a passage, and where it is.

    Raises:
        ColBERTError: as `quote`.
    """
    return got(served, doc_id, [collection], 0, _MOST_RESOURCE_TOKENS).text


def got(served: Served, reference: str, names: Sequence[str], n_around: int, max_tokens: int) -> Shown:
    """A passage, or lines of a file. Only files that are in an index are read.

    Args:
        served: where to look.
        reference: the id of a passage, its short form, or a file with a line and a number of lines.
        names: collections. Empty: all.
        n_around: lines of the file before and after a passage.
        max_tokens: about the most tokens of the result.

    Raises:
        ColBERTError: as `quote`.
        OSError: if the file cannot be read.
    """
    notes: list[str] = []
    with served.opened(names, notes.append) as collections:
        found = quote(collections, reference)
        if isinstance(found, QuotedLines):
            return _lines(found, _about(collections, found), notes, max_tokens)
        if isinstance(found, QuotedPassages):
            return _passages(found, notes, max_tokens)
        return _passage(collections, found, notes, n_around, max_tokens)


def _about(collections: Sequence[Collection], found: QuotedLines) -> str | None:
    """What the user has said about a file."""
    for collection in collections:
        if str(collection.settings.path_of(found.source)) == found.path:
            return one_line(" ".join(collection.settings.context_of(found.source))) or None
    return None


def _passage(
    collections: Sequence[Collection],
    hit: CollectionHit,
    notes: list[str],
    n_around: int,
    max_tokens: int,
) -> Shown:
    lines = (hit.position or {}).get("lines")
    text = (hit.text or "").rstrip("\n")
    # A passage that leaves out lines, such as markup, has no numbers of lines.
    is_whole = lines is not None and text.count("\n") == lines[1] - lines[0]
    if n_around:
        around = surroundings(hit, find_passage(collections, hit.doc_id)[0], n_around)
        if around is None or lines is None or not is_whole:
            notes = [*notes, "The lines around it are not known: get lines of the file."]
        else:
            text = "\n".join([*around.before, text, *around.after])
            lines = [around.first, lines[1] + len(around.after)]
    shown, is_cut = _cut(text, max_tokens - _FRAME)
    result = Got(
        id=one_line(hit.doc_id),
        cite=cite(hit),
        collection=one_line(hit.collection),
        headings=headings(hit),
        about=about(hit),
        text=clean(shown),
        lines=list(lines) if lines else None,
        notes=[clean(note) for note in notes] + (["The text is cut: raise max_tokens."] if is_cut else []),
    )
    return Shown(result, _text(result, lines[0] if lines and is_whole else None))


def _passages(found: QuotedPassages, notes: list[str], max_tokens: int) -> Shown:
    """The passages of a file without lines, such as a PDF, as far as there is room."""
    chosen: list[CollectionHit] = []
    room = max_tokens - _FRAME
    for hit in found.passages:
        room -= n_tokens(hit.text or "") + _LINE_FRAME
        if room < 0 and chosen:
            break
        chosen.append(hit)
    text, is_cut = _cut("\n\n".join((hit.text or "").rstrip("\n") for hit in chosen), max_tokens - _FRAME)
    left = found.passages[len(chosen) :]
    told = [clean(note) for note in notes]
    if is_cut:
        told.append("The text is cut: raise max_tokens.")
    result = Got(
        cite=cite(chosen[0])
        if len(found.passages) == 1
        else one_line(found.passages[0].path or found.source),
        collection=one_line(found.collection),
        about=about(chosen[0]),
        text=clean(text),
        next=one_line(left[0].doc_id) if left else None,
        notes=told,
    )
    return Shown(result, _text(result, None))


def _lines(found: QuotedLines, about: str | None, notes: list[str], max_tokens: int) -> Shown:
    """Lines of a file: those that are asked for, as far as there is room."""
    chosen: list[str] = []
    room = max_tokens - _FRAME
    for line in found.lines:
        room -= n_tokens(line) + _LINE_FRAME
        if room < 0 and chosen:
            break
        chosen.append(line)
    first, last = found.first, found.first - 1 + len(chosen)
    text, is_cut = _cut("\n".join(chosen), max_tokens - _FRAME)
    path = one_line(found.path)
    notes = [clean(note) for note in notes]
    if not found.is_indexed:
        notes.append("The file has changed since it was indexed.")
    if is_cut:
        notes.append("A line is too long and was cut: raise max_tokens.")
    result = Got(
        cite=f"{path}:{first}" if first == last else f"{path}:{first}-{last}",
        collection=one_line(found.collection),
        about=about,
        text=clean(text),
        lines=[first, last],
        n_lines=found.n_lines,
        next=f"{path}:{last + 1}:{len(chosen)}" if last < found.n_lines else None,
        notes=notes,
    )
    return Shown(result, _text(result, first))


def _cut(text: str, budget: int) -> tuple[str, bool]:
    """The beginning of a text that fits, and whether it is only a part."""
    if (need := n_tokens(text)) <= budget:
        return text, False
    return text[: max(int(len(text) * budget / need) - 2, 1)] + " …", True


def _text(result: Got, first: int | None) -> str:
    """The result for a language model."""
    of_all = f" of {counted(result.n_lines, 'line')}" if result.n_lines else ""
    known = f" (id {result.id})" if result.id else ""
    lines = [" › ".join(filter(None, [result.cite, result.headings])) + of_all + known]
    if result.about:
        lines.append(result.about)
    lines += [MARKS, ""]
    shown = result.text.split("\n")
    if first is not None:
        # With the number of each line, so that it can be cited.
        shown = [f"{number} {line}" for number, line in enumerate(shown, start=first)]
    lines.append(after_marks("\n".join(shown)))
    if result.next:
        lines += ["", f"The text goes on: get(reference='{result.next}')."]
    lines += [f"Note: {note}" for note in result.notes]
    return "\n".join(lines)
