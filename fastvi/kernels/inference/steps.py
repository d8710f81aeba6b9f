"""Single steps of variational inference for users' loops: Adam, which `sgd` uses, and natural gradients."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector, borrow, named
from ..compiler import kernel
from ..models.evaluation import Problem
from ..numerics.matrices import cholesky, solve_lower, solve_upper
from ..quadrature import moments as moments_
from ..statuses import FINE
from . import expectations

#: Halvings of a natural-gradient step until the precision is positive definite.
MOST_HALVINGS = 60


@kernel
def adam_step(point, gradient, first, second, t, rate):
    """One step of Adam downhill, in place.

    Parameters
    ----------
    point, gradient : (P,)
        The point is overwritten.
    first, second : (P,)
        The moments of the gradient, which are overwritten: zero before the first step.
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
    # The decay rates 0.9 and 0.999 and the 1e-8 are those of the paper.
    a, b = 1.0 - 0.9**t, 1.0 - 0.999**t
    for i in range(point.size):
        first[i] = 0.9 * first[i] + 0.1 * gradient[i]
        second[i] = 0.999 * second[i] + 0.001 * gradient[i] * gradient[i]
        point[i] -= rate * (first[i] / a) / (math.sqrt(second[i] / b) + 1e-8)


class NaturalWorkspace(NamedTuple):
    """Scratch space for a natural-gradient step in R latent dimensions."""

    lattice: expectations.Workspace
    moments: Vector  #: (MOMENTS,)
    precision: Matrix  #: (R, R) in units of q's own; in the end the covariance
    factor: Matrix  #: (R, R) of the precision
    root: Matrix  #: (R, R) a root of the covariance
    shift: Vector  #: (R,)


@kernel
def natural_workspace(latent, dim):
    """Scratch space for `natural_gradient_step`: one for each thread.

    Parameters
    ----------
    latent, dim : int
        As in `fits.workspace`.

    Returns
    -------
    NaturalWorkspace

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.steps.natural_workspace(1, 1)
    """
    return NaturalWorkspace(
        expectations.workspace(latent, dim),
        np.empty(moments_.MOMENTS),
        np.empty((latent, latent)),
        np.empty((latent, latent)),
        np.empty((latent, latent)),
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
    space : NaturalWorkspace

    Returns
    -------
    status, elbo
        Status 0 and the ELBO before the step; or 12, 13, 14: the log joint was NaN, +inf, -inf where q has
        mass, and q is as it was.

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
    problem, space = named(Problem, borrow(problem)), named(NaturalWorkspace, borrow(space))
    mean, chol, moments, shift = borrow(mean), borrow(chol), space.moments, space.shift
    precision, factor, new = space.precision, space.factor, space.root
    dim = mean.size
    space.lattice.ball[0] = 0
    status, _, _, _, _, _ = expectations.expect(
        log_joint, problem, mean, chol, -1, 1, rtol, space.lattice, moments
    )
    if status != FINE:
        return status, math.nan
    places = (1, 5)
    for _ in range(MOST_HALVINGS):
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


class Iterates(NamedTuple):
    """The state of stochastic steps in P parameters (see `draws_fits`)."""

    point: Any  #: (P,)
    first: Any  #: (P,) Adam's moments of the gradient
    second: Any  #: (P,)
    total: Any  #: (P,) sum of all points so far
