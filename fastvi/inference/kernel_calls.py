"""What the calls of the inference kernels share: families of q, limits of dimension, scratch space."""

from __future__ import annotations

import math
import time
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np

from .. import kernels
from ..common import scratch
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..kernels.families.table import CODES
from ..kernels.statuses import FINE, INFINITE, NOT_A_NUMBER, RAISED, ZERO
from .model import Model, target_of
from .sharing import is_small

#: Latent dimensions up to which expectations are taken by quadrature; beyond, they are averages over draws.
QUADRATURE_DIM = 2

#: Latent dimensions up to which fits are made on fixed draws. A full covariance in 1000 dimensions takes 172
#: MB of scratch space. Beyond, up to WIDE_DIM, covariances are diagonal and nothing is of size D x D.
DRAWS_DIM, WIDE_DIM = 1000, 10_000


#: Kinds of scratch space: the class that names its fields, and where it keeps the point of a fault.
_WORKSPACES = {
    "draws": ("draws_fits.Workspace", "panel.where"),
    "evidence": ("evidence.Workspace", "panel.where"),
    "fit": ("quadrature_fits.Workspace", "lattice.panel.where"),
    "laplace": ("entry_points.LaplaceWorkspace", "panel.where"),
    "panel": ("entry_points.Panel", "where"),
    "truncated": ("truncated_fits.Workspace", "where"),
}


#: Nodes of a lattice in one call, where calls are expensive: level 3 in the plane has 15,000.
_LARGEST_BLOCK = 1 << 14

#: A call may take so long that Ctrl-C must be heard where so many evaluations take so long, in seconds: a
#: kernel may make half a million. Timings, of which the least counts.
_PROBES, _SLOW, _TIMINGS = 32, 1e-4, 3

#: What timings found, by log joint, sizes of arrays and integers; it is forgotten beyond so many.
_slow: dict[Any, bool] = {}
_MOST_TIMED = 1024


def has_model(value: Any) -> bool:
    """Whether an argument is, or has, a model whose log joint is compiled.

    Python functions of foreign models, which a kernel calls, hear Ctrl-C by themselves.
    """
    model = value if isinstance(value, Model) else getattr(value, "model", None)
    return isinstance(model, Model) and model._dispatcher is not None


def is_long(value: Any) -> bool:
    """Whether an argument is, or has, such a model with which a call may take long.

    A thread for it takes 30 µs.
    """
    if not has_model(value):
        return False
    model: Model = value if isinstance(value, Model) else value.model
    if not is_small(model):
        return True
    # How often a loop goes round is seldom in numbers with a fraction, which are often new.
    sizes = [x if isinstance(x, int) else getattr(x, "size", 1) for x in model.data]
    key = (model._address, *sizes)
    if key not in _slow:
        if len(_slow) >= _MOST_TIMED:
            _slow.clear()
        _slow[key] = _is_slow(model)
    return _slow[key]


def _is_slow(model: Model) -> bool:
    """Whether the log joint takes long, at points near 0: one, or some together."""
    for count in (1, _PROBES):
        points, least = np.linspace(0.0, 1.0, count)[:, None] * np.ones(model.latent_dim), math.inf
        for _ in range(_TIMINGS):
            begin = time.perf_counter()
            densities_or_zero(model, points)
            least = min(least, time.perf_counter() - begin)
        if least > _SLOW:
            return True
    return False


def workspace(kind: str, *key: int) -> Any:
    """This thread's scratch space, of ``kernels.inference.entry_points.<kind>_workspace(*key)``.

    One array that holds all its arrays, see `kernels.borrowing`.
    """
    return scratch.space(_maker_of(kind), *key)


@cache
def _maker_of(kind: str) -> Any:
    """What makes this kind of scratch space. A fit asks 27 times: 2 µs each without the cache."""
    return getattr(kernels.inference.entry_points, f"{kind}_workspace")


@cache
def workspace_class(kind: str) -> Any:
    """The NamedTuple with the fields of this kind of scratch space."""
    return attrgetter(_WORKSPACES[kind][0])(kernels.inference)


def workspace_member(kind: str, space: Any, path: str) -> Array:
    """One array of this scratch space, such as "panel.where"."""
    found: Array = kernels.borrowing.member(workspace_class(kind), space, path)
    return found


def fault_point(kind: str, space: Any) -> Array:
    """A copy of the point z where the log joint was last at fault, from the scratch space of that call."""
    return workspace_member(kind, space, _WORKSPACES[kind][1]).copy()


def lattice_space(model: Model) -> Any:
    """Scratch space of kind "fit" for a model; where calls are expensive a level of the lattice takes one."""
    return workspace("fit", model.latent_dim, model.dim, _rows(model))


def panel_space(model: Model) -> Any:
    """Scratch space of kind "panel" for a model; where calls are expensive many points take one."""
    return workspace("panel", model.latent_dim, model.dim, _rows(model))


def _rows(model: Model) -> int:
    """The most points in one call."""
    return _LARGEST_BLOCK if model._calls_are_expensive else int(kernels.models.evaluation.BLOCK)


def log_densities(model: Model, points: Array) -> tuple[int, Array, Array | None]:
    """(status, values, the point z of a fault) of log joint + log-Jacobian at latent points, one a row."""
    if model._calls_are_expensive:
        return _in_one_call(model, points)
    points = np.ascontiguousarray(points)
    space, values = workspace("laplace", points.shape[1], model.dim), np.empty(len(points))
    status = kernels.inference.entry_points.densities(target_of(model), points, space, values)
    model._raise_pending()
    return status, values, fault_point("laplace", space) if status else None


def _in_one_call(model: Model, points: Array) -> tuple[int, Array, Array | None]:
    """`log_densities` of more points than the kernels have in a block."""
    z, values = model._support.to_model(points)
    found, failed = model._tabulate(z)
    values += found
    status, where = fault_among(z, found, failed)
    return status, values, where


def fault_among(z: Array, values: Array, failed: int) -> tuple[int, Array | None]:
    """(status, point) of the first fault among values of a log joint, of which number `failed` raised."""
    bad = np.flatnonzero(~np.isfinite(values))
    if failed or not bad.size:
        return (RAISED, z[failed - 1]) if failed else (FINE, None)
    first = int(bad[0])
    status = NOT_A_NUMBER if math.isnan(values[first]) else INFINITE if values[first] > 0.0 else ZERO
    return status, z[first]


def log_densities_at_draws(
    model: Model, mean: Array, factor: Array, draws: Array
) -> tuple[int, Array, float, Array | None]:
    """(status, values, their mean, the point of a fault) of log joint + log-Jacobian at mean + factor e."""
    if model._calls_are_expensive:
        points = mean + Gaussian._from_factor(mean, factor)._spread(draws)
        status, values, where = log_densities(model, points)
        return status, values, float(values.mean()), where
    space, values, out = workspace("laplace", mean.size, model.dim), np.empty(len(draws)), np.empty(1)
    status, _ = kernels.inference.entry_points.averages(
        target_of(model), draws[None], mean, factor, space, values, 0, 1, out
    )
    return status, values, float(out[0]), fault_point("laplace", space) if status else None


def densities_or_zero(model: Model, points: Array) -> Array:
    """Log joint + log-Jacobian at latent points; -inf where that is not finite."""
    if model._calls_are_expensive:
        _, values, _ = _in_one_call(model, points)
        not_real = model._support.kinds != kernels.models.kinds.REAL
        far = (np.abs(points) > kernels.models.evaluation.FARTHEST) & not_real
        values[~np.isfinite(values) | far.any(axis=1)] = -math.inf
        return values
    space, values = workspace("laplace", points.shape[1], model.dim), np.empty(len(points))
    points = np.ascontiguousarray(points)
    kernels.inference.entry_points.densities_or_zero(target_of(model), points, space, values)
    return values


def slopes_at(model: Model, points: Array, unit: Array | None = None) -> tuple[int, Array, Array]:
    """(status, values, gradients) of log joint + log-Jacobian at latent points, by the model's gradient.

    Where it has none, by central differences in this unit of each coordinate, or 1.
    """
    points, dim = np.ascontiguousarray(points), points.shape[1]
    values, slopes = np.empty(len(points)), np.empty(points.shape)
    status, _ = kernels.inference.entry_points.log_joint_gradients(
        target_of(model, gradient=True),
        points,
        np.ones(dim) if unit is None else unit,
        workspace("draws", kernels.families.low_rank.FIRST, dim, model.dim),
        values,
        slopes,
    )
    model._raise_pending()
    return status, values, slopes


def fit_on_draws(
    model: Model,
    code: int,
    draws: Array,
    start: Any,
    limits: Any,
    q: Any,
    space: Any,
    trace: Array | None = None,
) -> Any:
    """The `Report` of ``kernels.inference.entry_points.fit_draws``.

    `start` is (mean, root, scale), `limits` are the tolerance and the most steps; mean and factor are written
    to `q`, and the ELBOs of all steps to `trace`.
    """
    row = np.zeros(kernels.inference.reports.REPORT_SIZE)
    outputs = *q, np.empty(0) if trace is None else trace, row
    kernels.inference.entry_points.fit_draws(
        target_of(model, gradient=True), code, draws, start, limits, outputs, space
    )
    return kernels.inference.reports.Report(*row.tolist())


def deviations_of(factor: Array) -> Array:
    """Standard deviation of each coordinate, of a Cholesky factor."""
    found: Array = np.sqrt(np.einsum("ij,ij->i", factor, factor))
    return found


def conditional_deviations(factor: Array) -> Array:
    """Standard deviation of each coordinate given the others, 1 / sqrt((Σ⁻¹)_ii), of a Cholesky factor."""
    scale = np.empty(len(factor))
    kernels.inference.entry_points.conditional(factor, scale, np.empty(len(factor)))
    return scale


def restricted(factor: Array, family: str) -> Array:
    """The Cholesky factor of the member of a family that a start with this factor stands for."""
    result = np.array(factor)
    kernels.families.operations.restrict(CODES[family], result, np.empty(2 * len(factor)))
    return result


def start_scale(scale: Array, family: str) -> Array:
    """The standard deviations of the member of a family that starts from these conditional ones."""
    result = np.array(scale)
    kernels.families.operations.start(CODES[family], result)
    return result
