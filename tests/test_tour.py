"""The tour: its numbers and its pictures."""

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
    """The kernels that are looked for: those that `fastvi tour` has compiled ahead."""
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
