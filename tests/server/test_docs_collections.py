"""What docs/server-collections.md says is true: each of its requests is sent."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from collecting import CHECKPOINT, made_notes

PAGE = (Path(__file__).parents[2] / "docs" / "server-collections.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def served(serve, tmp_path, llm_server, monkeypatch):
    monkeypatch.setattr("mlx_colbert.collection.confidence.THRESHOLD", 0.0)
    registry, folder = made_notes(tmp_path, CHECKPOINT)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "boat.md").write_text("The keel of the boat.\n")
    server = serve(registry=registry, llm="tiny", endpoint=llm_server.url)
    from mlx_colbert.collection.collection import Collection

    with Collection(registry.find("notes"), backend="numpy") as notes:
        doc_id = notes.index.passages_of("notes/tea.md")[0]
    server.values = {"ID": quote(doc_id), "FOLDER": str(tmp_path / "more"), "FILE": str(folder / "tea.md")}
    return server


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_each_request_of_the_page_is_answered(served):
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) >= 20
    for line in lines:
        assert line.startswith("curl ")
        command = "curl -sS --fail-with-body " + line[5:].replace("http://127.0.0.1:8765", served.url)
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, env={**os.environ, **served.values}
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_program_of_the_page_runs(served, capsys):
    pytest.importorskip("openai")
    (program,) = blocks("python")
    exec(program.replace("http://127.0.0.1:8765", served.url), {})
    assert "Leaves are green [1]." in capsys.readouterr().out
