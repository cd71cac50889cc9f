"""The arguments of the tools, with the descriptions that language models read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

__all__ = [
    "AllHits",
    "Before",
    "K",
    "Kinds",
    "LinesAround",
    "MaxTokens",
    "Metadata",
    "Names",
    "OneName",
    "Paths",
    "Query",
    "Question",
    "Ranking",
    "Reference",
    "Regex",
    "Since",
    "WaitSeconds",
]

_LONGEST_QUERY = 4_000

_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Pattern = Annotated[str, Field(min_length=1, max_length=1_000)]

Query = Annotated[
    str,
    Field(
        description="What to look for, as a whole question or sentence, in the language of the files: "
        "'how do bees tell where flowers are'. With mode='keyword' only the words.",
        min_length=1,
        max_length=_LONGEST_QUERY,
    ),
]
Names = Annotated[
    list[_Name] | None,
    Field(
        description="Only these collections, by name: ['notes']. Leave it out to use all. The tool "
        "collections lists them.",
        max_length=50,
    ),
]
K = Annotated[int, Field(description="The most hits.", ge=1, le=50)]
Ranking = Annotated[
    Literal["hybrid", "semantic", "keyword"],
    Field(
        description="hybrid: by meaning and by words, for most questions. semantic: by meaning alone. "
        "keyword: by words alone, for an exact name, number or error code."
    ),
]
Paths = Annotated[
    list[_Pattern] | None,
    Field(
        description="Only these files or folders, or files that match a pattern: ['docs/', '*.md'].",
        max_length=50,
    ),
]
Kinds = Annotated[
    list[_Pattern] | None,
    Field(
        description="Only files of these kinds: 'markdown', 'pdf', 'code', 'mail', or a suffix: 'py'.",
        max_length=50,
    ),
]
Since = Annotated[
    str | None,
    Field(
        description="Only files changed since a day (2024-05-31), a month (2024-05), a year, or an age "
        "(7d, 2w, 6m).",
        max_length=100,
    ),
]
Before = Annotated[
    str | None,
    Field(description="Only files changed before a day, a month, a year, or an age.", max_length=100),
]
Metadata = Annotated[
    str | None,
    Field(
        description="A condition on the metadata of passages: lang = 'en' and year >= 2020.", max_length=2_000
    ),
]
AllHits = Annotated[bool, Field(description="Also hits that are probably not relevant.")]
MaxTokens = Annotated[
    int,
    Field(
        description="About the most tokens of the result. Long texts are cut to fit, and the result says so.",
        ge=300,
        le=20_000,
    ),
]
Reference = Annotated[
    str,
    Field(
        description="The id of a passage, as search gives it ('#1a2b3c4d'); or a file that is in a "
        "collection: 'notes/tea.md', 'notes/tea.md:12' (20 lines from line 12), 'notes/tea.md:12:40' (40 "
        "lines). A path may be absolute, or only the end of one.",
        min_length=1,
        max_length=_LONGEST_QUERY,
    ),
]
Regex = Annotated[
    str | None,
    Field(
        description="Only passages in which this regular expression (Python's) is found: 'ERR-[0-9]+'.",
        max_length=1_000,
    ),
]
LinesAround = Annotated[
    int, Field(description="For a passage: lines of its file before and after it.", ge=0, le=500)
]
WaitSeconds = Annotated[
    float, Field(description="How long to wait for the end. The sync goes on after that.", ge=0, le=50)
]
Question = Annotated[str, Field(description="The question.", min_length=1, max_length=_LONGEST_QUERY)]
OneName = Annotated[str, Field(description="Only this collection. Leave it out to use all.", max_length=200)]
