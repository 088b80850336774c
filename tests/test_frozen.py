"""Frozen networks: cut in two, shared by methods, in the precision that was asked for."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from model.ai_kd import WrapperModel
from model.compact import CompactNet
from model.frozen.cut import tail
from model.frozen.describe import Described
from model.frozen.load import NetworkLoader, TorchSpec
from model.frozen.network import TorchNetwork
from model.frozen.shared import SharedLoader
from model.iresnet import IResNet
from model.mlp import MLP
from model.mobilefacenet import MobileFaceNet
from model.registry import NetworkBuilder
from tests.helpers.tiny_networks import Convolutional, Shortcut, TinyNet, randomised
from utils.config.sections import ModelConfig, ModuleSpec, NetworkConfig, NetworkKeys
from utils.contract import InputContract
from utils.errors import ConfigError, WeightsError

CPU = torch.device("cpu")
TINY = {"num_features": 8, "width": 4}


def crops(count: int = 3, size: int = 112) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)


class Scaled(nn.Module):
    """Use a parameter of its own before and behind the last layer, and return two outputs."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.body(x * self.scale).mean((2, 3))
        return self.fc(x) * (self.scale + 1), x


class Undecided(TinyNet):
    """Let the values decide the way: no trace can follow."""

    def forward(self, x):
        x = super().forward(x)
        return x if x.sum() > 0 else -x


class Twice(TinyNet):
    """Run the last layer twice."""

    def forward(self, x):
        x = self.trunk(x)
        return self.fc(x) + self.fc(2 * x)


@pytest.mark.parametrize(
    ("network", "site", "size"),
    [
        (CompactNet(num_features=8, width=4), "fc", 112),
        (MobileFaceNet(num_features=8), "dropout", 112),
        (IResNet((1, 1, 1, 1), num_features=8), "bn2", 112),
        (IResNet((1, 1, 1, 1), num_features=8), "layer4", 112),  # a module of many, kept whole
        (Scaled(), "fc", 16),
    ],
)
def test_a_tail_goes_on_from_its_input_as_the_network_does(network, site, size):
    network = randomised(network)
    x, seen = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)), []
    handle = network.get_submodule(site).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        output = network(x)
        handle.remove()
        wanted = output[0] if isinstance(output, tuple) else output
        found = tail(network, site)(seen[0])
    assert torch.equal(found, wanted) and found.std() > 0


@pytest.mark.parametrize(
    ("network", "site"), [(Shortcut(), "drop"), (Undecided(), "fc"), (Twice(), "fc"), (TinyNet(), "features.nowhere")]
)
def test_a_network_that_cannot_be_cut_there_has_no_tail(network, site):
    assert tail(network, site) is None


def test_the_answer_to_one_batch_is_remembered_where_methods_share_a_network():
    network, calls = TorchNetwork(randomised(CompactNet(**TINY)), InputContract(), CPU), []
    network.module.fc.register_forward_hook(lambda *_: calls.append(1))
    first, second = crops(3), crops(3)
    network.remembers = True
    answers = [network.embeddings(images) for images in (first, first, second, second, first)]
    assert len(calls) == 3 and all(np.array_equal(answer, answers[0]) for answer in answers)


def spec(weight, quality=False, **changes) -> TorchSpec:
    params = {**TINY, **changes.pop("params", {})}
    features = NetworkConfig(module=changes.pop("module", "CompactNet"), params=params, weights=None)
    head = ModuleSpec(module="MLP", params={"hidden_dim": 16})
    return TorchSpec(ModelConfig(features=features, head=head), str(weight), InputContract(), quality, **changes)


@pytest.fixture
def weights(tmp_path):
    """A student's weights and a copy of the file."""
    torch.manual_seed(1)
    student = WrapperModel(CompactNet(**TINY), MLP(8, 16))
    torch.save(student.state_dict(), tmp_path / "a.pth")
    shutil.copy(tmp_path / "a.pth", tmp_path / "copy.pth")
    torch.save(CompactNet(**TINY).state_dict(), tmp_path / "other.pth")
    return tmp_path


SAME = {
    "the full name": {"module": "model.compact.CompactNet"},
    "dropout": {"params": {"dropout": 0.4}},
    "training": {"params": {"features_grad": True}},
    "the head": {"quality": True},
}
OTHER = {
    "precision": {"precision": "bf16"},
    "folding": {"folded": True},
    "another parameter": {"params": {"blocks": 1}},
}


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_what_leaves_the_embedding_alone_is_shared(weights, name):
    specs = [spec(weights / "a.pth"), spec(weights / "copy.pth", **(SAME | OTHER)[name])]
    for order in (specs, specs[::-1]):
        loader = SharedLoader(NetworkBuilder(), CPU, order)
        networks = [loader.load(one) for one in order]
        assert (networks[0] is networks[1]) == (name in SAME)
    if name in SAME:
        alone = NetworkLoader(NetworkBuilder(), CPU).load(specs[0])
        assert np.array_equal(networks[0].embeddings(crops()), alone.embeddings(crops()))


def test_a_shared_network_has_what_each_method_needs(weights):
    head, dropout = spec(weights / "a.pth", quality=True), spec(weights / "a.pth", params={"dropout": 0.4})
    loader = SharedLoader(NetworkBuilder(), CPU, [spec(weights / "a.pth"), head, dropout, spec(weights / "other.pth")])
    network = loader.load(loader.specs[0])
    assert network is loader.load(head) is loader.load(dropout) is not loader.load(loader.specs[3])
    assert network.backbone.dropout.p == 0.4 and network.qualities(crops()).shape == (3,)
    assert len(loader.loaded) == 2


def test_two_dropouts_are_two_networks(weights):
    specs = [spec(weights / "a.pth", params={"dropout": rate}) for rate in (0.4, 0.2)]
    loader = SharedLoader(NetworkBuilder(), CPU, specs)
    assert [loader.load(one).backbone.dropout.p for one in specs] == [0.4, 0.2]


def test_bf16_on_a_cpu_is_the_network_itself(weights):
    loader = NetworkLoader(NetworkBuilder(), CPU)
    half, full = (loader.load(spec(weights / "a.pth", True, precision=kind)) for kind in ("bf16", "fp32"))
    assert (half.form, full.form) == ("bf16, the network itself", "fp32")
    kinds = {
        (type(one).__name__, tensor.dtype) for one in half.module.modules() for tensor in one.parameters(recurse=False)
    }
    assert ("Conv2d", torch.bfloat16) in kinds and ("BatchNorm2d", torch.float32) in kinds
    assert all(tensor.dtype == torch.float32 for tensor in half.module.quality_head.parameters())
    student = NetworkBuilder().trained_student(spec(weights / "a.pth").model, str(weights / "a.pth"))
    x = ((crops().permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cast = student.to(memory_format=torch.channels_last)(x)[1]
    np.testing.assert_allclose(half.qualities(crops()), cast.float().numpy(), rtol=0, atol=4e-3)
    assert 0 < np.abs(half.qualities(crops()) - full.qualities(crops())).max() < 0.1
    assert np.array_equal(half.embed(half.prepare(crops())).numpy(), half.embeddings(crops()))
    half.tap("features")
    assert half(crops()).taps["features"].dtype == torch.bfloat16


def test_a_network_that_mixes_number_formats_keeps_autocast():
    class Mixing(Convolutional):
        def forward(self, x):
            return super().forward(x.float())[0]

    mixing = TorchNetwork(Mixing(), InputContract(), CPU, "bf16")
    assert mixing.form == "bf16" and mixing.embeddings(crops()).shape == (3, 4)


def test_a_network_without_a_head_gives_no_quality():
    network = TorchNetwork(Convolutional(), InputContract(), CPU)
    assert network.embeddings(crops()).shape == (3, 4)
    with pytest.raises(WeightsError, match="Convolutional: gives no quality"):
        network.qualities(crops())


def test_an_onnx_file_is_looked_for_and_computes_in_fp32(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        Described(str(tmp_path / "none.onnx"), NetworkKeys()).scorer()
    (tmp_path / "some.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match="computes in fp32, not bf16"):
        Described(str(tmp_path / "some.onnx"), NetworkKeys(), precision="bf16").scorer()
