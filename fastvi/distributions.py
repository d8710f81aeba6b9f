"""Distributions: checked once when they are made, immutable from then on, with the Cholesky factors kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import kernels
from .immutable import Immutable, frozen, shown
from .validation import (
    cholesky_factor,
    finite_array,
    float_array,
    generator,
    increasing,
    mean_and_factor,
    mixture_weights,
    real_number,
)

Array = NDArray[np.float64]

#: What the kernels know a mixture by: log weights (K), means (K, D), Cholesky factors (K, D, D).
Triple = tuple[Array, Array, Array]


def _bytes(array: Array) -> bytes:
    """For hashes: -0.0 is equal to 0.0, and its bytes become so."""
    return (array + 0.0).tobytes()


def _points(z: ArrayLike, dim: int) -> tuple[Array, tuple[int, ...]]:
    """Points as rows, and the shape of the result."""
    array = float_array("z", z)
    if array.ndim == 0 and dim == 1:
        array = array.reshape(1)
    if array.ndim == 0 or array.shape[-1] != dim:
        raise ValueError(f"z must have shape (..., {dim}), not {array.shape}")
    return np.array(array, dtype=np.float64, order="C").reshape(-1, dim), array.shape[:-1]


def _number(values: Array, shape: tuple[int, ...]) -> Any:
    return values.reshape(shape) if shape else float(values[0])


def _tidy(values: Any) -> str:
    """An array as nested lists with six significant digits, cut short beyond 8 entries a level."""
    array = np.asarray(values)
    if array.ndim == 0:
        return f"{float(array):.6g}"
    entries = [_tidy(entry) for entry in array]
    if len(entries) > 8:
        entries = [*entries[:3], "...", *entries[-1:]]
    return f"[{', '.join(entries)}]"


def _inverse_size(factors: Array) -> float:
    """D times the largest squared norm of the inverse of a factor, scaled to a correlation matrix."""
    scaled = factors / np.sqrt((factors**2).sum(axis=-1))[..., None]
    inverse = np.linalg.inv(scaled)
    return float(factors.shape[-1] * (inverse**2).sum(axis=(-1, -2)).max())


class Gaussian(Immutable):
    r"""A Gaussian (multivariate normal) distribution.

    .. math:: \log N(z \mid \mu, \Sigma) = -\tfrac12 (z-\mu)^T \Sigma^{-1} (z-\mu)
              - \tfrac12 \log |2 \pi \Sigma|

    Parameters
    ----------
    mean : array_like, shape (D,)
        A number for D = 1.
    cov : array_like, shape (D, D)
        Symmetric and positive definite. A number (the variance) for D = 1.

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

    __slots__ = ("_cov", "_factor", "_mean")
    _mean: Array
    _factor: Array
    _cov: Array | None

    def __init__(self, mean: ArrayLike, cov: ArrayLike) -> None:
        location, spread, factor = mean_and_factor(mean, cov)
        self._set(location, factor, 0.5 * (spread + spread.T))

    def _set(self, mean: Array, factor: Array, cov: Array | None) -> None:
        object.__setattr__(self, "_mean", mean)
        object.__setattr__(self, "_factor", factor)
        object.__setattr__(self, "_cov", None if cov is None else frozen(cov))

    @classmethod
    def _from_factor(cls, mean: Array, factor: Array) -> Gaussian:
        """Without checks, for what a kernel has made."""
        self = cls.__new__(cls)
        self._set(mean, factor, None)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), np.array(self._mean), np.array(self._factor), np.array(self.cov))

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
        points, shape = _points(z, self.dim)
        weights, means, factors = self._triple()
        out = np.empty(len(points))
        kernels.mixtures.mixture_logpdf_many(points, weights, means, factors, np.empty(self.dim), out)
        return _number(out, shape)

    def pdf(self, z: ArrayLike) -> Any:
        """The density at `z`, shape (..., D)."""
        value = self.logpdf(z)
        return math.exp(value) if isinstance(value, float) else np.exp(value)

    def entropy(self) -> float:
        r"""The differential entropy :math:`\tfrac12 \log |2 \pi e \Sigma|` in nats."""
        return float(np.log(np.diag(self._factor)).sum() + 0.5 * self.dim * (1.0 + math.log(2.0 * math.pi)))

    def sample(self, n: int, rng: Any = None) -> Array:
        """`n` draws, shape (n, D), from `rng`: a Generator, which is advanced, an integer, or None."""
        noise = generator("rng", rng).standard_normal((n, self.dim))
        return self._mean + noise @ self._factor.T

    def _triple(self) -> Triple:
        return np.zeros(1), self._mean[None], self._factor[None]

    @property
    def _condition(self) -> float:
        return _inverse_size(self._factor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Gaussian):
            return NotImplemented
        return np.array_equal(self.mean, other.mean) and np.array_equal(self.cov, other.cov)

    def __hash__(self) -> int:
        return hash(tuple(_bytes(a) for a in (self.mean, self.cov)))

    def __repr__(self) -> str:
        return f"Gaussian(mean={_tidy(self.mean)}, cov={_tidy(self.cov)})"


def _restore(kind: Any, *fields: Array) -> Any:
    """An instance from its checked fields: for copies and pickles."""
    self = kind.__new__(kind)
    self._set(*fields)
    return self


class GaussianMixture(Immutable):
    r"""A mixture of Gaussians.

    .. math:: p(z) = \sum_k w_k \, N(z \mid \mu_k, \Sigma_k)

    Parameters
    ----------
    weights : array_like, shape (K,)
        They are >= 0 and sum to 1 (within 1e-6; that rounding is divided out).
    means : array_like, shape (K, D)
        Shape (K,) for D = 1.
    covs : array_like, shape (K, D, D)
        Each symmetric and positive definite. Shape (K,), variances, for D = 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, entries that are not finite, weights that are negative or do not sum to 1, a
        covariance that is not symmetric or not positive definite (which one is named).

    References
    ----------
    C. M. Bishop, Pattern Recognition and Machine Learning (2006), eq. 9.7.

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.7], [[-3, 0], [3, 0]], [[[1, 0], [0, 1]]] * 2)
    >>> p.mean.round(12), p.cov.round(12)
    (array([1.2, 0. ]), array([[8.56, 0.  ],
           [0.  , 1.  ]]))
    >>> round(p.entropy(), 9)
    3.44523821
    """

    def __init__(self, weights: ArrayLike, means: ArrayLike, covs: ArrayLike) -> None:
        w = mixture_weights(weights)
        locations, spreads = float_array("means", means), float_array("covs", covs)
        if locations.ndim == 1:
            locations = locations[:, None]
        if spreads.ndim == 1:
            spreads = spreads[:, None, None]
        mu = finite_array("means", locations, 2, "(K, D)")
        sigma = finite_array("covs", spreads, 3, "(K, D, D)")
        count, dim = mu.shape
        if w.size != count or sigma.shape != (count, dim, dim):
            raise ValueError(
                "weights, means and covs must have shapes (K,), (K, D) and (K, D, D), "
                f"not {w.shape}, {mu.shape} and {sigma.shape}"
            )
        factors = np.stack([cholesky_factor(f"covs[{k}]", sigma[k]) for k in range(count)])
        with np.errstate(divide="ignore"):
            logs = np.log(w)
        self._set(w, mu, 0.5 * (sigma + sigma.swapaxes(1, 2)), factors, logs)

    def _set(self, weights: Array, means: Array, covs: Array, factors: Array, logs: Array) -> None:
        self.__dict__.update(
            _weights=frozen(weights), _means=means, _covs=frozen(covs), _factors=factors, _log_weights=logs
        )

    @classmethod
    def _from_factors(cls, logs: Array, means: Array, factors: Array) -> GaussianMixture:
        """Without checks, for what compiled code has made."""
        self = cls.__new__(cls)
        self._set(np.exp(logs), means, factors @ factors.swapaxes(1, 2), factors, logs)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        fields = self._weights, self._means, self._covs, self._factors, self._log_weights
        return _restore, (type(self), *(np.array(field) for field in fields))

    @cached_property
    def _condition(self) -> float:
        return _inverse_size(self._factors)

    _weights: Array
    _means: Array
    _covs: Array
    _factors: Array
    _log_weights: Array

    @classmethod
    def from_sklearn(cls, fitted: Any) -> GaussianMixture:
        """The density of a fitted `sklearn.mixture.GaussianMixture`, of any covariance type.

        Examples
        --------
        >>> import fastvi as fv
        >>> from types import SimpleNamespace
        >>> fitted = SimpleNamespace(weights_=[1.0], means_=[[0.0, 0.0]], covariances_=[2.0],
        ...                          covariance_type="spherical")
        >>> fv.GaussianMixture.from_sklearn(fitted)
        GaussianMixture(weights=[1], means=[[0, 0]], covs=[[[2, 0], [0, 2]]])
        """
        missing = [name for name in ("weights_", "means_", "covariances_") if not hasattr(fitted, name)]
        if missing:
            raise TypeError(
                f"from_sklearn takes a fitted sklearn GaussianMixture; {fitted!r} has no {missing[0]}"
            )
        means, covs = np.asarray(fitted.means_), np.asarray(fitted.covariances_)
        count, dim = means.shape
        kind = getattr(fitted, "covariance_type", "full")
        if kind == "spherical":
            covs = covs[:, None, None] * np.eye(dim)
        elif kind == "diag":
            covs = covs[:, :, None] * np.eye(dim)
        elif kind == "tied":
            covs = np.broadcast_to(covs, (count, dim, dim))
        elif kind != "full":
            raise ValueError(f"covariance_type must be full, tied, diag or spherical, not {kind!r}")
        return cls(fitted.weights_, means, covs)

    @property
    def dim(self) -> int:
        """The number of dimensions D."""
        return int(self._means.shape[1])

    @property
    def weights(self) -> Array:
        """The weights, shape (K,), read-only."""
        return self._weights

    @property
    def means(self) -> Array:
        """The components' means, shape (K, D), read-only."""
        return shown(self._means)

    @property
    def covs(self) -> Array:
        """The components' covariances, shape (K, D, D), read-only."""
        return self._covs

    @property
    def components(self) -> tuple[Gaussian, ...]:
        """The components, without their weights."""
        return tuple(
            _restore(Gaussian, np.array(m), np.array(f), np.array(c))
            for m, f, c in zip(self._means, self._factors, self._covs, strict=True)
        )

    @property
    def mean(self) -> Array:
        """The mean of the mixture, shape (D,), read-only."""
        return self._moments[0]

    @property
    def cov(self) -> Array:
        """The covariance of the mixture, shape (D, D), read-only."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        mean, cov = np.empty(self.dim), np.empty((self.dim, self.dim))
        kernels.mixtures.mixture_moments(*self._triple(), mean, cov)
        return frozen(mean), frozen(cov)

    def logpdf(self, z: ArrayLike) -> Any:
        """Logarithm of the density at `z`, shape (..., D): a float for one point, else an array (...)."""
        points, shape = _points(z, self.dim)
        out = np.empty(len(points))
        kernels.mixtures.mixture_logpdf_many(points, *self._triple(), np.empty(self.dim), out)
        return _number(out, shape)

    def pdf(self, z: ArrayLike) -> Any:
        """The density at `z`, shape (..., D)."""
        value = self.logpdf(z)
        return math.exp(value) if isinstance(value, float) else np.exp(value)

    def entropy(self) -> float:
        """The differential entropy in nats, by quadrature; `entropy_estimate` tells its error.

        In more than three dimensions it is quasi-Monte Carlo, good to three or four digits.
        """
        from .estimates import entropy_estimate

        return entropy_estimate(self).value

    def sample(self, n: int, rng: Any = None) -> Array:
        """`n` draws, shape (n, D), from `rng`: a Generator, which is advanced, an integer, or None."""
        source = generator("rng", rng)
        which = source.choice(self._weights.size, size=n, p=self._weights)
        noise = source.standard_normal((n, self.dim))
        draws: Array = self._means[which] + np.einsum("nij,nj->ni", self._factors[which], noise)
        return draws

    def _triple(self) -> Triple:
        return self._log_weights, self._means, self._factors

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GaussianMixture):
            return NotImplemented
        return all(
            np.array_equal(a, b)
            for a, b in zip(
                (self.weights, self.means, self.covs), (other.weights, other.means, other.covs), strict=True
            )
        )

    def __hash__(self) -> int:
        return hash(tuple(_bytes(a) for a in (self.weights, self.means, self.covs)))

    def __repr__(self) -> str:
        parts = _tidy(self.weights), _tidy(self.means), _tidy(self.covs)
        return "GaussianMixture(weights={}, means={}, covs={})".format(*parts)


class Grid2D(Immutable):
    r"""A 2-D density tabulated on a rectangular grid by its logarithm; it need not be normalised.

    Integrals are trapezoid sums over the grid, which converge exponentially for a smooth density that has
    died out at the edge; outside the grid the density counts as zero.

    Parameters
    ----------
    x, y : array_like, shapes (n,) and (m,)
        Increasing, at least three points each; their steps may vary.
    logp : array_like, shape (n, m)
        ``logp[i, j]`` is the log density at ``(x[i], y[j])``; -inf is welcome.

    Raises
    ------
    ValueError
        Axes that do not increase, shapes that do not fit, NaN or +inf in `logp`, a density that is zero
        everywhere.

    References
    ----------
    L. N. Trefethen, J. A. C. Weideman, The Exponentially Convergent Trapezoidal Rule, SIAM Review 56 (2014).

    Examples
    --------
    >>> import numpy as np
    >>> import fastvi as fv
    >>> p = fv.Grid2D.from_function(lambda x, y: -0.5 * (x**2 + 4 * y**2), [(-8, 8), (-5, 5)], (65, 65))
    >>> round(p.integral, 12) == round(np.pi, 12)
    True
    >>> p.cov.round(12) + 0.0
    array([[1.  , 0.  ],
           [0.  , 0.25]])
    """

    x: Array
    y: Array
    logp: Array

    def __init__(self, x: ArrayLike, y: ArrayLike, logp: ArrayLike) -> None:
        xs, ys = increasing("x", x), increasing("y", y)
        table = np.array(float_array("logp", logp), dtype=np.float64, order="C")
        if table.shape != (xs.size, ys.size):
            raise ValueError(f"logp must have shape ({xs.size}, {ys.size}), like x and y, not {table.shape}")
        bad = ~(table < math.inf)
        if bad.any():
            i, j = (int(k) for k in np.argwhere(bad)[0])
            raise ValueError(f"logp[{i}, {j}] is {table[i, j]!s}: log densities must be below +inf")
        if not (table > -math.inf).any():
            raise ValueError("the density is zero everywhere on the grid: logp is -inf at every point")
        self._set(xs, ys, table)

    def _set(self, x: Array, y: Array, table: Array) -> None:
        a, b = np.empty(x.size), np.empty(y.size)
        kernels.grids.trapezoid(x, a)
        kernels.grids.trapezoid(y, b)
        self.__dict__.update(
            x=shown(x), y=shown(y), logp=shown(table), _a=a, _b=b, _arrays=(x, y, a, b, table)
        )

    _a: Array
    _b: Array
    _arrays: tuple[Array, Array, Array, Array, Array]

    @classmethod
    def from_function(
        cls,
        function: Callable[..., Any],
        bounds: Sequence[Sequence[float]],
        shape: tuple[int, int] = (201, 201),
    ) -> Grid2D:
        """Tabulate a log density.

        Parameters
        ----------
        function : callable
            ``function(x, y)``, the log density: either vectorised over arrays, or for two numbers (compiled
            with `numba.njit` or plain).
        bounds : ((float, float), (float, float))
            The first and the last point of x and of y.
        shape : (int, int), optional
            Points along x and y.

        Examples
        --------
        >>> import fastvi as fv
        >>> from numba import njit
        >>> @njit
        ... def banana(x, y):
        ...     return -0.5 * (x**2 + (y - x**2) ** 2)
        >>> fv.Grid2D.from_function(banana, [(-6, 6), (-8, 44)], (121, 521))
        Grid2D(x=-6..6 (121), y=-8..44 (521), mean=[0, 1], integral=6.28319)
        """
        try:
            (x0, x1), (y0, y1) = bounds
            nx, ny = (int(n) for n in shape)
        except (TypeError, ValueError):
            raise ValueError(
                f"bounds must be two pairs and shape two integers, not {bounds!r} and {shape!r}"
            ) from None
        ends = [real_number(f"bounds[{k // 2}][{k % 2}]", e) for k, e in enumerate((x0, x1, y0, y1))]
        for k, end in enumerate(ends):
            if not math.isfinite(end):
                raise ValueError(f"bounds[{k // 2}][{k % 2}] is {end}: it must be finite")
        x = increasing("x", np.linspace(ends[0], ends[1], nx))
        y = increasing("y", np.linspace(ends[2], ends[3], ny))
        return cls(x, y, _tabulated(function, x, y))

    @classmethod
    def from_distribution(
        cls, p: Any, bounds: Sequence[Sequence[float]] | None = None, shape: tuple[int, int] = (201, 201)
    ) -> Grid2D:
        """Tabulate a `Gaussian` or `GaussianMixture` in two dimensions.

        Without `bounds` the grid reaches nine standard deviations beyond every component's mean.

        Examples
        --------
        >>> import fastvi as fv
        >>> p = fv.Gaussian([1, 2], [[1, 0.5], [0.5, 2]])
        >>> fv.Grid2D.from_distribution(p).mean.round(12)
        array([1., 2.])
        """
        if not isinstance(p, Gaussian | GaussianMixture):
            raise TypeError(
                f"from_distribution takes a Gaussian or a GaussianMixture, not {type(p).__name__}"
            )
        if p.dim != 2:
            raise ValueError(f"a Grid2D needs a distribution in 2 dimensions; p has {p.dim}")
        if bounds is None:
            parts = [p] if isinstance(p, Gaussian) else p.components
            low = np.min([part.mean - 9.0 * np.sqrt(np.diag(part.cov)) for part in parts], axis=0)
            high = np.max([part.mean + 9.0 * np.sqrt(np.diag(part.cov)) for part in parts], axis=0)
            bounds = [(low[0], high[0]), (low[1], high[1])]
        return cls.from_function(
            lambda x, y: p.logpdf(np.stack(np.broadcast_arrays(x, y), -1)), bounds, shape
        )

    @property
    def dim(self) -> int:
        """Two."""
        return 2

    @cached_property
    def _summary(self) -> tuple[float, float, Array, Array]:
        mean, cov = np.empty(2), np.empty((2, 2))
        log_integral, entropy = kernels.grids.summary(*self._arrays, mean, cov)
        return log_integral, entropy, frozen(mean), frozen(cov)

    @property
    def log_integral(self) -> float:
        """Logarithm of the integral of the density over the grid."""
        return float(self._summary[0])

    @property
    def integral(self) -> float:
        """The integral of the density over the grid; inf or 0 where it is out of range."""
        return math.exp(self.log_integral) if self.log_integral < 709.0 else math.inf

    @property
    def mean(self) -> Array:
        """The mean of the normalised density, shape (2,)."""
        return self._summary[2]

    @property
    def cov(self) -> Array:
        """The covariance of the normalised density, shape (2, 2)."""
        return self._summary[3]

    def entropy(self) -> float:
        """The differential entropy of the normalised density, in nats."""
        return float(self._summary[1])

    def normalized(self) -> Grid2D:
        """The same density with an integral of one."""
        return self._like(self.logp - self.log_integral)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), np.array(self.x), np.array(self.y), np.array(self.logp))

    def _like(self, table: Array) -> Grid2D:
        return _restore(type(self), np.array(self.x), np.array(self.y), table)  # type: ignore[no-any-return]

    def _every_second(self) -> Grid2D:
        """The grid of every second point, both ways; the last point stays."""
        rows = np.unique(np.append(np.arange(0, self.x.size, 2), self.x.size - 1))
        columns = np.unique(np.append(np.arange(0, self.y.size, 2), self.y.size - 1))
        table = np.ascontiguousarray(self.logp[np.ix_(rows, columns)])
        return _restore(type(self), self.x[rows], self.y[columns], table)  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid2D):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("x", "y", "logp"))

    def __hash__(self) -> int:
        return hash(tuple(_bytes(a) for a in (self.x, self.y, self.logp)))

    def __repr__(self) -> str:
        x, y = (f"{a[0]:.6g}..{a[-1]:.6g} ({a.size})" for a in (self.x, self.y))
        mean = _tidy(self.mean.round(12) + 0.0)
        return f"Grid2D(x={x}, y={y}, mean={mean}, integral={self.integral:.6g})"


Distribution = Gaussian | GaussianMixture | Grid2D


def _tabulated(function: Callable[..., Any], x: Array, y: Array) -> NDArray[Any]:
    """The function on the grid: with arrays if it takes them, else point by point."""
    if not callable(function):
        raise TypeError(f"function must be callable, not {type(function).__name__}")
    shape = (x.size, y.size)
    try:
        table = np.asarray(function(x[:, None], y[None, :]), dtype=np.float64)
    except Exception:
        table = np.empty(0)
    if table.shape != shape and table.size != 1:
        table = np.array([[function(u, v) for v in y.tolist()] for u in x.tolist()], dtype=np.float64)
    return np.array(np.broadcast_to(table, shape))
