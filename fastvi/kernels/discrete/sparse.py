"""Pairs of sparse rows as short dense ones: the entries that are stored in either, without the common zeros.

Entries that are 0 on both sides add nothing to any divergence, so that the kernels of dense rows serve.
"""

from __future__ import annotations

import math
from functools import partial

from ..compiler import Lazily, exported, kernel, specialise
from ..numerics.elementary import LN2
from . import terms
from .normalized import LIFT, UNLIFT

#: Part of the two masses that a sum must be, for an error of 1e-14.
_LEAST_PART = 0.03


@kernel
def _merge(p, q, i, j, x, y):
    """Write the entries of row i of `p` and row j of `q` side by side, by column, and zeros behind them."""
    (starts_p, columns_p, entries_p), (starts_q, columns_q, entries_q) = p, q
    a, last_a = starts_p[i], starts_p[i + 1]
    b, last_b = starts_q[j], starts_q[j + 1]
    k = 0
    while a < last_a and b < last_b:
        u, v = columns_p[a], columns_q[b]
        x[k] = entries_p[a] if u <= v else 0.0
        y[k] = entries_q[b] if v <= u else 0.0
        a += u <= v
        b += v <= u
        k += 1
    while a < last_a:
        x[k], y[k] = entries_p[a], 0.0
        a += 1
        k += 1
    while b < last_b:
        x[k], y[k] = 0.0, entries_q[b]
        b += 1
        k += 1
    x[k:] = 0.0
    y[k:] = 0.0


@exported
def merge_rows(p, q, rows_p, rows_q, x, y):
    """Rows rows_p[k] of `p` and rows_q[k] of `q` as rows k of x and y.

    Both are (starts of the rows, sorted columns, entries); x and y are as wide as a pair can need.
    """
    for k in range(rows_p.size):
        _merge(p, q, rows_p[k], rows_q[k], x[k], y[k])


# All pairs of rows, from the products of their common entries.


def _pairs(p, q, first, masses_p, masses_q, theta, counts, out):
    """Template (`term`, `alone_p`, `alone_q`, `covered`): the sums for rows of p from `first`, all rows of q.

    p is stored by rows and q by columns; `counts` is a workspace, a number for each row of q. A term is
    `alone_p` times p where q = 0 and `alone_q` times q where p = 0, so that only common entries are met. With
    `covered` it is infinite where p > 0 = q. A sum that is a small part of the masses has too few digits: it
    is NaN. Returns how many are.
    """
    (starts_p, columns_p, entries_p), (starts_q, rows_q, entries_q) = p, q
    left = 0
    for i in range(out.shape[0]):
        row, stored = out[i], 0
        row[:] = 0.0
        counts[:] = 0
        for a in range(starts_p[first + i], starts_p[first + i + 1]):
            x, k = entries_p[a], columns_p[a]
            if x == 0.0:
                continue
            stored += 1
            for b in range(starts_q[k], starts_q[k + 1]):
                y, j = entries_q[b], rows_q[b]
                if y > 0.0:
                    both = term(x * LIFT, y * LIFT, (x - y) * LIFT, theta) * UNLIFT  # noqa: F821
                    row[j] += both - (alone_p * x + alone_q * y)  # noqa: F821
                    counts[j] += 1
        for j in range(row.size):
            masses = alone_p * masses_p[first + i] + alone_q * masses_q[j]  # noqa: F821
            value = row[j] + masses
            if covered and counts[j] < stored:  # noqa: F821
                row[j] = math.inf
            else:
                good = value > _LEAST_PART * (masses_p[first + i] + masses_q[j])
                row[j] = value if good else math.nan
                left += not good
    return left


#: By the name of a term: `alone_p`, `alone_q` and `covered`. Weights are one half.
ALONE = {
    "kl": (0.0, 1.0, True),
    "js": (0.5 * LN2, 0.5 * LN2, False),
    "hellinger": (0.5, 0.5, False),
    "total_variation": (0.5, 0.5, False),
    "chi2": (0.0, 1.0, True),
}


def _make(name):
    alone_p, alone_q, covered = ALONE[name]
    term = getattr(terms, f"{name}_term")
    bindings = {"term": term, "alone_p": alone_p, "alone_q": alone_q, "covered": covered}
    return specialise(_pairs, f"_{name}_sparse_pairs", exported, **bindings)


PAIRS = Lazily({name: partial(_make, name) for name in ALONE})
