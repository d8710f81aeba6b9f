"""Importing fastvi: what it loads, compiles and names."""

import fastvi as fv
from helpers.programs import finish, run_program, start_program


def test_import_compiles_nothing_and_loads_little(tmp_path):
    """One call that compiles kernels shows that the test detects compiled ones."""
    out, err = finish(start_program("import_fastvi", flags=("-W", "error"), NUMBA_CACHE_DIR=tmp_path))
    assert int(out) > 0
    assert err == ""


def test_import_leaves_the_garbage_collector_as_it_was():
    assert run_program("import_without_collector", flags=("-W", "error")) == "off\n"


def test_star_import_gives_the_public_names():
    names = {}
    exec("from fastvi import *", names)
    assert set(fv.__all__) <= set(names)
    assert all(callable(names[name]) for name in fv.__all__)


def test_modules_are_loaded_when_they_are_used():
    run_program("load_when_used")


def test_importing_fastvi_does_not_import_matplotlib_or_scipy_stats():
    run_program("load_projections")
