"""Models: a log joint, its data, and the support of its latent variables.

Everything in `fastvi.inference` takes a `Model`; `target_of` is what the kernels get of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..common.immutable import Immutable, frozen
from ..common.threads import patiently
from ..common.validation import finite_array, float_array
from ..common.values import Array, in_shape, tidy
from ..distributions.support import Support
from .compilation import Forward, c_function, check_arity, dispatcher_of, flat_dispatcher
from .packing import Table, pack
from .parameters import Axes, Layout, check_names, layout_of
from .sharing import GRADIENTS, VALUE, Sharing, failures, seconds_of

#: Rows whose log densities may take so long that Ctrl-C must be heard; the thread for it takes 30 µs.
_MANY_ROWS = 256

#: Values that differ by less than this, of their size or of 1, are those of the same function.
_SAME = 1e-8


class Model(Immutable):
    r"""A log joint density log p(x, z; θ) with its data x, as a function of the latent variables z.

    Parameters
    ----------
    log_joint : callable
        ``log_joint(z, *data)``, or ``log_joint(z, theta, *data)`` where `theta` is given: a jitted function,
        or a plain one, which is jitted. What it refers to (globals, closures) counts as it is when the model
        is made; another model of the same function is compiled anew where that has changed. `z` is a
        read-only 1-D float64 array of `dim` entries. The result is a float, the logarithm of the joint
        density, which need not be normalised; -inf where it is zero.
    dim : int or dict
        The number of latent variables, or their names, each with its support, its shape, or both:
        ``{"mu": "real", "tau": "positive", "theta": (8,), "s": ("positive", (2, 3)), "w": ("simplex", 4)}``.
        With names the log joint gets a NamedTuple p instead of z, of numbers ``p.tau`` and read-only views
        ``p.theta[j]``; they lie in z in this order. `support` is left out.
    data : tuple, optional
        Numbers and non-empty numeric arrays, which are not copied if they are in C order and aligned. New
        data of the same types compile nothing.
    support : str or tuple or list of them, optional
        A word or tuple for all coordinates, or a list with one for each of them or each group of them:

        ======================== =======================================================================
        "real" (default)         any number; its latent coordinate is z
        "positive"               z > 0, by log z
        ("lower", a)             z > a, by log(z - a)
        ("upper", b)             z < b, by log(b - z)
        ("interval", a, b)       a < z < b, by the logit of (z - a) / (b - a)
        ("simplex", k)           k shares of 1, by k - 1 logits of stick breaking
        ("ordered", k)           rising numbers, by the first and the logarithms of the differences
        ("positive_ordered", k)  the same above 0, by the logarithm of the first as well
        ("cholesky_corr", k)     the lower Cholesky factor of a k × k correlation matrix, k² entries in rows,
                                 by k (k - 1) / 2 inverse hyperbolic tangents of partial correlations
        ======================== =======================================================================

        The ends a and b are numbers, or arrays with one for each of as many coordinates. "simplex",
        "ordered" and "positive_ordered" alone stand for all coordinates; in a list, consecutive equal ones
        are one group. The density of a simplex is that of all entries but the last, that of a factor of the
        entries below the diagonal. A q is Gaussian in the latent coordinates.
    log_joint_grad : callable or {"forward", "differences"}, optional
        ``log_joint_grad(z, grad, *data)`` writes the gradient in z and returns the value; with names
        ``grad.tau = ...`` and ``grad.theta[j] = ...``. "forward" compiles the log joint for dual numbers,
        with exact derivatives in eight directions at once; "differences" are those of values. Default:
        "forward" where it can be had, else "differences"; see Notes.
    theta : array_like, optional
        Parameters, for `maximize_evidence`.

    Raises
    ------
    TypeError
        A `log_joint` that is not a function, takes another number of arguments, cannot be compiled, or writes
        to z; data of other kinds; a `dim` that is no integer; "forward" for a log joint that has no
        derivatives by it, with the reason.
    ValueError
        A `dim` below 1, an unknown support, empty data, a theta that is not finite; a name that is no
        identifier, a shape with a zero, a support that does not fit its shape, a function that asks for a
        name that is not there, or has an argument with the name of a parameter.

    Notes
    -----
    A model is immutable. It is pickled with its functions, lambdas and closures too, as numba pickles them:
    by their code and the globals that they use, which must themselves be importable or picklable. The
    receiving process compiles the functions again.

    Forward differentiation knows arithmetic, powers, comparisons, branches and loops, the functions of `math`
    and numpy's of one and two numbers, `fastvi.densities`, jitted functions of these, and of arrays of
    parameters entries, slices, sums, extremes, products with data (``x @ p.beta``), and arithmetic entry by
    entry. What it does not know is refused by its type, as are conversions that would lose a derivative
    (``int(z[0])``, ``z[0] % 1.0``, an array of floats that is allocated and filled): such a model takes
    differences. ``gradient`` says which; "forward" raises the reason. Where a derivative jumps, as that of
    abs at 0, it is 0 or that of one side; where it is not finite and the value is, a difference takes its
    place. It is compiled when a fit first asks for gradients, which those of up to two latent variables do
    not, and shared by all models of the function with data of these types; at three points its values are
    compared to the log joint's. A model that is made in compiled code has no gradient, and needs none.

    A log joint that takes a millisecond or more is called from several threads at once, see
    `set_num_threads`; not if it writes to its data, draws random numbers, calls Python, or has threads of its
    own.

    The last 128 functions are remembered: another model of one of them compiles nothing. Numba does not
    free machine code: each new function takes 1 to 2 MB for the life of the process, new data take nothing.

    References
    ----------
    Latent coordinates: A. Kucukelbir et al., Automatic Differentiation Variational Inference, JMLR 18 (2017),
    section 2.3; Stan Development Team, Stan Reference Manual, chapter Constraint Transforms (simplexes by
    stick breaking, as in Stan up to 2.36).

    Examples
    --------
    >>> import fastvi as fv
    >>> def log_joint(z, x):
    ...     return -0.5 * z[0] ** 2 - 0.5 * (x - z[0]) ** 2
    >>> fv.Model(log_joint, 1, data=(3.0,))
    Model(log_joint, dim=1, support='real', data=1 item)

    With names, and `fastvi.densities`:

    >>> def log_joint(p, y):
    ...     prior = fv.densities.normal(p.mu, 0.0, 10.0) + fv.densities.half_cauchy(p.sigma, 5.0)
    ...     return prior + fv.densities.normal(y, p.mu, p.sigma)
    >>> model = fv.Model(log_joint, {"mu": "real", "sigma": "positive"}, ([1.0, 2.0, 4.0],))
    >>> round(fv.fit(model)["mu"].mean, 1)
    2.3
    """

    __slots__ = (
        "_address",
        "_callbacks",
        "_dispatcher",
        "_forward",
        "_functions",
        "_gradient",
        "_gradient_address",
        "_gradient_choice",
        "_layout",
        "_sharing",
        "_support",
        "_table",
        "_theta",
        "_time",
        "_types",
        "data",
        "dim",
    )
    dim: int
    data: tuple[Any, ...]
    #: Whether a call of the log joint costs more than the points that it is for, see `lockstep`.
    _calls_are_expensive: bool = False
    #: Whether a call is one of a Python function.
    _calls_python: bool = False
    _dispatcher: Any
    _gradient: Any
    _gradient_choice: str
    _forward: Forward
    _functions: tuple[Any, Any]
    _layout: Layout | None
    _callbacks: tuple[Any, ...]
    _address: int
    _gradient_address: int
    _sharing: Sharing | None
    _support: Support
    _theta: Array
    _time: float | None
    _types: tuple[Any, ...]
    _table: Table

    def __init__(
        self,
        log_joint: Callable[..., float],
        dim: int | Mapping[str, Any],
        data: Sequence[Any] = (),
        support: Any = "real",
        log_joint_grad: Callable[..., float] | str | None = None,
        theta: Any = None,
    ) -> None:
        fill = object.__setattr__
        layout = None
        if isinstance(dim, Mapping):
            if support != "real":
                raise ValueError(
                    "parameters with names have their supports beside their names: give no support"
                )
            layout = layout_of(dim)
            where = Support(layout.support, layout.dim)
        else:
            where = Support(support, dim)
        if not isinstance(data, tuple):
            raise TypeError(f"data must be a tuple, not {type(data).__name__}: write (x,) for one item")
        fill(self, "dim", where.dim)
        fill(self, "_support", where)
        fill(self, "_layout", layout)
        parameters = np.zeros(0)
        if theta is not None:
            parameters = finite_array("theta", np.atleast_1d(float_array("theta", theta)), 1, "(T,)")
        fill(self, "_theta", parameters)
        value = dispatcher_of("log_joint", log_joint)
        choice, gradient = "written", None
        if log_joint_grad is None or isinstance(log_joint_grad, str):
            choice = _checked_choice(log_joint_grad)
        else:
            gradient = dispatcher_of("log_joint_grad", log_joint_grad)
        fill(self, "_gradient_choice", choice)
        fill(self, "_functions", (value, gradient))
        names = ["theta"] if theta is not None else []
        items = [f"data[{k}]" for k in range(len(data))]
        point = ["z"] if layout is None else ["p"]
        check_arity("log_joint", log_joint, [*point, *names, *items])
        if gradient is not None:
            check_arity("log_joint_grad", log_joint_grad, [*point, "grad", *names, *items])
        if layout is not None:
            check_names("log_joint", log_joint, layout, point)
            value = flat_dispatcher(value, layout.fields, False)
            if gradient is not None:
                check_names("log_joint_grad", log_joint_grad, layout, [*point, "grad"])
                gradient = flat_dispatcher(gradient, layout.fields, True)
        fill(self, "_dispatcher", value)
        fill(self, "_gradient", gradient)
        self._set_data(data)
        # The kernels call the functions by address; an address holds as long as its callback is referred to.
        callbacks = [c_function(self._dispatcher, self._types, theta is not None, False)]
        if gradient is not None:
            callbacks.append(c_function(gradient, self._types, theta is not None, True))
        fill(self, "_callbacks", tuple(callbacks))
        fill(self, "_address", int(callbacks[0].address))
        fill(self, "_gradient_address", 0 if gradient is None else int(callbacks[1].address))
        fields = None if layout is None else layout.fields
        forward = Forward(self._functions[0], fields, self._types, theta is not None, callbacks[0])
        fill(self, "_forward", forward)
        fill(self, "_sharing", Sharing())
        if choice == "forward" and not self._slopes_address:
            raise TypeError(f"log_joint has no gradient by forward differentiation: {self._forward.reason}")

    def _set_data(self, data: tuple[Any, ...]) -> None:
        fill = object.__setattr__
        kinds, values, table = pack(data)
        fill(self, "data", values)
        fill(self, "_types", kinds)
        fill(self, "_table", table)
        fill(self, "_time", None)

    @property
    def support(self) -> Any:
        """The support of the latent variables, as it was declared."""
        return self._support.declared

    @property
    def parameters(self) -> dict[str, Any] | None:
        """The parameters as they were declared by names; None where they have none."""
        return None if self._layout is None else copy.deepcopy(self._layout.declared)

    @property
    def theta(self) -> Array | None:
        """The parameters, read-only; None where the model has none."""
        return frozen(self._theta.copy()) if self._theta.size else None

    @property
    def gradient(self) -> str:
        """Where gradients come from: "written", "forward" or "differences".

        It compiles forward differentiation where no fit has yet.

        Examples
        --------
        >>> import fastvi as fv
        >>> fv.Model(lambda z: -z[0] ** 4 - z[1] ** 2, 2).gradient
        'forward'
        """
        if self._gradient_address:
            return "written"
        return "forward" if self._slopes_address else "differences"

    @property
    def _slopes_address(self) -> int:
        """The address of the function that gives gradients; 0 where they are differences."""
        if self._gradient_address or self._gradient_choice not in ("", "forward"):
            return self._gradient_address
        return self._forward.address(self._is_right)

    def _is_right(self, address: int) -> bool:
        """Whether a function that gives gradients has the values of the log joint, at three points."""
        points, model = self._somewhere(3), self._with_copies()
        values, failed = model._tabulate(points)
        found, also = model._tabulate(points, np.empty(points.shape), address)
        known = slice(failed - 1 if failed else None)
        return failed == also and np.allclose(found[known], values[known], _SAME, _SAME, equal_nan=True)

    def _somewhere(self, count: int) -> Array:
        """So many points, to find out what the functions do."""
        latent = np.cos(np.arange(1.0, count * self.latent_dim + 1.0)).reshape(count, -1)
        return self._support.to_model(latent)[0]

    @property
    def _seconds(self) -> float:
        """The time that the log joint takes at a point, measured once for these data."""
        if self._time is None:
            object.__setattr__(self, "_time", seconds_of(self))
        assert self._time is not None
        return self._time

    @property
    def _arguments(self) -> tuple[Any, ...]:
        """The arguments of the log joint after z."""
        return (self._theta, *self.data) if self._theta.size else self.data

    @property
    def latent_dim(self) -> int:
        """The number of latent coordinates, in which q is Gaussian; simplexes and factors have fewer."""
        return self._support.latent_dim

    def with_data(self, data: tuple[Any, ...]) -> Model:
        """The same model with other data of the same types; nothing is compiled.

        Parameters
        ----------
        data : tuple
            As for `Model`.

        Returns
        -------
        Model

        Raises
        ------
        TypeError
            Data that are not a tuple, or of other types.

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

        Parameters
        ----------
        theta : array_like, shape (T,)

        Returns
        -------
        Model

        Raises
        ------
        ValueError
            Another number of parameters, or one that is not finite; a model without theta.

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
        # Addresses hold in one process only: the functions are pickled, and compiled where they arrive.
        theta = self._theta if self._theta.size else None
        log_joint, gradient = self._functions
        if gradient is None:
            gradient = self._gradient_choice or None
        named = self._layout is not None
        dim, support = (self.parameters, "real") if named else (self.dim, self.support)
        return Model, (log_joint, dim, self.data, support, gradient, theta)

    def _copy(self) -> Model:
        other = Model.__new__(Model)
        for name in self.__slots__:
            object.__setattr__(other, name, getattr(self, name))
        return other

    def _with_table(self, table: Table) -> Model:
        """The same model for the kernels on packed data of many; `data` stays. Fits of many have threads."""
        other = self._copy()
        object.__setattr__(other, "_table", table)
        object.__setattr__(other, "_sharing", None)
        return other

    def _with_copies(self) -> Model:
        """Copies of data and theta: a gradient that writes to them leaves the model alone."""
        data = tuple(item.copy() if isinstance(item, np.ndarray) else item for item in self.data)
        other = self.with_data(data)
        return other if self.theta is None else other.with_theta(self.theta)

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
        tabulate = partial(self._tabulate, rows)
        many = len(rows) > _MANY_ROWS and self._dispatcher is not None
        values, failed = patiently(tabulate) if many else tabulate()
        if failed:
            row = rows[failed - 1].copy()
            self._raise_at(row)
            raise RuntimeError(f"log_joint raised an exception at z = {tidy(row)}, but not again")
        return in_shape(values, points.shape[:-1])

    def _raise_at(self, z: Array, with_gradient: bool = False) -> None:
        """Raise the exception of the log joint at a point: compiled functions have none, jitted ones do."""
        self._dispatcher(z.copy(), *self._arguments)
        if with_gradient and self._gradient is not None:
            self._gradient(z.copy(), np.empty(self.dim), *self._arguments)

    def _raise_pending(self) -> None:
        """Raise an exception of a Python function that a kernel called, in this thread."""
        failures.release()

    def _reason(self, z: Array) -> str:
        """What another system says of a point where it has no density."""
        return ""

    @property
    def _note(self) -> str:
        """Of each ELBO and log evidence: `foreign.ForeignModel` may lack constants."""
        return ""

    def _named(self, z: Array) -> Any:
        """Points (n, D) by the names of the parameters."""
        if self._layout is None:
            raise TypeError("the model's parameters have no names: make it with a dict of names")
        return self._layout.split(z)

    def _variables(self, z: Array) -> dict[str, Array]:
        """Points (n, D) by the names of the parameters, or as z."""
        return {"z": z} if self._layout is None else self._layout.split(z)

    @property
    def _axes(self) -> Axes:
        """What the dimensions of the parameters are called, and the labels along them."""
        return Axes({}, {})

    @property
    def _labels(self) -> list[str]:
        """A word for each coordinate of z."""
        return [f"z[{i}]" for i in range(self.dim)] if self._layout is None else self._layout.labels

    def _tabulate(self, rows: Array, gradients: Array | None = None, address: int = 0) -> tuple[Array, int]:
        """(the log joint at rows of z, 0 or the number from 1 of the row where it raised an exception).

        By the compiled functions that fits call. With `gradients`, those are written by the function that
        gives them, or by that at an address, and its values are returned.
        """
        rows, values = np.array(rows, np.float64, order="C"), np.empty(len(rows))
        theta, table = self._theta, self._table
        arguments = [rows.ctypes.data, len(rows), self.dim, theta.ctypes.data, theta.size, table.ctypes.data]
        if gradients is None:
            failed = VALUE(self._address)(*arguments, values.ctypes.data)
        else:
            run = GRADIENTS(address or self._slopes_address)
            failed = run(*arguments, values.ctypes.data, gradients.ctypes.data)
        self._raise_pending()
        return values, int(failed)

    def __repr__(self) -> str:
        name = getattr(getattr(self._functions[0], "py_func", self._functions[0]), "__name__", "log_joint")
        items = f"{len(self.data)} item{'s' if len(self.data) != 1 else ''}"
        if self._layout is not None:
            return f"Model({name}, {self._layout.declared!r}, data={items})"
        return f"Model({name}, dim={self.dim}, support={self.support!r}, data={items})"


def _checked_choice(choice: str | None) -> str:
    """What is asked for instead of a function that writes the gradient; "" for the best there is."""
    if choice is not None and choice not in ("forward", "differences"):
        raise ValueError(f'log_joint_grad must be a function, "forward" or "differences", not {choice!r}')
    return choice or ""


def checked_model(model: Any) -> Model:
    """`model`, if it is a Model."""
    if not isinstance(model, Model):
        raise TypeError(f"model must be a Model, not {type(model).__name__}")
    return model


def target_of(model: Model, tables: Table | None = None, gradient: bool = False) -> tuple[Any, ...]:
    """A model as the kernels take it: an `entry_points.Target` as a plain tuple.

    `tables` are the packed data of many data sets, a row for each; by default there is one, the model's own.
    The `gradient` is compiled by the first call that asks for it.
    """
    model._raise_pending()
    support, value, slopes = model._support, model._address, model._slopes_address if gradient else 0
    # Many data sets have threads already.
    if tables is None and model._sharing is not None:
        value, slopes = model._sharing.addresses(model, value, slopes)
    return (
        value,
        slopes,
        model._theta,
        model._table[None] if tables is None else tables,
        support.kinds,
        support.bounds,
    )
