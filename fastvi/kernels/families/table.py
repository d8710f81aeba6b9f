"""The families of q by name and code: for the API, whose `family=` has these names, and for `operations`.

To add one, write its module (the functions are those of `full`; `operations` says what each of them does)
and a row in `TABLE`; then its name belongs into the docstrings of `fit` and the projections. The common tests
take it from the table. (`low_rank` is not in it: its members have a rank, and only fits on draws know them.)
Nothing is compiled here: importing the table is free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


def _common(dim: int) -> Any:
    return np.ones((dim, 1))


def _none(dim: int) -> Any:
    return np.empty((dim, 0))


class Family(NamedTuple):
    """What is known of a family before its kernels are loaded."""

    name: str  #: for the API
    module: str  #: the file of its kernels, in this package
    correlated: bool = False  #: whether correlations are fitted: the parameters are then O(D**2)
    held: bool = False  #: whether the covariance is that of the start: a fit needs one, a projection has none

    #: Without correlations: directions (dim, k) in which the logarithms of the deviations may change.
    directions: Callable[[int], Any] = np.eye


#: A family's code is its place: new ones come last.
TABLE = (
    Family("full", "full", correlated=True),
    Family("diag", "diagonal"),
    Family("isotropic", "isotropic", directions=_common),
    Family("mean", "fixed_covariance", held=True, directions=_none),
)

#: Names of the families that are `correlated`, of those that are `held`, and of the others: these have
#: diagonal covariances.
CORRELATED = {family.name for family in TABLE if family.correlated}
HELD = {family.name for family in TABLE if family.held}
UNCORRELATED = {family.name for family in TABLE} - CORRELATED - HELD

#: Codes by name, of all families and of those that there are projections onto.
CODES = {family.name: code for code, family in enumerate(TABLE)}
PROJECTION_CODES = {name: code for name, code in CODES.items() if name not in HELD}

FULL, DIAGONAL, ISOTROPIC, MEAN = (CODES[name] for name in ("full", "diag", "isotropic", "mean"))

#: The family of `low_rank`, whose members have a rank: for fits on draws alone.
LOW_RANK = "lowrank"
