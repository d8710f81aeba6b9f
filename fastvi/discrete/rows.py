"""Arrays of any shape as pairs of rows for the kernels, and the threads that the rows are spread over.

Used by all functions of arrays: `divergence` does the whole work of one, for its row of the registry.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike, NDArray

from .. import kernels
from ..common import threads
from ..common.validation import axis_index, explain, float_array, mass_code, unit_of
from ..kernels.discrete.registry import NO_THETA, ROWS, kernel_of

Result = Any  #: a float for 1-D input, an array otherwise

_FLOAT64 = np.dtype(np.float64)
_FLOAT32 = np.dtype(np.float32)
FIRST_ROW = np.zeros(1, np.intp)  #: the row numbers of a single pair

#: Most pieces of a table: enough for the threads to end together. Each costs 3 µs.
_PIECES = 32


class _Pairing(NamedTuple):
    """Distributions as rows; pair k is row rows_p[k] of `p` and row rows_q[k] of `q`."""

    p: NDArray[Any]
    q: NDArray[Any]
    rows_p: NDArray[np.intp]
    rows_q: NDArray[np.intp]
    shape: tuple[int, ...]
    axis: int
    shape_p: tuple[int, ...]
    shape_q: tuple[int, ...]
    added_p: int  #: leading axes of length one that the argument did not have
    added_q: int


def _as_rows(array: NDArray[Any], axis: int, dtype: Any) -> tuple[NDArray[Any], tuple[int, ...]]:
    """A C-contiguous read-only (rows, n) array, copied only if necessary, and the shape without the axis.

    Read-only, because numba compiles a kernel once more for writable arrays.
    """
    moved = array if axis == -1 else np.moveaxis(array, axis, -1)
    rows = np.ascontiguousarray(moved, dtype=dtype).reshape(-1, moved.shape[-1]).view()
    rows.flags.writeable = False
    return rows, moved.shape[:-1]


def _row_numbers(shape: tuple[int, ...], broadcast: tuple[int, ...]) -> NDArray[np.intp]:
    numbers = np.arange(math.prod(shape), dtype=np.intp)
    if shape == broadcast:
        return numbers
    return np.ascontiguousarray(np.broadcast_to(numbers.reshape(shape), broadcast)).reshape(-1)


def pair_up(p: ArrayLike, q: ArrayLike, axis: int) -> _Pairing:
    """Two arguments as pairs of rows along `axis`, broadcast."""
    a, b = float_array("p", p), float_array("q", q)
    shapes = f"shapes {a.shape} of p and {b.shape} of q"
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"p and q need at least one dimension: {shapes}")
    ndim = max(a.ndim, b.ndim)
    index = axis_index(axis, ndim, shapes)
    added_a, added_b = ndim - a.ndim, ndim - b.ndim
    a = a.reshape((1,) * added_a + a.shape)
    b = b.reshape((1,) * added_b + b.shape)
    if a.shape[index] != b.shape[index]:
        raise ValueError(f"p and q must have the same length along axis {axis}: {shapes}")
    if a.shape[index] == 0:
        raise ValueError(f"p and q are empty along axis {axis}: {shapes}")
    dtype = np.result_type(a, b)
    rows_p, lead_p = _as_rows(a, index, dtype)
    rows_q, lead_q = (rows_p, lead_p) if q is p else _as_rows(b, index, dtype)
    try:
        lead = np.broadcast_shapes(lead_p, lead_q)
    except ValueError:
        raise ValueError(f"p and q do not broadcast along the axes other than {axis}: {shapes}") from None
    numbers_p = _row_numbers(lead_p, lead)
    numbers_q = numbers_p if lead_p == lead_q else _row_numbers(lead_q, lead)
    return _Pairing(rows_p, rows_q, numbers_p, numbers_q, lead, index, lead_p, lead_q, added_a, added_b)


def _position(row: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(row, shape)) if shape else ()


def raise_for_pair(pair: _Pairing, k: int, code: int, log: bool, names: tuple[str, ...] = ("p", "q")) -> None:
    """Raise the error for pair `k`, which a kernel has refused."""
    i, j = int(pair.rows_p[k]), int(pair.rows_q[k])
    rows = [
        (names[0], pair.p[i], _position(i, pair.shape_p)[pair.added_p :]),
        (names[-1], pair.q[j], _position(j, pair.shape_q)[pair.added_q :]),
    ]
    explain(rows[: len(names)], pair.axis, code, log)


def blocks(rows: int, width: int) -> tuple[int, int]:
    """(Rows in a piece of work, number of pieces), which depend on the shape alone."""
    size = max(1, threads.WORTHWHILE // 2 // width, -(-rows // _PIECES))
    return size, -(-rows // size)


def _in_chunks(kernel: Any) -> bool:
    """Whether `_long` can spread an array over threads."""
    return kernel.partial is not None and numba.get_num_threads() > 1


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


def _compute(
    name: str, pair: _Pairing, theta: tuple[float, float], code: int, log: bool
) -> NDArray[np.float64]:
    out = np.empty(pair.rows_p.size)
    width = pair.p.shape[1]
    kernel = kernels.discrete.divergences.KERNELS[name]
    if not log and width >= threads.WORTHWHILE and _in_chunks(kernel):
        for k in range(out.size):
            out[k] = _long(kernel, pair.p[pair.rows_p[k]], pair.q[pair.rows_q[k]], theta, code)
        return out
    loop = (kernels.discrete.all_pairs.LOG_ROWS if log else kernels.discrete.all_pairs.ROWS)[name]
    size, pieces = blocks(out.size, width)

    def block(i: int) -> None:
        rows = slice(i * size, (i + 1) * size)
        loop(pair.p, pair.q, pair.rows_p[rows], pair.rows_q[rows], theta, code, out[rows])

    threads.run(block, pieces)
    return out


def shaped(values: NDArray[np.float64], pair: _Pairing, keepdims: bool) -> Result:
    """One value for each pair, in the shape of the arguments without the axis."""
    result = values.reshape(pair.shape)
    if keepdims:
        return np.expand_dims(result, len(pair.shape) + 1 + pair.axis)
    return result if pair.shape else float(result)


def is_plain(p: Any, q: Any) -> bool:
    """Whether p and q are 1-D arrays that the kernels take as they are.

    Shapes and axes of other arrays take 12 µs to sort out. This check takes 1 µs.
    """
    return (
        type(p) is ndarray
        and type(q) is ndarray
        and p.ndim == 1
        and p.shape == q.shape
        and p.size > 0
        and p.dtype is q.dtype
        and (p.dtype is _FLOAT64 or p.dtype is _FLOAT32)
        and p.flags.carray
        and q.flags.carray
    )


def _quick(name: str, theta: tuple[float, float], p: Any, q: Any, code: int) -> float:
    """The result for two plain 1-D arrays, or NaN for anything else."""
    if is_plain(p, q):
        kernel = kernels.discrete.divergences.KERNELS[name]
        if p.size < threads.WORTHWHILE or not _in_chunks(kernel):
            return kernel.whole(p, q, theta, code)  # type: ignore[no-any-return]
        p, q = p.view(), q.view()
        p.flags.writeable = q.flags.writeable = False
        return _long(kernel, p, q, theta, code)
    return math.nan


def divergence(
    name: str,
    theta: tuple[float, float],
    p: ArrayLike,
    q: ArrayLike,
    axis: int,
    base: float | None,
    mass: str,
    log: bool,
    keepdims: bool,
) -> Result:
    """The divergence of a row, for valid parameters `theta`."""
    row = ROWS[name]
    code = mass_code(row, mass)
    unit = 1.0 if base is None else unit_of(row, base)
    # Most rows have kernels of their own. Calling `kernel_of` for them costs 5 % of a call with 16 entries.
    kernel = name if theta is NO_THETA and not row.kernel else kernel_of(row, theta)
    if not log and not keepdims and axis == -1:
        value = _quick(kernel, theta, p, q, code)
        if value == value:
            return value / unit
    pair = pair_up(p, q, axis)
    values = _compute(kernel, pair, theta, code, bool(log))
    refused = np.isnan(values)
    if refused.any():
        raise_for_pair(pair, int(np.argmax(refused)), code, bool(log), ("p", "q")[: row.arrays])
    if unit != 1.0:
        values /= unit
    return shaped(values, pair, keepdims)
