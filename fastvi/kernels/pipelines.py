"""The two ways in which numba compiles a kernel: thin, and in full.

numba links, optimises and translates a function anew in each function that calls it, and makes two wrappers
for each: what an I-projection consists of is optimised four to ten times over. Here

`Thin`
    compiles what compiled code calls. It is typed and lowered, and no more: no wrappers, no machine code. The
    function that uses it links the modules of all its callees, each once, and optimises them together, once.
`Full`
    compiles what Python calls. All that it linked is private to its module: its object has one entry point,
    and no weak symbol in whose place the linker could take a function of the same name from another object of
    the process.

A first fit takes 34 s of CPU instead of 65, a first I-projection 45 instead of 65. The hooks of numba that
this takes are not public; `compiler` does without them where one is missing.
"""

from __future__ import annotations

from typing import Any

from llvmlite.binding import Linkage
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, _LowerResult
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.environment import lookup_environment
from numba.core.typed_passes import NativeLowering

from . import container

#: Variables that point to a function's Python objects have names that begin so. numba sets them by name.
_ENVIRONMENT = "_ZN08NumbaEnv"

#: Of functions that use none, as these names begin, they are dropped. Those of users may: in object mode.
_WITHOUT_ENVIRONMENT = ("6fastvi", "5numba")

#: Functions of numba's runtime. It removes pairs of calls of them, and knows them by name.
_RUNTIME = "NRT_"


#: LLVM uses half of the widest registers of Intel's CPUs unless a function asks for more: kl takes 1.34 ns an
#: entry instead of 1.13, js 2.7 instead of 2.0, an I-projection 259 µs instead of 155. It changes nothing
#: where registers are narrower.
_ALL_OF_A_REGISTER = '"prefer-vector-width"="512"'


class _Library(JITCodeLibrary):
    def add_ir_module(self, ir_module: Any) -> None:
        for function in ir_module.functions:
            if not function.is_declaration:
                # llvmlite's own `add` knows the attributes of LLVM that have a number, and no others.
                set.add(function.attributes, _ALL_OF_A_REGISTER)
        super().add_ir_module(ir_module)


class ThinLibrary(_Library):
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
            # All but the function itself is private. With numba's own linkage LLVM keeps a copy of each part
            # for others to call: a loop over I-projections takes 8.8 µs a round instead of 6.8.
            own = {f.name for f in self._final_module.functions if not f.is_declaration}
            for function in module.functions:
                if function.is_declaration:
                    continue
                if function.name not in own and not function.name.startswith(_RUNTIME):
                    function.linkage = "private"
                elif function.linkage == Linkage.external:
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


class FullLibrary(_Library):
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
        self._make_private({*own, _RUNTIME})
        self._optimize_final_module()
        self._make_private(own)
        missing = [f.name for f in module.functions if f.is_declaration and f.name.startswith("_ZN")]
        if missing:
            raise AssertionError(f"{self.name}: not linked: {missing}")
        module.verify()
        names = [v.name for v in self._environments(own) if v.linkage != Linkage.private]
        self._finalize_final_module()
        self._kept = [(name, lookup_environment(name)) for name in names]  # nothing else keeps them alive
        for name, environment in self._kept:
            if environment is not None:
                self._codegen.set_env(name, environment)

    @classmethod
    def from_object(cls, codegen: Any, name: str, code: bytes, symbols: list[str]) -> FullLibrary:
        """A library of machine code that was made earlier, and the names that it defines."""
        self = cls(codegen, name)
        self.enable_object_caching()
        self._set_compiled_object(code)
        self._finalize_final_module()
        codegen._engine._defined_symbols.update(symbols)
        return self

    def _make_private(self, kept: set[str]) -> None:
        """Take the names of all other functions away: LLVM may then change how they are called.

        Internal linkage is not enough. LLVM's loader knows the local symbols of all objects of the process by
        name, and takes them for weak ones of that name in a later object.
        """
        for function in self._final_module.functions:
            if function.is_declaration or function.name in kept:
                continue
            if not (_RUNTIME in kept and function.name.startswith(_RUNTIME)):
                function.linkage = "private"
        for variable in self._environments(kept):
            if variable.name.removeprefix(_ENVIRONMENT).startswith(_WITHOUT_ENVIRONMENT):
                variable.linkage = "private"

    def _environments(self, own: set[str]) -> list[Any]:
        """Variables of functions that are linked in."""
        found = [v for v in self._final_module.global_variables if v.name.startswith(_ENVIRONMENT)]
        return [v for v in found if v.name not in own and not v.is_declaration]


def _uses(library_class: type[JITCodeLibrary], name: str, named: bool = False) -> type[FunctionPass]:
    """A pass that gives the function a library of this class. numba makes one only where there is none.

    If `named`, the function's symbol depends on the kernels' sources and its own name alone. numba's has a
    counter of the process in it, with which two functions can get one symbol.
    """

    @register_pass(mutates_CFG=False, analysis_only=False)
    class Uses(FunctionPass):
        _name = name

        def __init__(self) -> None:
            FunctionPass.__init__(self)

        def run_pass(self, state: Any) -> bool:
            if state.library is None:
                state.library = library_class(state.targetctx.codegen(), state.func_id.func_qualname)
                state.library.enable_object_caching()
            if named:
                function = state.func_id
                text = f"{container.source_digest()} {function.modname} {function.func_qualname}"
                function.unique_id = f"fastvi{container.digest(text.encode()).hex()}"
                function.unique_name = f"{function.func_qualname}${function.unique_id}"
            return False

    return Uses


_UseThin = _uses(ThinLibrary, "fastvi_thin_library")
_UseFull = _uses(FullLibrary, "fastvi_full_library")
_UseNamed = _uses(FullLibrary, "fastvi_named_library", named=True)


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


class Named(_Pipeline):
    """`Full` for what is kept on disk: functions of modules, each with a name of its own."""

    uses, lowering = _UseNamed, NativeLowering
