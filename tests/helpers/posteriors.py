"""Densities as log joints. Normalised but for gammas and groups: KL(q ‖ posterior) is minus the ELBO."""

import math

import numba
import numpy as np

from fastvi.kernels.inference import saturation

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@numba.njit
def gaussian(z, mean, precision):
    """With a precision of determinant 1."""
    s = 0.0
    for i in range(z.size):
        s -= HALF_LOG_2PI
        for j in range(z.size):
            s -= 0.5 * (z[i] - mean[i]) * precision[i, j] * (z[j] - mean[j])
    return s


@numba.njit
def mixture(z, weights, means, deviations):
    """Of products of normals."""
    top, s = -math.inf, 0.0
    for k in range(weights.size):
        f = math.log(weights[k])
        for i in range(z.size):
            f -= 0.5 * ((z[i] - means[k, i]) / deviations[k]) ** 2 + math.log(deviations[k]) + HALF_LOG_2PI
        if f > top:
            s = s * math.exp(top - f) + 1.0 if top > -math.inf else 1.0
            top = f
        else:
            s += math.exp(f - top)
    return top + math.log(s)


@numba.njit
def gamma(z, a):
    s = 0.0
    for i in range(z.size):
        s += (a - 1.0) * math.log(z[i]) - z[i] - math.lgamma(a)
    return s


@numba.njit
def gammas(z, a, b):
    """Of shapes a and rates b, but for their constants."""
    s = 0.0
    for i in range(z.size):
        s += (a[i] - 1.0) * math.log(z[i]) - b[i] * z[i]
    return s


@numba.njit
def student(z, nu):
    s = 0.0
    for i in range(z.size):
        s += math.lgamma(0.5 * (nu + 1)) - math.lgamma(0.5 * nu) - 0.5 * math.log(nu * math.pi)
        s -= 0.5 * (nu + 1) * math.log1p(z[i] ** 2 / nu)
    return s


@numba.njit
def logistic(z):
    s = 0.0
    for i in range(z.size):
        s -= abs(z[i]) + 2.0 * math.log1p(math.exp(-abs(z[i])))
    return s


@numba.njit
def beta(z, a, b):
    s = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return s + (a - 1.0) * math.log(z[0]) + (b - 1.0) * math.log(1.0 - z[0])


@numba.njit
def dirichlet(z, a):
    s = math.lgamma(z.size * a) - z.size * math.lgamma(a)
    for i in range(z.size):
        s += (a - 1.0) * math.log(z[i])
    return s


@numba.njit
def banana(z, bend):
    """Pairs of N(0, 1) and N(bend x², 1)."""
    s = 0.0
    for i in range(0, z.size, 2):
        s -= 0.5 * z[i] ** 2 + 0.5 * (z[i + 1] - bend * z[i] ** 2) ** 2 + 2.0 * HALF_LOG_2PI
    return s


@numba.njit
def funnel(z, spread):
    s = -0.5 * (z[0] / spread) ** 2 - math.log(spread) - HALF_LOG_2PI
    for i in range(1, z.size):
        s -= 0.5 * z[i] ** 2 * math.exp(-z[0]) + 0.5 * z[0] + HALF_LOG_2PI
    return s


@numba.njit
def gumbel(z, inverse):
    """A linear map of Gumbel variables, of which `inverse` has the determinant 1."""
    s = 0.0
    for i in range(z.size):
        x = 0.0
        for j in range(z.size):
            x += inverse[i, j] * z[j]
        s -= x + math.exp(-x)
    return s


@numba.njit
def two_scales(z, inverse, share, width):
    """A linear map of normals, of which a share is so wide; `inverse` has the determinant 1."""
    s = 0.0
    for i in range(z.size):
        x = 0.0
        for j in range(z.size):
            x += inverse[i, j] * z[j]
        wide = share / width * math.exp(-0.5 * (x / width) ** 2)
        s += math.log((1.0 - share) * math.exp(-0.5 * x * x) + wide) - HALF_LOG_2PI
    return s


@numba.njit
def elliptical(z, nu):
    """Student's t in many dimensions, with one radius for all coordinates."""
    s, d = 0.0, z.size
    for i in range(d):
        s += z[i] ** 2
    s = -0.5 * (nu + d) * math.log1p(s / nu) - 0.5 * d * math.log(nu * math.pi)
    return s + math.lgamma(0.5 * (nu + d)) - math.lgamma(0.5 * nu)


def turned(dim, seed):
    """A matrix of determinant 1."""
    matrix = np.random.default_rng(seed).standard_normal((dim, dim)) + 2.0 * np.eye(dim)
    return matrix / abs(np.linalg.det(matrix)) ** (1 / dim)


def correlated(dim, correlation):
    """(mean, precision) of a Gaussian with equal correlations, scaled to determinant 1."""
    cov = (1 - correlation) * np.eye(dim) + correlation
    cov /= np.linalg.det(cov) ** (1 / dim)
    return np.arange(dim) / 2.0, np.linalg.inv(cov)


def modes(dim, distance, weights=(0.5, 0.5), deviation=1.0):
    """Two modes so far from the origin, on either side."""
    means = np.array([np.full(dim, distance / math.sqrt(dim)), np.full(dim, -distance / math.sqrt(dim))])
    return np.array(weights), means, np.full(2, deviation)


def scattered(dim, count, distance, seed):
    """Modes so far from a point, in random directions, with other weights and widths."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((count, dim))
    means *= distance / np.linalg.norm(means, axis=1)[:, None]
    weights = rng.dirichlet(np.full(count, 3.0))
    return weights, means + rng.standard_normal(dim), np.exp(rng.uniform(-0.5, 0.5, count))


def limits_of(support):
    """The least and largest value of each latent coordinate from which z keeps digits."""
    kinds, bounds = support.kinds.tolist(), support.bounds.tolist()
    return [saturation.limits(kind, low, high) for kind, (low, high) in zip(kinds, bounds, strict=True)]


@numba.njit
def normal_gamma(z, a, rate, k, mean):
    """z[0] is normal around a mean with the precision k z[1], which has a Gamma density."""
    total = a * math.log(rate) - math.lgamma(a) + (a - 1.0) * math.log(z[1]) - rate * z[1]
    return total + 0.5 * math.log(k * z[1] / (2.0 * math.pi)) - 0.5 * k * z[1] * (z[0] - mean) ** 2


@numba.njit
def groups(z, y, s, power, rate):
    """Groups, their mean with a flat prior, their deviation with the prior tau^power exp(-rate / tau^2)."""
    mean, tau = z[y.size], z[y.size + 1]
    total = power * math.log(tau) - rate / tau**2
    for j in range(y.size):
        total -= 0.5 * ((z[j] - mean) / tau) ** 2 + math.log(tau) + 0.5 * ((y[j] - z[j]) / s[j]) ** 2
    return total


@numba.njit
def standard_groups(z, y, s, power, rate):
    """The same by standard normal effects."""
    mean, tau = z[y.size], z[y.size + 1]
    total = power * math.log(tau) - rate / tau**2
    for j in range(y.size):
        total -= 0.5 * z[j] ** 2 + 0.5 * ((y[j] - mean - tau * z[j]) / s[j]) ** 2
    return total
