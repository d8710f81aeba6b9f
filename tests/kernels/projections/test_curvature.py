"""Second derivatives of -E_p[log q] for mixtures, and Newton's steps in a trust region."""

import numpy as np
import pytest

import fastvi as fv
from fastvi.kernels.borrowing import named
from fastvi.kernels.projections import curvature, nodes, refinements, trust_region
from helpers.forms import all_plain
from helpers.mixtures import arrays, random_mixture

# Plain: they take 19 s to compile. `refine` is the compiled kernel of all of them.
first_level, lay_out, add_shifted = map(all_plain, (nodes.first_level, nodes.lay_out, nodes.add_shifted))
refer_to, evaluate, turn = map(all_plain, (refinements._refer_to, refinements._evaluate, refinements._turn))


def laid_out(p, q):
    """(space, nodes of the first level) with coordinates measured from q."""
    space = named(refinements.Workspace, refinements.workspace(p.weights.size, q.weights.size, p.dim))
    refer_to((q.weights, q.means, np.linalg.cholesky(q.covs)), space)
    first_level(arrays(p), space.nodes)
    return space, lay_out(arrays(p), space.sweeps.frequencies, space.nodes)


def gradient_at(point, columns, space):
    found = np.empty(point.size)
    evaluate(columns, np.ascontiguousarray(point), found, space)
    return found


def differences(columns, space, step=1e-5):
    """The second derivatives by differences of gradients."""
    return np.array(
        [
            (gradient_at(step * e, columns, space) - gradient_at(-step * e, columns, space)) / (2.0 * step)
            for e in np.eye(space.point.size)
        ]
    )


@pytest.mark.parametrize(("dim", "components"), [(1, 2), (1, 5), (2, 1), (2, 2), (2, 3)])
def test_second_derivatives_are_those_of_the_gradient(dim, components):
    seed = dim + components
    space, columns = laid_out(random_mixture(seed, dim, 3), random_mixture(seed + 9, dim, components))
    wanted = differences(columns, space)
    gradient_at(space.point, columns, space)
    turn(columns, space)
    np.testing.assert_allclose(
        np.tril(space.curvature.matrix), np.tril(wanted), atol=1e-7 * max(1.0, np.abs(wanted).max())
    )


@pytest.mark.parametrize(("dim", "components"), [(1, 2), (1, 5), (2, 2), (2, 3)])
def test_those_of_the_compiled_kernel_are_the_same(dim, components):
    """`refine` leaves those of its last step, on nodes and shifted ones, where coordinates start."""
    p, q = random_mixture(0, dim, 6), random_mixture(1, dim, components)
    words = refinements.workspace(p.weights.size, components, dim)
    parts = np.array(q.weights), np.array(q.means), np.linalg.cholesky(q.covs)
    assert refinements.refine(arrays(p), parts, 1e-12, 4, words)[:2] == (1, 4)
    space = named(refinements.Workspace, words)
    found = np.tril(space.curvature.matrix)
    count = lay_out(arrays(p), space.sweeps.frequencies, space.nodes).shape[1]
    columns = add_shifted(arrays(p), count, space.sweeps.frequencies, space.nodes)
    space.point[:] = 0.0
    gradient_at(space.point, columns, space)
    turn(columns, space)
    np.testing.assert_allclose(np.tril(space.curvature.matrix), found, atol=1e-12 * np.abs(found).max())
    assert np.abs(np.tril(found, -1)).max() > 1e-3


def test_second_derivatives_at_another_point_are_relative_to_it():
    """`_turn` measures coordinates anew from the point of the last sweep."""
    p, q = random_mixture(0, 2, 3), random_mixture(1, 2, 2)
    space, columns = laid_out(p, q)
    space.point[:] = 0.1 * np.random.default_rng(0).normal(size=space.point.size)
    gradient_at(space.point, columns, space)
    turn(columns, space)
    found, gradient = np.tril(space.curvature.matrix), space.gradient.copy()
    assert not space.point.any()
    np.testing.assert_allclose(gradient, gradient_at(space.point, columns, space), atol=1e-12)
    np.testing.assert_allclose(found, np.tril(differences(columns, space)), atol=1e-7 * np.abs(found).max())


@pytest.mark.parametrize("dim", [1, 2])
def test_second_derivatives_where_components_share_little(dim):
    """Two of q share 1e-3 of the mass, the third nothing, so that products with it are left out."""
    means = np.zeros((6, dim))
    means[:, 0] = [-30.0, 0.0, 8.0, -29.0, 1.0, 9.0]
    p = fv.GaussianMixture(np.full(6, 1.0 / 6.0), means, [np.eye(dim)] * 6)
    q = fv.GaussianMixture([0.3, 0.3, 0.4], means[:3] + 0.4, [1.3 * np.eye(dim)] * 3)
    space, columns = laid_out(p, q)
    space.curvature.units[:] = np.nan
    space.curvature.shares[:] = np.nan
    wanted = differences(columns, space)
    gradient_at(space.point, columns, space)
    turn(columns, space)
    np.testing.assert_allclose(np.tril(space.curvature.matrix), np.tril(wanted), atol=1e-7)


@pytest.mark.parametrize("dim", [1, 2])
def test_second_derivatives_of_a_needle_do_not_depend_on_the_order_of_components(dim):
    """Those of two components are sums in the coordinates of one: of the wide one, and of the needle."""
    p = random_mixture(3, dim, 3)
    q = fv.GaussianMixture(
        [0.7, 0.3], np.array([[0.3], [-0.2]]) * np.ones(dim), [np.eye(dim), 1e-6 * np.eye(dim)]
    )
    found = []
    for order in ([0, 1], [1, 0]):
        turned = fv.GaussianMixture(q.weights[order], q.means[order], q.covs[order])
        space, _ = laid_out(p, turned)
        # Nodes that both components share.
        columns = np.full(dim, -0.2)[:, None] + 2e-3 * np.random.default_rng(0).normal(size=(dim, 600))
        space.sweeps.frequencies[:600] = 1.0 / 600.0
        gradient_at(space.point, columns, space)
        turn(columns, space)
        lower = np.tril(space.curvature.matrix)
        whole = lower + np.tril(lower, -1).T
        size = len(whole) // 2
        found.append(whole if order[0] == 0 else np.roll(whole, (size, size), (0, 1)))
    np.testing.assert_allclose(found[1], found[0], atol=1e-10 * np.abs(found[0]).max())
    assert np.abs(found[0][size:, :size]).max() > 1e-3


def test_shares_of_a_node_are_not_so_small_that_products_are_subnormal():
    share, rest = np.empty((2, 4))
    curvature._write_shares(
        np.full(4, 2.0), np.full(4, 2.0), np.array([1.0, 1e-99, 1e-101, 0.0]), share, rest
    )
    np.testing.assert_array_equal(share, [2.0, 2e-99, 0.0, 0.0])
    np.testing.assert_array_equal(rest, [0.0, 2.0, 2.0, 2.0])


class Quadratic:
    """What `trust_region` reads and writes, for a quadratic model."""

    def __init__(self, matrix, gradient, metric):
        size = gradient.size
        self.gradient, self.metric = gradient, metric
        self.direction, self.solution, self.factor = np.zeros(size), np.zeros(size), np.zeros((size, size))
        self.curvature = type("Curvature", (), {"matrix": np.tril(matrix)})()


def step_of(matrix, gradient, metric, trust, damping=0.0):
    """The step, and what `find_step` says of it, by the plain functions of the module."""
    plain = {name: getattr(one, "py_func", one) for name, one in vars(trust_region).items() if callable(one)}
    space = Quadratic(matrix, gradient, metric)
    names = dict(vars(trust_region)) | plain
    for name in ("_factorise", "_solve_lower", "_solve_upper", "solve", "length_of", "_next_damping"):
        names[name] = rebound(plain[name], names)
    for name in ("_add_negative_curvature", "_promise", "find_step"):
        names[name] = rebound(plain[name], names)
    return space.direction, names["find_step"](trust, damping, space)


def rebound(function, names):
    return type(function)(function.__code__, names, function.__name__)


@pytest.mark.parametrize("seed", range(12))
def test_steps_minimise_the_model_within_the_trust(seed):
    """By the conditions of Moré and Sorensen, for matrices that are definite or not."""
    rng = np.random.default_rng(seed)
    size, trust = int(rng.integers(2, 9)), 10.0 ** rng.uniform(-2.0, 1.0)
    roots = rng.normal(size=(size, size))
    matrix = roots @ np.diag(rng.normal(size=size) + (seed % 3)) @ roots.T
    gradient, metric = rng.normal(size=size), rng.uniform(0.1, 2.0, size)
    step, (promised, length, damping) = step_of(matrix, gradient, metric, trust)
    assert length == pytest.approx(np.sqrt(metric @ step**2), rel=1e-10)
    damped = matrix + (damping + trust_region.RIDGE) * np.diag(metric)
    np.testing.assert_allclose(damped @ step, -gradient, atol=1e-7 * np.abs(gradient).max())
    assert np.linalg.eigvalsh(damped).min() > -1e-8
    assert promised == pytest.approx(-(gradient @ step + 0.5 * step @ matrix @ step), rel=1e-10)
    assert length <= 1.2 * trust
    assert damping == 0.0 or length >= 0.7 * trust


@pytest.mark.parametrize("seed", range(4))
def test_steps_leave_saddles(seed):
    """Where the gradient has nothing along negative curvature, the step goes there, as far as the trust."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    matrix = turn @ np.diag([-1.0, 1.0, 2.0, 3.0, 4.0]) @ turn.T
    gradient = turn[:, 1:] @ rng.normal(size=4) * 0.1
    step, (promised, length, _) = step_of(matrix, gradient, np.ones(5), 0.5)
    assert length == pytest.approx(0.5)
    assert np.linalg.norm(step) == pytest.approx(0.5, rel=0.2)
    assert abs(turn[:, 0] @ step) > 0.3
    assert promised == pytest.approx(-(gradient @ step + 0.5 * step @ matrix @ step), rel=1e-10)
    assert promised > 0.04


@pytest.mark.parametrize("dim", [1, 2])
def test_saddles_are_no_minimum_of_a_reduction(dim):
    """Two components that share the middle one of three in a row: one gets it, but the gradient is even."""
    means = np.zeros((3, dim))
    means[:, 0] = -3.0, 0.0, 3.0
    p = fv.GaussianMixture(np.full(3, 1.0 / 3.0), means, [np.eye(dim)] * 3)
    halves = 0.6 * means[[0, 2]]
    q = np.array([0.5, 0.5]), halves, np.array([1.5 * np.eye(dim)] * 2)
    status, _, gain, _ = refinements.refine(arrays(p), q, 1e-8, 200, refinements.workspace(3, 2, dim))
    assert status == 0
    assert gain > 0.0
    np.testing.assert_allclose(np.sort(q[0]), [1.0 / 3.0, 2.0 / 3.0], atol=0.05)
