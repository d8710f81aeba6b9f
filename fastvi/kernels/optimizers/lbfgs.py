"""Pieces of L-BFGS in the metric of Fisher's information.

`inference.draws_fits` and `projections.refinements` iterate them.

`space` has the fields gradient, metric, steps, changes, inverses and alphas of `draws_fits.Workspace`. The
memory is a ring: of the last pairs (step, change of the gradient), for which there is an entry of `inverses`
each, `used` count, and `newest` is the last one.
"""

from __future__ import annotations

import math

from ..compiler import inlined, kernel
from ..numerics.matrices import add_scaled, dot

#: Pairs of (step, change of gradient) that a fit's L-BFGS remembers.
MEMORY = 12

#: Armijo's condition: a step of length t must decrease the value by this share of t times the derivative.
DECREASE = 1e-4

#: Backtracking multiplies the step by a factor between these; by the first where the value is not finite.
LEAST_SHRINK, USUAL_SHRINK = 0.1, 0.5

#: The longest step in standard deviations, before anything is known of the curvature and after.
FIRST_LONGEST, LONGEST = 2.0, 10.0

#: A pair is remembered where its inner product is above this share of what the step promised: rounding
#: leaves no curvature in less.
LEAST_CURVATURE = 1e-12


@kernel
def _two_loops(gradient, used, newest, space, out):
    """L-BFGS's two loops: out = -H gradient (Nocedal & Wright 2006, algorithm 7.4)."""
    n, memory = gradient.size, space.inverses.size
    steps, changes, inverses, alphas = space.steps, space.changes, space.inverses, space.alphas
    for i in range(n):
        out[i] = -gradient[i]
    for t in range(used):
        k = (newest - t) % memory
        alphas[k] = inverses[k] * dot(steps[k, :n], out)
        add_scaled(-alphas[k], changes[k, :n], out)
    for i in range(n):
        out[i] /= space.metric[i]
    for t in range(used - 1, -1, -1):
        k = (newest - t) % memory
        add_scaled(alphas[k] - inverses[k] * dot(changes[k, :n], out), steps[k, :n], out)


@inlined
def find_direction(gradient, norm, used, newest, space, out):
    """Write the direction of the next step; (pairs used, derivative of the value along it, step length).

    Where L-BFGS's direction does not lead downhill, it is the natural gradient, and no pair is used.
    """
    metric = space.metric
    _two_loops(gradient, used, newest, space, out)
    expected, square = 0.0, 0.0
    for i in range(gradient.size):
        expected += out[i] * gradient[i]
        square += metric[i] * out[i] * out[i]
    if not expected < 0.0:
        used = 0
        _two_loops(gradient, used, newest, space, out)
        expected = -norm * norm
        square = norm * norm
    longest = FIRST_LONGEST if used == 0 else LONGEST
    return used, expected, longest / math.sqrt(square) if square > longest * longest else 1.0


@inlined
def remember(point, gradient, new_point, new_gradient, promised, used, newest, space):
    """Add a pair to the memory, unless it has no curvature; (pairs used, newest)."""
    memory = space.inverses.size
    newest = (newest + 1) % memory
    product = 0.0
    for i in range(point.size):
        space.steps[newest, i] = new_point[i] - point[i]
        space.changes[newest, i] = new_gradient[i] - gradient[i]
        product += space.steps[newest, i] * space.changes[newest, i]
    if product > LEAST_CURVATURE * promised:
        space.inverses[newest] = 1.0 / product
        return min(used + 1, memory), newest
    return used, (newest - 1) % memory


@inlined
def shrink(rise, t, expected):
    """The factor that a step of length t is shortened by: to the minimum of the parabola, within bounds."""
    if not rise < math.inf:
        return LEAST_SHRINK
    curve = rise - t * expected
    if curve > 0.0:
        return min(max(-0.5 * t * expected / curve, LEAST_SHRINK), USUAL_SHRINK)
    return USUAL_SHRINK


@kernel
def dual_length(gradient, metric):
    """The length of a gradient in the inverse metric."""
    s = 0.0
    for i in range(gradient.size):
        s += gradient[i] * gradient[i] / metric[i]
    return math.sqrt(s)
