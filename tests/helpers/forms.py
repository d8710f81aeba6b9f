"""A kernel in both its forms: compiled, and as the plain Python function that it is made of."""

from types import FunctionType

import numba
import pytest

from fastvi.compiled.external import _found, external

JIT = not numba.config.DISABLE_JIT

compiled_only = pytest.mark.skipif(not JIT, reason="NUMBA_DISABLE_JIT is set")


def plain(function):
    return getattr(function, "py_func", function)


def all_plain(function, known=None):
    """The same, with all that it calls as plain Python functions too: `plain` alone has that compiled."""
    known = {} if known is None else known
    original = plain(function)
    if function is original:
        return function
    if original not in known:
        names = dict(original.__globals__)
        known[original] = FunctionType(original.__code__, names, original.__name__, original.__defaults__)
        for name in original.__code__.co_names:
            if name in names:
                names[name] = all_plain(names[name], known)
    return known[original]


def machine_code(path):
    """For compiled functions: the kernel with this path in fastvi, called with a tuple of its arguments.

    It calls the kernel as compiled for Python, once. The kernel itself would be compiled again in each
    function.
    """
    if JIT:
        return external(path)
    kernel = _found(path)
    return lambda arguments: kernel(*arguments)


both = pytest.mark.parametrize("form", [lambda f: f, plain], ids=["compiled", "plain"])
