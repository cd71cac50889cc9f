"""Builds the documentation site into build/site/html, strictly and without a network.

python docs/build_site.py

The pages are those of `nav` in docs/zensical.toml and what they link to. They are copied with their paths in
the repository, so that no link has to be changed. A link that leads nowhere is an error, and so is a page
that would fetch something from another host.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "docs" / "zensical.toml"
SITE = ROOT / "build" / "site"
WORKER = "file_worker.js"
# Long pages for who works on the package: they would hide the answers for who uses it.
NOT_SEARCHED = {"ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"}
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
# What a browser loads by itself: <a href> is not among it.
LOADED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)")
LINKED = re.compile(r"<(?:a|img|script|link)\b[^>]*?\b(?:href|src)=\"?([^\"\s>]+)")


def pages(nav: Any) -> Iterator[str]:
    """The pages of the navigation, in their order."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(entry)


def navigation() -> list[str]:
    """The pages of docs/zensical.toml, as paths in the repository."""
    return list(pages(tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"]["nav"]))


def copy_pages(target: Path) -> None:
    """Copies the pages, and the files that they link to."""
    waiting = navigation()
    done: set[str] = set()
    while waiting:
        name = waiting.pop()
        source = ROOT / name
        if name in done or not source.is_file():
            continue  # zensical names a page that is missing
        done.add(name)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)
        if name in NOT_SEARCHED:
            text = source.read_text(encoding="utf-8")
            (target / name).write_text(f"---\nsearch:\n  exclude: true\n---\n\n{text}", encoding="utf-8")
        if source.suffix == ".md":
            text = re.sub(r"```.*?```", "", source.read_text(encoding="utf-8"), flags=re.DOTALL)
            for link in LINK.findall(text):
                linked = (source.parent / link).resolve()
                if linked.is_relative_to(ROOT):
                    waiting.append(linked.relative_to(ROOT).as_posix())


def use_own_worker(html: Path) -> None:
    """Puts our script in the place of the one that zensical's offline pages would fetch."""
    shutil.copyfile(ROOT / "docs" / WORKER, html / WORKER)
    for page in html.rglob("*.html"):
        way = "../" * (len(page.relative_to(html).parts) - 1)
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("https://unpkg.com/iframe-worker/shim", way + WORKER), encoding="utf-8")


def problems(html: Path) -> Iterator[str]:
    """What is wrong with the built pages: files that are fetched from elsewhere, links to nothing."""
    for page in sorted(html.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(html)
        for url in LOADED.findall(text):
            yield f"{name} loads {url}"
        for url in LINKED.findall(text):
            parts = urlsplit(url)
            # The page of a wrong address has absolute links.
            if parts.scheme or parts.netloc or not parts.path or name.name == "404.html":
                continue
            if not (page.parent / unquote(parts.path)).exists():
                yield f"{name} links to {url}, which is not there"
    for style in sorted(html.rglob("*.css")):
        for url in re.findall(r"url\(\"?(https?://[^)\"]+)", style.read_text(encoding="utf-8")):
            yield f"{style.relative_to(html)} loads {url}"


def main() -> None:
    """Builds and checks the site."""
    shutil.rmtree(SITE, ignore_errors=True)
    copy_pages(SITE / "pages")
    shutil.copyfile(CONFIG, SITE / "zensical.toml")
    done = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=SITE)
    if done.returncode:
        sys.exit("The site was not built.")
    use_own_worker(SITE / "html")
    found = list(problems(SITE / "html"))
    if found:
        sys.exit("\n".join(found))
    print(f"{SITE / 'html' / 'index.html'}: {len(list((SITE / 'html').rglob('*.html')))} pages.")


if __name__ == "__main__":
    main()
