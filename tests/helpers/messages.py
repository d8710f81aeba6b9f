"""Errors, by what their messages say."""

import re

import pytest


def says(error, *parts):
    """A context that expects `error` with all `parts` in this order in its message."""
    return pytest.raises(error, match="(?s)" + ".*".join(re.escape(part) for part in parts))
