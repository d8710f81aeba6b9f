"""Data sets that are installed with fastvi, for examples, the tour and tests."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray


def old_faithful() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 272 eruptions of the Old Faithful geyser, Yellowstone: (duration, waiting), in minutes.

    `waiting` is the time from this eruption to the next.

    References
    ----------
    A. Azzalini, A. W. Bowman, A Look at Some Data on the Old Faithful Geyser, Appl. Statist. 39 (1990).

    Examples
    --------
    >>> from fastvi.data import old_faithful
    >>> duration, waiting = old_faithful()
    >>> duration.size, float(waiting[0])
    (272, 79.0)
    """
    with files(__package__).joinpath("faithful.csv").open() as lines:
        table = np.loadtxt(lines, delimiter=",", skiprows=1)
    return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])
