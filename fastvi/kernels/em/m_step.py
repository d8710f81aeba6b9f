"""M-step of EM: weights, means and factors from the moments of a sweep, with a floor for the eigenvalues."""

from __future__ import annotations

import math

from ..compiler import inlined, kernel
from ..densities.gaussians import gaussian_kl
from ..discrete.terms import kl_term
from ..numerics.matrices import cholesky, clear_matrix, copy_matrix, copy_vector, eigenvectors
from .e_step import KIND, SPHERICAL, TIED, is_diagonal

#: Rows of `floored`: whether a component is at the covariance floor, and the number of steps in which it was.
AT_FLOOR, FLOOR_STEPS = 0, 1

#: A component with less than this share of the data is empty: its moments are rounding errors.
EMPTY = 1e-200

#: A covariance is singular where the variance of a coordinate, given those before it, is below this part of
#: its variance (rounding leaves 1e-16), or below `LEAST`: of points that are equal rounding leaves 1e-32.
DEPENDENT, LEAST = 1e-14, 1e-26


@kernel
def _raise_eigenvalues(matrix, floor, vectors, out):
    """out = the symmetric `matrix` with eigenvalues below `floor` raised to it; the matrix is overwritten."""
    dim = matrix.shape[0]
    eigenvectors(matrix, vectors)
    for i in range(dim):
        for j in range(i + 1):
            s = 0.0
            for a in range(dim):
                s += max(matrix[a, a], floor) * vectors[i, a] * vectors[j, a]
            out[i, j] = s
            out[j, i] = s


@kernel
def _factor(cov, factor):
    """Write the factor of `cov`; False where it is singular to rounding."""
    good = cholesky(cov, factor)
    for i in range(cov.shape[0]):
        good = good and factor[i, i] ** 2 > DEPENDENT * cov[i, i] and factor[i, i] ** 2 > LEAST
    return good


@inlined
def floored_factor(cov, floor, factor, scratch):
    """Write the factor of `cov` with its eigenvalues raised to `floor`: (whether one was raised, success).

    Of the covariances with eigenvalues above the floor this one has the largest likelihood, so that EM with a
    floor never decreases the likelihood. `scratch` holds two matrices.
    """
    if floor == 0.0:
        return False, _factor(cov, factor)
    dim = cov.shape[0]
    copy_matrix(cov, scratch[0])
    for i in range(dim):
        scratch[0, i, i] -= floor
    if cholesky(scratch[0], scratch[1]):
        return False, cholesky(cov, factor)
    copy_matrix(cov, scratch[0])
    _raise_eigenvalues(scratch[0], floor, scratch[1], factor)
    return True, cholesky(factor, factor)


@kernel
def constrain(cov, space):
    """Replace a component's covariance by the likeliest of its kind, TIED excepted."""
    if not is_diagonal(space):
        return
    dim = cov.shape[0]
    mean = 0.0
    for i in range(dim):
        mean += cov[i, i] / dim
    for i in range(dim):
        for j in range(dim):
            if i != j:
                cov[i, j] = 0.0
            elif space.control[KIND] == SPHERICAL:
                cov[i, i] = mean


@kernel
def _moments_of(row, mean, cov):
    """Write a component's mean, relative to its mean before, and its covariance."""
    dim = mean.size
    for i in range(dim):
        mean[i] = row[1 + i] / row[0]
    place = 1 + dim
    for i in range(dim):
        for j in range(i + 1):
            cov[i, j] = row[place] / row[0] - mean[i] * mean[j]
            cov[j, i] = cov[i, j]
            place += 1


@kernel
def _tied_factor(mass, floor, space):
    """Write the factor of the mean covariance of the components to the space: as `floored_factor`."""
    moments, mean, cov = space.moments, space.mean, space.covariance
    pooled = space.factors[0]
    clear_matrix(pooled)
    for k in range(moments.shape[0]):
        if moments[k, 0] / mass > EMPTY:
            _moments_of(moments[k], mean, cov)
            for i in range(mean.size):
                for j in range(mean.size):
                    pooled[i, j] += moments[k, 0] / mass * cov[i, j]
    copy_matrix(pooled, cov)
    acted, positive = floored_factor(cov, floor, pooled, space.matrices)
    for k in range(1, moments.shape[0]):
        copy_matrix(pooled, space.factors[k])
    return acted, positive


@kernel
def maximise(mass, weights, means, factors, floor, floored, space):
    """The M-step from the moments of a sweep over points of this total weight: (gain per point, success).

    The gain is the KL divergence of the complete-data model before from the one after, by Pythagoras'
    theorem, which holds for each kind of covariances. `floored` marks the components that the floor acted on,
    and counts its actions. Where a covariance is singular nothing is changed.
    """
    moments, scratch = space.moments, space.matrices
    new_weights, new_means, new_factors = space.weights, space.means, space.factors
    components, dim = means.shape
    mean, cov = space.mean, space.covariance
    tied = space.control[KIND] == TIED
    acted, positive = False, True
    if tied:
        acted, positive = _tied_factor(mass, floor, space)
    gain = 0.0
    for k in range(components):
        row = moments[k]
        weight = row[0] / mass
        floored[AT_FLOOR, k] = 0
        empty = not weight > EMPTY
        if empty:
            copy_vector(means[k], new_means[k])
        else:
            _moments_of(row, mean, cov)
            for i in range(dim):
                new_means[k, i] = means[k, i] + mean[i]
        if not tied:
            acted, positive = False, True
            if empty:
                copy_matrix(factors[k], new_factors[k])
            else:
                constrain(cov, space)
                acted, positive = floored_factor(cov, floor, new_factors[k], scratch)
        if not positive:
            return math.inf, False
        if acted:
            floored[AT_FLOOR, k] = 1
            floored[FLOOR_STEPS, k] += 1
        new_weights[k] = 0.0 if empty else weight
        if empty:
            gain += weights[k]
        else:
            gain += kl_term(weight, weights[k], weight - weights[k], (0.0, 0.0))
            gain += weight * gaussian_kl(new_means[k], new_factors[k], means[k], factors[k], space.solution)
    copy_vector(new_weights, weights)
    copy_matrix(new_means, means)
    for k in range(components):
        copy_matrix(new_factors[k], factors[k])
    return gain, True
