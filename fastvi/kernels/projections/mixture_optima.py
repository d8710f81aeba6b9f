"""Optima of KL(q ‖ p) for mixtures q of k Gaussians: descents on finer and finer nodes, and their Hessian.

For I-projections onto mixtures. In up to three dimensions nodes are a lattice under each component of q.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector, borrow, named, packed
from ..compiler import exported, kernel
from ..numerics.matrices import clear_vector, dot, eigenvectors
from ..statuses import CONVERGED, NOT_A_MINIMUM, OVERFITTED, STEPS_EXHAUSTED
from . import mixture_descents
from .mixture_descents import (
    LEAST_WEIGHT,
    Mixture,
    coordinates,
    copy_mixture,
    hessian,
    lower,
    move,
    new_mixture,
    slope_at,
    tolerance_of,
)

#: Lattices (step, reach) under each component of q: the levels of the descents, for each dimension.
LEVELS = np.array(
    [
        [(0.3, 6.0), (0.15, 7.0), (0.075, 7.5), (0.03, 8.0), (0.01, 8.0), (0.003, 8.0)],
        [(0.6, 5.0), (0.35, 6.5), (0.2, 7.0), (0.12, 7.5), (0.07, 7.5), (0.04, 7.5)],
        [(0.75, 5.0), (0.55, 5.5), (0.4, 6.0), (0.28, 6.5), (0.2, 7.0), (0.14, 7.0)],
    ]
)

#: The most densities of components at nodes of an evaluation, a fifth of a second.
MOST_WORK = 20_000_000

#: Steps of the first descent, and the share of the divergence that it may lack; and steps of the others.
FIRST_STEPS, FIRST_SHARE, MOST_STEPS = 60, 1e-4, 500

#: Coordinates up to which the Hessian is taken, by differences with this step; its least eigenvalue where it
#: gives the unit of coordinates.
HESSIAN_SIZE, DIFFERENCE, FLATTEST = 150, 1e-4, 1e-6

#: How often a descent goes on from a saddle, and how far it is moved away.
SADDLES, AWAY = 3, 0.3

#: The level on which optima are followed, the share of the divergence that a descent there may lack, and the
#: share of `rtol` that one on the last levels may.
BASE, BASE_SHARE, SHARE = 1, 1e-6, 0.1

#: How many optima are followed on this level, and how many to the end.
FOLLOWED, OPTIMA = 10, 4

#: Densities of an evaluation on this level above which optima that are far above the best are not refined:
#: each would take seconds.
LONG = 500_000

#: How far above the best, as a ratio of divergences, that is: descents on finer nodes lowered none of 27
#: optima by more than a twelfth. And the tolerance of these divergences.
FAR, FAR_RTOL = 1.15, 1e-3

#: Nodes of a lattice that are neighbours in all directions follow one another, so many along each axis: a
#: block of the kernels skips components that are far from it. At most 128, its length.
SIDES = (128, 11, 5)


class Workspace(NamedTuple):
    """Scratch space for the optima of mixtures of k components; N coordinates."""

    descent: mixture_descents.Workspace
    one: Mixture  #: a side of a saddle
    two: Mixture
    slope: Vector  #: (N,)
    point: Vector  #: (N,)
    matrix: Matrix  #: (N, N): the Hessian; (0, 0) where there are too many coordinates
    axes: Matrix  #: (N, N): its eigenvectors
    basis: Matrix  #: (N, N): these in units of their deviations
    plain: Matrix  #: (0, 0): no basis


@exported
def workspace(components, count, dim):
    """Scratch space for a p of so many `components`, and a q of `count`: one for each thread.

    Parameters
    ----------
    components, count, dim : int

    Returns
    -------
    ndarray

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.projections.mixture_optima.workspace(3, 2, 1)
    """
    n = coordinates(count, dim)
    side = n if n <= HESSIAN_SIZE else 0
    return packed(
        Workspace(
            descent=mixture_descents.unpacked(components, count, dim),
            one=new_mixture(count, dim),
            two=new_mixture(count, dim),
            slope=np.empty(n),
            point=np.empty(n),
            matrix=np.empty((side, side)),
            axes=np.empty((side, side)),
            basis=np.empty((side, side)),
            plain=np.empty((0, 0)),
        )
    )


@kernel
def _visit(dim, step, reach, nodes, shares):
    """The number of nodes of a lattice in a ball; they are written, where there is room for them."""
    most, side = int(reach / step + 1e-9), SIDES[dim - 1]
    cells = (2 * most) // side + 1
    rows, layers = cells if dim > 1 else 1, cells if dim > 2 else 1
    second, third = most if dim > 1 else 0, most if dim > 2 else 0
    count, farthest = 0, (reach / step) ** 2
    for cell in range(cells * rows * layers):
        one, two, three = cell // (rows * layers), cell // layers % rows, cell % layers
        for i in range(one * side - most, min((one + 1) * side - most, most + 1)):
            for j in range(two * side - second, min((two + 1) * side - second, second + 1)):
                for k in range(three * side - third, min((three + 1) * side - third, third + 1)):
                    square = i * i + j * j + k * k
                    if square > farthest:
                        continue
                    if shares.size > 0:
                        shares[count] = math.exp(-0.5 * step * step * square)
                        nodes[0, count] = step * i
                        if dim > 1:
                            nodes[1, count] = step * j
                        if dim > 2:
                            nodes[2, count] = step * k
                    count += 1
    return count


@exported
def lattice(dim, step, reach):
    """Nodes (D, S) and weights (S,) of the trapezoid rule in a ball, whose second moments are one.

    Parameters
    ----------
    dim : int
        One, two or three.
    step, reach : float

    Returns
    -------
    nodes, shares

    Examples
    --------
    >>> from fastvi import kernels
    >>> nodes, shares = kernels.projections.mixture_optima.lattice(2, 0.5, 6.0)
    >>> nodes.shape, float(shares.sum().round(12)), (nodes**2 @ shares).round(12)
    ((2, 441), 1.0, array([1., 1.]))
    """
    count = _visit(dim, step, reach, np.empty((dim, 0)), np.empty(0))
    nodes, shares = np.empty((dim, count)), np.empty(count)
    _visit(dim, step, reach, nodes, shares)
    total, square = 0.0, 0.0
    for s in range(count):
        total += shares[s]
        square += shares[s] * nodes[0, s] * nodes[0, s]
    scale = math.sqrt(total / square)
    for s in range(count):
        shares[s] /= total
        for i in range(dim):
            nodes[i, s] *= scale
    return nodes, shares


@kernel
def _level(flat, shares, ends, level, dim):
    """(nodes (D, S), weights (S,)) of a level."""
    first, last = ends[level], ends[level + 1]
    return flat[dim * first : dim * last].reshape((dim, last - first)), shares[first:last]


@kernel
def _curvature(p, q, nodes, shares, space):
    """Write the eigenvalues of the Hessian to the diagonal of `matrix`, and its axes; where the least is.

    Its 0 along all logits at once becomes 1. -1 where it is not finite.
    """
    matrix, along = space.matrix, space.point
    n, count = along.size, q[0].size
    if not hessian(p, q, nodes, shares, DIFFERENCE, matrix, space.descent):
        return -1
    clear_vector(along)
    for k in range(count):
        along[k * (n // count)] = math.sqrt(max(math.exp(q[0][k]), LEAST_WEIGHT))
    square = dot(along, along)
    for i in range(n):
        for j in range(i + 1):
            mean = 0.5 * (matrix[i, j] + matrix[j, i]) + along[i] * along[j] / square
            matrix[i, j], matrix[j, i] = mean, mean
    eigenvectors(matrix, space.axes)
    least = 0
    for i in range(1, n):
        if matrix[i, i] < matrix[least, least]:
            least = i
    return least


@kernel
def _leave_saddle(p, q, nodes, shares, axis, value, most, space):
    """Descend from both sides of a saddle along an axis; the lower end becomes q: (its value, what it lacks).

    And the evaluations. q stays where neither is lower: next to a component that has all but vanished both
    may run off without end.
    """
    lack, evaluations = math.inf, 0
    copy_mixture(q, space.one)
    for sign in (-AWAY, AWAY):
        copy_mixture(space.one, space.two)
        for i in range(space.point.size):
            space.point[i] = sign * space.axes[i, axis]
        move(space.two, space.point, space.descent)
        found, lacking, more, _ = lower(
            p, space.two, nodes, shares, space.plain, most, BASE_SHARE, math.inf, space.descent
        )
        evaluations += more
        if found < value:
            value, lack = found, lacking
            copy_mixture(space.two, q)
    return value, lack, evaluations


@kernel
def _lower_to_finite(p, q, nodes, shares, basis, most, share, space):
    """`lower`; q stays where it is if the descent runs off to where the divergence is not finite.

    Along the coordinates of a component that has all but vanished it may, in units of their deviations.
    """
    copy_mixture(q, space.one)
    value, lack, evaluations, _ = lower(p, q, nodes, shares, basis, most, share, math.inf, space.descent)
    if not value < math.inf:
        copy_mixture(space.one, q)
    return value, lack, evaluations


@kernel
def _write_basis(space):
    """Write the axes in units of their deviations."""
    for j in range(space.point.size):
        scale = 1.0 / math.sqrt(max(abs(space.matrix[j, j]), FLATTEST))
        for i in range(space.point.size):
            space.basis[i, j] = space.axes[i, j] * scale


@kernel
def _promised(basis, slope):
    """Half of the squared length of a gradient in a basis."""
    total = 0.0
    for j in range(slope.size):
        s = slope[j]
        if basis.size > 0:
            s = 0.0
            for i in range(slope.size):
                s += basis[i, j] * slope[i]
        total += 0.5 * s * s
    return total


@exported
def polish(p, q, levels, most, rtol, space):
    """The optimum of KL(q ‖ p) near q, which is overwritten, on nodes that are made finer while that matters.

    Parameters
    ----------
    p, q : tuple
        Log weights, means and factors of the mixtures.
    levels : tuple
        (nodes, shares, ends): those of all levels one after another, each with its nodes (D, S) as one row;
        level i has the weights shares[ends[i] : ends[i + 1]].
    most : int
        Most steps of a descent.
    rtol : float
        What the divergence may lack, relative.
    space : ndarray
        A `workspace`.

    Returns
    -------
    value, norm, status, evaluations
        The divergence on the last nodes, and the length of its gradient. Status 0: what a finer level changes
        is below the tolerance; 1: the steps were used up; 3: a saddle, or a descent that runs off to where
        nothing is finite, where q stays as it was before that; 5: there is no finer level. And evaluations of
        log p and log q.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.3, 0.4]), np.array([[-1.0], [1.0], [9.0]]), np.ones((3, 1, 1))
    >>> q = np.log([0.5, 0.5]), np.array([[0.0], [8.0]]), np.ones((2, 1, 1))
    >>> optima = kernels.projections.mixture_optima
    >>> found = [optima.lattice(1, step, 7.0) for step in (0.15, 0.1, 0.05)]
    >>> ends = np.cumsum([0] + [shares.size for _, shares in found])
    >>> levels = np.concatenate([n[0] for n, _ in found]), np.concatenate([s for _, s in found]), ends
    >>> value, norm, status, _ = optima.polish(p, q, levels, 99, 1e-8, optima.workspace(3, 2, 1))
    >>> round(value, 8), status
    (0.00636386, 0)
    """
    p, q, space = borrow(p), borrow(q), named(Workspace, borrow(space))
    flat, all_shares, ends = borrow(levels)
    count, dim = q[1].shape
    space.descent.control[0] = 0
    nodes, shares = _level(flat, all_shares, ends, 0, dim)
    basis, lowest, status, evaluations = space.plain, 1.0, OVERFITTED, 0
    value, lack, more = _lower_to_finite(p, q, nodes, shares, basis, most, BASE_SHARE, space)
    evaluations += more * shares.size
    if not value < math.inf:
        return value, math.nan, NOT_A_MINIMUM, evaluations * count
    if space.matrix.size > 0:
        for _ in range(SADDLES):
            least = _curvature(p, q, nodes, shares, space)
            evaluations += 2 * space.point.size * shares.size
            if least < 0:
                return value, math.nan, NOT_A_MINIMUM, evaluations * count
            lowest = space.matrix[least, least]
            if lowest > 0.0:
                break
            value, lack, more = _leave_saddle(p, q, nodes, shares, least, value, most, space)
            evaluations += more * shares.size
            if not lack < math.inf:
                break
        _write_basis(space)
        basis = space.basis
    clear_vector(space.point)
    for level in range(1, ends.size - 1):
        nodes, shares = _level(flat, all_shares, ends, level, dim)
        slope_at(p, q, nodes, shares, space.point, space.slope, space.descent)
        promised = _promised(basis, space.slope)
        value, lack, more = _lower_to_finite(p, q, nodes, shares, basis, most, SHARE * rtol, space)
        evaluations += (more + 1) * shares.size
        if not value < math.inf:
            return value, math.nan, NOT_A_MINIMUM, evaluations * count
        if promised <= tolerance_of(value, rtol):
            status = CONVERGED
            break
    if not lack <= tolerance_of(value, rtol) and ends.size > 2:
        status = STEPS_EXHAUSTED
    if not lowest > 0.0:
        status = NOT_A_MINIMUM
    slope_at(p, q, nodes, shares, space.point, space.slope, space.descent)
    norm = math.sqrt(dot(space.slope, space.slope))
    return value, norm, status, (evaluations + shares.size) * count
