"""A small dataset in a folder, and what it needs."""

import json

import pytest

DOCUMENTS = [("c", "Tea", "is steeped."), ("a", "", "Coffee is brewed."), ("b", "Bread", "is baked.")]
QUERIES = {"q1": "how to steep tea", "q2": "brewed coffee", "q3": "nothing", "q4": "baked"}
# q3 is judged irrelevant only, q4 is not judged.
QRELS = "query-id\tcorpus-id\tscore\nq1\tc\t1\nq2\ta\t2\nq2\tb\t0\nq3\ta\t0\n"


@pytest.fixture
def beir(tmp_path):
    """A folder in BEIR's layout."""
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    rows = [json.dumps({"_id": i, "title": title, "text": text}) for i, title, text in DOCUMENTS]
    (folder / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    rows = [json.dumps({"_id": i, "text": text}) for i, text in QUERIES.items()]
    (folder / "queries.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(QRELS, encoding="utf-8")
    return folder
