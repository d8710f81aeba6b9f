"""A kernel in both its forms: compiled, and as the plain Python function that it is made of."""

import numba
import pytest

JIT = not numba.config.DISABLE_JIT

compiled_only = pytest.mark.skipif(not JIT, reason="NUMBA_DISABLE_JIT is set")


def plain(function):
    return getattr(function, "py_func", function)


both = pytest.mark.parametrize("form", [lambda f: f, plain], ids=["compiled", "plain"])
