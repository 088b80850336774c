"""Images per second from files to scores: ours and the released loop, alternating.

    python -m benchmarks.inference [--network iresnet100] [--images 128] [--rounds 3] [--with onnx compiled]
    python -m benchmarks.inference --device cuda --images 8192 --batch 512 --with bf16 onnx compiled

Makes 112x112 JPEGs and a student with random weights. Networks are loaded before the clock starts; it runs from listing
the folder to the written scores. `onnx` scores with a file of export.py, `compiled` puts torch.compile around the
network (a trial: inference.py does not do it), `bf16` is base.precision=bf16, `autocast` the same by
autocast alone, which casts weights and activations at every layer. Differences are from the released scores.
On CUDA the released loop is timed with TF32 convolutions, torch's default, and its scores are those without, as ours.
"""

import argparse
import contextlib
import copy
import logging
import os
import pickle
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import inference
from benchmarks.measuring import Report, alternate, network_module, parser, reason
from benchmarks.pictures import write_picture
from data.images.decode import decode_rgb
from jobs.scoring import open_scoring
from model.frozen.load import NetworkLoader
from model.registry import NetworkBuilder
from model.sharing.files import describe, to_onnx
from utils.config import load_config
from utils.config.inference import InferenceConfig
from utils.config.sections import ModelConfig
from utils.contract import InputContract
from utils.rank_correlation import spearman
from utils.training.precision import pick_device

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SIZE = (112, 112)
WRITTEN = 1024
"""Different files; more names are links to them."""


class ReleasedFolder(Dataset):
    """Walk a folder; open, resize and normalise one image after the other, as the released code does."""

    def __init__(self, folder: Path):
        self.paths = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
        self.transform = transforms.Compose(
            [transforms.Resize(112), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, str]:
        return self.transform(Image.open(self.paths[row]).convert("RGB")), self.paths[row]


class Released:
    """The loop of the released code: batches of 128, no workers, contiguous fp32."""

    def __init__(self, student: nn.Module, folder: Path, device: torch.device):
        self.student, self.folder, self.device = student.to(device).eval(), folder, device
        self.scores: dict[str, np.ndarray] = {}

    def __call__(self) -> int:
        """Score the folder."""
        return self.score(tf32=True)

    @torch.no_grad()
    def score(self, tf32: bool) -> int:
        """Score the folder, on CUDA with or without TF32 convolutions; a frozen network has switched them off."""
        self.scores = {}
        before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, tf32
        for images, paths in DataLoader(ReleasedFolder(self.folder / "faces"), batch_size=128):
            _, quality_B = self.student(images.to(self.device))
            self.scores.update(zip(paths, quality_B.cpu().numpy(), strict=True))
        torch.backends.cudnn.allow_tf32 = before
        with open(self.folder / "released.pkl", "wb") as stream:
            pickle.dump(self.scores, stream)
        return len(self.scores)


class Ours:
    """inference.py, with the weights loaded once."""

    def __init__(self, folder: Path, device: str, *overrides: str):
        values = [f"base.device={device}", f"dataset.loc={folder / 'faces'}", "base.verbose=0", *overrides]
        self.cfg = load_config(InferenceConfig, CONFIGS / "inference_config.yaml", values)
        self.device = pick_device(device)
        spec = inference.described(self.cfg, str(CONFIGS / "inference_config.yaml")).scorer()
        self.scorer = NetworkLoader(NetworkBuilder(), self.device).load(spec)

    def __call__(self) -> int:
        """Score the folder."""
        with open_scoring(self.cfg, self.scorer) as run:
            session = run.images.measure_left(lambda crops, rows: self.scorer.qualities(crops))
            run.conclude(session)
        return session.images

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """Read the scores of the last call back."""
        with open(Path(self.cfg.base.save_path) / "quality-scores.pkl", "rb") as stream:
            return pickle.load(stream)


def write_inputs(folder: Path, options: argparse.Namespace) -> nn.Module:
    """Write crops, weights and configuration; return the student."""
    rng = np.random.default_rng(0)
    paths = [folder / f"faces/{i // 100:04d}/{i % 100:02d}.jpg" for i in range(options.images)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < WRITTEN:
            write_picture(path, SIZE, rng)
        else:
            os.link(paths[i % WRITTEN], path)
    return write_model(folder, options.network)[1]


def write_model(folder: Path, network: str) -> tuple[ModelConfig, nn.Module]:
    """Write model.yaml and student.pth of a student with random weights; return it with its configuration."""
    model = yaml.safe_load((CONFIGS / "model_config.yaml").read_text())
    model["features"] = {"module": network_module(network), "weights": None}
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    model_cfg = load_config(ModelConfig, folder / "model.yaml")
    torch.manual_seed(0)
    student = NetworkBuilder(allow_random_init=True).student(model_cfg).eval()
    torch.save(student.state_dict(), folder / "student.pth")
    return model_cfg, student


def write_onnx(folder: Path, student: nn.Module) -> None:
    """Write the file that export.py writes."""
    model_cfg = load_config(ModelConfig, folder / "model.yaml")
    contract = InputContract.from_transform(model_cfg.transform, model_cfg.channels)
    record = describe(model_cfg, contract, method="aikd", weights_sha256="")
    (folder / "student.onnx").write_bytes(to_onnx(student, contract, record))


def require_onnx(device: str) -> None:
    """Raise RuntimeError where onnxruntime would compute on another device: exporting takes a while."""
    import onnxruntime

    if device != "cpu" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeError("onnxruntime has no CUDA here, it would compute on the CPU")


def autocast_only() -> contextlib.AbstractContextManager:
    """Load networks as if none could be put into bf16 itself."""
    return mock.patch("model.frozen.network.in_bfloat16", return_value=None)


def contestants(folder: Path, student: nn.Module, options: argparse.Namespace, report: Report) -> dict[str, Ours]:
    """Return ours and the variants that work here, each having scored the folder once; name those that do not."""
    plain = [f"model.config={folder / 'model.yaml'}", f"model.weight={folder / 'student.pth'}"]
    batch = [] if options.batch is None else [f"dataloader.params.batch_size={options.batch}"]
    half = [*plain, "base.precision=bf16"]
    overrides = {"ours": plain, "bf16": half, "autocast": half, "compiled": plain}
    overrides["onnx"] = [f"model.weight={folder / 'student.onnx'}"]
    found = {"ours": Ours(folder, options.device, f"base.save_path={folder / 'out/ours'}", *plain, *batch)}
    for name in options.extra:
        try:
            if name == "onnx":
                require_onnx(options.device)
                write_onnx(folder, student)
            place = f"base.save_path={folder / 'out' / name}"
            with autocast_only() if name == "autocast" else contextlib.nullcontext():
                variant = Ours(folder, options.device, place, *overrides[name], *batch)
            if name == "compiled":
                variant.scorer.network.compile()
            variant()
            found[f"ours, {name}"] = variant
        except Exception as error:  # whatever an optional package or the compiler's tools raise
            report.add(f"ours, {name}", f"does not work here: {reason(error)}")
    return found


def report_differences(report: Report, released: Released, variants: dict[str, Ours]) -> None:
    """Add how far each variant's scores are from the released loop's."""
    if released.device.type == "cuda":
        released.score(tf32=False)
    wanted = np.array([released.scores[path] for path in sorted(released.scores)])
    report.add("standard deviation of the scores", float(wanted.std()))
    for name, variant in variants.items():
        scores = variant.scores
        found = np.array([scores[path] for path in sorted(scores)])
        report.add(f"{name}: largest difference of a score", float(np.abs(found - wanted).max()))
        report.add(f"{name}: Spearman", f"{spearman(found, wanted):.6f}")


def main() -> None:
    """Measure and print."""
    options_of = parser(__doc__)
    options_of.add_argument("--device", default="cpu")
    options_of.add_argument("--network", default="iresnet100", help="iresnet18 ... iresnet200, compact, mobilefacenet")
    options_of.add_argument("--images", type=int, default=128)
    options_of.add_argument("--batch", type=int, help="batch size of ours; the configuration's without")
    options_of.add_argument(
        "--with", dest="extra", nargs="*", default=[], choices=("bf16", "autocast", "onnx", "compiled")
    )
    options = options_of.parse_args()
    logging.disable(logging.WARNING)
    report = Report("inference", options)
    device = pick_device(options.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        student = write_inputs(folder, options)
        variants = contestants(folder, copy.deepcopy(student), options, report)
        released = Released(student, folder, device)

        def decode() -> int:
            paths = sorted((folder / "faces").rglob("*.jpg"))
            for path in paths:
                decode_rgb(path.read_bytes())
            return len(paths)

        works = {"released": released, **variants, "decoding alone, one thread": decode}
        report.compare(alternate(works, options.rounds, device), "released")
        report_differences(report, released, variants)


if __name__ == "__main__":
    main()
