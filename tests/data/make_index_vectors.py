"""Seeded unit vectors that the programs beside this one give to other engines; numpy alone."""

import json
from pathlib import Path

import numpy as np

INDEXES = Path(__file__).parent / "old-indexes"


def documents(*, n, dim, seed=0):
    """n documents of 20 to 40 tokens around 48 centres, so that most residuals are far from zero."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((48, dim))
    return [
        _unit(centres[random.integers(48, size=n_tokens)] + 0.6 * random.standard_normal((n_tokens, dim)))
        for n_tokens in random.integers(20, 41, size=n)
    ]


def queries(*, dim):
    """3 queries of 8 tokens, (3, 8, D) float32, of few digits."""
    return np.stack([document[:8] for document in documents(n=3, dim=dim, seed=1)]).round(3)


def texts(n):
    return [f"Passage {number} speaks of the number {number * number}." for number in range(n)]


def save_scores(name, *, queries, results, **about):
    """Writes `<name>.json`: what the engine answered, with every document at its exact stage.

    Args:
        queries: (Q, T, D) float32, as `queries` makes them.
        results: for each query, (id, score) of every document.
    """
    wanted = {identity for identity, _ in results[0]}
    assert all({identity for identity, _ in result} == wanted for result in results), "a document is missing"
    ids = sorted(wanted, key=lambda identity: (len(str(identity)), str(identity)))
    scores = [[float(f"{dict(result)[identity]:.8g}") for identity in ids] for result in results]
    content = {
        **about,
        "ids": [str(identity) for identity in ids],
        "scores": scores,
        "queries": [[[float(f"{x:.3f}") for x in token] for token in query] for query in queries],
    }
    (INDEXES / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


def trim(folder):
    """Deletes what only searching and updating need: the inverted lists, raw vectors, locks."""
    for pattern in ("ivf*", "buffer.npy", "embeddings.npy", "plaid.lock"):
        for path in folder.glob(pattern):
            path.unlink()


def _unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
