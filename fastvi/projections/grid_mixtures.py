r"""M-projections of a density on a grid onto mixtures of k Gaussians.

The points z_n of the grid have the masses ω_n of the trapezoid rule, as in the moment match, and KL(p ‖ q) is
least where Σ_n ω_n log q(z_n) is largest: the maximum of a likelihood. Restarts of EM on coarser cells choose
where L-BFGS starts, which takes its gradient from the sums of an E-step. A step of EM comes last: it gives q
the moments of p.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import kernels
from ..common import scratch
from ..common.validation import integer
from ..common.values import Array
from ..distributions.ascent import Objective, Parts, climb
from ..distributions.grid import Grid2D
from ..distributions.kl_and_entropy import kl_estimate
from ..distributions.mixture import GaussianMixture
from ..kernels.statuses import COARSE_GRID, CONVERGED, STEPS_EXHAUSTED
from .reduction import as_mixture
from .result import Projection

#: Cells for the restarts of EM, and for each component at least; a cell counts whose mass is above this share
#: of the largest. In nats what their mean log likelihood may lack, and their most steps.
_COARSE, _PER_COMPONENT, _LIGHT = 16384, 64, 1e-6
_COARSE_TOL, _COARSE_STEPS = 1e-7, 300

#: Steps of L-BFGS at once, after which the unit of the coordinates is renewed, and in all.
_STEPS_AT_ONCE, _MOST_STEPS = 50, 1000

#: What the divergence may lack at the end by its gradient: this share of it (along flat directions 1e-6 left
#: 2e-5), and in nats.
_SHARE, _LEAST_LACK = 1e-9, 1e-12

#: Steps of the grid in a deviation of a component along an axis, given the other: with more the grid does
#: not resolve it. The likelihood grows without end towards a row of the grid: with `_MOST` steps it counts as
#: not finite.
_RESOLVED, _MOST = 1.0, 2.0


class _Likelihood:
    """Σ_n ω_n log q(z_n) and its derivatives, in the frame where p has mean 0 and covariance I."""

    def __init__(self, p: Grid2D, masses: Array, factor: Array, count: int) -> None:
        self.mean, self.factor, self.count, self.dim = np.array(p.mean), factor, count, p.dim
        used = masses > 0.0
        points = np.stack([table[used] for table in np.broadcast_arrays(p.x[:, None], p.y[None, :])])
        self.axes = [(line, np.gradient(line)) for line in (p.x, p.y)]
        self.columns = np.ascontiguousarray(np.linalg.solve(factor, points - self.mean[:, None]))
        self.masses = masses[used]
        #: KL(p ‖ q) less -Σ ω log q.
        self.constant = float(np.log(np.diag(factor)).sum()) - p.entropy()
        self.lower = np.tril_indices(self.dim)

    def swept(self, parts: Parts, steps: int) -> tuple[float, Parts, Array]:
        """(the likelihood, the mixture, (k, ...) sums for the M-step) after so many steps of EM."""
        made = scratch.space(kernels.em.e_step.workspace, self.count, self.dim)
        space = made._replace(frequencies=self.masses)
        weights, means, factors = parts.weights, np.array(parts.means), np.array(parts.factors)
        trace, floored = np.full(steps + 1, -math.inf), np.empty((2, self.count), np.int64)
        kernels.em.iterations.fit(
            self.columns, weights, means, factors, 0.0, 0.0, steps, trace, floored, space
        )
        value = float(trace[-1]) if math.isfinite(trace[-1]) else -math.inf
        with np.errstate(divide="ignore"):
            return value, Parts(np.log(weights), means, factors), space.moments.copy()

    def __call__(self, parts: Parts) -> tuple[float, Array, Array, Array]:
        """(the likelihood, its derivatives in log weights, means and factors)."""
        if not self.narrowest(parts) < _MOST:
            return -math.inf, *parts
        value, _, sums = self.swept(parts, 0)
        shifts, squares = self.whitened(parts, sums)
        back = np.linalg.inv(parts.factors).swapaxes(1, 2)
        by_means = np.einsum("kij,kj->ki", back, shifts)
        by_factors = np.tril(back @ (squares - sums[:, 0, None, None] * np.eye(self.dim)))
        return value, sums[:, 0], by_means, by_factors

    def whitened(self, parts: Parts, sums: Array) -> tuple[Array, Array]:
        """Sums of r e (k, D) and r e e' (k, D, D) of the responsibilities r, e = L⁻¹ (z - m)."""
        shifts, squares = sums[:, 1 : 1 + self.dim], np.empty(parts.factors.shape)
        squares[:, self.lower[0], self.lower[1]] = sums[:, 1 + self.dim : -1]
        squares[:, self.lower[1], self.lower[0]] = sums[:, 1 + self.dim : -1]
        # The last sum says whether those of a component are in units of its factor times sqrt(2).
        unit = math.sqrt(2.0) * np.eye(self.dim)
        inverses = np.where(sums[:, -1, None, None] > 0.0, unit, np.linalg.inv(parts.factors))
        return np.einsum("kij,kj->ki", inverses, shifts), inverses @ squares @ inverses.swapaxes(1, 2)

    def steps(self, parts: Parts) -> Array:
        """Steps of the grid at the means of components (k, D)."""
        means = parts.means @ self.factor.T + self.mean
        return np.stack([np.interp(means[:, i], *axis) for i, axis in enumerate(self.axes)], axis=1)

    def narrowest(self, parts: Parts) -> float:
        """Steps of the grid in the least deviation of a component along an axis, given the other."""
        precisions = (np.linalg.inv(self.factor @ parts.factors) ** 2).sum(axis=1)
        return float((np.sqrt(precisions) * self.steps(parts)).max())

    def widened(self, parts: Parts) -> Parts:
        """A mixture, if the grid does not resolve it with components wider by a step along each axis."""
        if self.narrowest(parts) <= _RESOLVED:
            return parts
        more = np.linalg.inv(self.factor) * self.steps(parts)[:, None, :]
        covs = parts.factors @ parts.factors.swapaxes(1, 2) + more @ more.swapaxes(1, 2)
        factors: Any = np.linalg.cholesky(covs)
        return Parts(parts.logs, parts.means, factors)

    def tolerance(self, value: float) -> float:
        """The nats that a divergence may lack."""
        return max(_SHARE * (self.constant - value), _LEAST_LACK)

    def climbed(self, parts: Parts) -> tuple[Parts, bool]:
        """(the local maximum near a mixture, whether it is one to the tolerance)."""
        taken, value = 0, self.swept(parts, 0)[0]
        while True:
            objective = Objective(self, parts)
            steps = min(_STEPS_AT_ONCE, _MOST_STEPS - taken)
            found = climb(objective, np.zeros(objective.size), steps, self.tolerance(value))
            taken, value = taken + len(found.values), found.value
            if value > -math.inf:
                parts = objective.parts(found.x)
            good = found.lack <= self.tolerance(value)
            if good or found.stuck or taken >= _MOST_STEPS:
                return parts, good

    def gradient_norm(self, parts: Parts, sums: Array) -> float:
        """Length of the gradient, in the metric of the Fisher information of labelled points."""
        shifts, squares = self.whitened(parts, sums)
        mass, weights = sums[:, 0], parts.weights
        inner = squares - mass[:, None, None] * np.eye(self.dim)
        total = (mass - weights) ** 2 + (shifts**2).sum(axis=1) + 0.5 * (inner**2).sum(axis=(1, 2))
        return math.sqrt(float((total[weights > 0.0] / weights[weights > 0.0]).sum()))

    def mixture(self, parts: Parts) -> GaussianMixture:
        """The mixture in the coordinates of p, the heaviest component first."""
        order = np.argsort(-parts.logs, kind="stable")
        logs, means, factors = (part[order] for part in parts)
        kernels.em.standardization.unstandardize_mixture(self.mean, self.factor, means, factors)
        return GaussianMixture._from_factors(logs - np.logaddexp.reduce(logs), means, factors)


def _masses(p: Grid2D) -> Array:
    """The masses of the points of a grid (X, Y); their sum is 1."""
    found = np.exp(p.logp - p.log_integral) * np.multiply.outer(p._a, p._b)
    return np.asarray(found / found.sum())


def _halved(table: Array, axis: int) -> Array:
    """Sums of neighbours along an axis, two by two."""
    return np.asarray(np.add.reduceat(table, np.arange(0, table.shape[axis], 2), axis=axis))


def _start(likelihood: _Likelihood, p: Grid2D, masses: Array) -> Parts:
    """The best of several restarts of EM on cells of the grid, at their centres of mass."""
    from ..em.fitting import fit_mixture  # its kernels are loaded when they are used

    most = max(_COARSE, _PER_COMPONENT * likelihood.count)
    table = np.stack([masses, masses * p.x[:, None], masses * p.y[None, :]])
    while True:
        heavy = table[0] > _LIGHT * table[0].max()
        if np.count_nonzero(heavy) <= most:
            break
        rows, columns = np.count_nonzero(heavy.any(axis=1)), np.count_nonzero(heavy.any(axis=0))
        table = _halved(table, 1 if rows > columns else 2)
    used = table[0] > 0.0
    q = fit_mixture(
        (table[1:, used] / table[0, used]).T,
        likelihood.count,
        weights=table[0, used],
        tol=_COARSE_TOL,
        max_iterations=_COARSE_STEPS,
    ).mixture
    means, factors = q._means.copy(), q._factors.copy()
    kernels.em.standardization.standardize_mixture(likelihood.mean, likelihood.factor, means, factors)
    return Parts(q._log_weights, means, factors)


def grid_onto_mixtures(p: Grid2D, matched: Projection, k: Any) -> Projection:
    """The M-projection of a density on a grid, given that onto one Gaussian, onto mixtures of k."""
    count = integer("k", k, 1)
    if count == 1:
        return Projection(as_mixture(matched.q), lambda: matched.estimate)
    masses = _masses(p)
    points = np.count_nonzero(masses)
    if points < count:
        raise ValueError(f"k must be at most {points}, the points of the grid where p has mass, not {count}")
    likelihood = _Likelihood(p, masses, matched.q._factor, count)
    with np.errstate(all="ignore"):  # steps that go too far are shortened
        parts, good = likelihood.climbed(likelihood.widened(_start(likelihood, p, masses)))
        _, stepped, sums = likelihood.swept(parts, 1)
        if not likelihood.narrowest(stepped) < _MOST:
            _, stepped, sums = likelihood.swept(parts, 0)
    q = likelihood.mixture(stepped)
    status = CONVERGED if good else STEPS_EXHAUSTED
    if not likelihood.narrowest(stepped) <= _RESOLVED:
        status = COARSE_GRID
    return Projection(
        q, lambda: kl_estimate(p, q), likelihood.gradient_norm(stepped, sums), status, p.logp.size
    )
