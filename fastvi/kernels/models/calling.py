"""Calls of a user's log joint at many points, for `evaluation`.

`tabulate` has three forms. From Python a model arrives as the address of a compiled function, with its data
packed into a table of 64-bit words: the kernels are compiled once for all models, and a call costs 0.7 ns
more than the user's own function. In the user's compiled code it arrives as the function itself, with a
tuple of data, and is compiled into the kernels. From C it arrives as a pointer to a function, ``double (const
double *z, void *data)``, and a pointer to its data.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from ..compiler import kernel, overloaded


def number(value):
    """What a log joint returns: a type error where that is no number.

    Numba itself stores the first entry of an array in place of a number: the log joint that returns one for
    each observation, and does not sum them, would be that of the first.
    """
    return value


@overloaded(number)
def _overload_number(value):
    kind = value.type if isinstance(value, types.Optional) else value
    is_real = isinstance(kind, types.Float | types.Integer | types.Boolean)
    if not is_real and not (isinstance(kind, types.Array) and kind.ndim == 0):
        help_ = ": sum it, as with np.sum" if isinstance(kind, types.Array) else ""
        raise TypingError(f"a log joint must return a real number, not {kind}{help_}")
    return lambda value: value


def tabulate(log_joint, data, nodes, count, out):
    """Write the log joint at the first `count` rows of nodes (N, D); 0, or where it raised, from 1."""
    for i in range(count):
        out[i] = number(log_joint(nodes[i], *data))
    return 0


def tabulate_gradients(log_joint_grad, data, nodes, count, out, gradients):
    """`tabulate`, with the gradients (N, D)."""
    for i in range(count):
        out[i] = log_joint_grad(nodes[i], gradients[i], *data)
    return 0


def _pointer_to(context, builder, kind, value):
    return context.make_array(kind)(context, builder, value).data


def _call(context, builder, signature, arguments):
    """Call the function at the address that is the first argument, with pointers for arrays."""
    word, numbers = ir.IntType(64), ir.DoubleType().as_pointer()
    kinds = {types.float64: numbers, types.int64: word.as_pointer()}
    passed, parameters = [], []
    for kind, value in zip(signature.args[1:], arguments[1:], strict=True):
        if isinstance(kind, types.Array):
            parameters.append(kinds[kind.dtype])
            passed.append(_pointer_to(context, builder, kind, value))
        else:
            parameters.append(word)
            passed.append(value)
    function = builder.inttoptr(arguments[0], ir.FunctionType(word, parameters).as_pointer())
    return builder.call(function, passed)


@intrinsic
def _call_block(typing_context, address, nodes, count, dim, theta, size, table, out):
    def generate(context, builder, signature, arguments):
        return _call(context, builder, signature, arguments)

    wanted = types.int64, nodes, types.int64, types.int64, theta, types.int64, table, out
    return types.int64(*wanted), generate


@intrinsic
def _call_gradients(typing_context, address, nodes, count, dim, theta, size, table, out, gradients):
    def generate(context, builder, signature, arguments):
        return _call(context, builder, signature, arguments)

    wanted = types.int64, nodes, types.int64, types.int64, theta, types.int64, table, out, gradients
    return types.int64(*wanted), generate


@intrinsic
def _call_pointer(typing_context, function, nodes, row, data):
    """function(&nodes[row, 0], data)."""

    def generate(context, builder, signature, arguments):
        function, nodes, row, data = arguments
        array = context.make_array(signature.args[1])(context, builder, nodes)
        z = builder.gep(array.data, [builder.mul(row, builder.extract_value(array.shape, 1))])
        kind = ir.FunctionType(ir.DoubleType(), [z.type, data.type])
        return builder.call(builder.bitcast(function, kind.as_pointer()), [z, data])

    return types.float64(types.voidptr, nodes, types.int64, types.voidptr), generate


@kernel
def _through_address(log_joint, data, nodes, count, out):
    theta, table = data
    return _call_block(log_joint, nodes, count, nodes.shape[1], theta, theta.size, table, out)


@kernel
def _gradients_through_address(log_joint_grad, data, nodes, count, out, gradients):
    theta, table = data
    return _call_gradients(
        log_joint_grad, nodes, count, nodes.shape[1], theta, theta.size, table, out, gradients
    )


@overloaded(tabulate)
def _overload_tabulate(log_joint, data, nodes, count, out):
    if isinstance(log_joint, types.Integer):
        return lambda log_joint, data, nodes, count, out: _through_address(log_joint, data, nodes, count, out)
    if log_joint == types.voidptr:

        def each_from_c(log_joint, data, nodes, count, out):
            for i in range(count):
                out[i] = _call_pointer(log_joint, nodes, i, data)
            return 0

        return each_from_c
    _check(log_joint, "log_joint(z, *data)")

    def each(log_joint, data, nodes, count, out):
        for i in range(count):
            out[i] = number(log_joint(nodes[i], *data))
        return 0

    return each


@overloaded(tabulate_gradients)
def _overload_tabulate_gradients(log_joint_grad, data, nodes, count, out, gradients):
    if isinstance(log_joint_grad, types.Integer):
        return lambda log_joint_grad, data, nodes, count, out, gradients: _gradients_through_address(
            log_joint_grad, data, nodes, count, out, gradients
        )
    _check(log_joint_grad, "log_joint_grad(z, grad, *data)")

    def each(log_joint_grad, data, nodes, count, out, gradients):
        for i in range(count):
            out[i] = number(log_joint_grad(nodes[i], gradients[i], *data))
        return 0

    return each


def _check(function, wanted):
    if not isinstance(function, types.Dispatcher | types.FunctionType):
        raise TypingError(f"fastvi kernels take a jitted function {wanted}, not {function}")
