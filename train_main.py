"""Train AI-KD, a CosFace teacher or CR-FIQA: python train_main.py -c configs/train_config.yaml [key=value ...]."""

import contextlib
import copy
import logging
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from data.samples.sampler import Shard
from jobs.methods import METHODS, load_training
from jobs.training import Run
from model.frozen.describe import require_own_input
from model.registry import NetworkBuilder
from utils import cli, distributed
from utils.allowed import NOTHING_MORE, AllowedModules
from utils.config import beside, is_default, load_config
from utils.config.sections import ModelConfig
from utils.config.train import TrainConfig
from utils.contract import InputContract
from utils.errors import ConfigError, DataError, UserError
from utils.outside import signals
from utils.progress import progress
from utils.training import checkpoint, optim
from utils.training.clock import Clock
from utils.training.ema import WeightAverage
from utils.training.precision import Precision, pick_device, to_device
from utils.training.run_log import RunLog
from utils.training.schedule import Plan
from utils.training.seeding import seed_everything

logger = logging.getLogger("train")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration, check everything, train."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_training(command.config, command.overrides)
    model_cfg = load_config(ModelConfig, beside(cfg.model.config, command.config))
    device = pick_device(distributed.local_device(cfg.base.device))
    with distributed.process_group(device):
        verbose = cfg.base.verbose and distributed.is_main()
        logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(message)s", stream=sys.stderr)
        fit(build(cfg, model_cfg, device, command.allowed))
    return 0


def build(
    cfg: TrainConfig, model_cfg: ModelConfig, device: torch.device, allowed: AllowedModules = NOTHING_MORE
) -> Run:
    """Check inputs and weights and put the run together; nothing is written yet."""
    seed_everything(cfg.base.seed)
    images, processes = cfg.dataloader.train.params.batch_size, distributed.world_size()
    if images < 2 * processes:
        raise ConfigError(
            f"dataloader.train.params.batch_size: {images} images per step for {processes} "
            f"{'process' if processes == 1 else 'processes'}; each needs two, BatchNorm cannot train on one"
        )
    contract = InputContract.from_transform(model_cfg.transform, model_cfg.channels)
    accepted = "dataset.accept_unusual" if cfg.dataset.accept_unusual else None
    remarks = require_own_input(model_cfg, contract, accepted)
    shard = Shard(distributed.rank(), distributed.world_size())
    builder, method = NetworkBuilder(allowed, cfg.base.allow_random_init), METHODS[cfg.base.method]
    objective = method.objective.from_config(cfg, model_cfg, builder, contract)
    objective.notes += remarks
    data = method.data(cfg, shard)
    objective.attach(data)
    objective.to(device).to(memory_format=torch.channels_last)
    part = optim.partition(objective.parts(), objective, cfg.optimizer)
    optimizer = optim.build_optimizer(cfg.optimizer, part.groups)
    optim.check_partition(objective, part.trained)
    plan = Plan.make(cfg.base, data.steps_per_epoch)
    inputs = {**data.facts, "steps_per_epoch": data.steps_per_epoch}
    settings = {**cfg.model_dump(mode="json"), "model_config": model_cfg.model_dump(mode="json"), "inputs": inputs}
    return Run(
        cfg=cfg,
        contract=contract,
        data=data,
        objective=objective,
        part=part,
        optimizer=optimizer,
        ema=WeightAverage(objective.student, cfg.ema.alpha),
        precision=Precision(device, cfg.base, cfg.grad_scaler, plan.pretrain_end),
        plan=plan,
        folder=checkpoint.RunFolder(cfg, settings),
    )


def fit(run: Run) -> None:
    """Train from the resume point, or from the start, to the last step."""
    with run.folder.alone() if distributed.is_main() else contextlib.nullcontext():
        begin(run)
        run.objective.before_first_step(run)
        with signals.waiting(), run.folder.watched():
            take_steps(run)
            if run.step < run.plan.last:
                raise signals.Terminated(f"step {run.step} of {run.plan.last} is in {run.folder.resume_path}")
            finish(run)


def take_steps(run: Run) -> None:
    """Take the steps that are left; after SIGTERM, end behind one, its resume point written."""
    cfg, device = run.cfg, run.precision.device
    optim.set_train_mode(run.objective.student, cfg.optimizer, run.part.slice_ids)
    model = distributed.wrap(run.objective, device)
    clock = Clock()
    with progress(total=run.plan.last, initial=run.step, unit="step", disable=not run.talks) as bar:
        for batch in run.data.batches_from(run.step):
            if run.step >= run.plan.last:
                break
            clock.data_ready()
            optim.set_lr(run.optimizer, run.plan.lr_factor(run.step, cfg.scheduler))
            with run.precision.autocast():
                terms = distributed.balance(model(to_device(batch, device)), len(batch.row))
            weighted = (weight * term for weight, term in zip(run.objective.factors, terms, strict=True))
            loss = cast(Tensor, sum(weighted))
            norm = run.precision.backward_and_step(loss, run.optimizer, run.part.clipped, cfg.optimizer.max_grad_norm)
            run.step += 1
            clock.step_done(len(batch.row) * distributed.world_size())
            bar.update()
            if cfg.ema.every == "step":
                run.ema.update(run.objective.student)
            if run.step % cfg.base.log_every == 0 or run.step == run.plan.last:
                log_step(run, terms, norm, clock, bar)
            stopping = stops(run)
            if run.plan.validates_after(run.step):
                check_finite(run, terms)
                validate_and_save(run)
                clock.skip()
            elif stopping or run.step % cfg.base.save_every == 0:
                check_finite(run, terms)
                save_resume(run)
            if stopping:
                break


def stops(run: Run) -> bool:
    """Tell whether SIGTERM ends the run here; several processes agree where they wait for each other anyway."""
    if distributed.world_size() > 1 and run.step % run.cfg.base.log_every:
        return False
    return distributed.total(signals.asked()) > 0


def begin(run: Run) -> None:
    """Open the output folder; restore an earlier state or start anew; say what will be done."""
    cfg = run.cfg
    state = run.folder.open()
    if distributed.total(state is not None) not in (0, distributed.world_size()):
        raise DataError(f"{run.folder.path}: the processes find different runs there; all must share one folder")
    if state is None and distributed.is_main() and run.folder.start():
        place = f"{run.folder.path}, which stays in {run.folder.previous}"
        logger.info(f"replaces the finished run in {place} until this one has weights")
    distributed.barrier()
    if state is not None:
        run.restore(state)
    if not distributed.is_main():  # the same dropout in every part of a batch would be less of it
        seed_everything(cfg.base.seed + 1_000_003 * distributed.rank() + run.step)
    if distributed.is_main():
        run.log = RunLog(run.folder.path, state["log"] if state else 0)
        run.wandb_id = run.log.use_wandb(cfg.wandb, run.folder.settings, run.wandb_id)
    trained = sum(p.numel() for p in run.objective.student.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in run.objective.student.parameters())
    for line in (
        *run.data.report,
        *run.objective.notes,
        f"trains {trained / 1e6:.2f} M of {everything / 1e6:.2f} M student parameters, {run.precision.name} "
        f"on {run.precision.device}",
        *ignored(cfg, run.precision),
        f"{run.plan.last} steps of {cfg.dataloader.train.params.batch_size}"
        + (f", goes on from step {run.step}" if state else ""),
    ):
        logger.info(line)
    if cfg.base.compile:
        run.objective.compile_networks()


def ignored(cfg: TrainConfig, precision: Precision) -> list[str]:
    """Return one line for each setting that is accepted and has no effect here."""
    lines = []
    if cfg.base.amp and cfg.base.precision == "auto" and precision.device.type != "cuda":
        lines.append(f"base.amp: mixed precision acts on CUDA only; {precision.device} computes in fp32")
    if cfg.ema.params:
        lines.append("ema.params: without effect; SWALR is a learning-rate schedule, the average follows ema_alpha")
    if precision.name != "fp16" and cfg.grad_scaler.params:
        lines.append("grad_scaler.params: without effect; losses are scaled in fp16 only")
    idle = "ema.decay" if cfg.ema.every == "validation" else "ema.ema_alpha"
    if not is_default(cfg, idle):
        lines.append(f"{idle}: without effect with ema.every: {cfg.ema.every}")
    if cfg.dataloader.val.params.shuffle:
        lines.append("dataloader.val.params.shuffle: without effect; every validation has the same order")
    return lines


def log_step(run: Run, terms: Any, norm: Tensor, clock: "Clock", bar: Any) -> None:
    """Write one line of metrics; the only place, besides validation, where the device is waited for."""
    values = check_finite(run, terms)
    if run.log is None:
        return
    rate, data_share = clock.read()
    rates = {"lr": run.optimizer.param_groups[0]["lr"], "grad_norm": norm.item()}
    run.log.scalars(run.step, {**values, **rates, "img_per_s": rate, "data_share": data_share})
    bar.set_postfix({**{k: f"{v:.4f}" for k, v in values.items()}, "img/s": f"{rate:.0f}"}, refresh=False)


def check_finite(run: Run, terms: Any) -> dict[str, float]:
    """Return the loss terms; stop a run where one is no number before it overwrites good weights."""
    values = {name: term.item() for name, term in distributed.average(terms)._asdict().items()}
    require_sane(run, {f"{name} loss": value for name, value in values.items()})
    return values


def require_sane(run: Run, values: dict[str, float]) -> None:
    """Stop a run that has diverged, whose values are no numbers or beyond any that learns."""
    for name, value in values.items():
        if not (math.isfinite(value) and abs(value) <= run.objective.largest_loss):
            resume = run.folder.resume_path
            way_out = f"go on from {resume} or start anew" if resume.exists() else "start anew"
            raise UserError(f"step {run.step}: the {name} is {value:.4g}; lower the learning rate and {way_out}")


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """Measure the averaged student, the one that is saved, on the validation images."""
    device, values = run.precision.device, defaultdict(list)
    for batch in run.data.validation_batches():
        if not len(batch.row):  # fewer images than processes
            continue
        with run.precision.autocast():
            measured = run.objective.measure(run.ema.network, to_device(batch, device))
        for name, value_B in {"row": batch.row, **measured}.items():
            values[name].append(value_B)
    everything = distributed.gather({name: torch.cat(parts).cpu() for name, parts in values.items()})
    return run.objective.summarise(everything) if everything else {}


def validate_and_save(run: Run, scheduled: bool = True) -> None:
    """Update the average, validate it, save it, and write the resume point."""
    distributed.same_buffers(run.objective.student, run.ema.network)
    if run.cfg.ema.every == "validation":
        run.ema.update(run.objective.student)
    run.metrics = validate(run)
    known = {name: value for name, value in run.metrics.items() if name != "selection" and not math.isnan(value)}
    require_sane(run, {f"{name} of the validation": value for name, value in known.items()})
    selection = run.metrics.get("selection", math.nan)
    if not distributed.is_main():
        return
    run.written.scalars(run.step, {f"val/{name}": value for name, value in run.metrics.items()})
    facts = {"step": run.step, "metrics": _finite(run.metrics), **run.data.facts}
    state = run.objective.published(run.ema.network.state_dict())
    run.folder.save_weights("last", state, run.contract, facts)
    if selection < run.best or math.isinf(run.best):  # without a usable selection the latest is the best
        run.best = run.best if math.isnan(selection) else selection
        run.folder.save_weights("best", state, run.contract, facts)
    run.folder.drop_previous()
    if scheduled:
        run.folder.save_resume(run.state(finished=False))
    run.written.draw_curves(run.objective.terms._fields, at_most_every_s=60)


def save_resume(run: Run) -> None:
    """Write the resume point between validations."""
    distributed.same_buffers(run.objective.student, run.ema.network)
    if distributed.is_main():
        run.folder.save_resume(run.state(finished=False))


def finish(run: Run) -> None:
    """Validate and save at the end, on schedule or not, and mark the run as finished.

    A validation that the schedule does not know must not change what a longer run would compute: resume.pt
    keeps the state before it.
    """
    scheduled = run.plan.validates_after(run.step)
    if distributed.is_main():
        state = copy.deepcopy(run.state(finished=True))
        run.folder.save_resume({**state, "finished": scheduled})
    missing = distributed.is_main() and not run.folder.weights_path("last").exists()
    if not scheduled or distributed.total(missing):
        validate_and_save(run, scheduled=False)
    if distributed.is_main():
        run.folder.save_resume(state)
        run.written.draw_curves(run.objective.terms._fields)
        run.written.close()
    shown = ", ".join(f"{name} {value:.4f}" for name, value in run.metrics.items() if name != "selection")
    logger.info(f"finished at step {run.step}" + (f": {shown}" if shown else ""))
    logger.info(f"weights: {run.folder.weights_path('best')}, {run.folder.weights_path('last')}")


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


if __name__ == "__main__":
    sys.exit(cli.run(main, go_on="go on with base.resume=auto"))
