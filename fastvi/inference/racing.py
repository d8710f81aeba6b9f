"""Starts of Gaussian fits in many dimensions: of some candidates the one that goes furthest on the ELBO.

Laplace's approximation follows the mode, and the mode of a hierarchy may be where it has no mass. It is
trusted only where ascents of the density from other points come to the same mode, and where its own draws
have the log joint of a Gaussian, or a wide Gaussian comes to the same q. Else it runs against Gaussians along
the paths of ascents (Pathfinder) and N(x, s² I): each takes a few steps of L-BFGS on the ELBO over the same
few draws, and one that cannot catch up is dropped.

Where the log joint raises, is NaN or infinite, a step is rejected, and a candidate does not run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..kernels.families.table import CODES, CORRELATED, HELD, MEAN
from ..kernels.statuses import CONVERGED, FINE, STEPS_EXHAUSTED
from .expectations import fixed_draws, half_of_pairs, writable
from .faults import error_of
from .kernel_calls import (
    conditional_deviations,
    densities_or_zero,
    deviations_of,
    fit_on_draws,
    log_densities,
    log_densities_at_draws,
    start_scale,
    workspace,
    workspace_member,
)
from .lockstep import together
from .model import Model
from .starts import (
    Laplace,
    ascent,
    check_start,
    gaussians_at,
    laplace_from,
    mean_curvature,
    move,
    newtons_laplace,
    nudged,
    start_of,
)

#: First word of the seed of all points and draws here.
_SEED = 20240301

#: Points that paths to a mode start from: 0, and so many less one from N(0, I).
_POINTS = 3

#: Steps of a path, the gradient that ends it (relative to the log density), its pairs of L-BFGS, and how many
#: draws in a row may be so many nats below the best before it has left what has mass.
_PATH_STEPS, _PATH_TOLERANCE, _PATH_MEMORY = 60, 1e-2, 6
_QUIET, _FAR_BELOW = 12, 5.0

#: Dimensions up to which the covariances of a path are made: up to here matrices take less time than vectors.
_FEW_DIM = 50

#: Pairs of draws that choose the best Gaussian of a path, and a width; Gaussians of a path in one call.
_PATH_PAIRS, _WIDTH_PAIRS, _TOGETHER = 5, 12, 5

#: Deviations of the Gaussians N(x, s² I), and around a point that is given.
_WIDTHS = (1.0, 0.3, 0.1, 0.03)
_WIDTHS_AT_A_POINT = (*_WIDTHS, 0.01, 0.001)

#: How far their means are from x, in deviations for each coordinate.
_OFF = 0.1

#: Where the best runner's ELBO is so many nats per dimension below zero, the data may be in other units than
#: the paths start from: of 160 fits of groups with numbers of 1e4 59 did not converge. Single coordinates are
#: moved then, which takes 92 points for a dimension and each move, in up to so many dimensions.
_VERY_LOW, _MOVED_DIM = -40.0, 200

#: The race: pairs of draws, steps of a round, rounds, and the gradient at which a runner has arrived.
_PAIRS, _STEPS, _ROUNDS, _ARRIVED = 6, 8, 6, 0.15

#: A runner is dropped where this multiple of its last gain does not make up for what it is behind; in so many
#: rounds the gain of its next step counts as well, if the curvature is that of its start.
_PROMISE, _EARLY = 4.0, 2

#: A runner that has arrived is dropped where it is so many nats below the best; one within so many nats and,
#: per coordinate, deviations of a better one is its duplicate.
_BELOW, _SAME = 1.0, 0.5

#: Shares of the diagonal that are added to a covariance until it is positive definite.
_JITTERS = 0.0, 1e-12, 1e-9, 1e-6

#: Pairs of fresh draws that rank those that are left.
_LAST_PAIRS = 64

#: Laplace's approximation is that of a Gaussian where its draws' mean log joint is off by no more than so
#: many nats, and a share of the dimension. Else it and a wide Gaussian must come together in so many rounds;
#: where it is off by so many times that, no other search is asked for its mode.
_LAPLACE_NATS, _LAPLACE_SHARE, _SHORT_ROUNDS, _HOPELESS = 2.0, 0.25, 2, 10.0

#: Deviations, as multiples of the conditional ones, of which rounding makes what has no end.
_LEVEL = 1e3

#: A Gaussian that is given is too wide where this share of its deviations gains more nats per dimension.
_NARROWER, _GAIN = 0.1, 10.0

#: Ascents that must come to Laplace's mode: most steps, the longest distance in deviations that they start
#: from, the gradient that ends them, and the deviations per coordinate that they may end apart.
#: (Of 40 posteriors, those that came to a mode took up to 52 evaluations, the others up to 900.)
_ASCENT_STEPS, _LONGEST, _ASCENT_TOLERANCE, _SAME_MODE = 100, 200.0, 0.3, 0.5


#: A status, and the point z where the log joint has it.
Fault = tuple[int, Array] | None


class Start(NamedTuple):
    """Where a fit starts, in latent coordinates."""

    mean: Array
    root: Array  #: a Cholesky factor: the coordinates of the fit, and q itself where the family allows
    scale: Array  #: the conditional deviations
    evaluations: int
    best: float = -math.inf  #: an ELBO that q here surely has: three standard errors below that over draws
    #: How far the mean log joint of its draws is from that of a Gaussian, in nats, where that was computed.
    off: float = math.inf
    whitened: bool = False  #: whether the root has the curvature of the mode: q cannot end on a ridge


def choose_start(model: Model, start: Any, family: str) -> Start:
    """The start of a fit: the q given, the best Gaussian around the point given, or the race's winner."""
    mean, factor = start_of(model, start)
    check_start(family, factor)
    race = _Race(model, family)
    if factor is not None:
        return _given(race, mean, factor)
    if start is not None:
        race.require(mean)
        widths = partial(race.of_widths, [mean], _WIDTHS_AT_A_POINT, 3)
        race.enter(partial(race.from_point, mean), widths)
        return race.winner(race.fault)
    points = _points(mean.size)
    laplace, agreed, off, paths = _laplace_and_ascents(race, points)
    entering: list[Callable[[], list[_Runner]]] = []
    if not laplace.status:
        if agreed and off < _most_off(laplace):
            place = laplace.mean, laplace.factor, laplace.scale, race.evaluations
            is_level = (deviations_of(laplace.factor) > _LEVEL * laplace.scale).any()
            return Start(*place, off=off, whitened=not is_level)
        own = partial(race.runners_at, [(laplace.mean, laplace.factor)])
        if agreed:
            race.enter(own, partial(race.of_widths, points[:1], _WIDTHS, 1))
            if len(race.runners) == 2 and race.come_together():
                return race.winner(None)
        else:
            entering.append(own)
    race.enter(
        *entering,
        *paths,
        partial(race.of_widths, points[:1], _WIDTHS, 2),
        partial(race.of_widths, points[1:], _WIDTHS, 1),
    )
    moved = race.moved(points[0])
    if moved is not None:
        race.enter(partial(race.of_path, moved), partial(race.of_widths, [moved], _WIDTHS, 2))
    return race.winner((laplace.status, laplace.where) if laplace.status else race.fault)


def _laplace_and_ascents(
    race: _Race, points: Sequence[Array]
) -> tuple[Laplace, bool, float, list[Callable[[], list[_Runner]]]]:
    """(Laplace's approximation from the first point, whether ascents from others come to its mode, how far
    its draws are off, paths).

    The ascents are L-BFGS's, in units of that approximation. Where calls are expensive they are Newton's, as
    its own, with which they go in step, and the paths are what these have found.
    """
    model, newton = race.model, race.by_newton
    paths: list[Callable[[], list[_Runner]]] = [partial(race.of_path, x) for x in points]
    searches = [partial(laplace_from, model, points[0])]
    if newton:
        searches += [partial(newtons_laplace, model, x) for x in points[1:]]
    laplace, *others = together(model, searches)
    race.evaluations += laplace.evaluations + sum(other.evaluations for other in others)
    if newton:
        found = (laplace, *others)
        paths = [partial(race.of_search, *each) for each in zip(found, points, strict=True)]
    if laplace.status:
        return laplace, False, math.inf, paths
    if newton:
        agreed = all(not other.status and _is_near(laplace, other.mean) for other in others)
        return laplace, agreed, race.off_gaussian(laplace) if agreed else math.inf, paths
    off = race.off_gaussian(laplace)
    agreed = off < _HOPELESS * _most_off(laplace)
    if agreed:
        ascents = [partial(_arrives, race, laplace, x) for x in points[1:]]
        # One after another, where they take no step together.
        agreed = all(together(model, ascents) if model._calls_are_expensive else (one() for one in ascents))
    return laplace, agreed, off, paths


def _most_off(laplace: Laplace) -> float:
    """Nats by which the draws of Laplace's approximation may be off, for it to be trusted."""
    return _LAPLACE_NATS + _LAPLACE_SHARE * laplace.mean.size


def _given(race: _Race, mean: Array, factor: Array) -> Start:
    """The start at a Gaussian that is given; a narrower one, here or up the density, where that is too wide.

    L-BFGS uses up its steps where q is a million times wider than the posterior: the curvature in its unit
    is 1e12, and falls with every step.
    """
    scale = conditional_deviations(factor)
    if race.family in HELD:
        return Start(mean, factor, scale, 0)
    value, share = race.narrowed(mean, factor)
    if share < 1.0:
        top = ascent(race.model, mean, scale)
        race.evaluations += top.evaluations
        other, its_share = race.narrowed(top.end, factor)
        if other > value:
            mean, share = top.end, its_share
    return Start(mean, share * factor, share * scale, race.evaluations)


@lru_cache(maxsize=8)
def _points(dim: int) -> tuple[Array, ...]:
    """Where paths start."""
    rng = np.random.default_rng((_SEED, dim))
    return np.zeros(dim), *rng.standard_normal((_POINTS - 1, dim))


@lru_cache(maxsize=32)
def _draws(block: int, pairs: int, dim: int) -> Array:
    """Pairs +e, -e of draws, of fewer pairs than dimensions: the mean square of each coordinate is one."""
    half = half_of_pairs(np.random.default_rng((_SEED, block, dim)), pairs, dim)
    half /= np.sqrt((half * half).mean(axis=0))
    return np.ascontiguousarray(np.concatenate([half, -half]))


def elbo_over(model: Model, mean: Array, factor: Array, noise: Array) -> tuple[float, Array, Fault]:
    """The ELBO over draws and the log joint at each; -inf, and the fault, where that is not finite."""
    status, values, total, where = log_densities_at_draws(model, mean, factor, noise)
    value = total + Gaussian._from_factor(mean, factor).entropy()
    if status != FINE or not abs(value) < math.inf:
        return (
            -math.inf,
            values,
            (status, model._support.to_model(mean[None])[0][0] if where is None else where),
        )
    return value, values, None


def error_over(values: Array) -> float:
    """Standard error of the mean of the log joint over pairs of draws +e, -e."""
    half = len(values) // 2
    pairs = (0.5 * (values[:half] + values[half:])).tolist()
    middle = sum(pairs) / half
    return math.hypot(*(x - middle for x in pairs)) / half


class _Runner:
    """A candidate on its way: L-BFGS on the ELBO over a few draws, some steps at a time.

    It does not refer to its race: in a cycle its scratch space would stay in use until Python looks for
    cycles, and fits would make theirs anew.
    """

    def __init__(self, model: Model, family: str, mean: Array, root: Array) -> None:
        dim = mean.size
        self.model, self.code = model, CODES[family]
        self.conditional = conditional_deviations(root)
        self.start = mean.copy(), root, start_scale(self.conditional, family)
        self.space = workspace("draws", self.code, dim, model.dim)
        self.curvature = workspace_member("draws", self.space, "curvature")
        workspace_member("draws", self.space, "point")[:] = 0.0
        self.mean, self.factor = np.empty(dim), np.empty((dim, dim))
        self.value, self.gain, self.norm, self.ended, self.rounds = -math.inf, 0.0, math.inf, False, -1

    def run(self, steps: int) -> int:
        """Take so many steps; the evaluations."""
        before, curvature = self.value, self.curvature
        draws_fits = kernels.inference.draws_fits
        if before > -math.inf:
            curvature[draws_fits.BEGIN], curvature[draws_fits.RESUME] = curvature[draws_fits.KNOWN], 1
        else:
            curvature[:] = 0
        draws, q = _draws(1, _PAIRS, self.mean.size), (self.mean, self.factor)
        limits = _ARRIVED, steps + 1
        report = fit_on_draws(self.model, self.code, draws, self.start, limits, q, self.space)
        if report.steps == 0 or not abs(report.elbo) < math.inf:
            self.value, self.ended = -math.inf, True
            return int(report.evaluations)
        self.value, self.norm = report.elbo, report.gradient_norm
        self.gain = self.value - before
        self.rounds += 1
        self.ended = report.status != STEPS_EXHAUSTED
        return int(report.evaluations)

    @property
    def promise(self) -> float:
        """How much it may still gain: a multiple of the last round's gain or, early, of a natural step's."""
        if self.ended:
            return 0.0
        return _PROMISE * (max(0.5 * self.norm**2, self.gain) if self.rounds <= _EARLY else self.gain)

    def is_duplicate_of(self, other: _Runner) -> bool:
        """Whether it has come to where another one is."""
        if not abs(self.value - other.value) < _BELOW:
            return False
        apart = (self.mean - other.mean) / np.sqrt((other.factor**2).sum(axis=1))
        return float(np.linalg.norm(apart)) < _SAME * math.sqrt(apart.size)

    def reached(self) -> Start:
        """The start of the fit that goes on from here."""
        _, root, scale = self.start
        stretch = self.factor.diagonal() / scale
        return Start(self.mean, stretch[:, None] * root, stretch * self.conditional, 0)


class _Race:
    """The candidates for the start of a fit, and what they cost."""

    def __init__(self, model: Model, family: str) -> None:
        self.model, self.family, self.evaluations = model, family, 0
        # With all correlations free so few draws would be fitted exactly, so the runners have none.
        self.correlated = family in CORRELATED
        self.family = "diag" if self.correlated else family
        #: Where calls are expensive and give gradients, paths are those of Newton's method.
        self.by_newton = model._calls_are_expensive and bool(model._slopes_address)
        self.runners: list[_Runner] = []
        self.fault: Fault = None  #: the last one

    def elbo(self, mean: Array, factor: Array, noise: Array) -> float:
        """The ELBO over some draws; -inf where the log joint is not finite at one of them."""
        return self.tabulate(mean, factor, noise)[0]

    def tabulate(self, mean: Array, factor: Array, noise: Array) -> tuple[float, Array]:
        """The ELBO over some draws, and the log joint at each."""
        self.evaluations += len(noise)
        value, values, fault = elbo_over(self.model, mean, factor, noise)
        self.fault = fault or self.fault
        return value, values

    def narrowed(self, mean: Array, factor: Array) -> tuple[float, float]:
        """(ELBO, share) of q where narrowing it gains no more; of its deviations it has this share then."""
        noise, share = _draws(2, _WIDTH_PAIRS, mean.size), 1.0
        value = self.elbo(mean, factor, noise)
        while value > -math.inf:
            narrower = self.elbo(mean, _NARROWER * share * factor, noise)
            if not narrower > value + _GAIN * mean.size:
                break
            value, share = narrower, _NARROWER * share
        return value, share

    def require(self, point: Array) -> None:
        """Raise ValueError if the log joint is not finite at a point."""
        status, _, where = log_densities(self.model, point[None])
        self.evaluations += 1
        if where is not None:
            raise error_of(self.model, status, where, "the fit cannot start: ")

    def enter(self, *candidates: Callable[[], list[_Runner]]) -> None:
        """Let the runners that some functions make take part."""
        for runners in together(self.model, candidates):
            self.runners += runners

    def runners_at(self, places: Sequence[tuple[Array, Array]]) -> list[_Runner]:
        """Runners from (mean, root), as far as their ELBO is finite."""
        runners = [_Runner(self.model, self.family, *place) for place in places]
        self.run(runners, 0)
        return [runner for runner in runners if runner.value > -math.inf]

    def run(self, runners: Sequence[_Runner], steps: int) -> None:
        """Let runners take so many steps."""
        # Added at the end: meanwhile other tasks add theirs.
        used = sum(together(self.model, [partial(runner.run, steps) for runner in runners]))
        self.evaluations += used

    def elbos(self, places: Sequence[tuple[Array, Array]], noise: Array) -> Array:
        """The ELBO of each (mean, factor) over some draws, in one call of the log joint."""
        gaussians = [Gaussian._from_factor(*place) for place in places]
        points = np.concatenate([q._mean + q._spread(noise) for q in gaussians])
        self.evaluations += len(points)
        with np.errstate(over="ignore"):
            values = densities_or_zero(self.model, points).reshape(len(places), -1).mean(axis=1)
        if self.fault is None and not np.isfinite(values).all():
            self.elbo(*places[int(np.isfinite(values).argmin())], noise)
        elbos: Array = values + np.array([q.entropy() for q in gaussians])
        return elbos

    def of_widths(self, points: Any, widths: Any, best: int) -> list[_Runner]:
        """Runners from the best few of N(x, s² I), slightly off x, which may be a saddle by symmetry."""
        noise = _draws(2, _WIDTH_PAIRS, points[0].size)
        unit = np.eye(points[0].size)
        places = [(x + _OFF * s * noise[0], s * unit) for x in points for s in widths]
        values = self.elbos(places, noise)
        order = np.argsort(-values, kind="stable")[:best].tolist()
        return self.runners_at([places[k] for k in order if values[k] > -math.inf])

    def moved(self, x: Array) -> Array | None:
        """A point to which moves of single coordinates lead, where it is much better than the runners.

        Judged by the mean log density of a pair of draws around it: where groups are as far apart as these,
        their deviation does not go to zero.
        """
        dim, best = x.size, max((runner.value for runner in self.runners), default=-math.inf)
        # Functions of arrays in Python may warn so far out.
        if best > _VERY_LOW * dim or dim > _MOVED_DIM or self.model._calls_are_expensive:
            return None
        x = x.copy()
        highest, used = move(self.model, x, _draws(5, 1, dim), -math.inf)
        self.evaluations += used
        return x if highest > best + kernels.inference.modes.MUCH * dim else None

    def of_path(self, x: Array) -> list[_Runner]:
        """A runner from the best Gaussian on L-BFGS's path from x to a mode (Zhang et al., JMLR 23, 2022)."""
        noise, best, top, below = _draws(3, _PATH_PAIRS, x.size), None, -math.inf, 0
        path = _path(self, nudged(x))
        while below < _QUIET and (places := list(itertools.islice(path, _TOGETHER))):
            scales = [start_scale(place.conditional, self.family) for place in places]
            values = self.elbos(
                [(p.mean, scale[None]) for p, scale in zip(places, scales, strict=True)], noise
            )
            for value, place in zip(values.tolist(), places, strict=True):
                below = below + 1 if value < top - _FAR_BELOW else 0
                if value > top:
                    top, best = value, place
        return [] if best is None else self.runners_at([(best.mean, best.root())])

    def from_point(self, x: Array) -> list[_Runner]:
        """A runner from the best Gaussian on a path from x to a mode."""
        if not self.by_newton:
            return self.of_path(x)
        search = newtons_laplace(self.model, x)
        self.evaluations += search.evaluations
        return self.of_search(search, x)

    def of_search(self, search: Laplace, x: Array) -> list[_Runner]:
        """The same of what Newton's method from x has found, in two calls of the log joint.

        L-BFGS takes 40 to 130, and one more for each five Gaussians.
        """
        places = [gaussian for place in search.path for gaussian in gaussians_at(place)]
        if not places:
            return self.of_path(x)
        scales = [start_scale(conditional_deviations(factor), self.family) for _, factor in places]
        flat = [(mean, scale[None]) for (mean, _), scale in zip(places, scales, strict=True)]
        values = self.elbos(flat, _draws(3, _PATH_PAIRS, x.size))
        best = int(np.argmax(values))
        return self.runners_at([places[best]]) if values[best] > -math.inf else []

    def off_gaussian(self, laplace: Laplace) -> float:
        """How far the mean log joint of draws from Laplace's approximation is from what it should be."""
        dim, q = laplace.mean.size, (laplace.mean, laplace.factor)
        pairs = min(max(_WIDTH_PAIRS, dim), _LAST_PAIRS)
        noises = np.zeros((1, dim)), writable(fixed_draws(0, pairs, dim))
        peak, mean = together(self.model, [partial(self.elbo, *q, noise) for noise in noises])
        return abs(peak - 0.5 * dim - mean)

    def come_together(self) -> bool:
        """Whether two runners are duplicates after a few rounds; one of them is left then."""
        one, other = self.runners
        for _ in range(_SHORT_ROUNDS):
            self.advance()
            if one.is_duplicate_of(other):
                self.runners = [max(self.runners, key=lambda r: r.value)]
                return True
        return False

    def is_near_enough(self) -> bool:
        """Whether the fit goes on from the only runner, whose steps cost as many calls as its own."""
        return self.by_newton or self.runners[0].norm <= 1.0

    def advance(self) -> None:
        """One round."""
        self.run([runner for runner in self.runners if not runner.ended], _STEPS)

    def winner(self, fault: Fault) -> Start:
        """Run, and give the place of the best runner. ValueError where there is none, because of a fault."""
        for _ in range(_ROUNDS):
            if all(r.ended for r in self.runners) or (len(self.runners) == 1 and self.is_near_enough()):
                break
            self.advance()
            self.runners = _still_in(self.runners)
        runners = self.runners
        if not runners:
            assert fault is not None
            raise error_of(self.model, *fault, "the fit cannot start: ")
        noise = _draws(4, _LAST_PAIRS, runners[0].mean.size)
        places = list[tuple[Array, Start]]()
        for runner in runners:
            place = runner.reached()
            if self.correlated:
                own = place._replace(root=runner.factor, scale=runner.factor.diagonal().copy())
                places += [(own.root, own), (place.root, place)]
            else:
                places.append((runner.factor, place))
        tasks = [partial(self.tabulate, place.mean, factor, noise) for factor, place in places]
        found = list(zip(together(self.model, tasks), places, strict=True))
        (value, values), (factor, place) = max(found, key=lambda f: f[0][0])
        best = value - 3.0 * error_over(values) if value > -math.inf else value
        known = self.family in HELD or (self.by_newton and self.correlated)
        if self.model._slopes_address and not known:
            place = self.in_units_of_curvature(place, factor)
        return place._replace(evaluations=self.evaluations, best=best)

    def in_units_of_curvature(self, place: Start, factor: Array) -> Start:
        """A start with the mean curvature under N(its mean, factor) for its root, where that is as good.

        The root of a runner is that of a path or a width: in eight schools a diagonal fit in its units took
        340 steps. (A full covariance on a path of Newton's method is near it: two calls would save none.)
        """
        root, used = mean_curvature(self.model, place.mean, factor)
        self.evaluations += used
        if root is None:
            return place
        if not self.correlated:  # the root is that of the coordinates alone
            return place._replace(root=root)
        noise = _draws(2, _WIDTH_PAIRS, place.mean.size)
        after, before = self.elbos([(place.mean, root), (place.mean, place.root)], noise)
        if not after > before:
            return place
        return place._replace(root=root, scale=conditional_deviations(root))


def _still_in(runners: list[_Runner]) -> list[_Runner]:
    """Those who may yet win, best first."""
    left: list[_Runner] = []
    for runner in sorted(runners, key=lambda r: -r.value):
        if any(runner.is_duplicate_of(other) for other in left):
            continue
        margin = _BELOW if runner.ended else 0.0
        if not left or runner.value + runner.promise > left[0].value - margin:
            left.append(runner)
    return left


def _arrives(race: _Race, laplace: Laplace, x: Array) -> bool:
    """Whether the ascent of the density from a point comes to Laplace's mode."""
    away = np.linalg.solve(laplace.factor, x - laplace.mean)
    # Steps are at most 10 units long: from far away the units are longer.
    unit = max(1.0, math.sqrt(away @ away) / _LONGEST)
    tolerance = unit * _ASCENT_TOLERANCE
    top = ascent(race.model, x, laplace.scale, unit * laplace.factor, tolerance, _ASCENT_STEPS)
    race.evaluations += top.evaluations
    return top.arrived and _is_near(laplace, top.end)


def _is_near(laplace: Laplace, mean: Array) -> bool:
    """Whether a mode is that of Laplace's approximation."""
    apart = np.linalg.solve(laplace.factor, mean - laplace.mean)
    return bool(math.sqrt(apart @ apart) < _SAME_MODE * math.sqrt(mean.size))


class _OnPath(NamedTuple):
    """A Gaussian on a path: its covariance is a diagonal that pairs (step, change) update, as BFGS does."""

    mean: Array
    spread: Array  #: that diagonal
    pairs: Sequence[tuple[Array, Array]]
    conditional: Array  #: its conditional deviations

    def root(self) -> Array:
        """The Cholesky factor of the covariance; a diagonal one where rounding leaves none."""
        root = _factor_of(_updated(self.spread, self.pairs))
        return np.diag(self.conditional) if root is None else root


def _updated(spread: Array, pairs: Sequence[tuple[Array, Array]]) -> Array:
    """A diagonal covariance with the updates of BFGS."""
    inverse = np.diag(spread)
    for s, y in pairs:
        moved, product = inverse @ y, s @ y
        u = (moved - 0.5 * (1.0 + (y @ moved) / product) * s) / product
        change = s[:, None] * u
        inverse -= change + change.T
    return inverse


def _moved(spread: Array, pairs: Sequence[tuple[Array, Array]], gradient: Array) -> Array:
    """That covariance times a gradient: the two loops of L-BFGS."""
    out, along = gradient.copy(), list[float]()
    for s, y in reversed(pairs):
        along.append(float(s @ out) / float(s @ y))
        out -= along[-1] * y
    out *= spread
    for (s, y), a in zip(pairs, reversed(along), strict=True):
        out += (a - float(y @ out) / float(s @ y)) * s
    return out


def _conditional(spread: Array, pairs: Sequence[tuple[Array, Array]]) -> Array | None:
    """Its conditional deviations, of the diagonal of its inverse: nothing of size D x D is made.

    BFGS's updates of the inverse are y y' / y's - v v' / v's with v the inverse times s.
    """
    diagonal = 1.0 / spread
    if pairs:
        steps, changes = np.array(pairs).swapaxes(0, 1)
        both = changes @ steps.T  # y's of all
        falls = np.empty((len(pairs), 2, spread.size))  # y and v, which are
        weights = np.empty((len(pairs), 2))  # added with the weights 1 / y's and -1 / v's
        for k, s in enumerate(steps):
            v = s / spread
            if k:
                known = falls[:k].reshape(2 * k, -1)
                v += (weights[:k].ravel() * (known @ s)) @ known
            falls[k, 0], falls[k, 1] = changes[k], v
            weights[k] = 1.0 / both[k, k], -1.0 / float(v @ s)
        known = falls.reshape(2 * len(pairs), -1)
        diagonal += weights.ravel() @ (known * known)
    if (diagonal > 0.0).all() and np.isfinite(diagonal).all():
        return 1.0 / np.sqrt(diagonal)
    root = _factor_of(_updated(spread, pairs))
    return None if root is None else conditional_deviations(root)


def _path(race: _Race, x: Array) -> Iterator[_OnPath]:
    """The Gaussians at the steps of L-BFGS from x to a mode, whose curvature they have.

    The covariance starts as a diagonal that each pair (step, change) updates (Gilbert & Lemaréchal 1989, as
    in Pathfinder, algorithm 3), to which the last pairs are added by the updates of BFGS.
    """
    dim = x.size
    unit = np.eye(dim)
    space = workspace("draws", MEAN, dim, race.model.dim)
    point, gradient, steps, changes, curvature = (
        workspace_member("draws", space, name)
        for name in ("point", "gradient", "steps", "changes", "curvature")
    )
    point[:] = 0.0
    curvature[:] = 0
    draws_fits = kernels.inference.draws_fits
    spread, pairs = np.ones(dim), list[tuple[Array, Array]]()
    mean, factor = np.empty(dim), np.empty((dim, dim))
    draws, start = np.zeros((1, dim)), (x, unit, np.ones(dim))
    for k in range(_PATH_STEPS):
        curvature[draws_fits.BEGIN], curvature[draws_fits.RESUME] = curvature[draws_fits.KNOWN], k > 0
        limits = _PATH_TOLERANCE, 2
        report = fit_on_draws(race.model, MEAN, draws, start, limits, (mean, factor), space)
        race.evaluations += int(report.evaluations)
        if report.steps < 2:
            break
        newest, known = int(curvature[draws_fits.NEWEST]), int(curvature[draws_fits.KNOWN])
        s, y = steps[newest].copy(), changes[newest].copy()
        if known and not (pairs and np.array_equal(pairs[-1][0], s)) and s @ y > 0.0:
            pairs = [*pairs, (s, y)][-_PATH_MEMORY:]
            a, b, c = y @ (spread * y), y @ s, s @ (s / spread)
            new = 1.0 / (a / (b * spread) + y * y / b - a * s * s / (b * c * spread**2))
            if (new > 0.0).all() and np.isfinite(new).all():
                spread = new
        if dim <= _FEW_DIM:
            inverse = _updated(spread, pairs)
            root, step = _factor_of(inverse), inverse @ gradient
            conditional = None if root is None else conditional_deviations(root)
        else:
            conditional, step = _conditional(spread, pairs), _moved(spread, pairs, gradient)
        if conditional is not None:
            yield _OnPath(x + point - step, spread, pairs, conditional)
        if report.status == CONVERGED:
            break


def _factor_of(cov: Array) -> Array | None:
    """The Cholesky factor, with as much on the diagonal as that takes; None where there is none."""
    for jitter in _JITTERS:
        try:
            factor: Any = np.linalg.cholesky(cov + jitter * np.diag(np.diag(cov)))
        except np.linalg.LinAlgError:
            continue
        return factor if np.isfinite(factor).all() else None
    return None
