"""Starts of fits: the q that the user gives, or Laplace's approximation from a point.

All of it in latent coordinates. Used by the fits, and by `log_evidence` for its coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.validation import float_array, generator
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from ..distributions.student import StudentT
from ..distributions.variational import TransformedGaussian, TransformedMixture, TruncatedGaussian
from ..kernels.families.table import HELD, MEAN
from ..kernels.statuses import CONVERGED, FINE, NOT_A_NUMBER
from .expectations import fixed_draws, latent_gaussian
from .faults import error_of
from .kernel_calls import (
    DRAWS_DIM,
    QUADRATURE_DIM,
    conditional_deviations,
    densities_or_zero,
    fault_point,
    fit_on_draws,
    slopes_at,
    workspace,
    workspace_member,
)
from .model import Model, target_of

#: Seed of the dispersed points.
_SEED = 20240302

#: Points around Gaussians from which other modes are searched, in few and in more dimensions, and their
#: distances in deviations.
_AROUND, _FEW_AROUND, _FEW_DIM, _DISTANCES = 12, 4, 10, (3.0, 10.0, 30.0)

#: Points that have coordinates of either of two modes, at most.
_CROSSINGS = 36

#: Gradient tolerance and most steps of the search for a mode in many dimensions; a start may be rough.
_MODE_TOLERANCE, _MODE_STEPS = 1e-2, 200

#: Searches for that mode, each in units of the deviations that were found at the last one.
_MODE_ROUNDS = 2

#: Laplace's approximation by gradients. Newton steps; dimensions up to which each has its second derivatives.
_NEWTON_STEPS, _ALWAYS_BENT = 25, 32

#: Dimensions up to which the places on the way are kept: three ways of 25 have 40 MB.
_KEPT_DIM = 256

#: Where a hierarchy's density grows without end, each step gains about one nat for each dimension, and second
#: derivatives are never definite: so many steps of less than so many nats for each end the search in many
#: dimensions, and where calls are expensive.
_MOST_SLOW, _SLOW = 4, 4.0

#: Half the squared length, in deviations, of the last step. Where a step leaves less than this share of the
#: next one's squared length, the second derivatives are kept.
_CLOSE, _QUICK = 1e-3, 0.5

#: The line search: the increase that a step must have, as a share of what its derivative promises; the
#: lengths that are tried together; and the part of a step that ends the search.
_INCREASE, _LENGTHS, _LEAST_LENGTH = 1e-4, 0.3 ** np.arange(1.0, 9.0), 1e-3

#: Parts of a step whose second derivatives are taken together where calls are expensive, in up to so many
#: dimensions and in more.
_PARTS, _MANY_DIM, _FEW_PARTS = (1.0, 0.3, 0.1), 64, (1.0, 0.3)

#: Laplace's approximation by values, where calls are expensive. Steps of the differences, in deviations;
#: second derivatives in units of which these are right; the units that are tried together, as multiples of a
#: guess, and the one after values that are not finite.
_ASIDE, _LEAST_BEND, _MOST_BEND, _UNITS, _INWARD = 0.2, 0.05, 25.0, 10.0 ** -np.arange(-1.0, 5.0), 0.1

#: Mean second derivatives: pairs of draws for each dimension of so many, at least one, and the step of the
#: differences in deviations.
_CURVATURE_PAIRS, _CURVATURE_STEP = 40, 1e-3

#: How far from a point a search begins, in deviations.
_NUDGE = 1e-6

#: From points farther away than this, in deviations for each root of a dimension, the unit of an ascent grows
#: with the distance.
_FAR = 10.0

#: Steps, as shares of a far point's largest coordinate, over which a log joint has no bend: three at a time,
#: each beside another one. The bend, in nats and as a share of the log joint, that only rounding errors have.
_STEPS_ASIDE = (1e-10 * np.array([-1.0, 0.0, 1.0])[:, None] + 1e-9 * np.arange(4.0)).ravel()
_ROUNDED, _ROUNDED_SHARE = 1.0, 1e-10


def start_of(model: Model, start: Any, name: str = "start") -> tuple[Array, Array | None]:
    """(mean, Cholesky factor) of a start in latent coordinates; the factor is None for a point."""
    r = model.latent_dim
    if start is None:
        return np.zeros(r), None
    if isinstance(start, TruncatedGaussian):
        if model.dim != 1:
            raise ValueError(f"{name} has dimension 1, the model has {model.dim}")
        return model._support.to_latent(name, start.mean[None])[0], None
    if isinstance(start, TransformedGaussian):
        gaussian = latent_gaussian(model, start)
        assert gaussian is not None
        return np.array(gaussian.mean), np.array(gaussian.cholesky)
    if isinstance(start, Gaussian):
        if start.dim != r:
            raise ValueError(f"{name} has dimension {start.dim}, the model has {r} latent coordinates")
        return np.array(start.mean), np.array(start.cholesky)
    if isinstance(start, GaussianMixture | TransformedMixture | StudentT):
        raise TypeError(f"{name} must be a point or a Gaussian, not a {type(start).__name__}")
    z = np.atleast_1d(np.asarray(float_array(name, start), dtype=np.float64))
    if z.shape != (model.dim,):
        raise ValueError(
            f"{name} must be a point of shape ({model.dim},) or a Gaussian, not of shape {z.shape}"
        )
    if not np.isfinite(z).all():
        i = int(np.argmax(~np.isfinite(z)))
        raise ValueError(f"{name}[{i}] is {z[i]!s}: it must be finite")
    return model._support.to_latent(name, z[None])[0], None


def dispersed_points(model: Model, count: int, rng: Any) -> list[Array]:
    """Points in the model's coordinates whose latent ones are N(0, 1)."""
    source = np.random.default_rng(_SEED) if rng is None else generator("rng", rng)
    latent = source.standard_normal((count, model.latent_dim))
    return list(model._support.to_model(latent)[0]) if count else []


def points_around(parts: list[Gaussian], rng: np.random.Generator) -> list[Array]:
    """Points at several distances from each of some Gaussians, and the mirror images of the first mean."""
    mean, points = parts[0]._mean, list[Array]()
    for k in range(_AROUND if mean.size <= _FEW_DIM else _FEW_AROUND):
        part = parts[k // len(_DISTANCES) % len(parts)]
        away = part._factor @ rng.standard_normal(mean.size)
        points.append(part._mean + _DISTANCES[k % len(_DISTANCES)] * away)
    return [*points, -mean, mean[::-1].copy()]


def crossings(parts: list[Gaussian], rng: np.random.Generator) -> Iterator[Array]:
    """Points with each coordinate from either of two means, and near none of the Gaussians.

    Modes may be there, where groups of coordinates have several of their own.
    """
    for _ in range(_CROSSINGS if len(parts) > 1 else 0):
        one, two = (parts[k]._mean for k in rng.choice(len(parts), size=2, replace=False))
        point = np.where(rng.random(one.size) < 0.5, one, two)
        if not any(is_near(point, part) for part in parts):
            yield point


def is_near(point: Array, part: Gaussian) -> bool:
    """Whether a point is within a deviation of the mean of a Gaussian on each of its axes."""
    return bool(np.abs(np.linalg.solve(part._factor, point - part._mean)).max() < 1.0)


def far_start(model: Model) -> tuple[Array | None, int]:
    """(A point where the density is much higher than at the origin, if moves lead to one, evaluations).

    None of functions of arrays in Python, which may warn so far out.
    """
    if model._calls_are_expensive:
        return None, 0
    x, origin = np.zeros(model.latent_dim), np.zeros((1, model.latent_dim))
    here = float(densities_or_zero(model, origin)[0])
    highest, used = move(model, x, origin, here)
    return x if highest > here else None, 1 + used


def move(model: Model, x: Array, noise: Array, highest: float) -> tuple[float, int]:
    """Move single coordinates of x to where the density is much higher; see `entry_points.far_start`."""
    space, run = workspace("laplace", x.size, model.dim), kernels.inference.entry_points
    found, used = run.far_start(target_of(model), x, noise, highest, space)
    return (-math.inf if _is_rounded_off(model, x) else found), used + len(_STEPS_ASIDE)


def _is_rounded_off(model: Model, x: Array) -> bool:
    """Whether the log joint at a point consists of rounding errors.

    Counts y and a Dirichlet prior of a = e^36 have lgamma(a + y) - lgamma(a), which is 0 or a multiple of 4
    there: 94,000 nats above the posterior, and no fit from there ended in 150 s.
    """
    aside = np.abs(x).max() * np.cos(np.arange(1.0, x.size + 1.0))
    before, here, after = densities_or_zero(model, x + np.outer(_STEPS_ASIDE, aside)).reshape(3, -1)
    with np.errstate(invalid="ignore"):
        bends = np.abs(before - 2.0 * here + after)
    return bool(bends.max() > _ROUNDED + _ROUNDED_SHARE * np.abs(here).max())


def nudged(point: Array, guess: float = 1.0) -> Array:
    """A point beside one, by a small share of deviations.

    At 0 each row of a logistic regression that is written with abs or max has a kink, where gradients are
    those of one side: in six dimensions Newton's method and L-BFGS ended there, and the race from other
    points took 2,100 evaluations in place of 60.
    """
    shift: Array = point + _NUDGE * guess * np.cos(np.arange(1.0, point.size + 1.0))
    return shift


def check_start(family: str, factor: Array | None) -> None:
    """Raise ValueError for a family that takes its covariance from a start that has none."""
    if family in HELD and factor is None:
        raise ValueError(f'family="{family}" holds the covariance of the start: give a Gaussian as start')


class Ascent(NamedTuple):
    """An ascent of the density."""

    end: Array
    arrived: bool  #: whether the gradient is below the tolerance there
    evaluations: int


class Laplace(NamedTuple):
    """Laplace's approximation in latent coordinates, or what hindered it."""

    mean: Array
    factor: Array  #: of its covariance
    scale: Array  #: the conditional deviations
    evaluations: int
    status: int = FINE  #: a fault of the log joint
    where: Any = None  #: and its point z
    path: Sequence[_Place] = ()  #: where Newton's method was on its way, where calls are expensive


def laplace_from(model: Model, point: Array, guess: float = 1.0) -> Laplace:
    """Laplace's approximation near a point, with a guess of the deviations."""
    r = model.latent_dim
    few = r <= QUADRATURE_DIM
    if model._calls_are_expensive if few else r <= DRAWS_DIM and model._slopes_address:
        found = (laplace_by_values if few else newtons_laplace)(model, point, guess)
        if not found.status:
            return found
    space, mean = workspace("laplace", r, model.dim), point.copy()
    scale, factor = np.full(r, guess), np.eye(r)
    if r <= kernels.inference.laplace.DENSE:
        status, used = kernels.inference.entry_points.laplace(target_of(model), mean, scale, factor, space)
    else:
        status, used = _diagonal_laplace(model, mean, scale, space)
        factor = np.diag(scale)
    return Laplace(mean, factor, scale, used, status, fault_point("laplace", space) if status else None)


def newtons_laplace(model: Model, point: Array, guess: float = 1.0) -> Laplace:
    """Laplace's approximation near a point by a model's gradient; with a status where there is none."""
    return _Search(model).found(point, guess)


def laplace_by_values(model: Model, point: Array, guess: float = 1.0) -> Laplace:
    """The same by values alone, for a model in up to two dimensions whose calls are expensive."""
    return _ValueSearch(model).found(point, guess)


class _Place(NamedTuple):
    """A point on the way to a mode."""

    mean: Array
    value: float
    unit: Array  #: deviations, in units of which the derivatives are
    gradient: Array
    precision: Array | None = None  #: minus the second derivatives, where they were asked for


class _Search:
    """Newton's method for a mode, with differences of gradients for second derivatives.

    They take one call with R + 1 gradients, where differences of values take R (R + 1) values or more, and
    tries for the length of their steps.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.evaluations = model, 0
        self.path: list[_Place] = []

    def found(self, point: Array, guess: float) -> Laplace:
        """Laplace's approximation near a point, with a status where there is none."""
        laplace = self.laplace(point, guess)
        if laplace is not None:
            return laplace._replace(path=self.path) if self.path else laplace
        unit = np.ones(point.size)
        return Laplace(point, np.diag(unit), unit, self.evaluations, NOT_A_NUMBER)

    def laplace(self, point: Array, guess: float) -> Laplace | None:
        """Laplace's approximation near a point; None where the log joint fails so near that there is none."""
        with np.errstate(all="ignore"):
            place = self.bent(nudged(point, guess), np.full(point.size, guess))
            if place is None:
                return None
            place, root, definite = self.climb(place)
            mean, unit = place.mean, place.unit
            if not definite:  # the diagonal alone is used, by absolute values
                return Laplace(mean, np.diag(unit), unit, self.evaluations)
            mean = mean + unit * (root @ (place.gradient @ root))
            return Laplace(mean, unit[:, None] * root, unit, self.evaluations)

    def bent(self, mean: Array, unit: Array) -> _Place | None:
        """A place with its second derivatives, whose conditional deviations become the unit."""
        if self.model._calls_are_expensive:
            return self.bent_by_blocks(mean, unit)
        r = mean.size
        unit, values, precision = unit.copy(), np.empty(r + 1), np.empty((r, r))
        points, slopes = np.empty((2, r + 1, r))
        points[0] = mean
        space = workspace("draws", kernels.families.low_rank.FIRST, r, self.model.dim)
        status, used = kernels.inference.entry_points.curvature(
            target_of(self.model, gradient=True), unit, points, values, slopes, precision, space
        )
        self.evaluations += used
        return None if status else _Place(mean, values.item(0), unit, slopes[0], precision)

    def bent_by_blocks(self, mean: Array, unit: Array) -> _Place | None:
        """The same by blocks of points, which other searches share."""
        for _ in range(kernels.inference.curvature.ROUNDS):
            (place, near), *_ = self.stencils(mean[None], unit)
            if place is None or near:
                break
            unit = place.unit
        return place

    def stencils(self, means: Array, unit: Array) -> list[tuple[_Place | None, bool]]:
        """Places with second derivatives by differences over a unit, and whether it was near the deviations.

        All in one call of the log joint; (None, False) for each if it fails at one.
        """
        count, r = means.shape
        points = np.empty((count, r + 1, r))
        points[:] = means[:, None]
        moved = points.reshape(count, -1)[:, r :: r + 1]  # of point 1 + k, coordinate k
        moved += kernels.inference.curvature.STEP * unit
        lengths = (moved - means) / unit
        status, values, slopes = slopes_at(self.model, points.reshape(-1, r))
        self.evaluations += count * (r + 1)
        if status:
            return [(None, False)] * count
        slopes = slopes.reshape(points.shape) * unit
        values = values.reshape(count, r + 1)[:, 0]
        return [_place_of(*each, unit) for each in zip(means, values.tolist(), slopes, lengths, strict=True)]

    def slope(self, mean: Array, unit: Array) -> _Place | None:
        """A place without second derivatives."""
        status, values, slopes = slopes_at(self.model, mean[None])
        self.evaluations += 1
        if status or not np.isfinite(slopes).all():
            return None
        return _Place(mean, float(values[0]), unit, slopes[0] * unit)

    def climb(self, place: _Place) -> tuple[_Place, Array, bool]:
        """(the end, a root of the covariance there in its unit, whether the precision is definite)."""
        expensive, many = self.model._calls_are_expensive, place.mean.size > _ALWAYS_BENT
        keeps, patient = many and not expensive, not (many or expensive)
        root, definite = _root_of_inverse(place.precision)
        slow = 0
        for _ in range(_NEWTON_STEPS):
            if expensive and place.mean.size <= _KEPT_DIM:
                self.path.append(place)
            before = place.value
            along = place.gradient @ root
            promised = float(along @ along)
            if promised < 2.0 * _CLOSE and definite:
                break
            after, length = self.tried(place, place.unit * (root @ along), promised, keeps)
            if after is not None and after.precision is None:
                # Second derivatives are kept while steps with them come nearer quickly.
                along = after.gradient @ root
                if definite and along @ along < _QUICK * promised:
                    place = after
                    continue
                after = self.bent(after.mean, after.unit)
            if after is None:
                break
            place = after
            root, definite = _root_of_inverse(place.precision)
            slow = slow + 1 if not definite and place.value - before < _SLOW * place.mean.size else 0
            if length < _LEAST_LENGTH or (slow == _MOST_SLOW and not patient):
                break
        if place.precision is None:
            after = self.bent(place.mean, place.unit)
            if after is not None:
                place = after
                root, definite = _root_of_inverse(place.precision)
        return place, root, definite

    def tried(
        self, place: _Place, step: Array, promised: float, without_bends: bool
    ) -> tuple[_Place | None, float]:
        """(The place after a step, or a part of it, that climbs as it should, or None; which part)."""
        if self.model._calls_are_expensive:
            after, length = self.best_of_some(place, step, promised)
        else:
            evaluated, length = self.slope if without_bends else self.bent, 1.0
            after = evaluated(place.mean + step, place.unit)
        if after is not None and after.value >= place.value + _INCREASE * promised * length:
            return after, length
        length = self.shortened(place, step, promised)
        return self.bent(place.mean + length * step, place.unit) if length else None, length

    def best_of_some(self, place: _Place, step: Array, promised: float) -> tuple[_Place | None, float]:
        """(The highest place that climbs as it should after parts of a step, which part), in one call."""
        lengths = np.array(_PARTS if step.size <= _MANY_DIM else _FEW_PARTS)
        found = self.stencils(place.mean + lengths[:, None] * step, place.unit)
        fine = [
            (after.value, length, after, near)
            for (after, near), length in zip(found, lengths.tolist(), strict=True)
            if after is not None and after.value >= place.value + _INCREASE * promised * length
        ]
        if not fine:
            return None, 1.0
        _, length, after, near = max(fine, key=lambda each: each[:2])
        return after if near else self.bent(after.mean, after.unit), length

    def shortened(self, place: _Place, step: Array, promised: float) -> float:
        """The longest part of a step that climbs as it should; 0 where none does."""
        values = densities_or_zero(self.model, place.mean + _LENGTHS[:, None] * step)
        self.evaluations += len(_LENGTHS)
        climbs = values >= place.value + _INCREASE * promised * _LENGTHS
        return float(_LENGTHS[climbs.argmax()]) if climbs.any() else 0.0


class _ValueSearch(_Search):
    """The same with central differences of values, in up to two dimensions: a place takes 3 or 7 of them.

    A step of them is one call. `kernels.inference.laplace` takes three for each, and some for the unit: for
    the mean and the deviation of 100,000 numbers 30, and this 8.
    """

    def bent_by_blocks(self, mean: Array, unit: Array) -> _Place | None:
        for _ in range(kernels.inference.curvature.ROUNDS):
            units = _UNITS[:, None] * unit
            found = self.stencils(np.broadcast_to(mean, units.shape), units)
            # The widest unit that is right, or the one that changes least.
            order = [
                (not near, 0.0 if near else _change(place, tried), place, near)
                for (place, near), tried in zip(found, units, strict=True)
                if place is not None
            ]
            if not order:
                return None
            _, _, place, near = min(order, key=lambda each: each[:2])
            if near:
                break
            unit = place.unit
        return place

    def stencils(self, means: Array, unit: Array) -> list[tuple[_Place | None, bool]]:
        count, r = means.shape
        units, pattern = np.broadcast_to(unit, means.shape), _pattern(r)
        points = means[:, None] + _ASIDE * pattern * units[:, None]
        self.evaluations += points.shape[0] * points.shape[1]
        values = densities_or_zero(self.model, points.reshape(-1, r)).reshape(count, -1)
        return [_place_of_values(*each) for each in zip(means, values, units, strict=True)]


@lru_cache(maxsize=2)
def _pattern(dim: int) -> Array:
    """The places of values: the middle, one up along each coordinate, one down, and along both of two."""
    units = np.eye(dim)
    both = np.ones((dim - 1, dim))
    return np.concatenate([np.zeros((1, dim)), units, -units, both, -both])


def _place_of_values(mean: Array, values: Array, unit: Array) -> tuple[_Place | None, bool]:
    """The place of values by `_pattern` over a unit; whether that is near the deviations."""
    r, value, known = mean.size, float(values[0]), kernels.inference.curvature
    if value == -math.inf:
        return None, False
    up, down = values[1 : 1 + r], values[1 + r : 1 + 2 * r]
    gradient, bends = (up - down) / (2.0 * _ASIDE), (2.0 * value - up - down) / _ASIDE**2
    precision = np.diag(bends)
    if r == 2:
        mixed = values[5] + values[6] - up.sum() - down.sum() + 2.0 * value
        precision[0, 1] = precision[1, 0] = -0.5 * mixed / _ASIDE**2 if math.isfinite(mixed) else 0.0
    ratio = np.minimum(np.maximum(1.0 / np.sqrt(np.abs(bends)), 1.0 / known.MOST_CHANGE), known.MOST_CHANGE)
    blank = ~(np.isfinite(bends) & np.isfinite(gradient))
    ratio[blank], gradient[blank], precision[blank], precision[:, blank] = _INWARD, 0.0, 0.0, 0.0
    precision[blank, blank] = 1.0 / _INWARD**2
    size = np.abs(bends)
    near = not blank.any() and bool(size.min() >= _LEAST_BEND and size.max() <= _MOST_BEND)
    return _Place(mean, value, unit * ratio, gradient * ratio, precision * ratio * ratio[:, None]), near


def _change(place: _Place, unit: Array) -> float:
    """By how many powers of e a place changes the unit over which its differences were."""
    return float(np.abs(np.log(place.unit / unit)).max())


def _place_of(mean: Array, value: float, slopes: Array, lengths: Array, unit: Array) -> tuple[_Place, bool]:
    """The place of a stencil, with gradients (R + 1, R) in a unit; whether that is near the deviations."""
    gradient, precision = slopes[0], (slopes[0] - slopes[1:]) / lengths[:, None]
    precision = 0.5 * (precision + precision.T)
    if not np.isfinite(slopes).all():
        blank = ~(np.isfinite(precision.diagonal()) & np.isfinite(gradient))
        gradient[blank], precision[blank], precision[:, blank] = 0.0, 0.0, 0.0
        precision[blank, blank] = 1.0
        precision[~np.isfinite(precision)] = 0.0
    known, bends = kernels.inference.curvature, np.abs(precision.diagonal())
    ratio = np.minimum(np.maximum(1.0 / np.sqrt(bends), 1.0 / known.MOST_CHANGE), known.MOST_CHANGE)
    place = _Place(mean, value, unit * ratio, gradient * ratio, precision * ratio * ratio[:, None])
    return place, bool(bends.min() >= known.LEAST_CURVATURE and bends.max() <= known.MOST_CURVATURE)


@np.errstate(all="ignore")
def mean_curvature(model: Model, mean: Array, factor: Array) -> tuple[Array | None, int]:
    """(A root of the inverse of minus the mean second derivatives under a Gaussian, evaluations).

    These are those of minus its ELBO by the mean, so it is the unit in which a fit finds the mean in few
    steps, of any family; at the optimum of a full covariance it is q's own factor. By differences of
    gradients at some fixed draws; None where they are not definite.
    """
    q, dim = Gaussian._from_factor(mean, factor), mean.size
    pairs = max(_CURVATURE_PAIRS // dim, 1)
    middle, unit = mean + q._spread(fixed_draws(4, pairs, dim)), q._deviations
    points = middle[:, None] + np.concatenate([np.zeros((1, dim)), _CURVATURE_STEP * np.diag(unit)])
    status, _, slopes = slopes_at(model, points.reshape(-1, dim))
    used = len(middle) * (dim + 1)
    if status or not np.isfinite(slopes).all():
        return None, used
    slopes = slopes.reshape(points.shape) * unit
    precision = (slopes[:, :1] - slopes[:, 1:]).mean(axis=0) / _CURVATURE_STEP
    root, definite = _root_of_inverse(0.5 * (precision + precision.T))
    return (unit[:, None] * root if definite else None), used


@np.errstate(all="ignore")
def gaussians_at(place: _Place) -> list[tuple[Array, Array]]:
    """Gaussians (mean, factor) with the curvature at a place, whose mean is there or where that leads."""
    root, _ = _root_of_inverse(place.precision)
    factor, step = place.unit[:, None] * root, place.unit * (root @ (place.gradient @ root))
    means = place.mean + step, place.mean
    return [(mean, factor) for mean in means if np.isfinite(mean).all() and np.isfinite(factor).all()]


def _root_of_inverse(precision: Array | None) -> tuple[Array, bool]:
    """(the Cholesky factor of the inverse, True), of a precision that is damped where it is not definite."""
    assert precision is not None
    # Factored from the last coordinate to the first: the inverse of that factor is one of the inverse.
    reversed_ = precision[::-1, ::-1]
    known = kernels.inference.laplace
    for k in range(known.MOST_DAMPINGS + 1):
        damping = known.FIRST_DAMPING * known.STIFFER ** (k - 1) if k else 0.0
        damped = reversed_
        if damping:
            damped = reversed_ + np.diag(damping * (np.abs(reversed_.diagonal()) + known.LEAST_DIAGONAL))
        try:
            lower = np.linalg.cholesky(damped)
            inverse = np.linalg.inv(lower)[::-1, ::-1].T
        except np.linalg.LinAlgError:
            continue
        return np.where(_triangle(len(inverse)), inverse, 0.0), damping == 0.0
    return np.eye(len(precision)), False


@lru_cache(maxsize=8)
def _triangle(dim: int) -> Any:
    """Where a lower triangle is: `np.tril` makes it anew in each call."""
    return np.tri(dim, dtype=bool)


def laplace_start(model: Model, start: Any) -> tuple[Array, Array]:
    """(mean, factor) of the q given, or of Laplace's approximation near the point given."""
    mean, factor = start_of(model, start)
    if factor is not None:
        return mean, factor
    found = laplace_from(model, mean)
    if found.status:
        raise error_of(model, found.status, found.where, "the fit cannot start: ")
    return found.mean, found.factor


def _diagonal_laplace(model: Model, mean: Array, scale: Array, space: Any) -> tuple[int, int]:
    """A mode by L-BFGS, and the conditional standard deviations there: for many dimensions.

    Writes `mean` and `scale`; (status, evaluations).
    """
    status, used = kernels.inference.entry_points.calibrate(target_of(model), mean, scale, space)
    for _ in range(_MODE_ROUNDS):
        if status:
            return status, used
        top = ascent(model, mean, scale)
        mean[:] = top.end
        used += top.evaluations
        status, more = kernels.inference.entry_points.calibrate(target_of(model), mean, scale, space)
        used += more
    return status, used


def ascent(
    model: Model,
    point: Array,
    scale: Array,
    factor: Array | None = None,
    tolerance: float = _MODE_TOLERANCE,
    steps: int = _MODE_STEPS,
) -> Ascent:
    """An ascent to a mode by L-BFGS from a point, in units of some deviations, or of a Cholesky factor.

    Of a factor these are the conditional deviations. Steps to where the log joint is at fault are rejected.
    The mode is the optimum of a fit of the mean on one draw that is zero.
    """
    r = point.size
    space = workspace("draws", MEAN, r, model.dim)
    workspace_member("draws", space, "point")[:] = 0.0
    workspace_member("draws", space, "curvature")[:] = 0
    start = point.copy(), np.diag(scale) if factor is None else factor, scale
    mean = point.copy()
    outputs = mean, np.empty((r, r))
    report = fit_on_draws(model, MEAN, np.zeros((1, r)), start, (tolerance, steps), outputs, space)
    return Ascent(mean, report.status == CONVERGED, int(report.evaluations))


def ascent_in_units(model: Model, q: Gaussian, point: Array, tolerance: float, steps: int = 100) -> Ascent:
    """An ascent from a point in units of a Gaussian; in longer ones from far away."""
    away = np.linalg.solve(q._factor, point - q._mean)
    unit = max(1.0, math.sqrt(away @ away) / (_FAR * math.sqrt(point.size)))
    scale = unit * conditional_deviations(q._factor)
    return ascent(model, point, scale, unit * q._factor, unit * tolerance, steps)
