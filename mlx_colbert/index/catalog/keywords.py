"""Keyword search with SQLite's FTS5: the words of a text, and a match expression for any query.

What a word is, is defined here alone, for texts and queries. FTS5 gets the words of a text with spaces
between them, and its tokenizer (`TOKENIZER`) splits at these spaces only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from mlx_colbert.index.catalog.signs import LATER_SIGNS, SIGNS

__all__ = ["TOKENIZER", "match_expression", "searchable_text", "words"]

# The characters of words that are not letters, digits or beyond ASCII: C++, C#, 1.2.3.
TOKENIZER = "ascii tokenchars '+#.'"
# Enough for a pasted paragraph. FTS5 reads the postings of every term.
MAX_TERMS = 256
MAX_PHRASE_WORDS = 64
# A longer word, such as a line of base64, is cut. FTS5 cuts at 32,768 bytes.
MAX_WORD_CHARACTERS = 256

_HAN = "\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Kana and bopomofo are written without spaces, and Korean particles without one before them: each letter is a
# word and a pair of them a phrase, as in Lucene's CJKAnalyzer.
_UNSPACED = (
    _HAN + "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3105-\u312f\u31a0-\u31bf\uac00-\ud7a3\U0001b000-\U0001b16f"
)
_LONE_HAN = re.compile(f"(?<![{_HAN}])[{_HAN}](?![{_HAN}])")
_PIECE = re.compile(f"(?P<unspaced>[{_UNSPACED}]+)|[^\\s{_UNSPACED}]+")
# A quote within a word, as in 6" pipe, opens no phrase.
_PHRASE = re.compile(f'(?<![^{SIGNS}{_UNSPACED}])"([^"]++)"(?![^{SIGNS}{_UNSPACED}])')
# Soft hyphens, joiners, variation selectors: they change how a word looks, not which word it is.
_INVISIBLE = re.compile("[\u00ad\u034f\u180b-\u180f\u200d\u2060\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]")
_LATER_SIGN = re.compile(f"[{LATER_SIGNS}]")
# Half- and full-width forms, ligatures, and decomposed letters as in macOS file names: jamo, kana with marks.
# Not all of Unicode, where NFKC makes words of signs: Foo™ would be FooTM.
_OTHER_FORMS = re.compile("[\u1100-\u11ff\u3041-\u30ff\ufb00-\ufb06\uff01-\uffee]+")
# Scripts that came to Unicode late lie beyond: the rules for them may differ between versions of Python.
_FOLDED = re.compile("[\0-\uffff\U00010400-\U000104ff\U0001e900-\U0001e95f]+")
# The accents of Latin and Greek letters, and accents without a letter. й is another letter than и.
_ACCENTED = re.compile(f"((?<![^{SIGNS}])|[0-9a-z\u00df-\u02af\u0370-\u03ff])[\u0300-\u036f]+")
_WORD = re.compile(
    rf"(?<![^{SIGNS}])(?<!\.)(?P<version>v?(?:[0-9]{{1,9}}\.){{1,7}}[0-9]{{1,9}})(?![^{SIGNS}]|\.[0-9])"
    rf"|(?P<name>[a-z0-9]{{1,32}})(?P<suffix>\+\+|\#)(?![+\#]|[^{SIGNS}])"
    rf"|[{_UNSPACED}]|[^{SIGNS}{_UNSPACED}]+"
)
# Texts that have no version number and no name such as C++ take a shorter way.
_DECIMAL = re.compile(r"[0-9]\.[0-9]")
_PLAIN_WORD = re.compile(f"[{_UNSPACED}]|[^{SIGNS}{_UNSPACED}]+")


def searchable_text(text: str) -> str:
    """The words of a text, with a space between each two: what FTS5 is told.

    FTS5 removes a passage by this same text, so what is returned for a text must never change.

    >>> searchable_text("ＣＰＵの性能 of C++ 1.2")
    'cpu の 性 能 of c c++ 1 2 1.2'
    """
    return " ".join(words(text))


def words(text: str) -> list[str]:
    """The words of a text, or of a query, in their order.

    Case, the accents of Latin and Greek letters, and Unicode's ways to write one letter (NFC, NFD) make no
    difference. A letter of a script without spaces is a word. A version number and a name such as C++ follow
    their parts as words of their own.
    """
    return _split(_fold(text))


def match_expression(query: str) -> str | None:
    """The FTS5 expression of a query in plain words, or None if it has no words.

    Any text is a query; only double quotes around a phrase have a meaning: passages must have it. All other
    words are optional and count towards BM25. A word with signs in it, such as an identifier, counts as a
    phrase and by its parts; a run of a script without spaces counts by its pairs of letters.

    >>> match_expression("get_user_id failed")
    '"get user id" OR "get" OR "user" OR "id" OR "failed"'
    >>> match_expression('"exact phrase" other')
    '"exact phrase" AND ("exact phrase" OR "other")'
    >>> match_expression("東京駅")
    '"東 京" OR "京 駅"'

    Args:
        query: the words. Those after the first MAX_TERMS distinct terms are ignored, as are those of a quoted
            phrase after MAX_PHRASE_WORDS.
    """
    query = _fold(query)
    required = _quoted(_split(phrase[1]) for phrase in _PHRASE.finditer(query))
    optional = _quoted(_terms(_PHRASE.sub(" ", query)))
    if not required or not optional:
        return " AND ".join(required) or " OR ".join(optional) or None
    # The first phrase again, as any passage that has it is wanted: the others only add to its BM25.
    return f"{' AND '.join(required)} AND ({' OR '.join([required[0], *optional])})"


def _fold(text: str) -> str:
    """The text in one form of the many that mean the same words."""
    if text.isascii():
        return text.lower()
    text = _LATER_SIGN.sub(" ", _INVISIBLE.sub("", text))
    text = _OTHER_FORMS.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)
    return _FOLDED.sub(lambda run: _folded(run[0]), text)


def _folded(text: str) -> str:
    # Twice, as for Unicode's caseless match: some letters change case only when they are decomposed.
    for _ in range(2):
        text = unicodedata.normalize("NFD", text.casefold())
    return unicodedata.normalize("NFC", _ACCENTED.sub(r"\1", text))


def _split(text: str) -> list[str]:
    if not ("#" in text or "++" in text or _DECIMAL.search(text)):
        return [word[:MAX_WORD_CHARACTERS] for word in _PLAIN_WORD.findall(text)]
    found: list[str] = []
    for match in _WORD.finditer(text):
        if match.lastgroup == "version":
            found += [*match[0].split("."), match[0].removeprefix("v")]
        elif match.lastgroup == "suffix":
            found += [match["name"], match[0]]
        else:
            found.append(match[0][:MAX_WORD_CHARACTERS])
    return found


def _terms(text: str) -> Iterator[list[str]]:
    """The phrases, as lists of words, that the text asks for."""
    for piece in _PIECE.finditer(text):
        letters = piece["unspaced"] or ""
        if not letters:
            found = _split(piece[0])
            yield found
            yield from ([word] for word in found)
        elif len(letters) == 1:
            yield [letters]
        else:
            yield from ([*letters[i : i + 2]] for i in range(len(letters) - 1))
            # A word by itself in Japanese, whose pairs are with particles that differ from text to text.
            yield from ([han] for han in _LONE_HAN.findall(letters))


def _quoted(phrases: Iterable[list[str]]) -> list[str]:
    """The first MAX_TERMS distinct phrases, in quotes; words have no characters to escape."""
    found: dict[str, None] = {}
    for phrase in phrases:
        if phrase:
            found.setdefault(f'"{" ".join(phrase[:MAX_PHRASE_WORDS])}"')
        if len(found) == MAX_TERMS:
            break
    return list(found)
