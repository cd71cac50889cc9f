"""Index a folder of .md and .txt notes on the disk, and search it.

python examples/02_index_folder.py
python examples/02_index_folder.py ~/notes "how do I repair a puncture?"
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from mlx_colbert import Retriever

HERE = Path(__file__).resolve().parent
DEMO_MODEL = HERE.parent / "demo" / "answerai-colbert-small-v1"


def main() -> None:
    """Print the best passages of the notes."""
    parser = argparse.ArgumentParser(description="Index a folder of .md and .txt notes, and search it.")
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "data" / "notes")
    parser.add_argument("question", nargs="?", default="How do I repair a puncture?")
    parser.add_argument(
        "--model", default=DEMO_MODEL, help="folder or hub id (default: demo/answerai-colbert-small-v1)"
    )
    args = parser.parse_args()
    if args.model == DEMO_MODEL and not DEMO_MODEL.is_dir():
        sys.exit(
            "demo/answerai-colbert-small-v1 is not there. Run `make demo`, or name a model with --model."
        )

    # This index is temporary. Use a path of your own to keep it, and open it later with Retriever.open(path).
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "notes.index"
        with Retriever.from_files(path, args.model, args.folder) as retriever:
            info = retriever.index.info()
            print(f"{info.passages} passages, {info.tokens} token vectors, {info.bytes / 1e6:.1f} MB on disk")
            print(args.question)
            for hit in retriever.search(args.question, k=3):
                first_line, *_ = (hit.text or "").replace("# ", "").splitlines()
                print(f"{hit.rank}. {hit.score:6.3f}  {hit.doc_id:18}  {first_line[:70]}")


if __name__ == "__main__":
    main()
