"""`watch` as a process: it is told what to do by files, signals and full disks."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from random import Random

import pytest

from mlx_colbert.cli import main
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.collection.watch import Watcher, WatchEvent

PROGRAM = Path(__file__).with_name("word_program.py")
# Seconds until a test fails. A busy machine may take long.
_LIMIT_S = 240


def environment(home):
    paths = os.pathsep.join([str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "MLX_COLBERT_HOME": str(home), "PYTHONPATH": paths}


class Process:
    """A watcher in a process. Its lines are read as they come."""

    def __init__(self, home, *words):
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "watch", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home.parent,
            env=environment(home),
        )
        self.seen = []
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def until(self, wanted):
        """Reads lines until one satisfies a condition."""
        while True:
            line = self._lines.get(timeout=_LIMIT_S)
            assert line is not None, self.seen
            self.seen.append(line)
            if wanted(line):
                return line

    def until_event(self, wanted):
        return json.loads(self.until(lambda line: wanted(json.loads(line))))

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(_LIMIT_S)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def notes(tmp_path, home):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("one\n")
    Registry(home).create(CollectionSettings(model="words").with_folder(folder))
    return folder


@pytest.fixture
def start(home):
    """Starts watchers. They are killed at the end."""
    made = []

    def call(*words):
        made.append(Process(home, *words))
        return made[-1]

    yield call
    for item in made:
        item.process.kill()
        item.process.wait()
        item.process.stdout.close()


def uris(home):
    with Collection(Registry(home).find("notes"), backend="numpy") as collection:
        assert collection.index.verify() == []
        return {source.uri for source in collection.index.sources()}


def found(process, *, new=(), deleted=()):
    """Waits until all these files are told as new or deleted."""
    new, deleted = set(new), set(deleted)

    def is_all(event):
        new.difference_update(event.get("new", ()))
        deleted.difference_update(event.get("deleted", ()))
        return not new and not deleted

    return process.until_event(is_all)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_watcher_says_what_it_does_and_ends_at_a_signal(notes, start, number, code):
    process = start()
    process.until(lambda line: line.endswith(" notes: 1 new; 1 passage encoded. 1 file."))
    (notes / "b.md").write_text("two\n")
    process.until(lambda line: line.endswith(" notes: 1 new; 1 passage encoded. 2 files."))

    assert process.end(number) == code
    process.until(lambda line: line == ("Ended." if code == 0 else "mlx-colbert: interrupted."))
    assert "Traceback" not in "".join(process.seen)


@pytest.mark.slow
def test_json_is_a_line_for_each_event(notes, start):
    process = start("--json")

    assert process.until_event(lambda event: True)["event"] == "watching"
    event = process.until_event(lambda event: True)
    assert (event["event"], event["collection"], event["new"]) == ("synced", "notes", ["notes/a.md"])
    process.end(signal.SIGTERM)
    assert process.until_event(lambda event: event["event"] == "ended")


@pytest.mark.slow
def test_second_watcher_ends_and_says_who_the_first_is(notes, start):
    first = start()
    first.until(lambda line: "1 new" in line)

    second = start()
    second.until(lambda line: f"process {first.process.pid} (since " in line and "is watching it" in line)
    assert second.process.wait(_LIMIT_S) == 1


@pytest.mark.slow
def test_storm_of_10000_changes_is_a_few_syncs(notes, home, start):
    process = start("--json")
    found(process, new=["notes/a.md"])
    names = [f"d{n % 50}/{n}.md" for n in range(10_000)]

    for n, name in enumerate(names):
        (notes / name).parent.mkdir(exist_ok=True)
        (notes / name).write_text(f"text {n}\n")
    found(process, new=[f"notes/{name}" for name in names])
    for n in range(50):
        shutil.rmtree(notes / f"d{n}")
    found(process, deleted=[f"notes/{name}" for name in names])
    (notes / "last.md").write_text("last\n")
    found(process, new=["notes/last.md"])

    assert len(process.seen) < 100
    assert uris(home) == {"notes/a.md", "notes/last.md"}


@pytest.mark.slow
def test_folder_that_was_removed_and_made_again_is_kept_in_step(notes, home, start):
    process = start("--json")
    found(process, new=["notes/a.md"])

    shutil.rmtree(notes)
    assert process.until_event(lambda event: event.get("missing"))["missing"] == {str(notes): 1}
    assert uris(home) == {"notes/a.md"}
    (notes / "sub").mkdir(parents=True)
    (notes / "sub" / "b.md").write_text("two\n")
    found(process, new=["notes/sub/b.md"], deleted=["notes/a.md"])
    # At once, while the same names may be the same numbers on the disk.
    shutil.rmtree(notes / "sub")
    (notes / "sub").mkdir()
    (notes / "sub" / "c.md").write_text("three\n")
    found(process, new=["notes/sub/c.md"])
    (notes / "sub" / "d.md").write_text("four\n")
    found(process, new=["notes/sub/d.md"])


@pytest.mark.slow
def test_killed_watcher_loses_nothing_and_blocks_nobody(notes, home, start):
    names = [f"{n}.md" for n in range(3000)]
    process = start("--json")
    found(process, new=["notes/a.md"])
    for name in names:
        (notes / name).write_text(f"text {name}\n")
    index = Registry(home).find("notes").index_path
    before = len(list(index.rglob("*")))
    for _ in range(_LIMIT_S * 10):
        if len(list(index.rglob("*"))) > before:
            break
        threading.Event().wait(0.1)
    process.end(signal.SIGKILL)

    again = start("--json")
    again.until_event(lambda event: event["event"] == "synced")
    assert uris(home) == {"notes/a.md", *(f"notes/{name}" for name in names)}
    (notes / "b.md").write_text("two\n")
    found(again, new=["notes/b.md"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_random_changes_are_all_told(notes, home, start, seed):
    process = start("--json", "notes")
    found(process, new=["notes/a.md"])
    random = Random(seed)

    for n in range(400):
        folder = notes.joinpath(*(f"d{random.randrange(3)}" for _ in range(random.randrange(3))))
        act = random.random()
        if act < 0.1 and folder != notes:
            shutil.rmtree(folder, ignore_errors=True)
        elif act < 0.2 and folder.is_dir() and folder != notes:
            folder.rename(notes / f"moved{n}")
        elif act < 0.3 and (files := sorted(notes.rglob("*.md"))):
            random.choice(files).unlink()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{random.randrange(9)}.md").write_text(f"text {n}\n")
        if random.random() < 0.1:
            threading.Event().wait(random.random())

    # Before the full look of every five minutes.
    with Collection(Registry(home).find("notes"), backend="numpy") as collection:
        for _ in range(_LIMIT_S):
            state = collection.status()
            if not (state.new or state.changed or state.vanished):
                break
            threading.Event().wait(1.0)
    assert (state.new, state.changed, state.vanished) == (0, 0, 0)
    assert uris(home) == {f"notes/{path.relative_to(notes)}" for path in notes.rglob("*.md")}


@pytest.fixture
def small_disk(home):
    """The collections are on a disk of 4 MB."""
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(home)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk")
    yield home
    subprocess.run(["umount", "-l", str(home)], check=True)


@pytest.mark.slow
def test_full_disk_is_told_once_and_survived(small_disk, notes, home, start):
    process = start("--json")
    found(process, new=["notes/a.md"])
    with (home / "filler").open("wb") as filler, pytest.raises(OSError, match="No space left"):
        while True:
            os.write(filler.fileno(), b"x" * 4096)
    (notes / "b.md").write_text("two\n")

    assert process.until_event(lambda event: event["event"] == "problem")["collection"] == "notes"
    (home / "filler").unlink()
    # Changed settings are used at once, without the wait.
    os.utime(Registry(home).find("notes").settings_path)
    found(process, new=["notes/b.md"])
    assert uris(home) == {"notes/a.md", "notes/b.md"}
    assert sum('"problem"' in line for line in process.seen) == 1


def test_quiet_prints_problems_only(notes, home, monkeypatch, capsys):
    def run(self):
        yield WatchEvent("watching", "notes", folders=("/notes",))
        yield WatchEvent("problem", "notes", error=OSError(28, "No space left on device", "/x"))
        yield WatchEvent("problem", "", error=OSError("watch limit\x1b reached"))
        yield WatchEvent("gone", "notes")

    monkeypatch.setattr(Watcher, "run", run)
    monkeypatch.setenv("MLX_COLBERT_HOME", str(home))

    assert main(["watch", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[20:] for line in err.splitlines()] == [
        "notes: /x: No space left on device.",
        "watch limit  reached",
    ]
    assert main(["watch"]) == 0
    assert [line[20:] for line in capsys.readouterr().out.splitlines()[:2]] == [
        "notes: watching /notes",
        "notes: is gone.",
    ]


@pytest.mark.slow
def test_reader_that_ends_is_no_error(notes, home):
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), "watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(home),
    ) as process:
        assert "watching" in process.stdout.readline()
        process.stdout.close()
        (notes / "b.md").write_text("two\n")

        assert process.wait(_LIMIT_S) == 141


def test_unknown_name_is_an_error(home, notes, monkeypatch, capsys):
    monkeypatch.setenv("MLX_COLBERT_HOME", str(home))

    assert main(["watch", "nots"]) == 1
    assert "There are: notes." in capsys.readouterr().err


def test_install_and_uninstall_say_what_they_did(home, notes, tmp_path, monkeypatch, capsys):
    # No systemd and no launchd: what they would do is told.
    for name, value in {"MLX_COLBERT_HOME": home, "HOME": tmp_path, "PATH": tmp_path / "none"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    assert main(["watch", "--install", "NOTES"]) == 0
    shown = capsys.readouterr().out
    (path,) = [path for path in tmp_path.rglob("*mlx-colbert*watch*") if path.is_file()]
    assert shown.startswith(f"Wrote {path}.\nStart it: ")
    assert "notes" in path.read_text() and str(home) in path.read_text()
    assert main(["watch", "--install", "notes"]) == 0
    assert capsys.readouterr().out.startswith(f"{path} is as it must be.\n")

    assert main(["watch", "--uninstall", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["path"], result["changed"], result["done"]) == (str(path), True, False)
    assert not path.exists()
    assert main(["watch", "--uninstall"]) == 0
    assert capsys.readouterr().out == f"There is no {path}: nothing to remove.\n"
