"""Run a script as torchrun starts it; the last process is killed: dying.py FUNCTION NUMBER SCRIPT ARGUMENTS..."""

import functools
import os
import runpy
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.helpers.processes import at_call, send_self

if __name__ == "__main__":
    function, number, *sys.argv = sys.argv[1:]
    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
        at_call(int(number), function, functools.partial(send_self, signal.SIGKILL))
    runpy.run_path(sys.argv[0], run_name="__main__")
