"""The log evidence by quadrature, and its decomposition into ELBO and KL divergence.

For models of up to two latent dimensions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.threads import interruptible
from ..common.values import Array
from ..distributions.integrals import Estimate, tolerance, widened
from ..distributions.variational import TruncatedGaussian, Variational
from .expectations import elbo_estimate, latent_gaussian
from .faults import error_of
from .gaps import mass_of_gaps
from .kernel_calls import QUADRATURE_DIM, fault_point, has_model, workspace
from .model import Model, checked_model, target_of
from .modes import modes_of
from .saturation import elbo_error, evidence_error
from .starts import far_start

#: p and q are integrated on q's lattice, unless p is more than 20 times wider than q, or its centre more than
#: 20 of q's standard deviations away.
_WIDE = 20.0

_IMPROPER = "the joint does not fall off towards the ends of the axes: the posterior is improper"
_TOO_HEAVY = (
    "the tails are too heavy for the lattice, or curved, or a mode is where floats end: "
    "the log evidence is not known"
)
_NOWHERE = "the log joint is -inf wherever it was evaluated"


def _integral(
    model: Model, mean: Array, factor: Array, rtol: float, q: Any, integrand: int, total: float
) -> Estimate:
    """One of the integrals of `kernels.inference.evidence`, on a lattice in the coordinates (mean, factor).

    `q` is the tuple that the kernel takes; `total` is the log evidence, for the integrands that need it.
    """
    space = workspace("evidence", mean.size, model.dim)
    status, value, error, nodes = kernels.inference.entry_points.evidence(
        target_of(model), mean, factor, rtol, q, integrand, total, space
    )
    if status:
        raise error_of(model, status, fault_point("evidence", space))
    note = model._note if integrand == kernels.inference.evidence.JOINT else ""
    if error == math.inf or value != value:
        error = math.inf
        note = _IMPROPER
        if integrand == kernels.inference.evidence.JOINT:
            value = math.inf
    elif value == -math.inf:
        note = _NOWHERE
    return Estimate(value, error, nodes, "quadrature", note=note)


def _evidence(model: Model, start: Any, rtol: float) -> tuple[Estimate, Array, Array]:
    """The log evidence, and the mean and the factor of Laplace's approximations to all modes.

    Without a start, from far away where the density is much higher, if it is not known from the origin.
    """
    found = _evidence_from(model, start, rtol)
    if start is None and not found[0].error < math.inf:
        far, _ = far_start(model)
        return found if far is None else _evidence_from(model, model._support.to_model(far[None])[0][0], rtol)
    return found


def _evidence_from(model: Model, start: Any, rtol: float) -> tuple[Estimate, Array, Array]:
    """The same from a start."""
    modes, heights = modes_of(model, start)
    first, space = modes[0], workspace("evidence", modes[0].mean.size, model.dim)
    found = tuple(np.array(parts) for parts in zip(*modes, strict=True))
    mean, factor = np.empty_like(first.mean), np.empty_like(first.factor)
    status, value, error, nodes = kernels.inference.entry_points.log_evidence(
        target_of(model), found, rtol, mean, factor, space
    )
    if status:
        raise error_of(model, status, fault_point("evidence", space))
    note = model._note
    if value == math.inf:
        note = _IMPROPER
    elif value != value:
        note = _TOO_HEAVY
    elif error == math.inf:
        note = "a mode is too narrow beside another one for the lattice: the log evidence is not known"
    elif value == -math.inf:
        note = _NOWHERE
    share = evidence_error(model, first.mean, value)
    share += mass_of_gaps(model, first.mean, first.factor, heights, value)
    estimate = Estimate(value, error, nodes, "quadrature", note=note)
    return widened(estimate, kernels.inference.evidence.error_of_share(share)), mean, factor


def _check_dimension(model: Model, what: str) -> None:
    if model.latent_dim > QUADRATURE_DIM:
        raise ValueError(
            f"{what} takes quadrature, in up to {QUADRATURE_DIM} latent dimensions; "
            f"the model has {model.latent_dim}"
        )


@interruptible(has_model)
def log_evidence(model: Model, start: Any = None, *, rtol: float = 1e-10) -> Estimate:
    r"""The log evidence of a model, by quadrature.

    .. math:: \log p(x) = \log \int p(x, z) \, dz

    Parameters
    ----------
    model : Model
        In up to two latent dimensions.
    start : array_like (D,) or Gaussian, optional
        Where the search for the posterior starts, as in `fit`.
    rtol : float, optional
        Error wanted, relative to 1 + abs(log evidence).

    Returns
    -------
    Estimate
        In nats. For an improper posterior the value and the error are inf; where tails are too heavy for the
        lattice, or along a curve, or a mode is where floats end, the value is NaN and the error inf. `note`
        says so.

    Raises
    ------
    TypeError
        A model that is not a Model.
    ValueError
        More than two latent dimensions; a log joint that is NaN or +inf, or that raises: the message has the
        z.

    Notes
    -----
    The trapezoid rule in t, where ζ = m + L sinh t are the latent coordinates and (m, L) is Laplace's
    approximation. Several modes divide the joint among them by the densities of their approximations, and
    each part has a lattice of its own; where the tails of a narrow one are not Gaussian, one lattice in the
    mean and the factor of all takes its place, or one around the narrowest or the first.

    Modes are searched from `start`, from points 4, 16 and 64 deviations from the mode found there, from
    points around the origin of the latent coordinates, and from the mode's mirror images; then from those of
    7,000 points on the line and of 9,000 in the plane, up to 4,000 deviations from the first mode, where the
    joint is higher than the modes found so far say. A mode that none of these lead to is missed, and no error
    shows it: the joint is zero then, to rounding, on the way to it, and the mode lies between those points.
    Of 1,600 mixtures on [-6, 6] with widths from 0.01 to 2 that was none, with widths from 0.0003 one in 30;
    in the plane none of 300 with widths from 0.1, and one in 30 with widths from 0.01.

    The error has the mass that gaps of zero density may take, by the same points (in the plane those within
    three deviations), and what is lost where floats do not tell z from a bound of its support.
    Where a mode that was found is too narrow beside another one, the error is inf. In compiled code the
    result is the same; there is no `start`.

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
    _check_dimension(checked_model(model), "log_evidence")
    wanted = tolerance(rtol)
    return _evidence(model, start, wanted)[0]


class Decomposition(NamedTuple):
    """log p(x) = ELBO + KL(q ‖ p(z | x)), each of the three integrated independently.

    Attributes
    ----------
    log_evidence, elbo, kl : Estimate
        In nats.
    """

    log_evidence: Estimate
    elbo: Estimate
    kl: Estimate

    @property
    def residual(self) -> float:
        """log evidence - ELBO - KL; 0 up to the three errors, and where ELBO = -inf and KL = inf."""
        if self.elbo.value == -math.inf and self.kl.value == math.inf:
            return 0.0
        return self.log_evidence.value - self.elbo.value - self.kl.value

    @property
    def error(self) -> float:
        """A bound of the absolute residual: the sum of the three errors."""
        return self.log_evidence.error + self.elbo.error + self.kl.error


@interruptible(has_model)
def decompose(model: Model, q: Variational, *, rtol: float = 1e-10) -> Decomposition:
    r"""The log evidence, the ELBO of q and its divergence from the posterior, independently of each other.

    .. math:: \log p(x) = \mathrm{ELBO}(q) + \mathrm{KL}(q \,\|\, p(z \mid x))

    Parameters
    ----------
    model : Model
        In up to two latent dimensions.
    q : Gaussian, TransformedGaussian or TruncatedGaussian
    rtol : float, optional
        Error wanted of each, relative to 1 + abs(value).

    Returns
    -------
    Decomposition
        (log_evidence, elbo, kl), with the `residual` of the identity and its bound `error`. The evidence is
        integrated in the coordinates of Laplace's approximation. The divergence is the integral of
        q log(q/p) - q + p >= 0 in q's coordinates, with p normalised by its integral on the same lattice;
        where p is over 20 times wider than q it is E_q[log q - log p(x, z)] + log p(x).

    Raises
    ------
    TypeError, ValueError
        As in `elbo` and `log_evidence`; a TruncatedGaussian for a model on the whole line.

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
    _check_dimension(checked_model(model), "decompose")
    wanted = tolerance(rtol)
    gaussian = latent_gaussian(model, q)
    bound = elbo_estimate(model, q, wanted)
    evidence, mean, factor = _evidence(model, None, wanted)
    if bound.value == -math.inf:
        return Decomposition(evidence, bound, Estimate(math.inf, 0.0, 0, "closed form", note=bound.note))
    if not evidence.error < math.inf:
        unknown = math.nan if math.isnan(evidence.value) else math.inf
        return Decomposition(
            evidence, bound, Estimate(unknown, math.inf, 0, "quadrature", note=evidence.note)
        )
    if gaussian is None:
        if model._support.is_real:
            # The trapezoid rule is inaccurate on the jump of a truncated density between two nodes.
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
        # A lattice in q's coordinates must cover p. Where p is much wider, integrate under q alone.
        reach = float(np.abs(np.linalg.solve(gaussian._factor, factor)).max())
        shift = float(np.abs(np.linalg.solve(gaussian._factor, mean - gaussian._mean)).max())
        form = (kernels.inference.evidence.GAUSSIAN, gaussian._mean, gaussian._factor, np.zeros(2), 0.0)
        mean, factor = gaussian._mean, gaussian._factor
        if max(reach, shift) > _WIDE:
            divergence = _divergence(model, mean, factor, wanted, form, evidence)
            divergence = _saturated(model, gaussian, divergence, evidence)
            return _consistent(Decomposition(evidence, bound, divergence))
    total = _integral(model, mean, factor, wanted, form, kernels.inference.evidence.JOINT, 0.0)
    if gaussian is not None and abs(total.value - evidence.value) > total.error + evidence.error:
        # p has mass that the lattice on q has no nodes for.
        divergence = _divergence(model, mean, factor, wanted, form, evidence)
    else:
        divergence = _integral(model, mean, factor, wanted, form, kernels.inference.evidence.KL, total.value)
    divergence = _saturated(model, gaussian, divergence, evidence)
    return _consistent(Decomposition(evidence, bound, divergence))


def _saturated(model: Model, q: Any, divergence: Estimate, evidence: Estimate) -> Estimate:
    """A divergence with the error from where floats do not tell z from a bound: of q's mass and of p's."""
    if q is None:
        return divergence
    lost = elbo_error(model, q._mean, q._factor) + evidence_error(model, q._mean, evidence.value)
    return widened(divergence, lost)


def _divergence(
    model: Model, mean: Array, factor: Array, rtol: float, q: Any, evidence: Estimate
) -> Estimate:
    """E_q[log q - log p(x, z)] + log p(x)."""
    found = _integral(model, mean, factor, rtol, q, kernels.inference.evidence.KL_OF_Q, evidence.value)
    return Estimate(found.value, found.error + evidence.error, found.evaluations, note=found.note)


def _consistent(parts: Decomposition) -> Decomposition:
    """The same parts; where they contradict each other, none with an error below their contradiction."""
    if not abs(parts.residual) > 2.0 * parts.error:
        return parts
    note = f"log evidence - ELBO - KL is {parts.residual:.2g}: at least one of them is wrong by so much"
    return Decomposition(
        *(
            Estimate(e.value, max(e.error, abs(parts.residual)), e.evaluations, e.method, note=note)
            for e in parts
        )
    )
