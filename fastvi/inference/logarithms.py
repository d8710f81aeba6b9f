"""Coordinates that are logarithms, by what the log joint does far out along each of them alone.

Of scales and rates: on one side the joint falls by a power of what the coordinate is the logarithm of, on the
other by an exponential. Far out along them may be mass without end, or another peak.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..common.values import Array
from .kernel_calls import densities_or_zero, deviations_of
from .model import Model

#: A density that falls by more nats is not level, and far out by more of the second.
LEVEL, FLAT = 0.02, 1e-3

#: The logarithm of the least float: no coordinate is followed farther, and by values alone not so near to it.
END, _RESERVE = 744.0, 64.0

#: The unit of distances from q's mean: so much of q's deviation, and at least 1.
_UNIT = 1 / 3

#: Distances, with the other coordinates at q's mean, at which the joint is compared. How far its falls over
#: equal distances may differ, as a share and in nats; where the prior is lognormal they differ by more. The
#: exponent is 1 of rates, 2 of scales, and of coefficients of a Poisson regression any. Of coordinates on the
#: real line only those are looked at on whose two sides the joint differs by a factor.
_PROBES, _SHARE, _NATS, _LOGNORMAL = np.array([24.0, 36.0, 48.0]), 0.2, 0.5, 1.5
_RATE, _SCALE, _NEARLY, _UNLIKE = 0.5, 2.0, 0.05, 10.0

#: How far in q's deviations beside its mean.
_BESIDE = 0.5

#: Distances over which a joint that does not fall by itself goes on so, deviations to points around q, and
#: errors of rounding, in units of the level that they may hide.
_LEVEL_AT, _AROUND, _ROUNDED = np.array([24.0, 48.0, 96.0, 192.0, 384.0]), 0.5, 1e-3


class Logarithms(NamedTuple):
    """Coordinates that seem to be logarithms; of those of scales first the ones on which most depends."""

    coordinates: list[int]
    endless: list[tuple[int, float]]  #: (coordinate, side) along which the joint does not fall
    evaluations: int


def units_of(deviations: Array) -> Array:
    """In which distances from q's mean are counted."""
    return np.maximum(_UNIT * deviations, 1.0)


def logarithms_of(model: Model, mean: Array, factor: Array) -> Logarithms:
    """Those of a model, around a q."""
    units = units_of(deviations_of(factor))
    # Beside q's mean, where standard effects may be 0 and nothing depends on their deviation.
    mean = mean + factor @ np.where(np.arange(mean.size) % 2, -_BESIDE, _BESIDE)
    first = np.concatenate([np.diag(units), -np.diag(units)]) * _PROBES[-1]
    sizes = np.abs(densities_or_zero(model, mean + first)).reshape(2, -1)
    is_bounded = model._support.kinds != kernels.models.kinds.REAL
    chosen = np.flatnonzero(is_bounded | (sizes.max(axis=0) > _UNLIKE * sizes.min(axis=0)))
    is_bounded = is_bounded[chosen]
    moves = np.zeros((2, _PROBES.size, chosen.size, mean.size))  # ahead and behind
    moves[..., range(chosen.size), chosen] = np.outer(_PROBES, units[chosen])
    moves[1] *= -1.0
    values = densities_or_zero(model, mean + moves.reshape(-1, mean.size)).reshape(moves.shape[:3])
    near, far = values[:, 0] - values[:, 1], values[:, 1] - values[:, 2]
    never_falls = is_bounded & (near <= LEVEL) & (far <= LEVEL)
    is_level = never_falls & (np.abs(near) <= LEVEL) & (np.abs(far) <= LEVEL)
    is_power = np.isfinite(far) & (np.abs(far - near) <= _SHARE * np.abs(near) + _NATS)
    # By the exponent on the other side: 2 of scales, 1 of rates, and 0 where both sides fall by powers.
    exponents = np.nan_to_num(np.log(np.maximum(far, 0.0) / near), nan=math.inf) / (_PROBES[1] - _PROBES[0])
    is_scale = ((near > 0.0) & (np.abs(exponents - _SCALE) <= _NEARLY))[::-1]
    exponents = np.where(near > 0.0, np.clip(exponents, 0.0, _SCALE), 0.0)[::-1]
    is_twice = is_bounded & is_power.all(axis=0) & (near > 0.0)
    # Standard effects times a scale with an inverse gamma prior: exponentials on both sides.
    is_steep = np.isfinite(far).all(axis=0) & (exponents > _RATE).all(axis=0) & is_scale.any(axis=0)
    is_lognormal = np.isfinite(far) & (near > 0.0) & (far - near <= _LOGNORMAL * near)
    is_logarithm = is_level | is_twice | is_steep | (is_power & (exponents > _RATE))
    is_logarithm |= is_lognormal & is_scale
    # Scales first: groups may be logarithms of rates, and there are many.
    found = [
        (-round(exponents[side, n]), -abs(far[side, n]), int(chosen[n]))
        for side, n in zip(*np.nonzero(is_logarithm), strict=True)
    ]
    endless = [(int(chosen[n]), 1.0 - 2.0 * side) for side, n in zip(*np.nonzero(never_falls), strict=True)]
    coordinates = list(dict.fromkeys(k for *_, k in sorted(found)))
    return Logarithms(coordinates, endless, len(first) + values.size)


def never_falls_around(model: Model, mean: Array, deviations: Array, k: int, unit: float) -> tuple[bool, int]:
    """Whether the joint is level along coordinate k, or rises, wherever the others are: its mass is infinite.

    And the evaluations. Laplace's density may not be known there, or fall. A growth curve whose rate is
    infinite is a step, with as much mass wherever the step is between two data. A horseshoe keeps its
    coefficients while the common scale goes to 0, as their own scales grow, and has more mass far out without
    coefficients.
    """
    distances = unit * np.minimum(_LEVEL_AT, (END - _RESERVE - abs(mean[k])) / abs(unit))
    others = _AROUND * np.diag(deviations)
    others[k] = 0.0
    around = mean + np.concatenate([np.zeros((1, mean.size)), others, -others])
    points = np.tile(around, (_LEVEL_AT.size, 1, 1))
    points[..., k] += distances[:, None]
    values = densities_or_zero(model, points.reshape(-1, mean.size)).reshape(points.shape[:2])
    is_exact = np.spacing(np.abs(values)).max() < _ROUNDED * FLAT
    never_falls = (values[1:] >= np.maximum.accumulate(values)[:-1] - FLAT).all()
    return bool(is_exact and never_falls), values.size
