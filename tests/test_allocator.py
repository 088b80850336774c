"""Memory that is kept between batches: page faults are counted in fresh processes."""

import os
import subprocess
import sys

import pytest

from tests.helpers.processes import ROOT

PROGRAM = """
import resource, sys
import numpy as np
from model.frozen.allocator import keep_memory
kept = keep_memory() if sys.argv[1] == "keep" else None
for _ in range(3):
    np.ones(20 << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(20 << 20, np.uint8)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 20 * (20 << 20) // 4096


def faults(how, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], cwd=ROOT, env=clean() | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kept, count = done.stdout.split()
    return kept, int(count)


def clean():
    return {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}


def test_a_block_of_20_mib_is_used_again():
    kept, count = faults("keep")
    if kept == "False":
        pytest.skip("not glibc")
    assert count < PAGES // 100


def test_what_the_environment_says_stays():
    kept, _ = faults("keep", MALLOC_TRIM_THRESHOLD_="100000")
    assert kept == "False"
