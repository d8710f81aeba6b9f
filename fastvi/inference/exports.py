"""Draws of a fit as xarray and ArviZ have them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..common.extras import required
from ..common.validation import generator, integer
from ..common.values import Array
from ..common.version import __version__
from ..distributions.mixture import GaussianMixture
from ..distributions.student import StudentT
from ..distributions.variational import TruncatedGaussian, latent_of
from ..kernels.families.table import UNCORRELATED
from .model import Model

#: What each variable has besides its own dimensions.
_DRAWS = ("chain", "draw")

_COORDINATE, _OTHER, _DATA_SET = "coordinate", "other_coordinate", "data_set"
_COMPONENT = "component"


class Draws(NamedTuple):
    """Draws of q, with the log joint and log q at each, both as densities of z."""

    z: Array
    latent: Array
    lp: Array
    log_q: Array


def _draws_of(model: Model, q: Any, n: int, rng: Any) -> Draws:
    """`n` draws: those of ``q.sample(n, rng)``."""
    if isinstance(q, TruncatedGaussian):
        z = q.sample(n, rng)
        latent, log_q = model._support.to_latent("z", z), np.asarray(q.logpdf(z))
    else:
        gaussian = latent_of(q)
        latent = gaussian.sample(n, rng)
        z, log_jacobian = model._support.to_model(latent)
        log_q = np.asarray(gaussian.logpdf(latent)) - log_jacobian
    return Draws(z, latent, np.asarray(model.log_density(z)), log_q)


class _Group:
    """A Dataset in the making: variables with the names of their dimensions, and coordinates."""

    def __init__(self, dims: Mapping[str, Sequence[str]], coords: Mapping[str, Any]) -> None:
        self.dims, self.coords = dims, coords
        self.variables: dict[str, tuple[list[str], Any]] = {}
        self.used: dict[str, Any] = {}

    def add(self, name: str, values: Any, before: Sequence[str] = _DRAWS) -> None:
        """A variable: an array of draws, or of `before` other dimensions of its own."""
        array = np.asarray(values)
        if before is _DRAWS:
            array = array[None]
        shape = array.shape[len(before) :]
        own = list(self.dims.get(name, [f"{name}_dim_{axis}" for axis in range(len(shape))]))
        if len(own) != len(shape):
            raise ValueError(f"dims[{name!r}] has {len(own)} names, but {name} has the shape {shape}")
        for dim, length in zip([*before, *own], array.shape, strict=True):
            labels = np.asarray(self.coords[dim]) if dim in self.coords else np.arange(length)
            if labels.shape != (length,):
                raise ValueError(f"coords[{dim!r}] must be {length} labels, for {name}: not {labels.shape}")
            self.used[dim] = labels
        self.variables[name] = [*before, *own], array

    def dataset(self, attributes: Mapping[str, Any]) -> Any:
        """The xarray.Dataset."""
        xarray = required("xarray", "arviz", "a fit as xarray's Dataset")
        for name in self.variables:
            if name in self.used:
                raise ValueError(f"{name} is the name of a parameter and of a dimension: rename either")
        return xarray.Dataset(self.variables, self.used, dict(attributes))


def posterior(fit: Any, z: Array, dims: Any, coords: Any) -> Any:
    """The Dataset of the parameters at draws z, by their names where the model has some."""
    axes = fit.model._axes
    variables = fit.model._variables(z)
    for word, given in (("dims", dims), ("coords", coords)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{word} must be a dict or None, not {type(given).__name__}")
    for name in dims or {}:
        if name not in variables:
            raise ValueError(f"dims has {name!r}, but the parameters are {', '.join(variables)}")
    group = _Group({**axes.dims, **(dims or {})}, {**axes.coords, **(coords or {})})
    for name, values in variables.items():
        group.add(name, values)
    for dim in coords or {}:
        if dim not in group.used:
            raise ValueError(f"coords has {dim!r}, but the dimensions are {', '.join(group.used)}")
    return group.dataset(_attributes_of(fit))


def _attributes_of(fit: Any) -> dict[str, Any]:
    """How the fit went, as numbers and strings: netCDF has no others."""
    found = {
        "inference_library": "fastvi",
        "inference_library_version": __version__,
        "sampling_method": "variational",
        "family": fit.family,
        "status": fit.status,
        "converged": int(fit.converged),
        "elbo": fit.elbo.value,
        "elbo_error": fit.elbo.error,
        "elbo_method": fit.elbo.method,
    }
    if fit.elbo.note:
        found["elbo_note"] = fit.elbo.note
    if math.isfinite(fit.psis_k):
        found["psis_k"] = fit.psis_k
    return found


def groups_of(fit: Any, n: Any, rng: Any, dims: Any, coords: Any) -> dict[str, Any]:
    """The Datasets of `Fit.to_arviz` by the names of their groups."""
    draws = _draws_of(fit.model, fit.q, integer("draws", n, 1), generator("rng", rng))
    labels, places = fit.model._labels, fit.model._support.places.tolist()
    latent = {_COORDINATE: [labels[place] for place in places]}
    unconstrained = _Group({"z": [_COORDINATE]}, latent)
    unconstrained.add("z", draws.latent)
    stats = _Group({}, {})
    stats.add("lp", draws.lp)
    stats.add("log_q", draws.log_q)
    found = posterior(fit, draws.z, dims, coords)
    return {
        "posterior": found,
        "sample_stats": stats.dataset(found.attrs),
        "unconstrained_posterior": unconstrained.dataset(found.attrs),
        "variational_parameters": _parameters(fit, latent).dataset(found.attrs),
    }


def _parameters(fit: Any, latent: dict[str, Any]) -> _Group:
    """The parameters of q in latent coordinates."""
    group = _Group({}, {**latent, _OTHER: latent[_COORDINATE]})
    if isinstance(fit.q, TruncatedGaussian):
        for name in ("mu", "sigma", "low", "high"):
            group.add(name, getattr(fit.q, name), ())
        return group
    gaussian = latent_of(fit.q)
    if isinstance(gaussian, GaussianMixture):
        group.add("weight", gaussian.weights, (_COMPONENT,))
        group.add("mean", gaussian.means, (_COMPONENT, _COORDINATE))
        group.add("cov", gaussian.covs, (_COMPONENT, _COORDINATE, _OTHER))
        return group
    if isinstance(gaussian, StudentT):
        group.add("location", gaussian.location, (_COORDINATE,))
        group.add("scale", gaussian.scale, (_COORDINATE, _OTHER))
        group.add("df", gaussian.df, ())
        return group
    group.add("mean", gaussian.mean, (_COORDINATE,))
    if fit.family in UNCORRELATED:  # the deviations say all
        group.add("sd", gaussian._deviations, (_COORDINATE,))
    else:
        group.add("cov", gaussian.cov, (_COORDINATE, _OTHER))
    return group


def dataset_of_batch(batch: Any, labels: Any) -> Any:
    """The Dataset of a FitBatch."""
    xarray = required("xarray", "arviz", "FitBatch.to_xarray")
    marks = np.arange(len(batch)) if labels is None else np.asarray(labels)
    if marks.shape != (len(batch),):
        raise ValueError(f"labels must be {len(batch)}, one for each data set, not of shape {marks.shape}")
    words = [batch.model._labels[place] for place in batch.model._support.places.tolist()]
    numbers = ("elbo", "error", "gradient_norm", "evaluations", "converged")
    variables: dict[str, Any] = {name: (_DATA_SET, getattr(batch, name)) for name in numbers}
    variables["status"] = _DATA_SET, [batch.status(n) for n in range(len(batch))]
    variables["mean"] = (_DATA_SET, _COORDINATE), batch.mean
    variables["cov"] = (_DATA_SET, _COORDINATE, _OTHER), batch.cov
    coords = {_DATA_SET: marks, _COORDINATE: words, _OTHER: words}
    attributes = {"inference_library": "fastvi", "inference_library_version": __version__}
    return xarray.Dataset(variables, coords, {**attributes, "family": batch.family})


def to_arviz(groups: dict[str, Any]) -> Any:
    """Datasets as the installed ArviZ takes them, with the attributes of the posterior."""
    arviz = required("arviz", "arviz", "Fit.to_arviz")
    xarray, attributes = required("xarray", "arviz", "Fit.to_arviz"), groups["posterior"].attrs
    # Since version 1.0 that is another name of DataTree.
    kind = getattr(arviz, "InferenceData", xarray.DataTree)
    if kind is not xarray.DataTree:
        return kind(attrs=attributes, **groups)
    return xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=attributes), **groups})
