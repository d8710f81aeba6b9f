"""numba types of distributions and models, with boxing and unboxing, and the checks of arguments.

Used by the overloads in the other modules of this package.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import (
    NativeValue,
    box,
    intrinsic,
    make_attribute_wrapper,
    models,
    register_model,
    typeof_impl,
    unbox,
)

from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from ..distributions.variational import TransformedGaussian
from ..inference.model import Model

_VECTOR = types.Array(types.float64, 1, "C")
_MATRIX = types.Array(types.float64, 2, "C")
_MATRICES = types.Array(types.float64, 3, "C")


class GaussianType(types.Type):
    """The type of a `Gaussian`."""

    def __init__(self):
        super().__init__("fastvi.Gaussian")


class TransformedType(types.Type):
    """The type of a `TransformedGaussian`."""

    def __init__(self):
        super().__init__("fastvi.TransformedGaussian")


class MixtureType(types.Type):
    """The type of a `GaussianMixture`."""

    def __init__(self):
        super().__init__("fastvi.GaussianMixture")


class ModelType(types.Type):
    """The type of a model, which contains that of the log joint: code is compiled for each log joint."""

    def __init__(self, log_joint, dim, latent, real, data):
        self.log_joint, self.dim, self.latent, self.real, self.data = log_joint, dim, latent, real, data
        super().__init__(f"fastvi.Model({log_joint}, {dim}, {latent}, {real}, {data})")


GAUSSIAN = GaussianType()
MIXTURE = MixtureType()
TRANSFORMED = TransformedType()

#: The fields of a support.
SUPPORT = [("kinds", types.Array(types.int64, 1, "C")), ("bounds", _MATRIX)]

_FIELDS: dict[Any, list[tuple[str, Any]]] = {
    GaussianType: [("mean", _VECTOR), ("cholesky", _MATRIX)],
    MixtureType: [("log_weights", _VECTOR), ("means", _MATRIX), ("choleskys", _MATRICES)],
    TransformedType: [("mean", _VECTOR), ("cholesky", _MATRIX), *SUPPORT],
}

#: The attributes of the Python object that hold these fields.
_ATTRIBUTES: dict[Any, tuple[str, ...]] = {
    GaussianType: ("_mean", "_factor"),
    MixtureType: ("_log_weights", "_means", "_factors"),
    TransformedType: ("gaussian._mean", "gaussian._factor", "_support.kinds", "_support.bounds"),
    ModelType: ("_arguments", "_support.kinds", "_support.bounds"),
}


def _fields(kind):
    """(name, type) of each field of a value of this type."""
    return [("data", kind.data), *SUPPORT] if isinstance(kind, ModelType) else _FIELDS[type(kind)]


@register_model(GaussianType)
@register_model(MixtureType)
@register_model(TransformedType)
@register_model(ModelType)
class _Struct(models.StructModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _fields(fe_type))


make_attribute_wrapper(GaussianType, "mean", "mean")
make_attribute_wrapper(GaussianType, "cholesky", "cholesky")
make_attribute_wrapper(MixtureType, "log_weights", "_log_weights")
make_attribute_wrapper(MixtureType, "means", "means")
make_attribute_wrapper(MixtureType, "choleskys", "_choleskys")
make_attribute_wrapper(TransformedType, "mean", "_mean")
make_attribute_wrapper(TransformedType, "cholesky", "_cholesky")
make_attribute_wrapper(ModelType, "data", "data")
for _type in (TransformedType, ModelType):
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
    if value._dispatcher is None:
        raise TypingError(f"{value!r} is called from Python only: compiled code has no function to compile")
    data = types.BaseTuple.from_types([typeof_impl(item, context) for item in value._arguments])
    return ModelType(
        types.Dispatcher(value._dispatcher), value.dim, value.latent_dim, value._support.is_real, data
    )


@unbox(GaussianType)
@unbox(MixtureType)
@unbox(TransformedType)
@unbox(ModelType)
def _unboxed(kind, obj, c):
    struct = cgutils.create_struct_proxy(kind)(c.context, c.builder)
    failed = cgutils.alloca_once_value(c.builder, cgutils.false_bit)
    for (field, part), path in zip(_fields(kind), _ATTRIBUTES[type(kind)], strict=True):
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


@box(GaussianType)
def _box_gaussian(kind, value, c):
    return _boxed(c, kind, value, Gaussian._from_factor)


@box(MixtureType)
def _box_mixture(kind, value, c):
    return _boxed(c, kind, value, GaussianMixture._from_factors)


@box(TransformedType)
def _box_transformed(kind, value, c):
    return _boxed(c, kind, value, TransformedGaussian._from_kinds)


def maker(kind):
    """An intrinsic that makes a value of this type from the tuple of its fields."""

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


make_gaussian = maker(GAUSSIAN)
make_mixture = maker(MIXTURE)
make_transformed = maker(TRANSFORMED)


def is_floats(kind, ndim):
    """Whether a type is that of a float array with so many dimensions."""
    return isinstance(kind, types.Array) and kind.ndim == ndim and isinstance(kind.dtype, types.Float)


def constant(name, keyword, value, allowed, show=str):
    """What `allowed` maps a keyword to, whose value must be known when the user's function is compiled."""
    value = getattr(value, "value", value)  # types.Omitted
    value = getattr(value, "literal_value", value)
    if isinstance(value, types.Type):
        raise TypingError(f"fastvi.{name}: {keyword} must be a constant in compiled code, not {value}")
    if value not in allowed:
        wanted = ", ".join(map(show, allowed))
        raise TypingError(f"fastvi.{name}: {keyword} must be one of {wanted}, not {value!r}")
    return allowed[value]


def is_none(value):
    """Whether the type of an argument says that it is None or left out."""
    return value is None or isinstance(value, types.NoneType | types.Omitted)
