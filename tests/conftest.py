"""What holds for every test."""

import logging

import pytest


@pytest.fixture(autouse=True)
def the_scripts_logging_ends_with_the_test():
    """Leave the root logger as it was: a script's handler would write to a stream that is gone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
