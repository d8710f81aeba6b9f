"""Log joints as C functions: each function is compiled once for the types of its data.

`Model` asks for them; the kernels call them by their addresses.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba.core.errors import NumbaError

from .. import kernels

#: Entries of each cache below. An entry outlives the models that use it, so that the next model of the same
#: function compiles nothing.
_MOST = 128

_lock = threading.RLock()
_jits: dict[Any, Any] = {}  # dispatchers of plain functions
_compiled: dict[Any, Any] = {}  # C functions
_compilations = 0


def _remembered(cache: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """The entry of a cache, made if it is missing. A full cache drops the least recently used entry."""
    with _lock:
        value = cache.pop(key, None)
        if value is None:
            value = make()
        cache[key] = value
        if len(cache) > _MOST:
            del cache[next(iter(cache))]
        return value


def dispatcher_of(name: str, function: Any) -> Any:
    """The function itself if it is jitted; else its dispatcher, one for each plain function."""
    if isinstance(function, numba.core.registry.CPUDispatcher):
        return function
    if not inspect.isfunction(function):
        raise TypeError(f"{name} must be a function, plain or jitted, not {type(function).__name__}")
    return _remembered(_jits, function, lambda: kernels.compiler.jitted(function))


def flat_dispatcher(dispatcher: Any, fields: Any, with_gradient: bool) -> Any:
    """The dispatcher that takes z, of a function of parameters with names: one for each layout."""
    key = dispatcher, fields, with_gradient
    return _remembered(_jits, key, lambda: kernels.models.named.flat(*key))


def check_arity(name: str, function: Any, wanted: Sequence[str]) -> None:
    """Raise TypeError if a function does not take the arguments with these names, by position."""
    try:
        signature = inspect.signature(getattr(function, "py_func", function))
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*wanted)
    except TypeError:
        raise TypeError(
            f"{name}{signature} must take {len(wanted)} arguments: ({', '.join(wanted)})"
        ) from None


def compiled_count() -> int:
    """The number of compilations of this process: one for each function and types of its data."""
    return _compilations


def c_function(dispatcher: Any, kinds: tuple[Any, ...], has_theta: bool, with_gradient: bool) -> Any:
    """The compiled C function of a log joint. Its address holds as long as the function is referred to."""
    key = dispatcher, kinds, has_theta, with_gradient
    return _remembered(_compiled, key, lambda: _compile(*key))


def _compile(dispatcher: Any, kinds: Any, has_theta: bool, with_gradient: bool) -> Any:
    global _compilations
    _compilations += 1
    name = "log_joint_grad" if with_gradient else "log_joint"
    try:
        return kernels.models.packing.make(dispatcher, kinds, has_theta, with_gradient)
    except NumbaError as error:
        text = str(error)
        if "readonly" in text and "setitem" in text:
            raise TypeError(f"{name} writes to z (or to data), which it must only read") from error
        arguments = ", ".join(["z: float64[:]", *(["grad: float64[:]"] if with_gradient else [])])
        arguments += ", theta: float64[:]" if has_theta else ""
        arguments += "".join(f", {kind}" for kind in kinds)
        reason = next((line for line in reversed(text.splitlines()) if line.strip()), text)
        cause = _first_cause(text)
        raise TypeError(f"{name}({arguments}) -> float cannot be compiled: {cause or reason}") from error


def _first_cause(text: str) -> str:
    """The first line of numba's message that names a cause; empty if there is none."""
    for line in text.splitlines():
        words = line.strip()
        if words and not words.startswith(("Failed in nopython", "-", "During:", "File", ">>>", "There are")):
            return words
    return ""
