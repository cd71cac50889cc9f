"""Errors as JSON: RFC 9457, `application/problem+json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mlx_colbert.engine.wrong_fields import wrong_fields
from mlx_colbert.errors import (
    BackendError,
    BusyError,
    ColBERTError,
    CollectionBusyError,
    CollectionError,
    CollectionNotFoundError,
    DuplicateIdError,
    IndexLockedError,
    IndexNotFoundError,
    InputError,
    LanguageModelError,
    StoppingError,
    TargetExistsError,
    UnknownIdError,
)
from mlx_colbert.model.shared_encoder import CallerLeftError

__all__ = ["PROBLEMS", "Problem", "ProblemBody", "answer", "handle", "is_json", "problem_of"]

# The first kind that an error is decides.
_STATUSES: list[tuple[type[Exception], int]] = [
    (BusyError, 429),
    (CollectionNotFoundError, 404),
    (IndexNotFoundError, 404),
    (UnknownIdError, 404),
    (DuplicateIdError, 409),
    (TargetExistsError, 409),
    (CollectionBusyError, 503),
    (StoppingError, 503),
    (IndexLockedError, 503),
    (CollectionError, 409),
    (InputError, 422),
    (BackendError, 501),
    (LanguageModelError, 502),
    (CallerLeftError, 499),
]


# What the framework says, and what people need.
_DETAILS = {
    "Not Found": "There is nothing at this path. GET /openapi.json lists the paths.",
    "Method Not Allowed": "This path has other methods. The header Allow lists them.",
    "There was an error parsing the body": "The body is not UTF-8, is nested too deep, or has a number that "
    "is too long.",
}


class Problem(Exception):
    """An error that is sent to the client.

    Attributes:
        status: the HTTP status.
        detail: what is wrong, and what to do.
        headers: more headers.
        errors: what is wrong with each field.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, Any]] | None = None,
    ) -> None:
        self.status = status
        self.detail = detail
        self.headers: dict[str, str] = dict(headers or {})
        self.errors = errors
        super().__init__(detail)


class ProblemBody(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field("about:blank", description="the kind of problem")
    title: str = Field(description="the name of the status")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what is wrong, and what to do")
    message: str = Field(description="the same, where the clients of OpenAI and of Cohere look for it")
    request_id: str | None = Field(None, description="the number of the request in the log")
    errors: list[dict[str, Any]] | None = Field(None, description="what is wrong with each field")


def _described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}
    return {status: {"description": _title(status), "content": content} for status in statuses}


def _title(status: int) -> str:
    if status == 499:
        return "Client Left"
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


# What any route may answer, for OpenAPI.
PROBLEMS = _described(400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, 500, 501, 502, 503)


def problem_of(error: BaseException) -> Problem:
    """The problem of an error of the library. One that is not for people gives no details."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, BusyError):
        return Problem(429, str(error), headers={"retry-after": str(math.ceil(error.retry_after_s))})
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            headers = {"retry-after": "1"} if status == 503 else {}
            return Problem(status, str(error), headers=headers)
    if isinstance(error, ColBERTError):
        return Problem(500, str(error))
    return Problem(500, "The server failed. Its log has the reason, with the request id.")


def answer(problem: Problem, request_id: str | None = None) -> Response:
    """The response of a problem."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _title(problem.status),
        "status": problem.status,
        "detail": problem.detail,
        "message": problem.detail,
    }
    if request_id is not None:
        body["request_id"] = request_id
    if problem.errors is not None:
        body["errors"] = problem.errors
    return Response(
        json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace"),
        status_code=problem.status,
        headers=problem.headers,
        media_type="application/problem+json",
    )


def is_json(content_type: str) -> bool:
    """Whether a Content-Type says that a body is JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _fields_of(request: Request) -> list[str]:
    """The fields that the body of a request may have, by the names that a client gives them."""
    body = getattr(request.scope.get("route"), "body_field", None)
    kind = None if body is None else body.field_info.annotation
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    return [field.alias or name for name, field in kind.model_fields.items()]


def handle(app: FastAPI) -> None:
    """Let an application answer with problems."""

    def answered(request: Request, problem: Problem) -> Response:
        return answer(problem, getattr(request.state, "request_id", None))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = _DETAILS.get(str(error.detail), str(error.detail))
        return answered(request, Problem(error.status_code, detail, headers=error.headers))

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if error.errors()[0]["loc"] == ("body",) and not is_json(request.headers.get("content-type", "")):
            detail = "The body must be JSON. Send it with the header `Content-Type: application/json`."
            return answered(request, Problem(415, detail))
        errors = wrong_fields(error.errors(), error.body, _fields_of(request))
        if error.errors()[0]["type"] == "json_invalid":
            detail = f"The body {errors[0]['reason']}"
        else:
            detail = " ".join(f"{one['field']}: {one['reason']}" for one in errors[:3])
        return answered(request, Problem(422, detail, errors=errors))

    async def on_error(request: Request, error: Exception) -> Response:
        return answered(request, problem_of(error))

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Problem, on_error)
    app.add_exception_handler(ColBERTError, on_error)
    app.add_exception_handler(CallerLeftError, on_error)
