"""Everything that is compiled, and the layer to call from compiled code of your own.

Kernels check nothing, raise nothing, need no GIL, and know nothing of the API. They allocate nothing either,
but for the functions named ``workspace``: a kernel is handed its scratch space, and writes its results to
arrays that it is handed.

Conventions
-----------
arrays
    Of float64, in C order. What a kernel does not write may be read-only.
``log_weights, means, chols``
    A mixture: (K,), (K, D), (K, D, D), with lower Cholesky factors.
``space``
    From the ``workspace`` of the same module: a named tuple of arrays, or one array that holds them all (see
    `borrowing`). What is in it does not matter before or after.
``report``
    Eight numbers, in the order of the fields of `reports.Report`.
``log_joint, problem``
    A jitted function ``log_joint(z, *data) -> float``, and `panels.Problem` or the plain tuple (data, kinds,
    bounds): a tuple of its data; the kind of each latent coordinate, int64 (R,): 0 real, 1 above bounds[i,
    0], 2 below bounds[i, 1], 3 between the two, 4 one of a simplex (bounds[i, 0] counts down to 1), 5 above
    the coordinate before it, 6 one of the factor of a correlation matrix; and bounds, (R, 2). Gaussians live
    in the latent coordinates: see `models.supports`.
status
    A number of `statuses`. 0: it is as good as was asked. Other numbers say what is not, see each kernel;
    results are then the best there are, or NaN. NaN in the data ends in such a status and disturbs nothing
    else.
``prange``
    All kernels are safe there, and in threads without the GIL, as long as no two threads share a space, or
    an array that is written to. The result has the same bits on any number of threads.

The kernels
-----------
divergences of arrays
    `fastvi.kl` and its kin, which work in compiled code by those names
Gaussians, mixtures
    gaussians.gaussian_logpdf, gaussians.gaussian_kl, mixtures.mixture_logpdf, mixtures.mixture_logpdf_many,
    mixtures.mixture_moments
quadrature
    estimates.workspace, estimates.mixture_kl, estimates.reverse_kl, grids.workspace, grids.grid_reverse_kl
projections
    projections.workspace, projections.m_projection, projections.i_projection
whole fits
    fits.workspace, fits.fit_quadrature, fits.start_and_fit_quadrature, truncated.workspace,
    truncated.fit_truncated, draws.workspace, draws.fit_draws, em.workspace, em.fit
what the nodes of a fit do not see
    gaps.doubt, gaps.doubt_truncated
what floats lose near the bounds of a support
    saturation.doubt
steps
    fits.elbo_quadrature, steps.natural_workspace, steps.natural_gradient_step, steps.adam_step
for log joints
    elementary.exp, elementary.logarithm

The rooms
---------
numerics
    Numerics: elementary functions, error-free arithmetic, small matrices.
discrete
    Entropies and divergences of discrete distributions.
densities
    Densities: Gaussians, mixtures, grids, truncated Gaussians; closed forms and bounds.
families
    The families of Gaussians that q is chosen from.
quadrature
    Expectations under a Gaussian: trapezoid rule on a lattice, and contour integrals.
optimizers
    Optimizers: Newton steps, L-BFGS.
models
    Models as the kernels see them: how a log joint is called, on which support, with which faults.
projections
    Projections of mixtures, grids and tables.
inference
    Fits of q to a log joint, ELBO and evidence.
em
    EM for Gaussian mixtures.

The rooms and their modules are loaded when they are first used: setting up a hundred compiled functions
takes 60 ms, which `import fastvi` should not. The modules in the list of kernels above are found by these
names in the rooms that they are in.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from .loading import on_first_use

#: The modules in the list of kernels above, and where they are.
_DOCUMENTED = {
    "draws": "inference.draws_fits",
    "elementary": "numerics.elementary",
    "em": "em",
    "estimates": "quadrature.mixture_kl",
    "fits": "inference.quadrature_fits",
    "gaps": "inference.gaps",
    "gaussians": "densities.gaussians",
    "grids": "projections.grid_projections",
    "mixtures": "densities.mixtures",
    "newton": "optimizers.newton",
    "panels": "models.evaluation",
    "projections": "projections",
    "saturation": "inference.saturation",
    "steps": "inference.steps",
    "truncated": "inference.truncated_fits",
}

_load = on_first_use(__name__)


def __getattr__(name: str) -> ModuleType:
    return import_module(f"{__name__}.{_DOCUMENTED[name]}") if name in _DOCUMENTED else _load(name)
