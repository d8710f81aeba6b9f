"""The divergences of arrays, one row each.

From its row a divergence gets its compiled kernels (`divergences.KERNELS`), its loops over rows and pairs
(`tables`), its C functions (`foreign`), the checks of its Python function, its place in `pairwise`, its
overload in compiled code, its benchmarks and its common tests.

To add one: a term in `terms` (or two kernels in a module of their own, see `Row.module`), a row here, a
public function with its docstring, and a reference in the tests.
"""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

#: The parameters of a divergence that has none, and the weights of both arguments alike.
NO_THETA = (0.0, 0.0)
HALVES = (0.5, 0.5)

#: The range of an order that may be any finite number.
FINITE = (-sys.float_info.max, sys.float_info.max)


class Row(NamedTuple):
    """What there is to know of one divergence. Kernels are given by name: importing this compiles nothing."""

    name: str  #: of the public function, the metric of `pairwise`, the kernel and the C function
    #: ``terms.<term>_term``, which is summed. Where they exist, ``terms.<term>_log_term`` is taken for
    #: log-probabilities, ``terms.<term>_low`` for sums that overflow, ``sums.<term>_chunk`` as a faster loop.
    term: str = ""
    module: str = ""  #: without a term: the module of two kernels, ``<name>`` and ``log_<name>``
    kernel: str = ""  #: without either: the name of another row, whose kernels serve this one as well
    normalise: str = "quadratic"  #: how the sum changes with the masses: see `divergences.NORMALISE`
    root: bool = False  #: the square root of the sum
    base: bool = False  #: a logarithm, so that its unit can be chosen
    measures: bool = True  #: whether ``mass="any"`` is allowed
    symmetric: bool = False  #: in p and q, with equal weights
    weights: bool = False  #: theta is two weights
    orders: tuple[float, float] | None = None  #: theta[0] is an order alpha, from the first to the second
    kernel_at_one: str = ""  #: the row whose kernels serve the order 1
    arrays: int = 2  #: 1 for a function of p alone


ROWS = {
    row.name: row
    for row in (
        Row("kl", term="kl", normalise="kl", base=True),
        Row("cross_entropy", module="entropies", base=True),
        Row("entropy", kernel="cross_entropy", base=True, arrays=1),
        Row("js", term="js", base=True, symmetric=True, weights=True),
        Row("js_distance", term="js", root=True, base=True, symmetric=True, weights=True),
        Row("jeffreys", term="jeffreys", base=True, symmetric=True),
        Row("hellinger", term="hellinger", root=True, symmetric=True),
        Row("total_variation", term="total_variation", normalise="linear", symmetric=True),
        Row("chi2", term="chi2"),
        Row("bhattacharyya", module="renyi", base=True, measures=False, symmetric=True),
        Row("renyi", module="renyi", base=True, measures=False, orders=(0.0, math.inf), kernel_at_one="kl"),
        Row("alpha_divergence", term="alpha", orders=FINITE),
    )
}

#: The rows with kernels of their own, which are those of two arrays: the metrics of `pairwise`.
METRICS = {name: row for name, row in ROWS.items() if row.arrays == 2}

#: The first row of each term.
BY_TERM: dict[str, Row] = {}
for _row in ROWS.values():
    if _row.term:
        BY_TERM.setdefault(_row.term, _row)


def kernel_of(row: Row, theta: tuple[float, float]) -> str:
    """The name of the kernels for these parameters."""
    if row.kernel_at_one and theta[0] == 1.0:
        return row.kernel_at_one
    return row.kernel or row.name


def default_theta(row: Row) -> tuple[float, float]:
    """The parameters where the caller gives none."""
    return HALVES if row.weights else NO_THETA
