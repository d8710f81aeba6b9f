"""Models of JAX and NumPyro."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..common.extras import required
from ..common.values import Array
from ..inference.foreign import Names
from ..inference.model import Model
from ..inference.parameters import Axes, labels_of
from .blocks import evaluated_model, numbers_of

#: Points of the smallest block; larger ones have powers of two, so that JAX compiles few shapes.
_LEAST = 8


def from_jax(logdensity: Callable[[Any], Any], position: Any) -> Model:
    r"""A model whose log joint is a function of JAX.

    Parameters
    ----------
    logdensity : callable
        ``logdensity(position)`` for a pytree of arrays of real numbers; it is batched by ``jax.vmap``,
        differentiated and compiled.
    position : pytree of arrays
        Its structure and the shapes of its arrays count; the numbers do not.

    Returns
    -------
    Model
        Its z are the raveled positions, ``jax.flatten_util.ravel_pytree``. ``fit.sample(n, named=True)`` has
        the shape of `position`, with an axis of draws before those of each array.

    Raises
    ------
    ImportError
        Without JAX.
    ValueError
        An empty position.
    TypeError
        Leaves that are no arrays of floating-point numbers; a `logdensity` that is not a function.

    Warns
    -----
    UserWarning
        Without ``jax.config.update("jax_enable_x64", True)`` JAX computes in single precision, and a fit
        cannot reach its tolerance.

    Notes
    -----
    An exception of the function is raised as it is. Blocks are padded to 8, 16, 32, ... points: JAX compiles
    each number once.

    A fit waits for every call. On a CPU JAX hands each to a thread of its own, which takes twice as long as a
    small one itself (50 against 22 µs for eight points of eight schools). After
    ``jax.config.update("jax_cpu_enable_async_dispatch", False)``, before JAX is used, it does not.

    Examples
    --------
    >>> import fastvi as fv
    >>> import jax, jax.numpy as jnp                                           # doctest: +SKIP
    >>> jax.config.update("jax_enable_x64", True)                              # doctest: +SKIP
    >>> def logdensity(p):
    ...     return -0.5 * (p["mu"] - 3.0) ** 2 - 0.5 * (p["x"] ** 2).sum()
    >>> f = fv.fit(fv.from_jax(logdensity, {"mu": 0.0, "x": jnp.zeros(3)}))    # doctest: +SKIP
    >>> f.sample(1000, 0, named=True)["x"].shape                               # doctest: +SKIP
    (1000, 3)
    """
    return jax_model("from_jax", logdensity, position)


def jax_model(
    origin: str,
    logdensity: Callable[[Any], Any],
    position: Any,
    constrain: Callable[[Any], Any] | None = None,
    words: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> Model:
    """The model of a log density; `constrain` takes one position to what its parameters are.

    `words` are the names of the leaves of the position, by default their paths, and `axes` those of the
    parameters.
    """
    if not callable(logdensity):
        raise TypeError(f"logdensity must be a function, not {type(logdensity).__name__}")
    jax = required("jax", "jax", f"fastvi.{origin}")
    from jax.flatten_util import ravel_pytree

    paths, _ = jax.tree_util.tree_flatten_with_path(position)
    arrays = [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in paths]
    for name, array in arrays:
        if array.dtype.kind != "f":
            raise TypeError(f"position{name} must have floating-point numbers, not dtype {array.dtype}")
    vector, unravel = ravel_pytree(position)
    if vector.size == 0:
        raise ValueError("position has no numbers")
    if vector.dtype != np.float64:
        warnings.warn(
            "JAX computes in single precision, in which a fit does not converge to its tolerance: call "
            'jax.config.update("jax_enable_x64", True) first',
            UserWarning,
            stacklevel=3,
        )

    def density(z: Any) -> Any:
        return logdensity(unravel(z))

    def beside_gradients(z: Any) -> Any:
        found, gradients = jax.vmap(jax.value_and_grad(density))(z)
        return jax.numpy.concatenate([found[:, None], gradients], axis=1)

    values = jax.jit(jax.vmap(density))
    # One array comes back, which saves 9 of 30 µs for eight points.
    slopes = jax.jit(beside_gradients)
    parameters = jax.jit(jax.vmap(unravel if constrain is None else lambda z: constrain(unravel(z))))

    def evaluate(z: Array, with_slopes: bool) -> tuple[Array, Array | None]:
        count, rows = len(z), _padded(z, vector.dtype)
        if with_slopes:
            found = np.asarray(slopes(rows))
            return found[:count, 0], found[:count, 1:]
        return numbers_of("the values", values(rows), (len(rows),))[:count], None

    def named(z: Array) -> Any:
        tree = parameters(_padded(z, vector.dtype))
        return jax.tree_util.tree_map(lambda leaf: np.array(leaf)[: len(z)], tree)

    def flat(tree: Any) -> dict[str, Array]:
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        heads = [(_word(path) or "z").replace("/", ".") for path, _ in leaves]
        if len(set(heads)) < len(heads):
            heads = [jax.tree_util.keystr(path) for path, _ in leaves]
        return dict(zip(heads, (leaf for _, leaf in leaves), strict=True))

    if words is None:
        words = [("" if constrain is None else "z of ") + (_word(path) or "z") for path, _ in paths]
    shapes = [np.shape(leaf) for _, leaf in paths]
    names = Names(labels_of(words, shapes), named, flat=flat, axes=axes or Axes({}, {}))
    return evaluated_model(origin, evaluate, True, int(vector.size), names)


def _padded(z: Array, dtype: Any) -> Array:
    """The points, and copies of the first one up to a power of two, in an array of their own."""
    count = len(z)
    rows = np.empty((max(_LEAST, 1 << (count - 1).bit_length()), z.shape[1]), dtype)
    rows[:count] = z
    if count < len(rows):
        rows[count:] = z[0]
    return rows


def _word(path: Any) -> str:
    """A path in a pytree as one name: a.b.0."""
    parts = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path)
    return ".".join(map(str, parts))


def from_numpyro(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Model:
    r"""A model of NumPyro, in its unconstrained coordinates.

    Parameters
    ----------
    model : callable
        A NumPyro model, whose latent sites are continuous.
    *args, **kwargs
        Its arguments, the data among them.

    Returns
    -------
    Model
        Its log joint has the log-Jacobians of NumPyro's transforms. ``fit.sample(n, named=True)`` has the
        sites' constrained values, with the deterministic ones.

    Raises
    ------
    ImportError
        Without NumPyro.
    RuntimeError, ValueError
        What NumPyro raises for a model without latent sites, or with discrete ones.

    Warns
    -----
    UserWarning
        As `from_jax`.

    Examples
    --------
    >>> import fastvi as fv
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     sigma = numpyro.sample("sigma", dist.HalfCauchy(5.0))
    ...     numpyro.sample("y", dist.Normal(mu, sigma), obs=y)
    >>> f = fv.fit(fv.from_numpyro(model, y=y))                                # doctest: +SKIP
    """
    jax = required("jax", "jax", "fastvi.from_numpyro")
    required("numpyro", "jax", "fastvi.from_numpyro")
    from numpyro.infer.util import initialize_model

    found = initialize_model(jax.random.PRNGKey(0), model, model_args=args, model_kwargs=kwargs)
    position = found.param_info.z
    if not position:
        raise ValueError("the NumPyro model has no latent sites")
    discrete = [
        name
        for name, site in found.model_trace.items()
        if site["type"] == "sample" and not site["is_observed"] and site["fn"].support.is_discrete
    ]
    if discrete:
        raise ValueError(f"the NumPyro model has discrete latent sites: {', '.join(discrete)}")

    def logdensity(position: Any) -> Any:
        return -found.potential_fn(position)

    return jax_model("from_numpyro", logdensity, position, found.postprocess_fn)
