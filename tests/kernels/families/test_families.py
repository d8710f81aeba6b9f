"""What every family of q must do, whatever it is: a new row of the table is tested with the others."""

import math

import numpy as np
import pytest

from fastvi.kernels.families import operations, table

families = pytest.mark.parametrize("family", range(len(table.TABLE)), ids=list(table.CODES))
dims = pytest.mark.parametrize("dim", [1, 3])


def coordinates(dim):
    rng = np.random.default_rng(dim)
    root = np.tril(0.3 * rng.standard_normal((dim, dim)), -1) + np.diag(rng.uniform(0.5, 2.0, dim))
    return root, rng.uniform(0.5, 2.0, dim)


def factor_of(family, point, root, scale):
    factor = np.full(root.shape, math.nan)
    operations.unpack(family, point, root, scale, factor)
    return factor


@families
@dims
def test_gradients_by_the_parameters(family, dim):
    root, scale = coordinates(dim)
    count = operations.parameters(family, dim)
    rng = np.random.default_rng(0)
    point, weights = 0.1 * rng.standard_normal(count), np.tril(rng.standard_normal((dim, dim)))
    gradient = np.zeros(count)
    factor = factor_of(family, point, root, scale)
    operations.pack_gradient(family, point, root, factor, weights, gradient)
    whole = gradient.copy()
    operations.leave_out_entropy(family, dim, whole)
    for i in range(dim, count):
        step = np.zeros(count)
        step[i] = 1e-5
        up, down = (factor_of(family, point + s * step, root, scale) for s in (1.0, -1.0))
        slope = (weights * (up - down)).sum() / 2e-5
        entropy = np.log(np.diag(up) / np.diag(down)).sum() / 2e-5
        assert whole[i] == pytest.approx(slope, abs=1e-8)
        assert gradient[i] == pytest.approx(slope - entropy, abs=1e-8)


@families
@dims
def test_metric_is_the_hessian_of_the_divergence(family, dim):
    """Of KL(start ‖ q) at the start, where the coordinates are those of the start itself."""
    root, scale = coordinates(dim)
    if operations.has_diagonal_factor(family):
        root = np.diag(scale)
    count = operations.parameters(family, dim)
    metric = np.zeros(count)
    operations.metric(family, dim, metric)

    def divergence(point):
        ratio = np.linalg.solve(factor_of(family, point, root, scale), factor_of(family, zero, root, scale))
        return 0.5 * (ratio**2).sum() - np.linalg.slogdet(ratio)[1]

    zero = np.zeros(count)
    for i in range(dim, count):
        step = np.zeros(count)
        step[i] = 1e-3
        second = (divergence(step) + divergence(-step) - 2.0 * divergence(zero)) / 1e-6
        assert metric[i] == pytest.approx(second, rel=1e-4)


@families
@dims
def test_unfolded_steps_and_folded_derivatives_agree(family, dim):
    layout = np.zeros((dim + dim * (dim + 1) // 2, 2), np.int64)
    rows = operations.lay_out(family, dim, layout)
    rng = np.random.default_rng(0)
    gradient, hessian = rng.standard_normal(rows), rng.standard_normal((rows, rows))
    hessian += hessian.T
    folded, folded_hessian = gradient.copy(), np.tril(hessian)
    count = operations.fold(family, dim, rows, folded, folded_hessian)
    assert count == operations.parameters(family, dim)
    step = np.zeros(rows)
    step[:count] = rng.standard_normal(count)
    short = step[:count].copy()
    assert operations.unfold(family, dim, count, step) == rows
    assert folded[:count] @ short == pytest.approx(gradient @ step)
    lower = np.tril(folded_hessian[:count, :count])
    symmetric = lower + np.tril(lower, -1).T
    assert short @ symmetric @ short == pytest.approx(step @ hessian @ step)


@families
@dims
def test_restricting_twice_is_restricting_once(family, dim):
    chol, _ = coordinates(dim)
    operations.restrict(family, chol, np.empty(2 * dim))
    again = chol.copy()
    operations.restrict(family, again, np.empty(2 * dim))
    np.testing.assert_allclose(again, chol, rtol=1e-14)
    if operations.has_diagonal_factor(family):
        assert (chol == np.diag(np.diag(chol))).all()
