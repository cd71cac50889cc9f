"""Which files of a folder are left out: .gitignore, .ignore, .mlx-colbertignore, and patterns."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterable, Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_colbert._version import __version__
from mlx_colbert.errors import InputError
from mlx_colbert.regular_files import read_regular

if TYPE_CHECKING:
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

__all__ = ["IGNORE_FILES", "Patterns", "Rules"]

# In a folder, the rules of a later file are stronger.
IGNORE_FILES = (".gitignore", ".ignore", ".mlx-colbertignore")
# No real file of rules is larger.
_MAX_BYTES = 1 << 20
# Patterns in a folder, with those of the folders above it. Each file is compared with all of them: this many
# take about 1 ms. Long files of rules of real projects have 1,000.
_MOST_PATTERNS = 5000
# No path is longer, on any system that this runs on.
_MOST_CHARACTERS = 4096

# The regular expression of `/**` between two folders, as pathspec writes it.
_FOLDERS = "(?:/.+)?"
# An escaped sign, or a class of signs such as `[a-z]`.
_ESCAPE, _CLASS = r"\\.", r"\[\^?(?:[^\]\\]|\\.)*\]"
# A star, and what follows it in the same part of a path up to the next star.
_TO_NEXT_STAR = re.compile(
    rf"\[\^/\]\*((?:{_ESCAPE}|(?!\[\^/\]\*){_CLASS}|[^/\\\[\]()|*+?])*)(?=\[\^/\]\*)", re.DOTALL
)
_CLASSES = re.compile(rf"{_ESCAPE}|\[\^/\]|({_CLASS})", re.DOTALL)


# Many folders have the same lines.
@lru_cache(maxsize=_MOST_PATTERNS)
def _pattern(line: str) -> GitIgnoreSpecPattern:
    """The pattern of a line. Its regular expression does not try all ways to share a name among its stars."""
    # Not above: a search in folders without rules need not import it.
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    regex, include = GitIgnoreSpecPattern.pattern_to_regex(line)
    if regex is None:
        return GitIgnoreSpecPattern(None)
    return GitIgnoreSpecPattern(re.compile(_without_retries(regex)), include)


def _without_retries(regex: str) -> str:
    """The regular expression of a pattern, in which only the last star of a name is tried more than once.

    What follows another star is taken at the first place where it fits: if the rest does not fit after that,
    it does not fit after a later one. Otherwise a pattern with ten stars needs years for one long name.
    """
    regex = _TO_NEXT_STAR.sub(r"(?>[^/]*?\1)", regex)
    # As in git, no class has the slash.
    regex = _CLASSES.sub(lambda found: f"(?!/){found[1]}" if found[1] else found[0], regex)
    first, *parts = regex.split(_FOLDERS)
    if not parts:
        return regex
    between = "".join(f"(?>(?:/.+?)??{part}(?=/))" for part in parts[:-1])
    return f"{first}{between}{_FOLDERS}{parts[-1]}"


class Patterns:
    """Patterns as in a .gitignore. Lines that are not valid patterns are left out, as git does."""

    def __init__(self, lines: Iterable[str]) -> None:
        from pathspec import GitIgnoreSpec

        lines = [line for line in lines if len(line) <= _MOST_CHARACTERS]
        try:
            self._spec = GitIgnoreSpec.from_lines(lines, _pattern)
        except (ValueError, re.error, RecursionError, OverflowError):
            self._spec = GitIgnoreSpec.from_lines(filter(_is_pattern, lines), _pattern)

    def __len__(self) -> int:
        return sum(pattern.include is not None for pattern in self._spec.patterns)

    def decision(self, path: str) -> bool | None:
        """Whether the last pattern that matches a path leaves it out. None: no pattern matches.

        Args:
            path: the path with slashes, seen from the folder of the patterns. That of a folder ends with one.

        >>> patterns = Patterns(["*.log", "!keep.log", "build/"])
        >>> patterns.decision("a.log"), patterns.decision("keep.log"), patterns.decision("a.md")
        (True, False, None)
        """
        return self._spec.check_file(path).include


def _is_pattern(line: str) -> bool:
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([line], _pattern)
    except (ValueError, re.error, RecursionError, OverflowError):
        return False
    return True


class Rules:
    """The rules that are valid in a folder: its own, and those of the folders above it."""

    def __init__(self, exclude: Sequence[str] = (), include: Sequence[str] = ()) -> None:
        self._exclude = Patterns(exclude) if exclude else None
        self._include = Patterns(include) if include else None
        # Another version may know other kinds of files.
        self._read = [repr((__version__, list(exclude), list(include))).encode()]
        # From the outside in: the path of a folder with rules, what comes before the paths that it sees, and
        # its rules.
        self._levels: tuple[tuple[str, str, Patterns], ...] = ()

    def digest(self) -> str:
        """A hash of all rules that were read so far, here and in the folders below."""
        return hashlib.sha256(b"\0".join(sorted(self._read))).hexdigest()

    def within(self, folder: str, names: Container[str], *, prefix: str = "", above: str = "") -> Rules:
        """The rules in a folder, together with those above it.

        Args:
            folder: the path of the folder.
            names: the names in it.
            prefix: its path, seen from the folder that is walked, with a slash at its end.
            above: for a folder above the one that is walked, the path of that one, seen from it.

        Raises:
            InputError: if there are too many rules to compare files with.
        """
        lines: list[str] = []
        for name in IGNORE_FILES:
            if name in names:
                data = _read(Path(folder, name))
                if len(data) > _MAX_BYTES:
                    raise InputError(f"{name} is longer than {_MAX_BYTES:,} bytes. Shorten it.")
                place = os.fsencode(f"{above}\0{prefix}{name}")
                self._read.append(place + hashlib.sha256(data).digest())
                lines += data.decode("utf-8-sig", "replace").splitlines()
        if not lines:
            return self
        # Before they are compiled, which takes longest.
        n_left = _MOST_PATTERNS - sum(len(patterns) for *_, patterns in self._levels)
        lines = [line for line in lines if line.strip() and not line.startswith("#")]
        if len(lines) > n_left:
            names_of = " and ".join(name for name in IGNORE_FILES if name in names)
            raise InputError(
                f"{names_of}: more than {_MOST_PATTERNS:,} patterns, with those above. Shorten it."
            )
        rules = copy(self)
        rules._levels = (*self._levels, (prefix, above, Patterns(lines)))
        return rules

    def leave_out(self, path: str) -> bool:
        """Whether a file or a folder is left out.

        Args:
            path: its path, seen from the folder that is walked. That of a folder ends with a slash.
        """
        if self._exclude is not None and self._exclude.decision(path):
            return True
        if self._include is not None and not path.endswith("/") and not self._include.decision(path):
            return True
        return self._levels_leave_out(path)

    def leave_out_all(self) -> bool:
        """Whether the rules above leave out the folder itself that is walked."""
        return self._levels_leave_out("")

    def _levels_leave_out(self, path: str) -> bool:
        for prefix, above, patterns in reversed(self._levels):
            decision = patterns.decision(above + path.removeprefix(prefix))
            if decision is not None:
                return decision
        return False


def _read(path: Path) -> bytes:
    """The bytes of a file of rules; none if it cannot be read. Of a large one only the beginning."""
    try:
        return read_regular(path, _MAX_BYTES + 1, follow_links=True)
    except OSError:
        return b""
