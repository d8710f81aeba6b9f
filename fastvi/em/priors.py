"""Priors of mixtures: what a user gives, checked, and as the M-step of EM takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..common.validation import cholesky_factor, finite_array, float_array, real_number
from ..common.values import Array
from .coordinates import Frame

#: What a prior consists of.
KEYS = ("concentration", "mean_precision", "mean", "degrees_of_freedom", "scale")


def mapping(prior: Any) -> Mapping[str, Any]:
    """The prior with known keys."""
    given = {} if prior is None else prior
    if not isinstance(given, Mapping):
        raise TypeError(f"prior must be a mapping with some of the keys {KEYS}, not {type(prior).__name__}")
    for key in given:
        if key not in KEYS:
            raise ValueError(f"prior has no {key!r}: its keys are {', '.join(map(repr, KEYS))}")
    return given


def mean_and_cov(points: Array, frequencies: Array | None) -> tuple[Array, Array]:
    """Mean and covariance of the data; gaps, which are NaN, count as the mean of their column."""
    weights = np.ones(len(points)) if frequencies is None else frequencies
    observed = np.isfinite(points)
    sums = weights @ observed
    first = np.array([column[there][0] for column, there in zip(points.T, observed.T, strict=True)])
    mean = first + weights @ np.where(observed, points - first, 0.0) / sums
    moved = np.where(observed, points - mean, 0.0)
    return mean, (moved * weights[:, None]).T @ moved / weights.sum()


def number(
    given: Mapping[str, Any], key: str, default: float, least: float, *, closed: bool = False
) -> float:
    """A number above `least`, or `closed`: not below it."""
    if key not in given:
        return default
    name, value = f"prior[{key!r}]", given[key]
    found = real_number(name, value)
    if not (least < found < math.inf or (closed and found == least)):
        raise ValueError(f"{name} must be finite and {'>=' if closed else '>'} {least:g}, not {value!r}")
    return found


def concentration(
    given: Mapping[str, Any], default: float, count: int, least: float, *, closed: bool = False
) -> Array:
    """α, one number for each component."""
    name, alpha = "prior['concentration']", given.get("concentration", default)
    array = np.full(count, real_number(name, alpha)) if np.ndim(alpha) == 0 else float_array(name, alpha)
    alphas = finite_array(name, array, 1, f"({count},)")
    if alphas.size != count:
        raise ValueError(f"{name} must have shape ({count},), not {alphas.shape}")
    wrong = ~((alphas > least) | (closed & (alphas == least)))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(f"{name}[{i}] is {alphas[i]!s}: it must be {'>=' if closed else '>'} {least:g}")
    return alphas


def location(given: Mapping[str, Any], default: Array) -> Array:
    """m."""
    name, dim = "prior['mean']", default.size
    array = finite_array(name, np.atleast_1d(float_array(name, given.get("mean", default))), 1, f"({dim},)")
    if array.size != dim:
        raise ValueError(f"{name} must have shape ({dim},), not {array.shape}")
    return array


def scale(given: Mapping[str, Any], default: Array) -> Array:
    """A positive definite matrix."""
    name, dim = "prior['scale']", len(default)
    array = np.atleast_2d(float_array(name, given.get("scale", default)))
    square = finite_array(name, array, 2, f"({dim}, {dim})")
    if square.shape != (dim, dim):
        raise ValueError(f"{name} must have shape ({dim}, {dim}), not {square.shape}")
    cholesky_factor(name, square)
    return square


class FramePrior(NamedTuple):
    """A prior in the coordinates of a frame."""

    numbers: Array  #: as `kernels.em.m_step` takes it; (0,) for none
    moved: float  #: what is added to its log density for the coordinates of the data
    tied: bool  #: whether all components have one covariance

    def log_density(self, weights: Array, means: Array, factors: Array) -> float:
        """The log density of a mixture of the frame, in the coordinates of the data, but for constants."""
        if not self.numbers.size:
            return 0.0
        count, dim = means.shape
        exponent, per_mean, precision = self.numbers[:3]
        counts, rest = self.numbers[3 : 3 + count], self.numbers[3 + count :]
        centre, square = rest[:dim], rest[dim:].reshape(dim, dim)
        used = counts > 0.0
        with np.errstate(divide="ignore"):
            total = self.moved + float((counts[used] * np.log(weights[used])).sum())
        for k in range(count):
            white = np.linalg.solve(factors[k], means[k] - centre)
            log_det = 2.0 * np.log(np.diag(factors[k])).sum()
            total -= 0.5 * (precision * white @ white + per_mean * log_det)
            if k == 0 or not self.tied:
                inverse = np.linalg.inv(factors[k])
                total -= 0.5 * (exponent * log_det + float(np.trace(inverse @ square @ inverse.T)))
        return float(total)


#: No prior.
FLAT = FramePrior(np.empty(0), 0.0, False)


def in_frame(
    prior: Any, count: int, points: Array, frequencies: Array, frame: Frame, kind: str
) -> FramePrior:
    """The prior of a posterior's maximum. What is not given is flat, or as Fraley and Raftery have it."""
    if prior is None:
        return FLAT
    given, dim = mapping(prior), points.shape[1]
    mean, cov = mean_and_cov(points, frequencies if frequencies.size else None)
    if kind in ("diag", "spherical"):
        cov = np.diag(np.diag(cov))
    alphas = concentration(given, 1.0, count, 1.0, closed=True)
    precision = number(given, "mean_precision", 0.0, 0.0, closed=True)
    if "mean" in given and precision == 0.0:
        raise ValueError("prior['mean'] needs prior['mean_precision'], a number > 0")
    centre, exponent, square = location(given, mean), 0.0, np.zeros((dim, dim))
    if "scale" in given or "degrees_of_freedom" in given:
        exponent = dim + 1.0 + number(given, "degrees_of_freedom", dim + 2.0, dim - 1.0)
        half = np.linalg.solve(frame.factor, np.linalg.cholesky(scale(given, cov / count ** (2.0 / dim))))
        square = half @ half.T
    tied, per_mean = kind == "tied", float(precision > 0.0)
    shifted = np.linalg.solve(frame.factor, centre - frame.mean)
    numbers = np.concatenate([[exponent, per_mean, precision], alphas - 1.0, shifted, square.ravel()])
    log_det = float(np.log(np.diag(frame.factor)).sum())
    return FramePrior(numbers, -log_det * ((1 if tied else count) * exponent + count * per_mean), tied)
