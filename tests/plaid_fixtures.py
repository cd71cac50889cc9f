"""The indexes in tests/data/old-indexes, and what their engines said of them."""

import json
import shutil
from pathlib import Path

import numpy as np

INDEXES = Path(__file__).parent / "data" / "old-indexes"
# Fixtures that hold only what differs from another one.
OVERLAYS = {"colbert-2-removed": "colbert-2", "ragatouille": "colbert-2", "pylate-sqlite": "pylate-stanford"}
NPY = ["fast-plaid-4", "fast-plaid-2", "pylate-fast"]
TORCH = ["colbert-4", "colbert-2", "colbert-2-removed", "pylate-stanford", "pylate-sqlite"]


def copy_fixture(name, folder):
    """A copy of a fixture, which a test may spoil."""
    for part in filter(None, [OVERLAYS.get(name), name]):
        shutil.copytree(INDEXES / part, folder, dirs_exist_ok=True)
    for id_map in folder.glob("*.pkl") if name == "pylate-sqlite" else ():
        id_map.unlink()
    return folder


def reference(name):
    """Ids, (Q, N) scores and (Q, T, D) queries that the engine's own search was asked."""
    name = {"pylate-sqlite": "pylate-stanford"}.get(name, name)
    content = json.loads((INDEXES / f"{name}.json").read_text())
    return content["ids"], np.array(content["scores"]), np.array(content["queries"], np.float32)
