"""Word documents (DOCX): headings, paragraphs, lists, tables, footnotes.

A DOCX file is XML in a zip file. This reads what has text and leaves out the rest: no other library is
needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from mlx_colbert.documents.archive import Archive, local_name
from mlx_colbert.documents.blocks import Block, Heading, Parts
from mlx_colbert.errors import InputError

__all__ = ["parts"]

_HEADING = re.compile(r"heading ([1-9])")
# Elements with text that was deleted, or that is shown in another way.
_LEFT_OUT = frozenset("del delText moveFrom instrText Fallback pict rPr pPr".split())


def parts(data: bytes, name: str) -> Parts:
    """The headings and blocks of a Word document.

    Raises:
        InputError: if the bytes are not a Word document.
    """
    with Archive(data, name) as archive:
        main = next(
            (path for kind, path in archive.relations("").values() if kind == "officeDocument"),
            "word/document.xml",
        )
        relations = {kind: path for kind, path in archive.relations(main).values()}
        levels = _heading_levels(archive, relations.get("styles"))
        if title := _title(archive):
            yield Heading(title, 0)
        body = next((part for part in archive.xml(main) if local_name(part.tag) == "body"), None)
        if body is None:
            raise InputError(f"{name}: is damaged: {main} has no body.")
        yield from _blocks(body, levels)
        for notes in ("footnotes", "endnotes", "comments"):
            if relations.get(notes) in archive.names:
                yield from _notes(archive.xml(relations[notes]))


def _title(archive: Archive) -> str:
    if "docProps/core.xml" not in archive.names:
        return ""
    found = (item.text for item in archive.xml("docProps/core.xml") if local_name(item.tag) == "title")
    return " ".join((next(found, None) or "").split())


def _heading_levels(archive: Archive, styles: str | None) -> dict[str, int]:
    """Style → level of the heading. 0 is the title of the document."""
    if styles not in archive.names or styles is None:
        return {}
    levels: dict[str, int] = {}
    based: dict[str, str] = {}
    for style in archive.xml(styles):
        if local_name(style.tag) != "style":
            continue
        style_id = _attribute(style, "styleId")
        for item in style.iter():
            tag, value = local_name(item.tag), _attribute(item, "val")
            if tag == "name" and (heading := _HEADING.fullmatch(value.lower())):
                levels[style_id] = int(heading[1])
            elif tag == "name" and value.lower() == "title":
                levels[style_id] = 0
            elif tag == "basedOn":
                based[style_id] = value
            elif tag == "outlineLvl" and value.isdigit() and int(value) < 9:
                levels.setdefault(style_id, int(value) + 1)
    for style_id in based:
        parent, seen = style_id, {style_id}
        while parent not in levels and parent in based and based[parent] not in seen:
            parent = based[parent]
            seen.add(parent)
        if parent in levels:
            levels[style_id] = levels[parent]
    return levels


def _attribute(element: Element, name: str) -> str:
    return next((value for key, value in element.attrib.items() if local_name(key) == name), "")


def _blocks(body: Element, levels: dict[str, int]) -> Parts:
    items: list[str] = []
    for element in _content(body):
        tag = local_name(element.tag)
        if tag == "tbl":
            yield from _list(items)
            yield from _table(element)
        elif tag == "p" and (text := _text(element)):
            style, outline, is_item = _properties(element)
            level = levels.get(style, outline)
            if level is not None:
                yield from _list(items)
                yield Heading(" ".join(text.split()), level, text)
            elif is_item:
                items.append(f"- {text}")
            else:
                yield from _list(items)
                yield Block(text)
    yield from _list(items)


def _content(element: Element) -> Iterator[Element]:
    """Paragraphs and tables, also those in content controls and in text that was inserted."""
    for child in element:
        if local_name(child.tag) in ("p", "tbl"):
            yield child
        elif local_name(child.tag) in ("sdt", "sdtContent", "ins", "customXml", "moveTo", "txbxContent"):
            yield from _content(child)


def _list(items: list[str]) -> Parts:
    """The list of the items so far. This removes them."""
    if items:
        yield Block("\n".join(items), cut="items")
        items.clear()


def _properties(paragraph: Element) -> tuple[str, int | None, bool]:
    """(style, level of the outline, whether it is an item of a list) of a paragraph."""
    style, outline, is_item = "", None, False
    properties = next((part for part in paragraph if local_name(part.tag) == "pPr"), ())
    for item in properties:
        tag, value = local_name(item.tag), _attribute(item, "val")
        if tag == "pStyle":
            style = value
            is_item = is_item or value.lower().startswith("list")
        elif tag == "outlineLvl" and value.isdigit() and int(value) < 9:
            outline = int(value) + 1
        elif tag == "numPr":
            is_item = True
    return style, outline, is_item


def _text(element: Element) -> str:
    """The text of a paragraph, without what is deleted."""
    pieces: list[str] = []
    # An own stack: the depth of a file must not matter.
    stack = [element]
    while stack:
        part = stack.pop()
        tag = local_name(part.tag)
        if tag == "t":
            pieces.append(part.text or "")
        elif tag in ("tab", "ptab"):
            pieces.append("\t")
        elif tag in ("br", "cr"):
            pieces.append("\n")
        elif tag == "noBreakHyphen":
            pieces.append("-")
        if tag not in _LEFT_OUT:
            stack.extend(reversed(part))
            if tag == "p" and part is not element:
                # A paragraph in a text box.
                pieces.append("\n")
    lines = (" ".join(line.split(" ")).strip() for line in "".join(pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def _table(table: Element) -> Parts:
    rows: list[str] = []
    for row in table.iter():
        if local_name(row.tag) != "tr":
            continue
        cells = [
            " ".join(" ".join(_text(part).split()) for part in _content(cell)).strip() for cell in _cells(row)
        ]
        if any(cells):
            rows.append(" | ".join(cells))
    if rows:
        head, body = (rows[0], rows[1:]) if len(rows) > 1 else ("", rows)
        yield Block("\n".join(body), cut="rows", head=head)


def _cells(row: Element) -> Iterator[Element]:
    for child in row:
        if local_name(child.tag) == "tc":
            yield child
        elif local_name(child.tag) in ("sdt", "sdtContent", "customXml", "ins"):
            yield from _cells(child)


def _notes(root: Element) -> Parts:
    """Footnotes, endnotes or comments: each is a block."""
    for note in root:
        if _attribute(note, "type") in ("separator", "continuationSeparator"):
            continue
        if text := "\n".join(filter(None, (_text(part) for part in _content(note)))):
            yield Block(text)
