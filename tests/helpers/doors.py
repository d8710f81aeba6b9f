"""Packages of other systems, which the plain test command does not install."""

import doctest
import importlib
import os
import re
from pathlib import Path

import pytest


def needed(name):
    """The module; without it the test is skipped, or fails where FASTVI_DOORS says that all are there."""
    return importlib.import_module(name) if os.environ.get("FASTVI_DOORS") else pytest.importorskip(name)


def run_readme(word, **names):
    """Run README's block with this word, also what is marked as skipped; `names` are there already."""
    readme = Path(__file__).parents[2] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (text for text in blocks if word in text)
    block = re.sub(r" *# doctest: \+SKIP", "", block)
    test = doctest.DocTestParser().get_doctest(block, names, word, str(readme), 0)
    assert test.examples
    found = doctest.DocTestRunner().run(test)
    assert found.failed == 0
