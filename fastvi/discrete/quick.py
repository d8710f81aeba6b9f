"""Short one-dimensional arguments of the common forms, as the arrays that kernels take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

_FLOAT64 = np.dtype(np.float64)
_FLOAT32 = np.dtype(np.float32)

#: Most entries of an argument that is copied here; `pairing` takes 12 µs to avoid the copy.
_SHORT = 4096

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


def _plain(value: Any) -> NDArray[Any] | None:
    """`value` as a 1-D array that the kernels take; None for what is long or of another form."""
    kind = type(value)
    if kind is list or kind is tuple:
        if not 0 < len(value) <= _SHORT or type(value[0]) not in _NUMBERS:
            return None
        try:
            array = np.array(value)
        except ValueError:
            return None
    elif kind is ndarray:
        array = value
    else:
        return None
    if array.ndim != 1 or not 0 < array.size <= _SHORT:
        return None
    dtype = array.dtype
    if dtype is _FLOAT64 or dtype is _FLOAT32:
        return array if array.flags.carray else array.copy()
    return array.astype(_FLOAT64) if dtype.kind in "iub" else None


def plain_pair(p: Any, q: Any) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """p and q as plain arrays of one length and type; None where `pairing` has to sort them out."""
    a = _plain(p)
    if a is None:
        return None
    b = a if q is p else _plain(q)
    if b is None or a.size != b.size:
        return None
    if a.dtype is not b.dtype:
        a, b = a.astype(_FLOAT64), b.astype(_FLOAT64)
    return a, b
