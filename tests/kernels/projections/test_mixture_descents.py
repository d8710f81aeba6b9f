"""Descents of KL(q ‖ p) for mixtures, against the same in NumPy."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from numba import njit

import fastvi as fv
from fastvi.distributions.ascent import Elbo, Objective, Parts, climb, scores_of
from fastvi.kernels import borrowing
from fastvi.kernels.projections import mixture_descents
from helpers.mixtures import random_mixture

CASES = [(1, 5, 2), (2, 3, 4), (4, 6, 3)]
PLAIN = np.empty((0, 0))


@njit
def move(q, x, space):
    return mixture_descents.move(q, x, borrowing.named(mixture_descents.Workspace, borrowing.borrow(space)))


@njit
def hessian(p, q, nodes, shares, out, space):
    space = borrowing.named(mixture_descents.Workspace, borrowing.borrow(space))
    return mixture_descents.hessian(p, q, nodes, shares, 1e-4, out, space)


def parts_of(mixture):
    return Parts(*(np.array(part) for part in mixture._triple()))


def problem(dim, components, count, size=60):
    """(p, q, nodes, shares, scratch space, the objective in NumPy)."""
    p, q = parts_of(random_mixture(1, dim, components)), parts_of(random_mixture(2, dim, count))
    rng = np.random.default_rng(3)
    noise, shares = rng.standard_normal((size, dim)), rng.dirichlet(np.full(size, 5.0))
    noise -= shares @ noise
    noise = np.linalg.solve(np.linalg.cholesky((noise.T * shares) @ noise), noise.T).T

    def slopes(points, _):
        found = scores_of(p, points)
        return 0, found.log_q, found.gradient

    slow = Objective(Elbo(slopes, noise, shares), q)
    space = mixture_descents.workspace(components, count, dim)
    return p, q, np.ascontiguousarray(noise.T), shares, space, slow


def at(p, q, nodes, shares, x, space):
    gradient = np.empty(x.size)
    return mixture_descents.gradient_at(tuple(p), tuple(q), nodes, shares, x, gradient, space), gradient


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_in_numpy(case):
    p, q, nodes, shares, space, slow = problem(*case)
    assert slow.size == mixture_descents.coordinates(case[2], case[0])
    rng = np.random.default_rng(4)
    for size in (0.0, 0.3):
        x = size * rng.standard_normal(slow.size)
        value, gradient = at(p, q, nodes, shares, x, space)
        expected, slope = slow(x)
        assert value == pytest.approx(-expected, rel=1e-12)
        np.testing.assert_allclose(gradient, -slope, rtol=1e-11, atol=1e-12)
        moved = Parts(*(part.copy() for part in q))
        assert move(tuple(moved), x, space)
        for one, two in zip(moved, slow.parts(x), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_the_hessian_is_that_of_differences_in_numpy(case):
    p, q, nodes, shares, space, slow = problem(*case)
    out = np.empty((slow.size, slow.size))
    assert hessian(tuple(p), tuple(q), nodes, shares, out, space)
    for i, step in enumerate(1e-4 * np.eye(slow.size)):
        np.testing.assert_allclose(out[i], (slow(-step)[1] - slow(step)[1]) / 2e-4, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("in_basis", [False, True])
def test_descents_take_the_steps_of_those_in_numpy(case, in_basis):
    p, q, nodes, shares, space, slow = problem(*case)
    rng = np.random.default_rng(5)
    basis = np.eye(slow.size) + 0.1 * rng.standard_normal((slow.size, slow.size)) if in_basis else PLAIN

    def objective(y):
        value, slope = slow(basis @ y if in_basis else y)
        return value, (basis.T @ slope if in_basis else slope)

    for steps in (1, 2, 5, 10):
        ended = Parts(*(part.copy() for part in q))
        value, lack, evaluations, stuck = mixture_descents.descend(
            tuple(p), tuple(ended), nodes, shares, basis, steps, 1e-9, math.inf, space
        )
        found = climb(objective, np.zeros(slow.size), steps, 1e-12)
        assert not stuck
        assert evaluations > steps
        assert value == pytest.approx(-found.value, rel=1e-7)
        assert lack == pytest.approx(found.lack, rel=1e-4, abs=1e-12)
        for one, two in zip(ended, slow.parts(basis @ found.x if in_basis else found.x), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_descent_ends_where_little_is_lacking(case):
    p, q, nodes, shares, space, _ = problem(*case)
    ended = Parts(*(part.copy() for part in q))
    value, lack, _, _ = mixture_descents.descend(
        tuple(p), tuple(ended), nodes, shares, PLAIN, 2000, 1e-8, math.inf, space
    )
    assert lack <= max(1e-8 * value, mixture_descents.LEAST_LACK)
    # The value is that of the mixture it ends at, which is lower there than nearby.
    x = np.zeros(mixture_descents.coordinates(case[2], case[0]))
    again, gradient = at(p, ended, nodes, shares, x, space)
    assert again == pytest.approx(value, rel=1e-12)
    assert np.linalg.norm(gradient) < 1e-2
    rng = np.random.default_rng(6)
    for _ in range(5):
        assert at(p, ended, nodes, shares, 0.05 * rng.standard_normal(x.size), space)[0] > value


def test_a_descent_ends_where_it_is_far_from_a_bound():
    """After 50 steps, if ten times what it promises to gain does not lead below the bound."""
    p, q, nodes, shares, space, _ = problem(2, 5, 3, 400)

    def ended(most, far):
        copy = Parts(*(part.copy() for part in q))
        return mixture_descents.descend(tuple(p), tuple(copy), nodes, shares, PLAIN, most, 0.0, far, space)

    value, lack, evaluations, stuck = ended(50, math.inf)
    assert value > 20.0 * lack > 1e-9
    assert not stuck
    assert ended(300, value - 20.0 * lack) == (value, lack, evaluations, stuck)
    near = ended(300, value - 5.0 * lack)
    assert near[0] < value
    assert near[2] > evaluations


def test_what_is_not_finite_is_said():
    p, q, nodes, shares, space, _ = problem(2, 3, 2)
    q.means[0, 0] = math.inf
    x = np.zeros(mixture_descents.coordinates(2, 2))
    assert at(p, q, nodes, shares, x, space)[0] == math.inf
    assert mixture_descents.descend(tuple(p), tuple(q), nodes, shares, PLAIN, 10, 1e-8, math.inf, space) == (
        math.inf,
        math.inf,
        1,
        True,
    )
    assert not hessian(tuple(p), tuple(q), nodes, shares, np.empty((12, 12)), space)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="Python holds the GIL")
def test_another_thread_ends_a_descent():
    # On so many nodes a descent takes 4 s: it is not to end by itself.
    p, q, nodes, shares, space, _ = problem(3, 40, 10, 16_000)
    arguments = tuple(p), tuple(q), nodes, shares, PLAIN, 10**6, 0.0, math.inf, space
    # Once before, so that the thread does not begin by loading the kernel, which sets the control to 0.
    small = problem(3, 3, 2)
    mixture_descents.descend(tuple(small[0]), tuple(small[1]), *small[2:4], PLAIN, 1, 0.0, math.inf, small[4])
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(mixture_descents.descend, *arguments)
        while not found.running():
            time.sleep(0.01)
        time.sleep(0.5)
        borrowing.member(mixture_descents.Workspace, space, "control")[0] = 1
        value, lack, evaluations, stuck = found.result(10.0)
    assert stuck
    assert evaluations > 1
    assert 0.0 < lack < value < math.inf


@njit
def from_compiled_code(p, q, nodes, shares):
    descents = fv.kernels.projections.mixture_descents
    space = descents.workspace(p[0].size, q[0].size, nodes.shape[0])
    return descents.descend(p, q, nodes, shares, np.empty((0, 0)), 30, 1e-8, np.inf, space)


def test_users_compiled_code_has_the_same_bits():
    p, q, nodes, shares, space, _ = problem(2, 3, 2)
    one, two = (Parts(*(part.copy() for part in q)) for _ in range(2))
    found = mixture_descents.descend(tuple(p), tuple(one), nodes, shares, PLAIN, 30, 1e-8, math.inf, space)
    assert from_compiled_code(tuple(p), tuple(two), nodes, shares) == found
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def several(p, count, number):
    """Mixtures to start from, the last twice."""
    dim = p[1].shape[1]
    found = [parts_of(random_mixture(20 + s, dim, count)) for s in range(number)]
    return tuple(np.stack(part) for part in zip(*found, found[-1], strict=True))


def follow(p, qs, nodes, shares, most, share, far, space):
    ends, values = tuple(np.array(part) for part in qs), np.empty(len(qs[0]))
    arguments = tuple(p), ends, values, nodes, shares, PLAIN, most, share, far, space
    count, evaluations = mixture_descents.follow(*arguments)
    return [Parts(*(part[s] for part in ends)) for s in range(count)], values[:count].tolist(), evaluations


@pytest.mark.parametrize("case", CASES)
def test_ends_of_several_descents_are_those_of_each(case):
    p, _, nodes, shares, space, _ = problem(*case)
    qs, expected, total = several(p, case[2], 5), [], 0
    for start in map(Parts, *qs):
        q = Parts(*map(np.array, start))
        value, _, more, _ = mixture_descents.descend(
            tuple(p), tuple(q), nodes, shares, PLAIN, 50, 1e-4, math.inf, space
        )
        total += more
        if not any(mixture_descents.are_same(tuple(q), tuple(e), np.empty(case[2])) for _, e in expected):
            expected.append((value, q))
    expected.sort(key=lambda end: end[0])
    ends, values, evaluations = follow(p, qs, nodes, shares, 50, 1e-4, math.inf, space)
    assert values == [value for value, _ in expected]
    assert evaluations == total
    assert len(ends) <= 5  # one start is there twice
    for one, (_, two) in zip(ends, expected, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


def test_of_several_descents_those_that_are_far_from_the_best_end_early():
    """The first goes on to the end; of the second 50 steps are made."""
    p, q, nodes, shares, space, _ = problem(2, 5, 3, 400)
    qs = tuple(np.stack([part, part]) for part in q)
    for part in qs:
        part[1] = part[1][::-1]
    *_, every = follow(p, qs, nodes, shares, 300, 0.0, math.inf, space)
    best, value, one = follow(p, tuple(part[:1] for part in qs), nodes, shares, 300, 0.0, math.inf, space)
    ends, values, evaluations = follow(p, qs, nodes, shares, 300, 0.0, 1e-3, space)
    assert one + 50 < evaluations < every
    assert values[0] <= value[0]
    np.testing.assert_array_equal(ends[0].means, best[0].means)
    assert follow(p, qs, nodes, shares, 300, 0.0, 1e3, space)[2] == every


def test_ends_with_a_component_that_vanished_are_left_out():
    p, _, nodes, shares, space, _ = problem(1, 3, 2)
    logs, means, factors = (np.array(part) for part in several(p, 2, 2))
    good = follow(p, (logs, means, factors), nodes, shares, 0, 0.0, math.inf, space)
    assert len(good[0]) == 2
    # The best of all, but for a component of next to no weight: q is p's own, nearly.
    logs[0] = [math.log1p(-1e-12), math.log(1e-12)]
    means[0, 0], factors[0, 0] = 0.0, 1.0
    ends, values, _ = follow(p, (logs, means, factors), nodes, shares, 0, 0.0, math.inf, space)
    assert len(ends) == 1
    np.testing.assert_array_equal(ends[0].means, means[1])
    only = logs[:1], means[:1], factors[:1]
    ends, values, _ = follow(p, only, nodes, shares, 0, 0.0, math.inf, space)
    assert len(ends) == len(values) == 1
    logs[0] = math.nan
    assert follow(p, only, nodes, shares, 0, 0.0, math.inf, space)[0] == []


def test_the_same_mixture_in_another_order_is_the_same():
    q = parts_of(random_mixture(6, 2, 4))
    taken, order = np.empty(4), [2, 0, 3, 1]

    def is_same(logs, means, factors):
        other = tuple(np.ascontiguousarray(part[order]) for part in (logs, means, factors))
        return mixture_descents.are_same(tuple(q), other, taken)

    assert is_same(*q)
    near, far = 0.5 * mixture_descents.SAME, 2.0 * mixture_descents.SAME
    deviation = np.sqrt((q.factors**2).sum(axis=2))
    for step, expected in ((near, True), (far, False)):
        change = np.zeros((4, 2))
        change[1, 1] = step * deviation[1, 1]
        assert is_same(q.logs, q.means + change, q.factors) == expected
        assert is_same(q.logs, q.means, q.factors + change[:, :, None] * [1.0, 0.0]) == expected
        weights = q.weights + step * np.array([1.0, 0.0, -1.0, 0.0])
        assert is_same(np.log(weights), q.means, q.factors) == expected
    twice = Parts(*(part[[0, 0, 1, 2]] for part in q))
    assert not mixture_descents.are_same(tuple(twice), tuple(q), taken)  # each has a partner of its own
