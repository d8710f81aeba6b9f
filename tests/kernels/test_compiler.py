"""Compiler options, names in the cache on disk, and functions made from templates: of every kernel."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping

import numba
import numpy as np
import pytest

import fastvi
import fastvi.kernels
from fastvi.kernels import compiler
from fastvi.kernels.discrete import all_pairs, divergences
from fastvi.kernels.numerics import elementary, error_free
from helpers.forms import compiled_only
from helpers.programs import run_program

MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(fastvi.kernels.__path__, "fastvi.kernels.")
]


def dispatchers():
    """Every compiled function of the kernels: of modules, in registries, and those that others call."""
    found, queue = {}, [value for module in MODULES for value in vars(module).values()]
    while queue:
        value = queue.pop()
        if isinstance(value, (Mapping, tuple)):
            queue.extend(value.values() if isinstance(value, Mapping) else value)
        elif hasattr(value, "py_func") and value.__module__.startswith("fastvi.") and id(value) not in found:
            found[id(value)] = value
            function = value.py_func
            queue.extend(function.__globals__.get(name) for name in function.__code__.co_names)
    return list(found.values())


DISPATCHERS = dispatchers()

ENTRY_POINTS = [k for entry in divergences.KERNELS.values() for k in entry if k is not None] + [
    k for registry in (all_pairs.ROWS, all_pairs.LOG_ROWS) for k in registry.values()
]


@compiled_only
def test_the_search_finds_the_kernels():
    modules = {function.__module__ for function in DISPATCHERS}
    assert {divergences.__name__, all_pairs.__name__, elementary.__name__} <= modules
    names = {function.__name__ for function in DISPATCHERS}
    assert {
        "kl",
        "_kl_careful",
        "_kl_part",
        "_kl_sums32",
        "js_term",
        "log_ratio",
        "_js_rows",
    } <= names
    assert len(DISPATCHERS) > 80


@compiled_only
def test_fast_math_never_ignores_nan_or_infinity():
    for function in DISPATCHERS:
        flags = function.targetoptions["fastmath"]  # where there are none, numba takes the caller's
        flags = {flags} if isinstance(flags, (str, bool)) else set(flags)
        assert flags <= {False, "contract", "reassoc"}, function


@compiled_only
def test_sums_are_reordered_only_in_loops():
    """The formulas' exact differences must stay as written: only functions with a loop may reorder."""
    reordering = [f for f in DISPATCHERS if "reassoc" in (f.targetoptions.get("fastmath") or ())]
    assert len(reordering) > 10
    for function in reordering:
        assert "for " in inspect.getsource(function.py_func), function


@compiled_only
def test_error_free_steps_allow_no_fast_math():
    for function in (
        error_free.cross_difference,
        error_free.add_compensated,
        error_free.difference,
        elementary._exp_reduced,
    ):
        assert not function.targetoptions.get("fastmath"), function


@compiled_only
def test_a_kernel_does_not_take_the_flags_of_its_caller():
    """Not even of the function that has it compiled first."""

    @compiler.kernel
    def product(a, b, c):
        return (a * b) * c

    @compiler.adder
    def total(x, b, c):
        a = 0.0
        for i in range(x.size):
            a += product(x[i], b, c)
        return a

    # b * c overflows.
    assert total(np.full(9, 1e-300), 1e200, 1e200) == pytest.approx(9e100, rel=1e-12)


@compiled_only
def test_a_kernel_is_inlined_only_if_it_says_so():
    """Not because an inlined function has it compiled first: it would be inlined in all others too."""
    for function in DISPATCHERS:
        assert "forceinline" in function.targetoptions, function  # else numba takes the caller's

    @compiler.kernel
    def half(x):
        return 0.5 * x

    @compiler.inlined
    def quarter(x):
        return half(half(x))

    @compiler.kernel
    def run(x):
        return quarter(x)

    assert run(4.0) == 1.0
    for function, is_inlined in ((half, False), (quarter, True)):
        (made,) = function.overloads.values()
        assert ("alwaysinline" in made.library.get_llvm_str()) == is_inlined


@compiled_only
def test_every_kernel_releases_the_gil_and_divides_as_the_hardware():
    for function in DISPATCHERS:
        assert function.targetoptions["nogil"], function
        assert function.targetoptions["error_model"] == "numpy", function
        assert not function.targetoptions.get("parallel"), function


@compiled_only
def test_without_a_hook_of_numba_kernels_are_compiled_in_its_own_way(tmp_path):
    assert run_program("without_hooks", NUMBA_CACHE_DIR=tmp_path) == "2\n2\n"
    assert list(tmp_path.rglob("*.nbc"))


@compiled_only
def test_constants_do_not_make_other_kernels():
    @compiler.kernel
    def power(x, n):
        return x**n

    @numba.njit
    def use(x, n):
        return power(x, 2) + power(x, 3) + power(x, n)

    assert use(2.0, 4) == 28.0
    assert power(2.0, 5) == 32.0
    assert list(power.overloads) == power.signatures == [(numba.types.float64, numba.types.int64)]


@compiled_only
def test_what_the_api_calls_is_cached_under_its_own_name():
    """The disk cache is keyed by name: of two kernels with one name the next process would load only one."""
    seen = {}
    cached = [f for f in DISPATCHERS if f.cached]
    assert {id(f) for f in ENTRY_POINTS} <= {id(f) for f in cached}
    for function in cached:
        key = (function.__module__, function.__qualname__)
        assert seen.setdefault(key, function) is function, key


def test_specialise_binds_globals():
    def template(x):
        return inner(x) + 1.0  # noqa: F821

    double = compiler.specialise(template, "doubled", decorate=lambda f: f, inner=lambda x: 2.0 * x)
    square = compiler.specialise(template, "squared", decorate=lambda f: f, inner=lambda x: x * x)
    assert (double(5.0), square(5.0)) == (11.0, 26.0)
    assert double.__name__ == "doubled"
