"""Models: a log joint, its data, and the support of its latent variables."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from .. import kernels
from ..common.immutable import Immutable, frozen
from ..common.validation import finite_array, float_array
from ..common.values import Array
from ..distributions.support import Support

_lock = threading.RLock()


def _packed(name: str, value: Any) -> tuple[Any, Any]:
    """One item of data as (numba type, array or number)."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill or drop the masked entries first")
    if isinstance(value, bool | np.bool_):
        return types.boolean, bool(value)
    if isinstance(value, int | np.integer):
        return types.int64, int(value)
    if isinstance(value, float | np.floating):
        return types.float64, float(value)
    if isinstance(value, list | tuple):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        if value.ndim == 0:
            return _packed(name, value.item())
        if value.size == 0:
            raise ValueError(f"{name} is empty: its shape is {value.shape}")
        array = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="), copy=False))
        if not array.flags.aligned:
            array = array.copy()
        return types.Array(numba.from_dtype(array.dtype), array.ndim, "C"), array
    raise TypeError(
        f"{name} must be a real number or a non-empty numeric array, not {type(value).__name__}"
        + (f" of dtype {value.dtype}" if isinstance(value, np.ndarray) else "")
    )


def pack(data: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...], NDArray[np.int64]]:
    """(numba types, values to keep alive, table of words) of a tuple of data."""
    kinds, values, words = [], [], []
    for k, item in enumerate(data):
        kind, value = _packed(f"data[{k}]", item)
        kinds.append(kind)
        values.append(value)
        if isinstance(kind, types.Array):
            words += [value.ctypes.data, *value.shape]
        elif kind is types.float64:
            words.append(int(np.float64(value).view(np.int64)))
        else:
            words.append(int(value))
    # An empty table still needs an address.
    return tuple(kinds), tuple(values), np.array(words or [0], np.int64)


def _jitted(name: str, function: Any) -> Any:
    if isinstance(function, numba.core.registry.CPUDispatcher):
        return function
    if not inspect.isfunction(function):
        raise TypeError(f"{name} must be a function, plain or jitted, not {type(function).__name__}")
    return _jit_of(function)


#: Functions, and compiled log joints, that are remembered after the last model that has them is gone.
_MOST = 128

_jits: dict[Any, Any] = {}
_compiled: dict[Any, Any] = {}
_compilations = 0


def _remembered(cache: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """The entry of a cache, made if it is not there; the least recently used one leaves a full cache."""
    with _lock:
        value = cache.pop(key, None)
        if value is None:
            value = make()
        cache[key] = value
        if len(cache) > _MOST:
            del cache[next(iter(cache))]
        return value


def _jit_of(function: Any) -> Any:
    """One dispatcher for a plain function, so that a second model compiles nothing."""
    return _remembered(_jits, function, lambda: numba.njit(function))


def _check_arity(name: str, function: Any, wanted: Sequence[str]) -> None:
    try:
        signature = inspect.signature(getattr(function, "py_func", function))
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*wanted)
    except TypeError:
        raise TypeError(
            f"{name}{signature} must take {len(wanted)} arguments: ({', '.join(wanted)})"
        ) from None


class Model(Immutable):
    r"""A log joint density log p(x, z; θ) with its data x, as a function of the latent variables z.

    Parameters
    ----------
    log_joint : callable
        ``log_joint(z, *data)``, or ``log_joint(z, theta, *data)`` where `theta` is given: a jitted function,
        or a plain one, which is jitted. `z` is a read-only 1-D float64 array of `dim` entries. The result is
        a float, the logarithm of the joint density, which need not be normalised; -inf where it is zero.
    dim : int
        The number of latent variables.
    data : tuple, optional
        Numbers and numeric arrays, which are not copied. New data of the same types compile nothing.
    support : str or tuple or list of them, optional
        "real" (default), "positive", ("lower", a), ("upper", b), ("interval", a, b) or "simplex"; one for all
        coordinates, or a list with one for each. Consecutive "simplex" entries are one simplex, whose density
        is that of all its entries but the last. Gaussians are then put on transformed coordinates: log(z -
        a), log(b - z), the logit of (z - a) / (b - a), and logits of broken sticks.
    log_joint_grad : callable, optional
        ``log_joint_grad(z, grad, *data)`` writes the gradient in z and returns the value.
    theta : array_like, optional
        Parameters, for `maximize_evidence`.

    Raises
    ------
    TypeError
        Functions that are none, that take another number of arguments, that cannot be compiled, or that write
        to z; data of other kinds.
    ValueError
        A `dim` below 1, a support that is none, empty data.

    Notes
    -----
    A model is pickled with its functions, lambdas and closures too, as numba pickles them: by their code and
    the globals that they use. What these refer to must be importable or of a kind that can be pickled; the
    receiving process compiles the functions again.

    The last 128 functions are remembered: another model of one of them compiles nothing. Numba does not
    free machine code: each new function takes 1 to 2 MB for the life of the process, new data take nothing.

    Examples
    --------
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
    >>> fv.Model(log_joint, 1, data=(3.0,))
    Model(log_joint, dim=1, support='real', data=1 item)
    """

    __slots__ = (
        "_address",
        "_callbacks",
        "_dispatcher",
        "_gradient",
        "_gradient_address",
        "_support",
        "_table",
        "_theta",
        "_types",
        "data",
        "dim",
    )
    dim: int
    data: tuple[Any, ...]
    _support: Support
    _table: NDArray[np.int64]
    _theta: Array
    _callbacks: tuple[Any, ...]
    _address: int
    _gradient_address: int

    def __init__(
        self,
        log_joint: Callable[..., float],
        dim: int,
        data: Sequence[Any] = (),
        support: Any = "real",
        log_joint_grad: Callable[..., float] | None = None,
        theta: Any = None,
    ) -> None:
        fill = object.__setattr__
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
            raise ValueError(f"dim must be a positive integer, not {dim!r}")
        if not isinstance(data, tuple):
            raise TypeError(f"data must be a tuple, not {type(data).__name__}: write (x,) for one item")
        fill(self, "dim", int(dim))
        fill(self, "_support", Support(support, int(dim)))
        parameters = np.zeros(0)
        if theta is not None:
            parameters = finite_array("theta", np.atleast_1d(float_array("theta", theta)), 1, "(T,)")
        fill(self, "_theta", parameters)
        fill(self, "_dispatcher", _jitted("log_joint", log_joint))
        gradient = None if log_joint_grad is None else _jitted("log_joint_grad", log_joint_grad)
        fill(self, "_gradient", gradient)
        names = ["theta"] if theta is not None else []
        items = [f"data[{k}]" for k in range(len(data))]
        _check_arity("log_joint", log_joint, ["z", *names, *items])
        if gradient is not None:
            _check_arity("log_joint_grad", log_joint_grad, ["z", "grad", *names, *items])
        self._set_data(data)
        # The kernels know the functions by their addresses alone, which hold as long as the callbacks live.
        callbacks = [_callback(self._dispatcher, self._types, theta is not None, False)]
        if gradient is not None:
            callbacks.append(_callback(gradient, self._types, theta is not None, True))
        fill(self, "_callbacks", tuple(callbacks))
        fill(self, "_address", int(callbacks[0].address))
        fill(self, "_gradient_address", 0 if gradient is None else int(callbacks[1].address))

    def _set_data(self, data: tuple[Any, ...]) -> None:
        fill = object.__setattr__
        kinds, values, table = pack(data)
        fill(self, "data", values)
        fill(self, "_types", kinds)
        fill(self, "_table", table)

    _dispatcher: Any
    _gradient: Any
    _types: tuple[Any, ...]

    @property
    def support(self) -> Any:
        """Where the latent variables live, as it was declared."""
        return self._support.declared

    @property
    def theta(self) -> Array | None:
        """The parameters, read-only; None where the model has none."""
        return frozen(self._theta.copy()) if self._theta.size else None

    @property
    def _arguments(self) -> tuple[Any, ...]:
        """What the log joint takes after z."""
        return (self._theta, *self.data) if self._theta.size else self.data

    @property
    def latent_dim(self) -> int:
        """The number of real coordinates that q is Gaussian in: `dim`, less one for each simplex."""
        return self._support.latent_dim

    def with_data(self, data: tuple[Any, ...]) -> Model:
        """The same model with other data of the same types; nothing is compiled.

        Examples
        --------
        >>> import fastvi as fv
        >>> def log_joint(z, x):
        ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
        >>> fv.Model(log_joint, 1, data=(3.0,)).with_data((4.0,)).data
        (4.0,)
        """
        other = self._copy()
        if not isinstance(data, tuple):
            raise TypeError(f"data must be a tuple, not {type(data).__name__}: write (x,) for one item")
        other._set_data(data)
        if other._types != self._types:
            raise TypeError(f"data must have the types {self._types}, not {other._types}: make a new Model")
        return other

    def with_theta(self, theta: Any) -> Model:
        """The same model with other parameters; nothing is compiled.

        Examples
        --------
        >>> import fastvi as fv
        >>> def log_joint(z, theta, x):
        ...     return -0.5 * (z[0] - theta[0]) ** 2 - 0.5 * (x - z[0]) ** 2
        >>> fv.Model(log_joint, 1, data=(3.0,), theta=[0.0]).with_theta([1.0]).theta
        array([1.])
        """
        values = finite_array("theta", np.atleast_1d(float_array("theta", theta)), 1, "(T,)")
        if values.shape != self._theta.shape:
            raise ValueError(f"theta must have shape {self._theta.shape}, not {values.shape}")
        other = self._copy()
        object.__setattr__(other, "_theta", values)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        # Addresses hold in this process only.
        theta = self._theta if self._theta.size else None
        return Model, (self._dispatcher, self.dim, self.data, self.support, self._gradient, theta)

    def _copy(self) -> Model:
        other = Model.__new__(Model)
        for name in self.__slots__:
            object.__setattr__(other, name, getattr(self, name))
        return other

    def log_density(self, z: Any) -> Any:
        """The log joint at `z`, shape (..., D): a float for one point, else an array (...).

        Examples
        --------
        >>> import fastvi as fv
        >>> def log_joint(z, x):
        ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
        >>> fv.Model(log_joint, 1, data=(3.0,)).log_density([1.0])
        -2.5
        """
        points = np.asarray(float_array("z", z), dtype=np.float64)
        if points.ndim == 0 or points.shape[-1] != self.dim:
            raise ValueError(f"z must have shape (..., {self.dim}), not {points.shape}")
        rows = points.reshape(-1, self.dim)
        values = np.array([self._dispatcher(row.copy(), *self._arguments) for row in rows])
        return values.reshape(points.shape[:-1]) if points.ndim > 1 else float(values[0])

    def __repr__(self) -> str:
        name = getattr(getattr(self._dispatcher, "py_func", self._dispatcher), "__name__", "log_joint")
        items = f"{len(self.data)} item{'s' if len(self.data) != 1 else ''}"
        return f"Model({name}, dim={self.dim}, support={self.support!r}, data={items})"


def compiled_count() -> int:
    """How many (function, types) have been compiled so far: new data of known types add nothing."""
    return _compilations


def _callback(dispatcher: Any, kinds: tuple[Any, ...], has_theta: bool, with_gradient: bool) -> Any:
    """The compiled C function, which lives as long as it is referred to: models keep theirs."""
    key = dispatcher, kinds, has_theta, with_gradient
    return _remembered(_compiled, key, lambda: _compile(*key))


def _compile(dispatcher: Any, kinds: Any, has_theta: bool, with_gradient: bool) -> Any:
    global _compilations
    _compilations += 1
    name = "log_joint_grad" if with_gradient else "log_joint"
    try:
        return kernels.models.packing.make(dispatcher, kinds, has_theta, with_gradient)
    except NumbaError as error:
        text = str(error)
        if "readonly" in text and "setitem" in text:
            raise TypeError(f"{name} writes to z (or to data), which it must only read") from error
        arguments = ", ".join(["z: float64[:]", *(["grad: float64[:]"] if with_gradient else [])])
        arguments += ", theta: float64[:]" if has_theta else ""
        arguments += "".join(f", {kind}" for kind in kinds)
        reason = next((line for line in reversed(text.splitlines()) if line.strip()), text)
        cause = _first_cause(text)
        raise TypeError(f"{name}({arguments}) -> float cannot be compiled: {cause or reason}") from error


def _first_cause(text: str) -> str:
    """The line of numba's report that says what is wrong."""
    for line in text.splitlines():
        words = line.strip()
        if words and not words.startswith(("Failed in nopython", "-", "During:", "File", ">>>", "There are")):
            return words
    return ""
