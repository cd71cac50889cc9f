"""Token embeddings in clusters, as a text model makes them: some meanings, each with a spread."""

from __future__ import annotations

import numpy as np


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def meanings(rng, n, dim):
    """The centres (n, D) of n clusters."""
    return unit(rng.standard_normal((n, dim)))


def spread(rng, rows, amount):
    """Unit rows around unit rows; with the amount 1 at an angle of 45° on average."""
    return unit(rows + amount * rng.standard_normal(rows.shape) / np.sqrt(rows.shape[1]))


def clustered_documents(rng, centres, n_documents, n_tokens=12):
    """Documents of n_tokens / 2 to 3/2 n_tokens rows; about 20 documents share the clusters of a topic."""
    topics = rng.integers(0, len(centres), (max(1, n_documents // 20), 24))
    lengths = rng.integers(n_tokens // 2, n_tokens * 3 // 2, n_documents)
    return [spread(rng, centres[rng.choice(topics[rng.integers(len(topics))], n)], 0.5) for n in lengths]


def queries_from(rng, documents, n_queries, n_tokens=6):
    """Queries of n_tokens rows near those of a document."""
    chosen = [documents[i] for i in rng.integers(0, len(documents), n_queries)]
    return [spread(rng, rows[rng.choice(len(rows), n_tokens)], 0.6) for rows in chosen]


def maxsim_by_hand(query, rows):
    """MaxSim of a query (Q, D) with one document (n, D), in float64."""
    return float((query.astype(np.float64) @ rows.astype(np.float64).T).max(axis=1).sum())


def recall(found, expected):
    """How much of the expected hits of all queries was found."""
    shared = [
        len({hit.doc_id for hit in some} & {hit.doc_id for hit in all_of_them}) / len(all_of_them)
        for some, all_of_them in zip(found, expected, strict=True)
    ]
    return sum(shared) / len(shared)
