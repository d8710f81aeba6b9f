"""Log joints as C functions: each function is compiled once for the types of its data.

`Model` asks for them; the kernels call them by their addresses.
"""

from __future__ import annotations

import inspect
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.errors import NumbaError, NumbaWarning

from .. import kernels
from .references import snapshot, state_of, values_of

#: Entries of each cache below. An entry outlives the models that use it, so that the next model of the same
#: function compiles nothing.
_MOST = 128

_lock = threading.RLock()
_jits: dict[Any, Any] = {}  # dispatchers of functions and of the values that these refer to
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
    """A dispatcher of a function that is compiled with the values that it refers to now.

    One for each function and the state of these values; a jitted function itself where they cannot change.
    """
    is_jitted = isinstance(function, numba.core.registry.CPUDispatcher)
    if not is_jitted and not inspect.isfunction(function):
        raise TypeError(f"{name} must be a function, plain or jitted, not {type(function).__name__}")
    state = state_of(function)
    if is_jitted and not state:
        return function
    make = (lambda: snapshot(function)) if state else (lambda: kernels.compiler.jitted(function))
    return _remembered(_jits, (function, state), make)


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


class Forward:
    """The gradient of a log joint by forward differentiation, compiled when it is first asked for.

    `fields` are where parameters with names are, None where the log joint takes z itself; `value` is the C
    function of the log joint. One of these belongs to a model and to all copies of it.
    """

    def __init__(
        self, dispatcher: Any, fields: Any, kinds: tuple[Any, ...], has_theta: bool, value: Any
    ) -> None:
        self._key, self._value = (dispatcher, fields, kinds, has_theta), value
        self._found: tuple[Any, str, Any] | None = None

    def address(self, is_right: Callable[[int], bool]) -> int:
        """The address of the C function, or 0 where the log joint does what has no derivatives here.

        It holds as long as this is referred to. What has been compiled must be `is_right`.
        """
        if self._found is None:
            make = lambda: _compile_forward(self._key, self._value, is_right)  # noqa: E731
            self._found = _remembered(_compiled, ("forward", *self._key), make)
        function = self._found[0]
        return 0 if function is None else int(function.address)

    @property
    def reason(self) -> str:
        """Why there is none."""
        return "" if self._found is None else self._found[1]


def _compile_forward(key: Any, value: Any, is_right: Callable[[int], bool]) -> tuple[Any, str, Any]:
    """(the C function, "", that of the log joint, which it calls), or (None, why there is none, None)."""
    global _compilations
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return None, "NUMBA_DISABLE_JIT is set", None
    _compilations += 1
    try:
        with warnings.catch_warnings():  # the log joint itself has warned of the same
            warnings.simplefilter("ignore", NumbaWarning)
            function = kernels.models.forward.make(*key, int(value.address))
        if is_right(function.address):
            return function, "", value
        return None, "its values are others where it gets numbers with derivatives", None
    except Exception as error:  # numba's extensions raise all kinds where a type is new to them
        text = str(error)
        call = re.search(r">>> (.*)", text)
        reason = f"no derivative of {call[1]}" if call else _first_cause(text)
        return None, reason or f"{type(error).__name__}: {text}", None


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
        returned = re.search(r"must return a real number, not [^\n]*", text)
        if returned:
            raise TypeError(f"{name} {returned[0]}") from error
        arguments = ", ".join(["z: float64[:]", *(["grad: float64[:]"] if with_gradient else [])])
        arguments += ", theta: float64[:]" if has_theta else ""
        arguments += "".join(f", {kind}" for kind in kinds)
        reason = next((line for line in reversed(text.splitlines()) if line.strip()), text)
        cause = _first_cause(text)
        what = f"{name}({arguments}) -> float cannot be compiled: {cause or reason}"
        raise TypeError(what + _advice(dispatcher, kinds, text)) from error


#: What to write instead of functions that numba does not know.
_INSTEAD = {
    "gammaln": "math.lgamma(x)",
    "loggamma": "math.lgamma(x)",
    "gamma": "math.gamma(x)",
    "betaln": "math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)",
    "erf": "math.erf(x)",
    "erfc": "math.erfc(x)",
    "ndtr": "0.5 * math.erfc(-x / math.sqrt(2))",
    "expit": "1 / (1 + math.exp(-x))",
    "logit": "math.log(x) - math.log1p(-x)",
    "log_expit": "-np.logaddexp(0, -x)",
    "logsumexp": "np.logaddexp(a, b), or x.max() + math.log(np.exp(x - x.max()).sum())",
    "xlogy": "x * math.log(y) if x > 0 else 0.0",
}


def _advice(dispatcher: Any, kinds: tuple[Any, ...], text: str) -> str:
    """What helps against a message of numba; empty where nothing is known."""
    cause = _first_cause(text)
    found = re.search(r"(?:name|attribute) '(\w+)'", cause)
    if found and ("scipy" in cause or "numpy.ufunc" in cause or "class 'function'" in cause):
        value = values_of(dispatcher).get(found[1])
        word = getattr(value, "__name__", found[1])
        if word in _INSTEAD:
            return f"; write {_INSTEAD[word]} instead of {word}"
        if "scipy.stats" in cause:
            return "; numba knows no scipy.stats: write the logarithm of the density out"
        if isinstance(value, FunctionType):
            return f"; a function that a log joint calls must be jitted: {found[1]} = numba.njit({found[1]})"
    others = [
        f"data[{k}] ({kind.dtype})"
        for k, kind in enumerate(kinds)
        if isinstance(kind, types.Array) and kind.dtype != types.float64
    ]
    arrays = {name: value for name, value in values_of(dispatcher).items() if isinstance(value, np.ndarray)}
    others += [f"{name} ({value.dtype})" for name, value in arrays.items() if value.dtype != np.float64]
    if others and any(word in text for word in ("dot", "matmul", "'@'", "_impl")):
        return f"; products of matrices take arrays of one type: give {', '.join(others)} as float64, like z"
    return ""


def _first_cause(text: str) -> str:
    """The first line of numba's message that names a cause; empty if there is none."""
    for line in text.splitlines():
        words = line.strip()
        if words and not words.startswith(("Failed in nopython", "-", "During:", "File", ">>>", "There are")):
            return words
    return ""
