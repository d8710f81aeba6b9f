"""Densities in two dimensions that are tabulated on a rectangular grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import kernels
from ..common.immutable import Immutable, frozen, restore, shown
from ..common.validation import float_array, increasing, integer, real_number
from ..common.values import Array, hashable, tidy
from .gaussian import Gaussian
from .mixture import GaussianMixture

#: Standard deviations from a mean to the edge of a grid without bounds: the mass beyond is below 1e-18.
_REACH = 9.0

#: Logarithm of the largest float.
_LARGEST_EXPONENT = 709.0

#: Decimals of a mean that are shown: the sums over the grid have rounding errors.
_DECIMALS = 12


class Grid2D(Immutable):
    r"""A 2-D density tabulated on a rectangular grid by its logarithm; it need not be normalised.

    Integrals are trapezoid sums over the grid, which converge exponentially for a smooth density that is
    negligible at the edge; outside of the grid the density counts as zero.

    Parameters
    ----------
    x, y : array_like, shapes (n,) and (m,)
        Increasing, at least three points each; their steps may vary.
    logp : array_like, shape (n, m)
        ``logp[i, j]`` is the log density at ``(x[i], y[j])``; -inf where it is zero.

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
        kernels.densities.grids.trapezoid(x, a)
        kernels.densities.grids.trapezoid(y, b)
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
        """A log density, tabulated at equidistant points.

        Parameters
        ----------
        function : callable
            ``function(x, y)``, the log density: either vectorised over arrays, or for two numbers (compiled
            with `numba.njit` or plain).
        bounds : ((float, float), (float, float))
            The first and the last point of x and of y.
        shape : (int, int), optional
            Points along x and y.

        Returns
        -------
        Grid2D

        Raises
        ------
        TypeError
            A `function` that is not callable; bounds or a shape that are no numbers.
        ValueError
            Bounds that are not finite and increasing, fewer than three points, values as for `Grid2D`.

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
            nx, ny = shape
        except (TypeError, ValueError):
            raise ValueError(
                f"bounds must be two pairs and shape two integers, not {bounds!r} and {shape!r}"
            ) from None
        nx, ny = integer("shape[0]", nx, 1), integer("shape[1]", ny, 1)
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
        """A `Gaussian` or `GaussianMixture` in two dimensions, tabulated at equidistant points.

        Parameters
        ----------
        p : Gaussian or GaussianMixture
        bounds : ((float, float), (float, float)), optional
            As in `from_function`. Default: nine standard deviations to either side of each component's mean.
        shape : (int, int), optional
            Points along x and y.

        Returns
        -------
        Grid2D

        Raises
        ------
        TypeError
            Another kind of distribution.
        ValueError
            A distribution in another dimension; bounds and shape as in `from_function`.

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
            low = np.min([part.mean - _REACH * np.sqrt(np.diag(part.cov)) for part in parts], axis=0)
            high = np.max([part.mean + _REACH * np.sqrt(np.diag(part.cov)) for part in parts], axis=0)
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
        log_integral, entropy = kernels.densities.grids.summary(*self._arrays, mean, cov)
        return log_integral, entropy, frozen(mean), frozen(cov)

    @property
    def log_integral(self) -> float:
        """Logarithm of the integral of the density over the grid."""
        return float(self._summary[0])

    @property
    def integral(self) -> float:
        """The integral of the density over the grid; inf or 0 where it is beyond the floats."""
        return math.exp(self.log_integral) if self.log_integral < _LARGEST_EXPONENT else math.inf

    @property
    def mean(self) -> Array:
        """The mean of the normalised density, shape (2,), read-only."""
        return self._summary[2]

    @property
    def cov(self) -> Array:
        """The covariance of the normalised density, shape (2, 2), read-only."""
        return self._summary[3]

    def entropy(self) -> float:
        """The differential entropy of the normalised density, in nats."""
        return float(self._summary[1])

    def normalized(self) -> Grid2D:
        """The same density with an integral of one."""
        return self._like(self.logp - self.log_integral)

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (type(self), np.array(self.x), np.array(self.y), np.array(self.logp))

    def _like(self, table: Array) -> Grid2D:
        return restore(type(self), np.array(self.x), np.array(self.y), table)  # type: ignore[no-any-return]

    def _every_second(self) -> Grid2D:
        """The grid of every second point along both axes; the last point stays."""
        rows = np.unique(np.append(np.arange(0, self.x.size, 2), self.x.size - 1))
        columns = np.unique(np.append(np.arange(0, self.y.size, 2), self.y.size - 1))
        table = np.ascontiguousarray(self.logp[np.ix_(rows, columns)])
        return restore(type(self), self.x[rows], self.y[columns], table)  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid2D):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("x", "y", "logp"))

    def __hash__(self) -> int:
        return hash(tuple(hashable(a) for a in (self.x, self.y, self.logp)))

    def __repr__(self) -> str:
        x, y = (f"{a[0]:.6g}..{a[-1]:.6g} ({a.size})" for a in (self.x, self.y))
        mean = tidy(self.mean.round(_DECIMALS) + 0.0)
        return f"Grid2D(x={x}, y={y}, mean={mean}, integral={self.integral:.6g})"


#: A distribution on ℝᴰ.
Distribution = Gaussian | GaussianMixture | Grid2D


def _tabulated(function: Callable[..., Any], x: Array, y: Array) -> NDArray[Any]:
    """The values of a function on the grid: from arrays if it takes them, else point by point."""
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
