"""Segments merge as they are added: the answers stay, the segments stay few."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from test_index import DIM, expected_hits, found, whole_rows

from mlx_colbert.index import Index
from mlx_colbert.index.storage.records import SegmentRecord
from mlx_colbert.index.writing import merge_policy

ids = st.sampled_from([f"d{i}" for i in range(25)])


class IndexAgainstDict(RuleBasedStateMachine):
    """Any changes in any order leave the index with what a dict holds."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        # Small classes, so that few documents reach several of them.
        self.smallest, merge_policy.SMALLEST_TOKENS = merge_policy.SMALLEST_TOKENS, 4
        self.index = Index.create(self.folder / "index", DIM, backend="numpy")
        self.documents = {}

    @rule(doc_ids=st.lists(ids, min_size=1, max_size=4, unique=True), seed=st.integers(0, 99))
    def upsert(self, doc_ids, seed):
        rows = [whole_rows(seed + i, 1 + (seed + i) % 4) for i in range(len(doc_ids))]
        texts = [f"{doc_id} {seed}" for doc_id in doc_ids]
        self.index.upsert(doc_ids, rows, texts)
        self.documents |= dict(zip(doc_ids, zip(rows, texts, strict=True), strict=True))

    @rule(doc_ids=st.lists(ids, max_size=6, unique=True))
    def delete(self, doc_ids):
        known = [doc_id for doc_id in doc_ids if doc_id in self.documents]
        self.index.delete(known)
        for doc_id in known:
            del self.documents[doc_id]

    @rule()
    def reopen(self):
        self.index.close()
        self.index = Index.open(self.folder / "index", backend="numpy")

    @rule(seed=st.integers(0, 99), k=st.integers(1, 30))
    def search(self, seed, k):
        query = whole_rows(seed)
        rows = {doc_id: rows for doc_id, (rows, _) in self.documents.items()}
        hits = self.index.search(query, k)
        assert found(hits) == expected_hits(rows, query, k)
        assert [hit.text for hit in hits] == [self.documents[hit.doc_id][1] for hit in hits]

    @invariant()
    def holds_what_the_dict_holds(self):
        assert len(self.index) == len(self.documents)
        assert self.index.info().tokens == sum(len(rows) for rows, _ in self.documents.values())

    def teardown(self):
        assert self.index.verify() == []
        folders = list((self.folder / "index").glob("segment-*"))
        assert len(folders) == self.index.info().segments
        self.index.close()
        merge_policy.SMALLEST_TOKENS = self.smallest
        shutil.rmtree(self.folder)


IndexAgainstDict.TestCase.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
test_index_holds_what_a_dict_holds = pytest.mark.slow(IndexAgainstDict.TestCase)


def record(number, n_tokens):
    return SegmentRecord(number, None, "exact", 1, n_tokens, 0, 0, ())


def merged_numbers(sizes, n_tokens):
    records = [record(number, size) for number, size in enumerate(sizes)]
    return [record.number for record in merge_policy.due_for_merge(records, n_tokens)]


@pytest.mark.parametrize(
    ("sizes", "n_tokens", "merged"),
    [
        ([], 10, []),
        ([10] * 6, 10, []),
        ([10] * 7, 10, list(range(7))),
        ([50_000, *[10] * 7], 10, list(range(1, 8))),
        ([10] * 7, 5000, []),
        # Eight full small ones make one of the next class, which is full then.
        ([20_000] * 7 + [4096] * 7, 4096, list(range(14))),
        ([1 << 22] * 7, 1 << 22, []),
    ],
)
def test_segments_of_one_size_class_merge_when_there_are_eight(sizes, n_tokens, merged):
    assert merged_numbers(sizes, n_tokens) == merged


def test_documents_added_one_by_one_are_in_few_segments_and_seldom_written_again():
    sizes, n_written = [], 0
    for _ in range(20_000):
        merged = merged_numbers(sizes, 30)
        new = 30 + sum(sizes[number] for number in merged)
        sizes = [size for number, size in enumerate(sizes) if number not in merged] + [new]
        n_written += new
        assert len(sizes) <= 7 * 4

    # The smallest class is written again on every seventh add, 4,096 tokens at most; each further class once.
    assert n_written <= 20_000 * (4096 / 7 + 3 * 30)


def test_dead_rows_are_dropped_by_a_merge(tmp_path):
    with Index.create(tmp_path / "index", DIM, backend="numpy") as index:
        index.add(["a", "b"], [whole_rows(0), whole_rows(1)])
        index.delete(["a"])
        for i in range(6):
            index.add([str(i)], [whole_rows(i)])
        assert (index.info().deleted, index.info().segments) == (1, 7)

        index.add(["last"], [whole_rows(9)])

        assert (index.info().deleted, index.info().segments, len(index)) == (0, 1, 8)
        rows = np.load(next(index.path.glob("segment-*/vectors.npy")), max_header_size=16384)
        assert len(rows) == index.info().tokens
