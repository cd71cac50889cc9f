"""The page that a host may show beside a result (MCP Apps): the hits, each word with its shade."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from mlx_colbert.collection.hits import CollectionHit
from mlx_colbert.collection.matches import word_spans
from mlx_colbert.mcp.facts import cite, headings

__all__ = ["PAGE_KEY", "PAGE_URI", "html", "page_of"]

PAGE_URI = "ui://mlx-colbert/hits.html"
# The name of what the page shows, in the metadata of a result. A language model does not read it.
PAGE_KEY = "mlx-colbert/page"


def html() -> str:
    """The page. It asks for nothing from the network."""
    return files("mlx_colbert.mcp").joinpath("hits.html").read_text("utf-8")


def page_of(query: str, hits: Sequence[CollectionHit]) -> dict[str, Any]:
    """What the page shows: the words of the query, and the hits with the shades of their words."""
    return {
        "query_words": [query[start:end] for start, end in word_spans(query)],
        "hits": [
            {
                "cite": cite(hit),
                "headings": headings(hit),
                "told": "" if hit.confidence is None else f"confidence {hit.confidence:.2f}",
                "text": hit.text or "",
                "words": [word._asdict() for word in hit.words],
            }
            for hit in hits
        ],
    }
