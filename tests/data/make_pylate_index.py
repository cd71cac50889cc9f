"""Writes old-indexes/pylate-fast and old-indexes/pylate-stanford with PyLate: python make_pylate_index.py."""

import json
import os
import random
import shutil
from importlib.metadata import version

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from make_index_vectors import INDEXES, documents, queries, save_scores, trim
from pylate import indexes
from sqlitedict import SqliteDict

DIM = 16


def main():
    torch.set_num_threads(1)
    fast()
    stanford()


def fast():
    """The default: a fast-plaid index and two pickles of ids; documents removed, updated and added twice."""
    index = indexes.PLAID(
        str(INDEXES),
        "pylate-fast",
        override=True,
        nbits=4,
        n_ivf_probe=256,
        show_progress=False,
        device="cpu",
    )
    vectors = documents(n=30, dim=DIM, seed=3)
    index.add_documents([f"doc-{n}" for n in range(27)], vectors[:27])
    index.remove_documents(["doc-4", "doc-20"])
    index.update_documents(["doc-9"], vectors[27:28])
    # Added again, "doc-1" leaves its old vectors behind under the same id.
    index.add_documents(["doc-1", "größe"], vectors[28:])
    _score("pylate-fast", index, 26, history="doc-0 to doc-26; 4, 20 removed; 9, 1 replaced; größe added")
    trim(INDEXES / "pylate-fast" / "fast_plaid_index")


def stanford():
    """use_fast=False: colbert-ai's files and the two pickles in one folder."""
    random.seed(0)
    torch.manual_seed(0)
    index = indexes.PLAID(
        str(INDEXES),
        "pylate-stanford",
        override=True,
        use_fast=False,
        nbits=2,
        embedding_size=DIM,
        ncells=256,
        centroid_score_threshold=-9.0,
        ndocs=8192,
    )
    vectors = documents(n=24, dim=DIM, seed=4)
    index.add_documents([f"doc-{n}" for n in range(22)], vectors[:22])
    index.remove_documents(["doc-5", "doc-21"])
    index.add_documents(["doc-22", "größe"], vectors[22:])
    _score("pylate-stanford", index, 22, history="doc-0 to doc-21; 5, 21 removed; doc-22, größe added")
    folder = INDEXES / "pylate-stanford"
    for name in ("plan.json", "metadata.json"):  # the machine's own paths
        content = json.loads((folder / name).read_text())
        content["config"].update(
            root="experiments", index_root="experiments", index_path=None, name="default", meta=None
        )
        (folder / name).write_text(json.dumps(content, indent=4))
    trim(folder)
    # PyLate until 1.3 kept the ids so; these lines are of its `add_documents`.
    target = INDEXES / "pylate-sqlite"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    with SqliteDict(target / "documents_ids_to_plaid_ids.sqlite", outer_stack=False) as ids:
        ids.update(index._index._load_documents_ids_to_plaid_ids())
        ids.commit()


def _score(name, index, n, **about):
    asked = queries(dim=DIM)
    found = index(list(asked), k=1000)
    results = [[(hit["id"], hit["score"]) for hit in hits] for hits in found]
    if name == "pylate-fast":  # of an id that is found twice, the vectors added last are wanted
        backend = index._index
        current = {
            number: identity for identity, number in backend._load_documents_ids_to_plaid_ids().items()
        }
        answers = backend.fast_plaid.search(
            torch.from_numpy(asked), top_k=1000, n_ivf_probe=256, n_full_scores=8192, show_progress=False
        )
        results = [
            [(current[number], score) for number, score in hits if number in current] for hits in answers
        ]
        assert all(
            set(wanted) <= {(hit["id"], hit["score"]) for hit in hits}
            for wanted, hits in zip(results, found, strict=True)
        )
    engine = f"PyLate {version('pylate')}, fast-plaid {version('fast-plaid')}, torch {torch.__version__}"
    save_scores(name, queries=asked, results=results, engine=engine, **about)
    assert len({identity for identity, _ in results[0]}) == n, (len(results[0]), n)


if __name__ == "__main__":
    main()
