"""Linear algebra of small dense matrices; a covariance is given by its lower Cholesky factor.

Arrays are copied and filled by loops: numba's slice assignment brings the text of its error message into each
function that has one, which costs a second of compile time.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import adder, formula, inlined, kernel

#: Most sweeps of Jacobi rotations: a dozen are usual.
MOST_SWEEPS = 30

#: Largest off-diagonal entry that is left, relative to the diagonal: less than rounding.
OFF_DIAGONAL = 1e-17

#: Rows with a cosine below this are orthogonal.
ORTHOGONAL = 1e-14


@kernel
def copy_vector(source, target):
    """target = source."""
    for i in range(target.size):
        target[i] = source[i]


@kernel
def copy_matrix(source, target):
    """target = source."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = source[i, j]


@adder
def add_up(x):
    """The sum of a vector."""
    s = 0.0
    for i in range(x.size):
        s += x[i]
    return s


@adder
def dot(x, y):
    """The inner product of two vectors."""
    s = 0.0
    for i in range(x.size):
        s += x[i] * y[i]
    return s


@formula
def add_scaled(scale, vector, target):
    """target += scale vector."""
    for i in range(target.size):
        target[i] += scale * vector[i]


@kernel
def fill_vector(value, target):
    """target = value. numpy's assignment takes ten times as long to compile."""
    for i in range(target.size):
        target[i] = value


@kernel
def fill_matrix(value, target):
    """target = value."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = value


@kernel
def filled_vector(size, value):
    """A new vector."""
    target = np.empty(size)
    fill_vector(value, target)
    return target


@kernel
def filled_matrix(rows, columns, value):
    """A new matrix."""
    target = np.empty((rows, columns))
    fill_matrix(value, target)
    return target


@kernel
def clear_vector(target):
    """target = 0."""
    for i in range(target.size):
        target[i] = 0.0


@kernel
def clear_matrix(target):
    """target = 0."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = 0.0


@kernel
def set_diagonal(diagonal, target):
    """target = a diagonal matrix."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = 0.0
        target[i, i] = diagonal[i]


@kernel
def cholesky(matrix, out):
    """Write the lower factor of a symmetric matrix; False where it is not positive definite.

    Only the lower triangle is read, and `out` may be `matrix`.
    """
    n = matrix.shape[0]
    for i in range(n):
        for j in range(i + 1):
            s = matrix[i, j]
            for k in range(j):
                s -= out[i, k] * out[j, k]
            if i > j:
                out[i, j] = s / out[j, j]
            elif s > 0.0 and s < math.inf:
                out[i, i] = math.sqrt(s)
            else:
                return False
    for i in range(n):
        for j in range(i + 1, n):
            out[i, j] = 0.0
    return True


@inlined
def is_factor(chol):
    """Whether the diagonal of a Cholesky factor is positive and finite."""
    for i in range(chol.shape[0]):
        if not 0.0 < chol[i, i] < math.inf:
            return False
    return True


@kernel
def solve_lower(chol, vector):
    """Solve chol x = vector, in place."""
    for i in range(vector.size):
        s = vector[i]
        for j in range(i):
            s -= chol[i, j] * vector[j]
        vector[i] = s / chol[i, i]


@kernel
def solve_upper(chol, vector):
    """Solve chol.T x = vector, in place."""
    for i in range(vector.size - 1, -1, -1):
        s = vector[i]
        for j in range(i + 1, vector.size):
            s -= chol[j, i] * vector[j]
        vector[i] = s / chol[i, i]


@kernel
def precisions(factor, out, space):
    """Write the diagonal of (factor factor')**-1."""
    n = out.size
    for i in range(n):
        for j in range(n):
            space[j] = 1.0 if i == j else 0.0
        solve_lower(factor, space)
        s = 0.0
        for j in range(n):
            s += space[j] * space[j]
        out[i] = s


@kernel
def half_log_det(chol):
    """log |Sigma| / 2, the sum of the logarithms of the diagonal."""
    s = 0.0
    for i in range(chol.shape[0]):
        s += math.log(chol[i, i])
    return s


@kernel
def rotate_pair(matrix, vectors, i, j, dim):
    """Jacobi rotation in the plane of two axes: matrix[i, j] becomes 0, the larger eigenvalue is at i.

    The columns of `vectors` are rotated as well.
    """
    angle = 0.5 * math.atan2(2.0 * matrix[i, j], matrix[i, i] - matrix[j, j])
    c, s = math.cos(angle), math.sin(angle)
    for k in range(dim):
        x, y = matrix[k, i], matrix[k, j]
        matrix[k, i], matrix[k, j] = c * x + s * y, c * y - s * x
        x, y = vectors[k, i], vectors[k, j]
        vectors[k, i], vectors[k, j] = c * x + s * y, c * y - s * x
    for k in range(dim):
        x, y = matrix[i, k], matrix[j, k]
        matrix[i, k], matrix[j, k] = c * x + s * y, c * y - s * x


@kernel
def diagonalise(matrix, vectors, dim, tolerance, most_sweeps, descending):
    """Jacobi's method: overwrite a symmetric matrix by its eigenvalues, write the eigenvectors as columns.

    It ends when each off-diagonal entry is at most `tolerance` relative to the diagonal. `descending`: each
    rotation puts the larger eigenvalue first, not last.
    """
    for i in range(dim):
        for j in range(dim):
            vectors[i, j] = 1.0 if i == j else 0.0
    for _ in range(most_sweeps):
        rotated = False
        for i in range(dim):
            for j in range(i):
                large, small = (j, i) if descending else (i, j)
                if abs(matrix[large, small]) <= tolerance * (abs(matrix[i, i]) + abs(matrix[j, j])):
                    continue
                rotated = True
                rotate_pair(matrix, vectors, large, small, dim)
        if not rotated:
            return


@kernel
def _rotate(x, y, c, s):
    """Rotate in the plane of two vectors."""
    for k in range(x.size):
        a, b = x[k], y[k]
        x[k], y[k] = c * a + s * b, c * b - s * a


@kernel
def orthogonalise(rows, turned):
    """Rotate the rows of a matrix, two at a time, until they are orthogonal, and those of `turned` with them.

    The lengths of the rows are its singular values then. Those of a matrix whose rows are of very different
    lengths come out to a relative accuracy: J. Demmel, K. Veselić, Jacobi's Method is More Accurate than QR,
    SIAM J. Matrix Anal. Appl. 13 (1992). `turned` may have no columns.
    """
    for _ in range(MOST_SWEEPS):
        rotated = False
        for i in range(rows.shape[0]):
            for j in range(i):
                one, two, both = dot(rows[i], rows[i]), dot(rows[j], rows[j]), dot(rows[i], rows[j])
                if abs(both) <= ORTHOGONAL * math.sqrt(one) * math.sqrt(two):
                    continue
                rotated = True
                angle = 0.5 * math.atan2(2.0 * both, one - two)
                c, s = math.cos(angle), math.sin(angle)
                _rotate(rows[i], rows[j], c, s)
                _rotate(turned[i], turned[j], c, s)
        if not rotated:
            return


@kernel
def eigenvectors(matrix, vectors):
    """Overwrite a symmetric matrix by its eigenvalues, to rounding, and write its eigenvectors as columns."""
    diagonalise(matrix, vectors, matrix.shape[0], OFF_DIAGONAL, MOST_SWEEPS, False)
