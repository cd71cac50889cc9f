"""An application of Vespa: a schema with MaxSim as its ranking, and the passages to feed.

Deploy `application`, and feed the files in `feed`. A query gives its token embeddings as `input.query(q)`.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from mlx_colbert.stores.exported import Block, json_line, short_numbers, storable_text
from mlx_colbert.stores.rows import key_of

__all__ = ["PART", "PASSAGES", "fixed_files", "write"]

PASSAGES = 64
PART = "feed/part-{:06}.jsonl"

_SCHEMA = """\
schema passage {
    document passage {
        field doc_id type string {
            indexing: summary | attribute
            attribute: fast-search
        }
        field text type string {
            indexing: summary | index
            index: enable-bm25
        }
        # The JSON object of the passage, as text.
        field metadata type string {
            indexing: summary
        }
        # "key=value" for each value of the metadata, for filters.
        field facets type array<string> {
            indexing: attribute
            attribute: fast-search
        }
        field source type string {
            indexing: summary | attribute
            attribute: fast-search
        }
        # The place in the source: JSON, as text.
        field position type string {
            indexing: summary
        }
        # bfloat16 instead of float needs half of the memory.
        field tokens type tensor<float>(token{}, x[DIM]) {
            indexing: attribute
            attribute: paged
        }
    }
    fieldset default {
        fields: text
    }
    document-summary without-tokens {
        summary doc_id {}
        summary text {}
        summary metadata {}
        summary source {}
        summary position {}
    }
    rank-profile maxsim {
        inputs {
            query(q) tensor<float>(querytoken{}, x[DIM])
        }
        function maxsim() {
            expression: sum(reduce(sum(query(q) * attribute(tokens), x), max, token), querytoken)
        }
        first-phase {
            expression: maxsim
        }
    }
    rank-profile bm25-maxsim inherits maxsim {
        first-phase {
            expression: bm25(text)
        }
        second-phase {
            rerank-count: 200
            expression: maxsim
        }
    }
}
"""
_SERVICES = """\
<?xml version="1.0" encoding="UTF-8"?>
<services version="1.0">
    <container id="default" version="1.0">
        <document-api/>
        <search/>
    </container>
    <content id="passages" version="1.0">
        <min-redundancy>1</min-redundancy>
        <documents>
            <document type="passage" mode="index"/>
        </documents>
        <nodes>
            <node distribution-key="0" hostalias="node1"/>
        </nodes>
    </content>
</services>
"""
_HOSTS = """\
<?xml version="1.0" encoding="UTF-8"?>
<hosts>
    <host name="localhost">
        <alias>node1</alias>
    </host>
</hosts>
"""


def fixed_files(dim: int) -> dict[str, str]:
    """The files of the application."""
    return {
        "application/schemas/passage.sd": _SCHEMA.replace("DIM", str(dim)),
        "application/services.xml": _SERVICES,
        "application/hosts.xml": _HOSTS,
    }


def write(block: Block, file: BinaryIO) -> None:
    """Write a part of the feed."""
    for passage, vectors in block:
        texts = {
            "doc_id": passage.doc_id,
            "text": passage.text,
            "metadata": None if passage.metadata is None else _json(passage.metadata),
            "source": passage.source,
            "position": None if passage.position is None else _json(passage.position),
        }
        fields: dict[str, Any] = {
            name: storable_text(text) for name, text in texts.items() if text is not None
        }
        fields["facets"] = [storable_text(facet) for facet in _facets(passage.metadata or {})]
        rows = short_numbers(vectors)
        fields["tokens"] = {"blocks": {str(i): row for i, row in enumerate(rows)}}
        file.write(json_line({"put": f"id:passages:passage::{key_of(passage.doc_id)}", "fields": fields}))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _facets(metadata: dict[str, Any], prefix: str = "") -> list[str]:
    """The facets of metadata: "key=value", with dots between the keys of nested objects.

    >>> _facets({"lang": "en", "draft": False, "tags": ["a", "b"], "author": {"name": "Ann"}})
    ['lang=en', 'draft=false', 'tags=a', 'tags=b', 'author.name=Ann']
    """
    found = []
    for key, value in metadata.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                found += _facets(item, f"{prefix}{key}.")
            elif isinstance(item, str):
                found.append(f"{prefix}{key}={item}")
            elif item is not None and not isinstance(item, list):
                found.append(f"{prefix}{key}={_json(item)}")
    return found
