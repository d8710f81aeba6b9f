"""The kernels that the API calls: fits and expectations, compiled once for models that arrive as addresses.

A fit is a batch of one: `low` and `high` are the range of rows to work on. Python hands over plain tuples,
and packed workspaces, which are named here (see `borrowing`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..borrowing import borrow, named, packed
from ..compiler import exported, inlined
from ..densities import truncated
from ..models import evaluation, supports
from ..models.evaluation import Panel, Problem
from ..numerics.matrices import copy_vector, fill_vector
from ..statuses import FINE, RAISED, UNCONFIRMED, ZERO
from . import (
    confirmation,
    draws_fits,
    gaps,
    gradients,
    modes,
    partition,
    quadrature_fits,
    reports,
    saturation,
    sgd,
    steps,
    truncated_fits,
)
from . import curvature as curvature_
from . import evidence as evidence_
from . import laplace as laplace_


class Target(NamedTuple):
    """A model as the API hands it over, see `models.calling`."""

    log_joint: Any  #: address
    log_joint_grad: Any  #: address, or 0
    theta: Any  #: (T,)
    tables: Any  #: (N, W) packed data, a row for each data set
    kinds: Any  #: (R,)
    bounds: Any  #: (R, 2)


class Starts(NamedTuple):
    """The starts of fits, row by row, see `quadrature_fits.Start`."""

    means: Any  #: (N, R)
    scales: Any  #: (N, R)
    chols: Any  #: (N, R, R)


class Results(NamedTuple):
    """What fits write, row by row."""

    traces: Any  #: (N, T)
    reports: Any  #: (N, 8)
    wheres: Any  #: (N, D) the point of a fault


class LaplaceWorkspace(NamedTuple):
    """Scratch space for Laplace's approximation."""

    panel: Panel
    laplace: laplace_.Workspace


@inlined
def _problem(target, n):
    """The problem of data set n."""
    return Problem((target.theta, target.tables[n]), target.kinds, target.bounds)


@exported
def fit_workspace(latent, dim, rows):
    """Scratch space for `fit_quadrature`, a `fits.Workspace`, packed."""
    return packed(quadrature_fits.workspace(latent, dim, rows))


@exported
def fit_quadrature(target, family, from_laplace, starts, rtol, most_steps, space, results, low, high):
    """Fits in up to two latent dimensions, from (means, chols) or from Laplace's approximation near there.

    The latter are UNCONFIRMED where they may not be the best.
    """
    target, space = named(Target, borrow(target)), named(quadrature_fits.Workspace, borrow(space))
    starts, results = named(Starts, borrow(starts)), named(Results, borrow(results))
    for n in range(low, high):
        start = quadrature_fits.Start(starts.means[n], starts.scales[n], starts.chols[n])
        status = quadrature_fits.start_and_fit_quadrature(
            target.log_joint,
            _problem(target, n),
            family,
            from_laplace,
            start,
            rtol,
            most_steps,
            space,
            results.traces[n],
            results.reports[n],
        )
        if RAISED <= status <= ZERO:
            copy_vector(space.lattice.panel.where, results.wheres[n])


@exported
def check_tails(target, means, chols, space, results, low, high):
    """The status UNCONFIRMED for converged fits beside tails that may have infinite mass."""
    target, space = named(Target, borrow(target)), named(quadrature_fits.Workspace, borrow(space))
    results, panel = named(Results, borrow(results)), space.lattice.panel
    for n in range(low, high):
        report = reports.read_report(results.reports[n])
        if report.status == FINE:
            light, used = confirmation.has_light_tails(
                target.log_joint, _problem(target, n), means[n], chols[n], panel
            )
            found = reports.amended(report, used, FINE) if light else reports.amended(report, 0, UNCONFIRMED)
            reports.write_report(found, results.reports[n])


@exported
def doubt(target, rows, purpose, means, factors, space, results):
    """Look for what nodes do not see under the Gaussians of fits, in these rows, and amend their reports."""
    target, space = named(Target, borrow(target)), named(quadrature_fits.Workspace, borrow(space))
    results = named(Results, borrow(results))
    for n in rows:
        before = results.reports[n, reports.STATUS]
        status = gaps.doubt(
            target.log_joint,
            _problem(target, n),
            means[n],
            factors[n],
            purpose,
            space,
            results.reports[n],
        )
        if RAISED <= status <= ZERO and status != before:
            copy_vector(space.lattice.panel.where, results.wheres[n])


@exported
def doubt_bounds(target, rtol, means, factors, space, results, low, high):
    """Add to the reports of fits what their Gaussians lose where z rounds to a bound of its support."""
    target, space = named(Target, borrow(target)), named(quadrature_fits.Workspace, borrow(space))
    results = named(Results, borrow(results))
    for n in range(low, high):
        saturation.doubt(
            target.log_joint,
            _problem(target, n),
            means[n],
            factors[n],
            rtol,
            space,
            results.reports[n],
        )


@exported
def lost_at_bounds(target, mean, factor, space):
    """What the ELBO of a Gaussian may be off by where z rounds to a bound of its support."""
    target, space = named(Target, borrow(target)), named(LaplaceWorkspace, borrow(space))
    mean, factor = borrow((mean, factor))
    return saturation.lost(target.log_joint, _problem(target, 0), mean, factor, space.panel)


@exported
def doubt_truncated(target, rows, purpose, interval, means, factors, space, results):
    """The same under Gaussians truncated to an interval, mu and sigma."""
    target, space = named(Target, borrow(target)), named(truncated_fits.Workspace, borrow(space))
    results = named(Results, borrow(results))
    low_end, high_end = interval
    for n in rows:
        before = results.reports[n, reports.STATUS]
        status = gaps.doubt_truncated(
            target.log_joint,
            (target.theta, target.tables[n]),
            low_end,
            high_end,
            (means[n, 0], factors[n, 0, 0]),
            purpose,
            space,
            results.reports[n],
        )
        if RAISED <= status <= ZERO and status != before:
            copy_vector(space.where, results.wheres[n])


@exported
def laplace_workspace(latent, dim):
    """Scratch space for `laplace` and for points, a `LaplaceWorkspace`, packed."""
    panel = evaluation.panel_of(evaluation.rows_of(latent), latent, dim)
    return packed(LaplaceWorkspace(panel, laplace_.workspace(latent)))


@exported
def panel_workspace(latent, dim, rows):
    """Scratch space for points, a `Panel`, packed."""
    return packed(evaluation.panel_of(rows, latent, dim))


@exported
def laplace(target, mean, scale, chol, space):
    """Laplace's approximation; (status, evaluations)."""
    target, space = named(Target, borrow(target)), named(LaplaceWorkspace, borrow(space))
    mean, scale, chol = borrow((mean, scale, chol))
    return laplace_.laplace(
        target.log_joint, _problem(target, 0), mean, scale, chol, space.panel, space.laplace
    )


@exported
def calibrate(target, mean, scale, space):
    """Conditional standard deviations at a point, from guesses; (status, evaluations)."""
    target, space = named(Target, borrow(target)), named(LaplaceWorkspace, borrow(space))
    problem, sides = _problem(target, 0), space.laplace.sides
    status, value = evaluation.density(target.log_joint, problem, mean, space.panel)
    if status != FINE:
        return status, 1
    status, used = laplace_.calibrate(target.log_joint, problem, mean, value, scale, space.panel, sides)
    if status != FINE:
        return status, used + 1
    for i in range(scale.size):
        drop = abs(2.0 * value - sides[0, i] - sides[1, i])
        if 1e-3 < drop < math.inf:
            scale[i] /= math.sqrt(drop)
    return status, used + 1


@exported
def conditional(chol, scale, space):
    """Write the conditional standard deviations of a Gaussian."""
    laplace_.conditional(chol, scale, space)


@exported
def draws_workspace(family, latent, dim):
    """Scratch space for `fit_draws`, a `draws.Workspace`, packed."""
    return packed(draws_fits.workspace(family, latent, dim))


@exported
def fit_draws(target, family, draws, coordinates, control, result, space):
    """A fit on fixed draws."""
    target, space = named(Target, borrow(target)), named(draws_fits.Workspace, borrow(space))
    problem = _problem(target, 0)
    return draws_fits.fit_draws(
        target.log_joint,
        target.log_joint_grad,
        problem,
        family,
        draws,
        coordinates,
        control,
        result,
        space,
    )


@exported
def sgd_steps(target, family, noise, first_step, rate, coordinates, iterates, space):
    """Stochastic gradient steps; (status, mean ELBO, evaluations)."""
    target, space = named(Target, borrow(target)), named(draws_fits.Workspace, borrow(space))
    return sgd.sgd_steps(
        target.log_joint,
        target.log_joint_grad,
        _problem(target, 0),
        family,
        noise,
        first_step,
        rate,
        named(draws_fits.Coordinates, borrow(coordinates)),
        named(steps.Iterates, borrow(iterates)),
        space,
    )


@exported
def unpack(family, point, coordinates, space, mean, factor):
    """Write mean and factor of the q that has these parameters, see `draws`."""
    coordinates = named(draws_fits.Coordinates, borrow(coordinates))
    draws_fits.unpack(family, point, coordinates, named(draws_fits.Workspace, borrow(space)), mean, factor)


@exported
def expected_log_joint(target, thetas, points, weights, space, values, out):
    """Write the weighted sum of the log joint at latent points for each theta; NaN where it is not finite."""
    target, space = named(Target, borrow(target)), named(LaplaceWorkspace, borrow(space))
    dim = points.shape[1]
    zero, unit = np.zeros(dim), np.ones((1, dim))
    for t in range(thetas.shape[0]):
        problem = Problem((thetas[t], target.tables[0]), target.kinds, target.bounds)
        total = 0.0
        if draws_fits.average(target.log_joint, problem, points, zero, unit, space.panel, values)[0] != FINE:
            total = math.nan
        for n in range(points.shape[0]):
            total += weights[n] * values[n]
        out[t] = total


@exported
def elbo_draws(target, draws, mean, factor, scale, space, grad_mean, grad_chol):
    """(status, the ELBO over fixed draws), and its gradient in the mean and the factor's lower triangle."""
    target, space = named(Target, borrow(target)), named(draws_fits.Workspace, borrow(space))
    # TRIANGULAR, but no literal, for which numba would compile the objective once more.
    form = draws_fits.TRIANGULAR * draws.shape[0]
    status, value, _ = draws_fits.objective(
        target.log_joint,
        target.log_joint_grad,
        _problem(target, 0),
        draws,
        mean,
        factor,
        form,
        scale,
        gradients.sides_for(0.0, factor, scale),
        space,
    )
    dim = mean.size
    for i in range(dim):
        grad_mean[i] = -space.mean_gradient[i]
        for j in range(dim):
            grad_chol[i, j] = -space.factor_gradient[i, j] if j <= i else 0.0
        grad_chol[i, i] += 1.0 / factor[i, i]
    return status, -value


@exported
def log_joint_gradients(target, points, scale, space, values, slopes):
    """Write log joint + log-Jacobian and its gradients at latent points (N, R); (status, evaluations).

    Central differences, where there is no gradient, are in units of `scale`.
    """
    target, space = named(Target, borrow(target)), named(draws_fits.Workspace, borrow(space))
    points, scale, values, slopes = borrow((points, scale, values, slopes))
    return gradients.tabulate(
        target.log_joint,
        target.log_joint_grad,
        _problem(target, 0),
        points,
        scale,
        space,
        values,
        slopes,
    )


@exported
def curvature(target, unit, points, values, slopes, precision, space):
    """Second derivatives at the first of some points, by gradients; (status, evaluations)."""
    target, space = named(Target, borrow(target)), named(draws_fits.Workspace, borrow(space))
    unit, points, values, slopes, precision = borrow((unit, points, values, slopes, precision))
    return curvature_.curvature(
        target.log_joint,
        target.log_joint_grad,
        _problem(target, 0),
        unit,
        points,
        values,
        slopes,
        precision,
        space,
    )


@exported
def averages(target, draws, mean, factor, space, values, first, last, out):
    """Write the means of log joint + log-Jacobian over the blocks first to last of draws (B, N, D)."""
    target, space = named(Target, borrow(target)), named(LaplaceWorkspace, borrow(space))
    draws, mean, factor, values, out = borrow((draws, mean, factor, values, out))
    problem = _problem(target, 0)
    for b in range(first, last):
        status, out[b] = draws_fits.average(
            target.log_joint, problem, draws[b], mean, factor, space.panel, values
        )
        if status != FINE:
            return status, b + 1
    return FINE, last


@exported
def densities(target, points, space, values):
    """Write log joint + log-Jacobian at latent points (N, R); the status."""
    target, space = named(Target, borrow(target)), named(LaplaceWorkspace, borrow(space))
    dim = points.shape[1]
    zero, unit = np.zeros(dim), np.ones((1, dim))
    problem = _problem(target, 0)
    return draws_fits.average(target.log_joint, problem, points, zero, unit, space.panel, values)[0]


@exported
def densities_or_zero(target, points, space, values):
    """As `densities`, but -inf where that is not finite, and no status."""
    target, space = named(Target, borrow(target)), named(LaplaceWorkspace, borrow(space))
    zero, unit = np.zeros(points.shape[1]), np.ones((1, points.shape[1]))
    problem = _problem(target, 0)
    draws_fits.densities_or_zero(target.log_joint, problem, points, zero, unit, space.panel, values)


@exported
def elbo_quadrature(target, mean, factor, rtol, space, grad_mean, grad_chol):
    """(status, ELBO, its error, evaluations, whether it holds) in up to two dimensions, and its gradient."""
    target = named(Target, borrow(target))
    return quadrature_fits.elbo_quadrature(
        target.log_joint, _problem(target, 0), mean, factor, rtol, space, grad_mean, grad_chol
    )


@exported
def truncated_workspace():
    """Scratch space for truncated Gaussians, a `truncated.Workspace`, packed."""
    return packed(truncated_fits.workspace())


@exported
def fit_truncated(target, interval, starts, rtol, most_steps, space, results, low, high):
    """Fits of Gaussians truncated to an interval (low, high); `starts` (N, 2) become (mu, sigma)."""
    target, space = named(Target, borrow(target)), named(truncated_fits.Workspace, borrow(space))
    results = named(Results, borrow(results))
    low_end, high_end = interval
    for n in range(low, high):
        status = truncated_fits.fit_truncated(
            target.log_joint,
            (target.theta, target.tables[n]),
            low_end,
            high_end,
            starts[n],
            rtol,
            most_steps,
            space,
            results.traces[n],
            results.reports[n],
        )
        if status >= RAISED:
            copy_vector(space.where, results.wheres[n])


@exported
def elbo_truncated(target, mu, sigma, low_end, high_end, rtol, space):
    """(status, ELBO, its error, evaluations) of a truncated Gaussian."""
    target, space = named(Target, borrow(target)), named(truncated_fits.Workspace, borrow(space))
    data = target.theta, target.tables[0]
    return truncated_fits.elbo(target.log_joint, data, mu, sigma, low_end, high_end, rtol, space, space.sums)


@exported
def truncated_moments(mu, sigma, low_end, high_end, out):
    """Write mean, variance and E[((z - mu) / sigma)**2]; log of the mass in the interval."""
    return truncated.moments(mu, sigma, low_end, high_end, out)


@exported
def evidence_workspace(latent, dim):
    """Scratch space for `evidence`, an `evidence.Workspace`, packed."""
    return packed(evidence_.workspace(latent, dim))


@exported
def evidence(target, mean, factor, rtol, q, integrand, total, space):
    """(status, value, error, evaluations) of the log of the integral of the joint, or of q's divergence."""
    target, space = named(Target, borrow(target)), named(evidence_.Workspace, borrow(space))
    q = named(evidence_.Density, borrow(q))
    all_mass = np.full(1, np.inf)
    no_modes = modes.Modes(mean.reshape((1, -1)), factor.reshape((1, *factor.shape)), all_mass)
    whole = evidence_.Part(no_modes, evidence_.WHOLE, evidence_.NONE)
    fill_vector(evidence_.REACH, space.reach)
    status, value, error, nodes, _ = evidence_.integrate(
        target.log_joint,
        _problem(target, 0),
        mean,
        factor,
        evidence_.STEP,
        evidence_.MOST_NODES,
        rtol,
        q,
        integrand,
        total,
        whole,
        space,
    )
    return status, value, error, nodes


@exported
def mode_starts(mean, factor, out):
    """Write the points that searches for other modes start from."""
    modes.write_starts(mean, factor, out)


@exported
def far_start(target, x, noise, highest, space):
    """Move single coordinates of a latent point to where the density is much higher than `highest`.

    Judged by the mean log density of points around it, x and a row of `noise` each. Returned are (that mean,
    evaluations).
    """
    target, space = named(Target, borrow(target)), named(LaplaceWorkspace, borrow(space))
    x, noise, dim, problem = borrow(x), borrow(noise), x.size, _problem(target, 0)
    moves, unit, place = np.zeros((2 * modes.LENGTHS.size * dim, dim)), np.ones((1, dim)), np.empty(dim)
    for k in range(modes.LENGTHS.size):
        for i in range(dim):
            moves[2 * k * dim + i, i], moves[(2 * k + 1) * dim + i, i] = modes.LENGTHS[k], -modes.LENGTHS[k]
    values, means, evaluations = np.empty(moves.shape[0]), np.empty(moves.shape[0]), 0
    for _ in range(modes.MOVES):
        means[:] = 0.0
        for row in noise:
            for i in range(dim):
                place[i] = x[i] + row[i]
            draws_fits.densities_or_zero(target.log_joint, problem, moves, place, unit, space.panel, values)
            for n in range(values.size):
                means[n] += values[n] / noise.shape[0]
        evaluations += noise.shape[0] * values.size
        best = np.argmax(means)
        if not means[best] > highest + modes.MUCH * dim:
            break
        highest = means[best]
        for i in range(dim):
            x[i] += moves[best, i]
    return highest, evaluations


@exported
def find_modes(target, found, starts, heights, space):
    """Write the modes of a model, of which the first row has a first approximation; how many they are.

    And the log densities at points around the first.
    """
    target, space = named(Target, borrow(target)), named(LaplaceWorkspace, borrow(space))
    found, starts, heights = named(modes.Modes, borrow(found)), borrow(starts), borrow(heights)
    scale, problem = np.empty(starts.shape[1]), _problem(target, 0)
    return modes.find(target.log_joint, problem, found, starts, heights, scale, space.panel, space.laplace)


@exported
def unexplained(found, heights, tried):
    """The point around the first mode to start one more search from, or -1."""
    found, heights, tried = named(modes.Modes, borrow(found)), borrow(heights), borrow(tried)
    gap = np.empty(found.means.shape[1])
    return modes.unexplained(found, found.log_masses.size, heights, tried, tried.size, gap)


@exported
def log_evidence(target, found, rtol, mean, factor, space):
    """(status, value, error, evaluations) of the log evidence by the modes found; writes a frame."""
    target, space = named(Target, borrow(target)), named(evidence_.Workspace, borrow(space))
    found, mean, factor = named(modes.Modes, borrow(found)), borrow(mean), borrow(factor)
    return partition.of_modes(target.log_joint, _problem(target, 0), found, rtol, mean, factor, space)


@exported
def lost_by_evidence(target, mean, value, panel):
    """What the log evidence may be off by where z rounds to a bound of its support."""
    target, panel = named(Target, borrow(target)), named(Panel, borrow(panel))
    return saturation.lost_by_evidence(target.log_joint, _problem(target, 0), borrow(mean), value, panel)


@exported
def mass_of_gaps(target, mean, factor, heights, log_total, panel):
    """The share of mass that gaps of zero density around a mode may take."""
    target, panel = named(Target, borrow(target)), named(Panel, borrow(panel))
    mean, factor, heights = borrow((mean, factor, heights))
    return gaps.mass(target.log_joint, _problem(target, 0), mean, factor, heights, log_total, panel)


@exported
def to_support(kinds, bounds, latent, z, log_jacobian):
    """Write model coordinates (N, D) and log-Jacobians for latent ones (N, R)."""
    supports.to_support(kinds, bounds, latent, latent.shape[0], z, log_jacobian)


@exported
def to_latent(kinds, bounds, z, latent):
    """Write latent coordinates (N, R) for model ones (N, D); the number of rows inside of the support."""
    for n in range(z.shape[0]):
        if not supports.to_latent(kinds, bounds, z[n], latent[n]):
            return n
    return z.shape[0]
