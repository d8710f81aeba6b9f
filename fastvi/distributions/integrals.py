"""Estimates with errors: quadrature and quasi-Monte Carlo under Gaussian mixtures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common import scratch
from ..common.validation import real_number
from ..common.values import Array, Triple

#: Dimensions up to which mixtures are integrated by quadrature.
QUADRATURE_DIM = 3

#: Scrambled Sobol point sets, and points in each: their spread gives the standard error.
_REPLICATES = 16
_POINTS = 4096


@dataclass(frozen=True)
class Estimate:
    """A number with its error.

    Attributes
    ----------
    value : float
        The estimate, in nats.
    error : float
        A bound of the absolute error; for quasi-Monte Carlo, the standard error.
    evaluations : int
        Points at which the integrand was evaluated.
    method : str
        "closed form", "quadrature", "grid sum" or "quasi-Monte Carlo (standard error)".
    outside : float
        For grids: the mass of the other distribution that lies outside of the grid.
    note : str
        For infinite values: why, and what helps.

    Examples
    --------
    >>> import fastvi as fv
    >>> e = fv.kl_estimate(fv.Gaussian(0, 1), fv.Gaussian(1, 1))
    >>> float(e), e.method
    (0.5, 'closed form')
    """

    value: float
    error: float
    evaluations: int
    method: str = "quadrature"
    outside: float = 0.0
    note: str = ""

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        text = f"Estimate({self.value:.12g} ± {self.error:.2g}, {self.method}, {self.evaluations} evaluations"
        text += f", {self.outside:.3g} outside the grid)" if self.outside > 0.0 else ")"
        return f"{text}: {self.note}" if self.note else text


class Bounds(NamedTuple):
    """A value lies between these two."""

    lower: float
    upper: float


def _workspace(components_p: int, components_q: int, dim: int) -> Any:
    """This thread's scratch space for mixtures of that size."""
    most = max(components_p, components_q)
    return scratch.space(kernels.quadrature.mixture_kl.workspace, most, most, dim)


def kl_quadrature(p: Triple, q: Triple, rtol: float) -> tuple[float, float, int, bool]:
    (_, means_p, _), (_, means_q, _) = p, q
    space = _workspace(len(means_p), len(means_q), means_p.shape[1])
    return kernels.quadrature.mixture_kl.mixture_kl(p, q, rtol, space)  # type: ignore[no-any-return]


def rounding_of_factors(scale: float, *distributions: Any) -> float:
    """What the rounding of ill-conditioned Cholesky factors does to a divergence of this size."""
    return 2.2e-16 * scale * float(max(g._condition for g in distributions))


def within_bounds(bounds: Bounds, value: float) -> tuple[float, float]:
    """A value that is known to be between bounds, and no better: with its error."""
    inside = min(max(value, bounds.lower), bounds.upper)
    return inside, max(bounds.upper - inside, inside - bounds.lower)


def _normal_points(replicate: int, dim: int, count: int) -> tuple[Array, Array]:
    """Scrambled Sobol points: (one uniform number, a standard normal vector) for each."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    points = qmc.Sobol(dim + 1, rng=np.random.default_rng(replicate)).random(count)
    points = np.clip(points, 2.0**-53, 1.0 - 2.0**-53)
    return points[:, 0], ndtri(points[:, 1:])


def quasi_monte_carlo(p: Any, q: Any | None) -> Estimate:
    """E_p[log p - log q], or -E_p[log p], in any dimension."""
    weights, means, factors = p._triple()
    edges = np.cumsum(np.exp(weights))
    values = np.empty(_REPLICATES)
    for r in range(_REPLICATES):
        uniform, normal = _normal_points(r, p.dim, _POINTS)
        which = np.minimum(np.searchsorted(edges, uniform, side="right"), weights.size - 1)
        z = means[which] + np.einsum("nij,nj->ni", factors[which], normal)
        difference = p.logpdf(z) - q.logpdf(z) if q is not None else -p.logpdf(z)
        values[r] = difference.mean()
    error = float(values.std(ddof=1) / math.sqrt(_REPLICATES))
    value = float(values.mean())
    return Estimate(
        max(value, 0.0) if q is not None else value,
        error,
        _REPLICATES * _POINTS,
        "quasi-Monte Carlo (standard error)",
    )


def tolerance(rtol: Any) -> float:
    """A relative tolerance."""
    value = real_number("rtol", rtol)
    if not 1e-14 <= value < 1.0:
        raise ValueError(f"rtol must be from 1e-14 to 1, not {rtol!r}")
    return value
