"""Passages into an index: what is skipped, what a kill leaves, what it costs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from word_model import WordModel

from mlx_colbert.documents.passage import Passage
from mlx_colbert.errors import DuplicateIdError, InputError, TargetExistsError
from mlx_colbert.index import Index
from mlx_colbert.index.writing.writer import Writer
from mlx_colbert.model import batching
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.retriever.indexing import IndexingStats, compared, index_passages
from mlx_colbert.retriever.retriever import Retriever

CHECKPOINT = Path(__file__).parents[1] / "data" / "checkpoints" / "pylate-bert"
# Where a process of its own finds this file and the helpers.
PATH = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
N_ROWS, WINDOW, EXACT_TOKENS = 100, 8, 150


def write_rows(path, n_rows=N_ROWS):
    rows = ({"id": f"d{n}", "text": f"tea number {n}", "n": n} for n in range(n_rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build(path, rows, model=None):
    """Indexes rows in small windows; the index is compressed at the end."""
    return Retriever.from_files(
        path, model or WordModel(), rows, nbits=8, exact_tokens=EXACT_TOKENS, backend="numpy"
    )


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", WINDOW)
    return write_rows(tmp_path / "rows.jsonl")


def build_and_die(path, rows, method, n_calls):
    """Indexes rows in a process that dies when a method is called for the n-th time."""
    code = f"""
import os, signal, sys
sys.path[:0] = {PATH!r}
from mlx_colbert.model import batching
from mlx_colbert.index import Index
from mlx_colbert.index.writing.writer import Writer
from test_indexing import build

batching.WINDOW_TEXTS = {WINDOW}
method, left = {method}, {n_calls}

def die(*args, **kwargs):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return method(*args, **kwargs)

{method} = die
build(*sys.argv[1:])
"""
    command = [sys.executable, "-c", code, path, rows]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr


def is_complete(retriever):
    info = retriever.index.info()
    assert (info.passages, info.compressed_passages, info.segments) == (N_ROWS, N_ROWS, 1)
    assert retriever.index.verify() == []
    document = retriever.index.get("d99")
    return (document.text, document.metadata) == ("tea number 99", {"n": 99})


@pytest.mark.parametrize(
    ("method", "n_calls", "n_kept"),
    [("Index.add", 1, 0), ("Index.add", 6, 5 * WINDOW), ("Writer.compact", 1, N_ROWS)],
)
@pytest.mark.slow
def test_killed_indexing_goes_on_where_it_stopped(tmp_path, rows, method, n_calls, n_kept):
    build_and_die(tmp_path / "index", rows, method, n_calls)
    model = WordModel()
    with build(tmp_path / "index", rows, model) as retriever:
        assert is_complete(retriever)
        assert (retriever.stats.unchanged, retriever.stats.passages) == (n_kept, N_ROWS - n_kept)
        assert model.encoded == [f"tea number {n}" for n in range(n_kept, N_ROWS)]


def test_finished_indexing_is_repeated_without_reading_or_writing_the_index(tmp_path, rows, monkeypatch):
    build(tmp_path / "index", rows).close()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").glob("segment-*/*")}
    monkeypatch.setattr(Writer, "compact", lambda *_, **__: pytest.fail("compacts again"))
    model = WordModel()
    with build(tmp_path / "index", rows, model) as retriever:
        assert is_complete(retriever) and model.encoded == []
        assert retriever.stats == IndexingStats(
            unchanged=N_ROWS, write_s=pytest.approx(retriever.stats.write_s)
        )
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "index").glob("segment-*/*")}


@pytest.mark.slow
def test_process_killed_at_any_time_completes_its_index_when_it_is_started_again(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 3000)
    ColBERT.load(CHECKPOINT, backend="numpy")  # converted once, not in each process
    command = [sys.executable, "-m", "mlx_colbert", "index", rows, "--index", tmp_path / "index"]
    command += ["--model", CHECKPOINT, "--backend", "numpy", "--json"]
    n_killed = 0
    for deadly, status in ((signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = subprocess.Popen(command, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
        # As soon as a window more is there.
        segments = set((tmp_path / "index").glob("segment-*"))
        while process.poll() is None and set((tmp_path / "index").glob("segment-*")) <= segments:
            time.sleep(0.01)
        process.send_signal(deadly)
        ended = process.wait(timeout=60)
        assert ended in (status, 0)
        n_killed += ended == status
    assert n_killed
    done = subprocess.run(command, capture_output=True, check=True)
    counts = json.loads(done.stdout)
    assert counts["passages"] == 3000 == counts["added"] + counts["unchanged"]
    with Index.open(tmp_path / "index", backend="numpy") as index:
        assert index.verify() == [] and len(index) == 3000


def test_failure_of_a_resumed_run_keeps_the_index(tmp_path, rows, monkeypatch):
    build_and_die(tmp_path / "index", rows, "Index.add", 3)
    model = WordModel()
    monkeypatch.setattr(model, "encode_tokenized", lambda tokens, advance: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(tmp_path / "index", rows, model)
    with Index.open(tmp_path / "index", backend="numpy") as index:
        assert len(index) == 2 * WINDOW


def test_resumed_run_refuses_what_was_changed_meanwhile(tmp_path, rows):
    build(tmp_path / "index", rows).close()
    rows.write_text(rows.read_text().replace('"n": 7}', '"n": 8}'))
    with pytest.raises(DuplicateIdError, match=r"'d7': exists already .* with another text or metadata"):
        build(tmp_path / "index", rows)
    rows.write_text(rows.read_text().splitlines(keepends=True)[0])
    with pytest.raises(TargetExistsError, match="It has 99 passages that these files do not have"):
        build(tmp_path / "index", rows)


def test_index_that_records_no_model_is_not_completed(tmp_path, rows):
    Index.create(tmp_path / "index", 16, nbits=8, exact_tokens=EXACT_TOKENS, backend="numpy").close()
    with pytest.raises(TargetExistsError, match="created with no model"):
        build(tmp_path / "index", rows)


def test_upsert_encodes_only_what_changed(tmp_path, rows):
    model = WordModel()
    with build(tmp_path / "index", rows) as made, Retriever(model, made.index) as retriever:
        retriever.upsert(["tea number 3", "milk", "new"], ["d3", "d4", "d100"], [{"n": 3}, {"n": 4}, None])
        assert model.encoded == ["milk", "new"]
        retriever.upsert(["tea number 3"], ["d3"], [{"n": 3.0}])
        assert model.encoded == ["milk", "new", "tea number 3"]


def test_nothing_is_skipped_where_the_index_does_not_know_its_model(tmp_path, rows):
    model = WordModel()
    with Index.create(tmp_path / "index", model.dim, backend="numpy") as index:
        retriever = Retriever(model, index)
        retriever.upsert(["tea"], ["a"])
        retriever.upsert(["tea"], ["a"])
        assert model.encoded == ["tea", "tea"]


def test_index_compares_texts_and_metadata_by_their_bytes(tmp_path):
    with Index.create(tmp_path / "index", 2, backend="numpy") as index:
        rows = [np.eye(2, dtype=np.float32)] * 3
        index.add(["a", "b", "c"], rows, ["one\0two", None, "text"], [{"n": 1}, None, {}])
        assert index.compare(["a", "b", "x"], ["one\0two", None, "?"], [{"n": 1}, None, None]) == {
            "a": True,
            "b": True,
        }
        changed = index.compare(["a", "b", "c"], ["one\0two", "", "text"], [{"n": True}, None, None])
        assert changed == {"a": False, "b": False, "c": False}
        with pytest.raises(InputError):
            index.compare(["a"], ["\ud800"])


def test_stats_add_up_over_windows(tmp_path, rows):
    with build(tmp_path / "index", rows) as retriever:
        stats = retriever.stats
    assert (stats.passages, stats.tokens, stats.padded_tokens) == (N_ROWS, 3 * N_ROWS, 3 * N_ROWS)
    assert stats.padding_waste == 0 and stats.tokens_per_s == stats.tokens / stats.encode_s
    assert IndexingStats().tokens_per_s == IndexingStats().padding_waste == 0


def test_no_more_than_three_windows_of_passages_are_in_memory(tmp_path, rows):
    n_read = 0
    waiting = []

    class Counting(WordModel):
        def encode_tokenized(self, tokens, advance):
            waiting.append(n_read - len(self.encoded))
            return super().encode_tokenized(tokens, advance)

    def passages():
        nonlocal n_read
        for n_read in range(1, N_ROWS + 1):
            yield Passage(f"d{n_read}", "tea")

    model = Counting()
    with Retriever.create(tmp_path / "index", model, backend="numpy") as retriever:
        retriever.index.add(["other"], [np.eye(16)])  # or there would be nothing to compare with
        found = compared(retriever.index, passages(), by_source=False)
        index_passages(model, retriever.index, found, N_ROWS, upsert=False, advance=lambda stats: None)
    assert len(waiting) == -(-N_ROWS // WINDOW) and max(waiting) <= 3 * WINDOW


def long_text(n_tokens):
    return " ".join(["the planet"] * (n_tokens // 2)) + " reddish mountain"


def test_index_records_how_long_documents_are_read_and_applies_it_later(tmp_path, backend):
    model = ColBERT.load(CHECKPOINT, backend=backend)
    text = long_text(200)
    Retriever.create(tmp_path / "index", model, on_overflow="chunk", backend=backend).close()
    with Retriever.open(tmp_path / "index", model, backend=backend) as retriever:
        retriever.add([text, "the planet"], ["long", "short"])
        expected = model.encode_document(text, on_overflow="chunk")
        assert retriever.index.get("long").n_tokens == len(expected) > model.config.colbert.document_length
        assert retriever.stats.truncated == 0
        hits = retriever.search("reddish mountain", k=2)
        exact = model.similarity(model.encode_query("reddish mountain"), expected)[0, 0]
        assert (hits[0].doc_id, hits[0].score) == ("long", pytest.approx(exact, abs=0.02))
        reranked = retriever.rerank("reddish mountain", ["long", "short"])
        assert reranked[0].score == pytest.approx(exact, abs=1e-4)


def test_document_that_must_not_overflow_is_named(tmp_path):
    model = ColBERT.load(CHECKPOINT, backend="numpy")
    with Retriever.create(tmp_path / "index", model, on_overflow="error", backend="numpy") as retriever:
        with pytest.raises(InputError, match=r"'long': has \d+ tokens, more than the document_length of 40"):
            retriever.add(["the planet", long_text(200)], ["short", "long"])
        assert len(retriever) == 0


def test_index_of_a_model_with_other_lengths_loads_it_with_these(tmp_path):
    model = ColBERT.load(CHECKPOINT, backend="numpy", document_length=64)
    text = long_text(200)
    with Retriever.create(tmp_path / "index", model, backend="numpy") as retriever:
        retriever.add([text], ["a"])
    for named in (None, CHECKPOINT):
        with Retriever.open(tmp_path / "index", named, backend="numpy") as retriever:
            assert retriever.model.config.colbert.document_length == 64
            retriever.add([text], [f"later {named}"])
            assert retriever.index.get("a").n_tokens == retriever.index.get(f"later {named}").n_tokens
    with pytest.raises(ValueError, match="has the vectors of"):
        Retriever.open(tmp_path / "index", ColBERT.load(CHECKPOINT, backend="numpy"), backend="numpy")


@pytest.mark.parametrize("settings", [{"on_overflow": "drop"}, {"pool_factor": 0}, {"pool_factor": "2"}])
def test_settings_that_are_not_understood_are_refused_before_a_folder_is_made(tmp_path, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        Retriever.create(tmp_path / "index", WordModel(), backend="numpy", **settings)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(("name", "value"), [("pool_factor", "x"), ("on_overflow", "x")])
def test_index_that_records_nonsense_is_damaged(tmp_path, name, value):
    with (
        Index.create(tmp_path / "index", 16, indexing={name: value}, backend="numpy") as index,
        pytest.raises(ValueError, match=f"invalid setting: .*{name} 'x'"),
    ):
        Retriever(WordModel(), index)


def test_progress_is_told_to_the_end_of_the_compaction(tmp_path, rows):
    told = []
    with Retriever.from_files(
        tmp_path / "index",
        WordModel(),
        rows,
        nbits=8,
        exact_tokens=EXACT_TOKENS,
        backend="numpy",
        progress=lambda *step: told.append(step),
    ):
        pass
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["reading", "encoding", "training", "writing"]
    for stage, total in (("encoding", N_ROWS), ("writing", 3 * N_ROWS)):
        counts = [(done, of) for name, done, of in told if name == stage]
        assert counts == sorted(counts) and counts[-1] == (total, total)


def test_interruption_during_compaction_says_that_all_passages_are_there(tmp_path, rows, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
        patch.setattr(Writer, "compact", interrupt)
        build(tmp_path / "index", rows)
    (note,) = caught.value.__notes__
    assert note.startswith(
        "All is in the index: 100 passages. It is not compacted: run the same command again"
    )
    with build(tmp_path / "index", rows) as retriever:
        assert is_complete(retriever)


def test_interruption_before_the_end_says_how_much_is_there(tmp_path, rows, monkeypatch):
    add, calls = Index.add, []

    def interrupted(index, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return add(index, *arguments, **options)

    monkeypatch.setattr(Index, "add", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        build(tmp_path / "index", rows)
    assert caught.value.__notes__ == [
        "The first 16 of 100 passages are in the index. Do the same again to write the rest."
    ]


def test_second_program_that_indexes_the_same_files_is_told_what_goes_on(tmp_path, rows, monkeypatch):
    add = Index.add

    def added_before(index, doc_ids, *arguments, **options):
        with Index.open(index.path, backend="numpy") as other:
            add(other, list(doc_ids), *arguments, **options)
        return add(index, doc_ids, *arguments, **options)

    monkeypatch.setattr(Index, "add", added_before)
    with pytest.raises(
        DuplicateIdError, match=r"another program added this to index .* during this run\. Wait until it ends"
    ) as caught:
        build(tmp_path / "index", rows)
    assert "upsert" not in str(caught.value)


def test_passages_that_another_program_adds_meanwhile_are_not_taken_for_others(tmp_path, rows, monkeypatch):
    build_and_die(tmp_path / "index", rows, "Index.add", 3)
    compare, encode = Index.compare, WordModel().encode_query

    def compared_late(index, *arguments, **sources):
        found = compare(index, *arguments, **sources)
        with Index.open(index.path, backend="numpy") as other:
            new = f"d{len(other)}"
            text = f"tea number {len(other)}"
            other.upsert([new], [encode(text)], [text], [{"n": len(other)}])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Index, "compare", compared_late)
        with pytest.raises(DuplicateIdError, match="another program added this"):
            build(tmp_path / "index", rows)
    with build(tmp_path / "index", rows) as retriever:
        assert is_complete(retriever)
