"""Starts of the descents to the local minima of KL(q ‖ p) for a mixture p, and the sorted list of minima.

Used by `mixture_projections`; `grid_projections` uses the list alone.
"""

from __future__ import annotations

import math

from ..compiler import kernel
from ..densities.gaussians import gaussian_kl
from ..densities.mixtures import find_mode, mixture_moments, pair_moments
from ..numerics.matrices import cholesky, copy_matrix, copy_vector, solve_lower
from .optimum import SAME_START, read, write


@kernel
def is_known(mean, chol, all_means, all_chols, count, same, space):
    """Whether the KL divergence of (mean, chol) from one of the first `count` is below `same`."""
    for i in range(count):
        if gaussian_kl(mean, chol, all_means[i], all_chols[i], space) < same:
            return True
    return False


@kernel
def starts(mixture, start_means, start_chols, matrices, gradient, vectors):
    """Write the starts and return their number.

    These are the components, the Gaussian with the moments of the mixture, those with the moments of each
    pair of components (for more than two components), and the Laplace approximations at the modes. The
    mixture is (log_weights, means, chols). There must be room for K (K + 3) / 2 + 1 starts. Scratch space:
    three `matrices` (D, D), `gradient` (D,), `vectors` (2 D).
    """
    log_weights, means, chols = mixture
    components, dim = means.shape
    one, two, three = matrices
    count = 0
    for k in range(components):
        if log_weights[k] > -math.inf:
            copy_vector(means[k], start_means[count])
            copy_matrix(chols[k], start_chols[count])
            count += 1
    if components == 1:
        return count
    mixture_moments(log_weights, means, chols, start_means[count], one)
    if cholesky(one, start_chols[count]):
        count += 1
    for k in range(components if components > 2 else 0):
        for m in range(k):
            if max(log_weights[k], log_weights[m]) == -math.inf:
                continue
            pair_moments(log_weights, means, chols, k, m, start_means[count], one)
            if cholesky(one, start_chols[count]):
                count += 1
    for k in range(components):
        z = start_means[count]
        copy_vector(means[k], z)
        if not find_mode(log_weights, means, chols, z, gradient, two, three, vectors) or not cholesky(
            two, two
        ):
            continue
        # The covariance is the inverse of two two', column by column.
        for j in range(dim):
            column = three[j]
            for i in range(dim):
                column[i] = 1.0 if i == j else 0.0
            solve_lower(two, column)
        for i in range(dim):
            for j in range(i + 1):
                s = 0.0
                for a in range(dim):
                    s += three[i, a] * three[j, a]
                one[i, j] = s
        if cholesky(one, start_chols[count]) and not is_known(
            z, start_chols[count], start_means, start_chols, count, SAME_START, vectors
        ):
            count += 1
    return count


@kernel
def insert(all_means, all_chols, reports, s, count, report, mean, chol):
    """Insert optimum `s` with its report into the list of the first `count`, sorted by divergence.

    Scratch space: `mean` (D,), `chol` (D, D).
    """
    copy_vector(all_means[s], mean)
    copy_matrix(all_chols[s], chol)
    i = count
    while i > 0 and read(reports[i - 1]).kl > report.kl:
        copy_vector(all_means[i - 1], all_means[i])
        copy_matrix(all_chols[i - 1], all_chols[i])
        copy_vector(reports[i - 1], reports[i])
        i -= 1
    copy_vector(mean, all_means[i])
    copy_matrix(chol, all_chols[i])
    write(report, reports[i])
