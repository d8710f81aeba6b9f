"""Where the full form of a kernel comes from: a container, the user's cache on disk, the compiler.

The user's cache is numba's, with three differences. Its key holds the sources of all kernels and the options
of the compiler; numba's has only the file of the kernel. It keeps machine code only, since the full form is
linked into nothing. And a file of it that is damaged costs a compilation and a warning: numba raises an
exception for an index, and LLVM ends the process for a byte of an object.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llvmlite.binding import Linkage
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, NullCache, _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from . import container, signatures
from .pipelines import FullLibrary

#: Set, it keeps fastvi from telling that it compiles.
QUIET = "FASTVI_QUIET"

#: Where the kernels that are compiled go while a container is made: state by kernel and signature.
collected: dict[tuple[str, str], Any] | None = None

#: A person is told of a compilation that takes longer, in seconds.
_PATIENCE = 1.0


_LOCAL = (Linkage.internal, Linkage.private)


def entry_name(function: Any) -> str:
    """The name of a kernel in containers: that of its module within fastvi, or its kernels, and its own."""
    module = function.__module__.removeprefix("fastvi.").removeprefix("kernels.")
    return f"{module}.{function.__qualname__}"


def reduced(result: CompileResult) -> Any:
    """The machine code of a kernel, and what numba knows of it, to be pickled."""
    result.fndesc.typemap = result.fndesc.calltypes = None
    library: FullLibrary = result.library
    library._ensure_finalized()
    return (
        library.name,
        library._get_compiled_object(),
        [f.name for f in library.get_defined_functions() if f.linkage not in _LOCAL],
        dumps((result.fndesc, result.environment, result.signature, result.reload_init)),
    )


def rebuilt(target_context: Any, state: Any) -> CompileResult:
    """The kernel again, ready to be called."""
    name, code, symbols, rest = state
    fndesc, environment, signature, reload_init = pickle.loads(rest)
    for run in reload_init:
        run()
    library = FullLibrary.from_object(target_context.codegen(), name, code, symbols)
    entry_point = target_context.get_executable(library, fndesc, environment)
    return CompileResult(
        target_context=target_context,
        typing_context=target_context.typing_context,
        library=library,
        environment=environment,
        entry_point=entry_point,
        fndesc=fndesc,
        type_annotation="",
        signature=signature,
        objectmode=False,
        lifted=(),
        typing_error=None,
        call_helper=None,
        metadata=None,
        reload_init=reload_init,
        referenced_envs=(),
    )


def _arguments(sig: Any) -> str:
    """The types of the arguments, of a signature (of a C function) or of a tuple of them."""
    return str(tuple(sig.args if hasattr(sig, "args") else sig))


class _Impl(CompileResultCacheImpl):
    """What the user's cache keeps: a pickle of (key, state), and its digest."""

    def reduce(self, cres: Any) -> Any:
        data = pickle.dumps((str(cres.signature.args), reduced(cres)))
        return container.digest(data), data

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        expected, data = payload
        if container.digest(data) != expected:
            raise container.DamagedError
        arguments, state = pickle.loads(data)
        return arguments, rebuilt(target_context, state)


class _Files(IndexDataCacheFile):
    """numba's files, with a digest at the end of the index."""

    def _load_index(self) -> Any:
        try:
            data = Path(self._index_path).read_bytes()
        except FileNotFoundError:
            return {}
        if container.digest(data[: -container.DIGEST]) != data[-container.DIGEST :]:
            raise container.DamagedError
        return super()._load_index()

    def _save_index(self, overloads: Any) -> None:
        data = pickle.dumps(self._version) + self._dump((self._source_stamp, overloads))
        with self._open_for_write(self._index_path) as file:
            file.write(data + container.digest(data))


class _UserCache(FunctionCache):
    _impl_class = _Impl

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        files = self._cache_file
        # A name of its own: numba's file of this kernel has no digest.
        name = f"{self._impl.filename_base}-fastvi"
        self._cache_file = _Files(self._cache_path, name, files._source_stamp)

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), tuple(container.conditions().items()))

    def is_empty(self, target_context: Any) -> bool:
        """Whether it has nothing of this kernel for the present conditions, in any types."""
        with self._guarded(self._cache_file._index_path):
            _, *present = self._index_key(None, target_context.codegen())
            return all(conditions != present for _, *conditions in self._cache_file._load_index())
        return True

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        key = self._index_key(sig, target_context.codegen())
        files = self._cache_file
        with self._guarded(files._index_path):
            name = files._load_index().get(key)
            if name is None:
                return None
            with self._guarded(files._data_path(name)), suppress(FileNotFoundError):
                arguments, result = self._impl.rebuild(target_context, files._load_data(name))
                if arguments == _arguments(sig):
                    return result
                raise container.DamagedError
        return None

    @contextmanager
    def _guarded(self, path: str) -> Iterator[None]:
        """Unpickling garbage raises anything. The file is removed, as it would stop the saving as well."""
        try:
            yield
        except OSError:
            return  # a cache that cannot be read is none
        except Exception:
            container.warn_of_damage(Path(path))
            with suppress(OSError):
                os.unlink(path)

    def save_overload(self, sig: Any, data: Any) -> None:
        # A directory that has become read-only, or was removed; a damaged index that cannot be removed.
        with suppress(Exception):
            super().save_overload(sig, data)


class KernelCache(_Cache):
    """The cache of one kernel's dispatcher: container, then user's cache."""

    def __init__(self, function: Any) -> None:
        self._name = entry_name(function)
        try:
            self._user: Any = _UserCache(function)
        except RuntimeError:
            # numba finds no place to write to, neither next to the file nor in the home directory.
            self._user = NullCache()
        how_often = "in each process" if isinstance(self._user, NullCache) else "once on this machine"
        self._notice = _Notice(self._name, how_often)

    @property
    def cache_path(self) -> str | None:
        return self._user.cache_path  # type: ignore[no-any-return]

    def enable(self) -> None:
        self._user.enable()

    def disable(self) -> None:
        self._user.disable()

    def flush(self) -> None:
        self._user.flush()

    def is_empty(self, target_context: Any) -> bool:
        """Whether this kernel would be compiled in any types, and kept."""
        if isinstance(self._user, NullCache) or container.has(self._name):
            return False
        empty: bool = self._user.is_empty(target_context)
        return empty

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        if collected is not None:
            return None
        state = container.find(self._name, _arguments(sig))
        if state is not None:
            # An operation of compiled code refuses to be loaded where the kernels that it calls are others.
            with suppress(OSError):
                return rebuilt(target_context, state)
        found = self._user.load_overload(sig, target_context)
        if found is None:
            self._notice.start()
        return found

    def save_overload(self, sig: Any, cres: Any) -> None:
        self._notice.stop()
        if collected is not None:
            collected[self._name, str(cres.signature.args)] = reduced(cres)
            return
        self._user.save_overload(sig, cres)


class _Notice:
    """Tells a person once in a process, on a terminal, that a kernel has been compiling for a second."""

    _told = False

    def __init__(self, name: str, how_often: str) -> None:
        self._name = name
        self._how_often = how_often
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        if _Notice._told or os.environ.get(QUIET) or not (sys.stderr and sys.stderr.isatty()):
            return
        self._timer = threading.Timer(_PATIENCE, self._tell)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        if not _Notice._told:
            _Notice._told = True
            seconds = signatures.seconds(self._name)
            about = f", about {seconds:.0f} s" if seconds else ""
            print(
                f"fastvi is compiling {self._name}{about}, {self._how_often}. `fastvi compile` compiles "
                f"everything ahead; {QUIET}=1 keeps this quiet.",
                file=sys.stderr,
            )
