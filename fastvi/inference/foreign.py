"""Models whose log joint is not a function for numba to compile, but the address of a C function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..common.values import Array, tidy
from ..distributions.support import Support
from .model import Model
from .packing import Table
from .parameters import Axes, layout_of
from .sharing import Failures


class Names(NamedTuple):
    """What a foreign system calls the coordinates of z, and what it says of its model."""

    labels: Sequence[str] | None = None  #: a word for each coordinate of z
    #: Takes points (n, D) to the parameters in the form of their system.
    parameters: Callable[[Array], Any] | None = None
    #: What the system says of a point where it has no density; "" where it has one.
    reason: Callable[[Array], str] | None = None
    #: Takes what `parameters` returns to arrays (n, ...) by names; None: it is that.
    flat: Callable[[Any], dict[str, Array]] | None = None
    axes: Axes = Axes({}, {})
    note: str = ""  #: of each ELBO and log evidence, such as that constants are missing


class ForeignModel(Model):
    """A `Model` that calls a block of points through the address of a C function.

    `origin` is the call that made it, for messages. `slopes` is 0 where there is no gradient. `dim` may be a
    model, whose names and supports this one has. `keep` is what the addresses and the table point into.
    `failures`, of functions in Python, holds their exceptions. `expensive`: a call costs more than its
    points, see `lockstep`.
    """

    __slots__ = ("_calls_are_expensive", "_calls_python", "_failures", "_keep", "_names", "_origin")
    _calls_are_expensive: bool
    _calls_python: bool
    _origin: str
    _keep: Any
    _failures: Failures
    _names: Names

    def __init__(
        self,
        origin: str,
        value: int,
        slopes: int,
        dim: int | Mapping[str, Any] | Model,
        table: Table,
        keep: Any = None,
        failures: Failures | None = None,
        names: Names | None = None,
        expensive: bool = False,
    ) -> None:
        fill = object.__setattr__
        layout = None
        if isinstance(dim, Model):
            layout, support = dim._layout, dim._support
        elif isinstance(dim, Mapping):
            layout = layout_of(dim)
            support = Support(layout.support, layout.dim)
        else:
            support = Support("real", dim)
        fields = {
            "dim": support.dim,
            "data": (),
            "_support": support,
            "_layout": layout,
            "_theta": np.zeros(0),
            "_types": (),
            "_table": table,
            "_dispatcher": None,
            "_gradient": None,
            "_functions": (None, None),
            "_callbacks": (),
            "_address": value,
            "_gradient_address": slopes,
            "_gradient_choice": "written" if slopes else "differences",
            "_sharing": None,  # the functions are called from the thread that calls fastvi
            "_origin": origin,
            "_keep": keep,
            "_calls_are_expensive": expensive,
            "_calls_python": failures is not None,
            "_failures": Failures() if failures is None else failures,
            "_names": Names() if names is None else names,
        }
        for name, field in fields.items():
            fill(self, name, field)

    def _refuse(self, what: str) -> NoReturn:
        raise TypeError(f"a model of {self._origin} {what}")

    def with_data(self, data: tuple[Any, ...]) -> Model:
        """Refused: the data are where the foreign functions have them."""
        self._refuse("has its data inside of it: make another model for other data")

    def with_theta(self, theta: Any) -> Model:
        """Refused: there are no parameters besides z."""
        self._refuse("has no theta")

    def _with_copies(self) -> Model:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        self._refuse("cannot be pickled: its functions are addresses in this process")

    def __copy__(self) -> ForeignModel:
        return self

    def __deepcopy__(self, memo: Any) -> ForeignModel:
        return self

    def _raise_at(self, z: Array, with_gradient: bool = False) -> None:
        self._raise_pending()
        raise RuntimeError(f"the function of {self._origin} reports an error at z = {tidy(z)}")

    def _raise_pending(self) -> None:
        self._failures.release()

    def _named(self, z: Array) -> Any:
        if self._names.parameters is None:
            return super()._named(z)
        return self._names.parameters(z)

    def _variables(self, z: Array) -> dict[str, Array]:
        if self._names.parameters is None:
            return super()._variables(z)
        found: dict[str, Array] = self._names.parameters(z)
        return found if self._names.flat is None else self._names.flat(found)

    @property
    def _axes(self) -> Axes:
        return self._names.axes

    def _reason(self, z: Array) -> str:
        return "" if self._names.reason is None else self._names.reason(z)

    @property
    def _note(self) -> str:
        return self._names.note

    @property
    def _labels(self) -> list[str]:
        return super()._labels if self._names.labels is None else list(self._names.labels)

    def __repr__(self) -> str:
        return f"<Model by {self._origin}, dim={self.dim}>"
