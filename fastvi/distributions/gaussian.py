"""Gaussians: checked when they are made, immutable, with the Cholesky factor kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import kernels
from ..common.immutable import frozen, restore, shown
from ..common.validation import generator, integer, mean_and_factor
from ..common.values import Array, Triple, as_points, hashable, in_shape, tidy
from ..kernels.densities.gaussians import LOG_2PI
from . import algebra


def lower_factor(root: Array) -> Array:
    """The Cholesky factor of root root', whose digits are those of the root, not of its square."""
    upper: Any = np.linalg.qr(root.T, "r")
    return np.ascontiguousarray((upper * np.where(np.diag(upper) < 0.0, -1.0, 1.0)[:, None]).T)


def amplification(factors: Array) -> float:
    """Factor by which covariances with these Cholesky factors amplify rounding errors: D max_k ‖C_k⁻¹‖².

    C is the factor of the correlation matrix, and the norm is Frobenius'.
    """
    scaled = factors / np.sqrt((factors**2).sum(axis=-1))[..., None]
    inverse = np.linalg.inv(scaled)
    return float(factors.shape[-1] * (inverse**2).sum(axis=(-1, -2)).max())


class LowRank(NamedTuple):
    """The root S (I + V V') of a covariance, see `kernels.families.low_rank`."""

    factor: Array  #: (1 + R, D) s, and the columns of V

    def spread(self, noise: Array) -> Array:
        """The root times rows of noise."""
        scale, columns = self.factor[0], self.factor[1:]
        moved: Array = scale * (noise + (noise @ columns.T) @ columns)
        return moved

    def deviations(self) -> Array:
        """The root of the covariance's diagonal."""
        scale, columns = self.factor[0], self.factor[1:]
        twice = 2.0 * np.eye(len(columns)) + columns @ columns.T
        return scale * np.sqrt(1.0 + ((twice @ columns) * columns).sum(axis=0))  # type: ignore[no-any-return]

    def conditional_deviations(self) -> Array:
        """Those of each coordinate given the others, of the precision (I + V V')⁻² in units of s."""
        scale, columns = self.factor[0], self.factor[1:]
        square = columns @ columns.T
        answer = np.linalg.solve(np.eye(len(columns)) + square, columns)
        left = 1.0 + ((square @ answer - 2.0 * columns) * answer).sum(axis=0)
        return scale / np.sqrt(np.maximum(left, np.finfo(float).eps))  # type: ignore[no-any-return]

    def half_log_det(self) -> float:
        """Half the logarithm of the covariance's determinant."""
        scale, columns = self.factor[0], self.factor[1:]
        return float(np.log(scale).sum() + np.linalg.slogdet(np.eye(len(columns)) + columns @ columns.T)[1])

    def log_density(self, shifts: Array) -> Array:
        """Of N(0, .) at rows."""
        scale, columns = self.factor[0], self.factor[1:]
        x = shifts / scale
        x = x - np.linalg.solve(np.eye(len(columns)) + columns @ columns.T, columns @ x.T).T @ columns
        constant = self.half_log_det() + 0.5 * scale.size * LOG_2PI
        return -0.5 * (x * x).sum(axis=-1) - constant  # type: ignore[no-any-return]

    def cholesky(self) -> Array:
        """The Cholesky factor of the covariance, (D, D)."""
        scale, columns = self.factor[0], self.factor[1:]
        if len(columns) == 0:
            return np.diag(scale)
        root = np.eye(scale.size) + columns.T @ columns
        return scale[:, None] * np.linalg.cholesky(root @ root)  # type: ignore[no-any-return]


class Gaussian(algebra.Gaussians):
    r"""A Gaussian (multivariate normal) distribution.

    .. math:: \log N(z \mid \mu, \Sigma) = -\tfrac12 (z-\mu)^T \Sigma^{-1} (z-\mu)
              - \tfrac12 \log |2 \pi \Sigma|

    Parameters
    ----------
    mean : array_like, shape (D,)
        A number for D = 1.
    cov : array_like, shape (D, D)
        Symmetric (to rounding of its type) and positive definite. A number (the variance) for D = 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, entries that are not finite, a `cov` that is not symmetric or not positive
        definite.

    References
    ----------
    C. M. Bishop, Pattern Recognition and Machine Learning (2006), eq. 2.43.

    Examples
    --------
    >>> import fastvi as fv
    >>> q = fv.Gaussian([0, 1], [[2, 0.5], [0.5, 1]])
    >>> q
    Gaussian(mean=[0, 1], cov=[[2, 0.5], [0.5, 1]])
    >>> round(q.logpdf([0, 0]), 12)
    -2.689113531806
    """

    __slots__ = ("_cov", "_dense", "_mean", "_thin")
    _mean: Array
    _dense: Array | None  #: the Cholesky factor, where it is known
    _thin: LowRank | None  #: what stands for it in many dimensions
    _cov: Array | None
    _is_mixture = False

    def __init__(self, mean: ArrayLike, cov: ArrayLike) -> None:
        location, spread, factor = mean_and_factor(mean, cov)
        self._set(location, factor, 0.5 * (spread + spread.T))

    def _set(self, mean: Array, factor: Array, cov: Array | None) -> None:
        thin = factor.shape[0] != factor.shape[1]
        object.__setattr__(self, "_mean", mean)
        object.__setattr__(self, "_dense", None if thin else factor)
        object.__setattr__(self, "_thin", LowRank(factor) if thin else None)
        object.__setattr__(self, "_cov", None if cov is None else frozen(cov))

    @property
    def _factor(self) -> Array:
        if self._dense is None:
            assert self._thin is not None
            object.__setattr__(self, "_dense", self._thin.cholesky())
        assert self._dense is not None
        return self._dense

    @classmethod
    def _from_factor(cls, mean: Array, factor: Array) -> Gaussian:
        """A Gaussian that a kernel has made; nothing is checked.

        The factor is a Cholesky factor, or one of `kernels.families.low_rank`.
        """
        self = cls.__new__(cls)
        self._set(mean, factor, None)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        mean = np.array(self._mean)
        if self._thin is not None:
            return restore, (type(self), mean, np.array(self._thin.factor), None)
        return restore, (type(self), mean, np.array(self._factor), np.array(self.cov))

    @property
    def dim(self) -> int:
        """The number of dimensions D."""
        return int(self._mean.size)

    @property
    def mean(self) -> Array:
        """The mean, shape (D,), read-only."""
        return shown(self._mean)

    @property
    def cov(self) -> Array:
        """The covariance, shape (D, D), read-only."""
        if self._cov is None:
            object.__setattr__(self, "_cov", frozen(self._factor @ self._factor.T))
        assert self._cov is not None
        return self._cov

    @property
    def cholesky(self) -> Array:
        """The lower Cholesky factor of the covariance, shape (D, D), read-only."""
        return shown(self._factor)

    def logpdf(self, z: ArrayLike) -> Any:
        """Logarithm of the density at `z`, shape (..., D): a float for one point, else an array (...)."""
        points, shape = as_points(z, self.dim)
        if self._thin is not None:
            return in_shape(self._thin.log_density(points - self._mean), shape)
        weights, means, factors = self._triple()
        out = np.empty(len(points))
        kernels.densities.mixtures.mixture_logpdf_many(
            points, weights, means, factors, np.empty(self.dim), out
        )
        return in_shape(out, shape)

    def entropy(self) -> float:
        r"""The differential entropy, :math:`\tfrac12 \log |2 \pi e \Sigma|`, in nats."""
        thin = self._thin
        volume = np.log(self._factor.diagonal()).sum() if thin is None else thin.half_log_det()
        return float(volume + 0.5 * self.dim * (1.0 + LOG_2PI))

    def sample(self, n: int, rng: Any = None) -> Array:
        """`n` draws, shape (n, D), from `rng`: a Generator, which is advanced, an integer, or None."""
        noise = generator("rng", rng).standard_normal((integer("n", n, 0), self.dim))
        return self._mean + self._spread(noise)

    def _spread(self, noise: Array) -> Array:
        """Standard normal rows as deviations from the mean."""
        return noise @ self._factor.T if self._thin is None else self._thin.spread(noise)

    @property
    def _deviations(self) -> Array:
        """The standard deviation of each coordinate."""
        return np.sqrt(self.cov.diagonal()) if self._thin is None else self._thin.deviations()

    @classmethod
    def from_scipy(cls, frozen_normal: Any) -> Gaussian:
        """The Gaussian of a frozen `scipy.stats.multivariate_normal` or `norm`.

        Parameters
        ----------
        frozen_normal : object
            With attributes `mean` and `cov`, or methods `mean()` and `var()`.

        Returns
        -------
        Gaussian

        Raises
        ------
        TypeError
            An object with neither.

        Examples
        --------
        >>> import fastvi as fv
        >>> from scipy.stats import multivariate_normal, norm
        >>> fv.Gaussian.from_scipy(multivariate_normal([0, 1], [[2, 0], [0, 1]]))
        Gaussian(mean=[0, 1], cov=[[2, 0], [0, 1]])
        >>> fv.Gaussian.from_scipy(norm(1, 2))
        Gaussian(mean=[1], cov=[[4]])
        """
        given = frozen_normal
        family = getattr(getattr(given, "dist", None), "name", "norm")
        if hasattr(given, "cov") and not callable(given.cov) and not callable(given.mean):
            return cls(given.mean, given.cov)
        if (
            family == "norm"
            and callable(getattr(given, "mean", None))
            and callable(getattr(given, "var", None))
        ):
            return cls(given.mean(), given.var())
        raise TypeError(f"from_scipy takes a frozen multivariate_normal or norm, not {given!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, as for JSON: ``Gaussian(**q.to_dict())`` is equal to q."""
        return {"mean": self.mean.tolist(), "cov": self.cov.tolist()}

    def marginal(self, axes: Any) -> Gaussian:
        """The distribution of some coordinates, in the order of `axes`: an integer or several.

        Examples
        --------
        >>> import fastvi as fv
        >>> fv.Gaussian([0, 1], [[2, 0.5], [0.5, 1]]).marginal(1)
        Gaussian(mean=[1], cov=[[1]])
        """
        (mean,), (cov,) = algebra.marginal(self._parts, axes)
        return Gaussian(mean, cov)

    def conditional(self, given: Mapping[int, float]) -> Gaussian:
        """The distribution of the other coordinates, given the values of some: axis to value.

        C. M. Bishop, Pattern Recognition and Machine Learning (2006), eq. 2.96.

        Examples
        --------
        >>> import fastvi as fv
        >>> fv.Gaussian([0, 1], [[2, 0.5], [0.5, 1]]).conditional({1: 3.0})
        Gaussian(mean=[1], cov=[[1.75]])
        """
        _, ((mean,), (cov,)) = algebra.conditional(self._parts, given)
        return Gaussian(mean, cov)

    def affine(self, matrix: ArrayLike, shift: ArrayLike | None = None) -> Gaussian:
        """The distribution of ``matrix @ z + shift``; `matrix`, shape (m, D), has independent rows.

        Examples
        --------
        >>> import fastvi as fv
        >>> fv.Gaussian([0, 1], [[2, 0.5], [0.5, 1]]).affine([[1, 1]], [-1])
        Gaussian(mean=[0], cov=[[4]])
        """
        (mean,), (cov,) = algebra.affine(self._parts, matrix, shift)
        return Gaussian(mean, cov)

    def product(self, other: algebra.Gaussians) -> tuple[Any, float]:
        """The product of two densities: (the normalised product, log of the integral of the product).

        The product is a Gaussian, or a mixture where the other is one. In Bayes' rule with `other` as the
        likelihood, the second is the log evidence.

        Examples
        --------
        >>> import fastvi as fv
        >>> posterior, log_evidence = fv.Gaussian(0, 1).product(fv.Gaussian(2, 1))
        >>> posterior, round(log_evidence, 6)
        (Gaussian(mean=[1], cov=[[0.5]]), -2.265512)
        """
        return algebra.multiply(self, other)

    @property
    def _parts(self) -> algebra.Parts:
        return self._mean[None], self.cov[None]

    def _triple(self) -> Triple:
        return np.zeros(1), self._mean[None], self._factor[None]

    @staticmethod
    def _of_parts(weights: Array, means: Array, covs: Array) -> Gaussian:
        return Gaussian(means[0], covs[0])

    @property
    def _amplification(self) -> float:
        return amplification(self._factor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Gaussian):
            return NotImplemented
        return np.array_equal(self.mean, other.mean) and np.array_equal(self.cov, other.cov)

    def __hash__(self) -> int:
        return hash(tuple(hashable(a) for a in (self.mean, self.cov)))

    def __repr__(self) -> str:
        return f"Gaussian(mean={tidy(self.mean)}, cov={tidy(self.cov)})"
