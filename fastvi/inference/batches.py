"""Many independent fits of one model, through one compiled loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from .. import kernels
from ..common import statuses, threads
from ..common.immutable import Record, frozen
from ..common.progress import bar
from ..common.validation import choice
from ..common.values import Array
from ..distributions.integrals import tolerance
from ..distributions.variational import TruncatedGaussian, Variational
from ..kernels.families.table import CODES, CORRELATED
from ..kernels.statuses import CONVERGED, EMPTY
from .expectations import _draws, _fresh, _writable
from .kernel_calls import (
    QUADRATURE_DIM,
    _as_model,
    _conditional,
    _restricted,
    _space,
    _target,
    _words,
)
from .model import Model, pack
from .results import _q_of
from .starts import _check_start, _start_of

#: Fits in one piece of work for a thread: 0.2 ms and more.
_PIECE = 64

#: Pieces between two moves of the progress bar.
_BAR = 64


class FitBatch(Record):
    """What became of many fits; entry n of each array belongs to data set n.

    Attributes
    ----------
    mean : ndarray (N, R)
        Of q, in latent coordinates; μ for the family "truncated".
    cov : ndarray (N, R, R)
        Of q, in latent coordinates; σ² for the family "truncated".
    elbo, error : ndarray (N,)
        In nats; nan where a fit could not start.
    gradient_norm : ndarray (N,)
    evaluations : ndarray (N,)
    converged : ndarray (N,) of bool
    family : str

    Examples
    --------
    >>> import numpy as np
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
    >>> model = fv.Model(log_joint, 1, data=(0.0,))
    >>> b = fv.fit_batch(model, (np.array([1.0, np.nan, 3.0]),))
    >>> b.mean[:, 0], b.converged
    (array([0.5, nan, 1.5]), array([ True, False,  True]))
    >>> b.status(1)
    'log_joint is nan at z = [0]'
    """

    __slots__ = (
        "_factors",
        "_wheres",
        "codes",
        "converged",
        "elbo",
        "error",
        "evaluations",
        "family",
        "gradient_norm",
        "mean",
        "model",
    )
    mean: Array
    elbo: Array
    error: Array
    gradient_norm: Array
    evaluations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    codes: NDArray[np.int64]
    family: str
    model: Model
    _factors: Array
    _wheres: Array

    @property
    def cov(self) -> Array:
        """The covariances of q in latent coordinates, shape (N, R, R)."""
        return frozen(self._factors @ self._factors.swapaxes(1, 2))

    def __len__(self) -> int:
        return len(self.elbo)

    def status(self, n: int) -> str:
        """What became of fit n, in words."""
        return _words(int(self.codes[n]), self._wheres[n])

    def q(self, n: int) -> Variational:
        """The q of fit n."""
        if not self.elbo[n] > -math.inf:
            raise ValueError(f"fit {n} has no q: {self.status(n)}")
        if self.family == "truncated":
            low, high = self.model._support.interval
            return TruncatedGaussian(float(self.mean[n, 0]), float(self._factors[n, 0, 0]), low, high)
        return _q_of(self.model, self.mean[n].copy(), self._factors[n].copy())

    def __repr__(self) -> str:
        good = int(self.converged.sum())
        return f"FitBatch({len(self)} fits, family={self.family!r}, {good} converged)"


def _batch_axis(model: Model, datasets: tuple[Any, ...]) -> tuple[NDArray[np.int64], list[Any]]:
    """Tables for arrays with a leading batch axis, and what must be kept alive."""
    arrays = [np.asarray(a) for a in datasets]
    if len(arrays) != len(model._types):
        raise ValueError(
            f"datasets must have {len(model._types)} arrays, one for each item of data, not {len(arrays)}"
        )
    lengths = {a.shape[0] if a.ndim else -1 for a in arrays}
    if len(lengths) != 1 or -1 in lengths:
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise ValueError(f"datasets must be arrays with one leading batch axis, not of shapes {shapes}")
    (count,) = lengths
    columns: list[NDArray[np.int64]] = []
    kept = []
    for k, (array, kind) in enumerate(zip(arrays, model._types, strict=True)):
        item = kind.dtype if isinstance(kind, types.Array) else kind
        ndim = kind.ndim if isinstance(kind, types.Array) else 0
        if array.ndim != ndim + 1 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"datasets[{k}] must have {ndim + 1} axes and numbers, as data[{k}] is {kind}, "
                f"not shape {array.shape} and dtype {array.dtype}"
            )
        values = np.ascontiguousarray(array, dtype=np.dtype(str(item) if str(item) != "boolean" else "bool"))
        kept.append(values)
        if ndim == 0:
            words = values.view(np.int64) if item is types.float64 else values.astype(np.int64)
            columns.append(words)
            continue
        columns.append(
            values.ctypes.data + np.arange(count, dtype=np.int64) * (values.strides[0] if count else 0)
        )
        columns += [np.full(count, extent, np.int64) for extent in values.shape[1:]]
    table = np.column_stack(columns) if columns else np.zeros((count, 1), np.int64)
    return np.ascontiguousarray(table, dtype=np.int64), kept


def _sequence(model: Model, datasets: Sequence[Any]) -> tuple[NDArray[np.int64], list[Any], list[int]]:
    """Tables for tuples of data, what must be kept alive, and which of them are empty."""
    rows, kept, empty = [], [], []
    blank = model._table
    for n, data in enumerate(datasets):
        if not isinstance(data, tuple):
            raise TypeError(f"datasets[{n}] must be a tuple of data, not {type(data).__name__}")
        if any(isinstance(item, np.ndarray | list) and np.size(item) == 0 for item in data):
            empty.append(n)
            rows.append(blank)
            continue
        try:
            kinds, values, table = pack(data)
        except (TypeError, ValueError) as error:
            raise type(error)(f"datasets[{n}]: {error}") from None
        if kinds != model._types:
            raise TypeError(
                f"datasets[{n}] must have the types of the model's data {model._types}, not {kinds}"
            )
        rows.append(table)
        kept.append(values)
    return (np.stack(rows) if rows else np.zeros((0, blank.size), np.int64)), kept, empty


def fit_batch(
    model: Model,
    datasets: Any,
    family: str = "full",
    start: Any = None,
    *,
    rtol: float = 1e-8,
    max_steps: int = 500,
    progress: bool = False,
) -> FitBatch:
    r"""Fit q to a model for many independent data sets.

    .. math:: q_n^* = \arg\max_q \mathrm{ELBO}(q; x_n), \quad n = 0, \ldots, N - 1

    Parameters
    ----------
    model : Model
        Its data give the types; their values are not used.
    datasets : sequence of tuples, or tuple of arrays
        Tuples of data, whose arrays may differ in length. Or a tuple of arrays with a leading batch axis:
        entry n of each is data set n (numbers from 1-D arrays), with nothing to be done for each of them in
        Python.
    family, start, rtol, max_steps
        As in `fit`; every fit starts from the same place.
    progress : bool, optional
        Show a bar, where tqdm is installed.

    Returns
    -------
    FitBatch
        Arrays, with a status for each. A data set that cannot be fitted (NaN, say) does not disturb the
        others. On as many threads as `numba.set_num_threads` says, with the same bits for any number. In more
        than two latent dimensions the draws are not increased where they are too few: the status says so.

    Raises
    ------
    TypeError, ValueError
        Arguments that are not what is described above; data of other types.

    References
    ----------
    As in `fit`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -0.5 * z[0] ** 2 - 0.5 * ((x - z[0]) ** 2).sum()
    >>> model = fv.Model(log_joint, 1, data=(np.zeros(2),))
    >>> fv.fit_batch(model, [(np.ones(1),), (np.ones(3),)]).mean[:, 0]
    array([0.5 , 0.75])
    """
    _as_model(model)
    name = choice("family", family, (*CODES, "truncated"))
    wanted = tolerance(rtol)
    empty: list[int] = []
    if isinstance(datasets, tuple) and not any(isinstance(d, tuple) for d in datasets):
        tables, kept = _batch_axis(model, datasets)
    else:
        tables, kept, empty = _sequence(model, list(datasets))
    count, r = len(tables), model.latent_dim
    mean, factor = _start_of(model, start)
    _check_start(name, factor)
    if name == "truncated" and model.dim != 1:
        raise ValueError(f'family="truncated" needs a model of dimension 1, this one has {model.dim}')
    if r > kernels.inference.laplace.DENSE:
        raise ValueError(
            f"fit_batch works in up to {kernels.inference.laplace.DENSE} latent dimensions, the model has {r}"
        )
    scale, from_laplace = np.ones(r), factor is None
    if factor is None:
        factor = np.eye(r)
    elif r > QUADRATURE_DIM:
        scale = _conditional(factor)
    else:
        factor = _restricted(factor, "full" if name == "truncated" else name)
    means, scales, chols = (np.tile(a, (count, *[1] * a.ndim)) for a in (mean, scale, factor))
    traces, rows = np.empty((count, 0)), np.zeros((count, 8))
    wheres = np.zeros((count, model.dim))
    run = _runner(
        model,
        name,
        from_laplace,
        tables,
        (means, scales, chols),
        wanted,
        max_steps,
        (traces, rows, wheres),
    )
    pieces = -(-count // _PIECE)

    def piece(i: int) -> None:
        run(i * _PIECE, min((i + 1) * _PIECE, count))

    if progress:
        for low in bar(range(0, pieces, _BAR), True, f"{count} fits"):
            threads.run(lambda i, low=low: piece(low + i), min(_BAR, pieces - low))  # type: ignore[misc]
    elif pieces:
        threads.run(piece, pieces)
    del kept
    reports = _columns(rows)
    codes = reports.status.astype(np.int64)
    codes[empty] = EMPTY
    failed = np.isnan(reports.elbo) | (codes == EMPTY)
    for array in (means, chols, rows):
        array[failed] = np.nan
    return FitBatch(
        model=model,
        family=name,
        mean=means,
        _factors=chols,
        elbo=reports.elbo.copy(),
        error=reports.error.copy(),
        gradient_norm=reports.gradient_norm.copy(),
        evaluations=np.nan_to_num(reports.evaluations).astype(np.int64),
        codes=codes,
        converged=codes == CONVERGED,
        _wheres=wheres,
    )


def _columns(rows: Array) -> Any:
    """Views of the columns of reports, by name."""
    return kernels.inference.reports.Report(*rows.T)


def _runner(
    model: Model,
    family: str,
    from_laplace: bool,
    tables: NDArray[np.int64],
    starts: tuple[Array, Array, Array],
    rtol: float,
    max_steps: int,
    results: tuple[Array, Array, Array],
) -> Any:
    """A function that makes the fits from one number to another, on the thread that calls it."""
    r, target = model.latent_dim, _target(model, tables)
    if r > QUADRATURE_DIM:
        code = CODES[family]
        pairs = max(64, (4 if family in CORRELATED else 2) * r)
        draws = _writable(_draws(0, pairs, r))
        fresh = _writable(_fresh(r))

        def by_draws(low: int, high: int) -> None:
            kernels.inference.entry_points.fit_draws_batch(
                target,
                code,
                from_laplace,
                (draws, fresh),
                starts,
                (math.sqrt(rtol), max_steps),
                (_space("draws", code, r, model.dim), _space("laplace", r, model.dim)),
                results,
                low,
                high,
            )

        return by_draws

    def by_quadrature(low: int, high: int, code: int, accuracy: float) -> None:
        space = _space("fit", r, model.dim)
        kernels.inference.entry_points.fit_quadrature(
            target, code, from_laplace, starts, accuracy, max_steps, space, results, low, high
        )

    if family != "truncated":
        return lambda low, high: by_quadrature(low, high, CODES[family], rtol)
    ends = model._support.interval
    (means, _, chols), (_, rows, _) = starts, results
    reports = _columns(rows)

    def truncated(low: int, high: int) -> None:
        by_quadrature(low, high, CODES["full"], 1e-3)
        used = reports.evaluations[low:high].copy()
        parameters = np.empty((len(tables), 2))
        for n in range(low, high):
            if statuses.is_fault(reports.status[n]):
                parameters[n] = means[n, 0], 1.0
            else:
                q = _q_of(model, means[n].copy(), chols[n].copy())
                parameters[n] = q.mean[0], math.sqrt(q.cov[0, 0])
        space = _space("truncated")
        kernels.inference.entry_points.fit_truncated(
            target, ends, parameters, rtol, max_steps, space, results, low, high
        )
        reports.evaluations[low:high] += used
        means[low:high, 0], chols[low:high, 0, 0] = parameters[low:high, 0], parameters[low:high, 1]

    return truncated
