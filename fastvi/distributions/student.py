"""Multivariate t distributions: the q of a fit whose tails are heavier than a Gaussian's."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..common.immutable import frozen, shown
from ..common.validation import generator, integer, mean_and_factor, real_number
from ..common.values import Array, as_points, hashable, in_shape, tidy
from .density import Density

#: Half of the degrees of freedom from which differences of digamma are those of its asymptotic series, whose
#: next term is below 1e-14 of them.
_MANY = 1e3

#: Degrees of freedom below which the second moment is large or infinite.
_HEAVY = 3.0


def radii(df: float, near: float, far: float, low: Array, high: Array) -> Array:
    """Quantiles of r with b = r² / (df + r²) of Beta(near, far): probabilities `low`, `high` = 1 - low.

    With dim / 2 and df / 2 r is the length of a standard t vector. In the upper half 1 - b has the digits.
    """
    from scipy.special import betaincinv

    lower = low < high
    b = betaincinv(near, far, np.where(lower, low, 0.5))
    c = betaincinv(far, near, np.where(lower, 0.5, high))
    found: Array = np.sqrt(df * np.where(lower, b / (1.0 - b), (1.0 - c) / c))
    return found


class FarRadii(NamedTuple):
    """Lengths r of draws that are farther out than those of a t vector, by r² / (df + r²)^(1 - s), to weigh.

    With s = 1 the weight is E[r²] / r², for df = 3 and more; with less the tails have a third of the df.
    """

    df: float
    dim: int

    @property
    def _share(self) -> float:
        return 1.0 if self.df >= _HEAVY else self.df / _HEAVY

    def at(self, low: Array, high: Array) -> Array:
        """Quantiles, see `radii`."""
        return radii(self.df, 0.5 * self.dim + 1.0, 0.5 * self.df - self._share, low, high)

    def weights(self, lengths: Array) -> Array:
        """Density of t vectors over that of these, at lengths."""
        from scipy.special import betaln

        near, far, s = 0.5 * self.dim, 0.5 * self.df, self._share
        rest = self.df / (self.df + lengths * lengths)
        constant = math.exp(float(betaln(near + 1.0, far - s) - betaln(near, far)))
        found: Array = constant * rest**s / (1.0 - rest)
        return found


def log_constant(df: float, dim: int) -> float:
    """Logarithm of the density at the location, for the unit scale."""
    from scipy.special import betaln, gammaln

    return float(gammaln(0.5 * dim) - betaln(0.5 * df, 0.5 * dim)) - 0.5 * dim * math.log(df * math.pi)


def standard_entropy(df: float, dim: int) -> float:
    """The entropy for the unit scale."""
    return 0.5 * (df + dim) * _rise(0.5 * df, 0.5 * dim) - log_constant(df, dim)


def slope_of_entropy(df: float, dim: int) -> float:
    """The derivative of `standard_entropy` by the logarithm of the degrees of freedom."""
    from scipy.special import polygamma

    one, two = polygamma(1, 0.5 * (df + dim)), polygamma(1, 0.5 * df)
    return 0.5 * dim + 0.25 * df * (df + dim) * float(one - two)


def _rise(x: float, h: float) -> float:
    """digamma(x + h) - digamma(x)."""
    from scipy.special import digamma

    if x < _MANY:
        return float(digamma(x + h) - digamma(x))
    y = x + h
    return math.log1p(h / x) + 0.5 * (1.0 / x - 1.0 / y) + (1.0 / x**2 - 1.0 / y**2) / 12.0


class StudentT(Density):
    r"""A multivariate t distribution.

    .. math:: q(z) = \frac{\Gamma(\frac{\nu + D}{2})}{\Gamma(\frac{\nu}{2}) (\nu \pi)^{D/2} |S|^{1/2}}
              \left(1 + \frac{(z - m)^T S^{-1} (z - m)}{\nu}\right)^{-(\nu + D)/2}

    Parameters
    ----------
    location : array_like, shape (D,)
        A number for D = 1.
    scale : array_like, shape (D, D)
        Symmetric (to rounding of its type) and positive definite; the covariance is ν / (ν - 2) times it. A
        number, the square of the scale, for D = 1.
    df : float
        The degrees of freedom ν, positive and finite.

    Raises
    ------
    ValueError
        Shapes that do not fit, entries that are not finite, a `scale` that is not symmetric or not positive
        definite, a `df` that is not positive and finite.

    References
    ----------
    S. Kotz, S. Nadarajah, Multivariate t Distributions and Their Applications (2004), eq. 1.1; the entropy:
    section 1.10.

    Examples
    --------
    >>> import fastvi as fv
    >>> q = fv.StudentT([0, 1], [[2, 0.5], [0.5, 1]], 4)
    >>> q
    StudentT(location=[0, 1], scale=[[2, 0.5], [0.5, 1]], df=4)
    >>> q.cov
    array([[4., 1.],
           [1., 2.]])
    >>> round(fv.StudentT(0, 1, 1).logpdf(0.0), 12)           # Cauchy: -log pi
    -1.144729885849
    """

    __slots__ = ("_factor", "_mean", "_scale", "df")
    df: float
    _mean: Array  #: the location
    _factor: Array  #: the Cholesky factor of the scale
    _scale: Array

    def __init__(self, location: ArrayLike, scale: ArrayLike, df: float) -> None:
        where, spread, factor = mean_and_factor(location, scale, "location", "scale")
        freedom = real_number("df", df)
        if not 0.0 < freedom < math.inf:
            raise ValueError(f"df must be positive and finite, not {df!r}")
        self._set(where, factor, 0.5 * (spread + spread.T), freedom)

    def _set(self, location: Array, factor: Array, scale: Array, df: float) -> None:
        for name, value in (("_mean", location), ("_factor", factor), ("_scale", frozen(scale)), ("df", df)):
            object.__setattr__(self, name, value)

    @classmethod
    def _from_factor(cls, location: Array, factor: Array, df: float) -> StudentT:
        """One that a fit has made; nothing is checked."""
        self = cls.__new__(cls)
        self._set(location, factor, factor @ factor.T, df)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (np.array(self._mean), np.array(self._factor), np.array(self._scale), self.df)

    @property
    def dim(self) -> int:
        """The number of dimensions D."""
        return int(self._mean.size)

    @property
    def location(self) -> Array:
        """The location m, shape (D,), read-only."""
        return shown(self._mean)

    @property
    def scale(self) -> Array:
        """The scale matrix S, shape (D, D), read-only."""
        return self._scale

    @property
    def mean(self) -> Array:
        """The mean, shape (D,): the location, or nan where there is none, for ν <= 1."""
        return shown(self._mean) if self.df > 1.0 else frozen(np.full(self.dim, math.nan))

    @property
    def cov(self) -> Array:
        """The covariance, shape (D, D): for ν <= 2 variances of inf, for ν <= 1 nan; nan beside them."""
        if self.df > 2.0:
            return frozen(self._scale * (self.df / (self.df - 2.0)))
        found = np.full((self.dim, self.dim), math.nan)
        if self.df > 1.0:
            np.fill_diagonal(found, math.inf)
        return frozen(found)

    def logpdf(self, z: ArrayLike) -> Any:
        """Logarithm of the density at `z`, shape (..., D): a float for one point, else an array (...)."""
        points, shape = as_points(z, self.dim)
        whitened = np.linalg.solve(self._factor, (points - self._mean).T)
        bend = np.log1p((whitened * whitened).sum(axis=0) / self.df)
        constant = log_constant(self.df, self.dim) - np.log(self._factor.diagonal()).sum()
        return in_shape(constant - 0.5 * (self.df + self.dim) * bend, shape)

    def entropy(self) -> float:
        r"""The differential entropy in nats.

        .. math:: \log \frac{\Gamma(\frac{\nu}{2}) (\nu \pi)^{D/2} |S|^{1/2}}{\Gamma(\frac{\nu + D}{2})}
                  + \frac{\nu + D}{2} \left[\psi(\tfrac{\nu + D}{2}) - \psi(\tfrac{\nu}{2})\right]
        """
        return standard_entropy(self.df, self.dim) + float(np.log(self._factor.diagonal()).sum())

    def sample(self, n: int, rng: Any = None) -> Array:
        """`n` draws, shape (n, D), from `rng`: a Generator, which is advanced, an integer, or None."""
        source, count = generator("rng", rng), integer("n", n, 0)
        noise = source.standard_normal((count, self.dim))
        share = source.chisquare(self.df, count) / self.df
        draws: Array = self._mean + (noise / np.sqrt(share)[:, None]) @ self._factor.T
        return draws

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StudentT):
            return NotImplemented
        same = np.array_equal(self._mean, other._mean) and np.array_equal(self._scale, other._scale)
        return same and self.df == other.df

    def __hash__(self) -> int:
        return hash((hashable(self._mean), hashable(self._scale), self.df))

    def __repr__(self) -> str:
        return f"StudentT(location={tidy(self._mean)}, scale={tidy(self._scale)}, df={tidy(self.df)})"


def _restored(*fields: Any) -> StudentT:
    self = StudentT.__new__(StudentT)
    self._set(*fields)
    return self
