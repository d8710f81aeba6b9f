"""Stochastic gradient steps on the ELBO, with fresh draws in each: for `fastvi.fit` with method="sgd"."""

from __future__ import annotations

import math

from ..compiler import kernel
from ..families import operations
from ..numerics.matrices import solve_upper
from ..statuses import FINE
from .draws_fits import DIAGONAL_ONLY, form_of, objective, pack_gradient, unpack
from .gradients import sides_for
from .steps import adam_step


@kernel
def _stick(diagonal, draws, factor, space):
    """Add the path derivative of log q to the gradients: "sticking the landing" (Roeder et al. 2017)."""
    row, mean_gradient, factor_gradient = space.row, space.mean_gradient, space.factor_gradient
    dim = factor.shape[0]
    count = draws.shape[0]
    for s in range(count):
        for i in range(dim):
            row[i] = draws[s, i]
        if diagonal:
            for i in range(dim):
                row[i] /= factor[i, i]
        else:
            solve_upper(factor, row)
        for i in range(dim):
            mean_gradient[i] -= row[i] / count
            if diagonal:
                factor_gradient[i, i] -= row[i] * draws[s, i] / count
            else:
                for j in range(i + 1):
                    factor_gradient[i, j] -= row[i] * draws[s, j] / count


@kernel
def sgd_steps(
    log_joint, log_joint_grad, problem, family, noise, first_step, rate, coordinates, iterates, space
):
    """Reparameterised gradient steps with Adam, one for each block of noise (steps, draws, D).

    Returned: (status, mean ELBO, evaluations). The space is one of `draws.workspace`.
    """
    root, scale = coordinates.root, coordinates.scale
    dim = scale.size
    count = operations.parameters(family, dim)
    mean, factor = space.mean, space.factor
    gradient, point = space.gradient[:count], iterates.point
    steps = noise.shape[0]
    total, used = 0.0, 0
    form = form_of(family)
    sides = sides_for(0.0, root, scale)
    for k in range(steps):
        unpack(family, point, coordinates, space, mean, factor)
        status, value, more = objective(
            log_joint, log_joint_grad, problem, noise[k], mean, factor, form, scale, sides, space
        )
        used += more
        if status != FINE:
            return status, math.nan, used
        total -= value
        _stick(form == DIAGONAL_ONLY, noise[k], factor, space)
        pack_gradient(family, point, coordinates, factor, space, gradient)
        # The path derivatives stand for the gradient of the entropy.
        operations.leave_out_entropy(family, dim, gradient)
        adam_step(point, gradient, iterates.first, iterates.second, first_step + k, rate)
        for i in range(count):
            iterates.total[i] += point[i]
    return FINE, total / steps, used
