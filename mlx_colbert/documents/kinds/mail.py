"""E-mail: one message (.eml), or many in one file (.mbox). The subject is the title.

The text of a message is its plain text, or its HTML if it has no plain text. Attached files are named, not
read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes
from email.errors import HeaderParseError, MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any

from mlx_colbert.documents.blocks import Block, Heading, Parts
from mlx_colbert.documents.decoding import decode
from mlx_colbert.documents.kinds import html, text
from mlx_colbert.errors import InputError
from mlx_colbert.types import Position

__all__ = ["parts"]

# A message has few parts. What follows is an attack, or of no use.
MAX_PARTS = 1000
# More of a header is not read: to decode it takes a time that grows with its square.
_HEADER_CHARACTERS = 4096
# Attached files that are named.
_MAX_NAMES = 50
_MBOX_FROM = re.compile(rb"^From [^\r\n]*[0-9]{4}[^\r\n]*\r?\n", re.MULTILINE)
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)
# The lines that people read first. The subject is the heading.
_SHOWN = ("From", "To", "Cc", "Date")


def parts(data: bytes, name: str) -> Parts:
    r"""The headings and blocks of a message, or of all messages of an mbox file.

    The position is the lines of the message.

    >>> mail = b"From: Ann <ann@example.org>\nSubject: Tea\n\nSteep it.\n"
    >>> [part.text for part in parts(mail, "tea.eml")]
    ['Tea', 'From: Ann <ann@example.org>', 'Steep it.']
    """
    if not _MBOX_FROM.match(data):
        yield from _message(data, name, [1, max(1, len(data.splitlines()))])
        return
    starts = [match.start() for match in _MBOX_FROM.finditer(data)]
    line = 1
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        n_lines = data.count(b"\n", start, end)
        message = data[start:end].partition(b"\n")[2]
        last = line + max(n_lines, 1) - 1
        yield from _message(_QUOTED_FROM.sub(rb"\1", message), f"{name}:{line}", [line, last])
        line += n_lines


def _message(data: bytes, name: str, lines: list[int]) -> Parts:
    position: Position = {"lines": lines}
    try:
        message = message_from_bytes(data)
        found = list(_leaves(message))
    except (MessageError, RecursionError, LookupError, ValueError) as error:
        raise InputError(f"{name}: is damaged: {type(error).__name__}.") from None
    headers = {key: _header(message, key) for key in ("Subject", *_SHOWN)}
    metadata = _metadata(headers, message)
    # The same object in all blocks of a message: blocks of two messages are never joined.
    yield Heading(headers["Subject"] or "(no subject)", 0)
    shown = "\n".join(f"{key}: {headers[key]}" for key in _SHOWN if headers[key])
    if shown:
        yield Block(shown, position, "lines", metadata=metadata)
    for block in _body(found, name):
        yield Block(block.text, position, block.cut, head=block.head, metadata=metadata)
    names = [part_name for part in found if (part_name := _file_name(part))]
    if names:
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        yield Block(f"Attached: {', '.join(names[:_MAX_NAMES])}{more}", position, metadata=metadata)


def _leaves(message: Message) -> Iterator[Message]:
    """The parts that are not empty, in their order. Of an attached message, the name alone."""
    stack: list[Message] = [message]
    n_parts = 0
    while stack and n_parts < MAX_PARTS:
        part = stack.pop()
        n_parts += 1
        payload = part.get_payload()
        if isinstance(payload, list) and part.get_content_maintype() == "multipart":
            stack.extend(item for item in reversed(payload) if isinstance(item, Message))
        else:
            yield part


def _header(message: Message, key: str) -> str:
    """A header as text. What cannot be decoded stays as it is."""
    value = message.get(key)
    if value is None:
        return ""
    value = str(value)[:_HEADER_CHARACTERS]
    try:
        value = str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, ValueError):
        pass
    value = value.encode("utf-8", "replace").decode("utf-8")
    return " ".join(value.split())


def _metadata(headers: dict[str, str], message: Message) -> dict[str, Any]:
    """Sender, receiver, subject and date, for filters. The date is like 2024-05-31T09:30:00+00:00."""
    metadata = {key.lower(): value for key, value in headers.items() if value and key != "Date"}
    try:
        metadata["date"] = parsedate_to_datetime(headers["Date"]).isoformat()
    except (TypeError, ValueError, IndexError, OverflowError):
        if headers["Date"]:
            metadata["date"] = headers["Date"]
    return metadata


def _body(found: list[Message], name: str) -> Iterator[Block]:
    """The blocks of the text: the plain one, or else the one in HTML."""
    texts = [part for part in found if part.get_content_maintype() == "text" and not _is_attached(part)]
    plain = [part for part in texts if part.get_content_subtype() != "html"]
    for part in plain or texts:
        content = _decoded(part, name)
        if part.get_content_subtype() == "html":
            # The headings of such a page are a part of the text.
            for item in html.parts_of_text(content):
                yield item if isinstance(item, Block) else Block(item.source)
        else:
            lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            yield from (block for block in text.paragraphs(lines) if isinstance(block, Block))


def _decoded(part: Message, name: str) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    try:
        return data.decode(part.get_content_charset() or "utf-8")
    except (LookupError, UnicodeDecodeError):
        try:
            return decode(data, name)
        except InputError:
            return data.decode("utf-8", "replace")


def _is_attached(part: Message) -> bool:
    return part.get_content_disposition() == "attachment"


def _file_name(part: Message) -> str:
    """The name of an attached file."""
    file_name = part.get_filename() if _is_attached(part) or part.get_content_maintype() != "text" else None
    if not file_name and part.get_content_maintype() == "message":
        file_name = "a message"
    try:
        file_name = str(make_header(decode_header((file_name or "")[:_HEADER_CHARACTERS])))
    except (HeaderParseError, LookupError, ValueError):
        pass
    return " ".join((file_name or "").encode("utf-8", "replace").decode("utf-8").split())
