"""What the system really tells of files."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from pathlib import Path

import pytest

from mlx_colbert.collection import file_events
from mlx_colbert.collection.file_events import FileEvents

# A busy machine tells late. Seconds until a test fails.
_LIMIT_S = 60


@pytest.fixture(params=[False, True], ids=["each folder", "whole trees"])
def events(request, monkeypatch):
    monkeypatch.setattr(file_events, "_STEP_MS", 20)
    made = FileEvents(whole_trees=request.param)
    yield made
    made.close()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "notes" / "sub").mkdir(parents=True)
    return tmp_path / "notes"


def follow(events, root, **options):
    events.follow([str(root)], [str(root), *(str(path) for path in root.rglob("*/"))], **options)


def told(events, *paths):
    """Waits until all these paths are told."""
    missing = {str(path) for path in paths}
    for _ in range(_LIMIT_S):
        missing -= events.wait(1.0) or set()
        if not missing:
            return True
    return False


def test_changes_in_all_folders_are_told(events, root):
    follow(events, root)

    (root / "a.md").write_text("one")
    (root / "sub" / "b.md").write_text("two")
    (root / "new").mkdir()

    assert told(events, root / "a.md", root / "sub" / "b.md", root / "new")


def test_deleted_and_renamed_files_are_told(events, root):
    (root / "a.md").write_text("one"), (root / "b.md").write_text("two")
    follow(events, root)

    (root / "a.md").unlink()
    (root / "b.md").rename(root / "c.md")

    assert told(events, root / "a.md", root / "b.md", root / "c.md")


def test_nothing_is_told_of_reading(events, root):
    (root / "a.md").write_text("one")
    follow(events, root)

    assert [path.name for path in sorted(root.iterdir())] == ["a.md", "sub"]
    assert (root / "a.md").read_text() == "one"
    assert events.wait(0.2) == set()


@pytest.mark.parametrize("events", [False], indirect=True)
def test_what_changed_before_other_folders_are_followed_is_told(events, root):
    follow(events, root)
    (root / "a.md").write_text("one")
    (root / "more").mkdir()
    follow(events, root)
    (root / "more" / "b.md").write_text("two")

    assert told(events, root / "a.md", root / "more" / "b.md")


def test_folder_that_was_made_again_is_followed_anew(events, root):
    follow(events, root)
    shutil.rmtree(root)
    root.mkdir()
    follow(events, root, anew=True)
    (root / "a.md").write_text("one")

    assert told(events, root / "a.md")


def test_missing_folder_is_no_error(events, tmp_path):
    events.follow([str(tmp_path / "none")], [])
    assert events.wait(0.1) == set()


def test_nothing_to_follow_waits(events):
    events.follow([], [])
    assert events.wait(0.1) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 in macOS")
def test_name_that_is_no_utf_8_is_told_as_lost_count_once(events, root):
    follow(events, root)
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.md")).write_text("one")

    assert any(events.wait(1.0) is None for _ in range(_LIMIT_S))
    follow(events, root)
    (root / "a.md").write_text("one")
    assert told(events, root / "a.md")


@pytest.mark.skipif(sys.platform != "linux", reason="counts the watches of inotify")
def test_links_and_folders_that_are_left_out_are_not_followed(root, tmp_path):
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "node_modules" / "deep").mkdir(parents=True)
    events = FileEvents()
    events.follow([str(root)], [str(root), str(root / "sub")])

    assert events.wait(0.1) == set()
    assert _watches() == 2
    events.close()


def _watches():
    n = 0
    for path in Path("/proc/self/fdinfo").iterdir():
        try:
            n += path.read_text().count("inotify wd")
        except OSError:
            continue
    return n


@pytest.mark.skipif(sys.platform != "linux", reason="inotify needs a file descriptor")
def test_system_that_cannot_follow_is_an_os_error_and_waiting_still_works(events, root):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match=r"[Tt]oo many open files"):
            follow(events, root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert events.wait(0.01) == set()
    follow(events, root)
    (root / "a.md").write_text("one")
    assert told(events, root / "a.md")


def test_folder_that_is_removed_while_it_is_followed_is_tried_again(root, monkeypatch):
    made = []

    def notify(paths, *options):
        made.append((paths, options[-1]))
        if len(made) < 3:
            raise FileNotFoundError(paths[0])

    monkeypatch.setattr(file_events, "RustNotify", notify)
    FileEvents().follow([str(root)], [str(root / "none")])

    # An error is passed over by the last try only: before that, it may be a limit of the system.
    assert made == [([str(root)], False), ([str(root)], False), ([str(root)], True)]
