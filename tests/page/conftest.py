"""The page in a real browser, with a real server on a few files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from llm_server import LlmServer
from strangers import STRANGERS
from visiting import Visit

PROGRAM = Path(__file__).with_name("word_program.py")
# `serve` wants a checkpoint that exists. The program loads its own model in its place.
CHECKPOINT = Path(__file__).parents[1] / "data/checkpoints/pylate-bert"
NOTES = {
    "planets.md": "# Planets\n\nThe largest planet is not the hundred others.\n\n"
    "## Reddish\n\nThe reddish planet 😀 is such a planet over the mountain.\n",
    "garden/river.txt": "The mountain is over the river. It boils.\n\nA sleeping engine.\n",
    "search.py": "def search(query):\n    # the vector of a query\n    return index.score(query)\n",
    "steps.ipynb": json.dumps(
        {
            "cells": [
                {"cell_type": "markdown", "metadata": {}, "source": f"{word} candidate " * 60}
                for word in ("first", "second", "third")
            ],
            "metadata": {"language_info": {"name": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    ),
    "broken.pdf": "this is no PDF",
}
HOSTILE = {
    "script.md": "# <script>alert('t')</script>\n\n<script>alert('p')</script> planet one\n",
    "image.md": '"><img src=x onerror=alert(1)> planet two <svg onload=alert(2)>\n',
    "anchor.html": "<p>planet three &lt;a href=javascript:alert(3)&gt;</p><script>alert(4)</script>\n",
    "link.md": "[planet](javascript:alert(4)) four ![planet](https://stranger.example/pixel.png)\n",
    "bidi.md": "planet five \u202etenalp\u202c \u200bzero\u200bwidth \ufeff \u2066open\n",
    "control.txt": "planet six \x1b[31mred\x07 end\n",
    "rtl.md": "# كوكب\n\nplanet seven كوكب الماء 惑星 👩‍👩‍👧 end\n",
    "name\u202egpj.md": "planet eight of a turned name\n",
    "<img src=x onerror=alert(5)>.md": "planet nine of a tag\n",
    "long.txt": "planet ten " + "w" * 1_000_000 + "\n",
}


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser():
    """Chromium of the system."""
    pytest.importorskip("fastapi", reason="pip install 'mlx-colbert[server]'")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = _chromium()
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with pytest.MonkeyPatch.context() as patch:
        # A BLAS that is loaded before all else leaves the threads of Node.js no room for their stacks.
        patch.delenv("LD_PRELOAD", raising=False)
        driver = sync_api.sync_playwright().start()
        browser = driver.chromium.launch(
            executable_path=path,
            # As root, Chromium runs only without its sandbox. The folders of the tests may fill /dev/shm.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
    yield browser
    browser.close()
    driver.stop()


class Served:
    """`mlx-colbert serve` in a process of its own."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.port = 0
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        self._environment = {
            **os.environ,
            "MLX_COLBERT_HOME": str(home / "home"),
            "MLX_COLBERT_CACHE": str(home / "cache"),
            "MLX_COLBERT_MODEL": str(CHECKPOINT),
            "MLX_COLBERT_BACKEND": "numpy",
            "HF_HUB_OFFLINE": "1",
            **environment,
        }

    def command(self, *words: str) -> None:
        subprocess.run(
            [sys.executable, str(PROGRAM), *words],
            check=False,
            capture_output=True,
            env=self._environment,
        )

    def start(self, **environment: str) -> Served:
        words = [sys.executable, str(PROGRAM), "serve", "--json", "--port", str(self.port)]
        self._process = subprocess.Popen(
            words,
            env={**self._environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = json.loads(self._process.stdout.readline())["url"]
        self.port = int(self.url.rpartition(":")[2])
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")


@pytest.fixture(scope="session")
def llm():
    """A language model that always says the same."""
    server = LlmServer()
    server.pieces = ["The kettle", " leaks [1]", ", says nobody [77]."]
    yield server
    server.close()


@pytest.fixture(scope="session")
def served(browser, llm):
    """A server with the collections notes, hostile and strangers."""
    with tempfile.TemporaryDirectory(prefix="mc-", dir="/tmp") as folder:
        home = Path(folder)
        _write(home / "notes", NOTES)
        _write(home / "hostile", HOSTILE)
        server = Served(home, MLX_COLBERT_ENDPOINT=llm.url)
        _write(home / "strangers", STRANGERS)
        server.command("sync", *(str(home / name) for name in ("notes", "hostile", "strangers")))
        server.start()
        yield server
        server.kill()


@pytest.fixture
def empty_served(browser):
    """A server of its own for one test, without a collection."""
    with tempfile.TemporaryDirectory(prefix="mc-", dir="/tmp") as folder:
        server = Served(Path(folder)).start()
        yield server
        server.kill()


@pytest.fixture
def visits(browser):
    """Opens the page of a server."""
    opened: list[Visit] = []

    def visit(server: Served, fragment: str = "", **options) -> Visit:
        opened.append(Visit(browser, server.url, **options))
        return opened[-1].goto(fragment)

    yield visit
    for one in opened:
        one.ended()


@pytest.fixture
def visit(visits, served):
    """The page, just opened."""
    return visits(served)


@pytest.fixture
def page(visit):
    """The page of the browser."""
    return visit.page
