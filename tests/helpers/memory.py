"""What a call allocates, by numba's counters and by the size of the process; scratch space full of NaN."""

import os
from typing import NamedTuple

import numpy as np
from numba.core.runtime import rtsys

from fastvi.kernels.borrowing import named


class Used(NamedTuple):
    allocations: int
    headers: int  #: of arrays
    frees: int
    grown: int  #: bytes of the process; 0 where the system does not report it


def _resident():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def used(function, n, *arguments):
    """What ``function(n, *arguments)`` takes, which returns finite numbers; with the fixture `counted`."""
    size, before = _resident(), rtsys.get_allocation_stats()
    value = function(n, *arguments)
    after = rtsys.get_allocation_stats()
    assert np.isfinite(value).all()
    return Used(
        after.alloc - before.alloc,
        after.mi_alloc - before.mi_alloc,
        after.free - before.free,
        _resident() - size,
    )


def assert_no_allocation(function, arguments, rounds):
    """`function(n, *arguments)` takes as much for many rounds as for one: for passing the arrays in."""
    used(function, 1, *arguments)
    once, often = used(function, 1, *arguments), used(function, rounds, *arguments)
    assert once[:3] == often[:3]
    assert once.allocations == once.frees
    assert often.grown < 1_000_000


def spoiled(kind, words):
    """A packed workspace of this class, with NaN for all numbers but the integers."""

    def spoil(space):
        for member in space:
            if isinstance(member, tuple):
                spoil(member)
            elif member.dtype == np.float64:
                member.fill(np.nan)

    spoil(named(kind, words))
    return words
