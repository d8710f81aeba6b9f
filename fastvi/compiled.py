"""Distributions and models inside the user's own `numba.njit` code: their types, and the functions of them.

There `Gaussian`, `GaussianMixture` and `Model` are plain values: they can be made, passed in from Python and
returned to it (a Model only passed in). As with arrays nothing is raised: an invalid argument makes the
result NaN, and `converged` is False. Results have the names of their Python counterparts, without what takes
text or memory to say. Scratch space is taken anew in each call, about 2 µs of it for a fit; the kernels take
it from the caller.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import (
    NativeValue,
    box,
    intrinsic,
    make_attribute_wrapper,
    models,
    overload,
    overload_attribute,
    overload_method,
    register_model,
    typeof_impl,
    unbox,
)

from . import divergences, estimates, inference, kernels, projections
from .distributions import Gaussian, GaussianMixture
from .kernels import statuses
from .models import _INTERVAL, _LOWER, _REAL, _SIMPLEX, _UPPER, Model
from .variational import TransformedGaussian

_VECTOR = types.Array(types.float64, 1, "C")
_MATRIX = types.Array(types.float64, 2, "C")
_MATRICES = types.Array(types.float64, 3, "C")

#: Kinds of a latent coordinate by the word that declares them.
_KINDS = {
    "real": _REAL,
    "positive": _LOWER,
    "lower": _LOWER,
    "upper": _UPPER,
    "interval": _INTERVAL,
    "simplex": _SIMPLEX,
}


class CompiledEstimate(NamedTuple):
    """`Estimate` in compiled code: a value in nats, its error, and how often the density was evaluated."""

    value: float
    error: float
    evaluations: int


class Optimum(NamedTuple):
    """One of the optima of a `CompiledProjection`."""

    q: Gaussian
    kl: float
    error: float
    gradient_norm: float
    converged: bool


class CompiledProjection(NamedTuple):
    """`Projection` in compiled code; `optima` is a list, best first."""

    q: Gaussian
    kl: float
    error: float
    gradient_norm: float
    converged: bool
    optima: list[Optimum]


class CompiledMatch(NamedTuple):
    """The M-projection in compiled code: q alone, whose divergence `fv.kl(p, m.q)` takes quadrature."""

    q: Gaussian
    converged: bool


class CompiledFit(NamedTuple):
    """`Fit` in compiled code: q is Gaussian in the latent coordinates, and `status` that of the kernel."""

    q: Gaussian
    elbo: CompiledEstimate
    gradient_norm: float
    converged: bool
    status: int


class _GaussianType(types.Type):
    def __init__(self):
        super().__init__("fastvi.Gaussian")


class _TransformedType(types.Type):
    def __init__(self):
        super().__init__("fastvi.TransformedGaussian")


class _MixtureType(types.Type):
    def __init__(self):
        super().__init__("fastvi.GaussianMixture")


class _ModelType(types.Type):
    """The log joint is part of the type: each has code of its own."""

    def __init__(self, log_joint, dim, latent, real, data):
        self.log_joint, self.dim, self.latent, self.real, self.data = log_joint, dim, latent, real, data
        super().__init__(f"fastvi.Model({log_joint}, {dim}, {latent}, {real}, {data})")


GAUSSIAN = _GaussianType()
MIXTURE = _MixtureType()
TRANSFORMED = _TransformedType()

#: The status of a fit in compiled code whose start is none.
INVALID_START = statuses.INVALID

FAMILY_MEAN = inference._FAMILIES["mean"]

_SUPPORT = [("kinds", types.Array(types.int64, 1, "C")), ("bounds", _MATRIX)]

_FIELDS: dict[Any, list[tuple[str, Any]]] = {
    _GaussianType: [("mean", _VECTOR), ("cholesky", _MATRIX)],
    _MixtureType: [("log_weights", _VECTOR), ("means", _MATRIX), ("choleskys", _MATRICES)],
    _TransformedType: [("mean", _VECTOR), ("cholesky", _MATRIX), *_SUPPORT],
}

#: Where the Python object keeps these fields.
_PLACES: dict[Any, tuple[str, ...]] = {
    _GaussianType: ("_mean", "_factor"),
    _MixtureType: ("_log_weights", "_means", "_factors"),
    _TransformedType: ("gaussian._mean", "gaussian._factor", "_support.kinds", "_support.bounds"),
    _ModelType: ("_arguments", "_support.kinds", "_support.bounds"),
}


def _fields(kind):
    """(name, type) of each member of a value of this type."""
    return [("data", kind.data), *_SUPPORT] if isinstance(kind, _ModelType) else _FIELDS[type(kind)]


@register_model(_GaussianType)
@register_model(_MixtureType)
@register_model(_TransformedType)
@register_model(_ModelType)
class _Struct(models.StructModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _fields(fe_type))


make_attribute_wrapper(_GaussianType, "mean", "mean")
make_attribute_wrapper(_GaussianType, "cholesky", "cholesky")
make_attribute_wrapper(_MixtureType, "log_weights", "_log_weights")
make_attribute_wrapper(_MixtureType, "means", "means")
make_attribute_wrapper(_MixtureType, "choleskys", "_choleskys")
make_attribute_wrapper(_TransformedType, "mean", "_mean")
make_attribute_wrapper(_TransformedType, "cholesky", "_cholesky")
make_attribute_wrapper(_ModelType, "data", "data")
for _type in (_TransformedType, _ModelType):
    make_attribute_wrapper(_type, "kinds", "_kinds")
    make_attribute_wrapper(_type, "bounds", "_bounds")


@typeof_impl.register(Gaussian)
def _typeof_gaussian(value, context):
    return GAUSSIAN


@typeof_impl.register(GaussianMixture)
def _typeof_mixture(value, context):
    return MIXTURE


@typeof_impl.register(TransformedGaussian)
def _typeof_transformed(value, context):
    return TRANSFORMED


@typeof_impl.register(Model)
def _typeof_model(value, context):
    data = types.BaseTuple.from_types([typeof_impl(item, context) for item in value._arguments])
    return _ModelType(
        types.Dispatcher(value._dispatcher), value.dim, value.latent_dim, value._support.is_real, data
    )


@unbox(_GaussianType)
@unbox(_MixtureType)
@unbox(_TransformedType)
@unbox(_ModelType)
def _unboxed(kind, obj, c):
    struct = cgutils.create_struct_proxy(kind)(c.context, c.builder)
    failed = cgutils.alloca_once_value(c.builder, cgutils.false_bit)
    for (field, part), path in zip(_fields(kind), _PLACES[type(kind)], strict=True):
        owner, held = obj, []
        for name in path.split("."):
            owner = c.pyapi.object_getattr_string(owner, name)
            held.append(owner)
        native = c.unbox(part, owner)
        setattr(struct, field, native.value)
        c.builder.store(c.builder.or_(c.builder.load(failed), native.is_error), failed)
        for each in held:
            c.pyapi.decref(each)
    return NativeValue(struct._getvalue(), is_error=c.builder.load(failed))


def _boxed(c, kind, value, make):
    struct = cgutils.create_struct_proxy(kind)(c.context, c.builder, value=value)
    arguments = [c.box(part, getattr(struct, field)) for field, part in _fields(kind)]
    function = c.pyapi.unserialize(c.pyapi.serialize_object(make))
    result = c.pyapi.call_function_objargs(function, arguments)
    for each in (*arguments, function):
        c.pyapi.decref(each)
    return result


@box(_GaussianType)
def _box_gaussian(kind, value, c):
    return _boxed(c, kind, value, Gaussian._from_factor)


@box(_MixtureType)
def _box_mixture(kind, value, c):
    return _boxed(c, kind, value, GaussianMixture._from_factors)


@box(_TransformedType)
def _box_transformed(kind, value, c):
    return _boxed(c, kind, value, TransformedGaussian._from_kinds)


def _maker(kind):
    """An intrinsic that makes a value of a type from its fields."""

    @intrinsic
    def make(typing_context, fields):
        names = [name for name, _ in _fields(kind)]

        def generate(context, builder, signature, arguments):
            struct = cgutils.create_struct_proxy(kind)(context, builder)
            for i, name in enumerate(names):
                part = builder.extract_value(arguments[0], i)
                context.nrt.incref(builder, fields.types[i], part)
                setattr(struct, name, part)
            return struct._getvalue()

        return kind(fields), generate

    return make


_gaussian = _maker(GAUSSIAN)
_mixture = _maker(MIXTURE)
_transformed = _maker(TRANSFORMED)


def _is_floats(kind, ndim):
    return isinstance(kind, types.Array) and kind.ndim == ndim and isinstance(kind.dtype, types.Float)


def _word(name, argument, value, allowed):
    """A word that must be known when the user's function is compiled."""
    value = getattr(value, "value", value)  # types.Omitted
    value = getattr(value, "literal_value", value)
    if isinstance(value, types.Type):
        raise TypingError(f"fastvi.{name}: {argument} must be a constant in compiled code, not {value}")
    if value not in allowed:
        raise TypingError(f"fastvi.{name}: {argument} must be one of {', '.join(allowed)}, not {value!r}")
    return allowed[value]


def _is_none(value):
    return value is None or isinstance(value, types.NoneType | types.Omitted)


def _symmetric_factor(cov, factor):
    raise NotImplementedError


@overload(_symmetric_factor)
def _overload_symmetric_factor(cov, factor):
    """Write the factor, NaN where there is none; whether there is one."""

    def compiled(cov, factor):
        good = kernels.matrices.cholesky(cov, factor)
        for i in range(cov.shape[0]):
            for j in range(i):
                gap = abs(cov[i, j] - cov[j, i])
                good = good and gap <= 1e-8 * math.sqrt(cov[i, i] * cov[j, j])
        if not good:
            kernels.matrices.fill_matrix(math.nan, factor)
        return good

    return compiled


@overload(Gaussian)
def _make_gaussian(mean, cov):
    if isinstance(mean, types.Float | types.Integer) and isinstance(cov, types.Float | types.Integer):

        def from_numbers(mean, cov):
            location, factor = (
                kernels.matrices.filled_vector(1, float(mean)),
                kernels.matrices.filled_matrix(1, 1, math.nan),
            )
            if 0.0 < cov < math.inf:
                factor[0, 0] = math.sqrt(cov)
            return _gaussian((location, factor))

        return from_numbers
    if not (_is_floats(mean, 1) and _is_floats(cov, 2)):
        raise TypingError(
            "fastvi.Gaussian in compiled code takes float arrays (D,) and (D, D), or two numbers, "
            f"not {mean} and {cov}"
        )

    def from_arrays(mean, cov):
        dim = mean.size
        location, factor = np.empty(dim), kernels.matrices.filled_matrix(dim, dim, math.nan)
        for i in range(dim):
            location[i] = mean[i]
        if cov.shape == (dim, dim):
            _symmetric_factor(cov, factor)
        return _gaussian((location, factor))

    return from_arrays


@overload(GaussianMixture)
def _make_mixture(weights, means, covs):
    if not (_is_floats(weights, 1) and _is_floats(means, 2) and _is_floats(covs, 3)):
        raise TypingError(
            "fastvi.GaussianMixture in compiled code takes float arrays (K,), (K, D) and (K, D, D), "
            f"not {weights}, {means}, {covs}"
        )

    def from_arrays(weights, means, covs):
        count, dim = means.shape
        logs, locations = kernels.matrices.filled_vector(count, math.nan), np.empty((count, dim))
        factors = np.empty((count, dim, dim))
        kernels.matrices.copy_matrix(means, locations)
        for k in range(count):
            kernels.matrices.fill_matrix(math.nan, factors[k])
        if weights.size == count and covs.shape == (count, dim, dim):
            total, good = 0.0, True
            for k in range(count):
                total += weights[k]
                good = good and weights[k] >= 0.0
            for k in range(count if good and abs(total - 1.0) <= 1e-6 else 0):
                logs[k] = math.log(weights[k] / total) if weights[k] > 0.0 else -math.inf
            for k in range(count):
                _symmetric_factor(covs[k], factors[k])
        return _mixture((logs, locations, factors))

    return from_arrays


@overload_attribute(_GaussianType, "dim")
def _gaussian_dim(q):
    return lambda q: q.mean.size


@overload_attribute(_MixtureType, "dim")
def _mixture_dim(p):
    return lambda p: p.means.shape[1]


@overload_attribute(_TransformedType, "gaussian")
def _latent_gaussian(q):
    return lambda q: _gaussian((q._mean, q._cholesky))


@overload_attribute(_GaussianType, "cov")
def _gaussian_cov(q):
    def compiled(q):
        factor = q.cholesky
        dim = q.mean.size
        out = np.zeros((dim, dim))
        for i in range(dim):
            for j in range(dim):
                for k in range(min(i, j) + 1):
                    out[i, j] += factor[i, k] * factor[j, k]
        return out

    return compiled


@overload_attribute(_MixtureType, "weights")
def _mixture_weights(p):
    return lambda p: np.exp(p._log_weights)


@overload_attribute(_MixtureType, "mean")
def _mixture_mean(p):
    return lambda p: _moments(p)[0]


@overload_attribute(_MixtureType, "cov")
def _mixture_cov(p):
    return lambda p: _moments(p)[1]


def _moments(p):
    raise NotImplementedError


@overload(_moments)
def _overload_moments(p):
    moments = kernels.mixtures.mixture_moments

    def compiled(p):
        dim = p.means.shape[1]
        mean, cov = np.empty(dim), np.empty((dim, dim))
        moments(p._log_weights, p.means, p._choleskys, mean, cov)
        return mean, cov

    return compiled


def _triple(p):
    raise NotImplementedError


@overload(_triple)
def _overload_triple(p):
    """What the kernels know a mixture by; a Gaussian is one of one component."""
    if p is MIXTURE:
        return lambda p: (p._log_weights, p.means, p._choleskys)

    def compiled(p):
        dim = p.mean.size
        return np.zeros(1), p.mean.reshape((1, dim)), p.cholesky.reshape((1, dim, dim))

    return compiled


@overload_method(_GaussianType, "entropy")
def _gaussian_entropy(q):
    def compiled(q):
        total = 0.5 * q.mean.size * (1.0 + math.log(2.0 * math.pi))
        for i in range(q.mean.size):
            total += math.log(q.cholesky[i, i])
        return total

    return compiled


@overload_method(_GaussianType, "logpdf")
@overload_method(_MixtureType, "logpdf")
def _logpdf(p, z):
    many, one = kernels.mixtures.mixture_logpdf_many, kernels.mixtures.mixture_logpdf
    if isinstance(z, types.Float | types.Integer):

        def of_number(p, z):
            weights, means, factors = _triple(p)
            if means.shape[1] != 1:
                return math.nan
            return one(kernels.matrices.filled_vector(1, float(z)), weights, means, factors, np.empty(1))

        return of_number
    if _is_floats(z, 1):

        def of_point(p, z):
            weights, means, factors = _triple(p)
            if means.shape[1] != z.size:
                return math.nan
            return one(z, weights, means, factors, np.empty(z.size))

        return of_point
    if _is_floats(z, 2):

        def of_points(p, z):
            weights, means, factors = _triple(p)
            out = kernels.matrices.filled_vector(z.shape[0], math.nan)
            if means.shape[1] == z.shape[1]:
                many(z, weights, means, factors, np.empty(z.shape[1]), out)
            return out

        return of_points
    raise TypingError(f"logpdf in compiled code takes a number, or a float array (D,) or (N, D), not {z}")


@overload_method(_GaussianType, "pdf")
@overload_method(_MixtureType, "pdf")
def _pdf(p, z):
    return lambda p, z: np.exp(p.logpdf(z))


@overload(estimates.kl_estimate)
def _kl_estimate(p, q, rtol=1e-10):
    for argument, kind in (("p", p), ("q", q)):
        if kind not in (GAUSSIAN, MIXTURE):
            raise TypingError(
                f"fastvi.kl_estimate in compiled code takes a Gaussian or a GaussianMixture as {argument}, "
                f"not {kind}"
            )
    if p is GAUSSIAN and q is GAUSSIAN:
        closed = kernels.gaussians.gaussian_kl

        def of_gaussians(p, q, rtol=1e-10):
            if p.mean.size != q.mean.size:
                return CompiledEstimate(math.nan, math.inf, 0)
            value = closed(p.mean, p.cholesky, q.mean, q.cholesky, np.empty(2 * p.mean.size))
            return CompiledEstimate(value, 4.4e-16 * abs(value), 0)

        return of_gaussians
    mixture_kl, workspace = kernels.estimates.mixture_kl, kernels.estimates.workspace

    def by_quadrature(p, q, rtol=1e-10):
        one, two = _triple(p), _triple(q)
        (_, means_p, _), (_, means_q, _) = one, two
        components, dim = means_p.shape
        if dim != means_q.shape[1] or dim > 3:
            return CompiledEstimate(math.nan, math.inf, 0)
        space = workspace(components, means_q.shape[0], dim)
        value, error, nodes, resolved = mixture_kl(one, two, rtol, space)
        return CompiledEstimate(value if resolved else math.nan, error if resolved else math.inf, nodes)

    return by_quadrature


@overload(divergences.kl)
def _kl(p, q):
    if p in (GAUSSIAN, MIXTURE) and q in (GAUSSIAN, MIXTURE):
        estimate = estimates.kl_estimate
        return lambda p, q: estimate(p, q).value
    return None


@overload(projections.m_projection, prefer_literal=True)
def _m_projection(p, family="full"):
    if p not in (GAUSSIAN, MIXTURE):
        raise TypingError(
            f"fastvi.m_projection in compiled code takes a Gaussian or a GaussianMixture, not {p}"
        )
    code = _word("m_projection", "family", family, projections._FAMILIES)
    project = kernels.projections.m_projection

    def compiled(p, family="full"):
        weights, means, factors = _triple(p)
        dim = means.shape[1]
        mean, factor = np.empty(dim), np.empty((dim, dim))
        good = project(weights, means, factors, code, mean, factor)
        if not good:
            kernels.matrices.fill_matrix(math.nan, factor)
        return CompiledMatch(_gaussian((mean, factor)), good)

    return compiled


@overload(projections.i_projection, prefer_literal=True)
def _i_projection(p, family="full", starts=None, rtol=1e-8):
    if p not in (GAUSSIAN, MIXTURE):
        raise TypingError(
            f"fastvi.i_projection in compiled code takes a Gaussian or a GaussianMixture, not {p}"
        )
    if not _is_none(starts):
        raise TypingError(
            "fastvi.i_projection in compiled code chooses its starts itself; for one from a start of yours "
            "call fastvi.kernels.projections.i_projection"
        )
    code = _word("i_projection", "family", family, projections._FAMILIES)
    workspace, project = kernels.projections.workspace, kernels.projections.i_projections
    read = kernels.projections.read

    def compiled(p, family="full", starts=None, rtol=1e-8):
        log_weights, means, factors = _triple(p)
        count, dim = means.shape
        most = count * (count + 3) // 2 + 1
        start_means, start_factors = np.empty((most, dim)), np.empty((most, dim, dim))
        reports = kernels.matrices.filled_matrix(most, 5, math.nan)
        found = 0
        if dim <= 3 and math.isfinite(log_weights.max()):
            scratch, space = (np.empty((most, dim)), np.empty((most, dim, dim))), workspace(count, dim)
            mixture = log_weights, means, factors
            found = project(mixture, code, 0, start_means, start_factors, rtol, space, scratch, reports)
        if found == 0:
            kernels.matrices.fill_vector(math.nan, start_means[0])
            kernels.matrices.fill_matrix(math.nan, start_factors[0])
            kernels.matrices.fill_vector(math.nan, reports[0])
        optima = []
        for i in range(max(found, 1)):
            mean, factor = np.empty(dim), np.empty((dim, dim))
            kernels.matrices.copy_vector(start_means[i], mean)
            kernels.matrices.copy_matrix(start_factors[i], factor)
            q = _gaussian((mean, factor))
            known = read(reports[i])
            optima.append(Optimum(q, known.kl, known.error, known.gradient_norm, known.status == 0.0))
        best = optima[0]
        return CompiledProjection(best.q, best.kl, best.error, best.gradient_norm, best.converged, optima)

    return compiled


def _start_word(support):
    """(word of a support, whether it is a tuple of a word and its ends)."""
    if isinstance(support, types.BaseTuple):
        return support.types[0], len(support.types) - 1
    return support, 0


@overload(Model, prefer_literal=True)
def _make_model(log_joint, dim, data=(), support="real", log_joint_grad=None, theta=None):
    if not isinstance(log_joint, types.Dispatcher):
        raise TypingError(
            f"fastvi.Model in compiled code takes a jitted log_joint(z, *data), not {log_joint}"
        )
    if not _is_none(log_joint_grad):
        raise TypingError(
            "fastvi.Model in compiled code takes no log_joint_grad: fits there are by quadrature, "
            "which needs none"
        )
    if not isinstance(dim, types.IntegerLiteral) or dim.literal_value < 1:
        raise TypingError("fastvi.Model: dim must be a positive constant in compiled code")
    if not (isinstance(data, types.BaseTuple) or (isinstance(data, types.Omitted) and data.value == ())):
        raise TypingError(f"fastvi.Model: data must be a tuple, not {data}: write (x,) for one item")
    word, ends = _start_word(support)
    code = _word("Model", "support", word, _KINDS)
    if ends != {"lower": 1, "upper": 1, "interval": 2}.get(getattr(word, "literal_value", ""), 0):
        raise TypingError(
            "fastvi.Model: support must be 'real', 'positive', 'simplex', ('lower', a), ('upper', b) or "
            f"('interval', a, b) in compiled code, for all coordinates, not {support}"
        )
    size = dim.literal_value
    simplex = code == _SIMPLEX
    latent = size - 1 if simplex else size
    if latent < 1:
        raise TypingError("fastvi.Model: a simplex has at least two coordinates")
    has_theta = not _is_none(theta)
    held = () if isinstance(data, types.Omitted) else data.types
    if has_theta:
        if not _is_floats(theta, 1):
            raise TypingError(f"fastvi.Model: theta must be a 1-D float array in compiled code, not {theta}")
        held = (theta, *held)
    held = tuple(types.unliteral(kind) for kind in held)
    make = _maker(_ModelType(log_joint, size, latent, code == _REAL, types.BaseTuple.from_types(held)))

    def compiled(
        log_joint,
        dim,
        data=(),
        support="real",
        log_joint_grad=None,
        theta=None,
    ):
        kinds, bounds = np.empty(latent, np.int64), kernels.matrices.filled_matrix(latent, 2, 0.0)
        for i in range(latent):
            kinds[i] = code
            if simplex:
                bounds[i, 0] = latent - i
            bounds[i, 0], bounds[i, 1] = _ends(support, bounds[i, 0])
        return make((_with_theta(theta, data), kinds, bounds))

    return compiled


def _ends(support, otherwise):
    raise NotImplementedError


@overload(_ends, prefer_literal=True)
def _overload_ends(support, otherwise):
    if not isinstance(support, types.BaseTuple):
        return lambda support, otherwise: (otherwise, 0.0)
    word = support.types[0].literal_value
    if word == "lower":
        return lambda support, otherwise: (float(support[1]), 0.0)
    if word == "upper":
        return lambda support, otherwise: (0.0, float(support[1]))
    return lambda support, otherwise: (float(support[1]), float(support[2]))


def _with_theta(theta, data):
    raise NotImplementedError


@overload(_with_theta)
def _overload_with_theta(theta, data):
    if _is_none(theta):
        return lambda theta, data: data
    return lambda theta, data: (theta, *data)


def _check_model(name, model):
    """The log joint of a model that compiled code can integrate."""
    if not isinstance(model, _ModelType):
        raise TypingError(f"fastvi.{name} in compiled code takes a Model, not {model}")
    if model.latent > 2:
        raise TypingError(
            f"fastvi.{name} in compiled code is for one or two latent dimensions, not {model.latent}: "
            "call fastvi.kernels.draws.fit_draws"
        )
    return model.log_joint.dispatcher


def _gaussian_of(q):
    raise NotImplementedError


@overload(_gaussian_of)
def _overload_gaussian_of(q):
    return (lambda q: q) if q is GAUSSIAN else (lambda q: q.gaussian)


def _q_of(model, q):
    raise NotImplementedError


@overload(_q_of)
def _overload_q_of(model, q):
    """q as Python has it: put on the support, where that is not the real line."""
    if model.real:
        return lambda model, q: q
    return lambda model, q: _transformed((q.mean, q.cholesky, model._kinds, model._bounds))


def _same_support(model, q):
    raise NotImplementedError


@overload(_same_support)
def _overload_same_support(model, q):
    if q is GAUSSIAN:
        return lambda model, q: True

    def compiled(model, q):
        same = model._kinds.size == q._kinds.size
        for i in range(model._kinds.size if same else 0):
            same = same and model._kinds[i] == q._kinds[i]
            same = same and model._bounds[i, 0] == q._bounds[i, 0] and model._bounds[i, 1] == q._bounds[i, 1]
        return same

    return compiled


def _expectation(model, q, rtol, grad_mean, grad_chol):
    raise NotImplementedError


@overload(_expectation)
def _overload_expectation(model, q, rtol, grad_mean, grad_chol):
    """The ELBO, and its gradient, NaN where there is none."""
    log_joint = _check_model("elbo", model)
    if q not in (GAUSSIAN, TRANSFORMED):
        raise TypingError(
            f"fastvi.elbo in compiled code takes a Gaussian or a TransformedGaussian as q, not {q}"
        )
    latent, dim = model.latent, model.dim
    workspace, elbo = kernels.fits.workspace, kernels.fits.elbo_quadrature
    outside = q is GAUSSIAN and not model.real

    def compiled(model, q, rtol, grad_mean, grad_chol):
        kernels.matrices.fill_vector(math.nan, grad_mean)
        kernels.matrices.fill_matrix(math.nan, grad_chol)
        gaussian = _gaussian_of(q)
        if gaussian.mean.size != latent or not _same_support(model, q):
            return CompiledEstimate(math.nan, math.inf, 0)
        if outside:  # q has mass where the joint is zero
            return CompiledEstimate(-math.inf, 0.0, 0)
        if not math.isfinite(gaussian.cholesky[0, 0]):
            return CompiledEstimate(math.nan, math.inf, 0)
        problem = model.data, model._kinds, model._bounds
        status, value, error, nodes, _ = elbo(
            log_joint,
            problem,
            gaussian.mean,
            gaussian.cholesky,
            rtol,
            workspace(latent, dim),
            grad_mean,
            grad_chol,
        )
        if status != statuses.FINE:
            return CompiledEstimate(-math.inf if status == statuses.ZERO else math.nan, math.inf, nodes)
        return CompiledEstimate(value, error, nodes)

    return compiled


@overload(inference.elbo)
def _elbo(model, q, rtol=1e-10):
    _check_model("elbo", model)

    def compiled(model, q, rtol=1e-10):
        latent = model._kinds.size
        return _expectation(model, q, rtol, np.empty(latent), np.empty((latent, latent)))

    return compiled


@overload(inference.elbo_grad)
def _elbo_grad(model, q, rtol=1e-10):
    _check_model("elbo_grad", model)
    gradient = inference.Gradient

    def compiled(model, q, rtol=1e-10):
        latent = model._kinds.size
        grad_mean, grad_chol = np.empty(latent), np.empty((latent, latent))
        value = _expectation(model, q, rtol, grad_mean, grad_chol).value
        return gradient(value, grad_mean, grad_chol)

    return compiled


@overload(inference.fit, prefer_literal=True)
def _fit(
    model,
    family="full",
    start=None,
    method="auto",
    starts=None,
    rtol=1e-8,
    max_steps=500,
):
    log_joint = _check_model("fit", model)
    code = _word("fit", "family", family, inference._FAMILIES)
    _word("fit", "method", method, {"auto": 0})
    if not _is_none(starts):
        raise TypingError("fastvi.fit in compiled code takes one start: call it for each, and keep the best")
    latent, dim = model.latent, model.dim
    workspace = kernels.fits.workspace
    if not _is_none(start) and start not in (GAUSSIAN, TRANSFORMED):
        raise TypingError(
            f"fastvi.fit in compiled code starts from a Gaussian in latent coordinates, not {start}"
        )
    if code == FAMILY_MEAN and _is_none(start):
        raise TypingError(
            "fastvi.fit: family='mean' holds the covariance of the start: give a Gaussian as start"
        )
    # Two functions: Laplace's approximation takes as long to compile as the rest, and what calls either is
    # compiled with it once more.
    fit_from, fit_near = kernels.fits.fit_quadrature, kernels.fits.start_and_fit_quadrature

    def near_zero(
        model,
        family="full",
        start=None,
        method="auto",
        starts=None,
        rtol=1e-8,
        max_steps=500,
    ):
        mean, scale = kernels.matrices.filled_vector(latent, 0.0), kernels.matrices.filled_vector(latent, 1.0)
        factor, report = np.empty((latent, latent)), kernels.matrices.filled_vector(8, math.nan)
        problem, trace, space = (model.data, model._kinds, model._bounds), np.empty(0), workspace(latent, dim)
        start_ = mean, scale, factor
        status = fit_near(log_joint, problem, code, True, start_, rtol, max_steps, space, trace, report)
        return _made(model, mean, factor, report, status)

    def from_start(
        model,
        family="full",
        start=None,
        method="auto",
        starts=None,
        rtol=1e-8,
        max_steps=500,
    ):
        mean, factor = np.empty(latent), np.empty((latent, latent))
        report = kernels.matrices.filled_vector(8, math.nan)
        problem, trace, status = (model.data, model._kinds, model._bounds), np.empty(0), INVALID_START
        if _begin(start, code, mean, factor):
            space = workspace(latent, dim)
            status = fit_from(log_joint, problem, code, mean, factor, rtol, max_steps, space, trace, report)
        return _made(model, mean, factor, report, status)

    return near_zero if _is_none(start) else from_start


def _made(model, mean, factor, report, status):
    raise NotImplementedError


@overload(_made)
def _overload_made(model, mean, factor, report, status):
    read_report = kernels.reports.read_report

    def compiled(model, mean, factor, report, status):
        found = read_report(report)
        evaluations = int(found.evaluations) if found.evaluations >= 0.0 else 0
        estimate = CompiledEstimate(found.elbo, found.error, evaluations)
        q = _q_of(model, _gaussian((mean, factor)))
        return CompiledFit(q, estimate, found.gradient_norm, status == statuses.CONVERGED, status)

    return compiled


def _begin(start, family, mean, factor):
    raise NotImplementedError


@overload(_begin)
def _overload_begin(start, family, mean, factor):
    """Write where to start; False for a start that is none."""
    restrict = kernels.projections.restrict

    def compiled(start, family, mean, factor):
        gaussian = _gaussian_of(start)
        kernels.matrices.fill_vector(math.nan, mean)
        kernels.matrices.fill_matrix(math.nan, factor)
        if gaussian.mean.size != mean.size or not math.isfinite(gaussian.cholesky[0, 0]):
            return False
        kernels.matrices.copy_vector(gaussian.mean, mean)
        kernels.matrices.copy_matrix(gaussian.cholesky, factor)
        if family != FAMILY_MEAN:
            restrict(family, factor, np.empty(2 * mean.size))
        return True

    return compiled


@overload(inference.log_evidence)
def _log_evidence(model, start=None, rtol=1e-10):
    log_joint = _check_model("log_evidence", model)
    if not _is_none(start):
        raise TypingError("fastvi.log_evidence in compiled code finds its frame itself")
    latent, dim = model.latent, model.dim
    fit_space, laplace = kernels.fits.workspace, kernels.laplace.laplace
    workspace, integrate = kernels.evidence.workspace, kernels.evidence.integrate
    make_problem, density = kernels.panels.Problem, kernels.evidence.Density
    gaussian, joint = kernels.evidence.GAUSSIAN, kernels.evidence.JOINT

    def compiled(model, start=None, rtol=1e-10):
        problem = make_problem(model.data, model._kinds, model._bounds)
        mean, scale, factor = np.zeros(latent), np.ones(latent), np.eye(latent)
        space = fit_space(latent, dim)
        fault, n = laplace(log_joint, problem, mean, scale, factor, space.lattice.panel, space.laplace)
        if fault != statuses.FINE:
            return CompiledEstimate(math.nan, math.inf, n)
        none = density(gaussian, np.zeros(latent), np.eye(latent), np.zeros(2), 0.0)
        status, value, error, nodes = integrate(
            log_joint, problem, mean, factor, rtol, none, joint, 0.0, workspace(latent, dim)
        )
        if status != statuses.FINE:
            return CompiledEstimate(math.nan, math.inf, n + nodes)
        if error == math.inf:  # the posterior is improper
            value = math.inf
        return CompiledEstimate(value, error, n + nodes)

    return compiled
