"""The syntax trees of source code, by tree-sitter and its grammars."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from tree_sitter import Language, Parser

__all__ = ["Definition", "definitions"]

# Suffix → (module of the grammar, function that gives it).
_GRAMMARS = {
    suffix: (module, function)
    for suffixes, module, function in (
        (".py .pyi", "tree_sitter_python", "language"),
        (".js .mjs .cjs .jsx", "tree_sitter_javascript", "language"),
        (".ts .mts .cts", "tree_sitter_typescript", "language_typescript"),
        (".tsx", "tree_sitter_typescript", "language_tsx"),
        (".go", "tree_sitter_go", "language"),
        (".rs", "tree_sitter_rust", "language"),
        (".java", "tree_sitter_java", "language"),
        (".c .h", "tree_sitter_c", "language"),
        (".cc .cpp .cxx .hh .hpp .hxx", "tree_sitter_cpp", "language"),
    )
    for suffix in suffixes.split()
}
# Nodes that define a function, a class or a type, in all these languages.
_DEFINITIONS = frozenset(
    """abstract_class_declaration annotation_type_declaration class_declaration class_definition
    class_specifier constructor_declaration decorated_definition enum_declaration enum_item enum_specifier
    export_statement
    function_declaration function_definition function_item generator_function_declaration impl_item
    interface_declaration internal_module lexical_declaration macro_definition method_declaration
    method_definition mod_item module namespace_definition record_declaration struct_item struct_specifier
    template_declaration trait_item type_alias_declaration type_declaration type_definition union_item
    union_specifier""".split()
)
# Nodes with definitions inside, and what holds these.
_CONTAINERS = frozenset(
    """abstract_class_declaration class_declaration class_definition class_specifier enum_declaration
    impl_item interface_declaration internal_module mod_item module namespace_definition record_declaration
    struct_specifier trait_item""".split()
)
_WRAPPERS = ("definition", "declaration", "type")
_MAX_DEPTH = 20


@dataclass(frozen=True)
class Definition:
    """A function, a class or a type.

    Attributes:
        name: its name.
        first: its first line, from 0, with the comments directly before it.
        end: the line after it.
        inner: the definitions in it, if it is a class or the like.
    """

    name: str
    first: int
    end: int
    inner: tuple[Definition, ...]


@cache
def _parser(suffix: str) -> Parser | None:
    if suffix not in _GRAMMARS:
        return None
    module, function = _GRAMMARS[suffix]
    try:
        grammar = getattr(importlib.import_module(module), function)()
        return Parser(Language(grammar))
    except (ImportError, ValueError):
        return None  # not installed, or for another version of tree-sitter


def definitions(source: bytes, suffix: str) -> tuple[Definition, ...] | None:
    """The definitions of a source file. None: there is no grammar for its language.

    Args:
        source: the text, in UTF-8.
        suffix: the suffix of its name, in small letters.
    """
    parser = _parser(suffix)
    return None if parser is None else _inside(parser.parse(source).root_node, 0)


def _inside(node: Any, depth: int) -> tuple[Definition, ...]:
    found: list[Definition] = []
    comment: int | None = None
    previous_end = -1
    for child in node.named_children:
        first, end = child.start_point[0], child.end_point[0] + (child.end_point[1] > 0)
        if "comment" in child.type or child.type in ("attribute_item", "decorator"):
            is_next = comment is not None and first <= previous_end
            comment = comment if is_next else first
            previous_end = end
            continue
        if child.type in _DEFINITIONS:
            inner = _unwrapped(child)
            name = _name(inner)
            body = _body(inner) if inner.type in _CONTAINERS and depth < _MAX_DEPTH else None
            start = comment if comment is not None and previous_end >= first else first
            if name:
                members = () if body is None else _inside(body, depth + 1)
                found.append(Definition(name, start, end, members))
        elif child.type in ("preproc_ifdef", "preproc_if", "linkage_specification", "declaration_list"):
            # The guard of a header, extern "C": what is inside stands at this level.
            found += _inside(child, depth + 1) if depth < _MAX_DEPTH else ()
        comment = None
    return tuple(found)


def _unwrapped(node: Any) -> Any:
    """The definition in a decorated, exported or generic one."""
    for _ in range(4):
        inner = None
        if node.type in ("decorated_definition", "export_statement"):
            inner = node.child_by_field_name("definition") or node.child_by_field_name("declaration")
        elif node.type == "template_declaration" and node.named_child_count:
            inner = node.named_children[-1]
        if inner is None:
            return node
        node = inner
    return node


def _body(node: Any) -> Any:
    return node.child_by_field_name("body") or node.child_by_field_name("members")


def _name(node: Any) -> str:
    """The name of a definition. Empty if it has none."""
    named = node.child_by_field_name("name")
    if named is None and node.type == "impl_item":
        named = node.child_by_field_name("type")
    declarator = node.child_by_field_name("declarator")
    for _ in range(_MAX_DEPTH):
        if named is not None or declarator is None:
            break
        inner = declarator.child_by_field_name("declarator") or declarator.child_by_field_name("name")
        if inner is None:
            named = declarator
        declarator = inner
    if named is None:
        # const f = …, type T = …: the name is in the first declarator or specification.
        for child in node.named_children:
            named = child.child_by_field_name("name")
            if named is not None:
                break
    return "" if named is None else " ".join(named.text.decode("utf-8", "replace").split())[:200]
