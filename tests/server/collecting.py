"""A server with collections, for tests of their routes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import CollectionSettings

CHECKPOINT = Path(__file__).parents[1] / "data" / "checkpoints" / "native-bert"


class Server:
    """A client of an application, with a collection "notes" of a folder.

    Attributes:
        client: the client.
        registry: the collections of the application.
        folder: the folder of the collection.
    """

    def __init__(self, client, registry, folder):
        self.client, self.registry, self.folder = client, registry, folder

    def get(self, place, **query):
        return self.client.get(place, params=query)

    def post(self, place, **body):
        return self.client.post(place, json=body)

    def search(self, query, **body):
        answer = self.post("/search", query=query, all=True, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def finished(self, answer):
        """The job of an answer, at its end."""
        assert answer.status_code == 202, answer.text
        events = events_of(self.client.get(f"/jobs/{answer.json()['job']['id']}/events").text)
        name, job = events[-1]
        assert name == "end"
        return job

    def sync(self):
        with self.collection() as collection:
            collection.sync()

    def collection(self, name="notes"):
        return Collection(self.registry.find(name), backend="numpy")


def events_of(text):
    """The events in the text of a stream: name and data."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines.get("event"), json.loads(lines["data"])))
    return found


def made_notes(tmp_path, model):
    """A registry with a collection of a few files, and their folder."""
    folder = tmp_path / "notes"
    (folder / "2024").mkdir(parents=True)
    (folder / "tea.md").write_text("# Tea\n\nfirst line\n\nSteep the leaves in a kettle.\n\nlast line\n")
    (folder / "2024" / "bees.md").write_text("Bees dance in the meadow for honey.\n")
    (folder / "tool.py").write_text("def brew(kettle):\n    return kettle\n")
    registry = Registry(tmp_path / "home")
    settings = CollectionSettings(model=str(model)).with_folder(folder)
    with Collection(registry.create(settings), backend="numpy") as made:
        made.sync()
    return registry, folder


def until(condition, timeout_s=60.0):
    """Wait until a condition is true. If that takes a minute, it never will be."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.005)


class Barrier:
    """Stops work at a place until it is opened."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def wait(self):
        self.reached.set()
        assert self.opened.wait(60)
