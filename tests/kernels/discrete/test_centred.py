"""Kernels of `pairwise`: products, centres, sums, and what a pair has lost."""

import math

import numpy as np
import pytest
from mpmath import mpf

from fastvi.kernels.discrete import centred
from fastvi.kernels.discrete.masses import ANY, NORMALIZE

pytestmark = pytest.mark.usefixtures("quiet")


def frozen(array):
    rows = np.ascontiguousarray(array, np.float64)
    rows.flags.writeable = False
    return rows


@pytest.mark.parametrize("first", [-8, -3, 0, 2])
@pytest.mark.parametrize("length", [12, 600])
def test_add_products_is_a_matrix_product(first, length):
    """In segments too; the triangle below the diagonal stays as it is, but for the rows of a strip."""
    rng = np.random.default_rng(8)
    p, s = rng.random((8, length)), rng.random((length, 15))
    out = np.ones((8, 15))
    centred.add_products(p, s, first, np.empty((2, centred.STRIP, 15)), out)
    rows, columns = np.indices(out.shape)
    mine = columns >= first + rows
    np.testing.assert_allclose(out[mine], (1.0 + p @ s)[mine], rtol=1e-14)
    strip = first + rows // centred.STRIP * centred.STRIP
    assert np.all(out[columns < strip] == 1.0)


def test_transpose():
    x = np.random.default_rng(9).random((7, 5))
    out = np.empty((5, 7))
    centred.transpose(x, out)
    assert np.array_equal(out, x.T)


def test_masses():
    rows = np.full((3, 15_000), 0.1)
    rows[1, 7] = -1e-300
    rows[2, -1] = math.inf
    out = np.empty(3)
    centred.masses(frozen(rows), out)
    exact = 15_000 * mpf(0.1)
    assert abs(out[0] - exact) <= 1e-14 * exact
    assert math.isnan(out[1])
    assert out[2] == math.inf


def test_scales():
    masses, out = np.array([4.0, 1e-201, 0.0]), np.empty(3)
    centred.scales(masses, NORMALIZE, out)
    assert out[0] == 0.25
    assert math.isnan(out[1])
    centred.scales(masses, ANY, out)
    assert out[0] == out[2] == 1.0
    assert math.isnan(out[1])


def centre_of(q, scale):
    centre = np.zeros((4, q.shape[1]))
    centred.mean_centre(frozen(q), scale, centre)
    return centre


def test_the_centre_is_the_mean():
    q = np.random.default_rng(10).dirichlet(np.ones(9), 5)
    q[:, 3], q[:, 4] = 0.0, [1e-300, 0.0, 0.0, 0.0, 0.0]
    scale = np.array([1.0, 2.0, 0.5, math.nan, 1.0])
    centre = centre_of(q, scale)
    mean = np.mean((q * scale[:, None])[[0, 1, 2, 4]], axis=0)
    mean[4] = 1e-290  # not below
    np.testing.assert_allclose(centre[centred.C], mean, rtol=1e-15)
    positive = mean > 0.0
    np.testing.assert_allclose(centre[centred.INVERSE, positive], 1.0 / mean[positive], rtol=1e-15)
    np.testing.assert_allclose(centre[centred.ROOT], np.sqrt(mean), rtol=1e-15)
    assert centre[centred.INVERSE, 3] == 0.0


@pytest.mark.parametrize("name", centred.FACTORS)
def test_rows_equal_to_the_centre_are_at_no_distance(name):
    """To the last bit, although 1 / mass is rounded."""
    q = np.tile(np.random.default_rng(11).gamma(1.0, 1.0, 7), (4, 1))
    scale = np.full(4, 1.0 / q[0].sum())
    out, sums = np.zeros((4, 16)), np.empty((4, centred.SUMS))
    centred.FACTORS[name](frozen(q), scale, centre_of(q, scale), (0.7, 0.0), out, sums)
    assert not out.any()
    assert not sums.any()


def test_supports_and_infinities():
    """Zeros of either row, of both, and no common entry, in words of 64."""
    rng = np.random.default_rng(12)
    p, q = (frozen(rng.random((n, 130)) < 0.99) for n in (6, 5))
    q.flags.writeable = True
    q[0], q[1] = p[0], 1.0 - p[1]
    q.flags.writeable = False
    bits_p, bits_q = np.empty((6, 3), np.int64), np.empty((5, 3), np.int64)
    centred.supports(p, bits_p)
    centred.supports(q, bits_q)
    columns = np.ascontiguousarray(bits_q.T)
    a, b = p[:, None] > 0.0, q > 0.0
    wanted = {
        centred.OUTSIDE_Q: (a & ~b).any(-1),
        centred.OUTSIDE_P: (b & ~a).any(-1),
        centred.OUTSIDE_P | centred.OUTSIDE_Q: (a != b).any(-1),
        centred.APART: ~(a & b).any(-1),
    }
    for where, infinite in wanted.items():
        assert 0 < infinite.sum() < infinite.size
        out = np.zeros((6, 5))
        centred.set_infinities(bits_p, columns, where, -6, np.empty(5, np.int64), out)
        assert np.array_equal(out == math.inf, infinite)


def test_set_zeros_where_rows_are_equal():
    p = frozen(np.arange(6.0).reshape(2, 3))
    out = np.array([[math.nan, math.nan], [math.nan, 5.0]])
    centred.set_zeros(p, p, out)
    assert out[0, 0] == 0.0
    assert math.isnan(out[0, 1])
    assert math.isnan(out[1, 0])
    assert out[1, 1] == 5.0


def test_entropies():
    p = frozen([[2.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    out = np.empty(2)
    centred.entropies(p, np.array([0.25, 1.0]), out)
    np.testing.assert_allclose(out, [math.log(2.0), 0.0], rtol=1e-15)
