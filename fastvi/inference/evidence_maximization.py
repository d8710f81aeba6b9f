"""Maximum likelihood for the parameters of a model, by variational EM.

E-step: `fit`. M-step: a damped Newton step on E_q[log p(x, z; θ)], with derivatives by finite differences, as
a log joint has no gradient in θ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import kernels
from ..common import statuses
from ..common.immutable import Record
from ..common.progress import bar
from ..common.threads import interruptible
from ..common.validation import choice, integer
from ..common.values import Array, tidy
from ..distributions.integrals import Estimate, tolerance
from ..distributions.variational import Variational, latent_of
from ..kernels.families.table import CODES, HELD
from ..kernels.statuses import CONVERGED
from .expectations import fixed_draws, writable
from .fitting import fit_once
from .kernel_calls import QUADRATURE_DIM, is_long, workspace
from .model import Model, checked_model, target_of
from .results import Fit, beside_gaps

#: Lattice for E_q in the M-step: nodes at a distance of half a standard deviation, in a ball of radius seven.
_REACH, _STEP = 7.0, 0.5

#: Nodes beyond the radius by less than this are in the ball: squares are rounded.
_ON_THE_EDGE = 1e-9

#: A second difference, and a largest eigenvalue, of 0 count as this: they are divided by.
_LEAST = 1e-300

#: Pairs of fixed draws for E_q in the M-step in more dimensions: at least, and for each dimension.
_PAIRS, _PAIRS_EACH = 256, 4

#: The steps of the differences are chosen so that the second difference of the expected log joint (in nats)
#: is near the first number, and kept where it is between the other two. One step is then about a tenth of a
#: standard deviation of θ by the curvature.
_SECOND_DIFFERENCE, _LEAST_DIFFERENCE, _MOST_DIFFERENCE = 1e-2, 1e-3, 0.3
_STEPS_EACH_DEVIATION = 10.0

#: Tries to find such steps. Each changes a step by a factor between the first two numbers, and by the third
#: where the log joint is not finite at its end. A step above _MOST_STEP belongs to a θ without influence.
_TRIES = 40
_SHRINK, _GROW, _RETREAT = 1e-4, 10.0, 0.1
_MOST_STEP = 1e12

#: Part of these steps over which the gradient is taken, whose differences are of order 4.
_GRADIENT_STEP = 0.05

#: Halvings of a Newton step until the expected log joint rises.
_HALVINGS = 30

#: Least eigenvalue of the Hessian, relative to the largest, that a Newton step divides by.
_LEAST_EIGENVALUE = 1e-9

#: Relative tolerance of the fits, and change of θ (in standard deviations) that ends the rounds: both in
#: units of `rtol`.
_FIT_SHARE, _THETA_SHARE = 1e-2, 10.0

#: Rounding error of an ELBO, relative to 1 + |ELBO|.
_ROUNDING = 1e-12


class ThetaFit(Record):
    """Parameters that maximise the evidence, or the ELBO where the family does not contain the posterior.

    Attributes
    ----------
    theta : ndarray, shape (T,)
    fit : Fit
        The fit of q for these parameters.
    q : Gaussian or TransformedGaussian
        That of the fit.
    elbo : Estimate
        In nats.
    trace : ndarray
        The ELBO of the start and after each round; it does not fall, but for rounding and the errors of the
        fits.
    status : str
        How the rounds ended, in words.
    converged : bool
        Whether the status is "converged".

    Examples
    --------
    >>> import fastvi as fv
    >>> def log_joint(z, theta, x):
    ...     return -0.5 * (z[0] - theta[0]) ** 2 - 0.5 * (x - z[0]) ** 2
    >>> fv.maximize_evidence(fv.Model(log_joint, 1, data=(3.0,), theta=[0.0]))
    ThetaFit(theta=[3], elbo=0.572365, converged in 4 rounds)
    """

    theta: Array
    fit: Fit
    elbo: Estimate
    trace: Array
    status: str
    converged: bool

    @property
    def q(self) -> Variational:
        """The q that was fitted for these parameters."""
        return self.fit.q

    def __repr__(self) -> str:
        return (
            f"ThetaFit(theta={tidy(self.theta)}, elbo={self.elbo.value:.6g}, {self.status} "
            f"in {len(self.trace)} rounds)"
        )


def _nodes(fitted: Fit) -> tuple[Array, Array]:
    """(points in latent coordinates, weights) for expectations under the q of a fit."""
    q = latent_of(fitted.q)
    r = q.dim
    if r > QUADRATURE_DIM:
        draws = writable(fixed_draws(0, max(_PAIRS, _PAIRS_EACH * r), r))
        noise, weights = draws, np.full(len(draws), 1.0 / len(draws))
    else:
        t = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
        noise = np.stack(np.meshgrid(*([t] * r), indexing="ij"), axis=-1).reshape(-1, r)
        noise = noise[(noise**2).sum(axis=1) <= _REACH**2 + _ON_THE_EDGE]
        weights = np.exp(-0.5 * (noise**2).sum(axis=1))
        weights /= weights.sum()
    return np.ascontiguousarray(q.mean + noise @ q.cholesky.T), weights


def _expected(model: Model, fitted: Fit) -> Callable[[Array], Array]:
    """E_q[log p(x, z; θ)] as a function of rows of θ; NaN becomes -inf."""
    points, weights = _nodes(fitted)
    space = workspace("laplace", model.latent_dim, model.dim)
    values = np.empty(len(points))
    target = target_of(model)

    def expected(thetas: Array) -> Array:
        rows, out = np.ascontiguousarray(thetas), np.empty(len(thetas))
        kernels.inference.entry_points.expected_log_joint(target, rows, points, weights, space, values, out)
        return np.where(np.isnan(out), -math.inf, out)

    return expected


def _calibrated(
    f: Callable[[Array], Array], theta: Array, value: float, scale: Array
) -> tuple[Array, Array, Array]:
    """(steps of suitable second differences, values after a step up, values after a step down)."""
    size = theta.size
    for _ in range(_TRIES):
        both = f(np.concatenate([theta + np.diag(scale), theta - np.diag(scale)]))
        up, down = both[:size], both[size:]
        drop = np.abs(2.0 * value - up - down)
        bad = ~np.isfinite(drop)
        flat = drop < _LEAST_DIFFERENCE
        off = ~bad & (flat | (drop > _MOST_DIFFERENCE)) & ~(flat & (scale > _MOST_STEP))
        if not (bad | off).any():
            break
        factor = np.sqrt(_SECOND_DIFFERENCE / np.maximum(drop, _LEAST, where=~bad, out=np.ones(size)))
        scale = scale * np.where(bad, _RETREAT, np.where(off, np.clip(factor, _SHRINK, _GROW), 1.0))
    return scale, up, down


def _gradient(f: Callable[[Array], Array], theta: Array, scale: Array) -> Array:
    """The gradient in units of the steps `scale`: (4 D(h/2) - D(h)) / 3 with central differences D."""
    h = _GRADIENT_STEP
    small = np.diag(h * scale)
    values = f(np.concatenate([theta + small, theta - small, theta + 0.5 * small, theta - 0.5 * small]))
    a, b, c, d = values.reshape(4, -1)
    gradient = (4.0 * (c - d) / h - 0.5 * (a - b) / h) / 3.0
    return np.where(np.isfinite(gradient), gradient, 0.0)


def _newton_step(f: Callable[[Array], Array], theta: Array, scale: Array) -> tuple[Array, Array]:
    """A damped Newton step that raises f; (θ, the steps of the differences).

    The Hessian from second differences, with its eigenvalues replaced by their absolute values.
    """
    value = float(f(theta[None])[0])
    scale, up, down = _calibrated(f, theta, value, scale)
    size = theta.size
    gradient = _gradient(f, theta, scale)
    curvature = np.diag(2.0 * value - up - down)
    pairs = [(a, b) for a in range(size) for b in range(a)]
    if pairs:
        steps = np.array([[(i in pair) * scale[i] for i in range(size)] for pair in pairs])
        corners = f(np.concatenate([theta + steps, theta - steps]))
        for k, (a, b) in enumerate(pairs):
            mixed = corners[k] + corners[len(pairs) + k] - up[a] - down[a] - up[b] - down[b] + 2.0 * value
            curvature[a, b] = curvature[b, a] = -0.5 * mixed if math.isfinite(mixed) else 0.0
    values, vectors = np.linalg.eigh(curvature)
    sizes = np.maximum(np.abs(values), _LEAST_EIGENVALUE * max(np.abs(values).max(), _LEAST))
    step = scale * (vectors @ ((vectors.T @ gradient) / sizes))
    for t in 0.5 ** np.arange(_HALVINGS):
        if float(f((theta + t * step)[None])[0]) > value:
            return theta + t * step, scale
    return theta, scale


@interruptible(is_long)
def maximize_evidence(
    model: Model,
    family: str = "full",
    start: Any = None,
    *,
    rtol: float = 1e-8,
    max_rounds: int = 200,
    progress: bool = False,
) -> ThetaFit:
    r"""Maximum likelihood by variational EM: q and θ in turn, so that each round raises the ELBO.

    .. math:: \theta_{ML} = \arg\max_\theta \log p(x; \theta), \quad
              \log p(x; \theta) \ge \mathrm{ELBO}(q, \theta)

    Parameters
    ----------
    model : Model
        With `theta`, the parameters to start from.
    family, start
        Of q, as in `fit`, but for "truncated".
    rtol : float, optional
        The rounds end when the change of θ is below 10 rtol standard deviations of θ, by the curvature of the
        expected log joint.
    max_rounds : int, optional
        Most rounds.
    progress : bool, optional
        Show a bar, where tqdm is installed.

    Returns
    -------
    ThetaFit
        Where the family contains the posterior, `theta` is a maximiser of the log evidence. Returned also
        where the rounds did not converge; `status` says why.

    Raises
    ------
    TypeError
        A model that is not a Model; a `max_rounds` that is no integer.
    ValueError
        A model without theta; other values than described above; a fit that cannot start.

    Notes
    -----
    The E-step is `fit`, the M-step a Newton step on E_q[log p(x, z; θ)]. EM's linear convergence is
    accelerated (SQUAREM): after two rounds the extrapolation of their steps is tried, and taken where the
    ELBO is higher.

    References
    ----------
    R. M. Neal, G. E. Hinton, A View of the EM Algorithm that Justifies Incremental, Sparse, and other
    Variants (1998), section 2. R. Varadhan, C. Roland, Scand. J. Statist. 35 (2008), eq. 8 (scheme S3).

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> def log_joint(z, theta, x):                  # z ~ N(0, exp(theta)), x = z + noise of variance 1
    ...     return -0.5 * (z[0] ** 2 / math.exp(theta[0]) + theta[0] + (x - z[0]) ** 2)
    >>> t = fv.maximize_evidence(fv.Model(log_joint, 1, data=(3.0,), theta=[0.0]))
    >>> round(math.exp(t.theta[0]), 6)               # x**2 - 1
    8.0
    """
    checked_model(model)
    if model.theta is None:
        raise ValueError("model has no theta: give Model(..., theta=...) the parameters to start from")
    name = choice("family", family, tuple(CODES))
    wanted, max_rounds = tolerance(rtol), integer("max_rounds", max_rounds, 1)

    def expect(theta: Array, from_: Any) -> Fit:
        """The E-step."""
        return fit_once(model.with_theta(theta), from_, name, _FIT_SHARE * wanted)

    theta = np.array(model.theta)
    current = expect(theta, start)
    held = current.q if name in HELD else None  # the covariance that all fits have
    trace = [current.elbo.value]
    scale = np.ones(theta.size)
    status, last = statuses.ROUNDS_EXHAUSTED, current
    rounds: list[Array] = [theta]
    for _ in bar(range(max_rounds), progress, "rounds"):
        new, scale = _newton_step(_expected(model.with_theta(theta), current), theta, scale)
        found = expect(new, current.q if held is None else held)
        last = found
        slack = _ROUNDING * (1.0 + abs(trace[-1])) + current.elbo.error + found.elbo.error
        if found.elbo.value < trace[-1] - slack:
            status = statuses.NOT_RISING
            break
        rounds.append(new)
        if len(rounds) == 3:
            jumped = _jump(rounds)
            rounds = [new]
            if jumped is not None:
                try:
                    tried = expect(jumped, found.q if held is None else held)
                except ValueError:
                    tried = None
                if tried is not None and tried.elbo.value > found.elbo.value:
                    new, found = jumped, tried
                    rounds = [new]
        moved = float(np.abs((new - theta) / (_STEPS_EACH_DEVIATION * scale)).max())
        theta, current = new, found
        trace.append(found.elbo.value)
        if moved <= _THETA_SHARE * wanted:
            status = statuses.WORDS[CONVERGED]
            break
    kept = beside_gaps(current)
    if status == statuses.WORDS[CONVERGED]:
        status = kept.status
    last = kept if last is current or last.converged else last
    if not last.converged and last.status not in status:
        status = f"{status}; the last fit of q ended with: {last.status}"
    return ThetaFit(
        theta=theta,
        fit=kept,
        elbo=kept.elbo,
        trace=np.array(trace),
        status=status,
        converged=status == statuses.WORDS[CONVERGED],
    )


def _jump(rounds: list[Array]) -> Array | None:
    """The extrapolation of two rounds of EM (Varadhan and Roland's S3); None where it is no longer step."""
    first, second = rounds[1] - rounds[0], rounds[2] - rounds[1]
    change = second - first
    norm = float(np.linalg.norm(change))
    if norm == 0.0:
        return None
    length = -float(np.linalg.norm(first)) / norm
    if length > -1.0:
        return None
    jumped: Array = rounds[0] - 2.0 * length * first + length**2 * change
    return jumped if np.isfinite(jumped).all() else None
