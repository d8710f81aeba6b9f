"""Variational inference: ELBO, log evidence, and fits of q to a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import kernels, scratch, statuses
from .distributions import Array, Gaussian, _tidy
from .estimates import Estimate, tolerance
from .immutable import Record, frozen_fields, shown
from .kernels.statuses import (
    CONVERGED,
    FINE,
    OVERFITTED,
    STUCK,
    UNBOUNDED,
    ZERO,
)
from .models import Model
from .progress import bar
from .validation import choice, float_array, generator
from .variational import TransformedGaussian, TruncatedGaussian

_FAMILIES = {"full": 0, "diag": 1, "isotropic": 2, "mean": 3}

#: Latent dimensions up to which expectations are taken by quadrature, and fits made on fixed draws.
QUADRATURE_DIM = 2
DRAWS_DIM = 1000

#: Pairs of fixed draws to begin with (at least so many, and so many for each dimension), and at most.
_LEAST_PAIRS = 32
_MOST_PAIRS = 8192

#: Pairs for the first part of the way (at least as many as dimensions), and the gradient where it ends.
_FEW_PAIRS = 12
_NEAR = 0.15

#: Blocks of fresh draws: their spread gives the standard error.
_BLOCKS = 8
_FRESH = 128

#: Gradient tolerance of the first fit on fixed draws; a tighter one is pointless while Monte Carlo error
#: dominates.
_ROUGH = 3e-3

#: Gradient tolerance and most steps of the search for a mode in many dimensions: a start needs no digits.
_NEAR_MODE, _MODE_STEPS = 1e-2, 200

#: Accepted steps that a trace holds.
_TRACE = 256

#: Type of q.
Variational = Gaussian | TransformedGaussian | TruncatedGaussian


def _space(kind: str, *key: int) -> Any:
    """This thread's scratch space of a kind, for these sizes."""
    return scratch.space(getattr(kernels.engine, f"{kind}_workspace"), *key)


def _words(status: int, where: Array) -> str:
    return statuses.words(status, _tidy(where))


def _as_model(model: Any) -> Model:
    if not isinstance(model, Model):
        raise TypeError(f"model must be a Model, not {type(model).__name__}")
    return model


def _target(model: Model, tables: Any = None) -> tuple[Any, ...]:
    """What the engine knows a model by, `kernels.engine.Target`; `tables` are those of many data sets."""
    support = model._support
    return (
        model._address,
        model._gradient_address,
        model._theta,
        model._table[None] if tables is None else tables,
        support.kinds,
        support.bounds,
    )


def _named(kind: Any, space: Any) -> Any:
    """Scratch space by its names: the engine takes plain tuples, which are handed over faster."""
    return kernels.borrowing.named(kind, space)


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
        status, seen = kernels.engine.averages(
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
    return bool(promised - value > max(3.0 * error, kernels.draws.OPTIMISM))


def _elbo(model: Model, q: Any, rtol: float) -> Estimate:
    gaussian = _latent_gaussian(model, q)
    note = _outside(model, q)
    if note:
        return Estimate(-math.inf, 0.0, 0, "closed form", note=note)
    if gaussian is None:
        space = _space("truncated")
        status, value, error, nodes = kernels.engine.elbo_truncated(
            _target(model), q.mu, q.sigma, q.low, q.high, rtol, space
        )
        where = _named(kernels.truncated.Workspace, space).where if status else None
        return _estimate(status, value, error, nodes, "quadrature", where)
    mean, factor = gaussian._mean, gaussian._factor
    if gaussian.dim > QUADRATURE_DIM:
        value, error, nodes, status = _expectation_by_draws(model, mean, factor)
        where = _laplace_fault(model, gaussian.dim) if status else None
        method = "draws (standard error)"
        return _estimate(status, value + gaussian.entropy(), error, nodes, method, where)
    space = _space("fit", gaussian.dim, model.dim)
    grads = np.empty(gaussian.dim), np.empty((gaussian.dim, gaussian.dim))
    status, value, error, nodes, _ = kernels.engine.elbo_quadrature(
        _target(model), mean, factor, rtol, space, *grads
    )
    where = _quadrature_fault(space) if status else None
    return _estimate(status, value, error, nodes, "quadrature", where)


def _quadrature_fault(space: Any) -> Array:
    """The point of the last fault, from scratch space of this kind."""
    where: Array = _named(kernels.fits.Workspace, space).lattice.panel.where
    return where


def _laplace_fault(model: Model, latent: int) -> Array:
    where: Array = _named(kernels.engine.LaplaceWorkspace, _space("laplace", latent, model.dim)).panel.where
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
        status, value, *_ = kernels.engine.elbo_quadrature(
            _target(model), mean, factor, wanted, space, *grads
        )
        where = _quadrature_fault(space) if status else None
    else:
        space = _space("draws", 0, dim, model.dim)
        scale = _conditional(factor)
        draws = _writable(_draws(0, max(_FRESH, 2 * dim), dim))
        status, value = kernels.engine.elbo_draws(_target(model), draws, mean, factor, scale, space, *grads)
        where = _named(kernels.draws.Workspace, space).panel.where if status else None
    if where is not None:
        raise ValueError(_words(status, where))
    return frozen_fields(Gradient, float(value), *grads)  # type: ignore[no-any-return]


def _conditional(factor: Array) -> Array:
    """Standard deviations of each coordinate given the others."""
    scale = np.empty(len(factor))
    kernels.engine.conditional(factor, scale, np.empty(len(factor)))
    return scale


# Where fits start.


def _start_of(model: Model, start: Any, name: str = "start") -> tuple[Array, Array | None]:
    """Latent mean, and factor where the start has one."""
    r = model.latent_dim
    if start is None:
        return np.zeros(r), None
    if isinstance(start, TruncatedGaussian):
        if model.dim != 1:
            raise ValueError(f"{name} has dimension 1, the model has {model.dim}")
        return model._support.to_latent(name, start.mean[None])[0], None
    if isinstance(start, TransformedGaussian):
        gaussian = _latent_gaussian(model, start)
        assert gaussian is not None
        return np.array(gaussian.mean), np.array(gaussian.cholesky)
    if isinstance(start, Gaussian):
        if start.dim != r:
            raise ValueError(f"{name} has dimension {start.dim}, the model has {r} latent coordinates")
        return np.array(start.mean), np.array(start.cholesky)
    z = np.atleast_1d(np.asarray(float_array(name, start), dtype=np.float64))
    if z.shape != (model.dim,):
        raise ValueError(
            f"{name} must be a point of shape ({model.dim},) or a Gaussian, not of shape {z.shape}"
        )
    if not np.isfinite(z).all():
        i = int(np.argmax(~np.isfinite(z)))
        raise ValueError(f"{name}[{i}] is {z[i]!s}: it must be finite")
    return model._support.to_latent(name, z[None])[0], None


def _restricted(factor: Array, family: str) -> Array:
    """The factor of the member of a family that a start stands for."""
    if family in ("full", "mean"):
        return factor
    scale = _conditional(factor)
    if family == "isotropic":
        scale = np.full(scale.size, math.sqrt(scale.size / (1.0 / scale**2).sum()))
    return np.diag(scale)


class Fit(Record):
    """The q that a fit found, and what is known of it.

    Attributes
    ----------
    q : Gaussian, TransformedGaussian or TruncatedGaussian
    elbo : Estimate
        In nats, with its error.
    trace : ndarray
        The ELBO after each accepted step.
    gradient_norm : float
        In the metric of Fisher's information.
    evaluations : int
        Of the log joint.
    status : str
        In words; `converged` says whether it is "converged".
    starts : tuple of float
        The ELBO reached from each start, best first.

    Examples
    --------
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
    >>> fv.fit(fv.Model(log_joint, 1, data=(3.0,)))
    Fit(q=Gaussian(mean=[1.5], cov=[[0.5]]), elbo=-1.67764, converged)
    """

    __slots__ = (
        "_psis",
        "converged",
        "elbo",
        "evaluations",
        "family",
        "gradient_norm",
        "model",
        "q",
        "starts",
        "status",
        "trace",
    )
    q: Variational
    elbo: Estimate
    trace: Array
    gradient_norm: float
    evaluations: int
    status: str
    converged: bool
    starts: tuple[float, ...]
    model: Model
    family: str
    _psis: float | None

    def __init__(self, **fields: Any) -> None:
        super().__init__(**{"_psis": None, **fields})

    @property
    def psis_k(self) -> float:
        """Pareto shape k̂ of the importance ratios p / q: above 0.7, q is not to be trusted as p.

        At most 0 where no ratio is twice their mean. Computed when it is first asked for, from 4,000 seeded
        draws. A. Vehtari et al., Pareto Smoothed Importance Sampling, JMLR 25 (2024), section 3; J. Zhang, M.
        A. Stephens, Technometrics 51 (2009).
        """
        if self._psis is None:
            object.__setattr__(self, "_psis", _psis_shape(self.model, self.q))
        assert self._psis is not None
        return self._psis

    def sample(self, n: int, rng: Any = None) -> Array:
        """`n` draws in the model's own coordinates, shape (n, D), from `rng` as in `fit`."""
        return self.q.sample(n, rng)

    def summary(self) -> str:
        """What is known of the fit, some lines of text."""
        k = self.psis_k
        if k < 0.5:
            verdict = "q is close to the posterior"
        elif k < 0.7:
            verdict = "usable"
        else:
            verdict = "q misses much of the posterior: do not trust it"
        lines = [
            f"family         {self.family}",
            f"status         {self.status}",
            f"ELBO           {self.elbo.value:.9g} ± {self.elbo.error:.1e} ({self.elbo.method})",
            f"gradient norm  {self.gradient_norm:.1e}",
            f"steps          {len(self.trace)}, {self.evaluations} evaluations",
            f"PSIS k         {k:.2f}: {verdict}",
        ]
        if len(self.starts) > 1:
            shown = ", ".join(f"{value:.6g}" for value in self.starts)
            lines.append(f"starts         {shown} (spread {self.starts[0] - self.starts[-1]:.2g})")
        mean, sd = self.q.mean, np.sqrt(np.diag(self.q.cov))
        for i in range(min(len(mean), 20)):
            lines.append(f"z[{i}]".ljust(15) + f"{mean[i]:.6g} ± {sd[i]:.3g}")
        if len(mean) > 20:
            lines.append(f"... and {len(mean) - 20} more coordinates")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Fit(q={self.q!r}, elbo={self.elbo.value:.6g}, {self.status})"


def _psis_shape(model: Model, q: Variational, count: int = 4000) -> float:
    z = q.sample(count, 20240229)
    if isinstance(q, TruncatedGaussian):
        ratios = model.log_density(z) - q.logpdf(z)
    else:
        gaussian = q.gaussian if isinstance(q, TransformedGaussian) else q
        latent = gaussian.sample(count, 20240229)
        values = np.empty(count)
        if kernels.engine.densities(
            _target(model), latent, _space("laplace", gaussian.dim, model.dim), values
        ):
            return math.inf
        ratios = values - gaussian.logpdf(latent)
    ratios = np.exp(ratios - ratios.max())
    shape = pareto_shape(ratios)
    # Where no ratio is twice their mean, the few that stick out do no harm, whatever the shape of their tail
    # (1.8 for a logistic regression whose logarithms of ratios have a standard deviation of 0.03).
    return min(shape, 0.0) if ratios.mean() > 0.5 else shape


def pareto_shape(ratios: Array) -> float:
    """k̂ of the largest importance ratios: the posterior mean of Zhang and Stephens, drawn to 0.5 a little."""
    count = ratios.size
    m = int(min(0.2 * count, 3.0 * math.sqrt(count)))
    order = np.sort(ratios)
    x = order[-m:] - order[-m - 1]
    if not x[-1] > 1e-12 * order[-1]:
        return -math.inf  # all ratios are equal
    x = np.maximum(x, 1e-300)
    grid = 30 + int(math.sqrt(m))
    j = np.arange(1, grid + 1)
    theta = 1.0 / x[-1] + (1.0 - np.sqrt(grid / (j - 0.5))) / (3.0 * x[(m + 2) // 4 - 1])
    shape = np.log1p(-theta[:, None] * x).mean(axis=1)
    likelihood = m * (np.log(-theta / shape) - shape - 1.0)
    weights = np.exp(likelihood - likelihood.max())
    best = float(theta @ weights / weights.sum())
    k = float(np.log1p(-best * x).mean())
    return (k * m + 5.0) / (m + 10.0)


def fit(
    model: Model,
    family: str = "full",
    start: Any = None,
    method: str = "auto",
    *,
    starts: Sequence[Any] | None = None,
    rtol: float = 1e-8,
    max_steps: int = 500,
    draws: int | None = None,
    rng: Any = None,
    steps: int = 10_000,
    rate: float = 0.02,
    progress: bool = False,
) -> Fit:
    r"""The member of a family that maximises the ELBO of a model.

    .. math:: q^* = \arg\max_q \mathrm{ELBO}(q) = \arg\min_q \mathrm{KL}(q \,\|\, p(z \mid x))

    Parameters
    ----------
    model : Model
    family : {"full", "diag", "isotropic", "mean", "truncated"}, optional
        Gaussians in latent coordinates (the model's own where its support is the real line) with any
        covariance, a diagonal one, a multiple of the identity, or that of the start; or a Gaussian truncated
        to the support (dimension 1).
    start : array_like (D,), Gaussian, TransformedGaussian or TruncatedGaussian, optional
        A point in the model's coordinates, from which Laplace's approximation is found first, or q itself.
        Default: the point whose latent coordinates are 0.
    method : {"auto", "sgd"}, optional
        "auto" is deterministic: Newton's method on quadrature in up to two latent dimensions, L-BFGS on fixed
        draws in up to 1000; with a line search, so there is no step size. "sgd": stochastic reparameterised
        gradients (sticking the landing), Adam, and the average of the last half of the iterates.
    starts : sequence, optional
        Several starts instead of one: the best fit is kept, the others' ELBOs are in `Fit.starts`.
    rtol : float, optional
        Error wanted: of the ELBO relative to 1 + abs(ELBO), and of the parameters in units of q's spread.
    max_steps : int, optional
        Of "auto".
    draws : int, optional
        Fixed draws to begin with (rounded up to pairs), or draws for each step of "sgd". Default: as many as
        the family needs; 10 for "sgd".
    rng : numpy.random.Generator, int or None, optional
        For "sgd": a generator, which is advanced, an integer that makes one, or None for another each time.
    steps, rate : optional
        Number and size of the steps of "sgd", the size in units of the start's standard deviations.
    progress : bool, optional
        Show a bar, where tqdm is installed, for "sgd" and for `starts`.

    Returns
    -------
    Fit
        Also where it did not converge: `Fit.status` says what happened.

    Raises
    ------
    TypeError, ValueError
        Arguments that are not what is described above; a start outside of the support, or where the log joint
        is not finite.

    References
    ----------
    Quadrature: M. Opper, C. Archambeau, Neural Computation 21 (2009). Fixed draws: R. Giordano, M. Ingram, T.
    Broderick, Black Box Variational Inference with a Deterministic Objective, JMLR 25 (2024), section 2.
    Stochastic: G. Roeder, Y. Wu, D. Duvenaud, Sticking the Landing, NeurIPS 2017, eq. 8; D. P. Kingma, J. Ba,
    Adam, ICLR 2015, algorithm 1.

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> def log_joint(z, x):                         # p(z) = exp(-z), p(x | z) = N(x | z, 1)
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
    >>> f = fv.fit(fv.Model(log_joint, 1, data=(5.0,)))
    >>> f.q, round(f.elbo.value, 9)                  # mu* = x - 1, ELBO* = 1/2 - x
    (Gaussian(mean=[4], cov=[[1]]), -4.5)
    >>> f = fv.fit(fv.Model(log_joint, 1, data=(2.0,), support="positive"), "truncated")
    >>> f.q, round(f.elbo.value, 9)                  # 1/2 - x + log Phi(x - 1)
    (TruncatedGaussian(mu=1, sigma=1, low=0, high=inf), -1.672753779)
    """
    _as_model(model)
    name = choice("family", family, (*_FAMILIES, "truncated"))
    choice("method", method, ("auto", "sgd"))
    if rng is not None:
        generator("rng", rng)
    wanted = tolerance(rtol)
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, not {max_steps!r}")
    if starts is not None:
        if start is not None:
            raise ValueError("give start or starts, not both")
        listed = list(starts)
        if not listed:
            raise ValueError("starts is empty")
        fits = []
        for k, one in enumerate(bar(listed, progress, "starts")):
            _start_of(model, one, f"starts[{k}]")
            fits.append(_fit(model, name, one, method, wanted, max_steps, draws, rng, steps, rate, False))
        fits.sort(key=lambda f: -f.elbo.value if f.elbo.value == f.elbo.value else math.inf)
        return fits[0]._replace(starts=tuple(f.elbo.value for f in fits))
    return _fit(model, name, start, method, wanted, max_steps, draws, rng, steps, rate, progress)


def _fit(
    model: Model,
    family: str,
    start: Any,
    method: str,
    rtol: float,
    max_steps: int,
    draws: int | None,
    rng: Any,
    steps: int,
    rate: float,
    progress: bool,
) -> Fit:
    if family == "truncated":
        if method == "sgd":
            raise ValueError('method="sgd" fits Gaussians, not family="truncated"')
        return _fit_truncated(model, start, rtol, max_steps)
    if method == "sgd":
        from .stochastic import fit_sgd

        return fit_sgd(model, family, start, draws, rng, steps, rate, progress)
    if model.latent_dim <= QUADRATURE_DIM:
        return _fit_quadrature(model, family, start, rtol, max_steps)
    if model.latent_dim > DRAWS_DIM:
        raise ValueError(
            f'method="auto" works in up to {DRAWS_DIM} dimensions, the model has {model.latent_dim}: '
            'use method="sgd"'
        )
    return _fit_draws(model, family, start, rtol, max_steps, draws)


def _q_of(model: Model, mean: Array, factor: Array) -> Gaussian | TransformedGaussian:
    gaussian = Gaussian._from_factor(mean, factor)
    if model._support.is_real:
        return gaussian
    return TransformedGaussian._of(gaussian, model._support)


def _numbers(q: Any) -> Array:
    """Everything that q is made of."""
    if isinstance(q, TruncatedGaussian):
        return np.array([q.mu, q.sigma])
    gaussian = q.gaussian if isinstance(q, TransformedGaussian) else q
    return np.concatenate([gaussian._mean, gaussian._factor.ravel()])


def _made(model: Model, family: str, q: Any, report: Any, trace: Array, where: Array, method: str) -> Fit:
    """The result that a `kernels.reports.Report` stands for."""
    value, code, evaluations = report.elbo, int(report.status), int(report.evaluations)
    words = _words(code, where)
    endless = code == UNBOUNDED and not (abs(_numbers(q)) < 1e100).all()
    if value != value or value == -math.inf or endless:
        raise ValueError(f"the fit cannot start: {words}")
    return Fit(
        model=model,
        family=family,
        q=q,
        elbo=Estimate(value, report.error, evaluations, method),
        trace=trace[: int(report.steps)],
        gradient_norm=report.gradient_norm,
        evaluations=evaluations,
        status=words,
        converged=code == CONVERGED,
        starts=(value,),
    )


@lru_cache(maxsize=8)
def _unit(dim: int) -> Array:
    """One unit matrix, to copy: making it takes six times as long."""
    return np.eye(dim)[None]


def _fit_quadrature(model: Model, family: str, start: Any, rtol: float, max_steps: int) -> Fit:
    r = model.latent_dim
    space = _space("fit", r, model.dim)
    mean, factor = _start_of(model, start)
    if family == "mean" and factor is None:
        raise ValueError('family="mean" holds the covariance of the start: give a Gaussian as start')
    from_laplace = factor is None
    chols = _unit(r).copy() if factor is None else _restricted(factor, family)[None].copy()
    traces, reports, where = np.empty((1, _TRACE)), np.zeros((1, 8)), np.empty((1, model.dim))
    scales = np.empty((1, r))
    scales.fill(1.0)
    kernels.engine.fit_quadrature(
        _target(model),
        _FAMILIES[family],
        from_laplace,
        (mean[None], scales, chols),
        rtol,
        max_steps,
        space,
        (traces, reports, where),
        0,
        1,
    )
    report = kernels.reports.Report(*reports[0].tolist())
    return _made(model, family, _q_of(model, mean, chols[0]), report, traces[0], where[0], "quadrature")


def _fit_truncated(model: Model, start: Any, rtol: float, max_steps: int) -> Fit:
    if model.dim != 1:
        raise ValueError(f'family="truncated" needs a model of dimension 1, this one has {model.dim}')
    low, high = model._support.interval
    parameters, used = np.empty((1, 2)), 0
    if isinstance(start, TruncatedGaussian):
        parameters[0] = start.mu, start.sigma
    else:
        # The fit in latent coordinates knows where the posterior is.
        rough = _fit_quadrature(model, "full", start, 1e-3, 50)
        parameters[0] = float(rough.q.mean[0]), math.sqrt(float(rough.q.cov[0, 0]))
        used = rough.evaluations
    traces, reports, where = np.empty((1, _TRACE)), np.zeros((1, 8)), np.empty((1, 1))
    kernels.engine.fit_truncated(
        _target(model),
        (low, high),
        parameters,
        rtol,
        max_steps,
        _space("truncated"),
        (traces, reports, where),
        0,
        1,
    )
    report = kernels.reports.Report(*reports[0].tolist())
    report = report._replace(evaluations=report.evaluations + used)
    q = TruncatedGaussian(float(parameters[0, 0]), float(parameters[0, 1]), low, high)
    return _made(model, "truncated", q, report, traces[0], where[0], "quadrature")


def _laplace_start(model: Model, start: Any) -> tuple[Array, Array, Array, int]:
    """(mean, factor, conditional deviations, evaluations) to start from."""
    mean, factor = _start_of(model, start)
    r = model.latent_dim
    if factor is not None:
        return mean, factor, _conditional(factor), 0
    space = _space("laplace", r, model.dim)
    scale, factor = np.ones(r), np.eye(r)
    if r <= kernels.laplace.DENSE:
        status, used = kernels.engine.laplace(_target(model), mean, scale, factor, space)
    else:
        status, used = _diagonal_laplace(model, mean, scale, space)
        factor = np.diag(scale)
    if status:
        raise ValueError(f"the fit cannot start: {_words(status, _laplace_fault(model, r))}")
    return mean, factor, scale, used


def _diagonal_laplace(model: Model, mean: Array, scale: Array, space: Any) -> tuple[int, int]:
    """A mode, and the conditional standard deviations there: for many dimensions."""
    r = mean.size
    status, used = kernels.engine.calibrate(_target(model), mean, scale, space)
    for _ in range(2):
        if status:
            return status, used
        draws_space = _space("draws", _FAMILIES["mean"], r, model.dim)
        _named(kernels.draws.Workspace, draws_space).point[:] = 0.0
        row = np.zeros(8)
        kernels.engine.fit_draws(
            _target(model),
            _FAMILIES["mean"],
            np.zeros((1, r)),
            (mean.copy(), np.diag(scale), scale),
            (_NEAR_MODE, _MODE_STEPS),
            (mean, np.empty((r, r)), np.empty(1), row),
            draws_space,
        )
        used += int(kernels.reports.Report(*row).evaluations)
        status, more = kernels.engine.calibrate(_target(model), mean, scale, space)
        used += more
    return status, used


def _fit_draws(model: Model, family: str, start: Any, rtol: float, max_steps: int, draws: int | None) -> Fit:
    r = model.latent_dim
    mean, root, scale, used = _laplace_start(model, start)
    if family == "mean" and not isinstance(start, Gaussian | TransformedGaussian):
        raise ValueError('family="mean" holds the covariance of the start: give a Gaussian as start')
    code = _FAMILIES[family]
    space = _space("draws", code, r, model.dim)
    scratch, draws_ = _named(kernels.draws.Workspace, space), kernels.draws
    point, curvature = scratch.point, scratch.curvature
    point[:] = 0.0
    if family == "isotropic":
        scale = np.full(r, math.sqrt(r / (1.0 / scale**2).sum()))
    pairs = max(_LEAST_PAIRS, (4 if family == "full" else 1) * r)
    if draws is not None:
        if draws < 2 * r:
            raise ValueError(f"draws must be at least 2 x {r}, to match second moments, not {draws!r}")
        pairs = (draws + 1) // 2
    # Far from the optimum a small subset of draws suffices: eight schools takes half of its 20 steps on 24.
    enough, few = pairs, max(_FEW_PAIRS, r)
    if draws is None and 2 * few <= enough:
        pairs = few
    base, q_mean, q_factor = mean.copy(), np.empty(r), np.empty((r, r))
    trace, row = np.empty(_TRACE), np.zeros(8)
    lines: list[Array] = []
    # Half the gradient's square is what the ELBO lacks. The draws' own error is larger, unless they are
    # exact.
    wanted = max(math.sqrt(rtol), _ROUGH)
    while True:
        goal = wanted if pairs >= enough else _NEAR
        kernels.engine.fit_draws(
            _target(model),
            code,
            _writable(_draws(0, pairs, r)),
            (base, root, scale),
            (goal, max_steps),
            (q_mean, q_factor, trace, row),
            space,
        )
        report = kernels.reports.Report(*row.tolist())
        used += int(report.evaluations)
        lines.append(trace[: int(report.steps)].copy())
        status = int(report.status)
        if statuses.is_fault(status) and report.steps == 0:
            raise ValueError(f"the fit cannot start: {_words(status, scratch.panel.where)}")
        if pairs < enough:
            pairs = enough
            if status:
                point[:] = 0.0
            else:
                curvature[draws_.BEGIN] = curvature[draws_.KNOWN]
            continue
        promised = report.elbo
        last = draws is not None or 2 * pairs > _MOST_PAIRS
        entropy = Gaussian._from_factor(q_mean, q_factor).entropy()
        hoped = -math.inf if last else promised - entropy
        value, error, more, fault = _expectation_by_draws(model, q_mean, q_factor, hoped)
        used += more
        value += entropy
        if fault:
            break
        if not _broken(promised, value, error):
            if 0.5 * wanted**2 <= 0.01 * error or wanted <= rtol or status not in (CONVERGED, STUCK):
                break
            # What is known of the curvature is left behind: it is too rough so near to the optimum.
            wanted = rtol
            continue
        if last:
            status = OVERFITTED
            break
        pairs *= 2
        curvature[draws_.BEGIN] = curvature[draws_.KNOWN]
    if fault:
        status, value, error = fault, promised, math.inf
    where = _laplace_fault(model, r) if fault else scratch.panel.where
    joined = np.concatenate(lines)
    report = report._replace(elbo=value, error=error, evaluations=used, status=status, steps=joined.size)
    q = _q_of(model, q_mean, q_factor)
    return _made(model, family, q, report, joined, where, "draws (standard error)")


# What q is compared to.


#: Where p is so many times wider than q, or so many of q's deviations away, they do not share a lattice.
_WIDE = 20.0


def _frame(model: Model, start: Any) -> tuple[Array, Array]:
    """Laplace's approximation, in whose coordinates the evidence is integrated."""
    mean, factor, _, _ = _laplace_start(model, start)
    return mean, factor


def _whole(
    model: Model, mean: Array, factor: Array, rtol: float, q: Any, integrand: int, total: float
) -> Estimate:
    space = _space("evidence", mean.size, model.dim)
    status, value, error, nodes = kernels.engine.evidence(
        _target(model), mean, factor, rtol, q, integrand, total, space
    )
    if status:
        raise ValueError(_words(status, _named(kernels.evidence.Workspace, space).panel.where))
    note = ""
    if error == math.inf or value != value:
        error = math.inf
        note = "the joint does not fall off towards the ends of the axes: the posterior is improper"
        if integrand == kernels.evidence.JOINT:
            value = math.inf
    elif value == -math.inf:
        note = "the log joint is -inf everywhere that was looked at"
    return Estimate(value, error, nodes, "quadrature", note=note)


def _no_q(dim: int) -> Any:
    return kernels.evidence.GAUSSIAN, np.zeros(dim), np.eye(dim), np.zeros(2), 0.0


def _low_dimension(model: Model, what: str) -> None:
    if model.latent_dim > QUADRATURE_DIM:
        raise ValueError(
            f"{what} takes quadrature, in up to {QUADRATURE_DIM} latent dimensions; "
            f"the model has {model.latent_dim}"
        )


def log_evidence(model: Model, start: Any = None, *, rtol: float = 1e-10) -> Estimate:
    r"""The log evidence of a model, by quadrature.

    .. math:: \log p(x) = \log \int p(x, z) \, dz

    Parameters
    ----------
    model : Model
        In up to two latent dimensions.
    start : array_like (D,) or Gaussian, optional
        Where to look for the posterior, as in `fit`.
    rtol : float, optional
        Error wanted, relative to 1 + abs(log evidence).

    Returns
    -------
    Estimate
        In nats. For an improper posterior the value and the error are inf, and `note` says so.

    Raises
    ------
    ValueError
        More than two latent dimensions; a log joint that is NaN or +inf, or that raises: with the z.

    Notes
    -----
    The trapezoid rule in t, where z = m + L sinh t and (m, L) is Laplace's approximation. A mode far from the
    one that is found from `start`, with nothing between them, is not seen.

    References
    ----------
    H. Takahasi, M. Mori, Double Exponential Formulas for Numerical Integration, Publ. RIMS 9 (1974), section
    3.

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
    >>> round(fv.log_evidence(fv.Model(log_joint, 1, data=(5.0,))).value, 12)
    -4.5
    >>> round(fv.log_evidence(fv.Model(log_joint, 1, data=(1.0,), support="positive")).value, 12)
    -1.19314718056
    """
    _low_dimension(_as_model(model), "log_evidence")
    wanted = tolerance(rtol)
    mean, factor = _frame(model, start)
    return _whole(model, mean, factor, wanted, _no_q(mean.size), kernels.evidence.JOINT, 0.0)


class Decomposition(NamedTuple):
    """log p(x) = ELBO + KL(q ‖ p(z | x)), each computed by itself."""

    log_evidence: Estimate
    elbo: Estimate
    kl: Estimate

    @property
    def residual(self) -> float:
        """log evidence - ELBO - KL: what the three disagree by."""
        if self.elbo.value == -math.inf and self.kl.value == math.inf:
            return 0.0
        return self.log_evidence.value - self.elbo.value - self.kl.value

    @property
    def error(self) -> float:
        """A bound of the residual: the three errors."""
        return self.log_evidence.error + self.elbo.error + self.kl.error


def decompose(model: Model, q: Variational, *, rtol: float = 1e-10) -> Decomposition:
    r"""The log evidence, the ELBO of q and its divergence from the posterior, independently of each other.

    .. math:: \log p(x) = \mathrm{ELBO}(q) + \mathrm{KL}(q \,\|\, p(z \mid x))

    Parameters
    ----------
    model : Model
        In up to two latent dimensions.
    q : Gaussian, TransformedGaussian or TruncatedGaussian
    rtol : float, optional
        Error wanted of each.

    Returns
    -------
    Decomposition
        (log_evidence, elbo, kl), Estimates, with the `residual` of the identity and its bound `error`. The
        evidence is integrated in the coordinates of Laplace's approximation. The divergence is a sum of terms
        that are not negative, q log(q/p) - q + p, in q's coordinates, where p is normalised anew; where p is
        over 20 times wider than q it is E_q[log q - log p] with the evidence added.

    Raises
    ------
    TypeError, ValueError
        As in `elbo` and `log_evidence`.

    References
    ----------
    C. M. Bishop, Pattern Recognition and Machine Learning (2006), eq. 10.2 to 10.4.

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
    >>> d = fv.decompose(fv.Model(log_joint, 1, data=(5.0,)), fv.Gaussian(3.0, 1.0))
    >>> [round(part.value, 10) for part in d], abs(d.residual) <= d.error
    ([-4.5, -5.0, 0.5], True)
    """
    _low_dimension(_as_model(model), "decompose")
    wanted = tolerance(rtol)
    gaussian = _latent_gaussian(model, q)
    bound = _elbo(model, q, wanted)
    mean, factor = _frame(model, None)
    evidence = _whole(model, mean, factor, wanted, _no_q(mean.size), kernels.evidence.JOINT, 0.0)
    if bound.value == -math.inf:
        return Decomposition(evidence, bound, Estimate(math.inf, 0.0, 0, "closed form", note=bound.note))
    if not evidence.error < math.inf:
        return Decomposition(
            evidence, bound, Estimate(math.inf, math.inf, 0, "quadrature", note=evidence.note)
        )
    if gaussian is None:
        if model._support.is_real:
            # In coordinates of its own the jump of a truncated density would fall between two nodes.
            raise ValueError("decompose takes a TruncatedGaussian only for a model with the same support")
        assert isinstance(q, TruncatedGaussian)
        form: Any = (
            kernels.evidence.TRUNCATED,
            np.array([q.mu]),
            np.array([[q.sigma]]),
            np.array([q.low, q.high]),
            q._log_mass,
        )
    else:
        # The lattice must reach all of p from q. Where p is much wider, E_q[log q - log p] + log p(x) is
        # left.
        reach = float(np.abs(np.linalg.solve(gaussian._factor, factor)).max())
        shift = float(np.abs(np.linalg.solve(gaussian._factor, mean - gaussian._mean)).max())
        form = (kernels.evidence.GAUSSIAN, gaussian._mean, gaussian._factor, np.zeros(2), 0.0)
        mean, factor = gaussian._mean, gaussian._factor
        if max(reach, shift) > _WIDE:
            divergence = _whole(model, mean, factor, wanted, form, kernels.evidence.KL_OF_Q, evidence.value)
            return Decomposition(evidence, bound, divergence)
    total = _whole(model, mean, factor, wanted, form, kernels.evidence.JOINT, 0.0)
    divergence = _whole(model, mean, factor, wanted, form, kernels.evidence.KL, total.value)
    return Decomposition(evidence, bound, divergence)


class GradientCheck(NamedTuple):
    """A model's gradient beside a numerical one, at the z where they differ most."""

    ok: bool
    coordinate: int
    z: Array
    analytic: Array
    numerical: Array

    def __bool__(self) -> bool:
        return self.ok

    def __reduce__(self) -> tuple[Any, ...]:
        return frozen_fields, (GradientCheck, *self)

    def __str__(self) -> str:
        i = self.coordinate
        found = f"grad[{i}] is {self.analytic[i]:.9g}, numerically {self.numerical[i]:.9g}"
        found += f", at z = {_tidy(self.z)}"
        return (
            f"the gradient is right: the worst is {found}" if self.ok else f"the gradient is wrong: {found}"
        )


def check_gradient(model: Model, z: Any = None, *, rtol: float = 1e-5, rng: Any = 0) -> GradientCheck:
    r"""Compare a model's gradient to central differences of its log joint.

    .. math:: \frac{\partial f}{\partial z_i} \approx \frac{4 D(h) - D(2h)}{3}, \quad
              D(h) = \frac{f(z + h e_i) - f(z - h e_i)}{2h}

    Parameters
    ----------
    model : Model
        With a `log_joint_grad`.
    z : array_like, shape (D,) or (n, D), optional
        Where to compare. Default: five random points inside of the support.
    rtol : float, optional
        Difference that is allowed, relative to the gradient's largest entry.
    rng : numpy.random.Generator, int or None, optional
        For the random points.

    Returns
    -------
    GradientCheck
        True if the gradient is right; `str` of it says which coordinate is off, and by how much.

    Raises
    ------
    ValueError
        A model without a gradient, or whose gradient function returns another value than its log joint.

    References
    ----------
    J. Nocedal, S. J. Wright, Numerical Optimization (2006), section 8.1.

    Examples
    --------
    >>> import fastvi as fv
    >>> def log_joint(z):
    ...     return -0.5 * z[0] ** 2 - z[1] ** 2
    >>> def wrong(z, grad):
    ...     grad[0], grad[1] = -z[0], -z[1]
    ...     return log_joint(z)
    >>> import numba
    >>> log_joint = numba.njit(log_joint)
    >>> str(fv.check_gradient(fv.Model(log_joint, 2, log_joint_grad=wrong), [[1.0, 2.0]]))
    'the gradient is wrong: grad[1] is -2, numerically -4, at z = [1, 2]'
    """
    _as_model(model)
    if model._gradient is None:
        raise ValueError("model has no log_joint_grad to check")
    if z is None:
        latent = generator("rng", rng).standard_normal((5, model.latent_dim))
        points = model._support.to_model(latent)[0]
    else:
        points = np.atleast_2d(np.asarray(float_array("z", z), dtype=np.float64))
        if points.ndim != 2 or points.shape[1] != model.dim:
            raise ValueError(f"z must have shape ({model.dim},) or (n, {model.dim}), not {np.shape(z)}")
    # Copies: compiled for arrays that it may write to, a gradient could change the model.
    arguments = [item.copy() if isinstance(item, np.ndarray) else item for item in model._arguments]
    worst: tuple[float, GradientCheck] | None = None
    for point in points:
        analytic = np.empty(model.dim)
        value = float(model._gradient(point.copy(), analytic, *arguments))
        expected = float(model.log_density(point))
        if not abs(value - expected) <= 1e-9 * (1.0 + abs(expected)):
            raise ValueError(
                f"log_joint_grad returns {value!r} at z = {_tidy(point)}, "
                f"where log_joint returns {expected!r}"
            )
        numerical = np.empty(model.dim)
        for i in range(model.dim):
            h = 1e-3 * max(1e-3, abs(point[i]))
            steps = np.array([h, -h, 2 * h, -2 * h])
            rows = np.repeat(point[None], 4, axis=0)
            rows[:, i] += steps
            f = model.log_density(rows)
            numerical[i] = (4.0 * (f[0] - f[1]) / (2 * h) - (f[2] - f[3]) / (4 * h)) / 3.0
        gaps = np.abs(analytic - numerical) / max(float(np.abs(numerical).max()), 1e-8)
        gaps = np.where(np.isnan(gaps), math.inf, gaps)
        i = int(np.argmax(gaps))
        check = frozen_fields(GradientCheck, bool(gaps[i] <= rtol), i, point, analytic, numerical)
        if worst is None or gaps[i] > worst[0]:
            worst = float(gaps[i]), check
    assert worst is not None
    return worst[1]
