"""Which packages the command line allows a configuration to name networks of."""

import importlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import ConfigError, first_line


@dataclass(frozen=True)
class AllowedModules:
    """Hold what `--allow-module` named, and import from nothing else."""

    packages: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        """Tell whether a dotted name is an allowed package or lies in one."""
        return any(name == package or name.startswith(f"{package}.") for package in self.packages)

    def load(self, name: str, place: str) -> Any:
        """Import `package.Name`, which the allowed package must define, or re-export from a file of its own.

        `place` is the key that names it; ConfigError says why a name cannot be had.
        """
        path, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(path), attribute)
        except Exception as error:  # importing runs the user's own code
            lost = isinstance(error, ModuleNotFoundError) and (error.name or "") in (path, path.partition(".")[0])
            hint = "; lay it beside the scripts, install it, or name its folder in PYTHONPATH" if lost else ""
            raise ConfigError(f"{place}: {name!r} cannot be imported: {first_line(error)}{hint}") from error
        home = getattr(found, "__module__", None) or path
        if home not in self and not self._is_own_file(found):
            package = home.partition(".")[0]
            raise ConfigError(f"{place}: {name!r} is defined in {package}; add --allow-module {package}")
        return found

    def _is_own_file(self, found: Any) -> bool:
        """Tell whether the file that defines `found` lies in the folder of an allowed package."""
        try:
            file = Path(inspect.getfile(found)).resolve()
        except TypeError:  # built in, or no class or function
            return False
        folders = [folder for name in self.packages for folder in getattr(sys.modules.get(name), "__path__", ())]
        return any(file.is_relative_to(Path(folder).resolve()) for folder in folders)


NOTHING_MORE = AllowedModules()
"""What is allowed where the command line names no package."""
