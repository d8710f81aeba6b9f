"""Numbers and arrays as the kernels take them."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from fastvi.common.validation import float_array, integer, real_number
from helpers.messages import says

SEVEN = [7, 7.0, np.int8(7), np.uint64(7), np.float32(7), np.array(7), np.array(7.0), Fraction(7), Decimal(7)]


@pytest.mark.parametrize("value", SEVEN, ids=repr)
def test_numbers_become_those_of_python(value):
    assert (integer("n", value, 0), type(integer("n", value, 0))) == (7, int)
    assert (real_number("x", value), type(real_number("x", value))) == (7.0, float)


@pytest.mark.parametrize(
    "value",
    [True, np.True_, np.array(True), "7", b"7", None, [7], np.array([7]), 7j, np.complex128(7), np.ma.masked],
    ids=repr,
)
def test_what_is_no_number(value):
    with says(TypeError, "n must be an integer, not", repr(value)):
        integer("n", value, 0)
    with says(TypeError, "x must be a real number, not", repr(value)):
        real_number("x", value)


@pytest.mark.parametrize("value", [7.5, np.float32(7.5), Fraction(15, 2), math.nan, math.inf], ids=repr)
def test_what_is_no_integer(value):
    with says(TypeError, "n must be an integer, not", repr(value)):
        integer("n", value, 0)


def test_integers_out_of_range():
    assert integer("n", 2**63 - 1, 1) == 2**63 - 1
    for value in (2**63, np.uint64(2**63), 1e300):
        with says(ValueError, "n must be at most 9223372036854775807, not", repr(value)):
            integer("n", value, 1)
    with says(ValueError, "n must be at least 1, not 0"):
        integer("n", 0, 1)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_arrays_become_aligned(kind):
    words = np.zeros(17, np.uint8)[1:].view(kind)
    assert not words.flags.aligned
    words[:] = 0.5
    array = float_array("p", words)
    assert array.flags.aligned
    assert array.dtype == kind
    assert (array == 0.5).all()
    assert float_array("p", array) is array
