r"""I-projections of a mixture p onto mixtures q of k Gaussians.

-KL(q ‖ p) is the ELBO of q for the log joint log p. L-BFGS raises it on fixed points under each component of
q, from several starts: sets of k Gaussians, chosen among the components of p, what Runnalls' merges make of
them, and the I-projections onto one Gaussian. For given Gaussians KL(q ‖ p) is convex in the weights, and

.. math:: w_j \leftarrow w_j \exp(-E_j[\log q - \log p])

lowers it; where the Gaussians do not overlap, one such step is exact, w_j ∝ exp(-KL(N_j ‖ p)).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common import scratch
from ..common.values import Array
from ..distributions.ascent import Parts, normalised, scores_of
from ..distributions.gaussian import Gaussian
from ..distributions.integrals import LEAST_RTOL, QUADRATURE_DIM, Estimate, normal_points
from ..distributions.kl_and_entropy import kl_estimate
from ..distributions.mixture import GaussianMixture
from ..kernels import borrowing
from ..kernels.densities.gaussians import LOG_2PI
from ..kernels.families.table import FULL
from ..kernels.projections import mixture_optima as polishing
from ..kernels.statuses import (
    CONVERGED,
    NOT_A_MINIMUM,
    NOT_REFINED,
    OVERFITTED,
    UNRESOLVED,
)
from .gaussian_optima import listed_starts, mixture_optima
from .reduction import Frame, as_mixture, greedy_merges, run
from .result import Projection

#: Lattices (step, reach) under each component of q: to choose starts, and the levels of the descents.
_ROUGH = {1: (0.5, 4.0), 2: (0.8, 3.5), 3: (1.1, 3.3)}
_LEVELS = dict(enumerate(polishing.LEVELS.tolist(), 1))

#: Pairs of draws in more dimensions: to choose starts, and the levels of the descents.
_ROUGH_PAIRS, _LEVEL_PAIRS = 32, (128, 512, 2048, 8192)

#: The first scrambled net that `kl_estimate` does not use.
_REPLICATE = 1000

#: Candidates for components of q, and components of p up to which its I-projections onto one Gaussian are
#: among them.
_CANDIDATES, _FEW_COMPONENTS = 48, 24

#: Tolerance of these I-projections, and decimals in which equal candidates agree, in the frame of p.
_CANDIDATE_RTOL, _DECIMALS = 1e-4, 6

#: A candidate is left out whose KL from a better one is below this, in nats.
_NEAR = 0.02

#: Random partitions of p's components that are starts, and their seed.
_PARTITIONS, _SEED = 6, 20251128

#: Sets of candidates that are kept while they grow, steps for their weights, and sets that are starts.
_BEAM, _WEIGHT_STEPS, _STARTS = 8, 4, 10

#: Most steps of a descent, the level of those that are followed, how many are followed so far, and how many
#: to the end.
_MOST_STEPS, _BASE, _FOLLOWED, _OPTIMA = polishing.MOST_STEPS, polishing.BASE, 10, 4

#: The most densities of components at nodes of an evaluation: each takes as long as so many of the entries by
#: which `run` estimates.
_MOST_WORK, _ENTRIES = polishing.MOST_WORK, 20.0

#: Densities of an evaluation on the level `_BASE` above which optima that are far above the best are not
#: refined: each would take seconds.
_LONG = 500_000

#: How far above the best, as a ratio of divergences, that is: descents on finer nodes lowered none of 27
#: optima by more than a twelfth. And the tolerance of these divergences.
_FAR, _FAR_RTOL = 1.15, 1e-3

#: Share of `rtol` for what a descent on the last levels lacks, and for the error of a divergence.
_SHARE = 0.1

#: Least tolerance of a divergence in nats, and least relative one on draws.
_LEAST_LACK, _DRAWS_RTOL = 1e-12, 2e-3

#: No matrix of units: the coordinates themselves.
_PLAIN = np.empty((0, 0))

#: Descents to a component of less weight are left out: it spreads or shrinks without end.
_VANISHED = 1e-9

#: Optima are the same where means differ by less in deviations, weights by less, logarithms of deviations.
_SAME = 0.02


@lru_cache(maxsize=16)
def _nodes(dim: int, level: int) -> tuple[Array, Array]:
    """(nodes (D, S), weights) of a level; of the starts at -1: in many dimensions pairs of draws +e, -e.

    Their second moments are exactly one.
    """
    if dim <= QUADRATURE_DIM:
        return polishing.lattice(dim, *(_LEVELS[dim][level] if level >= 0 else _ROUGH[dim]))  # type: ignore[no-any-return]
    count = max(_LEVEL_PAIRS[level] if level >= 0 else _ROUGH_PAIRS, 1 << (2 * dim).bit_length())
    half = normal_points(_REPLICATE + level, dim, count)[1].T
    half = np.linalg.solve(np.linalg.cholesky(half @ half.T / count), half)
    return np.concatenate([half, -half], axis=1), np.full(2 * count, 0.5 / count)


@lru_cache(maxsize=16)
def _table(dim: int, last: int) -> tuple[Array, Array, NDArray[np.int64]]:
    """(nodes, weights, ends) of the levels from `_BASE` to the last one, as kernels take them."""
    nodes, weights = zip(*(_nodes(dim, level) for level in range(_BASE, last + 1)), strict=True)
    ends = np.cumsum([0, *(part.size for part in weights)])
    return np.concatenate([part.ravel() for part in nodes]), np.concatenate(weights), ends


class _Optimum(NamedTuple):
    """Where descents end."""

    parts: Parts
    value: float  #: KL(q ‖ p) on the nodes
    norm: float  #: of the gradient
    status: int


class _End(NamedTuple):
    """Where a descent ends: the divergence on its nodes, and what it lacks by its gradient."""

    parts: Parts
    value: float
    lack: float


class Descents:
    """Descents of KL(q ‖ p) for mixtures q of k Gaussians, in a frame where p has mean 0 and covariance I."""

    def __init__(self, frame: Frame, count: int, rtol: float) -> None:
        self.target = Parts(frame.logs, frame.means, frame.factors)
        self.frame, self.count, self.dim = frame, count, frame.means.shape[1]
        self.rtol = rtol if self.dim <= QUADRATURE_DIM else max(rtol, _DRAWS_RTOL)
        self.size = count * (1 + self.dim + self.dim * (self.dim + 1) // 2)
        self.levels = len(_LEVELS[self.dim] if self.dim <= QUADRATURE_DIM else _LEVEL_PAIRS)
        self.room = kernels.projections.mixture_descents
        self.space = scratch.space(self.room.workspace, len(frame.logs), count, self.dim)
        self.finest = _BASE
        while self.finest + 1 < self.levels and self.work(self.finest + 1) <= _MOST_WORK:
            self.finest += 1
        self.is_long = self.work(_BASE) > _LONG
        self.evaluations = 0

    def nodes(self, level: int) -> tuple[Array, Array]:
        """(nodes (D, S), weights) of a level; of the starts at -1."""
        return _nodes(self.dim, level)

    # Starts.

    def candidates(self) -> Parts:
        """Gaussians that may be components of q; their weights are not used."""
        components = len(self.target.logs)
        heavy = np.argsort(-self.target.logs, kind="stable")[:_CANDIDATES]
        means, factors = [self.target.means[heavy]], [self.target.factors[heavy]]
        for count in range(1, min(components, _CANDIDATES)):
            try:
                (_, merged, roots), _ = greedy_merges(self.frame, count, "runnalls")
            except ValueError:
                continue
            means.append(merged)
            factors.append(roots)
        if self.dim <= QUADRATURE_DIM and components <= _FEW_COMPONENTS:
            alone = mixture_optima(GaussianMixture._from_factors(*self.target), FULL, None, _CANDIDATE_RTOL)
            means.append(np.stack([found.q._mean for found in alone.optima]))
            factors.append(np.stack([found.q._factor for found in alone.optima]))
        one = np.concatenate(means)
        two = np.concatenate(factors)
        _, first = np.unique(
            np.concatenate([one, two.reshape(len(one), -1)], axis=1).round(_DECIMALS),
            axis=0,
            return_index=True,
        )
        return Parts(np.zeros(len(first)), one[np.sort(first)], two[np.sort(first)])

    def starts(self) -> list[Parts]:
        """The best sets of candidates, which a beam search finds, with their weights."""
        pool = self.candidates()
        nodes, shares = self.nodes(-1)
        points = (pool.means[:, None, :] + pool.spread(nodes.T)).reshape(-1, self.dim)
        log_p = scores_of(self.target, points).log_q.reshape(len(pool.means), -1)
        own = _component_logs(pool, points).reshape(len(pool.means), len(pool.means), -1)
        alone = (np.diagonal(own).T - log_p) @ shares
        keep = self.apart(alone, own, shares)
        pool = Parts(pool.logs[keep], pool.means[keep], pool.factors[keep])
        own, log_p = own[np.ix_(keep, keep)], log_p[keep]
        sets = [(float(alone[keep[j]]), (j,), np.zeros(1)) for j in range(len(keep))][:_BEAM]
        if len(keep) < self.count:
            sets = []
        for _ in range(1, self.count):
            grown = {}
            for _, chosen, _ in sets:
                for value, others, logs in _with_another(chosen, own, log_p, shares):
                    grown[tuple(sorted(others))] = value, others, logs
            sets = sorted(grown.values(), key=lambda found: found[0])[: max(_BEAM, _STARTS)]
        found = [
            normalised(logs, pool.means[list(chosen)], pool.factors[list(chosen)])
            for _, chosen, logs in sets[:_STARTS]
        ]
        rng = np.random.default_rng(_SEED)
        for _ in range(_PARTITIONS):
            with suppress(np.linalg.LinAlgError):  # components too narrow to be merged
                found.append(self.partition(rng))
        with suppress(ValueError):
            (weights, means, factors), _ = greedy_merges(self.frame, self.count, "runnalls")
            found.append(normalised(np.log(weights), means, factors))
        return found

    @staticmethod
    def apart(alone: Array, own: Array, shares: Array) -> Array:
        """The candidates that are not near a better one."""
        near = (np.diagonal(own).T[:, None, :] - own.swapaxes(0, 1)) @ shares < _NEAR
        keep: list[int] = []
        for j in np.argsort(alone, kind="stable"):
            if not near[j, keep].any() and len(keep) < _CANDIDATES:
                keep.append(int(j))
        return np.array(keep)

    def partition(self, rng: np.random.Generator) -> Parts:
        """The components of p merged in groups at random."""
        weights, means, factors = self.target.weights, self.target.means, self.target.factors
        order = rng.permutation(len(weights))
        groups = np.append(np.arange(self.count), rng.integers(self.count, size=len(order) - self.count))
        parts = []
        for g in range(self.count):
            one = order[groups == g]
            share = weights[one] / weights[one].sum()
            mean = share @ means[one]
            roots = np.concatenate([factors[one], (means[one] - mean)[:, :, None]], axis=2)
            cov = np.einsum("k,kij,klj->il", share, roots, roots)
            parts.append((math.log(weights[one].sum()), mean, np.linalg.cholesky(cov)))
        return normalised(*(np.stack(part) for part in zip(*parts, strict=True)))

    # Descents.

    def descend(
        self,
        parts: Parts,
        level: int,
        steps: int,
        share: float,
        unit: Array = _PLAIN,
        far: float = math.inf,
    ) -> _End:
        """The end of a descent, which lacks this share of the divergence.

        In coordinates that are renewed, or x = unit y. It ends early where it is not on its way below `far`.
        """
        nodes, weights = self.nodes(level)
        q = Parts(*map(np.array, parts))
        arguments = tuple(self.target), tuple(q), nodes, weights, unit, steps, share, far, self.space
        value, lack, evaluations, _ = run(
            partial(self.room.descend, *arguments), _ENTRIES * self.work(level), max(steps, 1), self.stop
        )
        self.evaluations += evaluations * self.count * weights.size
        return _End(q, value, lack)

    def stop(self) -> None:
        """End a descent from another thread."""
        borrowing.member(self.room.Workspace, self.space, "control")[0] = 1

    def polished(self, parts: Parts) -> _Optimum:
        """The optimum near a mixture, on nodes so fine that finer ones make no difference."""
        q = Parts(*map(np.array, parts))
        space = scratch.space(polishing.workspace, len(self.target.logs), self.count, self.dim)

        def stop() -> None:
            borrowing.member(polishing.Workspace, space, "descent.control")[0] = 1

        arguments = tuple(self.target), tuple(q), _table(self.dim, self.finest), _MOST_STEPS, self.rtol, space
        entries = _ENTRIES * self.work(self.finest)
        value, norm, status, evaluations = run(
            partial(polishing.polish, *arguments), entries, max(_MOST_STEPS, 1), stop
        )
        self.evaluations += evaluations
        return _Optimum(q, value, norm, status)

    def unrefined(self, parts: Parts) -> _Optimum:
        """A mixture as it was found, with the gradient on the next finer nodes."""
        value, slope = self.gradient(parts, _BASE + 1)
        return _Optimum(parts, value, float(np.linalg.norm(slope)), NOT_REFINED)

    def work(self, level: int) -> int:
        """Densities of components at nodes that an evaluation takes."""
        return int(self.nodes(level)[1].size * self.count * (self.count + len(self.target.logs)))

    def gradient(self, parts: Parts, level: int) -> tuple[float, Array]:
        """(KL(q ‖ p), its gradient) on the nodes of a level."""
        nodes, weights = self.nodes(level)
        slope, origin = np.full(self.size, math.nan), np.zeros(self.size)
        self.evaluations += self.count * weights.size
        value = self.room.gradient_at(
            tuple(self.target), tuple(parts), nodes, weights, origin, slope, self.space
        )
        return value, slope

    def mixture(self, parts: Parts) -> GaussianMixture:
        """The mixture in the coordinates of p, the heaviest component first."""
        order = np.argsort(-parts.logs, kind="stable")
        return self.frame.mixture((parts.weights[order], parts.means[order], parts.factors[order]))

    def ends(self, starts: Sequence[Parts]) -> list[Parts]:
        """Where descents on coarse nodes end that are followed further, best first."""
        first = self.distinct(starts, 0, polishing.FIRST_STEPS, polishing.FIRST_SHARE)[:_FOLLOWED]
        return self.distinct(first, _BASE, _MOST_STEPS, polishing.BASE_SHARE)[:_OPTIMA]

    def distinct(self, starts: Sequence[Parts], level: int, steps: int, share: float) -> list[Parts]:
        """Where descents from the starts end, the best first, each once."""
        ends: list[tuple[bool, float, Parts]] = []
        far = math.inf
        for start in starts:
            parts, value, _ = self.descend(start, level, steps, share, far=far)
            if value < math.inf and not any(_are_same(parts, other) for *_, other in ends):
                ends.append((bool(parts.weights.min() < _VANISHED), value, parts))
                if self.is_long and level == _BASE:
                    far = _FAR * min((value for vanished, value, _ in ends if not vanished), default=math.inf)
        ends.sort(key=lambda end: end[:2])
        kept = [end for end in ends if not end[0]] or ends[:1]
        return [parts for *_, parts in kept]


def _component_logs(parts: Parts, points: Array) -> Array:
    """Log densities of the components (K, N)."""
    dim = points.shape[1]
    inverses = np.linalg.inv(parts.factors)
    found = np.empty((len(parts.means), len(points)))
    for k, (mean, inverse) in enumerate(zip(parts.means, inverses, strict=True)):
        whitened = (points - mean) @ inverse.T
        found[k] = -0.5 * (whitened**2).sum(axis=1) + np.log(np.diag(inverse)).sum()
    found -= 0.5 * dim * LOG_2PI
    return found


def _with_another(chosen: tuple[int, ...], own: Array, log_p: Array, shares: Array) -> list[Any]:
    """(KL, set, log weights) of a set of candidates with each of the others, with the best weights."""
    others = [j for j in range(len(own)) if j not in chosen]
    rows = np.array([[*chosen, j] for j in others])
    logs = np.full(rows.shape, -math.log(rows.shape[1]))
    # [c, i, j, s]: log density of the j-th component at the points of the i-th.
    inner = own[rows[:, None, :], rows[:, :, None]]
    p = log_p[rows]
    for _ in range(_WEIGHT_STEPS + 1):
        terms = inner + logs[:, None, :, None]
        top = terms.max(axis=2)
        log_q = top + np.log(np.exp(terms - top[:, :, None, :]).sum(axis=2))
        excess = (log_q - p) @ shares
        values, before = (np.exp(logs) * excess).sum(axis=1), logs
        logs = logs - excess
        logs = logs - np.logaddexp.reduce(logs, axis=1)[:, None]
    return list(zip(values.tolist(), map(tuple, rows.tolist()), before, strict=True))


def _are_same(one: Parts, two: Parts) -> bool:
    """Whether two mixtures have the same components, in any order."""
    if len(one.logs) != len(two.logs):
        return False
    free = list(range(len(two.logs)))
    for weight, mean, factor in zip(one.weights, one.means, one.factors, strict=True):
        for j in free:
            scale = np.sqrt((factor**2).sum(axis=1))
            near = np.abs(mean - two.means[j]) / scale < _SAME
            other = np.abs(factor - two.factors[j]) / scale[:, None] < _SAME
            if near.all() and other.all() and abs(weight - math.exp(two.logs[j])) < _SAME:
                free.remove(j)
                break
        else:
            return False
    return True


def _checked(starts: Any, count: int, dim: int) -> list[GaussianMixture]:
    """Mixtures to start from."""
    mixtures: list[GaussianMixture] = listed_starts(starts, GaussianMixture, "mixtures", dim)
    for k, start in enumerate(mixtures):
        components = np.count_nonzero(start.weights)
        if components != count:
            raise ValueError(f"starts[{k}] has {components} components with a weight, not {count}")
    return mixtures


def optima_of_mixtures(p: GaussianMixture, count: int, starts: Any, rtol: float) -> Projection:
    """The I-projection of a mixture onto mixtures of so many Gaussians."""
    given = None if starts is None else _checked(starts, count, p.dim)
    if np.count_nonzero(p.weights) <= count:
        return Projection(p, Estimate(0.0, 0.0, 0, "closed form"))
    if count == 1 and p.dim <= QUADRATURE_DIM:
        alone = (
            None
            if given is None
            else [mixture.components[int(mixture.weights.argmax())] for mixture in given]
        )
        best, *others = (_as_mixtures(found) for found in mixture_optima(p, FULL, alone, rtol).optima)
        return best._with(others)
    descents = Descents(Frame(p), count, rtol)
    begin = descents.starts() if given is None else [descents.frame.parts(mixture) for mixture in given]
    found = []
    with np.errstate(all="ignore"):  # steps that go too far are halved
        optima = list(_optima(descents, p, descents.ends(begin), rtol))
    for optimum, q, estimate in optima:
        status, wanted = optimum.status, max(rtol * estimate.value, _LEAST_LACK)
        if p.dim <= QUADRATURE_DIM and status in (CONVERGED, OVERFITTED) and estimate.error > wanted:
            status = UNRESOLVED
        found.append(Projection(q, estimate, optimum.norm, status, descents.evaluations))
    found.sort(key=lambda projection: projection.kl)
    return found[0]._with([other for other in found[1:] if other._status != NOT_A_MINIMUM])


def _optima(
    descents: Descents, p: GaussianMixture, ends: list[Parts], rtol: float
) -> Iterator[tuple[_Optimum, GaussianMixture, Estimate]]:
    """The optima near the ends of descents, as mixtures in the coordinates of p, and their divergences."""
    optima: list[_Optimum] = []
    far = math.inf
    for parts in ends:
        if far < math.inf and descents.is_long:
            q = descents.mixture(parts)
            rough = kl_estimate(q, p, rtol=_FAR_RTOL)
            # Both: coarse nodes that promise much less than there is have misled the descent.
            if min(rough.value - rough.error, descents.gradient(parts, _BASE)[0]) > far:
                yield descents.unrefined(parts), q, rough
                continue
        optimum = descents.polished(parts)
        if any(_are_same(optimum.parts, other.parts) for other in optima):
            continue
        optima.append(optimum)
        q = descents.mixture(optimum.parts)
        estimate = kl_estimate(q, p, rtol=max(_SHARE * rtol, LEAST_RTOL))
        far = min(far, _FAR * estimate.value)
        yield optimum, q, estimate


def _as_mixtures(found: Projection) -> Projection:
    """A projection onto one Gaussian, as one onto mixtures."""
    q: Gaussian = found.q
    return Projection(as_mixture(q), found.estimate, found.gradient_norm, found._status, found.evaluations)
