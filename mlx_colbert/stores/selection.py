"""The passages of a store in another engine that a search looks at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from mlx_colbert.index import Filter, Index
from mlx_colbert.index.catalog.filters import filter_condition
from mlx_colbert.stores.fact_tests import fact_test
from mlx_colbert.stores.rows import Engine, key_of, parts

__all__ = ["Selection"]


class Selection:
    """Some passages, or all: by their ids, by a filter, or by both.

    An engine tests the facts of a filter itself. If it cannot do that exactly, the copy says which ids the
    filter selects, and the engine gets their keys.

    Args:
        engine: where the rows are.
        copy: returns the copy of texts and metadata, in step with the store.
        filter: a condition on the metadata.
        doc_ids: the ids.
    """

    def __init__(
        self,
        engine: Engine,
        copy: Callable[[], Index],
        filter: Filter | str | None = None,
        doc_ids: Collection[str] | None = None,
    ) -> None:
        self._engine = engine
        self._condition: Any = None
        # The ids that are selected, each once. None: `_condition` decides, and without one all are.
        self._ids: dict[str, None] | None = None if doc_ids is None else dict.fromkeys(doc_ids)
        if filter is None:
            return
        test = fact_test(filter_condition(filter))
        self._condition = None if test is None else engine.satisfying(test)
        if self._condition is None:
            allowed = copy().ids(filter=filter)
            self._ids = dict.fromkeys(allowed if self._ids is None else self._ids.keys() & set(allowed))
        elif self._ids is not None:
            self._ids = dict.fromkeys(
                self._ids.keys() & {mark.doc_id for mark in engine.marks(self._condition)}
            )

    def ids(self) -> list[str]:
        """The ids that the store has of these passages, oldest first."""
        marks = sorted(self._engine.marks(self._condition), key=lambda mark: mark.order)
        return [mark.doc_id for mark in marks if self._ids is None or mark.doc_id in self._ids]

    def few_keys(self, n: int) -> list[str] | None:
        """The keys of these passages, if a filter or ids select n or fewer. None: there are more."""
        if self._ids is not None:
            return list(map(key_of, self._ids)) if len(self._ids) <= n else None
        if self._condition is None:
            return None
        found = [mark.key for mark in self._engine.marks(self._condition, limit=n + 1)]
        return found if len(found) <= n else None

    def conditions(self) -> Iterator[Any]:
        """Conditions of the engine. Each of these passages satisfies one of them."""
        if self._ids is None:
            yield self._condition
            return
        keys = list(map(key_of, self._ids))
        yield from map(self._engine.among, parts(keys, self._engine.most_keys))
