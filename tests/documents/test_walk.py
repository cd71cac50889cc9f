"""Which files of a folder are read."""

from __future__ import annotations

import os

import pytest

from mlx_colbert.documents.ignore_rules import Patterns, Rules
from mlx_colbert.documents.walk import FileState, walk


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")


def found(root, exclude=(), include=(), known=frozenset()):
    return list(walk(root, Rules(exclude, include), known).files)


def test_files_are_found_with_size_and_time_in_order(root):
    make(root, "b.md", "a/c.txt", "a.md")
    os.utime(root / "b.md", ns=(5, 7))

    files = walk(root, Rules()).files

    assert list(files) == ["a.md", "a/c.txt", "b.md"]
    assert files["b.md"] == FileState(4, 7)


def test_hidden_files_caches_programs_and_other_kinds_are_passed_over(root):
    make(root, "a.md", ".hidden.md", ".git/x.md", "node_modules/x.md", "__pycache__/x.md", "photo.jpg")
    make(
        root,
        "venv/pyvenv.cfg",
        "venv/x.md",
        "cache/CACHEDIR.TAG",
        "cache/x.md",
        "my.index/catalog.db",
        "my.index/x.md",
    )

    listed = walk(root, Rules())

    assert list(listed.files) == ["a.md"]
    assert listed.passed_over == {
        "node_modules/": 1, "__pycache__/": 1, ".jpg": 1, "virtual environment": 1, "cache": 1, "index": 1
    }  # fmt: skip


def test_links_that_lead_out_are_passed_over(root, tmp_path):
    make(tmp_path, "out.md", "elsewhere/x.md", "root-2/x.md")
    make(root, "a.md", "sub/b.md", ".git/x.md")
    (root / "in.md").symlink_to(root / "sub" / "b.md")
    for name, target in {
        "out.md": "out.md",
        "near.md": "root-2/x.md",
        "dir": "elsewhere",
        "no.md": "none",
        "hidden.md": "root/.git/x.md",
    }.items():
        (root / name).symlink_to(tmp_path / target)
    (root / "loop").symlink_to(root)

    assert found(root) == ["a.md", "in.md", "sub/b.md"]
    # A link to the folder itself may be written in its settings.
    assert found(root / "loop") == ["a.md", "in.md", "sub/b.md"]


def test_ignore_files_are_valid_in_their_folder_and_below(root):
    make(
        root,
        "a.md",
        "log.md",
        "sub/log.md",
        "sub/deep/log.md",
        "sub/deep/b.md",
        "build/x.md",
        "sub/build/x.md",
    )
    (root / ".gitignore").write_text("log.md\n/build/\n")
    (root / "sub" / "deep" / ".gitignore").write_text("!log.md\n")

    assert found(root) == ["a.md", "sub/build/x.md", "sub/deep/b.md", "sub/deep/log.md"]


def test_own_ignore_file_is_the_strongest(root):
    make(root, "a.md", "b.md", "c.md")
    (root / ".gitignore").write_text("*.md\n")
    (root / ".ignore").write_text("!*.md\nb.md\n")
    (root / ".mlx-colbertignore").write_text("\ufeffc.md\r\n!b.md\r\n")

    assert found(root) == ["a.md", "b.md"]


def test_ignore_files_above_are_valid_within_a_git_repository(root):
    make(root, "docs/a.md", "docs/out/b.md", "docs/draft.md")
    (root / ".gitignore").write_text("docs/out/\ndraft.md\n")

    assert found(root / "docs") == ["a.md", "draft.md", "out/b.md"]
    (root / ".git").mkdir()
    assert found(root / "docs") == ["a.md"]


def test_folder_that_the_rules_above_leave_out_is_walked_if_it_is_named(root):
    make(root, "docs/out/b.md", "docs/out/draft.md", "docs/out/c.log.md", ".git/HEAD")
    (root / ".gitignore").write_text("docs/out/\ndraft.md\n")
    (root / "docs" / "out" / ".gitignore").write_text("*.log.md\n")

    assert found(root / "docs") == []
    assert found(root / "docs" / "out") == ["b.md", "draft.md"]


def test_of_names_that_differ_only_in_how_a_letter_is_written_one_is_kept(root):
    make(root, "e\u0301/a.md", "\u00e9/a.md", "K.md", "\u212a.md")
    listed = walk(root, Rules())
    if len(list(root.iterdir())) < 4:
        pytest.skip("this disk has one name for both")

    assert list(listed.files) == ["K.md", "e\u0301/a.md"]
    assert list(listed.unlisted) == ["\u00e9/a.md", "\u212a.md"]


def test_patterns_of_the_settings_choose_files(root):
    make(root, "a.md", "b.txt", "drafts/c.md", "sub/drafts/d.md")
    (root / ".mlx-colbertignore").write_text("!drafts/\n")

    assert found(root, exclude=["/drafts/", "*.txt"]) == ["a.md", "sub/drafts/d.md"]
    assert found(root, include=["*.txt", "sub/"]) == ["b.txt", "sub/drafts/d.md"]


def test_line_that_is_no_pattern_is_left_out_and_the_others_count(root):
    make(root, "a.md", "b.md")
    (root / ".gitignore").write_text("!\n[\n***/\n\\\nb.md\n")

    assert found(root) == ["a.md"]
    assert Patterns(["!", "b.md"]).decision("b.md") is True


def test_ignore_file_that_cannot_be_read_has_no_rules(root):
    make(root, "a.md")
    (root / ".gitignore").mkdir()
    os.mkfifo(root / ".ignore")

    assert found(root) == ["a.md"]


def test_pipe_and_folder_with_the_name_of_a_text_are_no_files(root):
    os.mkfifo(root / "pipe.md")
    (root / "folder.md").mkdir()

    assert found(root) == []


def test_known_files_are_not_compared_with_the_rules(root):
    make(root, "a.md", "b.md")

    assert found(root, exclude=["*.md"], known={"a.md"}) == ["a.md"]


def test_digest_changes_with_each_rule_and_not_with_files(root):
    make(root, "a.md", "sub/b.md")
    digests = [walk(root, Rules()).rules]
    make(root, "c.md")
    assert walk(root, Rules()).rules == digests[0]

    digests += [walk(root, Rules(["x"])).rules, walk(root, Rules([], ["x"])).rules]
    (root / "sub" / ".ignore").write_text("x")
    digests.append(walk(root, Rules()).rules)
    (root / "sub" / ".ignore").rename(root / ".ignore")
    digests.append(walk(root, Rules()).rules)

    assert len(set(digests)) == 5


def test_missing_empty_and_unreadable_folders_are_told_apart(root, monkeypatch):
    assert walk(root / "none", Rules()).is_missing
    assert walk(root, Rules()).is_empty
    make(root, ".hidden/x.md")
    assert walk(root, Rules()).is_empty
    make(root, "sub/a.md", "b.md")
    listed = walk(root, Rules())
    assert (listed.is_missing, listed.is_empty) == (False, False)

    listing = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("sub/"):
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listed = walk(root, Rules())
    assert listed.unlisted == {"sub/": "Permission denied."}
    assert (listed.may_have("sub/x.md"), listed.may_have("subx.md"), listed.may_have("b.md")) == (
        True,
        False,
        False,
    )


def test_name_that_is_not_utf8_is_reported(root):
    make(root, "a.md")
    (root / os.fsdecode(b"\xff.md")).write_text("text")

    listed = walk(root, Rules())

    assert list(listed.files) == ["a.md"]
    assert list(listed.unlisted.values()) == ["The name is not UTF-8. Rename the file."]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 12 + "b", "a" * 200),
        ("*[a]?" * 12 + "b", "a" * 200),
        ("*é\\-" * 12 + "b", "é-" * 100),
        ("**/a" * 12 + "/b", "a/" * 500 + "c"),
        ("*a*a/**/" * 8 + "b", ("a" * 50 + "/") * 40 + "c"),
    ],
)
def test_pattern_of_many_stars_is_decided_at_once(pattern, path):
    # It would need years if all ways to share the name among the stars were tried.
    assert Patterns([pattern]).decision(path) is None


@pytest.mark.parametrize(
    ("pattern", "path", "decision"),
    [
        ("*a*b*c", "xaxbxc", True),
        ("*a*b*c", "abcabd/c", None),
        ("*ab*ab", "xaabxaab", True),
        ("a/**/b/**/c", "a/bb/b/c", True),
        ("a/**/b/**/c", "a/x/b/y/b/z/c", True),
        ("a/**/b/**/c", "a/x/bb/c", None),
        ("*[!x]*[!x]b", "aa/cb", None),
        ("a[!x]b", "a/b", None),
        ("a[.-0]b", "a/b", None),
        ("*\\**?]", "a*bc]", True),
    ],
)
def test_stars_match_as_in_git(pattern, path, decision):
    assert Patterns([pattern]).decision(path) is decision


def test_line_that_is_no_pattern_is_left_out(root):
    make(root, "a.md", "b.md")
    (root / ".gitignore").write_text("*" * 5000 + "\n[z-a]\nb.md\n[x-[\n!\n")

    assert found(root) == ["a.md"]


@pytest.mark.parametrize("rules", ["x{}.log\n", "!x{}/**/y\n"])
def test_folder_with_too_many_rules_is_reported_and_not_read(root, rules):
    make(root, "a.md", "sub/b.md", "sub/deep/c.md")
    (root / ".ignore").write_text(
        "".join(rules.format(number) for number in range(3000)) + "# note\n\n" * 3000
    )
    assert found(root) == ["a.md", "sub/b.md", "sub/deep/c.md"]

    (root / "sub" / ".gitignore").write_text("".join(rules.format(number) for number in range(2001)))
    listed = walk(root, Rules())

    assert list(listed.files) == ["a.md"]
    reason = ".gitignore: more than 5,000 patterns, with those above. Shorten it."
    assert listed.unlisted == {"sub/": reason}
    assert listed.may_have("sub/b.md") and not listed.may_have("x.md")


def test_too_many_rules_above_the_folder_are_reported(root):
    make(root, "docs/a.md")
    (root / ".git").mkdir()
    (root / ".gitignore").write_text("".join(f"{number}\n" for number in range(5001)))

    listed = walk(root / "docs", Rules())

    assert list(listed.unlisted) == [""] and not listed.files
    before = listed.rules
    (root / ".gitignore").write_text("x")
    assert walk(root / "docs", Rules()).rules != before


def test_large_file_of_rules_is_reported_and_not_read(root):
    make(root, "a.md", "sub/b.md")
    (root / "sub" / ".gitignore").write_bytes(b"#" * (1 << 20) + b"\nb.md\n")

    listed = walk(root, Rules())

    assert list(listed.files) == ["a.md"]
    assert listed.unlisted == {"sub/": ".gitignore is longer than 1,048,576 bytes. Shorten it."}
