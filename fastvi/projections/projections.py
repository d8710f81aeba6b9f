"""`m_projection` and `i_projection`: the member of a family that minimises KL(p ‖ q), or KL(q ‖ p)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from .. import kernels
from ..common.threads import interruptible
from ..common.validation import choice, integer
from ..distributions.gaussian import Gaussian
from ..distributions.grid import Distribution, Grid2D
from ..distributions.integrals import QUADRATURE_DIM, Estimate, tolerance
from ..distributions.mixture import GaussianMixture, is_long
from ..kernels.families.table import PROJECTION_CODES
from .gaussian_optima import (
    checked_starts,
    gaussian_projection,
    grid_optima,
    kl_of_moment_match,
    matched_factor,
    mixture_optima,
)
from .grid_mixtures import grid_onto_mixtures
from .product_optima import mean_field_optima, product_of_marginals
from .reduction import Reduction, as_mixture, reduce_mixture
from .result import Projection


def _family(value: Any, of_table: bool) -> str:
    """`value`, if it is a family for this kind of p."""
    family = choice("family", value, (*PROJECTION_CODES, "product"))
    if (family == "product") != of_table:
        wanted = "a joint probability table (an array)" if family == "product" else "a distribution"
        raise ValueError(f"family={family!r} needs p to be {wanted}")
    return family


def _count(family: tuple[Any, ...]) -> Any:
    """k of ("mixture", k)."""
    if len(family) != 2 or family[0] != "mixture":
        raise ValueError(f'family must be ("mixture", k), if it is a tuple, not {family!r}')
    return family[1]


def _is_table(p: Any) -> bool:
    """Whether p is no distribution, and so has to be a table of probabilities."""
    return not isinstance(p, Gaussian | GaussianMixture | Grid2D)


@overload
def m_projection(p: Distribution | ArrayLike, family: str = "full") -> Projection: ...
@overload
def m_projection(p: Gaussian | GaussianMixture, family: tuple[str, int]) -> Reduction: ...
@overload
def m_projection(p: Grid2D, family: tuple[str, int]) -> Projection: ...
def m_projection(p: Any, family: Any = "full") -> Any:
    r"""The member of a family that minimises KL(p ‖ q): it matches the moments of p.

    .. math:: q^* = \arg\min_q \mathrm{KL}(p \,\|\, q)

    Parameters
    ----------
    p : Gaussian, GaussianMixture, Grid2D, or array_like
        A distribution in any dimension, or, for ``family="product"``, a table of joint probabilities with
        any number of axes, summing to one.
    family : {"full", "diag", "isotropic", "product"} or ("mixture", k), optional
        Gaussians with any covariance, a diagonal one, a multiple of the identity; products of
        distributions over the axes of a table; or mixtures of k Gaussians: of a mixture,
        ``reduce_mixture(p, k)``; of a grid, the maximum of Σ p log q over its points.

    Returns
    -------
    Projection, or Reduction of a mixture with fewer components
        q has the mean of p and its covariance Σ, diag Σ, or tr Σ / D times the identity; for a table, q is
        the tuple of its marginals, and the divergence is the total correlation (for two axes the mutual
        information). The divergence is in nats. Mixtures have the mean and the covariance of p; of a grid
        the one is followed that is best among ten restarts, until it promises to gain 1e-9 of its divergence.
        Where a component is narrower than a step of the grid, its `status` says so: it may fit points in
        place of the density.

    Raises
    ------
    TypeError
        A p that is neither a distribution nor an array of real numbers; a k that is not an integer.
    ValueError
        A k below 1, or above the number of points where a grid has mass; an unknown family, or one for
        another kind of p; a table that is not a distribution; a covariance that is singular.

    References
    ----------
    C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 10.1.2 and eq. 10.17. K. P. Murphy,
    Probabilistic Machine Learning: Advanced Topics (2023), section 5.1.4.

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.7], [[-3, 0], [3, 0]], [[[1, 0], [0, 1]]] * 2)
    >>> m = fv.m_projection(p)
    >>> m.q
    Gaussian(mean=[1.2, 0], cov=[[8.56, 0], [0, 1]])
    >>> round(m.kl, 9)
    0.466188952
    >>> round(fv.m_projection([[0.4, 0.1], [0.1, 0.4]], family="product").kl, 9)
    0.192744757
    >>> banana = fv.Grid2D.from_function(lambda x, y: -0.5 * (x**2 + (y - x**2) ** 2), [(-6, 6), (-8, 44)])
    >>> [round(fv.m_projection(banana, ("mixture", k)).kl, 3) for k in (1, 2, 3)]
    [0.549, 0.165, 0.049]
    """
    if isinstance(family, tuple):
        k = _count(family)
        return grid_onto_mixtures(p, m_projection(p), k) if isinstance(p, Grid2D) else reduce_mixture(p, k)
    if isinstance(p, GaussianMixture) and family == "full":
        mean, factor = np.empty(p.dim), np.empty((p.dim, p.dim))
        if kernels.projections.mixture_projections.m_projection(
            p._log_weights, p._means, p._factors, 0, mean, factor
        ):
            q = Gaussian._from_factor(mean, factor)
            return Projection(q, lambda: kl_of_moment_match(p, q))
    name = _family(family, _is_table(p))
    if name == "product":
        return product_of_marginals(p)
    if isinstance(p, Gaussian) and name == "full":
        return Projection(p, Estimate(0.0, 0.0, 0, "closed form"))
    try:
        factor = matched_factor(p.cov, name)
    except np.linalg.LinAlgError:
        raise ValueError(f"the covariance of p is not positive definite: {p.cov.tolist()}") from None
    matched = Gaussian._from_factor(np.array(p.mean), factor)
    return Projection(matched, lambda: kl_of_moment_match(p, matched))


@interruptible(is_long)
def i_projection(
    p: Distribution | ArrayLike,
    family: str | tuple[str, int] = "full",
    starts: Sequence[Any] | None = None,
    *,
    rtol: float = 1e-8,
) -> Projection:
    r"""The member of a family that minimises KL(q ‖ p): it fits a mode of p, and has several local optima.

    .. math:: q^* = \arg\min_q \mathrm{KL}(q \,\|\, p)

    Parameters
    ----------
    p : Gaussian, GaussianMixture, Grid2D, or array_like
        A Gaussian in any dimension, a mixture in up to three, a grid; or, for ``family="product"``, a table
        of joint probabilities without zeros, with any number of axes, summing to one; or, for
        ``family=("mixture", k)``, a Gaussian or a mixture in any dimension.
    family : {"full", "diag", "isotropic", "product"} or ("mixture", k), optional
        As in `m_projection`.
    starts : sequence of Gaussian, optional
        Of tuples of factors, for tables; of GaussianMixture with k components, for mixtures. Where the
        descents start. Default, for a mixture: its components, its modes, the moment match and merged pairs
        of components; for a grid: its peaks and the moment match; for a table: its marginals, the uniform
        distribution and its peaks. Onto mixtures: sets of k Gaussians among the components of p, what their
        merges make, and its I-projections onto one; and random partitions of p.
    rtol : float, optional
        Error wanted: of the divergence, relative, and of the parameters, in units of q's own spread. Of a
        mixture, what its divergence may be above the minimum, relative; in more than three dimensions 2e-3.

    Returns
    -------
    Projection
        The best optimum; `optima` has all that were found, each with its divergence in nats, error and
        gradient norm. For a mixture the error is a bound; for a grid the sum over it is minimised, and the
        divergence and its error are those of `kl_estimate`. For ``("mixture", k)`` q is a GaussianMixture,
        p itself where this has at most k components; at most four optima are followed. Their divergences and
        errors are those of `kl_estimate`, which does not use the nodes or draws of the descents. For large p
        and k (60 and 12 in the plane) those more than 15 % above the best are left where coarse nodes lead
        to, and have not converged: their `status` says so.

    Raises
    ------
    TypeError
        A p that is neither a distribution nor an array of real numbers; starts of another kind; for mixtures
        a grid, or a k that is not an integer.
    ValueError
        A k below 1; starts with another number of components; an unknown family, or one for another kind of
        p; for a single Gaussian q, mixtures in more than three dimensions; a density
        that is zero somewhere on its grid or table, so that the divergence is infinite for every q.

    Notes
    -----
    Damped Newton steps on E_q[log q - log p], whose derivatives in mean and factor are expectations of
    log q - log p times Hermite polynomials (Stein's identity). In two dimensions, where two components of p
    matter for q, the expectations are integrals along a contour in the complex plane: the Mellin transform of
    log(1 + x) turns them into expectations of powers of the components' ratio, which have a closed form.
    Otherwise they are taken by the trapezoid rule in coordinates whitened on q, with the lattice rotated to
    the sharpest direction and its step halved until two successive optima agree. Only strict minima are kept,
    whose Hessian is positive definite. Tables: coordinate descent, whose updates are the exact minimum over
    one factor.

    Mixtures of k: L-BFGS on Σ_j w_j Σ_s v_s [log q - log p](m_j + L_j e_s) and its exact gradient. The e_s
    are a lattice in up to three dimensions, made finer until the gradient on the next one moves q no further,
    and pairs of quasi-random draws above. The sets of Gaussians that descents start from are grown by a beam
    search; for given Gaussians the divergence is convex in the weights, which are optimised. The Hessian at
    an optimum of up to 150 coordinates is taken by differences: a saddle is left along its steepest
    direction. Of 80 mixtures of 3 to 8 components in one and two dimensions, with k = 2 to 4, none of 15
    descents each from random starts ended lower by a thousandth (``python -m bench.onto_mixtures``). In
    compiled code, in up to three dimensions, the same kernels begin the same descents.

    References
    ----------
    C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 10.1.2 and eq. 10.9. M. Opper,
    C. Archambeau, The Variational Gaussian Approximation Revisited, Neural Computation 21 (2009), eq. 2 to 5.
    S. Gershman, M. Hoffman, D. Blei, Nonparametric Variational Inference, ICML 2012.

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.7], [[-3, 0], [3, 0]], [[[1, 0], [0, 1]]] * 2)
    >>> i = fv.i_projection(p)
    >>> [round(optimum.kl, 8) for optimum in i.optima]
    [0.35403395, 1.19668233]
    >>> i.q.mean.round(6) + 0.0, i.error < 1e-8 * i.kl
    (array([2.99054, 0.     ]), True)
    >>> three = fv.GaussianMixture([0.3, 0.3, 0.4], [-1, 1, 9], [1, 1, 1])
    >>> two = fv.i_projection(three, ("mixture", 2))
    >>> round(two.kl, 8), two.error < 1e-9, two.q.weights.round(3)
    (0.00636386, True, array([0.598, 0.402]))
    """
    if isinstance(family, tuple):
        if not isinstance(p, Gaussian | GaussianMixture):
            raise TypeError(f"p must be a Gaussian or a GaussianMixture for mixtures, not {type(p).__name__}")
        from .onto_mixtures import optima_of_mixtures  # its kernels are loaded when they are used

        count = integer("k", _count(family), 1)
        return optima_of_mixtures(as_mixture(p), count, starts, tolerance(rtol))
    name = _family(family, _is_table(p))
    wanted = tolerance(rtol)
    if name == "product":
        return mean_field_optima(p, starts, wanted)
    if starts is not None and not isinstance(p, Grid2D | GaussianMixture):
        checked_starts(starts, p.dim)  # type: ignore[union-attr]
    if isinstance(p, Gaussian):
        return gaussian_projection(p, name)
    if isinstance(p, Grid2D):
        return grid_optima(p, PROJECTION_CODES[name], starts, wanted)
    assert isinstance(p, GaussianMixture)
    if p.dim > QUADRATURE_DIM:
        if p._weights.size == 1:
            return gaussian_projection(p.components[0], name)
        raise ValueError(
            f"i_projection of a mixture needs quadrature, up to {QUADRATURE_DIM} dimensions; p has {p.dim}: "
            'for the family "full", give family=("mixture", 1), which takes draws there'
        )
    return mixture_optima(p, PROJECTION_CODES[name], starts, wanted)
