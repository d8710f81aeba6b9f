"""One-dimensional arguments of the common forms, as the arrays that kernels take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from ..common import scratch
from ..common.validation import singles_of

_FLOAT64 = np.dtype(np.float64)
_FLOAT32 = np.dtype(np.float32)
_FLOAT16 = np.dtype(np.float16)

#: Most entries of a list that is made an array here, and of an array that is copied to a new one.
_SHORT = 4096

#: Most entries of an array that is copied to scratch space: the pages of a new one take twice the time of the
#: copy to be made.
_LONG = 1 << 20

#: The types of the first entry of a list that is taken for a list of numbers.
_NUMBERS = frozenset({float, int})


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


def _plain(value: Any, slot: int) -> NDArray[Any] | None:
    """`value` as a 1-D array that the kernels take; None for what is longer or of another form."""
    kind = type(value)
    if kind is list or kind is tuple:
        if not 0 < len(value) <= _SHORT or type(value[0]) not in _NUMBERS:
            return None
        try:
            value = np.array(value)
        except ValueError:
            return None
    elif kind is not ndarray:
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


def plain_pair(p: Any, q: Any) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """p and q as plain arrays of one length and type; None where `pairing` has to sort them out.

    Two reversed arrays are turned round, which costs less than to copy them.
    """
    if type(p) is ndarray is type(q) and p.strides == q.strides == (-p.itemsize,):
        p, q = p[::-1], q[::-1]
    a = _plain(p, 0)
    if a is None:
        return None
    b = a if q is p else _plain(q, 1)
    if b is None or a.size != b.size:
        return None
    if a.dtype is not b.dtype:
        a, b = _copied(a, 0), _copied(b, 1)
    return a, b
