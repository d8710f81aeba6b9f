"""Variational inference at the speed of a function call."""

import gc as _gc
from typing import TYPE_CHECKING as _TYPE_CHECKING

# What is imported here takes 6 ms, but numba's import leaves Python's garbage collector on the verge of a
# full collection, which takes 35 ms, a tenth of that import. It can wait: an import makes no garbage.
_collecting = _gc.isenabled()
_gc.disable()

from . import compiled as _compiled  # noqa: F401  (makes fastvi work in compiled code)
from . import densities as densities
from .common.threads import set_num_threads
from .common.version import __version__ as __version__
from .discrete import (
    alpha_divergence,
    bhattacharyya,
    chi2,
    cross_entropy,
    entropy,
    hellinger,
    jeffreys,
    js,
    js_distance,
    js_many,
    kl,
    kl_grad,
    mutual_information,
    pairwise,
    renyi,
    renyi_entropy,
    total_variation,
)
from .distributions import (
    Bounds,
    Estimate,
    Gaussian,
    GaussianMixture,
    Grid2D,
    StudentT,
    TransformedGaussian,
    TransformedMixture,
    TruncatedGaussian,
    entropy_estimate,
    kl_bounds,
    kl_estimate,
    mixture_entropy_bounds,
)
from .inference import (
    Decomposition,
    Diagnosis,
    Fit,
    FitBatch,
    Gradient,
    GradientCheck,
    LinearResponse,
    Model,
    Propagated,
    ThetaFit,
    check_gradient,
    decompose,
    elbo,
    elbo_grad,
    fit,
    fit_batch,
    log_evidence,
    maximize_evidence,
)
from .projections import Projection, Reduction, i_projection, m_projection, reduce_mixture

if _collecting:
    if not _gc.get_freeze_count():
        # What was imported is old at once: to look for garbage among it takes 4 ms.
        _gc.freeze()
        _gc.unfreeze()
    _gc.enable()

#: Modules that are loaded when they are first used, and names of others that are.
_MODULES = ("cfuncs", "dask", "kernels", "plotting")
_LATER = {
    "MixtureFit": "em",
    "VariationalMixtureFit": "em",
    "fit_mixture": "em",
    "from_address": "interop",
    "from_block": "interop",
    "from_bridgestan": "interop",
    "from_jax": "interop",
    "from_numpyro": "interop",
    "from_pymc": "interop",
    "from_stan": "interop",
}

if _TYPE_CHECKING:
    from . import cfuncs as cfuncs
    from . import dask as dask
    from . import kernels as kernels
    from . import plotting as plotting
    from .em import MixtureFit, VariationalMixtureFit, fit_mixture
    from .interop import (
        from_address,
        from_block,
        from_bridgestan,
        from_jax,
        from_numpyro,
        from_pymc,
        from_stan,
    )
else:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in _MODULES:
            return import_module(f".{name}", __name__)
        if name not in _LATER:
            raise AttributeError(f"module 'fastvi' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_LATER})


__all__ = [
    "Bounds",
    "Decomposition",
    "Diagnosis",
    "Estimate",
    "Fit",
    "FitBatch",
    "Gaussian",
    "GaussianMixture",
    "Gradient",
    "GradientCheck",
    "Grid2D",
    "LinearResponse",
    "MixtureFit",
    "Model",
    "Projection",
    "Propagated",
    "Reduction",
    "StudentT",
    "ThetaFit",
    "TransformedGaussian",
    "TransformedMixture",
    "TruncatedGaussian",
    "VariationalMixtureFit",
    "alpha_divergence",
    "bhattacharyya",
    "check_gradient",
    "chi2",
    "cross_entropy",
    "decompose",
    "elbo",
    "elbo_grad",
    "entropy",
    "entropy_estimate",
    "fit",
    "fit_batch",
    "fit_mixture",
    "from_address",
    "from_block",
    "from_bridgestan",
    "from_jax",
    "from_numpyro",
    "from_pymc",
    "from_stan",
    "hellinger",
    "i_projection",
    "jeffreys",
    "js",
    "js_distance",
    "js_many",
    "kl",
    "kl_bounds",
    "kl_estimate",
    "kl_grad",
    "log_evidence",
    "m_projection",
    "maximize_evidence",
    "mixture_entropy_bounds",
    "mutual_information",
    "pairwise",
    "reduce_mixture",
    "renyi",
    "renyi_entropy",
    "set_num_threads",
    "total_variation",
]
