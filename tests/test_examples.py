"""The programs in fastvi/examples: what they compute, and that a user could have written them."""

import ast
import io
import math
import tokenize
from pathlib import Path

import numba
import numpy as np
import pytest
from scipy import integrate, stats

import fastvi as fv
from fastvi import kernels
from fastvi.examples import agents, clutter, tracking

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set")

PROGRAMS = {module.__name__: Path(module.__file__).read_text() for module in (agents, clutter, tracking)}


def lines_of_code(source):
    """Lines that hold code: no comments, no docstrings, no blank ones."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*silent, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_short_and_use_nothing_private(name):
    assert lines_of_code(PROGRAMS[name]) < 60
    for node in ast.walk(ast.parse(PROGRAMS[name])):
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
            assert set(modules) <= {"fastvi", "numba", "numpy", "math"}
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")


def few(**changes):
    """A small world of foragers after ten steps: (patch, mean, variance, eaten, failed)."""
    log_rates, uniforms = agents.world(1, steps=10, agents=200, patches=7)
    state = {
        "patch": np.arange(200) % 7,
        "mean": np.zeros(200),
        "variance": np.ones(200),
        "eaten": np.zeros(200),
        "failed": np.zeros(200, np.int64),
    }
    for name, (i, value) in changes.items():
        state[name][i] = value
    agents.live(0, 10, log_rates, uniforms, *state.values())
    return state


def test_a_forager_believes_the_gaussian_next_to_its_posterior():
    log_rates, uniforms = agents.world(2, steps=1, agents=3, patches=3)
    patch, mean, variance = np.arange(3), np.array([0.5, 1.0, -0.2]), np.array([0.3, 1.0, 0.5])
    eaten, failed = np.zeros(3), np.zeros(3, np.int64)
    prior_mean, prior_variance = agents.KEEP * mean, agents.KEEP**2 * variance + agents.DRIFT**2
    agents.live(0, 1, log_rates, uniforms, patch, mean, variance, eaten, failed)
    assert not failed.any()
    for i in range(3):
        rate = math.exp(log_rates[0, i])
        assert eaten[i] == stats.poisson.ppf(uniforms[0, i], rate)
        if patch[i] != i:
            continue  # it has left
        # At the optimum E_q[d log p] = 0 and E_q[d2 log p] = -1 / variance.
        mean_rate = integrate.quad(
            lambda z, i=i: math.exp(z) * stats.norm.pdf(z, mean[i], math.sqrt(variance[i])), -12, 12
        )[0]
        assert abs(eaten[i] - mean_rate - (mean[i] - prior_mean[i]) / prior_variance[i]) <= 1e-6
        assert abs(mean_rate + 1.0 / prior_variance[i] - 1.0 / variance[i]) <= 1e-6


def test_foragers_are_the_same_on_any_number_of_threads():
    before = numba.get_num_threads()
    results = []
    for threads in sorted({1, numba.config.NUMBA_NUM_THREADS}):
        numba.set_num_threads(threads)
        results.append(few())
    numba.set_num_threads(before)
    for other in results[1:]:
        for name, array in results[0].items():
            np.testing.assert_array_equal(array, other[name])


def test_a_forager_that_believes_nan_disturbs_no_other():
    good, bad = few(), few(mean=(17, np.nan))
    others = np.arange(200) != 17
    for name, array in good.items():
        np.testing.assert_array_equal(array[others], bad[name][others])
    assert bad["failed"][17] == 10
    assert not good["failed"].any()


def test_all_foragers_are_right_about_as_often_as_they_say():
    patch, mean, variance, _, failed = agents.simulate(3, steps=20, agents=1000, patches=50)
    log_rates, _ = agents.world(3, steps=20, agents=1000, patches=50)
    off = np.abs(log_rates[-1, patch] - mean) / np.sqrt(variance)
    assert not failed.any()
    assert abs(np.mean(off < 1.0) - 0.683) < 0.07
    assert abs(np.mean(off < 2.0) - 0.954) < 0.03


def test_the_filter_is_that_of_plain_python():
    _, measured = tracking.world(4, tracks=2, steps=5)
    for by_m in (True, False):
        means, covs = np.empty((2, 5, 2)), np.empty((2, 5, 2, 2))
        tracking.track(measured, by_m, means, covs)
        for n in range(2):
            mean, cov = tracking.HOME, 1.6 * np.eye(2)
            for t in range(5):
                prior_mean = tracking.HOME + tracking.KEEP * (mean - tracking.HOME)
                prior = tracking.KEEP**2 * cov + tracking.WALK**2 * np.eye(2)
                spread = prior + tracking.NOISE**2 * np.eye(2)
                weights, parts = [], []
                for share, seen in (
                    (1.0 - tracking.ECHO, measured[n, t]),
                    (tracking.ECHO, tracking.MIRROR @ measured[n, t]),
                ):
                    gain = np.linalg.solve(spread, prior).T
                    weights.append(share * stats.multivariate_normal.pdf(seen, prior_mean, spread))
                    parts.append((prior_mean + gain @ (seen - prior_mean), prior - gain @ spread @ gain.T))
                p = fv.GaussianMixture(
                    np.array(weights) / sum(weights),
                    [m for m, _ in parts],
                    [0.5 * (c + c.T) for _, c in parts],
                )
                q = (fv.m_projection(p) if by_m else fv.i_projection(p)).q
                mean, cov = q.mean, q.cov
                np.testing.assert_allclose(means[n, t], mean, atol=1e-6)
                np.testing.assert_allclose(covs[n, t], cov, atol=1e-6)


def test_progress_is_told():
    seen = []

    def progress(first, last, step):
        for i in range(first, last, step):
            seen.append(i)
            yield i

    agents.simulate(0, steps=10, agents=16, patches=2, progress=progress)
    assert seen == [0, 5]


# The kernels' documentation.

DOCUMENTED = [
    name
    for name in kernels.__doc__.split("The kernels\n")[1].replace(",", " ").split()
    if name.split(".")[0] in kernels._DOCUMENTED and "." in name.strip(".")
]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_kernels_say_what_they_take_and_return(name):
    module, function = name.split(".")
    text = getattr(getattr(kernels, module), function).__doc__
    for section in ("Returns\n    -------", "Examples\n    --------"):
        assert section in text
    assert ("Parameters\n    ----------" in text) or "()" in text or function == "workspace"


def test_all_kernels_that_are_documented_are_found():
    assert len(DOCUMENTED) == 31


def test_the_gaussian_sum_filter_is_bayes_rule():
    """The posterior before it is reduced: prior times likelihood, on a lattice."""
    belief = fv.GaussianMixture([0.3, 0.7], [[0.0, 1.0], [2.0, 0.0]], [np.eye(2), 0.5 * np.eye(2)])
    _, detections = clutter.world(5, tracks=1, steps=1)
    posterior = clutter.update(belief, detections[0, 0])
    assert posterior.weights.size == 2 * 2 * (clutter.SEEN + 1)
    axis = np.linspace(-12.0, 12.0, 241)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.zeros(len(z))
    for width, chance in zip(clutter.WALKS, clutter.CHANCES, strict=True):
        walked = fv.GaussianMixture(belief.weights, belief.means, belief.covs + width**2 * np.eye(2))
        density += chance * walked.pdf(z)
    likelihood = np.full(len(z), 1.0 - clutter.DETECTED)
    for one in detections[0, 0]:
        seen = fv.Gaussian(one, clutter.NOISE**2 * np.eye(2)).pdf(z)
        likelihood += clutter.DETECTED / clutter.SEEN * (2.0 * clutter.HALF) ** 2 * seen
    density *= likelihood
    np.testing.assert_allclose(posterior.pdf(z), density / (density.sum() * 0.01), rtol=1e-6, atol=1e-9)


def test_rounding_of_a_belief_is_rounding_of_its_reduction():
    """Where q has directions with next to no curvature, the steps are not rounding."""
    rng = np.random.default_rng(0)
    p = clutter.update(fv.GaussianMixture([1.0], [[0.0, 0.0]], [np.eye(2)]), clutter.world(6, 1, 4)[1][0, 0])
    for t in range(1, 3):
        belief = fv.reduce_mixture(p, clutter.KEPT, tol=1e-4).mixture
        p = clutter.update(belief, clutter.world(6, 1, 4)[1][0, t])
    q = fv.reduce_mixture(p, clutter.KEPT, tol=1e-4).mixture
    for _ in range(3):
        weights = p.weights * (1.0 + 1e-15 * rng.normal(size=p.weights.size))
        means = p.means * (1.0 + 1e-15 * rng.normal(size=p.means.shape))
        near = fv.reduce_mixture(
            fv.GaussianMixture(weights / weights.sum(), means, p.covs), clutter.KEPT, tol=1e-4
        )
        np.testing.assert_allclose(near.mixture.logpdf(means), q.logpdf(means), atol=1e-10)


def test_the_gaussian_sum_filter_reduces_its_belief():
    true, detections = clutter.world(6, tracks=1, steps=4)
    for reduced in (True, False):
        means, surprise = np.empty((1, 4, 2)), np.empty((1, 4))
        clutter.track(detections, reduced, true, means, surprise)
        belief = fv.GaussianMixture([1.0], [[0.0, 0.0]], [np.eye(2)])
        for t in range(4):
            p = clutter.update(belief, detections[0, t])
            belief = fv.reduce_mixture(p, clutter.KEPT, tol=0.01).mixture if reduced else clutter.pruned(p)
            np.testing.assert_allclose(means[0, t], belief.mean, rtol=1e-6, atol=1e-9)
            assert surprise[0, t] == pytest.approx(-belief.logpdf(true[0, t]), rel=1e-6)
