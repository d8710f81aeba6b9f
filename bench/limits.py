"""How far each hot loop is from the limit of the machine: ``python -m bench.limits``.

Measured in the same run, on one thread: reading (np.dot on arrays of the same size, so from the same cache or
memory); a vector division, a root, the elementary logarithm and exponential, and a log joint, each alone and
in cache; for all pairs of rows the BLAS. The floor of a loop is the larger of two times: to read its arrays,
and to execute the costly operations of its formula.
"""

from __future__ import annotations

import math
import time
import timeit
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np

import fastvi as fv
from fastvi import kernels
from fastvi.kernels.compiler import adder
from fastvi.kernels.discrete.registry import ROWS
from fastvi.kernels.numerics import elementary

from . import em, inference, inputs, projections
from .bench_arrays import CALLS
from .peers import circumstances

#: Loops that take more than this times their floor are marked.
FAR = 2.0

SECONDS = 0.5  #: of a measurement
SLICE = 0.002  #: seconds: short calls are repeated for so long


def least(function: Callable[[], Any]) -> float:
    """The least CPU time of a call in seconds, which on one thread hardly depends on the load."""
    timer = timeit.Timer(function, timer=time.process_time)
    once = max(min(timer.repeat(3, 1)), 1e-7)
    number = max(1, int(SLICE / once))
    return min(timer.repeat(max(3, int(SECONDS / (number * once))), number)) / number


# The operations, in seconds per entry: sums over arrays that stay in the first-level cache.


@adder
def _divide(x, y):
    total = x.dtype.type(0.0)
    for i in range(x.size):
        total += x[i] / y[i]
    return total


@adder
def _root(x, y):
    total = x.dtype.type(0.0)
    for i in range(x.size):
        total += np.sqrt(x[i])
    return total


@adder
def _logarithm(x, y):
    total = 0.0
    for i in range(x.size):
        total += elementary.log(x[i])
    return total


@adder
def _exponential(x, y):
    total = 0.0
    for i in range(x.size):
        total += elementary.decay(-x[i])
    return total


def _again(unit: Any) -> Any:
    """A hundred calls in one, so that the time of Python's call is negligible."""

    @numba.njit
    def hundred(x, y):
        total = 0.0
        for _ in range(100):
            x[0] += 1e-9  # without a change LLVM merges all calls
            total += unit(x, y)
        return total

    return hundred


def per_entry(unit: Any, dtype: str = "float64") -> float:
    size = 1024
    x, y = (np.linspace(1.0, 2.0, size).astype(dtype) for _ in "xy")
    hundred = _again(unit)
    hundred(x, y)
    return least(lambda: hundred(x, y)) / (100 * size)


UNITS = {"division": _divide, "root": _root, "log": _logarithm, "exp": _exponential}


@dataclass(frozen=True)
class Loop:
    """A piece of work, and the operations of an entry (a pair, a node, a data point and component) of it."""

    name: str
    run: Callable[[], Any]
    entries: int
    needs: dict[str, float]
    read: Callable[[], Any] | None = None  #: reads the arrays once, or is another floor
    dtype: str = "float64"
    reader: str = "reading"


def reading(*arrays: Any) -> Callable[[], Any]:
    """np.dot of two arrays, or of the halves of one."""
    flat = [np.ravel(a) for a in arrays]
    if len(flat) == 1:
        middle = flat[0].size // 2
        flat = [flat[0][:middle], flat[0][middle : 2 * middle]]
    return lambda: np.dot(*flat)


#: Operations of an entry, from the registry; a logarithm contains a division.
NEEDS = {name: Counter(row.needs.split()) for name, row in ROWS.items()}
NEEDS["kl_grad"] = Counter(("log", "division"))


def arrays() -> list[Loop]:
    loops = []
    for name, call in CALLS.items():
        needs = NEEDS[name]
        for n, dtype in ((10_000, "float64"), (1_000_000, "float64"), (1_000_000, "float32")):
            p, q = inputs.pair(n, dtype=dtype)
            read = reading(p) if name in ROWS and ROWS[name].arrays == 1 else reading(p, q)
            # There is no elementary logarithm or exponential in float32: a division is the floor.
            single = dict.fromkeys(["division"] if needs else [], 1.0)
            loops.append(
                Loop(
                    f"{name}, {dtype}, n = {n:,}",
                    partial(call, p, q),
                    n,
                    needs if dtype == "float64" else single,
                    read,
                    dtype,
                )
            )
    p, q = inputs.pair(10_000_000)
    loops.append(Loop("kl, float64, n = 10,000,000", partial(fv.kl, p, q), p.size, {"log": 1}, reading(p, q)))
    return loops


def tables() -> list[Loop]:
    p, q = inputs.pair((20_000, 256))
    loops = [Loop("kl by rows, 20,000 x 256", partial(fv.kl, p, q), p.size, {"log": 1}, reading(p, q))]
    p, q = inputs.pair((400, 256), (300, 256))
    pairs = len(p) * len(q) * p.shape[1]

    def product():
        return np.dot(p, q.T)

    for metric in ("kl", "js", "hellinger"):
        needs = {"log": 1} if metric == "js" else {}
        reader = "reading" if needs else "the BLAS"
        read = reading(p, p) if needs else product
        loops.append(
            Loop(
                f"pairwise {metric}, 400 x 300 x 256",
                partial(fv.pairwise, p, q, metric),
                pairs,
                needs,
                read,
                reader=reader,
            )
        )
    return loops


def grids() -> list[Loop]:
    grid = projections.grid()
    wide = np.zeros(2), 2.4 * np.eye(2)  # its ellipse covers the whole grid
    out = np.empty(2), np.empty((2, 2)), kernels.grids.workspace()
    run = partial(kernels.grids.grid_reverse_kl, *grid._arrays, *wide, *out)
    return [
        Loop("KL(q ‖ p) and gradient, 201 x 201", run, grid.logp.size, {"exp": 1}, reading(grid.logp)),
    ]


def mixtures() -> list[Loop]:
    """A node of a lattice takes K - 1 exponentials and one logarithm.

    A mixture of two takes nodes on contours, each with two exponentials, a cosine and a sine as costly as
    these, two roots and three divisions.
    """
    loops = []
    for count in (2, 3, 8):
        p = projections.ring(count)
        arguments = np.log(p.weights), p.means, np.linalg.cholesky(p.covs), kernels.newton.FULL
        space, report = kernels.projections.workspace(count, 2), np.empty(5)
        mean, factor = np.empty(2), np.empty((2, 2))

        def project(arguments=arguments, mean=mean, factor=factor, space=space, report=report):
            mean[:], factor[:] = arguments[1][-1], arguments[2][-1]
            kernels.projections.i_projection(*arguments, mean, factor, 1e-8, space, report)

        project()
        needs = {"exp": count - 1.0, "log": 1.0} if count > 2 else {"exp": 4, "root": 2, "division": 3}
        what = "nodes" if count > 2 else "nodes on contours"
        loops.append(Loop(f"one I-projection, K = {count}, {what}", project, int(report[3]), needs))
    return loops


def products() -> list[Loop]:
    rounds, values = 10, 30
    table = np.random.default_rng(20240229).dirichlet(np.ones(values**3))
    shape = np.full(3, values)
    offsets = values * np.arange(3)
    q, log_p = np.full(3 * values, 1.0 / values), np.log(table)
    scratch = np.empty(3, np.int64), np.empty(values), np.empty(rounds)

    def ascend():
        kernels.projections.mean_field.mean_field(log_p, shape, offsets, q, 0.0, rounds, *scratch)

    read = reading(log_p, table)

    def sweeps():
        for _ in range(3 * rounds // 2):  # `read` reads two arrays
            read()

    name = f"mean field, {values}**3 table, entry and update"
    return [Loop(name, ascend, 3 * rounds * log_p.size, {}, sweeps)]


def fits() -> list[Loop]:
    """Entries are evaluations of the log joint; the floor is the time of calling it."""
    worked = numba.njit(inference.worked)
    grad = numba.njit(inference.schools_grad)

    @numba.njit
    def call_worked(points, x):
        total = 0.0
        for i in range(points.shape[0]):
            total += worked(points[i], x)
        return total

    @numba.njit
    def call_schools(points, gradient, y, s):
        total = 0.0
        for i in range(points.shape[0]):
            total += grad(points[i], gradient, y, s)
        return total

    def evaluations(count, call, dim, *data):
        points = np.random.default_rng(1).random((1000, dim))
        call(points, *data)

        def run():
            for _ in range(max(1, count // 1000)):
                call(points, *data)

        return run

    loops = []
    model = fv.Model(inference.worked, 1, data=(5.0,))
    q = fv.fit(model).q
    count = fv.elbo(model, q).evaluations
    read = evaluations(count, call_worked, 1, 5.0)
    loops.append(
        Loop("elbo, worked example", partial(fv.elbo, model, q), count, {}, read, reader="log joint")
    )
    half = fv.Model(inference.worked, 1, data=(1.0,), support="positive")
    (x,) = inference.observations()
    count = int(fv.fit_batch(half, (x,), "diag").evaluations.sum())
    read = evaluations(count, call_worked, 1, 5.0)
    run = partial(fv.fit_batch, half, (x,), "diag")
    # The transform to log z takes an exponential at each node.
    loops.append(Loop(f"{len(x):,} fits in log z", run, count, {"exp": 1}, read, reader="log joint"))
    model = inference.schools_model(True)
    count = fv.fit(model, "diag").evaluations
    read = evaluations(count, call_schools, 10, np.empty(10), inference.EFFECTS, inference.ERRORS)
    run = partial(fv.fit, model, "diag")
    loops.append(Loop("fit of eight schools, with a gradient", run, count, {}, read, reader="log joint"))
    return loops


def mixture_fits() -> list[Loop]:
    """A point and step takes K - 1 exponentials, and 32 points take one logarithm."""
    n, steps = 100_000, 10
    loops = []
    for k in (2, 5):
        x, start = em.clouds(n, k, 3)
        run = partial(fv.fit_mixture, x, k, start=start, tol=0.0, max_iterations=steps)
        entries = n * k * (steps + 1)
        needs = {"exp": (k - 1) / k, "log": 1 / (32 * k)}
        loops.append(Loop(f"EM, n = {n:,}, K = {k}, d = 3, point and component", run, entries, needs))
    return loops


FAMILIES = (arrays, tables, grids, mixtures, products, mixture_fits, fits)


def measure(loop: Loop, units: dict[tuple[str, str], float]) -> tuple[float, float, str]:
    """(Nanoseconds of an entry, its floor, what the floor consists of)."""
    loop.run()
    ours = least(loop.run) / loop.entries
    read = least(loop.read) / loop.entries if loop.read else 0.0
    compute = math.fsum(count * units[unit, loop.dtype] for unit, count in loop.needs.items())
    if read > compute:
        return 1e9 * ours, 1e9 * read, loop.reader
    what = " + ".join(unit if count == 1 else f"{count:.3g} {unit}" for unit, count in loop.needs.items())
    return 1e9 * ours, 1e9 * compute, what


def main() -> None:
    numba.set_num_threads(1)
    units = {(name, "float64"): per_entry(unit) for name, unit in UNITS.items()}
    units |= {(name, "float32"): per_entry(UNITS[name], "float32") for name in ("division", "root")}
    x, y = inputs.pair(10_000_000)
    x @ y
    speed = 2 * x.nbytes / least(lambda: np.dot(x, y)) / 1e9
    print(f"Reading from memory: {speed:.3g} GB/s. In cache, ns an entry:")
    print(", ".join(f"{name} ({dtype}) {1e9 * t:.3g}" for (name, dtype), t in units.items()) + ".\n")
    print("| loop | ns an entry | floor | of what | ratio |  |")
    print("| --- | --- | --- | --- | --- | --- |")
    for family in FAMILIES:
        for loop in family():
            ours, floor, what = measure(loop, units)
            far = "far" if ours > FAR * floor else ""
            print(
                f"| {loop.name} | {ours:.3g} | {floor:.3g} | {what} | {ours / floor:.2f} | {far} |",
                flush=True,
            )
    print(f"\n{circumstances()}")


if __name__ == "__main__":
    main()
