"""Supports of latent variables: how they are declared, and the maps to latent coordinates and back.

`Model` and `TransformedGaussian` have one. The maps themselves are in `kernels.models.supports`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common.validation import integer, real_number
from ..common.values import Array
from ..kernels.models.kinds import INTERVAL, LOWER, REAL, SIMPLEX, UPPER


class Support:
    """The support of z as the kernels take it: a kind and two bounds for each latent coordinate.

    The maps copy the points: numba compiles a kernel once more for read-only arrays.
    """

    def __init__(self, support: Any, dim: int) -> None:
        dim = integer("dim", dim, 1)
        # A copy: the caller may change a list.
        self._declared = copy.deepcopy(support)
        entries = [support] * dim if isinstance(support, str) else support
        if isinstance(support, tuple) and support and support[0] in ("lower", "upper", "interval"):
            entries = [support] * dim
        if not isinstance(entries, Sequence) or len(entries) != dim:
            raise ValueError(
                f"support must be a word or one entry for each of {dim} coordinates, not {support!r}"
            )
        kinds: list[int] = []
        bounds: list[tuple[float, float]] = []
        i = 0
        while i < dim:
            if entries[i] == "simplex":
                last = i
                while last + 1 < dim and entries[last + 1] == "simplex":
                    last += 1
                if last == i:
                    raise ValueError(f"support[{i}] is 'simplex': a simplex has at least two coordinates")
                for k in range(last - i):
                    kinds.append(SIMPLEX)
                    bounds.append((float(last - i - k), 0.0))
                i = last + 1
                continue
            kind, low, high = _one_support(entries[i], i)
            kinds.append(kind)
            bounds.append((low, high))
            i += 1
        self.dim = dim
        self.latent_dim = len(kinds)
        self.kinds = np.array(kinds, np.int64)
        self.bounds = np.array(bounds, np.float64)
        self.is_real = not self.kinds.any()

    @property
    def declared(self) -> Any:
        """The support as it was declared: a word, a tuple, or a list of them."""
        return copy.deepcopy(self._declared)

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high) of the support in one dimension."""
        low, high = (float(x) for x in self.bounds[0])
        kind = self.kinds[0]
        return (
            low if kind in (LOWER, INTERVAL) else -math.inf,
            high if kind in (UPPER, INTERVAL) else math.inf,
        )

    def to_model(self, latent: Array) -> tuple[Array, Array]:
        """(z (N, D), log-Jacobians (N,)) of latent coordinates (N, R)."""
        z, log_jacobian = np.empty((len(latent), self.dim)), np.empty(len(latent))
        kernels.inference.entry_points.to_support(
            self.kinds, self.bounds, np.array(latent, order="C"), z, log_jacobian
        )
        return z, log_jacobian

    def to_latent(self, name: str, z: Array) -> Array:
        """Latent coordinates (N, R) of z (N, D); ValueError, with `name`, for a z outside of the support."""
        latent = np.empty((len(z), self.latent_dim))
        inside = kernels.inference.entry_points.to_latent(
            self.kinds, self.bounds, np.array(z, order="C"), latent
        )
        if inside < len(z):
            place = "" if len(z) == 1 else f"[{inside}]"
            raise ValueError(f"{name}{place} is {z[inside].tolist()}: it lies outside of the model's support")
        return latent


def _one_support(entry: Any, i: int) -> tuple[int, float, float]:
    """(kind, two bounds) of entry i of a declaration."""
    if entry == "real":
        return REAL, 0.0, 0.0
    if entry == "positive":
        return LOWER, 0.0, 0.0
    word = entry[0] if isinstance(entry, tuple | list) and entry else entry
    if word in ("lower", "upper", "interval") and not isinstance(entry, str):
        numbers = [real_number(f"support[{i}][{k + 1}]", x) for k, x in enumerate(entry[1:])]
        wanted = 2 if word == "interval" else 1
        if len(numbers) == wanted and all(map(math.isfinite, numbers)):
            if word == "lower":
                return LOWER, numbers[0], 0.0
            if word == "upper":
                return UPPER, 0.0, numbers[0]
            if numbers[0] < numbers[1]:
                return INTERVAL, numbers[0], numbers[1]
    raise ValueError(
        f"support[{i}] must be 'real', 'positive', 'simplex', ('lower', a), ('upper', b) or "
        f"('interval', a, b) with a < b, not {entry!r}"
    )


def declaration_of(kinds: NDArray[np.int64], bounds: Array) -> list[Any]:
    """The declaration of a support of these kinds, an entry for each coordinate of z."""
    words: list[Any] = []
    for kind, (low, high) in zip(kinds.tolist(), bounds.tolist(), strict=True):
        if kind == LOWER:
            words.append(("lower", low) if low else "positive")
        elif kind == UPPER:
            words.append(("upper", high))
        elif kind == INTERVAL:
            words.append(("interval", low, high))
        elif kind == SIMPLEX:
            words += ["simplex"] * (2 if low == 1.0 else 1)
        else:
            words.append("real")
    return words
