"""Maximum likelihood: parameters of a model, raised with q in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import kernels
from ..common import statuses
from ..common.immutable import Record
from ..common.progress import bar
from ..common.validation import choice
from ..common.values import Array, _tidy
from ..distributions.integrals import Estimate, tolerance
from ..distributions.variational import TransformedGaussian, Variational
from ..kernels.families.table import CODES, HELD
from ..kernels.statuses import CONVERGED
from .expectations import _draws, _writable
from .fitting import _fit
from .kernel_calls import QUADRATURE_DIM, _as_model, _space, _target
from .model import Model
from .results import Fit

#: Nodes of the M-step's lattice: steps of half a standard deviation, up to seven of them.
_REACH, _STEP = 7.0, 0.5


class ThetaFit(Record):
    """Parameters that maximise the evidence (its lower bound, where the family does not hold the posterior).

    Attributes
    ----------
    theta : ndarray
    q : Gaussian or TransformedGaussian
        The fit for these parameters.
    elbo : Estimate
    trace : ndarray
        The ELBO after each round, rising to rounding.
    status : str
        In words; `converged` says whether it is "converged".

    Examples
    --------
    >>> import fastvi as fv
    >>> def log_joint(z, theta, x):
    ...     return -0.5 * (z[0] - theta[0]) ** 2 - 0.5 * (x - z[0]) ** 2
    >>> fv.maximize_evidence(fv.Model(log_joint, 1, data=(3.0,), theta=[0.0]))
    ThetaFit(theta=[3], elbo=0.572365, converged in 4 rounds)
    """

    __slots__ = ("converged", "elbo", "fit", "status", "theta", "trace")
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
            f"ThetaFit(theta={_tidy(self.theta)}, elbo={self.elbo.value:.6g}, {self.status} "
            f"in {len(self.trace)} rounds)"
        )


def _nodes(fitted: Fit) -> tuple[Array, Array]:
    """Latent points and weights for expectations under the q of a fit."""
    q = fitted.q.gaussian if isinstance(fitted.q, TransformedGaussian) else fitted.q
    r = q.dim
    if r > QUADRATURE_DIM:
        draws = _writable(_draws(0, max(256, 4 * r), r))
        noise, weights = draws, np.full(len(draws), 1.0 / len(draws))
    else:
        t = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
        noise = np.stack(np.meshgrid(*([t] * r), indexing="ij"), axis=-1).reshape(-1, r)
        noise = noise[(noise**2).sum(axis=1) <= _REACH**2 + 1e-9]
        weights = np.exp(-0.5 * (noise**2).sum(axis=1))
        weights /= weights.sum()
    return np.ascontiguousarray(q.mean + noise @ q.cholesky.T), weights  # type: ignore[union-attr]


def _expected(model: Model, fitted: Fit) -> Callable[[Array], Array]:
    """E_q[log p(x, z; θ)] as a function of rows of θ; NaN becomes -inf."""
    points, weights = _nodes(fitted)
    space = _space("laplace", model.latent_dim, model.dim)
    values = np.empty(len(points))
    target = _target(model)

    def expected(thetas: Array) -> Array:
        rows, out = np.ascontiguousarray(thetas), np.empty(len(thetas))
        kernels.inference.entry_points.expected_log_joint(target, rows, points, weights, space, values, out)
        return np.where(np.isnan(out), -math.inf, out)

    return expected


def _calibrated(
    f: Callable[[Array], Array], theta: Array, value: float, scale: Array
) -> tuple[Array, Array, Array]:
    """Steps over which the second difference is near 1e-2, and the values to either side."""
    size = theta.size
    for _ in range(40):
        both = f(np.concatenate([theta + np.diag(scale), theta - np.diag(scale)]))
        up, down = both[:size], both[size:]
        drop = np.abs(2.0 * value - up - down)
        bad = ~np.isfinite(drop)
        off = ~bad & ((drop < 1e-3) | (drop > 0.3)) & ~((drop < 1e-3) & (scale > 1e12))
        if not (bad | off).any():
            break
        factor = np.sqrt(1e-2 / np.maximum(drop, 1e-300, where=~bad, out=np.ones(size)))
        scale = scale * np.where(bad, 0.1, np.where(off, np.clip(factor, 1e-4, 10.0), 1.0))
    return scale, up, down


def _gradient(f: Callable[[Array], Array], theta: Array, scale: Array) -> Array:
    """The gradient in units of the steps: central differences, extrapolated to order 4."""
    small = np.diag(0.05 * scale)
    values = f(np.concatenate([theta + small, theta - small, theta + 0.5 * small, theta - 0.5 * small]))
    a, b, c, d = values.reshape(4, -1)
    gradient = (4.0 * (c - d) / 0.05 - 0.5 * (a - b) / 0.05) / 3.0
    return np.where(np.isfinite(gradient), gradient, 0.0)


def _newton_step(f: Callable[[Array], Array], theta: Array, scale: Array) -> tuple[Array, Array]:
    """A damped Newton step uphill from differences; (θ, the steps of the differences)."""
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
    sizes = np.maximum(np.abs(values), 1e-9 * max(np.abs(values).max(), 1e-300))
    step = scale * (vectors @ ((vectors.T @ gradient) / sizes))
    for t in 0.5 ** np.arange(30):
        if float(f((theta + t * step)[None])[0]) > value:
            return theta + t * step, scale
    return theta, scale


def maximize_evidence(
    model: Model,
    family: str = "full",
    start: Any = None,
    *,
    rtol: float = 1e-8,
    max_rounds: int = 200,
    progress: bool = False,
) -> ThetaFit:
    r"""Maximum likelihood by variational EM: q and θ in turn, the ELBO rising at every round.

    .. math:: \theta_{ML} = \arg\max_\theta \log p(x; \theta), \quad
              \log p(x; \theta) \ge \mathrm{ELBO}(q, \theta)

    Parameters
    ----------
    model : Model
        With `theta`, the parameters to start from.
    family, start
        Of q, as in `fit`; "truncated" is not among them.
    rtol : float, optional
        Change of θ that ends it, relative to the parameters' own uncertainty (the curvature of the expected
        log joint).
    max_rounds : int, optional
    progress : bool, optional
        Show a bar, where tqdm is installed.

    Returns
    -------
    ThetaFit
        Where the family holds the posterior, `theta` is the maximiser of the log evidence.

    Raises
    ------
    TypeError, ValueError
        A model without theta; a fit that cannot start.

    Notes
    -----
    The E-step is `fit`, the M-step a Newton step on E_q[log p(x, z; θ)]. EM's linear convergence is
    accelerated: after two rounds a jump along their difference is tried, and taken where the ELBO is higher
    (SQUAREM).

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
    _as_model(model)
    if model.theta is None:
        raise ValueError("model has no theta: give Model(..., theta=...) the parameters to start from")
    name = choice("family", family, tuple(CODES))
    wanted = tolerance(rtol)
    if max_rounds < 1:
        raise ValueError(f"max_rounds must be at least 1, not {max_rounds!r}")

    def expect(theta: Array, from_: Any) -> Fit:
        return _fit(
            model.with_theta(theta), name, from_, "auto", 1e-2 * wanted, 500, None, None, 0, 0.0, False
        )

    theta = np.array(model.theta)
    current = expect(theta, start)
    warm = current.q if name in HELD else None
    trace = [current.elbo.value]
    scale = np.ones(theta.size)
    status = statuses.ROUNDS_EXHAUSTED
    rounds: list[Array] = [theta]
    for _ in bar(range(max_rounds), progress, "rounds"):
        new, scale = _newton_step(_expected(model.with_theta(theta), current), theta, scale)
        found = expect(new, current.q if warm is None else warm)
        slack = 1e-12 * (1.0 + abs(trace[-1])) + current.elbo.error + found.elbo.error
        if found.elbo.value < trace[-1] - slack:
            status = statuses.NOT_RISING
            break
        rounds.append(new)
        if len(rounds) == 3:
            jumped = _jump(rounds)
            rounds = [new]
            if jumped is not None:
                try:
                    tried = expect(jumped, found.q if warm is None else warm)
                except ValueError:
                    tried = None
                if tried is not None and tried.elbo.value > found.elbo.value:
                    new, found = jumped, tried
                    rounds = [new]
        # A step of the differences changes the expected log joint by 1e-2, so a deviation is some ten of
        # them.
        moved = float(np.abs((new - theta) / (10.0 * scale)).max())
        theta, current = new, found
        trace.append(found.elbo.value)
        if moved <= 10.0 * wanted:
            status = statuses.WORDS[CONVERGED] if current.converged else current.status
            break
    return ThetaFit(
        theta=theta,
        fit=current,
        elbo=current.elbo,
        trace=np.array(trace),
        status=status,
        converged=status == statuses.WORDS[CONVERGED],
    )


def _jump(rounds: list[Array]) -> Array | None:
    """Where two rounds of EM point to."""
    first, second = rounds[1] - rounds[0], rounds[2] - rounds[1]
    bend = second - first
    norm = float(np.linalg.norm(bend))
    if norm == 0.0:
        return None
    length = -float(np.linalg.norm(first)) / norm
    if length > -1.0:
        return None
    jumped: Array = rounds[0] - 2.0 * length * first + length**2 * bend
    return jumped if np.isfinite(jumped).all() else None
