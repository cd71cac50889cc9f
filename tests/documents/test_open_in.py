"""Files that are opened only if they are in a folder."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from mlx_colbert.documents import folders
from mlx_colbert.documents.file_passages import read_file
from mlx_colbert.documents.folders import open_in


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "tea.md").write_text("secret")
    (tmp_path / "notes" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "notes" / "deep" / "er" / "tea.md").write_text("tea")
    (tmp_path / "notes" / ".hidden").mkdir()
    (tmp_path / "notes" / ".hidden" / "tea.md").write_text("hidden")
    return tmp_path / "notes"


def text(folder, path):
    return read_file(path, max_bytes=100, within=str(folder)).data


def test_file_in_the_folder_is_read_also_behind_a_link(folder):
    path = folder / "deep" / "er" / "tea.md"
    assert text(folder, path) == b"tea"
    (folder / "link.md").symlink_to(path)
    (folder / "linked").symlink_to("deep/er")
    assert text(folder, folder / "link.md") == text(folder, folder / "linked" / "tea.md") == b"tea"
    (folder.parent / "way").symlink_to(folder)
    assert text(folder.parent / "way", folder / "link.md") == b"tea"


@pytest.mark.parametrize(
    "name",
    ["../secret/tea.md", "out/tea.md", "out.md", ".hidden/tea.md", "hid.md", "deep/../../secret/tea.md"],
)
def test_file_out_of_the_folder_or_hidden_is_not_opened(folder, name):
    (folder / "out").symlink_to("../secret")
    (folder / "out.md").symlink_to(folder.parent / "secret" / "tea.md")
    (folder / "hid.md").symlink_to(".hidden/tea.md")
    with pytest.raises(OSError) as caught:
        open_in(folder, folder / name)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("swapped", ["deep", "deep/er", "deep/er/tea.md"])
def test_link_that_appears_between_the_check_and_the_opening_is_not_followed(folder, monkeypatch, swapped):
    checked = folders.real_path_in

    def then_swap(root, path):
        real = checked(root, path)
        victim = folder / swapped
        victim.rename(folder.parent / "moved")
        (folder.parent / "secret" / "er").mkdir()
        (folder.parent / "secret" / "er" / "tea.md").write_text("secret")
        target = {"deep": "secret", "deep/er": "secret", "deep/er/tea.md": "secret/tea.md"}[swapped]
        victim.symlink_to(folder.parent / target)
        return real

    monkeypatch.setattr(folders, "real_path_in", then_swap)
    with pytest.raises(OSError) as caught:
        open_in(folder, folder / "deep" / "er" / "tea.md")
    assert caught.value.errno == errno.ELOOP


@pytest.mark.slow
def test_folder_that_is_swapped_all_the_time_never_gives_a_secret(folder):
    stop = threading.Event()
    deep, aside, link = folder / "deep" / "er", folder.parent / "aside", folder.parent / "link"
    link.symlink_to(folder.parent / "secret")

    def swap():
        while not stop.is_set():
            deep.rename(aside)
            link.rename(deep)
            deep.rename(link)
            aside.rename(deep)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(3000):
            try:
                seen.add(text(folder, deep / "tea.md"))
            except OSError as error:
                seen.add(error.errno)
    finally:
        stop.set()
        thread.join()
    assert b"secret" not in seen


def test_what_is_missing_is_missing(folder):
    with pytest.raises(FileNotFoundError):
        open_in(folder, folder / "none.md")


def test_no_descriptor_is_left_open(folder):
    before = len(list(Path("/dev/fd").iterdir()))
    for name in ("deep/er/tea.md", "none.md", "../secret/tea.md"):
        for _ in range(5):
            try:
                os.close(open_in(folder, folder / name))
            except OSError:
                pass
    assert len(list(Path("/dev/fd").iterdir())) == before
