"""Gaussians, mixtures and grids: densities, moments, samples, and messages for bad input."""

import copy
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from numba import njit
from scipy.stats import multivariate_normal

import fastvi as fv
from helpers.messages import says
from reference import densities as reference

DIMS = [1, 2, 3, 4, 5, 6]


def random_cov(rng, dim):
    root = rng.standard_normal((dim, dim + 2))
    cov = root @ root.T / dim
    return 0.5 * (cov + cov.T)


def random_parts(seed, dim, count=3):
    rng = np.random.default_rng(seed)
    covs = np.array([random_cov(rng, dim) for _ in range(count)])
    return rng.dirichlet(np.ones(count)), 2.0 * rng.standard_normal((count, dim)), covs


def random_gaussian(seed, dim):
    _, means, covs = random_parts(seed, dim, 1)
    return fv.Gaussian(means[0], covs[0])


def random_mixture(seed, dim, count=3):
    return fv.GaussianMixture(*random_parts(seed, dim, count))


def bowl(x, y):
    return -0.5 * (x**2 + 4.0 * y**2)


def grid(points=65):
    return fv.Grid2D.from_function(bowl, [(-8, 8), (-5, 5)], (points, points))


EVERY = {
    "gaussian": lambda: random_gaussian(1, 3),
    "mixture": lambda: random_mixture(2, 3),
    "grid": lambda: grid(9),
}

every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


@pytest.mark.parametrize("dim", DIMS)
def test_gaussian_density(dim):
    q = random_gaussian(dim, dim)
    z = q.sample(8, rng=dim) * np.array([0.1, 1.0, 1.0, 1.0, 3.0, 10.0, 30.0, 100.0])[:, None]
    values = q.logpdf(z)
    for point, value in zip(z, values, strict=True):
        exact = reference.gaussian_logpdf(point, q.mean, q.cov)
        assert abs(value - exact) <= 1e-13 * max(1, abs(exact))
    scipy_values = np.atleast_1d(multivariate_normal(q.mean, q.cov).logpdf(z))
    np.testing.assert_allclose(values, scipy_values, rtol=1e-11, atol=1e-12)
    assert np.array_equal(q.pdf(z), np.exp(values))


@pytest.mark.parametrize("dim", DIMS)
def test_mixture_density(dim):
    parts = random_parts(10 + dim, dim)
    p = fv.GaussianMixture(*parts)
    z = np.concatenate([p.sample(6, rng=dim), 30.0 * p.sample(2, rng=dim)])
    values = p.logpdf(z)
    for point, value in zip(z, values, strict=True):
        exact = reference.mixture_logpdf(point, *parts)
        assert abs(value - exact) <= 1e-13 * max(1, abs(exact))
    near = values > -600.0
    scipy_values = sum(
        w * np.atleast_1d(multivariate_normal(m, c).pdf(z)) for w, m, c in zip(*parts, strict=True)
    )
    np.testing.assert_allclose(p.pdf(z)[near], scipy_values[near], rtol=1e-10)
    assert near.sum() >= 6


def test_density_far_out_does_not_vanish():
    """The density underflows there, its logarithm does not."""
    p = fv.GaussianMixture([0.5, 0.5], [-1.0, 1.0], [1.0, 1.0])
    assert p.pdf(1e6) == 0.0
    assert p.logpdf(1e6) == pytest.approx(math.log(0.5) + fv.Gaussian(1.0, 1.0).logpdf(1e6), rel=1e-15)
    q = fv.GaussianMixture([1e-300, 1.0], [0.0, 1e3], [1.0, 1.0])
    assert q.logpdf(0.0) == pytest.approx(math.log(1e-300) - 0.5 * math.log(2 * math.pi), rel=1e-14)


def test_component_of_weight_zero():
    p = fv.GaussianMixture([0.0, 1.0], [0.0, 5.0], [1.0, 2.0])
    q = fv.Gaussian(5.0, 2.0)
    z = np.linspace(-50.0, 50.0, 41)
    assert np.array_equal(p.logpdf(z[:, None]), q.logpdf(z[:, None]))
    assert p.mean == q.mean
    assert p.cov == pytest.approx(q.cov, rel=1e-15)
    assert fv.GaussianMixture([0.0, 1.0, 0.0], [0.0, 5.0, 9.0], [1.0, 2.0, 1.0]).logpdf(0.0) == q.logpdf(0.0)


@pytest.mark.parametrize("make", [random_gaussian, random_mixture])
@pytest.mark.parametrize("dim", DIMS)
def test_shapes(make, dim):
    p = make(20, dim)
    z = np.random.default_rng(dim).standard_normal((4, 5, dim))
    table = p.logpdf(z)
    assert table.shape == (4, 5)
    assert p.logpdf(z[1]).shape == (5,)
    assert np.array_equal(p.logpdf(z[1]), table[1])
    assert p.logpdf(z[:0]).shape == (0, 5)
    assert p.pdf(z).shape == (4, 5)
    for method in (p.logpdf, p.pdf):
        assert type(method(z[2, 3])) is float
        assert type(method(z[2, 3].tolist())) is float
        # exp of one number is the C library's, exp of an array NumPy's: they may differ in the last bit
        same = method(z[2])[3] if method == p.logpdf else pytest.approx(method(z[2])[3], rel=4e-16, abs=0.0)
        assert method(z[2, 3]) == same
    assert p.logpdf(z[2, 3]) == table[2, 3]


def test_a_number_is_a_point_on_the_line():
    for p in (random_gaussian(3, 1), random_mixture(3, 1)):
        assert p.logpdf(0.25) == p.logpdf([0.25]) == p.logpdf([[0.25]])[0]
        assert type(p.logpdf(1)) is float


@pytest.mark.parametrize("make", [random_gaussian, random_mixture])
def test_layout_and_dtype(make):
    p = make(21, 3)
    z = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    wide = z.astype(np.float64)
    expected = p.logpdf(wide)
    assert expected.dtype == np.float64
    assert np.array_equal(p.logpdf(z), expected)
    assert np.array_equal(p.logpdf(np.asfortranarray(wide)), expected)
    strided = np.zeros((12, 9))
    strided[::2, ::3] = wide
    assert np.array_equal(p.logpdf(strided[::2, ::3]), expected)
    assert np.array_equal(p.logpdf(wide[::-1])[::-1], expected)
    fixed = wide.copy()
    fixed.flags.writeable = False
    assert np.array_equal(p.logpdf(fixed), expected)
    assert np.array_equal(p.logpdf(wide.astype(">f8")), expected)
    assert np.array_equal(p.logpdf([[1, 2, 3]]), p.logpdf([[1.0, 2.0, 3.0]]))


def test_parameters_of_other_layouts():
    weights, means, covs = random_parts(5, 3)
    p = fv.GaussianMixture(weights, means, covs)
    same = fv.GaussianMixture(weights, np.asfortranarray(means), np.asfortranarray(covs))
    assert p == same
    assert fv.Gaussian(means[0].astype(np.float32), np.eye(3, dtype=np.float32)).mean.dtype == np.float64
    assert fv.Gaussian([0, 1], [[2, 0], [0, 3]]) == fv.Gaussian([0.0, 1.0], [[2.0, 0.0], [0.0, 3.0]])


def test_parameters_are_copied():
    weights, means, covs = random_parts(6, 2)
    p, q = fv.GaussianMixture(weights, means, covs), fv.Gaussian(means[0], covs[0])
    before = p.logpdf([0.0, 0.0]), q.logpdf([0.0, 0.0]), p.means.copy(), q.cov.copy()
    weights[:], means[:], covs[:] = -7.0, -7.0, -7.0
    assert (p.logpdf([0.0, 0.0]), q.logpdf([0.0, 0.0])) == before[:2]
    assert np.array_equal(p.means, before[2])
    assert np.array_equal(q.cov, before[3])
    x, table = np.arange(4.0), np.zeros((4, 4))
    g = fv.Grid2D(x, x, table)
    x[:], table[:] = -1.0, -1.0
    assert g.integral == pytest.approx(9.0, rel=1e-15)
    assert g.x[3] == 3.0


def test_forms_for_one_dimension():
    assert fv.Gaussian(2, 3) == fv.Gaussian([2], [[3]]) == fv.Gaussian([2.0], 3.0)
    p = fv.GaussianMixture([0.25, 0.75], [1, 2], [3, 4])
    assert p == fv.GaussianMixture([0.25, 0.75], [[1], [2]], [[[3]], [[4]]])
    assert p.dim == 1
    assert p.means.shape == (2, 1)
    assert p.covs.shape == (2, 1, 1)


@pytest.mark.parametrize("dim", DIMS)
def test_gaussian_entropy(dim):
    q = random_gaussian(30 + dim, dim)
    exact = float(reference.gaussian_entropy(q.cov))
    assert q.entropy() == pytest.approx(exact, rel=1e-13, abs=1e-13)
    assert type(q.entropy()) is float


@pytest.mark.parametrize("dim", DIMS)
def test_mixture_moments(dim):
    weights, means, covs = random_parts(40 + dim, dim)
    p = fv.GaussianMixture(weights, means, covs)
    mean = weights @ means
    cov = np.einsum("k,kij->ij", weights, covs) + (weights * (means - mean).T) @ (means - mean)
    np.testing.assert_allclose(p.mean, mean, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(p.cov, cov, rtol=1e-13, atol=1e-14)
    assert np.array_equal(p.cov, p.cov.T)


def test_mixture_moments_far_from_the_origin():
    """The second moment about zero would lose twelve digits."""
    p = fv.GaussianMixture([0.5, 0.5], [1e6 - 1.0, 1e6 + 1.0], [1.0, 1.0])
    assert p.mean[0] == 1e6
    assert p.cov[0, 0] == pytest.approx(2.0, rel=1e-14)


def test_components():
    weights, means, covs = random_parts(7, 4)
    p = fv.GaussianMixture(weights, means, covs)
    assert p.components == tuple(fv.Gaussian(m, c) for m, c in zip(means, covs, strict=True))
    z = p.sample(20, rng=0)
    values = np.array([part.logpdf(z) for part in p.components])
    np.testing.assert_allclose(np.log(weights @ np.exp(values)), p.logpdf(z), rtol=1e-12)


def test_cholesky():
    q = random_gaussian(8, 5)
    assert np.array_equal(q.cholesky, np.tril(q.cholesky))
    assert (np.diag(q.cholesky) > 0.0).all()
    np.testing.assert_allclose(q.cholesky @ q.cholesky.T, q.cov, rtol=1e-14, atol=1e-15)


def test_units_do_not_matter():
    """Variances of 1e-200 and 1e200 in one matrix: far from singular once it is scaled."""
    scale = np.array([1e-100, 1.0, 1e100])
    correlation = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, -0.3], [0.2, -0.3, 1.0]])
    q = fv.Gaussian(np.zeros(3), scale[:, None] * correlation * scale)
    unit = fv.Gaussian(np.zeros(3), correlation)
    z = np.array([0.3, -0.7, 1.1])
    assert q.logpdf(z * scale) == pytest.approx(unit.logpdf(z), rel=1e-14)
    assert q.entropy() == pytest.approx(unit.entropy(), rel=1e-13)


def test_rounding_of_weights_and_covariances_is_taken_out():
    p = fv.GaussianMixture([0.5, 0.5 + 9e-7], [0.0, 1.0], [1.0, 1.0])
    assert p.weights.sum() == pytest.approx(1.0, abs=2e-16)
    assert p.weights[1] / p.weights[0] == pytest.approx(1.0 + 1.8e-6, rel=1e-15)
    q = fv.Gaussian([0, 0], [[1.0, 0.5], [0.5 + 9e-9, 1.0]])
    assert np.array_equal(q.cov, q.cov.T)
    assert q.cov[0, 1] == pytest.approx(0.5 + 4.5e-9, rel=1e-15)
    p = fv.GaussianMixture([1.0], [[0, 0]], [[[1.0, 0.5], [0.5 + 9e-9, 1.0]]])
    assert np.array_equal(p.covs[0], q.cov)


@pytest.mark.parametrize("make", [random_gaussian, random_mixture])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_samples(make, dim):
    p, n = make(50, dim), 200_000
    z = p.sample(n, rng=3)
    assert z.shape == (n, dim)
    assert np.array_equal(z, p.sample(n, rng=3))
    assert np.array_equal(z, p.sample(n, np.random.default_rng(3)))
    assert not np.array_equal(z, p.sample(n, rng=4))
    assert p.sample(0, rng=1).shape == (0, dim)
    offset = z - p.mean
    # Five standard errors, taken from the sample itself.
    assert (np.abs(offset.mean(axis=0)) <= 5.0 * offset.std(axis=0) / math.sqrt(n)).all()
    products = offset[:, :, None] * offset[:, None, :]
    assert (np.abs(products.mean(axis=0) - p.cov) <= 5.0 * products.std(axis=0) / math.sqrt(n)).all()
    logs = p.logpdf(z)
    entropy = fv.entropy_estimate(p)
    assert abs(-logs.mean() - entropy.value) <= 5.0 * (logs.std() / math.sqrt(n) + entropy.error)


def test_sample_shares():
    p = fv.GaussianMixture([0.1, 0.0, 0.9], [-100.0, 0.0, 100.0], [1.0, 1.0, 1.0])
    z = p.sample(100_000, rng=0)[:, 0]
    assert not (np.abs(z) < 50.0).any()
    assert abs((z < 0.0).mean() - 0.1) <= 5.0 * math.sqrt(0.09 / 100_000)


ARRAYS = {
    "gaussian": ("mean", "cov", "cholesky"),
    "mixture": ("weights", "means", "covs", "mean", "cov"),
    "grid": ("x", "y", "logp", "mean", "cov"),
}


@pytest.mark.parametrize("kind", EVERY)
def test_nothing_can_be_changed(kind):
    p = EVERY[kind]()
    for name in ARRAYS[kind]:
        array = getattr(p, name)
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0
        with pytest.raises(AttributeError):
            setattr(p, name, np.zeros(3))
        with pytest.raises(AttributeError):
            delattr(p, name)
    with pytest.raises(AttributeError):
        p.something = 1
    assert p == EVERY[kind]()


@every
def test_equality_and_hash(make):
    p, same = make(), make()
    assert p is not same
    assert p == same
    assert hash(p) == hash(same)
    assert (p != same) is False
    assert p != 3
    assert p != "p"
    assert {p: 1}[same] == 1


def test_inequality():
    q = fv.Gaussian([0, 1], [[2, 0], [0, 3]])
    assert q != fv.Gaussian([0, 1 + 1e-15], [[2, 0], [0, 3]])
    assert q != fv.Gaussian([0, 1], [[2, 1e-300], [1e-300, 3]])
    assert q != fv.Gaussian([0], [[2]])
    p = random_mixture(2, 3)
    assert p != fv.GaussianMixture(p.weights[::-1], p.means, p.covs)
    assert p != fv.GaussianMixture(p.weights, p.means + 1e-9, p.covs)
    assert p != fv.GaussianMixture(p.weights, p.means, p.covs * 2.0)
    assert p != p.components[0]
    g = grid(9)
    assert g != fv.Grid2D(g.x, g.y, g.logp + 1.0)
    assert g != fv.Grid2D(g.x + 1.0, g.y, g.logp)
    assert g != fv.Grid2D(g.x, 2.0 * g.y, g.logp)


def test_zeros_of_either_sign_are_one_hash():
    assert fv.Gaussian([0.0], 1.0) == fv.Gaussian([-0.0], 1.0)
    assert hash(fv.Gaussian([0.0], 1.0)) == hash(fv.Gaussian([-0.0], 1.0))
    x = np.arange(3.0)
    one, two = fv.Grid2D(x, x, np.zeros((3, 3))), fv.Grid2D(x, x, -np.zeros((3, 3)))
    assert one == two
    assert hash(one) == hash(two)
    p, q = (fv.GaussianMixture([1.0], [z], [1.0]) for z in (0.0, -0.0))
    assert p == q
    assert hash(p) == hash(q)


@every
@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, *(lambda p, n=n: pickle.loads(pickle.dumps(p, n)) for n in (2, 5))],
    ids=["copy", "deepcopy", "pickle-2", "pickle-5"],
)
@pytest.mark.parametrize("used", [False, True])
def test_copies(make, again, used):
    p = make()
    if used:
        # What is kept from earlier calls must not be lost or become writeable.
        p.mean, p.cov, p.entropy() if p.dim < 3 or isinstance(p, fv.Gaussian) else None
    other = again(p)
    assert type(other) is type(p)
    assert other == p
    assert hash(other) == hash(p)
    assert repr(other) == repr(p)
    assert np.array_equal(other.mean, p.mean)
    assert np.array_equal(other.cov, p.cov)
    if not isinstance(p, fv.Grid2D):
        z = p.sample(5, rng=0)
        assert np.array_equal(other.logpdf(z), p.logpdf(z))
        assert np.array_equal(other.sample(5, rng=0), z)
    with pytest.raises(AttributeError):
        other.something = 1
    kind = next(k for k, f in EVERY.items() if f is make)
    for name in ARRAYS[kind]:
        assert not getattr(other, name).flags.writeable, name


def test_repr_of_gaussians_and_mixtures_can_be_evaluated():
    names = {"Gaussian": fv.Gaussian, "GaussianMixture": fv.GaussianMixture}
    q = fv.Gaussian([0, -1.5], [[2, 5e-8], [5e-8, 1e-7]])
    assert repr(q) == "Gaussian(mean=[0, -1.5], cov=[[2, 5e-08], [5e-08, 1e-07]])"
    assert eval(repr(q), names) == q
    p = fv.GaussianMixture([0.25, 0.75], [-3, 3], [1, 2])
    assert repr(p) == "GaussianMixture(weights=[0.25, 0.75], means=[[-3], [3]], covs=[[[1]], [[2]]])"
    assert eval(repr(p), names) == p
    assert "0.333333," in repr(fv.GaussianMixture([1 / 3, 2 / 3], [-3, 3], [1, 2]))
    long = repr(fv.Gaussian(np.zeros(100), np.eye(100)))
    assert "[0, 0, 0, ..., 0]" in long
    assert len(long) < 400


def test_repr_of_a_grid():
    assert repr(grid(65)) == "Grid2D(x=-8..8 (65), y=-5..5 (65), mean=[0, 0], integral=3.14159)"


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_from_sklearn(kind):
    weights, means, covs = random_parts(60, 3)
    rng = np.random.default_rng(60)
    stored, full = {
        "full": lambda: (covs, covs),
        "tied": lambda: (covs[0], np.array([covs[0]] * 3)),
        "diag": lambda: (d := rng.gamma(2.0, size=(3, 3)), np.array([np.diag(row) for row in d])),
        "spherical": lambda: (s := rng.gamma(2.0, size=3), np.array([v * np.eye(3) for v in s])),
    }[kind]()
    fitted = SimpleNamespace(weights_=weights, means_=means, covariances_=stored, covariance_type=kind)
    assert fv.GaussianMixture.from_sklearn(fitted) == fv.GaussianMixture(weights, means, full)


def test_from_sklearn_of_something_else():
    with says(TypeError, "takes a fitted sklearn GaussianMixture", "has no weights_"):
        fv.GaussianMixture.from_sklearn(SimpleNamespace(covariance_type="full"))
    with says(TypeError, "has no covariances_"):
        fv.GaussianMixture.from_sklearn(SimpleNamespace(weights_=[1.0], means_=[[0.0]]))
    fitted = SimpleNamespace(weights_=[1.0], means_=[[0.0]], covariances_=[[1.0]], covariance_type="round")
    with says(ValueError, "covariance_type must be full, tied, diag or spherical", "'round'"):
        fv.GaussianMixture.from_sklearn(fitted)


X, Y = np.linspace(-8.0, 8.0, 97), np.linspace(-5.0, 5.0, 81)
TABLE = bowl(X[:, None], Y[None, :])


@njit
def compiled_bowl(x, y):
    return -0.5 * (x**2 + 4.0 * y**2)


def one_point_bowl(x, y):
    return math.log(math.exp(-0.5 * x * x)) - 2.0 * math.pow(y, 2)


@njit
def compiled_one_point(x, y):
    return -0.5 * x * x if y == 0.0 else -0.5 * x * x - 2.0 * y * y


@njit
def compiled_typed_point(x, y):
    return math.log(math.exp(-0.5 * x * x - 2.0 * y * y))


@pytest.mark.parametrize(
    "function",
    [
        bowl,
        compiled_bowl,
        one_point_bowl,
        compiled_one_point,
        compiled_typed_point,
        lambda x, y: (
            fv.Gaussian([0, 0], [[1, 0], [0, 0.25]]).logpdf(np.stack(np.broadcast_arrays(x, y), -1))
            + math.log(math.pi)
        ),
    ],
    ids=["vectorised", "njit", "scalars", "njit-branch", "njit-scalars", "distribution"],
)
def test_grid_from_a_function(function):
    p = fv.Grid2D.from_function(function, [(-8, 8), (-5, 5)], (97, 81))
    assert np.array_equal(p.x, X)
    assert np.array_equal(p.y, Y)
    np.testing.assert_allclose(p.logp, TABLE, rtol=1e-14, atol=2e-15)


def test_grid_from_arrays():
    p = fv.Grid2D(X, Y, TABLE)
    assert np.array_equal(p.logp, TABLE)
    assert p.dim == 2
    assert p == fv.Grid2D(X.tolist(), Y.tolist(), TABLE.tolist())
    assert p == fv.Grid2D(X, Y, np.asfortranarray(TABLE))
    assert p == fv.Grid2D(np.repeat(X, 2)[::2], Y[::-1][::-1], np.repeat(TABLE, 3, axis=1)[:, ::3])


def test_grid_of_a_constant():
    p = fv.Grid2D.from_function(lambda x, y: 0.0, [(0, 2), (0, 3)], (5, 4))
    assert p.integral == pytest.approx(6.0, rel=1e-15)
    assert p.entropy() == pytest.approx(math.log(6.0), rel=1e-15)


def test_function_of_one_coordinate_alone():
    """Its result broadcasts, but has not the shape of the grid."""
    p = fv.Grid2D.from_function(lambda x, y: -0.5 * x**2, [(-8, 8), (0, 1)], (65, 5))
    assert p.logp.shape == (65, 5)
    assert p.integral == pytest.approx(math.sqrt(2 * math.pi), rel=1e-13)
    q = fv.Grid2D.from_function(lambda x, y: -0.5 * y**2, [(0, 1), (-8, 8)], (5, 65))
    assert np.array_equal(q.logp, p.logp.T)


def test_grid_integrals_are_those_of_the_gaussian():
    cov = np.array([[1.0, 0.6], [0.6, 2.0]])
    q = fv.Gaussian([3.0, -2.0], cov)
    for p in (
        fv.Grid2D.from_distribution(q),
        fv.Grid2D.from_distribution(q, [(-7, 13), (-16, 12)], (121, 141)),
    ):
        assert p.integral == pytest.approx(1.0, rel=1e-13)
        assert p.log_integral == pytest.approx(0.0, abs=1e-13)
        np.testing.assert_allclose(p.mean, q.mean, rtol=1e-13)
        np.testing.assert_allclose(p.cov, cov, rtol=1e-12)
        assert p.entropy() == pytest.approx(q.entropy(), rel=1e-13)


def test_grid_of_a_mixture():
    p = random_mixture(70, 2)
    g = fv.Grid2D.from_distribution(p, shape=(501, 501))
    reach = 9.0 * np.sqrt(np.array([np.diag(c) for c in p.covs]))
    np.testing.assert_allclose([g.x[0], g.y[0]], (p.means - reach).min(axis=0), rtol=1e-14)
    np.testing.assert_allclose([g.x[-1], g.y[-1]], (p.means + reach).max(axis=0), rtol=1e-14)
    np.testing.assert_allclose(g.mean, p.mean, rtol=1e-10)
    np.testing.assert_allclose(g.cov, p.cov, rtol=1e-10)
    estimate = fv.entropy_estimate(p)
    assert g.entropy() == pytest.approx(estimate.value, abs=estimate.error + 1e-10)


@pytest.mark.parametrize("shift", [-1e6, -2000.0, 0.0, 500.0, 2000.0, 1e6])
def test_grid_out_of_the_range_of_floats(shift):
    p, unit = fv.Grid2D(X, Y, TABLE + shift), fv.Grid2D(X, Y, TABLE)
    assert p.log_integral == pytest.approx(math.log(math.pi) + shift, rel=1e-13)
    if abs(shift) <= 500.0:
        assert p.integral == pytest.approx(math.pi * math.exp(shift), rel=1e-13)
    else:
        assert p.integral == (math.inf if shift > 0 else 0.0)
    tolerance = 1e-15 * max(1.0, abs(shift))
    np.testing.assert_allclose(p.mean, unit.mean, atol=20 * tolerance)
    np.testing.assert_allclose(p.cov, unit.cov, rtol=10 * tolerance, atol=20 * tolerance)
    assert p.entropy() == pytest.approx(unit.entropy(), rel=10 * tolerance)
    normal = p.normalized()
    assert normal.integral == pytest.approx(1.0, rel=tolerance * 2)
    np.testing.assert_allclose(normal.logp, unit.normalized().logp, atol=tolerance * 10)
    assert "integral=" in repr(p)


def test_normalized_leaves_the_rest():
    p = grid()
    n = p.normalized()
    assert n.integral == pytest.approx(1.0, rel=1e-15)
    assert p.integral == pytest.approx(math.pi, rel=1e-13)
    assert np.array_equal(n.x, p.x)
    assert np.array_equal(n.y, p.y)
    assert n.entropy() == pytest.approx(p.entropy(), rel=1e-14)
    with pytest.raises(ValueError, match="read-only"):
        n.logp[0, 0] = 0.0


def test_grid_with_uneven_steps():
    rng = np.random.default_rng(5)
    x, y = np.cumsum(rng.uniform(0.1, 2.0, 13)), np.cumsum(rng.uniform(0.1, 2.0, 9)) - 4.0
    table = rng.normal(size=(13, 9))
    p = fv.Grid2D(x, y, table)
    density = np.exp(table)

    def integral(values):
        return np.trapezoid(np.trapezoid(values, y, axis=1), x)

    mass = integral(density)
    assert p.integral == pytest.approx(mass, rel=1e-14)
    u, v = x[:, None], y[None, :]
    mean = np.array([integral(density * u), integral(density * v)]) / mass
    np.testing.assert_allclose(p.mean, mean, rtol=1e-14)
    a, b = u - mean[0], v - mean[1]
    cov = [
        [integral(density * a * a), integral(density * a * b)],
        [integral(density * a * b), integral(density * b * b)],
    ]
    np.testing.assert_allclose(p.cov, np.array(cov) / mass, rtol=1e-13, atol=1e-14)
    entropy = math.log(mass) - integral(density * table) / mass
    assert p.entropy() == pytest.approx(entropy, rel=1e-13)


def test_grid_far_from_the_origin():
    far = fv.Grid2D(X + 1e8, Y - 1e8, TABLE)
    np.testing.assert_allclose(far.cov, grid(161).cov, atol=1e-6)
    np.testing.assert_allclose(far.mean, [1e8, -1e8], rtol=1e-15)


def test_grid_with_regions_of_no_density():
    table = np.where((np.abs(X) <= 4.0)[:, None] & (Y >= 0.0), 0.0, -math.inf)
    p = fv.Grid2D(X, Y, table)
    assert np.isfinite([p.log_integral, *p.mean, *p.cov.ravel(), p.entropy()]).all()
    assert p.entropy() == pytest.approx(p.log_integral, rel=1e-14)
    single = np.full((3, 3), -math.inf)
    single[1, 1] = 7.0
    q = fv.Grid2D([0, 1, 3], [0, 2, 4], single)
    assert q.integral == pytest.approx(1.5 * 2.0 * math.exp(7.0), rel=1e-15)
    assert q.mean.tolist() == [1.0, 2.0]
    np.testing.assert_allclose(q.cov, 0.0, atol=1e-15)


SPD = np.array([[2.0, 0.5], [0.5, 1.0]])


def test_gaussian_that_is_not_positive_definite():
    with says(ValueError, "cov is not positive definite", "smallest eigenvalue is -1.0"):
        fv.Gaussian([0, 0], [[1, 2], [2, 1]])
    with says(ValueError, "cov is not positive definite", "cov[1, 1] is -3.0"):
        fv.Gaussian([0, 0], [[1, 0], [0, -3]])
    with says(ValueError, "cov is not positive definite", "cov[0, 0] is 0.0"):
        fv.Gaussian(0, 0)
    with says(ValueError, "cov is not positive definite"):
        fv.Gaussian([0, 0], [[1, 1], [1, 1]])
    with says(ValueError, "covs[1] is not positive definite", "smallest eigenvalue is -1.0"):
        fv.GaussianMixture([0.5, 0.5], [[0, 0], [1, 1]], [np.eye(2), [[1, 2], [2, 1]]])
    with says(ValueError, "covs[2] is not positive definite", "covs[2][0, 0] is -1.0"):
        fv.GaussianMixture([0.2, 0.3, 0.5], [0, 1, 2], [1, 1, -1])


def test_gaussian_that_is_not_symmetric():
    with says(ValueError, "cov is not symmetric", "[1, 0] is 0.25", "[0, 1] is 0.5"):
        fv.Gaussian([0, 0], [[1, 0.5], [0.25, 1]])
    bad = np.eye(3)
    bad[2, 1] = 1e-7
    with says(ValueError, "covs[1] is not symmetric", "[2, 1] is 1e-07", "[1, 2] is 0.0"):
        fv.GaussianMixture([0.5, 0.5], np.zeros((2, 3)), [np.eye(3), bad])
    bad[2, 1] = 1e-9
    assert fv.Gaussian(np.zeros(3), bad).cov[1, 2] == 5e-10


def test_bad_weights():
    for weights, index, value in (([0.5, -0.5, 1.0], 1, "-0.5"), ([-1e-300, 0.5, 0.5], 0, "-1e-300")):
        with says(ValueError, f"weights[{index}] is {value}", "must be >= 0"):
            fv.GaussianMixture(weights, [0, 1, 2], [1, 1, 1])
    with says(ValueError, "weights sum to 0.75", "must sum to 1 within 1e-06"):
        fv.GaussianMixture([0.25, 0.5], [0, 1], [1, 1])
    with says(ValueError, "weights sum to 0.0", "must sum to 1"):
        fv.GaussianMixture([0, 0], [0, 1], [1, 1])
    with says(ValueError, "weights sum to 1.00000", "must sum to 1 within 1e-06"):
        fv.GaussianMixture([0.5, 0.5 + 1.1e-6], [0, 1], [1, 1])


def test_dimensions_that_do_not_fit():
    with says(ValueError, "cov must have shape (3, 3), as mean has 3 entries, not (2, 2)"):
        fv.Gaussian([0, 0, 0], SPD)
    with says(ValueError, "cov must have shape (2, 2)", "not (1, 1)"):
        fv.Gaussian([0, 0], 1)
    with says(ValueError, "mean must have shape (D,), not (1, 2)"):
        fv.Gaussian([[0, 0]], SPD)
    with says(ValueError, "cov must have shape (D, D), not (1, 2, 2)"):
        fv.Gaussian([0, 0], SPD[None])
    shapes = "weights, means and covs must have shapes (K,), (K, D) and (K, D, D), not "
    with says(ValueError, shapes + "(2,), (3, 2) and (3, 2, 2)"):
        fv.GaussianMixture([0.5, 0.5], np.zeros((3, 2)), [SPD] * 3)
    with says(ValueError, shapes + "(2,), (2, 2) and (1, 2, 2)"):
        fv.GaussianMixture([0.5, 0.5], np.zeros((2, 2)), [SPD])
    with says(ValueError, shapes + "(2,), (2, 3) and (2, 2, 2)"):
        fv.GaussianMixture([0.5, 0.5], np.zeros((2, 3)), [SPD] * 2)
    with says(ValueError, "covs must have shape (K, D, D), not (2, 2)"):
        fv.GaussianMixture([0.5, 0.5], np.zeros((2, 2)), SPD)
    with says(ValueError, "weights must have shape (K,), not (1, 2)"):
        fv.GaussianMixture([[0.5, 0.5]], [0, 1], [1, 1])
    with says(ValueError, "means must have shape (K, D), not ()"):
        fv.GaussianMixture([1.0], 0.0, [1.0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_entries_that_are_not_finite(value):
    shown = f"is {value}: it must be finite"
    with says(ValueError, "mean[1] " + shown):
        fv.Gaussian([0, value], SPD)
    with says(ValueError, "cov[1, 0] " + shown):
        fv.Gaussian([0, 0], [[1, 0], [value, 1]])
    with says(ValueError, "weights[1] " + shown):
        fv.GaussianMixture([1, value], [0, 1], [1, 1])
    with says(ValueError, "means[1, 0] " + shown):
        fv.GaussianMixture([0.5, 0.5], [[0, 0], [value, 0]], [SPD] * 2)
    with says(ValueError, "covs[1, 0, 1] " + shown):
        fv.GaussianMixture([0.5, 0.5], [[0, 0], [1, 0]], [SPD, [[1, value], [0, 1]]])
    with says(ValueError, "x[2] " + shown):
        fv.Grid2D([0, 1, value], [0, 1, 2], np.zeros((3, 3)))
    with says(ValueError, "y[0] " + shown):
        fv.Grid2D([0, 1, 2], [value, 1, 2], np.zeros((3, 3)))


def test_empty_arrays():
    with says(ValueError, "mean is empty", "(0,)"):
        fv.Gaussian([], np.empty((0, 0)))
    with says(ValueError, "weights is empty", "(0,)"):
        fv.GaussianMixture([], [], [])
    with says(ValueError, "means is empty", "(2, 0)"):
        fv.GaussianMixture([0.5, 0.5], np.empty((2, 0)), np.empty((2, 0, 0)))
    with says(ValueError, "x is empty"):
        fv.Grid2D([], [0, 1, 2], np.empty((0, 3)))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("ab", "is a str"),
        (["1", "2"], "has dtype <U1"),
        (1j, "has dtype complex128"),
        (None, "has dtype object"),
    ],
)
def test_things_that_are_not_numbers(bad, words):
    with says(TypeError, "mean " + words):
        fv.Gaussian(bad, SPD)
    with says(TypeError, "cov " + words):
        fv.Gaussian([0, 0], bad)
    with says(TypeError, "weights " + words):
        fv.GaussianMixture(bad, [0, 1], [1, 1])
    with says(TypeError, "means " + words):
        fv.GaussianMixture([0.5, 0.5], bad, [1, 1])
    with says(TypeError, "covs " + words):
        fv.GaussianMixture([0.5, 0.5], [0, 1], bad)
    with says(TypeError, "x " + words):
        fv.Grid2D(bad, [0, 1, 2], np.zeros((3, 3)))
    with says(TypeError, "y " + words):
        fv.Grid2D([0, 1, 2], bad, np.zeros((3, 3)))
    with says(TypeError, "logp " + words):
        fv.Grid2D([0, 1, 2], [0, 1, 2], bad)
    with says(TypeError, "z " + words):
        fv.Gaussian([0, 0], SPD).logpdf(bad)


def test_ragged_and_masked_arrays():
    with says(ValueError, "mean is not an array of numbers"):
        fv.Gaussian([[0, 1], [2]], SPD)
    with says(ValueError, "cov is not an array of numbers"):
        fv.Gaussian([0, 1], [[1, 0], [1]])
    with says(ValueError, "means is not an array of numbers"):
        fv.GaussianMixture([0.5, 0.5], [[0, 1], [2]], [SPD] * 2)
    with says(ValueError, "covs is not an array of numbers"):
        fv.GaussianMixture([0.5, 0.5], [[0, 1], [2, 3]], [SPD, [[1, 2], [3]]])
    masked = np.ma.masked_array([0.0, 1.0], [False, True])
    with says(TypeError, "mean is a masked array"):
        fv.Gaussian(masked, SPD)
    with says(TypeError, "means is a masked array"):
        fv.GaussianMixture([0.5, 0.5], masked, [1, 1])
    with says(TypeError, "weights is a masked array"):
        fv.GaussianMixture(masked, [0, 1], [1, 1])


def test_points_of_another_dimension():
    for p in (random_gaussian(1, 3), random_mixture(1, 3)):
        for method in (p.logpdf, p.pdf):
            with says(ValueError, "z must have shape (..., 3), not (2,)"):
                method([0, 0])
            with says(ValueError, "z must have shape (..., 3), not (3, 1)"):
                method(np.zeros((3, 1)))
            with says(ValueError, "z must have shape (..., 3), not ()"):
                method(0.0)


def test_points_that_are_not_finite():
    """A density at infinity is zero, and at NaN it is NaN: neither may pass for a number."""
    for p in (fv.Gaussian([0, 0], SPD), fv.GaussianMixture([0.5, 0.5], [[0, 0], [1, 1]], [SPD] * 2)):
        values = p.logpdf([[0.0, math.nan], [0.0, math.inf], [-math.inf, 0.0], [0.0, 0.0]])
        assert math.isnan(values[0])
        assert values[1] == values[2] == -math.inf
        assert math.isfinite(values[3])


def test_grid_that_is_not_increasing():
    good = [0, 1, 2, 3]
    table = np.zeros((4, 4))
    with says(ValueError, "x is not increasing: x[2] is 1.0 after 1.0"):
        fv.Grid2D([0, 1, 1, 2], good, table)
    with says(ValueError, "y is not increasing: y[3] is 1.5 after 2.0"):
        fv.Grid2D(good, [0, 1, 2, 1.5], table)
    with says(ValueError, "x is not increasing: x[1] is 2.0 after 3.0"):
        fv.Grid2D(good[::-1], good, table)
    with says(ValueError, "x is not increasing: x[1] is ", "after 2.0"):
        fv.Grid2D.from_function(bowl, [(2, -2), (0, 1)], (9, 9))
    with says(ValueError, "y is not increasing"):
        fv.Grid2D.from_function(bowl, [(0, 1), (3, 3)], (9, 9))


def test_grid_of_too_few_points():
    with says(ValueError, "x must have at least 3 points, not 2"):
        fv.Grid2D([0, 1], [0, 1, 2], np.zeros((2, 3)))
    with says(ValueError, "y must have at least 3 points, not 1"):
        fv.Grid2D([0, 1, 2], [0], np.zeros((3, 1)))
    with says(ValueError, "y must have at least 3 points, not 2"):
        fv.Grid2D.from_function(bowl, [(0, 1), (0, 1)], (9, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_log_densities(value):
    table = np.zeros((4, 3))
    table[2, 1] = value
    table[3, 0] = math.nan
    with says(ValueError, f"logp[2, 1] is {value}: log densities must be below +inf"):
        fv.Grid2D([0, 1, 2, 3], [0, 1, 2], table)
    with says(ValueError, f"logp[1, 2] is {value}"):
        fv.Grid2D.from_function(
            lambda x, y: np.where((x == 1.0) & (y == 2.0), value, 0.0), [(0, 3), (0, 2)], (4, 3)
        )


def test_density_that_is_zero_everywhere():
    with says(ValueError, "the density is zero everywhere on the grid", "-inf"):
        fv.Grid2D([0, 1, 2], [0, 1, 2], np.full((3, 3), -math.inf))
    with says(ValueError, "the density is zero everywhere on the grid"):
        fv.Grid2D.from_function(lambda x, y: -math.inf, [(0, 1), (0, 1)], (3, 3))


def test_grid_table_of_another_shape():
    with says(ValueError, "logp must have shape (4, 3), like x and y, not (3, 4)"):
        fv.Grid2D([0, 1, 2, 3], [0, 1, 2], np.zeros((3, 4)))
    with says(ValueError, "logp must have shape (3, 3)", "not (9,)"):
        fv.Grid2D([0, 1, 2], [0, 1, 2], np.zeros(9))
    with says(ValueError, "x must have shape (n,), not (3, 1)"):
        fv.Grid2D([[0], [1], [2]], [0, 1, 2], np.zeros((3, 3)))


def test_from_function_of_something_else():
    with says(TypeError, "function must be callable, not ndarray"):
        fv.Grid2D.from_function(TABLE, [(0, 1), (0, 1)])
    pair = "bounds must be two pairs and shape two integers, not "
    for bounds, shape in (
        ([(0, 1)], (9, 9)),
        ([0, 1, 2, 3], (9, 9)),
        ([(0, 1, 2), (0, 1)], (9, 9)),
        (None, (9, 9)),
        ([(0, 1), (0, 1)], 9),
        ([(0, 1), (0, 1)], (9, 9, 9)),
    ):
        with says(ValueError, pair, repr(bounds), repr(shape)):
            fv.Grid2D.from_function(bowl, bounds, shape)
    for shape in (("a", 9), (9.5, 9)):
        with says(TypeError, f"shape[0] must be an integer, not {shape[0]!r}"):
            fv.Grid2D.from_function(bowl, [(0, 1), (0, 1)], shape)
    with says(TypeError, "bounds[0][1] must be a real number, not 'b'"):
        fv.Grid2D.from_function(bowl, [(0, "b"), (0, 1)])
    with says(ValueError, "bounds[1][0] is nan"):
        fv.Grid2D.from_function(bowl, [(0, 1), (math.nan, 1)])


def test_bounds_that_are_infinite():
    with says(ValueError, "bounds[0][1] is inf"):
        fv.Grid2D.from_function(bowl, [(0, math.inf), (0, 1)])


def test_errors_inside_the_function_reach_the_user():
    def broken(x, y):
        raise RuntimeError("lost my data")

    with says(RuntimeError, "lost my data"):
        fv.Grid2D.from_function(broken, [(0, 1), (0, 1)], (3, 3))


def test_from_distribution_of_something_else():
    for thing in (TABLE, grid(9), multivariate_normal([0, 0], SPD), "p", bowl):
        with says(
            TypeError, f"from_distribution takes a Gaussian or a GaussianMixture, not {type(thing).__name__}"
        ):
            fv.Grid2D.from_distribution(thing)
    for dim in (1, 3):
        with says(ValueError, f"a Grid2D needs a distribution in 2 dimensions; p has {dim}"):
            fv.Grid2D.from_distribution(random_gaussian(1, dim))
        with says(ValueError, f"p has {dim}"):
            fv.Grid2D.from_distribution(random_mixture(1, dim))
