"""Show why a document matches: the document token that each query token matched, as table and heat map.

python examples/05_explain.py
python examples/05_explain.py "a question" "a text" --out why.png

The heat map needs matplotlib: pip install 'mlx-colbert[plot]'
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlx_colbert import ColBERT, TokenMatch

DEMO = Path(__file__).resolve().parent.parent / "demo"
DEMO_MODEL = DEMO / "answerai-colbert-small-v1"
DOCUMENT = (
    "Harper Lee, an American novelist widely known for her novel 'To Kill a Mockingbird', was born in 1926 "
    "in Monroeville, Alabama. She received the Pulitzer Prize for Fiction in 1961."
)


def save_heat_map(similarities: np.ndarray, matches: Sequence[TokenMatch], path: Path) -> None:
    """Draw the similarities (Q, L) of Q query tokens with the document tokens that they matched."""
    from matplotlib.figure import Figure

    texts = {match.document_position: match.document_token for match in matches}
    columns = sorted(texts)
    figure = Figure(figsize=(2.5 + 0.55 * len(columns), 1.5 + 0.4 * len(matches)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(similarities[:, columns], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), [texts[column] for column in columns], rotation=40, ha="right")
    axes.set_yticks(range(len(matches)), [match.query_token for match in matches])
    axes.set_xlabel("document tokens that were matched")
    axes.set_ylabel("query tokens")
    for row, match in enumerate(matches):
        for column, position in enumerate(columns):
            value = similarities[row, position]
            best = position == match.document_position
            style = {"color": "white" if value > 0.6 else "black", "weight": "bold" if best else "normal"}
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, **style)
    axes.set_title(f"MaxSim = {sum(match.similarity for match in matches):.2f}, the sum of the bold numbers")
    figure.colorbar(image, label="cosine similarity", shrink=0.9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the table and save the heat map."""
    parser = argparse.ArgumentParser(description="Show why a document matches.")
    parser.add_argument("question", nargs="?", default="Who wrote 'To Kill a Mockingbird'?")
    parser.add_argument("document", nargs="?", default=DOCUMENT)
    parser.add_argument("--out", type=Path, default=DEMO / "explain.png", help="default: demo/explain.png")
    parser.add_argument(
        "--model", default=DEMO_MODEL, help="folder or hub id (default: demo/answerai-colbert-small-v1)"
    )
    args = parser.parse_args()
    if args.model == DEMO_MODEL and not DEMO_MODEL.is_dir():
        sys.exit(
            "demo/answerai-colbert-small-v1 is not there. Run `make demo`, or name a model with --model."
        )

    model = ColBERT.load(args.model)
    matches = model.explain(args.question, args.document)
    for match in matches:
        print(f"{match.query_token:>14}  {match.similarity:6.3f}  {match.document_token}")
    print(f"{'MaxSim':>14}  {sum(match.similarity for match in matches):6.3f}")

    similarities = model.encode_query(args.question) @ model.encode_document(args.document).T
    try:
        save_heat_map(similarities, matches, args.out)
    except ModuleNotFoundError:
        sys.exit("The heat map needs matplotlib. Install it with: pip install 'mlx-colbert[plot]'")
    print(f"Heat map: {args.out}")


if __name__ == "__main__":
    main()
