"""An index that lives: compaction, bulk loading, changes by filter, a collection that drifts, and what each costs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from clusters import clustered_documents, meanings, queries_from, recall, unit
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mlx_colbert.errors import DuplicateIdError, InputError, ShapeError, UnknownIdError
from mlx_colbert.index import Index, SearchParams
from mlx_colbert.index.storage import codec
from mlx_colbert.index.storage.codec import n_centroids_for
from mlx_colbert.index.writing import merge_policy, writer

DIM = 32
EXACTLY = SearchParams(exact=True)


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    rows = clustered_documents(rng, meanings(rng, 40, DIM), 400)
    return {f"d{i:03}": part for i, part in enumerate(rows)}


@pytest.fixture(scope="module")
def queries(documents):
    return queries_from(np.random.default_rng(1), list(documents.values()), 20)


@pytest.fixture(scope="module")
def folder(documents, tmp_path_factory):
    """A compressed index of 400 documents in one segment."""
    path = tmp_path_factory.mktemp("living") / "index"
    with Index.create(path, DIM, exact_tokens=0, backend="numpy") as index:
        texts, metadata = [f"text {doc_id}" for doc_id in documents], [{"n": n} for n in range(400)]
        index.add(documents, documents.values(), texts, metadata)
    return path


@pytest.fixture
def index(folder, tmp_path, backend):
    with Index.open(shutil.copytree(folder, tmp_path / "index"), backend=backend) as opened:
        yield opened


def ids_of(hits):
    return [hit.doc_id for hit in hits]


def array_files(index):
    """The files of segments and codecs: no two writes give one the same inode and time."""
    paths = [path for path in index.path.rglob("*") if path.is_file() and path.parent != index.path]
    stats = {path: path.stat() for path in paths}
    return {(str(path), stat.st_ino, stat.st_mtime_ns): stat.st_size for path, stat in stats.items()}


def new_bytes(index, before):
    return sum(size for file, size in array_files(index).items() if file not in before)


def log_bytes(index):
    return sum(path.stat().st_size for path in index.path.glob("catalog.db*") if path.suffix != ".db-shm")


# Compaction


def test_compaction_leaves_few_segments_and_no_deleted_rows(index, documents):
    for i in range(5):
        index.add([f"new {i}"], [documents[f"d{i:03}"]], [f"new text {i}"])
    index.delete([f"d{i:03}" for i in range(0, 400, 2)])
    assert (index.info().segments, index.info().deleted) == (6, 200)

    index.compact()

    info = index.info()
    assert (info.segments, info.deleted, info.passages, info.compressed_passages) == (1, 0, 205, 205)
    (lengths,) = (np.load(path) for path in index.path.glob("segment-*/doc_lengths.npy"))
    assert (len(lengths), lengths.sum()) == (205, info.tokens)
    assert (index.get("new 3").text, index.verify()) == ("new text 3", [])
    assert len(list(index.path.glob("segment-*"))) == len(list(index.path.glob("codec-*"))) == 1


def test_compaction_without_training_keeps_codec_and_answers(index, queries):
    index.delete([f"d{i:03}" for i in range(0, 400, 3)])
    before = index.search(queries, params=EXACTLY)
    codecs = {path.name for path in index.path.glob("codec-*")}

    index.compact()

    assert {path.name for path in index.path.glob("codec-*")} == codecs
    after = index.search(queries, params=EXACTLY)
    # Scales and gains are rounded anew to 255 steps of what is left: by less than a hundredth of a score of 6.
    for hits, again in zip(before, after, strict=True):
        assert [hit.score for hit in again] == pytest.approx([hit.score for hit in hits], abs=0.05)
    assert recall(after, before) >= 0.97


def test_compacting_again_and_again_loses_nothing(index, queries, documents):
    start = index.search(queries, params=EXACTLY)
    for i in range(6):
        index.add([f"new {i}"], [documents["d000"]])
        index.delete([f"new {i}"] + [f"d39{i}"] * (i > 4))
        index.compact()

    again = index.search(queries, params=EXACTLY)

    assert recall(again, start) >= 0.97


def test_compaction_of_what_is_compact_writes_nothing(index):
    before, log = array_files(index), log_bytes(index)

    index.compact()
    index.compact()

    assert array_files(index) == before
    assert log_bytes(index) - log <= 16_384


def test_compaction_of_an_empty_index_is_nothing(tmp_path, backend):
    for exact_tokens in (0, 1000, None):
        with Index.create(
            tmp_path / str(exact_tokens), DIM, exact_tokens=exact_tokens, backend=backend
        ) as empty:
            empty.compact()
            empty.compact(retrain=True)
            assert (len(empty), empty.info().segments, array_files(empty)) == (0, 0, {})


def test_index_whose_documents_were_all_deleted_starts_again(index, documents):
    index.delete(filter="n >= 0")
    index.compact(retrain=True)
    assert (len(index), index.info().segments, index.search(np.eye(DIM))) == (0, 0, [])

    index.add(["again"], [documents["d007"]])

    assert ids_of(index.search(documents["d007"])) == ["again"]
    assert index.verify() == []


def test_small_exact_index_is_compacted_exactly(tmp_path, documents, backend):
    with Index.create(tmp_path / "index", DIM, backend=backend) as exact:
        for doc_id in list(documents)[:5]:
            exact.add([doc_id], [documents[doc_id]])
        exact.delete(["d002"])
        before = exact.search(documents["d001"])

        exact.compact()

        assert (exact.info().segments, exact.info().deleted, exact.info().n_centroids) == (1, 0, 0)
        assert exact.search(documents["d001"]) == before


@pytest.mark.slow
def test_retraining_fits_the_centroids_to_what_is_there_now(index, documents):
    rng = np.random.default_rng(9)
    n_before = index.info().n_centroids
    index.delete([f"d{i:03}" for i in range(300)])
    rows = clustered_documents(rng, meanings(rng, 10, DIM), 100)
    index.add([f"other {i}" for i in range(100)], rows)

    index.compact(retrain=True)

    info = index.info()
    assert info.n_centroids == n_centroids_for(info.tokens) < n_before
    assert (info.segments, info.deleted, len(index), index.verify()) == (1, 0, 200, [])
    kept = {f"d{i:03}": documents[f"d{i:03}"] for i in range(300, 400)}
    kept |= {f"other {i}": part for i, part in enumerate(rows)}
    found = [index.search(part, 1)[0].doc_id for part in kept.values()]
    assert np.mean([a == b for a, b in zip(found, kept, strict=True)]) >= 0.97
    assert index.get("d300").metadata == {"n": 300}


@pytest.mark.slow
def test_index_that_has_grown_fourfold_gets_more_centroids_by_compaction(index, documents):
    n_centroids = index.info().n_centroids
    for turn in range(3):
        # The same rows again, so that there are no outliers.
        index.add([f"{turn} {doc_id}" for doc_id in documents], documents.values())
        (codec_before,) = index.path.glob("codec-*")
        index.compact()
        changed = not codec_before.exists()
        assert changed == (n_centroids_for(index.info().tokens) >= 4 * n_centroids)

    assert changed
    assert index.info().n_centroids == n_centroids_for(index.info().tokens)
    assert index.verify() == []


def test_exact_index_that_was_outgrown_in_bulk_is_compressed_by_compaction(tmp_path, documents, backend):
    with Index.create(tmp_path / "index", DIM, exact_tokens=1000, backend=backend) as index:
        with index.bulk():
            index.add(documents, documents.values())
            assert (index.info().n_centroids, index.info().compressed_passages) == (0, 0)

        assert index.info().compressed_passages == 400


@pytest.mark.slow
@pytest.mark.parametrize("component", [0, 1e-4, 0.5, 65_504])
def test_rows_of_any_length_survive_retraining(index, component):
    signs = np.where(np.random.default_rng(0).random((20, 5, DIM)) < 0.5, -1, 1)
    index.add([f"long {i}" for i in range(20)], component * signs)

    index.compact(retrain=True)
    index.compact(retrain=True)

    (hit,) = index.search(signs[2][:2], doc_ids=["long 2"])
    # 4 bits, three times.
    assert hit.score == pytest.approx(2 * DIM * component, rel=0.06)
    assert np.isfinite([hit.score for hit in index.search(np.eye(DIM), 500)]).all()
    assert index.verify() == []


def test_reader_follows_a_new_codec(index, documents):
    with Index.open(index.path, backend="numpy") as reader:
        assert ids_of(reader.search(documents["d007"], 1)) == ["d007"]

        index.compact(retrain=True)
        index.add(["new"], [documents["d008"]])
        index.delete(["d008"])

        assert ids_of(reader.search(documents["d007"], 1)) == ["d007"]
        assert ids_of(reader.search(documents["d008"], 1)) == ["new"]
        assert reader.info() == index.info()


@pytest.mark.parametrize("memory_bytes", [0, -1, (1 << 20) - 1, 1e9, True, "1 GB", None])
def test_unusable_memory_bound_is_refused(index, memory_bytes):
    with pytest.raises(InputError, match="memory_bytes is"):
        index.compact(memory_bytes=memory_bytes)


def test_memory_bound_limits_the_sample(index, monkeypatch):
    sizes = []
    monkeypatch.setattr("mlx_colbert.index.writing.merge.SAMPLE_PER_CENTROID", 10**6)
    monkeypatch.setattr(
        "mlx_colbert.index.writing.merge.train_codec",
        lambda ops, sample, **rest: (sizes.append(len(sample)), codec.train_codec(ops, sample, **rest))[1],
    )

    for rows in (500, 10**6):
        # Past the bound of 1 MiB below which `compact` takes none.
        index._open.writer().compact(retrain=True, memory_bytes=rows * 6 * DIM)

    assert sizes == [pytest.approx(500, rel=0.2), index.info().tokens]


# Bulk


def test_bulk_documents_are_durable_at_once_and_compressed_once_at_the_end(
    tmp_path, documents, queries, backend
):
    ids = list(documents)
    with Index.create(tmp_path / "index", DIM, exact_tokens=100, backend=backend) as index:
        with index.bulk():
            for part in (ids[:100], ids[100:110], ids[110:]):
                index.add(part, [documents[doc_id] for doc_id in part])
                with Index.open(index.path, backend="numpy") as other:
                    assert len(other) == len(index) == ids.index(part[-1]) + 1
                    assert ids_of(other.search(documents[part[-1]], 1)) == part[-1:]
            assert (index.info().segments, index.info().compressed_passages) == (3, 0)
            assert not list(index.path.glob("codec-*"))

        assert (index.info().segments, index.info().compressed_passages) == (1, 400)
        assert [path.name for path in index.path.glob("codec-*")] == ["codec-000001"]
        assert index.info().n_centroids == n_centroids_for(index.info().tokens)
        assert index.verify() == []


def test_exception_in_bulk_keeps_what_was_added_and_the_index_goes_on(index, documents):
    with pytest.raises(ZeroDivisionError), index.bulk():
        index.add(["new"], [documents["d000"]], ["new text"])
        raise ZeroDivisionError

    assert (len(index), index.get("new").text, index.verify()) == (401, "new text", [])
    # Not in bulk any more: this is compressed at once.
    index.add([f"many {i}" for i in range(600)], [documents["d001"]] * 600)
    assert index.info().compressed_passages == 1000


def test_refused_add_in_bulk_refuses_only_itself(index, documents):
    with index.bulk():
        index.add(["new"], [documents["d000"]])
        with pytest.raises(DuplicateIdError):
            index.add(["new"], [documents["d000"]])
        with pytest.raises(ShapeError):
            index.add(["narrow"], [np.ones((1, DIM + 1))])

    assert (len(index), index.info().segments, index.info().compressed_passages) == (401, 2, 400)


def test_upserts_and_deletes_work_in_bulk(index, documents):
    with index.bulk():
        index.upsert(["d000", "new"], [documents["d001"]] * 2, ["replaced", "added"])
        assert index.delete(["d002"]) == 1
        assert ids_of(index.search(documents["d001"], 3)).count("d000") == 1

    assert (len(index), index.get("d000").text, index.info().deleted) == (400, "replaced", 2)


def cut_short(index, documents, n_parts, part):
    """Bulk that adds documents in parts, and is not compacted at its end."""
    with pytest.raises(ZeroDivisionError), index.bulk():
        for number in range(n_parts):
            rows = list(documents.values())[number * part : (number + 1) * part]
            index.add([f"bulk {number} {i}" for i in range(part)], rows)
        raise ZeroDivisionError


def test_next_bulk_finishes_one_that_was_cut_short(index, documents, tmp_path, backend, monkeypatch):
    cut_short(index, documents, 1, 400)
    monkeypatch.setattr(merge_policy, "SMALLEST_TOKENS", 1000)
    with index.bulk():
        pass
    # The compressed segment that was there stays as it is.
    assert (index.info().segments, index.info().compressed_passages) == (2, 800)

    with Index.create(tmp_path / "new", DIM, exact_tokens=100, backend=backend) as new:
        cut_short(new, documents, 2, 100)
        with new.bulk():
            pass
        assert (new.info().segments, new.info().compressed_passages) == (1, 200)

    with Index.create(tmp_path / "exact", DIM, exact_tokens=None, backend=backend) as exact:
        cut_short(exact, documents, 8, 10)
        with exact.bulk():
            pass
        assert (exact.info().segments, len(exact)) == (1, 80)


def test_bulk_that_changes_little_does_not_write_the_rest_again(index, documents):
    (large,) = index.path.glob("segment-*")
    for i in range(8):
        with index.bulk():
            index.upsert([f"d00{i}"], [documents["d020"]])
        assert large.exists()
    # The small segments were merged when there were eight of them.
    assert (index.info().segments, index.info().deleted, index.verify()) == (2, 8, [])

    with index.bulk():
        index.upsert(list(documents)[:100], [documents["d020"]] * 100)
    assert (index.info().segments, index.info().deleted) == (1, 0)


def test_compaction_and_the_end_of_a_bulk_tell_how_far_they_are(tmp_path, documents, backend):
    told = []

    def progress(stage, n_done, n_tokens):
        told.append((stage, n_done, n_tokens))

    with Index.create(tmp_path / "index", DIM, exact_tokens=100, backend=backend) as index:
        with index.bulk(progress=progress), index.bulk():
            index.add(list(documents), list(documents.values()))
            assert told == []
        n_tokens = index.info().tokens
        assert told[0] == ("training", 0, n_tokens) and ("training", n_tokens, n_tokens) in told
        assert told[-1] == ("writing", n_tokens, n_tokens)
        assert told == sorted(told)

        told.clear()
        index.delete(["d000"])
        index.compact(progress=progress)
        assert told[-1] == ("writing", index.info().tokens, index.info().tokens)


def test_bulk_that_adds_nothing_to_a_finished_index_reads_none_of_it(index, monkeypatch):
    monkeypatch.setattr(writer.Writer, "_change", lambda *_, **__: pytest.fail("writes"))
    with index.bulk():
        index.search(np.eye(DIM), 1)


# Metadata and deletion by filter


def test_updated_metadata_is_returned_and_filtered_by(index, documents):
    index.update_metadata(["d000", "d001", "d002"], [{"n": -1, "new": True}, None, {}])

    assert [index.get(f"d00{i}").metadata for i in range(4)] == [{"n": -1, "new": True}, None, {}, {"n": 3}]
    assert ids_of(index.search(documents["d000"], filter="n = -1")) == ["d000"]
    assert index.search(documents["d000"], filter="n in (0, 1, 2)") == []
    assert (index.get("d000").text, len(index), index.verify()) == ("text d000", 400, [])
    assert ids_of(index.search_keywords("d000")) == ["d000"]


@pytest.mark.parametrize(
    ("error", "ids", "metadata"),
    [
        (UnknownIdError, ["d000", "?"], [{"n": -1}, {}]),
        (ShapeError, ["d000"], []),
        (ShapeError, ["d000"], [{"n": -1}, {}]),
        (InputError, ["d000"], [["list"]]),
        (InputError, ["d000", "d001"], [{"n": -1}, {"a": float("nan")}]),
        (InputError, "d000", [{"n": -1}]),
    ],
)
def test_refused_metadata_changes_nothing(index, error, ids, metadata):
    with pytest.raises(error):
        index.update_metadata(ids, metadata)

    assert index.get("d000").metadata == {"n": 0}


def test_metadata_of_nothing_is_nothing(index):
    index.update_metadata([], [])

    assert index.get("d000").metadata == {"n": 0}


@pytest.mark.parametrize(
    ("condition", "n_gone"), [("n < 7", 7), ("n >= 0", 400), ("n > 999", 0), ("not n > 5", 6)]
)
def test_documents_are_deleted_by_a_filter(index, condition, n_gone):
    assert index.delete(filter=condition) == n_gone

    assert (len(index), index.search(np.eye(DIM), filter=condition)) == (400 - n_gone, [])
    assert index.verify() == []


@pytest.mark.parametrize("arguments", [{}, {"doc_ids": ["d000"], "filter": "n = 0"}, {"doc_ids": None}])
def test_delete_takes_ids_or_a_filter(index, arguments):
    with pytest.raises(InputError, match="doc_ids, a filter or a source"):
        index.delete(**arguments)

    assert len(index) == 400


# What a change costs


def test_adding_a_document_writes_that_document(index, documents):
    before, log = array_files(index), log_bytes(index)

    index.add(["one"], [documents["d000"]], ["one text"], [{"n": 1}])

    # Two headers of 128 and 16,384 bytes, the rows as float16, a length.
    assert new_bytes(index, before) == 128 + 4 + 16_384 + documents["d000"].size * 2
    assert set(before) <= set(array_files(index))
    assert log_bytes(index) - log < 100_000


def test_deleting_and_changing_metadata_writes_no_rows(index):
    before, log = array_files(index), log_bytes(index)

    index.delete(["d000"])
    index.delete(filter="n = 17")
    index.update_metadata(["d001"], [{"n": 2}])

    assert array_files(index) == before
    assert log_bytes(index) - log < 250_000


def test_adding_documents_one_by_one_writes_each_few_times(tmp_path, documents, monkeypatch):
    monkeypatch.setattr(merge_policy, "SMALLEST_TOKENS", 32)
    ids = list(documents)[:100]
    with Index.create(tmp_path / "index", DIM, exact_tokens=300, backend="numpy") as index:
        n_rows, seen = 0, set()
        for doc_id in ids:
            index.add([doc_id], [documents[doc_id]])
            written = {path for path in index.path.glob("segment-*/doc_lengths.npy")} - seen
            n_rows += sum(int(np.load(path).sum()) for path in written)
            seen |= written

        n_tokens = index.info().tokens
        # Three classes, 32, 256 and 2,048 tokens: each row is written once per class, once as it comes, and
        # once where the index was compressed.
        assert n_rows <= 5 * n_tokens
        assert (index.info().compressed_passages > 50, index.info().segments <= 7 * 3) == (True, True)
        assert index.verify() == []


def test_compressed_rows_take_the_bytes_that_their_bits_say(index):
    info = index.info()
    sizes = {path.name: path.stat().st_size for path in index.path.glob("segment-*/*.npy")}

    assert sizes["residuals.npy"] == 16_384 + info.tokens * DIM * 4 // 8
    assert sizes["codes.npy"] == sizes["scales.npy"] == sizes["gains.npy"] == 16_384 + info.tokens


# Drift


@pytest.mark.slow
def test_recall_survives_the_replacement_of_the_collection(tmp_path):
    rng = np.random.default_rng(0)
    centres = meanings(rng, 60, DIM)

    def some(n, name):
        return dict(zip([f"{name}-{i}" for i in range(n)], clustered_documents(rng, centres, n), strict=True))

    documents = some(1200, "first")
    with Index.create(tmp_path / "index", DIM, exact_tokens=0, backend="numpy") as index:
        index.add(documents, documents.values())
        n_centroids = [index.info().n_centroids]
        for turn in range(10):
            # A third of the clusters is new each time: after ten turns next to none of the first is left.
            moved = rng.permutation(60)[:20]
            centres[moved] = meanings(rng, 20, DIM)
            gone = [str(doc_id) for doc_id in rng.permutation(list(documents))[:600]]
            index.delete(gone)
            new = some(600, turn)
            index.add(new, new.values())
            documents = {
                doc_id: rows for doc_id, rows in (documents | new).items() if doc_id not in set(gone)
            }
            n_centroids.append(index.info().n_centroids)
        queries = queries_from(rng, list(documents.values()), 60)
        found = index.search(queries)
    with (
        Index.create(tmp_path / "exact", DIM, exact_tokens=None, backend="numpy") as exact,
        Index.create(tmp_path / "fresh", DIM, exact_tokens=0, backend="numpy") as fresh,
    ):
        for built in (exact, fresh):
            built.add(documents, documents.values())
        expected, freshly_found = exact.search(queries), fresh.search(queries)

    assert recall(found, expected) >= recall(freshly_found, expected) - 0.01
    # Each turn brought outliers, and centroids for them.
    assert all(np.diff(n_centroids) > 0)


# Any changes in any order


ids = st.sampled_from([f"d{i}" for i in range(20)])


def rows_of(doc_id, seed):
    """Unit rows that no other document or seed has."""
    rng = np.random.default_rng([int(doc_id[1:]), seed])
    return unit(rng.standard_normal((1 + seed % 5, 16)))


class CompressedIndexAgainstDict(RuleBasedStateMachine):
    """Any changes in any order leave a compressed index with what a dict holds."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        # Small classes and an early codec, so that few documents reach every way of writing.
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(merge_policy, "FAN_OUT", 3)
        self.patch.setattr(codec, "_TOKENS_PER_CENTROID", 4)
        self.patch.setattr(codec, "_OUTLIERS_PER_CENTROID", 2)
        self.index = Index.create(self.folder / "index", 16, nbits=8, exact_tokens=10, backend="numpy")
        self.documents = {}

    @initialize(smallest=st.sampled_from([4, 24]))
    def size_of_small_segments(self, smallest):
        self.patch.setattr(merge_policy, "SMALLEST_TOKENS", smallest)

    @rule(doc_ids=st.lists(ids, min_size=1, max_size=4, unique=True), seed=st.integers(0, 99))
    def upsert(self, doc_ids, seed):
        rows = [rows_of(doc_id, seed) for doc_id in doc_ids]
        self.index.upsert(doc_ids, rows, [f"word{seed}"] * len(doc_ids), [{"seed": seed}] * len(doc_ids))
        self.documents |= {doc_id: (seed, f"word{seed}", {"seed": seed}) for doc_id in doc_ids}

    @rule(doc_id=ids, seed=st.integers(0, 99))
    def add(self, doc_id, seed):
        if doc_id in self.documents:
            with pytest.raises(DuplicateIdError):
                self.index.add([doc_id], [rows_of(doc_id, seed)])
            return
        self.index.add([doc_id], [rows_of(doc_id, seed)])
        self.documents[doc_id] = (seed, None, None)

    @rule(seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4), seed=st.integers(0, 99))
    def add_in_bulk(self, seeds, seed):
        new = [f"d{20 + i}" for i in range(len(seeds))]
        with self.index.bulk():
            for doc_id, each in zip(new, seeds, strict=True):
                self.index.upsert([doc_id], [rows_of(doc_id, each)])
        self.documents |= {doc_id: (each, None, None) for doc_id, each in zip(new, seeds, strict=True)}

    @rule(doc_ids=st.lists(ids, max_size=6, unique=True))
    def delete(self, doc_ids):
        known = [doc_id for doc_id in doc_ids if doc_id in self.documents]
        assert self.index.delete(known) == len(known)
        for doc_id in known:
            del self.documents[doc_id]

    @rule(bound=st.integers(0, 99))
    def delete_by_filter(self, bound):
        matching = [i for i, (*_, data) in self.documents.items() if data and data["seed"] < bound // 4]
        assert self.index.delete(filter=f"seed < {bound // 4}") == len(matching)
        for doc_id in matching:
            del self.documents[doc_id]

    @rule(doc_ids=st.lists(ids, max_size=3, unique=True), seed=st.integers(100, 199))
    def update_metadata(self, doc_ids, seed):
        known = [doc_id for doc_id in doc_ids if doc_id in self.documents]
        self.index.update_metadata(known, [{"seed": seed}] * len(known))
        for doc_id in known:
            self.documents[doc_id] = (*self.documents[doc_id][:2], {"seed": seed})

    @rule(retrain=st.booleans())
    def compact(self, retrain):
        self.index.compact(retrain=retrain)
        info = self.index.info()
        assert (info.deleted, info.segments) == (0, min(1, len(self.documents)))

    @rule()
    def reopen(self):
        self.index.close()
        self.index = Index.open(self.folder / "index", backend="numpy")

    @rule(doc_id=ids)
    def search_by_own_rows(self, doc_id):
        if doc_id not in self.documents:
            return
        seed, text, metadata = self.documents[doc_id]
        rows = rows_of(doc_id, seed)
        for params in (EXACTLY, None):
            (hit, *_) = self.index.search(rows, 1, params=params)
            assert (hit.doc_id, hit.text, hit.metadata) == (doc_id, text, metadata)
            # 8 bits of a residual, compressed anew by each training.
            assert hit.score == pytest.approx(len(rows), rel=0.02)

    @rule(k=st.integers(1, 30), bound=st.integers(0, 199))
    def search_with_a_filter(self, k, bound):
        hits = self.index.search(np.eye(16), k, filter=f"seed < {bound}")
        matching = {i for i, (*_, data) in self.documents.items() if data and data["seed"] < bound}
        assert {hit.doc_id for hit in hits} <= matching
        assert len(hits) == min(k, len(matching))

    @rule(seed=st.integers(0, 99))
    def search_keywords(self, seed):
        hits = self.index.search_keywords(f"word{seed}", 99)
        assert {hit.doc_id for hit in hits} == {i for i, d in self.documents.items() if d[1] == f"word{seed}"}

    @invariant()
    def holds_what_the_dict_holds(self):
        assert len(self.index) == len(self.documents)
        info = self.index.info()
        assert info.passages == len(self.documents)
        assert info.tokens == sum(1 + seed % 5 for seed, *_ in self.documents.values())
        assert (info.n_centroids > 0) >= (info.tokens > 10)

    def teardown(self):
        for doc_id, (seed, text, metadata) in self.documents.items():
            found = self.index.get(doc_id)
            assert (found.text, found.metadata, found.n_tokens) == (text, metadata, 1 + seed % 5)
        hits = self.index.search(np.eye(16), 99)
        assert {hit.doc_id for hit in hits} == set(self.documents)
        assert self.index.verify() == []
        folders = list((self.folder / "index").glob("segment-*"))
        assert len(folders) == self.index.info().segments
        assert len(list((self.folder / "index").glob("codec-*"))) == (self.index.info().n_centroids > 0)
        self.index.close()
        self.patch.undo()
        shutil.rmtree(self.folder)


CompressedIndexAgainstDict.TestCase.settings = settings(
    max_examples=10, stateful_step_count=40, deadline=None
)
test_compressed_index_holds_what_a_dict_holds = pytest.mark.slow(CompressedIndexAgainstDict.TestCase)
