"""Turns the bytes of a file into text: UTF-8, UTF-16 with its mark, or Latin-1 if the bytes look like it."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from mlx_colbert.errors import InputError

__all__ = ["MAX_BYTES", "decode", "decoded_lines", "encoding_of"]

# The longest line and the longest text file that are read. A longer one is a mistake, or an attack on the
# memory.
MAX_BYTES = 16 * 1024 * 1024
# The beginning of a file of rows, which tells its encoding.
_SAMPLE_BYTES = 1 << 20

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like that of UTF-16
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HIGH_RUN = re.compile(rb"[\x80-\xff]+")
_UTF8_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
# Control characters that no text has, and bytes that Windows-1252 (Latin-1 with “ ” – … €) does not use.
_NOT_IN_TEXT = re.compile(rb"[\x01-\x08\x0e-\x19\x1c-\x1f\x7f\x81\x8d\x8f\x90\x9d]")
# Signs that are rare in Latin-1, and first bytes of kana and kanji in Shift-JIS.
_RARE = re.compile(rb"[\x82-\x84\x86-\x89\x8b\x98\x9b]")
_UNDECODED = re.compile("[\udc80-\udcff]")


def encoding_of(data: bytes) -> str:
    """The name of the encoding of a text or of its beginning. "utf-8" if the encoding is not known."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return "cp1252" if _is_latin1(data) else "utf-8"
    return "utf-8"


def _is_latin1(data: bytes) -> bool:
    """Whether bytes that are not UTF-8 look like a Western European language in Latin-1.

    In such a language, letters with accents are single letters among others. Cyrillic, Greek and Asian
    encodings have several high bytes in a row. Damaged UTF-8 still has some whole sequences.
    """
    if _NOT_IN_TEXT.search(data):
        return False
    runs = _HIGH_RUN.findall(data)
    n_high = sum(map(len, runs))
    n_whole = sum(len(sequence) for sequence in _UTF8_SEQUENCE.findall(data))
    return (
        n_high <= 2 * len(runs)
        and 5 * n_high <= 2 * len(b"".join(data.split()))
        and 4 * len(_RARE.findall(data)) <= n_high
        and 2 * n_whole <= n_high
    )


def decode(data: bytes, place: str) -> str:
    r"""The text of a file, with "\n" at the ends of lines.

    Raises:
        InputError: if the file is binary, or its encoding is not known.
    """
    encoding = encoding_of(data)
    if not encoding.startswith(("utf-16", "utf-32")) and b"\0" in data:
        raise InputError(f"{place}: is not text: it has NUL characters.")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: {_problem(encoding, error.start, data[error.start])}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decoded_lines(
    stream: BinaryIO, name: str, *, encoding: str | None = None, may_be_latin1: bool = True
) -> Iterator[tuple[int, str]]:
    r"""(line number from 1, line with its ending: "\n", "\r\n" or "\r").

    Args:
        stream: bytes.
        name: the name of the stream in an error message.
        encoding: the encoding of the bytes. None: it is detected, for which the stream must be seekable.
        may_be_latin1: whether the encoding may be Latin-1. JSON is never Latin-1.

    Raises:
        InputError: if a line is not text, or is too long.
    """
    if encoding is None:
        encoding = encoding_of(stream.read(_SAMPLE_BYTES))
        stream.seek(0)
        if encoding == "cp1252" and not may_be_latin1:
            encoding = "utf-8"
    # Bytes that are not UTF-8 become lone surrogates, so that the error can name their line.
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    text = io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")
    number = 0
    try:
        for number, line in enumerate(iter(lambda: text.readline(MAX_BYTES + 1), ""), start=1):
            if len(line) > MAX_BYTES:
                raise InputError(f"{name}:{number}: the line is longer than {MAX_BYTES:,} characters.")
            if bad := _UNDECODED.search(line):
                n_before = len(line[: bad.start()].encode("utf-8", "surrogateescape"))
                problem = _problem(encoding, n_before, ord(bad.group()) - 0xDC00)
                raise InputError(f"{name}:{number}: {problem}")
            if "\0" in line:
                raise InputError(f"{name}:{number}: is not text: it has NUL characters.")
            yield number, line
    except UnicodeDecodeError as error:
        problem = _problem(encoding, error.start, error.object[error.start])
        raise InputError(f"{name}:{number + 1}: {problem}") from None
    finally:
        if not stream.closed:
            text.detach()


def _problem(encoding: str, position: int, byte: int) -> str:
    names = {"utf-16": "UTF-16", "utf-32": "UTF-32", "cp1252": "Latin-1"}
    name = names.get(encoding, "UTF-8")
    return f"is not {name} (byte {position + 1} is 0x{byte:02x}). Save the file as UTF-8."
