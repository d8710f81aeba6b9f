"""Single steps of variational inference, for loops of the user's own."""

from __future__ import annotations

import math

import numpy as np

from . import draws, nested
from .borrowing import borrow
from .draws import objective, parameters, sides_for, unpack
from .jit import kernel
from .matrices import cholesky, solve_lower, solve_upper
from .newton import DIAGONAL, FULL, ISOTROPIC
from .panels import FINE


@kernel
def adam_step(point, gradient, first, second, t, rate):
    """One step of Adam downhill, in place.

    Parameters
    ----------
    point, gradient : (P,)
        The point is overwritten.
    first, second : (P,)
        The moments of the gradient: zero before the first step, then as they were left.
    t : int
        The number of the step, from 1.
    rate : float

    Returns
    -------
    None

    References
    ----------
    D. P. Kingma, J. Ba, Adam: A Method for Stochastic Optimization, ICLR (2015), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> point, first, second = np.array([1.0]), np.zeros(1), np.zeros(1)
    >>> for t in range(1, 501):
    ...     kernels.steps.adam_step(point, 2.0 * point, first, second, t, 0.02)
    >>> bool(abs(point[0]) < 1e-3)
    True
    """
    a, b = 1.0 - 0.9**t, 1.0 - 0.999**t
    for i in range(point.size):
        first[i] = 0.9 * first[i] + 0.1 * gradient[i]
        second[i] = 0.999 * second[i] + 0.001 * gradient[i] * gradient[i]
        point[i] -= rate * (first[i] / a) / (math.sqrt(second[i] / b) + 1e-8)


@kernel
def natural_workspace(latent, dim):
    """Scratch space for `natural_gradient_step`: one for each thread.

    Parameters
    ----------
    latent, dim : int
        As in `fits.workspace`.

    Returns
    -------
    tuple

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.steps.natural_workspace(1, 1)
    """
    return (
        nested.workspace(latent, dim),
        np.empty(nested.MOMENTS),
        np.empty((4, latent, latent)),
        np.empty(latent),
    )


@kernel
def natural_gradient_step(log_joint, problem, rho, mean, chol, rtol, space):
    """A natural-gradient step of length rho in [0, 1] for N(mean, chol chol'), in place.

    The precision becomes (1 - rho) Lambda - rho E_q[d2 log p], and the mean moves by rho times its inverse
    times E_q[d log p]: rho = 1 is exact for a quadratic log joint. Where the new precision is not positive
    definite rho is halved.

    Parameters
    ----------
    log_joint, problem : jitted function, tuple
        As in `fits.fit_quadrature`.
    rho : float
    mean, chol : (D,), (D, D)
        q, which is overwritten; D is 1 or 2.
    rtol : float
        Error wanted of the expectations, relative to 1 + abs(ELBO).
    space : tuple
        A `natural_workspace`.

    Returns
    -------
    status, elbo
        Status 0 and the ELBO before the step; or 2, 3, 4: the log joint was NaN, +inf, -inf where q has mass,
        and q is as it was.

    References
    ----------
    M. E. Khan, H. Rue, The Bayesian Learning Rule, JMLR 24 (2023), eq. 8.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastvi import kernels
    >>> @njit
    ... def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2
    >>> @njit
    ... def one_step(x):
    ...     mean, chol = np.zeros(1), 3.0 * np.eye(1)
    ...     problem = (x,), np.zeros(1, np.int64), np.zeros((1, 2))
    ...     kernels.steps.natural_gradient_step(log_joint, problem, 1.0, mean, chol, 1e-10,
    ...                                         kernels.steps.natural_workspace(1, 1))
    ...     return mean[0], chol[0, 0]
    >>> mean, deviation = one_step(5.0)
    >>> round(mean, 9), round(deviation, 9)
    (4.0, 1.0)
    """
    problem, mean, chol, space = borrow((problem, mean, chol, space))
    moments, matrices, shift = space[1], space[2], space[3]
    dim = mean.size
    space[0][2][0] = 0
    status, _, _, _, _, _ = nested.expect(log_joint, problem, mean, chol, -1, 1, rtol, space[0], moments)
    if status != FINE:
        return status, math.nan
    places = (1, 5)
    precision, factor, new = matrices[0], matrices[1], matrices[2]
    for _ in range(60):
        for a in range(dim):
            for b in range(a + 1):
                value = moments[places[a] + places[b]]
                if a == b:
                    value -= moments[0]
                precision[a, b] = rho * value + (1.0 if a == b else 0.0)
        if cholesky(precision, factor):
            break
        rho *= 0.5
    for a in range(dim):
        shift[a] = -rho * moments[places[a]]
    solve_lower(factor, shift)
    solve_upper(factor, shift)
    for i in range(dim):
        for a in range(dim):
            mean[i] += chol[i, a] * shift[a]
    # Sigma = chol P^-1 chol' = A A' with A' = factor^-1 chol'.
    for i in range(dim):
        for a in range(dim):
            shift[a] = chol[i, a]
        solve_lower(factor, shift)
        for a in range(dim):
            new[i, a] = shift[a]
    for i in range(dim):
        for j in range(i + 1):
            s = 0.0
            for a in range(dim):
                s += new[i, a] * new[j, a]
            precision[i, j] = s
    cholesky(precision, chol)
    return FINE, -moments[0]


@kernel
def _stick(family, draws_, factor, work, mean_slope, factor_slope):
    """Take the path derivative of log q into the gradients: sticking the landing (Roeder et al. 2017)."""
    dim = factor.shape[0]
    count = draws_.shape[0]
    diagonal = family in (DIAGONAL, ISOTROPIC)
    for s in range(count):
        for i in range(dim):
            work[i] = draws_[s, i]
        if diagonal:
            for i in range(dim):
                work[i] /= factor[i, i]
        else:
            solve_upper(factor, work)
        for i in range(dim):
            mean_slope[i] -= work[i] / count
            if diagonal:
                factor_slope[i, i] -= work[i] * draws_[s, i] / count
            else:
                for j in range(i + 1):
                    factor_slope[i, j] -= work[i] * draws_[s, j] / count


@kernel
def sgd_steps(
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
    sheet,
    space,
):
    """Reparameterised gradient steps with Adam, `each` rows of noise for one; (status, mean ELBO).

    `state` (3, P) is the point (see `draws`) and Adam's moments; the points are added to `average`.
    """
    dim = base.size
    count = parameters(family, dim)
    mean, factor = space[4][1], space[5][0]
    gradient = space[0][1][:count]
    point = state[0]
    steps = noise.shape[0] // each
    total = 0.0
    diagonal = family in (DIAGONAL, ISOTROPIC)
    sides = sides_for(0.0, root, scale)
    for k in range(steps):
        rows = noise[k * each : (k + 1) * each]
        log_det = unpack(family, point, base, root, scale, mean, factor)
        status, value = objective(
            log_joint,
            log_joint_grad,
            problem,
            rows,
            mean,
            factor,
            log_det,
            diagonal,
            scale,
            sides,
            sheet,
            space,
        )
        if status != FINE:
            return status, math.nan
        total -= value
        _stick(family, rows, factor, space[4][2], space[4][0], space[5][1])
        draws._pack_slopes(family, point, root, space[4][0], space[5][1], factor, space[4], gradient)
        # The entropy's own gradient is in the paths now.
        if family == FULL:
            i = dim
            for a in range(dim):
                i += a
                gradient[i] += 1.0
                i += 1
        elif family == DIAGONAL:
            for i in range(dim):
                gradient[dim + i] += 1.0
        elif family == ISOTROPIC:
            gradient[dim] += dim
        adam_step(point, gradient, state[1], state[2], first_step + k, rate)
        for i in range(count):
            average[i] += point[i]
    return FINE, total / steps
