"""Draws the pictures of the page: serves two collections after `make demo`, and looks at them in Chromium.

python docs/draw_page.py docs
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples/data"
# Five paragraphs that follow each other in the corpus are of one article.
ARTICLES = {
    3: "tesla",
    11: "steam-engine",
    12: "oxygen",
    16: "amazon",
    20: "black-death",
    21: "geology",
    27: "immune-system",
    39: "chloroplasts",
    40: "prime-numbers",
    41: "rhine",
}
COLOURS = 128


def articles(folder: Path) -> None:
    """Write the articles as Markdown files."""
    folder.mkdir()
    lines = (DATA / "xquad-en/corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    for number, name in ARTICLES.items():
        title = f"# {name.replace('-', ' ').capitalize()}"
        text = "\n\n".join([title, *texts[5 * number : 5 * number + 5]])
        (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")


def draw(
    browser: Any, url: str, target: Path, *, scheme: str, size: tuple[int, int], query: str, opens: bool
) -> None:
    """Search, and write what is seen as a PNG of few colours."""
    from PIL import Image

    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.goto(url)
    page.fill("#query", query)
    page.wait_for_selector("#hits .hit")
    # The second search looks for changed files.
    page.wait_for_timeout(3000)
    if opens:
        page.locator(".hit-title").first.click()
        page.wait_for_selector("#reader .line.own")
        page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
    page.close()


def draw_both(url: str, target: Path) -> None:
    """Write the picture of a small screen in light, and of a phone in dark."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        light = {"scheme": "light", "size": (1024, 720), "opens": True}
        dark = {"scheme": "dark", "size": (390, 780), "opens": False}
        draw(browser, url, target / "page-light.png", query="how did the plague spread", **light)
        draw(browser, url, target / "page-dark.png", query="how did the plague spread", **dark)
        browser.close()


def main() -> None:
    """Write page-light.png and page-dark.png."""
    parser = argparse.ArgumentParser(description="Draws the pictures of the page.")
    parser.add_argument("target", type=Path, help="the folder of the pictures")
    parser.add_argument("--model", default=str(ROOT / "demo/answerai-colbert-small-v1"))
    args = parser.parse_args()
    program = [sys.executable, "-m", "mlx_colbert"]
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "MLX_COLBERT_HOME": f"{home}/home", "MLX_COLBERT_MODEL": args.model}
        articles(Path(home, "wikipedia"))
        subprocess.run(
            [*program, "sync", f"{home}/wikipedia", str(DATA / "notes")], check=True, env=environment
        )
        words = [*program, "serve", "--port", "0", "--json"]
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            try:
                draw_both(url, args.target)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
