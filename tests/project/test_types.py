"""The program of a user that `make check` gives to mypy has every public name."""

from __future__ import annotations

import ast
from pathlib import Path

import mlx_colbert

PROGRAM = Path(__file__).with_name("typed_user.py")


def test_every_public_name_is_in_the_program_of_a_user():
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}

    assert set(mlx_colbert.__all__) <= used
