"""Descents of KL(q ‖ p) for mixtures q of k Gaussians, by L-BFGS on fixed nodes under each component of q.

For I-projections onto mixtures. The coordinates have for each component the change of its logit, of its mean
in its deviations, and of its factor T, L_j = L0_j T, whose diagonal is given by logarithms (times the root of
two) and comes before what is below it; each divided by the root of the component's weight, which makes the
divergence from a p of components far apart as steep in all.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, Integers, Matrix, Vector, borrow, named, packed
from ..compiler import exported, inlined, kernel
from ..numerics.matrices import add_scaled, clear_vector, copy_matrix, copy_vector, dot
from . import reverse_divergences
from .reverse_divergences import minus_divergence

#: L-BFGS: pairs that are kept, largest change of a coordinate in a step, decrease that a step must have as a
#: share of what its derivative promises, and how often a step may be shortened.
MEMORY, LONGEST, DECREASE, SHRINKS = 20, 1.0, 1e-4, 30

#: A step that is too long is shortened to between the first two parts of it; to the last, where the value is
#: not finite at its end.
LEAST_PART, MOST_PART, NOT_FINITE_PART = 0.1, 0.5, 0.2

#: Pairs are kept where the cosine of step and change of the gradient is above this: there is curvature.
LEAST_COSINE = 1e-10

#: Keeps the minimum of a parabola finite where there is none.
TINY = 1e-300

#: A component's least weight, where coordinates are scaled by its root.
LEAST_WEIGHT = 0.02

#: Steps after which the coordinates are renewed.
STEPS_AT_ONCE = 50

#: The least that a divergence may lack, in nats.
LEAST_LACK = 1e-12

#: A descent ends where so many times what it promises to gain does not bring it below a bound.
PROMISES = 10.0

#: Descents to a component of less weight are left out: it spreads or shrinks without end.
VANISHED = 1e-9

#: Optima are the same where means differ by less in deviations, weights by less, logarithms of deviations.
SAME = 0.02


class Mixture(NamedTuple):
    """A mixture."""

    logs: Vector  #: (k,) logarithms of the weights
    means: Matrix  #: (k, D)
    factors: Cube  #: (k, D, D)


class Workspace(NamedTuple):
    """Scratch space for descents of mixtures of k components; N coordinates."""

    divergence: reverse_divergences.Workspace
    origin: Mixture  #: where the coordinates are 0
    moved: Mixture  #: at other coordinates
    slopes: Mixture  #: derivatives of the divergence
    unit: Vector  #: (k,)
    inner: Matrix  #: (D, D)
    x: Vector  #: (N,): a point
    trial: Vector  #: (N,): after a step
    at: Vector  #: (N,): a point in the basis
    gradient: Vector  #: (N,): at the point
    trial_gradient: Vector  #: (N,)
    plain: Vector  #: (N,): a gradient in the coordinates themselves
    along: Vector  #: (N,): the direction of a step
    steps: Matrix  #: (MEMORY, N)
    changes: Matrix  #: (MEMORY, N): of the gradient
    products: Vector  #: (MEMORY,): inner products of both
    parts: Vector  #: (MEMORY,)
    control: Integers  #: (1,): another thread may set it to 1, which ends a descent


@kernel
def new_mixture(count, dim):
    """Room for a mixture."""
    return Mixture(np.empty(count), np.empty((count, dim)), np.empty((count, dim, dim)))


@kernel
def coordinates(count, dim):
    """The number of coordinates of a mixture."""
    return count * (1 + dim + dim * (dim + 1) // 2)


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
    >>> space = kernels.projections.mixture_descents.workspace(3, 2, 1)
    """
    return packed(unpacked(components, count, dim))


@kernel
def unpacked(components, count, dim):
    """A `workspace` as a NamedTuple."""
    n = coordinates(count, dim)
    return Workspace(
        divergence=reverse_divergences.unpacked(components, count, dim),
        origin=new_mixture(count, dim),
        moved=new_mixture(count, dim),
        slopes=new_mixture(count, dim),
        unit=np.empty(count),
        inner=np.empty((dim, dim)),
        x=np.empty(n),
        trial=np.empty(n),
        at=np.empty(n),
        gradient=np.empty(n),
        trial_gradient=np.empty(n),
        plain=np.empty(n),
        along=np.empty(n),
        steps=np.empty((MEMORY, n)),
        changes=np.empty((MEMORY, n)),
        products=np.empty(MEMORY),
        parts=np.empty(MEMORY),
        control=np.empty(1, np.int64),
    )


@kernel
def copy_mixture(source, target):
    """Copy the parts of a mixture."""
    copy_vector(source[0], target[0])
    copy_matrix(source[1], target[1])
    for k in range(source[0].size):
        copy_matrix(source[2][k], target[2][k])


@kernel
def _refer_to(q, space):
    """Make a mixture the origin of the coordinates."""
    copy_mixture(q, space.origin)
    for k in range(space.unit.size):
        space.unit[k] = 1.0 / math.sqrt(max(math.exp(q[0][k]), LEAST_WEIGHT))


@kernel
def _move_component(x, k, unit, inner, origin, moved):
    """Write mean and factor of a component at its coordinates; whether all is finite."""
    dim = inner.shape[0]
    factor, half = origin.factors[k], unit / math.sqrt(2.0)
    place = 1 + 2 * dim
    for i in range(dim):
        for j in range(i):
            inner[i, j] = x[place] * unit
            place += 1
        inner[i, i] = math.exp(x[1 + dim + i] * half)
    good = True
    for i in range(dim):
        s = 0.0
        for j in range(i + 1):
            s += factor[i, j] * (x[1 + j] * unit)
        moved.means[k, i] = origin.means[k, i] + s
        good = good and abs(moved.means[k, i]) < math.inf
        for j in range(dim):
            t = 0.0
            for a in range(j, i + 1):
                t += factor[i, a] * inner[a, j]
            moved.factors[k, i, j] = t
            good = good and abs(t) < math.inf
    return good


@kernel
def _mixture_at(x, space):
    """Write the mixture at these coordinates; whether it is finite."""
    origin, moved = space.origin, space.moved
    count = space.unit.size
    size = x.size // count
    good, top, total = True, -math.inf, 0.0
    for k in range(count):
        part = x[k * size : (k + 1) * size]
        good = _move_component(part, k, space.unit[k], space.inner, origin, moved) and good
        moved.logs[k] = origin.logs[k] + part[0] * space.unit[k]
        top = max(top, moved.logs[k])
    for k in range(count):
        total += math.exp(moved.logs[k] - top)
    top += math.log(total)
    for k in range(count):
        moved.logs[k] -= top
        good = good and abs(moved.logs[k]) < math.inf
    return good


@kernel
def _write_gradient(x, gradient, space):
    """Write the gradient in the coordinates from the derivatives of -KL in `slopes`; its squared length.

    Of KL: the signs are changed.
    """
    origin, moved, slopes, inner = space.origin, space.moved, space.slopes, space.inner
    count, dim = origin.means.shape
    size = x.size // count
    total, square = 0.0, 0.0
    for k in range(count):
        total += slopes.logs[k]
    for k in range(count):
        unit, factor, first = space.unit[k], origin.factors[k], k * size
        gradient[first] = unit * (math.exp(moved.logs[k]) * total - slopes.logs[k])
        for i in range(dim):
            s = 0.0
            for a in range(i, dim):
                s += factor[a, i] * slopes.means[k, a]
            gradient[first + 1 + i] = -unit * s
            for j in range(i + 1):
                t = 0.0
                for a in range(i, dim):
                    t += factor[a, i] * slopes.factors[k, a, j]
                inner[i, j] = t
        place = first + 1 + 2 * dim
        for i in range(dim):
            logarithm = math.exp(x[first + 1 + dim + i] * (unit / math.sqrt(2.0)))
            gradient[first + 1 + dim + i] = -unit * inner[i, i] * logarithm / math.sqrt(2.0)
            for j in range(i):
                gradient[place] = -unit * inner[i, j]
                place += 1
    for n in range(gradient.size):
        square += gradient[n] * gradient[n]
    return square


@kernel
def _value(p, nodes, shares, x, gradient, space):
    """KL(q ‖ p) at these coordinates, and its gradient; inf where they are not finite."""
    if not _mixture_at(x, space):
        return math.inf
    slopes = space.slopes
    value = -minus_divergence(
        p, space.moved, nodes, shares, space.divergence, slopes.logs, slopes.means, slopes.factors
    )
    if not abs(value) < math.inf or not _write_gradient(x, gradient, space) < math.inf:
        return math.inf
    return value


@kernel
def _value_in(p, nodes, shares, basis, y, gradient, space):
    """`_value` at x = basis y; at y, where the basis is empty."""
    if basis.size == 0:
        return _value(p, nodes, shares, y, gradient, space)
    for i in range(y.size):
        space.at[i] = dot(basis[i], y)
    value = _value(p, nodes, shares, space.at, space.plain, space)
    if value < math.inf:
        clear_vector(gradient)
        for i in range(y.size):
            add_scaled(space.plain[i], basis[i], gradient)
    return value


@kernel
def _write_direction(used, newest, space):
    """Write minus the gradient times the inverse of the Hessian, by the last pairs.

    J. Nocedal, S. J. Wright, Numerical Optimization (2006), algorithm 7.4.
    """
    along, steps, changes, products = space.along, space.steps, space.changes, space.products
    for i in range(along.size):
        along[i] = -space.gradient[i]
    for t in range(used):
        k = (newest - t) % MEMORY
        space.parts[k] = dot(steps[k], along) / products[k]
        add_scaled(-space.parts[k], changes[k], along)
    if used > 0:
        scale = products[newest] / dot(changes[newest], changes[newest])
        for i in range(along.size):
            along[i] *= scale
    for t in range(used - 1, -1, -1):
        k = (newest - t) % MEMORY
        add_scaled(space.parts[k] - dot(changes[k], along) / products[k], steps[k], along)


@kernel
def _remember(used, newest, space):
    """Keep the pair of the step to `trial`, if there is curvature along it: (pairs used, newest)."""
    place = (newest + 1) % MEMORY
    step, change = space.steps[place], space.changes[place]
    for i in range(step.size):
        step[i] = space.trial[i] - space.x[i]
        change[i] = space.trial_gradient[i] - space.gradient[i]
    product = dot(step, change)
    if product > LEAST_COSINE * math.sqrt(dot(step, step) * dot(change, change)):
        space.products[place] = product
        return min(used + 1, MEMORY), place
    return used, newest


@inlined
def _search(p, nodes, shares, basis, value, promised, length, space):
    """Shorten a step until the divergence decreases: (value at its end, or NaN; evaluations)."""
    for shrinks in range(SHRINKS):
        for i in range(space.x.size):
            space.trial[i] = space.x[i] + length * space.along[i]
        after = _value_in(p, nodes, shares, basis, space.trial, space.trial_gradient, space)
        if after <= value - DECREASE * length * promised and after < value:
            return after, shrinks + 1
        if space.control[0] != 0:
            return math.nan, shrinks + 1
        if after < math.inf:
            # The minimum of the parabola, where there is one.
            best = 0.5 * promised * length * length / max(promised * length - (value - after), TINY)
            length = min(max(best, LEAST_PART * length), MOST_PART * length)
        else:
            length *= NOT_FINITE_PART
    return math.nan, SHRINKS


@kernel
def _climb_down(p, nodes, shares, basis, value, most, tolerance, space):
    """L-BFGS from x = 0, with its value and gradient: (value, lack, steps, evaluations, stuck).

    Until the divergence lacks less than the tolerance: gᵀ H g / 2, and g² / 2 at least.
    """
    used, newest, steps, evaluations = 0, 0, 0, 0
    while True:
        _write_direction(used, newest, space)
        square = dot(space.gradient, space.gradient)
        promised = -dot(space.along, space.gradient)
        if not promised > 0.0:
            used, promised = 0, square
            for i in range(space.along.size):
                space.along[i] = -space.gradient[i]
        lack = 0.5 * max(promised, square)
        if lack <= tolerance or steps >= most:
            return value, lack, steps, evaluations, False
        largest = 0.0
        for i in range(space.along.size):
            largest = max(largest, abs(space.along[i]))
        length = min(1.0, LONGEST / largest)
        if used == 0:
            length = min(length, 1.0 / math.sqrt(square))
        after, taken = _search(p, nodes, shares, basis, value, promised, length, space)
        evaluations += taken
        if space.control[0] != 0:
            return value, lack, steps, evaluations, True
        if after < math.inf:
            used, newest = _remember(used, newest, space)
            copy_vector(space.trial, space.x)
            copy_vector(space.trial_gradient, space.gradient)
            value, steps = after, steps + 1
        elif used > 0:
            used = 0
        else:
            return value, lack, steps, evaluations, True


@kernel
def tolerance_of(value, share):
    """The nats that a divergence may lack."""
    return max(share * value, LEAST_LACK) if value < math.inf else LEAST_LACK


@exported
def descend(p, q, nodes, shares, basis, most, share, far, space):
    """Lower KL(q ‖ p) on fixed nodes, in coordinates that are renewed; q is overwritten.

    Parameters
    ----------
    p, q : tuple
        Log weights, means and factors of the mixtures: (K,), (K, D), (K, D, D), and as many of k.
    nodes : (D, S)
        Points e_s under each component of q, m_j + L_j e_s, whose second moments are one.
    shares : (S,)
        Their weights, with the sum one.
    basis : (N, N)
        Coordinates are x = basis y; (0, 0): x itself.
    most : int
        Most steps.
    share : float
        The descent ends where the divergence lacks this share of itself, by its gradient.
    far : float
        It ends too where what it promises to gain does not bring it near this value; inf: never.
    space : ndarray
        A `workspace`.

    Returns
    -------
    value, lack, evaluations, stuck
        The divergence on the nodes, inf where it is not finite at the start; what it lacks by its gradient,
        at most the share unless the steps were used up or it is far; evaluations of the divergence; and
        whether no step lowers it further, or another thread has set `control`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.3, 0.4]), np.array([[-1.0], [1.0], [9.0]]), np.ones((3, 1, 1))
    >>> q = np.log([0.5, 0.5]), np.array([[0.0], [8.0]]), np.ones((2, 1, 1))
    >>> nodes = np.linspace(-6.0, 6.0, 61)[None]
    >>> shares = np.exp(-0.5 * nodes[0] ** 2)
    >>> shares /= shares.sum()
    >>> descents = kernels.projections.mixture_descents
    >>> space = descents.workspace(3, 2, 1)
    >>> value, lack, _, _ = descents.descend(p, q, nodes, shares, np.empty((0, 0)), 99, 1e-9, np.inf, space)
    >>> round(value, 7), np.exp(q[0]).round(3)
    (0.0063638, array([0.598, 0.402]))
    """
    space = named(Workspace, borrow(space))
    space.control[0] = 0
    return lower(borrow(p), borrow(q), nodes, shares, basis, most, share, far, space)


@kernel
def lower(p, q, nodes, shares, basis, most, share, far, space):
    """`descend`, inside of kernels."""
    taken, evaluations, value = 0, 0, math.inf
    while True:
        _refer_to(q, space)
        clear_vector(space.x)
        value = _value_in(p, nodes, shares, basis, space.x, space.gradient, space)
        evaluations += 1
        if not value < math.inf:
            return value, math.inf, evaluations, True
        wanted = tolerance_of(value, share)
        value, lack, steps, more, stuck = _climb_down(
            p, nodes, shares, basis, value, min(STEPS_AT_ONCE, most - taken), wanted, space
        )
        taken, evaluations = taken + steps, evaluations + more
        _write_point(basis, q, space)
        is_far = value - PROMISES * lack > far and far > 0.0
        if lack <= tolerance_of(value, share) or stuck or taken >= most or is_far:
            return value, lack, evaluations, stuck


@kernel
def _is_same_component(one, i, two, j):
    """Whether the components have the same weight, mean and factor, in deviations of the first."""
    (logs, means, factors), (other_logs, other_means, other_factors) = one, two
    if not abs(math.exp(logs[i]) - math.exp(other_logs[j])) < SAME:
        return False
    for a in range(means.shape[1]):
        square = 0.0
        for b in range(a + 1):
            square += factors[i, a, b] * factors[i, a, b]
        most = SAME * math.sqrt(square)
        if not abs(means[i, a] - other_means[j, a]) < most:
            return False
        for b in range(a + 1):
            if not abs(factors[i, a, b] - other_factors[j, a, b]) < most:
                return False
    return True


@exported
def are_same(one, two, taken):
    """Whether two mixtures have the same components, in any order, about.

    Parameters
    ----------
    one, two : tuple
        Log weights, means and factors, of as many components.
    taken : (k,)
        Scratch space.

    Returns
    -------
    bool

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> one = np.log([0.4, 0.6]), np.array([[-1.0], [1.0]]), np.ones((2, 1, 1))
    >>> two = tuple(np.ascontiguousarray(part[::-1]) for part in one)
    >>> kernels.projections.mixture_descents.are_same(one, two, np.empty(2))
    True
    """
    one, two, taken = borrow(one), borrow(two), borrow(taken)
    clear_vector(taken)
    for i in range(taken.size):
        found = False
        for j in range(taken.size):
            if not found and taken[j] == 0.0 and _is_same_component(one, i, two, j):
                taken[j], found = 1.0, True
        if not found:
            return False
    return True


@exported
def follow(p, qs, values, nodes, shares, basis, most, share, far, space):
    """Descents from several mixtures, which become the different ends, the best first.

    Parameters
    ----------
    p, nodes, shares, basis, most, share, space
        As in `descend`.
    qs : tuple
        Log weights, means and factors of n mixtures: (n, k), (n, k, D), (n, k, D, D).
    values : (n,)
        Are written: the divergences at the ends.
    far : float
        A descent ends early too where it does not come below the best so far, times this; inf: never.

    Returns
    -------
    count, evaluations
        How many ends there are: those where no component has vanished, or the best one if that is so in all;
        none that is not finite. No ends, where another thread has set `control`. And evaluations of the
        divergence.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.3, 0.4]), np.array([[-1.0], [1.0], [9.0]]), np.ones((3, 1, 1))
    >>> qs = np.log([[0.5, 0.5]] * 2), np.array([[[0.0], [8.0]], [[10.0], [0.0]]]), np.ones((2, 2, 1, 1))
    >>> nodes, shares = kernels.projections.mixture_optima.lattice(1, 0.2, 6.0)
    >>> descents, values, basis = kernels.projections.mixture_descents, np.empty(2), np.empty((0, 0))
    >>> space = descents.workspace(3, 2, 1)
    >>> count, _ = descents.follow(p, qs, values, nodes, shares, basis, 99, 1e-9, np.inf, space)
    >>> count, round(float(values[0]), 7), np.exp(qs[0][0]).round(3)
    (1, 0.0063638, array([0.598, 0.402]))
    """
    p, (logs, means, factors), space = borrow(p), borrow(qs), named(Workspace, borrow(space))
    space.control[0] = 0
    count, whole, evaluations, bound = 0, 0, 0, math.inf
    for s in range(values.size):
        q = logs[s], means[s], factors[s]
        value, _, more, _ = lower(p, q, nodes, shares, basis, most, share, bound, space)
        evaluations += more
        if space.control[0] != 0:
            return 0, evaluations
        known = not value < math.inf
        for i in range(count):
            known = known or are_same(q, (logs[i], means[i], factors[i]), space.unit)
        if known:
            continue
        vanished = math.exp(logs[s].min()) < VANISHED
        place, first = (count, whole) if vanished else (whole, 0)
        while place > first and value < values[place - 1]:
            place -= 1
        copy_mixture(q, space.moved)
        for i in range(count, place, -1):
            copy_mixture((logs[i - 1], means[i - 1], factors[i - 1]), (logs[i], means[i], factors[i]))
            values[i] = values[i - 1]
        copy_mixture(space.moved, (logs[place], means[place], factors[place]))
        values[place] = value
        count += 1
        whole += 0 if vanished else 1
        if far < math.inf and whole > 0:
            bound = far * values[0]
    return (whole if whole > 0 else min(count, 1)), evaluations


@kernel
def _write_point(basis, q, space):
    """Write the mixture at the point x, in the basis."""
    if basis.size == 0:
        _mixture_at(space.x, space)
    else:
        for i in range(space.x.size):
            space.at[i] = dot(basis[i], space.x)
        _mixture_at(space.at, space)
    copy_mixture(space.moved, q)


@kernel
def move(q, x, space):
    """Move a mixture, in place, by these coordinates; whether it stays finite."""
    _refer_to(q, space)
    good = _mixture_at(x, space)
    copy_mixture(space.moved, q)
    return good


@exported
def gradient_at(p, q, nodes, shares, x, gradient, space):
    """KL(q ‖ p) on the nodes at coordinates x around q, and its gradient, which is written.

    Parameters
    ----------
    p, q, nodes, shares, space
        As in `descend`; q is not changed.
    x, gradient : (N,)

    Returns
    -------
    float
        inf where it is not finite; then there is no gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.5, 0.5]), np.array([[0.0], [20.0]]), np.ones((2, 1, 1))
    >>> q = np.zeros(1), np.ones((1, 1)), np.ones((1, 1, 1))
    >>> nodes, shares = np.array([[-1.0, 1.0]]), np.array([0.5, 0.5])
    >>> descents, gradient = kernels.projections.mixture_descents, np.empty(3)
    >>> value = descents.gradient_at(p, q, nodes, shares, np.zeros(3), gradient, descents.workspace(2, 1, 1))
    >>> round(value, 9), gradient.round(9) + 0.0         # log 2 + 1 / 2
    (1.193147181, array([0., 1., 0.]))
    """
    return slope_at(borrow(p), borrow(q), nodes, shares, x, gradient, named(Workspace, borrow(space)))


@kernel
def slope_at(p, q, nodes, shares, x, gradient, space):
    """`gradient_at`, inside of kernels."""
    _refer_to(q, space)
    return _value(p, nodes, shares, x, gradient, space)


@kernel
def hessian(p, q, nodes, shares, step, out, space):
    """Write the Hessian of KL(q ‖ p) on the nodes at q, by differences of gradients; whether it is finite."""
    _refer_to(q, space)
    good = True
    for i in range(out.shape[0]):
        clear_vector(space.x)
        space.x[i] = step
        good = _value(p, nodes, shares, space.x, space.gradient, space) < math.inf and good
        space.x[i] = -step
        good = _value(p, nodes, shares, space.x, space.trial_gradient, space) < math.inf and good
        for j in range(out.shape[0]):
            out[i, j] = (space.gradient[j] - space.trial_gradient[j]) / (2.0 * step)
    return good
