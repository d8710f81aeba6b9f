"""The table of fastvi against its peers: ``python -m bench.peers``, or with parts of the names of rows.

Contenders run alternately, a few milliseconds each, so that a change of the clock or of the machine's load
affects all of them. The minimum of each counts; the median shows how steady it was. Each comparison has a
process of its own, which leaves no threads to the next; one that dies costs its own rows (the runtime of
Stan's compiler ends the process where JAX was at work before it).

For a CPU without AVX-512: ``NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES= python -m bench.peers``.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import multiprocessing
import platform
import statistics
import sys
import time
import timeit
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import llvmlite.binding
import numba

import fastvi as fv

from .comparisons import COMPARISONS
from .contenders import Comparison, UnavailableError, error_of, ours_on, prepared, ready, use_threads

ROUNDS = 5  #: at least
SECONDS = 3.0  #: of a comparison, if that makes more rounds
SLICE = 0.005  #: seconds: short calls are repeated for so long


@dataclass(frozen=True)
class Measured:
    seconds: float = 0.0  #: the minimum
    median: float = 0.0
    error: float | None = None  #: None if the result is not the same quantity
    missing: str = ""  #: why there is no measurement


#: By (work, name of the contender).
Measurements = dict[tuple[str, str], Measured]


def measure(comparison: Comparison) -> Measurements:
    arguments, exact = prepared(comparison)
    results: Measurements = {}
    runners = []
    for contender in comparison.contenders():
        try:
            function = ready(contender)
        except UnavailableError as reason:
            results[comparison.work, contender.name] = Measured(missing=str(reason))
            continue
        error = error_of(comparison, contender, function(*arguments), exact)  # this call compiles
        timer = timeit.Timer(lambda function=function: function(*arguments))
        once = min(timer.repeat(3, 1))
        runners.append((contender, error, timer, max(1, int(SLICE / once))))

    times: list[list[float]] = [[] for _ in runners]
    end = time.perf_counter() + SECONDS
    for rounds in itertools.count(1):
        for i, (contender, _, timer, number) in enumerate(runners):
            use_threads(contender)
            times[i].append(timer.timeit(number) / number)
        if rounds >= ROUNDS and time.perf_counter() > end:
            break
    for (contender, error, _, _), seconds in zip(runners, times, strict=True):
        measured = Measured(min(seconds), statistics.median(seconds), error)
        results[comparison.work, contender.name] = measured
    return results


def _measure(number: int) -> Measurements:
    return measure(COMPARISONS[number])


def measure_alone(number: int) -> Measurements:
    """What `measure` says of one of `COMPARISONS` in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, number).result()
        except BrokenProcessPool:
            comparison = COMPARISONS[number]
            died = Measured(missing="the process died")
            return {(comparison.work, contender.name): died for contender in comparison.contenders()}


def report(results: Measurements) -> str:
    """A Markdown table of the measurements and their circumstances; ratios are of minima."""
    lines = [
        "| work | peer | ratio | wanted | fastvi: min (median) | error | peer: min (median) | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for comparison in COMPARISONS:
        for peer in comparison.peers:
            for threads, wanted in itertools.zip_longest(comparison.threads, peer.wanted):
                ours = results.get((comparison.work, ours_on(threads)))
                theirs = results.get((comparison.work, peer.name))
                if ours is None or theirs is None:
                    continue  # deselected
                work = comparison.work if threads == 1 else f"{comparison.work}, {threads} threads"
                cells = (work, peer.name, *_cells(ours, theirs, wanted))
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", circumstances()])


def _cells(ours: Measured, theirs: Measured, wanted: float | None) -> tuple[str, ...]:
    goal = "" if wanted is None else f"{wanted:g}"
    if ours.missing or theirs.missing:
        return "", goal, *_time_and_error(ours), *_time_and_error(theirs)
    ratio = theirs.seconds / ours.seconds
    if wanted is not None and ratio < wanted:
        goal += " (missed)"
    return f"{ratio:.3g}", goal, *_time_and_error(ours), *_time_and_error(theirs)


def _time_and_error(measured: Measured) -> tuple[str, str]:
    if measured.missing:
        return measured.missing, ""
    return f"{in_words(measured.seconds)} ({in_words(measured.median)})", _error(measured.error)


def in_words(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"


#: Packages whose versions a report names.
PACKAGES = (
    "numba",
    "llvmlite",
    "numpy",
    "scipy",
    "numkong",
    "numexpr",
    "scikit-learn",
    "jax",
    "numpyro",
    "nutpie",
    "pymc",
    "pymc-extras",
    "stanli",
    "torch",
)


def circumstances() -> str:
    """Date, CPU, threads and versions."""
    versions = [f"fastvi {fv.__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {_version(name)}" for name in PACKAGES]
    threads = numba.config.NUMBA_NUM_THREADS
    return (
        f"{datetime.date.today()}, {_processor()}, {threads} threads available, one used unless said. "
        f"{', '.join(versions)}."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _processor() -> str:
    """Name of the CPU, and of the CPU that the kernels are compiled for."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name} ({numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("work", nargs="*", help="part of the name of the work in a row (default: all)")
    parts = parser.parse_args().work
    results: Measurements = {}
    for number, comparison in enumerate(COMPARISONS):
        if not parts or any(part in comparison.work for part in parts):
            print(comparison.work, file=sys.stderr, flush=True)
            results |= measure_alone(number)
    print(report(results))


if __name__ == "__main__":
    main()
