"""Scratch space for kernels: a bounded cache for each thread.

Making a workspace takes 1 to 20 µs and more memory than a result, so a thread that calls the same kernel
again gets the same workspace again. All functions of the API take their workspaces from here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

#: Workspaces that a thread keeps. A program uses a few: each function has one for each size of problem.
MOST = 32

#: Bytes of all that a thread keeps; the last one is kept whatever its size. A fit in two dimensions has 32 MB
#: for its finest lattice, of which it seldom uses one MB; a fit of a full covariance in 1000 has 172 MB.
MOST_BYTES = 1 << 28


class _Kept(threading.local):
    """The workspaces of a thread, and their bytes, by (make, key); the least recently used comes first."""

    def __init__(self) -> None:
        self.spaces: dict[Any, tuple[Any, int]] = {}


_kept = _Kept()


def _references_of_a_variable() -> int:
    """`sys.getrefcount` of an object that one local variable refers to: 2, or 1 since Python 3.14."""
    probe = object()
    return sys.getrefcount(probe)


_UNUSED = _references_of_a_variable()


def _size(space: Any) -> int:
    """Bytes of an array, or of those in nested tuples."""
    return space.nbytes if isinstance(space, np.ndarray) else sum(map(_size, space))


def space(make: Callable[..., Any], *key: int) -> Any:
    """The workspace ``make(*key)`` of this thread, an array or nested tuples; its contents are undefined.

    A workspace belongs to the caller as long as the caller refers to it. One that is still referred to (by a
    call that a signal handler, a finalizer, a progress bar or a log joint in object mode has interrupted) is
    not handed out again. So refer to a tuple itself, not only to a part of it, until its arrays are read.
    """
    spaces, entry = _kept.spaces, (make, key)
    found, size = spaces.pop(entry, (None, 0))
    if found is not None and sys.getrefcount(found) == _UNUSED:
        spaces[entry] = found, size
        return found
    found = make(*key)
    spaces[entry] = found, _size(found)
    while len(spaces) > MOST or (len(spaces) > 1 and sum(size for _, size in spaces.values()) > MOST_BYTES):
        spaces.pop(next(iter(spaces)), None)
    return found
