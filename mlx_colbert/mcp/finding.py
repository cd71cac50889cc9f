"""What the tools `search` and `similar` do: one call of the library; its hits within a number of tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.confidence import THRESHOLD
from mlx_colbert.collection.fresh_search import refreshed
from mlx_colbert.collection.hits import CollectionHit
from mlx_colbert.collection.lookup import find_passage
from mlx_colbert.collection.related import similar
from mlx_colbert.collection.restriction import Restriction
from mlx_colbert.collection.search import Found, search
from mlx_colbert.configuration import refresh_limit
from mlx_colbert.counts import counted
from mlx_colbert.mcp.facts import about, cite, headings, synced
from mlx_colbert.mcp.results import FoundPassage, FoundPassages, SearchedCollection
from mlx_colbert.mcp.served import Served
from mlx_colbert.mcp.untrusted_text import MARKS, best_part, clean, marked, n_tokens, one_line, shares
from mlx_colbert.retriever.retriever import Mode

# Collections that a result names.
_MOST_NAMED = 10
# Characters of a value of the caller that a result repeats.
_MOST_QUOTED = 120

__all__ = ["SearchCall", "Shown", "found", "related"]


@dataclass(frozen=True)
class SearchCall:
    """What a search is asked for.

    Attributes:
        query: the query.
        collections: names. Empty: all.
        k: the most hits.
        mode: as for `mlx_colbert.collection.search`.
        restriction: which passages may be found.
        all: also hits that are not relevant.
        max_tokens: about the most tokens of the result.
        is_shaded: whether the words of the hits are asked for too.
    """

    query: str
    collections: Sequence[str]
    k: int
    mode: Mode
    restriction: Restriction
    all: bool
    max_tokens: int
    is_shaded: bool = False


class Shown(NamedTuple):
    """What a tool returns.

    Attributes:
        result: it, as a type.
        text: it, for a language model.
        hits: the hits that are in it, for a page. Empty if no page shows them.
    """

    result: Any
    text: str
    hits: Sequence[CollectionHit] = ()


def found(served: Served, call: SearchCall) -> Shown:
    """The passages that answer a query.

    Raises:
        ColBERTError: as `mlx_colbert.collection.search.search`.
    """
    notes: list[str] = []
    with served.opened(call.collections, notes.append) as collections:
        result = search(
            collections,
            call.query,
            call.k,
            mode=call.mode,
            restriction=call.restriction,
            min_confidence=None if call.all else THRESHOLD,
            with_matches=True,
            with_words=call.is_shaded,
            refresh_s=refresh_limit(),
        )
        what = f"for {_shortened(call.query)!r}{_conditions(call.restriction)}"
        return _shown(result, collections, notes, what, call)


def related(
    served: Served, reference: str, names: Sequence[str], k: int, max_tokens: int, *, is_shaded: bool
) -> Shown:
    """The passages that are most like a passage.

    Raises:
        ColBERTError: as `find_passage` and `similar`.
    """
    notes: list[str] = []
    with served.opened(names, notes.append) as collections:
        notes += refreshed(collections, refresh_limit())
        collection, passage = find_passage(collections, reference)
        hits = similar(collections, collection, passage, k)
        call = SearchCall("", names, k, "semantic", Restriction(), True, max_tokens, is_shaded)
        return _shown(Found("", hits), collections, notes, f"like {cite(passage)}", call)


def _shortened(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _MOST_QUOTED else f"{line[: _MOST_QUOTED - 1]}…"


def _conditions(restriction: Restriction) -> str:
    """The conditions of a search, as the end of a sentence: ` with paths=['docs/'], since='7d'`."""
    given = {
        "paths": list(restriction.paths),
        "kinds": list(restriction.kinds),
        "since": restriction.since,
        "before": restriction.before,
        "regex": restriction.pattern,
        "filter": restriction.filter,
    }
    parts = [f"{name}={_shortened(repr(value))}" for name, value in given.items() if value]
    return f" with {', '.join(parts)}" if parts else ""


def _shown(
    result: Found, collections: Sequence[Collection], notes: list[str], what: str, call: SearchCall
) -> Shown:
    """The hits that fit, as a type and as text."""
    searched = [
        SearchedCollection(
            collection=one_line(item.name),
            passages=len(item.index),
            synced=synced(item) if item.settings.folders else None,
            has_files=bool(item.settings.folders),
        )
        for item in collections
        if item.place.index_path.exists()
    ]
    whole = FoundPassages(
        hits=_passages(result.hits),
        irrelevant=result.n_below,
        best_irrelevant=None if result.best_below is None else round(result.best_below, 2),
        searched=searched,
        notes=[clean(note) for note in [*result.notes, *notes]],
    )
    fitted = _fitted(whole, result.hits, what, call)
    page = result.hits[: len(fitted.hits)] if call.is_shaded else ()
    return Shown(fitted, _text(fitted, what, call), page)


def _passages(hits: Sequence[CollectionHit]) -> list[FoundPassage]:
    """The hits as the tool returns them. What the user says of several is there once, at the best."""
    found, said = [], set()
    for hit in map(_passage, hits):
        found.append(hit.model_copy(update={"about": None}) if hit.about in said else hit)
        said.add(hit.about)
    return found


def _passage(hit: CollectionHit) -> FoundPassage:
    return FoundPassage(
        id=one_line(hit.short_id),
        cite=cite(hit),
        collection=one_line(hit.collection),
        headings=headings(hit),
        about=about(hit),
        confidence=None if hit.confidence is None else round(hit.confidence, 2),
        text=clean(hit.text or ""),
    )


def _fitted(
    whole: FoundPassages, hits: Sequence[CollectionHit], what: str, call: SearchCall
) -> FoundPassages:
    """The result with as much of the texts as there is room for."""
    bare = [hit.model_copy(update={"text": ""}) for hit in whole.hits]
    frame = whole.model_copy(update={"hits": []})
    around = max(n_tokens(_text(frame, what, call)), n_tokens(frame.model_dump_json(exclude_none=True)))
    frames = [max(n_tokens(_head(1, hit)), n_tokens(hit.model_dump_json(exclude_none=True))) for hit in bare]
    texts = [max(n_tokens(marked(hit.text)), n_tokens(json.dumps(hit.text))) for hit in whole.hits]
    given = shares(frames, texts, call.max_tokens - around)
    kept = []
    for passage, hit, need, room in zip(whole.hits, hits, texts, given, strict=False):
        text, is_cut = passage.text, room < need
        if is_cut:
            # The marks of its lines need tokens as well.
            text = clean(best_part(hit.text or "", hit.matches, room * n_tokens(hit.text or "") // need))
        kept.append(passage.model_copy(update={"text": text, "is_cut": is_cut}))
    return whole.model_copy(update={"hits": kept, "left_out": len(whole.hits) - len(kept)})


def _head(number: int, hit: FoundPassage) -> str:
    """The line above a passage."""
    place = " › ".join(filter(None, [hit.cite, hit.headings]))
    sure = "" if hit.confidence is None else f"confidence {hit.confidence:.2f}, "
    context = f"\n{hit.about}" if hit.about else ""
    return f"[{number}] {place} ({sure}id {hit.id} in {hit.collection}){context}\n"


def _text(result: FoundPassages, what: str, call: SearchCall) -> str:
    """The result for a language model."""
    lines = [f"{counted(len(result.hits), 'passage')} {what}. Searched: {_searched(result.searched)}"]
    if not result.hits:
        lines.append(_advice(result, call))
    else:
        lines += ["", MARKS, ""]
        for number, hit in enumerate(result.hits, start=1):
            lines += [_head(number, hit) + marked(hit.text), ""]
        if any(hit.is_cut for hit in result.hits):
            lines.append("Passages with … are cut: get(reference), with its id, gives all of one.")
        if result.left_out:
            lines.append(f"No room for {counted(result.left_out, 'more passage')}: raise max_tokens.")
        if result.irrelevant:
            lines.append(
                f"{counted(result.irrelevant, 'hit')} with less confidence "
                f"(at most {result.best_irrelevant:.2f}) left out: all=true shows them."
            )
    lines += [f"Note: {note}" for note in result.notes]
    return "\n".join(lines).strip()


def _searched(collections: Sequence[SearchedCollection]) -> str:
    """What was searched, and how fresh it is."""
    parts = []
    for item in collections[:_MOST_NAMED]:
        read = f", all files last read {item.synced}" if item.synced else ", not all files read yet"
        passages = counted(item.passages, "passage")
        parts.append(f"{item.collection} ({passages}{read if item.has_files else ''})")
    if len(collections) > _MOST_NAMED:
        parts.append(counted(len(collections) - _MOST_NAMED, "more collection"))
    looked = " Changed files were looked for now." if any(item.has_files for item in collections) else ""
    return f"{', '.join(parts) or 'nothing'}.{looked}"


def _advice(result: FoundPassages, call: SearchCall) -> str:
    """What to say and to try when nothing is found."""
    found = "Nothing was found."
    if result.irrelevant:
        found = (
            f"Nothing relevant was found. The best of {counted(result.irrelevant, 'other hit')} has "
            f"confidence {result.best_irrelevant:.2f} (all=true shows them)."
        )
    tips = ["other words for the same thing", "a whole question"]
    tips.append(
        "mode='hybrid', which finds by meaning too"
        if call.mode == "keyword"
        else "mode='keyword' for an exact name or number"
    )
    if _conditions(call.restriction):
        tips.insert(0, "fewer conditions")
    if call.collections:
        tips.append("other collections (the tool collections lists them)")
    return f"{found} The answer may not be in these files. To try: {'; '.join(tips)}."
