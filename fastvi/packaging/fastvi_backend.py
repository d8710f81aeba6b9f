"""The build backend: setuptools, and wheels with compiled kernels.

``FASTVI_PREBUILD=v2,v3,v4 pip wheel .`` makes a wheel that carries the kernels for these levels of x86-64. It
is for the versions of Python, numba and NumPy that it was built with; with others its kernels are compiled as
in any other wheel. Without the variable nothing is compiled.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

#: Names the levels.
VARIABLE = "FASTVI_PREBUILD"

_ROOT = Path(__file__).parents[2]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What kernels are compiled with is needed only where they are."""
    needed: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    return [*needed, "numba", "numpy", "scipy"] if os.environ.get(VARIABLE) else needed


def build_wheel(directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """A wheel; with kernels it is for this platform and this version of Python."""
    levels = os.environ.get(VARIABLE)
    with _containers(levels):
        if levels:
            tags = ["--python-tag", f"cp{sys.version_info[0]}{sys.version_info[1]}"]
            tags += ["--plat-name", f"linux_{platform.machine()}"]
            config_settings = {**(config_settings or {}), "--build-option": tags}
        made: str = build_meta.build_wheel(directory, config_settings, metadata_directory)
    return made


@contextmanager
def _containers(levels: str | None) -> Iterator[None]:
    """The package with containers of these levels, and no others, in the meantime."""
    place = _ROOT / "fastvi" / "prebuilt"
    with tempfile.TemporaryDirectory(dir=_ROOT) as aside:
        if place.exists():
            place.rename(Path(aside) / "prebuilt")
        try:
            if levels:
                make = "import sys; from fastvi.cli import compile_kernels; from pathlib import Path; "
                make += "compile_kernels(sys.argv[1].split(','), Path(sys.argv[2]))"
                command = [sys.executable, "-c", make, levels, str(place)]
                environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
                subprocess.run(command, check=True, env=environment)
            yield
        finally:
            shutil.rmtree(place, ignore_errors=True)
            if (Path(aside) / "prebuilt").exists():
                (Path(aside) / "prebuilt").rename(place)
