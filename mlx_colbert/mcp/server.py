"""The server: its tools, resources and prompt. Each parses, makes one call of the library, and gives back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from mcp.server.apps import Apps, client_supports_apps
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.server.mcpserver.resources import ResourceSecurity
from mcp.types import CallToolResult, TextContent, ToolAnnotations

from mlx_colbert._version import __version__
from mlx_colbert.collection.restriction import Restriction
from mlx_colbert.engine.engine import Engine
from mlx_colbert.engine.jobs import Jobs
from mlx_colbert.errors import ColBERTError, message_of
from mlx_colbert.mcp import descriptions
from mlx_colbert.mcp.arguments import (
    AllHits,
    Before,
    K,
    Kinds,
    LinesAround,
    MaxTokens,
    Metadata,
    Names,
    OneName,
    Paths,
    Query,
    Question,
    Ranking,
    Reference,
    Regex,
    Since,
    WaitSeconds,
)
from mlx_colbert.mcp.finding import SearchCall, Shown, found, related
from mlx_colbert.mcp.getting import RESOURCE, got, resource
from mlx_colbert.mcp.keeping import begun, done, listed, state
from mlx_colbert.mcp.page import PAGE_KEY, PAGE_URI, html, page_of
from mlx_colbert.mcp.results import Collections, CollectionStates, FoundPassages, Got, Synced
from mlx_colbert.mcp.served import Served
from mlx_colbert.mcp.strict_server import StrictServer
from mlx_colbert.mcp.untrusted_text import one_line
from mlx_colbert.model.shared_encoder import CallerLeftError

__all__ = ["Backing", "make_server"]

_T = TypeVar("_T")

_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_WRITES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_MOST_MESSAGE = 2_000
# Seconds between two looks at a sync.
_LOOK_S = 0.1
# The part of a collection after which its progress is reported.
_LEAST_PROGRESS = 0.02


@dataclass(frozen=True)
class Backing:
    """What a server works with.

    Attributes:
        engine: it runs the calls. The caller is in a block of `engine.running()`.
        served: the collections that it may show.
        may_write: whether the tool `sync` is there.
        jobs: runs the syncs.
        after_call: called after each call of a tool.
    """

    engine: Engine
    served: Served
    may_write: bool = False
    jobs: Jobs = field(default_factory=Jobs)
    after_call: Callable[[], object] = lambda: None

    async def worked(self, work: Callable[[], _T]) -> _T:
        """What a function returns that a worker of the engine calls, while the event loop goes on.

        Raises:
            ToolError: with the message of the library, if it fails.
        """
        has_left = threading.Event()
        try:
            return await asyncio.wrap_future(self.engine.submit(work, has_left.is_set))
        except CallerLeftError as error:
            raise ToolError("The call was given up.") from error
        except (ColBERTError, OSError, MemoryError) as error:
            raise ToolError(_message(error)) from error
        finally:
            has_left.set()
            self.after_call()


def make_server(backing: Backing) -> StrictServer:
    """The server. The caller connects it to a transport."""
    apps = Apps()
    apps.add_html_resource(
        PAGE_URI,
        html(),
        name="hits",
        description="Shows hits, each word shaded by how much it answers the query.",
    )
    _add_finding(apps, backing)
    server = StrictServer(
        "mlx-colbert",
        title="mlx-colbert: search in your own files",
        version=__version__,
        instructions=descriptions.INSTRUCTIONS,
        extensions=[apps],
    )
    _add_reading(server, backing)
    if backing.may_write:
        _add_writing(server, backing)
    _add_resource(server, backing)
    _add_prompt(server)
    server.refuse_unknown_arguments()
    return server


def _add_finding(apps: Apps, backing: Backing) -> None:
    @apps.tool(
        resource_uri=PAGE_URI,
        name="search",
        title="Search in files",
        description=descriptions.SEARCH,
        annotations=_READS,
    )
    async def search(
        query: Query,
        ctx: Context[None, Any],
        collections: Names = None,
        k: K = 8,
        mode: Ranking = "hybrid",
        paths: Paths = None,
        kinds: Kinds = None,
        since: Since = None,
        before: Before = None,
        regex: Regex = None,
        filter: Metadata = None,
        all: AllHits = False,
        max_tokens: MaxTokens = 2_000,
    ) -> Annotated[CallToolResult, FoundPassages]:
        is_shaded = client_supports_apps(ctx)

        def work() -> Shown:
            restriction = Restriction(paths or (), kinds or (), since, before, regex, filter)
            call = SearchCall(query, collections or (), k, mode, restriction, all, max_tokens, is_shaded)
            return found(backing.served, call)

        return _result(await backing.worked(work), query if is_shaded else None)

    @apps.tool(
        resource_uri=PAGE_URI,
        name="similar",
        title="Find related passages",
        description=descriptions.SIMILAR,
        annotations=_READS,
    )
    async def similar(
        reference: Reference,
        ctx: Context[None, Any],
        collections: Names = None,
        k: K = 8,
        max_tokens: MaxTokens = 2_000,
    ) -> Annotated[CallToolResult, FoundPassages]:
        is_shaded = client_supports_apps(ctx)

        def work() -> Shown:
            return related(backing.served, reference, collections or (), k, max_tokens, is_shaded=is_shaded)

        return _result(await backing.worked(work), "" if is_shaded else None)


def _add_reading(server: StrictServer, backing: Backing) -> None:
    served = backing.served

    @server.tool(title="Read a passage or a file", description=descriptions.GET, annotations=_READS)
    async def get(
        reference: Reference,
        collections: Names = None,
        lines_around: LinesAround = 0,
        max_tokens: MaxTokens = 2_000,
    ) -> Annotated[CallToolResult, Got]:
        def work() -> Shown:
            return got(served, reference, collections or (), lines_around, max_tokens)

        return _result(await backing.worked(work))

    @server.tool(title="List the collections", description=descriptions.COLLECTIONS, annotations=_READS)
    async def collections() -> Annotated[CallToolResult, Collections]:
        return _result(await backing.worked(lambda: listed(served)))

    @server.tool(title="Show how fresh collections are", description=descriptions.STATUS, annotations=_READS)
    async def status(collections: Names = None) -> Annotated[CallToolResult, CollectionStates]:
        return _result(await backing.worked(lambda: state(served, collections or ())))


def _add_writing(server: StrictServer, backing: Backing) -> None:
    served, jobs = backing.served, backing.jobs

    @server.tool(title="Read all changed files", description=descriptions.SYNC, annotations=_WRITES)
    async def sync(
        ctx: Context[None, Any], collections: Names = None, wait_seconds: WaitSeconds = 20.0
    ) -> Annotated[CallToolResult, Synced]:
        syncs = await backing.worked(lambda: begun(served, jobs, collections or ()))
        end, told = time.monotonic() + wait_seconds, 0.0
        while not all(one.has_ended for one in syncs) and time.monotonic() < end:
            if (now := sum(one.part for one in syncs)) >= told + _LEAST_PROGRESS:
                told = now
                await ctx.report_progress(now, len(syncs))
            await asyncio.sleep(_LOOK_S)
        return _result(done(syncs))


def _add_resource(server: StrictServer, backing: Backing) -> None:
    @server.resource(
        RESOURCE,
        name="passage",
        title="A passage",
        description=descriptions.PASSAGE,
        mime_type="text/plain",
        # It is looked up in an index, and is no path.
        security=ResourceSecurity(exempt_params={"collection", "id"}),
    )
    async def passage(collection: str, id: str) -> str:
        try:
            return await backing.worked(lambda: resource(backing.served, collection, id))
        except ToolError as error:
            raise ResourceError(str(error)) from error


def _add_prompt(server: StrictServer) -> None:
    @server.prompt(title="Answer from my files, with citations", description=descriptions.PROMPT)
    def cited_answer(question: Question, collection: OneName = "") -> str:
        return descriptions.cited_answer(question, one_line(collection))


def _result(shown: Shown, query: str | None = None) -> CallToolResult:
    """The result of a tool. With a query, the page of the host shows the hits."""
    found = CallToolResult(
        content=[TextContent(type="text", text=shown.text)],
        structured_content=shown.result.model_dump(mode="json", exclude_none=True),
    )
    if query is not None:
        found.meta = {PAGE_KEY: page_of(query, shown.hits)}
    return found


def _message(error: BaseException) -> str:
    """What an error says to a language model."""
    return one_line(message_of(error))[:_MOST_MESSAGE]
