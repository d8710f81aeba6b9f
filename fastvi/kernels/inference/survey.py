"""Points under a Gaussian, between the nodes of lattices, at which a log joint is looked at.

Under the q of a fit they show gaps of zero density (see `gaps`), and around a mode other modes as well: those
that no search found (see `modes`).
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import formula, inlined, kernel
from ..models.evaluation import evaluate_or_zero

#: Points on a line are within so many deviations of the mean: where a density is above exp(-32) of the
#: largest.
REACH = 8.0

#: Points in the plane are within so many deviations: they would be too far apart, and the nodes of a lattice
#: see gaps that reach far.
REACH_IN_PLANE = 3.0

#: Points around a mode, on a line and in the plane, within these distances.
_ON_LINE, IN_DISC = 4001, 4000

#: Farther ones, up to so many deviations, and from there to the last distance: on a line each is farther out
#: than the one before by this share, in the plane rings are, of so many points.
_FAR, _SHARE, _SHARE_OF_RING, _IN_RING = 64.0, 0.002, 0.07, 90
_FARTHEST, _LARGE_SHARE, _LARGE_SHARE_OF_RING, _IN_LARGE_RING = 4096.0, 0.01, 0.14, 45

#: How far points of the disc are from the next.
_APART = 0.058

#: Shares of the square that a point of the plane is ahead of the one before: powers of 1 / 1.3247, the root
#: of x³ = x + 1. (M. Roberts, The Unreasonable Effectiveness of Quasirandom Sequences, 2018.)
_STEPS_IN_SQUARE = 0.7548776662466927, 0.5698402909980532


def _in_square(count):
    """Points (2, count) of a square of which the sides are 1."""
    return np.outer(_STEPS_IN_SQUARE, np.arange(count) + 0.5) % 1.0


def _at(lengths, turns):
    return lengths * [np.cos(2.0 * math.pi * turns), np.sin(2.0 * math.pi * turns)]


def steps_between(dim, count):
    """Points (count, dim) under a standard Gaussian; in the plane each has the same area of the disc."""
    if dim == 1:
        return np.linspace(-REACH, REACH, count)[:, None]
    share, turns = _in_square(count)
    return np.ascontiguousarray(_at(REACH_IN_PLANE * np.sqrt(share), turns).T)


def _up_to(low, high, share):
    """Distances from `low` to `high`, each farther out than the one before by a share."""
    return low * np.exp(np.arange(0.0, math.log(high / low), share))


def _line():
    out = np.concatenate([_up_to(REACH, _FAR, _SHARE)[1:], _up_to(_FAR, _FARTHEST, _LARGE_SHARE)])
    return np.concatenate([-out[::-1], steps_between(1, _ON_LINE)[:, 0], out])


#: Rings in the plane: their distances; how many points each has; how far the first of these is ahead, as a
#: share of the way to the next, for rings are staggered; its number; and the ring of each point.
_RINGS = _up_to(REACH_IN_PLANE, _FAR, _SHARE_OF_RING)[1:], _up_to(_FAR, _FARTHEST, _LARGE_SHARE_OF_RING)
_COUNTS = np.repeat([_IN_RING, _IN_LARGE_RING], [part.size for part in _RINGS])
_AHEAD = 0.5 * (np.arange(_COUNTS.size) % 2)
_FIRST = IN_DISC + np.cumsum(_COUNTS) - _COUNTS
_RING = np.repeat(np.arange(_COUNTS.size), _COUNTS)


def _plane():
    turns = [(np.arange(n) + ahead) / n for n, ahead in zip(_COUNTS, _AHEAD, strict=True)]
    rings = _at(np.concatenate(_RINGS)[_RING], np.concatenate(turns))
    return np.concatenate([steps_between(2, IN_DISC).T, rings], axis=1)


#: The points around a mode, in deviations; fewer in the disc are the first of those.
LINE, PLANE = _line(), _plane()


def count_of(latent):
    """How many points `take` looks at. Plain, for Python calls it as well."""
    return LINE.size if latent == 1 else PLANE.shape[1]


# A loop that reads the mean and the factor from memory is not vectorised: they are handed over as numbers.


@formula
def place_on_line(x, mean, a, points):
    """Write mean + a x for some steps x of a line."""
    for n in range(x.size):
        points[n, 0] = mean + a * x[n]


@formula
def _place_in_plane(x, y, mean, other, a, b, c, points):
    for n in range(x.size):
        points[n, 0] = mean + a * x[n]
        points[n, 1] = other + (b * x[n] + c * y[n])


@inlined
def place_in_plane(steps, low, end, mean, factor, points):
    """Write mean + factor e for some steps e of the plane."""
    x, y = steps[0, low:end], steps[1, low:end]
    _place_in_plane(x, y, mean[0], mean[1], factor[0, 0], factor[1, 0], factor[1, 1], points)


@inlined
def place(low, end, mean, factor, points):
    """Write the points low to end - 1 around a mode."""
    if mean.size == 1:
        place_on_line(LINE[low:end], mean[0], factor[0, 0], points)
    else:
        place_in_plane(PLANE, low, end, mean, factor, points)


def spacing(n, factor):
    """How far from point n others are, in the coordinate where that is least. Plain: Python calls it too."""
    if factor.shape[0] == 1:
        return 0.5 * (LINE[n + 1] - LINE[n - 1]) * factor[0, 0]
    apart = _APART
    if n >= IN_DISC:
        apart = 2.0 * math.pi / _COUNTS[_RING[n - IN_DISC]] * math.hypot(PLANE[0, n], PLANE[1, n])
    return apart * min(factor[0, 0], factor[1, 1])


@kernel
def is_peak(n, heights):
    """Whether point n of a ring has the largest log density of those around it, by `take` in the plane."""
    own = _RING[n - IN_DISC]
    turn = (n - _FIRST[own] + _AHEAD[own]) / _COUNTS[own]
    for ring in range(max(own - 1, 0), min(own + 2, _COUNTS.size)):
        before, after = n - _FIRST[own] - 1, n - _FIRST[own] + 1
        if ring != own:
            before = math.floor(turn * _COUNTS[ring] - _AHEAD[ring])
            after = before + 1
        one = heights[_FIRST[ring] + before % _COUNTS[ring]]
        other = heights[_FIRST[ring] + after % _COUNTS[ring]]
        if not one < heights[n] >= other:
            return False
    return True


@inlined
def take(log_joint, problem, mean, factor, panel, heights):
    """Write log joint + log-Jacobian at all points around a mode, -inf where there is none."""
    rows = panel.latent.shape[0]
    for low in range(0, heights.size, rows):
        end = min(low + rows, heights.size)
        place(low, end, mean, factor, panel.latent)
        evaluate_or_zero(log_joint, problem, end - low, panel)
        for n in range(low, end):
            heights[n] = panel.values[n - low]
