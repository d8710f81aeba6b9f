"""Variational Bayes for Gaussian mixtures: q(labels) q(weights) q(means, precisions) with conjugate priors.

The equations are those of C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 10.2, with
the degrees of freedom of eq. 10.63 as the errata have them. All of them are in the frame of the data, where
these have mean 0 and covariance I.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.immutable import Record, frozen
from ..common.statuses import EM_WORDS
from ..common.values import Array
from ..distributions.mixture import GaussianMixture
from ..kernels import statuses
from ..kernels.densities.gaussians import LOG_2PI
from . import priors
from .coordinates import Frame

#: Gains of the ELBO below this share of it are rounding.
_ROUNDING = 4e-16


class VariationalMixtureFit(Record):
    """Variational Bayes for a mixture: q of the weights, means and precisions, and the ELBO.

    q(weights) is Dirichlet(α); q(mean, precision) of a component is N(mean | m, (β precision)**-1) times
    Wishart(precision | W, ν).

    Attributes
    ----------
    elbo : float
        The ELBO at the end, a lower bound of the log evidence of k components, in nats; no constant is left
        out.
    trace : ndarray, shape (iterations + 1,)
        The ELBO after each step. It never falls, but for rounding.
    mixture : GaussianMixture
        The posterior mean of the weights, the means m, and covariances (ν W)**-1.
    counts : ndarray, shape (k,)
        The expected number of points, or their weight, of each component; near 0 for one that is not used.
    concentration : ndarray, shape (k,)
        α.
    mean_precision : ndarray, shape (k,)
        β.
    degrees_of_freedom : ndarray, shape (k,)
        ν.
    scale : ndarray, shape (k, d, d)
        The inverse of W.
    responsibilities : ndarray, shape (n, k)
        The q(labels) that is best for this q of the parameters.
    iterations : int
    converged : bool
        Whether the ELBO, per point, is within `tol` of its local maximum, extrapolated.
    status : str
        How the best restart ended, in words.
    restart_elbos : ndarray
        The ELBO of each restart.

    Examples
    --------
    >>> import fastvi as fv
    >>> x = [0, 1, 2, 3, 4, 5, 6, 7, 50, 51, 52, 53, 54, 55, 56, 57]
    >>> fv.fit_mixture(x, 3, variational=True, prior={"scale": 1}).counts.round(1) + 0.0
    array([8., 0., 8.])
    """

    elbo: float
    trace: Array
    mixture: GaussianMixture
    counts: Array
    concentration: Array
    mean_precision: Array
    degrees_of_freedom: Array
    scale: Array
    responsibilities: Array
    iterations: int
    converged: bool
    status: str
    restart_elbos: Array

    def __repr__(self) -> str:
        return (
            f"VariationalMixtureFit(k={self.counts.size}, n={len(self.responsibilities)}, "
            f"elbo={self.elbo:.6g}, {self.status} after {self.iterations} iterations)"
        )


class Prior(NamedTuple):
    """The prior: α0 (k,), β0, m0 (d,), ν0 and the inverse of W0 (d, d)."""

    concentration: Array
    mean_precision: float
    mean: Array
    degrees_of_freedom: float
    scale: Array


class _Posterior(NamedTuple):
    """q of the parameters, one row for each component; `factors` are those of the scale."""

    counts: Array
    concentration: Array
    mean_precision: Array
    means: Array
    degrees_of_freedom: Array
    factors: Array


def checked_prior(prior: Any, count: int, points: Array, frequencies: Array | None) -> Prior:
    """The prior, with what is not given: 1 / k, 1, the mean of the data, d, and their covariance."""
    given, dim = priors.mapping(prior), points.shape[1]
    mean, cov = priors.mean_and_cov(points, frequencies)
    return Prior(
        priors.concentration(given, 1.0 / count, count, 0.0),
        priors.number(given, "mean_precision", 1.0, 0.0),
        priors.location(given, mean),
        priors.number(given, "degrees_of_freedom", float(dim), dim - 1.0),
        priors.scale(given, cov),
    )


def _solved(factor: Array, right: Any) -> Array:
    return np.asarray(np.linalg.solve(factor, right), np.float64)


def in_frame(prior: Prior, frame: Frame) -> Prior:
    """The prior in the coordinates of the frame."""
    mean = _solved(frame.factor, prior.mean - frame.mean)
    half = _solved(frame.factor, np.linalg.cholesky(prior.scale))
    return prior._replace(mean=mean, scale=half @ half.T)


def _posterior(rows: Array, frequencies: Array, shares: Array, prior: Prior) -> _Posterior:
    """The q of the parameters that is best for these responsibilities: eq. 10.51 to 10.53, 10.58 to 10.63."""
    weighted = frequencies[:, None] * shares
    counts = weighted.sum(axis=0)
    beta = prior.mean_precision + counts
    means = (prior.mean_precision * prior.mean + weighted.T @ rows) / beta[:, None]
    factors = np.empty((counts.size, rows.shape[1], rows.shape[1]))
    away = prior.mean - means
    for k in range(counts.size):
        # The scatter about m and that of the prior's mean about m: the sums of eq. 10.62 without differences.
        moved = rows - means[k]
        scatter = (moved * weighted[:, k, None]).T @ moved
        factors[k] = np.linalg.cholesky(
            prior.scale + scatter + prior.mean_precision * np.outer(away[k], away[k])
        )
    return _Posterior(
        counts, prior.concentration + counts, beta, means, prior.degrees_of_freedom + counts, factors
    )


def _log_det(factors: Array) -> Array:
    return np.asarray(2.0 * np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(axis=-1))


def _shares(rows: Array, q: _Posterior) -> Array:
    """The responsibilities that are best for this q of the parameters: eq. 10.46, 10.49, 10.64 to 10.66."""
    from scipy.special import digamma

    dim = rows.shape[1]
    halves = 0.5 * (q.degrees_of_freedom[:, None] - np.arange(dim))
    logs = digamma(q.concentration) - digamma(q.concentration.sum())
    logs += 0.5 * (digamma(halves).sum(axis=1) + dim * math.log(2.0) - _log_det(q.factors))
    out = np.empty((len(rows), q.counts.size))
    for k in range(q.counts.size):
        white = _solved(q.factors[k], (rows - q.means[k]).T)
        distance = dim / q.mean_precision[k] + q.degrees_of_freedom[k] * (white**2).sum(axis=0)
        out[:, k] = logs[k] - 0.5 * distance
    out -= out.max(axis=1, keepdims=True)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)
    return out


def _log_norm_of_wishart(freedom: Array, log_det: Any, dim: int) -> Array:
    """-log B(W, ν), eq. B.79, from log |W**-1|, but for a constant of the dimension."""
    from scipy.special import gammaln

    halves = 0.5 * (freedom[:, None] - np.arange(dim))
    gammas = gammaln(halves).sum(axis=1)
    return np.asarray(0.5 * freedom * (dim * math.log(2.0) - log_det) + gammas)


def _elbo(frequencies: Array, shares: Array, q: _Posterior, prior: Prior) -> float:
    """The ELBO where q of the parameters is best for the responsibilities.

    Then eq. 10.70 to 10.77 sum to the entropy of the labels and the logarithms of the ratios of the
    normalising constants of q and prior, as for data whose labels are known.
    """
    from scipy.special import gammaln

    dim = q.means.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(shares > 0.0, shares * np.log(shares), 0.0)
    total = -float(frequencies @ terms.sum(axis=1))
    for sign, alphas in ((1.0, q.concentration), (-1.0, prior.concentration)):
        total += sign * float(gammaln(alphas).sum() - gammaln(alphas.sum()))
    total += 0.5 * dim * float(np.log(prior.mean_precision / q.mean_precision).sum())
    before = _log_norm_of_wishart(
        np.array([prior.degrees_of_freedom]), np.linalg.slogdet(prior.scale)[1], dim
    )
    after = _log_norm_of_wishart(q.degrees_of_freedom, _log_det(q.factors), dim)
    total += float((after - before).sum())
    return float(total - 0.5 * dim * LOG_2PI * q.counts.sum())


def ascend(
    rows: Array, frequencies: Array, shares: Array, prior: Prior, tol: float, most: int
) -> tuple[_Posterior, list[float], int]:
    """Coordinate ascent of the ELBO from responsibilities: (q of the parameters, trace, status).

    It ends when the ELBO is within `tol` per point of its limit, if its gains go on to shrink as they do.
    """
    q = _posterior(rows, frequencies, shares, prior)
    trace = [_elbo(frequencies, shares, q, prior)]
    wanted = tol * float(frequencies.sum())
    last = before = 0.0
    for _ in range(most):
        shares = _shares(rows, q)
        q = _posterior(rows, frequencies, shares, prior)
        trace.append(_elbo(frequencies, shares, q, prior))
        gain = trace[-1] - trace[-2]
        if gain <= _ROUNDING * abs(trace[-1]):
            return q, trace, statuses.CONVERGED
        if kernels.em.iterations.remaining_gain(gain, last, before, 0.0) <= wanted:
            return q, trace, statuses.CONVERGED
        last, before = gain, last
    return q, trace, statuses.STEPS_EXHAUSTED


def result(
    runs: list[tuple[_Posterior, list[float], int]], frame: Frame, points: Array, mass: float
) -> VariationalMixtureFit:
    """The run with the largest ELBO, in the coordinates of the data."""
    shift = mass * float(np.log(np.diag(frame.factor)).sum())
    q, trace, status = max(runs, key=lambda run: run[1][-1])
    order = np.lexsort(q.means.T[::-1])
    q = _Posterior(*(part[order] for part in q))  # by their means, as those of `MixtureFit`
    factors = frame.factor @ q.factors
    scale = factors @ factors.swapaxes(1, 2)
    means = frame.mean + q.means @ frame.factor.T
    weights = q.concentration / q.concentration.sum()
    covs = scale / q.degrees_of_freedom[:, None, None]
    return VariationalMixtureFit(
        elbo=trace[-1] - shift,
        trace=np.array(trace) - shift,
        mixture=GaussianMixture(weights, means, covs),
        counts=q.counts,
        concentration=q.concentration,
        mean_precision=q.mean_precision,
        degrees_of_freedom=q.degrees_of_freedom,
        scale=scale,
        responsibilities=_shares(_solved(frame.factor, (points - frame.mean).T).T, q),
        iterations=len(trace) - 1,
        converged=status == statuses.CONVERGED,
        status=EM_WORDS[status],
        restart_elbos=frozen(np.array([run[1][-1] for run in runs]) - shift),
    )
