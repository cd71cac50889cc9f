"""llm (llm.datasette.io): passages of collections as fragments of a prompt, and a search as a tool.

llm finds this module by itself, and imports it whenever it starts. So a function imports what it needs.
"""

# No `from __future__ import annotations`: llm tells a model the types of the tool.

from collections.abc import Callable
from typing import Any

from mlx_colbert.errors import MissingExtraError

try:
    import llm
except ImportError as error:
    raise MissingExtraError("mlx_colbert.integrations.llm", "llm") from error

__all__ = ["colbert_fragments", "colbert_search"]

# Passages for one question. They must leave place for the answer of a small model.
_K = 5


def colbert_search(query: str) -> str:
    """Search the user's own files by meaning. Returns the best passages, each with its file and lines."""
    return "\n\n".join(f"{where}\n{text}" for where, text in _passages(query)) or "Nothing was found."


def colbert_fragments(argument: str) -> list[Any]:
    """The passages of all collections that answer a question best: llm -f 'colbert:how do bees dance'."""
    # llm prints this text as help, and shows the message of any error.
    return [llm.Fragment(text, source=where) for where, text in _passages(argument)]


@llm.hookimpl
def register_fragment_loaders(register: Callable[..., None]) -> None:
    """Add the prefix "colbert:"."""
    register("colbert", colbert_fragments)


@llm.hookimpl
def register_tools(register: Callable[..., None]) -> None:
    """Add the tool."""
    register(colbert_search)


def _passages(query: str) -> list[tuple[str, str]]:
    """The place and the text of the best passages of all collections."""
    from mlx_colbert.collection.choosing import chosen
    from mlx_colbert.collection.registry import Registry
    from mlx_colbert.integrations.searched import Searched, metadata_of

    searched = Searched(collections=[place.name for place in chosen(Registry())])
    try:
        hits = searched.search(query, _K)
    finally:
        searched.close()
    return [(metadata_of(hit)["location"], hit.text or "") for hit in hits]
