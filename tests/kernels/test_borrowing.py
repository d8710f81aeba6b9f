"""Workspaces: plain tuples outside of kernels, with named fields inside."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from fastvi.kernels.borrowing import borrow, named, plain


class Pair(NamedTuple):
    left: Any
    right: Any


class Nested(NamedTuple):
    number: Any
    pair: Pair


@njit
def fill(space):
    nested = named(Nested, borrow(space))
    nested.pair.left[:] = 1.0
    nested.pair.right[:] = 2.0
    return nested.number[0]


def test_names_for_the_rows_of_an_array():
    space = np.array([3.0]), np.zeros((2, 4, 5))
    assert fill(space) == 3.0
    np.testing.assert_array_equal(space[1], np.stack([np.full((4, 5), 1.0), np.full((4, 5), 2.0)]))
    nested = named(Nested, space)
    assert nested.pair.left.base is nested.pair.right.base is space[1]
    np.testing.assert_array_equal(nested.pair.right, space[1][1])


def test_names_for_the_members_of_a_tuple():
    left, right = np.zeros(2), np.zeros(2)
    space = plain(Nested(np.array([4.0]), Pair(left, right)))
    assert type(space) is type(space[1]) is tuple
    assert fill(space) == 4.0
    assert left.tolist() == [1.0, 1.0]
    assert right.tolist() == [2.0, 2.0]
