"""PowerPoint presentations (PPTX): the text of each slide, its tables, and the notes of the speaker."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from mlx_colbert.documents.archive import Archive, local_name
from mlx_colbert.documents.blocks import Block, Heading, Parts
from mlx_colbert.types import Position

__all__ = ["parts"]

# The placeholders of a slide that repeat on each slide, or have no text.
_LEFT_OUT = frozenset({"dt", "ftr", "sldNum", "hdr", "sldImg"})


def parts(data: bytes, name: str) -> Parts:
    """The headings and blocks of a presentation. The title of a slide is a heading.

    Raises:
        InputError: if the bytes are not a presentation.
    """
    with Archive(data, name) as archive:
        main = next(
            (path for kind, path in archive.relations("").values() if kind == "officeDocument"),
            "ppt/presentation.xml",
        )
        relations = archive.relations(main)
        slides = [
            relations[value][1]
            for item in archive.xml(main).iter()
            if local_name(item.tag) == "sldId"
            for key, value in item.attrib.items()
            if key.endswith("}id") and value in relations
        ]
        if title := _title(archive):
            yield Heading(title, 0)
        for number, slide in enumerate(slides, start=1):
            yield from _slide(archive, slide, {"slide": number})


def _title(archive: Archive) -> str:
    if "docProps/core.xml" not in archive.names:
        return ""
    found = (item.text for item in archive.xml("docProps/core.xml") if local_name(item.tag) == "title")
    title = " ".join((next(found, None) or "").split())
    return "" if title.lower() in ("powerpoint presentation", "slide 1") else title


def _slide(archive: Archive, slide: str, position: Position) -> Parts:
    title, blocks = "", []
    for role, block in _shapes(archive.xml(slide), position):
        if role in ("title", "ctrTitle") and not title:
            title = " ".join(block.text.split())
        else:
            blocks.append(block)
    yield Heading(title, 1, title, position)
    yield from blocks
    for kind, path in archive.relations(slide).values():
        if kind == "notesSlide" and path in archive.names:
            notes = [block for _, block in _shapes(archive.xml(path), position)]
            if notes:
                yield Heading("Notes", 2, "Notes", position)
                yield from notes


def _shapes(root: Element, position: Position) -> Iterator[tuple[str, Block]]:
    """(role, block) of each shape with text."""
    stack = [root]
    while stack:
        element = stack.pop()
        tag = local_name(element.tag)
        if tag == "sp":
            role = next((item.get("type", "") for item in element.iter() if local_name(item.tag) == "ph"), "")
            text = "\n".join(_paragraphs(element))
            if text and role not in _LEFT_OUT:
                yield role, Block(text, position, "items" if "\n- " in f"\n{text}" else "sentences")
        elif tag == "tbl":
            rows = [
                " | ".join(" ".join(_paragraphs(cell)) for cell in row if local_name(cell.tag) == "tc")
                for row in element
                if local_name(row.tag) == "tr"
            ]
            rows = [row for row in rows if row.strip(" |")]
            if rows:
                head, body = (rows[0], rows[1:]) if len(rows) > 1 else ("", rows)
                yield "table", Block("\n".join(body), position, "rows", head=head)
        elif tag != "Fallback":
            stack.extend(reversed(element))


def _paragraphs(shape: Element) -> Iterator[str]:
    for paragraph in shape.iter():
        if local_name(paragraph.tag) == "p":
            pieces = [
                item.text or "" if local_name(item.tag) == "t" else "\n"
                for item in paragraph.iter()
                if local_name(item.tag) in ("t", "br")
            ]
            if text := "".join(pieces).strip():
                yield text
