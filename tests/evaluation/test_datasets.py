"""Datasets in folders and of ir_datasets, also hostile ones."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_colbert.errors import InputError
from mlx_colbert.evaluation.beir import read_beir
from mlx_colbert.evaluation.dataset import Dataset
from mlx_colbert.evaluation.published import published_lengths
from mlx_colbert.evaluation.reading import read_dataset


def test_dataset_has_sorted_documents_and_the_queries_with_an_answer(beir):
    found = read_beir(beir)

    assert found.name == "tiny"
    assert found.documents == {"a": "Coffee is brewed.", "b": "Bread is baked.", "c": "Tea is steeped."}
    assert list(found.documents) == ["a", "b", "c"]
    assert found.queries == {"q1": "how to steep tea", "q2": "brewed coffee"}
    assert found.qrels == {"q1": {"c": 1}, "q2": {"a": 2, "b": 0}}
    assert read_beir(beir, max_queries=1).queries == {"q1": "how to steep tea"}


def test_compressed_corpus_is_read(beir):
    expected = read_beir(beir).documents
    corpus = beir / "corpus.jsonl"
    (beir / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    corpus.unlink()

    assert read_beir(beir).documents == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"corpus\.jsonl:4: cannot be used as a row"),
        ("[]", r"corpus\.jsonl:4: cannot be used as a row"),
        ("null", r"corpus\.jsonl:4: cannot be used as a row"),
        ('{"_id": "d"}', r"corpus\.jsonl:4: cannot be used as a row"),
        ('{"_id": 7.0, "text": "x"}', r"corpus\.jsonl:4: cannot be used as a row"),
        ('{"_id": true, "text": "x"}', r"corpus\.jsonl:4: cannot be used as a row"),
        ('{"_id": "", "text": "x"}', r"corpus\.jsonl:4: cannot be used as a row"),
        ('{"_id": "d", "text": null}', r"corpus\.jsonl:4: cannot be used as a row"),
        ('{"_id": "d", "text": "x", "title": 3}', r"corpus\.jsonl:4: cannot be used as a row"),
        ("[" * 100_000, r"corpus\.jsonl:4: cannot be used as a row"),
        ('{"_id": "a", "text": "x"}', r"corpus\.jsonl:4: the id 'a' is in line 2 too"),
        ('{"_id": "d\\te", "text": "x"}', r"the id 'd\\te' is blank, or has a tab or a line break"),
        (b"\xff", r"corpus\.jsonl:4: is not UTF-8"),
    ],
)
def test_row_that_cannot_be_used_is_named(beir, line, message):
    corpus = beir / "corpus.jsonl"
    corpus.write_bytes(corpus.read_bytes() + b"\n" + (line if isinstance(line, bytes) else line.encode()))

    with pytest.raises(InputError, match=message):
        read_beir(beir)


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("", r"test\.tsv: has no judgement"),
        ("query-id\tcorpus-id\tscore\n", r"test\.tsv: has no judgement"),
        ("q1\tc\n", r"test\.tsv:1: is no judgement"),
        ("q1\tc\t1\t2\t3\n", r"test\.tsv:1: is no judgement"),
        ("q1\t\t1\n", r"test\.tsv:1: is no judgement"),
        ("q1\tc\t" + "9" * 5000 + "\n", r"test\.tsv:1: the relevance '9+\.\.\.9+' is not a whole number"),
        ("q1\tc\tyes\n", r"test\.tsv:1: the relevance 'yes' is not a whole number"),
        ("q1\tc\t0.5\n", r"test\.tsv:1: the relevance '0\.5' is not a whole number"),
        (
            "q1\tc\t1\nq1\tc\t2\n",
            r"test\.tsv:2: document 'c' is judged 2 for query 'q1', and 1 in a line above",
        ),
        ("q1\tc\t0\n", "no query has a relevant document"),
        ("q1\tlost\t1\n", r"1 judged id without a query or a document: 'lost'\. Allow unknown ids"),
        ("lost\tc\t1\n", r"1 judged id without a query or a document: 'lost'\. Allow unknown ids"),
    ],
)
def test_judgements_that_cannot_be_used_are_named(beir, qrels, message):
    (beir / "qrels" / "test.tsv").write_text(qrels)

    with pytest.raises(InputError, match=message):
        read_beir(beir)


def test_unknown_ids_may_be_allowed(beir):
    (beir / "qrels" / "test.tsv").write_text("q1\tc\t1\nq1\tlost\t1\ngone\tc\t1\n")

    found = read_beir(beir, allow_unknown=True)

    assert (list(found.queries), found.qrels, found.unknown) == (
        ["q1"],
        {"q1": {"c": 1, "lost": 1}},
        ("gone", "lost"),
    )


def test_missing_part_is_named_with_what_is_there(beir, tmp_path):
    (beir / "qrels" / "dev.tsv").write_text("q1\tc\t1\n")
    with pytest.raises(
        InputError, match=r"no judgements qrels/train\.tsv\. Splits that are there: dev, test"
    ):
        read_beir(beir, split="train")
    assert read_beir(beir, split="dev").qrels == {"q1": {"c": 1}}
    (beir / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"has no queries\.jsonl or queries\.jsonl\.gz"):
        read_beir(beir)
    with pytest.raises(InputError, match="there is no such folder"):
        read_beir(tmp_path / "nowhere")


def test_ids_may_be_whole_numbers(beir):
    (beir / "corpus.jsonl").write_text('{"_id": 7, "text": "tea"}\n{"_id": 8, "text": "bread"}\n')
    (beir / "queries.jsonl").write_text('{"_id": 1, "text": "tea?"}\n')
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t7\t1\n")

    found = read_beir(beir)

    assert (found.documents, found.qrels) == ({"7": "tea", "8": "bread"}, {"1": {"7": 1}})
    (beir / "corpus.jsonl").write_text('{"_id": 7, "text": "tea"}\n{"_id": "7", "text": "bread"}\n')
    with pytest.raises(InputError, match=r"corpus\.jsonl:2: the id '7' is in line 1 too"):
        read_beir(beir)


@pytest.mark.parametrize("name", ["test.tsv", "test.tsv.gz", "test.jsonl", "test.jsonl.gz"])
def test_judgements_of_a_folder_may_be_columns_or_json_and_compressed(beir, name):
    expected = read_beir(beir).qrels
    text = (beir / "qrels" / "test.tsv").read_text()
    (beir / "qrels" / "test.tsv").unlink()
    if "jsonl" in name:
        rows = (line.split("\t") for line in text.splitlines()[1:])
        # As mteb writes them: a score is not a whole number.
        text = "".join(
            json.dumps({"query-id": query, "corpus-id": document, "score": float(score)}) + "\n"
            for query, document, score in rows
        )
    content = text.encode()
    (beir / "qrels" / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    assert read_beir(beir).qrels == expected


def test_byte_order_marks_and_line_ends_of_windows_are_read(beir):
    expected = read_beir(beir)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        content = (beir / name).read_bytes().replace(b"\n", b"\r\n")
        (beir / name).write_bytes(b"\xef\xbb\xbf" + content)

    found = read_beir(beir)

    assert (found.documents, found.queries, found.qrels) == (
        expected.documents,
        expected.queries,
        expected.qrels,
    )


def test_folder_in_another_layout_is_told_what_to_do(beir, tmp_path):
    with pytest.raises(InputError, match=r"Datasets are in its folders tiny\. Give these"):
        read_beir(beir.parent)
    (tmp_path / "marco").mkdir()
    (tmp_path / "marco" / "collection.tsv").write_text("0\tTea\n")
    with pytest.raises(InputError, match="read by ir_datasets: irds:msmarco-passage/dev/small"):
        read_beir(tmp_path / "marco")
    (tmp_path / "tiny.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"tiny\.zip: is a file\. If it is an archive, unpack it"):
        read_beir(tmp_path / "tiny.zip")


@pytest.mark.parametrize("spoil", [lambda packed: packed[:-12], lambda packed: packed[:10] + b"\xff" * 20])
def test_broken_compression_is_named(beir, spoil):
    packed = gzip.compress((beir / "corpus.jsonl").read_bytes())
    (beir / "corpus.jsonl").unlink()
    (beir / "corpus.jsonl.gz").write_bytes(spoil(packed))

    with pytest.raises(InputError, match=r"corpus\.jsonl\.gz: cannot be decompressed"):
        read_beir(beir)


def test_dataset_of_ir_datasets_is_read(tmp_path):
    ir_datasets = pytest.importorskip("ir_datasets", reason="ir_datasets is not installed (extra 'eval')")
    (tmp_path / "docs.tsv").write_text("d1\tTea is steeped.\nd2\tBread is baked.\n")
    (tmp_path / "queries.tsv").write_text("q1\tsteep tea\n")
    (tmp_path / "qrels").write_text("q1 0 d1 1\n")
    ours = ir_datasets.create_dataset(
        docs_tsv=str(tmp_path / "docs.tsv"),
        queries_tsv=str(tmp_path / "queries.tsv"),
        qrels_trec=str(tmp_path / "qrels"),
    )
    ir_datasets.registry.register("tiny-of-a-test", ours)

    found = read_dataset("irds:tiny-of-a-test")

    assert found.documents == {"d1": "Tea is steeped.", "d2": "Bread is baked."}
    assert (found.queries, found.qrels) == ({"q1": "steep tea"}, {"q1": {"d1": 1}})
    with pytest.raises(InputError, match="ir_datasets does not know this dataset"):
        read_dataset("irds:no-such-set")
    with pytest.raises(InputError, match=r"has no qrels\. Give beir/scifact/test, beir/scifact/train\."):
        read_dataset("irds:beir/scifact")


def test_empty_dataset_is_refused():
    with pytest.raises(InputError, match="dataset none: has no document"):
        Dataset.check("none", {}, {"q": "a"}, {"q": {"d": 1}})
    with pytest.raises(InputError, match="dataset none: has no query"):
        Dataset.check("none", {"d": "a"}, {}, {"q": {"d": 1}})


@pytest.mark.parametrize(
    ("name", "length"),
    {
        "scifact": 48,
        "trec-covid": 48,
        "climate-fever": 64,
        "fever": 32,
        "beir/arguana": 64,
        "webis-touche2020": 32,
        "cqadupstack/android": 32,
        "dbpedia-entity": 32,
        "nq": 32,
    }.items(),
)
def test_published_lengths_are_those_of_the_dataset(name, length):
    assert published_lengths(name) == {"query_length": length, "document_length": 300}


@pytest.mark.parametrize("name", ["xquad-en", "cosqa", "my-notes", "banquets", "feverish"])
def test_other_datasets_have_no_published_lengths(name):
    assert published_lengths(name) is None


def test_a_row_needs_no_title(beir):
    (beir / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": i, "text": "x"}) + "\n" for i in "abc") + "\n\n"
    )
    assert read_beir(beir).documents == {"a": "x", "b": "x", "c": "x"}


@settings(max_examples=60)
@given(
    name=st.sampled_from(["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"]),
    place=st.integers(0, 200),
    junk=st.binary(max_size=12),
)
def test_any_bytes_in_a_file_are_read_or_refused(tmp_path_factory, name, place, junk):
    folder = tmp_path_factory.mktemp("beir")
    (folder / "qrels").mkdir()
    parts = {
        "corpus.jsonl": b'{"_id": "c", "text": "tea"}\n{"_id": "d", "title": "x", "text": "bread"}\n',
        "queries.jsonl": b'{"_id": "q1", "text": "tea?"}\n',
        "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq1\tc\t1\nq1\td\t0\n",
    }
    for part, content in parts.items():
        spoilt = content[:place] + junk + content[place + len(junk) :] if part == name else content
        (folder / part).write_bytes(spoilt)

    try:
        found = read_beir(folder)
    except InputError as error:
        assert str(error).count("\n") <= 1
    else:
        assert found.queries.keys() == found.qrels.keys()
