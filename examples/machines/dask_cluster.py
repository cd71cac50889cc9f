"""Encode a collection on the machines of a Dask cluster, and merge the parts into one index.

    python examples/machines/dask_cluster.py notes/ --model MODEL --index notes.index --shards 4
    python examples/machines/dask_cluster.py notes/ … --scheduler tcp://10.0.0.1:8786

Without --scheduler there are two processes on this machine. With it, each machine writes its parts to its own
disk, and this prints where they are: copy them to one machine, and merge them there. All machines need the
inputs and the model at the same paths. If a process dies, nothing is merged; the same line goes on then.
It needs `pip install 'dask[distributed]'`.
"""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

import dask
from distributed import Client, KilledWorker, LocalCluster

from mlx_colbert import Retriever, merge_index
from mlx_colbert.errors import ColBERTError


def encode(shard: str, path: Path, model: str, inputs: list[str]) -> str:
    """Encode the part of a shard, or what is missing of it; returns the machine. A worker calls this."""
    Retriever.from_files(path, model, inputs, shard=shard, progress=lambda *_: None).close()
    return socket.gethostname()


def main() -> None:
    """Encode all parts, and merge them if they are on this machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="files and folders")
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--index", type=Path, required=True, help="the folder of the new index")
    parser.add_argument("--shards", type=int, default=2, help="the number of parts (default: 2)")
    parser.add_argument("--scheduler", help="the address of a Dask scheduler")
    args = parser.parse_args()
    index = args.index.absolute()
    shards = [f"{number}/{args.shards}" for number in range(1, args.shards + 1)]
    parts = [index.with_name(f"{index.name}.part-{shard.replace('/', '-of-')}") for shard in shards]
    # A process that dies is a failure. Dask would start its shard again elsewhere, at the same time.
    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    cluster = args.scheduler or LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
        # The same worker each time, because the part that it began is on its disk.
        workers = sorted(client.scheduler_info()["workers"])
        futures = [
            client.submit(
                encode, shard, part, args.model, args.inputs, workers=workers[n % len(workers)], pure=False
            )
            for n, (shard, part) in enumerate(zip(shards, parts, strict=True))
        ]
        try:
            machines = client.gather(futures)
            if args.scheduler:
                print("\n".join(f"{name}:{part}" for name, part in zip(machines, parts, strict=True)))
            else:
                print(merge_index(index, parts))
        except (ColBERTError, KilledWorker) as error:
            sys.exit(f"{type(error).__name__}: {error} Nothing was merged. Run the same line to go on.")


if __name__ == "__main__":
    main()
