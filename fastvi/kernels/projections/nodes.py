"""Nodes under a mixture p, on which `refinements` takes expectations under p: lattices and pairs of points.

In one and two dimensions each component of p has a lattice, relative to its mean and factor, or shares one:
where components overlap, the nodes of one lattice do for all of them. What has a lattice of its own is a
group here, of one component or of several. A level has about twice the nodes of the one before, and each
group takes the level that it needs. In more dimensions each component has pairs of opposite quasi-random
points.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, IntegerMatrix, Integers, Matrix, Vector
from ..compiler import adder, exported, formula, inlined, kernel
from ..em.e_step import BLOCK, block_shares, prepare, weighted_log_likelihood, workspace_for
from ..em.seeding import GOLDEN
from ..numerics.elementary import log
from ..numerics.matrices import (
    add_up,
    cholesky,
    clear_matrix,
    clear_vector,
    dot,
)

#: Steps and radii of lattices, in standard deviations, on the line and in the plane. In the plane the density
#: at the radius of a level is an eighth to an eighteenth of that at the radius of the one before: with radii
#: that grow less, two levels agree that are both off.
STEPS = (
    (1.2, 0.6, 0.3, 0.15, 0.075, 0.0375, 0.01875, 0.009375, 0.0046875, 0.00234375, 0.001171875),
    (1.2, 0.85, 0.6, 0.425, 0.3, 0.2125, 0.15, 0.10625, 0.075, 0.075, 0.075),
)
RADII = (
    (4.0, 4.5, 5.2, 6.0, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5),
    (4.0, 4.5, 5.0, 5.5, 6.0, 6.4, 6.8, 7.1, 7.4, 7.4, 7.4),
)

#: The number of levels: of the plane the last two above are none.
LEVELS = (11, 9)
MOST_LEVELS = max(LEVELS)


def _size(dim: int, step: float, radius: float, shift: float) -> int:
    """The number of points of a lattice in a ball around 0."""
    most = radius / step
    squares = (np.arange(-int(most) - 1, int(most) + 2) + shift) ** 2
    return int(np.sum((squares if dim == 1 else squares[:, None] + squares) <= most * most))


#: Their numbers of nodes, by the dimension, and by the shift, of none or of half a step along each axis.
SIZES = tuple(
    tuple(
        tuple(
            _size(dim, step, radius, shift)
            for step, radius in zip(STEPS[dim - 1], RADII[dim - 1], strict=True)
        )
        for shift in (0.0, 0.5)
    )
    for dim in (1, 2)
)

#: Radii of shared lattices: larger, since most of what they add lies under other components.
SHARED_RADII = (5.0, 5.5, 6.0, 6.4, 6.8, 7.1, 7.4, 7.4, 7.4)

#: Cells of boxes around shared lattices, two of them at most: of the masses and of all densities, on the
#: finest level. 16 MB, of which only those that are needed are touched.
CELLS = 1 << 21

#: Components that are narrower are taken as this wide, in units in which the covariance of p is about I.
LEAST_DEVIATION = 1e-100

#: A level of a shared lattice has fewer than so many times the nodes of the one before: 2 for the step, and
#: for the radii.
GROWTH = 3

#: The first level has at least so many nodes under all components, if each has its own.
FIRST_NODES = 1000

#: What remains on the next level of an error, and of the excess of q's divergence, a square of errors.
#: For smooth functions less remains.
NEXT_ERROR, NEXT_EXCESS = 0.1, 0.01

#: The share of `tol` for the error of the groups that have fewer nodes than others.
SPARE = 0.02

#: Most dimensions of a lattice.
LATTICE_DIM = 2

#: Most nodes under all components: of lattices, and of pairs of opposite points in more dimensions.
MOST_NODES, MOST_PAIRED = 1 << 18, 1 << 16

#: Least and most pairs under a component, and the part of them that the first level takes.
LEAST_PAIRS, MOST_PAIRS, FIRST_PART = 128, 4096, 8

#: The lattice of the pairs. Each coordinate is shifted by a multiple of GOLDEN, modulo 1.
GENERATOR = 17797


class Nodes(NamedTuple):
    """Up to N nodes under K components in D dimensions, by groups, and space to choose them."""

    points: Vector  #: (D N,): the nodes under all components, (D, count)
    rules: Cube  #: (2, D, L): nodes under the standard normal, level after level; and shifted ones
    shares: Matrix  #: (2, L): their weights
    starts: IntegerMatrix  #: (2, levels + 1): where a level starts
    members: Integers  #: (K,): the components, those of a group side by side
    bounds: Integers  #: (K + 1,): where the members of a group begin, and the last end
    groups: Integers  #: (1,): the number of groups
    units: Vector  #: (K,): the unit of a shared lattice; 0 for the lattice of one component
    levels: Integers  #: (K,): the level of each group
    ends: Integers  #: (K,): where its nodes end
    shifted_ends: Integers  #: (K,): where those of its shifted lattice end, behind the nodes of all groups
    values: Vector  #: (K,): its part of E_p[log q]
    errors: Vector  #: (K,): what the last level changed of it
    moves: Integers  #: (K,): 1 where the next level is needed
    overlaps: Vector  #: (K,): of each component with one of q, for `resolution`
    cells: Vector  #: (CELLS,) or (0,): masses in the box around a shared lattice, the last coordinate first
    square: Matrix  #: (D, D)
    other: Matrix  #: (D, D)


@kernel
def _pairs(level, dim, components):
    """The number of pairs of opposite nodes under a component, a power of two."""
    wanted = min(max(MOST_PAIRED // (2 * components), LEAST_PAIRS), MOST_PAIRS)
    pairs = 1
    while 2 * pairs <= wanted or pairs <= 4 * dim:
        pairs *= 2
    first = pairs // FIRST_PART
    while first <= 4 * dim:
        first *= 2
    return pairs if level > 0 else first


@kernel
def _write_lattice(level, shift, dim, nodes, shares):
    """Write the nodes of the trapezoid rule in a ball and their weights."""
    step, most = STEPS[dim - 1][level], RADII[dim - 1][level] / STEPS[dim - 1][level]
    first, end, count = -int(most) - 1, int(most) + 2, 0
    for i in range(first, end):
        for j in range(first if dim == 2 else 0, end if dim == 2 else 1):
            x, y = i + shift, j + shift if dim == 2 else 0.0
            if x * x + y * y <= most * most:
                nodes[0, count] = step * x
                if dim == 2:
                    nodes[1, count] = step * y
                shares[count] = math.exp(-0.5 * step * step * (x * x + y * y))
                count += 1


@kernel
def _write_pairs(pairs, nodes, shares):
    """Write pairs of opposite normal points: by Box and Muller from a shifted lattice of 2**m points.

    F. J. Hickernell, H. S. Hong, P. L'Écuyer, C. Lemieux, Extensible Lattice Sequences for Quasi-Monte Carlo
    Quadrature, SIAM J. Sci. Comput. 22 (2000).
    """
    dim = nodes.shape[0]
    factor = 1
    for i in range(0, dim, 2):
        other = factor * GENERATOR % pairs
        first_shift, second_shift = (i + 1) * GOLDEN, (i + 2) * GOLDEN
        for n in range(pairs):
            u, v = n * factor % pairs / pairs + first_shift, n * other % pairs / pairs + second_shift
            radius, angle = math.sqrt(-2.0 * math.log(u - math.floor(u))), 2.0 * math.pi * v
            for j in range(min(2, dim - i)):
                value = radius * (math.cos(angle) if j == 0 else math.sin(angle))
                nodes[i + j, n], nodes[i + j, pairs + n] = value, -value
        factor = other * GENERATOR % pairs
    for n in range(2 * pairs):
        shares[n] = 1.0


@kernel
def _level_size(level, dim, components):
    """The most nodes of a level under a component, shifted or not; 0 where there is no such level."""
    if dim > LATTICE_DIM:
        return 2 * _pairs(level, dim, components) if level < 2 else 0
    return max(SIZES[dim - 1][0][level], SIZES[dim - 1][1][level]) if level < LEVELS[dim - 1] else 0


@exported
def most_nodes(dim, components):
    """The most nodes under so many components."""
    if dim > LATTICE_DIM:
        return _level_size(1, dim, components) * components
    return max(MOST_NODES, _level_size(0, dim, components) * components)


@kernel
def room_for(dim, components):
    """Room for the most nodes, and of lattices for as many shifted ones."""
    return most_nodes(dim, components) * (2 if dim <= LATTICE_DIM else 1)


@kernel
def nodes_for(components, dim):
    """Space for the nodes under so many components."""
    most, cells, rules = room_for(dim, components), CELLS if dim == 2 else 0, 0
    for level in range(MOST_LEVELS):
        rules += _level_size(level, dim, components)
    return Nodes(
        points=np.empty(dim * most),
        rules=np.empty((2, dim, rules)),
        shares=np.empty((2, rules)),
        starts=np.empty((2, MOST_LEVELS + 1), np.int64),
        members=np.empty(components, np.int64),
        bounds=np.empty(components + 1, np.int64),
        groups=np.empty(1, np.int64),
        units=np.empty(components),
        levels=np.empty(components, np.int64),
        ends=np.empty(components, np.int64),
        shifted_ends=np.empty(components, np.int64),
        values=np.empty(components),
        errors=np.empty(components),
        moves=np.empty(components, np.int64),
        overlaps=np.empty(components),
        cells=np.empty(cells),
        square=np.empty((dim, dim)),
        other=np.empty((dim, dim)),
    )


@kernel
def _write_rules(level, components, nodes):
    """Write the nodes of a level under the standard normal, and those of its shifted lattice."""
    dim = nodes.rules.shape[1]
    if dim > LATTICE_DIM:
        points, shares = _rule(level, 0, _level_size(level, dim, components), nodes)
        _write_pairs(_pairs(level, dim, components), points, shares)
        _standardise(points, shares, nodes.square)
    else:
        for shifted in range(2):
            points, shares = _rule(level, shifted, SIZES[dim - 1][shifted][level], nodes)
            _write_lattice(level, 0.5 * shifted, dim, points, shares)
            _standardise(points, shares, nodes.square)


@kernel
def _rule(level, shifted, size, nodes):
    """Room for the nodes of a level and their weights, after those of the level before."""
    starts = nodes.starts[shifted]
    first, end = starts[level], starts[level] + size
    starts[level + 1] = end
    return nodes.rules[shifted, :, first:end], nodes.shares[shifted, first:end]


@kernel
def _standardise(points, shares, square):
    """Give nodes mean 0 and covariance I exactly, and weights the sum one: p keeps its moments on them."""
    dim, count = points.shape
    total = 0.0
    for n in range(count):
        total += shares[n]
    clear_matrix(square)
    for n in range(count):
        shares[n] /= total
        for i in range(dim):
            for j in range(i + 1):
                square[i, j] += shares[n] * points[i, n] * points[j, n]
    cholesky(square, square)
    for n in range(count):
        for i in range(dim):
            s = points[i, n]
            for j in range(i):
                s -= square[i, j] * points[j, n]
            points[i, n] = s / square[i, i]


# Shared lattices, in the plane.


@kernel
def _least_deviation(chol):
    """The standard deviation of a component along the short axis of its ellipse."""
    x, y = chol[0, 0] * chol[0, 0], chol[1, 0] * chol[1, 0] + chol[1, 1] * chol[1, 1]
    largest = 0.5 * (x + y) + math.hypot(0.5 * (x - y), chol[0, 0] * chol[1, 0])
    found = chol[0, 0] * chol[1, 1] / math.sqrt(largest)
    return found if found > LEAST_DEVIATION else LEAST_DEVIATION


@kernel
def _box(p, members, step, radius, shift):
    """The least cell in each coordinate, in steps, and how many there are, around all ellipses."""
    _, means, chols = p
    low0, low1, high0, high1 = math.inf, math.inf, -math.inf, -math.inf
    for k in members:
        reach0, reach1 = radius * chols[k, 0, 0], radius * math.hypot(chols[k, 1, 0], chols[k, 1, 1])
        low0, high0 = min(low0, means[k, 0] - reach0), max(high0, means[k, 0] + reach0)
        low1, high1 = min(low1, means[k, 1] - reach1), max(high1, means[k, 1] + reach1)
    low0, low1 = math.floor(low0 / step - shift) + shift, math.floor(low1 / step - shift) + shift
    return low0, low1, math.ceil(high0 / step - low0) + 1.0, math.ceil(high1 / step - low1) + 1.0


@inlined
def _add_slice(value, ratio, change, out):
    """Add the densities of a slice: the ratio of one to the one before changes by a factor."""
    for n in range(out.size):
        out[n] += value
        value *= ratio
        ratio *= change


@kernel
def _fill(p, members, box, step, radius, cells):
    """Write the masses of these components in the cells of a box."""
    log_weights, means, chols = p
    low0, low1, rows, columns = box
    size0, size1 = int(rows), int(columns)
    clear_vector(cells[: size0 * size1])
    for k in members:
        a, b, c = chols[k, 0, 0], chols[k, 1, 0], chols[k, 1, 1]
        mass = math.exp(log_weights[k]) * step * step / (2.0 * math.pi * a * c)
        change = math.exp(-step * step / (c * c))
        first, last = _cells_within(means[k, 0], radius * a, step, low0, size0)
        for i in range(first, last):
            u = ((low0 + i) * step - means[k, 0]) / a
            middle, reach = means[k, 1] + b * u, c * math.sqrt(max(radius * radius - u * u, 0.0))
            j, end = _cells_within(middle, reach, step, low1, size1)
            if j < end:
                v, h = ((low1 + j) * step - middle) / c, step / c
                value, ratio = mass * math.exp(-0.5 * (u * u + v * v)), math.exp(-h * (v + 0.5 * h))
                _add_slice(value, ratio, change, cells[i * size1 + j : i * size1 + end])


@kernel
def _cells_within(middle, reach, step, low, size):
    """The first of the cells of a box within the reach, and the end of them."""
    first, last = math.ceil((middle - reach) / step - low), math.floor((middle + reach) / step - low)
    return int(max(first, 0.0)), int(max(min(last + 1.0, size), 0.0))


@kernel
def _fill_shared(p, group, level, shifted, nodes):
    """Write the masses of a group in the cells around its lattice. (Box, step) are returned."""
    members = nodes.members[nodes.bounds[group] : nodes.bounds[group + 1]]
    step, radius = STEPS[1][level] * nodes.units[group], SHARED_RADII[level]
    box = _box(p, members, step, radius, 0.5 * shifted)
    _fill(p, members, box, step, radius, nodes.cells)
    return box, step


@kernel
def _count_shared(p, group, level, nodes):
    """The number of nodes under a group at a level."""
    (_, _, rows, columns), _ = _fill_shared(p, group, level, 0, nodes)
    count = 0
    for n in range(int(rows * columns)):
        count += nodes.cells[n] > 0.0
    return count


@kernel
def _group_components(p, nodes):
    """Group the components that are about as narrow, by a factor of two, where that saves nodes."""
    components, dim = p[1].shape
    alone = _level_size(0, dim, components)
    members, bounds, units, deviations = nodes.members, nodes.bounds, nodes.units, nodes.values
    groups, size, least = 0, 0, math.inf
    bounds[0] = 0
    for k in range(components):
        deviations[k] = _least_deviation(p[2][k]) if dim == 2 else 1.0
        least = min(least, deviations[k])
    while size < components:
        begin, following, unit = size, math.inf, math.inf
        for k in range(components):
            if least <= deviations[k] < 2.0 * least:
                members[size] = k
                size += 1
                unit = min(unit, deviations[k])
            elif deviations[k] >= 2.0 * least:
                following = min(following, deviations[k])
        least = following
        bounds[groups + 1], units[groups], shared = size, unit, False
        if dim == 2 and size - begin > 1:
            _, _, rows, columns = _box(p, members[begin:size], STEPS[1][-1] * unit, SHARED_RADII[-1], 0.0)
            if 2.0 * rows * columns <= CELLS:
                count = _count_shared(p, groups, 0, nodes)
                shared = 0 < count <= (size - begin) * alone
        if shared:
            groups += 1
        else:
            for k in range(begin, size):
                bounds[groups + 1], units[groups] = k + 1, 0.0
                groups += 1
    nodes.groups[0] = groups


@kernel
def first_level(p, nodes):
    """Start all groups on the first level that has enough nodes; which this is."""
    components, dim = p[1].shape
    _group_components(p, nodes)
    level = 0
    while (
        _level_size(level, dim, components) * components < FIRST_NODES
        and _level_size(level + 1, dim, components) > 0
    ):
        level += 1
    nodes.starts[0, level], nodes.starts[1, level] = 0, 0
    for g in range(nodes.groups[0]):
        nodes.levels[g], nodes.values[g] = level, math.nan
    _write_rules(level, components, nodes)
    return level


@kernel
def next_level(level, components, nodes):
    """Move the groups that need it to the next level."""
    _write_rules(level + 1, components, nodes)
    for g in range(nodes.groups[0]):
        nodes.levels[g] += nodes.moves[g]


@kernel
def refine_where(least, level, components, nodes):
    """Move groups whose part is off by more than the least to their next level, if there is one, and room.

    The last level that is in use now is returned, and whether any group moved.
    """
    room, last, moves = _room(components, nodes), level, False
    for g in range(nodes.groups[0]):
        size_now, size = _sizes(g, components, nodes)
        if not nodes.errors[g] <= least and 0 < size <= size_now + room:
            nodes.levels[g] += 1
            room -= size - size_now
            last, moves = max(last, nodes.levels[g]), True
    if last > level:
        _write_rules(last, components, nodes)
    return last, moves


@kernel
def _sizes(group, components, nodes):
    """The number of nodes of a group, and the most of its next level, 0 if there is none."""
    dim, level = nodes.rules.shape[1], nodes.levels[group]
    size = _level_size(level + 1, dim, components)
    if nodes.units[group] > 0.0:
        size_now = nodes.ends[group] - (nodes.ends[group - 1] if group > 0 else 0)
        return size_now, GROWTH * size_now if size > 0 else 0
    return _level_size(level, dim, components), size


@kernel
def _room(components, nodes):
    """How many nodes there is still room for."""
    room = most_nodes(nodes.rules.shape[1], components)
    for g in range(nodes.groups[0]):
        room -= _sizes(g, components, nodes)[0]
    return room


@kernel
def total_error(level, limit, nodes):
    """The sum of what this level changed of each part, as far as no such change exceeds the limit."""
    total = 0.0
    for g in range(nodes.groups[0]):
        if nodes.levels[g] == level and nodes.errors[g] <= limit:
            total += nodes.errors[g]
    return total


@kernel
def _limit(level, total, excess, nodes):
    """The largest change of a part such that all below it are this share of the excess, at most.

    The excess of q's divergence is a square of errors: those of a share s of all errors make s**2 of it.
    """
    limit = total
    while limit > 0.0 and total_error(level, limit, nodes) > math.sqrt(excess) * total:
        limit *= 0.5
    return limit


@kernel
def choose_levels(excess, tol, level, components, nodes):
    """Choose which groups need the next level, and which not even this one.

    `excess` is what the nodes of the level before lost of the divergence, inf if that is not known. Returned
    is whether there are any of each.
    """
    dim, room = nodes.rules.shape[1], _room(components, nodes)
    more, fewer, total, lower, upper = False, False, 0.0, -1.0, -1.0
    if excess < math.inf:
        total = total_error(level, math.inf, nodes)
        upper = _limit(level, total, SPARE * tol / (NEXT_EXCESS * excess), nodes)
        if dim <= LATTICE_DIM:
            lower = _limit(level, total, SPARE * tol / excess, nodes)
    for g in range(nodes.groups[0]):
        nodes.moves[g] = 0
        if nodes.levels[g] < level:
            continue
        size_now, size = _sizes(g, components, nodes)
        if nodes.errors[g] <= lower:
            nodes.levels[g] -= 1
            room += size_now // 3  # fewer than two thirds of them remain
            fewer = True
        elif not nodes.errors[g] <= upper and 0 < size <= size_now + room:
            room -= size - size_now
            nodes.moves[g] = 1
            more = True
    return more, fewer


@kernel
def _lay_one(p, k, level, shifted, begin, weights, nodes):
    """Write the nodes under a component and their weights, from `begin` on; where they end."""
    log_weights, means, chols = p
    dim, room = means.shape[1], weights.size
    starts, shares = nodes.starts[shifted], nodes.shares[shifted]
    first, count = starts[level], starts[level + 1] - starts[level]
    weight = math.exp(log_weights[k])
    for n in range(count):
        weights[begin + n] = weight * shares[first + n]
    for i in range(dim):
        out = nodes.points[i * room + begin : i * room + begin + count]
        for n in range(count):
            out[n] = means[k, i]
        for j in range(i + 1):
            rule = nodes.rules[shifted, j, first : first + count]
            for n in range(count):
                out[n] += chols[k, i, j] * rule[n]
    return begin + count


@kernel
def _lay_shared(p, group, level, shifted, begin, weights, nodes):
    """Write the nodes under a group and their weights, from `begin` on; where they end."""
    (low0, low1, rows, columns), step = _fill_shared(p, group, level, shifted, nodes)
    room, at, size1 = weights.size, begin, int(columns)
    x, y = nodes.points[:room], nodes.points[room : 2 * room]
    for i in range(int(rows)):
        for j in range(size1):
            mass = nodes.cells[i * size1 + j]
            if mass > 0.0 and at < room:
                x[at], y[at], weights[at] = (low0 + i) * step, (low1 + j) * step, mass
                at += 1
    members = nodes.members[nodes.bounds[group] : nodes.bounds[group + 1]]
    _match_moments(p, members, x[begin:at], y[begin:at], weights[begin:at], nodes.square, nodes.other)
    return at


@formula
def _terms_2(x, y, mean, w):
    d0, d1 = x - mean[0], y - mean[1]
    return w * d0 * d0, w * d0 * d1, w * d1 * d1


@adder
def _moments_2(x, y, mean, weights):
    """The second moments about a mean."""
    s00, s10, s11 = 0.0, 0.0, 0.0
    for n in range(x.size):
        t00, t10, t11 = _terms_2(x[n], y[n], mean, weights[n])
        s00 += t00
        s10 += t10
        s11 += t11
    return s00, s10, s11


@kernel
def _match_moments(p, members, x, y, weights, wanted, found):
    """Scale the weights and move the nodes, so that mass, mean and covariance are those of the components."""
    log_weights, means, chols = p
    total, mean0, mean1 = 0.0, 0.0, 0.0
    for k in members:
        w = math.exp(log_weights[k])
        total, mean0, mean1 = total + w, mean0 + w * means[k, 0], mean1 + w * means[k, 1]
    mass = add_up(weights)
    mean0, mean1, m0, m1 = mean0 / total, mean1 / total, dot(weights, x) / mass, dot(weights, y) / mass
    clear_matrix(wanted)
    for k in members:
        w, a, b, c = math.exp(log_weights[k]) / total, chols[k, 0, 0], chols[k, 1, 0], chols[k, 1, 1]
        d0, d1 = means[k, 0] - mean0, means[k, 1] - mean1
        wanted[0, 0] += w * (a * a + d0 * d0)
        wanted[1, 0] += w * (a * b + d0 * d1)
        wanted[1, 1] += w * (b * b + c * c + d1 * d1)
    sums = _moments_2(x, y, (m0, m1), weights)
    found[0, 0], found[1, 0], found[1, 1] = sums[0] / mass, sums[1] / mass, sums[2] / mass
    cholesky(wanted, wanted)
    cholesky(found, found)
    a, c = wanted[0, 0] / found[0, 0], wanted[1, 1] / found[1, 1]
    b = (wanted[1, 0] - c * found[1, 0]) / found[0, 0]
    for n in range(x.size):
        d0, d1 = x[n] - m0, y[n] - m1
        x[n], y[n] = mean0 + a * d0, mean1 + b * d0 + c * d1
        weights[n] *= total / mass


@kernel
def _lay(p, shifted, count, weights, ends, nodes):
    """Write nodes of all groups, of shifted lattices if 1, from this one on; where they end."""
    for g in range(nodes.groups[0]):
        if nodes.units[g] > 0.0:
            count = _lay_shared(p, g, nodes.levels[g], shifted, count, weights, nodes)
        else:
            k = nodes.members[nodes.bounds[g]]
            count = _lay_one(p, k, nodes.levels[g], shifted, count, weights, nodes)
        ends[g] = count
    return count


@kernel
def _close_rows(count, room, nodes):
    """All nodes as (D, count), of rows that have room for more."""
    dim = nodes.rules.shape[1]
    for i in range(1, dim):
        for n in range(count):
            nodes.points[i * count + n] = nodes.points[i * room + n]
    return nodes.points[: dim * count].reshape((dim, count))


@kernel
def lay_out(p, weights, nodes):
    """Write all nodes of p, which are returned as (D, count), and their weights."""
    return _close_rows(_lay(p, 0, 0, weights, nodes.ends, nodes), weights.size, nodes)


@kernel
def add_shifted(p, count, weights, nodes):
    """Write the nodes of shifted lattices behind those of `lay_out`, and give each half its weight.

    Returned are all: in the plane those of lattices that are finer by the root of two, on the line by two.
    """
    dim, room = nodes.rules.shape[1], weights.size
    for i in range(dim - 1, 0, -1):
        for n in range(count - 1, -1, -1):
            nodes.points[i * room + n] = nodes.points[i * count + n]
    end = _lay(p, 1, count, weights, nodes.shifted_ends, nodes)
    for n in range(end):
        weights[n] *= 0.5
    return _close_rows(end, room, nodes)


@kernel
def mean_log_density(p, columns, weights, nodes):
    """E_p[log p] on the nodes; under a group of components before these are moved."""
    components, dim = p[1].shape
    space, linear = workspace_for(components, dim, 0), np.empty(components)
    for k in range(components):
        linear[k] = math.exp(p[0][k])
    prepare(linear, p[1], p[2], space)
    total, begin, groups = 0.0, 0, nodes.groups[0]
    for g in range(groups):
        end = nodes.ends[g]
        if nodes.units[g] > 0.0:
            total += _shared_mean_log_density(p, g, add_up(weights[begin:end]), nodes)
            begin = end
        elif g + 1 == groups or nodes.units[g + 1] > 0.0:
            # The nodes of components that follow each other are taken together, in whole blocks.
            for first in range(begin, end, BLOCK):
                count = min(BLOCK, end - first)
                block_shares(columns, first, count, p[1], space)
                total += weighted_log_likelihood(space.top, space.sums, weights[first : first + count])
            begin = end
    return total


@kernel
def _shared_mean_log_density(p, group, weight, nodes):
    """The part of a group of this weight: other components add to the cells that are within their radius."""
    box, step = _fill_shared(p, group, nodes.levels[group], 0, nodes)
    size = int(box[2] * box[3])
    masses, densities = nodes.cells[:size], nodes.cells[size : 2 * size]
    _fill(p, nodes.members, box, step, SHARED_RADII[-1], densities)
    for n in range(size):
        densities[n] = max(densities[n], masses[n]) / (step * step)
    return weight * _mean_log(masses, densities) / add_up(masses)


@adder
def _mean_log(masses, densities):
    s = 0.0
    for n in range(masses.size):
        s += masses[n] * log(densities[n] if masses[n] > 0.0 else 1.0)
    return s
