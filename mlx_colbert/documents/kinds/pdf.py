"""PDF files: the text of each page, in paragraphs, under the headings of the outline.

A PDF has letters at places, but no paragraphs. Wider gaps between lines end a paragraph. Lines that repeat
at the top or the bottom of pages are left out, and words that were cut at the end of a line are whole again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Self

from mlx_colbert.documents.blocks import Block, Heading, Parts
from mlx_colbert.documents.kinds.pdf_process import pdf_document
from mlx_colbert.errors import InputError

__all__ = ["parts"]

# A line is a repeated one if it is at the edge of at least this many pages.
_REPEATS = 3
# The lines at an edge that may repeat.
_EDGE_LINES = 2
# A gap that is so much wider than usual ends a paragraph.
_WIDE_GAP = 1.35
# Without an outline, short lines of letters that are so much larger are headings.
_LARGE = 1.15
_HEADING_WORDS = 16
_PAGE_NUMBER = re.compile(r"\W*(?:page\s*)?(?:[0-9]{1,4}|[ivxlc]{1,7})(?:\s*(?:/|of)\s*[0-9]{1,4})?\W*", re.I)
# pdfium marks the hyphen of a word that goes on in the next line with U+FFFE, and joins the lines.
_CUT_WORD = re.compile(r"(\w+)(?:[\ufffe\u00ad\x02](\n?)|(?<=[a-zß-ÿ])-(\n))(\w+)(?:[^\S\n]+|(?=\W|$))")
_LEADERS = re.compile(r"(?:[^\S\n]?[.·_]){5,}[^\S\n]?")
_NO_TITLE = re.compile(
    r"untitled|(?:microsoft word|powerpoint|slide)\b.*|.*\.(?:docx?|dvi|tex|pdf|indd|rtf|odt|qxd)", re.I
)


@dataclass(frozen=True)
class _Line:
    """A line of a page: its text, where it begins and ends on the page, the size of its letters.

    All are in points, and 0 if they are not known.
    """

    text: str
    top: float
    bottom: float
    size: float


@dataclass(frozen=True)
class _Usual:
    """What is usual in a document.

    Attributes:
        size: the size of most letters.
        gap: the usual distance from line to line. 0: not known.
        compounds: the words with a hyphen, and how often they occur.
    """

    size: float
    gap: float
    compounds: Counter[str]

    @classmethod
    def of(cls, pages: Sequence[Sequence[_Line]]) -> Self:
        """What is usual on these pages. They have at least one line."""
        sizes: Counter[float] = Counter()
        compounds: Counter[str] = Counter()
        for line in (line for page in pages for line in page):
            sizes[line.size] += len(line.text)
            compounds.update(re.findall(r"\w+-\w+", line.text))
        gaps = [gap for page in pages for gap in _gaps(page) if gap > 0]
        return cls(sizes.most_common(1)[0][0], median(gaps) if gaps else 0.0, compounds)


def _gaps(lines: Sequence[_Line]) -> list[float]:
    """The distance from each line to the next one below it."""
    return [before.bottom - line.top for before, line in pairwise(lines)]


def parts(data: bytes, name: str) -> Parts:
    """The headings and blocks of a PDF file. The position is the page.

    Raises:
        InputError: if the file is encrypted or damaged, or has no text.
    """
    document = pdf_document(data, name)
    pages = _without_repeats(
        [[_Line(_printable(text), *place) for text, *place in page] for page in document["pages"]]
    )
    if not any(pages):
        raise InputError(f"{name}: has no text, only images. Recognise its text first (OCR).")
    title = " ".join(_printable(document["title"]).split())
    if title and not _NO_TITLE.fullmatch(title):
        yield Heading(title, 0)
    outline = [(level, " ".join(_printable(text).split()), page) for level, text, page in document["outline"]]
    usual = _Usual.of(pages)
    for number, page in enumerate(pages, start=1):
        if outline:
            entries = [(level, text) for level, text, target in outline if target == number - 1]
            yield from _page_with_outline(page, entries, number, usual)
        else:
            yield from _page_with_sizes(page, number, usual)


def _printable(text: str) -> str:
    """The text without characters that stand for nothing, and without dots that lead to a page number."""
    kept = "".join(c for c in text if c in "\ufffe\x02" or c.isprintable() or c.isspace())
    return _LEADERS.sub(" … ", kept).rstrip()


def _without_repeats(pages: list[list[_Line]]) -> list[list[_Line]]:
    """The pages without the lines that repeat at their edges, and without page numbers."""
    counts: Counter[str] = Counter()
    for page in pages:
        edges = page[:_EDGE_LINES] + page[-_EDGE_LINES:]
        counts.update({_pattern(line.text) for line in edges})

    def repeats(line: _Line) -> bool:
        pattern = _pattern(line.text)
        # A line with the number of its page needs fewer witnesses.
        return counts[pattern] >= _REPEATS - ("#" in pattern) or _PAGE_NUMBER.fullmatch(line.text) is not None

    kept = []
    for page in pages:
        start, end = 0, len(page)
        while start < min(end, _EDGE_LINES) and repeats(page[start]):
            start += 1
        while end > max(start, len(page) - _EDGE_LINES) and repeats(page[end - 1]):
            end -= 1
        kept.append(page[start:end])
    return kept


def _pattern(text: str) -> str:
    """A line with a sign for each number, because the number of the page differs."""
    return re.sub(r"[0-9]+", "#", " ".join(text.split()))


def _page_with_outline(
    page: Sequence[_Line], entries: Sequence[tuple[int, str]], number: int, usual: _Usual
) -> Parts:
    """The parts of a page. Each entry of the outline stands where its text is, or at the top."""
    waiting = list(entries)
    start = 0
    found: list[tuple[int, int, int, str]] = []
    for level, title in entries:
        place = _place_of(title, page, start)
        if place is not None:
            found.append((*place, level, title))
            start = place[1]
            waiting.remove((level, title))
    for level, title in waiting:
        yield Heading(title, level + 1, title, {"page": number})
    end = 0
    for first, last, level, title in found:
        yield from _paragraphs(page[end:first], number, usual)
        source = " ".join(line.text for line in page[first:last])
        yield Heading(title, level + 1, source, {"page": number})
        end = last
    yield from _paragraphs(page[end:], number, usual)


def _place_of(title: str, page: Sequence[_Line], start: int) -> tuple[int, int] | None:
    """(first line, line after it) of a heading of the outline on its page. It may have a number before it."""
    wanted = _letters(title)
    for first in range(start, len(page)):
        for last in range(first + 1, min(first + 4, len(page) + 1)):
            text = _letters("".join(line.text for line in page[first:last]))
            if text.endswith(wanted) and len(text) <= len(wanted) + 12:
                return first, last
            if len(text) > len(wanted) + 12:
                break
    return None


def _letters(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _page_with_sizes(page: Sequence[_Line], number: int, usual: _Usual) -> Parts:
    """The parts of a page. Lines of large letters are headings: the larger, the higher."""
    start = 0
    for index, line in enumerate(page):
        is_large = usual.size > 0 and line.size >= _LARGE * usual.size
        if not is_large or len(line.text.split()) > _HEADING_WORDS or not re.search(r"\w{2}", line.text):
            continue
        if index < start:
            continue
        end = index + 1
        while end < len(page) and page[end].size == line.size and end - index < 3:
            end += 1
        yield from _paragraphs(page[start:index], number, usual)
        text = " ".join(" ".join(part.text for part in page[index:end]).split())
        # Levels 1 to 6 for letters of more than twice the usual size down to those that are a bit larger.
        level = max(1, 6 - int((line.size / usual.size - 1) / 0.2))
        yield Heading(text, level, text, {"page": number})
        start = end
    yield from _paragraphs(page[start:], number, usual)


def _paragraphs(lines: Sequence[_Line], number: int, usual: _Usual) -> Parts:
    gaps = _gaps(lines)
    widest = _WIDE_GAP * usual.gap
    start = 0
    for index in range(1, len(lines) + 1):
        if index == len(lines) or (widest and (gaps[index - 1] > widest or gaps[index - 1] < -widest)):
            text = _whole_words("\n".join(line.text.strip() for line in lines[start:index]), usual.compounds)
            yield Block(text, {"page": number})
            start = index


def _whole_words(text: str, words: Counter[str]) -> str:
    """The text with whole words where a hyphen cut one at the end of a line."""

    def whole(match: re.Match[str]) -> str:
        # A word that is written with a hyphen elsewhere keeps it.
        start, end = match[1], match[4]
        is_compound = words[f"{start}-{end}"] > 0 or not end[0].islower()
        after = "\n" if match[2] or match[3] else match[0][match.end(4) - match.start() :]
        return f"{start}{'-' if is_compound else ''}{end}{after}"

    return _CUT_WORD.sub(whole, text).replace("\ufffe", "-").replace("\x02", "-").strip()
