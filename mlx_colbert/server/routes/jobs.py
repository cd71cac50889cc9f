"""Work that takes long: how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from mlx_colbert.engine.jobs import Job, Jobs
from mlx_colbert.errors import StoppingError
from mlx_colbert.server import events
from mlx_colbert.server.problems import Problem, problem_of
from mlx_colbert.server.routes.dependencies import jobs_of
from mlx_colbert.server.routes.shapes import JobBody, job_body

__all__ = ["router"]

router = APIRouter(tags=["jobs"])

# Seconds between looks at a job.
_LOOK_S = 0.2
# Seconds for a job to end when the server is stopped, less than the server has.
_STOP_S = 3.0

JobId = Annotated[str, Path(max_length=64)]


class JobList(BaseModel):
    """The jobs that are known, the oldest first."""

    jobs: list[JobBody]


def _job(request: Request, job_id: str) -> Job:
    job = jobs_of(request).get(job_id)
    if job is None:
        raise Problem(404, f"There is no job {job_id!r:.80}, or it ended long ago.")
    return job


@router.get("/jobs")
async def jobs(request: Request) -> JobList:
    """List the jobs."""
    return JobList(jobs=[job_body(job) for job in jobs_of(request).all()])


@router.get("/jobs/{job_id}")
async def job(request: Request, job_id: JobId) -> JobBody:
    """Say how far a job is."""
    return job_body(_job(request, job_id))


@router.get(
    "/jobs/{job_id}/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}, "description": "progress, then end or error"}},
)
async def job_events(request: Request, job_id: JobId) -> Response:
    """Follow a job: `event: progress` for each change, and `event: end`, each with the job.

    If the server is stopped before the job has ended, the last one is `event: error`, with the problem.
    """
    return events.stream(_followed(jobs_of(request), _job(request, job_id)))


async def _followed(jobs: Jobs, job: Job) -> AsyncIterator[str]:
    before, silent_s, left_s = None, 0.0, _STOP_S
    while True:
        now = job_body(job).model_dump()
        if job.has_ended:
            yield events.event("end", now)
            return
        if jobs.is_stopping:
            # It ends at its next step. The server does not wait for that so long.
            if left_s <= 0:
                problem = problem_of(StoppingError(f"{job.what} of {job.target}"))
                yield events.event("error", {"status": problem.status, "detail": problem.detail})
                return
            left_s -= _LOOK_S
        if now != before:
            yield events.event("progress", now)
            before, silent_s = now, 0.0
        elif silent_s >= events.KEEP_ALIVE_S:
            yield events.ALIVE
            silent_s = 0.0
        await asyncio.sleep(_LOOK_S)
        silent_s += _LOOK_S
