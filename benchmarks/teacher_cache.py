"""Gain of the teacher cache: AI-KD training steps with and without it, alternating, on one core.

    python -m benchmarks.teacher_cache [--module model.compact.CompactNet] [--teacher MODULE] [--batch 32] [--steps 4]
                                       [--rounds 5] [--limit N]

Renders faces, starts two runs of train_main.py from the same random weights (without --teacher, student and teacher are
one network, and `--limit` tensors of the student are trained), and takes the same steps in both, reading the files
included. Times are processor time, which other programs on the machine disturb less. Prints images per second of both,
the median of the ratios, the cost of filling the cache, and how far the losses of a step are apart: at the first step,
where the weights are equal, and at most.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

import train_main
from data.sources.folder import list_folder
from data.tables.scores import write_scores_csv
from jobs.methods import load_training
from model.registry import NetworkBuilder
from synthetic.population import Task, render_population
from utils.config import load_config
from utils.config.sections import ModelConfig, ModuleSpec
from utils.config.synthetic import PopulationConfig
from utils.training.optim import set_lr, set_train_mode
from utils.training.precision import to_device


def write_inputs(folder: Path, options: argparse.Namespace, images: int) -> None:
    """Render faces, label them by chance, and write weights and the two YAML files."""
    population = PopulationConfig(identities=max(2, images // 16), images=16, pairs=0)
    render_population(Task("train", 0, 160, population), folder / "faces", 1)
    names = list_folder(folder / "faces").names
    torch.manual_seed(0)
    write_scores_csv(folder / "labels.csv", names, torch.rand(len(names)).numpy())
    networks = {}
    for role, module in (("features", options.module), ("teacher", options.teacher)):
        if module is not None:
            torch.save(NetworkBuilder().backbone(ModuleSpec(module=module)).state_dict(), folder / f"{role}.pth")
            networks[role] = {"module": module, "weights": str(folder / f"{role}.pth")}
    rates = {"lr": 1e-3, "momentum": 0.9}
    groups = [{"params": "quality_head"}, {"params": "feature_extractor", "limit": options.limit}]
    groups += [{"params": "adapter"}] if options.teacher else []
    config = {
        "base": {"device": "cpu", "amp": 0, "save_path": str(folder / "run"), "epochs": 1000, "verbose": 0},
        "dataset": {
            "image_location": str(folder / "faces"),
            "landms_location": str(folder / "faces/landmarks.csv"),
            "quality_location": str(folder / "labels.csv"),
            "val_percent": 0,
            "perturbation": {"radius_px": 6, "unit": "template"},
        },
        "dataloader": {"train": {"params": {"batch_size": options.batch, "shuffle": 1}}},
        "model": {"config": str(folder / "model.yaml")},
        "optimizer": {f"group_{i}": {**group, **rates} for i, group in enumerate(groups, 1)},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(networks))
    (folder / "train.yaml").write_text(yaml.safe_dump(config))


def build(folder: Path, *overrides: str) -> train_main.Run:
    """Build a run as train_main.py does."""
    cfg = load_training(folder / "train.yaml", overrides)
    run = train_main.build(cfg, load_config(ModelConfig, cfg.model.config), torch.device("cpu"))
    set_train_mode(run.objective.student, cfg.optimizer, run.part.slice_ids)
    return run


def steps(run: train_main.Run) -> Iterator[Any]:
    """Take one training step after another, as train_main.fit does, and yield the loss terms of each."""
    for batch in run.data.batches_from(0):
        set_lr(run.optimizer, run.plan.lr_factor(run.step, run.cfg.scheduler))
        terms = run.objective(to_device(batch, run.precision.device))
        limit = run.cfg.optimizer.max_grad_norm
        run.precision.backward_and_step(sum(terms), run.optimizer, run.part.clipped, limit)
        run.step += 1
        yield terms


def timed(iterator: Iterator[Any], count: int) -> tuple[float, torch.Tensor]:
    """Return the processor time of `count` steps and their losses (count, 2)."""
    start = time.process_time()
    losses = [torch.stack([term.detach() for term in next(iterator)]) for _ in range(count)]
    return time.process_time() - start, torch.stack(losses)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default="model.compact.CompactNet", help="the student")
    parser.add_argument("--teacher", help="a network of its own for the teacher")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="steps of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, help="tensors of the student to train; all when not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = max(32, 2 * options.batch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, options, images)
        live, cached = build(folder), build(folder, f"model.teacher_cache={folder / 'cache'}")
        start = time.process_time()
        cached.objective.before_first_step(cached)
        filling = len(cached.data.cache.index) / (time.process_time() - start)
        both = steps(live), steps(cached)
        rounds = [[timed(iterator, options.steps) for iterator in both] for _ in range(options.rounds + 1)]
    differences = torch.cat([(a[1] - b[1]).abs().amax(1) for a, b in rounds])
    rounds = rounds[1:]  # the first one warms up
    rates = [options.batch * options.steps / statistics.median(one[i][0] for one in rounds) for i in (0, 1)]
    ratio = statistics.median(a[0] / b[0] for a, b in rounds)
    under = f" under {options.teacher}" if options.teacher else ""
    gain = f"{rates[0]:.1f} images/s without, {rates[1]:.1f} with, {ratio:.2f} times"
    print(f"{options.module}{under}, batch {options.batch}: {gain}")
    print(f"filling the cache: {filling:.1f} images/s, once")
    print(f"losses apart: {differences[0]:.1e} at step 1, at most {differences.max():.1e} in {len(differences)} steps")


if __name__ == "__main__":
    main()
