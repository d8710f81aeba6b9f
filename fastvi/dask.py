"""Data on the workers of Dask: models that are sums over partitions, batches of fits, nearest rows.

Needs ``pip install "fastvi[dask]"``. What is here computes where Dask does at the time: on the workers of a
client of `distributed`, or in threads of this process.
"""

from __future__ import annotations

import functools
import math
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import numpy as np

from .common.extras import required
from .common.validation import integer
from .common.values import Array, tidy
from .discrete.all_pairs import pairwise as all_pairs
from .inference import batches
from .inference.foreign import ForeignModel, Names
from .inference.kernel_calls import QUADRATURE_DIM
from .inference.model import Model, checked_model
from .interop.blocks import block_model, numbers_of, pair_of

__all__ = ["fit_batch", "pairwise", "sum_of"]


def _dask() -> Any:
    return required("dask", "dask", "fastvi.dask")


#: Parts that are added on a worker, so that the sums of many do not all come here.
_ADDED = 16

#: Functions and models that a worker remembers: what it unpickles anew is compiled anew.
_KEPT = 32


def sum_of(parts: Any, prior: Model, log_likelihood: Callable[..., float] | None = None) -> Model:
    r"""A model whose log likelihood is a sum over parts that stay where Dask has them.

    .. math:: \log p(x, z) = \log p(z) + \sum_k \log p(x_k \mid z)

    For each step of a fit, a block of points goes to the workers, and sums of values and gradients come back.

    Parameters
    ----------
    parts : Dask array, tuple of Dask arrays, or list of Delayed or Future
        The parts are the blocks along the first axis, which all arrays of a tuple have in common, or the
        entries of a list; also the partitions of a bag or a DataFrame.
    prior : Model
        log p(z), with names, supports and number of the latent variables. It is evaluated here.
    log_likelihood : callable, optional
        log p(x_k | z), as the log joint of `Model`: ``log_likelihood(z, *data)``. The `data` are the blocks
        of the arrays; of other parts what they are computed to, or the items of that if it is a tuple.
        None: each part is computed to a `Model` with the coordinates of the prior, made where it is to stay
        (``dask.delayed(fastvi.Model)(...)``), or to a function of a block of points, (S, D) to values (S,)
        and gradients (S, D).

    Returns
    -------
    Model
        For all that takes a model in this process. It cannot be pickled, and has neither data nor theta of
        its own.

    Raises
    ------
    ImportError
        Without Dask.
    TypeError
        A prior that is not a Model; parts that are no such collection, or are computed to something else.
    ValueError
        No parts; arrays with other blocks along the first axis; parts with another number of coordinates.
    RuntimeError
        In a fit: parts are lost, with their numbers. Their worker has gone, and Dask cannot make them anew
        if they were scattered. Where it can, it does, and the fit goes on.

    Notes
    -----
    The parts are made once and kept. They are added in their order, sixteen by sixteen: results have the same
    bits for any number of workers. Exceptions of parts are raised as they are, with a note that has the
    part's number. Gradients are those of the parts and the prior if all have some (see ``Model.gradient``),
    else differences of values.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> import fastvi as fv
    >>> y = da.from_array(np.arange(10.0), chunks=4)
    >>> def log_likelihood(p, y):
    ...     return fv.densities.normal(y, p.mu, p.sigma)             # a sum over the rows of a part
    >>> def log_prior(p):
    ...     return fv.densities.normal(p.mu, 0.0, 10.0) + fv.densities.half_cauchy(p.sigma, 5.0)
    >>> prior = fv.Model(log_prior, {"mu": "real", "sigma": "positive"})
    >>> fit = fv.fit(fv.dask.sum_of(y, prior, log_likelihood))
    >>> round(fit["mu"].mean, 1), fit.converged
    (4.4, True)
    """
    dask = _dask()
    checked_model(prior)
    if log_likelihood is not None and not callable(log_likelihood):
        raise TypeError(f"log_likelihood must be a function or None, not {type(log_likelihood).__name__}")
    given = _parts_of("parts", parts)
    if not given:
        raise ValueError("parts is empty")
    packed = None if log_likelihood is None else _packed((log_likelihood, _coordinates(prior)))
    make = dask.delayed(_made, pure=False)
    held = _Held([make(k, part, packed, prior.dim) for k, part in enumerate(given)])
    # Below, no fit asks for gradients, and they take time to compile.
    wanted = prior.latent_dim > QUADRATURE_DIM
    about = [_about(_Part(-1, prior), wanted)]
    about += held.compute([dask.delayed(_about, pure=False)(part, wanted) for part in held.parts])
    slopes = all(gradient for gradient, _ in about)

    def value(z: Array) -> Array:
        return _of_model(prior, z, False)[:, 0] + held.sums(z, False)[:, 0]

    def value_and_grad(z: Array) -> tuple[Array, Array]:
        found = _of_model(prior, z, True) + held.sums(z, True)
        return found[:, 0], found[:, 1:]

    names = prior._names if isinstance(prior, ForeignModel) else Names()
    notes = dict.fromkeys(note for _, note in about if note)
    names = names._replace(reason=held.reason, note="; ".join(notes))
    return block_model(
        "fastvi.dask.sum_of", value_and_grad if slopes else None, value, prior, names, expensive=True
    )


def fit_batch(
    model: Model,
    datasets: Any,
    family: str = "full",
    start: Any = None,
    *,
    rtol: float = 1e-8,
    max_steps: int = 500,
) -> batches.FitBatch:
    r"""`fastvi.fit_batch` on the workers of Dask, a block of data sets in each task.

    Parameters
    ----------
    model : Model
        As for `fastvi.fit_batch`. It goes to each worker once.
    datasets : tuple of Dask arrays, or list of Delayed or Future
        Arrays with a leading batch axis and the same blocks along it. Or a list or a bag, whose entries or
        partitions are computed to some data sets each, as `fastvi.fit_batch` takes them.
    family, start, rtol, max_steps
        As for `fastvi.fit_batch`.

    Returns
    -------
    FitBatch
        The fits of all blocks, in their order, with the same bits as in one process. They are computed now;
        the data stay where they are.

    Raises
    ------
    ImportError
        Without Dask.
    TypeError, ValueError
        As from `fastvi.fit_batch`, with a note that has the number of the block; arrays with other blocks
        along the first axis.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
    >>> model = fv.Model(log_joint, 1, data=(0.0,))
    >>> x = da.from_array(np.array([1.0, 2.0, 3.0]), chunks=2)
    >>> fv.dask.fit_batch(model, (x,)).mean[:, 0]
    array([0.5, 1. , 1.5])
    """
    dask = _dask()
    # No fit at all: what is wrong with the other arguments is said here.
    none = batches.fit_batch(model, [], family, start, rtol=rtol, max_steps=max_steps)
    blocks = _parts_of("datasets", datasets)
    packed = _packed((model, family, start, rtol, max_steps))
    run = dask.delayed(_fitted, pure=False)
    found = [
        [getattr(none, name) for name in _COLUMNS],
        *dask.compute(*(run(k, packed, one) for k, one in enumerate(blocks))),
    ]
    columns = (np.concatenate(each) for each in zip(*found, strict=True))
    return none._replace(**dict(zip(_COLUMNS, columns, strict=True)))


def pairwise(
    P: Any,
    Q: Any = None,
    metric: str = "kl",
    *,
    k: int | None = None,
    alpha: float | None = None,
    base: float | None = None,
    mass: str = "unit",
    nan_policy: str = "raise",
) -> Any:
    r"""`fastvi.pairwise` of Dask arrays, or the `k` nearest rows of each.

    Parameters
    ----------
    P : Dask array, shape (n, d)
        One distribution a row; an array that is none is made one.
    Q : Dask array, shape (m, d), optional
        Default: `P`.
    metric : str, optional
        As for `fastvi.pairwise`.
    k : int, optional
        How many rows of `Q` are wanted for each of `P`, those with the least divergences: 1 to m. Of `P`
        alone, each row is one of its own.
    alpha, base, mass, nan_policy
        As for `fastvi.pairwise`.

    Returns
    -------
    Dask array, shape (n, m)
        With the blocks of P and Q, as from `fastvi.pairwise`. Nothing is computed yet; ``to_zarr`` computes
        and stores block by block.
    (divergences, indices) : tuple of Dask arrays, shape (n, k)
        Where `k` is given: rising, with the rows of `Q`. Of equal ones the first are taken, and NaN comes
        last. A worker has one block at a time, and the k least of some others.

    Raises
    ------
    ImportError
        Without Dask.
    TypeError, ValueError
        As from `fastvi.pairwise`; a `k` that is no integer from 1 to m, or blocks of unknown length with it.

    Examples
    --------
    >>> import dask, dask.array as da, numpy as np
    >>> import fastvi as fv
    >>> P = da.from_array(np.array([[0.5, 0.5], [0.9, 0.1], [0.6, 0.4]]), chunks=(2, 2))
    >>> values, rows = dask.compute(*fv.dask.pairwise(P, metric="total_variation", k=2))
    >>> values.round(12), rows
    (array([[0. , 0.1],
           [0. , 0.3],
           [0. , 0.1]]), array([[0, 2],
           [1, 2],
           [2, 0]]))
    """
    da = required("dask.array", "dask", "fastvi.dask.pairwise")
    keywords: dict[str, Any] = {
        "metric": metric,
        "alpha": alpha,
        "base": base,
        "mass": mass,
        "nan_policy": nan_policy,
    }
    p, q = da.asarray(P), None if Q is None else da.asarray(Q)
    every = all_pairs(p, q, **keywords)
    if k is None:
        return every
    columns = every.shape[1]
    if any(map(math.isnan, every.shape)):
        raise ValueError("k needs Dask arrays with blocks of known lengths: call compute_chunk_sizes() first")
    k = integer("k", k, 1)
    if k > columns:
        raise ValueError(f"k must be at most {columns}, the number of rows to choose from, not {k}")
    return _nearest(da, every, k)


def _parts_of(name: str, parts: Any) -> list[Any]:
    """Delayed objects, futures or tuples of them, one for each part."""
    if isinstance(parts, tuple):
        columns = [_blocks(f"{name}[{k}]", each) for k, each in enumerate(parts)]
        lengths = [_lengths(each) or len(column) for each, column in zip(parts, columns, strict=True)]
        for k, length in enumerate(lengths):
            if length != lengths[0]:
                raise ValueError(
                    f"{name} must have the same blocks along the first axis: {name}[0] has {lengths[0]}, "
                    f"{name}[{k}] has {length}; rechunk one like the other"
                )
        return list(zip(*columns, strict=True))
    if hasattr(parts, "to_delayed"):
        return _blocks(name, parts)
    if isinstance(parts, str | dict) or not isinstance(parts, Iterable):
        raise TypeError(
            f"{name} must be a Dask collection, a tuple of Dask arrays or a list of delayed objects or "
            f"futures, not {type(parts).__name__}"
        )
    return list(parts)


def _blocks(name: str, collection: Any) -> list[Any]:
    """The partitions of a Dask collection, as delayed objects: of an array along its first axis."""
    if not hasattr(collection, "to_delayed"):
        raise TypeError(f"{name} must be a Dask array, not {type(collection).__name__}")
    if hasattr(collection, "chunks"):
        if collection.ndim == 0:
            raise ValueError(f"{name} has no axis")
        collection = collection.rechunk(dict.fromkeys(range(1, collection.ndim), -1))
    return list(np.ravel(np.asarray(collection.to_delayed(), dtype=object)))


def _lengths(collection: Any) -> tuple[int, ...] | None:
    """Those of the blocks along the first axis, where they are known."""
    lengths: tuple[Any, ...] = getattr(collection, "chunks", ((math.nan,),))[0]
    return None if any(map(math.isnan, lengths)) else lengths


def _coordinates(prior: Model) -> tuple[Any, Any]:
    """The `dim` and `support` of a Model with the coordinates of the prior."""
    named = prior.parameters
    return (prior.dim, prior.support) if named is None else (named, "real")


# What goes to the workers is pickled here: each object once, which every worker remembers.


def _packed(what: Any) -> bytes:
    import cloudpickle

    found: bytes = cloudpickle.dumps(what)
    return found


@functools.lru_cache(maxsize=_KEPT)
def _unpacked(packed: bytes) -> Any:
    import cloudpickle

    return cloudpickle.loads(packed)


class _Part:
    """A part on its worker: its number, and a Model or a function of a block.

    `made_of` are the arguments of `_made`: where Dask moves it, nothing is compiled that is there already.
    """

    def __init__(self, number: int, what: Any, *made_of: Any) -> None:
        self.number, self.what, self.made_of = number, what, made_of

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.number, *self.made_of)

    def __sizeof__(self) -> int:
        """What moving it would cost, which Dask asks."""
        if not isinstance(self.what, Model):
            return object.__sizeof__(self) + sys.getsizeof(self.what)
        return object.__sizeof__(self) + sum(getattr(item, "nbytes", 8) for item in self.what.data)


def _noted(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator of functions of a number, or a part: their exceptions say which of `what` it was."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(part: Any, *rest: Any) -> Any:
            try:
                return function(part, *rest)
            except Exception as error:
                error.add_note(f"in {what.format(getattr(part, 'number', part))}")
                raise

        return call

    return decorate


_of_part = _noted("part {} of fastvi.dask.sum_of")


@_of_part
def _made(number: int, data: Any, packed: bytes | None, dim: int) -> _Part:
    """The part of these data, or of what they are."""
    what = data
    if packed is not None:
        log_likelihood, (parameters, support) = _unpacked(packed)
        what = Model(log_likelihood, parameters, data if isinstance(data, tuple) else (data,), support)
    if isinstance(what, Model):
        if what.dim != dim:
            raise ValueError(f"part {number} has {what.dim} coordinates, the prior has {dim}")
    elif not callable(what):
        raise TypeError(f"part {number} must be a Model or a function, not {type(what).__name__}")
    return _Part(number, what, data, packed, dim)


@_of_part
def _about(part: _Part, wanted: bool) -> tuple[bool, str]:
    """(whether a part has gradients, which are wanted, and the note of its model)."""
    if isinstance(part.what, Model):
        return wanted and part.what.gradient != "differences", part.what._note
    return wanted, ""


@_of_part
def _evaluated(part: _Part, z: Array, slopes: bool) -> Array:
    """Values at points (S, D), a column, and gradients beside it."""
    if isinstance(part.what, Model):
        return _of_model(part.what, z, slopes)
    values, gradients = pair_of(part.what(np.array(z)))
    found = [numbers_of("the values", values, (len(z),))]
    if slopes:
        found += [numbers_of("the gradients", gradients, z.shape)]
    return np.column_stack(found).astype(np.float64, copy=False)


def _of_model(model: Model, z: Array, slopes: bool) -> Array:
    gradients = np.empty(z.shape) if slopes else None
    values, failed = model._tabulate(z, gradients)
    if failed:
        model._raise_at(z[failed - 1], slopes)
        raise RuntimeError(f"log_joint raised an exception at z = {tidy(z[failed - 1])}, but not again")
    return values[:, None] if gradients is None else np.column_stack([values, gradients])


def _added(*found: Array) -> Array:
    """Arrays added in their order."""
    return functools.reduce(np.add, found)


class _Held:
    """Parts that Dask keeps, in this process or on workers."""

    def __init__(self, made: list[Any]) -> None:
        dask = _dask()
        # What computes them now, also for calls from other threads.
        self.scheduler = dask.base.get_scheduler(collections=made)
        self.parts = list(dask.persist(*made))

    def compute(self, wanted: Sequence[Any]) -> list[Any]:
        """The values of delayed objects: one round trip."""
        dask = _dask()
        try:
            return list(dask.compute(*wanted, scheduler=self.scheduler))
        except CancelledError as error:
            gone = ", ".join(map(str, self._lost()))
            if not gone:
                raise
            raise RuntimeError(
                f"fastvi.dask.sum_of has lost parts of its {len(self.parts)}: {gone}. Dask cannot make anew "
                f"what was scattered to a worker that has gone, or was cancelled ({error})"
            ) from error

    def _lost(self) -> list[int]:
        """The parts that Dask has no longer, and does not make anew as those that are "lost" to it."""
        distributed: Any = sys.modules.get("distributed")  # None: the exception is of another origin
        if distributed is None:
            return []
        states = [{future.status for future in distributed.futures_of(part)} for part in self.parts]
        return [k for k, state in enumerate(states) if "cancelled" in state]

    def _each(self, z: Array, slopes: bool) -> list[Any]:
        dask = _dask()
        evaluated = dask.delayed(_evaluated, pure=False)
        # A group of tasks for each call: Dask takes a larger one, of few parts, for one that makes data, and
        # moves the parts to whatever worker is idle.
        group = f"evaluated-{uuid.uuid4().hex}"
        return [evaluated(part, z, slopes, dask_key_name=(group, k)) for k, part in enumerate(self.parts)]

    def sums(self, z: Array, slopes: bool) -> Array:
        """The sums of all parts at points (S, D)."""
        dask = _dask()
        each, added = self._each(z, slopes), dask.delayed(_added, pure=False)
        while len(each) > _ADDED:
            each = [added(*each[k : k + _ADDED]) for k in range(0, len(each), _ADDED)]
        return _added(*self.compute(each))

    def reason(self, z: Array) -> str:
        """Which parts have no density at a point."""
        found = [float(values[0, 0]) for values in self.compute(self._each(np.reshape(z, (1, -1)), False))]
        named = [f"part {k} is {value}" for k, value in enumerate(found) if not value > -np.inf]
        return ", ".join(named[:8]) + (f", and {len(named) - 8} more" if len(named) > 8 else "")


# Batches of fits

#: Fields of a FitBatch with an entry for each data set.
_COLUMNS = (
    "mean",
    "elbo",
    "error",
    "gradient_norm",
    "evaluations",
    "converged",
    "codes",
    "_factors",
    "_wheres",
)


@_noted("block {} of the datasets of fastvi.dask.fit_batch")
def _fitted(number: int, packed: bytes, datasets: Any) -> list[Any]:
    """The columns of the fits of a block of data sets."""
    model, family, start, rtol, max_steps = _unpacked(packed)
    found = batches.fit_batch(model, datasets, family, start, rtol=rtol, max_steps=max_steps)
    return [getattr(found, name) for name in _COLUMNS]


# Nearest rows


def _nearest(da: Any, every: Any, k: int) -> tuple[Any, Any]:
    """(the k least entries of each row of a Dask array, their columns)."""
    found = da.reduction(
        da.blockwise(
            _pairs_of, "ij", every, "ij", da.arange(every.shape[1], chunks=every.chunks[1]), "j", dtype=_PAIR
        ),
        chunk=partial(_least, k=k),
        aggregate=partial(_least, k=k),
        axis=1,
        keepdims=True,
        dtype=_PAIR,
        output_size=k,
        split_every=_ADDED,
    )
    return found["value"], found["column"]


#: An entry and its column.
_PAIR = np.dtype([("value", np.float64), ("column", np.int64)])


def _pairs_of(values: Array, columns: Array) -> Any:
    found = np.empty(values.shape, _PAIR)
    found["value"], found["column"] = values, columns
    return found


def _least(found: Any, k: int, axis: Any = None, keepdims: Any = None) -> Any:
    """The k least pairs of each row, in their order; of equal ones the first. NaN is the largest."""
    values = found["value"]
    if k < values.shape[1]:
        chosen = np.sort(np.argpartition(values, k - 1, axis=1)[:, :k], axis=1)
        last = np.take_along_axis(values, chosen, 1).max(axis=1)
        for row in np.flatnonzero(~((values <= last[:, None]).sum(axis=1) == k)):  # equal ones, or NaN
            chosen[row] = np.sort(np.argsort(values[row], kind="stable")[:k])
        found = np.take_along_axis(found, chosen, 1)
    order = np.argsort(found["value"], axis=1, kind="stable")
    return np.take_along_axis(found, order, 1)
