"""L-BFGS: the direction of the next step from the last steps and gradient changes."""

from __future__ import annotations

import math

from ..compiler import kernel
from ..numerics.matrices import add_scaled, dot

#: Pairs of (step, change of gradient) that L-BFGS remembers.
MEMORY = 12


@kernel
def _direction(gradient, used, newest, space, out):
    """L-BFGS's two loops: out = -H gradient (Nocedal & Wright 2006, algorithm 7.4)."""
    n = gradient.size
    steps, changes, inverses, alphas = space.steps, space.changes, space.inverses, space.alphas
    for i in range(n):
        out[i] = -gradient[i]
    for t in range(used):
        k = (newest - t) % MEMORY
        alphas[k] = inverses[k] * dot(steps[k, :n], out)
        add_scaled(-alphas[k], changes[k, :n], out)
    for i in range(n):
        out[i] /= space.metric[i]
    for t in range(used - 1, -1, -1):
        k = (newest - t) % MEMORY
        add_scaled(alphas[k] - inverses[k] * dot(changes[k, :n], out), steps[k, :n], out)


@kernel
def _norm(gradient, metric):
    s = 0.0
    for i in range(gradient.size):
        s += gradient[i] * gradient[i] / metric[i]
    return math.sqrt(s)
