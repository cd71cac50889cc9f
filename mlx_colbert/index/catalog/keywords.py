"""Keyword search with SQLite's FTS5: the text to index, and a match expression for any query.

Both are for ``fts5(text, content='', tokenize='unicode61 remove_diacritics 2')``. Of scripts without spaces,
those that `_UNSPACED` lacks, such as Thai, are found by whole runs of letters only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

__all__ = ["match_expression", "searchable_text"]

# Enough for a pasted paragraph. FTS5 reads the postings of every term.
MAX_TERMS = 256
MAX_PHRASE_WORDS = 64

_HAN = "\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Kana and bopomofo are written without spaces, and Korean particles without one before them: each letter is a
# token and a pair of them a phrase, as in Lucene's CJKAnalyzer.
_UNSPACED = (
    _HAN + "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3105-\u312f\u31a0-\u31bf\uac00-\ud7a3\U0001b000-\U0001b16f"
)
_RUN = re.compile(f"[{_UNSPACED}]+")
_LONE_HAN = re.compile(f"(?<![{_HAN}])[{_HAN}](?![{_HAN}])")
_PIECE = re.compile(f"[{_UNSPACED}]+|[^\\s{_UNSPACED}]+")
# A quote within a word, as in 6" pipe, opens no phrase.
_PHRASE = re.compile(f'(?<![^\\W{_UNSPACED}])"([^"]++)"(?![^\\W{_UNSPACED}])')
# Half- and full-width forms, ligatures, and decomposed letters as in macOS file names: jamo, kana with marks.
# Not all of Unicode, where NFKC makes words of signs: Foo™ would be FooTM.
_OTHER_FORMS = re.compile("[\u1100-\u11ff\u3041-\u30ff\ufb00-\ufb06\uff01-\uffee]+")


def searchable_text(text: str) -> str:
    """The text as the full-text table takes it: each letter of a script without spaces is a word of its own.

    FTS5 removes a document by this same text: what is returned for a text must never change.

    >>> searchable_text("ＣＰＵの性能")
    'CPU の 性 能 '
    """
    return _spaced(_plain(text))


def match_expression(query: str) -> str | None:
    """The FTS5 expression of a query in plain words, or None if it has no letters or digits.

    Any text is a query; only double quotes around a phrase have a meaning: documents must have it. All other
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
    query = _plain(query)
    required = _quoted(_words(_spaced(phrase[1])) for phrase in _PHRASE.finditer(query))
    optional = _quoted(_terms(_PHRASE.sub(" ", query)))
    if not required or not optional:
        return " AND ".join(required) or " OR ".join(optional) or None
    # The first phrase again, as any document that has it is wanted: the others only add to its BM25.
    return f"{' AND '.join(required)} AND ({' OR '.join([required[0], *optional])})"


def _plain(text: str) -> str:
    # NFKC of these letters is the same in all versions of Unicode that know them.
    return text if text.isascii() else _OTHER_FORMS.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)


def _spaced(text: str) -> str:
    return _RUN.sub(lambda run: f" {' '.join(run[0])} ", text)


def _words(text: str) -> list[str]:
    """The runs of letters, digits and their marks, as far as a phrase may go."""
    kept = (c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in text)
    # Marks alone are no token, and a phrase without tokens finds nothing.
    return [word for word in "".join(kept).split() if any(c.isalnum() for c in word)]


def _terms(text: str) -> Iterator[list[str]]:
    """The phrases, as lists of words, that the text asks for."""
    for piece in _PIECE.findall(text):
        if not _RUN.match(piece):
            words = _words(piece)
            yield words
            yield from ([word] for word in words)
        elif len(piece) == 1:
            yield [piece]
        else:
            yield from ([*piece[i : i + 2]] for i in range(len(piece) - 1))
            # A word by itself in Japanese, whose pairs are with particles that differ from text to text.
            yield from ([han] for han in _LONE_HAN.findall(piece))


def _quoted(phrases: Iterable[list[str]]) -> list[str]:
    """The first MAX_TERMS distinct phrases, in quotes; words have no characters to escape."""
    found: dict[str, str] = {}
    for words in phrases:
        if words:
            phrase = " ".join(words[:MAX_PHRASE_WORDS])
            # FTS5 folds case itself, and not as str.lower folds a Greek sigma.
            found.setdefault(phrase.lower(), f'"{phrase}"')
        if len(found) == MAX_TERMS:
            break
    return list(found.values())
