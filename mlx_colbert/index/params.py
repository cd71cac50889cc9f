"""How a search in the centroid codec trades time for recall."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mlx_colbert.errors import ConfigError

# Measured in examples/bench/search.py; the recall there is what these are for.
_N_PROBE = 32
_N_CANDIDATES = 64
_CANDIDATES_PER_K = 2
_APPROXIMATE_PER_CANDIDATE = 4


@dataclass(frozen=True)
class SearchParams:
    """What a search looks at; None lets it follow from k. A float16 index is always searched exactly.

    >>> SearchParams(n_probe=64).resolved(k=10)
    SearchParams(n_probe=64, n_approximate=256, n_candidates=64, exact=False)
    """

    # Centroids per query token whose documents are considered.
    n_probe: int | None = None
    # Documents of the best estimates, scored by the centroids of all their tokens.
    n_approximate: int | None = None
    # Documents of the best such scores, scored by their residuals as well; never fewer than k are.
    n_candidates: int | None = None
    # Score every document by its residuals instead: slow, and the best that the codec can do.
    exact: bool = False

    def __post_init__(self) -> None:
        problems = []
        for field in fields(self)[:3]:
            value = getattr(self, field.name)
            if value is not None and (type(value) is not int or value < 1):
                problems.append(f"{field.name} is {value!r}, not an integer of 1 or more")
        if type(self.exact) is not bool:
            problems.append(f"exact is {self.exact!r}, not True or False")
        if problems:
            raise ConfigError("SearchParams", problems)

    def resolved(self, k: int) -> SearchParams:
        """The numbers for a search of k documents, all set."""
        n_candidates = max(self.n_candidates or max(_N_CANDIDATES, _CANDIDATES_PER_K * k), k)
        n_approximate = self.n_approximate or _APPROXIMATE_PER_CANDIDATE * n_candidates
        return SearchParams(
            self.n_probe or _N_PROBE, max(n_approximate, n_candidates), n_candidates, self.exact
        )
