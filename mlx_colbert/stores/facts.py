"""Facts: what the metadata of a passage says, in words that any engine can compare.

A fact is an ASCII word: the key of a field, or the key, a sign and the token of a value. ::

    key          the field is there
    key=token    the value of the field
    key+token    an item of the list in the field

SQLite reads the metadata, as in an index. So both see the same values. Keys are hashes, and tokens are
hexadecimal: no text of a user can change the meaning of a condition.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from mlx_colbert.index.catalog.filter_conditions import Value

__all__ = ["NULL", "Facts", "field_key", "has_exact_order", "token_of"]

NULL = "z"
# The bytes of a text that its token has. A hash stands for the rest.
_BYTES = 64
_TREE = "SELECT id, parent, key, type, atom FROM json_tree(?)"


@dataclass(frozen=True)
class Facts:
    """The facts of a passage.

    Attributes:
        words: the facts, each once.
        numbers: key → value of the fields that are numbers, rounded to 64 bits.
    """

    words: list[str]
    numbers: dict[str, float]

    @classmethod
    def of(cls, passages: Iterable[tuple[str | None, str | None]]) -> Iterator[Facts]:
        """The facts of each passage.

        Args:
            passages: the metadata as JSON text, and the uri of the source.
        """
        with closing(sqlite3.connect(":memory:")) as database:
            for metadata, source in passages:
                tree = [] if metadata is None else database.execute(_TREE, (metadata,)).fetchall()
                facts = _facts(tree)
                if source is not None:
                    key = field_key(("source", "uri"), of_source=True)
                    facts.words.extend([key, f"{key}={token_of(source)}"])
                yield facts


def _facts(tree: Sequence[tuple[int, int | None, str | int | None, str, Value | None]]) -> Facts:
    words: dict[str, None] = {}
    numbers: dict[str, float] = {}
    # Id → names of the objects, and id → key of the lists, in which a filter can look.
    objects: dict[int | None, tuple[str, ...]] = {}
    lists: dict[int | None, str] = {}
    for number, parent, name, kind, atom in tree:
        if parent is None:
            objects[number] = ()
        elif parent in objects:
            names = (*objects[parent], str(name))
            key = field_key(names)
            words |= dict.fromkeys([key, f"{key}={_token(kind, atom)}"])
            if kind == "object":
                objects[number] = names
            elif kind == "array":
                lists[number] = key
            elif kind in ("integer", "real"):
                assert isinstance(atom, int | float)
                numbers[key] = float(atom)
        elif parent in lists:
            words[f"{lists[parent]}+{_token(kind, atom)}"] = None
    return Facts(list(words), numbers)


def field_key(names: Sequence[str], *, of_source: bool = False) -> str:
    """The key of a field.

    >>> field_key(("author", "name"))
    '99ba01a911df7b57d157'
    """
    text = json.dumps([of_source, *names])
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def token_of(value: Value) -> str:
    """The token of a value. Equal values have equal tokens, and tokens have the order of their values.

    The order holds in comparisons with a value that `has_exact_order`.

    >>> token_of(5) == token_of(5.0), token_of(-3) < token_of(2.5), token_of("tea"), token_of(True)
    (True, True, 't746561', 'b1')
    """
    if isinstance(value, bool):
        return f"b{value:d}"
    if isinstance(value, str):
        data = value.encode()
        rest = f"~{hashlib.blake2b(data, digest_size=16).hexdigest()}" if len(data) > _BYTES else ""
        return f"t{data[:_BYTES].hex()}{rest}"
    # Zero has one sign.
    wide = float(value) + 0.0
    (bits,) = struct.unpack(">Q", struct.pack(">d", wide))
    order = bits ^ ((1 << 64) - 1 if bits >> 63 else 1 << 63)
    is_rounded = isinstance(value, int) and int(wide) != value
    return f"n{order:016x}" + (f"~{value}" if is_rounded else "")


def has_exact_order(value: Value) -> bool:
    """Whether the token of a value is ordered right among the tokens of all other values of its type."""
    if isinstance(value, str):
        return len(value.encode()) <= _BYTES
    # Larger integers may be rounded to the same number.
    return not isinstance(value, bool) and abs(value) < 2**53


def _token(kind: str, atom: Value | None) -> str:
    if kind in ("true", "false"):
        return token_of(kind == "true")
    if kind == "null" or atom is None:
        return NULL if kind == "null" else kind[0]
    return token_of(atom)
