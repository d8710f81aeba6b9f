"""`fit_mixture`: maximum likelihood for Gaussian mixtures, by EM on standardized data with restarts."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike

from .. import kernels
from ..common import threads
from ..common.immutable import restore
from ..common.progress import bar
from ..common.validation import finite_array, float_array, generator, integer, real_number
from ..common.values import Array
from ..distributions.mixture import GaussianMixture
from ..kernels import statuses
from .result import MixtureFit, count_of, workspace

#: Iterations that a fit usually takes: an estimate of its work, for the decision whether to use threads.
_USUAL_ITERATIONS = 16


def _data(x: Any, components: int) -> Array:
    """The data as points (n, d), at least as many as components."""
    array = float_array("x", x)
    if array.ndim == 1:
        flat = finite_array("x", array, 1, "(n,)")
        points = flat[:, None]
    else:
        points = finite_array("x", array, 2, "(n, d) or (n,)")
    if len(points) < components:
        raise ValueError(f"x has {count_of(len(points), 'point')}, too few for k = {components} components")
    return points


def _standardized(x: Array) -> tuple[Array, Array, Array]:
    """(standardized data (d, n), mean, Cholesky factor of the covariance), which must not be singular."""
    size, dim = x.shape
    columns, mean, factor = np.empty((dim, size)), np.empty(dim), np.empty((dim, dim))
    bad = kernels.em.standardization.standardize(x, columns, mean, factor)
    if bad == dim:
        return columns, mean, factor
    name = "x" if dim == 1 else f"x[:, {bad}]"
    if (x[:, bad] == x[0, bad]).all():
        raise ValueError(f"{name} is constant ({x[0, bad]!s}): its variance is 0, and there is no likelihood")
    if not np.isfinite(factor[bad, : bad + 1]).all() or factor[bad, bad] == 0.0:
        raise ValueError(f"{name} is out of range: its variance is not a normal number; rescale it")
    raise ValueError(
        f"{name} is a linear combination of the columns before it: the covariance of x is singular"
    )


def _checked_start(start: Any, components: int, dim: int) -> None:
    if not isinstance(start, GaussianMixture):
        raise TypeError(f"start must be a GaussianMixture, not {type(start).__name__}")
    if start.weights.size != components:
        raise ValueError(f"start has {count_of(start.weights.size, 'component')}, but k = {components}")
    if start.dim != dim:
        raise ValueError(f"start has dimension {start.dim}, x has {dim}")


class _Run:
    """EM from one start: the mixture in standardized coordinates, the trace, and how it ended."""

    def __init__(self, components: int, dim: int, most: int) -> None:
        self.weights = np.empty(components)
        self.means = np.empty((components, dim))
        self.factors = np.empty((components, dim, dim))
        self.trace = np.empty(most + 1)
        self.floored = np.zeros((2, components), np.int64)
        self.status, self.steps, self.to_gain = 0, 0, math.inf

    def seed(self, columns: Array, uniforms: Array, floor: float, space: Any) -> None:
        """Start around points of the data, chosen by k-means++ with these uniform numbers."""
        size = columns.shape[1]
        distances, labels = np.empty(size), np.empty(size, np.int64)
        mixture = self.weights, self.means, self.factors
        kernels.em.seeding.seed(columns, uniforms, *mixture, floor, distances, labels, space)

    def climb(self, columns: Array, floor: float, tol: float, space: Any) -> None:
        """Iterate EM until the likelihood is within `tol` of its maximum."""
        mixture = self.weights, self.means, self.factors
        most = self.trace.size - 1
        self.status, self.steps, self.to_gain = kernels.em.iterations.fit(
            columns, *mixture, floor, tol, most, self.trace, self.floored, space
        )
        self.trace = self.trace[: self.steps + 1].copy()

    @property
    def value(self) -> float:
        """Log likelihood of the standardized data at the end; -inf if it is not finite."""
        return float(self.trace[-1]) if self.status != statuses.OUT_OF_RANGE else -math.inf

    @property
    def at_floor(self) -> bool:
        """Whether the covariance floor holds a component."""
        return bool(self.floored[kernels.em.m_step.AT_FLOOR].any())

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """For comparisons: a larger rank is better. A maximum that the covariance floor makes comes last."""
        return (
            self.status in (statuses.CONVERGED, statuses.STEPS_EXHAUSTED),
            not self.at_floor,
            self.value,
        )


def fit_mixture(
    x: ArrayLike,
    k: int,
    *,
    start: GaussianMixture | None = None,
    restarts: int = 10,
    tol: float = 1e-12,
    max_iterations: int = 10_000,
    min_cov: float = 1e-6,
    rng: Any = 0,
    progress: bool = False,
) -> MixtureFit:
    r"""Fit a Gaussian mixture by maximum likelihood: EM, which is variational EM with the exact posterior.

    .. math:: \log p(x; \theta) = \max_q \; E_{q}\bigl[\log p(x, z; \theta) - \log q(z)\bigr]

    The E-step maximises the ELBO in q (it then equals the log likelihood), the M-step in the weights, means
    and covariances θ.

    Parameters
    ----------
    x : array_like, shape (n, d) or (n,)
        The data, one point a row.
    k : int
        The number of components.
    start : GaussianMixture, optional
        The only start; there are no restarts, and nothing is random.
    restarts : int, optional
        Number of starts around points of the data that are chosen by k-means++.
    tol : float, optional
        EM ends when the mean log likelihood (in nats a point) is within `tol` of its maximum, extrapolated
        from the rate at which its steps shrink. The means are then within about sqrt(tol) standard deviations
        of their limits: ``1e-18`` gives eight digits. Above 1e-6 it may end on a plateau.
    max_iterations : int, optional
        Most M-steps for each restart.
    min_cov : float, optional
        Covariance floor: the least variance of a component in any direction, as a fraction of the variance of
        the data in that direction; in [0, 1). It acts only on a covariance below it, where it is the exact
        M-step under that constraint, and the result names the components that it holds. 0: no floor.
    rng : numpy.random.Generator, int or None, optional
        For the starts: a generator, which is advanced, or an integer that makes one. The default, 0, gives
        the same fit each time; None draws other starts at each call.
    progress : bool, optional
        Whether to show a bar over the restarts, where tqdm is installed.

    Returns
    -------
    MixtureFit
        The best restart, whether or not it converged: the largest log likelihood among those that the floor
        does not hold, if there are any. (Without a floor the likelihood is unbounded: it grows without end as
        a component shrinks to d points, where its covariance is singular.)

    Raises
    ------
    ValueError
        Entries that are not finite, fewer points than components, columns that are constant or depend on each
        other, a `start` with another number of components or dimensions, or too far from the data.
    TypeError
        Data that are not real numbers, counts that are not integers, a `start` that is not a
        GaussianMixture.

    Notes
    -----
    The result is the same, to the last bit, for any number of threads. The data are standardized first, so
    that units, offsets and correlations of the columns make no difference.

    Inside compiled code, `prange` included, the same work is done by ``fastvi.kernels.em``: `standardize`,
    `seed`, `fit` and `unstandardize_mixture`, which take arrays and a `workspace`.

    References
    ----------
    A. P. Dempster, N. M. Laird, D. B. Rubin, Maximum Likelihood from Incomplete Data via the EM Algorithm,
    J. R. Statist. Soc. B 39 (1977). C. M. Bishop, Pattern Recognition and Machine Learning (2006), sections
    9.2.2 and 9.4. R. M. Neal, G. E. Hinton, A View of the EM Algorithm that Justifies Incremental, Sparse,
    and other Variants (1998). R. J. Hathaway, A Constrained Formulation of Maximum-Likelihood Estimation for
    Normal Mixture Distributions, Ann. Statist. 13 (1985). D. Arthur, S. Vassilvitskii, k-means++: The
    Advantages of Careful Seeding, SODA (2007).

    Examples
    --------
    >>> import numpy as np
    >>> import fastvi as fv
    >>> from fastvi.data import old_faithful
    >>> fit = fv.fit_mixture(np.column_stack(old_faithful()), 2, tol=1e-18)
    >>> round(fit.log_likelihood, 8), fit.converged
    (-1130.26396018, True)
    >>> fit.mixture.weights.round(8), fit.mixture.means.round(6)
    (array([0.35587286, 0.64412714]), array([[ 2.036388, 54.478516],
           [ 4.289662, 79.968115]]))
    """
    components = integer("k", k, 1)
    points = _data(x, components)
    most = integer("max_iterations", max_iterations, 1)
    wanted, floor = real_number("tol", tol), real_number("min_cov", min_cov)
    if not 0.0 <= wanted < math.inf:
        raise ValueError(f"tol must be a finite number >= 0, not {tol!r}")
    if not 0.0 <= floor < 1.0:
        raise ValueError(f"min_cov must be in [0, 1), not {min_cov!r}")
    count = integer("restarts", restarts, 1)
    columns, mean, factor = _standardized(points)
    size, dim = points.shape
    if start is not None:
        _checked_start(start, components, dim)
        runs = [_from_start(start, columns, mean, factor, floor, wanted, most)]
    else:
        uniforms = generator("rng", rng).random((count, components))
        runs = _from_seeds(uniforms, columns, floor, wanted, most, progress)
    best = max(runs, key=lambda run: run.rank)
    if best.status == statuses.OUT_OF_RANGE or math.isnan(best.value):
        raise ValueError("start has no finite likelihood: it is too far from the data")
    order: Any = np.lexsort(best.means.T[::-1]) if start is None else slice(None)
    shift = size * float(np.log(np.diag(factor)).sum())
    # The log likelihood of the data is that of the standardized data less log |L| for each point.
    return MixtureFit(
        points,
        _mixture(best, order, mean, factor),
        best.trace - shift,
        best.status,
        best.to_gain,
        best.floored[:, order],
        np.array([run.value for run in runs]) - shift,
        np.array([run.at_floor for run in runs]),
    )


def _from_start(
    start: GaussianMixture, columns: Array, mean: Array, factor: Array, floor: float, tol: float, most: int
) -> _Run:
    """The run from a start in the coordinates of the data."""
    run = _Run(start.weights.size, start.dim, most)
    run.weights[:], run.means[:], run.factors[:] = start.weights, start._means, start._factors
    kernels.em.standardization.standardize_mixture(mean, factor, run.means, run.factors)
    run.climb(columns, floor, tol, workspace(start.weights.size, start.dim))
    return run


def _from_seeds(
    uniforms: Array, columns: Array, floor: float, tol: float, most: int, progress: bool
) -> list[_Run]:
    """The runs from seeds by rows of `uniforms` (restarts, components), on threads where that is faster."""
    count, components = uniforms.shape
    dim, size = columns.shape
    runs = [_Run(components, dim, most) for _ in range(count)]

    def climb(i: int) -> None:
        space = workspace(components, dim)
        runs[i].seed(columns, uniforms[i], floor, space)
        runs[i].climb(columns, floor, tol, space)

    worthwhile = count * components * size * dim * _USUAL_ITERATIONS >= threads.WORTHWHILE
    together = (numba.get_num_threads() if progress else count) if worthwhile else 1
    for first in bar(range(0, count, together), progress, "fit_mixture", "batch"):

        def climb_from(i: int, first: int = first) -> None:
            climb(first + i)

        threads.run(climb_from, min(together, count - first))
    return runs


def _mixture(run: _Run, order: Any, mean: Array, factor: Array) -> GaussianMixture:
    """The mixture of a run in the coordinates of the data."""
    means, factors = run.means[order], run.factors[order]
    kernels.em.standardization.unstandardize_mixture(mean, factor, means, factors)
    weights = run.weights[order] / run.weights.sum()
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    covs = factors @ factors.swapaxes(1, 2)
    return restore(GaussianMixture, weights, means, covs, factors, logs)  # type: ignore[no-any-return]
