"""Lists of results that a notebook shows as tables. Their texts are escaped: they may be a stranger's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from mlx_colbert.position import place_text
from mlx_colbert.types import Hit, TokenMatch

__all__ = ["Hits", "Matches"]

# Characters of a text that a table shows.
_SHOWN = 400
_TABLE = '<table style="text-align:left">'


class Hits(list[Hit]):
    """Search results, best first. In all other ways it is a list.

    >>> "&lt;b&gt;Tea" in Hits([Hit(1, 2.5, "tea", "<b>Tea is steeped.")])._repr_html_()
    True
    """

    def _repr_html_(self) -> str:
        rows = []
        for hit in self:
            place = hit.doc_id if hit.source is None else place_text(hit.source, hit.position)
            text = hit.text or ""
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            details = ", ".join(f"{key}: {value}" for key, value in (hit.metadata or {}).items())
            rows.append((str(hit.rank), f"{hit.score:.3f}", place, shown, details))
        return _table(("rank", "score", "passage", "text", "metadata"), rows)


class Matches(list[TokenMatch]):
    """The document token that each query token matched. In all other ways it is a list.

    In a notebook, the parts of the document that matched best are the darkest.

    Attributes:
        document: the text of the document.
        spans: the place in it of each row of its token embeddings: (start, end).
    """

    def __init__(
        self, matches: Iterable[TokenMatch] = (), document: str = "", spans: Sequence[tuple[int, int]] = ()
    ) -> None:
        super().__init__(matches)
        self.document = document
        self.spans = spans

    def _repr_html_(self) -> str:
        rows = [(match.query_token, match.document_token, f"{match.similarity:.3f}") for match in self]
        total = f"MaxSim {sum(match.similarity for match in self):.3f}"
        table = _table(("query", "document", "similarity"), rows)
        return f'<p style="white-space:pre-wrap">{"".join(self._shaded())}</p><p>{total}</p>{table}'

    def _shaded(self) -> Iterator[str]:
        """The parts of the document as HTML."""
        best: dict[tuple[int, int], TokenMatch] = {}
        for match in self:
            span = self.spans[match.document_position]
            if span[0] < span[1] and (span not in best or best[span].similarity < match.similarity):
                best[span] = match
        similarities = [match.similarity for match in best.values()]
        least, most = min(similarities, default=0.0), max(similarities, default=0.0)
        end = 0
        for (start, stop), match in sorted(best.items()):
            if start < end:  # two windows of a long document may cut a word in different ways
                continue
            strength = (match.similarity - least) / (most - least) if most > least else 1.0
            style = f"background:rgba(255,160,0,{0.15 + 0.75 * strength:.2f})"
            title = escape(f"{match.query_token}: {match.similarity:.3f}")
            yield escape(self.document[end:start])
            yield f'<mark style="{style}" title="{title}">{escape(self.document[start:stop])}</mark>'
            end = stop
        yield escape(self.document[end:])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in header)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return _TABLE + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
