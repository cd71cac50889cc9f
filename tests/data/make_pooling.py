"""Writes pooling/pylate.npz with PyLate: python make_pooling.py. What is in it: README.md."""

import json
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from pylate.models import ColBERT
from scipy.cluster import hierarchy

TARGET = Path(__file__).parent / "pooling" / "pylate.npz"
LENGTHS = [1, 2, 3, 10, 180, 300]
DIM = 8


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(5)
    texts = [tokens(rng, length) for length in LENGTHS]
    arrays = {"vectors": np.concatenate(texts), "lengths": np.array(LENGTHS)}
    for factor in (2, 3, 4, 8):
        for protected in (0, 1, 2):
            results = [pooled(text, factor, protected) for text in texts]
            rows, sources = zip(*results, strict=True)
            case = f"{factor}-{protected}"
            arrays[f"rows-{case}"] = np.concatenate(rows)
            arrays[f"row_lengths-{case}"] = np.array([len(part) for part in rows])
            arrays[f"sources-{case}"] = np.concatenate(sources).astype(np.uint16)
    arrays |= tied(rng)
    packages = ("pylate", "scipy", "torch", "numpy")
    arrays["versions"] = np.array(json.dumps({name: version(name) for name in packages}))
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **arrays)


def tokens(rng, length):
    """Unit rows around a few topics, all leaning to one side as a text's token embeddings do."""
    topics = rng.standard_normal((length // 8 + 1, DIM))
    rows = topics[rng.integers(len(topics), size=length)] + 0.8 * rng.standard_normal(DIM)
    rows += 0.5 * rng.standard_normal((length, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def pooled(text, factor, protected):
    """Rows that PyLate makes of a text, and for each token the row it went into."""
    labels = []

    def fcluster(*args, **kwargs):
        labels.append(hierarchy.fcluster(*args, **kwargs))
        return labels[-1]

    spy = mock.Mock(linkage=hierarchy.linkage, fcluster=fcluster)
    with mock.patch("pylate.models.colbert.hierarchy", spy):
        [rows] = ColBERT.pool_embeddings_hierarchical(None, [torch.from_numpy(text)], factor, protected)
    sources = np.arange(len(text))
    if labels:
        sources[protected:] = protected + labels[0] - 1
    return rows.numpy(), sources


def tied(rng):
    """Distances full of ties, and scipy's labels for each number of clusters but n."""
    distances = np.triu(rng.integers(0, 5, (12, 16, 16)), 1)
    distances += distances.transpose(0, 2, 1)
    distances[0] = 1 - np.eye(16)  # every pair alike
    above = np.triu_indices(16, 1)
    trees = [hierarchy.linkage(matrix[above].astype(float), "ward") for matrix in distances]
    labels = [[hierarchy.fcluster(tree, k, "maxclust") - 1 for k in range(1, 16)] for tree in trees]
    return {"tied": distances.astype(np.uint8), "tied_labels": np.array(labels, np.uint8)}


if __name__ == "__main__":
    main()
