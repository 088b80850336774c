"""Seeds."""

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices); algorithms stay torch's defaults."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
