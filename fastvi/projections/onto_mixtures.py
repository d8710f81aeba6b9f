"""I-projections of a mixture p onto mixtures q of k Gaussians.

-KL(q ‖ p) is the ELBO of q for the log joint log p. L-BFGS raises it on fixed points under each component of
q, from several starts, which `kernels.projections.mixture_starts` finds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common import scratch
from ..common.values import Array
from ..distributions.ascent import Parts
from ..distributions.gaussian import Gaussian
from ..distributions.integrals import LEAST_RTOL, QUADRATURE_DIM, Estimate, normal_points
from ..distributions.kl_and_entropy import kl_estimate
from ..distributions.mixture import GaussianMixture
from ..kernels import borrowing
from ..kernels.families.table import FULL
from ..kernels.projections import mixture_optima as polishing
from ..kernels.projections import mixture_starts as starting
from ..kernels.statuses import (
    CONVERGED,
    NOT_A_MINIMUM,
    NOT_FINITE,
    NOT_REFINED,
    OVERFITTED,
    UNRESOLVED,
)
from .gaussian_optima import listed_starts, mixture_optima
from .reduction import Frame, as_mixture, run
from .result import Projection

#: Lattices (step, reach) under each component of q: the levels of the descents, for each dimension.
_LEVELS = dict(enumerate(polishing.LEVELS.tolist(), 1))

#: Pairs of draws in more dimensions: to choose starts, and the levels of the descents.
_ROUGH_PAIRS, _LEVEL_PAIRS = 32, (128, 512, 2048, 8192)

#: The first scrambled net that `kl_estimate` does not use.
_REPLICATE = 1000

#: Most steps of a descent, the level of those that are followed, how many are followed so far, and how many
#: to the end.
_MOST_STEPS, _BASE, _FOLLOWED, _OPTIMA = (
    polishing.MOST_STEPS,
    polishing.BASE,
    polishing.FOLLOWED,
    polishing.OPTIMA,
)

#: The most densities of components at nodes of an evaluation: each takes as long as so many of the entries by
#: which `run` estimates.
_MOST_WORK, _ENTRIES = polishing.MOST_WORK, 20.0

#: Densities of an evaluation on the level `_BASE` above which optima that are far above the best are not
#: refined, how far, as a ratio of divergences, that is, and the tolerance of these divergences.
_LONG, _FAR, _FAR_RTOL = polishing.LONG, polishing.FAR, polishing.FAR_RTOL

#: Share of `rtol` for what a descent on the last levels lacks, and for the error of a divergence.
_SHARE = polishing.SHARE

#: Least tolerance of a divergence in nats, and least relative one on draws.
_LEAST_LACK, _DRAWS_RTOL = 1e-12, 2e-3

#: No matrix of units: the coordinates themselves.
_PLAIN = np.empty((0, 0))


@lru_cache(maxsize=16)
def _nodes(dim: int, level: int) -> tuple[Array, Array]:
    """(nodes (D, S), weights) of a level; of the starts at -1: in many dimensions pairs of draws +e, -e.

    Their second moments are exactly one.
    """
    if dim <= QUADRATURE_DIM:
        return polishing.lattice(dim, *(_LEVELS[dim][level] if level >= 0 else starting.ROUGH[dim - 1]))  # type: ignore[no-any-return]
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


def _empty(many: int, count: int, dim: int) -> Parts:
    """Room for so many mixtures."""
    return Parts(np.empty((many, count)), np.empty((many, count, dim)), np.empty((many, count, dim, dim)))


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

    def starts(self) -> Parts:
        """Mixtures from which descents start."""
        components, (nodes, shares) = len(self.target.logs), self.nodes(-1)
        alone = np.empty((0, self.dim)), np.empty((0, self.dim, self.dim))
        if self.dim <= QUADRATURE_DIM and components <= starting.FEW_COMPONENTS:
            p = GaussianMixture._from_factors(*self.target)
            found = [one.q for one in mixture_optima(p, FULL, None, starting.CANDIDATE_RTOL).optima]
            alone = np.stack([q._mean for q in found]), np.stack([q._factor for q in found])
        out = _empty(starting.MOST, self.count, self.dim)
        space = scratch.space(starting.workspace, components, self.count, self.dim, shares.size)
        merges = scratch.space(kernels.projections.reductions.workspace, components, self.dim)

        def stop() -> None:
            borrowing.member(starting.Workspace, space, "control")[0] = 1

        arguments = tuple(self.target), alone, nodes, shares, tuple(out), space, merges
        entries = _ENTRIES * starting.CANDIDATES * self.count**3 * shares.size
        number = run(partial(starting.starts, *arguments), entries, starting.BEAM, stop)
        return Parts(*(part[:number] for part in out))

    # Descents.

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

    def ends(self, starts: Parts) -> Parts:
        """Where descents on coarse nodes end that are followed further, best first."""
        first, _ = self.follow(starts, 0, polishing.FIRST_STEPS, polishing.FIRST_SHARE)
        far = _FAR if self.is_long else math.inf
        first = Parts(*(part[:_FOLLOWED] for part in first))
        ends, _ = self.follow(first, _BASE, _MOST_STEPS, polishing.BASE_SHARE, far)
        return Parts(*(part[:_OPTIMA] for part in ends))

    def follow(
        self, starts: Parts, level: int, steps: int, share: float, far: float = math.inf
    ) -> tuple[Parts, Array]:
        """Where descents from the starts end, the best first, each once, and their divergences.

        They lack this share of it; those that do not come below the best one times `far` end early.
        """
        nodes, weights = self.nodes(level)
        ends, values = Parts(*map(np.array, starts)), np.empty(len(starts.logs))
        arguments = (
            tuple(self.target),
            tuple(ends),
            values,
            nodes,
            weights,
            _PLAIN,
            steps,
            share,
            far,
            self.space,
        )
        entries = _ENTRIES * self.work(level) * len(values)
        count, evaluations = run(partial(self.room.follow, *arguments), entries, max(steps, 1), self.stop)
        self.evaluations += evaluations * self.count * weights.size
        return Parts(*(part[:count] for part in ends)), values[:count]


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
    if given is None:
        begin = descents.starts()
    else:
        begin = Parts(*map(np.stack, zip(*(descents.frame.parts(mixture) for mixture in given), strict=True)))
    found = []
    with np.errstate(all="ignore"):  # steps that go too far are halved
        ends = descents.ends(begin)
        if not len(ends.logs):  # all descents ran off
            ends = Parts(*(part[:1] for part in begin))
        optima = list(_optima(descents, p, ends, rtol))
    for optimum, q, estimate in optima:
        status, wanted = optimum.status, max(rtol * estimate.value, _LEAST_LACK)
        if p.dim <= QUADRATURE_DIM and status in (CONVERGED, OVERFITTED) and estimate.error > wanted:
            status = UNRESOLVED
        found.append(Projection(q, estimate, optimum.norm, status, descents.evaluations))
    found.sort(key=lambda projection: projection.kl)
    return found[0]._with([other for other in found[1:] if other._status != NOT_A_MINIMUM])


def _optima(
    descents: Descents, p: GaussianMixture, ends: Parts, rtol: float
) -> Iterator[tuple[_Optimum, GaussianMixture, Estimate]]:
    """The optima near the ends of descents, as mixtures in the coordinates of p, and their divergences.

    A component without weight may run off on finer nodes: such an end is left out, unless there is no other.
    """
    optima: list[_Optimum] = []
    lost: Parts | None = None
    far = math.inf
    taken = np.empty(descents.count)
    for parts in map(Parts, *ends):
        if far < math.inf and descents.is_long:
            q = descents.mixture(parts)
            rough = kl_estimate(q, p, rtol=_FAR_RTOL)
            # Both: coarse nodes that promise much less than there is have misled the descent.
            if min(rough.value - rough.error, descents.gradient(parts, _BASE)[0]) > far:
                yield descents.unrefined(parts), q, rough
                continue
        optimum = descents.polished(parts)
        if not optimum.value < math.inf:
            lost = parts if lost is None else lost
            continue
        same = descents.room.are_same
        if any(same(tuple(optimum.parts), tuple(other.parts), taken) for other in optima):
            continue
        optima.append(optimum)
        q = descents.mixture(optimum.parts)
        estimate = kl_estimate(q, p, rtol=max(_SHARE * rtol, LEAST_RTOL))
        far = min(far, _FAR * estimate.value)
        yield optimum, q, estimate
    if lost is not None and not optima:
        q = descents.mixture(lost)
        yield _Optimum(lost, math.inf, math.nan, NOT_FINITE), q, kl_estimate(q, p, rtol=_FAR_RTOL)


def _as_mixtures(found: Projection) -> Projection:
    """A projection onto one Gaussian, as one onto mixtures."""
    q: Gaussian = found.q
    return Projection(as_mixture(q), found.estimate, found.gradient_norm, found._status, found.evaluations)
