"""Entries that are NaN or masked: what the keyword `nan_policy` and masked arrays ask for.

An omitted entry is set to 0 on both sides, which adds nothing to any divergence. Of all pairs, those with
such rows are computed row by row: `pairs_around`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.validation import choice, explain, unit_tolerance
from ..kernels.discrete.masses import LARGEST_MASS, NORMALIZE, UNIT
from .pairing import Pairing, Place, raise_for_pair

_POLICIES = ("raise", "propagate", "omit")


def nan_policy_of(value: Any) -> str:
    """`value`, if it is a policy."""
    return choice("nan_policy", value, _POLICIES)


def _hidden(rows: NDArray[Any], mask: NDArray[np.bool_] | None, policy: str) -> NDArray[np.bool_] | None:
    """Which entries of some rows are omitted, if any."""
    if policy != "omit":
        return mask
    absent = np.isnan(rows) if mask is None else mask | np.isnan(rows)
    return absent if absent.any() else None


def leave_out(pair: Pairing, policy: str, log: bool) -> tuple[Pairing, NDArray[np.bool_] | None]:
    """The pairs without the omitted entries; which of them have no entries left, if any are omitted."""
    if policy != "omit" and pair.masks[0] is None and pair.masks[1] is None:
        return pair, None
    sides = ((pair.p, pair.rows_p, pair.masks[0]), (pair.q, pair.rows_q, pair.masks[1]))
    found = [(_hidden(rows, mask, policy), numbers) for rows, numbers, mask in sides]
    absent = [hidden[numbers] for hidden, numbers in found if hidden is not None]
    if not absent:
        return pair, None
    omitted = np.logical_or.reduce(absent)
    p, q = pair.p[pair.rows_p], pair.q[pair.rows_q]
    for rows in (p, q):
        rows[omitted] = -math.inf if log else 0.0
        rows.flags.writeable = False
    numbers = np.arange(len(p), dtype=np.intp)
    left = pair._replace(p=p, q=q, rows_p=numbers, rows_q=numbers, masks=(None, None))
    return left, omitted.all(axis=1)


def is_masked(value: Any) -> bool:
    """Whether an argument has masked entries."""
    return isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any())


def pairs_around(
    pairs: Callable[[Any, Any], NDArray[Any]],
    each: Callable[[Any, Any], NDArray[np.float64]],
    P: Any,
    Q: Any,
    code: int,
    empty: bool,
) -> NDArray[Any]:
    """`pairs` of the rows of two tables; those with a row that is not whole by `each`, which broadcasts.

    Not whole are rows with masked or NaN entries and, if `empty`, with nothing to normalise. For `pairs`
    their first entry has all mass.
    """
    p, part_p = _whole("P", P, code, empty)
    q, part_q = (None, part_p) if Q is None else _whole("Q", Q, code, empty)
    result = pairs(p, q)
    Q = P if Q is None else Q
    for i in part_p:
        result[i] = each(P[i][None], Q)
    for j in part_q:
        result[:, j] = each(P, Q[j][None])
    return result


def _whole(name: str, table: NDArray[Any], code: int, empty: bool) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """A copy with all mass in the first entry of rows that are not whole, and which these are."""
    absent = np.ma.getmaskarray(table) | np.isnan(np.ma.getdata(table))
    rows = np.where(absent, 0.0, np.ma.getdata(table))
    part = np.flatnonzero(absent.any(axis=1) | (empty & ~rows.any(axis=1)))
    for k in part:
        if not ((rows[k] >= 0.0) & (rows[k] < math.inf)).all():
            explain([(name, rows[k], (int(k),))], -1, code, False)
    rows[part], rows[part, 0] = 0, 1
    return rows, part


def row_sums(rows: NDArray[Any], log: bool) -> NDArray[np.float64]:
    """The sum of each row."""
    with np.errstate(all="ignore"):
        values = np.exp(rows, dtype=np.float64) if log else rows
        return np.asarray(values.sum(axis=1, dtype=np.float64))


def near_one(pair: Pairing, log: bool) -> NDArray[np.bool_]:
    """Pairs whose sums are one within the tolerances of the types that their entries had."""
    sides = zip((pair.p, pair.q), pair.places, strict=True)
    near_p, near_q = (_near_one(rows, row_sums(rows, log), place, log) for rows, place in sides)
    return np.asarray(near_p[pair.rows_p] & near_q[pair.rows_q])


def _near_one(rows: NDArray[Any], sums: NDArray[np.float64], place: Place, log: bool) -> NDArray[np.bool_]:
    return np.asarray(np.abs(sums - 1.0) <= unit_tolerance(place.kind, rows.shape[1], log))


def raise_for_refused(
    pair: Pairing,
    refused: NDArray[np.bool_],
    policy: str,
    code: int,
    log: bool,
    names: tuple[str, ...] = ("p", "q"),
) -> None:
    """Raise the error for the first of some pairs, unless the NaN policy is to give their results as NaN."""
    if not refused.any():
        return
    if policy != "propagate":
        raise_for_pair(pair, int(np.argmax(refused)), code, log, names, (False, False))
    fine_p, fine_q = _blameless(pair, code, log)
    wrong = refused & ~(fine_p & fine_q)
    if wrong.any():
        k, nothing = int(np.argmax(wrong)), -math.inf if log else 0.0
        p, q = (np.where(np.isnan(rows), nothing, rows) for rows in (pair.p, pair.q))
        pair = pair._replace(p=p, q=q)
        raise_for_pair(pair, k, code, log, names, (bool(fine_p[k]), bool(fine_q[k])))


def _blameless(pair: Pairing, code: int, log: bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For the p and the q of each pair: whether nothing is wrong but NaN entries, or that all are 0."""
    found = []
    for rows, numbers, place in zip((pair.p, pair.q), (pair.rows_p, pair.rows_q), pair.places, strict=True):
        absent = np.isnan(rows).any(axis=1)
        bad = (rows == math.inf) if log else (rows < 0.0) | (rows == math.inf)
        empty = (rows == (-math.inf if log else 0.0)).all(axis=1) & (code == NORMALIZE)
        sums = row_sums(rows, log)
        off = ~_near_one(rows, sums, place, log) if code == UNIT else ~(sums <= LARGEST_MASS) & (not log)
        wrong = bad.any(axis=1) | (off & ~absent & ~empty)
        found.append(~wrong[numbers])
    return found[0], found[1]
