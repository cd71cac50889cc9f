"""Compare first stages for MaxSim: MUVERA, LEMUR and the index's own candidates, by recall, bytes and time.

A first stage finds candidates by one vector for each passage. The second stage computes the exact MaxSim of
these. So the recall is the part of the k best passages by exact search that is among the candidates.
Times are those of the CPU, all threads together: other programs on the machine change them little.

    python examples/bench/first_stage.py --model demo/answerai-colbert-small-v1 --data cosqa
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_colbert import ColBERT, Index, SearchParams, TokenEmbeddings
from mlx_colbert.evaluation.encoded import encoded_texts
from mlx_colbert.evaluation.reading import read_dataset
from mlx_colbert.evaluation.versions import versions
from mlx_colbert.first_stage.lemur import Lemur, LemurSettings
from mlx_colbert.first_stage.muvera import Muvera, MuveraSettings
from mlx_colbert.first_stage.two_stage import SingleVectorEncoder
from mlx_colbert.kernels import get_search_ops

Array = npt.NDArray[Any]

CANDIDATES = (20, 50, 100, 200, 500, 1000)
# Passages that encoders are fitted on.
FITTED = 2048
ROUNDS = 3


def part_found(rankings: Sequence[Sequence[int]], exact: Array, k: int) -> float:
    """The mean part of the k best passages by exact search that is in each ranking."""
    best = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    return float(np.mean([len(set(a.tolist()) & set(b)) / k for a, b in zip(best, rankings, strict=True)]))


def seconds(function: Callable[[], Any]) -> float:
    """The least CPU time of a few calls."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def line(name: str, bytes_each: float, fit_s: float, encode_ms: float, search_ms: float, found: str) -> None:
    """Print a row of the table."""
    print(
        f"| {name} | {bytes_each:,.0f} | {fit_s:.1f} | {encode_ms:.2f} | {search_ms:.2f} | {found} |",
        flush=True,
    )


def measure_encoder(
    name: str,
    fit: Callable[[], SingleVectorEncoder],
    queries: TokenEmbeddings,
    documents: TokenEmbeddings,
    exact: Array,
) -> None:
    """Print the row of an encoder."""
    ops = get_search_ops("auto")
    start = time.process_time()
    encoder = fit()
    fitted = time.process_time()
    vectors = encoder.encode_document(documents).astype(np.float16)
    encoded = time.process_time()
    places = TokenEmbeddings(vectors, np.ones(len(vectors), np.int64))

    def scores(asked: TokenEmbeddings) -> Array:
        points = encoder.encode_query(asked)
        return ops.maxsim(TokenEmbeddings(points, np.ones(len(points), np.int64)), places)

    order = np.argsort(-scores(queries), axis=1, kind="stable").tolist()
    found = [
        f"{part_found([row[:n] for row in order], exact, 10):.3f} · "
        f"{part_found([row[:n] for row in order], exact, 100):.3f}"
        for n in CANDIDATES
    ]
    one = seconds(lambda: scores(queries[:1]))
    line(
        f"{name}, {encoder.size:,}",
        vectors.nbytes / len(vectors),
        fitted - start,
        1000 * (encoded - fitted) / len(documents),
        1000 * one,
        " | ".join(found),
    )


def measure_index(queries: TokenEmbeddings, documents: TokenEmbeddings, exact: Array, nbits: int) -> None:
    """Print the row of a compressed index."""
    with tempfile.TemporaryDirectory() as folder:
        ids = [str(number) for number in range(len(documents))]
        start = time.process_time()
        with Index.create(f"{folder}/index", documents.dim, nbits=nbits, exact_tokens=0) as index:
            with index.bulk():
                for first in range(0, len(ids), 2048):
                    index.add(ids[first : first + 2048], documents[first : first + 2048])
            built = time.process_time() - start
            found = []
            for n in CANDIDATES:
                cells = []
                for k in (10, 100):
                    if n < k:
                        cells.append("–")
                        continue
                    params = SearchParams(n_candidates=n)
                    hits = index.search(queries, k, params=params)
                    cells.append(
                        f"{part_found([[int(hit.doc_id) for hit in row] for row in hits], exact, k):.3f}"
                    )
                found.append(" · ".join(cells))
            one = seconds(lambda: index.search(queries[:1], 10))
            size = index.info().bytes / len(documents)
            line(
                f"the index, {nbits} bits (both stages)",
                size,
                0,
                1000 * built / len(documents),
                1000 * one,
                " | ".join(found),
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of a collection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True, help="a converted model folder, or a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="a collection folder")
    parser.add_argument("--cache", type=Path, help="folder that keeps token embeddings, as of `eval`")
    parser.add_argument("--documents", type=int, help="only the first documents (default: all)")
    parser.add_argument("--queries", type=int, default=100, help="queries to measure (default: 100)")
    parser.add_argument(
        "--fit-queries", type=int, default=250, help="other queries, for LEMUR (default: 250)"
    )
    args = parser.parse_args(argv)
    model = ColBERT.load(args.model)
    dataset = read_dataset(args.data)
    texts = list(dataset.documents.values())[: args.documents]
    documents = encoded_texts(model, texts, "document", cache=args.cache)
    asked_texts = list(dataset.queries.values())
    order = np.random.default_rng(0).permutation(len(asked_texts))
    wanted = [asked_texts[number] for number in order[: args.queries + args.fit_queries].tolist()]
    asked = model.encode_query(wanted, show_progress=False)
    queries, others = asked[: args.queries], asked[args.queries :]
    fitted = documents[:: max(1, len(documents) // FITTED)]
    start = time.process_time()
    exact = get_search_ops("auto").maxsim(queries, documents)
    exact_ms = 1000 * (time.process_time() - start) / len(queries)
    print(
        f"{dataset.name}: {len(documents):,} passages, {len(documents.vectors):,} tokens of "
        f"{documents.dim} components, {len(queries)} queries. Exact search, in one batch: "
        f"{exact_ms:.0f} ms a query.\n"
    )
    print(
        "| first stage, components | bytes a passage | fit s | encode ms a passage | ms a query | "
        + " | ".join(f"{n}" for n in CANDIDATES)
        + " |"
    )
    print("|---|" + "--:|" * (4 + len(CANDIDATES)))
    for nbits in (4, 2):
        measure_index(queries, documents, exact, nbits)
    for n_repetitions, n_planes, n_components in ((10, 5, 32), (20, 5, 16), (10, 4, 16)):
        settings = MuveraSettings(n_repetitions, n_planes, n_components)
        name = f"MUVERA {n_repetitions} · 2^{n_planes} · {n_components}"
        measure_encoder(
            name, lambda settings=settings: Muvera.fit(fitted, settings), queries, documents, exact
        )
        if n_components == 32:
            measure_encoder(
                f"{name} without a centre",
                lambda settings=settings: Muvera(settings, np.zeros(documents.dim)),
                queries,
                documents,
                exact,
            )
    for n_features in (2048, 512):
        small = LemurSettings(n_features)
        measure_encoder(
            "LEMUR, fitted with queries",
            lambda small=small: Lemur.fit(fitted, others, small),
            queries,
            documents,
            exact,
        )
    measure_encoder("LEMUR, without queries", lambda: Lemur.fit(fitted), queries, documents, exact)
    print(f"\n{model.device}; {', '.join(f'{name} {number}' for name, number in versions().items())}")


if __name__ == "__main__":
    main()
