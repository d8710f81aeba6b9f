"""Dual numbers: a value with its derivatives in eight directions, as numba types, for `forward`.

A user's log joint that is compiled for them computes its gradient beside its value. Arithmetic and the
functions of a number are written in LLVM's own terms: the eight derivatives are one vector, and nothing is
compiled for a pair of types. `dual_arrays` has vectors of them.

The value is what the log joint itself computes, with its exceptions. Where a derivative is infinite, as that
of a square root at zero, it counts for the directions that move its argument only.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import typing
from numba.core.dispatcher import Dispatcher
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

from .digamma import digamma

#: Directions that are followed at once: one register of AVX-512, two of AVX2.
DIRECTIONS = 8

_REAL = ir.DoubleType()
_INDEX = ir.IntType(32)
LANES = ir.VectorType(_REAL, DIRECTIONS)

_NUMBERS = types.Number | types.Boolean


class LanesType(types.Type):
    """Derivatives in the directions."""

    def __init__(self) -> None:
        super().__init__("fastvi.Lanes")


class DualType(types.Type):
    """A number with its derivatives. Real numbers convert to it, with none."""

    holds_duals = True

    def __init__(self) -> None:
        super().__init__("fastvi.Dual")

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:
        return Conversion.safe if is_number(other) else None

    def unify(self, typingctx: Any, other: Any) -> Any:
        return self if is_number(other) else None


lanes = LanesType()
dual = DualType()


def is_number(kind: Any) -> bool:
    """Whether this is the type of a real number without derivatives."""
    return isinstance(kind, _NUMBERS) and not isinstance(kind, types.Complex)


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    """A vector register; in memory, as in a list, eight numbers: a vector would have to be aligned there."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, LANES)

    def get_data_type(self) -> Any:
        return ir.ArrayType(_REAL, DIRECTIONS)

    def as_data(self, builder: Any, value: Any) -> Any:
        data = ir.Constant(self.get_data_type(), ir.Undefined)
        for k in range(DIRECTIONS):
            data = builder.insert_value(data, builder.extract_element(value, ir.Constant(_INDEX, k)), k)
        return data

    def from_data(self, builder: Any, value: Any) -> Any:
        vector = ir.Constant(LANES, ir.Undefined)
        for k in range(DIRECTIONS):
            vector = builder.insert_element(vector, builder.extract_value(value, k), ir.Constant(_INDEX, k))
        return vector


@register_model(DualType)
class _DualModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, [("value", types.float64), ("partials", lanes)])


# In LLVM's terms.


def splat(builder: Any, number: Any) -> Any:
    """A vector with the same number in each lane."""
    one = builder.insert_element(ir.Constant(LANES, ir.Undefined), number, ir.Constant(_INDEX, 0))
    mask = ir.Constant(ir.VectorType(_INDEX, DIRECTIONS), [0] * DIRECTIONS)
    return builder.shuffle_vector(one, ir.Constant(LANES, ir.Undefined), mask)


NONE = ir.Constant(LANES, [0.0] * DIRECTIONS)


def pack(builder: Any, context: Any, value: Any, partials: Any) -> Any:
    """A dual number."""
    empty = ir.Constant(context.get_value_type(dual), ir.Undefined)
    return builder.insert_value(builder.insert_value(empty, value, 0), partials, 1)


def unpack(builder: Any, number: Any) -> tuple[Any, Any]:
    """(value, partials) of a dual number."""
    return builder.extract_value(number, 0), builder.extract_value(number, 1)


def scaled(builder: Any, slope: Any, partials: Any) -> Any:
    """slope * partials."""
    return builder.fmul(splat(builder, slope), partials, flags=["contract"])


def scaled_where_moved(builder: Any, slope: Any, partials: Any) -> Any:
    """The same, and 0 for a direction that does not move the argument, whatever the slope."""
    still = builder.fcmp_ordered("==", partials, NONE)
    return builder.select(still, NONE, scaled(builder, slope, partials))


def plus(builder: Any, one: Any, other: Any) -> Any:
    """The sum of two vectors of derivatives."""
    # Without signed zeros: adding to no derivatives at all is dropped.
    return builder.fadd(one, other, flags=["contract", "nsz"])


class _Real:
    """A real number in LLVM's terms, with Python's operators: so the rules below read as formulas."""

    def __init__(self, context: Any, builder: Any, number: Any) -> None:
        self.context, self.builder, self.number = context, builder, number

    def _new(self, number: Any) -> _Real:
        return _Real(self.context, self.builder, number)

    def _of(self, other: Any) -> Any:
        return other.number if isinstance(other, _Real) else ir.Constant(_REAL, float(other))

    def __add__(self, other: Any) -> _Real:
        return self._new(self.builder.fadd(self.number, self._of(other)))

    def __sub__(self, other: Any) -> _Real:
        return self._new(self.builder.fsub(self.number, self._of(other)))

    def __rsub__(self, other: Any) -> _Real:
        return self._new(self.builder.fsub(self._of(other), self.number))

    def __mul__(self, other: Any) -> _Real:
        return self._new(self.builder.fmul(self.number, self._of(other)))

    def __truediv__(self, other: Any) -> _Real:
        return self._new(self.builder.fdiv(self.number, self._of(other)))

    def __rtruediv__(self, other: Any) -> _Real:
        return self._new(self.builder.fdiv(self._of(other), self.number))

    def __neg__(self) -> _Real:
        return self._new(self.builder.fneg(self.number))

    __radd__, __rmul__ = __add__, __mul__

    def where(self, relation: str, other: Any, yes: Any, no: Any) -> _Real:
        """`yes` where self stands in this relation to other, else `no`."""
        chosen = self.builder.fcmp_ordered(relation, self.number, self._of(other))
        return self._new(self.builder.select(chosen, self._of(yes), self._of(no)))

    def call(self, function: Any, *others: Any) -> _Real:
        """The value of a function that numba knows, or of a kernel."""
        arguments = [self.number, *map(self._of, others)]
        known = self.context.typing_context
        if isinstance(function, Dispatcher):
            function = known.resolve_value_type(function)
        signature = known.resolve_function_type(function, (types.float64,) * len(arguments), {})
        run = self.context.get_function(function, signature)
        return self._new(run(self.builder, arguments))


# Types.


def _infer(functions: Any, count: int, generic: Any) -> None:
    """Give functions of `count` arguments a signature where one at least is dual."""

    def typed(self: Any, arguments: Any, keywords: Any) -> Any:
        if keywords or len(arguments) != count or not any(kind == dual for kind in arguments):
            return None
        if not all(kind == dual or is_number(kind) for kind in arguments):
            return None
        return generic(*arguments)

    for function in functions:
        infer_global(function)(type("_Template", (AbstractTemplate,), {"generic": typed}))


def _plain(kind: Any) -> Any:
    """The type as which an argument arrives."""
    return kind if kind == dual else types.float64


def _same(*kinds: Any) -> Any:
    return typing.signature(dual, *map(_plain, kinds))


def _boolean(*kinds: Any) -> Any:
    return typing.signature(types.boolean, *map(_plain, kinds))


@lower_cast(types.Number, DualType)
@lower_cast(types.Boolean, DualType)
def _from_number(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    number = context.cast(builder, value, types.unliteral(source), types.float64)
    return pack(builder, context, number, NONE)


# Functions of two numbers: (the value, the slope in each argument).


def _add(x: _Real, y: _Real) -> Any:
    return x + y, 1.0, 1.0


def _subtract(x: _Real, y: _Real) -> Any:
    return x - y, 1.0, -1.0


def _multiply(x: _Real, y: _Real) -> Any:
    return x * y, y, x


def _divide(x: _Real, y: _Real) -> Any:
    value = x.call(operator.truediv, y)
    inverse = 1.0 / y
    return value, inverse, -value * inverse


def _power(x: _Real, y: _Real) -> Any:
    value = x.call(operator.pow, y)
    at_zero = y.where(">", 1.0, 0.0, y.where("==", 1.0, 1.0, y.where("==", 0.0, 0.0, math.inf)))
    in_base = x.where("==", 0.0, at_zero, y * value / x)
    return value, in_base, value.where("==", 0.0, 0.0, value * x.call(math.log))


def _log_add_exp(x: _Real, y: _Real) -> Any:
    value = x.call(np.logaddexp, y)
    same = x.where("==", y, 0.5, (x - value).call(math.exp))
    return value, same, x.where("==", y, 0.5, (y - value).call(math.exp))


def _hypotenuse(x: _Real, y: _Real) -> Any:
    value = x.call(math.hypot, y)
    return value, value.where("==", 0.0, 0.0, x / value), value.where("==", 0.0, 0.0, y / value)


def _angle(x: _Real, y: _Real) -> Any:
    square = x * x + y * y
    return x.call(math.atan2, y), y / square, -x / square


def _larger(x: _Real, y: _Real) -> Any:
    first = x.where(">=", y, 1.0, 0.0)
    return x.call(np.maximum, y), first, 1.0 - first


def _smaller(x: _Real, y: _Real) -> Any:
    first = x.where("<=", y, 1.0, 0.0)
    return x.call(np.minimum, y), first, 1.0 - first


_OF_TWO = (
    (_add, (operator.add, operator.iadd, np.add)),
    (_subtract, (operator.sub, operator.isub, np.subtract)),
    (_multiply, (operator.mul, operator.imul, np.multiply)),
    (_divide, (operator.truediv, operator.itruediv, np.divide)),
    (_power, (operator.pow, operator.ipow, pow, math.pow, np.power)),
    (_log_add_exp, (np.logaddexp,)),
    (_hypotenuse, (math.hypot, np.hypot)),
    (_angle, (math.atan2, np.arctan2)),
    (_larger, (np.maximum,)),
    (_smaller, (np.minimum,)),
)

#: Rules whose slopes can be infinite at a finite value.
_STEEP = (_power, _divide)


def _lowered_two(rule: Any) -> Any:
    along = scaled_where_moved if rule in _STEEP else scaled

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, partials = [], []
        for kind, argument in zip(signature.args, arguments, strict=True):
            value, moves = unpack(builder, argument) if kind == dual else (argument, None)
            values.append(_Real(context, builder, value))
            partials.append(moves)
        value, *slopes = rule(*values)
        total = None
        for slope, moves in zip(slopes, partials, strict=True):
            if moves is None:
                continue
            if slope == 1.0:
                part = moves
            elif slope == -1.0:
                part = builder.fneg(moves)
            else:
                part = along(builder, slope.number, moves)
            total = part if total is None else plus(builder, total, part)
        return pack(builder, context, value.number, total)

    return lower


for _rule, _functions in _OF_TWO:
    _infer(_functions, 2, _same)
    _lower = _lowered_two(_rule)
    for _function in _functions:
        for _kinds in ((dual, dual), (dual, types.float64), (types.float64, dual)):
            lower_builtin(_function, *_kinds)(_lower)


class _PowerOfInteger(AbstractTemplate):
    """A power with an integer in the program: products."""

    prefer_literal = True

    def generic(self, arguments: Any, keywords: Any) -> Any:
        if len(arguments) != 2 or arguments[0] != dual or not isinstance(arguments[1], types.IntegerLiteral):
            return None
        return typing.signature(dual, *arguments) if abs(arguments[1].literal_value) <= 16 else None


def _integer_power(x: _Real, n: int) -> _Real:
    if n == 0:
        return x * 0.0 + 1.0
    result, square, k = None, x, abs(n)
    while k:
        if k & 1:
            result = square if result is None else result * square
        k >>= 1
        square = square * square if k else square
    return 1.0 / result if n < 0 else result


def _lower_power_of_integer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    n = signature.args[1].literal_value
    value, partials = unpack(builder, arguments[0])
    x = _Real(context, builder, value)
    run = context.get_function(
        operator.pow, typing.signature(types.float64, types.float64, signature.args[1])
    )
    result = run(builder, (value, arguments[1]))
    slope = _integer_power(x, n - 1) * float(n) if n else x * 0.0
    return pack(builder, context, result, scaled_where_moved(builder, slope.number, partials))


for _function in (operator.pow, operator.ipow, pow):
    infer_global(_function)(_PowerOfInteger)
    lower_builtin(_function, dual, types.IntegerLiteral)(_lower_power_of_integer)


class _Extreme(AbstractTemplate):
    """max and min of numbers one by one."""

    def generic(self, arguments: Any, keywords: Any) -> Any:
        fits = all(kind == dual or is_number(kind) for kind in arguments)
        if fits and dual in arguments and len(arguments) > 1:
            return typing.signature(dual, *[dual] * len(arguments))
        return None


def _lowered_extreme(relation: str) -> Any:
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # As numba's, which keeps the first of numbers that cannot be compared.
        best = arguments[0]
        for other in arguments[1:]:
            values = builder.extract_value(other, 0), builder.extract_value(best, 0)
            best = builder.select(builder.fcmp_ordered(relation, *values), other, best)
        return best

    return lower


for _function, _relation in ((max, ">"), (min, "<")):
    infer_global(_function)(_Extreme)
    lower_builtin(_function, types.VarArg(dual))(_lowered_extreme(_relation))


# Comparisons.

_RELATIONS = {
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}


def _lowered_relation(relation: str) -> Any:
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = [
            builder.extract_value(argument, 0) if kind == dual else argument
            for kind, argument in zip(signature.args, arguments, strict=True)
        ]
        compare = builder.fcmp_unordered if relation == "!=" else builder.fcmp_ordered
        return compare(relation, *values)

    return lower


_infer(_RELATIONS, 2, _boolean)
for _function, _relation in _RELATIONS.items():
    for _kinds in ((dual, dual), (dual, types.float64), (types.float64, dual)):
        lower_builtin(_function, *_kinds)(_lowered_relation(_relation))


# Functions of one number: the slope, of the number x and the function's value f there.


def _secant(x: _Real) -> _Real:
    """1 / cosh(x) ** 2, without cancellation."""
    e = (-x.call(math.fabs) * 2.0).call(math.exp)
    return 4.0 * e / ((e + 1.0) * (e + 1.0))


def _digamma(x: _Real) -> _Real:
    """For all x, by reflection."""
    reflected = (1.0 - x).call(digamma) - math.pi / (x * math.pi).call(math.tan)
    return x.where(">", 0.0, x.call(digamma), reflected)


_OF_ONE = (
    (math.exp, (math.exp, np.exp), lambda x, f: f),
    (math.expm1, (math.expm1, np.expm1), lambda x, f: f + 1.0),
    (np.exp2, (np.exp2,), lambda x, f: f * math.log(2.0)),
    (math.log, (math.log, np.log), lambda x, f: 1.0 / x),
    (math.log1p, (math.log1p, np.log1p), lambda x, f: 1.0 / (x + 1.0)),
    (np.log2, (np.log2,), lambda x, f: (1.0 / math.log(2.0)) / x),
    (math.log10, (math.log10, np.log10), lambda x, f: (1.0 / math.log(10.0)) / x),
    (math.sqrt, (math.sqrt, np.sqrt), lambda x, f: 0.5 / f),
    (np.square, (np.square,), lambda x, f: x * 2.0),
    (np.reciprocal, (np.reciprocal,), lambda x, f: -f * f),
    (math.sin, (math.sin, np.sin), lambda x, f: x.call(math.cos)),
    (math.cos, (math.cos, np.cos), lambda x, f: -x.call(math.sin)),
    (math.tan, (math.tan, np.tan), lambda x, f: f * f + 1.0),
    (math.asin, (math.asin, np.arcsin), lambda x, f: 1.0 / ((1.0 - x) * (x + 1.0)).call(math.sqrt)),
    (math.acos, (math.acos, np.arccos), lambda x, f: -1.0 / ((1.0 - x) * (x + 1.0)).call(math.sqrt)),
    (math.atan, (math.atan, np.arctan), lambda x, f: 1.0 / (x * x + 1.0)),
    (math.sinh, (math.sinh, np.sinh), lambda x, f: x.call(math.cosh)),
    (math.cosh, (math.cosh, np.cosh), lambda x, f: x.call(math.sinh)),
    (math.tanh, (math.tanh, np.tanh), lambda x, f: _secant(x)),
    (math.asinh, (math.asinh, np.arcsinh), lambda x, f: 1.0 / x.call(math.hypot, 1.0)),
    (math.acosh, (math.acosh, np.arccosh), lambda x, f: 1.0 / ((x - 1.0) * (x + 1.0)).call(math.sqrt)),
    (math.atanh, (math.atanh, np.arctanh), lambda x, f: 1.0 / ((1.0 - x) * (x + 1.0))),
    (math.erf, (math.erf,), lambda x, f: (-x * x).call(math.exp) * (2.0 / math.sqrt(math.pi))),
    (math.erfc, (math.erfc,), lambda x, f: (-x * x).call(math.exp) * (-2.0 / math.sqrt(math.pi))),
    (math.lgamma, (math.lgamma,), lambda x, f: _digamma(x)),
    (math.gamma, (math.gamma,), lambda x, f: _digamma(x) * f),
    (math.fabs, (math.fabs, abs, np.abs), lambda x, f: x.where(">", 0.0, 1.0, x.where("<", 0.0, -1.0, 0.0))),
    (operator.neg, (operator.neg, np.negative), lambda x, f: -1.0),
    (operator.pos, (operator.pos, float), lambda x, f: 1.0),
)


def _lowered_one(function: Any, rule: Any) -> Any:
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, partials = unpack(builder, arguments[0])
        if function is operator.pos:
            return arguments[0]
        if function is operator.neg:
            return pack(builder, context, builder.fneg(value), builder.fneg(partials))
        x = _Real(context, builder, value)
        result = x.call(function)
        moved = scaled_where_moved(builder, rule(x, result).number, partials)
        return pack(builder, context, result.number, moved)

    return lower


for _function, _names, _slope in _OF_ONE:
    _infer(_names, 1, _same)
    for _name in _names:
        lower_builtin(_name, dual)(_lowered_one(_function, _slope))


# Functions of the value alone.


def _value_of(kind: Any, target: Any, function: Any) -> Any:
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.extract_value(arguments[0], 0)
        run = context.get_function(function, typing.signature(target, types.float64))
        return run(builder, (value,))

    return lower


for _function, _names, _target in (
    (bool, (bool, operator.truth), types.boolean),
    (operator.not_, (operator.not_,), types.boolean),
    (math.isnan, (math.isnan, np.isnan), types.boolean),
    (math.isinf, (math.isinf, np.isinf), types.boolean),
    (math.isfinite, (math.isfinite, np.isfinite), types.boolean),
    (math.floor, (math.floor,), types.int64),
    (math.ceil, (math.ceil,), types.int64),
    (np.floor, (np.floor,), types.float64),
    (np.ceil, (np.ceil,), types.float64),
    (np.sign, (np.sign,), types.float64),
):
    _infer(_names, 1, lambda kind, target=_target: typing.signature(target, kind))
    for _name in _names:
        lower_builtin(_name, dual)(_value_of(dual, _target, _function))


@intrinsic
def value(typing_context, number):
    """The value of a dual number; a number as it is."""
    if number == dual:
        return types.float64(number), lambda context, builder, signature, arguments: builder.extract_value(
            arguments[0], 0
        )

    def generate(context, builder, signature, arguments):
        return context.cast(builder, arguments[0], types.unliteral(number), types.float64)

    return types.float64(number), generate


@intrinsic
def no_partials(typing_context):
    """No derivatives."""
    return lanes(), lambda context, builder, signature, arguments: NONE


@intrinsic
def with_partials(typing_context, number, moves):
    """The dual number of a value and derivatives."""

    def generate(context, builder, signature, arguments):
        return pack(builder, context, *arguments)

    return dual(types.float64, lanes), generate


@intrinsic
def moved_by(typing_context, moves, slope, number):
    """moves + slope * the derivatives of a number: moves itself, if that is not dual."""

    def generate(context, builder, signature, arguments):
        moves, slope, number = arguments
        return plus(builder, moves, scaled(builder, slope, builder.extract_value(number, 1)))

    if number == dual:
        return lanes(lanes, types.float64, dual), generate
    return lanes(lanes, types.float64, number), lambda context, builder, signature, arguments: arguments[0]


@intrinsic
def as_dual(typing_context, number):
    """A number as a dual one."""

    def generate(context, builder, signature, arguments):
        return context.cast(builder, arguments[0], number, dual)

    return dual(number), generate
