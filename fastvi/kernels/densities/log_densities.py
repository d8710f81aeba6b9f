"""Logarithms of densities for log joints, named and parameterised as in Stan: see `fastvi.densities`.

Each is two formulas: `prepare_<name>` makes numbers of the parameters alone, the first of them NaN for
invalid parameters, and `<name>` takes x and these. A sum over an array x prepares once. None calls the C
library, so that sums are vectorised.

Ratios of Gamma functions are written with the error of Stirling's formula and with deviances, which are small
near the mode: with log Γ a Poisson probability at 10⁶ has 9 digits (C. Loader, Fast and Accurate Computation
of Binomial Probabilities, 2000).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import types

from ..compiler import Lazily, adder, exported, formula, kernel, overloaded, specialise
from ..numerics.elementary import atanh_tail, exp, log_ratio, logarithm
from ..numerics.matrices import cholesky as factorize
from ..numerics.matrices import fill_matrix
from .gaussians import LOG_2PI, squared_distance

LOG_PI = math.log(math.pi)
HALF_LOG_2PI = 0.5 * LOG_2PI
LOG_2 = math.log(2.0)

#: Below the square root of the largest number.
_LARGE = 1e150

#: Near the largest number: its double is finite.
_LARGEST = 2.0**1022

#: The smallest normal number, for which `log_ratio` holds.
_NORMAL = 2.0**-1022

#: Largest argument of `atanh_tail`.
_SERIES = 0.2

#: How far the sum of a simplex or the squared length of a row of a factor may be from 1. It is wide, so that
#: differences of a log joint along one coordinate exist.
SUM_TOLERANCE = 1e-2

# A location that is not finite makes a constant NaN by 0 * mu. Neither min nor a function for a comparison is
# called: each function that numba compiles adds 0.03 s to a user's first log joint of each kind.

#: Terms that are added up before they are added to the sum: the rounding error grows with their number.
_BLOCK = 512


# Functions of the densities.


@formula
def log1p_positive(x):
    """log(1 + x) for 0 <= x < inf, with full relative accuracy."""
    return log_ratio(1.0 + x, 1.0, x)


@formula
def log1p_exp(x):
    """log(1 + exp(x)), with full relative accuracy."""
    return max(x, 0.0) + log1p_positive(exp(-abs(x)))


@formula
def log1m(x):
    """log(1 - x) for 0 <= x < 1, with full relative accuracy."""
    return log_ratio(1.0 - x, 1.0, -x)


@kernel
def stirling_error(x):
    """log Γ(x + 1) - ((x + 1/2) log x - x + log(2 π) / 2), for x > 0, with an error of 2e-15.

    The asymptotic series holds from 7 on; below, Γ(x + 1) = Γ(x + 8) / ((x + 1) ... (x + 7)).
    """
    small = x < 7.0
    y = x + 7.0 if small else x
    r = 1.0 / y
    w = r * r
    s = -86580.25311355312 * (1.0 / 552.0)
    s = s * w + 6192.123188405797 / 462.0
    s = s * w - 529.1242424242424 / 380.0
    s = s * w + 54.971177944862156 / 306.0
    s = s * w - 7.092156862745098 / 240.0
    s = s * w + 1.0 / 156.0
    s = s * w - 691.0 / 360360.0
    s = s * w + 1.0 / 1188.0
    s = s * w - 1.0 / 1680.0
    s = s * w + 1.0 / 1260.0
    s = s * w - 1.0 / 360.0
    s = (s * w + 1.0 / 12.0) * r
    if small:
        log_step = log_ratio(y, x, 7.0) if x >= _NORMAL else logarithm(y) - logarithm(x)
        ratio = (y / (x + 1.0)) * (y / (x + 2.0)) * (y / (x + 3.0))
        ratio *= (y / (x + 4.0)) * (y / (x + 5.0)) * (y / (x + 6.0))
        s += ((x + 0.5) * log_step - 7.0) + logarithm(ratio)
    return s


@kernel
def deviance(x, mean, log_mean):
    """x log(x / mean) + mean - x for x >= 0, without cancellation; the mean may underflow."""
    if x == 0.0:
        return mean
    d = x - mean
    v = d / (x + mean)
    if abs(v) <= _SERIES:
        return d * v + 2.0 * x * v * (v * v) * atanh_tail(v * v)
    if mean == math.inf:
        return math.inf
    if x >= _NORMAL and mean >= _NORMAL:
        return x * log_ratio(x, mean, d) - d
    return x * (logarithm(x) - log_mean) - d


@kernel
def log_gamma(x):
    """log Γ(x) for x > 0."""
    return (x - 0.5) * logarithm(x) - x + HALF_LOG_2PI + stirling_error(x)


@formula
def _log_scale(sigma):
    """log sigma, NaN unless it is positive and finite."""
    return logarithm(sigma) if 0.0 < sigma < math.inf else math.nan


@formula
def _is_count(n):
    return 0.0 <= n < math.inf and n % 1.0 == 0.0


# Densities on the real line.


@formula
def prepare_normal(mu, sigma):
    return -HALF_LOG_2PI - _log_scale(sigma) + 0.0 * mu, mu, sigma


@formula
def normal(x, prepared):
    constant, mu, sigma = prepared
    t = (x - mu) / sigma if constant == constant else math.nan
    return constant - 0.5 * (t * t)


@formula
def _log1p_square(t, s, log_nu):
    """log(1 + s) for s = t**2 / nu, where that may overflow; t is finite. It has one logarithm."""
    far = t > _LARGE or s > _LARGE
    value = log_ratio((t if t < _LARGEST else _LARGEST) if far else 1.0 + s, 1.0, s)
    return 2.0 * value - log_nu if far else value


@formula
def prepare_student_t(nu, mu, sigma):
    log_nu, half = _log_scale(nu), 0.5 * nu
    ratio = math.nan
    if 0.0 < nu < math.inf:
        # Γ((nu + 1) / 2) / Γ(nu / 2)
        ratio = stirling_error(half + 0.5) - stirling_error(half)
        ratio -= deviance(half, half + 0.5, logarithm(half + 0.5))
    return ratio - HALF_LOG_2PI - _log_scale(sigma) + 0.0 * mu, mu, sigma, nu, log_nu


@formula
def student_t(x, prepared):
    constant, mu, sigma, nu, log_nu = prepared
    t = abs(x - mu) / sigma if constant == constant else math.nan
    s = t * t / nu if constant == constant else math.nan
    value = constant - 0.5 * (nu + 1.0) * _log1p_square(t, s, log_nu)
    return -math.inf if t == math.inf else value


@formula
def prepare_cauchy(mu, sigma):
    return -LOG_PI - _log_scale(sigma) + 0.0 * mu, mu, sigma


@formula
def cauchy(x, prepared):
    constant, mu, sigma = prepared
    t = abs(x - mu) / sigma if constant == constant else math.nan
    value = constant - _log1p_square(t, t * t, 0.0)
    return -math.inf if t == math.inf else value


@formula
def prepare_laplace(mu, sigma):
    return -LOG_2 - _log_scale(sigma) + 0.0 * mu, mu, sigma


@formula
def laplace(x, prepared):
    constant, mu, sigma = prepared
    return constant - (abs(x - mu) / sigma if constant == constant else math.nan)


# Densities on the positive half.


@formula
def prepare_half_normal(sigma):
    return LOG_2 - HALF_LOG_2PI - _log_scale(sigma), 0.0, sigma


@formula
def half_normal(x, prepared):
    return prepared[0] - math.inf if x < 0.0 else normal(x, prepared)


@formula
def prepare_half_student_t(nu, sigma):
    constant, mu, sigma, nu, log_nu = prepare_student_t(nu, 0.0, sigma)
    return constant + LOG_2, mu, sigma, nu, log_nu


@formula
def half_student_t(x, prepared):
    return prepared[0] - math.inf if x < 0.0 else student_t(x, prepared)


@formula
def prepare_half_cauchy(sigma):
    return LOG_2 - LOG_PI - _log_scale(sigma), 0.0, sigma


@formula
def half_cauchy(x, prepared):
    return prepared[0] - math.inf if x < 0.0 else cauchy(x, prepared)


@formula
def lognormal(x, prepared):
    if x <= 0.0 or x == math.inf:
        return prepared[0] + prepared[1] - math.inf
    log_x = logarithm(x)
    return normal(log_x, prepared) - log_x


@formula
def prepare_exponential(beta):
    return _log_scale(beta), beta


@formula
def exponential(x, prepared):
    log_beta, beta = prepared
    return log_beta - math.inf if x < 0.0 else log_beta - beta * x


@formula
def prepare_gamma(alpha, beta):
    log_beta = _log_scale(beta)
    constant = 0.5 * _log_scale(alpha) - HALF_LOG_2PI
    constant -= stirling_error(alpha) if constant == constant else 0.0
    return constant + 0.0 * log_beta, alpha, beta, log_beta


@formula
def gamma(x, prepared):
    constant, alpha, beta, log_beta = prepared
    if constant != constant or x != x:
        return math.nan
    if x < 0.0 or x == math.inf:
        return -math.inf
    if x == 0.0:
        return log_beta if alpha == 1.0 else (math.inf if alpha < 1.0 else -math.inf)
    log_x = logarithm(x)
    return constant - log_x - deviance(alpha, beta * x, log_beta + log_x)


@formula
def inv_gamma(x, prepared):
    constant, alpha, beta, log_beta = prepared
    if constant != constant or x != x:
        return math.nan
    if x <= 0.0 or x == math.inf:
        return -math.inf
    log_x = logarithm(x)
    return constant - log_x - deviance(alpha, beta / x, log_beta - log_x)


# Densities on (0, 1).


@formula
def prepare_beta(alpha, beta):
    constant, total = math.nan, alpha + beta
    log_alpha, log_beta = _log_scale(alpha), _log_scale(beta)
    if log_alpha == log_alpha and log_beta == log_beta and total < math.inf:
        constant = 0.5 * (log_alpha + (log_beta - logarithm(total))) - HALF_LOG_2PI
        constant += stirling_error(total) - stirling_error(alpha) - stirling_error(beta)
    return constant, alpha, beta, log_alpha, log_beta


@formula
def _beta_at_end(shape, other, log_other):
    """The density where x or 1 - x is 0 has the power shape - 1."""
    return log_other if shape == 1.0 else (math.inf if shape < 1.0 else -math.inf)


@formula
def beta(x, prepared):
    constant, alpha, beta, log_alpha, log_beta = prepared
    if constant != constant or x != x:
        return math.nan
    if x < 0.0 or x > 1.0:
        return -math.inf
    if x == 0.0:
        return _beta_at_end(alpha, beta, log_beta)
    if x == 1.0:
        return _beta_at_end(beta, alpha, log_alpha)
    total = alpha + beta
    log_total, log_x, log_rest = logarithm(total), logarithm(x), log1m(x)
    first = deviance(alpha, total * x, log_total + log_x)
    second = deviance(beta, total * (1.0 - x), log_total + log_rest)
    return constant - log_x - log_rest - first - second


# Probabilities of counts.


@formula
def prepare_poisson_log(alpha):
    return 0.0 if alpha == alpha else math.nan, alpha, exp(alpha)


@formula
def poisson_log(n, prepared):
    constant, alpha, mean = prepared
    if constant != constant or n != n:
        return math.nan
    if not _is_count(n):
        return -math.inf
    if n == 0.0:
        return -mean
    if mean == math.inf or alpha == -math.inf:
        return -math.inf
    return -HALF_LOG_2PI - 0.5 * logarithm(n) - stirling_error(n) - deviance(n, mean, alpha)


@formula
def prepare_bernoulli_logit(alpha):
    return alpha, alpha


@formula
def bernoulli_logit(y, prepared):
    alpha = prepared[0]
    value = -log1p_exp(-alpha if y == 1.0 else alpha)
    value = value if y == 0.0 or y == 1.0 else -math.inf
    return value if alpha == alpha and y == y else math.nan


@formula
def prepare_binomial_logit(trials, alpha):
    """The numbers of trials, and the logarithms of the probabilities of 1 and 0."""
    constant = 0.0 if _is_count(trials) and alpha == alpha else math.nan
    return constant, trials, -log1p_exp(-alpha), -log1p_exp(alpha)


@formula
def binomial_logit(n, prepared):
    constant, trials, log_one, log_zero = prepared
    if constant != constant or n != n:
        return math.nan
    if not _is_count(n) or n > trials:
        return -math.inf
    if trials == 0.0:
        return 0.0
    if n == 0.0:
        return trials * log_zero
    if n == trials:
        return trials * log_one
    if log_one == -math.inf or log_zero == -math.inf:
        return -math.inf
    rest, log_trials = trials - n, logarithm(trials)
    value = 0.5 * (log_trials - logarithm(n) - logarithm(rest)) - HALF_LOG_2PI
    value += stirling_error(trials) - stirling_error(n) - stirling_error(rest)
    value -= deviance(n, trials * exp(log_one), log_trials + log_one)
    return value - deviance(rest, trials * exp(log_zero), log_trials + log_zero)


@formula
def prepare_neg_binomial_2_log(eta, phi):
    """phi, the logarithms of the shares phi / (mean + phi) and mean / (mean + phi), log phi and its error."""
    log_phi = _log_scale(phi)
    constant = log_phi if abs(eta) < math.inf else math.nan
    difference = eta - log_phi if constant == constant else 0.0
    error = stirling_error(phi) if constant == constant else 0.0
    return constant, phi, -log1p_exp(difference), -log1p_exp(-difference), error


@formula
def neg_binomial_2_log(n, prepared):
    log_phi, phi, log_own, log_other, error = prepared
    if log_phi != log_phi or n != n:
        return math.nan
    if not _is_count(n):
        return -math.inf
    if n == 0.0:
        return phi * log_own
    total = n + phi
    log_total = logarithm(total)
    value = 0.5 * (log_phi - log_total - logarithm(n)) - HALF_LOG_2PI
    value += stirling_error(total) - error - stirling_error(n)
    value -= deviance(phi, total * exp(log_own), log_total + log_own)
    return value - deviance(n, total * exp(log_other), log_total + log_other)


# Numbers and arrays, for sums.


def at(x, i):
    """Entry i of an array, or the number itself, as a float; numba has no float of a boolean."""
    return 1.0 * x[i] if isinstance(x, np.ndarray) else 1.0 * x


@overloaded(at)
def _overload_at(x, i):
    if isinstance(x, types.Array):
        return lambda x, i: 1.0 * x[i]
    return lambda x, i: 1.0 * x


def block(x, low, size):
    """Entries of an array, or the number itself.

    A loop over a block from 0 on has no negative index; one from `low` on may have, as far as LLVM knows, and
    gathers its entries: 1.4 times the time for `cauchy`.
    """
    return x[low : low + size] if isinstance(x, np.ndarray) else x


@overloaded(block)
def _overload_block(x, low, size):
    if isinstance(x, types.Array):
        return lambda x, low, size: x[low : low + size]
    return lambda x, low, size: x


def length(x):
    """The length of an array, -1 for a number."""
    return x.size if isinstance(x, np.ndarray) else -1


@overloaded(length)
def _overload_length(x):
    if isinstance(x, types.Array):
        return lambda x: x.size
    return lambda x: -1


@kernel
def common(n, m):
    """The length that arrays of two lengths share: -1 stands for numbers, -2 for lengths that differ."""
    if n == -1 or n == m:
        return m
    return n if m == -1 else -2


# Templates (`prepare`, `term`).


def _value_1(x, a):
    return term(x, prepare(a))  # noqa: F821


def _value_2(x, a, b):
    return term(x, prepare(a, b))  # noqa: F821


def _value_3(x, a, b, c):
    return term(x, prepare(a, b, c))  # noqa: F821


def _sum_over_x(x, prepared):
    total = 0.0
    for low in range(0, x.size, _BLOCK):
        part, some = 0.0, block(x, low, _BLOCK)
        for i in range(some.size):
            part += term(1.0 * some[i], prepared)  # noqa: F821
        total += part
    return total


def _sum_1(x, a):
    n = common(length(x), length(a))
    total = 0.0 if n >= 0 else math.nan
    for low in range(0, n, _BLOCK):
        part, size = 0.0, (_BLOCK if n - low > _BLOCK else n - low)
        x_, a_ = block(x, low, size), block(a, low, size)
        for i in range(size):
            part += term(at(x_, i), prepare(at(a_, i)))  # noqa: F821
        total += part
    return total


def _sum_2(x, a, b):
    n = common(common(length(x), length(a)), length(b))
    total = 0.0 if n >= 0 else math.nan
    for low in range(0, n, _BLOCK):
        part, size = 0.0, (_BLOCK if n - low > _BLOCK else n - low)
        x_, a_, b_ = block(x, low, size), block(a, low, size), block(b, low, size)
        for i in range(size):
            part += term(at(x_, i), prepare(at(a_, i), at(b_, i)))  # noqa: F821
        total += part
    return total


def _sum_3(x, a, b, c):
    n = common(common(length(x), length(a)), common(length(b), length(c)))
    total = 0.0 if n >= 0 else math.nan
    for low in range(0, n, _BLOCK):
        part, size = 0.0, (_BLOCK if n - low > _BLOCK else n - low)
        x_, a_, b_, c_ = block(x, low, size), block(a, low, size), block(b, low, size), block(c, low, size)
        for i in range(size):
            part += term(at(x_, i), prepare(at(a_, i), at(b_, i), at(c_, i)))  # noqa: F821
        total += part
    return total


#: The least sum over a block of `_bernoulli_logit_sum`, in nats for each of its terms: below, the rounding of
#: 1 + exp(-|alpha|) counts, 1e-16 a term.
_LEAST_TERM = 0.05


def _bernoulli_logit_sum(y, alpha):
    """As `_sum_1`, with the logarithm of a product of 1 + exp(-|alpha|) for each block: 0.6 of its time."""
    n = common(length(y), length(alpha))
    total = 0.0 if n >= 0 else math.nan
    for low in range(0, n, _BLOCK):
        size = _BLOCK if n - low > _BLOCK else n - low
        y_, alpha_ = block(y, low, size), block(alpha, low, size)
        # The product is at most 2**_BLOCK.
        linear, product = 0.0, 1.0
        for i in range(size):
            one, a = at(y_, i), at(alpha_, i)
            against = max(-a if one == 1.0 else a, 0.0)
            against = against if one == 0.0 or one == 1.0 else math.inf
            linear += against if one == one else math.nan
            product *= 1.0 + exp(-abs(a))
        part = -linear - logarithm(product)
        if part > -_LEAST_TERM * size:
            part = 0.0
            for i in range(size):
                part += bernoulli_logit(at(y_, i), prepare_bernoulli_logit(at(alpha_, i)))
        total += part
    return total


def _arrays_1(x, a):
    return add_up(x, a)  # noqa: F821


def _arrays_2(x, a, b):
    return add_up(x, a, b)  # noqa: F821


def _arrays_3(x, a, b, c):
    return add_up(x, a, b, c)  # noqa: F821


class LogDensity(NamedTuple):
    """The kernels of one log density."""

    prepare: Any  #: of the parameters: numbers
    value: Any  #: of x and the parameters: numbers
    over_x: Any  #: (an array x, what is prepared): the sum
    over_all: Any  #: x and the parameters, of which one at least is an array: the sum
    arrays: Any  #: the same for contiguous arrays, from Python


_VALUES = {1: _value_1, 2: _value_2, 3: _value_3}
_SUMS = {1: _sum_1, 2: _sum_2, 3: _sum_3}
_ARRAYS = {1: _arrays_1, 2: _arrays_2, 3: _arrays_3}

#: Sums that are faster than their terms.
_OWN_SUMS = {"bernoulli_logit": _bernoulli_logit_sum}


def _assemble(name, prepare, term, count):
    bound = {"prepare": prepare, "term": term}
    add_up = specialise(_OWN_SUMS.get(name, _SUMS[count]), f"_{name}_sum", adder, **bound)
    return LogDensity(
        prepare,
        specialise(_VALUES[count], f"_{name}_value", **bound),
        specialise(_sum_over_x, f"_{name}_sum_over_x", adder, **bound),
        add_up,
        specialise(_ARRAYS[count], f"{name}_sum", exported, add_up=add_up),
    )


#: How each density is made: its two formulas, and the number of its parameters.
ROWS = {
    "normal": (prepare_normal, normal, 2),
    "student_t": (prepare_student_t, student_t, 3),
    "cauchy": (prepare_cauchy, cauchy, 2),
    "laplace": (prepare_laplace, laplace, 2),
    "half_normal": (prepare_half_normal, half_normal, 1),
    "half_student_t": (prepare_half_student_t, half_student_t, 2),
    "half_cauchy": (prepare_half_cauchy, half_cauchy, 1),
    "lognormal": (prepare_normal, lognormal, 2),
    "exponential": (prepare_exponential, exponential, 1),
    "gamma": (prepare_gamma, gamma, 2),
    "inv_gamma": (prepare_gamma, inv_gamma, 2),
    "beta": (prepare_beta, beta, 2),
    "poisson_log": (prepare_poisson_log, poisson_log, 1),
    "bernoulli_logit": (prepare_bernoulli_logit, bernoulli_logit, 1),
    "binomial_logit": (prepare_binomial_logit, binomial_logit, 2),
    "neg_binomial_2_log": (prepare_neg_binomial_2_log, neg_binomial_2_log, 2),
}

#: The kernels of each density by its name.
KERNELS = Lazily({name: partial(_assemble, name, *row) for name, row in ROWS.items()})


# Densities of vectors and matrices.


@exported
def dirichlet(theta, alpha):
    """Of a simplex (K,), K >= 1."""
    if theta.size != alpha.size or theta.size == 0:
        return math.nan
    total, mass = 0.0, 0.0
    for k in range(alpha.size):
        if not 0.0 < alpha[k] < math.inf or theta[k] != theta[k]:
            return math.nan
        total += alpha[k]
        mass += theta[k]
    inside = abs(mass - 1.0) <= SUM_TOLERANCE
    for k in range(theta.size):
        inside = inside and theta[k] >= 0.0
    if not inside or total == math.inf:
        return -math.inf if total < math.inf else math.nan
    log_total = logarithm(total)
    value = stirling_error(total) - 0.5 * log_total + HALF_LOG_2PI
    infinite, excess = 0.0, 0.0
    for k in range(theta.size):
        x, a = float(theta[k]), float(alpha[k])
        excess += total * x - a
        if x == 0.0:
            # θ ** (alpha - 1) / Γ(alpha)
            infinite += (math.inf if a < 1.0 else -math.inf) if a != 1.0 else 0.0
            value += a * log_total - log_gamma(a)
            continue
        log_x = logarithm(x)
        value += 0.5 * logarithm(a) - HALF_LOG_2PI - stirling_error(a) - log_x
        value -= deviance(a, total * x, log_total + log_x)
    return value + excess + infinite


@exported
def multi_normal_cholesky(x, mu, factor):
    """The sum over the rows of x (N, D)."""
    dim = mu.size
    if x.shape[1] != dim or factor.shape[0] != dim or factor.shape[1] != dim:
        return math.nan
    constant = -HALF_LOG_2PI * dim
    for i in range(dim):
        if not 0.0 < factor[i, i] < math.inf or not abs(mu[i]) < math.inf:
            return math.nan
        constant -= logarithm(factor[i, i])
    y, total = np.empty(dim), 0.0
    for n in range(x.shape[0]):
        infinite = False
        for i in range(dim):
            infinite = infinite or abs(x[n, i]) == math.inf
        total += -math.inf if infinite else constant - 0.5 * squared_distance(x[n], mu, factor, y)
    return total


@exported
def lkj_corr_cholesky(factor, eta):
    """Of the strict lower triangle of the factor (K, K) of a correlation matrix."""
    size = factor.shape[0]
    if factor.shape[1] != size or not 0.0 < eta < math.inf:
        return math.nan
    value = 0.0
    for i in range(size):
        square = 0.0
        for j in range(i + 1):
            if factor[i, j] != factor[i, j]:
                return math.nan
            square += factor[i, j] * factor[i, j]
        if not (factor[i, i] > 0.0 and abs(square - 1.0) <= SUM_TOLERANCE):
            return -math.inf
        if i > 0:
            # The integral over row i: a ratio of Gamma functions half an integer, i / 2, apart.
            a = eta + 0.5 * (size - 1 - i)
            value += (size - 1 - i + 2.0 * (eta - 1.0)) * logarithm(factor[i, i])
            value += log_gamma_difference(a, 0.5 * i) - 0.5 * i * LOG_PI
    return value


@kernel
def log_gamma_difference(a, step):
    """log Γ(a + step) - log Γ(a)."""
    b = a + step
    ratio = log_ratio(b, a, step) if a >= _NORMAL else logarithm(b) - logarithm(a)
    return step * logarithm(b) - step + (a - 0.5) * ratio + (stirling_error(b) - stirling_error(a))


@exported
def log_sum_exp(x):
    """log of the sum of exp(x[k]); -inf for none."""
    largest = -math.inf
    for k in range(x.size):
        if x[k] != x[k]:
            return math.nan
        largest = max(largest, float(x[k]))
    if abs(largest) == math.inf:
        return largest
    # One largest entry is left out of the sum: log1p keeps what the others add.
    rest, seen = 0.0, False
    for k in range(x.size):
        if x[k] == largest and not seen:
            seen = True
        else:
            rest += exp(x[k] - largest)
    return largest + log1p_positive(rest)


@kernel
def log_sum_exp_2(x, y):
    """log(exp(x) + exp(y))."""
    high, low = max(x, y), min(x, y)
    if x != x or y != y:
        return math.nan
    return high if abs(high) == math.inf or low == -math.inf else high + log1p_positive(exp(low - high))


@kernel
def log_mix_2(theta, x, y):
    """log(theta exp(x) + (1 - theta) exp(y))."""
    if not 0.0 <= theta <= 1.0 or x != x or y != y:
        return math.nan
    if theta == 0.0 or theta == 1.0:
        return y if theta == 0.0 else x
    return log_sum_exp_2(logarithm(theta) + x, log1m(theta) + y)


@exported
def log_mix(theta, x):
    """log of the sum of theta[k] exp(x[k])."""
    if theta.size != x.size or theta.size == 0:
        return math.nan
    largest, mass = -math.inf, 0.0
    for k in range(x.size):
        if not theta[k] >= 0.0 or x[k] != x[k]:
            return math.nan
        mass += theta[k]
        if theta[k] > 0.0:
            largest = max(largest, float(x[k]))
    if not abs(mass - 1.0) <= SUM_TOLERANCE:
        return math.nan
    if abs(largest) == math.inf:
        return largest
    total = 0.0
    for k in range(x.size):
        if theta[k] > 0.0:
            total += theta[k] * exp(x[k] - largest)
    return largest + logarithm(total)


@kernel
def categorical_logit_1(y, beta, normaliser):
    """Of one outcome."""
    if y != y or normaliser != normaliser:
        return math.nan
    if not (0.0 <= y < beta.size and y % 1.0 == 0.0):
        return -math.inf
    return beta[int(y)] - normaliser


@exported
def categorical_logit(y, beta):
    """The sum over the outcomes y (N,), for logits beta (K,)."""
    if beta.size == 0:
        return math.nan
    normaliser, total = log_sum_exp(beta), 0.0
    for n in range(y.size):
        total += categorical_logit_1(1.0 * y[n], beta, normaliser)
    return total


@exported
def cholesky(matrix):
    """(the lower factor, whether there is one): NaN where there is none."""
    factor = np.empty(matrix.shape)
    good = matrix.shape[0] == matrix.shape[1] and factorize(matrix, factor)
    if not good:
        fill_matrix(math.nan, factor)
    return factor, good
