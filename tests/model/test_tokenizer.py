from __future__ import annotations

import json
from pathlib import Path

import pytest
from decoders import DECODERS, skip_decoder

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert
from mlx_colbert.errors import CheckpointError
from mlx_colbert.model.folder import read_config
from mlx_colbert.model.tokenizer import Tokenizer

CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints"


def load(name: str) -> ColBERT:
    return ColBERT.load(CHECKPOINTS / name, backend="numpy")


def vocabulary(name: str) -> dict[str, int]:
    return json.loads((CHECKPOINTS / name / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]


def test_marker_is_one_id_after_cls():
    ids, words = load("stanford-bert"), vocabulary("stanford-bert")
    assert ids.token_ids("", "query")[:3] == [words["[CLS]"], words["[unused0]"], words["[SEP]"]]
    assert ids.token_ids("", "document") == [words["[CLS]"], words["[unused1]"], words["[SEP]"]]


def test_query_is_filled_with_mask_to_its_length_and_the_document_is_not():
    model, words = load("stanford-bert"), vocabulary("stanford-bert")
    ids = model.token_ids("a", "query")
    assert len(ids) == model.config.colbert.query_length
    assert set(ids[4:]) == {words["[MASK]"]}
    assert words["[MASK]"] not in model.token_ids("a", "document")


def test_long_text_is_truncated_before_sep():
    model, words = load("stanford-bert"), vocabulary("stanford-bert")
    for task, length in (("query", 16), ("document", 40)):
        ids = model.token_ids("the cat " * 500, task)
        assert len(ids) == length
        assert ids[-1] == words["[SEP]"]


def test_minimal_expansion_fills_short_queries_and_keeps_long_ones():
    model = load("native-modernbert")
    assert len(model.token_ids("", "query")) == 12
    assert 12 < len(model.token_ids("the cat and the dog " * 4, "query")) <= 24


def test_unattended_fill_is_scored_but_not_attended(tmp_path):
    folder = convert(CHECKPOINTS / "stanford-bert", tmp_path / "model")
    (tokens,) = Tokenizer(folder / "tokenizer.json", read_config(folder).colbert).queries(["a"]).rows
    assert tokens.n_attended == 4
    assert tokens.scored.all()
    assert len(tokens.ids) == 16


def test_punctuation_is_dropped_from_documents_only():
    model = load("stanford-bert")
    assert len(model.encode_document("a , . !")) == len(model.encode_document("a"))
    assert len(model.encode_query("a , . !")) == len(model.encode_query("a"))


def test_document_of_punctuation_alone_keeps_its_special_tokens():
    assert len(load("stanford-bert").encode_document("...!?")) == 3


def test_lower_casing_is_the_tokenizers():
    model = load("pylate-modernbert")
    assert model.token_ids("THE CAT", "query") == model.token_ids("the cat", "query")


def test_marker_in_the_text_is_not_shattered():
    words = vocabulary("stanford-bert")
    ids = load("stanford-bert").token_ids("a [unused0] b", "document")
    assert words["[unused0]"] in ids


def test_file_that_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    config = read_config(convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")).colbert
    with pytest.raises(CheckpointError, match="the tokenizer does not work"):
        Tokenizer(tmp_path / "tokenizer.json", config)


HOSTILE = [
    entry["text"] * entry["times"]
    for entry in json.loads((CHECKPOINTS.parent / "hostile.json").read_text(encoding="utf-8"))
]
HOSTILE_IDS = json.loads((CHECKPOINTS.parent / "reference" / "hostile-ids.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("task", ["query", "document"])
@pytest.mark.parametrize("name", sorted(path.name for path in CHECKPOINTS.iterdir()))
def test_hostile_texts_have_the_references_ids(name, task):
    backend = "mlx" if name in DECODERS else "numpy"
    skip_decoder(name, backend)
    model = ColBERT.load(CHECKPOINTS / name, backend=backend)
    assert [model.token_ids(text, task) for text in HOSTILE] == HOSTILE_IDS[name][task]
