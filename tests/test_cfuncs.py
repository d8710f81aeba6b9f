"""The C functions: from ctypes, SciPy, a C program and C threads."""

import ctypes
import gc
import math
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numba
import numpy as np
import pytest
from numba.core.runtime import rtsys
from scipy import LowLevelCallable, integrate, stats

import fastvi as fv
from fastvi import cfuncs
from fastvi.cfuncs import FitResult, Mass, Status, Support
from fastvi.kernels.discrete.registry import BY_TERM, ROWS
from helpers.divergence_rows import EVERY, OF_DISTRIBUTIONS, OF_ORDER, PAIRED, ROOTED, arrays
from helpers.programs import PROGRAMS, ROOT, environment, run_program

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set")

WORDS = {Mass.UNIT: "unit", Mass.NORMALIZE: "normalize", Mass.ANY: "any"}

c = np.ctypeslib.as_ctypes


# Divergences of arrays.

every = pytest.mark.parametrize("name", EVERY)

#: Orders of all kinds, as far as a row allows them.
ORDERS = [-1.0, 0.0, 0.5, 0.7, 1.0, 2.0, math.inf]


def orders(name):
    """The arguments for the order of a divergence: none, or one of each kind that its row allows."""
    limits = ROWS[name].orders
    return [(alpha,) for alpha in ORDERS if limits[0] <= alpha <= limits[1]] if limits else [()]


def calls(name):
    """(call(p, q, n, mass) -> (status, value), the same in Python) for each order of a divergence."""
    in_c, in_python = getattr(cfuncs, name).ctypes, getattr(fv, name)
    out = np.empty(1)

    def run(p, q, n, mass, *alpha):
        out[0] = 7.0
        status = in_c(*arrays(name, c(p), c(q)), n, *alpha, mass, c(out))
        return status, float(out[0])

    def expected(p, q, mass, *alpha):
        return in_python(*arrays(name, p, q), *alpha, mass=WORDS[mass])

    return run, expected


def pairs_of_arrays():
    rng = np.random.default_rng(61)
    for n in (1, 2, 3, 16, 257, 40_000):
        p, q = rng.dirichlet(np.full(n, 0.5)), rng.dirichlet(np.full(n, 0.5))
        yield p, q, Mass.UNIT
        yield p, p, Mass.UNIT
        yield 3.0 * p, 0.25 * q, Mass.ANY
        yield rng.poisson(5.0, n) + 1.0, rng.poisson(2.0, n) + 1.0, Mass.NORMALIZE
    yield np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.0, 0.75]), Mass.UNIT  # infinite
    yield np.array([0.5, 0.0, 0.5]), np.array([0.25, 0.25, 0.5]), Mass.UNIT
    yield np.array([5e-324, 1.0]), np.array([1e-310, 1.0]), Mass.UNIT


@every
def test_divergences_have_the_bits_of_the_python_functions(name):
    run, expected = calls(name)
    for order in orders(name):
        for p, q, mass in pairs_of_arrays():
            if mass is Mass.ANY and name in OF_DISTRIBUTIONS:
                continue
            status, value = run(p, q, p.size, mass, *order)
            assert status == Status.FINE
            if name in PAIRED:
                assert value == expected(p, q, mass, *order)
            else:
                # In C a kernel of two arrays is compiled for one array twice, and adds in another order.
                assert value == pytest.approx(expected(p, q, mass, *order), rel=1e-15, abs=0.0)


@every
def test_divergences_refuse_what_is_not_valid(name):
    run, _ = calls(name)
    order = (0.5,) if name in OF_ORDER else ()
    good = np.array([0.25, 0.75])
    for bad, mass in [
        ([math.nan, 0.5], Mass.UNIT),
        ([-0.5, 1.5], Mass.UNIT),
        ([math.inf, 0.5], Mass.NORMALIZE),
        ([0.5, 0.25], Mass.UNIT),
        ([0.0, 0.0], Mass.NORMALIZE),
    ]:
        for p, q in [(np.array(bad), good)] + ([(good, np.array(bad))] if name in PAIRED else []):
            status, value = run(p, q, 2, mass, *order)
            assert status == Status.INVALID
            assert math.isnan(value)
    wrong = [(0, Mass.UNIT, *order), (-1, Mass.UNIT, *order), (2, 3, *order), (2, -1, *order)]
    if name in OF_DISTRIBUTIONS:
        wrong.append((2, Mass.ANY, *order))
    if name in OF_ORDER:
        low, high = ROWS[name].orders
        outside = [alpha for alpha in (math.inf, -math.inf, -0.5) if not low <= alpha <= high]
        wrong += [(2, Mass.UNIT, alpha) for alpha in (math.nan, *outside)]
    for rest in wrong:
        status, value = run(good, good, *rest)
        assert status == Status.BAD_ARGUMENT
        assert math.isnan(value)


@pytest.mark.parametrize("name", [row.name for row in BY_TERM.values()])
def test_elements_are_divergences_of_one_entry(name):
    element, python = getattr(cfuncs, f"{name}_element").ctypes, getattr(fv, name)
    order = (1.5,) if name in OF_ORDER else ()
    values = [0.0, 5e-324, 1e-310, 1e-20, 0.3, 0.3 * (1 + 1e-9), 1.0, 7.5, 1e50]
    for p in values:
        for q in values:
            expected = python(np.array([p]), np.array([q]), *order, mass="any")
            if name in ROOTED:
                expected *= expected
            assert element(p, q, *order) == pytest.approx(expected, rel=4e-15, abs=1e-323)
    for bad in (math.nan, math.inf, 1e300, -1e-300):
        assert math.isnan(element(bad, 0.5, *order))
        assert math.isnan(element(0.5, bad, *order))
    if order:
        assert math.isnan(element(0.5, 0.5, math.nan))


# Gaussians and integrals.


def gaussian(dim, seed):
    rng = np.random.default_rng(seed)
    root = np.tril(rng.standard_normal((dim, dim))) + 2.0 * np.eye(dim)
    return fv.Gaussian(rng.standard_normal(dim), root @ root.T)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_gaussians(dim):
    p, q, z, out = gaussian(dim, 1), gaussian(dim, 2), np.linspace(-1.0, 1.0, dim), np.empty(1)
    shown = [np.array(a) for a in (p.mean, p.cholesky, q.mean, q.cholesky)]

    def numbers(a):
        return a.ctypes.data_as(ctypes.POINTER(ctypes.c_double))

    mean_p, chol_p, mean_q, chol_q = map(numbers, shown)
    assert cfuncs.gaussian_kl.ctypes(mean_p, chol_p, mean_q, chol_q, dim, c(out)) == Status.FINE
    assert out[0] == fv.kl(p, q)
    assert cfuncs.gaussian_logpdf.ctypes(numbers(z), mean_p, chol_p, dim, c(out)) == Status.FINE
    assert out[0] == pytest.approx(stats.multivariate_normal.logpdf(z, p.mean, p.cov), rel=1e-13)

    assert cfuncs.gaussian_kl.ctypes(mean_p, chol_p, mean_q, chol_q, 0, c(out)) == Status.BAD_ARGUMENT
    assert cfuncs.gaussian_logpdf.ctypes(numbers(z), mean_p, chol_p, 0, c(out)) == Status.BAD_ARGUMENT
    shown[1][-1, -1] = 0.0
    for status in (
        cfuncs.gaussian_kl.ctypes(mean_p, chol_p, mean_q, chol_q, dim, c(out)),
        cfuncs.gaussian_kl.ctypes(mean_q, chol_q, mean_p, chol_p, dim, c(out)),
        cfuncs.gaussian_logpdf.ctypes(numbers(z), mean_p, chol_p, dim, c(out)),
    ):
        assert status == Status.INVALID
        assert math.isnan(out[0])
    shown[0][0] = math.nan
    assert cfuncs.gaussian_logpdf.ctypes(numbers(z), mean_p, chol_q, dim, c(out)) == Status.INVALID


def test_the_density_of_a_mixture_under_nquad():
    p = fv.GaussianMixture([0.3, 0.7], [[-1.0, 0.5], [1.0, -0.5]], [np.diag([1.0, 2.0]), np.diag([0.5, 1.0])])
    density = LowLevelCallable(cfuncs.pdf.ctypes, cfuncs.user_data(p))
    gc.collect()
    _others = [np.full(16, math.nan) for _ in range(50)]  # would take the place of data that is not kept
    value, _ = integrate.nquad(density, [(-8.0, 0.25), (-9.0, -0.5)])
    # Each component is a product, and a box a product of intervals.
    below = stats.norm.cdf(
        [[0.25 + 1.0, (-0.5 - 0.5) / math.sqrt(2.0)], [(0.25 - 1.0) / math.sqrt(0.5), 0.0]]
    )
    assert value == pytest.approx(0.3 * below[0].prod() + 0.7 * below[1].prod(), abs=1e-9)


def test_densities_have_the_bits_of_their_python_methods():
    p = fv.GaussianMixture(
        [0.2, 0.8], np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 0.5]]), [np.eye(3), 2.0 * np.eye(3)]
    )
    for density in (p, gaussian(3, 5)):
        packed = cfuncs.user_data(density)
        for z in np.random.default_rng(3).standard_normal((10, 3)):
            assert cfuncs.logpdf.ctypes(3, c(z), packed) == density.logpdf(z)
            assert cfuncs.pdf.ctypes(3, c(z), packed) == density.pdf(z)
    for n in (2, 0, -1):
        assert math.isnan(cfuncs.pdf.ctypes(n, c(np.zeros(3)), packed))
        assert math.isnan(cfuncs.logpdf.ctypes(n, c(np.zeros(3)), packed))
        assert math.isnan(cfuncs.kl_integrand.ctypes(n, c(np.zeros(3)), cfuncs.user_data(p, p)))


def test_kl_as_an_integral():
    p, q = fv.Gaussian(0.5, 1.5), fv.Gaussian(-0.5, 2.0)
    integrand = LowLevelCallable(cfuncs.kl_integrand.ctypes, cfuncs.user_data(p, q))
    value, _ = integrate.quad(integrand, -20.0, 20.0, epsabs=1e-13, epsrel=1e-12)
    assert value == pytest.approx(fv.kl(p, q), rel=1e-11)
    z = np.array([100.0])  # both densities underflow, q later
    assert cfuncs.kl_integrand.ctypes(1, c(z), cfuncs.user_data(p, p)) == 0.0
    assert cfuncs.kl_integrand.ctypes(1, c(z), cfuncs.user_data(p, fv.Gaussian(90.0, 1.0))) == (
        fv.Gaussian(90.0, 1.0).pdf([100.0])
    )


def test_user_data_says_what_is_wrong():
    with pytest.raises(TypeError, match="one density or more"):
        cfuncs.user_data()
    with pytest.raises(TypeError, match=r"densities\[1\] must be a Gaussian or a GaussianMixture, not float"):
        cfuncs.user_data(fv.Gaussian(0.0, 1.0), 1.0)
    with pytest.raises(ValueError, match=r"densities\[0\] has 1, densities\[1\] has 2"):
        cfuncs.user_data(fv.Gaussian(0.0, 1.0), fv.Gaussian([0.0, 0.0], np.eye(2)))


# Fits.

LOG_JOINT = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.POINTER(ctypes.c_double), ctypes.c_void_p)


def carried_gaussian(z, data):
    """The density of z whose latent coordinate is N(m, s**2): data is (support, low, high, m, s)."""
    support, low, high, m, s = numba.carray(data, 5, np.float64)
    x, log_derivative = z[0], 0.0
    if support == 1.0:
        x, log_derivative = math.log(z[0] - low), -math.log(z[0] - low)
    elif support == 2.0:
        x, log_derivative = math.log(high - z[0]), -math.log(high - z[0])
    elif support == 3.0:
        u, v = z[0] - low, high - z[0]
        x, log_derivative = math.log(u / v), math.log((high - low) / (u * v))
    return -0.5 * ((x - m) / s) ** 2 - math.log(s) - 0.5 * math.log(2.0 * math.pi) + log_derivative


@cache
def compiled(function):
    return numba.cfunc("float64(CPointer(float64), voidptr)")(function)


def fit(log_joint, data=None, support=Support.REAL, low=0.0, high=0.0, mean=0.0, scale=1.0, rtol=1e-10):
    out = np.zeros(len(FitResult))
    status = cfuncs.fit_1d.ctypes(log_joint, data, support, low, high, mean, scale, rtol, c(out))
    return Status(status), out


@pytest.mark.parametrize(
    ("support", "low", "high"),
    [
        (Support.REAL, 0.0, 0.0),
        (Support.LOWER, -2.0, math.nan),
        (Support.UPPER, math.nan, 3.0),
        (Support.INTERVAL, -1.0, 4.0),
    ],
)
def test_a_posterior_that_is_gaussian_in_the_latent_coordinate_is_found(support, low, high):
    data = np.array([support, low, high, 0.4, 0.7])
    status, out = fit(compiled(carried_gaussian).address, data.ctypes.data, support, low, high)
    assert status is Status.FINE
    assert out[FitResult.MEAN] == pytest.approx(0.4, abs=1e-8)
    assert out[FitResult.DEVIATION] == pytest.approx(0.7, abs=1e-8)
    # The density is normalised, so its evidence is 1.
    assert abs(out[FitResult.ELBO]) <= max(out[FitResult.ERROR], 1e-13)
    assert out[FitResult.ERROR] < 1e-9
    assert out[FitResult.GRADIENT_NORM] < 1e-6
    assert out[FitResult.EVALUATIONS] > 10
    assert out[FitResult.STEPS] >= 1
    assert math.isnan(out[FitResult.FAULT_AT])


def test_a_log_joint_may_be_a_python_callback():
    points = []

    @LOG_JOINT
    def log_joint(z, data):
        assert data is None
        points.append(z[0])
        return -z[0] - 0.5 * (2.0 - z[0]) ** 2 - 0.5 * math.log(2.0 * math.pi)

    status, out = fit(log_joint)
    assert status is Status.FINE
    assert out[[FitResult.MEAN, FitResult.DEVIATION, FitResult.ELBO]] == pytest.approx(
        [1.0, 1.0, -1.5], abs=1e-12
    )
    assert len(points) >= out[FitResult.EVALUATIONS] > 10


@pytest.mark.parametrize(
    ("value", "status"),
    [(math.nan, Status.NOT_A_NUMBER), (math.inf, Status.INFINITE), (-math.inf, Status.ZERO)],
)
def test_faults_of_a_log_joint_are_named_and_placed(value, status):
    log_joint = LOG_JOINT(lambda z, data: value if z[0] > 1.5 else -0.5 * z[0] ** 2)
    found, out = fit(log_joint)
    assert found is status
    assert out[FitResult.FAULT_AT] > 1.5
    # In the coordinate of the log joint, not in its logarithm.
    log_joint = LOG_JOINT(lambda z, data: value if z[0] < 0.2 else -0.5 * z[0] ** 2)
    found, out = fit(log_joint, support=Support.LOWER, low=0.0)
    assert found is status
    assert 0.0 < out[FitResult.FAULT_AT] < 0.2


def test_gaps_between_all_nodes_are_seen():
    """It was FINE, with an error of 4e-14."""
    log_joint = LOG_JOINT(lambda z, data: -math.inf if 0.3 < z[0] < 0.35 else -0.5 * z[0] ** 2)
    status, out = fit(log_joint)
    assert status is Status.ZERO
    assert 0.3 < out[FitResult.FAULT_AT] < 0.35
    assert out[FitResult.ERROR] == math.inf
    assert out[FitResult.MEAN] == pytest.approx(0.0, abs=1e-9)


def test_a_log_joint_that_outgrows_q_is_not_resolved():
    def doubly_exponential(z, data):
        return -math.exp(min(math.exp(min(0.3 * z[0], 9.0)), 700.0)) - 0.5 * z[0] ** 2

    status, out = fit(LOG_JOINT(doubly_exponential))
    assert status is Status.UNRESOLVED
    assert out[FitResult.ERROR] == math.inf
    assert math.isnan(out[FitResult.FAULT_AT])


def test_a_fit_that_does_not_converge_says_so():
    assert fit(LOG_JOINT(lambda z, data: z[0]))[0] is Status.UNBOUNDED
    status, out = fit(LOG_JOINT(lambda z, data: -math.sqrt(abs(z[0]))))  # with a kink
    assert status is Status.UNRESOLVED
    assert out[FitResult.ERROR] > 1e-10
    assert out[FitResult.MEAN] == pytest.approx(0.0, abs=1e-9)


def test_fit_refuses_arguments():
    nan, inf = math.nan, math.inf
    log_joint = LOG_JOINT(lambda z, data: -0.5 * z[0] ** 2)
    for wrong in [
        {"support": -1},
        {"support": 4},
        {"support": Support.LOWER, "low": inf},
        {"support": Support.LOWER, "low": nan},
        {"support": Support.UPPER, "high": -inf},
        {"support": Support.INTERVAL, "low": 1.0, "high": 1.0},
        {"support": Support.INTERVAL, "low": 1.0, "high": inf},
        {"mean": nan},
        {"mean": inf},
        {"scale": 0.0},
        {"scale": nan},
        {"rtol": 0.0},
        {"rtol": 1.0},
        {"rtol": nan},
    ]:
        status, out = fit(log_joint, **wrong)
        assert status is Status.BAD_ARGUMENT, wrong
        assert np.isnan(out).all()


def test_nothing_that_is_allocated_stays(counted):
    data = np.array([0.0, 0.0, 0.0, 0.4, 0.7])
    packed, z = cfuncs.user_data(gaussian(2, 1), gaussian(2, 2)), np.zeros(2)
    before = rtsys.get_allocation_stats()
    for _ in range(3):
        fit(compiled(carried_gaussian).address, data.ctypes.data)
        fit(LOG_JOINT(lambda z, data: math.nan))
        cfuncs.kl_integrand.ctypes(2, c(z), packed)
    after = rtsys.get_allocation_stats()
    assert after.alloc > before.alloc
    assert after.alloc - before.alloc == after.free - before.free
    assert after.mi_alloc - before.mi_alloc == after.mi_free - before.mi_free


# The functions as Python objects.


def test_a_function_is_made_once_and_kept(monkeypatch):
    monkeypatch.setattr(cfuncs, "_loaded", {})
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: cfuncs.total_variation, range(8)))
    assert len({id(function) for function in loaded}) == 1
    assert pickle.loads(pickle.dumps(loaded[0])) is loaded[0]
    assert ctypes.cast(loaded[0].ctypes, ctypes.c_void_p).value == loaded[0].address
    with pytest.raises(AttributeError, match="cannot be changed"):
        loaded[0].address = 0
    with pytest.raises(AttributeError, match="no attribute 'no_such_function'"):
        cfuncs.no_such_function  # noqa: B018
    assert {"kl", "fit_1d", "header"} <= set(dir(cfuncs))


def test_importing_compiles_nothing():
    run_program("load_cfuncs")


def test_all_functions_are_declared_everywhere():
    names = set(cfuncs._definitions.FUNCTIONS)
    text = cfuncs.header()
    assert set(re.findall(r"\(\*fastvi_(\w+)\)", text)) == names | {"log_joint", "values", "slopes"}
    assert names <= set(dir(cfuncs))
    for name in names:
        assert re.search(rf"\b{name}\b", cfuncs.__doc__), name


def test_declarations_fit_the_types_of_ctypes():
    kinds = {"int": ctypes.c_int, "int64_t": ctypes.c_int64, "double": ctypes.c_double}
    for name in ("entropy", "renyi", "kl_element", "pdf", "fit_1d"):
        function = getattr(cfuncs, name)
        result, parameters = re.fullmatch(rf"(\w+) {name}\((.*)\)", function.declaration).groups()
        assert function.ctypes.restype is kinds[result]
        for text, kind in zip(parameters.split(", "), function.ctypes.argtypes, strict=True):
            word = text.rpartition(" ")[0]
            if "double *" in text:
                assert kind is ctypes.POINTER(ctypes.c_double)
            elif "*" in text or "log_joint" in word:
                assert kind is ctypes.c_void_p
            else:
                assert kind is kinds[word]


# From C.


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    """A function that compiles a program with some flags, and gives the path of what it made."""
    names = [shlex.split(sysconfig.get_config_var("CC") or "cc")[0], "cc", "gcc", "clang"]
    cc = next(filter(None, map(shutil.which, names)), None)
    if cc is None or os.name != "posix":
        pytest.skip("no C compiler")
    place = tmp_path_factory.mktemp("c")
    (place / "fastvi.h").write_text(cfuncs.header())

    def compiled(source, target, *flags):
        path = place / target
        command = [
            cc,
            "-std=c99",
            "-O1",
            "-Wall",
            "-Werror",
            f"-I{place}",
            str(source),
            "-o",
            str(path),
            *flags,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        return path, done.stderr if done.returncode else ""

    return compiled


def embedding_flags():
    """How to compile and link a program with Python in it."""
    var = sysconfig.get_config_var
    version = f"{var('VERSION')}{sys.abiflags}"
    flags = [f"-I{sysconfig.get_path('include')}", f"-L{var('LIBDIR')}", f"-Wl,-rpath,{var('LIBDIR')}"]
    if not var("Py_ENABLE_SHARED"):
        flags += [f"-L{var('LIBPL')}", *shlex.split(var("LINKFORSHARED") or "")]
    return [*flags, f"-lpython{version}", *shlex.split(f"{var('LIBS') or ''} {var('SYSLIBS') or ''}"), "-lm"]


def test_a_c_program_that_embeds_python(compiler):
    _, trouble = compiler(PROGRAMS / "embedding_probe.c", "probe", *embedding_flags())
    if trouble:
        pytest.skip(f"Python cannot be embedded here: {trouble.splitlines()[-1]}")
    program, trouble = compiler(PROGRAMS / "embedding.c", "program", *embedding_flags())
    assert trouble == ""
    env = environment(
        PYTHONHOME=f"{sys.base_prefix}:{sys.base_exec_prefix}",
        PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
    )
    done = subprocess.run([program], env=env, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == 0
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    p, q = np.array([0.36, 0.48, 0.16]), np.array([0.30, 0.50, 0.20])
    for name, value in {
        "kl": fv.kl(p, q),
        "js": fv.js(p, q),
        "entropy": fv.entropy(np.array([3, 1, 0]), mass="normalize"),
    }.items():
        status, number = lines[name].split()
        assert (status, float(number)) == ("0", value)
    assert lines["counts"] == "1 nan"
    for name, value in {"mean": 1.0, "deviation": 1.0, "elbo": -1.5}.items():
        status, number = lines[name].split()
        assert status == "0"
        assert float(number) == pytest.approx(value, abs=1e-10)


def test_two_c_threads_at_once(compiler):
    library, trouble = compiler(PROGRAMS / "threads.c", "threads.so", "-shared", "-fPIC", "-pthread", "-lm")
    assert trouble == ""
    run = ctypes.CDLL(str(library)).in_two_threads
    run.argtypes = ctypes.c_void_p, ctypes.c_void_p
    assert run(cfuncs.kl.address, cfuncs.fit_1d.address) == 0
