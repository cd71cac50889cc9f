"""Kills processes that change an index: before a chosen step towards the disk, or in the middle of anything.

Each is a fork of one process that has imported everything, so that hundreds of kills take seconds.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from mlx_colbert.index import Filter, Index
from mlx_colbert.index.catalog import connection
from mlx_colbert.index.storage import codec, files
from mlx_colbert.index.writing import merge_policy
from mlx_colbert.types import Source

DIM = 8
# Longer than any action takes, waiting for a lock of 10 s included.
ANSWER_S = 120
# What changes the catalog: a step each while it is upgraded. Nothing of it is on the disk before the COMMIT.
_CHANGES = ("BEGIN", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "PRAGMA user_version =")


def unit_rows(seed, n_rows=4, dim=DIM):
    rows = np.random.default_rng(seed).standard_normal((n_rows, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def around(axis, seed, n_rows=4):
    """Unit vectors near one axis."""
    rows = unit_rows(seed, n_rows) * 0.3
    rows[:, axis] += 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Killer:
    """Starts and kills the processes, one at a time."""

    def __enter__(self):
        # One thread: a fork has no others.
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads},
            start_new_session=True,
        )
        return self

    def __exit__(self, *error):
        self._process.communicate()

    def run(self, path, action):
        """Runs an action to its end; how many steps it had."""
        status, _, steps = self._ask(path=str(path), action=action)
        assert status == 0
        return steps

    def kill_at(self, path, action, step):
        """Kills an action before its n-th step."""
        assert self._ask(path=str(path), action=action, fatal=step)[0] == -signal.SIGKILL

    def kill_after(self, path, seed, first, *, n_changes, seconds):
        """Kills a process that makes `changes(seed)` from a number on; how many it acknowledged.

        It lives for so many changes, and then for so many seconds.
        """
        request = {"path": str(path), "seed": seed, "first": first}
        status, n_done, _ = self._ask(**request, n_changes=n_changes, seconds=seconds)
        assert status == -signal.SIGKILL
        return n_done

    def _ask(self, **request):
        print(json.dumps(request), file=self._process.stdin, flush=True)
        # A request has one line for an answer, so no other waits in the buffer.
        if not select.select([self._process.stdout], [], [], ANSWER_S)[0]:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise TimeoutError(f"no answer within {ANSWER_S} s: {request}")
        return json.loads(self._process.stdout.readline())


def base_exact(path):
    with Index.create(path, DIM, exact_tokens=None, backend="numpy") as index:
        index.add(["d0", "d1"], [unit_rows(0), unit_rows(1)], ["word d0", None], [{"n": 0}, {"n": 1}])
        index.add(["d2"], [unit_rows(2)], ["word d2"])
        index.add(["d3"], [unit_rows(3)], ["word d3"], [{"n": 1}])


def base_sources(path):
    """The passages of `base_exact`, some of them of two sources."""
    tea, page = Source("tea.md"), Source("page.md")
    with Index.create(path, DIM, exact_tokens=None, backend="numpy") as index:
        rows, sources = [unit_rows(number) for number in range(4)], [tea, tea, page, None]
        texts = ["word d0", "word d1", "word d2", None]
        index.add(["d0", "d1", "d2", "d3"], rows, texts, [{"n": 0}, None, None, None], sources=sources)


def base_compressed(path):
    with Index.create(path, DIM, nbits=8, exact_tokens=0, backend="numpy") as index:
        ids = [f"d{i}" for i in range(6)]
        index.add(
            ids,
            [around(i % 2, i) for i in range(6)],
            [f"word {i}" for i in ids],
            [{"n": i} for i in range(6)],
        )
        index.add(["d6"], [around(0, 6)], ["word d6"], [{"n": 1}])
        index.add(["d7"], [around(1, 7)], ["word d7"])
        index.delete(["d0"])
        assert (index.info().compressed_passages, index.info().segments) == (6, 3)


def base_small(path):
    with Index.create(path, DIM, nbits=8, exact_tokens=20, backend="numpy") as index:
        index.add(["d0", "d1"], [unit_rows(0), unit_rows(1)], ["word d0", "word d1"], [{"n": 0}, {"n": 1}])
        index.add(["d2"], [unit_rows(2)])
        index.delete(["d0"])


def base_empty(path):
    Index.create(path, DIM, nbits=8, backend="numpy").close()


def import_compressed(index):
    codebook = np.linspace(-1, 1, 256)[:, None]
    rows = np.array([[0, 1, 1], [127, 127, 127], [127, 128, 127]])
    blocks = [
        (rows[0], np.repeat(rows[1:, :, None], 4, axis=2).transpose(1, 0, 2).reshape(3, 8).astype(np.uint8))
    ]
    index.import_compressed(
        np.eye(8),
        codebook,
        doc_ids=["t0", "t1"],
        lengths=np.array([1, 2]),
        blocks=blocks,
        texts=["word", None],
    )


def with_index(function):
    def action(path):
        index = Index.open(path, backend="numpy")
        function(index)
        # A step before the log is copied into the catalog, and one after.
        _step()
        index.close()
        _step()

    return action


def _dim(index):
    return [np.eye(index.dim, dtype=np.float32)[:2]] * 2


ACTIONS = {
    "base exact": base_exact,
    "base sources": base_sources,
    "base compressed": base_compressed,
    "base small": base_small,
    "base empty": base_empty,
    "import": with_index(import_compressed),
    "create": lambda path: Index.create(path, DIM, backend="numpy").close(),
    "add": with_index(lambda index: index.add(["new", "newer"], _dim(index), ["word new", None])),
    "upsert": with_index(lambda index: index.upsert(["new", "d1"], _dim(index), ["word new", None])),
    "delete": with_index(lambda index: index.delete(["d0", "d1"])),
    "delete by filter": with_index(lambda index: index.delete(filter="n = 1")),
    "update metadata": with_index(lambda index: index.update_metadata(["d1", "d2"], [{"m": 2}, None])),
    "rename sources": with_index(
        lambda index: index.rename_sources(
            {"tea.md": Source("page.md")}, {"d0": "d2", "d1": "new"}, [{"path": "page.md"}, None]
        )
    ),
    "update fixture": with_index(lambda index: index.update_metadata(["a"], [{"m": 2}])),
    "upsert fixture": with_index(lambda index: index.upsert(["a", "new"], _dim(index), ["word", "word new"])),
    "add far": with_index(
        lambda index: index.add(["new", "newer"], [around(5, 8, 12), around(6, 9, 12)], ["word new", None])
    ),
    "compact": with_index(lambda index: index.compact()),
    "retrain": with_index(lambda index: index.compact(retrain=True)),
}


def changes(seed):
    """An endless list of valid changes, the same for everyone: (method, doc_ids, seeds)."""
    rng = random.Random(seed)
    alive = []
    for number in itertools.count():
        weights = {"upsert": 2, "delete": 2, "filter": 1, "update_metadata": 2, "compact": 1, "retrain": 1}
        method = rng.choices(["add", *weights], [4 if len(alive) < 20 else 0, *weights.values()])[0]
        if method in ("compact", "retrain"):
            yield method, [], []
            continue
        if method == "filter":
            # The documents of this seed, of which there may be none.
            gone = rng.choice(alive) if alive else ""
            alive = [doc_id for doc_id in alive if doc_id != gone]
            yield method, [gone], []
            continue
        known = [] if method == "add" else rng.sample(alive, min(len(alive), rng.randint(1, 2)))
        new = [f"d{number}-{i}" for i in range(rng.randint(1, 3))] if method in ("add", "upsert") else []
        alive = [doc_id for doc_id in alive if method != "delete" or doc_id not in known] + new
        yield method, known + new, [rng.randrange(10**6) for _ in known + new]


def document(doc_id, seed):
    """Rows, text and metadata of a document."""
    rows = unit_rows(seed, 1 + seed % 6) if seed % 3 else around(seed % 8, seed, 6)
    return rows, f"word w{seed}" if seed % 4 else None, {"id": doc_id, "seed": seed}


def apply(index, change):
    method, ids, seeds = change
    if method in ("compact", "retrain"):
        index.compact(retrain=method == "retrain")
    elif method == "delete":
        index.delete(ids)
    elif method == "filter":
        index.delete(filter=Filter("id = ?", ids[0]))
    elif method == "update_metadata":
        index.update_metadata(ids, [document(*item)[2] for item in zip(ids, seeds, strict=True)])
    elif ids:
        rows, texts, metadata = zip(*(document(*item) for item in zip(ids, seeds, strict=True)), strict=True)
        getattr(index, method)(ids, list(rows), texts, metadata)


def after(seed, n_changes):
    """What the index holds after so many changes: doc_id → (seed of rows and text, metadata)."""
    state = {}
    for method, ids, seeds in itertools.islice(changes(seed), n_changes):
        if method in ("delete", "filter"):
            state = {doc_id: found for doc_id, found in state.items() if doc_id not in ids}
        for doc_id, seed in zip(ids, seeds, strict=False):
            if method == "update_metadata":
                state[doc_id] = (state[doc_id][0], document(doc_id, seed)[2])
            elif method in ("add", "upsert"):
                state[doc_id] = (seed, document(doc_id, seed)[2])
    return state


class _Connection(sqlite3.Connection):
    def execute(self, sql, *parameters):
        if sql == "COMMIT" or (_upgrading and sql.strip().startswith(_CHANGES)):
            _step()
        result = super().execute(sql, *parameters)
        if sql == "COMMIT":
            _step()
        return result

    def executemany(self, sql, *parameters):
        if _upgrading:
            _step()
        return super().executemany(sql, *parameters)


_steps, _fatal, _upgrading = 0, 0, False


def _step():
    global _steps
    _steps += 1
    if _steps == _fatal:
        os.kill(os.getpid(), signal.SIGKILL)


def _stepped(function):
    def call(*args, **kwargs):
        _step()
        return function(*args, **kwargs)

    return call


def _count_steps():
    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=_Connection, **kwargs)
    # The system keeps what a killed process has written, synced or not.
    files.sync = _stepped(lambda descriptor: None)
    connection.SETTINGS = ("synchronous = OFF",)
    os.mkdir, os.rename, os.rmdir = _stepped(os.mkdir), _stepped(os.rename), _stepped(os.rmdir)
    os.unlink = _stepped(os.unlink)
    shutil.rmtree = _stepped(shutil.rmtree)


def _make_small(fan_out):
    """Lets few documents reach everything that many do."""
    small = {
        (merge_policy, "FAN_OUT"): fan_out,
        (merge_policy, "SMALLEST_TOKENS"): 8,
        (codec, "_TOKENS_PER_CENTROID"): 8,
        (codec, "_OUTLIERS_PER_CENTROID"): 4,
    }
    for (module, name), value in small.items():
        assert hasattr(module, name)
        setattr(module, name, value)


def _act(request, write_end):
    global _upgrading
    if "action" in request:
        _upgrading = "fixture" in request["action"]
        _make_small(8 if request["action"].startswith("base") else 3)
        _count_steps()
        ACTIONS[request["action"]](Path(request["path"]))
        os.write(write_end, b"%d" % _steps)
        return
    _make_small(3)
    with Index.open(request["path"], backend="numpy") as index:
        for change in itertools.islice(changes(request["seed"]), request["first"], None):
            apply(index, change)
            os.write(write_end, b"\n")


def _serve():
    global _fatal
    for line in sys.stdin:
        request = json.loads(line)
        _fatal = request.get("fatal", 0)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _act(request, write_end)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        os.close(write_end)
        answer = b""
        if "seconds" in request:
            while len(answer) < request["n_changes"] and (part := os.read(read_end, 1)):
                answer += part
            time.sleep(request["seconds"])
            os.kill(child, signal.SIGKILL)
        while part := os.read(read_end, 1000):
            answer += part
        os.close(read_end)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([status, answer.count(b"\n"), int(answer.strip() or 0)]), flush=True)


if __name__ == "__main__":
    _serve()
