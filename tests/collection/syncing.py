"""Syncs collections in processes that may be killed. Each is a fork of one that has imported everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.model import batching
from mlx_colbert.model.colbert import ColBERT


class Syncs:
    """Starts and kills the processes, one at a time."""

    def __enter__(self):
        # One thread: a fork has no others.
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS"), "1")
        paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "PYTHONPATH": paths},
        )
        return self

    def __exit__(self, *error):
        self._process.communicate()

    def run(self, home, name, *, kill_after=None):
        """Syncs a collection; whether it came to its end. It is killed after so many seconds, if given."""
        request = {"home": str(home), "name": name, "kill_after": kill_after}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        assert status in (0, -signal.SIGKILL)
        return status == 0


def _serve():
    from word_model import WordModel

    ColBERT.load = lambda source, *, backend, revision=None, **lengths: WordModel(source="words")
    batching.WINDOW_TEXTS = 6
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                place = Registry(request["home"]).find(request["name"])
                with Collection(place, backend="numpy") as collection:
                    collection.sync(on_wait=print)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        if request["kill_after"] is not None:
            time.sleep(request["kill_after"])
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
