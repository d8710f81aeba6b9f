"""Where the mass of a posterior is: its modes, found from several starts, and a frame that covers them.

For `log_evidence` and `decompose`, in up to two latent dimensions, and for verdicts, in more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.values import Array
from .kernel_calls import densities_or_zero, log_densities, workspace
from .lockstep import together
from .model import Model, target_of
from .starts import Laplace, laplace_from, laplace_start


class Mode(NamedTuple):
    """Laplace's approximation at a mode, in latent coordinates."""

    mean: Array
    factor: Array
    log_mass: float


def mode_from(model: Model, start: Array, guess: float = 1.0) -> Mode | None:
    """The mode that is found from a point; None where the log joint is at fault on the way.

    `guess` is a first one of its deviations.
    """
    return mode_at(model, laplace_from(model, start, guess))


def mode_at(model: Model, found: Laplace) -> Mode | None:
    """The mode of Laplace's approximation; None where it is at none."""
    if found.status:
        return None
    mean, factor, r, known = found.mean, found.factor, found.mean.size, kernels.inference.modes
    with np.errstate(all="ignore"):
        steps = known.STEP * factor.T
        points = np.concatenate([mean[None], mean + steps, mean - steps])
        if not np.isfinite(points).all():
            return None
    status, values, _ = log_densities(model, points)
    if status:
        return None
    top, after, before = values[0], values[1 : r + 1], values[r + 1 :]
    with np.errstate(all="ignore"):
        if not known.is_top(top, after, before).all():
            return None
    log_volume = np.log(np.diag(factor)).sum() + 0.5 * r * kernels.densities.gaussians.LOG_2PI
    return Mode(mean, factor, float(top + log_volume))


def modes_of(model: Model, start: Any) -> tuple[list[Mode], Array]:
    """The modes that are found, that from `start` first, in up to two latent dimensions.

    And the log densities at the points of `kernels.inference.survey` around the first.
    """
    mean, factor = laplace_start(model, start)
    run, r, known = kernels.inference.entry_points, mean.size, kernels.inference.modes
    survey = kernels.inference.survey
    starts, heights = np.empty((known.starts_of(r), r)), np.empty(survey.count_of(r))
    if not (model._calls_are_expensive or model._calls_python):
        means, log_masses = np.empty((len(starts) + 1, r)), np.empty(len(starts) + 1)
        factors = np.empty((len(starts) + 1, r, r))
        means[0], factors[0] = mean, factor
        space = workspace("laplace", r, model.dim)
        count = run.find_modes(target_of(model), (means, factors, log_masses), starts, heights, space)
        model._raise_pending()
        return [Mode(means[k], factors[k], float(log_masses[k])) for k in range(count)], heights
    again = mode_from(model, mean)
    found = [Mode(mean, factor, -math.inf if again is None else again.log_mass)]
    run.mode_starts(mean, factor, starts)
    for mode in modes_from(model, [x for x in starts if np.isfinite(x).all()]):
        add_mode(mode, found)
    points = mean + (survey.LINE[:, None] if r == 1 else survey.PLANE.T) @ factor.T
    heights = densities_or_zero(model, points)
    tried: list[int] = []
    while len(tried) < known.MOST_TRIES:
        rows = tuple(np.array(parts) for parts in zip(*found, strict=True))
        n = run.unexplained(rows, heights, np.array(tried, np.int64))
        if n < 0:
            break
        tried.append(n)
        add_mode(mode_from(model, points[n], survey.spacing(n, factor)), found)
    top = max(mode.log_mass for mode in found)
    return [m for k, m in enumerate(found) if k == 0 or m.log_mass > top - known.NEGLIGIBLE], heights


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
    same = kernels.inference.modes.SAME
    near = (np.abs(np.linalg.solve(m.factor, gap)).max() <= same for m in (one, two))
    return all(near)
