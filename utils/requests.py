"""Two requests compared: what earlier work was asked for, and what is asked for now."""

from collections.abc import Collection
from typing import Any


def first_difference(old: Any, new: Any, free: Collection[str] = (), key: str = "") -> tuple[str, Any, Any] | None:
    """Return (dotted key, old, new) of the first setting in which two requests differ, None where they are the same.

    Both are values of JSON. A setting that is absent counts as None; keys in `free` may differ.
    """
    if key in free:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            if found := first_difference(old.get(name), new.get(name), free, f"{key}.{name}" if key else name):
                return found
        return None
    return None if old == new else (key, old, new)
