"""How published figures of BEIR were made: the lengths of queries and documents for each dataset."""

from __future__ import annotations

import re

__all__ = ["published_lengths"]

# PyLate's examples/evaluation/beir_dataset.py.
_DOCUMENT_LENGTH = 300
_QUERY_LENGTHS = {
    32: "quora nq msmarco hotpotqa nfcorpus fiqa dbpedia touche fever cqadupstack",
    48: "scifact treccovid scidocs",
    64: "arguana climatefever",
}
_LENGTH_OF = {name: length for length, names in _QUERY_LENGTHS.items() for name in names.split()}


def published_lengths(dataset: str) -> dict[str, int] | None:
    """The arguments of `ColBERT.load` with which the figures of a dataset of BEIR were published.

    Args:
        dataset: its name, also with a prefix or a suffix: "webis-touche2020", "beir/scifact/test".

    Returns:
        query_length and document_length. None: this is no dataset of BEIR that has them.

    >>> published_lengths("trec-covid")
    {'query_length': 48, 'document_length': 300}
    """
    words = re.findall(r"[a-z]+", dataset.lower())
    runs = {
        "".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, len(words) + 1)
    }
    # The longest name that is in it: "climatefever" before "fever".
    found = runs & _LENGTH_OF.keys()
    if not found:
        return None
    return {"query_length": _LENGTH_OF[max(found, key=len)], "document_length": _DOCUMENT_LENGTH}
