"""Pieces of arrays in other forms, in compiled kernels and in plain Python."""

import numpy as np
import pytest

from fastvi.kernels.compiler import kernel
from fastvi.kernels.discrete.reading import piece, readable


@kernel
def pieces(words, integers, buffer, size, out):
    """An array, piece by piece."""
    x = readable(words, integers, buffer)
    for low in range(0, x.size, size):
        u = piece(x, low, size)
        for i in range(u.size):
            out[low + i] = np.float64(u[i])


FLOATS = np.array([0.5, -0.0, np.inf, np.nan, 5e-324, 1.0, 0.25])
INTEGERS = np.array([0, 1, -1, 2**53 + 1, np.iinfo(np.int64).max, np.iinfo(np.int64).min, 7])


@pytest.mark.parametrize("step", [1, 3, -1, -2])
@pytest.mark.parametrize("size", [1, 3, 7, 8])
@pytest.mark.parametrize("array", [FLOATS, INTEGERS], ids=["floats", "integers"])
def test_pieces_are_the_entries(array, step, size):
    integers = array is INTEGERS
    if step == 1 and not integers:
        return  # those are no other form
    entries = np.zeros(abs(step) * array.size, array.dtype)[::step]
    entries[...] = array
    out = np.empty(7)
    pieces(entries.view(np.int64), integers, np.empty(size), size, out)
    assert out.tobytes() == array.astype(np.float64).tobytes()
