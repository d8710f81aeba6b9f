"""Kernels as external functions of a user's compiled code: nothing of them is compiled again.

A kernel that Python calls is compiled once, and kept on disk. The user's code gets a declaration of it by a
name that is the same in each process, and calls it like a C function of a library. A first kl in a user's
function takes 0.6 s of CPU instead of 3, an I-projection 1.3 instead of 35.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import kernels


class _Loaded(NamedTuple):
    """A kernel in this process."""

    symbol: str
    returns: Any  #: type of the result
    native: Any  #: numba's description of the compiled function


class _Needed(NamedTuple):
    """What a user's function that is cached on disk says of a kernel that it calls.

    numba keeps these with the function, and calls each before it loads the function's machine code.
    """

    path: str
    arguments: tuple[Any, ...]
    returns: Any
    version: str

    def __call__(self) -> None:
        _load(self.path, self.arguments)

    def __reduce__(self) -> Any:
        return _needed, tuple(self)


def _version() -> str:
    from .. import __version__

    return __version__


def _needed(path: str, arguments: tuple[Any, ...], returns: Any, version: str) -> _Needed:
    """The same in another process. The user's function may be older than the kernels."""
    if version != _version() or _load(path, arguments).returns != returns:
        # numba takes an OSError for a file that is gone, and compiles the user's function again.
        raise OSError(f"compiled for the kernels of fastvi {version}")
    return _Needed(path, arguments, returns, version)


def _found(path: str) -> Any:
    """What has this path in `fastvi.kernels`: attributes, and keys of mappings, between dots."""
    found: Any = kernels
    for name in path.split("."):
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    return found


@cache
def _load(path: str, arguments: tuple[Any, ...]) -> _Loaded:
    """Compile a kernel, or load it from the disk, and tell LLVM the address of its symbol."""
    kernel = _found(path)
    dispatcher = getattr(kernel, "full", kernel)
    dispatcher.compile(arguments)
    made = dispatcher.overloads[arguments]
    symbol = f"fastvi.{path}.{sha256(str(arguments).encode()).hexdigest()[:16]}"
    llvm.add_symbol(symbol, made.library.get_pointer_to_function(made.fndesc.llvm_func_name))
    return _Loaded(symbol, made.signature.return_type, made.fndesc)


@cache
def external(path: str, *arguments: Any) -> Any:
    """An intrinsic that calls a kernel, with a tuple of its arguments.

    Parameters
    ----------
    path : str
        Where the kernel is in `fastvi.kernels`.
    arguments : numba types
        Those that Python calls it with, or that it is always called with. What is handed over are arrays of
        the same dtype and layout, writable or not, and numbers that numba converts.
    """

    @intrinsic
    def call(typing_context, given):
        returns = _load(path, arguments).returns

        def generate(context, builder, signature, values):
            loaded = _load(path, arguments)
            needed = _Needed(path, arguments, loaded.returns, _version())
            context.active_code_library._reload_init.add(needed)
            convention, native = context.call_conv, loaded.native
            kind = convention.get_function_type(native.restype, native.argtypes)
            function = cgutils.get_or_insert_function(builder.module, kind, loaded.symbol)
            parts = zip(cgutils.unpack_tuple(builder, values[0]), given.types, arguments, strict=True)
            passed = [_converted(context, builder, *part) for part in parts]
            # Kernels raise nothing, so that the status says nothing.
            _, result = convention.call_function(builder, function, native.restype, native.argtypes, passed)
            return result

        return returns(given), generate

    return call


def _converted(context: Any, builder: Any, value: Any, given: Any, wanted: Any) -> Any:
    if isinstance(wanted, types.Array):
        assert (given.dtype, given.ndim, given.layout) == (wanted.dtype, wanted.ndim, wanted.layout), given
        return value
    return context.cast(builder, value, given, wanted)
