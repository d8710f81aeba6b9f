"""`pairwise` of the rows of sparse matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common import threads
from ..kernels.discrete.masses import ANY, LARGEST_MASS, UNIT, UNIT_TOLERANCE64
from ..kernels.discrete.registry import NO_THETA, Row
from .rows import compute_pairs, values_of
from .sparse import Rows, open_pair, sparse_values

#: Most pairs of rows that are computed entry by entry at a time, and rows of a block of the result.
_PAIRS, _BLOCK = 1 << 20, 64


def sparse_pairs(
    row: Row,
    name: str,
    theta: tuple[float, float],
    code: int,
    unit: float,
    P: Any,
    Q: Any,
    result: Callable[[tuple[int, int]], NDArray[Any]],
) -> NDArray[Any]:
    """The divergences of all pairs of rows by the kernel `name` of a row of the registry, in `result(shape)`.

    Those that are a difference of nearly equal sums, and the metrics that are no sums over common entries,
    are computed pair by pair from the entries of both.
    """
    p, q = open_pair(P, P if Q is None else Q, ("P", "Q"))
    out = result((p.shape[0], q.shape[0]))

    def exact(metric: str, parameters: tuple[float, float], names: tuple[str, ...]) -> Any:
        compute = partial(compute_pairs, metric, parameters, False)
        return lambda pair: values_of(compute, pair, code, False, "raise", names)

    weights = (p.masses(), q.masses())
    for rows, masses, label in ((p, weights[0], "P"), (q, weights[1], "Q"))[: 1 if q is p else 2]:
        if not _are_distributions(rows, masses, code):  # by the strictest tolerance
            every = np.arange(rows.shape[0])
            sparse_values(exact("total_variation", NO_THETA, (label,)), rows, rows, every, every)

    fast = row.term in kernels.discrete.sparse.ALONE and name == row.name
    step = _BLOCK if fast else max(1, _PAIRS // max(1, q.shape[0]))
    parts = (p.weighted(weights[0], code), q.by_columns(weights[1], code))
    if code != ANY:
        weights = (np.ones(p.shape[0]), np.ones(q.shape[0]))

    def block(i: int) -> None:
        first = i * step
        values = np.full((min(step, p.shape[0] - first), q.shape[0]), math.nan)
        count = values.size
        if fast:
            counts = np.empty(q.shape[0], np.int64)
            count = kernels.discrete.sparse.PAIRS[row.term](*parts, first, *weights, theta, counts, values)
            if row.root:
                np.sqrt(values, out=values)
        if count:
            left, right = np.nonzero(np.isnan(values))
            values[left, right] = sparse_values(exact(name, theta, ("P", "Q")), p, q, left + first, right)
        out[first : first + step] = values if unit == 1.0 else values / unit

    threads.run(block, -(-p.shape[0] // step))
    return out


def _are_distributions(rows: Rows, masses: NDArray[np.float64], code: int) -> bool:
    """Whether all rows are valid by the tolerance of float64; False says nothing."""
    least, most = 0.0 if code == ANY else math.ulp(0.0), LARGEST_MASS
    if code == UNIT:
        least, most = 1.0 - 0.5 * UNIT_TOLERANCE64, 1.0 + 0.5 * UNIT_TOLERANCE64
    return bool((rows.entries >= 0.0).all() and (masses >= least).all() and (masses <= most).all())
