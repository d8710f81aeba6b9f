"""Values that do not change: classes that refuse assignment, arrays that are read-only."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself, read-only from here on."""
    array.flags.writeable = False
    return array


def shown(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: the kernels get the writable array, so that each is compiled for one type only."""
    return frozen(array.view())


def frozen_fields(kind: Any, *fields: Any) -> Any:
    """``kind(*fields)``, with arrays made read-only: for named tuples, whose `__new__` is fixed."""
    return kind(*(frozen(field) if isinstance(field, np.ndarray) else field for field in fields))


class Immutable:
    """Attributes are set once, through `__dict__` or `object`."""

    __slots__: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed; make a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed; make a new one")


class Record(Immutable):
    """A result with the fields that `__slots__` names: given by name, copied and pickled field by field."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, frozen(value) if isinstance(value, np.ndarray) else value)

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def _replace(self, **changes: Any) -> Self:
        """A new result with other values in some fields."""
        return type(self)(**{**self._fields(), **changes})

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._fields())


def _restore(kind: type[Record], fields: dict[str, Any]) -> Record:
    return kind(**fields)
