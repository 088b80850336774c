"""Two requests compared: what earlier work was made from, and what is asked for now."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

Difference = tuple[str, Any, Any]
"""Dotted key, old value, new value."""
_LONGEST = 40


def noted_request(note: Path, task: str) -> dict[str, Any] | None:
    """Return the request that an earlier run of a task noted in a JSON file; None where no such run did."""
    try:
        request = json.loads(note.read_text(encoding="utf-8"))["request"]
        return request if request["task"] == task else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def differences(old: Any, new: Any, free: Collection[str] = (), key: str = "") -> Iterator[Difference]:
    """Yield every setting in which two requests differ.

    Both are values of JSON. A setting that is absent counts as None; keys in `free` may differ.
    """
    if key in free:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from differences(old.get(name), new.get(name), free, f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new


def first_difference(old: Any, new: Any, free: Collection[str] = ()) -> Difference | None:
    """Return the first setting in which two requests differ, None where they are the same."""
    return next(differences(old, new, free), None)


def difference_text(old: Any, new: Any) -> str:
    """Name the settings in which two requests differ, with both values where these are short."""
    return ", ".join(_told(*one) for one in differences(old, new))


def _told(key: str, old: Any, new: Any) -> str:
    values = json.dumps(old), json.dumps(new)
    return key if max(map(len, values)) > _LONGEST else f"{key} (was {values[0]}, is {values[1]})"
