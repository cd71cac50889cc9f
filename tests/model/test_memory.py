"""Memory stays flat while many texts are encoded and indexed, and grows with a long one as its length does."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mlx_colbert.model.backbones.encoder import EncoderConfig
from mlx_colbert.model.parameters import expected_shapes

pytestmark = pytest.mark.slow

CHECKPOINT = Path(__file__).parents[1] / "data" / "checkpoints" / "pylate-bert"
PROGRAM = """
import json, random, resource, sys
from mlx_colbert import ColBERT, Index, Retriever
from mlx_colbert.model import batching

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
    # The first window is smaller.
    assert len(measured) == 101
    # SQLite's page caches, 2 MB a connection, fill meanwhile: 5 % of a process with so small a model is less.
    caches = 4e6 if backend == "numpy" else 0
    assert max(measured[5:]) <= 1.05 * measured[4] + caches


def test_long_text_takes_memory_linear_in_its_length(encoder_ops, monkeypatch):
    # Scores of all pairs would take 4 bytes x 4 heads x 8,192^2: 1 GB.
    monkeypatch.setattr(encoder_ops, "_SCORE_CELLS", 1 << 19)
    cfg = EncoderConfig(
        vocab_size=50,
        hidden_size=32,
        n_layers=3,
        n_heads=4,
        intermediate_size=32,
        max_length=8192,
        position="rope",
        norm_first=True,
        gated_mlp=True,
        global_every=3,
        local_window=64,
    )
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape, np.float32) for name, shape in expected_shapes(cfg, ()).items()
    }
    params = encoder_ops.load_params(tensors, "float32")
    peaks = [peak_bytes(encoder_ops, params, cfg, length) for length in (4096, 8192)]
    assert peaks[1] < 45e6 and peaks[1] < 2.5 * peaks[0]


def peak_bytes(ops, params, cfg, length):
    """What encoding one text takes at once."""
    ids = np.arange(length, dtype=np.int32)[None] % cfg.vocab_size
    mask = np.ones(ids.shape, bool)
    mask[:, -5:] = False
    if ops.name == "mlx":
        import mlx.core as mx

        mx.reset_peak_memory()
        ops.to_numpy(cfg.encode(ops, params, ids, mask))
        return mx.get_peak_memory() - mx.get_active_memory()
    tracemalloc.start()
    cfg.encode(ops, params, ids, mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
