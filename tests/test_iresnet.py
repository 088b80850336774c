"""IResNet is the published network: keys, shapes, order, arithmetic."""

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model import iresnet
from model.compact import CompactNet
from model.mobilefacenet import MobileFaceNet
from tests.helpers.networks import count_macs

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "golden_state_dicts.json.gz").read_bytes()))


def built(depth: int, **params) -> nn.Module:
    torch.manual_seed(0)
    return getattr(iresnet, f"iresnet{depth}")(**params)


@pytest.mark.parametrize("depth", [18, 34, 50, 100])
def test_keys_shapes_and_order_are_the_published_ones(depth):
    with torch.device("meta"):
        state = built(depth).state_dict()
    assert [(key, list(value.shape)) for key, value in state.items()] == list(GOLDEN[f"iresnet{depth}"].items())


def test_iresnet200_has_its_blocks():
    with torch.device("meta"):
        network = built(200)
    assert [len(getattr(network, f"layer{i}")) for i in (1, 2, 3, 4)] == [6, 26, 60, 6]


def test_iresnet100_size_and_its_last_hundred_tensors():
    with torch.device("meta"):
        parameters = list(built(100).named_parameters())
    assert len(parameters) == 463
    assert sum(p.numel() for _, p in parameters) == 65_156_160
    assert parameters[-100][0] == "layer3.22.bn3.bias"
    assert sum(p.numel() for _, p in parameters[-100:]) == 34_236_416


def test_features_weight_is_one_without_gradient_unless_asked_for():
    fixed, trainable = built(18), built(18, features_grad=True)
    assert torch.equal(fixed.features.weight, torch.ones(512))
    assert [name for name, p in fixed.named_parameters() if not p.requires_grad] == ["features.weight"]
    assert all(p.requires_grad for p in trainable.parameters())


def by_the_definition(state: dict, x: torch.Tensor) -> torch.Tensor:
    """Compute IResNet-18 in eval mode with functionals only, written from the definition of its blocks."""

    def norm(x, key):
        mean, var = state[f"{key}.running_mean"], state[f"{key}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{key}.weight"], state[f"{key}.bias"], False, 0.0, 1e-5)

    x = F.prelu(norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"), state["prelu.weight"])
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            key, stride, shortcut = f"layer{stage}.{block}", 1, x
            if block == 0:
                stride = 2
                shortcut = norm(F.conv2d(x, state[f"{key}.downsample.0.weight"], stride=2), f"{key}.downsample.1")
            y = norm(F.conv2d(norm(x, f"{key}.bn1"), state[f"{key}.conv1.weight"], padding=1), f"{key}.bn2")
            y = F.prelu(y, state[f"{key}.prelu.weight"])
            y = F.conv2d(y, state[f"{key}.conv2.weight"], stride=stride, padding=1)
            x = norm(y, f"{key}.bn3") + shortcut
    x = F.linear(norm(x, "bn2").flatten(1), state["fc.weight"], state["fc.bias"])
    return norm(x, "features")


def test_forward_is_the_published_definition():
    network = built(18).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # no default value may hide a missing or misplaced layer
        for name, value in network.state_dict().items():
            if "running_var" in name or (value.dim() == 1 and "weight" in name):
                value.uniform_(0.5, 1.5, generator=generator)
            elif "running_mean" in name or name.endswith("bias"):
                value.uniform_(-0.5, 0.5, generator=generator)
        x = torch.rand(2, 3, 112, 112, generator=generator) * 2 - 1
        torch.testing.assert_close(network(x), by_the_definition(network.state_dict(), x), rtol=1e-4, atol=1e-4)


def test_random_iresnet100_is_finite_and_of_order_one_in_eval_mode():
    network = built(100).eval()
    with torch.no_grad():
        x = torch.rand(1, 3, 112, 112) * 2 - 1
        embedding = network(x)
        assert torch.isfinite(embedding).all()
        assert 0.1 < embedding.std() < 100
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.isfinite(network(x)).all()


def test_convolutions_start_from_kaiming_fan_in():
    weight = built(18).layer4[1].conv2.weight
    expected = math.sqrt(2 / (1 + 0.25**2) / (512 * 9))
    assert weight.std().item() == pytest.approx(expected, rel=0.01)


def test_autocast_reaches_the_whole_trunk():
    """Defect 4 of the released code: an inner autocast(False) kept the trunk in float32."""
    network = built(18).eval()
    dtypes = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, out, name=name: dtypes.__setitem__(name, out.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(1, 3, 112, 112))
    assert len(dtypes) == 21  # stem, 8 blocks of 2, 4 shortcuts
    assert set(dtypes.values()) == {torch.bfloat16}


@pytest.mark.parametrize("factory", [iresnet.iresnet18, CompactNet, MobileFaceNet])
def test_dropout_sits_right_before_the_last_linear(factory):
    network = factory(dropout=0.5).train()
    seen = {}
    network.dropout.register_forward_hook(lambda m, inputs, out: seen.update(after=out.detach().clone()))
    network.fc.register_forward_hook(lambda m, inputs, out: seen.update(fc=inputs[0].detach().clone()))
    torch.manual_seed(0)
    network(torch.rand(2, 3, 112, 112))
    assert torch.equal(seen["after"], seen["fc"])
    assert 0.3 < (seen["after"] == 0).float().mean() < 0.8


def test_compact_network_is_ten_times_cheaper_than_iresnet18():
    large, small = count_macs(built(18)), count_macs(CompactNet())
    assert large == 2_609_954_816
    assert small == 35_875_840
    assert count_macs(MobileFaceNet()) * 10 < large


def test_small_networks_give_embeddings_and_gradients():
    for network in (CompactNet(), CompactNet(num_features=32, width=8, blocks=2), MobileFaceNet(num_features=64)):
        network.to(memory_format=torch.channels_last).train()
        embedding = network(torch.rand(2, 3, 112, 112).to(memory_format=torch.channels_last))
        assert embedding.shape == (2, network.fc.out_features)
        embedding.square().sum().backward()
        trained = [p for p in network.parameters() if p.requires_grad]
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


def test_mobilefacenet_has_about_a_million_parameters():
    assert sum(p.numel() for p in MobileFaceNet().parameters()) == 1_003_136
