"""Pieces of arrays in other forms, in compiled kernels and in plain Python."""

import numpy as np
import pytest

from fastvi.kernels.compiler import kernel
from fastvi.kernels.discrete.reading import pair_of_entries, piece


@kernel
def pieces(p, q, integers, buffers, size, out):
    """Both arrays, piece by piece."""
    x, y = pair_of_entries(p, q, integers, buffers)
    for low in range(0, x.size, size):
        u, v = piece(x, low, size), piece(y, low, size)
        for i in range(u.size):
            out[0, low + i], out[1, low + i] = u[i], v[i]


FLOATS = np.array([0.5, -0.0, np.inf, np.nan, 5e-324, 1.0, 0.25])
INTEGERS = np.array([0, 1, -1, 2**53 + 1, np.iinfo(np.int64).max, np.iinfo(np.int64).min, 7])


@pytest.mark.parametrize("step", [1, 3, -1, -2])
@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_pieces_are_the_entries(step, size):
    def spread(array):
        view = np.zeros(abs(step) * array.size, array.dtype)[::step]
        view[...] = array
        return view

    p, q = spread(FLOATS), spread(INTEGERS)
    out = np.empty((2, 7))
    pieces(p.view(np.int64), q, (False, True), np.empty((2, size)), size, out)
    assert out[0].tobytes() == FLOATS.tobytes()
    assert np.array_equal(out[1], INTEGERS.astype(np.float64))
