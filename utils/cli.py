"""The command line every script shares: -c FILE, dotted overrides, --allow-module."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from utils import distributed
from utils.allowed import AllowedModules
from utils.errors import UserError
from utils.outside import signals, streams

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


class Command(NamedTuple):
    """Hold what the user typed."""

    config: str
    overrides: list[str]
    allowed: AllowedModules
    """What `--allow-module` named."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say how settings are written to those who wrote them as options."""
        if message.startswith("unrecognized arguments: -"):
            message = f"{message}; settings are written key=value without dashes, e.g. base.device=cpu"
        super().error(message)


def parse_command(description: str | None, argv: Sequence[str] | None = None) -> Command:
    """Parse `-c CONFIG [key=value ...] [--allow-module PACKAGE ...]`."""
    parser = _Parser(description=description)
    parser.add_argument("-c", "--config", required=True, help="YAML file")
    parser.add_argument(
        "--allow-module",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package, importable from here, whose networks the YAML may name; repeatable",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted path into the YAML, e.g. base.seed=1")
    args = parser.parse_intermixed_args(argv)
    return Command(args.config, args.overrides, AllowedModules(tuple(args.allow_module)))


def run(main: Callable[[], int], go_on: str = "run again") -> int:
    """Run `main`; turn a user's mistake into one sentence on stderr, of one process only, and its exit code.

    So is a full or protected disk; `go_on` says what to do when there is space.
    """
    with streams.lasting():
        return _ended(main, go_on)


def _ended(main: Callable[[], int], go_on: str) -> int:
    signals.listen()
    try:
        return main()
    except signals.Terminated as ended:
        if distributed.first_to_fail():
            sys.stderr.write(f"ended by SIGTERM: {str(ended) or 'what was finished is on disk'}; {go_on}\n")
        return 143
    except UserError as error:
        return _report(error)
    except RuntimeError as error:
        reported = distributed.failed_elsewhere(error)
        if reported is None:
            raise
        if not reported and distributed.first_to_fail():
            sys.stderr.write("error: another process died; run again to go on (training: with base.resume=auto)\n")
        return UserError.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what was finished is on disk\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        what = "opened" if isinstance(error, PermissionError) else "written"
        return _report(
            UserError(
                f"{error.filename or 'the output'}: cannot be {what} ({error.strerror}); free space or give the "
                f"permission and {go_on}, or choose another folder"
            )
        )


def _report(error: UserError) -> int:
    if distributed.first_to_fail():
        sys.stderr.write(f"error: {error}\n")
    return error.exit_code
