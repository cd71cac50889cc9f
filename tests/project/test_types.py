"""The program of a user that `make check` gives to mypy has every public name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import mlx_colbert

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("typed_user.py")


def used():
    """The names that the program uses after their import."""
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_every_public_name_is_in_the_program_of_a_user():
    assert set(mlx_colbert.__all__) <= used()


def test_every_name_of_the_reference_is_in_the_program_of_a_user():
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    named = re.findall(r"^::: [\w.]+\.(\w+)$", pages, re.MULTILINE)

    assert set(named) - used() == set()


def test_every_name_of_the_page_on_python_is_in_the_program_of_a_user():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    # `Retriever.open(path)`, `.upsert`, `Filter`: the last name before a bracket or the end. No module.
    named = {name for cell in cells for name in re.findall(r"`[\w.]*?\b([A-Za-z]\w*)(?:\([^`]*\))?`", cell)}

    # It needs mteb.
    assert named - used() - {"first_stage", "MtebColBERT"} == set()
