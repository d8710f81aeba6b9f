"""The version of fastvi."""

__version__ = "0.1.0"
