"""Containers: files of kernels in machine code, one for each level of CPUs. `building` makes them.

A container is for one version of numba, llvmlite, NumPy's ABI and Python, one state of the sources of all
kernels, and one level (or one CPU). If any differs it is not used, and kernels are compiled. An entry is the
object code of a kernel for one signature, with a digest: a damaged one is not used either, with a warning.

A container lies in the package (``fastvi/prebuilt``), or in the user's cache directory. It is code: it is
read only if nobody but this user and root can write to it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import stat
import sys
import threading
import warnings
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba.misc.appdirs import AppDirs

#: The levels of x86-64 (the psABI's), from the highest, and what a CPU must have beyond the level below.
LEVELS = {
    "v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "v3": "avx avx2 bmi bmi2 f16c fma lzcnt movbe xsave",
    "v2": "cx16 popcnt sahf sse3 sse4.1 sse4.2 ssse3",
}

#: The level of a container for exactly this CPU.
HOST = "host"

#: Set to "off", it makes fastvi use no container.
SWITCH = "FASTVI_CONTAINER"

_MAGIC = b"fastvi container 1\n"
#: Bytes of a digest.
DIGEST = hashlib.blake2b(digest_size=16).digest_size


def digest(data: bytes) -> bytes:
    """What tells a damaged file from a good one."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


@cache
def source_digest() -> str:
    """Of the text of all kernels: numba knows the file of a kernel, but not those of what it calls."""
    total = hashlib.blake2b(digest_size=DIGEST)
    root = Path(__file__).parents[1]
    for path in sorted([*root.glob("kernels/**/*.py"), *root.glob("compiled/**/*.py")]):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def conditions() -> dict[str, str]:
    """What machine code depends on, beside the CPU; numba's own key leaves out its options."""
    config: Any = numba.config
    options = config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.DEBUGINFO_DEFAULT
    return {
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "python": f"{sys.implementation.cache_tag}{sys.abiflags}",
        "numpy": np.__version__.split(".")[0],
        "platform": llvm.get_process_triple(),
        "options": " ".join(map(str, options)),
        "sources": source_digest(),
    }


def cpu() -> str:
    """The CPU that numba compiles for: a name and features."""
    config: Any = numba.config
    name = config.CPU_NAME or llvm.get_host_cpu_name()
    features = config.CPU_FEATURES
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    return f"{name} {features}"


def usable_levels() -> list[str]:
    """The levels of this CPU, from the highest; none where numba is told to compile for another."""
    config: Any = numba.config
    if config.CPU_NAME or config.CPU_FEATURES is not None:
        return []
    features = llvm.get_host_cpu_features()
    usable: list[str] = []
    for level in reversed(LEVELS):
        if not all(features.get(feature) for feature in LEVELS[level].split()):
            break
        usable.insert(0, level)
    return usable


def places() -> list[Path]:
    """The directories that may have containers: of the package, of the user."""
    user = numba.config.CACHE_DIR or AppDirs("fastvi", appauthor=False).user_cache_dir  # type: ignore[attr-defined]
    return [Path(__file__).parent.parent / "prebuilt", Path(user) / "fastvi-prebuilt"]


def _only_ours(path: Path) -> bool:
    """Whether nobody but this user and root can write to a file or directory."""
    if not hasattr(os, "geteuid"):
        return True
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        return False
    private = status.st_gid == status.st_uid  # a group of this user alone, as many systems have it
    return not status.st_mode & (stat.S_IWOTH if private else stat.S_IWOTH | stat.S_IWGRP)


class Container:
    """An open container: finds the entries of kernels."""

    def __init__(self, path: Path) -> None:
        """Raise ValueError, with the reason, if it cannot be used."""
        self.path = path
        if not (_only_ours(path) and _only_ours(path.parent)):
            raise ValueError("others can write to it")
        if not path.stat().st_size:
            raise DamagedError("it is empty")
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = len(_MAGIC) + 8
        size = int.from_bytes(self._data[len(_MAGIC) : start], "little")
        head = self._data[start + DIGEST : start + DIGEST + size]
        sound = self._data[: len(_MAGIC)] == _MAGIC and len(head) == size
        if not (sound and digest(head) == self._data[start : start + DIGEST]):
            raise DamagedError("it is damaged")
        content = pickle.loads(head)
        self._first = start + DIGEST + size
        self._index: dict[tuple[str, str], tuple[int, int, bytes]] = content["index"]
        made = content["conditions"]
        if content["level"] == HOST:
            made = {**made, "cpu": content["cpu"]}
        here = {**conditions(), "cpu": cpu()}
        for name, value in made.items():
            if here[name] != value:
                raise ValueError(f"made for {name} {_short(value)}, here is {_short(here[name])}")

    def __len__(self) -> int:
        return len(self._index)

    def has(self, name: str) -> bool:
        """Whether there is an entry of a kernel."""
        return any(name == known for known, _ in self._index)

    def find(self, name: str, signature: str) -> Any:
        """What `write` was given for a kernel and a signature; None if there is no sound entry."""
        place = self._index.get((name, signature))
        if place is None:
            return None
        start, size, expected = place
        data = self._data[self._first + start : self._first + start + size]
        if digest(data) != expected:
            warn_of_damage(self.path)
            return None
        return pickle.loads(zlib.decompress(data))


class DamagedError(ValueError):
    """Of a container that is not what was written."""


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def warn_of_damage(path: Path) -> None:
    """A person is told which file to delete."""
    warnings.warn(f"{path} is damaged: fastvi compiles without it", RuntimeWarning, stacklevel=2)


def write(path: Path, level: str, entries: Mapping[tuple[str, str], Any]) -> None:
    """Make the container of a level, of values by the name and the signature of a kernel."""
    index, blobs, start = {}, [], 0
    for key, value in entries.items():
        blob = zlib.compress(pickle.dumps(value, protocol=4))
        index[key] = start, len(blob), digest(blob)
        blobs.append(blob)
        start += len(blob)
    content = {"level": level, "cpu": cpu(), "conditions": conditions(), "index": index}
    head = pickle.dumps(content, protocol=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(
        b"".join([_MAGIC, len(head).to_bytes(8, "little"), digest(head), head, *blobs]),
    )
    unfinished.chmod(0o644)
    unfinished.replace(path)


_lock = threading.Lock()
_opened: list[Container] | None = None
_reasons: dict[Path, str] = {}


def opened() -> list[Container]:
    """The containers for this CPU that can be used, best first. They are searched for once in a process."""
    global _opened
    with _lock:
        if _opened is None:
            _opened = [] if os.environ.get(SWITCH) == "off" else _open_all()
        return _opened


def _open_all() -> list[Container]:
    found = []
    for level in [HOST, *usable_levels()]:
        for place in places():
            path = place / f"{level}.fvk"
            try:
                found.append(Container(path))
            except FileNotFoundError:
                continue
            except DamagedError as error:
                _reasons[path] = str(error)
                warn_of_damage(path)
            except (OSError, ValueError) as error:
                _reasons[path] = str(error)
    return found


def find(name: str, signature: str) -> Any:
    """The entry of a kernel for a signature, from the best container that has it; None if none has."""
    for container in opened():
        found = container.find(name, signature)
        if found is not None:
            return found
    return None


def has(name: str) -> bool:
    """Whether a container has a kernel, for any signature."""
    return any(container.has(name) for container in opened())


def reset() -> None:
    """Search for containers again."""
    global _opened
    with _lock:
        _opened = None
        _reasons.clear()


def describe() -> str:
    """The containers in use, or why there is none, for `fastvi info`."""
    used = [f"{container.path} ({len(container)} kernels)" for container in opened()]
    unused = [f"{path} is not used: {reason}" for path, reason in _reasons.items()]
    if os.environ.get(SWITCH) == "off":
        unused.append(f"{SWITCH} is off")
    return "; ".join(used + unused) or "none: `fastvi compile` makes one"
