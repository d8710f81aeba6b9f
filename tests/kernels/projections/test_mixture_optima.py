"""Optima of KL(q ‖ p) for mixtures, and the lattices that they are found on."""

import math

import numpy as np
import pytest

import fastvi as fv
from fastvi.distributions import ascent
from fastvi.kernels import statuses
from fastvi.kernels.projections import mixture_optima
from helpers.mixtures import random_mixture

SADDLE = fv.GaussianMixture([0.5, 0.3, 0.2], [-4.0, 4.0, 0.0], [1.0, 1.0, 1.0])


@pytest.mark.parametrize(("dim", "step", "reach"), [(1, 0.03, 8.0), (2, 0.35, 6.5), (3, 0.55, 5.4)])
def test_a_lattice_has_the_nodes_of_that_in_numpy(dim, step, reach):
    nodes, shares = mixture_optima.lattice(dim, step, reach)
    points, weights = ascent.lattice(dim, step, reach)
    one, two = np.lexsort(nodes.round(9)), np.lexsort(points.T.round(9))
    np.testing.assert_allclose(nodes.T[one], points[two], atol=1e-13)
    np.testing.assert_allclose(shares[one], weights[two], rtol=1e-12)
    np.testing.assert_allclose(nodes**2 @ shares, 1.0, rtol=1e-13)
    # Those that follow one another are neighbours.
    span = np.ptp(nodes[:, : mixture_optima.SIDES[dim - 1]], axis=1)
    assert (span <= step * mixture_optima.SIDES[dim - 1] * 1.01).all()


def table(dim, levels):
    found = [mixture_optima.lattice(dim, *mixture_optima.LEVELS[dim - 1, level]) for level in levels]
    ends = np.cumsum([0, *(shares.size for _, shares in found)])
    return np.concatenate([n.ravel() for n, _ in found]), np.concatenate([s for _, s in found]), ends


def polished(p, q, levels, most=500, rtol=1e-8):
    target, start = ([np.array(part) for part in mixture._triple()] for mixture in (p, q))
    space = mixture_optima.workspace(len(target[0]), len(start[0]), p.dim)
    found = mixture_optima.polish(tuple(target), tuple(start), levels, most, rtol, space)
    return fv.GaussianMixture(np.exp(start[0]), start[1], start[2] @ start[2].swapaxes(1, 2)), *found


@pytest.mark.parametrize(("dim", "count"), [(1, 2), (2, 3), (3, 2)])
def test_the_optimum_is_stationary_and_its_value_that_of_the_quadrature(dim, count):
    p = random_mixture(dim, dim, 5)
    start = fv.reduce_mixture(p, count).mixture
    q, value, norm, status, evaluations = polished(p, start, table(dim, (1, 2, 3)))
    assert status == statuses.CONVERGED
    assert norm < 1e-4
    assert evaluations > 0
    assert value == pytest.approx(fv.kl(q, p), rel=1e-7)
    assert value < fv.kl(start, p)


def test_a_saddle_is_left_for_the_lower_side():
    equal = fv.GaussianMixture([0.5, 0.5], [0.0, 0.0], [9.0, 9.0])
    q, value, _, status, _ = polished(SADDLE, equal, table(1, (1, 2, 3, 4)))
    assert status == statuses.CONVERGED
    assert value == pytest.approx(fv.i_projection(SADDLE, ("mixture", 2)).kl, rel=1e-7)
    assert abs(q.means[0, 0] - q.means[1, 0]) > 2.0


def test_how_it_ended_is_said():
    start = fv.reduce_mixture(SADDLE, 2).mixture
    assert polished(SADDLE, start, table(1, (1,)))[3] == statuses.OVERFITTED
    assert polished(SADDLE, start, table(1, (1, 2, 3)), most=0)[3] == statuses.STEPS_EXHAUSTED
    apart = fv.GaussianMixture([0.5, 0.5], [-1e200, 1e200], [1.0, 1.0])
    _, value, norm, status, _ = polished(SADDLE, apart, table(1, (1, 2)))
    assert status == statuses.NOT_A_MINIMUM
    assert value == math.inf
    assert math.isnan(norm)
