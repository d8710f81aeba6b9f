"""Nodes of the trapezoid rule in a ball, in blocks that fit the first-level cache.

`moments` uses them for expectations under a standard normal vector in up to three dimensions. For a smooth
integrand the error of the rule falls exponentially in 1/step. Nodes are computed block by block, so a finer
lattice takes time but no memory.
"""

from __future__ import annotations

import math

from ..compiler import formula, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..numerics.elementary import decay

#: Nodes per block. A dozen arrays of this length are 50 kB.
BLOCK = 512

#: Most nodes along the first axis.
MOST_ACROSS = 16384

#: A block is padded to a multiple of this: the remainder of a vectorised loop takes one node at a time.
PADDING = 32

#: A row is written in whole vectors of this length; the next row overwrites what is too much.
LANES = 8

#: Rows whose weights and lengths are computed together: one row at a time takes three times as long.
ROWS = 64


@formula
def bell_curve(x):
    """exp(-x**2 / 2)."""
    return decay(-0.5 * (x * x))


@kernel
def half_chord(square, step):
    """Number of steps from the middle to the end of a chord; `square` is that of its half length."""
    return int(math.sqrt(max(square, 0.0)) / step)


@kernel
def padded(count):
    """The next multiple of PADDING."""
    return (count + PADDING - 1) & -PADDING


@kernel
def _at(cursor, axis, steps, shift):
    """Coordinate of the cursor on an axis."""
    return (cursor[axis] + shift[axis]) * steps[axis]


@inlined
def next_rows(rows, count, first, height, z, width, radius):
    """Write the weights and the half lengths (in steps) of up to ROWS rows, from row `first` on."""
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
    # An empty row: `next_block` begins with the first one.
    cursor[0], cursor[3] = 1, 0


@kernel
def rewind(cursor, steps, shift, radius, dim, bell):
    """Set `cursor` to before the first node, and write the weights along the first axis to `bell`.

    `cursor` has 6 integers: the position on the three axes, then the last position on each. `bell` has
    MOST_ACROSS + PADDING numbers. `shift` is in steps along each axis: a lattice shifted by half a step along
    one axis has just the nodes that halving this step adds.
    """
    width, step, offset = half_chord(radius * radius, steps[0]), steps[0], shift[0]
    for i in range(padded(2 * width + 1)):
        bell[i] = bell_curve((i - width + offset) * step)
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
    """Write the next block to `nodes` (4, BLOCK + PADDING); the number of nodes, 0 after the last block.

    The rows are x, y, z and the weight exp(-|xi|**2 / 2). The nodes of a block have the same z, which is
    nodes[2, 0]; the rest of that row is scratch space of `next_rows`. Up to the next multiple of PADDING
    there are nodes of weight 0.
    """
    if cursor[2] > cursor[5]:
        return 0
    count = 0
    x, y, weights, rows = nodes[0], nodes[1], nodes[3], nodes[2, LANES:]
    # Local copies: the compiler cannot know that writing nodes does not change these arrays.
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
    """Volume of a cell times (2 pi)**(-dim / 2), the factor of the weight exp(-|xi|**2 / 2) of a node."""
    volume = math.exp(-0.5 * dim * LOG_2PI)
    for a in range(dim):
        volume *= steps[a]
    return volume


@kernel
def size(steps, radius, dim):
    """Approximate number of nodes in the ball; inf if there are too many along the first axis."""
    if 2.0 * radius / steps[0] > MOST_ACROSS - 3:
        return math.inf
    count = 2.0 * radius / steps[0]
    if dim > 1:
        count *= 0.25 * math.pi * 2.0 * radius / steps[1]
    if dim > 2:
        count *= 2.0 / 3.0 * 2.0 * radius / steps[2]
    return count
