"""A Poisson regression with a hundred groups and a regression with a horseshoe prior, in the centred form.

Under a q without correlations their ELBOs have closed forms, up to one integral over a line: the ELBO of a
fit is compared with that of its q, and with the best of 20 maxima of the exact ELBO.
"""

import math

import numba
import numpy as np
import pytest

import fastvi as fv


@numba.njit
def counts(z, rows, group, y):
    """Mean and deviation of the groups' intercepts, slopes, intercepts."""
    slopes, intercepts = z[2 : 2 + rows.shape[1]], z[2 + rows.shape[1] :]
    r = -(z[0] ** 2) / 8 - 0.5 * z[1] ** 2
    for j in range(slopes.size):
        r -= 0.5 * slopes[j] ** 2
    for j in range(intercepts.size):
        r -= 0.5 * ((intercepts[j] - z[0]) / z[1]) ** 2 + math.log(z[1])
    for i in range(y.size):
        m = intercepts[group[i]]
        for j in range(slopes.size):
            m += rows[i, j] * slopes[j]
        r += y[i] * m - math.exp(m)
    return r


def counts_data(groups=100, each=4, seed=1):
    rng = np.random.default_rng(seed)
    rows, group = rng.normal(size=(groups * each, 2)), np.repeat(np.arange(groups), each)
    rate = np.exp(rng.normal(0.5, 0.7, groups)[group] + rows @ np.array([0.5, -0.3]))
    return rows, group, rng.poisson(rate).astype(float)


def exact_elbo_of_counts(m, s, rows, group, y):
    """The means and deviations of q are latent: of the logarithm of z[1]."""
    a, b = slice(2, 2 + rows.shape[1]), slice(2 + rows.shape[1], None)
    r = -(m[0] ** 2 + s[0] ** 2) / 8 - 0.5 * math.exp(2 * m[1] + 2 * s[1] ** 2) + m[1]
    r -= 0.5 * (m[a] ** 2 + s[a] ** 2).sum()
    squares = (m[b] - m[0]) ** 2 + s[b] ** 2 + s[0] ** 2
    r -= (0.5 * squares * math.exp(2 * s[1] ** 2 - 2 * m[1]) + m[1]).sum()
    linear = m[b][group] + rows @ m[a]
    r += (y * linear - np.exp(linear + 0.5 * (s[b][group] ** 2 + rows**2 @ s[a] ** 2))).sum()
    return r + np.log(s).sum() + 0.5 * m.size * math.log(2 * math.pi * math.e)


@numba.njit
def horseshoe(z, rows, y):
    """Coefficients, their scales, the scale of all, the deviation of the noise."""
    k = rows.shape[1]
    scale, noise = z[2 * k], z[2 * k + 1]
    r = -math.log1p(scale**2) - 0.5 * noise**2
    for j in range(k):
        spread = scale * z[k + j]
        r -= math.log1p(z[k + j] ** 2) + 0.5 * (z[j] / spread) ** 2 + math.log(spread)
    for i in range(y.size):
        m = 0.0
        for j in range(k):
            m += rows[i, j] * z[j]
        r -= 0.5 * ((y[i] - m) / noise) ** 2 + math.log(noise)
    return r


def horseshoe_data(n=60, k=10, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, k))
    return rows, rows[:, :3] @ np.array([2.0, -1.5, 1.0]) + rng.normal(size=n)


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def exact_elbo_of_horseshoe(m, s, rows, y):
    """The means and deviations of q are latent: of the logarithms of all but the coefficients."""
    n, k = rows.shape
    b, c, t, e = slice(k), slice(k, 2 * k), 2 * k, 2 * k + 1
    half_cauchy = np.append(m[c], m[t])[:, None] + np.append(s[c], s[t])[:, None] * NODES
    r = -(np.logaddexp(0.0, 2 * half_cauchy) @ WEIGHTS).sum() + m[c].sum() + m[t] + m[e]
    r -= 0.5 * math.exp(2 * m[e] + 2 * s[e] ** 2)
    inverse = np.exp(2 * (s[c] ** 2 + s[t] ** 2) - 2 * (m[c] + m[t]))
    r -= (0.5 * (m[b] ** 2 + s[b] ** 2) * inverse + m[c] + m[t]).sum()
    squares = ((y - rows @ m[b]) ** 2).sum() + (rows**2 @ s[b] ** 2).sum()
    r -= 0.5 * squares * math.exp(2 * s[e] ** 2 - 2 * m[e]) + n * m[e]
    return r + np.log(s).sum() + 0.5 * m.size * math.log(2 * math.pi * math.e)


@pytest.mark.parametrize(
    ("log_joint", "data", "support", "exact", "best", "most"),
    [
        (
            counts,
            counts_data(),
            ["real", "positive", *["real"] * 102],
            exact_elbo_of_counts,
            667.0587,
            15_000,
        ),
        (
            horseshoe,
            horseshoe_data(),
            ["real"] * 10 + ["positive"] * 12,
            exact_elbo_of_horseshoe,
            -33.8647,
            20_000,
        ),
    ],
    ids=["counts", "horseshoe"],
)
def test_a_fit_is_as_good_as_the_best_and_its_error_true(log_joint, data, support, exact, best, most):
    found = fv.fit(fv.Model(log_joint, len(support), data, support=support), "diag")
    q = found.q.gaussian
    truth = exact(q.mean, np.sqrt(np.diag(q.cov)), *data)
    assert found.converged
    assert abs(found.elbo.value - truth) <= 3.0 * found.elbo.error
    # The fixed draws are 208 and 64: what a fit on them lacks is less than the error that is stated.
    assert best - truth <= found.elbo.error + 0.02
    assert truth <= best + 1e-3
    assert found.evaluations < most


@numba.njit
def three_groups(z, y, s):
    """Standard normal effects, their mean, and their deviation, which the data hardly know."""
    total = -0.9 * math.log(z[4])
    for j in range(3):
        total -= 0.5 * z[j] ** 2 + 0.5 * ((y[j] - z[3] - z[4] * z[j]) / s[j]) ** 2
    return total


@pytest.mark.parametrize("family", ["diag", "full"])
def test_a_tail_with_an_error_far_above_the_elbo(family):
    """E[tau^2] under a wide q of log tau: -45 with an error of 113, and -4e5 with 2e7, were converged."""
    data = np.array([2094.0, 1317.0, 774.0]), np.array([1172.0, 251.0, 418.0])
    found = fv.fit(fv.Model(three_groups, 5, data, support=["real"] * 4 + ["positive"]), family)
    assert 9.0 < found.elbo.value < 11.0
    assert found.elbo.error < 2.0
