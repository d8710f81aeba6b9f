"""Packages of other systems, imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def required(name: str, extra: str, what: str) -> Any:
    """The module `name`, for `what`; ImportError with the command that installs it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        raise ImportError(f'{what} needs {name}: pip install "fastvi[{extra}]"', name=name) from error
