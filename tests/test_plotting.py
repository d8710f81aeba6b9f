"""Pictures: what is drawn, and that no display is needed."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

import fastvi as fv
from fastvi import plotting
from fastvi.distributions.support import Support
from fastvi.plotting import plot_grid, plot_posterior, plot_projection, plot_trace
from helpers.programs import run_program


@pytest.fixture(scope="module")
def mixture():
    return fv.GaussianMixture(
        [0.3, 0.7], [[-3, 1], [3, 0]], [[[1.0, 0.4], [0.4, 0.5]], [[1.0, -0.3], [-0.3, 2.0]]]
    )


@pytest.fixture(scope="module")
def projections(mixture):
    return fv.m_projection(mixture), fv.i_projection(mixture)


def ellipses(ax):
    return [patch for patch in ax.patches if isinstance(patch, Ellipse)]


def test_every_projection_has_its_one_and_two_sigma_ellipses(mixture, projections):
    m, i = projections
    ax = plot_projection(mixture, m, i)
    drawn = ellipses(ax)
    gaussians = [m.q, *(optimum.q for optimum in i.optima)]
    assert len(drawn) == 2 * len(gaussians)
    for k, patch in enumerate(drawn):
        q, sigmas = gaussians[k // 2], 1 + k % 2
        points = patch.get_path().vertices @ np.diag([patch.width / 2, patch.height / 2])
        angle = np.radians(patch.angle)
        points = points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        offsets = points + np.array(patch.center) - q.mean
        distance = np.sqrt(np.einsum("ni,ij,nj->n", offsets, np.linalg.inv(q.cov), offsets))
        # The path of a circle is of Bézier curves, whose control points lie outside: its ends are on it.
        assert np.min(np.abs(distance - sigmas)) < 1e-9
        assert distance.min() > 0.99 * sigmas
        np.testing.assert_allclose(patch.center, q.mean)


def test_legend_tells_the_divergences_and_all_ellipses_are_in_sight(mixture, projections):
    m, i = projections
    ax = plot_projection(mixture, m, i, labels=("a", "b"), title="T")
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts[0] == f"M-projection, KL(p‖q) = {m.kl:.3g}"
    assert texts[1] == f"I-projection, KL(q‖p) = {i.kl:.3g}"
    assert texts[2:] == [f"local optimum, KL(q‖p) = {o.kl:.3g}" for o in i.optima[1:]]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("a", "b", "T")
    for q in (m.q, *(o.q for o in i.optima)):
        reach = 2.0 * np.sqrt(np.diag(q.cov))
        assert ax.get_xlim()[0] < q.mean[0] - reach[0] < q.mean[0] + reach[0] < ax.get_xlim()[1]
        assert ax.get_ylim()[0] < q.mean[1] - reach[1] < q.mean[1] + reach[1] < ax.get_ylim()[1]


def test_draws_on_given_axes_and_without_projections(mixture):
    ax = Figure().add_subplot()
    assert plot_projection(mixture, ax=ax) is ax
    assert ax.get_legend() is None
    assert not ellipses(ax)
    assert ax.collections


def test_contours_enclose_the_shares_they_say():
    p = fv.Gaussian([1.0, 2.0], [[2.0, 0.6], [0.6, 1.0]])
    ax = plot_projection(p)
    lines = ax.collections[-1]
    # Where a Gaussian's density is above a share s of its peak, in the plane, there is mass 1 - s.
    np.testing.assert_allclose(1.0 - lines.levels[::-1], [0.05, 0.2, 0.4, 0.6, 0.8, 0.95], atol=0.01)


def test_grids_are_drawn_and_projected(mixture):
    grid = fv.Grid2D.from_distribution(mixture, [(-8, 8), (-8, 8)], (81, 61))
    ax = plot_grid(grid, title="p")
    assert ax.get_title() == "p"
    mesh = ax.collections[0]
    np.testing.assert_allclose(mesh.get_array().reshape(61, 81), np.exp(grid.normalized().logp).T)
    ax = plot_projection(grid, m=fv.m_projection(grid))
    assert len(ellipses(ax)) == 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p, m: plot_projection(p.mean), TypeError, "p must be a Gaussian"),
        (lambda p, m: plot_projection(fv.Gaussian(0, 1)), ValueError, "p has 1"),
        (lambda p, m: plot_projection(p, m=m.q), TypeError, "m must be a Projection"),
        (lambda p, m: plot_projection(p, i=3), TypeError, "i must be a Projection"),
        (lambda p, m: plot_grid(p), TypeError, "grid must be a Grid2D"),
    ],
)
def test_bad_arguments_are_named(mixture, projections, call, error, message):
    with pytest.raises(error, match=message):
        call(mixture, projections[0])


def worked(z, x):
    return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)


@pytest.fixture(scope="module")
def half_line():
    """p(z) = exp(-z) for z > 0, p(x | z) = N(x | z, 1), at x = 2."""
    return fv.Model(worked, 1, data=(2.0,), support="positive")


@pytest.fixture(scope="module")
def fits(half_line):
    return fv.fit(half_line, "truncated"), fv.fit(half_line)


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_posterior_in_one_dimension_is_exact_and_keeps_to_the_support(fits):
    cut, log = fits
    ax = plot_posterior([cut, log], labels=("z",), title="T")
    exact, first, second = ax.lines
    z = exact.get_xdata()
    assert z[0] < 0.0 < 4.0 < z[-1]
    # The truncated Gaussian is the posterior.
    np.testing.assert_allclose(exact.get_ydata(), cut.q.pdf(z[:, None]), rtol=1e-9)
    np.testing.assert_allclose(first.get_ydata(), cut.q.pdf(z[:, None]), rtol=1e-12)
    np.testing.assert_allclose(second.get_ydata(), log.q.pdf(z[:, None]), rtol=1e-12)
    assert not exact.get_ydata()[z < 0.0].any()
    assert max(line.get_ydata().max() for line in ax.lines) < ax.get_ylim()[1]
    assert (ax.get_xlabel(), ax.get_title()) == ("z", "T")
    assert texts(ax)[0] == "posterior, log p(x) = -1.67275"
    assert texts(ax)[1].startswith("q (truncated): ELBO = -1.67275, KL < ")
    assert texts(ax)[2] == "q (full, transformed): ELBO = -1.83018, KL = 0.157"


def test_posterior_that_q_misses_is_in_sight(half_line):
    narrow = as_fit(half_line, fv.TransformedGaussian(fv.Gaussian(0.0, 1e-4), "positive", 1))
    low, high = plot_posterior(narrow).get_xlim()
    assert low < 0.05
    assert high > 3.5


def as_fit(model, q):
    """A Fit made by hand, so that nothing is compiled for it."""
    elbo = fv.Estimate(-2.5, 0.25, 1, "draws (standard error)")
    return fv.Fit(model=model, q=q, family="full", elbo=elbo, trace=np.array([-4.0, -3.0, -2.5]))


def standard(dim):
    return fv.Gaussian(np.zeros(dim), np.eye(dim))


def plane(z):
    return -0.5 * ((z[0] - 1.0) ** 2 / 4.0 + (z[1] + 2.0) ** 2)


def test_posterior_in_two_dimensions_has_its_contours_and_those_of_q():
    q = fv.Gaussian([1.0, -2.0], [[4.0, 0.0], [0.0, 1.0]])
    ax = plot_posterior(as_fit(fv.Model(plane, 2), q), labels=("a", "b"))
    _, exact, drawn = ax.collections
    assert exact.zmax == pytest.approx(1.0 / (4.0 * math.pi), rel=1e-3)
    np.testing.assert_allclose(drawn.levels, exact.levels, rtol=1e-9)
    # Where a Gaussian's density is above a share s of its peak, in the plane, there is mass 1 - s.
    shares = 1.0 - drawn.levels[::-1] * 4.0 * math.pi
    np.testing.assert_allclose(shares, [0.05, 0.2, 0.4, 0.6, 0.8, 0.95], atol=0.01)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a", "b")
    for limits, mean, reach in zip((ax.get_xlim(), ax.get_ylim()), q.mean, (5.0, 2.5), strict=True):
        assert limits[0] < mean - reach
        assert mean + reach < limits[1]


def dirichlet(z, n):
    return n[0] * math.log(z[0]) + n[1] * math.log(z[1]) + n[2] * math.log(z[2])


@pytest.mark.parametrize(
    ("support", "dim", "free"),
    [("ordered", 2, [0, 1]), (("cholesky_corr", 2), 4, [2]), (("simplex", 2), 4, [0, 2])],
)
def test_coordinates_that_a_density_is_of(support, dim, free):
    place = Support(support, dim)
    z, _ = place.to_model(np.random.default_rng(0).standard_normal((20, len(free))))
    assert plotting._free(place) == free
    again, inside = plotting._completed(place, z[:, free])
    assert inside.all()
    np.testing.assert_allclose(again, z, atol=1e-14)
    assert not plotting._completed(place, 9.0 - 9.0 * z[:, free])[1].any()


def test_posterior_on_a_simplex_is_drawn_over_all_coordinates_but_the_last():
    model = fv.Model(dirichlet, 3, data=(np.array([3.0, 1.0, 2.0]),), support="simplex")
    q = fv.TransformedGaussian(fv.Gaussian([0.0, 0.0], [[0.4, 0.0], [0.0, 0.8]]), "simplex", 3)
    ax = plot_posterior(as_fit(model, q))
    # Its mode is at n / sum(n), and its constant Gamma(9) / (Gamma(4) Gamma(2) Gamma(3)).
    peak = math.exp(dirichlet([3 / 6, 1 / 6, 2 / 6], [3, 1, 2])) * math.factorial(8) / (6 * 1 * 2)
    assert ax.collections[1].zmax == pytest.approx(peak, rel=1e-3)


def test_trace_is_drawn_under_the_log_evidence(fits):
    ax = plot_trace(fits[1], title="T")
    trace, evidence = ax.lines
    np.testing.assert_array_equal(trace.get_ydata(), fits[1].trace)
    np.testing.assert_array_equal(trace.get_xdata(), 1 + np.arange(fits[1].trace.size))
    # 1/2 - x + log Phi(x - 1)
    exact = -1.5 + math.log(0.5 * math.erfc(-1.0 / math.sqrt(2.0)))
    np.testing.assert_allclose(evidence.get_ydata(), exact, rtol=1e-12)
    assert texts(ax) == ["ELBO, at the end -1.83018", "log p(x) = -1.67275"]
    assert ax.get_title() == "T"


def test_trace_of_many_dimensions_and_of_a_mixture_has_no_other_line():
    q = standard(3)
    ax = plot_trace(as_fit(fv.Model(lambda z: -0.5 * (z**2).sum(), 3), q))
    assert len(ax.lines) == 1
    assert texts(ax) == ["ELBO, at the end -2.5 ± 0.2"]
    found = fv.fit_mixture([0, 1, 2, 3, 10, 11, 12, 13], 2)
    ax = plot_trace(found)
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), found.trace)
    assert line.get_xdata()[0] == 0


def test_trace_of_parameters_ends_at_their_evidence(fits):
    found = fv.ThetaFit(theta=np.zeros(1), fit=fits[0], elbo=fits[0].elbo, trace=np.array([-3.0, -2.0]))
    ax = plot_trace(found)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), found.trace)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), fits[0].elbo.value, rtol=1e-9)
    assert ax.get_xlabel() == "round"
    assert texts(plot_posterior(found))[1].startswith("q (truncated)")


def improper(z):
    return 0.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: plot_posterior(f.q), TypeError, "fit must be a Fit, not TruncatedGaussian"),
        (lambda f: plot_posterior([f, 3]), TypeError, r"fit\[1\] must be a Fit, not int"),
        (lambda f: plot_posterior([]), ValueError, "fit is empty"),
        (
            lambda f: plot_posterior([f, as_fit(fv.Model(worked, 1, data=(2.0,)), f.q)]),
            ValueError,
            r"fit\[1\] is of another model",
        ),
        (
            lambda f: plot_posterior(as_fit(fv.Model(plane, 3), standard(3))),
            ValueError,
            "2 latent dimensions can be drawn; the model has 3",
        ),
        (
            lambda f: plot_posterior(as_fit(fv.Model(improper, 1), fv.Gaussian(0.0, 1.0))),
            ValueError,
            "improper",
        ),
        (
            lambda f: plot_trace(f.trace),
            TypeError,
            "a ThetaFit or a MixtureFit, not ndarray",
        ),
    ],
)
def test_what_is_no_fit_is_named(fits, call, error, message):
    with pytest.raises(error, match=message):
        call(fits[0])


def test_no_display_is_needed_and_pyplot_is_left_alone(tmp_path):
    nowhere = dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND"))
    run_program("plot_without_display", tmp_path / "p.png", **nowhere)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
