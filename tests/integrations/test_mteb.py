"""mteb runs a retrieval and a reranking task of a folder, without a network."""

import numpy as np
import pytest

mteb = pytest.importorskip("mteb", reason="mteb is not installed (extra 'mteb')")

from datasets import Dataset  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import SearchProtocol  # noqa: E402

from mlx_colbert import ColBERT  # noqa: E402
from mlx_colbert.errors import InputError  # noqa: E402
from mlx_colbert.evaluation.beir import read_beir  # noqa: E402
from mlx_colbert.evaluation.dataset import Dataset as Judged  # noqa: E402
from mlx_colbert.evaluation.experiment import evaluate  # noqa: E402
from mlx_colbert.evaluation.measures import measured, ordered  # noqa: E402
from mlx_colbert.integrations.mteb import MtebColBERT  # noqa: E402

# mteb and its libraries warn of themselves.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Paragraphs of Wikipedia and questions, in BEIR's layout.
FOLDER = "examples/data/xquad-en"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "cache-of-mteb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_COLBERT_CACHE", str(folder))
        return ColBERT.load("tests/data/checkpoints/pylate-bert", backend="numpy")


@pytest.fixture(scope="module")
def judged():
    """Twenty questions, and the paragraphs that answer them among twenty others."""
    whole = read_beir(FOLDER, max_queries=20)
    wanted = {document for row in whole.qrels.values() for document in row}
    kept = {*wanted, *list(whole.documents)[:20]}
    documents = {document: text for document, text in whole.documents.items() if document in kept}
    return Judged.check("xquad-en", documents, whole.queries, whole.qrels)


def rows(texts):
    """Texts as mteb has them."""
    return Dataset.from_list([{"id": text_id, "text": text} for text_id, text in texts.items()])


def task(judged, kind, top_ranked=None):
    """A task of mteb with these texts."""

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Local{kind}",
            description="Paragraphs of Wikipedia.",
            reference=None,
            dataset={"path": "local/local", "revision": "1"},
            type=kind,
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=None,
            domains=None,
            task_subtypes=None,
            license=None,
            annotations_creators=None,
            dialect=None,
            sample_creation=None,
            bibtex_citation=None,
        )

        def load_data(self, *args, **kwargs):
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": rows(judged.documents),
                        "queries": rows(judged.queries),
                        "relevant_docs": {query: dict(row) for query, row in judged.qrels.items()},
                        "top_ranked": top_ranked,
                    }
                }
            }
            self.data_loaded = True

    return Local()


def scores_of(model, one_task, tmp_path):
    cache = mteb.ResultCache(tmp_path)
    result = mteb.evaluate(model, one_task, cache=cache, overwrite_strategy="always")
    (found,) = result.task_results[0].scores["test"]
    return found


def test_class_satisfies_the_protocol_of_mteb(model):
    searcher = MtebColBERT(model)

    assert isinstance(searcher, SearchProtocol)
    meta = searcher.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.model_type) == (
        "local/pylate-bert",
        model.dim,
        ["late-interaction"],
    )
    assert meta.revision == model.fingerprint


def test_retrieval_task_has_the_measures_of_our_own_evaluation(model, judged, tmp_path):
    scores = scores_of(MtebColBERT(model), task(judged, "Retrieval"), tmp_path)

    (ours,) = evaluate(judged, ["exact"], model=model, measures=["nDCG@10", "RR@10", "R@5"]).systems
    for theirs, name in [("ndcg_at_10", "nDCG@10"), ("mrr_at_10", "RR@10"), ("recall_at_5", "R@5")]:
        # mteb rounds to five digits.
        assert scores[theirs] == pytest.approx(np.mean(list(ours.values[name].values())), abs=1e-5)
    assert 0 < scores["ndcg_at_10"] < 1


def test_reranking_task_scores_the_candidates_alone(model, judged, tmp_path):
    words = evaluate(judged, ["bm25"], k=10).systems[0].run
    candidates = {query: list(hits) for query, hits in words.items()}

    scores = scores_of(MtebColBERT(model), task(judged, "Reranking", candidates), tmp_path)

    reranked = {}
    for query, ids in candidates.items():
        documents = model.encode_document([judged.documents[document] for document in ids])
        values = model.similarity(model.encode_query(judged.queries[query]), documents)[0]
        reranked[query] = ordered(dict(zip(ids, values.tolist(), strict=True)))
    ours = measured(reranked, judged.qrels, ["nDCG@10"])["nDCG@10"]
    assert scores["ndcg_at_10"] == pytest.approx(np.mean(list(ours.values())), abs=1e-5)


def test_scores_are_exact_and_a_query_without_candidates_gets_nothing(model, judged):
    searcher = MtebColBERT(model)
    searcher.index(rows(judged.documents))
    (first, second, *_), (one, other, third, *_) = judged.queries, judged.documents

    found = searcher.search(
        rows(judged.queries), top_k=2, top_ranked={first: [one, other, third], second: []}
    )

    assert [len(found[query]) for query in (first, second)] == [2, 0]
    every = searcher.search(rows(judged.queries), top_k=len(judged.documents))
    value = model.similarity(
        model.encode_query(judged.queries[first]), model.encode_document(judged.documents[one])
    )
    # The index stores float16.
    assert every[first][one] == pytest.approx(value[0, 0], abs=0.02)
    searcher.close()


def test_what_is_not_text_is_refused(model):
    searcher = MtebColBERT(model)

    with pytest.raises(InputError, match="nothing is indexed"):
        searcher.search(Dataset.from_list([{"id": "q", "text": "a"}]), top_k=1)
    with pytest.raises(InputError, match="document 'd' is a list, not text"):
        searcher.index(Dataset.from_list([{"id": "d", "text": ["a", "b"]}]))
    with pytest.raises(InputError, match="name is 'mine'"):
        MtebColBERT(model, name="mine")
