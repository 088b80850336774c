"""How tests read hostile files: refused in one sentence, soon."""

import time

import pytest

from utils.errors import UserError

LONGEST_S = 5


def refused(read, path):
    """Return the sentence with which `read` refuses a file."""
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        read(path)
    assert time.monotonic() - started < LONGEST_S
    said = str(caught.value)
    assert str(path.name) in said
    assert len(said.replace(str(path.parent), "")) <= 400
    assert "\n" not in said
    return said
