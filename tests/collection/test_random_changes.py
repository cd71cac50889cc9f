"""Random changes of files, with syncs and kills between them: the result is that of a new collection."""

from __future__ import annotations

import os
import random
import shutil
import time
from contextlib import nullcontext

import numpy as np
import pytest
from collection.syncing import Syncs

from mlx_colbert.collection import last_look
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.search import search
from mlx_colbert.collection.settings import CollectionSettings

pytestmark = pytest.mark.slow

N_OPERATIONS = int(os.environ.get("MLX_COLBERT_TEST_OPERATIONS", "150"))
# Others try other changes.
FIRST_SEED = int(os.environ.get("MLX_COLBERT_TEST_SEED", "0"))
WORDS = [f"w{number}" for number in range(60)]
SUFFIXES = [".md", ".md", ".txt", ".rst", ".html"]


class Disk:
    """A folder whose files change at random."""

    def __init__(self, root, seed):
        self.root = root
        self.random = random.Random(seed)
        self.n_made = 0

    def files(self):
        return sorted(
            path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith(".")
        )

    def folders(self):
        return [self.root, *sorted(path for path in self.root.rglob("*") if path.is_dir())]

    def new_path(self, suffix=None):
        self.n_made += 1
        suffix = suffix or self.random.choice(SUFFIXES)
        return self.random.choice(self.folders()) / f"f{self.n_made}{suffix}"

    def text(self):
        parts = []
        for _ in range(self.random.randint(1, 5)):
            if self.random.random() < 0.3:
                parts.append("# " + self.random.choice(WORDS))
            parts.append(" ".join(self.random.choices(WORDS, k=self.random.randint(3, 90))))
        return "\n\n".join(parts) + "\n"

    def change(self):
        """One random change; its name."""
        files = self.files()
        names = ["create"] * 3
        if files:
            names += [
                "edit",
                "edit",
                "append",
                "same_size",
                "rename",
                "move",
                "over",
                "swap",
                "rotate",
                "delete",
            ]
            names += [
                "touch",
                "copy",
                "chmod",
                "empty",
                "binary",
                "folder",
                "rename_folder",
                "ignore",
                "suffix",
            ]
        name = self.random.choice(names)
        getattr(self, name)(*([self.random.choice(files)] if name in ONE_FILE else []))
        return name

    def create(self):
        self.new_path().write_text(self.text())

    def edit(self, path):
        parts = path.read_bytes().decode("latin-1").split("\n\n")
        parts[self.random.randrange(len(parts))] = " ".join(self.random.choices(WORDS, k=20))
        path.write_text("\n\n".join(parts))

    def append(self, path):
        with path.open("a") as stream:
            stream.write("\n\n" + " ".join(self.random.choices(WORDS, k=30)) + "\n")

    def same_size(self, path):
        data = bytearray(path.read_bytes())
        if data:
            data[self.random.randrange(len(data))] = self.random.choice(b"abcxyz ")
            path.write_bytes(data)

    def rename(self, path):
        path.rename(path.with_name(self.new_path(path.suffix).name))

    def suffix(self, path):
        path.rename(self.new_path())

    def move(self, path):
        folder = self.random.choice(self.folders())
        if not (folder / path.name).exists():
            path.rename(folder / path.name)

    def over(self, path):
        path.rename(self.random.choice(self.files()))

    def swap(self, path):
        other = self.random.choice(self.files())
        between = path.with_name(".between")
        path.rename(between), other.exists() and other.rename(path), between.rename(other)

    def rotate(self, path):
        path.rename(self.new_path(path.suffix))
        path.write_text(self.text())

    def delete(self, path):
        path.unlink()

    def touch(self, path):
        os.utime(path, ns=(self.random.randrange(10**18), self.random.randrange(10**18)))

    def copy(self, path):
        self.random.choice([shutil.copy, shutil.copy2])(path, self.new_path(path.suffix))

    def chmod(self, path):
        path.chmod(self.random.choice([0o600, 0o644, 0o755]))

    def empty(self, path):
        path.write_text(self.random.choice(["", "\n \n"]))

    def binary(self, path):
        path.write_bytes(b"\0binary")

    def folder(self):
        folder = self.random.choice(self.folders()) / f"d{self.random.randrange(6)}"
        if not folder.exists():
            folder.mkdir()
        elif self.random.random() < 0.3:
            shutil.rmtree(folder)
            folder.mkdir()
            (folder / "again.md").write_text(self.text())

    def rename_folder(self):
        if len(folders := self.folders()) > 1:
            folder = self.random.choice(folders[1:])
            folder.rename(folder.with_name(f"r{self.n_made}"))
            self.n_made += 1

    def ignore(self):
        rules = [f"f*{self.random.randrange(10)}.md", f"d{self.random.randrange(6)}/", "!*.md", "again.md"]
        rule = self.random.choice(rules) if self.random.random() < 0.6 else ""
        (self.random.choice(self.folders()) / ".mlx-colbertignore").write_text(rule)


ONE_FILE = {
    "edit", "append", "same_size", "rename", "move", "over", "swap", "rotate", "delete", "touch", "copy",
    "chmod", "empty", "binary", "suffix",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + 2))
def test_collection_after_random_changes_and_kills_is_that_of_the_files(
    tmp_path, registry, model, contents, seed
):
    root = tmp_path / "notes"
    root.mkdir()
    disk = Disk(root, seed)
    place = registry.create(CollectionSettings(model="words").with_folder(root))
    n_killed = n_synced = 0
    with Syncs() as syncs:
        for _ in range(N_OPERATIONS):
            disk.change()
            if disk.random.random() < 0.3:
                kill_after = disk.random.choice([None, disk.random.uniform(0, 0.3)])
                ended = syncs.run(registry.home, "notes", kill_after=kill_after)
                n_killed, n_synced = n_killed + (not ended), n_synced + ended
                if not ended and disk.random.random() < 0.5:
                    check_against_fresh(registry, place, contents, f"fresh-{n_killed}")
    check_against_fresh(registry, place, contents, "fresh")
    assert n_killed and n_synced


@pytest.fixture
def short_tick(monkeypatch):
    """Let a look be remembered soon after a change: files on this disk have times of a few milliseconds."""
    monkeypatch.setattr(last_look, "_TICK_NS", 30_000_000)


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + 2))
def test_search_in_a_process_that_lives_long_finds_what_the_files_have_now(
    tmp_path, registry, model, contents, short_tick, seed
):
    root = tmp_path / "notes"
    root.mkdir()
    disk = Disk(root, seed)
    (root / "first.md").write_text(disk.text())
    place = registry.create(CollectionSettings(model="words").with_folder(root))
    with Syncs() as syncs, Collection(place, backend="numpy") as kept_open:
        assert syncs.run(registry.home, "notes")
        for number in range(N_OPERATIONS):
            for _ in range(disk.random.choice([0, 1, 1, 1, 3])):
                disk.change()
            if disk.random.random() < 0.3:
                # Of another process, while this one remembers its last look.
                syncs.run(registry.home, "notes", kill_after=disk.random.choice([None, 0.05, 0.2]))
            if not any(path.suffix in SUFFIXES for path in disk.files()):
                # The passages of an empty folder stay.
                disk.create()
            time.sleep(disk.random.choice([0, 0, 0.04]))
            order = [kept_open, None] if disk.random.random() < 0.5 else [None, kept_open]
            found = [searched(place, each) for each in order]
            assert found[0] == found[1]
            if disk.random.random() < 0.3:
                check_against_fresh(registry, place, contents, f"fresh-{number}", is_synced=False)


def searched(place, collection):
    """What a search finds in a collection that is open, or that is opened for it."""
    with Collection(place, backend="numpy") if collection is None else nullcontext(collection) as opened:
        found = []
        for word in WORDS[::20]:
            result = search([opened], word, 500, mode="keyword", refresh_s=60)
            if any("not in step" in note for note in result.notes):
                # A search does not begin an index.
                assert not list(opened.index.sources())
                opened.sync()
                return searched(place, collection)
            assert not any("look" in note for note in result.notes)
            found.append(sorted((hit.doc_id, hit.text) for hit in result.hits))
        return found


def check_against_fresh(registry, place, contents, name, *, is_synced=True):
    """After a sync, the collection is as a new one of the same files.

    Args:
        is_synced: whether it must be brought in step first. Otherwise a search has just done so.
    """
    with Collection(place, backend="numpy") as grown:
        if is_synced:
            grown.sync(prune=True)
        with Collection(registry.create(grown.settings, name), backend="numpy") as fresh:
            fresh.sync()
            if not fresh.place.index_path.exists():
                assert not grown.place.index_path.exists() or len(grown.index) == 0
                return
            assert contents(grown) == contents(fresh)
            assert len(grown.index) == fresh.index.info().passages
            for word in WORDS[::7]:
                query = np.atleast_2d(grown.retriever.model.encode_query(word))
                assert hits(grown.index.search(query, 20)) == hits(fresh.index.search(query, 20))
                found = (grown.index.search_keywords(word, 500), fresh.index.search_keywords(word, 500))
                assert sorted(hit.doc_id for hit in found[0]) == sorted(hit.doc_id for hit in found[1])
    registry.remove(name)


def hits(found):
    return [(hit.doc_id, hit.score, hit.text, hit.metadata, hit.source, hit.position) for hit in found]
