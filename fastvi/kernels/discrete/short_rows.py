"""Divergences of short rows: of one pair, for `divergences`; of many, a pair in each lane, for `all_pairs`.

Entries are divided by the masses and summed one after another. The result is NaN where it needs more care.

A pair of eight entries by itself takes 50 to 400 ns: its loop is too short for vector instructions. So the
entries of `LANES` pairs are laid out by columns, and each step is one loop over the pairs, without a branch.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import formula, inlined, kernel, specialise
from ..numerics.elementary import log
from ..numerics.error_free import fma
from . import terms
from .closed_forms import bhattacharyya_of_hellinger, renyi_of_alpha
from .masses import ANY
from .normalized import TINY, has_digits, moderate
from .registry import ROWS

#: Rows longer than this are left to the loops over their entries.
SHORT = 8

#: Pairs side by side. Those of eight entries take 16 KB.
LANES = 128

#: Fewer pairs do not pay for the layout.
FEW = 16

#: Below this, the rounding of q / mass, 2**-53, would leave less than 14 digits of an entropy.
_LEAST_ENTROPY = 0.02

#: Sums below this are left to careful sums.
LEAST_SUM = 1e-200

#: Ratios below this as well: their rounding leaves less than 14 digits of the logarithm.
LEAST_RATIO = 1.05


@inlined
def _lay_out(p, rows, columns):
    for k in range(rows.size):
        for j in range(p.shape[1]):
            columns[j, k] = p[rows[k], j]


@inlined
def _add_masses(x, y, mass_p, mass_q):
    """Add the entries of a column; NaN where an entry is negative, no number or tiny."""
    for k in range(x.size):
        u, v = x[k], y[k]
        held = ((u >= TINY) | (u == 0.0)) & ((v >= TINY) | (v == 0.0))
        mass_p[k] += u if held else math.nan
        mass_q[k] += v


@inlined
def _invert(p, mass_p, mass_q, mass):
    """The factors of the entries, in place of the masses; NaN where these are not as `mass` requires."""
    for k in range(mass_p.size):
        a, b = mass_p[k], mass_q[k]
        good = moderate(p, a, b, mass)
        mass_p[k] = (1.0 if mass == ANY else 1.0 / a) if good else math.nan
        mass_q[k] = 1.0 if mass == ANY else 1.0 / b


def _replace(x, y, s, t, theta):
    """Template (`term`): the terms of a column, in place of p, and the differences p - q, in place of q."""
    for k in range(x.size):
        v = y[k] * t[k]
        d = fma(x[k], s[k], -v) - fma(y[k], t[k], -v)
        x[k] = term(x[k] * s[k], v, d, theta)  # noqa: F821
        y[k] = d


@inlined
def _add(x, total):
    for k in range(x.size):
        total[k] += x[k]


# The result from a sum, or NaN.


@inlined
def _itself(a, theta):
    return a


@inlined
def _root(a, theta):
    return math.sqrt(a)


@inlined
def _entropy(a, theta):
    return a if a > _LEAST_ENTROPY else math.nan


@inlined
def _bhattacharyya(a, theta):
    return bhattacharyya_of_hellinger(a)


@inlined
def _renyi(a, theta):
    return renyi_of_alpha(a, theta[0])


@inlined
def _always(theta, mass):
    return True


@inlined
def _other_orders(theta, mass):
    """For `_renyi`: the orders 0 and inf have other formulas."""
    return 0.0 < theta[0] < math.inf


@inlined
def _of_distributions(theta, mass):
    """For cross-entropies: the terms of measures differ in sign."""
    return mass != ANY


@formula
def _cross_term(u, v, d, theta):
    return terms.cross_term(u, v, 1.0)


def _short(p, q, theta, mass):
    """Template (`holds`, `term`, `smooth`, `conclude`): the result for a few entries."""
    if not holds(theta, mass):  # noqa: F821
        return math.nan
    mass_p, mass_q, bad = 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        bad |= not ((x >= TINY) | (x == 0.0)) & ((y >= TINY) | (y == 0.0))
        mass_p += x
        mass_q += y
    if bad or not moderate(p, mass_p, mass_q, mass):
        return math.nan
    s, t = (1.0, 1.0) if mass == ANY else (1.0 / mass_p, 1.0 / mass_q)
    a, excess = 0.0, 0.0
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        v = y * t
        d = fma(x, s, -v) - fma(y, t, -v)
        a += term(x * s, v, d, theta)  # noqa: F821
        excess += d
    small = mass == ANY or has_digits(a, excess, theta, smooth, 1.0)  # noqa: F821
    return conclude(a, theta) if small and LEAST_SUM < a < math.inf else math.nan  # noqa: F821


def _rows(p, q, ip, iq, theta, mass, out):
    """Template (`holds`, `lanes`): out[k] of each pair, or NaN, each lane as `_short` computes a pair.

    The value is False where nothing is written.
    """
    n = p.shape[1]
    if n > SHORT or out.size < FEW or not holds(theta, mass):  # noqa: F821
        return False
    work = np.empty((2 * n + 4, LANES))
    for first in range(0, out.size, LANES):
        size = min(LANES, out.size - first)
        x, y = work[:n, :size], work[n : 2 * n, :size]
        mass_p, mass_q = work[2 * n, :size], work[2 * n + 1, :size]
        _lay_out(p, ip[first : first + size], x)
        _lay_out(q, iq[first : first + size], y)
        work[2 * n :] = 0.0
        for j in range(n):
            _add_masses(x[j], y[j], mass_p, mass_q)
        sums = work[2 * n + 2, :size], work[2 * n + 3, :size]
        lanes(p, x, y, mass_p, mass_q, sums, theta, mass, out[first : first + size])  # noqa: F821
    return True


def _sums(p, x, y, mass_p, mass_q, sums, theta, mass, out):
    """Template (`replace`, `smooth`, `conclude`): the results from columns, in the order of `_short`."""
    total, excess = sums
    _invert(p, mass_p, mass_q, mass)
    for j in range(x.shape[0]):
        replace(x[j], y[j], mass_p, mass_q, theta)  # noqa: F821
        _add(x[j], total)
        _add(y[j], excess)
    for k in range(out.size):
        a = total[k]
        good = mass == ANY or has_digits(a, excess[k], theta, smooth, 1.0)  # noqa: F821
        good = good & (mass_p[k] == mass_p[k]) & (a > LEAST_SUM) & (a < math.inf)
        out[k] = conclude(a, theta) if good else math.nan  # noqa: F821


# The order inf: the logarithm of the largest ratio.


@inlined
def _raise_tops(x, y, tops):
    """The largest p / q so far, with that of a column; inf where q is 0, or -0."""
    for k in range(x.size):
        ratio = abs(x[k] / y[k]) if x[k] > 0.0 else 0.0
        tops[k] = ratio if ratio > tops[k] else tops[k]


@inlined
def _logs_of_tops(p, mass_p, mass_q, tops, mass, out):
    for k in range(out.size):
        a, b = mass_p[k], mass_q[k]
        ratio = tops[k] * (b / a)
        good = moderate(p, a, b, mass) & (ratio > LEAST_RATIO) & (ratio < math.inf)
        value = log(ratio if good else 1.0)
        out[k] = value if good else math.nan


@inlined
def _ratios(p, x, y, mass_p, mass_q, sums, theta, mass, out):
    """`_sums` for the Rényi divergence of order inf."""
    tops, _ = sums
    for j in range(x.shape[0]):
        _raise_tops(x[j], y[j], tops)
    _logs_of_tops(p, mass_p, mass_q, tops, mass, out)


@inlined
def _order_inf(theta, mass):
    return theta[0] == math.inf


_ratio_rows = specialise(_rows, "_short_ratio_rows", holds=_order_inf, lanes=_ratios)


def _renyi_rows(p, q, ip, iq, theta, mass, out):
    """Template (`others`): `_rows` for the Rényi divergence."""
    return _ratio_rows(p, q, ip, iq, theta, mass, out) or others(p, q, ip, iq, theta, mass, out)  # noqa: F821


@kernel
def none(p, q, ip, iq, theta, mass, out):
    """For kernels without such a loop."""
    return False


def _bindings(name):
    """What the templates need for a row of the registry; None for one without such loops."""
    row = ROWS[name]
    if not row.term and name not in _OTHERS:
        return None
    term, conclude = _OTHERS.get(name, (row.term, _root if row.root else _itself))
    shared = {
        "smooth": row.normalise != "linear",
        "conclude": conclude,
        "holds": {"renyi": _other_orders, "cross_entropy": _of_distributions}.get(name, _always),
    }
    return _cross_term if term == "cross" else getattr(terms, f"{term}_term"), shared


def assemble_one(name):
    """The kernel of one short pair, (p, q, theta, mass) -> the result or NaN, of a row of the registry."""
    term, shared = _bindings(name)
    return specialise(_short, f"_short_{name}", term=term, **shared)


def assemble_many(name):
    """The kernel of many pairs of short rows, `_rows`, of a row of the registry."""
    found = _bindings(name)
    if found is None:
        return none
    term, shared = found
    replace = specialise(_replace, f"_replace_{name}", inlined, term=term)
    holds = shared.pop("holds")
    lanes = specialise(_sums, f"_short_{name}_sums", inlined, replace=replace, **shared)
    rows = specialise(_rows, f"_short_{name}_rows", holds=holds, lanes=lanes)
    return specialise(_renyi_rows, "_short_renyi_all_rows", others=rows) if name == "renyi" else rows


#: Terms and conclusions of rows that have kernels of their own.
_OTHERS = {
    "bhattacharyya": ("hellinger", _bhattacharyya),
    "cross_entropy": ("cross", _entropy),
    "renyi": ("alpha", _renyi),
}
