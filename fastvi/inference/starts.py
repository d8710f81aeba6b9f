"""Starts of fits: the q that the user gives, or Laplace's approximation from a point.

All of it in latent coordinates. Used by the fits, and by `log_evidence` for its coordinates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.validation import float_array, generator
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.variational import TransformedGaussian, TruncatedGaussian
from ..kernels.families.table import HELD, MEAN
from ..kernels.statuses import FINE
from .expectations import latent_gaussian
from .faults import error_of
from .kernel_calls import fault_point, fit_on_draws, workspace, workspace_member
from .model import Model, target_of

#: Seed of the dispersed points.
_SEED = 20240302

#: Gradient tolerance and most steps of the search for a mode in many dimensions; a start may be rough.
_MODE_TOLERANCE, _MODE_STEPS = 1e-2, 200

#: Searches for that mode, each in units of the deviations that were found at the last one.
_MODE_ROUNDS = 2


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


def check_start(family: str, factor: Array | None) -> None:
    """Raise ValueError for a family that takes its covariance from a start that has none."""
    if family in HELD and factor is None:
        raise ValueError(f'family="{family}" holds the covariance of the start: give a Gaussian as start')


class Laplace(NamedTuple):
    """Laplace's approximation in latent coordinates, or what hindered it."""

    mean: Array
    factor: Array  #: of its covariance
    scale: Array  #: the conditional deviations
    evaluations: int
    status: int = FINE  #: a fault of the log joint
    where: Any = None  #: and its point z


def laplace_from(model: Model, point: Array, guess: float = 1.0) -> Laplace:
    """Laplace's approximation near a point, with a guess of the deviations."""
    r = model.latent_dim
    space, mean = workspace("laplace", r, model.dim), point.copy()
    scale, factor = np.full(r, guess), np.eye(r)
    if r <= kernels.inference.laplace.DENSE:
        status, used = kernels.inference.entry_points.laplace(target_of(model), mean, scale, factor, space)
    else:
        status, used = _diagonal_laplace(model, mean, scale, space)
        factor = np.diag(scale)
    return Laplace(mean, factor, scale, used, status, fault_point("laplace", space) if status else None)


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
        mean[:], more = ascent(model, mean, scale)
        used += more
        status, more = kernels.inference.entry_points.calibrate(target_of(model), mean, scale, space)
        used += more
    return status, used


def ascent(model: Model, point: Array, scale: Array) -> tuple[Array, int]:
    """(a mode by L-BFGS from a point, evaluations), in units of some deviations.

    Steps to where the log joint is at fault are rejected. The mode is the optimum of a fit of the mean on one
    draw that is zero.
    """
    r = point.size
    space = workspace("draws", MEAN, r, model.dim)
    workspace_member("draws", space, "point")[:] = 0.0
    workspace_member("draws", space, "curvature")[:] = 0
    start, limits = (point.copy(), np.diag(scale), scale), (_MODE_TOLERANCE, _MODE_STEPS)
    mean = point.copy()
    report = fit_on_draws(model, MEAN, np.zeros((1, r)), start, limits, (mean, np.empty((r, r))), space)
    return mean, int(report.evaluations)
