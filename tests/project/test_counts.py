"""Numbers of things are written in one way, so that none is "1 files"."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mlx_colbert.counts import counted

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("mlx_colbert", "convert") for path in (ROOT / folder).rglob("*.py"))
# What people have one of. A number with such a word is made by `counted`.
NOUNS = (
    "collections documents files folders hits ids items lines models parts passages patterns queries questions "
    "rows segments shards sources tensors texts vectors words"
).split()
# A word may stand between them, as in "3 new files", but no verb: "text 3 has rows".
PLURAL = re.compile(rf" (?!has |contains |and |is )(?:[a-z-]+ )?(?:{'|'.join(NOUNS)})\b")
# What is no number: f"{task} vectors".
NAMES = ("task", "join(", "shown(")


def is_limit(value: ast.expr) -> bool:
    """Whether it is a constant of ours, such as MAX_BYTES. These are never 1."""
    name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
    return name.isupper()


def is_number(part: ast.FormattedValue) -> bool:
    """Whether it may be a number that is written without a point."""
    form = ast.unparse(part.format_spec) if part.format_spec else ""
    return not re.search(r"\.[0-9]", form) and not any(name in ast.unparse(part.value) for name in NAMES)


def found(path: Path) -> list[str]:
    """The places of a file that write a number and a plural themselves."""
    told = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.JoinedStr):
            continue
        for part, text in zip(node.values, node.values[1:], strict=False):
            if isinstance(part, ast.FormattedValue) and isinstance(text, ast.Constant):
                noun = PLURAL.match(str(text.value))
                if noun and not is_limit(part.value) and is_number(part):
                    told.append(f"{path.relative_to(ROOT)}:{part.lineno}: {ast.unparse(part.value)}{noun[0]}")
    return told


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_number_and_noun_are_joined_by_the_one_function_for_it(path):
    assert found(path) == [], "write counted(n, noun), of mlx_colbert/counts.py"


def test_one_thing_is_singular():
    assert [counted(n, "file") for n in (0, 1, 2, 1_234)] == ["0 files", "1 file", "2 files", "1,234 files"]
    assert counted(1, "judged query", "judged queries") == "1 judged query"
    assert counted(2, "judged query", "judged queries") == "2 judged queries"
