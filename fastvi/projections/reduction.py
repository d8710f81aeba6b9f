"""`reduce_mixture`: a mixture with fewer components, by greedy merges, and the closest one by KL(p ‖ q)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np

from .. import kernels
from ..common import scratch, threads
from ..common.immutable import Record, restore
from ..common.validation import choice, integer, real_number
from ..common.values import Triple
from ..distributions.ascent import Parts
from ..distributions.bounds import kl_bounds
from ..distributions.gaussian import Gaussian
from ..distributions.grid import Grid2D
from ..distributions.integrals import Estimate
from ..distributions.kl_and_entropy import kl_estimate
from ..distributions.mixture import GaussianMixture
from ..kernels import borrowing, statuses

#: What `method` can be.
METHODS = ("kl", "runnalls", "williams")

#: Sweeps that a refinement usually makes, nodes under a component of p, and nanoseconds for each node,
#: component of q and entry of a covariance.
_USUAL_SWEEPS, _USUAL_NODES, _NANOSECONDS = 50, 500, 0.5

#: Where q fits the nodes at first, a refinement takes so many times longer than usual: 54 times once.
_LONGEST = 50

#: Relative error wanted of divergences: in the plane, 1e-10 takes twice as long.
_RTOL = 1e-6

#: Status of a greedy reduction, of one that the refinement cannot improve, and of one that is exact: q is p,
#: to rounding at least, or has one component.
_MERGED = "merged greedily"
_NOT_IMPROVED = "the refinement found nothing better than the greedy merges"
_EXACT = "exact"

#: How the refinement ended.
_WORDS = {
    statuses.CONVERGED: "converged",
    statuses.STEPS_EXHAUSTED: "not converged: the iterations ran out",
    statuses.UNRESOLVED: "not converged: a component is too narrow for the nodes of the quadrature",
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
        Whether the last steps promised to gain less than `tol`. Along flat directions they promise too
        little: of 36 reductions two ended 3e-4 of `kl` and more above the minimum. False for greedy merges
        alone, if they are not exact to rounding.
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


def as_mixture(p: Gaussian | GaussianMixture) -> GaussianMixture:
    """A Gaussian as a mixture of one."""
    if isinstance(p, GaussianMixture):
        return p
    logs, means, factors = p._triple()
    found: GaussianMixture = restore(GaussianMixture, np.ones(1), means, np.array(p.cov)[None], factors, logs)
    return found


class Frame:
    """Coordinates in which p has mean 0 and covariance I, and p in them."""

    def __init__(self, p: GaussianMixture) -> None:
        used = p.weights > 0.0
        self.weights, self.logs = p.weights[used], p._log_weights[used]
        self.means, self.factors = p._means[used], p._factors[used]
        room, (cov, self.factor) = kernels.em.standardization, np.empty((2, p.dim, p.dim))
        self.mean = np.empty(p.dim)
        room.write_frame(self.triple, self.mean, cov, self.factor)
        room.standardize_mixture(self.mean, self.factor, self.means, self.factors)

    @property
    def triple(self) -> Triple:
        """p as the kernels take it."""
        return self.logs, self.means, self.factors

    def parts(self, q: GaussianMixture) -> Parts:
        """A mixture in this frame, without components of no weight."""
        used = q.weights > 0.0
        means, factors = q._means[used], q._factors[used]
        kernels.em.standardization.standardize_mixture(self.mean, self.factor, means, factors)
        return Parts(q._log_weights[used], means, factors)

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


def greedy_merges(frame: Frame, count: int, method: str) -> tuple[Triple, float]:
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


def run(refine: Callable[[], Any], entries: float, most: int, stop: Callable[[], None]) -> Any:
    """What a refinement returns; where so many entries in each sweep may take long, Ctrl-C stops it."""
    if entries * min(most, _USUAL_SWEEPS) * _NANOSECONDS < threads.SHORT:
        return refine()
    return threads.patiently(refine, stop)


def _refine_kl(frame: Frame, q: Triple, tol: float, most: int) -> tuple[Triple, int, int, bool]:
    """The local minimum of KL(p ‖ q) near q; also whether it is to be taken."""
    refined = np.array(q[0]), np.array(q[1]), np.array(q[2])
    room, (components, dim), count = kernels.projections.refinements, frame.means.shape, len(refined[0])
    space = scratch.space(room.workspace, components, count, dim)
    arguments = frame.triple, refined, tol, most, space
    nodes = components * _USUAL_NODES if dim <= 2 else kernels.projections.nodes.most_nodes(dim, components)
    entries = nodes * count * (dim + 3) ** 2 * _LONGEST

    def stop() -> None:
        borrowing.member(room.Workspace, space, "sweeps.control")[kernels.em.e_step.STOP] = 1

    status, steps, gain, _ = run(partial(room.refine, *arguments), entries, most, stop)
    return refined, status, steps, not math.isnan(gain)


def _refine_squares(frame: Frame, q: Triple, tol: float, most: int) -> tuple[Triple, int, int, bool]:
    """The local minimum of the integral squared error near q."""
    refined = np.array(q[0]), np.array(q[1]), np.array(q[2])
    room, (components, dim), count = kernels.projections.square_refinements, frame.means.shape, len(q[0])
    space = scratch.space(room.workspace, components, count, dim)
    shift = kernels.projections.reductions.log_scale(frame.triple)
    arguments = frame.triple, refined, shift, tol, most, space
    entries = components * count * (dim + 3) ** 3

    def stop() -> None:
        borrowing.member(room.Workspace, space, "control")[0] = 1

    status, steps = run(partial(room.refine, *arguments), entries, most, stop)
    return refined, status, steps, True


_REFINEMENTS: dict[str, Callable[..., tuple[Triple, int, int, bool]]] = {
    "kl": _refine_kl,
    "williams": _refine_squares,
}


def reduce_mixture(
    p: Gaussian | GaussianMixture,
    k: int,
    method: str = "kl",
    *,
    tol: float = 1e-5,
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
        "kl": this, and then descent to a local minimum of KL(p ‖ q), by Newton's method or L-BFGS.
        "williams": the same for the integral of (p - q)**2: greedy merges, then L-BFGS.
    tol : float, optional
        The refinement ends when the divergence is within this share of its local minimum, extrapolated; for
        "williams", when the next step promises to lower the error by less than this share of the integral
        of p**2, about, and the last one lowered it by less than ten times as much.
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
        Another kind of p, as a grid, of which `m_projection` makes mixtures; a k that is not an integer.
    ValueError
        A k below 1, an unknown method, a `tol` that is not positive and finite; a merged covariance that is
        singular to rounding.

    Notes
    -----
    The refinement takes expectations under p on nodes: in one and two dimensions those of the trapezoid rule
    under each component, in the plane also of one lattice for all components of about the same width where
    these overlap, finer under those that need it, until that makes no difference of `tol`, with up to 2**18
    nodes. Shifted nodes, and the widths of q's components, show where q fits the nodes in place of p: there
    they are made finer, and where there is no room for that the status says so. Above, they are pairs of
    opposite quasi-random points under each component, so that q is the minimum for these points. In one and
    two dimensions, up to 20 components each, the steps are those of Newton's method in a trust region; else
    L-BFGS takes the gradients that EM on p gives, in coordinates in which its first step is that of EM. A
    step of EM comes last. `kl` and `error` are worked out when they are first read, by `kl_estimate`, which
    does not use these nodes. Where the nodes do not show that the refinement is below the greedy merges,
    these are the result.

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
    if isinstance(p, Grid2D):
        raise TypeError(
            "p must be a Gaussian or a GaussianMixture; of a grid, mixtures are "
            'm_projection(grid, family=("mixture", k))'
        )
    if not isinstance(p, Gaussian | GaussianMixture):
        raise TypeError(f"p must be a Gaussian or a GaussianMixture, not {type(p).__name__}")
    name = choice("method", method, METHODS)
    count, most = integer("k", k, 1), integer("max_iterations", max_iterations, 1)
    wanted = real_number("tol", tol)
    if not 0.0 < wanted < math.inf:
        raise ValueError(f"tol must be positive and finite, not {tol!r}")
    p = as_mixture(p)
    fields = {"method": name, "_p": p}
    if np.count_nonzero(p.weights) <= count:
        return Reduction(
            mixture=p, _merged=p, bound_before=0.0, iterations=0, converged=True, status=_EXACT, **fields
        )
    frame = Frame(p)
    q, bound = greedy_merges(frame, count, name)
    merged = frame.mixture(q)
    fields |= {"_merged": merged, "bound_before": bound}
    exact = count == 1 or bound <= kernels.projections.reductions.EXACT
    alone = name == "runnalls" or (name == "kl" and exact)
    if not alone:
        refined, status, steps, lower = _REFINEMENTS[name](frame, q, wanted, most)
        if lower:
            return Reduction(
                mixture=frame.mixture(refined),
                iterations=steps,
                converged=status == statuses.CONVERGED,
                status=_WORDS[status],
                **fields,
            )
    words = _NOT_IMPROVED if not alone else _EXACT if exact else _MERGED
    return Reduction(mixture=merged, iterations=0, converged=words == _EXACT, status=words, **fields)
