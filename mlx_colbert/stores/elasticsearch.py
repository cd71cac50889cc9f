"""An index of Elasticsearch: a mapping with `rank_vectors`, passages for the bulk API, and a query.

`rank_vectors` is in Elasticsearch 8.18 and newer. It compares a query with the passages that a first query
selects, so it needs no index of the vectors.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from mlx_colbert.stores.exported import Block, json_line, short_numbers
from mlx_colbert.stores.rows import key_of

__all__ = ["PART", "PASSAGES", "fixed_files", "write"]

# The bulk API refuses a request of more than 100 MB: 64 passages of 1,000 tokens of 128 components are 65 MB.
PASSAGES = 64
PART = "bulk/part-{:06}.ndjson"


def fixed_files(dim: int) -> dict[str, str]:
    """The mapping, and a query with places for its words and its token embeddings."""
    mapping = {
        "mappings": {
            "dynamic": "strict",
            "properties": {
                "doc_id": {"type": "keyword", "ignore_above": 8191},
                "text": {"type": "text"},
                # Each value of the metadata as a keyword: metadata.lang.
                "metadata": {"type": "flattened", "ignore_above": 8191},
                "source": {"type": "keyword", "ignore_above": 8191},
                "position": {"type": "object", "enabled": False},
                "tokens": {"type": "rank_vectors", "element_type": "float", "dims": dim},
            },
        }
    }
    query = {
        "size": 10,
        "_source": {"excludes": ["tokens"]},
        "query": {"match": {"text": "WORDS"}},
        "rescore": {
            "window_size": 200,
            "query": {
                "score_mode": "total",
                "query_weight": 0,
                "rescore_query_weight": 1,
                "rescore_query": {
                    "script_score": {
                        "query": {"match_all": {}},
                        "script": {
                            # A score must not be negative. MaxSim is -Q or more.
                            "source": "maxSimDotProduct(params.query, 'tokens') + params.query.size()",
                            "params": {"query": "TOKEN EMBEDDINGS: a list of Q lists"},
                        },
                    }
                },
            },
        },
    }
    return {
        name: json.dumps(value, indent=2) + "\n"
        for name, value in {"mapping.json": mapping, "query.json": query}.items()
    }


def write(block: Block, file: BinaryIO) -> None:
    """Write a part for the bulk API: two lines for each passage."""
    for passage, vectors in block:
        values: dict[str, Any] = {
            "doc_id": passage.doc_id,
            "text": passage.text,
            "metadata": passage.metadata,
            "source": passage.source,
            "position": passage.position,
            "tokens": short_numbers(vectors),
        }
        file.write(json_line({"index": {"_id": key_of(passage.doc_id)}}))
        file.write(json_line({name: value for name, value in values.items() if value is not None}))
