"""`fit_mixture`: maximum likelihood for Gaussian mixtures, by EM on standardized data with restarts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import kernels
from ..common import threads
from ..common.immutable import restore
from ..common.progress import bar
from ..common.validation import choice, finite_array, generator, integer, real_number
from ..common.values import Array
from ..distributions.gaussian import lower_factor
from ..distributions.mixture import GaussianMixture
from ..kernels import statuses
from . import blocks, priors
from . import variational as variational_bayes
from .coordinates import Frame, scaled, whitened
from .gaps import data, patterns
from .result import MixtureFit, count_of, workspace
from .variational import VariationalMixtureFit

#: Iterations that a fit usually takes: an estimate of its work, for the decision whether to use threads.
_USUAL_ITERATIONS = 16

#: Nanoseconds that EM takes for each point, component and entry of a covariance.
_NANOSECONDS = 1.0

#: Rows for each component that are searched for different ones before all are.
_HEAD = 8

#: Scales of columns that differ by less than this factor are the same for a start.
_SIMILAR = 1.5

#: What `covariance` can be, and the kernels' code for it.
COVARIANCES = {"full": 0, "diag": 1, "tied": 2, "spherical": 3}

#: What `criterion` can be.
CRITERIA = ("bic", "aic")


class _Problem(NamedTuple):
    """Data as EM takes them."""

    frame: Frame
    points: Any  #: the columns, or for data with gaps (columns, patterns, ends)
    frequencies: Array  #: (N,), or (0,) where each point counts once
    kind: int  #: of covariances
    floor: float
    tol: float
    most: int
    stop: NDArray[np.int64]  #: what a workspace calls `control`
    prior: priors.FramePrior

    @property
    def has_gaps(self) -> bool:
        return isinstance(self.points, tuple)

    @property
    def mass(self) -> float:
        """The sum of the points' weights."""
        return float(self.frequencies.sum()) if self.frequencies.size else float(self.frame.columns.shape[1])

    def space(self, components: int) -> Any:
        """This thread's scratch space, with what the kernels read of the problem."""
        made = workspace(components, len(self.frame.mean))
        return made, made._replace(frequencies=self.frequencies, control=self.stop, prior=self.prior.numbers)


class _Start(NamedTuple):
    """What a start is made from: points in clusters, and outliers that have a component of their own."""

    places: Array  #: (D, M): the points in the units in which distances are measured
    columns: Array  #: (D, M): the points
    frequencies: Array  #: (M,), or (0,)
    apart: NDArray[np.bool_] | None = None  #: (N,): which points are left out of the clusters


def _point_weights(weights: Any, size: int) -> Array | None:
    if weights is None:
        return None
    array = finite_array("weights", weights, 1, f"({size},)")
    if array.size != size:
        raise ValueError(f"weights must have shape ({size},), one for each row of x, not {array.shape}")
    if (array < 0.0).any():
        i = int(np.argmax(array < 0.0))
        raise ValueError(f"weights[{i}] is {array[i]!s}: weights must be >= 0")
    with np.errstate(over="ignore"):
        total = float(array.sum())
    if not 0.0 < total < math.inf:
        raise ValueError(f"weights sum to {total!r}: the sum must be positive and finite")
    return array


def _check_size(points: Array, components: int) -> None:
    """Raise where there are more components than points, or than different points."""
    if len(points) < components:
        raise ValueError(f"x has {count_of(len(points), 'point')}, too few for k = {components} components")
    # The first rows usually suffice; to sort all takes longer than an iteration of EM.
    for head in (points[: _HEAD * components], points):
        numbers = np.ascontiguousarray(head + 0.0)
        rows = numbers.view(np.dtype((np.void, numbers.itemsize * numbers.shape[1]))).ravel()
        different = len(np.unique(rows))
        if different >= components:
            return
    raise ValueError(f"x has {count_of(different, 'distinct row')}, too few for k = {components} components")


def _checked_start(start: Any, components: int, dim: int, kind: str) -> None:
    if not isinstance(start, GaussianMixture):
        raise TypeError(f"start must be a GaussianMixture, not {type(start).__name__}")
    if start.weights.size != components:
        raise ValueError(f"start has {count_of(start.weights.size, 'component')}, but k = {components}")
    if start.dim != dim:
        raise ValueError(f"start has dimension {start.dim}, x has {dim}")
    covs = start.covs
    off_diagonal = covs * (1.0 - np.eye(dim))
    variances = np.diagonal(covs, axis1=1, axis2=2)
    for name, wrong, kinds in (
        ("not diagonal", off_diagonal.any(axis=(1, 2)), ("diag", "spherical")),
        ("not a multiple of the identity", (variances != variances[:, :1]).any(axis=1), ("spherical",)),
        ("another than covs[0]", (covs != covs[0]).any(axis=(1, 2)), ("tied",)),
    ):
        if kind in kinds and wrong.any():
            raise ValueError(f"start.covs[{int(np.argmax(wrong))}] is {name}, but covariance={kind!r}")


class _Run:
    """EM from one start: the mixture in the frame's coordinates, the trace, and how it ended."""

    def __init__(self, components: int, dim: int, most: int, mass: float) -> None:
        self.mass = mass
        self.weights = np.empty(components)
        self.means = np.zeros((components, dim))
        self.factors = np.empty((components, dim, dim))
        self.trace = np.full(most + 1, math.nan)
        self.floored = np.zeros((2, components), np.int64)
        self.status, self.steps, self.to_gain = statuses.OUT_OF_RANGE, 0, math.inf

    def seed(self, start: _Start, uniforms: Array, problem: _Problem) -> None:
        """Start from clusters of points, with these uniform numbers: as many for each component."""
        count = self.weights.size - (start.apart is not None)
        size = start.columns.shape[1]
        owner, space = problem.space(count)
        space = space._replace(frequencies=start.frequencies)
        distances, labels = np.empty(size), np.empty(size, np.int64)
        used = uniforms[: uniforms.size // self.weights.size * count]
        kernels.em.seeding.cluster(start.places, used, self.means[:count].copy(), distances, labels, space)
        parts = self.weights[:count], self.means[:count], self.factors[:count]
        kernels.em.seeding.mixture_of_clusters(start.columns, labels, *parts, problem.floor, space)
        del owner
        if start.apart is not None:
            self._add(start.apart, problem)

    def _add(self, apart: NDArray[np.bool_], problem: _Problem) -> None:
        """Make the last component that of these points; it has the covariance of the others besides."""
        frequencies, columns = problem.frequencies, problem.frame.columns
        shares = frequencies / frequencies.sum() if frequencies.size else np.full(apart.size, 1 / apart.size)
        share, rows, factor = shares[apart].sum(), columns[:, apart], self.factors[0]
        self.weights[:-1] *= 1.0 - share
        self.weights[-1] = share
        self.means[-1] = rows @ shares[apart] / share
        spread = (rows - self.means[-1][:, None]) * np.sqrt(shares[apart] / share)
        if problem.kind == COVARIANCES["full"]:
            self.factors[-1] = lower_factor(np.hstack([factor, spread]))
            return
        added = (spread**2).sum(axis=1)
        if problem.kind == COVARIANCES["spherical"]:
            added[:] = added.mean()
        self.factors[-1] = np.diag(np.sqrt(np.diag(factor) ** 2 + added))

    def iterate(self, problem: _Problem, space: Any) -> None:
        """Iterate EM until the likelihood is within `tol` of its maximum."""
        mixture = self.weights, self.means, self.factors
        fit = kernels.em.iterations.fit_with_gaps if problem.has_gaps else kernels.em.iterations.fit
        self.status, self.steps, self.to_gain = fit(
            problem.points,
            *mixture,
            problem.floor,
            problem.tol,
            problem.most,
            self.trace,
            self.floored,
            space,
        )
        self.trace = self.trace[: self.steps + 1].copy()

    @property
    def value(self) -> float:
        """Log likelihood of the standardized data at the end, plus the log prior; -inf if not finite."""
        return float(self.trace[-1]) if self.status != statuses.OUT_OF_RANGE else -math.inf

    @property
    def at_floor(self) -> bool:
        """Whether the covariance floor holds a component."""
        return bool(self.floored[kernels.em.m_step.AT_FLOOR].any())

    @property
    def rank(self) -> tuple[bool, float]:
        """For comparisons: a larger rank is better."""
        return self.status in (statuses.CONVERGED, statuses.STEPS_EXHAUSTED), self.value - self.of_floor

    @property
    def of_floor(self) -> float:
        """What the covariance floor adds to the log likelihood.

        That is what the points of the components that it holds would lose if these were in no direction
        narrower than the data.
        """
        held = self.floored[kernels.em.m_step.AT_FLOOR] > 0
        deviations = np.linalg.svd(self.factors[held], compute_uv=False)
        return float(self.mass * (self.weights[held] @ np.maximum(-np.log(deviations), 0.0).sum(axis=1)))


@overload
def fit_mixture(
    x: ArrayLike,
    k: int | Iterable[int],
    *,
    weights: ArrayLike | None = None,
    covariance: str = "full",
    criterion: str | None = None,
    start: GaussianMixture | None = None,
    restarts: int = 10,
    tol: float = 1e-12,
    max_iterations: int = 10_000,
    min_cov: float = 1e-6,
    variational: Literal[False] = False,
    prior: Mapping[str, Any] | None = None,
    rng: Any = 0,
    progress: bool = False,
) -> MixtureFit: ...
@overload
def fit_mixture(
    x: ArrayLike,
    k: int,
    *,
    variational: Literal[True],
    prior: Mapping[str, Any] | None = None,
    weights: ArrayLike | None = None,
    restarts: int = 10,
    tol: float = 1e-12,
    max_iterations: int = 10_000,
    rng: Any = 0,
    progress: bool = False,
) -> VariationalMixtureFit: ...
def fit_mixture(
    x: ArrayLike,
    k: int | Iterable[int],
    *,
    weights: ArrayLike | None = None,
    covariance: str = "full",
    criterion: str | None = None,
    start: GaussianMixture | None = None,
    restarts: int = 10,
    tol: float = 1e-12,
    max_iterations: int = 10_000,
    min_cov: float = 1e-6,
    variational: bool = False,
    prior: Mapping[str, Any] | None = None,
    rng: Any = 0,
    progress: bool = False,
) -> Any:
    r"""Fit a Gaussian mixture by maximum likelihood: EM, which is variational EM with the exact posterior.

    .. math:: \log p(x; \theta) = \max_q \; E_{q}\bigl[\log p(x, z; \theta) - \log q(z)\bigr]

    The E-step maximises the ELBO in q (it then equals the log likelihood), the M-step in the weights, means
    and covariances θ.

    Parameters
    ----------
    x : array_like, shape (n, d) or (n,)
        The data, one point a row. NaN is a gap: a coordinate that was not observed, at random. EM is exact
        for data with gaps. A `numpy.memmap` (n, d) of 64 MB or more is read in blocks: the restarts are on a
        sample of 2**15 rows, and EM goes on from the best of them on all; it has no gaps.
    k : int or iterable of int
        The number of components, or several to choose from.
    weights : array_like, shape (n,), optional
        A weight for each point, >= 0: how often it counts.
    covariance : {"full", "diag", "tied", "spherical"}, optional
        The kind of covariances: any; diagonal; one for all components; multiples of the identity.
    criterion : {"bic", "aic"}, optional
        What chooses between several `k`: the Bayesian criterion, if None, or Akaike's. Fits that a singular
        covariance ends are taken only if there is no other, and what the floor adds is left out, as below.
    start : GaussianMixture, optional
        The only start; there are no restarts, and nothing is random.
    restarts : int, optional
        Number of starts from clusters: k-means after greedy k-means++ and exchanges of centres. They measure
        distances in turn with each column scaled to variance 1, in the units of the data if these differ, and
        with the data whitened (where `covariance` is full or tied, and there are no gaps). Where there are a
        few outliers, these starts leave them out; then follow one where they are a component of their own,
        and one with clusters of all points.
    tol : float, optional
        EM ends when the mean log likelihood (in nats a point) is within `tol` of its maximum, extrapolated
        from the rate at which its steps shrink. The means are then within about sqrt(tol) standard deviations
        of their limits: ``1e-18`` gives eight digits. Above 1e-6 it may end on a plateau.
    max_iterations : int, optional
        Most M-steps for each restart.
    min_cov : float, optional
        Covariance floor: the least variance of a component in any direction, as a fraction of the variance of
        the data in that direction; in [0, 1). (With gaps, or `covariance` diag or spherical: of each column
        after it is scaled by its deviation, or all by the root of their mean variance.) A few outliers do not
        count for that variance. It acts only on a covariance below it, where it is the exact M-step under
        that constraint, and the result names the components that it holds. 0: no floor. Variational Bayes
        has none: there the prior keeps covariances from being singular.
    variational : bool, optional
        Variational Bayes in place of maximum likelihood: q of labels, weights, means and precisions, with
        conjugate priors, by coordinate ascent of the ELBO. Components that the data do not need lose their
        points. For one k, full covariances, and data without gaps.
    prior : mapping, optional
        For the maximum of the posterior density in place of the likelihood, and for variational Bayes. In
        both the weights are Dirichlet(α), a covariance Σ is inverse-Wishart with ν degrees of freedom and the
        scale Λ, its density a multiple of ``|Σ|**(-(ν + d + 1) / 2) exp(-tr(Λ Σ**-1) / 2)``, and a mean is
        N(m, Σ / κ). "concentration": α, a number or (k,). "degrees_of_freedom" and "scale": ν > d - 1 and Λ.
        "mean" and "mean_precision": m and κ. Of the posterior density (α >= 1, κ >= 0), what is not given is
        flat; but where one of ν and Λ is given, the other is d + 2, or the covariance of the data over
        k**(2 / d), as in Fraley and Raftery (2007). Covariances that are diagonal, spherical or tied have the
        same density of those of their kind. For variational Bayes the defaults are α = 1 / k, κ = 1, m the
        mean of the data, ν = d and Λ their covariance.
    rng : numpy.random.Generator, int or None, optional
        For the starts: a generator, which is advanced, or an integer that makes one. The default, 0, gives
        the same fit each time; None draws other starts at each call.
    progress : bool, optional
        Whether to show a bar over the restarts, where tqdm is installed.

    Returns
    -------
    MixtureFit, or VariationalMixtureFit where `variational`
        The best restart, whether or not it converged: the largest log likelihood, less what the floor adds to
        it. (Without a floor the likelihood is unbounded: it grows without end as a component shrinks to d
        points, where its covariance is singular. So the components that the floor holds count as if they were
        in no direction narrower than the data.)

    Raises
    ------
    ValueError
        Infinite entries, a row or column of NaN alone, fewer different points than components, columns that
        are constant or depend on each other, weights that are negative, not finite or all 0, a `start` with
        another number of components or dimensions, another kind of covariances, or too far from the data; a
        `prior` with other keys, shapes or values.
    TypeError
        Data that are not real numbers, counts that are not integers, a `start` that is not a
        GaussianMixture.

    Notes
    -----
    The result is the same, to the last bit, for any number of threads. The data are standardized first, so
    that from a `start` units, offsets and correlations of the columns make no difference.

    Inside compiled code, `prange` included, the same work is done by ``fastvi.kernels.em``: `standardize`,
    `seed`, `fit` and `unstandardize_mixture`, which take arrays and a `workspace`; `cluster` and
    `mixture_of_clusters` are the two steps of `seed`, for clusters in other units.

    References
    ----------
    A. P. Dempster, N. M. Laird, D. B. Rubin, Maximum Likelihood from Incomplete Data via the EM Algorithm, J.
    R. Statist. Soc. B 39 (1977). C. M. Bishop, Pattern Recognition and Machine Learning (2006), sections
    9.2.2, 9.4 and 10.2. R. M. Neal, G. E. Hinton, A View of the EM Algorithm that Justifies Incremental,
    Sparse, and other Variants (1998). C. Fraley, A. E. Raftery, Bayesian Regularization for Normal Mixture
    Estimation and Model-Based Clustering, J. Classif. 24 (2007). R. J. Hathaway, A Constrained Formulation
    of Maximum-Likelihood Estimation for Normal Mixture Distributions, Ann. Statist. 13 (1985). D. Arthur, S.
    Vassilvitskii, k-means++: The Advantages of Careful Seeding, SODA (2007). S. Lattanzi, C. Sohler, A Better
    k-means++ Algorithm via Local Search, ICML (2019). Z. Ghahramani, M. I. Jordan,
    Supervised Learning from Incomplete Data via an EM Approach, NIPS 6 (1994).

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
    counts, criterion = _counts(k, criterion)
    kind = choice("covariance", covariance, tuple(COVARIANCES))
    in_blocks = blocks.is_large(x) and not variational
    if in_blocks:
        blocks.check(x)
    points: Any = x if in_blocks else data(x)
    size, dim = points.shape
    frequencies = _point_weights(weights, size)
    if in_blocks:
        used, used_frequencies = blocks.sample(points, frequencies)
    else:
        counted: Any = slice(None) if frequencies is None or frequencies.all() else frequencies > 0.0
        used, used_frequencies = points[counted], None if frequencies is None else frequencies[counted]
    for components in counts:
        if len(used) < components <= size:
            found = f"{count_of(len(used), 'point')} of positive weight"
            raise ValueError(f"x has {found}, too few for k = {components} components")
        _check_size(used, components)
    most = integer("max_iterations", max_iterations, 1)
    wanted, floor = real_number("tol", tol), real_number("min_cov", min_cov)
    if not 0.0 <= wanted < math.inf:
        raise ValueError(f"tol must be a finite number >= 0, not {tol!r}")
    if not 0.0 <= floor < 1.0:
        raise ValueError(f"min_cov must be in [0, 1), not {min_cov!r}")
    restarts = integer("restarts", restarts, 1)
    if start is not None:
        if criterion is not None:
            raise ValueError("start is for one k, and gives no choice between several")
        _checked_start(start, counts[0], dim, kind)
    source = generator("rng", rng)
    if variational:
        _check_variational(kind, criterion, start, used)
    problem = _problem(used, used_frequencies, kind, (floor, wanted, most))
    if variational:
        return _variational(source, restarts, counts[0], problem, prior, used, points, progress)
    fits = []
    for components in counts:
        given = priors.in_frame(prior, components, used, problem.frequencies, problem.frame, kind)
        problem = problem._replace(prior=given)
        if start is not None:
            runs = [_from_start(start, problem)]
        else:
            runs = _from_seeds(source, restarts, components, problem, progress)
        if in_blocks:
            runs = [_continued(max(runs, key=lambda run: run.rank), points, frequencies, problem, progress)]
        fits.append(_result(points, frequencies, kind, runs, problem, start is None))
    return fits[0][0] if criterion is None else _selected(fits, criterion)


def _check_variational(kind: str, criterion: str | None, start: Any, points: Array) -> None:
    """Raise for what variational Bayes does not take."""
    if criterion is not None:
        raise ValueError("variational=True takes one k: components that are not needed switch off")
    if start is not None:
        raise ValueError("variational=True takes no start")
    if kind != "full":
        raise ValueError(f'variational=True needs covariance="full", not {kind!r}')
    if np.isnan(points).any():
        row, column = (int(i[0]) for i in np.nonzero(np.isnan(points)))
        raise ValueError(f"variational=True takes no gaps: x[{row}, {column}] is nan")


def _variational(
    source: np.random.Generator,
    restarts: int,
    components: int,
    problem: _Problem,
    prior: Any,
    used: Array,
    points: Array,
    progress: bool,
) -> VariationalMixtureFit:
    """The best run of variational Bayes from clusters of the data."""
    dim, size = problem.frame.columns.shape
    counts = problem.frequencies if problem.frequencies.size else np.ones(size)
    known = variational_bayes.checked_prior(prior, components, used, counts)
    inner = variational_bayes.in_frame(known, problem.frame)
    candidates = 2 + int(math.log(components)) if components > 1 else 1
    uniforms = source.random((restarts, components * candidates))
    kinds = _places(problem) if components > 1 else [problem.frame.columns]
    rows = np.ascontiguousarray(problem.frame.columns.T)
    distances, labels = np.empty(size), np.empty(size, np.int64)
    runs = []
    for i in bar(range(restarts), progress, "fit_mixture", "restart"):
        owner, space = problem.space(components)
        places, centres = kinds[i % len(kinds)], np.empty((components, dim))
        kernels.em.seeding.cluster(places, uniforms[i], centres, distances, labels, space)
        del owner
        shares = np.eye(components)[labels]
        runs.append(variational_bayes.ascend(rows, counts, shares, inner, problem.tol, problem.most))
    return variational_bayes.result(runs, problem.frame, points, float(counts.sum()))


def _counts(k: Any, criterion: Any) -> tuple[list[int], str | None]:
    """The numbers of components to try, and the criterion that chooses: None where there is no choice."""
    if not isinstance(k, Iterable) or isinstance(k, str) or getattr(k, "ndim", 1) == 0:
        if criterion is not None:
            raise ValueError("criterion chooses between several k: give a range, as range(1, 9)")
        return [integer("k", k, 1)], None
    counts = [integer(f"k[{i}]", one, 1) for i, one in enumerate(k)]
    if not counts:
        raise ValueError("k is empty: give a number, or several to choose from")
    if len(set(counts)) < len(counts):
        raise ValueError(f"k has equal entries: {counts}")
    return counts, choice("criterion", "bic" if criterion is None else criterion, CRITERIA)


def _selected(fits: list[tuple[MixtureFit, float]], criterion: str) -> MixtureFit:
    """The fit with the least criterion, without what the floor adds; one that is a maximum, if any is."""
    values = {fit.mixture.weights.size: float(getattr(fit, criterion)) for fit, _ in fits}

    def rank(pair: tuple[MixtureFit, float]) -> tuple[bool, float]:
        fit, of_floor = pair
        return fit.is_singular, values[fit.mixture.weights.size] + 2.0 * of_floor

    best = min(fits, key=rank)[0]
    object.__setattr__(best, "criteria", values)
    return best


def _problem(
    points: Array, frequencies: Array | None, kind: str, limits: tuple[float, float, int]
) -> _Problem:
    """The data in coordinates that suit the kind of covariances; those with gaps, in order of these."""
    control = np.array([0, COVARIANCES[kind]])
    gaps = np.isnan(points).any()
    if gaps:
        found = patterns(points)
        points = points[found.order]
        frequencies = None if frequencies is None else frequencies[found.order]
    if gaps or kind in ("diag", "spherical"):
        frame = scaled(points, frequencies, kind == "spherical")
    else:
        frame = whitened(points, frequencies)
    given = (frame.columns, found.table, found.ends) if gaps else frame.columns
    counts = np.empty(0) if frequencies is None else frequencies
    return _Problem(frame, given, counts, COVARIANCES[kind], *limits, control, priors.FLAT)


def _from_start(start: GaussianMixture, problem: _Problem) -> _Run:
    """The run from a start in the coordinates of the data."""
    components, frame = start.weights.size, problem.frame
    run = _Run(components, start.dim, problem.most, problem.mass)
    run.weights[:], run.means[:], run.factors[:] = start.weights, start._means, start._factors
    kernels.em.standardization.standardize_mixture(frame.mean, frame.factor, run.means, run.factors)

    def task(_: int) -> None:
        owner, space = problem.space(components)
        run.iterate(problem, space)
        del owner

    _run(task, 1, components, problem, 1)
    return run


def _from_seeds(
    source: np.random.Generator, restarts: int, components: int, problem: _Problem, progress: bool
) -> list[_Run]:
    """The runs from clusters of the data, on threads where that is faster."""
    dim, size = problem.frame.columns.shape
    candidates = 2 + int(math.log(components)) if components > 1 else 1
    uniforms = source.random((restarts, components * candidates))
    runs = [_Run(components, dim, problem.most, problem.mass) for _ in range(restarts)]
    kinds = _starts(problem, components)

    def task(i: int) -> None:
        runs[i].seed(kinds[i % len(kinds)], uniforms[i], problem)
        owner, space = problem.space(components)
        runs[i].iterate(problem, space)
        del owner

    worthwhile = restarts * components * size * dim * _USUAL_ITERATIONS >= threads.WORTHWHILE
    together = (threads.allowed() if progress else restarts) if worthwhile else 1
    for first in bar(range(0, restarts, together), progress, "fit_mixture", "batch"):

        def task_from(i: int, first: int = first) -> None:
            task(first + i)

        pieces = min(together, restarts - first)
        _run(task_from, pieces, components, problem, threads.allowed() if worthwhile else 1)
    return runs


def _continued(run: _Run, x: Any, frequencies: Array | None, problem: _Problem, progress: bool) -> _Run:
    """The run on a sample continued on all data, which are read in blocks."""

    def space(components: int) -> Any:
        owner, made = problem.space(components)
        return owner, made._replace(frequencies=np.empty(0), prior=np.empty(0))

    blocks.iterate(run, problem, blocks.Sweeps(x, frequencies, problem.frame, space), progress)
    return run


def _run(task: Any, pieces: int, components: int, problem: _Problem, workers: int) -> None:
    """Run the tasks, so that Ctrl-C interrupts those that may take long."""
    dim, size = problem.frame.columns.shape
    if size * components * (dim + 3) ** 2 * problem.most * _NANOSECONDS < threads.SHORT:
        threads.run(task, pieces)
        return

    def stop() -> None:
        problem.stop[kernels.em.e_step.STOP] = 1

    threads.run_interruptibly(task, pieces, workers, stop)


def _places(problem: _Problem) -> list[Array]:
    """The points in the units in which starts measure distances: one array for each kind of start.

    Scaled columns, where each has variance 1; the data as they are, where the scales differ; whitened, where
    clusters are seen that the correlations hide. Whitening hides clusters in many dimensions: there each
    direction of noise counts as much as one that separates the clusters.
    """
    frame = problem.frame
    scales = frame.scales
    relative = (frame.factor @ frame.columns) / scales[:, None]
    kinds = [np.ascontiguousarray(relative)]
    if scales.max() > _SIMILAR * scales.min():
        kinds.append(np.ascontiguousarray(relative * (scales / scales.max())[:, None]))
    if np.tril(frame.factor, -1).any():
        kinds.append(frame.columns)
    return kinds


def _starts(problem: _Problem, components: int) -> list[_Start]:
    """What starts are made from in turn: one for each kind of distances; with outliers also others.

    A few outliers take centres from clusters. So starts leave them out, first; then they are a component of
    their own; and in the last kind each may be one.
    """
    columns, far, frequencies = problem.frame.columns, problem.frame.far, problem.frequencies
    if components == 1:
        return [_Start(columns, columns, frequencies)]
    places = _places(problem)
    if far is None or (~far).sum() < components:
        return [_Start(place, columns, frequencies) for place in places]
    inner = np.ascontiguousarray(columns[:, ~far]), frequencies[~far] if frequencies.size else frequencies
    starts = [_Start(np.ascontiguousarray(place[:, ~far]), *inner) for place in places]
    if problem.kind != COVARIANCES["tied"]:
        starts.append(starts[0]._replace(apart=far))
    return [*starts, _Start(places[0], columns, frequencies)]


def _result(
    points: Array, frequencies: Array | None, kind: str, runs: list[_Run], problem: _Problem, sort: bool
) -> tuple[MixtureFit, float]:
    """The best run as the result, with what is known of all; what the floor adds to its likelihood."""
    best = max(runs, key=lambda run: run.rank)
    if best.status == statuses.OUT_OF_RANGE or math.isnan(best.value):
        raise ValueError(
            "no start has a finite likelihood: the data are out of range"
            if sort
            else "start has no finite likelihood: it is too far from the data"
        )
    mean, factor = problem.frame.mean, problem.frame.factor
    order: Any = np.lexsort(best.means.T[::-1]) if sort else slice(None)
    # The log likelihood of the data is that of the standardized data less log |L| for each point.
    logs = np.log(np.diag(factor))
    if problem.has_gaps:
        observed = np.isfinite(points).astype(float)
        shift = float(
            (observed if frequencies is None else frequencies[:, None] * observed).sum(axis=0) @ logs
        )
    else:
        shift = (len(points) if frequencies is None else float(frequencies.sum())) * float(logs.sum())
    shift -= problem.prior.moved
    fit = MixtureFit(
        points,
        _mixture(best, order, mean, factor),
        best.trace - shift,
        best.status,
        best.to_gain,
        best.floored[:, order],
        np.array([run.value for run in runs]) - shift,
        np.array([run.at_floor for run in runs]),
        frequencies,
        kind,
        log_prior=problem.prior.log_density(best.weights, best.means, best.factors),
    )
    return fit, best.of_floor


def _mixture(run: _Run, order: Any, mean: Array, factor: Array) -> GaussianMixture:
    """The mixture of a run in the coordinates of the data."""
    means, factors = run.means[order], run.factors[order]
    kernels.em.standardization.unstandardize_mixture(mean, factor, means, factors)
    weights = run.weights[order] / run.weights.sum()
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    covs = factors @ factors.swapaxes(1, 2)
    return restore(GaussianMixture, weights, means, covs, factors, logs)  # type: ignore[no-any-return]
