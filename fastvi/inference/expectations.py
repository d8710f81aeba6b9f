"""The ELBO and its gradient: expectations of a model's log joint under q.

By quadrature in up to two latent dimensions, else as averages over fixed draws, which the fits in many
dimensions and `maximize_evidence` use as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.immutable import frozen_fields, shown
from ..common.threads import interruptible
from ..common.validation import generator, integer
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.integrals import Estimate, mixture_entropy, tolerance
from ..distributions.mixture import GaussianMixture
from ..distributions.student import FarRadii, StudentT
from ..distributions.variational import (
    TransformedGaussian,
    TransformedMixture,
    TruncatedGaussian,
    Variational,
)
from ..kernels.families.table import FULL
from ..kernels.statuses import FINE, UNRESOLVED, ZERO
from .faults import error_of, words
from .gaps import look_under
from .kernel_calls import (
    DRAWS_DIM,
    QUADRATURE_DIM,
    conditional_deviations,
    fault_point,
    is_long,
    lattice_space,
    log_densities,
    log_densities_at_draws,
    workspace,
)
from .lockstep import together
from .model import Model, checked_model, target_of
from .saturation import elbo_error
from .tails import Exponentials, beside_quadratics, directions_of, exponentials_in

#: Pairs of draws for gradients, at least.
_BLOCK_PAIRS = 128

#: Groups of fresh draws, whose spread gives the standard error; draws in all of them, at least and for each
#: dimension.
GROUPS = 12
_LEAST_DRAWS, _DRAWS_EACH = 1024, 48

#: Single blocks, whose radius is not stratified, are so skewed that errors are this much larger (rms of
#: 960 checks of Poisson regressions, with the selection by `enough`).
_SKEWED = 1.12

#: Blocks of each group after which the error may be small enough; one of half of the groups is enough where
#: it is so small a share of that, and where that is no chance.
_BLOCKS, _HALF = (1, 2, 3, 4), 0.01

#: Dimensions up to which fresh draws are kept: 6 MB.
_KEPT_DIM = 128

#: Pairs in each of the groups to begin with, where there are no blocks, and beside a quadratic that is not
#: q's own; and the standard error, for each root of a dimension, that is small enough there.
_GROUP_PAIRS, _FEWER_PAIRS, ENOUGH_EACH = 24, 12, 0.005

#: Fresh draws of a mixture: pairs in each of the groups to begin with, and of each component at least; the
#: standard error that is small enough, and how many times as many draws there are at most.
_MIXTURE_PAIRS, _LEAST_MIXTURE_PAIRS, ENOUGH_MIXTURE, _MOST_BLOCKS = 96, 2, 3e-3, 16

#: Where the centre of the radial rule may be, in deviations from the mean: after a fault it is the next.
_CENTRES = 0.0, 0.1, -0.1

#: Rounding of a mean, relative to its terms: replicates may all be rounded alike.
_ROUNDING = 1e-15

#: Second word of the seed of fresh draws; the third is the user's.
_FRESH = 1000

#: First word of the seed of all draws; the second of those of fits is the number of the block.
_SEED = 20240229

#: A fit has taken the fixed draws' chance for a maximum where fresh draws find an ELBO that is lower by more
#: than this many standard errors.
_SIGNIFICANT = 3.0

#: A standard error above this, in nats, is made by a few draws far out in a tail that the fixed draws did not
#: see (a lognormal q of Gamma(0.1): 5 to 10 nats were missed), and so many of it count, or so many nats: for
#: the deviation of three groups fixed draws promised 11, and fresh ones found -4e5 with an error of 2e7.
_VAGUE, _SIGNIFICANT_IF_VAGUE, _MISSED = 0.3, 0.5, 1.0

#: A fit on fixed draws is accurate enough where it lacks less than this share of the ELBO's standard error.
SHARE_OF_ERROR = 0.01

#: Method of an `Estimate` that is an average over draws.
BY_DRAWS = "draws (standard error)"


def latent_gaussian(model: Model, q: Any) -> Gaussian | None:
    """q as a Gaussian in latent coordinates; None for a TruncatedGaussian."""
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
    if isinstance(q, Gaussian | GaussianMixture | StudentT) and not model._support.is_real:
        kind, other = type(q).__name__, "TransformedGaussian (fit makes one) or a TruncatedGaussian"
        if isinstance(q, GaussianMixture):
            other = "TransformedMixture (fit makes one)"
        return (
            f"q is a {kind} on the whole line, the support is {model.support!r}: q has mass where the "
            f"joint is zero, so KL(q ‖ p) is infinite. Use a {other}"
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
    """Pairs of draws +e, -e of a standard normal vector, (2 pairs, dim), whose second moments are exactly I.

    Of fewer pairs than dimensions only the mean squares are exactly one. A block has the same draws in every
    call. Latin hypercube sampling: each
    coordinate has one absolute value in each of `pairs` slices of equal probability. On eight schools a fit
    on 64 such draws loses 0.014 nats against the optimum, as a fit on 128 plain draws does; on 64 plain draws
    it loses 0.027. (M. D. McKay, R. J. Beckman, W. J. Conover, Technometrics 21 (1979).)
    """
    half = half_of_pairs(np.random.default_rng((_SEED, block)), pairs, dim)
    if pairs < dim:
        half /= np.sqrt((half * half).mean(axis=0))
    else:
        half = np.linalg.solve(np.linalg.cholesky(half.T @ half / pairs), half.T).T
    return np.ascontiguousarray(np.concatenate([half, -half]))


def half_of_pairs(rng: np.random.Generator, pairs: int, dim: int) -> Array:
    """Draws (pairs, dim), each coordinate in slices of equal probability."""
    from scipy.special import ndtri

    slices = rng.permuted(np.tile(np.arange(pairs), (dim, 1)), axis=1).T
    sizes = ndtri(0.5 + 0.5 * (slices + rng.random((pairs, dim))) / pairs)
    half: Array = np.where(rng.random((pairs, dim)) < 0.5, -sizes, sizes)
    return half


@lru_cache(maxsize=32)
def fixed_draws(block: int, pairs: int, dim: int) -> Array:
    """The draws of a block, (2 pairs, dim), read-only."""
    return shown(_pairs(block, pairs, dim))


def _radial_group(dim: int, rng: np.random.Generator) -> Array:
    """The draws of one group, (blocks, 2 dim, dim): ± r q_k, q_k orthonormal, r² stratified over blocks."""
    from scipy.special import gammaincinv

    blocks = -(-max(_LEAST_DRAWS, _DRAWS_EACH * dim) // (2 * dim * GROUPS))
    axes = np.linalg.qr(rng.standard_normal((blocks, dim, dim)))[0].swapaxes(1, 2)
    uniform = (rng.permutation(blocks) + rng.random(blocks)) / blocks
    radius = np.sqrt(2.0 * gammaincinv(0.5 * dim + 1.0, uniform))
    half = axes * radius[:, None, None]
    return np.ascontiguousarray(np.concatenate([half, -half], axis=1))


def _source(rng: Any) -> np.random.Generator:
    """Where fresh draws come from: an integer stands for the same draws in every call."""
    return np.random.default_rng((_SEED, _FRESH, rng)) if isinstance(rng, int) else generator("rng", rng)


def fresh_draws(dim: int, rng: Any = 0) -> Iterable[Array]:
    """Draws that no fit uses, for the stochastic radial rule: `GROUPS` arrays (blocks, 2 dim, dim)."""
    source = _source(rng)
    groups = (_radial_group(dim, source) for _ in range(GROUPS))
    return np.stack(list(groups)) if dim <= _KEPT_DIM else groups


class _Piece(NamedTuple):
    """Some blocks of fresh draws."""

    where: slice  #: which groups they are of
    draws: Array  #: (groups, blocks, 2 dim, dim)
    weights: Array  #: d / r² of each block


def _piece(where: slice, draws: Array) -> _Piece:
    return _Piece(where, draws, draws.shape[3] / (draws[:, :, 0] ** 2).sum(axis=2))


def _pieces(groups: Iterable[Array], at_once: bool) -> Iterator[_Piece]:
    """Of one array all groups, or a block of one half, of the other, and more of all; else single groups."""
    if isinstance(groups, np.ndarray):
        most = groups.shape[1]
        if at_once:
            yield _piece(slice(0, GROUPS), groups)
            return
        for half in (slice(0, GROUPS // 2), slice(GROUPS // 2, GROUPS)):
            yield _piece(half, np.ascontiguousarray(groups[half, :1]))
        for low, high in itertools.pairwise((*_BLOCKS, most)):
            if low < min(high, most):
                yield _piece(slice(0, GROUPS), np.ascontiguousarray(groups[:, low:high]))
        return
    for g, group in enumerate(groups):
        yield _piece(slice(g, g + 1), group[None])


@lru_cache(maxsize=8)
def _kept_pieces(dim: int, seed: int, at_once: bool) -> tuple[_Piece, ...]:
    return tuple(_pieces(fresh_draws(dim, seed), at_once))


def _fresh_pieces(dim: int, rng: Any, at_once: bool) -> Iterable[_Piece]:
    """Fresh draws in pieces; those of an integer are the same in every call, and kept."""
    if isinstance(rng, int) and dim <= _KEPT_DIM:
        return _kept_pieces(dim, rng, at_once)
    return _pieces(fresh_draws(dim, rng), at_once)


def writable(draws: Array) -> Array:
    """The array behind a read-only view: a kernel is compiled once, for writable arrays."""
    return draws.base if draws.base is not None else draws


class DrawsExpectation(NamedTuple):
    """The expectation of the log joint with the log-Jacobian, from fresh draws."""

    value: float
    error: float  #: standard error
    evaluations: int
    status: int = FINE
    where: Any = None  #: z, where the status is a fault of the log joint
    exponentials: int = 0  #: how many were taken off the draws


def _centre(model: Model, mean: Array, factor: Array) -> float:
    """log joint + log-Jacobian at the mean, or near it where that is not finite.

    The rule is unbiased with any constant in its place.
    """
    for shift in _CENTRES:
        one = np.full((1, mean.size), shift / math.sqrt(mean.size))
        point = mean + Gaussian._from_factor(mean, factor)._spread(one)[0]
        status, values, _ = log_densities(model, point[None])
        if status == FINE:
            return float(values[0])
    return 0.0


def expectation_by_draws(
    model: Model,
    mean: Array,
    factor: Array,
    promised: float = -math.inf,
    rng: Any = 0,
    enough: float = 0.0,
) -> DrawsExpectation:
    """E_q[log joint + log-Jacobian] by the stochastic radial rule, which is exact for quadratics.

    A block is a uniform random orthogonal matrix with columns q_k and one r² from χ²(d + 2). Its value is
    f(mean) + d / r² (f̄ - f(mean)), f̄ the average over the 2d points mean ± r L q_k, and unbiased as
    E[1 / r²] = 1 / d. Source: A. Genz, J. Monahan, Stochastic Integration Rules for Infinite Regions, SIAM J.
    Sci. Comput. 19 (1998), the rule of degree 3. The error comes from the groups of blocks, within which r²
    is stratified. Where the log joint falls exponentially in some directions, that is taken off, and its mean
    added. Some blocks of each group are all where its error is not above `enough`, or where it shows already
    that a fit on fixed draws, which found `promised`, was overfitted; half of the groups where the error is
    far below `enough`.
    """
    dim, used, centre, tails = mean.size, 1, 0.0, None
    unseen, compared = 0.0, 0
    sums, blocks = np.zeros(GROUPS), np.zeros(GROUPS)
    for k, (where, draws, weights) in enumerate(_fresh_pieces(dim, rng, model._calls_are_expensive)):
        tasks: list[Any] = [partial(_averaged, model, mean, factor, draws)]
        if k == 0:
            tasks += [partial(_centre, model, mean, factor), partial(_tails, model, mean, factor)]
        (status, values, point), *first = together(model, tasks)
        used += values.size
        if status:
            return DrawsExpectation(_worth(status), 0.0, used, status, point)
        if k == 0:
            centre, (tails, units, steep, more) = first
            centre, used = centre - (float(tails.sizes.sum()) if tails else 0.0), used + more
        if tails:
            values -= tails.at(draws)
        sums[where] += (weights * (values.sum(axis=2) / (2 * dim) - centre)).sum(axis=1)
        blocks[where] += draws.shape[1]
        count = int(np.count_nonzero(blocks))
        if count in (GROUPS // 2, GROUPS):
            known = centre + (tails.mean if tails else 0.0)
            found = (known + sums[:count] / blocks[:count]).tolist()
            value = math.fsum(found) / count
            error = standard_error(found, value) * (_SKEWED if blocks[0] == 1.0 else 1.0)
            error += tails.error if tails else 0.0
            directions = units if error <= _HALF * enough else steep
            if len(directions) > compared:
                unseen, more = beside_quadratics(model, mean, factor, tails, directions)
                used, compared = used + more, len(directions)
            error = math.hypot(error, unseen)
            if count < GROUPS and error <= _HALF * enough:
                break
            if count == GROUPS and (overfitted(promised, value, error) or error <= enough):
                break
    return DrawsExpectation(value, error, used, exponentials=tails.sizes.size if tails else 0)


def _tails(model: Model, mean: Array, factor: Array) -> tuple[Exponentials | None, Array, Array, int]:
    """(`exponentials_in` or None, directions of coordinates, steep ones of these, evaluations).

    There are no directions for a thin factor, and where calls are expensive: there the first has all draws.
    """
    none = np.empty((0, mean.size))
    if len(factor) != mean.size:
        return None, none, none, 0
    found, steep, used = exponentials_in(model, mean, factor)
    tails = found if found.sizes.size else None
    if model._calls_are_expensive:
        return tails, none, none, used
    return tails, directions_of(factor), steep, used


def _averaged(model: Model, mean: Array, factor: Array, draws: Array) -> tuple[int, Array, Any]:
    """(status, log joint + log-Jacobian at mean + L e for all draws e (..., D), the point of a fault)."""
    status, values, _, where = log_densities_at_draws(model, mean, factor, draws.reshape(-1, mean.size))
    return status, values.reshape(draws.shape[:-1]), where


def _worth(status: int) -> float:
    """The expectation of a log joint with this fault."""
    return -math.inf if status == ZERO else math.nan


class Quadratic(NamedTuple):
    """A function -|W e|² / 2 of a draw e ~ N(0, I), near to the log joint, and its mean: known exactly."""

    root: Array  #: W (D, D), or (D,) where it is diagonal

    def at(self, draws: Array) -> Array:
        """Its values."""
        moved = draws * self.root if self.root.ndim == 1 else draws @ self.root.T
        values: Array = -0.5 * (moved * moved).sum(axis=-1)
        return values

    @property
    def mean(self) -> float:
        """Its expectation."""
        return -0.5 * float((self.root * self.root).sum())


def expectation_by_pairs(
    model: Model,
    mean: Array,
    factor: Array,
    promised: float,
    rng: Any,
    enough: float,
    curvature: Array | None = None,
) -> DrawsExpectation:
    """`expectation_by_draws` for many dimensions, by fewer draws than a block of the radial rule has.

    Averages over pairs mean ± L e of the log joint less a quadratic whose mean is known, which takes the
    better part of its variance: 97 % of the deviation in a logistic regression of 200 dimensions. The
    quadratic is that of `curvature`, the root of a covariance, or q's own; which of them, fixed draws
    tell. Each group has 24 pairs, 12 where there is a `curvature`, doubled until the error is not above
    `enough`, or where it shows a fit to be overfitted.
    """
    dim, source = mean.size, _source(rng)
    control, used = _control(model, mean, factor, curvature)
    sums, count = np.zeros(GROUPS), 0
    pairs = _GROUP_PAIRS if curvature is None else _FEWER_PAIRS
    while True:
        each = GROUPS if model._calls_are_expensive else 1  # groups in a call
        for g in range(0, GROUPS, each):
            half = source.standard_normal((each, pairs, dim))
            draws = np.stack([half, -half])
            status, values, where = _averaged(model, mean, factor, draws)
            used += 2 * pairs * each
            if status:
                return DrawsExpectation(_worth(status), 0.0, used, status, where)
            sums[g : g + each] += (values.mean(axis=0) - control.at(half)).sum(axis=1)
        count += pairs
        found = (sums / count + control.mean).tolist()
        value = math.fsum(found) / GROUPS
        error = standard_error(found, value)
        if overfitted(promised, value, error) or error <= enough or count >= dim:
            return DrawsExpectation(value, error, used)
        pairs = count


def _control(model: Model, mean: Array, factor: Array, curvature: Array | None) -> tuple[Quadratic, int]:
    """(the quadratic that is nearest to the log joint on some fixed draws, evaluations).

    At an optimum of the ELBO the mean second derivatives H of the log joint have tr(H Σ) = -D, in every
    family that scales. `curvature` is from a mode, and scaled to that it leaves less: a third of the
    deviation, the median of logistic, Poisson and Bradley-Terry regressions of 80 to 300 dimensions. (Of a
    quadratic log joint it is right as it is, also beside an optimum.)
    """
    dim = mean.size
    own = Quadratic(np.ones(dim))
    if curvature is None:
        return own, 0
    root = Gaussian._from_factor(mean, factor)._spread(np.eye(dim)).T
    with np.errstate(all="ignore"):
        solved: Any = np.linalg.solve(curvature, root)
        scaled = solved * math.sqrt(dim / (solved * solved).sum())
    half = half_of_pairs(np.random.default_rng((_SEED, dim)), _GROUP_PAIRS // 2, dim)
    status, values, _ = _averaged(model, mean, factor, np.stack([half, -half]))
    if status or not np.isfinite(scaled).all():
        return own, values.size
    controls = own, Quadratic(solved), Quadratic(scaled)
    rest = [np.std(values.mean(axis=0) - control.at(half)) for control in controls]
    return controls[int(np.argmin(rest))], values.size


def standard_error(found: Sequence[float], value: float) -> float:
    """Of the mean `value` of normal replicates; (value - truth) / error has a mean square of one."""
    n = len(found)
    return math.hypot(*(x - value for x in found)) / math.sqrt(n * (n - 3)) + _ROUNDING * abs(value)


def overfitted(promised: float, value: float, error: float) -> bool:
    """Whether fresh draws find significantly less than a fit on fixed draws has `promised`."""
    significant = _SIGNIFICANT * error if error <= _VAGUE else min(_SIGNIFICANT_IF_VAGUE * error, _MISSED)
    return bool(promised - value > max(significant, kernels.inference.draws_fits.OPTIMISM))


def latent_mixture(model: Model, q: GaussianMixture | TransformedMixture) -> GaussianMixture:
    """q as a mixture in latent coordinates, of a model with its dimension and support."""
    if isinstance(q, TransformedMixture):
        latent_gaussian(model, q.components[0])
        return q.mixture
    if q.dim != model.dim:
        raise ValueError(f"q has dimension {q.dim}, the model has {model.dim}")
    return q


def mixture_quadrature(model: Model, mixture: GaussianMixture, rtol: float) -> Estimate:
    """The ELBO of a mixture in up to two latent coordinates.

    The entropy by quadrature, and E[log joint] as the sum of those under the components.
    """
    entropy = mixture_entropy(mixture, rtol)
    value, error, nodes, note = entropy.value, entropy.error, entropy.evaluations, ""
    for weight, part in zip(mixture.weights.tolist(), mixture.components, strict=True):
        if weight == 0.0:
            continue
        of = part if model._support.is_real else TransformedGaussian._of(part, model._support)
        found = elbo_estimate(model, of, rtol)
        value += weight * (found.value - part.entropy())
        error, nodes, note = error + weight * found.error, nodes + found.evaluations, found.note
        if found.value == -math.inf:
            break
    return Estimate(value, error, nodes, "quadrature", note=note)


def mixture_expectation(
    model: Model,
    mixture: GaussianMixture,
    rng: Any = 0,
    enough: float = ENOUGH_MIXTURE,
    most: int = _MOST_BLOCKS,
) -> DrawsExpectation:
    """The ELBO of a mixture by fresh draws: Σ_j w_j E_j[log joint - log q], in latent coordinates.

    Each group has pairs m_j ± L_j e of every component, in number by its weight, which is unbiased for any
    number; the groups' spread gives the error. They are doubled until that is small enough, or `most` times.
    """
    weights, means, factors = mixture.weights, mixture._means, mixture._factors
    dim, source = mixture.dim, _source(rng)
    pairs = np.maximum(np.ceil(weights * max(_MIXTURE_PAIRS, dim)).astype(int), _LEAST_MIXTURE_PAIRS)
    sums, blocks, used, block, size = np.zeros(GROUPS), 0, 0, 1, 0.0
    while True:
        for g in range(GROUPS):
            for weight, mean, factor, count in zip(weights, means, factors, block * pairs, strict=True):
                moved = source.standard_normal((count, dim)) @ factor.T
                points = np.concatenate([mean + moved, mean - moved])
                status, values, where = log_densities(model, points)
                used += len(points)
                if status:
                    return DrawsExpectation(_worth(status), 0.0, used, status, where)
                sums[g] += block * weight * float((values - mixture.logpdf(points)).mean())
                size = max(size, float(np.abs(values).max()))
        blocks += block
        found = (sums / blocks).tolist()
        value = math.fsum(found) / GROUPS
        error = standard_error(found, value) * (_SKEWED if blocks == 1 else 1.0)
        error += _ROUNDING * size  # where q is p the differences are rounding
        if error <= enough or blocks >= most:
            return DrawsExpectation(value, error, used)
        block = blocks


def student_expectation(
    model: Model, q: StudentT, rng: Any = 0, enough: float = ENOUGH_MIXTURE, most: int = _MOST_BLOCKS
) -> DrawsExpectation:
    """The ELBO of a t by fresh draws, E[log joint - log q], in latent coordinates.

    The radial rule, as in `expectation_by_draws`: a block is m ± r L v for all axes v of a uniform random
    frame, r stratified over the blocks of a group and weighed, with f(m) as a control: exact where the log
    joint and log q differ by a quadratic. (Plain draws have an infinite variance there with 4 degrees of
    freedom, and errors that are four times too small with 2.5.) They are doubled until the error, from the
    groups' spread and the largest term of a block, is small enough, or `most` times.
    """
    dim, source, far = q.dim, _source(rng), FarRadii(q.df, q.dim)
    centre = _centre(model, q._mean, q._factor) - float(q.logpdf(q._mean))
    blocks = -(-max(_MIXTURE_PAIRS, dim) // dim)
    sums, times, used, block, size, largest = np.zeros(GROUPS), 0, 1, 1, 0.0, 0.0
    while True:
        count = block * blocks
        for g in range(GROUPS):
            axes = np.linalg.qr(source.standard_normal((count, dim, dim)))[0]
            uniform = (source.permutation(count) + source.random(count)) / count
            lengths = far.at(uniform, 1.0 - uniform)
            moved = (lengths[:, None, None] * axes) @ q._factor.T
            points = np.concatenate([q._mean + moved, q._mean - moved], axis=1).reshape(-1, dim)
            status, values, where = log_densities(model, points)
            used += len(points)
            if status:
                return DrawsExpectation(_worth(status), 0.0, used, status, where)
            rest = (values - q.logpdf(points)).reshape(count, -1).mean(axis=1) - centre
            terms = far.weights(lengths) * rest
            sums[g] += terms.sum()
            largest, size = max(largest, float(np.abs(terms).max())), max(size, float(np.abs(values).max()))
        times += block
        found = (centre + sums / (times * blocks)).tolist()
        value = math.fsum(found) / GROUPS
        error = standard_error(found, value) * (_SKEWED if times == 1 else 1.0)
        # What no draw has hit may be as much as the largest term; where q is p there is rounding alone.
        error = math.hypot(error, largest / (GROUPS * times * blocks)) + _ROUNDING * size
        if error <= enough or times >= most:
            return DrawsExpectation(value, error, used)
        block = times


def _mixture_estimate(model: Model, q: Any, rtol: float, rng: Any) -> Estimate:
    """`elbo_estimate` for a mixture."""
    mixture = latent_mixture(model, q)
    if mixture.dim <= QUADRATURE_DIM:
        return mixture_quadrature(model, mixture, rtol)
    value, error, used, status, where, _ = mixture_expectation(model, mixture, rng)
    error += 0.0 if status else mixture_saturation(model, mixture)
    return _estimate(model, status, value, error, used, BY_DRAWS, where)


def _student_estimate(model: Model, q: StudentT, rng: Any) -> Estimate:
    """`elbo_estimate` for a t."""
    if q.dim != model.dim:
        raise ValueError(f"q has dimension {q.dim}, the model has {model.dim}")
    note = _outside(model, q)
    if note:
        return Estimate(-math.inf, 0.0, 0, "closed form", note=note)
    value, error, used, status, where, _ = student_expectation(model, q, rng)
    if status == FINE and q.dim <= QUADRATURE_DIM:
        status, where, more, _ = look_under(model, q, value, error, kernels.inference.gaps.OF_ELBO)
        used += more
    return _estimate(model, status, value, error, used, BY_DRAWS, where)


def mixture_saturation(model: Model, mixture: GaussianMixture) -> float:
    """`saturation.elbo_error` of a mixture."""
    if model._support.is_real:
        return 0.0
    found = [elbo_error(model, *part) for part in zip(mixture._means, mixture._factors, strict=True)]
    return float(mixture.weights @ found)


def elbo_estimate(model: Model, q: Any, rtol: float, rng: Any = 0) -> Estimate:
    """`fastvi.elbo` for a model, a tolerance and a source of draws that have been checked."""
    if isinstance(q, GaussianMixture | TransformedMixture):
        note = _outside(model, q)
        if note:
            return Estimate(-math.inf, 0.0, 0, "closed form", note=note)
        return _mixture_estimate(model, q, rtol, rng)
    if isinstance(q, StudentT):
        return _student_estimate(model, q, rng)
    gaussian = latent_gaussian(model, q)
    note = _outside(model, q)
    if note:
        return Estimate(-math.inf, 0.0, 0, "closed form", note=note)
    if gaussian is None:
        space = workspace("truncated")
        status, value, error, nodes = kernels.inference.entry_points.elbo_truncated(
            target_of(model), q.mu, q.sigma, q.low, q.high, rtol, space
        )
        where = fault_point("truncated", space) if status else None
        if status == FINE:
            status, where, used, _ = look_under(model, q, value, error, kernels.inference.gaps.OF_ELBO)
            nodes += used
        return _estimate(model, status, value, error, nodes, "quadrature", where)
    mean, thin = gaussian._mean, gaussian._thin
    factor = gaussian._factor if thin is None else thin.factor
    if gaussian.dim > QUADRATURE_DIM:
        if gaussian.dim > DRAWS_DIM:
            enough = ENOUGH_EACH * math.sqrt(gaussian.dim)
            found = expectation_by_pairs(model, mean, factor, -math.inf, rng, enough)
        else:
            found = expectation_by_draws(model, mean, factor, rng=rng)
        value, error, nodes, status, where, _ = found
        error += 0.0 if status else elbo_error(model, mean, factor)
        return _estimate(model, status, value + gaussian.entropy(), error, nodes, BY_DRAWS, where)
    grads = np.empty(gaussian.dim), np.empty((gaussian.dim, gaussian.dim))
    status, value, error, nodes, where = _by_quadrature(model, gaussian, rtol, grads)
    error += 0.0 if status else elbo_error(model, mean, factor)
    return _estimate(model, status, value, error, nodes, "quadrature", where)


def _by_quadrature(model: Model, q: Gaussian, rtol: float, gradients: tuple[Array, Array]) -> Any:
    """(status, ELBO, its error, evaluations, the point of a fault); its gradients are written."""
    space = lattice_space(model)
    status, value, error, nodes, _ = kernels.inference.entry_points.elbo_quadrature(
        target_of(model), q._mean, q._factor, rtol, space, *gradients
    )
    where = fault_point("fit", space) if status else None
    if status == FINE:
        status, where, used, more = look_under(model, q, value, error, kernels.inference.gaps.OF_ELBO)
        nodes, error = nodes + used, error + more
    if status == UNRESOLVED:
        status = FINE
    return status, value, error, nodes, where


def _estimate(
    model: Model, status: int, value: float, error: float, nodes: int, method: str, where: Any
) -> Estimate:
    """An ELBO that a kernel returned; -inf with a note where the log joint is -inf."""
    if status == FINE:
        return Estimate(value, error, nodes, method, note=model._note)
    if status == ZERO:
        return Estimate(-math.inf, 0.0, nodes, method, note=words(model, status, where))
    raise error_of(model, status, where)


@interruptible(is_long)
def elbo(model: Model, q: Variational, *, rtol: float = 1e-10, rng: Any = 0) -> Estimate:
    r"""The evidence lower bound of q, with its error.

    .. math:: \mathrm{ELBO}(q) = E_q[\log p(x, z)] + H(q) = -\mathrm{KL}(q \,\|\, p(x, z)) \le \log p(x)

    Parameters
    ----------
    model : Model
    q : Gaussian, TransformedGaussian, TruncatedGaussian, GaussianMixture, TransformedMixture or StudentT
        A Gaussian, a GaussianMixture and a StudentT live in the model's own coordinates.
    rtol : float, optional
        Error wanted of the quadrature, relative to 1 + abs(ELBO).
    rng : numpy.random.Generator, int or None, optional
        For the draws in more than two latent dimensions. An integer (default) gives the same draws in every
        call; None others each time.

    Returns
    -------
    Estimate
        In nats. Up to two latent dimensions: the trapezoid rule in coordinates whitened on q, whose step is
        halved until two successive values agree. More: the stochastic radial rule on max(1024, 48 R) draws,
        which is exact for a quadratic log joint, and `error` is the standard error. More than 1000: 576
        draws beside a quadratic, doubled until the standard error is below 0.005 sqrt(R). Of a mixture, up to
        two: its entropy by quadrature, and the log joint by components; more: pairs of draws of each
        component, 2304 at least, doubled until the standard error is below 0.003, at most 16 times; so too
        draws of a t, in any number of dimensions. Where q
        has mass outside of the support, or where the log joint is -inf, the value is -inf and `note` says why
        and what helps.

    Raises
    ------
    TypeError
        A model that is not a Model; a q of another kind.
    ValueError
        A q of another dimension or with another support; a log joint that is NaN or +inf, or that raises: the
        message has the z.

    Notes
    -----
    On a line a bump between the nodes shows by 1601 points, down to a width of 0.002 of q's deviations; the
    error has it then, but not under a TruncatedGaussian. In the plane a disc where the log joint jumps may
    lie between all nodes if its radius is below a quarter of q's deviations; no error shows it then. Where
    the log joint is -inf in it, or in a slab, more points are looked at, on a line as well, and smaller ones
    are found: slabs down to a hundredth of the deviations, and most discs down to a radius of a tenth. The
    error is inf where up to two latent dimensions the log joint outgrows q from 10 to 36 of its deviations
    out, as -exp(exp(z)) does: its mean may be -inf. Averages over draws do not tell.

    References
    ----------
    D. M. Blei, A. Kucukelbir, J. D. McAuliffe, Variational Inference: A Review for Statisticians, JASA 112
    (2017), eq. 13. Radial rule: A. Genz, J. Monahan, SIAM J. Sci. Comput. 19 (1998).

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> def log_joint(z, x):                         # p(z) = exp(-z), p(x | z) = N(x | z, 1)
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
    >>> round(fv.elbo(fv.Model(log_joint, 1, data=(5.0,)), fv.Gaussian(3.0, 1.0)).value, 10)
    -5.0
    """
    checked_model(model)
    source = integer("rng", rng, 0) if isinstance(rng, int | np.integer) else generator("rng", rng)
    return elbo_estimate(model, q, tolerance(rtol), source)


class Gradient(NamedTuple):
    """The ELBO in nats and its gradient in latent coordinates, where q is Gaussian.

    Attributes
    ----------
    value : float
    mean : ndarray, shape (R,)
        The gradient in the mean.
    cholesky : ndarray, shape (R, R)
        The gradient in the Cholesky factor, lower triangle.
    """

    value: float
    mean: Array
    cholesky: Array

    def __reduce__(self) -> tuple[Any, ...]:
        return frozen_fields, (Gradient, *self)


@interruptible(is_long)
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
        (value, mean, cholesky). Up to two latent dimensions from the values of the log joint alone (Stein's
        identity: expectations of the log joint times Hermite polynomials). More: from max(4R, 256) fixed
        draws, with the model's own gradient or central differences.

    Raises
    ------
    TypeError
        As in `elbo`; a TruncatedGaussian.
    ValueError
        As in `elbo`; a q that has mass where the joint is zero, also in a gap that `elbo` finds.

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
    checked_model(model)
    wanted = tolerance(rtol)
    gaussian = latent_gaussian(model, q)
    if gaussian is None:
        raise TypeError("q must be a Gaussian or a TransformedGaussian, not TruncatedGaussian")
    note = _outside(model, q)
    if note:
        raise ValueError(note)
    dim = gaussian.dim
    mean, factor = gaussian._mean, gaussian._factor
    grads = np.empty(dim), np.empty((dim, dim))
    if dim <= QUADRATURE_DIM:
        status, value, *_, where = _by_quadrature(model, gaussian, wanted, grads)
    else:
        space = workspace("draws", FULL, dim, model.dim)
        scale = conditional_deviations(factor)
        draws = writable(fixed_draws(0, max(_BLOCK_PAIRS, 2 * dim), dim))
        status, value = kernels.inference.entry_points.elbo_draws(
            target_of(model, gradient=True), draws, mean, factor, scale, space, *grads
        )
        where = fault_point("draws", space) if status else None
    if where is not None:
        raise error_of(model, status, where)
    return frozen_fields(Gradient, float(value), *grads)  # type: ignore[no-any-return]
