"""Systems measured on small datasets: what each ranks, stores and costs, and what is encoded."""

import numpy as np
import pytest

pytest.importorskip("ir_measures", reason="ir-measures is not installed (extra 'eval')")
pytest.importorskip("bm25s", reason="bm25s is not installed (extra 'eval')")

from mlx_colbert import ColBERT
from mlx_colbert.errors import InputError
from mlx_colbert.evaluation.dataset import Dataset
from mlx_colbert.evaluation.encoded import encoded_texts
from mlx_colbert.evaluation.experiment import evaluate, without_self_hits
from mlx_colbert.evaluation.measures import ordered
from mlx_colbert.evaluation.systems import parse_system
from mlx_colbert.evaluation.words import Bm25, words
from mlx_colbert.first_stage.muvera import Muvera
from mlx_colbert.retriever.retriever import Retriever

WORDS = "tea water leaf kettle bread oven flour bees honey flower rain cloud roof slate kite wind".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_COLBERT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return ColBERT.load("tests/data/checkpoints/pylate-bert", backend="numpy")


@pytest.fixture(scope="module")
def dataset():
    """Thirty documents of random words. A query is three words of its document."""
    rng = np.random.default_rng(0)
    documents = {f"d{n:02}": " ".join(rng.choice(WORDS, 12)) for n in range(30)}
    queries = {f"q{n}": " ".join(documents[f"d{n:02}"].split()[:3]) for n in range(8)}
    return Dataset.check("words", documents, queries, {f"q{n}": {f"d{n:02}": 1} for n in range(8)})


def test_exact_system_ranks_as_the_similarity_of_the_model(dataset, model):
    (result,) = evaluate(dataset, ["exact"], model=model, k=5).systems

    # The index stores float16.
    documents = model.encode_document(list(dataset.documents.values()))
    scores = model.similarity(model.encode_query(list(dataset.queries.values())), documents)
    for query, row in zip(dataset.queries, scores, strict=True):
        expected = ordered(dict(zip(dataset.documents, row.tolist(), strict=True)))
        assert list(result.run[query].values()) == pytest.approx(list(expected.values())[:5], abs=0.02)
    assert result.n_vectors == documents.lengths.sum()
    assert result.n_bytes > 2 * documents.vectors.size
    assert result.ms > 0 and result.build_s > 0


def test_hybrid_system_ranks_as_a_retriever_does(dataset, model, tmp_path):
    (result,) = evaluate(dataset, ["hybrid"], model=model, k=30).systems

    with Retriever.create(tmp_path / "index", model) as retriever:
        retriever.add(list(dataset.documents.values()), list(dataset.documents))
        for query, text in dataset.queries.items():
            hits = retriever.search(text, 30, mode="hybrid")
            assert result.run[query] == pytest.approx({hit.doc_id: hit.score for hit in hits})


def test_smaller_systems_store_less(dataset, model):
    found = evaluate(dataset, ["exact", "8bit", "2bit", "pool2", "pool3+2bit", "mean"], model=model).systems
    sizes = {result.name: result.n_bytes for result in found}
    vectors = {result.name: result.n_vectors for result in found}

    assert sizes["mean"] == 30 * model.dim * 4
    assert sizes["2bit"] < sizes["8bit"]
    assert (
        vectors["exact"] == vectors["2bit"] > vectors["pool2"] > vectors["pool3+2bit"] > vectors["mean"] == 30
    )


def test_muvera_ranks_by_its_encodings(dataset, model):
    (result,) = evaluate(dataset, ["muvera"], model=model, k=5).systems

    documents = encoded_texts(model, list(dataset.documents.values()), "document")
    muvera = Muvera.fit(documents)
    queries = muvera.encode_query(model.encode_query(list(dataset.queries.values())))
    # Stored as float16.
    for query, row in zip(dataset.queries, queries @ muvera.encode_document(documents).T, strict=True):
        expected = ordered(dict(zip(dataset.documents, row.tolist(), strict=True)))
        assert list(result.run[query].values()) == pytest.approx(list(expected.values())[:5], abs=0.02)
    assert (result.n_vectors, result.n_bytes) == (30, 30 * muvera.size * 2)


def test_two_stages_score_the_candidates_of_muvera_as_the_index_does(dataset, model, monkeypatch):
    systems = ["exact", "muvera", "muvera+exact"]
    exact, first, both = evaluate(dataset, systems, model=model, k=5).systems

    # Thirty documents are fewer than the candidates.
    assert [list(hits) for hits in both.run.values()] == [list(hits) for hits in exact.run.values()]
    assert (both.n_bytes, both.n_vectors) == (exact.n_bytes + first.n_bytes, exact.n_vectors + 30)
    monkeypatch.setattr("mlx_colbert.evaluation.systems._N_CANDIDATES", 5)
    (both,) = evaluate(dataset, ["muvera+exact"], model=model, k=4).systems
    for query, hits in both.run.items():
        assert hits.keys() <= first.run[query].keys()


def test_chunked_documents_are_read_to_their_end(model):
    texts = {"long": "kite " * 300 + "honey bees", "short": "rain on the roof"}
    dataset = Dataset.check("long", texts, {"q": "honey bees"}, {"q": {"long": 1}})

    cut, whole = evaluate(dataset, ["exact", "chunk"], model=model).systems

    assert whole.n_vectors > cut.n_vectors
    assert whole.run["q"]["long"] > cut.run["q"]["long"]


def test_one_encoding_serves_all_systems(dataset, model, monkeypatch):
    encoded = []
    encode = model.encode_document
    monkeypatch.setattr(
        model, "encode_document", lambda texts, **how: encoded.extend(texts) or encode(texts, **how)
    )

    evaluate(dataset, ["exact", "4bit", "pool2", "hybrid", "mean"], model=model)

    assert encoded == list(dataset.documents.values())


def test_cache_serves_the_next_run_and_another_setting_does_not_use_it(dataset, model, tmp_path, monkeypatch):
    texts = list(dataset.documents.values())
    first = encoded_texts(model, texts, "document", cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr("mlx_colbert.evaluation.encoded._encode", lambda *_: pytest.fail("encoded again"))

    again = encoded_texts(model, texts, "document", cache=tmp_path / "cache")

    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert again.vectors.dtype == np.float16
    monkeypatch.undo()
    encoded_texts(model, texts, "document", on_overflow="chunk", cache=tmp_path / "cache")
    encoded_texts(model, texts, "query", cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3
    # What was cut short is encoded again.
    file.write_bytes(file.read_bytes()[:100])
    mended = encoded_texts(model, texts, "document", cache=tmp_path / "cache")
    np.testing.assert_array_equal(mended.vectors, first.vectors)


def test_texts_are_encoded_in_parts_and_reported(model, monkeypatch):
    monkeypatch.setattr("mlx_colbert.evaluation.encoded._TEXTS_AT_ONCE", 2)
    told = []

    found = encoded_texts(model, ["a", "b c", "d"], "document", progress=lambda *what: told.append(what))

    whole = model.encode_document(["a", "b c", "d"])
    np.testing.assert_allclose(found.vectors, whole.vectors, atol=1e-3)
    assert told == [("encoding", 2, 3), ("encoding", 3, 3)]


def test_self_hits_are_left_out_unless_they_are_judged(model):
    texts = {"a": "tea leaf", "b": "tea leaf kettle", "c": "bread oven"}
    dataset = Dataset.check(
        "own", texts, {"a": "tea leaf", "b": "tea"}, {"a": {"b": 1}, "b": {"b": 1, "a": 0}}
    )

    (result,) = evaluate(dataset, ["bm25"], k=1).systems
    (kept,) = evaluate(dataset, ["bm25"], k=1, keep_self_hits=True).systems

    assert [list(hits) for hits in result.run.values()] == [["b"], list(kept.run["b"])]
    assert list(kept.run["a"]) == ["a"]
    run = {"a": {"a": 2.0, "b": 1.0}, "b": {"b": 1.0}}
    assert without_self_hits(run, dataset) == {"a": {"b": 1.0}, "b": {"b": 1.0}}


def test_runs_of_other_programs_are_measured_and_compared(dataset):
    perfect = {query: {next(iter(row)): 1.0} for query, row in dataset.qrels.items()}

    found = evaluate(dataset, ["bm25"], runs={"oracle": perfect, "nothing": {}}, against="oracle").to_dict()

    assert found["systems"]["oracle"]["measures"]["nDCG@10"]["mean"] == 1.0
    assert found["systems"]["oracle"]["measures"]["nDCG@10"]["against"] is None
    nothing = found["systems"]["nothing"]["measures"]["nDCG@10"]
    assert nothing["against"]["difference"] == -1.0 and nothing["against"]["n_worse"] == 8
    assert found["systems"]["nothing"]["bytes"] is None


def test_k_limits_the_rankings(dataset, model):
    systems = ["exact", "mean", "muvera", "muvera+exact", "bm25", "hybrid"]
    for result in evaluate(dataset, systems, model=model, k=3).systems:
        assert max(map(len, result.run.values())) == 3


@pytest.mark.parametrize("name", ["exakt", "3bit", "pool", "pool0", "bm25+4bit", "", "+", "chunk+"])
def test_unknown_system_is_refused(name):
    with pytest.raises(InputError, match=r"the system .* is not known"):
        parse_system(name)


def test_parts_of_a_name_are_joined():
    found = parse_system("chunk+pool3+4bit+hybrid")

    assert (found.on_overflow, found.pool_factor, found.nbits, found.kind) == ("chunk", 3, 4, "hybrid")
    assert not found.first_stage
    assert (parse_system("muvera+2bit").first_stage, parse_system("muvera").kind) == (True, "muvera")


def test_wrong_calls_are_refused(dataset):
    with pytest.raises(InputError, match="the system 4bit needs a model"):
        evaluate(dataset, ["bm25", "4bit"])
    with pytest.raises(InputError, match="there is nothing to measure"):
        evaluate(dataset, [])
    with pytest.raises(InputError, match="a name twice"):
        evaluate(dataset, ["bm25"], runs={"bm25": {}})
    with pytest.raises(InputError, match="the run mine has no query of dataset words"):
        evaluate(dataset, [], runs={"mine": {"other": {"d01": 1.0}}})
    with pytest.raises(InputError, match="none of the systems bm25"):
        evaluate(dataset, ["bm25"], against="exact")


def test_word_is_a_run_of_letters_or_one_ideograph():
    assert words("Né en 1990, 東京タ x_1") == ["né", "en", "1990", "東", "京", "タ", "x_1"]


def test_bm25_is_the_hand_computed_value():
    index = Bm25(["coffee is brewed", "bread is baked", "tea is steeped"])
    # Lucene's: idf · f / (f + k1 (1 - b + b · length / mean length)); all lengths are equal.
    expected = np.log(1 + (3 - 1 + 0.5) / (1 + 0.5)) / (1 + 0.9)

    assert index.best("Brewed coffee?", 3) == [(0, pytest.approx(2 * expected, rel=1e-5))]


@pytest.mark.parametrize("query", ["", "?!", "unknown"])
def test_bm25_of_a_query_without_known_words_finds_nothing(query):
    assert Bm25(["coffee is brewed"]).best(query, 3) == []
    assert Bm25(["", "..."]).best(query, 3) == []
