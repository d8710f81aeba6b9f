"""Immutable values: classes that refuse assignment, arrays that are read-only.

The distributions and results of the API are made of them.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, made read-only."""
    array.flags.writeable = False
    return array


def shown(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view. The kernels get the writable array, so that each is compiled for one type only."""
    return frozen(array.view())


def frozen_fields(kind: Any, *fields: Any) -> Any:
    """``kind(*fields)``, with arrays made read-only: for named tuples, whose `__new__` is fixed."""
    return kind(*(frozen(field) if isinstance(field, np.ndarray) else field for field in fields))


class Immutable:
    """Base of classes without assignment: they set their attributes by `__dict__` or `object.__setattr__`."""

    __slots__: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed; make a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed; make a new one")


class Record(Immutable):
    """Base of results: fields that are given by name, copied and pickled one by one.

    They are in `__dict__`, which takes 2 µs less for the dozen fields of a fit than slots do.
    """

    def __init__(self, **fields: Any) -> None:
        for value in fields.values():
            if type(value) is np.ndarray:
                value.flags.writeable = False
        self.__dict__.update(fields)

    def _replace(self, **changes: Any) -> Self:
        """A new result with other values in some fields."""
        return type(self)(**{**self.__dict__, **changes})

    def __reduce__(self) -> tuple[Any, ...]:
        return _record, (type(self), dict(self.__dict__))


def _record(kind: type[Record], fields: dict[str, Any]) -> Record:
    return kind(**fields)


def restore(kind: Any, *fields: NDArray[Any]) -> Any:
    """An instance from fields that have been checked, for copies and pickles: they go to its `_set`."""
    self = kind.__new__(kind)
    self._set(*fields)
    return self
