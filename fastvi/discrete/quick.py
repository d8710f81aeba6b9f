"""Arguments of the common forms, as the arrays that kernels take: 1-D ones, and tables of numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from ..common import scratch
from ..common.validation import singles_of

_FLOAT64 = np.dtype(np.float64)
_FLOAT32 = np.dtype(np.float32)
_FLOAT16 = np.dtype(np.float16)
_INT64 = np.dtype(np.int64)

#: Most entries of a list that is made an array here, and of an array that is copied to a new one.
_SHORT = 4096

#: Most entries of an array that is copied to scratch space: the pages of a new one take twice the time of the
#: copy to be made.
_LONG = 1 << 20

#: Least entries of arrays that kernels read as they are: a shorter copy costs as much.
_UNCOPIED = 4096

#: The types of the first entry of a list that is taken for a list of numbers.
_NUMBERS = frozenset({float, int, np.float64})


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


class Tables(NamedTuple):
    """Read-only rows and their numbers, for the loops over pairs of rows."""

    p: NDArray[Any]
    q: NDArray[Any]
    rows_p: NDArray[np.intp]
    rows_q: NDArray[np.intp]
    shape: tuple[int, ...]  #: of the results
    kept: tuple[int, ...]  #: the same with the axis of the distributions


def _rows(array: NDArray[Any], width: int) -> NDArray[Any]:
    rows = array.view() if array.ndim == 2 else array.reshape(-1, width)
    rows.setflags(write=False)
    return rows


def _is_table(array: NDArray[Any]) -> bool:
    flags = array.flags
    return (array.dtype is _FLOAT64 or array.dtype is _FLOAT32) and flags.c_contiguous and flags.aligned


def _table(array: NDArray[Any]) -> NDArray[Any] | None:
    """The array as the kernels take it, copied if need be; None for types that need more care."""
    if _is_table(array):
        return array
    if array.dtype is _FLOAT64 or array.dtype is _FLOAT32:
        return array.copy()
    return array.astype(_FLOAT64, order="C") if array.dtype.kind in "iub" else None


def _both(p: NDArray[Any], q: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Two arrays as the kernels take them, in one type."""
    a = _table(p)
    b = a if q is p else _table(q)
    if a is None or b is None:
        return None
    return (a, b) if a.dtype is b.dtype else (a.astype(_FLOAT64), b.astype(_FLOAT64))


def plain_tables(p: Any, q: Any, axis: Any, most: int) -> Tables | None:
    """Arrays of numbers with fewer entries than `most`, of one shape or with one of them 1-D.

    None for others, and for axes but the last one and that of columns, which take 30 µs to sort out. This
    takes 3.
    """
    larger = p if p.ndim >= q.ndim else q
    if not (type(axis) is int and 0 < larger.size < most):
        return None
    columns = p.ndim == q.ndim == 2 and axis in (0, -2)
    if columns:
        p, q = p.T, (p.T if q is p else q.T)
        larger = p
    elif not (axis == -1 or axis == larger.ndim - 1):
        return None
    shape = larger.shape
    width = shape[-1]
    if not (p.shape == q.shape or p.shape == (width,) or q.shape == (width,)):
        return None
    both = _both(p, q)
    if both is None:
        return None
    rows_p = rows_q = np.arange(larger.size // width)
    if p.shape != q.shape:
        single = np.zeros(rows_p.size, np.intp)
        rows_p, rows_q = (single, rows_q) if larger is q else (rows_p, single)
    shape = shape[:-1]
    kept = (1, *shape) if columns else (*shape, 1)
    return Tables(_rows(both[0], width), _rows(both[1], width), rows_p, rows_q, shape, kept)


def plain_product(p: Any, q: Any, half: bool, most: int) -> Tables | None:
    """All pairs of rows of two tables as `plain_tables`, or with `half` those on one side of the diagonal.

    None where the entries of all pairs, and 16 for each, are more than `most`.
    """
    if not (type(p) is ndarray and type(q) is ndarray and p.ndim == q.ndim == 2):
        return None
    (n, width), (m, other) = p.shape, q.shape
    if not (width == other > 0 and 0 < n * m * (width + 16) <= most):
        return None
    both = _both(p, q)
    if both is None:
        return None
    if half:
        # `np.triu_indices` takes 10 µs for ten rows, this 2; `np.repeat` and `np.tile` 3.4, `np.divmod` 1.
        # In one array, since `nonzero` returns columns of a table: kernels take no strided ones.
        rows = np.arange(n)
        rows_p, rows_q = np.array((rows[:, np.newaxis] <= rows).nonzero())
    else:
        rows_p, rows_q = np.divmod(np.arange(n * m), m)
    return Tables(_rows(both[0], width), _rows(both[1], width), rows_p, rows_q, (n, m), (n, m))


def _room(slot: int, bits: int) -> NDArray[np.float64]:
    return np.empty(1 << bits)


def _space(slot: int, size: int) -> NDArray[np.float64]:
    """Scratch space for so many numbers."""
    space: NDArray[np.float64] = scratch.space(_room, slot, (size - 1).bit_length())
    return space[:size]


def _copied(array: NDArray[Any], slot: int) -> NDArray[np.float64]:
    """The array in float64; of a long one, in scratch space with this number."""
    if array.size <= _SHORT:
        return array.astype(_FLOAT64)
    copy = _space(slot, array.size)
    copy[...] = array
    return copy


def _of_list(value: Any) -> Any:
    """A short list of numbers, or of lists of numbers, as an array; anything else as it is."""
    kind = type(value)
    if not ((kind is list or kind is tuple) and value):
        return value
    first, size = value[0], len(value)
    if (type(first) is list or type(first) is tuple) and first:
        first, size = first[0], size * len(first)
    if size > _SHORT or type(first) not in _NUMBERS:
        return value
    try:
        array = np.array(value)
    except ValueError:
        return value
    return array if array.dtype is _FLOAT64 or array.dtype.kind in "iub" else value


def of_lists(p: Any, q: Any) -> tuple[Any, Any]:
    """Both arguments, as `_of_list` has them."""
    a = _of_list(p)
    return a, (a if q is p else _of_list(q))


def _plain(value: Any, slot: int) -> NDArray[Any] | None:
    """`value` as a 1-D array that the kernels take; None for what is longer or of another form."""
    if type(value) is not ndarray:
        return None
    array: NDArray[Any] = value
    if array.ndim != 1 or not 0 < array.size <= _LONG:
        return None
    dtype = array.dtype
    if dtype is _FLOAT64:
        return array if array.flags.carray else _copied(array, slot)
    if dtype is _FLOAT32:
        return array if array.flags.carray else array.copy()
    if dtype is _FLOAT16:
        return singles_of(array, _space(slot, array.size).view(_FLOAT32)[: array.size])
    return _copied(array, slot) if dtype.kind in "iub" else None


def words_of(p: Any, q: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[bool, bool]] | None:
    """Two long arrays of int64 or with strides, as words, and whether each has integers; None for others."""
    if not (type(p) is ndarray is type(q) and p.ndim == q.ndim == 1 and p.size == q.size >= _UNCOPIED):
        return None
    whole_p, whole_q = p.dtype is _INT64, q.dtype is _INT64
    if not ((whole_p or p.dtype is _FLOAT64) and (whole_q or q.dtype is _FLOAT64)):
        return None
    a, b = p.flags, q.flags
    # Kernels take two contiguous arrays of integers, or two with strides.
    contiguous = a.c_contiguous
    if contiguous != b.c_contiguous or not (a.behaved and b.behaved):
        return None
    if contiguous and not (whole_p and whole_q):
        return None
    words = p.view(_INT64)
    return words, words if q is p else q.view(_INT64), (whole_p, whole_q)


def turned(p: Any, q: Any) -> tuple[Any, Any]:
    """Two reversed arrays turned round, which costs less than to copy them; others as they are."""
    if type(p) is ndarray is type(q) and p.strides == q.strides == (-p.itemsize,):
        return p[::-1], q[::-1]
    return p, q


def plain_pair(p: Any, q: Any) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """p and q as plain arrays of one length and type; None where `pairing` has to sort them out."""
    a = _plain(p, 0)
    if a is None:
        return None
    b = a if q is p else _plain(q, 1)
    if b is None or a.size != b.size:
        return None
    if a.dtype is not b.dtype:
        a, b = _copied(a, 0), _copied(b, 1)
    return a, b
