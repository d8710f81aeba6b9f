"""Gaussians, mixtures and truncated Gaussians: in users' compiled code, against slow versions."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf
from numba import njit
from scipy import stats

from fastvi.kernels.densities import gaussians, mixtures, truncated
from helpers.forms import both
from helpers.mixtures import arrays, frozen, log_mixture, log_normal, random_factor, random_mixture

dims = pytest.mark.parametrize("dim", [1, 2, 3])


@njit
def use_gaussians(z, mean_p, chol_p, mean_q, chol_q, space):
    return gaussians.gaussian_kl(mean_p, chol_p, mean_q, chol_q, space), gaussians.gaussian_logpdf(
        z, mean_p, chol_p, space
    )


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
def test_gaussians(dim):
    rng = np.random.default_rng(dim)
    z, mean_p, mean_q = rng.standard_normal((3, dim))
    chol_p, chol_q = random_factor(rng, dim), random_factor(rng, dim)
    value, density = use_gaussians(*frozen(z, mean_p, chol_p, mean_q, chol_q), np.empty(2 * dim))
    inverse = np.linalg.inv(chol_q @ chol_q.T)
    d = mean_p - mean_q
    exact = 0.5 * (
        np.trace(inverse @ chol_p @ chol_p.T)
        + d @ inverse @ d
        - dim
        + 2.0 * np.log(np.diag(chol_q) / np.diag(chol_p)).sum()
    )
    assert value == pytest.approx(exact, rel=1e-12)
    assert density == pytest.approx(log_normal(z[None], mean_p, chol_p)[0], rel=1e-13)


@njit
def use_mixture(points, log_weights, means, chols, space, out):
    for i in range(len(points)):
        out[i] = mixtures.mixture_logpdf(points[i], log_weights, means, chols, space)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_mixture_density(dim):
    p = random_mixture(1, dim, 3)
    triple = arrays(p)
    points = 3.0 * np.random.default_rng(0).standard_normal((40, dim))
    out = np.empty(40)
    use_mixture(points, *frozen(*triple), np.empty(dim), out)
    np.testing.assert_allclose(out, log_mixture(points, *triple), rtol=1e-13)
    np.testing.assert_allclose(out, p.logpdf(points), rtol=1e-13)


@both
@dims
@pytest.mark.parametrize("seed", range(3))
def test_climbing_ends_at_a_mode(form, dim, seed):
    p = random_mixture(seed, dim, 3)
    triple = arrays(p)
    for k in range(3):
        z, gradient = triple[1][k].copy(), np.empty(dim)
        curvature, precision = np.empty((dim, dim)), np.empty((dim, dim))
        before = log_mixture(z[None], *triple)[0]
        assert form(mixtures.find_mode)(*triple, z, gradient, curvature, precision, np.empty(2 * dim))
        assert log_mixture(z[None], *triple)[0] >= before
        step = 1e-4
        unit = np.eye(dim) * step

        def at(*changes, z=z):
            return log_mixture((z + sum(changes))[None], *triple)[0]

        by_differences = np.array([(at(u) - at(-u)) / (2.0 * step) for u in unit])
        hessian = np.array(
            [[(at(u, v) - at(u, -v) - at(-u, v) + at(-u, -v)) / (4.0 * step**2) for v in unit] for u in unit]
        )
        np.testing.assert_allclose(curvature, -hessian, rtol=0, atol=1e-5 * np.abs(hessian).max())
        assert math.sqrt(by_differences @ np.linalg.solve(-hessian, by_differences)) < 1e-3


def exact_log_density(z, log_weights, means, factors):
    """In mpmath, with each float taken as it is, for triangular factors."""
    with mp.workdps(60):
        total = mpf(0)
        for w, m, f in zip(log_weights, means, factors, strict=True):
            if w == -math.inf:
                continue
            white, log_value = [], mpf(float(w))
            for i in range(len(m)):
                d = mpf(float(z[i])) - mpf(float(m[i]))
                d -= mp.fsum(mpf(float(f[i, j])) * white[j] for j in range(i))
                white.append(d / mpf(float(f[i, i])))
                log_value -= mp.log(mpf(float(f[i, i]))) + white[-1] ** 2 / 2 + mp.log(2 * mp.pi) / 2
            total += mp.exp(log_value)
        return float(mp.log(total))


@both
@dims
@pytest.mark.parametrize(
    ("log_weights", "spread"),
    [
        ([-1.0, -1.2, -0.9], 2.0),
        ([-1.0, -1.2, -0.9], 60.0),
        ([-1.0, -1.2, -0.9], 1e4),
        ([-math.inf, -0.1, -3.0], 2.0),
        ([-0.1, -math.inf, -3.0], 60.0),
        ([-0.1, -690.0, -math.inf], 2.0),
    ],
)
def test_log_density_of_blocks(form, dim, log_weights, spread):
    rng = np.random.default_rng(dim)
    log_weights = np.array(log_weights)
    means = spread * rng.standard_normal((3, dim))
    factors = np.stack([random_factor(rng, dim) for _ in range(3)])
    mean, factor = rng.standard_normal(dim), random_factor(rng, dim)
    coefficients = np.zeros((3, 13))
    given = mixtures.Mixture(log_weights, means, factors)
    form(mixtures.write_coefficients)(given, mean, factor, coefficients, np.empty(3))
    (x, y), z = 3.0 * rng.standard_normal((2, 40)), 0.7
    top, total = np.empty(40), np.empty(40)
    form(mixtures.log_terms)(coefficients, dim, x, y, z, top, total)
    assert ((total >= 1.0) & (total <= 3.0)).all()
    out = top + np.log(total)
    for i in range(40):
        xi = np.array([x[i], y[i], z])[:dim]
        exact = exact_log_density(mean + factor @ xi, log_weights, means, factors)
        assert out[i] == pytest.approx(exact, rel=1e-13, abs=1e-13)
        direct = mixtures.mixture_logpdf(mean + factor @ xi, log_weights, means, factors, np.empty(dim))
        assert direct == pytest.approx(exact, rel=1e-13, abs=1e-13)


def test_masses_and_moments_as_in_plain_python():
    for mu, sigma, low, high in (
        (0.0, 1.0, 0.0, math.inf),
        (0.3, 2.0, -1.0, 4.0),
        (0.0, 1.0, 30.0, math.inf),
        (5.0, 0.1, -math.inf, 4.0),
        (0.0, 1.0, 9.0, 9.5),
    ):
        a, b = (low - mu) / sigma, (high - mu) / sigma
        one, two = np.empty(3), np.empty(3)
        mass = truncated.moments(mu, sigma, low, high, one)
        assert abs(truncated.moments.py_func(mu, sigma, low, high, two) - mass) <= 1e-13 * abs(mass) + 1e-15
        np.testing.assert_allclose(one, two, rtol=1e-12)
        # The log masses of the tail in which they are small.
        if a > 0:
            a, b = -b, -a
        upper, lower = stats.norm.logcdf(b), stats.norm.logcdf(a)
        assert abs(mass - (upper + math.log1p(-math.exp(lower - upper)))) <= 1e-11 * (1 + abs(mass))
