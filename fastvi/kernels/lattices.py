"""The nodes of the trapezoid rule on a ball, in blocks that stay in the first-level cache.

For integrals over a standard normal vector in up to three dimensions: the rule on a lattice is exponentially
convergent in 1/step for a smooth integrand. Nodes are made as they are needed, so that a finer lattice
takes time but no memory.
"""

from __future__ import annotations

import math

from .elementary import decay
from .gaussians import LOG_2PI
from .jit import formula, inlined, kernel

#: Nodes per block: a dozen arrays of them are 50 kB.
BLOCK = 512

#: The most nodes along the first axis.
MOST_ACROSS = 16384

#: Rows are written to the next multiple of this, over the start of the row to come: no loop has a remainder,
#: which would take one node at a time.
PADDING = 32


@formula
def _bell(x):
    return decay(-0.5 * (x * x))


@kernel
def _half(square, step):
    """How many steps from the middle to the edge of a chord whose half length has this square."""
    return int(math.sqrt(max(square, 0.0)) / step)


@kernel
def padded(count):
    """The next multiple of PADDING."""
    return (count + PADDING - 1) & -PADDING


@kernel
def _at(cursor, axis, steps, shift):
    """The coordinate of the cursor on an axis."""
    return (cursor[axis] + shift[axis]) * steps[axis]


@kernel
def _rewind_row(cursor, steps, shift, radius):
    y, z = _at(cursor, 1, steps, shift), _at(cursor, 2, steps, shift)
    cursor[3] = _half(radius * radius - y * y - z * z, steps[0])
    cursor[0] = -cursor[3]


@kernel
def _rewind_plane(cursor, steps, shift, radius, dim):
    z = _at(cursor, 2, steps, shift)
    cursor[4] = _half(radius * radius - z * z, steps[1]) if dim > 1 else 0
    cursor[1] = -cursor[4]
    _rewind_row(cursor, steps, shift, radius)


@kernel
def rewind(cursor, steps, shift, radius, dim, bell):
    """Before the first node. `cursor` (6 integers): position on the three axes, and where each ends.

    `bell` (MOST_ACROSS + PADDING) is left with the weights along the first axis.

    The lattice is shifted by so many steps along each axis: by half a step along one of them, it has the
    nodes that halving that step adds.
    """
    width = _half(radius * radius, steps[0])
    for i in range(padded(2 * width + 1)):
        bell[i] = _bell((i - width + shift[0]) * steps[0])
    cursor[5] = _half(radius * radius, steps[2]) if dim > 2 else 0
    cursor[2] = -cursor[5]
    _rewind_plane(cursor, steps, shift, radius, dim)


@inlined
def _write_row(x, y, weights, first, step, height, row_weight, bell):
    # In one loop the compiler would have to check whether the arrays overlap, for each row.
    for i in range(x.size):
        x[i] = first + i * step
    for i in range(y.size):
        y[i] = height
    for i in range(weights.size):
        weights[i] = row_weight * bell[i]


@kernel
def next_block(cursor, steps, shift, radius, dim, bell, nodes):
    """Fill `nodes` (4, BLOCK + PADDING) with x, y, z[0] and weights; their number, 0 after the last.

    A weight is exp(-|xi|**2 / 2). The nodes of a block have one z, and up to the next
    multiple of PADDING there are more, of weight 0.
    """
    if cursor[2] > cursor[5]:
        return 0
    count = 0
    x, y, weights = nodes[0], nodes[1], nodes[3]
    z = _at(cursor, 2, steps, shift)
    nodes[2, 0] = z
    width = _half(radius * radius, steps[0])
    while count < BLOCK and cursor[1] <= cursor[4]:
        take = min(BLOCK - count, cursor[3] + 1 - cursor[0])
        first, height = _at(cursor, 0, steps, shift), _at(cursor, 1, steps, shift)
        row_weight = decay(-0.5 * (height * height + z * z))
        row = slice(count, count + padded(take))
        _write_row(
            x[row], y[row], weights[row], first, steps[0], height, row_weight, bell[cursor[0] + width :]
        )
        count += take
        cursor[0] += take
        if cursor[0] > cursor[3]:
            cursor[1] += 1
            _rewind_row(cursor, steps, shift, radius)
    if cursor[1] > cursor[4]:
        cursor[2] += 1
        _rewind_plane(cursor, steps, shift, radius, dim)
    rest = slice(count, count + PADDING)
    _write_row(x[rest], y[rest], weights[rest], 0.0, 0.0, 0.0, 0.0, bell)
    return count


@kernel
def cell(steps, dim):
    """What a node's weight exp(-|xi|**2 / 2) is to be multiplied by."""
    volume = math.exp(-0.5 * dim * LOG_2PI)
    for a in range(dim):
        volume *= steps[a]
    return volume


@kernel
def size(steps, radius, dim):
    """About how many nodes there are; inf if there are too many along an axis."""
    if 2.0 * radius / steps[0] > MOST_ACROSS - 3:
        return math.inf
    count = 2.0 * radius / steps[0]
    if dim > 1:
        count *= 0.25 * math.pi * 2.0 * radius / steps[1]
    if dim > 2:
        count *= 2.0 / 3.0 * 2.0 * radius / steps[2]
    return count
