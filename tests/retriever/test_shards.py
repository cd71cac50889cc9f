"""Parts of a collection, made by several machines, and the merge of them into one index."""

import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from word_model import WordModel

from mlx_colbert import index_merge, merge_index
from mlx_colbert.cli import main
from mlx_colbert.documents.shard import LINES_TOGETHER, Shard
from mlx_colbert.errors import (
    DuplicateIdError,
    IndexDamagedError,
    IndexStoreError,
    InputError,
    TargetExistsError,
)
from mlx_colbert.index import Index
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.retriever.retriever import Retriever

WORDS = "tea coffee water leaf cup steam kettle milk sugar bean roast brew pour taste aroma".split()


def sentence(rng):
    return " ".join(rng.choices(WORDS, k=rng.randint(4, 12)))


@pytest.fixture
def inputs(tmp_path):
    """A folder of files, two files of rows, and an empty file."""
    rng = random.Random(1)
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(6):
        (notes / f"n{number:02}.md").write_text(
            f"# Note {number}\n\n" + "\n\n".join(sentence(rng) for _ in range(15))
        )
    (notes / "empty.md").write_text("")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"id": f"r{i}", "text": sentence(rng), "n": i}) + "\n" for i in range(600))
    )
    table = tmp_path / "table.tsv"
    table.write_text("".join(f"t{i}\t{sentence(rng)}\n" for i in range(300)))
    return [rows, notes, table]


@pytest.fixture
def make(tmp_path, inputs):
    """Makes the part of a shard, or the whole index."""

    def make(shard=None, *, model=None, paths=None, name=None, **settings):
        path = tmp_path / (name or f"part-{(shard or 'all').replace('/', '-')}")
        Retriever.from_files(
            path, model or WordModel(), paths or inputs, shard=shard, backend="numpy", **settings
        ).close()
        return path

    return make


@pytest.fixture
def parts(make):
    return [make(f"{number}/3") for number in (1, 2, 3)]


def content(path):
    """Everything that an index knows, in its order, and the bits of its vectors."""
    with Index.open(path, backend="numpy") as index:
        passages = list(index.passages())
        vectors = index.embeddings([passage.doc_id for passage in passages])
        return passages, vectors.vectors.tobytes(), index.sources(), index.info().model, index.info().indexing


def hits(path):
    with Index.open(path, backend="numpy") as index:
        return [index.search(WordModel().encode_query(query), 20) for query in ("tea cup", "roast", "milk")]


def test_each_file_and_each_line_belongs_to_one_shard():
    shards = [Shard(number, 5) for number in range(1, 6)]
    for uri in (f"notes/{number}.md" for number in range(50)):
        assert [shard.has(uri) for shard in shards].count(True) == 1
        for line in range(1, 3000, 100):
            assert [shard.has(uri, line) for shard in shards].count(True) == 1


def test_the_lines_of_one_file_are_shared_out_evenly():
    counts = [
        sum(Shard(i, 4).has("rows.tsv", line) for line in range(1, 8 * LINES_TOGETHER + 1))
        for i in range(1, 5)
    ]
    assert counts == [2 * LINES_TOGETHER] * 4


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "1/2/3", "1/5000", " 1/2"])
def test_a_shard_that_is_not_valid_is_refused(text):
    with pytest.raises(InputError):
        Shard.of(text)


def test_a_shard_does_not_depend_on_the_other_inputs(make, inputs):
    alone = make("2/3", paths=inputs[:1], name="alone")
    with_all = make("2/3")
    with Index.open(alone) as few, Index.open(with_all) as all_:
        assert few.passages_of(next(iter(few.sources())).uri) == all_.passages_of(
            next(source.uri for source in few.sources())
        )


def test_merged_parts_are_the_index_of_a_single_run(tmp_path, make, parts):
    merged = merge_index(tmp_path / "merged", reversed(parts), backend="numpy")
    whole = make()
    assert merged.parts == 3 and merged.passages == len(content(whole)[0])
    assert content(tmp_path / "merged") == content(whole)
    assert hits(tmp_path / "merged") == hits(whole)
    with Index.open(tmp_path / "merged") as index:
        assert index.verify() == []


def test_a_merged_index_is_compressed_with_the_centroids_of_a_single_run(tmp_path, make):
    parts = [make(f"{number}/3", exact_tokens=5000, nbits=2) for number in (1, 2, 3)]
    merge_index(tmp_path / "merged", parts, backend="numpy")
    whole = make(exact_tokens=5000, nbits=2)
    with Index.open(tmp_path / "merged") as index, Index.open(parts[0]) as part:
        assert index.info().n_centroids > 0 and index.info().nbits == 2
        assert part.info().n_centroids == 0
    assert content(tmp_path / "merged") == content(whole)
    assert hits(tmp_path / "merged") == hits(whole)


def test_the_same_run_completes_a_merged_index(tmp_path, make, parts):
    merge_index(tmp_path / "merged", parts, backend="numpy")
    model = WordModel()
    make(name="merged", model=model)
    assert model.encoded == []


def test_a_shard_may_be_empty(tmp_path, make, inputs):
    paths = inputs[1:2]
    parts = [make(f"{number}/16", paths=paths) for number in range(1, 17)]
    merge_index(tmp_path / "merged", parts, backend="numpy")
    assert content(tmp_path / "merged") == content(make(paths=paths))


def test_a_part_goes_on_after_an_error(tmp_path, make, parts, monkeypatch):
    model, encode = WordModel(), WordModel.encode_tokenized
    monkeypatch.setattr("mlx_colbert.retriever.indexing.batching.WINDOW_TEXTS", 50)

    def fail_later(self, *args):
        if len(self.encoded) > 150:
            raise OSError("no power")
        return encode(self, *args)

    monkeypatch.setattr(WordModel, "encode_tokenized", fail_later)
    with pytest.raises(OSError, match="no power"):
        make("2/3", model=model, name="other")
    with pytest.raises(IndexStoreError, match="but not all of it"):
        merge_index(tmp_path / "merged", [parts[0], tmp_path / "other", parts[2]])
    monkeypatch.setattr(WordModel, "encode_tokenized", encode)
    again = WordModel()
    make("2/3", model=again, name="other")
    assert 0 < len(again.encoded) < len(content(parts[1])[0])
    merge_index(tmp_path / "merged", [parts[0], tmp_path / "other", parts[2]], backend="numpy")
    assert content(tmp_path / "merged") == content(make())


def test_a_part_that_fails_at_once_leaves_nothing(tmp_path, make, inputs):
    inputs[0].write_text('{"id": "a", "text": "poison"}\n')
    for number in (1, 2, 3):
        try:
            make(f"{number}/3", name="failed")
        except RuntimeError:
            assert not (tmp_path / "failed").exists()
            return
        (tmp_path / "failed").rename(tmp_path / f"fine-{number}")
    raise AssertionError("no shard has the row")


def test_another_shard_or_other_files_in_the_folder_of_a_part_are_refused(make, inputs):
    make("1/3", name="part")
    with pytest.raises(TargetExistsError, match="It has shard 1/3"):
        make("2/3", name="part")
    with pytest.raises(TargetExistsError, match="exact_tokens 7"):
        make("1/3", name="part", exact_tokens=7)
    (inputs[1] / "new.md").write_text("a new note about tea")
    with pytest.raises(TargetExistsError, match="made from other files"):
        make("1/3", name="part")


def test_an_index_that_is_not_a_part_is_refused(tmp_path, make, parts):
    whole = make()
    with pytest.raises(TargetExistsError):
        make("1/3", name=whole.name)
    with pytest.raises(IndexStoreError, match="not a part of a shard"):
        merge_index(tmp_path / "merged", [whole, *parts[1:]])


def test_missing_and_doubled_shards_are_refused(tmp_path, parts):
    with pytest.raises(InputError, match=r"shard 2/3 is missing \(1 of 3\)"):
        merge_index(tmp_path / "merged", [parts[0], parts[2]])
    with pytest.raises(InputError, match=r"shard 1/3 is given twice"):
        merge_index(tmp_path / "merged", [*parts, parts[0]])
    with pytest.raises(InputError, match="no parts"):
        merge_index(tmp_path / "merged", [])
    assert not list(tmp_path.glob("*merged*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": WordModel("words-2")}, "has the model words-2"),
        ({"nbits": 2}, "has the nbits 2"),
        ({"exact_tokens": 9}, "has the exact_tokens 9"),
        ({"pool_factor": 2}, "has the settings of indexing"),
    ],
)
def test_parts_of_another_model_or_with_other_settings_are_refused(tmp_path, make, parts, settings, message):
    other = make("3/3", name="other", **settings)
    with pytest.raises(IndexStoreError, match=message):
        merge_index(tmp_path / "merged", [*parts[:2], other])
    assert not list(tmp_path.glob("*merged*"))


def test_parts_of_other_files_are_refused(tmp_path, make, parts, inputs):
    with pytest.raises(IndexStoreError, match="has the number of shards 4"):
        merge_index(tmp_path / "merged", [*parts[:2], make("3/4")])
    text = inputs[0].read_text()
    inputs[0].write_text(text.replace("tea", "TEA"))
    changed = make("3/3", name="changed")
    with pytest.raises(IndexStoreError, match="another content of"):
        merge_index(tmp_path / "merged", [*parts[:2], changed])
    inputs[0].write_text(text + '{"id": "more", "text": "tea"}\n')
    longer = make("3/3", name="longer")
    with pytest.raises(IndexStoreError, match="from other files"):
        merge_index(tmp_path / "merged", [*parts[:2], longer])


def test_the_same_id_in_two_parts_is_refused(tmp_path, make, inputs):
    lines = inputs[0].read_text().splitlines()
    lines[-1] = lines[0]
    inputs[0].write_text("\n".join(lines) + "\n")
    parts = [make(f"{number}/3") for number in (1, 2, 3)]
    with pytest.raises(DuplicateIdError, match="r0"):
        merge_index(tmp_path / "merged", parts)
    assert not (tmp_path / "merged").exists()


def test_a_damaged_part_is_refused(tmp_path, parts):
    victim = next(path for path in sorted(parts[1].rglob("*.npy")) if path.stat().st_size > 1000)
    data = bytearray(victim.read_bytes())
    data[-5] ^= 1
    victim.write_bytes(data)
    with pytest.raises(IndexDamagedError):
        merge_index(tmp_path / "merged", parts)
    (parts[0] / "shard.json").write_text("[1]")
    with pytest.raises(IndexDamagedError, match=r"shard\.json"):
        merge_index(tmp_path / "merged", parts)
    assert not list(tmp_path.glob("*merged*"))


def test_a_part_that_was_changed_later_is_refused(tmp_path, parts):
    with Index.open(parts[0]) as index:
        index.delete(index.ids(limit=1))
    with pytest.raises(IndexStoreError, match="when it was complete"):
        merge_index(tmp_path / "merged", parts)


def test_a_merge_that_is_done_is_not_done_again(tmp_path, parts):
    """A kill may come after the last step."""
    done = merge_index(tmp_path / "merged", parts, backend="numpy")
    before = content(tmp_path / "merged")
    assert merge_index(tmp_path / "merged", parts, backend="numpy") == done
    assert content(tmp_path / "merged") == before


def test_an_existing_index_is_not_overwritten(tmp_path, make, parts):
    whole = make()
    with pytest.raises(TargetExistsError):
        merge_index(whole, parts)


def test_a_merge_goes_on_where_it_was_stopped(tmp_path, make, parts, monkeypatch):
    monkeypatch.setattr(index_merge, "_WINDOW_TOKENS", 500)
    added, add = [], Index.add

    def stop_later(self, doc_ids, *args, **options):
        if len(added) == 5:
            raise KeyboardInterrupt
        add(self, doc_ids, *args, **options)
        added.append(doc_ids)

    monkeypatch.setattr(Index, "add", stop_later)
    with pytest.raises(KeyboardInterrupt):
        merge_index(tmp_path / "merged", parts, backend="numpy")
    assert not (tmp_path / "merged").exists()
    before = list(added)
    added.clear()

    def note(self, doc_ids, *args, **options):
        added.append(doc_ids)
        add(self, doc_ids, *args, **options)

    monkeypatch.setattr(Index, "add", note)
    merge_index(tmp_path / "merged", parts, backend="numpy")
    assert not {doc_id for ids in before for doc_id in ids} & {doc_id for ids in added for doc_id in ids}
    monkeypatch.setattr(Index, "add", add)
    assert content(tmp_path / "merged") == content(make())
    assert not list(tmp_path.glob(".merged*"))


def test_killed_parts_and_merges_go_on(tmp_path, inputs, make):
    """Real processes with a real checkpoint, each killed at a random moment, until they end by themselves."""
    checkpoint = "tests/data/checkpoints/pylate-bert"
    model = ColBERT.load(checkpoint, backend="numpy")
    small = tmp_path / "small.jsonl"
    small.write_text("".join(inputs[0].read_text().splitlines(keepends=True)[:600]))
    rng = random.Random(5)
    common = [sys.executable, "-m", "mlx_colbert"]
    commands = [
        [
            *common,
            "index",
            small,
            "--index",
            tmp_path / f"p{i}",
            "--model",
            checkpoint,
            "--shard",
            f"{i}/2",
            "--backend",
            "numpy",
        ]
        for i in (1, 2)
    ] + [
        [*common, "merge-index", tmp_path / "merged", tmp_path / "p1", tmp_path / "p2", "--backend", "numpy"]
    ]
    for command in commands:
        for patience in (rng.uniform(0.3, 1.5), rng.uniform(0.5, 3), None):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            try:
                said = process.communicate(timeout=patience)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                continue
            assert process.returncode == 0, said
            break
    whole = make(paths=[small], model=model)
    merged, single = content(tmp_path / "merged"), content(whole)
    assert merged[0] == single[0] and merged[2:] == single[2:]
    ours, theirs = (np.frombuffer(vectors, np.float32) for vectors in (merged[1], single[1]))
    # The rounding of a product depends on the texts of its batch, and is stored as float16.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-4)


def test_the_commands_say_what_they_did(tmp_path, inputs, monkeypatch, capsys):
    monkeypatch.setattr(ColBERT, "load", lambda *_, **__: WordModel())
    paths = list(map(str, inputs))
    for number in (1, 2):
        part = str(tmp_path / f"p{number}")
        assert main(["index", *paths, "--index", part, "--model", "m", "--shard", f"{number}/2"]) == 0
    assert main(["merge-index", str(tmp_path / "out"), str(tmp_path / "p1"), str(tmp_path / "p2")]) == 0
    assert "from 2 parts." in capsys.readouterr().out
    assert main(["index", *paths, "--index", str(tmp_path / "x"), "--model", "m", "--shard", "3/2"]) == 1
    assert "shard 3/2" in capsys.readouterr().err
