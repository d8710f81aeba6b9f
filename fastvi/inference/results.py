"""Result of a fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..common.immutable import Record
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.integrals import Estimate
from ..distributions.variational import TransformedGaussian, TruncatedGaussian, Variational
from ..kernels.statuses import CONVERGED, UNBOUNDED
from .diagnostics import _psis_shape
from .kernel_calls import _words
from .model import Model


class Fit(Record):
    """The q that a fit found, and what is known of it.

    Attributes
    ----------
    q : Gaussian, TransformedGaussian or TruncatedGaussian
    elbo : Estimate
        In nats, with its error.
    trace : ndarray
        The ELBO after each accepted step.
    gradient_norm : float
        In the metric of Fisher's information.
    evaluations : int
        Of the log joint.
    status : str
        In words; `converged` says whether it is "converged".
    starts : tuple of float
        The ELBO reached from each start, best first.

    Examples
    --------
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
    >>> fv.fit(fv.Model(log_joint, 1, data=(3.0,)))
    Fit(q=Gaussian(mean=[1.5], cov=[[0.5]]), elbo=-1.67764, converged)
    """

    __slots__ = (
        "_psis",
        "converged",
        "elbo",
        "evaluations",
        "family",
        "gradient_norm",
        "model",
        "q",
        "starts",
        "status",
        "trace",
    )
    q: Variational
    elbo: Estimate
    trace: Array
    gradient_norm: float
    evaluations: int
    status: str
    converged: bool
    starts: tuple[float, ...]
    model: Model
    family: str
    _psis: float | None

    def __init__(self, **fields: Any) -> None:
        super().__init__(**{"_psis": None, **fields})

    @property
    def psis_k(self) -> float:
        """Pareto shape k̂ of the importance ratios p / q: above 0.7, q is not to be trusted as p.

        At most 0 where no ratio is twice their mean. Computed when it is first asked for, from 4,000 seeded
        draws. A. Vehtari et al., Pareto Smoothed Importance Sampling, JMLR 25 (2024), section 3; J. Zhang, M.
        A. Stephens, Technometrics 51 (2009).
        """
        if self._psis is None:
            object.__setattr__(self, "_psis", _psis_shape(self.model, self.q))
        assert self._psis is not None
        return self._psis

    def sample(self, n: int, rng: Any = None) -> Array:
        """`n` draws in the model's own coordinates, shape (n, D), from `rng` as in `fit`."""
        return self.q.sample(n, rng)

    def summary(self) -> str:
        """What is known of the fit, some lines of text."""
        k = self.psis_k
        if k < 0.5:
            verdict = "q is close to the posterior"
        elif k < 0.7:
            verdict = "usable"
        else:
            verdict = "q misses much of the posterior: do not trust it"
        lines = [
            f"family         {self.family}",
            f"status         {self.status}",
            f"ELBO           {self.elbo.value:.9g} ± {self.elbo.error:.1e} ({self.elbo.method})",
            f"gradient norm  {self.gradient_norm:.1e}",
            f"steps          {len(self.trace)}, {self.evaluations} evaluations",
            f"PSIS k         {k:.2f}: {verdict}",
        ]
        if len(self.starts) > 1:
            shown = ", ".join(f"{value:.6g}" for value in self.starts)
            lines.append(f"starts         {shown} (spread {self.starts[0] - self.starts[-1]:.2g})")
        mean, sd = self.q.mean, np.sqrt(np.diag(self.q.cov))
        for i in range(min(len(mean), 20)):
            lines.append(f"z[{i}]".ljust(15) + f"{mean[i]:.6g} ± {sd[i]:.3g}")
        if len(mean) > 20:
            lines.append(f"... and {len(mean) - 20} more coordinates")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Fit(q={self.q!r}, elbo={self.elbo.value:.6g}, {self.status})"


def _q_of(model: Model, mean: Array, factor: Array) -> Gaussian | TransformedGaussian:
    gaussian = Gaussian._from_factor(mean, factor)
    if model._support.is_real:
        return gaussian
    return TransformedGaussian._of(gaussian, model._support)


def _numbers(q: Any) -> Array:
    """Everything that q is made of."""
    if isinstance(q, TruncatedGaussian):
        return np.array([q.mu, q.sigma])
    gaussian = q.gaussian if isinstance(q, TransformedGaussian) else q
    return np.concatenate([gaussian._mean, gaussian._factor.ravel()])


def _made(model: Model, family: str, q: Any, report: Any, trace: Array, where: Array, method: str) -> Fit:
    """The result that a `kernels.inference.reports.Report` stands for."""
    value, code, evaluations = report.elbo, int(report.status), int(report.evaluations)
    words = _words(code, where)
    endless = code == UNBOUNDED and not (abs(_numbers(q)) < 1e100).all()
    if value != value or value == -math.inf or endless:
        raise ValueError(f"the fit cannot start: {words}")
    return Fit(
        model=model,
        family=family,
        q=q,
        elbo=Estimate(value, report.error, evaluations, method),
        trace=trace[: int(report.steps)],
        gradient_norm=report.gradient_norm,
        evaluations=evaluations,
        status=words,
        converged=code == CONVERGED,
        starts=(value,),
    )
