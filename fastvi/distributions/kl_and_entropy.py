"""KL divergences and differential entropies of Gaussians, mixtures and grids, with their errors.

`fastvi.kl` of two distributions is `kl_value`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import kernels
from ..common.threads import interruptible
from ..common.validation import same_dimension
from ..kernels.discrete.masses import ANY, NORMALIZE
from .bounds import kl_bounds
from .gaussian import Gaussian
from .grid import Grid2D
from .integrals import (
    ENTROPY_RTOL,
    QUADRATURE_DIM,
    Estimate,
    clipped,
    kl_quadrature,
    mixture_entropy,
    quasi_monte_carlo,
    rounding_of_factors,
    tolerance,
    widened,
    within_bounds,
)
from .mixture import GaussianMixture, is_long
from .rounding import closed_form_error, entropy_error, mixture_error

#: Rounding error of a sum over a grid, relative to its value or to 1 + |value|.
_GRID_ROUNDING = 1e-15

#: Mass outside of a grid that counts as none: times any log ratio it is below every error.
_NO_MASS = 1e-300


def _gaussian_kl(p: Gaussian, q: Gaussian) -> float:
    space = np.empty(2 * p.dim)
    return float(kernels.densities.gaussians.gaussian_kl(p._mean, p._factor, q._mean, q._factor, space))


def _closed_form(p: Gaussian, q: Gaussian) -> Estimate:
    value = _gaussian_kl(p, q)
    if value == math.inf:
        return Estimate(value, 0.0, 0, "closed form")
    return Estimate(value, closed_form_error(p, q, value), 0, "closed form")


def _mixtures(p: Any, q: Any, rtol: float) -> Estimate:
    if p == q:
        return Estimate(0.0, 0.0, 0, "closed form")
    value, error, nodes, resolved = kl_quadrature(p._triple(), q._triple(), rtol)
    if not (resolved and error < math.inf):
        value, error = within_bounds(kl_bounds(p, q), value)
        return Estimate(value, error + rounding_of_factors(abs(value) + p.dim, p, q), nodes)
    error += rounding_of_factors(abs(value) + p.dim, p, q)
    # A value below zero is a divergence of zero with an error.
    return Estimate(max(value, 0.0), error, nodes)


def _grid_sum(p: Grid2D, q: Grid2D, mass: int) -> float:
    """The KL sum of two densities on one grid: of measures, or of distributions after normalisation."""
    with np.errstate(divide="ignore"):
        log_cells = np.log(np.multiply.outer(p._a, p._b)).ravel()
    run = kernels.discrete.divergences.KERNELS["kl"].log
    return float(run(p.logp.ravel() + log_cells, q.logp.ravel() + log_cells, (0.0, 0.0), mass))


def _two_grids(p: Grid2D, q: Grid2D) -> Estimate:
    if not (np.array_equal(p.x, q.x) and np.array_equal(p.y, q.y)):
        raise ValueError(
            f"p and q must be on one grid: p has {p.logp.shape} points, q has {q.logp.shape}, "
            "or their coordinates differ; tabulate both with the same bounds and shape"
        )
    fine, coarse = _grid_sum(p, q, NORMALIZE), _grid_sum(p._every_second(), q._every_second(), NORMALIZE)
    error = abs(fine - coarse) + _GRID_ROUNDING * fine if fine < math.inf else 0.0
    return Estimate(fine, error, p.logp.size, "grid sum")


def _tabulated(grid: Grid2D, p: Any) -> Grid2D:
    """Another distribution on the same grid, not normalised."""
    points = np.stack(np.broadcast_arrays(grid.x[:, None], grid.y[None, :]), axis=-1)
    return grid._like(p.logpdf(points))


def _one_grid(p: Any, q: Any) -> Estimate:
    """KL where either p or q is a grid: the sum over it, and over every second point for the error."""
    grid = p if isinstance(p, Grid2D) else q
    values = []
    for level in (grid, grid._every_second()):
        normalized = level.normalized()
        other = _tabulated(level, q if isinstance(p, Grid2D) else p)
        one, two = (normalized, other) if isinstance(p, Grid2D) else (other, normalized)
        value, mass_one, mass_two = _grid_sum(one, two, ANY), one.integral, two.integral
        outside = 1.0 - (mass_two if isinstance(p, Grid2D) else mass_one)
        # The KL sum of measures is E[log p/q] - (mass of p) + (mass of q) on the grid.
        values.append((value + mass_one - mass_two, value, outside, one, two))
    (exact, generalised, outside, one, two), (coarse, coarse_generalised, *_) = values
    outside = max(outside, 0.0)
    if isinstance(p, Grid2D):
        # p is zero outside of the grid, where q's mass counts by its normalisation alone.
        error = abs(exact - coarse) + _GRID_ROUNDING * (1.0 + abs(exact)) if exact < math.inf else 0.0
        return Estimate(max(exact, 0.0), error, grid.logp.size, "grid sum", outside)
    error = 0.0
    if generalised < math.inf:
        error = abs(generalised - coarse_generalised) + _GRID_ROUNDING * (1.0 + generalised)
        if outside > _NO_MASS:
            edge = np.ones(grid.logp.shape, dtype=bool)
            edge[1:-1, 1:-1] = False
            error += outside * float(np.abs(one.logp[edge] - two.logp[edge]).max())
    return Estimate(generalised, error, grid.logp.size, "grid sum", outside)


def _check_kind(name: str, p: Any) -> None:
    if not isinstance(p, Gaussian | GaussianMixture | Grid2D):
        raise TypeError(f"{name} must be a Gaussian, a GaussianMixture or a Grid2D, not {type(p).__name__}")


def is_distribution(p: Any) -> bool:
    """Whether `p` is one of the classes of `fastvi.distributions`."""
    return isinstance(p, Gaussian | GaussianMixture | Grid2D)


@interruptible(is_long)
def kl_estimate(p: Any, q: Any, *, rtol: float = ENTROPY_RTOL) -> Estimate:
    r"""Kullback-Leibler divergence of two distributions, with its error.

    .. math:: \mathrm{KL}(p \,\|\, q) = \int p(z) \log \frac{p(z)}{q(z)} \, dz

    Parameters
    ----------
    p, q : Gaussian, GaussianMixture or Grid2D
        Of one dimension. Two grids must have the same points.
    rtol : float, optional
        Relative error wanted of the quadrature.

    Returns
    -------
    Estimate
        In nats. Two Gaussians: closed form. Mixtures in up to three dimensions: the trapezoid rule in
        coordinates whitened on each component of p, with the step halved until two successive values agree;
        `error` is a bound. Where the lattice would need more than four million nodes, the value is only known
        between the `kl_bounds`. Mixtures in more dimensions: quasi-Monte Carlo, and `error` is its standard
        error; a value outside of the `kl_bounds` is moved to them, and `note` says so. Grids: the sum over
        the grid, `error` is the change against every second point, and `outside` is the mass of the other
        distribution outside of the grid. In KL(p ‖ q) of a grid q that mass adds to the value once, and to
        the error times the largest log ratio on the edge.

    Raises
    ------
    TypeError
        Other kinds of arguments.
    ValueError
        Dimensions or grids that differ; an rtol outside of [1e-14, 1).

    References
    ----------
    Closed form: C. M. Bishop, Pattern Recognition and Machine Learning (2006), exercise 2.13. Quadrature:
    L. N. Trefethen, J. A. C. Weideman, The Exponentially Convergent Trapezoidal Rule, SIAM Review 56 (2014),
    section 4. Quasi-Monte Carlo: A. B. Owen, Scrambled Net Variance for Integrals of Smooth Functions,
    Ann. Statist. 25 (1997).

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.7], [-3, 3], [1, 1])
    >>> e = fv.kl_estimate(p, fv.Gaussian(p.mean, p.cov))
    >>> round(e.value, 9), e.error < 1e-9
    (0.466188952, True)
    """
    _check_kind("p", p)
    _check_kind("q", q)
    same_dimension(p, q)
    wanted = tolerance(rtol)
    if isinstance(p, Gaussian) and isinstance(q, Gaussian):
        return _closed_form(p, q)
    if isinstance(p, Grid2D) and isinstance(q, Grid2D):
        return _two_grids(p, q)
    if isinstance(p, Grid2D) or isinstance(q, Grid2D):
        return _one_grid(p, q)
    if p.dim <= QUADRATURE_DIM:
        return _mixtures(p, q, wanted)
    return widened(clipped(quasi_monte_carlo(p, q), kl_bounds(p, q)), mixture_error(p, q))


def kl_value(p: Any, q: Any) -> float:
    """The value of `kl_estimate`, without its error where that takes longer."""
    if isinstance(p, Gaussian) and isinstance(q, Gaussian) and p.dim == q.dim:
        return _gaussian_kl(p, q)
    return kl_estimate(p, q).value


@interruptible(is_long)
def entropy_estimate(p: Any, *, rtol: float = ENTROPY_RTOL) -> Estimate:
    r"""Differential entropy of a distribution, with its error.

    .. math:: h(p) = -\int p(z) \log p(z) \, dz

    Parameters
    ----------
    p : Gaussian, GaussianMixture or Grid2D
    rtol : float, optional
        Relative error wanted of the quadrature.

    Returns
    -------
    Estimate
        In nats, by the methods of `kl_estimate`.

    Raises
    ------
    TypeError
        Another kind of argument.
    ValueError
        An rtol outside of [1e-14, 1).

    References
    ----------
    T. M. Cover, J. A. Thomas, Elements of Information Theory (2006), eq. 8.1.

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.entropy_estimate(fv.GaussianMixture([0.5, 0.5], [0, 100], [1, 1])).value.__round__(9)
    2.112085714
    """
    _check_kind("p", p)
    wanted = tolerance(rtol)
    if isinstance(p, Gaussian):
        value = p.entropy()
        return Estimate(value, entropy_error(p, value), 0, "closed form")
    if isinstance(p, Grid2D):
        value, coarse = p.entropy(), p._every_second().entropy()
        return Estimate(
            value, abs(value - coarse) + _GRID_ROUNDING * (1.0 + abs(value)), p.logp.size, "grid sum"
        )
    found = mixture_entropy(p, wanted)
    return found if p.dim <= QUADRATURE_DIM else widened(found, mixture_error(p, None))
