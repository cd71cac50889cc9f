"""The settings of a user: an environment variable comes before the configuration file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlx_colbert.collection.files import MAX_BYTES, toml_text, write_file
from mlx_colbert.errors import ConfigError, said
from mlx_colbert.places import config_folder
from mlx_colbert.regular_files import read_regular

__all__ = [
    "KEYS",
    "Key",
    "Value",
    "applied",
    "config_path",
    "number_of",
    "refresh_limit",
    "set_key",
    "unset_key",
    "values",
]

Origin = Literal["environment", "file", "default"]


class Key(NamedTuple):
    """A setting.

    Attributes:
        variable: its environment variable.
        kind: what its values are, for people.
        allows: whether a text is a value.
        default: what is used without a value, for people.
        meaning: what it does.
    """

    variable: str
    kind: str
    allows: Callable[[str], bool]
    default: str
    meaning: str


def _whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= 1


def _seconds(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII))


def _minutes(text: str) -> bool:
    return text == "never" or (_seconds(text) and float(text) > 0)


def _filled(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


def _one_of(*choices: str) -> tuple[str, Callable[[str], bool]]:
    return f"one of {', '.join(choices)}", choices.__contains__


KEYS = {
    "backend": Key("MLX_COLBERT_BACKEND", *_one_of("auto", "mlx", "numpy"), "auto", "what computes"),
    "threads": Key(
        "MLX_COLBERT_THREADS", "a number of 1 or more", _whole, "all cores", "the most threads of numpy"
    ),
    "model": Key(
        "MLX_COLBERT_MODEL",
        "a model folder or hub id",
        _filled,
        "answerai-colbert-small-v1 (collections)",
        "the model of new collections and indexes, and of rerank",
    ),
    "k": Key("MLX_COLBERT_K", "a number of 1 or more", _whole, "10", "the hits of a search"),
    "refresh_seconds": Key(
        "MLX_COLBERT_REFRESH_SECONDS",
        "a number of seconds",
        _seconds,
        "1",
        "the most time of a search for changed files",
    ),
    "llm": Key(
        "MLX_COLBERT_LLM",
        "a model folder, a hub id, or auto",
        _filled,
        "by the memory of the machine",
        "the language model of ask",
    ),
    "endpoint": Key(
        "MLX_COLBERT_ENDPOINT", "a URL", _filled, "none", "the server with the language model of ask"
    ),
    "daemon": Key(
        "MLX_COLBERT_DAEMON",
        *_one_of("true", "false"),
        "true",
        "let the daemon answer, if it is up",
    ),
    "model_idle_minutes": Key(
        "MLX_COLBERT_MODEL_IDLE_MINUTES",
        "a number of minutes, or never",
        _minutes,
        "10",
        "when the daemon lets go of a model that nobody uses",
    ),
    "daemon_idle_minutes": Key(
        "MLX_COLBERT_DAEMON_IDLE_MINUTES",
        "a number of minutes, or never",
        _minutes,
        "480",
        "when the daemon ends if nobody uses it",
    ),
}


class Value(NamedTuple):
    """The value of a setting.

    Attributes:
        text: the value. None: it has none.
        origin: where it comes from.
    """

    text: str | None
    origin: Origin


def config_path() -> Path:
    """The configuration file. It may not exist."""
    return config_folder() / "config.toml"


def values() -> dict[str, Value]:
    """The values of all settings, and where they come from.

    Raises:
        ConfigError: if the file or a variable is not valid.
        OSError: if the file cannot be read.
    """
    in_file = _read()
    found = {}
    for name, key in KEYS.items():
        if given := os.environ.get(key.variable):
            _check(f"environment variable {key.variable}", key, given)
            found[name] = Value(given, "environment")
        elif name in in_file:
            found[name] = Value(in_file[name], "file")
        else:
            found[name] = Value(None, "default")
    return found


@contextmanager
def applied() -> Iterator[None]:
    """A block in which the environment has the values of the file too, where it has no others.

    Raises:
        ConfigError: if the file or a variable is not valid.
        OSError: if the file cannot be read.
    """
    from_file = {
        KEYS[name].variable: value.text
        for name, value in values().items()
        if value.text is not None and value.origin == "file"
    }
    os.environ.update(from_file)
    try:
        yield
    finally:
        for variable in from_file:
            os.environ.pop(variable, None)


def number_of(name: str, otherwise: float | None) -> float | None:
    """The number that the environment has for a setting. None: never. `otherwise` if it has no value."""
    text = os.environ.get(KEYS[name].variable)
    if not text:
        return otherwise
    return None if text == "never" else float(text)


def refresh_limit() -> float:
    """The most seconds that a search looks for changed files."""
    return number_of("refresh_seconds", 1.0) or 0.0


def set_key(name: str, text: str) -> Path:
    """Write a value into the configuration file; returns its path. Comments and other lines stay.

    Raises:
        ConfigError: if there is no such setting, it cannot have this value, or the file is not valid.
        OSError: if the file cannot be read or written.
    """
    if name not in KEYS:
        raise _unknown("the configuration", name)
    _check("the configuration", KEYS[name], text, name)
    in_file = _read()
    is_bare = text in ("true", "false") or _seconds(text)
    line = f"{name} = {text if is_bare else toml_text(text)}\n"
    lines = _lines()
    number = _line_of(lines, name)
    if number is None:
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines.append(line)
    else:
        lines[number] = line
    return _write(lines, {**in_file, name: text})


def unset_key(name: str) -> bool:
    """Take a value out of the configuration file; returns whether it was there.

    It may be a key that is not known, so that a file with one can be mended.

    Raises:
        ConfigError: if the value has several lines.
        OSError: if the file cannot be read or written.
    """
    lines = _lines()
    number = _line_of(lines, name)
    if number is None:
        if name not in KEYS:
            raise _unknown("the configuration", name)
        return False
    before = _parsed("".join(lines))
    del lines[number]
    _write(lines, {key: _text(value) for key, value in before.items() if key != name})
    return True


def _read() -> dict[str, str]:
    """The values in the file, as texts."""
    text = "".join(_lines())
    found = {}
    for name, value in _parsed(text).items():
        where = _where(text, name)
        if name not in KEYS:
            raise _unknown(where, name)
        _check(where, KEYS[name], _text(value), name)
        found[name] = _text(value)
    return found


def _lines() -> list[str]:
    path = config_path()
    try:
        data = read_regular(path, MAX_BYTES + 1, follow_links=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        if len(data) > MAX_BYTES:
            raise ConfigError(str(path), ["is too large for a configuration"])
        return data.decode("utf-8-sig").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"is not UTF-8: {error.reason} at byte {error.start}"]) from error


def _parsed(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    import tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # It names the line.
        raise ConfigError(str(config_path()), [f"is not TOML: {said(error)}"]) from error


def _text(value: Any) -> str:
    """The text of a value, as an environment variable would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _where(text: str, name: str) -> str:
    number = _line_of(text.splitlines(), name)
    return str(config_path()) + ("" if number is None else f", line {number + 1}")


def _line_of(lines: list[str], name: str) -> int | None:
    """The number of the line that has a key, or begins its table."""
    key = rf"""["']?{re.escape(name)}["']?"""
    pattern = re.compile(rf"\s*(?:{key}\s*[=.]|\[+\s*{key}\s*[\].])")
    return next((number for number, line in enumerate(lines) if pattern.match(line)), None)


def _check(where: str, key: Key, text: str, name: str = "") -> None:
    if not key.allows(text):
        raise ConfigError(where, [f"{name and name + ' = '}{text!r:.100} is not {key.kind}"])


def _unknown(where: str, name: str) -> ConfigError:
    import difflib

    near = difflib.get_close_matches(name, KEYS, n=1)
    hint = f"Do you mean {near[0]}?" if near else f"There are: {', '.join(KEYS)}"
    return ConfigError(where, [f"unknown key {name!r:.100}. {hint}".rstrip(".")])


def _write(lines: list[str], expected: Mapping[str, str]) -> Path:
    path = config_path()
    text = "".join(lines)
    # A key may be within a text of several lines, for example.
    if {name: _text(value) for name, value in _parsed(text).items()} != expected:
        raise ConfigError(str(path), ["has values of several lines. Change it with an editor"])
    # A link to a file elsewhere stays a link.
    write_file(Path(os.path.realpath(path)), text.encode())
    return path
