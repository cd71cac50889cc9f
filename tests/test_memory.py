"""Memory stays flat while many texts of mixed length are encoded and indexed, each time in a new process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKPOINT = Path(__file__).parent / "data" / "checkpoints" / "pylate-bert"
PROGRAM = """
import json, random, resource, sys
from mlx_colbert import ColBERT, Index, Retriever, batching

batching.WINDOW_TEXTS = 100
source, index, backend = sys.argv[1:]
lengths = random.Random(0).choices([1, 3, 10, 20, 30, 60, 300], k=10_000)
texts = [" ".join(["planet"] * length) for length in lengths]
model = ColBERT.load(source, backend=backend)
if backend == "mlx":
    import mlx.core as mx

    mx.set_cache_limit(32 << 20)
    measure = lambda: mx.get_active_memory() + mx.get_cache_memory()
else:
    measure = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
add, found = Index.add, []

def measured_add(*args, **kwargs):
    add(*args, **kwargs)
    found.append(measure())

Index.add = measured_add
with Retriever.create(index, model, backend="numpy") as retriever:
    retriever.add(texts, list(map(str, range(len(texts)))))
    assert len(retriever) == 10_000
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_after_500_texts_of_10000_grows_by_less_than_5_percent(tmp_path, backend):
    command = [sys.executable, "-c", PROGRAM, CHECKPOINT, tmp_path / "index", backend]
    # One arena: how many there are depends on the cores of the machine.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert len(measured) == 100
    # SQLite's page caches, 2 MB a connection, fill meanwhile: 5 % of a process with so small a model is less.
    caches = 4e6 if backend == "numpy" else 0
    assert max(measured[5:]) <= 1.05 * measured[4] + caches
