"""Kernels as external functions of a user's compiled code: nothing of them is compiled again.

A kernel that Python calls is compiled once, and kept on disk. The user's code gets a declaration of it by a
name that is the same in each process, and calls it like a function of a C library. A first kl in a
user's function takes 0.4 s of CPU instead of 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib import import_module
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..kernels.container import source_digest


class _Loaded(NamedTuple):
    """A kernel in this process."""

    symbol: str
    returns: Any  #: the type of its result
    native: Any  #: numba's description of the compiled function


class _Needed(NamedTuple):
    """A kernel that a user's function calls, as the user's cache on disk keeps it.

    numba calls each of these before it loads the machine code of the function.
    """

    path: str
    arguments: tuple[Any, ...]
    returns: Any
    version: str

    def __call__(self) -> None:
        _load(self.path, self.arguments)

    def __reduce__(self) -> Any:
        return _needed, tuple(self)


def _needed(path: str, arguments: tuple[Any, ...], returns: Any, version: str) -> _Needed:
    """The same in another process, where the user's function may be older than the kernel."""
    if version != _version() or _load(path, arguments).returns != returns:
        # numba takes an OSError for a file that is gone, and compiles the user's function again.
        raise OSError(f"compiled for other kernels of fastvi: {version}")
    return _Needed(path, arguments, returns, version)


def _version() -> str:
    version: str = source_digest()
    return version


def _found(path: str) -> Any:
    """What has this path in fastvi: names of attributes, and keys of mappings, between dots."""
    found: Any = import_module("fastvi")
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


def _argument(kind: Any) -> Any:
    """The type that Python passes for an argument that has this type in compiled code."""
    if isinstance(kind, types.Array):
        assert kind.layout == "C", kind
        return types.Array(kind.dtype, kind.ndim, "C")
    if isinstance(kind, types.BaseTuple):
        return types.Tuple([_argument(member) for member in kind.types])
    kind = types.unliteral(kind)
    if isinstance(kind, types.Integer | types.Float):
        return types.int64 if isinstance(kind, types.Integer) else types.float64
    return kind


def _handed_over(context: Any, builder: Any, value: Any, kind: Any) -> Any:
    """A value as one of the type `_argument(kind)`."""
    if isinstance(kind, types.Array):
        return value
    if isinstance(kind, types.BaseTuple):
        members = zip(cgutils.unpack_tuple(builder, value), kind.types, strict=True)
        values = [_handed_over(context, builder, *member) for member in members]
        return context.make_tuple(builder, _argument(kind), values)
    return context.cast(builder, value, kind, _argument(kind))


@cache
def external(path: str) -> Any:
    """An intrinsic that calls the kernel with this path in fastvi, with a tuple of its arguments.

    Its types are those of Python's calls: arrays are taken for writable ones, numbers for int64 or float64.
    """

    @intrinsic
    def call(typing_context, given):
        arguments = tuple(_argument(given).types)

        def generate(context, builder, signature, values):
            symbol, returns, native = _load(path, arguments)
            context.active_code_library._reload_init.add(_Needed(path, arguments, returns, _version()))
            convention = context.call_conv
            kind = convention.get_function_type(native.restype, native.argtypes)
            function = cgutils.get_or_insert_function(builder.module, kind, symbol)
            passed = cgutils.unpack_tuple(builder, _handed_over(context, builder, values[0], given))
            # Kernels raise nothing, so that the status says nothing.
            _, result = convention.call_function(builder, function, native.restype, native.argtypes, passed)
            return result

        return _load(path, arguments).returns(given), generate

    return call
