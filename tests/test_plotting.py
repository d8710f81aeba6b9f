"""Pictures: what is drawn, and that no display is needed. How they look is for people to judge."""

import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

import fastvi as fv
from fastvi.plotting import plot_grid, plot_projection


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


def test_no_display_is_needed_and_pyplot_is_left_alone(tmp_path):
    code = (
        "import sys, fastvi as fv\n"
        "from fastvi.plotting import plot_projection\n"
        "p = fv.Gaussian([0, 0], [[1, 0], [0, 1]])\n"
        f"plot_projection(p).figure.savefig({str(tmp_path / 'p.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {
        k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_importing_fastvi_does_not_import_matplotlib_or_scipy_stats():
    code = (
        "import sys, fastvi\n"
        "fastvi.i_projection(fastvi.Gaussian(0, 1))\n"
        "assert not {'matplotlib', 'scipy.stats'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tour_projects_old_faithful_and_draws_it(tmp_path, capsys):
    from fastvi.tour import Tour, projections

    projections(Tour(tmp_path))
    said = capsys.readouterr().out
    assert "0.584631704" in said
    assert "0.439238674" in said
    for name in ("old_faithful.png", "three_optima.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    three = said[said.index("A mixture of three") :]
    assert three.count("±") == 4  # the M-projection, and three optima
