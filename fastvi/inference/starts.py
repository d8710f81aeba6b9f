"""Starts of fits: the q that the user gives, or Laplace's approximation from a point.

All of it in latent coordinates. Used by the fits, and by `log_evidence` for its coordinates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..common.validation import float_array
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.variational import TransformedGaussian, TruncatedGaussian
from ..kernels.families.table import HELD, MEAN
from .expectations import latent_gaussian
from .faults import error_of
from .kernel_calls import conditional_deviations, fault_point, workspace, workspace_member
from .model import Model, target_of

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


def check_start(family: str, factor: Array | None) -> None:
    """Raise ValueError for a family that takes its covariance from a start that has none."""
    if family in HELD and factor is None:
        raise ValueError(f'family="{family}" holds the covariance of the start: give a Gaussian as start')


def laplace_start(model: Model, start: Any, family: str = "full") -> tuple[Array, Array, Array, int]:
    """(mean, factor, conditional deviations, evaluations): the q given, or Laplace's approximation."""
    mean, factor = start_of(model, start)
    check_start(family, factor)
    r = model.latent_dim
    if factor is not None:
        return mean, factor, conditional_deviations(factor), 0
    space = workspace("laplace", r, model.dim)
    scale, factor = np.ones(r), np.eye(r)
    if r <= kernels.inference.laplace.DENSE:
        status, used = kernels.inference.entry_points.laplace(target_of(model), mean, scale, factor, space)
    else:
        status, used = _diagonal_laplace(model, mean, scale, space)
        factor = np.diag(scale)
    if status:
        raise error_of(model, status, fault_point("laplace", space), "the fit cannot start: ")
    return mean, factor, scale, used


def _diagonal_laplace(model: Model, mean: Array, scale: Array, space: Any) -> tuple[int, int]:
    """A mode by L-BFGS, and the conditional standard deviations there: for many dimensions.

    Writes `mean` and `scale`; (status, evaluations). The mode is the optimum of a fit of the mean on one draw
    that is zero.
    """
    r = mean.size
    status, used = kernels.inference.entry_points.calibrate(target_of(model), mean, scale, space)
    for _ in range(_MODE_ROUNDS):
        if status:
            return status, used
        draws_space = workspace("draws", MEAN, r, model.dim)
        workspace_member("draws", draws_space, "point")[:] = 0.0
        row = np.zeros(8)
        kernels.inference.entry_points.fit_draws(
            target_of(model),
            MEAN,
            np.zeros((1, r)),
            (mean.copy(), np.diag(scale), scale),
            (_MODE_TOLERANCE, _MODE_STEPS),
            (mean, np.empty((r, r)), np.empty(1), row),
            draws_space,
        )
        used += int(kernels.inference.reports.Report(*row).evaluations)
        status, more = kernels.inference.entry_points.calibrate(target_of(model), mean, scale, space)
        used += more
    return status, used
