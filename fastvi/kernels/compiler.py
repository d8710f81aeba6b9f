"""The one place that sets compiler options, and the one way to specialise a kernel.

Every kernel is compiled lazily, releases the GIL, and divides as the hardware does:
Python's check for a zero divisor is a branch in the loop, and a loop with that branch is not vectorised.

Fast-math is opened one flag at a time, never ``nnan`` or ``ninf`` (KL meets 0 log 0 and infinity):

``contract``
    lets the compiler fuse a product and a sum into one rounding. It is allowed in the formulas: a
    Horner step becomes one instruction instead of two (the KL sum takes 0.77 ns an entry instead of
    0.91 on an AVX-512 core), and a fused step is never less accurate.
``reassoc``
    lets the compiler reorder sums. It is allowed only in functions that add up a loop: without it no
    reduction is vectorised (the KL sum takes 3.3 ns an entry). The formulas are separate functions that
    LLVM inlines *with their own flags*, so their exact differences stay as written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any

from numba import __version__, cfunc, config, njit
from numba.extending import overload

try:
    from .caching import entry_name
    from .dispatchers import Kernel, c_function
    from .pipelines import Full, Thin
except ImportError:  # another numba, without one of the hooks
    Kernel = None

_OPTIONS = {"error_model": "numpy", "nogil": True}


def obstacle() -> str:
    """Why kernels have no full form that is compiled ahead, if they have none."""
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return "NUMBA_DISABLE_JIT is set"
    return "" if Kernel is not None else f"numba {__version__} has no hooks to compile kernels ahead"


def _jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """njit with our options, thin for other kernels."""
    if obstacle():
        return njit(**_OPTIONS, **options)
    return lambda function: _kernel(function, **options)


def _kernel(function: Callable[..., Any], **options: Any) -> Any:
    return Kernel(function, targetoptions={"nopython": True, "boundscheck": None, **_OPTIONS, **options})


#: For code whose roundings are part of its meaning (error-free sums and products), and for control flow. A
#: function that says nothing of fast-math or of inlining has that of the one from which it is compiled first:
#: each that an inlined one called was inlined at each call, and the kernel of a fit was twice as large.
kernel = _jit(fastmath=False, forceinline=False)

#: The same for the short steps between a row and its loop.
inlined = _jit(fastmath=False, forceinline=True)

#: For formulas: products and sums may be fused.
formula = _jit(fastmath={"contract"}, forceinline=True)

#: For loops that add up: the order of the sums is free as well. Inlined, they save a row of 256 20 ns of 220.
adder = _jit(fastmath={"contract", "reassoc"}, forceinline=True)


#: What is `exported`, by the names that containers have for it.
EXPORTED: dict[str, Any] = {}


def exported(function: Callable[..., Any]) -> Any:
    """`kernel` for what is called from outside, and kept on disk. The others are compiled into these."""
    made = kernel(function)
    if Kernel is not None and isinstance(made, Kernel):
        made.cached = True
        EXPORTED[entry_name(function)] = made
    else:
        with suppress(AttributeError, RuntimeError):  # a plain function; no place to write to
            made.enable_caching()
    return made


def overloaded(function: Callable[..., Any], **keywords: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.extending.overload` for a function that compiled code calls, thin like a kernel.

    The keywords are those of `overload`; its `jit_options` are added to.
    """
    options = {"fastmath": False, **keywords.pop("jit_options", {})}
    if Kernel is not None:
        options["pipeline_class"] = Thin
    return overload(function, jit_options=options, **keywords)


def jitted(function: Callable[..., Any]) -> Any:
    """numba.njit of a user's function, with numba's own options: its divisions raise as Python's do."""
    if obstacle():
        return njit(function)
    return Kernel(function, targetoptions={"nopython": True, "boundscheck": None, "fastmath": False})


def to_c(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.cfunc` with numba's own options, for a function that calls one of a user."""
    return cfunc(signature) if Kernel is None else cfunc(signature, pipeline_class=Full)


def exported_to_c(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """A C function of this signature, compiled at once and cached on disk like what is `exported`."""

    def decorate(function: Callable[..., Any]) -> Any:
        if Kernel is not None:
            return c_function(function, signature, {"nopython": True, **_OPTIONS})
        try:
            return cfunc(signature, cache=True, **_OPTIONS)(function)
        except RuntimeError:
            return cfunc(signature, **_OPTIONS)(function)

    return decorate


class Lazily(Mapping[str, Any]):
    """Values by name, each made when it is first asked for: making a hundred kernels takes 30 ms."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def specialise(template: Callable[..., Any], name: str, decorate: Any = kernel, **bindings: Any) -> Any:
    """Compile `template` as `name`, with some of its global names bound to other kernels.

    A closure over kernels would do the same, but numba keys its disk cache on the pickled closure, and
    a pickled kernel carries an identifier of its process: such a function is compiled again in every
    process. Globals are not part of the key; the function's name is, so each specialisation has its own.
    """
    function = FunctionType(template.__code__, {**template.__globals__, **bindings}, name)
    function.__qualname__ = name
    function.__doc__ = template.__doc__
    function.__module__ = template.__module__
    return decorate(function)
