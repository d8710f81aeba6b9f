"""Workspaces: one array outside of kernels, with named fields inside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from fastvi.kernels.borrowing import (
    IntegerMatrix,
    Integers,
    Matrix,
    Vector,
    borrow,
    borrow_to_read,
    member,
    named,
    packed,
)
from fastvi.kernels.compiler import kernel
from helpers.forms import compiled_only, plain


class Pair(NamedTuple):
    left: Matrix
    right: Vector


class Nested(NamedTuple):
    counts: Integers
    pair: Pair
    table: IntegerMatrix


@njit
def make(rows, columns):
    pair = Pair(np.empty((rows, columns)), np.empty(columns))
    return Nested(np.empty(3, np.int64), pair, np.empty((2, 1), np.int64))


@njit
def make_packed(rows, columns):
    return packed(make(rows, columns))


@njit
def fill(space):
    nested = named(Nested, borrow(space))
    nested.counts[:] += 1
    for i in range(nested.pair.left.shape[0]):
        for j in range(nested.pair.left.shape[1]):
            nested.pair.left[i, j] = 10.0 * i + j
    nested.pair.right[:] = 2.5
    nested.table[1, 0] += 7
    return nested.pair.left.size, nested.pair.right.size


def check(nested, rows, columns):
    """What `fill` has written."""
    assert nested.counts.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(nested.pair.left, 10.0 * np.arange(rows)[:, None] + np.arange(columns))
    np.testing.assert_array_equal(nested.pair.right, np.full(columns, 2.5))
    assert nested.table.tolist() == [[0], [7]]


@pytest.mark.parametrize("form", ["compiled", "plain"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 5), (3, 8), (0, 2)])
def test_one_array_holds_all(form, rows, columns):
    """Compiled code and Python make the same words, and find the same arrays in them."""
    words = make_packed(rows, columns) if form == "compiled" else packed(plain(make)(rows, columns))
    header = words[:10].tolist()
    assert words.dtype == np.int64
    assert header[1:2] + header[3:5] + header[6:7] + header[8:] == [3, rows, columns, columns, 2, 1]
    assert fill(words) == (rows * columns, columns)
    nested = named(Nested, words)
    assert type(nested) is Nested
    assert type(nested.pair) is Pair
    assert all(a.base is not None and np.shares_memory(a, words) for a in (nested.counts, nested.table))
    check(nested, rows, columns)
    assert words[:10].tolist() == header


def test_the_arrays_lie_apart():
    words = make_packed(4, 5)
    nested = named(Nested, words)
    arrays = nested.counts, nested.pair.left, nested.pair.right, nested.table
    starts = [(a.ctypes.data - words.ctypes.data) // 8 for a in arrays]
    assert starts == [16, 24, 48, 56]
    assert words.size == 64


def test_names_for_the_members_of_a_tuple():
    arrays = np.zeros(3, np.int64), (np.zeros((2, 3)), np.zeros(3)), np.zeros((2, 1), np.int64)
    assert fill(arrays) == (6, 3)
    nested = named(Nested, arrays)
    assert nested.pair.left is arrays[1][0]
    check(nested, 2, 3)


@compiled_only
def test_the_types_of_the_fields_are_checked():
    class Wrong(NamedTuple):
        numbers: Matrix

    @njit
    def make_wrong():
        return packed(Wrong(np.empty(3)))

    with pytest.raises(TypingError, match="not of the types of its fields"):
        make_wrong()


def test_one_member_of_packed_words():
    words = packed(plain(make)(4, 5))
    nested = named(Nested, words)
    for path, array in [
        ("counts", nested.counts),
        ("pair.right", nested.pair.right),
        ("table", nested.table),
    ]:
        found = member(Nested, words, path)
        assert (found.shape, found.dtype, found.ctypes.data) == (array.shape, array.dtype, array.ctypes.data)


@compiled_only
def test_read_only_arrays_are_no_type_of_their_own():
    @kernel
    def first(x):
        return x[0]

    @njit
    def first_of(x):
        return first(borrow_to_read(x))

    x = np.array([3.0, 4.0])
    assert first_of(x) == 3.0
    x.flags.writeable = False
    assert first_of(x) == 3.0
    assert (len(first_of.signatures), len(first.overloads)) == (2, 1)
    assert borrow_to_read(x) is x
