"""Rotation of a quadrature lattice to the sharpest directions of the integrand.

A lattice needs short steps along the directions in which a log density changes fast. After the rotation these
are the axes, so only one or two of its steps are short. Used by `mixture_kl` and by projections.
"""

from __future__ import annotations

from ..compiler import kernel
from ..densities.mixtures import DROPPED
from ..numerics.matrices import diagonalise

#: Sweeps of Jacobi rotations, and the off-diagonal entry that is left: the axes need not be exact.
SWEEPS, OFF_DIAGONAL = 8, 1e-9


@kernel
def _add_sharpness(coefficients, dim, matrix, vectors):
    """Add the sharpness of a mixture by direction, a quadratic form; 0 for fewer than two components.

    The sum over the components of g g' + Lambda**2, g the difference of the component's gradient at xi = 0
    from the mean of all, Lambda its precision.
    """
    components, kept = coefficients.shape[0], 0
    if components < 2:
        return
    mean, gradient = vectors[:3], vectors[3:]
    for a in range(dim):
        mean[a] = 0.0
    for k in range(components):
        row = coefficients[k]
        if row[0] == DROPPED:
            continue
        kept += 1
        for a in range(dim):
            for e in range(dim):
                mean[a] += row[4 + 3 * e + a] * row[1 + e]
    for k in range(components):
        row = coefficients[k]
        if row[0] == DROPPED:
            continue
        for a in range(dim):
            gradient[a] = -mean[a] / kept
            for e in range(dim):
                gradient[a] += row[4 + 3 * e + a] * row[1 + e]
        for a in range(dim):
            for b in range(dim):
                matrix[a, b] += gradient[a] * gradient[b]
                for c in range(dim):
                    ac, cb = 0.0, 0.0
                    for e in range(dim):
                        ac += row[4 + 3 * e + a] * row[4 + 3 * e + c]
                        cb += row[4 + 3 * e + c] * row[4 + 3 * e + b]
                    matrix[a, b] += ac * cb


@kernel
def _sort(matrix, vectors, dim):
    """Sort the eigenvalues and the eigenvectors, the largest eigenvalue first."""
    for a in range(dim):
        for b in range(a + 1, dim):
            if matrix[b, b] > matrix[a, a]:
                matrix[a, a], matrix[b, b] = matrix[b, b], matrix[a, a]
                for k in range(dim):
                    vectors[k, a], vectors[k, b] = vectors[k, b], vectors[k, a]


@kernel
def rotate(first, second, dim, factor, space):
    """Rotate the frame, that is its factor and the coefficients of both mixtures: the sharpest axis first."""
    if dim < 2:
        return
    matrices = space.matrices
    matrix, vectors, product = matrices.sharpness, matrices.axes, matrices.product
    for a in range(dim):
        for b in range(dim):
            matrix[a, b] = 0.0
    _add_sharpness(first, dim, matrix, space.vectors)
    _add_sharpness(second, dim, matrix, space.vectors)
    diagonalise(matrix, vectors, dim, OFF_DIAGONAL, SWEEPS, True)
    _sort(matrix, vectors, dim)
    _times(factor, vectors, dim, product)
    for coefficients in (first, second):
        for k in range(coefficients.shape[0]):
            row = coefficients[k]
            for i in range(dim):
                for j in range(dim):
                    product[i, j] = 0.0
                    for e in range(dim):
                        product[i, j] += row[4 + 3 * i + e] * vectors[e, j]
            for i in range(dim):
                for j in range(dim):
                    row[4 + 3 * i + j] = product[i, j]


@kernel
def _times(matrix, right, dim, product):
    """matrix = matrix right, in place."""
    for i in range(dim):
        for j in range(dim):
            product[i, j] = 0.0
            for k in range(dim):
                product[i, j] += matrix[i, k] * right[k, j]
    for i in range(dim):
        for j in range(dim):
            matrix[i, j] = product[i, j]
