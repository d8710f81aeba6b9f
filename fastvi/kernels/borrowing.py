"""Arrays without reference counts, and many arrays as one, for the inside and the border of a kernel.

A function that takes an array out of a tuple adds a reference to it and drops that at its end: two atomic
operations. For the dozen arrays of a workspace these take more than half of the time of a short kernel (an
expectation on 17 nodes takes 0.6 µs with them, 0.2 µs without). A borrowed array points to the same memory
and counts no references; the caller's own keep it alive.

A workspace is a NamedTuple of arrays inside of kernels. From Python each array takes 0.085 µs to hand over,
and each NamedTuple 0.8 µs; the workspace of a fit consists of 29 and 5. So outside it is one array of words,
in which the arrays lie one after another. `packed` and `named` lead from one to the other. Other arguments
that belong together are plain tuples outside, to which `named` gives their names as well.
"""

from __future__ import annotations

from functools import cache
from itertools import count
from math import prod
from typing import Annotated, Any, get_type_hints

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.imputils import impl_ret_borrowed, impl_ret_new_ref
from numba.extending import intrinsic
from numba.np.numpy_support import as_dtype

from .compiler import overloaded

#: What the fields of a workspace are annotated with.
Vector = Annotated[Any, types.float64[::1]]
Matrix = Annotated[Any, types.float64[:, ::1]]
Cube = Annotated[Any, types.float64[:, :, ::1]]
Integers = Annotated[Any, types.int64[::1]]
IntegerMatrix = Annotated[Any, types.int64[:, ::1]]

#: Words in a line of the cache. The places of arrays in packed words are multiples of it.
_LINE = 8


def borrow(value):
    """The same array, or (nested) tuple of arrays and other values, without reference counts."""
    return value


def borrow_to_read(array):
    """`borrow`, for a kernel that does not write to the array.

    A read-only array is another type to numba, for which all that the kernel calls would be compiled anew.
    """
    return array


def _borrowed(context, builder, kind, value):
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        members = [
            _borrowed(context, builder, member, builder.extract_value(value, i))
            for i, member in enumerate(kind.types)
        ]
        return context.make_tuple(builder, kind, members)
    return value


@intrinsic
def _borrow(typing_context, value):
    def generate(context, builder, signature, arguments):
        return _borrowed(context, builder, value, arguments[0])

    return value(value), generate


@intrinsic
def _borrow_to_read(typing_context, array):
    def generate(context, builder, signature, arguments):
        return _borrowed(context, builder, array, arguments[0])

    return array.copy(readonly=False)(array), generate


@overloaded(borrow_to_read)
def _overload_borrow_to_read(array):
    return lambda array: _borrow_to_read(array)


@overloaded(borrow)
def _overload_borrow(value):
    return lambda value: _borrow(value)


def packed(space):
    """A workspace, a (nested) NamedTuple of arrays, as one array of words.

    First come, for each of its arrays, its place and its shape, then room for the arrays. Integers in it are
    zero, other numbers undefined.
    """
    header, total = [], _lines(_header_size(type(space)))
    for array in _flat(space):
        header += [total, *array.shape]
        total += _lines(array.size)
    words = np.empty(total, np.int64)
    words[: len(header)] = header
    for view in _flat(_views(type(space), words)):
        if view.dtype == np.int64:
            view[...] = 0
    return words


def named(kind, value):
    """A workspace that is `packed`, or a tuple, as a NamedTuple of this class; so too each of its members."""
    if isinstance(value, np.ndarray):
        return _views(kind, value)
    members = zip(_fields(kind), value, strict=True)
    return kind(*[named(field, member) if _is_named(field) else member for field, member in members])


def member(kind, words, path):
    """One array of a workspace of this class that is `packed`, by the names of fields that lead to it.

    It takes 2 µs, where `named` takes 25 for all the arrays of a fit.
    """
    dimensions, dtype, at = _position(kind, path)
    place, *shape = words[at : at + 1 + dimensions].tolist()
    return words[place : place + prod(shape)].view(dtype).reshape(shape)


@cache
def _position(kind, path):
    """The number of dimensions and the dtype of a member of a workspace, and its position in the header."""
    name, _, rest = path.partition(".")
    *fields, field = _fields(kind)[: kind._fields.index(name) + 1]
    before = sum(_header_size(one) if _is_named(one) else 1 + one.ndim for one in fields)
    if not rest:
        return field.ndim, as_dtype(field.dtype), before
    dimensions, dtype, at = _position(field, rest)
    return dimensions, dtype, before + at


def _is_named(hint):
    return isinstance(hint, type) and hasattr(hint, "_fields")


@cache
def _fields(kind):
    """The classes of a NamedTuple's fields: of NamedTuples themselves, of numba for arrays, or Any."""
    hints = get_type_hints(kind, include_extras=True)
    return [getattr(hints[name], "__metadata__", [hints[name]])[0] for name in kind._fields]


def _flat(space):
    """The arrays of a workspace one by one."""
    for member in space:
        if isinstance(member, np.ndarray):
            yield member
        else:
            yield from _flat(member)


def _lines(words):
    """So many words, filled up to whole lines of the cache."""
    return -(-words // _LINE) * _LINE


@cache
def _header_size(kind):
    """How many words the places and shapes of a workspace are."""
    return sum(_header_size(field) if _is_named(field) else 1 + field.ndim for field in _fields(kind))


def _views(kind, words):
    """The arrays in packed words, with names."""
    header = iter(words[: _header_size(kind)].tolist())

    def view(field):
        if _is_named(field):
            return field(*map(view, _fields(field)))
        place, *shape = [next(header) for _ in range(1 + field.ndim)]
        return words[place : place + prod(shape)].view(as_dtype(field.dtype)).reshape(shape)

    return view(kind)


# The same in compiled code.


def _named_type(hint, kind):
    """The type that `named` makes of this one, which is None in a packed workspace."""
    if not _is_named(hint):
        return kind or hint
    members = kind.types if isinstance(kind, types.BaseTuple) else [None] * len(hint._fields)
    pairs = zip(_fields(hint), members, strict=True)
    return types.BaseTuple.from_types([_named_type(field, member) for field, member in pairs], hint)


def _compiled_views(context, builder, kind, words):
    """The arrays in packed words, as a tuple of this type.

    Places are read, not computed from the shapes: of pointers that are sums of dozens of products, LLVM takes
    a third longer to compile a fit.
    """
    from numba.np import arrayobj  # takes 25 ms, which `import fastvi` does not need

    header = (_at(context, builder, words, i) for i in count())

    def view(kind):
        if isinstance(kind, types.BaseTuple):
            return context.make_tuple(builder, kind, [view(member) for member in kind.types])
        place, *shape = [builder.load(next(header)) for _ in range(1 + kind.ndim)]
        strides = []
        size, width = context.get_constant(types.intp, 1), words.itemsize
        for length in reversed(shape):
            strides.insert(0, builder.mul(size, width))
            size = builder.mul(size, length)
        array = context.make_array(kind)(context, builder)
        data = builder.bitcast(builder.gep(words.data, [place]), array.data.type)
        parts = {"data": data, "shape": shape, "strides": strides, "itemsize": width}
        arrayobj.populate_array(array, **parts, meminfo=words.meminfo)
        return array._getvalue()

    return view(kind)


def _at(context, builder, words, i):
    """A pointer to a word."""
    return builder.gep(words.data, [context.get_constant(types.intp, i)])


def _compiled_flat(context, builder, kind, value):
    """The arrays of a workspace one by one, with their types."""
    if isinstance(kind, types.BaseTuple):
        for i, member in enumerate(kind.types):
            yield from _compiled_flat(context, builder, member, builder.extract_value(value, i))
    else:
        yield kind, context.make_array(kind)(context, builder, value)


@intrinsic
def _packed(typing_context, space):
    if _named_type(space.instance_class, None) != space:
        raise TypingError(f"the arrays of {space.instance_class} are not of the types of its fields")
    target = types.int64[::1]

    def generate(context, builder, signature, arguments):
        from numba.np import arrayobj

        header, total = [], context.get_constant(types.intp, _lines(_header_size(space.instance_class)))
        for _, array in _compiled_flat(context, builder, space, arguments[0]):
            header += [total, *cgutils.unpack_tuple(builder, array.shape)]
            filled = builder.add(array.nitems, context.get_constant(types.intp, _LINE - 1))
            total = builder.add(total, builder.and_(filled, context.get_constant(types.intp, -_LINE)))
        words = arrayobj._empty_nd_impl(context, builder, target, [total])
        for i, word in enumerate(header):
            builder.store(word, _at(context, builder, words, i))
        views = _compiled_views(context, builder, space, words)
        for kind, array in _compiled_flat(context, builder, space, views):
            if kind.dtype == types.int64:
                cgutils.memset(builder, array.data, builder.mul(array.nitems, array.itemsize), 0)
        return impl_ret_new_ref(context, builder, target, words._getvalue())

    return target(space), generate


def _converted(context, builder, source, target, value):
    """The same as a tuple of another type."""
    if not isinstance(target, types.BaseTuple):
        return value
    if isinstance(source, types.Array):
        return _compiled_views(context, builder, target, context.make_array(source)(context, builder, value))
    pairs = zip(source.types, target.types, strict=True)
    members = [
        _converted(context, builder, one, two, builder.extract_value(value, i))
        for i, (one, two) in enumerate(pairs)
    ]
    return context.make_tuple(builder, target, members)


@intrinsic
def _named(typing_context, kind, value):
    target = _named_type(kind.instance_class, value)

    def generate(context, builder, signature, arguments):
        result = _converted(context, builder, value, target, arguments[1])
        return impl_ret_borrowed(context, builder, target, result)

    return target(kind, value), generate


@overloaded(packed)
def _overload_packed(space):
    return lambda space: _packed(space)


@overloaded(named)
def _overload_named(kind, value):
    return lambda kind, value: _named(kind, value)
