"""`fit_batch`: independent fits of one model to many data sets, in one compiled loop."""

from __future__ import annotations

import math
from collections import abc
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common import statuses, threads
from ..common.immutable import Record, frozen
from ..common.progress import bar
from ..common.validation import choice, integer
from ..common.values import Array
from ..distributions.integrals import tolerance
from ..distributions.variational import TruncatedGaussian, Variational
from ..kernels.families.table import CODES
from ..kernels.statuses import CONVERGED, EMPTY, UNBOUNDED, UNCONFIRMED
from .deterministic import START_RTOL, START_STEPS, draws_fit
from .exports import dataset_of_batch
from .faults import FaultError, words
from .gaps import doubt_batch
from .kernel_calls import DRAWS_DIM, QUADRATURE_DIM, is_long, lattice_space, restricted, workspace
from .model import Model, checked_model, target_of
from .optima import LatentFit, confirmed_fit, or_improper
from .packing import Table, pack_arrays, pack_tuples
from .results import is_gone, q_of
from .starts import check_start, start_of

#: Fits by quadrature in one piece of work for a thread: at least 0.2 ms, against 20 µs to hand it over.
_PIECE = 64

#: Pieces between two moves of the progress bar.
_BAR = 64

#: Places in a report.
_ELBO, _STATUS = map(kernels.inference.reports.Report._fields.index, ("elbo", "status"))


class FitBatch(Record):
    """Many fits, from `fit_batch`; entry n of each array belongs to data set n.

    Attributes
    ----------
    model : Model
    family : str
    mean : ndarray (N, R)
        Of q, in latent coordinates; μ for the family "truncated".
    cov : ndarray (N, R, R)
        Of q, in latent coordinates; σ² for the family "truncated".
    elbo, error : ndarray (N,)
        In nats; nan where a fit could not start. As in `fit` the error is infinite beside a gap of zero
        density, and where the log joint outgrows q far out.
    gradient_norm : ndarray (N,)
        As in `Fit`.
    evaluations : ndarray (N,) of int
        Of the log joint, with those for finite differences.
    codes : ndarray (N,) of int
        Statuses, as numbers of `fastvi.kernels.statuses`; `status` has the words.
    converged : ndarray (N,) of bool

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
        """How fit n ended, in words."""
        return words(self.model, int(self.codes[n]), self._wheres[n])

    def q(self, n: int) -> Variational:
        """The q of fit n; ValueError if it could not start."""
        if not self.elbo[n] > -math.inf:
            raise ValueError(f"fit {n} has no q: {self.status(n)}")
        if self.family == "truncated":
            low, high = self.model._support.interval
            return TruncatedGaussian(float(self.mean[n, 0]), float(self._factors[n, 0, 0]), low, high)
        return q_of(self.model, self.mean[n].copy(), self._factors[n].copy())

    def to_xarray(self, labels: Any = None) -> Any:
        """The results as an xarray.Dataset, with a dimension `data_set`.

        Its variables have the names of the attributes, and `status` the words; `mean` and `cov` are in latent
        coordinates, which have the names of the model's. `labels` (N,) are those of the data sets, by default
        0, 1, ... Without xarray: ImportError.

        Examples
        --------
        >>> import numpy as np
        >>> import fastvi as fv
        >>> def log_joint(z, x):
        ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
        >>> b = fv.fit_batch(fv.Model(log_joint, 1, data=(0.0,)), (np.array([1.0, 3.0]),))
        >>> b.to_xarray(["here", "there"])["mean"].sel(data_set="there").values
        array([1.5])
        """
        return dataset_of_batch(self, labels)

    def __repr__(self) -> str:
        good = int(self.converged.sum())
        return f"FitBatch({len(self)} fits, family={self.family!r}, {good} converged)"


@threads.interruptible(lambda value: isinstance(value, Model))
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
        The types of its data are those of the data sets; its values are not used.
    datasets : sequence of tuples, or tuple of arrays
        Tuples of data, whose arrays may differ in length. Or a tuple of arrays with a leading batch axis:
        entry n of each is data set n (numbers from 1-D arrays). These take no time in Python for each data
        set.
    family, start, rtol, max_steps
        As in `fit`; every fit starts from the same place.
    progress : bool, optional
        Show a bar, where tqdm is installed.

    Returns
    -------
    FitBatch
        Arrays with an entry for each data set. One that cannot be fitted (with a NaN, say) has its own status
        and changes no other.

    Raises
    ------
    TypeError
        A model that is not a Model; data of other types than the model's, or that do not fit into them
        without loss; a `max_steps` that is no integer.
    ValueError
        Other values than described above; more than 1000 latent dimensions.

    Notes
    -----
    The fits run on as many threads as `set_num_threads` allows, with the same bits for any number. The
    results are those of `fit`, whose methods and references hold. In up to two latent dimensions fits take no
    time in Python unless a better start has to be found. As in `fit` the log joint is evaluated between and
    beyond the nodes of the quadrature as well. In one dimension these are 829 points beside 140, and take a
    third of the time, or two where the log joint takes long; in the plane 1712 beside 2780.

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
    if checked_model(model)._dispatcher is None:
        raise TypeError(f"fit_batch varies the data of a model, and {model!r} has none")
    name = choice("family", family, (*CODES, "truncated"))
    wanted, max_steps = tolerance(rtol), integer("max_steps", max_steps, 1)
    empty: list[int] = []
    if isinstance(datasets, tuple) and not any(isinstance(d, tuple) for d in datasets):
        tables, kept, empty = pack_arrays(model._types, datasets)
    else:
        if not isinstance(datasets, abc.Iterable) or isinstance(datasets, str | dict):
            kind = type(datasets).__name__
            raise TypeError(f"datasets must be a sequence of tuples or a tuple of arrays, not {kind}")
        tables, kept, empty = pack_tuples(model._types, model._table, list(datasets))
    count, r = len(tables), model.latent_dim
    mean, factor = start_of(model, start)
    check_start(name, factor)
    if name == "truncated" and model.dim != 1:
        raise ValueError(f'family="truncated" needs a model of dimension 1, this one has {model.dim}')
    if r > DRAWS_DIM:
        raise ValueError(f"fit_batch works in up to {DRAWS_DIM} latent dimensions, the model has {r}")
    starts = _starts(name, mean, factor, count)
    results = np.empty((count, 0)), np.zeros((count, 8)), np.zeros((count, model.dim))
    work = _Work(model, start, tables, starts, results)
    run = _runner(work, name, wanted, max_steps)
    doubt = None
    if r <= QUADRATURE_DIM:
        doubt = doubt_batch(model, tables, name == "truncated", (starts[0], starts[2]), results)
    # A piece is the least that is done after Ctrl-C, and what the end of the program waits for.
    size = 1 if is_long(model) else _PIECE
    pieces = -(-count // size)

    def piece(i: int) -> None:
        low, high = i * size, min((i + 1) * size, count)
        run(low, high)
        _name_the_gone(work, low, high)
        if doubt is not None:
            doubt(low, high)

    if progress:
        for low in bar(range(0, pieces, _BAR), True, f"{count} fits"):
            threads.run(lambda i, low=low: piece(low + i), min(_BAR, pieces - low))  # type: ignore[misc]
    elif pieces:
        threads.run(piece, pieces)
    del kept  # the tables pointed into it
    (means, _, chols), (_, rows, wheres) = starts, results
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


def _starts(family: str, mean: Array, factor: Array | None, count: int) -> tuple[Array, Array, Array]:
    """(means, standard deviations, Cholesky factors) of the same start for each data set."""
    kept = "full" if family == "truncated" else family
    factor = np.eye(mean.size) if factor is None else restricted(factor, kept)
    ones = np.ones(mean.size)
    means, scales, chols = (np.tile(a, (count, *[1] * a.ndim)) for a in (mean, ones, factor))
    return means, scales, chols


def _columns(rows: Array) -> Any:
    """Reports (..., 8) as one Report of columns, which are views."""
    return kernels.inference.reports.Report(*rows.T)


class _Work(NamedTuple):
    """The fits of a batch, each in its row of the arrays."""

    model: Model
    start: Any  #: as the caller gave it
    tables: Table
    starts: tuple[Array, Array, Array]  #: see `_starts`; of the q found, afterwards
    results: tuple[Array, Array, Array]  #: traces, reports, points where something was wrong


def _runner(work: _Work, family: str, rtol: float, max_steps: int) -> Any:
    """A function of (low, high) that makes the fits low to high - 1 on the calling thread."""
    model, _, tables, starts, results = work
    fits = _fit_by_draws if model.latent_dim > QUADRATURE_DIM else _fit_by_quadrature
    if family != "truncated":
        return lambda low, high: fits(work, family, (rtol, max_steps), low, high)
    ends, target = model._support.interval, target_of(model, tables)
    (means, _, chols), (_, rows, _) = starts, results
    reports = _columns(rows)

    def truncated(low: int, high: int) -> None:
        fits(work, "full", (START_RTOL, START_STEPS), low, high)
        used = reports.evaluations[low:high].copy()
        parameters = np.empty((len(tables), 2))
        for n in range(low, high):
            if statuses.is_fault(reports.status[n]):
                parameters[n] = means[n, 0], 1.0
            else:
                q = q_of(model, means[n].copy(), chols[n].copy())
                parameters[n] = q.mean[0], math.sqrt(q.cov[0, 0])
        space = workspace("truncated")
        kernels.inference.entry_points.fit_truncated(
            target, ends, parameters, rtol, max_steps, space, results, low, high
        )
        reports.evaluations[low:high] += used
        means[low:high, 0], chols[low:high, 0, 0] = parameters[low:high, 0], parameters[low:high, 1]

    return truncated


def _name_the_gone(work: _Work, low: int, high: int) -> None:
    """The status of fits whose q has no end."""
    model, (means, _, chols), (_, rows, wheres) = work.model, work.starts, work.results
    for n in (low + np.flatnonzero(rows[low:high, _STATUS] != CONVERGED)).tolist():
        if is_gone(model, int(rows[n, _STATUS]), wheres[n], np.concatenate([means[n], chols[n].ravel()])):
            rows[n, _STATUS] = UNBOUNDED


def _fit_by_quadrature(work: _Work, family: str, limits: tuple[float, int], low: int, high: int) -> None:
    """Fits in up to two latent dimensions, and better ones where the kernel does not confirm them."""
    model, start, tables, starts, results = work
    target, space = target_of(model, tables), lattice_space(model)
    (means, _, chols), (_, rows, _) = starts, results
    point, factor = start_of(model, start)
    kernels.inference.entry_points.fit_quadrature(
        target, CODES[family], int(factor is None), starts, *limits, space, results, low, high
    )
    if factor is None:
        _fit_unconfirmed(work, family, point, limits, low, high)
    else:
        kernels.inference.entry_points.check_tails(target, means, chols, space, results, low, high)
        for n in (low + np.flatnonzero(rows[low:high, _STATUS] != CONVERGED)).tolist():
            if rows[n, _STATUS] == UNCONFIRMED:
                rows[n, _STATUS] = CONVERGED
            rows[n] = or_improper(model._with_table(tables[n]), _latent_fit(work, n)).report
    kernels.inference.entry_points.doubt_bounds(target, limits[0], means, chols, space, results, low, high)


def _fit_unconfirmed(
    work: _Work, family: str, point: Array, limits: tuple[float, int], low: int, high: int
) -> None:
    """Better fits where the kernel does not confirm those from Laplace's approximation near a point."""
    model, start, tables, (means, _, chols), (_, rows, wheres) = work
    for n in (low + np.flatnonzero(rows[low:high, _STATUS] != CONVERGED)).tolist():
        first, own = _latent_fit(work, n), model._with_table(tables[n])
        found = confirmed_fit(own, family, first, point, *limits, start is not None)
        means[n], chols[n], rows[n], wheres[n] = found.mean, found.factor, found.report, found.where


def _latent_fit(work: _Work, n: int) -> LatentFit:
    """What has been found for data set n."""
    (means, _, chols), (_, rows, wheres) = work.starts, work.results
    report = kernels.inference.reports.Report._make(rows[n].tolist())
    return LatentFit(means[n].copy(), chols[n].copy(), report, np.empty(0), wheres[n])


def _fit_by_draws(work: _Work, family: str, limits: tuple[float, int], low: int, high: int) -> None:
    """Fits on draws, as those of `fit`."""
    model, start, tables, (means, _, chols), (_, rows, wheres) = work
    for n in range(low, high):
        try:
            found = draws_fit(model._with_table(tables[n]), family, start, *limits)
        except FaultError as fault:
            rows[n, _ELBO], rows[n, _STATUS], wheres[n] = math.nan, fault.status, fault.where
        else:
            means[n], chols[n], rows[n], wheres[n] = found.mean, found.factor, found.report, found.where
