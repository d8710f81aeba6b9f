"""M-step of EM: weights, means and factors from the moments of a sweep, with a floor for the eigenvalues."""

from __future__ import annotations

import math

from ..compiler import inlined, kernel
from ..densities.gaussians import gaussian_kl
from ..discrete.terms import kl_term
from ..numerics.matrices import cholesky, copy_matrix, copy_vector, eigenvectors

#: Rows of `floored`: whether a component is at the covariance floor, and the number of steps in which it was.
AT_FLOOR, FLOOR_STEPS = 0, 1

#: A component with less than this share of the data is empty: its moments are rounding errors.
EMPTY = 1e-200


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


@inlined
def floored_factor(cov, floor, factor, scratch):
    """Write the factor of `cov` with its eigenvalues raised to `floor`: (whether one was raised, success).

    Of the covariances with eigenvalues above the floor this one has the largest likelihood, so that EM with a
    floor never decreases the likelihood. `scratch` holds two matrices.
    """
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
def maximise(size, weights, means, factors, floor, floored, space):
    """The M-step from the moments of a sweep: (gain per point, success).

    The gain is the KL divergence of the complete-data model before from the one after, by Pythagoras'
    theorem. `floored` marks the components that the floor acted on, and counts its actions. Where a
    covariance is singular nothing is changed.
    """
    moments, scratch = space.moments, space.matrices
    new_weights, new_means, new_factors = space.weights, space.means, space.factors
    components, dim = means.shape
    mean, cov = space.mean, space.covariance
    gain = 0.0
    for k in range(components):
        row = moments[k]
        weight = row[0] / size
        floored[AT_FLOOR, k] = 0
        if not weight > EMPTY:
            new_weights[k] = 0.0
            copy_vector(means[k], new_means[k])
            copy_matrix(factors[k], new_factors[k])
            gain += weights[k]
            continue
        for i in range(dim):
            mean[i] = row[1 + i] / row[0]
        place = 1 + dim
        for i in range(dim):
            for j in range(i + 1):
                cov[i, j] = row[place] / row[0] - mean[i] * mean[j]
                cov[j, i] = cov[i, j]
                place += 1
        acted, positive = floored_factor(cov, floor, new_factors[k], scratch)
        if not positive:
            return math.inf, False
        if acted:
            floored[AT_FLOOR, k] = 1
            floored[FLOOR_STEPS, k] += 1
        new_weights[k] = weight
        for i in range(dim):
            new_means[k, i] = means[k, i] + mean[i]
        gain += kl_term(weight, weights[k], weight - weights[k], (0.0, 0.0))
        gain += weight * gaussian_kl(new_means[k], new_factors[k], means[k], factors[k], space.solution)
    copy_vector(new_weights, weights)
    copy_matrix(new_means, means)
    for k in range(components):
        copy_matrix(new_factors[k], factors[k])
    return gain, True
