"""Values that may be missing in general, and are there where they are used."""

from typing import TypeVar

Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """Return a value that an earlier check has found to be there."""
    if value is None:
        raise RuntimeError("a value is missing that an earlier check found")
    return value
