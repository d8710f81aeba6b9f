"""Variational distributions on a support: Gaussians in latent coordinates, and truncated Gaussians.

The fits of a model whose support is not the whole line return them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from .. import kernels
from ..common.immutable import frozen
from ..common.validation import generator, integer, real_number
from ..common.values import Array, as_points, in_shape, tidy
from ..kernels.densities.gaussians import LOG_2PI
from .density import Density
from .gaussian import Gaussian
from .mixture import GaussianMixture
from .moments import closed_moments, marginal_moments
from .student import StudentT
from .support import Support, declaration_of

#: Lattice for moments in up to two dimensions: its reach and step in standard deviations along each axis.
_LATTICE_DIM, _REACH, _STEP = 2, 8.5, 0.125

#: Draws for moments in more dimensions, in pairs +e, -e, and the pieces that are made one after another.
_DRAWS, _PIECES = 100_000, 25


class _Transformed(Density):
    """A distribution of latent coordinates, on the support of a model."""

    __slots__ = ("_latent", "_moments", "_support")
    _latent: Any
    _support: Support
    _moments: Any

    def _check_and_set(self, name: str, kind: Any, latent: Any, support: Any, dim: int) -> None:
        where = Support(support, dim)
        if not isinstance(latent, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, not {type(latent).__name__}")
        if latent.dim != where.latent_dim:
            raise ValueError(
                f"{name} has dimension {latent.dim}, the support has {where.latent_dim} latent coordinates"
            )
        self._set(latent, where)

    def _set(self, latent: Any, where: Support) -> None:
        object.__setattr__(self, "_latent", latent)
        object.__setattr__(self, "_support", where)
        object.__setattr__(self, "_moments", None)

    @classmethod
    def _of(cls, latent: Any, where: Support) -> Self:
        self = cls.__new__(cls)
        self._set(latent, where)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._latent, self.support, self.dim)

    @property
    def support(self) -> Any:
        """The support of z, as it was declared."""
        return self._support.declared

    @property
    def dim(self) -> int:
        """The number of coordinates of z."""
        return self._support.dim

    def sample(self, n: int, rng: Any = None) -> Array:
        """`n` draws of z, shape (n, D), from `rng`: a Generator, which is advanced, an integer, or None."""
        return self._support.to_model(self._latent.sample(n, rng))[0]

    def logpdf(self, z: ArrayLike) -> Any:
        """Logarithm of the density at `z`, shape (..., D): -inf outside of the support."""
        points, shape = as_points(z, self.dim)
        values = np.empty(len(points))
        for n, point in enumerate(points):
            try:
                latent = self._support.to_latent("z", point[None])
            except ValueError:
                values[n] = -math.inf
                continue
            values[n] = self._latent.logpdf(latent[0]) - self._support.to_model(latent)[1][0]
        return in_shape(values, shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._latent!r}, support={self.support!r})"


class TransformedGaussian(_Transformed):
    r"""A Gaussian in latent coordinates, as a distribution on the support of a model.

    .. math:: q(z) = N(\zeta(z) \mid \mu, \Sigma) \, |\partial \zeta / \partial z|

    Parameters
    ----------
    gaussian : Gaussian
        In the latent coordinates ζ: the logarithms of positive coordinates, the logits of those in an
        interval, and so on.
    support : str, tuple or list
        As in `Model`.
    dim : int
        Number of coordinates of z.

    Raises
    ------
    ValueError
        An unknown support, or a Gaussian of another dimension than its latent coordinates.
    TypeError
        A `gaussian` of another kind.

    References
    ----------
    A. Kucukelbir et al., Automatic Differentiation Variational Inference, JMLR 18 (2017), section 2.3.

    Examples
    --------
    >>> import fastvi as fv
    >>> q = fv.TransformedGaussian(fv.Gaussian(0.0, 0.25), "positive", 1)
    >>> q.mean, q.cov                                # of a log-normal: exp(1/8)
    (array([1.13314845]), array([[0.36469585]]))
    """

    __slots__ = ()

    def __init__(self, gaussian: Gaussian, support: Any, dim: int) -> None:
        self._check_and_set("gaussian", Gaussian, gaussian, support, dim)

    @property
    def gaussian(self) -> Gaussian:
        """The Gaussian in latent coordinates."""
        return self._latent  # type: ignore[no-any-return]

    @classmethod
    def _from_kinds(cls, mean: Array, factor: Array, kinds: Any, bounds: Array) -> TransformedGaussian:
        """A TransformedGaussian that compiled code has made; nothing is checked."""
        return cls._of(Gaussian._from_factor(mean, factor), Support(*declaration_of(kinds, bounds)))

    def _nodes(self) -> Iterator[tuple[Array, Array]]:
        """(standard normal points (N, R), weights) in pieces; the weights sum to one: a lattice, or draws."""
        r = self.gaussian.dim
        if r > _LATTICE_DIM:
            rng = np.random.default_rng(0)
            for _ in range(_PIECES):
                noise = rng.standard_normal((_DRAWS // 2 // _PIECES, r))
                yield np.concatenate([noise, -noise]), np.full(2 * len(noise), 1.0 / _DRAWS)
            return
        t = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
        lattice = np.stack(np.meshgrid(*([t] * r), indexing="ij"), axis=-1).reshape(-1, r)
        weights = np.exp(-0.5 * (lattice**2).sum(axis=1))
        yield lattice, weights / weights.sum()

    def _integrated(self) -> tuple[Array, Array, float]:
        """(mean, covariance, mean log-Jacobian) from the nodes."""
        centre = self._support.to_model(self.gaussian.mean[None])[0][0]
        first, second, total = np.zeros(self.dim), np.zeros((self.dim, self.dim)), 0.0
        for noise, weights in self._nodes():
            z, log_jacobian = self._support.to_model(self.gaussian.mean + self.gaussian._spread(noise))
            z -= centre
            weighted = z * weights[:, None]
            first += weighted.sum(axis=0)
            second += z.T @ weighted
            total += float(weights @ log_jacobian)
        return centre + first, second - np.outer(first, first), total

    def _computed(self) -> tuple[Array, Array, float]:
        """(mean, covariance, entropy), computed at the first access."""
        if self._moments is None:
            closed = closed_moments(self.gaussian, self._support)
            mean, cov, log_jacobian = closed.mean, closed.cov, closed.log_jacobian
            if closed.places.size < self.gaussian.dim:
                mean, cov, log_jacobian = self._integrated()
                # With the correlations of the nodes the covariance stays one.
                mean[closed.places] = closed.mean
                known, exact = np.sqrt(np.diag(cov))[closed.places], np.sqrt(np.diag(closed.cov))
                factors = np.ones(self.dim)
                factors[closed.places] = exact / np.where(known > 0.0, known, 1.0)
                cov *= factors * factors[:, None]
            entropy = self.gaussian.entropy() + log_jacobian
            object.__setattr__(self, "_moments", (frozen(mean), frozen(cov), entropy))
        return self._moments  # type: ignore[no-any-return]

    def _marginals(self) -> tuple[Array, Array] | None:
        """(mean, standard deviations) of a q in so many dimensions that its covariance is left aside."""
        return None if self.gaussian._thin is None else marginal_moments(self.gaussian, self._support)

    @property
    def _deviations(self) -> Array:
        """The standard deviation of each coordinate."""
        found = self._marginals()
        return np.sqrt(np.diag(self.cov)) if found is None else found[1]

    @property
    def mean(self) -> Array:
        """E[z], shape (D,): exact for real, ordered and positive coordinates and those with one bound.

        Else by quadrature in up to two latent coordinates, and from 100,000 draws in more.
        """
        found = self._marginals()
        return self._computed()[0] if found is None else frozen(found[0])

    @property
    def cov(self) -> Array:
        """The covariance of z, shape (D, D), computed like the mean.

        Beside coordinates that are not exact, the correlations are those of the draws.
        """
        return self._computed()[1]

    def entropy(self) -> float:
        """The differential entropy in nats, computed like the mean."""
        return self._computed()[2]


class TransformedMixture(_Transformed):
    r"""A mixture of Gaussians in latent coordinates, as a distribution on the support of a model.

    .. math:: q(z) = \sum_k w_k \, N(\zeta(z) \mid \mu_k, \Sigma_k) \, |\partial \zeta / \partial z|

    Parameters
    ----------
    mixture : GaussianMixture
        In the latent coordinates ζ, see `TransformedGaussian`.
    support : str, tuple or list
        As in `Model`.
    dim : int
        Number of coordinates of z.

    Raises
    ------
    ValueError
        An unknown support, or a mixture of another dimension than its latent coordinates.
    TypeError
        A `mixture` of another kind.

    Examples
    --------
    >>> import fastvi as fv
    >>> q = fv.TransformedMixture(fv.GaussianMixture([0.5, 0.5], [0, 1], [0.25, 0.25]), "positive", 1)
    >>> q.mean.round(6)                              # of log-normals: exp(1/8) (1 + e) / 2
    array([2.106683])
    """

    __slots__ = ()

    def __init__(self, mixture: GaussianMixture, support: Any, dim: int) -> None:
        self._check_and_set("mixture", GaussianMixture, mixture, support, dim)

    @property
    def mixture(self) -> GaussianMixture:
        """The mixture in latent coordinates."""
        return self._latent  # type: ignore[no-any-return]

    @property
    def weights(self) -> Array:
        """The weights, shape (K,), read-only."""
        return self.mixture.weights

    @property
    def components(self) -> tuple[TransformedGaussian, ...]:
        """The components, without their weights."""
        return tuple(TransformedGaussian._of(g, self._support) for g in self.mixture.components)

    def _computed(self) -> tuple[Array, Array, float]:
        """(mean, covariance, mean log-Jacobian), computed at the first access."""
        if self._moments is None:
            parts, weights = self.components, self.weights
            means = np.array([part.mean for part in parts])
            mean = weights @ means
            apart = means - mean
            cov = np.einsum("k,kij->ij", weights, np.array([part.cov for part in parts]))
            cov += (weights[:, None] * apart).T @ apart
            log_jacobian = float(weights @ [part.entropy() - part.gaussian.entropy() for part in parts])
            object.__setattr__(self, "_moments", (frozen(mean), frozen(cov), log_jacobian))
        return self._moments  # type: ignore[no-any-return]

    @property
    def mean(self) -> Array:
        """E[z], shape (D,): of the components' means, see `TransformedGaussian`."""
        return self._computed()[0]

    @property
    def cov(self) -> Array:
        """The covariance of z, shape (D, D), of the components' means and covariances."""
        return self._computed()[1]

    def entropy(self) -> float:
        """The differential entropy in nats: that of the mixture and the mean log-Jacobian."""
        return self.mixture.entropy() + self._computed()[2]


class TruncatedGaussian(Density):
    r"""A Gaussian in one dimension, truncated to an interval.

    .. math:: q(z) = \frac{N(z \mid \mu, \sigma^2)}{\Phi(\frac{b-\mu}{\sigma}) - \Phi(\frac{a-\mu}{\sigma})},
              \quad a \le z \le b

    Parameters
    ----------
    mu, sigma : float
        Mean and standard deviation of the Gaussian before truncation.
    low, high : float
        The ends of the interval, which may be infinite.

    Raises
    ------
    ValueError
        A `mu` that is not finite, a `sigma` that is not positive and finite, an empty interval.

    References
    ----------
    N. L. Johnson, S. Kotz, N. Balakrishnan, Continuous Univariate Distributions 1 (1994), section 13.10.1.

    Examples
    --------
    >>> import fastvi as fv
    >>> q = fv.TruncatedGaussian(0.0, 1.0, 0.0)      # half normal
    >>> q.mean, q.cov
    (array([0.79788456]), array([[0.36338023]]))
    """

    __slots__ = ("_log_mass", "_numbers", "high", "low", "mu", "sigma")
    mu: float
    sigma: float
    low: float
    high: float
    _log_mass: float
    _numbers: Array

    def __init__(self, mu: float, sigma: float, low: float = -math.inf, high: float = math.inf) -> None:
        m, s = real_number("mu", mu), real_number("sigma", sigma)
        a, b = real_number("low", low), real_number("high", high)
        if not math.isfinite(m):
            raise ValueError(f"mu is {m!r}: it must be finite")
        if not 0.0 < s < math.inf:
            raise ValueError(f"sigma must be positive and finite, not {sigma!r}")
        if not a < b:
            raise ValueError(f"low must be below high, not {low!r} and {high!r}")
        self._set(m, s, a, b)

    def _set(self, mu: float, sigma: float, low: float, high: float) -> None:
        for name, value in (("mu", mu), ("sigma", sigma), ("low", low), ("high", high)):
            object.__setattr__(self, name, value)
        numbers = np.empty(3)
        mass = kernels.inference.entry_points.truncated_moments(mu, sigma, low, high, numbers)
        object.__setattr__(self, "_log_mass", mass)
        object.__setattr__(self, "_numbers", numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.mu, self.sigma, self.low, self.high)

    @property
    def dim(self) -> int:
        """One."""
        return 1

    @property
    def mean(self) -> Array:
        """E[z], shape (1,)."""
        return frozen(self._numbers[:1].copy())

    @property
    def cov(self) -> Array:
        """The variance of z, shape (1, 1)."""
        return frozen(self._numbers[1:2].reshape(1, 1).copy())

    def entropy(self) -> float:
        """The differential entropy in nats."""
        spread = 0.5 * float(self._numbers[2])
        return float(spread + 0.5 * LOG_2PI + math.log(self.sigma) + self._log_mass)

    def logpdf(self, z: ArrayLike) -> Any:
        """Logarithm of the density at `z`, shape (..., 1): -inf outside of the interval."""
        points, shape = as_points(z, 1)
        x = points[:, 0]
        values = -0.5 * ((x - self.mu) / self.sigma) ** 2
        values -= 0.5 * LOG_2PI + math.log(self.sigma) + self._log_mass
        return in_shape(np.where((x >= self.low) & (x <= self.high), values, -math.inf), shape)

    def sample(self, n: int, rng: Any = None) -> Array:
        """`n` draws, shape (n, 1), from `rng`: a Generator, which is advanced, an integer, or None."""
        from scipy.special import log_ndtr, ndtri_exp

        a, b = (self.low - self.mu) / self.sigma, (self.high - self.mu) / self.sigma
        flip = a > 0.0
        if flip:
            a, b = -b, -a
        uniform = generator("rng", rng).random(integer("n", n, 0))
        # Inversion of log(Phi(a) + u (Phi(b) - Phi(a))); the flip keeps it accurate in the upper tail.
        top = float(log_ndtr(b))
        share = math.exp(float(log_ndtr(a)) - top)
        z = ndtri_exp(top + np.log(share + uniform * (1.0 - share)))
        z = self.mu + self.sigma * (-z if flip else z)
        inside: Array = np.clip(z, self.low, self.high)[:, None]
        return inside

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TruncatedGaussian):
            return NotImplemented
        return (self.mu, self.sigma, self.low, self.high) == (other.mu, other.sigma, other.low, other.high)

    def __hash__(self) -> int:
        return hash((self.mu, self.sigma, self.low, self.high))

    def __repr__(self) -> str:
        return (
            f"TruncatedGaussian(mu={tidy(self.mu)}, sigma={tidy(self.sigma)}, "
            f"low={tidy(self.low)}, high={tidy(self.high)})"
        )


#: Type of a q that may be that of latent coordinates, and of any.
Latent = Gaussian | GaussianMixture | StudentT
Variational = (
    Gaussian | TransformedGaussian | TruncatedGaussian | GaussianMixture | TransformedMixture | StudentT
)


def latent_of(q: Any) -> Any:
    """The distribution in latent coordinates of a q; a Gaussian, a mixture or a t is one itself."""
    return q._latent if isinstance(q, _Transformed) else q
