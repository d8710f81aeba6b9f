"""How near the q of a fit is to the posterior: importance weights, the evidence, a look for other modes.

`Fit.diagnose` calls `diagnosis_of`. What counts is KL(q ‖ posterior) = log p(x) - ELBO.
"""

from __future__ import annotations

import math

import numpy as np

from .. import kernels
from ..common.immutable import Record
from ..common.values import Array, tidy
from ..distributions.gaussian import Gaussian
from ..distributions.integrals import Estimate
from ..distributions.mixture import GaussianMixture
from ..distributions.variational import TruncatedGaussian, Variational, latent_of
from .diagnostics import importance_ratios, latent_ratios, pareto_shape
from .evidence import log_evidence
from .kernel_calls import QUADRATURE_DIM, log_densities
from .model import Model
from .modes import mode_from
from .starts import crossings

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

#: Starts of the search for other modes in few and in more dimensions, in q's deviations from its mean.
_STARTS, _FEW_STARTS, _FEW_DIM = 12, 4, 10
_DISTANCES = (3.0, 10.0, 30.0)

#: Another mode is at least so far from q, beyond the length of a draw, and so deep is the valley between.
_APART, _VALLEY = 6.0, 2.0


class Diagnosis(Record):
    """How near q is to the posterior, from `Fit.diagnose`.

    Attributes
    ----------
    verdict : str
        One sentence.
    close, trusted : bool
        Whether q is close to the posterior, KL(q ‖ p) below about 0.1 nats; whether nothing found speaks
        against it, KL below about 1.
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
    top = float(logs.max())
    ratios = np.exp(logs - top)
    total = float(ratios.sum())
    log_mean = top + math.log(total / logs.size)
    effective = total**2 / float((ratios**2).sum()) / logs.size
    return log_mean, log_mean - float(logs.mean()), effective, 1.0 / total


def _shape_of(logs: Array) -> float:
    ratios = np.exp(logs - logs.max())
    shape = pareto_shape(ratios)
    # Ratios of at most twice their mean do no harm, whatever the shape of their tail.
    return min(shape, 0.0) if ratios.mean() > 0.5 else shape


def _parts_of(q: Variational) -> list[Gaussian]:
    """The Gaussians in latent coordinates that q consists of, the heaviest first."""
    latent = latent_of(q)
    if isinstance(latent, GaussianMixture):
        return [latent.components[k] for k in np.argsort(-latent.weights, kind="stable")]
    return [latent] if isinstance(latent, Gaussian) else []


def _other_mode(model: Model, parts: list[Gaussian], elbo: float) -> tuple[Array, float] | None:
    """(the model's coordinates, log mass) of a mode that q misses, by Laplace's approximation there."""
    r = model.latent_dim
    rng = np.random.default_rng(_SEED)
    count = _STARTS if r <= _FEW_DIM else _FEW_STARTS

    def density(point: Array) -> float:
        fault, values, _ = log_densities(model, point[None])
        return -math.inf if fault else float(values[0])

    mean = parts[0].mean
    starts = []
    for k in range(count):
        part = parts[k // len(_DISTANCES) % len(parts)]
        starts.append(part.mean + _DISTANCES[k % 3] * (part.cholesky @ rng.standard_normal(r)))
    starts += crossings(parts, rng)
    best: tuple[Array, float] | None = None
    for start in [*starts, -mean, mean[::-1].copy()]:
        mode = mode_from(model, start)
        if mode is None:
            continue
        away = [np.linalg.norm(np.linalg.solve(part.cholesky, mode.mean - part.mean)) for part in parts]
        near = int(np.argmin(away))
        if not away[near] > _APART + math.sqrt(r):
            continue
        mass, centre = mode.log_mass, parts[near].mean
        between = min(density(centre + t * (mode.mean - centre)) for t in (0.25, 0.5, 0.75))
        valley = min(density(centre), density(mode.mean)) - between
        if valley > _VALLEY and mass > elbo - 3.0 and (best is None or mass > best[1]):
            best = model._support.to_model(mode.mean[None])[0][0], mass
    return best


def diagnosis_of(model: Model, q: Variational, elbo: Estimate, evaluations: int) -> Diagnosis:
    """The diagnosis of a q with this ELBO, whose fit took so many evaluations."""
    r = model.latent_dim
    draws = _MANY if evaluations >= _MANY else _FEW
    logs = importance_ratios(model, q, draws, _SEED)
    k, spread, share, largest, lacking = math.inf, math.inf, 0.0, 1.0, math.inf
    if logs is not None:
        _, lacking, share, largest = _weights_of(logs)
        k = _shape_of(logs)
        shapes = [_shape_of(part) for part in np.split(logs, _PARTS)]
        spread = float(np.std(shapes, ddof=1) / math.sqrt(_PARTS)) if np.isfinite(shapes).all() else 0.0
    error = math.sqrt(max(1.0 / max(share, 1e-300) - 1.0, 0.0) / draws) + elbo.error
    kl, mode = Estimate(lacking, error, draws, "importance weights (standard error)"), None
    exact = None
    if r <= QUADRATURE_DIM:
        exact = _exact_divergence(model, elbo)
    parts = _parts_of(q)
    searched = exact is None and bool(parts) and r <= kernels.inference.laplace.DENSE
    if exact is not None:
        kl = exact
        close = kl.value + kl.error <= CLOSE
        far = kl.value - kl.error > FAR
    else:
        found = _other_mode(model, parts, elbo.value) if searched else None
        if found is not None:
            mode, mass = found
            missed = float(np.logaddexp(elbo.value, mass) - elbo.value)
            if missed > kl.value:
                kl = Estimate(missed, error, draws, "Laplace's approximation of another mode")
        far = kl.value - 2.0 * kl.error > FAR
        close = kl.value <= CLOSE and share >= _EFFECTIVE and largest <= _LARGEST and searched
    # A log joint that is not finite where q has mass makes the ELBO -inf, also where quadrature sees nothing.
    far = bool(far or logs is None)
    size = f"{kl.value:.2g}" if kl.value >= _TINY else f"below {_TINY:g}"
    about = f"KL {'is' if exact is not None else 'seems'} {size}"
    if logs is None:
        verdict = "the log joint is at fault at draws of q: do not trust it"
    elif mode is not None and kl.value > CLOSE:
        verdict = f"q misses the mode at z = {tidy(mode)} (KL at least {kl.value:.2g})"
        verdict += ": do not trust it" if far else ""
    elif far:
        verdict = f"q misses much of the posterior ({about}): do not trust it"
    elif close:
        verdict = f"q is close to the posterior ({about})"
    elif exact is None and not searched and kl.value <= CLOSE and share >= _EFFECTIVE:
        verdict = f"q fits the posterior where q has mass ({about}); other modes were not looked for"
    else:
        verdict = f"usable: q differs visibly from the posterior ({about})"
        if exact is None and share < 1.0 / 50:
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
    """log p(x) - ELBO by quadrature; None where it is not known."""
    try:
        evidence = log_evidence(model)
    except ValueError:
        return None
    if not evidence.error + elbo.error < CLOSE:
        return None
    value, error = evidence.value - elbo.value, evidence.error + elbo.error
    return Estimate(max(value, 0.0), error, evidence.evaluations)


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
    if not (share * count >= max(n, 100) and largest <= _LARGEST):
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
