"""Nothing is compiled again by accident: each kernel gets each argument in one type."""

import json
import os
from importlib import import_module

import pytest

from helpers.forms import compiled_only
from helpers.programs import PROGRAMS, ROOT, finish, start_program


@compiled_only
@pytest.mark.parametrize("room", ["discrete", "distributions", "projections", "em", "inference"])
def test_arguments_of_other_types_compile_nothing(room):
    process = start_program("odd_arguments", room, PYTHONPATH=f"{ROOT}{os.pathsep}{PROGRAMS.parent}")
    found = json.loads(finish(process, timeout=1200)[0])  # minutes, where nothing is compiled yet
    assert set(import_module(f"fastvi.{room}").__all__) <= set(found["names"])
    assert found["kernels"] > 3
    assert not found["again"]
    assert not found["unlisted"]  # of containers: fastvi/kernels/signatures.txt
