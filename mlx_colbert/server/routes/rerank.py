"""Documents in the order in which they answer a query, in the shape of Cohere and of Jina."""

from __future__ import annotations

import uuid
from typing import Annotated

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from mlx_colbert.counts import counted
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.server.routes.dependencies import model_of, settings_of, worked
from mlx_colbert.server.routes.texts import Usage, check_texts, encoded, n_tokens_of
from mlx_colbert.server.served_model import ServedModel
from mlx_colbert.server.settings import Limits
from mlx_colbert.types import Array, TokenEmbeddings

__all__ = ["router"]

router = APIRouter(tags=["rerank"])


class Document(BaseModel):
    """A document with its text. Other keys are not used."""

    model_config = ConfigDict(extra="ignore")

    text: str


class RerankRequest(BaseModel):
    """What Cohere's and Jina's clients send."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="the name of the model of this server")
    query: str
    documents: Annotated[list[str | Document], Field(min_length=1)]
    top_n: int | None = Field(None, ge=1, description="the number of results; null: all")
    return_documents: bool = Field(False, description="whether a result has its document")
    max_tokens_per_doc: int | None = Field(
        None,
        ge=1,
        description="no effect: the model reads the number of tokens that it was trained for",
    )
    truncation: bool | None = Field(None, description="no effect: long documents are always truncated")
    priority: int | None = Field(None, description="no effect")


class Result(BaseModel):
    """A document that was ranked."""

    index: int = Field(description="its position in the request, from 0")
    relevance_score: float = Field(
        description="the mean over the query's tokens of the similarity of the best match, in 0..1"
    )
    document: Document | None = None


class Tokens(BaseModel):
    """Tokens that the model read."""

    input_tokens: int


class Meta(BaseModel):
    """What Cohere's client calls the usage."""

    api_version: dict[str, str] = {"version": "2"}
    tokens: Tokens
    warnings: list[str] | None = None


class RerankAnswer(BaseModel):
    """The documents, the best first."""

    id: str
    model: str
    results: list[Result]
    meta: Meta
    usage: Usage


def relevance(model: ColBERT, query: TokenEmbeddings, documents: TokenEmbeddings) -> Array:
    """The score of each document: MaxSim, divided by the number of the query's rows, in 0..1.

    Args:
        model: the model of the vectors.
        query: one query.
        documents: N documents.

    Returns:
        (N,) float32. The order is that of MaxSim, but for documents that nobody would call relevant: those
        with a negative MaxSim have 0.
    """
    scores = model.similarity(query, documents)[0] * model.score_divisors(query)[0] / len(query[0])
    found: Array = np.clip(scores, 0.0, 1.0)
    return found


def _reranked(served: ServedModel, body: RerankRequest, texts: list[str], limits: Limits) -> RerankAnswer:
    model = served.load()
    query, query_tokens = encoded(model, [body.query], "query", limits)
    documents, tokens = encoded(model, texts, "document", limits)
    scores = relevance(model, query, documents)
    order = np.argsort(-scores, kind="stable")[: body.top_n].tolist()
    n_tokens = n_tokens_of(query_tokens) + n_tokens_of(tokens)
    warnings = []
    if tokens.n_truncated:
        length = model.config.colbert.document_length
        found = f"{counted(tokens.n_truncated, 'document')} of more than {length} tokens"
        warnings.append(f"The end of {found} is not read.")
    return RerankAnswer(
        id=str(uuid.uuid4()),
        model=served.name,
        results=[
            Result(
                index=number,
                relevance_score=float(scores[number]),
                document=Document(text=texts[number]) if body.return_documents else None,
            )
            for number in order
        ],
        meta=Meta(tokens=Tokens(input_tokens=n_tokens), warnings=warnings or None),
        usage=Usage.of(n_tokens),
    )


@router.post("/rerank", response_model_exclude_none=True)
@router.post("/v1/rerank", response_model_exclude_none=True)
@router.post("/v2/rerank", response_model_exclude_none=True)
async def rerank(request: Request, body: RerankRequest) -> RerankAnswer:
    """Sort documents by how well they answer a query."""
    limits, model = settings_of(request).limits, model_of(request)
    model.check(body.model)
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    check_texts([body.query], limits, "query")
    check_texts(texts, limits, "documents")
    return await worked(request, lambda: _reranked(model, body, texts, limits))
