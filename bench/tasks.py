"""What the contenders run; importable by all of their workers."""

from __future__ import annotations


def nothing(value=None):
    return value
