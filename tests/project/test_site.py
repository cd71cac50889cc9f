"""The documentation site has every page and every public name."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import mlx_colbert

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
build_site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build_site)


def test_every_page_of_docs_is_in_the_navigation():
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}

    missing = pages - set(build_site.navigation())
    assert not missing, f"add them to `nav` in docs/zensical.toml: {sorted(missing)}"


def test_navigation_names_each_page_once_and_only_pages_that_exist():
    named = build_site.navigation()

    assert len(named) == len(set(named))
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_reference_has_every_public_name():
    """The docstrings are shown by the lines `::: name` in docs/reference/."""
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))

    shown = set(re.findall(r"^::: mlx_colbert\.(\w+)$", pages, re.MULTILINE))
    assert set(mlx_colbert.__all__) - {"__version__"} <= shown


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "reference").glob("*.md")), ids=lambda page: page.stem
)
def test_names_of_the_reference_exist(page):
    for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        module, _, last = name.rpartition(".")
        assert getattr(importlib.import_module(module), last) is not None, name


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<script src="https://cdn.example/a.js">', "loads https://cdn.example/a.js"),
        ('<link rel="stylesheet" href=//cdn.example/a.css>', "loads //cdn.example/a.css"),
        ('<a href="gone.html">', "links to gone.html, which is not there"),
        ('<a href="https://example.org/">', None),
        ('<a href="page.html#part">', None),
    ],
)
def test_pages_that_need_a_network_or_lead_nowhere_are_told(tmp_path, html, problem):
    (tmp_path / "page.html").write_text(html, encoding="utf-8")

    assert list(build_site.problems(tmp_path)) == ([f"page.html {problem}"] if problem else [])


def test_styles_that_fetch_fonts_are_told(tmp_path):
    (tmp_path / "a.css").write_text(
        "@font-face { src: url(https://fonts.example/a.woff2) }", encoding="utf-8"
    )

    assert list(build_site.problems(tmp_path)) == ["a.css loads https://fonts.example/a.woff2"]


def test_pages_are_copied_with_what_they_link_to(tmp_path):
    build_site.copy_pages(tmp_path)

    assert (tmp_path / "docs" / "terminal.svg").is_file()
    assert (tmp_path / "examples" / "01_search.py").is_file()
    assert (tmp_path / "examples" / "data" / "xquad-en" / "README.md").is_file()
