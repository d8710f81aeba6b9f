"""Lattices: their nodes are all those within a ball, and integrate polynomials exactly."""

import itertools
import math

import numpy as np
import pytest

from fastvi.kernels.quadrature import lattice as lattice_
from helpers.forms import both
from helpers.lattices import enumerated

dims = pytest.mark.parametrize("dim", [1, 2, 3])


def lattice(steps, shift, radius, dim):
    """The points (i + shift) steps within the ball, selected from all of a box."""
    most = [math.ceil(radius / h) + 1 if a < dim else 0 for a, h in enumerate(steps)]
    index = np.array(list(itertools.product(*[range(-m, m + 1) for m in most])), dtype=float)
    points = (index + shift) * steps
    return points[(points**2).sum(axis=1) <= radius**2]


def rows(points, steps, shift):
    return sorted(map(tuple, np.rint(points / steps - shift).astype(int).tolist()))


@both
@dims
@pytest.mark.parametrize("steps", [(0.7, 0.7, 0.7), (0.31, 0.53, 0.47), (0.013, 0.9, 1.1)])
def test_the_lattice_is_the_ball(form, dim, steps):
    steps, shift, radius = np.array(steps), np.zeros(3), 4.123
    points, weights = enumerated(steps, shift, radius, dim, form)
    assert rows(points, steps, shift) == rows(lattice(steps, shift, radius, dim), steps, shift)
    np.testing.assert_allclose(weights, np.exp(-0.5 * (points**2).sum(axis=1)), rtol=1e-14)


@both
@dims
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_shifted_lattice_is_the_ball_up_to_half_a_step(form, dim, axis):
    steps, shift, radius = np.array([0.31, 0.53, 0.47]), np.zeros(3), 4.123
    axis = axis % dim
    shift[axis] = 0.5
    points, weights = enumerated(steps, shift, radius, dim, form)
    found = rows(points, steps, shift)
    assert len(set(found)) == len(found)
    assert set(rows(lattice(steps, shift, radius - 0.5 * steps[axis], dim), steps, shift)) <= set(found)
    assert set(found) <= set(rows(lattice(steps, shift, radius + 0.5 * steps[axis], dim), steps, shift))
    np.testing.assert_allclose(weights, np.exp(-0.5 * (points**2).sum(axis=1)), rtol=1e-14)


@dims
def test_the_rule_integrates_polynomials(dim):
    """E 1, E x**2 and E x**4 of a standard normal number are 1, 1 and 3."""
    steps, shift = np.full(3, 0.7), np.zeros(3)
    points, weights = enumerated(steps, shift, 8.5, dim, lambda f: f)
    weights = weights * lattice_.cell(steps, dim)
    for a in range(dim):
        for power, exact in ((0, 1.0), (1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
            assert weights @ points[:, a] ** power == pytest.approx(exact, abs=3e-12)


def test_the_size_of_a_lattice():
    steps, shift = np.array([0.11, 0.13, 0.17]), np.zeros(3)
    for dim in (1, 2, 3):
        count = len(enumerated(steps, shift, 5.0, dim, lambda f: f)[0])
        assert lattice_.size(steps, 5.0, dim) == pytest.approx(count, rel=0.03)
    assert lattice_.size(np.array([1e-5, 1.0, 1.0]), 5.0, 2) == math.inf
