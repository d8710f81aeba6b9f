"""Projections inside the user's `numba.njit` code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import register_jitable

from .. import kernels
from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from ..kernels.compiler import overloaded
from ..kernels.families.table import PROJECTION_CODES
from ..projections import projections, reduction
from .distributions import as_mixture
from .external import external
from .types import GAUSSIAN, MIXTURE, constant, is_none, make_gaussian, make_mixture


class Optimum(NamedTuple):
    """One of the optima of a `CompiledProjection`; onto mixtures, q is a GaussianMixture."""

    q: Gaussian
    kl: float
    error: float
    gradient_norm: float
    converged: bool


class CompiledProjection(NamedTuple):
    """`Projection` in compiled code; `optima` is a list, best first.

    Onto mixtures, q is a GaussianMixture, searched for as in Python, or near one start of the caller's,
    starts=(q,). A divergence that is not resolved lies between the bounds, with their distances as its error,
    as in Python. All is NaN in more than three dimensions.
    """

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


class CompiledReduction(NamedTuple):
    """A `Reduction` in compiled code; its divergence is `fv.kl(p, r.mixture)`, by quadrature."""

    mixture: GaussianMixture
    converged: bool
    iterations: int


@overloaded(reduction.reduce_mixture, prefer_literal=True)
def _reduce_mixture(p, k, method="kl", tol=1e-5, max_iterations=2_000):
    if p not in (GAUSSIAN, MIXTURE):
        raise TypingError(
            f"fastvi.reduce_mixture in compiled code takes a Gaussian or a GaussianMixture, not {p}"
        )
    refined = constant("reduce_mixture", "method", method, {"kl": 1, "runnalls": 0})
    reduced = external("compiled.operations.reduce_mixture")

    def compiled(p, k, method="kl", tol=1e-5, max_iterations=2_000):
        logs, means, factors, status, sweeps = reduced(
            (as_mixture(p), k, refined, float(tol), max_iterations)
        )
        return CompiledReduction(make_mixture((logs, means, factors)), status == 0, sweeps)

    return compiled


def _is_of_mixtures(name, family):
    """Whether a family is ("mixture", k)."""
    if not isinstance(family, types.BaseTuple):
        return False
    word, *counts = family.types
    if len(counts) != 1 or not isinstance(types.unliteral(counts[0]), types.Integer):
        raise TypingError(f'fastvi.{name}: family must be ("mixture", k), if it is a tuple, not {family}')
    constant(name, "family[0]", word, {"mixture": 0})
    return True


@overloaded(projections.m_projection, prefer_literal=True)
def _m_projection(p, family="full"):
    if _is_of_mixtures("m_projection", family):
        return lambda p, family="full": reduction.reduce_mixture(p, family[1])
    if p not in (GAUSSIAN, MIXTURE):
        raise TypingError(
            f"fastvi.m_projection in compiled code takes a Gaussian or a GaussianMixture, not {p}"
        )
    code = constant("m_projection", "family", family, PROJECTION_CODES)
    project = external("compiled.operations.m_projection")

    def compiled(p, family="full"):
        weights, means, factors = as_mixture(p)
        mean, factor, good = project((weights, means, factors, code))
        return CompiledMatch(make_gaussian((mean, factor)), good)

    return compiled


@register_jitable
def _listed(number, logs, means, factors, reports):
    """Mixtures and their reports, best first, as a `CompiledProjection`."""
    optima = []
    for i in range(number):
        known, q = kernels.projections.optimum.read(reports[i]), make_mixture((logs[i], means[i], factors[i]))
        optima.append(Optimum(q, known.kl, known.error, known.gradient_norm, known.status == 0.0))
    best = optima[0]
    return CompiledProjection(best.q, best.kl, best.error, best.gradient_norm, best.converged, optima)


def _onto_mixtures(starts):
    """The I-projection onto mixtures of k, near a start if there is one."""
    if is_none(starts):
        project = external("compiled.operations.i_projection_onto_mixtures")

        def all_optima(p, family="full", starts=None, rtol=1e-8):
            return _listed(*project((as_mixture(p), family[1], float(rtol))))

        return all_optima
    if not isinstance(starts, types.BaseTuple) or starts.types != (MIXTURE,):
        raise TypingError(
            "fastvi.i_projection onto mixtures in compiled code takes starts=(q,), one GaussianMixture with "
            f"k components, or none, not {starts}"
        )
    project_from = external("compiled.operations.i_projection_onto_mixtures_from")

    def near_start(p, family="full", starts=None, rtol=1e-8):
        return _listed(*project_from((as_mixture(p), family[1], as_mixture(starts[0]), float(rtol))))

    return near_start


@overloaded(projections.i_projection, prefer_literal=True)
def _i_projection(p, family="full", starts=None, rtol=1e-8):
    if p not in (GAUSSIAN, MIXTURE):
        raise TypingError(
            f"fastvi.i_projection in compiled code takes a Gaussian or a GaussianMixture, not {p}"
        )
    if _is_of_mixtures("i_projection", family):
        return _onto_mixtures(starts)
    if not is_none(starts):
        raise TypingError(
            "fastvi.i_projection in compiled code chooses its starts itself; for one from a start of yours "
            "call fastvi.kernels.projections.i_projection"
        )
    code = constant("i_projection", "family", family, PROJECTION_CODES)
    project, read = external("compiled.operations.i_projection"), kernels.projections.optimum.read

    def compiled(p, family="full", starts=None, rtol=1e-8):
        count, means, factors, reports = project((as_mixture(p), code, float(rtol)))
        dim = means.shape[1]
        optima = []
        for i in range(count):
            mean, factor = np.empty(dim), np.empty((dim, dim))
            kernels.numerics.matrices.copy_vector(means[i], mean)
            kernels.numerics.matrices.copy_matrix(factors[i], factor)
            known = read(reports[i])
            q = make_gaussian((mean, factor))
            optima.append(Optimum(q, known.kl, known.error, known.gradient_norm, known.status == 0.0))
        best = optima[0]
        return CompiledProjection(best.q, best.kl, best.error, best.gradient_norm, best.converged, optima)

    return compiled
