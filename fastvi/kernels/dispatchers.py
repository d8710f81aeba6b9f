"""Kernels as numba sees them: a thin form for compiled code, a full one for Python (see `pipelines`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from numba.core import types
from numba.core.ccallback import CFunc
from numba.core.compiler import CompilerBase
from numba.core.registry import CPUDispatcher

from .caching import KernelCache
from .pipelines import Full, Named, Thin


class Kernel(CPUDispatcher):
    """A function in two forms: this is the dispatcher of the thin one, `full` that of the other.

    Arguments are known by their types alone. numba compiles a function anew for each constant integer that it
    is called with: one called with FULL is another than one called with a variable (an I-projection and a fit
    take a fifth longer to compile so).
    """

    def __init__(
        self,
        py_func: Any,
        locals: Mapping[str, Any] | None = None,
        targetoptions: Mapping[str, Any] | None = None,
        pipeline_class: type[CompilerBase] = Thin,
    ) -> None:
        super().__init__(py_func, locals, targetoptions, pipeline_class)
        self.cached = False  #: whether `full` is kept on disk

    @cached_property
    def full(self) -> CPUDispatcher:
        if not self.cached:
            return CPUDispatcher(self.py_func, self.locals, self.targetoptions, Full)
        dispatcher = CPUDispatcher(self.py_func, self.locals, self.targetoptions, Named)
        dispatcher._cache = KernelCache(self.py_func)
        return dispatcher

    # What numba tells of a dispatcher is told of the full form.

    @property
    def signatures(self) -> list[Any]:
        return self.full.signatures

    @property
    def stats(self) -> Any:
        return self.full.stats

    def inspect_llvm(self, signature: Any = None) -> Any:
        return self.full.inspect_llvm(signature)

    def inspect_asm(self, signature: Any = None) -> Any:
        return self.full.inspect_asm(signature)

    def add_overload(self, cres: Any) -> None:
        self.overloads[tuple(cres.signature.args)] = cres  # and nothing that Python could call

    def get_call_template(self, args: Any, kws: Any) -> Any:
        plain = {name: types.unliteral(kind) for name, kind in kws.items()}
        return super().get_call_template([types.unliteral(kind) for kind in args], plain)

    def _compile_for_args(self, *args: Any, **kws: Any) -> Any:
        entry = self.full._compile_for_args(*args, **kws)
        self._clear()
        for signature, cres in self.full.overloads.items():
            self._insert([kind._code for kind in signature], cres.entry_point, False)
        return entry


def c_function(function: Callable[..., Any], signature: Any, options: Mapping[str, Any]) -> CFunc:
    """The C function of a kernel, from where the full forms of kernels come from as well."""
    made = CFunc(function, (signature.args, signature.return_type), {}, options, Named)
    made._cache = KernelCache(function)
    made.compile()
    return made
