"""Newton's derivatives and step in the coordinates of q."""

import math
from functools import cache

import numpy as np
import pytest

from fastvi.kernels.optimizers import newton
from fastvi.kernels.quadrature import lattice as lattice_
from fastvi.kernels.quadrature import moments as moments_
from helpers.forms import both
from helpers.lattices import embed, enumerated, powers
from helpers.mixtures import arrays, log_mixture, log_normal, random_factor, random_mixture

dims = pytest.mark.parametrize("dim", [1, 2, 3])
FAMILIES = ("full", "diag", "isotropic")
families = pytest.mark.parametrize("family", range(3), ids=FAMILIES)


@cache
def case(family, dim):
    """(moments, gradient, Hessian): the last two by differences, for both forms of the kernels."""
    p = random_mixture(3, dim, 3, spread=0.8)
    rng = np.random.default_rng(dim)
    mean, factor = rng.standard_normal(dim), 0.8 * random_factor(rng, dim)
    steps, shift = np.full(3, {1: 0.05, 2: 0.15, 3: 0.36}[dim]), np.zeros(3)
    points, weights = enumerated(steps, shift, 8.5, dim, lambda f: f)
    weights = weights * lattice_.cell(steps, dim)
    triple = arrays(p)
    xi = points[:, :dim]

    def value(parameters):
        delta, t = parameters[:dim], np.zeros((dim, dim))
        if family == newton.ISOTROPIC:
            t = parameters[dim] * np.eye(dim)
        else:
            places = [(a, b) for a in range(dim) for b in range(a + 1) if a == b or family == newton.FULL]
            for k, place in enumerate(places):
                t[place] = parameters[dim + k]
        change = np.eye(dim) + t
        own = -np.log(np.diag(change)).sum() - np.log(np.diag(factor)).sum()
        z = mean + (delta + xi @ change.T) @ factor.T
        return own - 0.5 * dim * (1.0 + math.log(2.0 * math.pi)) - weights @ log_mixture(z, *triple)

    x = log_normal(embed(points, mean, factor), mean, factor) - log_mixture(
        embed(points, mean, factor), *triple
    )
    moments = np.zeros(moments_.MOMENTS)
    for (a, b, c), power in powers(points).items():
        moments[a + 5 * b + 25 * c] = (weights * x) @ power
    used = {0: dim + dim * (dim + 1) // 2, 1: 2 * dim, 2: dim + 1}[family]
    gradient, hessian = np.empty(used), np.empty((used, used))
    step, unit = 2e-3, np.eye(used)
    zero = value(np.zeros(used))
    for i in range(used):
        near, far = ([value(k * s * step * unit[i]) for s in (1, -1)] for k in (1, 2))
        one, two = near[0] - near[1], far[0] - far[1]
        gradient[i] = (8.0 * one - two) / (12.0 * step)
        for j in range(i):
            corners = [value(step * (s * unit[i] + t * unit[j])) * s * t for s in (1, -1) for t in (1, -1)]
            hessian[i, j] = hessian[j, i] = sum(corners) / (4.0 * step**2)
        one, two = sum(near) - 2.0 * zero, sum(far) - 2.0 * zero
        hessian[i, i] = (16.0 * one - two) / (12.0 * step**2)
    return moments, gradient, hessian


@both
@families
@dims
def test_gradient_and_hessian_in_the_coordinates_of_q(form, family, dim):
    moments, gradient, hessian = case(family, dim)
    parts = newton.workspace(dim)
    count = form(newton.lay_out)(family, dim, parts)
    used = form(newton.differentiate)(moments, family, dim, count, parts)
    assert used == len(gradient)
    np.testing.assert_allclose(parts.gradient[:used], gradient, rtol=0, atol=1e-7)
    found = np.tril(parts.hessian[:used, :used])
    np.testing.assert_allclose(np.diag(found), np.diag(hessian), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, np.tril(hessian), rtol=0, atol=1e-4)


@families
@dims
def test_a_move_is_what_the_parameters_mean(family, dim):
    rng = np.random.default_rng(dim)
    mean, factor = rng.standard_normal(dim), random_factor(rng, dim)
    parts = newton.workspace(dim)
    count = newton.lay_out(family, dim, parts)
    used = dim + 1 if family == newton.ISOTROPIC else count
    parts.step[:used] = step = 0.1 * rng.standard_normal(used)
    new_mean, new_factor = np.empty(dim), np.empty((dim, dim))
    newton.move(mean, factor, family, dim, used, parts, new_mean, new_factor)
    t = np.zeros((dim, dim))
    if family == newton.FULL:
        t[np.tril_indices(dim)] = step[dim:]
    else:
        np.fill_diagonal(t, step[dim:] if family == newton.DIAGONAL else step[dim])
    np.testing.assert_allclose(new_mean, mean + factor @ step[:dim], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(new_factor, factor @ (np.eye(dim) + t), rtol=1e-13, atol=1e-15)
