"""Keyword search with SQLite's FTS5: the words of a text, and a match expression for any query.

Only this module defines a word, for texts and for queries. FTS5 gets the words of a text with spaces between
them. Its tokenizer (`TOKENIZER`) splits only at these spaces.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache

from mlx_colbert.index.catalog.signs import LATER_SIGNS, SIGNS

__all__ = ["TOKENIZER", "keyword_text", "match_expression", "searchable_text", "words"]

# The ASCII characters in words that are not letters or digits: C++, C#, 1.2.3.
TOKENIZER = "ascii tokenchars '+#.'"
# Enough for a pasted paragraph. FTS5 reads the postings of every term.
MAX_TERMS = 256
MAX_PHRASE_WORDS = 64
# A longer word, such as a line of base64, is cut. FTS5 itself cuts at 32,768 bytes.
MAX_WORD_CHARACTERS = 256

_HAN = "\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Kana and bopomofo have no spaces between words, and Korean has none before particles. So each letter is a
# word, and a pair of letters is a phrase, as in Lucene's CJKAnalyzer.
_UNSPACED = (
    _HAN + "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3105-\u312f\u31a0-\u31bf\uac00-\ud7a3\U0001b000-\U0001b16f"
)
_LONE_HAN = f"(?<![{_HAN}])[{_HAN}](?![{_HAN}])"
_PIECE = f"(?P<unspaced>[{_UNSPACED}]+)|[^\\s{_UNSPACED}]+"
# A quote after a letter or digit, as in 6" pipe, does not start a phrase.
_PHRASE = f'(?<![^{SIGNS}{_UNSPACED}])"([^"]++)"(?![^{SIGNS}{_UNSPACED}])'
# Soft hyphens, joiners, variation selectors: they change the look of a word, not the word.
_INVISIBLE = "[\u00ad\u034f\u180b-\u180f\u200d\u2060\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
_LATER_SIGN = f"[{LATER_SIGNS}]"
# Half- and full-width forms, ligatures, and decomposed letters of macOS file names: jamo, kana with marks.
# Not all of Unicode: NFKC turns some signs into letters, so Foo™ would become FooTM.
_OTHER_FORMS = "[\u1100-\u11ff\u3041-\u30ff\ufb00-\ufb06\uff01-\uffee]+"
# Without the scripts that are new in Unicode: their rules may differ between versions of Python.
_FOLDED = "[\0-\uffff\U00010400-\U000104ff\U0001e900-\U0001e95f]+"
# The accents of Latin and Greek letters, and accents without a letter. й is another letter than и.
_ACCENTED = f"((?<![^{SIGNS}])|[0-9a-z\u00df-\u02af\u0370-\u03ff])[\u0300-\u036f]+"
_WORD = (
    rf"(?<![^{SIGNS}])(?<!\.)(?P<version>v?(?:[0-9]{{1,9}}\.){{1,7}}[0-9]{{1,9}})(?![^{SIGNS}]|\.[0-9])"
    rf"|(?P<name>[a-z0-9]{{1,32}})(?P<suffix>\+\+|\#)(?![+\#]|[^{SIGNS}])"
    rf"|[{_UNSPACED}]|[^{SIGNS}{_UNSPACED}]+"
)
# A faster pattern for texts without a version number and without a name such as C++.
_DECIMAL = r"[0-9]\.[0-9]"
_PLAIN_WORD = f"[{_UNSPACED}]|[^{SIGNS}{_UNSPACED}]+"


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern, compiled at its first use: all together take 30 ms, and a search by meaning needs none."""
    return re.compile(pattern)


def keyword_text(text: str, position: str | None) -> str:
    r"""The text whose words find a passage: its headings, a line each, and its text.

    Args:
        text: the text of the passage.
        position: its position in its source, as JSON.

    >>> keyword_text("Steep it.", '{"lines": [3, 3], "headings": ["Tea"]}')
    'Tea\nSteep it.'
    """
    headings = [] if position is None else json.loads(position).get("headings", [])
    return "\n".join([*headings, text])


def searchable_text(text: str) -> str:
    """The words of a text with spaces between them: the text for FTS5.

    FTS5 needs the same text again to remove a passage. So the result for a text must never change.

    >>> searchable_text("ＣＰＵの性能 of C++ 1.2")
    'cpu の 性 能 of c c++ 1 2 1.2'
    """
    return " ".join(words(text))


def words(text: str) -> list[str]:
    """The words of a text, or of a query, in their order.

    Case, the accents of Latin and Greek letters, and the Unicode form of a letter (NFC, NFD) make no
    difference. Each letter of a script without spaces is a word. A version number, or a name such as C++,
    gives its parts and then itself.
    """
    return _split(_fold(text))


def match_expression(query: str) -> str | None:
    """The FTS5 expression for a query in plain words, or None if the query has no words.

    Any text is a valid query. Passages must have each phrase in double quotes. All other words are optional
    and add to BM25. A word with signs in it, such as an identifier, counts as a phrase and as its parts. A
    run of letters of a script without spaces counts as its pairs of letters.

    >>> match_expression("get_user_id failed")
    '"get user id" OR "get" OR "user" OR "id" OR "failed"'
    >>> match_expression('"exact phrase" other')
    '"exact phrase" AND ("exact phrase" OR "other")'
    >>> match_expression("東京駅")
    '"東 京" OR "京 駅"'

    Args:
        query: the words. Terms after the first MAX_TERMS different ones are ignored. Words of a quoted
            phrase after the first MAX_PHRASE_WORDS are ignored too.
    """
    query = _fold(query)
    required: list[str] = []
    if '"' in query:
        required = _quoted(_split(phrase[1]) for phrase in _compiled(_PHRASE).finditer(query))
        query = _compiled(_PHRASE).sub(" ", query)
    optional = _quoted(_terms(query))
    if not required or not optional:
        return " AND ".join(required) or " OR ".join(optional) or None
    # The first phrase again: every passage with it must match, and the other words only add to its BM25.
    return f"{' AND '.join(required)} AND ({' OR '.join([required[0], *optional])})"


def _fold(text: str) -> str:
    """The text in a form that is equal for equal words."""
    if text.isascii():
        return text.lower()
    text = _compiled(_LATER_SIGN).sub(" ", _compiled(_INVISIBLE).sub("", text))
    text = _compiled(_OTHER_FORMS).sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)
    return _compiled(_FOLDED).sub(lambda run: _folded(run[0]), text)


def _folded(text: str) -> str:
    # Twice, as in Unicode's caseless match: some letters change case only after they are decomposed.
    for _ in range(2):
        text = unicodedata.normalize("NFD", text.casefold())
    return unicodedata.normalize("NFC", _compiled(_ACCENTED).sub(r"\1", text))


def _split(text: str) -> list[str]:
    if not ("#" in text or "++" in text or _compiled(_DECIMAL).search(text)):
        return [word[:MAX_WORD_CHARACTERS] for word in _compiled(_PLAIN_WORD).findall(text)]
    found: list[str] = []
    for match in _compiled(_WORD).finditer(text):
        if match.lastgroup == "version":
            found += [*match[0].split("."), match[0].removeprefix("v")]
        elif match.lastgroup == "suffix":
            found += [match["name"], match[0]]
        else:
            found.append(match[0][:MAX_WORD_CHARACTERS])
    return found


def _terms(text: str) -> Iterator[list[str]]:
    """The phrases of a query, as lists of words."""
    for piece in _compiled(_PIECE).finditer(text):
        letters = piece["unspaced"] or ""
        if not letters:
            found = _split(piece[0])
            yield found
            yield from ([word] for word in found)
        elif len(letters) == 1:
            yield [letters]
        else:
            yield from ([*letters[i : i + 2]] for i in range(len(letters) - 1))
            # In Japanese one Han letter can be a word. Its pairs have particles, which differ between texts.
            yield from ([han] for han in _compiled(_LONE_HAN).findall(letters))


def _quoted(phrases: Iterable[list[str]]) -> list[str]:
    """The first MAX_TERMS different phrases, in quotes. Words have no characters that need escapes."""
    found: dict[str, None] = {}
    for phrase in phrases:
        if phrase:
            found.setdefault(f'"{" ".join(phrase[:MAX_PHRASE_WORDS])}"')
        if len(found) == MAX_TERMS:
            break
    return list(found)
