"""Projections inside the user's `numba.njit` code."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba.core.errors import TypingError
from numba.extending import overload

from .. import kernels
from ..distributions.gaussian import Gaussian
from ..kernels.families.table import PROJECTION_CODES
from ..projections import projections
from .distributions import as_mixture
from .types import GAUSSIAN, MIXTURE, constant, is_none, make_gaussian


class Optimum(NamedTuple):
    """One of the optima of a `CompiledProjection`."""

    q: Gaussian
    kl: float
    error: float
    gradient_norm: float
    converged: bool


class CompiledProjection(NamedTuple):
    """`Projection` in compiled code; `optima` is a list, best first."""

    q: Gaussian
    kl: float
    error: float
    gradient_norm: float
    converged: bool
    optima: list[Optimum]


class CompiledMatch(NamedTuple):
    """The M-projection in compiled code; its divergence is `fv.kl(p, m.q)`, by quadrature."""

    q: Gaussian
    converged: bool


@overload(projections.m_projection, prefer_literal=True)
def _m_projection(p, family="full"):
    if p not in (GAUSSIAN, MIXTURE):
        raise TypingError(
            f"fastvi.m_projection in compiled code takes a Gaussian or a GaussianMixture, not {p}"
        )
    code = constant("m_projection", "family", family, PROJECTION_CODES)
    project = kernels.projections.mixture_projections.m_projection

    def compiled(p, family="full"):
        weights, means, factors = as_mixture(p)
        dim = means.shape[1]
        mean, factor = np.empty(dim), np.empty((dim, dim))
        good = project(weights, means, factors, code, mean, factor)
        if not good:
            kernels.numerics.matrices.fill_matrix(math.nan, factor)
        return CompiledMatch(make_gaussian((mean, factor)), good)

    return compiled


@overload(projections.i_projection, prefer_literal=True)
def _i_projection(p, family="full", starts=None, rtol=1e-8):
    if p not in (GAUSSIAN, MIXTURE):
        raise TypingError(
            f"fastvi.i_projection in compiled code takes a Gaussian or a GaussianMixture, not {p}"
        )
    if not is_none(starts):
        raise TypingError(
            "fastvi.i_projection in compiled code chooses its starts itself; for one from a start of yours "
            "call fastvi.kernels.projections.i_projection"
        )
    code = constant("i_projection", "family", family, PROJECTION_CODES)
    workspace, project = (
        kernels.projections.optimum.workspace,
        kernels.projections.mixture_projections.i_projections,
    )
    read, report_size = kernels.projections.optimum.read, len(kernels.projections.optimum.Report._fields)

    def compiled(p, family="full", starts=None, rtol=1e-8):
        log_weights, means, factors = as_mixture(p)
        count, dim = means.shape
        most = count * (count + 3) // 2 + 1
        start_means, start_factors = np.empty((most, dim)), np.empty((most, dim, dim))
        reports = kernels.numerics.matrices.filled_matrix(most, report_size, math.nan)
        found = 0
        if dim <= 3 and math.isfinite(log_weights.max()):
            scratch, space = (np.empty((most, dim)), np.empty((most, dim, dim))), workspace(count, dim)
            mixture = log_weights, means, factors
            found = project(mixture, code, 0, start_means, start_factors, rtol, space, scratch, reports)
        if found == 0:
            kernels.numerics.matrices.fill_vector(math.nan, start_means[0])
            kernels.numerics.matrices.fill_matrix(math.nan, start_factors[0])
            kernels.numerics.matrices.fill_vector(math.nan, reports[0])
        optima = []
        for i in range(max(found, 1)):
            mean, factor = np.empty(dim), np.empty((dim, dim))
            kernels.numerics.matrices.copy_vector(start_means[i], mean)
            kernels.numerics.matrices.copy_matrix(start_factors[i], factor)
            q = make_gaussian((mean, factor))
            known = read(reports[i])
            optima.append(Optimum(q, known.kl, known.error, known.gradient_norm, known.status == 0.0))
        best = optima[0]
        return CompiledProjection(best.q, best.kl, best.error, best.gradient_norm, best.converged, optima)

    return compiled
