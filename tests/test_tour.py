"""The tour: its numbers and its pictures."""

import base64
import html.parser
import math
import sys

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi import building
from fastvi import tour as tours
from fastvi.kernels import caching


@pytest.fixture(autouse=True)
def looked_for(monkeypatch):
    """The kernels that were requested: `fastvi tour` compiles these ahead."""
    found, load = set(), caching.KernelCache.load_overload

    def load_overload(self, *arguments):
        found.add(self._name)
        return load(self, *arguments)

    monkeypatch.setattr(caching.KernelCache, "load_overload", load_overload)
    yield found
    assert found <= set(tours.KERNELS)


def test_what_the_tour_calls_is_exported():
    if not numba.config.DISABLE_JIT:
        assert set(tours.KERNELS) <= set(building.exported_kernels())


def test_tour_fits_old_faithful_projects_and_draws_it(tmp_path, capsys):
    tours.projections(tours.Tour(tmp_path))
    said = capsys.readouterr().out
    assert "-1130.26396" in said
    assert "0.5846317" in said
    assert "0.4392386" in said
    for name in ("em_trace.png", "old_faithful.png", "three_optima.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    three = said[said.index("A mixture of three") :]
    assert three.count("±") == 4  # the M-projection, and three optima


def test_tour_filters_among_clutter(tmp_path, capsys):
    tours.clutter(tours.Tour(tmp_path))
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if "error" in line]
    reduced, pruned = (float(line.split("error ")[1].split(",")[0]) for line in lines)
    assert reduced < 0.8 * pruned
    assert (tmp_path / "clutter.png").read_bytes().startswith(b"\x89PNG")


def test_tour_reads_the_worked_example_in_three_ways(tmp_path, capsys):
    tours.worked_example(tours.Tour(tmp_path))
    whole, wrong, right = capsys.readouterr().out.split("\n\n")[1:]
    rows = np.array([line.split() for line in whole.splitlines()[3:11]], float)
    mu = rows[:, 0]
    np.testing.assert_allclose(rows[:, 1], 1.0 - mu, atol=2e-5)
    np.testing.assert_allclose(mu[1:], mu[:-1] + 0.5 * (1.0 - mu[:-1]), atol=2e-5)
    np.testing.assert_allclose(rows[:, 4], 0.5 * (mu - 1.0) ** 2, atol=2e-5)
    np.testing.assert_array_equal(rows[:, 5], -1.5)
    assert "ELBO -inf: q is a Gaussian on the whole line" in wrong
    assert "-1.672754" in wrong
    assert right.count("-1.672753779 ±") == 3  # the evidence twice, and one ELBO
    assert "KL 0.157428944" in right
    assert (tmp_path / "worked_example.png").read_bytes().startswith(b"\x89PNG")


def test_tour_integrates_the_schools_out_rightly():
    y, sigma, mu, tau = np.array([28.0]), np.array([15.0]), 3.0, 7.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    log_density = np.array([tours._schools_log_joint([mu, tau, e], y, sigma) for e in nodes])
    integral = math.log((weights * np.exp(log_density + 0.5 * nodes**2)).sum())
    assert tours._collapsed_log_joint([mu, tau], y, sigma) == pytest.approx(integral, rel=1e-12)


def test_tour_does_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastvi.plotting", None)
    monkeypatch.delattr(fv, "plotting")
    tours.Tour(tmp_path).draw("x.png", lambda plotting: pytest.fail("there is nothing to draw with"))
    assert "no x.png: pictures need matplotlib" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_page_has_everything_and_needs_nothing(tmp_path, capsys):
    tour = tours.Tour(tmp_path)
    for part in ("first", "second"):
        tour.sections.append([])
        tour.say()
        tour.say(f"The {part} part, KL(p ‖ q) < 1 & more")
        tour.say("A text that is")
        tour.say("on two lines.")
        tour.say("a result = 1.5   (first call 2 ms, warm 3 µs)")
        tour.say("    what it means")
        tour.say("    name    value    error")
        tour.save(f"{part}.csv", "some_numbers,others", np.array([[1.5, 2.0], [3.0, 4.0]]))
        tour.draw(f"{part}.png", lambda plotting: plotting.row_of_axes(1, (1.0, 1.0))[0])
    tour.finish()
    said = capsys.readouterr().out
    assert (tmp_path / "tour.txt").read_text(encoding="utf-8") == said
    assert "tour.html" in said
    page = (tmp_path / "tour.html").read_text(encoding="utf-8")
    for piece in (
        "<h2>The second part, KL(p ‖ q) &lt; 1 &amp; more</h2>",
        "<p>A text that is on two lines.</p>",
        "<p>a result = 1.5 <small>first call 2 ms, warm 3 µs</small></p>",
        '<p style="--level: 1">what it means</p>',
        "<pre>    name    value    error</pre>",
        "<th>some numbers</th><th>others</th>",
        "<td>1.5</td><td>2</td>",
    ):
        assert page.count(piece) == 2 - ("second" in piece), piece
    for name in ("first.png", "second.png"):
        assert base64.b64encode((tmp_path / name).read_bytes()).decode() in page
    assert page.count("src=") == page.count('src="data:image/png;base64,') == 2
    for foreign in ("http", "<link", "<script", "url(", "@import"):
        assert foreign not in page
    html.parser.HTMLParser().feed(page)


def test_progress_is_for_terminals(tmp_path, capsys, monkeypatch):
    steps = tours.Tour(tmp_path).progress("fits")
    assert list(steps(0, 10, 5)) == [0, 5]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(steps(0, 10, 5)) == [0, 5]
    assert "fits:  50%" in capsys.readouterr().err
