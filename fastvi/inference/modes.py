"""Where the mass of a posterior is: its modes, found from several starts, and a frame that covers them.

For `log_evidence` and `decompose`, in up to two latent dimensions, and for verdicts, in more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.values import Array
from .kernel_calls import log_densities
from .lockstep import together
from .model import Model
from .starts import Laplace, laplace_from, laplace_start

#: Distances of further starts, in deviations of the first mode from there, and from the origin.
_FROM_THE_MODE, _FROM_THE_ORIGIN = (4.0, 16.0, 64.0), (1.0, 5.0, 25.0)

#: A mode is one if the log density falls as that of its approximation: over this many deviations on each
#: axis, slopes are at most `_LEVEL`, and second derivatives -1 within `_ROUND`.
_STEP, _LEVEL, _ROUND = 0.1, 0.1, 0.5

#: Modes nearer than this to another, in its deviations, are the same.
_SAME = 0.5

#: Modes whose mass is below exp(-this) of the largest are left out.
_NEGLIGIBLE = 40.0


class Mode(NamedTuple):
    """Laplace's approximation at a mode, in latent coordinates."""

    mean: Array
    factor: Array
    log_mass: float


def mode_from(model: Model, start: Array) -> Mode | None:
    """The mode that is found from a point; None where the log joint is at fault on the way."""
    return mode_at(model, laplace_from(model, start))


def mode_at(model: Model, found: Laplace) -> Mode | None:
    """The mode of Laplace's approximation; None where it is at none."""
    if found.status:
        return None
    mean, factor, r = found.mean, found.factor, found.mean.size
    with np.errstate(all="ignore"):
        steps = _STEP * factor.T
        points = np.concatenate([mean[None], mean + steps, mean - steps])
        if not np.isfinite(points).all():
            return None
    status, values, _ = log_densities(model, points)
    if status:
        return None
    top, after, before = values[0], values[1 : r + 1], values[r + 1 :]
    with np.errstate(over="ignore"):
        slopes, bends = (after - before) / (2.0 * _STEP), (2.0 * top - after - before) / _STEP**2
    # On a tail the search ends without a mode.
    if not (np.abs(slopes) <= _LEVEL).all() or not (np.abs(bends - 1.0) <= _ROUND).all():
        return None
    log_volume = np.log(np.diag(factor)).sum() + 0.5 * r * kernels.densities.gaussians.LOG_2PI
    return Mode(mean, factor, float(top + log_volume))


def _starts(first: Array, factor: Array) -> list[Array]:
    """Points around a mode and around the origin, and the mode's mirror images."""
    r = first.size
    steps = [np.array(d, float) for d in itertools.product((-1.0, 0.0, 1.0), repeat=r) if any(d)]
    with np.errstate(all="ignore"):
        points = [first + s * (factor @ d) for s in _FROM_THE_MODE for d in steps]
    points += [s * d for s in _FROM_THE_ORIGIN for d in steps]
    points += [-first, first[::-1].copy()]
    return [x for x in points if np.isfinite(x).all()]


def modes_of(model: Model, start: Any) -> list[Mode]:
    """The modes that are found, that from `start` first."""
    mean, factor = laplace_start(model, start)
    again = mode_from(model, mean)
    found = [Mode(mean, factor, -math.inf if again is None else again.log_mass)]
    for mode in modes_from(model, _starts(mean, factor)):
        add_mode(mode, found)
    top = max(mode.log_mass for mode in found)
    return [m for k, m in enumerate(found) if k == 0 or m.log_mass > top - _NEGLIGIBLE]


def modes_from(model: Model, starts: Sequence[Array]) -> Iterator[Mode | None]:
    """The modes that are found from points, by searches that go on in step where calls are expensive."""
    return together(model, [partial(mode_from, model, start) for start in starts])


def add_mode(mode: Mode | None, found: list[Mode]) -> bool:
    """Append a mode, unless `found` has it; whether it was new."""
    if mode is None or any(_is_same(mode, other) for other in found):
        return False
    found.append(mode)
    return True


def _is_same(one: Mode, two: Mode) -> bool:
    gap = one.mean - two.mean
    near = (np.abs(np.linalg.solve(m.factor, gap)).max() <= _SAME for m in (one, two))
    return any(near)


def frame_of(modes: list[Mode]) -> tuple[Array, Array]:
    """(mean, Cholesky factor) of the mixture of Laplace's approximations with equal weights."""
    if len(modes) == 1:
        return modes[0].mean, modes[0].factor
    means = np.array([mode.mean for mode in modes])
    mean = means.mean(axis=0)
    shifts = means - mean
    cov = shifts.T @ shifts + sum(mode.factor @ mode.factor.T for mode in modes)
    return mean, np.linalg.cholesky(cov / len(modes))
