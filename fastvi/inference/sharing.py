"""Blocks of points of an expensive log joint, shared out over threads.

A kernel hands a block of points to a C function, on its own thread. Where a point takes a millisecond the
kernel gets the address of another function with the same signature, which hands the points out to threads
that each call the first one. A value depends on its point alone, so all bits are the same.
"""

from __future__ import annotations

import ctypes
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from .. import kernels
from ..common import threads
from .packing import Table, most_entries

if TYPE_CHECKING:
    from .model import Model

#: The signatures of `kernels.models.packing` for ctypes, with addresses as numbers.
_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64
VALUE = ctypes.CFUNCTYPE(_NUMBER, _ADDRESS, _NUMBER, _NUMBER, _ADDRESS, _NUMBER, _ADDRESS, _ADDRESS)
GRADIENTS = ctypes.CFUNCTYPE(
    _NUMBER, _ADDRESS, _NUMBER, _NUMBER, _ADDRESS, _NUMBER, _ADDRESS, _ADDRESS, _ADDRESS
)

#: Seconds that a point takes where blocks are shared out, which costs 10 µs a point. To see that threads may
#: call a function at once takes half a second, which a fit of a thousand points saves on two threads.
EXPENSIVE = 1e-3

#: Dimensions of small models; a fit in one dimension takes a millisecond with `kernels.inference.gaps.MANY`
#: entries of data.
_FEW_DIM = 2

#: In the compiled code of functions that run in parallel themselves (called from two threads, numba's pool
#: may end the process) or call Python, and of those that draw random numbers.
_NOT_AT_ONCE = ("numba_gil_ensure", "random_state")


class Failures(threading.local):
    """Exceptions of Python functions that compiled code calls: it cannot pass them on, so they wait here.

    One for each thread, because a kernel calls a log joint in the thread that called the kernel.
    """

    _error: BaseException | None = None

    def __bool__(self) -> bool:
        return self._error is not None

    def hold(self, error: BaseException) -> None:
        """Keep the exception of this thread."""
        self._error = error

    def release(self) -> None:
        """Raise the exception of this thread, if there is one."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error


#: Of the functions here: Ctrl-C, or no memory.
failures = Failures()


class Sharing:
    """The functions that share out the blocks of a model and its copies, and whether they may."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._safe: bool | None = None

    def addresses(self, model: Model, value: int, slopes: int) -> tuple[int, int]:
        """The addresses for the kernels, of these functions or of those that share out their blocks.

        They hold as long as this is referred to.
        """
        if model._seconds < EXPENSIVE or threads.allowed() == 1:
            return value, slopes
        if self._safe is None:
            self._safe = not _is_unsafe(model)
        if not self._safe:
            return value, slopes
        return self._shared(value, VALUE), self._shared(slopes, GRADIENTS) if slopes else 0

    def _shared(self, address: int, signature: Any) -> int:
        if address not in self._made:
            self._made[address] = signature(_share_out(signature(address)))
        return ctypes.cast(self._made[address], ctypes.c_void_p).value or 0


def _share_out(function: Any) -> Any:
    """A function of a block that calls this one for each point, on several threads."""

    def call(z: int, count: int, dim: int, theta: int, size: int, table: int, out: int, *slopes: int) -> int:
        failed: list[int] = []

        def one(i: int) -> None:
            if any(row <= i for row in failed):
                return
            places = out + 8 * i, *(start + 8 * dim * i for start in slopes)
            if function(z + 8 * dim * i, 1, dim, theta, size, table, *places):
                failed.append(i + 1)

        try:
            if not failures:
                threads.run(one, count)
                return min(failed, default=0)
        except BaseException as error:
            failures.hold(error)
        return 1

    return call


def is_small(model: Model) -> bool:
    """Whether a model is such that a call of the log joint cannot take long, as far as one sees."""
    many = kernels.inference.gaps.MANY
    return model.latent_dim <= _FEW_DIM and all(getattr(x, "size", 1) < many for x in model._arguments)


def are_small(model: Model, tables: Table) -> NDArray[np.bool_]:
    """The same for each of many data sets of a model."""
    most = most_entries(model._types, tables)
    if model.latent_dim > _FEW_DIM:
        most[:] = kernels.inference.gaps.MANY
    small: NDArray[np.bool_] = np.maximum(most, model._theta.size) < kernels.inference.gaps.MANY
    return small


def seconds_of(model: Model) -> float:
    """The time that the log joint takes at a point; 0 for small models, which are not called."""
    if is_small(model):
        return 0.0
    point, least = model._somewhere(1), np.inf
    for _ in range(2):  # another process may have had the processor meanwhile
        before = time.perf_counter()
        model._tabulate(point)
        least = min(least, time.perf_counter() - before)
        if least < EXPENSIVE:
            break
    return float(least)


def _is_unsafe(model: Model) -> bool:
    """Whether the functions of a model must not be called from several threads at once."""
    for callback in model._callbacks:
        code = callback.inspect_llvm()
        if any(name in code for name in _NOT_AT_ONCE):
            return True
    return _writes_to_data(model)


def _writes_to_data(model: Model) -> bool:
    """Whether the functions of a model may use their data as scratch space.

    They do not where numba compiles them for data that are read-only. It does so for some functions that
    write, by way of ``np.ascontiguousarray`` say, and those are seen to do it.
    """
    data = [item for item in (*model.data, model._theta) if isinstance(item, np.ndarray) and item.size]
    if not data:
        return False
    point = types.Array(types.float64, 1, "C", readonly=True)
    rest = [point] if model._theta.size else []
    rest += [
        types.Array(kind.dtype, kind.ndim, "C", readonly=True) if isinstance(kind, types.Array) else kind
        for kind in model._types
    ]
    try:
        model._dispatcher.get_call_template((point, *rest), {})
        if model._gradient is not None:
            model._gradient.get_call_template((point, types.float64[::1], *rest), {})
    except Exception:  # numba's extensions raise all kinds
        return True
    before, points = [zlib.crc32(item.data) for item in data], model._somewhere(2)
    model._tabulate(points)
    if model._gradient is not None:
        model._tabulate(points, np.empty(points.shape))
    return before != [zlib.crc32(item.data) for item in data]
