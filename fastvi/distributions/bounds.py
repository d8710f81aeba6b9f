"""Bounds of the entropy and the KL divergence of Gaussian mixtures, in closed form, for any dimension.

`kl_estimate` falls back on them where quadrature would need too many nodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..common.validation import same_dimension
from .gaussian import Gaussian
from .integrals import Bounds, entropy_bounds
from .mixture import GaussianMixture


def _checked_mixture(name: str, p: Any) -> Any:
    if not isinstance(p, Gaussian | GaussianMixture):
        raise TypeError(f"{name} must be a Gaussian or a GaussianMixture, not {type(p).__name__}")
    return p


def mixture_entropy_bounds(p: Gaussian | GaussianMixture) -> Bounds:
    r"""Bounds of a mixture's entropy from the pairs of its components, without quadrature.

    The expression

    .. math:: \sum_i w_i H(N_i) - \sum_i w_i \log \sum_j w_j e^{-D(N_i, N_j)}

    is a lower bound for D the Bhattacharyya distance, and an upper bound for D the KL divergence.

    Parameters
    ----------
    p : GaussianMixture or Gaussian
        In any dimension.

    Returns
    -------
    Bounds
        (lower, upper), in nats.

    Raises
    ------
    TypeError
        Another kind of argument.

    References
    ----------
    A. Kolchinsky, B. D. Tracey, Estimating Mixture Entropy with Pairwise Distances, Entropy 19 (2017), eq.
    10, 15 and 16.

    Examples
    --------
    >>> import fastvi as fv
    >>> bounds = fv.mixture_entropy_bounds(fv.GaussianMixture([0.5, 0.5], [0, 3], [1, 1]))
    >>> round(bounds.lower, 4), round(bounds.upper, 4)
    (1.8309, 2.101)
    """
    return entropy_bounds(_checked_mixture("p", p)._triple())


def kl_bounds(p: Gaussian | GaussianMixture, q: Gaussian | GaussianMixture) -> Bounds:
    r"""Bounds of the KL divergence of two mixtures from pairs of components, without quadrature.

    Parameters
    ----------
    p, q : GaussianMixture or Gaussian
        In any dimension, the same for both.

    Returns
    -------
    Bounds
        (lower, upper), in nats: E_p[log p] - E_p[log q], with the entropy bounds of `mixture_entropy_bounds`
        and E_p[log q] between
        :math:`\sum_a w_a (\log \sum_b v_b e^{-KL(p_a \| q_b)} - H(p_a))` and
        :math:`\sum_a w_a \log \sum_b v_b t_{ab}`, where :math:`t_{ab} = \int p_a q_b`. The upper bound is the
        lesser of this one (Durrieu) and that of a matching of components (Hershey and Olsen).

    Raises
    ------
    TypeError
        Other kinds of arguments.
    ValueError
        Dimensions that differ.

    References
    ----------
    J. R. Hershey, P. A. Olsen, Approximating the Kullback Leibler Divergence Between Gaussian Mixture Models,
    ICASSP 2007, section 8. J.-L. Durrieu, J.-P. Thiran, F. Kelly, Lower and Upper Bounds for Approximation of
    the Kullback-Leibler Divergence Between Gaussian Mixture Models, ICASSP 2012, eq. 11 and 13.

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.7], [-3, 3], [1, 1])
    >>> bounds = fv.kl_bounds(p, fv.Gaussian(p.mean, p.cov))
    >>> bounds.lower <= fv.kl(p, fv.Gaussian(p.mean, p.cov)) <= bounds.upper
    True
    """
    one, two = _checked_mixture("p", p)._triple(), _checked_mixture("q", q)._triple()
    same_dimension(p, q)
    if p == q:
        return Bounds(0.0, 0.0)
    (_, means_p, _), (_, means_q, _) = one, two
    m, n = len(means_p), len(means_q)
    space = np.empty(2 * p.dim)
    lower, upper = kernels.densities.bounds.kl_bounds(
        one, two, np.empty(2 * max(m, n)), np.empty((p.dim, p.dim)), space
    )
    costs = np.empty((m, n))
    kernels.densities.bounds.all_kl(one, two, costs, space)
    matched = kernels.densities.bounds.matched_bound(
        one, two, np.empty((m, n)), np.empty((m, n)), costs, kernels.densities.bounds.ROUNDS
    )
    return Bounds(lower, max(lower, min(upper, matched)))
