"""How numba compiles a kernel: thin for the kernels that call it, in full for Python.

numba links, optimises and translates a function anew in each function that calls it, and makes two wrappers
for each: what an I-projection consists of is optimised four to ten times over. A `Kernel` has two forms.

thin
    What compiled code calls. It is typed and lowered, and no more: no wrappers, no machine code. The function
    that uses it links the modules of all its callees, each once, and optimises them together, once.
full
    What Python calls, made when Python first calls it. All that it linked is internal to its module: its
    object has one entry point, and no weak symbol in whose place the linker could take a function of the
    same name from another object of the process.

A first fit takes 34 s of CPU instead of 65, a first I-projection 45 instead of 65. This goes through hooks of
numba that are not public; `compiler` does without it where one is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from llvmlite.binding import Linkage
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, _LowerResult
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering

#: Variables that point to a function's Python objects have names that begin so. numba sets them by name.
_ENVIRONMENT = "_ZN08NumbaEnv"

#: Functions of numba's runtime. It removes pairs of calls of them, and knows them by name.
_RUNTIME = "NRT_"


class ThinLibrary(JITCodeLibrary):
    """One function, lowered. What it calls stays in libraries of its own until somebody needs the whole."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in self._linking_libraries:
            self._reload_init.update(library._reload_init)
        self._finalize_dynamic_globals()
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        """The function with all that it calls, for libraries that know of no thin ones."""
        self._ensure_finalized()
        if self._shared_module is None:
            module = self._final_module.clone()
            for part in _parts(self._linking_libraries):
                if part is not self:
                    module.link_in(_module(part), preserve=True)
            for function in module.functions:
                if not function.is_declaration and function.linkage == Linkage.external:
                    function.linkage = "linkonce_odr"  # as numba does
            self._shared_module = module
        return self._shared_module

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0


def _parts(libraries: list[Any]) -> list[Any]:
    """These libraries, and those that the thin ones among them need: each once.

    The thin ones come first: of a numba library, LLVM links only what has been called by then.
    """
    found: dict[Any, None] = {}
    queue = list(reversed(libraries))
    while queue:
        library = queue.pop()
        if library not in found:
            found[library] = None
            if isinstance(library, ThinLibrary):
                queue.extend(reversed(library._linking_libraries))
    return sorted(found, key=lambda library: not isinstance(library, ThinLibrary))


def _module(library: Any) -> Any:
    """What to link of one of the parts."""
    return library._final_module if isinstance(library, ThinLibrary) else library._get_module_for_linking()


class FullLibrary(JITCodeLibrary):
    """A function and all that it calls, with one entry point."""

    def finalize(self) -> None:
        self._codegen._check_llvm_bugs()
        self._raise_if_finalized()
        module = self._final_module
        own = {f.name for f in module.functions if not f.is_declaration}
        own |= {v.name for v in module.global_variables}
        for library in _parts(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            module.link_in(_module(library), preserve=True)
        self._make_internal({*own, _RUNTIME})
        self._optimize_final_module()
        self._make_internal(own)
        missing = [f.name for f in module.functions if f.is_declaration and f.name.startswith("_ZN")]
        if missing:
            raise AssertionError(f"{self.name}: not linked: {missing}")
        module.verify()
        self._finalize_final_module()

    def _make_internal(self, kept: set[str]) -> None:
        for function in self._final_module.functions:
            if function.is_declaration or function.name in kept:
                continue
            if not (_RUNTIME in kept and function.name.startswith(_RUNTIME)):
                function.linkage = "internal"
        for variable in self._final_module.global_variables:
            # Unused ones are dropped then: those of all functions that raise nothing.
            defined = variable.name.startswith(_ENVIRONMENT) and not variable.is_declaration
            if defined and variable.name not in kept:
                variable.linkage = "internal"


def _uses(library_class: type[JITCodeLibrary], name: str) -> type[FunctionPass]:
    """A pass that gives the function a library of this class. numba makes one only where there is none."""

    @register_pass(mutates_CFG=False, analysis_only=False)
    class Uses(FunctionPass):
        _name = name

        def __init__(self) -> None:
            FunctionPass.__init__(self)

        def run_pass(self, state: Any) -> bool:
            if state.library is None:
                state.library = library_class(state.targetctx.codegen(), state.func_id.func_qualname)
                state.library.enable_object_caching()
            return False

    return Uses


_UseThin = _uses(ThinLibrary, "fastvi_thin_library")
_UseFull = _uses(FullLibrary, "fastvi_full_library")


@register_pass(mutates_CFG=True, analysis_only=False)
class _ThinLowering(NativeLowering):
    """Lowering without wrappers and without machine code."""

    _name = "fastvi_thin_lowering"

    def run_pass(self, state: Any) -> bool:
        flags = state.flags
        flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
        NativeLowering.run_pass(self, state)
        lowered = state["cr"]
        # numba knows a compiled function by its entry point, an object that must be a builtin function.
        key = object().__reduce__
        state.targetctx.insert_user_function(key, lowered.fndesc, [state.library])
        state.reload_init.extend(state.library._reload_init)
        state["cr"] = _LowerResult(lowered.fndesc, lowered.call_helper, cfunc=key, env=lowered.env)
        return True


class _Pipeline(CompilerBase):
    uses: type[FunctionPass]
    lowering: type[NativeLowering]

    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes = [(self.lowering if p is NativeLowering else p, note) for p, note in manager.passes]
        passes.insert(1, (self.uses, "library"))  # after the bytecode, which numba checks after each pass
        manager.passes = passes
        manager.finalize()
        return [manager]


class Thin(_Pipeline):
    """The compiler of what compiled functions call."""

    uses, lowering = _UseThin, _ThinLowering


class Full(_Pipeline):
    """The compiler of what Python calls."""

    uses, lowering = _UseFull, NativeLowering


class Kernel(CPUDispatcher):
    """A function in both forms: this is the dispatcher of the thin one, `full` that of the other.

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
        dispatcher = CPUDispatcher(self.py_func, self.locals, self.targetoptions, Full)
        if self.cached:
            # numba finds no place to write to, neither next to the file nor in the home directory.
            with suppress(RuntimeError):
                dispatcher.enable_caching()
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
