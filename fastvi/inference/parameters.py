"""Names, shapes and supports of parameters, as `Model` takes them instead of a number of coordinates.

A `Layout` says where each parameter is in z, and with which support; the kernels' side is
`kernels.models.named`.
"""

from __future__ import annotations

import copy
import dis
import inspect
import keyword
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..common.validation import integer
from ..common.values import Array
from ..distributions.support import ENDS, GROUPS, part_of


class Axes(NamedTuple):
    """What another system calls the dimensions of its parameters."""

    dims: Mapping[str, Sequence[str]]  #: of each parameter, by its name
    coords: Mapping[str, Any]  #: labels along a dimension, by its name


class Layout(NamedTuple):
    """Named parameters one after another in z."""

    declared: dict[str, Any]  #: as they were declared
    fields: tuple[tuple[str, int, tuple[int, ...]], ...]  #: (name, first coordinate, shape) of each
    support: list[Any]  #: of z, as `Support` takes it
    dim: int

    @property
    def names(self) -> list[str]:
        """The names in their order."""
        return [name for name, _, _ in self.fields]

    @property
    def labels(self) -> list[str]:
        """A word for each coordinate of z: tau, theta[0], L[1, 0]."""
        return labels_of(self.names, [shape for _, _, shape in self.fields])

    def split(self, z: Array) -> dict[str, Array]:
        """z (..., D) by names, each (..., *shape)."""
        return {
            name: z[..., place : place + prod(shape)].reshape((*z.shape[:-1], *shape))
            for name, place, shape in self.fields
        }


def labels_of(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """A word for each entry of arrays with these names and shapes."""
    return [
        name + (str(list(index)) if shape else "")
        for name, shape in zip(names, shapes, strict=True)
        for index in np.ndindex(*shape)
    ]


def layout_of(declared: Mapping[str, Any]) -> Layout:
    """The layout of parameters, checked: a mapping of names to supports and shapes."""
    if not declared:
        raise ValueError("parameters must have at least one name")
    fields, support = [], []
    place = 0
    for name, entry in declared.items():
        if not isinstance(name, str):
            raise TypeError(f"names of parameters must be strings, not {name!r}")
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise ValueError(f"a parameter's name must be an identifier without a leading _, not {name!r}")
        normal = unicodedata.normalize("NFKC", name)
        if normal != name:
            raise ValueError(f"Python takes the name {name!r} for {normal!r}: write it so")
        shape, entries = _shape_and_support(name, entry)
        fields.append((name, place, shape))
        support += entries
        place += prod(shape)
    return Layout(copy.deepcopy(dict(declared)), tuple(fields), support, place)


def _shape_and_support(name: str, entry: Any) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of a parameter, and the entries of a support that it is declared with."""
    where = f"parameter {name}"
    if isinstance(entry, tuple) and not any(isinstance(x, str | tuple | list | np.ndarray) for x in entry):
        shape = _shape(where, entry)
        return shape, ["real"] * prod(shape)
    if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], tuple) and not _has_ends(entry):
        one, shape = entry[0], _shape(where, entry[1])
        inner, entries = _alone(where, one)
        if _has_ends(one) and inner:
            if inner != shape:
                raise ValueError(f"{where} has the shape {shape}, but ends of the shape {inner}")
            return shape, entries
        return (*shape, *inner), entries * prod(shape)
    if isinstance(entry, tuple) and len(entry) == 2 and entry[0] in ("real", "positive"):
        raise ValueError(f"{where}: a shape must be a tuple, {entry[0]!r} with {entry[1]!r} is none")
    return _alone(where, entry)


def _has_ends(entry: Any) -> bool:
    return isinstance(entry, tuple) and bool(entry) and isinstance(entry[0], str) and entry[0] in ENDS


def _alone(where: str, entry: Any) -> tuple[tuple[int, ...], list[Any]]:
    """(shape, entries) of a support that is not repeated."""
    if isinstance(entry, int | np.integer) and not isinstance(entry, bool):
        raise ValueError(f"{where}: a shape must be a tuple, not {entry!r}: write ({entry},)")
    if isinstance(entry, str) and entry in GROUPS:
        raise ValueError(f"{where}: {entry!r} needs its size, ({entry!r}, k)")
    part = part_of(entry, 0, where)
    if isinstance(entry, str):
        return (), [entry]
    if entry[0] in ENDS:
        return np.broadcast_shapes(*map(np.shape, entry[1:])), [entry]
    k = int(entry[1])
    return ((k, k) if part.size == k * k and entry[0] == "cholesky_corr" else (k,)), [entry]


def _shape(where: str, shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(integer(f"{where}: shape[{axis}]", length, 1) for axis, length in enumerate(shape))


def check_names(name: str, function: Any, layout: Layout, firsts: Sequence[str]) -> None:
    """Raise ValueError for a function of parameters with names that are not there, or also those of data.

    `firsts` are what the first arguments are: parameters, or their gradient.
    """
    plain = getattr(function, "py_func", function)
    try:
        arguments = list(inspect.signature(plain).parameters)
    except (TypeError, ValueError):
        return
    for argument in arguments[len(firsts) :]:
        if argument in layout.names:
            raise ValueError(f"{name} has the argument {argument}, which is also the name of a parameter")
    instructions = list(dis.get_instructions(plain))
    assigned = {one.argval for one in instructions if one.opname in ("STORE_FAST", "DELETE_FAST")}
    for argument, what in zip(arguments, firsts, strict=False):
        if argument in assigned:
            continue
        for before, one in pairwise(instructions):
            if not (before.opname.startswith("LOAD_FAST") and _last(before.argval) == argument):
                continue
            if one.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR") and one.argval not in layout.names:
                raise ValueError(
                    f"{name} asks for {argument}.{one.argval}, but the parameters are "
                    f"{', '.join(layout.names)}"
                )
            if one.opname == "STORE_ATTR" and what == "p":
                raise ValueError(f"{name} assigns to {argument}.{one.argval}: parameters are read-only")


def _last(value: Any) -> Any:
    """The variable that an instruction loads last: some load two."""
    return value[-1] if isinstance(value, tuple) else value
