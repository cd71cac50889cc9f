"""New contents of sources, as the caller gives them, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_colbert.checks import check_doc_ids, check_positions, check_source
from mlx_colbert.errors import InputError
from mlx_colbert.index.writing.batch import Batch
from mlx_colbert.types import Array, Position, Source, TokenEmbeddings


@dataclass(frozen=True, eq=False)
class SourceChanges:
    """The passages that some sources shall have.

    Attributes:
        members: for each source the ids of all its passages, with their positions (JSON).
        batch: the passages among them that are new or changed.
    """

    members: Mapping[Source, Mapping[str, str | None]]
    batch: Batch | None

    @classmethod
    def check(
        cls,
        sources: Mapping[Source, Mapping[str, Position | None]],
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Iterable[Array],
        *,
        texts: Iterable[str | None] | None,
        metadata: Iterable[Mapping[str, Any] | None] | None,
        dim: int,
    ) -> SourceChanges:
        """The checked changes.

        Raises:
            InputError: if a value cannot be stored, or a passage has no source or two sources.
            ShapeError: if the numbers of passages differ, or D is not `dim`.
        """
        members: dict[Source, dict[str, str | None]] = {}
        source_of: dict[str, Source] = {}
        for source, positions in sources.items():
            check_source(source, "a source")
            ids = check_doc_ids(positions)
            members[source] = dict(zip(ids, check_positions(ids, positions.values()), strict=True))
            if twice := source_of.keys() & ids:
                raise InputError(f"passage {min(twice)!r} is listed for two sources. Give it one.")
            source_of |= dict.fromkeys(ids, source)
        batch = None
        if new := check_doc_ids(doc_ids):
            if others := [doc_id for doc_id in new if doc_id not in source_of]:
                raise InputError(f"passage {others[0]!r} is in doc_ids, but no source lists it.")
            batch = Batch.check(
                new,
                embeddings,
                texts=texts,
                metadata=metadata,
                sources=[source_of[doc_id] for doc_id in new],
                positions=[sources[source_of[doc_id]][doc_id] for doc_id in new],
                dim=dim,
            )
        return cls(members, batch)
