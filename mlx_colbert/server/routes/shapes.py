"""What several routes answer: hits, jobs, collections."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from mlx_colbert.engine.jobs import Job

__all__ = ["HitBody", "JobBody", "JobStarted", "job_body"]


class Word(BaseModel):
    """A word of a passage, and how much it answers the query."""

    start: int
    end: int
    similarity: float = Field(description="0: as near as a typical word; 1: the word itself")
    query_word: int = Field(description="the number of the word of the query, from 0")


class Surroundings(BaseModel):
    """The lines before and after a passage."""

    first: int
    before: list[str]
    after: list[str]


class HitBody(BaseModel):
    """A passage that was found."""

    rank: int
    score: float
    doc_id: str
    text: str | None
    metadata: dict[str, Any] | None
    source: str | None = Field(description="the name of its file in the index")
    position: dict[str, Any] | None = Field(description="lines, page, slide, cell or row; headings")
    collection: str
    path: str | None = Field(description="the path of its file")
    similarity: float | None
    confidence: float | None = Field(description="how sure it is that it answers, 0 to 1")
    context: list[str] = Field(description="what the user has said about its file and folders")
    matches: list[tuple[int, int, float, int]] = Field(
        description="the words that answer: start, end, similarity, number of the word of the query"
    )
    words: list[Word] = Field(description="all words, if shading was asked for")
    surroundings: Surroundings | None
    short_id: str
    link: str | None


class JobBody(BaseModel):
    """Work that takes long."""

    id: str
    what: str
    target: str = Field(description="the name of the collection")
    state: Literal["waiting", "running", "done", "failed"]
    stage: str = Field(description="what it does now, such as encoding")
    done: int = Field(description="how much of the stage is done")
    total: int | None = Field(description="how much it is in all; null: not known")
    result: dict[str, Any] | None
    error: str | None
    began: float = Field(description="seconds since 1970")
    ended: float | None


class JobStarted(BaseModel):
    """Work was begun. `GET /jobs/{id}/events` tells how far it is."""

    name: str = Field(description="the name of the collection")
    job: JobBody


def job_body(job: Job) -> JobBody:
    """A job as JSON."""
    return JobBody(
        id=job.id,
        what=job.what,
        target=job.target,
        state=job.state,
        stage=job.stage,
        done=job.n_done,
        total=job.n_all,
        result=job.result,
        error=job.reason,
        began=job.began,
        ended=job.ended,
    )
