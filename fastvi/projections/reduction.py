"""`reduce_mixture`: a mixture with fewer components, by greedy merges, and the closest one by KL(p ‖ q)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common import scratch, threads
from ..common.immutable import Record, restore
from ..common.validation import choice, integer, real_number
from ..common.values import Array, Triple
from ..distributions.bounds import kl_bounds
from ..distributions.gaussian import Gaussian
from ..distributions.integrals import Estimate, normal_points
from ..distributions.kl_and_entropy import kl_estimate
from ..distributions.mixture import GaussianMixture
from ..kernels import statuses

#: What `method` can be.
METHODS = ("kl", "runnalls", "williams")

#: Steps of the lattices under each component, in standard deviations, and their radius.
_STEPS, _RADIUS = (0.5, 0.25, 0.125, 0.0625), 6.5

#: Steps of EM from one extrapolation to the next, and the least weight whose logarithm is extrapolated.
_BURST, _LEAST_WEIGHT = 4, 1e-300

#: Most dimensions of a lattice.
_LATTICE_DIM = 2

#: Most nodes under all components: of lattices, and of Sobol points where the dimensions are more.
_MOST_NODES, _SOBOL_NODES = 1 << 18, 1 << 16

#: Least and most pairs of Sobol points under a component.
_LEAST_PAIRS, _MOST_PAIRS = 128, 4096

#: Seed of the Sobol points: other points than those that estimate divergences.
_SEED = 1000

#: Change of the divergence by a finer lattice that is small enough, over `tol`.
_SETTLED = 10.0

#: Relative error wanted of divergences: in the plane, 1e-10 takes twice as long.
_RTOL = 1e-6

#: Status of a greedy reduction, of one that the refinement cannot improve, and of one that is exact.
_MERGED = "merged greedily"
_NOT_IMPROVED = "the refinement found nothing better than the greedy merges"
_EXACT = "exact"

#: How the refinement ended.
_WORDS = {
    statuses.CONVERGED: "converged",
    statuses.STEPS_EXHAUSTED: "not converged: the iterations ran out",
    statuses.SINGULAR: "not converged: a component shrinks to a point of the quadrature",
    statuses.OUT_OF_RANGE: "not converged: no finite value",
}


class Reduction(Record):
    """A mixture q with fewer components than p, and its divergence.

    Attributes
    ----------
    mixture, q : GaussianMixture
        The mixture, by either name.
    kl, error : float
        KL(p ‖ q) in nats and its error, those of `kl_estimate` with rtol 1e-6; computed at the first access.
    estimate : Estimate
        The same.
    kl_before : float
        KL from p to what the greedy merges make, before the refinement.
    bound_before : float
        Runnalls' upper bound of `kl_before`, the sum of what the merges cost; NaN for "williams".
    bound_after : float
        The upper bound of `kl` that `kl_bounds` gives.
    method : str
        "kl", "runnalls" or "williams".
    iterations : int
        Steps of the refinement; 0 for "runnalls".
    converged : bool
        Whether q is within `tol` of a local minimum. False for greedy merges alone.
    status : str
        How the reduction ended, in words.

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.3, 0.4], [-1, 1, 9], [1, 1, 1])
    >>> fv.reduce_mixture(p, 2)
    Reduction(3 components to 2, kl=0.00577628, converged)
    """

    mixture: GaussianMixture
    method: str
    bound_before: float
    iterations: int
    converged: bool
    status: str
    _p: GaussianMixture
    _merged: GaussianMixture

    @property
    def q(self) -> GaussianMixture:
        """The mixture, by the name that it has in a `Projection`."""
        return self.mixture

    @cached_property
    def estimate(self) -> Estimate:
        """KL(p ‖ q) with its error."""
        return _divergence(self._p, self.mixture)

    @property
    def kl(self) -> float:
        """KL(p ‖ q) in nats."""
        return self.estimate.value

    @property
    def error(self) -> float:
        """The error of `kl`: a bound, or in more than three dimensions a standard error."""
        return self.estimate.error

    @cached_property
    def kl_before(self) -> float:
        """KL from p to what the greedy merges make."""
        return _divergence(self._p, self._merged).value

    @cached_property
    def bound_after(self) -> float:
        """An upper bound of `kl`, from pairs of components."""
        return kl_bounds(self._p, self.mixture).upper

    def __repr__(self) -> str:
        before, after = self._p.weights.size, self.mixture.weights.size
        return f"Reduction({before} components to {after}, kl={self.kl:.6g}, {self.status})"


def _divergence(p: GaussianMixture, q: GaussianMixture) -> Estimate:
    return Estimate(0.0, 0.0, 0, "closed form") if p is q else kl_estimate(p, q, rtol=_RTOL)


class _Frame:
    """Coordinates in which p has mean 0 and covariance I, and p in them."""

    def __init__(self, p: GaussianMixture) -> None:
        used = p.weights > 0.0
        self.weights, self.logs = p.weights[used], p._log_weights[used]
        self.means, self.factors = p._means[used], p._factors[used]
        self.mean = np.array(p.mean)
        try:
            self.factor = np.linalg.cholesky(p.cov)
        except np.linalg.LinAlgError:
            self.factor = np.diag(np.sqrt(np.diag(p.cov)))
        kernels.em.standardization.standardize_mixture(self.mean, self.factor, self.means, self.factors)

    @property
    def triple(self) -> Triple:
        return self.logs, self.means, self.factors

    def mixture(self, q: Triple) -> GaussianMixture:
        """A mixture (weights, means, factors) of this frame in the coordinates of p."""
        weights, means, factors = (np.array(part) for part in q)
        kernels.em.standardization.unstandardize_mixture(self.mean, self.factor, means, factors)
        weights /= weights.sum()
        with np.errstate(divide="ignore"):
            logs = np.log(weights)
        covs = factors @ factors.swapaxes(1, 2)
        return restore(GaussianMixture, weights, means, covs, factors, logs)  # type: ignore[no-any-return]


def _empty(count: int, dim: int) -> Triple:
    return np.empty(count), np.empty((count, dim)), np.empty((count, dim, dim))


def _greedy(frame: _Frame, count: int, method: str) -> tuple[Triple, float]:
    """The greedy merges: (weights, means, factors) and Runnalls' bound."""
    components, dim = frame.means.shape
    q, room = _empty(count, dim), kernels.projections.reductions
    space = scratch.space(room.workspace, components, dim)
    if method == "williams":
        good, bound = room.williams(frame.triple, q, room.log_scale(frame.triple), space), math.nan
    else:
        bound = float(room.runnalls(frame.triple, q, space))
        good = bound < math.inf
    if not good:
        raise ValueError("a merged covariance of p is not positive definite: its components are too narrow")
    return q, bound


def _standard_nodes(dim: int, level: int, components: int) -> tuple[Array, Array] | None:
    """Nodes and weights under the standard normal, with its mean and covariance; None if they are too many.

    Up to two dimensions those of the trapezoid rule in a ball; above, pairs of opposite Sobol points.
    """
    if dim <= _LATTICE_DIM:
        step = _STEPS[level]
        axis = step * np.arange(-math.floor(_RADIUS / step), math.floor(_RADIUS / step) + 1)
        nodes = np.stack(np.meshgrid(*[axis] * dim), axis=-1).reshape(-1, dim)
        nodes = nodes[(nodes**2).sum(axis=1) <= _RADIUS**2]
        weights = np.exp(-0.5 * (nodes**2).sum(axis=1))
        weights /= weights.sum()
        return None if level > 0 and len(nodes) * components > _MOST_NODES else (nodes, weights)
    if level > 0:
        return None
    pairs = min(max(_SOBOL_NODES // (2 * components), _LEAST_PAIRS), _MOST_PAIRS)
    pairs = 1 << max(pairs.bit_length() - 1, (4 * dim).bit_length())
    half = normal_points(_SEED, dim, pairs)[1]
    nodes = np.concatenate([half, -half])
    return nodes, np.full(len(nodes), 1.0 / len(nodes))


def _nodes(frame: _Frame, level: int) -> tuple[Array, Array] | None:
    """Nodes (D, N) under p and their weights; None if they are too many. p keeps its mean and covariance."""
    components, dim = frame.means.shape
    found = _standard_nodes(dim, level, components)
    if found is None:
        return None
    nodes, weights = found
    chol = np.linalg.cholesky((nodes * weights[:, None]).T @ nodes)
    nodes = np.linalg.solve(chol, nodes.T)
    points = frame.means[:, :, None] + frame.factors @ nodes
    columns = np.ascontiguousarray(points.swapaxes(0, 1).reshape(dim, -1))
    return columns, (frame.weights[:, None] * weights).ravel()


def _climb(frame: _Frame, q: Triple, tol: float, most: int) -> tuple[int, int, bool]:
    """EM on p itself from q, which is overwritten: (status, steps, whether KL(p ‖ q) is certainly lower).

    KL(p ‖ q) is a constant less E_p[log q], the mean log likelihood of data that are p. Each lattice is half
    as coarse as the one before, until that changes nothing. On a coarse one a component may shrink to a node.
    """
    status, steps, value, lower = statuses.STEPS_EXHAUSTED, 0, math.nan, False
    first = [np.array(part) for part in q]
    for level in range(len(_STEPS)):
        nodes = _nodes(frame, level)
        if nodes is None or steps >= most:
            break
        start = [np.array(part) for part in q]
        status, taken, reached = _Ascent(*nodes, q, tol).run(most - steps)
        steps += taken
        if status not in (statuses.CONVERGED, statuses.STEPS_EXHAUSTED):
            for part, before in zip(q, start, strict=True):
                part[...] = before
            continue
        change, value = abs(reached - value), reached
        if status != statuses.CONVERGED or change <= _SETTLED * tol:
            lower = reached - _mean_log(*nodes, first) > change
            break
    return status, steps, lower


def _mean_log(columns: Array, frequencies: Array, q: list[Array]) -> float:
    """E_p[log q] by nodes and their weights."""
    out = np.empty(frequencies.size)
    triple = np.log(q[0]), q[1], q[2]
    points = np.ascontiguousarray(columns.T)
    kernels.densities.mixtures.mixture_logpdf_many(points, *triple, np.empty(len(columns)), out)
    return float(frequencies @ out)


class _Ascent:
    """EM for weighted points (D, N) from q, which is overwritten, with extrapolation of its steps.

    EM converges linearly. Bursts of its steps are extrapolated as single steps are in R. Varadhan, C. Roland,
    Simple and Globally Convergent Methods for Accelerating the Convergence of Any EM Algorithm, Scand. J.
    Statist. 35 (2008), scheme S3. Where that does not raise the likelihood, it is taken back.
    """

    def __init__(self, columns: Array, frequencies: Array, q: Triple, tol: float) -> None:
        count, dim = q[1].shape
        self.q, self.tol, self.columns = q, tol, columns
        self.diagonal: Any = (slice(None), *np.diag_indices(dim))
        self.control: NDArray[np.int64] = np.zeros(2, np.int64)
        self.floored = np.empty((2, count), np.int64)
        self.owner = scratch.space(kernels.em.e_step.workspace, count, dim)
        self.space = self.owner._replace(frequencies=frequencies, control=self.control)

    def stop(self) -> None:
        """End the burst that runs on another thread."""
        self.control[kernels.em.e_step.STOP] = 1

    def burst(self, most: int) -> tuple[int, int, float]:
        """(status, steps, mean log likelihood at the end)."""
        trace, ended = np.full(most + 1, math.nan), []

        def task(_: int) -> None:
            arguments = self.columns, *self.q, 0.0, self.tol, most, trace, self.floored, self.space
            ended.append(kernels.em.iterations.fit(*arguments))

        threads.run_interruptibly(task, 1, 1, self.stop)
        status, steps, _ = ended[0]
        return status, steps, float(trace[steps])

    @property
    def theta(self) -> list[Array]:
        """Coordinates without constraints: logarithms of the weights, means, factors with logarithms."""
        weights, means, factors = (np.array(part) for part in self.q)
        factors[self.diagonal] = np.log(factors[self.diagonal])
        return [np.log(np.maximum(weights, _LEAST_WEIGHT)), means, factors]

    def write(self, theta: list[Array]) -> None:
        """Set q to these coordinates."""
        weights, means, factors = self.q
        logs, means[...], factors[...] = theta
        weights[...] = np.exp(logs - np.logaddexp.reduce(logs))
        factors[self.diagonal] = np.exp(factors[self.diagonal])

    def run(self, most: int) -> tuple[int, int, float]:
        """Climb to a maximum: (status, steps, mean log likelihood)."""
        steps, best, reached = 0, -math.inf, -math.inf
        kept = points = [self.theta]
        while True:
            status, taken, reached = self.burst(min(_BURST, most - steps))
            steps += taken
            usable = status in (statuses.CONVERGED, statuses.STEPS_EXHAUSTED) and reached >= best
            extrapolated = len(points) == 1 and best > -math.inf
            if not usable and extrapolated:
                self.write(kept[-1])
                points, reached = [kept[-1]], best
                best = -math.inf
                if steps < most:
                    continue
                return statuses.STEPS_EXHAUSTED, steps, reached
            if status != statuses.STEPS_EXHAUSTED or steps >= most:
                return status, steps, reached
            best, points = reached, [*points, self.theta]
            if len(points) == 3:
                kept, points = points, [_extrapolated(points)]
                self.write(points[0])


def _extrapolated(points: list[list[Array]]) -> list[Array]:
    """Where three points of a sequence that converges linearly lead to."""
    first, second, third = points
    steps = [b - a for a, b in zip(first, second, strict=True)]
    bends = [c - b - step for b, c, step in zip(second, third, steps, strict=True)]
    length, bend = (math.sqrt(sum(float((part**2).sum()) for part in parts)) for parts in (steps, bends))
    far = max(length / bend, 1.0) if bend > 0.0 else 1.0
    return [
        start + 2.0 * far * step + far * far * turn
        for start, step, turn in zip(first, steps, bends, strict=True)
    ]


def _refine_kl(frame: _Frame, q: Triple, tol: float, most: int) -> tuple[Triple, int, int, bool]:
    """The local minimum of KL(p ‖ q) near q; also whether this is certainly lower than that of q."""
    refined = np.array(q[0]), np.array(q[1]), np.array(q[2])
    return refined, *_climb(frame, refined, tol, most)


def _refine_squares(frame: _Frame, q: Triple, tol: float, most: int) -> tuple[Triple, int, int, bool]:
    """The local minimum of the integral squared error near q, by L-BFGS.

    In the logarithms of the weights, the means, and the factors with the logarithms of their diagonals.
    """
    from scipy.optimize import minimize

    count, dim = q[1].shape
    room = kernels.projections.reductions
    space = scratch.space(room.workspace, len(frame.means), dim)
    shift, rows, columns = room.log_scale(frame.triple), *np.tril_indices(dim)
    gradients = np.empty((count, 1 + dim + dim * dim))
    on_diagonal = rows == columns

    def mixture(theta: Array) -> Triple:
        table = theta.reshape(count, -1)
        weights = np.exp(table[:, 0] - table[:, 0].max())
        factors = np.zeros((count, dim, dim))
        factors[:, rows, columns] = np.where(on_diagonal, np.exp(table[:, 1 + dim :]), table[:, 1 + dim :])
        return weights / weights.sum(), np.ascontiguousarray(table[:, 1 : 1 + dim]), factors

    def error(theta: Array) -> tuple[float, Array]:
        weights, means, factors = mixture(theta)
        value = room.squared_error(frame.triple, (weights, means, factors), shift, gradients, space)
        out = np.empty((count, theta.size // count))
        out[:, 0] = weights * (gradients[:, 0] - weights @ gradients[:, 0])
        out[:, 1 : 1 + dim] = gradients[:, 1 : 1 + dim]
        by_factor = 2.0 * gradients[:, 1 + dim :].reshape(count, dim, dim) @ factors
        scales = np.where(on_diagonal, factors[:, rows, columns], 1.0)
        out[:, 1 + dim :] = by_factor[:, rows, columns] * scales
        return value, out.ravel()

    weights, means, factors = q
    entries = factors[:, rows, columns]
    logs = np.where(on_diagonal, np.log(np.where(on_diagonal, entries, 1.0)), entries)
    start = np.concatenate([np.log(weights)[:, None], means, logs], axis=1).ravel()
    options = {"maxiter": most, "maxfun": 2 * most, "ftol": tol, "gtol": math.sqrt(tol), "maxcor": 20}
    found = minimize(error, start, jac=True, method="L-BFGS-B", options=options)
    return (
        mixture(found.x),
        statuses.CONVERGED if found.success else statuses.STEPS_EXHAUSTED,
        int(found.nit),
        True,
    )


_REFINEMENTS: dict[str, Callable[..., tuple[Triple, int, int, bool]]] = {
    "kl": _refine_kl,
    "williams": _refine_squares,
}


def reduce_mixture(
    p: Gaussian | GaussianMixture,
    k: int,
    method: str = "kl",
    *,
    tol: float = 1e-8,
    max_iterations: int = 2_000,
) -> Reduction:
    r"""A mixture with at most k components that is close to p.

    .. math:: q^* = \arg\min_q \mathrm{KL}(p \,\|\, q), \qquad
              B_{ij} = \tfrac12 \bigl[(w_i + w_j) \log |\Sigma_{ij}| - w_i \log |\Sigma_i|
              - w_j \log |\Sigma_j|\bigr]

    Parameters
    ----------
    p : GaussianMixture or Gaussian
        In any dimension.
    k : int
        The number of components that are wanted.
    method : {"kl", "runnalls", "williams"}, optional
        "runnalls": of all pairs of components the one with the least :math:`B_{ij}` is merged, which bounds
        what the merge adds to the divergence, until k are left; Σ_ij is the covariance of the merged pair.
        "kl": this, and then EM on p itself, each step of which lowers KL(p ‖ q), to a local minimum.
        "williams": the same for the integral of (p - q)**2: greedy merges, then L-BFGS.
    tol : float, optional
        The refinement ends when the divergence is within `tol` nats of its local minimum, extrapolated; for
        "williams", when a step lowers the error by less than this share of its largest term.
    max_iterations : int, optional
        Most steps of the refinement.

    Returns
    -------
    Reduction
        Merges, and "kl", keep the mean and the covariance of p. Where p has at most k components, q
        is p.

    Raises
    ------
    TypeError
        Another kind of p, a k that is not an integer.
    ValueError
        A k below 1, an unknown method, a `tol` that is not positive and finite; a merged covariance that is
        singular to rounding.

    Notes
    -----
    EM takes its expectations under p by the trapezoid rule under each component in one and two dimensions,
    with steps that are halved until nothing changes; above, by Sobol points under each component, so that q
    is the minimum for these points. The divergence that the result gives is that of `kl_estimate`. Where it
    is not below that of the greedy merges, these are the result.

    References
    ----------
    A. R. Runnalls, Kullback-Leibler Approach to Gaussian Mixture Reduction, IEEE Trans. Aerosp. Electron.
    Syst. 43 (2007). J. L. Williams, P. S. Maybeck, Cost-Function-Based Gaussian Mixture Reduction for Target
    Tracking, Fusion (2003). D. F. Crouse, P. Willett, K. Pattipati, L. Svensson, A Look at Gaussian Mixture
    Reduction Algorithms, Fusion (2011).

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.3, 0.4], [-1, 1, 9], [1, 1, 1])
    >>> r = fv.reduce_mixture(p, 2)
    >>> r.mixture.weights.round(3), r.mixture.means.ravel().round(2)
    (array([0.6, 0.4]), array([0., 9.]))
    >>> round(r.bound_before, 6), r.kl < r.kl_before < r.bound_before
    (0.207944, True)
    """
    if not isinstance(p, Gaussian | GaussianMixture):
        raise TypeError(f"p must be a Gaussian or a GaussianMixture, not {type(p).__name__}")
    name = choice("method", method, METHODS)
    count, most = integer("k", k, 1), integer("max_iterations", max_iterations, 1)
    wanted = real_number("tol", tol)
    if not 0.0 < wanted < math.inf:
        raise ValueError(f"tol must be positive and finite, not {tol!r}")
    if isinstance(p, Gaussian):
        logs, means, factors = p._triple()
        p = restore(GaussianMixture, np.ones(1), means, np.array(p.cov)[None], factors, logs)
    assert isinstance(p, GaussianMixture)
    fields = {"method": name, "_p": p}
    if np.count_nonzero(p.weights) <= count:
        return Reduction(
            mixture=p, _merged=p, bound_before=0.0, iterations=0, converged=True, status=_EXACT, **fields
        )
    frame = _Frame(p)
    q, bound = _greedy(frame, count, name)
    merged = frame.mixture(q)
    fields |= {"_merged": merged, "bound_before": bound}
    alone = name == "runnalls" or (name == "kl" and count == 1)
    if not alone:
        refined, status, steps, lower = _REFINEMENTS[name](frame, q, wanted, most)
        result = Reduction(
            mixture=frame.mixture(refined),
            iterations=steps,
            converged=status == statuses.CONVERGED,
            status=_WORDS[status],
            **fields,
        )
        if lower or result.kl <= result.kl_before:
            return result
    words = _NOT_IMPROVED if not alone else _EXACT if count == 1 else _MERGED
    return Reduction(mixture=merged, iterations=0, converged=words == _EXACT, status=words, **fields)
