"""Changes of the collections by several processes at once, and by processes that are killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings

EMPTY = CollectionSettings()
N_PROCESSES, N_TURNS = 8, 6


# Forks processes that run a deed. It has imported everything, so that hundreds of them take seconds.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from mlx_colbert.collection.contexts import set_context
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings

def run(own, deed, home, words, n_turns, left):
    def kill(event, arguments):
        nonlocal left
        is_step = event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
        if is_step and str(Path(home).parent) in str(arguments):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if left is not None:
        sys.addaudithook(kill)
    for turn in range(n_turns):
        names = {**globals(), "own": own, "turn": turn, "registry": Registry(home), "words": words, "home": home}
        exec(deed, names)

for line in sys.stdin:
    n_processes, *asked = json.loads(line)
    children = []
    for own in range(n_processes):
        child = os.fork()
        if not child:
            code = 1
            try:
                run(own, *asked)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


@pytest.fixture(scope="module")
def forked():
    """Runs a deed in processes; returns their exit codes."""
    # One thread: a fork has no others.
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS"), "1")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **threads},
    ) as process:

        def run(deed, home, words=(), *, n_processes=1, n_turns=1, killed_at=None):
            request = [n_processes, deed, str(home), [str(word) for word in words], n_turns, killed_at]
            print(json.dumps(request), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.fixture
def at_once(forked):
    """Runs a deed several times in several processes at once."""

    def run(deed, home, *words):
        codes = forked(deed, home, words, n_processes=N_PROCESSES, n_turns=N_TURNS)
        assert codes == [0] * N_PROCESSES

    return run


@pytest.fixture
def killed(forked):
    """Runs a deed in a process that is killed before a step on files. Returns whether it ended before that."""

    def run(deed, home, step=None):
        (code,) = forked(deed, home, killed_at=step)
        assert code in (0, -9)
        return code == 0

    return run


def test_collections_that_processes_make_of_one_name_at_once_all_stay(at_once, registry):
    at_once("registry.create(CollectionSettings({'notes': f'/{own}/{turn}'}))", registry.home)

    folders = [place.settings().folders["notes"] for place in registry.list()]
    assert sorted(folders) == sorted(
        f"/{own}/{turn}" for own in range(N_PROCESSES) for turn in range(N_TURNS)
    )


def test_sentences_that_processes_write_at_once_all_stay(at_once, registry, files):
    settings = EMPTY.with_folder(files.folder)
    for place in (registry.create(settings, "notes"), registry.create_local(files.folder, settings)):
        name = place.name if place.beside is None else str(place.beside)
        deed = "set_context(registry, words[0] + f'/{own}-{turn}', str(own), name=words[1])"
        at_once(deed, registry.home, files.folder, name)

        assert len(registry.find(name).settings().contexts) == N_PROCESSES * N_TURNS


def test_folders_that_processes_trust_at_once_are_all_trusted(at_once, registry, tmp_path):
    for number in range(N_PROCESSES):
        for turn in range(N_TURNS):
            (tmp_path / f"{number}-{turn}").mkdir()
            registry.create_local(tmp_path / f"{number}-{turn}", EMPTY)
    (registry.home / "trusted.json").unlink()

    at_once("registry.trust(Path(words[0], f'{own}-{turn}'))", registry.home, tmp_path)

    assert len(json.loads((registry.home / "trusted.json").read_text())) == N_PROCESSES * N_TURNS


def test_collections_are_renamed_and_removed_at_once(at_once, registry):
    for own in range(N_PROCESSES):
        for turn in range(N_TURNS):
            registry.create(EMPTY, f"{own}-{turn}")

    at_once(
        "registry.rename(f'{own}-{turn}', f'new-{own}-{turn}'); turn % 2 or registry.remove(f'new-{own}-{turn}')",
        registry.home,
    )

    kept = sorted(f"new-{own}-{turn}" for own in range(N_PROCESSES) for turn in range(1, N_TURNS, 2))
    assert [place.name for place in registry.list()] == kept
    assert sorted(path.name for path in (registry.home / "collections").iterdir()) == kept


def test_only_one_of_several_processes_gets_a_name(at_once, registry):
    name = "'Notes' if own % 2 else 'notes'"
    deed = f"""
try:
    registry.create(CollectionSettings({{'x': f'/{{own}}'}}), {name})
    Path(words[0], f'{{own}}-{{turn}}').touch()
except ValueError:
    pass
"""
    won = registry.home.parent / "won"
    won.mkdir()

    at_once(deed, registry.home, won)

    (place,), (winner,) = registry.list(), won.iterdir()
    assert place.settings().folders == {"x": f"/{winner.name.split('-')[0]}"}


# The deed, its words, and what there may be after it was killed: before it, or after it.
KILLED = {
    "create": ("registry.create(CollectionSettings({'x': '/x'}), 'new')", [["notes"], ["new", "notes"]]),
    "rename": ("registry.rename('notes', 'new')", [["notes"], ["new"]]),
    "remove": ("registry.remove('notes')", [["notes"], []]),
    "context": ("set_context(registry, '/', 'Mine.', name='notes')", [["notes"]]),
}


@pytest.mark.parametrize("name", KILLED)
def test_deed_that_is_killed_at_any_step_is_done_or_not_done(
    killed, name, collection, registry, files, tmp_path
):
    files.write("a.md", "text")
    collection.sync()
    collection.close()
    deed, outcomes = KILLED[name]
    for step in range(100):
        home = tmp_path / str(step) / "home"
        shutil.copytree(registry.home, home)
        ended = killed(deed, home, step)

        found = Registry(home).list()
        assert [place.name for place in found] in (outcomes[-1:] if ended else outcomes)
        for place in found:
            with Collection(place, backend="numpy") as opened:
                assert (place.name == "new" and name == "create") or len(opened.index) == 1
        # The next one of the same deeds works.
        again = Registry(home)
        if ended:
            break
        if len(found) == 1 and found[0].name == "notes":
            assert killed(deed, home)
        assert [place.name for place in again.list()] == outcomes[-1]
    assert ended and step > 3


@pytest.mark.parametrize("deed", ["create_local", "context", "trust"])
def test_trust_that_is_killed_at_any_step_is_given_or_not_given(killed, deed, tmp_path):
    program = {
        "create_local": "registry.create_local(Path(home).parent, CollectionSettings(model='mine'))",
        "context": "set_context(registry, '/', 'Mine.', name=str(Path(home).parent))",
        "trust": "registry.trust(Path(home).parent)",
    }[deed]
    for step in range(100):
        folder = tmp_path / str(step)
        folder.mkdir()
        registry = Registry(folder / "home")
        if deed != "create_local":
            registry.create_local(folder, CollectionSettings(model="mine"))
        if deed == "trust":
            (registry.home / "trusted.json").unlink()
        ended = killed(program, registry.home, step)

        if deed == "context":
            assert registry.find(str(folder)).is_trusted
            assert registry.find(str(folder)).settings().model == "mine"
        if ended:
            break
        assert killed(program, registry.home)
        assert registry.find(str(folder)).settings().model == "mine"
    assert ended and step > 3


@pytest.mark.parametrize(
    "again", ["registry.remove(str(Path(home).parent))", "registry.create_local(Path(home).parent, EMPTY)"]
)
def test_removal_beside_files_that_is_killed_at_any_step_leaves_nothing_but_its_folder(
    killed, again, files, model, tmp_path
):
    remove = "registry.remove(str(Path(home).parent))"
    prepare = "EMPTY = CollectionSettings(model='words')\n"
    for step in range(100):
        folder = tmp_path / str(step)
        folder.mkdir()
        (folder / "a.md").write_text("text")
        registry = Registry(folder / "home")
        place = registry.create_local(folder, CollectionSettings(model="words").with_folder(folder))
        with Collection(place, backend="numpy") as made:
            made.sync()
        ended = killed(remove, registry.home, step)

        left = {path.name for path in folder.iterdir()} - {"a.md", "home"}
        is_there = (place.settings_path).exists()
        assert left <= {".mlx-colbert"}
        if is_there:
            with Collection(registry.find(str(folder)), backend="numpy") as kept:
                assert len(kept.index) == 1
        if ended:
            assert not left
            break
        if not is_there and left and "remove" in again and not any(place.path.iterdir()):
            # An empty folder is no collection.
            continue
        if is_there or left:
            assert killed(prepare + again, registry.home)
        if "create" in again:
            if not is_there:
                assert {path.name for path in place.path.iterdir()} == {"collection.toml", ".gitignore"}
        else:
            assert not place.path.exists()
    assert ended and step > 10
