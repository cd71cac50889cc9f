"""Writes old-indexes/fast-plaid-4 and old-indexes/fast-plaid-2 with fast-plaid itself: python make_fast_plaid_index.py."""

import os
import shutil
from importlib.metadata import version

import numpy as np
import torch
from fast_plaid import search
from make_index_vectors import INDEXES, documents, queries, save_scores, texts, trim

DIM = 16


def main():
    torch.set_num_threads(1)
    single_copy()
    os.environ["FAST_PLAID_KEEP_SHARDS"] = "1"
    shards()


def single_copy():
    """4 bits, metadata and text, three chunks, an update into the buffer, deletions; merged files alone."""
    index = _fresh("fast-plaid-4")
    rows = [
        {"text": text, "year": 1990 + n, "weight": n / 8, "tag": None if n % 3 else f"t{n}"}
        for n, text in enumerate(texts(32))
    ]
    vectors = _tensors(documents(n=32, dim=DIM))
    # start_from_scratch=0, as in an index of more than 1,000 documents: no copy of the raw vectors is kept.
    index.create(vectors[:30], nbits=4, batch_size=12, metadata=rows[:30], start_from_scratch=0)
    index.update(vectors[30:], metadata=rows[30:], start_from_scratch=0)
    index.delete([3, 13, 31])
    _score("fast-plaid-4", index, history="32 documents added, those with texts 3, 13 and 31 deleted")


def shards():
    """2 bits, no metadata, two chunks, each in files of its own beside the merged ones."""
    index = _fresh("fast-plaid-2")
    index.create(_tensors(documents(n=24, dim=DIM, seed=2)), nbits=2, batch_size=15, start_from_scratch=0)
    _score("fast-plaid-2", index, history="24 documents added")


def _fresh(name):
    folder = INDEXES / name
    shutil.rmtree(folder, ignore_errors=True)
    return search.FastPlaid(index=str(folder), device="cpu")


def _score(name, index, **about):
    folder = INDEXES / name
    n_centroids = len(np.load(folder / "centroids.npy"))
    asked = queries(dim=DIM)
    results = index.search(
        torch.from_numpy(asked), top_k=100, n_ivf_probe=n_centroids, n_full_scores=1000, show_progress=False
    )
    engine = f"fast-plaid {version('fast-plaid')}, torch {torch.__version__}"
    save_scores(name, queries=asked, results=results, engine=engine, **about)
    trim(folder)


def _tensors(arrays):
    return [torch.from_numpy(array) for array in arrays]


if __name__ == "__main__":
    main()
