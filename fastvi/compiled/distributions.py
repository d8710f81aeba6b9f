"""Distributions inside the user's `numba.njit` code: constructors, densities, moments, KL."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload_attribute, overload_method, register_jitable

from .. import kernels
from ..common.validation import SYMMETRY_TOLERANCE, WEIGHTS_TOLERANCE
from ..discrete import information
from ..distributions import kl_and_entropy
from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from ..kernels.compiler import overloaded
from ..kernels.densities.gaussians import LOG_2PI
from .external import external
from .types import (
    GAUSSIAN,
    MIXTURE,
    GaussianType,
    MixtureType,
    TransformedType,
    is_floats,
    make_gaussian,
    make_mixture,
)


class CompiledEstimate(NamedTuple):
    """`Estimate` in compiled code: a value in nats, its error, and the number of density evaluations."""

    value: float
    error: float
    evaluations: int


@register_jitable
def _factorize(cov, factor):
    """Write the Cholesky factor of a covariance, NaN if the matrix is none."""
    good = kernels.numerics.matrices.cholesky(cov, factor)
    for i in range(cov.shape[0]):
        for j in range(i):
            gap = abs(cov[i, j] - cov[j, i])
            good = good and gap <= SYMMETRY_TOLERANCE * math.sqrt(cov[i, i] * cov[j, j])
    if not good:
        kernels.numerics.matrices.fill_matrix(math.nan, factor)


@overloaded(Gaussian)
def _overload_gaussian(mean, cov):
    if isinstance(mean, types.Float | types.Integer) and isinstance(cov, types.Float | types.Integer):

        def from_numbers(mean, cov):
            location, factor = (
                kernels.numerics.matrices.filled_vector(1, float(mean)),
                kernels.numerics.matrices.filled_matrix(1, 1, math.nan),
            )
            if 0.0 < cov < math.inf:
                factor[0, 0] = math.sqrt(cov)
            return make_gaussian((location, factor))

        return from_numbers
    if not (is_floats(mean, 1) and is_floats(cov, 2)):
        raise TypingError(
            "fastvi.Gaussian in compiled code takes float arrays (D,) and (D, D), or two numbers, "
            f"not {mean} and {cov}"
        )

    def from_arrays(mean, cov):
        dim = mean.size
        location, factor = np.empty(dim), kernels.numerics.matrices.filled_matrix(dim, dim, math.nan)
        for i in range(dim):
            location[i] = mean[i]
        if cov.shape == (dim, dim):
            _factorize(cov, factor)
        return make_gaussian((location, factor))

    return from_arrays


@overloaded(GaussianMixture)
def _overload_mixture(weights, means, covs):
    if not (is_floats(weights, 1) and is_floats(means, 2) and is_floats(covs, 3)):
        raise TypingError(
            "fastvi.GaussianMixture in compiled code takes float arrays (K,), (K, D) and (K, D, D), "
            f"not {weights}, {means}, {covs}"
        )

    def from_arrays(weights, means, covs):
        count, dim = means.shape
        logs, locations = kernels.numerics.matrices.filled_vector(count, math.nan), np.empty((count, dim))
        factors = np.empty((count, dim, dim))
        kernels.numerics.matrices.copy_matrix(means, locations)
        for k in range(count):
            kernels.numerics.matrices.fill_matrix(math.nan, factors[k])
        if weights.size == count and covs.shape == (count, dim, dim):
            total, good = 0.0, True
            for k in range(count):
                total += weights[k]
                good = good and weights[k] >= 0.0
            for k in range(count if good and abs(total - 1.0) <= WEIGHTS_TOLERANCE else 0):
                logs[k] = math.log(weights[k] / total) if weights[k] > 0.0 else -math.inf
            for k in range(count):
                _factorize(covs[k], factors[k])
        return make_mixture((logs, locations, factors))

    return from_arrays


@overload_attribute(GaussianType, "dim")
def _gaussian_dim(q):
    return lambda q: q.mean.size


@overload_attribute(MixtureType, "dim")
def _mixture_dim(p):
    return lambda p: p.means.shape[1]


@overload_attribute(TransformedType, "gaussian")
def _latent_gaussian(q):
    return lambda q: make_gaussian((q._mean, q._cholesky))


@overload_attribute(GaussianType, "cov")
def _gaussian_cov(q):
    def compiled(q):
        factor = q.cholesky
        dim = q.mean.size
        out = np.zeros((dim, dim))
        for i in range(dim):
            for j in range(dim):
                for k in range(min(i, j) + 1):
                    out[i, j] += factor[i, k] * factor[j, k]
        return out

    return compiled


@overload_attribute(MixtureType, "weights")
def _mixture_weights(p):
    return lambda p: np.exp(p._log_weights)


@overload_attribute(MixtureType, "covs")
def _mixture_covs(p):
    def compiled(p):
        out = np.empty_like(p._choleskys)
        for k in range(out.shape[0]):
            out[k] = p._choleskys[k] @ p._choleskys[k].T
        return out

    return compiled


@overload_attribute(MixtureType, "mean")
def _mixture_mean(p):
    return lambda p: _moments(p)[0]


@overload_attribute(MixtureType, "cov")
def _mixture_cov(p):
    return lambda p: _moments(p)[1]


_mixture_moments = external("kernels.densities.mixtures.mixture_moments")


@register_jitable
def _moments(p):
    dim = p.means.shape[1]
    mean, cov = np.empty(dim), np.empty((dim, dim))
    _mixture_moments((p._log_weights, p.means, p._choleskys, mean, cov))
    return mean, cov


def as_mixture(p):
    """(log weights, means, factors) of a mixture, or of a Gaussian as a mixture of one component."""
    raise NotImplementedError


@overloaded(as_mixture)
def _overload_as_mixture(p):
    if p is MIXTURE:
        return lambda p: (p._log_weights, p.means, p._choleskys)

    def compiled(p):
        dim = p.mean.size
        return np.zeros(1), p.mean.reshape((1, dim)), p.cholesky.reshape((1, dim, dim))

    return compiled


@overload_method(GaussianType, "entropy")
def _gaussian_entropy(q):
    def compiled(q):
        total = 0.5 * q.mean.size * (1.0 + LOG_2PI)
        for i in range(q.mean.size):
            total += math.log(q.cholesky[i, i])
        return total

    return compiled


def _vector(z):
    """A point as a contiguous array of float64."""
    raise NotImplementedError


@overloaded(_vector)
def _overload_vector(z):
    if isinstance(z, types.Float | types.Integer):
        return lambda z: kernels.numerics.matrices.filled_vector(1, float(z))
    if z.dtype == types.float64 and z.layout == "C":
        return lambda z: z
    return lambda z: np.ascontiguousarray(z).astype(np.float64)


@overload_method(GaussianType, "logpdf")
@overload_method(MixtureType, "logpdf")
def _logpdf(p, z):
    if isinstance(z, types.Float | types.Integer) or is_floats(z, 1):
        one = external("kernels.densities.mixtures.mixture_logpdf")

        def of_point(p, z):
            weights, means, factors = as_mixture(p)
            point = _vector(z)
            if means.shape[1] != point.size:
                return math.nan
            return one((point, weights, means, factors, np.empty(point.size)))

        return of_point
    if is_floats(z, 2):
        many = external("kernels.densities.mixtures.mixture_logpdf_many")

        def of_points(p, z):
            weights, means, factors = as_mixture(p)
            out = kernels.numerics.matrices.filled_vector(z.shape[0], math.nan)
            if means.shape[1] == z.shape[1]:
                many((_vector(z), weights, means, factors, np.empty(z.shape[1]), out))
            return out

        return of_points
    raise TypingError(f"logpdf in compiled code takes a number, or a float array (D,) or (N, D), not {z}")


@overload_method(GaussianType, "pdf")
@overload_method(MixtureType, "pdf")
def _pdf(p, z):
    return lambda p, z: np.exp(p.logpdf(z))


@overloaded(kl_and_entropy.kl_estimate)
def _kl_estimate(p, q, rtol=1e-10):
    for argument, kind in (("p", p), ("q", q)):
        if kind not in (GAUSSIAN, MIXTURE):
            raise TypingError(
                f"fastvi.kl_estimate in compiled code takes a Gaussian or a GaussianMixture as {argument}, "
                f"not {kind}"
            )
    if p is GAUSSIAN and q is GAUSSIAN:
        closed = external("compiled.operations.gaussian_kl")

        def of_gaussians(p, q, rtol=1e-10):
            if p.mean.size != q.mean.size:
                return CompiledEstimate(math.nan, math.inf, 0)
            value = closed((p.mean, p.cholesky, q.mean, q.cholesky))
            return CompiledEstimate(value, 4.4e-16 * abs(value), 0)

        return of_gaussians
    by_quadrature = external("compiled.operations.mixture_kl")

    def of_mixtures(p, q, rtol=1e-10):
        value, error, nodes = by_quadrature((as_mixture(p), as_mixture(q), float(rtol)))
        return CompiledEstimate(value, error, nodes)

    return of_mixtures


@overloaded(information.kl)
def _kl(p, q):
    if p in (GAUSSIAN, MIXTURE) and q in (GAUSSIAN, MIXTURE):
        estimate = kl_and_entropy.kl_estimate
        return lambda p, q: estimate(p, q).value
    return None
