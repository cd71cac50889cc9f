"""What `import mlx_colbert` gives and costs, and who imports whom."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import mlx_colbert

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mlx_colbert.__path__, "mlx_colbert.")
    if not module.name.endswith("__main__")
)

# Rank of each part: imports point down only, lazy ones too. The longest prefix of a module's name decides.
LAYERS = [
    {"errors", "_version", "counts", "mlx_fork", "position", "regular_files"},
    {"types", "checks", "json_values", "progress", "places", "stages"},
    {"results"},
    {"untrusted", "own_command"},
    {"kernels", "documents"},
    {"model", "index"},
    {"first_stage"},
    # The reading half of the converter: what a model folder is made from.
    {"convert"},
    {"model.loading"},
    {"model.colbert"},
    # The finishing half: it encodes texts.
    {"convert.projection", "convert.verify", "convert.upload", "convert.conversion"},
    {"stores"},
    {"store"},
    # The measures alone are below: a collection is measured with them too.
    {"retriever", "doctor", "evaluation.measures"},
    {"index_export", "index_import", "index_merge", "collection", "configuration", "daemon"},
    {"ask", "assistants", "evaluation"},
    {"engine"},
    {"server", "mcp", "integrations"},
    {"cli"},
]
# Facades: they import what they export on first use. __main__ starts the command line.
FACADES = {"__init__.py", "__main__.py", "convert/__init__.py", "convert/__main__.py"}
# The files that may import a third party: one for each job.
DOORS = {
    "mlx": {"kernels/mlx_encoder.py", "kernels/mlx_search.py", "model/backbones/mlx_lm.py"},
    "mlx_lm": {"model/backbones/mlx_lm.py", "ask/language_models/mlx_lm.py"},
    "tokenizers": {"model/tokenizer.py", "convert/tokenization.py"},
    "safetensors": {"model/safetensors_file.py"},
    "huggingface_hub": {"model/hub.py", "convert/upload.py"},
    "transformers": {"convert/tokenization.py"},
    "sentence_transformers": {"convert/verify.py"},
    "platformdirs": {"places.py"},
    "watchfiles": {"collection/file_events.py"},
    "pathspec": {"documents/ignore_rules.py"},
    "pypdfium2": {"documents/kinds/pdf_pages.py"},
    "tree_sitter": {"documents/kinds/syntax.py"},
    "bm25s": {"evaluation/words.py"},
    "ir_datasets": {"evaluation/ir_dataset.py"},
    "ir_measures": {"evaluation/measures.py"},
    "matplotlib": {"evaluation/plots.py"},
    "mteb": {"integrations/mteb.py"},
    "langchain_core": {
        "integrations/langchain.py",
        "integrations/ragatouille.py",
        "integrations/ragatouille_langchain.py",
    },
    "llama_index": {"integrations/llama_index.py"},
    "haystack": {"integrations/haystack.py", "integrations/haystack_filter.py"},
    "llm": {"integrations/llm.py"},
    "rerankers": {"integrations/rerankers.py"},
    "torch": {"integrations/sentence_transformers.py"},
    "lancedb": {"stores/lancedb.py"},
    "qdrant_client": {"stores/qdrant.py"},
    "pyarrow": {"stores/lancedb.py", "stores/parquet.py"},
    "mcp": {"mcp/server.py", "mcp/strict_server.py", "mcp/http.py"},
    "uvicorn": {"server/serving.py", "server/connection.py"},
    "h11": {"server/connection.py"},
}
# Third parties that describe what a whole folder does.
ROOMS = {"fastapi": ("server/",), "starlette": ("server/", "mcp/"), "pydantic": ("server/", "mcp/")}


@cache
def sources() -> dict[str, Path]:
    """Path within the installed package -> file."""
    files = {
        str(path.relative_to(ROOT / "mlx_colbert")): path for path in (ROOT / "mlx_colbert").rglob("*.py")
    }
    files |= {
        f"convert/{path.relative_to(ROOT / 'convert')}": path for path in (ROOT / "convert").rglob("*.py")
    }
    return files


@cache
def imported(path: Path) -> set[str]:
    """What a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rank(module: str) -> int:
    """The rank of a module's name without `mlx_colbert.`; names of what it defines may follow."""
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        for number, layer in enumerate(LAYERS):
            if ".".join(parts[:n]) in layer:
                return number
    raise AssertionError(f"{module} has no layer")


def test_public_names_are_sorted_and_present():
    assert mlx_colbert.__all__ == sorted(mlx_colbert.__all__)
    assert all(getattr(mlx_colbert, name) is not None for name in mlx_colbert.__all__)
    assert dir(mlx_colbert) == mlx_colbert.__all__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Colbert'"):
        _ = mlx_colbert.Colbert


@pytest.mark.parametrize("name", sorted(set(sources()) - FACADES))
def test_imports_point_down(name):
    own = rank(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    for target in imported(sources()[name]):
        if target.startswith("mlx_colbert."):
            assert rank(target.removeprefix("mlx_colbert.")) <= own, f"{name} imports {target}"


def test_no_module_imports_itself_through_others():
    """Lazy imports count as well; facades and packages that only re-export do not."""
    modules = {
        "mlx_colbert." + name.removesuffix(".py").replace("/", "."): path
        for name, path in sources().items()
        if not name.endswith(("__init__.py", "__main__.py"))
    }
    edges: dict[str, set[str]] = {}
    for module, path in modules.items():
        targets = imported(path)
        edges[module] = {
            name for name in modules for target in targets if target == name or target.startswith(f"{name}.")
        }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"circle: {' -> '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for target in sorted(edges[module]):
                visit(target, (*way, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())


@pytest.mark.parametrize(("name", "other"), [("model", "index"), ("index", "model"), ("convert", "index")])
def test_model_and_index_never_meet_below_the_retriever(name, other):
    parts = [path for path in sources() if path == f"{name}.py" or path.startswith(f"{name}/")]
    targets = [target for path in parts for target in imported(sources()[path])]
    assert targets
    assert not [target for target in targets if target.startswith(f"mlx_colbert.{other}")]


@pytest.mark.parametrize("name", sorted(sources()))
def test_each_third_party_has_one_door(name):
    for target in imported(sources()[name]):
        party = target.split(".")[0]
        assert party not in DOORS or name in DOORS[party], f"{name} imports {target}"
        assert name.startswith(ROOMS.get(party, "")), f"{name} imports {target}"


def test_import_loads_nothing_heavy():
    heavy = "mlx.core mlx_lm tokenizers transformers huggingface_hub safetensors sqlite3 tqdm".split()
    heavy += "fastapi pydantic uvicorn pypdfium2 tree_sitter email zipfile xml.parsers.expat".split()
    code = f"import mlx_colbert, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_search_needs_neither_transformers_nor_the_hub(data):
    code = (
        "import sys; from mlx_colbert import ColBERT, Index, Retriever;"
        "ColBERT.load(sys.argv[1], backend='numpy').encode_query('why?');"
        "print([m for m in ('mlx.core', 'transformers', 'huggingface_hub', 'tqdm') if m in sys.modules])"
    )
    folder = data / "checkpoints" / "pylate-bert"
    mlx_colbert.ColBERT.load(folder, backend="numpy")  # converts into the cache
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name, monkeypatch):
    if "mlx_" in name.removeprefix("mlx_colbert"):
        pytest.importorskip("mlx.core")
    parties = {
        "mlx_lm": "mlx_lm",
        "pdf_pages": "pypdfium2",
        "syntax": "tree_sitter",
        "ragatouille_langchain": "langchain_core",
        "rerankers": "rerankers",
        "sentence_transformers": "torch",
        "integrations.langchain": "langchain_core",
        "integrations.llama_index": "llama_index.core",
        "haystack": "haystack",
        "haystack_filter": "haystack",
        "integrations.llm": "llm",
        "integrations.mteb": "mteb",
        "experiment": "ir_measures",
    }
    for module, party in parties.items():
        if name.endswith(f".{module}"):
            pytest.importorskip(party)
    for part, party in (("server", "fastapi"), ("mcp", "mcp")):
        if name.startswith(f"mlx_colbert.{part}."):
            pytest.importorskip(party)
    monkeypatch.chdir(ROOT)
    assert doctest.testmod(importlib.import_module(name)).failed == 0
