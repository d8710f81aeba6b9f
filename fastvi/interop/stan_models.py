"""Models of Stan, through the C functions of BridgeStan: https://roualdes.us/bridgestan."""

from __future__ import annotations

import ctypes
import json
import re
import weakref
import zlib
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from ..common.extras import required
from ..common.validation import generator
from ..common.values import Array
from ..inference.foreign import ForeignModel, Names
from ..inference.model import Model
from . import point_calls
from .blocks import block_model

_ADDRESS, _INT, _BOOL, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_bool, ctypes.c_char_p

#: The functions of BridgeStan 2 that are called: the result and the arguments of each.
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "bs_model_construct": (_ADDRESS, [_TEXT, ctypes.c_uint, _ADDRESS]),
    "bs_model_destruct": (None, [_ADDRESS]),
    "bs_free_error_msg": (None, [_ADDRESS]),
    "bs_model_info": (_TEXT, [_ADDRESS]),
    "bs_param_names": (_TEXT, [_ADDRESS, _BOOL, _BOOL]),
    "bs_param_unc_names": (_TEXT, [_ADDRESS]),
    "bs_param_num": (_INT, [_ADDRESS, _BOOL, _BOOL]),
    "bs_param_unc_num": (_INT, [_ADDRESS]),
    "bs_param_constrain": (_INT, [_ADDRESS, _BOOL, _BOOL, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS]),
    "bs_log_density": (_INT, [_ADDRESS, _BOOL, _BOOL, _ADDRESS, _ADDRESS, _ADDRESS]),
    "bs_log_density_gradient": (_INT, [_ADDRESS, _BOOL, _BOOL, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS]),
    "bs_rng_construct": (_ADDRESS, [ctypes.c_uint, _ADDRESS]),
    "bs_rng_destruct": (None, [_ADDRESS]),
}

#: The note of an ELBO that lacks constants.
_UP_TO_A_CONSTANT = "up to a constant, which Stan drops: not to be compared with other models"

#: Stan's seed is a C unsigned int, of 32 bits on all platforms of Python.
_SEEDS = 2**32

#: Points that are tried to find whether a library keeps constants. One point with a density decides, so more
#: than one is used only where the program rejects points.
_TRIES = 20

#: They are uniform between -this and this in each coordinate: where Stan starts its own chains.
_START_RANGE = 2.0

#: Comments and strings of a Stan program.
_ASIDE = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def from_stan(
    code: str | None = None, *, file: str | PathLike[str] | None = None, data: Any = None, rng: Any = 0
) -> Model:
    r"""A model of a Stan program, in its unconstrained coordinates, without a C++ compiler.

    The package `stanli` interprets the program with Stan's own mathematics: ``pip install "fastvi[stan]"``.

    Parameters
    ----------
    code : str, optional
        The program; or `file`.
    file : path, optional
        A file with the program. Files that it includes belong beside it.
    data : dict or path, optional
        As CmdStanPy takes them: arrays, lists and numbers by their names, or a JSON file.
    rng : numpy.random.Generator, int or None, optional
        For random numbers in the block of transformed data: Stan's seed is drawn from it. An integer
        (default) gives the same data in every call; None others each time.

    Returns
    -------
    Model
        Its log joint has the log-Jacobians of Stan's transforms. ``fit.sample(n, named=True)`` has the
        parameters, transformed parameters and generated quantities by their names.

    Raises
    ------
    ImportError
        Without `stanli`.
    ValueError
        A program that does not compile, data that it refuses, a program without parameters; in Stan's words.
    TypeError
        Neither code nor a file, or both.

    Notes
    -----
    Stan drops constants at ``y ~ normal(...)``, and stanli always does so: then ``elbo.note`` says "up to a
    constant". With ``target += normal_lpdf(y | ...)`` in all places they are there, and so is the whole ELBO;
    of BridgeStan's libraries it always is. The log density is as the program has it: that of ``tau ~ cauchy``
    with ``real<lower=0> tau`` integrates to a half. A point that the program rejects has a density of zero.

    Examples
    --------
    >>> import fastvi as fv
    >>> code = '''
    ... data { int n; vector[n] y; }
    ... parameters { real mu; real<lower=0> sigma; }
    ... model { target += normal_lpdf(y | mu, sigma) + exponential_lpdf(sigma | 1); }
    ... '''
    >>> model = fv.from_stan(code, data={"n": 3, "y": [1, 2, 4]})              # doctest: +SKIP
    >>> fv.fit(model).sample(1000, 0, named=True)["sigma"].shape               # doctest: +SKIP
    (1000,)
    """
    if (code is None) == (file is None):
        raise TypeError("give the code of a Stan program, or a file with it")
    stanli = required("stanli", "stan", "fastvi.from_stan")
    folder = []
    if file is not None:
        path = Path(file)
        code, folder = path.read_text(encoding="utf-8"), [str(path.parent)]
    if not isinstance(code, str):
        raise TypeError(f"code must be a string, not {type(code).__name__}")
    try:
        program = stanli.stan_to_mir(code, include_paths=folder)
    except RuntimeError as error:
        raise ValueError(f"the Stan program does not compile: {error}") from error
    content = json.loads(_data_text(data) or "{}")
    content["__stanli"] = {"build_id": stanli.build_id(), "mir": program, "name": "fastvi_model"}
    libraries = Path(stanli.__file__).parent.glob("_bin/*stanli.*")
    library = next(path for path in libraries if path.suffix in (".so", ".dylib", ".dll"))
    bare = _ASIDE.sub(" ", code)
    complete = not re.search(r"~|_lup[dm]f\b|#\s*include", bare)
    return _model("from_stan", _StanModel(library, json.dumps(content), rng), complete)


def from_bridgestan(library: str | PathLike[str], data: Any = None, *, rng: Any = 0) -> Model:
    r"""A model of a Stan program that BridgeStan has compiled, in its unconstrained coordinates.

    Parameters
    ----------
    library : path
        The shared library of ``bridgestan.compile_model("model.stan")``, or of whatever else has BridgeStan's
        C functions of version 2.
    data, rng
        As in `from_stan`.

    Returns
    -------
    Model
        As in `from_stan`, with all constants. Of a library that refuses to keep them, ``elbo.note`` says "up
        to a constant".

    Raises
    ------
    OSError
        A library that cannot be loaded.
    ValueError
        A library without BridgeStan's functions; data that the program refuses, in Stan's words; a program
        without parameters.

    Notes
    -----
    A library that was compiled without ``STAN_THREADS=true`` is called with Python's lock held: several
    threads then take turns, at 1 µs more for each point.

    Examples
    --------
    >>> import fastvi as fv
    >>> model = fv.from_bridgestan("schools_model.so", "schools.data.json")    # doctest: +SKIP
    >>> fv.fit(model).elbo                                                     # doctest: +SKIP
    """
    return _model("from_bridgestan", _StanModel(Path(library), _data_text(data), rng), False)


def _data_text(data: Any) -> str:
    """Data of a Stan program as JSON."""
    if data is None:
        return ""
    if isinstance(data, str | PathLike):
        text = fspath(data)
        data = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    if not isinstance(data, Mapping):
        raise TypeError(f"data must be a dict or the path of a JSON file, not {type(data).__name__}")
    return json.dumps({name: _plain(f"data[{name!r}]", value) for name, value in data.items()})


def _plain(where: str, value: Any) -> Any:
    """A value as JSON has it: numbers and lists of them."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(f"{where}[{name!r}]", item) for name, item in value.items()}
    if np.ma.is_masked(value):
        raise TypeError(f"{where} has masked entries: fill or drop them first")
    if isinstance(value, list | tuple):
        return [_plain(f"{where}[{k}]", item) for k, item in enumerate(value)]
    array = np.asarray(value)
    if array.dtype.kind == "b":
        return array.astype(int).tolist()
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{where} must have numbers, not {type(value).__name__} of dtype {array.dtype}")
    return array.tolist()


class _StanModel:
    """A model in a library with BridgeStan's functions."""

    def __init__(self, library: Path, data: str, rng: Any) -> None:
        # By PyDLL the calls from Python keep Python's lock: most libraries may run in one thread only.
        self.library = ctypes.PyDLL(str(library.resolve()))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self.library, name, None)
            if function is None:
                raise ValueError(f"{library} has no function {name}: it is no library of BridgeStan 2")
            function.restype, function.argtypes = result, arguments
        said = ctypes.c_void_p()
        seed = int(generator("rng", rng).integers(_SEEDS))
        self.model = self.library.bs_model_construct(data.encode(), seed, ctypes.addressof(said))
        if not self.model:
            raise ValueError(f"Stan cannot make the model: {self._words(said)}")
        # Not at exit, where other threads may be in a call.
        weakref.finalize(self, self.library.bs_model_destruct, self.model).atexit = False
        self.dim = self.library.bs_param_unc_num(self.model)
        if self.dim == 0:
            raise ValueError("the Stan program has no parameters")
        self.names = _names(self.library.bs_param_names(self.model, True, True))
        self.parts = _parts(self.names)
        self.drops = 0

    @property
    def threads(self) -> bool:
        """Whether several threads may call it."""
        return b"STAN_THREADS=true" in self.library.bs_model_info(self.model)

    def _words(self, said: ctypes.c_void_p) -> str:
        """A message of the library, which is freed."""
        if not said.value:
            return "no reason given"
        text = ctypes.string_at(said.value).decode(errors="replace").strip()
        self.library.bs_free_error_msg(said)
        return text

    def at(self, z: Array, drops: int, gradient: Array | None = None) -> tuple[float, str]:
        """(the log density at one point, Stan's message where it has none)."""
        value, said = ctypes.c_double(), ctypes.c_void_p()
        place = ctypes.addressof(value)
        if gradient is None:
            call = self.library.bs_log_density
            failed = call(self.model, drops, True, z.ctypes.data, place, ctypes.addressof(said))
        else:
            call, slopes = self.library.bs_log_density_gradient, gradient.ctypes.data
            failed = call(self.model, drops, True, z.ctypes.data, place, slopes, ctypes.addressof(said))
        return (-np.inf, self._words(said)) if failed else (value.value, "")

    def find_constants(self) -> None:
        """Whether the library keeps constants: it may refuse to, at each point."""
        rng = np.random.default_rng(0)
        for _ in range(_TRIES):
            z = rng.uniform(-_START_RANGE, _START_RANGE, self.dim)
            if not self.at(z, 0)[1]:
                return
            if not self.at(z, 1)[1]:
                self.drops = 1
                return
        # No point has a density. The fit will raise that, with the library's message.
        self.drops = int("propto" in self.at(np.zeros(self.dim), 0)[1])

    def values(self, z: Array) -> Array:
        """The log density at points (S, D)."""
        return np.array([self.at(row, self.drops)[0] for row in z])

    def slopes(self, z: Array) -> tuple[Array, Array]:
        """The log density at points (S, D), with its gradients."""
        gradients = np.zeros_like(z)
        found = [self.at(*each) for each in zip(z, [self.drops] * len(z), gradients, strict=True)]
        gradients[[bool(words) for _, words in found]] = 0.0
        return np.array([value for value, _ in found]), gradients

    def reason(self, z: Array) -> str:
        """Stan's message for a point that it rejects."""
        words = self.at(np.ascontiguousarray(z), self.drops)[1]
        return words and f"Stan rejects it ({words})"

    def parameters(self, z: Array) -> dict[str, Array]:
        """Parameters, transformed parameters and generated quantities at points (n, D), by their names.

        Generated quantities draw their random numbers with a seed that depends on the points alone.
        """
        z, out = np.ascontiguousarray(z), np.empty((len(z), len(self.names)))
        said = ctypes.c_void_p()
        where = ctypes.addressof(said)
        rng = self.library.bs_rng_construct(zlib.crc32(z.tobytes()), where)
        if not rng:
            raise RuntimeError(self._words(said))
        try:
            for row, values in zip(z, out, strict=True):
                if self.library.bs_param_constrain(
                    self.model, True, True, row.ctypes.data, values.ctypes.data, rng, where
                ):
                    raise RuntimeError(f"Stan has no values at a draw: {self._words(said)}")
        finally:
            self.library.bs_rng_destruct(rng)
        return {name: out[:, columns] for name, columns in self.parts.items()}


def _names(text: bytes) -> list[str]:
    return text.decode().split(",") if text else []


def _parts(names: list[str]) -> dict[str, Any]:
    """The columns of each variable, an array of its shape: Stan writes theta.1.2 for theta[1, 2]."""
    found: dict[str, dict[tuple[int, ...], int]] = {}
    for column, name in enumerate(names):
        head, *indices = name.split(".")
        if not all(index.isdigit() for index in indices):
            head, indices = name, []
        found.setdefault(head, {})[tuple(int(index) - 1 for index in indices)] = column
    parts: dict[str, Any] = {}
    for head, columns in found.items():
        shape = [max(axis) + 1 for axis in zip(*columns, strict=True)]
        where = np.zeros(shape, np.int64)
        for index, column in columns.items():
            where[index] = column
        parts[head] = where
    return parts


def _model(origin: str, stan: _StanModel, complete: bool) -> Model:
    """The model; `complete` says that the program has no constants to drop."""
    stan.find_constants()
    free = [name.split(".") for name in _names(stan.library.bs_param_unc_names(stan.model))]
    labels = [f"z of {head}" + (f"[{','.join(rest)}]" if rest else "") for head, *rest in free]
    note = _UP_TO_A_CONSTANT if stan.drops and not complete else ""
    names = Names(labels, stan.parameters, stan.reason, note=note)
    if not stan.threads:
        return block_model(origin, stan.slopes, stan.values, stan.dim, names)
    functions = point_calls.functions("stan")
    addresses = [_address(stan.library, f"bs_log_density{rest}") for rest in ("", "_gradient")]
    table = np.array([stan.model, stan.drops, *addresses], np.int64)
    value, slopes = (int(function.address) for function in functions)
    return ForeignModel(origin, value, slopes, stan.dim, table, (stan, functions), names=names)


def _address(library: ctypes.CDLL, name: str) -> int:
    """Where a function of a library is."""
    return int(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)
