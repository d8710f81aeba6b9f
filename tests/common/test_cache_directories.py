"""The cache on disk: shared, missing, impossible, lost, read-only."""

import shutil

import pytest

from helpers.programs import ROOT, finish, run_program, start_program

ERRORS = "-W", "error"


def test_two_processes_compile_into_one_cache(tmp_path):
    cache = tmp_path / "cache"
    pair = [start_program("one_kernel", flags=ERRORS, NUMBA_CACHE_DIR=cache) for _ in range(2)]
    for process in pair:
        assert finish(process)[0] == "fine\n"
    assert list(cache.rglob("*.nbc"))
    assert run_program("one_kernel", "hits", NUMBA_CACHE_DIR=cache) == "fine\n1\n"


def test_cache_directory_that_is_missing(tmp_path):
    cache = tmp_path / "not" / "there"
    assert run_program("one_kernel", flags=ERRORS, NUMBA_CACHE_DIR=cache) == "fine\n"
    assert cache.is_dir()


def test_cache_directory_that_cannot_be_made(tmp_path):
    """Below a plain file no directory can be made, not even by root."""
    blocker = tmp_path / "file"
    blocker.touch()
    assert run_program("one_kernel", flags=ERRORS, NUMBA_CACHE_DIR=blocker / "cache") == "fine\n"


def test_cache_directory_that_is_removed_after_the_import(tmp_path):
    cache = tmp_path / "cache"
    assert run_program("one_kernel_without_cache", cache, NUMBA_CACHE_DIR=cache) == "fine\n"


def test_cache_directory_that_is_read_only(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o555)
    try:
        assert run_program("one_kernel", NUMBA_CACHE_DIR=cache) == "fine\n"
    finally:
        cache.chmod(0o755)


def test_cache_directory_that_turns_read_only(tmp_path):
    """Writable when the kernels are made, unwritable when they are saved."""
    cache = tmp_path / "cache"
    assert run_program("one_kernel_without_cache", cache, "file", NUMBA_CACHE_DIR=cache) == "fine\n"


@pytest.fixture
def installed(tmp_path):
    """A copy of the package in a place of its own, without anything compiled."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "fastvi", site / "fastvi", ignore=shutil.ignore_patterns("__pycache__"))
    return site


@pytest.mark.parametrize("home", ["writable", "unwritable"])
def test_install_directory_that_is_read_only(installed, tmp_path, home):
    folders = list(installed.glob("fastvi/**/"))
    for folder in folders:
        # A plain file in the place of the cache directory stops root as well.
        (folder / "__pycache__").touch()
        folder.chmod(0o555)
    place = tmp_path / "home"
    if home == "writable":
        place.mkdir()
    else:
        (tmp_path / "file").touch()
        place = tmp_path / "file" / "home"
    changes = {"PYTHONPATH": installed, "HOME": place, "XDG_CACHE_HOME": place, "NUMBA_CACHE_DIR": None}
    try:
        out = run_program("one_kernel", "file", flags=ERRORS, cwd=tmp_path, **changes)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert out.startswith("fine\n")
    assert str(installed) in out
    assert bool(list(tmp_path.rglob("*.nbc"))) == (home == "writable")
