"""Every error of the package: what it says, and that it reaches another process whole."""

import copy
import inspect
import multiprocessing
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import mlx_colbert
from mlx_colbert import errors
from mlx_colbert.errors import said

CLASSES = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]


def example(kind):
    """An error with a value of its own in each argument."""
    values = {
        "where": "a.json",
        "problems": ["no key 'dim'", "no key 'nbits'"],
        "path": Path("notes.index"),
        "reason": "cannot be read.",
        "advice": "Choose another path.",
        "doc_ids": ["a", "b"],
        "name": "notes",
        "what": "tea.pdf: a pdf file",
        "extra": "files",
        "message": "k is 0, not 1 or more.",
        "collections": ["notes", "notes-2"],
        "n_waiting": 64,
        "holder": "collection",
        "retry_after_s": 2.5,
    }
    parameters = inspect.signature(kind).parameters.values()
    given = {p.name: values[p.name] for p in parameters}
    positional = [given.pop(p.name) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    error = kind(*positional, **given)
    error.add_note("2 of 5 are kept.")
    return error


def described(error):
    attributes = {name: value for name, value in vars(error).items() if name != "__traceback__"}
    builtin = getattr(error, "msg", None), getattr(error, "errno", None), getattr(error, "filename", None)
    return type(error), str(error), error.args, attributes, builtin


def fail(kind):
    raise example(kind)


@pytest.mark.parametrize("kind", CLASSES)
def test_error_comes_back_whole_from_a_pickle_and_a_copy(kind):
    error = example(kind)
    assert described(pickle.loads(pickle.dumps(error))) == described(error)
    assert described(copy.copy(error)) == described(error)


def test_every_error_of_a_spawned_process_reaches_its_caller():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for kind in CLASSES:
            error = pool.submit(fail, kind).exception(timeout=60)
            assert (type(error), str(error)) == (kind, str(example(kind)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Data format error.", "Data format error"),
        ("why?\nline 2", "why?"),
        ("", "ValueError"),
        ("x" * 400, f"{'x' * 299}…"),
    ],
)
def test_message_of_another_program_is_a_line_without_its_dot(text, expected):
    assert said(ValueError(text)) == expected


def test_no_message_of_ours_ends_with_that_of_another_program_and_a_dot():
    package = Path(mlx_colbert.__file__).parent
    files = [*package.rglob("*.py"), *(package.parent / "convert").rglob("*.py")]
    bare = re.compile(r"\{(?:str\()?error\b[^}.]*\}\.")

    assert [(file.name, found[0]) for file in files for found in bare.finditer(file.read_text())] == []
