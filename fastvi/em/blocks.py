"""EM on data that are read block by block: `fit_mixture` of a `numpy.memmap` that is large."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common import threads
from ..common.progress import bar
from ..common.values import Array
from ..kernels import statuses
from .coordinates import Frame

#: Bytes from which a memmap is read in blocks, the rows of a block, and those of the sample for the starts.
LARGE, ROWS, SAMPLE = 1 << 26, 1 << 16, 1 << 15


def is_large(x: Any) -> bool:
    """Whether the data are to be read in blocks."""
    return isinstance(x, np.memmap) and x.ndim == 2 and x.nbytes >= LARGE


def check(x: Any) -> None:
    """Raise for what data in blocks cannot be."""
    if x.dtype.kind not in "fiu":
        raise TypeError(f"x has dtype {x.dtype}: expected real numbers")
    for first in range(0, len(x), ROWS):
        wrong = ~np.isfinite(x[first : first + ROWS])
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            value = x[first + row, column]
            raise ValueError(
                f"x[{first + row}, {column}] is {value!s}: data that are read in blocks have no gaps"
            )


def sample(x: Any, frequencies: Array | None) -> tuple[Array, Array | None]:
    """Rows at equal distances, of those with positive weight, and their weights."""
    rows: NDArray[np.int64] = np.arange(len(x)) if frequencies is None else np.flatnonzero(frequencies)
    rows = rows[:: max(1, rows.size // SAMPLE)]
    points = np.array(x[rows], np.float64, order="C")
    return points, None if frequencies is None else frequencies[rows]


class Sweeps:
    """Sums over all blocks, on as many threads as are allowed; the same bits on any number of them."""

    def __init__(self, x: Any, frequencies: Array | None, frame: Frame, space: Any) -> None:
        self.x, self.frequencies, self.frame, self.space = x, frequencies, frame, space
        self.mass = float(len(x)) if frequencies is None else float(frequencies.sum())

    def moments(self, mixture: tuple[Array, Array, Array]) -> tuple[float, Array]:
        """The log likelihood of the mixture, and the moments for the M-step."""
        count = -(-len(self.x) // ROWS)
        logs, moments = np.empty(count), [np.empty(0)] * count

        def add(i: int) -> None:
            part = slice(i * ROWS, (i + 1) * ROWS)
            rows = np.asarray(self.x[part], np.float64)
            columns = np.ascontiguousarray(np.linalg.solve(self.frame.factor, (rows - self.frame.mean).T))
            owner, space = self.space(mixture[0].size)
            if self.frequencies is not None:
                space = space._replace(frequencies=self.frequencies[part])
            trace, floored = np.empty(1), np.empty((2, mixture[0].size), np.int64)
            # No M-step: the sweep of the start, whose moments stay in the space.
            kernels.em.iterations.fit(columns, *mixture, 0.0, 0.0, 0, trace, floored, space)
            logs[i], moments[i] = trace[0], space.moments.copy()
            del owner

        threads.run(add, count)
        return float(logs.sum()), np.sum(moments, axis=0)


def iterate(run: Any, problem: Any, sweeps: Sweeps, progress: bool) -> None:
    """EM from the mixture of a run, as `kernels.em.iterations.fit` for data in memory."""
    mixture = run.weights, run.means, run.factors
    trace: list[float] = []
    last = before = 0.0
    run.to_gain, run.status = math.inf, statuses.STEPS_EXHAUSTED
    for step in bar(range(problem.most + 1), progress, "fit_mixture", "iteration"):
        value, moments = sweeps.moments(mixture)
        trace.append(value + problem.prior.log_density(*mixture) - problem.prior.moved)
        if not math.isfinite(trace[-1]):
            run.status = statuses.OUT_OF_RANGE
            break
        if run.to_gain <= problem.tol:
            run.status = statuses.CONVERGED
            break
        if step == problem.most:
            break
        owner, space = problem.space(run.weights.size)
        space.moments[...] = moments
        gain, positive = kernels.em.m_step.maximise(sweeps.mass, *mixture, problem.floor, run.floored, space)
        rounding = float(space.rounding[0])
        del owner
        if not positive:
            run.status = statuses.SINGULAR
            break
        run.to_gain = kernels.em.iterations.remaining_gain(gain, last, before, rounding)
        last, before = gain, last
    run.trace, run.steps = np.array(trace), len(trace) - 1
