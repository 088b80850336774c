"""Names in a YAML become networks; nothing but the listed ones and what the command line allows."""

import sys
from pathlib import Path

import pytest
import torch

from model.compact import CompactNet
from model.embedding_dim import embedding_dim
from model.iresnet import IResNet
from model.margins import ArcFaceHead
from model.mlp import MLP, LinearHead
from model.registry import BACKBONES, NetworkBuilder, build_head, build_margin
from tests.helpers.networks import TinyBackbone
from utils.allowed import AllowedModules
from utils.config.sections import ModelConfig, ModuleSpec, NetworkConfig
from utils.errors import ConfigError, WeightsError

BUILDER = NetworkBuilder()
RANDOM = NetworkBuilder(allow_random_init=True)
MINE = NetworkBuilder(AllowedModules(("my_pkg",)))
FACES = Path(__file__).parents[2] / "shared" / "faces"

PACKAGE = '''
import subprocess
from subprocess import Popen
import torch
from torch import nn

class Net(nn.Module):
    """A user's network; `kind` chooses what it returns."""
    def __init__(self, kind="embedding", dim=6):
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(3, dim)
        self.bn = nn.BatchNorm1d(dim)
    def forward(self, x):
        e = self.bn(self.fc(x.mean((2, 3))))
        if self.kind == "tuple":
            return e, e.norm(dim=1)
        if self.kind == "map":
            return x
        if self.kind == "squeezed":
            return e.squeeze()
        if self.kind == "dict":
            return {"e": e}
        if self.kind == "crash":
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return e

def make(dim=6):
    return Net(dim=dim)

def number():
    return 3

value = 3
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "my_pkg" / "nets.py").write_text("from my_pkg import Net\n")
    (tmp_path / "my_pkg" / "broken.py").write_text("import does_not_exist\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "my_pkg"]:
        del sys.modules[name]


def spec(module, **params):
    return ModuleSpec(module=module, params=params)


def sentence(call, *args, error=ConfigError):
    with pytest.raises(error) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".")
    return message


@pytest.mark.parametrize("name", ["model.iresnet.iresnet18", "iresnet18"])
def test_official_and_short_names(name):
    network = BUILDER.backbone(spec(name, dropout=0.4))
    assert isinstance(network, IResNet) and network.dropout.p == 0.4
    assert [len(network.layer1), len(network.layer4)] == [2, 2]


def test_every_listed_backbone_builds():
    with torch.device("meta"):
        for name in BACKBONES:
            network = BUILDER.backbone(spec(name, num_features=64))
            assert network.fc.out_features == 64


HOSTILE = [
    "os.system",
    "subprocess.Popen",
    "torch.hub.load",
    "builtins.eval",
    "model.registry.importlib.import_module",
    "model.weights.torch.load",
    "model.iresnet.nn.Module",
    "model.mlp.MLP",
    "eval",
    "",
    ".",
    "my_pkg.Net",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_yaml_names_nothing_else(name, package):
    assert repr(name) in sentence(BUILDER.backbone, spec(name))
    assert repr(name) in sentence(build_margin, spec(name), 8, 3)
    if name != "model.mlp.MLP":  # a head, but neither a backbone nor a margin
        assert repr(name) in sentence(build_head, spec(name), 8)


def test_error_names_the_nearest_or_the_way_out():
    assert "did you mean model.iresnet.iresnet100" in sentence(BUILDER.backbone, spec("model.iresnet.iresnet101"))
    assert "--allow-module my_nets" in sentence(BUILDER.backbone, spec("my_nets.Mobile"))


def test_wrong_params_are_named():
    assert "iresnet18(fp16=True)" in sentence(BUILDER.backbone, spec("iresnet18", fp16=True))
    assert "dropout" in sentence(BUILDER.backbone, spec("iresnet18", dropout=2.0))


def test_heads_follow_the_embedding():
    head = build_head(spec("model.mlp.MLP", hidden_dim=16), in_dim=128)
    assert isinstance(head, MLP) and head.l1.in_features == 128 and head.l1.out_features == 16
    assert isinstance(build_head(spec("LinearHead"), in_dim=7), LinearHead)
    assert build_head(spec("MLP", in_dim=128), in_dim=128).l1.in_features == 128
    assert "512 given, the backbone has 128" in sentence(build_head, spec("MLP", in_dim=512), 128)


def test_margin_by_name():
    head = build_margin(spec("model.margins.ArcFaceHead", scale=32.0), 16, 5)
    assert isinstance(head, ArcFaceHead) and head.weight.shape == (5, 16) and head.scale == 32 and head.margin == 0.5


def test_embedding_dim_leaves_no_trace():
    network = TinyBackbone(num_features=9, dropout=0.5).train()
    network.bn1.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert embedding_dim(network) == 9
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training and network.dropout.training and not network.bn1.training
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("name", ["my_pkg.Net", "my_pkg.nets.Net", "my_pkg.make"])
def test_an_allowed_package_gives_a_backbone(package, name):
    network = MINE.backbone(spec(name, dim=5))
    assert embedding_dim(network) == 5


def test_a_package_may_reexport_what_its_own_files_define(package, tmp_path):
    (tmp_path / "my_pkg" / "inner.py").write_text("from torch import nn\n\nclass Inner(nn.Flatten):\n    pass\n")
    (tmp_path / "my_pkg" / "shelf.py").write_text("from my_pkg.inner import Inner\n")
    assert type(MINE.backbone(spec("my_pkg.shelf.Inner"))).__module__ == "my_pkg.inner"
    only = NetworkBuilder(AllowedModules(("my_pkg.shelf",)))
    assert "add --allow-module my_pkg" in sentence(only.backbone, spec("my_pkg.shelf.Inner"))
    assert "add --allow-module my_pkg" in sentence(only.backbone, spec("my_pkg.Net"))


def test_a_file_imported_by_its_bare_name_is_the_packages_own(package, tmp_path, monkeypatch):
    """Repositories often put their own folder on the path: my_pkg/net.py then calls itself `net`."""
    (tmp_path / "my_pkg" / "bare_net.py").write_text("from torch import nn\n\nclass Bare(nn.Flatten):\n    pass\n")
    (tmp_path / "my_pkg" / "path.py").write_text("from bare_net import Bare\n")
    monkeypatch.syspath_prepend(str(tmp_path / "my_pkg"))
    monkeypatch.delitem(sys.modules, "bare_net", raising=False)
    assert type(MINE.backbone(spec("my_pkg.path.Bare"))).__module__ == "bare_net"
    (tmp_path / "bare_net_outside.py").write_text("from torch import nn\n\nclass Bare(nn.Flatten):\n    pass\n")
    (tmp_path / "my_pkg" / "outside.py").write_text("from bare_net_outside import Bare\n")
    assert "defined in bare_net_outside; add --allow-module" in sentence(MINE.backbone, spec("my_pkg.outside.Bare"))


def test_of_several_outputs_the_first_is_the_embedding(package):
    network = MINE.backbone(spec("my_pkg.Net", kind="tuple"))
    assert embedding_dim(network) == 6
    assert network(torch.zeros(2, 3, 112, 112)).shape == (2, 6)
    assert next(iter(network.state_dict())) == "fc.weight"  # no wrapper changes the keys


@pytest.mark.parametrize(
    "name, word",
    [
        ("my_pkg.Popen", "defined in subprocess"),
        ("my_pkg.subprocess.Popen", "cannot be imported"),
        ("my_pkg.torch.hub.load", "cannot be imported"),
        ("my_pkg.Missing", "Missing"),
        ("my_pkg.broken.Net", "does_not_exist"),
        ("my_pkg.value", "a int, not"),
        ("my_pkg.number", "not a torch.nn.Module"),
        ("my_pkg", "is not known"),
    ],
)
def test_what_an_allowed_package_must_not_be(package, name, word):
    assert word in sentence(MINE.backbone, spec(name))


@pytest.mark.parametrize(
    "kind, word",
    [("map", "shape (1, 3, 112, 112)"), ("squeezed", "shape (6,)"), ("crash", "mat1 and mat2")],
)
def test_wrong_outputs_are_a_sentence(package, kind, word):
    network = MINE.backbone(spec("my_pkg.Net", kind=kind))
    assert word in sentence(embedding_dim, network)


def config(weights, module="model.compact.CompactNet", **extra):
    params = {"num_features": 16} if module.endswith("CompactNet") else {}
    return ModelConfig(features=NetworkConfig(module=module, weights=weights, params=params), **extra)


def test_random_weights_only_when_allowed(tmp_path):
    assert "base.allow_random_init" in sentence(BUILDER.student, config(None))
    assert RANDOM.student(config(None)).quality_head.l1.in_features == 16
    with pytest.raises(WeightsError):
        RANDOM.student(config(str(tmp_path / "absent.pth")))


def test_student_starts_from_the_weights_of_the_configuration(tmp_path):
    """Defect 2 of the released code: the configured weights were never read."""
    torch.manual_seed(1)
    source = CompactNet(num_features=16)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    student = BUILDER.student(config(str(tmp_path / "w.pth")))
    teacher = BUILDER.pretrained(config(str(tmp_path / "w.pth")).features)
    for network in (student.feature_extractor, teacher):
        assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), source.state_dict().values()))


def test_trained_student_reads_only_its_own_file(tmp_path):
    student = RANDOM.student(config(None))
    torch.save(student.state_dict(), tmp_path / "aikd-best.pth")
    loaded = BUILDER.trained_student(config("no/such/file.pth"), str(tmp_path / "aikd-best.pth"))
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), student.state_dict().values()))
    assert next(iter(loaded.state_dict())) == "feature_extractor.conv1.weight"


def test_only_the_official_wrapper():
    other = config(None, wrapper=ModuleSpec(module="os.system"))
    assert "model.wrapper.module: 'os.system'" in sentence(RANDOM.student, other)


@pytest.mark.skipif(not FACES.is_dir(), reason="needs ../shared/faces")
def test_a_real_network_of_a_user(monkeypatch):
    monkeypatch.syspath_prepend(str(FACES))
    name = "mobilefacenet_y1.MobileFaceNetY1"
    features = NetworkConfig(module=name, weights=str(FACES / "mobilefacenet_y1.pth"))
    own = NetworkBuilder(AllowedModules(("mobilefacenet_y1",)))
    network = own.pretrained(features)
    assert embedding_dim(network) == 128
    student = own.student(ModelConfig(features=features))
    assert student.quality_head.l1.in_features == 128
    assert "--allow-module mobilefacenet_y1" in sentence(BUILDER.backbone, features)
