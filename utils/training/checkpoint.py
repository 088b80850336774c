"""What a training run leaves in its folder, and how it goes on from there."""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from utils.config.loading import validate
from utils.config.train import TrainConfig
from utils.contract import InputContract, save_contract
from utils.errors import ConfigError, DataError
from utils.files import FolderLock, atomic_write, make_folder
from utils.outside.reading import reading
from utils.requests import first_difference

FREE_KEYS = (
    "base.resume",
    "base.verbose",
    "base.save_path",
    "base.save_every",
    "base.log_every",
    "base.max_steps",
    "dataset.accept_unusual",
    "dataset.cache",
    "dataset.on_missing",
    "dataloader.train.params.num_workers",
    "dataloader.train.params.pin_memory",
    "dataloader.val.params",
    "wandb",
)
"""Keys that may differ between the two halves of a resumed run: they do not change what is computed.

With on_missing, an image that is skipped now would have stopped the first half; the index is compared by its hash.
"""

RESUME = "resume.pt"
_KINDS = {"settings": dict, "step": int, "log": int, "finished": bool, "best": float}
"""What the folder itself reads of a resume point."""


class RunFolder:
    """Own the files of one training run: NAME-best, NAME-last, resume.pt, config.yaml, metrics.jsonl."""

    def __init__(self, cfg: TrainConfig, settings: dict[str, Any]):
        """Take the run's configuration and `settings`, everything that decides its result, as plain values."""
        self.path = Path(cfg.base.save_path)
        self.schema, self.method = type(cfg), cfg.base.method
        self.mode = cfg.base.resume
        self.settings = settings
        self._place: tuple[int, int] | None = None
        """Which folder on which disk it is, once it is open."""

    @property
    def resume_path(self) -> Path:
        """Return the path of resume.pt."""
        return self.path / RESUME

    @property
    def previous(self) -> Path:
        """Return where a replaced run stays until this one has weights."""
        return self.path / "previous"

    @property
    def files(self) -> list[Path]:
        """Return the paths of everything but resume.pt.

        The best weights are saved, set aside and dropped last: after a kill they tell how far that went.
        """
        weights = [self.weights_path(kind).with_suffix(end) for kind in ("last", "best") for end in (".json", ".pth")]
        return [self.path / name for name in ("config.yaml", "metrics.jsonl", "curves.png")] + weights

    def weights_path(self, kind: str) -> Path:
        """Return the path of the best or last weights."""
        return self.path / f"{self.method}-{kind}.pth"

    def alone(self) -> contextlib.closing[FolderLock]:
        """Create the folder and keep other runs out of it until the end of the block."""
        return contextlib.closing(FolderLock(make_folder(self.path, "base.save_path"), self.path))

    def open(self) -> dict[str, Any] | None:
        """Create the folder and return the state to go on from, or None for a new run.

        Raises ConfigError when an unfinished run would be replaced, or another one continued.
        """
        self._place = _identity(make_folder(self.path, "base.save_path"))
        if not self.resume_path.is_file():
            return None
        state = self._read()
        if self.mode != "auto":
            if not state["finished"]:
                raise ConfigError(
                    f"{self.path}: holds an unfinished run (step {state['step']}); "
                    "go on with base.resume=auto, or name another base.save_path"
                )
            return None
        difference = first_difference(state["settings"], self.settings, FREE_KEYS)
        if difference:
            key, old, new = difference
            if key != "base.method":
                self._require_keys(state["settings"])
            raise ConfigError(
                f"{self.path}: the run there has {key} = {old!r}, this one {new!r}; "
                "restore the value, or name another base.save_path"
            )
        return state

    def start(self) -> bool:
        """Write the resolved configuration; return whether there is an earlier run, which is set aside whole."""
        best = self.weights_path("best")
        replaces = best.exists()
        self.resume_path.unlink(missing_ok=True)
        if replaces and (self.previous / best.name).exists():  # older still
            self.drop_previous()
        for path in self.files:
            if replaces and path.exists():
                self.previous.mkdir(exist_ok=True)
                os.replace(path, self.previous / path.name)
            else:
                path.unlink(missing_ok=True)
        self.write_config()
        return replaces

    def drop_previous(self) -> None:
        """Remove the run that was set aside."""
        for path in self.files:
            (self.previous / path.name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or a user keeps something in it
            self.previous.rmdir()

    def write_config(self) -> None:
        """Write config.yaml, the resolved configuration with the model's."""
        with atomic_write(self.path / "config.yaml", "w") as stream:
            yaml.safe_dump(self.settings, stream, sort_keys=False, allow_unicode=True)

    def save_weights(self, kind: str, state: dict[str, Tensor], contract: InputContract, facts: dict) -> None:
        """Write the weights and, beside them, the preprocessing contract and what they are."""
        self.require_there()
        with atomic_write(self.weights_path(kind)) as stream:
            torch.save({name: tensor.cpu() for name, tensor in state.items()}, stream)
        save_contract(contract, self.weights_path(kind), method=self.method, **facts)

    def save_resume(self, state: dict[str, Any]) -> None:
        """Write everything the next step needs."""
        self.require_there()
        with atomic_write(self.resume_path) as stream:
            torch.save({**state, "settings": json.dumps(self.settings)}, stream)

    def _require_keys(self, settings: dict[str, Any]) -> None:
        """Refuse a run whose configuration has keys that this version does not know: no value here could be its own."""
        own = {key: value for key, value in settings.items() if key not in self.schema.RECORDS}
        try:
            validate(self.schema, own, str(self.resume_path))
        except ConfigError:
            raise ConfigError(
                f"{self.path}: another version of this program began the run there, it cannot go on; name another "
                "base.save_path, or remove resume.pt to start anew"
            ) from None

    def require_there(self) -> None:
        """Raise DataError where the folder is no longer the one that was opened: what is written would be lost."""
        if self._place is not None and _identity(self.path) != self._place:
            raise DataError(f"{self.path}: the folder was removed while the run writes there; start the run again")

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Let a file that is missing because the whole folder is say so."""
        try:
            yield
        except FileNotFoundError:
            self.require_there()
            raise

    def _read(self) -> dict[str, Any]:
        with reading(self.resume_path, way_out="remove it to start anew"):
            with zipfile.ZipFile(self.resume_path) as parts:  # torch compares no checksum
                if (damaged := parts.testzip()) is not None:
                    raise ValueError(f"the checksum of {damaged} differs")
            state = torch.load(self.resume_path, map_location="cpu", weights_only=True)
            state["settings"] = json.loads(state["settings"])
            if wrong := [name for name, kind in _KINDS.items() if not isinstance(state[name], kind)]:
                raise ValueError(f"{wrong[0]} has another type")
            return state


def is_finished(folder: Path) -> bool:
    """Tell whether the resume point in a folder is of a run that has ended; only this much of it is read."""
    try:
        with reading(folder / RESUME):
            return torch.load(folder / RESUME, map_location="cpu", weights_only=True, mmap=True)["finished"] is True
    except DataError:  # there is none, or whoever goes on from it will say what is wrong
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell a folder from another one that has taken its name; None: there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def rng_state() -> dict[str, Any]:
    """Return the states of torch's random generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_rng(state: dict[str, Any]) -> None:
    """Restore what rng_state gave; a GPU that is no longer there is left out."""
    torch.set_rng_state(state["cpu"])
    for index, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value, index)
