"""An MCP server that refuses arguments that a tool does not have, and says errors as this package does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.types import CallToolResult, InputRequiredResult
from pydantic import ValidationError

from mlx_colbert.engine.wrong_fields import did_you_mean, wrong_fields

__all__ = ["StrictServer"]


class StrictServer(MCPServer[None]):
    """An MCP server whose tools have no other arguments than they say."""

    def __init__(self, name: str, **options: Any) -> None:
        """As `MCPServer`. The logging of the process stays as it is."""
        with _logging_kept():
            super().__init__(name, **options)

    def refuse_unknown_arguments(self) -> None:
        """Make the tools strict. The SDK drops an argument that it does not know."""
        for tool in self._tool_manager.list_tools():
            model = tool.fn_metadata.arg_model
            model.model_config["extra"] = "forbid"
            model.model_rebuild(force=True)
            tool.parameters = model.model_json_schema(by_alias=True)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[None, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool.

        Raises:
            ToolError: with a message for a language model.
        """
        if self._tool_manager.get_tool(name) is None:
            tools = ", ".join(tool.name for tool in self._tool_manager.list_tools())
            raise ToolError(f"There is no tool {name!r:.100}. There are: {tools}.")
        try:
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError:
            raise
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                tool = self._tool_manager.get_tool(name)
                known = list(tool.parameters.get("properties", {})) if tool else []
                raise ToolError(_problems(name, error.__cause__, known)) from error.__cause__
            # The SDK puts the name of the tool before the message.
            raise ToolError(str(error).removeprefix(f"Error executing tool {name}: ")) from error.__cause__


def _problems(name: str, error: ValidationError, known: list[str]) -> str:
    """What is wrong with the arguments, a line each."""
    lines, others = [], []
    for problem in error.errors(include_url=False):
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            hint = did_you_mean(where, known)
            lines.append(f"{name} has no argument {where!r:.100}. It has: {', '.join(known)}.{hint}")
        elif problem["type"] == "missing":
            lines.append(f"{name} needs the argument {where!r}.")
        else:
            others.append(problem)
    lines += [f"{name}: {wrong['field']}: {wrong['reason']}" for wrong in wrong_fields(others, None)]
    return "\n".join(lines)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """A block that leaves the root logger as it is. The SDK sets it up in its constructor."""
    root, handler = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
