"""Derivatives of the log densities of `log_densities`, for gradients without differences.

`<name>_slopes` takes x and the parameters of a density, and returns its derivative in each, in that order:
NaN in an integer (a count, a number of trials). None calls the C library, so that sums are vectorised. What a
caller does not use is not computed. Those of vectors write derivatives to arrays, their last arguments.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import formula, kernel
from ..numerics.digamma import digamma
from ..numerics.elementary import exp, logarithm
from .log_densities import log1m, log1p_positive

# Functions of the slopes.


@formula
def logistic(x):
    """1 / (1 + exp(-x)), with full relative accuracy."""
    e = exp(-abs(x))
    return (1.0 if x >= 0.0 else e) / (1.0 + e)


@formula
def _share(square):
    """square / (1 + square), where the square may overflow."""
    return 1.0 / (1.0 + 1.0 / square)


# Densities on the real line.


@formula
def normal_slopes(x, mu, sigma):
    t = (x - mu) / sigma
    down = t / sigma
    return -down, down, (t * t - 1.0) / sigma


@formula
def student_t_slopes(x, nu, mu, sigma):
    t = (x - mu) / sigma
    square = t * t / nu
    share = _share(square)
    down = (nu + 1.0) * (t / (nu + t * t)) / sigma
    in_nu = digamma(0.5 * nu + 0.5) - digamma(0.5 * nu) - 1.0 / nu
    in_nu += (nu + 1.0) * share / nu - log1p_positive(square)
    return -down, 0.5 * in_nu, down, ((nu + 1.0) * share - 1.0) / sigma


@formula
def cauchy_slopes(x, mu, sigma):
    t = (x - mu) / sigma
    down = 2.0 * t / (1.0 + t * t) / sigma
    return -down, down, (2.0 * _share(t * t) - 1.0) / sigma


@formula
def laplace_slopes(x, mu, sigma):
    t = (x - mu) / sigma
    down = (1.0 if t > 0.0 else (-1.0 if t < 0.0 else 0.0)) / sigma
    return -down, down, (abs(t) - 1.0) / sigma


# Densities on the positive half.


@formula
def half_normal_slopes(x, sigma):
    in_x, _, in_sigma = normal_slopes(x, 0.0, sigma)
    return in_x, in_sigma


@formula
def half_student_t_slopes(x, nu, sigma):
    in_x, in_nu, _, in_sigma = student_t_slopes(x, nu, 0.0, sigma)
    return in_x, in_nu, in_sigma


@formula
def half_cauchy_slopes(x, sigma):
    in_x, _, in_sigma = cauchy_slopes(x, 0.0, sigma)
    return in_x, in_sigma


@formula
def lognormal_slopes(x, mu, sigma):
    in_log, in_mu, in_sigma = normal_slopes(logarithm(x), mu, sigma)
    return (in_log - 1.0) / x, in_mu, in_sigma


@formula
def exponential_slopes(x, beta):
    return -beta, 1.0 / beta - x


@formula
def gamma_slopes(x, alpha, beta):
    power = (alpha - 1.0) / x if alpha != 1.0 else 0.0
    return power - beta, logarithm(beta) + logarithm(x) - digamma(alpha), alpha / beta - x


@formula
def inv_gamma_slopes(x, alpha, beta):
    in_alpha = logarithm(beta) - logarithm(x) - digamma(alpha)
    return (beta / x - (alpha + 1.0)) / x, in_alpha, alpha / beta - 1.0 / x


# Densities on (0, 1).


@formula
def beta_slopes(x, alpha, beta):
    below = (alpha - 1.0) / x if alpha != 1.0 else 0.0
    above = (beta - 1.0) / (1.0 - x) if beta != 1.0 else 0.0
    total = digamma(alpha + beta)
    return below - above, total - digamma(alpha) + logarithm(x), total - digamma(beta) + log1m(x)


# Probabilities of counts.


@formula
def poisson_log_slopes(n, alpha):
    return math.nan, n - exp(alpha)


@formula
def bernoulli_logit_slopes(y, alpha):
    return math.nan, logistic(-alpha) if y == 1.0 else -logistic(alpha)


@formula
def binomial_logit_slopes(n, trials, alpha):
    return math.nan, math.nan, n * logistic(-alpha) - (trials - n) * logistic(alpha)


@formula
def neg_binomial_2_log_slopes(n, eta, phi):
    # The shares of phi and of the mean in their sum.
    difference = eta - logarithm(phi)
    own, other = logistic(-difference), logistic(difference)
    log_own = -max(difference, 0.0) - log1p_positive(exp(-abs(difference)))
    in_phi = digamma(n + phi) - digamma(phi) + log_own + other - n * (own / phi)
    return math.nan, n * own - phi * other, in_phi


#: By the name of the density.
SLOPES = {
    "normal": normal_slopes,
    "student_t": student_t_slopes,
    "cauchy": cauchy_slopes,
    "laplace": laplace_slopes,
    "half_normal": half_normal_slopes,
    "half_student_t": half_student_t_slopes,
    "half_cauchy": half_cauchy_slopes,
    "lognormal": lognormal_slopes,
    "exponential": exponential_slopes,
    "gamma": gamma_slopes,
    "inv_gamma": inv_gamma_slopes,
    "beta": beta_slopes,
    "poisson_log": poisson_log_slopes,
    "bernoulli_logit": bernoulli_logit_slopes,
    "binomial_logit": binomial_logit_slopes,
    "neg_binomial_2_log": neg_binomial_2_log_slopes,
}


# Densities of vectors and matrices.


@kernel
def dirichlet_slopes(theta, alpha, in_theta, in_alpha):
    total = 0.0
    for k in range(alpha.size):
        total += alpha[k]
    of_total = digamma(total)
    for k in range(alpha.size):
        a = float(alpha[k])
        in_theta[k] = (a - 1.0) / theta[k] if a != 1.0 else 0.0
        in_alpha[k] = of_total - digamma(a) + logarithm(float(theta[k]))


@kernel
def multi_normal_cholesky_slopes(x, mu, factor, in_x, in_mu, in_factor):
    """With w = L⁻ᵀ y, y = L⁻¹ (x - mu): -w in x, w in mu, w yᵀ - 1 / diag(L) in L; for rows of x (N, D)."""
    dim = mu.size
    y, w = np.empty(dim), np.empty(dim)
    for i in range(dim):
        in_mu[i] = 0.0
        for j in range(dim):
            in_factor[i, j] = 0.0
    for n in range(x.shape[0]):
        for i in range(dim):
            s = x[n, i] - mu[i]
            for j in range(i):
                s -= factor[i, j] * y[j]
            y[i] = s / factor[i, i]
        for k in range(dim):
            i = dim - 1 - k
            s = y[i]
            for j in range(i + 1, dim):
                s -= factor[j, i] * w[j]
            w[i] = s / factor[i, i]
            in_x[n, i] = -w[i]
            in_mu[i] += w[i]
        for i in range(dim):
            for j in range(i + 1):
                in_factor[i, j] += w[i] * y[j]
            in_factor[i, i] -= 1.0 / factor[i, i]


@kernel
def lkj_corr_cholesky_slopes(factor, eta, in_factor):
    """The slope in eta; those in the factor are written."""
    size = factor.shape[0]
    in_eta = 0.0
    for i in range(size):
        for j in range(size):
            in_factor[i, j] = 0.0
        if i > 0:
            a = eta + 0.5 * (size - 1 - i)
            in_factor[i, i] = (size - 1 - i + 2.0 * (eta - 1.0)) / factor[i, i]
            in_eta += 2.0 * logarithm(float(factor[i, i])) + digamma(a + 0.5 * i) - digamma(a)
    return in_eta


@formula
def share_of(x, value):
    """exp(x - value), the share of a term of a sum of exponentials with this logarithm."""
    return exp(x - value) if x != value else 1.0


@kernel
def log_sum_exp_slopes(x, value, in_x):
    for k in range(x.size):
        in_x[k] = share_of(x[k], value)


@kernel
def categorical_logit_slopes(y, beta, normaliser, in_beta):
    """Of outcomes y (N,)."""
    for k in range(beta.size):
        in_beta[k] = -y.size * share_of(beta[k], normaliser)
    for n in range(y.size):
        k = int(y[n])
        if 0 <= k < beta.size:
            in_beta[k] += 1.0


@kernel
def log_mix_slopes(theta, x, value, in_theta, in_x):
    for k in range(x.size):
        in_theta[k] = share_of(x[k], value)
        in_x[k] = theta[k] * in_theta[k]
