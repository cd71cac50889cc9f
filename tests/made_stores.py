"""Stores of all engines for a test. Those whose engine is not installed are skipped."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from mlx_colbert.index import Index
from mlx_colbert.store import create_store, open_store

_MODULES = {"index": "sqlite3", "lancedb": "lancedb", "qdrant": "qdrant_client"}


def _param(kind):
    reason = f"{_MODULES[kind]} is not installed: pip install 'mlx-colbert[{kind}]'"
    marks = [pytest.mark.skipif(find_spec(_MODULES[kind]) is None, reason=reason)]
    return pytest.param(kind, marks=marks if kind == "index" else [*marks, pytest.mark.slow])


KINDS = [_param(kind) for kind in _MODULES]
# All but the index.
ENGINES = KINDS[1:]


def location(kind, path):
    return str(path) if kind == "index" else f"{kind}://{path}"


def make(kind, path, dim, **settings):
    return create_store(location(kind, path), dim, backend="numpy", **settings)


def reopen(kind, path):
    return open_store(location(kind, path), backend="numpy")


def problems_of(store):
    """What verify finds. Only an index can be verified."""
    return store.verify() if isinstance(store, Index) else []
