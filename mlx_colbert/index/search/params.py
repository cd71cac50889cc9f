"""How a search in the centroid codec trades time for recall."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mlx_colbert.checks import check_choice, check_whole

# Chosen on MedQuAD and arXiv: what more of any of them gained was less than 0.005 recall.
_N_PROBE, _PROBE_PER_K, _MAX_PROBE = 64, 2, 256
_N_CANDIDATES, _CANDIDATES_PER_K = 160, 3
_APPROXIMATE_PER_CANDIDATE = 6


@dataclass(frozen=True)
class SearchParams:
    """What a search looks at; None lets it follow from k. A float16 index is always searched exactly.

    >>> SearchParams(n_candidates=200).resolved(k=10)
    ResolvedParams(n_probe=64, n_approximate=1200, n_candidates=200, exact=False)
    """

    # Centroids per query token whose documents are considered.
    n_probe: int | None = None
    # Documents of the best estimates, scored by their rows at those centroids.
    n_approximate: int | None = None
    # Documents of the best such scores, scored by all of their rows; never fewer than k are.
    n_candidates: int | None = None
    # Score every document by all of its rows instead: slow, and the best that the codec can do.
    exact: bool = False

    def __post_init__(self) -> None:
        for field in fields(self)[:3]:
            value = getattr(self, field.name)
            if value is not None:
                object.__setattr__(self, field.name, check_whole(value, field.name, at_least=1))
        check_choice(self.exact, "exact", (True, False))

    def resolved(self, k: int) -> ResolvedParams:
        """The numbers for a search of k documents, all set."""
        n_probe = self.n_probe or min(max(_N_PROBE, _PROBE_PER_K * k), _MAX_PROBE)
        n_candidates = max(self.n_candidates or max(_N_CANDIDATES, _CANDIDATES_PER_K * k), k)
        n_approximate = self.n_approximate or _APPROXIMATE_PER_CANDIDATE * n_candidates
        return ResolvedParams(n_probe, max(n_approximate, n_candidates), n_candidates, self.exact)


@dataclass(frozen=True)
class ResolvedParams:
    """What a search for some k looks at.

    Attributes:
        n_probe: 1 or more.
        n_approximate: n_candidates or more.
        n_candidates: k or more.
        exact: see `SearchParams`, as for the others.
    """

    n_probe: int
    n_approximate: int
    n_candidates: int
    exact: bool
