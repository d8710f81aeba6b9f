"""Marginals, conditionals, affine maps and products; to and from other libraries."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import fastvi as fv
from helpers.messages import says
from helpers.mixtures import random_mixture


def one(p):
    return fv.Gaussian(p.means[0], p.covs[0])


@pytest.fixture(params=["gaussian", "mixture"])
def p(request):
    mixture = random_mixture(3, 4, 3)
    return mixture if request.param == "mixture" else one(mixture)


def z(count, dim):
    return np.random.default_rng(dim).standard_normal((count, dim))


@pytest.mark.parametrize(("seen", "rest"), [([1], [0, 2, 3]), ([3, 0], [1, 2]), ([2, 1, 0], [3])])
def test_the_joint_is_marginal_times_conditional(p, seen, rest):
    for point in z(5, 4):
        given = {axis: point[axis] for axis in seen}
        parts = p.marginal(seen).logpdf(point[seen]) + p.conditional(given).logpdf(point[rest])
        assert parts == pytest.approx(p.logpdf(point), rel=1e-12)


def test_marginals_have_the_moments(p):
    part = p.marginal([2, -4])
    np.testing.assert_allclose(part.mean, p.mean[[2, 0]], rtol=1e-14)
    np.testing.assert_allclose(part.cov, p.cov[np.ix_([2, 0], [2, 0])], rtol=1e-13)
    assert p.marginal(1).dim == 1


def test_affine_maps_move_the_density(p):
    matrix, shift = z(4, 4) + 2.0 * np.eye(4), z(1, 4)[0]
    moved = p.affine(matrix, shift)
    points = z(6, 4)
    expected = p.logpdf(points) - np.linalg.slogdet(matrix)[1]
    np.testing.assert_allclose(moved.logpdf(points @ matrix.T + shift), expected, rtol=1e-10)
    down = p.affine(matrix[:2])
    np.testing.assert_allclose(down.cov, matrix[:2] @ p.cov @ matrix[:2].T, rtol=1e-11)
    assert p.affine(np.eye(4)[[2, 1]]).mean.tolist() == p.marginal([2, 1]).mean.tolist()


def test_products_are_products(p):
    for q in (random_mixture(5, 4, 2), one(random_mixture(6, 4, 1))):
        found, mass = p.product(q)
        points = z(6, 4)
        np.testing.assert_allclose(
            found.logpdf(points) + mass, p.logpdf(points) + q.logpdf(points), rtol=1e-11, atol=1e-11
        )
        assert isinstance(found, fv.Gaussian) == (isinstance(p, fv.Gaussian) and isinstance(q, fv.Gaussian))
        assert q.product(p)[1] == pytest.approx(mass, rel=1e-12)


def test_the_mass_of_a_product_by_quadrature():
    a, b = random_mixture(7, 1, 3), random_mixture(8, 1, 2)
    grid = np.linspace(-30.0, 30.0, 20_001)
    total = (a.pdf(grid[:, None]) * b.pdf(grid[:, None])).sum() * (grid[1] - grid[0])
    assert a.product(b)[1] == pytest.approx(math.log(total), rel=1e-10)


def test_nearly_singular_conditionals():
    """The conditional variance is 1e-12 of the variance: its factor comes from that of the whole."""
    factor = np.array([[1.0, 0.0], [1.0, 1e-6]])
    p = fv.Gaussian([0, 0], factor @ factor.T)
    assert p.conditional({0: 2.0}).cov[0, 0] == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize("dim", [2, 60])
def test_float32_covariances_are_symmetric_to_their_rounding(dim):
    rng = np.random.default_rng(dim)
    rows = rng.standard_normal((dim, dim)).astype(np.float32)
    cov = (rows @ np.diag(rng.uniform(1, 2, dim).astype(np.float32)) @ rows.T) + np.eye(dim, dtype=np.float32)
    cov[0, 1] = np.nextafter(np.nextafter(cov[1, 0], np.float32(9)), np.float32(9))
    cov[0, 1] += np.float32(2e-7) * np.abs(cov).max()
    for made in (
        fv.Gaussian(np.zeros(dim), cov).cov,
        fv.GaussianMixture([1.0], np.zeros((1, dim)), cov[None]).covs[0],
    ):
        assert (made == made.T).all()
        np.testing.assert_allclose(made, cov, rtol=1e-3, atol=1e-5)
    with says(ValueError, "cov is not symmetric"):
        fv.Gaussian(np.zeros(dim), cov.astype(float))
    cov[0, 1] += np.float32(1e-4) * np.abs(cov).max()
    with says(ValueError, "cov is not symmetric"):
        fv.Gaussian(np.zeros(dim), cov)


def test_other_libraries(p):
    twin = type(p)(**json.loads(json.dumps(p.to_dict())))
    assert twin.logpdf(np.ones(4)) == pytest.approx(p.logpdf(np.ones(4)), rel=1e-14)
    if isinstance(p, fv.Gaussian):
        assert fv.Gaussian.from_scipy(stats.multivariate_normal(p.mean, p.cov)) == p
        assert fv.Gaussian.from_scipy(stats.norm(1.0, 3.0)) == fv.Gaussian(1.0, 9.0)
        for other in (stats.expon(), stats.t(5), p, None):
            if other is p:
                continue
            with says(TypeError, "from_scipy takes a frozen"):
                fv.Gaussian.from_scipy(other)
    else:
        made = p.to_sklearn(SimpleNamespace())
        assert fv.GaussianMixture.from_sklearn(made) == p
        for k in range(3):
            root = made.precisions_cholesky_[k]
            np.testing.assert_allclose(root @ root.T, np.linalg.inv(p.covs[k]), rtol=1e-10, atol=1e-12)
            assert (np.tril(root, -1) == 0.0).all()


P = fv.Gaussian([0, 0], np.eye(2))


@pytest.mark.parametrize(
    ("error", "parts", "call"),
    [
        (ValueError, ("axes[1] is 2", "from -2 to 1"), lambda: P.marginal([0, 2])),
        (ValueError, ("axes[0] must be at least -2",), lambda: P.marginal([-3])),
        (ValueError, ("axes[1] is -1", "twice"), lambda: P.marginal([1, -1])),
        (ValueError, ("axes is empty",), lambda: P.marginal([])),
        (TypeError, ("axes[0] must be an integer, not 0.5",), lambda: P.marginal(0.5)),
        (TypeError, ("given must be a mapping", "list"), lambda: P.conditional([0])),
        (ValueError, ("given has all 2 axes",), lambda: P.conditional({0: 1, 1: 1})),
        (ValueError, ("given[0] is nan",), lambda: P.conditional({0: float("nan")})),
        (ValueError, ("matrix must have shape (m, 2)", "(1, 3)"), lambda: P.affine([1, 2, 3])),
        (ValueError, ("matrix has dependent rows",), lambda: P.affine([[1, 2], [2, 4]])),
        (ValueError, ("shift must have shape (1,)", "(2,)"), lambda: P.affine([1, 2], [1, 2])),
        (TypeError, ("other must be a Gaussian or a GaussianMixture, not int",), lambda: P.product(3)),
        (ValueError, ("same dimension: 2 and 1",), lambda: P.product(fv.Gaussian(0, 1))),
        (
            ValueError,
            ("given has no density",),
            lambda: fv.GaussianMixture([1], [[0, 0]], [np.eye(2)]).conditional({0: 1e200}),
        ),
    ],
)
def test_bad_arguments(error, parts, call):
    with says(error, *parts), np.errstate(over="ignore"):
        call()
