"""The signatures in which the API calls the exported kernels: what a container consists of.

They are listed in ``signatures.txt``, a line each: seconds to compile it, the kernel, the types of its
arguments. f8, f4, i8 and b1 are scalars, f8[2] is a contiguous array in two dimensions, f8[2]r a read-only
one, (f8 i8) is a tuple, 0 is None. Kernels that are called in another way are compiled then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from numba import types

_SCALARS = {
    "f8": types.float64,
    "f4": types.float32,
    "i8": types.int64,
    "i4": types.int32,
    "b1": types.boolean,
    "p": types.voidptr,
    "0": types.none,
}
_CODES = {kind: code for code, kind in _SCALARS.items()}
_TOKEN = re.compile(r"\(|\)|[^\s()]+")
_ARRAY = re.compile(r"(\w+)\[(\d)\](r?)")


class Job(NamedTuple):
    """A kernel to compile: C functions, whose types are their own, have the arguments None."""

    seconds: float
    name: str
    arguments: tuple[Any, ...] | None


def encode(kind: Any) -> str:
    """The text of a type. ValueError for a type that no kernel takes."""
    if isinstance(kind, types.BaseTuple) and not isinstance(kind, types.BaseNamedTuple):
        return f"({' '.join(map(encode, kind.types))})"
    if isinstance(kind, types.CPointer):
        return f"*{encode(kind.dtype)}"
    if isinstance(kind, types.Array) and kind.layout == "C" and kind.aligned and kind.dtype in _CODES:
        return f"{_CODES[kind.dtype]}[{kind.ndim}]{'' if kind.mutable else 'r'}"
    if kind in _CODES:
        return _CODES[kind]
    raise ValueError(f"no kernel of a container takes {kind}")


def decode(text: str) -> tuple[Any, ...]:
    """The types of a line."""
    members: list[list[Any]] = [[]]
    for token in _TOKEN.findall(text):
        if token == "(":
            members.append([])
        elif token == ")":
            members[-2].append(types.Tuple(members.pop()))
        elif token.startswith("*"):
            members[-1].append(types.CPointer(_SCALARS[token[1:]]))
        elif array := _ARRAY.fullmatch(token):
            code, ndim, readonly = array.groups()
            members[-1].append(types.Array(_SCALARS[code], int(ndim), "C", readonly=bool(readonly)))
        else:
            members[-1].append(_SCALARS[token])
    return tuple(members[0])


def jobs() -> Iterator[Job]:
    """What the list says."""
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            seconds, name, *arguments = line.split(maxsplit=2)
            yield Job(float(seconds), name, decode(arguments[0]) if arguments else None)
