"""Regular expressions that may not take longer than some seconds."""

from __future__ import annotations

import re
import subprocess

import pytest

from mlx_colbert.collection.patterns import check_pattern, matching
from mlx_colbert.collection.restriction import Restriction
from mlx_colbert.collection.search import search
from mlx_colbert.errors import InputError

# Years for such a text.
EVIL, TEXT = "(a+)+$", "a" * 60 + "b"


def test_texts_are_found_in_order_whatever_their_characters():
    texts = [(str(n), f"line {n}\n東京 \u2028 \0 \\ {'x' * (n % 7)}") for n in range(1500)]
    regex = re.compile("^東.*x{6}", re.MULTILINE)
    assert matching("^東.*x{6}", texts, limit_s=60) == [name for name, text in texts if regex.search(text)]
    assert matching("x", [], limit_s=60) == []


def test_expression_that_takes_too_long_is_stopped():
    texts = [("a", "harmless"), ("b", TEXT)]
    with pytest.raises(InputError, match=r"'\(a\+\)\+\$': the regular expression takes longer than 0 sec"):
        matching(EVIL, texts, limit_s=0.3)


def test_expression_that_takes_too_long_to_compile_is_stopped():
    with pytest.raises(InputError, match="takes longer than 0 seconds to look for"):
        check_pattern("(?i)" + "[\x01-\U0010ffff]" * 200, limit_s=0.3)


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(?P<x>a)(?P<x>b)", "(" * 5000, "\\"])
def test_what_is_no_expression_is_told(pattern):
    with pytest.raises(InputError, match="is not a regular expression: "):
        check_pattern(pattern, limit_s=60)


def test_no_process_is_left(monkeypatch):
    started = []
    popen = subprocess.Popen

    def remembered(*arguments, **named):
        started.append(popen(*arguments, **named))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remembered)
    matching("a", [("a", "a")], limit_s=60)
    with pytest.raises(InputError):
        matching(EVIL, [("b", TEXT)], limit_s=0.2)
    with pytest.raises(InputError):
        check_pattern("(", limit_s=60)
    assert len(started) == 3 and all(process.poll() is not None for process in started)


def test_module_of_the_current_folder_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert matching("a", [("a", "a")], limit_s=60) == ["a"]


def test_search_with_an_evil_expression_ends(collection, files):
    files.write("a.md", TEXT)
    collection.sync()
    with pytest.raises(InputError, match="takes longer"):
        search([collection], "a", restriction=Restriction(pattern=EVIL, pattern_s=0.5))
