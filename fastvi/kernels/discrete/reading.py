"""Arrays of other forms in the loops of one or two passes: int64, and what has strides.

Copies of two arrays of 100,000 entries do not stay in the second-level cache: those of counts take 1.1 ns an
entry. Contiguous int64 arrays are read as they are, for the loops convert each entry. Arrays with strides are
copied piece by piece, to a buffer that stays in the first-level cache. Used by `divergences`, `renyi` and
`entropies`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from ..borrowing import borrow
from ..compiler import inlined, kernel, overloaded


class Entries(NamedTuple):
    """An array with strides. `size` and `itemsize` are those of an array of float64."""

    words: Any  #: int64 entries, or the bits of floats as int64
    integers: bool
    size: int
    itemsize: int
    buffer: Any  #: room for the largest piece


@inlined
def _entries(words, integers, buffer):
    return Entries(borrow(words), integers, words.size, 8, borrow(buffer))


def readable(words, integers, buffer):
    """An int64 array as it is, if it is contiguous; else `Entries`."""
    return words if words.flags.c_contiguous else _entries(words, integers, buffer)


@overloaded(readable)
def _readable_by_layout(words, integers, buffer):
    if words.layout == "C":
        return lambda words, integers, buffer: borrow(words)
    return lambda words, integers, buffer: _entries(words, integers, buffer)


@kernel
def _copied(p, low, size):
    words = p.words[low : low + size]
    out = p.buffer[: words.size]
    if p.integers:
        for i in range(out.size):
            out[i] = np.float64(words[i])
    else:
        for i in range(out.size):
            out[i] = np.int64(words[i]).view(np.float64)
    return out


def piece(p, low, size):
    """So many entries of an array or of `Entries`, or the last ones. The next piece of these replaces it."""
    return _copied(p, low, size) if isinstance(p, Entries) else p[low : low + size]


@overloaded(piece)
def _piece_by_type(p, low, size):
    if isinstance(p, types.Array):
        return lambda p, low, size: p[low : low + size]
    return lambda p, low, size: _copied(p, low, size)


def all_of(p, size):
    """`piece` of an array or of `Entries` that are at most so many: all of them."""
    return piece(p, 0, size)


@overloaded(all_of, jit_options={"forceinline": True})
def _all_by_type(p, size):
    # The bounds of a piece and its reference, which is taken and dropped by two calls, are 4 ns of 80 that a
    # row of 64 takes.
    if isinstance(p, types.Array):
        return lambda p, size: borrow(p)
    return lambda p, size: _copied(p, 0, size)
