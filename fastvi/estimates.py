"""Divergences and entropies of distributions, with their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import kernels, scratch
from .distributions import Array, Gaussian, GaussianMixture, Grid2D, Triple
from .kernels.masses import ANY, NORMALIZE
from .validation import real_number, same_dimension

#: Dimensions up to which mixtures are integrated by quadrature.
QUADRATURE_DIM = 3

#: Scrambled Sobol point sets, and points in each: their spread gives the standard error.
_REPLICATES = 16
_POINTS = 4096


@dataclass(frozen=True)
class Estimate:
    """A number with its error.

    Attributes
    ----------
    value : float
        The estimate, in nats.
    error : float
        A bound of the absolute error; for quasi-Monte Carlo, the standard error.
    evaluations : int
        Points at which the integrand was evaluated.
    method : str
        "closed form", "quadrature", "grid sum" or "quasi-Monte Carlo (standard error)".
    outside : float
        For grids: the mass of the other distribution that lies outside of the grid.
    note : str
        For infinite values: why, and what helps.

    Examples
    --------
    >>> import fastvi as fv
    >>> e = fv.kl_estimate(fv.Gaussian(0, 1), fv.Gaussian(1, 1))
    >>> float(e), e.method
    (0.5, 'closed form')
    """

    value: float
    error: float
    evaluations: int
    method: str = "quadrature"
    outside: float = 0.0
    note: str = ""

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        text = f"Estimate({self.value:.12g} ± {self.error:.2g}, {self.method}, {self.evaluations} evaluations"
        text += f", {self.outside:.3g} outside the grid)" if self.outside > 0.0 else ")"
        return f"{text}: {self.note}" if self.note else text


class Bounds(NamedTuple):
    """A value lies between these two."""

    lower: float
    upper: float


def _space(components_p: int, components_q: int, dim: int) -> Any:
    """This thread's scratch space for mixtures of that size."""
    most = max(components_p, components_q)
    return scratch.space(kernels.estimates.workspace, most, most, dim)


def _gaussian_kl(p: Gaussian, q: Gaussian) -> float:
    space = np.empty(2 * p.dim)
    return float(kernels.gaussians.gaussian_kl(p._mean, p._factor, q._mean, q._factor, space))


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


def _quadrature(p: Triple, q: Triple, rtol: float) -> tuple[float, float, int, bool]:
    (_, means_p, _), (_, means_q, _) = p, q
    space = _space(len(means_p), len(means_q), means_p.shape[1])
    return kernels.estimates.mixture_kl(p, q, rtol, space)  # type: ignore[no-any-return]


def rounding_of_factors(scale: float, *distributions: Any) -> float:
    """What the rounding of ill-conditioned Cholesky factors does to a divergence of this size."""
    return 2.2e-16 * scale * float(max(g._condition for g in distributions))


def _into(bounds: Bounds, value: float) -> tuple[float, float]:
    """A value that is known to be between bounds, and no better: with its error."""
    inside = min(max(value, bounds.lower), bounds.upper)
    return inside, max(bounds.upper - inside, inside - bounds.lower)


def _mixtures(p: Any, q: Any, rtol: float) -> Estimate:
    if p == q:
        return Estimate(0.0, 0.0, 0, "closed form")
    value, error, nodes, resolved = _quadrature(p._triple(), q._triple(), rtol)
    if not (resolved and error < math.inf):
        return Estimate(*_into(kl_bounds(p, q), value), nodes)
    error += rounding_of_factors(abs(value) + p.dim, p, q)
    # A divergence is not negative: what is below zero is the error of a value near zero.
    return Estimate(max(value, 0.0), error, nodes)


def _normal_points(replicate: int, dim: int, count: int) -> tuple[Array, Array]:
    """Scrambled Sobol points: (one uniform number, a standard normal vector) for each."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    points = qmc.Sobol(dim + 1, rng=np.random.default_rng(replicate)).random(count)
    points = np.clip(points, 2.0**-53, 1.0 - 2.0**-53)
    return points[:, 0], ndtri(points[:, 1:])


def _quasi_monte_carlo(p: Any, q: Any | None) -> Estimate:
    """E_p[log p - log q], or -E_p[log p], in any dimension."""
    weights, means, factors = p._triple()
    edges = np.cumsum(np.exp(weights))
    values = np.empty(_REPLICATES)
    for r in range(_REPLICATES):
        uniform, normal = _normal_points(r, p.dim, _POINTS)
        which = np.minimum(np.searchsorted(edges, uniform, side="right"), weights.size - 1)
        z = means[which] + np.einsum("nij,nj->ni", factors[which], normal)
        difference = p.logpdf(z) - q.logpdf(z) if q is not None else -p.logpdf(z)
        values[r] = difference.mean()
    error = float(values.std(ddof=1) / math.sqrt(_REPLICATES))
    value = float(values.mean())
    return Estimate(
        max(value, 0.0) if q is not None else value,
        error,
        _REPLICATES * _POINTS,
        "quasi-Monte Carlo (standard error)",
    )


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
    run = kernels.divergences.KERNELS["kl"].log
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
    run = kernels.divergences.KERNELS["kl"].log
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


def tolerance(rtol: Any) -> float:
    """A relative tolerance."""
    value = real_number("rtol", rtol)
    if not 1e-14 <= value < 1.0:
        raise ValueError(f"rtol must be from 1e-14 to 1, not {rtol!r}")
    return value


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
    return _quasi_monte_carlo(p, q)


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
        return _quasi_monte_carlo(p, None)
    nothing = (np.empty(0), np.empty((0, p.dim)), np.empty((0, p.dim, p.dim)))
    value, error, nodes, resolved = _quadrature(p._triple(), nothing, wanted)
    value = -value
    if not (resolved and error < math.inf):
        return Estimate(*_into(mixture_entropy_bounds(p), value), nodes)
    return Estimate(value, error + rounding_of_factors(p.dim, p), nodes)


def _as_mixture(name: str, p: Any) -> Any:
    if not isinstance(p, Gaussian | GaussianMixture):
        raise TypeError(f"{name} must be a Gaussian or a GaussianMixture, not {type(p).__name__}")
    return p


def mixture_entropy_bounds(p: Gaussian | GaussianMixture) -> Bounds:
    r"""Bounds of a mixture's entropy from the pairs of its components, without quadrature.

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
    weights, means, factors = _as_mixture("p", p)._triple()
    space = np.empty(2 * weights.size), np.empty((p.dim, p.dim)), np.empty(2 * p.dim)
    return Bounds(*kernels.estimates.entropy_bounds(weights, means, factors, *space))


def kl_bounds(p: Gaussian | GaussianMixture, q: Gaussian | GaussianMixture) -> Bounds:
    r"""Bounds of the KL divergence of two mixtures from pairs of components, without quadrature.

    Parameters
    ----------
    p, q : GaussianMixture or Gaussian
        In any dimension, the same for both.

    Returns
    -------
    Bounds
        (lower, upper), in nats. With overlaps :math:`t_{ab} = \int p_a q_b` and the entropy bounds of
        `mixture_entropy_bounds`, E_p[log q] is between
        :math:`\sum_a w_a (\log \sum_b v_b e^{-KL(p_a \| q_b)} - H(p_a))` and
        :math:`\sum_a w_a \log \sum_b v_b t_{ab}`. The upper bound is the lesser of this
        (Durrieu) and of Hershey and Olsen's matching of components.

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
    one, two = _as_mixture("p", p)._triple(), _as_mixture("q", q)._triple()
    same_dimension(p, q)
    if p == q:
        return Bounds(0.0, 0.0)
    (_, means_p, _), (_, means_q, _) = one, two
    m, n = len(means_p), len(means_q)
    space = np.empty(2 * p.dim)
    lower, upper = kernels.estimates.kl_bounds(
        one, two, np.empty(2 * max(m, n)), np.empty((p.dim, p.dim)), space
    )
    costs = np.empty((m, n))
    kernels.estimates.all_kl(one, two, costs, space)
    matched = kernels.estimates.matched_bound(one, two, np.empty((m, n)), np.empty((m, n)), costs, 20)
    return Bounds(lower, max(lower, min(upper, matched)))
