"""What docs/server-collections.md says is true: each of its requests is sent."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from collecting import CHECKPOINT

from mlx_colbert.collection.registry import Registry

PAGE = (Path(__file__).parents[2] / "docs" / "server-collections.md").read_text(encoding="utf-8")


def blocks(language):
    """The blocks of the page, but those that it says are not run."""
    return re.findall(rf"(?<!\*\n\n)```{language}\n(.*?)```", PAGE, re.DOTALL)


def run(command, folder, **environment):
    """Run a command of the page as its reader does."""
    program = f"{shlex.quote(sys.executable)} -m mlx_colbert"
    done = subprocess.run(
        ["sh", "-c", command.replace("mlx-colbert ", f"{program} ")],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.fixture
def served(serve, tmp_path, llm_server, monkeypatch):
    """A server, after a reader has begun as the page says, in an empty folder."""
    monkeypatch.setattr("mlx_colbert.collection.confidence.THRESHOLD", 0.0)
    home, folder = tmp_path / "home", tmp_path / "empty"
    folder.mkdir()
    begin = blocks("bash")[0]
    assert "mlx-colbert sync tea-notes" in begin
    run(
        begin.replace("sync tea-notes", f"sync tea-notes --model {shlex.quote(str(CHECKPOINT))}"),
        folder,
        MLX_COLBERT_HOME=str(home),
    )
    server = serve(registry=Registry(home), llm="tiny", endpoint=llm_server.url)
    server.folder = folder
    return server


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_each_request_of_the_page_is_answered(served):
    lines = [line for block in blocks("bash")[1:] for line in block.splitlines()]
    assert len(lines) >= 20
    for line in lines:
        assert line.startswith("curl ")
        request = line[5:].replace("http://127.0.0.1:8765", served.url)
        run(f"curl -sS --fail-with-body {request}", served.folder)


def test_program_of_the_page_runs(served, capsys):
    pytest.importorskip("openai")
    (program,) = blocks("python")
    exec(program.replace("http://127.0.0.1:8765", served.url), {})
    assert "Leaves are green [1]." in capsys.readouterr().out
