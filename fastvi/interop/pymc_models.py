"""Models of PyMC, through the C functions that nutpie compiles, or through JAX."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ..common.extras import required
from ..common.validation import choice
from ..common.values import Array
from ..inference.foreign import ForeignModel, Names
from ..inference.model import Model
from ..inference.parameters import Axes, labels_of
from . import point_calls
from .jax_models import jax_model

#: nutpie's function for parameters: sizes of both arrays, the arrays, its data.
_EXPAND = ctypes.CFUNCTYPE(
    ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)

#: As `_EXPAND`, for the log density: a size, the point, the gradient, the value, its data.
_DENSITY = ctypes.CFUNCTYPE(
    ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)


def from_pymc(model: Any, backend: str = "numba") -> Model:
    r"""A model of PyMC, in its unconstrained coordinates: those of its value variables.

    Parameters
    ----------
    model : pymc.Model
        Its free variables are continuous. Data count as they are at the call.
    backend : {"numba", "jax"}, optional
        Who compiles it: nutpie with numba, whose functions are called in all threads; or JAX.

    Returns
    -------
    Model
        Its log joint is ``model.logp()``, with the log-Jacobians of PyMC's transforms.
        ``fit.sample(n, named=True)`` has the free variables and the deterministic ones by their names, and
        ``fit.to_arviz()`` also their dims and coords, as `pymc.compute_log_likelihood` and
        `pymc.sample_posterior_predictive` take them.

    Raises
    ------
    ImportError
        Without PyMC; without nutpie, or JAX.
    TypeError
        A model that is not one of PyMC.
    ValueError
        No free variables, discrete ones, or a log joint with random numbers in it (`pymc.Minibatch`); another
        backend.

    Notes
    -----
    To compile a model takes PyMC and numba some seconds. A point at which PyMC raises an exception has a
    density of zero.

    Examples
    --------
    >>> import fastvi as fv
    >>> import pymc as pm                                                      # doctest: +SKIP
    >>> with pm.Model() as model:                                              # doctest: +SKIP
    ...     mu = pm.Normal("mu", 0, 10)
    ...     sigma = pm.HalfNormal("sigma", 5)
    ...     pm.Normal("y", mu, sigma, observed=[1.0, 2.0, 4.0])
    >>> data = fv.fit(fv.from_pymc(model)).to_arviz()                          # doctest: +SKIP
    """
    pymc = required("pymc", "pymc", "fastvi.from_pymc")
    if not isinstance(model, pymc.Model):
        raise TypeError(f"model must be a pymc.Model, not {type(model).__name__}")
    if choice("backend", backend, ("numba", "jax")) == "numba":
        nutpie = required("nutpie", "pymc", 'fastvi.from_pymc with backend="numba"')
        _check(model)
        return _numba_model(model, nutpie.compile_pymc_model(model, backend="numba"))
    required("jax", "jax", 'fastvi.from_pymc with backend="jax"')
    _check(model)
    return _jax_model(model)


def _check(model: Any) -> None:
    """ValueError for a model that has no q."""
    if not model.free_RVs:
        raise ValueError("the PyMC model has no free variables")
    discrete = [variable.name for variable in model.free_RVs if not variable.dtype.startswith("float")]
    if discrete:
        raise ValueError(
            f"the PyMC model has discrete free variables: {', '.join(discrete)}; sum them out first, as "
            "pymc_extras.marginalize does"
        )
    if _has_random_numbers(model.logp()):
        raise ValueError("the log joint of the PyMC model has random numbers in it, as that of a Minibatch")


def _has_random_numbers(variable: Any) -> bool:
    """Whether a generator is among what a variable is computed from."""
    from pytensor.tensor.random.type import RandomType

    seen, left = set(), [variable]
    while left:
        one = left.pop()
        if isinstance(one.type, RandomType):
            return True
        if one not in seen and one.owner is not None:
            left += one.owner.inputs
        seen.add(one)
    return False


def _parameters_of(model: Any) -> list[str]:
    """The names of the free variables and the deterministic ones."""
    return [variable.name for variable in [*model.free_RVs, *model.deterministics]]


def _axes(model: Any) -> Axes:
    """What the model calls its dimensions."""
    labels = {dim: found for dim, found in model.coords.items() if found is not None}
    return Axes(dict(model.named_vars_to_dims), labels)


class _Compiled:
    """What nutpie has compiled; its functions hold as long as this is referred to."""

    def __init__(self, model: Any, compiled: Any) -> None:
        self.compiled = compiled
        self.density = int(compiled.compiled_logp_func.address)
        self.data = int(compiled.user_data.ctypes.data)
        self.dim, self.size = int(compiled.n_dim), int(compiled.n_expanded)
        self.expand = _EXPAND(compiled.compiled_expand_func.address)
        names, places, shapes = compiled.shape_info
        self.parts = {
            name: (place, tuple(int(length) for length in shape))
            for name, place, shape in zip(names, places, shapes, strict=True)
        }
        self.wanted = _parameters_of(model)

    def labels(self, model: Any) -> list[str]:
        """A label for each coordinate: the names of value variables, in the order of the free ones."""
        names = [model.rvs_to_values[variable].name for variable in model.free_RVs]
        return labels_of(names, [self.parts[name][1] for name in names])

    def parameters(self, z: Array) -> dict[str, Array]:
        """The free and the deterministic variables at points (n, D), by their names."""
        z, out = np.ascontiguousarray(z), np.empty((len(z), self.size))
        for row, values in zip(z, out, strict=True):
            if self.expand(self.dim, self.size, row.ctypes.data, values.ctypes.data, self.data):
                raise RuntimeError("PyMC raises an exception for the deterministic variables at a draw")
        found = {}
        for name in self.wanted:
            place, shape = self.parts[name]
            found[name] = out[:, place].reshape(-1, *shape)
        return found

    def reason(self, z: Array) -> str:
        """Why PyMC has no log density at a point, or an empty text."""
        z, gradient, value = np.ascontiguousarray(z), np.empty(self.dim), np.empty(1)
        places = (array.ctypes.data for array in (z, gradient, value))
        code = _DENSITY(self.density)(self.dim, *places, self.data)
        return "PyMC raises an exception there" if code not in (0, *point_calls.WITHOUT_VALUE) else ""


def _numba_model(model: Any, found: Any) -> Model:
    compiled, functions = _Compiled(model, found), point_calls.functions("pymc")
    names = Names(compiled.labels(model), compiled.parameters, compiled.reason, axes=_axes(model))
    table = np.array([compiled.density, compiled.data], np.int64)
    value, slopes = (int(function.address) for function in functions)
    return ForeignModel("from_pymc", value, slopes, compiled.dim, table, (compiled, functions), names=names)


def _jax_model(model: Any) -> Model:
    from pymc.sampling.jax import get_jaxified_graph

    inputs = [model.rvs_to_values[variable] for variable in model.free_RVs]
    wanted = _parameters_of(model)
    by_name = {variable.name: variable for variable in model.unobserved_value_vars}
    density = get_jaxified_graph(inputs=inputs, outputs=[model.logp()])
    expand = get_jaxified_graph(inputs=inputs, outputs=[by_name[name] for name in wanted])
    start = model.initial_point()
    words = [variable.name for variable in inputs]

    def constrain(position: Any) -> Any:
        return dict(zip(wanted, expand(*position), strict=True))

    return jax_model(
        "from_pymc",
        lambda position: density(*position)[0],
        [np.asarray(start[word], np.float64) for word in words],
        constrain,
        words,
        _axes(model),
    )
