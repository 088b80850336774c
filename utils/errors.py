"""Errors a user can mend: each is one sentence naming the thing, the place and the way out."""

LONGEST = 400
"""Characters of a sentence."""


class UserError(Exception):
    """Signal a mistake of the caller; scripts print the sentence and exit with `exit_code`."""

    exit_code = 2

    def __str__(self) -> str:
        """Return the sentence on one line; of a very long one the place in front and the way out at the end."""
        line = " ".join(super().__str__().split())
        return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} ... {line[-LONGEST // 4 :]}"


class ConfigError(UserError):
    """Signal a configuration that cannot be used."""


class DataError(UserError):
    """Signal an input file or folder that cannot be used."""


class WeightsError(UserError):
    """Signal a weights file that does not fit the network."""


class ContractError(UserError):
    """Signal weights that expect another preprocessing than the pipeline feeds."""


def first_line(error: Exception) -> str:
    """Return kind and first line of an error that somebody else's code raised."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')[:160]}" if lines else type(error).__name__
