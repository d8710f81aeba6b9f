"""Logarithms of densities for log joints, named and parameterised as in Stan, from Python and in `@njit`.

The functions are those of the Stan Functions Reference whose names end in ``_lpdf`` or ``_lpmf``, without
that ending, and half-Cauchy, half-normal and half-Student-t densities on top. They are normalised, in nats.

- Arguments are given by position: first x, then the parameters. They are numbers, or 1-D arrays of one
  length; numbers go with each entry. The result is a float, the sum over the entries.
- x outside of the support: -inf. Parameters that are invalid (a scale that is not positive and finite, a
  location that is not finite) or a NaN: NaN, in compiled code as in Python, since a check that raises would
  cost more than the density. `fit` reports both, with the point.
- Arrays whose lengths differ: ValueError in Python, NaN in compiled code.

In a log joint of a `Model` without a written gradient they have derivatives, in all arguments but counts.

The error is at most 1e-14 of the larger of 1 and the value, for each entry, or what rounding the arguments
changes the value by, where that is more. Sums over arrays are vectorised.

References
----------
Stan Development Team, Stan Functions Reference. Ratios of Gamma functions: C. Loader, Fast and Accurate
Computation of Binomial Probabilities (2000).

Examples
--------
>>> import fastvi as fv
>>> def log_joint(z, y):                             # a normal sample, with weak priors
...     mu, sigma = z[0], z[1]
...     prior = fv.densities.normal(mu, 0.0, 10.0) + fv.densities.half_cauchy(sigma, 5.0)
...     return prior + fv.densities.normal(y, mu, sigma)
>>> import numpy as np
>>> model = fv.Model(log_joint, 2, (np.array([1.0, 2.0, 4.0]),), ["real", "positive"])
>>> round(model.log_density([2.0, 1.0]), 12)
-10.59858055669
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import kernels
from .common.values import Array

__all__ = [
    "bernoulli_logit",
    "beta",
    "binomial_logit",
    "categorical_logit",
    "cauchy",
    "cholesky",
    "dirichlet",
    "exponential",
    "gamma",
    "half_cauchy",
    "half_normal",
    "half_student_t",
    "inv_gamma",
    "laplace",
    "lkj_corr_cholesky",
    "log_mix",
    "log_sum_exp",
    "lognormal",
    "multi_normal_cholesky",
    "neg_binomial_2_log",
    "normal",
    "poisson_log",
    "student_t",
]


def _numbers(name: str, value: Any, most: int) -> Array:
    """Real numbers as a float array of at most so many dimensions."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.ndim > most:
        raise TypeError(
            f"{name} must be a number or an array of numbers in at most {most} dimensions, "
            f"not {value if array.ndim == 0 else f'of shape {array.shape}'!r} of dtype {array.dtype}"
        )
    return np.ascontiguousarray(array, dtype=np.float64) if array.ndim else array.astype(np.float64)


def _array(name: str, value: Any, ndim: int) -> Array:
    """Real numbers as a contiguous float array of so many dimensions."""
    array = _numbers(name, value, ndim)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' if ndim > 1 else ''}, not {array.ndim}")
    return np.array(array) if not array.flags.writeable else array


def _sum(density: str, **arguments: Any) -> float:
    """The sum of a density over the entries of its arguments."""
    arrays = [_numbers(name, value, 1) for name, value in arguments.items()]
    lengths = {array.size for array in arrays if array.ndim}
    if len(lengths) > 1:
        shown = ", ".join(f"{name} {np.shape(value)}" for name, value in arguments.items())
        raise ValueError(f"{density} takes numbers and arrays of one length, not {shown}")
    shape = (lengths.pop() if lengths else 1,)
    kernel = kernels.densities.log_densities.KERNELS[density].arrays
    return float(kernel(*(np.array(np.broadcast_to(array, shape)) for array in arrays)))


def _same_length(names: str, x: Array, y: Array) -> None:
    if x.size != y.size:
        raise ValueError(f"{names} must have one length, not {x.size} and {y.size}")


def normal(x: ArrayLike, mu: ArrayLike, sigma: ArrayLike, /) -> float:
    r"""Log density of a normal distribution, Stan's `normal_lpdf`.

    .. math:: -\tfrac12 \log 2\pi - \log\sigma - \tfrac12 ((x - \mu) / \sigma)^2

    Parameters
    ----------
    x, mu : float or 1-D array_like
    sigma : float or 1-D array_like
        Positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.normal([0.0, 1.0], 0.0, 1.0), 12)
    -2.337877066409
    """
    return _sum("normal", x=x, mu=mu, sigma=sigma)


def student_t(x: ArrayLike, nu: ArrayLike, mu: ArrayLike, sigma: ArrayLike, /) -> float:
    r"""Log density of Student's t distribution, Stan's `student_t_lpdf`.

    .. math:: \log\frac{\Gamma((\nu+1)/2)}{\Gamma(\nu/2) \sqrt{\nu\pi} \sigma}
              - \tfrac{\nu+1}2 \log(1 + \tfrac{(x-\mu)^2}{\nu\sigma^2})

    Parameters
    ----------
    x, mu : float or 1-D array_like
    nu, sigma : float or 1-D array_like
        Degrees of freedom and scale, positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.student_t(1.0, 4.0, 0.0, 1.0), 12)
    -1.538688131297
    """
    return _sum("student_t", x=x, nu=nu, mu=mu, sigma=sigma)


def cauchy(x: ArrayLike, mu: ArrayLike, sigma: ArrayLike, /) -> float:
    r"""Log density of a Cauchy distribution, Stan's `cauchy_lpdf`.

    .. math:: -\log \pi\sigma - \log(1 + ((x - \mu) / \sigma)^2)

    Parameters
    ----------
    x, mu : float or 1-D array_like
    sigma : float or 1-D array_like
        Positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.cauchy(1.0, 0.0, 1.0), 12)
    -1.837877066409
    """
    return _sum("cauchy", x=x, mu=mu, sigma=sigma)


def laplace(x: ArrayLike, mu: ArrayLike, sigma: ArrayLike, /) -> float:
    r"""Log density of a Laplace distribution, Stan's `double_exponential_lpdf`.

    .. math:: -\log 2\sigma - |x - \mu| / \sigma

    Parameters
    ----------
    x, mu : float or 1-D array_like
    sigma : float or 1-D array_like
        Positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.laplace(1.0, 0.0, 1.0), 12)
    -1.69314718056
    """
    return _sum("laplace", x=x, mu=mu, sigma=sigma)


def half_normal(x: ArrayLike, sigma: ArrayLike, /) -> float:
    r"""Log density of abs(z) for a normal z around 0.

    .. math:: \log 2 + \log N(x \mid 0, \sigma^2), \quad x \ge 0

    Parameters
    ----------
    x : float or 1-D array_like
    sigma : float or 1-D array_like
        Positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.densities.half_normal(-1.0, 1.0)
    -inf
    """
    return _sum("half_normal", x=x, sigma=sigma)


def half_student_t(x: ArrayLike, nu: ArrayLike, sigma: ArrayLike, /) -> float:
    r"""Log density of abs(z) for a z around 0 with Student's t distribution.

    .. math:: \log 2 + \log t_\nu(x \mid 0, \sigma), \quad x \ge 0

    Parameters
    ----------
    x : float or 1-D array_like
    nu, sigma : float or 1-D array_like
        Degrees of freedom and scale, positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.half_student_t(1.0, 3.0, 2.5), 12)
    -1.327951878799
    """
    return _sum("half_student_t", x=x, nu=nu, sigma=sigma)


def half_cauchy(x: ArrayLike, sigma: ArrayLike, /) -> float:
    r"""Log density of abs(z) for a z around 0 with a Cauchy distribution.

    .. math:: \log 2 - \log \pi\sigma - \log(1 + (x / \sigma)^2), \quad x \ge 0

    Parameters
    ----------
    x : float or 1-D array_like
    sigma : float or 1-D array_like
        Positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.half_cauchy(1.0, 5.0), 12)
    -2.100241330877
    """
    return _sum("half_cauchy", x=x, sigma=sigma)


def lognormal(x: ArrayLike, mu: ArrayLike, sigma: ArrayLike, /) -> float:
    r"""Log density of exp(z) for a normal z, Stan's `lognormal_lpdf`.

    .. math:: \log N(\log x \mid \mu, \sigma^2) - \log x, \quad x > 0

    Parameters
    ----------
    x : float or 1-D array_like
    mu, sigma : float or 1-D array_like
        Mean and standard deviation of log x; sigma is positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.lognormal(2.0, 0.0, 1.0), 12)
    -1.852312220724
    """
    return _sum("lognormal", x=x, mu=mu, sigma=sigma)


def exponential(x: ArrayLike, beta: ArrayLike, /) -> float:
    r"""Log density of an exponential distribution, Stan's `exponential_lpdf`.

    .. math:: \log\beta - \beta x, \quad x \ge 0

    Parameters
    ----------
    x : float or 1-D array_like
    beta : float or 1-D array_like
        Rate, positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.densities.exponential(2.0, 1.0)
    -2.0
    """
    return _sum("exponential", x=x, beta=beta)


def gamma(x: ArrayLike, alpha: ArrayLike, beta: ArrayLike, /) -> float:
    r"""Log density of a Gamma distribution, Stan's `gamma_lpdf`.

    .. math:: \alpha\log\beta - \log\Gamma(\alpha) + (\alpha - 1)\log x - \beta x, \quad x \ge 0

    Parameters
    ----------
    x : float or 1-D array_like
    alpha, beta : float or 1-D array_like
        Shape and rate, positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.gamma(2.0, 3.0, 1.0), 12)
    -1.30685281944
    """
    return _sum("gamma", x=x, alpha=alpha, beta=beta)


def inv_gamma(x: ArrayLike, alpha: ArrayLike, beta: ArrayLike, /) -> float:
    r"""Log density of 1 / z for a z with a Gamma distribution, Stan's `inv_gamma_lpdf`.

    .. math:: \alpha\log\beta - \log\Gamma(\alpha) - (\alpha + 1)\log x - \beta / x, \quad x > 0

    Parameters
    ----------
    x : float or 1-D array_like
    alpha, beta : float or 1-D array_like
        Shape and scale, positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.inv_gamma(2.0, 3.0, 1.0), 12)
    -3.9657359028
    """
    return _sum("inv_gamma", x=x, alpha=alpha, beta=beta)


def beta(x: ArrayLike, alpha: ArrayLike, beta: ArrayLike, /) -> float:
    r"""Log density of a Beta distribution, Stan's `beta_lpdf`.

    .. math:: (\alpha - 1)\log x + (\beta - 1)\log(1 - x) - \log B(\alpha, \beta), \quad 0 \le x \le 1

    Parameters
    ----------
    x : float or 1-D array_like
    alpha, beta : float or 1-D array_like
        Positive.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.beta(0.5, 2.0, 2.0), 12)
    0.405465108108
    """
    return _sum("beta", x=x, alpha=alpha, beta=beta)


def poisson_log(n: ArrayLike, alpha: ArrayLike, /) -> float:
    r"""Log probability of a count with the mean exp(alpha), Stan's `poisson_log_lpmf`.

    .. math:: n\alpha - e^\alpha - \log n!

    Parameters
    ----------
    n : float or 1-D array_like
        Counts; -inf for numbers that are none.
    alpha : float or 1-D array_like
        Logarithm of the mean.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.poisson_log([0, 2, 1], 0.5), 12)
    -4.13931099266
    """
    return _sum("poisson_log", n=n, alpha=alpha)


def bernoulli_logit(y: ArrayLike, alpha: ArrayLike, /) -> float:
    r"""Log probability of 0 or 1 with log odds alpha, Stan's `bernoulli_logit_lpmf`.

    .. math:: -\log(1 + e^{-\alpha}) \text{ for } y = 1, \quad -\log(1 + e^\alpha) \text{ for } y = 0

    Parameters
    ----------
    y : float or 1-D array_like
        0 or 1; -inf for others.
    alpha : float or 1-D array_like
        Log odds of 1.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.bernoulli_logit([1, 0, 1], [2.0, -1.0, 0.5]), 12)
    -0.914266682741
    """
    return _sum("bernoulli_logit", y=y, alpha=alpha)


def binomial_logit(n: ArrayLike, trials: ArrayLike, alpha: ArrayLike, /) -> float:
    r"""Log probability of n ones in so many trials with log odds alpha, Stan's `binomial_logit_lpmf`.

    .. math:: \log\tbinom{N}{n} - n\log(1 + e^{-\alpha}) - (N - n)\log(1 + e^\alpha)

    Parameters
    ----------
    n : float or 1-D array_like
        Counts; -inf for numbers that are none, or above `trials`.
    trials : float or 1-D array_like
        Counts N.
    alpha : float or 1-D array_like
        Log odds of 1.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.binomial_logit(3, 10, -1.0), 12)
    -1.3451251324
    """
    return _sum("binomial_logit", n=n, trials=trials, alpha=alpha)


def neg_binomial_2_log(n: ArrayLike, eta: ArrayLike, phi: ArrayLike, /) -> float:
    r"""Log probability of a count with mean exp(eta) and overdispersion, Stan's `neg_binomial_2_log_lpmf`.

    .. math:: \log\tbinom{n + \phi - 1}{n} + n\log\frac{\mu}{\mu + \phi} + \phi\log\frac{\phi}{\mu + \phi},
              \quad \mu = e^\eta

    Parameters
    ----------
    n : float or 1-D array_like
        Counts; -inf for numbers that are none.
    eta : float or 1-D array_like
        Logarithm of the mean mu.
    phi : float or 1-D array_like
        Positive; the variance is mu + mu**2 / phi.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.neg_binomial_2_log(3, 1.0, 2.0), 12)
    -1.98463484742
    """
    return _sum("neg_binomial_2_log", n=n, eta=eta, phi=phi)


def dirichlet(theta: ArrayLike, alpha: ArrayLike, /) -> float:
    r"""Log density of a Dirichlet distribution, Stan's `dirichlet_lpdf`: of all entries of theta but one.

    .. math:: \log\Gamma(\sum_k \alpha_k) + \sum_k (\alpha_k - 1)\log\theta_k - \log\Gamma(\alpha_k)

    Parameters
    ----------
    theta : array_like, shape (K,)
        Shares. -inf where one is negative or their sum is off 1 by more than 0.01. Within that the formula
        holds as it is, so that it has partial derivatives.
    alpha : array_like, shape (K,)
        Positive.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Arrays of different lengths.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.dirichlet([0.2, 0.3, 0.5], [1.0, 2.0, 3.0]), 12)
    1.504077396776
    """
    shares, shape = _array("theta", theta, 1), _array("alpha", alpha, 1)
    _same_length("theta and alpha", shares, shape)
    return float(kernels.densities.log_densities.dirichlet(shares, shape))


def multi_normal_cholesky(x: ArrayLike, mu: ArrayLike, factor: ArrayLike, /) -> float:
    r"""Log density of a normal distribution of vectors, Stan's `multi_normal_cholesky_lpdf`.

    .. math:: -\tfrac D2 \log 2\pi - \sum_i \log L_{ii} - \tfrac12 \|L^{-1}(x - \mu)\|^2

    Parameters
    ----------
    x : array_like, shape (D,) or (N, D)
        A vector, or many in rows.
    mu : array_like, shape (D,)
    factor : array_like, shape (D, D)
        Lower Cholesky factor L of the covariance, with a positive diagonal. What is above that is not read.

    Returns
    -------
    float
        The sum over the rows.

    Raises
    ------
    ValueError
        Shapes that do not fit.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.multi_normal_cholesky([1.0, 0.0], [0.0, 0.0], [[2.0, 0.0], [1.0, 1.0]]), 12)
    -2.781024246969
    """
    mean, lower = _array("mu", mu, 1), _array("factor", factor, 2)
    points = np.atleast_2d(_numbers("x", x, 2))
    if lower.shape != (mean.size, mean.size) or points.shape[1] != mean.size:
        shapes = f"{np.shape(x)}, {mean.shape} and {lower.shape}"
        raise ValueError(f"x, mu and factor must have the shapes (..., D), (D,) and (D, D), not {shapes}")
    return float(kernels.densities.log_densities.multi_normal_cholesky(np.array(points), mean, lower))


def lkj_corr_cholesky(factor: ArrayLike, eta: float, /) -> float:
    r"""LKJ log density of the Cholesky factor of a correlation matrix, Stan's `lkj_corr_cholesky_lpdf`.

    It is that of the entries below the diagonal, normalised:

    .. math:: \sum_{i=2}^K (K - i + 2\eta - 2)\log L_{ii} - \log c, \quad
              c = \prod_{i=1}^{K-1} \frac{\pi^{i/2}\, \Gamma(\eta + (K-1-i)/2)}{\Gamma(\eta + (K-1)/2)}

    Parameters
    ----------
    factor : array_like, shape (K, K)
        Lower factor L with rows of length 1 and a positive diagonal. -inf where the diagonal is not positive
        or a row's squared length is off 1 by more than 0.01; what is above the diagonal is not read.
    eta : float
        Shape, positive: 1 for a uniform distribution of correlation matrices.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        A factor that is not square.

    References
    ----------
    D. Lewandowski, D. Kurowicka, H. Joe, Journal of Multivariate Analysis 100 (2009), eqs. 15 and 16.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.lkj_corr_cholesky([[1.0, 0.0], [0.6, 0.8]], 2.0), 12)
    -0.73396917508
    """
    lower = _array("factor", factor, 2)
    if lower.shape[0] != lower.shape[1]:
        raise ValueError(f"factor must be square, not of shape {lower.shape}")
    return float(kernels.densities.log_densities.lkj_corr_cholesky(lower, float(_numbers("eta", eta, 0))))


def categorical_logit(y: ArrayLike, beta: ArrayLike, /) -> float:
    r"""Log probability of one of K outcomes, Stan's `categorical_logit_lpmf` with outcomes from 0.

    .. math:: \beta_y - \log \sum_k e^{\beta_k}

    Parameters
    ----------
    y : int or 1-D array_like
        Outcomes 0, ..., K - 1 (Stan counts from 1); -inf for others.
    beta : array_like, shape (K,)
        Log odds.

    Returns
    -------
    float
        The sum over the outcomes.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.categorical_logit([0, 2], [1.0, 0.0, -1.0]), 12)
    -2.815211928889
    """
    outcomes, logits = np.atleast_1d(_numbers("y", y, 1)), _array("beta", beta, 1)
    return float(kernels.densities.log_densities.categorical_logit(np.array(outcomes), logits))


def log_sum_exp(x: ArrayLike, y: float | None = None, /) -> float:
    r"""log of a sum of exponentials, without overflow: Stan's `log_sum_exp`.

    .. math:: \log \sum_k e^{x_k} \quad\text{or}\quad \log(e^x + e^y)

    Parameters
    ----------
    x : 1-D array_like, or float
    y : float, optional
        With a number x.

    Returns
    -------
    float

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.densities.log_sum_exp([1000.0, 0.0]), round(fv.densities.log_sum_exp(0.0, 0.0), 12)
    (1000.0, 0.69314718056)
    """
    terms = _array("x", x, 1) if y is None else np.array([_numbers("x", x, 0), _numbers("y", y, 0)])
    return float(kernels.densities.log_densities.log_sum_exp(terms))


def log_mix(theta: ArrayLike, x: ArrayLike, y: float | None = None, /) -> float:
    r"""log of a mixture of densities whose logarithms are given: Stan's `log_mix`.

    .. math:: \log \sum_k \theta_k e^{x_k} \quad\text{or}\quad \log(\theta e^x + (1 - \theta) e^y)

    Parameters
    ----------
    theta : 1-D array_like, or float
        Shares from 0 to 1. NaN is returned where one is not, or where their sum is off 1 by more than 0.01.
    x : 1-D array_like, or float
        Logarithms of densities.
    y : float, optional
        With numbers theta and x.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Arrays of different lengths.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.densities.log_mix(0.25, 0.0, -1.0), 12)
    -0.642625980491
    """
    if y is None:
        shares, terms = _array("theta", theta, 1), _array("x", x, 1)
        _same_length("theta and x", shares, terms)
        return float(kernels.densities.log_densities.log_mix(shares, terms))
    share = float(_numbers("theta", theta, 0))
    terms = np.array([_numbers("x", x, 0), _numbers("y", y, 0)])
    if not 0.0 <= share <= 1.0:
        return math.nan
    return float(kernels.densities.log_densities.log_mix(np.array([share, 1.0 - share]), terms))


def cholesky(matrix: ArrayLike, /) -> tuple[NDArray[np.float64], bool]:
    """The lower Cholesky factor of a symmetric matrix, and whether there is one.

    Parameters
    ----------
    matrix : array_like, shape (D, D)
        Only the lower triangle is read.

    Returns
    -------
    factor : ndarray, shape (D, D)
        NaN where the matrix is not positive definite.
    good : bool
        Whether it is. A log joint can return -inf where it is not: numpy's raises.

    Raises
    ------
    ValueError
        A matrix that is not square.

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.densities.cholesky([[4.0, 2.0], [2.0, 2.0]])
    (array([[2., 0.],
           [1., 1.]]), True)
    >>> fv.densities.cholesky([[1.0, 2.0], [2.0, 1.0]])[1]
    False
    """
    square = _array("matrix", matrix, 2)
    if square.shape[0] != square.shape[1]:
        raise ValueError(f"matrix must be square, not of shape {square.shape}")
    factor, good = kernels.densities.log_densities.cholesky(square)
    return factor, bool(good)
