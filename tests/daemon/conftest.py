"""A daemon of its own for each test that wants one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mlx_colbert.daemon.place import DaemonPlace
from mlx_colbert.daemon.process import stop

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(monkeypatch):
    """The folder of everything that belongs to this user. Its path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="mc-", dir="/tmp") as folder:
        monkeypatch.setenv("MLX_COLBERT_HOME", f"{folder}/home")
        yield Path(folder, "home")


@pytest.fixture
def place(home):
    """Where the daemon is. It is stopped at the end."""
    place = DaemonPlace()
    yield place
    stop(place)
    if place.socket.parent != place.folder:
        shutil.rmtree(place.socket.parent, ignore_errors=True)


@pytest.fixture
def command():
    """Runs the command line in a process of its own."""

    def run(*argv, cwd=ROOT, **environment):
        return subprocess.run(
            [sys.executable, "-m", "mlx_colbert", *map(str, argv)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, **environment},
        )

    return run


ECHO = """
import os, shutil, sys, time
from pathlib import Path
from mlx_colbert.daemon.place import DaemonPlace
from mlx_colbert.daemon.server import IdleTimes, serve
from mlx_colbert.model.kept import KeptModels

def answer(argv):
    if argv[0] == "wait":
        Path(argv[1] + ".begun").touch()
        while not Path(argv[1]).exists():
            time.sleep(0.005)
    if argv[0] == "refuse":
        return {"kind": "refused", "reason": "not for me"}
    if argv[0] == "die":
        print("the first part", flush=True)
        os._exit(1)
    if argv[0] == "fault":
        raise ValueError("a fault of the program")
    if argv[0] == "print":
        print(argv[1])
        print(sys.stdout.isatty(), file=sys.stderr)
    if argv[0] == "width":
        return {"result": {"width": shutil.get_terminal_size().columns}}
    return {"result": {"argv": list(argv), "cwd": os.getcwd(), "pid": os.getpid()}}

print("ready", flush=True)
ending = serve(answer, DaemonPlace(), IdleTimes(None, None), KeptModels(), is_detached=False)
sys.exit(3 if ending == "taken" else 0)
"""


@pytest.fixture
def echo(place):
    """A daemon that replies with what it was asked, without models."""
    processes = []

    def begin():
        process = subprocess.Popen(
            [sys.executable, "-c", ECHO], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None and not place.is_up():
            time.sleep(0.005)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
