"""Exports: what each engine gets, what comes back from Parquet, and what a kill leaves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec

import numpy as np
import pytest
from made_stores import ENGINES, location

from mlx_colbert.cli import main
from mlx_colbert.errors import IndexDamagedError, IndexStoreError, InputError, TargetExistsError
from mlx_colbert.index import Index
from mlx_colbert.index_export import export_index
from mlx_colbert.index_import import import_index
from mlx_colbert.store import open_store
from mlx_colbert.stores import elasticsearch, exported, vespa
from mlx_colbert.types import Source

DIM = 16
N = 150
MODEL = {"source": "m", "fingerprint": "f"}
_PARQUET = pytest.param(
    "parquet", marks=pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
)
TARGETS = [*ENGINES, "vespa", "elasticsearch", _PARQUET]


def unit_rows(rng, n):
    rows = rng.standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_index(path, **settings):
    rng = np.random.default_rng(0)
    with Index.create(
        path, DIM, model=MODEL, indexing={"pool_factor": "2"}, backend="numpy", **settings
    ) as index:
        index.add(
            [f"p{i}" if i else "a\0'\" \u2028" for i in range(N)],
            [unit_rows(rng, int(rng.integers(1, 9))) for _ in range(N)],
            [None if i % 9 == 8 else f"text {i} \x01 'quoted' \U0001f600" for i in range(N)],
            [None if i % 7 == 6 else {"n": i, "tags": ["a", "b"], "who": {"name": "Ann"}} for i in range(N)],
            sources=[
                None if i % 5 == 4 else Source(f"s{i % 3}.md", "/notes", f"h{i % 3}", 5, 9) for i in range(N)
            ],
            positions=[{"lines": [i + 1, i + 2], "headings": ["Ä"]} if i % 2 else None for i in range(N)],
        )
    return path


@pytest.fixture
def index_path(tmp_path):
    return make_index(tmp_path / "notes.index", exact_tokens=None)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Several parts, so that an export can be interrupted between two."""
    for name in ("parquet", "vespa", "elasticsearch"):
        monkeypatch.setattr(f"mlx_colbert.stores.{name}.PASSAGES", 32)
    monkeypatch.setattr("mlx_colbert.index_export._PASSAGES_AT_ONCE", 32)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("exact_tokens", [None, 0])
def test_parquet_comes_back_as_an_equal_index(tmp_path, exact_tokens):
    pytest.importorskip("pyarrow")
    path = make_index(tmp_path / "notes.index", exact_tokens=exact_tokens)

    written = export_index(path, tmp_path / "out", "parquet")
    read = import_index(tmp_path / "back.index", tmp_path / "out")

    assert (written.passages, written.exact, read.passages) == (N, exact_tokens is None, N)
    assert (read.engine, read.model, read.texts) == ("parquet", "m", sum(i % 9 != 8 for i in range(N)))
    with Index.open(path) as ours, Index.open(tmp_path / "back.index") as theirs:
        assert list(theirs.passages()) == list(ours.passages())
        assert theirs.sources() == ours.sources()
        assert (theirs.model, theirs.indexing) == (ours.model, ours.indexing)
        assert (theirs.info().nbits, theirs.info().exact_tokens) == (ours.info().nbits, exact_tokens)
        ours_rows, theirs_rows = (index.embeddings(list(index)).vectors for index in (ours, theirs))
        if exact_tokens is None:
            assert np.array_equal(ours_rows, theirs_rows)
        else:
            # Compressed twice, with 4 bits per component.
            assert (ours_rows * theirs_rows).sum(axis=1).min() > 0.9
        assert theirs.verify() == []


@pytest.mark.parametrize("to", ENGINES)
def test_exported_store_answers_as_the_index(index_path, tmp_path, to):
    export_index(index_path, tmp_path / "out", to)

    store = open_store(location(to, tmp_path / "out"))
    with Index.open(index_path, backend="numpy") as index:
        assert list(store.passages()) == list(index.passages())
        assert (store.sources(), store.model, store.indexing) == (index.sources(), MODEL, index.indexing)
        query = unit_rows(np.random.default_rng(5), 4)
        ours, theirs = index.search([query], 5)[0], store.search([query], 5)[0]
        assert [hit.doc_id for hit in theirs] == [hit.doc_id for hit in ours]
        assert [hit.score for hit in theirs] == pytest.approx([hit.score for hit in ours], abs=1e-5)
    store.close()


# Kills itself when so many passages are exported, or before or after a write to the engine.
KILLED = """
import os, signal, sys
import mlx_colbert.index_export as export
path, out, to, moment = sys.argv[1:]
from importlib import import_module
export._PASSAGES_AT_ONCE = 32
if to in ("parquet", "vespa", "elasticsearch"):
    import_module("mlx_colbert.stores." + to).PASSAGES = 32
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
if moment == "in a write":
    from mlx_colbert.stores import engine_store, export_folder
    calls = []
    def counted(function):
        def call(*args, **kwargs):
            calls.append(1)
            if len(calls) == 5:
                kill()
            return function(*args, **kwargs)
        return call
    export_folder.sync = counted(export_folder.sync)
    if to in ("lancedb", "qdrant"):
        module = import_module("mlx_colbert.stores." + to)
        engine = module._Lance if to == "lancedb" else module._Qdrant
        engine.put, engine.put_records = counted(engine.put), counted(engine.put_records)
export.export_index(path, out, to, progress=lambda stage, done, total: done >= 64 and kill())
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["between", "in a write"])
@pytest.mark.parametrize("to", TARGETS)
def test_killed_export_continues_and_is_the_same(index_path, tmp_path, to, moment):
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, index_path, out, to, moment], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    if to in ("lancedb", "qdrant"):
        with pytest.raises(IndexStoreError, match="is not complete"):
            open_store(location(to, out))

    written = export_index(index_path, out, to)

    assert written.continued >= (64 if moment == "between" else 0)
    assert written.passages == N
    if to in ("lancedb", "qdrant"):
        store = open_store(location(to, out))
        with Index.open(index_path, backend="numpy") as index:
            assert list(store.passages()) == list(index.passages())
            assert store.sources() == index.sources()
            ids = list(index)
            assert np.array_equal(store.embeddings(ids).vectors, index.embeddings(ids).vectors)
        store.close()
    else:
        export_index(index_path, tmp_path / "whole", to)
        assert files_of(out) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("to", TARGETS)
def test_nothing_that_exists_is_overwritten(index_path, tmp_path, to):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    export_index(index_path, tmp_path / "complete", to)

    for name in ("file", "folder", "complete"):
        before = files_of(tmp_path)
        with pytest.raises(TargetExistsError):
            export_index(index_path, tmp_path / name, to)
        if to != "qdrant":  # it opens its folder to look
            assert files_of(tmp_path) == before


@pytest.mark.parametrize("to", TARGETS)
def test_export_of_a_changed_index_is_not_continued(index_path, tmp_path, to):
    class Stopped(Exception):
        pass

    def stop(stage, done, total):
        if done >= 64:
            raise Stopped

    with pytest.raises(Stopped):
        export_index(index_path, tmp_path / "out", to, progress=stop)
    with Index.open(index_path) as index:
        index.update_metadata(["p1"], [{"changed": True}])

    with pytest.raises((TargetExistsError, IndexStoreError)):
        export_index(index_path, tmp_path / "out", to)


def test_incomplete_or_damaged_parquet_is_not_imported(index_path, tmp_path):
    pytest.importorskip("pyarrow")
    export_index(index_path, tmp_path / "out", "parquet")
    state = tmp_path / "out" / "export.json"
    complete = state.read_text()

    for wrong in (complete.replace("true", "false"), complete.replace(f'"passages": {N}', '"passages": 10')):
        state.write_text(wrong)
        with pytest.raises(IndexDamagedError):
            import_index(tmp_path / "back", tmp_path / "out")
        assert not (tmp_path / "back").exists()
    state.write_text(complete)
    part = tmp_path / "out" / "part-000002.parquet"
    for content in (b"", b"PAR1 not", part.read_bytes()[:-30]):
        part.write_bytes(content)
        with pytest.raises(IndexDamagedError, match="part-000002"):
            import_index(tmp_path / "back", tmp_path / "out")
        assert not (tmp_path / "back").exists()
    with pytest.raises(InputError, match="Leave the others out"):
        import_index(tmp_path / "back", tmp_path / "out", "model")


def lines(folder):
    return [
        json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().split("\n") if line
    ]


def test_vespa_ranks_as_the_index(index_path, tmp_path):
    export_index(index_path, tmp_path / "out", "vespa")

    schema = (tmp_path / "out/application/schemas/passage.sd").read_text()
    assert schema.count("{") == schema.count("}")
    assert "field tokens type tensor<float>(token{}, x[16])" in schema
    assert "sum(reduce(sum(query(q) * attribute(tokens), x), max, token), querytoken)" in schema
    services = ElementTree.parse(tmp_path / "out/application/services.xml").getroot()
    hosts = ElementTree.parse(tmp_path / "out/application/hosts.xml").getroot()
    assert services.find("content/documents/document").get("type") == "passage"
    assert services.find("content/nodes/node").get("hostalias") == hosts.find("host/alias").text

    # The expression of the schema, in numpy, on what is fed.
    query = unit_rows(np.random.default_rng(5), 4)
    fed = lines(tmp_path / "out/feed")
    scores = {}
    for entry in fed:
        assert entry["put"].startswith("id:passages:passage::")
        tokens = np.array(list(entry["fields"]["tokens"]["blocks"].values()))
        products = (query[:, None, :] * tokens[None, :, :]).sum(axis=2)
        scores[entry["fields"]["doc_id"]] = products.max(axis=1).sum()
    with Index.open(index_path, backend="numpy") as index:
        hits = index.search([query], N)[0]
    expected = {exported.storable_text(hit.doc_id): hit.score for hit in hits}
    # Five significant digits of components below 1, four query tokens.
    assert scores == pytest.approx(expected, abs=4e-4)
    assert "tags=a" in fed[0]["fields"]["facets"] and "who.name=Ann" in fed[0]["fields"]["facets"]


def plain(schema):
    """The lines of a schema of Vespa, in no order, without the choices that mean nothing."""
    words = re.sub(r"#.*", "", schema)
    words = re.sub(r"(attribute|expression)\s*\{\s*([^{}]*(?:\{\}[^{}]*)*)\s*\}", r"\1: \2", words)
    return sorted(" ".join(line.split()) for line in words.splitlines() if line.strip())


def test_vespas_own_package_writes_the_same_schema():
    pytest.importorskip("vespa", reason="pyvespa is not installed: pip install pyvespa")
    from vespa import package
    from vespa.package import Field, Function, RankProfile, SecondPhaseRanking, Summary

    maxsim = "sum(reduce(sum(query(q) * attribute(tokens), x), max, token), querytoken)"
    both, fast = ["summary", "attribute"], ["fast-search"]
    fields = [
        Field("doc_id", "string", both, attribute=fast),
        Field("text", "string", ["summary", "index"], index="enable-bm25"),
        Field("metadata", "string", ["summary"]),
        Field("facets", "array<string>", ["attribute"], attribute=fast),
        Field("source", "string", both, attribute=fast),
        Field("position", "string", ["summary"]),
        Field("tokens", "tensor<float>(token{}, x[16])", ["attribute"], attribute=["paged"]),
    ]
    query = [("query(q)", "tensor<float>(querytoken{}, x[16])")]
    profiles = [
        RankProfile("maxsim", "maxsim", inputs=query, functions=[Function("maxsim", maxsim)]),
        RankProfile(
            "bm25-maxsim",
            "bm25(text)",
            inherits="maxsim",
            second_phase=SecondPhaseRanking("maxsim", rerank_count=200),
        ),
    ]
    shown = [Summary(name) for name in ("doc_id", "text", "metadata", "source", "position")]
    schema = package.Schema(
        "passage",
        package.Document(fields),
        fieldsets=[package.FieldSet("default", ["text"])],
        rank_profiles=profiles,
        document_summaries=[package.DocumentSummary("without-tokens", summary_fields=shown)],
    )
    ours = vespa.fixed_files(DIM)["application/schemas/passage.sd"]
    assert plain(ours) == plain(schema.schema_to_text)


def test_elasticsearch_ranks_as_the_index(index_path, tmp_path):
    export_index(index_path, tmp_path / "out", "elasticsearch")

    properties = json.loads((tmp_path / "out/mapping.json").read_text())["mappings"]["properties"]
    assert properties["tokens"] == {"type": "rank_vectors", "element_type": "float", "dims": DIM}
    query_text = (tmp_path / "out/query.json").read_text()
    assert "maxSimDotProduct(params.query, 'tokens')" in query_text

    query = unit_rows(np.random.default_rng(5), 4)
    sent = lines(tmp_path / "out/bulk")
    actions, documents = sent[::2], sent[1::2]
    assert len({action["index"]["_id"] for action in actions}) == N
    scores = {}
    for document in documents:
        assert document.keys() <= properties.keys()
        scores[document["doc_id"]] = (query @ np.array(document["tokens"]).T).max(axis=1).sum()
    with Index.open(index_path, backend="numpy") as index:
        hits = index.search([query], N)[0]
        assert scores == pytest.approx({hit.doc_id: hit.score for hit in hits}, abs=4e-4)
        first = index.get("p1")
    document = next(document for document in documents if document["doc_id"] == "p1")
    assert (document["text"], document["metadata"]) == (first.text, first.metadata)
    assert (document["source"], document["position"]) == (first.source, first.position)


@pytest.mark.parametrize("written", [vespa, elasticsearch])
def test_a_part_of_long_passages_is_below_the_limit_of_a_request(written):
    rows = unit_rows(np.random.default_rng(0), 100)
    wide = np.tile(rows, (1, 8))
    size = len(json.dumps(exported.short_numbers(wide)))
    # 64 passages of 1,000 tokens of 128 components, in 100 MB.
    assert written.PASSAGES <= 64
    assert size * 10 * 64 < 100_000_000


def test_command_exports_and_says_what_to_do_next(index_path, tmp_path, capsys):
    assert main(["export-index", str(index_path), str(tmp_path / "out"), "--to", "vespa"]) == 0
    assert "150 passages for vespa.\nDeploy application" in capsys.readouterr().out

    assert (
        main(["export-index", str(index_path), str(tmp_path / "es"), "--to", "elasticsearch", "--json"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["passages"], result["continued"], result["dim"], result["exact"]) == (N, 0, DIM, True)

    assert main(["export-index", str(index_path), str(tmp_path / "out"), "--to", "vespa"]) == 1
    assert "The export in it is complete" in capsys.readouterr().err


def test_a_target_that_is_not_known_is_refused(index_path, tmp_path):
    with pytest.raises(InputError, match="to is 'solr', not one of lancedb"):
        export_index(index_path, tmp_path / "out", "solr")
