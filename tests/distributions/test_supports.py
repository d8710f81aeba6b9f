"""Supports: there and back, their Jacobians, and points outside."""

import numba
import numpy as np
import pytest
from scipy.stats import qmc

import fastvi as fv
from fastvi.distributions import support as support_
from fastvi.kernels.models import kinds, supports
from helpers.messages import says


@numba.njit
def squares(z):
    return -0.5 * (z * z).sum()


SUPPORTS = [
    ("real", 2, 2),
    ("positive", 1, 1),
    (("lower", -2.5), 2, 2),
    (("upper", 3.0), 1, 1),
    (("interval", -1.0, 4.0), 1, 1),
    ("simplex", 2, 1),
    ("simplex", 5, 4),
    (["real", "simplex", "simplex", "simplex", "positive"], 5, 4),
    (["simplex", "simplex", ("upper", 0.0), "simplex", "simplex", "simplex"], 6, 4),
    (("simplex", 3), 3, 2),
    (("simplex", 2), 6, 3),
    ([("simplex", 2), ("simplex", 3), "simplex", "simplex"], 7, 4),
    ("ordered", 4, 4),
    ("positive_ordered", 3, 3),
    (["real", "ordered", "ordered", ("ordered", 2), "positive", ("positive_ordered", 3), "ordered"], 10, 10),
    (("cholesky_corr", 2), 4, 1),
    (("cholesky_corr", 4), 16, 6),
    (["positive", ("cholesky_corr", 3), ("simplex", 2), ("cholesky_corr", 2), "real"], 17, 7),
    (("interval", [0.0, -1.0], [1.0, 5.0]), 2, 2),
    ([("lower", np.array([1.0, 2.0])), ("interval", 0.0, [1.0, 2.0]), ("upper", [[0.0], [1.0]])], 6, 6),
]


def free_coordinates(place):
    """Those that the density is of."""
    found, k, start = [], 0, 0
    for kind, (low, high) in zip(place.kinds, place.bounds, strict=True):
        if kind == kinds.CORRELATION:
            size, entry = int(low), int(high)
            start = k if entry == size else start
            found.append(start + entry)
            k = start + size * size
            continue
        found.append(k)
        k += 2 if kind == kinds.SIMPLEX and low == 1.0 else 1
    assert k == place.dim
    return found


@pytest.mark.parametrize(("support", "dim", "latent"), SUPPORTS)
def test_there_and_back(support, dim, latent):
    place = support_.Support(support, dim)
    assert (place.dim, place.latent_dim) == (dim, latent)
    assert place.is_real == (support == "real")
    x = 3.0 * np.random.default_rng(0).standard_normal((50, latent))
    z, log_jacobian = place.to_model(x)
    np.testing.assert_allclose(place.to_latent("z", z), x, rtol=1e-9, atol=1e-9)
    free = free_coordinates(place)
    for i in range(0, 50, 10):
        steps = 1e-5 * np.eye(latent)
        jacobian = (place.to_model(x[i] + steps)[0] - place.to_model(x[i] - steps)[0])[:, free] / 2e-5
        assert abs(np.linalg.slogdet(jacobian)[1] - log_jacobian[i]) <= 1e-6
    # Latent zeros are the centre: equal shares of a simplex, 1 for a positive number.
    centre = place.to_model(np.zeros((1, latent)))[0][0]
    if support == "simplex":
        np.testing.assert_allclose(centre, 1 / dim, rtol=1e-14)
    if support == "positive":
        assert centre[0] == 1.0


def groups(place, z):
    """(word, the coordinates (N, ...)) of each group of a support."""
    words, dim = support_.declaration_of(place.kinds, place.bounds)
    assert dim == z.shape[1]
    k = 0
    for word, *numbers in (w if isinstance(w, tuple) else (w,) for w in words):
        size = int(numbers[0]) if word in ("simplex", "ordered", "positive_ordered") else 1
        if word == "cholesky_corr":
            size = numbers[0] ** 2
        yield word, numbers, z[:, k : k + size]
        k += size


@pytest.mark.parametrize(("support", "dim", "latent"), SUPPORTS)
def test_points_lie_in_the_support(support, dim, latent):
    place = support_.Support(support, dim)
    z, _ = place.to_model(3.0 * np.random.default_rng(1).standard_normal((40, latent)))
    for word, numbers, x in groups(place, z):
        if word == "simplex":
            assert (x > 0.0).all()
            np.testing.assert_allclose(x.sum(axis=1), 1.0, rtol=1e-14)
        elif word.endswith("ordered"):
            assert (np.diff(x, axis=1) > 0.0).all()
            assert word == "ordered" or (x > 0.0).all()
        elif word == "cholesky_corr":
            factor = x.reshape(-1, numbers[0], numbers[0])
            assert (factor == np.tril(factor)).all()
            assert (np.diagonal(factor, axis1=1, axis2=2) > 0.0).all()
            np.testing.assert_allclose((factor**2).sum(axis=2), 1.0, rtol=1e-14)
        else:
            ends = {"real": (-np.inf, np.inf), "positive": (0.0, np.inf), "interval": numbers}
            ends |= {"lower": (*numbers, np.inf), "upper": (-np.inf, *numbers)}
            assert (x > ends[word][0]).all()
            assert (x < ends[word][1]).all()


@pytest.mark.parametrize(("support", "dim", "latent"), SUPPORTS)
def test_what_kernels_know_declares_the_same_support(support, dim, latent):
    place = support_.Support(support, dim)
    again = support_.Support(*support_.declaration_of(place.kinds, place.bounds))
    assert again.dim == dim
    assert np.array_equal(again.kinds, place.kinds)
    assert np.array_equal(again.bounds, place.bounds)


@pytest.mark.parametrize(("support", "dim", "latent"), SUPPORTS)
def test_gradients_are_pulled_back(support, dim, latent):
    """Against differences of c'z + the log-Jacobian in the latent coordinates."""
    place = support_.Support(support, dim)
    rng = np.random.default_rng(2)
    slope = rng.standard_normal(dim)
    for x in rng.standard_normal((5, latent)):
        found = np.empty(latent)
        z = place.to_model(x[None])[0][0]
        supports.pull_back(place.kinds, place.bounds, x, z, slope, found)
        up, down = (place.to_model(x + h * np.eye(latent)) for h in (1e-5, -1e-5))
        numerical = ((up[0] - down[0]) @ slope + (up[1] - down[1])) / 2e-5
        np.testing.assert_allclose(found, numerical, rtol=1e-7, atol=1e-7)


def flat(z):
    return 0.0


@numba.njit
def of_factor(z, size, eta):
    return fv.densities.lkj_corr_cholesky(z.reshape((size, size)), eta)


@numba.njit
def of_ordered(z):
    return fv.densities.normal(z, 0.0, 1.0)


@numba.njit
def of_positive_ordered(z):
    return fv.densities.exponential(z, 2.0)


@numba.njit
def of_two_simplexes(z):
    return fv.densities.dirichlet(z[:2], np.array([2.0, 3.0])) + fv.densities.dirichlet(
        z[2:], np.array([4.0, 1.5])
    )


@pytest.mark.parametrize(
    ("log_joint", "dim", "support", "data", "expected"),
    [
        (of_two_simplexes, 4, ("simplex", 2), (), 0.0),
        (of_ordered, 2, "ordered", (), -np.log(2.0)),
        (of_positive_ordered, 2, "positive_ordered", (), -np.log(2.0)),
        (of_factor, 4, ("cholesky_corr", 2), (2, 1.5), 0.0),
        (flat, 2, ("interval", [0.0, 1.0], [2.0, 5.0]), (), np.log(8.0)),
    ],
)
def test_evidence_of_normalised_densities(log_joint, dim, support, data, expected):
    """Two latent coordinates: the integral over the support, and over a lattice of latent points."""
    model = fv.Model(log_joint, dim, data, support)
    found = fv.log_evidence(model)
    assert abs(found.value - expected) <= 1e-9
    assert abs(fv.elbo(model, fv.fit(model).q).value - found.value) <= 0.2
    x = np.linspace(-30.0, 30.0, 1201)
    points = np.stack(np.meshgrid(*[x] * model.latent_dim, indexing="ij"), -1).reshape(-1, model.latent_dim)
    if model.latent_dim == 1:
        z, log_jacobian = model._support.to_model(points)
        assert abs(np.log(np.exp(model.log_density(z) + log_jacobian).sum() * 0.05) - expected) <= 1e-9


def test_the_density_of_factors_is_normalised():
    """In three rows, by quasi-random points in the latent coordinates."""
    place = support_.Support(("cholesky_corr", 3), 9)
    u = qmc.Sobol(3, seed=0).random(2**13)
    x = 0.5 * np.log(u / (1.0 - u))  # sech² / 2
    z, log_jacobian = place.to_model(x)
    log_weight = log_jacobian - (np.log(0.5) + 2.0 * np.log(1.0 / np.cosh(x))).sum(axis=1)
    values = [fv.densities.lkj_corr_cholesky(one.reshape(3, 3), 2.0) for one in z]
    assert abs(np.exp(np.array(values) + log_weight).mean() - 1.0) <= 1e-3


def test_points_outside_of_a_support():
    for support, dim, z in (
        ("positive", 1, [0.0]),
        ("positive", 1, [-1.0]),
        (("lower", 1.0), 1, [1.0]),
        (("upper", 1.0), 1, [1.0]),
        (("interval", 0.0, 1.0), 1, [1.0]),
        ("simplex", 2, [0.5, 0.6]),
        ("simplex", 3, [0.5, 0.5, 0.0]),
        ("simplex", 3, [0.7, 0.5, -0.2]),
        (("simplex", 2), 4, [0.5, 0.5, 0.6, 0.5]),
        ("ordered", 3, [0.0, 1.0, 1.0]),
        ("positive_ordered", 2, [-1.0, 1.0]),
        (("cholesky_corr", 2), 4, [1.0, 0.1, 0.6, 0.8]),
        (("cholesky_corr", 2), 4, [1.0, 0.0, 0.6, 0.9]),
        (("cholesky_corr", 2), 4, [1.0, 0.0, 0.6, -0.8]),
        (("cholesky_corr", 2), 4, [0.9, 0.0, 0.6, 0.8]),
        (("interval", [0.0, 1.0], [1.0, 2.0]), 2, [0.5, 0.5]),
    ):
        with says(ValueError, "start is [", "it lies outside of the model's support"):
            fv.fit(fv.Model(squares, dim, support=support), start=z)
    with says(ValueError, "z[1] is [-1.0]"):
        support_.Support("positive", 1).to_latent("z", np.array([[1.0], [-1.0]]))
