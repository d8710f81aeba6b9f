"""Projections: the member of a family that is closest to a distribution, in either direction of KL."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import divergences, kernels, scratch
from .distributions import Array, Distribution, Gaussian, GaussianMixture, Grid2D
from .estimates import (
    QUADRATURE_DIM,
    Estimate,
    _into,
    entropy_estimate,
    kl_bounds,
    kl_estimate,
    rounding_of_factors,
    tolerance,
)
from .immutable import Immutable, frozen
from .validation import choice, float_array

_FAMILIES = {"full": 0, "diag": 1, "isotropic": 2}

#: What became of an I-projection, by the kernels' status; the last is this module's own.
_COARSE = 8
_STATUS = {
    0: "converged",
    1: "Newton's steps did not become small",
    2: "the quadrature would need too many nodes: the divergence is only known between bounds",
    3: "not a strict minimum: the Hessian is not positive definite",
    7: "no finite value",
    _COARSE: "the grid is too coarse, or cut off too near, to know the divergence so well",
}

#: Local maxima of a grid that are taken as starts.
_PEAKS = 16


class Projection(Immutable):
    """The closest member of a family, and how close it is.

    Attributes
    ----------
    q : Gaussian, or tuple of ndarray
        The projection; for ``family="product"`` the probabilities along each axis.
    kl : float
        The divergence in nats: KL(p ‖ q) of an M-projection, KL(q ‖ p) of an I-projection.
    error : float
        A bound of its absolute error (in more than three dimensions, its standard error).
    gradient_norm : float
        Length of the gradient at q, in the metric of Fisher's information; 0 for closed forms.
    optima : tuple of Projection
        Every local optimum that was found, best first. The first is this one.
    converged : bool
        Whether q and kl are as good as they were asked to be.
    status : str
        The same in words.
    evaluations : int
        Nodes of the quadrature, for all optima together: points, or places on a contour.

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.7], [-3, 3], [1, 1])
    >>> fv.m_projection(p)
    Projection(q=Gaussian(mean=[1.2], cov=[[8.56]]), kl=0.466189, converged)
    """

    __slots__ = ("_divergence", "_others", "_status", "evaluations", "gradient_norm", "q")

    q: Any
    gradient_norm: float
    evaluations: int
    _divergence: Any
    _status: int
    _others: tuple[Projection, ...]

    def __init__(
        self,
        q: Any,
        divergence: Estimate | tuple[float, float, int] | Callable[[], Estimate],
        gradient_norm: float = 0.0,
        status: int = 0,
        evaluations: int = 0,
        others: Sequence[Projection] = (),
    ) -> None:
        fill = object.__setattr__
        fill(self, "q", tuple(map(frozen, q)) if isinstance(q, tuple) else q)
        fill(self, "_divergence", divergence)
        fill(self, "gradient_norm", gradient_norm)
        fill(self, "_status", status)
        fill(self, "evaluations", evaluations)
        fill(self, "_others", tuple(others))

    def _with(self, others: Sequence[Projection]) -> Projection:
        """The same, as the best of several optima."""
        return Projection(
            self.q, self._divergence, self.gradient_norm, self._status, self.evaluations, others
        )

    def __reduce__(self) -> tuple[Any, ...]:
        state = self.q, self.estimate, self.gradient_norm, self._status, self.evaluations, self._others
        return Projection, state

    @property
    def converged(self) -> bool:
        """Whether q and kl are as good as they were asked to be."""
        return self._status == 0

    @property
    def status(self) -> str:
        """The same in words."""
        return _STATUS[self._status]

    @property
    def estimate(self) -> Estimate:
        """The divergence with its error; of an M-projection it is computed when it is first asked for."""
        given = self._divergence
        if not isinstance(given, Estimate):
            estimate = Estimate(*given) if isinstance(given, tuple) else given()
            object.__setattr__(self, "_divergence", estimate)
        return self._divergence  # type: ignore[no-any-return]

    @property
    def kl(self) -> float:
        """The divergence in nats."""
        given = self._divergence
        return given[0] if isinstance(given, tuple) else self.estimate.value

    @property
    def error(self) -> float:
        """A bound of the divergence's absolute error."""
        return self.estimate.error

    @property
    def optima(self) -> tuple[Projection, ...]:
        """Every local optimum that was found, best first."""
        return (self, *self._others)

    def __repr__(self) -> str:
        more = f", {len(self._others)} more optima" if self._others else ""
        name = self.q if isinstance(self.q, Gaussian) else f"{len(self.q)} marginals"
        return f"Projection(q={name}, kl={self.kl:.6g}, {self.status}{more})"


def _family(value: Any, of_table: bool) -> str:
    family = choice("family", value, (*_FAMILIES, "product"))
    if (family == "product") != of_table:
        wanted = "a joint probability table (an array)" if family == "product" else "a distribution"
        raise ValueError(f"family={family!r} needs p to be {wanted}")
    return family


def _is_table(p: Any) -> bool:
    return not isinstance(p, Gaussian | GaussianMixture | Grid2D)


def _restricted_cov(cov: Array, family: str) -> Array:
    """The factor of the M-projection of a Gaussian with this covariance."""
    if family == "full":
        return np.linalg.cholesky(cov)  # type: ignore[return-value]
    diagonal = np.diag(cov)
    scale = np.sqrt(diagonal if family == "diag" else np.full(diagonal.size, diagonal.mean()))
    return np.diag(scale)


def _match(p: Any, q: Gaussian) -> Estimate:
    """KL(p ‖ q) where q matches the moments of p that its family has: log |2 pi e Sigma| / 2 - h(p)."""
    if isinstance(p, Gaussian):
        return kl_estimate(p, q)
    if isinstance(p, GaussianMixture) and p.dim > QUADRATURE_DIM:
        return kl_estimate(p, q)
    h = entropy_estimate(p)
    value = q.entropy() - h.value
    if isinstance(p, GaussianMixture) and value < 1e-3:
        # The difference of two entropies has lost digits.
        return kl_estimate(p, q)
    return Estimate(max(value, 0.0), h.error + 4.4e-16 * abs(h.value), h.evaluations, h.method)


def m_projection(p: Distribution | ArrayLike, family: str = "full") -> Projection:
    r"""The member of a family that minimises KL(p ‖ q): it matches moments.

    .. math:: q^* = \arg\min_q \mathrm{KL}(p \,\|\, q)

    Parameters
    ----------
    p : Gaussian, GaussianMixture, Grid2D, or array_like
        A distribution in any dimension, or, for ``family="product"``, a table of joint probabilities with
        any number of axes, summing to one.
    family : {"full", "diag", "isotropic", "product"}, optional
        Gaussians with any covariance, a diagonal one, a multiple of the identity; or products of
        distributions over the axes of a table.

    Returns
    -------
    Projection
        q has the mean of p and its covariance Σ, diag Σ, or tr Σ / D times the identity; for a table,
        q is the tuple of its marginals, and the divergence is the total correlation (mutual information
        for two axes).

    Raises
    ------
    ValueError
        An unknown family, or one that does not fit p; a table that is not a distribution.

    References
    ----------
    C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 10.1.2 and eq. 10.17. K. P. Murphy,
    Probabilistic Machine Learning: Advanced Topics (2023), section 5.1.4.

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.7], [[-3, 0], [3, 0]], [[[1, 0], [0, 1]]] * 2)
    >>> m = fv.m_projection(p)
    >>> m.q
    Gaussian(mean=[1.2, 0], cov=[[8.56, 0], [0, 1]])
    >>> round(m.kl, 9)
    0.466188952
    >>> round(fv.m_projection([[0.4, 0.1], [0.1, 0.4]], family="product").kl, 9)
    0.192744757
    """
    if isinstance(p, GaussianMixture) and family == "full":
        mean, factor = np.empty(p.dim), np.empty((p.dim, p.dim))
        if kernels.projections.m_projection(p._log_weights, p._means, p._factors, 0, mean, factor):
            q = Gaussian._from_factor(mean, factor)
            return Projection(q, lambda: _match(p, q))
    name = _family(family, _is_table(p))
    if name == "product":
        return _marginals(p)
    if isinstance(p, Gaussian) and name == "full":
        return Projection(p, Estimate(0.0, 0.0, 0, "closed form"))
    try:
        factor = _restricted_cov(p.cov, name)  # type: ignore[union-attr]
    except np.linalg.LinAlgError:
        raise ValueError(
            f"the covariance of p is not positive definite: {p.cov.tolist()}"  # type: ignore[union-attr]
        ) from None
    matched = Gaussian._from_factor(np.array(p.mean), factor)  # type: ignore[union-attr]
    return Projection(matched, lambda: _match(p, matched))


def _starts_of(starts: Any, dim: int) -> tuple[Array, Array]:
    try:
        gaussians = list(starts)
    except TypeError:
        raise TypeError(f"starts must be a sequence of Gaussians, not {type(starts).__name__}") from None
    for k, start in enumerate(gaussians):
        if not isinstance(start, Gaussian):
            raise TypeError(f"starts[{k}] must be a Gaussian, not {type(start).__name__}")
        if start.dim != dim:
            raise ValueError(f"starts[{k}] has dimension {start.dim}, p has {dim}")
    if not gaussians:
        raise ValueError("starts is empty")
    return np.stack([s.mean for s in gaussians]), np.stack([s.cholesky for s in gaussians])


def _buffers(components: int, dim: int) -> tuple[Any, ...]:
    """Scratch space for I-projections of mixtures of that size, with room for the starts."""
    most = components * (components + 3) // 2 + 1
    return (
        kernels.projections.workspace(components, dim),
        *_room_for(np.empty((most, dim)), np.empty((most, dim, dim))),
    )


def _room_for(means: Array, factors: Array) -> tuple[Any, ...]:
    """Starts, and what the kernel needs beside them."""
    return means, factors, (np.empty_like(means), np.empty_like(factors)), np.empty((len(means), 5))


def _mixture_optima(p: GaussianMixture, family: int, starts: Any, rtol: float) -> Projection:
    dim = p._means.shape[1]
    buffers = scratch.space(_buffers, p._weights.size, dim)
    space, means, factors, found, reports = buffers
    given = 0
    if starts is not None:
        means, factors, found, reports = _room_for(*_starts_of(starts, dim))
        given = len(means)
    count = kernels.projections.i_projections(
        p._triple(), family, given, means, factors, rtol, space, found, reports
    )
    if count == 0:
        raise ValueError("no Gaussian has a finite divergence from p: its numbers are out of range")
    optima = []
    rounding = rounding_of_factors(1.0, p)
    means, factors = means[:count].copy(), factors[:count].copy()
    for k, (value, error, gradient_norm, nodes, status) in enumerate(reports[:count].tolist()):
        q = Gaussian._from_factor(means[k], factors[k])
        if not error < math.inf:
            value, error = _into(kl_bounds(q, p), value)
        error += rounding * (value + dim)
        optima.append((q, (value, error, int(nodes)), gradient_norm, int(status), int(nodes)))
    best, *others = optima
    return Projection(*best, [Projection(*other) for other in others])


def _grid_starts(p: Grid2D) -> tuple[Array, Array]:
    """The moment match, and each peak with the covariance of what is near it."""
    means, factors = [p.mean], [np.linalg.cholesky(p.cov)]
    peaks = np.empty((_PEAKS, 3))
    count = kernels.grids.peaks(p._arrays[0], p._arrays[1], p._arrays[4], peaks, _PEAKS)
    for k in range(count):
        u, v, _ = peaks[k]
        cov = _curvature(p, u, v)
        means.append(np.array([u, v]))
        factors.append(np.linalg.cholesky(cov))
    return np.stack(means), np.stack(factors)


def _curvature(p: Grid2D, u: float, v: float) -> Array:
    """A covariance from the second differences at a peak; the grid's where they are of no use."""
    i = min(max(int(np.searchsorted(p.x, u)), 1), p.x.size - 2)
    j = min(max(int(np.searchsorted(p.y, v)), 1), p.y.size - 2)
    patch = p.logp[i - 1 : i + 2, j - 1 : j + 2]
    dx, dy = 0.5 * (p.x[i + 1] - p.x[i - 1]), 0.5 * (p.y[j + 1] - p.y[j - 1])
    with np.errstate(invalid="ignore"):
        xx = -(patch[2, 1] - 2 * patch[1, 1] + patch[0, 1]) / dx**2
        yy = -(patch[1, 2] - 2 * patch[1, 1] + patch[1, 0]) / dy**2
        xy = -(patch[2, 2] - patch[2, 0] - patch[0, 2] + patch[0, 0]) / (4 * dx * dy)
    if xx > 0.0 and yy > 0.0 and xx * yy > 1.001 * xy * xy:
        cov: Array = np.linalg.inv(np.array([[xx, xy], [xy, yy]]))
        if (np.sqrt(np.diag(cov)) < 0.5 * np.array([np.ptp(p.x), np.ptp(p.y)])).all():
            return cov
    return np.array(p.cov)


def _grid_optima(p: Grid2D, family: int, starts: Any, rtol: float) -> Projection:
    zero = p.logp == -math.inf
    if zero.any():
        i, j = (int(k) for k in np.argwhere(zero)[0])
        raise ValueError(
            f"p is zero at x[{i}] = {p.x[i]!s}, y[{j}] = {p.y[j]!s}: "
            "KL(q ‖ p) is infinite for every Gaussian q"
        )
    grid = p.normalized()._arrays
    if starts is None:
        means, factors = _grid_starts(p)
    else:
        means, factors = _starts_of(starts, 2)
    reports = np.empty((len(means), 5))
    count = kernels.grids.grid_projections(
        grid, family, means, factors, 1e-6, kernels.grids.workspace(), reports
    )
    if count == 0:
        raise ValueError(
            "the grid is too coarse or too small for a Gaussian: every descent of KL(q ‖ p) left it"
        )
    optima = []
    for mean, factor, row in zip(means, factors, reports[:count].tolist(), strict=False):
        _, _, gradient_norm, evaluations, _ = row
        q = Gaussian._from_factor(mean.copy(), factor.copy())
        estimate = kl_estimate(q, p)
        good = estimate.error <= max(rtol * estimate.value, 1e-12)
        optima.append(Projection(q, estimate, gradient_norm, 0 if good else _COARSE, int(evaluations)))
    return optima[0]._with(optima[1:])


def _gaussian_projection(p: Gaussian, family: str) -> Projection:
    """Closed form: Sigma, 1 / Lambda_ii, D / tr Lambda."""
    if family == "full":
        return Projection(p, Estimate(0.0, 0.0, 0, "closed form"))
    factor = np.array(p.cholesky)
    kernels.projections.restrict(_FAMILIES[family], factor, np.empty(2 * p.dim))
    q = Gaussian._from_factor(np.array(p.mean), factor)
    return Projection(q, lambda: kl_estimate(q, p))


def i_projection(
    p: Distribution | ArrayLike,
    family: str = "full",
    starts: Sequence[Any] | None = None,
    *,
    rtol: float = 1e-8,
) -> Projection:
    r"""The member of a family that minimises KL(q ‖ p): it seeks a mode, and there may be several.

    .. math:: q^* = \arg\min_q \mathrm{KL}(q \,\|\, p)

    Parameters
    ----------
    p : Gaussian, GaussianMixture, Grid2D, or array_like
        A Gaussian in any dimension, a mixture in up to three, a grid; or, for ``family="product"``, a table
        of joint probabilities without zeros, with any number of axes, summing to one.
    family : {"full", "diag", "isotropic", "product"}, optional
        As in `m_projection`.
    starts : sequence of Gaussian (of tuples of factors, for tables), optional
        Where to start. Default: the components, the modes, the moment match and the merged pairs of
        components; the peaks and the moment match of a grid; the marginals, the uniform distribution and
        the peaks of a table.
    rtol : float, optional
        How well the divergence and the parameters (in units of q's own spread) are to be known.

    Returns
    -------
    Projection
        The best optimum; `optima` has all that were found, each with its divergence, error and gradient
        norm. For a mixture the error is a bound; for a grid the sum over it is minimised and `kl_estimate`
        says what it is worth.

    Raises
    ------
    ValueError
        An unknown family, or one that does not fit p; mixtures in more than three dimensions; a density that
        is zero somewhere on its grid or table, where no Gaussian or product can follow it.

    Notes
    -----
    Damped Newton steps on E_q[log q - log p], whose derivatives in mean and factor are expectations of
    log q - log p times Hermite polynomials (Stein's identity). In the plane, where two components of p matter
    for q, these are sums along a contour in the complex plane: by the Mellin transform of log(1 + x) they are
    integrals over powers of the components' ratio, whose expectations are known. Otherwise they are taken by
    the trapezoid rule in coordinates whitened on q; its lattice is rotated to the sharpest direction and
    halved until the optimum holds. Only minima are kept: their Hessian is positive definite. Tables:
    coordinate ascent, where each update is the exact minimum over one factor, so that the divergence falls.

    References
    ----------
    C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 10.1.2 and eq. 10.9. M. Opper,
    C. Archambeau, The Variational Gaussian Approximation Revisited, Neural Computation 21 (2009), eq. 2 to 5.

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.7], [[-3, 0], [3, 0]], [[[1, 0], [0, 1]]] * 2)
    >>> i = fv.i_projection(p)
    >>> [round(optimum.kl, 8) for optimum in i.optima]
    [0.35403395, 1.19668233]
    >>> i.q.mean.round(6) + 0.0, i.error < 1e-8 * i.kl
    (array([2.99054, 0.     ]), True)
    """
    name = _family(family, _is_table(p))
    wanted = tolerance(rtol)
    if name == "product":
        return _mean_field(p, starts, wanted)
    if starts is not None and not isinstance(p, Grid2D | GaussianMixture):
        _starts_of(starts, p.dim)  # type: ignore[union-attr]
    if isinstance(p, Gaussian):
        return _gaussian_projection(p, name)
    if isinstance(p, Grid2D):
        return _grid_optima(p, _FAMILIES[name], starts, wanted)
    assert isinstance(p, GaussianMixture)
    if p.dim > QUADRATURE_DIM:
        if p._weights.size == 1:
            return _gaussian_projection(p.components[0], name)
        raise ValueError(
            f"i_projection of a mixture needs quadrature, up to {QUADRATURE_DIM} dimensions; p has {p.dim}"
        )
    return _mixture_optima(p, _FAMILIES[name], starts, wanted)


def _table(p: Any) -> NDArray[np.float64]:
    table = np.array(float_array("p", p), dtype=np.float64, order="C")
    if table.ndim < 1 or table.size == 0:
        raise ValueError(
            f"p must be a table of probabilities with at least one axis, not of shape {table.shape}"
        )
    bad = ~((table >= 0.0) & (table < math.inf))
    if bad.any():
        where = tuple(int(k) for k in np.argwhere(bad)[0])
        raise ValueError(f"p[{', '.join(map(str, where))}] is {table[where]!s}: must be finite and >= 0")
    total = float(table.sum())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"p sums to {total!r}: a joint distribution sums to 1 within 1e-06")
    return table / total


def _outer(factors: Sequence[Array]) -> Array:
    result = np.ones(())
    for factor in factors:
        result = np.multiply.outer(result, factor)
    return np.asarray(result)


def _marginals(p: Any) -> Projection:
    table = _table(p)
    axes = range(table.ndim)
    factors = tuple(frozen(table.sum(axis=tuple(b for b in axes if b != a))) for a in axes)
    value = divergences.kl(table.ravel(), _outer(factors).ravel(), mass="normalize")
    estimate = Estimate(value, 1e-15 * (1.0 + value), table.size, "closed form")
    return Projection(factors, estimate)


def _is_minimum(table: Array, factors: Sequence[Array], shape: Any, offsets: Any, q: Array) -> bool:
    """Whether the second variation is positive on all changes that keep each factor's sum.

    In v_a = sqrt(q_a) u_a it is I - sqrt(q_a q_b) E[log p | a, b] off the diagonal blocks; directions along
    sqrt(q_a) are taken out.
    """
    count = int(shape.sum())
    matrix = np.eye(count)
    index = np.empty(shape.size, np.int64)
    roots = [np.sqrt(f) for f in factors]
    for a in range(shape.size):
        for b in range(a):
            block = np.empty((shape[a], shape[b]))
            kernels.products.second_expectations(table, shape, offsets, q, a, b, index, block)
            block -= block.mean()
            block *= np.multiply.outer(roots[a], roots[b])
            block -= np.multiply.outer(roots[a], roots[a] @ block)
            block -= np.multiply.outer(block @ roots[b], roots[b])
            rows = slice(offsets[a], offsets[a] + shape[a])
            columns = slice(offsets[b], offsets[b] + shape[b])
            matrix[rows, columns] = -block
            matrix[columns, rows] = -block.T
    return bool(np.linalg.eigvalsh(matrix)[0] > -1e-6)


def _table_starts(table: Array, starts: Any) -> list[list[Array]]:
    shape = table.shape
    if starts is not None:
        given = []
        try:
            listed = [list(start) for start in starts]
        except TypeError:
            raise TypeError("starts must be a sequence of tuples of probability vectors") from None
        for k, start in enumerate(listed):
            factors = [
                np.array(float_array(f"starts[{k}][{a}]", f), dtype=float) for a, f in enumerate(start)
            ]
            if tuple(f.shape for f in factors) != tuple((n,) for n in shape):
                raise ValueError(f"starts[{k}] must have one vector for each axis of p, of lengths {shape}")
            for a, f in enumerate(factors):
                if not ((f >= 0.0).all() and abs(f.sum() - 1.0) <= 1e-6):
                    raise ValueError(f"starts[{k}][{a}] is not a probability vector: {f}")
            given.append(factors)
        if not given:
            raise ValueError("starts is empty")
        return given
    axes = range(table.ndim)
    result = [
        [table.sum(axis=tuple(b for b in axes if b != a)) for a in axes],
        [np.full(n, 1.0 / n) for n in shape],
    ]
    # Cells that no change of one coordinate improves: there mean field has its deterministic optima.
    peak = np.ones(shape, dtype=bool)
    for a in axes:
        peak &= table == table.max(axis=a, keepdims=True)
    cells = np.argwhere(peak)
    for cell in cells[np.argsort(-table[peak], kind="stable")][:32]:
        result.append(
            [
                np.where(np.arange(n) == c, 1.0 - 0.1 * (n > 1), 0.1 / max(n - 1, 1))
                for n, c in zip(shape, cell, strict=True)
            ]
        )
    return result


def _mean_field(p: Any, starts: Any, rtol: float) -> Projection:
    table = _table(p)
    zero = table == 0.0
    if zero.any():
        where = tuple(int(k) for k in np.argwhere(zero)[0])
        raise ValueError(
            f"p[{', '.join(map(str, where))}] is 0: KL(q ‖ p) is infinite for every product q with mass there"
        )
    log_p = np.log(table).ravel()
    shape = np.array(table.shape, np.int64)
    offsets = np.concatenate([[0], np.cumsum(shape)[:-1]]).astype(np.int64)
    index, values = np.empty(shape.size, np.int64), np.empty(int(shape.max()))
    rounds = 10_000
    trace = np.empty(rounds)
    optima: list[Projection] = []
    for start in _table_starts(table, starts):
        q = np.concatenate(start)
        _, used, change = kernels.products.mean_field(
            log_p, shape, offsets, q, 1e-3 * rtol, rounds, index, values, trace
        )
        factors = tuple(frozen(q[o : o + n].copy()) for o, n in zip(offsets, shape, strict=True))
        if any(
            all(np.abs(f - g).max() < 1e-6 for f, g in zip(factors, other.q, strict=True)) for other in optima
        ):
            continue
        if not _is_minimum(log_p, factors, shape, offsets, q):
            continue
        value = divergences.kl(_outer(factors).ravel(), table.ravel(), mass="normalize")
        estimate = Estimate(value, 1e-15 * (1.0 + value) + change * change, used * table.size, "closed form")
        optima.append(Projection(factors, estimate, change, 0 if change <= rtol else 1, used * table.size))
    if not optima:
        raise ValueError(
            "mean field found no minimum: every start ended in a saddle point; give other starts"
        )
    optima.sort(key=lambda optimum: optimum.kl)
    return optima[0]._with(optima[1:])
