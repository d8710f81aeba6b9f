"""Multivariate t distributions: against SciPy, mpmath and their limits."""

import math
import pickle

import numpy as np
import pytest
from mpmath import mp
from scipy import stats

import fastvi as fv
from fastvi.distributions import student
from helpers.messages import says

SCALE = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, -0.3], [0.1, -0.3, 0.7]])


@pytest.mark.parametrize("df", [0.3, 1.0, 2.5, 7.0, 400.0])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_density_and_entropy_are_those_of_scipy(dim, df):
    location = np.arange(dim) - 0.5
    q, other = (f(location, SCALE[:dim, :dim], df) for f in (fv.StudentT, stats.multivariate_t))
    z = np.array([location, location + 0.3, location - 40.0, location + 1e9])
    np.testing.assert_allclose(q.logpdf(z), other.logpdf(z), rtol=1e-12)
    assert q.logpdf(z[1]) == q.logpdf(z)[1]
    assert math.isclose(q.entropy(), other.entropy(), rel_tol=1e-10, abs_tol=1e-10)
    assert q == pickle.loads(pickle.dumps(q))


@pytest.mark.parametrize("df", ["0.7", "1999", "2001", "1e7", "1e15"])
def test_constants_keep_their_digits_with_many_degrees_of_freedom(df):
    with mp.workdps(50):
        v, d = mp.mpf(df), 3
        constant = mp.loggamma((v + d) / 2) - mp.loggamma(v / 2) - d * mp.log(v * mp.pi) / 2
        rise = mp.digamma((v + d) / 2) - mp.digamma(v / 2)
        wanted = float(constant), float((v + d) / 2 * rise - constant)
        slope = v * mp.diff(lambda x: (x + d) / 2 * (mp.digamma((x + d) / 2) - mp.digamma(x / 2)), v)
        slope += v * (mp.digamma(v / 2) - mp.digamma((v + d) / 2)) / 2 + mp.mpf(d) / 2
    assert math.isclose(student.log_constant(float(df), d), wanted[0], rel_tol=1e-12)
    assert math.isclose(student.standard_entropy(float(df), d), wanted[1], rel_tol=1e-12)
    if float(df) < 1e4:
        found = student.slope_of_entropy(float(df), d)
        assert math.isclose(found, float(slope), rel_tol=1e-7, abs_tol=1e-12)


def test_moments_are_none_where_there_are_none():
    q = fv.StudentT([0.0, 1.0], SCALE[:2, :2], 4.0)
    np.testing.assert_array_equal(q.mean, [0.0, 1.0])
    np.testing.assert_array_equal(q.cov, 2.0 * SCALE[:2, :2])
    q = fv.StudentT([0.0, 1.0], SCALE[:2, :2], 2.0)
    np.testing.assert_array_equal(q.mean, [0.0, 1.0])
    np.testing.assert_array_equal(q.cov, [[math.inf, math.nan], [math.nan, math.inf]])
    q = fv.StudentT([0.0, 1.0], SCALE[:2, :2], 1.0)
    assert np.isnan(q.mean).all()
    assert np.isnan(q.cov).all()
    np.testing.assert_array_equal(q.location, [0.0, 1.0])
    for array in (q.mean, q.cov, q.location, q.scale):
        assert not array.flags.writeable


def test_draws():
    q = fv.StudentT([1.0, -2.0], SCALE[:2, :2], 3.0)
    whitened = np.linalg.solve(np.linalg.cholesky(SCALE[:2, :2]), (q.sample(20_000, 7) - q.location).T)
    # r² / D is F(D, ν), and angles are uniform.
    squares = (whitened**2).sum(axis=0) / 2
    assert stats.kstest(squares, stats.f(2, 3).cdf).pvalue > 1e-3
    angles = np.arctan2(*whitened) / (2 * math.pi) + 0.5
    assert stats.kstest(angles, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("df", [0.8, 2.9, 6.0])
@pytest.mark.parametrize("dim", [1, 4])
def test_far_lengths_are_weighed_to_those_of_t_vectors(dim, df):
    """b = r² / (df + r²) is Beta(dim / 2, df / 2), and r² / dim is F(dim, df)."""
    n = 100_000
    u = (np.arange(n) + 0.5) / n
    far = student.FarRadii(df, dim)
    lengths = far.at(u, 1.0 - u)
    weights = far.weights(lengths)
    b = lengths**2 / (df + lengths**2)
    for power in (1, 2):
        wanted = stats.beta(0.5 * dim, 0.5 * df).moment(power)
        assert math.isclose((weights * b**power).mean(), wanted, rel_tol=1e-3)
    if df > 3.0:
        np.testing.assert_allclose(weights, dim * df / (df - 2.0) / lengths**2, rtol=1e-9)
    low = np.array([1e-12, 0.2, 0.5, 0.999])
    found = student.radii(df, 0.5 * dim, 0.5 * df, low, 1.0 - low)
    np.testing.assert_allclose(found**2 / dim, stats.f(dim, df).ppf(low), rtol=1e-8)


def test_bad_arguments():
    for df in (0.0, -1.0, math.inf):
        with says(ValueError, f"df must be positive and finite, not {df!r}"):
            fv.StudentT(0.0, 1.0, df)
    with says(ValueError, "scale"):
        fv.StudentT([0.0, 1.0], 1.0, 3.0)
    with says(ValueError, "location[0] is nan"):
        fv.StudentT(math.nan, 1.0, 3.0)
    with pytest.raises(TypeError, match="df"):
        fv.StudentT(0.0, 1.0, "3")
