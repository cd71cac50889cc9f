"""Text to token ids, ColBERT's way: markers, [MASK] expansion, skiplist, truncation or windows.

The order of operations is sentence-transformers' `MultiVectorEncoder` (6.2), to which PyLate and
Stanford's ColBERT are identical: prefix + text is tokenised and truncated before [SEP], queries are then
filled up, and positions are chosen for scoring. The converter has made each marker one unsplittable token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from mlx_colbert.checks import check_choice, is_text
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, ColBERTError, ConfigError, InputError
from mlx_colbert.model.config import ColBERTConfig, OnOverflow, Task
from mlx_colbert.model.long_texts import PIECE, Cutter
from mlx_colbert.types import Array

__all__ = [
    "WINDOW_OVERLAP",
    "TokenizedRow",
    "TokenizedTexts",
    "Tokenizer",
    "is_library_error",
    "library_errors",
]

# Tokens of the text that a window repeats from the one before it, or a quarter of a window if that is less:
# what the border of one cuts apart stands together in the other.
WINDOW_OVERLAP = 32


def is_library_error(error: BaseException) -> bool:
    """Whether an exception is the tokenizer library's: plain Exceptions, or a Rust panic, which is none."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def library_errors(where: Path) -> Iterator[None]:
    """Turns whatever the library raises for a damaged tokenizer into this package's error."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, ColBERTError) or not is_library_error(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(where, f"the tokenizer does not work: {reason}") from error


@dataclass(frozen=True, eq=False)
class TokenizedRow:
    """The tokens that the encoder reads at once: a text, or a window of it.

    Attributes:
        ids: (L,) int32, special tokens, marker and expansion included.
        n_attended: tokens that others attend to: the first `n_attended` of them.
        scored: (L,) bool, tokens whose vectors are kept.
    """

    ids: Array
    n_attended: int
    scored: Array


@dataclass(frozen=True, eq=False)
class TokenizedTexts:
    """The tokens of N texts.

    Attributes:
        rows: R rows, those of text 0 first.
        n_rows: (N,) int64, rows of each text, >= 1; they sum to R.
        n_truncated: texts of which a part is in no row.
        max_length: no row is longer.
    """

    rows: list[TokenizedRow]
    n_rows: Array
    n_truncated: int
    max_length: int

    @property
    def row_lengths(self) -> Array:
        """(R,) int64, tokens of each row."""
        return np.array([len(row.ids) for row in self.rows], np.int64)


class Tokenizer:
    """The tokenizer of one model, set up for queries and documents.

    Raises:
        CheckpointNotFoundError: if there is no such file.
        CheckpointError: if the file is not a tokenizer.
    """

    def __init__(self, path: Path, config: ColBERTConfig) -> None:
        if not path.is_file():
            raise CheckpointNotFoundError(path.parent, f"{path.name} is missing.")
        self._path = path
        self._config = config
        with library_errors(self._path):
            self._library = FastTokenizer.from_str(path.read_text(encoding="utf-8"))
            if getattr(self._library.model, "dropout", None):
                self._library.model.dropout = None  # a folder that was converted before this was done there
            self._library.no_padding()
            self._library.no_truncation()
            shortest = min(config.query_length, config.document_length)
            if self._library.num_special_tokens_to_add(False) > shortest:
                raise ValueError(f"its special tokens exceed the {shortest} tokens of a text")
            # The special tokens that follow a text: [SEP].
            mask = self._library.encode("a").special_tokens_mask
            self._n_closing = mask[::-1].index(0) if 0 in mask else 0
            # What each window of a document begins with: [CLS], marker, prompt.
            opening = self._library.encode(config.document_prefix).ids
            self._opening = np.array(opening[: len(opening) - self._n_closing], np.int32)
            # What a piece of a long text follows; its own tokens are left out.
            self._n_before = len(self._library.encode("a", add_special_tokens=False))
            self._cutter: Cutter | None = None
            skipped = (self._library.token_to_id(word) for word in config.skiplist_words)
            self._skiplist = np.array(sorted({i for i in skipped if i is not None}), dtype=np.int32)

    def surface(self, text: str, tokens: TokenizedTexts, task: Task, on_overflow: OnOverflow) -> list[str]:
        """What each token of a text reads: its piece of the text, or the name of a special token.

        Args:
            text: the text.
            tokens: what `queries`, or `documents` with this `on_overflow`, made of it alone.
            task: which of the two.
            on_overflow: as for `documents`.

        Returns:
            A string for each token of all rows.
        """
        prefix = self._config.query_prefix if task == "query" else self._config.document_prefix
        way: OnOverflow = "truncate" if task == "query" else on_overflow
        ids, offsets = self._read_long(text, prefix, None if way == "chunk" else tokens.max_length)
        windows = self._windows(ids, tokens.max_length, way)
        pieces_of_text = [
            text[max(start - len(prefix), 0) : max(end - len(prefix), 0)].strip() for start, end in offsets
        ]
        names: list[str] = []
        for row, positions in zip(tokens.rows, windows, strict=True):
            pieces = [pieces_of_text[position] for position in positions]
            pieces += [""] * (len(row.ids) - len(pieces))
            names += [
                piece or str(self._library.id_to_token(int(token_id))).strip()
                for piece, token_id in zip(pieces, row.ids, strict=True)
            ]
        return names

    def _encode(
        self, texts: Sequence[str], prefix: str, enough: int | None, names: Sequence[str] | None = None
    ) -> list[Array]:
        """The ids of each text, special tokens included.

        Args:
            texts: N texts.
            prefix: stands before each.
            enough: of a long text, only some more ids than this are needed. None: all.
            names: what errors call the texts.

        Raises:
            InputError: if a text is too long to be tokenised.
        """
        with library_errors(self._path):
            encodings = self._library.encode_batch_fast(
                [prefix + text if len(text) <= PIECE else "" for text in texts]
            )
            found = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        for position, text in enumerate(texts):
            if len(text) > PIECE:
                try:
                    found[position] = self._read_long(text, prefix, enough)[0]
                except InputError as error:
                    name = f"text {position}" if names is None else repr(names[position])
                    raise InputError(f"{name}: {error}") from None
        return found

    def _read_long(self, text: str, prefix: str, enough: int | None) -> tuple[Array, list[tuple[int, int]]]:
        """The (n,) ids of a text of any length, and where in prefix + text each stands.

        The text is tokenised in pieces, until there are more than `enough` ids; None: to its end.
        """
        with library_errors(self._path):
            self._cutter = self._cutter or Cutter(self._library)
            pieces = self._cutter.pieces(text)
            piece = next(pieces, "")
            whole = self._library.encode(prefix + piece)
            end = len(whole) - self._n_closing
            ids, offsets = [np.array(whole.ids[:end], np.int32)], whole.offsets[:end]
            start = len(prefix) + len(piece)
            for piece in pieces:
                if enough is not None and len(offsets) + self._n_closing > enough:
                    break
                part = self._library.encode("a" + piece, add_special_tokens=False)
                ids.append(np.array(part.ids[self._n_before :], np.int32))
                shift = start - len("a")
                offsets += [(left + shift, right + shift) for left, right in part.offsets[self._n_before :]]
                start += len(piece)
            closing = np.array(whole.ids[end:], np.int32)
            return np.concatenate([*ids, closing]), offsets + whole.offsets[end:]

    def _windows(self, ids: Array, max_length: int, on_overflow: OnOverflow) -> list[Array]:
        """The positions of the tokens of each window of a text: one window unless it is to be chunked."""
        if len(ids) <= max_length:
            return [np.arange(len(ids))]
        end = len(ids) - self._n_closing
        closing = np.arange(end, len(ids))
        if on_overflow != "chunk":
            return [np.concatenate([np.arange(max_length - self._n_closing), closing])]
        # A tokenizer may join the end of a prompt and the text: what they share is the prompt.
        opening = self._opening[: len(ids)]
        differ = np.flatnonzero(ids[: len(opening)] != opening)
        n_opening = int(differ[0]) if len(differ) else len(opening)
        room = max_length - n_opening - self._n_closing
        if room < 1:
            problem = f"{max_length} leaves no room for text beside {n_opening + self._n_closing} tokens"
            raise ConfigError("document_length", [f"{problem} of markers and prompt"])
        overlap = min(WINDOW_OVERLAP, room // 4)
        return [
            np.concatenate([np.arange(n_opening), np.arange(start, min(start + room, end)), closing])
            for start in range(n_opening, end - overlap, room - overlap)
        ]

    def fits(self, text: str) -> bool:
        """Whether a document has at most `document_length` tokens.

        Raises:
            InputError: if it is not a string.
        """
        if not is_text(text):
            raise InputError("a document must be a string without lone surrogates.")
        length = self._config.document_length
        return len(self._encode([text], self._config.document_prefix, length)[0]) <= length

    def _scored(self, ids: Array, task: Task) -> Array:
        if task in self._config.skiplist_tasks and len(self._skiplist):
            return ~np.isin(ids, self._skiplist)
        return np.ones(len(ids), dtype=bool)

    def documents(
        self,
        texts: Sequence[str],
        *,
        on_overflow: OnOverflow = "truncate",
        names: Sequence[str] | None = None,
    ) -> TokenizedTexts:
        """Documents: [CLS] marker tokens [SEP], at most `document_length`; skiplist tokens are not scored.

        Args:
            texts: N texts, without lone surrogates.
            on_overflow: what becomes of a longer one: it is truncated before [SEP], is an error, or becomes
                windows of `document_length` tokens, each with [CLS], marker, prompt and [SEP] of its own,
                that overlap by `WINDOW_OVERLAP`.
            names: what errors call the texts; their positions without it.

        Raises:
            InputError: if a text overflows and must not, or there is no such way.
            ConfigError: if no text fits beside the markers of a window.
        """
        check_choice(on_overflow, "on_overflow", get_args(OnOverflow))
        length = self._config.document_length
        rows: list[TokenizedRow] = []
        n_rows = np.ones(len(texts), np.int64)
        n_truncated = 0
        enough = length if on_overflow == "truncate" else None
        encoded = self._encode(texts, self._config.document_prefix, enough, names)
        for position, ids in enumerate(encoded):
            parts = [ids]
            if len(ids) > length:
                if on_overflow == "error":
                    name = f"text {position}" if names is None else repr(names[position])
                    raise InputError(
                        f"{name}: has {len(ids):,} tokens, more than the document_length of {length:,}. "
                        "Raise it, split the text, or let it be truncated or chunked."
                    )
                parts = [ids[window] for window in self._windows(ids, length, on_overflow)]
                n_rows[position] = len(parts)
                n_truncated += on_overflow == "truncate"
            rows += [TokenizedRow(part, len(part), self._scored(part, "document")) for part in parts]
        return TokenizedTexts(rows, n_rows, n_truncated, length)

    def queries(self, texts: Sequence[str]) -> TokenizedTexts:
        """Queries: [CLS] marker tokens [SEP], at most `query_length`, then the expansion token as fill.

        Args:
            texts: N texts, without lone surrogates.
        """
        config = self._config
        floor = 0
        if config.do_query_expansion:
            floor = config.query_length if config.expansion_length is None else config.expansion_length
        rows = []
        n_truncated = 0
        for ids in self._encode(texts, config.query_prefix, config.query_length):
            n_truncated += len(ids) > config.query_length
            ids = ids[self._windows(ids, config.query_length, "truncate")[0]]
            n_tokens = len(ids)
            if n_tokens < floor:
                ids = np.concatenate([ids, np.full(floor - n_tokens, config.expansion_token_id, np.int32)])
            n_attended = len(ids) if config.attend_to_expansion_tokens else n_tokens
            rows.append(TokenizedRow(ids, n_attended, self._scored(ids, "query")))
        return TokenizedTexts(rows, np.ones(len(rows), np.int64), n_truncated, config.query_length)
