"""Projections of a table of joint probabilities onto products: its marginals, and mean-field optima."""

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
from ..kernels.discrete.masses import UNIT_TOLERANCE64
from ..kernels.statuses import CONVERGED, STEPS_EXHAUSTED
from .result import Projection

#: Rounding error of a divergence, relative to 1 + value.
_ROUNDING = 1e-15

#: Peaks of a table that are taken as starts: the highest; and the mass that such a start has off its peak.
_PEAKS, _OFF_PEAK = 32, 0.1

#: Most rounds of coordinate descent, and its tolerance in units of that of the result.
_ROUNDS, _DESCENT_SHARE = 10_000, 1e-3

#: Optima are the same where no probability differs by more.
_SAME = 1e-6

#: A stationary point is a minimum where the least eigenvalue of the second variation is above this: that of a
#: flat minimum is 0, with rounding errors.
_LEAST_EIGENVALUE = -1e-6


def _table(p: Any) -> NDArray[np.float64]:
    """A table of joint probabilities, normalised."""
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
    if abs(total - 1.0) > UNIT_TOLERANCE64:
        raise ValueError(f"p sums to {total!r}: a joint distribution sums to 1 within {UNIT_TOLERANCE64:.0e}")
    return table / total


def _outer(factors: Sequence[Array]) -> Array:
    """The table of a product of distributions over the axes."""
    result = np.ones(())
    for factor in factors:
        result = np.multiply.outer(result, factor)
    return np.asarray(result)


def _marginals(table: Array) -> list[Array]:
    axes = range(table.ndim)
    return [table.sum(axis=tuple(b for b in axes if b != a)) for a in axes]


def product_of_marginals(p: Any) -> Projection:
    """The M-projection of a table onto products."""
    table = _table(p)
    factors = tuple(map(frozen, _marginals(table)))
    value = information.kl(table.ravel(), _outer(factors).ravel(), mass="normalize")
    estimate = Estimate(value, _ROUNDING * (1.0 + value), table.size, "closed form")
    return Projection(factors, estimate)


def _is_minimum(table: Array, factors: Sequence[Array], shape: Any, offsets: Any, q: Array) -> bool:
    """Whether the second variation of KL(q ‖ p) is positive on all changes that keep the sum of each factor.

    In the coordinates dq_a / sqrt(q_a) its diagonal blocks are I, the others are
    -sqrt(q_a q_b) E_q[log p | a, b]; the directions sqrt(q_a), which change a sum, are projected out.
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
    return bool(np.linalg.eigvalsh(matrix)[0] > _LEAST_EIGENVALUE)


def _given_starts(starts: Any, shape: tuple[int, ...]) -> list[list[Array]]:
    """The user's starts, each a list of probability vectors."""
    given = []
    try:
        listed = [list(start) for start in starts]
    except TypeError:
        raise TypeError("starts must be a sequence of tuples of probability vectors") from None
    for k, start in enumerate(listed):
        factors = [np.array(float_array(f"starts[{k}][{a}]", f), dtype=float) for a, f in enumerate(start)]
        if tuple(f.shape for f in factors) != tuple((n,) for n in shape):
            raise ValueError(f"starts[{k}] must have one vector for each axis of p, of lengths {shape}")
        for a, f in enumerate(factors):
            if not ((f >= 0.0).all() and abs(f.sum() - 1.0) <= UNIT_TOLERANCE64):
                raise ValueError(f"starts[{k}][{a}] is not a probability vector: {f}")
        given.append(factors)
    if not given:
        raise ValueError("starts is empty")
    return given


def _default_starts(table: Array) -> list[list[Array]]:
    """The marginals, the uniform distribution, and distributions near the peaks of the table."""
    shape = table.shape
    result = [_marginals(table), [np.full(n, 1.0 / n) for n in shape]]
    # Cells that no change of one coordinate improves: near them are the optima that are almost deterministic.
    peak = np.ones(shape, dtype=bool)
    for a in range(table.ndim):
        peak &= table == table.max(axis=a, keepdims=True)
    cells = np.argwhere(peak)
    for cell in cells[np.argsort(-table[peak], kind="stable")][:_PEAKS]:
        result.append(
            [
                np.where(np.arange(n) == c, 1.0 - _OFF_PEAK * (n > 1), _OFF_PEAK / max(n - 1, 1))
                for n, c in zip(shape, cell, strict=True)
            ]
        )
    return result


def mean_field_optima(p: Any, starts: Any, rtol: float) -> Projection:
    """The I-projection of a table onto products, with all minima that coordinate descent finds."""
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
    trace = np.empty(_ROUNDS)
    optima: list[Projection] = []
    for start in _default_starts(table) if starts is None else _given_starts(starts, table.shape):
        q = np.concatenate(start)
        _, used, change = kernels.projections.mean_field.mean_field(
            log_p, shape, offsets, q, _DESCENT_SHARE * rtol, _ROUNDS, index, values, trace
        )
        factors = tuple(frozen(q[o : o + n].copy()) for o, n in zip(offsets, shape, strict=True))
        if any(
            all(np.abs(f - g).max() < _SAME for f, g in zip(factors, other.q, strict=True))
            for other in optima
        ):
            continue
        if not _is_minimum(log_p, factors, shape, offsets, q):
            continue
        value = information.kl(_outer(factors).ravel(), table.ravel(), mass="normalize")
        estimate = Estimate(
            value, _ROUNDING * (1.0 + value) + change * change, used * table.size, "closed form"
        )
        status = CONVERGED if change <= rtol else STEPS_EXHAUSTED
        optima.append(Projection(factors, estimate, change, status, used * table.size))
    if not optima:
        raise ValueError(
            "mean field found no minimum: every start ended in a saddle point; give other starts"
        )
    optima.sort(key=lambda optimum: optimum.kl)
    return optima[0]._with(optima[1:])
