"""Log joints of named parameters as functions of z, for `calling`.

The user's function gets a NamedTuple of numbers and read-only views of z; one that writes the gradient gets
the names of grad as well. Places are constants of the compiled code, so that ``p.theta[j]`` costs what
``z[i]`` does.
"""

from __future__ import annotations

from collections import namedtuple
from functools import cache
from math import prod
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.core.imputils import lower_getattr_generic, lower_setattr_generic
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, models, register_model

from ..compiler import jitted

#: Where parameters are: (name, first coordinate of z, shape) of each.
Fields = tuple[tuple[str, int, tuple[int, ...]], ...]


class GradientType(types.Type):
    """The type of a gradient with names: numbers can be read and assigned, arrays are views."""

    def __init__(self, fields: Fields) -> None:
        self.fields = {name: (place, shape) for name, place, shape in fields}
        super().__init__(f"fastvi.Gradient({fields})")


@register_model(GradientType)
class _GradientModel(models.PrimitiveModel):
    """A pointer to the first number."""

    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.DoubleType().as_pointer())


def _kind(shape, readonly):
    """The type of a parameter with this shape."""
    if not shape:
        return types.float64
    return types.Array(types.float64, len(shape), "C", readonly=readonly)


def _part(context, builder, numbers, place, shape, readonly):
    """A parameter: a number that is read, or a view that counts no references."""
    from numba.np.arrayobj import populate_array  # takes 25 ms, which `import fastvi` does not need

    word = ir.IntType(64)
    data = builder.gep(numbers, [ir.Constant(word, place)])
    if not shape:
        return builder.load(data)
    strides = [8 * prod(shape[axis + 1 :]) for axis in range(len(shape))]
    array = context.make_array(_kind(shape, readonly))(context, builder)
    constants = [[ir.Constant(word, n) for n in numbers] for numbers in (shape, strides)]
    populate_array(array, data, *constants, ir.Constant(word, 8), None)
    return array._getvalue()


@infer_getattr
class _GradientAttributes(AttributeTemplate):
    key = GradientType

    def generic_resolve(self, kind, name):
        return _kind(kind.fields[name][1], False) if name in kind.fields else None


@lower_getattr_generic(GradientType)
def _get(context, builder, kind, numbers, name):
    return _part(context, builder, numbers, *kind.fields[name], False)


@lower_setattr_generic(GradientType)
def _set(context, builder, signature, arguments, name):
    place, shape = signature.args[0].fields[name]
    if shape:
        raise TypingError(f"{name} has the shape {shape}: assign to its entries, {name}[...] = value")
    builder.store(arguments[1], builder.gep(arguments[0], [ir.Constant(ir.IntType(64), place)]))


@cache
def parameters_class(names: tuple[str, ...]) -> Any:
    """The NamedTuple of these names."""
    return namedtuple("Parameters", names)


def _viewer(fields: Fields) -> Any:
    """An intrinsic that makes the NamedTuple of a point z."""
    cls = parameters_class(tuple(name for name, _, _ in fields))
    made = types.BaseTuple.from_types([_kind(shape, True) for _, _, shape in fields], cls)

    @intrinsic
    def view(typing_context, z):
        def generate(context, builder, signature, arguments):
            numbers = context.make_array(z)(context, builder, arguments[0]).data
            parts = [_part(context, builder, numbers, place, shape, True) for _, place, shape in fields]
            return context.make_tuple(builder, made, parts)

        return made(z), generate

    return view


def _gradient_viewer(fields: Fields) -> Any:
    """An intrinsic that gives the names to a gradient in z."""

    @intrinsic
    def view(typing_context, gradient):
        def generate(context, builder, signature, arguments):
            return context.make_array(gradient)(context, builder, arguments[0]).data

        return GradientType(fields)(gradient), generate

    return view


def flat(function: Any, fields: Fields, with_gradient: bool) -> Any:
    """A log joint of named parameters as one of z, with its gradient if it has one."""
    view = _viewer(fields)
    if with_gradient:
        view_gradient = _gradient_viewer(fields)
        return jitted(lambda z, grad, *data: function(view(z), view_gradient(grad), *data))
    return jitted(lambda z, *data: function(view(z), *data))
