"""What `import mlx_colbert` gives and costs, and who imports whom."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_colbert

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mlx_colbert.__path__, "mlx_colbert.")
    if not module.name.endswith("__main__")
)

# Rank of each part: top-level imports point down only.
LAYERS = [
    {"errors", "types", "_version"},
    {"decoder"},
    {"config", "tensors", "quantization", "passage"},
    {"backends"},
    {"scoring", "pooling", "fusion", "encoder", "tokenizer", "batching"},
    {"checkpoint", "index"},
    {"location"},
    {"model"},
    {"identity", "retriever", "indexing", "ingestion", "doctor"},
    {"convert"},
    {"importing"},
    {"cli", "__main__"},
]
# The files that may import a third party: one for each job.
DOORS = {
    "mlx": {"backends/mlx_ops.py", "backends/mlx_decoder.py"},
    "mlx_lm": {"backends/mlx_decoder.py"},
    "tokenizers": {"tokenizer.py", "convert/tokenization.py"},
    "safetensors": {"tensors.py"},
    "huggingface_hub": {"location.py", "convert/upload.py"},
    "transformers": {"convert/tokenization.py"},
    "sentence_transformers": {"convert/verify.py"},
    "torch": set(),
}


def sources() -> dict[str, Path]:
    """Path within the installed package -> file."""
    files = {
        str(path.relative_to(ROOT / "mlx_colbert")): path for path in (ROOT / "mlx_colbert").rglob("*.py")
    }
    files |= {f"convert/{path.name}": path for path in (ROOT / "convert").glob("*.py")}
    return files


def imported(tree: ast.AST, *, everywhere: bool) -> set[str]:
    nodes = ast.walk(tree) if everywhere else ast.iter_child_nodes(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rank(part: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


def test_public_names_are_sorted_and_present():
    assert mlx_colbert.__all__ == sorted(mlx_colbert.__all__)
    assert all(getattr(mlx_colbert, name) is not None for name in mlx_colbert.__all__)
    assert dir(mlx_colbert) == mlx_colbert.__all__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Colbert'"):
        _ = mlx_colbert.Colbert


@pytest.mark.parametrize("name", sorted(sources()))
def test_top_level_imports_point_down(name):
    part = "__main__" if name.endswith("__main__.py") else name.split("/")[0].removesuffix(".py")
    own = len(LAYERS) if part == "__init__" else rank(part)
    for target in imported(ast.parse(sources()[name].read_text()), everywhere=False):
        if target.startswith("mlx_colbert."):
            assert rank(target.split(".")[1]) <= own, f"{name} imports {target}"


@pytest.mark.parametrize(("name", "other"), [("model", "index"), ("index", "model"), ("convert", "index")])
def test_model_and_index_never_meet_below_the_retriever(name, other):
    parts = [path for path in sources() if path == f"{name}.py" or path.startswith(f"{name}/")]
    trees = [ast.parse(sources()[path].read_text()) for path in parts]
    targets = [target for tree in trees for target in imported(tree, everywhere=True)]
    assert targets
    assert not [target for target in targets if target.startswith(f"mlx_colbert.{other}")]


def test_only_load_reaches_up_from_the_model_to_the_converter():
    """ColBERT.load converts what is not converted yet; the converter encodes texts. Both imports are lazy."""
    tree = ast.parse(sources()["model.py"].read_text())
    upwards = {
        target for target in imported(tree, everywhere=True) if target.startswith("mlx_colbert.convert")
    }
    assert upwards == {"mlx_colbert.convert.conversion.convert_to_cache"}


@pytest.mark.parametrize("name", sorted(sources()))
def test_each_third_party_has_one_door(name):
    for target in imported(ast.parse(sources()[name].read_text()), everywhere=True):
        party = target.split(".")[0]
        assert party not in DOORS or name in DOORS[party], f"{name} imports {target}"


def test_import_loads_nothing_heavy():
    heavy = "mlx.core mlx_lm tokenizers transformers huggingface_hub safetensors sqlite3 tqdm".split()
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
    if name.endswith("mlx_decoder"):
        pytest.importorskip("mlx_lm")
    monkeypatch.chdir(ROOT)
    assert doctest.testmod(importlib.import_module(name)).failed == 0
