"""When things happen: learning rate, validation, end. All in optimiser steps."""

import math
from dataclasses import dataclass

from utils.config.train import SchedulerConfig, TrainBase


@dataclass(frozen=True)
class Plan:
    """Fix the steps of a run from its configuration and the length of an epoch.

    Steps are counted from 0; `planned` is epochs * steps_per_epoch, `last` the step to stop at.
    """

    steps_per_epoch: int
    planned: int
    last: int
    pretrain_end: int
    warmup_end: int
    validate_every: int

    @classmethod
    def make(cls, base: TrainBase, steps_per_epoch: int) -> "Plan":
        """Work the fractions of the configuration out into steps."""
        planned = base.epochs * steps_per_epoch
        return cls(
            steps_per_epoch=steps_per_epoch,
            planned=planned,
            last=min(planned, base.max_steps or planned),
            pretrain_end=round(base.pretrain * planned),
            warmup_end=round(base.warmup * base.pretrain * planned),
            validate_every=max(1, round(base.validate_every * steps_per_epoch)),
        )

    def validates_after(self, done: int) -> bool:
        """Tell whether a validation follows when `done` steps are finished."""
        return done >= self.pretrain_end and done % self.validate_every == 0

    def lr_factor(self, step: int, scheduler: SchedulerConfig) -> float:
        """Return the factor of step `step`: sin(pi/2 * (step + 1) / warmup_end), then 1, then drops.

        The released code starts at step 0 with a rate of 0; here the first step already learns.
        """
        if step < self.warmup_end:
            return math.sin(math.pi / 2 * (step + 1) / self.warmup_end)
        if scheduler.module.endswith("MultiStepLR"):
            passed = sum(step >= round(epoch * self.steps_per_epoch) for epoch in scheduler.milestones)
            return scheduler.gamma**passed
        return 1.0
