"""Making containers: every kernel of `kernels.signatures`, compiled for a level of CPUs on all cores."""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cache
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

LEVELS = (container.HOST, *_TARGETS)


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


#: The rooms whose kernels the operations of compiled code call; of the others, those of inference.
_ROOMS = {"gaussian_kl": "quadrature", "mixture_kl": "quadrature"}
_ROOMS |= {"i_projection": "projections", "m_projection": "projections"}


def _groups(chosen: list[Job]) -> list[list[Job]]:
    """What one process compiles together, longest first: operations with the kernels that they call."""
    groups: dict[str, list[Job]] = {}
    for job in chosen:
        room, _, rest = job.name.partition(".")
        if room == "compiled":
            room = _ROOMS.get(rest.rpartition(".")[2], "inference")
        together = room in ("inference", "projections", "quadrature")
        groups.setdefault(room if together else f"{job.name} {job.arguments}", []).append(job)
    # An operation comes after the kernels that it calls, which it would compile.
    ordered = [sorted(group, key=lambda job: job.name.startswith("compiled.")) for group in groups.values()]
    return sorted(ordered, reverse=True, key=lambda group: sum(job.seconds for job in group))


@contextmanager
def _compiling_for(level: str) -> Iterator[None]:
    """Processes that start meanwhile compile for a level."""
    name, features = _TARGETS.get(level, (None, None))
    changes = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    before = {variable: os.environ.get(variable) for variable in changes}
    if name is not None:
        os.environ.update({variable: value for variable, value in changes.items() if value is not None})
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


def build(
    directory: Path,
    level: str = container.HOST,
    progress: Callable[[float], None] = lambda share: None,
    only: str = "*",
) -> Path:
    """Make the container of a level in a directory, and return its path.

    `progress` is called with the share that is done; `only` is a pattern of the names of kernels.
    """
    chosen = [job for job in jobs() if fnmatch.fnmatch(job.name, only)]
    container.source_digest()  # of what is compiled, whatever is edited meanwhile
    groups = _groups(chosen)
    total, done = sum(job.seconds for job in chosen), 0.0
    entries: dict[tuple[str, str], Any] = {}
    path = directory / f"{level}.fvk"
    with (
        _compiling_for(level),
        ProcessPoolExecutor(_cores(), get_context("spawn")) as pool,
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
