"""What a log joint refers to: globals, closures, values in modules, jitted functions.

Numba reads them once, when it compiles a function, and never again. `state_of` describes what they are now,
so that a change is found; `snapshot` is a copy of the function that is compiled with the values of now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numba
import numpy as np

from .. import kernels

#: What numba.njit makes; the kernels are of a class of their own.
_Jitted = numba.core.registry.CPUDispatcher

#: Modules whose values do not change.
_CONSTANT = ("math", "cmath", "numpy", "numba", "scipy")

#: Globals of a function that numba reads.
_OF_A_MODULE = ("__builtins__", "__file__", "__name__", "__package__")


class _Same:
    """A key that is equal to that of the same object only, and keeps the object alive."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _plain(function: Any) -> FunctionType:
    return getattr(function, "py_func", function)  # type: ignore[no-any-return]


def _names(code: CodeType) -> set[str]:
    """The names of globals and attributes in a function and in those that it defines."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found


def _references(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """(name, value) of the globals and the closure of a function, as far as they are bound."""
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue


def values_of(function: Any) -> dict[str, Any]:
    """What a function, plain or jitted, refers to, by name."""
    return dict(_references(_plain(function)))


def _is_users(value: Any) -> bool:
    """Whether this is a jitted function of a user."""
    return type(value) is _Jitted


def _state_of_value(value: Any, names: set[str], seen: tuple[Any, ...]) -> Any:
    """A key for a value; () where nothing in it can change. `names` are those of a module's attributes."""
    if isinstance(value, ModuleType):
        if value.__name__.partition(".")[0] in _CONSTANT:
            return ()
        found = [(n, vars(value)[n]) for n in sorted(names) if n in vars(value)]
        kept = [(n, v) for n, v in found if _is_users(v) or not (callable(v) or isinstance(v, ModuleType))]
        return tuple((n, _state_of_value(v, names, seen)) for n, v in kept)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest = hashlib.blake2b(np.ascontiguousarray(value).tobytes()).digest()
        return "array", value.dtype.str, value.shape, digest
    if isinstance(value, np.generic):
        return type(value), value.tobytes()
    if isinstance(value, tuple):
        return type(value), tuple(_state_of_value(item, names, seen) for item in value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return type(value), repr(value)
    if _is_users(value) and value not in seen:
        return _Same(value), state_of(value, seen)
    return _Same(value)


def state_of(function: Any, seen: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """A key that differs where a function refers to other values; empty where nothing can change.

    `seen` are the functions on the way to this one: some call themselves.
    """
    plain = _plain(function)
    names = _names(plain.__code__)
    states = ((n, _state_of_value(v, names, (*seen, function))) for n, v in _references(plain))
    return tuple((n, state) for n, state in states if state != ())


def _jitted_like(function: Any, copy: FunctionType) -> Any:
    """A copy of a function, jitted with the options of the original."""
    if not _is_users(function):
        return kernels.compiler.jitted(copy)
    pipeline = function._compiler.pipeline_class
    return _Jitted(copy, dict(function.locals), dict(function.targetoptions), pipeline)


def snapshot(function: Any, made: dict[int, Any] | None = None) -> Any:
    """A jitted copy of a function that refers to the values of now, and to such copies of other functions.

    `made` are the copies so far, by the originals' ids.
    """
    made = {} if made is None else made
    plain = _plain(function)
    values = values_of(plain)
    scope = {n: v for n, v in plain.__globals__.items() if n in _OF_A_MODULE or n in values}
    free = plain.__code__.co_freevars
    cells = {n: CellType(values[n]) if n in values else CellType() for n in free}
    copy = FunctionType(plain.__code__, scope, plain.__name__, plain.__defaults__, tuple(cells.values()))
    copy.__kwdefaults__, copy.__doc__ = plain.__kwdefaults__, plain.__doc__
    copy.__qualname__, copy.__module__ = plain.__qualname__, plain.__module__
    made[id(function)] = jitted = _jitted_like(function, copy)
    for name, value in values.items():
        if not _is_users(value) or not state_of(value):
            continue
        other = made[id(value)] if id(value) in made else snapshot(value, made)
        if name in cells:
            cells[name].cell_contents = other
        else:
            scope[name] = other
    if _is_users(function) and not function._can_compile:
        # It was given its signatures.
        for signature in function.signatures:
            jitted.compile(signature)
        jitted.disable_compile()
    return jitted
