"""What the tests of divergences share."""

import pytest

from fastvi.discrete import all_pairs


@pytest.fixture(autouse=True)
def pairs_by_products(monkeypatch):
    """Small tables take the way of large ones: the tests of that are of small ones."""
    monkeypatch.setattr(all_pairs, "_FEW", 0)
