"""Maximum likelihood for Gaussian mixtures: variational EM whose q is the exact posterior of the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import divergences, kernels, scratch, threads
from .distributions import Array, GaussianMixture, _restore
from .immutable import Immutable, frozen
from .kernels import statuses
from .progress import bar
from .validation import finite_array, float_array, generator, real_number

_STATUS = {
    statuses.CONVERGED: "converged",
    statuses.STEPS_EXHAUSTED: "not converged: the iterations ran out",
    statuses.SINGULAR: "stopped: a covariance became singular, and min_cov=0 sets no floor",
}

#: Restarts whose log likelihoods are so close, relative to the best, have found the same maximum.
_SAME = 1e-8

#: Sweeps over the data that a fit usually takes, for the decision whether to use threads.
_SWEEPS = 16


@dataclass(frozen=True)
class LabelDecomposition:
    """The log evidence of labelled data, its lower bound, and the divergence between the two.

    Attributes
    ----------
    log_evidence : float
        log p(x), from the density of the mixture.
    elbo : float
        E_q[log p(x, z) - log q(z)], from the densities of the components.
    kl : float
        KL(q(z) ‖ p(z|x)), from the posterior of the labels.
    """

    log_evidence: float
    elbo: float
    kl: float

    @property
    def residual(self) -> float:
        """log_evidence - (elbo + kl): rounding, as the three are computed apart (NaN where kl is inf)."""
        return self.log_evidence - (self.elbo + self.kl)


class MixtureFit(Immutable):
    """A Gaussian mixture fitted by EM, and how the fit went.

    Attributes
    ----------
    mixture : GaussianMixture
        The fit, its components in the order of their means (with a start, in its order).
    responsibilities : ndarray, shape (n, k)
        q(z): the posterior probabilities of the labels; computed when they are first asked for.
    log_likelihood : float
        log p(x), which the ELBO is equal to for this q: the last entry of the trace.
    trace : ndarray
        The ELBO of the start and after each iteration; it does not fall, but for rounding.
    iterations : int
        M-steps taken.
    to_gain : float
        An estimate of how far the mean log likelihood still is below its maximum: at most `tol` where the fit
        has converged.
    converged : bool
        Whether it is.
    status : str
        What became of the fit, in words, components at the floor or without data among them.
    floor_active : tuple of int
        Components that the covariance floor holds: their likelihood would grow without the floor.
    floor_steps : tuple of int
        In how many steps the floor acted, for each component; the start counts as one.
    empty : tuple of int
        Components without data: their weight is 0.
    restart_log_likelihoods : ndarray
        Of every restart.
    restart_at_floor : ndarray of bool
        Whether the floor holds a component there. Such a restart is taken only if there is no other.

    Examples
    --------
    >>> import numpy as np
    >>> import fastvi as fv
    >>> from fastvi.data import old_faithful
    >>> fit = fv.fit_mixture(np.column_stack(old_faithful()), 2)
    >>> fit
    MixtureFit(k=2, n=272, log_likelihood=-1130.26, converged after 18 iterations)
    >>> fit.responsibilities[:2].round(3)
    array([[0., 1.],
           [1., 0.]])
    """

    __slots__ = (
        "_responsibilities",
        "_x",
        "converged",
        "empty",
        "floor_active",
        "floor_steps",
        "iterations",
        "mixture",
        "restart_at_floor",
        "restart_log_likelihoods",
        "status",
        "to_gain",
        "trace",
    )

    mixture: GaussianMixture
    trace: Array
    iterations: int
    to_gain: float
    converged: bool
    status: str
    floor_active: tuple[int, ...]
    floor_steps: tuple[int, ...]
    empty: tuple[int, ...]
    restart_log_likelihoods: Array
    restart_at_floor: NDArray[np.bool_]
    _x: Array
    _responsibilities: Array | None

    def __init__(
        self,
        x: Array,
        mixture: GaussianMixture,
        trace: Array,
        code: int,
        to_gain: float,
        floored: NDArray[np.int64],
        restart_log_likelihoods: Array,
        restart_at_floor: NDArray[np.bool_],
    ) -> None:
        active = tuple(k for k, acted in enumerate(floored[kernels.em.AT_FLOOR].tolist()) if acted)
        empty = tuple(k for k, weight in enumerate(mixture.weights.tolist()) if weight == 0.0)
        status = _STATUS[code]
        if active:
            status += f", {_named(active)} at the covariance floor"
        if empty:
            status += f", {_named(empty)} without data"
        for name, value in {
            "_x": x,
            "mixture": mixture,
            "trace": frozen(trace),
            "iterations": trace.size - 1,
            "to_gain": to_gain,
            "converged": code == statuses.CONVERGED,
            "status": status,
            "floor_active": active,
            "floor_steps": tuple(floored[kernels.em.FLOOR_STEPS].tolist()),
            "empty": empty,
            "restart_log_likelihoods": frozen(restart_log_likelihoods),
            "restart_at_floor": restart_at_floor,
            "_responsibilities": None,
        }.items():
            object.__setattr__(self, name, value)
        restart_at_floor.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        floored = np.array([[k in self.floor_active for k in range(len(self.floor_steps))], self.floor_steps])
        code = next(code for code, words in _STATUS.items() if self.status.startswith(words))
        spread = np.array(self.restart_log_likelihoods), np.array(self.restart_at_floor)
        state = np.array(self._x), self.mixture, np.array(self.trace), code, self.to_gain, floored, *spread
        return type(self), state

    @property
    def log_likelihood(self) -> float:
        """Log likelihood of the data, in nats."""
        return float(self.trace[-1])

    @property
    def responsibilities(self) -> Array:
        """Posterior probabilities of the labels, shape (n, k), read-only."""
        if self._responsibilities is None:
            object.__setattr__(self, "_responsibilities", frozen(self._of_labels("responsibilities")))
        assert self._responsibilities is not None
        return self._responsibilities

    def _of_labels(self, kernel: str) -> Array:
        """An array (n, k) from one of the kernels."""
        p = self.mixture
        out = np.empty((len(self._x), p.weights.size))
        columns = np.ascontiguousarray(self._x.T)
        space = _space(p.weights.size, p.dim)
        getattr(kernels.em, kernel)(columns, np.array(p.weights), p._means, p._factors, space, out)
        return out

    def decompose(self, responsibilities: ArrayLike) -> LabelDecomposition:
        r"""The log evidence as ELBO plus KL, for any distribution q of the labels.

        .. math:: \log p(x) = E_q\!\left[\log \frac{p(x, z)}{q(z)}\right]
                  + \mathrm{KL}\bigl(q(z) \,\|\, p(z \mid x)\bigr)

        Parameters
        ----------
        responsibilities : array_like, shape (n, k)
            q: for each point, the probabilities of its labels.

        Returns
        -------
        LabelDecomposition
            Its three terms are computed apart; `residual` is what rounding leaves between them.

        References
        ----------
        C. M. Bishop, Pattern Recognition and Machine Learning (2006), eq. 9.70 to 9.72.

        Examples
        --------
        >>> import numpy as np
        >>> import fastvi as fv
        >>> from fastvi.data import old_faithful
        >>> fit = fv.fit_mixture(np.column_stack(old_faithful()), 2)
        >>> guess = fit.decompose(np.full((272, 2), 0.5))
        >>> round(guess.log_evidence, 6), round(guess.elbo, 3), round(guess.kl, 3)
        (-1130.26396, -5249.849, 4119.585)
        >>> abs(guess.residual) < 1e-10
        True
        """
        p = self.mixture
        q = finite_array("responsibilities", responsibilities, 2, f"({len(self._x)}, {p.weights.size})")
        if q.shape != (len(self._x), p.weights.size):
            raise ValueError(
                f"responsibilities must have shape ({len(self._x)}, {p.weights.size}), not {q.shape}"
            )
        divergences.entropy(q)  # says what is wrong with a row that is not a distribution
        q /= q.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_q = np.log(q)
            joint = np.stack([g.logpdf(self._x) for g in p.components], axis=1) + p._log_weights
            terms = np.where(q > 0.0, q * (joint - log_q), 0.0)
        log_joint = self._of_labels("log_joint")
        top = log_joint.max(axis=1, keepdims=True)
        log_posterior = log_joint - (top + np.log(np.exp(log_joint - top).sum(axis=1, keepdims=True)))
        return LabelDecomposition(
            math.fsum(p.logpdf(self._x)),
            math.fsum(terms.ravel()) if np.isfinite(terms).all() else -math.inf,
            math.fsum(np.atleast_1d(divergences.kl(log_q, log_posterior, log=True))),
        )

    def summary(self) -> str:
        """The fit in a few lines.

        Examples
        --------
        >>> import fastvi as fv
        >>> print(fv.fit_mixture([0, 1, 2, 3, 10, 11, 12, 13], 2).summary())
        Gaussian mixture with 2 components for 8 points in 1 dimension, by EM
          converged after 2 iterations, mean log likelihood within 0 of its maximum
          log likelihood -17.7893 (-2.2237 a point)
          10 restarts: 10 reached this maximum, log likelihoods from -17.7893 to -17.7893
          component 0: weight 0.5, mean [1.5], standard deviation [1.118034]
          component 1: weight 0.5, mean [11.5], standard deviation [1.118034]
        """
        p, n, d = self.mixture, len(self._x), self.mixture.dim
        best, spread = self.log_likelihood, self.restart_log_likelihoods
        lines = [
            f"Gaussian mixture with {_count(p.weights.size, 'component')} for {_count(n, 'point')} "
            f"in {_count(d, 'dimension')}, by EM",
            f"  {self._course()}, mean log likelihood within {self.to_gain:.2g} of its maximum",
            f"  log likelihood {best:.6g} ({best / n:.5g} a point)",
        ]
        if spread.size > 1:
            same = int((np.abs(spread - best) <= _SAME * max(abs(best), 1.0)).sum())
            finite = spread[np.isfinite(spread)]
            line = f"  {spread.size} restarts: {same} reached this maximum, "
            line += f"log likelihoods from {finite.min():.6g} to {finite.max():.6g}"
            if self.restart_at_floor.any():
                line += f"; {int(self.restart_at_floor.sum())} ended at the covariance floor"
            lines.append(line)
        for k, g in enumerate(p.components):
            mean, spreads = (np.array2string(a, precision=6) for a in (g.mean, np.sqrt(np.diag(g.cov))))
            line = f"  component {k}: weight {p.weights[k]:.6g}, mean {mean}, standard deviation {spreads}"
            if self.floor_steps[k]:
                line += f", at the floor in {_count(self.floor_steps[k], 'step')}"
                line += " and at the end" if k in self.floor_active else ", not at the end"
            lines.append(line)
        return "\n".join(lines)

    def _course(self) -> str:
        head, comma, rest = self.status.partition(", ")
        return f"{head} after {_count(self.iterations, 'iteration')}{comma}{rest}"

    def __repr__(self) -> str:
        return (
            f"MixtureFit(k={self.mixture.weights.size}, n={len(self._x)}, "
            f"log_likelihood={self.log_likelihood:.6g}, {self._course()})"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _named(numbers: tuple[int, ...]) -> str:
    return f"component{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def _space(components: int, dim: int) -> Any:
    """This thread's scratch space for mixtures of that size."""
    return scratch.space(kernels.em.workspace, components, dim)


def _whole(name: str, value: Any, least: int) -> int:
    """`value` as an integer that is not below `least`."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    number = int(value.__index__())
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def _data(x: Any, components: int) -> Array:
    array = float_array("x", x)
    if array.ndim == 1:
        flat = finite_array("x", array, 1, "(n,)")
        points = flat[:, None]
    else:
        points = finite_array("x", array, 2, "(n, d) or (n,)")
    if len(points) < components:
        raise ValueError(f"x has {_count(len(points), 'point')}, too few for k = {components} components")
    return points


def _standardized(x: Array) -> tuple[Array, Array, Array]:
    size, dim = x.shape
    columns, mean, factor = np.empty((dim, size)), np.empty(dim), np.empty((dim, dim))
    bad = kernels.em.standardize(x, columns, mean, factor)
    if bad == dim:
        return columns, mean, factor
    name = "x" if dim == 1 else f"x[:, {bad}]"
    if (x[:, bad] == x[0, bad]).all():
        raise ValueError(f"{name} is constant ({x[0, bad]!s}): its variance is 0, and there is no likelihood")
    if not np.isfinite(factor[bad, : bad + 1]).all() or factor[bad, bad] == 0.0:
        raise ValueError(f"{name} is out of range: its variance is not a normal number; rescale it")
    raise ValueError(
        f"{name} is a linear combination of the columns before it: the covariance of x is singular"
    )


def _checked_start(start: Any, components: int, dim: int) -> None:
    if not isinstance(start, GaussianMixture):
        raise TypeError(f"start must be a GaussianMixture, not {type(start).__name__}")
    if start.weights.size != components:
        raise ValueError(f"start has {_count(start.weights.size, 'component')}, but k = {components}")
    if start.dim != dim:
        raise ValueError(f"start has dimension {start.dim}, x has {dim}")


class _Run:
    """One descent: its mixture, in standardized coordinates, and its course."""

    def __init__(self, components: int, dim: int, most: int) -> None:
        self.weights = np.empty(components)
        self.means = np.empty((components, dim))
        self.factors = np.empty((components, dim, dim))
        self.trace = np.empty(most + 1)
        self.floored = np.zeros((2, components), np.int64)
        self.status, self.steps, self.to_gain = 0, 0, math.inf

    def seed(self, columns: Array, uniforms: Array, floor: float, space: Any) -> None:
        size = columns.shape[1]
        distances, labels = np.empty(size), np.empty(size, np.int64)
        mixture = self.weights, self.means, self.factors
        kernels.em.seed(columns, uniforms, *mixture, floor, distances, labels, space)

    def climb(self, columns: Array, floor: float, tol: float, space: Any) -> None:
        mixture = self.weights, self.means, self.factors
        most = self.trace.size - 1
        self.status, self.steps, self.to_gain = kernels.em.fit(
            columns, *mixture, floor, tol, most, self.trace, self.floored, space
        )
        self.trace = self.trace[: self.steps + 1].copy()

    @property
    def value(self) -> float:
        return float(self.trace[-1]) if self.status != statuses.OUT_OF_RANGE else -math.inf

    @property
    def at_floor(self) -> bool:
        return bool(self.floored[kernels.em.AT_FLOOR].any())

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Better is larger. A maximum at the floor is the floor's, not the data's: it comes last."""
        return (
            self.status in (statuses.CONVERGED, statuses.STEPS_EXHAUSTED),
            not self.at_floor,
            self.value,
        )


def fit_mixture(
    x: ArrayLike,
    k: int,
    *,
    start: GaussianMixture | None = None,
    restarts: int = 10,
    tol: float = 1e-12,
    max_iterations: int = 10_000,
    min_cov: float = 1e-6,
    rng: Any = 0,
    progress: bool = False,
) -> MixtureFit:
    r"""Fit a Gaussian mixture by maximum likelihood: variational EM with the exact posterior of the labels.

    .. math:: \log p(x; \theta) = \max_q \; E_{q}\bigl[\log p(x, z; \theta) - \log q(z)\bigr]

    The E-step maximises the ELBO in q (it then equals the log likelihood), the M-step in the weights, means
    and covariances θ.

    Parameters
    ----------
    x : array_like, shape (n, d) or (n,)
        The data, one point a row.
    k : int
        The number of components.
    start : GaussianMixture, optional
        Where to start. There are no restarts then, and nothing is random.
    restarts : int, optional
        Starts around points of the data that are drawn apart from each other (k-means++).
    tol : float, optional
        EM ends when the mean log likelihood is, by the rate at which its steps shrink, within `tol` of its
        maximum. The distance of a mean from its limit, in standard deviations, is about sqrt(tol): ``1e-18``
        makes eight digits right. Above 1e-6 it may end on a plateau, before the rate is that near a maximum.
    max_iterations : int, optional
        At most so many M-steps for each restart.
    min_cov : float, optional
        Covariance floor: the least variance of a component in any direction, as a fraction of the variance of
        the data in that direction; in [0, 1). It acts only on a covariance below it, where it is the exact
        M-step under that constraint, and the result says which component it holds. 0: no floor.
    rng : numpy.random.Generator, int or None, optional
        For the starts: a generator, which is advanced, or an integer that makes one. The default, 0, gives
        the same fit each time; None draws other starts at each call.
    progress : bool, optional
        Whether to show a bar over the restarts, where tqdm is installed.

    Returns
    -------
    MixtureFit
        The best restart, whether or not it converged: the largest log likelihood among those that the floor
        does not hold, if there are any. (Without a floor the likelihood is unbounded: a component on d points
        has a singular covariance.)

    Raises
    ------
    ValueError
        Entries that are not finite, fewer points than components, columns that are constant or depend on each
        other, a `start` with another number of components or dimensions, or too far from the data.
    TypeError
        Data that are not real numbers, counts that are not integers, a `start` that is not a mixture.

    Notes
    -----
    The result is the same, to the last bit, for any number of threads. The data are standardized
    first, so that units, offsets and correlations of the columns make no difference.

    Inside compiled code, `prange` included, the same work is done by ``fastvi.kernels.em``: `standardize`,
    `seed`, `fit` and `unstandardize_mixture`, which take arrays and a `workspace`.

    References
    ----------
    A. P. Dempster, N. M. Laird, D. B. Rubin, Maximum Likelihood from Incomplete Data via the EM Algorithm,
    J. R. Statist. Soc. B 39 (1977). C. M. Bishop, Pattern Recognition and Machine Learning (2006), sections
    9.2.2 and 9.4. R. M. Neal, G. E. Hinton, A View of the EM Algorithm that Justifies Incremental, Sparse,
    and other Variants (1998). R. J. Hathaway, A Constrained Formulation of Maximum-Likelihood Estimation for
    Normal Mixture Distributions, Ann. Statist. 13 (1985). D. Arthur, S. Vassilvitskii, k-means++: The
    Advantages of Careful Seeding, SODA (2007).

    Examples
    --------
    >>> import numpy as np
    >>> import fastvi as fv
    >>> from fastvi.data import old_faithful
    >>> fit = fv.fit_mixture(np.column_stack(old_faithful()), 2, tol=1e-18)
    >>> round(fit.log_likelihood, 8), fit.converged
    (-1130.26396018, True)
    >>> fit.mixture.weights.round(8), fit.mixture.means.round(6)
    (array([0.35587286, 0.64412714]), array([[ 2.036388, 54.478516],
           [ 4.289662, 79.968115]]))
    """
    components = _whole("k", k, 1)
    points = _data(x, components)
    most = _whole("max_iterations", max_iterations, 1)
    wanted, floor = real_number("tol", tol), real_number("min_cov", min_cov)
    if not 0.0 <= wanted < math.inf:
        raise ValueError(f"tol must be a finite number >= 0, not {tol!r}")
    if not 0.0 <= floor < 1.0:
        raise ValueError(f"min_cov must be in [0, 1), not {min_cov!r}")
    count = _whole("restarts", restarts, 1)
    columns, mean, factor = _standardized(points)
    size, dim = points.shape
    if start is not None:
        _checked_start(start, components, dim)
        runs = [_from_start(start, columns, mean, factor, floor, wanted, most)]
    else:
        uniforms = generator("rng", rng).random((count, components))
        runs = _from_seeds(uniforms, columns, floor, wanted, most, progress)
    best = max(runs, key=lambda run: run.rank)
    if best.status == statuses.OUT_OF_RANGE or math.isnan(best.value):
        raise ValueError("start has no finite likelihood: it is too far from the data")
    order: Any = np.lexsort(best.means.T[::-1]) if start is None else slice(None)
    shift = size * float(np.log(np.diag(factor)).sum())
    return MixtureFit(
        points,
        _mixture(best, order, mean, factor),
        best.trace - shift,
        best.status,
        best.to_gain,
        best.floored[:, order],
        np.array([run.value for run in runs]) - shift,
        np.array([run.at_floor for run in runs]),
    )


def _from_start(
    start: GaussianMixture, columns: Array, mean: Array, factor: Array, floor: float, tol: float, most: int
) -> _Run:
    run = _Run(start.weights.size, start.dim, most)
    run.weights[:], run.means[:], run.factors[:] = start.weights, start._means, start._factors
    kernels.em.standardize_mixture(mean, factor, run.means, run.factors)
    run.climb(columns, floor, tol, _space(start.weights.size, start.dim))
    return run


def _from_seeds(
    uniforms: Array, columns: Array, floor: float, tol: float, most: int, progress: bool
) -> list[_Run]:
    count, components = uniforms.shape
    dim, size = columns.shape
    runs = [_Run(components, dim, most) for _ in range(count)]

    def climb(i: int) -> None:
        space = _space(components, dim)
        runs[i].seed(columns, uniforms[i], floor, space)
        runs[i].climb(columns, floor, tol, space)

    worthwhile = count * components * size * dim * _SWEEPS >= threads.WORTHWHILE
    together = (numba.get_num_threads() if progress else count) if worthwhile else 1
    for first in bar(range(0, count, together), progress, "fit_mixture", "batch"):

        def climb_from(i: int, first: int = first) -> None:
            climb(first + i)

        threads.run(climb_from, min(together, count - first))
    return runs


def _mixture(run: _Run, order: Any, mean: Array, factor: Array) -> GaussianMixture:
    """The mixture of a run in the coordinates of the data."""
    means, factors = run.means[order], run.factors[order]
    kernels.em.unstandardize_mixture(mean, factor, means, factors)
    weights = run.weights[order] / run.weights.sum()
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    covs = factors @ factors.swapaxes(1, 2)
    return _restore(GaussianMixture, weights, means, covs, factors, logs)  # type: ignore[no-any-return]
