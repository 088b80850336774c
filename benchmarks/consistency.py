"""How far misalignment moves an embedding, and how consistency pulls beside quality.

python -m benchmarks.consistency -c configs/faces/aikd.yaml --allow-module mobilefacenet_y1
prints two tables for the student of a training configuration before its first step. The first: 1 - cos between the
teacher's embeddings of aligned and misaligned crop, for several misalignments. The second: norms of the gradients of
both terms by depth, and the cosine between them. `--weights FILE` asks a trained student instead. Nothing is written.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

import train_main
from data.samples.datasets import DistillationDataset
from jobs.methods import load_training
from jobs.training import Run
from model.ai_kd import WrapperModel
from model.frozen.network import normalise
from model.objectives.distillation import AIKDObjective
from utils.allowed import AllowedModules
from utils.config import load_config
from utils.config.loading import beside
from utils.config.sections import ModelConfig
from utils.config.train_aikd import StudentCropConfig
from utils.errors import ConfigError
from utils.training import optim
from utils.training.batches import DistillationBatch

MISALIGNMENTS = {
    "p = 3 source px": {"radius_px": 3},
    "p = 6 template px": {"radius_px": 6, "unit": "template"},
    "p = 8 template px": {"radius_px": 8, "unit": "template"},
    "p = 16 template px": {"radius_px": 16, "unit": "template"},
    "similarity": {"family": "similarity"},
    "box": {"family": "box"},
}
SLICES = 4


def batches(run: Run, cfg: StudentCropConfig, images: int, size: int) -> Iterator[DistillationBatch]:
    """Yield batches of the first images of the index, both crops."""
    dataset = DistillationDataset(run.data.train.dataset.index, run.cfg.base.seed, cfg, run.cfg.dataset)
    for start in range(0, min(images, len(dataset)), size):
        yield dataset.__getitems__([(0, row) for row in range(start, min(start + size, images, len(dataset)))])


def networks(run: Run) -> tuple[AIKDObjective, WrapperModel]:
    """Return objective and student of a run, which must be one of AI-KD."""
    if not isinstance(run.objective, AIKDObjective):
        raise ConfigError(f"base.method: {run.cfg.base.method} has no consistency; name a configuration of aikd")
    return run.objective, run.objective.student


@torch.no_grad()
def distances(objective: AIKDObjective, found: Iterator[DistillationBatch]) -> Tensor:
    """Return 1 - cos(teacher of the misaligned crop, teacher of the aligned one), (N,)."""
    parts = []
    for batch in found:
        one, other = (objective.teacher(normalise(c, objective.contract)) for c in (batch.misaligned, batch.aligned))
        parts.append(1 - functional.cosine_similarity(one.float(), other.float()))
    return torch.cat(parts)


def gradients(run: Run, found: Iterator[DistillationBatch]) -> tuple[list[list[Tensor]], list[str]]:
    """Return the summed gradients of consistency and quality, a vector for each slice of depth, and their names."""
    objective, student = networks(run)
    optim.set_train_mode(student, run.cfg.optimizer, run.part.slice_ids)
    backbone = list(student.feature_extractor.parameters())
    cuts = [len(backbone) * part // SLICES for part in range(SLICES + 1)]
    slices = [backbone[a:b] for a, b in pairwise(cuts)]
    slices.append(list(student.quality_head.parameters()))
    names = [f"backbone, tensors {a + 1} to {b}" for a, b in pairwise(cuts)] + ["quality head"]
    sums = [[torch.zeros(sum(p.numel() for p in part)) for part in slices] for _ in range(2)]
    flat = [parameter for part in slices for parameter in part]
    for parameter in flat:
        parameter.requires_grad_(True)
    for batch in found:
        terms = objective(batch)
        for which, term in enumerate((terms.consistency, terms.quality)):
            grads = iter(torch.autograd.grad(term, flat, retain_graph=which == 0, allow_unused=True))
            for total, part in zip(sums[which], slices, strict=True):
                pieces = [torch.zeros_like(p) if (g := next(grads)) is None else g for p in part]
                total += torch.cat([piece.reshape(-1) for piece in pieces])
    return sums, names


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("--allow-module", action="append", default=[])
    parser.add_argument("--weights", help="weights of a trained student")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_intermixed_args(argv)
    cfg = load_training(args.config, [*args.overrides, "model.teacher_cache=null"])
    model_cfg = load_config(ModelConfig, beside(cfg.model.config, args.config))
    run = train_main.build(cfg, model_cfg, torch.device("cpu"), AllowedModules(tuple(args.allow_module)))
    objective, student = networks(run)
    if args.weights:
        student.load_state_dict(torch.load(args.weights, weights_only=True))
    size = cfg.dataloader.train.params.batch_size
    print("| misalignment | mean 1 - cos | 95th percentile |\n|---|---|---|")
    for name, keys in MISALIGNMENTS.items():
        moved = distances(objective, batches(run, StudentCropConfig.model_validate(keys), args.images, size))
        print(f"| {name} | {moved.mean():.3f} | {moved.quantile(0.95):.3f} |")
    sums, names = gradients(run, batches(run, run.cfg.dataset.perturbation, args.images, size))
    print("\n| part | consistency | quality | cosine |\n|---|---|---|---|")
    for name, *pair in zip(names, *sums, strict=True):
        cosine = functional.cosine_similarity(*pair, dim=0)
        print(f"| {name} | {pair[0].norm():.3f} | {pair[1].norm():.3f} | {cosine:+.2f} |")


if __name__ == "__main__":
    main()
