"""The hot loops are vectorised: by the instructions in their assembly, not by the clock."""

import importlib.util
import json
import math
import platform
import sys
from pathlib import Path

import numba
import pytest

from helpers.programs import run_program

if numba.config.DISABLE_JIT:
    pytest.skip("NUMBA_DISABLE_JIT is set", allow_module_level=True)
if platform.machine() not in ("x86_64", "AMD64"):
    pytest.skip("it reads the assembly of x86", allow_module_level=True)


def load():
    """The module without its package, which sets environment variables for the whole process."""
    path = Path(__file__).parents[2] / "bench" / "instructions.py"
    spec = importlib.util.spec_from_file_location("instructions", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


instructions = load()


@pytest.fixture(scope="module")
def bits():
    found = instructions.register_bits()
    if found < 256:
        pytest.skip("this CPU has no AVX, and some loops do not pay without")
    return found


@pytest.mark.parametrize("name", instructions.HOT)
def test_hot_loops_compute_on_whole_registers(name, bits):
    loop = instructions.hot_loop(*instructions.HOT[name])
    assert loop.vectorised, loop
    assert loop.bits >= bits


def test_loops_that_are_not_vectorised_are_detected():
    """Sums whose order is fixed, the zero checks of Python's division, and calls to the C library."""
    row = numba.types.Array(numba.types.float64, 1, "C")

    def ratios(x, y, out):
        for i in range(x.size):
            out[i] = x[i] / y[i]

    def ordered(x, y, out):
        total = 0.0
        for i in range(x.size):
            total += x[i] * y[i]
        out[0] = total

    def logarithms(x, y, out):
        for i in range(x.size):
            out[i] = math.log(x[i])

    good = instructions.hot_loop(numba.njit(error_model="numpy")(ratios), (row, row, row))
    assert good.vectorised
    assert good.divisions >= 1
    for function in (ratios, ordered, logarithms):
        loop = instructions.hot_loop(numba.njit(function), (row, row, row))
        assert not loop.vectorised, (function, loop)
    assert loop.calls >= 1


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    """Counts of packed divisions, in a process with an empty cache: cached code has no assembly."""
    import llvmlite.binding as llvm

    if not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("this machine has no AVX2")
    return json.loads(run_program("assembly", NUMBA_CACHE_DIR=tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(
    "name", ["_kl_sums64", "_kl_sums32", "_js_sums64", "_js_sums32", "_weighted_js_sums", "_cross_sums"]
)
def test_hot_loops_are_vectorised(assembly, name):
    assert assembly[name]["packed"] > 0
    assert assembly[name]["calls"] == 0
