"""The whole work of a divergence of arrays of any shape, for its row of the registry: `divergence`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import kernels
from ..common import scratch, threads
from ..common.validation import mass_code, unit_of
from ..kernels.discrete.masses import NORMALIZE, UNIT
from ..kernels.discrete.registry import NO_THETA, ROWS, kernel_of
from .labelled import unlabelled
from .missing import leave_out, nan_policy_of, near_one, raise_for_refused
from .pairing import Pairing, pair_up, shaped
from .quick import Tables, is_plain, of_lists, plain_pair, plain_tables, turned, words_of
from .sparse import is_sparse, open_pair, sparse_values

Result = Any  #: a float for 1-D input, an array otherwise
Axis = int | tuple[int, ...] | None

FIRST_ROW = np.zeros(1, np.intp)  #: the row numbers of a single pair

#: Most pieces of a table: enough for the threads to end together. Each costs 3 µs.
_PIECES = 32


def blocks(rows: int, width: int) -> tuple[int, int]:
    """(Rows in a piece of work, number of pieces), which depend on the shape alone."""
    size = max(1, threads.WORTHWHILE // 2 // width, -(-rows // _PIECES))
    return size, -(-rows // size)


@functools.cache
def _kernels_of(name: str) -> Any:
    """The kernels of a divergence: a look-up in their modules takes a tenth of a call with 16 entries."""
    return kernels.discrete.divergences.KERNELS[name]


@functools.cache
def _loop_of(name: str, log: bool) -> Any:
    """The loop over pairs of rows of a divergence."""
    return (kernels.discrete.all_pairs.LOG_ROWS if log else kernels.discrete.all_pairs.ROWS)[name]


def _in_chunks(kernel: Any) -> bool:
    """Whether `_long` can spread an array over threads."""
    return kernel.partial is not None and threads.allowed() > 1


def _long(kernel: Any, p: NDArray[Any], q: NDArray[Any], theta: tuple[float, float], code: int) -> float:
    """One divergence of two long read-only arrays, its chunks spread over the threads."""
    chunks = -(-p.size // kernels.discrete.normalized.CHUNK)
    per_piece = threads.WORTHWHILE // kernels.discrete.normalized.CHUNK
    parts = np.empty((chunks, len(kernels.discrete.chunks.Sums._fields)))

    def piece(i: int) -> None:
        first = i * per_piece
        kernel.partial(p, q, theta, first, min(chunks, first + per_piece), parts)

    threads.run(piece, -(-chunks // per_piece))
    return kernel.finish(p, q, parts, theta, code)  # type: ignore[no-any-return]


def compute_pairs(
    name: str, theta: tuple[float, float], log: bool, pair: Pairing, code: int
) -> NDArray[np.float64]:
    """The results of the kernel `name` for all pairs, NaN for those that it refuses."""
    out = np.empty(pair.rows_p.size)
    width = pair.p.shape[1]
    kernel = _kernels_of(name)
    if not log and width >= threads.WORTHWHILE and _in_chunks(kernel):
        for k in range(out.size):
            out[k] = _long(kernel, pair.p[pair.rows_p[k]], pair.q[pair.rows_q[k]], theta, code)
        return out
    loop = _loop_of(name, log)
    size, pieces = blocks(out.size, width)

    def block(i: int) -> None:
        rows = slice(i * size, (i + 1) * size)
        loop(pair.p, pair.q, pair.rows_p[rows], pair.rows_q[rows], theta, code, out[rows])

    threads.run(block, pieces)
    return out


def values_of(
    compute: Callable[[Pairing, int], NDArray[np.float64]],
    pair: Pairing,
    code: int,
    log: bool,
    policy: str,
    names: tuple[str, ...],
) -> NDArray[np.float64]:
    """What `compute` gives for each pair and a code of `mass`, by a kernel that gives NaN for invalid input.

    Raises for an invalid pair that the NaN policy does not allow.
    """
    pair, nothing = leave_out(pair, policy, log)
    values = compute(pair, code)
    if nothing is not None:
        values[nothing] = math.nan
    refused = np.isnan(values)
    if not refused.any():
        return values
    if nothing is not None:
        refused &= ~nothing
    if code == UNIT:
        # The kernels know the tolerance of the type that they compute with, not that of the entries given.
        near = refused & near_one(pair, log)
        if near.any():
            some = pair._replace(rows_p=pair.rows_p[near], rows_q=pair.rows_q[near])
            values[near] = compute(some, NORMALIZE)
            refused &= np.isnan(values)
    raise_for_refused(pair, refused, policy, code, log, names)
    return values


def _buffers(size: int) -> NDArray[np.float64]:
    return np.empty((2, size))


def _quick(name: str, theta: tuple[float, float], p: Any, q: Any, code: int, log: bool) -> float:
    """The result for two 1-D arguments, or NaN where they are invalid or not of a common form."""
    kernel = _kernels_of(name)
    if not is_plain(p, q):
        p, q = turned(p, q)
        words = None if log or kernel.uncopied is None else words_of(p, q)
        # Longer copies are spread over threads, and the bits are not to depend on their number.
        if words is not None and (p.size < threads.WORTHWHILE or kernel.partial is None):
            buffers = scratch.space(_buffers, kernels.discrete.normalized.CHUNK)
            value = kernel.uncopied(*words, buffers, theta, code)
            if value == value:
                return value  # type: ignore[no-any-return]
        pair = plain_pair(p, q)
        if pair is None:
            return math.nan
        p, q = pair
    if log:
        return kernel.log(p, q, theta, code)  # type: ignore[no-any-return]
    if p.size < threads.WORTHWHILE or not _in_chunks(kernel):
        return kernel.whole(p, q, theta, code)  # type: ignore[no-any-return]
    p, q = p.view(), q.view()
    p.flags.writeable = q.flags.writeable = False
    return _long(kernel, p, q, theta, code)


def quick_values(
    name: str, theta: tuple[float, float], tables: Tables, code: int, log: bool
) -> NDArray[np.float64] | None:
    """The results for some pairs of rows, or None where one is invalid."""
    values = np.empty(tables.rows_p.size)
    return values if _loop_of(name, log)(*tables[:4], theta, code, values) else None


def divergence(
    name: str,
    theta: tuple[float, float],
    p: ArrayLike,
    q: ArrayLike,
    axis: Axis,
    dim: Any,
    base: float | None,
    mass: str,
    log: bool,
    keepdims: bool,
    nan_policy: str,
) -> Result:
    """The divergence of a row, for valid parameters `theta`."""
    row = ROWS[name]
    code = mass_code(row, mass)
    unit = 1.0 if base is None else unit_of(row, base)
    # Most rows have kernels of their own. Calling `kernel_of` for them costs 5 % of a call with 16 entries.
    kernel = name if theta is NO_THETA and not row.kernel else kernel_of(row, theta)
    if nan_policy != "raise":
        nan_policy_of(nan_policy)
    if dim is None and not (type(p) is np.ndarray is type(q)):
        p, q = of_lists(p, q)
    if type(p) is np.ndarray is type(q) and max(p.ndim, q.ndim) > 1 and dim is None:
        tables = plain_tables(p, q, axis, threads.WORTHWHILE)
        values = None if tables is None else quick_values(kernel, theta, tables, code, bool(log))
        if tables is not None and values is not None:
            values = values.reshape(tables.kept if keepdims else tables.shape)
            return values if unit == 1.0 else values / unit
    elif axis == -1 and dim is None:
        value = _quick(kernel, theta, p, q, code, log)
        if value == value:
            return np.array([value / unit]) if keepdims else value / unit
    of_pairs = functools.partial(compute_pairs, kernel, theta, bool(log))
    return _of_any_form(
        of_pairs, ("p", "q")[: row.arrays], unit, p, q, axis, dim, code, bool(log), keepdims, nan_policy
    )


def _of_any_form(
    of_pairs: Callable[[Pairing, int], NDArray[np.float64]],
    names: tuple[str, ...],
    unit: float,
    p: ArrayLike,
    q: ArrayLike,
    axis: Axis,
    dim: Any,
    code: int,
    log: bool,
    keepdims: bool,
    nan_policy: str,
) -> Result:
    """As `divergence`, for arguments of any form, with what computes it for pairs of rows."""

    def compute(p: Any, q: Any, axis: Axis, keepdims: bool) -> Result:
        if is_sparse(p) or is_sparse(q):
            return of_sparse(p, q, axis, keepdims)
        pair = pair_up(p, q, axis, names)
        values = values_of(of_pairs, pair, code, log, nan_policy, names)
        if unit != 1.0:
            values /= unit
        return shaped(values, pair, keepdims)

    def of_sparse(p: Any, q: Any, axis: Axis, keepdims: bool) -> Result:
        if log:
            raise ValueError(
                "log=True has no meaning for sparse matrices, whose zeros would be probabilities of 1"
            )
        a, b = open_pair(p, q, names, axis)
        count = max(a.shape[0], b.shape[0]) if min(a.shape[0], b.shape[0]) else 0
        if {a.shape[0], b.shape[0]} - {1, count}:
            raise ValueError(
                f"p and q have {a.shape[0]} and {b.shape[0]} distributions, which do not broadcast"
            )
        numbers = (np.arange(count) % max(1, rows.shape[0]) for rows in (a, b))
        found = sparse_values(
            lambda pair: values_of(of_pairs, pair, code, False, nan_policy, names), a, b, *numbers
        )
        found /= unit
        return np.expand_dims(found, -1 if axis in (-1, 1) else 0) if keepdims else found

    return unlabelled(compute, p, q, axis, dim, keepdims)
