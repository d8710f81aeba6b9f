"""Distances, and divergences of an order: public functions of arrays.

Each has a row in `kernels.discrete.registry`: which keywords it allows, which kernels compute it.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from ..common.validation import order_of
from ..kernels.discrete.registry import NO_THETA, ROWS
from .docstrings import documented
from .rows import Axis, Result, divergence


@documented
def hellinger(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: Axis = -1,
    dim: Any = None,
    base: None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
    nan_policy: str = "raise",
) -> Result:
    r"""Hellinger distance, a metric.

    .. math:: H(p, q) = \sqrt{\tfrac12 \sum_i (\sqrt{p_i} - \sqrt{q_i})^2}

    Parameters
    ----------
    %(p_q)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The distance, from 0 to 1 for distributions.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    A. B. Tsybakov, Introduction to Nonparametric Estimation (2009), definition 2.3 (there without the 1/2).

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.hellinger([1.0, 0.0], [0.0, 1.0])
    1.0
    """
    return divergence("hellinger", NO_THETA, p, q, axis, dim, base, mass, log, keepdims, nan_policy)


@documented
def total_variation(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: Axis = -1,
    dim: Any = None,
    base: None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
    nan_policy: str = "raise",
) -> Result:
    r"""Total variation distance, a metric.

    .. math:: \mathrm{TV}(p, q) = \tfrac12 \sum_i |p_i - q_i|

    Parameters
    ----------
    %(p_q)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The distance, from 0 to 1 for distributions.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    A. B. Tsybakov, Introduction to Nonparametric Estimation (2009), lemma 2.1.

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.total_variation([0.5, 0.5], [0.75, 0.25])
    0.25
    """
    return divergence("total_variation", NO_THETA, p, q, axis, dim, base, mass, log, keepdims, nan_policy)


@documented
def chi2(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: Axis = -1,
    dim: Any = None,
    base: None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
    nan_policy: str = "raise",
) -> Result:
    r"""Pearson chi-square divergence.

    .. math:: \chi^2(p \,\|\, q) = \sum_i \frac{(p_i - q_i)^2}{q_i}

    Parameters
    ----------
    %(p_q)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The divergence; infinite where some p_i > 0 = q_i, or where the sum exceeds the largest float.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    A. B. Tsybakov, Introduction to Nonparametric Estimation (2009), section 2.4.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.chi2([0.5, 0.5], [0.75, 0.25]), 12)
    0.333333333333
    """
    return divergence("chi2", NO_THETA, p, q, axis, dim, base, mass, log, keepdims, nan_policy)


@documented
def bhattacharyya(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: Axis = -1,
    dim: Any = None,
    base: float | None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
    nan_policy: str = "raise",
) -> Result:
    r"""Bhattacharyya distance.

    .. math:: D_B(p, q) = -\log \sum_i \sqrt{p_i q_i}

    Parameters
    ----------
    %(p_q)s
    %(keywords)s

    Returns
    -------
    float or ndarray
        The distance, in nats unless `base` says otherwise; infinite where p and q have no common support.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    T. Kailath, The Divergence and Bhattacharyya Distance Measures in Signal Selection, IEEE Trans. Commun.
    Technol. 15 (1967), section II.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.bhattacharyya([0.5, 0.5], [0.9, 0.1]), 12)
    0.111571775657
    """
    return divergence("bhattacharyya", NO_THETA, p, q, axis, dim, base, mass, log, keepdims, nan_policy)


@documented
def renyi(
    p: ArrayLike,
    q: ArrayLike,
    alpha: float,
    *,
    axis: Axis = -1,
    dim: Any = None,
    base: float | None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
    nan_policy: str = "raise",
) -> Result:
    r"""Renyi divergence of order alpha.

    .. math:: D_\alpha(p \,\|\, q) = \frac{1}{\alpha - 1} \log \sum_i p_i^\alpha q_i^{1 - \alpha}

    with its limits: -log of the q-mass of the support of p for alpha = 0, KL(p‖q) for alpha = 1, and
    log max p_i / q_i for alpha = inf.

    Parameters
    ----------
    %(p_q)s
    alpha : float
        The order, from 0 to infinity, both included.
    %(keywords)s

    Returns
    -------
    float or ndarray
        The divergence, in nats unless `base` says otherwise. It grows with alpha; twice the Bhattacharyya
        distance for alpha = 1/2.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    T. van Erven, P. Harremoes, Renyi Divergence and Kullback-Leibler Divergence, IEEE Trans. Inf. Theory 60
    (2014), eq. 1 and theorems 4 to 6.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.renyi([0.5, 0.5], [0.75, 0.25], 2), 12)
    0.287682072452
    >>> fv.renyi([0.5, 0.5], [0.75, 0.25], float("inf"), base=2)
    1.0
    """
    theta = order_of(ROWS["renyi"], alpha), 0.0
    return divergence("renyi", theta, p, q, axis, dim, base, mass, log, keepdims, nan_policy)


@documented
def alpha_divergence(
    p: ArrayLike,
    q: ArrayLike,
    alpha: float,
    *,
    axis: Axis = -1,
    dim: Any = None,
    base: None = None,
    mass: str = "unit",
    log: bool = False,
    keepdims: bool = False,
    nan_policy: str = "raise",
) -> Result:
    r"""Alpha-divergence.

    .. math:: D_\alpha(p \,\|\, q) =
              \frac{\sum_i p_i^\alpha q_i^{1-\alpha} - \alpha p_i + (\alpha - 1) q_i}{\alpha (\alpha - 1)}

    with its limits KL(p‖q) for alpha = 1 and KL(q‖p) for alpha = 0.

    Parameters
    ----------
    %(p_q)s
    alpha : float
        The order, any finite number. 1/2 gives four times the squared Hellinger distance, 2 and -1 half the
        chi-square divergence in the two directions.
    %(keywords)s

    Returns
    -------
    float or ndarray
        The divergence.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    A. Cichocki, S. Amari, Families of Alpha- Beta- and Gamma-Divergences, Entropy 12 (2010), section 2.

    Examples
    --------
    >>> import fastvi as fv
    >>> round(fv.alpha_divergence([0.5, 0.5], [0.75, 0.25], 2), 12)
    0.166666666667
    """
    theta = order_of(ROWS["alpha_divergence"], alpha), 0.0
    return divergence("alpha_divergence", theta, p, q, axis, dim, base, mass, log, keepdims, nan_policy)


__all__ = [
    "alpha_divergence",
    "bhattacharyya",
    "chi2",
    "hellinger",
    "renyi",
    "total_variation",
]
