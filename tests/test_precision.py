"""base.precision, and the quality head, which computes in fp32 whatever the trunk does."""

import pytest
import torch

from model.ai_kd import WrapperModel
from model.mlp import MLP
from utils.config.train import ScalerConfig, TrainBase
from utils.errors import ConfigError
from utils.training.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "amp", "name"), [("auto", 1, "fp32"), ("fp32", 1, "fp32"), ("bf16", 0, "bf16")])
def test_precision_overrides_amp(precision, amp, name):
    found = Precision(CPU, TrainBase(save_path="x", amp=amp, precision=precision), ScalerConfig(), 10)
    assert found.name == name and not found.scaler.is_enabled()


def test_fp16_needs_cuda():
    with pytest.raises(ConfigError, match=r"base\.precision: fp16 needs a CUDA device, not cpu; use bf16 or fp32"):
        Precision(CPU, TrainBase(save_path="x", precision="fp16"), ScalerConfig(), 10)


def test_the_head_computes_in_fp32_under_autocast():
    torch.manual_seed(0)
    student = WrapperModel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8)), MLP(8, 16)).eval()
    images = torch.rand(600, 3, 2, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        embedding_BD, quality_B = student(images)
    assert embedding_BD.dtype == torch.bfloat16 and quality_B.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(quality_B, student.quality_head(embedding_BD.float()).flatten(), rtol=0, atol=0)
    rounded = quality_B.bfloat16()
    assert len(quality_B.unique()) > 590 > 450 > len(rounded.unique())
