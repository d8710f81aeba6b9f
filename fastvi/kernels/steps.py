"""Single steps of variational inference, for loops of the user's own."""

from __future__ import annotations

import math

import numpy as np

from . import draws, nested
from .draws import objective, parameters, unpack
from .jit import kernel
from .matrices import cholesky, solve_lower, solve_upper
from .newton import DIAGONAL, FULL, ISOTROPIC
from .panels import FINE


@kernel
def adam_step(point, gradient, first, second, t, rate):
    """One step of Adam (Kingma & Ba 2015, algorithm 1), number t from 1, downhill, in place.

    `first` and `second` are the moments of the gradient, zero before step 1.
    """
    a, b = 1.0 - 0.9**t, 1.0 - 0.999**t
    for i in range(point.size):
        first[i] = 0.9 * first[i] + 0.1 * gradient[i]
        second[i] = 0.999 * second[i] + 0.001 * gradient[i] * gradient[i]
        point[i] -= rate * (first[i] / a) / (math.sqrt(second[i] / b) + 1e-8)


@kernel
def natural_workspace(latent, dim):
    """Scratch space for `natural_gradient_step`."""
    return (
        nested.workspace(latent, dim),
        np.empty(nested.MOMENTS),
        np.empty((4, latent, latent)),
        np.empty(latent),
    )


@kernel
def natural_gradient_step(log_joint, problem, rho, mean, chol, rtol, space):
    """A natural-gradient step of length rho in [0, 1] for N(mean, chol chol'), in place; (status, old ELBO).

    In up to two dimensions. The precision becomes (1 - rho) Lambda - rho E_q[d2 log p], and the mean moves by
    rho times its inverse times E_q[d log p]: rho = 1 is exact for a quadratic log joint (Khan & Rue 2023, eq.
    8). Where the new precision is not positive definite rho is halved.
    """
    moments, matrices, shift = space[1], space[2], space[3]
    dim = mean.size
    space[0][2][0] = 0
    status, _, _, _, _, _ = nested.expect(log_joint, problem, mean, chol, 1, rtol, space[0], moments)
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
    for k in range(steps):
        rows = noise[k * each : (k + 1) * each]
        log_det = unpack(family, point, base, root, scale, mean, factor)
        status, value = objective(
            log_joint, log_joint_grad, problem, rows, mean, factor, log_det, diagonal, scale, sheet, space
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
