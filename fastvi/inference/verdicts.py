"""How near the q of a fit is to the posterior: importance weights, the evidence, a search for other modes.

`Fit.diagnose` calls `diagnosis_of`. What counts is KL(q ‖ posterior) = log p(x) - ELBO.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import kernels
from ..common.immutable import Record
from ..common.threads import interruptible
from ..common.values import Array, tidy
from ..distributions.gaussian import Gaussian, lower_factor
from ..distributions.integrals import Estimate
from ..distributions.mixture import GaussianMixture
from ..distributions.student import StudentT
from ..distributions.variational import Latent, TruncatedGaussian, Variational, latent_of
from ..kernels.statuses import FINE, UNBOUNDED, UNCONFIRMED
from .diagnostics import importance_ratios, latent_ratios, pareto_shape
from .evidence import log_evidence
from .improper import tails_of
from .kernel_calls import QUADRATURE_DIM, densities_or_zero, has_model
from .lockstep import together
from .model import Model
from .modes import Mode, add_mode, mode_from
from .starts import ascent_in_units, crossings, is_near, points_around

#: Divergences in nats up to which q is close, and above which it is not to be trusted.
CLOSE, FAR = 0.1, 1.0

#: Draws for the weights: many where the fit itself took as many evaluations, else few. Their seed.
_MANY, _FEW, _SEED = 20_000, 4_000, 20240229

#: A divergence below this is not written out.
_TINY = 1e-3

#: Draws of q for each one that is resampled.
_TIMES = 20

#: Parts of the draws whose shapes give the spread of the Pareto shape.
_PARTS = 4

#: q is close by its weights only where this share of the draws is effective, and no draw has more weight.
_EFFECTIVE, _LARGEST = 0.7, 0.05

#: Below this share of effective draws nothing is said of q. Draws are resampled from at least so many.
_TOO_FEW, _LEAST_DRAWS = 0.02, 100

#: A share of 0 counts as this one: its logarithm and its inverse are floats.
_LEAST_SHARE = 1e-300

#: Pareto shape up to which the mean of unequal weights is near the evidence (Vehtari et al., JMLR 25, 2024).
_RELIABLE = 0.7

#: Starts of the search for other modes that are N(0, I) in latent coordinates.
_DISPERSED = 2

#: Where there is another mode, searches start around all of them: so many at a time, at these distances in
#: their deviations, until none is new, or so often. (Three coordinates with two modes each, in directions of
#: their own in 13 dimensions, have eight modes, of which eight starts found three.)
_MORE_STARTS, _DISTANCES, _MOST_ROUNDS = 24, (3.0, 8.0), 4

#: Points on each ray from q's mean, in its deviations. One that is so many nats above the median at its
#: distance may be drawn to another mode: 12 random starts miss one in 5 dimensions that 15 of 500 rays see.
_RADII, _STANDS_OUT = 1.5 * 1.8 ** np.arange(8.0), 5.0

#: Random rays of a short search; the gradient that ends its ascents, in deviations, and the share that must
#: arrive. (From 60 deviations away one in a logistic regression is stuck.)
_FEW_RAYS, _ASCENT_TOLERANCE, _MOSTLY = 32, 0.3, 0.75

#: Gaussians around q that may hold mass where q has little: how much wider they are, random rays that tell,
#: how many nats below the ELBO their mass is at most, and how many are weighed.
_WIDTHS, _SHELL_RAYS, _COUNTS, _MOST_SHELLS = 1.3 * 1.2 ** np.arange(14.0), 32, 3.0, 2

#: Log densities count as at least the highest less this.
_LOWEST = 1e12

#: Ascents from there in a row that lead to nothing new end the search. Modes that are weighed, at most.
_IN_VAIN, _MOST_MODES = 6, 8

#: Draws of each part for one of q that weigh them; what another mode must add to KL, in nats, beyond errors.
_SHARE_OF_DRAWS, _ADDS = 4, 0.01


class Diagnosis(Record):
    """How near q is to the posterior, from `Fit.diagnose`.

    Attributes
    ----------
    verdict : str
        One sentence.
    close, trusted : bool
        Whether q is close to the posterior, KL(q ‖ p) below about 0.1 nats, unless another mode was missed;
        whether nothing found speaks against it, KL below about 1.
    kl : Estimate
        KL(q ‖ posterior). By quadrature in up to two latent dimensions. Else what the importance weights
        and another mode, if one was found, show: at least so much, up to the standard error.
    psis_k, psis_k_error : float
        Pareto shape of the importance ratios p / q, and its spread. A tail of the ratios that holds little of
        their sum may have any shape.
    ess : float
        Effective sample size of the weights, as a share of the draws.
    draws : int
    other_mode : ndarray (D,) or None
        A mode that q misses, in the model's coordinates.
    """

    verdict: str
    close: bool
    trusted: bool
    kl: Estimate
    psis_k: float
    psis_k_error: float
    ess: float
    draws: int
    other_mode: Array | None

    def __repr__(self) -> str:
        return f"Diagnosis({self.verdict})"


def _weights_of(logs: Array) -> tuple[float, float, float, float]:
    """(log mean, its distance to the mean log, effective share, largest share) of logarithms of ratios."""
    top, ratios = _truncated(logs)
    log_mean = top + math.log(ratios.mean())
    ratios = np.exp(logs - logs.max())
    total = float(ratios.sum())
    effective = total**2 / float((ratios**2).sum()) / logs.size
    return log_mean, log_mean - float(logs.mean()), effective, 1.0 / total


def _truncated(logs: Array) -> tuple[float, Array]:
    """(top, ratios exp(logs - top), at most sqrt(n) times their mean): one draw in n makes no evidence.

    The mean is too small rather than too large then. (E. L. Ionides, JCGS 17 (2008).)
    """
    top = float(logs.max())
    ratios = np.exp(logs - top)
    return top, np.minimum(ratios, math.sqrt(logs.size) * ratios.mean())


def _shape_of(logs: Array) -> float:
    ratios = np.exp(logs - logs.max())
    shape = pareto_shape(ratios)
    # Ratios of at most twice their mean do no harm, whatever the shape of their tail.
    return min(shape, 0.0) if ratios.mean() > 0.5 else shape


def _parts_of(q: Latent) -> list[tuple[Gaussian, float]]:
    """The Gaussians that q consists of, and their weights, the heaviest first; of a t that with its scale."""
    if isinstance(q, Gaussian):
        return [(q, 1.0)]
    if isinstance(q, StudentT):
        return [(Gaussian._from_factor(q._mean, q._factor), 1.0)]
    return [(q.components[k], float(q.weights[k])) for k in np.argsort(-q.weights, kind="stable")]


def _others_than(model: Model, q: Latent, elbo: float, draws: int) -> tuple[list[Mode], list[Mode]]:
    """Modes that are no part of q, nor where ascents from the parts' means lead, those with the most mass.

    And Gaussians that are wider than q where there is mass that leads up to q: its own mode stands on it.
    """
    r, rng, parts = q.dim, np.random.default_rng(_SEED), _parts_of(q)
    gaussians = [part for part, _ in parts]
    starts = [*points_around(gaussians, rng), *rng.standard_normal((_DISPERSED, r))]
    starts += crossings(gaussians, rng)
    # The arrays themselves, not their read-only views: a kernel is compiled once, for writable arrays.
    found = [
        Mode(part._mean, part._factor, elbo + math.log(max(share, _LEAST_SHARE))) for part, share in parts
    ]
    modes = _modes_from(model, gaussians[0], [*(part.mean for part in gaussians), *starts])
    for mode in itertools.islice(modes, len(gaussians)):
        add_mode(mode, found)
    known = len(found)
    for mode in modes:
        add_mode(mode, found)
    around = Gaussian(q.mean, q.cov) if isinstance(q, GaussianMixture) else gaussians[0]
    wide = _search_on_rays(model, around, found, rng.standard_normal((draws // _RADII.size, r)))
    if len(found) > known:
        _search_around(model, gaussians[0], found, rng)
    wide += _shells(model, around, rng.standard_normal((_SHELL_RAYS, r)), elbo)
    return sorted(found[known:], key=lambda mode: -mode.log_mass)[:_MOST_MODES], wide[:_MOST_MODES]


def _modes_from(model: Model, q: Gaussian, starts: Sequence[Array]) -> Iterator[Mode | None]:
    """The modes that are found from points; after an ascent where Newton's method alone ends at none."""

    def search(start: Array) -> Mode | None:
        found = mode_from(model, start)
        if found is None:
            path = ascent_in_units(model, q, start, _ASCENT_TOLERANCE)
            found = mode_from(model, path.end) if path.arrived else None
        return found

    return together(model, [partial(search, start) for start in starts])


def _search_around(model: Model, q: Gaussian, found: list[Mode], rng: np.random.Generator) -> None:
    """Add the modes that are found from points around those that were, and around these in turn."""
    for _ in range(_MOST_ROUNDS):
        before, starts = len(found), []
        for k in range(_MORE_STARTS):
            mode = found[int(rng.integers(before))]
            away = _DISTANCES[k % len(_DISTANCES)] * rng.standard_normal(q.dim)
            starts.append(mode.mean + mode.factor @ away)
        for one in _modes_from(model, q, starts):
            add_mode(one, found)
        if len(found) == before:
            return


def _search_on_rays(model: Model, q: Gaussian, found: list[Mode], directions: Array) -> list[Mode]:
    """Add the modes that are found from points on rays around a Gaussian that stand out.

    Returned is for each point that leads to no new mode a Gaussian that reaches from q out to there: along a
    heavy tail of one coordinate there is mass, but no mode.
    """
    points, values = _outstanding(model, q, directions)
    expected = np.max([_log_density_of(mode, points) for mode in found], axis=0)
    wide: list[Mode] = []
    in_vain = 0
    for k, point in enumerate(points):
        if values[k] <= expected[k] + _STANDS_OUT:
            continue  # a mode that is known has it so high
        if add_mode(mode_from(model, point), found):
            seen, in_vain = found[-1], 0
        else:
            seen = _reaching(q, point, float(values[k]))
            wide.append(seen)
            in_vain += 1
        expected = np.maximum(expected, _log_density_of(seen, points))
        if in_vain == _IN_VAIN:
            break
    return wide


def _reaching(q: Gaussian, point: Array, height: float) -> Mode:
    """A Gaussian that is wider than q, so that the point is one deviation away; it has this density there."""
    # Of a long way the square rounds all of q's covariance off.
    factor = lower_factor(np.column_stack([q._factor, point - q.mean]))
    wide = Gaussian._from_factor(q._mean, factor)
    return Mode(wide._mean, wide._factor, height - float(wide.logpdf(point)))


def is_alone(model: Model, q: Gaussian) -> tuple[bool, int]:
    """Whether ascents from points around a Gaussian lead to its mean, none elsewhere; and evaluations.

    A search for other modes that takes a tenth of that of `diagnosis_of`, where the Gaussian is near the
    posterior. Like that it has nothing to say in many dimensions.
    """
    if q.dim > kernels.inference.laplace.DENSE:
        return True, 0
    rng = np.random.default_rng(_SEED)
    starts = [*points_around([q], rng), *rng.standard_normal((_DISPERSED, q.dim))]
    standing_out, _ = _outstanding(model, q, rng.standard_normal((_FEW_RAYS, q.dim)))
    used = _RADII.size * (2 * q.dim + _FEW_RAYS)
    points, arrived = [*starts, *standing_out[:_IN_VAIN]], 0
    for path in together(model, [partial(ascent_in_units, model, q, x, _ASCENT_TOLERANCE) for x in points]):
        used += path.evaluations
        if path.arrived and not is_near(path.end, q):
            return False, used
        arrived += path.arrived
    return arrived >= _MOSTLY * len(points), used


def _log_density_of(mode: Mode, points: Array) -> Array:
    """That of Laplace's approximation, with its mass."""
    values: Array = mode.log_mass + np.asarray(Gaussian._from_factor(mode.mean, mode.factor).logpdf(points))
    return values


def _shells(model: Model, q: Gaussian, directions: Array, elbo: float) -> list[Mode]:
    """Gaussians around q's mean, as wide as shells that seem to hold mass by the median of directions."""
    r = q.dim
    steps = directions / np.linalg.norm(directions, axis=1)[:, None] @ q.cholesky.T
    radii = math.sqrt(r) * _WIDTHS
    values = densities_or_zero(model, (q.mean + radii[:, None, None] * steps).reshape(-1, r))
    log_masses = np.median(values.reshape(radii.size, -1), axis=1) + r * np.log(radii)
    log_area = math.log(2.0) + 0.5 * r * math.log(math.pi) - math.lgamma(0.5 * r)
    thickness = math.log(math.log(_WIDTHS[1] / _WIDTHS[0]))
    log_masses += log_area + thickness + float(np.log(np.diag(q._factor)).sum())
    found = [
        Mode(q._mean, width * q._factor, mass)
        for width, mass in zip(_WIDTHS.tolist(), log_masses.tolist(), strict=True)
        if mass > elbo - _COUNTS
    ]
    return sorted(found, key=lambda mode: -mode.log_mass)[:_MOST_SHELLS]


def _outstanding(model: Model, q: Gaussian, directions: Array) -> tuple[Array, Array]:
    """Points around q whose log density stands out among those at their distance, and its values.

    On rays along the axes and in some directions. First those that fall least from the highest value.
    """
    steps = directions / np.linalg.norm(directions, axis=1)[:, None] @ q.cholesky.T
    axes = np.diag(np.sqrt(np.diag(q.cov)))
    points = q.mean + _RADII[:, None] * np.concatenate([axes, -axes, steps])[:, None]
    values = densities_or_zero(model, points.reshape(-1, q.dim)).reshape(points.shape[:2])
    values = np.maximum(values, values.max() - _LOWEST)
    above = values - np.median(values, axis=0)
    falls = values.max() - values + 1.0
    chosen = above > _STANDS_OUT
    order = np.argsort(-(above / falls)[chosen], kind="stable")
    return points[chosen][order], values[chosen][order]


def _log_evidence_of_parts(
    model: Model, q: Latent, modes: list[Mode], draws: int
) -> tuple[float, float, Array]:
    """(log evidence, its standard error, the share of each part), from draws of q and of these modes.

    Each draw has the weight p / (the mean density of all parts): the balance heuristic (E. Veach, L. Guibas,
    SIGGRAPH 1995). Where the parts overlap, nothing is counted twice.
    """
    parts: list[Any] = [q, *(Gaussian._from_factor(mode.mean, mode.factor) for mode in modes)]
    rng, logs = np.random.default_rng(_SEED), np.empty((len(parts), draws))
    for k, part in enumerate(parts):
        points = part.sample(draws, rng)
        together = np.logaddexp.reduce([p.logpdf(points) for p in parts], axis=0) - math.log(len(parts))
        logs[k] = densities_or_zero(model, points) - together
    top, ratios = _truncated(logs)
    means, total = ratios.mean(axis=1), float(ratios.mean())
    error = math.sqrt(float(ratios.var(axis=1, ddof=1).sum()) / draws) / len(parts) / total
    return top + math.log(total), error, means / means.sum()


def diagnosis_of(model: Model, q: Variational, elbo: Estimate, evaluations: int, improper: bool) -> Diagnosis:
    """The diagnosis of a q with this ELBO; its fit took so many evaluations, and may say `improper`."""
    r = model.latent_dim
    draws = _MANY if evaluations >= _MANY else _FEW
    logs = importance_ratios(model, q, draws, _SEED)
    k, spread, share, largest, lacking = math.inf, math.inf, 0.0, 1.0, math.inf
    if logs is not None:
        _, lacking, share, largest = _weights_of(logs)
        k = _shape_of(logs)
        shapes = [_shape_of(part) for part in np.split(logs, _PARTS)]
        spread = float(np.std(shapes, ddof=1) / math.sqrt(_PARTS)) if np.isfinite(shapes).all() else 0.0
    error = math.sqrt(max(1.0 / max(share, _LEAST_SHARE) - 1.0, 0.0) / draws) + elbo.error
    kl, mode = Estimate(lacking, error, draws, "importance weights (standard error)"), None
    exact = None
    if r <= QUADRATURE_DIM:
        exact = _exact_divergence(model, elbo)
    improper = improper or (exact is not None and exact.value == math.inf)
    latent = latent_of(q)
    is_known = isinstance(latent, Latent)
    searched = exact is None and is_known and r <= kernels.inference.laplace.DENSE
    tails = FINE
    if is_known and r <= kernels.inference.laplace.DENSE and not improper:
        assert isinstance(latent, Latent)
        around = _parts_of(latent)[0][0]
        tails, _, rival, *_ = tails_of(model, around._mean, around._factor, draws)
        improper = tails == UNBOUNDED
        tails = UNCONFIRMED if rival is not None else tails
    if improper:
        kl, close, far = Estimate(math.inf, 0.0, 0), False, True
    elif exact is not None:
        kl = exact
        close = kl.value + kl.error <= CLOSE
        far = kl.value - kl.error > FAR
    else:
        if searched and logs is not None:
            assert isinstance(latent, Latent)
            others, shells = _others_than(model, latent, elbo.value, draws)
            if others or shells:
                part = draws // _SHARE_OF_DRAWS
                evidence, deviation, shares = _log_evidence_of_parts(model, latent, others + shells, part)
                more = evidence - elbo.value, deviation + elbo.error
                if more[0] - 2.0 * more[1] > kl.value + 2.0 * kl.error + _ADDS:
                    kl = Estimate(*more, draws, "importance weights of q and other modes (standard error)")
                    largest_part = int(np.argmax(shares[1:]))
                    if largest_part < len(others):
                        place = others[largest_part].mean
                        mode = model._support.to_model(place[None])[0][0]
        far = kl.value - 2.0 * kl.error > FAR
        close = kl.value <= CLOSE and share >= _EFFECTIVE and largest <= _LARGEST and searched and not tails
    # A log joint that is not finite where q has mass makes the ELBO -inf, also where quadrature sees nothing.
    far = bool(far or logs is None)
    size = f"{kl.value:.2g}" if kl.value >= _TINY else f"below {_TINY:g}"
    known = "is" if exact is not None else "seems" if k <= _RELIABLE or share >= _EFFECTIVE else "is at least"
    about = f"KL {known} {size}"
    if improper:
        verdict = "the posterior is improper: no q is close to it"
    elif logs is None:
        verdict = "the log joint is at fault at draws of q: do not trust it"
    elif mode is not None and kl.value > CLOSE:
        verdict = f"q misses the mode at z = {tidy(mode)} (KL at least {kl.value:.2g})"
        verdict += ": do not trust it" if far else ""
    elif far:
        verdict = f"q misses much of the posterior ({about}): do not trust it"
    elif close:
        unless = "" if exact is not None else ", unless another mode was missed"
        verdict = f"q is close to the posterior ({about}{unless})"
    elif exact is None and not searched and kl.value <= CLOSE and share >= _EFFECTIVE:
        verdict = f"q fits the posterior where q has mass ({about}); other modes were not searched for"
    else:
        verdict = f"usable: q differs visibly from the posterior ({about})"
        if exact is None and tails:
            verdict = "undecided: the density has another peak, or no end, far from q"
        elif exact is None and share < _TOO_FEW:
            verdict = "undecided: the importance weights are too unequal to tell how near q is"
    return Diagnosis(
        verdict=verdict,
        close=bool(close and not far),
        trusted=not far,
        kl=kl,
        psis_k=k,
        psis_k_error=spread,
        ess=share,
        draws=draws,
        other_mode=mode,
    )


def _exact_divergence(model: Model, elbo: Estimate) -> Estimate | None:
    """log p(x) - ELBO by quadrature, infinite for an improper posterior; None where it is not known."""
    try:
        evidence = log_evidence(model)
    except ValueError:
        return None
    if evidence.value == math.inf:
        return Estimate(math.inf, 0.0, evidence.evaluations)
    if not evidence.error + elbo.error < CLOSE:
        return None
    value, error = evidence.value - elbo.value, evidence.error + elbo.error
    return Estimate(max(value, 0.0), error, evidence.evaluations)


@interruptible(has_model)
def resampled(model: Model, q: Variational, n: int, rng: np.random.Generator) -> Array:
    """`n` draws of q, resampled with the importance weights p / q; ValueError where these are too unequal."""
    count = max(_TIMES * n, _FEW)
    if isinstance(q, TruncatedGaussian):
        points = q.sample(count, rng)
        logs = model.log_density(points) - q.logpdf(points)
    else:
        gaussian = latent_of(q)
        latent = gaussian.sample(count, rng)
        logs = latent_ratios(model, gaussian, latent)
        points = latent if model._support.is_real else model._support.to_model(latent)[0]
    share, largest = (0.0, 1.0) if logs is None else _weights_of(logs)[2:]
    if not (share * count >= max(n, _LEAST_DRAWS) and largest <= _LARGEST):
        raise ValueError(
            f"the importance weights do not allow it: {share * count:.0f} of {count} draws are effective, "
            f"and one has {largest:.0%} of the weight; see fit.diagnose()"
        )
    assert logs is not None
    edges = np.cumsum(np.exp(logs - logs.max()))
    # Systematic resampling: one place in each of n equal slices of the weight.
    places = (np.arange(n) + rng.random()) / n * edges[-1]
    chosen = np.minimum(np.searchsorted(edges, places, side="right"), count - 1)
    return np.ascontiguousarray(points[rng.permutation(chosen)])
