"""Log densities in mpmath, by the textbook formulas: the names and arguments of `fastvi.densities`."""

import mpmath as mp

mp.mp.dps = 60


def _log(x):
    return mp.log(x) if x > 0 else -mp.inf


def _counts(function):
    return lambda n, *a: function(n, *a) if n >= 0 and n == mp.floor(n) else -mp.inf


def _positive(function):
    return lambda x, *a: function(x, *a) if x > 0 else -mp.inf


def normal(x, mu, sigma):
    return -mp.log(2 * mp.pi) / 2 - mp.log(sigma) - ((x - mu) / sigma) ** 2 / 2


def student_t(x, nu, mu, sigma):
    constant = mp.loggamma((nu + 1) / 2) - mp.loggamma(nu / 2) - mp.log(nu * mp.pi) / 2 - mp.log(sigma)
    return constant - (nu + 1) / 2 * mp.log1p(((x - mu) / sigma) ** 2 / nu)


def cauchy(x, mu, sigma):
    return -mp.log(mp.pi * sigma) - mp.log1p(((x - mu) / sigma) ** 2)


def laplace(x, mu, sigma):
    return -mp.log(2 * sigma) - abs(x - mu) / sigma


def half_normal(x, sigma):
    return mp.log(2) + normal(x, 0, sigma) if x >= 0 else -mp.inf


def half_student_t(x, nu, sigma):
    return mp.log(2) + student_t(x, nu, 0, sigma) if x >= 0 else -mp.inf


def half_cauchy(x, sigma):
    return mp.log(2) + cauchy(x, 0, sigma) if x >= 0 else -mp.inf


@_positive
def lognormal(x, mu, sigma):
    return normal(mp.log(x), mu, sigma) - mp.log(x)


def exponential(x, beta):
    return mp.log(beta) - beta * x if x >= 0 else -mp.inf


@_positive
def gamma(x, alpha, beta):
    return alpha * mp.log(beta) - mp.loggamma(alpha) + (alpha - 1) * mp.log(x) - beta * x


@_positive
def inv_gamma(x, alpha, beta):
    return gamma(1 / x, alpha, beta) - 2 * mp.log(x)


def beta(x, alpha, beta):
    if not 0 < x < 1:
        return -mp.inf
    constant = mp.loggamma(alpha + beta) - mp.loggamma(alpha) - mp.loggamma(beta)
    return constant + (alpha - 1) * mp.log(x) + (beta - 1) * mp.log1p(-x)


@_counts
def poisson_log(n, alpha):
    return n * alpha - mp.exp(alpha) - mp.loggamma(n + 1)


def bernoulli_logit(y, alpha):
    return -mp.log1p(mp.exp(-alpha if y == 1 else alpha)) if y in (0, 1) else -mp.inf


@_counts
def binomial_logit(n, trials, alpha):
    if n > trials:
        return -mp.inf
    ways = mp.loggamma(trials + 1) - mp.loggamma(n + 1) - mp.loggamma(trials - n + 1)
    return ways - n * mp.log1p(mp.exp(-alpha)) - (trials - n) * mp.log1p(mp.exp(alpha))


@_counts
def neg_binomial_2_log(n, eta, phi):
    ways = mp.loggamma(n + phi) - mp.loggamma(n + 1) - mp.loggamma(phi)
    mean = mp.exp(eta)
    return ways + phi * mp.log(phi / (mean + phi)) + n * (eta - mp.log(mean + phi))


def dirichlet(theta, alpha):
    value = mp.loggamma(mp.fsum(alpha)) - mp.fsum(map(mp.loggamma, alpha))
    return value + mp.fsum((a - 1) * _log(x) for x, a in zip(theta, alpha, strict=True))


def multi_normal_cholesky(x, mu, factor):
    size = len(mu)
    y, log_det = [], mp.mpf(0)
    for i in range(size):
        y.append((x[i] - mu[i] - mp.fsum(factor[i][j] * y[j] for j in range(i))) / factor[i][i])
        log_det += mp.log(factor[i][i])
    return -size * mp.log(2 * mp.pi) / 2 - log_det - mp.fsum(v * v for v in y) / 2


def lkj_corr_cholesky(factor, eta):
    size = len(factor)
    value = (size - 1) * mp.loggamma(eta + mp.mpf(size - 1) / 2)
    for k in range(1, size):
        value -= k * mp.log(mp.pi) / 2 + mp.loggamma(eta + mp.mpf(size - 1 - k) / 2)
        value += (size - 1 - k + 2 * eta - 2) * mp.log(factor[k][k])
    return value


def categorical_logit(y, beta):
    return beta[y] - log_sum_exp(beta)


def log_sum_exp(x):
    return mp.log(mp.fsum(map(mp.exp, x)))


def log_mix(theta, x):
    return mp.log(mp.fsum(t * mp.exp(v) for t, v in zip(theta, x, strict=True)))
