"""The log evidence by quadrature, and its decomposition into ELBO and KL divergence."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.values import Array
from ..distributions.integrals import Estimate, tolerance
from ..distributions.variational import TruncatedGaussian, Variational
from .expectations import _elbo, _latent_gaussian
from .kernel_calls import QUADRATURE_DIM, _as_model, _named, _space, _target, _words
from .model import Model
from .starts import _laplace_start

# What q is compared to.


#: Where p is so many times wider than q, or so many of q's deviations away, they do not share a lattice.
_WIDE = 20.0


def _frame(model: Model, start: Any) -> tuple[Array, Array]:
    """Laplace's approximation, in whose coordinates the evidence is integrated."""
    mean, factor, _, _ = _laplace_start(model, start)
    return mean, factor


def _whole(
    model: Model, mean: Array, factor: Array, rtol: float, q: Any, integrand: int, total: float
) -> Estimate:
    space = _space("evidence", mean.size, model.dim)
    status, value, error, nodes = kernels.inference.entry_points.evidence(
        _target(model), mean, factor, rtol, q, integrand, total, space
    )
    if status:
        raise ValueError(_words(status, _named(kernels.inference.evidence.Workspace, space).panel.where))
    note = ""
    if error == math.inf or value != value:
        error = math.inf
        note = "the joint does not fall off towards the ends of the axes: the posterior is improper"
        if integrand == kernels.inference.evidence.JOINT:
            value = math.inf
    elif value == -math.inf:
        note = "the log joint is -inf everywhere that was looked at"
    return Estimate(value, error, nodes, "quadrature", note=note)


def _no_q(dim: int) -> Any:
    return kernels.inference.evidence.GAUSSIAN, np.zeros(dim), np.eye(dim), np.zeros(2), 0.0


def _low_dimension(model: Model, what: str) -> None:
    if model.latent_dim > QUADRATURE_DIM:
        raise ValueError(
            f"{what} takes quadrature, in up to {QUADRATURE_DIM} latent dimensions; "
            f"the model has {model.latent_dim}"
        )


def log_evidence(model: Model, start: Any = None, *, rtol: float = 1e-10) -> Estimate:
    r"""The log evidence of a model, by quadrature.

    .. math:: \log p(x) = \log \int p(x, z) \, dz

    Parameters
    ----------
    model : Model
        In up to two latent dimensions.
    start : array_like (D,) or Gaussian, optional
        Where to look for the posterior, as in `fit`.
    rtol : float, optional
        Error wanted, relative to 1 + abs(log evidence).

    Returns
    -------
    Estimate
        In nats. For an improper posterior the value and the error are inf, and `note` says so.

    Raises
    ------
    ValueError
        More than two latent dimensions; a log joint that is NaN or +inf, or that raises: with the z.

    Notes
    -----
    The trapezoid rule in t, where z = m + L sinh t and (m, L) is Laplace's approximation. A mode far from the
    one that is found from `start`, with nothing between them, is not seen.

    References
    ----------
    H. Takahasi, M. Mori, Double Exponential Formulas for Numerical Integration, Publ. RIMS 9 (1974), section
    3.

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
    >>> round(fv.log_evidence(fv.Model(log_joint, 1, data=(5.0,))).value, 12)
    -4.5
    >>> round(fv.log_evidence(fv.Model(log_joint, 1, data=(1.0,), support="positive")).value, 12)
    -1.19314718056
    """
    _low_dimension(_as_model(model), "log_evidence")
    wanted = tolerance(rtol)
    mean, factor = _frame(model, start)
    return _whole(model, mean, factor, wanted, _no_q(mean.size), kernels.inference.evidence.JOINT, 0.0)


class Decomposition(NamedTuple):
    """log p(x) = ELBO + KL(q ‖ p(z | x)), each computed by itself."""

    log_evidence: Estimate
    elbo: Estimate
    kl: Estimate

    @property
    def residual(self) -> float:
        """log evidence - ELBO - KL: what the three disagree by."""
        if self.elbo.value == -math.inf and self.kl.value == math.inf:
            return 0.0
        return self.log_evidence.value - self.elbo.value - self.kl.value

    @property
    def error(self) -> float:
        """A bound of the residual: the three errors."""
        return self.log_evidence.error + self.elbo.error + self.kl.error


def decompose(model: Model, q: Variational, *, rtol: float = 1e-10) -> Decomposition:
    r"""The log evidence, the ELBO of q and its divergence from the posterior, independently of each other.

    .. math:: \log p(x) = \mathrm{ELBO}(q) + \mathrm{KL}(q \,\|\, p(z \mid x))

    Parameters
    ----------
    model : Model
        In up to two latent dimensions.
    q : Gaussian, TransformedGaussian or TruncatedGaussian
    rtol : float, optional
        Error wanted of each.

    Returns
    -------
    Decomposition
        (log_evidence, elbo, kl), Estimates, with the `residual` of the identity and its bound `error`. The
        evidence is integrated in the coordinates of Laplace's approximation. The divergence is a sum of terms
        that are not negative, q log(q/p) - q + p, in q's coordinates, where p is normalised anew; where p is
        over 20 times wider than q it is E_q[log q - log p] with the evidence added.

    Raises
    ------
    TypeError, ValueError
        As in `elbo` and `log_evidence`.

    References
    ----------
    C. M. Bishop, Pattern Recognition and Machine Learning (2006), eq. 10.2 to 10.4.

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
    >>> d = fv.decompose(fv.Model(log_joint, 1, data=(5.0,)), fv.Gaussian(3.0, 1.0))
    >>> [round(part.value, 10) for part in d], abs(d.residual) <= d.error
    ([-4.5, -5.0, 0.5], True)
    """
    _low_dimension(_as_model(model), "decompose")
    wanted = tolerance(rtol)
    gaussian = _latent_gaussian(model, q)
    bound = _elbo(model, q, wanted)
    mean, factor = _frame(model, None)
    evidence = _whole(model, mean, factor, wanted, _no_q(mean.size), kernels.inference.evidence.JOINT, 0.0)
    if bound.value == -math.inf:
        return Decomposition(evidence, bound, Estimate(math.inf, 0.0, 0, "closed form", note=bound.note))
    if not evidence.error < math.inf:
        return Decomposition(
            evidence, bound, Estimate(math.inf, math.inf, 0, "quadrature", note=evidence.note)
        )
    if gaussian is None:
        if model._support.is_real:
            # In coordinates of its own the jump of a truncated density would fall between two nodes.
            raise ValueError("decompose takes a TruncatedGaussian only for a model with the same support")
        assert isinstance(q, TruncatedGaussian)
        form: Any = (
            kernels.inference.evidence.TRUNCATED,
            np.array([q.mu]),
            np.array([[q.sigma]]),
            np.array([q.low, q.high]),
            q._log_mass,
        )
    else:
        # The lattice must reach all of p from q. Where p is much wider, E_q[log q - log p] + log p(x) is
        # left.
        reach = float(np.abs(np.linalg.solve(gaussian._factor, factor)).max())
        shift = float(np.abs(np.linalg.solve(gaussian._factor, mean - gaussian._mean)).max())
        form = (kernels.inference.evidence.GAUSSIAN, gaussian._mean, gaussian._factor, np.zeros(2), 0.0)
        mean, factor = gaussian._mean, gaussian._factor
        if max(reach, shift) > _WIDE:
            divergence = _whole(
                model, mean, factor, wanted, form, kernels.inference.evidence.KL_OF_Q, evidence.value
            )
            return Decomposition(evidence, bound, divergence)
    total = _whole(model, mean, factor, wanted, form, kernels.inference.evidence.JOINT, 0.0)
    divergence = _whole(model, mean, factor, wanted, form, kernels.inference.evidence.KL, total.value)
    return Decomposition(evidence, bound, divergence)
