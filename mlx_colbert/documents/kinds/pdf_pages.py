"""The lines of the pages of PDF files, by pdfium. This runs as a process of its own.

A PDF of a stranger can crash a C++ library, or keep it busy for ever. Then only this process ends.
It reads requests from its standard input, and writes an answer for each: 8 bytes with a length, then
that many bytes. A request is a PDF file. An answer is a JSON object.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from contextlib import suppress
from typing import Any, BinaryIO

import pypdfium2
from pypdfium2 import raw

from mlx_colbert.errors import said

__all__ = ["read_message", "write_message"]

# More pages than this are not read.
MAX_PAGES = 20_000
# An address space that is enough for a file of the largest size, in bytes. A page of 5 MB can need 10 GB.
MAX_MEMORY = 3 << 30


def read_message(stream: BinaryIO) -> bytes | None:
    """The next message. None at the end."""
    length = stream.read(8)
    return stream.read(int.from_bytes(length, "big")) if len(length) == 8 else None


def write_message(stream: BinaryIO, message: bytes) -> None:
    """Write a message."""
    stream.write(len(message).to_bytes(8, "big") + message)
    stream.flush()


def document(data: bytes) -> dict[str, Any]:
    """The lines of a PDF file.

    Returns:
        "title"; "outline": [level, title, page from 0] of each entry; "pages": for each page a list of
        [text, top, bottom, size of the letters] of each line. Top and bottom are in points from the lower end
        of the page: pdfium joins the two lines of a word that a hyphen cuts.
    """
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        encrypted = "password" in str(error).lower()
        return {"error": "is encrypted" if encrypted else f"is damaged: {said(error)}"}
    title = pdf.get_metadata_value("Title")
    outline = []
    with suppress(pypdfium2.PdfiumError, UnicodeDecodeError):
        for entry in pdf.get_toc():
            target = entry.get_dest()
            page = target.get_index() if target else None
            if page is not None:
                outline.append([entry.level, entry.get_title(), page])
    pages: list[list[Any]] = []
    for number in range(min(len(pdf), MAX_PAGES)):
        try:
            pages.append(_lines(pdf[number]))
        except pypdfium2.PdfiumError:
            pages.append([])  # a damaged page
    return {"title": title, "outline": outline, "pages": pages}


def _lines(page: Any) -> list[Any]:
    text_page = page.get_textpage()
    text = text_page.get_text_range()
    # A letter outside the basic plane is two characters of pdfium.
    is_aligned = text_page.count_chars() == len(text.encode("utf-16-le", "surrogatepass")) // 2
    lines = []
    start = 0
    for line in text.split("\n"):
        n_units = len(line.encode("utf-16-le", "surrogatepass")) // 2
        if line.strip():
            first = start + len(line) - len(line.lstrip())
            last = start + n_units - (len(line) - len(line.rstrip())) - 1
            top, bottom, size = _geometry(text_page, first, last) if is_aligned else (0.0, 0.0, 0.0)
            lines.append([line.rstrip("\r"), round(top, 1), round(bottom, 1), round(size, 1)])
        start += n_units + 1
    return lines


def _geometry(text_page: Any, first: int, last: int) -> tuple[float, float, float]:
    """Height of the first and of the last letter of a line, and the size of the first."""
    size = raw.FPDFText_GetFontSize(text_page.raw, first)
    matrix = raw.FS_MATRIX()
    if raw.FPDFText_GetMatrix(text_page.raw, first, matrix):
        # Some programs write letters of size 1 and enlarge them.
        size *= max(abs(matrix.a), abs(matrix.b)) or 1
    x, top, bottom = ctypes.c_double(), ctypes.c_double(), ctypes.c_double()
    raw.FPDFText_GetCharOrigin(text_page.raw, first, x, top)
    raw.FPDFText_GetCharOrigin(text_page.raw, last, x, bottom)
    return top.value, bottom.value, size


def _serve() -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    # pdfium prints warnings of its own. The answers have a stream that nothing else writes to.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while (data := read_message(sys.stdin.buffer)) is not None:
        try:
            answer = document(data)
        except MemoryError:
            answer = {"error": "needs too much memory"}
        write_message(answers, json.dumps(answer).encode())


if __name__ == "__main__":
    _serve()
