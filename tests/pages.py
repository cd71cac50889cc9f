"""The code blocks of the pages: which run, and which a page says do not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A line above a block, for readers too.
NOT_RUN = re.compile(r"^\*Not run by the tests: (.+)\*$")
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "convert/README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: what stands after the fence.
        text: its lines.
        line: the number of the line of its fence.
        reason: why the tests do not run it, as the page says.
    """

    page: str
    language: str
    text: str
    line: int
    reason: str | None


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    opened = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        above = next((text for text in reversed(lines[:opened]) if text), "")
        reason = NOT_RUN.match(above)
        text = "\n".join([*lines[opened + 1 : number], ""])
        found.append(Block(page, lines[opened][3:], text, opened + 1, reason and reason[1]))
        opened = None
    assert opened is None, f"{page}: a fence is not closed"
    return found
