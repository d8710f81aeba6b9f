"""Covariances by linear response: how the means of q answer to a tilt of the posterior.

`Fit.linear_response` calls `response_of`. All derivatives are in q's own units: z = m + L (δ + (I + T) e),
where q is N(m, L L') at δ = 0 and T = 0, and the parameters of the family are δ and, of T, the lower
triangle, the diagonal, one number or nothing. With F(e) the second derivatives of log p in these units, at
the draw e,

    H (δ, T) = (-E[F w], T_aa - E[F w e']),  w = δ + T e,

is the Hessian of KL(q ‖ p), where only the T that the family has count. The columns of F at all draws come
from differences of gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common import threads
from ..common.immutable import Record, frozen, frozen_fields
from ..common.validation import generator
from ..common.values import Array, tidy
from ..distributions.gaussian import Gaussian
from ..distributions.integrals import Estimate
from ..distributions.variational import TransformedGaussian, Variational, latent_of
from ..kernels.families.table import CODES, CORRELATED, LOW_RANK, MEAN, TABLE
from ..kernels.statuses import FINE
from .diagnostics import latent_ratios
from .expectations import BY_DRAWS, fixed_draws
from .faults import words
from .kernel_calls import (
    DRAWS_DIM,
    QUADRATURE_DIM,
    conditional_deviations,
    fault_point,
    log_densities,
    workspace,
)
from .model import Model, target_of
from .verdicts import CLOSE, Diagnosis, is_alone

#: Pairs of draws for a full covariance, at least, and the first block of all draws.
_PAIRS_FULL, _BLOCK = 128, 2

#: Pairs of draws for other families: in each of two blocks to begin with, at most, and for each dimension of
#: so many, at least four. Blocks are doubled until the deviations by one half of the draws and by the other
#: tell that those by all are so near (root mean square of logarithms), or there are so many pairs. (With four
#: the errors are 0.001 in regressions of 53 to 90 dimensions, and with 16 0.0003 to 0.001.)
_PAIRS, _LEAST_PAIRS, _OF_DIM, _NEAR, _MOST_PAIRS = 16, 4, 200, 0.01, 128

#: Reach and step of the lattice for up to two dimensions, in q's deviations.
_REACH, _STEP = 6.5, 0.25

#: Steps of the differences of gradients, in q's deviations: with a gradient, and where the gradients are
#: differences of values themselves.
_SHIFT, _WIDE_SHIFT = 3e-3, 3e-2

#: Dimensions up to which a full covariance has its Hessian as a matrix; beyond, conjugate gradients. And the
#: most dimensions, for the second derivatives at all draws: 128 MB.
_DENSE, _MOST_FULL = 20, 200

#: Right-hand sides that conjugate gradients work on together, relative residual, and most steps.
_TOGETHER, _RESIDUAL, _MOST_STEPS = 32, 1e-11, 300

#: Columns of a matrix that are made together: more take more memory, and are no faster.
_COLUMNS = 64

#: Draws for functions of z, in pairs +e, -e.
_DRAWS = 20_000

#: Draws of the corrected q that are weighed, and their seed. Deviations by the weights may differ by this
#: much, and are known where their standard errors and the largest weight are below these. Fewer draws are
#: enough where so large a share of them is effective and deviations differ by less, with their errors.
_WEIGHED, _FEW_WEIGHED, _SEED = 4_000, (500, 1_000, 2_000), 20240304
_ALLOWED, _UNSURE, _LARGEST, _EFFECTIVE = 0.1, 0.07, 0.05, 0.5

#: How far q's mean may be from its optimum, in corrected deviations.
_OFF = 0.5


class Propagated(NamedTuple):
    """Moments of a function of z, from `LinearResponse.of`.

    Attributes
    ----------
    mean, sd : ndarray, shape (K,)
    cov : ndarray, shape (K, K)
    """

    mean: Array
    sd: Array
    cov: Array

    def __reduce__(self) -> tuple[Any, ...]:
        return frozen_fields, (Propagated, *self)


class LinearResponse(Record):
    """A covariance that is nearer to the posterior's than that of q, from `Fit.linear_response`.

    Attributes
    ----------
    verdict : str
        One sentence.
    trusted : bool
        Whether nothing found speaks against it.
    q : Gaussian, TransformedGaussian or None
        The corrected q: the mean of the fit in latent coordinates, with the covariance by linear response.
        None where there is no covariance.
    latent_cov : ndarray (R, R)
        In latent coordinates; nan where there is no covariance.
    cov : ndarray (D, D)
        Of z, in the model's own coordinates, under the corrected q.
    mean, sd : ndarray (D,)
        Of z, under the corrected q.
    ratio : ndarray (R,)
        Standard deviations by linear response in those of the fit, in latent coordinates.
    gain : Estimate
        The ELBO of the corrected q less that of the fit, in nats.
    off : float
        The longest way of a coordinate of q's mean to its optimum, in corrected deviations.
    evaluations : int
        Of the log joint or its gradient.
    method : {"matrix", "conjugate gradients"}
    """

    verdict: str
    trusted: bool
    q: Gaussian | TransformedGaussian | None
    latent_cov: Array
    ratio: Array
    gain: Estimate
    off: float
    evaluations: int
    method: str
    model: Model

    @property
    def cov(self) -> Array:
        """The covariance of z, shape (D, D), in the model's own coordinates, under the corrected q."""
        return frozen(np.full((self.model.dim,) * 2, math.nan)) if self.q is None else self.q.cov

    @property
    def mean(self) -> Array:
        """The mean of z, shape (D,), under the corrected q."""
        return frozen(np.full(self.model.dim, math.nan)) if self.q is None else self.q.mean

    @property
    def sd(self) -> Array:
        """The standard deviations of z, shape (D,), under the corrected q."""
        return frozen(np.sqrt(np.diag(self.cov)))

    def of(self, function: Callable[[Any], Any], *, named: bool = False, rng: Any = 0) -> Propagated:
        """Mean, standard deviations and covariance of a function of z, from 20,000 draws of the corrected q.

        Parameters
        ----------
        function : callable
            Of draws (n, D) as `Fit.sample` gives them, to n numbers or to (n, K).
        named : bool, optional
            Whether it takes a dict of arrays (n, *shape) instead, for a model of named parameters.
        rng : numpy.random.Generator, int or None, optional

        Raises
        ------
        ValueError
            No covariance; values of another shape, or that are not finite.

        Examples
        --------
        >>> import fastvi as fv
        >>> def log_joint(z):                        # deviations of 1, a correlation of 0.9
        ...     return -(z[0] ** 2 + z[1] ** 2 - 1.8 * z[0] * z[1]) / (2 * 0.19)
        >>> response = fv.fit(fv.Model(log_joint, 2), "diag").linear_response()
        >>> response.of(lambda z: z[:, 0] - z[:, 1]).sd.round(2)         # sqrt(2 - 1.8)
        array([0.45])
        """
        if self.q is None:
            raise ValueError(self.verdict)
        gaussian = _latent(self.q)
        half = generator("rng", rng).standard_normal((_DRAWS // 2, gaussian.dim))
        latent = gaussian.mean + np.concatenate([half, -half]) @ gaussian.cholesky.T
        draws = self.model._support.to_model(latent)[0]
        values = np.asarray(function(self.model._named(draws) if named else draws), dtype=np.float64)
        if values.ndim not in (1, 2) or len(values) != _DRAWS or values.size == 0:
            raise ValueError(f"function must return {_DRAWS} numbers or rows, not shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("function returns values that are not finite at draws of the corrected q")
        values = values.reshape(_DRAWS, -1)
        mean = values.mean(axis=0)
        cov = (values - mean).T @ (values - mean) / _DRAWS
        moments: Propagated = frozen_fields(Propagated, mean, np.sqrt(np.diag(cov)), cov)
        return moments

    def __repr__(self) -> str:
        return f"LinearResponse({self.verdict})"


def _latent(q: Any) -> Gaussian:
    gaussian: Gaussian = latent_of(q)
    return gaussian


class _FaultError(Exception):
    """The log joint is at fault at a point near q."""


class _Nodes(NamedTuple):
    """Standard normal points, whose second half is minus the first, and weights that sum to one."""

    points: Array  #: (S, R)
    weights: Array  #: (S,)


def _lattice(dim: int) -> _Nodes:
    axis = np.arange(-_REACH, _REACH + 0.5 * _STEP, _STEP)
    points = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    weights = np.exp(-0.5 * (points**2).sum(axis=1))
    return _Nodes(points, weights / weights.sum())


def _draws(block: int, pairs: int, dim: int) -> _Nodes:
    points = fixed_draws(_BLOCK + block, pairs, dim)
    return _Nodes(points, np.full(len(points), 1.0 / len(points)))


class _Curvature:
    """Second derivatives of log p at the nodes, in q's units, from differences of gradients."""

    def __init__(self, model: Model, q: Gaussian, nodes: _Nodes) -> None:
        self.model, self.nodes = model, nodes
        self.mean, self.root = np.array(q.mean), np.array(q.cholesky)
        self.scale = conditional_deviations(self.root)
        self.diagonal = not np.tril(self.root, -1).any()
        self.evaluations = 0
        self.shift = _SHIFT if model._slopes_address else _WIDE_SHIFT
        # One of each pair moves forwards and one backwards: then the error is of second order, too.
        count = len(nodes.points)
        self.signs = np.where(np.arange(count) < count // 2, self.shift, -self.shift)
        along = nodes.points * np.diag(self.root) if self.diagonal else nodes.points @ self.root.T
        self.latent = self.mean + along
        self.slopes, used = self._slopes(self.latent)
        self.evaluations += used

    def _slopes(self, points: Array) -> tuple[Array, int]:
        """(gradients in q's units, evaluations)."""
        model, r = self.model, self.mean.size
        space = workspace("draws", MEAN, r, model.dim)
        values, slopes = np.empty(len(points)), np.empty(points.shape)
        status, used = kernels.inference.entry_points.log_joint_gradients(
            target_of(model, gradient=True), points, self.scale, space, values, slopes
        )
        if status != FINE:
            raise _FaultError(words(model, status, fault_point("draws", space)))
        if not np.isfinite(slopes).all():
            raise _FaultError("the gradient is not finite near q")
        return (slopes * np.diag(self.root) if self.diagonal else slopes @ self.root), used

    def columns(self, take: Callable[[int, Array], None]) -> None:
        """Call ``take(j, F e_j at each node (S, R))`` for each coordinate, on all threads."""
        used = np.zeros(self.mean.size, np.int64)
        faults: list[_FaultError] = []

        def column(j: int) -> None:
            if faults:
                return
            try:
                moved, used[j] = self._slopes(self.latent + self.signs[:, None] * self.root[:, j])
            except _FaultError as fault:
                faults.append(fault)
                return
            change = (moved - self.slopes) / self.signs[:, None]
            if self.mean.size <= QUADRATURE_DIM:  # few coordinates: central differences
                back, more = self._slopes(self.latent - self.signs[:, None] * self.root[:, j])
                change = (moved - back) / (2.0 * self.signs[:, None])
                used[j] += more
            take(j, change)

        threads.run(column, self.mean.size)
        if faults:
            raise faults[0]
        self.evaluations += int(used.sum())


class _SingularError(Exception):
    """The Hessian is not positive definite."""


def _symmetric(matrix: Array) -> Array:
    return 0.5 * (matrix + matrix.T)


def _factor(matrix: Array) -> Any:
    """The Cholesky factor."""
    try:
        factor: Any = np.linalg.cholesky(_symmetric(matrix))
    except np.linalg.LinAlgError:
        raise _SingularError from None
    if not np.isfinite(factor).all():
        raise _SingularError
    return factor


def _inverse(matrix: Array) -> Array:
    factor = _factor(matrix)
    half = np.linalg.solve(factor, np.eye(len(factor)))
    return half.T @ half


class _Found(NamedTuple):
    """A covariance in q's units, and on what it rests."""

    cov: Array
    step: Array  #: Newton's, of the mean
    nodes: tuple[_Nodes, ...]
    evaluations: int


class _Means(NamedTuple):
    """Averages over nodes, for T = diag(t): parts of the Hessian in δ and t, and of the ELBO's gradient."""

    means: Array  #: (R, R) in δ
    mixed: Array  #: (R, R) in δ and t
    spreads: Array  #: (R, R) in t, without the entropy's
    uphill: Array  #: (2, R) in δ and t, without the entropy's

    @classmethod
    def over(cls, curvature: _Curvature) -> _Means:
        """Those over the nodes of a curvature."""
        r, (e, weights) = curvature.mean.size, curvature.nodes
        means, mixed, spreads = (np.empty((r, r)) for _ in range(3))

        def take(j: int, column: Array) -> None:
            weighted = weights[:, None] * column
            means[:, j] = -weighted.sum(axis=0)
            mixed[:, j] = -(e[:, j] @ weighted)
            spreads[:, j] = -((e[:, j, None] * weighted) * e).sum(axis=0)

        curvature.columns(take)
        weighted = weights[:, None] * curvature.slopes
        return cls(means, mixed, spreads, np.stack([weighted.sum(axis=0), (weighted * e).sum(axis=0)]))

    def and_of(self, other: _Means) -> _Means:
        """Those over as many nodes again."""
        return _Means(*(0.5 * (one + two) for one, two in zip(self, other, strict=True)))

    def solved(self, directions: Array) -> tuple[Array, Array]:
        """(covariance, Newton's step of the mean), where T = diag(directions @ t): (R, P) of them."""
        mixed = self.mixed @ directions
        spreads = directions.T @ (_symmetric(self.spreads) + np.eye(len(mixed))) @ directions
        along, rest = self.uphill[0], directions.T @ (self.uphill[1] + 1.0)
        answer = mixed @ _inverse(spreads) if directions.shape[1] else mixed
        cov = _inverse(self.means - answer @ mixed.T)
        return cov, cov @ (along - answer @ rest)

    def deviations(self, directions: Array) -> Array:
        """Of the covariance; infinite where there is none."""
        try:
            return np.sqrt(np.diag(self.solved(directions)[0]))
        except _SingularError:
            return np.full(len(self.means), math.inf)


def _by_diagonal(model: Model, q: Gaussian, directions: Array) -> _Found:
    """The covariance where T = diag(directions @ t): (R, P) of them."""
    if q.dim <= QUADRATURE_DIM:
        curvature = _Curvature(model, q, _lattice(q.dim))
        means = _Means.over(curvature)
        return _Found(*means.solved(directions), (curvature.nodes,), curvature.evaluations)
    nodes, used, pairs = list[_Nodes](), 0, min(max(_OF_DIM // q.dim, _LEAST_PAIRS), _PAIRS)

    def over(pairs: int) -> _Means:
        nonlocal used
        curvature = _Curvature(model, q, _draws(len(nodes), pairs, q.dim))
        means = _Means.over(curvature)
        nodes.append(curvature.nodes)
        used += curvature.evaluations
        return means

    means = over(pairs)
    while True:
        other = over(pairs)
        with np.errstate(all="ignore"):
            ways = np.log(means.deviations(directions) / other.deviations(directions))
        means, pairs = means.and_of(other), 2 * pairs
        # Half the way from one half to the other is as long as the error of their mean.
        if 2 * pairs > _MOST_PAIRS or 0.5 * math.sqrt(float((ways**2).mean())) <= _NEAR:
            # Values at some more draws are cheap.
            nodes += [_draws(len(nodes), _PAIRS, q.dim)] if pairs < _PAIRS else []
            return _Found(*means.solved(directions), tuple(nodes), used)


class _Full:
    """The Hessian of a full covariance, by its products with vectors (δ, rows of T) in columns."""

    def __init__(self, curvature: _Curvature) -> None:
        self.e, self.weights = curvature.nodes
        self.r = r = curvature.mean.size
        self.rows, self.across = np.tril_indices(r)
        self.on_diagonal = (self.rows == self.across).astype(float)
        second = self.second = np.empty((len(self.e), r, r))

        def take(j: int, column: Array) -> None:
            second[:, :, j] = column

        curvature.columns(take)
        second += second.swapaxes(1, 2).copy()
        second *= 0.5

    def times(self, vectors: Array) -> Array:
        """(P, K), the Hessian times the columns of vectors (P, K)."""
        r, k = self.r, vectors.shape[1]
        bend = np.zeros((r, r, k))  # by columns and rows of T
        bend[self.across, self.rows] = vectors[r:]
        moved = (self.e @ bend.reshape(r, r * k)).reshape(-1, r, k) + vectors[:r]
        pulled = self.weights[:, None, None] * (self.second @ moved)
        back = np.tensordot(pulled, self.e, ((0,), (0,)))  # (row, K, column)
        below = -back[self.rows, :, self.across] + self.on_diagonal[:, None] * vectors[r:]
        return np.concatenate([-pulled.sum(axis=0), below])

    def solve(self, vectors: Array) -> Array:
        """The columns of the inverse times vectors, by conjugate gradients."""
        metric = np.concatenate([np.ones(self.r), 1.0 + self.on_diagonal])[:, None]
        x, left = np.zeros_like(vectors), vectors.copy()
        ahead = left / metric
        direction, size = ahead.copy(), (left * ahead).sum(axis=0)
        wanted = _RESIDUAL**2 * size
        for _ in range(_MOST_STEPS):
            if (size <= wanted).all():
                return x
            product = self.times(direction)
            bent = (direction * product).sum(axis=0)
            active = size > wanted
            if (bent[active] <= 0.0).any() or not np.isfinite(bent).all():
                raise _SingularError
            step = np.where(active, size / np.where(active, bent, 1.0), 0.0)
            x += step * direction
            left -= step * product
            ahead = left / metric
            after = (left * ahead).sum(axis=0)
            direction = ahead + np.where(active, after / np.where(size > 0.0, size, 1.0), 0.0) * direction
            size = after
        raise _SingularError


def _by_full(model: Model, q: Gaussian) -> _Found:
    """The covariance for a full one."""
    r = q.dim
    nodes = _lattice(r) if r <= QUADRATURE_DIM else _draws(0, max(_PAIRS_FULL, r), r)
    curvature = _Curvature(model, q, nodes)
    hessian = _Full(curvature)
    weighted = nodes.weights[:, None] * curvature.slopes
    rest = (weighted.T @ nodes.points)[hessian.rows, hessian.across] + hessian.on_diagonal
    uphill = np.concatenate([weighted.sum(axis=0), rest])
    count = uphill.size
    units = np.eye(count, r)
    if r <= _DENSE:
        together = [
            hessian.times(part) for part in np.array_split(np.eye(count), -(-count // _COLUMNS), axis=1)
        ]
        factor = _factor(np.concatenate(together, axis=1))
        answers = np.linalg.solve(factor.T, np.linalg.solve(factor, units))
    else:
        parts = np.array_split(units, -(-r // _TOGETHER), axis=1)
        answers = np.concatenate([hessian.solve(part) for part in parts], axis=1)
    return _Found(_symmetric(answers[:r]), answers.T @ uphill, (nodes,), curvature.evaluations)


def _gain(model: Model, q: Gaussian, corrected: Gaussian, nodes: tuple[_Nodes, ...]) -> Estimate:
    """The ELBO of the corrected q less that of q, over the same draws; -inf for a fault of the log joint."""
    points, values = np.concatenate([part.points for part in nodes]), []
    weights = np.concatenate([part.weights * len(part.weights) for part in nodes]) / len(points)
    for gaussian in (q, corrected):
        status, found, _ = log_densities(model, gaussian.mean + points @ gaussian.cholesky.T)
        if status != FINE:
            return Estimate(-math.inf, 0.0, len(points), BY_DRAWS)
        values.append(found)
    gains = values[1] - values[0]
    value = float(weights @ gains) + corrected.entropy() - q.entropy()
    if q.dim <= QUADRATURE_DIM:
        return Estimate(value, 0.0, 2 * gains.size, "quadrature")
    return Estimate(value, float(gains.std()) / math.sqrt(gains.size), 2 * gains.size, BY_DRAWS)


class _Weighed(NamedTuple):
    """What importance weights say of the deviations of a Gaussian."""

    ratio: float  #: of all coordinates, the deviation by the weights that is furthest from its own; or nan
    sure: bool  #: whether the weights allow to tell
    within: bool  #: whether none is surely further off than is allowed
    draws: int


def _weighed(model: Model, q: Gaussian) -> _Weighed:
    """By as many draws as that takes."""
    half = np.random.default_rng(_SEED).standard_normal((_WEIGHED // 2, q.dim))
    latent, logs = np.empty((0, q.dim)), np.empty(0)
    for draws in (*_FEW_WEIGHED, _WEIGHED):
        more = half[len(latent) // 2 : draws // 2]
        points = q.mean + np.concatenate([more, -more]) @ q.cholesky.T
        found = latent_ratios(model, q, points)
        if found is None:
            return _Weighed(math.nan, False, False, draws)
        latent, logs = np.concatenate([latent, points]), np.concatenate([logs, found])
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        mean = weights @ latent
        squares = (latent - mean) ** 2
        variances = weights @ squares
        with np.errstate(all="ignore"):
            errors = 0.5 * np.sqrt((weights**2) @ (squares - variances) ** 2) / variances
            far = 0.5 * np.log(variances / np.diag(q.cov))
        sure = bool((errors <= _UNSURE).all() and weights.max() <= _LARGEST)
        clear = (weights**2).sum() * draws * _EFFECTIVE <= 1.0 and (np.abs(far) + errors <= _ALLOWED).all()
        if sure and clear:
            break
    within = bool((np.abs(far) - errors <= _ALLOWED).all())
    worst = int(np.argmax(np.abs(far)))
    return _Weighed(math.exp(far[worst]) if sure else math.nan, sure, within, draws)


def _doubt(weighed: _Weighed, off: float, converged: bool, lacking: float | None) -> str:
    """What speaks against a covariance. `lacking` is KL(corrected q ‖ p) where it is known."""
    if not converged or off > _OFF:
        far = f"its mean seems {off:.2g} deviations from the optimum"
        return f"do not trust it: the fit has not converged, {far}"
    if lacking is not None and lacking > CLOSE:
        about = f"a Gaussian with it has a KL of {lacking:.2g} to the posterior"
        return f"do not trust it: {about}, which is not near a Gaussian"
    if not weighed.sure:
        return "undecided: the importance weights are too unequal to confirm it; it may be too large"
    if not weighed.within:
        about = f"importance weights find a deviation that is {weighed.ratio:.2f} of this one"
        return f"do not trust it: {about}"
    return ""


def response_of(
    model: Model,
    family: str,
    q: Variational,
    converged: bool,
    diagnose: Callable[[], Diagnosis],
    diagnosed: bool = False,
) -> LinearResponse:
    """The linear response of a fit to this family, with this q.

    `diagnose` is called in up to two dimensions, where it is `diagnosed` already, and where a short search
    finds that there may be other modes.
    """
    if not isinstance(q, Gaussian | TransformedGaussian):
        raise ValueError(f"linear_response needs a Gaussian q, not a {type(q).__name__}")
    gaussian = _latent(q)
    r, correlated = gaussian.dim, family in CORRELATED
    if correlated and r > _MOST_FULL:
        raise ValueError(
            f"linear_response takes a full covariance in up to {_MOST_FULL} latent dimensions, q has {r}: "
            'fit with family="diag"'
        )
    if family == LOW_RANK or r > DRAWS_DIM:
        raise ValueError(
            "linear_response takes diagonal, isotropic and full covariances in up to "
            f'{DRAWS_DIM} dimensions, not family="{family}" in {r}'
        )
    nothing = np.full((r, r), math.nan)
    nothing_found = LinearResponse(
        verdict="",
        trusted=False,
        q=None,
        latent_cov=nothing,
        ratio=nothing[0].copy(),
        gain=Estimate(math.nan, math.inf, 0, BY_DRAWS),
        off=math.nan,
        evaluations=0,
        method="conjugate gradients" if correlated and r > _DENSE else "matrix",
        model=model,
    )
    try:
        if correlated:
            found = _by_full(model, gaussian)
        else:
            free = TABLE[CODES[family]].directions(r)
            found = _by_diagonal(model, gaussian, free)
        root = np.array(gaussian.cholesky)
        corrected = Gaussian._from_factor(gaussian.mean.copy(), root @ _factor(found.cov))
    except _FaultError as fault:
        return nothing_found._replace(verdict=f"no covariance: {fault}")
    except _SingularError:
        reason = "KL(q ‖ p) has no minimum at q, its Hessian is not positive definite"
        return nothing_found._replace(verdict=f"no covariance: {reason}")
    latent_cov = np.array(corrected.cov)
    deviations = np.sqrt(np.diag(latent_cov))
    off = float(np.abs(root @ found.step / deviations).max())
    gain, weighed = _gain(model, gaussian, corrected, found.nodes), _weighed(model, corrected)
    used = found.evaluations + gain.evaluations + weighed.draws
    diagnosis = diagnose() if diagnosed or r <= QUADRATURE_DIM else None
    # log p(x) = ELBO + KL is the same for both.
    lacking = diagnosis.kl.value - gain.value if diagnosis and r <= QUADRATURE_DIM else None
    verdict = _doubt(weighed, off, converged, lacking)
    if not verdict:
        if diagnosis is None:
            alone, more = is_alone(model, corrected)
            diagnosis, used = None if alone else diagnose(), used + more
        if diagnosis is not None and diagnosis.other_mode is not None:
            verdict = f"it holds around q alone, which misses the mode at z = {tidy(diagnosis.other_mode)}"
    trusted, most = not verdict, f"{abs(weighed.ratio - 1.0):.0%}"
    real = model._support.is_real
    return nothing_found._replace(
        verdict=verdict or f"importance weights confirm it: their deviations differ by {most} at most",
        trusted=trusted,
        q=corrected if real else TransformedGaussian._of(corrected, model._support),
        latent_cov=latent_cov,
        ratio=deviations / np.sqrt(np.diag(gaussian.cov)),
        gain=gain,
        off=off,
        evaluations=used,
    )
