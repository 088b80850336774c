"""Commands of this repository in a row: one that is done is skipped, an interrupted one goes on."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.config.loading import read_yaml
from utils.errors import ConfigError
from utils.files import atomic_write
from utils.training.checkpoint import is_finished

ROOT = Path(__file__).resolve().parents[2]
_DONE = ".done.json"


@dataclass(frozen=True)
class CommandStep:
    """One command, and what its result depends on."""

    title: str
    script: str
    config: Path
    folder: Path
    """Its base.save_path."""
    changes: Mapping[str, Any]
    """Dotted keys of the configuration and their values."""
    inputs: Sequence[Path] = ()
    """Files and folders it reads, beside the configuration."""

    @property
    def request(self) -> dict[str, Any]:
        """Return all that decides the result, as JSON values; an image folder counts by its path."""
        files = {str(path): found for path in self.inputs if (found := _state(path)) is not None}
        content = {"config": read_yaml(self.config), "changes": {**self.changes}, "files": files}
        return json.loads(json.dumps({"script": self.script, **content}))

    @property
    def earlier(self) -> Any:
        """Return the request that was done in the folder; None where none was."""
        try:
            return json.loads((self.folder / _DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def arguments(self) -> list[str]:
        """Return what stands behind the script's name."""
        changes = {**self.changes, "base.save_path": str(self.folder)}
        if self.script == "train_main.py":  # a finished run of another request is replaced, an unfinished one goes on
            changes["base.resume"] = 0 if self.earlier is not None and is_finished(self.folder) else "auto"
        return ["-c", str(self.config), *(f"{key}={_flow(value)}" for key, value in changes.items())]

    def run(self, allowed: Sequence[str], verbose: bool) -> None:
        """Run the command unless it is done; ConfigError where it fails."""
        request = self.request  # what is read now; a file may be changed while the command runs
        if self.earlier == request:
            return
        if verbose:
            sys.stderr.write(f"\n== {self.title}\n")
        packages = [word for package in allowed for word in ("--allow-module", package)]
        command = [sys.executable, str(ROOT / self.script), *self.arguments(), *packages]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}, check=False)
        if done.returncode:
            raise ConfigError(
                f"{self.title}: {self.script} ended with exit code {done.returncode}, its reason stands above; mend it "
                "and run this command again, which goes on from there"
            )
        with atomic_write(self.folder / _DONE, "w") as stream:
            json.dump(request, stream)


def write_yaml(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a configuration; return its path."""
    with atomic_write(path, "w") as stream:
        yaml.safe_dump(dict(content), stream, sort_keys=False, allow_unicode=True)
    return path


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `more`, section by section."""
    result = dict(base)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def _flow(value: Any) -> str:
    """Write a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True).strip()
    return text.removesuffix("\n...").strip()


def _state(path: Path) -> Any:
    """Return what tells a changed file: the content of a configuration, else size and time; None of a folder."""
    if not path.is_file():
        return None
    if path.suffix == ".yaml":
        return read_yaml(path)
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
