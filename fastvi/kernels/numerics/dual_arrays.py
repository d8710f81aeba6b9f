"""Arrays of dual numbers: the parameters of a log joint, and what it computes of them elementwise."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, typing
from numba.core.imputils import RefType, impl_ret_borrowed, iternext_impl
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import (
    intrinsic,
    lower_builtin,
    models,
    overload_attribute,
    overload_method,
    register_model,
)

from ..compiler import kernel, overloaded
from .duals import (
    DIRECTIONS,
    LANES,
    as_dual,
    dual,
    is_number,
    pack,
    unpack,
)


class DualIteratorType(types.SimpleIteratorType):
    """An iterator over a vector of dual numbers."""

    def __init__(self) -> None:
        super().__init__("fastvi.DualIterator", dual)


class DualArrayType(types.IterableType):
    """An array of dual numbers, in C order: one of values, and one of their derivatives in its last axis."""

    iterator_type = DualIteratorType()
    holds_duals = True
    mutable = True  #: for numba: += writes to it

    def __init__(self, ndim: int) -> None:
        self.ndim = ndim
        self.values = types.Array(types.float64, ndim, "C")
        self.partials = types.Array(types.float64, ndim + 1, "C")
        super().__init__(f"fastvi.DualArray({ndim})")


@register_model(DualArrayType)
class _DualArrayModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, [("values", kind.values), ("partials", kind.partials)])


vector = DualArrayType(1)


def is_dual_array(kind: Any, ndim: int = 1) -> bool:
    """Whether this is the type of an array of dual numbers with so many axes."""
    return isinstance(kind, DualArrayType) and kind.ndim == ndim


def is_array(kind: Any, ndim: int = 1) -> bool:
    """Whether this is the type of an array of real numbers with so many axes."""
    return isinstance(kind, types.Array) and kind.ndim == ndim and is_number(kind.dtype)


# The two arrays.


@intrinsic
def values(typing_context, array):
    """The values of an array of dual numbers, or the array itself; of numbers, the value."""
    if isinstance(array, DualArrayType):

        def generate(context, builder, signature, arguments):
            found = builder.extract_value(arguments[0], 0)
            return impl_ret_borrowed(context, builder, array.values, found)

        return array.values(array), generate
    if isinstance(array, types.Array):
        return array(array), lambda context, builder, signature, arguments: impl_ret_borrowed(
            context, builder, array, arguments[0]
        )
    return None


@intrinsic
def moves(typing_context, array):
    """The derivatives (..., 8) of an array of dual numbers."""

    def generate(context, builder, signature, arguments):
        found = builder.extract_value(arguments[0], 1)
        return impl_ret_borrowed(context, builder, array.partials, found)

    return array.partials(array), generate


@intrinsic
def dual_array(typing_context, numbers, derivatives):
    """An array of dual numbers of its two arrays."""
    kind = DualArrayType(numbers.ndim)

    def generate(context, builder, signature, arguments):
        made = cgutils.create_struct_proxy(kind)(context, builder)
        made.values, made.partials = arguments
        return impl_ret_borrowed(context, builder, kind, made._getvalue())

    return kind(kind.values, kind.partials), generate


def _pointers(context, builder, kind, array, place):
    """Where entry `place` of the values and its derivatives are."""
    numbers = context.make_array(kind.values)(context, builder, builder.extract_value(array, 0)).data
    derivatives = context.make_array(kind.partials)(context, builder, builder.extract_value(array, 1)).data
    first = builder.gep(derivatives, [builder.mul(place, ir.Constant(place.type, DIRECTIONS))])
    return builder.gep(numbers, [place]), builder.bitcast(first, LANES.as_pointer())


def load(context, builder, kind, array, place):
    """The dual number at a place, counted over all axes."""
    number, derivatives = _pointers(context, builder, kind, array, place)
    return pack(builder, context, builder.load(number), builder.load(derivatives, align=8))


@intrinsic
def entry(typing_context, array, i):
    """Entry i of an array, counted over all axes; a number as it is."""
    if isinstance(array, DualArrayType):
        return dual(array, types.int64), lambda context, builder, signature, arguments: load(
            context, builder, array, *arguments
        )
    if isinstance(array, types.Array):

        def generate(context, builder, signature, arguments):
            run = context.get_function(operator.getitem, typing.signature(array.dtype, array, types.int64))
            return context.cast(builder, run(builder, arguments), array.dtype, types.float64)

        return types.float64(array, types.int64), generate
    if array == dual:
        return dual(dual, types.int64), lambda context, builder, signature, arguments: arguments[0]

    def number(context, builder, signature, arguments):
        return context.cast(builder, arguments[0], array, types.float64)

    return types.float64(array, types.int64), number


@intrinsic
def put(typing_context, array, i, number):
    """Write a dual number to entry i of a vector."""

    def generate(context, builder, signature, arguments):
        place, derivatives = _pointers(context, builder, array, arguments[0], arguments[1])
        number, moved = unpack(builder, arguments[2])
        builder.store(number, place)
        builder.store(moved, derivatives, align=8)
        return context.get_dummy_value()

    return types.void(array, types.int64, dual), generate


# Entries.


class _Entry(AbstractTemplate):
    def generic(self, arguments: Any, keywords: Any) -> Any:
        array, index = arguments
        if not isinstance(array, DualArrayType):
            return None
        if array.ndim == 1 and isinstance(index, types.Integer):
            return typing.signature(dual, array, types.intp)
        if not isinstance(index, types.BaseTuple) or len(index) != array.ndim:
            return None
        if not all(isinstance(one, types.Integer) for one in index):
            return None
        return typing.signature(dual, array, types.UniTuple(types.intp, array.ndim))


infer_global(operator.getitem)(_Entry)


def _at(context: Any, builder: Any, kind: Any, array: Any, indices: Any) -> Any:
    numbers = context.make_array(kind.values)(context, builder, builder.extract_value(array, 0))
    place = None
    for index, length in zip(indices, cgutils.unpack_tuple(builder, numbers.shape), strict=True):
        below = builder.icmp_signed("<", index, ir.Constant(index.type, 0))
        index = builder.select(below, builder.add(index, length), index)
        place = index if place is None else builder.add(builder.mul(place, length), index)
    return load(context, builder, kind, array, place)


@lower_builtin(operator.getitem, DualArrayType, types.intp)
def _entry_of_vector(context, builder, signature, arguments):
    return _at(context, builder, signature.args[0], arguments[0], [arguments[1]])


@lower_builtin(operator.getitem, DualArrayType, types.UniTuple)
def _entry_of_array(context, builder, signature, arguments):
    indices = cgutils.unpack_tuple(builder, arguments[1])
    return _at(context, builder, signature.args[0], arguments[0], indices)


@overloaded(operator.getitem)
def _part(array, index):
    if not isinstance(array, DualArrayType):
        return None
    if isinstance(index, types.SliceType) and not index.has_step and array.ndim == 1:
        return lambda array, index: dual_array(values(array)[index], moves(array)[index])
    if isinstance(index, types.Integer) and array.ndim > 1:
        return lambda array, index: dual_array(values(array)[index], moves(array)[index])
    if is_array(index) and isinstance(index.dtype, types.Integer) and array.ndim == 1:

        def gather(array, index):
            result = empty(index.size)
            for i in range(index.size):
                put(result, i, array[index[i]])
            return result

        return gather
    return None


@overload_attribute(DualArrayType, "size")
def _size(array):
    return lambda array: values(array).size


@overload_attribute(DualArrayType, "shape")
def _shape(array):
    return lambda array: values(array).shape


@overload_attribute(DualArrayType, "ndim")
def _ndim(array):
    ndim = array.ndim
    return lambda array: ndim


@overloaded(len)
def _length(array):
    if isinstance(array, DualArrayType):
        return lambda array: len(values(array))
    return None


# Elementwise.


def empty(n):
    """A vector of n dual numbers that are not set."""


@overloaded(empty)
def _empty(n):
    return lambda n: dual_array(np.empty(n), np.empty((n, DIRECTIONS)))


def _is_vector(kind: Any) -> bool:
    return is_array(kind) or is_dual_array(kind)


def joint_length(x, y):
    """The length of two operands, of which one is a vector."""


@overloaded(joint_length)
def _joint_length(x, y):
    if _is_vector(x):
        if _is_vector(y):

            def both(x, y):
                if len(x) == len(y) or len(y) == 1:
                    return len(x)
                if len(x) != 1:
                    raise ValueError("operands could not be broadcast together")
                return len(y)

            return both
        return lambda x, y: len(x)
    return lambda x, y: len(y)


def step(x):
    """0 for what has one entry for all places: a number, or a vector of length 1; else 1."""


@overloaded(step)
def _step(x):
    return (lambda x: 0 if len(x) == 1 else 1) if _is_vector(x) else (lambda x: 0)


def _is_operand(kind: Any) -> bool:
    return kind == dual or is_number(kind) or _is_vector(kind)


def _elementwise_two(operation: Any, in_place: Any, *functions: Any) -> None:
    def typed(x, y):
        some = dual in (x, y) or is_dual_array(x) or is_dual_array(y)
        if not some or not (_is_operand(x) and _is_operand(y)) or not (_is_vector(x) or _is_vector(y)):
            return None

        def each(x, y):
            n, step_x, step_y = joint_length(x, y), step(x), step(y)
            result = empty(n)
            for i in range(n):
                put(result, i, operation(entry(x, step_x * i), entry(y, step_y * i)))
            return result

        return each

    for function in (operation, *functions):
        overloaded(function)(typed)

    def typed_in_place(x, y):
        if not (is_dual_array(x) and _is_operand(y)):
            return None

        def each(x, y):
            if joint_length(x, y) != len(x):
                raise ValueError("operands could not be broadcast together")
            step_y = step(y)
            for i in range(len(x)):
                put(x, i, operation(entry(x, i), entry(y, step_y * i)))
            return x

        return each

    if in_place is not None:
        overloaded(in_place)(typed_in_place)


for _row in (
    (operator.add, operator.iadd, np.add),
    (operator.sub, operator.isub, np.subtract),
    (operator.mul, operator.imul, np.multiply),
    (operator.truediv, operator.itruediv, np.divide),
    (np.maximum, None),
    (np.minimum, None),
    (np.logaddexp, None),
):
    _elementwise_two(*_row)


@overloaded(operator.pow)
def _power(x, y):
    if not is_dual_array(x) or not is_number(y):
        return None
    if isinstance(y, types.IntegerLiteral):
        exponent = y.literal_value

        def fixed(x, y):
            result = empty(len(x))
            for i in range(len(x)):
                put(result, i, entry(x, i) ** exponent)
            return result

        return fixed

    def each(x, y):
        result = empty(len(x))
        for i in range(len(x)):
            put(result, i, entry(x, i) ** y)
        return result

    return each


def _elementwise_one(function: Any) -> None:
    def typed(x):
        if not is_dual_array(x):
            return None

        def each(x):
            result = empty(len(x))
            for i in range(len(x)):
                put(result, i, function(entry(x, i)))
            return result

        return each

    overloaded(function)(typed)


for _function in (
    operator.neg,
    np.abs,
    np.exp,
    np.expm1,
    np.log,
    np.log1p,
    np.sqrt,
    np.square,
    np.sin,
    np.cos,
    np.tanh,
    np.arctan,
):
    _elementwise_one(_function)


# Sums and extremes.


@kernel
def total(x):
    """The sum of a vector."""
    result = as_dual(0.0)
    for i in range(len(x)):
        result += entry(x, i)
    return result


@overloaded(np.sum)
def _np_sum(a):
    return (lambda a: total(a)) if is_dual_array(a) else None


@overloaded(sum)
def _sum(iterable):
    return (lambda iterable: total(iterable)) if is_dual_array(iterable) else None


@overload_method(DualArrayType, "sum")
def _method_sum(array):
    return (lambda array: total(array)) if array.ndim == 1 else None


@overloaded(np.mean)
def _np_mean(a):
    return (lambda a: total(a) / len(a)) if is_dual_array(a) else None


@overload_method(DualArrayType, "mean")
def _method_mean(array):
    return (lambda array: total(array) / len(array)) if array.ndim == 1 else None


def _extreme(name: str, choose: Any, *functions: Any) -> None:
    @kernel
    def extreme(x):
        if len(x) == 0:
            raise ValueError("zero-size array to reduction operation not possible")
        result = entry(x, 0)
        for i in range(1, len(x)):
            result = choose(result, entry(x, i))
        return result

    for function in functions:
        overloaded(function)(lambda a: (lambda a: extreme(a)) if is_dual_array(a) else None)
    overload_method(DualArrayType, name)(
        lambda array: (lambda array: extreme(array)) if array.ndim == 1 else None
    )


_extreme("max", np.maximum, np.max)
_extreme("min", np.minimum, np.min)


def _product(x, y):
    if _is_vector(x) and _is_vector(y) and (is_dual_array(x) or is_dual_array(y)):

        def inner(x, y):
            if len(x) != len(y):
                raise ValueError("incompatible array sizes for np.dot(a, b)")
            result = as_dual(0.0)
            for i in range(len(x)):
                result += entry(x, i) * entry(y, i)
            return result

        return inner
    if is_array(x, 2) and is_dual_array(y):

        def times_vector(x, y):
            if x.shape[1] != len(y):
                raise ValueError("incompatible array sizes for np.dot(a, b)")
            result = empty(x.shape[0])
            for i in range(x.shape[0]):
                one = as_dual(0.0)
                for j in range(len(y)):
                    one += x[i, j] * entry(y, j)
                put(result, i, one)
            return result

        return times_vector
    if is_dual_array(x) and is_array(y, 2):

        def vector_times(x, y):
            if y.shape[0] != len(x):
                raise ValueError("incompatible array sizes for np.dot(a, b)")
            result = empty(y.shape[1])
            for j in range(y.shape[1]):
                one = as_dual(0.0)
                for i in range(len(x)):
                    one += entry(x, i) * y[i, j]
                put(result, j, one)
            return result

        return vector_times
    return None


overloaded(operator.matmul)(_product)


@overloaded(np.dot)
def _dot(a, b):
    run = _product(a, b)
    return None if run is None else (lambda a, b: a @ b)


@overload_method(DualArrayType, "dot")
def _method_dot(array, other):
    return lambda array, other: array @ other


# Iteration.


@register_model(DualIteratorType)
class _DualIteratorModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, [("index", types.EphemeralPointer(types.intp)), ("array", vector)])


@lower_builtin("getiter", DualArrayType)
def _iterator(context, builder, signature, arguments):
    made = context.make_helper(builder, signature.return_type)
    made.index = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(64), 0))
    made.array = arguments[0]
    return impl_ret_borrowed(context, builder, signature.return_type, made._getvalue())


@lower_builtin("iternext", DualIteratorType)
@iternext_impl(RefType.BORROWED)
def _next(context, builder, signature, arguments, result):
    held = context.make_helper(builder, signature.args[0], value=arguments[0])
    numbers = context.make_array(vector.values)(context, builder, builder.extract_value(held.array, 0))
    index = builder.load(held.index)
    left = builder.icmp_signed("<", index, builder.extract_value(numbers.shape, 0))
    result.set_valid(left)
    with builder.if_then(left):
        result.yield_(load(context, builder, vector, held.array, index))
        builder.store(builder.add(index, ir.Constant(index.type, 1)), held.index)
