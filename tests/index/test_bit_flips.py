"""Bits that flip, and files that change places: nothing of it is served once `verify` has passed.

`python tests/index/test_bit_flips.py 2000` makes so many changes and prints what became of them.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from killing import unit_rows

from mlx_colbert.errors import ColBERTError, IndexStoreError
from mlx_colbert.index import Index, SearchParams, verify
from mlx_colbert.index.storage import codec_files
from mlx_colbert.index.writing import merge_policy
from mlx_colbert.types import Source

# Read as a whole when an index is opened.
SMALL = {"doc_lengths.npy", "ranges.npy", "ivf_codes.npy", "ivf_counts.npy", *codec_files._FILES}
WORDS = "tea stone river йод 東京 C++ 1.2.3 café paid\U0001f911 old new light house".split()


def make(path):
    """An index of two compressed segments and two exact ones, with all that an index may have."""
    rng = random.Random(0)
    # Segments of more tokens than this are compressed.
    with (
        patch.object(merge_policy, "SMALLEST_TOKENS", 50),
        Index.create(path, 8, exact_tokens=50, backend="numpy") as index,
    ):
        for part, n in enumerate((20, 5, 20, 6)):
            ids = [f"{part}-{i}" for i in range(n)]
            # Equal lengths: only their names tell the lengths of two segments apart.
            rows = [unit_rows(100 * part + i, 4) for i in range(n)]
            texts = [" ".join(rng.choices(WORDS, k=rng.randrange(60))) or None for _ in ids]
            metadata = [{"n": i, "tags": [rng.choice(WORDS)]} if i % 4 else None for i in range(n)]
            sources = [
                Source(f"notes/{i % 3}.md", "/notes", "sha256:00", 5, 6) if i % 2 else None for i in range(n)
            ]
            positions = [{"lines": [i + 1, i + 2]} if i % 2 else None for i in range(n)]
            index.add(ids, rows, texts, metadata, sources=sources, positions=positions)
        index.delete(["0-1", "1-1", "2-7"])
        info = index.info()
        assert (info.segments, info.compressed_passages) == (4, 40)
    return path


def served(path):
    """Everything that an index answers."""
    with Index.open(path, backend="numpy") as index:
        queries = [unit_rows(i, 3) for i in range(3)]
        answers = [index.search(queries, 10, params=params) for params in (None, SearchParams(exact=True))]
        answers += [index.search_keywords(word, 50) for word in (*WORDS, '"old new" light', '"tea" "river"')]
        answers += [index.search(queries[0], 50, filter=f) for f in ("n > 20", "tags contains 'tea'")]
        ids = sorted(hit.doc_id for hit in index.search(queries[0], 1000))
        answers += [ids, [index.get(doc_id) for doc_id in ids], sorted(index.existing(ids)), len(index)]
        answers += [index.sources(), [index.passages_of(f"notes/{i}.md") for i in range(3)]]
        info = index.info()
        return [
            *answers,
            (info.passages, info.tokens, info.deleted, info.nbits, info.exact_tokens, info.model),
        ]


def flip_bit(path, rng):
    """Flips a bit of any file; what was changed."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = path / "catalog.db" if rng.random() < 0.5 else rng.choice(files)
    data = bytearray(file.read_bytes())
    # Most of a large header is padding.
    first = 16384 if len(data) > 16384 and file.suffix == ".npy" and rng.random() < 0.7 else 0
    position, bit = rng.randrange(first, len(data)), rng.randrange(8)
    data[position] ^= 1 << bit
    file.write_bytes(data)
    return f"{file.relative_to(path)}, byte {position}, bit {bit}", file.name


def swap_files(path, rng):
    """Exchanges two folders, or two files of one name; what was changed."""
    folders = sorted(path.glob("segment-*"))
    first, second = rng.sample(folders, 2)
    shared = {file.name for file in first.iterdir()} & {file.name for file in second.iterdir()}
    name = rng.choice(["", *sorted(shared)])
    first, second = first / name, second / name
    kept = path / "kept"
    first.rename(kept)
    second.rename(first)
    kept.rename(second)
    return f"{first.relative_to(path)} and {second.relative_to(path)} exchanged", "doc_lengths.npy"


def outcome(path, expected):
    """What became of a change: refused when the index is used, found by verify, harmless, or served."""
    try:
        answers = served(path)
    except ColBERTError:
        assert verify_finds(path), "refused, but verify finds nothing"
        return "refused"
    if verify_finds(path):
        return "found by verify"
    return "harmless" if answers == expected else "SERVED"


def verify_finds(path):
    try:
        return verify(path) != []
    except IndexStoreError:
        return True


def run(n, seed, made, folder):
    """How often each outcome came, and the changes that were served after verify or in a small file."""
    rng = random.Random(seed)
    expected, counts, bad = served(made), Counter(), []
    for number in range(n):
        path = Path(folder) / f"{seed}-{number}"
        shutil.copytree(made, path)
        change, name = (swap_files if rng.random() < 0.1 else flip_bit)(path, rng)
        found = outcome(path, expected)
        where = "catalog" if name == "catalog.db" else "small file or swap" if name in SMALL else "large file"
        counts[where, found] += 1
        if found == "SERVED" or (where == "small file or swap" and found != "refused"):
            bad.append((found, change))
        shutil.rmtree(path)
    return counts, bad


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made") / "index")


# Two hundred changes for each of three workers. By hand, the command above makes as many as one likes.
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_change_is_served_after_verify_nor_any_in_a_small_file(made, tmp_path, seed):
    _, bad = run(200, seed, made, tmp_path)

    assert bad == []


def test_whole_index_is_found_to_be_as_it_was_made(made):
    assert verify(made) == []
    assert served(made) == served(made)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        counts, bad = run(
            int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 2, make(Path(folder) / "i"), folder
        )
        for key, count in sorted(counts.items()):
            print(f"{count:5}  {', '.join(key)}")
        print(*bad, sep="\n")
