"""Published networks: each file in its own layout gives the numbers of its layer facts, by one contract."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from model.frozen.describe import require_own_input
from model.published.mobile import UnitMobileFaceNet
from model.published.presets import PRESETS, find_preset, preset_list
from model.published.recognise import recognise
from model.registry import NetworkBuilder, build_head
from model.weights import LAYOUTS
from tests.helpers import published_layouts as layouts
from tests.helpers import reference_networks as reference
from tests.helpers.frozen import CROPS, network, network_input
from tests.helpers.images import write_crops
from tests.helpers.inference import infer, rows_of, write_setup
from utils.config.sections import ModelConfig, ModuleSpec, NetworkConfig
from utils.contract import InputContract, save_contract
from utils.errors import ConfigError, ContractError, WeightsError

OWN = [name for name, preset in PRESETS.items() if preset.module is not None]


def lived_in(module: nn.Module) -> nn.Module:
    """Give BatchNorms and PReLUs the values of a network that has seen something."""
    generator = torch.Generator().manual_seed(2)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(part, nn.Conv2d) and isinstance(module, UnitMobileFaceNet):  # no shortcut carries the signal
            nn.init.kaiming_normal_(part.weight, mode="fan_in", generator=generator)
        elif isinstance(part, nn.PReLU):
            part.weight.data.uniform_(0.1, 0.4, generator=generator)
    return module.eval()


def parts_of(name):
    """Return backbone and head of a preset, with random weights."""
    preset = find_preset(name)
    torch.manual_seed(7)
    backbone = lived_in(NetworkBuilder().backbone(ModuleSpec(module=preset.module, params=preset.params)))
    head = preset.head and build_head(preset.head, preset.head.params.get("in_dim", 512))
    return backbone, head


def assert_same_embeddings(found, wanted):
    """Compare within 1e-5 of each embedding's length; random weights make them up to 270 long."""
    far = np.linalg.norm(found - wanted.numpy(), axis=1) / wanted.norm(dim=1).numpy()
    assert found.shape == tuple(wanted.shape) and far.max() < 1e-5


def doubled(state):
    return {key: value.double() for key, value in state.items()}


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def published(folder, name, outer, more=None, wrapper=None):
    """Save a preset's file as it is published; return path, backbone's and head's state."""
    backbone, head = (part.state_dict() if part is not None else {} for part in parts_of(name))
    layout = next(one for one in LAYOUTS if one.name == PRESETS[name].layout)
    state = {**prefixed(backbone, outer + layout.backbone), **prefixed(head, outer + layout.head), **(more or {})}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, folder / f"{name}.pth")
    return folder / f"{name}.pth", backbone, head


@pytest.mark.parametrize("name", OWN)
def test_every_preset_is_recognised_by_its_keys_and_shapes(name):
    preset = PRESETS[name]
    layout = next(one for one in LAYOUTS if one.name == preset.layout)
    with torch.device("meta"):
        state = NetworkBuilder().backbone(ModuleSpec(module=preset.module, params=preset.params)).state_dict()
        head = build_head(preset.head, preset.head.params.get("in_dim", 512)).state_dict() if preset.head else {}
    file = {**prefixed(state, layout.backbone), **prefixed(head, layout.head)}
    assert recognise(file) == recognise(prefixed(file, "module.")) == name
    short = {key: tensor for key, tensor in file.items() if "num_batches" not in key}
    assert recognise(short) == name and recognise(dict(list(short.items())[1:])) is None
    key = next(iter(file))
    assert recognise({**file, key: torch.empty(9, 9, device="meta")}) is None


def test_a_published_mobilefacenet_scores_as_its_layers_say(tmp_path):
    path, backbone, head = published(tmp_path, "ediffiqa_t", "")
    found = network(path)
    embedding = reference.mobile(backbone, network_input())
    np.testing.assert_allclose(found.embeddings(CROPS), embedding.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.qualities(CROPS), reference.mlp(head, embedding).numpy(), atol=1e-5)
    assert "ediffiqa_t by its keys" in found.remark
    assert np.ptp(found.embeddings(CROPS), axis=0).max() > 1e-4


@pytest.mark.parametrize("name", ["ediffiqa_s", "cr_fiqa_s"])
def test_published_iresnets_with_a_head_score_as_their_layers_say(tmp_path, name):
    path, backbone, head = published(tmp_path, name, "")
    embedding = reference.iresnet(backbone, network_input())
    one_linear = name == "cr_fiqa_s"
    wanted = (embedding @ head["weight"].T + head["bias"])[:, 0] if one_linear else reference.mlp(head, embedding)
    found = network(path)
    np.testing.assert_allclose(found.qualities(CROPS), wanted.numpy(), rtol=1e-5, atol=1e-5)
    assert_same_embeddings(found.embeddings(CROPS), embedding)


def test_magface_scores_by_the_length_of_its_embedding_of_a_bgr_crop(tmp_path):
    classes = {"fc.weight": torch.zeros(512, 9)}
    path, backbone, _ = published(tmp_path, "magface_r18", "", classes, "state_dict")
    embedding = reference.iresnet(backbone, network_input(0, 1, "BGR"), eps=2e-5)
    found = network(path)
    np.testing.assert_allclose(found.qualities(CROPS), embedding.norm(dim=1).numpy(), rtol=1e-5)
    assert found.contract == InputContract(channels="BGR", mean=(0, 0, 0), std=(1, 1, 1))
    other = reference.iresnet(backbone, network_input(0, 1, "RGB"), eps=2e-5).norm(dim=1)
    assert (other - embedding.norm(dim=1)).abs().max() > 0.01, "the channel order matters here"
    config = ModelConfig(features=NetworkConfig(module="iresnet18", weights=None))
    assert np.array_equal(network(path, False, model=config).embeddings(CROPS), network(path, False).embeddings(CROPS))
    assert "magface_r18 by its keys: " in network(path, False, model=config).remark, "not the input the file names"
    spoken = config.model_copy(update={"channels": "RGB"})
    stated = ModelConfig.model_validate({**spoken.model_dump(), "channels": "RGB"})
    assert "warning" in (remark := network(path, False, model=stated).remark) and "magface_r18" in remark
    teacher = ModelConfig(features=NetworkConfig(module="CompactNet", weights=None), teacher=named(path))
    for trained in (teacher, ModelConfig(features=named(path))):
        with pytest.raises(ContractError, match="has the keys of magface_r18, which takes BGR, 112 px, mean 0, std 1;"):
            require_own_input(trained, InputContract())
        assert len(require_own_input(trained, InputContract(), "dataset.accept_unusual")) == 1
        assert require_own_input(trained, found.contract) == []


def named(path):
    return NetworkConfig(module="iresnet18", weights=str(path))


@pytest.mark.parametrize("name", ["arcface_r18", "magface_r18"])
def test_published_recognisers_embed_as_their_layers_say_in_double_precision(tmp_path, name):
    path, backbone, _ = published(tmp_path, name, "")
    magface = name.startswith("magface")
    x = network_input(0, 1, "BGR") if magface else network_input()
    wanted = reference.iresnet(doubled(backbone), x.double(), eps=2e-5 if magface else 1e-5)
    assert_same_embeddings(network(path, scores=False).embeddings(CROPS), wanted)


def test_adaface_embeds_as_its_layers_say(tmp_path):
    classes = {"head.kernel": torch.zeros(512, 9), "head.t": torch.zeros(1)}
    path, backbone, _ = published(tmp_path, "adaface_r18", "", classes, "state_dict")
    embedding = reference.adaface(backbone, network_input(channels="BGR"))
    found = network(path, scores=False)
    np.testing.assert_allclose(found.embeddings(CROPS), embedding.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        network(path, quality="length").qualities(CROPS), embedding.norm(dim=1).numpy(), rtol=1e-5
    )
    with pytest.raises(WeightsError, match="adaface_r18 is a recognition network without a quality"):
        network(path)


def test_sdd_fiqa_scores_as_its_layers_say(tmp_path):
    path, backbone, head = published(tmp_path, "sdd_fiqa", "module.")
    state = {**backbone, **prefixed(head, "quality.3.")}
    wanted = reference.sdd_fiqa(state, network_input()).numpy()
    np.testing.assert_allclose(network(path).qualities(CROPS), wanted, rtol=1e-5, atol=1e-5)
    assert np.ptp(wanted) > 1e-4


def test_a_preset_is_named_and_unknown_ones_are_refused(tmp_path, capsys):
    path, backbone, _ = published(tmp_path, "arcface_r18", "module.")
    assert network(path, False, preset="arcface_r18").contract == InputContract()
    magface = network(path, preset="magface_r18")
    wanted = reference.iresnet(backbone, network_input(0, 1, "BGR"), eps=2e-5).norm(dim=1)
    np.testing.assert_allclose(magface.qualities(CROPS), wanted.numpy(), rtol=1e-5)
    with pytest.raises(ConfigError, match="preset: 'magface' is not known; use one of aikd"):
        network(path, preset="magface")
    with pytest.raises(WeightsError, match=r"does not fit the model: .*; its keys are those of .* preset: arcface_r18"):
        network(path, False, model=ModelConfig(features=NetworkConfig(module="CompactNet", weights=None)))
    setup = write_setup(tmp_path)
    assert infer(setup, "model.preset=list") == 0
    assert capsys.readouterr().out == preset_list()
    assert preset_list().count("\n") == len(PRESETS) and "magface_r50       BGR, 112 px, mean 0, std 1" in preset_list()


def test_inference_scores_a_published_file_without_a_configuration(tmp_path):
    setup = write_setup(tmp_path)
    names = write_crops(setup / "faces", 3)
    path, _, _ = published(tmp_path, "magface_r18", "", {"fc.weight": torch.zeros(512, 9)}, "state_dict")
    assert infer(setup, "model.config=null", f"model.weight={path}") == 0
    found = {row["path"]: float(row["quality"]) for row in rows_of(setup / "out/quality-scores.csv")}
    assert len(found) == len(names) and min(found.values()) > 0 and len(set(found.values())) == 3
    request = json.loads((setup / "out/run.json").read_text())["request"]
    assert request["preprocessing"]["channels"] == "BGR" and request["network"]["reading"]["quality"] == "length"


# ---- transformers


@pytest.mark.parametrize(("name", "layout"), [
    ("transface_s", layouts.transface(512, 12)), ("transface_b", layouts.transface(512, 24)),
    ("transface_l", layouts.transface(768, 24)), ("swinface", layouts.swinface()),
])  # fmt: skip
def test_transformers_have_the_keys_and_shapes_of_the_published_files(name, layout):
    preset = PRESETS[name]
    with torch.device("meta"):
        state = NetworkBuilder().backbone(ModuleSpec(module=preset.module, params=preset.params)).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == layout


def test_transface_embeds_as_its_layers_say(tmp_path, monkeypatch):
    layout = layouts.transface(32, 2)
    small = replace(PRESETS["transface_s"], params={"width": 32, "depth": 2}, tensors=40)
    monkeypatch.setitem(PRESETS, "transface_s", small)
    torch.save(state := layouts.weights(layout), tmp_path / "model.pt")
    torch.save({"state_dict_backbone": state, "epoch": 3}, tmp_path / "checkpoint_gpu_0.pt")
    wanted = reference.transface(state, network_input())
    assert np.ptp(wanted.numpy(), axis=0).max() > 0.1
    for file, keys in (("model.pt", {}), ("checkpoint_gpu_0.pt", {"preset": "transface_s", "output": 0})):
        found = network(tmp_path / file, False, **keys)
        assert_same_embeddings(found.embeddings(CROPS), wanted)
        assert found.contract == InputContract()


def test_swinface_embeds_as_its_layers_say(tmp_path):
    state = layouts.weights(layouts.swinface())
    parts = {"backbone": state, "fam": {"nets.0.conv.convs.0.weight": torch.zeros(47, 192, 3, 3)}}
    parts |= {"tss": {"nets.0.feature.0.bias": torch.zeros(512)}, "om": {"output_fcs.0.bias": torch.zeros(2)}}
    file = {
        "epoch": 7,
        **{f"state_dict_{name}": part for name, part in parts.items()},
        "state_optimizer": {"state": {}},
    }
    torch.save(file, tmp_path / "checkpoint.pt")
    wanted = reference.swinface(state, network_input())
    assert np.ptp(wanted.numpy(), axis=0).max() > 0.1
    for keys in ({}, {"preset": "swinface"}, {"preset": "swinface", "part": "state_dict_backbone"}):
        assert_same_embeddings(network(tmp_path / "checkpoint.pt", False, **keys).embeddings(CROPS), wanted)
    with pytest.raises(ConfigError, match=r"output: 'Age' is none of model\.published\.swinface\.SwinFaceNet, which"):
        network(tmp_path / "checkpoint.pt", False, preset="swinface", output="Age")


def test_swinface_makes_the_offsets_and_masks_that_its_files_hold():
    params = {"width": 8, "depths": [2, 2, 2, 2], "heads": [1, 1, 1, 1]}
    made = NetworkBuilder().backbone(ModuleSpec(module="SwinFaceNet", params=params)).state_dict()
    state = layouts.weights(layouts.swinface(**params))
    constant = [key for key in state if key.endswith(("relative_position_index", "attn_mask"))]
    assert len(constant) == 11 and all(torch.equal(made[key], state[key]) for key in constant)


# ---- contracts


def test_stated_keys_come_first_and_must_agree_with_the_contract_of_the_file(tmp_path):
    path, backbone, _ = published(tmp_path, "arcface_r18", "")
    found = network(path, False, channels="BGR", mean=[0.1, 0.2, 0.3], std=0.7)
    assert found.contract == InputContract(channels="BGR", mean=(0.1, 0.2, 0.3), std=(0.7, 0.7, 0.7))
    x = network_input(np.array([0.3, 0.2, 0.1]), 0.7, "BGR")
    assert_same_embeddings(found.embeddings(CROPS), reference.iresnet(backbone, x))
    save_contract(InputContract(channels="BGR"), path)
    assert network(path, False, channels="BGR").contract.channels == "BGR"
    with pytest.raises(ContractError, match="channels = BGR, the configuration feeds channels = RGB"):
        network(path, False)
