"""Where a fit starts: a Laplace approximation, or what the user gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..common.validation import float_array
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.variational import TransformedGaussian, TruncatedGaussian
from ..kernels.families.table import HELD, MEAN
from .expectations import _laplace_fault, _latent_gaussian
from .kernel_calls import _conditional, _named, _space, _target, _words
from .model import Model

#: Gradient tolerance and most steps of the search for a mode in many dimensions: a start needs no digits.
_NEAR_MODE, _MODE_STEPS = 1e-2, 200


# Where fits start.


def _start_of(model: Model, start: Any, name: str = "start") -> tuple[Array, Array | None]:
    """Latent mean, and factor where the start has one."""
    r = model.latent_dim
    if start is None:
        return np.zeros(r), None
    if isinstance(start, TruncatedGaussian):
        if model.dim != 1:
            raise ValueError(f"{name} has dimension 1, the model has {model.dim}")
        return model._support.to_latent(name, start.mean[None])[0], None
    if isinstance(start, TransformedGaussian):
        gaussian = _latent_gaussian(model, start)
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


def _check_start(family: str, factor: Array | None) -> None:
    if family in HELD and factor is None:
        raise ValueError(f'family="{family}" holds the covariance of the start: give a Gaussian as start')


def _laplace_start(model: Model, start: Any) -> tuple[Array, Array, Array, int]:
    """(mean, factor, conditional deviations, evaluations) to start from."""
    mean, factor = _start_of(model, start)
    r = model.latent_dim
    if factor is not None:
        return mean, factor, _conditional(factor), 0
    space = _space("laplace", r, model.dim)
    scale, factor = np.ones(r), np.eye(r)
    if r <= kernels.inference.laplace.DENSE:
        status, used = kernels.inference.entry_points.laplace(_target(model), mean, scale, factor, space)
    else:
        status, used = _diagonal_laplace(model, mean, scale, space)
        factor = np.diag(scale)
    if status:
        raise ValueError(f"the fit cannot start: {_words(status, _laplace_fault(model, r))}")
    return mean, factor, scale, used


def _diagonal_laplace(model: Model, mean: Array, scale: Array, space: Any) -> tuple[int, int]:
    """A mode, and the conditional standard deviations there: for many dimensions."""
    r = mean.size
    status, used = kernels.inference.entry_points.calibrate(_target(model), mean, scale, space)
    for _ in range(2):
        if status:
            return status, used
        draws_space = _space("draws", MEAN, r, model.dim)
        _named(kernels.inference.draws_fits.Workspace, draws_space).point[:] = 0.0
        row = np.zeros(8)
        kernels.inference.entry_points.fit_draws(
            _target(model),
            MEAN,
            np.zeros((1, r)),
            (mean.copy(), np.diag(scale), scale),
            (_NEAR_MODE, _MODE_STEPS),
            (mean, np.empty((r, r)), np.empty(1), row),
            draws_space,
        )
        used += int(kernels.inference.reports.Report(*row).evaluations)
        status, more = kernels.inference.entry_points.calibrate(_target(model), mean, scale, space)
        used += more
    return status, used
