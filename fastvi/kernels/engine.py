"""What the API calls: fits and expectations, compiled once for models that arrive as addresses.

`theta` and a row of `tables` are a model's parameters and packed data, see `targets`. Each function works
through rows low to high of its arrays, so one fit is a batch of one.
"""

from __future__ import annotations

import math

import numpy as np

from . import draws as draws_
from . import evidence as evidence_
from . import fits
from . import laplace as laplace_
from . import steps as steps_
from . import supports as supports_
from . import truncated as truncated_
from .borrowing import borrow
from .gaussians import LOG_2PI
from .jit import exported
from .matrices import copy_vector, half_log_det
from .panels import FINE, panel


@exported
def fit_workspace(latent, dim):
    """Scratch space for `fit_quadrature`."""
    return fits.workspace(latent, dim)


@exported
def fit_quadrature(
    log_joint,
    theta,
    tables,
    kinds,
    bounds,
    family,
    from_laplace,
    means,
    scales,
    chols,
    rtol,
    most_steps,
    space,
    traces,
    reports,
    wheres,
    low,
    high,
):
    """Fits in up to two latent dimensions, from (means, chols) or from Laplace's approximation near there."""
    theta, tables, kinds, bounds, space = borrow((theta, tables, kinds, bounds, space))
    means, scales, chols, traces, reports, wheres = borrow((means, scales, chols, traces, reports, wheres))
    for n in range(low, high):
        problem = ((theta, tables[n]), kinds, bounds)
        fits.start_and_fit_quadrature(
            log_joint,
            problem,
            family,
            from_laplace,
            means[n],
            scales[n],
            chols[n],
            rtol,
            most_steps,
            space,
            traces[n],
            reports[n],
        )
        if reports[n, 4] >= fits.FAULT:
            copy_vector(space[0][3][3], wheres[n])


@exported
def laplace_workspace(latent, dim):
    """Scratch space for `laplace`."""
    return panel(latent, dim), laplace_.scratch(latent)


@exported
def laplace(log_joint, theta, table, kinds, bounds, mean, scale, chol, space):
    """Laplace's approximation; (status, evaluations)."""
    theta, table, kinds, bounds, space = borrow((theta, table, kinds, bounds, space))
    mean, scale, chol = borrow((mean, scale, chol))
    problem = ((theta, table), kinds, bounds)
    return laplace_.laplace(log_joint, problem, mean, scale, chol, space[0], space[1])


@exported
def calibrate(log_joint, theta, table, kinds, bounds, mean, scale, space):
    """Conditional standard deviations at a point, from guesses; (status, evaluations)."""
    problem = ((theta, table), kinds, bounds)
    status, value = laplace_.density(log_joint, problem, mean, space[0])
    if status != FINE:
        return status, 1
    sides = space[1][0]
    status, used = laplace_.calibrate(log_joint, problem, mean, value, scale, space[0], sides)
    if status != FINE:
        return status, used
    for i in range(scale.size):
        drop = abs(2.0 * value - sides[0, i] - sides[1, i])
        if 1e-3 < drop < math.inf:
            scale[i] /= math.sqrt(drop)
    return status, used


@exported
def conditional(chol, scale, work):
    """Write the conditional standard deviations of a Gaussian."""
    laplace_.conditional(chol, scale, work)


@exported
def draws_workspace(family, latent, dim):
    """Scratch space for `fit_draws`."""
    return panel(latent, dim), draws_.workspace(family, latent)


@exported
def fit_draws(
    log_joint,
    log_joint_grad,
    theta,
    table,
    kinds,
    bounds,
    family,
    draws,
    base,
    root,
    scale,
    tolerance,
    most_steps,
    mean,
    factor,
    space,
    trace,
    report,
):
    """A fit on fixed draws."""
    theta, table, kinds, bounds, space = borrow((theta, table, kinds, bounds, space))
    draws, base, root, scale = borrow((draws, base, root, scale))
    mean, factor, trace, report = borrow((mean, factor, trace, report))
    problem = ((theta, table), kinds, bounds)
    return draws_.fit_draws(
        log_joint,
        log_joint_grad,
        problem,
        family,
        draws,
        base,
        root,
        scale,
        tolerance,
        most_steps,
        mean,
        factor,
        space[0],
        space[1],
        trace,
        report,
    )


@exported
def fit_draws_batch(
    log_joint,
    log_joint_grad,
    theta,
    tables,
    kinds,
    bounds,
    family,
    draws,
    fresh,
    means,
    scales,
    chols,
    tolerance,
    most_steps,
    start_space,
    space,
    values,
    traces,
    reports,
    wheres,
    low,
    high,
):
    """Fits on fixed draws, begun with Laplace's method near `means`; the ELBO is that on `fresh` ones."""
    dim = means.shape[1]
    base, scale, root = np.empty(dim), np.empty(dim), np.empty((dim, dim))
    for n in range(low, high):
        report, where = reports[n], wheres[n]
        problem = ((theta, tables[n]), kinds, bounds)
        copy_vector(means[n], base)
        copy_vector(scales[n], scale)
        status, used = laplace_.laplace(log_joint, problem, base, scale, root, start_space[0], start_space[1])
        if status != FINE:
            report[0], report[1], report[3], report[4] = math.nan, math.nan, used, fits.FAULT + status
            copy_vector(start_space[0][3], where)
            continue
        if family == fits.ISOTROPIC:
            total = 0.0
            for i in range(dim):
                total += 1.0 / (scale[i] * scale[i])
            for i in range(dim):
                scale[i] = math.sqrt(dim / total)
        point = space[1][0][0]
        for i in range(point.size):
            point[i] = 0.0
        draws_.fit_draws(
            log_joint,
            log_joint_grad,
            problem,
            family,
            draws,
            base,
            root,
            scale,
            tolerance,
            most_steps,
            means[n],
            chols[n],
            space[0],
            space[1],
            traces[n],
            report,
        )
        report[3] += used
        if report[4] >= fits.FAULT:
            copy_vector(space[0][3], where)
            if report[5] == 0.0:
                report[0] = math.nan
                continue
        mean, square, blocks = 0.0, 0.0, fresh.shape[0]
        for b in range(blocks):
            status, each = draws_.average(log_joint, problem, fresh[b], means[n], chols[n], space[0], values)
            if status != FINE:
                report[1], report[4] = math.inf, fits.FAULT + status
                copy_vector(space[0][3], where)
                break
            mean += each / blocks
            square += each * each / blocks
        if status != FINE:
            continue
        report[3] += blocks * fresh.shape[1]
        value = mean + half_log_det(chols[n]) + 0.5 * dim * (1.0 + LOG_2PI)
        error = math.sqrt(max(square - mean * mean, 0.0) / (blocks - 1)) + 1e-15 * abs(mean)
        if report[4] == fits.CONVERGED and report[0] - value > max(3.0 * error, fits.OPTIMISM):
            report[4] = fits.OVERFITTED
        report[0], report[1] = value, error


@exported
def sgd_steps(
    log_joint,
    log_joint_grad,
    theta,
    table,
    kinds,
    bounds,
    family,
    noise,
    each,
    first_step,
    rate,
    base,
    root,
    scale,
    state,
    average,
    space,
):
    """Stochastic gradient steps; (status, mean ELBO)."""
    problem = ((theta, table), kinds, bounds)
    return steps_.sgd_steps(
        log_joint,
        log_joint_grad,
        problem,
        family,
        noise,
        each,
        first_step,
        rate,
        base,
        root,
        scale,
        state,
        average,
        space[0],
        space[1],
    )


@exported
def unpack(family, point, base, root, scale, mean, factor):
    """Write mean and factor of the q that has these parameters, see `draws`."""
    return draws_.unpack(family, point, base, root, scale, mean, factor)


@exported
def expected_log_joint(log_joint, thetas, table, kinds, bounds, points, weights, sheet, values, out):
    """Write the weighted sum of the log joint at latent points for each theta; NaN where it is not finite."""
    dim = points.shape[1]
    zero, unit = np.zeros(dim), np.eye(dim)
    for t in range(thetas.shape[0]):
        problem = ((thetas[t], table), kinds, bounds)
        total = 0.0
        if draws_.average(log_joint, problem, points, zero, unit, sheet, values)[0] != FINE:
            total = math.nan
        for n in range(points.shape[0]):
            total += weights[n] * values[n]
        out[t] = total


@exported
def draws_value_and_slopes(
    log_joint,
    log_joint_grad,
    theta,
    table,
    kinds,
    bounds,
    draws,
    mean,
    factor,
    scale,
    space,
    grad_mean,
    grad_chol,
):
    """(status, the ELBO over fixed draws), and its gradient in the mean and the factor's lower triangle."""
    problem = ((theta, table), kinds, bounds)
    # False, but no literal, for which numba would compile the objective once more.
    diagonal = draws.shape[0] == 0
    status, value = draws_.objective(
        log_joint,
        log_joint_grad,
        problem,
        draws,
        mean,
        factor,
        half_log_det(factor),
        diagonal,
        scale,
        draws_.sides_for(0.0, factor, scale),
        space[0],
        space[1],
    )
    dim = mean.size
    for i in range(dim):
        grad_mean[i] = -space[1][4][0, i]
        for j in range(dim):
            grad_chol[i, j] = -space[1][5][1][i, j] if j <= i else 0.0
        grad_chol[i, i] += 1.0 / factor[i, i]
    return status, -value


@exported
def averages(log_joint, theta, table, kinds, bounds, draws, mean, factor, sheet, values, first, last, out):
    """Write the means of log joint + log-Jacobian over the blocks first to last of draws (B, N, D)."""
    theta, table, kinds, bounds, sheet = borrow((theta, table, kinds, bounds, sheet))
    draws, mean, factor, values, out = borrow((draws, mean, factor, values, out))
    problem = ((theta, table), kinds, bounds)
    for b in range(first, last):
        status, out[b] = draws_.average(log_joint, problem, draws[b], mean, factor, sheet, values)
        if status != FINE:
            return status, b + 1
    return FINE, last


@exported
def densities(log_joint, theta, table, kinds, bounds, points, sheet, values):
    """Write log joint + log-Jacobian at latent points (N, R); the status."""
    problem = ((theta, table), kinds, bounds)
    dim = points.shape[1]
    zero, unit = np.zeros(dim), np.eye(dim)
    return draws_.average(log_joint, problem, points, zero, unit, sheet, values)[0]


@exported
def elbo_quadrature(log_joint, theta, table, kinds, bounds, mean, factor, rtol, space, grad_mean, grad_chol):
    """(status, ELBO, its error, evaluations, whether it holds) in up to two dimensions, and its gradient."""
    problem = ((theta, table), kinds, bounds)
    return fits.elbo_quadrature(log_joint, problem, mean, factor, rtol, space, grad_mean, grad_chol)


@exported
def truncated_workspace():
    """Scratch space for truncated Gaussians."""
    return truncated_.workspace()


@exported
def fit_truncated(
    log_joint,
    theta,
    tables,
    low_end,
    high_end,
    starts,
    rtol,
    most_steps,
    space,
    traces,
    reports,
    wheres,
    low,
    high,
):
    """Fits of Gaussians truncated to [low_end, high_end]; `starts` (N, 2) become (mu, sigma)."""
    for n in range(low, high):
        truncated_.fit_truncated(
            log_joint,
            (theta, tables[n]),
            low_end,
            high_end,
            starts[n],
            rtol,
            most_steps,
            space,
            traces[n],
            reports[n],
        )
        if reports[n, 4] >= truncated_.FAULT:
            wheres[n, 0] = space[6][0]


@exported
def elbo_truncated(log_joint, theta, table, mu, sigma, low_end, high_end, rtol, space):
    """(status, ELBO, its error, evaluations) of a truncated Gaussian."""
    return truncated_.evaluate(log_joint, (theta, table), mu, sigma, low_end, high_end, rtol, space, space[3])


@exported
def truncated_moments(mu, sigma, low_end, high_end, out):
    """Write mean, variance and E[((z - mu) / sigma)**2]; log of the mass in the interval."""
    return truncated_.moments(mu, sigma, low_end, high_end, out)


@exported
def evidence_workspace(latent, dim):
    """Scratch space for `evidence`."""
    return evidence_.workspace(latent, dim)


@exported
def evidence(log_joint, theta, table, kinds, bounds, mean, factor, rtol, q, divergence, total, space):
    """(status, value, error, evaluations) of the log evidence, or of q's divergence from the posterior."""
    problem = ((theta, table), kinds, bounds)
    return evidence_.integrate(log_joint, problem, mean, factor, rtol, q, divergence, total, space)


@exported
def to_support(kinds, bounds, latent, z, log_jacobian):
    """Write model coordinates (N, D) and log-Jacobians for latent ones (N, R)."""
    supports_.to_support(kinds, bounds, latent, latent.shape[0], z, log_jacobian)


@exported
def to_latent(kinds, bounds, z, latent):
    """Write latent coordinates (N, R) for model ones (N, D); the number of rows inside of the support."""
    for n in range(z.shape[0]):
        if not supports_.to_latent(kinds, bounds, z[n], latent[n]):
            return n
    return z.shape[0]
