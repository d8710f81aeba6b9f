"""Diagnostics: the Pareto shape of the importance ratios of a fit, and gradients against differences."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..common.immutable import frozen_fields
from ..common.validation import float_array, generator, real_number
from ..common.values import Array, tidy
from ..distributions.gaussian import Gaussian
from ..distributions.variational import Latent, TruncatedGaussian, Variational, latent_of
from .kernel_calls import log_densities
from .model import Model, checked_model

#: Draws for the Pareto shape, and their seed.
_PSIS_DRAWS, _SEED = 4000, 20240229

#: Random points at which a gradient is checked, where none are given.
_POINTS = 5

#: Steps of the differences: relative to a coordinate, and where this is near zero.
_STEP, _LEAST_COORDINATE = 1e-3, 1e-3

#: How far the values of log_joint and log_joint_grad may differ, relative to 1 + |value|.
_SAME_VALUE = 1e-9


#: Differences of the values are rounded by this share of them, and a rise by this share of the step is none.
_ROUNDING, _LEAST_RISE = 1e-13, 1e-3

#: Gradients that are all below this are compared as if the largest were it.
_LEAST_GRADIENT = 1e-8

#: Pareto shape: the largest ratios that it is fitted to, as a share of the draws, and for each root of their
#: number; ratios are equal where they differ by less than a share; an excess of 0 counts as _LEAST; points of
#: the grid besides the root of the number of ratios; and the observations that the prior is worth.
_TAIL_SHARE, _TAIL_ROOT, _EQUAL, _LEAST, _GRID, _PRIOR = 0.2, 3.0, 1e-12, 1e-300, 30, 10.0

#: Numbers in the draws that are weighed together: 17 MB.
_NUMBERS = 2**21


def latent_ratios(model: Model, q: Latent, latent: Array) -> Array | None:
    """log p - log q at latent points; None where the log joint is at fault at one of them."""
    status, values, _ = log_densities(model, latent)
    if status:
        return None
    logs: Array = values - np.asarray(q.logpdf(latent))
    return logs


def importance_ratios(model: Model, q: Variational, draws: int, seed: int) -> Array | None:
    """log p - log q at draws of q; None where the log joint is at fault at one of them."""
    if isinstance(q, TruncatedGaussian):
        z = q.sample(draws, seed)
        logs = np.asarray(model.log_density(z) - q.logpdf(z))
        return logs if np.isfinite(logs).all() else None
    gaussian = latent_of(q)
    rng, found = np.random.default_rng(seed), list[Array]()
    for low in range(0, draws, piece := max(_NUMBERS // gaussian.dim, 1)):
        part = latent_ratios(model, gaussian, gaussian.sample(min(piece, draws - low), rng))
        if part is None:
            return None
        found.append(part)
    return np.concatenate(found)


def psis_shape(model: Model, q: Variational) -> float:
    """Pareto shape k̂ of the importance ratios p / q; inf where the log joint is at fault at a draw."""
    logs = importance_ratios(model, q, _PSIS_DRAWS, _SEED)
    if logs is None:
        return math.inf
    ratios = np.exp(logs - logs.max())
    shape = pareto_shape(ratios)
    # Ratios of at most twice their mean do no harm, whatever the shape of their tail: 1.8 for a logistic
    # regression whose log ratios have a standard deviation of 0.03. (The largest ratio here is 1.)
    return min(shape, 0.0) if ratios.mean() > 0.5 else shape


def pareto_shape(ratios: Array) -> float:
    """k̂ of the largest importance ratios: Zhang and Stephens' estimate, shrunk towards 0.5.

    A generalised Pareto distribution is fitted to the m = min(n / 5, 3 sqrt(n)) largest ratios: k̂ is that of
    the mean of θ = k / σ under a quasi-posterior on a grid (J. Zhang, M. A. Stephens, Technometrics 51
    (2009)). A prior with the weight of 10 observations draws it to 0.5 (A. Vehtari et al., JMLR 25 (2024)).
    """
    count = ratios.size
    m = int(min(_TAIL_SHARE * count, _TAIL_ROOT * math.sqrt(count)))
    order = np.sort(ratios)
    x = order[-m:] - order[-m - 1]
    if not x[-1] > _EQUAL * order[-1]:
        return -math.inf  # all ratios are equal
    x = np.maximum(x, _LEAST)
    grid = _GRID + int(math.sqrt(m))
    j = np.arange(1, grid + 1)
    theta = 1.0 / x[-1] + (1.0 - np.sqrt(grid / (j - 0.5))) / (3.0 * x[(m + 2) // 4 - 1])
    shape = np.log1p(-theta[:, None] * x).mean(axis=1)
    likelihood = m * (np.log(-theta / shape) - shape - 1.0)
    weights = np.exp(likelihood - likelihood.max())
    best = float(theta @ weights / weights.sum())
    k = float(np.log1p(-best * x).mean())
    return (k * m + 0.5 * _PRIOR) / (m + _PRIOR)


class GradientCheck(NamedTuple):
    """A model's gradient beside a numerical one, at the z where they differ most.

    Attributes
    ----------
    ok : bool
        Whether they agree.
    coordinate : int
        Where they differ most.
    z : ndarray, shape (D,)
    analytic, numerical : ndarray, shape (D,)
    """

    ok: bool
    coordinate: int
    z: Array
    analytic: Array
    numerical: Array

    def __bool__(self) -> bool:
        return self.ok

    def __reduce__(self) -> tuple[Any, ...]:
        return frozen_fields, (GradientCheck, *self)

    def __str__(self) -> str:
        i = self.coordinate
        found = f"grad[{i}] is {self.analytic[i]:.9g}, numerically {self.numerical[i]:.9g}"
        found += f", at z = {tidy(self.z)}"
        return (
            f"the gradient is right: the worst is {found}" if self.ok else f"the gradient is wrong: {found}"
        )


def _central_differences(model: Model, point: Array) -> Array:
    """The gradient of the log joint, (4 D(h) - D(2h)) / 3 with central differences D, of order 4."""
    gradient = np.empty(model.dim)
    for i in range(model.dim):
        h = _STEP * max(_LEAST_COORDINATE, abs(point[i]))
        rows = np.repeat(point[None], 4, axis=0)
        rows[:, i] += np.array([h, -h, 2 * h, -2 * h])
        f = model.log_density(rows)
        gradient[i] = (4.0 * (f[0] - f[1]) / (2 * h) - (f[2] - f[3]) / (4 * h)) / 3.0
    return gradient


#: Directions in which the gradient of a fit is compared, and the step in units of q's spread.
_DIRECTIONS, _SHORT = 5, 1e-3

#: Evaluations of that comparison.
GRADIENT_EVALUATIONS = 4 * _DIRECTIONS

#: Relative difference that is no error of the differences, and how many directions must show it.
_DIFFERENT, _SEVERAL = 0.02, 2


@lru_cache(maxsize=32)
def _probes(dim: int) -> Array:
    """Standard normal points and steps, (2, directions, dim)."""
    return np.random.default_rng(_SEED).standard_normal((2, _DIRECTIONS, dim))


def wrong_gradient(model: Model, mean: Array, factor: Array) -> Array | None:
    """A point z where the gradient that was given does not fit the log joint; None where none was found.

    At draws of q the values of both functions are compared, and a rise of the log joint between two points
    near a draw to the gradient between them.
    """
    draws, step = map(Gaussian._from_factor(mean, factor)._spread, _probes(mean.size))
    draws, step = draws + mean, _SHORT * step
    ends, _ = model._support.to_model(np.concatenate([draws + step, draws - step]))
    one, other = ends[:_DIRECTIONS], ends[_DIRECTIONS:]
    middle = 0.5 * (one + other)
    gradients = np.empty_like(middle)
    beside, failed = model._tabulate(middle, gradients)
    found, failed_too = model._tabulate(np.concatenate([one, other, middle]))
    if failed or failed_too:
        return None
    at_one, at_other, values = found.reshape(3, _DIRECTIONS)
    rise = at_one - at_other
    expected = ((one - other) * gradients).sum(axis=1)
    rounding = _ROUNDING * np.abs(values) + _LEAST_RISE * _SHORT
    # What is NaN or infinite is no right gradient, but of a log joint that is so nothing is known.
    right = np.abs(rise - expected) <= _DIFFERENT * (np.abs(rise) + np.abs(expected)) + rounding
    right &= np.abs(beside - values) <= _SAME_VALUE * (1.0 + np.abs(values))
    bad = np.isfinite(values) & np.isfinite(rise) & ~right
    return middle[bad][0] if bad.sum() >= _SEVERAL else None


def check_gradient(model: Model, z: Any = None, *, rtol: float = 1e-5, rng: Any = 0) -> GradientCheck:
    r"""Compare a model's gradient to central differences of its log joint.

    .. math:: \frac{\partial f}{\partial z_i} \approx \frac{4 D(h) - D(2h)}{3}, \quad
              D(h) = \frac{f(z + h e_i) - f(z - h e_i)}{2h}

    Parameters
    ----------
    model : Model
        With a `log_joint_grad`, or a log joint that has derivatives by forward differentiation.
    z : array_like, shape (D,) or (n, D), optional
        Where to compare. Default: five random points, standard normal in latent coordinates.
    rtol : float, optional
        Difference that is allowed, relative to the gradient's largest entry.
    rng : numpy.random.Generator, int or None, optional
        For the random points.

    Returns
    -------
    GradientCheck
        True where the gradient is right; `str` of it names the worst coordinate with both values.

    Raises
    ------
    TypeError
        A model that is not a Model.
    ValueError
        A model whose gradients are differences, or whose gradient function returns another value than its
        log joint; a z of another shape.

    References
    ----------
    J. Nocedal, S. J. Wright, Numerical Optimization (2006), section 8.1.

    Examples
    --------
    >>> import fastvi as fv
    >>> def log_joint(z):
    ...     return -0.5 * z[0] ** 2 - z[1] ** 2
    >>> def wrong(z, grad):
    ...     grad[0], grad[1] = -z[0], -z[1]
    ...     return log_joint(z)
    >>> import numba
    >>> log_joint = numba.njit(log_joint)
    >>> str(fv.check_gradient(fv.Model(log_joint, 2, log_joint_grad=wrong), [[1.0, 2.0]]))
    'the gradient is wrong: grad[1] is -2, numerically -4, at z = [1, 2]'
    """
    checked_model(model)
    allowed = real_number("rtol", rtol)
    if not model._slopes_address:
        raise ValueError("model has no gradient to check: it takes differences")
    if z is None:
        latent = generator("rng", rng).standard_normal((_POINTS, model.latent_dim))
        points = model._support.to_model(latent)[0]
    else:
        points = np.atleast_2d(np.asarray(float_array("z", z), dtype=np.float64))
        if points.ndim != 2 or points.shape[1] != model.dim:
            raise ValueError(f"z must have shape ({model.dim},) or (n, {model.dim}), not {np.shape(z)}")
    other = model._with_copies()
    worst: tuple[float, GradientCheck] | None = None
    constant = model._support.constant
    for point in points:
        analytic = np.empty(model.dim)
        values, failed = other._tabulate(point[None], analytic)
        if failed:
            other._raise_at(point, with_gradient=True)
        value = float(values[0])
        expected = float(model.log_density(point))
        if not abs(value - expected) <= _SAME_VALUE * (1.0 + abs(expected)):
            raise ValueError(
                f"log_joint_grad returns {value!r} at z = {tidy(point)}, where log_joint returns {expected!r}"
            )
        numerical = _central_differences(model, point)
        gaps = np.abs(analytic - numerical) / max(float(np.abs(numerical).max()), _LEAST_GRADIENT)
        gaps = np.where(constant, 0.0, np.where(np.isnan(gaps), math.inf, gaps))
        i = int(np.argmax(gaps))
        check = frozen_fields(GradientCheck, bool(gaps[i] <= allowed), i, point, analytic, numerical)
        if worst is None or gaps[i] > worst[0]:
            worst = float(gaps[i]), check
    assert worst is not None
    return worst[1]
