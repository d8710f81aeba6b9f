"""The result of `fit_mixture`, and the decomposition of its likelihood for any q of the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import kernels
from ..common import scratch
from ..common.immutable import Immutable, frozen
from ..common.statuses import EM_WORDS
from ..common.validation import finite_array
from ..common.values import Array
from ..discrete import information
from ..distributions.mixture import GaussianMixture
from ..kernels import statuses
from . import gaps

#: Restarts whose log likelihoods differ by less than this, relative to the best, have found the same maximum.
_SAME = 1e-8


@dataclass(frozen=True)
class LabelDecomposition:
    """The log evidence of labelled data, its lower bound, and the divergence between the two.

    Attributes
    ----------
    log_evidence : float
        log p(x) in nats, from the density of the mixture.
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
        """log_evidence - (elbo + kl): the rounding of three independent sums; NaN where kl is inf."""
        return self.log_evidence - (self.elbo + self.kl)


class MixtureFit(Immutable):
    """A Gaussian mixture fitted by EM, with its likelihood and how the fit went.

    Attributes
    ----------
    mixture : GaussianMixture
        The fit, with the components in the order of their means (with a start, in its order).
    responsibilities : ndarray, shape (n, k)
        q(z), the posterior probabilities of the labels; computed at the first access.
    log_likelihood : float
        log p(x) in nats, which the ELBO is equal to for this q: the last entry of the trace less `log_prior`.
    log_prior : float
        The log density of the prior at the fit, but for constants; 0 where there is none.
    trace : ndarray
        The ELBO of the start and after each iteration, with a prior plus its log density; it does not fall,
        but for rounding.
    iterations : int
        M-steps taken.
    to_gain : float
        An estimate of how far the mean log likelihood is below its maximum: at most `tol` where the fit has
        converged.
    converged : bool
        Whether `to_gain` became at most `tol`.
    status : str
        How the fit ended, in words, with the components at the floor and those without data.
    floor_active : tuple of int
        Components that the covariance floor holds: without the floor the likelihood would grow.
    floor_steps : tuple of int
        The number of steps in which the floor acted, for each component; the start counts as one.
    is_singular : bool
        Whether the fit stopped since a covariance became singular, which the likelihood has no maximum at.
    empty : tuple of int
        Components without data: their weight is 0.
    covariance : str
        The kind of covariances: "full", "diag", "tied" or "spherical".
    weights : ndarray or None
        The weights of the points, where there were any.
    criteria : dict or None
        The criterion for each number of components, where `fit_mixture` has chosen between several.
    restart_log_likelihoods : ndarray
        For each restart, with a prior plus its log density.
    restart_at_floor : ndarray of bool
        Whether the floor holds a component, for each restart. Such a restart is the result only if there is
        no other.

    Examples
    --------
    >>> import numpy as np
    >>> import fastvi as fv
    >>> from fastvi.data import old_faithful
    >>> fit = fv.fit_mixture(np.column_stack(old_faithful()), 2)
    >>> fit
    MixtureFit(k=2, n=272, log_likelihood=-1130.26, converged after 9 iterations)
    >>> fit.responsibilities[:2].round(3)
    array([[0., 1.],
           [1., 0.]])
    """

    __slots__ = (
        "_responsibilities",
        "_x",
        "converged",
        "covariance",
        "criteria",
        "empty",
        "floor_active",
        "floor_steps",
        "is_singular",
        "iterations",
        "log_prior",
        "mixture",
        "restart_at_floor",
        "restart_log_likelihoods",
        "status",
        "to_gain",
        "trace",
        "weights",
    )

    mixture: GaussianMixture
    trace: Array
    log_prior: float
    iterations: int
    to_gain: float
    converged: bool
    status: str
    floor_active: tuple[int, ...]
    floor_steps: tuple[int, ...]
    is_singular: bool
    empty: tuple[int, ...]
    covariance: str
    weights: Array | None
    criteria: dict[int, float] | None
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
        weights: Array | None = None,
        covariance: str = "full",
        criteria: dict[int, float] | None = None,
        log_prior: float = 0.0,
    ) -> None:
        active = tuple(k for k, acted in enumerate(floored[kernels.em.m_step.AT_FLOOR].tolist()) if acted)
        empty = tuple(k for k, weight in enumerate(mixture.weights.tolist()) if weight == 0.0)
        status = EM_WORDS[code]
        if active:
            status += f", {_component_list(active)} at the covariance floor"
        if empty:
            status += f", {_component_list(empty)} without data"
        for name, value in {
            "_x": x,
            "mixture": mixture,
            "trace": frozen(trace),
            "log_prior": log_prior,
            "iterations": trace.size - 1,
            "to_gain": to_gain,
            "converged": code == statuses.CONVERGED,
            "status": status,
            "floor_active": active,
            "floor_steps": tuple(floored[kernels.em.m_step.FLOOR_STEPS].tolist()),
            "is_singular": code == statuses.SINGULAR,
            "empty": empty,
            "covariance": covariance,
            "weights": None if weights is None else frozen(weights),
            "criteria": criteria,
            "restart_log_likelihoods": frozen(restart_log_likelihoods),
            "restart_at_floor": restart_at_floor,
            "_responsibilities": None,
        }.items():
            object.__setattr__(self, name, value)
        restart_at_floor.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        floored = np.array([[k in self.floor_active for k in range(len(self.floor_steps))], self.floor_steps])
        code = next(code for code, words in EM_WORDS.items() if self.status.startswith(words))
        spread = np.array(self.restart_log_likelihoods), np.array(self.restart_at_floor)
        state = np.array(self._x), self.mixture, np.array(self.trace), code, self.to_gain, floored, *spread
        weights = None if self.weights is None else np.array(self.weights)
        return type(self), (*state, weights, self.covariance, self.criteria, self.log_prior)

    @property
    def log_likelihood(self) -> float:
        """Log likelihood of the data, in nats."""
        return float(self.trace[-1]) - self.log_prior

    @property
    def n_parameters(self) -> int:
        """The number of free parameters: of the weights, the means, and covariances of this kind."""
        count, dim = self.mixture.means.shape
        triangle = dim * (dim + 1) // 2
        kinds = {"full": count * triangle, "diag": count * dim, "tied": triangle, "spherical": count}
        return int(count - 1 + count * dim + kinds[self.covariance])

    @property
    def bic(self) -> float:
        """Bayesian information criterion, -2 log p(x) + parameters * log(n); less is better.

        n is the number of points, or the sum of their weights. G. Schwarz, Estimating the Dimension of a
        Model, Ann. Statist. 6 (1978).
        """
        return -2.0 * self.log_likelihood + self.n_parameters * math.log(self._mass)

    @property
    def aic(self) -> float:
        """Akaike's information criterion, -2 log p(x) + 2 parameters; less is better."""
        return -2.0 * self.log_likelihood + 2.0 * self.n_parameters

    @property
    def _mass(self) -> float:
        """The sum of the points' weights."""
        return float(len(self._x)) if self.weights is None else float(self.weights.sum())

    @property
    def _has_gaps(self) -> bool:
        return bool(np.isnan(self._x).any())

    def log_likelihood_of(self, x: ArrayLike) -> float:
        """Log likelihood in nats of other data, as of points that were held out; NaN is a gap, as in the fit.

        Parameters
        ----------
        x : array_like, shape (m, d), or (m,) for d = 1

        Returns
        -------
        float

        Raises
        ------
        ValueError
            Another shape, an entry that is infinite, a point without an observed coordinate.

        Examples
        --------
        >>> import fastvi as fv
        >>> fit = fv.fit_mixture([0, 1, 2, 3, 10, 11, 12, 13], 2)
        >>> round(fit.log_likelihood_of([0.5, 12.5]), 6)
        -4.247315
        """
        points = gaps.data(x)
        if points.shape[1] != self.mixture.dim:
            raise ValueError(f"x must have {self.mixture.dim} columns, as the fit has, not {points.shape[1]}")
        if not np.isnan(points).any():
            return math.fsum(self.mixture.logpdf(points))
        return math.fsum(np.logaddexp.reduce(gaps.log_joint(points, self.mixture), axis=1))

    def impute(self) -> tuple[Array, Array]:
        """The data with their gaps filled: means and covariances given what was observed of each point.

        Returns
        -------
        filled : ndarray, shape (n, d)
            E[x | what was observed of x] under the mixture.
        covs : ndarray, shape (n, d, d)
            The covariance of the same: zero for coordinates that were observed.

        References
        ----------
        Z. Ghahramani, M. I. Jordan, Supervised Learning from Incomplete Data via an EM Approach, NIPS 6
        (1994).

        Examples
        --------
        >>> import fastvi as fv
        >>> nan = float("nan")
        >>> fit = fv.fit_mixture([[0, 0], [1, 1], [2, 3], [3, 2], [4, nan]], 1, tol=1e-20)
        >>> filled, covs = fit.impute()
        >>> filled[4].round(6), covs[4].round(6)
        (array([4. , 3.5]), array([[0.  , 0.  ],
               [0.  , 0.45]]))
        """
        if not self._has_gaps:
            return self._x.copy(), np.zeros((len(self._x), self.mixture.dim, self.mixture.dim))
        return gaps.impute(self._x, self.mixture, self.responsibilities)

    @property
    def responsibilities(self) -> Array:
        """Posterior probabilities of the labels, shape (n, k), read-only."""
        if self._responsibilities is None:
            if self._has_gaps:
                found = np.exp(_log_posterior(gaps.log_joint(self._x, self.mixture)))
            else:
                found = self._of_labels("responsibilities")
            object.__setattr__(self, "_responsibilities", frozen(found))
        assert self._responsibilities is not None
        return self._responsibilities

    def _of_labels(self, kernel: str) -> Array:
        """An array (n, k) from one of the kernels of the E-step, by its name."""
        p = self.mixture
        out = np.empty((len(self._x), p.weights.size))
        columns = np.ascontiguousarray(self._x.T, np.float64)
        space = workspace(p.weights.size, p.dim)
        getattr(kernels.em.e_step, kernel)(columns, np.array(p.weights), p._means, p._factors, space, out)
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
            Its three terms are computed independently; `residual` is their rounding.

        Raises
        ------
        ValueError
            An array of another shape, or a row that is not a distribution.

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
        (-1130.26396, -5249.848, 4119.584)
        >>> abs(guess.residual) < 1e-10
        True
        """
        p = self.mixture
        q = finite_array("responsibilities", responsibilities, 2, f"({len(self._x)}, {p.weights.size})")
        if q.shape != (len(self._x), p.weights.size):
            raise ValueError(
                f"responsibilities must have shape ({len(self._x)}, {p.weights.size}), not {q.shape}"
            )
        information.entropy(q)  # raises where a row is not a distribution
        q /= q.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_q = np.log(q)
            if self._has_gaps:
                joint = gaps.log_joint(self._x, p)
            else:
                joint = np.stack([g.logpdf(self._x) for g in p.components], axis=1) + p._log_weights
            terms = np.where(q > 0.0, q * (joint - log_q), 0.0)
        log_posterior = _log_posterior(joint if self._has_gaps else self._of_labels("log_joint"))
        evidence = np.logaddexp.reduce(joint, axis=1) if self._has_gaps else p.logpdf(self._x)
        kl = np.atleast_1d(information.kl(log_q, log_posterior, log=True))
        elbo = terms.sum(axis=1)
        counts = np.ones(len(q)) if self.weights is None else self.weights
        counted = counts > 0.0
        evidence, elbo, kl = (counts[counted] * part[counted] for part in (evidence, elbo, kl))
        return LabelDecomposition(
            math.fsum(evidence), math.fsum(elbo) if np.isfinite(elbo).all() else -math.inf, math.fsum(kl)
        )

    def summary(self) -> str:
        """The fit as a text of a few lines: how it ended, its likelihood, the restarts and the components.

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
        best, spread = float(self.trace[-1]), self.restart_log_likelihoods
        lines = [
            f"Gaussian mixture with {count_of(p.weights.size, 'component')} for {count_of(n, 'point')} "
            f"in {count_of(d, 'dimension')}, by EM",
            f"  {self._course()}, mean log likelihood within {self.to_gain:.2g} of its maximum",
            f"  log likelihood {self.log_likelihood:.6g} ({self.log_likelihood / self._mass:.5g} a point)",
        ]
        if self.log_prior:
            lines.append(f"  log density of the prior {self.log_prior:.6g}, but for constants")
        if self._has_gaps or self.weights is not None or self.covariance != "full":
            kind = f"{self.covariance} covariance{'' if self.covariance == 'tied' else 's'}"
            parts = [kind if self.covariance != "full" else ""]
            parts.append(f"points weighted, in all {self._mass:.6g}" if self.weights is not None else "")
            gap_count = int(np.isnan(self._x).sum())
            parts.append(f"{gap_count} of {self._x.size} entries missing" if gap_count else "")
            lines.append("  " + "; ".join(part for part in parts if part))
        if self.criteria is not None:
            tried = ", ".join(f"{k}: {value:.6g}" for k, value in self.criteria.items())
            lines.append(f"  chosen of components: criterion {tried}")
        if spread.size > 1:
            same = int((np.abs(spread - best) <= _SAME * max(abs(best), 1.0)).sum())
            finite = spread[np.isfinite(spread)]
            reached = "none reached a maximum" if self.is_singular else f"{same} reached this maximum"
            line = f"  {spread.size} restarts: {reached}, "
            line += f"log likelihoods from {finite.min():.6g} to {finite.max():.6g}"
            if self.restart_at_floor.any():
                line += f"; {int(self.restart_at_floor.sum())} ended at the covariance floor"
            lines.append(line)
        for k, g in enumerate(p.components):
            mean, spreads = (np.array2string(a, precision=6) for a in (g.mean, np.sqrt(np.diag(g.cov))))
            line = f"  component {k}: weight {p.weights[k]:.6g}, mean {mean}, standard deviation {spreads}"
            if self.floor_steps[k]:
                line += f", at the floor in {count_of(self.floor_steps[k], 'step')}"
                line += " and at the end" if k in self.floor_active else ", not at the end"
            lines.append(line)
        return "\n".join(lines)

    def _course(self) -> str:
        """The status with the number of iterations."""
        head, comma, rest = self.status.partition(", ")
        return f"{head} after {count_of(self.iterations, 'iteration')}{comma}{rest}"

    def __repr__(self) -> str:
        return (
            f"MixtureFit(k={self.mixture.weights.size}, n={len(self._x)}, "
            f"log_likelihood={self.log_likelihood:.6g}, {self._course()})"
        )


def _log_posterior(log_joint: Array) -> Array:
    """Logarithms of the posterior probabilities of the labels, shape (n, k)."""
    top = log_joint.max(axis=1, keepdims=True)
    return np.asarray(log_joint - (top + np.log(np.exp(log_joint - top).sum(axis=1, keepdims=True))))


def count_of(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it is not one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _component_list(numbers: tuple[int, ...]) -> str:
    return f"component{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def workspace(components: int, dim: int) -> Any:
    """This thread's scratch space for the kernels of EM."""
    return scratch.space(kernels.em.e_step.workspace, components, dim)
