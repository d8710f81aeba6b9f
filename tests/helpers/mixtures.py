"""Random mixtures, points of them, and densities in NumPy."""

import math

import numpy as np

import fastvi as fv


def random_cov(rng, dim, condition=10.0):
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    cov = (rotation * condition ** rng.uniform(-0.5, 0.5, dim)) @ rotation.T
    return 0.5 * (cov + cov.T)


def random_mixture(seed, dim, components, spread=2.0):
    rng = np.random.default_rng([seed, dim, components])
    return fv.GaussianMixture(
        rng.dirichlet(np.full(components, 2.0)),
        spread * rng.standard_normal((components, dim)),
        [random_cov(rng, dim) for _ in range(components)],
    )


def with_needles(seed, dim):
    """A line with narrow components between wide ones, or a plane where many overlap; and a number below."""
    rng = np.random.default_rng(seed)
    if dim == 1:
        count = int(rng.integers(8, 50))
        widths = np.where(rng.random(count) < 0.3, 0.01, 1.0) * rng.uniform(0.5, 2.0, count)
        weights, means = rng.dirichlet(np.ones(count)), 2.0 * rng.normal(size=(count, 1))
        return fv.GaussianMixture(weights, means, (widths**2)[:, None, None]), int(rng.integers(3, 7))
    roots = rng.normal(size=(46, 2, 4)) * 10.0 ** rng.uniform(-0.3, 0.3, (46, 1, 1))
    weights, means = rng.dirichlet(np.full(46, 0.3)), 0.3 * rng.normal(size=(46, 2))
    return fv.GaussianMixture(weights, means, roots @ roots.swapaxes(1, 2)), 4


def random_factor(rng, dim):
    return np.linalg.cholesky(random_cov(rng, dim))


def arrays(p):
    """Log weights, means and factors, as a user would make them."""
    with np.errstate(divide="ignore"):
        return np.log(p.weights), np.array(p.means), np.linalg.cholesky(p.covs)


def frozen(*given):
    """Read-only copies."""
    copies = [np.array(a) for a in given]
    for a in copies:
        a.flags.writeable = False
    return copies


def log_normal(z, mean, factor):
    white = np.linalg.solve(factor, (z - mean).T)
    constant = np.log(np.diag(factor)).sum() + 0.5 * len(mean) * math.log(2.0 * math.pi)
    return -0.5 * (white**2).sum(axis=0) - constant


def log_mixture(z, log_weights, means, factors):
    parts = [w + log_normal(z, m, f) for w, m, f in zip(log_weights, means, factors, strict=True)]
    return np.logaddexp.reduce(parts, axis=0)


def clouds(seed, n, dim, k, spread=3.0):
    """Points around k centres, and a mixture to start from."""
    rng = np.random.default_rng([seed, n, dim, k])
    centres = spread * rng.standard_normal((k, dim))
    x = centres[rng.integers(0, k, n)] + rng.standard_normal((n, dim)) @ (
        np.eye(dim) + 0.4 * rng.standard_normal((dim, dim))
    )
    cov = np.atleast_2d(np.cov(x.T)) / 2
    start = fv.GaussianMixture(np.full(k, 1 / k), centres + 0.3 * rng.standard_normal((k, dim)), [cov] * k)
    return x, start
