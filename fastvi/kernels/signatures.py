"""The signatures in which the API calls the exported kernels: what a container consists of.

``signatures.txt`` has a line for each: seconds to compile it, the kernel, the types of its arguments.
<divergence> in a name stands for each divergence that has such a kernel. f8, f4, i8, u2 and b1 are scalars,
f8[2] is a contiguous array in two dimensions, f8[2]r a read-only one, f8[2]s one with strides, (f8 i8) is a
tuple, 0 is None, and @name is what the kernel of that name returns. All C functions belong to a container as
well. Kernels called in another way are compiled then.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from numba import types

#: In a name: each divergence.
_EACH = "<divergence>"

#: To compile a C function.
C_FUNCTION_SECONDS = 2.5

_SCALARS = {
    "f8": types.float64,
    "f4": types.float32,
    "u2": types.uint16,
    "i8": types.int64,
    "i4": types.int32,
    "b1": types.boolean,
    "0": types.none,
}
_CODES = {kind: code for code, kind in _SCALARS.items()}
_TOKEN = re.compile(r"\(|\)|[^\s()]+")
_ARRAY = re.compile(r"(\w+)\[(\d)\](s?)(r?)")


class Job(NamedTuple):
    """A kernel to compile. A C function has types of its own."""

    seconds: float
    name: str
    arguments: str | None = None


def encode(kind: Any) -> str:
    """The text of a type. ValueError for a type that no kernel takes."""
    if isinstance(kind, types.BaseTuple) and not isinstance(kind, types.BaseNamedTuple):
        return f"({' '.join(map(encode, kind.types))})"
    if isinstance(kind, types.Array) and kind.layout in "CA" and kind.aligned and kind.dtype in _CODES:
        strided, readonly = "" if kind.layout == "C" else "s", "" if kind.mutable else "r"
        return f"{_CODES[kind.dtype]}[{kind.ndim}]{strided}{readonly}"
    if kind in _CODES:
        return _CODES[kind]
    raise ValueError(f"no kernel of a container takes {kind}")


def decode(text: str, returned: Callable[[str], Any] | None = None) -> tuple[Any, ...]:
    """The types of a text; `returned` finds what @name stands for."""
    members: list[list[Any]] = [[]]
    for token in _TOKEN.findall(text):
        if token == "(":
            members.append([])
        elif token == ")":
            members[-2].append(types.Tuple(members.pop()))
        elif token.startswith("@") and returned is not None:
            members[-1].append(returned(token[1:]))
        elif array := _ARRAY.fullmatch(token):
            code, ndim, strided, readonly = array.groups()
            layout = "A" if strided else "C"
            members[-1].append(types.Array(_SCALARS[code], int(ndim), layout, readonly=bool(readonly)))
        else:
            members[-1].append(_SCALARS[token])
    return tuple(members[0])


def _lines() -> Iterator[tuple[float, str, str]]:
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            seconds, name, *arguments = line.split(maxsplit=2)
            yield float(seconds), name, "".join(arguments)


def seconds(name: str) -> float:
    """How long a kernel compiles, at most; 0 if it is not in the list."""
    if name.startswith("c_functions."):
        return C_FUNCTION_SECONDS
    found = [known for known, listed, _ in _lines() if fnmatch.fnmatch(name, listed.replace(_EACH, "*"))]
    return max(found, default=0.0)


def jobs(exported: Collection[str], divergences: Iterable[str], functions: Iterable[str]) -> Iterator[Job]:
    """What the list says of these exported kernels, of these divergences, and of these C functions."""
    for known, listed, arguments in _lines():
        names = (
            [listed.replace(_EACH, divergence) for divergence in divergences] if _EACH in listed else [listed]
        )
        for name in names:
            if name in exported or _EACH not in listed:
                yield Job(known, name, arguments)
    for name in functions:
        yield Job(C_FUNCTION_SECONDS, f"c_functions.{name}")
