from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert
from mlx_colbert.errors import ConfigError, InputError
from mlx_colbert.model import batching
from mlx_colbert.model.folder import read_config
from mlx_colbert.model.tokenizer import Tokenizer

CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints"
LENGTHS = [1, 30, 31, 32, 33, 40]


@pytest.fixture
def model(backend):
    return ColBERT.load(CHECKPOINTS / "pylate-bert", backend=backend)


def test_one_text_gives_one_array_and_a_list_gives_a_ragged_sequence(model):
    alone, several = model.encode_document("The cat."), model.encode_document(["The cat.", ""])
    assert alone.ndim == 2
    assert alone.dtype == np.float32
    assert len(several) == 2
    np.testing.assert_allclose(several[0], alone, atol=1e-6)


def test_empty_list_gives_an_empty_sequence(model):
    assert len(model.encode_query([])) == 0
    assert model.encode_document([]).vectors.shape == (0, model.dim)


@pytest.mark.parametrize(
    "text", ["", " ", "a", "...!?", "😀👩‍🚀", "北京", "\x00\x07", "\n\t", "word " * 10_000]
)
def test_every_text_has_unit_vectors(model, text):
    for vectors in (model.encode_query(text), model.encode_document(text)):
        assert len(vectors) >= 1
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", ["pylate-bert", "pylate-modernbert", "native-modernbert", "pylate-xlmr"])
def test_no_length_gives_nan_in_half_precision(name):
    pytest.importorskip("mlx.core")
    model = ColBERT.load(CHECKPOINTS / name, backend="mlx", dtype="float16")
    texts = ["cat " * n for n in LENGTHS]
    assert np.isfinite(model.encode_document(texts).vectors).all()
    assert np.isfinite(model.encode_query(texts).vectors).all()


@pytest.mark.parametrize("length", [31, 128, 224, 256, 288, 512])
def test_mixed_batch_of_a_long_local_attention_model_is_finite_and_equal_to_each_alone(
    tmp_path, backend, length
):
    source = Path(shutil.copytree(CHECKPOINTS / "plain-modernbert", tmp_path / "source"))
    for file, changes in (
        ("config.json", {"max_position_embeddings": 1024, "local_attention": 16}),
        ("tokenizer_config.json", {"model_max_length": 1024}),
    ):
        values = json.loads((source / file).read_text())
        (source / file).write_text(json.dumps(values | changes))
    model = ColBERT.load(source, backend=backend, dtype="float32")
    assert model.config.colbert.document_length == 1024
    texts = ["the " * (length - 2), "the cat", ""]
    together = model.encode_document(texts)
    assert np.isfinite(together.vectors).all()
    for text, rows in zip(texts, together, strict=True):
        np.testing.assert_allclose(model.encode_document(text), rows, atol=1e-5)


def test_order_is_kept_over_many_batches(model, monkeypatch):
    monkeypatch.setattr(model._ops, "batch_tokens", 64)
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 25)
    texts = ["cat " * (n % 7) + str(n) for n in range(70)]
    together = model.encode_document(texts)
    for position in (0, 17, 59):
        np.testing.assert_allclose(model.encode_document(texts[position]), together[position], atol=1e-5)


@pytest.mark.parametrize("texts", [None, 3, {"a": 1}, ["a", None], [b"a"], ["\ud800"]])
def test_what_is_no_text_is_refused(model, texts):
    with pytest.raises(InputError):
        model.encode_document(texts)


def test_numpy_refuses_half_precision():
    with pytest.raises(ConfigError, match="float16 needs the MLX backend"):
        ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy", dtype="float16")


def test_similarity_of_single_arrays_is_one_by_one(model):
    query, document = model.encode_query("cat"), model.encode_document("the cat")
    assert model.similarity(query, document).shape == (1, 1)
    assert model.similarity_pairwise([query], [document])[0] == pytest.approx(
        model.similarity(query, document)[0, 0]
    )


def test_mean_maxsim_divides_by_the_number_of_query_tokens(backend):
    model = ColBERT.load(CHECKPOINTS / "native-bert", backend=backend)
    queries, documents = model.encode_query(["cat", "a dog"]), model.encode_document(["the cat", "dogs"])
    plain = model.similarity(queries, documents)
    colbert = dataclasses.replace(model.config.colbert, similarity="meanmaxsim")
    model.config = dataclasses.replace(model.config, colbert=colbert)
    np.testing.assert_allclose(
        model.similarity(queries, documents), plain / queries.lengths[:, None], rtol=1e-6
    )


def test_rerank_orders_by_score_and_keeps_the_ids(model):
    documents = ["the cat", "a dog", "the bird sings"]
    hits = model.rerank("cat", documents, k=2, doc_ids=["x", "y", "z"])
    scores = model.similarity(model.encode_query(["cat"]), model.encode_document(documents))[0]
    best = np.argsort(-scores)[:2]
    assert [hit.doc_id for hit in hits] == ["xyz"[i] for i in best]
    assert [hit.rank for hit in hits] == [1, 2]
    assert [hit.text for hit in hits] == [documents[i] for i in best]


def test_rerank_keeps_the_order_of_equal_documents(model):
    assert [hit.doc_id for hit in model.rerank("cat", ["same", "same", "same"])] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("query", "documents", "options"),
    [
        ("q", "one text", {}),
        ("q", ["a"], {"k": 0}),
        ("q", ["a"], {"doc_ids": ["1", "2"]}),
        (["q"], ["a"], {}),
    ],
)
def test_rerank_refuses_what_it_cannot_use(model, query, documents, options):
    with pytest.raises(InputError):
        model.rerank(query, documents, **options)


def test_explanation_reads_the_texts_and_sums_to_the_score(model):
    query, document = "The cat", "A dog, the cat."
    matches = model.explain(query, document)
    score = model.similarity(model.encode_query(query), model.encode_document(document))[0, 0]
    assert sum(match.similarity for match in matches) == pytest.approx(float(score), rel=1e-5)
    assert len(matches) == len(model.encode_query(query))
    assert matches[0].query_token == "[CLS]"
    kept = len(model.encode_document(document))
    assert all(0 <= match.document_position < kept for match in matches)
    # The skiplist drops punctuation, so no query token can match it.
    assert not {match.document_token for match in matches} & {",", "."}


def test_fingerprint_changes_with_the_settings_and_the_weights(tmp_path):
    loaded = [ColBERT.load(CHECKPOINTS / name, backend="numpy") for name in ("pylate-bert", "native-bert")]
    half = ColBERT.load(
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "m", dtype="float16"), backend="numpy"
    )
    assert len({model.fingerprint for model in [*loaded, half]}) == 3
    again = ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy")
    assert again.fingerprint == loaded[0].fingerprint


def test_progress_bar_is_shown_when_asked_for(model, capsys):
    model.encode_document(["cat"] * 3, show_progress=True)
    assert "encoding: 100%" in capsys.readouterr().err
    model.encode_document(["cat"] * 100)
    assert capsys.readouterr().err == ""


def test_model_says_whether_it_reads_a_document_to_its_end(model):
    longest = model.config.colbert.document_length
    assert model.fits("the")
    assert not model.fits("the " * longest)
    assert model.fits("the " * (longest - 3))


def test_lengths_are_raised_up_to_the_encoders_and_no_further(backend):
    model = ColBERT.load(CHECKPOINTS / "pylate-bert", backend=backend)
    limit = model.config.encoder.max_length
    longer = ColBERT.load(
        CHECKPOINTS / "pylate-bert", backend=backend, document_length=limit, query_length=20
    )
    assert len(longer.token_ids("the " * 1000, "document")) == limit > model.config.colbert.document_length
    assert len(longer.token_ids("the " * 1000, "query")) == 20
    assert longer.fingerprint != model.fingerprint
    with pytest.raises(ConfigError, match=f"document_length {limit + 1} exceeds the encoder's {limit}"):
        ColBERT.load(CHECKPOINTS / "pylate-bert", backend=backend, document_length=limit + 1)


@pytest.mark.parametrize("length", [2, 0, -1, "64", 64.0, True])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises((ConfigError, InputError), match=r"document_length"):
        ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy", document_length=length)


def words_of(model, n_tokens):
    """A text of so many tokens, [CLS], marker and [SEP] included, no two neighbours alike."""
    words = ("the candidate of planet document such red score file over " * n_tokens).split()[: n_tokens - 3]
    assert len(model.token_ids(" ".join(words[:10]), "document")) == 13
    return words


def test_chunked_document_is_its_windows_one_after_the_other(model):
    length = model.config.colbert.document_length
    words = words_of(model, 2 * length)
    room = length - 3
    step = room - min(32, room // 4)
    windows = [" ".join(words[start : start + room]) for start in range(0, len(words), step)]
    windows = [text for text in windows if len(text.split()) > room - step]

    whole = model.encode_document(" ".join(words), on_overflow="chunk")

    assert len(windows) == 3
    np.testing.assert_allclose(whole, model.encode_document(windows).vectors, atol=1e-5)
    (query,) = model.encode_query(["the planet"])
    scores = model.similarity(query, model.encode_document(windows))
    token_scores = [(query @ rows.T).max(axis=1) for rows in model.encode_document(windows)]
    assert model.similarity(query, whole)[0, 0] == pytest.approx(np.max(token_scores, axis=0).sum(), abs=1e-4)
    assert model.similarity(query, whole)[0, 0] >= scores.max() - 1e-4


def test_texts_around_the_limit_are_chunked_without_loss(model):
    length = model.config.colbert.document_length
    (prefix,) = {tuple(model.token_ids("", "document")[:2])}
    for n_tokens in (length - 1, length, length + 1, 2 * length, 5 * length + 7):
        words = words_of(model, n_tokens)
        tokens = model.tokenize_documents([" ".join(words)], on_overflow="chunk")
        ids = [row.ids.tolist() for row in tokens.rows]
        assert all(len(row) <= length and tuple(row[:2]) == prefix and row[-1] == ids[0][-1] for row in ids)
        assert (len(ids) > 1) == (n_tokens > length)
        overlap = min(32, (length - 3) // 4)
        news = [row[2 + overlap : -1] for row in ids[1:]]
        assert len(ids[0]) - 3 + sum(map(len, news)) == n_tokens - 3
        assert all(before[-1 - overlap : -1] == row[2 : 2 + overlap] for before, row in pairwise(ids))


def test_short_and_long_documents_are_chunked_together_in_order(model, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 2)
    length = model.config.colbert.document_length
    texts = [
        "the cat",
        " ".join(words_of(model, 3 * length)),
        "",
        " ".join(words_of(model, 2 * length)),
        "it",
    ]
    texts *= 20
    together = model.encode_document(texts, on_overflow="chunk")
    assert len(together) == 100
    for text, rows in zip(texts[-5:], together[-5:], strict=True):
        np.testing.assert_allclose(model.encode_document(text, on_overflow="chunk"), rows, atol=1e-5)


def test_truncation_is_counted_and_chunking_truncates_nothing(model):
    texts = ["the cat", "the " * 1000]
    assert model.tokenize_documents(texts).n_truncated == 1
    assert model.tokenize_documents(texts, on_overflow="chunk").n_truncated == 0


def test_document_that_overflows_is_an_error_on_request(model):
    length = model.config.colbert.document_length
    with pytest.raises(
        InputError, match=rf"text 1: has 1,003 tokens, more than the document_length of {length}"
    ):
        model.encode_document(["the", "the " * 1000], on_overflow="error")
    with pytest.raises(InputError, match="'b': has 1,003 tokens"):
        model.tokenize_documents(["the", "the " * 1000], on_overflow="error", names=["a", "b"])
    assert len(model.encode_document(["the", "the " * (length - 3)], on_overflow="error")) == 2
    with pytest.raises(InputError, match="on_overflow is 'drop', not one of truncate, error, chunk"):
        model.encode_document("the", on_overflow="drop")


def test_chunked_document_is_reranked_and_explained_to_its_end(model):
    document = "the " * 200 + "elephant"
    assert "elephant" not in {m.document_token for m in model.explain("elephant", document)}
    matches = model.explain("elephant", document, on_overflow="chunk")
    (hit,) = model.rerank("elephant", [document], on_overflow="chunk")
    assert sum(match.similarity for match in matches) == pytest.approx(hit.score, rel=1e-5)
    rows = model.encode_document(document, on_overflow="chunk")
    assert max(match.document_position for match in matches) > len(rows) - 5


@pytest.mark.parametrize("name", ["pylate-modernbert", "native-xlmr", "pylate-roberta", "stanford-bert"])
def test_windows_of_every_tokenizer_begin_and_end_as_a_document_does(name):
    model = ColBERT.load(CHECKPOINTS / name, backend="numpy")
    whole = model.token_ids("the cat " * 200, "document")
    tokens = model.tokenize_documents(["the cat " * 200], on_overflow="chunk")
    assert tokens.rows[0].ids.tolist() == whole
    n_marker = len(model.token_ids("", "document")) - 1
    for row in tokens.rows:
        assert row.ids[:n_marker].tolist() == whole[:n_marker] and row.ids[-1] == whole[-1]


def test_document_length_that_holds_no_text_beside_the_prompt_is_refused():
    model = ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy", document_length=3)
    with pytest.raises(ConfigError, match="is too small: markers and prompt take 3 tokens"):
        model.encode_document("the cat", on_overflow="chunk")


def test_prompt_that_the_tokenizer_joins_with_the_text_is_in_every_window(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    config = read_config(folder).colbert
    prompt = config.document_prefix + "query: document"
    tokenizer = Tokenizer(folder / "tokenizer.json", dataclasses.replace(config, document_prefix=prompt))
    # The last word of the prompt goes on in the text: another token.
    tokens = tokenizer.documents(["s the planet " + "of the planet " * 100], on_overflow="chunk")
    opening = tokenizer.documents(["s"]).rows[0].ids
    shared = [row.ids[:4].tolist() for row in tokens.rows]
    assert len(shared) > 3 and all(start == shared[0] == opening[:4].tolist() for start in shared)


def test_model_says_what_it_is_and_that_each_process_loads_its_own(model):
    assert repr(model) == f"<ColBERT {model.source!r}: {model.dim} components, {model.backend}>"
    with pytest.raises(TypeError, match=r"Load it in each process: ColBERT\.load"):
        pickle.dumps(model)


def test_model_with_other_lengths_is_the_one_that_load_gives_with_them(data):
    folder = data / "checkpoints" / "pylate-bert"
    model = ColBERT.load(folder, backend="numpy")
    text = "green leaves and white snow and black coal " * 20

    changed = model.with_lengths(query_length=20, document_length=64)
    loaded = ColBERT.load(folder, backend="numpy", query_length=20, document_length=64)
    assert (changed.fingerprint, changed.lengths) == (loaded.fingerprint, loaded.lengths)
    for encode in ("encode_query", "encode_document"):
        np.testing.assert_array_equal(getattr(changed, encode)(text), getattr(loaded, encode)(text))
    assert len(changed.encode_document(text)) > len(model.encode_document(text))
    # One length stays as it was, also if it was chosen before.
    assert changed.with_lengths(document_length=32).lengths == {"query_length": 20, "document_length": 32}
    assert model.with_lengths().fingerprint == model.fingerprint


@pytest.mark.parametrize("length", [2, 10_000, 3.5, True])
def test_lengths_that_the_model_cannot_have_are_refused(data, length):
    model = ColBERT.load(data / "checkpoints" / "pylate-bert", backend="numpy")

    with pytest.raises((ConfigError, InputError)):
        model.with_lengths(document_length=length)
