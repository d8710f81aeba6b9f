"""What every call of an inference kernel needs: its arguments, scratch space, the words for its status."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..common import scratch, statuses
from ..common.values import Array, _tidy
from ..kernels.families.table import CODES
from .model import Model

#: Latent dimensions up to which expectations are taken by quadrature, and fits made on fixed draws.
QUADRATURE_DIM = 2
DRAWS_DIM = 1000


def _space(kind: str, *key: int) -> Any:
    """This thread's scratch space of a kind, for these sizes."""
    return scratch.space(getattr(kernels.inference.entry_points, f"{kind}_workspace"), *key)


def _words(status: int, where: Array) -> str:
    return statuses.words(status, _tidy(where))


def _as_model(model: Any) -> Model:
    if not isinstance(model, Model):
        raise TypeError(f"model must be a Model, not {type(model).__name__}")
    return model


def _target(model: Model, tables: Any = None) -> tuple[Any, ...]:
    """What the kernels know a model by (`entry_points.Target`); `tables` are those of many data sets."""
    support = model._support
    return (
        model._address,
        model._gradient_address,
        model._theta,
        model._table[None] if tables is None else tables,
        support.kinds,
        support.bounds,
    )


def _named(kind: Any, space: Any) -> Any:
    """Scratch space by its names: the engine takes plain tuples, which are handed over faster."""
    return kernels.borrowing.named(kind, space)


def _conditional(factor: Array) -> Array:
    """Standard deviations of each coordinate given the others."""
    scale = np.empty(len(factor))
    kernels.inference.entry_points.conditional(factor, scale, np.empty(len(factor)))
    return scale


def _restricted(factor: Array, family: str) -> Array:
    """The factor of the member of a family that a start stands for."""
    restricted = np.array(factor)
    kernels.families.operations.restrict(CODES[family], restricted, np.empty(2 * len(factor)))
    return restricted


def _start_scale(scale: Array, family: str) -> Array:
    """The deviations of the member of a family that starts from Laplace's approximation."""
    started = np.array(scale)
    kernels.families.operations.start(CODES[family], started)
    return started
