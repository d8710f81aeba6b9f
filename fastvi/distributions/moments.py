"""Moments of a Gaussian after the transforms of a support, in closed form where they have one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..common.values import Array
from ..kernels.models.kinds import LOWER, ORDERED, REAL, UPPER
from .gaussian import Gaussian
from .support import Support

#: Kinds of coordinates that are sums of Gaussian and log-normal numbers.
_CLOSED = (REAL, LOWER, UPPER, ORDERED)


#: Those that are one Gaussian or log-normal number each.
_SINGLE = (REAL, LOWER, UPPER)


def marginal_moments(gaussian: Gaussian, support: Support) -> tuple[Array, Array] | None:
    """(mean, standard deviations) of z without its covariance; None where coordinates have no such form."""
    kinds, bounds = support.kinds, support.bounds
    if not np.isin(kinds, _SINGLE).all():
        return None
    deviations, real, upper = gaussian._deviations, kinds == REAL, kinds == UPPER
    with np.errstate(over="ignore", invalid="ignore"):
        exponential = np.exp(gaussian.mean + 0.5 * deviations**2)
        spread = exponential * np.sqrt(np.expm1(deviations**2))
    mean = np.where(upper, bounds[:, 1] - exponential, bounds[:, 0] + exponential)
    return np.where(real, gaussian.mean, mean), np.where(real, deviations, spread)


class ClosedForm(NamedTuple):
    """Of the coordinates of z that have a closed form."""

    places: NDArray[np.int64]  #: (C,) which coordinates these are
    mean: Array  #: (C,)
    cov: Array  #: (C, C)
    log_jacobian: float  #: the mean of their part of the log-Jacobian


def closed_moments(gaussian: Gaussian, support: Support) -> ClosedForm:
    """Moments of the real, the bounded below or above, and the ordered coordinates.

    With E_i = exp(m_i + S_ii / 2) and x Gaussian, E[exp x_i] = E_i, Cov(x_i, exp x_j) = S_ij E_j and
    Cov(exp x_i, exp x_j) = E_i E_j (exp S_ij - 1). An ordered coordinate is that before it plus an
    exponential. (N. L. Johnson, S. Kotz, N. Balakrishnan, Continuous Univariate Distributions 1 (1994),
    chapter 14.)
    """
    closed = np.isin(support.kinds, _CLOSED)
    kinds, bounds = support.kinds[closed], support.bounds[closed]
    latent_mean, latent_cov = gaussian.mean[closed], gaussian.cov[np.ix_(closed, closed)]
    real = kinds == REAL
    with np.errstate(over="ignore", invalid="ignore"):
        exponential = np.exp(latent_mean + 0.5 * np.diag(latent_cov))
        unit = np.where(real, 1.0, exponential)
        bent = np.where(real[:, None] | real, latent_cov, np.expm1(latent_cov))
        # Coordinates without a covariance have none where a mean is infinite, too.
        cov = np.where(bent == 0.0, 0.0, bent * unit * unit[:, None])
        mean = np.where(real, latent_mean, exponential)
        upper = kinds == UPPER
        mean = np.where(upper, bounds[:, 1] - mean, np.where(kinds == LOWER, bounds[:, 0] + mean, mean))
        sign = np.where(upper, -1.0, 1.0)
        cov *= sign * sign[:, None]
        for i in np.flatnonzero(kinds == ORDERED):
            mean[i] += mean[i - 1]
            cov[i] += cov[i - 1]
            cov[:, i] += cov[:, i - 1]
    return ClosedForm(support.places[closed], mean, cov, float(latent_mean[~real].sum()))
