"""ColBERT late-interaction retrieval with MLX on Apple silicon, or with numpy anywhere.

The public names load on first use, so that `import mlx_colbert` costs little more than numpy.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from mlx_colbert import errors
    from mlx_colbert._version import __version__
    from mlx_colbert.ask.conversation import Conversation
    from mlx_colbert.ask.language_models.choice import open_language_model
    from mlx_colbert.index import Filter, Index, SearchParams
    from mlx_colbert.index_import import import_index
    from mlx_colbert.index_merge import merge_index
    from mlx_colbert.model.colbert import ColBERT
    from mlx_colbert.model.scoring import explain, maxsim
    from mlx_colbert.retriever.retriever import Retriever
    from mlx_colbert.types import Hit, Source, TokenEmbeddings, TokenMatch

__all__ = [
    "ColBERT",
    "Conversation",
    "Filter",
    "Hit",
    "Index",
    "Retriever",
    "SearchParams",
    "Source",
    "TokenEmbeddings",
    "TokenMatch",
    "__version__",
    "errors",
    "explain",
    "import_index",
    "maxsim",
    "merge_index",
    "open_language_model",
]

_MODULE_OF = {
    "ColBERT": "mlx_colbert.model.colbert",
    "Conversation": "mlx_colbert.ask.conversation",
    "Filter": "mlx_colbert.index",
    "Hit": "mlx_colbert.types",
    "Index": "mlx_colbert.index",
    "Retriever": "mlx_colbert.retriever.retriever",
    "SearchParams": "mlx_colbert.index",
    "Source": "mlx_colbert.types",
    "TokenEmbeddings": "mlx_colbert.types",
    "TokenMatch": "mlx_colbert.types",
    "__version__": "mlx_colbert._version",
    "explain": "mlx_colbert.model.scoring",
    "import_index": "mlx_colbert.index_import",
    "merge_index": "mlx_colbert.index_merge",
    "maxsim": "mlx_colbert.model.scoring",
    "open_language_model": "mlx_colbert.ask.language_models.choice",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "errors":
        return importlib.import_module("mlx_colbert.errors")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mlx_colbert' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
