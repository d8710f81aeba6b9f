"""The ELBO and its gradient: expectations under q, by quadrature or by draws."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.immutable import frozen_fields, shown
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.integrals import Estimate, tolerance
from ..distributions.variational import TransformedGaussian, TruncatedGaussian, Variational
from ..kernels.statuses import FINE, ZERO
from .kernel_calls import QUADRATURE_DIM, _as_model, _conditional, _named, _space, _target, _words
from .model import Model

#: Blocks of fresh draws: their spread gives the standard error.
_BLOCKS = 8
_FRESH = 128


def _latent_gaussian(model: Model, q: Any) -> Gaussian | None:
    """q as a Gaussian in latent coordinates; None for one that is truncated."""
    if isinstance(q, TruncatedGaussian):
        if model.dim != 1:
            raise ValueError(f"q is a TruncatedGaussian, which has dimension 1, the model has {model.dim}")
        return None
    if isinstance(q, TransformedGaussian):
        same = np.array_equal(q._support.kinds, model._support.kinds)
        if not (same and np.array_equal(q._support.bounds, model._support.bounds)):
            raise ValueError(f"q has the support {q.support!r}, the model {model.support!r}")
        return q.gaussian
    if isinstance(q, Gaussian):
        if q.dim != model.dim:
            raise ValueError(f"q has dimension {q.dim}, the model has {model.dim}")
        return q
    raise TypeError(
        f"q must be a Gaussian, a TransformedGaussian or a TruncatedGaussian, not {type(q).__name__}"
    )


def _outside(model: Model, q: Any) -> str:
    """Why q has mass outside of the support; empty if it has none."""
    if isinstance(q, Gaussian) and not model._support.is_real:
        return (
            f"q is a Gaussian on the whole line, the support is {model.support!r}: q has mass where the "
            "joint is zero, so KL(q ‖ p) is infinite. Use a TransformedGaussian (fit makes one) or a "
            "TruncatedGaussian"
        )
    if isinstance(q, TruncatedGaussian):
        low, high = model._support.interval
        if q.low < low or q.high > high:
            return (
                f"q lives on [{q.low:g}, {q.high:g}], the support is {model.support!r}: q has mass where the "
                "joint is zero, so KL(q ‖ p) is infinite. Truncate q to the support"
            )
    return ""


def _pairs(block: int, pairs: int, dim: int) -> Array:
    """Pairs of draws +e, -e of a standard normal vector, whose second moments are exactly the identity.

    That takes at least `dim` pairs. The same block has the same draws at all times. Of each coordinate there
    is one size in each of `pairs` slices of equal probability: a fit on 64 such draws is as near to the
    optimum as one on 128 without (0.014 nats for eight schools, 0.027 on 64 without).
    """
    from scipy.special import ndtri

    rng = np.random.default_rng((20240229, block))
    slices = rng.permuted(np.tile(np.arange(pairs), (dim, 1)), axis=1).T
    sizes = ndtri(0.5 + 0.5 * (slices + rng.random((pairs, dim))) / pairs)
    half = np.where(rng.random((pairs, dim)) < 0.5, -sizes, sizes)
    half = np.linalg.solve(np.linalg.cholesky(half.T @ half / pairs), half.T).T
    return np.ascontiguousarray(np.concatenate([half, -half]))


@lru_cache(maxsize=32)
def _draws(block: int, pairs: int, dim: int) -> Array:
    return shown(_pairs(block, pairs, dim))


@lru_cache(maxsize=8)
def _fresh(dim: int) -> Array:
    """Blocks of draws (B, N, D) that no fit has seen."""
    pairs = max(_FRESH, 2 * dim)
    draws = np.empty((_BLOCKS, 2 * pairs, dim))
    for block in range(_BLOCKS):
        draws[block] = _pairs(1000 + block, pairs, dim)
    return shown(draws)


def _writable(draws: Array) -> Array:
    """The array behind a read-only view: kernels are compiled for one type only."""
    return draws.base if draws.base is not None else draws


def _expectation_by_draws(
    model: Model, mean: Array, factor: Array, promised: float = -math.inf
) -> tuple[float, float, int, int]:
    """(E[log joint + log-Jacobian], its standard error, evaluations, status) from fresh blocks of draws.

    Half of the blocks will do where they show already that what fixed draws `promised` is not there.
    """
    draws = _writable(_fresh(mean.size))
    each = draws.shape[1]
    space, values, averages = _space("laplace", mean.size, model.dim), np.empty(each), np.empty(_BLOCKS)
    seen = 0
    for wanted in (_BLOCKS // 2, _BLOCKS):
        status, seen = kernels.inference.entry_points.averages(
            _target(model), draws, mean, factor, space, values, seen, wanted, averages
        )
        if status:
            return (-math.inf if status == ZERO else math.nan), 0.0, seen * each, status
        found = averages[:seen].tolist()
        value = math.fsum(found) / seen
        spread = math.fsum((x - value) ** 2 for x in found)
        error = math.sqrt(spread / (seen * (seen - 1))) + 1e-15 * abs(value)
        if _broken(promised, value, error):
            break
    return value, error, seen * each, 0


def _broken(promised: float, value: float, error: float) -> bool:
    """Whether fresh draws find less than the fixed ones promise."""
    return bool(promised - value > max(3.0 * error, kernels.inference.draws_fits.OPTIMISM))


def _elbo(model: Model, q: Any, rtol: float) -> Estimate:
    gaussian = _latent_gaussian(model, q)
    note = _outside(model, q)
    if note:
        return Estimate(-math.inf, 0.0, 0, "closed form", note=note)
    if gaussian is None:
        space = _space("truncated")
        status, value, error, nodes = kernels.inference.entry_points.elbo_truncated(
            _target(model), q.mu, q.sigma, q.low, q.high, rtol, space
        )
        where = _named(kernels.inference.truncated_fits.Workspace, space).where if status else None
        return _estimate(status, value, error, nodes, "quadrature", where)
    mean, factor = gaussian._mean, gaussian._factor
    if gaussian.dim > QUADRATURE_DIM:
        value, error, nodes, status = _expectation_by_draws(model, mean, factor)
        where = _laplace_fault(model, gaussian.dim) if status else None
        method = "draws (standard error)"
        return _estimate(status, value + gaussian.entropy(), error, nodes, method, where)
    space = _space("fit", gaussian.dim, model.dim)
    grads = np.empty(gaussian.dim), np.empty((gaussian.dim, gaussian.dim))
    status, value, error, nodes, _ = kernels.inference.entry_points.elbo_quadrature(
        _target(model), mean, factor, rtol, space, *grads
    )
    where = _quadrature_fault(space) if status else None
    return _estimate(status, value, error, nodes, "quadrature", where)


def _quadrature_fault(space: Any) -> Array:
    """The point of the last fault, from scratch space of this kind."""
    where: Array = _named(kernels.inference.quadrature_fits.Workspace, space).lattice.panel.where
    return where


def _laplace_fault(model: Model, latent: int) -> Array:
    where: Array = _named(
        kernels.inference.entry_points.LaplaceWorkspace, _space("laplace", latent, model.dim)
    ).panel.where
    return where


def _estimate(status: int, value: float, error: float, nodes: int, method: str, where: Any) -> Estimate:
    if status == FINE:
        return Estimate(value, error, nodes, method)
    note = _words(status, where)
    if status == ZERO:
        return Estimate(-math.inf, 0.0, nodes, method, note=note)
    raise ValueError(note)


def elbo(model: Model, q: Variational, *, rtol: float = 1e-10) -> Estimate:
    r"""The evidence lower bound of q, with its error.

    .. math:: \mathrm{ELBO}(q) = E_q[\log p(x, z)] + H(q) = -\mathrm{KL}(q \,\|\, p(x, z)) \le \log p(x)

    Parameters
    ----------
    model : Model
    q : Gaussian, TransformedGaussian or TruncatedGaussian
        A Gaussian lives in the model's own coordinates.
    rtol : float, optional
        Error wanted of the quadrature, relative to 1 + abs(ELBO).

    Returns
    -------
    Estimate
        In nats. Up to two latent dimensions: the trapezoid rule in coordinates whitened on q, halved until it
        holds. More: 8 blocks of fixed draws in pairs +e, -e whose second moments are exact, and `error` is
        the standard error. Where q has mass outside of the support, or where the log joint is -inf, the value
        is
        -inf and `note` says why and what helps.

    Raises
    ------
    TypeError, ValueError
        A q of another kind or dimension; a log joint that is NaN or +inf, or that raises: with the z.

    References
    ----------
    D. M. Blei, A. Kucukelbir, J. D. McAuliffe, Variational Inference: A Review for Statisticians, JASA 112
    (2017), eq. 13.

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> def log_joint(z, x):                         # p(z) = exp(-z), p(x | z) = N(x | z, 1)
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
    >>> round(fv.elbo(fv.Model(log_joint, 1, data=(5.0,)), fv.Gaussian(3.0, 1.0)).value, 10)
    -5.0
    """
    return _elbo(_as_model(model), q, tolerance(rtol))


class Gradient(NamedTuple):
    """The ELBO and its gradient in q's mean and in the lower triangle of its Cholesky factor.

    In latent coordinates, where q is Gaussian.
    """

    value: float
    mean: Array
    cholesky: Array

    def __reduce__(self) -> tuple[Any, ...]:
        return frozen_fields, (Gradient, *self)


def elbo_grad(model: Model, q: Gaussian | TransformedGaussian, *, rtol: float = 1e-10) -> Gradient:
    r"""The ELBO and its gradient in the parameters of q.

    .. math:: \nabla_\mu = E_q[\nabla \log p], \quad
              \nabla_L = E_\epsilon[\nabla \log p(\mu + L \epsilon) \, \epsilon^T] + L^{-T}

    Parameters
    ----------
    model : Model
    q : Gaussian or TransformedGaussian
    rtol : float, optional
        As in `elbo`.

    Returns
    -------
    Gradient
        (value, mean (R,), cholesky (R, R), lower triangle). Up to two latent dimensions from the values of
        the log joint alone (Stein's identity: expectations of the log joint times Hermite polynomials). More:
        over 2R, at least 256 fixed draws, with the model's own gradient or central differences.

    Raises
    ------
    TypeError, ValueError
        As in `elbo`; a q that has mass where the joint is zero.

    References
    ----------
    M. Opper, C. Archambeau, The Variational Gaussian Approximation Revisited, Neural Computation 21 (2009),
    eq. 7 and 8.

    Examples
    --------
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2
    >>> g = fv.elbo_grad(fv.Model(log_joint, 1, data=(5.0,)), fv.Gaussian(3.0, 1.0))
    >>> g.mean.round(12), g.cholesky.round(12) + 0.0         # x - 1 - mu
    (array([1.]), array([[0.]]))
    """
    _as_model(model)
    wanted = tolerance(rtol)
    gaussian = _latent_gaussian(model, q)
    if gaussian is None:
        raise TypeError("q must be a Gaussian or a TransformedGaussian, not TruncatedGaussian")
    note = _outside(model, q)
    if note:
        raise ValueError(note)
    dim = gaussian.dim
    mean, factor = gaussian._mean, gaussian._factor
    grads = np.empty(dim), np.empty((dim, dim))
    if dim <= QUADRATURE_DIM:
        space = _space("fit", dim, model.dim)
        status, value, *_ = kernels.inference.entry_points.elbo_quadrature(
            _target(model), mean, factor, wanted, space, *grads
        )
        where = _quadrature_fault(space) if status else None
    else:
        space = _space("draws", 0, dim, model.dim)
        scale = _conditional(factor)
        draws = _writable(_draws(0, max(_FRESH, 2 * dim), dim))
        status, value = kernels.inference.entry_points.elbo_draws(
            _target(model), draws, mean, factor, scale, space, *grads
        )
        where = _named(kernels.inference.draws_fits.Workspace, space).panel.where if status else None
    if where is not None:
        raise ValueError(_words(status, where))
    return frozen_fields(Gradient, float(value), *grads)  # type: ignore[no-any-return]
