"""The kinds of files that passages are read from. Each kind is a module that is loaded at its first use.

A module has one function `parts(data, name)`: the headings and blocks of the bytes of a file, in reading
order.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath

from mlx_colbert.documents.blocks import Parts
from mlx_colbert.errors import MissingExtraError

__all__ = ["KINDS", "Kind", "kind_of"]

_MIB = 1 << 20
# The languages with a grammar in the extra "code", then others.
CODE_SUFFIXES = tuple(
    """.py .pyi .js .mjs .cjs .jsx .ts .mts .cts .tsx .go .rs .java .c .h .cc .cpp .cxx .hh .hpp .hxx
    .cs .rb .php .sh .bash .zsh .fish .swift .kt .kts .scala .m .mm .lua .pl .pm .r .jl .hs .ml .mli .ex .exs
    .erl .clj .dart .ps1 .sql .css .scss .less .vue .svelte .proto .cmake .tf .nix .el .vim .toml .yaml .yml
    .ini .cfg .conf""".split()
)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: its name.
        module: its module in this package.
        suffixes: the ends of the names of its files, in small letters.
        names: whole names of such files, in small letters.
        extra: the extra of this package that it needs. None: it needs none.
        package: the package that this extra installs.
        max_bytes: the size of the largest file that is read, if the caller sets no other limit.
    """

    name: str
    module: str
    suffixes: tuple[str, ...]
    names: tuple[str, ...] = ()
    extra: str | None = None
    package: str | None = None
    max_bytes: int = 16 * _MIB

    def parts(self, data: bytes, name: str) -> Parts:
        """The headings and blocks of a file.

        Args:
            data: its bytes.
            name: its name in an error message.

        Raises:
            MissingExtraError: if an extra of this package is not installed.
            InputError: if the bytes are not a file of this kind.
        """
        if self.extra and self.package and importlib.util.find_spec(self.package) is None:
            raise MissingExtraError(f"{name}: a {self.name} file", self.extra)
        module = importlib.import_module(f"{__name__}.{self.module}")
        read: Callable[[bytes, str], Parts] = module.parts
        return read(data, name)


KINDS = (
    Kind("markdown", "markdown", (".md", ".markdown", ".mdx")),
    Kind("restructuredtext", "restructuredtext", (".rst", ".rest")),
    Kind("html", "html", (".html", ".htm", ".xhtml")),
    Kind("pdf", "pdf", (".pdf",), extra="files", package="pypdfium2", max_bytes=256 * _MIB),
    Kind("docx", "docx", (".docx", ".docm"), max_bytes=128 * _MIB),
    Kind("pptx", "pptx", (".pptx", ".pptm", ".ppsx"), max_bytes=128 * _MIB),
    Kind("epub", "epub", (".epub",), max_bytes=128 * _MIB),
    Kind("mail", "mail", (".eml", ".mbox"), max_bytes=256 * _MIB),
    Kind("notebook", "notebook", (".ipynb",), max_bytes=64 * _MIB),
    Kind("rows", "rows", (".csv", ".tsv", ".jsonl")),
    Kind("code", "code", CODE_SUFFIXES, ("makefile", "dockerfile", "justfile")),
    Kind("text", "text", (".txt", ".text", ".org", ".adoc"), ("readme", "license", "copying", "changelog")),
)

_BY_SUFFIX = {suffix: kind for kind in KINDS for suffix in kind.suffixes}
_BY_NAME = {name: kind for kind in KINDS for name in kind.names}


def kind_of(name: str, *, max_file_bytes: int | None = None) -> Kind | None:
    """The kind of a file by its name. None: it is not read.

    Args:
        name: the name of the file, or its path.
        max_file_bytes: the size of the largest file that is read. None: the limit of its kind.

    >>> kind_of("notes/Tea.MD").name
    'markdown'
    >>> kind_of("photo.jpg") is None
    True
    """
    path = PurePath(name)
    kind = _BY_SUFFIX.get(path.suffix.lower()) or _BY_NAME.get(path.name.lower())
    return kind if kind is None or max_file_bytes is None else replace(kind, max_bytes=max_file_bytes)
