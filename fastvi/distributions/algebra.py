"""Marginals, conditionals, affine maps and products of Gaussians and mixtures: exact, and such again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..common.validation import finite_array, float_array, integer, real_number
from ..common.values import Array, Triple
from ..kernels.densities.gaussians import LOG_2PI
from .density import Density

#: Means (K, D) and covariances (K, D, D) of the components.
Parts = tuple[Array, Array]


class Gaussians(Density):
    """A Gaussian, or a mixture of Gaussians: what products of the two need of each other."""

    __slots__ = ()

    #: Whether it is a mixture: then so are its products.
    _is_mixture: ClassVar[bool]

    @property
    def dim(self) -> int:
        """The number of dimensions D."""
        raise NotImplementedError

    @property
    def _parts(self) -> Parts:
        raise NotImplementedError

    def _triple(self) -> Triple:
        raise NotImplementedError

    @staticmethod
    def _of_parts(weights: Array, means: Array, covs: Array) -> Any:
        """One of the same kind; a Gaussian of a single component."""
        raise NotImplementedError


def _axes(name: str, axes: Any, dim: int) -> list[int]:
    """Different axes, each from -dim to dim - 1."""
    given = axes if isinstance(axes, Iterable) and not isinstance(axes, str) else [axes]
    found = [integer(f"{name}[{i}]", axis, -dim) for i, axis in enumerate(given)]
    for i, axis in enumerate(found):
        if axis >= dim:
            raise ValueError(
                f"{name}[{i}] is {axis}: an axis of {dim} dimensions is from {-dim} to {dim - 1}"
            )
        found[i] = axis % dim
        if found[i] in found[:i]:
            raise ValueError(f"{name}[{i}] is {axis}, an axis that comes twice")
    if not found:
        raise ValueError(f"{name} is empty")
    return found


def marginal(parts: Parts, axes: Any) -> Parts:
    """The distribution of these coordinates, in this order: C. M. Bishop (2006), eq. 2.98."""
    means, covs = parts
    chosen = _axes("axes", axes, means.shape[1])
    return means[:, chosen], covs[:, chosen][:, :, chosen]


def conditional(parts: Parts, given: Any) -> tuple[Array, Parts]:
    """(log density of each component at the given coordinates, the others given those): Bishop, eq. 2.96."""
    means, covs = parts
    dim = means.shape[1]
    if not isinstance(given, Mapping):
        raise TypeError(
            f"given must be a mapping of axes to values, as {{0: 1.5}}, not {type(given).__name__}"
        )
    seen = _axes("given", list(given), dim)
    values = np.array([real_number(f"given[{axis}]", value) for axis, value in given.items()])
    finite_array("given", values, 1, "(m,)")
    rest = [axis for axis in range(dim) if axis not in seen]
    if not rest:
        raise ValueError(f"given has all {dim} axes: nothing is left")
    order, count = seen + rest, len(seen)
    # The factor in this order has that of the conditional covariance at its lower right.
    factors = np.linalg.cholesky(covs[:, order][:, :, order])
    inner, across, outer = factors[:, :count, :count], factors[:, count:, :count], factors[:, count:, count:]
    white = np.linalg.solve(inner, (values - means[:, seen])[..., None])
    logs = _log_normal(inner, white)
    located = means[:, rest] + (across @ white)[..., 0]
    return logs, (located, outer @ outer.swapaxes(1, 2))


def affine(parts: Parts, matrix: ArrayLike, shift: ArrayLike | None) -> Parts:
    """The distribution of matrix z + shift: Bishop, eq. 2.115 without noise."""
    means, covs = parts
    dim = means.shape[1]
    a = finite_array("matrix", np.atleast_2d(float_array("matrix", matrix)), 2, f"(m, {dim})")
    if a.shape[1] != dim:
        raise ValueError(f"matrix must have shape (m, {dim}), not {a.shape}")
    b = np.zeros(len(a))
    if shift is not None:
        b = finite_array("shift", np.atleast_1d(float_array("shift", shift)), 1, f"({len(a)},)")
        if b.size != len(a):
            raise ValueError(f"shift must have shape ({len(a)},), as matrix has {len(a)} rows, not {b.shape}")
    if np.linalg.matrix_rank(a) < len(a):
        raise ValueError("matrix has dependent rows: the covariance of matrix z would be singular")
    return means @ a.T + b, _symmetric(a @ covs @ a.T)


def product(p: Parts, q: Parts) -> tuple[Array, Parts]:
    """(log integral of p_i q_j, the normalised products), i the slower index: (K L,) and their parts."""
    means, covs = (np.repeat(part, len(q[0]), axis=0) for part in p)
    others, spreads = (np.concatenate([part] * len(p[0])) for part in q)
    factors = np.linalg.cholesky(covs + spreads)
    one, two = np.linalg.solve(factors, covs), np.linalg.solve(factors, spreads)
    white = np.linalg.solve(factors, (others - means)[..., None])
    located = means + (one.swapaxes(1, 2) @ white)[..., 0]
    return _log_normal(factors, white), (located, _symmetric(one.swapaxes(1, 2) @ two))


def multiply(p: Gaussians, q: Gaussians) -> tuple[Any, float]:
    """(p q over its integral, log of the integral), a Gaussian where both are."""
    for name, one in (("self", p), ("other", q)):
        if not isinstance(one, Gaussians):
            raise TypeError(f"{name} must be a Gaussian or a GaussianMixture, not {type(one).__name__}")
    if p.dim != q.dim:
        raise ValueError(f"a product needs the same dimension: {p.dim} and {q.dim} differ")
    logs, (means, covs) = product(p._parts, q._parts)
    first, second = (one._triple()[0] for one in (p, q))
    weights, total = normalised(logs + np.add.outer(first, second).ravel(), "the product")
    kind = p if p._is_mixture else q
    return kind._of_parts(weights, means, covs), total


def _log_normal(factors: NDArray[Any], white: NDArray[Any]) -> Array:
    """Log densities, from the factors of covariances and the whitened deviations (K, D, 1)."""
    half = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    return np.asarray(-0.5 * (white**2).sum(axis=(1, 2)) - half - 0.5 * white.shape[1] * LOG_2PI)


def _symmetric(covs: NDArray[Any]) -> Array:
    return np.asarray(0.5 * (covs + covs.swapaxes(1, 2)))


def normalised(logs: Array, what: str) -> tuple[Array, float]:
    """(weights in proportion to exp(logs), log of the sum of exp(logs))."""
    total = float(np.logaddexp.reduce(logs))
    if not math.isfinite(total):
        raise ValueError(f"{what} has no density that a number can hold: its logarithm is {total!r}")
    weights: NDArray[np.float64] = np.exp(logs - total)
    return weights / weights.sum(), total
