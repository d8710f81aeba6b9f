"""Arrays of other forms, read piece by piece: float64 with strides, and int64.

A piece is copied to a buffer that stays in the first-level cache. Copies of two arrays of 100,000 entries do
not stay in the second: those of counts take 1.1 ns an entry, by pieces 0.2. The loops of one or two passes
over an array take `Entries` in its place. Used by `divergences`, `renyi` and `entropies`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from ..borrowing import borrow
from ..compiler import inlined, kernel, overloaded


class Entries(NamedTuple):
    """An array of another form. `size` and `itemsize` are those of an array of float64."""

    words: Any  #: int64 entries, or the bits of floats as int64
    integers: bool
    size: int
    itemsize: int
    buffer: Any  #: room for the largest piece


@inlined
def pair_of_entries(p, q, integers, buffers):
    """Two arrays of words as `Entries`, each with its own buffer."""
    a, b = borrow(p), borrow(q)
    return (
        Entries(a, integers[0], a.size, 8, borrow(buffers[0])),
        Entries(b, integers[1], b.size, 8, borrow(buffers[1])),
    )


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
