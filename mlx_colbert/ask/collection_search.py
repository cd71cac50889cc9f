"""What answers a question from collections: their search, and how their passages are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from mlx_colbert.ask.conversation import Conversation
from mlx_colbert.ask.language_models.language_model import LanguageModel
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.confidence import least_confidence
from mlx_colbert.collection.hits import CollectionHit
from mlx_colbert.collection.search import search
from mlx_colbert.types import Hit

__all__ = ["conversation_about"]


def conversation_about(
    collections: Sequence[Collection],
    model: LanguageModel,
    *,
    k: int = 8,
    max_tokens: int = 512,
    temperature: float = 0.0,
    min_score: float | None = None,
    refresh_s: float | None = None,
    on_note: Callable[[str], object],
) -> Conversation:
    """A conversation that answers from collections.

    Args:
        collections: where it searches.
        model: the language model.
        k: as for `Conversation`.
        max_tokens: as for `Conversation`.
        temperature: as for `Conversation`.
        min_score: passages with a lower confidence are left out. None: those that are not relevant.
        refresh_s: seconds to bring the collections in step with their files before each search. None: do not.
        on_note: called with each sentence that the user should know.

    Raises:
        InputError: if an argument cannot be used.
    """
    least = least_confidence(min_score)

    def found(question: str, n_hits: int) -> list[Hit]:
        # What is not relevant is left out here, so that it takes no place among the best.
        result = search(collections, question, n_hits, min_confidence=least, refresh_s=refresh_s)
        for note in result.notes:
            on_note(note)
        return _told_apart(result.hits)

    return Conversation(
        found, model, k=k, max_tokens=max_tokens, temperature=temperature, describe=_description
    )


def _description(hit: Hit) -> str | None:
    return " ".join(hit.context) or None if isinstance(hit, CollectionHit) else None


def _told_apart(hits: Sequence[CollectionHit]) -> list[Hit]:
    """The hits. If files of two collections have the same name, their sources also name the collection."""
    places = Counter(source for source, _ in {(hit.source, hit.path) for hit in hits})
    return [
        hit
        if hit.source is None or places[hit.source] == 1
        else replace(hit, source=f"{hit.collection}: {hit.source}")
        for hit in hits
    ]
