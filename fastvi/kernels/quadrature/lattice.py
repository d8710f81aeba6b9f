"""The nodes of the trapezoid rule on a ball, in blocks that stay in the first-level cache.

For integrals over a standard normal vector in up to three dimensions: the rule on a lattice is exponentially
convergent in 1/step for a smooth integrand. Nodes are made as they are needed, so that a finer lattice
takes time but no memory.
"""

from __future__ import annotations

import math

from ..compiler import formula, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..numerics.elementary import decay

#: Nodes per block: a dozen arrays of them are 50 kB.
BLOCK = 512

#: The most nodes along the first axis.
MOST_ACROSS = 16384

#: Blocks end at a multiple of this: no loop over one has a remainder, which would take one node at a time.
PADDING = 32

#: Rows are written to the next multiple of this, over the start of the row to come.
LANES = 8

#: Weights and lengths of so many rows are computed together: one row at a time takes three times as long.
ROWS = 64


@formula
def _bell(x):
    return decay(-0.5 * (x * x))


@kernel
def half_chord(square, step):
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


@inlined
def next_rows(rows, count, first, height, z, width, radius):
    """Write the weights and the half lengths (in steps) of the next rows."""
    square = radius * radius
    for j in range((min(count, ROWS) + LANES - 1) & -LANES):
        y = (first + j) * height
        rows[j] = decay(-0.5 * (y * y + z * z))
        rows[ROWS + j] = math.sqrt(max(square - y * y - z * z, 0.0)) / width


@kernel
def _rewind_plane(cursor, steps, shift, radius, dim):
    z = _at(cursor, 2, steps, shift)
    cursor[4] = half_chord(radius * radius - z * z, steps[1]) if dim > 1 else 0
    cursor[1] = -cursor[4]
    # The row is yet to be rewound.
    cursor[0], cursor[3] = 1, 0


@kernel
def rewind(cursor, steps, shift, radius, dim, bell):
    """Before the first node. `cursor` (6 integers): position on the three axes, and where each ends.

    `bell` (MOST_ACROSS + PADDING) is left with the weights along the first axis.

    The lattice is shifted by so many steps along each axis: by half a step along one of them, it has the
    nodes that halving that step adds.
    """
    width, step, offset = half_chord(radius * radius, steps[0]), steps[0], shift[0]
    for i in range(padded(2 * width + 1)):
        bell[i] = _bell((i - width + offset) * step)
    cursor[5] = half_chord(radius * radius, steps[2]) if dim > 2 else 0
    cursor[2] = -cursor[5]
    _rewind_plane(cursor, steps, shift, radius, dim)


@inlined
def _write_row(x, y, weights, first, step, height, row_weight, bell):
    for i in range(x.size):
        x[i] = first + i * step
        y[i] = height
        weights[i] = row_weight * bell[i]


@kernel
def next_block(cursor, steps, shift, radius, dim, bell, nodes):
    """Fill `nodes` (4, BLOCK + PADDING) with x, y, z[0] and weights; their number, 0 after the last.

    A weight is exp(-|xi|**2 / 2). The nodes of a block have one z, and up to the next
    multiple of PADDING there are more, of weight 0. Behind z there is what `next_rows` writes.
    """
    if cursor[2] > cursor[5]:
        return 0
    count = 0
    x, y, weights, rows = nodes[0], nodes[1], nodes[3], nodes[2, LANES:]
    # Read once: the compiler does not know that writing nodes leaves them alone.
    i, j, half, last = cursor[0], cursor[1], cursor[3], cursor[4]
    step, offset, height, offset_y = steps[0], shift[0], steps[1], shift[1]
    z = _at(cursor, 2, steps, shift)
    nodes[2, 0] = z
    width = half_chord(radius * radius, step)
    while count < BLOCK and j <= last:
        k = (j + last) & (ROWS - 1)
        if i > half:
            if k == 0:
                next_rows(rows, last - j + 1, j + offset_y, height, z, step, radius)
            half = int(rows[ROWS + k])
            i = -half
        take = min(BLOCK - count, half + 1 - i)
        row = slice(count, count + ((take + LANES - 1) & -LANES))
        _write_row(
            x[row],
            y[row],
            weights[row],
            (i + offset) * step,
            step,
            (j + offset_y) * height,
            rows[k],
            bell[i + width :],
        )
        count += take
        i += take
        if i > half:
            j += 1
    cursor[0], cursor[1], cursor[3] = i, j, half
    if j > last:
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
