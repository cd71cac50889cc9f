"""New contents of sources, as the caller gives them, and their checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_colbert.checks import check_doc_ids, check_new_ids, check_text
from mlx_colbert.errors import InputError
from mlx_colbert.index.passage_checks import check_metadata, check_positions, check_source
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


@dataclass(frozen=True)
class SourceNames:
    """New names of sources and of their passages.

    Attributes:
        sources: present uri → what the source becomes.
        doc_ids: old id → new id of N passages.
        metadata: N JSON objects, as text: the new metadata of these passages. None: they stay.
    """

    sources: dict[str, Source]
    doc_ids: dict[str, str]
    metadata: list[str | None] | None

    @classmethod
    def check(
        cls,
        sources: Mapping[str, Source],
        doc_ids: Mapping[str, str] | None,
        metadata: Iterable[Mapping[str, Any] | None] | None,
    ) -> SourceNames:
        """The checked names.

        Raises:
            InputError: if a value cannot be stored, or two sources become one.
            DuplicateIdError: if a new id is given twice.
        """
        for uri, source in sources.items():
            check_text(uri, "the uri of a source")
            check_source(source, "a source")
        new_uris = Counter(source.uri for source in sources.values())
        if twice := [uri for uri, n_sources in new_uris.items() if n_sources > 1]:
            raise InputError(f"two sources would become {twice[0]!r}. Give each its own uri.")
        names = dict(doc_ids or {})
        if names:
            check_doc_ids(names)
            check_new_ids(names.values())
        return cls(dict(sources), names, None if metadata is None else check_metadata(list(names), metadata))
