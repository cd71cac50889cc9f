"""Reads zip files and XML of strangers: DOCX, PPTX and EPUB are both.

Nothing is written to the disk, so the names in a zip file can do no harm. What is unpacked is limited. XML
that declares entities is refused: they can blow up a file, or name other files.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, Self
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from mlx_colbert.counts import counted
from mlx_colbert.errors import InputError, said

__all__ = ["Archive", "joined_path", "local_name"]

# The most files in a zip file, and the most bytes that are unpacked from it in all.
MAX_ENTRIES = 20_000
MAX_UNPACKED = 512 * 1024 * 1024
# Deeper XML is an attack: office programs write less than 100 levels.
MAX_DEPTH = 1000
# An element takes about 350 bytes of memory. A document of 1,000 pages has about 500,000.
MAX_ELEMENTS = 4_000_000


class Archive:
    """The files in a zip file.

    Attributes:
        names: the names of the files.
    """

    def __init__(self, data: bytes, name: str) -> None:
        """Open the bytes of a zip file.

        Raises:
            InputError: if they are not a zip file, or have too many files.
        """
        self._name = name
        self._room = MAX_UNPACKED
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError) as error:
            raise InputError(f"{name}: is damaged: {said(error)}.") from None
        entries = self._zip.infolist()
        if len(entries) > MAX_ENTRIES:
            raise InputError(
                f"{name}: has {counted(len(entries), 'file')} inside. At most {MAX_ENTRIES:,} are read."
            )
        self.names: set[str] = {entry.filename for entry in entries}

    def read(self, member: str) -> bytes:
        """The bytes of a file.

        Raises:
            InputError: if it is missing, damaged, encrypted, or too large.
        """
        try:
            n_bytes = self._zip.getinfo(member).file_size
            self._room -= n_bytes
            if self._room < 0:
                raise InputError(f"{self._name}: is more than {MAX_UNPACKED:,} bytes when it is unpacked.")
            with self._zip.open(member) as stream:
                # With a number, no more is unpacked than this, also if there is more.
                return stream.read(n_bytes)
        except InputError:
            raise
        except KeyError:
            raise InputError(f"{self._name}: is damaged: {member} is missing.") from None
        except RuntimeError as error:
            # zipfile raises this if a password is needed.
            raise InputError(f"{self._name}: is encrypted: {said(error)}.") from None
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, EOFError, ValueError) as error:
            raise InputError(f"{self._name}: is damaged: {member}: {said(error)}.") from None

    def xml(self, member: str) -> Element:
        """The root of an XML file.

        Raises:
            InputError: if it cannot be read.
        """
        return parsed_xml(self.read(member), f"{self._name}: {member}")

    def relations(self, member: str) -> dict[str, tuple[str, str]]:
        """What an office file refers to: id → (type, name of the file). Links to the outside are left out."""
        path = PurePosixPath(member)
        relations = str(path.parent / "_rels" / f"{path.name}.rels")
        if relations not in self.names:
            return {}
        return {
            item.get("Id", ""): (
                item.get("Type", "").rpartition("/")[2],
                joined_path(member, item.get("Target", "")),
            )
            for item in self.xml(relations)
            if item.get("TargetMode") != "External"
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()


def joined_path(member: str, target: str) -> str:
    """The name in a zip file that `target` means, seen from the file `member`.

    >>> joined_path("ppt/slides/slide1.xml", "../notes/n1.xml"), joined_path("a/b.xml", "/c.xml")
    ('ppt/notes/n1.xml', 'c.xml')
    """
    parts: list[str] = [] if target.startswith("/") else list(PurePosixPath(member).parent.parts)
    for part in target.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def local_name(tag: str) -> str:
    """The name of a tag or an attribute without its namespace.

    >>> local_name("{http://example.org}p")
    'p'
    """
    return tag.rpartition("}")[2]


def parsed_xml(data: bytes, place: str) -> Element:
    """The root of an XML text. Each name is `{namespace}name`.

    Args:
        data: its bytes.
        place: its name in an error message.

    Raises:
        InputError: if it is not XML, declares entities, is nested too deeply, or has too many elements.

    >>> parsed_xml(b"<a><b/></a>", "a.xml")[0].tag
    'b'
    """
    builder = TreeBuilder()
    depth = n_elements = 0

    def qualified(name: str) -> str:
        return "{" + name if "}" in name else name

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, n_elements
        depth += 1
        n_elements += 1
        if depth > MAX_DEPTH:
            raise InputError(f"{place}: is nested more than {MAX_DEPTH:,} levels deep.")
        if n_elements > MAX_ELEMENTS:
            raise InputError(f"{place}: has more than {MAX_ELEMENTS:,} XML elements. Split the document.")
        builder.start(qualified(tag), {qualified(key): value for key, value in attributes.items()})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(qualified(tag))

    def refuse(*_: Any) -> None:
        raise InputError(f"{place}: declares XML entities, which can be an attack. It is not read.")

    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    parser.UnparsedEntityDeclHandler = refuse
    # External entities are not read without a handler for them.
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{place}: is not XML: {said(error)}.") from None
    return builder.close()
