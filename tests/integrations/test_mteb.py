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
from mlx_colbert.evaluation.dataset import Dataset as Judged  # noqa: E402
from mlx_colbert.evaluation.experiment import evaluate  # noqa: E402
from mlx_colbert.integrations.mteb import MtebColBERT  # noqa: E402

# mteb and its libraries warn of themselves.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TEXTS = {
    "tea": "Tea is steeped in hot water.",
    "bread": "Bread is baked in an oven.",
    "bees": "Bees dance to tell where flowers are.",
    "rain": "Rain falls from clouds.",
}
QUERIES = {"q1": "how is tea made", "q2": "why do bees dance", "q3": "what falls from clouds"}
QRELS = {"q1": {"tea": 1}, "q2": {"bees": 1}, "q3": {"rain": 1, "bread": 0}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "cache-of-mteb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_COLBERT_CACHE", str(folder))
        return ColBERT.load("tests/data/checkpoints/pylate-bert", backend="numpy")


def task(kind, top_ranked=None):
    """A task of mteb with our texts."""

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Local{kind}",
            description="A few sentences.",
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
                        "corpus": Dataset.from_list(
                            [{"id": i, "title": "", "text": text} for i, text in TEXTS.items()]
                        ),
                        "queries": Dataset.from_list([{"id": i, "text": q} for i, q in QUERIES.items()]),
                        "relevant_docs": {q: dict(row) for q, row in QRELS.items()},
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


def test_retrieval_task_has_the_measures_of_our_own_evaluation(model, tmp_path):
    scores = scores_of(MtebColBERT(model), task("Retrieval"), tmp_path)

    judged = Judged.check("local", TEXTS, QUERIES, QRELS)
    (ours,) = evaluate(judged, ["exact"], model=model, measures=["nDCG@10", "RR@10", "R@1"]).systems
    for theirs, name in [("ndcg_at_10", "nDCG@10"), ("mrr_at_10", "RR@10"), ("recall_at_1", "R@1")]:
        # mteb rounds to five digits.
        assert scores[theirs] == pytest.approx(np.mean(list(ours.values[name].values())), abs=1e-5)


def test_reranking_task_scores_the_candidates_alone(model, tmp_path):
    candidates = {"q1": ["bread", "tea"], "q2": ["rain", "bees", "tea"], "q3": ["bread", "rain"]}
    searcher = MtebColBERT(model)

    scores = scores_of(searcher, task("Reranking", candidates), tmp_path)

    documents = {i: model.encode_document(text) for i, text in TEXTS.items()}
    gains = []
    for query, ids in candidates.items():
        rows = model.similarity(model.encode_query(QUERIES[query]), [documents[i] for i in ids])[0]
        best = [ids[i] for i in np.argsort(-rows)]
        gains.append(1 / np.log2(2 + best.index(next(i for i, r in QRELS[query].items() if r))))
    assert scores["ndcg_at_10"] == pytest.approx(np.mean(gains), abs=1e-5)


def test_scores_are_exact_and_a_query_without_candidates_gets_nothing(model):
    searcher = MtebColBERT(model)
    searcher.index(Dataset.from_list([{"id": i, "text": text} for i, text in TEXTS.items()]))
    queries = Dataset.from_list([{"id": i, "text": q} for i, q in QUERIES.items()])

    found = searcher.search(queries, top_k=2, top_ranked={"q1": ["tea", "rain", "bees"], "q2": []})

    assert list(map(len, found.values())) == [2, 0, 0]
    rows = model.similarity(model.encode_query(QUERIES["q1"]), model.encode_document([TEXTS["tea"]]))
    # The index stores float16.
    assert searcher.search(queries, top_k=4)["q1"]["tea"] == pytest.approx(rows[0, 0], abs=0.02)
    searcher.close()


def test_what_is_not_text_is_refused(model):
    searcher = MtebColBERT(model)

    with pytest.raises(InputError, match="nothing is indexed"):
        searcher.search(Dataset.from_list([{"id": "q", "text": "a"}]), top_k=1)
    with pytest.raises(InputError, match="document 'd' is a list, not text"):
        searcher.index(Dataset.from_list([{"id": "d", "text": ["a", "b"]}]))
    with pytest.raises(InputError, match="name is 'mine'"):
        MtebColBERT(model, name="mine")
