"""What holds for every test."""

import logging

import pytest


@pytest.fixture(autouse=True)
def the_scripts_logging_ends_with_the_test():
    """Leave the root logger as it was: a script's handler would write to a stream that is gone.

    The level is Python's own from the first line on: a script that a fixture of a whole file ran may have set another.
    """
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.setLevel(logging.WARNING)
    yield
    root.handlers[:] = handlers
    root.setLevel(logging.WARNING)
