"""The index that the tests of searches and of growth share. It is made once, and nobody changes it."""

from __future__ import annotations

import numpy as np
import pytest
from clusters import queries_from
from searched import collection, make_index


@pytest.fixture(scope="session")
def documents():
    """doc_id → rows."""
    return collection()


@pytest.fixture(scope="session")
def queries(documents):
    """40 queries near documents."""
    return queries_from(np.random.default_rng(1), list(documents.values()), 40)


@pytest.fixture(scope="session")
def folder(documents, tmp_path_factory):
    """The index of these documents. A test that changes it makes a copy."""
    return make_index(tmp_path_factory.mktemp("searched") / "index", documents)
