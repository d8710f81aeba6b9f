"""M-step of EM: weights, means and factors from the moments of a sweep, with a floor for the eigenvalues."""

from __future__ import annotations

import math

from ..compiler import exported, inlined, kernel
from ..densities.gaussians import gaussian_kl
from ..discrete.terms import kl_term
from ..numerics.matrices import (
    cholesky,
    clear_matrix,
    copy_matrix,
    copy_vector,
    dot,
    eigenvectors,
    half_log_det,
    orthogonalise,
    solve_lower,
    solve_upper,
)
from .e_step import KIND, SPHERICAL, TIED, in_units, is_diagonal

#: Rows of `floored`: whether a component is at the covariance floor, and the number of steps in which it was.
AT_FLOOR, FLOOR_STEPS = 0, 1

#: A component with less than this share of the data is empty: its moments are rounding errors.
EMPTY_SHARE = 1e-200

#: A covariance is singular where the variance of a coordinate, given those before it, is below this part of
#: its variance (rounding leaves 1e-16), or below `LEAST_VARIANCE` (of equal points rounding leaves 1e-32).
DEPENDENT, LEAST_VARIANCE = 1e-14, 1e-26

#: Where a coordinate's variance is so many times what it is given those before it, moments are taken in units
#: of the factor. Else roundings are 1e-16 of a variance: of a component with an outlier of 1e6 as much as a
#: covariance floor of 1e-6, and EM does not converge. In units of the factor they are the root of that.
STEEP = 1e6

#: What rounding alone makes of an M-step's gain, for each point and unit of `steepness`: beside outliers of
#: 10 to 1e9, 1e-34 to 7e-31.
ROUNDING = 1e-30

#: The least variance in a direction, in units of the factor before.
LEAST_UNIT = 1e-30

_ROOT = math.sqrt(2.0)

#: Where the parts of `Workspace.prior` start. The density of a covariance is
#: |Σ|**(-e / 2) exp(-tr(Λ Σ**-1) / 2), that of a mean N(m, Σ / κ), that of the weights Dirichlet(α). In
#: order: e; what a mean adds to it, 1 or 0; κ; α - 1; m; Λ.
EXPONENT, PER_MEAN, PRECISION, COUNTS = 0, 1, 2, 3


@inlined
def has_prior(space):
    """Whether the fit is of a posterior."""
    return space.prior.size > 0


@inlined
def _prior_mean(components, space):
    dim = space.mean.size
    return space.prior[COUNTS + components : COUNTS + components + dim]


@inlined
def _prior_scale(components, space):
    dim = space.mean.size
    return space.prior[COUNTS + components + dim :].reshape((dim, dim))


@kernel
def log_prior(weights, means, factors, space):
    """The logarithm of the prior density of a mixture, but for constants."""
    components, dim = means.shape
    prior, vector = space.prior, space.mean
    centre, scale = _prior_mean(components, space), _prior_scale(components, space)
    total = 0.0
    for k in range(components):
        if prior[COUNTS + k] > 0.0:
            total += prior[COUNTS + k] * math.log(weights[k]) if weights[k] > 0.0 else -math.inf
        for i in range(dim):
            vector[i] = means[k, i] - centre[i]
        solve_lower(factors[k], vector)
        total -= 0.5 * prior[PRECISION] * dot(vector, vector)
        exponent = prior[PER_MEAN]
        if k == 0 or space.control[KIND] != TIED:
            exponent += prior[EXPONENT]
            # tr(Λ Σ**-1), a row of Σ**-1 at a time.
            for i in range(dim):
                for j in range(dim):
                    vector[j] = 1.0 if i == j else 0.0
                solve_lower(factors[k], vector)
                solve_upper(factors[k], vector)
                total -= 0.5 * dot(vector, scale[i])
        total -= exponent * half_log_det(factors[k])
    return total


@kernel
def _raised_factor(matrix, floor, vectors, factor):
    """Write the factor of the symmetric `matrix` with eigenvalues below `floor` raised to it; True if finite.

    Both matrices are overwritten. The factor is that of L Q = V sqrt(Λ): the product V Λ V' would lose
    eigenvalues below 1e-16 of the largest, as beside an outlier.
    """
    dim = matrix.shape[0]
    eigenvectors(matrix, vectors)
    for i in range(dim):
        for a in range(dim):
            vectors[i, a] *= math.sqrt(max(matrix[a, a], floor))
    return _triangular(vectors, floor, factor)


@kernel
def _triangular(vectors, floor, factor):
    """Write the lower factor of vectors vectors', by modified Gram-Schmidt; True if it is finite.

    No eigenvalue is below the floor, so no variance of a coordinate given others is. Where rounding made one
    smaller, it is raised to the floor.
    """
    dim = factor.shape[0]
    good = True
    for i in range(dim):
        row = vectors[i]
        for a in range(dim):
            factor[i, a] = 0.0
        for j in range(i):
            factor[i, j] = dot(row, vectors[j])
            for a in range(dim):
                row[a] -= factor[i, j] * vectors[j, a]
        factor[i, i] = math.sqrt(max(dot(row, row), floor))
        good = good and 0.0 < factor[i, i] < math.inf
        for a in range(dim):
            row[a] /= factor[i, i]
    return good


@kernel
def _factor(cov, factor):
    """Write the factor of `cov`; False where it is singular to rounding."""
    return cholesky(cov, factor) and _is_regular(factor)


@kernel
def _is_regular(factor):
    """Whether no coordinate depends on those before it, to rounding."""
    for i in range(factor.shape[0]):
        square = factor[i, i] ** 2
        if not (square > DEPENDENT * dot(factor[i], factor[i]) and square > LEAST_VARIANCE):
            return False
    return True


@kernel
def steepness(factor):
    """The largest ratio of a coordinate's variance to that given the coordinates before it."""
    largest = 1.0
    for i in range(factor.shape[0]):
        largest = max(largest, dot(factor[i], factor[i]) / factor[i, i] ** 2)
    return largest


@inlined
def is_steep(factor, space):
    """Whether moments of this component are to be taken in units of its factor: see `STEEP`."""
    return not is_diagonal(space) and steepness(factor) > STEEP


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
    if cholesky(scratch[0], scratch[1]) and cholesky(cov, factor):
        return False, True
    copy_matrix(cov, scratch[0])
    return True, _raised_factor(scratch[0], floor, scratch[1], factor)


@kernel
def _floored_in_units(cov, floor, before, factor, scratch):
    """As `floored_factor`, for `cov` in the units of a factor `before` as `in_units` has them."""
    dim = cov.shape[0]
    root, rows = scratch[0], scratch[1]
    triangular = cholesky(cov, root)
    for i in range(dim):
        triangular = triangular and root[i, i] ** 2 > LEAST_UNIT
    if not triangular:
        copy_matrix(cov, rows)
        eigenvectors(rows, root)
        for a in range(dim):
            scale = math.sqrt(max(rows[a, a], LEAST_UNIT))
            for i in range(dim):
                root[i, a] *= scale
    for i in range(dim):
        for a in range(dim):
            s = 0.0
            for j in range(i + 1):
                s += before[i, j] * root[j, a]
            factor[i, a] = _ROOT * s
            rows[a, i] = factor[i, a]
    if floor == 0.0:
        return False, triangular and _is_regular(factor)
    # The columns of the factor, rotated to be orthogonal: then they are the principal axes.
    orthogonalise(rows, rows[:, :0])
    acted = False
    for a in range(dim):
        square = dot(rows[a], rows[a])
        if square < floor:
            acted, scale = True, math.sqrt(floor / square) if square > 0.0 else 0.0
            for i in range(dim):
                rows[a, i] *= scale
    if triangular and not acted:
        return False, True
    for i in range(dim):
        for a in range(dim):
            root[i, a] = rows[a, i]
    return acted, _triangular(root, floor, factor)


@kernel
def floored_start(before, floor, factor, space):
    """As `floored_factor`, for a covariance that is given by its factor."""
    dim, cov = before.shape[0], space.covariance
    if is_steep(before, space):
        for i in range(dim):
            for j in range(dim):
                cov[i, j] = 0.5 if i == j else 0.0
        return _floored_in_units(cov, floor, before, factor, space.matrices)
    for i in range(dim):
        for j in range(dim):
            cov[i, j] = 0.0
            for a in range(min(i, j) + 1):
                cov[i, j] += before[i, a] * before[j, a]
    return floored_factor(cov, floor, factor, space.matrices)


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
def _away(k, means, factors, space):
    """The mean of the prior less that of a component, as the moments have it."""
    centre, away = _prior_mean(means.shape[0], space), space.solution[: means.shape[1]]
    for i in range(away.size):
        away[i] = centre[i] - means[k, i]
    if in_units(space.moments[k]):
        _divide(factors[k], away)
    return away


@inlined
def _divide(factor, vector):
    """Replace a difference by itself in the units of a factor."""
    solve_lower(factor, vector)
    for i in range(vector.size):
        vector[i] /= _ROOT


@kernel
def _posterior_moments_of(k, means, factors, mean, cov, space):
    """Write a component's mean at the maximum of the posterior, relative to that before, and its scatter.

    The scatter is without the scale of the prior. C. Fraley, A. E. Raftery, Bayesian Regularization for
    Normal Mixture Estimation and Model-Based Clustering, J. Classif. 24 (2007), table 1.
    """
    dim, row, precision = mean.size, space.moments[k], space.prior[PRECISION]
    away, count = _away(k, means, factors, space), row[0] + precision
    for i in range(dim):
        mean[i] = (row[1 + i] + precision * away[i]) / count if count > EMPTY_SHARE else 0.0
    place = 1 + dim
    for i in range(dim):
        for j in range(i + 1):
            cov[i, j] = row[place] + precision * away[i] * away[j] - count * mean[i] * mean[j]
            cov[j, i] = cov[i, j]
            place += 1


@kernel
def _add_scale(count, k, factors, cov, space):
    """cov = (cov + Λ) / count, Λ in units of the factor where the moments are."""
    dim, scale, vector = cov.shape[0], space.matrices[0], space.solution[: cov.shape[0]]
    copy_matrix(_prior_scale(factors.shape[0], space), scale)
    if in_units(space.moments[k]):
        for i in range(dim):
            _divide(factors[k], scale[i])
        for j in range(dim):
            for i in range(dim):
                vector[i] = scale[i, j]
            _divide(factors[k], vector)
            for i in range(dim):
                scale[i, j] = vector[i]
    for i in range(dim):
        for j in range(dim):
            cov[i, j] = (cov[i, j] + scale[i, j]) / count


@inlined
def _floored(cov, k, factors, floor, factor, space):
    """`floored_factor` of a component's covariance, as its moments have it."""
    if in_units(space.moments[k]):
        return _floored_in_units(cov, floor, factors[k], factor, space.matrices)
    return floored_factor(cov, floor, factor, space.matrices)


@kernel
def _tied_factor(mass, means, factors, floor, space):
    """Write the factor of the mean covariance of the components to the space: as `floored_factor`."""
    moments, mean, cov = space.moments, space.mean, space.covariance
    pooled = space.factors[0]
    clear_matrix(pooled)
    components, dim = means.shape
    for k in range(components):
        row = moments[k]
        if has_prior(space):
            _posterior_moments_of(k, means, factors, mean, cov, space)
        else:
            # The moments of the first may be those of all components, also where it has no data.
            for i in range(dim):
                mean[i] = row[1 + i] / row[0] if row[0] > EMPTY_SHARE * mass else 0.0
            place = 1 + dim
            for i in range(dim):
                for j in range(i + 1):
                    cov[i, j] = row[place] / mass - row[0] / mass * mean[i] * mean[j]
                    cov[j, i] = cov[i, j]
                    place += 1
        for i in range(dim):
            for j in range(dim):
                pooled[i, j] += cov[i, j]
    copy_matrix(pooled, cov)
    if has_prior(space):
        count = mass + space.prior[EXPONENT] + components * space.prior[PER_MEAN]
        _add_scale(count, 0, factors, cov, space)
    acted, positive = _floored(cov, 0, factors, floor, pooled, space)
    for k in range(1, components):
        copy_matrix(pooled, space.factors[k])
    return acted, positive


@exported
def maximise(mass, weights, means, factors, floor, floored, space):
    """The M-step from the moments of a sweep over points of this total weight: (gain per point, success).

    With a prior, to the maximum of the posterior.

    The gain is the KL divergence of the complete-data model before from the one after, by Pythagoras'
    theorem, which holds for each kind of covariances. What rounding alone may make of it is written to the
    space. `floored` marks the components that the floor acted on, and counts its actions. Where a covariance
    is singular nothing is changed.
    """
    moments = space.moments
    new_weights, new_means, new_factors = space.weights, space.means, space.factors
    components, dim = means.shape
    mean, cov = space.mean, space.covariance
    tied, known = space.control[KIND] == TIED, has_prior(space)
    acted, positive, added = False, True, 0.0
    for k in range(components if known else 0):
        added += space.prior[COUNTS + k]
    if tied:
        acted, positive = _tied_factor(mass, means, factors, floor, space)
    gain, space.rounding[0] = 0.0, 0.0
    for k in range(components):
        row = moments[k]
        weight = row[0] / mass
        count, count_of_mean = row[0], row[0]
        if known:
            weight = (row[0] + space.prior[COUNTS + k]) / (mass + added)
            count += space.prior[PER_MEAN] + (space.prior[EXPONENT] if not tied or k == 0 else 0.0)
            count_of_mean += space.prior[PRECISION]
        floored[AT_FLOOR, k] = 0
        empty = not (count if known else weight) > EMPTY_SHARE
        if empty:
            copy_vector(means[k], new_means[k])
        else:
            if known:
                _posterior_moments_of(k, means, factors, mean, cov, space)
            else:
                _moments_of(row, mean, cov)
            space.rounding[0] += ROUNDING * weight * steepness(factors[k])
            for i in range(dim):
                change = mean[i]
                if in_units(row):
                    change = _ROOT * dot(factors[k, i, : i + 1], mean[: i + 1])
                new_means[k, i] = means[k, i] + change
        if not tied:
            acted, positive = False, True
            if empty:
                copy_matrix(factors[k], new_factors[k])
            else:
                if known:
                    _add_scale(count, k, factors, cov, space)
                constrain(cov, space)
                acted, positive = _floored(cov, k, factors, floor, new_factors[k], space)
        if not positive:
            return math.inf, False
        if acted:
            floored[AT_FLOOR, k] = 1
            floored[FLOOR_STEPS, k] += 1
        new_weights[k] = 0.0 if empty else weight
        if empty:
            gain += weights[k]
        elif known:
            gain += (1.0 + added / mass) * kl_term(weight, weights[k], weight - weights[k], (0.0, 0.0))
            # The part of the divergence that is due to the covariances: with the mean held.
            of_covariance = gaussian_kl(means[k], new_factors[k], means[k], factors[k], space.solution)
            whole = gaussian_kl(new_means[k], new_factors[k], means[k], factors[k], space.solution)
            gain += (count * of_covariance + count_of_mean * (whole - of_covariance)) / mass
        else:
            gain += kl_term(weight, weights[k], weight - weights[k], (0.0, 0.0))
            gain += weight * gaussian_kl(new_means[k], new_factors[k], means[k], factors[k], space.solution)
    copy_vector(new_weights, weights)
    copy_matrix(new_means, means)
    for k in range(components):
        copy_matrix(new_factors[k], factors[k])
    return gain, True
