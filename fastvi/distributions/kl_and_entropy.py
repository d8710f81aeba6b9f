"""Divergences and entropies of distributions, with their errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import kernels
from ..common.validation import same_dimension
from ..kernels.discrete.masses import ANY, NORMALIZE
from .bounds import kl_bounds, mixture_entropy_bounds
from .gaussian import Gaussian
from .grid import Grid2D
from .integrals import (
    QUADRATURE_DIM,
    Estimate,
    kl_quadrature,
    quasi_monte_carlo,
    rounding_of_factors,
    tolerance,
    within_bounds,
)
from .mixture import GaussianMixture


def _gaussian_kl(p: Gaussian, q: Gaussian) -> float:
    space = np.empty(2 * p.dim)
    return float(kernels.densities.gaussians.gaussian_kl(p._mean, p._factor, q._mean, q._factor, space))


def _closed_form(p: Gaussian, q: Gaussian) -> Estimate:
    value = _gaussian_kl(p, q)
    if value == math.inf:
        return Estimate(value, 0.0, 0, "closed form")
    # Cholesky's method is exact for covariances that are off by rounding, sqrt(S_ii S_jj) times D 2**-53:
    # what that does to the divergence to first order, and the rounding of the sum itself.
    inverse_p, inverse_q = np.linalg.inv(p.cov), np.linalg.inv(q.cov)
    shift = p.mean - q.mean
    slope_q = inverse_q - inverse_q @ (p.cov + np.outer(shift, shift)) @ inverse_q
    error = 4.4e-16 * p.dim * value
    for g, slope in ((p, inverse_q - inverse_p), (q, slope_q)):
        spread = np.sqrt(np.diag(g.cov))
        error += 2.2e-16 * p.dim * float(spread @ np.abs(slope) @ spread)
    return Estimate(value, error + (2.2e-16 * p.dim) ** 2, 0, "closed form")


def _mixtures(p: Any, q: Any, rtol: float) -> Estimate:
    if p == q:
        return Estimate(0.0, 0.0, 0, "closed form")
    value, error, nodes, resolved = kl_quadrature(p._triple(), q._triple(), rtol)
    if not (resolved and error < math.inf):
        return Estimate(*within_bounds(kl_bounds(p, q), value), nodes)
    error += rounding_of_factors(abs(value) + p.dim, p, q)
    # A divergence is not negative: what is below zero is the error of a value near zero.
    return Estimate(max(value, 0.0), error, nodes)


def _same_grid(p: Grid2D, q: Grid2D) -> None:
    if not (np.array_equal(p.x, q.x) and np.array_equal(p.y, q.y)):
        raise ValueError(
            f"p and q must be on one grid: p has {p.logp.shape} points, q has {q.logp.shape}, "
            "or their coordinates differ; tabulate both with the same bounds and shape"
        )


def _grid_sum(p: Grid2D, q: Grid2D) -> float:
    """KL of two normalised densities on one grid."""
    with np.errstate(divide="ignore"):
        cells = np.log(np.multiply.outer(p._a, p._b)).ravel()
    run = kernels.discrete.divergences.KERNELS["kl"].log
    value = run(p.logp.ravel() + cells, q.logp.ravel() + cells, (0.0, 0.0), NORMALIZE)
    return float(value)


def _on(grid: Grid2D, p: Any) -> Grid2D:
    """Another distribution on the same grid, not normalised."""
    points = np.stack(np.broadcast_arrays(grid.x[:, None], grid.y[None, :]), axis=-1)
    return grid._like(p.logpdf(points))


def _grid_value(p: Grid2D, q: Grid2D) -> tuple[float, float, float]:
    """(generalised KL sum of two densities on one grid, mass of p, mass of q)."""
    with np.errstate(divide="ignore"):
        cells = np.log(np.multiply.outer(p._a, p._b)).ravel()
    run = kernels.discrete.divergences.KERNELS["kl"].log
    value = run(p.logp.ravel() + cells, q.logp.ravel() + cells, (0.0, 0.0), ANY)
    return float(value), p.integral, q.integral


def _with_grid(p: Any, q: Any) -> Estimate:
    if isinstance(p, Grid2D) and isinstance(q, Grid2D):
        _same_grid(p, q)
        fine, coarse = _grid_sum(p, q), _grid_sum(p._every_second(), q._every_second())
        error = abs(fine - coarse) if fine < math.inf else 0.0
        return Estimate(fine, error + 1e-15 * fine if fine < math.inf else 0.0, p.logp.size, "grid sum")
    grid = p if isinstance(p, Grid2D) else q
    values = []
    for level in (grid, grid._every_second()):
        mine = level.normalized()
        other = _on(level, q if isinstance(p, Grid2D) else p)
        one, two = (mine, other) if isinstance(p, Grid2D) else (other, mine)
        value, mass_one, mass_two = _grid_value(one, two)
        outside = 1.0 - (mass_two if isinstance(p, Grid2D) else mass_one)
        # The generalised sum is E[log p/q] - (mass of p) + (mass of q) on the grid.
        values.append((value + mass_one - mass_two, value, outside, one, two))
    (exact, generalised, outside, one, two), (coarse, coarse_generalised, *_) = values
    outside = max(outside, 0.0)
    if isinstance(p, Grid2D):
        # p is nothing outside the grid, so q's mass there enters through the normalisation alone.
        error = abs(exact - coarse) + 1e-15 * (1.0 + abs(exact)) if exact < math.inf else 0.0
        return Estimate(max(exact, 0.0), error, grid.logp.size, "grid sum", outside)
    value, error = generalised, 0.0
    if value < math.inf:
        edge = np.ones(grid.logp.shape, dtype=bool)
        edge[1:-1, 1:-1] = False
        ratio = np.abs(one.logp[edge] - two.logp[edge])
        error = abs(generalised - coarse_generalised) + 1e-15 * (1.0 + value)
        error += outside * float(ratio.max()) if outside > 1e-300 else 0.0
    return Estimate(value, error, grid.logp.size, "grid sum", outside)


def _check_kind(name: str, p: Any) -> None:
    if not isinstance(p, Gaussian | GaussianMixture | Grid2D):
        raise TypeError(f"{name} must be a Gaussian, a GaussianMixture or a Grid2D, not {type(p).__name__}")


def is_distribution(p: Any) -> bool:
    """Whether `p` is one of the classes of `fastvi.distributions`."""
    return isinstance(p, Gaussian | GaussianMixture | Grid2D)


def kl_estimate(p: Any, q: Any, *, rtol: float = 1e-10) -> Estimate:
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
        Two Gaussians: closed form. Mixtures in up to three dimensions: the trapezoid rule in coordinates
        whitened on each component of p, refined until it holds; `error` is a bound, and where the lattice
        would need more than four million nodes it is what `kl_bounds` leaves open. Mixtures in more
        dimensions: quasi-Monte Carlo, and `error` is its standard error. Grids: the sum over the grid,
        `error` is the change against every second point, and `outside` is the mass of the other
        distribution outside of the grid. KL of a distribution from a grid counts that mass once, and in
        the error once more, times the largest log ratio on the edge.

    Raises
    ------
    TypeError
        Other kinds of arguments.
    ValueError
        Dimensions or grids that differ.

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
    if isinstance(p, Grid2D) or isinstance(q, Grid2D):
        return _with_grid(p, q)
    if p.dim <= QUADRATURE_DIM:
        return _mixtures(p, q, wanted)
    return quasi_monte_carlo(p, q)


def kl_value(p: Any, q: Any) -> float:
    """The value of `kl_estimate`, without its error where that takes longer."""
    if isinstance(p, Gaussian) and isinstance(q, Gaussian) and p.dim == q.dim:
        return _gaussian_kl(p, q)
    return kl_estimate(p, q).value


def entropy_estimate(p: Any, *, rtol: float = 1e-10) -> Estimate:
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
        error = 4.4e-16 * p.dim * max(1.0, abs(value)) + rounding_of_factors(p.dim, p)
        return Estimate(value, error, 0, "closed form")
    if isinstance(p, Grid2D):
        value, coarse = p.entropy(), p._every_second().entropy()
        return Estimate(value, abs(value - coarse) + 1e-15 * (1.0 + abs(value)), p.logp.size, "grid sum")
    if p.dim > QUADRATURE_DIM:
        return quasi_monte_carlo(p, None)
    nothing = (np.empty(0), np.empty((0, p.dim)), np.empty((0, p.dim, p.dim)))
    value, error, nodes, resolved = kl_quadrature(p._triple(), nothing, wanted)
    value = -value
    if not (resolved and error < math.inf):
        return Estimate(*within_bounds(mixture_entropy_bounds(p), value), nodes)
    return Estimate(value, error + rounding_of_factors(p.dim, p), nodes)
