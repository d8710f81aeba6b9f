"""What nodes do not see under a q of one or two latent coordinates: gaps of zero density, and tails.

A gap makes the ELBO of a q with mass there -inf, and so does a log joint like -exp(exp(z)).

The lattice of an expectation has 45 nodes on a line, and 400 within three deviations in the plane. More
points tell, and those of a fit are taken once, under the q that is returned.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from ..distributions.student import StudentT, radii
from ..distributions.variational import TruncatedGaussian, Variational, latent_of
from .kernel_calls import densities_or_zero, fault_among, log_densities_at_draws
from .model import Model
from .sharing import is_small

#: Points on a line within so many of q's deviations from its mean: where its density is above exp(-32) of the
#: largest. In the plane they would be too far apart, and the nodes of the lattice see gaps that reach far.
_REACH, _REACH_IN_PLANE = 8.0, 3.0

#: Points on a line, and in the plane: for an ELBO; for that of a fit, in small models, and where an
#: evaluation may take long: a fit has 132, and 2780.
_ELBO_POINTS, _FIT_POINTS, _FEW_POINTS = (1601, 4000), (801, 1600), (161, 400)

#: Shares of the square that a point of the plane is ahead of the one before: powers of 1 / 1.3247, the root
#: of x³ = x + 1. (M. Roberts, The Unreasonable Effectiveness of Quasirandom Sequences, 2018.)
_STEPS_IN_SQUARE = 0.7548776662466927, 0.5698402909980532

#: Beyond the lattice, up to where the density of q is a float: distances in q's deviations, on as many rays.
_DISTANCES = np.arange(10.0, 38.0, 2.0)
_RAYS = 2, 8


def points_of_elbo(model: Model) -> int:
    """How many points are checked under the q of an ELBO."""
    return _ELBO_POINTS[model.latent_dim - 1]


def points_of_fit(model: Model) -> int:
    """How many points are checked under the q of a fit."""
    return (_FIT_POINTS if is_small(model) else _FEW_POINTS)[model.latent_dim - 1]


def gap_under(model: Model, q: Variational, count: int) -> tuple[int, Array | None, int]:
    """(The fault of the log joint at so many points under q, or FINE; where; evaluations).

    Of slabs in the plane, in any direction and within 2.5 deviations of q's mean, the points of a fit and its
    lattice miss one in 200 with a width of 0.01 deviations (the lattice alone: 10 %), and none with 0.02
    (2 %); of discs with a radius of 0.1 around draws of q 1 % (64 %), with 0.05 40 % (90 %).
    """
    if isinstance(q, TruncatedGaussian):
        points = _under_truncated(q, count)
        values, failed = model._tabulate(points)
        return *fault_among(points, values, failed), count
    latent: Any = latent_of(q)
    if isinstance(latent, GaussianMixture):
        (latent,) = latent.components
    if isinstance(latent, StudentT):
        draws = _steps_of_student(latent, 2 * count)
    else:
        draws = gap_steps(latent.dim, count)
    status, _, _, where = log_densities_at_draws(model, latent._mean, latent._factor, draws)
    model._raise_pending()
    return status, where, len(draws)


def grows_beyond(model: Model, q: Variational) -> tuple[bool, int]:
    """(Whether the log joint outgrows a Gaussian q where no node is, evaluations): no mean is known then.

    Of -exp(exp(0.3 z)) under N(0, 1) the nodes give a mean of -3.0, but its terms rise from 16 deviations on.
    That is seen where terms are floats, from -exp(exp(0.2 z)) on. Zeros do not count so far out.
    """
    latent = latent_of(q)
    if not isinstance(latent, Gaussian):
        return False, 0
    rays, inverses = _ray_points(latent.dim)
    values = densities_or_zero(model, latent._mean + rays @ latent._factor.T)
    largest = np.abs(values)
    return bool(((largest > inverses) & (largest < math.inf)).any()), len(values)


@lru_cache(maxsize=2)
def _ray_points(dim: int) -> tuple[Array, Array]:
    """Points on rays under a standard Gaussian, (count, dim), and the inverse of its density there, about.

    Where a log joint is larger, its term of the mean is larger than one nat.
    """
    angles = 2.0 * math.pi * np.arange(_RAYS[dim - 1]) / _RAYS[dim - 1]
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, :dim]
    points = (_DISTANCES[:, None, None] * directions).reshape(-1, dim)
    return np.ascontiguousarray(points), np.repeat(np.exp(0.5 * _DISTANCES**2), len(angles))


@lru_cache(maxsize=8)
def gap_steps(dim: int, count: int) -> Array:
    """The points (count, dim) under a standard Gaussian; in the plane each has the same area of the disc."""
    if dim == 1:
        return np.linspace(-_REACH, _REACH, count)[:, None]
    share, turns = np.outer(_STEPS_IN_SQUARE, np.arange(count) + 0.5) % 1.0
    angles, lengths = 2.0 * math.pi * turns, _REACH_IN_PLANE * np.sqrt(share)
    return np.ascontiguousarray((lengths * [np.cos(angles), np.sin(angles)]).T)


def area_in_plane(count: int) -> float:
    """The area of the disc for each of so many points, under a standard Gaussian."""
    return math.pi * _REACH_IN_PLANE**2 / count


def _steps_of_student(q: StudentT, count: int) -> Array:
    """The points under a standard t: with as much in the tail beyond them as beyond those of a Gaussian.

    On a line, as beyond half of their distance.
    """
    steps, beyond = gap_steps(q.dim, count), _beyond(q.dim, count)
    lengths = np.linalg.norm(steps, axis=1)
    far = radii(q.df, 0.5 * q.dim, 0.5 * q.df, 1.0 - beyond, beyond)
    found: Array = steps * np.where(far > lengths, far / np.where(lengths > 0.0, lengths, 1.0), 1.0)[:, None]
    return found


@lru_cache(maxsize=8)
def _beyond(dim: int, count: int) -> Array:
    """The share of a standard Gaussian beyond the distance of each point; on a line beyond half of it."""
    squares = (gap_steps(dim, count) ** 2).sum(axis=1)
    if dim == 1:
        return np.array([math.erfc(math.sqrt(0.125 * x)) for x in squares.tolist()])
    found: Array = np.exp(-0.5 * squares)
    return found


def _under_truncated(q: TruncatedGaussian, count: int) -> Array:
    """The points (count, 1) inside of the ends, in the model's coordinates."""
    reach = _REACH * q.sigma
    mode = min(max(q.mu, q.low), q.high)
    off = abs(mode - q.mu)
    far = reach * reach / (math.hypot(off, reach) + off)
    ends = max(q.low, mode - far), min(q.high, mode + far)
    found: Array = np.linspace(*ends, count + 2)[1:-1, None]
    return found
