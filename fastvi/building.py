"""Compiling kernels ahead, on all cores: into containers, for a level of CPUs, or into the user's cache."""

from __future__ import annotations

import fnmatch
import gc
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

from . import kernels
from .kernels import caching, container, signatures
from .kernels.compiler import EXPORTED, Lazily
from .kernels.signatures import Job

#: For each level, the CPU that LLVM compiles for, and features. Left to itself, LLVM uses half of the
#: registers of v4.
_TARGETS = {"v2": ("x86-64-v2", ""), "v3": ("x86-64-v3", ""), "v4": ("x86-64-v4", "-prefer-256-bit")}


def default_directory() -> Path:
    """Of the package if it can be written to, else of the user."""
    package: Path
    user: Path
    package, user = container.places()
    return package if os.access(package if package.exists() else package.parent, os.W_OK) else user


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def exported_kernels() -> dict[str, Any]:
    """All exported kernels by their names, made if they are not."""
    import_module(".compiled.operations", __package__)
    for module in walk_packages(kernels.__path__, f"{kernels.__name__}."):
        for value in list(vars(import_module(module.name)).values()):
            if isinstance(value, Lazily):
                list(value.values())
    found: dict[str, Any] = EXPORTED
    return found


@cache
def jobs() -> list[Job]:
    """Every kernel of a container."""
    divergences = kernels.discrete.divergences.KERNELS
    return list(signatures.jobs(exported_kernels(), divergences, kernels.c_functions.FUNCTIONS))


def _pool() -> ProcessPoolExecutor:
    """Processes that compile, on all cores.

    They collect garbage less often: numba makes so many objects that it takes 10% of the time otherwise.
    """
    return ProcessPoolExecutor(
        _cores(), get_context("spawn"), initializer=gc.set_threshold, initargs=(10_000, 10, 10)
    )


def types_of(job: Job) -> tuple[Any, ...]:
    """The types of the arguments of a kernel that is no C function."""

    def returned(name: str) -> Any:
        (maker,) = [other for other in jobs() if other.name == name]
        kernel, arguments = exported_kernels()[name], types_of(maker)
        kernel.compile(arguments)  # its thin form, which has all types
        return kernel.overloads[arguments].signature.return_type

    arguments: tuple[Any, ...] = signatures.decode(job.arguments or "", returned)
    return arguments


def compile_job(job: Job) -> tuple[float, dict[tuple[str, str], Any]]:
    """Compile one kernel, in this process: (CPU seconds, as the list has them, entries for a container)."""
    started = time.process_time()
    caching.collected = {}
    try:
        if job.arguments is None:
            kernels.c_functions.make(job.name.rpartition(".")[2])
        else:
            exported_kernels()[job.name].full.compile(types_of(job))
        return time.process_time() - started, caching.collected
    finally:
        caching.collected = None


def compile_jobs(group: list[Job]) -> list[tuple[float, dict[tuple[str, str], Any]]]:
    """Compile several kernels, in this process."""
    return [compile_job(job) for job in group]


#: What one process compiles together, by rooms of kernels: they share most of what they call, which is typed
#: and lowered once in a process. And a module whose kernels an operation of projections calls.
_TOGETHER = {"inference": "inference", "projections": "projections", "quadrature": "projections", "em": "em"}
_OF_PROJECTIONS = "densities.bounds"

#: Operations of compiled code whose kernels are of inference; those of the others are of projections.
_OF_INFERENCE = ("elbo", "fit", "fit_from", "log_evidence")

#: The forms of the kernel of a divergence.
_FORMS = re.compile(r"_?(?:log_)?(.+?)(?:_rows|_partial|_finish|_element)?")


def _together(job: Job) -> str:
    """A name of the jobs that one process compiles together with this one."""
    room, _, rest = job.name.partition(".")
    name = rest.rpartition(".")[2]
    if room == "compiled":
        return "inference" if name in _OF_INFERENCE else "projections"
    if job.name == "c_functions.fit_1d":
        return "inference"
    if job.name.startswith(_OF_PROJECTIONS):
        return "projections"
    forms = _FORMS.fullmatch(name)
    if room in ("c_functions", "discrete") and forms and forms[1] in kernels.discrete.divergences.KERNELS:
        return forms[1]
    return _TOGETHER.get(room, f"{job.name} {job.arguments}")


def _groups(chosen: list[Job]) -> list[list[Job]]:
    """What one process compiles together, longest first: operations with the kernels that they call."""
    groups: dict[str, list[Job]] = {}
    for job in chosen:
        groups.setdefault(_together(job), []).append(job)
    # An operation comes after the kernels that it calls, which it would compile.
    ordered = [sorted(group, key=lambda job: job.name.startswith("compiled.")) for group in groups.values()]
    return sorted(ordered, reverse=True, key=lambda group: sum(job.seconds for job in group))


def missing(names: Collection[str]) -> list[Job]:
    """The jobs, in float64, of those of these kernels that would be compiled and kept on disk."""
    exported = exported_kernels()

    def is_missing(name: str) -> bool:
        kernel = exported[name].full
        empty: bool = kernel._cache.is_empty(kernel.targetctx)
        return empty

    wanted = {name for name in names if is_missing(name)}
    return [job for job in jobs() if job.name in wanted and "f4" not in (job.arguments or "")]


def _compile_in_full(group: list[Job]) -> None:
    for job in group:
        exported_kernels()[job.name].full.compile(types_of(job))


def compile_into_cache(
    jobs: list[Job],
    programs: Mapping[Callable[[], None], float],
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Compile kernels into the user's cache, and beside them call programs, with the seconds that each takes.

    `progress` is called with the share that is done.
    """
    sizes = dict(programs)
    sizes |= {partial(_compile_in_full, group): sum(job.seconds for job in group) for group in _groups(jobs)}
    done, total = 0.0, sum(sizes.values())
    with (
        _environment({caching.QUIET: "1"}),
        _pool() as pool,
    ):
        running = {pool.submit(task): task for task in sorted(sizes, reverse=True, key=sizes.__getitem__)}
        for future in as_completed(running):
            future.result()
            done += sizes[running[future]]
            progress(done / total)


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Processes that start meanwhile have these variables; None leaves one as it is."""
    before = {variable: os.environ.get(variable) for variable in changes}
    os.environ.update({variable: value for variable, value in changes.items() if value is not None})
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


def _compiling_for(level: str) -> AbstractContextManager[None]:
    """Processes that start meanwhile compile for a level."""
    name, features = _TARGETS.get(level, (None, None))
    return _environment({"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features})


def build(
    directory: Path,
    level: str = container.HOST,
    progress: Callable[[float], None] = lambda share: None,
    only: Collection[str] = ("*",),
) -> Path:
    """Make the container of a level in a directory, and return its path.

    `progress` is called with the share that is done; `only` has patterns of "name arguments" of kernels.
    """
    chosen = [
        job for job in jobs() if any(fnmatch.fnmatch(f"{job.name} {job.arguments}", one) for one in only)
    ]
    container.source_digest()  # of what is compiled, whatever is edited meanwhile
    groups = _groups(chosen)
    total, done = sum(job.seconds for job in chosen), 0.0
    entries: dict[tuple[str, str], Any] = {}
    path = directory / f"{level}.fvk"
    with (
        _compiling_for(level),
        _pool() as pool,
    ):
        running = {pool.submit(compile_jobs, group): group for group in groups}
        for future in as_completed(running):
            for _, found in future.result():
                entries.update(found)
            done += sum(job.seconds for job in running[future])
            progress(done / total)
    container.write(path, level, entries)
    container.reset()
    return path
