"""Local optima of projections of a table or grid onto products of its marginals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common.immutable import frozen
from ..common.validation import float_array
from ..common.values import Array
from ..discrete import information
from ..distributions.integrals import Estimate
from ..kernels.statuses import CONVERGED, STEPS_EXHAUSTED
from .result import Projection


def _table(p: Any) -> NDArray[np.float64]:
    table = np.array(float_array("p", p), dtype=np.float64, order="C")
    if table.ndim < 1 or table.size == 0:
        raise ValueError(
            f"p must be a table of probabilities with at least one axis, not of shape {table.shape}"
        )
    bad = ~((table >= 0.0) & (table < math.inf))
    if bad.any():
        where = tuple(int(k) for k in np.argwhere(bad)[0])
        raise ValueError(f"p[{', '.join(map(str, where))}] is {table[where]!s}: must be finite and >= 0")
    total = float(table.sum())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"p sums to {total!r}: a joint distribution sums to 1 within 1e-06")
    return table / total


def _outer(factors: Sequence[Array]) -> Array:
    result = np.ones(())
    for factor in factors:
        result = np.multiply.outer(result, factor)
    return np.asarray(result)


def _marginals(p: Any) -> Projection:
    table = _table(p)
    axes = range(table.ndim)
    factors = tuple(frozen(table.sum(axis=tuple(b for b in axes if b != a))) for a in axes)
    value = information.kl(table.ravel(), _outer(factors).ravel(), mass="normalize")
    estimate = Estimate(value, 1e-15 * (1.0 + value), table.size, "closed form")
    return Projection(factors, estimate)


def _is_minimum(table: Array, factors: Sequence[Array], shape: Any, offsets: Any, q: Array) -> bool:
    """Whether the second variation is positive on all changes that keep each factor's sum.

    In v_a = sqrt(q_a) u_a it is I - sqrt(q_a q_b) E[log p | a, b] off the diagonal blocks; directions along
    sqrt(q_a) are taken out.
    """
    count = int(shape.sum())
    matrix = np.eye(count)
    index = np.empty(shape.size, np.int64)
    roots = [np.sqrt(f) for f in factors]
    for a in range(shape.size):
        for b in range(a):
            block = np.empty((shape[a], shape[b]))
            kernels.projections.mean_field.second_expectations(table, shape, offsets, q, a, b, index, block)
            block -= block.mean()
            block *= np.multiply.outer(roots[a], roots[b])
            block -= np.multiply.outer(roots[a], roots[a] @ block)
            block -= np.multiply.outer(block @ roots[b], roots[b])
            rows = slice(offsets[a], offsets[a] + shape[a])
            columns = slice(offsets[b], offsets[b] + shape[b])
            matrix[rows, columns] = -block
            matrix[columns, rows] = -block.T
    return bool(np.linalg.eigvalsh(matrix)[0] > -1e-6)


def _table_starts(table: Array, starts: Any) -> list[list[Array]]:
    shape = table.shape
    if starts is not None:
        given = []
        try:
            listed = [list(start) for start in starts]
        except TypeError:
            raise TypeError("starts must be a sequence of tuples of probability vectors") from None
        for k, start in enumerate(listed):
            factors = [
                np.array(float_array(f"starts[{k}][{a}]", f), dtype=float) for a, f in enumerate(start)
            ]
            if tuple(f.shape for f in factors) != tuple((n,) for n in shape):
                raise ValueError(f"starts[{k}] must have one vector for each axis of p, of lengths {shape}")
            for a, f in enumerate(factors):
                if not ((f >= 0.0).all() and abs(f.sum() - 1.0) <= 1e-6):
                    raise ValueError(f"starts[{k}][{a}] is not a probability vector: {f}")
            given.append(factors)
        if not given:
            raise ValueError("starts is empty")
        return given
    axes = range(table.ndim)
    result = [
        [table.sum(axis=tuple(b for b in axes if b != a)) for a in axes],
        [np.full(n, 1.0 / n) for n in shape],
    ]
    # Cells that no change of one coordinate improves: there mean field has its deterministic optima.
    peak = np.ones(shape, dtype=bool)
    for a in axes:
        peak &= table == table.max(axis=a, keepdims=True)
    cells = np.argwhere(peak)
    for cell in cells[np.argsort(-table[peak], kind="stable")][:32]:
        result.append(
            [
                np.where(np.arange(n) == c, 1.0 - 0.1 * (n > 1), 0.1 / max(n - 1, 1))
                for n, c in zip(shape, cell, strict=True)
            ]
        )
    return result


def _mean_field(p: Any, starts: Any, rtol: float) -> Projection:
    table = _table(p)
    zero = table == 0.0
    if zero.any():
        where = tuple(int(k) for k in np.argwhere(zero)[0])
        raise ValueError(
            f"p[{', '.join(map(str, where))}] is 0: KL(q ‖ p) is infinite for every product q with mass there"
        )
    log_p = np.log(table).ravel()
    shape = np.array(table.shape, np.int64)
    offsets = np.concatenate([[0], np.cumsum(shape)[:-1]]).astype(np.int64)
    index, values = np.empty(shape.size, np.int64), np.empty(int(shape.max()))
    rounds = 10_000
    trace = np.empty(rounds)
    optima: list[Projection] = []
    for start in _table_starts(table, starts):
        q = np.concatenate(start)
        _, used, change = kernels.projections.mean_field.mean_field(
            log_p, shape, offsets, q, 1e-3 * rtol, rounds, index, values, trace
        )
        factors = tuple(frozen(q[o : o + n].copy()) for o, n in zip(offsets, shape, strict=True))
        if any(
            all(np.abs(f - g).max() < 1e-6 for f, g in zip(factors, other.q, strict=True)) for other in optima
        ):
            continue
        if not _is_minimum(log_p, factors, shape, offsets, q):
            continue
        value = information.kl(_outer(factors).ravel(), table.ravel(), mass="normalize")
        estimate = Estimate(value, 1e-15 * (1.0 + value) + change * change, used * table.size, "closed form")
        status = CONVERGED if change <= rtol else STEPS_EXHAUSTED
        optima.append(Projection(factors, estimate, change, status, used * table.size))
    if not optima:
        raise ValueError(
            "mean field found no minimum: every start ended in a saddle point; give other starts"
        )
    optima.sort(key=lambda optimum: optimum.kl)
    return optima[0]._with(optima[1:])
