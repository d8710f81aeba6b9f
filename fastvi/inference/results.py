"""The result of a fit, and how it is made of what a kernel reports."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.extras import required
from ..common.immutable import Record, frozen_fields
from ..common.statuses import is_fault
from ..common.threads import interruptible
from ..common.validation import generator, integer
from ..common.values import Array, tidy
from ..distributions.gaussian import Gaussian
from ..distributions.integrals import Estimate
from ..distributions.mixture import GaussianMixture
from ..distributions.student import StudentT
from ..distributions.variational import TransformedGaussian, TruncatedGaussian, Variational, latent_of
from ..kernels.statuses import CONVERGED, RAISED, UNBOUNDED
from .diagnostics import psis_shape
from .exports import groups_of, posterior, to_arviz
from .faults import error_of, exception_at, words
from .gaps import look_under, points_of_fit
from .kernel_calls import QUADRATURE_DIM, has_model
from .linear_response import LinearResponse, response_of
from .model import Model
from .parameters import Layout
from .verdicts import Diagnosis, diagnosis_of, resampled

#: Coordinates whose moments a summary has.
_SHOWN = 20

#: A q with a number above this has moved off without end; above `quadrature_fits.ENDLESS` it is refused.
_GONE = 1e50


class Moments(NamedTuple):
    """Mean and standard deviation of a parameter: numbers, or arrays of its shape."""

    mean: Any
    sd: Any

    def __reduce__(self) -> tuple[Any, ...]:
        return frozen_fields, (Moments, *self)


class Fit(Record):
    """The q that a fit found, with its ELBO and how the fit went.

    Attributes
    ----------
    model : Model
    family : str
    q : Gaussian, TransformedGaussian, TruncatedGaussian, GaussianMixture, TransformedMixture or StudentT
    elbo : Estimate
        In nats, with its error.
    trace : ndarray
        The ELBO after each accepted step.
    gradient_norm : float
        Length of the ELBO's gradient in the metric of Fisher's information; NaN where it is not known.
    evaluations : int
        Of the log joint, with those for finite differences.
    status : str
        How the fit ended, in words.
    converged : bool
        Whether the status is "converged".
    starts : tuple of float
        The ELBO reached from each start, best first.
    start_means : ndarray (S, D) or None
        Means of the q reached from each start, in the same order; None where `fit` had no `starts`.
    skipped : int
        How many starts failed.
    gains : tuple of float or None
        Of a mixture, what each component after the first added to the ELBO, in nats, when it was added; in
        more than two dimensions from draws, with an error. None for other families.

    Examples
    --------
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
    >>> fv.fit(fv.Model(log_joint, 1, data=(3.0,)))
    Fit(q=Gaussian(mean=[1.5], cov=[[0.5]]), elbo=-1.67764, converged)
    """

    q: Variational
    elbo: Estimate
    trace: Array
    gradient_norm: float
    evaluations: int
    status: str
    converged: bool
    starts: tuple[float, ...]
    model: Model
    family: str
    start_means: Array | None = None
    skipped: int = 0
    gains: tuple[float, ...] | None = None
    _code: int | None = None  #: the status as a number, of a fit by a kernel
    _psis: float | None = None
    _diagnosis: Diagnosis | None = None

    @property
    @interruptible(has_model)
    def psis_k(self) -> float:
        """Pareto shape k̂ of the importance ratios p / q: above 0.7 their mean converges slowly.

        That alone says little of q, see `diagnose`. At most 0 where no ratio is more than twice their mean.
        Computed at the first access, from 4,000 draws with a fixed seed.

        References
        ----------
        A. Vehtari et al., Pareto Smoothed Importance Sampling, JMLR 25 (2024), section 3. J. Zhang, M. A.
        Stephens, Technometrics 51 (2009).
        """
        if self._psis is None:
            self.__dict__["_psis"] = psis_shape(self.model, self.q)
        assert self._psis is not None
        return self._psis

    def sample(self, n: int, rng: Any = None, *, named: bool = False, resample: bool = False) -> Any:
        """`n` draws of q in the model's own coordinates, shape (n, D), from `rng` as in `fit`.

        `named`, for a model of named parameters: a dict of arrays (n, *shape), one for each name; for a model
        from elsewhere, what that calls its parameters.
        With `resample`, draws that are nearer to the posterior: 20 n of q, at least 4,000, resampled with the
        importance weights p / q; ValueError where these are too unequal.
        """
        if resample:
            draws = resampled(self.model, self.q, integer("n", n, 1), generator("rng", rng))
        else:
            draws = self.q.sample(n, rng)
        return self.model._named(draws) if named else draws

    def to_arviz(self, draws: int = 1000, rng: Any = None, *, dims: Any = None, coords: Any = None) -> Any:
        """Draws of q as ArviZ takes them, for its summaries, plots and files.

        Parameters
        ----------
        draws : int, optional
            How many, in one chain: those of ``sample(draws, rng)``.
        rng : numpy.random.Generator, int or None, optional
            As in `fit`.
        dims : dict, optional
            Names for the dimensions of parameters: ``{"theta": ["school"]}``. Default: those of the model, or
            ``theta_dim_0``.
        coords : dict, optional
            Labels along dimensions: ``{"school": ["A", "B"]}``. Default: those of the model, or 0, 1, ...

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            The second since ArviZ 1.0. Its groups: `posterior`, the parameters by their names, with what
            their system derives from them (z without names); `unconstrained_posterior`, the latent
            coordinates; `sample_stats`, with `lp`, the log joint, and `log_q`, both as densities of the
            model's own coordinates; `variational_parameters`, the mean of q in latent coordinates with its
            covariance `cov` or deviations `sd`. The attributes of each have the ELBO, its error, k̂ where it
            is finite, and how the fit ended.

        Raises
        ------
        ImportError
            Without ArviZ.
        ValueError
            `dims` or `coords` that do not fit the parameters; draws where the density is not known.
        TypeError
            `dims` or `coords` that are no dict; a number of draws that is no integer.

        Notes
        -----
        Draws of q are independent, and of q: that ArviZ finds them to have converged says nothing of how near
        q is to the posterior, see `diagnose`.

        Examples
        --------
        >>> import fastvi as fv
        >>> model = fv.Model(lambda p: -0.5 * p.mu**2 - p.tau, {"mu": "real", "tau": "positive"})
        >>> data = fv.fit(model).to_arviz(draws=500, rng=0)                    # doctest: +SKIP
        >>> arviz.summary(data, kind="stats")                                  # doctest: +SKIP
        """
        # First of all, for it may be missing.
        required("arviz", "arviz", "Fit.to_arviz")
        return to_arviz(groups_of(self, draws, rng, dims, coords))

    def to_xarray(self, draws: int = 1000, rng: Any = None, *, dims: Any = None, coords: Any = None) -> Any:
        """The posterior group of `to_arviz` as an xarray.Dataset, which needs xarray alone.

        Examples
        --------
        >>> import fastvi as fv
        >>> model = fv.Model(lambda p: -0.5 * p.mu**2 - p.tau, {"mu": "real", "tau": "positive"})
        >>> dict(fv.fit(model).to_xarray(draws=500, rng=0).sizes)
        {'chain': 1, 'draw': 500}
        """
        required("xarray", "arviz", "Fit.to_xarray")
        return posterior(self, self.sample(integer("draws", draws, 1), rng), dims, coords)

    @property
    def _layout(self) -> Layout:
        if self.model._layout is None:
            raise TypeError("the model's parameters have no names: make it with a dict of names")
        return self.model._layout

    def __getitem__(self, name: str) -> Moments:
        """Mean and standard deviation of a parameter under q, by its name."""
        layout = self._layout
        if name not in layout.names:
            raise KeyError(f"no parameter is called {name!r}; there are {', '.join(layout.names)}")
        mean, sd = (layout.split(x)[name] for x in (self.q.mean, deviations_of(self.q)))
        parts = (mean, sd) if mean.ndim else (float(mean), float(sd))
        moments: Moments = frozen_fields(Moments, *parts)
        return moments

    @interruptible(has_model)
    def diagnose(self) -> Diagnosis:
        """How near q is to the posterior, and one plain verdict; computed at the first call.

        Up to two latent dimensions the divergence is that of `log_evidence`. More: the importance weights of
        20,000 draws (4,000 where the fit took fewer evaluations than that), with a fixed seed, and other
        modes, up to 64 dimensions. These are searched from 8 or 16 points around q, where there is one from
        points around all of them too, and from those of as many points on rays as there are draws, along the
        axes and in random directions, whose log density stands out at their distance; draws around those that
        are found are weighed with q's.

        Notes
        -----
        A mode that is far from q and narrower, and on none of the rays, is missed: where two or three modes,
        up to three times as wide as each other, are 15 from a point in random directions, that happens to
        none of 40 fits in 4 dimensions, to 5 in 8, to 7 in 12 and to 14 in 20. Where there is no quadrature a
        verdict that q is close has this proviso.

        References
        ----------
        Y. Yao, A. Vehtari, D. Simpson, A. Gelman, Yes, but Did It Work?: Evaluating Variational Inference,
        ICML 2018.

        Examples
        --------
        >>> import fastvi as fv
        >>> def log_joint(z, x):
        ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
        >>> fv.fit(fv.Model(log_joint, 1, data=(3.0,))).diagnose().verdict
        'q is close to the posterior (KL is below 0.001)'
        """
        if self._diagnosis is None:
            improper = self._code == UNBOUNDED
            found = diagnosis_of(self.model, self.q, self.elbo, self.evaluations, improper)
            self.__dict__["_diagnosis"] = found
        assert self._diagnosis is not None
        return self._diagnosis

    @interruptible(has_model)
    def linear_response(self) -> LinearResponse:
        r"""What the family leaves out: a covariance that is nearer to the posterior's, by linear response.

        .. math:: \mathrm{Cov}(z) \approx \frac{d E_{q_t}[z]}{dt} \Big|_{t = 0}, \quad
                  q_t = \arg\min_q \mathrm{KL}(q \,\|\, p(z) e^{t^T z} / c_t)

        in latent coordinates: how the mean of q would answer to a tilt of the posterior, which is a block of
        the inverse of the Hessian of KL(q ‖ p) in the parameters of q. It is exact where the posterior is
        Gaussian there, whatever the family leaves out, and needs only that q has the means right. Moments of
        z and of functions of z are those of the Gaussian with this covariance, through the support's
        transform: a deviation of 1 of log z is then that of a log-normal, which a derivative at q's mean
        misses.

        Returns
        -------
        LinearResponse
            `cov`, `sd`, `latent_cov`, and `of` for functions of z. Its `verdict` says whether the importance
            weights of 500 draws, or up to 4,000 where those do not tell, confirm it: for a posterior that is
            far from Gaussian, such as a funnel, it overshoots. There is no covariance, but nan, where the
            Hessian is not positive definite.

        Raises
        ------
        ValueError
            A TruncatedGaussian; a mixture; the family "full" in more than 200 latent dimensions, others in
            more than 1000; the family "lowrank".

        Notes
        -----
        The second derivatives are differences of gradients at draws of q, (R + 1) gradients at each, on all
        threads: at 256 draws or more for "full", else at 64, doubled up to 256 until the deviations by both
        halves of them tell that their error is 1 %; up to two dimensions on a lattice. For "full" the Hessian
        is inverted by conjugate gradients in more than 20 dimensions. `diagnose` is called in up to two
        dimensions, and where ascents from points around q, and on some rays, do not all come back to it: in
        up to 64 dimensions. What it found in an earlier call counts, too.

        References
        ----------
        R. Giordano, T. Broderick, M. I. Jordan, Covariances, Robustness, and Variational Bayes, JMLR 19 (51),
        2018: theorem 2 (eq. 10) and definition 6 (eq. 14).

        Examples
        --------
        >>> import fastvi as fv
        >>> def log_joint(z):                        # deviations of 1, a correlation of 0.9
        ...     return -(z[0] ** 2 + z[1] ** 2 - 1.8 * z[0] * z[1]) / (2 * 0.19)
        >>> f = fv.fit(fv.Model(log_joint, 2), "diag")
        >>> f.q.cov.round(3) + 0.0
        array([[0.19, 0.  ],
               [0.  , 0.19]])
        >>> f.linear_response().cov.round(3)
        array([[1. , 0.9],
               [0.9, 1. ]])
        """
        known = self._diagnosis is not None
        return response_of(self.model, self.family, self.q, self.converged, self.diagnose, known)

    def summary(self) -> str:
        """A text of some lines: how the fit went, `diagnose`, and the moments of 20 coordinates."""
        found = self.diagnose()
        lines = [
            f"family         {self.family}",
            f"status         {self.status}",
            f"ELBO           {self.elbo.value:.9g} ± {self.elbo.error:.1e} ({self.elbo.method})"
            + (f", {self.elbo.note}" if self.elbo.note else ""),
            f"gradient norm  {self.gradient_norm:.1e}",
            f"steps          {len(self.trace)}, {self.evaluations} evaluations",
            f"verdict        {found.verdict}",
            f"PSIS k         {found.psis_k:.2f} ± {found.psis_k_error:.2f}",
            f"weights        {found.ess:.1%} of {found.draws} draws are effective",
        ]
        if len(self.starts) > 1:
            shown = ", ".join(f"{value:.6g}" for value in self.starts)
            lines.append(f"starts         {shown} (spread {self.starts[0] - self.starts[-1]:.2g})")
        if self.start_means is not None and len(self.starts) > 1:
            lines += [f"               mean {tidy(z)}" for z in self.start_means]
        if self.gains is not None:
            added = ", ".join(f"{gain:.3g}" for gain in self.gains)
            lines.append(
                f"components     {1 + len(self.gains)}" + (f", which added {added}" if added else "")
            )
        if self.skipped:
            lines.append(f"skipped        {self.skipped} starts that failed")
        mean, sd = self.q.mean, deviations_of(self.q)
        labels = self.model._labels
        for i in range(min(len(mean), _SHOWN)):
            lines.append(labels[i].ljust(15) + f"{mean[i]:.6g} ± {sd[i]:.3g}")
        if len(mean) > _SHOWN:
            lines.append(f"... and {len(mean) - _SHOWN} more coordinates")
        return "\n".join(lines)

    def __repr__(self) -> str:
        note = f" {self.elbo.note.partition(',')[0]}" if self.elbo.note else ""
        return f"Fit(q={self.q!r}, elbo={self.elbo.value:.6g}{note}, {self.status})"


def q_of(model: Model, mean: Array, factor: Array) -> Gaussian | TransformedGaussian:
    """The q with this mean and Cholesky factor in the model's latent coordinates."""
    gaussian = Gaussian._from_factor(mean, factor)
    if model._support.is_real:
        return gaussian
    return TransformedGaussian._of(gaussian, model._support)


def deviations_of(q: Any) -> Array:
    """The standard deviations of the coordinates of z."""
    own = isinstance(q, Gaussian | TransformedGaussian)
    found: Array = q._deviations if own else np.sqrt(np.diag(q.cov))
    return found


def _numbers(q: Any) -> Array:
    """The parameters of q."""
    if isinstance(q, TruncatedGaussian):
        return np.array([q.mu, q.sigma])
    gaussian = latent_of(q)
    if isinstance(gaussian, GaussianMixture):
        return np.concatenate([gaussian._means.ravel(), gaussian._factors.ravel()])
    thin = None if isinstance(gaussian, StudentT) else gaussian._thin
    factor = gaussian._factor if thin is None else thin.factor
    return np.concatenate([gaussian._mean, factor.ravel()])


def is_gone(model: Model, code: int, where: Array, numbers: Array) -> bool:
    """Whether a q with these numbers, or a fault, is so far out that q has no end, on the real line."""
    if code == CONVERGED or not model._support.is_real:
        return False
    return bool(not (np.abs(numbers) < _GONE).all() or (is_fault(code) and not (np.abs(where) < _GONE).all()))


def fit_of_report(
    model: Model, family: str, q: Any, report: Any, trace: Array, where: Array, method: str
) -> Fit:
    """The Fit for a `kernels.inference.reports.Report`; ValueError where there is no q.

    `where` is the point of a fault of the log joint, and `method` that of the ELBO's Estimate.
    """
    model._raise_pending()
    value, evaluations = report.elbo, int(report.evaluations)
    code = UNBOUNDED if is_gone(model, int(report.status), where, _numbers(q)) else int(report.status)
    endless = code == UNBOUNDED and not (abs(_numbers(q)) < kernels.inference.quadrature_fits.ENDLESS).all()
    if value != value or value == -math.inf or endless:
        raise error_of(model, code, where, "the fit cannot start: ")
    text = words(model, code, where, exception_at(model, where) if code == RAISED else None)
    return Fit(
        model=model,
        family=family,
        q=q,
        elbo=Estimate(value, report.error, evaluations, method, note=model._note),
        trace=trace[: int(report.steps)],
        gradient_norm=report.gradient_norm,
        evaluations=evaluations,
        status=text,
        converged=code == CONVERGED,
        starts=(value,),
        _code=code,
    )


def beside_gaps(fit: Fit) -> Fit:
    """A fit by a kernel that is returned: not converged beside a gap of zero density.

    Nor where the log joint outgrows q beyond the nodes, or has a bump that they missed. In one or two latent
    coordinates. The ELBOs of `fit_sgd`, which has no code, and of several Gaussians are those of `elbo`,
    which has its own points.
    """
    model, code = fit.model, fit._code
    if model.latent_dim > QUADRATURE_DIM or code is None or code == UNBOUNDED or is_fault(code) or fit.gains:
        return fit
    elbo = fit.elbo
    status, where, used, more = look_under(model, fit.q, elbo.value, elbo.error, points_of_fit(model))
    evaluations = fit.evaluations + used
    elbo = Estimate(elbo.value, elbo.error + more, evaluations, elbo.method, note=elbo.note)
    fit = fit._replace(elbo=elbo, evaluations=evaluations)
    if not status:
        return fit
    place = np.empty(0) if where is None else where
    cause = exception_at(model, place) if status == RAISED else None
    return fit._replace(status=words(model, status, place, cause), converged=False, _code=status)
