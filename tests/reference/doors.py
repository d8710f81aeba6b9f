"""Packages of other systems, which the plain test command does not install."""

import importlib
import os

import pytest


def needed(name):
    """The module; without it the test is skipped, or fails where FASTVI_DOORS says that all are there."""
    return importlib.import_module(name) if os.environ.get("FASTVI_DOORS") else pytest.importorskip(name)
