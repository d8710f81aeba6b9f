"""The gradient of a user's log joint by forward differentiation, for `calling`.

The function is compiled for dual numbers (`duals`): one pass gives its value and its derivatives in eight
directions. The C function that comes of it is called like that of a gradient that a user has written. Its
loops are in LLVM's own terms: numba would take 0.6 s to compile them, for each log joint.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from ..compiler import jitted, to_c
from ..numerics.dual_arrays import DualArrayType, load, vector
from ..numerics.duals import DIRECTIONS, as_dual, dual, unpack
from .named import Fields, parameters_class
from .packing import GRADIENTS, VALUE, unpacker

_WORD, _REAL = ir.IntType(64), ir.DoubleType()


def _number(n: int) -> Any:
    return ir.Constant(_WORD, n)


def _array(context, builder, kind, data, shape):
    """An array in C order in memory that it does not own."""
    strides, stride = [], _number(8)
    for extent in reversed(shape):
        strides.insert(0, stride)
        stride = builder.mul(stride, extent)
    made = context.make_array(kind)(context, builder)
    populate_array(made, data, shape, strides, _number(8), None)
    return made._getvalue()


def _duals(context, builder, kind, place, data, shape):
    """An array of dual numbers from a place on in memory: the values and the derivatives of z."""
    values, partials = data
    made = cgutils.create_struct_proxy(kind)(context, builder)
    first = builder.gep(values, [_number(place)])
    made.values = _array(context, builder, kind.values, first, shape)
    first = builder.gep(partials, [_number(place * DIRECTIONS)])
    made.partials = _array(context, builder, kind.partials, first, [*shape, _number(DIRECTIONS)])
    return made._getvalue()


def _point_type(fields: Fields | None) -> Any:
    """The type of what the log joint takes for z."""
    if fields is None:
        return vector
    kinds = [DualArrayType(len(shape)) if shape else dual for _, _, shape in fields]
    return types.BaseTuple.from_types(kinds, parameters_class(tuple(name for name, _, _ in fields)))


def _point(context, builder, fields, data, dim):
    """That of the values and derivatives of z in memory."""
    whole = _duals(context, builder, vector, 0, data, [dim])
    if fields is None:
        return whole
    kind, parts = _point_type(fields), []
    for part, (_, place, shape) in zip(kind.types, fields, strict=True):
        if shape:
            extents = [_number(n) for n in shape]
            parts.append(_duals(context, builder, part, place, data, extents))
        else:
            parts.append(load(context, builder, vector, whole, _number(place)))
    return context.make_tuple(builder, kind, parts)


def _is_finite(builder, number):
    magnitude = builder.call(builder.module.declare_intrinsic("llvm.fabs", [_REAL]), [number])
    return builder.fcmp_ordered("<", magnitude, ir.Constant(_REAL, math.inf))


def _difference(builder, evaluate, centre, room, k):
    """The difference quotient of a function at a point in `room` along coordinate k.

    It is to both sides, or to that one where the value is finite; NaN where there is none. At the point the
    value is `centre`.
    """
    place = builder.gep(room, [k])
    z, nothing = builder.load(place), ir.Constant(_REAL, 0.0)
    step = builder.fmul(ir.Constant(_REAL, 1e-5), z)
    step = builder.call(builder.module.declare_intrinsic("llvm.fabs", [_REAL]), [step])
    far = builder.fcmp_ordered(">", step, ir.Constant(_REAL, 1e-5))
    step = builder.select(far, step, ir.Constant(_REAL, 1e-5))
    values, widths = [], []
    for move in (builder.fadd, builder.fsub):
        builder.store(move(z, step), place)
        value = evaluate(room)
        is_finite = _is_finite(builder, value)
        values.append(builder.select(is_finite, value, centre))
        widths.append(builder.select(is_finite, step, nothing))
    builder.store(z, place)
    return builder.fdiv(builder.fsub(*values), builder.fadd(*widths))


def make(function: Any, fields: Fields | None, kinds: tuple[Any, ...], has_theta: bool, address: int) -> Any:
    """The compiled C function, which the caller must keep alive; a NumbaError where there is none.

    `address` is that of the C function of the log joint itself. Where a derivative is not finite although the
    value is, as that of a square root at 0 or of a logistic function whose exponential overflows, it is a
    difference of values.
    """
    data_of = unpacker(kinds)
    if has_theta:
        one = jitted(lambda point, theta, table: as_dual(function(point, theta, *data_of(table))))
    else:
        one = jitted(lambda point, theta, table: as_dual(function(point, *data_of(table))))
    theta_type = types.Array(types.float64, 1, "C", readonly=True)
    wanted = dual(_point_type(fields), theta_type, VALUE.args[5])
    one.get_call_template(wanted.args, {})
    compiled = one.overloads[wanted.args]

    @intrinsic
    def run(typing_context, nodes, count, dim, theta, size, table, out, gradients):
        def generate(context, builder, signature, arguments):
            nodes, count, dim, theta, size, table, out, gradients = arguments
            parameters = _array(context, builder, theta_type, theta, [size])
            # The derivatives of z, and room for a point and a value.
            width = builder.mul(dim, _number(8 * (DIRECTIONS + 2)))
            memory = context.nrt.allocate(builder, width)
            cgutils.memset(builder, memory, width, 0)
            seeds = builder.bitcast(memory, _REAL.as_pointer())
            room = builder.gep(seeds, [builder.mul(dim, _number(DIRECTIONS))])
            failed = cgutils.alloca_once_value(builder, _number(0))

            def evaluate(z):
                """The log joint itself; NaN where it raises."""
                result = builder.gep(room, [dim])
                passed = [z, _number(1), dim, theta, size, table, result]
                kind = ir.FunctionType(_WORD, [argument.type for argument in passed])
                value = builder.inttoptr(_number(address), kind.as_pointer())
                fine = builder.icmp_signed("==", builder.call(value, passed), _number(0))
                return builder.select(fine, builder.load(result), ir.Constant(_REAL, math.nan))

            with cgutils.for_range(builder, count) as rows:
                first = builder.mul(rows.index, dim)
                z, gradient = builder.gep(nodes, [first]), builder.gep(gradients, [first])
                result = builder.gep(out, [rows.index])
                with cgutils.for_range_slice(builder, _number(0), dim, _number(DIRECTIONS)) as (low, _):
                    left = builder.sub(dim, low)
                    few = builder.icmp_signed("<", left, _number(DIRECTIONS))
                    left = builder.select(few, left, _number(DIRECTIONS))
                    start = builder.gep(seeds, [builder.mul(low, _number(DIRECTIONS))])

                    def seed(number):
                        with cgutils.for_range(builder, left) as lanes:
                            place = builder.mul(lanes.index, _number(DIRECTIONS + 1))
                            builder.store(ir.Constant(_REAL, number), builder.gep(start, [place]))

                    seed(1.0)
                    point = _point(context, builder, fields, (z, seeds), dim)
                    status, found = context.call_internal_no_propagate(
                        builder, compiled.fndesc, wanted, (point, parameters, table)
                    )
                    seed(0.0)
                    with builder.if_then(status.is_error):
                        builder.store(builder.add(rows.index, _number(1)), failed)
                    value, slopes = unpack(builder, found)
                    builder.store(value, result)
                    with cgutils.for_range(builder, left) as lanes:
                        lane = builder.trunc(lanes.index, ir.IntType(32))
                        place = builder.gep(gradient, [builder.add(low, lanes.index)])
                        builder.store(builder.extract_element(slopes, lane), place)
                with builder.if_then(builder.icmp_signed("!=", builder.load(failed), _number(0))):
                    rows.do_break()
                value = builder.load(result)
                with builder.if_then(_is_finite(builder, value)):
                    cgutils.raw_memcpy(builder, room, z, dim, 8)
                    with cgutils.for_range(builder, dim) as coordinates:
                        place = builder.gep(gradient, [coordinates.index])
                        with builder.if_then(builder.not_(_is_finite(builder, builder.load(place)))):
                            slope = _difference(builder, evaluate, value, room, coordinates.index)
                            builder.store(slope, place)
            context.nrt.free(builder, memory)
            context.add_linking_libs([compiled.library])
            return builder.load(failed)

        return GRADIENTS, generate

    def values_and_gradients(nodes, count, dim, theta, size, table, out, gradients):
        return run(nodes, count, dim, theta, size, table, out, gradients)

    return to_c(GRADIENTS)(values_and_gradients)
