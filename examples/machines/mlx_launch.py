"""Encode one part of a collection in each process that `mlx.launch` starts. Merge the parts afterwards.

    mlx.launch -n 2 -- examples/machines/mlx_launch.py notes/ --model MODEL --parts parts
    mlx-colbert merge-index notes.index parts/*

With `--hostfile`, the processes run on several machines: copy the parts to one of them, and merge them there.
If a process dies, `mlx.launch` stops the others. `merge-index` then refuses the parts that are not complete,
and fails. The same two lines go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mlx.core as mx

from mlx_colbert import Retriever


def main() -> None:
    """Encode the part of this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="files and folders, the same for all processes")
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--parts", type=Path, required=True, help="the folder for the parts")
    parser.add_argument("--backend", default="auto", choices=["auto", "mlx", "numpy"])
    args = parser.parse_args()
    group = mx.distributed.init()
    shard = f"{group.rank() + 1}/{group.size()}"
    args.parts.mkdir(parents=True, exist_ok=True)
    path = args.parts / f"part-{shard.replace('/', '-of-')}"
    with Retriever.from_files(path, args.model, args.inputs, shard=shard, backend=args.backend) as part:
        print(f"shard {shard}: {len(part):,} passages", flush=True)


if __name__ == "__main__":
    main()
