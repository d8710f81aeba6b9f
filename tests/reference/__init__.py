"""Slow, obvious versions of what fastvi computes: they say what is right."""
