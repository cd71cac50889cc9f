"""Books (EPUB): the chapters in their order. A chapter is a page of HTML in a zip file."""

from __future__ import annotations

from urllib.parse import unquote

from mlx_colbert.documents.archive import Archive, joined_path, local_name
from mlx_colbert.documents.blocks import Block, Heading, Parts
from mlx_colbert.documents.kinds import html
from mlx_colbert.errors import InputError

__all__ = ["parts"]

_CONTAINER = "META-INF/container.xml"


def parts(data: bytes, name: str) -> Parts:
    """The headings and blocks of a book, under its title.

    Raises:
        InputError: if the bytes are not an EPUB, or it is encrypted.
    """
    with Archive(data, name) as archive:
        roots = (item.get("full-path") for item in archive.xml(_CONTAINER).iter())
        package = next(filter(None, roots), None)
        if package is None:
            raise InputError(f"{name}: is damaged: {_CONTAINER} names no book.")
        root = archive.xml(package)
        titles = (item.text or "" for item in root.iter() if local_name(item.tag) == "title")
        if title := " ".join(next(titles, "").split()):
            yield Heading(title, 0)
        items = {item.get("id"): item for item in root.iter() if local_name(item.tag) == "item"}
        for reference in root.iter():
            item = items.get(reference.get("idref"))
            if local_name(reference.tag) != "itemref" or item is None or "nav" in item.get("properties", ""):
                continue
            path = joined_path(package, unquote(item.get("href", "")))
            if "html" in item.get("media-type", "") and path in archive.names:
                yield from _chapter(html.parts(archive.read(path), f"{name}: {path}"))


def _chapter(found: Parts) -> Parts:
    """The parts of a chapter. Its lines are those of a file that nobody sees, so they are left out."""
    title = ""
    for part in found:
        if isinstance(part, Block):
            if title:
                # The chapter has no heading of its own.
                yield Heading(title, 1, title)
                title = ""
            yield Block(part.text, cut=part.cut, head=part.head)
        elif part.level == 0:
            title = part.text
        else:
            title = ""
            yield Heading(part.text, part.level, part.source)
