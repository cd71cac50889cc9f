"""Writes index.zip, an index of format 4: make_index.py."""

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from mlx_colbert import Index
from mlx_colbert.types import Source

TEXTS = [
    "the quick brown fox",
    "Ein Übermaß an Öl",
    "東京駅の時刻表",
    "한국어 문서입니다",
    "ＣＰＵ の ﬁle",
    "get_user_id(42)",
    "naïve café\0 after a NUL",
    None,
    "paid\U0001f911 in \u20bd, C++ 1.2.3",
]
NOTES = Source("notes/йод.md", "/home/ann/notes", "sha256:00ff", 1_700_000_000_000_000_000, 123)
PAGE = Source("https://example.org/page")


def unit_rows(rng, n_rows):
    rows = rng.standard_normal((n_rows, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make(path):
    rng = np.random.default_rng(0)
    ids = [f"d{i}" for i in range(38)] + ["ü", "猫 𝄞"]
    texts = [TEXTS[i % len(TEXTS)] for i in range(len(ids))]
    metadata = [{"n": i, "tags": ["a", "ü"][: i % 3]} if i % 5 else None for i in range(len(ids))]
    model = {"source": "fixture", "fingerprint": "4"}
    with Index.create(path, 8, nbits=4, exact_tokens=600, model=model, backend="numpy") as index:
        # 640 rows: they are coded.
        sources = [[None, NOTES, PAGE][i % 3] for i in range(len(ids))]
        positions = [
            [None, {"lines": [i, i + 2], "headings": ["Ä", "b"]}, {"page": i}][i % 3] for i in range(len(ids))
        ]
        rows = [unit_rows(rng, 16) for _ in ids]
        index.add(ids, rows, texts, metadata, sources=sources, positions=positions)
        index.add(
            ["new", "gone", "axes"], [unit_rows(rng, 3), unit_rows(rng, 2), np.eye(8)], ["new", "x", None]
        )
        index.upsert(["ü"], [unit_rows(rng, 4)], ["replaced ü"], [{"n": -1}])
        index.delete(["gone", "d3"])
        index.update_metadata(["d5"], [{"n": 50}])


def pack(path, target):
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                # Without the time of day.
                name = zipfile.ZipInfo(file.relative_to(path).as_posix())
                archive.writestr(name, file.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "index")
        pack(Path(folder) / "index", Path(__file__).with_name("index.zip"))
