"""Collections of uploaded files: where the files may be, and what is left of a half one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import unicodedata

import pytest

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.collection.uploads import create_uploads, delete_upload, uploading
from mlx_colbert.errors import CollectionError, InputError


@pytest.fixture
def place(registry, model):
    return create_uploads(registry, "mine", CollectionSettings(model="words"))


@pytest.fixture
def uploads(place):
    with Collection(place, backend="numpy") as made:
        yield made


@pytest.fixture
def folder(registry):
    return registry.uploads / "mine"


def put(registry, uploads, path, data=b"steep"):
    with uploading(registry, uploads, path) as upload:
        upload.write(data)
        upload.commit()


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.parent.rglob("*") if path.is_file())


def test_uploaded_file_is_found_after_a_sync(registry, uploads, folder):
    put(registry, uploads, "2024/deep/tea.md")
    assert uploads.sync().new == ["mine/2024/deep/tea.md"]
    put(registry, uploads, "2024/deep/tea.md", b"kettle")
    assert uploads.sync().changed == ["mine/2024/deep/tea.md"]
    assert (folder / "2024" / "deep" / "tea.md").read_bytes() == b"kettle"
    assert (folder / "2024" / "deep" / "tea.md").stat().st_mode & 0o077 == 0


def test_upload_that_is_not_committed_leaves_nothing(registry, uploads, folder):
    with pytest.raises(ZeroDivisionError), uploading(registry, uploads, "a/tea.md") as upload:
        upload.write(b"half")
        _ = 1 / 0
    assert everything(folder) == []


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/tea.md", "../tea.md", "a/../../tea.md", "a/./tea.md", "a//tea.md", "tea.md/"),
        *(".hidden.md", ".git/tea.md", "a/.mlx-colbert/collection.toml", ".gitignore"),
        *("tea\0.md", "tea\n.md", "a\\b.md", "c:tea.md", "a\u202etea.md", "a\u200btea.md", "\ud800.md"),
        *("con.md", "aux/tea.md", "LPT1", "a /tea.md", "a./tea.md", " tea.md"),
        *("photo.jpg", "tea", "node_modules/tea.md", "a/pyvenv.cfg"),
        *("x" * 300 + ".md", "a/" * 20 + "tea.md", "é" * 120 + ".md", "aaaaaaaaaa/" * 100 + "tea.md"),
    ],
)
def test_path_that_cannot_be_used_is_refused(registry, uploads, folder, path):
    with pytest.raises(InputError), uploading(registry, uploads, path):
        pass
    with pytest.raises(InputError):
        delete_upload(registry, uploads, path)
    assert everything(folder) == []


def test_name_in_decomposed_letters_is_the_same_file(registry, uploads, folder):
    put(registry, uploads, unicodedata.normalize("NFD", "café.md"), b"one")
    put(registry, uploads, unicodedata.normalize("NFC", "café.md"), b"two")
    assert everything(folder) == [unicodedata.normalize("NFC", "café.md")]


def test_no_link_is_followed(registry, uploads, folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tea.md").write_text("theirs")
    (folder / "way").symlink_to(tmp_path / "out")
    (folder / "tea.md").symlink_to(tmp_path / "out" / "tea.md")
    with pytest.raises(InputError, match="'way' is a file, not a folder"):
        put(registry, uploads, "way/tea.md")
    with pytest.raises(InputError, match="'way' is a file, not a folder"):
        delete_upload(registry, uploads, "way/tea.md")
    put(registry, uploads, "tea.md", b"mine")
    assert (tmp_path / "out" / "tea.md").read_text() == "theirs"
    assert not (folder / "tea.md").is_symlink()


def test_file_and_folder_do_not_replace_each_other(registry, uploads):
    put(registry, uploads, "a.md/tea.md")
    with pytest.raises(InputError, match=r"a\.md: is a folder"):
        put(registry, uploads, "a.md")
    with pytest.raises(InputError, match=r"'tea\.md' is a file, not a folder"):
        put(registry, uploads, "a.md/tea.md/b.md")


def test_too_large_file_is_refused_at_the_byte_that_is_too_much(registry, model, folder):
    place = create_uploads(registry, "mine", CollectionSettings(model="words", max_file_bytes=4))
    with Collection(place, backend="numpy") as uploads:
        put(registry, uploads, "tea.md", b"1234")
        with pytest.raises(InputError, match="has more than 4 bytes"):
            put(registry, uploads, "tea.md", b"12345")
    assert (folder / "tea.md").read_bytes() == b"1234"


def test_deleted_file_is_gone_after_a_sync_also_the_last_one(registry, uploads):
    put(registry, uploads, "a/tea.md")
    uploads.sync()
    delete_upload(registry, uploads, "a/tea.md")
    assert uploads.sync(prune=True).deleted == ["mine/a/tea.md"]
    with pytest.raises(FileNotFoundError):
        delete_upload(registry, uploads, "a/tea.md")


def test_files_of_the_user_are_not_changed(registry, collection, files):
    files.write("tea.md", "mine")
    with pytest.raises(CollectionError, match="does not take uploads"):
        put(registry, collection, "tea.md")
    with pytest.raises(CollectionError, match="does not take uploads"):
        delete_upload(registry, collection, "tea.md")
    assert (files.folder / "tea.md").read_text() == "mine"


def test_removed_collection_takes_its_uploads_and_no_others(registry, uploads, collection, files, folder):
    files.write("tea.md", "mine")
    put(registry, uploads, "tea.md")
    registry.remove("notes")
    assert (files.folder / "tea.md").exists() and (folder / "tea.md").exists()
    registry.remove("mine")
    assert not folder.exists() and registry.uploads.exists()


def test_taken_name_makes_no_folder(registry, place):
    with pytest.raises(InputError, match="exists already"):
        create_uploads(registry, "MINE", CollectionSettings())
    assert [path.name for path in registry.uploads.iterdir()] == ["mine"]


def test_renamed_collection_keeps_its_uploads_and_its_old_name_is_free(registry, place):
    registry.rename("mine", "other")
    create_uploads(registry, "mine", CollectionSettings(model="words"))
    with Collection(registry.find("other"), backend="numpy") as other:
        put(registry, other, "tea.md", b"other")
    assert [path.parent.name for path in registry.uploads.rglob("tea.md")] == ["mine"]
    assert registry.uploads_of(registry.find("mine")) == registry.uploads / "mine-2"


def test_half_file_of_a_crash_is_removed_after_a_day(registry, uploads, folder):
    put(registry, uploads, "tea.md")
    left = registry.uploads / ".incoming" / "left"
    left.write_text("half")
    os.utime(left, (time.time() - 2 * 24 * 3600,) * 2)
    put(registry, uploads, "tea.md")
    assert everything(folder) == ["tea.md"]


WRITER = """
import sys
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.uploads import uploading

registry = Registry(sys.argv[1])
with Collection(registry.find("mine"), backend="numpy") as uploads:
    for number in range(100_000):
        with uploading(registry, uploads, "tea.md") as upload:
            upload.write(b"%d " % number * 50_000)
            upload.commit()
        print(number, flush=True)
"""


@pytest.mark.slow
def test_file_is_whole_and_the_last_acknowledged_one_after_a_kill(registry, place, folder):
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(registry.home)], stdout=subprocess.PIPE, text=True
        )
        first = [process.stdout.readline() for _ in range(4)][-1]
        process.send_signal(signal.SIGKILL)
        last = int([first, *process.communicate()[0].splitlines()][-1])
        words = (folder / "tea.md").read_bytes().split()
        assert len(words) == 50_000 and set(words) in ({b"%d" % last}, {b"%d" % (last + 1)})
