"""`fit`: the q of a family that maximises the ELBO of a model, by the method that suits its dimension."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..common.progress import bar
from ..common.threads import interruptible
from ..common.validation import choice, generator, integer, real_number
from ..distributions.integrals import tolerance
from ..kernels.families.table import CODES, LOW_RANK
from .deterministic import MOST_NUMBERS, fit_draws, fit_quadrature, fit_truncated
from .kernel_calls import DRAWS_DIM, QUADRATURE_DIM, WIDE_DIM, is_long
from .mixture_fits import FULL_DIM, MOST_COMPONENTS, MOST_DIM, fit_mixture_of_gaussians
from .model import Model, checked_model
from .results import Fit, beside_gaps
from .starts import dispersed_points, start_of
from .stochastic import fit_sgd
from .student_fits import FAMILIES as STUDENT_FAMILIES
from .student_fits import MOST_STUDENT_DIM, fit_student

#: The family of several Gaussians.
MIXTURE = "mixture"

#: Names of all families.
FAMILIES = (*CODES, LOW_RANK, "truncated", MIXTURE)

#: Tails of q.
TAILS = GAUSSIAN, STUDENT = "gaussian", "student"


class SgdOptions(NamedTuple):
    """The arguments of `fit` for ``method="sgd"`` alone."""

    rng: Any
    steps: int
    rate: float


@interruptible(is_long)
def fit(
    model: Model,
    family: str | tuple[str, int] = "full",
    start: Any = None,
    method: str = "auto",
    *,
    tail: str = GAUSSIAN,
    starts: Sequence[Any] | int | None = None,
    rtol: float = 1e-8,
    max_steps: int = 500,
    draws: int | None = None,
    rng: Any = None,
    steps: int = 10_000,
    rate: float = 0.02,
    progress: bool = False,
) -> Fit:
    r"""The member of a family that maximises the ELBO of a model.

    .. math:: q^* = \arg\max_q \mathrm{ELBO}(q) = \arg\min_q \mathrm{KL}(q \,\|\, p(z \mid x))

    Parameters
    ----------
    model : Model
    family : {"full", "diag", "isotropic", "mean", "truncated", "lowrank"} or tuple, optional
        Gaussians in latent coordinates (the model's own where its support is the real line) with any
        covariance, a diagonal one, a multiple of the identity, or that of the start; or a Gaussian truncated
        to the support (dimension 1). "lowrank" stands for covariances diag(s²) + U U', where U has as many
        columns as the number says, or one for each direction that adds 0.01 nats to the ELBO of the start's
        Gaussian, at most 16; from three latent dimensions on: "lowrank" or ("lowrank", int). ("mixture", int)
        stands for at most so many Gaussians in latent coordinates, see Notes.
    start : array_like (D,), Gaussian, TransformedGaussian or TruncatedGaussian, optional
        A q, or a point in the model's coordinates: in more than two latent dimensions the best of some
        Gaussians around it, else Laplace's approximation from there. Default: Laplace's approximation from
        the point whose latent coordinates are 0, where it stands some tests. Else, in more than two
        dimensions, the winner of a race on the ELBO between it, Pathfinder's Gaussians and N(x, s² I); in one
        or two the best of the fits from it, from other modes, and from Gaussians around points that are found
        by a scan, where the log density is not concave on lines through q.
    method : {"auto", "sgd"}, optional
        "auto" is deterministic: Newton's method on quadrature in up to two latent dimensions, L-BFGS on fixed
        draws in up to 1000 ("diag": 10,000, where the model has a gradient); with a line search, so there is
        no step size. "sgd": Adam on stochastic reparameterised gradients ("sticking the landing"), and the
        average of the last half of its iterates.
    tail : {"gaussian", "student"}, optional
        "student": a multivariate t with the same form of scale, and its degrees of freedom, for the families
        "full" (up to 50 dimensions) and "diag" (up to 256) where the support is the real line, see Notes.
    starts : sequence or int, optional
        Several starts instead of one, or their number: then the first is the default and the others are
        points whose latent coordinates are N(0, 1), from `rng` or, without it, the same in each call. The
        best fit is kept; the ELBOs of all are in `Fit.starts`, their means in `Fit.start_means`. One that
        fails is left out, and counted in `Fit.skipped`.
    rtol : float, optional
        Error wanted: of the ELBO relative to 1 + abs(ELBO), and of the parameters in units of q's spread.
        On draws a fit has converged where the ELBO over them lacks less than this, or than a hundredth of its
        standard error, by its gradient.
    max_steps : int, optional
        Most steps of each fit by "auto".
    draws : int, optional
        Number of fixed draws (rounded up to pairs), or draws for each step of "sgd". Default: at least 64
        fixed draws (128 in more than 1000 dimensions, 24 where Laplace's approximation is nearly exact),
        doubled until fresh draws confirm the ELBO; 10 for "sgd".
    rng : numpy.random.Generator, int or None, optional
        A generator, which is advanced, or an integer that makes one. For "sgd", where None means another
        each time; for a number of `starts`; and for the fresh draws that confirm a fit on fixed draws and
        give its ELBO, where None stands for the same draws in each call.
    steps, rate : optional
        Number and size of the steps of "sgd", the size in units of the start's standard deviations.
    progress : bool, optional
        Show a bar, where tqdm is installed, for "sgd" and for `starts`.

    Returns
    -------
    Fit
        Also where it did not converge: `Fit.status` says what happened. The q of a mixture is a
        GaussianMixture, or a TransformedMixture for a support; that of the tail "student" a StudentT, or the
        Gaussian where a t adds nothing.

    Raises
    ------
    TypeError
        A model that is not a Model; a start or an `rng` of another kind; a number of steps or draws that is
        no integer; a mixture as a start.
    ValueError
        Other values than described above; a start outside of the support, or where the log joint is not
        finite; no start that works; with "auto" more than 1000 latent dimensions, or 10,000 for "diag", or
        more than 1000 or "lowrank" without a gradient; a mixture in more than 256; a tail "student" for
        another family, with "sgd", or with a support.

    Notes
    -----
    For a mixture q = Σ_j w_j N(m_j, L_j L_j') the ELBO is

    .. math:: F = \sum_j w_j \, E_{\epsilon}[\log p(x, z_j) - \log q(z_j)], \quad z_j = m_j + L_j \epsilon

    whose gradient in all weights, means and factors is exact over fixed draws ε of each component (in one and
    two latent dimensions a lattice, on which F is the ELBO to 1e-5); covariances are diagonal in more than
    50. It grows from the best single Gaussian, one component at a time: from other modes, halves of a
    component, and draws at which p / q is large, the one is kept that gains most in some steps. A component
    stays if it adds 0.002 nats, and two standard errors, by other draws; so q may have fewer than asked
    for, and its ELBO is not below that of the single Gaussian. `Fit.gains` has what each added. The ELBO has
    the entropy by quadrature in one and two dimensions, and comes from fresh draws of each component in more.
    This takes 10,000 to some millions of evaluations of the log joint and its gradient.

    For the tail "student", q is the t distribution with location m, scale L L' and ν degrees of freedom, of
    which z = m + r L v is a draw: v a direction, r² / (ν + r²) of Beta(D / 2, ν / 2). The ELBO is

    .. math:: F = E[\log p(x, z)] + \log |L| + \log \frac{\Gamma(\frac{\nu}{2}) (\nu \pi)^{D/2}}
              {\Gamma(\frac{\nu + D}{2})} + \frac{\nu + D}{2} \left[\psi(\tfrac{\nu + D}{2})
              - \psi(\tfrac{\nu}{2})\right]

    with an exact gradient, also in ν, over 21 quantiles of r in each of some fixed directions, twice as many
    while fresh draws find less. It starts from the Gaussian that is the best, and is kept where it adds two
    standard errors by fresh draws. For "diag" its coordinates are uncorrelated, but not independent.

    A posterior is called improper where the log joint does not fall far out along a coordinate, around q, or
    along a direction that the gradients around q are orthogonal to: a sum that the data do not tell.
    In three to 64 dimensions also where Laplace's marginal density of a coordinate that is a logarithm, as of
    the deviation of groups, becomes level 8 to 18 units from q's mean and is so as far as floats go: the
    prior 1 / tau of groups. Where it rises as far as they go, as with 1 / tau² and effects that are not
    standardised, and may rise above that at q's mean before floats end, the status says that another q may be
    better. And where the log joint is level or rises along a coordinate with a bound wherever the others are.
    At a fifth of the fit's evaluations, or 60 for each of up to ten dimensions, and about as many for other
    peaks, so that some of many such coordinates are left out; not with functions of arrays in Python.

    Without a start, another fit begins where such a density rises again to about as much as at q's mean, or
    where the ELBO is higher, one to 20 units from there; where q gains by another value of one coordinate or
    uphill of it, and at other modes that ascents find; and, with a start too, farther along directions in
    which the log joint bends a thousand times less than it does by q's deviations. The best of these is
    returned. On a curved ridge, a thousand times longer than q is wide, "another q may be better".

    References
    ----------
    Quadrature: M. Opper, C. Archambeau, Neural Computation 21 (2009). Fixed draws: R. Giordano, M. Ingram, T.
    Broderick, Black Box Variational Inference with a Deterministic Objective, JMLR 25 (2024), section 2.
    Starts: L. Zhang et al., Pathfinder, JMLR 23 (2022).
    Marginal densities: L. Tierney, J. B. Kadane, Accurate Approximations for Posterior Moments and Marginal
    Densities, JASA 81 (1986), section 4.
    Mixtures: T. S. Jaakkola, M. I. Jordan, Improving the Mean Field Approximation via the Use of Mixture
    Distributions, in Learning in Graphical Models (1998); S. Gershman, M. Hoffman, D. Blei, Nonparametric
    Variational Inference, ICML 2012. One at a time: A. C. Miller, N. J. Foti, R. P. Adams, Variational
    Boosting, ICML 2017.
    Entropy of t: S. Kotz, S. Nadarajah, Multivariate t Distributions and Their Applications (2004), section
    1.10.
    Stochastic: G. Roeder, Y. Wu, D. Duvenaud, Sticking the Landing, NeurIPS 2017, eq. 8; D. P. Kingma, J. Ba,
    Adam, ICLR 2015, algorithm 1.

    Examples
    --------
    >>> import math
    >>> import fastvi as fv
    >>> def log_joint(z, x):                         # p(z) = exp(-z), p(x | z) = N(x | z, 1)
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
    >>> f = fv.fit(fv.Model(log_joint, 1, data=(5.0,)))
    >>> f.q, round(f.elbo.value, 9)                  # mu* = x - 1, ELBO* = 1/2 - x
    (Gaussian(mean=[4], cov=[[1]]), -4.5)
    >>> f = fv.fit(fv.Model(log_joint, 1, data=(2.0,), support="positive"), "truncated")
    >>> f.q, round(f.elbo.value, 9)                  # 1/2 - x + log Phi(x - 1)
    (TruncatedGaussian(mu=1, sigma=1, low=0, high=inf), -1.672753779)
    >>> def log_joint(z):                            # two modes, at -10 and 10
    ...     return -0.5 * (abs(z[0]) - 10.0) ** 2
    >>> f = fv.fit(fv.Model(log_joint, 1), ("mixture", 2))
    >>> f.q.weights.round(6), [round(gain, 6) for gain in f.gains]       # log 2
    (array([0.5, 0.5]), [0.693147])
    """
    checked_model(model)
    name, rank = family_of(model, family)
    choice("method", method, ("auto", "sgd"))
    if choice("tail", tail, TAILS) == STUDENT:
        check_student(model, name, method)
    made = None if rng is None else generator("rng", rng)
    source = 0 if made is None else made
    wanted, max_steps = tolerance(rtol), integer("max_steps", max_steps, 1)
    if draws is not None:
        draws = integer("draws", draws, 1)
        if draws * model.latent_dim > MOST_NUMBERS:
            most = MOST_NUMBERS // model.latent_dim
            raise ValueError(f"draws must be at most {most}, to fit into memory, not {draws!r}")
    sgd = None
    if method == "sgd":
        sgd = SgdOptions(rng, integer("steps", steps, 1), real_number("rate", rate))
        if not 0.0 < sgd.rate < math.inf:
            raise ValueError(f"rate must be positive and finite, not {rate!r}")
    options = name, wanted, max_steps, draws, sgd
    if starts is not None:
        if start is not None:
            raise ValueError("give start or starts, not both")
        if isinstance(starts, str):
            raise TypeError(f"starts must be a number or a sequence of starts, not {starts!r}")
        if isinstance(starts, Iterable):
            listed = list(starts)
            if not listed:
                raise ValueError("starts is empty")
        else:
            listed = [None, *dispersed_points(model, integer("starts", starts, 1) - 1, made)]
        for k, one in enumerate(listed):
            start_of(model, one, f"starts[{k}]")
        fits, fault = [], None
        for one in bar(listed, progress, "starts"):
            try:
                fits.append(fit_once(model, one, *options, rng=source, rank=rank, tail=tail))
            except ValueError as error:
                fault = error
        if not fits:
            assert fault is not None
            raise fault
        fits.sort(key=lambda f: -f.elbo.value if f.elbo.value == f.elbo.value else math.inf)
        return beside_gaps(fits[0])._replace(
            starts=tuple(f.elbo.value for f in fits),
            start_means=np.array([f.q.mean for f in fits]),
            skipped=len(listed) - len(fits),
        )
    return beside_gaps(fit_once(model, start, *options, progress, source, rank, tail))


def family_of(model: Model, family: Any) -> tuple[str, int | None]:
    """The name of a family, and the number beside it; ValueError where the model has no such q."""
    rank = None
    if isinstance(family, tuple):
        if len(family) != 2 or family[0] not in (LOW_RANK, MIXTURE):
            forms = f'("{LOW_RANK}", rank) or ("{MIXTURE}", number)'
            raise ValueError(f"family must be a name or {forms}, not {family!r}")
        family, rank = family[0], integer("family[1]", family[1], 1)
    name = choice("family", family, FAMILIES)
    r = model.latent_dim
    if name == MIXTURE:
        if rank is None:
            raise ValueError(f'family="{MIXTURE}" needs a number of Gaussians: family=("{MIXTURE}", 4)')
        if rank > MOST_COMPONENTS:
            raise ValueError(f"family[1] must be at most {MOST_COMPONENTS}, not {rank}")
        if r > MOST_DIM:
            raise ValueError(f'family="{MIXTURE}" works in up to {MOST_DIM} dimensions, the model has {r}')
    if name == LOW_RANK:
        if r <= QUADRATURE_DIM:
            raise ValueError(f'family="{LOW_RANK}" needs at least three latent dimensions: use "full"')
        if rank is not None and rank > r - 2:
            raise ValueError(f'family[1] must be at most {r - 2} in {r} dimensions, not {rank}: use "full"')
        if not model._slopes_address:
            raise ValueError(f'family="{LOW_RANK}" needs a gradient, and the model takes differences')
    return name, rank


def check_student(model: Model, family: str, method: str) -> None:
    """ValueError where there is no fit of a t."""
    asked, r = f'tail="{STUDENT}"', model.latent_dim
    if family not in STUDENT_FAMILIES:
        raise ValueError(f'{asked} has the families "full" and "diag", not {family!r}')
    if method != "auto":
        raise ValueError(f"method={method!r} does not fit {asked}")
    if not model._support.is_real:
        raise ValueError(
            f"{asked} needs a model on the real line, not with the support {model.support!r}: "
            "the exponential of a t has no mean"
        )
    most = FULL_DIM if family == "full" else MOST_STUDENT_DIM
    if r > most:
        raise ValueError(f'{asked} works in up to {most} dimensions for "{family}", the model has {r}')


def fit_once(
    model: Model,
    start: Any,
    family: str,
    rtol: float,
    max_steps: int = 500,
    draws: int | None = None,
    sgd: SgdOptions | None = None,
    progress: bool = False,
    rng: Any = 0,
    rank: int | None = None,
    tail: str = GAUSSIAN,
) -> Fit:
    """The fit from one start; all arguments but the start have been checked.

    `rng` is for fresh draws, `rank` the number beside the name of a family. What is returned to the user goes
    through `beside_gaps`.
    """
    if tail == STUDENT:
        return fit_student(model, family, start, rtol, max_steps, draws, rng)
    if family == "truncated":
        if sgd is not None:
            raise ValueError('method="sgd" fits Gaussians, not family="truncated"')
        return fit_truncated(model, start, rtol, max_steps)
    if sgd is not None:
        if family in (LOW_RANK, MIXTURE):
            raise ValueError(f'method="sgd" does not fit family="{family}"')
        return fit_sgd(model, family, start, draws, *sgd, progress)
    if family == MIXTURE:
        assert rank is not None
        return fit_mixture_of_gaussians(model, rank, start, rtol, max_steps, draws, rng)
    if model.latent_dim <= QUADRATURE_DIM:
        return fit_quadrature(model, family, start, rtol, max_steps)
    is_wide = family == "diag"  # the one whose factor is kept as one row of deviations there
    most = WIDE_DIM if is_wide else DRAWS_DIM
    if model.latent_dim > most:
        other = "" if is_wide else f' and family="diag" in up to {WIDE_DIM}'
        raise ValueError(
            f'method="auto" works in up to {most} dimensions{other}, the model has {model.latent_dim}: '
            'use method="sgd"'
        )
    if model.latent_dim > DRAWS_DIM and not model._slopes_address:
        raise ValueError(
            f'method="auto" needs a gradient in more than {DRAWS_DIM} dimensions, '
            "and the model takes differences"
        )
    return fit_draws(model, family, start, rtol, max_steps, draws, rng, rank)
