"""Whole operations on distributions and models, each one call of compiled code.

They allocate their results and their scratch space, and call the kernels that Python calls. As in all
compiled code, invalid arguments give NaN.
"""

from __future__ import annotations

import math

import numpy as np

from ..kernels import statuses
from ..kernels.compiler import exported, kernel
from ..kernels.densities.bounds import ROUNDS
from ..kernels.families import operations as families
from ..kernels.families.table import FULL
from ..kernels.inference.evidence import error_of_share
from ..kernels.inference.gaps import OF_ELBO, OF_FIT, OF_LONG_FIT
from ..kernels.inference.modes import starts_of
from ..kernels.inference.reports import REPORT_SIZE, elbo_alone, read_report, write_report
from ..kernels.inference.survey import count_of
from ..kernels.models.evaluation import BLOCK
from ..kernels.numerics.matrices import copy_matrix, copy_vector, dot, fill_matrix, fill_vector
from ..kernels.projections import mixture_optima, mixture_starts
from ..kernels.projections.optimum import Report as Optimum
from ..kernels.projections.optimum import read as read_optimum
from ..kernels.projections.optimum import write as write_optimum
from ..kernels.projections.reductions import EXACT
from .external import external

_gaussian_kl = external("kernels.densities.gaussians.gaussian_kl")
_kl_workspace = external("kernels.quadrature.mixture_kl.workspace")
_mixture_kl = external("kernels.quadrature.mixture_kl.mixture_kl")
_kl_bounds = external("kernels.densities.bounds.kl_bounds")
_all_kl = external("kernels.densities.bounds.all_kl")
_matched_bound = external("kernels.densities.bounds.matched_bound")
_m_projection = external("kernels.projections.mixture_projections.m_projection")
_write_frame = external("kernels.em.standardization.write_frame")
_standardize_mixture = external("kernels.em.standardization.standardize_mixture")
_unstandardize_mixture = external("kernels.em.standardization.unstandardize_mixture")
_runnalls_workspace = external("kernels.projections.reductions.workspace")
_runnalls = external("kernels.projections.reductions.runnalls")
_refinement_workspace = external("kernels.projections.refinements.workspace")
_refine = external("kernels.projections.refinements.refine")
_projection_workspace = external("kernels.projections.optimum.workspace")
_i_projections = external("kernels.projections.mixture_projections.i_projections")
_lattice = external("kernels.projections.mixture_optima.lattice")
_descent_workspace = external("kernels.projections.mixture_descents.workspace")
_follow = external("kernels.projections.mixture_descents.follow")
_gradient_at = external("kernels.projections.mixture_descents.gradient_at")
_are_same = external("kernels.projections.mixture_descents.are_same")
_start_workspace = external("kernels.projections.mixture_starts.workspace")
_starts = external("kernels.projections.mixture_starts.starts")
_i_projection = external("compiled.operations.i_projection")
_optima_workspace = external("kernels.projections.mixture_optima.workspace")
_polish = external("kernels.projections.mixture_optima.polish")
_fit_workspace = external("kernels.inference.entry_points.fit_workspace")
_fit_quadrature = external("kernels.inference.entry_points.fit_quadrature")
_elbo_quadrature = external("kernels.inference.entry_points.elbo_quadrature")
_check_tails = external("kernels.inference.entry_points.check_tails")
_doubt = external("kernels.inference.entry_points.doubt")
_doubt_bounds = external("kernels.inference.entry_points.doubt_bounds")
_laplace_workspace = external("kernels.inference.entry_points.laplace_workspace")
_laplace = external("kernels.inference.entry_points.laplace")
_evidence_workspace = external("kernels.inference.entry_points.evidence_workspace")
_log_evidence = external("kernels.inference.entry_points.log_evidence")
_panel_workspace = external("kernels.inference.entry_points.panel_workspace")
_densities_or_zero = external("kernels.inference.entry_points.densities_or_zero")
_far_start = external("kernels.inference.entry_points.far_start")
_find_modes = external("kernels.inference.entry_points.find_modes")
_lost_by_evidence = external("kernels.inference.entry_points.lost_by_evidence")
_mass_of_gaps = external("kernels.inference.entry_points.mass_of_gaps")

_starts_of, _count_of, _error_of_share = kernel(starts_of), kernel(count_of), kernel(error_of_share)

#: Of descents onto mixtures.
_LEVELS, _BASE, _MOST_WORK = mixture_optima.LEVELS, mixture_optima.BASE, mixture_optima.MOST_WORK
_FIRST_STEPS, _FIRST_SHARE = mixture_optima.FIRST_STEPS, mixture_optima.FIRST_SHARE
_MOST_STEPS, _BASE_SHARE, _SHARE = (
    mixture_optima.MOST_STEPS,
    mixture_optima.BASE_SHARE,
    mixture_optima.SHARE,
)
_FOLLOWED, _OPTIMA = mixture_optima.FOLLOWED, mixture_optima.OPTIMA
_LONG, _FAR, _FAR_RTOL = mixture_optima.LONG, mixture_optima.FAR, mixture_optima.FAR_RTOL
_ROUGH, _MOST_STARTS = mixture_starts.ROUGH, mixture_starts.MOST
_FEW_COMPONENTS, _CANDIDATE_RTOL = mixture_starts.FEW_COMPONENTS, mixture_starts.CANDIDATE_RTOL

#: The least tolerance of a divergence, relative and in nats.
_LEAST_RTOL, _LEAST_LACK = 1e-14, 1e-12

#: Numbers of the report of an optimum. Of those onto mixtures no evaluations are counted.
_OPTIMUM_SIZE = len(Optimum._fields)


@exported
def gaussian_kl(mean_p, factor_p, mean_q, factor_q):
    """KL(p ‖ q) of two Gaussians in as many dimensions."""
    return _gaussian_kl((mean_p, factor_p, mean_q, factor_q, np.empty(2 * mean_p.size)))


@exported
def mixture_kl(p, q, rtol):
    """(KL(p ‖ q), its error, nodes) of two mixtures, in up to three dimensions."""
    components, dim = p[1].shape
    if dim != q[1].shape[1] or dim > 3:
        return math.nan, math.inf, 0
    space = _kl_workspace((components, q[1].shape[0], dim))
    value, error, nodes, resolved = _mixture_kl((p, q, rtol, space))
    return (value, error, nodes) if resolved else (math.nan, math.inf, nodes)


@exported
def m_projection(log_weights, means, factors, family):
    """(mean, factor, whether there is one) of the M-projection of a mixture."""
    dim = means.shape[1]
    mean, factor = np.empty(dim), np.empty((dim, dim))
    good = _m_projection((log_weights, means, factors, family, mean, factor))
    if not good:
        fill_matrix(math.nan, factor)
    return mean, factor, good


@exported
def i_projection(mixture, family, rtol):
    """(count, means, factors, reports) of the optima of the I-projection of a mixture, best first.

    At least one: where there is none, it is NaN.
    """
    log_weights, means, _ = mixture
    count, dim = means.shape
    most = count * (count + 3) // 2 + 1
    found_means, found_factors = np.empty((most, dim)), np.empty((most, dim, dim))
    reports = np.empty((most, _OPTIMUM_SIZE))
    found = 0
    if dim <= 3 and math.isfinite(log_weights.max()):
        scratch, space = (
            (np.empty((most, dim)), np.empty((most, dim, dim))),
            _projection_workspace((count, dim)),
        )
        found = _i_projections(
            (mixture, family, 0, found_means, found_factors, rtol, space, scratch, reports)
        )
    if found == 0:
        fill_vector(math.nan, found_means[0])
        fill_matrix(math.nan, found_factors[0])
        fill_vector(math.nan, reports[0])
    return max(found, 1), found_means, found_factors, reports


@kernel
def _used(mixture):
    """A copy of a mixture without components of no weight; those that are NaN stay."""
    log_weights, means, factors = mixture
    count, dim = 0, means.shape[1]
    for k in range(log_weights.size):
        count += log_weights[k] != -math.inf
    logs, locations, scales = np.empty(count), np.empty((count, dim)), np.empty((count, dim, dim))
    at = 0
    for k in range(log_weights.size):
        if log_weights[k] != -math.inf:
            logs[at] = log_weights[k]
            copy_vector(means[k], locations[at])
            copy_matrix(factors[k], scales[at])
            at += 1
    return logs, locations, scales


@kernel
def _is_finite(mixture):
    return math.isfinite(mixture[0].sum() + mixture[1].sum() + mixture[2].sum())


@kernel
def _frame(mixture):
    """(mean, factor, whether there is one) of coordinates in which a mixture has moments 0 and I."""
    dim = mixture[1].shape[1]
    mean, cov, factor = np.empty(dim), np.empty((dim, dim)), np.empty((dim, dim))
    good = _write_frame((mixture, mean, cov, factor))
    return mean, factor, good


@exported
def reduce_mixture(mixture, count, refined, tol, most):
    """(log weights, means, factors, status, sweeps) of a mixture with at most so many components.

    By greedy merges, and if `refined` by KL(p ‖ q). The status of merges alone is 1, if they are not exact.
    NaN where the count is below 1, or a covariance indefinite.
    """
    dim = mixture[1].shape[1]
    logs, means, factors = _used(mixture)
    if logs.size <= count and count > 0:
        good = _is_finite((logs, means, factors))
        return logs, means, factors, statuses.CONVERGED if good else statuses.STEPS_EXHAUSTED, 0
    size = max(count, 1)
    q = np.empty(size), np.empty((size, dim)), np.empty((size, dim, dim))
    mean, factor, good = _frame((logs, means, factors))
    good, status, sweeps = count > 0 and good, statuses.STEPS_EXHAUSTED, 0
    if good:
        _standardize_mixture((mean, factor, means, factors))
        p = logs, means, factors
        bound = _runnalls((p, q, _runnalls_workspace((logs.size, dim))))
        good, exact = bound < math.inf, size == 1 or bound <= EXACT
        status = statuses.CONVERGED if exact else status
        if good and refined != 0 and not exact:
            space = _refinement_workspace((logs.size, size, dim))
            status, sweeps, gain, _ = _refine((p, q, tol, most, space))
            if math.isnan(gain):
                status = statuses.STEPS_EXHAUSTED
        _unstandardize_mixture((mean, factor, q[1], q[2]))
    for k in range(size):
        q[0][k] = math.log(q[0][k]) if good else math.nan
        if not good:
            fill_vector(math.nan, q[1][k])
            fill_matrix(math.nan, q[2][k])
    return q[0], q[1], q[2], status, sweeps


@kernel
def _levels(dim, pairs):
    """(nodes, weights, ends) of the lattices from `_BASE` on; of those above, where the work allows it."""
    flat, shares, ends = np.empty(0), np.empty(0), np.zeros(1, np.int64)
    for level in range(_BASE, _LEVELS.shape[1]):
        nodes, weights = _lattice((dim, _LEVELS[dim - 1, level, 0], _LEVELS[dim - 1, level, 1]))
        if level > _BASE and weights.size * pairs > _MOST_WORK:
            break
        flat, shares = np.concatenate((flat, nodes.ravel())), np.concatenate((shares, weights))
        ends = np.append(ends, shares.size)
    return flat, shares, ends


@kernel
def _in_order(q):
    """A mixture with the heaviest component first."""
    order = np.argsort(-q[0], kind="mergesort")
    logs, means, factors = np.empty_like(q[0]), np.empty_like(q[1]), np.empty_like(q[2])
    for k in range(order.size):
        logs[k] = q[0][order[k]]
        copy_vector(q[1][order[k]], means[k])
        copy_matrix(q[2][order[k]], factors[k])
    return logs, means, factors


@kernel
def _new_mixtures(many, count, dim):
    """Room for mixtures: NaN."""
    logs, means = np.full((many, count), math.nan), np.full((many, count, dim), math.nan)
    return logs, means, np.full((many, count, dim, dim), math.nan)


@kernel
def _no_optimum(count, dim):
    """What there is where there is no optimum, as `i_projection_onto_mixtures` has them."""
    logs, means, factors = _new_mixtures(1, max(count, 1), dim)
    report = Optimum(math.nan, math.inf, math.nan, 0.0, float(statuses.NOT_FINITE))
    reports = np.empty((1, _OPTIMUM_SIZE))
    write_optimum(report, reports[0])
    return 1, logs, means, factors, reports


@kernel
def _itself(p):
    """A mixture as its own optimum."""
    count, dim = p[1].shape
    logs, means, factors = (
        p[0].reshape((1, count)),
        p[1].reshape((1, count, dim)),
        p[2].reshape((1, count, dim, dim)),
    )
    reports = np.zeros((1, _OPTIMUM_SIZE))
    reports[0, 4] = statuses.CONVERGED
    return 1, logs, means, factors, reports


@kernel
def _copy_to(row, mixture, report, found, reports):
    """Write a mixture and its report to a row."""
    copy_vector(mixture[0], found[0][row])
    copy_matrix(mixture[1], found[1][row])
    for k in range(mixture[0].size):
        copy_matrix(mixture[2][k], found[2][row, k])
    write_optimum(report, reports[row])


@kernel
def _in_coordinates(q, frame):
    """A copy of a mixture of the frame in the coordinates of p, the heaviest component first."""
    copy = _in_order(q)
    _unstandardize_mixture((frame[0], frame[1], copy[1], copy[2]))
    return copy


@kernel
def _divergence(q, p, rtol):
    """(KL(q ‖ p), its error); between the bounds where it is not resolved, as `kl_estimate` has it."""
    space = _kl_workspace((q[0].size, p[0].size, q[1].shape[1]))
    value, error, _, resolved = _mixture_kl((q, p, max(rtol, _LEAST_RTOL), space))
    if resolved and error < math.inf:
        return max(value, 0.0), error
    lower, upper = _bounds(q, p)
    # As Python's min and max do it for a value that is NaN.
    inside = lower if lower > value else value
    inside = upper if upper < inside else inside
    return inside, max(upper - inside, inside - lower)


@kernel
def _bounds(p, q):
    """The bounds of KL(p ‖ q) that `distributions.bounds.kl_bounds` gives."""
    (m, dim), n = p[1].shape, q[0].size
    space, costs = np.empty(2 * dim), np.empty((m, n))
    lower, upper = _kl_bounds((p, q, np.empty(2 * max(m, n)), np.empty((dim, dim)), space))
    _all_kl((p, q, costs, space))
    matched = _matched_bound((p, q, np.empty((m, n)), np.empty((m, n)), costs, ROUNDS))
    least = matched if matched < upper else upper
    return lower, least if least > lower else lower


@kernel
def _refined(p, whole, frame, ends, rtol):
    """(count, log weights, means, factors, reports) of the optima near mixtures of the frame, best first.

    As `projections.onto_mixtures._optima`: an end of which a component runs off on finer nodes is left out,
    unless there is no other.
    """
    (many, count, dim), components = ends[1].shape, p[0].size
    if many == 0:
        return _no_optimum(count, dim)
    work = count * (count + components)
    levels = _levels(dim, work)
    far, long = math.inf, levels[2][1] * work > _LONG
    found, reports = _new_mixtures(many, count, dim), np.full((many, _OPTIMUM_SIZE), math.nan)
    taken, keys = np.empty(count), np.empty(many)
    space = _optima_workspace((components, count, dim))
    number, polished, lost = 0, 0, False
    for s in range(many):
        q = ends[0][s], ends[1][s], ends[2][s]
        if long and far < math.inf:
            value, error = _divergence(_in_coordinates(q, frame), whole, _FAR_RTOL)
            if min(value - error, _slope_on(p, q, _BASE)[0]) > far:
                on_nodes, norm = _slope_on(p, q, _BASE + 1)
                report = Optimum(value, error, norm, 0.0, float(statuses.NOT_REFINED))
                number = _insert(number, _in_coordinates(q, frame), report, on_nodes, found, reports, keys)
                continue
        rough = _in_coordinates(q, frame)
        on_nodes, norm, status, _ = _polish((p, q, levels, _MOST_STEPS, rtol, space))
        if not on_nodes < math.inf:
            if number == 0 and not lost:
                value, error = _divergence(rough, whole, _FAR_RTOL)
                report = Optimum(value, error, math.nan, 0.0, float(statuses.NOT_FINITE))
                _copy_to(0, rough, report, found, reports)
            lost = True
            continue
        same = False
        for i in range(polished):
            same = same or _are_same((q, (ends[0][i], ends[1][i], ends[2][i]), taken))
        if same:
            continue
        for k in range(count):
            ends[0][polished, k] = q[0][k]
            copy_vector(q[1][k], ends[1][polished, k])
            copy_matrix(q[2][k], ends[2][polished, k])
        polished += 1
        value, error = _divergence(_in_coordinates(q, frame), whole, _SHARE * rtol)
        far = min(far, _FAR * value) if value < math.inf else far
        exact = status == statuses.CONVERGED or status == statuses.OVERFITTED
        if exact and not error <= max(rtol * value, _LEAST_LACK):
            status = statuses.UNRESOLVED
        report = Optimum(value, error, norm, 0.0, float(status))
        number = _insert(number, _in_coordinates(q, frame), report, on_nodes, found, reports, keys)
    kept = 1
    for i in range(1, number):
        if reports[i, 4] != statuses.NOT_A_MINIMUM:
            row = found[0][i], found[1][i], found[2][i]
            _copy_to(kept, row, read_optimum(reports[i]), found, reports)
            kept += 1
    return kept, found[0], found[1], found[2], reports


@kernel
def _insert(number, q, report, on_nodes, found, reports, keys):
    """Insert an optimum by its divergence, or where this is not resolved by that on nodes: their number.

    Such a one may be the best, and then it is not known which is; not one that is no minimum.
    """
    key, i = report.kl, number
    if math.isnan(key):
        key = on_nodes if report.status != statuses.NOT_A_MINIMUM else math.inf
    key = key if key < math.inf else math.inf
    while i > 0 and key < keys[i - 1]:
        row = found[0][i - 1], found[1][i - 1], found[2][i - 1]
        _copy_to(i, row, read_optimum(reports[i - 1]), found, reports)
        keys[i] = keys[i - 1]
        i -= 1
    _copy_to(i, q, report, found, reports)
    keys[i] = key
    return number + 1


@kernel
def _slope_on(p, q, level):
    """(KL(q ‖ p), the length of its gradient) on the nodes of a level."""
    (count, dim), components = q[1].shape, p[0].size
    nodes, shares = _lattice((dim, _LEVELS[dim - 1, level, 0], _LEVELS[dim - 1, level, 1]))
    size = count * (1 + dim + dim * (dim + 1) // 2)
    origin, slope = np.zeros(size), np.full(size, math.nan)
    space = _descent_workspace((components, count, dim))
    value = _gradient_at((p, q, nodes, shares, origin, slope, space))
    return value, math.sqrt(dot(slope, slope))


@kernel
def _followed(p, starts):
    """The mixtures of a frame where descents on coarse nodes end that are followed to the end, best first."""
    (_, count, dim), components = starts[1].shape, p[0].size
    space = _descent_workspace((components, count, dim))
    ends = starts
    for level in range(_BASE + 1):
        nodes, shares = _lattice((dim, _LEVELS[dim - 1, level, 0], _LEVELS[dim - 1, level, 1]))
        first = level < _BASE
        steps, share = (_FIRST_STEPS, _FIRST_SHARE) if first else (_MOST_STEPS, _BASE_SHARE)
        long = not first and shares.size * count * (count + components) > _LONG
        far, values = _FAR if long else math.inf, np.empty(ends[0].shape[0])
        number, _ = _follow((p, ends, values, nodes, shares, np.empty((0, 0)), steps, share, far, space))
        number = min(number, _FOLLOWED if first else _OPTIMA)
        ends = ends[0][:number], ends[1][:number], ends[2][:number]
    return ends


@kernel
def _found_starts(p, count):
    """Mixtures of the frame from which descents start."""
    components, dim = p[1].shape
    alone = np.empty((0, dim)), np.empty((0, dim, dim))
    if components <= _FEW_COMPONENTS:
        number, means, factors, _ = _i_projection((p, FULL, _CANDIDATE_RTOL))
        if math.isfinite(means[0, 0]):
            alone = means[:number], factors[:number]
    nodes, shares = _lattice((dim, _ROUGH[dim - 1, 0], _ROUGH[dim - 1, 1]))
    starts, space = (
        _new_mixtures(_MOST_STARTS, count, dim),
        _start_workspace((components, count, dim, shares.size)),
    )
    number = _starts((p, alone, nodes, shares, starts, space, _runnalls_workspace((components, dim))))
    return starts[0][:number], starts[1][:number], starts[2][:number]


@exported
def i_projection_onto_mixtures(mixture, count, rtol):
    """(number, log weights, means, factors, reports) of the optima, best first: (N, k), ..., (N, 5).

    In up to three dimensions; at least one, which is NaN where there is none. It is p itself, where this has
    no more components.
    """
    p = _used(mixture)
    components, dim = p[1].shape
    if not (count > 0 and dim <= 3 and _is_finite(p)):
        return _no_optimum(count, dim)
    if components <= count:
        return _itself(p)
    if count == 1:
        number, means, factors, reports = _i_projection((p, FULL, rtol))
        most = means.shape[0]
        means, factors = means.reshape((most, 1, dim)), factors.reshape((most, 1, dim, dim))
        return number, np.zeros((most, 1)), means, factors, reports
    whole = p[0], p[1].copy(), p[2].copy()
    mean, factor, _ = _frame(p)
    _standardize_mixture((mean, factor, p[1], p[2]))
    return _refined(p, whole, (mean, factor), _followed(p, _found_starts(p, count)), rtol)


@exported
def i_projection_onto_mixtures_from(mixture, count, start, rtol):
    """`i_projection_onto_mixtures`, near a start, which has so many components."""
    p, q = _used(mixture), _used(start)
    components, dim = p[1].shape
    good = 0 < count == q[0].size and q[1].shape[1] == dim <= 3
    if not (good and _is_finite(p) and _is_finite(q)):
        return _no_optimum(count, dim)
    if components <= count:
        return _itself(p)
    whole = p[0], p[1].copy(), p[2].copy()
    mean, factor, _ = _frame(p)
    _standardize_mixture((mean, factor, p[1], p[2]))
    _standardize_mixture((mean, factor, q[1], q[2]))
    logs, means = q[0].reshape((1, count)), q[1].reshape((1, count, dim))
    starts = logs, means, q[2].reshape((1, count, dim, dim))
    return _refined(p, whole, (mean, factor), _followed(p, starts), rtol)


@kernel
def _fit(model, dim, family, from_laplace, mean, factor, rtol, most_steps):
    """A fit from (mean, factor), which it overwrites, or from Laplace's approximation near the mean."""
    latent = mean.size
    log_joint, table, kinds, bounds, many = model
    target = log_joint, 0, np.empty(0), table, kinds, bounds
    means, factors = mean.reshape((1, latent)), factor.reshape((1, latent, latent))
    starts = means, np.ones((1, latent)), factors
    reports = np.empty((1, REPORT_SIZE))
    results = np.empty((1, 0)), reports, np.empty((1, dim))
    space = _fit_workspace((latent, dim, BLOCK))
    _fit_quadrature((target, family, from_laplace, starts, rtol, most_steps, space, results, 0, 1))
    if not from_laplace:
        _check_tails((target, means, factors, space, results, 0, 1))
    _doubt_bounds((target, rtol, means, factors, space, results, 0, 1))
    purpose = OF_LONG_FIT if many else OF_FIT
    _doubt((target, np.zeros(1, np.int64), purpose, means, factors, space, results))
    report = read_report(reports[0])
    if not report.elbo > -math.inf:
        # The fit could not start: its factor is not written.
        fill_vector(math.nan, mean)
        fill_matrix(math.nan, factor)
    evaluations, status = int(report.evaluations), int(report.status)
    return mean, factor, report.elbo, report.error, evaluations, report.gradient_norm, status


@exported
def fit(model, dim, family, rtol, most_steps):
    """(mean, factor, ELBO, its error, evaluations, gradient norm, status) of a fit that starts near zero.

    The model is (address, table, kinds, bounds, whether it has much data): see `log_joints`.
    """
    latent = model[2].size
    return _fit(model, dim, family, 1, np.zeros(latent), np.empty((latent, latent)), rtol, most_steps)


@exported
def fit_from(model, dim, family, start_mean, start_factor, rtol, most_steps):
    """`fit`, from a Gaussian."""
    latent = model[2].size
    mean, factor = np.empty(latent), np.empty((latent, latent))
    if start_mean.size != latent or not math.isfinite(start_factor[0, 0]):
        fill_vector(math.nan, mean)
        fill_matrix(math.nan, factor)
        return mean, factor, math.nan, math.nan, 0, math.nan, statuses.INVALID
    copy_vector(start_mean, mean)
    copy_matrix(start_factor, factor)
    families.restrict(family, factor, np.empty(2 * latent))
    return _fit(model, dim, family, 0, mean, factor, rtol, most_steps)


@kernel
def _same_support(kinds, bounds, other_kinds, other_bounds):
    same = kinds.size == other_kinds.size
    for i in range(kinds.size if same else 0):
        same = same and kinds[i] == other_kinds[i]
        same = same and bounds[i, 0] == other_bounds[i, 0] and bounds[i, 1] == other_bounds[i, 1]
    return same


@kernel
def _doubted(target, dim, estimate, mean, factor, space):
    """(ELBO, its error, evaluations, status): an ELBO by quadrature, with what nodes and floats miss."""
    (value, error, nodes), latent, reports = estimate, mean.size, np.empty((1, REPORT_SIZE))
    write_report(elbo_alone(value, error, nodes), reports[0])
    results = np.empty((1, 0)), reports, np.empty((1, dim))
    means, factors = mean.reshape((1, latent)), factor.reshape((1, latent, latent))
    # Of an ELBO alone the error is all there is to say: no tolerance, and so never SATURATED.
    _doubt_bounds((target, math.inf, means, factors, space, results, 0, 1))
    _doubt((target, np.zeros(1, np.int64), OF_ELBO, means, factors, space, results))
    found = read_report(reports[0])
    return found.elbo, found.error, int(found.evaluations), int(found.status)


@exported
def elbo(model, dim, q, outside, rtol):
    """(ELBO, its error, evaluations, gradients in the mean and in the factor).

    q is (mean, factor, kinds, bounds); `outside`, whether it has mass where the joint is zero.
    """
    log_joint, table, kinds, bounds, _ = model
    mean, factor, q_kinds, q_bounds = q
    latent = kinds.size
    grad_mean, grad_factor = np.empty(latent), np.empty((latent, latent))
    fill_vector(math.nan, grad_mean)
    fill_matrix(math.nan, grad_factor)
    if mean.size != latent or not _same_support(kinds, bounds, q_kinds, q_bounds):
        return math.nan, math.inf, 0, grad_mean, grad_factor
    if outside:
        return -math.inf, 0.0, 0, grad_mean, grad_factor
    if not math.isfinite(factor[0, 0]):
        return math.nan, math.inf, 0, grad_mean, grad_factor
    target = log_joint, 0, np.empty(0), table, kinds, bounds
    space = _fit_workspace((latent, dim, BLOCK))
    status, value, error, nodes, _ = _elbo_quadrature(
        (target, mean, factor, rtol, space, grad_mean, grad_factor)
    )
    if status == statuses.FINE:
        value, error, nodes, status = _doubted(target, dim, (value, error, nodes), mean, factor, space)
    if status == statuses.ZERO:
        value, error = -math.inf, 0.0
    elif statuses.RAISED <= status <= statuses.INFINITE:
        value, error = math.nan, math.inf
    if statuses.RAISED <= status <= statuses.ZERO:
        fill_vector(math.nan, grad_mean)
        fill_matrix(math.nan, grad_factor)
    return value, error, nodes, grad_mean, grad_factor


@exported
def log_evidence(model, dim, rtol):
    """(log evidence, its error, evaluations), as in `inference.evidence`."""
    log_joint, table, kinds, bounds, _ = model
    latent, starts = kinds.size, _starts_of(kinds.size)
    target = log_joint, 0, np.empty(0), table, kinds, bounds
    means, log_masses = np.zeros((starts + 1, latent)), np.empty(starts + 1)
    factors, laplace_space = np.empty((starts + 1, latent, latent)), _laplace_workspace((latent, dim))
    heights, panel = np.empty(_count_of(latent)), _panel_workspace((latent, dim, BLOCK))
    mean, factor, space = np.empty(latent), np.empty((latent, latent)), _evidence_workspace((latent, dim))
    here, origin, is_far = np.empty(1), np.zeros((1, latent)), False
    while True:
        fault, nodes = _laplace((target, means[0], np.ones(latent), factors[0], laplace_space))
        if fault != statuses.FINE:
            return math.nan, math.inf, nodes
        found = means, factors, log_masses
        modes = _find_modes((target, found, np.empty((starts, latent)), heights, laplace_space))
        found = means[:modes], factors[:modes], log_masses[:modes]
        status, value, error, nodes = _log_evidence((target, found, rtol, mean, factor, space))
        if status != statuses.FINE:
            return math.nan, math.inf, nodes
        share = _lost_by_evidence((target, means[0], value, panel))
        share += _mass_of_gaps((target, means[0], factors[0], heights, value, panel))
        error += _error_of_share(share)
        if is_far or error < math.inf:
            return value, error, nodes
        # From far away where the density is much higher, if it is not known from the origin.
        fill_vector(0.0, means[0])
        _densities_or_zero((target, origin, laplace_space, here))
        highest, _ = _far_start((target, means[0], origin, here[0], laplace_space))
        is_far = highest > here[0]
        if not is_far:
            return value, error, nodes
