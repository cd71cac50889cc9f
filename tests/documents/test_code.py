"""Source code: by function and class, and without a grammar at blank lines."""

import sys

import pytest
from file_kinds import MIXED, mixed, passages

from mlx_colbert.documents.kinds import code


def long(name, n=60):
    return f"    def {name}(self):\n" + "".join(f"        value_{i} = {i}\n" for i in range(n)) + "\n"


def test_small_file_is_one_passage_of_its_lines():
    source = (MIXED / "bees.py").read_text()
    assert mixed("bees.py") == [
        (source.rstrip().replace("\n\n\n", "\n\n"), {"lines": [1, source.count("\n")]})
    ]


def test_methods_of_a_long_class_are_passages_under_its_name():
    pytest.importorskip("tree_sitter")
    found = passages("a.py", "import x\n\n\nclass Hive:\n" + long("open") + long("close"))
    assert [p.position.get("headings") for p in found] == [None, ["Hive", "open"], ["Hive", "close"]] or [
        p.position.get("headings") for p in found
    ] == [None, ["Hive"], ["Hive", "open"], ["Hive", "close"]]
    assert all(p.text.startswith("    def ") for p in found[-2:])


SOURCES = {
    "a.py": ("@x\ndef one():\n    pass\n", "class Two:\n    pass\n"),
    "a.js": (
        "// about\nexport function one() {\n}\n",
        "class Two {\n  three() {\n  }\n}\n",
        "const four = () => {\n};\n",
    ),
    "a.ts": ("interface One {\n  a: string;\n}\n", "export abstract class Two {\n}\n"),
    "a.tsx": ("function One() {\n  return <p>x</p>;\n}\n",),
    "a.go": ("package x\n", "func One() {\n}\n", "type Two struct {\n}\n"),
    "a.rs": ("/// about\n#[test]\nfn one() {\n}\n", "impl Two {\n}\n"),
    "a.java": ("/** about */\nclass One {\n  void two() {\n  }\n}\n",),
    "a.c": ("int *one(int a) {\n  return 0;\n}\n", "struct two {\n  int a;\n};\n"),
    "a.cpp": (
        "template <class T>\nclass One {\n  void two();\n};\n",
        "namespace n {\nint f() { return 1; }\n}\n",
    ),
}
NAMES = {
    "a.py": ["one", "Two"],
    "a.js": ["one", "Two", "four"],
    "a.ts": ["One", "Two"],
    "a.tsx": ["One"],
    "a.go": ["One", "Two"],
    "a.rs": ["one", "Two"],
    "a.java": ["One"],
    "a.c": ["one", "two"],
    "a.cpp": ["One", "n"],
}


@pytest.mark.parametrize("name", SOURCES)
def test_definitions_of_each_language_are_found(name):
    pytest.importorskip("tree_sitter")
    from mlx_colbert.documents.kinds.syntax import definitions

    source = "\n".join(SOURCES[name])
    found = definitions(source.encode(), "." + name.split(".")[1])
    assert [definition.name for definition in found] == NAMES[name]
    starts = {source[: source.index(part)].count("\n") for part in SOURCES[name]}
    assert {definition.first for definition in found} <= starts


@pytest.mark.parametrize("with_grammar", [True, False])
@pytest.mark.parametrize("name", SOURCES)
def test_no_line_of_code_is_lost(name, with_grammar, monkeypatch):
    if not with_grammar:
        monkeypatch.setitem(sys.modules, "mlx_colbert.documents.kinds.syntax", None)
    lines = [
        line for part in SOURCES[name] for line in part.replace("{\n", "{\n" + "  x = 1;\n" * 90).split("\n")
    ]
    found = passages(name, "\n".join(lines))
    kept = [line for p in found for line in p.text.split("\n") if line.strip()]
    assert kept == [line for line in lines if line.strip()]
    for p in found:
        first, last = p.position["lines"]
        assert p.text.split("\n")[0] == lines[first - 1] and p.text.split("\n")[-1] == lines[last - 1]


def test_large_file_is_cut_without_a_grammar(monkeypatch):
    monkeypatch.setattr(code, "_MAX_PARSED", 10)
    found = passages("a.py", "class Hive:\n" + long("open"))
    assert all("headings" not in p.position for p in found)


def test_broken_source_is_read():
    assert passages("a.py", "def (:\n" * 50 + "class class\n\0".replace("\0", ""))
