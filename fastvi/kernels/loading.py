"""Modules that are loaded when they are first used: setting up a hundred compiled functions takes 60 ms."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def on_first_use(package: str, **offered: str) -> Callable[[str], Any]:
    """A package's ``__getattr__``: its modules, and names that it offers from one of them (name=module)."""

    def load(name: str) -> Any:
        if name in offered:
            return getattr(import_module(f"{package}.{offered[name]}"), name)
        if name.startswith("_") or find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(f"{package}.{name}")

    return load
