"""Rotation of a quadrature lattice to the sharpest directions of the integrand."""

from __future__ import annotations

from ..compiler import kernel
from ..densities.mixtures import DROPPED
from ..numerics.matrices import rotate_pair
from .refinement import DIAGONAL, SWEEPS


@kernel
def _add_sharpness(coefficients, dim, matrix, vectors):
    """Add what is sharp in which direction: slopes against each other, and widths."""
    components, kept = coefficients.shape[0], 0
    if components < 2:
        return
    mean, slope = vectors[:3], vectors[3:]
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
            slope[a] = -mean[a] / kept
            for e in range(dim):
                slope[a] += row[4 + 3 * e + a] * row[1 + e]
        for a in range(dim):
            for b in range(dim):
                matrix[a, b] += slope[a] * slope[b]
                for c in range(dim):
                    ac, cb = 0.0, 0.0
                    for e in range(dim):
                        ac += row[4 + 3 * e + a] * row[4 + 3 * e + c]
                        cb += row[4 + 3 * e + c] * row[4 + 3 * e + b]
                    matrix[a, b] += ac * cb


@kernel
def _diagonalise(matrix, vectors, dim):
    """Write the eigenvectors of a symmetric matrix, which becomes nearly that of its eigenvalues."""
    for a in range(dim):
        for b in range(dim):
            vectors[a, b] = 1.0 if a == b else 0.0
    for _ in range(SWEEPS):
        for a in range(dim):
            for b in range(a + 1, dim):
                if abs(matrix[a, b]) <= DIAGONAL * (abs(matrix[a, a]) + abs(matrix[b, b])):
                    continue
                rotate_pair(matrix, vectors, a, b, dim)


@kernel
def _sort(matrix, vectors, dim):
    """Largest eigenvalue first."""
    for a in range(dim):
        for b in range(a + 1, dim):
            if matrix[b, b] > matrix[a, a]:
                matrix[a, a], matrix[b, b] = matrix[b, b], matrix[a, a]
                for k in range(dim):
                    vectors[k, a], vectors[k, b] = vectors[k, b], vectors[k, a]


@kernel
def rotate(first, second, dim, factor, space):
    """Rotate the frame (its factor, both mixtures' coefficients): the sharpest axis first."""
    if dim < 2:
        return
    matrices = space.matrices
    matrix, vectors, product = matrices.sharpness, matrices.axes, matrices.product
    for a in range(dim):
        for b in range(dim):
            matrix[a, b] = 0.0
    _add_sharpness(first, dim, matrix, space.vectors)
    _add_sharpness(second, dim, matrix, space.vectors)
    _diagonalise(matrix, vectors, dim)
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
