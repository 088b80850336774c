"""The progress bar of long work: count, rate and remaining time, on stderr."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """Return a tqdm bar on stderr; silent when stderr is no terminal and `verbose` is false.

    Without a terminal a line is printed at most every 30 s, so that a log file stays readable.
    """
    options.pop("verbose", None) is False and options.update(disable=True)
    on_terminal = sys.stderr.isatty()
    defaults = {"file": sys.stderr, "dynamic_ncols": on_terminal, "mininterval": 0.5 if on_terminal else 30.0}
    return tqdm(iterable, **{**defaults, **options})
