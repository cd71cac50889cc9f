"""The parameters that trade time for recall in a compressed index."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mlx_colbert.checks import check_choice, check_whole

# Chosen on MedQuAD and arXiv: a higher value of any of them gained less than 0.005 recall.
_N_PROBE, _PROBE_PER_K, _MAX_PROBE = 64, 2, 256
_N_CANDIDATES, _CANDIDATES_PER_K = 160, 3
_APPROXIMATE_PER_CANDIDATE = 6


@dataclass(frozen=True)
class SearchParams:
    """How much of a compressed index a search reads. None means a number that depends on k.

    An exact index is always searched completely.

    >>> SearchParams(n_candidates=200).resolved(k=10)
    ResolvedParams(n_probe=64, n_approximate=1200, n_candidates=200, exact=False)
    """

    # Centroids per query token. The passages at these centroids are considered.
    n_probe: int | None = None
    # Passages with the best estimates. They are scored by their tokens at those centroids.
    n_approximate: int | None = None
    # Passages with the best such scores. They are scored by all of their tokens; there are at least k.
    n_candidates: int | None = None
    # Score every passage by all of its tokens instead: slow, and as good as a compressed index can be.
    exact: bool = False

    def __post_init__(self) -> None:
        for field in fields(self)[:3]:
            value = getattr(self, field.name)
            if value is not None:
                object.__setattr__(self, field.name, check_whole(value, field.name, at_least=1))
        check_choice(self.exact, "exact", (True, False))

    def resolved(self, k: int) -> ResolvedParams:
        """The parameters of a search for k passages, without None."""
        n_probe = self.n_probe or min(max(_N_PROBE, _PROBE_PER_K * k), _MAX_PROBE)
        n_candidates = max(self.n_candidates or max(_N_CANDIDATES, _CANDIDATES_PER_K * k), k)
        n_approximate = self.n_approximate or _APPROXIMATE_PER_CANDIDATE * n_candidates
        return ResolvedParams(n_probe, max(n_approximate, n_candidates), n_candidates, self.exact)


@dataclass(frozen=True)
class ResolvedParams:
    """The parameters of a search for a given k.

    Attributes:
        n_probe: 1 or more.
        n_approximate: n_candidates or more.
        n_candidates: k or more.
        exact: whether every passage is scored by all of its tokens.
    """

    n_probe: int
    n_approximate: int
    n_candidates: int
    exact: bool
