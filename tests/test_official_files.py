"""The three YAML files released with AI-KD, in their literal structure: accepted unchanged apart from their paths."""

import pytest
import torch

import inference
import train_main
from model.iresnet import iresnet18
from tests.helpers.images import write_image
from tests.helpers.training import write_faces
from utils.config import load_config
from utils.config.inference import InferenceConfig
from utils.config.sections import ModelConfig

TRAIN = """\
base:
  epochs: 1
  verbose: 1
  save_path: {folder}/run
  seed: 42069
  device: cuda:0
  amp: 1
  validate_every: 0.1
  pretrain: 0.3
  warmup: 0.5
dataset:
  image_location: {folder}/images
  quality_location: {folder}/labels.csv
  landms_location: {folder}/landmarks.csv
  misalign: 1
  val_percent: .01
dataloader:
  train:
    params:
      batch_size: 64
      shuffle: 1
      pin_memory: 1
      num_workers: 10
  val:
    params:
model:
  config: {folder}/model_config.yaml
ema:
  module: torch.optim.swa_utils.SWALR
  params:
    anneal_strategy: linear
    anneal_epochs: 1
    swa_lr: 0.05
  ema_alpha: 0.1
scheduler:
  module: torch.optim.lr_scheduler.LambdaLR
  params:
grad_scaler:
  module: torch.cuda.amp.GradScaler
  params:
    init_scale: 128
optimizer:
  module: torch.optim.SGD
  group_1:
    params: quality_head
    lr: 0.05
    weight_decay: 5.e-4
    momentum: 0.9
  group_2:
    params: feature_extractor
    lr: 0.05
    limit: 100
    momentum: 0.1
loss:
  quality:
    module: torch.nn.SmoothL1Loss
    params:
      beta: 0.5
  consistency:
    module: torch.nn.CosineEmbeddingLoss
    params:
wandb:
  use: 0
  project: ai-kd
"""
MODEL = """\
model:
  features:
    module: model.iresnet.{network}
    weights: {folder}/backbone.pth
    params:
  head:
    module: model.mlp.MLP
    params:
  wrapper:
    module: model.ai_kd.WrapperModel
    params:
  transform:
    trans_1:
      module: torchvision.transforms.Resize
      params:
        size: 112
    trans_2:
      module: torchvision.transforms.ToTensor
      params:
    trans_3:
      module: torchvision.transforms.Normalize
      params:
        mean: [0.5, 0.5, 0.5]
        std: [0.5, 0.5, 0.5]
"""
INFERENCE = """\
base:
  verbose: 1
  save_path: {folder}/scores
  seed: 42069
  device: cuda:0
dataset:
  loc: {folder}/crops
dataloader:
  params:
    batch_size: 128
model:
  config: {folder}/model_config.yaml
  weight: {folder}/run/aikd-last.pth
"""
FILES = {"train_config": TRAIN, "model_config": MODEL, "inference_config": INFERENCE}


def write_official(folder, network: str) -> None:
    for name, text in FILES.items():
        (folder / f"{name}.yaml").write_text(text.format(folder=folder, network=network))


def test_the_official_model_file_is_that_of_the_shipped_one(tmp_path):
    write_official(tmp_path, "iresnet100")
    official = load_config(ModelConfig, tmp_path / "model_config.yaml")
    assert official.features.module == "model.iresnet.iresnet100" and official.features.params == {}
    bare = tmp_path / "bare.yaml"
    lines = (tmp_path / "model_config.yaml").read_text().splitlines()[1:]
    bare.write_text("\n".join(line[2:] for line in lines))
    assert load_config(ModelConfig, bare) == official


@pytest.mark.parametrize("override", ["dataloader.params=null", "dataloader.params="])
def test_parameters_without_a_value_are_none(tmp_path, override):
    write_official(tmp_path, "iresnet100")
    cfg = load_config(InferenceConfig, tmp_path / "inference_config.yaml", [override])
    assert cfg.dataloader.params == InferenceConfig.model_fields["dataloader"].default.params


def test_the_official_files_train_and_score(tmp_path, caplog):
    """IResNet-18 stands in for IResNet-100, and what a CPU and nine images need is given on the command line."""
    caplog.set_level("INFO")
    write_official(tmp_path, "iresnet18")
    write_faces(tmp_path, 9)
    torch.manual_seed(0)
    torch.save(iresnet18().state_dict(), tmp_path / "backbone.pth")
    small = ["base.device=cpu", "base.max_steps=1", "dataset.val_percent=0.2", "base.verbose=0"]
    small += ["dataloader.train.params={batch_size: 4, num_workers: 0}", "optimizer.group_2.limit=90"]
    assert train_main.main(["-c", str(tmp_path / "train_config.yaml"), *small]) == 0
    for line in ("base.amp: mixed precision acts on CUDA only", "ema.params: without effect", "grad_scaler.params"):
        assert line in caplog.text
    saved = torch.load(tmp_path / "run/aikd-last.pth", weights_only=True)
    assert "feature_extractor.layer3.1.bn3.bias" in saved and saved["quality_head.l2.weight"].shape == (1, 1024)
    rng = torch.Generator().manual_seed(0)
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / "crops" / name, torch.randint(0, 256, (112, 112, 3), generator=rng).byte().numpy())
    assert inference.main(["-c", str(tmp_path / "inference_config.yaml"), "base.device=cpu", "base.verbose=0"]) == 0
    rows = (tmp_path / "scores/quality-scores.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["path", "a.jpg", "b.jpg"]
