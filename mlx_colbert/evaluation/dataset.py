"""A dataset to measure with: documents, queries, and judgements of which document answers which query."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass

from mlx_colbert.counts import counted
from mlx_colbert.errors import InputError
from mlx_colbert.evaluation.lines import is_id
from mlx_colbert.evaluation.measures import Qrels

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A collection of documents with judged queries.

    Attributes:
        name: its name.
        documents: id → title and text, ordered by id.
        queries: id → text of the queries with a relevant document, ordered by id.
        qrels: the judgements of these queries.
        unknown: judged ids that the dataset does not have, if they were allowed: queries are left out,
            documents count as not found.
    """

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Qrels
    unknown: tuple[str, ...] = ()

    @classmethod
    def check(
        cls,
        name: str,
        documents: Mapping[str, str],
        queries: Mapping[str, str],
        qrels: Qrels,
        *,
        allow_unknown: bool = False,
        max_queries: int | None = None,
    ) -> Dataset:
        """The dataset of these parts.

        Args:
            name: its name.
            documents: id → text.
            queries: id → text. Queries without a relevant document are left out.
            qrels: the judgements.
            allow_unknown: allow judgements of queries and documents that are not there.
            max_queries: keep only the first queries by id.

        Raises:
            InputError: if a part is empty, no query has a relevant document, or a judged id is unknown.
        """
        if not documents:
            raise InputError(f"dataset {name}: has no document.")
        if not queries:
            raise InputError(f"dataset {name}: has no query.")
        if wrong := [text_id for ids in (documents, queries) for text_id in ids if not is_id(text_id)]:
            raise InputError(f"dataset {name}: the id {wrong[0]!r} is blank, or has a tab or a line break.")
        judged = {query for query, row in qrels.items() if any(score > 0 for score in row.values())}
        unknown = sorted(judged - queries.keys())
        unknown += sorted({doc for query in judged for doc in qrels[query]} - documents.keys())
        if unknown and not allow_unknown:
            raise InputError(
                f"dataset {name}: {counted(len(unknown), 'judged id')} without a query or a document: "
                f"{_named(unknown)}. Allow unknown ids (--allow-unknown) to count these documents as not "
                "found and to leave these queries out."
            )
        kept = sorted(judged & queries.keys())[:max_queries]
        if not kept:
            raise InputError(f"dataset {name}: no query has a relevant document.")
        return cls(
            name,
            dict(sorted(documents.items())),
            {query: queries[query] for query in kept},
            {query: dict(qrels[query]) for query in kept},
            tuple(unknown),
        )


def _named(ids: list[str]) -> str:
    more = f" and {len(ids) - 5:,} more" if len(ids) > 5 else ""
    return ", ".join(map(reprlib.repr, ids[:5])) + more
