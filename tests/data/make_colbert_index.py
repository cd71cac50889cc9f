"""Writes old-indexes/colbert-4, old-indexes/colbert-2 and old-indexes/ragatouille: python make_colbert_index.py.

colbert-ai itself trains, compresses, updates, saves and scores; only its encoder is replaced, by seeded vectors.
"""

import json
import os
import random
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from colbert import IndexUpdater, index_updater
from colbert.data import Collection
from colbert.indexing import collection_indexer
from colbert.infra import ColBERTConfig
from colbert.modeling.colbert import ColBERT
from colbert.search.index_storage import IndexScorer
from make_index_vectors import INDEXES, documents, queries, save_scores, texts, trim

CHECKPOINT = "colbert-ir/colbertv2.0"


def main():
    torch.set_num_threads(1)
    ColBERT.try_load_torch_extensions(use_gpu=False)
    # Chunks hold 25,000 passages; here 12, so that there are several.
    Collection.get_chunksize = lambda self: 12
    index_updater.DEFAULT_CHUNKSIZE = 12

    build("colbert-4", nbits=4, dim=32, n=27)
    score("colbert-4", INDEXES / "colbert-4", dim=32, history="27 passages added")

    searcher, config = build("colbert-2", nbits=2, dim=16, n=26)
    score("colbert-2", INDEXES / "colbert-2", dim=16, history="26 passages added")
    ragatouille()

    # The same index after a removal: the files that differ are colbert-2-removed.
    before = {path.name: path.read_bytes() for path in (INDEXES / "colbert-2").iterdir()}
    updated = Path(shutil.copytree(INDEXES / "colbert-2", tempfile.mkdtemp() + "/colbert-2-removed"))
    searcher.index, searcher.ranker = str(updated), IndexScorer(str(updated), use_gpu=False)
    updater = IndexUpdater(config, searcher)
    updater.remove([4, 13, 25])  # add() fails in 0.2.22 wherever the lists of passages end in padding
    updater.persist_to_disk()
    target = INDEXES / "colbert-2-removed"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in updated.iterdir():
        if path.read_bytes() != before.get(path.name):
            shutil.copy(path, target)
    for folder in (INDEXES / "colbert-4", INDEXES / "colbert-2", target):
        trim(folder)
    score("colbert-2-removed", updated, dim=16, history="colbert-2; 4, 13, 25 removed")


class Encoder:
    """Stands in for colbert-ai's CollectionEncoder: passage n of the collection gets vectors n."""

    def __init__(self, vectors):
        self.vectors = [torch.from_numpy(array) for array in vectors]

    def encode_passages(self, passages):
        chosen = [self.vectors[int(passage.split()[1])] for passage in passages]
        return torch.cat(chosen), [len(vectors) for vectors in chosen]


class Searcher:
    """What IndexUpdater needs of colbert-ai's Searcher, which would load the checkpoint."""


def build(name, *, nbits, dim, n):
    folder = INDEXES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random.seed(0)
    torch.manual_seed(0)
    collection_indexer.Checkpoint = lambda *_, **__: None
    encoder = Encoder(documents(n=n, dim=dim, seed=nbits))
    collection_indexer.CollectionEncoder = lambda *_, **__: encoder
    config = ColBERTConfig(
        nbits=nbits,
        dim=dim,
        checkpoint=CHECKPOINT,
        root=".",
        index_root=".",
        index_path=str(folder),
        avoid_fork_if_possible=True,
    )
    collection_indexer.CollectionIndexer(config, Collection(data=texts(n)), verbose=0).run([[None]])
    for settings in ("plan.json", "metadata.json"):  # the machine's own paths
        content = json.loads((folder / settings).read_text())
        content["config"].update(index_path=None, root="experiments", name="default", meta=None)
        (folder / settings).write_text(json.dumps(content, indent=4))
    return Searcher(), config


def score(name, folder, *, dim, **about):
    ranker = IndexScorer(str(folder), use_gpu=False)
    config = ColBERTConfig(
        ncells=len(ranker.codec.centroids),
        centroid_score_threshold=-9.0,
        ndocs=100_000,
        interaction="colbert",
    )
    asked = queries(dim=dim)
    with torch.inference_mode():
        ranked = [ranker.rank(config, torch.from_numpy(query)[None]) for query in asked]
    engine = f"colbert-ai {version('colbert-ai')}, torch {torch.__version__}, float32 on the CPU"
    results = [list(zip(pids, scores, strict=True)) for pids, scores in ranked]
    save_scores(name, queries=asked, results=results, engine=engine, **about)


def ragatouille():
    """The files that RAGatouille 0.0.9 adds to an index of colbert-ai's; it cannot be imported today.

    From `ragatouille/models/colbert.py`: `_write_collection_files_to_disk` and `_save_index_metadata`, srsly's
    JSON. Passages 0 to 2 are of one document, as its splitter makes them.
    """
    folder = INDEXES / "ragatouille"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    docids = ["tea", "tea", "tea", *(f"doc {n}" for n in range(3, 26))]
    metadata = json.loads((INDEXES / "colbert-2" / "metadata.json").read_text())
    metadata["RAGatouille"] = {"index_config": {"index_type": "PLAID", "index_name": "ragatouille"}}
    for name, content in {
        "metadata": metadata,
        "collection": texts(26),
        "pid_docid_map": dict(enumerate(docids)),
        "docid_metadata_map": {"tea": {"source": "a book", "pages": [1, 2]}, "doc 7": {"source": "a letter"}},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
