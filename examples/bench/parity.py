"""Print the parity table of convert/README.md: test checkpoints against the outputs of sentence-transformers.

The reference outputs are in tests/data/reference. tests/data/README.md says how they were made.

    python examples/bench/parity.py [--minilm FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_colbert import ColBERT
from mlx_colbert.errors import BackendError
from mlx_colbert.kernels import get_encoder_ops

DATA = Path(__file__).parent.parent.parent / "tests" / "data"


@dataclass(frozen=True)
class Row:
    """The differences between one checkpoint on one backend and its reference."""

    same_counts: bool
    min_cosine: float
    max_score_difference: float


def compare(folder: Path, reference: Path, *, backend: str, dtype: str | None = None) -> Row:
    """The differences between the outputs of a model and the stored outputs."""
    texts = json.loads((DATA / "texts.json").read_text(encoding="utf-8"))
    model = ColBERT.load(folder, backend=backend, dtype=dtype)
    expected = np.load(reference)
    queries, documents = model.encode_query(texts["queries"]), model.encode_document(texts["documents"])
    pairs = [(queries, "query"), (documents, "document")]
    if any(mine.lengths.tolist() != expected[f"{side}_lengths"].tolist() for mine, side in pairs):
        return Row(False, float("nan"), float("nan"))
    cosine = min(
        float((mine.vectors * expected[f"{side}_vectors"]).sum(axis=1).min()) for mine, side in pairs
    )
    difference = np.abs(model.similarity(queries, documents) - expected["scores"])
    return Row(True, cosine, float(difference.max()))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minilm", type=Path, help="folder that examples/fetch_models.py made")
    args = parser.parse_args()
    folders = {path.name: path for path in sorted((DATA / "checkpoints").iterdir())}
    if args.minilm is not None:
        folders["minilm"] = args.minilm
    runs: list[tuple[str, str | None]] = [("numpy", None)]
    try:
        get_encoder_ops("mlx")
        runs += [("mlx", "float32"), ("mlx", "float16")]
    except BackendError as error:
        print(error)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "mlx")[: len(runs)])
    print(f"Reference: {np.load(DATA / 'reference' / 'minilm.npz')['versions']}. Here: {versions}.\n")
    print("| checkpoint | " + " | ".join(f"{b} {d or 'float32'}: 1 - cosine, MaxSim" for b, d in runs) + " |")
    print("|---|" + "--:|" * len(runs))
    for name, folder in folders.items():
        cells = []
        for backend, dtype in runs:
            try:
                row = compare(folder, DATA / "reference" / f"{name}.npz", backend=backend, dtype=dtype)
            except BackendError:  # numpy has no decoders
                cells.append("–")
                continue
            cells.append(
                f"{max(1 - row.min_cosine, 0):.0e}, {row.max_score_difference:.0e}"
                if row.same_counts
                else "counts differ"
            )
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
