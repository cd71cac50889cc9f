"""The documents that RAGatouille's callers give, as passages: the source of a passage is its document."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from mlx_colbert.checks import check_list, check_new_ids, check_text, check_texts
from mlx_colbert.counts import counted
from mlx_colbert.documents.passage import Passage
from mlx_colbert.documents.splitting import cut_spans
from mlx_colbert.errors import InputError
from mlx_colbert.json_values import JsonObject
from mlx_colbert.types import Source

__all__ = ["Preprocessor", "Splitter", "passages_of", "sentence_splitter"]

# Called with the documents, their ids and chunk_size=tokens. Returns {"document_id", "content"} for each
# passage.
Splitter: TypeAlias = Callable[..., list[dict[str, Any]]]
# Called with what the splitter or the function before returned, and the ids of the documents.
Preprocessor: TypeAlias = Callable[[Any, list[str]], Any]


def sentence_splitter(
    documents: Sequence[str],
    document_ids: Sequence[str],
    chunk_size: int = 256,
    *,
    fits: Callable[[str], bool] = lambda text: True,
) -> list[dict[str, Any]]:
    """Passages of whole paragraphs and sentences, where these are not too long. Passages do not overlap.

    Args:
        documents: N texts.
        document_ids: N ids.
        chunk_size: the most tokens of a passage.
        fits: whether the model reads a text to its end. Without it, a word counts as 4/3 tokens.

    Returns:
        {"document_id", "content"} for each passage.

    >>> sentence_splitter(["Steep it. Drink it."], ["tea"], chunk_size=3)
    [{'document_id': 'tea', 'content': 'Steep it.'}, {'document_id': 'tea', 'content': 'Drink it.'}]
    """
    max_words = max(chunk_size * 3 // 4, 1)
    return [
        {"document_id": document_id, "content": part}
        for document_id, text in zip(document_ids, documents, strict=True)
        # A blank text stays a document.
        for part in _parts(text, max_words, fits) or [text]
    ]


def _parts(text: str, max_words: int, fits: Callable[[str], bool]) -> list[str]:
    """The parts of a text. A part that does not fit is cut again, into parts of half the words."""
    parts: list[str] = []
    for start, end in cut_spans(text, "sentences", max_words):
        part = text[start:end]
        parts += [part] if max_words == 1 or fits(part) else _parts(part, max_words // 2, fits)
    return parts


def passages_of(
    collection: Iterable[str],
    document_ids: Iterable[str] | None,
    document_metadatas: Iterable[Mapping[str, Any] | None] | None,
    *,
    splitter: Splitter | None,
    preprocessing: Preprocessor | Sequence[Preprocessor] | None,
    chunk_size: int,
    fits: Callable[[str], bool],
) -> list[Passage]:
    """The passages of documents, those of one document one after the other.

    The n-th passage of a document has the id of the document, "#" and n.

    Args:
        collection: N texts.
        document_ids: N different ids. None: random ones.
        document_metadatas: N JSON objects, which each passage of the document gets. None: there are none.
        splitter: cuts the documents. None: they stay whole.
        preprocessing: changes the documents, or the passages that the splitter made.
        chunk_size: the most tokens of a passage, for the splitter.
        fits: whether the model reads a text to its end, for the splitter of this package.

    Raises:
        InputError: if an argument cannot be used, or a function returns something else than
            {"document_id", "content"} for each passage.
    """
    texts = check_texts(collection, "document", may_be_blank=True)
    ids = [str(uuid.uuid4()) for _ in texts] if document_ids is None else check_new_ids(document_ids)
    metadata = (
        [None] * len(texts) if document_metadatas is None else check_list(document_metadatas, "metadata")
    )
    for name, values in (("document_ids", ids), ("document_metadatas", metadata)):
        if len(values) != len(texts):
            raise InputError(
                f"{counted(len(texts), 'document')}, but {len(values)} {name}. Give one per document."
            )
    details = {
        document_id: None if value is None else JsonObject(value, f"metadata of document {document_id!r}")
        for document_id, value in zip(ids, metadata, strict=True)
    }
    contents = _contents(texts, ids, splitter, preprocessing, chunk_size, fits)
    return [
        Passage(f"{document_id}#{number}", text, details[document_id], Source(document_id))
        for document_id, parts in contents.items()
        for number, text in enumerate(parts, start=1)
    ]


def _contents(
    texts: list[str],
    ids: list[str],
    splitter: Splitter | None,
    preprocessing: Preprocessor | Sequence[Preprocessor] | None,
    chunk_size: int,
    fits: Callable[[str], bool],
) -> dict[str, list[str]]:
    """The texts of the passages of each document."""
    functions = [] if preprocessing is None else [preprocessing] if callable(preprocessing) else preprocessing
    if splitter is None and not functions:
        return {document_id: [text] for document_id, text in zip(ids, texts, strict=True)}
    if splitter is sentence_splitter:
        splitter = partial(sentence_splitter, fits=fits)
    made: Any = texts if splitter is None else splitter(texts, ids, chunk_size=chunk_size)
    for function in functions:
        made = function(made, ids)
    contents: dict[str, list[str]] = {document_id: [] for document_id in ids}
    for item in made:
        if not isinstance(item, Mapping) or not {"document_id", "content"} <= set(item):
            raise InputError(
                f"the splitter or preprocessing_fn returned {item!r:.100}. "
                'Return {"document_id": …, "content": …} for each passage.'
            )
        if item["document_id"] not in contents:
            raise InputError(
                f"the splitter or preprocessing_fn returned the document_id {item['document_id']!r:.100}, "
                "which is not one of document_ids."
            )
        text = check_text(item["content"], f"a passage of {item['document_id']!r}", may_be_blank=True)
        contents[item["document_id"]].append(text)
    return contents
