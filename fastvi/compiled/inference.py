"""ELBO, evidence and fits inside the user's `numba.njit` code.

There `Gaussian`, `GaussianMixture` and `Model` are values that can be made, passed in from Python and
returned to it (a Model only passed in). As with arrays nothing is raised: an invalid argument makes the
result NaN, and `converged` is False. Results have the fields of their Python counterparts, without texts and
traces. Each call allocates its scratch space, which takes a fit about 2 µs; the kernels (`fastvi.kernels`)
take it from the caller.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba.core.errors import TypingError
from numba.extending import overload, register_jitable

from .. import kernels
from ..distributions.gaussian import Gaussian
from ..inference import evidence, expectations, fitting
from ..kernels import statuses
from ..kernels.families.table import CODES, TABLE
from .distributions import CompiledEstimate
from .types import GAUSSIAN, TRANSFORMED, ModelType, constant, is_none, make_gaussian, make_transformed


class CompiledFit(NamedTuple):
    """`Fit` in compiled code; `status` is a number of `kernels.statuses`."""

    q: Gaussian
    elbo: CompiledEstimate
    gradient_norm: float
    converged: bool
    status: int


#: Status of a fit whose start is invalid.
INVALID_START = statuses.INVALID


def _check_model(name, model):
    """The log joint of a model whose dimension quadrature can deal with."""
    if not isinstance(model, ModelType):
        raise TypingError(f"fastvi.{name} in compiled code takes a Model, not {model}")
    if model.latent > 2:
        raise TypingError(
            f"fastvi.{name} in compiled code is for one or two latent dimensions, not {model.latent}: "
            "call fastvi.kernels.draws.fit_draws"
        )
    return model.log_joint.dispatcher


def _gaussian_of(q):
    raise NotImplementedError


@overload(_gaussian_of)
def _overload_gaussian_of(q):
    return (lambda q: q) if q is GAUSSIAN else (lambda q: q.gaussian)


def _q_of(model, q):
    raise NotImplementedError


@overload(_q_of)
def _overload_q_of(model, q):
    """q as in Python: transformed to the support where that is not the real line."""
    if model.real:
        return lambda model, q: q
    return lambda model, q: make_transformed((q.mean, q.cholesky, model._kinds, model._bounds))


def _same_support(model, q):
    raise NotImplementedError


@overload(_same_support)
def _overload_same_support(model, q):
    if q is GAUSSIAN:
        return lambda model, q: True

    def compiled(model, q):
        same = model._kinds.size == q._kinds.size
        for i in range(model._kinds.size if same else 0):
            same = same and model._kinds[i] == q._kinds[i]
            same = same and model._bounds[i, 0] == q._bounds[i, 0] and model._bounds[i, 1] == q._bounds[i, 1]
        return same

    return compiled


def _expectation(model, q, rtol, grad_mean, grad_chol):
    raise NotImplementedError


@overload(_expectation)
def _overload_expectation(model, q, rtol, grad_mean, grad_chol):
    """The ELBO; its gradient is written, NaN where there is none."""
    log_joint = _check_model("elbo", model)
    if q not in (GAUSSIAN, TRANSFORMED):
        raise TypingError(
            f"fastvi.elbo in compiled code takes a Gaussian or a TransformedGaussian as q, not {q}"
        )
    latent, dim = model.latent, model.dim
    workspace, elbo = (
        kernels.inference.quadrature_fits.workspace,
        kernels.inference.quadrature_fits.elbo_quadrature,
    )
    outside = q is GAUSSIAN and not model.real

    def compiled(model, q, rtol, grad_mean, grad_chol):
        kernels.numerics.matrices.fill_vector(math.nan, grad_mean)
        kernels.numerics.matrices.fill_matrix(math.nan, grad_chol)
        gaussian = _gaussian_of(q)
        if gaussian.mean.size != latent or not _same_support(model, q):
            return CompiledEstimate(math.nan, math.inf, 0)
        if outside:  # q has mass where the joint is zero
            return CompiledEstimate(-math.inf, 0.0, 0)
        if not math.isfinite(gaussian.cholesky[0, 0]):
            return CompiledEstimate(math.nan, math.inf, 0)
        problem = model.data, model._kinds, model._bounds
        status, value, error, nodes, _ = elbo(
            log_joint,
            problem,
            gaussian.mean,
            gaussian.cholesky,
            rtol,
            workspace(latent, dim),
            grad_mean,
            grad_chol,
        )
        if status != statuses.FINE:
            return CompiledEstimate(-math.inf if status == statuses.ZERO else math.nan, math.inf, nodes)
        return CompiledEstimate(value, error, nodes)

    return compiled


@overload(expectations.elbo)
def _elbo(model, q, rtol=1e-10):
    _check_model("elbo", model)

    def compiled(model, q, rtol=1e-10):
        latent = model._kinds.size
        return _expectation(model, q, rtol, np.empty(latent), np.empty((latent, latent)))

    return compiled


@overload(expectations.elbo_grad)
def _elbo_grad(model, q, rtol=1e-10):
    _check_model("elbo_grad", model)
    gradient = expectations.Gradient

    def compiled(model, q, rtol=1e-10):
        latent = model._kinds.size
        grad_mean, grad_chol = np.empty(latent), np.empty((latent, latent))
        value = _expectation(model, q, rtol, grad_mean, grad_chol).value
        return gradient(value, grad_mean, grad_chol)

    return compiled


@overload(fitting.fit, prefer_literal=True)
def _fit(
    model,
    family="full",
    start=None,
    method="auto",
    starts=None,
    rtol=1e-8,
    max_steps=500,
):
    log_joint = _check_model("fit", model)
    code = constant("fit", "family", family, CODES)
    constant("fit", "method", method, {"auto": 0})
    if not is_none(starts):
        raise TypingError("fastvi.fit in compiled code takes one start: call it for each, and keep the best")
    latent, dim = model.latent, model.dim
    workspace, report_size = (
        kernels.inference.quadrature_fits.workspace,
        kernels.inference.reports.REPORT_SIZE,
    )
    if not is_none(start) and start not in (GAUSSIAN, TRANSFORMED):
        raise TypingError(
            f"fastvi.fit in compiled code starts from a Gaussian in latent coordinates, not {start}"
        )
    name = TABLE[code].name
    if TABLE[code].held and is_none(start):
        raise TypingError(
            f"fastvi.fit: family={name!r} holds the covariance of the start: give a Gaussian as start"
        )
    # Two functions, because Laplace's approximation takes as long to compile as the rest, and is compiled
    # into every function that calls it.
    fit_from, fit_near = (
        kernels.inference.quadrature_fits.fit_quadrature,
        kernels.inference.quadrature_fits.start_and_fit_quadrature,
    )

    def near_zero(
        model,
        family="full",
        start=None,
        method="auto",
        starts=None,
        rtol=1e-8,
        max_steps=500,
    ):
        mean, scale = (
            kernels.numerics.matrices.filled_vector(latent, 0.0),
            kernels.numerics.matrices.filled_vector(latent, 1.0),
        )
        factor, report = (
            np.empty((latent, latent)),
            kernels.numerics.matrices.filled_vector(report_size, math.nan),
        )
        problem, trace, space = (model.data, model._kinds, model._bounds), np.empty(0), workspace(latent, dim)
        start_ = mean, scale, factor
        status = fit_near(log_joint, problem, code, True, start_, rtol, max_steps, space, trace, report)
        return _made(model, mean, factor, report, status)

    def from_start(
        model,
        family="full",
        start=None,
        method="auto",
        starts=None,
        rtol=1e-8,
        max_steps=500,
    ):
        mean, factor = np.empty(latent), np.empty((latent, latent))
        report = kernels.numerics.matrices.filled_vector(report_size, math.nan)
        problem, trace, status = (model.data, model._kinds, model._bounds), np.empty(0), INVALID_START
        if _begin(start, code, mean, factor):
            space = workspace(latent, dim)
            status = fit_from(log_joint, problem, code, mean, factor, rtol, max_steps, space, trace, report)
        return _made(model, mean, factor, report, status)

    return near_zero if is_none(start) else from_start


@register_jitable
def _made(model, mean, factor, report, status):
    found = kernels.inference.reports.read_report(report)
    evaluations = int(found.evaluations) if found.evaluations >= 0.0 else 0
    estimate = CompiledEstimate(found.elbo, found.error, evaluations)
    if not found.elbo > -math.inf:
        # The fit could not start: its factor is not written.
        kernels.numerics.matrices.fill_vector(math.nan, mean)
        kernels.numerics.matrices.fill_matrix(math.nan, factor)
    q = _q_of(model, make_gaussian((mean, factor)))
    return CompiledFit(q, estimate, found.gradient_norm, status == statuses.CONVERGED, status)


@register_jitable
def _begin(start, family, mean, factor):
    """Write the mean and the factor to start from; False for an invalid start."""
    gaussian = _gaussian_of(start)
    kernels.numerics.matrices.fill_vector(math.nan, mean)
    kernels.numerics.matrices.fill_matrix(math.nan, factor)
    if gaussian.mean.size != mean.size or not math.isfinite(gaussian.cholesky[0, 0]):
        return False
    kernels.numerics.matrices.copy_vector(gaussian.mean, mean)
    kernels.numerics.matrices.copy_matrix(gaussian.cholesky, factor)
    kernels.families.operations.restrict(family, factor, np.empty(2 * mean.size))
    return True


@overload(evidence.log_evidence)
def _log_evidence(model, start=None, rtol=1e-10):
    log_joint = _check_model("log_evidence", model)
    if not is_none(start):
        raise TypingError("fastvi.log_evidence in compiled code finds its frame itself")
    latent, dim = model.latent, model.dim
    fit_space, laplace = kernels.inference.quadrature_fits.workspace, kernels.inference.laplace.laplace
    workspace, integrate = kernels.inference.evidence.workspace, kernels.inference.evidence.integrate
    make_problem, density = kernels.models.evaluation.Problem, kernels.inference.evidence.Density
    gaussian, joint = kernels.inference.evidence.GAUSSIAN, kernels.inference.evidence.JOINT

    def compiled(model, start=None, rtol=1e-10):
        problem = make_problem(model.data, model._kinds, model._bounds)
        mean, scale, factor = np.zeros(latent), np.ones(latent), np.eye(latent)
        space = fit_space(latent, dim)
        fault, n = laplace(log_joint, problem, mean, scale, factor, space.lattice.panel, space.laplace)
        if fault != statuses.FINE:
            return CompiledEstimate(math.nan, math.inf, n)
        none = density(gaussian, np.zeros(latent), np.eye(latent), np.zeros(2), 0.0)
        status, value, error, nodes = integrate(
            log_joint, problem, mean, factor, rtol, none, joint, 0.0, workspace(latent, dim)
        )
        if status != statuses.FINE:
            return CompiledEstimate(math.nan, math.inf, n + nodes)
        if error == math.inf:  # the posterior is improper
            value = math.inf
        return CompiledEstimate(value, error, n + nodes)

    return compiled
