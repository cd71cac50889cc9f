"""Random changes of files and of their index. After an upsert, the index is that of the files, made anew."""

import json
import os
import random
from contextlib import suppress

import pytest
from word_model import WordModel

from mlx_colbert.errors import ColBERTError
from mlx_colbert.index import Index
from mlx_colbert.model import batching
from mlx_colbert.retriever import reading
from mlx_colbert.retriever.retriever import Retriever

PARAGRAPH = " ".join(["word"] * 100)
WORDS = ["ant", "bee", "cat", "dog", "eel"]
TEXT_FILES = ["a.md", "b.md", "c.txt"]
ROW_FILES = ["one.jsonl", "two.jsonl"]


def paragraphs(words):
    return "\n\n".join(f"{word} {PARAGRAPH}" for word in words)


class Killed(BaseException):
    """The end of a run before its next commit."""


class MortalModel(WordModel):
    """A model that ends the run after some batches."""

    batches_left = None

    def encode_tokenized(self, texts, advance=lambda n_texts, n_tokens: None):
        if self.batches_left == 0:
            raise Killed
        if self.batches_left:
            self.batches_left -= 1
        return super().encode_tokenized(texts, advance)


class World:
    """A folder of files and an index of them."""

    def __init__(self, root, seed):
        self.random = random.Random(seed)
        self.root = root
        self.notes = root / "notes"
        self.notes.mkdir()
        self.clock = 0
        for name in TEXT_FILES:
            self.write(name, paragraphs(self.random.choices(WORDS, k=3)))
        self.write("never-empty.md", "zebu")
        self.deal_rows()
        self.model = MortalModel()
        Retriever.create(root / "index", self.model, backend="numpy").close()

    @property
    def inputs(self):
        return [self.notes, *(self.notes / name for name in ROW_FILES)]

    def write(self, name, content):
        self.clock += 1
        (self.notes / name).write_text(content)
        os.utime(self.notes / name, ns=(self.clock, self.clock))

    def change_text(self):
        name = self.random.choice(TEXT_FILES)
        words = [word for word in (self.notes / name).read_text().split() if word in WORDS]
        match self.random.choice(["other", "longer", "shorter", "same", "empty"]):
            case "other":
                words = self.random.choices(WORDS, k=4)
            case "longer":
                words.append(self.random.choice(WORDS))
            case "shorter":
                words = words[:-1]
            case "empty":
                words = []
        self.write(name, paragraphs(words))

    def disguise(self):
        """Change a file, but not its size and its time."""
        path = self.notes / self.random.choice(TEXT_FILES + ROW_FILES)
        time = path.stat().st_mtime_ns
        content = path.read_text()
        old, new = self.random.sample(WORDS, 2)
        path.write_text(content.replace(old, new))
        os.utime(path, ns=(time, time))

    def deal_rows(self):
        """Give the rows to the two files anew. So some move to the other file, and some are in none."""
        rows = [{"id": f"r{n}", "text": WORDS[n % 5], "n": 1} for n in self.random.sample(range(8), 6)]
        cut = self.random.randrange(1, len(rows))
        for name, part in zip(ROW_FILES, (rows[:cut], rows[cut:]), strict=True):
            self.write(name, "".join(json.dumps(row) + "\n" for row in part))

    def add(self):
        self.index_files(upsert=False)

    def upsert(self):
        self.index_files(upsert=True)

    def index_files(self, *, upsert):
        """A run, over all or some inputs, that may be killed."""
        self.model.batches_left = self.random.choice([None, 0, 1, 2])
        inputs = self.random.sample(self.inputs, self.random.randrange(1, 4))
        with (
            suppress(ColBERTError, Killed),
            Retriever.open(self.root / "index", self.model, backend="numpy") as retriever,
        ):
            retriever.add_files(inputs, upsert=upsert)
        self.model.batches_left = None

    def change_index(self):
        """Change, delete or add single passages, as another program may do."""
        with Retriever.open(self.root / "index", self.model, backend="numpy") as retriever:
            ids = self.random.sample(sorted(retriever), min(len(retriever), 2))
            ids = ids or ["notes/a.md#1"]
            change = self.random.choice(["delete", "replace", "metadata", "source", "compact"])
            if change == "replace":
                retriever.upsert([self.random.choice(WORDS) for _ in ids], ids, [{"n": 1} for _ in ids])
            elif change == "compact":
                retriever.index.compact()
            elif change == "source":
                retriever.delete(source=f"notes/{self.random.choice(TEXT_FILES + ROW_FILES)}")
            elif len(retriever):
                if change == "delete":
                    retriever.delete(ids)
                else:
                    retriever.index.update_metadata(ids, [{"n": 2} for _ in ids])

    def step(self):
        files = [self.change_text, self.disguise, self.deal_rows]
        steps = [*files, self.add, self.upsert, self.change_index]
        self.random.choice(steps)()


def state_of(index):
    """What an index has of its sources. A passage that a program has replaced has none, until its file is read."""
    passages = {passage.doc_id: passage for passage in index.passages() if passage.source is not None}
    query = WordModel().encode_query(" ".join(WORDS))
    scores = {hit.doc_id: hit.score for hit in index.search(query, k=100) if hit.doc_id in passages}
    return passages, scores, index.sources()


@pytest.mark.slow
@pytest.mark.parametrize("kept_bytes", [0, 5000, 1 << 20])
@pytest.mark.parametrize("seed", range(4))
def test_index_is_that_of_its_files_after_random_changes_and_an_upsert(
    tmp_path, monkeypatch, seed, kept_bytes
):
    monkeypatch.setattr(batching, "WINDOW_TEXTS", 3)
    monkeypatch.setattr(reading, "KEPT_BYTES", kept_bytes)
    world = World(tmp_path, seed)
    for round_number in range(3):
        for _ in range(8):
            world.step()
        with Retriever.open(tmp_path / "index", world.model, backend="numpy") as retriever:
            retriever.add_files(world.inputs, upsert=True)
            state = state_of(retriever.index)
            assert retriever.index.verify() == []
        path = tmp_path / f"fresh-{round_number}"
        Retriever.from_files(path, world.model, world.inputs, backend="numpy").close()
        with Index.open(path, backend="numpy") as fresh:
            assert state == state_of(fresh)
