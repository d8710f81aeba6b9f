"""Fits on fixed draws, in any dimension: L-BFGS on the ELBO averaged over draws that stay the same.

With the draws fixed the ELBO is an ordinary smooth function with a real optimum (Giordano, Ingram & Broderick
2024). They come in pairs +e, -e whose second moments are exactly the identity, so a quadratic log joint is
integrated without error.

The parameters are those of q = N(base + root delta, ...) in the coordinates of `root`, the factor of
Laplace's approximation: delta, then the lower triangle of M in factor = root M (FULL), or the logarithms of
the deviations in units of `scale` (DIAGONAL, one of them ISOTROPIC), or none (MEAN). The diagonal of M is
kept as logarithms. In these coordinates the Hessian of a near-Gaussian problem is the identity, and 2 for the
logarithms.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

from .borrowing import borrow
from .gaussians import LOG_2PI
from .jit import inlined, kernel
from .matrices import add_scaled, dot
from .newton import DIAGONAL, FULL, ISOTROPIC
from .panels import BLOCK, FINE, RAISED, fault, look, point_out
from .supports import is_real, pull_back, to_support
from .targets import tabulate_slopes

MEAN = 3

CONVERGED, STEPS_EXHAUSTED, STUCK, UNBOUNDED, FAULT = 0, 1, 4, 6, 10

#: Pairs of (step, change of gradient) that L-BFGS remembers.
MEMORY = 12

#: A finite difference's step, in conditional standard deviations: its error is 1e-9, the rounding's 1e-11.
DIFFERENCE = 1e-4

#: The step of differences to one side, which are half as many. Their error is half of it, in conditional
#: deviations: in the coordinates of `root` 500 times as much for an intercept and a year.
ONE_SIDED = 4e-6


@kernel
def parameters(family, dim):
    """How many parameters a family has."""
    if family == FULL:
        return dim + dim * (dim + 1) // 2
    if family == DIAGONAL:
        return 2 * dim
    return dim + 1 if family == ISOTROPIC else dim


@kernel
def workspace(family, dim):
    """Scratch space for `fit_draws`: one for each thread.

    Parameters
    ----------
    family : int
        newton.FULL, newton.DIAGONAL, newton.ISOTROPIC or draws.MEAN.
    dim : int
        The number of latent coordinates.

    Returns
    -------
    tuple

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.draws.workspace(kernels.newton.FULL, 3)
    """
    count = parameters(family, dim)
    return (
        np.empty((6, count)),  # point, gradient, trial, its gradient, direction, metric
        np.empty((2, MEMORY, count)),
        np.empty((2, MEMORY)),
        np.empty((BLOCK, dim)),  # gradients at a block of draws
        np.empty((4, dim)),
        np.empty((2, dim, dim)),
        np.zeros(3, np.int64),  # pairs that L-BFGS begins with; that it knows at the end, and the newest
    )


@kernel
def sides_for(tolerance, root, scale):
    """1 where the error of differences to one side is less than a hundredth of the tolerance, else 2."""
    widest = 0.0
    for i in range(scale.size):
        s = 0.0
        for j in range(i + 1):
            s += root[i, j] * root[i, j]
        widest = max(widest, s / (scale[i] * scale[i]))
    return 1 if 100.0 * ONE_SIDED * math.sqrt(widest) <= tolerance else 2


@kernel
def _differences(log_joint, problem, count, scale, sides, sheet, points, slopes):
    """Differences to one side or to both at `count` points, and the values there; the status."""
    dim = scale.size
    each = sides * dim + 1
    step = DIFFERENCE if sides == 2 else ONE_SIDED
    together = max(sheet[0].shape[0] // each, 1)
    for low in range(0, count, together):
        n = min(together, count - low)
        for k in range(n):
            row = k * each
            for r in range(row, row + each):
                for i in range(dim):
                    sheet[0][r, i] = points[low + k, i]
            for i in range(dim):
                sheet[0][row + 1 + i, i] += step * scale[i]
                if sides == 2:
                    sheet[0][row + 1 + dim + i, i] -= step * scale[i]
        status = look(log_joint, problem, n * each, sheet)
        if status == FINE:
            status = fault(problem, n * each, sheet)
        if status != FINE:
            return status
        for k in range(n):
            row = k * each
            sheet[2][2, low + k] = sheet[2][0, row] + sheet[2][1, row]
            for i in range(dim):
                up = row + 1 + i
                down = up + dim if sides == 2 else row
                rise = (sheet[2][0, up] - sheet[2][0, down]) + (sheet[2][1, up] - sheet[2][1, down])
                slopes[low + k, i] = rise / (sides * step * scale[i])
    return FINE


@kernel
def _given(log_joint, log_joint_grad, problem, count, sheet, points, slopes):
    """The user's gradients at `count` points, carried to the latent coordinates; the status."""
    data, kinds, bounds = problem
    real = is_real(kinds)
    if real:
        for n in range(count):
            for i in range(points.shape[1]):
                sheet[0][n, i] = points[n, i]
    else:
        to_support(kinds, bounds, points, count, sheet[1], sheet[2][1])
    places = sheet[0] if real else sheet[1]
    failed = tabulate_slopes(log_joint_grad, data, places, count, sheet[2][0], sheet[4])
    if failed != 0:
        point_out(problem, failed - 1, sheet)
        return RAISED
    status = fault(problem, count, sheet)
    if status != FINE:
        return status
    for n in range(count):
        sheet[2][2, n] = sheet[2][0, n] + (0.0 if real else sheet[2][1, n])
        if real:
            for i in range(kinds.size):
                slopes[n, i] = sheet[4][n, i]
        else:
            pull_back(kinds, bounds, points[n], sheet[1][n], sheet[4][n], slopes[n])
    return FINE


def slopes_at(log_joint, log_joint_grad, problem, count, scale, sides, sheet, points, slopes):
    """Write values (panel row 2) and gradients at `count` <= BLOCK points of latent coordinates; the status.

    Without a `log_joint_grad` (None, or the address 0) by differences to one side or to both: `sides` is 1
    or 2.
    """
    if log_joint_grad is None:
        return _differences(log_joint, problem, count, scale, sides, sheet, points, slopes)
    return _given(log_joint, log_joint_grad, problem, count, sheet, points, slopes)


@overload(slopes_at)
def _overload_slopes_at(log_joint, log_joint_grad, problem, count, scale, sides, sheet, points, slopes):
    if isinstance(log_joint_grad, types.NoneType | types.Omitted):
        return lambda log_joint, log_joint_grad, problem, count, scale, sides, sheet, points, slopes: (
            _differences(log_joint, problem, count, scale, sides, sheet, points, slopes)
        )
    if isinstance(log_joint_grad, types.Integer):

        def by_address(log_joint, log_joint_grad, problem, count, scale, sides, sheet, points, slopes):
            if log_joint_grad == 0:
                return _differences(log_joint, problem, count, scale, sides, sheet, points, slopes)
            return _given(log_joint, log_joint_grad, problem, count, sheet, points, slopes)

        return by_address
    return lambda log_joint, log_joint_grad, problem, count, scale, sides, sheet, points, slopes: _given(
        log_joint, log_joint_grad, problem, count, sheet, points, slopes
    )


@kernel
def unpack(family, point, base, root, scale, mean, factor):
    """Write mean and factor of the q that has these parameters; log of the factor's determinant."""
    dim = base.size
    for i in range(dim):
        mean[i] = base[i]
        for j in range(i + 1):
            mean[i] += root[i, j] * point[j]
    if family == MEAN:
        for i in range(dim):
            for j in range(dim):
                factor[i, j] = root[i, j]
    elif family == FULL:
        for i in range(dim):
            for j in range(dim):
                factor[i, j] = 0.0
        k = dim
        for a in range(dim):
            for b in range(a + 1):
                m = math.exp(point[k]) if a == b else point[k]
                k += 1
                for i in range(a, dim):
                    factor[i, b] += root[i, a] * m
    else:
        for i in range(dim):
            for j in range(dim):
                factor[i, j] = 0.0
            factor[i, i] = scale[i] * math.exp(point[dim if family == ISOTROPIC else dim + i])
    total = 0.0
    for i in range(dim):
        total += math.log(factor[i, i])
    return total


@kernel
def _pack_slopes(family, point, root, mean_slope, factor_slope, factor, work, gradient):
    """Write the gradient in the parameters, from that in the mean and the factor (lower triangle)."""
    dim = mean_slope.size
    for j in range(dim):
        s = 0.0
        for i in range(j, dim):
            s += root[i, j] * mean_slope[i]
        gradient[j] = s
    if family == FULL:
        k = dim
        for a in range(dim):
            for b in range(a + 1):
                s = 0.0
                for i in range(a, dim):
                    s += root[i, a] * factor_slope[i, b]
                gradient[k] = s * math.exp(point[k]) - 1.0 if a == b else s
                k += 1
    elif family != MEAN:
        if family == ISOTROPIC:
            gradient[dim] = 0.0
        for i in range(dim):
            s = factor_slope[i, i] * factor[i, i] - 1.0
            if family == ISOTROPIC:
                gradient[dim] += s
            else:
                gradient[dim + i] = s


@kernel
def _place(mean, factor, diagonal, draws, low, count, points, work):
    """Write mean + factor e for `count` draws e from `low`; of a `diagonal` factor only that is read."""
    dim = mean.size
    if diagonal:
        for i in range(dim):
            work[i] = factor[i, i]
        for s in range(count):
            for i in range(dim):
                points[s, i] = mean[i] + work[i] * draws[low + s, i]
        return
    for s in range(count):
        for i in range(dim):
            z = mean[i]
            for j in range(i + 1):
                z += factor[i, j] * draws[low + s, j]
            points[s, i] = z


@inlined
def objective(
    log_joint, log_joint_grad, problem, draws, mean, factor, log_det, diagonal, scale, sides, sheet, space
):
    """(status, minus the ELBO) over the draws, and its gradient.

    The gradient in the mean is left in space[4][0], that in the factor in space[5][1]; they leave out the
    entropy. Where the factor is `diagonal`, only its diagonal is looked at.
    """
    dim = mean.size
    mean_slope, factor_slope, along = space[4][0], space[5][1], space[4][3]
    points, slopes = space[3], sheet[5]
    for i in range(dim):
        mean_slope[i] = along[i] = 0.0
        for j in range(0 if diagonal else i + 1):
            factor_slope[i, j] = 0.0
    total = 0.0
    count = draws.shape[0]
    for low in range(0, count, BLOCK):
        n = min(BLOCK, count - low)
        _place(mean, factor, diagonal, draws, low, n, points, slopes[0])
        status = slopes_at(log_joint, log_joint_grad, problem, n, scale, sides, sheet, points, slopes)
        if status != FINE:
            return status, math.inf
        for s in range(n):
            e, g = draws[low + s], slopes[s]
            total += sheet[2][2, s]
            for i in range(dim):
                mean_slope[i] -= g[i]
            if diagonal:
                for i in range(dim):
                    along[i] -= g[i] * e[i]
            else:
                for i in range(dim):
                    for j in range(i + 1):
                        factor_slope[i, j] -= g[i] * e[j]
    for i in range(dim):
        mean_slope[i] /= count
        if diagonal:
            factor_slope[i, i] = along[i] / count
        else:
            for j in range(i + 1):
                factor_slope[i, j] /= count
    return FINE, -total / count - log_det - 0.5 * dim * (1.0 + LOG_2PI)


@kernel
def _direction(gradient, metric, memory, used, newest, alphas, out):
    """L-BFGS's two loops: out = -H gradient (Nocedal & Wright 2006, algorithm 7.4)."""
    n = gradient.size
    for i in range(n):
        out[i] = -gradient[i]
    for t in range(used):
        k = (newest - t) % MEMORY
        alphas[0, k] = alphas[1, k] * dot(memory[0, k, :n], out)
        add_scaled(-alphas[0, k], memory[1, k, :n], out)
    for i in range(n):
        out[i] /= metric[i]
    for t in range(used - 1, -1, -1):
        k = (newest - t) % MEMORY
        add_scaled(alphas[0, k] - alphas[1, k] * dot(memory[1, k, :n], out), memory[0, k, :n], out)


@kernel
def _norm(gradient, metric):
    s = 0.0
    for i in range(gradient.size):
        s += gradient[i] * gradient[i] / metric[i]
    return math.sqrt(s)


@kernel
def _set_metric(family, dim, metric):
    for i in range(metric.size):
        metric[i] = 1.0
    if family == DIAGONAL:
        for i in range(dim):
            metric[dim + i] = 2.0
    elif family == ISOTROPIC:
        metric[dim] = 2.0 * dim
    elif family == FULL:
        k = dim
        for a in range(dim):
            k += a
            metric[k] = 2.0
            k += 1


@inlined
def fit_draws(
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
    sheet,
    space,
    trace,
    report,
):
    """Maximise the ELBO over fixed draws, by L-BFGS, in any dimension.

    It ends when the gradient is shorter than `tolerance` in the metric of Fisher's information, or when
    rounding hides all progress.

    Parameters
    ----------
    log_joint : jitted function
        ``log_joint(z, *data) -> float``.
    log_joint_grad : jitted function or None
        ``log_joint_grad(z, grad, *data) -> float`` writes the gradient; without it, finite differences, to
        both sides where one is not good enough for the `tolerance`.
    problem : tuple
        (data, kinds, bounds), see `fastvi.kernels`.
    family : int
        newton.FULL, newton.DIAGONAL, newton.ISOTROPIC or draws.MEAN.
    draws : (S, D)
        Of a standard normal vector. In pairs +e, -e whose second moments are the identity they integrate a
        quadratic log joint exactly.
    base, root, scale : (D,), (D, D), (D,)
        Where the parameters have their zero: N(base, root root'), for families without covariances the
        deviations `scale`. Laplace's approximation makes the problem easy.
    tolerance : float
    most_steps : int
    mean, factor : (D,), (D, D)
        The result is written to them.
    sheet : tuple
        ``kernels.panels.panel(D, dim)``, scratch space.
    space : tuple
        A `workspace`. The point in space[0][0] is where it starts: all zeros for (base, root) itself. It is
        left at the end, and space[6][0] = space[6][1] keeps what is known of the curvature for one more fit
        of the same problem, on other draws.
    trace : (T,)
        The ELBO over the draws after each accepted step is written to it, as far as it goes.
    report : (8,)
        Is written: the ELBO over the draws, the sides of differences, the gradient norm, evaluations, the
        status, steps.

    Returns
    -------
    int
        0 converged; 1 the steps were used up; 4 no step raises the ELBO; 6 it has no maximum over these
        draws; 12, 13, 14: the log joint was NaN, +inf, -inf at the first point, which is in sheet[3].

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
    ...     mean, factor, report = np.empty(dim), np.empty((dim, dim)), np.empty(8)
    ...     space = kernels.draws.workspace(full, dim)
    ...     space[0][0][:] = 0.0
    ...     problem = (x,), np.zeros(dim, np.int64), np.zeros((dim, 2))
    ...     kernels.draws.fit_draws(log_joint, None, problem, full, draws, np.zeros(dim), np.eye(dim),
    ...                             np.ones(dim), 1e-8, 100, mean, factor,
    ...                             kernels.panels.panel(dim, dim), space, np.empty(0), report)
    ...     return mean
    >>> pairs = 3.0**0.5 * np.vstack([np.eye(3), -np.eye(3)])
    >>> posterior(np.array([1.0, 2.0, 3.0]), pairs).round(7)
    array([1., 2., 3.])
    """
    problem, draws, base, root, scale = borrow((problem, draws, base, root, scale))
    mean, factor, sheet, space = borrow((mean, factor, sheet, space))
    trace, report = borrow((trace, report))
    dim = base.size
    vectors, memory, alphas = space[0], space[1], space[2]
    count = parameters(family, dim)
    point, gradient = vectors[0, :count], vectors[1, :count]
    trial, trial_gradient = vectors[2, :count], vectors[3, :count]
    direction, metric = vectors[4, :count], vectors[5, :count]
    _set_metric(family, dim, metric)
    diagonal = family in (DIAGONAL, ISOTROPIC)
    sides = sides_for(tolerance, root, scale)
    used, newest, steps, looks, first = space[6][0], space[6][2], 0, 0, True
    space[6][0] = 0
    value, t, expected, norm = math.inf, 1.0, 0.0, math.inf
    status, idle, tries = STEPS_EXHAUSTED, 0, 0
    for i in range(count):
        trial[i] = point[i]
        direction[i] = 0.0
    while True:
        log_det = unpack(family, trial, base, root, scale, mean, factor)
        fault_, new = objective(
            log_joint,
            log_joint_grad,
            problem,
            draws,
            mean,
            factor,
            log_det,
            diagonal,
            scale,
            sides,
            sheet,
            space,
        )
        looks += 1
        if first and fault_ != FINE:
            status = FAULT + fault_
            break
        if fault_ == FINE and not new > -1e300:
            status = UNBOUNDED
            break
        slack = 1e-15 * draws.shape[0] ** 0.5 * (1.0 + abs(value)) if not first else 0.0
        if not first and not (fault_ == FINE and new <= value + 1e-4 * t * expected + slack):
            # Backtrack, to the minimum of a parabola where there is one.
            shrink = 0.1
            if fault_ == FINE and new < math.inf:
                curve = new - value - t * expected
                shrink = min(max(-0.5 * t * expected / curve, 0.1), 0.5) if curve > 0.0 else 0.5
            t *= shrink
            tries += 1
            if tries > 25:
                if used > 0:
                    used, tries, t = 0, 0, 1.0  # forget, and go along the gradient
                else:
                    status = FAULT + fault_ if fault_ != FINE else STUCK
                    break
        else:
            _pack_slopes(family, trial, root, space[4][0], space[5][1], factor, space[4], trial_gradient)
            if not first:
                newest = (newest + 1) % MEMORY
                ys = 0.0
                for i in range(count):
                    memory[0, newest, i] = trial[i] - point[i]
                    memory[1, newest, i] = trial_gradient[i] - gradient[i]
                    ys += memory[0, newest, i] * memory[1, newest, i]
                if ys > 1e-12 * abs(t * expected):
                    alphas[1, newest] = 1.0 / ys
                    used = min(used + 1, MEMORY)
                else:
                    newest = (newest - 1) % MEMORY
                idle = idle + 1 if value - new <= 10.0 * slack else 0
            for i in range(count):
                point[i] = trial[i]
                gradient[i] = trial_gradient[i]
            value, first = new, False
            if steps < trace.size:
                trace[steps] = -value
            steps += 1
            norm = _norm(gradient, metric)
            # Where steps no longer change the value, rounding hides what is left of the gradient.
            if norm <= tolerance or (idle >= 3 and norm <= 1e3 * tolerance + 1e-6):
                status = CONVERGED
                break
            if idle >= 10:
                status = STUCK
                break
            if steps >= most_steps:
                break
            t, tries = 1.0, 0
        if tries == 0:
            _direction(gradient, metric, memory, used, newest, alphas, direction)
            expected, size = 0.0, 0.0
            for i in range(count):
                expected += direction[i] * gradient[i]
                size += metric[i] * direction[i] * direction[i]
            if not expected < 0.0:
                used = 0
                _direction(gradient, metric, memory, used, newest, alphas, direction)
                expected = -norm * norm
                size = norm * norm
            # Before anything is known of the curvature, no step is longer than two standard deviations.
            longest = 2.0 if used == 0 else 10.0
            if size > longest * longest:
                t = longest / math.sqrt(size)
        for i in range(count):
            trial[i] = point[i] + t * direction[i]
    unpack(family, point, base, root, scale, mean, factor)
    space[6][1], space[6][2] = used, newest
    each = draws.shape[0]
    report[0], report[2], report[3], report[4], report[5] = -value, norm, looks * each, status, steps
    report[1], report[6] = sides, norm
    return status


@kernel
def _is_diagonal(factor):
    for i in range(factor.shape[0]):
        for j in range(i):
            if factor[i, j] != 0.0:
                return False
    return True


@inlined
def average(log_joint, problem, draws, mean, factor, sheet, values):
    """Write log joint + log-Jacobian at mean + factor e for each draw; (status, their mean)."""
    diagonal = _is_diagonal(factor)
    total = 0.0
    for low in range(0, draws.shape[0], BLOCK):
        n = min(BLOCK, draws.shape[0] - low)
        _place(mean, factor, diagonal, draws, low, n, sheet[0], sheet[5][0])
        status = look(log_joint, problem, n, sheet)
        if status == FINE:
            status = fault(problem, n, sheet)
        if status != FINE:
            return status, math.nan
        for s in range(n):
            values[low + s] = sheet[2][0, s] + sheet[2][1, s]
            total += values[low + s]
    return FINE, total / draws.shape[0]
