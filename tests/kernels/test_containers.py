"""Kernels in machine code: their symbols, containers and the user's cache, sound and damaged."""

import inspect
import io
import json
import random
import re
import stat
import sys
import warnings

import numba
import pytest
from numba import types

import fastvi as fv
from fastvi import building, cli
from fastvi.compiled import operations
from fastvi.kernels import caching, compiler, container, signatures
from fastvi.kernels.dispatchers import Kernel
from helpers.elf import symbols
from helpers.forms import compiled_only
from helpers.programs import run_program

pytestmark = compiled_only

OPTIONS = {"nopython": True, "boundscheck": None, "error_model": "numpy", "nogil": True}


def twice(x):
    return 2.0 * x


def new_kernel():
    """A kernel that nothing has been compiled for, with the cache on disk."""
    made = Kernel(twice, targetoptions=OPTIONS)
    made.cached = True
    return made


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An empty cache directory, and no containers but those in it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(container, "places", lambda: [tmp_path / "prebuilt"])
    monkeypatch.delenv(container.SWITCH, raising=False)
    container.reset()
    yield tmp_path
    container.reset()


def hits(made):
    return sum(made.stats.cache_hits.values())


# Symbols.


def object_of(dispatcher, *arguments):
    dispatcher.full.compile(arguments)
    (result,) = [r for kinds, r in dispatcher.full.overloads.items() if kinds == arguments]
    return result, caching.reduced(result)[1]


OBJECTS = (
    "discrete.divergences.kl",
    "discrete.entropies.cross_entropy",
    "projections.mixture_projections.m_projection",
)


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_has_one_entry_and_no_weak_symbols(name, directory):
    job = next(job for job in building.jobs() if job.name == name)
    found = building.exported_kernels()[name]
    made = Kernel(found.py_func, targetoptions=found.targetoptions)
    made.cached = True
    result, code = object_of(made, *building.types_of(job))
    defined = [symbol for symbol in symbols(code) if symbol.defined]
    assert {symbol.binding for symbol in defined} == {"local", "global"}
    # The function, its two wrappers, and the variable that numba sets.
    entry = result.fndesc.mangled_name
    names = {symbol.name for symbol in defined if symbol.binding == "global"}
    assert names == {
        entry,
        result.fndesc.llvm_cpython_wrapper_name,
        result.fndesc.llvm_cfunc_wrapper_name,
        result.fndesc.env_name,
    }
    assert re.search(r"vfastvi[0-9a-f]{32}", entry)
    # The loader would take a local function for a weak one of that name in another object.
    assert not [s.name for s in defined if s.binding == "local" and s.name.startswith("_ZN")]
    missing = [symbol.name for symbol in symbols(code) if not symbol.defined]
    assert not [name for name in missing if name.startswith("_ZN")], missing


def test_a_namesake_of_an_inner_function_is_not_called_in_its_place(tmp_path):
    changes = {"NUMBA_CACHE_DIR": tmp_path}
    assert run_program("colliding", "make", **changes) == "4000.0 0\n"
    assert run_program("colliding", "load", **changes) == "4000.0 1\n"


def test_a_function_within_a_kernel_is_not_taken_for_that_of_a_user():
    assert run_program("full_then_thin") == "fine\n"


# The user's cache.


def test_a_kernel_comes_from_the_cache_of_an_earlier_one(directory):
    first, second = new_kernel(), new_kernel()
    assert first(3.0) == second(3.0) == 6.0
    assert (hits(first), hits(second)) == (0, 1)


def test_other_sources_or_options_are_other_kernels(directory, monkeypatch):
    new_kernel()(1.0)
    monkeypatch.setattr(container, "source_digest", lambda: "other")
    other = new_kernel()
    assert (other(1.0), hits(other)) == (2.0, 0)
    monkeypatch.setattr(numba.config, "SLP_VECTORIZE", 1 - numba.config.SLP_VECTORIZE)
    other = new_kernel()
    assert (other(1.0), hits(other)) == (2.0, 0)


def damages(data):
    """Ways to damage a file: (name, what is then in it)."""
    rng = random.Random(20261126)
    yield "empty", b""
    yield "garbage", bytes(rng.randrange(256) for _ in range(len(data)))
    for share in (0.01, 0.3, 0.9):
        yield f"cut at {share}", data[: int(share * len(data))]
    for _ in range(25):
        at = rng.randrange(len(data))
        yield f"byte {at}", data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_file_of_the_cache_costs_a_compilation(suffix, directory):
    new_kernel()(1.0)
    (path,) = directory.rglob(f"*{suffix}")
    sound = path.read_bytes()
    for what, data in damages(sound):
        path.write_bytes(data)
        made = new_kernel()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert made(3.0) == 6.0, what
        assert all(str(path) in str(w.message) and "damaged" in str(w.message) for w in told), what
        assert len(told) == 1, what
        assert hits(made) == 0, what
        # It is sound again.
        again = new_kernel()
        assert (again(3.0), hits(again)) == (6.0, 1), what


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("quiet", [False, True])
def test_a_person_is_told_once_that_a_kernel_compiles(quiet, directory, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(caching, "_PATIENCE", 0.0)
    monkeypatch.setattr(caching._Notice, "_told", False)
    monkeypatch.setenv(caching.QUIET, "1") if quiet else monkeypatch.delenv(caching.QUIET, raising=False)
    kernel = new_kernel()
    assert (kernel(1.0), kernel(1)) == (2.0, 2)
    assert terminal.getvalue().count("fastvi is compiling") == (0 if quiet else 1)
    assert quiet or "`fastvi compile`" in terminal.getvalue()


@pytest.mark.parametrize("kept", [False, True])
def test_what_can_be_kept_compiles_once_on_this_machine(kept, directory, monkeypatch):
    def nowhere(function):
        raise RuntimeError("no place to write to")

    if not kept:
        monkeypatch.setattr(caching, "_UserCache", nowhere)
    cache = caching.KernelCache(twice)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(caching._Notice, "_told", False)
    cache._notice._tell()
    told = {True: "once on this machine", False: "in each process"}
    assert (told[kept] in terminal.getvalue(), told[not kept] in terminal.getvalue()) == (True, False)


def test_nobody_is_told_where_there_is_no_terminal(directory, monkeypatch, capsys):
    monkeypatch.setattr(caching, "_PATIENCE", 0.0)
    monkeypatch.setattr(caching._Notice, "_told", False)
    assert new_kernel()(1.0) == 2.0
    assert capsys.readouterr().err == ""


# Containers.


@pytest.fixture
def made(directory, monkeypatch):
    """A container of this machine with one kernel: its path."""
    monkeypatch.setattr(caching, "collected", {})
    new_kernel()(1.0)
    path = directory / "prebuilt" / f"{container.HOST}.fvk"
    container.write(path, container.HOST, caching.collected)
    monkeypatch.setattr(caching, "collected", None)
    return path


def test_a_kernel_comes_from_the_container(made, directory):
    kernel = new_kernel()
    assert (kernel(3.0), hits(kernel)) == (6.0, 1)
    assert not list(directory.rglob("*.nbc"))
    assert str(made) in container.describe()
    # In other types it is compiled.
    assert kernel(3) == 6.0
    assert list(directory.rglob("*.nbc"))


@pytest.mark.parametrize("name", ["numba", "llvmlite", "python", "numpy", "platform", "options", "sources"])
def test_a_container_for_other_conditions_is_not_used(name, made, monkeypatch):
    conditions = container.conditions()
    monkeypatch.setattr(container, "conditions", lambda: {**conditions, name: "another"})
    kernel = new_kernel()
    assert (kernel(3.0), hits(kernel)) == (6.0, 0)
    assert f"made for {name}" in container.describe()


def test_a_container_for_another_cpu_is_not_used(made, monkeypatch):
    monkeypatch.setattr(container, "cpu", lambda: "another")
    kernel = new_kernel()
    assert (kernel(3.0), hits(kernel)) == (6.0, 0)


def test_containers_are_not_used_where_they_are_switched_off(made, monkeypatch):
    monkeypatch.setenv(container.SWITCH, "off")
    kernel = new_kernel()
    assert (kernel(3.0), hits(kernel)) == (6.0, 0)


@pytest.mark.parametrize("which", ["file", "directory"])
def test_a_container_that_others_can_write_to_is_not_read(which, made):
    path = made if which == "file" else made.parent
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    kernel = new_kernel()
    assert (kernel(3.0), hits(kernel)) == (6.0, 0)
    assert "others can write" in container.describe()


def test_a_damaged_container_costs_a_compilation(made):
    sound = made.read_bytes()
    for what, data in damages(sound):
        made.write_bytes(data)
        container.reset()
        kernel = new_kernel()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert kernel(3.0) == 6.0, what
        assert [str(made) in str(w.message) for w in told] == [True], what
        for file in made.parent.parent.rglob("*.nb?"):
            file.unlink()


def test_levels():
    usable = container.usable_levels()
    assert usable == list(container.LEVELS)[len(container.LEVELS) - len(usable) :]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What the compiler gives."""
    cache = tmp_path_factory.mktemp("cache")
    found = json.loads(run_program("load_at_once", NUMBA_CACHE_DIR=cache, FASTVI_CONTAINER="off"))
    assert found.pop("hits") == 0
    return found


@pytest.mark.parametrize("level", [container.HOST, *container.usable_levels()])
def test_each_level_gives_what_the_compiler_gives(level, expected, tmp_path, monkeypatch):
    """Loaded by four threads at once, and by a fork."""
    # A process takes as long to start as a kernel to compile.
    monkeypatch.setattr(building, "_cores", lambda: 1)
    compiled = tmp_path / "compiled"
    some = ["*.js_many f8*", "*.mixture_logpdf_many f8*", "*gaussians.gaussian_kl f8*"]
    path = building.build(compiled / "fastvi-prebuilt", level, only=some)
    assert path.name == f"{level}.fvk"
    loaded = json.loads(run_program("load_at_once", "compiled", NUMBA_CACHE_DIR=compiled))
    assert loaded.pop("hits") == 2
    for name, value in expected.items():
        assert abs(loaded[name] - value) <= 1e-14 * abs(value), name
    # With registers of 512 bits, sums are made in the same order.
    if level in (container.HOST, "v4"):
        assert loaded == expected
    assert not list(compiled.rglob("*.nbc"))


# Ahead, into the user's cache.


def test_kernels_are_compiled_ahead_into_the_users_cache(directory, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(directory))
    kernels, name = building.exported_kernels(), "densities.grids.trapezoid"
    function, options = kernels[name].py_func, kernels[name].targetoptions

    def missing():
        made = Kernel(function, targetoptions=options)
        made.cached = True
        monkeypatch.setitem(kernels, name, made)
        return building.missing([name])

    (job,) = missing()
    assert job.name == name
    shares = []
    building.compile_into_cache([job], {}, shares.append)
    assert shares == [1.0]
    assert list(directory.rglob("*.nbc"))
    assert missing() == []


def test_what_a_container_has_or_nobody_keeps_is_not_missing(made, monkeypatch):
    context = new_kernel().full.targetctx
    assert not caching.KernelCache(twice).is_empty(context)
    monkeypatch.setattr(container, "has", lambda name: False)
    assert caching.KernelCache(twice).is_empty(context)
    cache = caching.KernelCache(twice)
    cache._user = caching.NullCache()
    assert not cache.is_empty(context)


@pytest.mark.parametrize("obstacle", ["Kernel", "DISABLE_JIT"])
def test_nothing_is_suggested_where_nothing_can_be_compiled_ahead(obstacle, directory, monkeypatch, capsys):
    if obstacle == "Kernel":
        monkeypatch.setattr(compiler, "Kernel", None)
    else:
        monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert "fastvi compile" not in cli.info()
    with pytest.raises(SystemExit):
        cli.main(["compile"])
    assert "nothing can be compiled ahead" in capsys.readouterr().err


# The list.


def test_types_are_listed_as_text():
    kinds = (
        types.float64,
        types.int64,
        types.boolean,
        types.none,
        types.Array(types.float64, 2, "C"),
        types.Array(types.float32, 1, "C", readonly=True),
        types.Tuple(
            (types.float64, types.UniTuple(types.float64, 2), types.Tuple((types.int64, types.boolean)))
        ),
        types.Tuple(()),
    )
    assert signatures.decode("(@x i8)", lambda name: types.none) == (types.Tuple((types.none, types.int64)),)
    assert signatures.decode(" ".join(map(signatures.encode, kinds))) == kinds
    with pytest.raises(ValueError, match="no kernel of a container takes complex128"):
        signatures.encode(types.complex128)


def test_every_exported_kernel_is_in_the_list():
    listed = {job.name for job in building.jobs()}
    exported = building.exported_kernels()
    assert len(exported) > 100
    assert listed == set(exported) | {f"c_functions.{name}" for name in fv.kernels.c_functions.FUNCTIONS}


def called_by(function):
    """Paths of the kernels that an operation of compiled code calls, also within kernels of its module."""
    for name in function.__code__.co_names:
        if name in PATHS:
            yield PATHS[name]
        elif name.startswith("_") and isinstance(inner := vars(operations).get(name), Kernel):
            yield from called_by(inner.py_func)


PATHS = dict(re.findall(r'^(_\w+) = external\("kernels\.([\w.]+)"\)', inspect.getsource(operations), re.M))


def test_an_operation_is_compiled_after_the_kernels_that_it_calls_in_their_process():
    """Elsewhere it compiles them once more: a reduction of mixtures took 55 s instead of one.

    Kernels that compile within a second have groups of their own.
    """
    exported, seconds = building.exported_kernels(), {job.name: job.seconds for job in building.jobs()}
    groups = building._groups(building.jobs())
    for group in groups:
        names = [job.name for job in group]
        for name in names:
            if name.startswith("compiled."):
                called = set(called_by(exported[name].py_func))
                assert called
                missing = called - set(names[: names.index(name)])
                assert not {kernel for kernel in missing if seconds[kernel] > 1.0}, name
    assert sorted(job for group in groups for job in group) == sorted(building.jobs())


def test_a_job_makes_an_entry():
    (job,) = [job for job in building.jobs() if job.name == "c_functions.entropy"]
    seconds, entries = building.compile_job(job)
    assert seconds > 0.0
    assert [name for name, _ in entries] == [job.name]
