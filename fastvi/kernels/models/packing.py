"""A user's log joint as a C function with an address, for `fastvi.Model`; `calling` is the other side.

It is compiled for each log joint and each combination of types of its data: 0.15 s for a short one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from ..compiler import jitted, to_c
from .calling import number

_NUMBERS = types.CPointer(types.float64)
_WORDS = types.CPointer(types.int64)

#: nodes, their count, dim, theta, its size, table, out (, gradients); the status.
VALUE = types.int64(_NUMBERS, types.int64, types.int64, _NUMBERS, types.int64, _WORDS, _NUMBERS)
GRADIENTS = types.int64(_NUMBERS, types.int64, types.int64, _NUMBERS, types.int64, _WORDS, _NUMBERS, _NUMBERS)


@intrinsic
def _read_only(typing_context, array):
    """The same array, of a type that refuses to be written to: a log joint that does so does not compile."""
    kind = types.Array(array.dtype, array.ndim, array.layout, readonly=True)
    return kind(array), lambda context, builder, signature, arguments: arguments[0]


@intrinsic
def _same(typing_context, array):
    return array(array), lambda context, builder, signature, arguments: arguments[0]


def unpacker(kinds: tuple[Any, ...]) -> Any:
    """An intrinsic that makes a tuple of data out of a table: numbers' bits, arrays' addresses and shapes."""

    @intrinsic
    def unpack(typing_context, table):
        def generate(context, builder, signature, arguments):
            word = ir.IntType(64)

            def read(k):
                return builder.load(builder.gep(arguments[0], [ir.Constant(word, k)]))

            place, values = 0, []
            for kind in kinds:
                if isinstance(kind, types.Array):
                    element = context.get_data_type(kind.dtype)
                    size = ir.Constant(word, context.get_abi_sizeof(element))
                    shape = [read(place + 1 + axis) for axis in range(kind.ndim)]
                    strides, stride = [], size
                    for extent in reversed(shape):
                        strides.insert(0, stride)
                        stride = builder.mul(stride, extent)
                    array = context.make_array(kind)(context, builder)
                    data = builder.inttoptr(read(place), element.as_pointer())
                    populate_array(array, data, shape, strides, size, None)
                    values.append(array._getvalue())
                    place += 1 + kind.ndim
                    continue
                bits = read(place)
                if kind == types.float64:
                    values.append(builder.bitcast(bits, ir.DoubleType()))
                else:
                    values.append(context.cast(builder, bits, types.int64, kind))
                place += 1
            return context.make_tuple(builder, signature.return_type, values)

        return types.Tuple(kinds)(_WORDS), generate

    return unpack


def make(function: Any, kinds: tuple[Any, ...], has_theta: bool, with_gradient: bool) -> Any:
    """The compiled C function, which the caller must keep alive."""
    unpack = unpacker(kinds)
    # A function that was given signatures is not compiled for read-only arrays.
    seen = _read_only if getattr(function, "_can_compile", True) else _same
    # Unpacking arguments (*data) is not possible inside of try.
    if with_gradient and has_theta:
        one = jitted(lambda z, gradient, theta, data: function(z, gradient, theta, *data))
    elif with_gradient:
        one = jitted(lambda z, gradient, theta, data: function(z, gradient, *data))
    elif has_theta:
        one = jitted(lambda z, theta, data: function(z, theta, *data))
    else:
        one = jitted(lambda z, theta, data: function(z, *data))

    def values(nodes, count, dim, theta, size, table, out):
        data = unpack(table)
        z, parameters = carray(nodes, (count, dim)), carray(theta, (size,))
        for i in range(count):
            try:
                out[i] = number(one(seen(z[i]), seen(parameters), data))
            except Exception:
                return i + 1
        return 0

    def values_and_gradients(nodes, count, dim, theta, size, table, out, gradients):
        data = unpack(table)
        z, parameters = carray(nodes, (count, dim)), carray(theta, (size,))
        gradient = carray(gradients, (count, dim))
        for i in range(count):
            try:
                out[i] = number(one(seen(z[i]), gradient[i], seen(parameters), data))
            except Exception:
                return i + 1
        return 0

    return to_c(GRADIENTS)(values_and_gradients) if with_gradient else to_c(VALUE)(values)
