"""A watcher whose time and events are made by the test: it waits for nothing."""

from __future__ import annotations

import errno
import shutil
import weakref
from contextlib import suppress
from itertools import pairwise

import pytest
from word_model import WordModel

from mlx_colbert.collection import watch as watching
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.lock import locked
from mlx_colbert.collection.settings import CollectionSettings
from mlx_colbert.collection.watch import Watcher
from mlx_colbert.errors import CheckpointError, CollectionBusyError, CollectionNotFoundError
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.kept import loaded_once


class End(Exception):
    """The test has no more steps."""


class Told:
    """Time, and what the system tells of files. Each wait is a step of a test."""

    whole_trees = False

    def __init__(self):
        self.now = 1000.0
        self.followed = []
        self.problem = None
        self._until = None

    def clock(self):
        return self.now

    def follow(self, roots, folders, *, anew=False):
        if self.problem:
            raise self.problem
        self.followed.append((set(roots), set(folders), anew))

    def wait(self, limit_s):
        if self._until is None:
            step = next(self.steps, None)
            if step is None:
                raise End
            if callable(step):
                self.now += 0.5
                return step()
            self._until = self.now + step
        self.now = min(self.now + max(limit_s, 0.5), self._until)
        if self.now >= self._until:
            self._until = None
        return set()

    def close(self):
        pass


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def run(registry, told):
    """Runs a watcher for some steps: seconds to wait, or calls that return paths. Returns its events."""

    def call(*steps, names=()):
        told.steps = iter(steps)
        events = []
        with suppress(End):
            for event in Watcher(registry, names, backend="numpy", events=told, clock=told.clock).run():
                events.append(event)
        return events

    return call


@pytest.fixture
def syncs(monkeypatch, told):
    """The times of all syncs. `syncs.error` is raised by them; each takes `syncs.seconds`."""

    class Syncs(list):
        error = None
        seconds = 0.0

    made = Syncs()
    sync = Collection.sync

    def noted(self, **options):
        made.append(told.now)
        told.now += made.seconds
        if made.error is not None:
            raise made.error
        return sync(self, **options)

    monkeypatch.setattr(Collection, "sync", noted)
    return made


def kinds(events):
    return [(event.kind, event.collection) for event in events]


def news(events):
    return [event.result.new for event in events if event.kind == "synced"]


def changed(files, name, text="text\n"):
    """A step: a file is written, and the system tells it."""

    def step():
        return {str(files.write(name, text))}

    return step


def test_all_collections_are_brought_in_step_at_once(collection, files, run):
    files.write("a.md", "one\n")

    events = run()

    assert kinds(events) == [("watching", "notes"), ("synced", "notes")]
    assert events[0].folders == (str(files.folder),)
    assert news(events) == [["notes/a.md"]]


def test_told_change_is_encoded_within_seconds(collection, files, run):
    assert news(run(2, changed(files, "a.md"), 3, changed(files, "sub/b.md"), 3)) == [
        [],
        ["notes/a.md"],
        ["notes/sub/b.md"],
    ]


def test_file_that_may_have_changed_while_it_was_read_is_looked_at_once_more(collection, run, files, syncs):
    run(10, changed(files, "a.md"), 100)

    assert [after - before for before, after in pairwise(syncs)][2:] == [3.0]


def test_new_folder_is_followed_and_looked_at_once_more(collection, files, run, told):
    def add_folder():
        files.write("sub/a.md", "text\n")
        return {str(files.folder / "sub")}

    def add_unseen():
        files.write("sub/b.md", "text\n")
        return set()

    # The second file is written before the folder is followed.
    events = run(2, add_folder, add_unseen, 10)

    assert sorted(name for new in news(events) for name in new) == ["notes/sub/a.md", "notes/sub/b.md"]
    assert told.followed[-1][1] == {str(files.folder), str(files.folder / "sub")}


def test_lost_event_is_found_by_the_next_full_look(collection, files, run):
    def write_silently():
        files.write("a.md", "text\n")
        return set()

    assert news(run(5, write_silently, 400)) == [[], ["notes/a.md"]]


def test_system_that_has_lost_count_makes_it_look(collection, files, run):
    def lose():
        files.write("a.md", "text\n")

    assert news(run(5, lose, 5)) == [[], ["notes/a.md"]]


def test_storm_of_changes_is_a_few_syncs(collection, files, run, syncs):
    syncs.seconds = 2.0
    steps = [changed(files, f"{n}.md", f"text {n}\n") for n in range(200)]

    events = run(10, *steps, 60)

    assert sum(map(len, news(events))) == 200
    assert len(syncs) <= 30
    # Two thirds of the time are free.
    assert all(after - before >= 6 for before, after in pairwise(syncs[2:]))


def test_changes_of_no_consequence_are_looked_at_ever_less_often(collection, files, run, syncs):
    files.write(".gitignore", "log.md\n")

    run(10, *[changed(files, "log.md", f"line {n}\n") for n in range(1200)])

    assert len(syncs) < 25


def test_latency_after_a_quiet_time_is_short_again(collection, files, run, syncs, told):
    files.write(".gitignore", "log.md\n")

    run(10, *[changed(files, "log.md", f"line {n}\n") for n in range(100)], 200)
    begun = told.now
    assert news(run(2, changed(files, "a.md"), 3)) == [[], ["notes/a.md"]]
    assert told.now - begun < 20


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.md",
        ".mlx-colbert/index/catalog.db",
        ".git/x.md",
        "node_modules/x.md",
        "a/.b/c.md",
        "photo.jpg",
    ],
)
def test_event_of_a_file_that_is_never_read_is_passed_over(collection, files, run, syncs, name):
    run(10, changed(files, name), 100)

    # The first one, and one more after the folders are followed.
    assert len(syncs) == 2


def test_files_of_collections_within_a_folder_do_not_wake_it(registry, files, run, syncs, tmp_path, model):
    place = registry.create(CollectionSettings(model="words").with_folder(tmp_path))

    run(10, *[lambda: {str(place.settings_path)}] * 50)

    # The first one, one after the folders are followed, and one to settle what was just read.
    assert len(syncs) == 3


def test_removed_and_made_again_folder_is_followed_anew(collection, files, run, told, contents):
    files.write("a.md", "one\n")

    def remove():
        shutil.rmtree(files.folder)
        return {str(files.folder)}

    def make():
        files.folder.mkdir()
        files.write("a.md", "one\n")
        files.write("b.md", "two\n")
        return set()

    events = run(10, remove, 60, make, 20)

    assert [(e.result.new, e.result.deleted, e.result.missing) for e in events if e.kind == "synced"] == [
        (["notes/a.md"], [], {}),
        ([], [], {str(files.folder): 1}),
        (["notes/b.md"], [], {}),
    ]
    assert [anew for *_, anew in told.followed].count(True) >= 3
    assert set(contents(collection)[1]) == {"notes/a.md", "notes/b.md"}


def test_change_between_the_sync_and_following_a_new_folder_is_not_lost(collection, files, run):
    def make_again():
        shutil.rmtree(files.folder)
        files.folder.mkdir()
        files.write("a.md", "one\n")
        # Its number on the disk may be that of the old one.
        return {str(files.folder)}

    def write_silently():
        files.write("b.md", "two\n")
        return set()

    events = run(10, make_again, write_silently, 10)

    assert sorted(name for new in news(events) for name in new) == ["notes/a.md", "notes/b.md"]


def test_problem_is_told_once_and_tried_again_ever_less_often(collection, files, run, syncs, told):
    full = OSError(errno.ENOSPC, "No space left on device")
    syncs.error = full

    def make_space():
        syncs.error = None
        return set()

    events = run(3600, make_space, 700)

    assert kinds(events) == [("watching", "notes"), ("problem", "notes"), ("synced", "notes")]
    assert events[1].error is full
    waits = [after - before for before, after in pairwise(syncs)]
    assert waits[:4] == [10, 20, 40, 80] and max(waits) == 600


def test_events_do_not_shorten_the_waits_after_a_problem(collection, files, run, syncs):
    syncs.error = OSError(errno.ENOSPC, "No space left on device")

    run(*[changed(files, f"{n}.md") for n in range(100)])

    assert len(syncs) == 3


def test_any_error_of_one_collection_leaves_the_others_in_step(
    collection, files, registry, run, tmp_path, monkeypatch
):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.md").write_text("text\n")
    registry.create(CollectionSettings(model="other").with_folder(tmp_path / "other"))
    files.write("a.md", "text\n")

    def load(source, **options):
        if source == "words":
            raise CheckpointError("words", "cannot be loaded.")
        return WordModel(source=source)

    monkeypatch.setattr(ColBERT, "load", load)
    events = run(100)

    assert kinds(events) == [
        ("watching", "notes"),
        ("problem", "notes"),
        ("watching", "other"),
        ("synced", "other"),
    ]


def test_error_that_nobody_foresaw_does_not_end_it(collection, files, run, monkeypatch):
    files.write("a.md", "text\n")
    monkeypatch.setattr(Collection, "sync", lambda self, **options: 1 / 0)

    assert kinds(run(100)) == [("watching", "notes"), ("problem", "notes")]


def test_settings_that_are_mended_are_used_at_once(collection, files, run, syncs, told):
    path = collection.place.settings_path
    good = path.read_text()
    path.write_text("model = 3\n")
    files.write("a.md", "text\n")

    def mend():
        path.write_text(good)
        return set()

    begun = told.now
    events = run(200, mend, 6)

    assert kinds(events) == [("watching", "notes"), ("problem", "notes"), ("synced", "notes")]
    assert syncs[-1] - begun < 210


def test_short_work_of_another_process_is_not_told_and_long_work_once(collection, files, run):
    with locked(collection.place.path, "notes"):
        assert kinds(run(9)) == [("watching", "notes")]
        events = run(900)
    assert kinds(events) == [("watching", "notes"), ("problem", "notes")]
    assert isinstance(events[1].error, CollectionBusyError)


def test_second_watcher_of_the_same_collections_says_who_the_first_is(collection, run):
    with (
        locked(collection.place.path, "notes", deed="watching"),
        pytest.raises(
            CollectionBusyError, match=r"collection notes: process \d+ \(since .*\) is watching it"
        ),
    ):
        run(1)


def test_watcher_takes_over_when_another_one_ends(collection, files, registry, run, tmp_path):
    (tmp_path / "other").mkdir()
    registry.create(CollectionSettings(model="words").with_folder(tmp_path / "other"))
    other = locked(collection.place.path, "notes", deed="watching")
    other.__enter__()

    def end():
        other.__exit__(None, None, None)
        return set()

    assert kinds(run(10, end, 60)) == [
        ("problem", "notes"),
        ("watching", "other"),
        ("synced", "other"),
        ("watching", "notes"),
        ("synced", "notes"),
    ]


def test_collections_that_are_made_renamed_and_removed_are_noticed(
    collection, registry, files, run, tmp_path
):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.md").write_text("text\n")

    def make():
        registry.create(CollectionSettings(model="words").with_folder(tmp_path / "other"))
        return set()

    def rename():
        registry.rename("other", "third")
        return set()

    def remove():
        registry.remove("third")
        return set()

    events = run(10, make, 10, rename, 10, remove, 10)

    assert kinds(events)[2:] == [
        ("watching", "other"),
        ("synced", "other"),
        ("gone", "other"),
        ("watching", "third"),
        ("synced", "third"),
        ("gone", "third"),
    ]


def test_watcher_without_collections_waits_for_one(registry, files, run, model):
    def make():
        registry.create(CollectionSettings(model="words").with_folder(files.folder))
        return set()

    events = run(10, make, 10)
    assert kinds(events) == [("problem", ""), ("watching", "notes"), ("synced", "notes")]
    assert isinstance(events[0].error, CollectionNotFoundError)


def test_only_named_collections_are_watched(collection, registry, run, tmp_path):
    (tmp_path / "other").mkdir()
    registry.create(CollectionSettings(model="words").with_folder(tmp_path / "other"))

    assert kinds(run(10, names=["other"])) == [("watching", "other"), ("synced", "other")]
    with pytest.raises(CollectionNotFoundError, match="third"):
        run(10, names=["third"])


def test_changed_folders_of_the_settings_are_followed(collection, registry, files, run, told, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.md").write_text("text\n")

    def add():
        registry.save(collection.place, collection.settings.with_folder(tmp_path / "more"))
        return set()

    assert news(run(10, add, 10)) == [[], ["more/b.md"]]
    assert told.followed[-1][0] == {str(files.folder), str(tmp_path / "more")}


def test_model_is_loaded_for_a_change_kept_and_let_go(collection, files, run, monkeypatch):
    loads = []

    def load():
        made = WordModel(source="words")
        loads.append(weakref.ref(made))
        return made

    monkeypatch.setattr(ColBERT, "load", lambda source, **options: loaded_once(source, source, load))

    def is_gone():
        assert loads[-1]() is None
        return set()

    run(10)
    assert loads == []
    run(10, changed(files, "a.md"), 10, changed(files, "b.md"), 10, changed(files, "c.md"), 10)
    assert len(loads) == 1
    run(10, changed(files, "d.md"), watching.MODEL_IDLE_S + 100, is_gone, changed(files, "e.md"), 10)
    assert len(loads) == 3


def test_index_that_another_process_made_again_is_used(collection, files, run, contents):
    files.write("a.md", "one\n")

    def rebuild():
        with Collection(collection.place, backend="numpy") as other:
            other.sync(rebuild=True)
        return set()

    run(10, rebuild, changed(files, "b.md"), 10)

    assert set(contents(collection)[1]) == {"notes/a.md", "notes/b.md"}


def test_folders_that_cannot_be_followed_are_looked_at_more_often(collection, files, run, told, syncs):
    told.problem = OSError("OS file watch limit reached")

    def write_silently():
        files.write("a.md", "text\n")
        return set()

    events = run(40, write_silently, 40)

    assert kinds(events) == [("watching", "notes"), ("synced", "notes"), ("problem", ""), ("synced", "notes")]
    assert news(events) == [[], ["notes/a.md"]]


def test_full_look_that_takes_long_is_rarer(collection, run, syncs):
    syncs.seconds = 10.0

    run(5000)

    assert [after - before for before, after in pairwise(syncs[1:])] == [2010, 2010]


def test_interrupted_sync_lets_others_watch(collection, files, registry, told, monkeypatch):
    def interrupt(self, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Collection, "sync", interrupt)
    events = Watcher(registry, backend="numpy", events=told, clock=told.clock).run()
    assert next(events).kind == "watching"
    with pytest.raises(KeyboardInterrupt):
        next(events)

    with locked(collection.place.path, "notes", deed="watching"):
        pass
