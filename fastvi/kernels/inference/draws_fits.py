"""Fits on fixed draws, in any dimension: L-BFGS on the ELBO averaged over the same draws in every step.

With the draws fixed the ELBO is an ordinary smooth function with a real optimum (Giordano, Ingram & Broderick
2024). They come in pairs +e, -e whose second moments are exactly the identity, so a quadratic log joint is
integrated without error.

The parameters of q = N(base + root delta, ...) are relative to `root`, the factor of Laplace's approximation:
delta, then those of the family's factor (`families`). In these coordinates the Hessian of a near-Gaussian
problem is the identity, and 2 for logarithms of deviations.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..borrowing import Integers, Matrix, Vector, borrow, named
from ..compiler import formula, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..families import low_rank, operations
from ..families.table import MEAN as MEAN
from ..models import evaluation
from ..models.evaluation import BLOCK, Panel, Problem, evaluate, evaluate_or_zero, fault
from ..numerics.matrices import add_scaled, clear_matrix, clear_vector, copy_vector, dot, half_log_det
from ..optimizers.lbfgs import DECREASE, MEMORY, dual_length, find_direction, remember, shrink
from ..statuses import CONVERGED, FINE, STEPS_EXHAUSTED, STUCK, UNBOUNDED
from .gradients import gradients_at, sides_for
from .reports import Report, write_report

#: ELBO on the fixed draws minus that on fresh ones, in nats, up to which a fit is not overfitted.
OPTIMISM = 0.01

#: Points that a line search tries before L-BFGS starts again from the gradient, or the fit ends.
MOST_TRIES = 25

#: Values below this are taken for minus infinity: the ELBO has no maximum.
LOWEST = -1e300

#: Rounding of the mean of n values, relative to 1 + abs(mean): this times sqrt(n).
ROUNDING = 1e-15

#: Idle steps (they change the value by no more than its rounding) that end a fit whose gradient is small up
#: to rounding, and that end any fit.
FEW_IDLE, MOST_IDLE = 3, 10

#: A step is idle where it lowers the value by less than this times its rounding. A gradient below SMALL is
#: small up to rounding.
IDLE, SMALL = 10.0, 1e-5


#: Forms of factors: a lower triangle; one of which the diagonal alone is used; one of `families.low_rank`.
TRIANGULAR, DIAGONAL_ONLY, THIN = 0, 1, 2


class Coordinates(NamedTuple):
    """The coordinates of the parameters: at zero, q is N(base, root root')."""

    base: Any  #: (D,)
    root: Any  #: (D, D), or (1, D), a diagonal, for families of `families.low_rank`
    scale: Any  #: (D,) deviations, for families without correlations and as the unit of finite differences


class Control(NamedTuple):
    """When a fit ends."""

    tolerance: Any  #: length of the gradient in the metric of Fisher's information
    most_steps: Any


class Result(NamedTuple):
    """What a fit writes."""

    mean: Any  #: (D,)
    factor: Any  #: (D, D), or as in `families.low_rank`
    trace: Any  #: (T,) the ELBO over the draws after each accepted step, as far as it goes
    report: Any  #: (8,) the fields of a `reports.Report`


class Workspace(NamedTuple):
    """Scratch space for a fit of P parameters in D latent coordinates."""

    panel: Panel
    point: Vector  #: (P,) the start of a fit, and its end
    gradient: Vector  #: (P,) there
    trial: Vector  #: (P,)
    trial_gradient: Vector  #: (P,)
    direction: Vector  #: (P,)
    metric: Vector  #: (P,) Fisher's information, which is diagonal
    steps: Matrix  #: (MEMORY, P) the last steps
    changes: Matrix  #: (MEMORY, P) of the gradient
    inverses: Vector  #: (MEMORY,) of the products of these two
    alphas: Vector  #: (MEMORY,)
    curvature: Integers  #: (4,) int64, see BEGIN
    value: Vector  #: (1,) minus the ELBO at `point`
    points: Matrix  #: (rows, D) a block of draws from q
    gradients: Matrix  #: (rows, D) of the log joint there, in the model's own coordinates
    latent_gradients: Matrix  #: (rows, D) of log joint + log-Jacobian, in latent coordinates
    mean_gradient: Vector  #: (D,) without the entropy
    factor_gradient: Matrix  #: (D, D) the same, lower triangle; or as in `families.low_rank`, like the next
    mean: Vector  #: (D,)
    factor: Matrix  #: (D, D)
    axes: Matrix  #: (R, R) of V at the last `unpack`, and
    gram: Matrix  #: (R, R),
    column: Vector  #: (R,), for rank R
    row: Vector  #: (D,)
    along: Vector  #: (D,) the diagonal of the factor's gradient


#: Entries of `Workspace.curvature`: how many pairs (step, change) a fit begins with, how many it had at its
#: end, the newest of them; and whether it goes on from where the last one in this space ended, on the same
#: draws and in the same coordinates, so that value and gradient are known.
BEGIN, KNOWN, NEWEST, RESUME = 0, 1, 2, 3


@kernel
def workspace(family, latent, dim):
    """Scratch space for `fit_draws`: one for each thread.

    Parameters
    ----------
    family : int
        newton.FULL, newton.DIAGONAL, newton.ISOTROPIC, draws.MEAN, or the code of a rank, see
        `families.low_rank`.
    latent, dim : int
        As in `fits.workspace`; any numbers.

    Returns
    -------
    Workspace
        Its `point` is where a fit starts.

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.draws.workspace(kernels.newton.FULL, 3, 3)
    """
    count, ranks = parameters(family, latent), max(family - low_rank.FIRST, 0)
    low = family >= low_rank.FIRST
    height = 1 + ranks if low else latent
    # Families of low rank are fitted with gradients: there is no room for differences.
    rows = evaluation.rows_of(latent) if low else BLOCK
    panel_rows = rows if low else max(BLOCK, 2 * latent + 1)
    return Workspace(
        evaluation.panel_of(panel_rows, latent, dim),
        np.empty(count),
        np.empty(count),
        np.empty(count),
        np.empty(count),
        np.empty(count),
        np.empty(count),
        np.empty((MEMORY, count)),
        np.empty((MEMORY, count)),
        np.empty(MEMORY),
        np.empty(MEMORY),
        np.zeros(4, np.int64),
        np.empty(1),
        np.empty((rows, latent)),
        np.empty((rows, dim)),
        np.empty((rows, latent)),
        np.empty(latent),
        np.empty((height, latent)),
        np.empty(latent),
        np.empty((height, latent)),
        np.empty((ranks, ranks)),
        np.empty((ranks, ranks)),
        np.empty(ranks),
        np.empty(latent),
        np.empty(latent),
    )


@kernel
def parameters(family, dim):
    """How many parameters a family has in D dimensions."""
    if family >= low_rank.FIRST:
        return low_rank.parameters(family, dim)
    return operations.parameters(family, dim)


@kernel
def form_of(family):
    """TRIANGULAR, DIAGONAL_ONLY or THIN."""
    if family >= low_rank.FIRST:
        return THIN
    return DIAGONAL_ONLY if operations.has_diagonal_factor(family) else TRIANGULAR


@kernel
def unpack(family, point, coordinates, space, mean, factor):
    """Write mean and factor of the q that has these parameters."""
    base, root, scale = coordinates.base, coordinates.root, coordinates.scale
    dim = base.size
    for i in range(dim):
        mean[i] = base[i]
        if root.shape[0] != dim:
            mean[i] += root[0, i] * point[i]
        else:
            for j in range(i + 1):
                mean[i] += root[i, j] * point[j]
    if family >= low_rank.FIRST:
        low_rank.unpack(point, root, scale, space.axes, factor)
    else:
        operations.unpack(family, point, root, scale, factor)


@kernel
def pack_gradient(family, point, coordinates, factor, space, gradient):
    """Write the gradient in the parameters, from those in mean and factor that `objective` wrote."""
    mean_gradient, factor_gradient = space.mean_gradient, space.factor_gradient
    root, scale, dim = coordinates.root, coordinates.scale, mean_gradient.size
    if root.shape[0] != dim:
        for j in range(dim):
            gradient[j] = root[0, j] * mean_gradient[j]
    else:
        clear_vector(gradient[:dim])
        for i in range(dim):
            add_scaled(mean_gradient[i], root[i, : i + 1], gradient[: i + 1])
    if family >= low_rank.FIRST:
        low_rank.pack_gradient(
            factor, factor_gradient, root, scale, space.axes, space.gram, space.column, gradient
        )
    else:
        operations.pack_gradient(family, point, root, factor, factor_gradient, gradient)


@kernel
def _place(mean, factor, form, draws, low, count, points, row):
    """Write mean + factor e for `count` draws e from `low`; of a diagonal factor only that is read."""
    dim = mean.size
    if form == THIN:
        for s in range(count):
            low_rank.place(mean, factor, draws[low + s], points[s])
        return
    if form == DIAGONAL_ONLY:
        for i in range(dim):
            row[i] = factor[i, i]
        for s in range(count):
            for i in range(dim):
                points[s, i] = mean[i] + row[i] * draws[low + s, i]
        return
    for s in range(count):
        e = draws[low + s]
        for i in range(dim):
            points[s, i] = mean[i] + dot(factor[i, : i + 1], e[: i + 1])


@formula
def subtract_products(g, e, out):
    """Subtract the lower triangle of Σ g e' over draws.

    Four of them at once: a step in 100 dimensions takes 3.7 µs a draw beside the log joint, one by one 5.7.
    """
    dim = out.shape[0]
    for s in range(0, g.shape[0] - 3, 4):
        for i in range(dim):
            a, b, c, d = g[s, i], g[s + 1, i], g[s + 2, i], g[s + 3, i]
            for j in range(i + 1):
                out[i, j] -= (a * e[s, j] + b * e[s + 1, j]) + (c * e[s + 2, j] + d * e[s + 3, j])
    for s in range(g.shape[0] - g.shape[0] % 4, g.shape[0]):
        for i in range(dim):
            for j in range(i + 1):
                out[i, j] -= g[s, i] * e[s, j]


@inlined
def objective(log_joint, log_joint_grad, problem, draws, mean, factor, form, scale, sides, space):
    """(status, minus the ELBO, evaluations) over the draws, and its gradient.

    The gradients in mean and factor are written to the space, without that of the entropy. Of a factor whose
    form is DIAGONAL_ONLY only the diagonal is used. `scale` and `sides` are those of finite differences.
    """
    dim = mean.size
    mean_gradient, factor_gradient, along = space.mean_gradient, space.factor_gradient, space.along
    points, panel = space.points, space.panel
    clear_vector(mean_gradient)
    clear_vector(along)
    if form != DIAGONAL_ONLY:
        clear_matrix(factor_gradient)
    total, used = 0.0, 0
    count, rows = draws.shape[0], points.shape[0]
    for low in range(0, count, rows):
        n = min(rows, count - low)
        _place(mean, factor, form, draws, low, n, points, space.row)
        status, more = gradients_at(log_joint, log_joint_grad, problem, n, scale, sides, space)
        used += more
        if status != FINE:
            return status, math.inf, used
        for s in range(n):
            e, g = draws[low + s], space.latent_gradients[s]
            total += panel.values[s]
            for i in range(dim):
                mean_gradient[i] -= g[i]
            if form == DIAGONAL_ONLY:
                for i in range(dim):
                    along[i] -= g[i] * e[i]
            elif form == THIN:
                low_rank.add_gradient(factor, e, g, space.row, along, factor_gradient)
        if form == TRIANGULAR:
            subtract_products(space.latent_gradients[:n], draws[low : low + n], factor_gradient)
    for i in range(dim):
        mean_gradient[i] /= count
    if form == DIAGONAL_ONLY:
        for i in range(dim):
            factor_gradient[i, i] = along[i] / count
    else:
        for i in range(factor_gradient.shape[0]):
            for j in range(factor_gradient.shape[1]):
                factor_gradient[i, j] /= count
    half = low_rank.half_log_det_of(factor, space.gram) if form == THIN else half_log_det(factor)
    return FINE, -total / count - half - 0.5 * dim * (1.0 + LOG_2PI), used


@kernel
def _set_metric(family, dim, metric):
    for i in range(metric.size):
        metric[i] = 1.0
    if family >= low_rank.FIRST:
        low_rank.metric(dim, metric)
    else:
        operations.metric(family, dim, metric)


@inlined
def fit_draws(log_joint, log_joint_grad, problem, family, draws, coordinates, control, result, space):
    """Maximise the ELBO over fixed draws, by L-BFGS, in any dimension.

    It ends when the gradient is shorter than the tolerance in the metric of Fisher's information, or when
    steps change the value by no more than its rounding.

    Parameters
    ----------
    log_joint : jitted function
        ``log_joint(z, *data) -> float``.
    log_joint_grad : jitted function or None
        ``log_joint_grad(z, grad, *data) -> float`` writes the gradient; without it, finite differences, to
        both sides where one is not good enough for the tolerance.
    problem : tuple
        `panels.Problem`, or (data, kinds, bounds), see `fastvi.kernels`.
    family : int
        newton.FULL, newton.DIAGONAL, newton.ISOTROPIC or draws.MEAN.
    draws : (S, D)
        Of a standard normal vector. In pairs +e, -e whose second moments are the identity they integrate a
        quadratic log joint exactly.
    coordinates : tuple
        `Coordinates`, or (base (D,), root (D, D), scale (D,)): at zero the parameters mean N(base, root
        root'), or with deviations `scale` for families without correlations. With Laplace's approximation the
        problem is well conditioned.
    control : tuple
        `Control`, or (tolerance, most_steps).
    result : tuple
        `Result`, or (mean (D,), factor (D, D), trace (T,), report (8,)), which are written: the fit, the ELBO
        over the draws after each accepted step as far as the trace goes, and the fields of a
        `reports.Report`. The error of the ELBO is not known here: NaN.
    space : Workspace
        Its `point` is the start, all zeros for (base, root) itself, and then the end of the fit.
        ``curvature[BEGIN] = curvature[KNOWN]`` keeps the memory of L-BFGS for another fit of the same problem
        on other draws, and ``curvature[RESUME] = 1`` the value and the gradient for more steps on the same,
        without an evaluation where the gradient is small enough.

    Returns
    -------
    int
        0 converged; 1 the steps were used up; 4 no step raises the ELBO; 6 it has no maximum over these
        draws; 12, 13, 14: the log joint was NaN, +inf, -inf at the first point, which is in
        space.panel.where.

    References
    ----------
    R. Giordano, M. Ingram, T. Broderick, Black Box Variational Inference with a Deterministic Objective, JMLR
    25 (2024).

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastvi import kernels
    >>> @njit
    ... def log_joint(z, x):
    ...     return -0.5 * ((z - x) ** 2).sum()
    >>> @njit
    ... def posterior(x, draws):
    ...     dim, full = x.size, kernels.newton.FULL
    ...     problem = (x,), np.zeros(dim, np.int64), np.zeros((dim, 2))
    ...     coordinates = np.zeros(dim), np.eye(dim), np.ones(dim)
    ...     result = np.empty(dim), np.empty((dim, dim)), np.empty(0), np.empty(8)
    ...     space = kernels.draws.workspace(full, dim, dim)
    ...     space.point[:] = 0.0
    ...     kernels.draws.fit_draws(log_joint, None, problem, full, draws, coordinates, (1e-8, 100), result,
    ...                             space)
    ...     return result[0]
    >>> pairs = 3.0**0.5 * np.vstack([np.eye(3), -np.eye(3)])
    >>> posterior(np.array([1.0, 2.0, 3.0]), pairs).round(7)
    array([1., 2., 3.])
    """
    problem, space = named(Problem, borrow(problem)), named(Workspace, borrow(space))
    coordinates, control = named(Coordinates, borrow(coordinates)), named(Control, control)
    result = named(Result, borrow(result))
    found = maximise(
        log_joint, log_joint_grad, problem, family, borrow(draws), coordinates, control, result, space
    )
    return write_report(found, result.report)


@inlined
def maximise(log_joint, log_joint_grad, problem, family, draws, coordinates, control, result, space):
    """`fit_draws`; the report."""
    mean, factor, trace = result.mean, result.factor, result.trace
    root, scale = coordinates.root, coordinates.scale
    dim = scale.size
    count = parameters(family, dim)
    point, gradient = space.point[:count], space.gradient[:count]
    trial, trial_gradient = space.trial[:count], space.trial_gradient[:count]
    direction, metric = space.direction[:count], space.metric[:count]
    _set_metric(family, dim, metric)
    form = form_of(family)
    sides = sides_for(control.tolerance, root, scale)
    used, newest = space.curvature[BEGIN], space.curvature[NEWEST]
    resumed = space.curvature[RESUME] != 0
    space.curvature[BEGIN] = space.curvature[RESUME] = 0
    steps, evaluations, first = 0, 0, True
    value, t, expected, norm = math.inf, 1.0, 0.0, math.inf
    status, idle, tries = STEPS_EXHAUSTED, 0, 0
    copy_vector(point, trial)
    if resumed:
        value, steps, first, norm = space.value[0], 1, False, dual_length(gradient, metric)
        if trace.size > 0:
            trace[0] = -value
        if norm <= control.tolerance:
            status = CONVERGED
        else:
            used, expected, t = find_direction(gradient, norm, used, newest, space, direction)
            add_scaled(t, direction, trial)
    while status == STEPS_EXHAUSTED and steps < control.most_steps:
        unpack(family, trial, coordinates, space, mean, factor)
        fault_, new, more = objective(
            log_joint, log_joint_grad, problem, draws, mean, factor, form, scale, sides, space
        )
        evaluations += more
        if first and fault_ != FINE:
            status = fault_
            break
        if fault_ == FINE and not new > LOWEST:
            status = UNBOUNDED
            break
        slack = ROUNDING * draws.shape[0] ** 0.5 * (1.0 + abs(value)) if not first else 0.0
        if not first and not (fault_ == FINE and new <= value + DECREASE * t * expected + slack):
            t *= shrink(new - value, t, expected)
            tries += 1
            if tries > MOST_TRIES:
                if used == 0:
                    status = fault_ if fault_ != FINE else STUCK
                    break
                used, tries = 0, 0  # forget, and go along the gradient
        else:
            pack_gradient(family, trial, coordinates, factor, space, trial_gradient)
            if not first:
                promised = abs(t * expected)
                used, newest = remember(point, gradient, trial, trial_gradient, promised, used, newest, space)
                idle = idle + 1 if value - new <= IDLE * slack else 0
            copy_vector(trial, point)
            copy_vector(trial_gradient, gradient)
            value, first = new, False
            if steps < trace.size:
                trace[steps] = -value
            steps += 1
            norm = dual_length(gradient, metric)
            # Where steps no longer change the value, what remains of the gradient is below its rounding.
            if norm <= control.tolerance or (idle >= FEW_IDLE and norm <= SMALL):
                status = CONVERGED
                break
            if idle >= MOST_IDLE:
                status = STUCK
                break
            if steps >= control.most_steps:
                break
            tries = 0
        if tries == 0:
            used, expected, t = find_direction(gradient, norm, used, newest, space, direction)
        for i in range(count):
            trial[i] = point[i] + t * direction[i]
    unpack(family, point, coordinates, space, mean, factor)
    space.curvature[KNOWN], space.curvature[NEWEST], space.value[0] = used, newest, value
    return Report(
        elbo=-value,
        error=math.nan,
        gradient_norm=norm,
        evaluations=evaluations,
        status=status,
        steps=steps,
        parameter_error=norm,
        sides=sides,
    )


@kernel
def _form_at(factor):
    """The form of a factor; (1 + R, D) is one of low rank, but for D = 1 + R."""
    if factor.shape[0] != factor.shape[1]:
        return THIN
    for i in range(factor.shape[0]):
        for j in range(i):
            if factor[i, j] != 0.0:
                return TRIANGULAR
    return DIAGONAL_ONLY


@inlined
def average(log_joint, problem, draws, mean, factor, panel, values):
    """Write log joint + log-Jacobian at mean + factor e for each draw; (status, their mean)."""
    form, rows = _form_at(factor), panel.latent.shape[0]
    total = 0.0
    for low in range(0, draws.shape[0], rows):
        n = min(rows, draws.shape[0] - low)
        _place(mean, factor, form, draws, low, n, panel.latent, panel.values)
        status = evaluate(log_joint, problem, n, panel)
        if status == FINE:
            status = fault(problem, n, panel)
        if status != FINE:
            return status, math.nan
        for s in range(n):
            values[low + s] = panel.log_joint[s] + panel.log_jacobian[s]
            total += values[low + s]
    return FINE, total / draws.shape[0]


@kernel
def densities_or_zero(log_joint, problem, draws, mean, factor, panel, values):
    """As `average`, but -inf where that is not finite, and no status."""
    form, rows = _form_at(factor), panel.latent.shape[0]
    for low in range(0, draws.shape[0], rows):
        n = min(rows, draws.shape[0] - low)
        _place(mean, factor, form, draws, low, n, panel.latent, panel.values)
        evaluate_or_zero(log_joint, problem, n, panel)
        for s in range(n):
            values[low + s] = panel.values[s]
