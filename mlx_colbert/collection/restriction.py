"""Which passages of a collection a search may find: files, kinds, times, words, metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.patterns import check_pattern, matching
from mlx_colbert.documents.kinds import KINDS, kind_of
from mlx_colbert.documents.passage import encoded_text
from mlx_colbert.errors import InputError
from mlx_colbert.index import Filter
from mlx_colbert.places import expanded

__all__ = ["Restriction", "parsed_time"]

_AGE = re.compile(r"([0-9]{1,4})([dwmy])")
_DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}
# Seconds for one collection. A usual expression takes a second for 100,000 passages.
PATTERN_S = 30.0
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Restriction:
    """Which passages a search may find. It is applied before the search, so a search is never left empty.

    Attributes:
        paths: files, folders, or patterns such as "*.md" and "notes/2024/*". One of them must fit.
        kinds: kinds of files, such as "markdown", or their suffixes, such as "md". One of them must fit.
        since: only files that were changed at this time or later, as for `parsed_time`.
        before: only files that were changed before this time.
        pattern: a regular expression that must be found in the headings or the text of a passage. "^" and "$"
            are the ends of a line.
        filter: a condition on the metadata.
        near: the folder that a relative path begins at. None: a relative path is a name in the index.
        pattern_s: seconds that the regular expression may take in one collection.

    Raises:
        InputError: if a value cannot be used.
    """

    paths: Sequence[str] = ()
    kinds: Sequence[str] = ()
    since: str | None = None
    before: str | None = None
    pattern: str | None = None
    filter: Filter | str | None = None
    near: Path | None = None
    pattern_s: float = PATTERN_S

    def __post_init__(self) -> None:
        self._kind_names()
        for time in (self.since, self.before):
            if time is not None:
                parsed_time(time)
        if self.pattern is not None:
            check_pattern(self.pattern, limit_s=self.pattern_s)

    def filter_for(self, collection: Collection) -> Filter | None:
        """The condition for the passages of a collection. None: all of them.

        Raises:
            InputError: if the filter is not valid.
        """
        parts: list[tuple[str, list[str]]] = []
        if self.paths:
            parts.append(_any(_path_condition(path, collection, self.near) for path in self.paths))
        if self.kinds:
            parts.append(_any(("kind = ?", [name]) for name in self._kind_names()))
        if self.since is not None:
            parts.append(("source.modified >= ?", [parsed_time(self.since)]))
        if self.before is not None:
            parts.append(("source.modified < ?", [parsed_time(self.before)]))
        given = Filter(self.filter) if isinstance(self.filter, str) else self.filter
        if given is None:
            if not parts:
                return None
            expression, values = _joined(" and ", parts)
            return Filter(expression, *values)
        # Checked alone: then the columns in an error message are those of the user.
        collection.index.filter_problems(given)
        if not parts:
            return given
        expression, values = _joined(" and ", parts)
        return Filter(f"({given.expression}) and {expression}", *given.parameters, *values)

    def matching(self, collection: Collection, filter: Filter | None) -> list[str] | None:
        """The ids of the passages that the regular expression is found in. None: there is no expression.

        Raises:
            InputError: if it takes too long.
        """
        if self.pattern is None:
            return None
        texts = (
            (passage.doc_id, encoded_text(passage.text or "", passage.position))
            for passage in collection.index.passages(filter=filter)
        )
        return matching(self.pattern, texts, limit_s=self.pattern_s)

    def _kind_names(self) -> list[str]:
        names = {kind.name for kind in KINDS}
        found = []
        for given in self.kinds:
            name = given.lower()
            if name not in names:
                kind = kind_of(f"file.{name.removeprefix('.')}")
                if kind is None:
                    raise InputError(
                        f"{given!r:.80}: is not a kind of file. Choose one of {', '.join(sorted(names))}."
                    )
                name = kind.name
            found.append(name)
        return found


def parsed_time(text: str) -> str:
    """A time in UTC, as a filter compares it.

    Args:
        text: a year (2024), a month (2024-05), a day (2024-05-31), a time (2024-05-31T18:00), in the time
            zone of this machine, or an age: 7d, 2w, 6m, 1y.

    Raises:
        InputError: if it is none of these.

    >>> parsed_time("2024-05-31T18:00Z")
    '2024-05-31T18:00:00Z'
    """
    try:
        if age := _AGE.fullmatch(text):
            found = datetime.now(UTC) - timedelta(days=int(age[1]) * _DAYS[age[2]])
        else:
            whole = {4: f"{text}-01-01", 7: f"{text}-01"}.get(len(text), text)
            found = datetime.fromisoformat(whole).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{text!r:.80}: is not a date. Give a day such as 2024-05-31, a month, a year, or an age such as "
            "7d."
        ) from error
    return f"{found.replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _path_condition(path: str, collection: Collection, near: Path | None) -> tuple[str, list[str]]:
    """The condition that the source of a passage is a file or in a folder, or fits a pattern."""
    if not path.strip() or "\0" in path:
        raise InputError(f"{path!r:.80}: is not a path to search in.")
    place = expanded(path)
    is_place = place.is_absolute()
    if not is_place and near is not None:
        place = near / place
        is_place = path.startswith(".") or place.exists()
    uri = collection.settings.uri_of(place) if is_place else None
    if uri is not None:
        return _within(uri)
    name = path.strip("/")
    if not _WILD.search(name):
        # A name in the index, or the end of one.
        literal = name
        expression, values = _within(literal)
        ends = [f"*/{literal}", f"*/{literal}/*"]
    else:
        expression, values = "source.uri glob ?", [name]
        ends = [f"*/{name}"]
    for end in ends:
        expression += " or source.uri glob ?"
        values.append(end)
    return f"({expression})", values


def _within(uri: str) -> tuple[str, list[str]]:
    # "0" is the character after "/".
    return "(source.uri = ? or source.uri >= ? and source.uri < ?)", [uri, f"{uri}/", f"{uri}0"]


def _any(conditions: Iterable[tuple[str, list[str]]]) -> tuple[str, list[str]]:
    expression, values = _joined(" or ", conditions)
    return f"({expression})", values


def _joined(operator: str, conditions: Iterable[tuple[str, list[str]]]) -> tuple[str, list[str]]:
    listed = list(conditions)
    return operator.join(expression for expression, _ in listed), [v for _, values in listed for v in values]
