"""The catalog: transactions, numbers that are never used again, ordering in SQL."""

from __future__ import annotations

import re

import pytest

from mlx_colbert.index.catalog.catalog import Catalog
from mlx_colbert.index.catalog.damage import catalog_problems
from mlx_colbert.index.catalog.documents import PassageContents, StoredPassage
from mlx_colbert.index.catalog.passages import PassageLocation, PassageRow, Passages
from mlx_colbert.index.catalog.schema import create_catalog
from mlx_colbert.index.storage.files import FileRecord
from mlx_colbert.index.storage.records import SegmentRecord


@pytest.fixture
def catalog(tmp_path):
    create_catalog(tmp_path / "index", {"dim": 4, "model": {"source": "here"}})
    made = Catalog(tmp_path / "index")
    yield made
    made.close()


def add_segment(catalog, doc_ids):
    number, _ = catalog.new_segment("exact", n_documents=len(doc_ids), n_tokens=2 * len(doc_ids))
    rows = [PassageRow(doc_id, 2, f"text {doc_id}", '{"n": 1}') for doc_id in doc_ids]
    Passages(catalog).insert(number, rows, first_ordinal=0)
    return number


def test_catalog_remembers_dim_and_model(catalog):
    assert (catalog.settings.dim, catalog.settings.model) == (4, {"source": "here"})


def test_segment_rows_come_back_with_their_files(catalog):
    files = (FileRecord("a.npy", 10, 2**32 - 1), FileRecord("b.npy", 20, 0))
    with catalog.write():
        number = add_segment(catalog, ["x", "y"])
        catalog.insert_files(number, files)

    (record,) = catalog.segments()
    assert record == SegmentRecord(1, record.label, "exact", 2, 4, 0, 0, files)
    assert re.fullmatch("[0-9a-f]{8}/segment-000001", record.label)


def test_transaction_that_raises_changes_nothing(catalog):
    with pytest.raises(RuntimeError), catalog.write():
        add_segment(catalog, ["x"])
        raise RuntimeError

    assert (catalog.segments(), Passages(catalog).locate(["x"])) == ([], {})


def test_number_of_a_dropped_segment_is_not_used_again(catalog):
    with catalog.write():
        first = add_segment(catalog, [])
        catalog.drop_segment(first)
    with catalog.write():
        assert add_segment(catalog, []) == first + 1


def test_deleted_documents_leave_tombstones_and_counts(catalog):
    with catalog.write():
        add_segment(catalog, ["x", "y", "z"])
        Passages(catalog).delete(Passages(catalog).locate(["z", "x"]).values())

    (record,) = catalog.segments()
    assert (record.n_deleted, record.n_deleted_tokens, record.live_tokens) == (2, 4, 2)
    assert (catalog.deleted_ordinals(record), PassageContents(catalog).passage("x")) == ([0, 2], None)
    with catalog.read():
        assert catalog_problems(catalog) == []


def test_moved_documents_keep_order_and_number(catalog):
    with catalog.write():
        add_segment(catalog, ["x", "y", "z"])
        Passages(catalog).delete(Passages(catalog).locate(["x"]).values())
        number = add_segment(catalog, ["w"])
        assert Passages(catalog).move(1, number, first_ordinal=1) == 2

    assert Passages(catalog).locate(["y", "z"]) == {
        "y": PassageLocation(2, 2, 1, 2),
        "z": PassageLocation(3, 2, 2, 2),
    }


def test_top_orders_by_rank_then_doc_id(catalog):
    with catalog.write():
        add_segment(catalog, ["c", "b", "a"])

    rows = PassageContents(catalog).top([(1, 0, 1), (1, 1, 1), (1, 2, 1)], 2)
    best = PassageContents(catalog).top([(1, 0, 0), (1, 1, 1), (1, 2, 1)], 2)

    assert [position for position, _ in rows] == [2, 1]
    assert rows[0][1] == StoredPassage("a", "text a", {"n": 1}, 2)
    assert [passage.doc_id for _, passage in best] == ["c", "a"]


def test_version_changes_when_another_connection_commits(catalog):
    before = catalog.version()
    other = Catalog(catalog.root)
    with other.write():
        add_segment(other, ["x"])
    other.close()

    assert catalog.version() != before
