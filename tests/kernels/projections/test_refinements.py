"""The refinement of reduced mixtures: its nodes, its gradients, and the components that need fewer nodes."""

import itertools
import math

import numpy as np
import pytest

import fastvi as fv
from fastvi.kernels.borrowing import named
from fastvi.kernels.projections import nodes, refinements
from helpers.forms import all_plain
from helpers.mixtures import arrays, random_mixture

# Plain: one sweep, which takes 17 s to compile. `refine` is the compiled kernel of all of them.
lay_out, add_shifted = map(all_plain, (nodes.lay_out, nodes.add_shifted))
mean_log_density = all_plain(nodes.mean_log_density)
evaluate, write_parts = map(all_plain, (refinements._evaluate, refinements._write_parts))


def parts(q):
    return np.array(q.weights), np.array(q.means), np.linalg.cholesky(q.covs)


def swept(p, q):
    """The space after one sweep over the nodes of the first level: with these, and the gradient at q."""
    words = refinements.workspace(p.weights.size, q.weights.size, p.dim)
    status, sweeps, *_ = refinements.refine(arrays(p), parts(q), 1e-8, 1, words)
    assert (status, sweeps) == (1, 1)
    space = named(refinements.Workspace, words)
    columns = lay_out(arrays(p), space.sweeps.frequencies, space.nodes)
    evaluate(columns, space.point, space.gradient, space)
    write_parts(columns, space)
    return space, columns, space.sweeps.frequencies[: columns.shape[1]]


def overlapping(seed, components):
    """Components in the plane of two widths, most of which overlap."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(components, 2, 12)) * rng.choice([0.05, 0.2], (components, 1, 1))
    weights = rng.uniform(0.1, 1.0, components)
    return fv.GaussianMixture(
        weights / weights.sum(), 0.6 * rng.normal(size=(components, 2)), roots @ roots.swapaxes(1, 2)
    )


@pytest.mark.parametrize(("dim", "components"), [(1, 3), (2, 3), (2, 40), (3, 3), (5, 3)])
def test_the_nodes_have_the_mean_and_covariance_of_p(dim, components):
    p = random_mixture(0, dim, 3) if components == 3 else overlapping(0, components)
    _, columns, weights = swept(p, random_mixture(1, dim, 2))
    assert weights.sum() == pytest.approx(1.0, rel=1e-13)
    np.testing.assert_allclose(columns @ weights, p.mean, atol=1e-12)
    moved = columns - p.mean[:, None]
    np.testing.assert_allclose((moved * weights) @ moved.T, p.cov, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_components_that_overlap_share_a_lattice(seed):
    """It has fewer nodes, and the trapezoid rule on it gives the characteristic function of p."""
    p = overlapping(seed, 40)
    space, columns, weights = swept(p, random_mixture(1, 2, 2))
    under, groups = space.nodes, int(space.nodes.groups[0])
    alone = 40 * nodes._level_size(int(under.levels[0]), 2, 40)
    assert groups < 40
    assert under.units[:groups].max() > 0.0
    assert weights.size < alone
    for k in range(groups):
        assert (under.bounds[k + 1] == under.bounds[k] + 1) or under.units[k] > 0.0
    assert sorted(under.members) == list(range(40))
    for t in ([0.5, 0.0], [1.0, -1.0], [0.3, 1.5]):
        spread = np.einsum("i,kij,j->k", t, p.covs, t)
        exact = p.weights @ np.exp(1j * p.means @ t - 0.5 * spread)
        assert abs(weights @ np.exp(1j * np.array(t) @ columns) - exact) < 5e-5


@pytest.mark.parametrize("p", [random_mixture(0, 1, 3), random_mixture(0, 3, 4), overlapping(1, 40)], ids=str)
def test_the_mean_log_density_is_that_on_the_nodes(p):
    space, columns, weights = swept(p, random_mixture(1, p.dim, 2))
    found = mean_log_density(arrays(p), columns, weights, space.nodes)
    assert found == pytest.approx(weights @ p.logpdf(columns.T), rel=1e-3 if p.dim == 2 else 1e-12)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_the_gradient_is_that_of_the_mean_log_density(dim):
    """In the logarithms of the weights, the means, and the factors with logarithms, relative to q."""
    p, q = random_mixture(0, dim, 3), random_mixture(1, dim, 2)
    space, columns, shares = swept(p, q)
    weights, means, factors = parts(q)
    rows, cols = np.tril_indices(dim)

    def value(point):
        table = point.reshape(2, -1)
        relatives = np.zeros((2, dim, dim))
        relatives[:, rows, cols] = np.where(rows == cols, np.exp(table[:, 1 + dim :]), table[:, 1 + dim :])
        scaled = weights * np.exp(table[:, 0])
        moved = means + np.einsum("kij,kj->ki", factors, table[:, 1 : 1 + dim])
        covs = factors @ relatives @ relatives.swapaxes(1, 2) @ factors.swapaxes(1, 2)
        return -shares @ fv.GaussianMixture(scaled / scaled.sum(), moved, covs).logpdf(columns.T)

    step = 1e-5
    for i in range(space.gradient.size):
        move = step * (np.arange(space.gradient.size) == i)
        difference = (value(move) - value(-move)) / (2.0 * step)
        assert space.gradient[i] == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_components_between_those_of_q_get_more_nodes():
    """Fourteen components in each of two far places need few; a wide one between them needs many."""
    rng = np.random.default_rng(0)
    means = np.concatenate([rng.normal(size=(28, 2)), np.zeros((1, 2))])
    means[:14, 0] -= 8.0
    means[14:28, 0] += 8.0
    p = np.log([0.8 / 28] * 28 + [0.2]), means, np.array([np.eye(2)] * 28 + [3.0 * np.eye(2)])
    q = np.array([0.5, 0.5]), np.array([[-8.0, 0.0], [8.0, 0.0]]), np.array([3.0 * np.eye(2)] * 2)
    words = refinements.workspace(29, 2, 2)
    status, *_ = refinements.refine(p, q, 1e-6, 500, words)
    under = named(refinements.Workspace, words).nodes
    assert status == 0
    assert (under.groups[0], under.bounds[1], under.members[28]) == (2, 28, 28)
    assert under.levels[1] > under.levels[0]


def test_groups_that_take_a_coarser_level_keep_some_nodes():
    """They leave less room to those that take a finer one."""
    components, level = 80, 5
    space, sizes = nodes.nodes_for(components, 2), [nodes._level_size(i, 2, components) for i in range(8)]
    space.groups[0], space.units[:], space.levels[:] = components, 0.0, level
    space.ends[:] = sizes[level] * np.arange(1, components + 1)
    space.errors[:] = np.where(np.arange(components) < 30, 0.0, 1.0)
    assert nodes.choose_levels(1.0, 1e-3, level, components, space) == (True, True)
    after = space.levels + space.moves
    assert (after == 4).sum() == 30
    assert 0 < (after == 6).sum() < 50
    assert sum(sizes[i] for i in after) <= nodes.most_nodes(2, components)


@pytest.mark.parametrize("dim", [1, 2])
def test_lattices_have_the_sizes_for_which_there_is_room(dim):
    for shifted, level in itertools.product(range(2), range(nodes.LEVELS[dim - 1])):
        size = nodes.SIZES[dim - 1][shifted][level]
        points, weights = np.full((dim, size + 9), np.nan), np.full(size + 9, np.nan)
        nodes._write_lattice(level, 0.5 * shifted, dim, points, weights)
        assert np.isfinite(weights).sum() == np.isfinite(points).sum() // dim == size
        assert np.sum(points[:, :size] ** 2, axis=0).max() <= nodes.RADII[dim - 1][level] ** 2 * (1.0 + 1e-12)


@pytest.mark.parametrize("dim", [1, 2])
def test_shifted_nodes_lie_between_the_others(dim):
    """Those of two places on a line, and those of a lattice that components share; the moments stay."""
    rng = np.random.default_rng(0)
    means = 0.6 * rng.normal(size=(30, 2)) if dim == 2 else np.array([[-30.0], [30.0]])
    p = fv.GaussianMixture(np.full(len(means), 1.0 / len(means)), means, [np.eye(dim)] * len(means))
    space, columns, frequencies = swept(p, random_mixture(1, dim, 2))
    assert dim == 1 or space.nodes.groups[0] == 1
    plain, weights = columns.copy(), frequencies.copy()
    count = weights.size
    both = add_shifted(arrays(p), count, space.sweeps.frequencies, space.nodes)
    halves = 2.0 * space.sweeps.frequencies[: both.shape[1]]
    np.testing.assert_array_equal(both[:, :count], plain)
    np.testing.assert_array_equal(halves[:count], weights)
    assert list(space.nodes.shifted_ends[: space.nodes.groups[0]])[-1] == both.shape[1]
    shifted, masses = both[:, count:], halves[count:]
    np.testing.assert_allclose(shifted @ masses, plain @ weights, atol=1e-12)
    np.testing.assert_allclose((shifted * masses) @ shifted.T, (plain * weights) @ plain.T, rtol=1e-12)
    distances = np.sqrt(((plain[:, :, None] - shifted[:, None]) ** 2).sum(axis=0))
    step = nodes.STEPS[dim - 1][int(space.nodes.levels[0])]
    assert distances.min() == pytest.approx(step * math.sqrt(dim) / 2.0, rel=0.05)


def test_a_component_that_shrinks_to_a_node_is_no_minimum():
    p = random_mixture(2, 2, 4)
    node = swept(p, random_mixture(1, 2, 2))[1][:, 100]
    q = np.array([0.5, 0.5]), np.array([[0.0, 0.0], node]), np.array([np.eye(2), 1e-9 * np.eye(2)])
    status, _, gain, _ = refinements.refine(arrays(p), q, 1e-6, 500, refinements.workspace(4, 2, 2))
    assert status == 20
    assert math.isnan(gain)


def test_pairs_are_normal():
    """Moments of the pairs, and none of them twice."""
    space, _, _ = swept(random_mixture(0, 3, 4), random_mixture(1, 3, 2))
    pairs = space.nodes.rules[0, :, : space.nodes.starts[0, 1]]
    half = pairs.shape[1] // 2
    assert half == 512
    np.testing.assert_array_equal(pairs[:, :half], -pairs[:, half:])
    np.testing.assert_allclose((pairs**4).mean(axis=1), 3.0, atol=0.3)
    np.testing.assert_allclose(((pairs[0] * pairs[2]) ** 2).mean(), 1.0, atol=0.1)
    assert np.unique(pairs[2].round(12)).size == 1024
