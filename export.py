"""Share a trained student as ONNX and safetensors: python export.py -c configs/export_config.yaml [key=value ...]."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from data.samples.crops import open_crops
from data.samples.loader import crop_batches
from jobs.methods import title
from model.frozen.load import checked_contract
from model.frozen.network import FrozenNetwork, TorchNetwork
from model.frozen.onnx_network import OnnxNetwork
from model.registry import NetworkBuilder
from model.sharing.card import Export, RunRecord, model_card
from model.sharing.files import describe, recorded_model, to_onnx, to_safetensors
from utils import cli
from utils.config import beside, load_config
from utils.config.export import CheckConfig, ExportConfig
from utils.config.loading import validate
from utils.config.sections import CropInputConfig, ModelConfig
from utils.contract import InputContract, save_contract
from utils.errors import ConfigError, DataError, UserError
from utils.files import atomic_write, make_folder, sha256_file
from utils.present import present

logger = logging.getLogger("export")

CPU = torch.device("cpu")
BATCHES = (1, 2, 32)
"""Sizes of the batches of the comparison, the last one repeated: the file must take any."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration, check everything, export, compare, write."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(ExportConfig, command.config, command.overrides)
    logging.basicConfig(
        level=logging.INFO if cfg.base.verbose else logging.ERROR, format="%(message)s", stream=sys.stderr
    )
    weight, run = Path(cfg.model.weight), RunRecord.beside(cfg.model.weight)
    model_cfg = model_config(cfg, run, command.config)
    contract = InputContract.from_transform(model_cfg.transform, model_cfg.channels)
    remark = checked_contract(contract, weight)
    student = NetworkBuilder(command.allowed).trained_student(model_cfg, cfg.model.weight)
    record = describe(model_cfg, contract, method=run.method, weights_sha256=sha256_file(weight))
    if remark:
        logger.info(remark)
    contents, parity = {}, None
    if "onnx" in cfg.output.formats:
        crops = comparison_crops(cfg.check, contract.size_px, cfg.base.seed)
        contents[f"{weight.stem}.onnx"] = to_onnx(student, contract, record)
        onnx = OnnxNetwork(contents[f"{weight.stem}.onnx"], f"{weight.stem}.onnx", CPU)
        parity = compare(TorchNetwork(student, contract, CPU), onnx, crops, cfg.check.tolerance)
    if "safetensors" in cfg.output.formats:
        contents[f"{weight.stem}.safetensors"] = to_safetensors(student.state_dict(), record)
    write(cfg, contents, record)
    facts = {key: value for key, value in {**run.facts, **record}.items() if key not in ("contract", "model")}
    save_contract(contract, Path(cfg.base.save_path) / f"{weight.stem}.json", **facts)
    hashes = {name: sha256_file(Path(cfg.base.save_path) / name) for name in contents}
    parameters = sum(p.numel() for p in student.parameters())
    export = Export(weight.stem, record, title(run.method), hashes, parameters, parity)
    with atomic_write(Path(cfg.base.save_path) / "README.md", "w") as stream:
        stream.write(model_card(run, export, cfg.card.licence, cfg.card.notes))
    logger.info(f"exported to {cfg.base.save_path}: {', '.join(contents)}, README.md")
    return 0


def model_config(cfg: ExportConfig, run: RunRecord, config: str) -> ModelConfig:
    """Return the network's configuration: as given, as the training run recorded it, or as the weights file says."""
    if cfg.model.config is not None:
        return load_config(ModelConfig, beside(cfg.model.config, config))
    if not Path(cfg.model.weight).is_file():
        raise ConfigError(f"model.weight: {cfg.model.weight} is no file; name the weights of a trained quality model")
    if "model_config" in run.settings:
        return validate(ModelConfig, run.settings["model_config"], str(Path(cfg.model.weight).parent / "config.yaml"))
    if Path(cfg.model.weight).suffix.lower() == ".safetensors":
        return recorded_model(cfg.model.weight)
    raise ConfigError(
        f"model.config: no config.yaml lies beside {cfg.model.weight}; name the model_config.yaml of these weights"
    )


def comparison_crops(check: CheckConfig, size: int, seed: int) -> np.ndarray:
    """Return crops (N, S, S, 3) uint8: of a folder, or random, from flat to noisy."""
    if check.crops is None:
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 1, (check.count, size, size, 3)) * rng.uniform(0, 80, (check.count, 1, 1, 1))
        return np.clip(noise + rng.uniform(0, 255, (check.count, 1, 1, 3)), 0, 255).astype(np.uint8)
    crops = open_crops(CropInputConfig(loc=check.crops))
    found: list[np.ndarray] = []
    for batch in crop_batches(crops, 32):
        found += list(batch.images.numpy())
        if len(found) >= check.count:
            break
    if not found:
        raise DataError(f"{check.crops}: holds no readable image to compare on; set check.crops=null for random ones")
    return np.stack(found[: check.count])


def compare(network: FrozenNetwork, onnx: FrozenNetwork, crops: np.ndarray, tolerance: float) -> dict[str, float]:
    """Return the largest differences between torch and ONNX; UserError when one is over the tolerance."""
    worst = {"crops": float(len(crops)), "quality": 0.0, "embedding": 0.0}
    largest, start = 1.0, 0
    sizes = [*BATCHES[:-1], *[BATCHES[-1]] * (len(crops) // BATCHES[-1] + 1)]
    for size in sizes:
        part = crops[start : start + size]
        start += size
        if not len(part):
            break
        answers = [one(torch.from_numpy(part)) for one in (onnx, network)]
        largest = max(largest, float(present(answers[1].embedding).abs().max()))
        for name in ("quality", "embedding"):
            have, want = (getattr(answer, name) for answer in answers)
            difference = float((have - want).abs().max()) if have.shape == want.shape else float("inf")
            worst[name] = max(worst[name], difference if np.isfinite(difference) else float("inf"))
    logger.info(
        f"ONNX against torch on {len(crops)} crops: quality within {worst['quality']:.1e}, embedding within "
        f"{worst['embedding']:.1e}"
    )
    for name, limit in (("quality", tolerance), ("embedding", tolerance * largest)):
        if worst[name] > limit:
            raise UserError(
                f"the ONNX file differs from torch by {worst[name]:.1e} in {name}, {limit:.1e} is allowed; nothing was "
                "written; raise check.tolerance, or export safetensors only"
            )
    return worst


def write(cfg: ExportConfig, contents: dict[str, bytes], record: dict[str, Any]) -> None:
    """Write the files and the model configuration they fit."""
    folder = make_folder(cfg.base.save_path, "base.save_path")
    for name, content in contents.items():
        with atomic_write(folder / name) as stream:
            stream.write(content)
    with atomic_write(folder / "model_config.yaml", "w") as stream:
        yaml.safe_dump(record["model"], stream, sort_keys=False)


if __name__ == "__main__":
    sys.exit(cli.run(main))
