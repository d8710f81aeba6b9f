"""Supports of latent variables: how they are declared, and the maps to latent coordinates and back.

`Model` and `TransformedGaussian` have one. The maps themselves are in `kernels.models.supports`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common.validation import float_array, integer, real_number
from ..common.values import Array
from ..kernels.models.kinds import CORRELATION, INTERVAL, LOWER, ORDERED, REAL, SIMPLEX, UPPER


class Support:
    """The support of z as the kernels take it: a kind and two bounds for each latent coordinate.

    The maps copy the points: numba compiles a kernel once more for read-only arrays.
    """

    def __init__(self, support: Any, dim: int) -> None:
        dim = integer("dim", dim, 1)
        # A copy: the caller may change a list.
        self._declared = copy.deepcopy(support)
        kinds: list[int] = []
        bounds: list[tuple[float, float]] = []
        covered = 0
        for part in _parts(support, dim):
            kinds += part.kinds
            bounds += part.bounds
            covered += part.size
        if covered != dim:
            raise ValueError(
                f"support must be a word or one entry for each of {dim} coordinates, "
                f"not {support!r}, which is for {covered}"
            )
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
    def constant(self) -> NDArray[np.bool_]:
        """(D,), whether a coordinate of z is the same number everywhere, as above a factor's diagonal."""
        z = self.to_model(np.array([[0.0], [0.5]]) + np.zeros(self.latent_dim))[0]
        same: NDArray[np.bool_] = z[0] == z[1]
        return same

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high) of the support in one dimension."""
        low, high = (float(x) for x in self.bounds[0])
        kind = self.kinds[0]
        return (
            low if kind in (LOWER, INTERVAL) else -math.inf,
            high if kind in (UPPER, INTERVAL) else math.inf,
        )

    @property
    def places(self) -> NDArray[np.int64]:
        """(R,), the first coordinate of z that each latent coordinate stands for."""
        return np.array([j for j, _ in self._entries()], np.int64)

    def _entries(self) -> Iterator[tuple[int, int]]:
        """For each latent coordinate its first coordinate of z, and how many it has."""
        j = 0
        for kind, (low, high) in zip(self.kinds.tolist(), self.bounds.tolist(), strict=True):
            # The last latent coordinate of a simplex has two entries, that of a factor all that are left.
            entries = 2 if kind == SIMPLEX and low == 1.0 else 1
            if kind == CORRELATION:
                entries += kernels.models.supports.beyond(int(low), int(high))
            yield j, entries
            j += entries

    def ends(self) -> Iterator[tuple[int, float]]:
        """Each coordinate of z with each of its bounds."""
        latent = zip(self._entries(), self.kinds.tolist(), self.bounds.tolist(), strict=True)
        for (j, entries), kind, (low, high) in latent:
            if kind in (LOWER, INTERVAL):
                yield j, low
            if kind in (UPPER, INTERVAL):
                yield j, high
            if kind == SIMPLEX:
                for k in range(entries):
                    yield j + k, 0.0
                    yield j + k, 1.0

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


#: Words for groups of coordinates, with the least number that goes with each.
GROUPS = {"simplex": 2, "ordered": 1, "positive_ordered": 1, "cholesky_corr": 2}

#: Words for coordinates with ends, and the number of these.
ENDS = {"lower": 1, "upper": 1, "interval": 2}


class Part(NamedTuple):
    """Some neighbouring coordinates of z, as the kernels take them."""

    size: int  #: how many
    kinds: list[int]  #: of their latent coordinates
    bounds: list[tuple[float, float]]


def _parts(support: Any, dim: int) -> Iterator[Part]:
    """The parts of a support: of a word or tuple for all coordinates, or of a list of entries."""
    if isinstance(support, str):
        many = support in GROUPS and support != "cholesky_corr"
        yield from [part_of((support, dim) if many else support, 0)] * (1 if many else dim)
        return
    if isinstance(support, tuple) and support and isinstance(support[0], str) and support[0] in _SHAPED:
        part = part_of(support, 0)
        repeated = part.size == 1 or support[0] in GROUPS
        yield from [part] * (max(dim // part.size, 1) if repeated else 1)
        return
    if not isinstance(support, Sequence):
        raise ValueError(
            f"support must be a word or one entry for each of {dim} coordinates, not {support!r}"
        )
    i = 0
    while i < len(support):
        last = i + 1
        if isinstance(support[i], str) and support[i] in GROUPS:
            # Equal words in a row are one group.
            while last < len(support) and isinstance(support[last], str) and support[last] == support[i]:
                last += 1
            yield part_of((support[i], last - i), i)
        else:
            yield part_of(support[i], i)
        i = last


#: Words that begin a tuple.
_SHAPED = {*GROUPS, *ENDS}


def part_of(entry: Any, i: int, where: str = "") -> Part:
    """One entry of a declaration, the i-th of a list; `where` is its name in messages."""
    where = where or f"support[{i}]"
    word = entry[0] if isinstance(entry, tuple | list) and entry else entry
    if not isinstance(word, str):
        word = ""
    if word == entry and word in ("real", "positive"):
        return Part(1, [REAL if word == "real" else LOWER], [(0.0, 0.0)])
    if word != entry and word in GROUPS and len(entry) == 2:
        return _group(word, integer(f"{where}[1]", entry[1], 1), entry, where)
    if word != entry and word in ENDS and len(entry) == 1 + ENDS[word]:
        return _with_ends(word, entry, where)
    raise ValueError(
        f"{where} must be 'real', 'positive', ('lower', a), ('upper', b), ('interval', a, b) with a < b, "
        f"'simplex' or ('simplex', k), 'ordered', 'positive_ordered' or ('cholesky_corr', k), not {entry!r}"
    )


def _group(word: str, k: int, entry: Any, where: str) -> Part:
    """A simplex, an ordered vector, or the factor of a correlation matrix."""
    if k < GROUPS[word]:
        shown = word if word == "simplex" and k == 1 else entry
        least = "a simplex has at least two coordinates" if word == "simplex" else "k is at least two"
        raise ValueError(f"{where} is {shown!r}: {least}")
    if word == "simplex":
        return Part(k, [SIMPLEX] * (k - 1), [(float(k - 1 - i), 0.0) for i in range(k - 1)])
    if word == "cholesky_corr":
        places = [r * k + c for r in range(k) for c in range(r)]
        return Part(k * k, [CORRELATION] * len(places), [(float(k), float(place)) for place in places])
    first = REAL if word == "ordered" else LOWER
    return Part(k, [first] + [ORDERED] * (k - 1), [(0.0, 0.0)] * k)


def _with_ends(word: str, entry: Any, where: str) -> Part:
    """Coordinates above, below or between numbers, or one for each entry of arrays of them."""
    ends: list[Array] = []
    for k, given in enumerate(entry[1:], 1):
        if np.ndim(given) == 0:
            given = real_number(f"{where}[{k}]", given)
        ends.append(np.asarray(float_array(f"{where}[{k}]", given), dtype=np.float64))
    for end in ends:
        if end.size == 0 or not np.isfinite(end).all():
            raise ValueError(f"{where} must be ({word!r}, ...) with finite numbers, not {entry!r}")
    try:
        low, high = np.broadcast_arrays(ends[0], ends[-1])
    except ValueError:
        shapes = f"{ends[0].shape} and {ends[-1].shape}"
        raise ValueError(f"{where} has ends of different shapes, {shapes}") from None
    if word == "interval" and not (low < high).all():
        n = int(np.argmin((low < high).ravel()))
        place = f", but a[{n}] = {low.ravel()[n]:g}, b[{n}] = {high.ravel()[n]:g}" if low.ndim else ""
        raise ValueError(f"{where} must be ('interval', a, b) with a < b, not {entry!r}{place}")
    kind = {"lower": LOWER, "upper": UPPER, "interval": INTERVAL}[word]
    pairs = [
        (0.0 if kind == UPPER else a, 0.0 if kind == LOWER else b)
        for a, b in zip(low.ravel().tolist(), high.ravel().tolist(), strict=True)
    ]
    return Part(len(pairs), [kind] * len(pairs), pairs)


def declaration_of(kinds: NDArray[np.int64], bounds: Array) -> tuple[list[Any], int]:
    """The declaration of a support of these kinds, an entry for each group of coordinates; their number."""
    words: list[Any] = []
    dim, inside = 0, False
    for kind, (low, high) in zip(kinds.tolist(), bounds.tolist(), strict=True):
        dim += 1
        if kind == LOWER:
            words.append(("lower", low) if low else "positive")
        elif kind == UPPER:
            words.append(("upper", high))
        elif kind == INTERVAL:
            words.append(("interval", low, high))
        elif kind == ORDERED:
            before = words.pop()
            size = before[1] if isinstance(before, tuple) else 1
            positive = before == "positive" or before[0] == "positive_ordered"
            words.append(("positive_ordered" if positive else "ordered", size + 1))
        elif kind == SIMPLEX:
            # The bounds count down to 1, where the simplex ends.
            size = words.pop()[1] if inside else 1
            words.append(("simplex", size + 1))
            inside = low > 1.0
            dim += not inside
        elif kind == CORRELATION:
            size = int(low)
            if high == size:
                words.append(("cholesky_corr", size))
                dim += size * size - size * (size - 1) // 2
        else:
            words.append("real")
    return words, dim
