"""The log joint of a user's compiled code as a C function in the user's module, with its data.

It has the signature `packing.VALUE`: kernels that are compiled once for all models call it by its address.
Its table is the tuple of data itself, on the stack of the caller.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from ..kernels.compiler import inlined
from ..kernels.inference.gaps import MANY
from ..kernels.models.calling import number
from .types import SUPPORT, ModelType

_NUMBERS = types.CPointer(types.float64)
_TABLE = types.Array(types.int64, 2, "C")

#: A model as the operations take it: address, table, kinds, bounds, and whether an array of its data is so
#: large that an evaluation may take long.
_TARGET = types.Tuple((types.int64, _TABLE, *(kind for _, kind in SUPPORT), types.boolean))

_WORD = ir.IntType(64)

#: Blocks of the C function: calls of the log joint; what follows on one that raised, and on one that did not;
#: the end.
_STAGES = "rows", "raised", "fine", "end"


@cache
def _tabulate(log_joint: Any, dim: int) -> Any:
    """A function that writes the log joint at `count` points."""

    # The number of coordinates is a constant: the loop of a log joint over them is unrolled, and that over
    # the points vectorised (a fit takes 0.7 µs less). Inlined, it leaves no symbol in the user's object: its
    # name is the same for all log joints, and the linker would take the first of that name in the process.
    @inlined
    def tabulate(nodes, count, data, out):
        z = carray(nodes, (count, dim))
        for i in range(count):
            out[i] = number(log_joint(z[i], *data))

    return tabulate


def target_of(model: ModelType) -> Any:
    """An intrinsic that makes (address, table, kinds, bounds, many) of a model of this type.

    The table is on the stack of the function that calls this.
    """
    tabulate = _tabulate(model.log_joint.dispatcher, model.dim)
    arguments = _NUMBERS, types.int64, model.data, _NUMBERS

    @intrinsic
    def target(typing_context, given):
        tabulate.compile(arguments)

        def generate(context, builder, _, values):
            fields = cgutils.create_struct_proxy(given)(context, builder, value=values[0])
            function = _c_function(context, builder.module, tabulate.overloads[arguments], model.data)
            address = builder.ptrtoint(function, _WORD)
            table = _table(context, builder, model.data, fields.data)
            many = _has_many(context, builder, model.data, fields.data)
            parts = address, table, fields.kinds, fields.bounds, many
            made = context.make_tuple(builder, _TARGET, parts)
            return impl_ret_borrowed(context, builder, _TARGET, made)

        return _TARGET(given), generate

    return target


def _c_function(context: Any, module: Any, tabulate: Any, data: Any) -> Any:
    """A function of this module, of the type of `packing.VALUE`, that reads the data from its table."""
    numbers, words = ir.DoubleType().as_pointer(), _WORD.as_pointer()
    kind = ir.FunctionType(_WORD, [numbers, _WORD, _WORD, numbers, _WORD, words, numbers])
    function = ir.Function(module, kind, module.get_unique_name("fastvi.log_joint"))
    function.linkage = "private"
    nodes, count, dim, _, _, table, out = function.args
    first = function.append_basic_block()
    builder = ir.IRBuilder(first)
    kept = builder.load(builder.bitcast(table, context.get_value_type(data).as_pointer()))
    context.active_code_library.add_linking_library(tabulate.library)
    inner, native = context.declare_function(module, tabulate.fndesc), tabulate.fndesc
    # Where it raises among many points nothing says: then they are taken one by one. There is one call of it
    # for both, for it is inlined.
    zero, one = ir.Constant(_WORD, 0), ir.Constant(_WORD, 1)
    rows, raised, fine, end = (function.append_basic_block(name) for name in _STAGES)
    builder.branch(rows)
    builder.position_at_end(rows)
    start, number = builder.phi(_WORD), builder.phi(_WORD)
    arguments = [builder.gep(nodes, [builder.mul(start, dim)]), number, kept, builder.gep(out, [start])]
    status, _ = context.call_conv.call_function(builder, inner, native.restype, native.argtypes, arguments)
    after = builder.add(start, one)
    is_whole = builder.icmp_signed("==", number, count)
    builder.cbranch(status.is_error, raised, fine)
    builder.position_at_end(raised)
    is_one = builder.icmp_signed("==", number, one)
    with builder.if_then(is_one):
        builder.ret(after)
    retry = builder.block
    builder.branch(rows)
    builder.position_at_end(fine)
    is_last = builder.or_(is_whole, builder.icmp_signed("==", after, count))
    builder.cbranch(is_last, end, rows)
    for phi, begin, again, next_one in ((start, zero, zero, after), (number, count, one, one)):
        phi.add_incoming(begin, first)
        phi.add_incoming(again, retry)
        phi.add_incoming(next_one, fine)
    builder.position_at_end(end)
    builder.ret(zero)
    return function


def _has_many(context: Any, builder: Any, data: Any, value: Any) -> Any:
    """Whether an array of the data has `gaps.MANY` entries: as `sharing.is_small` of the API says it."""
    many = cgutils.false_bit
    for i, kind in enumerate(data.types):
        if isinstance(kind, types.Array):
            array = context.make_array(kind)(context, builder, builder.extract_value(value, i))
            large = builder.icmp_signed(">=", array.nitems, ir.Constant(_WORD, MANY))
            many = builder.or_(many, large)
    return many


def _table(context: Any, builder: Any, data: Any, value: Any) -> Any:
    """An array (1, words) over a copy of the data on the stack."""
    from numba.np.arrayobj import populate_array  # takes 25 ms, which `import fastvi` does not need

    kind = context.get_value_type(data)
    size, word = context.get_abi_sizeof(kind), context.get_abi_sizeof(_WORD)
    # Without data there is one unused word, so that the row has an address.
    place = cgutils.alloca_once_value(builder, value) if size else cgutils.alloca_once(builder, _WORD)
    count = max(-(-size // word), 1)
    shape, strides = [1, count], [count * word, word]
    array = context.make_array(_TABLE)(context, builder)
    populate_array(
        array,
        builder.bitcast(place, _WORD.as_pointer()),
        [ir.Constant(_WORD, n) for n in shape],
        [ir.Constant(_WORD, n) for n in strides],
        ir.Constant(_WORD, word),
        None,
    )
    return array._getvalue()
