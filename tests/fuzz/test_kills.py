"""A few kills of each of the five long commands; `make fuzz` does more."""

import pytest

from tests.fuzz.kills import COMMANDS, killed


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_random_moments_ends_like_one_that_nobody_killed(tmp_path, name):
    assert killed(tmp_path, name, seed=21, kills=3) is None
