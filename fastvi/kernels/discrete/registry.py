"""The registry of divergences of arrays: one row each, read by everything that serves all divergences.

To add a divergence:

1.  Write its term in ``kernels/discrete/terms.py``: ``<term>_term(p, q, d, theta)``, which is >= 0. If the
    divergence is no sum, write the kernels ``<name>`` and ``log_<name>`` in a module, like `renyi`.
2.  Add a row to `ROWS` below.
3.  Write the public function with its docstring in ``fastvi/discrete/distances.py``, and add its name to
    the lists in ``fastvi/discrete/__init__.py`` and ``fastvi/__init__.py``.
4.  Write its definition with mpmath, under the same name, in the references of the tests.

All else comes from the row: the compiled kernels (`divergences.KERNELS`), the loops over rows and pairs
(`all_pairs`), the metric of `fastvi.pairwise`, the checks of the keywords, the function in compiled code
(``fastvi.compiled.arrays``), the C functions (`c_functions`), the benchmarks and the common tests. A fast
loop (`chunks`) or a term for log-probabilities is found by its name when there is one: see `Row`.
"""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

#: The parameters of a divergence that has none.
NO_THETA = (0.0, 0.0)

#: Equal weights.
HALVES = (0.5, 0.5)

#: The range of an order that may be any finite number.
FINITE = (-sys.float_info.max, sys.float_info.max)


class Row(NamedTuple):
    """One divergence. Kernels are given by name, so that importing this module compiles nothing."""

    name: str  #: of the public function, the metric of `pairwise`, the kernel and the C function

    # One of these three gives the kernels.

    #: ``terms.<term>_term`` is summed. Taken if they exist: the fast loop ``chunks.<term>_chunk``,
    #: ``logarithmic.<term>_log_term`` for log-probabilities, ``terms.<term>_infinite`` where zeros make it
    #: infinite, and ``large_sums.<...>_<term>`` for sums that are large.
    term: str = ""
    module: str = ""  #: with the kernels ``<name>``, ``log_<name>`` and, if it exists, ``<name>_uncopied``
    kernel: str = ""  #: another row, whose kernels serve this one as well

    normalise: str = "quadratic"  #: how the sum changes with the masses: `closed_forms.normalise_<...>`
    root: bool = False  #: the result is the square root of the sum
    base: bool = False  #: the result is in units of a logarithm, whose `base` can be chosen
    measures: bool = True  #: ``mass="any"`` is allowed
    symmetric: bool = False  #: in p and q, with equal weights
    weights: bool = False  #: theta is two weights
    orders: tuple[float, float] | None = None  #: theta[0] is an order alpha in this closed range
    kernel_at_one: str = ""  #: the row whose kernels serve the order 1
    arrays: int = 2  #: 1 for a function of p alone
    needs: str = ""  #: the costly operations of an entry, from which `bench.limits` takes its floor


ROWS = {
    row.name: row
    for row in (
        Row("kl", term="kl", normalise="kl", base=True, needs="log"),
        Row("cross_entropy", module="entropies", base=True, needs="log"),
        Row("entropy", kernel="cross_entropy", base=True, arrays=1, needs="log"),
        Row(
            "renyi_entropy",
            module="renyi_entropies",
            base=True,
            measures=False,
            orders=(0.0, math.inf),
            kernel_at_one="cross_entropy",
            arrays=1,
            needs="log exp",
        ),
        Row("js", term="js", base=True, symmetric=True, weights=True, needs="log log"),
        Row("js_distance", term="js", root=True, base=True, symmetric=True, weights=True, needs="log log"),
        Row("jeffreys", term="jeffreys", base=True, symmetric=True, needs="log"),
        Row(
            "hellinger", term="hellinger", normalise="hellinger", root=True, symmetric=True, needs="root root"
        ),
        Row("total_variation", term="total_variation", normalise="linear", symmetric=True),
        Row("chi2", term="chi2", normalise="chi2", needs="division"),
        Row("bhattacharyya", module="renyi", base=True, measures=False, symmetric=True, needs="root"),
        Row(
            "renyi",
            module="renyi",
            base=True,
            measures=False,
            orders=(0.0, math.inf),
            kernel_at_one="kl",
            needs="log exp",
        ),
        Row("alpha_divergence", term="alpha", normalise="alpha", orders=FINITE, needs="log exp"),
    )
}

#: The rows of two arrays: the metrics of `pairwise`.
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
